//! Large values: written in pieces first, then made visible by the one small commit that counts.
//!
//! An upload begins with a marker record. The commit that makes the value visible demands the marker and
//! deletes it; the sweep deletes an overdue marker in a commit of its own and then its chunks. So whatever
//! crashes, either the value is whole and visible, or its pieces go away.

use crate::barrier::{Expect, Kind, Query, RecordKey, Records, Writes};
use crate::engine::due::Entry;
use crate::operation::{Context, Fault, Operation, Outcome, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::Done;
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::wrap::MAX_CIPHERTEXT_BYTES;
use serde::{Deserialize, Serialize};

/// Largest value in one record, and size of a chunk, in bytes. Four of them fill the store's largest batch.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// How long an upload may take from its marker to its visible commit, in milliseconds.
pub const UPLOAD_LIFETIME_MS: u64 = 10 * 60 * 1000;

/// Chunks of the largest value: they fit one commit's deletes.
const MAX_CHUNKS: u64 = MAX_CIPHERTEXT_BYTES.div_ceil(CHUNK_BYTES as u64);

fn marker_key(id: &[u8]) -> RecordKey {
    RecordKey::hidden(Kind::Upload, "", id)
}

fn chunk_key(id: &[u8], index: u32) -> RecordKey {
    RecordKey::clear(Kind::Chunk, id, index.to_be_bytes())
}

/// A large value that was written in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// 16 random bytes as hexadecimal-free base64url; never used again.
    pub id: String,
    /// Whose it is.
    pub owner: PrincipalId,
    /// Its length in bytes.
    pub len: u64,
    /// Its digest.
    pub sha256: Digest,
    /// When its marker is overdue, Unix milliseconds.
    pub deadline_ms: u64,
}

impl Upload {
    /// Names a new upload.
    pub fn new(id: [u8; 16], owner: PrincipalId, len: u64, sha256: Digest, now_ms: u64) -> Self {
        let id = bulla_wire::encoding::base64url(&id);
        Self { id, owner, len, sha256, deadline_ms: now_ms.saturating_add(UPLOAD_LIFETIME_MS) }
    }

    /// Number of its chunks.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.len.div_ceil(CHUNK_BYTES as u64)).unwrap_or(u32::MAX)
    }

    /// Its marker's key.
    pub fn marker(&self) -> RecordKey {
        marker_key(self.id.as_bytes())
    }

    /// The key of one chunk.
    pub fn chunk(&self, index: u32) -> RecordKey {
        chunk_key(self.id.as_bytes(), index)
    }

    fn due(&self) -> RecordKey {
        crate::engine::due::key(Kind::Due, self.deadline_ms, crate::engine::due::What::Upload, self.id.as_bytes())
    }

    /// The commit that begins it.
    pub fn begin(&self) -> Writes {
        let mut writes = Writes::default();
        writes.create(self.marker(), bulla_wire::json::to_vec(self));
        writes.put(self.due(), vec![]);
        writes
    }

    /// Turns the marker into the visible value: demands it and deletes it.
    pub fn publish(&self, writes: &mut Writes) {
        writes.expect.push((self.marker(), Expect::Present));
        writes.delete(self.marker());
        writes.delete(self.due());
    }

    /// Deletes the chunks; 16 MiB has 65 of them, which fit one commit.
    pub fn delete_chunks(&self, writes: &mut Writes) {
        for index in 0..self.chunks() {
            writes.delete(self.chunk(index));
        }
    }

    /// The commit that writes one piece. It demands the marker, so that nothing is written behind the sweep's back.
    pub fn write(&self, index: u32, bytes: Vec<u8>) -> Writes {
        let mut writes = Writes::default();
        writes.expect.push((self.marker(), Expect::Present));
        writes.put(self.chunk(index), bytes);
        writes
    }

    /// Reads a marker.
    pub fn parse(bytes: &SecretBytes) -> Result<Self, Fault> {
        parse_record("upload", bytes)
    }

    /// Reads that fetch the chunks `from..from + count`.
    pub fn queries(&self, from: u32, count: u32) -> Vec<Query> {
        (from..from.saturating_add(count).min(self.chunks())).map(|index| Query::Get(self.chunk(index))).collect()
    }
}

/// An upload that was not finished in time: first its marker goes, so that nothing can be added or made visible
/// any more, then its chunks and the entry. Published uploads have no entry.
#[derive(Debug, Clone)]
pub(super) struct Abandon {
    /// What is due: its id is the upload's.
    pub entry: Entry,
}

impl Operation for Abandon {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Self { entry } = self;
        let marker = marker_key(&entry.id);
        let Some(found) = records.get(&marker) else { return Ok(Step::need([marker])) };
        let mut writes = Writes::default();
        if let Some(record) = found {
            writes.remove(marker, record);
        } else {
            // A published upload has no marker either, but its entry is gone with it: then its chunks stay.
            writes.expect.push((entry.key(), Expect::Present));
            for index in (0u32..).take(usize::try_from(MAX_CHUNKS).unwrap_or(usize::MAX)) {
                writes.delete(chunk_key(&entry.id, index));
            }
            writes.delete(entry.key());
        }
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}
