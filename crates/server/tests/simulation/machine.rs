//! The node on simulated disks, without sockets: what hyper would call is called by hand.

use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::stage::Stage;
use bulla_server::clock::Watch;
use bulla_server::gate::Gate;
use bulla_server::listen::{Arrived, BodyBudget, Handler, Peer};
use bulla_server::metrics::Metrics;
use bulla_server::node::{Node, Parts, Phase};
use bulla_server::plain::read_phase;
use bulla_server::sink::{self, AuditConfig, Sink, SyncMode, Target};
use bulla_store::simulated::{DATABASE, Disk, Fails, JOURNAL, Turns, open};
use bulla_store::{OnFatal, Store};
use bulla_testkit::ManualClock;
use bulla_testkit::raw::{Reply, Request};
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// The journal is taken over once it has so many bytes: after a few commits.
pub const JOURNAL_LIMIT: u64 = 12 * 1024;
/// A file of the log is followed by the next once it has so many bytes: some tens of lines.
const FILE_BYTES: u64 = 16 * 1024;
/// What every line of a request has.
const REQUEST_MARK: &[u8] = b"\"received_ms\"";
/// What those have that were written again after a power cut.
const RECOVERED_MARK: &[u8] = b"\"recovered\":true";

pub type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;

/// Says that a future can go on, and wakes the simulation's thread if it sleeps.
pub struct Awake {
    flag: AtomicBool,
    thread: Thread,
    deaf: bool,
}

impl Awake {
    pub fn new() -> Arc<Self> {
        Self::hearing(true)
    }

    /// With `false`, whoever sleeps once sleeps for ever.
    pub fn hearing(hears: bool) -> Arc<Self> {
        Arc::new(Self { flag: AtomicBool::new(true), thread: std::thread::current(), deaf: !hears })
    }

    pub fn is(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Polls a future that is awake.
    pub fn poll<T>(self: &Arc<Self>, future: &mut Future<T>) -> Poll<T> {
        self.flag.store(false, Ordering::Release);
        future.as_mut().poll(&mut Context::from_waker(&Waker::from(self.clone())))
    }
}

impl Wake for Awake {
    fn wake(self: Arc<Self>) {
        if self.deaf {
            return;
        }
        self.flag.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// The answer of a future that never waits.
pub fn at_once<T>(future: impl std::future::Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits"),
    }
}

/// The answer of a future that waits for other threads only.
pub fn wait<T>(mut future: Future<T>) -> T {
    let awake = Awake::new();
    loop {
        if awake.is()
            && let Poll::Ready(answer) = awake.poll(&mut future)
        {
            return answer;
        }
        std::thread::park_timeout(Duration::from_secs(30));
    }
}

/// How the log is kept.
#[derive(Debug, Clone, Copy)]
pub struct LogShape {
    /// In a directory, file after file.
    pub rotates: bool,
    /// Each line is synced before its answer.
    pub syncs_each: bool,
}

/// What a node leaves behind when its power goes.
pub struct Disks {
    pub store: Disk,
    /// What a node without a disk holds.
    pub memory: Option<Store>,
    pub log: PathBuf,
    shape: LogShape,
    written: Arc<Mutex<Written>>,
}

/// How far the audit log's files are.
#[derive(Debug, Default)]
struct Written {
    /// Length of each file, by its inode, that a power cut leaves.
    synced: BTreeMap<u64, u64>,
    /// Lines of requests since the node began.
    requests: usize,
    /// How many of them no power cut takes.
    requests_synced: usize,
    lies: bool,
    spoils: Option<Mutant>,
    count: u64,
}

/// A disk that knows how far it was synced.
struct LogDisk(Arc<Mutex<Written>>);

impl sink::Disk for LogDisk {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap();
        written.count += 1;
        let spoiled = written.spoils.filter(|_| written.count.is_multiple_of(4));
        if spoiled == Some(Mutant::LogDrops) {
            return Ok(bytes.len());
        }
        let fresh = |line: &&[u8]| contains(line, REQUEST_MARK) && !contains(line, RECOVERED_MARK);
        written.requests += bytes.split(|byte| *byte == b'\n').filter(fresh).count();
        if spoiled == Some(Mutant::LogFlips) {
            let altered: Vec<u8> = bytes.iter().map(|byte| if *byte == b'7' { b'8' } else { *byte }).collect();
            return file.write(&altered);
        }
        file.write(bytes)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        let metadata = file.metadata()?;
        let mut written = self.0.lock().unwrap();
        if !written.lies {
            written.synced.insert(metadata.ino(), metadata.len());
            written.requests_synced = written.requests;
        }
        Ok(())
    }
}

/// Whether these bytes are among those.
pub fn contains(mut text: &[u8], needle: &[u8]) -> bool {
    let Some((first, _)) = needle.split_first() else { return true };
    loop {
        // The library's own search for a byte is fast even in a test that is not optimised.
        match io::BufRead::skip_until(&mut text, *first) {
            Ok(0) | Err(_) => return false,
            Ok(_) if text.starts_with(&needle[1..]) => return true,
            Ok(_) => {}
        }
    }
}

impl Disks {
    /// With `memory` the node has no disk but for its log.
    pub fn new(stage: &Stage, log: PathBuf, shape: LogShape, memory: bool) -> Self {
        let log = if shape.rotates { log.with_extension("d") } else { log };
        let disks = Self::begun(stage, Disk::of(&stage.image), log, shape);
        Self { memory: memory.then(|| stage.memory()), ..disks }
    }

    /// With the log that every seed begins with.
    fn begun(stage: &Stage, store: Disk, log: PathBuf, shape: LogShape) -> Self {
        let first = if shape.rotates {
            drop(std::fs::remove_dir_all(&log));
            std::fs::create_dir(&log).unwrap();
            log.join("000001.jsonl")
        } else {
            log.clone()
        };
        std::fs::write(first, &stage.log).unwrap();
        let disks = Self { store, memory: None, log, shape, written: Arc::default() };
        disks.is_synced();
        disks
    }

    /// The files of the log, oldest first.
    pub fn log_files(&self) -> Vec<PathBuf> {
        if !self.shape.rotates {
            return vec![self.log.clone()];
        }
        let paths = std::fs::read_dir(&self.log).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
        paths.sort_unstable();
        paths
    }

    /// Whatever stands in the log now, no power cut takes.
    fn is_synced(&self) {
        let lengths = self.log_files().into_iter().map(|path| std::fs::metadata(path).unwrap());
        let synced = lengths.map(|metadata| (metadata.ino(), metadata.len())).collect();
        *self.written.lock().unwrap() = Written { synced, ..Written::default() };
    }

    /// Lines of requests that were written since the node began, and how many of them were synced.
    pub fn requests(&self) -> (usize, usize) {
        let written = self.written.lock().unwrap();
        (written.requests, written.requests_synced)
    }

    /// Somebody stops the node and puts an older copy in the place of its store.
    pub fn put_back(&mut self, store: Disk) {
        self.store.fail(Fails::After(0));
        self.store = store;
        self.is_synced();
    }

    /// What is left after a power cut. Whatever still holds the old disk works in vain.
    pub fn cut(&mut self, stage: &Stage, rng: &mut Rng, mutant: Option<Mutant>) {
        let mut sectors = rng.fork();
        let after = match mutant {
            Some(Mutant::StoreRollsBack | Mutant::AllRollsBack) => Disk::of(&stage.image),
            _ => self.store.after_power_cut(self.store.orders(), || sectors.next()),
        };
        self.store.fail(Fails::After(0));
        self.store = after;
        if mutant == Some(Mutant::AllRollsBack) {
            *self = Self::begun(stage, self.store.clone(), self.log.clone(), self.shape);
            return;
        }
        let synced = std::mem::take(&mut self.written.lock().unwrap().synced);
        let files = self.log_files();
        for path in &files {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let metadata = file.metadata().unwrap();
            cut(&file, synced.get(&metadata.ino()).copied().unwrap_or_default().min(metadata.len()), rng);
        }
        if let (Some(Mutant::LogFileLost), [first, _, ..]) = (mutant, files.as_slice()) {
            std::fs::remove_file(first).unwrap();
        }
        self.is_synced();
    }
}

/// What a power cut leaves of a file that is longer than what was synced of it.
fn cut(file: &File, synced: u64, rng: &mut Rng) {
    let length = file.metadata().unwrap().len();
    let (kind, kept) = (rng.below(4), rng.below(length - synced + 1));
    match kind {
        0 => {}
        1 => file.set_len(synced).unwrap(),
        // The length was written, and the data was not.
        2 if synced < length => file.set_len(synced + kept).and_then(|()| file.set_len(length)).unwrap(),
        _ => file.set_len(synced + kept).unwrap(),
    }
}

/// A node that runs.
pub struct Machine {
    pub node: Arc<Node>,
    gate: Arc<Gate>,
    /// A store in memory writes at once.
    turns: Option<Turns>,
    pub log: sink::Writer,
}

impl Machine {
    /// Starts a node on what the disks hold.
    pub fn start(stage: &Stage, disks: &Disks, clock: &ManualClock, mutant: Option<Mutant>) -> Result<Self, String> {
        let on_fatal = OnFatal::call(|_| {});
        let (store, mut turns) = match &disks.memory {
            Some(memory) => (memory.clone(), None),
            None => {
                let opened = open(&disks.store, JOURNAL_LIMIT, on_fatal).map_err(|error| error.to_string())?;
                (opened.0, Some(opened.1))
            }
        };
        match mutant {
            Some(Mutant::Store(fault)) => turns.iter_mut().for_each(|turns| turns.spoil(fault)),
            Some(Mutant::JournalLies) => disks.store.lie(JOURNAL),
            Some(Mutant::DatabaseLies) => disks.store.lie(DATABASE),
            Some(Mutant::LogLies) => disks.written.lock().unwrap().lies = true,
            Some(Mutant::LogDrops | Mutant::LogFlips) => disks.written.lock().unwrap().spoils = mutant,
            _ => {}
        }
        let phase = at_once(read_phase(&store)).map_err(|error| error.to_string())?;
        let (sink, log) = open_log(stage, disks, clock, &phase)?;
        let clock = match mutant {
            Some(Mutant::ClockStands) => ManualClock::at(crate::stage::BEGIN_MS),
            _ => clock.clone(),
        };
        let parts = Parts {
            key: stage.node(),
            store,
            sink: Arc::new(sink),
            clock: Arc::new(clock),
            metrics: Arc::new(Metrics::new()),
            transient: disks.memory.is_some(),
            webhook: false,
            hash_names: false,
            audit_path: Some(disks.log.clone()),
            bodies: BodyBudget::new(16 * 1024 * 1024),
            requests_per_s: 0,
            init_admins: vec![],
            bundle: None,
            leases_each: 0,
        };
        let node = Arc::new(Node::new(parts, phase));
        Ok(Self { gate: Arc::new(Gate::new(node.clone())), node, turns, log })
    }

    /// How many commits wait.
    pub fn waiting(&self) -> usize {
        self.turns.as_ref().map_or(0, Turns::waiting)
    }

    /// Writes one group of commits. Whether there was any.
    pub fn turn(&mut self) -> bool {
        self.turns.as_mut().is_some_and(Turns::turn)
    }

    pub fn is_unsealed(&self) -> bool {
        matches!(self.node.phase(), Phase::Unsealed(_))
    }

    /// Hands a request over, as a listener does.
    pub fn handle(&self, request: &Request) -> Future<Response<Bytes>> {
        let (head, body) = request.http(None).expect("HTTP").into_parts();
        let body = body.map_err(|never| match never {}).boxed_unsync();
        let (peer, standing) = (Peer::Network(IpAddr::V4(Ipv4Addr::LOCALHOST)), Arc::default());
        let arrived = Arrived { head, peer, certificate: None, standing, body };
        let gate = self.gate.clone();
        Box::pin(async move { gate.handle(arrived).await })
    }

    /// One look at the clock and at what is due.
    pub fn tick(&self, mut watch: Watch) -> Future<Watch> {
        let node = self.node.clone();
        Box::pin(async move {
            bulla_server::tick::once(&node, &mut watch).await;
            watch
        })
    }

    /// Lets a future run alone to its end: whatever it asks of store and log is done at once. `None` if it fails to
    /// end, as the disk's power is gone.
    pub fn alone<T>(&mut self, disk: &Disk, mut future: Future<T>) -> Option<T> {
        let awake = Awake::new();
        loop {
            if awake.is()
                && let Poll::Ready(answer) = awake.poll(&mut future)
            {
                return Some(answer);
            }
            let done = self.turn() | self.log.turn();
            if disk.is_off() {
                return None;
            }
            if !done && !awake.is() {
                // A thread reads the log's files.
                std::thread::park_timeout(Duration::from_secs(30));
            }
        }
    }

    /// Makes all lines durable.
    pub fn sync_log(&mut self) {
        let sink = self.node.parts.sink.clone();
        let mut flushed: Future<_> = Box::pin(async move { sink.flush().await });
        let awake = Awake::new();
        while awake.poll(&mut flushed).is_pending() {
            assert!(self.log.turn(), "the log does not flush");
        }
    }
}

fn open_log(stage: &Stage, disks: &Disks, clock: &ManualClock, phase: &Phase) -> Result<(Sink, sink::Writer), String> {
    let LogShape { rotates, syncs_each } = disks.shape;
    let target = if rotates { Target::Directory } else { Target::File };
    let mut config = AuditConfig::new(target(disks.log.clone()));
    config.max_size_bytes = FILE_BYTES;
    // Or synced when the simulation says so, and before a head names a line.
    config.sync = if syncs_each { SyncMode::Each } else { SyncMode::Interval(Duration::from_secs(3600)) };
    let node = stage.node().public_key().key_id();
    let opening = phase.log_opening(node, Arc::new(clock.clone()), Box::new(LogDisk(disks.written.clone())));
    Sink::without_thread(config, opening).map_err(|error| error.to_string())
}

/// The answer as a client reads it.
pub fn read(response: Response<Bytes>) -> Reply {
    let (head, body) = response.into_parts();
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}
