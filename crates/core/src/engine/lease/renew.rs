//! Renewal: first the database, then the lease. A crash between leaves a user who could live longer than its lease,
//! and is dropped with it.

use super::{Lease, State, lease_key, unknown};
use crate::barrier::{Records, Writes};
use crate::engine::database::{Connection, connection_key, no_database};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::error::Code;
use bulla_wire::id::LeaseId;
use serde::{Deserialize, Serialize};

/// What a renewal would come to. It changes nothing.
#[derive(Debug, Clone)]
pub struct PlanRenewal {
    /// Which lease.
    pub id: LeaseId,
    /// How long it shall last from now, in seconds.
    pub ttl_s: Option<u64>,
}

/// A renewal that may be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Renewal {
    /// The lease.
    pub lease: Lease,
    /// How the database is reached.
    pub connection: Connection,
    /// When the lease ends then.
    pub expires_ms: u64,
}

fn own_active(records: &Records, context: &Context<'_>, id: &LeaseId) -> Result<Result<Lease, Refusal>, Fault> {
    let lease = records.get(&lease_key(id)).flatten().map(|record| Lease::parse(&record.bytes)).transpose()?;
    let caller = context.actor.map(|actor| actor.principal);
    let Some(lease) = lease.filter(|lease| Some(lease.owner) == caller) else { return Ok(Err(unknown(id))) };
    if lease.state != State::Active || lease.expires_ms <= context.now.steady_ms {
        let refusal = Refusal::new(Code::Expired, "the lease is not active any more");
        return Ok(Err(refusal.hint("get new credentials with `bulla database creds`")));
    }
    Ok(Ok(lease))
}

impl Operation for PlanRenewal {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = lease_key(&self.id);
        if records.get(&key).is_none() {
            return Ok(Step::need([key]));
        }
        let lease = match own_active(records, context, &self.id)? {
            Ok(lease) => lease,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        if lease.certificate.is_some() {
            let refusal = Refusal::new(Code::Malformed, "a lease with a certificate ends with it and is not renewed");
            return Ok(Outcome::refuse(refusal.field("lease").hint("get another user, with a key pair of its own")));
        }
        let connection = connection_key(&lease.database);
        let Some(found) = records.get(&connection) else { return Ok(Step::need([connection])) };
        let Some(found) = found else { return Ok(Outcome::refuse(no_database(&lease.database))) };
        let connection: Connection = parse_record("database", &found.bytes)?;
        if let Some(refusal) = connection.parked(context) {
            return Ok(Outcome::refuse(refusal));
        }
        let ttl_ms = self.ttl_s.map_or(lease.ttl_ms, |ttl_s| ttl_s.saturating_mul(1000));
        if ttl_ms == 0 {
            let refusal = Refusal::new(Code::Malformed, "a lease lasts at least a second").field("ttl_s");
            return Ok(Outcome::refuse(refusal.hint("revoke it if it is not needed")));
        }
        let expires_ms = context.now.steady_ms.saturating_add(ttl_ms).min(lease.max_ms);
        Ok(Outcome::read(Reply::secret(&Renewal { lease, connection, expires_ms })))
    }
}

/// The user may live longer now, and so does the lease.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// Which lease.
    pub id: LeaseId,
    /// When it ends now.
    pub expires_ms: u64,
}

impl Operation for Renewed {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = lease_key(&self.id);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let mut lease = match own_active(records, context, &self.id)? {
            Ok(lease) => lease,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        if context.repeated.is_some() {
            return Ok(Outcome::read(Reply::json(&lease.view(context.now))));
        }
        let mut writes = Writes::default();
        lease.password = None;
        lease.expires_ms = self.expires_ms.min(lease.max_ms);
        lease.move_to(lease.expires_ms, &mut writes);
        writes.replace(key, current, lease.to_bytes());
        Ok(Outcome::wrote(writes, Reply::json(&lease.view(context.now)), Replay::Again))
    }
}
