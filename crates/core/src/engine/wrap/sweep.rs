//! Ends by time, and what a restore does. Ends are driven by [`Entry`], which sees to it that the time has come
//! and that the entry still stands; each deletes its entry in the commit that makes it needless.

use super::records::{
    Commit, Head, Reader, SlotAt, TOMBSTONE_MS, content_key, head_key, live_key, mine_key, slot_key, strangers_key,
    tombstone_key,
};
use super::slot::State;
use crate::barrier::{Expect, Kind, Query, RecordKey, Records, Writes};
use crate::engine::due::Entry;
use crate::operation::{Context, Fault, Operation, Outcome, Replay, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_wire::api::{AlarmKind, Done};
use bulla_wire::id::{PrincipalId, WrapId};
use bulla_wire::wrap::ReceiptKind;

/// Receipts deleted in one commit: with slots and lists of the largest wrap they stay below the store's
/// limit of writes in a batch.
pub const BURIED_AT_ONCE: usize = 256;
/// How long a burial waits for a slot that did not end, in milliseconds: a day.
const BURIAL_DELAY_MS: u64 = 24 * 3600 * 1000;

/// Nobody opened it in time: ends the slots that are still sealed or parked.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Expire {
    /// What is due: its id is the wrap's.
    pub entry: Entry,
}

/// `ack_s` is over: ends an opened slot, or lets a nacked one go of the ciphertext.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Lapse {
    /// What is due: its id is the wrap's and the slot's number, u16 big-endian.
    pub entry: Entry,
}

/// Deletes tombstone and receipts.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Bury {
    /// What is due: its id is the wrap's.
    pub entry: Entry,
}

/// Parks what is sealed, after a restore that the admins consented to: it may have been opened in the
/// history that was lost.
#[derive(Debug, Clone)]
pub struct Park {
    /// Which.
    pub wrap: WrapId,
}

/// Ends what the audit log shows as opened or revoked in a history that the store lost: nobody else may open it.
#[derive(Debug, Clone)]
pub struct Retire {
    /// Which.
    pub wrap: WrapId,
    /// Only the slot of this principal, where each has one; all of them if it is not known.
    pub principal: Option<PrincipalId>,
    /// Also what is open. What was lost may have been one more delivery to the claim that won, and that claim keeps it.
    pub opened: bool,
}

impl Operation for Retire {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let mut reader = Reader::new(records);
        let head = reader.get(head_key(&self.wrap));
        reader.slot(&self.wrap, 0)?;
        let live = reader.get(live_key(&self.wrap));
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let Some(head) = head.map(Head::parse).transpose()? else { return Ok(nothing()) };
        let slots = reader.slots(&head)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let mut commit = Commit::about(context, &head);
        let mut first = None;
        for mut at in slots {
            let others = self.principal.is_some_and(|by| head.owner(at.index).is_some_and(|owner| owner != by));
            let kept = !self.opened && at.slot.state.opening().is_some();
            if let (false, false, Ok(state)) = (others, kept, at.slot.state.clone().revoke()) {
                at.slot.state = state;
                let receipt = commit.end(at, ReceiptKind::Revoked, None)?;
                first.get_or_insert(receipt);
            }
        }
        commit.settle(live, head.statement.exp_ms)?;
        if let Some(receipt) = &first {
            let message = "the store lost commits; the audit log shows that this was opened or revoked";
            commit.alarm(AlarmKind::StoreRolledBack, Some(receipt), message, [head.statement.from]);
        }
        Ok(commit.done(Ok(Reply::json(&Done {}))))
    }
}

/// The entry is of no use: its wrap is gone, or it is damaged.
fn drop_entry(entry: &Entry) -> Step {
    let mut writes = Writes::default();
    writes.delete(entry.key());
    Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again)
}

fn nothing() -> Step {
    Outcome::read(Reply::json(&Done {}))
}

fn wrap_of(entry: &Entry) -> Option<WrapId> {
    Some(WrapId::new(entry.id.as_slice().try_into().ok()?))
}

impl Operation for Expire {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Some(wrap) = wrap_of(&self.entry) else { return Ok(drop_entry(&self.entry)) };
        let mut reader = Reader::new(records);
        let head = reader.get(head_key(&wrap));
        reader.slot(&wrap, 0)?;
        let live = reader.get(live_key(&wrap));
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let Some(head) = head.map(Head::parse).transpose()? else { return Ok(drop_entry(&self.entry)) };
        if context.now.unix_ms < head.statement.exp_ms {
            return Ok(drop_entry(&self.entry));
        }
        let slots = reader.slots(&head)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let mut commit = Commit::about(context, &head);
        let mut first = None;
        for mut at in slots {
            if let Ok(state) = at.slot.state.clone().expire() {
                at.slot.state = state;
                let receipt = commit.end(at, ReceiptKind::Expired, None)?;
                first.get_or_insert(receipt);
            }
        }
        commit.settle(live, head.statement.exp_ms)?;
        // The last slot's end deletes the entry too; a batch names each key once.
        if !commit.writes.deletes.contains(&self.entry.key()) {
            commit.writes.delete(self.entry.key());
        }
        if let Some(receipt) = &first {
            let message = "nobody opened it in time; make it anew if it is still wanted";
            commit.alarm(AlarmKind::ExpiredUnopened, Some(receipt), message, [head.statement.from]);
        }
        Ok(commit.done(Ok(Reply::json(&Done {}))))
    }
}

impl Lapse {
    fn place(&self) -> Option<(WrapId, u16)> {
        let (wrap, index) = self.entry.id.split_first_chunk::<16>()?;
        Some((WrapId::new(*wrap), u16::from_be_bytes(index.try_into().ok()?)))
    }
}

impl Operation for Lapse {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Some((wrap, index)) = self.place() else { return Ok(drop_entry(&self.entry)) };
        let mut reader = Reader::new(records);
        let head = reader.get(head_key(&wrap));
        let at = reader.slot(&wrap, index)?;
        let live = reader.get(live_key(&wrap));
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let (Some(head), Some(mut at)) = (head.map(Head::parse).transpose()?, at) else {
            return Ok(drop_entry(&self.entry));
        };
        if at.slot.state.opening().is_none_or(|opening| opening.lapse_active_ms != self.entry.at_ms) {
            return Ok(drop_entry(&self.entry));
        }
        let opened = matches!(at.slot.state, State::Opened(_));
        let Ok(state) = at.slot.state.clone().lapse() else { return Ok(drop_entry(&self.entry)) };
        at.slot.state = state;
        let mut commit = Commit::about(context, &head);
        if opened {
            let receipt = commit.end(at, ReceiptKind::Lapsed, None)?;
            let message = "it was opened and never acknowledged: the opener may not have it; make it anew";
            commit.alarm(AlarmKind::Lapse, Some(&receipt), message, [head.statement.from]);
        } else {
            commit.release(&at);
            commit.put(at);
        }
        commit.settle(live, head.statement.exp_ms)?;
        Ok(commit.done(Ok(Reply::json(&Done {}))))
    }
}

impl Operation for Bury {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Some(wrap) = wrap_of(&self.entry) else { return Ok(drop_entry(&self.entry)) };
        let mut reader = Reader::new(records);
        let head = reader.get(head_key(&wrap));
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let Some(head) = head.map(Head::parse).transpose()? else { return Ok(drop_entry(&self.entry)) };
        if context.now.unix_ms < head.statement.exp_ms.saturating_add(TOMBSTONE_MS) {
            return Ok(drop_entry(&self.entry));
        }
        let slots = reader.slots(&head)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let mut writes = Writes::default();
        if slots.iter().any(|at| at.slot.state.is_live()) {
            writes.delete(self.entry.key());
            writes.put(tombstone_key(&wrap, context.now.unix_ms.saturating_add(BURIAL_DELAY_MS)), vec![]);
            return Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again));
        }
        let dir = wrap.as_bytes().to_vec();
        let query = Query::Scan { kind: Kind::Receipt, dir, after: None, limit: BURIED_AT_ONCE };
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        for receipt in page {
            writes.delete(RecordKey::clear(Kind::Receipt, wrap.as_bytes(), receipt.cursor.as_bytes()));
        }
        // With more to come the entry stays, and the next sweep goes on.
        if !more {
            self.last(&mut writes, &head, &slots);
        }
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}

impl Bury {
    /// The commit after which nothing of the wrap is left.
    fn last(&self, writes: &mut Writes, head: &Head, slots: &[SlotAt<'_>]) {
        let wrap = &head.statement.wrap;
        for at in slots {
            // A refused attempt meanwhile appends a receipt and changes the slot: then all is read again.
            writes.expect.push((slot_key(wrap, at.index), Expect::At(at.record.revision)));
            writes.delete(slot_key(wrap, at.index));
        }
        for party in head.parties() {
            writes.delete(mine_key(&party, head.created_ms, wrap));
        }
        for key in [head_key(wrap), content_key(wrap), live_key(wrap), strangers_key(wrap), self.entry.key()] {
            writes.delete(key);
        }
    }
}

impl Operation for Park {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let mut reader = Reader::new(records);
        let head = reader.get(head_key(&self.wrap));
        reader.slot(&self.wrap, 0)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let Some(head) = head.map(Head::parse).transpose()? else { return Ok(nothing()) };
        let slots = reader.slots(&head)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let mut commit = Commit::about(context, &head);
        for mut at in slots {
            if let Ok(state) = at.slot.state.clone().park() {
                at.slot.state = state;
                commit.put(at);
            }
        }
        Ok(commit.done(Ok(Reply::json(&Done {}))))
    }
}
