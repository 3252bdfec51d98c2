//! The rows of one open redb write transaction.

use super::{Bytes, DATA, PLAIN, seen_table};
use crate::transaction::Rows;
use bulla_core::record::{HEAD_KEY, RecordError, Revision, SealedValue, Sequence, StoreKey, Table};
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use std::collections::BTreeMap;
use std::fmt;

/// Why the writer cannot go on. A malformed row counts as a failed storage here: a precondition on it has
/// no answer.
pub(super) enum Fault {
    Storage(redb::Error),
    Malformed(Table, RecordError),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(cause: E) -> Self {
        Self::Storage(cause.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(cause) => write!(f, "{cause}"),
            Self::Malformed(table, cause) => write!(f, "a row in {table:?} is no record: {cause}"),
        }
    }
}

type OpenTable<'txn> = redb::Table<'txn, Bytes, Bytes>;

/// The tables of a write transaction, opened once for a whole group of batches.
pub(super) struct OpenRows<'txn> {
    transaction: &'txn WriteTransaction,
    plain: OpenTable<'txn>,
    data: OpenTable<'txn>,
    seen: BTreeMap<u32, OpenTable<'txn>>,
}

impl<'txn> OpenRows<'txn> {
    pub(super) fn new(transaction: &'txn WriteTransaction) -> Result<Self, Fault> {
        let plain = transaction.open_table(PLAIN)?;
        let data = transaction.open_table(DATA)?;
        Ok(Self { transaction, plain, data, seen: BTreeMap::new() })
    }

    /// The sequence number in the head row, if there is one.
    pub(super) fn sequence(&self) -> Result<Option<Sequence>, Fault> {
        let Some(row) = self.plain.get(HEAD_KEY)? else { return Ok(None) };
        let row = SealedValue::new(row.value()).map_err(|cause| Fault::Malformed(Table::Plain, cause))?;
        Ok(row.head_sequence())
    }

    /// Closes the tables. Opening a bucket to judge a precondition makes it; one that stayed empty goes, or
    /// nobody would ever drop it.
    pub(super) fn finish(self) -> Result<(), Fault> {
        for (minute, bucket) in self.seen {
            let empty = bucket.is_empty()?;
            drop(bucket);
            if empty {
                delete_bucket(self.transaction, minute)?;
            }
        }
        Ok(())
    }

    fn table(&mut self, table: Table) -> Result<&mut OpenTable<'txn>, Fault> {
        match table {
            Table::Plain => Ok(&mut self.plain),
            Table::Data => Ok(&mut self.data),
            Table::Seen(minute) => match self.seen.entry(minute) {
                std::collections::btree_map::Entry::Occupied(open) => Ok(open.into_mut()),
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    let name = seen_table(minute);
                    Ok(vacant.insert(self.transaction.open_table(TableDefinition::new(&name))?))
                }
            },
        }
    }
}

fn delete_bucket(transaction: &WriteTransaction, minute: u32) -> Result<(), Fault> {
    let name = seen_table(minute);
    transaction.delete_table(TableDefinition::<Bytes, Bytes>::new(&name))?;
    Ok(())
}

impl Rows for OpenRows<'_> {
    type Fault = Fault;

    fn revision(&mut self, table: Table, key: &StoreKey) -> Result<Option<Revision>, Fault> {
        let Some(value) = self.table(table)?.get(key.as_bytes())? else { return Ok(None) };
        // Only the first bytes count; a copy of a large value would be for nothing.
        let value = value.value();
        let start = value.get(..bulla_core::record::SEALED_VALUE_BYTES_MIN).unwrap_or(value);
        let value = SealedValue::new(start).map_err(|cause| Fault::Malformed(table, cause))?;
        Ok(Some(value.revision()))
    }

    fn put(&mut self, table: Table, key: StoreKey, value: SealedValue) -> Result<(), Fault> {
        self.table(table)?.insert(key.as_bytes(), value.as_bytes())?;
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &StoreKey) -> Result<(), Fault> {
        self.table(table)?.remove(key.as_bytes())?;
        Ok(())
    }

    fn drop_seen(&mut self, minute: u32) -> Result<(), Fault> {
        // redb refuses to delete a table that is open.
        drop(self.seen.remove(&minute));
        delete_bucket(self.transaction, minute)
    }
}
