//! What every backend must do, as a suite that any test can run.
//!
//! A backend that passes [`run`], and [`durable`] if it keeps data, is a store. A failed expectation
//! panics and says what was expected.
#![expect(clippy::panic, reason = "the suite is run by tests and fails by panicking")]
#![expect(clippy::expect_used, reason = "the suite is run by tests and fails by panicking")]

mod conditions;
mod durable;
mod frozen;
mod heads;
mod races;
mod scans;

pub use durable::durable;

use crate::{CommitError, Committed, Store};
use bulla_core::record::{
    Answer, Batch, HEAD_TAG, HeadSource, Page, Read, Revision, SealedValue, Sequence, StoreKey, Table,
};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

/// Runs the suite. `make` gives a new, empty store each time. Needs a tokio runtime of several threads.
pub async fn run(make: impl Fn() -> Store) {
    let unsealed = || with_head(make());
    conditions::run(&unsealed).await;
    scans::run(&unsealed).await;
    heads::run(&make).await;
    races::run(&unsealed).await;
    frozen::run(&unsealed).await;
    closed(&unsealed()).await;
}

/// Gives a store a head source, as the store of an unsealed cluster has one. Its sequence goes on from any other
/// source's of this process.
pub fn with_head(store: Store) -> Store {
    struct Global;
    impl HeadSource for Global {
        fn advance(&self) -> (Sequence, SealedValue) {
            static SEQUENCE: AtomicU64 = AtomicU64::new(1);
            let sequence = SEQUENCE.fetch_add(1, Ordering::SeqCst);
            (Sequence(sequence), head_row(sequence))
        }
    }
    store.set_head(Some(Arc::new(Global)));
    store
}

async fn closed(store: &Store) {
    put(store, Table::Data, "a", 1).await;
    let other = store.clone();
    store.close().await;
    store.close().await;
    assert!(matches!(other.read(vec![]).await, Err(crate::StoreError::Closed)), "a closed store answers reads");
    assert!(matches!(other.commit(Batch::default()).await, Err(CommitError::Closed)), "a closed store commits");
}

/// A head source that counts from a number.
struct Counting {
    sequence: AtomicU64,
    calls: AtomicU64,
}

impl Counting {
    fn above(sequence: u64) -> Arc<Self> {
        Arc::new(Self { sequence: AtomicU64::new(sequence), calls: AtomicU64::new(0) })
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

impl HeadSource for Counting {
    fn advance(&self) -> (Sequence, SealedValue) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        (Sequence(sequence), head_row(sequence))
    }
}

fn head_row(sequence: u64) -> SealedValue {
    let mut bytes = vec![HEAD_TAG, 0, 0, 0, 1];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(b"the rest");
    SealedValue::new(bytes).expect("a head row")
}

fn key(text: impl AsRef<str>) -> StoreKey {
    StoreKey::new(text.as_ref()).expect("a key")
}

fn value(revision: u64) -> SealedValue {
    sized(revision, 16)
}

fn sized(revision: u64, length: usize) -> SealedValue {
    let mut bytes = vec![1, 0, 0, 0, 0];
    bytes.extend(revision.to_be_bytes());
    bytes.resize(length, 0xa5);
    SealedValue::new(bytes).expect("a sealed value")
}

async fn commit(store: &Store, batch: Batch) -> Committed {
    store.commit(batch).await.expect("the batch commits")
}

async fn put(store: &Store, table: Table, name: &str, revision: u64) {
    let mut batch = Batch::default();
    batch.put(table, key(name), value(revision));
    commit(store, batch).await;
}

/// The index of the failed precondition.
async fn conflict(store: &Store, batch: Batch) -> usize {
    match store.commit(batch).await {
        Err(CommitError::Conflict { precondition }) => precondition,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

async fn answers(store: &Store, reads: Vec<Read>) -> Vec<Answer> {
    store.read(reads).await.expect("the reads are answered").answers
}

async fn revision(store: &Store, table: Table, name: &str) -> Option<u64> {
    let answers = answers(store, vec![Read::Get(table, key(name))]).await;
    let value = answers.into_iter().next().expect("one answer").into_value();
    value.map(|value| value.revision().0)
}

async fn page(store: &Store, table: Table, prefix: &str, after: Option<&str>, limit: usize) -> Page {
    let read = Read::Scan { table, prefix: prefix.into(), after: after.map(key), limit };
    answers(store, vec![read]).await.into_iter().next().and_then(Answer::into_page).expect("one page")
}

fn names(page: &Page) -> Vec<String> {
    page.entries.iter().map(|(key, _)| String::from_utf8_lossy(key.as_bytes()).into_owned()).collect()
}

/// Begins the futures in their order and waits for all, so that a store with a queue sees that order.
async fn in_order<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<(Pin<Box<_>>, Option<T>)> =
        futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        let mut pending = false;
        for (future, done) in &mut waiting {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(answer) => *done = Some(answer),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

fn at(revision: u64) -> Revision {
    Revision(revision)
}
