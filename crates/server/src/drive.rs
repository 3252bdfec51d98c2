//! Drives one operation: read, decide, seal, commit; again on a conflict.
//!
//! Everything that must happen exactly once happens in the one commit here: the effect, its audit line for
//! recovery, and the nonce that a retry is recognised by.

use crate::clock::{Clock, Steady};
use crate::failpoint;
use crate::fair::{PATIENCE, Turn};
use crate::listen::{BodyBudget, Held};
use crate::unsealed::Unsealed;
use bulla_core::audit::RequestId;
use bulla_core::barrier::{Barrier, BarrierError, Query, Records, SEEN_KIND, Writes};
use bulla_core::directory::Directory;
use bulla_core::engine::chunk::Upload;
use bulla_core::operation::{
    Context, Fault, MAX_ATTEMPTS, MAX_ROUNDS, Now, Operation, Outcome, Refusal, Replay, Reply, Step, step,
};
use bulla_core::record::{Answer, Batch, Precondition, Read, Sequence, StoreKey, Table};
use bulla_core::seen::{self, Seen};
use bulla_crypto::digest::Sha256;
use bulla_crypto::random::SystemRng;
use bulla_crypto::sign::SigningKey;
use bulla_store::{CommitError, Store, StoreError};
use bulla_wire::error::Code;
use bulla_wire::evidence::Actor;
use bulla_wire::id::Digest;
use serde_json::value::RawValue;
use std::fmt;
use tokio::time::Instant;

/// Answers up to so many bytes take no room of their own: of those of a principal there are
/// [`REQUESTS_EACH`](crate::gate::shares::REQUESTS_EACH), and a challenge is smaller, so that nobody keeps a stranger from
/// signing.
pub const ROOMLESS_BYTES: usize = 4 * 1024;
/// Most that the head of an age file to the readers of one answer takes.
const HEAD_BYTES: usize = 8 * 1024;
/// A scan for so many records is not counted as a page: it takes no more than their single reads would.
const FEW: usize = 2;

/// What every operation needs of the node.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// The store.
    pub store: &'a Store,
    /// The clocks.
    pub clock: &'a dyn Clock,
    /// What time it would be had the wall clock not stepped.
    pub steady: &'a Steady,
    /// Signs receipts.
    pub node: &'a SigningKey,
    /// Memory for large answers.
    pub bodies: &'a BodyBudget,
    /// Whether alarms go to a webhook too.
    pub webhook: bool,
}

impl Machine<'_> {
    /// The memory that an answer will take; for what is sealed to its readers the text, and the age file with its head in a
    /// buffer that may have room for twice as much.
    fn room(&self, result: &Result<Reply, Refusal>) -> Result<Option<Held>, DriveError> {
        let bytes = match result {
            Ok(Reply::Claim { content, .. }) => content.len().saturating_mul(3),
            Ok(Reply::Secret(text)) => text.expose().len().saturating_mul(3).saturating_add(HEAD_BYTES),
            Ok(Reply::Json(text)) if text.len() > ROOMLESS_BYTES => text.len(),
            _ => return Ok(None),
        };
        self.bodies.hold(bytes).map(Some).map_err(|_| DriveError::Overloaded)
    }

    /// What can be said without a commit.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn said(&self, result: Result<Reply, Refusal>) -> Result<Driven, DriveError> {
        let room = self.room(&result)?;
        Ok(Driven { room, ..Driven::said(result) })
    }
}

/// Writes the audit line of an outcome: its code, if it is a refusal, and the digests of its receipts.
pub type LineOf<'a> = dyn Fn(Option<Code>, &[Digest]) -> Box<RawValue> + Send + Sync + 'a;

/// What makes a request's effect happen once.
pub struct Once<'a> {
    /// The request.
    pub id: RequestId,
    /// The nonce's minute.
    pub minute: u32,
    /// Under which the nonce is remembered.
    pub key: Digest,
    /// Digest of the request.
    pub request: Digest,
    /// The audit line for an outcome with this code, if it is a refusal, and these receipts, in case it is lost
    /// after the commit.
    pub line: &'a LineOf<'a>,
}

impl fmt::Debug for Once<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Once({})", self.key)
    }
}

impl Once<'_> {
    /// Adds the nonce's row to the commit of an outcome.
    ///
    /// # Errors
    /// If the row cannot be sealed.
    pub fn remember(&self, batch: &mut Batch, barrier: &Barrier, outcome: &Outcome) -> Result<(), BarrierError> {
        let reply = match (&outcome.result, outcome.replay) {
            (Ok(Reply::Json(bytes)), Replay::Kept) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        };
        let code = outcome.result.as_ref().err().map(|refusal| refusal.code);
        let (request, refused) = (self.request, outcome.replay == Replay::Noted);
        let row = Seen { request, reply, refused, line: (self.line)(code, &outcome.receipts) };
        let (table, key) = (Table::Seen(self.minute), seen_key(&self.key)?);
        let (revision, bytes) = (seen::revision(&self.id), bulla_wire::json::to_vec(&row));
        let value = barrier.seal_at(revision, table, &key, SEEN_KIND, &bytes, &mut SystemRng)?;
        batch.require(table, key.clone(), Precondition::Absent);
        batch.put(table, key, value);
        Ok(())
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Driven {
    /// What to say.
    pub result: Result<Reply, Refusal>,
    /// The snapshot that it was decided on.
    pub read: Option<Sequence>,
    /// The commit, if there was one.
    pub committed: Option<Sequence>,
    /// Digests of the receipts that were made.
    pub receipts: Vec<Digest>,
    /// The nonce was used before: nothing happened now.
    pub repeated: bool,
    /// The share of memory that a large answer takes.
    pub room: Option<Held>,
}

impl Driven {
    /// What can be said without a look at the store, in few bytes.
    pub fn said(result: Result<Reply, Refusal>) -> Self {
        Self { result, read: None, committed: None, receipts: vec![], repeated: false, room: None }
    }
}

/// Why nothing can be said.
#[derive(Debug)]
pub enum DriveError {
    /// Others were faster, every time. Nothing was done.
    Busy,
    /// Too many wait for a turn at what few may do at once. Nothing was done.
    Crowded,
    /// The nonce was used for another request.
    NonceReused,
    /// The nonce's minute ended while the request waited. Nothing was done.
    NonceExpired,
    /// There is no memory for the answer now. Nothing was done.
    Overloaded,
    /// The store did not say whether it committed.
    Unknown(String),
    /// The keys were forgotten, or exchanged, while the request was under way. Nothing was done.
    Closed,
    /// The store does not answer. Nothing was done.
    Store(String),
    /// A record was altered in the store.
    Barrier(BarrierError),
    /// A fault of ours.
    Fault(Fault),
}

impl fmt::Display for DriveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("too many conflicting commits"),
            Self::Crowded => f.write_str("too many wait for a turn"),
            Self::NonceReused => f.write_str("the nonce was used for another request"),
            Self::NonceExpired => f.write_str("the nonce's minute ended while the request waited"),
            Self::Overloaded => f.write_str("there is no memory for the answer"),
            Self::Unknown(detail) => write!(f, "the outcome of the commit is unknown: {detail}"),
            Self::Closed => f.write_str("the keys are being forgotten"),
            Self::Store(detail) => write!(f, "the store failed: {detail}"),
            Self::Barrier(e) => write!(f, "{e}"),
            Self::Fault(e) => write!(f, "{e}"),
        }
    }
}
impl std::error::Error for DriveError {}

impl From<BarrierError> for DriveError {
    fn from(error: BarrierError) -> Self {
        Self::Barrier(error)
    }
}
impl From<Fault> for DriveError {
    fn from(error: Fault) -> Self {
        Self::Fault(error)
    }
}
impl From<StoreError> for DriveError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// What one attempt has read.
struct Attempt<'a> {
    records: Records,
    read: Option<Sequence>,
    seen: Option<Seen>,
    /// Among the records is a page.
    page: Option<Turn<'a>>,
}

/// Whether a query asks for more than single records.
fn is_page(query: &Query) -> bool {
    matches!(query, Query::Scan { limit, .. } if *limit > FEW)
}

impl Unsealed {
    /// Carries an operation out. The caller holds its `Logged` proof; operations of time have none.
    ///
    /// # Errors
    /// See [`DriveError`].
    pub async fn drive(
        &self,
        machine: Machine<'_>,
        operation: &(dyn Operation + Sync),
        actor: Option<&Actor>,
        once: Option<&Once<'_>>,
    ) -> Result<Driven, DriveError> {
        let (mut turn, until) = (None, Instant::now() + PATIENCE);
        for _ in 0..MAX_ATTEMPTS {
            if self.is_closed() {
                return Err(DriveError::Closed);
            }
            let (outcome, attempt) = match self.decide(machine, operation, actor, once, until).await? {
                Decision::Repeated(driven) => return Ok(driven),
                Decision::Fresh(outcome, attempt) if attempt.seen.is_some() => (outcome.without_effect(), attempt),
                Decision::Fresh(outcome, attempt) => (*outcome, attempt),
            };
            if !outcome.alarms.is_empty() && turn.is_none() {
                // Alarms are numbered in each party's list. Decided side by side they would conflict until some of
                // them give up, so they are decided one after another.
                drop((outcome, attempt));
                turn = Some(self.alarming.lock().await);
                continue;
            }
            let once = once.filter(|_| attempt.seen.is_none());
            // Before the commit: a delivery that nobody receives would be counted all the same.
            let room = machine.room(&outcome.result)?;
            match self.commit(machine, &outcome, once).await {
                Ok(committed) => return self.conclude(outcome, &attempt, committed, room),
                Err(CommitError::Conflict { .. }) => self.metrics().commit_conflicted(),
                Err(CommitError::Unknown { detail }) => return Err(DriveError::Unknown(detail)),
                Err(CommitError::Closed) if self.is_closed() => return Err(DriveError::Closed),
                Err(error) => return Err(DriveError::Store(error.to_string())),
            }
        }
        Err(DriveError::Busy)
    }

    /// Reads and decides, and writes nothing yet.
    async fn decide(
        &self,
        machine: Machine<'_>,
        operation: &(dyn Operation + Sync),
        actor: Option<&Actor>,
        once: Option<&Once<'_>>,
        until: Instant,
    ) -> Result<Decision<'_>, DriveError> {
        let directory = self.directory();
        let mut context = self.context(machine, &directory, actor);
        let mut attempt = Attempt { records: Records::default(), read: None, seen: None, page: None };
        let mut unread = once;
        let mut rng = SystemRng;
        for _ in 0..=MAX_ROUNDS {
            // What takes long takes turns, so that no flood of it keeps the processors from everything else.
            let turn = match actor.filter(|_| operation.may_take_long()) {
                Some(actor) => Some(self.long.turn(actor.principal, until).await.ok_or(DriveError::Crowded)?),
                None => None,
            };
            let decided = aside(operation, || step(operation, &attempt.records, &context, &mut rng))?;
            drop(turn);
            let queries = match decided {
                Step::Need(queries) => queries,
                Step::Done(outcome) if unread.is_none() => return Ok(Decision::Fresh(outcome, attempt)),
                // The nonce was not looked up yet: once it is, the same step decides again.
                Step::Done(_) => vec![],
            };
            // So do pages: nobody has counted their memory before the answer is made.
            if let Some(actor) = actor.filter(|_| attempt.page.is_none() && queries.iter().any(is_page)) {
                attempt.page = Some(self.pages.turn(actor.principal, until).await.ok_or(DriveError::Crowded)?);
            }
            let mut reads = self.keys.barrier.reads(&queries)?;
            let nonce = unread.take();
            if let Some(once) = nonce {
                reads.push(Read::Get(Table::Seen(once.minute), seen_key(&once.key)?));
            }
            let mut snapshot = machine.store.read(reads).await?;
            if let Some(once) = nonce
                && let Some(Answer::Value(Some(row))) = snapshot.answers.pop()
            {
                let key = seen_key(&once.key)?;
                let bytes = self.keys.barrier.open(Table::Seen(once.minute), &key, SEEN_KIND, &row)?;
                let seen: Seen = bulla_core::operation::parse_record("seen", &bytes)?;
                if seen.request != once.request {
                    return Err(DriveError::NonceReused);
                }
                if let Some(reply) = seen.reply {
                    let said = machine.said(Ok(Reply::Json(reply.into_bytes())))?;
                    return Ok(Decision::Repeated(Driven { read: snapshot.sequence, repeated: true, ..said }));
                }
                // The row says that the effect is committed, so this time there is none.
                context.repeated = Some(if seen.refused { Replay::Noted } else { Replay::Again });
                attempt.seen = Some(seen);
            }
            // The bucket may have gone since the window was looked at. The floor rises before a bucket goes, so
            // a floor that still lets the minute pass says that the row would have been found.
            if nonce.is_some_and(|once| once.minute < self.keys.head.floor()) {
                return Err(DriveError::NonceExpired);
            }
            let (sequence, records) = self.keys.barrier.records(&queries, snapshot)?;
            attempt.read = attempt.read.or(sequence);
            attempt.records.extend(records);
        }
        Err(DriveError::Fault(Fault::Record { kind: "operation", reason: "it reads in too many rounds".into() }))
    }

    async fn commit(
        &self,
        machine: Machine<'_>,
        outcome: &Outcome,
        once: Option<&Once<'_>>,
    ) -> Result<Option<Sequence>, CommitError> {
        let mut rng = SystemRng;
        // What was accepted and changed nothing has had its effect too: played again later, it must not undo what others
        // have done since.
        let noted = outcome.result.is_ok() || outcome.replay == Replay::Noted;
        // A read answers nothing either once the keys are to be forgotten.
        if self.is_closed() {
            return Err(CommitError::Closed);
        }
        if outcome.writes.is_empty() && !(noted && once.is_some()) {
            return Ok(None);
        }
        let mut batch = self.keys.barrier.batch(&outcome.writes, &mut rng).map_err(as_commit)?;
        if let Some(once) = once {
            once.remember(&mut batch, &self.keys.barrier, outcome).map_err(as_commit)?;
        }
        if self.is_closed() {
            return Err(CommitError::Closed);
        }
        failpoint::hit(failpoint::DRIVE_BEFORE_COMMIT);
        let committed = machine.store.commit(batch).await?;
        failpoint::hit(failpoint::DRIVE_AFTER_COMMIT);
        Ok(Some(committed.sequence))
    }

    /// What follows a commit: the directory changes, alarms are told.
    fn conclude(
        &self,
        outcome: Outcome,
        attempt: &Attempt<'_>,
        committed: Option<Sequence>,
        room: Option<Held>,
    ) -> Result<Driven, DriveError> {
        if let Some(change) = outcome.change {
            self.change(change)?;
            failpoint::hit(failpoint::DRIVE_AFTER_CHANGE);
        }
        self.tell(&outcome.alarms);
        if let Some(sequence) = committed {
            self.metrics().committed(sequence.0);
        }
        Ok(Driven {
            result: outcome.result,
            read: attempt.read,
            committed,
            receipts: outcome.receipts,
            repeated: attempt.seen.is_some(),
            room,
        })
    }

    /// Reads and opens records for what no operation decides.
    ///
    /// # Errors
    /// If the store does not answer, or a record was altered.
    pub async fn read(&self, store: &Store, queries: &[Query]) -> Result<Records, DriveError> {
        let snapshot = store.read(self.keys.barrier.reads(queries)?).await?;
        Ok(self.keys.barrier.records(queries, snapshot)?.1)
    }

    /// Commits writes that no operation decided: an upload's pieces.
    ///
    /// # Errors
    /// See [`DriveError`].
    pub async fn write(&self, machine: Machine<'_>, writes: &Writes) -> Result<Sequence, DriveError> {
        if self.is_closed() {
            return Err(DriveError::Closed);
        }
        let batch = self.keys.barrier.batch(writes, &mut SystemRng)?;
        match machine.store.commit(batch).await {
            Ok(committed) => Ok(committed.sequence),
            Err(CommitError::Conflict { .. }) => Err(DriveError::Busy),
            Err(CommitError::Unknown { detail }) => Err(DriveError::Unknown(detail)),
            Err(error) => Err(DriveError::Store(error.to_string())),
        }
    }

    /// Reads a large value, which must have the length and digest that its record tells: each piece is authentic by
    /// itself, and this says that they are all and in their order. `None` if its pieces went away meanwhile.
    ///
    /// # Errors
    /// See [`DriveError`].
    pub async fn fetch(&self, machine: Machine<'_>, upload: &Upload) -> Result<Option<Vec<u8>>, DriveError> {
        // So many chunks at a time, that a read stays below the store's page of 4 MiB.
        const CHUNKS_A_READ: u32 = 8;
        let mut bytes = Vec::with_capacity(usize::try_from(upload.len).unwrap_or_default());
        let mut hash = Sha256::new();
        let mut from = 0;
        while from < upload.chunks() {
            let queries = upload.queries(from, CHUNKS_A_READ);
            let records = self.read(machine.store, &queries).await?;
            for index in from..from.saturating_add(CHUNKS_A_READ).min(upload.chunks()) {
                match records.get(&upload.chunk(index)).flatten() {
                    Some(record) => {
                        hash.update(record.bytes.expose());
                        bytes.extend_from_slice(record.bytes.expose());
                    }
                    None => return Ok(None),
                }
            }
            from = from.saturating_add(CHUNKS_A_READ);
        }
        if bytes.len() as u64 != upload.len || hash.finish() != *upload.sha256.as_bytes() {
            return Err(Fault::Record { kind: "upload", reason: "its pieces are not what was stored".into() }.into());
        }
        Ok(Some(bytes))
    }

    /// What an operation may know now, which nobody has asked for before.
    pub fn context<'a>(&self, machine: Machine<'a>, directory: &'a Directory, actor: Option<&'a Actor>) -> Context<'a> {
        Context {
            now: self.now(machine),
            cluster: self.keys.cluster,
            epoch: self.keys.epoch,
            lineage: self.keys.lineage,
            doc: directory.view().newest().number(),
            node: machine.node,
            directory,
            actor,
            repeated: None,
            webhook: machine.webhook,
            losses: u32::try_from(self.keys.history.consents.len()).unwrap_or(u32::MAX),
        }
    }

    /// What time it is for the cluster.
    pub fn now(&self, machine: Machine<'_>) -> Now {
        let unix_ms = machine.clock.unix_ms();
        let steady_ms = machine.steady.unix_ms(unix_ms, machine.clock);
        Now { unix_ms, steady_ms, active_ms: self.keys.head.active_ms(machine.clock) }
    }
}

/// Computes what may take long where it holds nobody up: the other tasks of this thread go to another one. Tests that have
/// one thread alone wait.
fn aside<T>(operation: &(dyn Operation + Sync), compute: impl FnOnce() -> T) -> T {
    let many = tokio::runtime::Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if many && operation.may_take_long() { tokio::task::block_in_place(compute) } else { compute() }
}

enum Decision<'a> {
    Repeated(Driven),
    Fresh(Box<Outcome>, Attempt<'a>),
}

/// The key of a nonce's row.
pub fn seen_key(key: &Digest) -> Result<StoreKey, BarrierError> {
    Ok(StoreKey::new(key.as_bytes().as_slice())?)
}

fn as_commit(error: BarrierError) -> CommitError {
    match error {
        BarrierError::Limit(error) => CommitError::Refused(error),
        error => CommitError::Io { detail: error.to_string() },
    }
}
