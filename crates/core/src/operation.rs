//! The shape of every operation: a value that reads in rounds and then decides.
//!
//! The server drives it: it reads what [`Operation::step`] asks for, calls it again with more, at most
//! [`MAX_ROUNDS`] times, seals and commits the outcome's writes with their preconditions, and on a
//! conflict starts over with fresh records, at most [`MAX_ATTEMPTS`] times. So a step must depend on
//! nothing but its arguments, and an outcome must be safe to throw away.

use crate::barrier::{Query, RecordKey, Records, Writes};
use crate::directory::{Change, Directory};
use crate::engine::alarm;
use bulla_crypto::random::Rng;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::sign::SigningKey;
use bulla_wire::api::Alarm;
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::Actor;
use bulla_wire::id::{ClusterId, Digest, Lineage, PrincipalId};
use serde::Serialize;
use std::fmt;

/// Rounds of reading before a decision. The longest road (a wrap's head, slot, receipts, content) takes three; the lists
/// of those who are told of an alarm are one more.
pub const MAX_ROUNDS: usize = 4;
/// Attempts at a commit that others get ahead of, before the answer is `busy`.
pub const MAX_ATTEMPTS: usize = 8;

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix milliseconds, by the wall clock.
    pub unix_ms: u64,
    /// Unix milliseconds as they would be had the wall clock not stepped; the same while it runs evenly. Which of
    /// the two is right only a person can say.
    pub steady_ms: u64,
    /// Milliseconds that the cluster has been unsealed in its whole life.
    pub active_ms: u64,
}

impl Now {
    /// The earliest time that it may be.
    pub fn earliest_ms(&self) -> u64 {
        self.unix_ms.min(self.steady_ms)
    }
    /// The latest time that it may be.
    pub fn latest_ms(&self) -> u64 {
        self.unix_ms.max(self.steady_ms)
    }
}

/// What an operation may know besides its own records.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What time it is.
    pub now: Now,
    /// The cluster.
    pub cluster: ClusterId,
    /// Epoch of the seal.
    pub epoch: u64,
    /// History of the store.
    pub lineage: Lineage,
    /// Number of the newest document.
    pub doc: u32,
    /// The node's key, for receipts.
    pub node: &'a SigningKey,
    /// Principals, policies and documents as they are now.
    pub directory: &'a Directory,
    /// Who asks; none where time does.
    pub actor: Option<&'a Actor>,
    /// The same request was answered before, under the same nonce, in this way: nothing is written now, so an operation
    /// whose answer would tell of a new write tells of the old one.
    pub repeated: Option<Replay>,
    /// Whether alarms go to a webhook too.
    pub webhook: bool,
    /// How often the admins have accepted that the store lost commits.
    pub losses: u32,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({}, epoch {}, {:?})", self.cluster, self.epoch, self.actor)
    }
}

/// Something that can be asked for.
pub trait Operation {
    /// Decides, or says what must be read first.
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault>;

    /// Whether a step may compute for milliseconds, so that others should not wait behind it.
    fn may_take_long(&self) -> bool {
        false
    }
}

/// One step of an operation, as whoever drives it takes it: with its alarms put into the lists of those who are told.
pub fn step(
    operation: &dyn Operation,
    records: &Records,
    context: &Context<'_>,
    rng: &mut dyn Rng,
) -> Result<Step, Fault> {
    match operation.step(records, context, rng)? {
        Step::Done(outcome) => alarm::enlist(outcome, records, context),
        need => Ok(need),
    }
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// Read these and call again.
    Need(Vec<Query>),
    /// Decided.
    Done(Box<Outcome>),
}

impl Step {
    /// Asks for single records.
    pub fn need(keys: impl IntoIterator<Item = RecordKey>) -> Self {
        Self::Need(keys.into_iter().map(Query::Get).collect())
    }
}

/// A decision: what to write, and what to say once it is written.
#[derive(Debug)]
pub struct Outcome {
    /// What to write; nothing for a read.
    pub writes: Writes,
    /// What to say. A refusal may have writes: a second claim leaves a receipt.
    pub result: Result<Reply, Refusal>,
    /// How a repeated request finds the outcome again.
    pub replay: Replay,
    /// Digests of receipts that this made, for the audit line.
    pub receipts: Vec<Digest>,
    /// Alarms that this raised, with those who are told. [`step`] puts their records among the writes.
    pub alarms: Vec<Raised>,
    /// What changes in the directory once it is written.
    pub change: Option<Change>,
}

impl Outcome {
    /// An answer that wrote nothing.
    pub fn read(reply: Reply) -> Step {
        Self::done(Writes::default(), Ok(reply), Replay::Again)
    }
    /// A refusal that wrote nothing.
    pub fn refuse(refusal: Refusal) -> Step {
        Self::done(Writes::default(), Err(refusal), Replay::Again)
    }
    /// A refusal that wrote nothing, and must look as if it had: see [`Replay::Noted`].
    pub fn refuse_noted(refusal: Refusal) -> Step {
        Self::done(Writes::default(), Err(refusal), Replay::Noted)
    }
    /// An answer after writing.
    pub fn wrote(writes: Writes, reply: Reply, replay: Replay) -> Step {
        Self::done(writes, Ok(reply), replay)
    }
    /// An answer or a refusal, after writing.
    pub(crate) fn done(writes: Writes, result: Result<Reply, Refusal>, replay: Replay) -> Step {
        Step::Done(Box::new(Self { writes, result, replay, receipts: vec![], alarms: vec![], change: None }))
    }
    /// What is left of it when the request is a repeat: the answer alone.
    #[must_use]
    pub fn without_effect(self) -> Self {
        let (writes, receipts, alarms) = (Writes::default(), vec![], vec![]);
        Self { writes, receipts, alarms, change: None, ..self }
    }
}

/// How a request with a used nonce and the same digest is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// The operation is run again without effect: it finds what it did in the state.
    Again,
    /// It is refused again as if there were no such thing, whatever is there by now. The nonce is committed though nothing
    /// else may be: neither the store's sequence nor the time of a commit tells the caller whether there was something to
    /// write.
    Noted,
    /// The reply is kept beside the nonce, as the state cannot tell it again. JSON replies only.
    Kept,
}

/// What to say.
pub enum Reply {
    /// A JSON document, status 200.
    Json(Vec<u8>),
    /// A JSON document that only the reader may see.
    Secret(SecretBytes),
    /// A parcel for a claim: encrypted to it, and to nobody else.
    Claim {
        /// The claim's recipient.
        claim: Recipient,
        /// The opened or redelivered receipt.
        receipt: Envelope,
        /// The wrap's ciphertext.
        content: Content,
    },
    /// A page of a snapshot: sealed rows.
    Snapshot(Vec<u8>),
}

impl Reply {
    /// A JSON reply.
    pub fn json<T: Serialize>(value: &T) -> Self {
        Self::Json(bulla_wire::json::to_vec(value))
    }
    /// A secret JSON reply.
    pub fn secret<T: Serialize>(value: &T) -> Self {
        Self::Secret(SecretBytes::new(bulla_wire::json::to_vec(value)))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(bytes) => write!(f, "Json({} bytes)", bytes.len()),
            Self::Secret(bytes) => write!(f, "Secret({} bytes)", bytes.expose().len()),
            Self::Snapshot(bytes) => write!(f, "Snapshot({} bytes)", bytes.len()),
            Self::Claim { receipt, content, .. } => {
                write!(f, "Claim({} bytes of receipt, {content:?})", receipt.payload.len())
            }
        }
    }
}

/// Bytes that may be large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In one record.
    Inline(Vec<u8>),
    /// In chunks of [`crate::engine::chunk::CHUNK_BYTES`], written before.
    Chunked(crate::engine::chunk::Upload),
}

impl Content {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Chunked(upload) => usize::try_from(upload.len).unwrap_or(usize::MAX),
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A refusal, in public words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// What was wrong.
    pub message: String,
    /// The offending field.
    pub field: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Proof of what happened before.
    pub receipt: Option<Box<Envelope>>,
}

impl Refusal {
    /// A refusal with a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, hint: None, receipt: None }
    }
    /// Names the offending field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// Adds proof.
    #[must_use]
    pub fn receipt(mut self, receipt: Envelope) -> Self {
        self.receipt = Some(Box::new(receipt));
        self
    }
}

/// An alarm and those who are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// The alarm, still without an id: that is its place in each list.
    pub alarm: Alarm,
    /// Who is told.
    pub told: Vec<PrincipalId>,
}

/// A fault that is nobody's input: the log gets the reason, the caller only an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A record opened, so we wrote it, yet it does not parse.
    Record {
        /// What it should have been.
        kind: &'static str,
        /// Why not.
        reason: String,
    },
    /// A key of ours does not work.
    Key(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { kind, reason } => write!(f, "a {kind} record does not parse: {reason}"),
            Self::Key(which) => write!(f, "the {which} does not work"),
        }
    }
}
impl std::error::Error for Fault {}

/// Parses a record of ours. It may hold somebody's secrets, so what is wrong is told by its place alone.
pub fn parse_record<T: serde::de::DeserializeOwned>(kind: &'static str, bytes: &SecretBytes) -> Result<T, Fault> {
    // What we sealed is as long as we let it be.
    let parsed = bulla_wire::json::parse_secret(bytes.expose(), usize::MAX, &[]);
    parsed.map_err(|error| Fault::Record { kind, reason: error.reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::barrier::Kind;
    use crate::engine::chunk::Upload;
    use crate::engine::wrap::slot::Slot;

    #[test]
    fn a_record_has_one_spelling_and_an_error_tells_nothing_of_it() {
        let digest = Digest::new([3; 32]);
        let by = PrincipalId::new([4; 32]);
        let opening = format!(r#"{{"by":"{by}","claim_sha256":"{digest}","lapse_active_ms":1,"deliveries":1}}"#);
        let slot = |state: &str| {
            let text = format!(r#"{{"state":{state},"receipts":1,"last":"{digest}","ended":null,"refused":0}}"#);
            parse_record::<Slot>("slot", &SecretBytes::new(text.into_bytes())).map_err(|fault| fault.to_string())
        };
        let told = [
            "\"sealed\"".to_owned(),
            format!(r#"{{"opened":{opening}}}"#),
            r#"{"revoked":null}"#.to_owned(),
            format!(r#"{{"nacked":{{"opening":{opening},"kept":true}}}}"#),
        ];
        for state in &told {
            let read = slot(state).unwrap_or_else(|error| panic!("{state}: {error}"));
            assert_eq!(String::from_utf8(bulla_wire::json::to_vec(&read.state)).as_ref(), Ok(state));
        }
        // What `serde_json` alone takes besides.
        for state in [r#"{"sealed":null}"#.to_owned(), format!(r#"{{"opened":["{by}","{digest}",1,1]}}"#)] {
            let error = slot(&state).unwrap_err();
            assert!(
                error.starts_with("a slot record does not parse: not what is expected there, at line 1"),
                "{error}"
            );
            assert!(!error.contains(&by.to_string()), "{error}");
        }
    }

    /// Whoever asks again gets the answer, and nothing happens a second time.
    #[test]
    fn of_a_repeat_the_answer_alone_is_left() {
        let mut writes = Writes::default();
        writes.create(RecordKey::hidden(Kind::Kv, "", "a"), vec![1]);
        let Step::Done(mut outcome) = Outcome::wrote(writes, Reply::json(&7), Replay::Kept) else {
            panic!("it is decided")
        };
        let (id, kind, message) = (String::new(), bulla_wire::api::AlarmKind::Rekeyed, String::new());
        let alarm = Alarm { id, kind, at_ms: 1, wrap: None, actor: None, receipt: None, message };
        outcome.receipts.push(Digest::new([1; 32]));
        outcome.alarms.push(Raised { alarm, told: vec![] });
        outcome.change = Some(Change::Policy("team".parse().unwrap(), None));
        let Outcome { writes, result, replay, receipts, alarms, change } = outcome.without_effect();
        let Writes { expect, puts, deletes, plain } = writes;
        assert!(expect.is_empty() && puts.is_empty() && deletes.is_empty() && plain.is_empty());
        assert!(receipts.is_empty() && alarms.is_empty() && change.is_none());
        assert!(matches!(result, Ok(Reply::Json(bytes)) if bytes == b"7"));
        assert_eq!(replay, Replay::Kept);
    }

    /// The server keeps room by it before a parcel is read.
    #[test]
    fn content_in_pieces_is_as_long_as_it_says() {
        let (owner, sha256) = (PrincipalId::new([4; 32]), Digest::new([3; 32]));
        let pieces = |len: u64| Content::Chunked(Upload::new([1; 16], owner, len, sha256, 0));
        let inline = |len: usize| Content::Inline(vec![7; len]);
        for (content, len) in [(inline(0), 0), (inline(3), 3), (pieces(0), 0), (pieces(1 << 20), 1 << 20)] {
            assert_eq!((content.len(), content.is_empty()), (len, len == 0));
        }
    }
}
