//! No audit, no answer; and one line for each request whose key was known.

use crate::cases::{Cast, Who, share};
use crate::support::{Caller, finish, lines, open, requests, rows, written};
use bulla_core::audit::Body;
use bulla_server::config::{AuditSync, AuditTarget};
use bulla_server::route::{Auth, Endpoint, ROUTES};
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api;
use bulla_wire::error::Code;
use bulla_wire::evidence::{Bytes, SealMode};
use bulla_wire::signature::{EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE, SIGNATURE_HEADER};
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

/// Ceremonies are audited under the names of their verbs, each about what it is done to, whatever becomes of it.
#[tokio::test(flavor = "multi_thread")]
async fn ceremonies_leave_one_line_each() {
    let world = World::sealed(Shape { mode: SealMode::Quorum, k: 2, n: 3, ..Shape::durable() }).await;
    let [one, two, _] = world.admins.as_slice() else { panic!("three admins") };
    let mut admin = Caller::new(&world, one).await;
    let mut expected = vec![said("cluster.init", "cluster", 200)];
    admin.call("GET", "/v1/seal").await.ok();
    let session: api::UnsealSession = admin.call("POST", "/v1/seal/session").await.ok().json();
    let path = format!("/v1/seal/session/{}", session.id);
    let key: api::EncryptedShareKey = admin.call("GET", &format!("{path}/key")).await.ok().json();
    let good = share(&world, one, &session, &key);
    let bad = api::GiveShare { file: Bytes(b"age".to_vec()), ..good.clone() };
    admin.call_json("POST", &format!("{path}/share"), &bad).await.refused(Code::BadShare);
    admin.call_json("POST", &format!("{path}/share"), &good).await.ok();
    expected.extend([
        said("seal.status", "seal", 200),
        said("seal.session", "seal", 200),
        said("seal.key", "seal", 200),
        said("seal.share", "seal", Code::BadShare.status()),
        said("seal.share", "seal", 200),
    ]);
    // Statements that do not hold; both are well-formed.
    let signed = api::Signed { envelope: one.record.clone() };
    let consent = admin.call_json("POST", "/v1/seal:consent", &signed).await;
    let document = admin.call_json("POST", "/v1/document", &signed).await;
    assert!(consent.status >= 400 && document.status >= 400);
    expected.push(said("seal.consent", "seal", consent.status));
    expected.push(said("document.put", "cluster", document.status));
    // What does not parse was about nothing yet; and who is no admin is a stranger here.
    let garbage = admin.request("POST", "/v1/document", JSON_MEDIA_TYPE, b"{}".to_vec(), admin.nonce());
    admin.send(&garbage).await.refused(Code::Malformed);
    expected.push((Some("document.put".into()), None, Code::Malformed.status()));
    Caller::new(&world, &Person::new("x")).await.call("GET", "/v1/seal").await.refused(Code::Unauthenticated);
    let mut second = Caller::new(&world, two).await;
    let key: api::EncryptedShareKey = second.call("GET", &format!("{path}/key")).await.ok().json();
    let last: api::ShareGiven =
        second.call_json("POST", &format!("{path}/share"), &share(&world, two, &session, &key)).await.ok().json();
    assert_eq!(last.state, api::SealState::Unsealed);
    expected.extend([said("seal.key", "seal", 200), said("seal.share", "seal", 200)]);
    // Unsealed: what is over, who may not, and the end.
    admin.send(&open("POST", "/v1/challenge")).await.ok();
    admin.call("POST", "/v1/seal/session").await.refused(Code::NotSealed);
    expected.push((Some("seal.session".into()), None, Code::NotSealed.status()));
    let document = admin.call_json("POST", "/v1/document", &signed).await;
    expected.push(said("document.put", "cluster", document.status));
    let mut nobody = Caller::new(&world, &world.admit("nobody").await).await;
    let recovery = api::RecoverPolicies { policies: "{}".into(), approval: one.record.clone() };
    nobody.call_json("POST", "/v1/policy:recover", &recovery).await.refused(Code::Denied);
    admin.call("POST", "/v1/seal:seal").await.ok();
    let lines: Vec<Said> = lines(&world)
        .await
        .into_iter()
        .filter_map(|line| match line.body {
            Body::Request(line) => Some((
                line.action.map(|action| action.as_str().to_owned()),
                line.resource.map(|resource| resource.as_str().to_owned()),
                line.outcome.status,
            )),
            _ => None,
        })
        .filter(|(action, ..)| !action.as_deref().is_some_and(|action| action.starts_with("principal.")))
        .collect();
    expected.push(said("policy.recover", "policy", Code::Denied.status()));
    expected.push(said("seal.seal", "seal", 200));
    assert_eq!(lines, expected);
    finish(world).await;
}

type Said = (Option<String>, Option<String>, u16);

fn said(action: &str, resource: &str, status: u16) -> Said {
    (Some(action.to_owned()), Some(resource.to_owned()), status)
}

/// What fails before its key is known cannot fill the disk.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_counted() {
    let mut world = World::new(Shape::default()).await;
    let mut stranger = Caller::new(&world, &Person::new("stranger")).await;
    let before = lines(&world).await.len();
    for _ in 0..300 {
        let request = stranger.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], stranger.nonce());
        stranger.send(&request).await.refused(Code::Unauthenticated);
        stranger.send(&open("GET", "/v1/health")).await.ok();
    }
    // Counts that wait are written when the log ends.
    world.stop().await;
    let after = written(&world);
    assert!(after.len() - before < 20, "{} lines", after.len() - before);
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
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        if reply.status != 200 {
            blocked = Some((reply, began.elapsed()));
            break;
        }
    }
    let (reply, took) = blocked.expect("a pipe ends");
    println!("blocked after {took:?}");
    assert!(matches!(reply.code(), Some(Code::AuditBlocked)), "{reply:?}");
    assert!(took <= Duration::from_secs(5), "{took:?}");
    // The thread that writes may have begun its call a little later than the request its wait. Whoever came between the
    // two would be told `unknown`, which is true then.
    let began = Instant::now();
    while admin.send(&open("GET", "/v1/health")).await.json::<api::Health>().audit_ok {
        assert!(began.elapsed() < Duration::from_secs(5), "a blocked log is told");
    }
    let before = rows(&world).await;
    let body = api::PutPolicy { text: "permit (principal, action, resource);".into(), replaces: None };
    for _ in 0..3 {
        let began = Instant::now();
        let reply = admin.call_json("PUT", "/v1/policy/open", &body).await.refused(Code::AuditBlocked);
        assert!(reply.headers.contains_key("retry-after"));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(rows(&world).await, before, "no effect");
    let health = admin.send(&open("GET", "/v1/health")).await;
    assert_eq!(health.status, 503);
    assert!(!health.json::<api::Health>().audit_ok);
    // No query makes a blocked log look well.
    let chosen = open("GET", "/v1/health?activecode=200&sealedcode=200&uninitcode=200");
    assert_eq!(admin.send(&chosen).await.status, 503);
    // The keys can be forgotten even now.
    admin.send(&open("POST", "/v1/challenge")).await.ok();
    let seal = admin.request("POST", "/v1/seal:seal", EMPTY_MEDIA_TYPE, vec![], admin.nonce());
    let began = Instant::now();
    let sealed = admin.send(&seal).await;
    println!("seal: {} after {:?}", sealed.status, began.elapsed());
    // Two seconds of waiting for the log, and what a busy machine needs besides.
    assert!(began.elapsed() < Duration::from_secs(10));
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
