//! `bulla kms doctor`: what is seen of a node's plugin. What it means is said in `kms/src/checkup.rs`.

use super::super::doctor::{Check, Verdict, show};
use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::output::FormatArgs;
use crate::session::Session;
use bulla_kms::checkup::loops::{self, Cidr, Network};
use bulla_kms::checkup::{self, Owned, SeenMember, SeenSocket};
use bulla_kms::config::{Config, Written};
use bulla_kms::finding::{self, Finding};
use bulla_kms::kubernetes::encryption::Encryption;
use bulla_kms::kubernetes::{judge, yaml};
use bulla_kms::plugin::Plugin;
use bulla_kms::socket::Place;
use bulla_kms::{ask, member};
use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where the package's systemd unit has the socket.
const PACKAGED: &str = "/run/bulla-kms/kms.sock";
/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(3);
const PORT: u16 = 443;

/// Find what is wrong with a node's plugin and with its place in kube-apiserver
///
/// Looks at the configuration, the socket and who answers there, every member as `verify` does, credentials that end
/// soon, members that are behind the very cluster they unlock, and kube-apiserver's EncryptionConfiguration. Ends with 1
/// if a check failed. Nothing is changed. Run it as the plugin's user or as root.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The EncryptionConfiguration of kube-apiserver
    #[arg(long, value_name = "FILE")]
    encryption_config: Option<PathBuf>,
    /// A range of the cluster's Services, as in kube-apiserver's --service-cluster-ip-range
    #[arg(long, value_name = "RANGE")]
    service_cidr: Vec<Cidr>,
    /// The end of names in the cluster's DNS
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    cluster_domain: String,
    #[command(flatten)]
    format: FormatArgs,
}

impl From<Finding> for Check {
    fn from(finding: Finding) -> Self {
        let verdict = match finding.verdict {
            finding::Verdict::Ok => Verdict::Ok,
            finding::Verdict::Warn => Verdict::Warn,
            finding::Verdict::Fail => Verdict::Fail,
        };
        Self { name: finding.name, verdict, found: finding.found, hint: finding.hint }
    }
}

pub async fn run(args: Doctor, path: &Path, session: &Session<'_>) -> Result<Exit, Failure> {
    let Doctor { encryption_config, service_cidr, cluster_domain, format } = args;
    let mut findings = Vec::new();
    let tree = tree(path);
    let network = Network { services: service_cidr, domain: cluster_domain };
    if let Ok(tree) = &tree {
        findings.extend(loops::judge(tree, &network, &resolved(tree).await));
    }
    let mut place = packaged();
    let config = tree.and_then(|_| configured(path));
    match config {
        Err(failure) => {
            let hint = "`bulla kms sample` prints a file with every key";
            findings.insert(0, Finding::fail("configuration", failure.message, hint));
        }
        Ok(config) => {
            let found = format!("{} can be used", path.display());
            findings.insert(0, Finding::ok("configuration", found));
            place = config.socket.clone().or(place);
            node(config, place.as_ref(), &mut findings).await;
        }
    }
    if let Some((path, place)) = encryption_config.as_deref().zip(place.as_ref()) {
        let text = input::text(path, Limit::YAML)?;
        findings.extend(judge::judge(&yaml::parse(&text).and_then(|tree| Encryption::read(&tree)), place));
    }
    let checks: Vec<Check> = findings.into_iter().map(Check::from).collect();
    show(&checks, format, session)
}

fn packaged() -> Option<Place> {
    PACKAGED.parse().ok()
}

/// The configuration as a tree: names and places, before anything is opened.
pub fn tree(path: &Path) -> Result<Value, Failure> {
    let parsed = toml::from_str(&input::text(path, Limit::YAML)?);
    parsed.map_err(|error: toml::de::Error| {
        Failure::usage(format!("{}: {}", path.display(), error.message()))
            .hint("`bulla kms sample` prints a file with every key")
    })
}

fn configured(path: &Path) -> Result<Config, Failure> {
    let written: Result<Written, toml::de::Error> = toml::from_str(&input::text(path, Limit::YAML)?);
    let written = written.map_err(|error| Failure::usage(error.message().to_owned()))?;
    Config::new(written.without_memory()).map_err(|error| Failure::usage(error.to_string()))
}

/// What names of members resolve to here; a name that does not is told by its member.
async fn resolved(tree: &Value) -> BTreeMap<String, Vec<IpAddr>> {
    let mut found = BTreeMap::new();
    for (_, host) in loops::hosts(tree) {
        if found.contains_key(&host) {
            continue;
        }
        let looked = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host.as_str(), PORT))).await;
        let addresses = looked.ok().and_then(Result::ok).map(|all| all.map(|address| address.ip()).collect());
        found.insert(host, addresses.unwrap_or_default());
    }
    found
}

async fn node(mut config: Config, place: Option<&Place>, findings: &mut Vec<Finding>) {
    // Nothing is written by a look.
    let state = config.plugin.state.take().map(|state| state.path().to_owned());
    let plugin = Plugin::new(config.plugin);
    let answered = match place {
        Some(place) => Some(ask::status(place).await),
        None => None,
    };
    plugin.look_once().await;
    let published = plugin.published();
    if let Some(place) = place {
        let socket = socket(place);
        findings.push(checkup::socket(place, &config.access, &socket));
        findings.push(checkup::folder(&above(place), &own_users(&socket)));
    }
    let own = published.as_deref().map(|snapshot| &snapshot.key_id);
    findings.extend(answered.map(|answered| checkup::answers(&answered, own)));
    let now = SystemTime::now();
    for member in plugin.members() {
        findings.extend(checkup::member(&seen(member), now));
    }
    findings.push(checkup::key_id(published.as_deref().map(|snapshot| (&snapshot.key_id, snapshot.whole))));
    for (name, file, replaced) in [("state", state, true), ("audit", config.audit, false)] {
        let seen = file.map(|file| (file.display().to_string(), writable(&file, replaced)));
        findings.push(checkup::written(name, seen.as_ref().map(|(file, writable)| (file.as_str(), *writable))));
    }
}

fn seen(member: &member::Member) -> SeenMember {
    SeenMember {
        name: member.name().to_owned(),
        kind: member.kind(),
        key: member.standing().key.map(|key| format!("{} ({})", key.version, key.digest())),
        error: member.error(),
        ends: member.credential_ends(),
        renewed: member.is_credential_renewed(),
        period: member.period(),
        unopened: member.is_unopened(),
    }
}

fn owned(found: &fs::Metadata) -> Owned {
    Owned { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() }
}

fn socket(place: &Place) -> SeenSocket {
    match place {
        Place::Abstract(_) => SeenSocket::Abstract,
        Place::Path(path) => match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => SeenSocket::File(owned(&found)),
            Ok(_) => SeenSocket::Other,
            Err(_) => SeenSocket::Absent,
        },
    }
}

/// Whose folders are the plugin's own: this user's, and those of whoever made the socket.
fn own_users(socket: &SeenSocket) -> Vec<u32> {
    let mut users = vec![rustix::process::geteuid().as_raw()];
    if let SeenSocket::File(owned) = socket {
        users.push(owned.uid);
    }
    users
}

fn above(place: &Place) -> Vec<(PathBuf, Owned)> {
    let Place::Path(path) = place else { return Vec::new() };
    let folders = path.ancestors().skip(1);
    folders.filter_map(|folder| Some((folder.to_owned(), owned(&fs::metadata(folder).ok()?)))).collect()
}

/// Whether this user may write a file, or make it. One that is replaced needs its folder.
fn writable(file: &Path, replaced: bool) -> bool {
    use rustix::fs::{Access, access};
    let folder = || file.parent().is_some_and(|folder| access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok());
    if file.exists() && !replaced { access(file, Access::WRITE_OK).is_ok() } else { folder() }
}
