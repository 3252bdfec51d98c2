//! Roles of databases: statements by which users are made, kept and dropped.

use super::static_role::static_key;
use super::template::{MAX_TEMPLATE_BYTES, MAX_TEMPLATES, Place, Rule, Template};
use super::{Authority, Connection, authority_key, connection_key, no_database, no_role, role_key};
use crate::action::RoleName;
use crate::barrier::{Expect, Records, Writes};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::Rng;
use bulla_wire::api::{self, DatabaseEngine, Done, PutDatabaseRole};
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest life of a lease in seconds: a year. What is to last longer is no lease.
const MAX_TTL_S: u64 = 366 * 24 * 3600;

/// A role as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Its name.
    pub name: Name,
    /// Statements that make a user.
    pub creation: Vec<String>,
    /// Statements that drop it.
    pub revocation: Vec<String>,
    /// Statements that let it live longer.
    pub renewal: Vec<String>,
    /// How long a lease lasts that asks for nothing else, in seconds.
    pub ttl_s: u64,
    /// How long it lasts at most, in seconds.
    pub max_ttl_s: u64,
    /// Its users have no password and log in by a certificate.
    #[serde(default)]
    pub certificate: bool,
}

/// The places in statements that make a user who logs in by a certificate.
const CERTIFIED: &[Place] = &[Place::Name, Place::Expiration];

/// The purposes of statements, and the places that each may have.
pub const PURPOSES: [(&str, &[Place]); 3] =
    [("creation", &Place::ALL), ("revocation", &[Place::Name]), ("renewal", &[Place::Name, Place::Expiration])];

impl Role {
    /// Checks what somebody wrote, by the rules of the database's engine.
    ///
    /// # Errors
    /// What is wrong with it, and which statement.
    pub fn new(engine: DatabaseEngine, name: Name, body: PutDatabaseRole) -> Result<Self, Refusal> {
        let PutDatabaseRole { creation, revocation, renewal, ttl_s, max_ttl_s, certificate } = body;
        if ttl_s == 0 || ttl_s > max_ttl_s || max_ttl_s > MAX_TTL_S {
            let refusal =
                Refusal::new(Code::Malformed, format!("ttl_s is 1 to max_ttl_s, which is at most {MAX_TTL_S}"));
            return Err(refusal.field("ttl_s").hint("what is to last longer needs a user of its own, without a lease"));
        }
        let refuse =
            |field: &str, reason: &str, hint: &str| Err(Refusal::new(Code::Malformed, reason).field(field).hint(hint));
        if certificate && engine != DatabaseEngine::Postgres {
            return refuse("certificate", "users log in by certificate at PostgreSQL alone", "leave it out");
        }
        if certificate && !renewal.is_empty() {
            let hint = "leave them out: whoever needs another hour asks for another user";
            return refuse("renewal", "a lease with a certificate ends with it and is not renewed", hint);
        }
        for ((field, places), texts) in PURPOSES.into_iter().zip([&creation, &revocation, &renewal]) {
            let places = if certificate && field == "creation" { CERTIFIED } else { places };
            check(engine, field, places, texts)?;
        }
        Ok(Self { name, creation, revocation, renewal, ttl_s, max_ttl_s, certificate })
    }
}

fn bad_template(field: String, reason: impl fmt::Display) -> Refusal {
    Refusal::new(Code::BadTemplate, format!("the statement is not taken: {reason}"))
        .field(field)
        .hint("spec/lease.md lists what a statement may hold; places are filled and quoted by the server")
}

fn check(engine: DatabaseEngine, field: &str, places: &[Place], texts: &[String]) -> Result<(), Refusal> {
    if texts.len() > MAX_TEMPLATES || texts.iter().map(String::len).sum::<usize>() > MAX_TEMPLATE_BYTES {
        let most =
            format_args!("there are at most {MAX_TEMPLATES} for one purpose, of {MAX_TEMPLATE_BYTES} bytes together");
        return Err(bad_template(field.to_owned(), most));
    }
    let mut named = false;
    for (index, text) in texts.iter().enumerate() {
        let template =
            Template::parse(engine, text, places).map_err(|error| bad_template(format!("{field}[{index}]"), error))?;
        named |= template.has(Place::Name);
    }
    // Renewal may be none of the statements' business; users are made and dropped by their name.
    let needed = field == "creation" || (field == "revocation" && !texts.is_empty());
    if needed && !named {
        return Err(bad_template(field.to_owned(), Rule::Nameless));
    }
    Ok(())
}

/// `PUT /v1/database/{role}`.
#[derive(Debug, Clone)]
pub struct PutRole {
    /// Which.
    pub role: RoleName,
    /// What it is.
    pub body: PutDatabaseRole,
    /// What the database's authority becomes if it has none and the role needs one.
    pub authority: Option<Authority>,
}

impl Operation for PutRole {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let (of, key) = (connection_key(self.role.database()), role_key(&self.role));
        let (other, vouches) = (static_key(&self.role), authority_key(self.role.database()));
        let (Some(connection), Some(current), Some(fixed), Some(authority)) =
            (records.get(&of), records.get(&key), records.get(&other), records.get(&vouches))
        else {
            return Ok(Step::need([of, key, other, vouches]));
        };
        let Some(found) = connection else { return Ok(Outcome::refuse(no_database(self.role.database()))) };
        let connection: Connection = parse_record("database", &found.bytes)?;
        let role = match Role::new(connection.engine, self.role.role().clone(), self.body.clone()) {
            Ok(role) => role,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        if fixed.is_some() {
            // Policy speaks of both by one name.
            let refusal = Refusal::new(Code::Exists, format!("{} is a static role", self.role)).field("role");
            return Ok(Outcome::refuse(refusal.hint("choose another name, or delete the static role first")));
        }
        let mut writes = Writes::default();
        // Whoever deletes the database at the same time looks for its roles again.
        writes.replace(of, Some(found), bulla_wire::json::to_vec(&connection));
        writes.expect.push((other, Expect::Absent));
        if role.certificate && authority.is_none() {
            let made = self.authority.as_ref().ok_or(Fault::Key("authority of a database"))?;
            writes.create(vouches, bulla_wire::json::to_vec(made));
        }
        writes.replace(key, current, bulla_wire::json::to_vec(&role));
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Kept))
    }
}

/// `GET /v1/database/{role}`.
#[derive(Debug, Clone)]
pub struct ReadRole {
    /// Which.
    pub role: RoleName,
}

impl Operation for ReadRole {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = role_key(&self.role);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::refuse(no_role(&self.role))) };
        let Role { name, creation, revocation, renewal, ttl_s, max_ttl_s, certificate } =
            parse_record("database role", &record.bytes)?;
        let database = self.role.database().clone();
        let view =
            api::DatabaseRole { database, role: name, creation, revocation, renewal, ttl_s, max_ttl_s, certificate };
        Ok(Outcome::read(Reply::json(&view)))
    }
}

/// `DELETE /v1/database/{role}`. Leases of it stay: each knows how its user is dropped.
#[derive(Debug, Clone)]
pub struct DeleteRole {
    /// Which.
    pub role: RoleName,
}

impl Operation for DeleteRole {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = role_key(&self.role);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(Outcome::refuse(no_role(&self.role))) };
        let mut writes = Writes::default();
        writes.expect.push((key.clone(), Expect::At(record.revision)));
        writes.delete(key);
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Kept))
    }
}
