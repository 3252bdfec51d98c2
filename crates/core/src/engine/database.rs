//! Databases whose users are made for a lease: how they are reached, and the statements of their roles.
//!
//! The password of the administering user lies in a record under the barrier and is told by no route.

mod authority;
mod connection;
mod role;
mod rotate;
pub mod sql;
pub mod static_role;
pub mod template;

pub(in crate::engine) use authority::read as read_authority;
pub use authority::{Authority, ReadAuthority, authority_key};
pub use connection::{Connection, MAX_CONNECTIONS, Password};
pub use role::{DeleteRole, PURPOSES, PutRole, ReadRole, Role};
pub use rotate::{BeginRotation, EndRotation};

use crate::action::RoleName;
use crate::barrier::{Cursor, Expect, Kind, Query, RecordKey, Records, Writes};
use crate::engine::lease;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::{DatabaseNames, Done};
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use serde::Deserialize;

/// The record of a database.
pub fn connection_key(name: &Name) -> RecordKey {
    RecordKey::hidden(Kind::Database, "", name.as_str())
}

/// The record of a role.
pub fn role_key(role: &RoleName) -> RecordKey {
    RecordKey::hidden(Kind::DatabaseRole, role.database().as_str(), role.role().as_str())
}

/// Databases of a page, where all are looked through.
const OTHERS: usize = 1_000;

/// Asks for databases, in no order that means anything.
pub fn databases(after: Option<Cursor>, limit: usize) -> Query {
    Query::Scan { kind: Kind::Database, dir: vec![], after, limit }
}

/// Databases at the same server as `of`, itself among them once it is stored, or what must be read first. Of more than a
/// few pages of them nothing is said: an operation asks no more often, and then is a fault.
fn neighbours(of: &Connection, records: &Records) -> Result<Result<Vec<Connection>, Query>, Fault> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let query = databases(after, OTHERS);
        let Some((page, more)) = records.page(&query) else { return Ok(Err(query)) };
        for record in page {
            let other: Connection = parse_record("database", &record.bytes)?;
            if other.address() == of.address() {
                all.push(other);
            }
        }
        after = page.last().filter(|_| more).map(|record| record.cursor.clone());
        if after.is_none() {
            return Ok(Ok(all));
        }
    }
}

pub(in crate::engine) fn no_database(name: &Name) -> Refusal {
    Refusal::new(Code::NotFound, format!("no database is called {name}")).hint("`bulla database list` shows all")
}

pub(in crate::engine) fn no_role(role: &RoleName) -> Refusal {
    Refusal::new(Code::NotFound, format!("{} has no role {}", role.database(), role.role()))
        .hint("`bulla database role list` shows all")
}

/// `PUT /v1/database/{name}`.
#[derive(Debug, Clone)]
pub struct Configure {
    /// How it is reached.
    pub connection: Connection,
    /// Another address is that of the same server, with its users.
    pub moved: bool,
}

impl Configure {
    /// Whether another database is reached at this address. All were read to tell who is administered.
    fn has_neighbour(&self, records: &Records) -> Result<bool, Fault> {
        let there = neighbours(&self.connection, records)?;
        Ok(there.is_ok_and(|all| all.iter().any(|other| other.name != self.connection.name)))
    }
}

impl Operation for Configure {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = connection_key(&self.connection.name);
        let leases = lease::scan(&self.connection.name, None, 1);
        let roles = static_role::scan(&self.connection.name, None, 1);
        let (Some(current), Some((leases_left, _)), Some((roles_left, _))) =
            (records.get(&key), records.page(&leases), records.page(&roles))
        else {
            return Ok(Step::Need(vec![Query::Get(key), leases, roles]));
        };
        let mut writes = Writes::default();
        match static_role::administered(&self.connection, records, &mut writes)? {
            Ok(None) => {}
            Ok(Some(refusal)) => return Ok(Outcome::refuse(refusal)),
            Err(need) => return Ok(Step::Need(need)),
        }
        let before = current.map(|record| parse_record::<Connection>("database", &record.bytes)).transpose()?;
        let mut connection = self.connection.clone();
        connection.losses = context.losses;
        if let Some(before) = before {
            if before.engine != connection.engine {
                let refusal = Refusal::new(Code::Exists, "the database of this name is of another engine");
                let hint = "its roles and leases are for that one: choose another name";
                return Ok(Outcome::refuse(refusal.field("engine").hint(hint)));
            }
            let same = before.address() == connection.address();
            if !same && !self.moved && !leases_left.is_empty() {
                // A user who is not there counts as dropped, and at another server none of them is.
                let message = format!("{} has leases or static roles of users at {}", before.name, before.address());
                let refusal = Refusal::new(Code::Exists, message).field("host");
                let hint =
                    "end and delete them first, or say that it is the same server under another address (--moved)";
                return Ok(Outcome::refuse(refusal.hint(hint)));
            }
            if !same && !roles_left.is_empty() && self.has_neighbour(records)? {
                let message =
                    format!("{} has static roles, and another database is reached at that address", before.name);
                let refusal = Refusal::new(Code::Exists, message).field("host");
                let hint = "their users may be the other one's: delete the static roles, or the other database, first";
                return Ok(Outcome::refuse(refusal.hint(hint)));
            }
            if before.losses < context.losses {
                lease::rotate_all_of(&before.name, &mut writes);
            }
            connection.follow(before, same || self.moved);
        }
        writes.replace(key, current, bulla_wire::json::to_vec(&connection));
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Kept))
    }
}

/// `POST /v1/database/{name}:release`: after a restore, what is known of its users is right to act on.
#[derive(Debug, Clone)]
pub struct Release {
    /// Which.
    pub name: Name,
}

impl Operation for Release {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = connection_key(&self.name);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::refuse(no_database(&self.name))) };
        let mut connection: Connection = parse_record("database", &record.bytes)?;
        let mut writes = Writes::default();
        if connection.losses < context.losses {
            connection.losses = context.losses;
            writes.replace(key, current, bulla_wire::json::to_vec(&connection));
            lease::rotate_all_of(&self.name, &mut writes);
        }
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Kept))
    }
}

/// `GET /v1/database/{name}`.
#[derive(Debug, Clone)]
pub struct Read {
    /// Which.
    pub name: Name,
}

impl Operation for Read {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = connection_key(&self.name);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::refuse(no_database(&self.name))) };
        let connection: Connection = parse_record("database", &record.bytes)?;
        Ok(Outcome::read(Reply::json(&connection.view(context))))
    }
}

/// What is listed.
#[derive(Debug, Clone)]
pub enum Listed {
    /// Databases.
    Databases,
    /// Roles of one, by which users are made.
    Roles(Name),
    /// Static roles of one.
    Static(Name),
}

/// `GET /v1/database`, `GET /v1/database/{name}:list` and `GET /v1/database/{name}:static`.
#[derive(Debug, Clone)]
pub struct List {
    /// What of.
    pub of: Listed,
    /// Where to go on.
    pub after: Option<Cursor>,
    /// Page size.
    pub limit: usize,
}

#[derive(Deserialize)]
struct Named {
    name: Name,
}

impl Operation for List {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (after, limit) = (self.after.clone(), self.limit);
        let query = match &self.of {
            Listed::Databases => databases(after, limit),
            Listed::Roles(name) => {
                Query::Scan { kind: Kind::DatabaseRole, dir: name.as_str().as_bytes().to_vec(), after, limit }
            }
            Listed::Static(name) => static_role::scan(name, after, limit),
        };
        let Some((page, more)) = records.page(&query) else { return Ok(Step::Need(vec![query])) };
        let named = page.iter().map(|record| parse_record::<Named>("database", &record.bytes).map(|named| named.name));
        let mut names = named.collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        let next = if more { page.last().map(|record| record.cursor.to_text()) } else { None };
        Ok(Outcome::read(Reply::json(&DatabaseNames { names, next })))
    }
}

/// `DELETE /v1/database/{name}`: only once it has neither roles nor leases, since a lease without its database could
/// never end, nor a password be rotated.
#[derive(Debug, Clone)]
pub struct Delete {
    /// Which.
    pub name: Name,
}

impl Operation for Delete {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = connection_key(&self.name);
        let dir = self.name.as_str().as_bytes().to_vec();
        let roles = Query::Scan { kind: Kind::DatabaseRole, dir, after: None, limit: 1 };
        let fixed = static_role::scan(&self.name, None, 1);
        let leases = lease::scan(&self.name, None, 1);
        let (Some(current), Some((roles_left, _)), Some((static_left, _)), Some((leases_left, _))) =
            (records.get(&key), records.page(&roles), records.page(&fixed), records.page(&leases))
        else {
            return Ok(Step::Need(vec![Query::Get(key), roles, fixed, leases]));
        };
        let Some(record) = current else { return Ok(Outcome::refuse(no_database(&self.name))) };
        if !roles_left.is_empty() {
            let refusal = Refusal::new(Code::Exists, format!("{} still has roles", self.name)).field("name");
            return Ok(Outcome::refuse(refusal.hint("delete them first, so that nobody gets new users of it")));
        }
        if !static_left.is_empty() {
            let refusal = Refusal::new(Code::Exists, format!("{} still has static roles", self.name)).field("name");
            return Ok(Outcome::refuse(refusal.hint("`bulla database static list` shows them; delete them first")));
        }
        if !leases_left.is_empty() {
            let refusal = Refusal::new(Code::Exists, format!("{} still has leases", self.name)).field("name");
            let hint = format!("end them first: `bulla lease revoke --resource database/{}`", self.name);
            return Ok(Outcome::refuse(refusal.hint(hint)));
        }
        let mut writes = Writes::default();
        writes.expect.push((key.clone(), Expect::At(record.revision)));
        writes.delete(key);
        writes.delete(authority_key(&self.name));
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Kept))
    }
}
