//! Callers who are known by the certificate of their connection.

use crate::cases::{Cast, kv_body, policy_check};
use crate::governance::{admit_by, enrol};
use crate::support::{Caller, Reply, Request, Wire, finish, lasting, lines, requests, rows, view};
use bulla_client::Admit;
use bulla_core::audit::{Body, RequestLine};
use bulla_crypto::envelope;
use bulla_crypto::evidence::{self, PrincipalKey, record_payload};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SystemRng;
use bulla_crypto::share::open_in_memory;
use bulla_crypto::sign::{PublicKey, RsaMinimum, Signer, SigningKey};
use bulla_server::route::{Auth, Proof, ROUTES, Route, find};
use bulla_testkit::raw::ingress;
use bulla_testkit::tls::{self, Shown};
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api;
use bulla_wire::dsse::Envelope;
use bulla_wire::encoding::base64;
use bulla_wire::error::Code;
use bulla_wire::id::{KeyId, Nonce};
use bulla_wire::json;
use bulla_wire::signature::{
    AUDIENCE_HEADER, CALLER_HEADER, CONTENT_DIGEST_HEADER, EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE, NONCE_HEADER,
    SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Somebody who signs nothing.
struct Holder {
    wire: Wire,
    audience: String,
    node: PublicKey,
}

impl Holder {
    fn new(world: &World, person: &Person) -> Self {
        Self::showing(world, tls::certificate(person.identity.signing_key().unwrap(), |_| {}))
    }

    fn showing(world: &World, shown: Shown) -> Self {
        let node = world.server().node.parts.key.public_key().clone();
        let wire = Wire::showing(world.server().ready.address, shown);
        Self { wire, audience: world.cluster.to_string(), node }
    }

    /// What a request needs, and no more.
    fn request(&self, method: &str, target: &str, body: Option<(&str, Vec<u8>)>, nonce: Option<Nonce>) -> Request {
        let mut request = crate::support::open(method, target);
        request.headers.push((AUDIENCE_HEADER.to_owned(), self.audience.clone()));
        if let Some((media, body)) = body {
            request.headers.push(("content-type".to_owned(), media.to_owned()));
            request.body = body;
        }
        if let Some(nonce) = nonce {
            request.headers.push((NONCE_HEADER.to_owned(), nonce.to_string()));
        }
        request
    }

    async fn send(&mut self, request: &Request) -> Reply {
        let reply = self.wire.send(request).await;
        reply.verify(request, &self.node);
        reply
    }

    async fn get(&mut self, target: &str) -> Reply {
        let request = self.request("GET", target, None, None);
        self.send(&request).await
    }

    async fn name(&mut self) -> String {
        self.get("/v1/whoami").await.ok().json::<api::Whoami>().principal.name.to_string()
    }
}

fn key_of(person: &Person) -> KeyId {
    person.identity.signing_key().unwrap().public_key().key_id()
}

/// The same request without its signature.
fn unsigned(signed: &Request, nonce: Option<Nonce>) -> Request {
    let kept = [AUDIENCE_HEADER, "content-type"];
    let mut request = signed.clone();
    request.headers.retain(|(name, _)| kept.contains(&name.as_str()));
    if let Some(nonce) = nonce {
        request.headers.push((NONCE_HEADER.to_owned(), nonce.to_string()));
    }
    request
}

/// The newest line of a request whose key was known.
async fn last(world: &World) -> RequestLine {
    let mut lines = lines(world).await.into_iter().rev();
    let found = lines.find_map(|line| if let Body::Request(line) = line.body { Some(*line) } else { None });
    found.expect("a line")
}

fn with(request: &Request, name: &str, value: impl Into<String>) -> Request {
    let mut request = request.clone();
    request.headers.push((name.to_owned(), value.into()));
    request
}

fn without(request: &Request, name: &str) -> Request {
    let mut request = request.clone();
    request.headers.retain(|(given, _)| given != name);
    request
}

/// A good request of everybody to every route: the certificate gives what the signature gives where the table says so,
/// and nothing at all elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_takes_a_certificate_or_says_that_it_needs_a_signature() {
    let world = World::new(Shape::default()).await;
    let mut cast = Cast::new(&world).await;
    let mut taken = 0;
    for route in ROUTES.iter().filter(|route| !matches!(route.auth, Auth::Open)) {
        let (caller, target, body) = match route.auth {
            Auth::Policy(_) => {
                let (who, (target, body)) = cast.good(&world, route).await;
                (cast.caller(who).key.clone(), target, body)
            }
            _ => {
                let target = route.template.replace("{id}", "aaaaaaaaaaaaaaaaaaaaaaaaaa");
                (world.admins[0].identity.clone(), target, vec![])
            }
        };
        let shown = tls::certificate(caller.signing_key().unwrap(), |_| {});
        let mut holder = Holder::showing(&world, shown);
        let signer = Caller::of(&world, caller.clone(), holder.audience.parse().unwrap()).await;
        let nonce = signer.nonce();
        let body = match route.request {
            bulla_server::route::RequestBody::Age { .. } => {
                signer.ingress(&world, route.method, &target, &nonce, &body)
            }
            _ => body,
        };
        let media = Some((route.request.media_type(), body));
        let request = holder.request(route.method, &target, media, Some(nonce));
        let (before, stored) = (requests(&world).await, rows(&world).await);
        let reply = holder.send(&request).await;
        let told = format!("{} {}: {reply:?}", route.method, route.template);
        if route.proof == Proof::Signature {
            let error = reply.clone().refused(Code::SignatureRequired).error().unwrap();
            assert!(error.hint.is_some() && error.field.is_some() && error.id.is_none(), "{told}");
            assert!(!reply.to_signed() && !reply.to_certificate(), "{told}");
            assert_eq!(rows(&world).await, stored, "{told}");
            assert_eq!(requests(&world).await, before, "{told}");
            continue;
        }
        taken += 1;
        assert_eq!(reply.status, 200, "{told} {:?}", reply.error());
        assert!(reply.to_certificate(), "{told}");
        let key = caller.signing_key().unwrap().public_key().key_id();
        assert_eq!(reply.header(CALLER_HEADER), key.to_string(), "{told}");
        let line = last(&world).await;
        assert!(line.mtls && line.key == key && line.outcome.status == 200, "{told}: {line:?}");
    }
    assert_eq!(taken, ROUTES.iter().filter(|route| route.proof == Proof::Mtls).count());
    let metrics = world.server().node.parts.metrics.text();
    assert!(metrics.contains(&format!("bulla_mtls_requests_total {taken}\n")), "{metrics}");
    // Open routes look at no certificate.
    let reply = Holder::new(&world, &cast.alice_person).get("/v1/health").await.ok();
    assert!(!reply.to_certificate());
    finish(world).await;
}

/// Everybody, at every read: the same status, the same code and the same words by certificate as by signature.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_gives_no_more_than_a_signature() {
    let world = World::new(Shape::default()).await;
    let mut cast = Cast::new(&world).await;
    let admin = world.client(&world.admins[0]);
    let text = "permit (principal, action in [Bulla::Action::\"kv\", Bulla::Action::\"transit\"], resource) \
                when { principal.name == \"alice\" };";
    let put = api::PutPolicy { text: text.to_owned(), replaces: None };
    for name in ["kv", "transit", "doomed"] {
        admin.policy_put(&name.parse().unwrap(), &put).await.unwrap();
    }
    let (stranger, disabled) = (world.admit("stranger").await, world.admit("disabled").await);
    admin.principal_disable(&disabled.name).await.unwrap();
    let (gone, void) = (world.admit("gone").await, Person::new("void"));
    enrol(&world, &gone, true).await;
    admit_by(&world, &gone, &void, &[]).await;
    enrol(&world, &gone, false).await;
    let unknown = Person::new("unknown");
    let everybody =
        [&world.admins[0], &cast.alice_person.clone(), &cast.bob_person.clone(), &stranger, &disabled, &void, &unknown];
    let mut denied = 0;
    for route in ROUTES.iter().filter(|route| route.proof == Proof::Mtls) {
        let (_, (target, body)) = cast.good(&world, route).await;
        for person in everybody {
            let mut holder = Holder::new(&world, person);
            let mut signer = Caller::new(&world, person).await;
            let signed = signer.of_route(&world, route, &target, body.clone());
            let by_signature = signer.send(&signed).await;
            let nonce = signer.nonce();
            let body = match route.request {
                bulla_server::route::RequestBody::Age { .. } => {
                    ingress(&view(&world), &person.identity, route.method, &target, &nonce, &body)
                }
                _ => body.clone(),
            };
            let request = holder.request(route.method, &target, Some((route.request.media_type(), body)), Some(nonce));
            let by_certificate = holder.send(&request).await;
            let told = format!("{} {} by {}: {by_certificate:?}", route.method, route.template, person.name);
            assert_eq!(by_certificate.status, by_signature.status, "{told}");
            assert_eq!(by_certificate.code(), by_signature.code(), "{told}");
            denied += usize::from(by_signature.code() == Some(Code::Denied));
            if [&disabled, &void, &unknown].iter().any(|other| other.name == person.name) {
                // One refusal for all of them, byte for byte.
                assert_eq!(by_certificate.code(), Some(Code::Unauthenticated), "{told}");
                assert_eq!(by_certificate.body, by_signature.body, "{told}");
                assert_eq!(lasting(&by_certificate.headers), lasting(&by_signature.headers), "{told}");
                assert!(!by_certificate.to_certificate(), "{told}");
            }
        }
    }
    assert!(denied > 5, "policy is asked: {denied}");
    finish(world).await;
}

/// Within one connection: whoever is disabled or rotated is nobody at the next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_away_is_refused_in_an_open_connection() {
    let world = World::new(Shape::default()).await;
    let (bob, carol) = (world.admit("bob").await, world.admit("carol").await);
    let admin = world.client(&world.admins[0]);
    let (mut by_bob, mut by_carol) = (Holder::new(&world, &bob), Holder::new(&world, &carol));
    assert_eq!((by_bob.name().await, by_carol.name().await), ("bob".to_owned(), "carol".to_owned()));
    admin.principal_disable(&bob.name).await.unwrap();
    by_bob.get("/v1/whoami").await.refused(Code::Unauthenticated);
    assert_eq!(by_carol.name().await, "carol");
    admin.principal_enable(&bob.name).await.unwrap();
    assert_eq!(by_bob.name().await, "bob");

    let new = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
    let public = new.signing_key().unwrap().public_key().clone();
    let key = PrincipalKey { public, recipients: new.recipients().to_vec(), dual_use: false };
    let signer: &dyn Signer = &new;
    let next = world.client(&bob).rotate(&[key], &[signer]).await.unwrap();
    let shown = tls::certificate(new.signing_key().unwrap(), |_| {});
    let mut by_new = Holder::showing(&world, shown);
    by_new.get("/v1/whoami").await.refused(Code::Unauthenticated);
    admin.admit(&next, Admit::default()).await.unwrap();
    by_bob.get("/v1/whoami").await.refused(Code::Unauthenticated);
    assert_eq!(by_new.name().await, "bob");
    assert_eq!((by_bob.wire.made, by_new.wire.made), (1, 1), "all of it within one connection each");

    // A sealed node knows nobody by certificate.
    admin.seal().await.unwrap();
    by_carol.get("/v1/whoami").await.refused(Code::Sealed);
    let mut by_admin = Holder::new(&world, &world.admins[0]);
    by_admin.get("/v1/seal").await.refused(Code::SignatureRequired);
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_counts_before_a_certificate() {
    let world = World::new(Shape::default()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let signer = Caller::new(&world, &alice).await;
    let mut holder = Holder::new(&world, &bob);
    let signed = signer.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], signer.nonce());
    let reply = holder.send(&signed).await.ok();
    assert!(reply.to_signed());
    assert_eq!(reply.json::<api::Whoami>().principal.name, alice.name);
    let line = last(&world).await;
    assert!(!line.mtls && line.key == key_of(&alice));
    // What does not hold is a refusal, never a second way in.
    let mut broken = signed.clone();
    broken.path = "/v1/alarms".into();
    holder.send(&broken).await.refused(Code::Unauthenticated);
    for half in [SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER] {
        holder.send(&without(&signed, half)).await.refused(Code::SignatureTemplate);
        holder.send(&with(&unsigned(&signed, None), half, "")).await.refused(Code::SignatureTemplate);
    }
    assert_eq!(holder.name().await, "bob");
    finish(world).await;
}

/// Whatever a proxy might say of a certificate, in a header, says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn headers_about_certificates_say_nothing() {
    let world = World::new(Shape::durable()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let shown = tls::certificate(alice.identity.signing_key().unwrap(), |_| {});
    let der = base64(&shown.cert[0]);
    let pem = format!("-----BEGIN CERTIFICATE-----%0A{der}%0A-----END CERTIFICATE-----%0A");
    let key = key_of(&alice).to_string();
    let forged = [
        ("x-forwarded-client-cert", format!("Hash={key};Cert=\"{pem}\";Subject=\"CN=alice\"")),
        ("x-forwarded-tls-client-cert", der.clone()),
        ("client-cert", format!(":{der}:")),
        ("client-cert-chain", format!(":{der}:")),
        ("x-ssl-client-cert", pem.clone()),
        ("ssl-client-cert", pem),
        ("x-client-verify", "SUCCESS".to_owned()),
        (CALLER_HEADER, key),
    ];
    let mut nobody = Wire::new(world.server().ready.address);
    let mut by_bob = Holder::new(&world, &bob);
    let plain = by_bob.request("GET", "/v1/whoami", None, None);
    let expected = nobody.send(&plain).await.refused(Code::SignatureTemplate);
    let socket = world.data().join("bulla.sock");
    for (name, value) in forged {
        let request = with(&plain, name, value.as_str());
        let reply = nobody.send(&request).await;
        assert_eq!((reply.status, &reply.body), (expected.status, &expected.body), "{name}");
        let reply = by_bob.send(&request).await.ok();
        assert_eq!(reply.json::<api::Whoami>().principal.name, bob.name, "{name}");
        // The local socket has no TLS, so nobody is known there without a signature.
        let mut local = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let (audience, head) = (&by_bob.audience, "GET /v1/whoami HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        let text = format!("{head}{AUDIENCE_HEADER}: {audience}\r\n{name}: {value}\r\n\r\n");
        local.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        local.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("signature_template"), "{name}: {answer}");
    }
    finish(world).await;
}

async fn writer(world: &World) -> Person {
    let text = "permit (principal, action in Bulla::Action::\"kv\", resource);".to_owned();
    let put = api::PutPolicy { text, replaces: None };
    world.client(&world.admins[0]).policy_put(&"kv".parse().unwrap(), &put).await.unwrap();
    world.admit("alice").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_needs_its_nonce_and_happens_once() {
    let world = World::new(Shape::durable()).await;
    let alice = writer(&world).await;
    let (signer, mut holder) = (Caller::new(&world, &alice).await, Holder::new(&world, &alice));
    let path = "/v1/kv/app/cache";
    let put = |nonce: Nonce, header: Option<Nonce>| {
        let body = signer.ingress(&world, "PUT", path, &nonce, &kv_body());
        Holder::new(&world, &alice).request("PUT", path, Some(("application/age", body)), header)
    };
    let nonce = signer.nonce();
    let request = put(nonce, Some(nonce));
    let malformed = [
        without(&request, NONCE_HEADER),
        with(&request, NONCE_HEADER, nonce.to_string()),
        with(&without(&request, NONCE_HEADER), NONCE_HEADER, "1"),
        with(&without(&request, NONCE_HEADER), NONCE_HEADER, format!("{nonce}=")),
    ];
    for request in malformed {
        let error = holder.send(&request).await.refused(Code::Malformed).error().unwrap();
        assert_eq!((error.field.as_deref(), error.id), (Some(NONCE_HEADER), None));
        assert!(error.hint.is_some());
    }
    // So does what changes nothing, if its body is encrypted for it.
    let path_of_key = "/v1/transit/orders:encrypt";
    let given = signer.nonce();
    let body = signer.ingress(&world, "POST", path_of_key, &given, &kv_body());
    let compute = Holder::new(&world, &alice).request("POST", path_of_key, Some(("application/age", body)), None);
    let error = holder.send(&compute).await.refused(Code::Malformed).error().unwrap();
    assert_eq!(error.field.as_deref(), Some(NONCE_HEADER));
    // The ciphertext is for one key and one nonce.
    holder.send(&put(signer.nonce(), Some(nonce))).await.refused(Code::Malformed);
    let version = |reply: Reply| reply.ok().json::<api::KvWritten>().version;
    let nonce = signer.nonce();
    let request = put(nonce, Some(nonce));
    assert_eq!(version(holder.send(&request).await), 1);
    assert_eq!(version(holder.send(&request).await), 1, "again in the same connection");
    assert_eq!(version(Holder::new(&world, &alice).send(&request).await), 1, "and in another one");
    let mut signed = signer;
    let same = signed.request("PUT", path, "application/age", request.body.clone(), nonce);
    assert_eq!(version(signed.send(&same).await), 1, "and with a signature");
    let told = with(&request, CONTENT_DIGEST_HEADER, same.header(CONTENT_DIGEST_HEADER));
    assert_eq!(version(holder.send(&told).await), 1, "and with its digest");
    let other = {
        let body = signed.ingress(&world, "PUT", path, &nonce, &kv_body());
        holder.request("PUT", path, Some(("application/age", body)), Some(nonce))
    };
    holder.send(&other).await.refused(Code::NonceReused);
    // By somebody else the same nonce is another.
    let mallory = world.admit("mallory").await;
    let mut stranger = Holder::new(&world, &mallory);
    stranger.send(&request).await.refused(Code::Malformed);
    // The node looks once a second what is over.
    world.clock.pass(6 * 60_000);
    let (unsealed, began) = (crate::support::unsealed(&world), std::time::Instant::now());
    while unsealed.keys.head.floor() <= nonce.minute() {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "the nonce's minute is never over");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    holder.send(&request).await.refused(Code::NonceExpired);
    let later = Nonce::new(nonce.minute() + 60, [1; 12]);
    let body = signed.ingress(&world, "PUT", path, &later, &kv_body());
    let early = holder.request("PUT", path, Some(("application/age", body)), Some(later));
    holder.send(&early).await.refused(Code::NonceExpired);
    let read = world.client(&alice).kv_get(&"app/cache".parse().unwrap()).await.unwrap();
    assert_eq!(read.version, 1);
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audience_is_named_and_bodies_are_bounded() {
    let world = World::new(Shape::default()).await;
    let alice = writer(&world).await;
    let mut holder = Holder::new(&world, &alice);
    let plain = holder.request("GET", "/v1/whoami", None, None);
    // A browser that holds the certificate sends no such header for a foreign page.
    let error = holder.send(&without(&plain, AUDIENCE_HEADER)).await.refused(Code::Malformed).error().unwrap();
    assert_eq!(error.field.as_deref(), Some(AUDIENCE_HEADER));
    holder.send(&with(&plain, AUDIENCE_HEADER, holder.audience.clone())).await.refused(Code::Malformed);
    // And it says that it asks for a page. A signature is nobody's but who made it, wherever it comes from.
    for (name, value) in [("origin", "https://example.org"), ("origin", ""), ("sec-fetch-site", "same-site")] {
        let error = holder.send(&with(&plain, name, value)).await.refused(Code::SignatureRequired).error().unwrap();
        assert_eq!(error.field.as_deref(), Some(name));
        assert!(error.hint.is_some() && error.id.is_none());
        let mut signer = Caller::new(&world, &alice).await;
        let signed = signer.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], signer.nonce());
        signer.send(&with(&signed, name, value)).await.ok();
    }
    let typed = with(&plain, "sec-fetch-site", "none");
    holder.send(&typed).await.ok();
    holder.send(&with(&typed, "sec-fetch-site", "cross-site")).await.refused(Code::SignatureRequired);
    for other in [format!("sha256:{}", "A".repeat(43)), format!("node:{}", holder.node.key_id()), "x".to_owned()] {
        let mut request = plain.clone();
        request.set(AUDIENCE_HEADER, other);
        holder.send(&request).await.refused(Code::WrongAudience);
    }

    let check = holder.request("POST", "/v1/policy:check", Some((JSON_MEDIA_TYPE, policy_check())), None);
    holder.send(&check).await.refused(Code::Denied);
    let digest = |body: &[u8]| bulla_crypto::message::digest_header(body);
    holder.send(&with(&check, CONTENT_DIGEST_HEADER, digest(&check.body))).await.refused(Code::Denied);
    holder.send(&with(&check, CONTENT_DIGEST_HEADER, digest(b"x"))).await.refused(Code::DigestMismatch);
    holder.send(&with(&check, CONTENT_DIGEST_HEADER, "sha-256=:x:")).await.refused(Code::Malformed);
    holder.send(&with(&check, "content-encoding", "identity")).await.refused(Code::Malformed);
    holder.send(&without(&check, "content-type")).await.refused(Code::WrongMediaType);
    let mut form = check.clone();
    form.set("content-type", "application/x-www-form-urlencoded");
    holder.send(&form).await.refused(Code::WrongMediaType);
    holder.send(&with(&check, "x-padding", "y".repeat(13 * 1024))).await.refused(Code::SignatureTemplate);
    let mut large = check.clone();
    large.body = vec![b' '; find("POST", "/v1/policy:check").unwrap().route.request.max_bytes() + 1];
    // Over HTTP/1.1 the server may end the connection before all of it is sent.
    let stream = tls::try_connect(
        world.server().ready.address,
        tls::client("h2", Some(tls::certificate(alice.identity.signing_key().unwrap(), |_| {}))),
    );
    let io = hyper_util::rt::TokioIo::new(stream.await.unwrap());
    let (mut h2, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let answer = h2.send_request(large.http(Some("localhost")).unwrap()).await.unwrap();
    crate::support::read(answer).await.refused(Code::TooLarge);
    // The same connection serves on, and knows its caller in every stream.
    let answers = (0..20).map(|_| h2.send_request(plain.http(Some("localhost")).unwrap())).collect::<Vec<_>>();
    for answer in answers {
        let reply = crate::support::read(answer.await.unwrap()).await.ok();
        assert_eq!(reply.header(CALLER_HEADER), key_of(&alice).to_string());
    }
    finish(world).await;
}

/// A secret answer goes to the recipients that the record lists under the key, whoever made the connection.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_encrypted_to_the_record() {
    let world = World::new(Shape::default()).await;
    let alice = writer(&world).await;
    let (signer, mut holder) = (Caller::new(&world, &alice).await, Holder::new(&world, &alice));
    let nonce = signer.nonce();
    let body = signer.ingress(&world, "PUT", "/v1/kv/app/db", &nonce, &kv_body());
    let put = holder.request("PUT", "/v1/kv/app/db", Some(("application/age", body)), Some(nonce));
    holder.send(&put).await.ok();
    let reply = holder.get("/v1/kv/app/db").await.ok();
    assert_eq!(reply.header("content-type"), "application/age");
    let opened = open_in_memory(&alice.identity, &reply.body, 1 << 20).unwrap();
    let kv: api::Kv = json::parse(opened.expose(), 1 << 20).unwrap();
    assert_eq!(kv.data.unwrap().0.get("url").map(String::as_str), Some("redis://cache"));
    let decrypters: Vec<&dyn envelope::Decrypter> = vec![&*world.admins[0].identity];
    assert!(envelope::open(&decrypters, &reply.body, 1 << 20).await.is_err());
    finish(world).await;
}

/// A principal whose one key signs by this algorithm and decrypts nothing.
fn person_of(name: &str, key: &SigningKey) -> Envelope {
    let age = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
    let key_of =
        PrincipalKey { public: key.public_key().clone(), recipients: age.recipients().to_vec(), dual_use: false };
    let payload = record_payload(name.parse().unwrap(), None, &[key_of]).unwrap();
    evidence::sign_in_memory(&payload, &[key]).unwrap()
}

fn generated(algorithm: &'static rcgen::SignatureAlgorithm) -> SigningKey {
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    SigningKey::from_pkcs8(&pair.serialize_der(), RsaMinimum::Bits3072).unwrap()
}

/// What admits is the key: not who issued the certificate, not its name, not what else is in the chain.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_certificate_is_what_counts() {
    let world = World::new(Shape::default()).await;
    let admin = world.client(&world.admins[0]);
    let keys = [
        ("edda", SigningKey::generate(&mut SystemRng).unwrap()),
        ("petra", generated(&rcgen::PKCS_ECDSA_P256_SHA256)),
        ("quirin", generated(&rcgen::PKCS_ECDSA_P384_SHA384)),
    ];
    for (name, key) in &keys {
        admin.admit(&person_of(name, key), Admit::default()).await.unwrap();
        let mut holder = Holder::showing(&world, tls::certificate(key, |_| {}));
        assert_eq!(holder.name().await, *name);
    }
    let [(_, edda), (_, petra), _] = &keys;
    // Issued by somebody, for somebody else's name, among certificates of others.
    let authority = SigningKey::generate(&mut SystemRng).unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::from_params(&ca, tls::key_pair(&authority));
    let leaf = CertificateParams::new(vec!["petra".to_owned()]).unwrap();
    let issued = leaf.signed_by(&tls::key_pair(edda), &issuer).unwrap().der().clone();
    let of_petra = tls::certificate(petra, |_| {}).cert[0].clone();
    for chain in [vec![issued.clone()], vec![issued.clone(), of_petra.clone()], vec![issued, vec![1, 2, 3].into()]] {
        assert_eq!(Holder::showing(&world, tls::shown(chain, edda)).name().await, "edda");
    }
    // An unknown key is nobody's, with any name, issued by whomever.
    let unknown = SigningKey::generate(&mut SystemRng).unwrap();
    let issuer = Issuer::from_params(&ca, tls::key_pair(edda));
    let by_edda = leaf.signed_by(&tls::key_pair(&unknown), &issuer).unwrap().der().clone();
    let of_edda = tls::certificate(edda, |_| {}).cert[0].clone();
    let mut holder = Holder::showing(&world, tls::shown(vec![by_edda, of_edda.clone()], &unknown));
    holder.get("/v1/whoami").await.refused(Code::Unauthenticated);
    // Nobody shows the certificate of another's key, and none whose time is not now.
    let date = rcgen::date_time_ymd;
    let refused = [
        (tls::shown(vec![of_edda], &unknown), "another's"),
        (tls::shown(vec![vec![0x30, 0].into()], edda), "no certificate"),
        (tls::certificate(edda, |it| it.not_after = date(2020, 1, 1)), "expired"),
        (tls::certificate(edda, |it| it.not_before = date(2200, 1, 1)), "not valid yet"),
    ];
    for (shown, what) in refused {
        let config = tls::client("http/1.1", Some(shown));
        let answered = match tls::try_connect(world.server().ready.address, config).await {
            Err(_) => false,
            Ok(mut stream) => {
                let request = b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n";
                let _ = stream.write_all(request).await;
                stream.read_u8().await.is_ok()
            }
        };
        assert!(!answered, "{what}");
    }
    // A client whose key is of a kind that no record has is told so in the handshake, and shows nothing.
    let mut holder = Holder::showing(&world, foreign());
    holder.get("/v1/whoami").await.refused(Code::SignatureTemplate);
    finish(world).await;
}

/// A certificate for a key on P-521.
fn foreign() -> Shown {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let certificate = CertificateParams::default().self_signed(&pair).unwrap().der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key))
}

/// One configuration for all connections, so that a ticket would be used: there is none, and each handshake is whole.
#[tokio::test(flavor = "multi_thread")]
async fn no_connection_stands_for_another() {
    let world = World::new(Shape::default()).await;
    let alice = world.admit("alice").await;
    let mut config = tls::client("http/1.1", Some(tls::certificate(alice.identity.signing_key().unwrap(), |_| {})));
    config.enable_early_data = true;
    let request = Holder::new(&world, &alice).request("GET", "/v1/whoami", None, None);
    let head = format!("GET {} HTTP/1.1\r\nhost: x\r\n{AUDIENCE_HEADER}: ", request.path);
    let head = format!("{head}{}\r\nconnection: close\r\n\r\n", request.header(AUDIENCE_HEADER));
    let rounds = if bulla_testkit::long() { 100_000 } else { 200 };
    for round in 0..rounds {
        let mut stream = tls::try_connect(world.server().ready.address, config.clone()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{round}: {}", String::from_utf8_lossy(&answer));
        let (_, tls) = stream.get_ref();
        assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full), "{round}");
        assert_eq!(tls.tls13_tickets_received(), 0, "{round}");
        assert!(!tls.is_early_data_accepted(), "{round}");
    }
    finish(world).await;
}

/// The table is the only place that says which routes take a certificate.
#[test]
fn reads_and_ordinary_writes_take_a_certificate() {
    let taken = |proof: Proof| ROUTES.iter().filter(move |route: &&Route| route.proof == proof);
    let words = ["/init", "/seal", "/document", "/snapshot", ":recover", ":enable"];
    assert!(taken(Proof::Mtls).all(|route| words.iter().all(|word| !route.template.contains(word))));
    let changes: Vec<_> = taken(Proof::Mtls)
        .filter(|route| route.effect == bulla_server::route::Effect::Mutation)
        .map(|route| route.template)
        .collect();
    let secrets = ["", "", ":metadata", ":delete", ":undelete"].map(|verb| format!("/v1/kv/{{path}}{verb}"));
    assert_eq!(changes, [&["/v1/alarms:seen".to_owned()][..], &secrets].concat());
}
