//! Looking at wraps without touching them.

use super::records::{Head, Reader, SlotAt, caller, head_key, unknown};
use crate::barrier::{Cursor, Kind, Query, Records};
use crate::operation::{Context, Fault, Operation, Outcome, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_wire::api::{self, WrapSummary, WrapView, Wraps};
use bulla_wire::id::{PrincipalId, WrapId};

/// Receipts in one view at most: they fill three quarters of the largest JSON answer. Only a wrap whose many
/// recipients all misbehave has more.
pub const MAX_SHOWN: usize = 768;
/// Of such a wrap each slot shows its oldest receipts, so that what is shown still is a chain.
const SHOWN_EACH: u32 = 12;

/// Wraps in one page at most: their heads hold up to 128 KiB each and are held in memory together.
pub const MAX_LISTED: usize = 100;
/// Slots read for one page at most, below the store's limit of reads in one call.
const MAX_SLOTS_READ: usize = 900;

/// `GET /v1/wrap/{id}`. Recipients of a wrap with a slot for each see the receipts of their own slot: those
/// of others tell network addresses that are none of their business. The writer sees all.
#[derive(Debug, Clone)]
pub struct Inspect {
    /// Which.
    pub wrap: WrapId,
}

impl Operation for Inspect {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let actor = caller(context)?;
        let mut reader = Reader::new(records);
        let head = reader.get(head_key(&self.wrap));
        reader.slot(&self.wrap, 0)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let head = head.map(Head::parse).transpose()?.filter(|head| head.is_party(&actor.principal));
        let Some(head) = head else { return Ok(Outcome::refuse(unknown(&self.wrap))) };
        let slots = reader.slots(&head)?;
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let shown: Vec<bool> = slots.iter().map(|at| may_see(&head, at.index, &actor.principal)).collect();
        let of_shown = slots.iter().zip(&shown).filter(|(_, shown)| **shown);
        let total: usize = of_shown.map(|(at, _)| at.slot.receipts as usize).sum();
        let most = if total > MAX_SHOWN { SHOWN_EACH } else { u32::MAX };
        let mut view = WrapView { statement: head.envelope.clone(), created: head.created.clone(), slots: vec![] };
        for (at, shown) in slots.iter().zip(shown) {
            let mut receipts = Vec::new();
            for number in 0..if shown { at.slot.receipts.min(most) } else { 0 } {
                receipts.extend(reader.receipt(&self.wrap, at.index, number)?);
            }
            view.slots.push(api::Slot { principal: head.owner(at.index), state: at.slot.state.name(), receipts });
        }
        Ok(reader.need().unwrap_or_else(|| Outcome::read(Reply::json(&view))))
    }
}

fn may_see(head: &Head, index: u16, principal: &PrincipalId) -> bool {
    head.is_writer(principal) || head.owner(index).is_none_or(|owner| owner == *principal)
}

/// `GET /v1/wrap`: the caller's own, sent and received, oldest first.
#[derive(Debug, Clone)]
pub struct List {
    /// Where to go on.
    pub after: Option<Cursor>,
    /// Page size; above [`MAX_LISTED`] it is that.
    pub limit: usize,
}

impl Operation for List {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let dir = caller(context)?.principal.as_bytes().to_vec();
        let limit = self.limit.clamp(1, MAX_LISTED);
        let query = Query::Scan { kind: Kind::Mine, dir, after: self.after.clone(), limit };
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let mut reader = Reader::new(records);
        let mut heads = Vec::with_capacity(page.len());
        for entry in page {
            let head = wrap_of(&entry.cursor).and_then(|wrap| reader.get(head_key(&wrap)));
            heads.push((&entry.cursor, head));
        }
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let (mut wraps, mut last, mut slots_read) = (Vec::new(), None, 0);
        let mut cut = false;
        for (cursor, head) in heads {
            // An entry without a head was buried between the two readings.
            if let Some(head) = head.map(Head::parse).transpose()? {
                slots_read += usize::from(head.slots());
                if slots_read > MAX_SLOTS_READ {
                    cut = true;
                    break;
                }
                let slots = reader.slots(&head)?;
                wraps.push(summary(head, &slots));
            }
            last = Some(cursor);
        }
        if let Some(step) = reader.need() {
            return Ok(step);
        }
        let next = if more || cut { last.map(Cursor::to_text) } else { None };
        Ok(Outcome::read(Reply::json(&Wraps { wraps, next })))
    }
}

/// The wrap of an entry: behind the eight bytes of its time.
fn wrap_of(cursor: &Cursor) -> Option<WrapId> {
    let (_, id) = cursor.as_bytes().split_first_chunk::<8>()?;
    Some(WrapId::new(id.try_into().ok()?))
}

fn summary(head: Head, slots: &[SlotAt<'_>]) -> WrapSummary {
    WrapSummary {
        wrap: head.statement.wrap,
        statement_sha256: head.digest,
        from: head.statement.from,
        to: head.statement.to.iter().map(|addressee| addressee.principal).collect(),
        created_ms: head.created_ms,
        exp_ms: head.statement.exp_ms,
        mode: head.statement.mode,
        states: slots.iter().map(|at| at.slot.state.name()).collect(),
        label: head.statement.label,
    }
}
