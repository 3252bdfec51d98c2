//! How fast the file backend commits and reads here. Run with `--ignored --nocapture`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement prints and may panic")]

use bulla_core::record::{Batch, HEAD_TAG, HeadSource, Read, SealedValue, Sequence, StoreKey, Table};
use bulla_store::{OnFatal, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Counting(AtomicU64);

impl HeadSource for Counting {
    fn advance(&self) -> (Sequence, SealedValue) {
        let sequence = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let mut row = vec![HEAD_TAG, 0, 0, 0, 1];
        row.extend(sequence.to_be_bytes());
        row.extend(sequence.to_be_bytes());
        row.resize(200, 0);
        (Sequence(sequence), SealedValue::new(row).unwrap())
    }
}

fn batch(writer: u64, number: u64) -> Batch {
    let mut batch = Batch::default();
    let key = StoreKey::new(format!("{writer:02}/{number:08}")).unwrap();
    batch.create(Table::Data, key.clone(), SealedValue::new(vec![1; 1100]).unwrap());
    batch.create(Table::Seen(1), key, SealedValue::new(vec![1; 120]).unwrap());
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn commits_and_reads() {
    for writers in [1, 8, 32] {
        let directory =
            TempDir::new_in(std::env::var("BULLA_SPEED_DIR").unwrap_or_else(|_| "/tmp".to_owned())).unwrap();
        let store = Store::file(directory.path().join("bulla.redb"), OnFatal::default()).unwrap();
        store.set_head(Some(Arc::new(Counting(AtomicU64::new(0)))));
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let store = store.clone();
            tasks.spawn(async move {
                let mut number = 0;
                while begun.elapsed() < Duration::from_secs(4) {
                    store.commit(batch(writer, number)).await.unwrap();
                    number += 1;
                }
            });
        }
        tasks.join_all().await;
        let seconds = begun.elapsed().as_secs_f64();
        let statistics = store.statistics();
        println!(
            "{writers} writers: {:.0} commits/s in {:.0} transactions/s",
            statistics.commits as f64 / seconds,
            statistics.transactions as f64 / seconds
        );
        for (name, read) in [
            ("get", Read::Get(Table::Data, StoreKey::new("00/00000001").unwrap())),
            ("scan of 10", Read::Scan { table: Table::Data, prefix: vec![], after: None, limit: 10 }),
        ] {
            let begun = Instant::now();
            for _ in 0..5000 {
                store.read(vec![read.clone()]).await.unwrap();
            }
            println!("  {name}: {:.1} µs", begun.elapsed().as_micros() as f64 / 5000.0);
        }
        store.close().await;
    }
}
