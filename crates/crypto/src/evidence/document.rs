//! The cluster document: who the admins, enrollers and nodes are.

use super::record::canonical;
use super::{EvidenceError, Record, parse, payload_digest, rule};
use crate::dsse;
use crate::recipient::{Recipient, RecipientKind};
use crate::sign::{Algorithm, PublicKey, RsaMinimum};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Document, MAX_ADMINS, MAX_ENROLLERS, MinKem, NodeEntry, NodeState, SealMode};
use bulla_wire::id::{ClusterId, Digest, KeyId, PrincipalId};
use bulla_wire::json::V1;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Shortest RSA key of an admin's recipient, in bits: its share opens everything.
const MIN_ADMIN_RSA_BITS: usize = 3072;

/// A node of a document.
#[derive(Debug, Clone)]
pub struct Node {
    /// Verifies what the node signs.
    pub key: PublicKey,
    /// Whether it is to be believed.
    pub state: NodeState,
    /// Since when it has this state, Unix milliseconds.
    pub since_ms: u64,
}

/// A document whose own rules hold and whose signatures are those that the document before demands.
#[derive(Debug, Clone)]
pub struct VerifiedDocument {
    envelope: Envelope,
    digest: Digest,
    body: Document,
    records: BTreeMap<PrincipalId, Record>,
    nodes: Vec<Node>,
    ingress: Recipient,
}

impl VerifiedDocument {
    /// Verifies genesis. Whether it is the *pinned* genesis is the caller's question.
    pub(super) fn genesis(envelope: &Envelope) -> Result<Self, EvidenceError> {
        let body: Document = parse(envelope)?;
        rule(body.number == 0, "number", "must be 0 in genesis")?;
        rule(body.cluster.is_none(), "cluster", "must be null in genesis")?;
        rule(body.prev.is_none(), "prev", "must be null in genesis")?;
        rule(envelope.signatures.is_empty(), "signatures", "must be none in genesis")?;
        rule(body.random.0.len() == 32, "random", "must be 32 bytes")?;
        Self::check(envelope, body, None)
    }

    /// Verifies the document after `before`.
    pub(super) fn next(envelope: &Envelope, cluster: ClusterId, before: &Self) -> Result<Self, EvidenceError> {
        let body: Document = parse(envelope)?;
        rule(body.cluster == Some(cluster), "cluster", "must be this cluster")?;
        rule(before.number().checked_add(1) == Some(body.number), "number", "must be one more than before")?;
        rule(body.prev == Some(before.digest), "prev", "must be the digest of the document before")?;
        rule(body.random == before.body.random, "random", "must be that of genesis")?;
        let have = before.signed_by_admins(envelope, super::wire::DOCUMENT_TYPE)?.len();
        let need = before.quorum();
        if have < need {
            return Err(EvidenceError::TooFewAdmins { have, need });
        }
        let document = Self::check(envelope, body, Some(before))?;
        check_node_steps(&before.nodes, &document.nodes)?;
        Ok(document)
    }

    fn check(envelope: &Envelope, body: Document, before: Option<&Self>) -> Result<Self, EvidenceError> {
        let records = open_records(&body, before)?;
        check_roles(&body, &records)?;
        let nodes = open_nodes(&body.nodes)?;
        let ingress = canonical(&body.ingress)?;
        let hybrid = body.min_kem == MinKem::Classical || ingress.is_hybrid();
        rule(hybrid, "ingress", "must be hybrid with min_kem hybrid")?;
        for admin in body.admins.iter().filter_map(|id| records.get(id)) {
            check_admin_kem(admin, body.min_kem)?;
        }
        Ok(Self { envelope: envelope.clone(), digest: payload_digest(envelope), body, records, nodes, ingress })
    }

    /// The envelope as it came.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
    /// SHA-256 of the payload.
    pub fn digest(&self) -> Digest {
        self.digest
    }
    /// What it says.
    pub fn body(&self) -> &Document {
        &self.body
    }
    /// 0 for genesis.
    pub fn number(&self) -> u32 {
        self.body.number
    }
    /// How many admins open the seal and sign the next document, consents and recoveries: k, or 1 with `any`.
    pub fn quorum(&self) -> usize {
        usize::from(self.body.k)
    }
    /// The admins, in the order of their shares.
    pub fn admins(&self) -> impl Iterator<Item = &Record> {
        self.body.admins.iter().filter_map(|id| self.records.get(id))
    }
    /// The enrollers.
    pub fn enrollers(&self) -> impl Iterator<Item = &Record> {
        self.body.enrollers.iter().filter_map(|id| self.records.get(id))
    }
    /// The record of an admin or enroller.
    pub fn record(&self, principal: &PrincipalId) -> Option<&Record> {
        self.records.get(principal)
    }
    /// Records of all admins and enrollers.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }
    /// The admin who holds this signing key.
    pub fn admin_by_key(&self, key: &KeyId) -> Option<&Record> {
        self.admins().find(|record| record.key(key).is_some())
    }
    /// The enroller who holds this signing key.
    pub fn enroller_by_key(&self, key: &KeyId) -> Option<&Record> {
        self.enrollers().find(|record| record.key(key).is_some())
    }
    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// The node with this key.
    pub fn node(&self, key: &KeyId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.key.key_id() == *key)
    }
    /// To whom secret bytes in requests are encrypted.
    pub fn ingress(&self) -> &Recipient {
        &self.ingress
    }

    /// Which admins of this document signed `envelope`, each counted once however many keys it has.
    ///
    /// # Errors
    /// For another type, and for a signature in the name of an admin's key that is not by that key.
    pub fn signed_by_admins(
        &self,
        envelope: &Envelope,
        payload_type: &str,
    ) -> Result<BTreeSet<PrincipalId>, EvidenceError> {
        let keys: Vec<_> = self.admins().flat_map(Record::public_keys).collect();
        let verified = match dsse::verify(envelope, payload_type, &keys) {
            Ok(verified) => verified,
            Err(dsse::DsseError::NoKnownKey) => return Ok(BTreeSet::new()),
            Err(error) => return Err(error.into()),
        };
        let admin = |key| self.admin_by_key(key).map(Record::principal);
        Ok(verified.signers().iter().filter_map(admin).collect())
    }
}

/// One for each admin and each enroller.
const MAX_RECORDS: usize = MAX_ADMINS + MAX_ENROLLERS;

/// Finds out whose record each is, and that each name, key and recipient has one holder.
fn open_records(
    body: &Document,
    before: Option<&VerifiedDocument>,
) -> Result<BTreeMap<PrincipalId, Record>, EvidenceError> {
    let mut records = BTreeMap::new();
    let (mut names, mut keys, mut recipients) = (HashSet::new(), HashSet::new(), HashSet::new());
    rule(body.records.len() <= MAX_RECORDS, "records", "must be those of the admins and enrollers only")?;
    for envelope in &body.records {
        let record = open_record(envelope, before)?;
        rule(names.insert(record.name().clone()), "records", "must have a name of their own each")?;
        for key in record.public_keys() {
            // One key under two admins would count as two signatures.
            rule(keys.insert(key.key_id()), "records", "must not share a signing key")?;
        }
        for recipient in record.recipients() {
            rule(recipients.insert(recipient.digest()), "records", "must not share a recipient")?;
        }
        let other = records.insert(record.principal(), record);
        rule(other.is_none(), "records", "must hold each principal once")?;
    }
    Ok(records)
}

/// A later version must follow a record in the document before: a client that has only its pin and the documents
/// must be able to judge it, and learns of records elsewhere from the documents alone.
fn open_record(envelope: &Envelope, before: Option<&VerifiedDocument>) -> Result<Record, EvidenceError> {
    let digest = payload_digest(envelope);
    let here = || before.into_iter().flat_map(VerifiedDocument::records);
    if let Some(same) = here().find(|record| record.digest() == digest) {
        // The signatures are not part of the digest, so an envelope with others is judged by itself.
        if same.envelope() == envelope {
            return Ok(same.clone());
        }
    }
    let prev = parse::<super::wire::PrincipalRecord>(envelope)?.prev;
    let previous = here().find(|record| Some(record.digest()) == prev);
    Record::open(envelope, previous).map_err(|error| match error {
        EvidenceError::PreviousNeeded => EvidenceError::Rule {
            field: "records",
            rule: "must be of version 1 or follow one in the document before; whoever changed keys before it was \
                   named here needs a new principal",
        },
        other => other,
    })
}

fn check_roles(body: &Document, records: &BTreeMap<PrincipalId, Record>) -> Result<(), EvidenceError> {
    let Document {
        v: V1,
        name: _,
        cluster: _,
        number: _,
        prev: _,
        random: _,
        records: _,
        admins,
        mode,
        k,
        enrollers,
        nodes: _,
        ingress: _,
        min_kem: _,
    } = body;
    let admin_set: BTreeSet<_> = admins.iter().copied().collect();
    let enroller_set: BTreeSet<_> = enrollers.iter().copied().collect();
    rule((1..=MAX_ADMINS).contains(&admins.len()), "admins", "must be 1 to 16")?;
    rule(admin_set.len() == admins.len(), "admins", "must not stand there twice")?;
    rule(enrollers.len() <= MAX_ENROLLERS, "enrollers", "must be at most 32")?;
    rule(enroller_set.len() == enrollers.len(), "enrollers", "must not stand there twice")?;
    rule((1..=admins.len()).contains(&usize::from(*k)), "k", "must be 1 to the number of admins")?;
    match mode {
        SealMode::Any => rule(*k == 1, "k", "must be 1 with mode any")?,
        SealMode::Quorum => rule(*k >= 2, "k", "must be 2 or more with mode quorum")?,
    }
    let named: BTreeSet<_> = admin_set.union(&enroller_set).copied().collect();
    let held: BTreeSet<_> = records.keys().copied().collect();
    rule(named == held, "records", "must be exactly those of the admins and enrollers")
}

fn open_nodes(entries: &[NodeEntry]) -> Result<Vec<Node>, EvidenceError> {
    let mut ids = HashSet::new();
    let mut nodes = Vec::with_capacity(entries.len());
    for NodeEntry { spki, state, since_ms } in entries {
        let key = PublicKey::from_spki(&spki.0, RsaMinimum::Bits3072)?;
        rule(key.algorithm() == Algorithm::Ed25519, "nodes.spki", "must be an Ed25519 key")?;
        rule(ids.insert(key.key_id()), "nodes.spki", "must not stand there twice")?;
        nodes.push(Node { key, state: *state, since_ms: *since_ms });
    }
    let active = nodes.iter().any(|node| node.state == NodeState::Active);
    rule(active, "nodes", "must hold an active one")?;
    Ok(nodes)
}

/// active → retired → compromised or active → compromised; none leaves, or it could come back as active.
fn check_node_steps(before: &[Node], after: &[Node]) -> Result<(), EvidenceError> {
    let rank = |state| match state {
        NodeState::Active => 0,
        NodeState::Retired => 1,
        NodeState::Compromised => 2,
    };
    for old in before {
        let new = after.iter().find(|node| node.key == old.key);
        let new =
            new.ok_or(EvidenceError::Rule { field: "nodes", rule: "must hold every node of the document before" })?;
        rule(rank(old.state) <= rank(new.state), "nodes.state", "must not go back")?;
    }
    Ok(())
}

fn check_admin_kem(admin: &Record, min_kem: MinKem) -> Result<(), EvidenceError> {
    let strong = admin.recipients().iter().all(|recipient| match (min_kem, recipient.kind()) {
        (_, RecipientKind::SshRsa { bits }) if bits < MIN_ADMIN_RSA_BITS => false,
        (MinKem::Classical, _) => true,
        (MinKem::Hybrid, _) => recipient.is_hybrid(),
    });
    rule(strong, "min_kem", "must be held by every recipient of an admin, and RSA ones must have 3072 bits")
}

/// What changes from one document to the next; the rest stays. Made by [`super::ClusterView::next_document`].
#[derive(Debug, Clone)]
pub struct DocumentDraft {
    /// Records of exactly the admins and enrollers.
    pub records: Vec<Record>,
    /// In the order of the shares.
    pub admins: Vec<PrincipalId>,
    /// Any or quorum.
    pub mode: SealMode,
    /// How many admins.
    pub k: u8,
    /// Whose signature admits others.
    pub enrollers: Vec<PrincipalId>,
    /// The nodes, all of before included.
    pub nodes: Vec<Node>,
    /// To whom secret bytes in requests are encrypted.
    pub ingress: Recipient,
    /// The weakest key encapsulation taken.
    pub min_kem: MinKem,
}

impl DocumentDraft {
    /// A draft that says what `document` says.
    pub fn of(document: &VerifiedDocument) -> Self {
        let VerifiedDocument { envelope: _, digest: _, body, records, nodes, ingress } = document;
        Self {
            records: records.values().cloned().collect(),
            admins: body.admins.clone(),
            mode: body.mode,
            k: body.k,
            enrollers: body.enrollers.clone(),
            nodes: nodes.clone(),
            ingress: ingress.clone(),
            min_kem: body.min_kem,
        }
    }

    /// Whether shares must be dealt anew: other admins, another order of them, other keys of one, another mode or k. Such
    /// a document also names the next ingress key.
    pub fn changes_seal(&self, before: &VerifiedDocument) -> bool {
        let record = |id: &PrincipalId| self.records.iter().find(|record| record.principal() == *id);
        let renewed = |id| record(id).map(Record::digest) != before.record(id).map(Record::digest);
        let body = &before.body;
        self.admins != body.admins || self.mode != body.mode || self.k != body.k || self.admins.iter().any(renewed)
    }

    /// Puts `record` in the place of the same principal's older one. `false` if the principal is not there.
    pub fn replace_record(&mut self, record: &Record) -> bool {
        let place = self.records.iter_mut().find(|old| old.principal() == record.principal());
        place.map(|old| *old = record.clone()).is_some()
    }

    /// Gives a principal a share of the seal from this document on, and the right to admit others, as founders have
    /// both. It is the last in the order of the shares.
    pub fn add_admin(&mut self, record: &Record) {
        let principal = record.principal();
        if !self.replace_record(record) {
            self.records.push(record.clone());
        }
        for role in [&mut self.admins, &mut self.enrollers] {
            if !role.contains(&principal) {
                role.push(principal);
            }
        }
    }

    /// Takes both roles of an admin away, and its record.
    pub fn remove_admin(&mut self, principal: &PrincipalId) {
        self.admins.retain(|id| id != principal);
        self.remove_enroller(principal);
    }

    /// Takes a role away, and the record with the last role.
    pub fn remove_enroller(&mut self, principal: &PrincipalId) {
        self.enrollers.retain(|id| id != principal);
        let Self { records, admins, enrollers, .. } = self;
        records.retain(|record| admins.contains(&record.principal()) || enrollers.contains(&record.principal()));
    }
}
