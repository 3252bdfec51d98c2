//! The store in one embedded file: a redb database, written by one thread.
//!
//! Commits that wait while another is on its way to the disk go into one transaction together. A lone commit waits
//! for nobody. A transaction is durable by one record in the journal beside the file; now and then a durable transaction
//! of the database takes all of them over.
//!
//! Any failure of the storage ends the process ([`OnFatal`]): after a failed sync nobody knows what the
//! disk holds, and only opening the file again finds out.

mod entry;
mod fill;
mod frozen;
mod journal;
mod open;
mod read;
mod rows;
mod writer;

#[cfg(any(test, feature = "simulation"))]
pub mod simulated;

pub use fill::{Filled, Filling, left_unfinished, unfinished};
pub use frozen::Frozen;
pub use open::FORMAT_VERSION;

use crate::Committed;
use crate::error::{CommitError, OpenError, StoreError};
use crate::statistics::{Counters, Statistics};
use bulla_core::record::{Batch, HeadSource, Read, Snapshot};
use journal::Journal;
use redb::{Database, TableDefinition};
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::{mpsc, oneshot};

/// Keys and values are bytes in every table of records.
type Bytes = &'static [u8];
const PLAIN: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("plain");
const DATA: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("data");
/// About the store itself; its shape is the same in every format version.
const META: TableDefinition<'static, &str, Bytes> = TableDefinition::new("meta");

/// The table of one deduplication bucket.
fn seen_table(minute: u32) -> String {
    format!("seen/{minute}")
}

/// Memory for pages of the file, in bytes. The operating system caches the file as well; redb's default of
/// 1 GiB would be most of a small machine.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Commits that may wait for the writer. With batches of 1 MiB they hold 256 MiB, as much as all bodies.
const QUEUE_COMMITS: usize = 256;

/// Most reads answered on the caller's own thread. A read of one key takes a few microseconds, less than
/// handing it to another thread.
const INLINE_READS: usize = 16;

/// What to do when the storage fails, given a line that says what happened. Tests observe it; a server
/// aborts.
#[derive(Clone)]
pub struct OnFatal(Arc<dyn Fn(&str) + Send + Sync>);

impl OnFatal {
    /// Calls `action`. If it returns, the store answers every further commit with an error.
    pub fn call(action: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(action))
    }

    fn report(&self, what: &str) {
        (self.0)(what);
    }
}

/// Says what happened on standard error and aborts the process.
impl Default for OnFatal {
    fn default() -> Self {
        Self::call(|what| {
            // Not `eprintln!`: where nobody takes the line it would panic, and the process would go on.
            drop(writeln!(
                std::io::stderr(),
                "bulla: {what}; stopping at once, since what is on the disk is known only after a new start"
            ));
            std::process::abort();
        })
    }
}

/// A handle to a store file.
#[derive(Clone)]
pub struct FileStore {
    shared: Arc<Shared>,
    commits: mpsc::Sender<writer::Job>,
}

/// What the handles and the writer thread share.
struct Shared {
    path: PathBuf,
    /// Nothing once closed. Readers and the writer hold the lock while they use the database, so closing
    /// waits for them.
    database: RwLock<Option<Database>>,
    head: RwLock<Option<Arc<dyn HeadSource>>>,
    /// States that are held; closing lets them go, since they keep the file open.
    frozen: frozen::Held,
    counters: Counters,
    on_fatal: OnFatal,
    reads: Reads,
}

/// Where reads that take long are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// On a thread for blocking work.
    OnThreads,
    /// On the caller's own: what a simulation decides has no thread that could be faster or slower.
    #[cfg(any(test, feature = "simulation"))]
    Here,
}

impl Reads {
    fn are_here(self) -> bool {
        self != Self::OnThreads
    }
}

impl Shared {
    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn fatal(&self, action: &str, cause: &dyn fmt::Display) -> String {
        let detail = cause.to_string();
        self.on_fatal.report(&format!("{action} {} failed: {detail}", self.path.display()));
        detail
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl FileStore {
    pub(crate) fn open(path: &Path, on_fatal: OnFatal) -> Result<Self, OpenError> {
        let (database, journal) = open::open_or_create(path)?;
        Self::start(database, journal, path, on_fatal)
    }

    fn start(database: Database, journal: Journal, path: &Path, on_fatal: OnFatal) -> Result<Self, OpenError> {
        let (store, writer) = Self::assemble(database, journal, path, on_fatal, Reads::OnThreads);
        writer::spawn(writer).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            action: "cannot start the writer of",
            source,
        })?;
        Ok(store)
    }

    /// The handle, and the writer that nobody lets write yet.
    fn assemble(
        database: Database,
        journal: Journal,
        path: &Path,
        on_fatal: OnFatal,
        reads: Reads,
    ) -> (Self, writer::Writer) {
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
            head: RwLock::new(None),
            frozen: frozen::Held::default(),
            counters: Counters::default(),
            on_fatal,
            reads,
        });
        let (commits, jobs) = mpsc::channel(QUEUE_COMMITS);
        let writer = writer::Writer { shared: Arc::clone(&shared), journal, jobs, failed: false };
        (Self { shared, commits }, writer)
    }

    pub(crate) async fn read(&self, reads: Vec<Read>) -> Result<Snapshot, StoreError> {
        let light = reads.len() <= INLINE_READS && reads.iter().all(|read| matches!(read, Read::Get(..)));
        if light || self.shared.reads.are_here() {
            return read::snapshot(&self.shared, &reads);
        }
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || read::snapshot(&shared, &reads)).await {
            Ok(answer) => answer,
            // The process ends, and nothing was read: no fault of the storage's.
            Err(failed) if failed.is_cancelled() => Err(StoreError::Closed),
            Err(failed) => Err(StoreError::Io { detail: self.shared.fatal("reading", &failed) }),
        }
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let (reply, answer) = oneshot::channel();
        let commit = writer::Commit { batch, reply };
        self.commits.send(writer::Job::Commit(commit)).await.map_err(|_| CommitError::Closed)?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(CommitError::Unknown { detail: "the writer ended".to_owned() }),
        }
    }

    pub(crate) fn freeze(&self) -> Result<Frozen, StoreError> {
        Frozen::begin(&self.shared)
    }

    pub(crate) fn set_head(&self, source: Option<Arc<dyn HeadSource>>) {
        *self.shared.head.write().unwrap_or_else(PoisonError::into_inner) = source;
    }

    pub(crate) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.commits.send(writer::Job::Close(reply)).await.is_ok() {
            // The writer that ends without an answer has reported that itself.
            let _ = closed.await;
        }
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.shared.counters.snapshot()
    }
}

#[cfg(test)]
mod tests;
