//! Ends by the parties: the opener acknowledges or complains, the writer takes back or releases.

use super::open::ended;
use super::records::{
    Commit, Head, Reader, SlotAt, caller, expiry_key, fault, head_key, live_key, receipts_reply, unknown,
};
use super::slot::State;
use crate::barrier::{Record, Records};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_wire::api::{AlarmKind, Done, FinishWrap, RevokeWrap};
use bulla_wire::error::Code;
use bulla_wire::evidence::Actor;
use bulla_wire::id::{Digest, WrapId};
use bulla_wire::wrap::ReceiptKind;

/// `POST /v1/wrap/{id}:ack`: the opener has the content safe.
#[derive(Debug, Clone)]
pub struct Ack {
    /// Which.
    pub wrap: WrapId,
    /// By which claim.
    pub body: FinishWrap,
}

/// `POST /v1/wrap/{id}:nack`: the opener could not open the content.
#[derive(Debug, Clone)]
pub struct Nack {
    /// Which.
    pub wrap: WrapId,
    /// By which claim.
    pub body: FinishWrap,
}

impl Operation for Ack {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        finish(&self.wrap, &self.body, ReceiptKind::Acked, records, context)
    }
}

impl Operation for Nack {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        finish(&self.wrap, &self.body, ReceiptKind::Nacked, records, context)
    }
}

fn finish(
    wrap: &WrapId,
    body: &FinishWrap,
    kind: ReceiptKind,
    records: &Records,
    context: &Context<'_>,
) -> Result<Step, Fault> {
    let actor = caller(context)?;
    let mut reader = Reader::new(records);
    let head = reader.get(head_key(wrap));
    let first = reader.slot(wrap, 0)?;
    let live = reader.get(live_key(wrap));
    if let Some(step) = reader.need() {
        return Ok(step);
    }
    let Some(head) = head.map(Head::parse).transpose()? else { return Ok(Outcome::refuse(unknown(wrap))) };
    let Some(index) = head.slot_of(&actor.principal) else {
        return Ok(Outcome::refuse(if head.is_writer(&actor.principal) {
            Refusal::new(Code::Denied, "you wrote it; its opener finishes it").hint("`bulla wrap revoke` takes it back")
        } else {
            unknown(wrap)
        }));
    };
    if let Err(refusal) = head.check_slip(&body.statement_sha256) {
        return Ok(Outcome::refuse(refusal));
    }
    let at = if index == 0 { first } else { reader.slot(wrap, index)? };
    if let Some(step) = reader.need() {
        return Ok(step);
    }
    let mut at = at.ok_or_else(|| fault("wrap slot", "it is missing while the head is there"))?;
    let won = at.slot.state.opening();
    if won.is_none_or(|won| won.by != actor.principal || won.claim_sha256 != body.claim_sha256) {
        return ended(&mut reader, wrap, &at);
    }
    let again = match &at.slot.state {
        State::Acked(_) => kind == ReceiptKind::Acked,
        State::Nacked { .. } => kind == ReceiptKind::Nacked,
        State::Opened(_) => {
            let mut commit = Commit::about(context, &head);
            let state = at.slot.state;
            let next = if kind == ReceiptKind::Acked { state.ack() } else { state.nack() };
            at.slot.state = next.map_err(|e| fault("wrap slot", &e.to_string()))?;
            let receipt = commit.end(at, kind, Some(actor))?;
            commit.settle(live, head.statement.exp_ms)?;
            if kind == ReceiptKind::Nacked {
                let message = "its opener could not open the content, or it was not what the writer signed";
                commit.alarm(AlarmKind::Nack, Some(&receipt), message, [head.statement.from, actor.principal]);
            }
            return Ok(commit.answer(vec![receipt]));
        }
        _ => false,
    };
    match at.slot.ended {
        // Asked again after a lost answer: the same receipt.
        Some(number) if again => {
            let receipt = reader.receipt(wrap, at.index, number)?;
            Ok(reader.need().unwrap_or_else(|| Outcome::read(receipts_reply(receipt.into_iter().collect()))))
        }
        _ => ended(&mut reader, wrap, &at),
    }
}

/// `POST /v1/wrap/{id}:revoke`: the writer takes back every slot that did not end yet.
#[derive(Debug, Clone)]
pub struct Revoke {
    /// Which.
    pub wrap: WrapId,
    /// The statement it is about.
    pub body: RevokeWrap,
}

/// `POST /v1/wrap/{id}:release`: the writer lets a wrap be opened that a restore parked.
#[derive(Debug, Clone)]
pub struct Release {
    /// Which.
    pub wrap: WrapId,
    /// The statement it is about.
    pub body: RevokeWrap,
}

/// A wrap and its slots as its writer sees them.
struct Own<'a> {
    head: Head,
    slots: Vec<SlotAt<'a>>,
    live: Option<&'a Record>,
    reader: Reader<'a>,
}

/// Reads a wrap of the caller's own with all its slots.
fn own<'a>(wrap: &WrapId, slip: &Digest, records: &'a Records, actor: &Actor) -> Result<Result<Own<'a>, Step>, Fault> {
    let mut reader = Reader::new(records);
    let head = reader.get(head_key(wrap));
    // Asked for with the head, as most wraps have one slot.
    reader.slot(wrap, 0)?;
    let live = reader.get(live_key(wrap));
    if let Some(step) = reader.need() {
        return Ok(Err(step));
    }
    let Some(head) = head.map(Head::parse).transpose()? else { return Ok(Err(Outcome::refuse(unknown(wrap)))) };
    if !head.is_writer(&actor.principal) {
        let refusal = if head.is_party(&actor.principal) {
            Refusal::new(Code::Denied, "only its writer may do that").hint("`bulla wrap inspect` shows who wrote it")
        } else {
            unknown(wrap)
        };
        return Ok(Err(Outcome::refuse(refusal)));
    }
    if let Err(refusal) = head.check_slip(slip) {
        return Ok(Err(Outcome::refuse(refusal)));
    }
    let slots = reader.slots(&head)?;
    Ok(match reader.need() {
        Some(step) => Err(step),
        None => Ok(Own { head, slots, live, reader }),
    })
}

impl Operation for Revoke {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let actor = caller(context)?;
        let own = own(&self.wrap, &self.body.statement_sha256, records, actor)?;
        let Own { head, slots, live, mut reader } = match own {
            Ok(own) => own,
            Err(step) => return Ok(step),
        };
        // Proof of what happened before: who opened it, or that it was revoked already.
        let mut before = Vec::new();
        for at in &slots {
            for number in revoked_before(at) {
                before.push((at.index, reader.receipt(&self.wrap, at.index, number)?));
            }
        }
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let concerned =
            |at: &SlotAt<'_>| at.slot.state.clone().revoke().is_ok() || matches!(at.slot.state, State::Revoked(_));
        if !slots.iter().any(concerned) {
            return match slots.first() {
                Some(at) => ended(&mut reader, &self.wrap, at),
                None => Err(fault("wrap slot", "a wrap has none")),
            };
        }
        let mut commit = Commit::about(context, &head);
        let mut receipts = Vec::new();
        for mut at in slots {
            let index = at.index;
            receipts.extend(before.iter().filter(|(of, _)| *of == index).filter_map(|(_, receipt)| receipt.clone()));
            if let Ok(state) = at.slot.state.clone().revoke() {
                at.slot.state = state;
                receipts.push(commit.end(at, ReceiptKind::Revoked, Some(actor))?);
            }
        }
        commit.settle(live, head.statement.exp_ms)?;
        Ok(commit.answer(receipts))
    }
}

/// Numbers of the receipts that stand before the revoked one in the answer, and of that if it exists.
fn revoked_before(at: &SlotAt<'_>) -> Vec<u32> {
    match &at.slot.state {
        State::Opened(_) => at.slot.opened().into_iter().collect(),
        State::Revoked(_) => at.slot.opened().into_iter().chain(at.slot.ended).collect(),
        _ => Vec::new(),
    }
}

impl Operation for Release {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let actor = caller(context)?;
        let own = own(&self.wrap, &self.body.statement_sha256, records, actor)?;
        let Own { head, slots, mut reader, .. } = match own {
            Ok(own) => own,
            Err(step) => return Ok(step),
        };
        // What ended stays so, and was never released.
        if !slots.iter().any(|at| matches!(at.slot.state, State::Parked | State::Sealed)) {
            return match slots.first() {
                Some(at) => ended(&mut reader, &self.wrap, at),
                None => Err(fault("wrap slot", "a wrap has none")),
            };
        }
        let mut commit = Commit::about(context, &head);
        let parked = slots.iter().any(|at| at.slot.state == State::Parked);
        if parked && context.now.unix_ms >= head.statement.exp_ms {
            return Ok(commit.done(Err(Refusal::new(Code::Expired, "its time is over").hint("write a new one"))));
        }
        for mut at in slots {
            if let Ok(state) = at.slot.state.clone().release() {
                at.slot.state = state;
                commit.put(at);
            }
        }
        if parked {
            commit.writes.put(expiry_key(&self.wrap, head.statement.exp_ms), vec![]);
        }
        Ok(commit.done(Ok(Reply::json(&Done {}))))
    }
}
