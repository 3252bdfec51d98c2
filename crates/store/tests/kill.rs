//! A process that is killed loses no acknowledged commit. The test starts itself again as the victim.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use bulla_core::record::{
    Answer, Batch, HEAD_TAG, HeadSource, Read, SCAN_ENTRIES_MAX, SealedValue, Sequence, StoreKey, Table,
};
use bulla_store::{OnFatal, Store};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// Names the store file to the victim.
const VICTIM: &str = "BULLA_STORE_VICTIM";
/// How many tasks write in it.
const WRITERS: &str = "BULLA_STORE_WRITERS";

struct Counting(AtomicU64);

impl HeadSource for Counting {
    fn advance(&self) -> (Sequence, SealedValue) {
        let sequence = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let mut row = vec![HEAD_TAG, 0, 0, 0, 1];
        row.extend(sequence.to_be_bytes());
        row.extend(sequence.to_be_bytes());
        (Sequence(sequence), SealedValue::new(row).unwrap())
    }
}

fn open(path: &Path) -> Store {
    Store::file(path, OnFatal::default()).expect("the store opens")
}

fn value(revision: u64) -> SealedValue {
    let mut bytes = vec![1, 0, 0, 0, 0];
    bytes.extend(revision.to_be_bytes());
    bytes.resize(700, 0x33);
    SealedValue::new(bytes).unwrap()
}

/// The highest number of each writer in the store. Each writer's numbers must be there without a gap.
async fn numbers(store: &Store) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut after = None;
    loop {
        let read = Read::Scan { table: Table::Data, prefix: vec![], after, limit: SCAN_ENTRIES_MAX };
        let answer = store.read(vec![read]).await.unwrap().answers.remove(0);
        let page = answer.into_page().unwrap();
        for (key, _) in &page.entries {
            let text = std::str::from_utf8(key.as_bytes()).unwrap();
            let (writer, number) = text.split_once('/').unwrap();
            let number: u64 = number.parse().unwrap();
            let (count, highest) = counts.entry(writer.to_owned()).or_default();
            *count += 1;
            *highest = number.max(*highest);
        }
        after = page.entries.last().map(|(key, _)| key.clone());
        if !page.more {
            break;
        }
    }
    counts
        .into_iter()
        .map(|(writer, (count, highest))| {
            assert_eq!(count, highest, "writer {writer} has a gap");
            (writer, highest)
        })
        .collect()
}

/// The victim: writes without end and says what was acknowledged. As an ordinary test it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn victim() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let writers: u64 = std::env::var(WRITERS).unwrap().parse().unwrap();
    let store = open(Path::new(&path));
    let begun = numbers(&store).await;
    let sequence = store.read(vec![]).await.unwrap().sequence.unwrap_or_default();
    store.set_head(Some(Arc::new(Counting(AtomicU64::new(sequence.0)))));
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let store = store.clone();
        let mut number = begun.get(&format!("{writer}")).copied().unwrap_or_default();
        tasks.spawn(async move {
            loop {
                number += 1;
                let mut batch = Batch::default();
                let key = |text: String| StoreKey::new(text).unwrap();
                batch.create(Table::Data, key(format!("{writer}/{number:08}")), value(number));
                // A second row in another table shows that a batch never comes back in halves.
                batch.put(Table::Plain, key(format!("last/{writer}")), value(number));
                let sequence = store.commit(batch).await.unwrap().sequence.0;
                let line = format!("ack {writer} {number} {sequence}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    tasks.join_all().await;
}

fn start(path: &Path, writers: u64, environment: &[(&str, String)]) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "victim", "--nocapture"]).env(VICTIM, path).env(WRITERS, writers.to_string());
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// What the victim said, until it died; kills it after `kill_after` lines, if ever.
fn acknowledged(
    mut child: Child,
    output: BufReader<ChildStdout>,
    kill_after: Option<usize>,
) -> (Vec<(String, u64, u64)>, ExitStatus) {
    let mut acknowledged = Vec::new();
    for line in output.lines() {
        let line = line.unwrap();
        let Some(rest) = line.strip_prefix("ack ") else { continue };
        let mut fields = rest.split(' ');
        let writer = fields.next().unwrap().to_owned();
        let (number, sequence) = (fields.next().unwrap().parse().unwrap(), fields.next().unwrap().parse().unwrap());
        acknowledged.push((writer, number, sequence));
        if Some(acknowledged.len()) == kill_after {
            child.kill().unwrap();
        }
    }
    (acknowledged, child.wait().unwrap())
}

/// Opens what the victim left and compares; returns the numbers found.
async fn inspect(path: &Path, acknowledged: &[(String, u64, u64)], writers: u64) -> BTreeMap<String, u64> {
    let store = open(path);
    let found = numbers(&store).await;
    let sequence = store.read(vec![]).await.unwrap().sequence.unwrap_or_default().0;
    for (writer, number, at) in acknowledged {
        let highest = found.get(writer).copied().unwrap_or_default();
        assert!(highest >= *number, "writer {writer}: {number} was acknowledged, the store ends at {highest}");
        assert!(sequence >= *at, "sequence {at} was acknowledged, the store is at {sequence}");
    }
    for writer in 0..writers {
        let read = Read::Get(Table::Plain, StoreKey::new(format!("last/{writer}")).unwrap());
        let last = store.read(vec![read]).await.unwrap().answers.remove(0);
        let last = match last {
            Answer::Value(value) => value.map(|value| value.revision().0),
            Answer::Page(_) => None,
        };
        assert_eq!(last, found.get(&format!("{writer}")).copied(), "writer {writer}: half a batch");
    }
    store.close().await;
    found
}

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_commit() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bulla.redb");
    let mut total = 0;
    for round in 0..16 {
        let writers = if round % 2 == 0 { 8 } else { 1 };
        let (child, output) = start(&path, writers, &[]);
        let (lines, _) = acknowledged(child, output, Some(1 + round * 13));
        assert!(!lines.is_empty());
        let found = inspect(&path, &lines, writers).await;
        total += lines.len();
        let kept: u64 = found.values().sum();
        assert!(kept >= u64::try_from(total).unwrap(), "{kept} kept, {total} acknowledged in all rounds");
    }
}

/// At each failpoint, what was acknowledged is there, and the last transaction exactly if its record was written: a
/// process that dies takes no page of the system's cache along.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_failpoint_loses_no_acknowledged_commit() {
    use bulla_store::failpoint::{
        CHECKPOINT_AFTER, CHECKPOINT_BEFORE, COMMIT_AFTER, COMMIT_BEFORE, JOURNAL_BEFORE, POINTS,
    };
    use std::os::unix::process::ExitStatusExt;

    const SIGABRT: i32 = 6;
    for point in POINTS {
        let between = [CHECKPOINT_BEFORE, CHECKPOINT_AFTER].contains(point);
        for hit in if between { [1, 2, 3] } else { [1, 2, 7] } {
            for writers in [1, 8] {
                let directory = TempDir::new().unwrap();
                let path = directory.path().join("bulla.redb");
                let chosen = format!("{point}:{hit}");
                let (child, output) = start(&path, writers, &[("BULLA_FAILPOINT", chosen.clone())]);
                let (lines, status) = acknowledged(child, output, None);
                assert_eq!(status.signal(), Some(SIGABRT), "{chosen}: {status}");
                let found = inspect(&path, &lines, writers).await;
                if between {
                    // Some ten records fill the journal, and a line of the last few may be missing.
                    let kept: u64 = found.values().sum();
                    assert!((hit * 5..hit * 500).contains(&kept), "{chosen}: {kept} kept");
                } else if writers == 1 {
                    let extra = u64::from([JOURNAL_BEFORE, COMMIT_BEFORE, COMMIT_AFTER].contains(point));
                    let said = lines.last().map(|(_, number, _)| *number).unwrap_or_default();
                    assert_eq!(said, hit - 1, "{chosen}: acknowledged");
                    assert_eq!(found.get("0").copied().unwrap_or_default(), hit - 1 + extra, "{chosen}: kept");
                }
            }
        }
    }
}
