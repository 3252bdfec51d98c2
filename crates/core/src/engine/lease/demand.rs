//! Many leases revoked at once: the demand is committed, and worked off page by page until every lease that was there
//! then is marked; one that begins meanwhile may be too. A demand of each kind stands once; asking again begins it anew.

use super::list::lies_in;
use super::{Lease, count_key, lease_key, unknown};
use crate::action::Resource;
use crate::audit::{Demanded, Names};
use crate::barrier::{Cursor, Expect, Kind, Query, Record, RecordKey, Records, Writes};
use crate::engine::database::static_role;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use crate::record::BATCH_BYTES_MAX;
use bulla_crypto::random::Rng;
use bulla_wire::api::{Done, RevokeLeases};
use bulla_wire::error::Code;
use bulla_wire::id::{LeaseId, PrincipalId};
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};

/// Leases looked at in one commit: with three operations each far below the store's limit.
const PAGE: usize = 48;
/// Bytes after which a page ends. What is sealed and named besides takes less than the other half of a batch.
const PAGE_BYTES: usize = BATCH_BYTES_MAX / 2;

/// Which leases, if many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Those for this resource and all below it.
    Resource(String),
    /// Those of this principal.
    Principal(PrincipalId),
    /// All.
    All,
    /// No leases: the static roles of this database, whose passwords may be older than a restore, are rotated now.
    Static(Name),
}

/// `POST /v1/lease:revoke`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// This lease.
    One(LeaseId),
    /// These.
    Many(Which),
}

impl Demand {
    /// What somebody wrote.
    ///
    /// # Errors
    /// If that is not one thing, or leases are never for it.
    pub fn new(body: RevokeLeases) -> Result<Self, Refusal> {
        let RevokeLeases { lease, resource, principal, all } = body;
        Ok(match (lease, resource, principal, all) {
            (Some(id), None, None, false) => Self::One(id),
            (None, Some(resource), None, false) => Self::Many(Which::Resource(leased(&resource)?)),
            (None, None, Some(principal), false) => Self::Many(Which::Principal(principal)),
            (None, None, None, true) => Self::Many(Which::All),
            _ => {
                let refusal = Refusal::new(Code::Malformed, "it is not said which leases").field("lease");
                return Err(refusal.hint("give exactly one of lease, resource, principal, and all as true"));
            }
        })
    }
}

impl Demand {
    /// What of it the audit log tells.
    pub fn told(&self, names: &Names) -> Option<Demanded> {
        Some(match self {
            Self::One(id) => Demanded::Lease(*id),
            Self::Many(Which::Resource(resource)) => Demanded::Resource(names.resource(&resource.parse().ok()?)),
            Self::Many(Which::Principal(principal)) => Demanded::Principal(*principal),
            Self::Many(Which::All) => Demanded::All,
            // Nobody demands it but a release.
            Self::Many(Which::Static(_)) => return None,
        })
    }
}

/// The one spelling of something that leases are for.
fn leased(text: &str) -> Result<String, Refusal> {
    match text.parse() {
        Ok(resource @ (Resource::Databases | Resource::Database(_) | Resource::DatabaseRole(_))) => {
            Ok(resource.to_string())
        }
        _ => {
            let refusal = Refusal::new(Code::Malformed, "leases are for database/<name>/<role>").field("resource");
            Err(refusal.hint("give that, database/<name>, or database for all of them"))
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    which: Which,
    /// The last lease that was looked at.
    after: Option<String>,
}

fn demand_key(which: &Which) -> RecordKey {
    RecordKey::hidden(Kind::LeaseDemand, "", bulla_wire::json::to_vec(which))
}

fn put(writes: &mut Writes, which: Which) {
    writes.put(demand_key(&which), bulla_wire::json::to_vec(&Stored { which, after: None }));
}

/// Whoever is refused from now on keeps nothing: all its leases end. What must be read for that, if it was not yet.
pub(in crate::engine) fn revoke_all_of(
    principal: PrincipalId,
    records: &Records,
    writes: &mut Writes,
) -> Option<RecordKey> {
    let key = count_key(&principal);
    match records.get(&key) {
        None => return Some(key),
        // One that begins at the same time makes this decide again.
        Some(None) => writes.expect.push((key, Expect::Absent)),
        Some(Some(_)) => put(writes, Which::Principal(principal)),
    }
    None
}

/// After a restore was accepted for a database, the passwords of its static roles are drawn anew.
pub(in crate::engine) fn rotate_all_of(database: &Name, writes: &mut Writes) {
    put(writes, Which::Static(database.clone()));
}

/// Whoever is not heard any more, such as by an admission that has become void, keeps nothing.
#[derive(Debug, Clone)]
pub struct Unheard {
    /// Who.
    pub principal: PrincipalId,
}

impl Operation for Unheard {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let mut writes = Writes::default();
        let key = count_key(&self.principal);
        let Some(count) = records.get(&key) else { return Ok(Step::need([key])) };
        if count.is_some() && context.directory.by_id(&self.principal).is_some_and(|who| !who.may_sign()) {
            put(&mut writes, Which::Principal(self.principal));
        }
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}

impl Operation for Demand {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let mut writes = Writes::default();
        match self {
            Self::One(id) => {
                let key = lease_key(id);
                let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
                let Some(record) = current else { return Ok(Outcome::refuse(unknown(id))) };
                let mut lease = Lease::parse(&record.bytes)?;
                if lease.end_now(context.now.steady_ms, &mut writes) {
                    writes.replace(key, current, lease.to_bytes());
                }
            }
            Self::Many(which) => put(&mut writes, which.clone()),
        }
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Kept))
    }
}

/// Asks for demands that are not worked off.
pub fn demands(limit: usize) -> Query {
    Query::Scan { kind: Kind::LeaseDemand, dir: vec![], after: None, limit }
}

/// The next page of a demand.
#[derive(Debug, Clone)]
pub struct Mark {
    which: Which,
}

impl Mark {
    /// By what [`demands`] found.
    ///
    /// # Errors
    /// [`Fault`] if the record does not parse.
    pub fn parse(bytes: &bulla_crypto::secret::SecretBytes) -> Result<Self, Fault> {
        let Stored { which, .. } = parse_record("demand of leases", bytes)?;
        Ok(Self { which })
    }

    fn wants(&self, lease: &Lease) -> bool {
        match &self.which {
            Which::Resource(resource) => lies_in(lease, resource),
            Which::Principal(principal) => lease.owner == *principal,
            Which::All => true,
            Which::Static(_) => false,
        }
    }

    fn query(&self, after: Option<Cursor>) -> Query {
        match &self.which {
            Which::Static(database) => static_role::scan(database, after, PAGE),
            _ => Query::Scan { kind: Kind::Lease, dir: vec![], after, limit: PAGE },
        }
    }

    /// Marks one record, if it is wanted; how many bytes that writes.
    fn mark(&self, record: &Record, context: &Context<'_>, writes: &mut Writes) -> Result<usize, Fault> {
        if let Which::Static(database) = &self.which {
            return static_role::mark(database, record, context, writes);
        }
        let mut lease = Lease::parse(&record.bytes)?;
        if !self.wants(&lease) || !lease.end_now(context.now.steady_ms, writes) {
            return Ok(0);
        }
        let written = lease.to_bytes();
        let bytes = written.len();
        writes.replace(lease_key(&lease.id), Some(record), written);
        Ok(bytes)
    }
}

impl Operation for Mark {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = demand_key(&self.which);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::read(Reply::json(&Done {}))) };
        let Stored { which, after } = parse_record("demand of leases", &record.bytes)?;
        let after = after.as_deref().and_then(Cursor::parse);
        let query = self.query(after);
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let mut writes = Writes::default();
        let (mut bytes, mut last, mut more) = (0_usize, None, more);
        for record in page {
            if bytes >= PAGE_BYTES {
                more = true;
                break;
            }
            last = Some(record);
            bytes = bytes.saturating_add(self.mark(record, context, &mut writes)?);
        }
        match last.filter(|_| more) {
            Some(last) => {
                let after = Some(last.cursor.to_text());
                writes.replace(key, current, bulla_wire::json::to_vec(&Stored { which, after }));
            }
            None => writes.remove(key, record),
        }
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}
