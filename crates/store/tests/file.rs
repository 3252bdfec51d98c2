//! The file backend against the conformance suite, and what it refuses to open.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use bulla_core::record::{Batch, Read, SealedValue, StoreKey, Table};
use bulla_store::{FORMAT_VERSION, Filling, Kind, OnFatal, OpenError, Store, conformance, unfinished};
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

/// More rows than one transaction takes, in every table; nothing has the store's name before it is published.
#[tokio::test]
async fn a_store_is_filled_before_it_has_its_name() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    fs::write(unfinished(&path), b"what a killed process left").unwrap();
    let mut filling = Filling::begin(&path).unwrap();
    let row = |number: u32| (StoreKey::new(number.to_be_bytes()).unwrap(), SealedValue::new(vec![7; 400_000]).unwrap());
    for table in [Table::Plain, Table::Data, Table::Seen(7)] {
        for number in 0..30 {
            let (key, value) = row(number);
            filling.put(table, key, value).unwrap();
        }
    }
    let filled = filling.finish().unwrap();
    assert!(!path.exists());
    assert_eq!(fs::metadata(unfinished(&path)).unwrap().permissions().mode() & 0o777, 0o600);
    let look = filled.open(OnFatal::call(|what| panic!("{what}"))).unwrap();
    look.close().await;
    filled.publish().unwrap();
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["bulla.redb"]);
    let store = open(&path).unwrap();
    for table in [Table::Plain, Table::Data, Table::Seen(7)] {
        let reads = (0..30).map(|number| Read::Get(table, row(number).0)).collect();
        let answers = store.read(reads).await.unwrap().answers;
        assert!(answers.into_iter().all(|answer| answer.into_value() == Some(row(0).1)), "{table:?}");
    }
    store.close().await;
}

#[tokio::test]
async fn makes_a_private_file_and_leaves_nothing_beside_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    // What a crash while making the file leaves.
    fs::write(directory.path().join("bulla.redb.new"), b"half").unwrap();
    let store = open(&path).unwrap();
    assert_eq!(store.kind(), Kind::File);
    for name in ["bulla.redb", "bulla.journal"] {
        assert_eq!(fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    store.close().await;
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "closed in order, the file alone is the store");
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
        "FILE has store format 260, and this program reads up to 2; \
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

fn copy(from: &Path, to: &Path) {
    for name in ["bulla.redb", "bulla.journal"] {
        let _ = fs::remove_file(to.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

async fn names(store: &Store) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let read = Read::Scan { table: Table::Data, prefix: vec![], after, limit: 1000 };
        let page = store.read(vec![read]).await.unwrap().answers.remove(0).into_page().unwrap();
        names.extend(page.entries.iter().map(|(key, _)| String::from_utf8(key.as_bytes().to_vec()).unwrap()));
        after = page.entries.last().map(|(key, _)| key.clone());
        if !page.more {
            return names;
        }
    }
}

/// A copy of both files of a store that is open is what a crash would leave: nothing is missing from it, however often
/// its opening is broken off.
#[tokio::test]
async fn the_journal_is_repeated_as_often_as_it_takes() {
    let (live, crashed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = conformance::with_head(open(&live.path().join("bulla.redb")).unwrap());
    let mut written = Vec::new();
    // More than a journal takes, so that generations change.
    for number in 0..60 {
        written.push(format!("{number:02}"));
        store.commit(batch(&written[number], 100_000)).await.unwrap();
        if number == 40 {
            let mut batch = Batch::default();
            batch.delete(Table::Data, StoreKey::new("03").unwrap());
            store.commit(batch).await.unwrap();
            written.retain(|name| name != "03");
            written.push("03".into());
            store.commit(self::batch("03", 200)).await.unwrap();
        }
        if number % 7 == 0 {
            // A full journal is taken over after the answer; with one more answer it is over.
            store.commit(Batch::default()).await.unwrap();
            copy(live.path(), crashed.path());
            let mut expected = written.clone();
            expected.sort();
            for round in 0..3 {
                let before = fs::read(crashed.path().join("bulla.journal")).unwrap();
                let again = open(&crashed.path().join("bulla.redb")).unwrap();
                assert_eq!(names(&again).await, expected, "number {number}, round {round}");
                again.close().await;
                // The database has it all now, and the journal of before says nothing more.
                fs::write(crashed.path().join("bulla.journal"), before).unwrap();
            }
        }
    }
    store.close().await;
}

#[tokio::test]
async fn refuses_a_journal_of_another_store_or_a_later_state() {
    let (first, second, put_back) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = first.path().join("bulla.redb");
    let store = conformance::with_head(open(&path).unwrap());
    store.commit(batch("a", 100)).await.unwrap();
    store.close().await;
    copy(first.path(), put_back.path());
    for round in 0..2 {
        let store = conformance::with_head(open(&path).unwrap());
        store.commit(batch(&format!("b{round}"), 100)).await.unwrap();
        copy(first.path(), second.path());
        store.close().await;
    }
    // The file of before, beside the journal of now.
    fs::copy(put_back.path().join("bulla.redb"), second.path().join("bulla.redb")).unwrap();
    let told = refusal(&second.path().join("bulla.redb")).replace(second.path().to_str().unwrap(), "DIR");
    assert!(told.starts_with("DIR/bulla.journal does not fit the store beside it: it goes on from a later"), "{told}");
    fs::remove_file(second.path().join("bulla.redb")).unwrap();
    let told = refusal(&second.path().join("bulla.redb")).replace(second.path().to_str().unwrap(), "DIR");
    assert!(told.contains("beside it: there is none"), "no new store is made beside an old journal: {told}");
    assert!(!second.path().join("bulla.redb").exists());
    let stranger = TempDir::new().unwrap();
    open(&stranger.path().join("bulla.redb")).unwrap().close().await;
    fs::copy(stranger.path().join("bulla.redb"), second.path().join("bulla.redb")).unwrap();
    let told = refusal(&second.path().join("bulla.redb")).replace(second.path().to_str().unwrap(), "DIR");
    assert!(told.contains("belongs to another store"), "{told}");
    for content in [vec![], vec![7; 100], vec![7; 10_000]] {
        fs::write(second.path().join("bulla.journal"), content).unwrap();
        assert!(matches!(open(&second.path().join("bulla.redb")), Err(OpenError::Damaged { .. })));
    }
    fs::remove_file(second.path().join("bulla.journal")).unwrap();
    open(&second.path().join("bulla.redb")).unwrap().close().await;
}

/// A record that is torn ends the journal; those before it count. If the next one is whole, it was not torn but damaged
/// later, and the store is refused.
#[tokio::test]
async fn a_journal_ends_where_it_is_not_whole() {
    let (live, crashed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = conformance::with_head(open(&live.path().join("bulla.redb")).unwrap());
    for number in 0..6 {
        store.commit(batch(&format!("{number}"), 150)).await.unwrap();
    }
    let journal = fs::read(live.path().join("bulla.journal")).unwrap();
    let end = journal.iter().rposition(|byte| *byte != 0).unwrap();
    let (mut kept, mut refused) = (std::collections::BTreeMap::new(), 0);
    for at in (4096..=end).step_by(7) {
        copy(live.path(), crashed.path());
        let mut bytes = journal.clone();
        bytes[at] ^= 0x40;
        fs::write(crashed.path().join("bulla.journal"), bytes).unwrap();
        let store = match open(&crashed.path().join("bulla.redb")) {
            Ok(store) => store,
            Err(OpenError::Damaged { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("{at}: {error}"),
        };
        let names = names(&store).await;
        assert!(names.iter().enumerate().all(|(number, name)| *name == number.to_string()), "{names:?}");
        *kept.entry(names.len()).or_insert(0) += 1;
        store.close().await;
    }
    store.close().await;
    // The last one cannot be told from a torn one; of the others, what is damaged in length or checksum.
    assert!(kept[&5] > 10 && refused > 50, "{kept:?} kept, {refused} refused");
    assert!(kept.keys().all(|count| *count < 6));
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
    let journal = fs::read(directory.path().join("bulla.journal")).unwrap();
    store.close().await;
    let closed = fs::read(&path).unwrap();
    let cut = directory.path().join("cut.redb");
    for (state, bytes) in [("crashed", crashed), ("closed", closed)] {
        let parts = (0..20).map(|twentieths| bytes.len() * twentieths / 20);
        let mut opened = 0;
        for length in parts.chain([bytes.len() - 8192, bytes.len() - 4096, bytes.len() - 1, bytes.len()]) {
            fs::write(&cut, &bytes[..length]).unwrap();
            let _ = fs::remove_file(directory.path().join("cut.journal"));
            if state == "crashed" {
                fs::write(directory.path().join("cut.journal"), &journal).unwrap();
            }
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

/// The lock of the database goes with its file. Whoever puts another file in its place, beside a process that runs, gets no
/// second writer to the journal all the same.
#[tokio::test]
async fn refuses_a_journal_that_is_open() {
    let directory = TempDir::new().unwrap();
    let (path, other) = (directory.path().join("bulla.redb"), directory.path().join("other"));
    let store = open(&path).unwrap();
    fs::copy(&path, &other).unwrap();
    fs::rename(&other, &path).unwrap();
    let refused = open(&path).err();
    assert!(matches!(&refused, Some(OpenError::Locked { path }) if path.ends_with("bulla.journal")), "{refused:?}");
    store.close().await;
}
