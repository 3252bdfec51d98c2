//! Storage backends: a closed enum behind a few small functions.
//!
//! A store keeps sealed bytes under opaque keys and knows nothing of what they mean. It promises that a
//! batch happens whole or not at all, that it happens only if all its preconditions hold, that what is
//! acknowledged survives a crash (if the backend is durable), and that all reads of one call see one
//! state. It may lose data by the hand of whoever owns the disk; it can neither read nor forge it, which
//! is the barrier's doing.
//!
//! Every backend passes [`conformance`]. The layout of the file backend is in `spec/storage.md`.

pub mod conformance;
mod error;
pub mod failpoint;
mod file;
mod frozen;
mod memory;
mod scan;
mod statistics;
mod transaction;

pub use error::{CommitError, HeadError, OpenError, StoreError};
#[cfg(any(test, feature = "simulation"))]
pub use file::simulated;
pub use file::{FORMAT_VERSION, FileStore, Filled, Filling, OnFatal, left_unfinished, unfinished};
pub use frozen::Frozen;
pub use memory::MemoryStore;
pub use statistics::Statistics;

use bulla_core::record::{Batch, HeadSource, READS_MAX, Read, SCAN_ENTRIES_MAX, Sequence, Snapshot};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A store. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub enum Store {
    /// In memory; gone when the process ends.
    Memory(MemoryStore),
    /// One embedded file.
    File(FileStore),
}

/// Which backend a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// In memory.
    Memory,
    /// One embedded file.
    File,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::File => "file",
        })
    }
}

/// The acknowledgement of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Sequence number of the store transaction that holds the batch. Without a head source, that of the
    /// stored head row, or 0 before the first.
    pub sequence: Sequence,
}

impl Store {
    /// A new, empty store in memory.
    pub fn memory() -> Self {
        Self::Memory(MemoryStore::new())
    }

    /// Opens the file at `path`, or makes it. Blocks; the directory must exist, and the caller holds a
    /// lock that keeps other nodes out of it.
    pub fn file(path: impl AsRef<Path>, on_fatal: OnFatal) -> Result<Self, OpenError> {
        FileStore::open(path.as_ref(), on_fatal).map(Self::File)
    }

    /// Answers all `reads` from one snapshot.
    pub async fn read(&self, reads: Vec<Read>) -> Result<Snapshot, StoreError> {
        admissible(&reads)?;
        match self {
            Self::Memory(store) => store.read(&reads),
            Self::File(store) => store.read(reads).await,
        }
    }

    /// Applies a batch, whole or not at all, if all its preconditions hold.
    ///
    /// Once this future has been polled and the writer's queue had room, the batch runs to its end even if
    /// the future is dropped. While a head source is set, no batch may write the head row.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        batch.admissible().map_err(CommitError::Refused)?;
        match self {
            Self::Memory(store) => store.commit(batch),
            Self::File(store) => store.commit(batch).await,
        }
    }

    /// Holds the state of this moment, with everything acknowledged before in it, while writes go on. What changes
    /// meanwhile is kept twice until it is dropped.
    pub async fn freeze(&self) -> Result<Frozen, StoreError> {
        match self {
            Self::Memory(store) => store.freeze().map(Frozen::memory),
            Self::File(store) => store.freeze().map(Frozen::file),
        }
    }

    /// Sets where the head row of each further transaction comes from; nothing while sealed.
    pub fn set_head(&self, source: Option<Arc<dyn HeadSource>>) {
        match self {
            Self::Memory(store) => store.set_head(source),
            Self::File(store) => store.set_head(source),
        }
    }

    /// Finishes the commits that wait, ends the writer and closes the file. Afterwards reads and commits
    /// through any handle answer `Closed`. Closing twice is no error.
    pub async fn close(&self) {
        match self {
            Self::Memory(store) => store.close(),
            Self::File(store) => store.close().await,
        }
    }

    /// Which backend this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Memory(_) => Kind::Memory,
            Self::File(_) => Kind::File,
        }
    }

    /// What this store has done since it was opened.
    pub fn statistics(&self) -> Statistics {
        match self {
            Self::Memory(store) => store.statistics(),
            Self::File(store) => store.statistics(),
        }
    }
}

/// Refuses reads above the limits before a backend sees them.
fn admissible(reads: &[Read]) -> Result<(), StoreError> {
    if reads.len() > READS_MAX {
        return Err(StoreError::TooManyReads { reads: reads.len() });
    }
    for read in reads {
        if let Read::Scan { limit, .. } = read
            && !(1..=SCAN_ENTRIES_MAX).contains(limit)
        {
            return Err(StoreError::ScanLimit { limit: *limit });
        }
    }
    Ok(())
}
