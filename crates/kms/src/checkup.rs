//! Whether a node's plugin is as it should be: what was seen goes in, findings come out.

pub mod loops;

use crate::ask::Answered;
use crate::finding::Finding;
use crate::key::KeyId;
use crate::provider::{Kind, ProviderError};
use crate::socket::{Access, Place, writers};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// One that somebody else has to replace needs attention so long before.
const SOON_BY_HAND: Duration = Duration::from_secs(14 * 24 * 3600);

/// A file or a folder as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Mode, without the kind.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The place of the socket as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeenSocket {
    /// Nothing is there.
    Absent,
    /// Something else is there.
    Other,
    /// A name without a file.
    Abstract,
    /// A socket.
    File(Owned),
}

/// The socket's file and who may connect.
pub fn socket(place: &Place, access: &Access, seen: &SeenSocket) -> Finding {
    let name = "socket";
    match seen {
        SeenSocket::Absent => Finding::fail(
            name,
            format!("nothing is at {place}"),
            "start the plugin: `systemctl enable --now bulla-kms.socket`, before the kubelet",
        ),
        SeenSocket::Other => {
            Finding::fail(name, format!("{place} is no socket"), "remove it, or name another path in socket.path")
        }
        SeenSocket::Abstract => Finding::warn(
            name,
            format!("{place} has no file and so no mode: socket.allow_uids alone decides who connects"),
            "use a path from Kubernetes 1.32 on",
        ),
        SeenSocket::File(owned) if owned.mode & 0o007 != 0 => Finding::fail(
            name,
            format!("{place} has mode {:04o}: everybody on this node may have Secrets decrypted", owned.mode),
            format!("set SocketMode= of the systemd unit, or socket.mode, to {:04o}, and restart it", access.mode),
        ),
        SeenSocket::File(owned) if owned.mode & 0o077 != access.mode & 0o077 => Finding::warn(
            name,
            format!("{place} has mode {:04o}, and the configuration says {:04o}", owned.mode, access.mode),
            "make SocketMode= of the systemd unit and socket.mode the same",
        ),
        SeenSocket::File(owned) => Finding::ok(
            name,
            format!("{place}, mode {:04o}, of user {} and group {}", owned.mode, owned.uid, owned.gid),
        ),
    }
}

/// The folders above the socket, the nearest first, and the users who may own them: the plugin's. Root always may.
pub fn folder(above: &[(PathBuf, Owned)], own: &[u32]) -> Finding {
    let name = "folder";
    for (path, owned) in above {
        let path = path.display();
        // In a folder with the sticky bit nobody replaces another's entries.
        if let Some(who) = writers(owned.mode).filter(|_| owned.mode & 0o1000 == 0) {
            let (mode, gid) = (owned.mode, owned.gid);
            let found =
                format!("{who} may write into {path} (mode {mode:04o}, group {gid}), and so replace the socket");
            return Finding::fail(name, found, format!("chmod go-w {path}"));
        }
        if owned.uid != 0 && !own.contains(&owned.uid) {
            let found = format!(
                "user {} owns {path}: unless the plugin runs as that user, it may replace the socket",
                owned.uid
            );
            return Finding::warn(name, found, format!("chown {path} to the plugin's user, or to root"));
        }
    }
    match above.first().map(|(path, owned)| (path, owned, writers(owned.mode))) {
        None => Finding::ok(name, "none: the socket has no file"),
        Some((path, _, Some(who))) => Finding::fail(
            name,
            format!("{who} may make files in {}, and so a socket before the plugin does", path.display()),
            "put the socket into a folder of its own, such as /run/bulla-kms",
        ),
        Some((path, owned, None)) if owned.mode & 0o005 != 0 => Finding::warn(
            name,
            format!("everybody may look into {} (mode {:04o})", path.display(), owned.mode),
            format!("chmod o= {}; RuntimeDirectoryMode=0750 in the systemd unit", path.display()),
        ),
        Some((path, owned, None)) => Finding::ok(name, format!("{}, mode {:04o}", path.display(), owned.mode)),
    }
}

/// Who answers at the socket; `own` is the key id of this configuration.
pub fn answers(answered: &Answered, own: Option<&KeyId>) -> Finding {
    let name = "answers";
    let log = "look into the plugin's log: `journalctl -u bulla-kms`";
    match answered {
        Answered::Nobody => Finding::fail(name, "nobody accepts connections", "start the plugin: `bulla kms serve`"),
        Answered::Forbidden => {
            Finding::warn(name, "this user may not connect, so who answers is not known", "run it as root")
        }
        Answered::HungUp => Finding::warn(
            name,
            "somebody accepts and hangs up: the user is not in socket.allow_uids, or it is no KMS v2 plugin",
            "run it as a user of socket.allow_uids",
        ),
        Answered::Silent => Finding::fail(name, "somebody accepts and does not answer in 3 s", log),
        Answered::Refused(code) => {
            Finding::fail(name, format!("a plugin answers with {code}, so nothing is written"), log)
        }
        Answered::Status { healthz, .. } if healthz != "ok" => Finding::fail(
            name,
            "a plugin says of itself that it is not well",
            "it is not this program; look at its log",
        ),
        Answered::Status { key_id, .. } => match (key_id.parse::<KeyId>(), own) {
            (Err(_), _) => Finding::fail(
                name,
                "another plugin holds the socket: its key id is none of this program",
                "stop it, or name another path in socket.path",
            ),
            (Ok(told), Some(own)) if told == *own => Finding::ok(name, format!("this plugin, with key id {told}")),
            (Ok(told), Some(own)) => Finding::warn(
                name,
                format!("key id {told} ({}), and this configuration makes {own}", told.hash()),
                "wait promote_delay_s after a rotation; else restart the plugin, which runs with another configuration",
            ),
            (Ok(told), None) => Finding::ok(name, format!("a plugin of this program, with key id {told}")),
        },
    }
}

/// A member as it was found.
#[derive(Debug, Clone)]
pub struct SeenMember {
    /// Its name.
    pub name: String,
    /// What is behind it.
    pub kind: Kind,
    /// The version and the digest of its key.
    pub key: Option<String>,
    /// Why it does not wrap and unwrap.
    pub error: Option<ProviderError>,
    /// When its credential ends.
    pub ends: Option<SystemTime>,
    /// Whether the plugin renews the credential by itself.
    pub renewed: bool,
    /// How long after a look at it there is the next one, which renews.
    pub period: Duration,
    /// Whether it could not be opened at all.
    pub unopened: bool,
}

/// A member, and its credential if that ends soon.
pub fn member(seen: &SeenMember, now: SystemTime) -> Vec<Finding> {
    let SeenMember { name, kind, key, error, ends, renewed, period, unopened } = seen;
    let mut findings = vec![match (error, key) {
        (Some(error), _) if *unopened => Finding::fail(
            "member",
            format!("{name} ({kind}): not opened: {error}"),
            format!("mend what is named in members.{name}; a plugin that runs opens it by itself once it is there"),
        ),
        (Some(error), _) => Finding::fail(
            "member",
            format!("{name} ({kind}): {}: {error}", error.class),
            format!("mend what is named; members.{name} in the configuration says where it is"),
        ),
        (None, None) => Finding::fail(
            "member",
            format!("{name} ({kind}): no key is in use yet"),
            "wait promote_delay_s after the key was made, then look again",
        ),
        (None, Some(key)) => Finding::ok("member", format!("{name} ({kind}): wraps and unwraps by version {key}")),
    }];
    if let Some(ends) = ends {
        let left = ends.duration_since(now).unwrap_or_default();
        // It was obtained or renewed just now, so it is long enough if a look comes before half of it is over.
        let soon = if *renewed { period.saturating_mul(2) } else { SOON_BY_HAND };
        if left < soon {
            let at = humantime::format_rfc3339_seconds(*ends);
            let hint = if *renewed {
                "the plugin renews it, and may come too late: have what issues it give it more time, or lower timing.period_s"
            } else {
                "have a token made that is periodic, or log in by certificate, JWT or AppRole, which the plugin renews; if another \
                 program replaces its file in time, this is as it should be"
            };
            findings.push(Finding::warn("credential", format!("that of {name} ends at {at}"), hint));
        }
    }
    findings
}

/// What kube-apiserver is told.
pub fn key_id(own: Option<(&KeyId, bool)>) -> Finding {
    match own {
        None => Finding::fail("key id", "too few members wrap for one", "mend the members that are not well"),
        Some((id, true)) => Finding::ok("key id", format!("{id}, hash {}", id.hash())),
        Some((id, false)) => Finding::warn(
            "key id",
            format!("{id}, hash {}, without the members that are not well", id.hash()),
            "mend them, and rewrite what is written meanwhile",
        ),
    }
}

/// A file that the plugin writes, if the configuration names one. `writable` says whether this user may write it or, where
/// it is not there, make it.
pub fn written(name: &'static str, file: Option<(&str, bool)>) -> Finding {
    match file {
        Some((path, true)) => Finding::ok(name, format!("{path} can be written")),
        Some((path, false)) => Finding::fail(
            name,
            format!("{path} cannot be written by this user"),
            "make its folder and give it to the plugin's user; run this check as that user",
        ),
        None if name == "state" => Finding::warn(
            name,
            "none is kept: a backend that goes back to an older key is not noticed after a restart",
            "set state to a file such as /var/lib/bulla-kms/state.json",
        ),
        None => Finding::warn(name, "no file is named, so nobody learns which seeds were decrypted", "set audit.file"),
    }
}

#[cfg(test)]
mod tests;
