//! Many at once: one winner, no lost update, no torn snapshot.

use super::{Counting, at, commit, key, put, revision, value};
use crate::{CommitError, Store};
use bulla_core::record::{Answer, Batch, Read, Revision, Sequence, StoreKey, Table};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// Racing creators of one key, in each of [`ROUNDS`].
const CREATORS: u64 = 500;
const ROUNDS: u64 = 8;

pub(super) async fn run(make: &impl Fn() -> Store) {
    one_creator_wins(&make()).await;
    no_update_is_lost(&make()).await;
    snapshots_are_whole(&make()).await;
}

async fn one_creator_wins(store: &Store) {
    store.set_head(Some(Counting::above(0)));
    for round in 0..ROUNDS {
        let mut racers = JoinSet::new();
        for racer in 1..=CREATORS {
            let store = store.clone();
            racers.spawn(async move {
                let mut batch = Batch::default();
                batch.create(Table::Data, key(format!("prize {round}")), value(racer));
                batch.put(Table::Seen(1), key(format!("{round} {racer}")), value(racer));
                match store.commit(batch).await {
                    Ok(_) => Some(racer),
                    Err(CommitError::Conflict { precondition: 0 }) => None,
                    Err(other) => panic!("racer {racer}: {other}"),
                }
            });
        }
        let winners: Vec<u64> = racers.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}: winners {winners:?}");
        assert_eq!(revision(store, Table::Data, &format!("prize {round}")).await, winners.first().copied());
    }
    let left = super::page(store, Table::Seen(1), "", None, 1000).await;
    assert_eq!(left.entries.len(), usize::try_from(ROUNDS).expect("small"), "a loser left something behind");
}

async fn no_update_is_lost(store: &Store) {
    const TASKS: u64 = 8;
    const STEPS: u64 = 40;
    put(store, Table::Data, "counter", 0).await;
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let store = store.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while done < STEPS {
                let seen = revision(&store, Table::Data, "counter").await.expect("the counter");
                let mut batch = Batch::default();
                batch.replace(Table::Data, key("counter"), at(seen), value(seen + 1));
                match store.commit(batch).await {
                    Ok(_) => done += 1,
                    Err(CommitError::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(revision(store, Table::Data, "counter").await, Some(TASKS * STEPS));
}

/// Writers keep four records at one revision; readers must never see two.
async fn snapshots_are_whole(store: &Store) {
    store.set_head(Some(Counting::above(0)));
    let places = [(Table::Plain, "x"), (Table::Data, "x"), (Table::Data, "y"), (Table::Seen(9), "x")];
    let write = move |revision| {
        let mut batch = Batch::default();
        for (table, name) in places {
            batch.put(table, key(name), value(revision));
        }
        batch
    };
    commit(store, write(0)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for reader in 0..4 {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        readers.spawn(async move {
            let mut last = Sequence(0);
            while !stop.load(Ordering::Relaxed) {
                let mut reads: Vec<Read> =
                    places.into_iter().map(|(table, name)| Read::Get(table, key(name))).collect();
                reads.push(Read::Get(Table::Plain, StoreKey::head()));
                if reader % 2 == 0 {
                    reads.push(Read::Scan { table: Table::Data, prefix: vec![], after: None, limit: 9 });
                }
                let snapshot = store.read(reads).await.expect("a read");
                let sequence = snapshot.sequence.expect("a head");
                assert!(sequence >= last, "{sequence:?} after {last:?}");
                last = sequence;
                one_state(sequence, snapshot.answers);
                tokio::task::yield_now().await;
            }
        });
    }
    let mut writers = JoinSet::new();
    for writer in 1..=4 {
        let store = store.clone();
        writers.spawn(async move {
            for number in 0..100 {
                commit(&store, write(writer * 1000 + number)).await;
            }
        });
    }
    writers.join_all().await;
    stop.store(true, Ordering::Relaxed);
    readers.join_all().await;
}

fn one_state(sequence: Sequence, answers: Vec<Answer>) {
    let mut revisions: Vec<Revision> = Vec::new();
    for answer in answers {
        match answer {
            Answer::Value(value) => {
                let value = value.expect("a record");
                match value.head_sequence() {
                    Some(head) => assert_eq!(head, sequence, "the head row is of another state"),
                    None => revisions.push(value.revision()),
                }
            }
            Answer::Page(page) => revisions.extend(page.entries.iter().map(|(_, value)| value.revision())),
        }
    }
    assert!(revisions.len() >= 4);
    revisions.dedup();
    assert_eq!(revisions.len(), 1, "a torn snapshot: {revisions:?}");
}
