//! The head row and the sequence number.

use super::{Counting, answers, commit, conflict, head_row, in_order, key, put, value};
use crate::{CommitError, HeadError, Store};
use bulla_core::record::{Answer, Batch, HeadSource, Precondition, Read, SealedValue, Sequence, StoreKey, Table};
use std::sync::Arc;

pub(super) async fn run(make: &impl Fn() -> Store) {
    without_a_source(&make()).await;
    one_row_per_transaction(&make()).await;
    equal_to_the_row(&make()).await;
    a_wrong_row_is_refused(&make()).await;
}

fn with_head(sequence: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(Table::Plain, StoreKey::head(), head_row(sequence));
    batch
}

async fn sequence(store: &Store) -> Option<Sequence> {
    store.read(vec![]).await.expect("a read of nothing").sequence
}

fn head_error(answer: Result<crate::Committed, CommitError>) -> HeadError {
    match answer {
        Err(CommitError::Head(error)) => error,
        other => panic!("expected a refused head row, got {other:?}"),
    }
}

async fn without_a_source(store: &Store) {
    assert_eq!(sequence(store).await, None);
    let mut batch = Batch::default();
    batch.put(Table::Plain, key("a"), value(1));
    assert_eq!(commit(store, batch.clone()).await.sequence, Sequence(0));
    assert_eq!(sequence(store).await, None, "a sealed store wrote a head row");
    nothing_else(store).await;

    assert_eq!(commit(store, with_head(5)).await.sequence, Sequence(5));
    assert_eq!(commit(store, batch.clone()).await.sequence, Sequence(5));
    nothing_else(store).await;
    assert_eq!(sequence(store).await, Some(Sequence(5)));
    for offered in [0, 4, 5] {
        let error = head_error(store.commit(with_head(offered)).await);
        assert_eq!(error, HeadError::NotAbove { stored: Sequence(5), offered: Sequence(offered) });
    }
    // A lost race is a conflict first: who lost it begins again and learns the number.
    let mut create = with_head(5);
    create.require(Table::Plain, StoreKey::head(), Precondition::Absent);
    assert_eq!(conflict(store, create).await, 0);

    let mut batch = Batch::default();
    batch.delete(Table::Plain, StoreKey::head());
    assert_eq!(head_error(store.commit(batch).await), HeadError::Reserved);
    let mut batch = Batch::default();
    batch.put(Table::Plain, StoreKey::head(), value(9));
    assert_eq!(head_error(store.commit(batch).await), HeadError::Malformed);
    let mut batch = with_head(6);
    batch.put(Table::Data, StoreKey::head(), value(9));
    batch.put(Table::Seen(1), key("a"), value(1));
    commit(store, batch).await;
    assert_eq!(sequence(store).await, Some(Sequence(6)), "only the plain table has a head");
    // What a batch under a source wrote is not changed without one either.
    for table in [Table::Data, Table::Seen(1)] {
        let mut batch = Batch::default();
        batch.delete(table, key("a"));
        assert_eq!(head_error(store.commit(batch).await), HeadError::Missing);
    }
    let dropped = Batch { drop_seen: vec![1], ..Batch::default() };
    assert_eq!(head_error(store.commit(dropped).await), HeadError::Missing);
    assert_eq!(super::revision(store, Table::Seen(1), "a").await, Some(1));
}

/// A batch of a cluster that was sealed meanwhile comes too late.
async fn nothing_else(store: &Store) {
    for table in [Table::Data, Table::Seen(7)] {
        let mut batch = Batch::default();
        batch.put(Table::Plain, key("beside"), value(1));
        batch.put(table, key("late"), value(1));
        assert_eq!(head_error(store.commit(batch).await), HeadError::Missing);
        assert_eq!(super::revision(store, table, "late").await, None);
        assert_eq!(super::revision(store, Table::Plain, "beside").await, None);
    }
}

async fn one_row_per_transaction(store: &Store) {
    let source = Counting::above(40);
    store.set_head(Some(Arc::clone(&source) as Arc<dyn HeadSource>));
    let batches = (0..100).map(|number| {
        let mut batch = Batch::default();
        batch.create(Table::Data, key(format!("{}", number % 90)), value(1));
        batch
    });
    in_order(batches.map(|batch| store.commit(batch))).await;
    assert_eq!(source.calls(), store.statistics().transactions);
    assert_eq!(sequence(store).await, Some(Sequence(40 + source.calls())));

    let calls = source.calls();
    let mut nothing = Batch::default();
    nothing.require(Table::Data, key("0"), Precondition::Present);
    assert_eq!(commit(store, nothing).await.sequence, Sequence(40 + calls));
    let mut refused = Batch::default();
    refused.create(Table::Data, key("0"), value(1));
    conflict(store, refused).await;
    assert_eq!(source.calls(), calls, "the head advanced although nothing was written");

    assert_eq!(head_error(store.commit(with_head(1000)).await), HeadError::Reserved);
    store.set_head(None);
    put(store, Table::Plain, "sealed", 1).await;
    assert_eq!(source.calls(), calls);
}

async fn equal_to_the_row(store: &Store) {
    store.set_head(Some(Counting::above(0)));
    let mut last = Sequence(0);
    for number in 0..20 {
        let mut batch = Batch::default();
        batch.put(Table::Data, key("k"), value(number));
        let committed = commit(store, batch).await.sequence;
        assert!(committed > last, "{committed:?} after {last:?}");
        last = committed;
        let snapshot = store.read(vec![Read::Get(Table::Plain, StoreKey::head())]).await.expect("a read");
        assert_eq!(snapshot.sequence, Some(committed));
        let row = snapshot.answers.into_iter().next().and_then(Answer::into_value).expect("the head row");
        assert_eq!(row.head_sequence(), Some(committed));
    }
}

/// Gives always the same answer.
struct Fixed(Sequence, SealedValue);

impl HeadSource for Fixed {
    fn advance(&self) -> (Sequence, SealedValue) {
        (self.0, self.1.clone())
    }
}

async fn a_wrong_row_is_refused(store: &Store) {
    commit(store, with_head(5)).await;
    let stored = Sequence(5);
    let cases = [
        (Sequence(5), head_row(5), HeadError::NotAbove { stored, offered: Sequence(5) }),
        (Sequence(3), head_row(3), HeadError::NotAbove { stored, offered: Sequence(3) }),
        (Sequence(7), head_row(8), HeadError::Malformed),
        (Sequence(7), value(7), HeadError::Malformed),
    ];
    for (sequence, row, expected) in cases {
        store.set_head(Some(Arc::new(Fixed(sequence, row))));
        let mut batch = Batch::default();
        batch.put(Table::Data, key("k"), value(1));
        assert_eq!(head_error(store.commit(batch).await), expected);
        let read = vec![Read::Get(Table::Data, key("k")), Read::Get(Table::Plain, StoreKey::head())];
        assert_eq!(answers(store, read).await, [Answer::Value(None), Answer::Value(Some(head_row(5)))]);
    }
    store.set_head(Some(Counting::above(5)));
    put(store, Table::Data, "k", 1).await;
    assert_eq!(sequence(store).await, Some(Sequence(6)), "the store goes on after a refused row");
}
