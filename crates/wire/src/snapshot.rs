//! Snapshots: a cluster's sealed rows in one file, and what the node says of them (`spec/snapshot.md`).
//!
//! A frame is parsed where it lies, since a file is larger than memory. What a reader must check over all frames
//! together is the work of `bulla_crypto::snapshot`.

use crate::id::{ClusterId, Digest, KeyId, Lineage};
use crate::json::V1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// `payloadType` of [`Manifest`].
pub const MANIFEST_TYPE: &str = "application/vnd.bulla.snapshot.v1+json";
/// Media type of the file, and of its pages.
pub const SNAPSHOT_MEDIA_TYPE: &str = "application/vnd.bulla.snapshot";
/// What every file begins with, before its version.
pub const MAGIC: &[u8; 14] = b"bulla-snapshot";
/// The format that this program writes and reads.
pub const VERSION: u16 = 1;
/// Length of magic and version.
pub const HEADER_BYTES: usize = 16;
/// Longest manifest with its envelope, in bytes. It has no list, so that a tenth would do.
pub const MAX_MANIFEST_BYTES: usize = 16 * 1024;
/// A page ends with the frame that reaches this size, in bytes: the server holds one page a session, the client one.
pub const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Longest key of a row, as in `spec/storage.md`.
pub const MAX_KEY_BYTES: usize = 256;
/// Length of a row's value, as in `spec/storage.md`.
pub const VALUE_BYTES: std::ops::RangeInclusive<usize> = 13..=512 * 1024;
/// Longest frame in bytes.
pub const MAX_FRAME_BYTES: usize = ROW_HEAD_BYTES + MAX_KEY_BYTES + *VALUE_BYTES.end();
/// Largest page: one frame begins before the limit and passes it.
pub const MAX_PAGE_BYTES: usize = HEADER_BYTES + PAGE_BYTES + MAX_FRAME_BYTES + END_HEAD_BYTES + MAX_MANIFEST_BYTES;
/// Kinds of data rows that a snapshot carries (`spec/barrier.md`). Wraps with all that belongs to them are left out: a
/// copy of a sealed one, put back, could be opened again.
pub const KINDS: &[u8] = &[1, 2, 3, 7, 10, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26];

const ROW_HEAD_BYTES: usize = 11;
const END_HEAD_BYTES: usize = 5;
const END_TAG: u8 = 0xff;

/// The first bytes of a file.
pub fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let (magic, version) = header.split_at_mut(MAGIC.len());
    magic.copy_from_slice(MAGIC);
    version.copy_from_slice(&VERSION.to_be_bytes());
    header
}

/// `POST /v1/snapshot`: a state that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// What its pages are asked for by.
    pub id: String,
    /// How far the store had come.
    pub sequence: u64,
    /// When, Unix milliseconds.
    pub saved_ms: u64,
}

/// The last audit line that was on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditLine {
    /// Number of its file.
    pub file: u32,
    /// Offset behind its newline.
    pub offset: u64,
    /// Its number.
    pub n: u64,
    /// SHA-256 of it.
    pub sha256: Digest,
}

/// What a node says of a snapshot that it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// Epoch of the seal that opens it.
    pub epoch: u64,
    /// History of the store.
    pub lineage: Lineage,
    /// How far in it.
    pub sequence: u64,
    /// Number of the newest document in it.
    pub doc: u32,
    /// The node.
    pub node: KeyId,
    /// When the state was taken, Unix milliseconds.
    pub saved_ms: u64,
    /// The last audit line that was on the disk.
    pub audit: AuditLine,
    /// How many rows there are.
    pub rows: u64,
    /// How many bytes stand before the frame of the end.
    pub bytes: u64,
    /// SHA-256 over these bytes.
    pub sha256: Digest,
}

/// Where a row lies, in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Rows under fixed names.
    Plain,
    /// Barrier records.
    Data,
    /// Nonces of one Unix minute.
    Seen(u32),
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "a row is what its fields are called")]
pub struct Row<'a> {
    pub table: Table,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// A frame of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A row.
    Row(Row<'a>),
    /// The signed manifest, as JSON.
    End(&'a [u8]),
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameError(&'static str);

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
impl std::error::Error for FrameError {}

fn rule(holds: bool, rule: &'static str) -> Result<(), FrameError> {
    if holds { Ok(()) } else { Err(FrameError(rule)) }
}

impl Frame<'_> {
    /// The frame that `bytes` begin with, and its length; `None` if there are not all bytes of it yet.
    ///
    /// # Errors
    /// If no further byte makes a frame of it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
        if bytes.first() == Some(&END_TAG) {
            return end(bytes);
        }
        let Some((head, rest)) = bytes.split_first_chunk::<ROW_HEAD_BYTES>() else { return Ok(None) };
        let [tag, m0, m1, m2, m3, k0, k1, v0, v1, v2, v3] = *head;
        let table = table(tag, u32::from_be_bytes([m0, m1, m2, m3]))?;
        let key_len = usize::from(u16::from_be_bytes([k0, k1]));
        let value_len = usize::try_from(u32::from_be_bytes([v0, v1, v2, v3])).unwrap_or(usize::MAX);
        rule((1..=MAX_KEY_BYTES).contains(&key_len), "the key of a row has 1 to 256 bytes")?;
        rule(VALUE_BYTES.contains(&value_len), "the value of a row has 13 to 524288 bytes")?;
        let Some((key, rest)) = rest.split_at_checked(key_len) else { return Ok(None) };
        let Some((value, _)) = rest.split_at_checked(value_len) else { return Ok(None) };
        let row = Row { table, key, value };
        row.check()?;
        Ok(Some((Frame::Row(row), ROW_HEAD_BYTES.saturating_add(key_len).saturating_add(value_len))))
    }
}

fn table(tag: u8, minute: u32) -> Result<Table, FrameError> {
    match (tag, minute) {
        (1, 0) => Ok(Table::Plain),
        (2, 0) => Ok(Table::Data),
        (3, minute) => Ok(Table::Seen(minute)),
        (1 | 2, _) => Err(FrameError("only the rows of a seen bucket have a minute")),
        _ => Err(FrameError("a row of no known table")),
    }
}

fn end(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(([_, length @ ..], rest)) = bytes.split_first_chunk::<END_HEAD_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    rule(length <= MAX_MANIFEST_BYTES, "the manifest has at most 16384 bytes")?;
    let Some((manifest, _)) = rest.split_at_checked(length) else { return Ok(None) };
    Ok(Some((Frame::End(manifest), END_HEAD_BYTES.saturating_add(length))))
}

impl Row<'_> {
    fn check(&self) -> Result<(), FrameError> {
        let tag = if self.table == Table::Plain { 2 } else { 1 };
        rule(self.value.first() == Some(&tag), "a value is not of the kind that its table holds")?;
        let carried = self.table != Table::Data || self.key.first().is_some_and(|kind| KINDS.contains(kind));
        rule(carried, "a row of a kind that snapshots leave out")
    }

    /// Writes its frame.
    ///
    /// # Errors
    /// If it is no row of a snapshot.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        self.check()?;
        let (tag, minute) = match self.table {
            Table::Plain => (1, 0),
            Table::Data => (2, 0),
            Table::Seen(minute) => (3, minute),
        };
        let short = (1..=MAX_KEY_BYTES).contains(&self.key.len()) && VALUE_BYTES.contains(&self.value.len());
        let (key_len, value_len) = (u16::try_from(self.key.len()), u32::try_from(self.value.len()));
        let (true, Ok(key_len), Ok(value_len)) = (short, key_len, value_len) else {
            return Err(FrameError("a row outside the limits of a store"));
        };
        out.push(tag);
        out.extend(minute.to_be_bytes());
        out.extend(key_len.to_be_bytes());
        out.extend(value_len.to_be_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
        Ok(())
    }
}

/// Writes the frame of the end.
///
/// # Errors
/// If the manifest is too long.
pub fn write_end(manifest: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    rule(manifest.len() <= MAX_MANIFEST_BYTES, "the manifest has at most 16384 bytes")?;
    out.push(END_TAG);
    out.extend(u32::try_from(manifest.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(manifest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: [u8; 13] = [1, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn frames_are_read_as_they_were_written_and_wait_for_all_their_bytes() {
        let row = Row { table: Table::Seen(9), key: b"key", value: &VALUE };
        let mut bytes = Vec::new();
        row.write(&mut bytes).unwrap();
        let length = bytes.len();
        write_end(b"{}", &mut bytes).unwrap();
        assert_eq!(bytes.get(..length - 16), Some(&[3, 0, 0, 0, 9, 0, 3, 0, 0, 0, 13][..]));
        for cut in 0..length {
            assert_eq!(Frame::parse(&bytes[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(Frame::parse(&bytes), Ok(Some((Frame::Row(row), length))));
        assert_eq!(Frame::parse(&bytes[length..]), Ok(Some((Frame::End(b"{}"), 7))));
        for cut in length..bytes.len() {
            assert_eq!(Frame::parse(&bytes[length..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn every_table_is_read_back() {
        let plain = [&[2][..], &VALUE[1..]].concat();
        for (table, key, value) in [
            (Table::Plain, &b"head"[..], &plain[..]),
            (Table::Data, &[1], &VALUE),
            (Table::Seen(0), b"key", &VALUE),
            (Table::Seen(u32::MAX), b"key", &VALUE),
        ] {
            let (row, mut bytes) = (Row { table, key, value }, Vec::new());
            row.write(&mut bytes).unwrap();
            assert_eq!(Frame::parse(&bytes), Ok(Some((Frame::Row(row), bytes.len()))));
        }
        for tag in [1, 2, 4] {
            let minute = [tag, 0, 0, 0, 1, 0, 1, 0, 0, 0, 13];
            let error = Frame::parse(&minute).unwrap_err().to_string();
            assert_eq!(error.contains("minute"), tag < 4, "{error}");
        }
        assert_eq!(&header()[..], b"bulla-snapshot\x00\x01");
    }

    #[test]
    fn what_is_no_row_of_a_snapshot_is_refused() {
        let plain = [&[2][..], &VALUE[1..]].concat();
        let refused = |table, key: &[u8], value: &[u8]| {
            let mut bytes = Vec::new();
            Row { table, key, value }.write(&mut bytes).is_err() && bytes.is_empty()
        };
        assert!(refused(Table::Plain, b"head", &VALUE) && !refused(Table::Plain, b"head", &plain));
        assert!(refused(Table::Data, &[1], &plain) && !refused(Table::Data, &[1], &VALUE));
        for kind in 0..=u8::MAX {
            assert_eq!(refused(Table::Data, &[kind], &VALUE), !KINDS.contains(&kind), "{kind}");
        }
        assert!(refused(Table::Data, b"", &VALUE) && refused(Table::Data, &[1; 257], &VALUE));
        assert!(refused(Table::Data, &[1], &VALUE[..12]));
        for bad in [
            [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 13],
            [4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 13],
            [2, 0, 0, 0, 1, 0, 1, 0, 0, 0, 13],
            [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13],
            [2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 13],
            [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 12],
            [2, 0, 0, 0, 0, 0, 1, 0, 8, 0, 1],
        ] {
            assert!(Frame::parse(&bad).is_err(), "{bad:?}");
        }
        assert!(Frame::parse(&[END_TAG, 0, 0, 0x40, 1]).is_err());
        assert!(write_end(&[0; MAX_MANIFEST_BYTES + 1], &mut Vec::new()).is_err());
    }
}
