//! Principals, policies as records, alarms and documents: who is known, by `spec/evidence.md`, `spec/policy.md` and
//! `spec/webhook.md`.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(dead_code, reason = "the world serves several test programs")]

mod wrap_world;

use bulla_core::action::Action;
use bulla_core::barrier::{Cursor, Kind, RecordKey};
use bulla_core::directory::Change;
use bulla_core::engine::alarm::{self, Delivered, KEPT_MS, Listed, Raise, Seen, WAITING_MAX, WEBHOOK};
use bulla_core::engine::document::{Next, next_view};
use bulla_core::engine::{document, policy, principal};
use bulla_core::operation::{Operation, Refusal, Reply};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{AdmissionDraft, DocumentDraft, PrincipalKey, Record, record_payload, sign_in_memory};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::recipient::Recipient;
use bulla_wire::api::{
    AlarmKind, Alarms, Policies, Policy, PolicyDecision, Principal, Principals, PutPolicy, ReplacedPolicies, Whoami,
};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::PolicyRecovery;
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::json::{self, MAX_JSON_BYTES, V1};
use bulla_wire::name::Name;
use wrap_world::{Person, START_MS, World};

const PERMIT: &str = "permit (principal, action, resource);";
const FORBID: &str = "forbid (principal, action, resource);";

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// What an operation of somebody's says.
fn ask<T: serde::de::DeserializeOwned>(
    world: &mut World,
    who: &str,
    operation: impl Operation + 'static,
) -> Result<T, Refusal> {
    match world.run(Box::new(operation), Some(who)).result? {
        Reply::Json(bytes) => Ok(json::parse(&bytes, MAX_JSON_BYTES).unwrap()),
        other => unreachable!("{other:?}"),
    }
}

/// The code of a refusal, and the field that it names.
fn refused(world: &mut World, operation: impl Operation + 'static) -> (Code, Option<String>) {
    let refusal = world.run(Box::new(operation), Some("alice")).result.unwrap_err();
    assert!(!refusal.message.is_empty());
    (refusal.code, refusal.field)
}

fn at(field: &str) -> Option<String> {
    Some(field.to_owned())
}

/// Somebody new, or the next record of somebody; its keys and those of before sign it.
fn record(world: &mut World, text: &str, before: Option<&Person>) -> Person {
    let identity = Identity::generate(IdentityKind::Hybrid, &mut world.rng).unwrap();
    let key = PrincipalKey {
        public: identity.signing_key().unwrap().public_key().clone(),
        recipients: identity.recipients().to_vec(),
        dual_use: false,
    };
    let payload = record_payload(name(text), before.map(|person| &person.record), &[key]).unwrap();
    let mut signers = vec![identity.signing_key().unwrap()];
    signers.extend(before.map(|person| person.identity.signing_key().unwrap()));
    let envelope = sign_in_memory(&payload, &signers).unwrap();
    let record = Record::open(&envelope, before.map(|person| &person.record)).unwrap();
    Person { identity, record }
}

/// The word of `enroller` about a record.
fn admission(world: &World, record: &Record, serial: u64, enroller: &str) -> Envelope {
    let draft = AdmissionDraft { serial, groups: vec![name("dev")], ..AdmissionDraft::default() };
    let payload = draft.payload(world.directory.view(), record);
    sign_in_memory(&payload, &[world.people[enroller].identity.signing_key().unwrap()]).unwrap()
}

fn put(world: &World, text: &str, person: &Person, serial: u64) -> principal::Put {
    let record = person.record.envelope().clone();
    principal::Put { name: name(text), record, admission: admission(world, &person.record, serial, "alice") }
}

fn admit(world: &mut World, text: &str, serial: u64) -> Person {
    let person = record(world, text, None);
    let put = put(world, text, &person, serial);
    let _: bulla_wire::api::Done = ask(world, "alice", put).unwrap();
    person
}

fn all() -> principal::List {
    principal::List { id: None, recipient: None, after: None, limit: 100 }
}

fn names(page: &Principals) -> Vec<&str> {
    page.principals.iter().map(|principal| principal.name.as_str()).collect()
}

#[test]
fn principals_are_listed_in_pages_and_found_by_id_and_recipient() {
    let mut world = World::new(1);
    let frank = admit(&mut world, "frank", 1);
    let page: Principals = ask(&mut world, "bob", principal::List { limit: 3, ..all() }).unwrap();
    assert_eq!((names(&page), page.next.as_deref()), (vec!["alice", "bob", "carol"], Some("carol")));
    let after = |text: &str| principal::List { after: Some(name(text)), limit: 3, ..all() };
    let page: Principals = ask(&mut world, "bob", after("carol")).unwrap();
    assert_eq!(names(&page), ["dave", "eve", "frank"]);
    // A page that ends with the last one names no next.
    let page: Principals = ask(&mut world, "bob", after("frank")).unwrap();
    assert_eq!((names(&page), page.next.clone()), (vec!["gina", "oscar"], None));
    let page: Principals = ask(&mut world, "bob", principal::List { limit: 8, ..all() }).unwrap();
    assert_eq!((page.principals.len(), page.next), (8, None));
    let gina = page.principals.iter().find(|principal| principal.name == name("gina")).unwrap();
    assert!(gina.disabled && !gina.void);

    let by_id = |id| principal::List { id: Some(id), ..all() };
    let page: Principals = ask(&mut world, "bob", by_id(frank.record.principal())).unwrap();
    assert_eq!((names(&page), page.next.clone()), (vec!["frank"], None));
    assert_eq!((page.principals[0].version, page.principals[0].groups.clone()), (1, vec![name("dev")]));
    let page: Principals = ask(&mut world, "bob", by_id(PrincipalId::new([9; 32]))).unwrap();
    assert!(page.principals.is_empty());
    let by_recipient = |recipient| principal::List { recipient: Some(recipient), ..all() };
    let page: Principals = ask(&mut world, "bob", by_recipient(frank.record.recipients()[0].digest())).unwrap();
    assert_eq!(names(&page), ["frank"]);
    let page: Principals = ask(&mut world, "bob", by_recipient(Digest::new([9; 32]))).unwrap();
    assert!(page.principals.is_empty());
}

#[test]
fn whoever_asks_is_told_who_it_is() {
    let mut world = World::new(1);
    let me: Whoami = ask(&mut world, "alice", principal::Me).unwrap();
    assert_eq!((me.principal.name, me.admin, me.enroller), (name("alice"), true, true));
    assert_eq!(me.key, world.actor("alice").key);
    let me: Whoami = ask(&mut world, "bob", principal::Me).unwrap();
    assert_eq!((me.principal.name, me.admin, me.enroller), (name("bob"), false, false));
}

#[test]
fn an_admission_is_checked_as_clients_check_it() {
    let mut world = World::new(1);
    let frank = admit(&mut world, "frank", 7);
    let shown: Principal = ask(&mut world, "bob", principal::Read { name: name("frank") }).unwrap();
    assert_eq!((shown.id, shown.disabled, shown.void), (frank.record.principal(), false, false));
    assert_eq!(shown.records, vec![frank.record.envelope().clone()]);
    assert!(world.directory.by_key(&frank.identity.signing_key().unwrap().public_key().key_id()).is_some());
    assert_eq!(refused(&mut world, principal::Read { name: name("nobody") }).0, Code::NotFound);

    // The same again is done already; a newer serial is taken, an older or equal one is not.
    let commits = world.commits;
    let same = principal::Put { admission: shown.admission.clone().unwrap(), ..put(&world, "frank", &frank, 7) };
    let _: bulla_wire::api::Done = ask(&mut world, "alice", same).unwrap();
    assert_eq!(world.commits, commits);
    let newer = put(&world, "frank", &frank, 8);
    let _: bulla_wire::api::Done = ask(&mut world, "alice", newer).unwrap();
    assert_eq!(world.commits, commits + 1);
    let shown: Principal = ask(&mut world, "bob", principal::Read { name: name("frank") }).unwrap();
    assert_eq!(shown.records.len(), 1, "the record is the same");
    for serial in [6, 8] {
        let mut other = put(&world, "frank", &frank, serial);
        let groups = AdmissionDraft { serial, ..AdmissionDraft::default() };
        other.admission = world.sign(&groups.payload(world.directory.view(), &frank.record));
        assert_eq!(refused(&mut world, other), (Code::VersionMismatch, at("admission.serial")));
    }

    let grace = record(&mut world, "grace", None);
    let by_bob =
        principal::Put { admission: admission(&world, &grace.record, 1, "bob"), ..put(&world, "grace", &grace, 1) };
    assert_eq!(refused(&mut world, by_bob), (Code::BadStatement, at("admission")));
    let misnamed = put(&world, "hugo", &grace, 1);
    assert_eq!(refused(&mut world, misnamed), (Code::BadStatement, at("record")));
    let another = record(&mut world, "frank", None);
    let another = put(&world, "frank", &another, 9);
    assert_eq!(refused(&mut world, another), (Code::Exists, at("record")));
    let admin = record(&mut world, "alice", None);
    let admin = put(&world, "alice", &admin, 9);
    assert_eq!(refused(&mut world, admin), (Code::Exists, at("name")));
}

/// A key or recipient is one principal's, for ever.
#[test]
fn nobody_takes_another_ones_key() {
    let mut world = World::new(1);
    let frank = admit(&mut world, "frank", 1);
    let key = PrincipalKey {
        public: frank.identity.signing_key().unwrap().public_key().clone(),
        recipients: frank.identity.recipients().to_vec(),
        dual_use: false,
    };
    let payload = record_payload(name("fred"), None, &[key]).unwrap();
    let envelope = sign_in_memory(&payload, &[frank.identity.signing_key().unwrap()]).unwrap();
    let fred = Record::open(&envelope, None).unwrap();
    let admission = admission(&world, &fred, 1, "alice");
    let put_fred = principal::Put { name: name("fred"), record: envelope, admission };
    assert_eq!(refused(&mut world, put_fred.clone()), (Code::RecipientTaken, at("record.keys")));
    // Not after a rotation either.
    let next = record(&mut world, "frank", Some(&frank));
    let rotated = put(&world, "frank", &next, 2);
    world.run(Box::new(rotated), Some("alice")).result.unwrap();
    assert_eq!(refused(&mut world, put_fred), (Code::RecipientTaken, at("record.keys")));
}

#[test]
fn a_rotation_keeps_the_chain_and_tells_the_holder() {
    let mut world = World::new(1);
    let mut frank = admit(&mut world, "frank", 1);
    let old = frank.identity.signing_key().unwrap().public_key().key_id();
    let next = record(&mut world, "frank", Some(&frank));
    let rotate = put(&world, "frank", &next, 2);
    let answered = world.run(Box::new(rotate), Some("alice"));
    answered.result.as_ref().unwrap();
    assert_eq!(answered.alarm_kinds(), [AlarmKind::KeyRotated]);
    assert_eq!(answered.alarms[0].told, [frank.record.principal()]);
    let shown: Principal = ask(&mut world, "bob", principal::Read { name: name("frank") }).unwrap();
    assert_eq!(shown.records, [frank.record.envelope().clone(), next.record.envelope().clone()]);
    assert_eq!(shown.id, frank.record.principal());
    let new = next.identity.signing_key().unwrap().public_key().key_id();
    assert!(world.directory.by_key(&old).is_none() && world.directory.by_key(&new).is_some());
    // The row has a size, and until then each rotation is taken.
    frank = next;
    for serial in 3.. {
        let next = record(&mut world, "frank", Some(&frank));
        let rotate = put(&world, "frank", &next, serial);
        match world.run(Box::new(rotate), Some("alice")).result {
            Ok(_) => frank = next,
            Err(refusal) => {
                assert_eq!((refusal.code, refusal.field), (Code::TooLarge, Some("record".into())));
                assert!(serial > 50, "{serial}");
                break;
            }
        }
    }
    let largest = world.rows.values().map(|value| value.as_bytes().len()).max().unwrap();
    assert!((480 * 1024..512 * 1024).contains(&largest), "{largest}");
}

#[test]
fn a_disabled_principal_is_refused_until_it_is_enabled() {
    let mut world = World::new(1);
    let frank = admit(&mut world, "frank", 1);
    let set = |disabled| principal::SetDisabled { name: name("frank"), disabled };
    let may_sign = |world: &World| world.directory.by_id(&frank.record.principal()).unwrap().may_sign();
    for disabled in [true, false] {
        let commits = world.commits;
        for _ in 0..2 {
            let _: bulla_wire::api::Done = ask(&mut world, "alice", set(disabled)).unwrap();
            assert_eq!((may_sign(&world), world.commits), (!disabled, commits + 1), "the second time nothing changes");
        }
        let shown: Principal = ask(&mut world, "bob", principal::Read { name: name("frank") }).unwrap();
        assert_eq!(shown.disabled, disabled);
    }
    // A new admission does not enable.
    let _: bulla_wire::api::Done = ask(&mut world, "alice", set(true)).unwrap();
    let again = put(&world, "frank", &frank, 2);
    let _: bulla_wire::api::Done = ask(&mut world, "alice", again).unwrap();
    assert!(!may_sign(&world));
    let nobody = principal::SetDisabled { name: name("nobody"), disabled: true };
    assert_eq!(refused(&mut world, nobody).0, Code::NotFound);
}

fn put_policy(text: &str, replaces: Option<Option<Digest>>) -> policy::Put {
    policy::Put { name: name("team"), body: PutPolicy { text: text.to_owned(), replaces } }
}

fn digest(text: &str) -> Digest {
    Digest::new(sha256(&[text.as_bytes()]))
}

#[test]
fn policies_are_written_read_and_deleted() {
    let mut world = World::new(1);
    assert_eq!(refused(&mut world, policy::Read { name: name("team") }).0, Code::NotFound);
    assert_eq!(refused(&mut world, policy::Delete { name: name("team") }).0, Code::NotFound);
    assert_eq!(refused(&mut world, put_policy("permit", None)), (Code::BadPolicy, at("text")));
    let mismatch = (Code::VersionMismatch, at("replaces"));
    assert_eq!(refused(&mut world, put_policy(PERMIT, Some(Some(digest(PERMIT))))), mismatch, "there is none");
    let written: Policy = ask(&mut world, "alice", put_policy(PERMIT, Some(None))).unwrap();
    assert_eq!((written.text.as_str(), written.sha256), (PERMIT, digest(PERMIT)));
    assert_eq!(refused(&mut world, put_policy(FORBID, Some(None))), mismatch, "there is one");
    assert_eq!(refused(&mut world, put_policy(FORBID, Some(Some(digest(FORBID))))), mismatch);
    let _: Policy = ask(&mut world, "alice", put_policy(FORBID, Some(Some(digest(PERMIT))))).unwrap();
    let _: Policy = ask(&mut world, "alice", put_policy(PERMIT, None)).unwrap();
    let read: Policy = ask(&mut world, "bob", policy::Read { name: name("team") }).unwrap();
    assert_eq!((read.name, read.text.as_str(), read.sha256), (name("team"), PERMIT, digest(PERMIT)));
    let listed: Policies = ask(&mut world, "bob", policy::List).unwrap();
    let [one] = listed.policies.as_slice() else { panic!("{listed:?}") };
    assert_eq!((&one.name, one.bytes, one.sha256), (&name("team"), PERMIT.len() as u64, digest(PERMIT)));
    let _: bulla_wire::api::Done = ask(&mut world, "alice", policy::Delete { name: name("team") }).unwrap();
    assert_eq!((world.count(Kind::Policy), world.directory.policies().texts().count()), (0, 0));
}

#[test]
fn as_many_policies_as_one_commit_replaces() {
    let mut world = World::new(1);
    let put = |number: usize| policy::Put {
        name: name(&format!("p{number}")),
        body: PutPolicy { text: PERMIT.to_owned(), replaces: None },
    };
    for number in 0..policy::MAX_NAMES {
        let _: Policy = ask(&mut world, "alice", put(number)).unwrap();
    }
    assert_eq!(refused(&mut world, put(policy::MAX_NAMES)).0, Code::TooLarge);
    let _: Policy = ask(&mut world, "alice", put(0)).unwrap();
    // A recovery replaces them all, by as many others too.
    let others: Vec<_> = (0..policy::MAX_NAMES).map(|number| format!(r#""q{number}":"{PERMIT}""#)).collect();
    let recover = recovery(&world, &format!("{{{}}}", others.join(",")));
    let _: bulla_wire::api::Done = ask(&mut world, "alice", recover).unwrap();
    assert_eq!(world.count(Kind::Policy), policy::MAX_NAMES);
    assert!(world.directory.policies().texts().all(|(name, _)| name.as_str().starts_with('q')));
    let one = r#"{"team":"permit (principal, action, resource);"}"#;
    let recover = recovery(&world, one);
    let _: bulla_wire::api::Done = ask(&mut world, "alice", recover).unwrap();
    assert_eq!(world.count(Kind::Policy), 1);
}

#[test]
fn a_question_is_answered_as_the_policies_would() {
    let mut world = World::new(1);
    let _: Policy = ask(&mut world, "alice", put_policy(PERMIT, None)).unwrap();
    let check = |who: &str| policy::Check {
        principal: name(who),
        action: Action::KvGet,
        resource: "kv/app/db".parse().unwrap(),
    };
    let decision: PolicyDecision = ask(&mut world, "alice", check("bob")).unwrap();
    assert!(decision.allowed && decision.because == ["team#0"], "{decision:?}");
    let decision: PolicyDecision = ask(&mut world, "alice", check("gina")).unwrap();
    assert!(!decision.allowed && decision.because == ["the principal is disabled"], "{decision:?}");
    assert_eq!(refused(&mut world, check("nobody")), (Code::NotFound, at("principal")));
    let _: Policy = ask(&mut world, "alice", put_policy(FORBID, None)).unwrap();
    let decision: PolicyDecision = ask(&mut world, "alice", check("bob")).unwrap();
    assert!(!decision.allowed);
}

/// The admins' word for a set, as it stands now.
fn recovery(world: &World, policies: &str) -> policy::Recover {
    let said = PolicyRecovery {
        v: V1,
        cluster: world.directory.view().id(),
        policies_sha256: digest(policies),
        replaces: world.directory.policies().digest(),
        at_ms: world.now.unix_ms,
    };
    policy::Recover { policies: policies.to_owned(), approval: world.sign(&said) }
}

#[test]
fn k_admins_replace_all_policies() {
    let mut world = World::new(1);
    let _: Policy = ask(&mut world, "alice", put_policy(FORBID, None)).unwrap();
    let replaced: ReplacedPolicies = ask(&mut world, "bob", policy::Replaced).unwrap();
    assert_eq!(replaced.sha256, world.directory.policies().digest());
    let set = r#"{"first":"permit (principal, action, resource);","team":"permit (principal, action, resource);"}"#;
    let good = recovery(&world, set);
    let other =
        policy::Recover { policies: r#"{"team":"permit (principal, action, resource);"}"#.to_owned(), ..good.clone() };
    assert_eq!(refused(&mut world, other), (Code::BadStatement, at("approval")));
    for (text, code, field) in [
        (r#"{"team":"permit"}"#, Code::BadPolicy, "text"),
        (r#"{"not a name":"permit (principal, action, resource);"}"#, Code::Malformed, "policies"),
        ("[]", Code::Malformed, "policies"),
    ] {
        let bad = recovery(&world, text);
        assert_eq!(refused(&mut world, bad), (code, at(field)), "{text}");
    }
    let many: Vec<_> = (0..=policy::MAX_NAMES).map(|number| format!(r#""p{number}":"{PERMIT}""#)).collect();
    let many = recovery(&world, &format!("{{{}}}", many.join(",")));
    assert_eq!(refused(&mut world, many), (Code::Malformed, at("policies")));
    let answered = world.run(Box::new(good.clone()), Some("bob"));
    assert_eq!((answered.result.is_ok(), answered.alarm_kinds()), (true, vec![AlarmKind::PolicyRecovered]));
    assert_eq!(answered.alarms[0].told, [world.id("alice")], "the admins");
    let texts: Vec<_> =
        world.directory.policies().texts().map(|(name, text)| (name.to_string(), text.to_owned())).collect();
    assert_eq!(texts, [("first".to_owned(), PERMIT.to_owned()), ("team".to_owned(), PERMIT.to_owned())]);
    assert_eq!(world.count(Kind::Policy), 2);
    assert_eq!(refused(&mut world, good), (Code::BadStatement, at("approval")), "once");
}

/// An admin whom another one disabled comes back with the admins' word.
#[test]
fn a_recovery_enables_its_signers() {
    let mut world = World::new(1);
    let alice = bulla_core::directory::Principal::founder(&world.people["alice"].record, vec![]);
    world.write(|writes| principal::found(writes, &alice, []));
    let disable = principal::SetDisabled { name: name("alice"), disabled: true };
    let _: bulla_wire::api::Done = ask(&mut world, "alice", disable).unwrap();
    assert!(!world.directory.by_name(&name("alice")).unwrap().may_sign());
    let recover = recovery(&world, r#"{"team":"permit (principal, action, resource);"}"#);
    let _: bulla_wire::api::Done = ask(&mut world, "alice", recover).unwrap();
    assert!(world.directory.by_name(&name("alice")).unwrap().may_sign());
    let shown: Principal = ask(&mut world, "bob", principal::Read { name: name("alice") }).unwrap();
    assert!(!shown.disabled);
    assert!(!world.directory.by_name(&name("gina")).unwrap().may_sign(), "she signed nothing");
}

fn raise(world: &mut World, told: &[&str]) {
    let told = told.iter().map(|name| world.id(name)).collect();
    let raise = Raise { kind: AlarmKind::Redelivery, message: "look", told };
    world.run(Box::new(raise), None).result.unwrap();
}

fn alarms(world: &mut World, who: &str, list: alarm::List) -> Alarms {
    ask(world, who, list).unwrap()
}

fn list(limit: usize) -> alarm::List {
    alarm::List { after: None, limit, all: false }
}

fn seen(world: &mut World, who: &str, id: &str) -> Result<bulla_wire::api::Done, Refusal> {
    ask(world, who, Seen { up_to: Cursor::parse(id).unwrap() })
}

#[test]
fn alarms_stand_in_the_lists_of_those_who_are_told() {
    let mut world = World::new(1);
    raise(&mut world, &["bob", "carol", "bob"]);
    raise(&mut world, &["bob"]);
    raise(&mut world, &["bob"]);
    assert_eq!((world.alarms_of("bob"), world.alarms_of("carol"), world.alarms_of("dave")), (3, 1, 0));
    let page = alarms(&mut world, "bob", list(2));
    assert_eq!((page.alarms.len(), page.alarms[0].message.as_str()), (2, "look"));
    let next = page.next.unwrap();
    assert_eq!(next, page.alarms[1].id);
    let after = alarm::List { after: Some(Cursor::parse(&next).unwrap()), ..list(2) };
    let rest = alarms(&mut world, "bob", after);
    assert_eq!((rest.alarms.len(), rest.next), (1, None));
    assert_eq!(alarms(&mut world, "bob", list(3)).next, None, "a page that ends with the last one");
    // Who marked them sees those that come afterwards, and all if it asks for all.
    seen(&mut world, "bob", &next).unwrap();
    assert_eq!(alarms(&mut world, "bob", list(9)).alarms, rest.alarms);
    assert_eq!(alarms(&mut world, "bob", alarm::List { all: true, ..list(9) }).alarms.len(), 3);
    assert_eq!(alarms(&mut world, "carol", list(9)).alarms.len(), 1, "each has a mark of its own");
}

#[test]
fn a_mark_goes_no_further_than_there_are_alarms_and_never_back() {
    let mut world = World::new(1);
    for _ in 0..3 {
        raise(&mut world, &["bob"]);
    }
    let ids: Vec<String> = alarms(&mut world, "bob", list(9)).alarms.into_iter().map(|alarm| alarm.id).collect();
    let beyond = Cursor::after_clear(4u64.to_be_bytes()).to_text();
    let refusal = seen(&mut world, "bob", &beyond).unwrap_err();
    assert_eq!((refusal.code, refusal.field.as_deref()), (Code::NotFound, Some("up_to")));
    assert_eq!(seen(&mut world, "carol", &ids[0]).unwrap_err().code, Code::NotFound, "another one's alarm");
    seen(&mut world, "bob", &ids[1]).unwrap();
    let commits = world.commits;
    seen(&mut world, "bob", &ids[0]).unwrap();
    seen(&mut world, "bob", &ids[1]).unwrap();
    assert_eq!((world.commits, alarms(&mut world, "bob", list(9)).alarms.len()), (commits, 1));
    seen(&mut world, "bob", &ids[2]).unwrap();
    assert!(alarms(&mut world, "bob", list(9)).alarms.is_empty());
}

#[test]
fn old_alarms_go_when_a_later_one_is_marked() {
    let mut world = World::new(1);
    raise(&mut world, &["bob"]);
    world.pass(1);
    raise(&mut world, &["bob"]);
    raise(&mut world, &["bob"]);
    let ids: Vec<String> = alarms(&mut world, "bob", list(9)).alarms.into_iter().map(|alarm| alarm.id).collect();
    world.pass(KEPT_MS - 2);
    seen(&mut world, "bob", &ids[2]).unwrap();
    assert_eq!(world.alarms_of("bob"), 3, "a millisecond is missing");
    world.pass(1);
    seen(&mut world, "bob", &ids[2]).unwrap();
    assert_eq!(world.alarms_of("bob"), 2, "the first is old enough");
    // What is named stays, however old it is.
    world.pass(KEPT_MS);
    seen(&mut world, "bob", &ids[2]).unwrap();
    assert_eq!(world.alarms_of("bob"), 1);
}

fn counts(world: &World) -> alarm::Counts {
    alarm::counts(&world.read(&alarm::waiting(0, 1))).unwrap()
}

#[test]
fn alarms_wait_for_the_webhook_in_a_list_of_its_own() {
    let mut world = World::new(1);
    raise(&mut world, &["bob"]);
    assert_eq!(counts(&world).waiting(), 0, "there is none");
    world.webhook = true;
    raise(&mut world, &["bob"]);
    raise(&mut world, &[]);
    let query = alarm::waiting(0, 9);
    let records = world.read(&query);
    let (page, _) = records.page(&query[0]).unwrap();
    let listed: Vec<Listed> =
        page.iter().map(|record| serde_json::from_slice(record.bytes.expose()).unwrap()).collect();
    assert_eq!(listed.len(), 2, "also one that nobody else is told");
    assert!(listed.iter().all(|listed| listed.lineage == world.lineage && listed.dropped == 0));
    assert_eq!(page.iter().map(|record| alarm::number_of(&record.cursor).unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert!(alarm::number_of(&Cursor::after_clear([1])).is_err());
    // Taken out of turn, and counted once.
    for _ in 0..2 {
        world.run(Box::new(Delivered { number: 2 }), None).result.unwrap();
        assert_eq!((counts(&world).done, counts(&world).waiting()), (1, 1));
    }
    let records = world.read(&alarm::waiting(0, 9));
    assert!(records.get(&alarm::listed_key(2)).is_none_or(|record| record.is_none()));
    world.run(Box::new(Delivered { number: 1 }), None).result.unwrap();
    assert_eq!(counts(&world), alarm::Counts { newest: 2, dropped: 0, done: 2 });
}

/// What finds no place has a number, and the receiver hears how many those are.
#[test]
fn too_many_alarms_for_the_webhook_are_counted() {
    let mut world = World::new(1);
    world.webhook = true;
    let newest = RecordKey::hidden(Kind::AlarmCursor, WEBHOOK.as_bytes(), "newest");
    world.write(|writes| writes.create(newest, (WAITING_MAX - 1).to_be_bytes().to_vec()));
    raise(&mut world, &["bob"]);
    assert_eq!((counts(&world).waiting(), counts(&world).dropped), (WAITING_MAX, 0));
    let there = world.count(Kind::Alarm);
    raise(&mut world, &["bob"]);
    raise(&mut world, &["bob"]);
    assert_eq!(counts(&world), alarm::Counts { newest: WAITING_MAX + 2, dropped: 2, done: 0 });
    assert_eq!(world.count(Kind::Alarm), there + 2, "in Bob's list alone");
    world.run(Box::new(Delivered { number: WAITING_MAX }), None).result.unwrap();
    raise(&mut world, &["bob"]);
    let records = world.read(&[bulla_core::barrier::Query::Get(alarm::listed_key(WAITING_MAX + 3))]);
    let record = records.get(&alarm::listed_key(WAITING_MAX + 3)).unwrap().unwrap();
    let listed: Listed = serde_json::from_slice(record.bytes.expose()).unwrap();
    assert_eq!(listed.dropped, 2);
}

/// The next document, signed by Alice.
fn next(world: &World, change: impl FnOnce(&mut DocumentDraft)) -> Envelope {
    let view = world.directory.view();
    let mut draft = DocumentDraft::of(view.newest());
    change(&mut draft);
    world.sign(&view.next_document(&draft).unwrap())
}

#[test]
fn documents_enter_one_after_the_other() {
    let mut world = World::new(1);
    let bob = world.people["bob"].record.clone();
    let view = world.directory.view().clone();
    assert!(matches!(next_view(&view, view.newest().envelope()), Ok(Next::Same)));
    let enroller = next(&world, |draft| {
        draft.records.push(bob.clone());
        draft.enrollers.push(bob.principal());
    });
    assert!(matches!(next_view(&view, &enroller), Ok(Next::Plain(_))));
    let admin = next(&world, |draft| draft.add_admin(&bob));
    assert!(matches!(next_view(&view, &admin), Ok(Next::Rekey(_))), "other shares");
    let mut unsigned = enroller.clone();
    unsigned.signatures.clear();
    assert!(next_view(&view, &unsigned).is_err(), "no admin signed it");

    let put = |envelope: &Envelope| document::Put { envelope: envelope.clone() };
    world.run(Box::new(put(&admin)), Some("alice")).result.unwrap_err();
    let _: bulla_wire::api::Done = ask(&mut world, "alice", put(&enroller)).unwrap();
    assert!(world.directory.is_enroller(&bob.principal()) && !world.directory.is_admin(&bob.principal()));
    let commits = world.commits;
    let _: bulla_wire::api::Done = ask(&mut world, "alice", put(&enroller)).unwrap();
    assert_eq!(world.commits, commits, "it is there");
    assert_eq!(refused(&mut world, put(&admin)), (Code::BadStatement, at("envelope")), "it follows another");
}

/// Whom an enroller admitted is void with the enroller, and has its groups again when one vouches for it.
#[test]
fn a_document_judges_whom_its_enrollers_admitted() {
    let mut world = World::new(1);
    let bob = world.people["bob"].record.clone();
    let with_bob = next(&world, |draft| {
        draft.records.push(bob.clone());
        draft.enrollers.push(bob.principal());
    });
    let put = |envelope: Envelope| document::Put { envelope };
    let _: bulla_wire::api::Done = ask(&mut world, "alice", put(with_bob)).unwrap();
    let frank = record(&mut world, "frank", None);
    let by_bob = principal::Put { admission: admission(&world, &frank.record, 1, "bob"), ..put_of(&world, &frank) };
    let _: bulla_wire::api::Done = ask(&mut world, "alice", by_bob).unwrap();
    let standing = |world: &World| {
        let principal = world.directory.by_name(&name("frank")).unwrap();
        (principal.may_sign(), principal.void, principal.subject.groups.clone())
    };
    assert_eq!(standing(&world), (true, false, vec![name("dev")]));
    let without_bob = next(&world, |draft| draft.remove_enroller(&bob.principal()));
    let _: bulla_wire::api::Done = ask(&mut world, "alice", put(without_bob)).unwrap();
    assert_eq!(standing(&world), (false, true, vec![]));
    let shown: Principal = ask(&mut world, "alice", principal::Read { name: name("frank") }).unwrap();
    assert!(shown.void);
    let page: Principals = ask(&mut world, "alice", all()).unwrap();
    assert!(page.principals.iter().any(|principal| principal.name == name("frank") && principal.void));
    let with_bob = next(&world, |draft| {
        draft.records.push(bob.clone());
        draft.enrollers.push(bob.principal());
    });
    let _: bulla_wire::api::Done = ask(&mut world, "alice", put(with_bob)).unwrap();
    assert_eq!(standing(&world), (true, false, vec![name("dev")]));
    let groups = |who: &str| world.directory.by_name(&name(who)).unwrap().subject.groups.clone();
    assert_eq!((groups("alice"), groups("bob")), (vec![name("admins")], vec![]), "the admins' group is the document's");
}

fn put_of(world: &World, person: &Person) -> principal::Put {
    put(world, "frank", person, 1)
}

/// A name that a document gives to somebody is nobody else's, whoever admitted them.
#[test]
fn whoever_stands_in_the_document_has_the_name() {
    let mut world = World::new(1);
    let frank = admit(&mut world, "frank", 1);
    let other = record(&mut world, "frank", None);
    let with_other = next(&world, |draft| {
        draft.records.push(other.record.clone());
        draft.enrollers.push(other.record.principal());
    });
    let put = document::Put { envelope: with_other };
    let _: bulla_wire::api::Done = ask(&mut world, "alice", put).unwrap();
    let displaced = world.directory.by_id(&frank.record.principal()).unwrap();
    assert!(displaced.void && !displaced.may_sign());
}

/// One that is far ahead would keep every later one from its name.
#[test]
fn a_serial_is_of_no_later_time() {
    let mut world = World::new(1);
    let frank = record(&mut world, "frank", None);
    let admitted = |world: &mut World, serial| {
        let put = put(world, "frank", &frank, serial);
        ask::<bulla_wire::api::Done>(world, "alice", put).map(drop)
    };
    let most = START_MS + 24 * 3600 * 1000;
    for serial in [most + 1, u64::MAX] {
        let refusal = admitted(&mut world, serial).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (Code::BadStatement, Some("admission.serial")));
    }
    admitted(&mut world, most).unwrap();
    // A clock that was wrong is put right, and the name counts up by one.
    admitted(&mut world, most + 1).unwrap();
    assert!(admitted(&mut world, most + 3).is_err());
    admitted(&mut world, most + 2).unwrap();
}

/// Nothing else about somebody changes by a document that makes it an admin, or none any more.
#[test]
fn the_group_of_admins_goes_by_the_newest_document() {
    let mut world = World::new(1);
    let frank = admit(&mut world, "frank", 1).record;
    let bob = world.people["bob"].record.clone();
    let enter = |world: &mut World, envelope: &Envelope| {
        let mut view = world.directory.view().clone();
        view.push(envelope).unwrap();
        world.directory = world.directory.with(Change::Document(Box::new(view))).unwrap();
    };
    let groups = |world: &World| world.directory.by_name(&name("frank")).unwrap().subject.groups.clone();
    assert_eq!(groups(&world), [name("dev")]);
    let with_frank = next(&world, |draft| draft.add_admin(&frank));
    enter(&mut world, &with_frank);
    assert_eq!(groups(&world), [name("dev"), name("admins")]);
    let with_bob = next(&world, |draft| {
        draft.records.push(bob.clone());
        draft.enrollers.push(bob.principal());
    });
    enter(&mut world, &with_bob);
    assert_eq!(groups(&world), [name("dev"), name("admins")], "once");
    let without_frank = next(&world, |draft| draft.remove_admin(&frank.principal()));
    enter(&mut world, &without_frank);
    assert_eq!(groups(&world), [name("dev")]);
    assert!(world.directory.by_id(&frank.principal()).unwrap().may_sign(), "it was admitted");
}

#[test]
fn secret_replies_go_to_the_recipients_of_the_key() {
    let world = World::new(1);
    let (_, key) = world.directory.by_key(&world.actor("bob").key).unwrap();
    let texts = |recipients: &[Recipient]| recipients.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(key.reply_to()), texts(world.people["bob"].identity.recipients()));
    assert!(!key.reply_to().is_empty());
}

#[test]
fn alarms_tell_what_happened() {
    let mut world = World::new(1);
    let frank = admit(&mut world, "frank", 1);
    let renewed = record(&mut world, "frank", Some(&frank));
    let rotate = put(&world, "frank", &renewed, 2);
    let alarms = world.run(Box::new(rotate), Some("alice")).alarms;
    assert_eq!(alarms[0].alarm.message, "the keys of this principal were rotated");
    let recover = recovery(&world, r#"{"team":"permit (principal, action, resource);"}"#);
    let alarms = world.run(Box::new(recover), Some("bob")).alarms;
    assert_eq!(alarms[0].alarm.message, "the admins replaced the policy set");
}
