//! Stored secrets through the real server: what survives a restart, ends by the sweep, and is told to whom.

use crate::cases::{open_all, parcel};
use crate::support::{Caller, finish, lines, rows};
use bulla_client::{ClientError, MemoryOutput, Outgoing, SealTerms};
use bulla_core::action::{Action, Resource};
use bulla_core::audit::{Body, Filter, Line};
use bulla_crypto::evidence::{Record, Standing};
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{DestroyKv, Kv, KvState, KvVersions, PatchKv, PutKv, PutPolicy, SetKvSettings};
use bulla_wire::encoding::Base64;
use bulla_wire::error::Code;
use bulla_wire::id::PrincipalId;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::kv::KvContent;
use bulla_wire::name::SecretPath;
use bulla_wire::signature::JSON_MEDIA_TYPE;
use bulla_wire::wrap::PARCEL_MEDIA_TYPE;
use std::time::Duration;

fn path(text: &str) -> SecretPath {
    text.parse().unwrap()
}

fn fields(fields: &[(&str, &str)]) -> StrictMap<String> {
    StrictMap(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

async fn permit(world: &World, name: &str, text: &str) {
    let body = PutPolicy { text: text.to_owned(), replaces: None };
    world.client(&world.admins[0]).policy_put(&name.parse().unwrap(), &body).await.unwrap();
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, code: Code) {
    let error = result.expect_err("refused");
    assert_eq!(error.code(), Some(code), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_settings_outlive_a_restart() {
    let mut world = World::new(Shape::durable()).await;
    permit(&world, "kv", "permit (principal, action in Bulla::Action::\"kv\", resource);").await;
    let person = world.admit("alice").await;
    let alice = world.client(&person);
    let at = path("app/db");
    alice.kv_put(&at, &PutKv::fields(fields(&[("user", "app"), ("password", "1")]))).await.unwrap();
    let data = StrictMap([("password".to_owned(), Some("2".to_owned())), ("user".to_owned(), None)].into());
    assert_eq!(alice.kv_patch(&at, &PatchKv { data, cas: Some(1), ttl_s: None }).await.unwrap().version, 2);
    alice.kv_put(&at, &PutKv::bytes(b"\0\xff".to_vec())).await.unwrap();
    let custom = StrictMap([("owner".to_owned(), Some("red".to_owned()))].into());
    let settings = SetKvSettings { cas_required: Some(true), custom: Some(custom), ..SetKvSettings::default() };
    alice.kv_configure(&at, &settings).await.unwrap();
    alice.kv_delete(&at, &KvVersions { versions: Some(vec![1]) }).await.unwrap();
    world.stop().await;
    world.start().await;
    world.unseal().await;
    let alice = world.client(&person);
    assert_eq!(alice.kv_get(&at).await.unwrap().bytes, Some(Base64(b"\0\xff".to_vec())));
    assert_eq!(alice.kv_get_version(&at, 2).await.unwrap().data, Some(fields(&[("password", "2")])));
    refused(alice.kv_get_version(&at, 1).await, Code::Deleted);
    refused(alice.kv_put(&at, &PutKv::bytes(vec![1])).await, Code::CasRequired);
    let by = Record::open(&person.record, None).unwrap().principal();
    let known = alice.kv_undelete(&at, &KvVersions { versions: Some(vec![1]) }).await.unwrap();
    assert_eq!(known.settings.custom, fields(&[("owner", "red")]));
    assert!(known.versions.iter().all(|version| version.state == KvState::Live && version.by == by));
    assert_eq!(alice.kv_get_version(&at, 1).await.unwrap().version, 1);
    alice.kv_destroy(&at, &DestroyKv { versions: None, all: true }).await.unwrap();
    refused(alice.kv_get(&at).await, Code::NotFound);
    assert!(alice.kv_list(None, None, None).await.unwrap().names.is_empty());
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_expires_leaves_nothing() {
    let world = World::new(Shape::durable()).await;
    permit(&world, "kv", "permit (principal, action in Bulla::Action::\"kv\", resource);").await;
    let person = world.admit("alice").await;
    let alice = world.client(&person);
    let (before, at) = (rows(&world).await.len(), path("short"));
    alice.kv_put(&at, &PutKv { ttl_s: Some(1), ..PutKv::bytes(b"x".to_vec()) }).await.unwrap();
    // What is known of it, its content, and when it is due.
    assert!(rows(&world).await.len() >= before + 3);
    let mut waited = 0;
    while alice.kv_metadata(&at).await.unwrap().versions[0].state != KvState::Expired {
        waited += 1;
        assert!(waited < 100, "the sweep does not come by");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused(alice.kv_get(&at).await, Code::Expired);
    alice.kv_destroy(&at, &DestroyKv { versions: None, all: true }).await.unwrap();
    assert_eq!(rows(&world).await.len(), before + 2, "the nonces of a put and of a destruction");
    finish(world).await;
}

/// Each verb is a right of its own: whoever writes need not read, whoever looks at the history sees no value.
#[tokio::test(flavor = "multi_thread")]
async fn each_verb_is_a_right_of_its_own() {
    let world = World::new(Shape::durable()).await;
    let at = path("app/db");
    let verbs = ["put", "get", "inspect", "configure", "delete", "undelete", "destroy", "watch"];
    let mut people = Vec::new();
    for verb in verbs {
        let person = Person::new(verb);
        world.admit_person(&person, &[verb]).await;
        let text = format!(
            "permit (principal in Bulla::Group::\"{verb}\", action == Bulla::Action::\"kv.{verb}\", resource == \
             Bulla::Kv::\"app/db\");"
        );
        permit(&world, verb, &text).await;
        people.push(world.client(&person));
    }
    people[0].kv_put(&at, &PutKv::fields(fields(&[("password", "hunter2")]))).await.unwrap();
    for (verb, client) in verbs.iter().zip(&people) {
        let allowed = |name: &str| if *verb == name { None } else { Some(Code::Denied) };
        let code = |result: Result<(), ClientError>| result.err().and_then(|error| error.code());
        let (versions, none) = (KvVersions::default(), SetKvSettings::default());
        let patch = PatchKv { data: StrictMap([("a".to_owned(), None)].into()), cas: None, ttl_s: None };
        assert_eq!(code(client.kv_patch(&at, &patch).await.map(drop)), allowed("put"), "{verb}");
        assert_eq!(code(client.kv_get(&at).await.map(drop)), allowed("get"), "{verb}");
        assert_eq!(code(client.kv_watch(&at, None, Duration::ZERO).await.map(drop)), allowed("watch"), "{verb}");
        assert_eq!(code(client.kv_metadata(&at).await.map(drop)), allowed("inspect"), "{verb}");
        assert_eq!(code(client.kv_configure(&at, &none).await.map(drop)), allowed("configure"), "{verb}");
        assert_eq!(code(client.kv_undelete(&at, &versions).await.map(drop)), allowed("undelete"), "{verb}");
    }
    let shown = people[2].kv_metadata(&at).await.unwrap();
    assert!(!String::from_utf8(json::to_vec(&shown)).unwrap().contains("hunter2"));
    people[4].kv_delete(&at, &KvVersions::default()).await.unwrap();
    refused(people[1].kv_get(&at).await, Code::Deleted);
    people[5].kv_undelete(&at, &KvVersions::default()).await.unwrap();
    people[6].kv_destroy(&at, &DestroyKv { versions: None, all: true }).await.unwrap();
    refused(people[1].kv_get(&at).await, Code::NotFound);
    finish(world).await;
}

/// A value that comes in clear is refused: a proxy that ends TLS would have seen it. What is wrong within an encrypted
/// one is told without repeating it.
#[tokio::test(flavor = "multi_thread")]
async fn values_come_encrypted_only() {
    let world = World::new(Shape::default()).await;
    permit(&world, "kv", "permit (principal, action in Bulla::Action::\"kv\", resource);").await;
    let person = world.admit("alice").await;
    let mut alice = Caller::new(&world, &person).await;
    let before = rows(&world).await;
    let clear = json::to_vec(&PutKv::fields(fields(&[("password", "hunter2")])));
    for method in ["PUT", "PATCH"] {
        let nonce = alice.nonce();
        let request = alice.request(method, "/v1/kv/app/db", JSON_MEDIA_TYPE, clear.clone(), nonce);
        alice.send(&request).await.refused(Code::WrongMediaType);
        for (bad, field) in [
            (&b"{\"data\":{\"password\":7777}}"[..], "data"),
            (b"{\"bytes\":\"hunter2\"}", "bytes"),
            (b"{\"data\":{},\"ttl_s\":-1}", "ttl_s"),
            (b"{\"hunter2\":{}}", "."),
        ] {
            if method == "PATCH" && field == "bytes" {
                continue;
            }
            let nonce = alice.nonce();
            let body = alice.ingress(&world, method, "/v1/kv/app/db", &nonce, bad);
            let request = alice.request(method, "/v1/kv/app/db", "application/age", body, nonce);
            let answer = alice.send(&request).await.refused(Code::Malformed);
            let error = answer.error().unwrap();
            assert_eq!(error.field.as_deref(), Some(field));
            assert!(!error.message.contains("hunter2") && !error.message.contains("7777"), "{}", error.message);
        }
    }
    assert_eq!(rows(&world).await, before, "nothing was written");
    finish(world).await;
}

/// The server has nothing that opens what is sealed to readers, and whatever else it shows them is refused.
#[tokio::test(flavor = "multi_thread")]
async fn sealed_secrets_are_read_by_their_readers_alone() {
    let world = World::new(Shape::durable()).await;
    permit(&world, "kv", "permit (principal, action in Bulla::Action::\"kv\", resource);").await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let carol = world.admit("carol").await;
    let [alice, bob, carol] = [&alice, &bob, &carol].map(|person| world.client(person));
    let (at, other) = (path("app/root"), path("app/other"));
    let content = |text: &str| KvContent { data: Some(fields(&[("password", text)])), bytes: None };
    let to = [alice.resolve("alice").await.unwrap(), alice.resolve("bob").await.unwrap()];
    alice.kv_put_sealed(&at, 0, &to, &content("hunter2"), SealTerms::default()).await.unwrap();
    let first = bob.kv_get(&at).await.unwrap();
    let opened = bob.kv_open(&first).await.unwrap().unwrap();
    assert_eq!((opened.content, opened.writer.name().as_str()), (content("hunter2"), "alice"));
    let theirs = carol.kv_get(&at).await.unwrap();
    let refused_to_open = carol.kv_open(&theirs).await.unwrap_err();
    assert!(refused_to_open.to_string().contains("not sealed to you"), "{refused_to_open}");
    // Whoever reads can seal it anew, to others.
    let to = [bob.resolve("bob").await.unwrap(), bob.resolve("carol").await.unwrap()];
    bob.kv_put_sealed(&at, 1, &to, &content("hunter3"), SealTerms::default()).await.unwrap();
    refused(alice.kv_put_sealed(&at, 1, &to, &content("late"), SealTerms::default()).await, Code::VersionMismatch);
    let second = carol.kv_get(&at).await.unwrap();
    assert_eq!(carol.kv_open(&second).await.unwrap().unwrap().content, content("hunter3"));
    assert!(alice.kv_open(&alice.kv_get(&at).await.unwrap()).await.is_err(), "no reader any more");
    // A secret that demands it wants to hear which version its writer saw: the number in the statement may be looked up.
    let demand = SetKvSettings { cas_required: Some(true), ..SetKvSettings::default() };
    alice.kv_configure(&at, &demand).await.unwrap();
    refused(bob.kv_put_sealed(&at, 2, &to, &content("hunter3"), SealTerms::default()).await, Code::CasRequired);
    // What is too large, or has a name that no field may have, is told in the writer's own terms.
    let large = |bytes: usize| KvContent { data: None, bytes: Some(Base64(vec![7; bytes])) };
    let terms = SealTerms { cas: Some(2), ..SealTerms::default() };
    let error = bob.kv_put_sealed(&at, 2, &to, &large(180_000), terms).await.unwrap_err().to_string();
    let fit = error.split(' ').find_map(|word| word.parse::<usize>().ok()).unwrap();
    assert!((140_000..147_000).contains(&fit) && error.ends_with("the bytes are 180000"), "{error}");
    let odd = KvContent { data: Some(fields(&[("a=b", "x")])), bytes: None };
    assert!(bob.kv_put_sealed(&at, 2, &to, &odd, terms).await.is_err());
    bob.kv_put_sealed(&at, 2, &to, &large(fit), terms).await.unwrap();
    // What a server could show instead: another place, another version, another file, another writer.
    alice
        .kv_put_sealed(&other, 0, &[alice.resolve("bob").await.unwrap()], &content("x"), SealTerms::default())
        .await
        .unwrap();
    let elsewhere = bob.kv_get(&other).await.unwrap();
    let file = elsewhere.sealed.clone().unwrap().file;
    let mut swapped = first.clone();
    swapped.sealed.as_mut().unwrap().file = file;
    for shown in [
        Kv { path: at.clone(), ..elsewhere.clone() },
        Kv { version: 2, ..first.clone() },
        Kv { by: second.by, ..first.clone() },
        swapped,
    ] {
        let error = bob.kv_open(&shown).await.unwrap_err();
        assert!(matches!(error, ClientError::Untrusted(_) | ClientError::Tampered { .. }), "{error:?}");
    }
    finish(world).await;
}

/// The caller gets what goes to somebody else, cannot open it, and cannot say that it is from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_to_somebody_else_unseen() {
    let world = World::new(Shape::default()).await;
    permit(
        &world,
        "kv",
        "permit (principal, action in Bulla::Action::\"kv\", resource) when { principal.name == \"alice\" };",
    )
    .await;
    let (alice_person, bob_person) = (world.admit("alice").await, world.admit("bob").await);
    let (alice, bob) = (world.client(&alice_person), world.client(&bob_person));
    let at = path("app/db");
    alice.kv_put(&at, &PutKv::fields(fields(&[("password", "1")]))).await.unwrap();
    alice.kv_put(&at, &PutKv::fields(fields(&[("password", "2")]))).await.unwrap();
    alice.kv_put(&path("app/key"), &PutKv::bytes(b"\0\xff".to_vec())).await.unwrap();
    let to = || async { Outgoing::new(vec![alice.resolve("bob").await.unwrap()], 60) };

    let made = alice.kv_get_to(&at, Some(1), to().await).await.unwrap();
    let inspected = alice.wrap_inspect(&made.slip).await.unwrap();
    let origin = inspected.origin.unwrap();
    assert_eq!((origin.origin.action.as_str(), origin.origin.resource.as_str()), ("kv.get", "kv/app/db"));
    assert_eq!(origin.standing, Standing::Valid);
    let mut output = MemoryOutput::new();
    assert!(alice.wrap_open(&made.slip, &mut output).await.is_err(), "it is not for her");
    let opened = bob.wrap_open(&made.slip, &mut output).await.unwrap();
    assert_eq!(output.content(), br#"{"password":"1"}"#);
    assert_eq!(opened.origin.unwrap().origin.resource, "kv/app/db");
    let bytes = alice.kv_get_to(&path("app/key"), None, to().await).await.unwrap();
    assert_eq!(open_all(&bob, &bytes.slip).await, b"\0\xff");

    // The audit log says whose the answer was, and finds it by either.
    let reader = bob.resolve("bob").await.unwrap().principal();
    let (by_wrap, by_reader) =
        (Filter::default().resource(&Resource::Wrap(made.slip.wrap), []), Filter::default().principal(reader));
    let told = lines(&world).await.into_iter().filter(|line| by_wrap.matches(line) && by_reader.matches(line));
    let told: Vec<_> = told.filter(|line| Filter::default().action(Action::KvGet).matches(line)).collect();
    assert!(
        matches!(told.as_slice(), [Line { body: Body::Request(request), .. }] if request.wrap_to.is_some()),
        "{told:?}"
    );

    // Who may not read may not have it read, and learns nothing of whoever is named.
    let mut caller = Caller::new(&world, &bob_person).await;
    for named in ["bob", "eve"] {
        let query = format!("wrap=aaaaaaaaaaaaaaaaaaaaaaaaaa&wrap_to={named}");
        caller.call("GET", &format!("/v1/kv/app/db?{query}")).await.refused(Code::Denied);
    }
    refused(bob.kv_get_to(&at, None, Outgoing::new(vec![bob.resolve("bob").await.unwrap()], 60)).await, Code::Denied);
    // What only its readers can read goes to nobody else.
    let (bob_found, alice_found) = (alice.resolve("bob").await.unwrap(), alice.resolve("alice").await.unwrap());
    let content = KvContent { data: Some(fields(&[("a", "b")])), bytes: None };
    alice.kv_put_sealed(&path("app/root"), 0, &[alice_found], &content, SealTerms::default()).await.unwrap();
    refused(alice.kv_get_to(&path("app/root"), None, Outgoing::new(vec![bob_found], 60)).await, Code::Malformed);
    // Half a question, and nobody.
    let mut caller = Caller::new(&world, &alice_person).await;
    for (query, field, code) in [
        ("wrap_to=bob", "wrap_to", Code::Malformed),
        ("wrap=aaaaaaaaaaaaaaaaaaaaaaaaaa", "wrap_to", Code::Malformed),
        ("wrap=short&wrap_to=bob", "wrap", Code::Malformed),
        ("wrap=aaaaaaaaaaaaaaaaaaaaaaaaaa&wrap_to=eve", "wrap_to", Code::UnknownRecipient),
    ] {
        let error = caller.call("GET", &format!("/v1/kv/app/db?{query}")).await.refused(code).error().unwrap();
        assert_eq!(error.field.as_deref(), Some(field), "{query}");
        assert!(error.hint.is_some());
    }
    // An origin of one wrap under another.
    let stolen = inspected.statement.statement.origin.unwrap();
    let (body, _) = parcel(&world, &alice_person, &[&bob_person], |statement| statement.origin = Some(stolen));
    let request = caller.request("POST", "/v1/wrap", PARCEL_MEDIA_TYPE, body, caller.nonce());
    let error = caller.send(&request).await.refused(Code::BadStatement).error().unwrap();
    assert_eq!(error.field.as_deref(), Some("origin.wrap"));
    finish(world).await;
}

/// A listing waits for its turn, and nobody who comes with many keeps the others from single secrets.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_read_a_few_at_once() {
    let world = World::new(Shape::default()).await;
    permit(&world, "kv", "permit (principal, action in Bulla::Action::\"kv\", resource);").await;
    let person = world.admit("alice").await;
    let alice = world.client(&person);
    alice.kv_put(&path("app/db"), &PutKv::fields(fields(&[("user", "app")]))).await.unwrap();
    let mut caller = Caller::new(&world, &person).await;
    let unsealed = crate::support::unsealed(&world);
    let other = PrincipalId::new([7; 32]);
    let mut turns = vec![];
    let third = PrincipalId::new([8; 32]);
    for who in [other, third] {
        while let Some(turn) = unsealed.pages.turn(who, tokio::time::Instant::now()).await {
            turns.push(turn);
        }
    }
    assert_eq!(turns.len(), 8, "so few that the largest pages fit");
    let told = caller.call("GET", "/v1/kv/app:list").await.refused(Code::Overloaded).error().unwrap();
    assert!(told.message.contains("wait for their turn"), "{}", told.message);
    caller.call("GET", "/v1/kv/app/db").await.ok();
    turns.pop();
    for _ in 0..3 {
        caller.call("GET", "/v1/kv/app:list").await.ok();
    }
    drop(turns);
    finish(world).await;
}

/// An answer that finds no memory is refused before anything is said to be done.
#[tokio::test(flavor = "multi_thread")]
async fn large_secrets_have_their_share_of_memory() {
    let world = World::new(Shape::durable()).await;
    permit(&world, "kv", "permit (principal, action in Bulla::Action::\"kv\", resource);").await;
    let person = world.admit("alice").await;
    let len = 40_000;
    world.client(&person).kv_put(&path("app/db"), &PutKv::bytes(vec![7; len])).await.unwrap();
    let mut caller = Caller::new(&world, &person).await;
    let node = world.server().node.clone();
    let bodies = &node.parts.bodies;
    let all = bodies.free_bytes();
    let others = bodies.hold(all - 2 * len).unwrap();
    let before = lines(&world).await.len();
    caller.call("GET", "/v1/kv/app/db").await.refused(Code::Overloaded);
    let told = lines(&world).await.split_off(before).into_iter().find_map(|line| match line.body {
        Body::Request(line) => line.outcome.code,
        _ => None,
    });
    assert_eq!(told, Some(Code::Overloaded), "it was not read");
    drop(others);
    assert!(caller.call("GET", "/v1/kv/app/db").await.ok().body.len() > len);
    finish(world).await;
}
