//! A snapshot as it is made: which rows, in which order, in which pages, and what is said of them in the end
//! (`spec/snapshot.md`).
//!
//! Nothing is opened. The rows are read from one state that the store holds, so what is written meanwhile is in none of them.

use crate::head::Head;
use crate::record::{HEAD_KEY, Page, Read, SCAN_ENTRIES_MAX, SealedValue, StoreKey, Table};
use crate::seal::row;
use bulla_crypto::digest::Sha256;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::Position;
use bulla_wire::id::{ClusterId, Digest, KeyId};
use bulla_wire::json::V1;
use bulla_wire::snapshot::{self as wire, AuditLine, FrameError, KINDS, Manifest, PAGE_BYTES, Row};
use std::collections::VecDeque;
use std::fmt;

/// Why rows make no snapshot: a fault of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotFault {
    /// A row is none that a snapshot may hold.
    Row(FrameError),
    /// There is no head row, or it has not the form of one.
    Head,
    /// There is no document.
    Document,
}

impl fmt::Display for SnapshotFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(error) => write!(f, "a row of the store: {error}"),
            Self::Head => f.write_str("the store has no head row"),
            Self::Document => f.write_str("the store has no document"),
        }
    }
}
impl std::error::Error for SnapshotFault {}

impl From<FrameError> for SnapshotFault {
    fn from(error: FrameError) -> Self {
        Self::Row(error)
    }
}

/// Who vouches for a snapshot, and since when.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "fields of the manifest")]
pub struct Voucher {
    pub cluster: ClusterId,
    pub epoch: u64,
    pub node: KeyId,
    pub saved_ms: u64,
}

/// A file on its way, page by page.
#[derive(Debug)]
pub struct Pages {
    ranges: VecDeque<(Table, Vec<u8>)>,
    after: Option<StoreKey>,
    page: Vec<u8>,
    hash: Sha256,
    rows: u64,
    bytes: u64,
    head: Option<Head>,
    newest_document: Option<u32>,
}

impl Pages {
    /// A file of a state that has the *seen* buckets of these minutes, which ascend.
    pub fn new(buckets: impl IntoIterator<Item = u32>) -> Self {
        let kinds = KINDS.iter().map(|kind| (Table::Data, vec![*kind]));
        let buckets = buckets.into_iter().map(|minute| (Table::Seen(minute), vec![]));
        let mut pages = Self {
            ranges: std::iter::once((Table::Plain, vec![])).chain(kinds).chain(buckets).collect(),
            after: None,
            page: Vec::new(),
            hash: Sha256::new(),
            rows: 0,
            bytes: 0,
            head: None,
            newest_document: None,
        };
        pages.page.extend(wire::header());
        pages.count(0);
        pages
    }

    /// What to read next; nothing once all rows were read.
    pub fn wanted(&self) -> Option<Read> {
        let (table, prefix) = self.ranges.front()?;
        let (table, prefix, after) = (*table, prefix.clone(), self.after.clone());
        Some(Read::Scan { table, prefix, after, limit: SCAN_ENTRIES_MAX })
    }

    /// Takes what was read, up to the end of a page: the rest is wanted again.
    ///
    /// # Errors
    /// If it is no row of a snapshot.
    pub fn take(&mut self, read: Page) -> Result<(), SnapshotFault> {
        let Some(table) = self.ranges.front().map(|(table, _)| *table) else { return Ok(()) };
        for (key, value) in read.entries {
            if self.is_full() {
                return Ok(());
            }
            self.look(table, &key, &value);
            let begin = self.page.len();
            let row = Row { table: table_of(table), key: key.as_bytes(), value: value.as_bytes() };
            row.write(&mut self.page)?;
            self.count(begin);
            self.rows = self.rows.saturating_add(1);
            self.after = Some(key);
        }
        if !read.more {
            self.ranges.pop_front();
            self.after = None;
        }
        Ok(())
    }

    /// Whether the page is to be given out.
    pub fn is_full(&self) -> bool {
        self.page.len() >= PAGE_BYTES
    }

    /// The page; the next one begins.
    pub fn page(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.page)
    }

    /// What is said of the file, once nothing more is wanted.
    ///
    /// # Errors
    /// If the rows are not those of a cluster.
    pub fn manifest(&self, voucher: &Voucher) -> Result<Manifest, SnapshotFault> {
        let Voucher { cluster, epoch, node, saved_ms } = *voucher;
        let Head { sequence, lineage, audit, .. } = self.head.ok_or(SnapshotFault::Head)?;
        Ok(Manifest {
            v: V1,
            cluster,
            epoch,
            lineage,
            sequence: sequence.0,
            doc: self.newest_document.ok_or(SnapshotFault::Document)?,
            node,
            saved_ms,
            audit: AuditLine { file: audit.file, offset: audit.offset, n: audit.n, sha256: audit.hash },
            rows: self.rows,
            bytes: self.bytes,
            sha256: Digest::new(self.hash.clone().finish()),
        })
    }

    /// Ends the last page with the signed manifest.
    ///
    /// # Errors
    /// If it is too long.
    pub fn end(&mut self, manifest: &Envelope) -> Result<(), SnapshotFault> {
        Ok(wire::write_end(&bulla_wire::json::to_vec(manifest), &mut self.page)?)
    }

    fn count(&mut self, begin: usize) {
        let written = self.page.get(begin..).unwrap_or_default();
        self.hash.update(written);
        self.bytes = self.bytes.saturating_add(u64::try_from(written.len()).unwrap_or(u64::MAX));
    }

    /// Two kinds of rows stand in the manifest.
    fn look(&mut self, table: Table, key: &StoreKey, value: &SealedValue) {
        if table != Table::Plain {
            return;
        }
        if key.as_bytes() == HEAD_KEY {
            self.head = Head::parse_unverified(value).ok();
        }
        let number = key.as_bytes().strip_prefix(row::DOCUMENTS.as_bytes());
        let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        self.newest_document = self.newest_document.max(number);
    }
}

/// The same table, as it stands in a file.
fn table_of(table: Table) -> wire::Table {
    match table {
        Table::Plain => wire::Table::Plain,
        Table::Data => wire::Table::Data,
        Table::Seen(minute) => wire::Table::Seen(minute),
    }
}

/// A row of a file as a row of a store.
///
/// # Errors
/// None occurs: both have the same limits.
pub fn stored(row: &Row<'_>) -> Result<(Table, StoreKey, SealedValue), crate::record::RecordError> {
    let table = match row.table {
        wire::Table::Plain => Table::Plain,
        wire::Table::Data => Table::Data,
        wire::Table::Seen(minute) => Table::Seen(minute),
    };
    Ok((table, StoreKey::new(row.key)?, SealedValue::new(row.value)?))
}

/// The row that marks a store as filled from this snapshot, until the admins have opened it.
///
/// # Errors
/// None occurs: it is short.
pub fn mark(
    manifest: &Manifest,
    rng: &mut dyn bulla_crypto::random::Rng,
) -> Result<(StoreKey, SealedValue), crate::record::RecordError> {
    let content = serde_json::json!({"v": 1, "sha256": manifest.sha256, "saved_ms": manifest.saved_ms});
    Ok((row::key(row::RESTORED)?, row::encode(&bulla_wire::json::to_vec(&content), rng)?))
}

/// Whether a head row is at the position that a manifest tells.
pub fn agrees(manifest: &Manifest, head: &Head) -> bool {
    let AuditLine { file, offset, n, sha256 } = manifest.audit;
    let audit = crate::head::AuditPosition { file, offset, n, hash: sha256 };
    head.position() == Position { lineage: manifest.lineage, sequence: manifest.sequence } && head.audit == audit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::barrier::Kind;

    /// Exhaustive, so that a new kind of record does not compile before somebody decides about it.
    fn is_carried(kind: Kind) -> bool {
        match kind {
            Kind::Principal
            | Kind::Key
            | Kind::Policy
            | Kind::Alarm
            | Kind::Kv
            | Kind::AlarmCursor
            | Kind::NextIngress
            | Kind::Lease
            | Kind::LeaseDue
            | Kind::LeaseOwner
            | Kind::LeaseDemand
            | Kind::Database
            | Kind::DatabaseRole
            | Kind::KvVersion
            | Kind::TransitKey
            | Kind::TransitVersion
            | Kind::DueKept
            | Kind::StaticRole
            | Kind::DatabaseAuthority => true,
            Kind::Wrap | Kind::Receipt | Kind::Mine | Kind::Due | Kind::DueActive | Kind::Chunk | Kind::Upload => false,
        }
    }

    #[test]
    fn each_kind_is_carried_or_left_out() {
        let carried = Kind::ALL.iter().filter(|kind| is_carried(**kind)).map(|kind| *kind as u8);
        assert!(carried.eq(KINDS.iter().copied()));
    }

    fn row(kind: u8, number: u16, length: usize) -> (StoreKey, SealedValue) {
        let key = [&[kind][..], &number.to_be_bytes()].concat();
        (StoreKey::new(key).unwrap(), SealedValue::new(vec![1; length]).unwrap())
    }

    #[test]
    fn pages_end_when_they_are_full_and_nothing_is_skipped() {
        let mut pages = Pages::new([7, 9]);
        let mut wanted = Vec::new();
        let mut given = Vec::new();
        let rows: Vec<_> = (0..30).map(|number| row(10, number, 400_000)).collect();
        while let Some(Read::Scan { table, prefix, after, .. }) = pages.wanted() {
            wanted.push((table, prefix.clone()));
            let mut entries: Vec<_> = Vec::new();
            if prefix == [10] {
                entries =
                    rows.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after)).cloned().collect();
            }
            let more = entries.len() > 14;
            entries.truncate(14);
            pages.take(Page { entries, more }).unwrap();
            if pages.is_full() {
                given.push(pages.page());
            }
        }
        given.push(pages.page());
        wanted.dedup();
        let data = KINDS.iter().map(|kind| (Table::Data, vec![*kind]));
        let seen = [7, 9].map(|minute| (Table::Seen(minute), vec![]));
        assert!(wanted.into_iter().eq([(Table::Plain, vec![])].into_iter().chain(data).chain(seen)));
        assert_eq!(pages.rows, 30);
        let frame = 11 + 3 + 400_000;
        assert_eq!(given.iter().map(Vec::len).sum::<usize>(), 16 + 30 * frame);
        assert!(given.iter().all(|page| page.len() < PAGE_BYTES + frame), "a page is bounded");
        assert_eq!(pages.bytes, 16 + 30 * u64::try_from(frame).unwrap());
        assert_eq!(pages.manifest(&voucher()), Err(SnapshotFault::Head));
    }

    fn voucher() -> Voucher {
        Voucher { cluster: ClusterId::new([1; 32]), epoch: 1, node: KeyId::new([2; 32]), saved_ms: 3 }
    }

    #[test]
    fn a_manifest_tells_the_newest_document_and_one_head() {
        use crate::record::Sequence;
        use bulla_wire::id::Lineage;
        let audit = crate::head::AuditPosition { file: 3, offset: 4, n: 5, hash: Digest::new([6; 32]) };
        let (sequence, lineage) = (Sequence(7), Lineage::new([8; 16]));
        let head = Head { sequence, lineage, mark: 0, active_ms: 0, commit_ms: 0, audit };
        let mut pages = Pages::new([]);
        // A scan gives 10 before 2.
        let value = SealedValue::new(vec![2; 13]).unwrap();
        let entries = [10, 2].map(|number| (row::document_key(number).unwrap(), value.clone())).to_vec();
        pages.take(Page { entries, more: false }).unwrap();
        pages.head = Some(head);
        let manifest = pages.manifest(&voucher()).unwrap();
        assert_eq!((manifest.doc, manifest.rows, manifest.sequence), (10, 2, 7));
        assert!(agrees(&manifest, &head));
        assert!(agrees(&manifest, &Head { mark: 1, active_ms: 1, commit_ms: 1, ..head }), "these are not told");
        let other = |audit| Head { audit, ..head };
        for head in [
            Head { sequence: Sequence(6), ..head },
            Head { lineage: Lineage::new([9; 16]), ..head },
            other(crate::head::AuditPosition { file: 2, ..audit }),
            other(crate::head::AuditPosition { offset: 3, ..audit }),
            other(crate::head::AuditPosition { n: 4, ..audit }),
            other(crate::head::AuditPosition { hash: Digest::new([7; 32]), ..audit }),
        ] {
            assert!(!agrees(&manifest, &head), "{head:?}");
        }
    }

    /// The head is the row of that name and no other; the digest is that of the bytes, and the manifest comes last.
    #[test]
    fn a_file_tells_its_head_and_ends_with_its_manifest() {
        use crate::record::{Revision, Sequence};
        use bulla_crypto::digest::sha256;
        use bulla_crypto::secret::SecretKey;
        use bulla_wire::id::Lineage;
        let audit = crate::head::AuditPosition { file: 3, offset: 4, n: 5, hash: Digest::new([6; 32]) };
        let (sequence, lineage) = (Sequence(7), Lineage::new([8; 16]));
        let head = Head { sequence, lineage, mark: 0, active_ms: 0, commit_ms: 0, audit };
        let head_row = head.encode(&SecretKey::new([1; 32]), &ClusterId::new([1; 32]), Revision(9)).unwrap();
        let other = SealedValue::new(vec![2; 13]).unwrap();
        let entries = vec![
            (row::document_key(0).unwrap(), other.clone()),
            (StoreKey::head(), head_row),
            (row::key(row::LINEAGES).unwrap(), other),
        ];
        let mut pages = Pages::new([]);
        pages.take(Page { entries, more: false }).unwrap();
        let manifest = pages.manifest(&voucher()).unwrap();
        assert!(agrees(&manifest, &head));
        let page = pages.page();
        assert_eq!((manifest.rows, manifest.bytes), (3, u64::try_from(page.len()).unwrap()));
        assert_eq!(manifest.sha256, Digest::new(sha256(&[page.as_slice()])));

        let signed = Envelope { payload_type: String::new(), payload: vec![], signatures: vec![] };
        pages.end(&signed).unwrap();
        let end = pages.page();
        let json = bulla_wire::json::to_vec(&signed);
        assert_eq!(wire::Frame::parse(&end), Ok(Some((wire::Frame::End(&json), end.len()))));
        let long = Envelope { payload: vec![0; wire::MAX_MANIFEST_BYTES], ..signed };
        let fault = pages.end(&long).unwrap_err();
        assert!(fault.to_string().starts_with("a row of the store: "), "{fault}");
        assert_eq!(SnapshotFault::Head.to_string(), "the store has no head row");
    }
}
