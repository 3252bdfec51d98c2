//! Opening: one conditional commit on one slot picks one claim, ever.
//!
//! The commit demands the slot as it was read, and nothing writes a slot in any other way, so of any number
//! of claims that read it sealed one is stored and all others are decided again on what it left.

use super::records::{
    Commit, Head, Reader, SlotAt, caller, content_key, fault, head_key, lapse_key, parse_content, slot_key,
    strangers_key, unknown,
};
use super::slot::{Opening, QUIET_DELIVERIES, State};
use crate::barrier::{Record, Records};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_crypto::recipient::{Recipient, RecipientKind};
use bulla_wire::api::{AlarmKind, OpenWrap};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::Actor;
use bulla_wire::id::{Digest, WrapId};
use bulla_wire::json::{self, MAX_STATEMENT_BYTES};
use bulla_wire::wrap::{MAX_DELIVERIES, Receipt, ReceiptKind};

/// `POST /v1/wrap/{id}:open`.
#[derive(Debug, Clone)]
pub struct Open {
    wrap: WrapId,
    statement_sha256: Digest,
    claim: Recipient,
    claim_sha256: Digest,
}

impl Open {
    /// Reads the request.
    ///
    /// # Errors
    /// If the claim is no hybrid recipient in its one spelling.
    pub fn new(wrap: WrapId, body: OpenWrap) -> Result<Self, Refusal> {
        let OpenWrap { statement_sha256, claim } = body;
        let refuse = |code, message: String| {
            let hint = "a claim is a fresh age1pq1… recipient whose key was stored first; `bulla open` makes one";
            Refusal::new(code, message).field("claim").hint(hint)
        };
        let recipient: Recipient = claim.parse().map_err(|e| refuse(Code::Malformed, format!("{e}")))?;
        if recipient.as_str() != claim {
            return Err(refuse(Code::Malformed, "the claim is not in its one spelling".into()));
        }
        Self::by(wrap, statement_sha256, &recipient)
            .ok_or_else(|| refuse(Code::KemTooWeak, "the claim is a classical recipient".into()))
    }

    /// By a claim that was parsed. `None` if it is no hybrid recipient of a key made for this once: those of tokens last.
    pub fn by(wrap: WrapId, statement_sha256: Digest, claim: &Recipient) -> Option<Self> {
        (claim.kind() == RecipientKind::Hybrid).then(|| Self {
            wrap,
            statement_sha256,
            claim: claim.clone(),
            claim_sha256: claim.digest(),
        })
    }

    /// Somebody else, or another claim, was first: the answer proves it, and the attempt leaves a receipt.
    fn lost(&self, mut at: SlotAt<'_>, road: Road<'_>) -> Result<Step, Fault> {
        let Road { head, actor, mut reader, mut commit } = road;
        let opened = reader.receipt(&self.wrap, at.index, 0)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let mut refusal = Refusal::new(Code::AlreadyOpened, "another claim opened it before")
            .hint("the receipt tells who and when; if that was not you or nobody you know of, tell its writer at once");
        refusal.receipt = opened.map(Box::new);
        let own = at.slot.state.opening().is_some_and(|opening| opening.by == actor.principal);
        if at.slot.refuse(own) {
            let claim = Some(self.claim_sha256);
            let refused = commit.append(&mut at, ReceiptKind::Refused, Some(actor), claim)?;
            commit.put(at);
            if own {
                let message = "a second claim by the same principal: its key may be in other hands";
                let told = [head.statement.from, actor.principal];
                commit.alarm(AlarmKind::SecondClaim, Some(&refused), message, told);
            }
        }
        Ok(commit.done(Err(refusal)))
    }

    /// The slot ended; the claim that won it, or anyone if none did, is told how.
    fn ended(&self, at: &SlotAt<'_>, road: Road<'_>) -> Result<Step, Fault> {
        let mut reader = road.reader;
        ended(&mut reader, &self.wrap, at)
    }

    /// The request that won, or fetched again, comes once more under its own nonce: the same delivery, which is
    /// answered from what it left and counts once.
    fn repeat(&self, at: &SlotAt<'_>, content: Option<&Record>, road: Road<'_>) -> Result<Step, Fault> {
        let mut reader = road.reader;
        let number = at.slot.opened().ok_or_else(|| fault("wrap slot", "it is sealed after it was opened"))?;
        let receipt = reader.receipt(&self.wrap, at.index, number)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let receipt = receipt.ok_or_else(|| fault("receipt", "it is missing while a slot is open"))?;
        let content = content.ok_or_else(|| fault("wrap content", "it is missing while a slot is open"))?;
        let content = parse_content(content)?;
        Ok(Outcome::read(Reply::Claim { claim: self.claim.clone(), receipt, content }))
    }

    /// Serves the claim that won, now or before.
    fn deliver(&self, mut at: SlotAt<'_>, content: Option<&Record>, road: Road<'_>) -> Result<Step, Fault> {
        let Road { head, actor, mut commit, .. } = road;
        let content = content.ok_or_else(|| fault("wrap content", "it is missing while a slot is open"))?;
        let content = parse_content(content)?;
        let kind = if at.slot.state == State::Sealed {
            let now = commit.now();
            let lapse_active_ms = now.active_ms.saturating_add(u64::from(head.statement.ack_s).saturating_mul(1000));
            let by = actor.principal;
            let opening = Opening { by, claim_sha256: self.claim_sha256, lapse_active_ms, deliveries: 1 };
            at.slot.state = at.slot.state.open(opening).map_err(|e| fault("wrap slot", &e.to_string()))?;
            commit.writes.put(lapse_key(&self.wrap, at.index, lapse_active_ms), vec![]);
            ReceiptKind::Opened
        } else {
            at.slot.state = at.slot.state.deliver().map_err(|e| fault("wrap slot", &e.to_string()))?;
            ReceiptKind::Redelivered
        };
        let receipt = commit.append(&mut at, kind, Some(actor), Some(self.claim_sha256))?;
        let deliveries = at.slot.state.opening().map_or(0, |opening| opening.deliveries);
        commit.put(at);
        if deliveries == QUIET_DELIVERIES + 1 {
            let message = "delivered more than three times to its claim: the opener's answers get lost, or worse";
            let told = [head.statement.from, actor.principal];
            commit.alarm(AlarmKind::Redelivery, Some(&receipt), message, told);
        }
        Ok(commit.done(Ok(Reply::Claim { claim: self.claim.clone(), receipt, content })))
    }

    /// No party: answered as if there were no wrap, and the parties are told.
    fn stranger(&self, road: Road<'_>) -> Result<Step, Fault> {
        let Road { head, mut reader, mut commit, .. } = road;
        let counted = reader.get(strangers_key(&self.wrap));
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        commit.stranger(counted, head, "somebody who is no party tried to open it, and knows its id");
        Ok(commit.noted(unknown(&self.wrap)))
    }
}

/// What all ends of an opening share.
struct Road<'a> {
    head: &'a Head,
    actor: &'a Actor,
    reader: Reader<'a>,
    commit: Commit<'a>,
}

/// Refuses with the state of a slot that ended, and the receipt that proves it.
pub(super) fn ended(reader: &mut Reader<'_>, wrap: &WrapId, at: &SlotAt<'_>) -> Result<Step, Fault> {
    let receipt = match at.slot.telling() {
        Some(number) => reader.receipt(wrap, at.index, number)?,
        None => None,
    };
    if let Some(step) = reader.need() {
        return Ok(step);
    }
    let parse = |receipt: &Envelope| {
        json::parse::<Receipt>(&receipt.payload, MAX_STATEMENT_BYTES).map_err(|e| fault("receipt", &e.to_string()))
    };
    let by = receipt.as_ref().map(parse).transpose()?.and_then(|receipt| receipt.actor);
    let (code, message) = match &at.slot.state {
        State::Acked(_) => (Code::Acked, "it was opened and acknowledged; the ciphertext is gone"),
        State::Lapsed(_) => (Code::Lapsed, "it was opened and never acknowledged; the ciphertext is gone"),
        State::Nacked { .. } => (Code::Nacked, "its opener could not open the content; it is given to nobody now"),
        // Only what a restore ended was revoked by nobody.
        State::Revoked(_) if by.is_none() => {
            (Code::Revoked, "it was opened, or its writer took it back, in a history that the store lost")
        }
        State::Revoked(_) => (Code::Revoked, "its writer took it back"),
        State::Expired => (Code::Expired, "nobody opened it in time"),
        State::Parked => (Code::Parked, "it waits for its writer's release after a restore"),
        State::Sealed => (Code::NotFound, "nobody has opened it"),
        State::Opened(_) => (Code::AlreadyOpened, "another claim opened it before"),
    };
    let mut refusal = Refusal::new(code, message);
    refusal.receipt = receipt.map(Box::new);
    Ok(Outcome::refuse(match code {
        Code::Parked => refusal.hint("ask its writer to run `bulla wrap release`"),
        Code::NotFound => refusal.hint("`bulla open` opens it"),
        Code::Acked => refusal,
        _ => refusal.hint("ask its writer for a new one"),
    }))
}

impl Operation for Open {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        // When it came for the first time there was no such wrap, or not for this caller.
        if context.repeated == Some(Replay::Noted) {
            return Ok(Outcome::refuse(unknown(&self.wrap)));
        }
        let mut reader = Reader::new(records);
        let actor = caller(context)?;
        let head = reader.get(head_key(&self.wrap));
        // Most wraps have one slot: asked for at once, with the content from the same snapshot.
        let first = reader.slot(&self.wrap, 0)?;
        let content = reader.get(content_key(&self.wrap));
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let Some(head) = head.map(Head::parse).transpose()? else {
            return Ok(Outcome::refuse_noted(unknown(&self.wrap)));
        };
        let commit = Commit::about(context, &head);
        let road = Road { head: &head, actor, reader, commit };
        let Some(index) = head.slot_of(&actor.principal) else {
            if head.is_writer(&actor.principal) {
                let refusal = Refusal::new(Code::Denied, "you wrote it, but it is not for you");
                return Ok(Outcome::refuse(refusal.hint("`bulla wrap revoke` takes it back")));
            }
            return self.stranger(road);
        };
        if let Err(refusal) = head.check_slip(&self.statement_sha256) {
            return Ok(Outcome::refuse(refusal));
        }
        let at = if index == 0 {
            first
        } else {
            if records.get(&slot_key(&self.wrap, index)).is_none() {
                // Slot and content must come from one snapshot, so the content is read again.
                return Ok(Step::need([slot_key(&self.wrap, index), content_key(&self.wrap)]));
            }
            Reader::new(records).slot(&self.wrap, index)?
        };
        let at = at.ok_or_else(|| fault("wrap slot", "it is missing while the head is there"))?;
        if let Some(opening) = at.slot.state.opening()
            && (opening.by != actor.principal || opening.claim_sha256 != self.claim_sha256)
        {
            return self.lost(at, road);
        }
        let (earliest, latest) = (context.now.earliest_ms(), context.now.latest_ms());
        match &at.slot.state {
            State::Sealed | State::Opened(_) if context.repeated.is_some() => self.repeat(&at, content, road),
            State::Sealed if latest < head.statement.nbf_ms => {
                let message = format!("it may not be opened before {} (Unix milliseconds)", head.statement.nbf_ms);
                Ok(Outcome::refuse(Refusal::new(Code::NotYet, message)))
            }
            State::Sealed if earliest >= head.statement.exp_ms => {
                let refusal = Refusal::new(Code::Expired, "nobody opened it in time");
                Ok(Outcome::refuse(refusal.hint("ask its writer for a new one")))
            }
            // Neither too early nor too late, whichever of the clocks is right.
            State::Sealed if earliest < head.statement.nbf_ms || latest >= head.statement.exp_ms => {
                let message = "the clock moved, and whether it may be opened now depends on which time is right";
                let refusal = Refusal::new(Code::ClockStepped, message);
                Ok(Outcome::refuse(refusal.hint("an admin confirms the time with `bulla seal confirm-clock`")))
            }
            State::Sealed => match stale_claim(&head, &self.claim_sha256) {
                Some(refusal) => Ok(Outcome::refuse(refusal)),
                None => self.deliver(at, content, road),
            },
            State::Opened(opening) if opening.deliveries >= MAX_DELIVERIES => {
                let message = format!("it was delivered {MAX_DELIVERIES} times to this claim");
                let refusal = Refusal::new(Code::TooManyDeliveries, message);
                Ok(Outcome::refuse(refusal.hint("nack it, and ask its writer for a new one")))
            }
            State::Opened(_) => self.deliver(at, content, road),
            _ => self.ended(&at, road),
        }
    }
}

/// A claim that is one of the wrap's own recipients is not fresh: a stolen long-term key would read the reply.
fn stale_claim(head: &Head, claim: &Digest) -> Option<Refusal> {
    let known = head.statement.to.iter().flat_map(|addressee| &addressee.recipients).any(|known| known == claim);
    known.then(|| {
        let refusal = Refusal::new(Code::Malformed, "the claim is one of the wrap's own recipients");
        refusal.field("claim").hint("a claim is made for one opening and destroyed after it")
    })
}
