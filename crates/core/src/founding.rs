//! What a new cluster begins with: its founders, the first policy set, and what a bundle brings (`spec/bundle.md`).
//!
//! All of it is written in the commit that makes the cluster. So a bundle is applied whole or not at all, never twice,
//! and never over something newer: there is nothing yet.

use crate::audit::{BundleLine, Label};
use crate::barrier::Writes;
use crate::directory::{Principal, StoredPrincipal};
use crate::engine::{policy, principal};
use crate::policy::{PolicyError, PolicySet, first_texts};
use crate::record::BATCH_OPERATIONS_MAX;
use bulla_crypto::evidence::{
    BundleDraft, BundledPrincipal, ClusterView, EvidenceError, Record, RecordChain, VerifiedBundle,
};
use bulla_wire::dsse::Envelope;
use bulla_wire::name::Name;
use std::collections::BTreeMap;
use std::fmt;

/// Most rows of a bundle. They go into one commit with those of the seal and the founders, which are a hundred at most
/// for sixteen admins with a key and a recipient or two each.
pub const MAX_BUNDLE_ROWS: usize = BATCH_OPERATIONS_MAX - 128;

/// Why no cluster begins with a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleError {
    /// It does not hold, has ended, or is of other admins.
    Evidence(EvidenceError),
    /// Its policies cannot stand beside the first set, or are none.
    Policy(PolicyError),
    /// Its principals have more keys and recipients than one commit takes.
    TooManyRows {
        /// Rows that it would write.
        rows: usize,
    },
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evidence(_) => f.write_str("the bundle does not hold"),
            Self::Policy(_) => f.write_str("the bundle's policies cannot be taken"),
            Self::TooManyRows { rows } => write!(
                f,
                "principals, keys, recipients and policies of the bundle are {rows}, and {MAX_BUNDLE_ROWS} are taken"
            ),
        }
    }
}

impl std::error::Error for BundleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Evidence(cause) => Some(cause),
            Self::Policy(cause) => Some(cause),
            Self::TooManyRows { .. } => None,
        }
    }
}

impl From<EvidenceError> for BundleError {
    fn from(error: EvidenceError) -> Self {
        Self::Evidence(error)
    }
}

/// A bundle with which a cluster of its admins can begin.
#[derive(Debug, Clone)]
pub struct Bundle(VerifiedBundle);

impl Bundle {
    /// Checks what can be known before there is a cluster.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn open(envelope: &Envelope, now_ms: u64) -> Result<Self, BundleError> {
        Ok(Self(Self::draft(envelope)?.verify(now_ms)?))
    }

    /// As [`Bundle::open`], but for the number of signatures and the time: for whoever is about to sign.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn draft(envelope: &Envelope) -> Result<BundleDraft, BundleError> {
        let draft = BundleDraft::open(envelope)?;
        let rows = draft.principals().iter().map(|principal| 1 + held(&principal.chain)).sum::<usize>();
        let rows = rows + draft.policies().len();
        if rows > MAX_BUNDLE_ROWS {
            return Err(BundleError::TooManyRows { rows });
        }
        PolicySet::parse(&with_first(draft.policies())).map_err(BundleError::Policy)?;
        Ok(draft)
    }

    /// What it holds.
    pub fn contents(&self) -> &BundleDraft {
        self.0.contents()
    }

    /// What the audit log tells of it.
    pub fn line(&self) -> BundleLine {
        let contents = self.contents();
        BundleLine {
            sha256: contents.digest(),
            made_ms: contents.made_ms(),
            signers: contents.signers().iter().copied().collect(),
            principals: contents.principals().iter().map(|principal| principal.chain.principal()).collect(),
            policies: contents.policies().keys().map(|name| Label::lossy(name.as_str())).collect(),
        }
    }
}

/// The rows of a new cluster's principals and policies.
///
/// # Errors
/// If the bundle is of other admins or k, or has ended.
pub fn rows(view: &ClusterView, bundle: Option<&Bundle>, now_ms: u64) -> Result<Writes, BundleError> {
    let genesis = view.genesis();
    let mut writes = Writes::default();
    let mut bundled: BTreeMap<_, _> = BTreeMap::new();
    let mut policies = first_texts();
    if let Some(Bundle(bundle)) = bundle {
        bundle.fits(genesis, now_ms)?;
        let contents = bundle.contents();
        bundled.extend(contents.principals().iter().map(|principal| (principal.chain.principal(), principal)));
        policies = with_first(contents.policies());
    }
    let admins: Vec<Name> = "admins".parse().into_iter().collect();
    for record in genesis.admins() {
        // An admin whom the bundle names has the groups and attributes of its admission besides.
        let stored = bundled.remove(&record.principal());
        let stored = stored.map_or_else(|| Principal::founder(record, admins.clone()), admitted);
        principal::found(&mut writes, &stored, [record]);
    }
    for principal in bundled.into_values() {
        principal::found(&mut writes, &admitted(principal), principal.chain.iter());
    }
    for (name, text) in &policies {
        writes.create(policy::key(name), policy::StoredPolicy::to_bytes(name, text));
    }
    Ok(writes)
}

/// The first set, and over it those of the bundle, as if each had been put.
fn with_first(policies: &BTreeMap<Name, String>) -> BTreeMap<Name, String> {
    let mut all = first_texts();
    all.extend(policies.iter().map(|(name, text)| (name.clone(), text.clone())));
    all
}

fn held(chain: &RecordChain) -> usize {
    principal::holder_keys(chain.iter()).len()
}

fn admitted(principal: &BundledPrincipal) -> StoredPrincipal {
    let BundledPrincipal { chain, admission } = principal;
    StoredPrincipal {
        id: chain.principal(),
        name: chain.newest().name().clone(),
        disabled: false,
        records: chain.iter().map(Record::envelope).cloned().collect(),
        admission: Some(admission.envelope.clone()),
        serial: admission.admission.serial,
        groups: admission.admission.groups.clone(),
        attributes: admission.admission.attributes.clone(),
    }
}

#[cfg(test)]
mod tests;
