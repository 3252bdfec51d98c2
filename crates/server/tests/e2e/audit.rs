//! No audit, no answer; and one line for each request whose key was known.

use crate::cases::{Cast, Who};
use crate::support::{Caller, finish, lines, open, requests, rows};
use bulla_core::audit::Body;
use bulla_server::config::{AuditSync, AuditTarget};
use bulla_server::route::{Auth, Endpoint, ROUTES};
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api;
use bulla_wire::error::Code;
use bulla_wire::signature::{EMPTY_MEDIA_TYPE, SIGNATURE_HEADER};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn every_route_and_outcome_leaves_one_line() {
    for sync in [AuditSync::Interval, AuditSync::Each] {
        let world = World::new(Shape { sync, ..Shape::durable() }).await;
        let mut cast = Cast::new(&world).await;
        let nobody = world.admit("nobody").await;
        let admin = world.client(&world.admins[0]);
        let text = "forbid (principal, action, resource) when { principal.name == \"nobody\" };".to_owned();
        admin.policy_put(&"nobody".parse().unwrap(), &api::PutPolicy { text, replaces: None }).await.unwrap();
        let mut nobody = Caller::new(&world, &nobody).await;
        let mut expected = Vec::new();
        for route in ROUTES.iter().filter(|route| !matches!(route.auth, Auth::Open | Auth::Init)) {
            let elsewhere = matches!(
                route.endpoint,
                Endpoint::SealSession | Endpoint::SealKey | Endpoint::SealShare | Endpoint::SealConsent
            );
            if elsewhere || route.endpoint == Endpoint::SealSeal {
                continue;
            }
            let (who, request) = cast.request(&world, route).await;
            let before = requests(&world).await;
            // Done.
            let caller = cast.caller(who);
            let done = caller.send(&request).await;
            // Denied by policy, or for want of a seal share.
            let denied = nobody.request(
                &request.method,
                format!("{}?{}", request.path, request.query).trim_end_matches('?'),
                request.header("content-type"),
                request.body.clone(),
                nobody.nonce(),
            );
            let denied_reply = nobody.send(&denied).await;
            assert!(denied_reply.status >= 400, "{route:?}");
            // Failed: a body without its digest, or a query that is none.
            let query = nobody.request(
                &request.method,
                &format!("{}?x=y", request.path),
                request.header("content-type"),
                request.body.clone(),
                nobody.nonce(),
            );
            let bad_query = nobody.send(&query).await.refused(Code::Malformed);
            // Before its key was known: counted, without a line of its own.
            let mut forged = nobody.request(
                &request.method,
                &request.path,
                request.header("content-type"),
                request.body.clone(),
                nobody.nonce(),
            );
            forged.set(SIGNATURE_HEADER, "bulla=:AAAA:");
            nobody.send(&forged).await.refused(Code::Unauthenticated);
            let new = requests(&world).await - before;
            assert_eq!(new, 3, "{} {} in {sync:?}", route.method, route.template);
            let last: Vec<_> = lines(&world)
                .await
                .into_iter()
                .rev()
                .filter_map(|line| match line.body {
                    Body::Request(line) => Some(*line),
                    _ => None,
                })
                .take(3)
                .collect();
            for (line, reply) in last.iter().rev().zip([&done, &denied_reply, &bad_query]) {
                assert_eq!(line.outcome.status, reply.status, "{route:?}");
                assert_eq!(line.outcome.code, reply.code(), "{route:?}");
                let action = route.action.map(|action| action.to_string());
                assert_eq!(line.action.as_ref().map(|action| action.as_str().to_owned()), action, "{route:?}");
                if let Some(id) = reply.error().and_then(|error| error.id) {
                    assert_eq!(line.id.to_string(), id, "an error finds its line");
                }
            }
            expected.push(who);
        }
        assert!(expected.contains(&Who::Admin) && expected.contains(&Who::Alice) && expected.contains(&Who::Bob));
        finish(world).await;
    }
}

/// What fails before its key is known cannot fill the disk.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_counted() {
    let world = World::new(Shape::default()).await;
    let mut stranger = Caller::new(&world, &Person::new("stranger")).await;
    let before = lines(&world).await.len();
    for _ in 0..300 {
        let request = stranger.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], stranger.nonce());
        stranger.send(&request).await.refused(Code::Unauthenticated);
        stranger.send(&open("GET", "/v1/health")).await.ok();
    }
    world.clock.pass(2000);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let after = lines(&world).await;
    assert!(after.len() - before < 60, "{} lines", after.len() - before);
    let count: u64 = after
        .iter()
        .filter_map(|line| match &line.body {
            Body::Anonymous { count, reason: Some(Code::Unauthenticated), .. } => Some(*count),
            _ => None,
        })
        .sum();
    assert_eq!(count, 300);
    finish(world).await;
}

/// A node whose log takes no line does not start, and gives its store back.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_start() {
    let mut world = World::new(Shape::durable()).await;
    world.stop().await;
    let kept = world.config.audit.target.clone();
    world.config.audit.target = AuditTarget::File("/dev/full".into());
    world.config.accept_audit_loss = true;
    let start = bulla_server::run(&world.config, world.clock.clone()).await;
    assert!(start.is_err(), "it does not even start without its log");
    world.config.audit.target = kept;
    world.config.accept_audit_loss = false;
    world.start().await;
    world.unseal().await;
    finish(world).await;
}

/// A pipe that nobody reads blocks the log under way: no answer, within two seconds, and no effect; but the keys can
/// be forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_blocks_answers_within_two_seconds_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap())
    };
    let held = reader.join().unwrap();
    let mut world = World::new(Shape::durable()).await;
    world.stop().await;
    world.config.audit.target = AuditTarget::File(pipe.clone());
    world.config.accept_audit_loss = true;
    world.start().await;
    // A reader that takes everything, until it is told to stop.
    let taking = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let taker = {
        let (taking, mut held) = (taking.clone(), held.try_clone().unwrap());
        rustix::fs::fcntl_setfl(&held, rustix::fs::OFlags::NONBLOCK).unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while taking.load(std::sync::atomic::Ordering::SeqCst) {
                if std::io::Read::read(&mut held, &mut bytes).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        })
    };
    world.unseal().await;
    let mut admin = Caller::new(&world, &world.admins[0]).await;
    admin.call("GET", "/v1/whoami").await.ok();
    taking.store(false, std::sync::atomic::Ordering::SeqCst);
    taker.join().unwrap();
    // Fill the pipe.
    let mut blocked = None;
    for _ in 0..2000 {
        let began = Instant::now();
        let reply = admin.call("GET", "/v1/whoami").await;
        assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", began.elapsed());
        if reply.status != 200 {
            blocked = Some((reply, began.elapsed()));
            break;
        }
    }
    let (reply, took) = blocked.expect("a pipe ends");
    println!("blocked after {took:?}");
    assert!(matches!(reply.code(), Some(Code::AuditBlocked)), "{reply:?}");
    assert!(took <= Duration::from_millis(2500), "{took:?}");
    let before = rows(&world).await;
    let body = api::PutPolicy { text: "permit (principal, action, resource);".into(), replaces: None };
    for _ in 0..3 {
        let began = Instant::now();
        admin.call_json("PUT", "/v1/policy/open", &body).await.refused(Code::AuditBlocked);
        assert!(began.elapsed() < Duration::from_millis(2500));
    }
    assert_eq!(rows(&world).await, before, "no effect");
    let health = admin.send(&open("GET", "/v1/health")).await;
    assert_eq!(health.status, 503);
    assert!(!health.json::<api::Health>().audit_ok);
    // The keys can be forgotten even now.
    admin.send(&open("POST", "/v1/challenge")).await.ok();
    let seal = admin.request("POST", "/v1/seal:seal", EMPTY_MEDIA_TYPE, vec![], admin.nonce());
    let began = Instant::now();
    let sealed = admin.send(&seal).await;
    println!("seal: {} after {:?}", sealed.status, began.elapsed());
    assert!(began.elapsed() < Duration::from_millis(3500));
    let health: api::Health = admin.send(&open("GET", "/v1/health")).await.json();
    assert_eq!(health.state, api::SealState::Sealed);
    // Everything is read again, so that the server can end.
    let drain = {
        let mut held = held.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            let until = Instant::now() + Duration::from_secs(4);
            while Instant::now() < until {
                if std::io::Read::read(&mut held, &mut bytes).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        })
    };
    let server = world.server.take().unwrap();
    server.stop().await;
    drain.join().unwrap();
}
