//! Why a store could not be opened, read or written: one enum for each.

use bulla_core::record::{READS_MAX, RecordError, SCAN_ENTRIES_MAX, Sequence, Table};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a read was not answered.
#[derive(Debug)]
pub enum StoreError {
    /// More reads in one call than [`READS_MAX`].
    TooManyReads {
        /// How many there were.
        reads: usize,
    },
    /// The limit of a scan is 0 or above [`SCAN_ENTRIES_MAX`].
    ScanLimit {
        /// The limit that was asked for.
        limit: usize,
    },
    /// A stored row is no record: somebody else wrote to the storage.
    Malformed {
        /// The table of the row.
        table: Table,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The storage failed; the process is ending.
    Io {
        /// What the storage said.
        detail: String,
    },
    /// The store has been closed.
    Closed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyReads { reads } => write!(f, "one call has at most {READS_MAX} reads, not {reads}"),
            Self::ScanLimit { limit } => {
                write!(f, "a scan asks for 1 to {SCAN_ENTRIES_MAX} entries, not {limit}")
            }
            Self::Malformed { table, .. } => write!(f, "a row in {table:?} is no record"),
            Self::Io { detail } => write!(f, "reading the store failed: {detail}"),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Why a batch was not acknowledged. Only after `Unknown` can it have happened.
#[derive(Debug)]
pub enum CommitError {
    /// The batch is above a limit or contradicts itself.
    Refused(RecordError),
    /// A precondition does not hold.
    Conflict {
        /// Its index in the batch: the first that fails.
        precondition: usize,
    },
    /// The head row is not as it must be.
    Head(HeadError),
    /// The storage failed before the commit; nothing was written, and the process is ending.
    Io {
        /// What the storage said.
        detail: String,
    },
    /// The storage failed during the commit, or the writer ended; the process is ending.
    Unknown {
        /// What the storage said.
        detail: String,
    },
    /// The store has been closed.
    Closed,
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(_) => f.write_str("the store refused the batch"),
            Self::Conflict { precondition } => write!(f, "precondition {precondition} does not hold"),
            Self::Head(_) => f.write_str("the store refused the head row"),
            Self::Io { detail } => write!(f, "writing the store failed, and nothing was written: {detail}"),
            Self::Unknown { detail } => write!(f, "it is unknown whether the store holds the batch: {detail}"),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(source) => Some(source),
            Self::Head(source) => Some(source),
            _ => None,
        }
    }
}

/// What is wrong with a head row. Each is a fault of the program, not of the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// A batch writes the head row although a head source is set, or removes it.
    Reserved,
    /// A batch writes more than plain rows while there is no head source, and brings no head row.
    Missing,
    /// The row lacks the tag or the length of a head row, or holds another sequence number than its source
    /// said.
    Malformed,
    /// The sequence number is not above the stored one. It never restarts.
    NotAbove {
        /// The number in the store.
        stored: Sequence,
        /// The number in the new row.
        offered: Sequence,
    },
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => f.write_str("only the head source writes the head row, and nobody removes it"),
            Self::Missing => f.write_str("nothing but plain rows is written without a head row: the cluster is sealed"),
            Self::Malformed => f.write_str("the head row does not hold its sequence number"),
            Self::NotAbove { stored, offered } => {
                write!(f, "sequence {} is not above the stored {}", offered.0, stored.0)
            }
        }
    }
}

impl std::error::Error for HeadError {}

/// Why a store file could not be opened. Each text names the file and what to do.
#[derive(Debug)]
pub enum OpenError {
    /// The operating system refused.
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as in "cannot create".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        reason: &'static str,
    },
    /// Another process, or another handle of this one, has it open.
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A newer Bulla wrote it.
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
    /// The journal beside the store is that of another store, or of a later state of this one.
    OtherJournal {
        /// The journal.
        path: PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
    /// It is a store, but a part of it is missing or altered.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, action, .. } => write!(f, "{action} {}", path.display()),
            Self::NotAStore { path, reason } => write!(
                f,
                "{} is not a Bulla store: {reason}; name another file, or move this one away to begin a new store",
                path.display()
            ),
            Self::Locked { path } => write!(
                f,
                "{} is open in another process; stop the other server, or give this one a data directory of its own",
                path.display()
            ),
            Self::NewerFormat { path, found, supported } => write!(
                f,
                "{} has store format {found}, and this program reads up to {supported}; \
                 run the newer bulla that wrote it, or restore a snapshot",
                path.display()
            ),
            Self::OtherJournal { path, reason } => write!(
                f,
                "{} does not fit the store beside it: {reason}; put back the store file that it belongs to, or, if an \
                 older store is what you want, move the journal away",
                path.display()
            ),
            Self::Damaged { path, detail } => {
                write!(f, "{} is damaged: {detail}; keep the file and restore a snapshot", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
