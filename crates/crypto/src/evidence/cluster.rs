//! The chain of documents from a pin on.

use super::document::{DocumentDraft, VerifiedDocument};
use super::{EvidenceError, Record, rule, verify_approvals};
use crate::digest::sha256;
use crate::sign::PublicKey;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Bytes, Document, MAX_ADMINS, NodeEntry, NodeState, Scope};
use bulla_wire::id::{ClusterId, Digest, KeyId, PrincipalId};
use bulla_wire::json::V1;
use bulla_wire::name::Name;
use std::collections::BTreeSet;

/// The signing keys of a set of admins and how many of them decide: what a client pins that must trust
/// *any* cluster of these admins, since a transient one has a new id at each start.
///
/// Each of them has one signing key. With several, an admin could stand in another genesis as two, under a record for
/// each key, and count twice toward k.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSet {
    keys: BTreeSet<KeyId>,
    k: u8,
}

impl AdminSet {
    /// From the ids of the admins' keys, as they were written down, and k.
    ///
    /// # Errors
    /// If they are none, more than a cluster has, or fewer than k.
    pub fn new(keys: impl IntoIterator<Item = KeyId>, k: u8) -> Result<Self, EvidenceError> {
        let keys: BTreeSet<_> = keys.into_iter().collect();
        rule((1..=MAX_ADMINS).contains(&keys.len()), "admins", "must be 1 to 16")?;
        rule((1..=keys.len()).contains(&usize::from(k)), "k", "must be 1 to the number of admins")?;
        Ok(Self { keys, k })
    }

    /// From the admins' records, and k.
    ///
    /// # Errors
    /// As [`AdminSet::new`]; also if one of them has several signing keys, or two have the same.
    pub fn of_records<'a>(admins: impl IntoIterator<Item = &'a Record>, k: u8) -> Result<Self, EvidenceError> {
        let mut keys = BTreeSet::new();
        for admin in admins {
            let mut own = admin.public_keys().map(PublicKey::key_id);
            let (Some(key), None) = (own.next(), own.next()) else {
                return Err(EvidenceError::Rule { field: "admins", rule: "must have one signing key each" });
            };
            rule(keys.insert(key), "admins", "must not share a signing key")?;
        }
        Self::new(keys, k)
    }

    /// The admins of a document.
    ///
    /// # Errors
    /// As [`AdminSet::of_records`].
    pub fn of(document: &VerifiedDocument) -> Result<Self, EvidenceError> {
        Self::of_records(document.admins(), document.body().k)
    }

    /// The keys.
    pub fn keys(&self) -> &BTreeSet<KeyId> {
        &self.keys
    }

    /// How many decide.
    pub fn k(&self) -> u8 {
        self.k
    }

    /// H("admins:", each key id as text and "\n" in sorted order, k as decimal): what stands after `admins:`
    /// in an admission's scope.
    pub fn digest(&self) -> Digest {
        let mut ids: Vec<_> = self.keys.iter().map(|key| format!("{key}\n")).collect();
        ids.sort();
        Digest::new(sha256(&[b"admins:", ids.concat().as_bytes(), self.k.to_string().as_bytes()]))
    }

    /// The scope of admissions into any cluster of these admins.
    pub fn scope(&self) -> Scope {
        Scope::Admins(self.digest())
    }

    /// Refuses admins that are others than these, or of whom another number decides.
    pub(super) fn demand(&self, told: &Self) -> Result<(), EvidenceError> {
        if told.keys != self.keys {
            return Err(EvidenceError::OtherAdmins);
        }
        if told.k != self.k {
            return Err(EvidenceError::OtherK { pinned: self.k, told: told.k });
        }
        Ok(())
    }
}

/// What is known of a cluster: its documents from genesis to the newest one seen, each verified.
#[derive(Debug, Clone)]
pub struct ClusterView {
    id: ClusterId,
    genesis: VerifiedDocument,
    later: Vec<VerifiedDocument>,
}

impl ClusterView {
    /// Begins with a genesis that nobody pinned: at init, on the node itself, and where a person is about to
    /// compare the id. All its records are of version 1.
    ///
    /// # Errors
    /// If genesis breaks a rule of `spec/evidence.md`.
    pub fn unpinned(genesis: &Envelope) -> Result<Self, EvidenceError> {
        let genesis = VerifiedDocument::genesis(genesis)?;
        Ok(Self { id: ClusterId::new(*genesis.digest().as_bytes()), genesis, later: Vec::new() })
    }

    /// Begins with the genesis whose digest is the pinned cluster id.
    ///
    /// # Errors
    /// [`EvidenceError::OtherPin`] if it is another; else as [`ClusterView::unpinned`].
    pub fn pinned(cluster: ClusterId, genesis: &Envelope) -> Result<Self, EvidenceError> {
        if super::payload_digest(genesis).as_bytes() != cluster.as_bytes() {
            return Err(EvidenceError::OtherPin);
        }
        Self::unpinned(genesis)
    }

    /// Begins with any genesis that names exactly the pinned admins and k, and that k of them approved.
    ///
    /// # Errors
    /// [`EvidenceError::OtherAdmins`] or [`EvidenceError::OtherK`] if it names others; [`EvidenceError::TooFewAdmins`]
    /// if fewer than k approved it yet.
    pub fn pinned_admins(admins: &AdminSet, genesis: &Envelope, approvals: &[Envelope]) -> Result<Self, EvidenceError> {
        let view = Self::unpinned(genesis)?;
        admins.demand(&AdminSet::of(&view.genesis)?)?;
        let (have, need) = (verify_approvals(&view, approvals).len(), view.genesis.quorum());
        if have < need { Err(EvidenceError::TooFewAdmins { have, need }) } else { Ok(view) }
    }

    /// Verifies the next document and takes it. Its records are of version 1 or follow one in the document before:
    /// whoever has only the pin and the documents must be able to judge them.
    ///
    /// # Errors
    /// If it breaks a rule or the admins of the document before did not sign it; the view stays as it was.
    pub fn push(&mut self, document: &Envelope) -> Result<(), EvidenceError> {
        let next = VerifiedDocument::next(document, self.id, self.newest())?;
        self.later.push(next);
        Ok(())
    }

    /// The cluster's id.
    pub fn id(&self) -> ClusterId {
        self.id
    }
    /// Document 0.
    pub fn genesis(&self) -> &VerifiedDocument {
        &self.genesis
    }
    /// The newest document here. A server may know a newer one, and may hide it.
    pub fn newest(&self) -> &VerifiedDocument {
        self.later.last().unwrap_or(&self.genesis)
    }
    /// The document with this number.
    pub fn document(&self, number: u32) -> Option<&VerifiedDocument> {
        match number.checked_sub(1) {
            None => Some(&self.genesis),
            Some(place) => self.later.get(usize::try_from(place).ok()?),
        }
    }
    /// All documents, genesis first.
    pub fn documents(&self) -> impl DoubleEndedIterator<Item = &VerifiedDocument> {
        std::iter::once(&self.genesis).chain(&self.later)
    }

    /// The key of a node that is active in the newest document: whose answers are believed.
    pub fn active_node(&self, key: &KeyId) -> Option<&PublicKey> {
        self.newest().node(key).filter(|node| node.state == NodeState::Active).map(|node| &node.key)
    }

    /// The record of an admin or enroller of the newest document, which needs no admission.
    pub fn standing(&self, principal: &PrincipalId) -> Option<&Record> {
        self.newest().record(principal)
    }

    /// The admin or enroller of the newest document with this name.
    pub fn standing_by_name(&self, name: &Name) -> Option<&Record> {
        self.newest().records().find(|record| record.name() == name)
    }

    /// Where an admission must hold: this cluster, or any cluster of the genesis' admins.
    pub fn holds_in(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Cluster(id) => *id == self.id,
            Scope::Admins(digest) => AdminSet::of(&self.genesis).is_ok_and(|admins| admins.digest() == *digest),
        }
    }

    /// The payload of the next document, to be signed by k admins of the newest one ([`super::sign`],
    /// [`crate::dsse::add_signature`]) and pushed.
    ///
    /// # Errors
    /// If the numbers are used up. All other rules are checked by [`ClusterView::push`].
    pub fn next_document(&self, draft: &DocumentDraft) -> Result<Document, EvidenceError> {
        let before = self.newest();
        let number = before.number().checked_add(1);
        rule(number.is_some(), "number", "must fit into 32 bits")?;
        let DocumentDraft { records, admins, mode, k, enrollers, nodes, ingress, min_kem } = draft;
        Ok(Document {
            v: V1,
            name: before.body().name.clone(),
            cluster: Some(self.id),
            number: number.unwrap_or_default(),
            prev: Some(before.digest()),
            random: before.body().random.clone(),
            records: records.iter().map(|record| record.envelope().clone()).collect(),
            admins: admins.clone(),
            mode: *mode,
            k: *k,
            enrollers: enrollers.clone(),
            nodes: nodes
                .iter()
                .map(|node| NodeEntry {
                    spki: Bytes(node.key.spki().to_vec()),
                    state: node.state,
                    since_ms: node.since_ms,
                })
                .collect(),
            ingress: ingress.to_string(),
            min_kem: *min_kem,
        })
    }
}

/// The payload of a genesis document: the founders are admins and enrollers, the one node is active.
/// [`super::sign_in_memory`] without keys makes its envelope.
#[expect(clippy::too_many_arguments, reason = "each is a field of the document, of a type of its own")]
pub fn genesis_payload(
    name: Name,
    random: [u8; 32],
    founders: &[Record],
    mode: bulla_wire::evidence::SealMode,
    k: u8,
    node: &PublicKey,
    since_ms: u64,
    ingress: &crate::recipient::Recipient,
    min_kem: bulla_wire::evidence::MinKem,
) -> Document {
    let principals: Vec<_> = founders.iter().map(Record::principal).collect();
    Document {
        v: V1,
        name,
        cluster: None,
        number: 0,
        prev: None,
        random: Bytes(random.to_vec()),
        records: founders.iter().map(|record| record.envelope().clone()).collect(),
        admins: principals.clone(),
        mode,
        k,
        enrollers: principals,
        nodes: vec![NodeEntry { spki: Bytes(node.spki().to_vec()), state: NodeState::Active, since_ms }],
        ingress: ingress.to_string(),
        min_kem,
    }
}
