//! What a backend must keep when it is closed and opened again.

use super::{Counting, at, commit, conflict, key, page, put, revision, value};
use crate::Store;
use bulla_core::record::{Batch, Sequence, Table};
use tokio::task::JoinSet;

/// Runs the suite for backends that keep data. `open` opens the same storage each time, which is empty at
/// first; the suite closes each store before it opens the next.
pub async fn durable(open: impl Fn() -> Store) {
    let store = open();
    store.set_head(Some(Counting::above(0)));
    for table in [Table::Plain, Table::Data, Table::Seen(1), Table::Seen(2)] {
        put(&store, table, "kept", 1).await;
        put(&store, table, "changed", 1).await;
        put(&store, table, "removed", 1).await;
    }
    let mut batch = Batch::default();
    batch.drop_seen.push(2);
    for table in [Table::Plain, Table::Data, Table::Seen(1)] {
        batch.replace(table, key("changed"), at(1), value(2));
        batch.delete(table, key("removed"));
    }
    let last = commit(&store, batch).await.sequence;
    store.close().await;

    let store = open();
    assert_eq!(store.read(vec![]).await.expect("a read").sequence, Some(last));
    for table in [Table::Plain, Table::Data, Table::Seen(1)] {
        assert_eq!(revision(&store, table, "kept").await, Some(1));
        assert_eq!(revision(&store, table, "changed").await, Some(2));
        assert_eq!(revision(&store, table, "removed").await, None);
    }
    assert!(page(&store, Table::Seen(2), "", None, 9).await.entries.is_empty());
    let mut again = Batch::default();
    again.create(Table::Data, key("kept"), value(9));
    assert_eq!(conflict(&store, again).await, 0, "a precondition forgot what was before");
    many_at_once(&store, last).await;
    store.close().await;

    let store = open();
    assert_eq!(page(&store, Table::Data, "many/", None, 1000).await.entries.len(), 256);
    store.close().await;
}

async fn many_at_once(store: &Store, last: Sequence) {
    store.set_head(Some(Counting::above(last.0)));
    let mut tasks = JoinSet::new();
    for task in 0..32 {
        let store = store.clone();
        tasks.spawn(async move {
            for number in 0..8 {
                let mut batch = Batch::default();
                batch.create(Table::Data, key(format!("many/{task}/{number}")), value(1));
                assert!(commit(&store, batch).await.sequence > last);
            }
        });
    }
    tasks.join_all().await;
}
