//! The store in memory: for transient servers and for tests. Every commit is a transaction of its own.

mod frozen;

pub(crate) use frozen::Frozen;

use crate::Committed;
use crate::error::{CommitError, StoreError};
use crate::scan;
use crate::statistics::{Counters, Statistics};
use crate::transaction::{self, Rows};
use bulla_core::record::{
    Answer, Batch, HEAD_KEY, HeadSource, Page, Read, Revision, SealedValue, Sequence, Snapshot, StoreKey, Table,
};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

type Rowset = BTreeMap<StoreKey, SealedValue>;

/// A handle to a store in memory.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<RwLock<State>>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    plain: Rowset,
    data: Rowset,
    seen: HashMap<u32, Rowset>,
    head: Option<Arc<dyn HeadSource>>,
    frozen: Vec<Weak<frozen::Before>>,
    closed: bool,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), counters: Arc::default() }
    }

    pub(crate) fn read(&self, reads: &[Read]) -> Result<Snapshot, StoreError> {
        let state = self.shared();
        if state.closed {
            return Err(StoreError::Closed);
        }
        let answers = reads.iter().map(|read| state.answer(read)).collect();
        Ok(Snapshot { sequence: state.sequence(), answers })
    }

    pub(crate) fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let mut state = self.exclusive();
        if state.closed {
            return Err(CommitError::Closed);
        }
        let Ok(failing) = transaction::failing(&mut *state, &batch);
        if let Some(precondition) = failing {
            self.counters.conflicted();
            return Err(CommitError::Conflict { precondition });
        }
        let bytes = batch.bytes();
        let writes = !batch.is_read_only();
        let mut sequence = state.sequence();
        let own = transaction::own_head(&batch, state.head.is_some(), sequence).map_err(CommitError::Head)?;
        sequence = own.or(sequence);
        let source = state.head.clone().filter(|_| writes);
        let head = source.map(|source| transaction::next_head(&*source, sequence)).transpose();
        let head = head.map_err(CommitError::Head)?;

        let Ok(()) = transaction::apply(&mut *state, batch);
        if let Some((next, row)) = head {
            sequence = Some(next);
            let Ok(()) = state.put(Table::Plain, StoreKey::head(), row);
        }
        if writes {
            self.counters.transacted();
        }
        self.counters.committed(bytes);
        Ok(Committed { sequence: sequence.unwrap_or_default() })
    }

    pub(crate) fn freeze(&self) -> Result<Frozen, StoreError> {
        let mut state = self.exclusive();
        if state.closed {
            return Err(StoreError::Closed);
        }
        let before = Arc::new(frozen::Before::of(state.seen.keys().copied()));
        state.frozen.push(Arc::downgrade(&before));
        Ok(Frozen { state: Arc::clone(&self.state), before })
    }

    pub(crate) fn set_head(&self, source: Option<Arc<dyn HeadSource>>) {
        self.exclusive().head = source;
    }

    pub(crate) fn close(&self) {
        self.exclusive().closed = true;
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.counters.snapshot()
    }

    /// A poisoned lock means that a head source panicked, which happens before the first write.
    fn shared(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rows(&self, table: Table) -> Option<&Rowset> {
        match table {
            Table::Plain => Some(&self.plain),
            Table::Data => Some(&self.data),
            Table::Seen(minute) => self.seen.get(&minute),
        }
    }

    /// Keeps what a row was for those who hold an earlier state.
    fn keep(&mut self, table: Table, key: &StoreKey) {
        self.frozen.retain(|before| before.strong_count() > 0);
        self.keep_value(table, key, self.rows(table).and_then(|rows| rows.get(key)));
    }

    fn keep_value(&self, table: Table, key: &StoreKey, value: Option<&SealedValue>) {
        for before in self.frozen.iter().filter_map(Weak::upgrade) {
            before.keep(table, key, value);
        }
    }

    fn sequence(&self) -> Option<Sequence> {
        self.plain.get(HEAD_KEY).and_then(SealedValue::head_sequence)
    }

    fn answer(&self, read: &Read) -> Answer {
        match read {
            Read::Get(table, key) => Answer::Value(self.rows(*table).and_then(|rows| rows.get(key)).cloned()),
            Read::Scan { table, prefix, after, limit } => {
                let Some(rows) = self.rows(*table) else { return Answer::Page(Page::default()) };
                let range = (scan::start(prefix, after.as_ref()), Bound::Unbounded);
                let rows = rows.range::<[u8], _>(range).map(|(key, value)| Ok((key.clone(), value.clone())));
                let Ok::<_, Infallible>(page) = scan::page(prefix, *limit, rows);
                Answer::Page(page)
            }
        }
    }
}

impl Rows for State {
    type Fault = Infallible;

    fn revision(&mut self, table: Table, key: &StoreKey) -> Result<Option<Revision>, Infallible> {
        Ok(self.rows(table).and_then(|rows| rows.get(key)).map(SealedValue::revision))
    }

    fn put(&mut self, table: Table, key: StoreKey, value: SealedValue) -> Result<(), Infallible> {
        self.keep(table, &key);
        let rows = match table {
            Table::Plain => &mut self.plain,
            Table::Data => &mut self.data,
            Table::Seen(minute) => self.seen.entry(minute).or_default(),
        };
        rows.insert(key, value);
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &StoreKey) -> Result<(), Infallible> {
        self.keep(table, key);
        let rows = match table {
            Table::Plain => Some(&mut self.plain),
            Table::Data => Some(&mut self.data),
            Table::Seen(minute) => self.seen.get_mut(&minute),
        };
        if let Some(rows) = rows {
            rows.remove(key);
        }
        Ok(())
    }

    fn drop_seen(&mut self, minute: u32) -> Result<(), Infallible> {
        for (key, value) in self.seen.remove(&minute).iter().flatten() {
            self.keep_value(Table::Seen(minute), key, Some(value));
        }
        Ok(())
    }
}
