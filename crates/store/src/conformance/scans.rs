//! Scans: order, prefix, position, limit.

use super::{commit, key, names, page, put, sized};
use crate::Store;
use bulla_core::record::{Batch, SCAN_BYTES_MAX, SCAN_ENTRIES_MAX, SEALED_VALUE_BYTES_MAX, StoreKey, Table};

pub(super) async fn run(make: &impl Fn() -> Store) {
    order_prefix_and_position(&make()).await;
    bytes_are_ordered_unsigned(&make()).await;
    pages_cover_everything_once(&make()).await;
    a_page_has_a_size(&make()).await;
}

async fn order_prefix_and_position(store: &Store) {
    for table in [Table::Plain, Table::Data, Table::Seen(5)] {
        for name in ["b", "ab", "a", "abc", "c", "abd", "ac"] {
            put(store, table, name, 1).await;
        }
        let all = page(store, table, "", None, 99).await;
        let head = (table == Table::Plain).then_some("head");
        let expected: Vec<&str> = ["a", "ab", "abc", "abd", "ac", "b", "c"].into_iter().chain(head).collect();
        assert_eq!(names(&all), expected);
        assert!(!all.more);
        assert_eq!(names(&page(store, table, "ab", None, 99).await), ["ab", "abc", "abd"]);
        assert_eq!(names(&page(store, table, "ab", Some("ab"), 99).await), ["abc", "abd"]);
        assert_eq!(names(&page(store, table, "ab", Some("abca"), 99).await), ["abd"]);
        assert_eq!(names(&page(store, table, "ab", Some("a"), 99).await), ["ab", "abc", "abd"]);
        assert_eq!(names(&page(store, table, "ab", Some("b"), 99).await), [""; 0]);
        assert_eq!(names(&page(store, table, "x", None, 99).await), [""; 0]);
        let part = page(store, table, "ab", None, 2).await;
        assert_eq!((names(&part), part.more), (vec!["ab".to_owned(), "abc".to_owned()], true));
        let whole = page(store, table, "ab", None, 3).await;
        assert_eq!((whole.entries.len(), whole.more), (3, false), "rows beyond the prefix are not more");
    }
    assert_eq!(names(&page(store, Table::Seen(6), "", None, 99).await), [""; 0], "a bucket that never was");
}

async fn bytes_are_ordered_unsigned(store: &Store) {
    let keys: Vec<StoreKey> = [vec![0], vec![0, 0], vec![0x7f], vec![0x80], vec![0xff], vec![0xff, 0xff]]
        .into_iter()
        .map(|bytes| StoreKey::new(bytes).expect("a key"))
        .collect();
    let mut batch = Batch::default();
    for key in keys.iter().rev() {
        batch.put(Table::Data, key.clone(), sized(1, 13));
    }
    commit(store, batch).await;
    let found: Vec<StoreKey> =
        page(store, Table::Data, "", None, 99).await.entries.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys);
}

async fn pages_cover_everything_once(store: &Store) {
    let mut expected = Vec::new();
    for chunk in 0..5 {
        let mut batch = Batch::default();
        for number in 0..400 {
            let name = format!("p/{chunk}{number:03}");
            batch.put(Table::Data, key(&name), sized(1, 13));
            expected.push(name);
        }
        commit(store, batch).await;
    }
    put(store, Table::Data, "q", 1).await;
    for limit in [7, 500, SCAN_ENTRIES_MAX] {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = page(store, Table::Data, "p/", after.as_deref(), limit).await;
            assert!(page.entries.len() <= limit);
            found.extend(names(&page));
            after = found.last().cloned();
            if !page.more {
                break;
            }
            assert_eq!(page.entries.len(), limit);
        }
        assert_eq!(found, expected, "pages of {limit}");
    }
}

async fn a_page_has_a_size(store: &Store) {
    let fitting = SCAN_BYTES_MAX / SEALED_VALUE_BYTES_MAX;
    for number in 0..fitting + 2 {
        let mut batch = Batch::default();
        batch.put(Table::Data, key(format!("{number:02}")), sized(1, SEALED_VALUE_BYTES_MAX));
        commit(store, batch).await;
    }
    let first = page(store, Table::Data, "", None, 99).await;
    assert_eq!((first.entries.len(), first.more), (fitting, true));
    let last = names(&first).pop();
    let second = page(store, Table::Data, "", last.as_deref(), 99).await;
    assert_eq!((second.entries.len(), second.more), (2, false));
}
