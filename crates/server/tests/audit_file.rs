//! The audit log on real files: crashes, alterations, full and broken disks, slow readers.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bulla_core::action::{Action, Resource};
use bulla_core::audit::{
    Accepted, Address, AuditBlocked, AuditPosition, Body, Class, Expectations, Facts, Line, Method, Names, Outcome,
    Quote, Refusal, Report, RequestId, RequestLine,
};
use bulla_core::policy::Subject;
use bulla_server::sink::{
    AuditConfig, Disk, OpenError, Opening, PLACES, Sink, SyncMode, SystemDisk, Target, lines, verify,
};
use bulla_wire::error::Code;
use bulla_wire::id::{ClusterId, KeyId, Lineage, PrincipalId};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NODE: KeyId = KeyId::new([1; 32]);
const CLUSTER: ClusterId = ClusterId::new([2; 32]);
static IDS: AtomicU64 = AtomicU64::new(1);
static TIME: AtomicU64 = AtomicU64::new(1_000_000);

fn subject() -> Subject {
    Subject {
        id: PrincipalId::new([3; 32]),
        name: "alice".parse().unwrap(),
        groups: Vec::new(),
        attributes: BTreeMap::new(),
    }
}

fn refusal() -> Refusal {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&IDS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    let facts = Facts {
        id: RequestId::new(id),
        received_ms: 1_000,
        node: NODE,
        epoch: 1,
        lineage: None,
        key: KeyId::new([4; 32]),
        mtls: false,
        address: Address::Local,
        method: Method::Get,
    };
    let resource: Resource = "kv/app/db".parse().unwrap();
    Refusal::undecided(facts, &Names::Clear, &subject(), Some(Action::KvGet), Some(&resource))
}

fn quote(sequence: u64) -> Quote {
    Quote { cluster: CLUSTER, lineage: Lineage::new([5; 16]), sequence }
}

async fn write(sink: &Sink) -> Result<(), AuditBlocked> {
    refusal().accepted(sink.reserve()?).finish(Outcome::done(200)).await
}

async fn write_commit(sink: &Sink, sequence: u64) -> Result<(), AuditBlocked> {
    refusal().accepted(sink.reserve()?).finish(Outcome::done(200).committed(quote(sequence))).await
}

fn opening(head: Option<AuditPosition>, disk: impl Disk + 'static) -> Opening {
    Opening {
        node: NODE,
        version: "0.1.0".into(),
        cluster: None,
        head,
        clock: Arc::new(|| TIME.fetch_add(1, Ordering::Relaxed)),
        disk: Box::new(disk),
    }
}

fn config(directory: &Path) -> AuditConfig {
    AuditConfig { patience: Duration::from_millis(500), ..AuditConfig::new(Target::Directory(directory.to_owned())) }
}

fn open_at(directory: &Path, head: Option<AuditPosition>) -> Result<Sink, OpenError> {
    Sink::open(config(directory), opening(head, SystemDisk))
}

fn open(directory: &Path) -> Sink {
    open_at(directory, None).unwrap()
}

/// Ends the thread without a last line, as a crash does, and waits for it: it holds the lock of the directory.
fn crash(sink: Sink, directory: &Path) {
    drop(sink);
    let begun = Instant::now();
    let lock = File::open(directory).unwrap();
    while rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the thread does not end");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn sound(path: &Path, head: Option<AuditPosition>) -> Report {
    let report = verify(path, Expectations { head, ..Expectations::default() }).unwrap();
    assert!(report.is_sound(), "{:#?}", report.findings);
    report
}

fn unsound(path: &Path, head: AuditPosition) -> Report {
    let report = verify(path, Expectations { head: Some(head), ..Expectations::default() }).unwrap();
    assert!(!report.is_sound());
    report
}

fn bodies(path: &Path) -> Vec<Body> {
    let mut bodies = Vec::new();
    lines(path, 0, |line| {
        bodies.push(line.line.body);
        true
    })
    .unwrap();
    bodies
}

fn kinds(path: &Path) -> Vec<String> {
    let kind = |body: Body| serde_json::to_value(body).unwrap()["kind"].as_str().unwrap().to_owned();
    bodies(path).into_iter().map(kind).collect()
}

fn torn(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "torn")).collect()
}

/// In memory if possible: there are thousands of them.
fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

#[tokio::test]
async fn a_log_goes_on_after_an_orderly_stop() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("audit");
    let sink = open(&directory);
    write(&sink).await.unwrap();
    write_commit(&sink, 7).await.unwrap();
    assert_eq!(sink.last_quoted(), Some(quote(7)));
    sink.flush_and_close().await.unwrap();
    assert_eq!(sink.reserve().unwrap_err(), AuditBlocked::Closed);
    let head = sink.position();
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(directory.join("000001.jsonl")).unwrap().permissions().mode() & 0o777, 0o600);
    crash(sink, &directory);

    let sink = open_at(&directory, head).unwrap();
    assert_eq!(sink.last_quoted(), Some(quote(7)));
    assert!(matches!(open_at(&directory, head), Err(OpenError::InUse(_))));
    write(&sink).await.unwrap();
    sink.flush_and_close().await.unwrap();
    let report = sound(&directory, sink.position());
    assert_eq!((report.requests, report.quoted), (3, Some(quote(7))));
    assert_eq!(kinds(&directory), ["start", "request", "request", "stop", "start", "request", "stop"]);
    assert!(report.tail_lost.is_empty());
}

#[tokio::test]
async fn a_dropped_request_leaves_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let sink = open(directory.path());
    drop(refusal().accepted(sink.reserve().unwrap()));
    sink.flush().await.unwrap();
    assert_eq!(sound(directory.path(), sink.position()).unknown, 1);
}

/// Writes some lines, and gives the positions before the last three and of the last.
async fn prepared(directory: &Path) -> (AuditPosition, AuditPosition) {
    let sink = open(directory);
    for sequence in 1..4 {
        write_commit(&sink, sequence).await.unwrap();
    }
    sink.flush().await.unwrap();
    let before = sink.position().unwrap();
    for _ in 0..3 {
        write(&sink).await.unwrap();
    }
    sink.flush().await.unwrap();
    let last = sink.position().unwrap();
    crash(sink, directory);
    fs::remove_file(directory.join("reserve")).unwrap();
    (before, last)
}

#[tokio::test]
async fn cut_at_every_byte() {
    let original = tempfile::tempdir().unwrap();
    let (before, last) = prepared(original.path()).await;
    let whole = fs::read(original.path().join("000001.jsonl")).unwrap();
    for length in before.offset..last.offset {
        let directory = copy(original.path());
        let path = directory.path().join("000001.jsonl");
        fs::write(&path, &whole[..index(length)]).unwrap();
        let on_a_line = whole[index(length) - 1] == b'\n';

        // The head remembers a line that is gone.
        let error = open_at(directory.path(), Some(last)).unwrap_err();
        assert!(matches!(&error, OpenError::AuditLoss { .. }), "{length}: {error}");
        assert!(error.hint().contains("--accept-audit-loss"));
        let report = unsound(directory.path(), last);
        assert!(report.findings.iter().all(|finding| finding.class == Class::Cut));
        assert_eq!(fs::read(&path).unwrap().len(), index(length), "a refused start changes nothing");

        // The lines that are gone were never known to be on the disk.
        let sink = open_at(directory.path(), Some(before)).unwrap();
        assert_eq!(sink.last_quoted(), Some(quote(3)));
        crash(sink, directory.path());
        let report = sound(directory.path(), Some(before));
        assert_eq!(kinds(directory.path()).contains(&"torn".to_owned()), !on_a_line, "{length}");
        assert_eq!(report.tail_lost.len(), usize::from(!on_a_line || length == before.offset), "{length}");
        let aside = torn(directory.path());
        assert_eq!(aside.len(), usize::from(!on_a_line));
        for path in aside {
            let kept = fs::read(path).unwrap();
            assert!(whole[..index(length)].ends_with(&kept) && !kept.is_empty());
        }
    }
}

#[tokio::test]
async fn an_accepted_loss_is_told_by_the_log() {
    let original = tempfile::tempdir().unwrap();
    let (before, last) = prepared(original.path()).await;
    let path = original.path().join("000001.jsonl");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(before.offset).unwrap();
    let accept = AuditConfig { danger_accept_loss: true, ..config(original.path()) };
    let sink = Sink::open(accept.clone(), opening(Some(last), SystemDisk)).unwrap();
    let position = sink.position();
    crash(sink, original.path());
    assert_eq!(sound(original.path(), position).loss_accepted.len(), 1);

    // Even if nothing is left.
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(open_at(empty.path(), Some(last)), Err(OpenError::AuditLoss { .. })));
    let accept = AuditConfig { target: Target::Directory(empty.path().to_owned()), ..accept };
    let sink = Sink::open(accept, opening(Some(last), SystemDisk)).unwrap();
    assert_eq!(sink.position().unwrap().file, last.file + 1);
    crash(sink, empty.path());
    assert_eq!(kinds(empty.path()), ["loss_accepted", "start"]);
}

#[tokio::test]
async fn flips_of_every_byte() {
    let original = tempfile::tempdir().unwrap();
    let (before, last) = prepared(original.path()).await;
    let whole = fs::read(original.path().join("000001.jsonl")).unwrap();
    let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    // One bit of each byte, in a night every bit.
    let bits = |at: usize| if bulla_testkit::long() { 0..8 } else { at % 8..at % 8 + 1 };
    for (at, bit) in (index(before.offset)..whole.len()).flat_map(|at| bits(at).map(move |bit| (at, bit))) {
        let directory = copy(original.path());
        let mut changed = whole.clone();
        changed[at] ^= 1 << bit;
        fs::write(directory.path().join("000001.jsonl"), &changed).unwrap();

        // Whoever remembers the end sees it, and a start trusts nobody before the end that is remembered.
        unsound(directory.path(), last);
        if at >= last_line {
            assert!(matches!(open_at(directory.path(), Some(last)), Err(OpenError::AuditLoss { .. })), "{at}");
        }
        match open_at(directory.path(), Some(before)) {
            Err(OpenError::Altered { .. }) => assert!(torn(directory.path()).is_empty()),
            Err(error) => panic!("{at}: {error}"),
            // Only in the last line can it be a torn end, or a change that nothing after it contradicts.
            Ok(sink) => {
                assert!(at >= last_line, "{at} is not seen");
                crash(sink, directory.path());
                let head = Expectations { head: Some(before), ..Expectations::default() };
                let report = verify(directory.path(), head).unwrap();
                // Unless it moved the line's time behind the next one's, or gave it the id of another request.
                let seen = [Class::ClockWentBack, Class::Repeated];
                assert!(report.findings.iter().all(|finding| seen.contains(&finding.class)), "{report:?}");
            }
        }
    }
}

#[tokio::test]
async fn zeros_after_a_power_cut_are_torn_and_missing_files_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let (before, _) = prepared(directory.path()).await;
    let path = directory.path().join("000001.jsonl");
    let mut bytes = fs::read(&path).unwrap();
    let from = index(before.offset) + 30;
    bytes[from..from + 400].fill(0);
    fs::write(&path, bytes).unwrap();
    crash(open_at(directory.path(), Some(before)).unwrap(), directory.path());
    assert_eq!(sound(directory.path(), Some(before)).tail_lost.len(), 1);
    assert_eq!(torn(directory.path()).len(), 1);

    fs::rename(&path, directory.path().join("000003.jsonl")).unwrap();
    assert!(matches!(open_at(directory.path(), Some(before)), Err(OpenError::AuditLoss { .. })));
}

#[tokio::test]
async fn files_are_rotated_and_linked() {
    let directory = tempfile::tempdir().unwrap();
    let small = AuditConfig { max_size_bytes: 2_000, ..config(directory.path()) };
    let sink = Sink::open(small.clone(), opening(None, SystemDisk)).unwrap();
    write_commit(&sink, 3).await.unwrap();
    for _ in 0..20 {
        write(&sink).await.unwrap();
    }
    sink.flush_and_close().await.unwrap();
    let head = sink.position();
    crash(sink, directory.path());
    let report = sound(directory.path(), head);
    assert!(report.files >= 5 && report.requests == 21, "{report:?}");
    let second = fs::read_to_string(directory.path().join("000002.jsonl")).unwrap();
    let first_line = Line::parse(second.lines().next().unwrap().as_bytes()).unwrap();
    assert_eq!(first_line.body, Body::Rotate { previous: 1, quoted: Some(quote(3)), loss: false });

    // A new process finds the last commit although it is quoted in the first file only.
    let sink = Sink::open(small.clone(), opening(head, SystemDisk)).unwrap();
    assert_eq!(sink.last_quoted(), Some(quote(3)));
    crash(sink, directory.path());
    let mut found = Vec::new();
    lines(directory.path(), 20, |line| {
        found.push(line.line.n);
        found.len() < 3
    })
    .unwrap();
    assert_eq!(found, [21, 22, 23]);

    // An empty file is what a crash leaves while it is made.
    let files = sound(directory.path(), head).files;
    fs::write(directory.path().join(format!("{:06}.jsonl", files + 1)), b"").unwrap();
    crash(Sink::open(small.clone(), opening(None, SystemDisk)).unwrap(), directory.path());
    sound(directory.path(), head);

    // A file in the middle is gone, behind what the head remembers.
    let mut positions = Vec::new();
    let (mut file, mut offset) = (0, 0);
    lines(directory.path(), 0, |line| {
        offset = if line.file == file { offset } else { 0 } + line.bytes.len() as u64 + 1;
        file = line.file;
        positions.push(AuditPosition { file, offset, n: line.line.n, hash: bulla_core::audit::line_hash(&line.bytes) });
        true
    })
    .unwrap();
    fs::remove_file(directory.path().join("000002.jsonl")).unwrap();
    let report = verify(directory.path(), Expectations::default()).unwrap();
    assert_eq!(report.first_class(), Some(Class::MissingFile));
    let error = Sink::open(small.clone(), opening(Some(positions[0]), SystemDisk)).unwrap_err();
    assert!(matches!(error, OpenError::MissingFile { .. }), "{error}");
    let in_second = *positions.iter().find(|position| position.file == 2).unwrap();
    let error = Sink::open(small.clone(), opening(Some(in_second), SystemDisk)).unwrap_err();
    assert!(matches!(error, OpenError::AuditLoss { .. }), "{error}");
    let accept = AuditConfig { danger_accept_loss: true, ..small };
    crash(Sink::open(accept, opening(Some(positions[0]), SystemDisk)).unwrap(), directory.path());
    assert!(kinds(directory.path()).contains(&"loss_accepted".to_owned()));
}

/// Until the cluster is unsealed the log says that it lacks lines, whatever files and restarts lie between.
#[tokio::test]
async fn a_loss_is_remembered_until_the_cluster_is_unsealed() {
    let directory = tempfile::tempdir().unwrap();
    let (before, last) = prepared(directory.path()).await;
    let path = directory.path().join("000001.jsonl");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(before.offset).unwrap();
    let accept = AuditConfig { danger_accept_loss: true, max_size_bytes: 600, ..config(directory.path()) };
    let sink = Sink::open(accept, opening(Some(last), SystemDisk)).unwrap();
    assert!(sink.has_loss());
    sink.flush().await.unwrap();
    let after = sink.position();
    crash(sink, directory.path());
    let small = AuditConfig { max_size_bytes: 600, ..config(directory.path()) };
    for head in [after, None] {
        let sink = Sink::open(small.clone(), opening(head, SystemDisk)).unwrap();
        assert!(sink.has_loss(), "{head:?}");
        // Enough for more than one file.
        for _ in 0..3 {
            write(&sink).await.unwrap();
        }
        sink.flush_and_close().await.unwrap();
        // Closing is told before the folder's lock is given back.
        crash(sink, directory.path());
    }
    let sink = Sink::open(small.clone(), opening(None, SystemDisk)).unwrap();
    assert!(sink.has_loss());
    sink.note(Body::Unsealed { epoch: 2, committed: quote(9) }).await.unwrap();
    assert!(!sink.has_loss());
    sink.flush().await.unwrap();
    let unsealed = sink.position();
    crash(sink, directory.path());
    for head in [unsealed, None] {
        let sink = Sink::open(small.clone(), opening(head, SystemDisk)).unwrap();
        assert!(!sink.has_loss());
        crash(sink, directory.path());
    }
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_followed_by_another() {
    let directory = tempfile::tempdir().unwrap();
    let sink = open(directory.path());
    write(&sink).await.unwrap();
    sink.reopen().await.unwrap();
    assert!(!directory.path().join("000002.jsonl").exists(), "it was still there");
    let moved = directory.path().join("moved");
    fs::rename(directory.path().join("000001.jsonl"), &moved).unwrap();
    sink.reopen().await.unwrap();
    write(&sink).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(kinds(directory.path()), ["rotate", "request"]);
    fs::rename(&moved, directory.path().join("000001.jsonl")).unwrap();
    sound(directory.path(), sink.position());
}

/// A real file whose disk has little room, or breaks. The reserve counts as room once it is given up.
#[derive(Clone)]
struct Broken {
    directory: PathBuf,
    room: Arc<AtomicI64>,
    syncs: Arc<AtomicUsize>,
    sync_fails: Arc<AtomicBool>,
}

const PLENTY: i64 = i64::MAX / 2;

impl Broken {
    fn new(directory: &Path) -> Self {
        let room = Arc::new(AtomicI64::new(PLENTY));
        Self { directory: directory.to_owned(), room, syncs: Arc::default(), sync_fails: Arc::default() }
    }
}

impl Disk for Broken {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let reserve = if self.directory.join("reserve").exists() { 0 } else { 64 * 1024 };
        let room = usize::try_from(self.room.load(Ordering::SeqCst) + reserve).unwrap_or(0);
        if room == 0 {
            return Err(io::Error::from(rustix::io::Errno::NOSPC));
        }
        let count = file.write(&bytes[..bytes.len().min(room)])?;
        self.room.fetch_sub(i64::try_from(count).unwrap(), Ordering::SeqCst);
        Ok(count)
    }
    fn sync(&mut self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.sync_fails.load(Ordering::SeqCst) {
            return Err(io::Error::from(rustix::io::Errno::IO));
        }
        file.sync_data()
    }
}

async fn healthy_again(sink: &Sink) {
    let begun = Instant::now();
    while sink.healthy().is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_full_disk_turns_away_logs_the_sealing_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Broken::new(directory.path());
    let sink = Sink::open(config(directory.path()), opening(None, disk.clone())).unwrap();
    write(&sink).await.unwrap();
    assert!(directory.path().join("reserve").exists());

    // In the middle of a line.
    disk.room.store(100, Ordering::SeqCst);
    let accepted = sink.reserve().unwrap();
    assert!(matches!(write(&sink).await, Err(AuditBlocked::Disk(_))));
    disk.room.store(0, Ordering::SeqCst);
    assert!(matches!(sink.reserve(), Err(AuditBlocked::Disk(_))));
    assert!(matches!(sink.reserve(), Err(AuditBlocked::Disk(_))));
    assert!(matches!(sink.note(Body::Sealed { epoch: 9 }).await, Err(AuditBlocked::Disk(_))));
    assert!(matches!(refusal().accepted(accepted).finish(Outcome::done(200)).await, Err(AuditBlocked::Disk(_))));
    assert_eq!(sound(directory.path(), None).requests, 1, "half a line is taken back");

    // Sealing is logged all the same.
    refusal().accepted(sink.reserve_for_seal().unwrap()).finish(Outcome::done(200)).await.unwrap();
    sink.note_sealed(1).await.unwrap();
    assert_eq!(kinds(directory.path()), ["start", "request", "request", "sealed"]);
    assert_eq!(sink.position().unwrap().n, 4, "and is on the disk");
    assert!(sink.healthy().is_err());

    disk.room.store(PLENTY, Ordering::SeqCst);
    healthy_again(&sink).await;
    write(&sink).await.unwrap();
    sink.flush_and_close().await.unwrap();
    assert_eq!(sound(directory.path(), sink.position()).requests, 5, "lines that could not be written are there");
    let told: Vec<u64> = bodies(directory.path())
        .into_iter()
        .filter_map(|body| if let Body::Blocked { refused, .. } = body { Some(refused) } else { None })
        .collect();
    assert_eq!(told, [2]);
}

#[tokio::test]
async fn a_failed_sync_is_final() {
    for sync in [SyncMode::Interval(Duration::from_millis(20)), SyncMode::Each] {
        let directory = tempfile::tempdir().unwrap();
        let disk = Broken::new(directory.path());
        let config = AuditConfig { sync, ..config(directory.path()) };
        let sink = Sink::open(config, opening(None, disk.clone())).unwrap();
        let position = sink.position().unwrap();
        disk.sync_fails.store(true, Ordering::SeqCst);
        let written = write(&sink).await;
        assert_eq!(written.is_ok(), sync != SyncMode::Each, "{written:?}");
        let reason = tokio::time::timeout(Duration::from_secs(2), sink.failed()).await.unwrap();
        assert!(reason.starts_with("sync: "), "{reason}");
        let syncs = disk.syncs.load(Ordering::SeqCst);
        disk.sync_fails.store(false, Ordering::SeqCst);
        assert!(matches!(sink.reserve(), Err(AuditBlocked::Failed(_))));
        assert!(matches!(sink.flush().await, Err(AuditBlocked::Failed(_))));
        assert!(matches!(sink.flush_and_close().await, Err(AuditBlocked::Failed(_))));
        assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs, "a failed sync is not tried again");
        assert_eq!(sink.position(), Some(position), "the position does not pass a line that is not on the disk");
    }
}

#[tokio::test]
async fn lines_are_synced_as_configured() {
    let directory = tempfile::tempdir().unwrap();
    let each = AuditConfig { sync: SyncMode::Each, ..config(directory.path()) };
    let sink = Sink::open(each, opening(None, SystemDisk)).unwrap();
    for n in 2..12 {
        write(&sink).await.unwrap();
        assert_eq!(sink.position().unwrap().n, n);
    }

    let directory = tempfile::tempdir().unwrap();
    let disk = Broken::new(directory.path());
    let sink = Sink::open(config(directory.path()), opening(None, disk.clone())).unwrap();
    let begun = Instant::now();
    let mut count: u64 = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        write(&sink).await.unwrap();
        count += 1;
    }
    let syncs = disk.syncs.load(Ordering::SeqCst);
    assert!((2..=12).contains(&syncs), "{syncs} syncs in a second");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sink.position().unwrap().n, count + 1);
}

#[test]
fn a_device_that_is_full_refuses_the_start() {
    let config = AuditConfig::new(Target::File("/dev/full".into()));
    let error = Sink::open(config, opening(None, SystemDisk)).unwrap_err();
    assert!(matches!(error, OpenError::Blocked(AuditBlocked::Disk(_))), "{error:?}");
}

/// Runs itself again where it may mount a small file system, if the machine lets it; then the disk is truly full.
#[test]
fn on_a_small_file_system() {
    const DIRECTORY: &str = "BULLA_TEST_SMALL_FILE_SYSTEM";
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(fill(Path::new(&directory)));
    }
    let may_mount = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/tmp"]).status();
    if !may_mount.is_ok_and(|status| status.success()) {
        eprintln!("not tried: this machine does not let its users mount");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=256k none \"$1\" && exec \"$2\" --exact on_a_small_file_system";
    let status = Command::new("unshare")
        .args(["-rm", "sh", "-c", mount, "sh"])
        .args([directory.path(), &std::env::current_exe().unwrap()])
        .env(DIRECTORY, directory.path())
        .status()
        .unwrap();
    assert!(status.success());
}

async fn fill(directory: &Path) {
    let sink = Sink::open(config(directory), opening(None, SystemDisk)).unwrap();
    let ballast = directory.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
    let mut written = 0;
    while write(&sink).await.is_ok() {
        written += 1;
        assert!(written < 1_000, "a full disk takes no lines");
    }
    sound(directory, None);
    sink.note_sealed(1).await.unwrap();
    assert!(sink.reserve().is_err());
    drop(file);
    fs::remove_file(ballast).unwrap();
    healthy_again(&sink).await;
    sink.flush_and_close().await.unwrap();
    assert_eq!(sound(directory, sink.position()).requests, written + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_blocks_answers_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let sink = Sink::open(AuditConfig::new(Target::File(pipe)), opening(None, SystemDisk)).unwrap();
    assert_eq!(sink.position(), None);
    let begun = Instant::now();
    let blocked = loop {
        let started = Instant::now();
        let result = write(&sink).await;
        assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
        match result {
            Ok(()) => assert!(begun.elapsed() < Duration::from_secs(20), "a pipe has no end"),
            Err(blocked) => break blocked,
        }
    };
    assert_eq!(blocked, AuditBlocked::Slow);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = Instant::now();
    assert_eq!(sink.reserve().unwrap_err(), AuditBlocked::Slow);
    sink.anonymous("health", None, Address::Local);
    drop(refusal().accepted(sink.reserve_for_seal().unwrap()).finish(Outcome::done(200)));
    assert!(started.elapsed() < Duration::from_millis(100), "nothing waits without being asked to");
    assert_eq!(sink.flush_and_close().await, Err(AuditBlocked::Slow));

    // When it reads again, it finds a whole chain.
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while !bytes.ends_with(b"\"kind\":\"stop\"}\n") {
        let count = reader.read(&mut buffer).unwrap();
        bytes.extend_from_slice(&buffer[..count]);
    }
    let file = directory.path().join("all");
    fs::write(&file, bytes).unwrap();
    sound(&file, None);
    assert_eq!(kinds(&file).iter().filter(|kind| *kind == "anonymous").count(), 1);
}

#[tokio::test]
async fn one_file_is_continued_and_others_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let config = AuditConfig::new(Target::File(path.clone()));
    for _ in 0..2 {
        let sink = Sink::open(config.clone(), opening(None, SystemDisk)).unwrap();
        write(&sink).await.unwrap();
        sink.flush_and_close().await.unwrap();
    }
    assert_eq!(sound(&path, None).lines, 6);
    fs::write(&path, "Dear diary\n").unwrap();
    let error = Sink::open(config, opening(None, SystemDisk)).unwrap_err();
    assert!(matches!(error, OpenError::Altered { offset: 0, .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "Dear diary\n");
}

#[tokio::test]
async fn places_are_limited_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let sink = open(directory.path());
    let taken: Vec<Accepted> = (0..PLACES).map(|_| sink.reserve().unwrap()).collect();
    assert_eq!(sink.reserve().unwrap_err(), AuditBlocked::Full);
    assert!(sink.reserve_for_seal().is_ok());
    drop(taken);
    write(&sink).await.unwrap();
}

#[tokio::test]
async fn requests_without_a_key_cannot_fill_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let sink = open(directory.path());
    for n in 0..100_000_u32 {
        let address = Address::Ip(std::net::Ipv4Addr::from(n).into());
        sink.anonymous("kv", Some(if n % 2 == 0 { Code::Unauthenticated } else { Code::StaleChallenge }), address);
    }
    sink.flush_and_close().await.unwrap();
    sound(directory.path(), sink.position());
    let (mut counted, mut written) = (0, 0);
    for body in bodies(directory.path()) {
        if let Body::Anonymous { route, reason, count, addresses, .. } = body {
            assert_eq!(route.as_str(), "kv");
            assert!(reason.is_some() && addresses.len() == 8);
            (counted, written) = (counted + count, written + 1);
        }
    }
    assert_eq!(counted, 100_000);
    assert!(written <= 8, "{written} lines");
}

#[tokio::test]
async fn lost_lines_of_commits_are_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let sink = open(directory.path());
    for sequence in 1..6 {
        write_commit(&sink, sequence).await.unwrap();
    }
    crash(sink, directory.path());
    let rows: Vec<RequestLine> = bodies(directory.path())
        .into_iter()
        .filter_map(|body| if let Body::Request(line) = body { Some(*line) } else { None })
        .collect();
    assert_eq!(rows.len(), 5);
    // The power cut takes the last two lines, the store keeps all five rows.
    let path = directory.path().join("000001.jsonl");
    let kept: String = fs::read_to_string(&path).unwrap().split_inclusive('\n').take(4).collect();
    fs::write(&path, &kept).unwrap();
    let sink = open(directory.path());
    assert_eq!(sink.recover(rows.clone()).await.unwrap(), 2);
    assert_eq!(sink.recover(rows).await.unwrap(), 0, "once");
    let report = sound(directory.path(), sink.position());
    assert_eq!((report.requests, report.recovered), (5, 2));
    assert_eq!(sink.last_quoted(), Some(quote(5)));
}

/// The clock is set back, and later the file is full: what the log holds from before is found all the same.
#[tokio::test]
async fn lines_are_found_after_the_clock_was_set_back() {
    const HOUR_MS: u64 = 3_600_000;
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(10 * HOUR_MS));
    let open = || {
        let clock = clock.clone();
        let opening =
            Opening { clock: Arc::new(move || clock.fetch_add(1, Ordering::Relaxed)), ..opening(None, SystemDisk) };
        Sink::open(AuditConfig { max_size_bytes: 2_000, ..config(directory.path()) }, opening).unwrap()
    };
    let sink = open();
    write_commit(&sink, 1).await.unwrap();
    clock.store(9 * HOUR_MS, Ordering::Relaxed);
    for _ in 0..10 {
        write(&sink).await.unwrap();
    }
    clock.store(8 * HOUR_MS, Ordering::Relaxed);
    crash(sink, directory.path());
    let sink = open();
    write(&sink).await.unwrap();
    sink.flush().await.unwrap();
    let mut rows: Vec<RequestLine> = Vec::new();
    let (mut files, mut times) = (Vec::new(), Vec::new());
    lines(directory.path(), 0, |found| {
        times.push(found.line.at_ms);
        if let Body::Request(line) = found.line.body {
            rows.push(*line);
        }
        true
    })
    .unwrap();
    for file in fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "jsonl") {
            let text = fs::read_to_string(&file).unwrap();
            files.push(text.lines().map(|line| Line::parse(line.as_bytes()).unwrap().at_ms).collect::<Vec<_>>());
        }
    }
    assert!(
        files.len() > 4 && files.iter().all(|times| times.is_sorted()),
        "within a file time does not fall: {files:?}"
    );
    assert!(!times.is_sorted() && rows.len() == 12);
    // The nonce of the first request is of the time before.
    let first = RequestLine { received_ms: 10 * HOUR_MS, ..rows[0].clone() };
    assert_eq!(sink.recover(vec![first]).await.unwrap(), 0, "it has its line");
    let lost = RequestLine { id: RequestId::new([9; 16]), received_ms: 10 * HOUR_MS, ..rows[0].clone() };
    assert_eq!(sink.recover(vec![lost]).await.unwrap(), 1);
    let report = verify(directory.path(), Expectations::default()).unwrap();
    assert!(report.findings.iter().all(|finding| finding.class == Class::ClockWentBack), "{:?}", report.findings);
    assert_eq!(report.findings.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_make_one_chain() {
    let directory = tempfile::tempdir().unwrap();
    let small = AuditConfig { max_size_bytes: 100_000, ..config(directory.path()) };
    let sink = Sink::open(small, opening(None, SystemDisk)).unwrap();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let sink = sink.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    write(&sink).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    sink.flush_and_close().await.unwrap();
    assert_eq!(sound(directory.path(), sink.position()).requests, 3_200);
}

/// A real file, and what its next write is answered.
#[derive(Clone, Default)]
struct Odd(Arc<Mutex<Option<Result<usize, Errno>>>>);

impl Odd {
    fn say(&self, next: Result<usize, Errno>) {
        *self.0.lock().unwrap() = Some(next);
    }
}

impl Disk for Odd {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let said = self.0.lock().unwrap().take();
        said.map_or_else(|| file.write(bytes), |said| said.map_err(io::Error::from))
    }
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// Somebody can make room for a user above a quota too; a disk that breaks, or takes no byte of a line, is not asked again.
#[tokio::test]
async fn a_quota_is_a_full_disk_and_any_other_error_is_final() {
    for full in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
        let (directory, disk) = (tempfile::tempdir().unwrap(), Odd::default());
        let sink = Sink::open(config(directory.path()), opening(None, disk.clone())).unwrap();
        disk.say(Err(full));
        assert!(matches!(write(&sink).await, Err(AuditBlocked::Disk(_))), "{full}");
        healthy_again(&sink).await;
        write(&sink).await.unwrap();
        sink.flush_and_close().await.unwrap();
        assert_eq!(sound(directory.path(), sink.position()).requests, 2, "{full}");
    }
    for broken in [Err(Errno::IO), Ok(0)] {
        let (directory, disk) = (tempfile::tempdir().unwrap(), Odd::default());
        let sink = Sink::open(config(directory.path()), opening(None, disk.clone())).unwrap();
        disk.say(Err(Errno::INTR));
        write(&sink).await.unwrap();
        disk.say(broken);
        assert!(matches!(write(&sink).await, Err(AuditBlocked::Failed(_))), "{broken:?}");
        let reason = tokio::time::timeout(Duration::from_secs(2), sink.failed()).await.unwrap();
        assert!(reason.starts_with("write: "), "{reason}");
        assert!(matches!(sink.reserve(), Err(AuditBlocked::Failed(_))));
        assert_eq!(sound(directory.path(), None).requests, 1, "nothing was written behind it");
    }
}

/// Of a pipe nothing can be taken back, so nothing may follow half a line there, whoever makes room.
#[tokio::test]
async fn half_a_line_in_a_pipe_is_final() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let disk = Broken::new(directory.path());
    let sink = Sink::open(AuditConfig::new(Target::File(pipe)), opening(None, disk.clone())).unwrap();
    write(&sink).await.unwrap();
    // There is no reserve, which this disk counts as room.
    disk.room.store(10 - 64 * 1024, Ordering::SeqCst);
    assert!(matches!(write(&sink).await, Err(AuditBlocked::Failed(_))));
    disk.room.store(PLENTY, Ordering::SeqCst);
    assert!(matches!(sink.reserve(), Err(AuditBlocked::Failed(_))));
    assert!(sink.reserve_for_seal().is_ok(), "sealing goes on");
}

/// Beside one file no space is put aside: sealing has its place, is told that its line waits, and has it once there is room.
#[tokio::test]
async fn beside_one_file_the_line_of_a_sealing_waits_for_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let disk = Broken::new(directory.path());
    let single = AuditConfig { patience: Duration::from_millis(500), ..AuditConfig::new(Target::File(path.clone())) };
    let sink = Sink::open(single, opening(None, disk.clone())).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is kept beside it");
    disk.room.store(-64 * 1024, Ordering::SeqCst);
    assert!(matches!(write(&sink).await, Err(AuditBlocked::Disk(_))));
    let accepted = sink.reserve_for_seal().unwrap();
    let sealing = refusal().accepted(accepted).finish(Outcome::done(200)).await;
    assert!(matches!(sealing, Err(AuditBlocked::Disk(_))), "{sealing:?}");
    assert!(matches!(sink.note_sealed(1).await, Err(AuditBlocked::Disk(_))));
    disk.room.store(PLENTY, Ordering::SeqCst);
    healthy_again(&sink).await;
    sink.flush_and_close().await.unwrap();
    assert_eq!(sound(&path, sink.position()).requests, 2);
    assert!(kinds(&path).contains(&"sealed".to_owned()));
}

/// One file that was renamed: the next one goes on with the chain, and a start finds in it the line that the store remembers.
#[tokio::test]
async fn one_file_that_was_renamed_is_followed_by_another_of_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let [path, moved, all] = ["audit.jsonl", "moved", "all"].map(|name| directory.path().join(name));
    let config = AuditConfig::new(Target::File(path.clone()));
    let sink = Sink::open(config.clone(), opening(None, SystemDisk)).unwrap();
    write_commit(&sink, 1).await.unwrap();
    fs::rename(&path, &moved).unwrap();
    // Until somebody says so it writes on where it was.
    write(&sink).await.unwrap();
    assert!(!path.exists());
    sink.reopen().await.unwrap();
    write_commit(&sink, 2).await.unwrap();
    sink.flush().await.unwrap();
    let head = sink.position();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(kinds(&moved), ["start", "request", "request"]);
    assert_eq!(kinds(&path), ["request"]);
    fs::write(&all, [fs::read(&moved).unwrap(), fs::read(&path).unwrap()].concat()).unwrap();
    assert_eq!(sound(&all, None).requests, 3, "one chain");
    sink.flush_and_close().await.unwrap();
    let sink = Sink::open(config, opening(head, SystemDisk)).unwrap();
    assert_eq!(sink.last_quoted(), Some(quote(2)));
}

/// Names stand in clear in each of these, also in an end that was moved aside.
#[tokio::test]
async fn whatever_the_log_makes_is_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let small = AuditConfig { max_size_bytes: 600, ..config(directory.path()) };
    let sink = Sink::open(small.clone(), opening(None, SystemDisk)).unwrap();
    for _ in 0..3 {
        write(&sink).await.unwrap();
    }
    crash(sink, directory.path());
    let made = || fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let logs = made().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    let last = logs.max().unwrap();
    fs::OpenOptions::new().append(true).open(last).unwrap().write_all(b"{\"v\":1,\"na").unwrap();
    crash(Sink::open(small, opening(None, SystemDisk)).unwrap(), directory.path());
    assert_eq!(torn(directory.path()).len(), 1);
    assert!(directory.path().join("reserve").exists() && directory.path().join("000002.jsonl").exists());
    for path in made() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

/// Whoever came before the server leads its lines nowhere else.
#[test]
fn a_link_in_the_place_of_a_numbered_file_is_not_followed() {
    let base = tempfile::tempdir().unwrap();
    let (directory, elsewhere) = (base.path().join("audit"), base.path().join("elsewhere"));
    fs::create_dir(&directory).unwrap();
    fs::write(&elsewhere, b"").unwrap();
    std::os::unix::fs::symlink(&elsewhere, directory.join("000001.jsonl")).unwrap();
    let error = open_at(&directory, None).unwrap_err();
    assert!(matches!(error, OpenError::Io { action: "open", .. }), "{error}");
    assert_eq!(fs::read(&elsewhere).unwrap(), b"");
}

/// The times of the lines of each file, in the order of the files.
fn times(directory: &Path) -> Vec<Vec<u64>> {
    let mut files: Vec<(u32, Vec<u64>)> = Vec::new();
    lines(directory, 0, |found| {
        match files.last_mut() {
            Some((number, times)) if *number == found.file => times.push(found.line.at_ms),
            _ => files.push((found.file, vec![found.line.at_ms])),
        }
        true
    })
    .unwrap();
    files.into_iter().map(|(_, times)| times).collect()
}

/// A start passes files over by the time of their last line, so within a file time does not fall, whatever came between.
#[tokio::test]
async fn a_clock_that_was_set_back_on_a_full_disk_begins_the_next_file() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Broken::new(directory.path());
    let clock = Arc::new(AtomicU64::new(10_000_000));
    let ticking = clock.clone();
    let opening =
        Opening { clock: Arc::new(move || ticking.fetch_add(1, Ordering::Relaxed)), ..opening(None, disk.clone()) };
    let sink = Sink::open(config(directory.path()), opening).unwrap();
    write(&sink).await.unwrap();
    disk.room.store(0, Ordering::SeqCst);
    assert!(matches!(write(&sink).await, Err(AuditBlocked::Disk(_))));
    clock.store(1_000_000, Ordering::Relaxed);
    disk.room.store(PLENTY, Ordering::SeqCst);
    healthy_again(&sink).await;
    write(&sink).await.unwrap();
    sink.flush_and_close().await.unwrap();
    let times = times(directory.path());
    assert!(times.len() == 2 && times.iter().all(|times| times.is_sorted()), "{times:?}");
    assert_eq!(bodies(directory.path()).iter().filter(|body| matches!(body, Body::Request(_))).count(), 3);
}

/// The next file was made when there was no room for a line in it. What is written there first is still what the files before
/// told, since a start reads no other file for it.
#[tokio::test]
async fn a_file_that_was_begun_on_a_full_disk_begins_with_its_first_line() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Broken::new(directory.path());
    let small = AuditConfig { max_size_bytes: 2_400, ..config(directory.path()) };
    let sink = Sink::open(small.clone(), opening(None, disk.clone())).unwrap();
    let first = directory.path().join("000001.jsonl");
    let length = || fs::metadata(&first).unwrap().len();
    let start = length();
    write(&sink).await.unwrap();
    // Each of these lines has the same length.
    let line = length() - start;
    while length() + line < small.max_size_bytes {
        write(&sink).await.unwrap();
    }
    disk.room.store(i64::try_from(line).unwrap(), Ordering::SeqCst);
    write(&sink).await.unwrap();
    let begun = Instant::now();
    while sink.healthy().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(5), "there is no room for the next file's first line");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sink.note_sealed(1).await.unwrap();
    disk.room.store(PLENTY, Ordering::SeqCst);
    healthy_again(&sink).await;
    sink.flush_and_close().await.unwrap();
    sound(directory.path(), sink.position());
    let second = fs::read_to_string(directory.path().join("000002.jsonl")).unwrap();
    let told = Line::parse(second.lines().next().unwrap().as_bytes()).unwrap();
    assert!(matches!(told.body, Body::Rotate { previous: 1, .. }), "{told:?}");
}
