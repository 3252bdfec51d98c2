//! Every rule of `spec/evidence.md` and of the statements in `spec/wrap.md` has a case that breaks it alone:
//! signed correctly, so that nothing but the rule can refuse it. The cases are the published vectors.

mod bundle_cases;
mod cases;
mod wrap_cases;

use super::*;
use crate::identity::{Identity, IdentityKind};
use crate::recipient::Recipient;
use crate::secret::SecretKey;
use bulla_wire::evidence::{MinKem, SealMode};
use bulla_wire::id::ClusterId;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Somebody with a key and a record.
struct Person {
    identity: Identity,
    record: Record,
}

fn identity(seed: u8, kind: IdentityKind) -> Identity {
    Identity::from_seed(kind, SecretKey::filled(|bytes| bytes.fill(seed))).unwrap()
}

fn principal_key(identity: &Identity) -> PrincipalKey {
    PrincipalKey {
        public: identity.signing_key().unwrap().public_key().clone(),
        recipients: identity.recipients().to_vec(),
        dual_use: false,
    }
}

fn person(name: &str, seed: u8) -> Person {
    let identity = identity(seed, IdentityKind::Classical);
    let payload = record_payload(name.parse().unwrap(), None, &[principal_key(&identity)]).unwrap();
    let envelope = sign_in_memory(&payload, &[identity.signing_key().unwrap()]).unwrap();
    Person { record: Record::open(&envelope, None).unwrap(), identity }
}

/// A cluster with three admins of whom two decide, and in document 1 an enroller.
struct World {
    alice: Person,
    bob: Person,
    carol: Person,
    erin: Person,
    dave: Person,
    node: crate::sign::SigningKey,
    genesis: Envelope,
    view: ClusterView,
}

fn ingress() -> Recipient {
    identity(90, IdentityKind::Classical).recipients().first().unwrap().clone()
}

fn world() -> World {
    let [alice, bob, carol] = [person("alice", 1), person("bob", 2), person("carol", 3)];
    let [erin, dave] = [person("erin", 4), person("dave", 5)];
    let node = crate::sign::SigningKey::from_seed(&SecretKey::filled(|seed| seed.fill(91))).unwrap();
    let founders = [alice.record.clone(), bob.record.clone(), carol.record.clone()];
    let payload = genesis_payload(
        "test".parse().unwrap(),
        [7; 32],
        &founders,
        SealMode::Quorum,
        2,
        node.public_key(),
        1000,
        &ingress(),
        MinKem::Classical,
    );
    let genesis = sign_in_memory(&payload, &[]).unwrap();
    let mut view = ClusterView::unpinned(&genesis).unwrap();
    let mut draft = DocumentDraft::of(view.newest());
    draft.records.push(erin.record.clone());
    draft.enrollers.push(erin.record.principal());
    let next = view.next_document(&draft).unwrap();
    let signers = [alice.identity.signing_key().unwrap(), bob.identity.signing_key().unwrap()];
    view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap();
    World { alice, bob, carol, erin, dave, node, genesis, view }
}

/// The class of an error, as the vectors name it.
fn class(error: &EvidenceError) -> String {
    match error {
        EvidenceError::Signature(DsseError::OtherType { .. }) => "other_type".into(),
        EvidenceError::Signature(DsseError::BadSignature(_)) => "bad_signature".into(),
        EvidenceError::Signature(DsseError::NoKnownKey) => "no_known_key".into(),
        EvidenceError::Payload(_) => "payload".into(),
        EvidenceError::Key(_) => "key".into(),
        EvidenceError::Recipient(_) => "recipient".into(),
        EvidenceError::Rule { field, .. } => format!("rule {field}"),
        EvidenceError::NotSignedBy(_) => "not_signed_by".into(),
        EvidenceError::PreviousNeeded => "previous_needed".into(),
        EvidenceError::TooFewAdmins { .. } => "too_few_admins".into(),
        EvidenceError::UnknownNode(_) => "unknown_node".into(),
        EvidenceError::DocumentAhead { .. } => "document_ahead".into(),
        EvidenceError::OtherPin => "other_pin".into(),
        EvidenceError::OtherAdmins => "other_admins".into(),
        EvidenceError::OtherK { .. } => "other_k".into(),
        EvidenceError::Expired { .. } => "expired".into(),
        EvidenceError::Bundled { cause, .. } => format!("principal {}", class(cause)),
    }
}

fn envelope(value: &Value) -> Envelope {
    serde_json::from_value(value.clone()).unwrap()
}

fn envelopes(value: &Value) -> Vec<Envelope> {
    value.as_array().unwrap().iter().map(envelope).collect()
}

fn chain(view: &ClusterView) -> Value {
    json!(view.documents().map(VerifiedDocument::envelope).collect::<Vec<_>>())
}

fn open_view(input: &Value) -> Result<ClusterView, EvidenceError> {
    let documents = envelopes(&input["documents"]);
    let mut view = match (&input["pin"], &input["admins"]) {
        (Value::String(pin), _) => ClusterView::pinned(pin.parse().unwrap(), &documents[0])?,
        (_, Value::Object(admins)) => {
            let keys = admins["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().parse().unwrap());
            let set = AdminSet::new(keys, u8::try_from(admins["k"].as_u64().unwrap()).unwrap())?;
            ClusterView::pinned_admins(&set, &documents[0], &envelopes(&input["approvals"]))?
        }
        _ => ClusterView::unpinned(&documents[0])?,
    };
    for document in &documents[1..] {
        view.push(document)?;
    }
    Ok(view)
}

/// Judges a vector by its bytes alone.
#[expect(clippy::too_many_lines, reason = "an arm for each kind")]
fn judge(kind: &str, input: &Value) -> Result<Value, EvidenceError> {
    let number = |field: &str| input[field].as_u64().unwrap();
    match kind {
        "record" => {
            let chain = RecordChain::open(&envelopes(&input["records"]))?;
            Ok(json!({"principal": chain.principal(), "newest": chain.newest().digest()}))
        }
        "document" | "genesis" => {
            let view = open_view(input)?;
            Ok(
                json!({"cluster": view.id(), "newest": view.newest().number(), "admins": AdminSet::of(view.genesis()).ok().map(|set| set.digest())}),
            )
        }
        "admission" => {
            let chain = RecordChain::open(&envelopes(&input["records"]))?;
            let view = open_view(input)?;
            let verified = verify_admission(&view, &envelope(&input["admission"]), chain.newest())?;
            Ok(json!({"enroller": verified.enroller}))
        }
        "consent" => {
            let view = open_view(input)?;
            let since = input["since"].as_u64().map_or(view.newest().number(), |since| u32::try_from(since).unwrap());
            verify_consent(&view, &envelope(&input["consent"]), since).map(|consent| json!(consent))
        }
        "policy-recovery" => {
            let (view, policies) = (open_view(input)?, input["policies"].as_str().unwrap());
            let now_ms = number("now_ms");
            let replaced = input["replaced"].as_str().unwrap().parse().unwrap();
            verify_policy_recovery(&view, &envelope(&input["approval"]), policies.as_bytes(), &replaced, now_ms)
                .map(|verified| json!(verified.recovery))
        }
        "bundle" => {
            let bundle = BundleDraft::open(&envelope(&input["bundle"]))?.verify(number("now_ms"))?;
            if input["documents"].is_array() {
                bundle.fits(open_view(input)?.genesis(), number("now_ms"))?;
            }
            let contents = bundle.contents();
            Ok(json!({"digest": contents.digest(), "admins": contents.set().digest(), "signers": contents.signers()}))
        }
        "statement" => {
            let cluster: ClusterId = input["cluster"].as_str().unwrap().parse().unwrap();
            let chain = RecordChain::open(&envelopes(&input["records"]))?;
            let verified = verify_statement(&envelope(&input["statement"]), &cluster, chain.newest())?;
            check_statement_times(&verified.statement, number("now_ms"))?;
            Ok(json!({"digest": verified.digest}))
        }
        "sealed" => {
            let cluster: ClusterId = input["cluster"].as_str().unwrap().parse().unwrap();
            let record = RecordChain::open(&envelopes(&input["records"]))?.newest().clone();
            let keys: Vec<_> = record.public_keys().collect();
            let statement = verify_sealed(&envelope(&input["statement"]), &cluster, &record.principal(), &keys)?;
            Ok(json!({"path": statement.path, "version": statement.version}))
        }
        "receipt" => {
            let view = open_view(input)?;
            let receipts = envelopes(&input["receipts"]);
            let receipts =
                receipts.iter().map(|receipt| verify_receipt(&view, receipt)).collect::<Result<Vec<_>, _>>()?;
            let (created, later) = receipts.split_first().unwrap();
            if !later.is_empty() {
                check_receipt_chain(created, later)?;
            }
            Ok(json!(receipts.iter().map(|receipt| format!("{:?}", receipt.standing)).collect::<Vec<_>>()))
        }
        "origin" => {
            let view = open_view(input)?;
            let statement: Statement = serde_json::from_value(input["statement"].clone()).unwrap();
            let told = verify_origin(&view, &statement)?;
            Ok(json!(told.map(|told| json!([
                told.origin.action,
                told.origin.resource,
                format!("{:?}", told.standing)
            ]))))
        }
        other => panic!("unknown kind {other}"),
    }
}

fn case(name: &str, input: Value, expect: &str) -> Value {
    json!({"name": name, "input": input, "expect": expect})
}

/// With `BULLA_BLESS=1` writes the cases to `spec/vectors/evidence/`; always reads the files back and judges
/// what they hold. The expectation of each case stands in the test's source, not in what the code answered.
fn check_vectors(kind: &str, cases: Vec<Value>) {
    let mut cases = cases;
    for case in &mut cases {
        if let Ok(output) = judge(kind, &case["input"]) {
            case["output"] = output;
        }
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../spec/vectors/evidence/{kind}.json"));
    let read = || std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Vec<Value>>(&text).ok());
    // Not for another order of names alone, which comes from the features that serde_json is built with.
    if std::env::var_os("BULLA_BLESS").is_some() && read().as_ref() != Some(&cases) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let lines: Vec<_> = cases.iter().map(Value::to_string).collect();
        std::fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    }
    let published = read().unwrap();
    assert_eq!(published, cases, "{kind}: run with BULLA_BLESS=1 if the format was meant to change");
    assert!(published.iter().any(|case| case["expect"] == "ok"), "{kind}: no case that holds");
    for case in published {
        let got = judge(kind, &case["input"]);
        let text = got.as_ref().map_or_else(class, |_| "ok".to_owned());
        assert_eq!(text, case["expect"].as_str().unwrap(), "{kind}: {}: {got:?}", case["name"]);
        if let Ok(output) = got {
            assert_eq!(output, case["output"], "{kind}: {}", case["name"]);
        }
    }
}

/// No single bit of a signed statement can change: neither type, payload, key id nor signature.
#[test]
fn no_bit_of_an_envelope_is_free() {
    let World { alice, .. } = world();
    let good = alice.record.envelope().clone();
    for place in 0..good.payload.len() {
        let mut bent = good.clone();
        bent.payload[place] ^= 4;
        let opened = Record::open(&bent, None);
        assert!(opened.is_err(), "byte {place}");
    }
    for place in 0..good.signatures[0].bytes.len() {
        let mut bent = good.clone();
        bent.signatures[0].bytes[place] ^= 4;
        assert!(matches!(Record::open(&bent, None), Err(EvidenceError::Signature(DsseError::BadSignature(_)))));
    }
    let mut other_type = good.clone();
    other_type.payload_type.push('x');
    assert_eq!(class(&Record::open(&other_type, None).unwrap_err()), "other_type");
    let mut other_key = good;
    other_key.signatures[0].key = KeyId::new([0; 32]);
    assert_eq!(class(&Record::open(&other_key, None).unwrap_err()), "no_known_key");
}

#[test]
fn a_refused_document_leaves_the_view_as_it_was() {
    let World { mut view, alice, .. } = world();
    let next = view.next_document(&DocumentDraft::of(view.newest())).unwrap();
    let one = sign_in_memory(&next, &[alice.identity.signing_key().unwrap()]).unwrap();
    assert_eq!(view.push(&one), Err(EvidenceError::TooFewAdmins { have: 1, need: 2 }));
    assert_eq!(view.newest().number(), 1);
    assert_eq!(view.document(0).unwrap().number(), 0);
    assert!(view.document(2).is_none());
}

#[test]
fn an_enroller_that_leaves_takes_its_admissions_along() {
    let World { mut view, alice, bob, erin, dave, .. } = world();
    let draft = AdmissionDraft { serial: 5, ..AdmissionDraft::default() };
    let admission = draft.payload(&view, &dave.record);
    let admission = sign_in_memory(&admission, &[erin.identity.signing_key().unwrap()]).unwrap();
    assert!(verify_admission(&view, &admission, &dave.record).is_ok());
    let mut without = DocumentDraft::of(view.newest());
    without.remove_enroller(&erin.record.principal());
    let next = view.next_document(&without).unwrap();
    let signers = [alice.identity.signing_key().unwrap(), bob.identity.signing_key().unwrap()];
    view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap();
    let refused = verify_admission(&view, &admission, &dave.record).unwrap_err();
    assert_eq!(class(&refused), "no_known_key");
}

/// An enroller that changed its keys enters a document one version after the other.
#[test]
fn a_later_record_follows_one_in_the_document_before() {
    let World { mut view, alice, bob, erin, .. } = world();
    let mut chain = RecordChain::open(std::slice::from_ref(erin.record.envelope())).unwrap();
    let mut before = erin.identity;
    for seed in [41, 42] {
        let after = identity(seed, IdentityKind::Classical);
        let name = chain.newest().name().clone();
        let payload = record_payload(name, Some(chain.newest()), &[principal_key(&after)]).unwrap();
        let envelope =
            sign_in_memory(&payload, &[before.signing_key().unwrap(), after.signing_key().unwrap()]).unwrap();
        chain.push(&envelope).unwrap();
        before = after;
    }
    let mut draft = DocumentDraft::of(view.newest());
    assert!(draft.replace_record(chain.newest()));
    let next = view.next_document(&draft).unwrap();
    let signers = [alice.identity.signing_key().unwrap(), bob.identity.signing_key().unwrap()];
    let next = sign_in_memory(&next, &signers).unwrap();
    assert_eq!(class(&view.push(&next).unwrap_err()), "rule records", "two steps at once");
    // One step a document, and each is judged by the documents alone.
    for record in chain.iter().skip(1) {
        assert!(draft.replace_record(record));
        let next = view.next_document(&draft).unwrap();
        view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap();
    }
    assert_eq!(view.standing(&erin.record.principal()).unwrap().version(), 3);
    // Nobody enters with a later version.
    draft.remove_enroller(&erin.record.principal());
    let next = view.next_document(&draft).unwrap();
    view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap();
    draft.records.push(chain.newest().clone());
    draft.enrollers.push(chain.newest().principal());
    let next = view.next_document(&draft).unwrap();
    let refused = view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap_err();
    assert_eq!(class(&refused), "rule records");
    assert!(refused.to_string().contains("version 1"), "{refused}");
}

#[test]
fn approvals_of_strangers_do_not_count_and_do_not_spoil() {
    let World { view, alice, bob, dave, genesis, .. } = world();
    let approval = |cluster: ClusterId, by: &Person| {
        let payload = wire::GenesisApproval { v: bulla_wire::json::V1, cluster };
        sign_in_memory(&payload, &[by.identity.signing_key().unwrap()]).unwrap()
    };
    let mut broken = approval(view.id(), &bob);
    broken.signatures[0].bytes[0] ^= 1;
    let list = [
        broken,
        approval(view.id(), &dave),
        approval(ClusterId::new([0; 32]), &bob),
        genesis,
        approval(view.id(), &alice),
        approval(view.id(), &alice),
    ];
    assert_eq!(verify_approvals(&view, &list).into_iter().collect::<Vec<_>>(), [alice.record.principal()]);
}

#[test]
fn the_digest_of_an_admin_set_is_the_documented_one() {
    let (a, b) = (KeyId::new([1; 32]), KeyId::new([2; 32]));
    let expected = crate::digest::sha256(&[format!("admins:{a}\n{b}\n2").as_bytes()]);
    assert_eq!(AdminSet::new([b, a], 2).unwrap().digest(), Digest::new(expected));
}

/// By their texts, whose order is not that of their bytes (`spec/evidence.md`, "Admission").
#[test]
fn keys_of_an_admin_set_are_sorted_as_texts() {
    let (a, b) = (KeyId::new([0; 32]), KeyId::new([0xd0; 32]));
    assert!(a < b && a.to_string() > b.to_string());
    let expected = crate::digest::sha256(&[format!("admins:{b}\n{a}\n2").as_bytes()]);
    assert_eq!(AdminSet::new([a, b], 2).unwrap().digest(), Digest::new(expected));
}

/// Whose answers are believed, whose signature admits, and who has a name without an admission.
#[test]
fn the_newest_document_tells_who_is_active_and_who_stands() {
    let World { mut view, alice, bob, erin, dave, node, .. } = world();
    let node = node.public_key();
    assert_eq!(view.active_node(&node.key_id()), Some(node));
    assert!(view.active_node(&KeyId::new([0; 32])).is_none());
    assert_eq!(view.newest().nodes().iter().map(|node| node.key.clone()).collect::<Vec<_>>(), vec![node.clone()]);
    for (name, person, enrolls) in [("alice", &alice, true), ("erin", &erin, true), ("dave", &dave, false)] {
        let own = enrolls.then(|| person.record.principal());
        assert_eq!(view.standing_by_name(&name.parse().unwrap()).map(Record::principal), own, "{name}");
        let key = person.identity.signing_key().unwrap().public_key().key_id();
        assert_eq!(view.newest().enroller_by_key(&key).map(Record::principal), own, "{name}");
    }
    let mut draft = DocumentDraft::of(view.newest());
    let spare = identity(92, IdentityKind::Classical).signing_key().unwrap().public_key().clone();
    draft.nodes.push(Node { key: spare, ..draft.nodes[0].clone() });
    draft.nodes[0].state = bulla_wire::evidence::NodeState::Retired;
    let next = view.next_document(&draft).unwrap();
    let signers = [alice.identity.signing_key().unwrap(), bob.identity.signing_key().unwrap()];
    view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap();
    assert!(view.active_node(&node.key_id()).is_none());
}

/// A record that follows another stays, document after document; with other signatures it is not the one that was
/// judged.
#[test]
fn a_later_record_stands_in_the_documents_that_follow() {
    let World { mut view, alice, bob, erin, .. } = world();
    let second = renewed(&erin);
    let signers = [alice.identity.signing_key().unwrap(), bob.identity.signing_key().unwrap()];
    let mut draft = DocumentDraft::of(view.newest());
    assert!(draft.replace_record(&second));
    for number in [2, 3] {
        let next = view.next_document(&draft).unwrap();
        view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap();
        assert_eq!(view.newest().number(), number);
    }
    let mut next = view.next_document(&draft).unwrap();
    let place = next.records.iter().position(|record| record == alice.record.envelope()).unwrap();
    next.records[place].signatures.clear();
    assert_eq!(class(&view.push(&sign_in_memory(&next, &signers).unwrap()).unwrap_err()), "no_known_key");
}

/// The next record of a person, with another key.
fn renewed(person: &Person) -> Record {
    let new = identity(41, IdentityKind::Classical);
    let payload = record_payload(person.record.name().clone(), Some(&person.record), &[principal_key(&new)]).unwrap();
    let keys = [person.identity.signing_key().unwrap(), new.signing_key().unwrap()];
    Record::open(&sign_in_memory(&payload, &keys).unwrap(), Some(&person.record)).unwrap()
}

/// Shares are dealt to the admins' keys, in their order, by mode and k; whatever else changes leaves them alone.
#[test]
fn a_document_changes_the_seal_by_admins_keys_order_mode_or_k() {
    let World { view, alice, erin, dave, .. } = world();
    let (new_alice, new_erin) = (renewed(&alice), renewed(&erin));
    let changes = |change: &dyn Fn(&mut DocumentDraft)| {
        let mut draft = DocumentDraft::of(view.newest());
        change(&mut draft);
        draft.changes_seal(view.newest())
    };
    assert!(!changes(&|_| {}));
    assert!(!changes(&|draft| draft.remove_enroller(&erin.record.principal())));
    assert!(!changes(&|draft| assert!(draft.replace_record(&new_erin))));
    assert!(changes(&|draft| assert!(draft.replace_record(&new_alice))));
    assert!(changes(&|draft| draft.add_admin(&dave.record)));
    assert!(changes(&|draft| draft.admins.swap(0, 1)));
    assert!(changes(&|draft| draft.mode = SealMode::Any));
    assert!(changes(&|draft| draft.k = 3));
}

/// What becomes of the good genesis when `change` was done to it.
fn changed_genesis(w: &World, change: &dyn Fn(&mut wire::Document)) -> String {
    let mut payload: wire::Document = parse(&w.genesis).unwrap();
    change(&mut payload);
    let judged = ClusterView::unpinned(&sign_in_memory(&payload, &[]).unwrap());
    judged.as_ref().map_or_else(class, |_| "ok".to_owned())
}

/// Dave's record of version 1, in which these are his recipients.
fn dave_with(w: &World, recipients: Vec<Recipient>) -> Record {
    let entry = PrincipalKey { recipients, ..principal_key(&w.dave.identity) };
    let payload = record_payload("dave".parse().unwrap(), None, &[entry]).unwrap();
    Record::open(&sign_in_memory(&payload, &[w.dave.identity.signing_key().unwrap()]).unwrap(), None).unwrap()
}

/// An admin's share opens everything, so its RSA recipients are as long as signing keys.
#[test]
fn rsa_recipients_of_admins_have_3072_bits() {
    let w = world();
    for (bytes, expect) in [(256, "rule min_kem"), (383, "rule min_kem"), (384, "ok"), (385, "ok")] {
        let modulus = [&[0x91][..], &vec![7; bytes - 1]].concat();
        let key = crate::openssh::SshPublicKey::Rsa { modulus, exponent: vec![1, 0, 1] };
        let record = dave_with(&w, vec![Recipient::from_ssh(&key).unwrap()]);
        let told = changed_genesis(&w, &|p| {
            p.records.push(record.envelope().clone());
            p.admins.push(record.principal());
        });
        assert_eq!(told, expect, "{bytes} bytes");
    }
}

/// Rules that no vector breaks: who else opens what is sealed to an admin, how many there are, how a node signs.
#[test]
fn recipients_are_not_shared_and_roles_are_limited() {
    let w = world();
    let twin = dave_with(&w, w.bob.identity.recipients().to_vec());
    let joined = changed_genesis(&w, &|p| {
        p.records.push(twin.envelope().clone());
        p.enrollers.push(twin.principal());
    });
    assert_eq!(joined, "rule records", "bob's recipient in dave's record");
    let ids = |count: u8| (0..count).map(|i| bulla_wire::id::PrincipalId::new([i; 32])).collect::<Vec<_>>();
    // Nobody has these records: what is refused first is the number.
    for (count, expect) in [(16, "rule records"), (17, "rule admins")] {
        assert_eq!(changed_genesis(&w, &|p| p.admins = ids(count)), expect);
    }
    for (count, expect) in [(32, "rule records"), (33, "rule enrollers")] {
        assert_eq!(changed_genesis(&w, &|p| p.enrollers = ids(count)), expect);
    }
    let pkcs8 = crate::transit::generate(bulla_wire::api::KeyKind::EcdsaP256, &mut crate::random::SystemRng).unwrap();
    let p256 = SigningKey::from_pkcs8(pkcs8.expose(), crate::sign::RsaMinimum::Bits3072).unwrap();
    let spki = wire::Bytes(p256.public_key().spki().to_vec());
    assert_eq!(changed_genesis(&w, &|p| p.nodes[0].spki = spki.clone()), "rule nodes.spki");
}

/// A node that was compromised is so for ever: as a retired one, what it signed would be believed again.
#[test]
fn a_compromised_node_does_not_become_a_retired_one() {
    use bulla_wire::evidence::NodeState;
    let World { mut view, alice, bob, .. } = world();
    let signers = [alice.identity.signing_key().unwrap(), bob.identity.signing_key().unwrap()];
    let spare = identity(92, IdentityKind::Classical).signing_key().unwrap().public_key().clone();
    let mut draft = DocumentDraft::of(view.newest());
    draft.nodes.push(Node { key: spare, ..draft.nodes[0].clone() });
    let steps = [(NodeState::Retired, "ok"), (NodeState::Compromised, "ok"), (NodeState::Retired, "rule nodes.state")];
    for (state, expect) in steps {
        draft.nodes[0].state = state;
        let next = view.next_document(&draft).unwrap();
        let told = view.push(&sign_in_memory(&next, &signers).unwrap());
        assert_eq!(told.as_ref().map_or_else(class, |_| "ok".to_owned()), expect, "{state:?}");
    }
}
