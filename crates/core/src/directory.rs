//! Who is known here: principals, policies and documents as one immutable value, swapped after a commit.
//!
//! It is loaded when the cluster unseals. What is in it was verified when it was stored, and the barrier
//! vouches for it since; so loading parses and does not verify again. What changes with the documents is judged by
//! the newest one, at loading and with each new one: whoever was admitted by a key that is no enroller's any more is
//! void here, as it is for clients.

use crate::operation::Fault;
use crate::policy::{PolicyError, PolicySet, Subject};
use bulla_crypto::evidence::{ClusterView, Record};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::sign::{PublicKey, RsaMinimum};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::PrincipalRecord;
use bulla_wire::id::{Digest, KeyId, PrincipalId};
use bulla_wire::json::StrictMap;
use bulla_wire::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The record of a principal in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPrincipal {
    /// Its id.
    pub id: PrincipalId,
    /// Its name.
    pub name: Name,
    /// Its keys are refused.
    pub disabled: bool,
    /// All its records, version 1 first.
    pub records: Vec<Envelope>,
    /// The newest admission; none for a founding admin.
    pub admission: Option<Envelope>,
    /// Serial of the newest admission; 0 without one.
    pub serial: u64,
    /// Its groups.
    pub groups: Vec<Name>,
    /// Its attributes.
    pub attributes: StrictMap<String>,
}

/// A key of a principal, as every request needs it.
#[derive(Debug, Clone)]
pub struct ActiveKey {
    /// Verifies requests.
    pub public: PublicKey,
    /// The recipients of the record, in canonical text.
    pub recipients: Vec<String>,
    parsed: OnceLock<Vec<Recipient>>,
}

impl ActiveKey {
    /// Where secret replies go. Parsed when first asked for: it costs more than all else about a principal, and most
    /// principals ask for no secret before the next unsealing.
    pub fn reply_to(&self) -> &[Recipient] {
        // They were parsed when the record was admitted. A version that knows one no more must still unseal.
        self.parsed.get_or_init(|| self.recipients.iter().filter_map(|text| text.parse().ok()).collect())
    }
}

/// A principal as every request needs it.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Who it is, for policy.
    pub subject: Subject,
    /// Its keys are refused.
    pub disabled: bool,
    /// Its admission does not hold by the newest document, so its keys are refused too.
    pub void: bool,
    /// Version of its newest record.
    pub version: u32,
    /// Digest of its newest record.
    pub record_sha256: Digest,
    /// Serial of its newest admission.
    pub serial: u64,
    /// Keys of the newest record.
    pub keys: Vec<ActiveKey>,
    /// The key that signed the newest admission, verified when that was stored; none for a founding admin.
    admitted_by: Option<KeyId>,
    /// Groups and attributes that it was stored with, while there is no admission that holds.
    withheld: Option<(Vec<Name>, BTreeMap<String, String>)>,
    /// The last of its groups is `admins`, which the newest document gives it and nothing that is stored.
    admin_by_document: bool,
}

impl Principal {
    /// Whether its keys are taken.
    pub fn may_sign(&self) -> bool {
        !self.disabled && !self.void
    }

    /// Judges it by the newest document. `false` if nothing changes.
    ///
    /// Whoever stands in the document needs no admission. Without one that holds it has no attributes, and no groups.
    /// An admin of the document is in the group `admins` whatever else was stored: an enroller who could take it away
    /// would lock the others out of the cluster whose seal they hold.
    fn judge(&mut self, view: &ClusterView) -> bool {
        let Subject { id, name, .. } = &self.subject;
        let newest = view.newest();
        let stands = newest.record(id).is_some();
        let displaced = view.standing_by_name(name).is_some_and(|standing| standing.principal() != *id);
        let admitted = self.admitted_by.is_some_and(|key| newest.enroller_by_key(&key).is_some());
        let void = displaced || !(admitted || stands);
        let admin = newest.body().admins.contains(id);
        let mut changed = std::mem::replace(&mut self.void, void) != void;
        let before = self.admin_by_document;
        if before {
            // It was put at the end.
            self.subject.groups.pop();
        }
        let Subject { groups, attributes, .. } = &mut self.subject;
        if !admitted && self.withheld.is_none() {
            self.withheld = Some((std::mem::take(groups), std::mem::take(attributes)));
            changed = true;
        } else if admitted && let Some(stored) = self.withheld.take() {
            (*groups, *attributes) = stored;
            changed = true;
        }
        let group = admin.then(admins_group).flatten().filter(|group| !groups.contains(group));
        self.admin_by_document = group.is_some();
        groups.extend(group);
        changed || before != self.admin_by_document
    }

    /// Parses a stored principal.
    pub fn from_stored(stored: &StoredPrincipal) -> Result<Self, Fault> {
        let fault = |reason: String| Fault::Record { kind: "principal", reason };
        let newest = stored.records.last().ok_or_else(|| fault("no records".into()))?;
        let record: PrincipalRecord = bulla_wire::json::parse(&newest.payload, bulla_wire::json::MAX_STATEMENT_BYTES)
            .map_err(|e| fault(e.to_string()))?;
        let keys = record
            .keys
            .into_iter()
            .map(|entry| {
                let public =
                    PublicKey::from_spki(&entry.spki.0, RsaMinimum::Bits2048).map_err(|e| fault(e.to_string()))?;
                Ok(ActiveKey { public, recipients: entry.recipients, parsed: OnceLock::new() })
            })
            .collect::<Result<_, Fault>>()?;
        Ok(Self {
            subject: Subject {
                id: stored.id,
                name: stored.name.clone(),
                groups: stored.groups.clone(),
                attributes: stored.attributes.0.clone(),
            },
            disabled: stored.disabled,
            void: false,
            version: record.version,
            record_sha256: bulla_crypto::evidence::payload_digest(newest),
            serial: stored.serial,
            keys,
            admitted_by: stored.admission.as_ref().and_then(|admission| Some(admission.signatures.first()?.key)),
            withheld: None,
            admin_by_document: false,
        })
    }

    /// The principal of a founding admin.
    pub fn founder(record: &Record, groups: Vec<Name>) -> StoredPrincipal {
        StoredPrincipal {
            id: record.principal(),
            name: record.name().clone(),
            disabled: false,
            records: vec![record.envelope().clone()],
            admission: None,
            serial: 0,
            groups,
            attributes: StrictMap::default(),
        }
    }
}

/// The group of the admins. Whoever is one by the newest document is a member as long as that is so.
pub fn admins_group() -> Option<Name> {
    "admins".parse().ok()
}

/// What a commit changes here.
pub enum Change {
    /// A principal came or changed.
    Principal(Box<StoredPrincipal>),
    /// A policy was written, or deleted if there is no text.
    Policy(Name, Option<String>),
    /// k admins replaced the whole policy set, which took back those of them who were disabled.
    Recovery(BTreeMap<Name, String>, Vec<StoredPrincipal>),
    /// A document was added.
    Document(Box<ClusterView>),
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(principal) => write!(f, "Principal({})", principal.name),
            Self::Policy(name, text) => write!(f, "Policy({name}, {})", if text.is_some() { "put" } else { "deleted" }),
            Self::Recovery(policies, enabled) => {
                write!(f, "Recovery({} policies, {} enabled)", policies.len(), enabled.len())
            }
            Self::Document(view) => write!(f, "Document({})", view.newest().number()),
        }
    }
}

/// Everything that authentication and authorization need.
#[derive(Clone)]
pub struct Directory {
    view: Arc<ClusterView>,
    by_name: BTreeMap<Name, Arc<Principal>>,
    by_id: HashMap<PrincipalId, Arc<Principal>>,
    by_key: HashMap<KeyId, (Arc<Principal>, usize)>,
    policies: Arc<PolicySet>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Directory({} principals, {} policies)", self.by_name.len(), self.policies.texts().count())
    }
}

impl Directory {
    /// Builds it from what the store holds.
    ///
    /// # Errors
    /// If the policies, which were checked when they were stored, do not fit this version's schema.
    pub fn new(
        view: ClusterView,
        principals: impl IntoIterator<Item = Principal>,
        policies: BTreeMap<Name, String>,
    ) -> Result<Self, PolicyError> {
        let mut directory = Self {
            view: Arc::new(view),
            by_name: BTreeMap::new(),
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            policies: Arc::new(PolicySet::parse(&policies)?),
        };
        for principal in principals {
            directory.insert(principal);
        }
        Ok(directory)
    }

    fn insert(&mut self, mut principal: Principal) {
        principal.judge(&self.view);
        let principal = Arc::new(principal);
        if let Some(before) = self.by_name.insert(principal.subject.name.clone(), principal.clone()) {
            // After rotation the old signing key is refused.
            for key in &before.keys {
                self.by_key.remove(&key.public.key_id());
            }
        }
        self.by_id.insert(principal.subject.id, principal.clone());
        for (index, key) in principal.keys.iter().enumerate() {
            self.by_key.insert(key.public.key_id(), (principal.clone(), index));
        }
    }

    /// The directory after a change.
    pub fn with(&self, change: Change) -> Result<Self, Fault> {
        let mut next = self.clone();
        let set = match change {
            Change::Principal(stored) => {
                next.insert(Principal::from_stored(&stored)?);
                return Ok(next);
            }
            Change::Document(view) => {
                next.view = Arc::new(*view);
                for principal in self.by_name.values() {
                    let mut judged = Principal::clone(principal);
                    if judged.judge(&next.view) {
                        next.insert(judged);
                    }
                }
                return Ok(next);
            }
            Change::Recovery(policies, enabled) => {
                for stored in &enabled {
                    next.insert(Principal::from_stored(stored)?);
                }
                PolicySet::parse(&policies)
            }
            Change::Policy(name, Some(text)) => self.policies.with(&name, &text),
            Change::Policy(name, None) => self.policies.without(&name),
        };
        next.policies = Arc::new(set.map_err(|e| Fault::Record { kind: "policy", reason: e.to_string() })?);
        Ok(next)
    }

    /// The documents.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }
    /// The policies.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }
    /// The principal with this name.
    pub fn by_name(&self, name: &Name) -> Option<&Arc<Principal>> {
        self.by_name.get(name)
    }
    /// The principal with this id.
    pub fn by_id(&self, id: &PrincipalId) -> Option<&Arc<Principal>> {
        self.by_id.get(id)
    }
    /// The principal that signs with this key now, and the key. Disabled and void ones are found too.
    pub fn by_key(&self, key: &KeyId) -> Option<(&Arc<Principal>, &ActiveKey)> {
        let (principal, index) = self.by_key.get(key)?;
        Some((principal, principal.keys.get(*index)?))
    }
    /// Principals in the order of their names, after one of them.
    pub fn principals_after(&self, after: Option<&Name>) -> impl Iterator<Item = &Arc<Principal>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.by_name.range::<Name, _>((from, Unbounded)).map(|(_, principal)| principal)
    }
    /// Whether the principal holds a seal share by the newest document.
    pub fn is_admin(&self, id: &PrincipalId) -> bool {
        self.view.newest().body().admins.contains(id)
    }
    /// Whether the principal's signature admits others by the newest document.
    pub fn is_enroller(&self, id: &PrincipalId) -> bool {
        self.view.newest().body().enrollers.contains(id)
    }
}
