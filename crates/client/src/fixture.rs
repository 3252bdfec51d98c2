//! A small cluster for the tests of this crate, made as strangers would make it.

use bulla_crypto::evidence::{
    AdmissionDraft, ClusterView, DocumentDraft, PrincipalKey, Record, genesis_payload, record_payload, sign_in_memory,
};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::secret::SecretKey;
use bulla_crypto::sign::SigningKey;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{MinKem, SealMode};

/// Somebody with a key and a record.
pub(crate) struct Person {
    pub identity: Identity,
    pub record: Record,
}

/// Alice is the admin, erin an enroller besides, bob neither.
pub(crate) struct World {
    pub alice: Person,
    pub erin: Person,
    pub bob: Person,
    pub node: SigningKey,
    pub view: ClusterView,
}

pub(crate) fn person(name: &str, seed: u8) -> Person {
    let identity = Identity::from_seed(IdentityKind::Classical, SecretKey::filled(|bytes| bytes.fill(seed))).unwrap();
    let key = PrincipalKey {
        public: identity.signing_key().unwrap().public_key().clone(),
        recipients: identity.recipients().to_vec(),
        dual_use: false,
    };
    let payload = record_payload(name.parse().unwrap(), None, &[key]).unwrap();
    let envelope = sign_in_memory(&payload, &[identity.signing_key().unwrap()]).unwrap();
    Person { record: Record::open(&envelope, None).unwrap(), identity }
}

pub(crate) fn world() -> World {
    let [alice, erin, bob] = [("alice", 1), ("erin", 2), ("bob", 3)].map(|(name, seed)| person(name, seed));
    let node = SigningKey::from_seed(&SecretKey::filled(|bytes| bytes.fill(9))).unwrap();
    let ingress = person("ingress", 8).identity.recipients().first().unwrap().clone();
    let genesis = genesis_payload(
        "test".parse().unwrap(),
        [7; 32],
        std::slice::from_ref(&alice.record),
        SealMode::Any,
        1,
        node.public_key(),
        0,
        &ingress,
        MinKem::Classical,
    );
    let mut view = ClusterView::unpinned(&sign_in_memory(&genesis, &[]).unwrap()).unwrap();
    let mut draft = DocumentDraft::of(view.newest());
    draft.records.push(erin.record.clone());
    draft.enrollers.push(erin.record.principal());
    let next = sign_in_memory(&view.next_document(&draft).unwrap(), &[alice.identity.signing_key().unwrap()]).unwrap();
    view.push(&next).unwrap();
    World { alice, erin, bob, node, view }
}

impl Clone for World {
    fn clone(&self) -> Self {
        let [alice, erin, bob] = [("alice", 1), ("erin", 2), ("bob", 3)].map(|(name, seed)| person(name, seed));
        let node = SigningKey::from_seed(&SecretKey::filled(|bytes| bytes.fill(9))).unwrap();
        Self { alice, erin, bob, node, view: self.view.clone() }
    }
}

impl World {
    /// One document further, in which erin is no enroller.
    pub(crate) fn remove_erin(&mut self) {
        let mut draft = DocumentDraft::of(self.view.newest());
        draft.remove_enroller(&self.erin.record.principal());
        let payload = self.view.next_document(&draft).unwrap();
        let next = sign_in_memory(&payload, &[self.alice.identity.signing_key().unwrap()]).unwrap();
        self.view.push(&next).unwrap();
    }
}

pub(crate) fn admission_of(world: &World, record: &Record, by: &Person) -> Envelope {
    let draft = AdmissionDraft { serial: 1, ..AdmissionDraft::default() };
    sign_in_memory(&draft.payload(&world.view, record), &[by.identity.signing_key().unwrap()]).unwrap()
}
