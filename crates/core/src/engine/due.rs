//! What is due when: an index by time, read by the sweep.
//!
//! Times stand in clear, so that the store can sort by them; the ids are random. One index runs on the
//! clock, the other on the active clock, which stands still while the cluster is sealed.

use crate::barrier::{Cursor, Kind, Query, Record, RecordKey, Records};
use crate::engine::{chunk, kv, wrap};
use crate::operation::{Context, Fault, Now, Operation, Outcome, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_wire::api::Done;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// A wrap that nobody opened expires.
    WrapExpiry = 1,
    /// A wrap's slot that was opened lapses, or a refused one loses its ciphertext.
    SlotLapse = 2,
    /// An upload that was never finished.
    Upload = 3,
    /// A wrap's tombstone and receipts may go.
    Tombstone = 4,
    /// A version of a secret is destroyed.
    KvExpiry = 5,
}

impl What {
    fn from_u8(number: u8) -> Option<Self> {
        [Self::WrapExpiry, Self::SlotLapse, Self::Upload, Self::Tombstone, Self::KvExpiry]
            .into_iter()
            .find(|what| *what as u8 == number)
    }
}

/// Something that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which index it stands in.
    pub kind: Kind,
    /// When, milliseconds of the index's clock.
    pub at_ms: u64,
    /// What.
    pub what: What,
    /// Of whom; what it means depends on `what`.
    pub id: Vec<u8>,
}

/// The key of an entry. Its value is empty unless its id does not say what it is about.
pub fn key(kind: Kind, at_ms: u64, what: What, id: &[u8]) -> RecordKey {
    RecordKey::clear(kind, "", [&at_ms.to_be_bytes()[..], &[what as u8], id].concat())
}

impl Entry {
    /// Reads an entry's key as a scan returned it.
    pub fn parse(kind: Kind, cursor: &Cursor) -> Option<Self> {
        let (at_ms, rest) = cursor.as_bytes().split_first_chunk::<8>()?;
        let (what, id) = rest.split_first()?;
        Some(Self { kind, at_ms: u64::from_be_bytes(*at_ms), what: What::from_u8(*what)?, id: id.to_vec() })
    }
    /// Its key.
    pub fn key(&self) -> RecordKey {
        key(self.kind, self.at_ms, self.what, &self.id)
    }
    /// Whether its time has come, by the clock of its index.
    pub fn is_due(&self, now: Now) -> bool {
        self.at_ms <= if self.kind == Kind::DueActive { now.active_ms } else { now.unix_ms }
    }
}

/// Does what is due, without an actor: nothing before its time, and nothing twice. An entry stays until the
/// commit that makes it needless, so a sweep that is cut off goes on with the next one. An entry may need several
/// commits; the sweep drives it again until there is nothing to write.
impl Operation for Entry {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let key = self.key();
        let Some(listed) = records.get(&key) else { return Ok(Step::need([key])) };
        // Gone since the sweep looked: somebody else did it, or it is not needed any more.
        if listed.is_none() || !self.is_due(context.now) {
            return Ok(Outcome::read(Reply::json(&Done {})));
        }
        let entry = self.clone();
        match self.what {
            What::WrapExpiry => wrap::Expire { entry }.step(records, context, rng),
            What::SlotLapse => wrap::Lapse { entry }.step(records, context, rng),
            What::Tombstone => wrap::Bury { entry }.step(records, context, rng),
            What::KvExpiry => kv::Expire { entry }.step(records, context, rng),
            What::Upload => chunk::Abandon { entry }.step(records, context, rng),
        }
    }
}

/// The entries of a scanned page whose time has come. Damaged ones are left out.
pub fn overdue(kind: Kind, page: &[Record], now: Now) -> Vec<Entry> {
    let entries = page.iter().filter_map(|record| Entry::parse(kind, &record.cursor));
    entries.take_while(|entry| entry.is_due(now)).collect()
}

/// Whether a record of a scanned page is of later, as all behind it are then.
pub fn is_early(kind: Kind, record: &Record, now: Now) -> bool {
    Entry::parse(kind, &record.cursor).is_some_and(|entry| !entry.is_due(now))
}

/// Asks for the next entries, earliest first.
pub fn scan(kind: Kind, after: Option<Cursor>, limit: usize) -> Query {
    Query::Scan { kind, dir: vec![], after, limit }
}
