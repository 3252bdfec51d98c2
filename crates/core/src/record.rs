//! The storage vocabulary: what core asks a store to read and to commit, all plain data.
//!
//! A store sees sealed bytes under opaque keys. It compares revisions and finds the sequence number of
//! the head row; both stand at fixed places in front of the ciphertext, so it needs no key for that.
//! Their authenticity is the barrier's business: the store is untrusted.
//!
//! The physical layout is in `spec/storage.md`.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;

/// Longest key, in bytes. Plain names and hashed directory entries are far shorter; every backend can
/// index 256 bytes without a second page or a changed column type.
pub const KEY_BYTES_MAX: usize = 256;

/// Shortest sealed value, in bytes: tag (1), term (4) and revision (8).
pub const SEALED_VALUE_BYTES_MIN: usize = 13;

/// Longest sealed value, in bytes. Larger plaintext is written in chunks, so that no commit is large.
pub const SEALED_VALUE_BYTES_MAX: usize = 512 * 1024;

/// Largest batch, in bytes of keys and values together. etcd refuses requests above 1.5 MiB, and the
/// rest is room for its own framing and the head row.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Most preconditions in one batch, and most writes in one. A wrap writes a few rows for each of its
/// slots; what is larger belongs in several commits. (An etcd cluster allows 128 unless it is started
/// with a larger `--max-txn-ops`.)
pub const BATCH_OPERATIONS_MAX: usize = 512;

/// Most entries in one page of a scan; a page is held in memory whole.
pub const SCAN_ENTRIES_MAX: usize = 1024;

/// A page of a scan ends with the entry that reaches this many bytes of keys and values, so that large
/// values under one prefix do not fill the memory.
pub const SCAN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most reads in one call. They share one snapshot, which keeps old pages of the file alive.
pub const READS_MAX: usize = 1024;

/// Name of the head row in [`Table::Plain`].
pub const HEAD_KEY: &[u8] = b"head";

/// First byte of the head row, as of every row in [`Table::Plain`].
pub const HEAD_TAG: u8 = 0x02;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Readable while sealed, under fixed names: seal configuration, documents, consents, the head.
    Plain,
    /// Barrier records under opaque keys.
    Data,
    /// The deduplication bucket of one Unix minute: a table of its own, dropped whole.
    Seen(u32),
}

/// The key of one record in its table: 1 to [`KEY_BYTES_MAX`] bytes, ordered byte by byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreKey(Vec<u8>);

impl StoreKey {
    /// Takes the bytes of a key.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, RecordError> {
        let bytes = bytes.into();
        match bytes.len() {
            1..=KEY_BYTES_MAX => Ok(Self(bytes)),
            length => Err(RecordError::KeyLength { length }),
        }
    }

    /// The key of the head row.
    pub fn head() -> Self {
        Self(HEAD_KEY.to_vec())
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A key compares and hashes as its bytes do, so maps by key can be asked with bytes.
impl Borrow<[u8]> for StoreKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey({})", self.0.escape_ascii())
    }
}

/// Identifies one state of one record. It is compared for equality and proves no freshness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// Position in the history of a store, one per store transaction. It never restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sequence(pub u64);

/// Opaque bytes `tag(1) | term(4) | revision(8) | …`, numbers big-endian, within the length limits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SealedValue(Vec<u8>);

impl SealedValue {
    /// Takes the bytes of a sealed value.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, RecordError> {
        let bytes = bytes.into();
        match bytes.len() {
            SEALED_VALUE_BYTES_MIN..=SEALED_VALUE_BYTES_MAX => Ok(Self(bytes)),
            length => Err(RecordError::ValueLength { length }),
        }
    }

    /// The revision, from bytes 5..13.
    pub fn revision(&self) -> Revision {
        Revision(self.number_at(5).unwrap_or_default())
    }

    /// The sequence number from bytes 13..21, if these bytes have the shape of a head row. Other plain rows
    /// can have it too; only under the key of the head does the number mean something.
    pub fn head_sequence(&self) -> Option<Sequence> {
        (self.0.first() == Some(&HEAD_TAG)).then(|| self.number_at(13))?.map(Sequence)
    }

    /// The whole value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The whole value, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn number_at(&self, offset: usize) -> Option<u64> {
        self.0.get(offset..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }
}

/// Shows the length and the revision; ciphertext is of no use in a log.
impl fmt::Debug for SealedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedValue({} bytes, revision {})", self.0.len(), self.revision().0)
    }
}

/// What must hold for one key when a batch is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// There is no record.
    Absent,
    /// There is a record, and it has exactly this revision.
    At(Revision),
    /// There is a record.
    Present,
}

/// Writes that happen together or not at all, and only if every precondition holds.
///
/// All preconditions are judged before the first write. Writes name each key at most once, and none lies
/// in a bucket that the same batch drops, so their order has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// What must hold. An index into this list is what a conflict reports.
    pub preconditions: Vec<(Table, StoreKey, Precondition)>,
    /// Records to create or replace.
    pub puts: Vec<(Table, StoreKey, SealedValue)>,
    /// Records to remove; one that is not there is no error.
    pub deletes: Vec<(Table, StoreKey)>,
    /// Deduplication buckets to drop whole; one that is not there is no error.
    pub drop_seen: Vec<u32>,
}

impl Batch {
    /// Adds a precondition.
    pub fn require(&mut self, table: Table, key: StoreKey, precondition: Precondition) {
        self.preconditions.push((table, key, precondition));
    }

    /// Adds a record to create or replace.
    pub fn put(&mut self, table: Table, key: StoreKey, value: SealedValue) {
        self.puts.push((table, key, value));
    }

    /// Adds a record to create, with the precondition that there is none.
    pub fn create(&mut self, table: Table, key: StoreKey, value: SealedValue) {
        self.require(table, key.clone(), Precondition::Absent);
        self.put(table, key, value);
    }

    /// Adds a record to replace, with the precondition that it still has this revision.
    pub fn replace(&mut self, table: Table, key: StoreKey, seen: Revision, value: SealedValue) {
        self.require(table, key.clone(), Precondition::At(seen));
        self.put(table, key, value);
    }

    /// Adds a record to remove.
    pub fn delete(&mut self, table: Table, key: StoreKey) {
        self.deletes.push((table, key));
    }

    /// Adds everything that `other` requires and writes.
    pub fn append(&mut self, other: Self) {
        let Self { preconditions, puts, deletes, drop_seen } = other;
        self.preconditions.extend(preconditions);
        self.puts.extend(puts);
        self.deletes.extend(deletes);
        self.drop_seen.extend(drop_seen);
    }

    /// Bytes of all keys and values that the batch would write or remove.
    pub fn bytes(&self) -> usize {
        let puts: usize = self.puts.iter().map(|(_, key, value)| key.0.len() + value.0.len()).sum();
        let deletes: usize = self.deletes.iter().map(|(_, key)| key.0.len()).sum();
        puts + deletes + self.drop_seen.len() * size_of::<u32>()
    }

    /// Whether there is nothing to write. Such a batch may still have preconditions to judge.
    pub fn is_read_only(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.drop_seen.is_empty()
    }

    /// Refuses a batch above the limits, or one whose writes contradict each other. Every store asks this
    /// before it judges a precondition.
    pub fn admissible(&self) -> Result<(), RecordError> {
        let operations = self.puts.len() + self.deletes.len() + self.drop_seen.len();
        let operations = operations.max(self.preconditions.len());
        if operations > BATCH_OPERATIONS_MAX {
            return Err(RecordError::BatchOperations { operations });
        }
        let bytes = self.bytes();
        if bytes > BATCH_BYTES_MAX {
            return Err(RecordError::BatchBytes { bytes });
        }
        let written = self.puts.iter().map(|(table, key, _)| (*table, key));
        let removed = self.deletes.iter().map(|(table, key)| (*table, key));
        let mut touched = HashSet::with_capacity(operations);
        for (table, key) in written.chain(removed) {
            let dropped = matches!(table, Table::Seen(minute) if self.drop_seen.contains(&minute));
            if dropped || !touched.insert((table, key)) {
                return Err(RecordError::KeyTwice { table, key: key.clone() });
            }
        }
        Ok(())
    }
}

/// One question to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Read {
    /// The record under one key.
    Get(Table, StoreKey),
    /// Records whose keys begin with `prefix` (empty: all of them), in the order of their keys.
    Scan {
        /// The table to scan.
        table: Table,
        /// What the keys begin with.
        prefix: Vec<u8>,
        /// Only keys above this one: the last key of the page before.
        after: Option<StoreKey>,
        /// Most entries to answer, 1 to [`SCAN_ENTRIES_MAX`].
        limit: usize,
    },
}

/// The answer to one [`Read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Read::Get`]: the record, if there is one.
    Value(Option<SealedValue>),
    /// To [`Read::Scan`].
    Page(Page),
}

impl Answer {
    /// The answer to a [`Read::Get`]; nothing if this is a page.
    pub fn into_value(self) -> Option<SealedValue> {
        match self {
            Self::Value(value) => value,
            Self::Page(_) => None,
        }
    }

    /// The answer to a [`Read::Scan`]; nothing if this is a value.
    pub fn into_page(self) -> Option<Page> {
        match self {
            Self::Page(page) => Some(page),
            Self::Value(_) => None,
        }
    }
}

/// Part of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Records in the order of their keys.
    pub entries: Vec<(StoreKey, SealedValue)>,
    /// Whether records follow after the last entry. A page ends at its limit or at [`SCAN_BYTES_MAX`].
    pub more: bool,
}

/// The answers of one call, all from one state of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Sequence number of that state, from its head row; nothing before the first head row.
    pub sequence: Option<Sequence>,
    /// One answer for each read, in their order.
    pub answers: Vec<Answer>,
}

/// Gives the head row that goes into each store transaction.
pub trait HeadSource: Send + Sync {
    /// The next sequence number and the head row that holds it. A store calls this once for each
    /// transaction, not for each batch, when everything else in it is settled, and writes the row in
    /// that transaction. The number must be above that of every call before. A transaction can still
    /// fail afterwards, so numbers may be skipped. The store waits for the answer and holds its locks, so
    /// this must be quick and must not ask the store.
    fn advance(&self) -> (Sequence, SealedValue);
}

/// Why bytes are no record, or a batch is refused before a store looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordError {
    /// A key is empty or too long.
    KeyLength {
        /// Its length in bytes.
        length: usize,
    },
    /// A sealed value is too short or too long.
    ValueLength {
        /// Its length in bytes.
        length: usize,
    },
    /// A batch has too many preconditions or too many writes.
    BatchOperations {
        /// The larger of the two counts.
        operations: usize,
    },
    /// The keys and values of a batch are too large together.
    BatchBytes {
        /// Their size.
        bytes: usize,
    },
    /// A batch writes one key twice, or in a bucket that it drops.
    KeyTwice {
        /// The table of the key.
        table: Table,
        /// The key.
        key: StoreKey,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyLength { length } => {
                write!(f, "a store key has 1 to {KEY_BYTES_MAX} bytes, not {length}")
            }
            Self::ValueLength { length } => {
                write!(f, "a sealed value has {SEALED_VALUE_BYTES_MIN} to {SEALED_VALUE_BYTES_MAX} bytes, not {length}")
            }
            Self::BatchOperations { operations } => {
                write!(f, "a batch has at most {BATCH_OPERATIONS_MAX} operations, not {operations}")
            }
            Self::BatchBytes { bytes } => write!(f, "a batch has at most {BATCH_BYTES_MAX} bytes, not {bytes}"),
            Self::KeyTwice { table, key } => write!(f, "a batch writes {key:?} in {table:?} twice"),
        }
    }
}

impl std::error::Error for RecordError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> StoreKey {
        StoreKey::new(text).unwrap()
    }

    fn value(revision: u64) -> SealedValue {
        let mut bytes = vec![1, 0, 0, 0, 7];
        bytes.extend(revision.to_be_bytes());
        SealedValue::new(bytes).unwrap()
    }

    #[test]
    fn keys_have_1_to_256_bytes() {
        assert_eq!(StoreKey::new(""), Err(RecordError::KeyLength { length: 0 }));
        assert!(StoreKey::new(vec![0; 256]).is_ok());
        assert_eq!(StoreKey::new(vec![0; 257]), Err(RecordError::KeyLength { length: 257 }));
    }

    #[test]
    fn values_hold_their_revision_and_have_limits() {
        assert_eq!(value(0x0102_0304_0506_0708).revision(), Revision(0x0102_0304_0506_0708));
        assert_eq!(SealedValue::new(vec![0; 12]), Err(RecordError::ValueLength { length: 12 }));
        assert!(SealedValue::new(vec![0; 13]).is_ok());
        assert!(SealedValue::new(vec![0; 512 * 1024]).is_ok());
        assert!(SealedValue::new(vec![0; 512 * 1024 + 1]).is_err());
    }

    #[test]
    fn only_a_head_row_has_a_sequence() {
        let mut bytes = vec![HEAD_TAG, 0, 0, 0, 1];
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 9]);
        bytes.extend([0, 0, 0, 0, 0, 0, 1, 2]);
        bytes.push(0xff);
        let head = SealedValue::new(bytes.clone()).unwrap();
        assert_eq!((head.revision(), head.head_sequence()), (Revision(9), Some(Sequence(258))));
        assert_eq!(SealedValue::new(&bytes[..20]).unwrap().head_sequence(), None);
        bytes[0] = 1;
        assert_eq!(SealedValue::new(bytes).unwrap().head_sequence(), None);
    }

    #[test]
    fn a_batch_has_limits() {
        let mut batch = Batch::default();
        batch.put(Table::Data, key("a"), SealedValue::new(vec![0; 512 * 1024]).unwrap());
        assert_eq!(batch.admissible(), Ok(()));
        batch.put(Table::Data, key("b"), SealedValue::new(vec![0; 512 * 1024]).unwrap());
        assert_eq!(batch.admissible(), Err(RecordError::BatchBytes { bytes: 1024 * 1024 + 2 }));

        let mut batch = Batch::default();
        for minute in 0..512 {
            batch.drop_seen.push(minute);
        }
        assert_eq!(batch.admissible(), Ok(()));
        batch.delete(Table::Data, key("a"));
        assert_eq!(batch.admissible(), Err(RecordError::BatchOperations { operations: 513 }));
    }

    #[test]
    fn a_batch_writes_a_key_once() {
        let mut batch = Batch::default();
        batch.create(Table::Data, key("a"), value(1));
        batch.put(Table::Plain, key("a"), value(1));
        batch.put(Table::Seen(4), key("a"), value(1));
        batch.drop_seen.push(3);
        assert_eq!(batch.admissible(), Ok(()));
        let mut twice = batch.clone();
        twice.delete(Table::Data, key("a"));
        assert_eq!(twice.admissible(), Err(RecordError::KeyTwice { table: Table::Data, key: key("a") }));
        batch.drop_seen.push(4);
        assert_eq!(batch.admissible(), Err(RecordError::KeyTwice { table: Table::Seen(4), key: key("a") }));
    }

    #[test]
    fn a_batch_holds_what_was_put_into_it() {
        let (table, a, b) = (Table::Data, key("a"), key("bb"));
        let mut batch = Batch::default();
        assert!(batch.is_read_only() && batch.bytes() == 0);
        batch.require(table, a.clone(), Precondition::Present);
        assert!(batch.is_read_only(), "it writes nothing");
        batch.replace(table, b.clone(), Revision(3), value(4));
        assert_eq!(batch.preconditions[1], (table, b.clone(), Precondition::At(Revision(3))));
        assert_eq!(batch.puts, [(table, b, value(4))]);
        assert_eq!(batch.bytes(), 2 + 13);
        let mut all = Batch { deletes: vec![(table, a.clone())], drop_seen: vec![7, 8], ..Batch::default() };
        assert_eq!(all.bytes(), 1 + 8);
        let deleting = all.clone();
        all.append(batch.clone());
        assert_eq!((&all.preconditions, &all.puts), (&batch.preconditions, &batch.puts));
        assert_eq!((&all.deletes, &all.drop_seen), (&deleting.deletes, &deleting.drop_seen));
        batch.append(deleting);
        assert_eq!(batch, all);
        let only = |puts: bool, deletes: bool, drops: bool| {
            let mut batch = all.clone();
            let Batch { puts: written, deletes: removed, drop_seen, .. } = &mut batch;
            written.retain(|_| puts);
            removed.retain(|_| deletes);
            drop_seen.retain(|_| drops);
            batch.is_read_only()
        };
        assert!(!only(true, false, false) && !only(false, true, false) && !only(false, false, true));
        assert!(only(false, false, false));
    }

    #[test]
    fn the_largest_batch_is_admissible() {
        let large = |bytes: usize| {
            let mut batch = Batch::default();
            let half = SealedValue::new(vec![0; bytes / 2 - 1]).unwrap();
            batch.put(Table::Data, key("a"), half.clone());
            batch.put(Table::Data, key("b"), half);
            batch
        };
        let mut most = large(BATCH_BYTES_MAX);
        assert_eq!((most.bytes(), most.admissible()), (BATCH_BYTES_MAX, Ok(())));
        most.delete(Table::Data, key("c"));
        assert_eq!(most.admissible(), Err(RecordError::BatchBytes { bytes: BATCH_BYTES_MAX + 1 }));
    }

    #[test]
    fn maps_by_key_are_asked_with_bytes() {
        let map = std::collections::HashMap::from([(key("a"), 1)]);
        assert_eq!((map.get(&b"a"[..]), map.get(&b"b"[..])), (Some(&1), None));
    }

    #[test]
    fn an_answer_is_to_its_question() {
        let page = || Page { entries: vec![(key("a"), value(1))], more: true };
        assert_eq!(Answer::Value(Some(value(1))).into_value(), Some(value(1)));
        assert_eq!((Answer::Value(None).into_value(), Answer::Page(page()).into_value()), (None, None));
        assert_eq!(Answer::Page(page()).into_page(), Some(page()));
        assert_eq!(Answer::Value(Some(value(1))).into_page(), None);
    }
}
