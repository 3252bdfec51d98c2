//! Bad input at every route: an error that names the field, and a store that is as it was.

use crate::canary::log;
use crate::cases::{Cast, next_document, share};
use crate::support::{Caller, Reply, announce, audit_path, finish, open, rows, tls};
use bulla_crypto::evidence;
use bulla_server::gate::Gate;
use bulla_server::listen::{Failed, Handler as _, Peer};
use bulla_server::route::{Auth, Endpoint, ROUTES, RequestBody, Route};
use bulla_testkit::canary::{Canary, assert_absent, scan_bytes};
use bulla_testkit::world::{Shape, World};
use bulla_wire::api;
use bulla_wire::error::Code;
use bulla_wire::evidence::GenesisApproval;
use bulla_wire::json::{self, V1};
use bulla_wire::signature::{AGE_MEDIA_TYPE, Audience, EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn named(what: &str, reply: &Reply) {
    assert!((400..500).contains(&reply.status), "{what}: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
    let error = reply.error().unwrap_or_else(|| panic!("{what}: no error body"));
    assert!(error.field.is_some(), "{what}: no field in {error:?}");
    assert!(!error.message.is_empty());
    assert!(error.hint.as_ref().is_some_and(|hint| !hint.is_empty()), "{what}: no hint in {error:?}");
}

/// Looks after each request that nothing was changed, and nothing of it was kept or told.
struct Watch<'a> {
    before: BTreeMap<(String, Vec<u8>), Vec<u8>>,
    mark: &'a Canary,
    logged: usize,
    audited: usize,
    looks: usize,
}

impl<'a> Watch<'a> {
    async fn new(world: &World, mark: &'a Canary) -> Self {
        let mut watch = Self { before: rows(world).await, mark, logged: 0, audited: 0, looks: 0 };
        (watch.logged, watch.audited) = (log().since(0).len(), audited(world).await.len());
        watch
    }

    /// An error about plain JSON may repeat it to whoever sent it, and to nobody else.
    async fn look(&mut self, world: &World, request: RequestBody, what: &str, reply: &Reply) {
        assert_eq!(rows(world).await, self.before, "{what}: the store changed");
        let headers = format!("{:?}", reply.headers);
        let (logged, audited) = (log().since(self.logged), audited(world).await.split_off(self.audited));
        (self.logged, self.audited) = (self.logged + logged.len(), self.audited + audited.len());
        self.looks += 1;
        let answer = if matches!(request, RequestBody::Json { .. }) { &[][..] } else { &reply.body[..] };
        for (place, text) in
            [("answer", answer), ("headers", headers.as_bytes()), ("log", &logged), ("audit log", &audited)]
        {
            let found = scan_bytes(std::slice::from_ref(self.mark), Path::new(place), text);
            assert!(found.is_empty(), "{what}: {}", found[0]);
        }
    }
}

/// The audit log as it lies on the disk.
async fn audited(world: &World) -> Vec<u8> {
    world.server().node.parts.sink.flush().await.unwrap();
    let mut files: Vec<_> = std::fs::read_dir(audit_path(world)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect()
}

/// Bodies that a route may not take, made from one that it takes. The mark stands where a secret might stand that
/// somebody sent by mistake.
fn bad_bodies(request: RequestBody, good: &[u8], mark: &Canary) -> Vec<(&'static str, Vec<u8>)> {
    let half = good[..good.len() / 2].to_vec();
    let more = [good, b"x"].concat();
    match request {
        RequestBody::Json { .. } => {
            let text = std::str::from_utf8(good).unwrap();
            let (word, first) = (mark.as_str(), text.split('"').nth(1).unwrap());
            let inner = text.strip_prefix('{').unwrap();
            let mut foreign: serde_json::Value = serde_json::from_str(text).unwrap();
            foreign[first] = serde_json::json!([[word]]);
            let mut number: serde_json::Value = serde_json::from_str(text).unwrap();
            number[first] = serde_json::json!(1.5);
            vec![
                ("nothing", vec![]),
                ("half", half),
                ("no JSON", b"\xff\xfe".to_vec()),
                ("a word", mark.bytes().to_vec()),
                ("a text", format!("\"{word}\"").into_bytes()),
                ("a list", format!("[{text}]").into_bytes()),
                ("an unknown field", format!("{{\"canary\":\"{word}\",{inner}").into_bytes()),
                ("a doubled field", format!("{{\"{first}\":\"{word}\",{inner}").into_bytes()),
                ("a foreign type", foreign.to_string().into_bytes()),
                ("a fraction", number.to_string().into_bytes()),
                ("something after it", format!("{text} \"{word}\"").into_bytes()),
                ("a comma too much", format!("{{,{inner}").into_bytes()),
                ("another case", text.replacen(first, &first.to_uppercase(), 1).into_bytes()),
                ("deep", [vec![b'['; 10_000], vec![b']'; 10_000]].concat()),
            ]
        }
        RequestBody::Age { .. } => {
            vec![("nothing", vec![]), ("no age file", mark.bytes().to_vec()), ("half", half), ("a byte more", more)]
        }
        RequestBody::Parcel { .. } => vec![
            ("nothing", vec![]),
            ("no parcel", mark.bytes().to_vec()),
            ("a length alone", vec![0, 0, 0, 200]),
            ("a length beyond", vec![255; 64]),
            ("half", half),
            ("a byte less", good[..good.len() - 1].to_vec()),
            ("a byte more", more),
        ],
        RequestBody::Empty => vec![("a body", mark.bytes().to_vec())],
    }
}

/// A request that a route takes from this caller: target and body.
struct Good {
    route: &'static Route,
    target: String,
    body: Vec<u8>,
}

/// Every bad body, a body that is too large, and every wrong media type. `judge` says what the answer must be.
async fn try_bodies(world: &World, caller: &mut Caller, good: &Good, mark: &Canary, judge: fn(&str, &Reply)) -> usize {
    let Good { route, target, body } = good;
    let mut watch = Watch::new(world, mark).await;
    let media = route.request.media_type();
    let mut all: Vec<(String, &str, Vec<u8>)> = Vec::new();
    all.extend(bad_bodies(route.request, body, mark).into_iter().map(|(what, body)| (what.to_owned(), media, body)));
    for other in ["text/plain", "application/json; charset=utf-8", JSON_MEDIA_TYPE, EMPTY_MEDIA_TYPE, AGE_MEDIA_TYPE] {
        if other != media {
            all.push((format!("media type {other}"), other, body.clone()));
        }
    }
    for (what, media, body) in all {
        let what = format!("{} {} with {what}", route.method, route.template);
        let request = caller.request(route.method, target, media, body, caller.nonce());
        let reply = caller.send(&request).await;
        judge(&what, &reply);
        watch.look(world, route.request, &what, &reply).await;
    }
    let large = vec![b' '; route.request.max_bytes() + 1];
    let request = caller.request(route.method, target, media, large, caller.nonce());
    let status = announce(world.server().ready.address, &request).await;
    assert!(status == 413 || status == 503 || status == 501, "{}: {status}", route.template);
    assert_eq!(rows(world).await, watch.before, "{} with too much", route.template);
    watch.looks
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_that_is_wrong_is_named_and_changes_nothing() {
    log();
    let world = World::new(Shape::durable()).await;
    let mut cast = Cast::new(&world).await;
    let mark = Canary::text("body");
    let mut tried = 0;
    for route in ROUTES {
        let sealed_only = matches!(
            route.endpoint,
            Endpoint::SealSession | Endpoint::SealKey | Endpoint::SealShare | Endpoint::SealConsent
        );
        if matches!(route.auth, Auth::Open | Auth::Init) || sealed_only {
            continue;
        }
        let (who, request) = cast.request(&world, route).await;
        let target = format!("{}?{}", request.path, request.query).trim_end_matches('?').to_owned();
        let good = Good { route, target, body: request.body };
        tried += try_bodies(&world, cast.caller(who), &good, &mark, named).await;
        let before = rows(&world).await;
        let caller = cast.caller(who);
        for query in
            ["unknown=1", "limit=0", "limit=1&limit=1", "limit", "=1", "limit=x", "after=!", "limit=99999999999"]
        {
            let target = format!("{}?{query}", request.path);
            let media = route.request.media_type();
            let request = caller.request(route.method, &target, media, good.body.clone(), caller.nonce());
            let reply = caller.wire.send(&request).await;
            let what = format!("{} {}?{query}", route.method, route.template);
            // A cursor in its form that leads nowhere is an empty page.
            if reply.status == 200 {
                assert!(query == "after=!" && !route.query.contains(&"after"), "{what}: {}", reply.status);
            } else {
                named(&what, &reply);
            }
            tried += 1;
        }
        assert_eq!(rows(&world).await, before, "{} {}", route.method, route.template);
    }
    println!("{tried} bad requests");
    assert_absent(std::slice::from_ref(&mark), [world.data().as_path()]);
    finish(world).await;
}

/// The same while there are no keys, and while there is no cluster: what is open then is judged as strictly, and the
/// rest says why it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_keys_takes_no_bad_body_either() {
    log();
    let mark = Canary::text("body");
    let world = World::new(Shape::durable()).await;
    let mut cast = Cast::new(&world).await;
    let mut others = Vec::new();
    for route in ROUTES.iter().filter(|route| matches!(route.auth, Auth::Policy(_))) {
        let (_, request) = cast.request(&world, route).await;
        let target = format!("{}?{}", request.path, request.query).trim_end_matches('?').to_owned();
        others.push(Good { route, target, body: request.body });
    }
    let document = next_document(&world);
    world.client(&world.admins[0]).seal().await.unwrap();

    let mut admin = Caller::new(&world, &world.admins[0]).await;
    let session: api::UnsealSession = admin.call("POST", "/v1/seal/session").await.ok().json();
    let key_path = format!("/v1/seal/session/{}/key", session.id);
    let key: api::EncryptedShareKey = admin.call("GET", &key_path).await.ok().json();
    let share = json::to_vec(&share(&world, &world.admins[0], &session, &key));
    let approval = GenesisApproval { v: V1, cluster: world.cluster };
    let envelope = evidence::sign_in_memory(&approval, &[world.admins[0].identity.signing_key().unwrap()]).unwrap();
    let statement = json::to_vec(&api::Signed { envelope });
    let mut tried = 0;
    for route in ROUTES.iter().filter(|route| !matches!(route.auth, Auth::Open | Auth::Init)) {
        let (target, body) = match route.endpoint {
            Endpoint::SealStatus => ("/v1/seal".to_owned(), vec![]),
            Endpoint::SealSession => ("/v1/seal/session".to_owned(), vec![]),
            Endpoint::SealKey => (key_path.clone(), vec![]),
            Endpoint::SealShare => (key_path.replace("/key", "/share"), share.clone()),
            Endpoint::SealConsent => ("/v1/seal:consent".to_owned(), statement.clone()),
            Endpoint::DocumentPut => ("/v1/document".to_owned(), document.clone()),
            _ => continue,
        };
        let good = Good { route, target, body };
        tried += try_bodies(&world, &mut admin, &good, &mark, named).await;
    }
    let closed = others.iter().filter(|good| good.route.endpoint != Endpoint::DocumentPut);
    for good in closed {
        tried += try_bodies(&world, &mut admin, good, &mark, |what, reply| {
            assert!(matches!(reply.status, 400..=503), "{what}: {reply:?}");
            assert!(reply.code() == Some(Code::Sealed) || (400..500).contains(&reply.status), "{what}: {reply:?}");
        })
        .await;
    }
    // None of it harmed the ceremony.
    let path = key_path.replace("/key", "/share");
    let given = admin.request("POST", &path, JSON_MEDIA_TYPE, share, admin.nonce());
    let given: api::ShareGiven = admin.send(&given).await.ok().json();
    assert_eq!(given.state, api::SealState::Unsealed);
    assert_absent(std::slice::from_ref(&mark), [world.data().as_path()]);
    finish(world).await;

    let shape = Shape::durable();
    let world = World::bare(&shape).await;
    let node = Audience::Node(world.server().ready.node);
    let mut first = Caller::of(&world, world.admins[0].identity.clone(), node).await;
    let route = ROUTES.iter().find(|route| route.auth == Auth::Init).unwrap();
    let init = Good { route, target: "/v1/init".to_owned(), body: json::to_vec(&world.init(&shape)) };
    tried += try_bodies(&world, &mut first, &init, &mark, named).await;
    for good in &others {
        tried += try_bodies(&world, &mut first, good, &mark, |what, reply| {
            assert!(reply.status >= 400, "{what}: {reply:?}");
        })
        .await;
    }
    println!("{tried} bad requests");
    assert_absent(std::slice::from_ref(&mark), [world.data().as_path()]);
    first.call_json("POST", "/v1/init", &world.init(&shape)).await.ok();
}

/// Names, ids and paths that are not spelt so.
#[tokio::test(flavor = "multi_thread")]
async fn every_path_has_one_spelling() {
    let world = World::new(Shape::default()).await;
    let mut cast = Cast::new(&world).await;
    let before = rows(&world).await;
    let long = "a".repeat(129);
    let deep = vec!["a"; 17].join("/");
    let mut paths = vec!["/".to_owned(), "/v1".into(), "/v2/whoami".into(), "/v1/whoami/".into(), "/V1/whoami".into()];
    for name in ["..", ".", "a%20b", "a b", "", "é", long.as_str(), "a:b", "a\\b", "a,b"] {
        let name = name.replace(' ', "%20").replace('é', "%C3%A9").replace('\\', "%5C");
        paths.push(format!("/v1/principal/{name}"));
        paths.push(format!("/v1/kv/{name}"));
        paths.push(format!("/v1/kv/a/{name}/b"));
    }
    paths.push(format!("/v1/kv/{deep}"));
    for id in ["a", "A".repeat(26).as_str(), "0".repeat(26).as_str(), "a".repeat(27).as_str()] {
        paths.push(format!("/v1/wrap/{id}"));
    }
    for path in &paths {
        let caller: &mut Caller = &mut cast.bob;
        let request = caller.request("GET", path, "application/octet-stream", vec![], caller.nonce());
        let reply = caller.wire.send(&request).await;
        assert!(matches!(reply.code(), Some(Code::UnknownRoute | Code::MethodNotAllowed)), "{path}: {reply:?}");
    }
    let reply = cast.bob.wire.send(&open("PATCH", "/v1/whoami")).await.refused(Code::MethodNotAllowed);
    assert_eq!(reply.header("allow"), "GET");
    assert_eq!(rows(&world).await, before);
    finish(world).await;
}

/// What is no HTTP, or more of it than anyone needs, ends the connection and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_ends_the_connection() {
    let world = World::new(Shape::default()).await;
    let before = rows(&world).await;
    let long = "x".repeat(40_000);
    let many = (0..200).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    for (what, text) in [
        ("noise", "\x16\x03\x01 nothing\r\n\r\n".to_owned()),
        ("a long line", format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n")),
        ("a long header", format!("GET /v1/health HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n")),
        ("many headers", format!("GET /v1/health HTTP/1.1\r\nhost: x\r\n{many}\r\n")),
        ("two lengths", "POST /v1/challenge HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".into()),
        ("length and chunks", "POST /v1/challenge HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into()),
        ("a folded header", "GET /v1/health HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n".into()),
    ] {
        let mut stream = tls(world.server().ready.address, "http/1.1").await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(std::time::Duration::from_secs(15), stream.read_to_end(&mut answer)).await;
        let ended = read.unwrap_or_else(|_| panic!("{what}: the connection stays"));
        let told = String::from_utf8_lossy(&answer).into_owned();
        let answers = told.matches("HTTP/1.1 ").count();
        println!("{what}: {ended:?} {:?}", told.lines().next());
        // An end without an answer will do, and for chunks beside a length any one answer: RFC 9112 §6.3 lets them win.
        assert!(answers <= 1, "{what}: {told}");
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 4") || what == "length and chunks", "{what}: {told}");
    }
    assert_eq!(rows(&world).await, before);
    assert!(world.client(&world.admins[0]).whoami().await.is_ok());
    finish(world).await;
}

/// Whatever is answered under `/v1` is signed and counted, long headers and panics too.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_without_a_signature() {
    let world = World::new(Shape::default()).await;
    let mut caller = Caller::new(&world, &world.admins[0]).await;
    for mut request in [
        open("GET", "/v1/health"),
        open("GET", "/v1/nowhere"),
        caller.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], caller.nonce()),
    ] {
        request.headers.push(("x-long".into(), "y".repeat(13 * 1024)));
        // What is sent here is verified.
        let refused = caller.send(&request).await.refused(Code::SignatureTemplate);
        assert_eq!(refused.error().unwrap().field.as_deref(), Some("headers"));
    }
    let request = open("POST", "/v1/wrap");
    let gate = Gate::new(world.server().node.clone());
    let (method, uri) = (request.method.parse().unwrap(), request.path.parse().unwrap());
    let (head, body) = gate.failed(Failed { method, uri, peer: Peer::Local { uid: 0 } }).into_parts();
    let reply = Reply { status: head.status.as_u16(), headers: head.headers, body };
    reply.verify(&request, &caller.node);
    assert!(reply.refused(Code::Internal).error().unwrap().hint.is_some());
    let told = world.server().node.parts.metrics.text();
    assert!(told.contains("signature_template"), "{told}");
    finish(world).await;
}

/// Another method than a path takes is refused with those that it takes, as HTTP has it (RFC 9110 §15.5.6).
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_told_the_right_ones() {
    let world = World::new(Shape::default()).await;
    let mut caller = Caller::new(&world, &world.admins[0]).await;
    for path in ["/v1/health", "/v1/kv/app/db", "/v1/seal"] {
        let reply = caller.send(&open("POST", path)).await.refused(Code::MethodNotAllowed);
        let told: BTreeSet<_> = reply.header("allow").split(", ").collect();
        let methods = ["GET", "PUT", "PATCH", "POST", "DELETE"].into_iter();
        let taken: BTreeSet<_> = methods.filter(|method| bulla_server::route::find(method, path).is_ok()).collect();
        assert!(!taken.is_empty(), "{path}");
        assert_eq!(told, taken, "{path}");
    }
    finish(world).await;
}
