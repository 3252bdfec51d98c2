//! Principal records: a principal's own word about its keys.

use super::{EvidenceError, parse, payload_digest, rule};
use crate::dsse;
use crate::recipient::Recipient;
use crate::sign::{PublicKey, RsaMinimum};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Bytes, KeyEntry, MAX_KEYS, PrincipalRecord};
use bulla_wire::id::{Digest, KeyId, PrincipalId};
use bulla_wire::json::V1;
use bulla_wire::name::Name;
use std::collections::HashSet;

/// Longest chain of records of one principal that is verified. The server stores half a MiB of them, which is about 160
/// records of one hybrid key, or 500 of a classical one.
pub const MAX_CHAIN: usize = 1024;

/// One key of a principal, checked.
#[derive(Debug, Clone)]
pub struct PrincipalKey {
    /// Verifies what the principal signs.
    pub public: PublicKey,
    /// Whom to encrypt to; at least one.
    pub recipients: Vec<Recipient>,
    /// The signing key and a recipient are one key.
    pub dual_use: bool,
}

/// A principal record whose signatures and rules hold.
#[derive(Debug, Clone)]
pub struct Record {
    envelope: Envelope,
    digest: Digest,
    principal: PrincipalId,
    name: Name,
    version: u32,
    prev: Option<Digest>,
    keys: Vec<PrincipalKey>,
}

impl Record {
    /// Verifies a record: version 1 alone, a later one with the record before it.
    ///
    /// # Errors
    /// See [`EvidenceError`]; [`EvidenceError::PreviousNeeded`] if the version is above 1 and `previous` is `None`.
    pub fn open(envelope: &Envelope, previous: Option<&Self>) -> Result<Self, EvidenceError> {
        let PrincipalRecord { v: V1, name, version, prev, keys } = parse(envelope)?;
        let digest = payload_digest(envelope);
        let keys = check_keys(&keys)?;
        let principal = match version {
            0 => return Err(EvidenceError::Rule { field: "version", rule: "must be 1 or more" }),
            1 => {
                rule(prev.is_none(), "prev", "must be null in version 1")?;
                rule(previous.is_none(), "version", "must be one more than the version before")?;
                PrincipalId::new(*digest.as_bytes())
            }
            _ => {
                let previous = previous.ok_or(EvidenceError::PreviousNeeded)?;
                rule(prev == Some(previous.digest), "prev", "must be the digest of the version before")?;
                rule(name == previous.name, "name", "must be the name in the version before")?;
                let follows = previous.version.checked_add(1) == Some(version);
                rule(follows, "version", "must be one more than the version before")?;
                previous.principal
            }
        };
        check_signatures(envelope, &keys, previous)?;
        Ok(Self { envelope: envelope.clone(), digest, principal, name, version, prev, keys })
    }

    /// The envelope as it came.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
    /// SHA-256 of the payload.
    pub fn digest(&self) -> Digest {
        self.digest
    }
    /// Whose record it is: the digest of version 1.
    pub fn principal(&self) -> PrincipalId {
        self.principal
    }
    /// The name that the principal asks for. An admission or a document must say so too.
    pub fn name(&self) -> &Name {
        &self.name
    }
    /// From 1.
    pub fn version(&self) -> u32 {
        self.version
    }
    /// Digest of the version before.
    pub fn prev(&self) -> Option<Digest> {
        self.prev
    }
    /// The keys, at least one.
    pub fn keys(&self) -> &[PrincipalKey] {
        &self.keys
    }
    /// The key with this id.
    pub fn key(&self, id: &KeyId) -> Option<&PrincipalKey> {
        self.keys.iter().find(|key| key.public.key_id() == *id)
    }
    /// All signing keys.
    pub fn public_keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.iter().map(|key| &key.public)
    }
    /// Each recipient once, in the record's order.
    pub fn recipients(&self) -> Vec<&Recipient> {
        let mut seen = HashSet::new();
        self.keys.iter().flat_map(|key| &key.recipients).filter(|recipient| seen.insert(recipient.as_str())).collect()
    }
    /// What only one principal may hold: ids of its signing keys and digests of its recipients.
    pub fn holdings(&self) -> impl Iterator<Item = [u8; 32]> {
        let keys = self.public_keys().map(|key| *key.key_id().as_bytes());
        keys.chain(self.recipients().into_iter().map(|recipient| *recipient.digest().as_bytes()))
    }
    /// Whether all recipients protect against quantum computers too; otherwise none does.
    pub fn is_hybrid(&self) -> bool {
        self.keys.iter().flat_map(|key| &key.recipients).all(Recipient::is_hybrid)
    }
}

fn check_keys(entries: &[KeyEntry]) -> Result<Vec<PrincipalKey>, EvidenceError> {
    rule((1..=MAX_KEYS).contains(&entries.len()), "keys", "must be 1 to 8")?;
    let mut ids = HashSet::new();
    let mut keys = Vec::with_capacity(entries.len());
    for KeyEntry { spki, recipients, dual_use } in entries {
        let public = PublicKey::from_spki(&spki.0, RsaMinimum::Bits3072)?;
        rule(ids.insert(public.key_id()), "keys.spki", "must not stand there twice")?;
        rule((1..=MAX_KEYS).contains(&recipients.len()), "keys.recipients", "must be 1 to 8")?;
        let recipients = recipients.iter().map(|text| canonical(text)).collect::<Result<Vec<_>, _>>()?;
        let distinct = recipients.iter().map(Recipient::as_str).collect::<HashSet<_>>().len() == recipients.len();
        rule(distinct, "keys.recipients", "must not stand there twice")?;
        keys.push(PrincipalKey { public, recipients, dual_use: *dual_use });
    }
    let mut all = keys.iter().flat_map(|key| &key.recipients).map(Recipient::is_hybrid);
    let first = all.next();
    rule(all.all(|hybrid| Some(hybrid) == first), "keys.recipients", "must be all hybrid or all classical")?;
    Ok(keys)
}

/// Parses a recipient that must be written in its one canonical spelling.
pub(super) fn canonical(text: &str) -> Result<Recipient, EvidenceError> {
    let recipient: Recipient = text.parse()?;
    rule(recipient.as_str() == text, "recipients", "must be in canonical spelling")?;
    Ok(recipient)
}

/// Every key in the record signs, and from version 2 on also a key of the version before.
fn check_signatures(
    envelope: &Envelope,
    keys: &[PrincipalKey],
    previous: Option<&Record>,
) -> Result<(), EvidenceError> {
    let own = keys.iter().map(|key| &key.public);
    let before: Vec<_> = previous.into_iter().flat_map(Record::public_keys).collect();
    let all: Vec<_> = own.clone().chain(before.iter().copied()).collect();
    let verified = dsse::verify(envelope, super::wire::PRINCIPAL_TYPE, &all)?;
    for key in own {
        if !verified.signers().contains(&key.key_id()) {
            return Err(EvidenceError::NotSignedBy(key.key_id()));
        }
    }
    let agreed = previous.is_none() || before.iter().any(|key| verified.signers().contains(&key.key_id()));
    rule(agreed, "signatures", "must hold one by a key of the version before")
}

/// The payload of a new record, for [`super::sign`]: by every key in it, and after version 1 by one of `previous`.
/// `None` if the versions are used up.
pub fn record_payload(name: Name, previous: Option<&Record>, keys: &[PrincipalKey]) -> Option<PrincipalRecord> {
    let entry = |key: &PrincipalKey| KeyEntry {
        spki: Bytes(key.public.spki().to_vec()),
        recipients: key.recipients.iter().map(ToString::to_string).collect(),
        dual_use: key.dual_use,
    };
    Some(PrincipalRecord {
        v: V1,
        name,
        version: previous.map_or(0, Record::version).checked_add(1)?,
        prev: previous.map(Record::digest),
        keys: keys.iter().map(entry).collect(),
    })
}

/// All records of one principal, version 1 first.
#[derive(Debug, Clone)]
pub struct RecordChain {
    first: Record,
    later: Vec<Record>,
}

impl RecordChain {
    /// Verifies a whole chain.
    ///
    /// # Errors
    /// See [`Record::open`]; also for an empty chain or one that does not begin with version 1.
    pub fn open(envelopes: &[Envelope]) -> Result<Self, EvidenceError> {
        let (first, later) = envelopes
            .split_first()
            .ok_or(EvidenceError::Rule { field: "records", rule: "must begin with version 1" })?;
        let mut chain = Self { first: Record::open(first, None)?, later: Vec::new() };
        for envelope in later {
            chain.push(envelope)?;
        }
        Ok(chain)
    }

    /// Verifies the next version and takes it.
    ///
    /// # Errors
    /// See [`Record::open`]; the chain stays as it was.
    pub fn push(&mut self, envelope: &Envelope) -> Result<&Record, EvidenceError> {
        rule(self.later.len().saturating_add(1) < MAX_CHAIN, "records", "must be at most 1024 versions")?;
        let record = Record::open(envelope, Some(self.newest()))?;
        self.later.push(record);
        Ok(self.newest())
    }

    /// Whose chain it is.
    pub fn principal(&self) -> PrincipalId {
        self.first.principal
    }
    /// The record of the highest version.
    pub fn newest(&self) -> &Record {
        self.later.last().unwrap_or(&self.first)
    }
    /// The record with this digest.
    pub fn find(&self, digest: &Digest) -> Option<&Record> {
        self.iter().find(|record| record.digest == *digest)
    }
    /// All records, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Record> {
        std::iter::once(&self.first).chain(&self.later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::sign_in_memory;
    use crate::identity::{Identity, IdentityKind};
    use crate::secret::SecretKey;

    fn identity(seed: u8, kind: IdentityKind) -> Identity {
        Identity::from_seed(kind, SecretKey::new([seed; 32])).unwrap()
    }

    fn entry(identity: &Identity) -> PrincipalKey {
        PrincipalKey {
            public: identity.signing_key().unwrap().public_key().clone(),
            recipients: identity.recipients().to_vec(),
            dual_use: false,
        }
    }

    /// A record of these keys, which all sign.
    fn record(entries: &[PrincipalKey], by: &[&Identity], previous: Option<&Record>) -> Record {
        let payload = record_payload("alice".parse().unwrap(), previous, entries).unwrap();
        let keys: Vec<_> = by.iter().map(|identity| identity.signing_key().unwrap()).collect();
        Record::open(&sign_in_memory(&payload, &keys).unwrap(), previous).unwrap()
    }

    #[test]
    fn a_record_tells_what_it_holds() {
        let (alice, second_key) = (identity(1, IdentityKind::Classical), identity(2, IdentityKind::Classical));
        let first = record(&[entry(&alice)], &[&alice], None);
        // One recipient under two keys is named once.
        let other = PrincipalKey { recipients: alice.recipients().to_vec(), ..entry(&second_key) };
        let second = record(&[entry(&alice), other], &[&alice, &second_key], Some(&first));
        assert_eq!((first.prev(), second.prev()), (None, Some(first.digest())));
        assert_eq!((first.keys().len(), second.keys().len()), (1, 2));
        assert_eq!(second.recipients(), [&alice.recipients()[0]]);
        let chain = RecordChain::open(&[first.envelope().clone(), second.envelope().clone()]).unwrap();
        for own in [&first, &second] {
            assert_eq!(chain.find(&own.digest()).map(Record::version), Some(own.version()));
        }
        assert!(chain.find(&Digest::new([0; 32])).is_none());
        let hybrid = identity(3, IdentityKind::Hybrid);
        assert!(record(&[entry(&hybrid)], &[&hybrid], None).is_hybrid() && !first.is_hybrid());
    }

    /// Whoever shows a chain must not choose for how long others verify.
    #[test]
    fn a_chain_has_at_most_1024_records() {
        let alice = identity(1, IdentityKind::Classical);
        let first = record(&[entry(&alice)], &[&alice], None);
        let second = record(&[entry(&alice)], &[&alice], Some(&first));
        let mut chain = RecordChain { later: vec![first.clone(); MAX_CHAIN - 2], first };
        chain.push(second.envelope()).unwrap();
        assert_eq!(chain.iter().count(), MAX_CHAIN);
        let third = record(&[entry(&alice)], &[&alice], Some(&second));
        let refused = EvidenceError::Rule { field: "records", rule: "must be at most 1024 versions" };
        assert_eq!(chain.push(third.envelope()).unwrap_err(), refused);
    }
}
