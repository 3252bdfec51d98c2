//! The file backend against the conformance suite, and what it refuses to open.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

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

/// Wherever a file is cut: if it was closed in order, it is refused; if it was not, it is refused or has lost
/// nothing, since a crash while the file grows leaves one whose end is free or missing.
#[tokio::test]
async fn refuses_a_truncated_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    let store = conformance::with_head(open(&path).unwrap());
    for number in 0..40 {
        store.commit(batch(&format!("{number:02}"), 100_000)).await.unwrap();
    }
    let crashed = fs::read(&path).unwrap();
    store.close().await;
    let closed = fs::read(&path).unwrap();
    let cut = directory.path().join("cut");
    for (state, bytes) in [("crashed", crashed), ("closed", closed)] {
        let parts = (0..20).map(|twentieths| bytes.len() * twentieths / 20);
        let mut opened = 0;
        for length in parts.chain([bytes.len() - 8192, bytes.len() - 4096, bytes.len() - 1, bytes.len()]) {
            fs::write(&cut, &bytes[..length]).unwrap();
            match open(&cut) {
                Ok(store) => {
                    let read = Read::Scan { table: Table::Data, prefix: vec![], after: None, limit: 100 };
                    let page = store.read(vec![read]).await.unwrap().answers.remove(0).into_page().unwrap();
                    assert_eq!(page.entries.len(), 40, "{state}, {length} of {} bytes", bytes.len());
                    assert!(page.entries.iter().all(|(_, value)| value.as_bytes() == vec![7; 100_000]));
                    store.close().await;
                    assert!(state == "crashed" || length == bytes.len(), "{state}, {length} of {}", bytes.len());
                    opened += 1;
                }
                Err(OpenError::Damaged { .. } | OpenError::NotAStore { .. }) => {}
                Err(other) => panic!("{state}, {length} of {} bytes: {other:?}", bytes.len()),
            }
        }
        println!("{state}: {opened} lengths of {} bytes opened", bytes.len());
        assert!((1..10).contains(&opened), "{state}: {opened} lengths opened");
    }
}
