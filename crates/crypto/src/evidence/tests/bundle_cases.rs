//! Bundles: each rule of `spec/bundle.md` broken alone.

use super::*;
use bulla_wire::evidence::{Bundle, BundledPrincipal as Bundled, MAX_BUNDLE_LIFE_MS, Scope};
use bulla_wire::id::PrincipalId;
use bulla_wire::json::{StrictMap, V1};

const NOW_MS: u64 = 2_000_000;

fn signed<P: Payload>(payload: &P, by: &[&Identity]) -> Envelope {
    let keys: Vec<_> = by.iter().map(|identity| identity.signing_key().unwrap()).collect();
    sign_in_memory(payload, &keys).unwrap()
}

fn admitted(set: &AdminSet, record: &Record, by: &Identity) -> Envelope {
    let draft = AdmissionDraft { groups: vec!["dev".parse().unwrap()], serial: NOW_MS, ..AdmissionDraft::default() };
    signed(&draft.payload_under(set, record), &[by])
}

fn bundled(set: &AdminSet, record: &Record, by: &Identity) -> Bundled {
    Bundled { records: vec![record.envelope().clone()], admission: admitted(set, record, by) }
}

/// A bundle of alice, bob and carol, of whom two decide, that admits dave.
fn good(w: &World) -> (Bundle, AdminSet) {
    let admins = [&w.alice.record, &w.bob.record, &w.carol.record];
    let set = AdminSet::of_records(admins, 2).unwrap();
    let bundle = Bundle {
        v: V1,
        admins: admins.map(|record| record.envelope().clone()).to_vec(),
        k: 2,
        made_ms: NOW_MS,
        exp_ms: NOW_MS + 1000,
        principals: vec![bundled(&set, &w.dave.record, &w.alice.identity)],
        policies: StrictMap([("dev".to_owned(), "permit (principal, action, resource);".to_owned())].into()),
    };
    (bundle, set)
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn bundles() {
    let w = world();
    let (good, set) = good(&w);
    let (alice, bob) = (&w.alice.identity, &w.bob.identity);
    let both = [alice, bob];
    let changed = |name: &str, change: &dyn Fn(&mut Bundle), by: &[&Identity], expect: &str| {
        let mut payload = good.clone();
        change(&mut payload);
        case(name, json!({"bundle": signed(&payload, by), "now_ms": NOW_MS}), expect)
    };
    let at = |name: &str, now_ms: u64, expect: &str| {
        case(name, json!({"bundle": signed(&good, &both), "now_ms": now_ms}), expect)
    };
    let of = |name: &str, documents: Vec<Envelope>, expect: &str| {
        case(name, json!({"bundle": signed(&good, &both), "now_ms": NOW_MS, "documents": documents}), expect)
    };
    let genesis = |change: &dyn Fn(&mut wire::Document)| {
        let mut payload: wire::Document = parse(&w.genesis).unwrap();
        change(&mut payload);
        signed(&payload, &[])
    };
    // Without carol, with another k, and with another record of bob's key.
    let carol = w.carol.record.principal();
    let two = genesis(&|p| {
        p.records.retain(|record| record != w.carol.record.envelope());
        p.admins.retain(|admin| *admin != carol);
        p.enrollers.clone_from(&p.admins);
    });
    let three = genesis(&|p| p.k = 3);
    let alias = person("bob2", 2);
    let renamed = genesis(&|p| {
        let place = p.records.iter().position(|record| record == w.bob.record.envelope()).unwrap();
        p.records[place] = alias.record.envelope().clone();
        let place = p.admins.iter().position(|admin| *admin == w.bob.record.principal()).unwrap();
        p.admins[place] = alias.record.principal();
        p.enrollers.clone_from(&p.admins);
    });
    // A rotated principal, and an admin with two keys, who signs with both.
    let new = identity(41, IdentityKind::Classical);
    let rotated = record_payload("dave".parse().unwrap(), Some(&w.dave.record), &[principal_key(&new)]).unwrap();
    let rotated = signed(&rotated, &[&w.dave.identity, &new]);
    let second = Record::open(&rotated, Some(&w.dave.record)).unwrap();
    let chain = vec![w.dave.record.envelope().clone(), rotated];
    let entries = [principal_key(alice), principal_key(&new)];
    let twofold = signed(&record_payload("alice".parse().unwrap(), None, &entries).unwrap(), &[alice, &new]);
    let namesake = person("dave", 42);
    let own_name = person("bob", 43);
    let own_key = person("frank", 5);
    let erin = |p: &mut Bundle| p.principals.push(bundled(&set, &w.erin.record, alice));
    let other_k = AdminSet::of_records([&w.alice.record, &w.bob.record, &w.carol.record], 3).unwrap();
    let cluster = Scope::Cluster(w.view.id());
    let admission = |change: &dyn Fn(&mut wire::Admission), by: &Identity| {
        let mut payload = AdmissionDraft { serial: 1, ..AdmissionDraft::default() }.payload_under(&set, &w.dave.record);
        change(&mut payload);
        signed(&payload, &[by])
    };
    let says = |name: &str, change: &dyn Fn(&mut wire::Admission), by: &Identity, expect: &str| {
        let mut payload = good.clone();
        payload.principals[0].admission = admission(change, by);
        case(name, json!({"bundle": signed(&payload, &both), "now_ms": NOW_MS}), expect)
    };
    let mut unknown = signed(&good, &both);
    unknown.payload = [br#"{"x":0,"#, &unknown.payload[1..]].concat();
    check_vectors(
        "bundle",
        vec![
            changed("two of three signed", &|_| {}, &both, "ok"),
            changed("three signed", &|_| {}, &[alice, bob, &w.carol.identity], "ok"),
            changed("one signed", &|_| {}, &[alice], "too_few_admins"),
            changed("one signed twice", &|_| {}, &[alice, alice], "too_few_admins"),
            changed("one and a stranger signed", &|_| {}, &[alice, &w.dave.identity], "too_few_admins"),
            changed("nobody signed", &|_| {}, &[], "too_few_admins"),
            case("unknown field", json!({"bundle": unknown, "now_ms": NOW_MS}), "payload"),
            at("at its last moment", NOW_MS + 999, "ok"),
            at("at its end", NOW_MS + 1000, "expired"),
            changed("a life of 366 days", &|p| p.exp_ms = p.made_ms + MAX_BUNDLE_LIFE_MS, &both, "ok"),
            changed("a longer life", &|p| p.exp_ms = p.made_ms + MAX_BUNDLE_LIFE_MS + 1, &both, "rule exp_ms"),
            changed("no life", &|p| p.exp_ms = p.made_ms, &both, "rule exp_ms"),
            changed("an end before its beginning", &|p| p.exp_ms = p.made_ms - 1, &both, "rule exp_ms"),
            changed("no admin", &|p| p.admins.clear(), &both, "rule admins"),
            changed("an admin twice", &|p| p.admins.push(p.admins[0].clone()), &both, "rule admins"),
            changed("an admin with two keys", &|p| p.admins[0] = twofold.clone(), &[alice, &new], "rule admins"),
            changed("an admin's record of version 2", &|p| p.admins.push(chain[1].clone()), &both, "previous_needed"),
            changed("k 0", &|p| p.k = 0, &both, "rule k"),
            changed("k above the number of admins", &|p| p.k = 4, &both, "rule k"),
            changed("nothing in it", &|p| (p.principals.clear(), p.policies.0.clear()).0, &both, "ok"),
            changed("two principals", &erin, &both, "ok"),
            changed("a principal twice", &|p| p.principals.push(p.principals[0].clone()), &both, "rule principals"),
            changed(
                "an admin among the principals",
                &|p| p.principals.push(bundled(&set, &w.bob.record, alice)),
                &both,
                "ok",
            ),
            changed(
                "two of one name",
                &|p| p.principals.push(bundled(&set, &namesake.record, alice)),
                &both,
                "rule principals",
            ),
            changed(
                "one with the name of an admin",
                &|p| p.principals.push(bundled(&set, &own_name.record, alice)),
                &both,
                "rule principals",
            ),
            changed(
                "two of one key",
                &|p| p.principals.push(bundled(&set, &own_key.record, alice)),
                &both,
                "rule principals",
            ),
            changed("65 principals", &|p| p.principals = vec![p.principals[0].clone(); 65], &both, "rule principals"),
            changed(
                "16 policies",
                &|p| p.policies.0 = (0..16).map(|i| (format!("p{i}"), String::new())).collect(),
                &both,
                "ok",
            ),
            changed(
                "17 policies",
                &|p| p.policies.0 = (0..17).map(|i| (format!("p{i}"), String::new())).collect(),
                &both,
                "rule policies",
            ),
            changed(
                "a policy without a proper name",
                &|p| p.policies.0 = [("a/b".to_owned(), String::new())].into(),
                &both,
                "rule policies",
            ),
            changed(
                "a principal with two records",
                &|p| {
                    p.principals[0] = Bundled { records: chain.clone(), admission: admitted(&set, &second, alice) };
                },
                &both,
                "ok",
            ),
            changed(
                "the admission of the record before",
                &|p| p.principals[0].records.clone_from(&chain),
                &both,
                "principal rule version",
            ),
            changed("no record", &|p| p.principals[0].records.clear(), &both, "principal rule records"),
            changed(
                "a principal whose keys another holds by an older record",
                &|p| {
                    p.principals[0] = Bundled { records: chain.clone(), admission: admitted(&set, &second, alice) };
                    p.principals.push(bundled(&set, &own_key.record, alice));
                },
                &both,
                "rule principals",
            ),
            says("admitted by another admin", &|_| {}, &w.carol.identity, "ok"),
            says("admitted by itself", &|_| {}, &w.dave.identity, "principal rule signatures"),
            says("admitted by an enroller of some cluster", &|_| {}, &w.erin.identity, "principal rule signatures"),
            says("admitted into one cluster", &|p| p.scope = cluster.clone(), alice, "principal rule scope"),
            says("admitted under another k", &|p| p.scope = other_k.scope(), alice, "principal rule scope"),
            says(
                "admitted as another",
                &|p| p.principal = PrincipalId::new([0; 32]),
                alice,
                "principal rule principal",
            ),
            of("of this genesis", vec![w.genesis.clone()], "ok"),
            of("of a genesis with fewer admins", vec![two], "other_admins"),
            of("of a genesis with another k", vec![three], "other_k"),
            of("of a genesis with another record of an admin's key", vec![renamed], "other_admins"),
        ],
    );
}

/// Each time that it is asked for: a server that was started in time can be made a cluster of too late.
#[test]
fn a_bundle_ends_for_a_genesis_too() {
    let w = world();
    let (bundle, _) = good(&w);
    let envelope = signed(&bundle, &[&w.alice.identity, &w.bob.identity]);
    let verified = BundleDraft::open(&envelope).unwrap().verify(NOW_MS).unwrap();
    assert_eq!(verified.fits(w.view.genesis(), NOW_MS + 999), Ok(()));
    assert_eq!(class(&verified.fits(w.view.genesis(), NOW_MS + 1000).unwrap_err()), "expired");
}

/// What an admin is shown who is about to sign.
#[test]
fn a_draft_tells_what_it_holds() {
    let w = world();
    let (bundle, set) = good(&w);
    let draft = BundleDraft::open(&signed(&bundle, &[&w.alice.identity])).unwrap();
    assert_eq!((draft.made_ms(), draft.exp_ms(), draft.set()), (NOW_MS, NOW_MS + 1000, &set));
    let admins = [&w.alice, &w.bob, &w.carol].map(|admin| admin.record.principal());
    assert_eq!(draft.admins().iter().map(Record::principal).collect::<Vec<_>>(), admins);
    let principals: Vec<_> = draft.principals().iter().map(|principal| principal.chain.principal()).collect();
    assert_eq!(principals, [w.dave.record.principal()]);
    assert_eq!(draft.policies().keys().map(ToString::to_string).collect::<Vec<_>>(), ["dev"]);
    assert_eq!(draft.signers().iter().copied().collect::<Vec<_>>(), [w.alice.record.principal()]);
}

/// Rule 3 of the page where no vector breaks it: names and recipients of admins, and an admin's recipient with somebody
/// else.
#[test]
fn names_and_recipients_have_one_holder() {
    let w = world();
    let (good, set) = good(&w);
    let frank = identity(44, IdentityKind::Classical);
    let record = |name: &str, recipients: &[Recipient]| {
        let entry = PrincipalKey { recipients: recipients.to_vec(), ..principal_key(&frank) };
        signed(&record_payload(name.parse().unwrap(), None, &[entry]).unwrap(), &[&frank])
    };
    let judged = |change: &dyn Fn(&mut Bundle)| {
        let mut payload = good.clone();
        change(&mut payload);
        let opened = BundleDraft::open(&signed(&payload, &[&w.alice.identity]));
        opened.as_ref().map_or_else(class, |_| "ok".to_owned())
    };
    let (own, bobs) = (frank.recipients(), w.bob.identity.recipients());
    let admins = [("frank", own, "ok"), ("bob", own, "rule admins"), ("frank", bobs, "rule admins")];
    for (name, recipients, expect) in admins {
        // Of other admins, so without those who were admitted by these.
        let told = judged(&|p| {
            p.principals.clear();
            p.admins.push(record(name, recipients));
        });
        assert_eq!(told, expect, "admin {name}");
    }
    for (recipients, expect) in [(own, "ok"), (bobs, "rule principals")] {
        let opened = Record::open(&record("frank", recipients), None).unwrap();
        assert_eq!(judged(&|p| p.principals.push(bundled(&set, &opened, &w.alice.identity))), expect);
    }
}
