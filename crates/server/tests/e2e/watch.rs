//! Waiting for a secret to change: who hears what, and whom the waiting holds up.

use crate::rekey;
use crate::support::{Caller, finish, lines, tls};
use bulla_client::{Client, ClientError};
use bulla_core::audit::Body;
use bulla_server::unsealed::IN_FLIGHT_MAX;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{DestroyKv, KvState, KvVersions, KvWatched, PutKv, PutPolicy};
use bulla_wire::error::Code;
use bulla_wire::name::SecretPath;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;

/// Far longer than anything here takes: an answer that comes earlier came by a change.
const LONG: Duration = Duration::from_secs(50);
const SOON: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_secs(3);

fn path(text: &str) -> SecretPath {
    text.parse().unwrap()
}

async fn permit(world: &World, text: &str) {
    let body = PutPolicy { text: text.to_owned(), replaces: None };
    world.client(&world.admins[0]).policy_put(&"kv".parse().unwrap(), &body).await.unwrap();
}

async fn world() -> (World, Person) {
    let world = World::new(Shape::durable()).await;
    permit(&world, "permit (principal, action in Bulla::Action::\"kv\", resource);").await;
    let alice = world.admit("alice").await;
    (world, alice)
}

type Waiting = JoinHandle<Result<KvWatched, ClientError>>;

/// Begins to wait, and gives the server the time to begin too.
async fn waiting(client: &Client, at: &SecretPath, mark: &str) -> Waiting {
    let (client, at, mark) = (client.clone(), at.clone(), mark.to_owned());
    let task = tokio::spawn(async move { client.kv_watch(&at, Some(&mark), LONG).await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!task.is_finished(), "it waits");
    task
}

async fn soon(task: Waiting) -> Result<KvWatched, ClientError> {
    tokio::time::timeout(SOON, task).await.expect("woken").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_heard_and_nothing_else() {
    let (world, alice) = world().await;
    let (client, at) = (world.client(&alice), path("app/db"));
    let mut known = client.kv_watch(&at, None, LONG).await.unwrap();
    assert_eq!((known.version, known.state), (0, None), "nothing lies there yet");
    let changes = [KvState::Live, KvState::Live, KvState::Deleted, KvState::Live, KvState::Destroyed];
    for (step, state) in changes.into_iter().enumerate() {
        let task = waiting(&client, &at, &known.mark).await;
        client.kv_put(&path("app/other"), &PutKv::bytes(vec![1])).await.unwrap();
        let versions = KvVersions::default();
        match step {
            0 | 1 => drop(client.kv_put(&at, &PutKv::bytes(vec![1])).await.unwrap()),
            2 => drop(client.kv_delete(&at, &versions).await.unwrap()),
            3 => drop(client.kv_undelete(&at, &versions).await.unwrap()),
            _ => drop(client.kv_destroy(&at, &DestroyKv { versions: Some(vec![2]), all: false }).await.unwrap()),
        }
        let now = soon(task).await.unwrap();
        assert_eq!((now.version, now.state), (if step == 0 { 1 } else { 2 }, Some(state)), "step {step}");
        assert_ne!(now.mark, known.mark);
        known = now;
    }
    let task = waiting(&client, &at, &known.mark).await;
    client.kv_destroy(&at, &DestroyKv { versions: None, all: true }).await.unwrap();
    assert_eq!(soon(task).await.unwrap().version, 0);
    // What began again is no old acquaintance.
    client.kv_put(&at, &PutKv::bytes(vec![1])).await.unwrap();
    assert_eq!(client.kv_watch(&at, Some(&known.mark), LONG).await.unwrap().version, 1);
    finish(world).await;
}

/// Time ends a version, and tells those who wait as a person would.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_version_is_heard() {
    let (world, alice) = world().await;
    let (client, at) = (world.client(&alice), path("short"));
    client.kv_put(&at, &PutKv { ttl_s: Some(1), ..PutKv::bytes(b"x".to_vec()) }).await.unwrap();
    let known = client.kv_watch(&at, None, LONG).await.unwrap();
    assert_eq!(known.state, Some(KvState::Live));
    let now = soon(waiting(&client, &at, &known.mark).await).await.unwrap();
    assert_eq!((now.version, now.state), (1, Some(KvState::Expired)));
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_change_the_same_is_told_in_time() {
    let (world, alice) = world().await;
    let (client, at) = (world.client(&alice), path("app/db"));
    let known = client.kv_watch(&at, None, LONG).await.unwrap();
    let begun = Instant::now();
    let before = lines(&world).await.len();
    let now = client.kv_watch(&at, Some(&known.mark), Duration::from_secs(1)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(now, known);
    let told = lines(&world).await.split_off(before);
    let watches = told.iter().filter(|line| matches!(&line.body, Body::Request(event) if event.action.as_ref().is_some_and(|action| action.as_str() == "kv.watch")));
    assert_eq!(watches.count(), 1, "one line for the whole wait");
    finish(world).await;
}

/// Who may not know is refused at once, and who may no more is not told what came.
#[tokio::test(flavor = "multi_thread")]
async fn policy_decides_before_and_after() {
    let (world, alice) = world().await;
    let (client, at) = (world.client(&alice), path("app/db"));
    let known = client.kv_watch(&at, None, LONG).await.unwrap();
    let task = waiting(&client, &at, &known.mark).await;
    let some = "permit (principal, action == Bulla::Action::\"kv.put\", resource);";
    permit(&world, some).await;
    client.kv_put(&at, &PutKv::bytes(vec![1])).await.unwrap();
    assert_eq!(soon(task).await.unwrap_err().code(), Some(Code::Denied));
    let refused = tokio::time::timeout(SOON, client.kv_watch(&at, Some(&known.mark), LONG)).await.expect("at once");
    assert_eq!(refused.unwrap_err().code(), Some(Code::Denied));
    finish(world).await;
}

/// The keys of before are nobody's after a rekey: who waits asks again, and hears of the next change.
#[tokio::test(flavor = "multi_thread")]
async fn a_rekey_lets_them_go() {
    let (mut world, alice) = world().await;
    let (client, at) = (world.client(&alice), path("app/db"));
    let known = client.kv_watch(&at, None, LONG).await.unwrap();
    let task = waiting(&client, &at, &known.mark).await;
    let dan = Person::new("dan");
    let ingress = rekey::next_ingress(&world).await;
    let signers: Vec<&Person> = world.admins.iter().collect();
    let envelope = rekey::document(&world, &signers, |draft| {
        draft.ingress = ingress;
        draft.add_admin(&rekey::record(&dan));
    })
    .await;
    world.client(&world.admins[0]).document_put(envelope).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.kv_put(&at, &PutKv::bytes(vec![1])).await.unwrap();
    assert_eq!(soon(task).await.unwrap().version, 1);
    world.admins.push(dan);
    finish(world).await;
}

/// Neither a sealing nor a stop waits for who waits.
#[tokio::test(flavor = "multi_thread")]
async fn it_holds_up_nobody() {
    let (mut world, alice) = world().await;
    let (client, at) = (world.client(&alice), path("app/db"));
    let known = client.kv_watch(&at, None, LONG).await.unwrap();
    let task = waiting(&client, &at, &known.mark).await;
    let begun = Instant::now();
    world.client(&world.admins[0]).seal().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "sealing waits five seconds for requests under way");
    assert_eq!(soon(task).await.unwrap_err().code(), Some(Code::Sealed));
    world.unseal().await;
    let told = lines(&world).await;
    let code = |line: &bulla_core::audit::Line| match &line.body {
        Body::Request(event) if event.action.as_ref().is_some_and(|action| action.as_str() == "kv.watch") => {
            event.outcome.code
        }
        _ => None,
    };
    assert_eq!(told.iter().filter_map(code).collect::<Vec<_>>(), [Code::Sealed], "the log says so too");
    let known = client.kv_watch(&at, None, LONG).await.unwrap();
    let task = waiting(&client, &at, &known.mark).await;
    let begun = Instant::now();
    world.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "a stop waits ten seconds for what runs");
    task.abort();
    world.start().await;
    world.unseal().await;
    finish(world).await;
}

/// A valid signature came over this connection, whose request is under way. A flood of strangers takes the places of strangers,
/// not this one.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_keeps_the_place_in_a_flood() {
    let (mut world, alice) = world().await;
    world.stop().await;
    world.config.limits.connections = 3;
    world.start().await;
    world.unseal().await;
    let (client, at) = (world.client(&alice), path("app/db"));
    let known = client.kv_watch(&at, None, LONG).await.unwrap();
    drop(client);
    let begun = Instant::now();
    while !world.server().node.parts.metrics.text().contains("bulla_connections 0\n") {
        assert!(begun.elapsed() < SOON, "clients that are dropped hang up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its connection has brought nothing but a request for a challenge, which strangers make too.
    let mut waiter = Caller::new(&world, &alice).await;
    let target = format!("/v1/kv/app/db:watch?after={}&wait_s=40", known.mark);
    let waiting = tokio::spawn(async move { waiter.call("GET", &target).await });
    // Its signature is verified, and it waits. As it keeps no sealing waiting then, it is under way for a moment alone, which
    // may be missed where the machine is quick; where it is slow, it is seen.
    let unsealed = crate::support::unsealed(&world);
    let sent = Instant::now();
    while unsealed.in_flight.available_permits() == usize::try_from(IN_FLIGHT_MAX).unwrap() && sent.elapsed() < MOMENT {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let to = world.server().ready.address;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(tls(to, "http/1.1").await);
    }
    let mut first = strangers.remove(0);
    // The third took a place: that of the first, which ends at once. Were it left, it would end by itself after ten seconds, and the
    // one that waits two seconds after it was sent away.
    let _ended = tokio::time::timeout(Duration::from_secs(20), first.read_u8()).await.expect("an end");
    world.client(&alice).kv_put(&at, &PutKv::bytes(vec![1])).await.unwrap();
    let reply = tokio::time::timeout(SOON, waiting).await.expect("woken").unwrap();
    assert_eq!(reply.ok().json::<KvWatched>().version, 1);
    drop((first, strangers));
    finish(world).await;
}
