//! Lines of the audit file: their form, their order and the chain between them (`spec/audit.md`).

use super::request::RequestLine;
use super::text::{Address, Label, ResourceText};
use bulla_crypto::digest::sha256;
use bulla_wire::error::Code;
use bulla_wire::evidence::Position;
use bulla_wire::id::{ClusterId, Digest, KeyId, LeaseId, Lineage, PrincipalId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest line in bytes, without its newline. A line is one write and one read; a request cannot fill half of it, and
/// the largest bundle does not fill it.
pub const LINE_BYTES_MAX: usize = 8 * 1024;
/// Format version of the lines.
pub const LINE_VERSION: u8 = 1;
/// Most source addresses in one line of uncounted requests.
pub const ANONYMOUS_ADDRESSES_MAX: usize = 8;

/// One line. Fields stand in this order, then those of the kind; absent ones are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Format version.
    pub v: u8,
    /// Number in this node's log, from 1; it goes on from file to file.
    pub n: u64,
    /// SHA-256 of the bytes of the line before, without its newline; none for line 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev: Option<Digest>,
    /// When it was written, Unix milliseconds.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// What a line tells. `kind` says which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// One request and its outcome.
    Request(Box<RequestLine>),
    /// The node began to write.
    Start {
        /// The node's key.
        node: KeyId,
        /// The server's version.
        version: Label,
        /// The cluster, once there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cluster: Option<ClusterId>,
        /// The last commit that the lines before quote.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quoted: Option<Quote>,
        /// Lines were lost, and the cluster was not unsealed since.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        loss: bool,
    },
    /// The node stopped in order; every line before is on disk.
    Stop {},
    /// The first line of every file but the first.
    Rotate {
        /// Number of the file before.
        previous: u32,
        /// The last commit that the lines before quote, so that nobody has to search older files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quoted: Option<Quote>,
        /// As in `start`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        loss: bool,
    },
    /// The end of a file was not whole lines after a crash, and was moved aside.
    Torn {
        /// Number of the file.
        file: u32,
        /// Where its whole lines end.
        offset: u64,
        /// How many bytes were moved.
        bytes: u64,
        /// The file name they were moved to.
        moved_to: Label,
    },
    /// Lines of this span may be missing after a power cut: reads and refusals, never effects.
    TailLost {
        /// Time of the last line that is there.
        from_ms: u64,
        /// Time of the start that noticed.
        to_ms: u64,
    },
    /// An administrator let the node start although lines are missing that the store remembers.
    LossAccepted {
        /// What was wrong.
        reason: Label,
        /// Number of the line that the store remembers, if it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected_n: Option<u64>,
        /// Its digest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<Digest>,
    },
    /// The log took no lines for some time, and nothing was answered meanwhile.
    Blocked {
        /// Since when.
        from_ms: u64,
        /// Why.
        reason: Label,
        /// Requests that were turned away.
        refused: u64,
    },
    /// Requests that failed before their key was known, and open routes: a line for each pair of route and
    /// reason within a second of its first, then one a minute, and so many an hour in all.
    Anonymous {
        /// The route.
        route: Label,
        /// Why they failed; none if they were answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Code>,
        /// When the first of them was counted.
        from_ms: u64,
        /// How many.
        count: u64,
        /// Different sources, at most eight.
        addresses: Vec<Address>,
    },
    /// The cluster was made.
    Initialised {
        /// Its id, and where its store begins.
        committed: Quote,
        /// The bundle that it began with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bundle: Option<BundleLine>,
    },
    /// The keys were forgotten.
    Sealed {
        /// The epoch that ended.
        epoch: u64,
    },
    /// The keys are here, and a history of the store began.
    Unsealed {
        /// The epoch that began.
        epoch: u64,
        /// The new lineage, and the sequence of the commit that began it.
        committed: Quote,
    },
    /// A document changed the seal: its shares were dealt anew, and a history of the store began.
    Rekeyed {
        /// The epoch that began.
        epoch: u64,
        /// The number of the document.
        document: u32,
        /// The new lineage, and the sequence of the commit that began it.
        committed: Quote,
    },
    /// A snapshot of the store was made whole.
    Snapshot {
        /// What it was taken from.
        from: Position,
        /// How many rows it has.
        rows: u64,
        /// The digest that its manifest tells.
        sha256: Digest,
    },
    /// k admins accepted that the store lost commits.
    Consent {
        /// What was reached before.
        lost: Position,
        /// What the store holds.
        kept: Position,
    },
    /// A user of a database is about to be made for a lease, or is gone with it.
    Lease {
        /// Which of both.
        event: LeaseEvent,
        /// The lease.
        lease: LeaseId,
        /// Whose it is.
        principal: PrincipalId,
        /// The role.
        resource: ResourceText,
        /// The user in the database.
        user: Label,
    },
    /// The password of a static role was rotated, by time alone.
    PasswordRotated {
        /// The role.
        resource: ResourceText,
        /// The user in the database.
        user: Label,
    },
    /// Somebody should look.
    Alarm {
        /// What about.
        alarm: Label,
        /// Whom it is for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        principal: Option<PrincipalId>,
        /// The thing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resource: Option<ResourceText>,
    },
}

/// What a line tells of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseEvent {
    /// The database is asked for the user next.
    Begun,
    /// The user is gone, or was never asked for.
    Ended,
}

/// What a line tells of a bundle. Names stay out of it but for those of policies; its limits keep it below
/// [`LINE_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleLine {
    /// SHA-256 of its payload.
    pub sha256: Digest,
    /// When it was made, Unix milliseconds.
    pub made_ms: u64,
    /// The admins who signed it.
    pub signers: Vec<PrincipalId>,
    /// Whom it admitted.
    pub principals: Vec<PrincipalId>,
    /// The policies that it brought.
    pub policies: Vec<Label>,
}

/// A commit, as outcome lines quote it: what the store must have reached (`spec/audit.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quote {
    /// The cluster.
    pub cluster: ClusterId,
    /// The history of its store.
    pub lineage: Lineage,
    /// How far in it.
    pub sequence: u64,
}

impl Body {
    /// Whether the log lacks lines that nobody came to terms with, as far as this line tells: one says that lines were
    /// lost, and an unsealing ends that, since the admins consented to it. Only an unsealed node quotes commits.
    pub fn tells_loss(&self) -> Option<bool> {
        match self {
            Self::LossAccepted { .. } => Some(true),
            Self::Start { loss, .. } | Self::Rotate { loss, .. } => Some(*loss),
            Self::Initialised { .. } | Self::Unsealed { .. } => Some(false),
            Self::Request(line) if line.outcome.committed.is_some() && !line.outcome.recovered => Some(false),
            _ => None,
        }
    }
}

impl Quote {
    /// Lineage and sequence.
    pub fn position(&self) -> Position {
        Position { lineage: self.lineage, sequence: self.sequence }
    }

    /// The commit that a line quotes.
    pub fn of(body: &Body) -> Option<Self> {
        Self::after(None, body)
    }

    /// What must be remembered after one more line: the highest commit of the newest lineage.
    #[must_use]
    pub fn after(current: Option<Self>, body: &Body) -> Option<Self> {
        match body {
            Body::Start { quoted, .. } | Body::Rotate { quoted, .. } => *quoted,
            Body::Initialised { committed, .. }
            | Body::Unsealed { committed, .. }
            | Body::Rekeyed { committed, .. } => Some(*committed),
            Body::Request(line) => match (current, line.outcome.committed) {
                // Outcomes of one lineage may be written in another order than they were committed.
                (Some(old), Some(new)) if old.lineage == new.lineage => {
                    Some(Self { sequence: new.sequence.max(old.sequence), ..new })
                }
                // A recovered line may be of a lineage that has ended.
                (Some(old), Some(_)) if line.outcome.recovered => Some(old),
                (old, new) => new.or(old),
            },
            _ => current,
        }
    }
}

/// Why bytes are not a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseLineError {
    /// Longer than [`LINE_BYTES_MAX`].
    TooLong,
    /// A version that this program does not know.
    Version(u64),
    /// Not the JSON of a line.
    Malformed(String),
    /// The JSON of a line, but in another spelling than the node writes: other order, spaces, more fields.
    Spelling,
}

impl fmt::Display for ParseLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {LINE_BYTES_MAX} bytes"),
            Self::Version(version) => write!(f, "format version {version}, known is {LINE_VERSION}; upgrade Bulla"),
            Self::Malformed(reason) => f.write_str(reason),
            Self::Spelling => f.write_str("not in the spelling that a node writes"),
        }
    }
}
impl std::error::Error for ParseLineError {}

impl Line {
    /// Parses the bytes of one line, without its newline. There is one spelling: a line that would be written
    /// otherwise is refused, so no field can hide behind another.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseLineError> {
        #[derive(Deserialize)]
        struct Version {
            v: u64,
        }
        if bytes.len() > LINE_BYTES_MAX {
            return Err(ParseLineError::TooLong);
        }
        let line: Self = serde_json::from_slice(bytes).map_err(|error| match serde_json::from_slice(bytes) {
            Ok(Version { v }) if v != u64::from(LINE_VERSION) => ParseLineError::Version(v),
            _ => ParseLineError::Malformed(error.to_string()),
        })?;
        if line.v != LINE_VERSION {
            return Err(ParseLineError::Version(line.v.into()));
        }
        if line.to_bytes() != bytes {
            return Err(ParseLineError::Spelling);
        }
        Ok(line)
    }

    /// The bytes of the line, without a newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        bulla_wire::json::to_vec(self)
    }
}

/// The end of a chain of lines: what the next one must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain {
    /// Number of the last line; 0 before the first.
    pub n: u64,
    /// Its digest.
    pub hash: Option<Digest>,
    /// When it was written.
    pub at_ms: u64,
}

impl Chain {
    /// Writes `body` as the next line, with its newline, to the end of `out`.
    ///
    /// `now_ms` may lie before the last line's time: the line tells the clock's truth, and `verify` shows the step.
    pub fn append(&mut self, now_ms: u64, body: &Body, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            v: u8,
            n: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            prev: Option<Digest>,
            at_ms: u64,
            #[serde(flatten)]
            body: &'a Body,
        }
        let n = self.n.saturating_add(1);
        let bytes = bulla_wire::json::to_vec(&Borrowed { v: LINE_VERSION, n, prev: self.hash, at_ms: now_ms, body });
        *self = Self { n, hash: Some(line_hash(&bytes)), at_ms: now_ms };
        out.extend_from_slice(&bytes);
        out.push(b'\n');
    }

    /// Takes in a line that was read. It does not judge: see [`Self::follows`].
    pub fn advance(&mut self, line: &Line, bytes: &[u8]) {
        *self = Self { n: line.n, hash: Some(line_hash(bytes)), at_ms: line.at_ms };
    }

    /// Whether `line` is the next one of this chain.
    pub fn follows(&self, line: &Line) -> bool {
        Some(line.n) == self.n.checked_add(1) && line.prev == self.hash
    }
}

/// SHA-256 of a line's bytes, without its newline.
pub fn line_hash(bytes: &[u8]) -> Digest {
    Digest::new(sha256(&[bytes]))
}

/// Where a line ends in a node's files, and which one it is. The head of the store remembers the last one that
/// was on disk when it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPosition {
    /// Number of the file.
    pub file: u32,
    /// Bytes of the file up to and with the line's newline.
    pub offset: u64,
    /// Number of the line.
    pub n: u64,
    /// Its digest.
    pub hash: Digest,
}

impl AuditPosition {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = 52;

    /// file ‖ offset ‖ n, big-endian, ‖ hash.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (file, rest) = bytes.split_at_mut(4);
        let (offset, rest) = rest.split_at_mut(8);
        let (n, hash) = rest.split_at_mut(8);
        file.copy_from_slice(&self.file.to_be_bytes());
        offset.copy_from_slice(&self.offset.to_be_bytes());
        n.copy_from_slice(&self.n.to_be_bytes());
        hash.copy_from_slice(self.hash.as_bytes());
        bytes
    }

    /// Reads [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (file, rest) = bytes.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let (offset, rest) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let (n, rest) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
        Self {
            file: u32::from_be_bytes(*file),
            offset: u64::from_be_bytes(*offset),
            n: u64::from_be_bytes(*n),
            hash: Digest::new(*rest.first_chunk().unwrap_or(&[0; 32])),
        }
    }
}

impl fmt::Display for AuditPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of file {:06} (ending at byte {}, {})", self.n, self.file, self.offset, self.hash)
    }
}
