//! One state of the maps that stays while writes go on: each write leaves what was there before, once, for each state
//! that is held. So a held state costs what changes meanwhile, and nothing at its beginning.

use super::State;
use crate::error::StoreError;
use crate::scan;
use bulla_core::record::{Answer, HEAD_KEY, Read, SealedValue, Snapshot, StoreKey, Table};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// What a row was; nothing if it was not there.
type Rowset = BTreeMap<StoreKey, Option<SealedValue>>;

/// What has changed since, as it was.
pub(super) struct Before {
    buckets: Vec<u32>,
    rows: Mutex<HashMap<Table, Rowset>>,
}

impl Before {
    pub(super) fn of(buckets: impl Iterator<Item = u32>) -> Self {
        let mut buckets: Vec<_> = buckets.collect();
        buckets.sort_unstable();
        Self { buckets, rows: Mutex::default() }
    }

    /// Remembers what a row is, unless it has changed before. The caller holds the maps.
    pub(super) fn keep(&self, table: Table, key: &StoreKey, value: Option<&SealedValue>) {
        let mut rows = self.lock();
        let rows = rows.entry(table).or_default();
        if !rows.contains_key(key) {
            rows.insert(key.clone(), value.cloned());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Table, Rowset>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state of the maps.
pub(crate) struct Frozen {
    pub(super) state: Arc<RwLock<State>>,
    pub(super) before: Arc<Before>,
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen").finish_non_exhaustive()
    }
}

impl Frozen {
    pub(crate) fn read(&self, reads: &[Read]) -> Result<Snapshot, StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(StoreError::Closed);
        }
        let before = self.before.lock();
        let view = View { state: &state, before: &before };
        let answers = reads.iter().map(|read| view.answer(read)).collect();
        let head = StoreKey::new(HEAD_KEY).ok().and_then(|key| view.get(Table::Plain, &key));
        Ok(Snapshot { sequence: head.and_then(SealedValue::head_sequence), answers })
    }

    pub(crate) fn buckets(&self) -> Result<Vec<u32>, StoreError> {
        Ok(self.before.buckets.clone())
    }
}

struct View<'a> {
    state: &'a State,
    before: &'a HashMap<Table, Rowset>,
}

impl<'a> View<'a> {
    fn get(&self, table: Table, key: &StoreKey) -> Option<&'a SealedValue> {
        match self.before.get(&table).and_then(|rows| rows.get(key)) {
            Some(before) => before.as_ref(),
            None => self.state.rows(table).and_then(|rows| rows.get(key)),
        }
    }

    fn answer(&self, read: &Read) -> Answer {
        match read {
            Read::Get(table, key) => Answer::Value(self.get(*table, key).cloned()),
            Read::Scan { table, prefix, after, limit } => {
                let range = (scan::start(prefix, after.as_ref()), Bound::Unbounded);
                let none = (BTreeMap::new(), BTreeMap::new());
                let now = self.state.rows(*table).unwrap_or(&none.0).range::<[u8], _>(range);
                let before = self.before.get(table).unwrap_or(&none.1).range::<[u8], _>(range);
                let Ok::<_, Infallible>(page) = scan::page(prefix, *limit, merged(now, before));
                Answer::Page(page)
            }
        }
    }
}

/// Both in key order, where what was there before wins.
fn merged<'a>(
    now: impl Iterator<Item = (&'a StoreKey, &'a SealedValue)>,
    before: impl Iterator<Item = (&'a StoreKey, &'a Option<SealedValue>)>,
) -> impl Iterator<Item = Result<(StoreKey, SealedValue), Infallible>> {
    let (mut now, mut before) = (now.peekable(), before.peekable());
    std::iter::from_fn(move || {
        loop {
            let earlier = match (now.peek(), before.peek()) {
                (None, None) => return None,
                (Some((unchanged, _)), Some((changed, _))) => changed <= unchanged,
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            if !earlier {
                let (key, value) = now.next()?;
                return Some(Ok((key.clone(), value.clone())));
            }
            let (key, value) = before.next()?;
            now.next_if(|(unchanged, _)| *unchanged == key);
            if let Some(value) = value {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    })
}
