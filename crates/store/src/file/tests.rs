//! The file backend on a disk that fails, loses power, or meets a faulty head source.

use super::OnFatal;
use super::journal::RECORDS_START;
use super::simulated::{self, DATABASE, Disk, Fails};
use crate::{CommitError, Store};
use bulla_core::record::{Batch, HEAD_KEY, HeadSource, Precondition, Read, SealedValue, Sequence, StoreKey, Table};
use redb::{Database, ReadableDatabase, TableHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// A store on such a disk, and what was reported as fatal. Its journal holds few records, so that the database often
/// takes it over.
fn start(disk: &Disk) -> (Store, Arc<Mutex<Vec<String>>>) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&reports);
    let on_fatal = OnFatal::call(move |what| reported.lock().unwrap().push(what.to_owned()));
    (crate::conformance::with_head(simulated::start(disk, 2 * RECORDS_START, on_fatal).unwrap()), reports)
}

fn key(name: &str) -> StoreKey {
    StoreKey::new(name).unwrap()
}

fn put(name: &str) -> Batch {
    let mut batch = Batch::default();
    batch.put(Table::Data, key(name), SealedValue::new(vec![3; 1000]).unwrap());
    batch
}

async fn has(store: &Store, name: &str) -> bool {
    let snapshot = store.read(vec![Read::Get(Table::Data, key(name))]).await.unwrap();
    snapshot.answers.into_iter().next().unwrap().into_value().is_some()
}

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Some puts, deletes and dropped buckets, over few keys, so that they meet each other; what they make of `rows`.
fn changes(next: &mut impl FnMut() -> u64, rows: &mut Rows) -> Batch {
    let mut batch = Batch::default();
    let table = |number| match number % 4 {
        0 => Table::Plain,
        1 | 2 => Table::Data,
        _ => Table::Seen(u32::try_from(number % 3).unwrap()),
    };
    let mut named = BTreeSet::new();
    for _ in 0..1 + next() % 4 {
        let (table, name) = (table(next()), format!("{}", next() % 8));
        if !named.insert((table, name.clone())) {
            continue;
        }
        let row = (table, name.clone().into_bytes());
        if next().is_multiple_of(3) {
            batch.delete(table, key(&name));
            rows.remove(&row);
        } else {
            let size = 20 + usize::try_from(next() % 2000).unwrap();
            let value = vec![u8::try_from(next() % 200).unwrap() + 3; size];
            batch.put(table, key(&name), SealedValue::new(value.clone()).unwrap());
            rows.insert(row, value);
        }
    }
    for minute in 0..3 {
        if next().is_multiple_of(5) && named.iter().all(|(table, _)| *table != Table::Seen(minute)) {
            batch.drop_seen.push(minute);
            rows.retain(|(table, _), _| *table != Table::Seen(minute));
        }
    }
    batch
}

/// All rows but the head's.
async fn rows(store: &Store) -> Rows {
    let tables = [Table::Plain, Table::Data, Table::Seen(0), Table::Seen(1), Table::Seen(2)];
    let reads = tables.iter().map(|table| Read::Scan { table: *table, prefix: vec![], after: None, limit: 100 });
    let answers = store.read(reads.collect()).await.unwrap().answers;
    let mut rows = Rows::new();
    for (table, answer) in tables.into_iter().zip(answers) {
        let entries = answer.into_page().unwrap().entries.into_iter();
        rows.extend(entries.map(|(key, value)| ((table, key.as_bytes().to_vec()), value.into_bytes())));
    }
    rows.retain(|(_, key), _| key != HEAD_KEY);
    rows
}

#[tokio::test]
async fn a_power_cut_loses_no_acknowledged_commit() {
    // A linear congruential generator: the same changes and cuts in every run.
    let mut random = 12345_u64;
    let mut next = move || -> u64 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        random >> 33
    };
    let disk = Disk::default();
    let (store, _) = start(&disk);
    let first = disk.orders();
    let (mut states, mut acknowledged) = (vec![Rows::new()], vec![0]);
    for _ in 0..40 {
        let mut state = states.last().unwrap().clone();
        let batch = changes(&mut next, &mut state);
        store.commit(batch).await.unwrap();
        acknowledged.push(disk.orders());
        states.push(state);
    }
    // With one more answer, what follows the last is over.
    store.commit(Batch::default()).await.unwrap();
    for orders in first..=disk.orders() {
        let cut = disk.after_power_cut(orders, &mut next);
        let kept = acknowledged.iter().filter(|at| **at <= orders).count() - 1;
        let (after, reports) = start(&cut);
        let found = rows(&after).await;
        let whole = found == states[kept] || states.get(kept + 1).is_some_and(|next| found == *next);
        assert!(whole, "after {orders} orders, {kept} commits were acknowledged, and there is {found:?}");
        drop(after);
        // Power goes again, while or after the journal was repeated.
        let again = cut.after_power_cut(usize::try_from(next()).unwrap() % (cut.orders() + 1), &mut next);
        let (last, more) = start(&again);
        assert_eq!(rows(&last).await, found, "after {orders} orders and a second cut");
        last.commit(put("afterwards")).await.unwrap();
        assert!(has(&last, "afterwards").await);
        assert!(reports.lock().unwrap().is_empty() && more.lock().unwrap().is_empty());
        last.close().await;
    }
}

#[tokio::test]
async fn a_broken_disk_is_fatal_and_acknowledges_nothing() {
    for fails in [Fails::Writes, Fails::Syncs] {
        let disk = Disk::default();
        let (store, reports) = start(&disk);
        store.commit(put("before")).await.unwrap();
        disk.fail(fails);
        let failed = store.commit(put("during")).await;
        assert!(matches!(failed, Err(CommitError::Unknown { .. } | CommitError::Io { .. })), "{failed:?}");
        let reported = reports.lock().unwrap().join("\n");
        assert!(reported.contains("bulla.redb failed") && reported.contains("the disk is broken"), "{reported}");
        disk.mend();
        let later = store.commit(put("later")).await;
        assert!(matches!(later, Err(CommitError::Io { .. })), "{later:?}");
    }
}

struct Panicking;

impl HeadSource for Panicking {
    fn advance(&self) -> (Sequence, SealedValue) {
        panic!("a faulty head source")
    }
}

#[tokio::test]
async fn a_writer_that_panics_is_fatal() {
    let (store, reports) = start(&Disk::default());
    store.set_head(Some(Arc::new(Panicking)));
    let failed = store.commit(put("k")).await;
    assert!(matches!(failed, Err(CommitError::Unknown { .. })), "{failed:?}");
    for _ in 0..200 {
        if !reports.lock().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(*reports.lock().unwrap(), ["writing bulla.redb failed: the writer panicked"]);
    assert!(matches!(store.commit(put("k")).await, Err(CommitError::Closed)));
}

#[tokio::test]
async fn judging_leaves_no_empty_bucket() {
    let disk = Disk::default();
    let (store, _) = start(&disk);
    let mut refused = put("k");
    refused.require(Table::Seen(5), key("nonce"), Precondition::Present);
    assert!(matches!(store.commit(refused).await, Err(CommitError::Conflict { precondition: 0 })));
    let mut judged = put("k");
    judged.require(Table::Seen(6), key("nonce"), Precondition::Absent);
    judged.drop_seen.push(7);
    store.commit(judged).await.unwrap();
    let mut used = put("k");
    used.create(Table::Seen(8), key("nonce"), SealedValue::new(vec![3; 13]).unwrap());
    store.commit(used).await.unwrap();
    store.close().await;

    let database = Database::builder().create_with_backend(disk.file(DATABASE)).unwrap();
    let tables: Vec<String> =
        database.begin_read().unwrap().list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    assert_eq!(tables, ["data", "meta", "plain", "seen/8"]);
}
