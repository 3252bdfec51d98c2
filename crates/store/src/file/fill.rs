//! A store filled from elsewhere, row by row, before anybody opens it. It lies under a name of its own until all of it was
//! written and believed, so that a half is never taken for a whole.

use super::OnFatal;
use super::journal::{self, sync_directory};
use super::open::{anew, begin_durable, io_error};
use super::rows::OpenRows;
use crate::error::OpenError;
use crate::transaction::Rows as _;
use bulla_core::record::{SealedValue, StoreKey, Table};
use redb::Database;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A transaction ends with the row that reaches this many bytes, as those of a running store do.
const TRANSACTION_BYTES: usize = 8 * 1024 * 1024;

/// Where the store that will be `path` lies until it is whole.
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".restoring");
    PathBuf::from(name)
}

/// What a filling that did not come to its end may leave beside `path`: the store, its journal, and one that was begun.
pub fn left_unfinished(path: &Path) -> [PathBuf; 3] {
    let store = unfinished(path);
    let journal = journal::path_of(&store);
    let begun = journal::unfinished(&journal);
    [store, journal, begun]
}

/// A file that is being filled, at [`unfinished`]. Dropped before [`Filled::publish`] it stays there.
pub struct Filling {
    database: Database,
    path: PathBuf,
    waiting: Vec<(Table, StoreKey, SealedValue)>,
    bytes: usize,
}

impl fmt::Debug for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filling").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Filling {
    /// Begins an empty store that will be `path`, in the place of an unfinished one. Blocks, as all of this does.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn begin(path: &Path) -> Result<Self, OpenError> {
        let store = unfinished(path);
        journal::remove(&store).map_err(|source| io_error(&store, "cannot remove the journal of", source))?;
        let database = anew(&store)?;
        Ok(Self { database, path: path.to_owned(), waiting: Vec::new(), bytes: 0 })
    }

    /// Puts a row. It is in the file after [`Filling::finish`].
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put(&mut self, table: Table, key: StoreKey, value: SealedValue) -> Result<(), OpenError> {
        self.bytes = self.bytes.saturating_add(key.as_bytes().len()).saturating_add(value.as_bytes().len());
        self.waiting.push((table, key, value));
        if self.bytes >= TRANSACTION_BYTES { self.write() } else { Ok(()) }
    }

    /// Writes what is left. All rows are on the disk afterwards.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(mut self) -> Result<Filled, OpenError> {
        self.write()?;
        Ok(Filled { path: self.path })
    }

    fn write(&mut self) -> Result<(), OpenError> {
        let failed = |cause: String| io_error(&self.path, "cannot write", io::Error::other(cause));
        let transaction = begin_durable(&self.database).map_err(|cause| failed(cause.to_string()))?;
        let mut rows = OpenRows::new(&transaction).map_err(|cause| failed(cause.to_string()))?;
        for (table, key, value) in self.waiting.drain(..) {
            rows.put(table, key, value).map_err(|cause| failed(cause.to_string()))?;
        }
        rows.finish().map_err(|cause| failed(cause.to_string()))?;
        transaction.commit().map_err(|cause| failed(cause.to_string()))?;
        self.bytes = 0;
        Ok(())
    }
}

/// A store that is whole, and has not its name yet.
#[derive(Debug)]
pub struct Filled {
    path: PathBuf,
}

impl Filled {
    /// Opens it where it lies, for a look. It must be closed before [`Filled::publish`].
    ///
    /// # Errors
    /// As [`crate::Store::file`].
    pub fn open(&self, on_fatal: OnFatal) -> Result<crate::Store, OpenError> {
        crate::Store::file(unfinished(&self.path), on_fatal)
    }

    /// Gives it its name, durably.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn publish(self) -> Result<(), OpenError> {
        let failed = |source| io_error(&self.path, "cannot create", source);
        fs::rename(unfinished(&self.path), &self.path).map_err(failed)?;
        sync_directory(&self.path).map_err(failed)
    }
}
