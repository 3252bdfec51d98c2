//! Rotation of the administering user's password. The next one is written beside the current one before the database
//! is asked to take it, so that one of both works whatever crashes.

use super::{Connection, Password, connection_key, neighbours, no_database};
use crate::barrier::{Records, Writes};
use crate::engine::lease;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::Done;
use bulla_wire::error::Code;
use bulla_wire::name::Name;

/// Commits the password that a rotation sets next. One that was begun and did not end goes on with its own.
#[derive(Debug, Clone)]
pub struct BeginRotation {
    /// Which database.
    pub name: Name,
}

impl Operation for BeginRotation {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let key = connection_key(&self.name);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::refuse(no_database(&self.name))) };
        let mut connection: Connection = parse_record("database", &record.bytes)?;
        if let Some(refusal) = connection.parked(context) {
            return Ok(Outcome::refuse(refusal));
        }
        let same = match neighbours(&connection, records)? {
            Ok(same) => same,
            Err(need) => return Ok(Step::Need(vec![need])),
        };
        for other in same {
            if other.user == connection.user && other.name != connection.name {
                let message = format!("{} is reached by the same user, and would be locked out", other.name);
                let refusal = Refusal::new(Code::Exists, message).field("name");
                return Ok(Outcome::refuse(refusal.hint("give each a user of its own, or delete one of them")));
            }
        }
        if context.repeated.is_some() || connection.next.is_some() {
            return Ok(Outcome::read(Reply::secret(&connection)));
        }
        connection.next = Some(Password::new(lease::password(rng)));
        let mut writes = Writes::default();
        writes.replace(key, current, bulla_wire::json::to_vec(&connection));
        Ok(Outcome::wrote(writes, Reply::secret(&connection), Replay::Again))
    }
}

/// The database has taken the next password, or has it already.
#[derive(Debug, Clone)]
pub struct EndRotation {
    /// Which database.
    pub name: Name,
    /// The password that it took.
    pub password: Password,
}

impl Operation for EndRotation {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = connection_key(&self.name);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::refuse(no_database(&self.name))) };
        let mut connection: Connection = parse_record("database", &record.bytes)?;
        if connection.next.as_ref() != Some(&self.password) {
            let message = "the database was configured anew while its password was changed";
            let refusal = Refusal::new(Code::VersionMismatch, message).field("password");
            return Ok(Outcome::refuse(refusal.hint("configure it with a password that works, then rotate again")));
        }
        connection.next = None;
        connection.password.clone_from(&self.password);
        connection.rotated_ms = Some(context.now.unix_ms);
        let mut writes = Writes::default();
        writes.replace(key, current, bulla_wire::json::to_vec(&connection));
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}
