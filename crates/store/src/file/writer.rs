//! The one thread that writes: it gathers the commits that wait into one transaction, writes that to the journal, and
//! now and then the journal into the database.

use super::entry::Noted;
use super::journal::{self, Journal, Record};
use super::rows::{Fault, OpenRows};
use super::{Shared, open};
use crate::Committed;
use crate::error::{CommitError, HeadError};
use crate::failpoint;
use crate::transaction::{self, Rows};
use bulla_core::record::{Batch, HeadSource, Sequence, StoreKey, Table};
use redb::{Database, Durability, WriteTransaction};
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread;
use tokio::sync::{mpsc, oneshot};

/// Most batches in one transaction. Larger groups gain little, since the sync is shared already, and make
/// the first in line wait for the last.
const GROUP_COMMITS: usize = 256;

/// A group ends with the batch that reaches this many bytes, so that one sync stays short.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

pub(super) enum Job {
    Commit(Commit),
    Close(oneshot::Sender<()>),
}

/// A batch and who waits for it.
pub(super) struct Commit {
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<Committed, CommitError>>,
}

/// Starts the thread. It ends after [`Job::Close`], or when every handle is gone and the queue is empty.
pub(super) fn spawn(writer: Writer) -> io::Result<()> {
    let watched = Watched { shared: Arc::clone(&writer.shared) };
    thread::Builder::new().name("bulla-store".to_owned()).spawn(move || {
        let watched = watched;
        write_all(writer);
        drop(watched);
    })?;
    Ok(())
}

/// A writer that panics must not leave a process that only seems to live.
struct Watched {
    shared: Arc<Shared>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.fatal("writing", &"the writer panicked");
        }
    }
}

/// What the thread works with.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) journal: Journal,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) failed: bool,
}

impl Writer {
    /// Writes one group and answers it, then brings a full journal into the database.
    pub(super) fn write(&mut self, group: Vec<Commit>) {
        if self.failed {
            refuse(group, "the storage failed before");
        } else if !group.is_empty() {
            let Self { shared, journal, .. } = self;
            self.failed = write_group(shared, journal, group) || take_over(shared, journal);
        }
    }
}

fn write_all(mut writer: Writer) {
    let mut closing = None;
    while closing.is_none() {
        let Some(job) = writer.jobs.blocking_recv() else { break };
        let group;
        (group, closing) = gather(job, &mut writer.jobs);
        writer.write(group);
    }
    let Writer { shared, journal, mut jobs, failed } = writer;
    // The order matters: a commit that comes now finds the queue closed, one that was in it an answer.
    jobs.close();
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Commit(commit) => answer(commit.reply, Err(CommitError::Closed)),
            Job::Close(reply) => drop(reply),
        }
    }
    let database = shared.database.write().unwrap_or_else(PoisonError::into_inner).take();
    shared.frozen.let_go();
    if !failed && let Some(database) = database {
        close(&shared, database, journal);
    }
    if let Some(reply) = closing {
        // Nobody may wait any more.
        let _ = reply.send(());
    }
}

/// Brings a full journal into the database durably, after those who waited have their answers. Returns whether the
/// storage failed.
fn take_over(shared: &Shared, journal: &mut Journal) -> bool {
    if !journal.is_full() {
        return false;
    }
    failpoint::hit(failpoint::CHECKPOINT_BEFORE);
    let database = shared.database();
    let Some(database) = database.as_ref() else { return true };
    !bring_in(shared, database, journal)
}

/// Makes all that the journal holds durable in the database. Returns whether it is.
fn bring_in(shared: &Shared, database: &Database, journal: &mut Journal) -> bool {
    let done = open::begin_durable(database).and_then(|transaction| open::checkpoint(transaction, journal));
    done.map_err(|cause| shared.fatal("bringing the journal into", &cause)).is_ok()
}

/// Closes the file in order: everything stands in the database, and no journal is left beside it.
fn close(shared: &Shared, database: Database, mut journal: Journal) {
    if journal.is_empty() || bring_in(shared, &database, &mut journal) {
        // While the database is still locked, or another process could have begun to write to it. A journal that
        // stays has nothing that the database lacks.
        let _ = journal::remove(&shared.path);
        drop((journal, database));
    }
}

/// Takes what waits already, and waits for nothing.
pub(super) fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>) -> (Vec<Commit>, Option<oneshot::Sender<()>>) {
    failpoint::hit(failpoint::GATHER);
    let mut group = Vec::new();
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(job) = next {
        match job {
            Job::Close(reply) => return (group, Some(reply)),
            Job::Commit(commit) => {
                bytes += commit.batch.bytes();
                group.push(commit);
            }
        }
        let room = group.len() < GROUP_COMMITS && bytes < GROUP_BYTES;
        next = if room { jobs.try_recv().ok() } else { None };
    }
    (group, None)
}

/// A judged batch that waits for the end of its transaction. Conflicts wait too: they may rest on an
/// earlier batch of the group, which nobody may learn of before it is durable.
struct Judged {
    reply: oneshot::Sender<Result<Committed, CommitError>>,
    verdict: Result<Applied, CommitError>,
}

struct Applied {
    bytes: usize,
}

/// How far a transaction came when it failed.
enum GroupError {
    /// Nothing is written.
    Before(Fault),
    /// Perhaps everything is written.
    During(String),
    /// The head source gave a row that cannot be; nothing is written, and the storage is well.
    Head(HeadError),
}

/// Writes one group and answers it. Returns whether the storage failed.
fn write_group(shared: &Shared, journal: &mut Journal, group: Vec<Commit>) -> bool {
    let mut judged = Vec::with_capacity(group.len());
    let source = shared.head.read().unwrap_or_else(PoisonError::into_inner).clone();
    let database = shared.database();
    let Some(database) = database.as_ref() else {
        refuse(group, "the file is closed");
        return true;
    };
    let mut waiting = group.into_iter();
    let error = match transact(shared, (database, journal), source.as_deref(), &mut waiting, &mut judged) {
        Ok(sequence) => {
            acknowledge(shared, judged, sequence);
            return false;
        }
        Err(error) => error,
    };
    let detail = match &error {
        GroupError::Before(cause) => shared.fatal("writing", cause),
        GroupError::During(cause) => shared.fatal("committing to the journal and", cause),
        GroupError::Head(cause) => cause.to_string(),
    };
    let replies = judged.into_iter().map(|judged| judged.reply);
    for reply in replies.chain(waiting.map(|commit| commit.reply)) {
        let detail = detail.clone();
        answer(
            reply,
            Err(match &error {
                GroupError::Before(_) => CommitError::Io { detail },
                GroupError::During(_) => CommitError::Unknown { detail },
                GroupError::Head(cause) => CommitError::Head(*cause),
            }),
        );
    }
    !matches!(error, GroupError::Head(_))
}

/// Judges and applies the batches one after another in one transaction, adds the head row, and commits: first to the
/// journal, durably, and only then for readers, or one of them could see what a crash takes back. Returns the sequence
/// number of the store afterwards.
fn transact(
    shared: &Shared,
    (database, journal): (&Database, &mut Journal),
    source: Option<&dyn HeadSource>,
    waiting: &mut impl Iterator<Item = Commit>,
    judged: &mut Vec<Judged>,
) -> Result<Sequence, GroupError> {
    let before = |cause: redb::Error| GroupError::Before(Fault::Storage(cause));
    let mut transaction = database.begin_write().map_err(|cause| before(cause.into()))?;
    transaction.set_durability(Durability::None).map_err(|cause| before(cause.into()))?;
    let mut written = Written { writes: false, sequence: None };
    let applied = apply_group(&transaction, source, waiting, judged, &mut written);
    let record = match applied {
        Ok(record) if written.writes => record,
        other => {
            let aborted = transaction.abort().map_err(|cause| before(cause.into()));
            return other.and(aborted).map(|()| written.sequence.unwrap_or_default());
        }
    };
    journal.append(record).map_err(|cause| GroupError::During(cause.to_string()))?;
    failpoint::hit(failpoint::COMMIT_BEFORE);
    transaction.commit().map_err(|cause| GroupError::During(cause.to_string()))?;
    failpoint::hit(failpoint::COMMIT_AFTER);
    shared.counters.transacted();
    Ok(written.sequence.unwrap_or_default())
}

/// What a transaction has become.
struct Written {
    writes: bool,
    sequence: Option<Sequence>,
}

fn apply_group(
    transaction: &WriteTransaction,
    source: Option<&dyn HeadSource>,
    waiting: &mut impl Iterator<Item = Commit>,
    judged: &mut Vec<Judged>,
    written: &mut Written,
) -> Result<Record, GroupError> {
    let rows = OpenRows::new(transaction).map_err(GroupError::Before)?;
    let mut rows = Noted { rows, record: Record::new() };
    written.sequence = rows.rows.sequence().map_err(GroupError::Before)?;
    for Commit { batch, reply } in waiting {
        match judge(&mut rows, batch, source.is_some(), written) {
            Ok(verdict) => judged.push(Judged { reply, verdict }),
            Err(cause) => {
                judged.push(Judged { reply, verdict: Err(CommitError::Closed) });
                return Err(GroupError::Before(cause));
            }
        }
    }
    failpoint::hit(failpoint::JUDGED);
    if let Some(source) = source.filter(|_| written.writes) {
        let (sequence, row) = transaction::next_head(source, written.sequence).map_err(GroupError::Head)?;
        rows.put(Table::Plain, StoreKey::head(), row).map_err(GroupError::Before)?;
        written.sequence = Some(sequence);
    }
    let Noted { rows, record } = rows;
    rows.finish().map_err(GroupError::Before)?;
    Ok(record)
}

/// Judges one batch against the open transaction, and applies it if everything holds.
fn judge(
    rows: &mut Noted<'_>,
    batch: Batch,
    has_source: bool,
    written: &mut Written,
) -> Result<Result<Applied, CommitError>, Fault> {
    if let Some(precondition) = transaction::failing(rows, &batch)? {
        return Ok(Err(CommitError::Conflict { precondition }));
    }
    match transaction::own_head(&batch, has_source, written.sequence) {
        Ok(own) => written.sequence = own.or(written.sequence),
        Err(cause) => return Ok(Err(CommitError::Head(cause))),
    }
    let bytes = batch.bytes();
    written.writes |= !batch.is_read_only();
    transaction::apply(rows, batch)?;
    Ok(Ok(Applied { bytes }))
}

fn acknowledge(shared: &Shared, judged: Vec<Judged>, sequence: Sequence) {
    for Judged { reply, verdict } in judged {
        match &verdict {
            Ok(Applied { bytes }) => shared.counters.committed(*bytes),
            Err(CommitError::Conflict { .. }) => shared.counters.conflicted(),
            Err(_) => {}
        }
        answer(reply, verdict.map(|_| Committed { sequence }));
    }
}

fn refuse(group: Vec<Commit>, detail: &str) {
    for commit in group {
        answer(commit.reply, Err(CommitError::Io { detail: detail.to_owned() }));
    }
}

fn answer(reply: oneshot::Sender<Result<Committed, CommitError>>, verdict: Result<Committed, CommitError>) {
    // The caller may be gone; the commit stands all the same.
    let _ = reply.send(verdict);
}
