//! From a decided request to its one line: [`Event`] or [`Refusal`], [`Accepted`], [`Logged`] or [`Owed`].

use super::about::{Demanded, WrapTo};
use super::line::{Body, Quote};
use super::text::{Address, Label, Names, ResourceText};
use crate::action::{Action, Resource, text_serde};
use crate::policy::{Authorized, Denied, Subject};
use bulla_crypto::BoxFuture;
use bulla_wire::encoding::{base32, base32_decode};
use bulla_wire::error::Code;
use bulla_wire::id::{Digest, KeyId, Lineage, PrincipalId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Most reasons of a decision in one line. Cedar names each policy that determined it; the first ones tell enough,
/// and a line stays short.
pub const REASONS_MAX: usize = 8;
/// Most receipts in one line: one for each recipient of a wrap.
pub const RECEIPTS_MAX: usize = 16;

/// Names one request in audit, log and error: 16 random bytes, written as 26 characters of base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// Takes 16 random bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}
impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// Why a text is no request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseRequestIdError;

impl fmt::Display for ParseRequestIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 26 characters of lower-case base32")
    }
}
impl std::error::Error for ParseRequestIdError {}

impl FromStr for RequestId {
    type Err = ParseRequestIdError;
    fn from_str(text: &str) -> Result<Self, ParseRequestIdError> {
        base32_decode(text).and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(ParseRequestIdError)
    }
}
text_serde!(RequestId);

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `GET`
    Get,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `POST`
    Post,
    /// `DELETE`
    Delete,
    /// One that no route has.
    Other,
}

impl Method {
    /// Takes the method of a request line.
    pub fn new(text: &str) -> Self {
        match text {
            "GET" => Self::Get,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "POST" => Self::Post,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// What is known about a request as soon as its key is, whatever it asks for. No field can hold the value of a
/// secret.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The request.
    pub id: RequestId,
    /// When it arrived, Unix milliseconds.
    pub received_ms: u64,
    /// The node that answers.
    pub node: KeyId,
    /// Epoch of the seal; 0 before init.
    pub epoch: u64,
    /// History of the store; none while sealed.
    pub lineage: Option<Lineage>,
    /// The key that signed.
    pub key: KeyId,
    /// The key proved itself by the certificate of the connection, and the request is not signed.
    pub mtls: bool,
    /// Where it came from.
    pub address: Address,
    /// Its method.
    pub method: Method,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The HTTP status.
    pub status: u16,
    /// The code of the error, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The commit, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Quote>,
    /// Digests of the receipts' payloads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<Digest>,
    /// The line was lost after the commit and written again at the next start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
}

impl Outcome {
    /// An answer without error, without commit.
    pub fn done(status: u16) -> Self {
        Self { status, code: None, committed: None, receipts: Vec::new(), recovered: false }
    }

    /// A refusal or a failure.
    pub fn failed(code: Code) -> Self {
        Self { code: Some(code), ..Self::done(code.status()) }
    }

    /// Quotes the commit that made it happen.
    #[must_use]
    pub fn committed(self, commit: Quote) -> Self {
        Self { committed: Some(commit), ..self }
    }

    /// Adds digests of receipts, at most [`RECEIPTS_MAX`] in all.
    #[must_use]
    pub fn with_receipts(mut self, digests: impl IntoIterator<Item = Digest>) -> Self {
        self.receipts.extend(digests);
        self.receipts.truncate(RECEIPTS_MAX);
        self
    }
}

/// The line of one request, without its place in the chain. The deduplication row keeps it for recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// The request. It stands first, so that a reader finds it without parsing the rest.
    pub id: RequestId,
    /// When it arrived, Unix milliseconds.
    pub received_ms: u64,
    /// The node that answered.
    pub node: KeyId,
    /// Epoch of the seal.
    pub epoch: u64,
    /// History of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// Whose key signed.
    pub principal: PrincipalId,
    /// The principal's name, in clear or hashed.
    pub name: Label,
    /// The key that signed.
    pub key: KeyId,
    /// The key proved itself by the certificate of the connection, and the request is not signed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mtls: bool,
    /// Where it came from.
    pub address: Address,
    /// Its method.
    pub method: Method,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Label>,
    /// On what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceText>,
    /// Which of many things, where the resource does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demanded: Option<Box<Demanded>>,
    /// To whom the answer went, or would have gone, in place of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrap_to: Option<Box<WrapTo>>,
    /// What was decided; none if it failed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<bool>,
    /// The policies that determined it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Label>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl RequestLine {
    /// Bytes for the deduplication row.
    pub fn to_bytes(&self) -> Vec<u8> {
        bulla_wire::json::to_vec(self)
    }

    /// Reads [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, bulla_wire::json::JsonError> {
        bulla_wire::json::parse(bytes, super::LINE_BYTES_MAX)
    }

    /// The same line, marked as written again after a crash.
    #[must_use]
    pub fn recovered(mut self) -> Self {
        self.outcome.recovered = true;
        self
    }
}

impl From<RequestLine> for Body {
    fn from(line: RequestLine) -> Self {
        Self::Request(Box::new(line))
    }
}

/// Why the log takes no line now. The request gets 503 `audit_blocked`, or `unknown` if it was committed already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditBlocked {
    /// As many requests wait for their outcome as the log has places.
    Full,
    /// The log did not take a line within its time.
    Slow,
    /// The disk takes nothing.
    Disk(String),
    /// The log failed for good; the process stops.
    Failed(String),
    /// The log is closed.
    Closed,
}

impl fmt::Display for AuditBlocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the audit log has no place for one more request in flight"),
            Self::Slow => f.write_str("the audit log did not take a line in time"),
            Self::Disk(reason) => write!(f, "the audit log cannot be written: {reason}"),
            Self::Failed(reason) => write!(f, "the audit log failed for good: {reason}"),
            Self::Closed => f.write_str("the audit log is closed"),
        }
    }
}
impl std::error::Error for AuditBlocked {}

/// Resolves when the line is where the configuration wants it before an answer: with the system, or on disk.
/// Dropping it does not drop the line.
pub type Written = BoxFuture<'static, Result<(), AuditBlocked>>;

/// A place that a sink keeps for one line.
pub trait Slot: Send + Sync {
    /// Gives the line to the sink. Called once, at the latest when the request is dropped.
    fn write(self: Box<Self>, line: RequestLine) -> Written;
}

/// Proof that a healthy sink keeps a place for one line: the point at which a request fails closed.
pub struct Accepted(Box<dyn Slot>);

impl Accepted {
    /// Vouches that the slot belongs to a healthy sink. Call it only in `bulla_server::sink`; tidy counts the
    /// call sites.
    pub fn assertion(slot: Box<dyn Slot>) -> Self {
        Self(slot)
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accepted(..)")
    }
}

/// An authorised request that no sink has accepted yet. Nothing can be done with the operation inside.
#[derive(Debug)]
pub struct Event<Op> {
    authorized: Authorized<Op>,
    line: RequestLine,
}

impl<Op> Event<Op> {
    /// Describes an authorised request.
    pub fn new(facts: Facts, names: &Names, authorized: Authorized<Op>) -> Self {
        let (action, resource) = (Some(authorized.action()), Some(authorized.resource()));
        let decided = (true, authorized.because());
        let line = request_line(facts, names, authorized.subject(), action, resource, Some(decided));
        Self { authorized, line }
    }

    /// Tells besides which of many things it is about.
    #[must_use]
    pub fn demanding(mut self, demanded: Option<Demanded>) -> Self {
        self.line.demanded = demanded.map(Box::new);
        self
    }

    /// Tells besides that the answer is somebody else's.
    #[must_use]
    pub fn wrapping(mut self, wrap_to: Option<WrapTo>) -> Self {
        self.line.wrap_to = wrap_to.map(Box::new);
        self
    }

    /// The request.
    pub fn id(&self) -> RequestId {
        self.line.id
    }

    /// Binds the request to its place in a sink. The only way to a [`Logged`].
    pub fn accepted(self, Accepted(slot): Accepted) -> Logged<Op> {
        let Self { authorized, line } = self;
        Logged { authorized, owed: Owed { line, slot: Some(slot) } }
    }
}

/// A request that ends with its line: denied by policy, or failed after its key was known.
#[derive(Debug)]
pub struct Refusal(RequestLine);

impl Refusal {
    /// Policy said no.
    pub fn denied(facts: Facts, names: &Names, denied: &Denied) -> Self {
        let Denied { subject, action, resource, decision } = denied;
        let decided = (false, decision.because.as_slice());
        let mut line = request_line(facts, names, subject, Some(*action), Some(resource), Some(decided));
        // The text of an evaluation error may name things that are to be hashed; the log of the server has it.
        if !decision.errors.is_empty() && line.reasons.len() < REASONS_MAX {
            line.reasons.push(Label::lossy("evaluation error"));
        }
        Self(line)
    }

    /// It failed before it was decided. There is no action if no route fits.
    pub fn undecided(
        facts: Facts,
        names: &Names,
        caller: &Subject,
        action: Option<Action>,
        resource: Option<&Resource>,
    ) -> Self {
        Self(request_line(facts, names, caller, action, resource, None))
    }

    /// Tells besides which of many things it is about.
    #[must_use]
    pub fn demanding(mut self, demanded: Option<Demanded>) -> Self {
        self.0.demanded = demanded.map(Box::new);
        self
    }

    /// Tells besides that the answer would have been somebody else's.
    #[must_use]
    pub fn wrapping(mut self, wrap_to: Option<WrapTo>) -> Self {
        self.0.wrap_to = wrap_to.map(Box::new);
        self
    }

    /// The request.
    pub fn id(&self) -> RequestId {
        self.0.id
    }

    /// Binds the refusal to its place in a sink.
    pub fn accepted(self, Accepted(slot): Accepted) -> Owed {
        Owed { line: self.0, slot: Some(slot) }
    }
}

fn request_line(
    facts: Facts,
    names: &Names,
    caller: &Subject,
    action: Option<Action>,
    resource: Option<&Resource>,
    decided: Option<(bool, &[String])>,
) -> RequestLine {
    let Facts { id, received_ms, node, epoch, lineage, key, mtls, address, method } = facts;
    let because = decided.map(|(_, because)| because).unwrap_or_default();
    RequestLine {
        id,
        received_ms,
        node,
        epoch,
        lineage,
        principal: caller.id,
        name: names.principal(caller.name.as_str()),
        key,
        mtls,
        address,
        method,
        action: action.map(|action| Label::lossy(action.as_str())),
        resource: resource.map(|resource| names.resource(resource)),
        demanded: None,
        wrap_to: None,
        allowed: decided.map(|(allowed, _)| allowed),
        reasons: because.iter().take(REASONS_MAX).map(|reason| Label::lossy(reason)).collect(),
        outcome: Outcome::failed(Code::Unknown),
    }
}

/// An authorised request whose one line is certain: the sink keeps a place for it, and it is written with the
/// outcome, or with `unknown` if the request is dropped before it has one. Operations are carried out from here only.
#[derive(Debug)]
#[must_use = "dropping a logged request writes an unknown outcome"]
pub struct Logged<Op> {
    authorized: Authorized<Op>,
    owed: Owed,
}

impl<Op> Logged<Op> {
    /// What is to be done.
    pub fn op(&self) -> &Op {
        self.authorized.op()
    }

    /// The request.
    pub fn id(&self) -> RequestId {
        self.owed.line.id
    }

    /// The line as it would be written with `outcome`: what the deduplication row keeps for recovery.
    pub fn line(&self, outcome: &Outcome) -> RequestLine {
        RequestLine { outcome: outcome.clone(), ..self.owed.line.clone() }
    }

    /// Writes the line.
    pub fn finish(self, outcome: Outcome) -> Written {
        self.owed.finish(outcome)
    }
}

/// A line that has its place and waits for the outcome.
#[must_use = "dropping it writes an unknown outcome"]
pub struct Owed {
    line: RequestLine,
    slot: Option<Box<dyn Slot>>,
}

impl Owed {
    /// Writes the line.
    pub fn finish(mut self, outcome: Outcome) -> Written {
        self.settle(outcome)
    }

    fn settle(&mut self, mut outcome: Outcome) -> Written {
        outcome.receipts.truncate(RECEIPTS_MAX);
        match self.slot.take() {
            Some(slot) => slot.write(RequestLine { outcome, ..self.line.clone() }),
            None => Box::pin(std::future::ready(Err(AuditBlocked::Closed))),
        }
    }
}

impl fmt::Debug for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owed({})", self.line.id)
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if self.slot.is_some() {
            drop(self.settle(Outcome::failed(Code::Unknown)));
        }
    }
}
