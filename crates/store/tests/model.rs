//! Both backends against a model: random batches and reads over few keys, compared with a sorted map.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use bulla_core::record::{Answer, Batch, Precondition, Read, Revision, SealedValue, StoreKey, Table};
use bulla_store::conformance::with_head;
use bulla_store::{CommitError, OnFatal, Store};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

type Model = BTreeMap<(Table, Vec<u8>), SealedValue>;

#[derive(Debug, Clone)]
enum Step {
    /// Batches that are in the queue together.
    Commit(Vec<Batch>),
    Read(Vec<Read>),
    /// Closes and opens the store again, where it keeps data.
    Reopen,
}

fn tables() -> impl Strategy<Value = Table> {
    prop_oneof![Just(Table::Plain), Just(Table::Data), (1..4_u32).prop_map(Table::Seen)]
}

/// Keys over two letters, so that they are often prefixes of each other and often the same.
fn keys() -> impl Strategy<Value = StoreKey> {
    proptest::collection::vec(prop_oneof![Just(0_u8), Just(0xff_u8)], 1..4).prop_map(|key| StoreKey::new(key).unwrap())
}

fn values() -> impl Strategy<Value = SealedValue> {
    (0..3_u64, 0..600_usize).prop_map(|(revision, length)| {
        let mut bytes = vec![1, 0, 0, 0, 0];
        bytes.extend(revision.to_be_bytes());
        bytes.resize(13 + length, 0x5a);
        SealedValue::new(bytes).unwrap()
    })
}

fn preconditions() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        2 => Just(Precondition::Absent),
        2 => Just(Precondition::Present),
        1 => (0..3_u64).prop_map(|revision| Precondition::At(Revision(revision))),
    ]
}

fn batches() -> impl Strategy<Value = Batch> {
    (
        proptest::collection::vec((tables(), keys(), preconditions()), 0..3),
        proptest::collection::vec((tables(), keys(), values()), 0..5),
        proptest::collection::vec((tables(), keys()), 0..3),
        proptest::collection::vec(1..4_u32, 0..2),
    )
        .prop_map(|(preconditions, puts, deletes, drop_seen)| Batch { preconditions, puts, deletes, drop_seen })
        .prop_filter("the writes of a batch do not contradict each other", |batch| batch.admissible().is_ok())
}

fn reads() -> impl Strategy<Value = Read> {
    let prefixes = prop_oneof![Just(vec![]), keys().prop_map(|key| key.as_bytes().to_vec())];
    prop_oneof![
        (tables(), keys()).prop_map(|(table, key)| Read::Get(table, key)),
        (tables(), prefixes, proptest::option::of(keys()), 1..6_usize)
            .prop_map(|(table, prefix, after, limit)| Read::Scan { table, prefix, after, limit }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => proptest::collection::vec(batches(), 1..6).prop_map(Step::Commit),
        3 => proptest::collection::vec(reads(), 1..6).prop_map(Step::Read),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..25)
}

fn expected_commit(model: &mut Model, batch: &Batch) -> Option<usize> {
    for (index, (table, key, precondition)) in batch.preconditions.iter().enumerate() {
        let found = model.get(&(*table, key.as_bytes().to_vec())).map(SealedValue::revision);
        let holds = match precondition {
            Precondition::Absent => found.is_none(),
            Precondition::Present => found.is_some(),
            Precondition::At(revision) => found == Some(*revision),
        };
        if !holds {
            return Some(index);
        }
    }
    model.retain(|(table, _), _| !batch.drop_seen.iter().any(|minute| *table == Table::Seen(*minute)));
    for (table, key) in &batch.deletes {
        model.remove(&(*table, key.as_bytes().to_vec()));
    }
    for (table, key, value) in &batch.puts {
        model.insert((*table, key.as_bytes().to_vec()), value.clone());
    }
    None
}

fn expected_answer(model: &Model, read: &Read) -> Answer {
    match read {
        Read::Get(table, key) => Answer::Value(model.get(&(*table, key.as_bytes().to_vec())).cloned()),
        Read::Scan { table, prefix, after, limit } => {
            let mut rows = model.iter().filter(|((of, key), _)| {
                of == table
                    && key.starts_with(prefix)
                    && after.as_ref().is_none_or(|after| key.as_slice() > after.as_bytes())
            });
            let entries = rows.by_ref().take(*limit);
            let entries = entries.map(|((_, key), value)| (StoreKey::new(key.clone()).unwrap(), value.clone()));
            let entries = entries.collect();
            Answer::Page(bulla_core::record::Page { entries, more: rows.next().is_some() })
        }
    }
}

/// Runs the steps against a store; `open` opens it, the first time and after each [`Step::Reopen`].
async fn compare(steps: Vec<Step>, durable: bool, open: impl Fn() -> Store) -> Result<(), TestCaseError> {
    let mut model = Model::new();
    let mut store = open();
    for step in steps {
        match step {
            Step::Commit(batches) => {
                let expected: Vec<_> = batches.iter().map(|batch| expected_commit(&mut model, batch)).collect();
                let mut running = Vec::new();
                for batch in batches {
                    // A future that was polled once is in the queue, so the order is that of the batches.
                    let store = store.clone();
                    let mut commit = Box::pin(async move { store.commit(batch).await });
                    let early = std::future::poll_fn(|context| {
                        std::task::Poll::Ready(match commit.as_mut().poll(context) {
                            std::task::Poll::Ready(answer) => Some(answer),
                            std::task::Poll::Pending => None,
                        })
                    })
                    .await;
                    running.push((commit, early));
                }
                for ((commit, early), expected) in running.into_iter().zip(expected) {
                    let answer = match early {
                        Some(answer) => answer,
                        None => commit.await,
                    };
                    let found = match answer {
                        Ok(_) => None,
                        Err(CommitError::Conflict { precondition }) => Some(precondition),
                        Err(other) => panic!("{other}"),
                    };
                    prop_assert_eq!(found, expected);
                }
            }
            Step::Read(reads) => {
                // The head row is the store's own work.
                let head = vec![Read::Get(Table::Plain, StoreKey::head())];
                if let Some(Answer::Value(Some(row))) = store.read(head).await.unwrap().answers.pop() {
                    model.insert((Table::Plain, StoreKey::head().as_bytes().to_vec()), row);
                }
                let expected: Vec<_> = reads.iter().map(|read| expected_answer(&model, read)).collect();
                prop_assert_eq!(store.read(reads).await.unwrap().answers, expected);
            }
            Step::Reopen if durable => {
                store.close().await;
                store = open();
            }
            Step::Reopen => {}
        }
    }
    store.close().await;
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn memory_behaves_as_a_map(steps in steps()) {
        runtime().block_on(compare(steps, false, || with_head(Store::memory())))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn file_behaves_as_a_map(steps in steps()) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("bulla.redb");
        let open = || with_head(Store::file(&path, OnFatal::call(|what| panic!("{what}"))).unwrap());
        runtime().block_on(compare(steps, true, open))?;
    }
}
