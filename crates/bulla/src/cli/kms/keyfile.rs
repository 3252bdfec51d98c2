//! `bulla kms keyfile`: key files are made, shown and changed.
//!
//! Threat: a change that loses keys, because somebody changed the file meanwhile, or because what was written does not
//! open again; then everything that lies under the keys is lost. So a changed file is opened by who changed it, and
//! compared, before it takes the place of the one before.

mod node;

use super::identity::Opens;
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs, time};
use crate::session::{Session, moment, now_ms};
use bulla_client::{FileOutput, Output as _};
use bulla_crypto::envelope::OpenError;
use bulla_crypto::random::SystemRng;
use bulla_kms::keyfile::{Kek, KeyFile, KeyFileError, MAX_FILE_BYTES, NodeName};
use bulla_wire::encoding::base32;
use clap::Subcommand;
use rustix::fs::FlockOperation;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Nothing in it is readable without a key, and the plugin may run as another user.
const MODE: u32 = 0o644;
/// Rights to write that others may not have: what lies there is believed.
const FORBIDDEN: u32 = 0o022;

/// What is done with key files.
#[derive(Debug, Subcommand)]
pub enum Keyfile {
    /// Make one with a first key, encrypted to these nodes
    Create {
        /// The file to make
        file: PathBuf,
        /// A node, and what is encrypted to for it: age1…, or the record that `bulla keygen` wrote (.pub)
        #[arg(long = "node", value_name = "NAME=RECIPIENT", required = true)]
        nodes: Vec<String>,
    },
    /// Show nodes and keys, the keys without their values
    Show {
        /// The key file
        file: PathBuf,
        #[command(flatten)]
        opens: Opens,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Encrypt it to more nodes
    Enrol {
        /// The key file
        file: PathBuf,
        /// A node, and what is encrypted to for it: age1…, or the record that `bulla keygen` wrote (.pub)
        #[arg(long = "node", value_name = "NAME=RECIPIENT", required = true)]
        nodes: Vec<String>,
        #[command(flatten)]
        opens: Opens,
    },
    /// Encrypt it no more to a node, which still knows the keys that there are
    Remove {
        /// The key file
        file: PathBuf,
        /// The node
        name: NodeName,
        #[command(flatten)]
        opens: Opens,
    },
    /// Add a key by which all nodes encrypt from a certain time on
    Rotate {
        /// The key file
        file: PathBuf,
        /// When: from now, or at an RFC 3339 time. Until then the file has to be on all nodes
        #[arg(long, value_name = "TIME", value_parser = moment, default_value = "1h")]
        begins: u64,
        #[command(flatten)]
        opens: Opens,
    },
    /// Drop old keys: what is encrypted by them is lost
    Drop {
        /// The key file
        file: PathBuf,
        /// The first key that stays
        #[arg(long, value_name = "KEY")]
        before: NonZeroU32,
        #[command(flatten)]
        opens: Opens,
    },
}

pub async fn run(verb: Keyfile, session: &Session<'_>) -> Result<Exit, Failure> {
    match verb {
        Keyfile::Create { file, nodes } => create(&file, &nodes, session),
        Keyfile::Show { file, opens, format } => show(&file, &opens, format, session).await,
        Keyfile::Enrol { file, nodes, opens } => {
            let nodes = node::all(&nodes)?;
            let edit = |keys: &mut KeyFile| nodes.iter().try_for_each(|node| keys.enrol(node.clone()));
            change(&file, &opens, session, edit).await?;
            let shown: Vec<_> = nodes.iter().map(node::row).collect();
            session.screen.table(&node::HEADINGS, &shown)?;
            session.screen.hint(&format!("copy {} to every node", file.display()));
            Ok(Exit::Ok)
        }
        Keyfile::Remove { file, name, opens } => {
            change(&file, &opens, session, |keys| keys.remove(&name)).await?;
            session.screen.hint(&format!(
                "{} knows the keys that there are: rotate, and copy the file to every node",
                name.as_str()
            ));
            session
                .screen
                .hint("have everything encrypted anew when the next key has begun, then drop those before it");
            Ok(Exit::Ok)
        }
        Keyfile::Rotate { file, begins, opens } => {
            let edit = |keys: &mut KeyFile| {
                let now = now();
                // What begins at once begins no earlier than the key is made, a moment later.
                keys.rotate(now, (begins / 1000).max(now), &mut SystemRng).map(drop)
            };
            let keys = change(&file, &opens, session, edit).await?;
            let Some(made) = keys.keys().last() else { return Ok(Exit::Ok) };
            let begins = time(made.begins.saturating_mul(1000));
            session.screen.pairs(&[("key", made.number.to_string()), ("begins", begins.clone())])?;
            session.screen.hint(&if made.begins <= now() {
                format!(
                    "copy {} to every node at once: one without it decrypts nothing that others encrypt now",
                    file.display()
                )
            } else {
                format!("copy {} to every node before {begins}", file.display())
            });
            Ok(Exit::Ok)
        }
        Keyfile::Drop { file, before, opens } => {
            let mut dropped = 0;
            let edit = |keys: &mut KeyFile| {
                let count = keys.keys().len();
                keys.drop_before(before, now())?;
                dropped = count.saturating_sub(keys.keys().len());
                Ok(())
            };
            let keys = change(&file, &opens, session, edit).await?;
            let kept: Vec<_> = keys.keys().iter().map(|kek| kek.number.to_string()).collect();
            session.screen.pairs(&[("dropped", dropped.to_string()), ("kept", kept.join(" "))])?;
            session.screen.hint(&format!("copy {} to every node", file.display()));
            Ok(Exit::Ok)
        }
    }
}

/// Unix seconds.
fn now() -> u64 {
    now_ms() / 1000
}

fn create(file: &Path, nodes: &[String], session: &Session<'_>) -> Result<Exit, Failure> {
    let nodes = node::all(nodes)?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Conflict, format!("{} exists, and nothing is overwritten", file.display()))
                .hint("choose another file; `bulla kms keyfile enrol` adds nodes to the one that is there")
        }
        _ => Failure::file("cannot write", file, &error),
    };
    let rows: Vec<_> = nodes.iter().map(node::row).collect();
    let keys = KeyFile::create(nodes, now(), &mut SystemRng).map_err(|error| failure(file, &error))?;
    let sealed = keys.seal().map_err(|error| failure(file, &error))?;
    let mut output = FileOutput::create(file).and_then(|output| output.mode(MODE)).map_err(failed)?;
    output.write_all(&sealed).and_then(|()| output.commit()).map_err(failed)?;
    session.screen.pairs(&[("id", keys.id().to_string())])?;
    session.screen.table(&node::HEADINGS, &rows)?;
    session.screen.hint(&format!("copy {} to every node", file.display()));
    session
        .screen
        .hint("keep a copy, and among its nodes one whose identity lies in a safe: without it etcd may be lost");
    Ok(Exit::Ok)
}

/// Changes the file that lies there, and gives what lies there then.
async fn change(
    file: &Path,
    opens: &Opens,
    session: &Session<'_>,
    edit: impl FnOnce(&mut KeyFile) -> Result<(), KeyFileError>,
) -> Result<KeyFile, Failure> {
    // The file itself is replaced, and no link to it.
    let path = fs::canonicalize(file).map_err(|error| Failure::file("cannot read", file, &error))?;
    let before = read(&path)?;
    let decrypter = opens.decrypter(session).await?;
    let mut keys = KeyFile::open(&before, &*decrypter).await.map_err(|error| failure(file, &error))?;
    let count = keys.keys().len();
    let nodes = keys.nodes().to_vec();
    edit(&mut keys).map_err(|error| failure(file, &error))?;
    if keys.keys().len() == count && keys.nodes() == nodes {
        return Err(Failure::new(Exit::NotFound, format!("{} is so already, and was not changed", file.display()))
            .hint("`bulla kms keyfile show` tells its nodes and keys"));
    }
    let sealed = keys.seal().map_err(|error| failure(file, &error))?;
    let again = KeyFile::open(&sealed, &*decrypter).await.map_err(|error| match error {
        KeyFileError::Open(OpenError::NoMatch) => {
            Failure::new(Exit::Conflict, format!("afterwards this identity would not open {}", file.display()))
                .hint("a node is removed with the identity of another one")
        }
        error => failure(file, &error),
    })?;
    again.continues(&keys).map_err(|error| failure(file, &error))?;
    if again.nodes() != keys.nodes() || again.keys().len() != keys.keys().len() {
        return Err(Failure::new(Exit::Failed, "what was encrypted opens as something else, so it was not written")
            .hint("the file is as it was; report this"));
    }
    put(file, &path, &before, &sealed)?;
    Ok(again)
}

/// Puts a changed file in the place of what was read of it. Not if it is another one meanwhile: a key that somebody else added
/// would be lost. `file` is what people call it.
fn put(file: &Path, path: &Path, before: &[u8], sealed: &[u8]) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("cannot write", file, &error);
    // Whoever changes it at the same moment waits here, and then finds another file.
    let there = File::open(path).map_err(failed)?;
    rustix::fs::flock(&there, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    if read(path)? != before {
        return Err(Failure::new(Exit::Conflict, format!("somebody changed {} meanwhile", file.display()))
            .hint("run it again: it begins with what lies there now"));
    }
    let written = FileOutput::replacing(path).and_then(|output| output.mode(MODE)).and_then(|mut output| {
        output.write_all(sealed)?;
        output.commit()
    });
    written.map_err(failed)
}

/// A key file as it lies there.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::file("cannot read", path, &error);
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & FORBIDDEN != 0 {
        let text = format!("{} has mode {mode:04o}, so others may write it", path.display());
        return Err(Failure::new(Exit::Failed, text)
            .hint(format!("see whether it is what you made, then chmod {:04o}", mode & !FORBIDDEN)));
    }
    let mut bytes = Vec::new();
    // One byte more, so that a larger file is none.
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// What came of a key file.
fn failure(file: &Path, error: &KeyFileError) -> Failure {
    const SHOW: &str = "`bulla kms keyfile show` tells its nodes and keys, and which key is in use";
    let (exit, hint) = match error {
        KeyFileError::Open(OpenError::NoMatch) => {
            let text = format!("{} is not encrypted to this identity", file.display());
            return Failure::new(Exit::Failed, text)
                .hint("name the identity of a node that is in it with --identity; who opens it can enrol this one");
        }
        KeyFileError::Open(OpenError::Key(_)) => {
            (Exit::Failed, "check the token or the plugin of the key that --identity names")
        }
        KeyFileError::Open(_) | KeyFileError::Line { .. } | KeyFileError::TooLarge | KeyFileError::Another(_) => {
            (Exit::Failed, "name a file of `bulla kms keyfile create`; if it was damaged, every other node has it too")
        }
        KeyFileError::Seal(_) => (Exit::Failed, "the file is as it was; check the recipients that --node names"),
        KeyFileError::Name => (Exit::Usage, "give --node NAME=RECIPIENT, such as --node cp1=cp1.pub"),
        KeyFileError::Node(_) => (
            Exit::Conflict,
            "give each node a name and a recipient of its own; `bulla kms keyfile show` tells those that are there",
        ),
        KeyFileError::NoNode => (Exit::NotFound, SHOW),
        KeyFileError::Last | KeyFileError::InUse => (Exit::Conflict, SHOW),
        KeyFileError::TooManyKeys => (Exit::Conflict, "`bulla kms keyfile drop` drops them"),
        KeyFileError::Time => (
            Exit::Conflict,
            "`bulla kms keyfile show` tells when the last key begins; give --begins a later time, and check this machine's clock",
        ),
    };
    Failure::new(exit, format!("{}: {error}", file.display())).hint(hint)
}

#[derive(Serialize)]
struct Shown {
    id: String,
    nodes: Vec<node::Shown>,
    keys: Vec<ShownKey>,
}

#[derive(Serialize)]
struct ShownKey {
    number: u32,
    created_ms: u64,
    begins_ms: u64,
    state: &'static str,
    check: String,
}

async fn show(file: &Path, opens: &Opens, format: FormatArgs, session: &Session<'_>) -> Result<Exit, Failure> {
    let bytes = read(file)?;
    let decrypter = opens.decrypter(session).await?;
    let keys = KeyFile::open(&bytes, &*decrypter).await.map_err(|error| failure(file, &error))?;
    let active = keys.active(now()).map(|kek| kek.number);
    let of = |kek: &Kek| ShownKey {
        number: kek.number.get(),
        created_ms: kek.created.saturating_mul(1000),
        begins_ms: kek.begins.saturating_mul(1000),
        state: match active {
            Some(number) if number == kek.number => "active",
            Some(number) if number > kek.number => "decrypts",
            _ => "waits",
        },
        check: base32(&kek.check(keys.id())),
    };
    let shown: Vec<ShownKey> = keys.keys().iter().map(of).collect();
    if format.format == Format::Json {
        let nodes = keys.nodes().iter().map(node::shown).collect();
        return session.screen.json(&Shown { id: keys.id().to_string(), nodes, keys: shown }).map(|()| Exit::Ok);
    }
    let row = |key: &ShownKey| {
        let (created, begins) = (time(key.created_ms), time(key.begins_ms));
        vec![key.number.to_string(), created, begins, key.state.to_owned(), key.check.clone()]
    };
    session.screen.pairs(&[("id", keys.id().to_string())])?;
    session.screen.table(&node::HEADINGS, &keys.nodes().iter().map(node::row).collect::<Vec<_>>())?;
    let rows: Vec<_> = shown.iter().map(row).collect();
    session.screen.table(&["KEY", "CREATED", "BEGINS", "STATE", "CHECK"], &rows)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    /// Of two who change one file at once the later one waits, is told, and takes no key away.
    #[test]
    fn of_two_who_change_a_file_at_once_the_later_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.age");
        fs::write(&path, "as it was read").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(MODE)).unwrap();
        let first = File::open(&path).unwrap();
        rustix::fs::flock(&first, FlockOperation::LockExclusive).unwrap();
        let own = path.clone();
        let second = std::thread::spawn(move || put(&own, &own, b"as it was read", b"mine").map_err(|told| told.exit));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!second.is_finished(), "it waits for whoever was first");
        let mut theirs = FileOutput::replacing(&path).and_then(|output| output.mode(MODE)).unwrap();
        theirs.write_all(b"theirs").and_then(|()| theirs.commit()).unwrap();
        drop(first);
        assert_eq!(second.join().unwrap(), Err(Exit::Conflict));
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        put(&path, &path, b"theirs", b"mine").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
