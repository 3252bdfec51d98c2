//! Who may do what, and who is who: secrets by policy, policies, principals, names.

use crate::cases::{kv_body, next_document, recovery_by, recovery_of};
use crate::support::{Caller, Request, Wire, finish, rows, unsealed, view};
use bulla_client::{Admit, AuditOf, Client, ClientError, Outgoing, Pin, content};
use bulla_crypto::BoxFuture;
use bulla_crypto::evidence::{self, AdmissionDraft, DocumentDraft, PrincipalKey, Record};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::message::{digest_header, sign_response};
use bulla_crypto::random::SystemRng;
use bulla_crypto::sign::Signer;
use bulla_server::listen::{Arrived, BODY_TIMEOUT, BodyBudget, Handler, Limits, Listeners, read_body, serve};
use bulla_server::metrics::Metrics;
use bulla_server::node::Node;
use bulla_server::tls::Tls;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{self, AlarmKind, PutKv, PutPolicy};
use bulla_wire::error::Code;
use bulla_wire::evidence::SealMode;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::name::{Name, SecretPath};
use bulla_wire::signature::{
    Answered, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, JSON_MEDIA_TYPE, RequestParts, ResponseParts, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER, STATE_HEADER,
};
use bytes::Bytes;
use http::Response;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn path(text: &str) -> SecretPath {
    text.parse().unwrap()
}

fn data(value: &str) -> PutKv {
    PutKv::fields(StrictMap([("password".to_owned(), value.to_owned())].into()))
}

fn policy(text: &str) -> PutPolicy {
    PutPolicy { text: text.to_owned(), replaces: None }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, code: Code) {
    let error = result.expect_err("refused");
    assert_eq!(error.code(), Some(code), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_read_by_policy_and_by_nothing_else() {
    let world = World::new(Shape::durable()).await;
    let admin = world.client(&world.admins[0]);
    let (reader, writer) = (Person::new("reader"), Person::new("writer"));
    world.admit_person(&reader, &["payments"]).await;
    world.admit_person(&writer, &["payments-ci"]).await;
    let (reader, writer) = (world.client(&reader), world.client(&writer));
    for client in [&admin, &reader, &writer] {
        refused(client.kv_put(&path("payments/db"), &data("1")).await, Code::Denied);
        refused(client.kv_get(&path("payments/db")).await, Code::Denied);
        refused(client.kv_list(None, None, None).await, Code::Denied);
    }
    let text = "permit (principal in Bulla::Group::\"payments\", action in [Bulla::Action::\"kv.get\", \
                Bulla::Action::\"kv.list\"], resource in Bulla::Kv::\"payments\"); \
                permit (principal in Bulla::Group::\"payments-ci\", action == Bulla::Action::\"kv.put\", \
                resource in Bulla::Kv::\"payments\");";
    admin.policy_put(&name("payments"), &policy(text)).await.unwrap();
    for version in 1..=3u64 {
        assert_eq!(writer.kv_put(&path("payments/db"), &data("hunter2")).await.unwrap().version, version);
    }
    let kv = reader.kv_get(&path("payments/db")).await.unwrap();
    assert_eq!((kv.version, kv.data.unwrap().0["password"].as_str()), (3, "hunter2"));
    assert_eq!(reader.kv_list(Some(&path("payments")), None, None).await.unwrap().names, ["db"]);
    refused(reader.kv_put(&path("payments/db"), &data("2")).await, Code::Denied);
    refused(writer.kv_get(&path("payments/db")).await, Code::Denied);
    refused(reader.kv_get(&path("payment")).await, Code::Denied);
    refused(reader.kv_get(&path("payments2/db")).await, Code::Denied);
    refused(admin.kv_get(&path("payments/db")).await, Code::Denied);
    refused(reader.kv_get(&path("payments/none")).await, Code::NotFound);
    let stale = PutKv { cas: Some(1), ..data("x") };
    refused(writer.kv_put(&path("payments/db"), &stale).await, Code::VersionMismatch);
    let fresh = PutKv { cas: Some(3), ..data("x") };
    assert_eq!(writer.kv_put(&path("payments/db"), &fresh).await.unwrap().version, 4);
    admin.policy_delete(&name("payments")).await.unwrap();
    refused(reader.kv_get(&path("payments/db")).await, Code::Denied);
    finish(world).await;
}

/// A body that was encrypted for one request is of no use in another.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_body_belongs_to_its_request() {
    let world = World::new(Shape::default()).await;
    let text = "permit (principal, action in Bulla::Action::\"kv\", resource);";
    world.client(&world.admins[0]).policy_put(&name("kv"), &policy(text)).await.unwrap();
    let (alice, mallory) = (world.admit("alice").await, world.admit("mallory").await);
    let (mut alice, mut mallory) = (Caller::new(&world, &alice).await, Caller::new(&world, &mallory).await);
    let nonce = alice.nonce();
    let body = alice.ingress(&world, "PUT", "/v1/kv/app/db", &nonce, &kv_body());
    let before = rows(&world).await;
    let other = mallory.nonce();
    for (path, nonce) in [("/v1/kv/app/db", other), ("/v1/kv/app/db", nonce), ("/v1/kv/mine", nonce)] {
        let stolen = mallory.request("PUT", path, "application/age", body.clone(), nonce);
        assert_eq!(mallory.send(&stolen).await.refused(Code::Malformed).error().unwrap().field.unwrap(), "body");
    }
    for (path, nonce) in [("/v1/kv/app/other", nonce), ("/v1/kv/app/db", alice.nonce())] {
        let moved = alice.request("PUT", path, "application/age", body.clone(), nonce);
        alice.send(&moved).await.refused(Code::Malformed);
    }
    let key = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
    let stale = bulla_crypto::envelope::seal(key.recipients(), None, b"x").unwrap();
    let stale = alice.request("PUT", "/v1/kv/app/db", "application/age", stale, alice.nonce());
    alice.send(&stale).await.refused(Code::IngressChanged);
    assert_eq!(rows(&world).await, before);
    let good = alice.request("PUT", "/v1/kv/app/db", "application/age", body, nonce);
    alice.send(&good).await.ok();
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_written_asked_and_recovered() {
    let world = World::new(Shape { mode: SealMode::Quorum, k: 2, n: 3, ..Shape::durable() }).await;
    let admin = world.client(&world.admins[0]);
    let bob = world.admit("bob").await;
    let bob = world.client(&bob);
    refused(bob.policy_put(&name("mine"), &policy("permit (principal, action, resource);")).await, Code::Denied);
    for bad in [
        "permit (principal, action, resource)",
        "permit (principal, action == Bulla::Action::\"kv.x\", resource);",
        "x",
    ] {
        refused(admin.policy_put(&name("bad"), &policy(bad)).await, Code::BadPolicy);
    }
    let text = "permit (principal in Bulla::Group::\"ops\", action == Bulla::Action::\"kv.get\", resource);";
    let put = admin.policy_put(&name("ops"), &PutPolicy { replaces: Some(None), ..policy(text) }).await.unwrap();
    refused(
        admin.policy_put(&name("ops"), &PutPolicy { replaces: Some(None), ..policy(text) }).await,
        Code::VersionMismatch,
    );
    admin.policy_put(&name("ops"), &PutPolicy { replaces: Some(Some(put.sha256)), ..policy(text) }).await.unwrap();
    let all = admin.policies().await.unwrap().policies;
    assert_eq!((all[1].bytes, all[1].sha256), (text.len() as u64, put.sha256));
    let first = admin.policy(&all[0].name).await.unwrap().text;
    assert_eq!(all.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), ["first", "ops"]);
    let check = |action: &str, resource: &str| api::CheckPolicy {
        principal: name("bob"),
        action: action.to_owned(),
        resource: resource.to_owned(),
    };
    let decision = admin.policy_check(&check("wrap.create", "wrap")).await.unwrap();
    assert!(decision.allowed);
    assert_eq!(decision.because, ["first#1"]);
    assert!(!admin.policy_check(&check("kv.get", "kv/app")).await.unwrap().allowed);
    refused(bob.policy_check(&check("kv.get", "kv/app")).await, Code::Denied);

    // A set that lets nobody change it.
    admin.policy_put(&name("shut"), &policy("forbid (principal, action, resource);")).await.unwrap();
    refused(admin.policy_delete(&name("shut")).await, Code::Denied);
    refused(bob.whoami().await, Code::Denied);
    let mut caller = Caller::new(&world, &world.admins[0]).await;
    let texts = StrictMap([("first".to_owned(), first)].into());
    let send = |caller: &Caller, body: Vec<u8>| {
        caller.request("POST", "/v1/policy:recover", "application/json", body, caller.nonce())
    };
    let one = send(&caller, recovery_of(&world, &texts, 1));
    caller.send(&one).await.refused(Code::BadStatement);
    let mut stranger = Caller::new(&world, &Person::new("x")).await;
    let strange = send(&stranger, recovery_of(&world, &texts, 2));
    stranger.send(&strange).await.refused(Code::Unauthenticated);
    // The admins are told what it replaces, although they may read nothing; nobody else is.
    let replaced: api::ReplacedPolicies = caller.call("GET", "/v1/policy:recover").await.ok().json();
    assert_eq!(replaced.sha256, unsealed(&world).directory().policies().digest());
    refused(bob.request("GET", "/v1/policy:recover", "", None).await, Code::Denied);
    let two = send(&caller, recovery_of(&world, &texts, 2));
    caller.send(&two).await.ok();
    assert!(bob.whoami().await.is_ok());
    let told = admin.alarms(None, None, false).await;
    assert!(told.unwrap().alarms.iter().any(|alarm| alarm.kind == AlarmKind::PolicyRecovered));
    // Whoever may write policies again does so; the same signatures are spent.
    admin.policy_put(&name("ops"), &policy(text)).await.unwrap();
    let spent: api::RecoverPolicies = json::parse(&two.body, json::MAX_JSON_BYTES).unwrap();
    let again = caller.call_json("POST", "/v1/policy:recover", &spent).await.refused(Code::BadStatement);
    assert!(again.error().unwrap().message.contains("replaces"), "{again:?}");
    assert!(admin.policy(&name("ops")).await.is_ok());
    // Ten minutes later the same signatures are no recovery any more.
    let late = recovery_of(&world, &texts, 2);
    world.clock.pass(11 * 60_000);
    caller.call("GET", "/v1/whoami").await;
    let late = send(&caller, late);
    caller.send(&late).await.refused(Code::BadStatement);
    finish(world).await;
}

/// One admin who disables the others is undone by k of them; nothing else is heard from a disabled admin.
#[tokio::test(flavor = "multi_thread")]
async fn one_admin_does_not_lock_out_the_others() {
    let mut world = World::new(Shape { mode: SealMode::Quorum, k: 2, n: 3, ..Shape::durable() }).await;
    let [ann, ben, cat] = world.admins.as_slice() else { panic!("three admins") };
    let mallory = world.admit("mallory").await;
    let admin = world.client(ann);
    // Their groups are hers to set, but for the one that makes them admins to policy.
    admit_by(&world, ann, ben, &[]).await;
    admit_by(&world, ann, cat, &["ops"]).await;
    let listed = admin.principals(None, None, None, None).await.unwrap().principals;
    for (whose, groups) in [(&ben.name, vec!["admins"]), (&cat.name, vec!["ops", "admins"])] {
        let shown = listed.iter().find(|summary| summary.name == *whose).unwrap();
        assert_eq!(shown.groups.iter().map(Name::as_str).collect::<Vec<_>>(), groups);
    }
    for name in [&ben.name, &cat.name, &mallory.name] {
        admin.principal_disable(name).await.unwrap();
    }
    // The new set leaves the right to disable to nobody but the two.
    let first = admin.policy(&name("first")).await.unwrap().text;
    let texts = StrictMap([("first".to_owned(), first), ("no-ann".to_owned(), forbid(ann))].into());
    let send = |caller: &Caller, body: Vec<u8>| {
        caller.request("POST", "/v1/policy:recover", "application/json", body, caller.nonce())
    };
    let mut ben_calls = Caller::new(&world, ben).await;
    let refused_body = ben_calls.call("GET", "/v1/whoami").await.refused(Code::Unauthenticated).body;
    let mut mallory_calls = Caller::new(&world, &mallory).await;
    let not_hers = send(&mallory_calls, recovery_by(&world, &texts, &[ben, cat]));
    let uniform = mallory_calls.send(&not_hers).await.refused(Code::Unauthenticated).body;
    assert_eq!(uniform, refused_body, "a disabled key, whatever it asks, is like an unknown one");
    let alone = send(&ben_calls, recovery_by(&world, &texts, &[ben]));
    ben_calls.send(&alone).await.refused(Code::BadStatement);
    ben_calls.call("GET", "/v1/whoami").await.refused(Code::Unauthenticated);
    // Cat signs, ben signs and brings it.
    let both = send(&ben_calls, recovery_by(&world, &texts, &[ben, cat]));
    ben_calls.send(&both).await.ok();
    ben_calls.call("GET", "/v1/whoami").await.ok();
    world.client(cat).whoami().await.unwrap();
    mallory_calls.call("GET", "/v1/whoami").await.refused(Code::Unauthenticated);
    refused(admin.principal_disable(&ben.name).await, Code::Denied);
    // They govern as before.
    let ben_client = world.client(ben);
    assert_eq!(ben_client.whoami().await.unwrap().principal.groups, [name("admins")]);
    ben_client.policies().await.unwrap();
    let ops = "permit (principal in Bulla::Group::\"ops\", action == Bulla::Action::\"kv.get\", resource);";
    ben_client.policy_put(&name("ops"), &policy(ops)).await.unwrap();
    let admit = Admit { groups: vec![name("ops")], ..Admit::default() };
    world.client(cat).admit(&mallory.record, admit).await.unwrap();
    let mut cat_calls = Caller::new(&world, cat).await;
    let document = next_document(&world);
    let put = cat_calls.request("POST", "/v1/document", JSON_MEDIA_TYPE, document, cat_calls.nonce());
    cat_calls.send(&put).await.ok();
    // It stays so after a restart.
    world.stop().await;
    world.start().await;
    world.unseal().await;
    let [_, ben, cat] = world.admins.as_slice() else { panic!("three admins") };
    world.client(ben).whoami().await.unwrap();
    world.client(cat).principal_disable(&name("mallory")).await.unwrap();
    world.client(ben).seal().await.unwrap();
    finish(world).await;
}

fn forbid(admin: &Person) -> String {
    let id = Record::open(&admin.record, None).unwrap().principal();
    format!("forbid (principal == Bulla::Principal::\"{id}\", action, resource);")
}

/// The list of policies stays small whatever their texts are.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_policies_holds_no_texts() {
    let world = World::new(Shape::default()).await;
    let mut admin = Caller::new(&world, &world.admins[0]).await;
    // Comments are text too.
    let text = format!("// {}\nforbid (principal, action, resource in Bulla::Kv::\"never\");", "x".repeat(65_000));
    let client = world.client(&world.admins[0]);
    for n in 0..20 {
        client.policy_put(&name(&format!("team{n}")), &policy(&text)).await.unwrap();
    }
    let reply = admin.call("GET", "/v1/policy").await.ok();
    assert!(reply.body.len() < 8 * 1024, "{} bytes", reply.body.len());
    assert_eq!(client.policies().await.unwrap().policies.len(), 21);
    assert_eq!(client.policy(&name("team9")).await.unwrap().text, text);
    finish(world).await;
}

/// Lines of one principal are found by name and by id.
#[tokio::test(flavor = "multi_thread")]
async fn audit_lines_are_found_by_name_and_by_id() {
    let world = World::new(Shape::durable()).await;
    let bob = world.admit("bob").await;
    world.client(&bob).whoami().await.unwrap();
    let id = Record::open(&bob.record, None).unwrap().principal().to_string();
    let admin = world.client(&world.admins[0]);
    let of = |principal: &str| AuditOf { principal: Some(principal.to_owned()), ..AuditOf::default() };
    let by_name = admin.audit(None, None, &of("bob")).await.unwrap().lines;
    assert_eq!(by_name.len(), 1);
    assert_eq!(admin.audit(None, None, &of(&id)).await.unwrap().lines, by_name);
    let nobody = bulla_wire::id::PrincipalId::new([7; 32]).to_string();
    assert!(admin.audit(None, None, &of(&nobody)).await.unwrap().lines.is_empty());
    refused(admin.audit(None, None, &of("bo")).await, Code::NotFound);
    refused(admin.audit(None, None, &of("sha256:x")).await, Code::Malformed);
    let about = AuditOf { resource: Some("secret/app".into()), ..AuditOf::default() };
    let told = admin.audit(None, None, &about).await.unwrap_err().to_string();
    assert!(told.contains("kv[/PATH], transit[/KEY]"), "{told}");
    finish(world).await;
}

/// A denial carries an id, with which those who may ask why.
#[tokio::test(flavor = "multi_thread")]
async fn denials_are_explained() {
    let world = World::new(Shape::durable()).await;
    let admin = world.client(&world.admins[0]);
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let text = "forbid (principal, action == Bulla::Action::\"kv.get\", resource in Bulla::Kv::\"app\");";
    admin.policy_put(&name("shut"), &policy(text)).await.unwrap();
    let mut caller = Caller::new(&world, &alice).await;
    let id_of = |reply: crate::support::Reply| reply.refused(Code::Denied).error().unwrap().id.unwrap();
    let forbidden = id_of(caller.call("GET", "/v1/kv/app/db").await);
    let unpermitted = id_of(caller.call("GET", "/v1/kv/other").await);
    for (id, resource, reasons) in [(&forbidden, "kv/app/db", vec!["shut#0"]), (&unpermitted, "kv/other", vec![])] {
        let why = admin.policy_explain(id).await.unwrap();
        assert_eq!((why.id.as_str(), why.name.as_str()), (id.as_str(), "alice"));
        assert_eq!(why.principal, Record::open(&alice.record, None).unwrap().principal());
        assert_eq!((why.action.as_deref(), why.resource.as_deref()), (Some("kv.get"), Some(resource)));
        assert_eq!((why.allowed, why.reasons), (Some(false), reasons.into_iter().map(str::to_owned).collect()));
        assert_eq!((why.status, why.code), (403, Some(Code::Denied)));
    }
    // What was refused before policy was asked, and what was allowed, have lines too.
    let malformed = caller.call("GET", "/v1/whoami?x=y").await.refused(Code::Malformed).error().unwrap().id.unwrap();
    assert_eq!(admin.policy_explain(&malformed).await.unwrap().allowed, None);
    refused(admin.policy_explain(&"a".repeat(26)).await, Code::NotFound);
    refused(admin.policy_explain("x").await, Code::Malformed);
    // Nobody explains anything to those who may not ask.
    refused(world.client(&bob).policy_explain(&forbidden).await, Code::Denied);
    let text = "permit (principal, action == Bulla::Action::\"policy.explain\", resource) \
                when { principal.name == \"bob\" };";
    admin.policy_put(&name("helpdesk"), &policy(text)).await.unwrap();
    assert!(world.client(&bob).policy_explain(&forbidden).await.is_ok());
    finish(world).await;
}

/// Cedar skips a statement whose evaluation fails, a `forbid` too. Here it denies.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_fails_denies() {
    let world = World::new(Shape::default()).await;
    let admin = world.client(&world.admins[0]);
    let bob = world.admit("bob").await;
    let text = "permit (principal, action == Bulla::Action::\"kv.get\", resource); \
                forbid (principal, action == Bulla::Action::\"kv.get\", resource) \
                when { 9223372036854775807 + 1 == 0 };";
    let put = admin.policy_put(&name("overflow"), &policy(text)).await;
    let bob_client = world.client(&bob);
    match put {
        Ok(_) => {
            refused(bob_client.kv_get(&path("a")).await, Code::Denied);
            let check = api::CheckPolicy { principal: name("bob"), action: "kv.get".into(), resource: "kv/a".into() };
            let decision = admin.policy_check(&check).await.unwrap();
            assert!(!decision.allowed && !decision.errors.is_empty(), "{decision:?}");
        }
        Err(error) => assert_eq!(error.code(), Some(Code::BadPolicy), "{error}"),
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn principals_come_go_and_change() {
    let mut world = World::new(Shape::durable()).await;
    let admin = world.client(&world.admins[0]);
    let bob = world.admit("bob").await;
    let client = world.client(&bob);
    assert_eq!(client.whoami().await.unwrap().principal.name, name("bob"));

    // Only an enroller's signature admits, whatever policy says.
    let text = "permit (principal, action in Bulla::Action::\"principal\", resource);";
    admin.policy_put(&name("enrol"), &policy(text)).await.unwrap();
    let carol = Person::new("carol");
    let error = client.admit(&carol.record, Admit::default()).await.expect_err("bob is no enroller");
    assert!(matches!(error, ClientError::Input { .. }), "{error}");
    let mut caller = Caller::new(&world, &bob).await;
    let record = Record::open(&carol.record, None).unwrap();
    let payload = AdmissionDraft { serial: 1, ..AdmissionDraft::default() }.payload(&view(&world), &record);
    let forged = evidence::sign_in_memory(&payload, &[bob.identity.signing_key().unwrap()]).unwrap();
    let body = api::PutPrincipal { record: carol.record.clone(), admission: forged };
    caller.call_json("PUT", "/v1/principal/carol", &body).await.refused(Code::BadStatement);
    // An admission for one name is none for another.
    world.admit_person(&carol, &[]).await;
    let told = admin.principal(&name("carol")).await.unwrap();
    let body = api::PutPrincipal { record: carol.record.clone(), admission: told.admission.unwrap() };
    let mut by_hand = Caller::new(&world, &world.admins[0]).await;
    by_hand.call_json("PUT", "/v1/principal/carla", &body).await.refused(Code::BadStatement);

    // Somebody else's recipient under a new name.
    let thief = Person::new("thief");
    let key = PrincipalKey {
        public: thief.identity.signing_key().unwrap().public_key().clone(),
        recipients: bob.identity.recipients().to_vec(),
        dual_use: false,
    };
    let payload = evidence::record_payload(name("thief"), None, &[key]).unwrap();
    let record = evidence::sign_in_memory(&payload, &[thief.identity.signing_key().unwrap()]).unwrap();
    refused(admin.admit(&record, Admit::default()).await, Code::RecipientTaken);

    // Groups.
    admin.admit(&bob.record, Admit { groups: vec![name("ops")], ..Admit::default() }).await.unwrap();
    assert_eq!(client.whoami().await.unwrap().principal.groups, [name("ops")]);

    // Disabling takes the key at once, over the same connection.
    admin.principal_disable(&name("bob")).await.unwrap();
    refused(client.whoami().await, Code::Unauthenticated);
    caller.call("GET", "/v1/whoami").await.refused(Code::Unauthenticated);
    admin.principal_enable(&name("bob")).await.unwrap();
    caller.call("GET", "/v1/whoami").await.ok();

    // Rotation: both keys sign, an enroller admits, the owner is told, the old key is gone.
    let new = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
    let key = PrincipalKey {
        public: new.signing_key().unwrap().public_key().clone(),
        recipients: new.recipients().to_vec(),
        dual_use: false,
    };
    let signer: &dyn Signer = &new;
    let next = client.rotate(&[key], &[signer]).await.unwrap();
    caller.call("GET", "/v1/whoami").await.ok();
    admin.admit(&next, Admit { groups: vec![name("ops")], ..Admit::default() }).await.unwrap();
    caller.call("GET", "/v1/whoami").await.refused(Code::Unauthenticated);
    let rotated = Person { name: name("bob"), identity: Arc::new(new), record: next };
    let after = world.client(&rotated);
    assert_eq!(after.whoami().await.unwrap().principal.version, 2);
    let told = after.alarms(None, None, false).await.unwrap().alarms;
    assert!(told.iter().any(|alarm| alarm.kind == AlarmKind::KeyRotated));
    // A later record without the key before it is another principal's.
    let other = Person::new("bob");
    let error = admin.admit(&other.record, Admit::default()).await.expect_err("the name is taken");
    assert!(matches!(error, ClientError::Input { .. }) || error.code() == Some(Code::Exists), "{error}");

    // All of it holds after a restart.
    admin.principal_disable(&name("carol")).await.unwrap();
    world.stop().await;
    world.start().await;
    world.unseal().await;
    refused(world.client(&carol).whoami().await, Code::Unauthenticated);
    refused(world.client(&bob).whoami().await, Code::Unauthenticated);
    assert!(world.client(&rotated).whoami().await.is_ok());
    finish(world).await;
}

/// Puts the next document, with or without this enroller.
pub async fn enrol(world: &World, person: &Person, enroller: bool) {
    let view = view(world);
    let mut draft = evidence::DocumentDraft::of(view.newest());
    let record = Record::open(&person.record, None).unwrap();
    if enroller {
        draft.enrollers.push(record.principal());
        draft.records.push(record);
    } else {
        draft.remove_enroller(&record.principal());
    }
    let document = view.next_document(&draft).unwrap();
    let keys: Vec<_> = world.admins.iter().map(|admin| admin.identity.signing_key().unwrap()).collect();
    let envelope = evidence::sign_in_memory(&document, &keys).unwrap();
    world.client(&world.admins[0]).document_put(envelope).await.unwrap();
}

/// The admin hands in what another enroller signed.
pub async fn admit_by(world: &World, enroller: &Person, person: &Person, groups: &[&str]) {
    let record = Record::open(&person.record, None).unwrap();
    let groups = groups.iter().map(|group| name(group)).collect();
    let serial = world.server().node.now_ms();
    let draft = AdmissionDraft { serial, groups, ..AdmissionDraft::default() };
    let payload = draft.payload(&view(world), &record);
    let admission = evidence::sign_in_memory(&payload, &[enroller.identity.signing_key().unwrap()]).unwrap();
    let body = api::PutPrincipal { record: person.record.clone(), admission };
    let mut admin = Caller::new(world, &world.admins[0]).await;
    admin.call_json("PUT", &format!("/v1/principal/{}", person.name), &body).await.ok();
}

/// Admissions are judged by the newest document, when it comes and when the cluster unseals.
#[tokio::test(flavor = "multi_thread")]
async fn whom_a_removed_enroller_admitted_is_void() {
    let mut world = World::new(Shape::durable()).await;
    let (erin, bob, carol) = (world.admit("erin").await, Person::new("bob"), Person::new("carol"));
    enrol(&world, &erin, true).await;
    admit_by(&world, &erin, &bob, &["ops"]).await;
    admit_by(&world, &erin, &carol, &["ops"]).await;
    enrol(&world, &carol, true).await;
    let admin = world.client(&world.admins[0]);
    let text = "permit (principal in Bulla::Group::\"ops\", action in Bulla::Action::\"kv\", resource);";
    admin.policy_put(&name("ops"), &policy(text)).await.unwrap();
    world.client(&bob).kv_put(&path("app/db"), &data("1")).await.unwrap();
    world.client(&carol).kv_put(&path("app/db"), &data("2")).await.unwrap();

    enrol(&world, &erin, false).await;
    for restarted in [false, true] {
        if restarted {
            world.stop().await;
            world.start().await;
            world.unseal().await;
        }
        let admin = world.client(&world.admins[0]);
        // As somebody whom nobody ever admitted.
        refused(world.client(&bob).whoami().await, Code::Unauthenticated);
        assert!(admin.principal(&name("bob")).await.unwrap().void);
        let all = admin.principals(None, None, None, None).await.unwrap().principals;
        let void: Vec<_> = all.iter().filter(|summary| summary.void).map(|summary| summary.name.as_str()).collect();
        assert_eq!(void, ["bob"]);
        let error = admin.resolve("bob").await.expect_err("nobody vouches for it");
        assert!(matches!(error, ClientError::Untrusted(_)), "{error:?}");
        // The document vouches for Carol, but not for the groups that Erin gave.
        let me = world.client(&carol).whoami().await.unwrap();
        assert!(me.enroller && me.principal.groups.is_empty(), "{me:?}");
        refused(world.client(&carol).kv_get(&path("app/db")).await, Code::Denied);
        assert!(admin.resolve("carol").await.is_ok());
        assert!(world.client(&erin).whoami().await.is_ok(), "an admin admitted Erin");
    }
    let mut check = Caller::new(&world, &world.admins[0]).await;
    let question = api::CheckPolicy { principal: name("bob"), action: "kv.get".into(), resource: "kv/app/db".into() };
    let decision: api::PolicyDecision = check.call_json("POST", "/v1/policy:check", &question).await.ok().json();
    assert!(!decision.allowed && decision.because[0].contains("void"), "{decision:?}");
    let (body, _) = crate::cases::parcel(&world, &world.admins[0], &[&bob], |_| {});
    let media = bulla_wire::wrap::PARCEL_MEDIA_TYPE;
    let request = check.request("POST", "/v1/wrap", media, body, check.nonce());
    check.send(&request).await.refused(Code::UnknownRecipient);

    // The founding admin needs no admission, and one that is void takes nothing from it but what it gave.
    enrol(&world, &erin, true).await;
    let founder = &world.admins[0];
    admit_by(&world, &erin, founder, &["admins", "ops"]).await;
    let groups = |me: api::Whoami| me.principal.groups.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut caller = Caller::new(&world, founder).await;
    assert_eq!(groups(caller.call("GET", "/v1/whoami").await.ok().json()), ["admins", "ops"]);
    enrol(&world, &erin, false).await;
    assert_eq!(groups(caller.call("GET", "/v1/whoami").await.ok().json()), ["admins"]);
    // Again an enroller: what it signed holds again. Or somebody else admits him.
    enrol(&world, &erin, true).await;
    assert_eq!(world.client(&bob).kv_get(&path("app/db")).await.unwrap().version, 2);
    assert!(world.client(&carol).kv_get(&path("app/db")).await.is_ok());
    enrol(&world, &erin, false).await;
    refused(world.client(&bob).whoami().await, Code::Unauthenticated);
    world.admit_person(&bob, &[]).await;
    assert!(world.client(&bob).whoami().await.unwrap().principal.groups.is_empty());
    finish(world).await;
}

/// A server that lies about one name and signs its lies with its true key.
struct Liar {
    node: Arc<Node>,
    budget: BodyBudget,
    wire: tokio::sync::Mutex<Wire>,
    lie: Mutex<Option<api::Principal>>,
    wraps: AtomicUsize,
}

impl Handler for Liar {
    fn handle(&self, arrived: Arrived) -> BoxFuture<'_, Response<Bytes>> {
        Box::pin(self.answer(arrived))
    }
}

impl Liar {
    async fn answer(&self, arrived: Arrived) -> Response<Bytes> {
        let Arrived { head, body, .. } = arrived;
        let body = read_body(body, 32 << 20, &self.budget, BODY_TIMEOUT).await.unwrap().bytes;
        let passed =
            ["content-type", "content-digest", "bulla-audience", "bulla-challenge", "signature-input", "signature"];
        let headers = passed.iter().filter_map(|name| {
            head.headers.get(*name).map(|value| ((*name).to_owned(), value.to_str().unwrap().to_owned()))
        });
        let request = Request {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: headers.collect(),
            body,
        };
        if (request.method.as_str(), request.path.as_str()) == ("POST", "/v1/wrap") {
            self.wraps.fetch_add(1, Ordering::SeqCst);
        }
        let mut reply = self.wire.lock().await.send(&request).await;
        let lie = self.lie.lock().unwrap().clone();
        if let Some(lie) = lie.filter(|_| request.path == "/v1/principal/bob" && reply.status == 200) {
            reply.body = json::to_vec(&lie).into();
            let digest = digest_header(&reply.body);
            let parts = ResponseParts {
                status: 200,
                content_type: "application/json",
                content_digest: &digest,
                challenge: reply.header(CHALLENGE_HEADER),
                state: reply.header(STATE_HEADER),
            };
            let answered = Answered::Signed {
                request: RequestParts {
                    method: &request.method,
                    path: &request.path,
                    query: &request.query,
                    content_type: request.header("content-type"),
                    content_digest: request.header(CONTENT_DIGEST_HEADER),
                    audience: request.header("bulla-audience"),
                    challenge: request.header(CHALLENGE_HEADER),
                },
                signature_input: request.header(SIGNATURE_INPUT_HEADER),
                signature: request.header(SIGNATURE_HEADER),
            };
            let signed = sign_response(&parts, &answered, self.node.now_ms() / 1000, &self.node.parts.key).unwrap();
            for (name, value) in [
                (CONTENT_DIGEST_HEADER, digest.clone()),
                (SIGNATURE_INPUT_HEADER, signed.signature_input),
                (SIGNATURE_HEADER, signed.signature),
            ] {
                reply.headers.insert(name, value.parse().unwrap());
            }
        }
        let mut response = Response::new(reply.body);
        *response.status_mut() = reply.status.try_into().unwrap();
        *response.headers_mut() = reply.headers;
        response.headers_mut().remove("content-length");
        response
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_swaps_a_record_is_refused_before_anything_is_encrypted() {
    let world = World::new(Shape::default()).await;
    let (alice, bob, mallory) = (world.admit("alice").await, world.admit("bob").await, world.admit("mallory").await);
    let genuine = world.client(&alice).principal(&name("bob")).await.unwrap();
    let node = world.server().node.clone();
    let liar = Arc::new(Liar {
        node,
        budget: BodyBudget::new(64 << 20),
        wire: tokio::sync::Mutex::new(Wire::new(world.server().ready.address)),
        lie: Mutex::new(None),
        wraps: AtomicUsize::new(0),
    });
    let tls = Tls::open(&bulla_server::config::Tls { files: None, require_pq: false }, None).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let listeners = Listeners { network: Some((listener, tls.config())), local: None };
    let handler: Arc<Liar> = Arc::clone(&liar);
    tokio::spawn(serve(listeners, handler, Arc::new(Metrics::new()), Limits::default(), std::future::pending()));

    let forged = Person::new("bob");
    let forged_record = Record::open(&forged.record, None).unwrap();
    let admission = |signer: &Person, record: &Record| {
        let draft = AdmissionDraft { serial: world.server().node.now_ms(), ..AdmissionDraft::default() };
        let payload = draft.payload(&view(&world), record);
        Some(evidence::sign_in_memory(&payload, &[signer.identity.signing_key().unwrap()]).unwrap())
    };
    let mallory_told = world.client(&alice).principal(&name("mallory")).await.unwrap();
    let swapped = |records: Vec<_>, admission| api::Principal {
        id: forged_record.principal(),
        records,
        admission,
        ..genuine.clone()
    };
    let lies = [
        ("under the genuine admission", swapped(vec![forged.record.clone()], genuine.admission.clone())),
        ("under the forger's own", swapped(vec![forged.record.clone()], admission(&forged, &forged_record))),
        ("under that of no enroller", swapped(vec![forged.record.clone()], admission(&mallory, &forged_record))),
        ("under none", swapped(vec![forged.record.clone()], None)),
        (
            "as a next version",
            swapped(vec![genuine.records[0].clone(), forged.record.clone()], genuine.admission.clone()),
        ),
        ("by another's whole record", api::Principal { name: name("bob"), ..mallory_told }),
    ];
    for (how, lie) in lies {
        *liar.lie.lock().unwrap() = Some(lie);
        let client = alice.client(&address, Pin::Cluster(world.cluster));
        let error = client.resolve("bob").await.expect_err(how);
        assert!(matches!(error, ClientError::Untrusted(_) | ClientError::Known(_)), "{how}: {error}");
    }
    // One who saw Bob before does not take back an older generation of him.
    *liar.lie.lock().unwrap() = None;
    let client = alice.client(&address, Pin::Cluster(world.cluster));
    let bob_before = client.resolve("bob").await.unwrap();
    rotate(&world, &bob).await;
    assert_eq!(client.resolve("bob").await.unwrap().record().version(), 2);
    *liar.lie.lock().unwrap() = Some(genuine);
    let error = client.resolve("bob").await.expect_err("an older generation");
    assert!(matches!(error, ClientError::Known(_) | ClientError::Untrusted(_)), "{error}");
    assert_eq!(liar.wraps.load(Ordering::SeqCst), 0, "nothing was sent");
    *liar.lie.lock().unwrap() = None;
    let now = client.resolve("bob").await.unwrap();
    assert_ne!(now.record().digest(), bob_before.record().digest());
    client.wrap_create(Outgoing::new(vec![now], 60), content(b"x".to_vec())).await.unwrap();
    assert_eq!(liar.wraps.load(Ordering::SeqCst), 1);
    finish(world).await;
}

/// Gives somebody a new key; the client of the old one makes the record.
async fn rotate(world: &World, person: &Person) -> Identity {
    let client: Client = world.client(person);
    let new = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
    let key = PrincipalKey {
        public: new.signing_key().unwrap().public_key().clone(),
        recipients: new.recipients().to_vec(),
        dual_use: false,
    };
    let signer: &dyn Signer = &new;
    let next = client.rotate(&[key], &[signer]).await.unwrap();
    world.client(&world.admins[0]).admit(&next, Admit::default()).await.unwrap();
    new
}

/// A key with as many recipients as one may have.
fn wide_key(signing: &Identity, opening: &[Identity]) -> PrincipalKey {
    let recipients = opening.iter().flat_map(|identity| identity.recipients().to_vec()).collect();
    PrincipalKey { public: signing.signing_key().unwrap().public_key().clone(), recipients, dual_use: false }
}

fn opening_keys() -> Vec<Identity> {
    (0..8).map(|_| Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap()).collect()
}

/// All records of a principal lie in one row; when it is full that is said, and everything else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_records_has_an_end_that_is_told() {
    let world = World::new(Shape::durable()).await;
    let admin = world.client(&world.admins[0]);
    let opening = opening_keys();
    let mut bob = world.admit("bob").await;
    let mut versions = 1;
    let error = loop {
        let new = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        let signer: &dyn Signer = &new;
        let next = world.client(&bob).rotate(&[wide_key(&new, &opening)], &[signer]).await.unwrap();
        match admin.admit(&next, Admit::default()).await {
            Ok(_) => bob = Person { name: name("bob"), identity: Arc::new(new), record: next },
            Err(error) => break error,
        }
        versions += 1;
        assert!(versions < 60, "it never ends");
    };
    assert_eq!(error.code(), Some(Code::TooLarge), "{error}");
    assert!(error.hint().contains("new principal"), "{}", error.hint());
    assert_eq!(world.client(&bob).whoami().await.unwrap().principal.version, versions);
    admin.principal_disable(&name("bob")).await.unwrap();
    admin.principal_enable(&name("bob")).await.unwrap();
    world.client(&bob).whoami().await.unwrap();
    finish(world).await;
}

/// More documents than one answer may hold, each as large as documents are.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_documents_are_read_in_pages() {
    let world = World::new(Shape::default()).await;
    let admin = world.client(&world.admins[0]);
    let key = world.admins[0].identity.signing_key().unwrap();
    let mut enrollers = Vec::new();
    for at in 0..8 {
        let (signing, opening) = (Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap(), opening_keys());
        let payload = evidence::record_payload(name(&format!("enroller{at}")), None, &[wide_key(&signing, &opening)]);
        let record = evidence::sign_in_memory(&payload.unwrap(), &[signing.signing_key().unwrap()]).unwrap();
        admin.admit(&record, Admit::default()).await.unwrap();
        enrollers.push(Record::open(&record, None).unwrap());
    }
    let mut draft = DocumentDraft::of(admin.view().await.unwrap().newest());
    draft.enrollers.extend(enrollers.iter().map(Record::principal));
    draft.records.extend(enrollers);
    let mut bytes = 0;
    while bytes <= 13 * 1024 * 1024 {
        let document = admin.view().await.unwrap().next_document(&draft).unwrap();
        let envelope = evidence::sign_in_memory(&document, &[key]).unwrap();
        bytes += json::to_vec(&envelope).len();
        admin.document_put(envelope).await.unwrap();
    }
    let newest = admin.view().await.unwrap().newest().number();
    assert!(newest > 40, "{newest} documents");
    // Somebody who knows none of them.
    assert_eq!(world.client(&world.admins[0]).cluster().await.unwrap().view.newest().number(), newest);
    finish(world).await;
}
