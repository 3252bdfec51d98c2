//! Rekey: other admins, another k or mode, or other keys of an admin, by a cluster document that k admins of today
//! signed (`spec/seal.md`).
//!
//! The document alone decides who holds shares from now on. What is done here is everything else that must happen
//! in the same commit: the ingress key of the document becomes the cluster's, and the group `admins` follows the
//! admins. The shares themselves are dealt by [`crate::seal::advance()`].
//!
//! The next ingress key must stand in the document before anybody signs it, so the server makes it when it is first
//! asked and keeps it, sealed, until a rekey uses it. Asking again gives the same one: whoever asks cannot spoil a
//! document that others are signing.

use crate::barrier::{Kind, Query, RecordKey, Records, Writes};
use crate::directory::{Principal, StoredPrincipal, admins_group};
use crate::engine::alarm::{self, About};
use crate::engine::document::{Next, next_view};
use crate::engine::principal::{self, holder_keys};
use crate::operation::{Context, Fault, Operation, Outcome, Raised, Refusal, Replay, Reply, Step, parse_record};
use bulla_crypto::evidence::{ClusterView, Record, payload_digest};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::{Rng, secret_key};
use bulla_crypto::secret::SecretKey;
use bulla_wire::api::{AlarmKind, NextIngress};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::id::PrincipalId;
use bulla_wire::name::Name;
use std::collections::BTreeSet;

/// The record of the next ingress key: its seed.
fn ingress_key() -> RecordKey {
    RecordKey::hidden(Kind::NextIngress, "", "next")
}

fn identity(seed: &SecretKey) -> Result<Identity, Fault> {
    let fault = |error| Fault::Record { kind: "next ingress key", reason: format!("{error}") };
    Identity::from_seed(IdentityKind::Hybrid, seed.copy()).map_err(fault)
}

fn recipient(seed: &SecretKey) -> Result<String, Fault> {
    let identity = identity(seed)?;
    let first = identity.recipients().first().map(ToString::to_string);
    first.ok_or(Fault::Record { kind: "next ingress key", reason: "it has no recipient".into() })
}

/// The seed as it is stored: an outer `None` if it was not read yet, an inner one if there is none.
fn seed(records: &Records) -> Result<Option<Option<SecretKey>>, Fault> {
    let Some(found) = records.get(&ingress_key()) else { return Ok(None) };
    let malformed = || Fault::Record { kind: "next ingress key", reason: "it has not 32 bytes".into() };
    let seed = found.map(|record| SecretKey::from_slice(record.bytes.expose()).ok_or_else(malformed)).transpose()?;
    Ok(Some(seed))
}

/// `POST /v1/seal:rekey`: the ingress key that the next rekey's document must name.
#[derive(Debug, Clone, Copy)]
pub struct Prepare;

impl Operation for Prepare {
    fn step(&self, records: &Records, _: &Context<'_>, rng: &mut dyn Rng) -> Result<Step, Fault> {
        let (mut writes, seed) = (Writes::default(), seed(records)?);
        let seed = match seed {
            None => return Ok(Step::need([ingress_key()])),
            Some(Some(seed)) => seed,
            Some(None) => {
                let seed = secret_key(rng);
                writes.create(ingress_key(), seed.expose().to_vec());
                seed
            }
        };
        let reply = Reply::json(&NextIngress { ingress: recipient(&seed)? });
        Ok(Outcome::wrote(writes, reply, Replay::Again))
    }
}

/// A document that changes the seal, before anything was looked up.
#[derive(Debug)]
pub struct Rekey {
    before: ClusterView,
    after: ClusterView,
}

/// What a rekey writes besides the seal itself.
pub struct Planned {
    /// The documents with the new one.
    pub view: ClusterView,
    /// The seed of the new ingress key.
    pub ingress: SecretKey,
    /// Records of the data table.
    pub writes: Writes,
    /// Who is told.
    pub alarms: Vec<Raised>,
}

impl std::fmt::Debug for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Planned(document {})", self.view.newest().number())
    }
}

impl Rekey {
    /// The rekey that a document asks for; `None` if it leaves the seal alone or does not hold, which
    /// [`super::document::Put`] says better.
    pub fn of(before: &ClusterView, envelope: &Envelope) -> Option<Self> {
        match next_view(before, envelope) {
            Ok(Next::Rekey(after)) => Some(Self { before: before.clone(), after }),
            Ok(Next::Same | Next::Plain(_)) | Err(_) => None,
        }
    }

    /// Whether these are still the documents that it comes after.
    pub fn follows(&self, view: &ClusterView) -> bool {
        view.newest().digest() == self.before.newest().digest()
    }

    /// What must be read.
    pub fn queries(&self) -> Vec<Query> {
        let records = self.before.newest().admins().chain(self.after.newest().admins());
        let keys: BTreeSet<Name> = records.map(|record| record.name().clone()).collect();
        let names = keys.iter().map(principal::key);
        let holders = self.after.newest().admins().flat_map(|admin| holder_keys([admin]));
        // The webhook's too, whether there is one or not.
        let lists = alarm::keys(&self.told().into_iter().chain([alarm::WEBHOOK]).collect());
        std::iter::once(ingress_key()).chain(names).chain(holders).chain(lists).map(Query::Get).collect()
    }

    /// Decides, by what [`Self::queries`] found.
    ///
    /// # Errors
    /// [`Fault`] if a record does not parse; inside, why the document is refused.
    pub fn plan(&self, records: &Records, context: &Context<'_>) -> Result<Result<Planned, Refusal>, Fault> {
        let wanted = self.after.newest().body().ingress.as_str();
        let ingress = match seed(records)?.flatten() {
            Some(seed) if recipient(&seed)? == wanted => seed,
            _ => {
                let refusal = Refusal::new(Code::BadStatement, "the document does not name the next ingress key");
                let hint = "make it with `bulla document propose`, which asks this cluster for the key";
                return Ok(Err(refusal.field("envelope.ingress").hint(hint)));
            }
        };
        let mut writes = Writes::default();
        writes.delete(ingress_key());
        for admin in self.after.newest().admins() {
            if let Err(refusal) = admit(admin, records, &mut writes)? {
                return Ok(Err(refusal));
            }
        }
        for former in self.before.newest().admins() {
            if !self.after.newest().body().admins.contains(&former.principal()) {
                dismiss(former, records, &mut writes)?;
            }
        }
        let about = About { message: "the admins of the seal, or their keys, were changed", ..About::default() };
        let alarms = vec![alarm::raise(context, AlarmKind::Rekeyed, about, self.told())];
        alarm::list(&mut writes, &alarms, records, context)?;
        Ok(Ok(Planned { view: self.after.clone(), ingress, writes, alarms }))
    }

    /// The admins of before and after.
    fn told(&self) -> Vec<PrincipalId> {
        let both = [self.before.newest(), self.after.newest()];
        both.into_iter().flat_map(|document| document.body().admins.iter().copied()).collect()
    }
}

fn stored(name: &Name, records: &Records) -> Result<Option<StoredPrincipal>, Fault> {
    let found = records.get(&principal::key(name)).flatten();
    found.map(|record| parse_record::<StoredPrincipal>("principal", &record.bytes)).transpose()
}

/// Makes an admin of the document a principal of the group, with the record that the document names.
fn admit(admin: &Record, records: &Records, writes: &mut Writes) -> Result<Result<(), Refusal>, Fault> {
    let refuse = |reason: String, hint: &str| {
        Ok(Err(Refusal::new(Code::BadStatement, reason).field("envelope.records").hint(hint)))
    };
    let name = admin.name();
    let group: Vec<Name> = admins_group().into_iter().collect();
    let before = stored(name, records)?;
    let mut next = match &before {
        None => Principal::founder(admin, group.clone()),
        Some(stored) if stored.id != admin.principal() => {
            return refuse(format!("another principal is called {name}"), "an admin needs a name of its own");
        }
        Some(stored) if stored.disabled => {
            return refuse(format!("{name} is disabled"), "`bulla principal enable` comes first");
        }
        Some(stored) => stored.clone(),
    };
    let known = next.records.iter().position(|record| payload_digest(record) == admin.digest());
    match known {
        Some(place) if place.saturating_add(1) == next.records.len() => {}
        Some(_) => {
            return refuse(format!("{name} has a newer record"), "name its newest record in the document");
        }
        None => next.records.push(admin.envelope().clone()),
    }
    if admin.version() as usize != next.records.len() {
        return refuse(format!("records of {name} are missing before this one"), "rekey for each of its versions");
    }
    for group in group {
        if !next.groups.contains(&group) {
            next.groups.push(group);
        }
    }
    for holder in holder_keys([admin]) {
        match records.get(&holder).flatten() {
            None => writes.create(holder, name.as_str().as_bytes().to_vec()),
            Some(row) if row.bytes.expose() == name.as_str().as_bytes() => {}
            Some(_) => {
                return refuse(
                    format!("another principal holds a key or recipient of {name}"),
                    "each principal needs keys of its own: `bulla keygen`",
                );
            }
        }
    }
    let current = records.get(&principal::key(name)).flatten();
    writes.replace(principal::key(name), current, bulla_wire::json::to_vec(&next));
    Ok(Ok(()))
}

/// Takes the group from an admin who is none any more. It stays a principal, void until an enroller admits it.
fn dismiss(former: &Record, records: &Records, writes: &mut Writes) -> Result<(), Fault> {
    let Some(mut stored) = stored(former.name(), records)? else { return Ok(()) };
    stored.groups.retain(|group| Some(group) != admins_group().as_ref());
    let current = records.get(&principal::key(former.name())).flatten();
    writes.replace(principal::key(former.name()), current, bulla_wire::json::to_vec(&stored));
    Ok(())
}

/// Refuses a rekey that came as an ordinary document: the caller looked too early.
pub(super) fn crossed() -> Step {
    let refusal = Refusal::new(Code::Busy, "the document changes the seal, and another document was faster");
    Outcome::refuse(refusal.hint("try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_hybrid_recipient() {
        let mut rng = bulla_crypto::random::SeededRng::from_u64(1);
        let seed = secret_key(&mut rng);
        let text = recipient(&seed).unwrap();
        assert!(text.starts_with("age1pq1"));
        assert_eq!(recipient(&seed).unwrap(), text);
    }
}
