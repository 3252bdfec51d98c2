//! Evidence: payloads that are signed on their way by fixed keys, so that rules behind the signature are reached.

use crate::crypto::identity;
use bulla_core::founding::Bundle;
use bulla_crypto::evidence::{
    AdminSet, BundleDraft, ClusterView, DocumentDraft, EvidenceError, PrincipalKey, Record, RecordChain,
    check_statement_times, genesis_payload, payload_digest, record_payload, verify_admission, verify_approvals,
    verify_consent, verify_origin, verify_policy_recovery, verify_receipt, verify_sealed, verify_statement,
};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::sign::{Signer as _, SigningKey};
use bulla_crypto::{digest, dsse, evidence as made};
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{
    ADMISSION_TYPE, BUNDLE_TYPE, CONSENT_TYPE, DOCUMENT_TYPE, GENESIS_TYPE, MinKem, POLICY_RECOVERY_TYPE,
    PRINCIPAL_TYPE, SealMode,
};
use bulla_wire::id::{Digest, WrapId};
use bulla_wire::json::{MAX_STATEMENT_BYTES, V1, parse};
use bulla_wire::kv::SEALED_TYPE;
use bulla_wire::wrap::{Addressee, Ciphertext, Mode, ORIGIN_TYPE, Origin, RECEIPT_TYPE, STATEMENT_TYPE, Statement};
use std::sync::LazyLock;

/// Statements that one input may hold, so that it stays fast.
const LINES_MAX: usize = 4;
/// When everything happens that has a time, Unix milliseconds.
pub const NOW_MS: u64 = 1_700_000_000_000;

/// The fixed keys, and the cluster that they made: of the five people the first three are its admins, two of whom
/// decide, and the fourth an enroller.
pub struct Keys {
    /// Everybody's identity.
    pub people: [Identity; 5],
    /// Everybody's record, as version 1.
    pub records: Vec<Record>,
    /// The one node.
    pub node: Identity,
    /// The cluster, at document 1.
    pub view: ClusterView,
}

impl Keys {
    /// They are made once.
    pub fn get() -> &'static Self {
        static KEYS: LazyLock<Keys> = LazyLock::new(|| {
            Keys::make().unwrap_or_else(|error| unreachable!("the fixed keys make a cluster: {error}"))
        });
        &KEYS
    }

    fn make() -> Result<Self, EvidenceError> {
        let people = [1, 2, 3, 4, 5].map(|seed| identity(IdentityKind::Classical, seed));
        let node = identity(IdentityKind::Classical, 91);
        let mut records = Vec::new();
        for (person, name) in people.iter().zip(["alice", "bob", "carol", "dave", "erin"]) {
            records.push(Record::open(&sign(PRINCIPAL_TYPE, &record_of(person, name, None), &[person]), None)?);
        }
        let (founders, _) = records.split_at(3);
        let ingress = identity(IdentityKind::Classical, 90).recipients().first().cloned();
        let Some(ingress) = ingress else { unreachable!("an identity has a recipient") };
        let genesis = genesis_payload(
            named("test"),
            [7; 32],
            founders,
            SealMode::Quorum,
            2,
            node.public_key(),
            1000,
            &ingress,
            MinKem::Classical,
        );
        let genesis = bulla_wire::json::to_vec(&genesis);
        let mut view = ClusterView::unpinned(&sign(DOCUMENT_TYPE, &genesis, &[]))?;
        let mut draft = DocumentDraft::of(view.newest());
        if let Some(enroller) = records.get(3) {
            draft.records.push(enroller.clone());
            draft.enrollers.push(enroller.principal());
        }
        let next = bulla_wire::json::to_vec(&view.next_document(&draft)?);
        view.push(&sign(DOCUMENT_TYPE, &next, &[&people[0], &people[1]]))?;
        Ok(Self { people, records, node, view })
    }

    /// The identities of the first `count` people.
    fn first(&self, count: usize) -> Vec<&Identity> {
        self.people.iter().take(count).collect()
    }
}

/// A name that is one.
pub fn named(text: &str) -> bulla_wire::name::Name {
    text.parse().unwrap_or_else(|error| unreachable!("{text}: {error}"))
}

/// The payload of somebody's next record.
pub fn record_of(person: &Identity, name: &str, previous: Option<&Record>) -> Vec<u8> {
    let key =
        PrincipalKey { public: person.public_key().clone(), recipients: person.recipients().to_vec(), dual_use: false };
    let payload = record_payload(named(name), previous, &[key]);
    payload.map(|payload| bulla_wire::json::to_vec(&payload)).unwrap_or_default()
}

/// An envelope around any bytes.
pub fn sign(payload_type: &str, payload: &[u8], by: &[&Identity]) -> Envelope {
    let keys: Vec<&SigningKey> = by.iter().filter_map(|person| person.signing_key()).collect();
    let envelope = dsse::sign_in_memory(payload_type, payload.to_vec(), &keys);
    envelope.unwrap_or_else(|error| unreachable!("keys in memory sign: {error}"))
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').take(LINES_MAX)
}

/// The same envelope with other content under the old signatures.
pub(crate) fn altered(envelope: &Envelope) -> Envelope {
    let mut envelope = envelope.clone();
    envelope.payload.push(b' ');
    envelope
}

/// A line is a version of one principal's record, which the first two people sign.
pub fn record(bytes: &[u8]) {
    let keys = Keys::get();
    let mut chain: Option<RecordChain> = None;
    for line in lines(bytes) {
        let envelope = sign(PRINCIPAL_TYPE, line, &keys.first(2));
        let previous = chain.as_ref().map(|chain| chain.newest().clone());
        let Ok(record) = Record::open(&envelope, previous.as_ref()) else { break };
        assert_eq!(record.digest(), payload_digest(&envelope));
        assert_eq!(record.digest(), Digest::new(digest::sha256(&[line])));
        assert!(Record::open(&altered(&envelope), previous.as_ref()).is_err(), "a signature for other bytes");
        assert_eq!((record.prev(), record.version() > 1), (previous.as_ref().map(Record::digest), previous.is_some()));
        assert!(record.keys().iter().all(|key| record.key(&key.public.key_id()).is_some()));
        let chained = match &mut chain {
            Some(chain) => chain.push(&envelope).map(drop),
            None => RecordChain::open(std::slice::from_ref(&envelope)).map(|first| chain = Some(first)),
        };
        assert_eq!(chained, Ok(()), "a chain refuses what its record takes");
    }
    if let Some(chain) = chain {
        let all: Vec<Envelope> = chain.iter().map(|record| record.envelope().clone()).collect();
        let again = RecordChain::open(&all).map(|again| (again.principal(), again.newest().digest()));
        assert_eq!(again, Ok((chain.principal(), chain.newest().digest())));
    }
}

/// The first line is a genesis, which nobody signs; the others are documents after it, which the first three people do.
pub fn document(bytes: &[u8]) {
    let signers = Keys::get().first(3);
    let mut lines = lines(bytes);
    let genesis = sign(DOCUMENT_TYPE, lines.next().unwrap_or_default(), &[]);
    let Ok(mut view) = ClusterView::unpinned(&genesis) else { return };
    assert!(ClusterView::pinned(view.id(), &genesis).is_ok(), "its own pin does not fit");
    for line in lines {
        let envelope = sign(DOCUMENT_TYPE, line, &signers);
        let (number, digest) = (view.newest().number(), view.newest().digest());
        assert!(view.push(&altered(&envelope)).is_err(), "a signature for other bytes");
        if view.push(&envelope).is_err() {
            assert_eq!((view.newest().number(), view.newest().digest()), (number, digest), "refused and taken");
            break;
        }
        assert_eq!(Some(view.newest().number()), number.checked_add(1));
    }
    for document in view.documents() {
        assert!(document.quorum() >= 1 && document.quorum() <= document.admins().count(), "nobody can decide");
        if let Ok(set) = AdminSet::of(document) {
            assert_eq!((set.k(), set.keys().len()), (document.body().k, document.admins().count()));
        }
    }
    // Whoever goes on from here without a change makes a document that is one.
    if let Ok(next) = view.next_document(&DocumentDraft::of(view.newest())) {
        let next = bulla_wire::json::to_vec(&next);
        let taken = view.push(&sign(DOCUMENT_TYPE, &next, &signers));
        let enough = !matches!(taken, Err(EvidenceError::TooFewAdmins { .. } | EvidenceError::Signature(_)));
        assert!(taken.is_ok() || !enough, "its own next document is refused: {taken:?}");
    }
}

/// What [`statement`] may be given, by the first byte of the input.
pub const PAYLOADS: &[(u8, &str)] = &[
    (b'a', ADMISSION_TYPE),
    (b's', STATEMENT_TYPE),
    (b'r', RECEIPT_TYPE),
    (b'c', CONSENT_TYPE),
    (b'g', GENESIS_TYPE),
    (b'p', POLICY_RECOVERY_TYPE),
    (b'k', SEALED_TYPE),
    (b'o', ORIGIN_TYPE),
];

/// The rest of the input is the payload, in a statement about the fixed cluster by those who may make one.
pub fn statement(bytes: &[u8]) {
    let Some((first, payload)) = bytes.split_first() else { return };
    let Some((_, payload_type)) = PAYLOADS.iter().find(|(letter, _)| letter == first) else { return };
    let Keys { people, records, node, view } = Keys::get();
    let by: Vec<&Identity> = match first {
        b'r' | b'o' => vec![node],
        b'a' | b's' | b'g' | b'k' => people.iter().take(1).collect(),
        _ => people.iter().take(2).collect(),
    };
    let envelope = sign(payload_type, payload, &by);
    let judge = |envelope: &Envelope| judge(*first, envelope, view, records);
    if judge(&envelope).is_ok() {
        assert_eq!(judge(&altered(&envelope)).ok(), None, "a signature for other bytes");
        let unsigned = Envelope { signatures: Vec::new(), ..envelope };
        assert_eq!(judge(&unsigned).ok(), None, "nobody's word is taken");
    }
}

/// Whether a statement holds; what must follow if it does.
fn judge(kind: u8, envelope: &Envelope, view: &ClusterView, records: &[Record]) -> Result<(), EvidenceError> {
    let ([alice, ..], [.., erin]) = (records, records) else { unreachable!("five people have records") };
    match kind {
        b'a' => {
            let admitted = verify_admission(view, envelope, erin)?;
            assert_eq!((admitted.admission.principal, admitted.enroller), (erin.principal(), alice.principal()));
            assert_eq!(admitted.admission.record_sha256, erin.digest());
        }
        b's' => {
            let verified = verify_statement(envelope, &view.id(), alice)?;
            assert_eq!((verified.digest, verified.statement.from), (payload_digest(envelope), alice.principal()));
            let _ = check_statement_times(&verified.statement, NOW_MS);
            let _ = bulla_wire::wrap::to_lines(&verified.statement.to);
        }
        b'r' => {
            let receipt = verify_receipt(view, envelope)?;
            let _ = made::check_receipt_chain(&receipt, std::slice::from_ref(&receipt));
            assert_eq!(receipt.receipt.cluster, view.id());
        }
        b'c' => assert_eq!(verify_consent(view, envelope, 0)?.cluster, view.id()),
        b'k' => {
            let keys: Vec<_> = alice.public_keys().collect();
            let sealed = verify_sealed(envelope, &view.id(), &alice.principal(), &keys)?;
            assert_eq!((sealed.cluster, sealed.from), (view.id(), alice.principal()));
            let other = verify_sealed(envelope, &view.id(), &erin.principal(), &keys);
            assert!(sealed.version > 0 && !sealed.to.is_empty() && other.is_err(), "somebody else wrote it");
        }
        b'o' => origin(view, envelope)?,
        b'g' => {
            let approved = verify_approvals(view, std::slice::from_ref(envelope));
            if approved.is_empty() {
                return Err(EvidenceError::TooFewAdmins { have: 0, need: 1 });
            }
            assert!(approved.contains(&alice.principal()));
        }
        _ => {
            let replaced = Digest::new([9; 32]);
            let recovery = verify_policy_recovery(view, envelope, b"{}", &replaced, NOW_MS)?;
            assert_eq!(recovery.signers.len(), 2);
        }
    }
    Ok(())
}

/// What a node says of where a wrap's content is from holds for that wrap alone.
fn origin(view: &ClusterView, envelope: &Envelope) -> Result<(), EvidenceError> {
    let stated: Origin = parse(&envelope.payload, MAX_STATEMENT_BYTES).map_err(EvidenceError::Payload)?;
    let addressee = |principal| Addressee {
        principal,
        record_sha256: Digest::new([3; 32]),
        recipients: vec![Digest::new([4; 32])],
    };
    let statement = Statement {
        v: V1,
        cluster: view.id(),
        wrap: stated.wrap,
        from: stated.from,
        to: vec![addressee(stated.to)],
        mode: Mode::First,
        ct: stated.ct.clone(),
        nbf_ms: 0,
        exp_ms: NOW_MS,
        ack_s: 600,
        label: None,
        origin: Some(envelope.clone()),
    };
    let Some(verified) = verify_origin(view, &statement)? else { unreachable!("a statement lost its origin") };
    assert_eq!((&verified.origin, stated.cluster), (&stated, view.id()));
    let other = WrapId::new(stated.wrap.as_bytes().map(|byte| !byte));
    let elsewhere = [
        Statement { wrap: other, ..statement.clone() },
        Statement { to: vec![addressee(stated.to), addressee(stated.from)], ..statement.clone() },
        Statement { to: Vec::new(), ..statement.clone() },
        Statement { ct: Ciphertext { len: !stated.ct.len, ..stated.ct.clone() }, ..statement },
    ];
    let held = elsewhere.iter().filter(|statement| verify_origin(view, statement).is_ok());
    assert_eq!(held.count(), 0, "it holds for something else");
    Ok(())
}

/// The input is the payload of a bundle, which the first two people sign.
pub fn bundle(bytes: &[u8]) {
    let envelope = sign(BUNDLE_TYPE, bytes, &Keys::get().first(2));
    let Ok(draft) = BundleDraft::open(&envelope) else {
        assert!(Bundle::draft(&envelope).is_err());
        return;
    };
    assert_eq!(draft.digest(), payload_digest(&envelope));
    assert!(draft.signers().iter().all(|signer| draft.admins().iter().any(|admin| admin.principal() == *signer)));
    let now_ms = draft.made_ms();
    let enough = draft.signers().len() >= usize::from(draft.set().k());
    assert!(BundleDraft::open(&altered(&envelope)).is_err(), "a signature for other bytes");
    assert!(draft.clone().verify(draft.exp_ms()).is_err(), "it does not end");
    match Bundle::open(&envelope, now_ms) {
        Ok(bundle) => {
            assert!(enough, "too few signed it");
            let line = bundle.line();
            assert_eq!((line.sha256, line.principals.len()), (draft.digest(), draft.principals().len()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
