//! Exactly once: whatever becomes of answers, challenges, buckets and clocks between two attempts.

use crate::cases::{kv_body, policy_check};
use crate::support::{Caller, Request, finish, finish_after_steps, lines, requests, rows, tls};
use bulla_testkit::world::{Shape, World};
use bulla_wire::api;
use bulla_wire::encoding::base64url;
use bulla_wire::error::Code;
use bulla_wire::id::Nonce;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::signature::{EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MINUTE: u64 = 60_000;

async fn world() -> (World, Caller) {
    let world = World::new(Shape::durable()).await;
    let text = "permit (principal, action in Bulla::Action::\"kv\", resource);".to_owned();
    let put = api::PutPolicy { text, replaces: None };
    world.client(&world.admins[0]).policy_put(&"kv".parse().unwrap(), &put).await.unwrap();
    let alice = world.admit("alice").await;
    let caller = Caller::new(&world, &alice).await;
    (world, caller)
}

fn put(world: &World, caller: &Caller, nonce: Nonce) -> Request {
    let body = caller.ingress(world, "PUT", "/v1/kv/app/cache", &nonce, &kv_body());
    caller.request("PUT", "/v1/kv/app/cache", "application/age", body, nonce)
}

async fn version(world: &World, name: &str) -> u64 {
    let reader = world.client(&world.admins[0]);
    match reader.kv_get(&name.parse().unwrap()).await {
        Ok(kv) => kv.version,
        Err(error) => {
            assert_eq!(error.code(), Some(Code::NotFound), "{error}");
            0
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_the_same_request_until_its_nonce_is_over() {
    let (world, mut caller) = world().await;
    let nonce = caller.nonce();
    let request = put(&world, &caller, nonce);
    let first: api::KvWritten = caller.send(&request).await.ok().json();
    assert_eq!(first.version, 1);
    // The challenge dies, and a bucket's edge passes each time.
    for _ in 0..3 {
        world.clock.pass(MINUTE + 1000);
        caller.send(&request).await.refused(Code::StaleChallenge);
        let again: api::KvWritten = {
            let retry = caller.sign(request.clone(), nonce);
            caller.send(&retry).await.ok().json()
        };
        assert_eq!(again.version, 1);
    }
    assert_eq!(version(&world, "app/cache").await, 1);
    // The bucket goes; the node looks once a second.
    world.clock.pass(3 * MINUTE);
    let mark = || crate::support::unsealed(&world).keys.head.mark();
    for _ in 0..100 {
        if mark() > nonce.minute() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(mark() > nonce.minute(), "the mark rises");
    caller.call("GET", "/v1/whoami").await;
    let late = caller.sign(request.clone(), nonce);
    let refused = caller.send(&late).await.refused(Code::NonceExpired).error().unwrap();
    assert!(refused.message.contains("unknown"), "{}", refused.message);
    assert_eq!(version(&world, "app/cache").await, 1);
    // And never again, if the clock goes back: what was dropped stays so.
    world.clock.step(-(6 * MINUTE as i64));
    caller.call("GET", "/v1/whoami").await;
    let late = caller.sign(request.clone(), nonce);
    caller.send(&late).await.refused(Code::NonceExpired);
    assert_eq!(version(&world, "app/cache").await, 1);
    world.clock.step(6 * MINUTE as i64);
    finish_after_steps(world).await;
}

/// What had nothing to do leaves its nonce too: played again, it does not undo what somebody else did since.
#[tokio::test(flavor = "multi_thread")]
async fn what_had_nothing_to_do_is_not_done_later() {
    let (world, mut caller) = world().await;
    let nonce = caller.nonce();
    let written = put(&world, &caller, nonce);
    caller.send(&written).await.ok();
    let nonce = caller.nonce();
    let versions = json::to_vec(&api::KvVersions::default());
    let request = caller.request("POST", "/v1/kv/app/cache:undelete", JSON_MEDIA_TYPE, versions.clone(), nonce);
    caller.send(&request).await.ok();
    let delete = caller.request("POST", "/v1/kv/app/cache:delete", JSON_MEDIA_TYPE, versions, caller.nonce());
    caller.send(&delete).await.ok();
    let retry = caller.sign(request, nonce);
    let told: api::KvMetadata = caller.send(&retry).await.ok().json();
    assert_eq!(told.versions[0].state, api::KvState::Deleted, "what is so now");
    caller.call("GET", "/v1/kv/app/cache").await.refused(Code::Deleted);
    finish(world).await;
}

/// A bucket stays while a request of its minute is under way: its line could be lost, and is written again from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_waits_for_the_lines_of_its_minute() {
    let (world, mut caller) = world().await;
    let unsealed = crate::support::unsealed(&world);
    let nonce = caller.nonce();
    let request = put(&world, &caller, nonce);
    caller.send(&request).await.ok();
    let under_way = unsealed.keys.head.under_way(nonce.minute());
    world.clock.pass(6 * MINUTE);
    let (head, minute) = (&unsealed.keys.head, nonce.minute());
    eventually(|| head.floor() > minute).await;
    caller.call("GET", "/v1/whoami").await;
    let late = caller.sign(request, nonce);
    caller.send(&late).await.refused(Code::NonceExpired);
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert!(head.mark() <= minute, "the row is there until the line is");
    let bucket = |rows: std::collections::BTreeMap<(String, Vec<u8>), Vec<u8>>| {
        rows.into_keys().filter(|(table, _)| *table == format!("Seen({minute})")).count()
    };
    assert!(bucket(rows(&world).await) >= 1);
    drop(under_way);
    eventually(|| head.mark() > minute).await;
    // The mark rises before the rows are dropped.
    let began = std::time::Instant::now();
    while bucket(rows(&world).await) > 0 {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "the bucket is never dropped");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    finish(world).await;
}

/// The node looks once a second.
async fn eventually(done: impl Fn() -> bool) {
    for _ in 0..100 {
        if done() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("it never came to that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_executes_nothing_twice() {
    let (mut world, mut caller) = world().await;
    let nonce = caller.nonce();
    let request = put(&world, &caller, nonce);
    caller.send(&request).await.ok();
    world.clock.step(-3_600_000);
    // Its challenge is of the future now, and so is its minute.
    caller.send(&request).await.refused(Code::StaleChallenge);
    let retry = caller.sign(request.clone(), nonce);
    caller.send(&retry).await.refused(Code::NonceExpired);
    world.clock.step(3_600_000);
    caller.call("GET", "/v1/whoami").await;
    let retry = caller.sign(request.clone(), nonce);
    assert_eq!(caller.send(&retry).await.ok().json::<api::KvWritten>().version, 1);
    // After a restart in between, and with the clock a little back, it is still found.
    world.stop().await;
    world.start().await;
    world.unseal().await;
    caller.wire = crate::support::Wire::new(world.server().ready.address);
    world.clock.step(-20_000);
    caller.call("GET", "/v1/whoami").await;
    let retry = caller.sign(request, nonce);
    assert_eq!(caller.send(&retry).await.ok().json::<api::KvWritten>().version, 1);
    assert_eq!(version(&world, "app/cache").await, 1);
    finish_after_steps(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_of_the_future_or_of_long_ago_is_not_taken() {
    let (world, mut caller) = world().await;
    let now = caller.nonce().minute();
    let before = rows(&world).await;
    for minute in [0, now - 6, now + 2, u32::MAX] {
        let request = put(&world, &caller, Nonce::new(minute, [minute as u8; 12]));
        if minute == now - 6 && crate::support::unsealed(&world).keys.head.mark() <= minute {
            continue;
        }
        caller.send(&request).await.refused(Code::NonceExpired);
    }
    assert_eq!(rows(&world).await, before);
    finish(world).await;
}

/// The answer is lost: the connection breaks after the last byte was sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_found_again() {
    let (world, mut caller) = world().await;
    for round in 0..20u64 {
        let name = format!("app/lost{round}");
        let path = format!("/v1/kv/{name}");
        let nonce = caller.nonce();
        let body = caller.ingress(&world, "PUT", &path, &nonce, &kv_body());
        let request = caller.request("PUT", &path, "application/age", body, nonce);
        let mut text = format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", request.body.len());
        for (header, value) in &request.headers {
            text.push_str(&format!("{header}: {value}\r\n"));
        }
        let mut bytes = (text + "\r\n").into_bytes();
        bytes.extend_from_slice(&request.body);
        let mut stream = tls(world.server().ready.address, "http/1.1").await;
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        if round % 2 == 0 {
            // Some of the answer has come.
            stream.read_u8().await.unwrap();
        }
        drop(stream);
        let retry = caller.sign(request, nonce);
        let written: api::KvWritten = caller.send(&retry).await.ok().json();
        assert_eq!(written.version, 1, "{name}");
        assert_eq!(version(&world, &name).await, 1);
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_under_a_used_nonce_is_refused_and_told() {
    let (world, mut caller) = world().await;
    let alice = world.client(&world.admins[0]);
    let nonce = caller.nonce();
    let request = put(&world, &caller, nonce);
    caller.send(&request).await.ok();
    let other = StrictMap([("url".to_owned(), "elsewhere".to_owned())].into());
    let other = json::to_vec(&api::PutKv::fields(other));
    let body = caller.ingress(&world, "PUT", "/v1/kv/app/cache", &nonce, &other);
    let reused = caller.request("PUT", "/v1/kv/app/cache", "application/age", body, nonce);
    let reply = caller.send(&reused).await.refused(Code::NonceReused);
    assert_eq!(reply.state().alarms, 1, "the owner is told at once");
    let told: api::Alarms = caller.call("GET", "/v1/alarms").await.ok().json();
    let [alarm] = told.alarms.as_slice() else { panic!("{told:?}") };
    assert_eq!(alarm.kind, api::AlarmKind::ReplayMutation);
    assert_eq!(version(&world, "app/cache").await, 1);
    // What was seen is counted no more.
    let seen = caller.call_json("POST", "/v1/alarms:seen", &api::SeenAlarms { up_to: alarm.id.clone() }).await.ok();
    assert_eq!(seen.state().alarms, 0);
    assert!(caller.call("GET", "/v1/alarms").await.ok().json::<api::Alarms>().alarms.is_empty());
    assert_eq!(caller.call("GET", "/v1/alarms?all=true").await.ok().json::<api::Alarms>().alarms.len(), 1);
    // Another route under it, too.
    let gone = caller.request("DELETE", "/v1/policy/kv", EMPTY_MEDIA_TYPE, vec![], nonce);
    caller.send(&gone).await.refused(Code::Denied);
    assert!(alice.policy(&"kv".parse().unwrap()).await.is_ok());
    // A reading one needs no nonce of its own.
    let mut admin = Caller::new(&world, &world.admins[0]).await;
    let nonce = admin.nonce();
    for _ in 0..2 {
        let check = admin.request("POST", "/v1/policy:check", JSON_MEDIA_TYPE, policy_check(), nonce);
        assert_eq!(admin.send(&check).await.code(), Some(Code::NotFound), "bob is not there");
    }
    finish(world).await;
}

/// Whoever holds a key can use a nonce again as often as they like; the owner's other alarms stay in sight.
#[tokio::test(flavor = "multi_thread")]
async fn used_nonces_bury_no_other_alarm() {
    let (world, mut caller) = world().await;
    let mut unseen = 0;
    // Many requests under one nonce, and then a few under each of many.
    for (nonces, others) in [(1, 40), (40, 1)] {
        for _ in 0..nonces {
            let nonce = caller.nonce();
            let first = put(&world, &caller, nonce);
            caller.send(&first).await.ok();
            for other in 0..others {
                let body = seen(other);
                let reused = caller.request("POST", "/v1/alarms:seen", JSON_MEDIA_TYPE, body, nonce);
                // The same again is refused from memory.
                for _ in 0..3 {
                    unseen = caller.send(&reused).await.refused(Code::NonceReused).state().alarms;
                }
            }
        }
    }
    assert_eq!(unseen, 16);
    let told: api::Alarms = caller.call("GET", "/v1/alarms?limit=1000").await.ok().json();
    assert_eq!(told.alarms.len(), 16);
    world.clock.pass(3_600_000);
    caller.call("GET", "/v1/whoami").await;
    let nonce = caller.nonce();
    let request = put(&world, &caller, nonce);
    caller.send(&request).await.ok();
    let reused = caller.request("POST", "/v1/alarms:seen", JSON_MEDIA_TYPE, seen(0), nonce);
    assert_eq!(caller.send(&reused).await.refused(Code::NonceReused).state().alarms, 17, "an hour later");
    finish(world).await;
}

fn seen(number: u8) -> Vec<u8> {
    json::to_vec(&api::SeenAlarms { up_to: base64url(&[number]) })
}

/// What was refused stays refused for as long as it could be played again, whatever policy says by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_is_not_played_again_after_policy_changed() {
    let (world, mut caller) = world().await;
    let admin = world.client(&world.admins[0]);
    admin.policy_delete(&"kv".parse().unwrap()).await.unwrap();
    let request = put(&world, &caller, caller.nonce());
    caller.send(&request).await.refused(Code::Denied);
    let text = "permit (principal, action in Bulla::Action::\"kv\", resource);".to_owned();
    let allow = api::PutPolicy { text, replaces: None };
    admin.policy_put(&"kv".parse().unwrap(), &allow).await.unwrap();
    caller.send(&request).await.refused(Code::Denied);
    assert_eq!(version(&world, "app/cache").await, 0);
    let anew = put(&world, &caller, caller.nonce());
    caller.send(&anew).await.ok();
    assert_eq!(version(&world, "app/cache").await, 1);
    finish(world).await;
}

/// Each request whose key is known leaves one line, each other one none of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_leaves_its_own_line() {
    let (world, mut caller) = world().await;
    let before = requests(&world).await;
    let request = put(&world, &caller, caller.nonce());
    for _ in 0..3 {
        caller.send(&request).await.ok();
    }
    assert_eq!(requests(&world).await, before + 3);
    let committed = lines(&world).await.into_iter().rev().filter_map(|line| match line.body {
        bulla_core::audit::Body::Request(line) => Some(line.outcome.committed.is_some()),
        _ => None,
    });
    assert_eq!(committed.take(3).filter(|committed| *committed).count(), 1, "one of them committed");
    finish(world).await;
}
