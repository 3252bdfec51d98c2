//! Bad input at every route: an error that names the field, and a store that is as it was.

use crate::cases::Cast;
use crate::support::{Caller, Reply, announce, finish, open, rows, tls};
use bulla_server::gate::Gate;
use bulla_server::listen::{Failed, Handler as _, Peer};
use bulla_server::route::{Auth, Endpoint, ROUTES, RequestBody};
use bulla_testkit::world::{Shape, World};
use bulla_wire::error::Code;
use bulla_wire::signature::EMPTY_MEDIA_TYPE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn named(what: &str, reply: &Reply) {
    assert!((400..500).contains(&reply.status), "{what}: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
    let error = reply.error().unwrap_or_else(|| panic!("{what}: no error body"));
    assert!(error.field.is_some(), "{what}: no field in {error:?}");
    assert!(!error.message.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_that_is_wrong_is_named_and_changes_nothing() {
    let world = World::new(Shape::durable()).await;
    let mut cast = Cast::new(&world).await;
    let mut tried = 0;
    for route in ROUTES {
        let sealed_only = matches!(
            route.endpoint,
            Endpoint::SealSession | Endpoint::SealKey | Endpoint::SealShare | Endpoint::SealConsent
        );
        if matches!(route.auth, Auth::Open | Auth::Init) || sealed_only {
            continue;
        }
        let (who, good) = cast.request(&world, route).await;
        let before = rows(&world).await;
        let caller = cast.caller(who);
        let target = format!("{}?{}", good.path, good.query).trim_end_matches('?').to_owned();
        let media = route.request.media_type();
        let mut bodies: Vec<(&str, Vec<u8>)> = vec![("a body", b"x".to_vec())];
        if let RequestBody::Json { .. } = route.request {
            let text = String::from_utf8(good.body.clone()).unwrap();
            let first = text.split('"').nth(1).unwrap().to_owned();
            let inner = text.strip_prefix('{').unwrap().to_owned();
            bodies = vec![
                ("nothing", vec![]),
                ("half", text.as_bytes()[..text.len() / 2].to_vec()),
                ("no JSON", b"\xff\xfe".to_vec()),
                ("a list", format!("[{text}]").into_bytes()),
                ("an unknown field", format!("{{\"canary\":1,{inner}").into_bytes()),
                ("a doubled field", format!("{{\"{first}\":null,{inner}").into_bytes()),
                ("something after it", format!("{text} {{}}").into_bytes()),
                ("another case", text.replacen(&first, &first.to_uppercase(), 1).into_bytes()),
                ("deep", [vec![b'['; 100_000], vec![b']'; 100_000]].concat()),
            ];
        }
        if let RequestBody::Age { .. } = route.request {
            bodies = vec![
                ("nothing", vec![]),
                ("no age file", b"hello".to_vec()),
                ("half", good.body[..good.body.len() / 2].to_vec()),
                ("a byte more", [&good.body[..], b"x"].concat()),
            ];
        }
        if let RequestBody::Parcel { .. } = route.request {
            bodies = vec![
                ("nothing", vec![]),
                ("a length alone", vec![0, 0, 0, 200]),
                ("a length beyond", vec![255; 64]),
                ("half", good.body[..good.body.len() / 2].to_vec()),
                ("a byte less", good.body[..good.body.len() - 1].to_vec()),
                ("a byte more", [&good.body[..], b"x"].concat()),
            ];
        }
        for (what, body) in bodies {
            let request = caller.request(route.method, &target, media, body, caller.nonce());
            let reply = caller.send(&request).await;
            named(&format!("{} {} with {what}", route.method, route.template), &reply);
            tried += 1;
        }
        // One byte above the limit.
        let large = vec![b' '; route.request.max_bytes() + 1];
        let request = caller.request(route.method, &target, media, large, caller.nonce());
        assert_eq!(announce(world.server().ready.address, &request).await, 413, "{}", route.template);
        // Queries.
        for query in
            ["unknown=1", "limit=0", "limit=1&limit=1", "limit", "=1", "limit=x", "after=!", "limit=99999999999"]
        {
            let request = caller.request(
                route.method,
                &format!("{}?{query}", good.path),
                media,
                good.body.clone(),
                caller.nonce(),
            );
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
    finish(world).await;
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
        let mut answer = vec![0; 12];
        let read = tokio::time::timeout(std::time::Duration::from_secs(15), stream.read_exact(&mut answer)).await;
        if let Ok(Ok(_)) = read {
            let status = String::from_utf8_lossy(&answer).into_owned();
            let refused = status.starts_with("HTTP/1.1 4");
            // RFC 9112 §6.3: chunks win over a length, and the connection ends.
            assert!(refused || what == "length and chunks", "{what}: {status}");
        }
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
    let gate = Gate { node: world.server().node.clone() };
    let (method, uri) = (request.method.parse().unwrap(), request.path.parse().unwrap());
    let (head, body) = gate.failed(Failed { method, uri, peer: Peer::Local { uid: 0 } }).into_parts();
    let reply = Reply { status: head.status.as_u16(), headers: head.headers, body };
    reply.verify(&request, &caller.node);
    assert!(reply.refused(Code::Internal).error().unwrap().hint.is_some());
    let told = world.server().node.parts.metrics.text();
    assert!(told.contains("signature_template"), "{told}");
    finish(world).await;
}
