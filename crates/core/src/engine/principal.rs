//! Principals: admitted by enrollers, listed, rotated, disabled.
//!
//! The server stores what enrollers signed and checks it as a client would. It cannot make a binding of its
//! own: a name is bound to a key by an admission, never by the server's word.

use crate::barrier::{Kind, RecordKey, Records, Writes};
use crate::directory::{Change, Principal, StoredPrincipal};
use crate::engine::alarm::{self, About};
use crate::engine::lease;
use crate::operation::{Context, Fault, Operation, Outcome, Refusal, Replay, Reply, Step, parse_record};
use crate::record::SEALED_VALUE_BYTES_MAX;
use bulla_crypto::evidence::{Record, verify_admission};
use bulla_crypto::random::Rng;
use bulla_wire::api::{self, AlarmKind, Done, PrincipalSummary, Principals, Whoami};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::{Admission, MAX_SERIAL_AHEAD_MS};
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::json::StrictMap;
use bulla_wire::name::Name;
use std::collections::BTreeSet;

/// Largest row of a principal in bytes: all its records lie in it, and it is one value of the store. What the barrier
/// adds, and what disabling changes, is less than the kilobyte that is kept free.
const ROW_BYTES_MAX: usize = SEALED_VALUE_BYTES_MAX - 1024;

/// The key of a principal's record.
pub fn key(name: &Name) -> RecordKey {
    RecordKey::hidden(Kind::Principal, "", name.as_str())
}

/// The key under which the holder of a signing key or recipient is found. Rows stay after a rotation, so
/// that nobody else can be admitted with a key that was once somebody's.
fn holder_key(digest: &[u8; 32]) -> RecordKey {
    RecordKey::hidden(Kind::Key, "", *digest)
}

/// The rows that say who holds the keys and recipients of one principal's records, each once.
pub fn holder_keys<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<RecordKey> {
    let held: BTreeSet<[u8; 32]> = records.into_iter().flat_map(Record::holdings).collect();
    held.iter().map(holder_key).collect()
}

/// Writes for a principal of a new cluster.
pub fn found<'a>(writes: &mut Writes, stored: &StoredPrincipal, records: impl IntoIterator<Item = &'a Record>) {
    writes.create(key(&stored.name), bulla_wire::json::to_vec(stored));
    for holder in holder_keys(records) {
        writes.create(holder, stored.name.as_str().as_bytes().to_vec());
    }
}

fn summary(principal: &Principal) -> PrincipalSummary {
    PrincipalSummary {
        id: principal.subject.id,
        name: principal.subject.name.clone(),
        version: principal.version,
        groups: principal.subject.groups.clone(),
        attributes: StrictMap(principal.subject.attributes.clone()),
        disabled: principal.disabled,
        void: principal.void,
    }
}

/// `GET /v1/principal`.
#[derive(Debug, Clone)]
pub struct List {
    /// Only the one with this id.
    pub id: Option<PrincipalId>,
    /// Only the one who holds the recipient with this SHA-256.
    pub recipient: Option<Digest>,
    /// Where to go on: the last name seen.
    pub after: Option<Name>,
    /// Page size.
    pub limit: usize,
}

impl Operation for List {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let directory = context.directory;
        let only = if let Some(id) = &self.id {
            Some(directory.by_id(id))
        } else if let Some(recipient) = &self.recipient {
            let key = holder_key(recipient.as_bytes());
            let Some(found) = records.get(&key) else { return Ok(Step::need([key])) };
            let name = found.and_then(|record| std::str::from_utf8(record.bytes.expose()).ok()?.parse().ok());
            Some(name.and_then(|name: Name| directory.by_name(&name)))
        } else {
            None
        };
        if let Some(one) = only {
            let principals = one.into_iter().map(|principal| summary(principal)).collect();
            return Ok(Outcome::read(Reply::json(&Principals { principals, next: None })));
        }
        let mut all = directory.principals_after(self.after.as_ref());
        let principals: Vec<_> = all.by_ref().take(self.limit).map(|principal| summary(principal)).collect();
        let next = all.next().and_then(|_| principals.last()).map(|last| last.name.to_string());
        Ok(Outcome::read(Reply::json(&Principals { principals, next })))
    }
}

/// `GET /v1/principal/{name}`.
#[derive(Debug, Clone)]
pub struct Read {
    /// Whom.
    pub name: Name,
}

fn unknown(name: &Name) -> Step {
    Outcome::refuse(
        Refusal::new(Code::NotFound, format!("no principal is called {name}")).hint("`bulla principal list` shows all"),
    )
}

impl Operation for Read {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = key(&self.name);
        let Some(record) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = record else { return Ok(unknown(&self.name)) };
        let StoredPrincipal { id, name, disabled, records, admission, .. } = parse_record("principal", &record.bytes)?;
        let void = context.directory.by_name(&name).is_some_and(|principal| principal.void);
        Ok(Outcome::read(Reply::json(&api::Principal { id, name, disabled, void, records, admission })))
    }
}

/// `PUT /v1/principal/{name}`: admits, rotates, or changes groups and attributes.
#[derive(Debug, Clone)]
pub struct Put {
    /// Whom.
    pub name: Name,
    /// The newest record.
    pub record: Envelope,
    /// The enroller's word about it.
    pub admission: Envelope,
}

fn bad(field: &str, reason: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BadStatement, format!("the {field} does not hold: {reason}"))
        .field(field)
        .hint("spec/evidence.md lists the rules; make and sign it anew")
}

/// The chain of records after the new one was added, or why it cannot be.
fn extend_chain(stored: Option<&StoredPrincipal>, envelope: &Envelope) -> Result<(Record, Option<Record>), String> {
    let mut newest: Option<Record> = None;
    for envelope in stored.into_iter().flat_map(|stored| &stored.records) {
        newest = Some(Record::open(envelope, newest.as_ref()).map_err(|e| e.to_string())?);
    }
    match newest {
        Some(newest) if newest.digest() == bulla_crypto::evidence::payload_digest(envelope) => {
            Ok((newest.clone(), Some(newest)))
        }
        newest => Ok((Record::open(envelope, newest.as_ref()).map_err(|e| e.to_string())?, newest)),
    }
}

/// What an enroller's word and the holder's record come to, before anything is looked up.
struct Admitted {
    record: Record,
    admission: Admission,
    /// The newest record that is stored.
    newest: Option<Record>,
}

impl Put {
    /// Checks record and admission as a client would.
    fn check(&self, stored: Option<&StoredPrincipal>, context: &Context<'_>) -> Result<Admitted, Refusal> {
        let (record, newest) = extend_chain(stored, &self.record).map_err(|reason| match stored {
            None => bad("record", reason),
            Some(_) => Refusal::new(Code::Exists, format!("{} has another key: {reason}", self.name))
                .field("record")
                .hint("a new key needs a record of the next version, signed by the current key too"),
        })?;
        if *record.name() != self.name {
            return Err(bad("record", format!("it asks for the name {}, not {}", record.name(), self.name)));
        }
        let view = context.directory.view();
        let admission =
            verify_admission(view, &self.admission, &record).map_err(|reason| bad("admission", reason))?.admission;
        if view.standing_by_name(&self.name).is_some_and(|standing| standing.digest() != record.digest()) {
            let refusal = Refusal::new(Code::Exists, format!("{} stands in the cluster document", self.name));
            return Err(refusal.field("name").hint("an admin's or enroller's key changes by a new document"));
        }
        let serial = stored.map_or(0, |stored| stored.serial);
        let same = stored.is_some_and(|stored| stored.admission.as_ref() == Some(&self.admission));
        if admission.serial <= serial && !same {
            let refusal = Refusal::new(Code::VersionMismatch, format!("an admission with serial {serial} is stored"));
            return Err(refusal.field("admission.serial").hint("sign a new admission; check the enroller's clock"));
        }
        // A serial after which none comes would be the name's last.
        let most = context.now.latest_ms().saturating_add(MAX_SERIAL_AHEAD_MS).max(serial.saturating_add(1));
        if admission.serial > most {
            let refusal = bad("admission", "its serial is of a later time");
            return Err(refusal.field("admission.serial").hint("sign a new admission; check the enroller's clock"));
        }
        Ok(Admitted { record, admission, newest })
    }

    /// Takes the record's keys and recipients for this name, or says that somebody else holds one.
    fn hold(&self, holders: Vec<RecordKey>, records: &Records, writes: &mut Writes) -> Result<(), Refusal> {
        let own = self.name.as_str().as_bytes();
        for holder in holders {
            match records.get(&holder).flatten() {
                None => writes.create(holder, own.to_vec()),
                Some(row) if row.bytes.expose() == own => {}
                Some(_) => {
                    let refusal =
                        Refusal::new(Code::RecipientTaken, "another principal holds a key or recipient of this record");
                    return Err(refusal
                        .field("record.keys")
                        .hint("each principal needs keys of its own: `bulla keygen`"));
                }
            }
        }
        Ok(())
    }
}

impl Operation for Put {
    fn step(&self, records: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let own_key = key(&self.name);
        let Some(current) = records.get(&own_key) else { return Ok(Step::need([own_key])) };
        let stored = current.map(|record| parse_record::<StoredPrincipal>("principal", &record.bytes)).transpose()?;
        let Admitted { record, admission, newest } = match self.check(stored.as_ref(), context) {
            Ok(admitted) => admitted,
            Err(refusal) => return Ok(Outcome::refuse(refusal)),
        };
        if stored.as_ref().is_some_and(|stored| stored.admission.as_ref() == Some(&self.admission)) {
            return Ok(Outcome::wrote(Writes::default(), Reply::json(&Done {}), Replay::Kept));
        }
        let holders = holder_keys([&record]);
        if holders.iter().any(|key| records.get(key).is_none()) {
            return Ok(Step::need(holders));
        }
        let mut writes = Writes::default();
        if let Err(refusal) = self.hold(holders, records, &mut writes) {
            return Ok(Outcome::refuse(refusal));
        }
        let rotated = newest.as_ref().is_some_and(|newest| newest.digest() != record.digest());
        let mut chain = stored.as_ref().map(|stored| stored.records.clone()).unwrap_or_default();
        if rotated || newest.is_none() {
            chain.push(record.envelope().clone());
        }
        let next = StoredPrincipal {
            id: record.principal(),
            name: self.name.clone(),
            disabled: stored.as_ref().is_some_and(|stored| stored.disabled),
            records: chain,
            admission: Some(self.admission.clone()),
            serial: admission.serial,
            groups: admission.groups,
            attributes: admission.attributes,
        };
        let row = bulla_wire::json::to_vec(&next);
        if row.len() > ROW_BYTES_MAX {
            let refusal = Refusal::new(
                Code::TooLarge,
                format!("all records of {} together may have {ROW_BYTES_MAX} bytes", self.name),
            );
            let hint = "a key can no longer be changed under this name: admit a new principal, and disable this one";
            return Ok(Outcome::refuse(refusal.field("record").hint(hint)));
        }
        writes.replace(own_key, current, row);
        let mut alarms = vec![];
        if rotated {
            let about = About { message: "the keys of this principal were rotated", ..About::default() };
            alarms.push(alarm::raise(context, AlarmKind::KeyRotated, about, vec![next.id]));
        }
        Ok(Step::Done(Box::new(Outcome {
            writes,
            result: Ok(Reply::json(&Done {})),
            replay: Replay::Kept,
            receipts: vec![],
            alarms,
            change: Some(Change::Principal(Box::new(next))),
        })))
    }
}

/// `DELETE /v1/principal/{name}` and `POST /v1/principal/{name}:enable`.
#[derive(Debug, Clone)]
pub struct SetDisabled {
    /// Whom.
    pub name: Name,
    /// Refuse its keys from now on, or take them again.
    pub disabled: bool,
}

impl Operation for SetDisabled {
    fn step(&self, records: &Records, _: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let key = key(&self.name);
        let Some(current) = records.get(&key) else { return Ok(Step::need([key])) };
        let Some(record) = current else { return Ok(unknown(&self.name)) };
        let mut stored: StoredPrincipal = parse_record("principal", &record.bytes)?;
        if stored.disabled == self.disabled {
            return Ok(Outcome::wrote(Writes::default(), Reply::json(&Done {}), Replay::Kept));
        }
        stored.disabled = self.disabled;
        let mut writes = Writes::default();
        writes.replace(key, current, bulla_wire::json::to_vec(&stored));
        if self.disabled
            && let Some(unread) = lease::revoke_all_of(stored.id, records, &mut writes)
        {
            return Ok(Step::need([unread]));
        }
        Ok(Step::Done(Box::new(Outcome {
            writes,
            result: Ok(Reply::json(&Done {})),
            replay: Replay::Kept,
            receipts: vec![],
            alarms: vec![],
            change: Some(Change::Principal(Box::new(stored))),
        })))
    }
}

/// `GET /v1/whoami`.
#[derive(Debug, Clone)]
pub struct Me;

impl Operation for Me {
    fn step(&self, _: &Records, context: &Context<'_>, _: &mut dyn Rng) -> Result<Step, Fault> {
        let Some(actor) = context.actor else { return Err(Fault::Key("caller of whoami")) };
        let directory = context.directory;
        let Some(principal) = directory.by_id(&actor.principal) else { return Err(Fault::Key("caller of whoami")) };
        Ok(Outcome::read(Reply::json(&Whoami {
            principal: summary(principal),
            key: actor.key,
            admin: directory.is_admin(&actor.principal),
            enroller: directory.is_enroller(&actor.principal),
        })))
    }
}
