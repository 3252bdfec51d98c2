//! The beginning of a lease: intent, then effect, then the word that it is there.

use super::{Lease, PENDING_MS, State, add, count, count_key, lease_key};
use crate::action::RoleName;
use crate::barrier::{Expect, Record, RecordKey, Records, Writes};
use crate::engine::database::{
    Authority, Connection, Password, Role, authority_key, connection_key, no_database, no_role, read_authority,
    role_key,
};
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::random::{Rng, draw};
use bulla_wire::api::{CertificateCredentials, Credentials, Done};
use bulla_wire::encoding::{base32, base64url};
use bulla_wire::error::Code;
use bulla_wire::id::LeaseId;
use serde::{Deserialize, Serialize};

/// Leases that one principal may hold unless the configuration says otherwise. Some hundred processes under one key
/// stay below; one that asks anew in a loop fills neither the database nor the store.
pub const LEASES_EACH: u64 = 1_000;
/// Characters of the role's name in the name of a user. With what stands around, MySQL takes it whole.
const ROLE_CHARS: usize = 8;

/// Commits the intent to make a user.
#[derive(Debug, Clone)]
pub struct Begin {
    /// The lease's id, made of the request's nonce, so that a repeated request finds it.
    pub id: LeaseId,
    /// Which role.
    pub role: RoleName,
    /// How long it shall last, in seconds.
    pub ttl_s: Option<u64>,
    /// Whether its user is to log in by a certificate.
    pub certificate: bool,
    /// Most leases of one principal.
    pub leases_each: u64,
}

/// What came of [`Begin`], for whoever makes the user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begun {
    /// The lease.
    pub lease: Lease,
    /// How the database is reached.
    pub connection: Connection,
    /// Statements that make the user.
    pub creation: Vec<String>,
    /// Who vouches for the user by a certificate.
    pub authority: Option<Authority>,
    /// Whether this request began it, and not an earlier one with the same nonce.
    pub fresh: bool,
}

impl Begin {
    /// Why users of this role do not log in as the caller wants it.
    fn of_another_kind(&self, role: &Role) -> Option<Refusal> {
        let (message, hint) = match (role.certificate, self.certificate) {
            (true, false) => {
                ("users of this role log in by a certificate", "`bulla database creds --certificate DIR` gets one")
            }
            (false, true) => {
                let hint = "ask for one (`bulla database creds` without --certificate)";
                ("users of this role log in by a password", hint)
            }
            _ => return None,
        };
        Some(Refusal::new(Code::Malformed, message).field("role").hint(hint))
    }

    /// How long the lease lasts.
    fn ttl_ms(&self, role: &Role) -> Result<u64, Refusal> {
        let ttl_s = self.ttl_s.unwrap_or(role.ttl_s);
        if ttl_s == 0 || ttl_s > role.max_ttl_s {
            let refusal =
                Refusal::new(Code::Malformed, format!("a lease of this role lasts 1 to {} s", role.max_ttl_s));
            return Err(refusal.field("ttl_s").hint("ask for less (--ttl), or leave it out"));
        }
        Ok(ttl_s.saturating_mul(1000))
    }

    fn lease(
        &self,
        role: &Role,
        address: &str,
        context: &Context<'_>,
        rng: &mut dyn Rng,
    ) -> Result<Result<Lease, Refusal>, Fault> {
        let actor = context.actor.ok_or(Fault::Key("caller of a lease"))?;
        let now_ms = context.now.steady_ms;
        let ttl_ms = match self.ttl_ms(role) {
            Ok(ttl_ms) => ttl_ms,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(Ok(Lease {
            id: self.id,
            owner: actor.principal,
            database: self.role.database().clone(),
            role: self.role.role().clone(),
            address: address.to_owned(),
            user: user_name(self.role.role().as_str(), rng),
            password: (!role.certificate).then(|| Password::new(password(rng))),
            certificate: None,
            issued_ms: now_ms,
            ttl_ms,
            expires_ms: now_ms.saturating_add(ttl_ms),
            // A certificate cannot be made to last longer, so its lease does not either.
            max_ms: now_ms.saturating_add(if role.certificate { ttl_ms } else { role.max_ttl_s.saturating_mul(1000) }),
            due_ms: now_ms.saturating_add(PENDING_MS),
            state: State::Pending,
            renewal: role.renewal.clone(),
            revocation: role.revocation.clone(),
        }))
    }
}

/// A name that no other user has, and that tells people whose it is.
fn user_name(role: &str, rng: &mut dyn Rng) -> String {
    let short: String = role.chars().filter(char::is_ascii_alphanumeric).take(ROLE_CHARS).collect();
    format!("bulla_{}_{}", short.to_ascii_lowercase(), base32(&draw::<10>(rng)))
}

/// A password of 192 random bits. What stands behind them holds one character of each kind, for servers that count.
pub(in crate::engine) fn password(rng: &mut dyn Rng) -> String {
    format!("{}-Aa1", base64url(&draw::<24>(rng)))
}

impl Operation for Begin {
    fn step(&self, records: &Records, context: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let actor = context.actor.ok_or(Fault::Key("caller of a lease"))?;
        let (own, counted) = (lease_key(&self.id), count_key(&actor.principal));
        let (connection, role) = (connection_key(self.role.database()), role_key(&self.role));
        let keys: [RecordKey; 4] = [own.clone(), counted.clone(), connection.clone(), role.clone()];
        if keys.iter().any(|key| records.get(key).is_none()) {
            return Ok(Step::need(keys));
        }
        let Some(connection) = records.get(&connection).flatten() else {
            return Ok(Outcome::refuse(no_database(self.role.database())));
        };
        let connection: Connection = parse_record("database", &connection.bytes)?;
        if let Some(found) = records.get(&own).flatten() {
            let begun = Begun {
                lease: Lease::parse(&found.bytes)?,
                connection,
                creation: vec![],
                authority: None,
                fresh: false,
            };
            return Ok(Outcome::read(Reply::secret(&begun)));
        }
        if context.repeated.is_some() {
            let refusal = Refusal::new(Code::NonceExpired, "the lease of this request has ended meanwhile");
            return Ok(Outcome::refuse(refusal.field("nonce").hint("ask again with a new nonce")));
        }
        if let Some(refusal) = connection.parked(context) {
            return Ok(Outcome::refuse(refusal));
        }
        let Some(stored) = records.get(&role).flatten() else {
            return Ok(Outcome::refuse(no_role(&self.role)));
        };
        let stored_role: Role = parse_record("database role", &stored.bytes)?;
        if let Some(refusal) = self.of_another_kind(&stored_role) {
            return Ok(Outcome::refuse(refusal));
        }
        let vouches = authority_key(self.role.database());
        if self.certificate && records.get(&vouches).is_none() {
            return Ok(Step::need([vouches]));
        }
        let authority = if self.certificate { read_authority(records, &vouches)? } else { None };
        let held = count(records, &actor.principal)?;
        if held >= self.leases_each {
            let refusal = Refusal::new(Code::TooManyLeases, format!("you hold {held} leases, as many as one may"));
            let hint = "end some (`bulla lease list`, `bulla lease revoke`); limits.leases allows more";
            return Ok(Outcome::refuse(refusal.hint(hint)));
        }
        let lease = match self.lease(&stored_role, &connection.address(), context, rng)? {
            Ok(lease) => lease,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        let mut writes = Writes::default();
        // A role or database that is deleted meanwhile makes no more users.
        writes.expect.push((role, Expect::At(stored.revision)));
        writes.expect.push((connection_key(self.role.database()), Expect::Present));
        add(&lease, held, records, &mut writes);
        let begun = Begun { lease, connection, creation: stored_role.creation, authority, fresh: true };
        Ok(Outcome::wrote(writes, Reply::secret(&begun), Replay::Again))
    }
}

/// Its user is there: the lease begins to run.
#[derive(Debug, Clone)]
pub struct Activate {
    /// As it was begun.
    pub lease: Lease,
}

/// A lease that is gone although its user may be there, since the process stood still for longer than it was pending:
/// it is written anew, and drops what there is.
fn anew(lease: &Lease, due_ms: u64, error: Option<String>, records: &Records) -> Result<Writes, Fault> {
    let state = State::Revoking { attempts: 0, error };
    let lease = Lease { due_ms, state, password: None, ..lease.clone() };
    let mut writes = Writes::default();
    add(&lease, count(records, &lease.owner)?, records, &mut writes);
    Ok(writes)
}

/// What is read of a lease that was begun: it, and how many its owner has.
fn read_begun<'a>(lease: &Lease, records: &'a Records) -> Result<Option<&'a Record>, Step> {
    let (key, counted) = (lease_key(&lease.id), count_key(&lease.owner));
    match (records.get(&key), records.get(&counted)) {
        (Some(current), Some(_)) => Ok(current),
        _ => Err(Step::need([key, counted])),
    }
}

/// What the owner of an active lease is told; nothing once its password is forgotten.
fn credentials(lease: &Lease) -> Option<Reply> {
    let (user, expires_ms, max_ms) = (lease.user.clone(), lease.expires_ms, lease.max_ms);
    if let Some(certificate) = lease.certificate.clone() {
        return Some(Reply::json(&CertificateCredentials { lease: lease.id, user, certificate, expires_ms }));
    }
    let password = lease.password.as_ref()?.expose().to_owned();
    Some(Reply::secret(&Credentials { lease: lease.id, user, password, expires_ms, max_ms }))
}

impl Operation for Activate {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let current = match read_begun(&self.lease, records) {
            Ok(current) => current,
            Err(need) => return Ok(need),
        };
        let refusal = Refusal::new(Code::Revoked, "the lease was revoked while its user was made");
        let refusal = refusal.hint("its user is dropped; ask for another if you may");
        let Some(record) = current else {
            let writes = anew(&self.lease, context.now.steady_ms, None, records)?;
            return Ok(Outcome::done(writes, Err(refusal), Replay::Again));
        };
        let mut lease = Lease::parse(&record.bytes)?;
        // Whoever is refused meanwhile gets nothing: the lease stays pending, and ends by that.
        let heard = context.directory.by_id(&lease.owner).is_some_and(|owner| owner.may_sign());
        if !heard || matches!(lease.state, State::Revoking { .. }) {
            return Ok(Outcome::refuse(refusal));
        }
        if lease.state == State::Pending {
            lease.certificate.clone_from(&self.lease.certificate);
        }
        let Some(reply) = credentials(&lease) else {
            // It was told, and renewed since: only the same request, sent again, asks for it.
            let refusal = Refusal::new(Code::NonceExpired, "the password was told, and is kept no more");
            return Ok(Outcome::refuse(refusal.field("nonce").hint("revoke this lease and ask for another")));
        };
        if lease.state == State::Active {
            return Ok(Outcome::read(reply));
        }
        let mut writes = Writes::default();
        lease.state = State::Active;
        lease.move_to(lease.expires_ms, &mut writes);
        writes.replace(lease_key(&lease.id), current, lease.to_bytes());
        Ok(Outcome::wrote(writes, reply, Replay::Again))
    }
}

/// Its user may be there or not: the lease is revoked, at once if the database said that it is done with it, else
/// once nothing of it can come into being any more.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// As it was begun.
    pub lease: Lease,
    /// Why.
    pub error: String,
    /// Whether the database has answered.
    pub answered: bool,
}

impl Operation for Doubt {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let current = match read_begun(&self.lease, records) {
            Ok(current) => current,
            Err(need) => return Ok(need),
        };
        let error = Some(self.error.clone());
        let Some(record) = current else {
            let wait_ms = if self.answered { 0 } else { PENDING_MS };
            let writes = anew(&self.lease, context.now.steady_ms.saturating_add(wait_ms), error, records)?;
            return Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again));
        };
        let mut lease = Lease::parse(&record.bytes)?;
        if lease.state != State::Pending {
            return Ok(Outcome::read(Reply::json(&Done {})));
        }
        let mut writes = Writes::default();
        if self.answered {
            lease.move_to(context.now.steady_ms.min(lease.due_ms), &mut writes);
        }
        lease.state = State::Revoking { attempts: 0, error };
        lease.password = None;
        writes.replace(lease_key(&lease.id), current, lease.to_bytes());
        Ok(Outcome::wrote(writes, Reply::json(&Done {}), Replay::Again))
    }
}
