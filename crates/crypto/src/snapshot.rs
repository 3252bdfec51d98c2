//! Snapshots read and believed (`spec/snapshot.md`): frames in their order under one digest, and a manifest that a node
//! signed which the pin leads to.
//!
//! The reader takes bytes as they come and keeps one frame of them, so a file of any size needs no memory. Whoever keeps rows
//! before [`Reader::finish`] and [`Whole::verify`] have answered keeps them apart: until then they are anybody's.
//!
//! Held: no byte of a file can be altered, left out or added without the node's key. Not held: what a thief of that key puts
//! together from rows of old files, until a document marks the node compromised.

use crate::digest::Sha256;
use crate::dsse;
use crate::evidence::{ClusterView, EvidenceError, parse};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::NodeState;
use bulla_wire::id::{Digest, KeyId};
use bulla_wire::json::{self, MAX_STATEMENT_BYTES};
use bulla_wire::snapshot::{
    Frame, HEADER_BYTES, MAGIC, MANIFEST_TYPE, MAX_MANIFEST_BYTES, Manifest, Row, Table, VERSION, header,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io;

/// Most bytes of documents and approvals that are kept while a file is read. A client's own store of documents takes a
/// quarter of it.
const MAX_STATEMENTS_BYTES: usize = 64 * 1024 * 1024;
/// Largest statement with its envelope, as base64.
const MAX_ENVELOPE_BYTES: usize = MAX_STATEMENT_BYTES * 2;
/// What stands before the content of a plain row.
const PLAIN_FRAME_BYTES: usize = 13;

/// Why a file is not to be taken.
#[derive(Debug)]
pub enum SnapshotError {
    /// It does not begin as a snapshot.
    NotASnapshot,
    /// It is of a version that this program does not know.
    NewerVersion(u16),
    /// It ends too early.
    Truncated,
    /// It breaks a rule of the format.
    Malformed(String),
    /// It is not what was signed.
    Altered(&'static str),
    /// It is of another cluster than the expected one.
    OtherCluster(EvidenceError),
    /// Nobody who may say so says that it is whole.
    Untrusted(EvidenceError),
    /// The node whose key signed it is known to have been compromised.
    Compromised(KeyId),
    /// Its digest is not the expected one.
    OtherDigest(Digest),
    /// A row could not be kept.
    Io(io::Error),
}

impl SnapshotError {
    /// Its name in the specification and its vectors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotASnapshot => "not_a_snapshot",
            Self::NewerVersion(_) => "newer_version",
            Self::Truncated => "truncated",
            Self::Malformed(_) => "malformed",
            Self::Altered(_) => "altered",
            Self::OtherCluster(_) => "other_cluster",
            Self::Untrusted(_) | Self::Compromised(_) => "untrusted",
            Self::OtherDigest(_) => "other_digest",
            Self::Io(_) => "io",
        }
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotASnapshot => f.write_str("it is no snapshot: it does not begin as one"),
            Self::NewerVersion(found) => write!(f, "it is a snapshot of version {found}; this program knows {VERSION}"),
            Self::Truncated => f.write_str("it is cut off: its end is missing"),
            Self::Malformed(rule) => write!(f, "it is damaged: {rule}"),
            Self::Altered(what) => write!(f, "it was altered: {what}"),
            Self::OtherCluster(_) => f.write_str("it is of another cluster"),
            Self::Untrusted(_) => f.write_str("its signature is not of a node of the cluster"),
            Self::Compromised(node) => {
                write!(f, "it was signed by {node}, a node that a document marks as compromised")
            }
            Self::OtherDigest(found) => write!(f, "its digest is {found}, not the one that was given"),
            Self::Io(_) => f.write_str("a row could not be kept"),
        }
    }
}
impl std::error::Error for SnapshotError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::OtherCluster(cause) | Self::Untrusted(cause) => Some(cause),
            Self::Io(cause) => Some(cause),
            _ => None,
        }
    }
}

/// Reads a file's bytes as they come.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes that are no whole frame yet.
    rest: Vec<u8>,
    begun: bool,
    hash: Sha256,
    bytes: u64,
    rows: u64,
    last: Option<(Table, Vec<u8>)>,
    statements_bytes: usize,
    documents: BTreeMap<u32, Envelope>,
    approvals: Vec<Envelope>,
    end: Option<Envelope>,
}

impl Reader {
    /// Nothing is read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the frame of the end was read.
    pub fn at_end(&self) -> bool {
        self.end.is_some()
    }

    /// Takes the next bytes and hands on each row that they complete.
    ///
    /// # Errors
    /// See [`SnapshotError`]; then the file is of no use.
    pub fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(Row<'_>) -> io::Result<()>) -> Result<(), SnapshotError> {
        let mut buffer = std::mem::take(&mut self.rest);
        buffer.extend_from_slice(bytes);
        let mut left = buffer.as_slice();
        if !self.begun {
            let Some((found, rest)) = left.split_first_chunk::<HEADER_BYTES>() else {
                // What is no beginning of a header never will be one.
                let wrong = left.iter().zip(MAGIC).any(|(a, b)| a != b);
                self.rest = buffer;
                return if wrong { Err(SnapshotError::NotASnapshot) } else { Ok(()) };
            };
            check_header(found)?;
            (self.begun, left) = (true, rest);
            self.count(found);
        }
        while !left.is_empty() {
            if self.end.is_some() {
                return Err(SnapshotError::Malformed("bytes follow its end".into()));
            }
            let parsed = Frame::parse(left).map_err(|error| SnapshotError::Malformed(error.to_string()))?;
            let Some((frame, length)) = parsed else { break };
            let (raw, rest) = left.split_at_checked(length).unwrap_or((left, &[]));
            match frame {
                Frame::Row(row) => {
                    self.row(&row)?;
                    self.count(raw);
                    each(row).map_err(SnapshotError::Io)?;
                }
                Frame::End(manifest) => {
                    let parsed = json::parse(manifest, MAX_MANIFEST_BYTES);
                    self.end = Some(parsed.map_err(|error| SnapshotError::Malformed(error.to_string()))?);
                }
            }
            left = rest;
        }
        let used = buffer.len().saturating_sub(left.len());
        buffer.drain(..used);
        self.rest = buffer;
        Ok(())
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    fn row(&mut self, row: &Row<'_>) -> Result<(), SnapshotError> {
        let ascends = self.last.as_ref().is_none_or(|(table, key)| (*table, key.as_slice()) < (row.table, row.key));
        if !ascends {
            return Err(SnapshotError::Malformed("its rows do not ascend".into()));
        }
        let (table, key) = self.last.get_or_insert_with(|| (row.table, Vec::new()));
        *table = row.table;
        key.clear();
        key.extend_from_slice(row.key);
        self.rows = self.rows.saturating_add(1);
        if row.table != Table::Plain {
            return Ok(());
        }
        let document = row.key.strip_prefix(b"document/");
        if document.is_none() && !row.key.starts_with(b"approval/") {
            return Ok(());
        }
        self.statements_bytes = self.statements_bytes.saturating_add(row.value.len());
        if self.statements_bytes > MAX_STATEMENTS_BYTES {
            return Err(SnapshotError::Malformed("its documents are larger than any cluster's".into()));
        }
        let content = row.value.get(PLAIN_FRAME_BYTES..).unwrap_or_default();
        let malformed = || SnapshotError::Malformed("a document or approval in it is none".into());
        let statement: Envelope = json::parse(content, MAX_ENVELOPE_BYTES).map_err(|_| malformed())?;
        match document {
            Some(number) => {
                let text = std::str::from_utf8(number).unwrap_or_default();
                // One spelling: `+1` or `01` would be a second document of a number.
                let number = text.parse::<u32>().ok().filter(|number| number.to_string() == text);
                self.documents.insert(number.ok_or_else(malformed)?, statement);
            }
            None => self.approvals.push(statement),
        }
        Ok(())
    }

    /// No more bytes follow.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`], [`SnapshotError::Malformed`] or [`SnapshotError::Altered`].
    pub fn finish(self) -> Result<Whole, SnapshotError> {
        let Self { hash, bytes, rows, documents, approvals, end, .. } = self;
        let envelope = end.ok_or(SnapshotError::Truncated)?;
        let manifest: Manifest = parse(&envelope).map_err(|error| SnapshotError::Malformed(error.to_string()))?;
        // The frame that holds it is in no digest.
        if envelope.signatures.len() != 1 {
            return Err(SnapshotError::Malformed("its manifest must have one signature".into()));
        }
        let same = |holds: bool, what| if holds { Ok(()) } else { Err(SnapshotError::Altered(what)) };
        same(manifest.rows == rows, "it has another number of rows than its manifest says")?;
        same(manifest.bytes == bytes, "it has another length than its manifest says")?;
        same(manifest.sha256.as_bytes() == &hash.finish(), "its bytes have another digest than its manifest says")?;
        let newest = documents.keys().next_back().copied();
        same(newest == Some(manifest.doc), "its newest document is another than its manifest says")?;
        let whole = documents.keys().copied().eq(0..=manifest.doc);
        same(whole, "a document is missing in it")?;
        Ok(Whole { manifest, envelope, documents: documents.into_values().collect(), approvals })
    }
}

fn check_header(found: &[u8; HEADER_BYTES]) -> Result<(), SnapshotError> {
    if *found == header() {
        return Ok(());
    }
    let [.., high, low] = *found;
    if found.starts_with(MAGIC) {
        Err(SnapshotError::NewerVersion(u16::from_be_bytes([high, low])))
    } else {
        Err(SnapshotError::NotASnapshot)
    }
}

/// A file that is as its manifest says. Nobody vouches for the manifest yet.
#[derive(Debug)]
pub struct Whole {
    manifest: Manifest,
    envelope: Envelope,
    documents: Vec<Envelope>,
    approvals: Vec<Envelope>,
}

impl Whole {
    /// What it says of itself.
    pub fn manifest_unverified(&self) -> &Manifest {
        &self.manifest
    }

    /// Verifies it from the pin on: `begin` makes a view from the genesis in the file and the approvals of it. `known` are
    /// documents that the caller has from elsewhere, newer ones perhaps. `vouched` is the digest that somebody kept
    /// apart from the file: then it must be that, and a node that was compromised since does not matter.
    ///
    /// # Errors
    /// [`SnapshotError::OtherCluster`], [`SnapshotError::Untrusted`], [`SnapshotError::Compromised`] or
    /// [`SnapshotError::OtherDigest`].
    pub fn verify(
        self,
        begin: impl FnOnce(&Envelope, &[Envelope]) -> Result<ClusterView, EvidenceError>,
        known: Option<&ClusterView>,
        vouched: Option<Digest>,
    ) -> Result<Verified, SnapshotError> {
        let Self { manifest, envelope, documents, approvals } = self;
        let mut documents = documents.iter();
        let genesis = documents.next().ok_or(SnapshotError::Altered("a document is missing in it"))?;
        let mut view = begin(genesis, &approvals).map_err(|error| match error {
            EvidenceError::OtherPin
            | EvidenceError::OtherAdmins
            | EvidenceError::OtherK { .. }
            | EvidenceError::TooFewAdmins { .. } => SnapshotError::OtherCluster(error),
            error => SnapshotError::Untrusted(error),
        })?;
        if manifest.cluster != view.id() {
            return Err(SnapshotError::OtherCluster(EvidenceError::OtherPin));
        }
        for document in documents {
            view.push(document).map_err(SnapshotError::Untrusted)?;
        }
        let node = view.newest().node(&manifest.node).filter(|node| node.state == NodeState::Active);
        let node = node.ok_or(SnapshotError::Untrusted(EvidenceError::UnknownNode(manifest.node)))?;
        dsse::verify(&envelope, MANIFEST_TYPE, &[&node.key])
            .map_err(|error| SnapshotError::Untrusted(EvidenceError::Signature(error)))?;
        let known = known.filter(|known| known.id() == view.id());
        let spoilt = known
            .into_iter()
            .flat_map(ClusterView::documents)
            .any(|document| document.node(&manifest.node).is_some_and(|node| node.state == NodeState::Compromised));
        if spoilt && vouched.is_none() {
            return Err(SnapshotError::Compromised(manifest.node));
        }
        if vouched.is_some_and(|digest| digest != manifest.sha256) {
            return Err(SnapshotError::OtherDigest(manifest.sha256));
        }
        Ok(Verified { manifest, view })
    }
}

/// A whole file that a node of the pinned cluster vouches for.
#[derive(Debug)]
pub struct Verified {
    /// What it says.
    pub manifest: Manifest,
    /// The documents in it.
    pub view: ClusterView,
}

#[cfg(test)]
mod tests;
