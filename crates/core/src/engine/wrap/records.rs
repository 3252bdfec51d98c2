//! The records of a wrap, and the reads and writes that every operation on one shares.
//!
//! | key | content |
//! | --- | --- |
//! | `head` | statement and created receipt; written once |
//! | `ct` | the age file or where its pieces are; written once, deleted once, never rewritten |
//! | `slot/<i>` | state and end of the chain of receipts |
//! | `live` | how many slots still need the age file; gone with it |
//! | `strangers` | how often no party tried to open it, or to make another under its id |
//!
//! Receipts, the lists of the parties and the entries of what is due have kinds of their own.

use super::slot::Slot;
use crate::barrier::{Kind, Record, RecordKey, Records, Writes};
use crate::engine::alarm::{self, About};
use crate::engine::chunk::Upload;
use crate::engine::due::{self, What};
use crate::operation::{Content, Context, Fault, Now, Outcome, Raised, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::evidence::{payload_digest, sign_in_memory};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{AlarmKind, WrapReceipts};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::Actor;
use bulla_wire::id::{Digest, PrincipalId, WrapId};
use bulla_wire::json::{MAX_STATEMENT_BYTES, V1};
use bulla_wire::wrap::{Mode, Receipt, ReceiptKind, Statement};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How long tombstones and receipts stay after the wrap's end, in milliseconds: 90 days.
pub const TOMBSTONE_MS: u64 = 90 * 24 * 3600 * 1000;

/// Alarms about strangers of one wrap at most: each is written once for every party.
pub const MAX_STRANGERS: u8 = 16;

pub(super) fn head_key(wrap: &WrapId) -> RecordKey {
    RecordKey::hidden(Kind::Wrap, wrap.as_bytes(), "head")
}
pub(super) fn content_key(wrap: &WrapId) -> RecordKey {
    RecordKey::hidden(Kind::Wrap, wrap.as_bytes(), "ct")
}
pub(super) fn live_key(wrap: &WrapId) -> RecordKey {
    RecordKey::hidden(Kind::Wrap, wrap.as_bytes(), "live")
}
pub(super) fn strangers_key(wrap: &WrapId) -> RecordKey {
    RecordKey::hidden(Kind::Wrap, wrap.as_bytes(), "strangers")
}
pub(super) fn slot_key(wrap: &WrapId, index: u16) -> RecordKey {
    RecordKey::hidden(Kind::Wrap, wrap.as_bytes(), format!("slot/{index}"))
}
pub(super) fn receipt_key(wrap: &WrapId, index: u16, number: u32) -> RecordKey {
    let child = [&index.to_be_bytes()[..], &number.to_be_bytes()].concat();
    RecordKey::clear(Kind::Receipt, wrap.as_bytes(), child)
}
pub(super) fn mine_key(principal: &PrincipalId, created_ms: u64, wrap: &WrapId) -> RecordKey {
    let child = [&created_ms.to_be_bytes()[..], wrap.as_bytes()].concat();
    RecordKey::clear(Kind::Mine, principal.as_bytes(), child)
}
pub(super) fn expiry_key(wrap: &WrapId, exp_ms: u64) -> RecordKey {
    due::key(Kind::Due, exp_ms, What::WrapExpiry, wrap.as_bytes())
}
pub(super) fn tombstone_key(wrap: &WrapId, at_ms: u64) -> RecordKey {
    due::key(Kind::Due, at_ms, What::Tombstone, wrap.as_bytes())
}
pub(super) fn lapse_key(wrap: &WrapId, index: u16, active_ms: u64) -> RecordKey {
    let id = [&wrap.as_bytes()[..], &index.to_be_bytes()].concat();
    due::key(Kind::DueActive, active_ms, What::SlotLapse, &id)
}

/// What is stored of a wrap's head.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredHead {
    statement: Envelope,
    created: Envelope,
    created_ms: u64,
}

/// A wrap's head: what never changes.
pub(super) struct Head {
    /// The writer's statement as it came.
    pub envelope: Envelope,
    /// Its digest.
    pub digest: Digest,
    /// What it says.
    pub statement: Statement,
    /// The receipt of its creation.
    pub created: Envelope,
    /// When it was made.
    pub created_ms: u64,
}

impl Head {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Self { envelope, digest: _, statement: _, created, created_ms } = self;
        let (statement, created, created_ms) = (envelope.clone(), created.clone(), *created_ms);
        bulla_wire::json::to_vec(&StoredHead { statement, created, created_ms })
    }

    /// Reads a head. Its statement was verified when it was stored.
    pub(super) fn parse(record: &Record) -> Result<Self, Fault> {
        let StoredHead { statement: envelope, created, created_ms } = parse_record("wrap head", &record.bytes)?;
        let statement = bulla_wire::json::parse(&envelope.payload, MAX_STATEMENT_BYTES)
            .map_err(|e| Fault::Record { kind: "wrap head", reason: e.to_string() })?;
        Ok(Self { digest: payload_digest(&envelope), envelope, statement, created, created_ms })
    }

    /// Number of its slots.
    pub(super) fn slots(&self) -> u16 {
        match self.statement.mode {
            Mode::First => 1,
            Mode::Each => u16::try_from(self.statement.to.len()).unwrap_or(u16::MAX),
        }
    }

    /// The slot that this principal may open.
    pub(super) fn slot_of(&self, principal: &PrincipalId) -> Option<u16> {
        let place = self.statement.to.iter().position(|addressee| addressee.principal == *principal)?;
        match self.statement.mode {
            Mode::First => Some(0),
            Mode::Each => u16::try_from(place).ok(),
        }
    }

    /// For whom a slot is; nobody in particular with mode `first`.
    pub(super) fn owner(&self, index: u16) -> Option<PrincipalId> {
        match self.statement.mode {
            Mode::First => None,
            Mode::Each => self.statement.to.get(usize::from(index)).map(|addressee| addressee.principal),
        }
    }

    pub(super) fn is_writer(&self, principal: &PrincipalId) -> bool {
        self.statement.from == *principal
    }

    pub(super) fn is_party(&self, principal: &PrincipalId) -> bool {
        self.is_writer(principal) || self.slot_of(principal).is_some()
    }

    /// The writer and all recipients, each once.
    pub(super) fn parties(&self) -> BTreeSet<PrincipalId> {
        let to = self.statement.to.iter().map(|addressee| addressee.principal);
        to.chain([self.statement.from]).collect()
    }

    /// Refuses a slip that names another statement under the same id.
    pub(super) fn check_slip(&self, statement_sha256: &Digest) -> Result<(), Refusal> {
        if self.digest == *statement_sha256 {
            return Ok(());
        }
        let refusal = Refusal::new(Code::BadStatement, "the slip names another statement than the stored one");
        Err(refusal
            .field("statement_sha256")
            .hint("ask the writer for the slip again; do not trust this wrap until it fits"))
    }
}

/// The answer to strangers, and about wraps that never were: nothing in it depends on which it is.
pub(super) fn unknown(wrap: &WrapId) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no wrap {wrap}, or you are no party to it"))
        .hint("`bulla wrap list` shows yours; if you hold a slip for it, tell its writer")
}

/// How many slots still need the ciphertext, and where its pieces are, so that the commit that makes the
/// last one final can delete them without reading the ciphertext.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Live {
    slots: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<Upload>,
}

pub(super) fn new_live(slots: u16, content: &Content) -> Vec<u8> {
    let upload = match content {
        Content::Inline(_) => None,
        Content::Chunked(upload) => Some(upload.clone()),
    };
    bulla_wire::json::to_vec(&Live { slots, upload })
}

/// In front of the ciphertext itself.
const INLINE_TAG: u8 = 0;
/// In front of the JSON that says where its pieces are.
const CHUNKED_TAG: u8 = 1;

pub(super) fn content_to_bytes(content: &Content) -> Vec<u8> {
    match content {
        Content::Inline(bytes) => [&[INLINE_TAG][..], bytes].concat(),
        Content::Chunked(upload) => [&[CHUNKED_TAG][..], &bulla_wire::json::to_vec(upload)].concat(),
    }
}

pub(super) fn parse_content(record: &Record) -> Result<Content, Fault> {
    match record.bytes.expose().split_first() {
        Some((&INLINE_TAG, bytes)) => Ok(Content::Inline(bytes.to_vec())),
        Some((&CHUNKED_TAG, json)) => Ok(Content::Chunked(Upload::parse(&SecretBytes::new(json.to_vec()))?)),
        _ => Err(fault("wrap content", "it has neither tag")),
    }
}

pub(super) fn fault(kind: &'static str, reason: &str) -> Fault {
    Fault::Record { kind, reason: reason.to_owned() }
}

/// A slot as it was read, and its place.
pub(super) struct SlotAt<'a> {
    pub index: u16,
    pub slot: Slot,
    pub record: &'a Record,
}

/// What has been read so far: missing keys are gathered into one further round.
pub(super) struct Reader<'a> {
    records: &'a Records,
    missing: Vec<RecordKey>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(records: &'a Records) -> Self {
        Self { records, missing: Vec::new() }
    }

    /// The record, or nothing; asks for it if it was not read yet.
    pub(super) fn get(&mut self, key: RecordKey) -> Option<&'a Record> {
        match self.records.get(&key) {
            Some(found) => found,
            None => {
                self.missing.push(key);
                None
            }
        }
    }

    /// The step that reads what is missing, if anything is.
    pub(super) fn need(&mut self) -> Option<Step> {
        (!self.missing.is_empty()).then(|| Step::need(std::mem::take(&mut self.missing)))
    }

    pub(super) fn slot(&mut self, wrap: &WrapId, index: u16) -> Result<Option<SlotAt<'a>>, Fault> {
        let Some(record) = self.get(slot_key(wrap, index)) else { return Ok(None) };
        Ok(Some(SlotAt { index, slot: parse_record("wrap slot", &record.bytes)?, record }))
    }

    /// All slots of a wrap that were read; each is there as long as the head is.
    pub(super) fn slots(&mut self, head: &Head) -> Result<Vec<SlotAt<'a>>, Fault> {
        let mut slots = Vec::with_capacity(usize::from(head.slots()));
        for index in 0..head.slots() {
            slots.extend(self.slot(&head.statement.wrap, index)?);
        }
        Ok(slots)
    }

    pub(super) fn receipt(&mut self, wrap: &WrapId, index: u16, number: u32) -> Result<Option<Envelope>, Fault> {
        let record = self.get(receipt_key(wrap, index, number));
        record.map(|record| parse_record("receipt", &record.bytes)).transpose()
    }
}

/// Gathers what one operation writes: changed slots with their receipts, alarms, and the end of the ciphertext.
pub(super) struct Commit<'a> {
    context: &'a Context<'a>,
    wrap: WrapId,
    statement_sha256: Digest,
    pub writes: Writes,
    receipts: Vec<Digest>,
    alarms: Vec<Raised>,
    ended: u16,
}

impl<'a> Commit<'a> {
    pub(super) fn new(context: &'a Context<'a>, wrap: WrapId, statement_sha256: Digest) -> Self {
        let (writes, receipts, alarms) = (Writes::default(), vec![], vec![]);
        Self { context, wrap, statement_sha256, writes, receipts, alarms, ended: 0 }
    }

    pub(super) fn about(context: &'a Context<'a>, head: &Head) -> Self {
        Self::new(context, head.statement.wrap, head.digest)
    }

    /// What time it is.
    pub(super) fn now(&self) -> Now {
        self.context.now
    }

    /// Signs a receipt.
    pub(super) fn sign(
        &mut self,
        kind: ReceiptKind,
        slot: u16,
        actor: Option<&Actor>,
        claim_sha256: Option<Digest>,
        prev: Option<Digest>,
    ) -> Result<Envelope, Fault> {
        let receipt = Receipt {
            v: V1,
            cluster: self.context.cluster,
            node: self.context.node.public_key().key_id(),
            kind,
            wrap: self.wrap,
            slot,
            statement_sha256: self.statement_sha256,
            actor: actor.cloned(),
            claim_sha256,
            at_ms: self.context.now.unix_ms,
            doc: self.context.doc,
            epoch: self.context.epoch,
            lineage: self.context.lineage,
            prev,
        };
        let envelope = sign_in_memory(&receipt, &[self.context.node]).map_err(|_| Fault::Key("node key"))?;
        self.receipts.push(payload_digest(&envelope));
        Ok(envelope)
    }

    /// Appends a receipt to a slot's chain.
    pub(super) fn append(
        &mut self,
        at: &mut SlotAt<'_>,
        kind: ReceiptKind,
        actor: Option<&Actor>,
        claim_sha256: Option<Digest>,
    ) -> Result<Envelope, Fault> {
        let envelope = self.sign(kind, at.index, actor, claim_sha256, Some(at.slot.last))?;
        let key = receipt_key(&self.wrap, at.index, at.slot.receipts);
        self.writes.create(key, bulla_wire::json::to_vec(&envelope));
        at.slot.receipts = at.slot.receipts.saturating_add(1);
        at.slot.last = payload_digest(&envelope);
        Ok(envelope)
    }

    /// Writes a slot that must be as it was read. The only way in which a slot is written after its creation.
    pub(super) fn put(&mut self, at: SlotAt<'_>) {
        let SlotAt { index, slot, record } = at;
        self.writes.replace(slot_key(&self.wrap, index), Some(record), bulla_wire::json::to_vec(&slot));
    }

    /// Appends the receipt that ends a slot and writes the slot, whose state the caller has changed.
    pub(super) fn end(
        &mut self,
        mut at: SlotAt<'_>,
        kind: ReceiptKind,
        actor: Option<&Actor>,
    ) -> Result<Envelope, Fault> {
        let claim = at.slot.state.opening().map(|opening| opening.claim_sha256);
        let number = at.slot.receipts;
        let envelope = self.append(&mut at, kind, actor, claim)?;
        at.slot.ended = Some(number);
        if !at.slot.state.is_live() {
            self.release(&at);
        }
        self.put(at);
        Ok(envelope)
    }

    /// Counts a slot that no longer needs the ciphertext; its entry on the active clock goes.
    pub(super) fn release(&mut self, at: &SlotAt<'_>) {
        self.ended = self.ended.saturating_add(1);
        if let Some(opening) = at.slot.state.opening() {
            self.writes.delete(lapse_key(&self.wrap, at.index, opening.lapse_active_ms));
        }
    }

    /// Takes the slots that ended off the count. With the last one the ciphertext goes, in this same commit.
    pub(super) fn settle(&mut self, live: Option<&Record>, exp_ms: u64) -> Result<(), Fault> {
        if self.ended == 0 {
            return Ok(());
        }
        let record = live.ok_or_else(|| fault("wrap live", "it is missing while a slot is live"))?;
        let Live { slots, upload } = parse_record("wrap live", &record.bytes)?;
        let left = slots.checked_sub(self.ended).ok_or_else(|| fault("wrap live", "it counts too few slots"))?;
        let key = live_key(&self.wrap);
        if left > 0 {
            self.writes.replace(key, Some(record), bulla_wire::json::to_vec(&Live { slots: left, upload }));
            return Ok(());
        }
        self.writes.remove(key, record);
        self.writes.delete(content_key(&self.wrap));
        self.writes.delete(expiry_key(&self.wrap, exp_ms));
        if let Some(upload) = upload {
            upload.delete_chunks(&mut self.writes);
        }
        Ok(())
    }

    /// Raises an alarm about the wrap.
    pub(super) fn alarm(
        &mut self,
        kind: AlarmKind,
        receipt: Option<&Envelope>,
        message: &str,
        told: impl IntoIterator<Item = PrincipalId>,
    ) {
        let about = About { wrap: Some(self.wrap), receipt, message };
        self.alarms.push(alarm::raise(self.context, kind, about, told.into_iter().collect()));
    }

    /// Tells the parties that somebody who is none of them knows the wrap's id, unless they were told often enough.
    /// `counted` is a record of its own, so that strangers never stand in the way of the parties.
    pub(super) fn stranger(&mut self, counted: Option<&Record>, head: &Head, message: &str) {
        let count = counted.and_then(|record| record.bytes.expose().first().copied()).unwrap_or(0);
        if count < MAX_STRANGERS {
            self.writes.replace(strangers_key(&self.wrap), counted, vec![count.saturating_add(1)]);
            self.alarm(AlarmKind::ClaimByStranger, None, message, head.parties());
        }
    }

    /// The outcome. Whoever asks again finds it in the state.
    pub(super) fn done(self, result: Result<Reply, Refusal>) -> Step {
        self.ends(result, Replay::Again)
    }

    /// A refusal by which the caller must not learn whether anything was written.
    pub(super) fn noted(self, refusal: Refusal) -> Step {
        self.ends(Err(refusal), Replay::Noted)
    }

    fn ends(self, result: Result<Reply, Refusal>, replay: Replay) -> Step {
        let Self { writes, receipts, alarms, .. } = self;
        Step::Done(Box::new(Outcome { writes, result, replay, receipts, alarms, change: None }))
    }

    pub(super) fn answer(self, receipts: Vec<Envelope>) -> Step {
        self.done(Ok(receipts_reply(receipts)))
    }
}

pub(super) fn receipts_reply(receipts: Vec<Envelope>) -> Reply {
    Reply::json(&WrapReceipts { receipts })
}

/// Who asks; operations on behalf of people always have one.
pub(super) fn caller<'a>(context: &Context<'a>) -> Result<&'a Actor, Fault> {
    context.actor.ok_or(Fault::Key("caller of a wrap"))
}
