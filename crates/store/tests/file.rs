//! The file backend against the conformance suite, and what it refuses to open.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use bulla_core::record::{Batch, Read, SealedValue, StoreKey, Table};
use bulla_store::{FORMAT_VERSION, Kind, OnFatal, OpenError, Store, conformance};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::cell::RefCell;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::file(path, OnFatal::call(|what| panic!("{what}")))
}

fn refusal(path: &Path) -> String {
    match open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => {
            let mut text = error.to_string();
            if let Some(source) = error.source() {
                text.push_str(&format!(": {source}"));
            }
            text.replace(path.to_str().unwrap(), "FILE")
        }
    }
}

fn batch(name: &str, length: usize) -> Batch {
    let mut batch = Batch::default();
    batch.put(Table::Data, StoreKey::new(name).unwrap(), SealedValue::new(vec![7; length]).unwrap());
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conforms() {
    let directories = RefCell::new(Vec::new());
    let make = || {
        let directory = TempDir::new().unwrap();
        let store = open(&directory.path().join("bulla.redb")).unwrap();
        directories.borrow_mut().push(directory);
        store
    };
    conformance::run(make).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_what_it_acknowledged() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    conformance::durable(|| open(&path).unwrap()).await;
}

#[tokio::test]
async fn makes_a_private_file_and_leaves_nothing_beside_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    // What a crash while making the file leaves.
    fs::write(directory.path().join("bulla.redb.new"), b"half").unwrap();
    let store = open(&path).unwrap();
    assert_eq!(store.kind(), Kind::File);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    store.close().await;
}

#[tokio::test]
async fn refuses_a_file_that_is_open() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    let store = open(&path).unwrap();
    assert_eq!(
        refusal(&path),
        "FILE is open in another process; stop the other server, or give this one a data directory of its own"
    );
    store.close().await;
    open(&path).unwrap().close().await;
}

#[test]
fn refuses_what_is_no_store() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    let way_out = "name another file, or move this one away to begin a new store";
    for content in ["", "redb", "SQLite format 3\0 and so on"] {
        fs::write(&path, content).unwrap();
        assert_eq!(refusal(&path), format!("FILE is not a Bulla store: it does not begin as one; {way_out}"));
    }
    fs::remove_file(&path).unwrap();
    drop(Database::create(&path).unwrap());
    assert_eq!(refusal(&path), format!("FILE is not a Bulla store: it is a redb file of another program; {way_out}"));

    let nowhere = directory.path().join("no/such/directory");
    assert!(refusal(&nowhere).starts_with("cannot create FILE.new: No such file"), "{}", refusal(&nowhere));
    assert!(matches!(open(directory.path()), Err(OpenError::Io { .. })));
}

#[tokio::test]
async fn refuses_a_newer_format() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    open(&path).unwrap().close().await;
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", [0, 0, 1, 4].as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(
        refusal(&path),
        "FILE has store format 260, and this program reads up to 1; \
         run the newer bulla that wrote it, or restore a snapshot"
    );
}

#[tokio::test]
async fn writes_its_format_version() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    open(&path).unwrap().close().await;
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_read().unwrap();
    let row = transaction.open_table(META).unwrap().get("format").unwrap().unwrap();
    assert_eq!(row.value(), FORMAT_VERSION.to_be_bytes());
}

/// Wherever a file is cut, it is refused, closed in order before or not.
#[tokio::test]
async fn refuses_a_truncated_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    let store = open(&path).unwrap();
    for number in 0..40 {
        store.commit(batch(&format!("{number}"), 100_000)).await.unwrap();
    }
    let crashed = fs::read(&path).unwrap();
    store.close().await;
    let closed = fs::read(&path).unwrap();
    for (state, bytes) in [("crashed", crashed), ("closed", closed)] {
        let cut = directory.path().join(state);
        for tenths in 0..10 {
            fs::write(&cut, &bytes[..bytes.len() * tenths / 10]).unwrap();
            let refused = open(&cut);
            assert!(
                matches!(refused, Err(OpenError::Damaged { .. } | OpenError::NotAStore { .. })),
                "{state}, {tenths} tenths of {}: {refused:?}",
                bytes.len()
            );
        }
        fs::write(&cut, &bytes).unwrap();
        let store = open(&cut).unwrap();
        for number in 0..40 {
            let read = Read::Get(Table::Data, StoreKey::new(format!("{number}")).unwrap());
            assert!(store.read(vec![read]).await.unwrap().answers[0].clone().into_value().is_some());
        }
        store.close().await;
    }
}
