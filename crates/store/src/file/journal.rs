//! The journal: what was acknowledged and does not stand durably in the database yet.
//!
//! A transaction of the database costs two syncs and writes the allocator's state besides its own pages, whatever its
//! size. So a group is written here instead, in one piece with one sync, and into the database without any; every
//! [`LIMIT_BYTES`] one durable transaction takes all of it over, and the journal begins anew. Opening repeats what the
//! database lacks. Records are overwritten in place, so that a sync has no change of the file's length to write.
//!
//! The layout is in `spec/storage.md`.

use crate::error::OpenError;
use crate::failpoint;
use bulla_crypto::digest::sha256;
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The journal is taken over once it holds so much: enough that the two syncs of a durable transaction hardly count,
/// and little enough that an opening repeats it in some milliseconds.
pub(super) const LIMIT_BYTES: u64 = 2 * 1024 * 1024;
/// The same in a process that is to die at some point, so that it meets those around a full journal.
const LIMIT_BYTES_ARMED: u64 = 16 * 1024;
/// Longest file that is read at the opening: the limit, and the largest group after it, with much room.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Where records begin: a page of their own, so that no torn write of theirs reaches the header.
pub(super) const RECORDS_START: u64 = 4096;
/// The first bytes of the file.
const MAGIC: [u8; 8] = *b"bullajnl";
/// Generation (8), number (8) and length of the body (4).
const RECORD_HEAD: usize = 20;
const CHECKSUM: usize = 16;

/// Which store a journal belongs to; random.
pub(super) type StoreId = [u8; 16];

/// Where the journal of the store at `path` lies.
pub(super) fn path_of(path: &Path) -> PathBuf {
    path.with_extension("journal")
}

/// One journal, at the place where the next record goes.
#[derive(Debug)]
pub(super) struct Journal {
    file: Box<dyn StorageBackend>,
    store: StoreId,
    generation: u64,
    number: u64,
    end: u64,
    checksum: [u8; CHECKSUM],
    limit: u64,
}

/// A record under construction: the writes of one transaction.
#[derive(Debug)]
pub(super) struct Record(Vec<u8>);

impl Record {
    pub(super) fn new() -> Self {
        Self(vec![0; RECORD_HEAD])
    }

    /// Where the writes are appended.
    pub(super) fn body(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// What stands in a journal file.
enum Found {
    /// The bodies of the records of the database's generation, in order.
    Records(Vec<Vec<u8>>),
    /// It goes on from a later state than the database's.
    Later,
    /// A record is not whole, and the one after it is: it was synced, so it was whole once.
    Damaged,
}

impl Journal {
    /// Opens the journal beside the store at `path`, or makes it, and gives the bodies that the database lacks.
    pub(super) fn open(path: &Path, store: StoreId, generation: u64) -> Result<(Self, Vec<Vec<u8>>), OpenError> {
        let path = path_of(path);
        let failed = |action| move |path: &Path, source| OpenError::Io { path: path.to_owned(), action, source };
        let exists = fs::exists(&path).map_err(|source| failed("cannot look for")(&path, source))?;
        if !exists {
            create(&path, store).map_err(|source| failed("cannot make")(&path, source))?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|source| failed("cannot open")(&path, source))?;
        // The database has a lock of its own; whoever replaces it beside a process that runs gets no second writer here.
        file.try_lock().map_err(|_| OpenError::Locked { path: path.clone() })?;
        let backend = FileBackend::new(file)
            .map_err(|cause| OpenError::Damaged { path: path.clone(), detail: cause.to_string() })?;
        let limit = if failpoint::armed() { LIMIT_BYTES_ARMED } else { LIMIT_BYTES };
        Self::from_backend(Box::new(backend), &path, store, generation, limit)
    }

    /// The same on any file; `path` is for messages.
    pub(super) fn from_backend(
        file: Box<dyn StorageBackend>,
        path: &Path,
        store: StoreId,
        generation: u64,
        limit: u64,
    ) -> Result<(Self, Vec<Vec<u8>>), OpenError> {
        let damaged = |detail: String| OpenError::Damaged { path: path.to_owned(), detail };
        let unread = |source| OpenError::Io { path: path.to_owned(), action: "cannot read", source };
        let length = file.len().map_err(unread)?;
        if !(RECORDS_START..=FILE_BYTES_MAX).contains(&length) {
            return Err(damaged(format!("it has {length} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read(0, &mut bytes).map_err(unread)?;
        if !bytes.starts_with(&header(store)) {
            return Err(match bytes.starts_with(&MAGIC) {
                true => OpenError::OtherJournal { path: path.to_owned(), reason: "it belongs to another store" },
                false => damaged("it does not begin as a journal".to_owned()),
            });
        }
        let start = usize::try_from(RECORDS_START).unwrap_or_default();
        match records(bytes.get(start..).unwrap_or_default(), store, generation) {
            Found::Later => {
                let reason = "it goes on from a later state than the store's";
                Err(OpenError::OtherJournal { path: path.to_owned(), reason })
            }
            Found::Damaged => Err(damaged("a record that was synced is not whole".to_owned())),
            Found::Records(bodies) => {
                let journal =
                    Self { file, store, generation, number: 0, end: RECORDS_START, checksum: [0; CHECKSUM], limit };
                Ok((journal, bodies))
            }
        }
    }

    /// Writes a record durably.
    pub(super) fn append(&mut self, record: Record) -> io::Result<()> {
        let Record(mut bytes) = record;
        let body = u32::try_from(bytes.len().saturating_sub(RECORD_HEAD)).map_err(io::Error::other)?;
        let mut head = Vec::with_capacity(RECORD_HEAD);
        head.extend(self.generation.to_be_bytes());
        head.extend(self.number.to_be_bytes());
        head.extend(body.to_be_bytes());
        bytes.splice(..RECORD_HEAD, head);
        let checksum = checksum(&self.store, &self.checksum, &bytes);
        bytes.extend(checksum);
        self.file.write(self.end, &bytes)?;
        failpoint::hit(failpoint::JOURNAL_BEFORE);
        self.file.sync_data()?;
        self.checksum = checksum;
        self.number = self.number.saturating_add(1);
        self.end = self.end.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// It holds nothing that the database lacks.
    pub(super) fn is_empty(&self) -> bool {
        self.number == 0
    }

    /// It holds so much that the database should take it over.
    pub(super) fn is_full(&self) -> bool {
        self.end >= self.limit
    }

    /// Where the next record goes.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The generation after this one.
    pub(super) fn next_generation(&self) -> u64 {
        self.generation.saturating_add(1)
    }

    /// Which store it belongs to.
    pub(super) fn store(&self) -> StoreId {
        self.store
    }

    /// Begins the next generation, once the database has said durably that it holds all of this one. A file that one
    /// large group made long is cut to its usual length.
    pub(super) fn begin_next(&mut self) -> io::Result<()> {
        self.generation = self.next_generation();
        (self.number, self.end, self.checksum) = (0, RECORDS_START, [0; CHECKSUM]);
        let usual = file_bytes(self.limit);
        if self.file.len()? > usual { self.file.set_len(usual) } else { Ok(()) }
    }
}

/// Length of a new file: the limit is passed by the record that reaches it.
const fn file_bytes(limit: u64) -> u64 {
    limit.saturating_add(64 * 1024)
}

fn header(store: StoreId) -> Vec<u8> {
    [&MAGIC[..], &store].concat()
}

/// What a new file holds. Zeros that are written, not a hole: a sync of a hole's first content has the file's map to
/// write as well.
pub(super) fn new_file(store: StoreId, limit: u64) -> Vec<u8> {
    let mut bytes = header(store);
    bytes.resize(usize::try_from(file_bytes(limit)).unwrap_or_default(), 0);
    bytes
}

/// The other name under which a journal is begun.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("journal.new")
}

/// Makes an empty journal under another name and renames it, so that whatever bears the name has a header.
fn create(path: &Path, store: StoreId) -> io::Result<()> {
    let unfinished = unfinished(path);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    // In pieces of a page: written at once, it lies in the system's cache in pieces as large, and each record has
    // all of one looked through and accounted for.
    new_file(store, LIMIT_BYTES).chunks(4096).try_for_each(|page| io::Write::write_all(&mut &file, page))?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_directory(path)
}

/// Refuses to make a store where a journal waits for one: it may be all that is left of some commits.
pub(super) fn demand_none(path: &Path) -> Result<(), OpenError> {
    let path = path_of(path);
    match fs::exists(&path) {
        Ok(false) => Ok(()),
        Ok(true) => Err(OpenError::OtherJournal { path, reason: "there is none" }),
        Err(source) => Err(OpenError::Io { path, action: "cannot look for", source }),
    }
}

/// Removes the journal of a store that was closed in order: then the database alone is the store.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let path = path_of(path);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what happened to names in a file's directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|directory| directory.sync_all())
}

fn checksum(store: &StoreId, before: &[u8; CHECKSUM], record: &[u8]) -> [u8; CHECKSUM] {
    let hash = sha256(&[store, before, record]);
    *hash.first_chunk().unwrap_or(&[0; CHECKSUM])
}

/// Reads records until one is not whole: the last, which nobody was told of, may be torn. Those of an earlier
/// generation stand in the database already.
fn records(mut bytes: &[u8], store: StoreId, generation: u64) -> Found {
    let (mut bodies, mut before, mut number) = (Vec::new(), [0; CHECKSUM], 0);
    while let Some(whole) = whole(bytes, &store, &before, number) {
        if whole.generation > generation {
            return Found::Later;
        }
        if whole.generation < generation {
            break;
        }
        bodies.push(whole.body.to_vec());
        (bytes, before, number) = (whole.rest, whole.checksum, number.saturating_add(1));
    }
    let next = stated(bytes).and_then(|(checksum, rest)| whole(rest, &store, &checksum, number.saturating_add(1)));
    if next.is_some_and(|next| next.generation == generation) { Found::Damaged } else { Found::Records(bodies) }
}

/// The checksum that the first record states, be it true or not, and what follows the record.
fn stated(bytes: &[u8]) -> Option<([u8; CHECKSUM], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEAD>()?;
    let length = usize::try_from(u32::from_be_bytes(*head.last_chunk()?)).ok()?;
    let (checksum, rest) = rest.get(length..)?.split_first_chunk::<CHECKSUM>()?;
    Some((*checksum, rest))
}

/// A record whose number and checksum hold.
struct Whole<'a> {
    generation: u64,
    body: &'a [u8],
    checksum: [u8; CHECKSUM],
    /// What follows it.
    rest: &'a [u8],
}

fn whole<'a>(bytes: &'a [u8], store: &StoreId, before: &[u8; CHECKSUM], number: u64) -> Option<Whole<'a>> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEAD>()?;
    let (generation, after) = head.split_first_chunk::<8>()?;
    let (found, length) = after.split_first_chunk::<8>()?;
    let length = usize::try_from(u32::from_be_bytes(*length.first_chunk()?)).ok()?;
    let (body, rest) = rest.split_at_checked(length)?;
    let (stated, rest) = rest.split_first_chunk::<CHECKSUM>()?;
    let record = bytes.get(..RECORD_HEAD.checked_add(length)?)?;
    let good = u64::from_be_bytes(*found) == number && *stated == checksum(store, before, record);
    good.then_some(Whole { generation: u64::from_be_bytes(*generation), body, checksum: *stated, rest })
}
