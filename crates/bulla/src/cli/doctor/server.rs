//! What can be seen on a server's machine. Nothing is made, changed or locked.

use super::super::server::unfit;
use super::{Check, judge, machine};
use crate::exit::Failure;
use crate::session::now_ms;
use bulla_client::certificate::Certificate;
use bulla_server::check::parts;
use bulla_server::config::{AuditTarget, Config, StoreKind};
use bulla_server::run::STORE_FILE;
use bulla_server::sink::{self, Expectations, Report, can_be_read_again};
use machine::{Seen, Space};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How many files of a data directory are looked at: a log has one for each 256 MiB.
const FILES: usize = 10_000;

pub fn checks(config: &Config) -> Vec<Check> {
    let mut checks: Vec<Check> = parts(config, now_ms())
        .iter()
        .map(|(name, outcome)| {
            machine::part(name, outcome.as_ref().err().map(|error| unfit(error, "a start would fail")))
        })
        .collect();
    let data = config.data.as_deref();
    checks.extend(data.and_then(owners));
    let log = audit(config);
    checks.extend(data.filter(|_| config.store == StoreKind::File).map(|data| {
        let there = |name: &str| data.join(name).exists();
        // A log that goes elsewhere is nobody's to miss.
        let audit = log.is_none_or(holds_lines);
        machine::left(data, machine::Left { store: there(STORE_FILE), key: there("node.key"), audit })
    }));
    let places = [("data disk", data), ("audit disk", log)];
    checks.extend(places.into_iter().filter_map(|(name, path)| Some(machine::space(name, &space(path?)))));
    checks.push(machine::audit(log.map(verified)));
    checks.extend(ends(config));
    checks.push(machine::swap(std::fs::read_to_string("/proc/swaps").ok().as_deref()));
    checks
}

/// Where the log can be read again; none if it goes to standard output or a pipe.
fn audit(config: &Config) -> Option<&Path> {
    match &config.audit.target {
        AuditTarget::Directory(path) => Some(path),
        AuditTarget::File(path) if !path.exists() || can_be_read_again(path) => Some(path),
        AuditTarget::File(_) | AuditTarget::Stdout => None,
    }
}

/// Whether a log was begun there: a file, or a file in the directory.
fn holds_lines(path: &Path) -> bool {
    path.is_file() || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

fn owners(data: &Path) -> Option<Check> {
    let owner = std::fs::metadata(data).ok()?.uid();
    let mut files = Vec::new();
    let gone = walk(data, &mut files).err();
    Some(machine::owners(data, owner, &files, gone.as_ref()))
}

fn walk(folder: &Path, files: &mut Vec<Seen>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let found = match std::fs::symlink_metadata(&path) {
            Ok(found) => found,
            // A running server renames and removes files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if files.len() >= FILES {
            return Ok(());
        }
        if found.is_dir() {
            walk(&path, files)?;
        }
        files.push(Seen { path, owner: found.uid() });
    }
    Ok(())
}

/// The room on the disk of a path, or of the nearest folder above it that is there.
fn space(path: &Path) -> io::Result<Space> {
    let whole = std::path::absolute(path)?;
    let there: PathBuf = whole.ancestors().find(|path| path.exists()).unwrap_or(&whole).to_owned();
    let found = rustix::fs::statvfs(&there)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Space { path: there, free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
}

/// A server that writes meanwhile may be within its last line, so what is cut is looked at again.
fn verified(path: &Path) -> io::Result<Report> {
    let verify = || sink::verify(path, Expectations::default());
    let report = verify()?;
    if report.is_sound() { Ok(report) } else { verify() }
}

/// When the operator's certificate ends, and the node's own.
fn ends(config: &Config) -> Option<Check> {
    let path = match (&config.tls.files, &config.data) {
        (Some(files), _) => files.cert.clone(),
        (None, Some(data)) => Some(data.join(bulla_server::tls::OWN_FILE)).filter(|path| path.exists())?,
        (None, None) => return None,
    };
    Some(match Certificate::read(&path) {
        // The server's own first; each of a chain counts, and the one that ends first is told.
        Ok(chain) => {
            let first = chain.iter().min_by_key(|certificate| certificate.ends_ms.unwrap_or(u64::MAX))?;
            judge::certificate("certificate end", first, now_ms())
        }
        Err(error) => Check::failed("certificate end", &Failure::from(error)),
    })
}
