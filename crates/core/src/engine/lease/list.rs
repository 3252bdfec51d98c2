//! Leases as they are looked at: one's own, and all of them by whoever manages them.

use super::{Lease, lease_key, parse_place, unknown};
use crate::barrier::{Cursor, Kind, Query, Records};
use crate::operation::{Context, Fault, Now, Operation, Outcome, Reply, Step};
use bulla_crypto::random::Rng;
use bulla_wire::api::Leases;
use bulla_wire::id::{LeaseId, PrincipalId};

/// `GET /v1/lease/{lease}`.
#[derive(Debug, Clone)]
pub struct Read {
    /// Which.
    pub id: LeaseId,
}

impl Operation for Read {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = lease_key(&self.id);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let lease = current.map(|record| Lease::parse(&record.bytes)).transpose()?;
        let caller = context.actor.map(|actor| actor.principal);
        Ok(match lease.filter(|lease| Some(lease.owner) == caller) {
            Some(lease) => Outcome::read(Reply::json(&lease.view(context.now))),
            None => Outcome::refuse(unknown(&self.id)),
        })
    }
}

/// `GET /v1/lease`: the caller's own.
#[derive(Debug, Clone)]
pub struct List {
    /// Where to go on.
    pub after: Option<Cursor>,
    /// Page size.
    pub limit: usize,
}

impl Operation for List {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let actor = context.actor.ok_or(Fault::Key("caller of a lease"))?;
        let dir = actor.principal.as_bytes().to_vec();
        let query = Query::Scan { kind: Kind::LeaseOwner, dir, after: self.after.clone(), limit: self.limit };
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let places = page.iter().filter_map(|record| parse_place(record.cursor.as_bytes()));
        let keys: Vec<_> = places.map(|(_, id)| lease_key(&id)).collect();
        if keys.iter().any(|key| records.get(key).is_none()) {
            return Ok(Step::need(keys));
        }
        let found = keys.iter().filter_map(|key| records.get(key).flatten());
        let leases = found
            .map(|record| Lease::parse(&record.bytes).map(|lease| lease.view(context.now)))
            .collect::<Result<_, _>>()?;
        let next = if more { page.last().map(|record| record.cursor.to_text()) } else { None };
        Ok(Outcome::read(Reply::json(&Leases { leases, next })))
    }
}

/// `GET /v1/lease:all`.
#[derive(Debug, Clone)]
pub struct ListAll {
    /// Only for this resource and what lies below it.
    pub resource: Option<String>,
    /// Only of this principal.
    pub principal: Option<PrincipalId>,
    /// Only those that are stuck.
    pub stuck: bool,
    /// Where to go on.
    pub after: Option<Cursor>,
    /// Page size, before anything is left out.
    pub limit: usize,
}

/// Whether a lease is for `resource` or something below it.
pub(super) fn lies_in(lease: &Lease, resource: &str) -> bool {
    lease.resource().strip_prefix(resource).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl ListAll {
    fn wants(&self, lease: &Lease, now: Now) -> bool {
        (!self.stuck || lease.is_stuck(now))
            && self.resource.as_ref().is_none_or(|resource| lies_in(lease, resource))
            && self.principal.is_none_or(|principal| lease.owner == principal)
    }
}

impl Operation for ListAll {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let query = Query::Scan { kind: Kind::Lease, dir: vec![], after: self.after.clone(), limit: self.limit };
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let mut leases = Vec::new();
        for record in page {
            let lease = Lease::parse(&record.bytes)?;
            if self.wants(&lease, context.now) {
                leases.push(lease.view(context.now));
            }
        }
        let next = if more { page.last().map(|record| record.cursor.to_text()) } else { None };
        Ok(Outcome::read(Reply::json(&Leases { leases, next })))
    }
}
