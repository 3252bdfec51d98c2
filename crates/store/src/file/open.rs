//! Opening and making a store file.

use super::entry::{self, Unapplied};
use super::journal::{self, Journal, StoreId, sync_directory};
use super::rows::OpenRows;
use super::{CACHE_BYTES, DATA, META, PLAIN};
use crate::error::OpenError;
use crate::failpoint;
use bulla_crypto::random::{SystemRng, draw};
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableError, WriteTransaction};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The layout that this program writes, see `spec/storage.md`.
pub const FORMAT_VERSION: u32 = 2;

/// Row of the meta table: the format version, four bytes, big-endian.
const FORMAT_KEY: &str = "format";

/// Row of the meta table: what the journal of this state is, the store's id and then the generation, big-endian.
const JOURNAL_KEY: &str = "journal";

/// The first bytes of every redb file.
const REDB_MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];

/// Opens the store at `path`; if nothing is there, makes one.
pub(super) fn open_or_create(path: &Path) -> Result<(Database, Journal), OpenError> {
    let exists = fs::exists(path).map_err(|source| io_error(path, "cannot look for", source))?;
    if !exists {
        journal::demand_none(path)?;
        create(path)?;
    }
    let database = open(path)?;
    let (store, generation) = journal_of(&database, path)?;
    let (journal, bodies) = Journal::open(path, store, generation)?;
    let journal = repeat(&database, journal, &bodies, path)?;
    Ok((database, journal))
}

/// Brings into the database what only the journal holds, durably, and begins the journal anew.
pub(super) fn repeat(
    database: &Database,
    mut journal: Journal,
    bodies: &[Vec<u8>],
    path: &Path,
) -> Result<Journal, OpenError> {
    if bodies.is_empty() {
        return Ok(journal);
    }
    let beside = journal::path_of(path);
    let failed = |cause: redb::Error| io_error(path, "cannot bring the journal into", io::Error::other(cause));
    let transaction = begin_durable(database).map_err(failed)?;
    let applied = OpenRows::new(&transaction).map_err(Unapplied::Fault).and_then(|mut rows| {
        bodies.iter().try_for_each(|body| entry::apply(&mut rows, body))?;
        rows.finish().map_err(Unapplied::Fault)
    });
    applied.map_err(|error| match error {
        Unapplied::Meaningless => OpenError::Damaged { path: beside, detail: "a record has no meaning".to_owned() },
        Unapplied::Fault(fault) => io_error(path, "cannot bring the journal into", io::Error::other(fault.to_string())),
    })?;
    checkpoint(transaction, &mut journal).map_err(failed)?;
    Ok(journal)
}

/// A transaction that is durable once it is committed, with all before it. Quick-repair keeps an opening after a crash
/// from growing with the data.
pub(super) fn begin_durable(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Commits durably that the journal's next generation goes on from here, and begins it.
pub(super) fn checkpoint(transaction: WriteTransaction, journal: &mut Journal) -> Result<(), redb::Error> {
    name_journal(&transaction, journal.store(), journal.next_generation())?;
    transaction.commit()?;
    failpoint::hit(failpoint::CHECKPOINT_AFTER);
    journal.begin_next().map_err(redb::Error::Io)
}

fn name_journal(transaction: &WriteTransaction, store: StoreId, generation: u64) -> Result<(), redb::Error> {
    let row = [&store[..], &generation.to_be_bytes()].concat();
    transaction.open_table(META)?.insert(JOURNAL_KEY, row.as_slice())?;
    Ok(())
}

/// The store's id, and the generation of the journal that goes on from the database's state.
pub(super) fn journal_of(database: &Database, path: &Path) -> Result<(StoreId, u64), OpenError> {
    let damaged = |detail: &dyn ToString| OpenError::Damaged { path: path.to_owned(), detail: detail.to_string() };
    let transaction = database.begin_read().map_err(|cause| damaged(&cause))?;
    let table = transaction.open_table(META).map_err(|cause| damaged(&cause))?;
    let row = table.get(JOURNAL_KEY).map_err(|cause| damaged(&cause))?;
    let named = row.as_ref().and_then(|row| {
        let (store, generation) = row.value().split_first_chunk::<16>()?;
        Some((*store, u64::from_be_bytes(generation.try_into().ok()?)))
    });
    named.ok_or_else(|| damaged(&"it names no journal"))
}

/// Makes an empty store under another name and renames it into place, so that a crash leaves no half-made
/// file that would look like a damaged store.
fn create(path: &Path) -> Result<(), OpenError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    drop(anew(&unfinished)?);

    let rename = |source| io_error(path, "cannot create", source);
    fs::rename(&unfinished, path).map_err(rename)?;
    sync_directory(path).map_err(rename)
}

/// Makes an empty store under exactly this name, in the place of what was left there.
pub(super) fn anew(path: &Path) -> Result<Database, OpenError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(path, "cannot remove the unfinished", source));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|source| io_error(path, "cannot create", source))?;
    initialise(file).map_err(|cause| io_error(path, "cannot write", io::Error::other(cause)))
}

fn initialise(file: File) -> Result<Database, redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_file(file)?;
    lay_out(&database)?;
    Ok(database)
}

/// Makes the tables of an empty store.
pub(super) fn lay_out(database: &Database) -> Result<(), redb::Error> {
    let transaction = begin_durable(database)?;
    transaction.open_table(PLAIN)?;
    transaction.open_table(DATA)?;
    transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT_VERSION.to_be_bytes().as_slice())?;
    name_journal(&transaction, draw(&mut SystemRng), 1)?;
    transaction.commit()?;
    Ok(())
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let damaged = |detail: String| OpenError::Damaged { path: path.to_owned(), detail };
    let not_a_store = |reason| OpenError::NotAStore { path: path.to_owned(), reason };
    let mut magic = Vec::new();
    let opened = File::open(path).map_err(|source| io_error(path, "cannot open", source))?;
    opened
        .take(u64::try_from(REDB_MAGIC.len()).unwrap_or(u64::MAX))
        .read_to_end(&mut magic)
        .map_err(|source| io_error(path, "cannot read", source))?;
    if magic != REDB_MAGIC {
        return Err(not_a_store("it does not begin as one"));
    }
    // redb asserts some things about a file that only damage can break.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = Database::builder().set_cache_size(CACHE_BYTES).open(path)?;
        let version = format_version(&database)?;
        Ok((database, version))
    }));
    let (database, version) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(Unreadable::Database(DatabaseError::DatabaseAlreadyOpen))) => {
            return Err(OpenError::Locked { path: path.to_owned() });
        }
        Ok(Err(Unreadable::Database(DatabaseError::Storage(StorageError::Io(source)))))
            if source.kind() != io::ErrorKind::UnexpectedEof && source.kind() != io::ErrorKind::InvalidData =>
        {
            return Err(io_error(path, "cannot open", source));
        }
        Ok(Err(Unreadable::Database(cause))) => return Err(damaged(cause.to_string())),
        Ok(Err(Unreadable::Meta(cause))) => return Err(damaged(cause.to_string())),
        Ok(Err(Unreadable::NoMeta)) => return Err(not_a_store("it is a redb file of another program")),
        Err(_) => return Err(damaged("its pages contradict each other".to_owned())),
    };
    match version {
        Some(FORMAT_VERSION) => Ok(database),
        Some(found) if found > FORMAT_VERSION => {
            Err(OpenError::NewerFormat { path: path.to_owned(), found, supported: FORMAT_VERSION })
        }
        _ => Err(damaged("it has no known format version".to_owned())),
    }
}

enum Unreadable {
    Database(DatabaseError),
    Meta(redb::Error),
    NoMeta,
}

impl From<DatabaseError> for Unreadable {
    fn from(cause: DatabaseError) -> Self {
        Self::Database(cause)
    }
}

fn format_version(database: &Database) -> Result<Option<u32>, Unreadable> {
    let meta = |cause: redb::Error| Unreadable::Meta(cause);
    let transaction = database.begin_read().map_err(|cause| meta(cause.into()))?;
    let table = match transaction.open_table(META) {
        Ok(table) => table,
        Err(TableError::Storage(cause)) => return Err(meta(cause.into())),
        Err(_) => return Err(Unreadable::NoMeta),
    };
    let row = table.get(FORMAT_KEY).map_err(|cause| meta(cause.into()))?;
    Ok(row.and_then(|row| row.value().try_into().ok()).map(u32::from_be_bytes))
}

pub(super) fn io_error(path: &Path, action: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), action, source }
}
