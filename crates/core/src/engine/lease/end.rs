//! The end of a lease: revoked by somebody or by time, tried until its user is gone.

use super::{Lease, State, count_key, due_key, lease_key, parse_place, remove, unknown};
use crate::action::RoleName;
use crate::barrier::{Cursor, Expect, Kind, Query, Record, Records, Writes};
use crate::engine::database::{Connection, Role, connection_key, role_key};
use crate::operation::{Context, Fault, Now, Operation, Outcome, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::Done;
use bulla_wire::id::LeaseId;
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};

/// `POST /v1/lease/{lease}:revoke`: its owner ends it.
#[derive(Debug, Clone)]
pub struct Revoke {
    /// Which.
    pub id: LeaseId,
}

impl Operation for Revoke {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = lease_key(&self.id);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let lease = current.map(|record| Lease::parse(&record.bytes)).transpose()?;
        let caller = context.actor.map(|actor| actor.principal);
        let Some(mut lease) = lease.filter(|lease| Some(lease.owner) == caller) else {
            return Ok(Outcome::refuse(unknown(&self.id)));
        };
        let mut writes = Writes::default();
        if lease.end_now(context.now.steady_ms, &mut writes) {
            writes.replace(key, current, lease.to_bytes());
        }
        Ok(Outcome::wrote(writes, Reply::json(&lease.view(context.now)), Replay::Kept))
    }
}

/// Asks for the next entries of a database's leases and static roles, earliest first.
pub fn scan(database: &Name, after: Option<Cursor>, limit: usize) -> Query {
    Query::Scan { kind: Kind::LeaseDue, dir: database.as_str().as_bytes().to_vec(), after, limit }
}

/// One entry that is due: its lease is revoked from now on, if it was not before.
#[derive(Debug, Clone)]
pub struct Take {
    /// Whose queue it stands in.
    pub database: Name,
    /// When it is due.
    pub due_ms: u64,
    /// Which lease.
    pub id: LeaseId,
}

/// What is to be dropped, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Taken {
    /// The lease; none if the entry was of no use.
    pub lease: Option<Lease>,
    /// How the database is reached.
    pub connection: Option<Connection>,
    /// Statements of the role as it is now that drop the user, if those of the lease failed before and are others.
    pub corrected: Option<Vec<String>>,
}

/// What of the role as it is now is tried if the lease's own statements fail once more: a mistake in these would else
/// keep the user for ever. Whoever may write the role has any statement carried out there in any case.
fn corrected(lease: &Lease, records: &Records) -> Result<Result<Option<Vec<String>>, Step>, Fault> {
    if !matches!(lease.state, State::Revoking { attempts: 1.., .. }) {
        return Ok(Ok(None));
    }
    let key = role_key(&RoleName::new(&lease.database, &lease.role));
    let Some(found) = records.get(&key) else { return Ok(Err(Step::need([key]))) };
    // A role that nobody can read any more keeps no lease from ending.
    let role: Option<Role> = found.and_then(|record| parse_record("database role", &record.bytes).ok());
    Ok(Ok(role.map(|role| role.revocation).filter(|now| *now != lease.revocation)))
}

impl Take {
    /// The entries of leases in a scanned page whose time has come. Those of static roles hold a name.
    pub fn due(database: &Name, page: &[Record], now: Now) -> Vec<Self> {
        let leases = page.iter().filter(|record| record.bytes.expose().is_empty());
        let places = leases.filter_map(|record| parse_place(record.cursor.as_bytes()));
        let due = places.take_while(|(due_ms, _)| *due_ms <= now.steady_ms);
        due.map(|(due_ms, id)| Self { database: database.clone(), due_ms, id }).collect()
    }
}

impl Operation for Take {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (entry, key) = (due_key(&self.database, self.due_ms, &self.id), lease_key(&self.id));
        let connection = connection_key(&self.database);
        let keys = [entry.clone(), key.clone(), connection.clone()];
        if keys.iter().any(|key| records.get(key).is_none()) {
            return Ok(Step::need(keys));
        }
        let nothing = || Reply::secret(&Taken { lease: None, connection: None, corrected: None });
        // Somebody else was faster, or the clock is behind what it was.
        if matches!(records.get(&entry), Some(None)) || self.due_ms > context.now.steady_ms {
            return Ok(Outcome::read(nothing()));
        }
        let mut writes = Writes::default();
        let now_ms = context.now.steady_ms;
        let current = records.get(&key).flatten();
        let lease = current.map(|record| Lease::parse(&record.bytes)).transpose()?;
        let Some(mut lease) = lease.filter(|lease| lease.due_ms == self.due_ms) else {
            writes.delete(entry);
            return Ok(Outcome::wrote(writes, nothing(), Replay::Again));
        };
        let connection = records.get(&connection).flatten();
        let connection: Option<Connection> =
            connection.map(|record| parse_record("database", &record.bytes)).transpose()?;
        if connection.as_ref().is_some_and(|connection| connection.parked(context).is_some()) {
            return Ok(Outcome::read(nothing()));
        }
        let corrected = match corrected(&lease, records)? {
            Ok(corrected) => corrected,
            Err(need) => return Ok(need),
        };
        let begun = matches!(lease.state, State::Revoking { .. });
        if !begun {
            // Its time has come, so its entry is where it belongs; or it is put off below.
            lease.over();
        }
        // Where another server answers now, its user is not there, and would count as dropped.
        let elsewhere = connection.as_ref().filter(|connection| !connection.was_at(&lease.address));
        if let Some(connection) = elsewhere {
            let error =
                format!("its user is at {}, and the database is now at {}", lease.address, connection.address());
            lease.fail(&error, now_ms, &mut writes);
            writes.replace(key, current, lease.to_bytes());
            return Ok(Outcome::wrote(writes, nothing(), Replay::Again));
        }
        if !begun {
            // Before anything is dropped: a renewal that comes now must not be taken.
            writes.replace(key, current, lease.to_bytes());
        }
        let taken = Taken { lease: Some(lease), connection, corrected };
        Ok(Outcome::wrote(writes, Reply::secret(&taken), Replay::Again))
    }
}

/// Its user is gone, or was never asked for, so it is too.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Which.
    pub id: LeaseId,
}

impl Operation for Ended {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = lease_key(&self.id);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::read(Reply::json(&Done {}))) };
        let lease = Lease::parse(&record.bytes)?;
        let counted = count_key(&lease.owner);
        if records.get(&counted).is_none() {
            return Ok(Step::need([counted]));
        }
        let mut writes = Writes::default();
        writes.expect.push((key, Expect::At(record.revision)));
        remove(&lease, records, &mut writes)?;
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}

/// Its user could not be dropped: it is tried again later, for ever.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Which.
    pub id: LeaseId,
    /// Why.
    pub error: String,
}

impl Operation for Failed {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = lease_key(&self.id);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let lease = current.map(|record| Lease::parse(&record.bytes)).transpose()?;
        let Some(mut lease) = lease else { return Ok(Outcome::read(Reply::json(&Done {}))) };
        if !matches!(lease.state, State::Revoking { .. }) {
            return Ok(Outcome::read(Reply::json(&Done {})));
        }
        let mut writes = Writes::default();
        lease.fail(&self.error, context.now.steady_ms, &mut writes);
        writes.replace(key, current, lease.to_bytes());
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}
