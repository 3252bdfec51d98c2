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
    fn note(&mut self, operation: u8, table: Table, key: &StoreKey) {
        let bytes = self.record.body();
        bytes.push(operation);
        match table {
            Table::Plain => bytes.push(PLAIN),
            Table::Data => bytes.push(DATA),
            Table::Seen(minute) => {
                bytes.push(SEEN);
                bytes.extend(minute.to_be_bytes());
            }
        }
        note_bytes(bytes, key.as_bytes());
    }
}

/// A length and the bytes; keys and values are far below 4 GiB.
fn note_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    record.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    record.extend(bytes);
}

impl Rows for Noted<'_> {
    type Fault = Fault;

    fn revision(&mut self, table: Table, key: &StoreKey) -> Result<Option<Revision>, Fault> {
        self.rows.revision(table, key)
    }

    fn put(&mut self, table: Table, key: StoreKey, value: SealedValue) -> Result<(), Fault> {
        self.note(PUT, table, &key);
        note_bytes(self.record.body(), value.as_bytes());
        self.rows.put(table, key, value)
    }

    fn delete(&mut self, table: Table, key: &StoreKey) -> Result<(), Fault> {
        self.note(DELETE, table, key);
        self.rows.delete(table, key)
    }

    fn drop_seen(&mut self, minute: u32) -> Result<(), Fault> {
        let bytes = self.record.body();
        bytes.push(DROP_SEEN);
        bytes.extend(minute.to_be_bytes());
        self.rows.drop_seen(minute)
    }
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
        let operation = bytes.next(rows);
        operation.unwrap_or(Err(Unapplied::Meaningless))?;
    }
    Ok(())
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// Applies the next write; nothing if there is none that can be read.
    fn next(&mut self, rows: &mut OpenRows<'_>) -> Option<Result<(), Unapplied>> {
        let [operation] = self.chunk()?;
        let done = match operation {
            PUT => {
                let (table, key) = (self.table()?, self.key()?);
                let value = SealedValue::new(self.counted()?).ok()?;
                rows.put(table, key, value)
            }
            DELETE => {
                let (table, key) = (self.table()?, self.key()?);
                rows.delete(table, &key)
            }
            DROP_SEEN => {
                let minute = u32::from_be_bytes(self.chunk()?);
                rows.drop_seen(minute)
            }
            _ => return None,
        };
        Some(done.map_err(Unapplied::Fault))
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
