//! A held state: what it was stays in it, whatever is written meanwhile.

use super::{commit, key, names, put, value};
use crate::{Frozen, Store, StoreError};
use bulla_core::record::{Answer, Batch, Page, Read, SCAN_ENTRIES_MAX, Table};

pub(super) async fn run(make: &impl Fn() -> Store) {
    stays_as_it_was(&make()).await;
    each_state_is_its_own(&make()).await;
    ends_with_the_store(&make()).await;
}

async fn scan(frozen: &Frozen, table: Table, after: Option<&str>, limit: usize) -> Page {
    let read = Read::Scan { table, prefix: vec![], after: after.map(key), limit };
    let answers = frozen.read(vec![read]).await.expect("a held state answers").answers;
    answers.into_iter().next().and_then(Answer::into_page).expect("one page")
}

async fn revision(frozen: &Frozen, table: Table, name: &str) -> Option<u64> {
    let answers = frozen.read(vec![Read::Get(table, key(name))]).await.expect("a held state answers").answers;
    answers.into_iter().next().and_then(Answer::into_value).map(|value| value.revision().0)
}

async fn stays_as_it_was(store: &Store) {
    for table in [Table::Data, Table::Seen(1), Table::Seen(2)] {
        for name in ["b", "d", "f"] {
            put(store, table, name, 1).await;
        }
    }
    let frozen = store.freeze().await.expect("a state is held");
    let begun = frozen.read(vec![]).await.expect("a held state answers").sequence;
    for table in [Table::Data, Table::Seen(1), Table::Seen(2)] {
        let mut batch = Batch::default();
        for name in ["a", "c", "d", "e", "g"] {
            batch.put(table, key(name), value(2));
        }
        batch.delete(table, key("b"));
        commit(store, batch).await;
    }
    let mut batch = Batch::default();
    batch.drop_seen.push(2);
    commit(store, batch).await;
    put(store, Table::Data, "b", 3).await;
    put(store, Table::Seen(3), "x", 3).await;

    for table in [Table::Data, Table::Seen(1), Table::Seen(2)] {
        let all = scan(&frozen, table, None, SCAN_ENTRIES_MAX).await;
        assert_eq!((names(&all), all.more), (vec!["b".into(), "d".into(), "f".into()], false), "{table:?}");
        assert!(all.entries.iter().all(|(_, value)| value.revision().0 == 1), "{table:?}");
        let first = scan(&frozen, table, None, 2).await;
        assert_eq!((names(&first), first.more), (vec!["b".into(), "d".into()], true), "{table:?}");
        let rest = scan(&frozen, table, Some("d"), 2).await;
        assert_eq!((names(&rest), rest.more), (vec!["f".into()], false), "{table:?}");
        assert_eq!(revision(&frozen, table, "b").await, Some(1));
        assert_eq!(revision(&frozen, table, "a").await, None);
    }
    assert_eq!(frozen.buckets().await.expect("a held state answers"), [1, 2]);
    let later = frozen.read(vec![]).await.expect("a held state answers").sequence;
    assert_eq!(later, begun, "the sequence of a held state moved");
    assert!(store.read(vec![]).await.expect("the reads are answered").sequence > begun);
}

async fn each_state_is_its_own(store: &Store) {
    put(store, Table::Data, "a", 1).await;
    let first = store.freeze().await.expect("a state is held");
    put(store, Table::Data, "a", 2).await;
    let second = store.freeze().await.expect("a state is held");
    put(store, Table::Data, "a", 3).await;
    assert_eq!(revision(&first, Table::Data, "a").await, Some(1));
    drop(first);
    put(store, Table::Data, "a", 4).await;
    assert_eq!(revision(&second, Table::Data, "a").await, Some(2));
}

async fn ends_with_the_store(store: &Store) {
    put(store, Table::Data, "a", 1).await;
    let frozen = store.freeze().await.expect("a state is held");
    store.close().await;
    assert!(matches!(frozen.read(vec![]).await, Err(StoreError::Closed)), "a closed store holds a state");
    assert!(matches!(store.freeze().await, Err(StoreError::Closed)), "a closed store begins to hold a state");
}
