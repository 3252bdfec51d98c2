//! The barrier: plain records on this side, sealed bytes under opaque keys on the store's.
//!
//! A record is bound to its cluster, table, store key, revision and kind, so a store cannot alter one, or
//! put it in another's place. Not protected: sizes, counts, times of writing, and the freshness of a
//! single row; a store that puts back an older writing of one record is not noticed (`spec/barrier.md`).

mod kind;
mod names;

pub use kind::Kind;

use crate::record::{Answer, Page, Precondition, Read, RecordError, Revision, SealedValue, StoreKey, Table};
use crate::record::{Batch, Sequence, Snapshot};
use bulla_crypto::digest::{framed, hmac_sha256};
use bulla_crypto::random::{Rng, draw};
use bulla_crypto::sealed;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::id::ClusterId;
use names::Names;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// The last part of a record's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Child {
    /// A name: the store sees a keyed hash.
    Hidden(Vec<u8>),
    /// A number or a random id: the store sees it, and sorts by it.
    Clear(Vec<u8>),
}

/// Names one record, before it becomes opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordKey {
    kind: Kind,
    dir: Vec<u8>,
    child: Child,
}

impl RecordKey {
    /// A record whose name the store must not see.
    pub fn hidden(kind: Kind, dir: impl Into<Vec<u8>>, child: impl Into<Vec<u8>>) -> Self {
        Self { kind, dir: dir.into(), child: Child::Hidden(child.into()) }
    }
    /// A record that the store may sort by its last part.
    pub fn clear(kind: Kind, dir: impl Into<Vec<u8>>, child: impl Into<Vec<u8>>) -> Self {
        Self { kind, dir: dir.into(), child: Child::Clear(child.into()) }
    }
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// Where a listing goes on: opaque to everyone but the barrier that made it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Vec<u8>);

impl Cursor {
    /// Text for the `after` of a next page.
    pub fn to_text(&self) -> String {
        base64url(&self.0)
    }
    /// Reads [`Cursor::to_text`]. Any bytes are a cursor: a wrong one starts elsewhere in the caller's own listing.
    pub fn parse(text: &str) -> Option<Self> {
        base64url_decode(text).filter(|bytes| !bytes.is_empty() && bytes.len() <= 128).map(Self)
    }
    /// The bytes after the directory's prefix: a clear child itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// Starts after a clear child.
    pub fn after_clear(child: impl Into<Vec<u8>>) -> Self {
        Self(child.into())
    }
}

/// A question to the store, before its keys become opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Query {
    /// One record.
    Get(RecordKey),
    /// Records of one directory in the store's order.
    Scan {
        /// Their kind.
        kind: Kind,
        /// Their directory; empty for the indexes by time.
        dir: Vec<u8>,
        /// The last one seen.
        after: Option<Cursor>,
        /// At most so many.
        limit: usize,
    },
}

/// A record that was read.
pub struct Record {
    /// Identifies this writing of it, for preconditions.
    pub revision: Revision,
    /// The last part of its store key, where a listing would go on.
    pub cursor: Cursor,
    /// Its content.
    pub bytes: SecretBytes,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} bytes, revision {})", self.bytes.expose().len(), self.revision.0)
    }
}

/// Everything that an operation has read so far, all from one snapshot or, after a further round, from
/// several whose consistency its preconditions check.
#[derive(Debug, Default)]
pub struct Records {
    values: HashMap<RecordKey, Option<Record>>,
    pages: HashMap<Query, (Vec<Record>, bool)>,
}

impl Records {
    /// The record, if it was asked for; the inner `None` says that there is none.
    pub fn get(&self, key: &RecordKey) -> Option<Option<&Record>> {
        self.values.get(key).map(Option::as_ref)
    }
    /// The page, if it was asked for, and whether there is more.
    pub fn page(&self, query: &Query) -> Option<(&[Record], bool)> {
        self.pages.get(query).map(|(records, more)| (records.as_slice(), *more))
    }
    /// Takes a page out, if it was asked for.
    pub fn take_page(&mut self, query: &Query) -> Option<(Vec<Record>, bool)> {
        self.pages.remove(query)
    }
    /// Takes over what a further round has read.
    pub fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
        self.pages.extend(other.pages);
    }
}

/// What a record must be for a commit to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Not there.
    Absent,
    /// There, in this writing.
    At(Revision),
    /// There, in any writing.
    Present,
}

/// Changes to records, before they are sealed. All or none of them happen.
#[derive(Debug, Default)]
pub struct Writes {
    /// What must hold.
    pub expect: Vec<(RecordKey, Expect)>,
    /// Records to write.
    pub puts: Vec<(RecordKey, SecretBytes)>,
    /// Records to delete.
    pub deletes: Vec<RecordKey>,
    /// Rows of the plain table to create, under their fixed names.
    pub plain: Vec<(StoreKey, Vec<u8>)>,
}

impl Writes {
    /// Writes a record that must not be there.
    pub fn create(&mut self, key: RecordKey, bytes: Vec<u8>) {
        self.expect.push((key.clone(), Expect::Absent));
        self.put(key, bytes);
    }
    /// Writes a record that must be as it was read.
    pub fn replace(&mut self, key: RecordKey, read: Option<&Record>, bytes: Vec<u8>) {
        self.expect.push((key.clone(), read.map_or(Expect::Absent, |record| Expect::At(record.revision))));
        self.put(key, bytes);
    }
    /// Writes a record whatever is there.
    pub fn put(&mut self, key: RecordKey, bytes: Vec<u8>) {
        self.puts.push((key, SecretBytes::new(bytes)));
    }
    /// Deletes a record that must be as it was read.
    pub fn remove(&mut self, key: RecordKey, read: &Record) {
        self.expect.push((key.clone(), Expect::At(read.revision)));
        self.delete(key);
    }
    /// Deletes a record, there or not.
    pub fn delete(&mut self, key: RecordKey) {
        self.deletes.push(key);
    }
    /// Nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.plain.is_empty()
    }
}

/// Why a record does not open, or cannot be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BarrierError {
    /// The store altered, swapped or cut it.
    Tampered {
        /// What it should have been.
        kind: &'static str,
    },
    /// It is under a barrier term that the keyring does not hold.
    UnknownTerm {
        /// The term in front of it.
        term: u32,
    },
    /// It is of a newer format.
    UnknownFormat {
        /// Its first byte.
        tag: u8,
    },
    /// It breaks a limit of the store.
    Limit(RecordError),
    /// The store answered something else than was asked.
    WrongAnswer,
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tampered { kind } => write!(f, "a {kind} record was altered in the store"),
            Self::UnknownTerm { term } => write!(f, "a record is under barrier term {term}, which the keyring lacks"),
            Self::UnknownFormat { tag } => write!(f, "a record has format {tag}, which this version does not know"),
            Self::Limit(e) => write!(f, "a record breaks a limit: {e}"),
            Self::WrongAnswer => f.write_str("the store answered something else than was asked"),
        }
    }
}
impl std::error::Error for BarrierError {}

impl From<RecordError> for BarrierError {
    fn from(error: RecordError) -> Self {
        Self::Limit(error)
    }
}

const RECORD_TAG: u8 = 0x01;
const RECORD_HEAD_BYTES: usize = 13;

/// Seals and opens. Lives while the cluster is unsealed.
pub struct Barrier {
    cluster: ClusterId,
    terms: BTreeMap<u32, SecretKey>,
    current: u32,
    path_key: SecretKey,
    names: Names,
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Barrier(term {})", self.current)
    }
}

impl Barrier {
    /// Takes the keyring's terms; the highest one seals. `None` without any term.
    pub fn new(cluster: ClusterId, terms: BTreeMap<u32, SecretKey>, path_key: SecretKey) -> Option<Self> {
        let current = *terms.keys().next_back()?;
        Some(Self { cluster, terms, current, path_key, names: Names::default() })
    }

    fn hidden(&self, kind: Kind, parts: &[&[u8]]) -> [u8; 16] {
        let tag = [kind as u8];
        let mut fields: Vec<&[u8]> = vec![&tag];
        fields.extend_from_slice(parts);
        let mac = hmac_sha256(self.path_key.expose(), &[&framed(&fields)]);
        let mut short = [0; 16];
        short.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        short
    }

    fn prefix(&self, kind: Kind, dir: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind as u8];
        if !kind.is_due() {
            bytes.extend_from_slice(&self.hidden(kind, &[dir]));
        }
        bytes
    }

    /// The opaque key of a record.
    pub fn store_key(&self, key: &RecordKey) -> Result<StoreKey, BarrierError> {
        self.names.get(key, || {
            let mut bytes = self.prefix(key.kind, &key.dir);
            match &key.child {
                Child::Clear(child) => bytes.extend_from_slice(child),
                Child::Hidden(child) => bytes.extend_from_slice(&self.hidden(key.kind, &[&key.dir, child])),
            }
            Ok(StoreKey::new(bytes)?)
        })
    }

    fn aad(&self, table: Table, key: &[u8], revision: Revision, kind: u8) -> Vec<u8> {
        let (table, minute) = match table {
            Table::Plain => (0u8, 0u32),
            Table::Data => (1, 0),
            Table::Seen(minute) => (2, minute),
        };
        let [a, b, c, d] = minute.to_be_bytes();
        let place: [&[u8]; 5] =
            [self.cluster.as_bytes(), &[table, a, b, c, d], key, &revision.0.to_be_bytes(), &[kind]];
        [&b"bulla/v1/barrier"[..], &framed(&place)].concat()
    }

    /// Seals `plaintext` for one place in the store under a fresh revision.
    pub fn seal(
        &self,
        table: Table,
        key: &StoreKey,
        kind: u8,
        plaintext: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<SealedValue, BarrierError> {
        let revision = Revision(u64::from_be_bytes(draw(rng)));
        self.seal_at(revision, table, key, kind, plaintext, rng)
    }

    /// The same with a revision that says something to whoever reads the row without opening it.
    ///
    /// # Errors
    /// If the plaintext is too long for a record.
    pub fn seal_at(
        &self,
        revision: Revision,
        table: Table,
        key: &StoreKey,
        kind: u8,
        plaintext: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<SealedValue, BarrierError> {
        let term_key = self.terms.get(&self.current).ok_or(BarrierError::UnknownTerm { term: self.current })?;
        let mut bytes = vec![RECORD_TAG];
        bytes.extend_from_slice(&self.current.to_be_bytes());
        bytes.extend_from_slice(&revision.0.to_be_bytes());
        bytes.extend(sealed::seal(term_key, &self.aad(table, key.as_bytes(), revision, kind), plaintext, rng));
        Ok(SealedValue::new(bytes)?)
    }

    /// Opens what [`Barrier::seal`] made for the same place.
    pub fn open(
        &self,
        table: Table,
        key: &StoreKey,
        kind: u8,
        value: &SealedValue,
    ) -> Result<SecretBytes, BarrierError> {
        let tampered = BarrierError::Tampered { kind: kind_name(kind) };
        let (head, blob) = value.as_bytes().split_at_checked(RECORD_HEAD_BYTES).ok_or_else(|| tampered.clone())?;
        let &[tag, t0, t1, t2, t3, ..] = head else { return Err(tampered) };
        if tag != RECORD_TAG {
            return Err(BarrierError::UnknownFormat { tag });
        }
        let term = u32::from_be_bytes([t0, t1, t2, t3]);
        let term_key = self.terms.get(&term).ok_or(BarrierError::UnknownTerm { term })?;
        sealed::open(term_key, &self.aad(table, key.as_bytes(), value.revision(), kind), blob).map_err(|_| tampered)
    }

    /// Turns questions into reads of the store.
    pub fn reads(&self, queries: &[Query]) -> Result<Vec<Read>, BarrierError> {
        queries
            .iter()
            .map(|query| match query {
                Query::Get(key) => Ok(Read::Get(Table::Data, self.store_key(key)?)),
                Query::Scan { kind, dir, after, limit } => {
                    let prefix = self.prefix(*kind, dir);
                    let after =
                        after.as_ref().map(|cursor| StoreKey::new([&prefix[..], &cursor.0].concat())).transpose()?;
                    Ok(Read::Scan { table: Table::Data, prefix, after, limit: *limit })
                }
            })
            .collect()
    }

    /// Opens the store's answers to [`Barrier::reads`] of the same questions.
    pub fn records(&self, queries: &[Query], snapshot: Snapshot) -> Result<(Option<Sequence>, Records), BarrierError> {
        if queries.len() != snapshot.answers.len() {
            return Err(BarrierError::WrongAnswer);
        }
        let mut records = Records::default();
        for (query, answer) in queries.iter().zip(snapshot.answers) {
            match (query, answer) {
                (Query::Get(key), Answer::Value(value)) => {
                    let store_key = self.store_key(key)?;
                    let record = value.map(|value| self.record(key.kind, &store_key, &[], &value)).transpose()?;
                    records.values.insert(key.clone(), record);
                }
                (Query::Scan { kind, dir, .. }, Answer::Page(Page { entries, more })) => {
                    let prefix = self.prefix(*kind, dir);
                    let opened = entries
                        .iter()
                        .map(|(key, value)| self.record(*kind, key, &prefix, value))
                        .collect::<Result<Vec<_>, _>>()?;
                    records.pages.insert(query.clone(), (opened, more));
                }
                _ => return Err(BarrierError::WrongAnswer),
            }
        }
        Ok((snapshot.sequence, records))
    }

    fn record(&self, kind: Kind, key: &StoreKey, prefix: &[u8], value: &SealedValue) -> Result<Record, BarrierError> {
        let cursor = key.as_bytes().strip_prefix(prefix).ok_or(BarrierError::WrongAnswer)?;
        let bytes = self.open(Table::Data, key, kind as u8, value)?;
        Ok(Record { revision: value.revision(), cursor: Cursor(cursor.to_vec()), bytes })
    }

    /// Seals changes into a batch for the store.
    pub fn batch(&self, writes: &Writes, rng: &mut dyn Rng) -> Result<Batch, BarrierError> {
        let mut batch = Batch::default();
        for (key, expect) in &writes.expect {
            let precondition = match expect {
                Expect::Absent => Precondition::Absent,
                Expect::At(revision) => Precondition::At(*revision),
                Expect::Present => Precondition::Present,
            };
            batch.require(Table::Data, self.store_key(key)?, precondition);
        }
        for (key, bytes) in &writes.puts {
            let store_key = self.store_key(key)?;
            let value = self.seal(Table::Data, &store_key, key.kind as u8, bytes.expose(), rng)?;
            batch.put(Table::Data, store_key, value);
        }
        for key in &writes.deletes {
            batch.delete(Table::Data, self.store_key(key)?);
        }
        for (key, content) in &writes.plain {
            batch.create(Table::Plain, key.clone(), crate::seal::row::encode(content, rng)?);
        }
        batch.admissible()?;
        Ok(batch)
    }
}

/// Kind byte of rows in the dedup buckets.
pub const SEEN_KIND: u8 = 0x80;

fn kind_name(kind: u8) -> &'static str {
    match kind {
        1 => "principal",
        2 => "key",
        3 => "policy",
        4 => "wrap",
        5 => "receipt",
        6 => "mine",
        7 => "alarm",
        8 | 9 | 24 => "due",
        10 => "kv",
        11 => "chunk",
        12 => "upload",
        13 => "alarm cursor",
        14 => "next ingress key",
        15 => "kv version",
        16 => "transit key",
        17 => "transit version",
        18 => "lease",
        19 => "due lease",
        20 => "own lease",
        21 => "demand of leases",
        22 => "database",
        23 => "database role",
        25 => "static role",
        26 => "authority of a database",
        SEEN_KIND => "seen",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::random::{SeededRng, secret_key};

    fn barrier(cluster: u8) -> (Barrier, SeededRng) {
        let mut rng = SeededRng::from_u64(1);
        let terms = BTreeMap::from([(1, secret_key(&mut rng)), (2, secret_key(&mut rng))]);
        let path_key = secret_key(&mut rng);
        (Barrier::new(ClusterId::new([cluster; 32]), terms, path_key).expect("terms"), rng)
    }

    #[test]
    fn a_record_opens_in_its_place_only() {
        let (barrier, mut rng) = barrier(1);
        let key = barrier.store_key(&RecordKey::hidden(Kind::Kv, "app", "db")).expect("a key");
        let other = barrier.store_key(&RecordKey::hidden(Kind::Kv, "app", "db2")).expect("a key");
        let value = barrier.seal(Table::Data, &key, 10, b"secret", &mut rng).expect("seals");
        assert_eq!(barrier.open(Table::Data, &key, 10, &value).expect("opens").expose(), b"secret");
        assert!(barrier.open(Table::Data, &other, 10, &value).is_err(), "swapped");
        assert!(barrier.open(Table::Plain, &key, 10, &value).is_err(), "another table");
        assert!(barrier.open(Table::Seen(3), &key, 10, &value).is_err(), "another table");
        assert!(barrier.open(Table::Data, &key, 11, &value).is_err(), "another kind");
        assert!(super::tests::barrier(2).0.open(Table::Data, &key, 10, &value).is_err(), "another cluster");
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (barrier, mut rng) = barrier(1);
        let key = barrier.store_key(&RecordKey::hidden(Kind::Kv, "", "a")).expect("a key");
        let value = barrier.seal(Table::Data, &key, 10, b"x", &mut rng).expect("seals");
        for at in 0..value.as_bytes().len() {
            let mut bytes = value.as_bytes().to_vec();
            bytes[at] ^= 1;
            let altered = SealedValue::new(bytes).expect("long enough");
            assert!(barrier.open(Table::Data, &key, 10, &altered).is_err(), "byte {at}");
        }
    }

    #[test]
    fn keys_hide_names_and_keep_directories_together() {
        let (barrier, _) = barrier(1);
        let key = |dir: &str, child: &str| {
            barrier.store_key(&RecordKey::hidden(Kind::Kv, dir, child)).expect("a key").as_bytes().to_vec()
        };
        assert_eq!(key("app", "a").len(), 33);
        assert_eq!(key("app", "a")[..17], key("app", "b")[..17]);
        assert_ne!(key("app", "a")[..17], key("ap", "pa")[..17]);
        assert_ne!(key("app", "a")[17..], key("apq", "a")[17..]);
        let due = barrier.store_key(&RecordKey::clear(Kind::Due, "", [0, 1, 2])).expect("a key");
        assert_eq!(due.as_bytes(), [8, 0, 1, 2]);
    }

    #[test]
    fn every_kind_has_a_name() {
        let mut names: Vec<&str> = (1..=26).chain([SEEN_KIND]).map(kind_name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 27 - 2, "the three indexes of what is due have one: {names:?}");
        assert!(!names.contains(&"unknown") && kind_name(0) == "unknown" && kind_name(27) == "unknown");
    }

    #[test]
    fn a_listing_holds_what_lies_in_its_directory_alone() {
        let (barrier, mut rng) = barrier(1);
        let query = Query::Scan { kind: Kind::Kv, dir: b"app".to_vec(), after: None, limit: 10 };
        let row = |dir: &str, rng: &mut SeededRng| {
            let key = barrier.store_key(&RecordKey::hidden(Kind::Kv, dir, "db")).expect("a key");
            let value = barrier.seal(Table::Data, &key, Kind::Kv as u8, b"x", rng).expect("seals");
            (key, value)
        };
        let told = |answers: Vec<Answer>| {
            barrier.records(std::slice::from_ref(&query), Snapshot { sequence: None, answers }).map(drop)
        };
        let page = |entries| Answer::Page(Page { entries, more: false });
        let (own, other) = (row("app", &mut rng), row("ap", &mut rng));
        assert_eq!(told(vec![page(vec![own.clone()])]), Ok(()));
        // It opens where it lies, and is no row of this listing.
        assert_eq!(told(vec![page(vec![own, other])]), Err(BarrierError::WrongAnswer));
        assert_eq!(told(vec![Answer::Value(None)]), Err(BarrierError::WrongAnswer));
        assert_eq!(told(vec![]), Err(BarrierError::WrongAnswer));
        let encode = bulla_wire::encoding::base64url;
        for (text, is_cursor) in [(String::new(), false), (encode(&[1; 128]), true), (encode(&[1; 129]), false)] {
            assert_eq!(Cursor::parse(&text).is_some(), is_cursor);
        }
    }

    #[test]
    fn a_page_is_taken_once() {
        let (barrier, mut rng) = barrier(1);
        let query = Query::Scan { kind: Kind::Kv, dir: b"app".to_vec(), after: None, limit: 1 };
        let key = barrier.store_key(&RecordKey::hidden(Kind::Kv, "app", "db")).expect("a key");
        let value = barrier.seal(Table::Data, &key, Kind::Kv as u8, b"x", &mut rng).expect("seals");
        let answers = vec![Answer::Page(Page { entries: vec![(key, value)], more: true })];
        let snapshot = Snapshot { sequence: None, answers };
        let (_, mut records) = barrier.records(std::slice::from_ref(&query), snapshot).expect("opens");
        let (page, more) = records.take_page(&query).expect("a page");
        assert_eq!((page[0].bytes.expose().as_slice(), more), (&b"x"[..], true));
        assert!(records.take_page(&query).is_none());
    }
}
