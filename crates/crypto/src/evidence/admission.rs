//! What enrollers and admins sign besides documents: admissions, approvals, consents, policy recoveries.

use super::{AdminSet, ClusterView, EvidenceError, Record, VerifiedDocument, parse, payload_digest, rule};
use crate::digest::sha256;
use crate::dsse;
use crate::sign::PublicKey;
use bulla_wire::challenge::FUTURE_SKEW_MS;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{
    ADMISSION_TYPE, Admission, CONSENT_TYPE, Consent, GENESIS_TYPE, GenesisApproval, MAX_EARLIER, MAX_GROUPS,
    POLICY_RECOVERY_TYPE, PolicyRecovery, Scope,
};
use bulla_wire::id::{Digest, KeyId, PrincipalId};
use bulla_wire::json::{StrictMap, V1};
use bulla_wire::name::Name;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// How long k admins' signatures over a policy set may be used, in milliseconds: ten minutes. They are good once, as
/// they name the set that they replace; but one that was never brought must not be kept for later.
pub const POLICY_RECOVERY_LIFETIME_MS: u64 = 600_000;

/// An admission that holds by the newest document known here.
#[derive(Debug, Clone)]
pub struct VerifiedAdmission {
    /// The envelope as it came.
    pub envelope: Envelope,
    /// SHA-256 of its payload.
    pub digest: Digest,
    /// What it says.
    pub admission: Admission,
    /// Who signed it.
    pub enroller: PrincipalId,
    /// With which key.
    pub key: KeyId,
}

/// Verifies that an enroller of the newest document binds `record` to its name. For any cluster of the admins, only an
/// admin of genesis can, whose key was pinned, and only as long as it is an enroller.
///
/// # Errors
/// See [`EvidenceError`]; [`EvidenceError::DocumentAhead`] asks for newer documents first.
pub fn verify_admission(
    view: &ClusterView,
    envelope: &Envelope,
    record: &Record,
) -> Result<VerifiedAdmission, EvidenceError> {
    let admission = binding(envelope, record)?;
    rule(view.holds_in(&admission.scope), "scope", "must be this cluster or its admins")?;
    let newest = view.newest();
    match admission.scope {
        Scope::Cluster(_) => {
            if admission.doc > newest.number() {
                return Err(EvidenceError::DocumentAhead { quoted: admission.doc });
            }
            signed_by(newest.enrollers().flat_map(keys_of), envelope, admission)
        }
        // The document that it quotes is another cluster's.
        Scope::Admins(_) => {
            let admins = newest.enrollers().flat_map(keys_of);
            let admins = admins.filter(|(_, key)| view.genesis().admin_by_key(&key.key_id()).is_some());
            signed_by_admin(admins, envelope, admission)
        }
    }
}

/// Verifies an admission into any cluster of these admins, before there is one.
pub(super) fn verify_admission_under(
    admins: &[Record],
    set: &AdminSet,
    envelope: &Envelope,
    record: &Record,
) -> Result<VerifiedAdmission, EvidenceError> {
    let admission = binding(envelope, record)?;
    rule(admission.scope == set.scope(), "scope", "must be that of the bundle's admins and k")?;
    signed_by_admin(admins.iter().flat_map(keys_of), envelope, admission)
}

/// What binds `record` to its name, if the right one signed it.
fn binding(envelope: &Envelope, record: &Record) -> Result<Admission, EvidenceError> {
    let admission: Admission = parse(envelope)?;
    let Admission { v: V1, scope: _, principal, name, version, record_sha256, groups, attributes, serial: _, doc: _ } =
        &admission;
    rule(*principal == record.principal(), "principal", "must be the record's")?;
    rule(name == record.name(), "name", "must be the record's")?;
    rule(*version == record.version(), "version", "must be the record's")?;
    rule(*record_sha256 == record.digest(), "record_sha256", "must be the record's digest")?;
    rule(groups.len() <= MAX_GROUPS, "groups", "must be at most 32")?;
    rule(groups.iter().collect::<HashSet<_>>().len() == groups.len(), "groups", "must not stand there twice")?;
    rule(attributes.0.len() <= MAX_GROUPS, "attributes", "must be at most 32")?;
    rule(envelope.signatures.len() == 1, "signatures", "must be one")?;
    Ok(admission)
}

fn keys_of(record: &Record) -> impl Iterator<Item = (PrincipalId, &PublicKey)> {
    record.public_keys().map(|key| (record.principal(), key))
}

fn signed_by<'a>(
    enrollers: impl Iterator<Item = (PrincipalId, &'a PublicKey)>,
    envelope: &Envelope,
    admission: Admission,
) -> Result<VerifiedAdmission, EvidenceError> {
    let enrollers: Vec<_> = enrollers.collect();
    let keys: Vec<_> = enrollers.iter().map(|(_, key)| *key).collect();
    let verified = dsse::verify(envelope, ADMISSION_TYPE, &keys)?;
    let signer = enrollers.iter().find(|(_, key)| verified.signers().contains(&key.key_id()));
    let (enroller, key) = signer.ok_or(EvidenceError::Signature(dsse::DsseError::NoKnownKey))?;
    let digest = payload_digest(envelope);
    Ok(VerifiedAdmission { envelope: envelope.clone(), digest, admission, enroller: *enroller, key: key.key_id() })
}

fn signed_by_admin<'a>(
    admins: impl Iterator<Item = (PrincipalId, &'a PublicKey)>,
    envelope: &Envelope,
    admission: Admission,
) -> Result<VerifiedAdmission, EvidenceError> {
    signed_by(admins, envelope, admission).map_err(|error| match error {
        EvidenceError::Signature(dsse::DsseError::NoKnownKey) => {
            EvidenceError::Rule { field: "signatures", rule: "must be one by an admin, for any cluster of the admins" }
        }
        error => error,
    })
}

/// What an enroller says about a principal besides its record.
#[derive(Debug, Clone, Default)]
pub struct AdmissionDraft {
    /// Groups of the principal, for policy.
    pub groups: Vec<Name>,
    /// Attributes of the principal, for policy.
    pub attributes: BTreeMap<String, String>,
    /// Unix milliseconds, or one above the enroller's last.
    pub serial: u64,
}

impl AdmissionDraft {
    /// The payload of an admission of `record` into the cluster of `view`, for [`super::sign`].
    pub fn payload(self, view: &ClusterView, record: &Record) -> Admission {
        self.payload_in(Scope::Cluster(view.id()), view.newest().number(), record)
    }

    /// The payload of an admission of `record` into any cluster of these admins, for [`super::sign`] by one of them.
    pub fn payload_under(self, admins: &AdminSet, record: &Record) -> Admission {
        self.payload_in(admins.scope(), 0, record)
    }

    fn payload_in(self, scope: Scope, doc: u32, record: &Record) -> Admission {
        let Self { groups, attributes, serial } = self;
        Admission {
            v: V1,
            scope,
            principal: record.principal(),
            name: record.name().clone(),
            version: record.version(),
            record_sha256: record.digest(),
            groups,
            attributes: StrictMap(attributes),
            serial,
            doc,
        }
    }
}

/// Which admins of *genesis* approved it. Envelopes that do not verify are left out: anyone can add them to the
/// list, so they must not spoil it.
pub fn verify_approvals(view: &ClusterView, approvals: &[Envelope]) -> BTreeSet<PrincipalId> {
    let approved = |envelope: &Envelope| -> Option<BTreeSet<PrincipalId>> {
        let GenesisApproval { v: V1, cluster } = parse(envelope).ok()?;
        (cluster == view.id()).then_some(())?;
        view.genesis().signed_by_admins(envelope, GENESIS_TYPE).ok()
    };
    approvals.iter().filter_map(approved).flatten().collect()
}

/// Verifies k admins' consent to lost commits, by any one document from number `since` to the newest.
///
/// A node takes a consent by the newest document. A client that comes later judges by those from the one on that it knew
/// when it saw what was lost: the loss came after that, so these admins or later ones had to accept it. Admins whom
/// that document had removed already do not count, whenever they sign.
///
/// # Errors
/// See [`EvidenceError`].
pub fn verify_consent(view: &ClusterView, envelope: &Envelope, since: u32) -> Result<Consent, EvidenceError> {
    let consent: Consent = parse(envelope)?;
    rule(consent.cluster == view.id(), "cluster", "must be this cluster")?;
    let named: HashSet<_> = consent.earlier.iter().chain([&consent.lost]).map(|position| position.lineage).collect();
    rule(consent.earlier.len() <= MAX_EARLIER, "earlier", "must be at most 2,048")?;
    rule(named.len() == consent.earlier.len().saturating_add(1), "earlier", "must name each history once")?;
    let mut judged = Err(EvidenceError::TooFewAdmins { have: 0, need: view.newest().quorum() });
    for document in view.documents().rev().take_while(|document| document.number() >= since) {
        judged = enough(document, envelope, CONSENT_TYPE);
        if judged.is_ok() {
            break;
        }
    }
    judged.map(|_| consent)
}

/// A recovery that k admins signed.
#[derive(Debug, Clone)]
pub struct VerifiedRecovery {
    /// What they said.
    pub recovery: PolicyRecovery,
    /// Who signed.
    pub signers: BTreeSet<PrincipalId>,
}

/// Verifies that k admins replace the policy set of the digest `replaced` by `policies` (JSON bytes), and that they
/// said so within the last ten minutes.
///
/// # Errors
/// See [`EvidenceError`].
pub fn verify_policy_recovery(
    view: &ClusterView,
    envelope: &Envelope,
    policies: &[u8],
    replaced: &Digest,
    now_ms: u64,
) -> Result<VerifiedRecovery, EvidenceError> {
    let recovery: PolicyRecovery = parse(envelope)?;
    let PolicyRecovery { v: V1, cluster, policies_sha256, replaces, at_ms } = &recovery;
    rule(*cluster == view.id(), "cluster", "must be this cluster")?;
    rule(*policies_sha256.as_bytes() == sha256(&[policies]), "policies_sha256", "must be the new set's digest")?;
    rule(replaces == replaced, "replaces", "must be the digest of the set that is there")?;
    let fresh =
        *at_ms <= now_ms.saturating_add(FUTURE_SKEW_MS) && now_ms.saturating_sub(*at_ms) <= POLICY_RECOVERY_LIFETIME_MS;
    rule(fresh, "at_ms", "must be within the last ten minutes")?;
    let signers = enough(view.newest(), envelope, POLICY_RECOVERY_TYPE)?;
    Ok(VerifiedRecovery { recovery, signers })
}

fn enough(
    document: &VerifiedDocument,
    envelope: &Envelope,
    payload_type: &str,
) -> Result<BTreeSet<PrincipalId>, EvidenceError> {
    let signers = document.signed_by_admins(envelope, payload_type)?;
    let (have, need) = (signers.len(), document.quorum());
    if have < need { Err(EvidenceError::TooFewAdmins { have, need }) } else { Ok(signers) }
}
