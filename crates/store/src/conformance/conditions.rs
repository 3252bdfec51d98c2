//! Preconditions, all or nothing, deletes, buckets, limits.

use super::{at, commit, conflict, in_order, key, names, page, put, revision, sized, value};
use crate::{CommitError, Store, StoreError};
use bulla_core::record::{
    BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, Batch, Precondition, READS_MAX, Read, RecordError, SCAN_ENTRIES_MAX, Table,
};

pub(super) async fn run(make: &impl Fn() -> Store) {
    preconditions(&make()).await;
    first_failure_is_named(&make()).await;
    all_or_nothing(&make()).await;
    judged_before_the_first_write(&make()).await;
    earlier_batches_are_seen(&make()).await;
    conflicts_stay_alone(&make()).await;
    deletes(&make()).await;
    tables_are_apart(&make()).await;
    buckets_are_dropped_whole(&make()).await;
    limits(&make()).await;
    a_dropped_future_still_commits(&make()).await;
}

async fn preconditions(store: &Store) {
    for table in [Table::Plain, Table::Data, Table::Seen(7)] {
        let required = |precondition, revision| {
            let mut batch = Batch::default();
            batch.require(table, key("k"), precondition);
            batch.put(table, key("k"), value(revision));
            batch
        };
        assert_eq!(conflict(store, required(Precondition::Present, 1)).await, 0, "Present without a record");
        assert_eq!(conflict(store, required(Precondition::At(at(0)), 1)).await, 0, "At without a record");
        commit(store, required(Precondition::Absent, 1)).await;
        assert_eq!(conflict(store, required(Precondition::Absent, 2)).await, 0, "Absent with a record");
        assert_eq!(conflict(store, required(Precondition::At(at(2)), 3)).await, 0, "At another revision");
        assert_eq!(revision(store, table, "k").await, Some(1));
        commit(store, required(Precondition::At(at(1)), 2)).await;
        commit(store, required(Precondition::Present, 3)).await;
        assert_eq!(revision(store, table, "k").await, Some(3));
    }
}

async fn first_failure_is_named(store: &Store) {
    put(store, Table::Data, "a", 1).await;
    let mut batch = Batch::default();
    batch.require(Table::Data, key("a"), Precondition::Present);
    batch.require(Table::Data, key("b"), Precondition::Absent);
    batch.require(Table::Data, key("a"), Precondition::Absent);
    batch.require(Table::Data, key("b"), Precondition::Present);
    assert_eq!(conflict(store, batch).await, 2);
}

async fn all_or_nothing(store: &Store) {
    put(store, Table::Data, "old", 1).await;
    put(store, Table::Seen(1), "row", 1).await;
    let mut batch = Batch::default();
    batch.put(Table::Data, key("new"), value(1));
    batch.put(Table::Plain, key("new"), value(1));
    batch.delete(Table::Data, key("old"));
    batch.drop_seen.push(1);
    let mut refused = batch.clone();
    refused.require(Table::Data, key("old"), Precondition::At(at(9)));
    conflict(store, refused).await;
    assert_eq!(revision(store, Table::Data, "new").await, None);
    assert_eq!(revision(store, Table::Plain, "new").await, None);
    assert_eq!(revision(store, Table::Data, "old").await, Some(1));
    assert_eq!(revision(store, Table::Seen(1), "row").await, Some(1));
    commit(store, batch).await;
    assert_eq!(revision(store, Table::Data, "new").await, Some(1));
    assert_eq!(revision(store, Table::Plain, "new").await, Some(1));
    assert_eq!(revision(store, Table::Data, "old").await, None);
    assert_eq!(revision(store, Table::Seen(1), "row").await, None);
}

async fn judged_before_the_first_write(store: &Store) {
    let mut batch = Batch::default();
    batch.put(Table::Data, key("k"), value(1));
    batch.require(Table::Data, key("k"), Precondition::Present);
    assert_eq!(conflict(store, batch).await, 0, "a batch saw its own write");
}

async fn earlier_batches_are_seen(store: &Store) {
    let step = |from, to| {
        let mut batch = Batch::default();
        batch.replace(Table::Data, key("k"), at(from), value(to));
        batch
    };
    let mut first = Batch::default();
    first.create(Table::Data, key("k"), value(1));
    let mut last = Batch::default();
    last.require(Table::Data, key("k"), Precondition::At(at(3)));
    last.delete(Table::Data, key("k"));
    let batches = vec![first.clone(), step(1, 2), step(1, 9), step(2, 3), first.clone(), last, first];
    let answers = in_order(batches.into_iter().map(|batch| store.commit(batch))).await;
    let committed: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(committed, [true, true, false, true, false, true, true]);
    assert_eq!(revision(store, Table::Data, "k").await, Some(1));
}

async fn conflicts_stay_alone(store: &Store) {
    let batches = (0..300_u32).map(|number| {
        let mut batch = Batch::default();
        batch.put(Table::Data, key(format!("{number:03}")), value(1));
        if number % 3 == 0 {
            batch.require(Table::Data, key("missing"), Precondition::Present);
        }
        batch
    });
    let answers = in_order(batches.map(|batch| store.commit(batch))).await;
    for (number, answer) in answers.iter().enumerate() {
        match answer {
            Ok(_) => assert_ne!(number % 3, 0, "batch {number} should have conflicted"),
            Err(CommitError::Conflict { precondition: 0 }) => assert_eq!(number % 3, 0, "batch {number} conflicted"),
            other => panic!("batch {number}: {other:?}"),
        }
    }
    assert_eq!(page(store, Table::Data, "", None, SCAN_ENTRIES_MAX).await.entries.len(), 200);
    let statistics = store.statistics();
    assert_eq!((statistics.commits, statistics.conflicts), (200, 100));
    assert_eq!(statistics.bytes, 200 * (3 + 16));
    assert!((1..=200).contains(&statistics.transactions));
}

async fn deletes(store: &Store) {
    put(store, Table::Data, "a", 1).await;
    let mut batch = Batch::default();
    batch.delete(Table::Data, key("a"));
    batch.delete(Table::Data, key("never"));
    batch.delete(Table::Seen(3), key("never"));
    commit(store, batch).await;
    assert_eq!(revision(store, Table::Data, "a").await, None);
    let mut again = Batch::default();
    again.create(Table::Data, key("a"), value(2));
    commit(store, again).await;
    assert_eq!(revision(store, Table::Data, "a").await, Some(2));
}

async fn tables_are_apart(store: &Store) {
    let tables = [Table::Plain, Table::Data, Table::Seen(1), Table::Seen(11)];
    for (table, number) in tables.into_iter().zip(1..) {
        put(store, table, "k", number).await;
    }
    for (table, number) in tables.into_iter().zip(1..) {
        assert_eq!(revision(store, table, "k").await, Some(number), "{table:?}");
        assert_eq!(names(&page(store, table, "k", None, 9).await), ["k"]);
    }
}

async fn buckets_are_dropped_whole(store: &Store) {
    for name in 0..50 {
        put(store, Table::Seen(100), &format!("{name}"), 1).await;
        put(store, Table::Seen(101), &format!("{name}"), 1).await;
    }
    let mut batch = Batch::default();
    // One that is not there is no error, and a drop can stand beside a write to another bucket.
    batch.drop_seen.extend([99, 100, u32::MAX]);
    batch.put(Table::Seen(102), key("new"), value(1));
    commit(store, batch).await;
    assert!(page(store, Table::Seen(100), "", None, 99).await.entries.is_empty());
    assert_eq!(page(store, Table::Seen(101), "", None, 99).await.entries.len(), 50);
    assert_eq!(revision(store, Table::Seen(102), "new").await, Some(1));

    // Use, drop and use again, one after another in as few transactions as the store likes.
    let mut fill = Batch::default();
    fill.put(Table::Seen(101), key("late"), value(1));
    let mut drop = Batch::default();
    drop.require(Table::Seen(101), key("late"), Precondition::Present);
    drop.drop_seen.push(101);
    let mut create = Batch::default();
    create.create(Table::Seen(101), key("late"), value(2));
    let answers = in_order([fill, drop, create].map(|batch| store.commit(batch))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(names(&page(store, Table::Seen(101), "", None, 99).await), ["late"]);
    assert_eq!(revision(store, Table::Seen(101), "late").await, Some(2));
}

async fn limits(store: &Store) {
    let mut batch = Batch::default();
    batch.put(Table::Data, key("a"), sized(1, BATCH_BYTES_MAX / 2));
    batch.put(Table::Data, key("b"), sized(1, BATCH_BYTES_MAX / 2 - 2));
    commit(store, batch.clone()).await;
    batch.put(Table::Data, key("c"), value(1));
    let refused = store.commit(batch).await;
    assert!(matches!(refused, Err(CommitError::Refused(RecordError::BatchBytes { .. }))), "{refused:?}");

    let mut batch = Batch::default();
    for number in 0..=BATCH_OPERATIONS_MAX {
        batch.require(Table::Data, key(format!("{number}")), Precondition::Absent);
    }
    let refused = store.commit(batch).await;
    assert!(matches!(refused, Err(CommitError::Refused(RecordError::BatchOperations { .. }))), "{refused:?}");

    for limit in [0, SCAN_ENTRIES_MAX + 1] {
        let read = Read::Scan { table: Table::Data, prefix: vec![], after: None, limit };
        let refused = store.read(vec![read]).await;
        assert!(matches!(refused, Err(StoreError::ScanLimit { .. })), "{refused:?}");
    }
    let reads = vec![Read::Get(Table::Data, key("a")); READS_MAX + 1];
    let refused = store.read(reads).await;
    assert!(matches!(refused, Err(StoreError::TooManyReads { .. })), "{refused:?}");
    let reads = vec![Read::Get(Table::Plain, key("a")); READS_MAX];
    assert_eq!(store.read(reads).await.map(|snapshot| snapshot.answers.len()).ok(), Some(READS_MAX));
}

async fn a_dropped_future_still_commits(store: &Store) {
    let mut batch = Batch::default();
    batch.put(Table::Data, key("k"), value(1));
    let dropped = tokio::time::timeout(std::time::Duration::ZERO, store.commit(batch)).await;
    drop(dropped);
    // What was queued before is done before.
    put(store, Table::Data, "other", 1).await;
    assert_eq!(revision(store, Table::Data, "k").await, Some(1));
}
