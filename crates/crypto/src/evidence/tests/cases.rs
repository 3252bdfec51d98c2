//! Records, documents, admissions and what admins sign.

use super::*;
use bulla_wire::evidence::{Bytes, Consent, Document, NodeEntry, NodeState, PolicyRecovery, Position, PrincipalRecord};
use bulla_wire::id::{Lineage, PrincipalId};
use bulla_wire::json::V1;

fn signed<P: Payload>(payload: &P, by: &[&Identity]) -> Envelope {
    let keys: Vec<_> = by.iter().map(|identity| identity.signing_key().unwrap()).collect();
    sign_in_memory(payload, &keys).unwrap()
}

fn spki(identity: &Identity) -> Bytes {
    Bytes(identity.signing_key().unwrap().public_key().spki().to_vec())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn records() {
    let [old, new, other] = [1, 11, 12].map(|seed| identity(seed, IdentityKind::Classical));
    let hybrid = identity(13, IdentityKind::Hybrid);
    let first = record_payload("alice".parse().unwrap(), None, &[principal_key(&old)]).unwrap();
    let opened = Record::open(&signed(&first, &[&old]), None).unwrap();
    let second = record_payload("alice".parse().unwrap(), Some(&opened), &[principal_key(&new)]).unwrap();
    let v1 = signed(&first, &[&old]);
    let alone = |name: &str, change: &dyn Fn(&mut PrincipalRecord), by: &[&Identity], expect: &str| {
        let mut payload = first.clone();
        change(&mut payload);
        case(name, json!({"records": [signed(&payload, by)]}), expect)
    };
    let rotated = |name: &str, change: &dyn Fn(&mut PrincipalRecord), by: &[&Identity], expect: &str| {
        let mut payload = second.clone();
        change(&mut payload);
        case(name, json!({"records": [v1, signed(&payload, by)]}), expect)
    };
    let text = |identity: &Identity| identity.recipients().first().unwrap().to_string();
    let unknown_field = Envelope { payload: br#"{"v":1,"x":0}"#.to_vec(), ..v1.clone() };
    let PrincipalRecord { v, name, version, prev, keys } = &first;
    let values = json::to_vec(&(v, name, version, prev, keys));
    let array = crate::dsse::sign_in_memory(wire::PRINCIPAL_TYPE, values, &[old.signing_key().unwrap()]).unwrap();
    check_vectors(
        "record",
        vec![
            alone("version 1", &|_| {}, &[&old], "ok"),
            alone("signed by nobody", &|_| {}, &[], "no_known_key"),
            alone("signed by another", &|_| {}, &[&other], "no_known_key"),
            alone("a stranger's signature besides", &|_| {}, &[&old, &other], "ok"),
            alone("version 0", &|p| p.version = 0, &[&old], "rule version"),
            alone("version 2 without the one before", &|p| p.version = 2, &[&old], "previous_needed"),
            alone("version 1 with prev", &|p| p.prev = Some(Digest::new([0; 32])), &[&old], "rule prev"),
            alone("no key", &|p| p.keys.clear(), &[&old], "rule keys"),
            alone("a key twice", &|p| p.keys.push(p.keys[0].clone()), &[&old], "rule keys.spki"),
            alone("no key bytes", &|p| p.keys[0].spki = Bytes(vec![]), &[&old], "key"),
            alone("no recipient", &|p| p.keys[0].recipients.clear(), &[&old], "rule keys.recipients"),
            alone("a recipient twice", &|p| p.keys[0].recipients.push(text(&old)), &[&old], "rule keys.recipients"),
            alone("nine recipients", &|p| p.keys[0].recipients = vec![text(&old); 9], &[&old], "rule keys.recipients"),
            alone(
                "hybrid and classical",
                &|p| p.keys[0].recipients.push(text(&hybrid)),
                &[&old],
                "rule keys.recipients",
            ),
            alone("no such recipient", &|p| p.keys[0].recipients[0].push('q'), &[&old], "recipient"),
            alone("hybrid", &|p| p.keys[0].recipients = vec![text(&hybrid)], &[&old], "ok"),
            alone(
                "two keys, one did not sign",
                &|p| {
                    let mut key = p.keys[0].clone();
                    key.spki = spki(&other);
                    p.keys.push(key);
                },
                &[&old],
                "not_signed_by",
            ),
            alone(
                "two keys, both signed",
                &|p| {
                    let mut key = p.keys[0].clone();
                    key.spki = spki(&other);
                    p.keys.push(key);
                },
                &[&old, &other],
                "ok",
            ),
            case("unknown field", json!({"records": [unknown_field]}), "payload"),
            case("an array of the values", json!({"records": [array]}), "payload"),
            case("nothing", json!({"records": []}), "rule records"),
            rotated("version 2", &|_| {}, &[&old, &new], "ok"),
            rotated("version 2 without the old key", &|_| {}, &[&new], "rule signatures"),
            rotated("version 2 without the new key", &|_| {}, &[&old], "not_signed_by"),
            rotated("version 2 of another name", &|p| p.name = "bob".parse().unwrap(), &[&old, &new], "rule name"),
            rotated("version 3 after 1", &|p| p.version = 3, &[&old, &new], "rule version"),
            rotated("prev of another", &|p| p.prev = Some(Digest::new([0; 32])), &[&old, &new], "rule prev"),
            rotated("prev missing", &|p| p.prev = None, &[&old, &new], "rule prev"),
            case("version 1 twice", json!({"records": [v1, v1]}), "rule version"),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn genesis() {
    let w = world();
    let good: Document = parse(&w.genesis).unwrap();
    let hybrid = identity(13, IdentityKind::Hybrid);
    let changed = |name: &str, change: &dyn Fn(&mut Document), expect: &str| {
        let mut payload = good.clone();
        change(&mut payload);
        case(name, json!({"documents": [signed(&payload, &[])]}), expect)
    };
    let mut bob_alias = person("bob2", 2);
    bob_alias.identity = identity(2, IdentityKind::Classical);
    let same_name = person("bob", 22);
    let only_admin = |p: &mut Document, record: &Record| {
        p.records.push(record.envelope().clone());
        p.admins.push(record.principal());
    };
    let signed_genesis = signed(&good, &[&w.alice.identity]);
    let pinned =
        |name: &str, pin: &str, expect: &str| case(name, json!({"documents": [w.genesis], "pin": pin}), expect);
    let approval = |by: &Person| signed(&wire::GenesisApproval { v: V1, cluster: w.view.id() }, &[&by.identity]);
    let set = AdminSet::of(w.view.genesis()).unwrap();
    let by_admins = |name: &str, k: u8, approvals: Vec<Envelope>, expect: &str| {
        let admins = json!({"keys": set.keys(), "k": k});
        case(name, json!({"documents": [w.genesis], "admins": admins, "approvals": approvals}), expect)
    };
    let approved_by_two = |name: &str, keys: Vec<KeyId>, expect: &str| {
        let approvals = [approval(&w.alice), approval(&w.bob)];
        let admins = json!({"keys": keys, "k": 2});
        case(name, json!({"documents": [w.genesis], "admins": admins, "approvals": approvals}), expect)
    };
    let key = |person: &Person| person.identity.signing_key().unwrap().public_key().key_id();
    // Alice, with a second key in her record, could stand as two in another genesis, and approve it alone.
    let second = identity(21, IdentityKind::Classical);
    let entries = [principal_key(&w.alice.identity), principal_key(&second)];
    let both = record_payload("alice".parse().unwrap(), None, &entries).unwrap();
    let both = Record::open(&signed(&both, &[&w.alice.identity, &second]), None).unwrap();
    let mut split = good.clone();
    let place = split.admins.iter().position(|admin| *admin == w.alice.record.principal()).unwrap();
    let record = split.records.iter().position(|record| record == w.alice.record.envelope()).unwrap();
    (split.admins[place], split.records[record]) = (both.principal(), both.envelope().clone());
    split.enrollers.clone_from(&split.admins);
    let split = signed(&split, &[]);
    let all: Vec<_> = set.keys().iter().copied().chain([second.signing_key().unwrap().public_key().key_id()]).collect();
    let admins = json!({"keys": all, "k": 2});
    let two_keys = json!({"documents": [split], "admins": admins, "approvals": []});
    check_vectors(
        "genesis",
        vec![
            changed("genesis", &|_| {}, "ok"),
            pinned("pinned", &w.view.id().to_string(), "ok"),
            pinned("pinned to another", &ClusterId::new([0; 32]).to_string(), "other_pin"),
            by_admins("pinned admins, two approved", 2, vec![approval(&w.alice), approval(&w.bob)], "ok"),
            by_admins("pinned admins, one approved", 2, vec![approval(&w.alice)], "too_few_admins"),
            by_admins("pinned admins, one twice", 2, vec![approval(&w.alice), approval(&w.alice)], "too_few_admins"),
            by_admins("pinned admins, a stranger", 2, vec![approval(&w.alice), approval(&w.dave)], "too_few_admins"),
            by_admins("pinned admins, nobody approved", 2, vec![], "too_few_admins"),
            by_admins("pinned admins, another k", 3, vec![approval(&w.alice), approval(&w.bob)], "other_k"),
            by_admins("pinned admins, k 0", 0, vec![approval(&w.alice), approval(&w.bob)], "rule k"),
            approved_by_two("one admin fewer is pinned", vec![key(&w.alice), key(&w.bob)], "other_admins"),
            approved_by_two("another admin is pinned", vec![key(&w.alice), key(&w.bob), key(&w.dave)], "other_admins"),
            approved_by_two("no admin is pinned", vec![], "rule admins"),
            case("pinned admins, one of them with two keys", two_keys, "rule admins"),
            case("signed genesis", json!({"documents": [signed_genesis]}), "rule signatures"),
            changed("number 1 first", &|p| p.number = 1, "rule number"),
            changed("cluster", &|p| p.cluster = Some(ClusterId::new([0; 32])), "rule cluster"),
            changed("prev", &|p| p.prev = Some(Digest::new([0; 32])), "rule prev"),
            changed("random too short", &|p| p.random = Bytes(vec![0; 31]), "rule random"),
            changed("no admin", &|p| p.admins.clear(), "rule admins"),
            changed("an admin twice", &|p| p.admins.push(p.admins[0]), "rule admins"),
            changed("k 0", &|p| p.k = 0, "rule k"),
            changed("k above n", &|p| p.k = 4, "rule k"),
            changed("quorum with k 1", &|p| p.k = 1, "rule k"),
            changed("any with k 2", &|p| p.mode = SealMode::Any, "rule k"),
            changed("any with k 1", &|p| (p.mode, p.k) = (SealMode::Any, 1), "ok"),
            changed("an enroller twice", &|p| p.enrollers.push(p.enrollers[0]), "rule enrollers"),
            changed("an enroller without record", &|p| p.enrollers.push(PrincipalId::new([0; 32])), "rule records"),
            changed("a record too few", &|p| drop(p.records.pop()), "rule records"),
            changed("a record too many", &|p| p.records.push(w.dave.record.envelope().clone()), "rule records"),
            changed("a record twice", &|p| p.records.push(p.records[0].clone()), "rule records"),
            changed("two of one name", &|p| only_admin(p, &same_name.record), "rule records"),
            changed("two of one key", &|p| only_admin(p, &bob_alias.record), "rule records"),
            changed("a record that does not verify", &|p| p.records[0].signatures.clear(), "no_known_key"),
            changed("no node", &|p| p.nodes.clear(), "rule nodes"),
            changed("no active node", &|p| p.nodes[0].state = NodeState::Retired, "rule nodes"),
            changed("a node twice", &|p| p.nodes.push(p.nodes[0].clone()), "rule nodes.spki"),
            changed("a bad node key", &|p| p.nodes[0].spki = Bytes(vec![]), "key"),
            changed("a bad ingress", &|p| p.ingress.clear(), "recipient"),
            changed("classical ingress with min_kem hybrid", &|p| p.min_kem = MinKem::Hybrid, "rule ingress"),
            changed(
                "classical admins with min_kem hybrid",
                &|p| {
                    p.min_kem = MinKem::Hybrid;
                    p.ingress = hybrid.recipients()[0].to_string();
                },
                "rule min_kem",
            ),
        ],
    );
}

#[test]
fn documents() {
    let w = world();
    let (alice, bob) = (&w.alice.identity, &w.bob.identity);
    let good = w.view.next_document(&DocumentDraft::of(w.view.newest())).unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut Document), by: &[&Identity], expect: &str| {
        let mut payload = good.clone();
        change(&mut payload);
        let mut documents: Vec<_> = w.view.documents().map(|document| document.envelope().clone()).collect();
        documents.push(signed(&payload, by));
        case(name, json!({"documents": documents}), expect)
    };
    let both = [alice, bob];
    let new = identity(31, IdentityKind::Classical);
    let rotated = record_payload("alice".parse().unwrap(), Some(&w.alice.record), &[principal_key(&new)]).unwrap();
    let rotated = signed(&rotated, &[alice, &new]);
    let place = good.records.iter().position(|record| record == w.alice.record.envelope()).unwrap();
    let node2 = NodeEntry { spki: spki(&identity(92, IdentityKind::Classical)), state: NodeState::Active, since_ms: 5 };
    // A document in which the first node is retired, and one after it that brings it back.
    let mut retired = good.clone();
    retired.nodes[0].state = NodeState::Retired;
    retired.nodes.push(node2.clone());
    let retired_envelope = signed(&retired, &both);
    let mut back = retired.clone();
    (back.number, back.prev) = (3, Some(payload_digest(&retired_envelope)));
    back.nodes[0].state = NodeState::Active;
    let mut documents: Vec<_> = w.view.documents().map(|document| document.envelope().clone()).collect();
    documents.extend([retired_envelope, signed(&back, &both)]);
    check_vectors(
        "document",
        vec![
            changed("two of three signed", &|_| {}, &both, "ok"),
            changed("three signed", &|_| {}, &[alice, bob, &w.carol.identity], "ok"),
            changed("one signed", &|_| {}, &[alice], "too_few_admins"),
            changed("one signed twice", &|_| {}, &[alice, alice], "too_few_admins"),
            changed("an enroller signed besides", &|_| {}, &[alice, &w.erin.identity], "too_few_admins"),
            changed("nobody signed", &|_| {}, &[], "too_few_admins"),
            changed("another cluster", &|p| p.cluster = Some(ClusterId::new([0; 32])), &both, "rule cluster"),
            changed("no cluster", &|p| p.cluster = None, &both, "rule cluster"),
            changed("a number left out", &|p| p.number = 3, &both, "rule number"),
            changed("the number again", &|p| p.number = 1, &both, "rule number"),
            changed("another prev", &|p| p.prev = Some(Digest::new([0; 32])), &both, "rule prev"),
            changed("another random", &|p| p.random = Bytes(vec![8; 32]), &both, "rule random"),
            changed("an admin's new key", &|p| p.records[place] = rotated.clone(), &both, "ok"),
            changed("a node more", &|p| p.nodes.push(node2.clone()), &both, "ok"),
            changed("a node less", &|p| p.nodes = vec![node2.clone()], &both, "rule nodes"),
            changed("an admin gives up", &|p| p.admins.truncate(2), &both, "ok"),
            case("a retired node comes back", json!({"documents": documents}), "rule nodes.state"),
        ],
    );
}

#[test]
fn admissions() {
    let w = world();
    let erin = &w.erin.identity;
    let draft = AdmissionDraft { groups: vec!["ops".parse().unwrap()], serial: 9, ..AdmissionDraft::default() };
    let good = draft.payload(&w.view, &w.dave.record);
    let changed = |name: &str, change: &dyn Fn(&mut wire::Admission), by: &[&Identity], expect: &str| {
        let mut payload = good.clone();
        change(&mut payload);
        let admission = signed(&payload, by);
        let input = json!({"documents": chain(&w.view), "records": [w.dave.record.envelope()], "admission": admission});
        case(name, input, expect)
    };
    let many = |n: usize| (0..n).map(|i| format!("g{i}").parse().unwrap()).collect::<Vec<_>>();
    let admins = AdminSet::of(w.view.genesis()).unwrap().digest();
    let alice = &w.alice.identity;
    check_vectors(
        "admission",
        vec![
            changed("by an enroller", &|_| {}, &[erin], "ok"),
            changed("by an admin, who is an enroller", &|_| {}, &[&w.alice.identity], "ok"),
            changed("by the principal itself", &|_| {}, &[&w.dave.identity], "no_known_key"),
            changed("by nobody", &|_| {}, &[], "rule signatures"),
            changed("by two", &|_| {}, &[erin, &w.alice.identity], "rule signatures"),
            changed("in any cluster of the admins", &|p| p.scope = wire::Scope::Admins(admins), &[alice], "ok"),
            changed(
                "in any cluster of the admins, by a newer document",
                &|p| (p.scope, p.doc) = (wire::Scope::Admins(admins), 2),
                &[alice],
                "ok",
            ),
            changed(
                "in any cluster of the admins, by an enroller who is none of them",
                &|p| p.scope = wire::Scope::Admins(admins),
                &[erin],
                "rule signatures",
            ),
            changed(
                "of other admins",
                &|p| p.scope = wire::Scope::Admins(Digest::new([0; 32])),
                &[alice],
                "rule scope",
            ),
            changed(
                "of another cluster",
                &|p| p.scope = wire::Scope::Cluster(ClusterId::new([0; 32])),
                &[erin],
                "rule scope",
            ),
            changed("of another principal", &|p| p.principal = w.bob.record.principal(), &[erin], "rule principal"),
            changed("of another name", &|p| p.name = "bob".parse().unwrap(), &[erin], "rule name"),
            changed("of another version", &|p| p.version = 2, &[erin], "rule version"),
            changed("of another record", &|p| p.record_sha256 = Digest::new([0; 32]), &[erin], "rule record_sha256"),
            changed("with 32 groups", &|p| p.groups = many(32), &[erin], "ok"),
            changed("with 33 groups", &|p| p.groups = many(33), &[erin], "rule groups"),
            changed("with a group twice", &|p| p.groups.push(p.groups[0].clone()), &[erin], "rule groups"),
            changed(
                "with 33 attributes",
                &|p| p.attributes.0 = (0..33).map(|i| (format!("a{i}"), String::new())).collect(),
                &[erin],
                "rule attributes",
            ),
            changed("by a newer document", &|p| p.doc = 2, &[erin], "document_ahead"),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn what_admins_sign_together() {
    let w = world();
    let (alice, bob) = (&w.alice.identity, &w.bob.identity);
    let position = |byte: u8, sequence: u64| Position { lineage: Lineage::new([byte; 16]), sequence };
    let consent = Consent {
        v: V1,
        cluster: w.view.id(),
        lost: position(1, 9),
        kept: position(1, 5),
        earlier: vec![],
        excused_until_ms: None,
    };
    let excuses = Consent { lost: position(1, 5), excused_until_ms: Some(1_800_000_000_000), ..consent.clone() };
    let over_two = Consent { lost: position(4, 9), earlier: vec![position(2, 6), position(3, 7)], ..consent.clone() };
    let twice = Consent { earlier: vec![position(2, 6), position(2, 7)], ..over_two.clone() };
    let last_twice = Consent { earlier: vec![position(4, 6)], ..over_two.clone() };
    let most = |count: u16| {
        let one =
            |i: u16| Position { lineage: Lineage::new([i.to_be_bytes(); 8].concat().try_into().unwrap()), sequence: 1 };
        Consent { earlier: (0x1000..0x1000 + count).map(one).collect(), ..consent.clone() }
    };
    let consents = |name: &str, consent: &Consent, by: &[&Identity], expect: &str| {
        case(name, json!({"documents": chain(&w.view), "consent": signed(consent, by)}), expect)
    };
    let elsewhere = Consent { cluster: ClusterId::new([0; 32]), ..consent.clone() };
    // Document 2: Dave in the place of Alice and Bob, by whom it is signed.
    let mut later = w.view.clone();
    let mut draft = DocumentDraft::of(later.newest());
    draft.add_admin(&w.dave.record);
    for gone in [&w.alice, &w.bob] {
        draft.remove_admin(&gone.record.principal());
    }
    let rekeyed = signed(&later.next_document(&draft).unwrap(), &[alice, bob]);
    later.push(&rekeyed).unwrap();
    let after_rekey = |name: &str, since: u32, by: &[&Identity], expect: &str| {
        let input = json!({"documents": chain(&later), "consent": signed(&consent, by), "since": since});
        case(name, input, expect)
    };
    let (carol, dave) = (&w.carol.identity, &w.dave.identity);
    check_vectors(
        "consent",
        vec![
            consents("two of three", &consent, &[alice, bob], "ok"),
            consents("over two histories", &over_two, &[alice, bob], "ok"),
            consents("that excuses clients", &excuses, &[alice, bob], "ok"),
            consents("a history twice", &twice, &[alice, bob], "rule earlier"),
            consents("the last history twice", &last_twice, &[alice, bob], "rule earlier"),
            consents("one", &consent, &[alice], "too_few_admins"),
            consents("one and an enroller", &consent, &[alice, &w.erin.identity], "too_few_admins"),
            consents("another cluster", &elsewhere, &[alice, bob], "rule cluster"),
            after_rekey("former admins, to who knew document 1", 1, &[alice, bob], "ok"),
            after_rekey("former admins, to who knew genesis", 0, &[alice, bob], "ok"),
            after_rekey("former admins, to who knew that they left", 2, &[alice, bob], "too_few_admins"),
            after_rekey("the admins of now, to who knew document 1", 1, &[carol, dave], "ok"),
            after_rekey("the admins of now, to who knew them", 2, &[carol, dave], "ok"),
            after_rekey("one who left and one who came, never admins together", 0, &[alice, dave], "too_few_admins"),
            after_rekey("to who knew a document that is not shown", 3, &[carol, dave], "too_few_admins"),
        ],
    );
    assert!(verify_consent(&w.view, &signed(&most(2048), &[alice, bob]), 0).is_ok());
    assert!(verify_consent(&w.view, &signed(&most(2049), &[alice, bob]), 0).is_err());
    let policies = r#"{"base":"permit(principal,action,resource);"}"#;
    let digest = Digest::new(crate::digest::sha256(&[policies.as_bytes()]));
    let replaced = Digest::new(crate::digest::sha256(&[b"{}"]));
    let good =
        PolicyRecovery { v: V1, cluster: w.view.id(), policies_sha256: digest, replaces: replaced, at_ms: 1_000_000 };
    let recovery = |name: &str, recovery: &PolicyRecovery, now_ms: u64, by: &[&Identity], expect: &str| {
        let approval = signed(recovery, by);
        let input = json!({"documents": chain(&w.view), "policies": policies, "replaced": replaced, "now_ms": now_ms, "approval": approval});
        case(name, input, expect)
    };
    let other_set = PolicyRecovery { policies_sha256: Digest::new([0; 32]), ..good.clone() };
    let other_place = PolicyRecovery { replaces: Digest::new([0; 32]), ..good.clone() };
    let elsewhere = PolicyRecovery { cluster: ClusterId::new([0; 32]), ..good.clone() };
    let both = [alice, bob];
    check_vectors(
        "policy-recovery",
        vec![
            recovery("at once", &good, 1_000_000, &both, "ok"),
            recovery("after ten minutes", &good, 1_600_000, &both, "ok"),
            recovery("later", &good, 1_600_001, &both, "rule at_ms"),
            recovery("five seconds early", &good, 995_000, &both, "ok"),
            recovery("earlier", &good, 994_999, &both, "rule at_ms"),
            recovery("one admin", &good, 1_000_000, &[bob], "too_few_admins"),
            recovery("another set", &other_set, 1_000_000, &both, "rule policies_sha256"),
            recovery("in the place of another set", &other_place, 1_000_000, &both, "rule replaces"),
            recovery("another cluster", &elsewhere, 1_000_000, &both, "rule cluster"),
        ],
    );
}
