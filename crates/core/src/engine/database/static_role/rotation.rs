//! The rotation of a static role's password: asked for by time or by somebody, then held, or missed and tried again.
//!
//! The next password is committed before the database is asked to take it. A request that was not answered may have an
//! effect until its time is over, so until then the database is asked for the same password alone, and for none after
//! it: whatever arrives late sets what is known.

use super::{Connection, Password, StaticRole, no_static_role, remove, static_key};
use crate::action::RoleName;
use crate::barrier::{Record, RecordKey, Records, Writes};
use crate::engine::database::{connection_key, no_database};
use crate::engine::lease::{self, PENDING_MS};
use crate::operation::{Context, Fault, Now, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::Done;
use bulla_wire::id::LeaseId;
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};

/// An entry of a static role in the queue of its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRotation {
    /// When it is due.
    pub due_ms: u64,
    /// As the role was drawn at its beginning.
    pub id: LeaseId,
}

/// Commits the password that the database is asked to take next.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Which role.
    pub role: RoleName,
    /// By which entry of the queue; none if somebody wants it now.
    pub due: Option<DueRotation>,
}

/// What came of [`Ask`], for whoever asks the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// The role and how its database is reached; none if there is nothing to do.
    pub of: Option<(StaticRole, Connection)>,
}

impl Asked {
    fn nothing() -> Reply {
        Reply::secret(&Self { of: None })
    }
}

impl Ask {
    /// The entries of static roles in a scanned page of a queue whose time has come. Those of leases are empty. One that
    /// does not parse is a [`Fault`], and no reason for the others to wait.
    pub fn due(database: &Name, page: &[Record], now: Now) -> Vec<Result<Self, Fault>> {
        let roles = page.iter().filter(|record| !record.bytes.expose().is_empty());
        let places = roles.filter_map(|record| Some((lease::parse_place(record.cursor.as_bytes())?, record)));
        let due = places.take_while(|((due_ms, _), _)| *due_ms <= now.steady_ms);
        due.map(|((due_ms, id), record)| {
            let name: Name = parse_record("due static role", &record.bytes)?;
            Ok(Self { role: RoleName::new(database, &name), due: Some(DueRotation { due_ms, id }) })
        })
        .collect()
    }

    fn entry(&self) -> Option<RecordKey> {
        let due = self.due.as_ref()?;
        Some(lease::due_key(self.role.database(), due.due_ms, &due.id))
    }

    /// What is said where nothing is done: a refusal to who asked, nothing where time did.
    fn no(&self, refusal: Refusal) -> Step {
        if self.due.is_some() { Outcome::read(Asked::nothing()) } else { Outcome::refuse(refusal) }
    }

    /// An entry that is of no use any more goes.
    fn stray(&self, entry: Option<RecordKey>) -> Step {
        let Some(entry) = entry else { return Outcome::refuse(no_static_role(&self.role)) };
        let mut writes = Writes::default();
        writes.delete(entry);
        Outcome::wrote(writes, Asked::nothing(), Replay::Again)
    }
}

/// Which password is asked for next; until when none is, if a third one must wait.
fn draw_next(role: &mut StaticRole, context: &Context<'_>, rng: &mut dyn Rng) -> Result<(), u64> {
    let now_ms = context.now.steady_ms;
    if role.losses < context.losses {
        // What was known then may have been rotated since, by the cluster that was restored or by another one.
        (role.password, role.next) = (None, Some(Password::new(lease::password(rng))));
        (role.doubtful, role.fence_ms, role.losses) = (false, 0, context.losses);
    } else if role.next.is_some() {
        if let Some(asked_ms) = role.asked_ms {
            // Whoever asked died of it.
            role.doubtful = true;
            role.fence_ms = role.fence_ms.max(asked_ms.saturating_add(PENDING_MS));
        }
    } else if now_ms < role.fence_ms {
        return Err(role.fence_ms);
    } else {
        role.next = Some(Password::new(lease::password(rng)));
    }
    role.asked_ms = Some(now_ms);
    Ok(())
}

impl Operation for Ask {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let (of, key, entry) = (connection_key(self.role.database()), static_key(&self.role), self.entry());
        let keys: Vec<RecordKey> = [of.clone(), key.clone()].into_iter().chain(entry.clone()).collect();
        if keys.iter().any(|key| records.get(key).is_none()) {
            return Ok(Step::need(keys));
        }
        // Somebody else was faster, or the clock is behind what it was.
        let gone = entry.as_ref().is_some_and(|entry| records.get(entry).flatten().is_none());
        let early = self.due.as_ref().is_some_and(|due| due.due_ms > context.now.steady_ms);
        let found = records.get(&key).flatten();
        if gone || early || (context.repeated.is_some() && found.is_none()) {
            return Ok(Outcome::read(Asked::nothing()));
        }
        let Some(current) = found else { return Ok(self.stray(entry)) };
        let mut role = StaticRole::parse(&current.bytes)?;
        if context.repeated.is_some() {
            return Ok(role.unrotated().map_or_else(|| Outcome::read(Asked::nothing()), Outcome::refuse));
        }
        if self.due.as_ref().is_some_and(|due| due.id != role.id || due.due_ms != role.due_ms) {
            return Ok(self.stray(entry));
        }
        let Some(found) = records.get(&of).flatten() else {
            return Ok(self.no(no_database(self.role.database())));
        };
        let connection: Connection = parse_record("database", &found.bytes)?;
        if let Some(refusal) = connection.parked(context) {
            return Ok(self.no(refusal));
        }
        let mut writes = Writes::default();
        if let Err(fence_ms) = draw_next(&mut role, context, rng) {
            if self.due.is_none() {
                let refusal = role.fenced(context.now).ok_or(Fault::Key("fence of a rotation"))?;
                return Ok(Outcome::refuse(refusal));
            }
            role.move_to(self.role.database(), fence_ms, &mut writes);
            writes.replace(key, Some(current), role.to_bytes());
            return Ok(Outcome::wrote(writes, Asked::nothing(), Replay::Again));
        }
        // If whoever asks dies of it, the queue goes on.
        let due_ms = role.due_ms.min(context.now.steady_ms);
        role.move_to(self.role.database(), due_ms, &mut writes);
        writes.replace(key, Some(current), role.to_bytes());
        let asked = Asked { of: Some((role, connection)) };
        Ok(Outcome::wrote(writes, Reply::secret(&asked), Replay::Again))
    }
}

/// A role, and the record that it was read from.
type Found<'a> = Option<(StaticRole, &'a Record)>;

/// What is read of a role that was asked for: none if it is gone, or is another one of the same name.
fn read_asked<'a>(of: &RoleName, id: &LeaseId, records: &'a Records) -> Result<Result<Found<'a>, Step>, Fault> {
    let key = static_key(of);
    let Some(current) = records.get(&key) else { return Ok(Err(Step::need([key]))) };
    let Some(record) = current else { return Ok(Ok(None)) };
    let role = StaticRole::parse(&record.bytes)?;
    Ok(Ok((role.id == *id).then_some((role, record))))
}

fn done() -> Step {
    Outcome::read(Reply::json(&Done {}))
}

/// The database has taken the next password.
#[derive(Debug, Clone)]
pub struct Held {
    /// Which role.
    pub role: RoleName,
    /// As it was drawn at its beginning.
    pub id: LeaseId,
    /// The password that it took.
    pub password: Password,
}

impl Operation for Held {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (mut role, record) = match read_asked(&self.role, &self.id, records)? {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(done()),
            Err(need) => return Ok(need),
        };
        if role.next.as_ref() != Some(&self.password) {
            return Ok(done());
        }
        let now_ms = context.now.steady_ms;
        (role.password, role.next) = (role.next.take(), None);
        (role.asked_ms, role.doubtful) = (None, false);
        (role.attempts, role.error) = (0, None);
        role.rotated_ms = Some(now_ms);
        let mut writes = Writes::default();
        let due_ms = now_ms.saturating_add(role.rotate_every_s.saturating_mul(1000));
        role.move_to(self.role.database(), due_ms, &mut writes);
        writes.replace(static_key(&self.role), Some(record), role.to_bytes());
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}

/// The database did not take it, or nobody knows: it is tried again later, for ever.
#[derive(Debug, Clone)]
pub struct Missed {
    /// Which role.
    pub role: RoleName,
    /// As it was drawn at its beginning.
    pub id: LeaseId,
    /// Why.
    pub error: String,
    /// Whether it is certain that the database did not take it by this request.
    pub certain: bool,
}

impl Operation for Missed {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (mut role, record) = match read_asked(&self.role, &self.id, records)? {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(done()),
            Err(need) => return Ok(need),
        };
        let Some(asked_ms) = role.asked_ms.take() else { return Ok(done()) };
        if !self.certain {
            role.doubtful = true;
            role.fence_ms = role.fence_ms.max(asked_ms.saturating_add(PENDING_MS));
        }
        let mut writes = Writes::default();
        let due_ms = context.now.steady_ms.saturating_add(lease::back_off_ms(role.attempts));
        role.attempts = role.attempts.saturating_add(1);
        role.error = Some(self.error.chars().take(lease::ERROR_CHARS).collect());
        role.move_to(self.role.database(), due_ms, &mut writes);
        writes.replace(static_key(&self.role), Some(record), role.to_bytes());
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}

/// A role whose first rotation the database refused is none, unless it may have taken an earlier one.
#[derive(Debug, Clone)]
pub struct Withdraw {
    /// Which role.
    pub role: RoleName,
    /// As it was drawn at its beginning.
    pub id: LeaseId,
}

impl Operation for Withdraw {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (role, record) = match read_asked(&self.role, &self.id, records)? {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(done()),
            Err(need) => return Ok(need),
        };
        if role.rotated_ms.is_some() || role.doubtful {
            return Ok(done());
        }
        let mut writes = Writes::default();
        writes.remove(static_key(&self.role), record);
        remove(&self.role, &role, &mut writes);
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}

/// Has a static role rotated now whose password is older than a restore; how many bytes that writes.
pub(in crate::engine) fn mark(
    database: &Name,
    record: &Record,
    context: &Context<'_>,
    writes: &mut Writes,
) -> Result<usize, Fault> {
    let mut role = StaticRole::parse(&record.bytes)?;
    if role.losses >= context.losses || role.due_ms <= context.now.steady_ms {
        return Ok(0);
    }
    role.move_to(database, context.now.steady_ms, writes);
    let written = role.to_bytes();
    let bytes = written.len();
    writes.replace(static_key(&RoleName::new(database, &role.name)), Some(record), written);
    Ok(bytes)
}
