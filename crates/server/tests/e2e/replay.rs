//! Every signed route: the same request again, later, elsewhere, and with each covered byte changed.

use crate::cases::{Cast, Who, claim, open_body, share};
use crate::support::{Caller, Reply, Request, finish, lasting, open, rows, unsealed};
use bulla_core::barrier::Kind;
use bulla_crypto::message::digest_header;
use bulla_crypto::sign::SigningKey;
use bulla_server::route::{Auth, Effect, Endpoint, ROUTES, ReplyKind, Route};
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api;
use bulla_wire::error::Code;
use bulla_wire::evidence::SealMode;
use bulla_wire::id::{ClusterId, Digest};
use bulla_wire::signature::{
    AUDIENCE_HEADER, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER, parse_signature, signature,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The order of the Ed25519 group, little-endian (RFC 8032 §5.1).
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

fn flip(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = at % bytes.len();
    bytes[at] ^= 1;
    bytes
}

/// R and S + L: the same signature in another spelling, if S were not checked.
fn malleable(ed25519: &[u8]) -> Vec<u8> {
    let mut bytes = ed25519.to_vec();
    let mut carry = 0u16;
    for (byte, add) in bytes[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
    bytes
}

/// Everything that somebody on the way could make of a request, with a name. None of it may be accepted.
fn alterations(request: &Request, other: &Request, other_key: &str) -> Vec<(String, Request)> {
    let mut all = Vec::new();
    let mut with = |name: &str, change: &dyn Fn(&mut Request)| {
        let mut altered = request.clone();
        change(&mut altered);
        all.push((name.to_owned(), altered));
    };
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "post"] {
        if method != request.method && method != "HEAD" {
            with(&format!("method {method}"), &|r| r.method = method.to_owned());
        }
    }
    let path = request.path.clone();
    for (name, changed) in [
        ("path, one character more", format!("{path}x")),
        ("path, a slash more", format!("{path}/")),
        ("path, a doubled slash", path.replacen("/v1/", "/v1//", 1)),
        ("path, percent", path.replacen("/v1/", "/v1/%2e/", 1)),
        ("path, a dot segment", path.replacen("/v1/", "/v1/./", 1)),
        ("path, upper case", path.to_uppercase()),
        ("path, another verb", format!("{}:x", path.split(':').next().unwrap_or_default())),
        ("path, another route", "/v1/whoami?".replace('?', if path == "/v1/whoami" { "x" } else { "" })),
    ] {
        with(name, &|r| r.path.clone_from(&changed));
    }
    let more = if request.query.is_empty() { "limit=1".to_owned() } else { format!("{}1", request.query) };
    with("query", &|r| r.query.clone_from(&more));
    if !request.query.is_empty() {
        with("no query", &|r| r.query.clear());
    }
    for media in ["text/plain", "application/json; charset=utf-8", JSON_MEDIA_TYPE, EMPTY_MEDIA_TYPE] {
        if request.header("content-type") != media {
            with(&format!("content type {media}"), &|r| r.set("content-type", media));
        }
    }
    let digest = request.header(CONTENT_DIGEST_HEADER).to_owned();
    for (name, changed) in [
        ("digest of another body", digest_header(b"another")),
        ("digest by another algorithm", digest.replace("sha-256", "sha-512")),
        ("two digests", format!("{digest}, sha-512=:AAAA:")),
        ("digest without its colon", digest.trim_end_matches(':').to_owned()),
    ] {
        with(name, &|r| r.set(CONTENT_DIGEST_HEADER, changed.clone()));
    }
    with("a byte more of body", &|r| r.body.push(b' '));
    if !request.body.is_empty() {
        with("another body byte", &|r| r.body = flip(&r.body, r.body.len() / 2));
        with("a byte less of body", &|r| r.body.truncate(r.body.len() - 1));
        with("no body", &|r| r.body.clear());
        with("another body with its digest", &|r| {
            r.body = flip(&r.body, 1);
            let digest = digest_header(&r.body);
            r.set(CONTENT_DIGEST_HEADER, digest);
        });
    }
    let audience = request.header(AUDIENCE_HEADER).to_owned();
    with("another audience", &|r| r.set(AUDIENCE_HEADER, ClusterId::new([7; 32]).to_string()));
    with("a node as audience", &|r| r.set(AUDIENCE_HEADER, format!("node:{audience}")));
    let challenge = request.header(CHALLENGE_HEADER).to_owned();
    with("a later challenge", &|r| r.set(CHALLENGE_HEADER, other.header(CHALLENGE_HEADER)));
    for at in [0, 5, 20, challenge.len() - 1] {
        with(&format!("challenge, character {at}"), &|r| {
            let mut text = challenge.clone().into_bytes();
            text[at] = if text[at] == b'A' { b'B' } else { b'A' };
            r.set(CHALLENGE_HEADER, String::from_utf8(text).unwrap());
        });
    }
    let input = request.header(SIGNATURE_INPUT_HEADER).to_owned();
    let part = |name: &str| input.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned();
    let created = input.split("created=").nth(1).unwrap().split(';').next().unwrap().to_owned();
    let later = (created.parse::<u64>().unwrap() + 1).to_string();
    let other_nonce = other.header(SIGNATURE_INPUT_HEADER).split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    for (name, from, to) in [
        ("another nonce", part("nonce"), other_nonce.to_owned()),
        ("another creation", format!("created={created}"), format!("created={later}")),
        ("creation with a zero in front", format!("created={created}"), format!("created=0{created}")),
        ("an expiry", format!("created={created}"), format!("created={created};expires={later}")),
        ("another key", part("keyid"), other_key.to_owned()),
        ("an unknown key", part("keyid"), Digest::new([9; 32]).to_string()),
        ("another algorithm", "ed25519".into(), "rsa-pss-sha512".into()),
        ("an HMAC", "ed25519".into(), "hmac-sha256".into()),
        ("another tag", "bulla-req-v1".into(), "bulla-req-v2".into()),
        ("the tag of answers", "bulla-req-v1".into(), "bulla-res-v1".into()),
        ("another label", "bulla=(".into(), "sig1=(".into()),
        ("less covered", " \"content-digest\"".into(), String::new()),
        ("more covered", " \"bulla-challenge\"".into(), " \"bulla-challenge\" \"date\"".into()),
        ("another order", "\"@method\" \"@path\"".into(), "\"@path\" \"@method\"".into()),
        ("two signatures", input.clone(), format!("{input}, x={}", input.trim_start_matches("bulla="))),
    ] {
        let changed = input.replace(&from, &to);
        assert_ne!(changed, input, "{name}");
        with(name, &|r| r.set(SIGNATURE_INPUT_HEADER, changed.clone()));
    }
    let bytes = parse_signature(request.header(SIGNATURE_HEADER)).unwrap();
    let mut spoilt: Vec<(String, Vec<u8>)> =
        [0, 31, 32, 63].map(|at| (format!("signature, byte {at}"), flip(&bytes, at))).into();
    spoilt.push(("the signature of another request".into(), parse_signature(other.header(SIGNATURE_HEADER)).unwrap()));
    spoilt.push(("a signature of zeros".into(), vec![0; 64]));
    spoilt.push(("half a signature".into(), bytes[..32].to_vec()));
    spoilt.push(("a signature and more".into(), [&bytes[..], &[0]].concat()));
    spoilt.push(("the signature with S + L".into(), malleable(&bytes)));
    for (name, bytes) in spoilt {
        with(&name, &|r| r.set(SIGNATURE_HEADER, signature(&bytes)));
    }
    with("no signature in the header", &|r| r.set(SIGNATURE_HEADER, "bulla=::"));
    for (index, (name, value)) in request.headers.iter().enumerate() {
        with(&format!("no {name}"), &|r| drop(r.headers.remove(index)));
        with(&format!("{name} twice"), &|r| r.headers.push((name.clone(), value.clone())));
        with(&format!("{name} twice, the other first"), &|r| r.headers.insert(0, (name.clone(), "x".into())));
        with(&format!("{name} by another name"), &|r| r.headers[index].0 = format!("x-{name}"));
        with(&format!("{name} with a space"), &|r| r.headers[index].1 = value.replacen('=', "= ", 1) + "x");
    }
    with("a content coding", &|r| r.headers.push(("content-encoding".into(), "gzip".into())));
    all
}

/// One route's request after it was sent once, in good order.
struct Captured {
    route: &'static Route,
    who: Who,
    request: Request,
    first: Reply,
}

/// Same outcome: secret answers are encrypted anew each time.
fn assert_same(captured: &Captured, again: &Reply) {
    let Captured { route, first, .. } = captured;
    assert_eq!(again.status, first.status, "{route:?}: {}", String::from_utf8_lossy(&again.body));
    // An error tells the id of its request, and these look at what goes on.
    let moving = matches!(route.endpoint, Endpoint::AuditRead | Endpoint::AlarmRead | Endpoint::WrapList);
    // Each encryption draws anew.
    let drawn =
        matches!(route.endpoint, Endpoint::TransitEncrypt | Endpoint::TransitRewrap | Endpoint::TransitDatakeyWrapped);
    if route.reply == ReplyKind::Json && first.status == 200 && !moving && !drawn {
        assert_eq!(again.body, first.body, "{route:?}");
    }
    assert_eq!(again.code(), first.code(), "{route:?}");
}

fn data(rows: BTreeMap<(String, Vec<u8>), Vec<u8>>) -> BTreeMap<(String, Vec<u8>), Vec<u8>> {
    // Leases that were revoked are tried again and again, since the database here never drops anybody.
    let moving = |key: &[u8]| [Kind::Lease as u8, Kind::LeaseDue as u8].contains(&key[0]);
    rows.into_iter().filter(|((table, key), _)| table != "Plain" && !(table == "Data" && moving(key))).collect()
}

/// Tries everything with one request: altered first, then as it is, then again.
async fn try_route(
    world: &World,
    caller: &mut Caller,
    route: &'static Route,
    request: &Request,
    other_key: &str,
) -> (Reply, usize) {
    caller.send(&open("POST", "/v1/challenge")).await.ok();
    let other = caller.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], caller.nonce());
    let before = rows(world).await;
    let altered = alterations(request, &other, other_key);
    let count = altered.len();
    for (name, altered) in altered {
        let reply = caller.wire.send(&altered).await;
        assert!(reply.status >= 400, "{} {} with {name}: {}", route.method, route.template, reply.status);
        let late = matches!(reply.code(), Some(Code::DigestMismatch | Code::TooLarge | Code::Malformed));
        assert!(!reply.to_signed() || late, "{} {} with {name}: {reply:?}", route.method, route.template);
        reply.verify(&altered, &caller.node);
    }
    assert_eq!(rows(world).await, before, "{} {} altered", route.method, route.template);
    // The order of headers says nothing.
    let mut reordered = request.clone();
    reordered.headers.reverse();
    let first = caller.send(&reordered).await;
    assert!(first.to_signed(), "{first:?}");
    let after = rows(world).await;
    let again = caller.send(request).await;
    let captured = Captured { route, who: Who::Admin, request: request.clone(), first: first.clone() };
    assert_same(&captured, &again);
    assert_eq!(rows(world).await, after, "{} {} again", route.method, route.template);
    if route.effect == Effect::Read {
        assert_eq!(after, before, "{} {} reads", route.method, route.template);
    }
    (first, count)
}

/// Whether an unsealed node serves a signed route, and goes on afterwards.
pub fn here(route: &Route) -> bool {
    match route.auth {
        Auth::Open | Auth::Init => false,
        // These are for sealed nodes; sealing itself has a test of its own.
        Auth::Sealed => {
            matches!(route.endpoint, Endpoint::SealStatus | Endpoint::PolicyReplaced | Endpoint::PolicyRecover)
        }
        Auth::Policy(_) => route.endpoint != Endpoint::SealSeal,
    }
}

/// Whether a request of the cast was served. No wrap of theirs waits for a release.
pub fn good(route: &Route, reply: &Reply) -> bool {
    reply.status == 200 || route.endpoint == Endpoint::WrapRelease
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_takes_a_replay_or_an_alteration() {
    let mut world = World::new(Shape::durable()).await;
    let mut cast = Cast::new(&world).await;
    let other_key = cast.alice_person.identity.signing_key().unwrap().public_key().key_id();
    let admin_key = world.admins[0].identity.signing_key().unwrap().public_key().key_id();
    let mut captured = Vec::new();
    let mut tried = 0;
    for route in ROUTES.iter().filter(|route| here(route)) {
        let (who, request) = cast.request(&world, route).await;
        let other = if who == Who::Alice { admin_key } else { other_key };
        let caller = cast.caller(who);
        let (first, count) = try_route(&world, caller, route, &request, &other.to_string()).await;
        assert!(good(route, &first), "{route:?}: {}", String::from_utf8_lossy(&first.body));
        tried += count;
        captured.push(Captured { route, who, request, first });
    }
    println!("{} routes, {tried} alterations", captured.len());

    // A retry: the same nonce and body under a new challenge.
    let retry = |caller: &Caller, request: &Request| {
        let nonce = request.header(SIGNATURE_INPUT_HEADER).split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
        caller.sign(request.clone(), nonce.parse().unwrap())
    };
    let once = |c: &&Captured| c.route.effect == Effect::Mutation;
    world.clock.pass(61_000);
    let before = data(rows(&world).await);
    for captured in &captured {
        let caller = cast.caller(captured.who);
        caller.send(&captured.request).await.refused(Code::StaleChallenge);
    }
    for captured in captured.iter().filter(once) {
        let caller = cast.caller(captured.who);
        let again = retry(caller, &captured.request);
        assert_same(captured, &caller.send(&again).await);
    }
    assert_eq!(data(rows(&world).await), before, "after a minute");

    world.stop().await;
    world.start().await;
    let address = world.server().ready.address;
    for who in [Who::Admin, Who::Alice, Who::Bob] {
        cast.caller(who).wire = crate::support::Wire::new(address);
    }
    for sealed in [true, false] {
        for captured in &captured {
            let reply = cast.caller(captured.who).send(&captured.request).await;
            assert_eq!(reply.code(), Some(Code::StaleChallenge), "sealed: {sealed}, {:?}", captured.route);
        }
        if sealed {
            world.unseal().await;
        }
    }
    for captured in captured.iter().filter(once) {
        let caller = cast.caller(captured.who);
        let again = caller.send(&retry(caller, &captured.request)).await;
        if captured.route.endpoint == Endpoint::SnapshotSave {
            // The state that was held went with the process, so another one is.
            assert_eq!((again.status, again.body == captured.first.body), (200, false));
            continue;
        }
        assert_same(captured, &again);
    }
    assert_eq!(data(rows(&world).await), before, "after a restart");

    // Another cluster has the same people and takes none of it.
    let elsewhere = World::new(Shape::default()).await;
    let mut wire = crate::support::Wire::new(elsewhere.server().ready.address);
    for captured in &captured {
        wire.send(&captured.request).await.refused(Code::WrongAudience);
    }
    finish(elsewhere).await;
    finish(world).await;
}

/// Whoever caught an opening on the way makes neither deliveries nor evidence of it, whatever it came to.
#[tokio::test(flavor = "multi_thread")]
async fn a_caught_opening_is_counted_once() {
    let world = World::new(Shape::durable()).await;
    let mut cast = Cast::new(&world).await;
    let slip = cast.wrap().await;
    let path = format!("/v1/wrap/{}:open", slip.wrap);
    let (own, other) = (claim(), claim());
    let bob = cast.bob_person.identity.clone();
    let body = |claim| bulla_wire::json::to_vec(&open_body(&slip, claim));
    for (who, body, expected) in [
        (Who::Bob, body(&own), None),
        (Who::Bob, body(&other), Some(Code::AlreadyOpened)),
        (Who::Admin, body(&other), Some(Code::NotFound)),
    ] {
        let caller = cast.caller(who);
        caller.call("GET", "/v1/whoami").await;
        let nonce = caller.nonce();
        let request = caller.request("POST", &path, JSON_MEDIA_TYPE, body, nonce);
        let first = caller.send(&request).await;
        assert_eq!(first.code(), expected, "{first:?}");
        let after = rows(&world).await;
        for _ in 0..20 {
            let again = caller.send(&request).await;
            assert_eq!(again.code(), expected, "{again:?}");
            let retry = caller.sign(request.clone(), nonce);
            let again = caller.send(&retry).await;
            assert_eq!(again.code(), expected, "{again:?}");
            if expected.is_none() {
                let opened = bulla_crypto::envelope::open(&[&own], &again.body, usize::MAX).await.unwrap();
                let file = bulla_wire::wrap::Parcel::parse(opened.plaintext.expose()).unwrap().file;
                let content = bulla_crypto::envelope::open(&[&*bob], file, usize::MAX).await.unwrap();
                assert_eq!(content.plaintext.expose(), b"x", "the content, each time");
            }
        }
        assert_eq!(rows(&world).await, after, "{expected:?} again");
    }
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_is_not_replayed() {
    let world = World::new(Shape::durable()).await;
    let mut cast = Cast::new(&world).await;
    let route = ROUTES.iter().find(|route| route.endpoint == Endpoint::SealSeal).unwrap();
    let (who, request) = cast.request(&world, route).await;
    cast.bob.send(&open("POST", "/v1/challenge")).await.ok();
    let other = cast.bob.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], cast.bob.nonce());
    let other_key = cast.bob_person.identity.signing_key().unwrap().public_key().key_id().to_string();
    let caller = cast.caller(who);
    for (name, altered) in alterations(&request, &other, &other_key) {
        assert!(caller.wire.send(&altered).await.status >= 400, "{name}");
    }
    unsealed(&world);
    caller.send(&request).await.ok();
    caller.send(&request).await.refused(Code::StaleChallenge);
    world.unseal().await;
    caller.send(&request).await.refused(Code::StaleChallenge);
    unsealed(&world);
    // Nor by its own sender, whose answer was lost: somebody has unsealed the cluster since.
    let nonce = request.header(SIGNATURE_INPUT_HEADER).split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    let nonce = nonce.parse().unwrap();
    for _ in 0..4 {
        caller.call("GET", "/v1/whoami").await;
        let retry = caller.sign(request.clone(), nonce);
        assert_eq!(caller.send(&retry).await.ok().json::<api::Done>(), api::Done {});
        unsealed(&world);
        world.clock.pass(55_000);
    }
    caller.call("GET", "/v1/whoami").await;
    let other = caller.request("POST", "/v1/seal:confirm-clock", EMPTY_MEDIA_TYPE, vec![], nonce);
    caller.send(&other).await.refused(Code::NonceReused);
    caller.call("POST", "/v1/seal:seal").await.ok();
    assert!(matches!(world.server().node.phase(), bulla_server::node::Phase::Sealed(_)));
    world.unseal().await;
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_a_sealed_node_are_not_replayed_or_altered() {
    let world = World::sealed(Shape { mode: SealMode::Quorum, k: 2, n: 3, ..Shape::durable() }).await;
    let mut first = Caller::new(&world, &world.admins[0]).await;
    let other_key = world.admins[1].identity.signing_key().unwrap().public_key().key_id().to_string();
    let mut tried = 0;
    for route in ROUTES.iter().filter(|route| route.auth == Auth::Sealed) {
        if matches!(route.endpoint, Endpoint::PolicyReplaced | Endpoint::PolicyRecover) {
            continue;
        }
        let session: api::UnsealSession = first.call("POST", "/v1/seal/session").await.ok().json();
        let key_path = format!("/v1/seal/session/{}/key", session.id);
        let (target, body) = match route.endpoint {
            Endpoint::SealStatus => ("/v1/seal".to_owned(), vec![]),
            Endpoint::SealSession => ("/v1/seal/session".to_owned(), vec![]),
            Endpoint::SealKey => (key_path, vec![]),
            Endpoint::SealShare => {
                let key: api::EncryptedShareKey = first.call("GET", &key_path).await.ok().json();
                let body = share(&world, &world.admins[0], &session, &key);
                (format!("/v1/seal/session/{}/share", session.id), bulla_wire::json::to_vec(&body))
            }
            Endpoint::SealConsent => {
                let consent = bulla_wire::evidence::GenesisApproval { v: bulla_wire::json::V1, cluster: world.cluster };
                let key = world.admins[0].identity.signing_key().unwrap();
                let envelope = bulla_crypto::evidence::sign_in_memory(&consent, &[key]).unwrap();
                ("/v1/seal:consent".to_owned(), bulla_wire::json::to_vec(&api::Signed { envelope }))
            }
            endpoint => panic!("no case for {endpoint:?}"),
        };
        let request = first.request(route.method, &target, route.request.media_type(), body, first.nonce());
        let (reply, count) = try_route(&world, &mut first, route, &request, &other_key).await;
        tried += count;
        let expected = if route.endpoint == Endpoint::SealConsent { 404 } else { 200 };
        assert_eq!(reply.status, expected, "{route:?}");
    }
    println!("{tried} alterations");
    let health: api::Health = first.send(&open("GET", "/v1/health")).await.json();
    assert_eq!(health.unseal.unwrap().have, 1, "one share, however often it came");
    finish(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_cluster_is_not_replayed_or_altered() {
    let made = World::sealed(Shape::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = made.config.clone();
    config.audit.target = bulla_server::config::AuditTarget::Directory(folder.path().join("audit"));
    let server = bulla_server::run(&config, made.clock.clone()).await.unwrap();
    let node = server.node.parts.key.public_key().clone();
    let admin = &made.admins[0];
    let mut wire = crate::support::Wire::new(server.ready.address);
    let challenge = wire.send(&open("POST", "/v1/challenge")).await.ok().challenge();
    let audience = bulla_wire::signature::Audience::Node(node.key_id()).to_string();
    let mut caller = Caller { wire, key: admin.identity.clone(), audience, node, challenge };
    let init = |person: &Person| api::Init {
        name: "test".parse().unwrap(),
        admins: vec![person.record.clone()],
        mode: SealMode::Any,
        k: 1,
        min_kem: bulla_wire::evidence::MinKem::Hybrid,
    };
    // Somebody who is not in the configured list, with a good request.
    let stranger = Person::new("stranger");
    let challenge = caller.challenge;
    let mut other = Caller {
        wire: crate::support::Wire::new(server.ready.address),
        key: stranger.identity.clone(),
        audience: caller.audience.clone(),
        node: caller.node.clone(),
        challenge,
    };
    other.call_json("POST", "/v1/init", &init(&stranger)).await.refused(Code::NotAdmin);
    other.call_json("POST", "/v1/init", &init(admin)).await.refused(Code::NotAdmin);

    let body = bulla_wire::json::to_vec(&init(admin));
    let request = caller.request("POST", "/v1/init", JSON_MEDIA_TYPE, body, caller.nonce());
    other.send(&open("POST", "/v1/challenge")).await.ok();
    let foreign = other.request("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![], other.nonce());
    let other_key = stranger.identity.signing_key().unwrap().public_key().key_id().to_string();
    for (name, altered) in alterations(&request, &foreign, &other_key) {
        let reply = caller.wire.send(&altered).await;
        assert!(reply.status >= 400, "{name}");
    }
    let health: api::Health = caller.send(&open("GET", "/v1/health")).await.json();
    assert_eq!(health.state, api::SealState::Uninitialised);
    let made_now: api::Initialised = caller.send(&request).await.ok().json();
    // The answer was lost: the same request again, also under another challenge, gets it. Nobody else's does.
    let nonce = request.header(SIGNATURE_INPUT_HEADER).split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    let nonce: bulla_wire::id::Nonce = nonce.parse().unwrap();
    for pass in [0, 61_000, 61_000] {
        made.clock.pass(pass);
        let again = caller.send(&request).await;
        assert_eq!(again.code(), (pass > 0).then_some(Code::StaleChallenge));
        let retry = caller.sign(request.clone(), nonce);
        assert_eq!(caller.send(&retry).await.ok().json::<api::Initialised>(), made_now);
    }
    caller.call_json("POST", "/v1/init", &init(admin)).await.refused(Code::AlreadyInitialised);
    let reused = bulla_wire::json::to_vec(&init(&stranger));
    let reused = caller.request("POST", "/v1/init", JSON_MEDIA_TYPE, reused, nonce);
    caller.send(&reused).await.refused(Code::AlreadyInitialised);
    other.challenge = caller.challenge;
    other.call_json("POST", "/v1/init", &init(admin)).await.refused(Code::AlreadyInitialised);
    caller.call("GET", "/v1/seal").await.refused(Code::WrongAudience);
    caller.audience = made_now.cluster.to_string();
    let again = caller.call_json("POST", "/v1/init", &init(admin)).await;
    again.refused(Code::AlreadyInitialised);
    let health: api::Health = caller.send(&open("GET", "/v1/health")).await.json();
    assert_eq!(health.state, api::SealState::Sealed);
    assert!(server.stop().await);
    finish(made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_looks_like_a_bad_signature() {
    let world = World::new(Shape::default()).await;
    let bob = world.admit("bob").await;
    let disabled = world.admit("frank").await;
    world.client(&world.admins[0]).principal_disable(&"frank".parse().unwrap()).await.unwrap();
    let mut known = Caller::new(&world, &bob).await;
    let mut unknown = Caller::new(&world, &Person::new("nobody")).await;
    let mut refused = Caller::new(&world, &disabled).await;
    let body = bulla_wire::json::to_vec(&open_body(
        &bulla_wire::wrap::Slip {
            cluster: world.cluster,
            wrap: bulla_wire::id::WrapId::new([1; 16]),
            statement_sha256: Digest::new([1; 32]),
        },
        &claim(),
    ));
    for (method, target, media, body) in [
        ("GET", "/v1/whoami", EMPTY_MEDIA_TYPE, vec![]),
        ("POST", "/v1/wrap/aaaaaaaaaaaaaaaaaaaaaaaaaa:open", JSON_MEDIA_TYPE, body),
        ("POST", "/v1/seal:seal", EMPTY_MEDIA_TYPE, vec![]),
    ] {
        let mut request = known.request(method, target, media, body.clone(), known.nonce());
        let bytes = parse_signature(request.header(SIGNATURE_HEADER)).unwrap();
        request.set(SIGNATURE_HEADER, signature(&flip(&bytes, 40)));
        let bad = known.send(&request).await.refused(Code::Unauthenticated);
        for caller in [&mut unknown, &mut refused] {
            let request = caller.request(method, target, media, body.clone(), caller.nonce());
            let other = caller.send(&request).await;
            assert_eq!(other.status, bad.status);
            assert_eq!(lasting(&other.headers), lasting(&bad.headers));
            assert_eq!(other.body, bad.body);
            assert!(!other.to_signed() && !bad.to_signed());
        }
    }
    finish(world).await;
}

/// ECDSA has two signatures for each: (r, s) and (r, n - s). Neither form makes a request count twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_ecdsa_twin_has_no_second_effect() {
    /// The order of the P-256 group, big-endian (SEC 2 §2.4.2).
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let world = World::new(Shape::default()).await;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let signing = SigningKey::from_pkcs8(&pair.serialize_der(), bulla_crypto::sign::RsaMinimum::default()).unwrap();
    let decrypting = claim();
    let key = bulla_crypto::evidence::PrincipalKey {
        public: signing.public_key().clone(),
        recipients: decrypting.recipients().to_vec(),
        dual_use: false,
    };
    let payload = bulla_crypto::evidence::record_payload("carol".parse().unwrap(), None, &[key]).unwrap();
    let record = bulla_crypto::evidence::sign_in_memory(&payload, &[&signing]).unwrap();
    let carol = Person { name: "carol".parse().unwrap(), identity: Arc::new(decrypting), record };
    world.admit_person(&carol, &["ops"]).await;
    world.admit("bob").await;
    let text = "permit (principal in Bulla::Group::\"ops\", action in Bulla::Action::\"policy\", resource);".to_owned();
    let put = api::PutPolicy { text, replaces: None };
    world.client(&world.admins[0]).policy_put(&"ops".parse().unwrap(), &put).await.unwrap();

    let mut caller = Caller::new(&world, &carol).await;
    let mut request = caller.request("DELETE", "/v1/policy/ops", EMPTY_MEDIA_TYPE, vec![], caller.nonce());
    let parameters =
        request.header(SIGNATURE_INPUT_HEADER).replace("alg=\"ed25519\"", "alg=\"ecdsa-p256-sha256\"").replace(
            &caller.key.signing_key().unwrap().public_key().key_id().to_string(),
            &signing.public_key().key_id().to_string(),
        );
    let parsed = bulla_wire::signature::RequestParameters::parse(&parameters).unwrap();
    let base = parsed.signature_base(&bulla_wire::signature::RequestParts {
        method: &request.method,
        path: &request.path,
        query: "",
        content_type: request.header("content-type"),
        content_digest: request.header(CONTENT_DIGEST_HEADER),
        audience: request.header(AUDIENCE_HEADER),
        challenge: request.header(CHALLENGE_HEADER),
    });
    let bytes = signing.sign(base.as_bytes()).unwrap();
    request.set(SIGNATURE_INPUT_HEADER, parameters);
    request.set(SIGNATURE_HEADER, signature(&bytes));
    let mut twin = bytes.clone();
    let mut borrow = 0i16;
    for at in (0..32).rev() {
        let difference = i16::from(N[at]) - i16::from(bytes[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        twin[32 + at] = difference.rem_euclid(256) as u8;
    }
    assert_ne!(twin, bytes);
    let mut doubled = request.clone();
    doubled.set(SIGNATURE_HEADER, signature(&twin));
    caller.send(&request).await.ok();
    let after = rows(&world).await;
    let reply = caller.send(&doubled).await;
    // Policy is asked first, and the deletion took the right to delete; either way nothing happened again.
    assert!(matches!(reply.code(), None | Some(Code::Unauthenticated | Code::Denied)), "{reply:?}");
    assert_eq!(rows(&world).await, after);
    finish(world).await;
}
