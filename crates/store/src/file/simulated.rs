//! A disk in memory that loses power, and the file store on it, which writes when it is told to.
//!
//! The disk keeps a log of what it was told, from which it can be made what is left after a power cut at any moment:
//! everything before a file's last sync, and of what follows whatever the caller says, down to single sectors.
//! [`open`] gives a store whose writer has no thread: [`Turns`] lets it write one group, so that a simulation decides
//! which commits share a transaction and what comes between them.

use super::journal::{self, Journal};
use super::writer::{self, Commit, Job, Writer};
use super::{FileStore, OnFatal, Reads, entry, open};
use crate::{OpenError, Store};
use bulla_core::record::{Batch, SealedValue, Table};
use redb::{Database, StorageBackend};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The database among a disk's files.
pub const DATABASE: usize = 0;
/// The journal.
pub const JOURNAL: usize = 1;
/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// A disk with two files, database and journal. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Platter>>);

/// What the files hold when nothing is under way. Clones are cheap.
#[derive(Clone, Default)]
pub struct Image([Arc<Vec<u8>>; 2]);

/// One of a disk's files.
#[derive(Debug, Clone)]
pub(super) struct DiskFile(Disk, usize);

#[derive(Default)]
struct Platter {
    bytes: [Vec<u8>; 2],
    /// What was there before the log began.
    base: Image,
    log: Vec<(usize, Order)>,
    fails: Option<Fails>,
    lies: Option<usize>,
}

#[derive(Debug, Clone)]
enum Order {
    Write(usize, Vec<u8>),
    Length(usize),
    Sync,
}

/// What a disk does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    /// It writes nothing.
    Writes,
    /// It syncs nothing.
    Syncs,
    /// It does nothing at all once its log has so many orders: power goes there.
    After(usize),
}

impl Fails {
    fn refuses(self, order: &Order, orders: usize) -> bool {
        match self {
            Self::Writes => !matches!(order, Order::Sync),
            Self::Syncs => matches!(order, Order::Sync),
            Self::After(last) => orders >= last,
        }
    }
}

impl Order {
    fn carry_out(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset.saturating_add(data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                if let Some(place) = bytes.get_mut(*offset..end) {
                    place.copy_from_slice(data);
                }
            }
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Sync => {}
        }
    }

    /// What is left of it after a power cut: all, nothing, its first half, or some of its sectors. A length lasts or
    /// does not.
    fn survive(&self, bytes: &mut Vec<u8>, next: &mut impl FnMut() -> u64) {
        match (next() % 4, self) {
            (0, order) => order.carry_out(bytes),
            (1, Self::Write(offset, data)) => {
                let half = data.get(..data.len() / 2).unwrap_or_default().to_vec();
                Self::Write(*offset, half).carry_out(bytes);
            }
            (2, Self::Write(offset, data)) => {
                // A sector of the disk is whole, wherever the write begins.
                let mut rest = data.as_slice();
                let mut at = *offset;
                while !rest.is_empty() {
                    let length = (SECTOR - at % SECTOR).min(rest.len());
                    let (sector, more) = rest.split_at(length);
                    if next().is_multiple_of(2) {
                        Self::Write(at, sector.to_vec()).carry_out(bytes);
                    }
                    (at, rest) = (at.saturating_add(length), more);
                }
            }
            _ => {}
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({} orders)", self.orders())
    }
}

impl Disk {
    /// A disk with the database of a store that was closed in order.
    pub fn with_database(bytes: Vec<u8>) -> Self {
        Self::of(&Image([Arc::new(bytes), Arc::default()]))
    }

    /// A disk that holds this.
    pub fn of(image: &Image) -> Self {
        let bytes = image.0.clone().map(|file| file.as_ref().clone());
        Self(Arc::new(Mutex::new(Platter { bytes, base: image.clone(), ..Platter::default() })))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it fails like this.
    pub fn fail(&self, fails: Fails) {
        self.platter().fails = Some(fails);
    }

    /// It works again.
    pub fn mend(&self) {
        self.platter().fails = None;
    }

    /// From now on syncs of one file are only pretended.
    pub fn lie(&self, file: usize) {
        self.platter().lies = Some(file);
    }

    /// How many orders it was given.
    pub fn orders(&self) -> usize {
        self.platter().log.len()
    }

    /// Whether it refuses everything, as power is gone.
    pub fn is_off(&self) -> bool {
        let platter = self.platter();
        matches!(platter.fails, Some(Fails::After(last)) if platter.log.len() >= last)
    }

    /// What the files hold now.
    pub fn image(&self) -> Image {
        Image(self.platter().bytes.clone().map(Arc::new))
    }

    /// The disk after a power cut behind `orders` orders: everything before a file's last sync is there, and of
    /// what follows whatever `next` says, which is asked for numbers.
    pub fn after_power_cut(&self, orders: usize, mut next: impl FnMut() -> u64) -> Self {
        let platter = self.platter();
        let mut bytes = platter.base.0.clone().map(|file| file.as_ref().clone());
        for (file, bytes) in bytes.iter_mut().enumerate() {
            let own = || platter.log.iter().take(orders).filter(|(of, _)| *of == file).map(|(_, order)| order);
            let synced = own().enumerate().filter(|(_, order)| matches!(order, Order::Sync)).map(|(at, _)| at).last();
            for (index, order) in own().enumerate() {
                match synced.is_some_and(|synced| index <= synced) {
                    true => order.carry_out(bytes),
                    false => order.survive(bytes, &mut next),
                }
            }
        }
        let base = Image(bytes.clone().map(Arc::new));
        Self(Arc::new(Mutex::new(Platter { base, bytes, ..Platter::default() })))
    }

    pub(super) fn file(&self, number: usize) -> DiskFile {
        DiskFile(self.clone(), number)
    }
}

impl Image {
    /// The bytes of database and journal.
    pub fn files(&self) -> [&[u8]; 2] {
        self.0.each_ref().map(|file| file.as_slice())
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({:?})", self.files().map(<[u8]>::len))
    }
}

impl DiskFile {
    fn order(&self, order: Order) -> io::Result<()> {
        let Self(disk, file) = self;
        let mut platter = disk.platter();
        if platter.fails.is_some_and(|fails| fails.refuses(&order, platter.log.len())) {
            return Err(io::Error::other("the disk is broken"));
        }
        if let Some(bytes) = platter.bytes.get_mut(*file) {
            order.carry_out(bytes);
        }
        if !(matches!(order, Order::Sync) && platter.lies == Some(*file)) {
            platter.log.push((*file, order));
        }
        Ok(())
    }
}

impl fmt::Debug for Platter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Platter({} orders)", self.log.len())
    }
}

fn number(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(io::Error::other)
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        let platter = self.0.platter();
        u64::try_from(platter.bytes.get(self.1).map_or(0, Vec::len)).map_err(io::Error::other)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = number(offset)?;
        let platter = self.0.platter();
        let file = platter.bytes.get(self.1).map(Vec::as_slice).unwrap_or_default();
        let found = file.get(offset..offset.saturating_add(out.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.order(Order::Length(number(length)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.order(Order::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.order(Order::Write(number(offset)?, data.to_vec()))
    }
}

/// Opens the two files, and makes them where they are not.
fn files(disk: &Disk, limit: u64, path: &Path) -> Result<(Database, Journal), OpenError> {
    let failed = |cause: redb::Error| open::io_error(path, "cannot open", io::Error::other(cause));
    let is_new = disk.file(DATABASE).len().is_ok_and(|length| length == 0);
    let database = Database::builder().set_cache_size(super::CACHE_BYTES).create_with_backend(disk.file(DATABASE));
    let database = database.map_err(|cause| failed(cause.into()))?;
    let io = |source| open::io_error(path, "cannot write", source);
    if disk.file(JOURNAL).len().map_err(io)? == 0 {
        if is_new {
            open::lay_out(&database).map_err(failed)?;
        }
        let header = journal::new_file(open::journal_of(&database, path)?.0, limit);
        disk.file(JOURNAL).write(0, &header).and_then(|()| disk.file(JOURNAL).sync_data()).map_err(io)?;
    }
    let (store, generation) = open::journal_of(&database, path)?;
    let (journal, bodies) = Journal::from_backend(Box::new(disk.file(JOURNAL)), path, store, generation, limit)?;
    let journal = open::repeat(&database, journal, &bodies, path)?;
    Ok((database, journal))
}

/// The store on a disk, with its thread; the database takes the journal over once that has `limit` bytes.
///
/// # Errors
/// If what the disk holds is no store.
pub fn start(disk: &Disk, limit: u64, on_fatal: OnFatal) -> Result<Store, OpenError> {
    let path = Path::new("bulla.redb");
    let (database, journal) = files(disk, limit, path)?;
    FileStore::start(database, journal, path, on_fatal).map(Store::File)
}

/// The store on a disk, which writes only by [`Turns`], and answers every read on the caller's own thread.
///
/// # Errors
/// If what the disk holds is no store.
pub fn open(disk: &Disk, limit: u64, on_fatal: OnFatal) -> Result<(Store, Turns), OpenError> {
    let path = Path::new("bulla.redb");
    let (database, journal) = files(disk, limit, path)?;
    let (store, writer) = FileStore::assemble(database, journal, path, on_fatal, Reads::Here);
    Ok((Store::File(store), Turns { writer, fault: None }))
}

/// The records that an opening finds in a journal with these bytes behind its header.
///
/// # Errors
/// As opening the store with it.
pub fn journal_bodies(records: &[u8], store: [u8; 16], generation: u64) -> Result<Vec<Vec<u8>>, OpenError> {
    let mut bytes = journal::new_file(store, 0);
    bytes.truncate(usize::try_from(journal::RECORDS_START).unwrap_or_default());
    bytes.extend_from_slice(records);
    let disk = Disk::of(&Image([Arc::default(), Arc::new(bytes)]));
    let (file, path) = (Box::new(disk.file(JOURNAL)), Path::new("bulla.journal"));
    Journal::from_backend(file, path, store, generation, 0).map(|(_, bodies)| bodies)
}

/// What the journal writes behind its header for these records.
///
/// # Errors
/// None occurs: the disk is in memory.
pub fn journal_records(bodies: &[&[u8]], store: [u8; 16], generation: u64) -> Result<Vec<u8>, OpenError> {
    let path = Path::new("bulla.journal");
    let disk = Disk::of(&Image([Arc::default(), Arc::new(journal::new_file(store, 0))]));
    let (mut journal, _) = Journal::from_backend(Box::new(disk.file(JOURNAL)), path, store, generation, 0)?;
    for body in bodies {
        let mut record = journal::Record::new();
        record.body().extend_from_slice(body);
        journal.append(record).map_err(|source| open::io_error(path, "cannot write", source))?;
    }
    let end = usize::try_from(journal.end()).unwrap_or_default();
    let start = usize::try_from(journal::RECORDS_START).unwrap_or_default();
    let [_, bytes] = disk.image().0;
    Ok(bytes.get(start..end).unwrap_or_default().to_vec())
}

/// A record's writes, read and noted again; nothing if they have no meaning.
pub fn journal_writes(body: &[u8]) -> Option<Vec<u8>> {
    entry::noted_again(body)
}

/// What a writer does wrong on purpose, to show that a simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not look at preconditions.
    NoPreconditions,
    /// It forgets which nonces were used.
    NoNonces,
    /// It alters the last byte of sealed records.
    Garbles,
}

/// The writer's turns.
pub struct Turns {
    writer: Writer,
    fault: Option<Fault>,
}

impl Turns {
    /// From now on it does this wrong.
    pub fn spoil(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// How many commits wait.
    pub fn waiting(&self) -> usize {
        self.writer.jobs.len()
    }

    /// Writes one group: all commits that wait, as far as they fit. Whether there was any.
    pub fn turn(&mut self) -> bool {
        let Ok(job) = self.writer.jobs.try_recv() else { return false };
        self.write(job);
        true
    }

    fn write(&mut self, job: Job) {
        let (mut group, _closing) = writer::gather(job, &mut self.writer.jobs);
        if let Some(fault) = self.fault {
            group.iter_mut().for_each(|Commit { batch, .. }| fault.spoil(batch));
        }
        self.writer.write(group);
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turns({} waiting)", self.waiting())
    }
}

impl Fault {
    fn spoil(self, batch: &mut Batch) {
        match self {
            Self::NoPreconditions => batch.preconditions.clear(),
            Self::NoNonces => batch.puts.retain(|(table, ..)| !matches!(table, Table::Seen(_))),
            Self::Garbles => {
                for (_, _, value) in batch.puts.iter_mut().filter(|(table, ..)| *table == Table::Data) {
                    let mut bytes = value.as_bytes().to_vec();
                    bytes.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
                    if let Ok(garbled) = SealedValue::new(bytes) {
                        *value = garbled;
                    }
                }
            }
        }
    }
}
