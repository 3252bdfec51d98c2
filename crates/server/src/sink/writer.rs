//! The thread that chains, writes and syncs the lines.

mod next;

use super::anonymous::Counters;
use super::disk::{Disk, Reserve, is_full};
use super::files::{Found, Layout, Search, length_of, lock_out, open_output};
use super::{AuditConfig, Clock, OpenError, Opening, Place, Shared, SyncMode, label, lock, stdout};
use crate::failpoint;
use bulla_core::audit::{AuditBlocked, AuditPosition, Body, Chain, Label, Quote};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Most lines in one write. With the largest lines it is 2 MiB; with usual ones a disk takes it at once.
const BATCH_LINES: usize = 256;
/// How often it is looked whether anonymous counts are due, and a full disk is tried again.
const TICK: Duration = Duration::from_secs(1);

pub(super) type Answer = oneshot::Sender<Result<(), AuditBlocked>>;

/// What the thread is asked.
pub(super) enum Message {
    /// Write a line.
    Line {
        body: Body,
        /// The reserve may be spent on it.
        urgent: bool,
        done: Answer,
        /// Free again when the line is written.
        _place: Option<Place>,
    },
    /// Answer when everything before is on the disk.
    Flush(Answer),
    /// Open the file again by its name.
    Reopen(Answer),
    /// Write the last line and end.
    Close(Answer),
}

/// A line that is to be written. Without `done` nobody waits, or whoever waited was told that it failed.
struct Waiting {
    body: Body,
    urgent: bool,
    done: Option<Answer>,
    _place: Option<Place>,
}

impl Waiting {
    fn answer(&mut self, result: Result<(), AuditBlocked>) {
        if let Some(done) = self.done.take() {
            // Nobody may wait any more; the line is written all the same.
            drop(done.send(result));
        }
    }
}

/// Writes the lines of a log; see [`super::Sink::without_thread`].
pub struct Writer {
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Message>,
    disk: Box<dyn Disk>,
    clock: Clock,
    layout: Option<Layout>,
    /// Keeps other processes out of the directory.
    lock: Option<File>,
    file: File,
    /// Can be read back, cut and synced; a pipe cannot.
    regular: bool,
    number: u32,
    length: u64,
    chain: Chain,
    quoted: Option<Quote>,
    loss: bool,
    /// Written and not yet synced.
    dirty: bool,
    waiting: VecDeque<Waiting>,
    reserve: Reserve,
    /// Since when, in Unix milliseconds, and why the disk takes nothing.
    blocked: Option<(u64, Label)>,
    failed: bool,
    sync: SyncMode,
    next_sync: Instant,
    next_tick: Instant,
    max_size_bytes: u64,
}

impl Writer {
    /// Finds the end of the log and writes the first lines.
    pub(super) fn open(
        config: &AuditConfig,
        opening: Opening,
        shared: Arc<Shared>,
        messages: mpsc::Receiver<Message>,
    ) -> Result<Self, OpenError> {
        let layout = shared.layout.clone();
        let nothing = Found { number: 1, chain: Chain::default(), quoted: None, loss: false, notes: Vec::new() };
        let (lock, found, file, regular, path) = match &layout {
            Some(layout) => {
                let path = layout.path(1);
                let lock = lock_out(layout)?;
                let special = fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file());
                let found = if special { nothing } else { Search::of(layout, config, &opening).run()? };
                let path = layout.path(found.number);
                let (file, regular) = open_output(layout, found.number).map_err(OpenError::io("open", &path))?;
                (lock, found, file, regular, path)
            }
            None => {
                let path = PathBuf::from("-");
                let file = stdout().map_err(OpenError::io("open", &path))?;
                (None, nothing, file, false, path)
            }
        };
        let length = if regular { file.metadata().map_err(OpenError::io("read", &path))?.len() } else { 0 };
        let reserve = match &layout {
            Some(Layout::Directory(directory)) => Some(directory.join("reserve")),
            _ => None,
        };
        let now = Instant::now();
        let mut writer = Self {
            shared,
            messages,
            disk: opening.disk,
            clock: opening.clock,
            layout,
            lock,
            file,
            regular,
            number: found.number,
            length,
            chain: found.chain,
            quoted: found.quoted,
            loss: found.loss,
            dirty: false,
            waiting: VecDeque::new(),
            reserve: Reserve::new(reserve),
            blocked: None,
            failed: false,
            sync: config.sync,
            next_sync: now,
            next_tick: now + TICK,
            max_size_bytes: config.max_size_bytes,
        };
        for body in found.notes {
            writer.push(body);
        }
        let version = Label::lossy(&opening.version);
        let (node, cluster, quoted, loss) = (opening.node, opening.cluster, writer.quoted, writer.loss);
        writer.push(Body::Start { node, version, cluster, quoted, loss });
        writer.reserve.keep().map_err(OpenError::io("keep a reserve beside", &path))?;
        writer.flush();
        writer.sync();
        match writer.shared.healthy() {
            Ok(()) => Ok(writer),
            Err(blocked) => Err(OpenError::Blocked(blocked)),
        }
    }

    /// Runs until the log is closed, or nobody can write to it any more.
    pub(super) fn run(mut self) {
        loop {
            let wake = if self.dirty { self.next_sync.min(self.next_tick) } else { self.next_tick };
            let message = self.messages.recv_timeout(wake.saturating_duration_since(Instant::now()));
            match message {
                Ok(message) => {
                    if self.take(message).is_break() {
                        return;
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    self.flush();
                    self.sync();
                    return;
                }
            }
            self.flush();
            self.tick();
        }
    }

    /// Does what waits, without waiting for more. Whether anything did.
    pub fn turn(&mut self) -> bool {
        let Ok(message) = self.messages.try_recv() else { return false };
        if self.take(message).is_continue() {
            self.flush();
            self.tick();
        }
        true
    }

    /// Takes this message and those behind it, up to one that asks for more than a line.
    fn take(&mut self, first: Message) -> std::ops::ControlFlow<()> {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line { body, urgent, done, _place } => {
                    self.waiting.push_back(Waiting { body, urgent, done: Some(done), _place });
                    if self.waiting.len() >= BATCH_LINES {
                        break;
                    }
                    next = self.messages.try_recv().ok();
                    continue;
                }
                Message::Flush(done) => {
                    self.flush();
                    self.sync();
                    drop(done.send(self.settled()));
                }
                Message::Reopen(done) => {
                    self.flush();
                    self.reopen();
                    drop(done.send(self.settled()));
                }
                Message::Close(done) => {
                    self.close();
                    let settled = self.settled();
                    if !self.failed {
                        self.shared.set_trouble(Some(AuditBlocked::Closed));
                    }
                    drop(self.lock.take()); // Whoever hears that it is closed may open it again.
                    drop(done.send(settled));
                    return std::ops::ControlFlow::Break(());
                }
            }
            break;
        }
        std::ops::ControlFlow::Continue(())
    }

    fn close(&mut self) {
        self.push_counts(Counters::all);
        self.push(Body::Stop {});
        self.flush();
        self.sync();
        self.reserve.spend(); // Room beside a log that nobody writes helps nobody.
    }

    fn settled(&self) -> Result<(), AuditBlocked> {
        self.shared.healthy()?;
        if self.waiting.is_empty() { Ok(()) } else { Err(AuditBlocked::Slow) }
    }

    fn push(&mut self, body: Body) {
        self.waiting.push_back(Waiting { body, urgent: false, done: None, _place: None });
    }

    fn push_counts(&mut self, take: impl FnOnce(&mut Counters) -> Vec<Body>) {
        // On a full disk the counts grow in memory, where they are bounded, instead of as lines.
        if self.blocked.is_none() && !self.failed {
            let counts = take(&mut lock(&self.shared.counters));
            counts.into_iter().for_each(|body| self.push(body));
        }
    }

    /// What is due by time.
    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.unblock();
            self.push_counts(|counters| counters.due(now));
            self.flush();
        }
        if let (true, SyncMode::Interval(interval)) = (self.dirty && now >= self.next_sync, self.sync) {
            self.sync();
            self.next_sync = Instant::now() + interval;
        }
    }

    /// Writes everything that waits, as far as the disk takes it.
    fn flush(&mut self) {
        while !self.waiting.is_empty() && !self.failed && self.blocked.is_none() {
            let now_ms = (self.clock)();
            self.keep_order(now_ms);
            if self.failed || self.blocked.is_some() {
                break;
            }
            let batch = self.waiting.drain(..self.waiting.len().min(BATCH_LINES)).collect();
            self.write(batch, now_ms);
            if self.length >= self.max_size_bytes {
                self.rotate();
            }
        }
        if self.blocked.is_some() {
            self.flush_urgent();
        }
        if self.failed {
            let reason = self.shared.healthy().err().unwrap_or(AuditBlocked::Closed);
            self.waiting.drain(..).for_each(|mut waiting| waiting.answer(Err(reason.clone())));
        } else if let Some((_, reason)) = &self.blocked {
            let reason = AuditBlocked::Disk(reason.to_string());
            self.waiting.iter_mut().for_each(|waiting| waiting.answer(Err(reason.clone())));
        }
    }

    /// On a full disk: lines about the sealing are written in front of all that wait, at the cost of the reserve.
    fn flush_urgent(&mut self) {
        if !self.waiting.iter().any(|waiting| waiting.urgent) {
            return;
        }
        self.reserve.spend();
        let now_ms = (self.clock)();
        self.keep_order(now_ms);
        if self.failed {
            return;
        }
        let (urgent, rest): (VecDeque<Waiting>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.urgent);
        self.waiting = rest;
        let mut batch = self.first_line();
        batch.extend(urgent);
        self.write(batch, now_ms);
    }

    /// Writes one batch as the next lines of the chain, or puts it back in front.
    fn write(&mut self, mut batch: VecDeque<Waiting>, now_ms: u64) {
        let (mut chain, mut quoted, mut loss, mut bytes) = (self.chain, self.quoted, self.loss, Vec::new());
        for waiting in &batch {
            chain.append(now_ms, &waiting.body, &mut bytes);
            quoted = Quote::after(quoted, &waiting.body);
            loss = waiting.body.tells_loss().unwrap_or(loss);
        }
        let shared = self.shared.clone();
        failpoint::hit(failpoint::AUDIT_BEFORE_WRITE);
        match shared.busy(|| self.append(&bytes)) {
            Ok(()) => {
                failpoint::hit(failpoint::AUDIT_AFTER_WRITE);
                self.chain = chain;
                (self.quoted, self.loss) = (quoted, loss);
                *lock(&self.shared.quoted) = quoted;
                self.shared.loss.store(loss, Ordering::Release);
                self.length = self.length.saturating_add(length_of(&bytes));
                if !self.dirty {
                    self.dirty = true;
                    if let SyncMode::Interval(interval) = self.sync {
                        self.next_sync = Instant::now() + interval;
                    }
                }
                if self.sync == SyncMode::Each || batch.iter().any(|waiting| waiting.urgent) {
                    self.sync();
                }
                let result = if self.failed { self.shared.healthy() } else { Ok(()) };
                batch.iter_mut().for_each(|waiting| waiting.answer(result.clone()));
            }
            Err(error) => {
                batch.append(&mut self.waiting);
                self.waiting = batch;
                self.trouble(&error, now_ms);
            }
        }
    }

    /// All of `bytes`, or none.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let error = match self.disk.write(&mut self.file, rest) {
                Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if rest.len() < bytes.len() {
                // Half a line must not stay in front of the next one. Elsewhere than in a file it cannot be taken
                // back, and nothing may follow it.
                if !self.regular {
                    return Err(io::Error::other(format!("{error}, within a line")));
                }
                let taken_back = self.file.set_len(self.length);
                taken_back.map_err(|cause| io::Error::other(format!("{error}, within a line: {cause}")))?;
            }
            return Err(error);
        }
        Ok(())
    }

    fn trouble(&mut self, error: &io::Error, now_ms: u64) {
        if !is_full(error) {
            return self.fail(format!("write: {error}"));
        }
        if self.blocked.is_none() {
            tracing::error!(%error, "the audit log takes no lines; nothing is answered");
            self.blocked = Some((now_ms, label(error)));
            self.shared.set_trouble(Some(AuditBlocked::Disk(error.to_string())));
        }
    }

    /// Tries a full disk again.
    fn unblock(&mut self) {
        let Some((from_ms, reason)) = self.blocked.clone() else { return };
        match self.reserve.keep() {
            Ok(()) => {}
            Err(error) if is_full(&error) => return,
            Err(error) => return self.fail(format!("reserve: {error}")),
        }
        let now_ms = (self.clock)();
        self.keep_order(now_ms);
        if self.failed || self.is_late(now_ms) {
            return;
        }
        let refused = self.shared.refused.load(Ordering::Relaxed);
        let body = Body::Blocked { from_ms, reason, refused };
        let mut batch = self.first_line();
        let (place, waiting) = (batch.len(), self.waiting.len());
        batch.push_back(Waiting { body, urgent: false, done: None, _place: None });
        self.write(batch, now_ms);
        if self.failed {
            return;
        }
        if self.waiting.len() > waiting {
            // It was put back in front. It is made anew at the next try, with the count of that time.
            self.waiting.remove(place);
            return;
        }
        self.blocked = None;
        self.shared.refused.fetch_sub(refused, Ordering::Relaxed);
        self.shared.set_trouble(None);
        tracing::info!("the audit log takes lines again");
    }

    /// Nothing is written from here on.
    fn fail(&mut self, reason: String) {
        tracing::error!(reason, "the audit log failed for good");
        self.failed = true;
        self.shared.set_trouble(Some(AuditBlocked::Failed(reason.clone())));
        self.shared.failed.send_replace(Some(reason));
    }

    /// Makes everything written durable, and shows where it ends.
    fn sync(&mut self) {
        if !self.dirty || self.failed {
            return;
        }
        if self.regular {
            let shared = self.shared.clone();
            if let Err(error) = shared.busy(|| self.disk.sync(&self.file)) {
                return self.fail(format!("sync: {error}"));
            }
            failpoint::hit(failpoint::AUDIT_AFTER_SYNC);
            let position = self.chain.hash.map(|hash| AuditPosition {
                file: self.number,
                offset: self.length,
                n: self.chain.n,
                hash,
            });
            *lock(&self.shared.position) = position;
        }
        self.dirty = false;
    }
}

/// Whatever ended the thread, nobody may believe that lines are still taken.
impl Drop for Writer {
    fn drop(&mut self) {
        if !self.failed {
            self.shared.set_trouble(Some(AuditBlocked::Closed));
        }
    }
}
