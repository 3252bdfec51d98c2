//! The audit log of this node: lines go to one thread, which chains, writes and syncs them.
//!
//! A request first takes a place ([`Sink::reserve`]). That is where it fails closed: no place, no answer, and never
//! more than [`AuditConfig::patience`] of waiting. With a place its line is certain, whatever becomes of the request.
//! An answer waits until its line is written: with the system, or on the disk if every line is to be synced.
//!
//! An error of a sync is final. The kernel drops what it could not write and reports it once, so trying again would
//! lie; [`Sink::failed`] resolves, and the process has to stop. A full disk is not final: lines wait, requests are
//! turned away, and a reserve lets the sealing be logged all the same.

mod anonymous;
mod disk;
mod files;
mod lost;
mod queue;
mod read;
mod writer;

pub use bulla_core::audit::{Expectations, Report};
pub use disk::{Disk, RESERVE_BYTES, SystemDisk};
pub use read::{FileLine, LogError, lines, verify};
pub use writer::Writer;

use anonymous::Counters;
use bulla_core::audit::{
    Accepted, Address, AuditBlocked, AuditPosition, Body, Label, Quote, RequestLine, Slot, Written,
};
use bulla_wire::error::Code;
use bulla_wire::id::{ClusterId, KeyId};
use files::{Layout, Search};
use queue::Queue;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use writer::Message;

/// Most requests that wait for their outcome. A line has about one KiB, so they hold 16 MiB at most; a node that
/// has more requests in flight than this is overloaded.
pub const PLACES: usize = 16 * 1024;
/// Largest size of a file by default, in MiB: days of a busy node, and a minute to verify.
pub const MAX_SIZE_MIB: u32 = 256;

/// Unix milliseconds. A parameter, so that tests can turn it.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where the lines go.
#[derive(Debug, Clone)]
pub enum Target {
    /// Files `000001.jsonl`, … in a directory, made for the owner alone.
    Directory(PathBuf),
    /// One file, or a pipe or device. A file is continued.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// When lines are synced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// This often; answers do not wait for it.
    Interval(Duration),
    /// Before each answer, gathered.
    Each,
}

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Where the lines go.
    pub target: Target,
    /// When they are synced.
    pub sync: SyncMode,
    /// A file of at least this size is followed by the next.
    pub max_size_bytes: u64,
    /// Start although lines are missing or altered, and say so in the log.
    pub danger_accept_loss: bool,
    /// How long a line may take before the log counts as blocked.
    pub patience: Duration,
}

impl AuditConfig {
    /// The defaults: synced every 100 ms, files of 256 MiB, two seconds of patience.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            sync: SyncMode::Interval(Duration::from_millis(100)),
            max_size_bytes: u64::from(MAX_SIZE_MIB) * 1024 * 1024,
            danger_accept_loss: false,
            patience: Duration::from_secs(2),
        }
    }
}

/// What the node knows when it opens its log.
pub struct Opening {
    /// The node's key.
    pub node: KeyId,
    /// The server's version.
    pub version: String,
    /// The cluster, if there is one.
    pub cluster: Option<ClusterId>,
    /// The last line that the head of the store remembers.
    pub head: Option<AuditPosition>,
    /// The time.
    pub clock: Clock,
    /// The disk.
    pub disk: Box<dyn Disk>,
}

/// Why the log cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The system refused something.
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Another process writes there.
    InUse(PathBuf),
    /// The line that the store remembers is not there.
    AuditLoss {
        /// The line.
        expected: AuditPosition,
        /// What was found.
        found: String,
    },
    /// A line does not follow from the one before, and no crash explains it.
    Altered {
        /// The file.
        path: PathBuf,
        /// Where the line begins.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// A file between two others is not there.
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// The first lines could not be written.
    Blocked(AuditBlocked),
}

impl OpenError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |error| Self::Io { action, path: path.to_owned(), error }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::AuditLoss { .. } | Self::Altered { .. } | Self::MissingFile { .. } => {
                "put the missing lines back, or go on without them with --accept-audit-loss, which the log will tell"
            }
            Self::InUse(_) => "stop the other server, or give this one an audit log of its own",
            Self::Io { .. } | Self::Blocked(_) => {
                "check the file with `bulla audit verify`, its place, and that the disk has room"
            }
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, path, .. } => write!(f, "cannot {action} the audit log {}", path.display()),
            Self::InUse(path) => write!(f, "another process writes the audit log {}", path.display()),
            Self::AuditLoss { expected, found } => {
                write!(f, "the audit log does not hold {expected}, which the store remembers: {found}")
            }
            Self::Altered { path, offset, detail } => {
                write!(f, "the audit log {} was altered at byte {offset}: {detail}", path.display())
            }
            Self::MissingFile { path } => write!(f, "the audit log lacks {}", path.display()),
            Self::Blocked(_) => f.write_str("cannot write the first lines of the audit log"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Blocked(error) => Some(error),
            _ => None,
        }
    }
}

/// The log of this node. Clones are the same log.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<Shared>,
    queue: Queue,
}

/// What the writing thread shows to everybody.
struct Shared {
    layout: Option<Layout>,
    clock: Clock,
    patience: Duration,
    /// For [`Self::busy_since`].
    epoch: Instant,
    /// Milliseconds after `epoch`, plus one, at which the system call began that runs now; 0 between them.
    busy_since: AtomicU64,
    places_taken: AtomicUsize,
    refused: AtomicU64,
    /// Whether [`Self::trouble`] holds anything.
    troubled: AtomicBool,
    trouble: Mutex<Option<AuditBlocked>>,
    position: Mutex<Option<AuditPosition>>,
    quoted: Mutex<Option<Quote>>,
    loss: AtomicBool,
    counters: Mutex<Counters>,
    failed: watch::Sender<Option<String>>,
}

/// A panic while one of these locks is held leaves values that are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    /// Opens the log, repairs what a crash may have left, and writes the first line. Blocks on the disk.
    pub fn open(config: AuditConfig, opening: Opening) -> Result<Self, OpenError> {
        let (sink, writer) = Self::without_thread(config, opening)?;
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Io { action: "start the thread of", path: PathBuf::from("audit"), error })?;
        Ok(sink)
    }

    /// The same without a thread: lines are written whenever [`Writer::turn`] is called, so that whoever calls it
    /// decides what comes before what.
    pub fn without_thread(config: AuditConfig, opening: Opening) -> Result<(Self, Writer), OpenError> {
        let layout = match &config.target {
            Target::Directory(path) => Some(Layout::Directory(path.clone())),
            Target::File(path) => Some(Layout::Single(path.clone())),
            Target::Stdout => None,
        };
        let shared = Arc::new(Shared {
            layout,
            clock: opening.clock.clone(),
            patience: config.patience,
            epoch: Instant::now(),
            busy_since: AtomicU64::new(0),
            places_taken: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            troubled: AtomicBool::new(false),
            trouble: Mutex::new(None),
            position: Mutex::new(None),
            quoted: Mutex::new(None),
            loss: AtomicBool::new(false),
            counters: Mutex::new(Counters::default()),
            failed: watch::Sender::new(None),
        });
        let (thread, messages) = mpsc::channel();
        let writer = Writer::open(&config, opening, shared.clone(), messages)?;
        Ok((Self { shared, queue: Queue::new(thread) }, writer))
    }

    /// Takes a place for the line of one request. Cheap; it never waits.
    pub fn reserve(&self) -> Result<Accepted, AuditBlocked> {
        let result = self.shared.healthy().and_then(|()| self.place(PLACES, false));
        if result.is_err() {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Takes a place for a request that seals. It is given even if the disk is full or slow: the line goes to
    /// the reserve, and nobody has to know that it was written before the keys are forgotten.
    pub fn reserve_for_seal(&self) -> Result<Accepted, AuditBlocked> {
        self.place(PLACES.saturating_mul(2), true)
    }

    fn place(&self, limit: usize, urgent: bool) -> Result<Accepted, AuditBlocked> {
        let taken = self.shared.places_taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.shared.clone());
        if taken >= limit {
            return Err(AuditBlocked::Full);
        }
        let reserved = Reserved { queue: self.queue.clone(), place, urgent };
        Ok(Accepted::assertion(Box::new(reserved)))
    }

    /// Writes a line that belongs to no request: an alarm, a consent, the seal's opening.
    pub fn note(&self, body: Body) -> Written {
        match self.shared.healthy() {
            Ok(()) => send(&self.queue, self.shared.patience, body, None, false),
            Err(blocked) => Box::pin(std::future::ready(Err(blocked))),
        }
    }

    /// Writes that the keys were forgotten; on a full disk too.
    pub fn note_sealed(&self, epoch: u64) -> Written {
        send(&self.queue, self.shared.patience, Body::Sealed { epoch }, None, true)
    }

    /// Counts a request of an open route, or one that failed before its key was known. It never waits, and the lines
    /// are bounded by the hour, whatever is sent from outside.
    pub fn anonymous(&self, route: &'static str, reason: Option<Code>, address: Address) {
        let now_ms = (self.shared.clock)();
        lock(&self.shared.counters).count(route, reason, address, now_ms);
    }

    /// The last line that is on the disk, for the head of the store. Cheap. None if the target is no file.
    pub fn position(&self) -> Option<AuditPosition> {
        *lock(&self.shared.position)
    }

    /// The last commit that the log quotes: what the store must have reached.
    pub fn last_quoted(&self) -> Option<Quote> {
        *lock(&self.shared.quoted)
    }

    /// Whether the log was opened although it lacks lines, and the cluster was not unsealed since: then it cannot tell
    /// what the store must have reached. It is remembered over restarts.
    pub fn has_loss(&self) -> bool {
        self.shared.loss.load(Ordering::Acquire)
    }

    /// Whether the log takes lines, for the health answer.
    pub fn healthy(&self) -> Result<(), AuditBlocked> {
        self.shared.healthy()
    }

    /// Resolves with the reason when the log failed for good. The process must stop then.
    pub async fn failed(&self) -> String {
        let mut failed = self.shared.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives in what `self` holds, so it cannot go first.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns when every line that was given before is on the disk.
    pub async fn flush(&self) -> Result<(), AuditBlocked> {
        let (done, wait) = oneshot::channel();
        self.queue.send(Message::Flush(done))?;
        answer(wait, self.shared.patience).await
    }

    /// Opens the file again by its name; if somebody moved it away, the chain goes on in a new one.
    pub async fn reopen(&self) -> Result<(), AuditBlocked> {
        let (done, wait) = oneshot::channel();
        self.queue.send(Message::Reopen(done))?;
        answer(wait, self.shared.patience).await
    }

    /// Writes the last line, syncs and closes. Lines that come later are refused.
    pub async fn flush_and_close(&self) -> Result<(), AuditBlocked> {
        let (done, wait) = oneshot::channel();
        self.queue.send(Message::Close(done))?;
        answer(wait, self.shared.patience).await
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("layout", &self.shared.layout).finish_non_exhaustive()
    }
}

impl Shared {
    fn healthy(&self) -> Result<(), AuditBlocked> {
        if self.troubled.load(Ordering::Acquire) {
            return Err(lock(&self.trouble).clone().unwrap_or(AuditBlocked::Closed));
        }
        let busy_since = self.busy_since.load(Ordering::Acquire);
        if busy_since != 0 && self.elapsed_ms().saturating_sub(busy_since) >= millis(self.patience) {
            return Err(AuditBlocked::Slow);
        }
        Ok(())
    }

    fn elapsed_ms(&self) -> u64 {
        millis(self.epoch.elapsed()).saturating_add(1)
    }

    /// Sets or clears what keeps the log from taking lines.
    fn set_trouble(&self, trouble: Option<AuditBlocked>) {
        let mut place = lock(&self.trouble);
        self.troubled.store(trouble.is_some(), Ordering::Release);
        *place = trouble;
    }

    /// Runs one system call, so that everybody sees how long it takes.
    fn busy<T>(&self, call: impl FnOnce() -> T) -> T {
        self.busy_since.store(self.elapsed_ms(), Ordering::Release);
        let result = call();
        self.busy_since.store(0, Ordering::Release);
        result
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One of the places; it is free again when this is dropped.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places_taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What stands behind an [`Accepted`].
struct Reserved {
    queue: Queue,
    place: Place,
    urgent: bool,
}

impl Slot for Reserved {
    fn write(self: Box<Self>, line: RequestLine) -> Written {
        let Self { queue, place, urgent } = *self;
        let patience = place.0.patience;
        send(&queue, patience, line.into(), Some(place), urgent)
    }
}

fn send(queue: &Queue, patience: Duration, body: Body, place: Option<Place>, urgent: bool) -> Written {
    let (done, wait) = oneshot::channel();
    let gathered = queue.gather(Message::Line { body, urgent, done, _place: place });
    Box::pin(async move {
        // What else is ready to run brings its line first.
        tokio::task::yield_now().await;
        drop(gathered);
        answer(wait, patience).await
    })
}

async fn answer(wait: oneshot::Receiver<Result<(), AuditBlocked>>, patience: Duration) -> Result<(), AuditBlocked> {
    match tokio::time::timeout(patience, wait).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(AuditBlocked::Closed),
        Err(_) => Err(AuditBlocked::Slow),
    }
}

/// Whether lines that were written there can be read again: not from a pipe, a terminal or another device.
pub fn can_be_read_again(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir() || metadata.is_file())
}

/// The file behind standard output, if it can be had.
fn stdout() -> io::Result<std::fs::File> {
    io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from)
}

/// A label from an error of the system.
fn label(error: &io::Error) -> Label {
    Label::lossy(&error.to_string())
}

impl Search<'_> {
    fn of<'a>(layout: &'a Layout, config: &AuditConfig, opening: &Opening) -> Search<'a> {
        Search { layout, head: opening.head, accept_loss: config.danger_accept_loss, now_ms: (opening.clock)() }
    }
}
