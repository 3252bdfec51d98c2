//! Bundles: what a new cluster begins with, signed by its admins before there is one (`spec/bundle.md`).
//!
//! A bundle holds the records of its admins, so it is judged by itself. Whose admins they are is the question of
//! whoever has a pin, or a genesis.
//!
//! Not held: that it is the newest. It ends at `exp_ms`, and clients remember the keys that they saw.

use super::admission::verify_admission_under;
use super::{
    AdminSet, EvidenceError, Record, RecordChain, VerifiedAdmission, VerifiedDocument, parse, payload_digest, rule,
};
use crate::dsse;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{
    self as wire, BUNDLE_TYPE, Bundle, MAX_BUNDLE_LIFE_MS, MAX_BUNDLE_POLICIES, MAX_BUNDLE_PRINCIPALS,
};
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::json::V1;
use bulla_wire::name::Name;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A principal of a bundle, verified.
#[derive(Debug, Clone)]
pub struct BundledPrincipal {
    /// All its records.
    pub chain: RecordChain,
    /// The word of one of the admins about the newest one.
    pub admission: VerifiedAdmission,
}

/// A bundle whose own rules hold, whoever signed it so far: what is shown to an admin who is about to sign.
#[derive(Debug, Clone)]
pub struct BundleDraft {
    digest: Digest,
    admins: Vec<Record>,
    set: AdminSet,
    made_ms: u64,
    exp_ms: u64,
    principals: Vec<BundledPrincipal>,
    policies: BTreeMap<Name, String>,
    signers: BTreeSet<PrincipalId>,
}

impl BundleDraft {
    /// Verifies everything but the number of signatures and the time.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub fn open(envelope: &Envelope) -> Result<Self, EvidenceError> {
        let Bundle { v: V1, admins, k, made_ms, exp_ms, principals, policies } = parse(envelope)?;
        let admins = admins.iter().map(|record| Record::open(record, None)).collect::<Result<Vec<_>, _>>()?;
        let set = AdminSet::of_records(&admins, k)?;
        let life_ms = exp_ms.checked_sub(made_ms);
        rule(
            life_ms.is_some_and(|ms| (1..=MAX_BUNDLE_LIFE_MS).contains(&ms)),
            "exp_ms",
            "must be at most 366 days on",
        )?;
        rule(principals.len() <= MAX_BUNDLE_PRINCIPALS, "principals", "must be at most 64")?;
        rule(policies.0.len() <= MAX_BUNDLE_POLICIES, "policies", "must be at most 16")?;
        let mut opened = Vec::with_capacity(principals.len());
        for (index, principal) in principals.iter().enumerate() {
            let principal = open_principal(&admins, &set, principal)
                .map_err(|cause| EvidenceError::Bundled { index, cause: Box::new(cause) })?;
            opened.push(principal);
        }
        check_holders(&admins, &opened)?;
        let named = |(name, text): (String, String)| match name.parse() {
            Ok(name) => Ok((name, text)),
            Err(_) => Err(EvidenceError::Rule { field: "policies", rule: "must have names as everything else has" }),
        };
        Ok(Self {
            digest: payload_digest(envelope),
            signers: signers(&admins, envelope)?,
            admins,
            set,
            made_ms,
            exp_ms,
            principals: opened,
            policies: policies.0.into_iter().map(named).collect::<Result<_, _>>()?,
        })
    }

    /// The bundle that k of its admins signed and that has not ended.
    ///
    /// # Errors
    /// [`EvidenceError::TooFewAdmins`], [`EvidenceError::Expired`].
    pub fn verify(self, now_ms: u64) -> Result<VerifiedBundle, EvidenceError> {
        let (have, need) = (self.signers.len(), usize::from(self.set.k()));
        if have < need {
            return Err(EvidenceError::TooFewAdmins { have, need });
        }
        if now_ms >= self.exp_ms {
            return Err(EvidenceError::Expired { exp_ms: self.exp_ms });
        }
        Ok(VerifiedBundle(self))
    }

    /// SHA-256 of the payload.
    pub fn digest(&self) -> Digest {
        self.digest
    }
    /// Its admins, in the order of the bundle.
    pub fn admins(&self) -> &[Record] {
        &self.admins
    }
    /// The admins' keys and k: the scope of its admissions.
    pub fn set(&self) -> &AdminSet {
        &self.set
    }
    /// When it was made, Unix milliseconds.
    pub fn made_ms(&self) -> u64 {
        self.made_ms
    }
    /// When it ends, Unix milliseconds.
    pub fn exp_ms(&self) -> u64 {
        self.exp_ms
    }
    /// Who is admitted.
    pub fn principals(&self) -> &[BundledPrincipal] {
        &self.principals
    }
    /// Texts of policies.
    pub fn policies(&self) -> &BTreeMap<Name, String> {
        &self.policies
    }
    /// The admins who signed, each once.
    pub fn signers(&self) -> &BTreeSet<PrincipalId> {
        &self.signers
    }
}

/// A bundle that k of its admins signed.
#[derive(Debug, Clone)]
pub struct VerifiedBundle(BundleDraft);

impl VerifiedBundle {
    /// What it holds.
    pub fn contents(&self) -> &BundleDraft {
        &self.0
    }

    /// Whether a cluster with this genesis begins with it now: the same admins with the same records, the same k, and
    /// not yet ended.
    ///
    /// # Errors
    /// [`EvidenceError::OtherAdmins`], [`EvidenceError::OtherK`], [`EvidenceError::Expired`].
    pub fn fits(&self, genesis: &VerifiedDocument, now_ms: u64) -> Result<(), EvidenceError> {
        let BundleDraft { admins, set, exp_ms, .. } = &self.0;
        set.demand(&AdminSet::of(genesis)?)?;
        let named: BTreeSet<_> = genesis.admins().map(Record::digest).collect();
        if named != admins.iter().map(Record::digest).collect() {
            return Err(EvidenceError::OtherAdmins);
        }
        if now_ms >= *exp_ms { Err(EvidenceError::Expired { exp_ms: *exp_ms }) } else { Ok(()) }
    }
}

fn open_principal(
    admins: &[Record],
    set: &AdminSet,
    principal: &wire::BundledPrincipal,
) -> Result<BundledPrincipal, EvidenceError> {
    let wire::BundledPrincipal { records, admission } = principal;
    let chain = RecordChain::open(records)?;
    let admission = verify_admission_under(admins, set, admission, chain.newest())?;
    Ok(BundledPrincipal { chain, admission })
}

/// Each name, key and recipient has one holder, those of older records included. An admin may stand among the
/// principals, for groups and attributes, with the record that it has among the admins.
fn check_holders(admins: &[Record], principals: &[BundledPrincipal]) -> Result<(), EvidenceError> {
    let (mut names, mut held) = (HashSet::new(), HashSet::new());
    for admin in admins {
        rule(names.insert(admin.name()), "admins", "must have a name of their own each")?;
        rule(take(&mut held, [admin]), "admins", "must not share a key or recipient")?;
    }
    let mut known = HashSet::new();
    for BundledPrincipal { chain, .. } in principals {
        rule(known.insert(chain.principal()), "principals", "must not stand there twice")?;
        if admins.iter().any(|admin| admin.digest() == chain.newest().digest()) {
            continue;
        }
        rule(names.insert(chain.newest().name()), "principals", "must have a name of their own each")?;
        rule(take(&mut held, chain.iter()), "principals", "must not share a key or recipient")?;
    }
    Ok(())
}

/// Takes the keys and recipients of one holder; `false` if another has one of them. A record may keep one of those
/// before it.
fn take<'a>(held: &mut HashSet<[u8; 32]>, records: impl IntoIterator<Item = &'a Record>) -> bool {
    let own: HashSet<[u8; 32]> = records.into_iter().flat_map(Record::holdings).collect();
    let free = own.is_disjoint(held);
    held.extend(own);
    free
}

/// Which of the admins signed, each counted once.
fn signers(admins: &[Record], envelope: &Envelope) -> Result<BTreeSet<PrincipalId>, EvidenceError> {
    let keys: Vec<_> = admins.iter().flat_map(Record::public_keys).collect();
    let verified = match dsse::verify(envelope, BUNDLE_TYPE, &keys) {
        Ok(verified) => verified,
        Err(dsse::DsseError::NoKnownKey) => return Ok(BTreeSet::new()),
        Err(error) => return Err(error.into()),
    };
    let signed = |admin: &&Record| verified.signers().iter().any(|key| admin.key(key).is_some());
    Ok(admins.iter().filter(signed).map(Record::principal).collect())
}
