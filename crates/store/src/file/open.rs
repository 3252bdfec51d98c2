//! Opening and making a store file.

use super::{CACHE_BYTES, DATA, META, PLAIN};
use crate::error::OpenError;
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The layout that this program writes, see `spec/storage.md`.
pub const FORMAT_VERSION: u32 = 1;

/// Row of the meta table: the format version, four bytes, big-endian.
const FORMAT_KEY: &str = "format";

/// The first bytes of every redb file.
const REDB_MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];

/// Opens the store at `path`; if nothing is there, makes one.
pub(super) fn open_or_create(path: &Path) -> Result<Database, OpenError> {
    let exists = fs::exists(path).map_err(|source| io_error(path, "cannot look for", source))?;
    if !exists {
        create(path)?;
    }
    open(path)
}

/// Makes an empty store under another name and renames it into place, so that a crash leaves no half-made
/// file that would look like a damaged store.
fn create(path: &Path) -> Result<(), OpenError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    match fs::remove_file(&unfinished) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(&unfinished, "cannot remove the unfinished", source));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&unfinished);
    let file = file.map_err(|source| io_error(&unfinished, "cannot create", source))?;
    initialise(file).map_err(|cause| io_error(&unfinished, "cannot write", io::Error::other(cause)))?;

    let rename = |source| io_error(path, "cannot create", source);
    fs::rename(&unfinished, path).map_err(rename)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(rename)
}

fn initialise(file: File) -> Result<(), redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_file(file)?;
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(PLAIN)?;
    transaction.open_table(DATA)?;
    transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT_VERSION.to_be_bytes().as_slice())?;
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

fn io_error(path: &Path, action: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), action, source }
}
