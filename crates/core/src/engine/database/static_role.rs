//! Static roles: users of a database who are there already, and whose passwords the cluster owns and rotates.
//!
//! What is known of a password is committed before the database is asked for anything. While nobody knows which of two
//! it has, none is told; the queue of the database goes on with the same one until the database has answered.

mod rotation;

pub(in crate::engine) use rotation::mark;
pub use rotation::{Ask, Asked, DueRotation, Held, Missed, Withdraw};

use super::{Connection, Password, connection_key, neighbours, no_database, role_key};
use crate::action::RoleName;
use crate::barrier::{Cursor, Expect, Kind, Query, RecordKey, Records, Writes};
use crate::engine::lease;
use crate::operation::{Context, Fault, Now, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::{Rng, draw};
use bulla_wire::api::{self, Done, PutStaticRole, StaticCredentials};
use bulla_wire::error::Code;
use bulla_wire::id::LeaseId;
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Shortest time between two rotations in seconds: a rotation and its retries end within it, and no program asks for
/// its password more often.
pub const MIN_EVERY_S: u64 = 60;
/// Longest time between two rotations in seconds: a year.
pub const MAX_EVERY_S: u64 = 366 * 24 * 3600;
/// Longest name of a user in bytes: what PostgreSQL keeps whole. MariaDB's own limit is looked at besides.
const MAX_USER_BYTES: usize = 63;
/// How names of users begin that are made for leases.
pub(in crate::engine) const MADE: &str = "bulla_";
/// A static role as it is stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRole {
    /// Its name.
    pub name: Name,
    /// Drawn at its beginning; by it and its time it stands in the queue.
    pub id: LeaseId,
    /// The user in the database.
    pub user: String,
    /// How often its password is rotated, in seconds.
    pub rotate_every_s: u64,
    /// The password that it had when that was known last; none before the first rotation, and after a restore.
    pub password: Option<Password>,
    /// The password that the database is to take, and may have taken.
    pub next: Option<Password>,
    /// When the database was asked to take it, by a request of which nothing was heard yet.
    pub asked_ms: Option<u64>,
    /// Whether an earlier request was not answered: it may have taken the next one.
    pub doubtful: bool,
    /// Until when a request that was not answered may still have an effect: no third password is set before.
    pub fence_ms: u64,
    /// When its password was rotated last.
    pub rotated_ms: Option<u64>,
    /// Where its entry stands: when it is rotated, or tried again.
    pub due_ms: u64,
    /// How often that failed.
    pub attempts: u32,
    /// Why it failed last.
    pub error: Option<String>,
    /// How often the store had lost commits when its password was drawn: after another loss it may be an old one.
    pub losses: u32,
}

impl fmt::Debug for StaticRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticRole({}, {})", self.name, self.user)
    }
}

impl StaticRole {
    pub(super) fn parse(bytes: &bulla_crypto::secret::SecretBytes) -> Result<Self, Fault> {
        parse_record("static role", bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        bulla_wire::json::to_vec(self)
    }

    fn due_key(&self, database: &Name) -> RecordKey {
        lease::due_key(database, self.due_ms, &self.id)
    }

    /// Writes its entry, at another time if that is another. It holds the name, by which entries of leases differ.
    fn move_to(&mut self, database: &Name, due_ms: u64, writes: &mut Writes) {
        if due_ms != self.due_ms {
            writes.delete(self.due_key(database));
            self.due_ms = due_ms;
        }
        writes.put(self.due_key(database), bulla_wire::json::to_vec(&self.name));
    }

    /// Whether it may have another password than the one that was known last.
    fn in_doubt(&self) -> bool {
        self.password.is_none() || self.asked_ms.is_some() || self.doubtful
    }

    /// Why nothing that would get in the way of an earlier request is done yet.
    fn fenced(&self, now: Now) -> Option<Refusal> {
        let asked_ms = self.asked_ms.map_or(0, |asked_ms| asked_ms.saturating_add(lease::PENDING_MS));
        let until_ms = self.fence_ms.max(asked_ms);
        (now.steady_ms < until_ms).then(|| {
            let wait_s = until_ms.saturating_sub(now.steady_ms).div_ceil(1000);
            let message = "the database did not answer an earlier rotation, which may still have its effect";
            Refusal::new(Code::DatabaseFailed, message).hint(format!("try again in {wait_s} s"))
        })
    }

    /// Why the last rotation that was asked for did not give the user another password, or not for certain.
    fn unrotated(&self) -> Option<Refusal> {
        (self.in_doubt() || self.error.is_some()).then(|| {
            let why = self.error.as_deref().unwrap_or("the database has not answered");
            let message = format!("the password of {} was not rotated yet: {why}", self.user);
            Refusal::new(Code::DatabaseFailed, message)
                .hint("it is tried again by itself; `bulla database static get` shows it")
        })
    }

    fn view(self, role: &RoleName, context: &Context<'_>) -> api::StaticRole {
        api::StaticRole {
            database: role.database().clone(),
            role: self.name.clone(),
            rotating: self.in_doubt(),
            outdated: self.losses < context.losses,
            user: self.user,
            rotate_every_s: self.rotate_every_s,
            rotated_ms: self.rotated_ms,
            rotates_ms: self.due_ms,
            attempts: self.attempts,
            error: self.error,
        }
    }
}

/// The record of a static role.
pub fn static_key(role: &RoleName) -> RecordKey {
    RecordKey::hidden(Kind::StaticRole, role.database().as_str(), role.role().as_str())
}

/// The record that says by which static role a user is administered. No database is called so: a name has no slash.
pub(super) fn user_key(database: &Name, user: &str) -> RecordKey {
    RecordKey::hidden(Kind::StaticRole, format!("{database}/users"), user)
}

/// Asks for the static roles of a database, in no order that means anything.
pub(in crate::engine) fn scan(database: &Name, after: Option<Cursor>, limit: usize) -> Query {
    Query::Scan { kind: Kind::StaticRole, dir: database.as_str().as_bytes().to_vec(), after, limit }
}

fn no_static_role(role: &RoleName) -> Refusal {
    Refusal::new(Code::NotFound, format!("{} has no static role {}", role.database(), role.role()))
        .hint("`bulla database static list` shows all")
}

/// Why a database is not reached by this user: its password is a static role's, which would lock the database out.
pub(super) fn administered(
    connection: &Connection,
    records: &Records,
    writes: &mut Writes,
) -> Result<Result<Option<Refusal>, Vec<Query>>, Fault> {
    let same = match neighbours(connection, records)? {
        Ok(same) => same,
        Err(need) => return Ok(Err(vec![need])),
    };
    let own = std::iter::once(&connection.name);
    let names = own.chain(same.iter().map(|other| &other.name).filter(|name| **name != connection.name));
    let keys: Vec<RecordKey> = names.map(|name| user_key(name, &connection.user)).collect();
    if keys.iter().any(|key| records.get(key).is_none()) {
        return Ok(Err(keys.into_iter().map(Query::Get).collect()));
    }
    for key in keys {
        if records.get(&key).flatten().is_some() {
            let message = format!("{} is the user of a static role, whose password changes", connection.user);
            let refusal = Refusal::new(Code::Exists, message).field("user");
            return Ok(Ok(Some(refusal.hint("reach the database by a user of its own, or delete the static role"))));
        }
        writes.expect.push((key, Expect::Absent));
    }
    Ok(Ok(None))
}

/// What came of [`PutStatic`], for whoever rotates the password next.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Stored {
    /// Whether the role began with it.
    pub first: bool,
}

/// `PUT /v1/database/{role}:static`: commits that the user's password is the cluster's from now on. It is due at once.
#[derive(Debug, Clone)]
pub struct PutStatic {
    /// Which.
    pub role: RoleName,
    /// What it is.
    pub body: PutStaticRole,
}

impl PutStatic {
    /// Checks what can be checked without records.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(role: RoleName, body: PutStaticRole) -> Result<Self, Refusal> {
        let bad = |field: &str, reason: String, hint: &str| {
            Err(Refusal::new(Code::Malformed, reason).field(field).hint(hint))
        };
        let user = &body.user;
        // What stands at the ends of a name one server keeps and the other does not.
        let plain = !user.is_empty() && user.len() <= MAX_USER_BYTES && user.trim() == user;
        if !plain || user.chars().any(char::is_control) {
            let reason =
                format!("a user has 1 to {MAX_USER_BYTES} bytes, no control character, and no space at its ends");
            return bad("user", reason, "give the name as the database has it");
        }
        if user.to_ascii_lowercase().starts_with(MADE) {
            let reason = format!("users whose names begin with {MADE} are made for leases, and dropped with them");
            return bad("user", reason, "give a user that was made in the database");
        }
        if !(MIN_EVERY_S..=MAX_EVERY_S).contains(&body.rotate_every_s) {
            let reason = format!("a password is rotated every {MIN_EVERY_S} to {MAX_EVERY_S} s");
            return bad("rotate_every_s", reason, "give a time from a minute to a year (--rotate-every 24h)");
        }
        Ok(Self { role, body })
    }

    /// Why its user cannot be had; its writes hold that this stays so.
    fn refused(
        &self,
        connection: &Connection,
        same: &[Connection],
        records: &Records,
        writes: &mut Writes,
    ) -> Option<Refusal> {
        let exists = |message: String, hint: &str| Some(Refusal::new(Code::Exists, message).field("user").hint(hint));
        for other in std::iter::once(connection).chain(same) {
            if other.user == self.body.user {
                let message = format!("{} is reached by this user", other.name);
                return exists(message, "`bulla database rotate-root` rotates its password");
            }
            let key = user_key(&other.name, &self.body.user);
            if let Some(holder) = records.get(&key).flatten() {
                let held = parse_record::<Name>("user of a static role", &holder.bytes);
                let by = held.map_or_else(|_| other.name.to_string(), |role| format!("{}/{role}", other.name));
                let message = format!("its password is that of the static role {by} already");
                return exists(message, "one user has one static role: use that one, or delete it first");
            }
            writes.expect.push((key, Expect::Absent));
        }
        None
    }

    /// Another period for a role that is there: it counts from the last rotation.
    fn change(&self, mut role: StaticRole, context: &Context<'_>, writes: &mut Writes) -> Result<StaticRole, Refusal> {
        if role.user != self.body.user {
            let message = format!("the static role is that of the user {}", role.user);
            let refusal = Refusal::new(Code::Exists, message).field("user");
            return Err(refusal.hint("choose another name for another user, or delete the static role first"));
        }
        role.rotate_every_s = self.body.rotate_every_s;
        // What is tried again keeps its wait.
        let waits = role.in_doubt() || role.next.is_some() || role.losses < context.losses;
        if let (Some(rotated_ms), false) = (role.rotated_ms, waits) {
            let due_ms = rotated_ms.saturating_add(role.rotate_every_s.saturating_mul(1000));
            role.move_to(self.role.database(), due_ms.max(context.now.steady_ms), writes);
        }
        Ok(role)
    }

    fn begin(&self, context: &Context<'_>, rng: &mut dyn Rng) -> StaticRole {
        StaticRole {
            name: self.role.role().clone(),
            id: LeaseId::new(draw(rng)),
            user: self.body.user.clone(),
            rotate_every_s: self.body.rotate_every_s,
            password: None,
            next: None,
            asked_ms: None,
            doubtful: false,
            fence_ms: 0,
            rotated_ms: None,
            due_ms: context.now.steady_ms,
            attempts: 0,
            error: None,
            losses: context.losses,
        }
    }
}

impl Operation for PutStatic {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let (of, key) = (connection_key(self.role.database()), static_key(&self.role));
        let other = role_key(&self.role);
        let (Some(found), Some(current), Some(dynamic)) = (records.get(&of), records.get(&key), records.get(&other))
        else {
            return Ok(Step::need([of, key, other]));
        };
        let Some(found) = found else { return Ok(Outcome::refuse(no_database(self.role.database()))) };
        let connection: Connection = parse_record("database", &found.bytes)?;
        let mut writes = Writes::default();
        if let Some(record) = current {
            return Ok(match self.change(StaticRole::parse(&record.bytes)?, context, &mut writes) {
                Ok(role) => {
                    writes.replace(key, current, role.to_bytes());
                    Outcome::wrote(writes, Reply::secret(&Stored { first: false }), Replay::Again)
                }
                Err(refusal) => Outcome::refuse(refusal),
            });
        }
        if context.repeated.is_some() {
            let refusal = Refusal::new(Code::NonceExpired, "the static role of this request is gone meanwhile");
            return Ok(Outcome::refuse(refusal.field("nonce").hint("ask again with a new nonce")));
        }
        if let Some(refusal) = connection.parked(context) {
            return Ok(Outcome::refuse(refusal));
        }
        if dynamic.is_some() {
            let refusal = Refusal::new(Code::Exists, format!("{} is a role whose users are made", self.role));
            return Ok(Outcome::refuse(refusal.field("role").hint("choose another name, or delete that role first")));
        }
        let same = match neighbours(&connection, records)? {
            Ok(same) => same,
            Err(need) => return Ok(Step::Need(vec![need])),
        };
        let all = std::iter::once(&connection).chain(&same);
        let keys: Vec<RecordKey> = all.map(|other| user_key(&other.name, &self.body.user)).collect();
        if keys.iter().any(|key| records.get(key).is_none()) {
            return Ok(Step::need(keys));
        }
        let same: Vec<Connection> = same.into_iter().filter(|other| other.name != connection.name).collect();
        if let Some(refusal) = self.refused(&connection, &same, records, &mut writes) {
            return Ok(Outcome::refuse(refusal));
        }
        let role = self.begin(context, rng);
        // Neither is the database configured anew at the same time, nor deleted by who saw no role, nor the name another's.
        writes.replace(of, Some(found), bulla_wire::json::to_vec(&connection));
        writes.expect.push((other, Expect::Absent));
        writes.create(key, role.to_bytes());
        let held = user_key(self.role.database(), &role.user);
        writes.expect.retain(|(key, _)| *key != held);
        writes.create(held, bulla_wire::json::to_vec(&role.name));
        writes.put(role.due_key(self.role.database()), bulla_wire::json::to_vec(&role.name));
        Ok(Outcome::wrote(writes, Reply::secret(&Stored { first: true }), Replay::Again))
    }
}

/// `GET /v1/database/{role}:static`.
#[derive(Debug, Clone)]
pub struct ReadStatic {
    /// Which.
    pub role: RoleName,
}

impl Operation for ReadStatic {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = static_key(&self.role);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::refuse(no_static_role(&self.role))) };
        Ok(Outcome::read(Reply::json(&StaticRole::parse(&record.bytes)?.view(&self.role, context))))
    }
}

/// `GET /v1/database/{role}:creds`: the password, if it is known which one the user has.
#[derive(Debug, Clone)]
pub struct ReadPassword {
    /// Which.
    pub role: RoleName,
}

impl Operation for ReadPassword {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (of, key) = (connection_key(self.role.database()), static_key(&self.role));
        let (Some(found), Some(current)) = (records.get(&of), records.get(&key)) else {
            return Ok(Step::need([of, key]));
        };
        let Some(record) = current else { return Ok(Outcome::refuse(no_static_role(&self.role))) };
        let Some(found) = found else { return Ok(Outcome::refuse(no_database(self.role.database()))) };
        let connection: Connection = parse_record("database", &found.bytes)?;
        if let Some(refusal) = connection.parked(context) {
            return Ok(Outcome::refuse(refusal));
        }
        let role = StaticRole::parse(&record.bytes)?;
        if role.losses < context.losses {
            let message = "what is known of its password is older than the restore: it is rotated first";
            return Ok(Outcome::refuse(
                Refusal::new(Code::Parked, message).hint("ask again in a moment; `bulla database static get` shows it"),
            ));
        }
        let Some(password) = role.password.as_ref().filter(|_| !role.in_doubt()) else {
            let why = role.error.as_deref().unwrap_or("its rotation goes on");
            let message =
                format!("which password {} has is not known until the database has answered: {why}", role.user);
            let hint = "it is asked again by itself; `bulla database static rotate` asks now";
            return Ok(Outcome::refuse(Refusal::new(Code::DatabaseFailed, message).hint(hint)));
        };
        Ok(Outcome::read(Reply::secret(&StaticCredentials {
            user: role.user.clone(),
            password: password.expose().to_owned(),
            rotated_ms: role.rotated_ms.unwrap_or_default(),
            rotates_ms: role.due_ms,
        })))
    }
}

/// `DELETE /v1/database/{role}:static`: the user stays, with the password that it has. Not while a request may still
/// have its effect, which could undo what another role sets then.
#[derive(Debug, Clone)]
pub struct DeleteStatic {
    /// Which.
    pub role: RoleName,
}

impl Operation for DeleteStatic {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = static_key(&self.role);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::refuse(no_static_role(&self.role))) };
        let role = StaticRole::parse(&record.bytes)?;
        if let Some(refusal) = role.fenced(context.now) {
            return Ok(Outcome::refuse(refusal));
        }
        let mut writes = Writes::default();
        writes.remove(key, record);
        remove(&self.role, &role, &mut writes);
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Kept))
    }
}

/// Removes what stands beside the record of a static role.
fn remove(of: &RoleName, role: &StaticRole, writes: &mut Writes) {
    writes.delete(user_key(of.database(), &role.user));
    writes.delete(role.due_key(of.database()));
}
