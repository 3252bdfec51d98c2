//! The writes in a record of the journal: made while they are applied, applied again at the opening.

use super::journal::Record;
use super::rows::{Fault, OpenRows};
use crate::transaction::Rows;
use bulla_core::record::{Revision, SealedValue, StoreKey, Table};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DROP_SEEN: u8 = 3;

const PLAIN: u8 = 0;
const DATA: u8 = 1;
const SEEN: u8 = 2;

/// Rows of an open transaction whose writes are noted as well.
pub(super) struct Noted<'txn> {
    pub(super) rows: OpenRows<'txn>,
    pub(super) record: Record,
}

impl Noted<'_> {
    fn make(&mut self, write: Write) -> Result<(), Fault> {
        write.note(self.record.body());
        write.apply(&mut self.rows)
    }
}

impl Rows for Noted<'_> {
    type Fault = Fault;

    fn revision(&mut self, table: Table, key: &StoreKey) -> Result<Option<Revision>, Fault> {
        self.rows.revision(table, key)
    }

    fn put(&mut self, table: Table, key: StoreKey, value: SealedValue) -> Result<(), Fault> {
        self.make(Write::Put(table, key, value))
    }

    fn delete(&mut self, table: Table, key: &StoreKey) -> Result<(), Fault> {
        self.make(Write::Delete(table, key.clone()))
    }

    fn drop_seen(&mut self, minute: u32) -> Result<(), Fault> {
        self.make(Write::DropSeen(minute))
    }
}

/// One write of a record.
enum Write {
    Put(Table, StoreKey, SealedValue),
    Delete(Table, StoreKey),
    DropSeen(u32),
}

impl Write {
    fn note(&self, record: &mut Vec<u8>) {
        match self {
            Self::Put(table, key, value) => {
                note_place(record, PUT, *table, key);
                note_bytes(record, value.as_bytes());
            }
            Self::Delete(table, key) => note_place(record, DELETE, *table, key),
            Self::DropSeen(minute) => {
                record.push(DROP_SEEN);
                record.extend(minute.to_be_bytes());
            }
        }
    }

    fn apply(self, rows: &mut OpenRows<'_>) -> Result<(), Fault> {
        match self {
            Self::Put(table, key, value) => rows.put(table, key, value),
            Self::Delete(table, key) => rows.delete(table, &key),
            Self::DropSeen(minute) => rows.drop_seen(minute),
        }
    }
}

fn note_place(record: &mut Vec<u8>, operation: u8, table: Table, key: &StoreKey) {
    record.push(operation);
    match table {
        Table::Plain => record.push(PLAIN),
        Table::Data => record.push(DATA),
        Table::Seen(minute) => {
            record.push(SEEN);
            record.extend(minute.to_be_bytes());
        }
    }
    note_bytes(record, key.as_bytes());
}

/// A length and the bytes; keys and values are far below 4 GiB.
fn note_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    record.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    record.extend(bytes);
}

/// Why a record was not applied.
pub(super) enum Unapplied {
    /// Its checksum holds and its content has no meaning: another program wrote it, or this one is faulty.
    Meaningless,
    /// The database could not do it.
    Fault(Fault),
}

impl From<Fault> for Unapplied {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Applies the writes of a record. Each gives the same rows however often the whole journal is applied.
pub(super) fn apply(rows: &mut OpenRows<'_>, body: &[u8]) -> Result<(), Unapplied> {
    let mut bytes = Bytes(body);
    while !bytes.0.is_empty() {
        bytes.next().ok_or(Unapplied::Meaningless)?.apply(rows)?;
    }
    Ok(())
}

/// The writes of a record as they would be noted again; nothing if they have no meaning.
#[cfg(any(test, feature = "simulation"))]
pub(super) fn noted_again(body: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut record) = (Bytes(body), Vec::new());
    while !bytes.0.is_empty() {
        bytes.next()?.note(&mut record);
    }
    Some(record)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// The next write; nothing if there is none that can be read.
    fn next(&mut self) -> Option<Write> {
        let [operation] = self.chunk()?;
        match operation {
            PUT => Some(Write::Put(self.table()?, self.key()?, SealedValue::new(self.counted()?).ok()?)),
            DELETE => Some(Write::Delete(self.table()?, self.key()?)),
            DROP_SEEN => Some(Write::DropSeen(u32::from_be_bytes(self.chunk()?))),
            _ => None,
        }
    }

    fn table(&mut self) -> Option<Table> {
        match self.chunk()? {
            [PLAIN] => Some(Table::Plain),
            [DATA] => Some(Table::Data),
            [SEEN] => Some(Table::Seen(u32::from_be_bytes(self.chunk()?))),
            _ => None,
        }
    }

    fn key(&mut self) -> Option<StoreKey> {
        StoreKey::new(self.counted()?).ok()
    }

    fn counted(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(u32::from_be_bytes(self.chunk()?)).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*chunk)
    }
}
