//! The seal: shares, load, restarts, and a store that lost commits.

use crate::cases::{Cast, claim, open_all, open_body, share};
use crate::rekey;
use crate::support::{Caller, finish, finish_with_a_later_log, lines, open};
use bulla_client::{Admit, Client, ClientError, Outgoing, StateError, Unseal, content};
use bulla_core::audit::Body;
use bulla_core::record::{Answer, Batch, Read, SealedValue, StoreKey, Table};
use bulla_core::seal::row;
use bulla_crypto::dsse;
use bulla_crypto::evidence::{self, ClusterView};
use bulla_crypto::random::SystemRng;
use bulla_store::{OnFatal, Store};
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{self, SealState, SlotState};
use bulla_wire::error::Code;
use bulla_wire::evidence::{Bytes, Consent, SealMode};
use bulla_wire::wrap::Slip;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn quorum() -> Shape {
    Shape { mode: SealMode::Quorum, k: 2, n: 3, ..Shape::durable() }
}

async fn give(world: &World, admin: &Person) -> api::ShareGiven {
    let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
    world.client(admin).unseal(&Unseal { approve, danger_older_epoch: false }).await.unwrap().given
}

/// A client that remembers in this folder.
fn remembering(world: &World, person: &Person, folder: &Path) -> Client {
    Client::builder(world.address())
        .identity(person.identity.clone())
        .pin(bulla_client::Pin::Cluster(world.cluster))
        .state(bulla_client::State::Directory(folder.to_owned()))
        .build()
        .unwrap()
}

async fn health(world: &World) -> api::Health {
    world.client(&world.admins[0]).health().await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn any_two_of_three_open_it_and_one_does_not() {
    let mut world = World::sealed(quorum()).await;
    for (first, second) in [(0, 1), (1, 2), (2, 0)] {
        let one = give(&world, &world.admins[first]).await;
        assert_eq!((one.state, one.progress.have, one.progress.need), (SealState::Sealed, 1, 2));
        // The same share again is no second one.
        let again = give(&world, &world.admins[first]).await;
        assert_eq!((again.state, again.progress.have), (SealState::Sealed, 1));
        assert_eq!(health(&world).await.unseal.unwrap().have, 1);
        let two = give(&world, &world.admins[second]).await;
        assert_eq!(two.state, SealState::Unsealed);
        let epoch = world.client(&world.admins[0]).seal_status().await.unwrap().epoch;
        world.stop().await;
        world.start().await;
        let sealed = world.client(&world.admins[0]).seal_status().await.unwrap();
        assert_eq!((sealed.state, sealed.epoch), (SealState::Sealed, epoch), "sealed after a restart, at its epoch");
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_share_is_named_and_harms_nobody() {
    let world = World::sealed(quorum()).await;
    let mut one = Caller::new(&world, &world.admins[0]).await;
    let mut two = Caller::new(&world, &world.admins[1]).await;
    let mut nobody = Caller::new(&world, &Person::new("nobody")).await;
    let session: api::UnsealSession = one.call("POST", "/v1/seal/session").await.ok().json();
    nobody.call("POST", "/v1/seal/session").await.refused(Code::Unauthenticated);
    let path = format!("/v1/seal/session/{}", session.id);
    let key: api::EncryptedShareKey = one.call("GET", &format!("{path}/key")).await.ok().json();
    let good = share(&world, &world.admins[0], &session, &key);
    one.call_json("POST", &format!("{path}/share"), &good).await.ok();

    let key: api::EncryptedShareKey = two.call("GET", &format!("{path}/key")).await.ok().json();
    assert_eq!(key.index, 1);
    let own = share(&world, &world.admins[1], &session, &key);
    let recipient = session.recipient.parse().unwrap();
    let garbage = bulla_crypto::envelope::seal(&[recipient], None, &[0; 64]).unwrap();
    let to_nobody = bulla_crypto::envelope::seal(claim().recipients(), None, &[0; 64]).unwrap();
    for file in [vec![], b"age".to_vec(), garbage, to_nobody, good.file.0.clone(), vec![0; 1 << 16]] {
        let bad = api::GiveShare { file: Bytes(file), ..own.clone() };
        let error =
            two.call_json("POST", &format!("{path}/share"), &bad).await.refused(Code::BadShare).error().unwrap();
        let id = evidence::payload_digest(&world.admins[1].record).to_string();
        assert!(error.message.contains(&id), "it names who gave it: {}", error.message);
        assert!(error.hint.is_some());
    }
    let theirs = api::GiveShare { index: 0, ..own.clone() };
    two.call_json("POST", &format!("{path}/share"), &theirs).await.refused(Code::NotAdmin);
    let unapproved = api::GiveShare { approval: None, ..own.clone() };
    two.call_json("POST", &format!("{path}/share"), &unapproved).await.refused(Code::BadStatement);
    let forged = api::GiveShare { approval: good.approval.clone(), ..own.clone() };
    two.call_json("POST", &format!("{path}/share"), &forged).await.refused(Code::BadStatement);
    let elsewhere = format!("/v1/seal/session/{}/share", "a".repeat(26));
    two.call_json("POST", &elsewhere, &own).await.refused(Code::UnknownSession);
    assert_eq!(health(&world).await.unseal.unwrap().have, 1, "the good one stays");
    let alarms = lines(&world).await.into_iter().filter(|line| match &line.body {
        Body::Alarm { alarm, .. } => alarm.as_str() == "bad_share",
        _ => false,
    });
    assert_eq!(alarms.count(), 6);
    let given: api::ShareGiven = two.call_json("POST", &format!("{path}/share"), &own).await.ok().json();
    assert_eq!(given.state, SealState::Unsealed);
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end() {
    let world = World::sealed(quorum()).await;
    let mut one = Caller::new(&world, &world.admins[0]).await;
    let session: api::UnsealSession = one.call("POST", "/v1/seal/session").await.ok().json();
    let path = format!("/v1/seal/session/{}", session.id);
    let key: api::EncryptedShareKey = one.call("GET", &format!("{path}/key")).await.ok().json();
    let body = share(&world, &world.admins[0], &session, &key);
    one.call_json("POST", &format!("{path}/share"), &body).await.ok();
    let left = session.expires_ms - world.server().node.now_ms();
    world.clock.pass(left + 1000);
    one.call("GET", "/v1/seal").await;
    one.call_json("POST", &format!("{path}/share"), &body).await.refused(Code::UnknownSession);
    assert!(health(&world).await.unseal.is_none(), "what was given is forgotten");
    world.unseal().await;
    finish(world).await;
}

/// What each phase says to what it does not do.
#[tokio::test(flavor = "multi_thread")]
async fn every_phase_refuses_what_is_not_its_own() {
    let world = World::sealed(Shape::durable()).await;
    let mut admin = Caller::new(&world, &world.admins[0]).await;
    for route in bulla_server::route::ROUTES {
        use bulla_server::route::Auth;
        let Auth::Policy(_) = route.auth else { continue };
        // A document enters while sealed too.
        if bulla_server::sealed::also_takes(route.endpoint) {
            continue;
        }
        let id = "a".repeat(26);
        let names = route.template.replace("{name}", "x").replace("{path}", "x").replace("{role}", "x/x");
        let path = names.replace("{id}", &id).replace("{lease}", &id);
        let request = admin.request(route.method, &path, route.request.media_type(), vec![], admin.nonce());
        let reply = admin.send(&request).await.refused(Code::Sealed);
        assert!(reply.error().unwrap().hint.is_some());
    }
    assert_eq!(admin.send(&open("GET", "/v1/health")).await.status, 503);
    world.unseal().await;
    admin.send(&open("POST", "/v1/challenge")).await.ok();
    admin.call("POST", "/v1/seal/session").await.refused(Code::NotSealed);
    admin.call("GET", &format!("/v1/seal/session/{}/key", "a".repeat(26))).await.refused(Code::NotSealed);
    assert_eq!(admin.send(&open("GET", "/v1/health")).await.status, 200);
    world.client(&world.admins[0]).seal().await.unwrap();
    assert_eq!(health(&world).await.state, SealState::Sealed);
    world.unseal().await;
    finish(world).await;
}

/// A load balancer looks at the status only, and may choose what each state says to it.
#[tokio::test(flavor = "multi_thread")]
async fn health_codes_are_chosen_strictly() {
    let world = World::sealed(Shape::durable()).await;
    let mut anyone = Caller::new(&world, &world.admins[0]).await;
    let ask = |query: &str| {
        let mut request = open("GET", "/v1/health");
        request.query = query.to_owned();
        request
    };
    let chosen = "sealedcode=299&activecode=222&uninitcode=599";
    for (query, status) in [("", 503), ("sealedcode=200", 200), ("activecode=222", 503), (chosen, 299)] {
        let reply = anyone.send(&ask(query)).await;
        assert_eq!((reply.status, reply.json::<api::Health>().state), (status, SealState::Sealed), "{query}");
    }
    world.unseal().await;
    for (query, status) in [("", 200), ("sealedcode=299", 200), (chosen, 222)] {
        let reply = anyone.send(&ask(query)).await;
        assert_eq!((reply.status, reply.json::<api::Health>().state), (status, SealState::Unsealed), "{query}");
    }
    for bad in ["199", "600", "+200", "0200", "2e2", "200.0", "ok"] {
        for name in ["sealedcode", "activecode", "uninitcode"] {
            let error = anyone.send(&ask(&format!("{name}={bad}"))).await.refused(Code::Malformed).error().unwrap();
            assert_eq!(error.field.as_deref(), Some(name), "{bad}");
        }
    }
    anyone.send(&ask("standbyok=true")).await.refused(Code::Malformed);
    finish(world).await;
}

/// Whatever is under way when the keys go either happened whole or not at all, and an answer never lies about it.
#[tokio::test(flavor = "multi_thread")]
async fn sealing_under_load_loses_nothing() {
    let mut world = World::new(Shape::durable()).await;
    let mut people = Vec::new();
    for number in 0..4 {
        people.push(world.admit(&format!("writer{number}")).await);
    }
    let bob = world.admit("bob").await;
    let (go_on, made) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let mut running = Vec::new();
    for person in &people {
        let client: Client = world.client(person);
        let to = client.resolve("bob").await.unwrap();
        let (go_on, made) = (go_on.clone(), made.clone());
        running.push(tokio::spawn(async move {
            let mut slips = Vec::new();
            while go_on.load(Ordering::SeqCst) {
                let outgoing = Outgoing::new(vec![to.clone()], 3600);
                if let Ok(wrapped) = client.wrap_create(outgoing, content(b"x".to_vec())).await {
                    slips.push(wrapped.slip);
                    made.fetch_add(1, Ordering::SeqCst);
                }
            }
            slips
        }));
    }
    let admin = world.client(&world.admins[0]);
    for round in 1..=5 {
        while made.load(Ordering::SeqCst) < 20 * round {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        admin.seal().await.unwrap();
        assert_eq!(health(&world).await.state, SealState::Sealed);
        world.unseal().await;
    }
    go_on.store(false, Ordering::SeqCst);
    let mut slips = Vec::new();
    for task in running {
        slips.extend(task.await.unwrap());
    }
    world.stop().await;
    world.start().await;
    world.unseal().await;
    let bob = world.client(&bob);
    assert!(slips.len() >= 100);
    for slip in &slips {
        assert_eq!(open_all(&bob, slip).await, b"x", "acknowledged, so it is there");
    }
    finish(world).await;
}

struct Lost {
    world: World,
    before: Vec<Slip>,
}

/// A store that was set back: everything after the copy is lost to it, and the audit log remembers.
async fn set_back() -> Lost {
    let mut world = World::new(quorum()).await;
    let cast = Cast::new(&world).await;
    let before = vec![cast.wrap().await, cast.wrap().await, cast.wrap().await];
    world.stop().await;
    let file = world.data().join("bulla.redb");
    std::fs::copy(&file, world.data().join("copy")).unwrap();
    world.start().await;
    world.unseal().await;
    let bob = world.client(&cast.bob_person);
    assert_eq!(open_all(&bob, &before[0]).await, b"x");
    let admin = world.client(&world.admins[0]);
    admin.principal_disable(&"mallory".parse().unwrap()).await.unwrap();
    admin.policy_delete(&"doomed".parse().unwrap()).await.unwrap();
    let writer = world.client(&cast.alice_person);
    writer.wrap_revoke(&before[1]).await.unwrap();
    world.admit("late").await;
    world.stop().await;
    std::fs::rename(world.data().join("copy"), &file).unwrap();
    world.start().await;
    Lost { world, before }
}

/// The admins' shares; what the last one is told.
async fn shares(world: &World) -> Consent {
    let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
    let mut last = None;
    for admin in &world.admins[..2] {
        let how = Unseal { approve, danger_older_epoch: true };
        last = Some(world.client(admin).unseal(&how).await.unwrap().given);
    }
    let given = last.unwrap();
    assert_eq!(given.state, SealState::Sealed, "it stays sealed");
    given.consent_needed.expect("and asks for consent")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_commits_waits_for_consent() {
    let Lost { world, .. } = set_back().await;
    let consent = shares(&world).await;
    assert!(consent.lost.sequence > consent.kept.sequence || consent.lost.lineage != consent.kept.lineage);
    let mut admin = Caller::new(&world, &world.admins[0]).await;
    let sign = |consent: &Consent, admins: &[usize]| {
        let keys: Vec<_> = admins.iter().map(|at| world.admins[*at].identity.signing_key().unwrap()).collect();
        api::Signed { envelope: evidence::sign_in_memory(consent, &keys).unwrap() }
    };
    // One of two, and two about something else.
    let few = admin.call_json("POST", "/v1/seal:consent", &sign(&consent, &[0])).await;
    assert!(few.status >= 400 && few.to_signed(), "{few:?}");
    let mut other = consent.clone();
    other.lost.sequence += 1;
    let wrong = admin.call_json("POST", "/v1/seal:consent", &sign(&other, &[0, 1])).await;
    assert!(wrong.status >= 400, "{wrong:?}");
    let ahead = Consent { excused_until_ms: Some(u64::MAX), ..consent.clone() };
    let ahead = admin.call_json("POST", "/v1/seal:consent", &sign(&ahead, &[0, 1])).await;
    assert_eq!(ahead.error().unwrap().field.as_deref(), Some("envelope.excused_until_ms"));
    for reply in [few, wrong, ahead] {
        let error = reply.error().unwrap();
        assert_eq!(error.code, Code::BadStatement, "{error:?}");
        assert!(error.hint.is_some());
    }
    assert_eq!(health(&world).await.state, SealState::Sealed);
    // Through the client: one signs, the other adds a signature.
    let mut envelope = world.admins[1].sign(&consent);
    dsse::add_signature(&mut envelope, world.admins[2].identity.signing_key().unwrap()).await.unwrap();
    world.client(&world.admins[1]).consent_send(envelope).await.unwrap();
    assert_eq!(health(&world).await.state, SealState::Unsealed);

    // Who was disabled stays so, what was deleted stays so, and what was opened does not open again.
    let one = world.client(&world.admins[0]);
    let mallory = one.principal(&"mallory".parse().unwrap()).await.unwrap();
    assert!(mallory.disabled);
    assert_eq!(one.policy(&"doomed".parse().unwrap()).await.unwrap_err().code(), Some(Code::NotFound));
    assert_eq!(
        one.principal(&"late".parse().unwrap()).await.unwrap_err().code(),
        Some(Code::NotFound),
        "lost, and not put back"
    );
    let told = one.alarms(None, None, false).await.unwrap().alarms;
    assert!(told.iter().any(|alarm| alarm.kind == api::AlarmKind::StoreRolledBack), "{told:?}");
    let facts: api::Cluster = admin.send(&open("GET", "/v1/cluster")).await.ok().json();
    assert_eq!(facts.consents.len(), 1, "the consent is served");
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_loss_every_wrap_waits_for_its_writer() {
    let mut lost = set_back().await;
    let consent = shares(&lost.world).await;
    let keys: Vec<_> = lost.world.admins[..2].iter().map(|admin| admin.identity.signing_key().unwrap()).collect();
    let envelope = evidence::sign_in_memory(&consent, &keys).unwrap();
    lost.world.client(&lost.world.admins[0]).consent_send(envelope).await.unwrap();
    assert_eq!(lost.before.len(), 3);
    let mut states = Vec::new();
    for slip in &lost.before {
        states.extend(slip_states(&lost.world, slip).await);
    }
    // What the audit log shows as opened ends; what nobody is known to have opened waits.
    assert!(states.iter().all(|state| matches!(state, SlotState::Parked | SlotState::Revoked)), "{states:?}");
    assert!(states.contains(&SlotState::Revoked), "{states:?}");
    lost.world.stop().await;
    lost.world.start().await;
    // The next time nothing is missing any more.
    for admin in &lost.world.admins[..2] {
        let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
        let how = Unseal { approve, danger_older_epoch: false };
        lost.world.client(admin).unseal(&how).await.unwrap();
    }
    assert_eq!(health(&lost.world).await.state, SealState::Unsealed);
    finish(lost.world).await;
}

/// States of a wrap as its writer is told: the writer's key stayed behind with the cast, so the node is asked inside.
async fn slip_states(world: &World, slip: &Slip) -> Vec<SlotState> {
    let unsealed = crate::support::unsealed(world);
    let directory = unsealed.directory();
    let alice = directory.by_name(&"alice".parse().unwrap()).unwrap();
    let actor = bulla_wire::evidence::Actor {
        principal: alice.subject.id,
        key: world.admins[0].identity.signing_key().unwrap().public_key().key_id(),
        address: None,
    };
    let inspect = bulla_core::engine::wrap::Inspect { wrap: slip.wrap };
    let driven = unsealed.drive(world.server().node.machine(), &inspect, Some(&actor), None).await.unwrap();
    let bulla_core::operation::Reply::Json(body) = driven.result.unwrap() else { panic!() };
    let view: api::WrapView = serde_json::from_slice(&body).unwrap();
    view.slots.iter().map(|slot| slot.state).collect()
}

/// The whole way with people whose keys the test holds: parked, released, opened.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_wrap_opens_after_its_release() {
    let mut world = World::new(Shape::durable()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let writer = world.client(&alice);
    let made = world.wrap(&writer, &bob, b"the launch code").await;
    let taken = world.wrap(&writer, &bob, b"another").await;
    let acked = world.wrap(&writer, &bob, b"a third").await;
    world.stop().await;
    let file = world.data().join("bulla.redb");
    std::fs::copy(&file, world.data().join("copy")).unwrap();
    world.start().await;
    world.unseal().await;
    let mut thief = Caller::new(&world, &bob).await;
    thief
        .call_json("POST", &format!("/v1/wrap/{}:open", taken.slip.wrap), &open_body(&taken.slip, &claim()))
        .await
        .ok();
    assert_eq!(open_all(&world.client(&bob), &acked.slip).await, b"a third");
    world.stop().await;
    std::fs::rename(world.data().join("copy"), &file).unwrap();
    world.start().await;
    let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
    let how = Unseal { approve, danger_older_epoch: true };
    let admin = world.client(&world.admins[0]);
    let consent = admin.unseal(&how).await.unwrap().given.consent_needed.unwrap();
    admin.consent_send(world.admins[0].sign(&consent)).await.unwrap();

    // New clients: the old ones remember the history that was lost, and say so.
    let (writer, reader) = (world.client(&alice), world.client(&bob));
    let mut output = bulla_client::MemoryOutput::new();
    let waits = reader.wrap_open(&made.slip, &mut output).await.expect_err("parked");
    assert_eq!(waits.code(), Some(Code::Parked), "{waits}");
    for slip in [&taken.slip, &acked.slip] {
        let gone = reader.wrap_open(slip, &mut output).await.expect_err("opened in the history that was lost");
        assert_eq!(gone.code(), Some(Code::Revoked), "{gone}");
    }
    let not_his = reader.wrap_release(&made.slip).await.expect_err("not his to release");
    assert!(matches!(not_his.code(), Some(Code::NotFound | Code::Denied)), "{not_his}");
    writer.wrap_release(&made.slip).await.unwrap();
    assert_eq!(open_all(&reader, &made.slip).await, b"the launch code");
    finish(world).await;
}

/// Sets the store back to the copy, and unseals it with the admin's consent.
async fn restored(world: &mut World, copy: &str) {
    world.stop().await;
    std::fs::copy(world.data().join(copy), world.data().join("bulla.redb")).unwrap();
    world.start().await;
    let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
    let admin = world.client(&world.admins[0]);
    let given = admin.unseal(&Unseal { approve, danger_older_epoch: true }).await.unwrap().given;
    let consent = given.consent_needed.expect("commits were lost");
    admin.consent_send(world.admins[0].sign(&consent)).await.unwrap();
}

/// Copies the store, and goes on.
async fn copied(world: &mut World, copy: &str) {
    world.stop().await;
    std::fs::copy(world.data().join("bulla.redb"), world.data().join(copy)).unwrap();
    world.start().await;
    world.unseal().await;
}

/// What one restore put back, and people changed since, a second one leaves as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_restore_puts_back_only_what_it_lost() {
    let mut world = World::new(Shape::durable()).await;
    let (bob, doomed, other) = ("bob".parse().unwrap(), "doomed".parse().unwrap(), "other".parse().unwrap());
    world.admit("bob").await;
    world.admit("carol").await;
    let text = "forbid (principal, action, resource in Bulla::Kv::\"never\");".to_owned();
    let put = api::PutPolicy { text, replaces: None };
    let admin = world.client(&world.admins[0]);
    admin.policy_put(&doomed, &put).await.unwrap();
    admin.policy_put(&other, &put).await.unwrap();
    copied(&mut world, "first").await;
    let admin = world.client(&world.admins[0]);
    admin.principal_disable(&bob).await.unwrap();
    admin.policy_delete(&doomed).await.unwrap();
    restored(&mut world, "first").await;
    let admin = world.client(&world.admins[0]);
    assert!(admin.principal(&bob).await.unwrap().disabled);
    assert_eq!(admin.policy(&doomed).await.unwrap_err().code(), Some(Code::NotFound));

    admin.principal_enable(&bob).await.unwrap();
    admin.policy_put(&doomed, &put).await.unwrap();
    copied(&mut world, "second").await;
    let admin = world.client(&world.admins[0]);
    admin.principal_disable(&"carol".parse().unwrap()).await.unwrap();
    admin.policy_delete(&other).await.unwrap();
    restored(&mut world, "second").await;
    let admin = world.client(&world.admins[0]);
    assert!(!admin.principal(&bob).await.unwrap().disabled, "enabled after the first restore");
    assert!(admin.policy(&doomed).await.is_ok(), "put again after the first restore");
    assert!(admin.principal(&"carol".parse().unwrap()).await.unwrap().disabled);
    assert_eq!(admin.policy(&other).await.unwrap_err().code(), Some(Code::NotFound));

    // The first copy again: all that came after it is lost, whichever restore followed.
    restored(&mut world, "first").await;
    let admin = world.client(&world.admins[0]);
    for name in ["bob", "carol"] {
        assert!(admin.principal(&name.parse().unwrap()).await.unwrap().disabled, "{name}");
    }
    finish(world).await;
}

/// Without its audit log a node cannot tell what its store lost: the admins are asked, and every wrap waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_audit_log_needs_consent_too() {
    let mut world = World::new(quorum()).await;
    let cast = Cast::new(&world).await;
    let slip = cast.wrap().await;
    let audit = world.server().node.parts.audit_path.clone().unwrap();
    world.stop().await;
    std::fs::rename(&audit, audit.with_extension("lost")).unwrap();
    assert!(bulla_server::run(&world.config, world.clock.clone()).await.is_err(), "not without being told");
    world.config.accept_audit_loss = true;
    for _ in 0..2 {
        world.start().await;
        let consent = shares(&world).await;
        assert!(consent.is_of_unknown_loss(), "{consent:?}");
        assert_eq!(health(&world).await.state, SealState::Sealed);
        world.stop().await;
    }
    world.start().await;
    let consent = shares(&world).await;
    let keys: Vec<_> = world.admins[..2].iter().map(|admin| admin.identity.signing_key().unwrap()).collect();
    let mut elsewhere = consent.clone();
    elsewhere.lost.sequence += 1;
    let admin = world.client(&world.admins[0]);
    let error = admin.consent_send(evidence::sign_in_memory(&elsewhere, &keys).unwrap()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::BadStatement), "{error}");
    admin.consent_send(evidence::sign_in_memory(&consent, &keys).unwrap()).await.unwrap();
    assert_eq!(slip_states(&world, &slip).await, [SlotState::Parked]);
    let told = world.client(&world.admins[0]).alarms(None, None, false).await.unwrap().alarms;
    assert!(told.iter().any(|alarm| alarm.kind == api::AlarmKind::StoreRolledBack), "{told:?}");
    // The log knows by now what the store holds.
    world.config.accept_audit_loss = false;
    world.stop().await;
    world.start().await;
    world.unseal().await;
    finish_with_a_later_log(world).await;
}

/// A client that saw the lost history goes on only with the admins' consent, and tells its user.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_notices_a_store_that_was_set_back() {
    let mut world = World::new(Shape::durable()).await;
    let alice = world.admit("alice").await;
    let folder = tempfile::tempdir().unwrap();
    let client = |world: &World| remembering(world, &alice, folder.path());
    world.stop().await;
    let file = world.data().join("bulla.redb");
    std::fs::copy(&file, world.data().join("copy")).unwrap();
    world.start().await;
    world.unseal().await;
    let before = client(&world);
    let me = before.resolve("alice").await.unwrap();
    for _ in 0..20 {
        before.wrap_create(Outgoing::new(vec![me.clone()], 60), content(b"x".to_vec())).await.unwrap();
    }
    before.flush().unwrap();
    drop(before);
    world.stop().await;
    // Store and audit log are set back together: the node itself cannot know.
    std::fs::rename(world.data().join("copy"), &file).unwrap();
    world.config.audit.target = bulla_server::config::AuditTarget::Directory(folder.path().join("another-audit"));
    world.config.accept_audit_loss = true;
    world.start().await;
    // But it knows that lines are missing, so it asks; what it is told then excuses nothing that a client saw.
    let admin = world.client(&world.admins[0]);
    let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
    let given = admin.unseal(&Unseal { approve, danger_older_epoch: true }).await.unwrap().given;
    let consent = given.consent_needed.expect("it asks for consent");
    assert!(consent.is_of_unknown_loss());
    admin.consent_send(world.admins[0].sign(&consent)).await.unwrap();
    let error = client(&world).whoami().await.expect_err("the history that it knew is gone");
    assert!(matches!(error, bulla_client::ClientError::RolledBack(_)), "{error:?}");
    world.stop().await;
}

/// An admin who does nothing but unseal refuses an older copy of the storage too.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_gives_no_share_to_an_older_epoch() {
    let mut world = World::sealed(quorum()).await;
    let folder = tempfile::tempdir().unwrap();
    let admin = |world: &World| remembering(world, &world.admins[0], folder.path());
    let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
    let how = Unseal { approve, danger_older_epoch: false };
    world.stop().await;
    let file = world.data().join("bulla.redb");
    let copies = [world.data().join("first"), world.data().join("second")];
    std::fs::copy(&file, &copies[0]).unwrap();
    world.start().await;
    admin(&world).unseal(&how).await.unwrap();
    // The same epoch again is no rollback as long as the seal has not been opened.
    admin(&world).unseal(&how).await.unwrap();
    give(&world, &world.admins[1]).await;
    world.stop().await;
    std::fs::copy(&file, &copies[1]).unwrap();
    world.start().await;
    // Another admin begins and this one opens: what was is older then, although nobody told it the new epoch.
    let mut opened = 2;
    for (copy, first) in [(&copies[0], true), (&copies[1], false)] {
        if first {
            assert_eq!(admin(&world).unseal(&how).await.unwrap().epoch, opened, "it gives and does not open");
        } else {
            give(&world, &world.admins[1]).await;
            assert_eq!(admin(&world).unseal(&how).await.unwrap().given.state, SealState::Unsealed);
            opened += 1;
        }
        world.stop().await;
        std::fs::copy(&file, world.data().join("kept")).unwrap();
        std::fs::copy(copy, &file).unwrap();
        world.start().await;
        let error = admin(&world).unseal(&how).await.expect_err("an old copy asks for a share");
        let expected = StateError::Epoch { seen: opened, told: opened - 1 };
        assert!(matches!(&error, ClientError::RolledBack(found) if *found == expected), "{error:?}");
        let known = Unseal { approve, danger_older_epoch: true };
        assert_eq!(admin(&world).unseal(&known).await.unwrap().epoch, opened - 1);
        admin(&world).unseal(&how).await.expect_err("once is not for ever");
        world.stop().await;
        std::fs::rename(world.data().join("kept"), &file).unwrap();
        world.start().await;
    }
    world.stop().await;
}

/// A copy that is two unseals old: whoever last called in either of the lost histories goes on with the consent.
#[tokio::test(flavor = "multi_thread")]
async fn a_consent_speaks_to_clients_of_every_lost_history() {
    let mut world = World::new(Shape::durable()).await;
    let alice = world.admit("alice").await;
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let client = |world: &World, at: usize| remembering(world, &alice, folders[at].path());
    // A call that reads the store, so that its answer tells a position.
    client(&world, 0).wraps(None, None).await.unwrap();
    world.stop().await;
    let file = world.data().join("bulla.redb");
    std::fs::copy(&file, world.data().join("copy")).unwrap();
    for at in [1, 2] {
        world.start().await;
        world.unseal().await;
        world.admit(&format!("lost{at}")).await;
        client(&world, at).wraps(None, None).await.unwrap();
        world.stop().await;
    }
    let (copy, newest) = (world.data().join("copy"), world.data().join("newest"));
    std::fs::rename(&file, &newest).unwrap();
    std::fs::copy(&copy, &file).unwrap();

    // Without the audit log nobody can say what was lost: a consent to that excuses no client that saw more.
    let audit = world.config.audit.target.clone();
    world.config.audit.target = bulla_server::config::AuditTarget::Directory(folders[0].path().join("another-audit"));
    world.config.accept_audit_loss = true;
    world.start().await;
    let approve: &(dyn Fn(&ClusterView) -> bool + Send + Sync) = &|_| true;
    let admin = world.client(&world.admins[0]);
    let given = admin.unseal(&Unseal { approve, danger_older_epoch: false }).await.unwrap().given;
    let unknown = given.consent_needed.unwrap();
    assert!(unknown.is_of_unknown_loss() && unknown.earlier.is_empty(), "{unknown:?}");
    admin.consent_send(world.admins[0].sign(&unknown)).await.unwrap();
    for at in [1, 2] {
        let error = client(&world, at).wraps(None, None).await.expect_err("its history is gone");
        assert!(matches!(error, ClientError::RolledBack(_)), "{error:?}");
    }
    world.stop().await;
    std::fs::rename(&copy, &file).unwrap();
    world.config.audit.target = audit;
    world.config.accept_audit_loss = false;

    world.start().await;
    let admin = world.client(&world.admins[0]);
    let given = admin.unseal(&Unseal { approve, danger_older_epoch: false }).await.unwrap().given;
    let consent = given.consent_needed.unwrap();
    let [earlier] = consent.earlier.as_slice() else { panic!("{consent:?}") };
    assert!(earlier.lineage != consent.lost.lineage && earlier.lineage != consent.kept.lineage);
    assert!(consent.kept.sequence < earlier.sequence && earlier.sequence < consent.lost.sequence, "{consent:?}");
    let less = Consent { earlier: vec![], ..consent.clone() };
    assert_eq!(admin.consent_send(world.admins[0].sign(&less)).await.unwrap_err().code(), Some(Code::BadStatement));
    admin.consent_send(world.admins[0].sign(&consent)).await.unwrap();

    for at in [1, 2] {
        let after = client(&world, at);
        after.wraps(None, None).await.unwrap();
        let [loss] = &after.losses()[..] else { panic!("it is shown: {:?}", after.losses()) };
        assert_eq!(loss.consent, consent);
        assert_eq!(Some(loss.seen.lineage), [None, Some(earlier), Some(&consent.lost)][at].map(|lost| lost.lineage));
        // Once: from now on the new history is what it knows.
        drop(after);
        let again = client(&world, at);
        again.wraps(None, None).await.unwrap();
        assert_eq!(again.losses(), []);
    }
    let unaware = client(&world, 0);
    unaware.wraps(None, None).await.unwrap();
    assert_eq!(unaware.losses(), [], "it had seen nothing of what was lost");
    drop(unaware);
    finish(world).await;
}

/// Stops a world, puts a copy of its store back, starts it, and has this admin consent to what was lost.
async fn lose(world: &mut World, copy: &Path, admin: usize) -> Consent {
    world.stop().await;
    std::fs::copy(copy, world.data().join("bulla.redb")).unwrap();
    world.start().await;
    let consent = give(world, &world.admins[admin]).await.consent_needed.expect("it asks for consent");
    world.client(&world.admins[admin]).consent_send(world.admins[admin].sign(&consent)).await.unwrap();
    consent
}

/// The admins of then accepted a loss and left: whoever last called before it goes on by their word. Whoever knows that
/// they left takes nothing from them any more, whenever they sign.
#[tokio::test(flavor = "multi_thread")]
async fn a_consent_outlives_its_admins_and_former_admins_give_none() {
    let mut world = World::new(Shape { n: 2, ..Shape::durable() }).await;
    let alice = world.admit("alice").await;
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let client = |world: &World, at: usize| remembering(world, &alice, folders[at].path());
    let copy = folders[0].path().join("copy");
    let cycle = async |world: &mut World, by: usize, copy: bool, path: &Path| {
        world.stop().await;
        if copy {
            std::fs::copy(world.data().join("bulla.redb"), path).unwrap();
        }
        world.start().await;
        assert_eq!(give(world, &world.admins[by]).await.state, SealState::Unsealed);
    };
    cycle(&mut world, 0, true, &copy).await;
    client(&world, 0).wraps(None, None).await.unwrap();
    let first = lose(&mut world, &copy, 0).await;

    // The first admin leaves. A client that knows only the document of before is told of the loss and goes on.
    let (gone, dan) = (rekey::record(&world.admins[0]).principal(), Person::new("dan"));
    let ingress = rekey::next_ingress(&world).await;
    let signers = [&world.admins[0]];
    let document = rekey::document(&world, &signers, |draft| {
        draft.ingress = ingress;
        draft.add_admin(&rekey::record(&dan));
        draft.remove_admin(&gone);
    });
    let document = document.await;
    world.client(&world.admins[0]).document_put(document).await.unwrap();
    // Whom the first admin admitted is void without another's word.
    world.client(&world.admins[1]).admit(&alice.record, Admit::default()).await.unwrap();
    let before = client(&world, 0);
    before.wraps(None, None).await.unwrap();
    assert_eq!(before.losses().iter().map(|loss| &loss.consent).collect::<Vec<_>>(), [&first]);
    drop(before);

    // The store loses commits again. Its consent is replaced by one that the former admin signs now.
    cycle(&mut world, 1, true, &copy).await;
    for at in [0, 1] {
        client(&world, at).wraps(None, None).await.unwrap();
    }
    let second = lose(&mut world, &copy, 1).await;
    let key = row::consent_key(1).unwrap();
    let forged = evidence::sign_in_memory(&second, &[world.admins[0].identity.signing_key().unwrap()]).unwrap();
    let forged = row::encode(&bulla_wire::json::to_vec(&forged), &mut SystemRng).unwrap();
    let good = exchange(&mut world, &key, forged).await;
    give(&world, &world.admins[1]).await;
    let error = client(&world, 0).wraps(None, None).await.expect_err("the former admin has no say");
    assert!(matches!(error, ClientError::RolledBack(_)), "{error:?}");

    exchange(&mut world, &key, good).await;
    give(&world, &world.admins[1]).await;
    for at in [0, 1] {
        let after = client(&world, at);
        after.wraps(None, None).await.unwrap();
        assert_eq!(after.losses().iter().map(|loss| &loss.consent).collect::<Vec<_>>(), [&second]);
    }
    world.stop().await;
}

/// Replaces a plain row of the store behind the server's back; gives what was there.
async fn exchange(world: &mut World, key: &StoreKey, value: SealedValue) -> SealedValue {
    world.stop().await;
    let store = Store::file(world.data().join("bulla.redb"), OnFatal::default()).unwrap();
    let read = Read::Get(Table::Plain, key.clone());
    let before = store.read(vec![read]).await.unwrap().answers.pop().and_then(Answer::into_value).unwrap();
    let mut batch = Batch::default();
    batch.put(Table::Plain, key.clone(), value);
    store.commit(batch).await.unwrap();
    store.close().await;
    world.start().await;
    before
}
