//! Reads of the file, on whatever thread calls.

use super::{Bytes, DATA, PLAIN, Shared, seen_table};
use crate::error::StoreError;
use crate::scan;
use bulla_core::record::{Answer, HEAD_KEY, Page, Read, RecordError, SealedValue, Sequence, Snapshot, StoreKey, Table};
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition, TableError, TableHandle};
use std::collections::HashMap;
use std::ops::Bound;

/// Answers all reads from one state. A failure of the storage is fatal; a row that is no record is not,
/// since whoever owns the disk can write one.
pub(super) fn snapshot(shared: &Shared, reads: &[Read]) -> Result<Snapshot, StoreError> {
    let database = shared.database();
    let database = database.as_ref().ok_or(StoreError::Closed)?;
    let read = database.begin_read().map_err(Fault::from).and_then(|transaction| answers(&transaction, reads));
    read.map_err(|fault| fault.told(shared))
}

/// A transaction that goes on seeing the state of this moment.
pub(super) fn begin(shared: &Shared) -> Result<ReadTransaction, StoreError> {
    let database = shared.database();
    let database = database.as_ref().ok_or(StoreError::Closed)?;
    database.begin_read().map_err(|cause| Fault::from(cause).told(shared))
}

/// As [`snapshot`], from the state that a transaction sees.
pub(super) fn within(shared: &Shared, transaction: &ReadTransaction, reads: &[Read]) -> Result<Snapshot, StoreError> {
    answers(transaction, reads).map_err(|fault| fault.told(shared))
}

/// The minutes of all buckets that a transaction sees, in order.
pub(super) fn buckets(shared: &Shared, transaction: &ReadTransaction) -> Result<Vec<u32>, StoreError> {
    let tables = transaction.list_tables().map_err(|cause| Fault::from(cause).told(shared))?;
    let mut minutes: Vec<u32> = tables.filter_map(|table| table.name().strip_prefix("seen/")?.parse().ok()).collect();
    minutes.sort_unstable();
    Ok(minutes)
}

enum Fault {
    Storage(redb::Error),
    Malformed(Table, RecordError),
}

impl Fault {
    fn told(self, shared: &Shared) -> StoreError {
        match self {
            Self::Storage(cause) => StoreError::Io { detail: shared.fatal("reading", &cause) },
            Self::Malformed(table, source) => StoreError::Malformed { table, source },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(cause: E) -> Self {
        Self::Storage(cause.into())
    }
}

fn answers(transaction: &ReadTransaction, reads: &[Read]) -> Result<Snapshot, Fault> {
    let mut tables = Tables { transaction, open: HashMap::new() };
    let sequence = match tables.open(Table::Plain)? {
        Some(plain) => plain.get(HEAD_KEY)?.and_then(|row| sequence(row.value())),
        None => None,
    };
    let mut answers = Vec::with_capacity(reads.len());
    for read in reads {
        answers.push(match read {
            Read::Get(table, key) => Answer::Value(get(&mut tables, *table, key)?),
            Read::Scan { table, prefix, after, limit } => {
                Answer::Page(page(&mut tables, *table, prefix, after.as_ref(), *limit)?)
            }
        });
    }
    Ok(Snapshot { sequence, answers })
}

fn sequence(head: &[u8]) -> Option<Sequence> {
    SealedValue::new(head).ok()?.head_sequence()
}

fn get(tables: &mut Tables<'_>, table: Table, key: &StoreKey) -> Result<Option<SealedValue>, Fault> {
    let Some(rows) = tables.open(table)? else { return Ok(None) };
    let Some(value) = rows.get(key.as_bytes())? else { return Ok(None) };
    SealedValue::new(value.value()).map(Some).map_err(|source| Fault::Malformed(table, source))
}

fn page(
    tables: &mut Tables<'_>,
    table: Table,
    prefix: &[u8],
    after: Option<&StoreKey>,
    limit: usize,
) -> Result<Page, Fault> {
    let Some(rows) = tables.open(table)? else { return Ok(Page::default()) };
    let range = (scan::start(prefix, after), Bound::Unbounded);
    let rows = rows.range::<&[u8]>(range)?.map(|row| {
        let (key, value) = row?;
        let malformed = |source| Fault::Malformed(table, source);
        Ok((StoreKey::new(key.value()).map_err(malformed)?, SealedValue::new(value.value()).map_err(malformed)?))
    });
    scan::page(prefix, limit, rows)
}

/// The tables of one read transaction, each opened when it is first asked.
struct Tables<'a> {
    transaction: &'a ReadTransaction,
    open: HashMap<Table, Option<ReadOnlyTable<Bytes, Bytes>>>,
}

impl Tables<'_> {
    /// A table, or nothing if it was never written.
    fn open(&mut self, table: Table) -> Result<Option<&ReadOnlyTable<Bytes, Bytes>>, Fault> {
        if !self.open.contains_key(&table) {
            let opened = match table {
                Table::Plain => self.transaction.open_table(PLAIN),
                Table::Data => self.transaction.open_table(DATA),
                Table::Seen(minute) => self.transaction.open_table(TableDefinition::new(&seen_table(minute))),
            };
            let opened = match opened {
                Ok(opened) => Some(opened),
                Err(TableError::TableDoesNotExist(_)) => None,
                Err(cause) => return Err(cause.into()),
            };
            self.open.insert(table, opened);
        }
        Ok(self.open.get(&table).and_then(Option::as_ref))
    }
}
