//! What a batch means, the same in every backend: preconditions first, then the writes, then the head row.

use crate::error::HeadError;
use bulla_core::record::{Batch, HEAD_KEY, HeadSource, Precondition, Revision, SealedValue, Sequence, StoreKey, Table};

/// The rows of one open transaction.
pub(crate) trait Rows {
    /// Why the storage could not do it.
    type Fault;

    /// The revision of a record, if there is one.
    fn revision(&mut self, table: Table, key: &StoreKey) -> Result<Option<Revision>, Self::Fault>;
    /// Creates or replaces a record.
    fn put(&mut self, table: Table, key: StoreKey, value: SealedValue) -> Result<(), Self::Fault>;
    /// Removes a record, if there is one.
    fn delete(&mut self, table: Table, key: &StoreKey) -> Result<(), Self::Fault>;
    /// Drops a deduplication bucket, if there is one.
    fn drop_seen(&mut self, minute: u32) -> Result<(), Self::Fault>;
}

/// The index of the first precondition that does not hold.
pub(crate) fn failing<R: Rows>(rows: &mut R, batch: &Batch) -> Result<Option<usize>, R::Fault> {
    for (index, (table, key, precondition)) in batch.preconditions.iter().enumerate() {
        let found = rows.revision(*table, key)?;
        let holds = match precondition {
            Precondition::Absent => found.is_none(),
            Precondition::Present => found.is_some(),
            Precondition::At(revision) => found == Some(*revision),
        };
        if !holds {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Writes everything in the batch.
pub(crate) fn apply<R: Rows>(rows: &mut R, batch: Batch) -> Result<(), R::Fault> {
    let Batch { preconditions: _, puts, deletes, drop_seen } = batch;
    for minute in drop_seen {
        rows.drop_seen(minute)?;
    }
    for (table, key) in deletes {
        rows.delete(table, &key)?;
    }
    for (table, key, value) in puts {
        rows.put(table, key, value)?;
    }
    Ok(())
}

/// The sequence number after this batch, if it writes the head row itself, as it may while there is no
/// head source: the first commit of a cluster and the epoch advance at unseal do. Without either a batch may write
/// plain rows alone: what a sealed cluster commits elsewhere would be missed by no head.
pub(crate) fn own_head(
    batch: &Batch,
    has_source: bool,
    stored: Option<Sequence>,
) -> Result<Option<Sequence>, HeadError> {
    let is_head = |table: Table, key: &StoreKey| table == Table::Plain && key.as_bytes() == HEAD_KEY;
    if batch.deletes.iter().any(|(table, key)| is_head(*table, key)) {
        return Err(HeadError::Reserved);
    }
    let Some((_, _, row)) = batch.puts.iter().find(|(table, key, _)| is_head(*table, key)) else {
        let plain = |table: &Table| *table == Table::Plain;
        let puts = batch.puts.iter().map(|(table, ..)| table);
        let others = puts.chain(batch.deletes.iter().map(|(table, _)| table)).any(|table| !plain(table));
        let unheaded = !has_source && (others || !batch.drop_seen.is_empty());
        return if unheaded { Err(HeadError::Missing) } else { Ok(None) };
    };
    if has_source {
        return Err(HeadError::Reserved);
    }
    above(stored, row.head_sequence().ok_or(HeadError::Malformed)?).map(Some)
}

/// Asks the head source for the row of this transaction.
pub(crate) fn next_head(
    source: &dyn HeadSource,
    stored: Option<Sequence>,
) -> Result<(Sequence, SealedValue), HeadError> {
    let (sequence, row) = source.advance();
    if row.head_sequence() != Some(sequence) {
        return Err(HeadError::Malformed);
    }
    Ok((above(stored, sequence)?, row))
}

fn above(stored: Option<Sequence>, offered: Sequence) -> Result<Sequence, HeadError> {
    match stored {
        Some(stored) if offered <= stored => Err(HeadError::NotAbove { stored, offered }),
        _ => Ok(offered),
    }
}
