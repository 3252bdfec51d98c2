//! One line for every seed that is encrypted or decrypted: for which request of kube-apiserver, of which process, by
//! which members, and what came of it. Keys are named by the hash that kube-apiserver shows; nothing encrypted stands there.
//!
//! A line that cannot be written refuses nothing: a full disk would otherwise take the cluster's secrets away. It is
//! counted and logged.

use crate::key::KeyId;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// As much as is written of a text that a caller chose, in characters. A uid of kube-apiserver has 36.
const MAX_CHARS: usize = 64;

/// Who is on the other end of the socket, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process, if the kernel knows it: of another namespace it may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A seed was to be encrypted.
    Encrypt,
    /// A seed was to be decrypted.
    Decrypt,
}

impl Operation {
    /// The method's name in gRPC.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
        }
    }
}

/// A line before it is written.
#[derive(Debug)]
pub struct Line<'a> {
    /// What kube-apiserver's log calls the request.
    pub uid: &'a str,
    /// Who asked.
    pub peer: Peer,
    /// For what.
    pub operation: Operation,
    /// Of which key id; empty if there is none.
    pub key_id: &'a str,
    /// Who did it.
    pub members: &'a [String],
    /// `ok`, or the class of the failure.
    pub outcome: &'static str,
    /// How long it took.
    pub took: Duration,
}

#[derive(Serialize)]
struct Written<'a> {
    time_ms: u64,
    uid: String,
    peer: Peer,
    operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id_hash: Option<String>,
    members: &'a [String],
    outcome: &'static str,
    took_us: u64,
}

/// Where lines go.
#[derive(Debug)]
pub struct Audit(Option<Mutex<Place>>);

#[derive(Debug)]
struct Place {
    file: File,
    /// A write failed: half a line may stand at its end.
    torn: bool,
}

impl Audit {
    /// Nowhere.
    pub const fn none() -> Self {
        Self(None)
    }

    /// To the end of this file, which is made if there is none.
    ///
    /// # Errors
    /// [`io::Error`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        Ok(Self(Some(Mutex::new(Place { file, torn: false }))))
    }

    /// Writes a line.
    ///
    /// # Errors
    /// [`io::Error`].
    pub fn write(&self, line: &Line<'_>) -> io::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let written = Written {
            time_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            uid: line.uid.chars().take(MAX_CHARS).collect(),
            peer: line.peer,
            operation: line.operation.as_str(),
            // What is no key id was chosen by the caller, and says nothing.
            key_id_hash: line.key_id.parse::<KeyId>().ok().map(|id| id.hash()),
            members: line.members,
            outcome: line.outcome,
            took_us: u64::try_from(line.took.as_micros()).unwrap_or(u64::MAX),
        };
        let mut bytes = serde_json::to_vec(&written).map_err(io::Error::other)?;
        bytes.push(b'\n');
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.torn {
            bytes.insert(0, b'\n');
        }
        let done = file.file.write_all(&bytes);
        file.torn = done.is_err();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_takes_no_whole_one_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = Audit::open(&path).unwrap();
        let line = Line {
            uid: "1",
            peer: Peer { uid: 0, pid: None },
            operation: Operation::Encrypt,
            key_id: "",
            members: &[],
            outcome: "ok",
            took: Duration::ZERO,
        };
        {
            let mut place = audit.0.as_ref().unwrap().lock().unwrap();
            place.file.write_all(b"{\"half").unwrap();
            place.torn = true;
        }
        audit.write(&line).unwrap();
        audit.write(&line).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let whole = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
        assert_eq!((text.lines().count(), whole), (3, 2), "{text}");
    }

    #[test]
    fn a_line_names_the_request_and_no_text_of_its_own_making() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = Audit::open(&path).unwrap();
        let id = KeyId::of("prod", 1, [], 0);
        let long = format!("{}\n\"", "u".repeat(1000));
        for (uid, key_id) in [("5b2c", id.as_str()), (&long, "evil\n")] {
            let line = Line {
                uid,
                peer: Peer { uid: 0, pid: Some(7) },
                operation: Operation::Decrypt,
                key_id,
                members: &["hsm".to_owned()],
                outcome: "ok",
                took: Duration::from_millis(3),
            };
            audit.write(&line).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["key_id_hash"], id.hash());
        assert_eq!((&lines[0]["uid"], &lines[0]["took_us"]), (&"5b2c".into(), &3000.into()));
        assert_eq!(lines[1]["uid"].as_str().unwrap().len(), MAX_CHARS);
        assert_eq!(lines[1].get("key_id_hash"), None);
    }
}
