//! Alarms at a webhook: signed, again until they are taken, over a restart, and nowhere else.

use crate::support::{Caller, finish, share, view};
use bulla_client::{MemoryOutput, Pin};
use bulla_core::engine::alarm::{Raise, WAITING_MAX};
use bulla_crypto::digest::sha256;
use bulla_server::config::{Alarms, WebhookUrl};
use bulla_server::node::Phase;
use bulla_testkit::tools;
use bulla_testkit::world::{Shape, World};
use bulla_wire::api::{AlarmKind, EncryptedShareKey, GiveShare, UnsealSession};
use bulla_wire::encoding::base64_decode;
use bulla_wire::error::Code;
use bulla_wire::evidence::{self, SealMode};
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::webhook::{ID_HEADER, Message, SIGNATURE_HEADER, SIGNATURE_PREFIX, TIMESTAMP_HEADER, id, signed};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A call that came.
struct Call {
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn message(&self) -> Message {
        json::parse(&self.body, MAX_JSON_BYTES).unwrap()
    }
}

type Says = Box<dyn Fn(&Message) -> StatusCode + Send>;

/// A server of somebody else: it answers what it was told to, then 204.
#[derive(Clone)]
struct Receiver {
    calls: Arc<Mutex<Vec<Call>>>,
    answers: Arc<Mutex<VecDeque<Response<Full<Bytes>>>>>,
    /// What it says to each that no answer is prepared for.
    says: Arc<Mutex<Says>>,
    url: String,
    ca: PathBuf,
}

fn answer(status: StatusCode, location: Option<&str>) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status);
    let builder = location.into_iter().fold(builder, |builder, location| builder.header("location", location));
    builder.body(Full::default()).unwrap()
}

impl Receiver {
    async fn start(directory: &Path) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&pair).unwrap();
        let ca = directory.join("alerts-ca.pem");
        std::fs::write(&ca, own.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(own.der().to_vec())],
                PrivateKeyDer::try_from(pair.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/hook/s3cret", listener.local_addr().unwrap().port());
        let says: Says = Box::new(|_| StatusCode::NO_CONTENT);
        let says = Arc::new(Mutex::new(says));
        let receiver = Self { calls: Arc::default(), answers: Arc::default(), says, url, ca };
        let serving = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, receiver) = (acceptor.clone(), serving.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| receiver.clone().take(request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        receiver
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/hook/s3cret"));
        let body = body.collect().await?.to_bytes();
        let call = Call { headers: head.headers, body };
        let said = self.says.lock().unwrap()(&call.message());
        self.calls.lock().unwrap().push(call);
        let next = self.answers.lock().unwrap().pop_front();
        Ok(next.unwrap_or_else(|| answer(said, None)))
    }

    fn say(&self, says: impl Fn(&Message) -> StatusCode + Send + 'static) {
        *self.says.lock().unwrap() = Box::new(says);
    }

    /// Lets a world, which is stopped, tell this one.
    fn of(&self, world: &mut World) {
        world.config.alarms = Alarms { webhook: Some(self.url.parse().unwrap()), webhook_ca: Some(self.ca.clone()) };
    }

    fn numbers(&self) -> Vec<u64> {
        self.calls.lock().unwrap().iter().map(|call| call.message().number).collect()
    }

    fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Waits until so many calls came.
    async fn wait(&self, count: usize) {
        for _ in 0..400 {
            if self.count() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {count} calls came", self.count());
    }
}

/// Waits until a line stands in the metrics.
async fn metric(world: &World, line: &str) {
    let text = || world.server().node.parts.metrics.text();
    for _ in 0..200 {
        if text().lines().any(|found| found == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{line} is not in:\n{}", text());
}

/// Somebody opens twice: an alarm.
async fn alarm(world: &World, writer: &bulla_client::Client, reader: &bulla_testkit::world::Person) {
    let slip = world.wrap(writer, reader, b"the launch code").await.slip;
    let open = async || {
        let mut output = MemoryOutput::new();
        world.client(reader).wrap_open(&slip, &mut output).await
    };
    open().await.unwrap().acked.unwrap();
    open().await.unwrap_err();
}

/// What the specification says a receiver does, with openssl.
fn verify_with_openssl(directory: &Path, spki: &[u8], call: &Call) -> bool {
    let path = |name: &str| directory.join(name);
    std::fs::write(path("node.der"), spki).unwrap();
    let text = format!("{}.{}.", call.header(ID_HEADER), call.header(TIMESTAMP_HEADER));
    std::fs::write(path("signed"), [text.as_bytes(), &call.body].concat()).unwrap();
    let signature = call.header(SIGNATURE_HEADER).strip_prefix("v1a,").unwrap();
    std::fs::write(path("signature"), base64_decode(signature).unwrap()).unwrap();
    let output = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "node.der"])
        .args(["-in", "signed", "-sigfile", "signature"])
        .current_dir(directory)
        .output()
        .unwrap();
    output.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_is_told_until_it_is_taken() {
    let mut world = World::new(Shape::durable()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    // Before there is a webhook its list stays empty.
    alarm(&world, &world.client(&alice), &bob).await;
    world.stop().await;
    let receiver = Receiver::start(world.directory()).await;
    let elsewhere = world.directory().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let elsewhere = Receiver::start(&elsewhere).await;
    let url: WebhookUrl = receiver.url.parse().unwrap();
    world.config.alarms = Alarms { webhook: Some(url), webhook_ca: Some(receiver.ca.clone()) };
    receiver.answers.lock().unwrap().extend([
        answer(StatusCode::INTERNAL_SERVER_ERROR, None),
        answer(StatusCode::TEMPORARY_REDIRECT, Some(&elsewhere.url)),
    ]);
    world.start().await;
    world.unseal().await;
    alarm(&world, &world.client(&alice), &bob).await;
    receiver.wait(3).await;
    // What was taken is not told again; what comes next has the next number.
    alarm(&world, &world.client(&alice), &bob).await;
    receiver.wait(4).await;

    // The receiver is gone, the node is killed and begins again: what waited is told.
    let gone: Vec<_> = (0..64).map(|_| answer(StatusCode::SERVICE_UNAVAILABLE, None)).collect();
    receiver.answers.lock().unwrap().extend(gone);
    alarm(&world, &world.client(&alice), &bob).await;
    receiver.wait(5).await;
    world.stop().await;
    let failed = receiver.count();
    receiver.answers.lock().unwrap().clear();
    world.start().await;
    world.unseal().await;
    receiver.wait(failed + 1).await;

    {
        let calls = receiver.calls.lock().unwrap();
        let numbers: Vec<u64> = calls.iter().map(|call| call.message().number).collect();
        let mut expected = vec![1, 1, 1, 2];
        expected.extend(vec![3; failed - 4 + 1]);
        assert_eq!(numbers, expected);
        let node = world.server().node.parts.key.public_key().clone();
        for call in calls.iter() {
            let message = call.message();
            assert_eq!((message.cluster, message.node), (world.cluster, world.server().node.id()));
            assert_eq!(message.alarm.kind, AlarmKind::SecondClaim);
            assert_eq!(call.header(ID_HEADER), id(&sha256(&[&call.body])));
            let timestamp = call.header(TIMESTAMP_HEADER).parse().unwrap();
            let signature = call.header(SIGNATURE_HEADER).strip_prefix(SIGNATURE_PREFIX).unwrap();
            let over = signed(call.header(ID_HEADER), timestamp, &call.body);
            node.verify(&over, &base64_decode(signature).unwrap()).unwrap();
        }
        // Every attempt says the same, also after the node was opened again: the history is that of the alarm.
        assert_eq!(calls[0].header(ID_HEADER), calls[2].header(ID_HEADER));
        assert_eq!(calls[4].header(ID_HEADER), calls.last().unwrap().header(ID_HEADER));
        let lineages: HashSet<_> = calls.iter().map(|call| call.message().lineage.unwrap()).collect();
        assert_eq!(lineages.len(), 1, "all were raised in one history");
        if tools::find("openssl").is_some() {
            assert!(verify_with_openssl(world.directory(), node.spki(), &calls[3]));
            let forged = Call { headers: calls[3].headers.clone(), body: Bytes::from_static(b"{}") };
            assert!(!verify_with_openssl(world.directory(), node.spki(), &forged));
        } else {
            tools::skipped("an_alarm_is_told_until_it_is_taken (openssl)", "openssl is not installed");
        }
    }
    assert_eq!(elsewhere.count(), 0, "a redirect was followed");
    // The parties were told as ever, of each alarm once.
    assert_eq!(world.client(&alice).alarms(None, None, true).await.unwrap().alarms.len(), 4);
    metric(&world, "bulla_webhook_waiting 0").await;
    finish(world).await;
}

/// Somebody else with a certificate that no authority vouches for is told nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_in_the_webhooks_place_is_told_nothing() {
    let mut world = World::new(Shape::durable()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    world.stop().await;
    let receiver = Receiver::start(world.directory()).await;
    let other = world.directory().join("other");
    std::fs::create_dir(&other).unwrap();
    let other = Receiver::start(&other).await;
    world.config.alarms = Alarms { webhook: Some(receiver.url.parse().unwrap()), webhook_ca: Some(other.ca.clone()) };
    world.start().await;
    world.unseal().await;
    alarm(&world, &world.client(&alice), &bob).await;
    let failed =
        || world.server().node.parts.metrics.text().contains("bulla_webhook_attempts_total{reason=\"failed\"}");
    for _ in 0..200 {
        if failed() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(failed(), "it was not tried");
    assert_eq!(receiver.count(), 0);
    // No authorities at all is a fault of the start, not of the first alarm.
    world.stop().await;
    std::fs::write(world.directory().join("empty.pem"), "").unwrap();
    world.config.alarms.webhook_ca = Some(world.directory().join("empty.pem"));
    let error = bulla_server::run(&world.config, world.clock.clone()).await.expect_err("it does not start");
    assert!(error.to_string().contains("authority"), "{error}");
    world.config.alarms = Alarms { webhook: None, webhook_ca: None };
    world.start().await;
    world.unseal().await;
    finish(world).await;
}

/// A receiver that always refuses one alarm is told the others at once, and that one at its own time.
#[tokio::test(flavor = "multi_thread")]
async fn others_pass_an_alarm_that_is_refused() {
    let mut world = World::new(Shape::durable()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    world.stop().await;
    let receiver = Receiver::start(world.directory()).await;
    receiver.of(&mut world);
    receiver.say(|message| if message.number == 1 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK });
    world.start().await;
    world.unseal().await;
    for _ in 0..3 {
        alarm(&world, &world.client(&alice), &bob).await;
    }
    metric(&world, "bulla_webhook_waiting 1").await;
    metric(&world, "bulla_webhook_attempts_total{reason=\"taken\"} 2").await;
    let taken = receiver.numbers().into_iter().filter(|number| *number != 1);
    assert_eq!(taken.collect::<Vec<_>>(), [2, 3]);
    receiver.say(|_| StatusCode::NO_CONTENT);
    metric(&world, "bulla_webhook_waiting 0").await;
    assert_eq!(receiver.numbers().last(), Some(&1));
    finish(world).await;
}

/// A receiver that is dead costs a call now and then, a flood beside it no more than its places, and the node serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_beside_a_dead_receiver_has_an_end() {
    const MORE: u64 = 20;
    let shape = Shape::default();
    let mut world = World::bare(&shape).await;
    world.stop().await;
    let receiver = Receiver::start(world.directory()).await;
    receiver.of(&mut world);
    receiver.say(|_| StatusCode::SERVICE_UNAVAILABLE);
    world.start().await;
    let first = world.admins[0].client(&world.address(), Pin::Node(world.server().ready.node));
    world.cluster = first.init(&world.init(&shape)).await.unwrap().id();
    world.unseal().await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let began = Instant::now();
    {
        let node = &world.server().node;
        let Phase::Unsealed(unsealed) = node.phase() else { panic!("it is unsealed") };
        let raise = Raise { kind: AlarmKind::ReplayMutation, message: "again", told: vec![] };
        for _ in 0..WAITING_MAX + MORE {
            unsealed.drive(node.machine(), &raise, None, None).await.unwrap();
        }
    }
    metric(&world, &format!("bulla_webhook_waiting {WAITING_MAX}")).await;
    metric(&world, &format!("bulla_webhook_dropped {MORE}")).await;
    // At first four, then after one second, two, four and so on, each less up to a quarter.
    let waits = (began.elapsed().as_secs() * 4 / 3 + 2).ilog2() + 1;
    let most = 4 + usize::try_from(waits).unwrap();
    assert!(receiver.count() <= most, "{} calls in {:?}", receiver.count(), began.elapsed());
    // It serves, alarms among the rest: their parties are told.
    alarm(&world, &world.client(&alice), &bob).await;
    assert_eq!(world.client(&alice).alarms(None, None, true).await.unwrap().alarms.len(), 1);
    metric(&world, &format!("bulla_webhook_dropped {}", MORE + 1)).await;

    receiver.say(|_| StatusCode::NO_CONTENT);
    // The longest that it may have waited by now is twice as long as all of it took.
    for _ in 0..4 * began.elapsed().as_secs() + 60 {
        if world.server().node.parts.metrics.text().contains("{reason=\"taken\"}") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    receiver.wait(most + 20).await;
    let dropped = |call: &Call| call.message().dropped;
    let dropped: HashSet<_> = receiver.calls.lock().unwrap().iter().map(dropped).collect();
    assert_eq!(dropped, [0].into(), "they came before any found no place");
    world.stop().await;
}

/// What a sealed node notices is told by the sealed node, signed and numbered by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_node_tells_what_it_notices() {
    let mut world = World::sealed(Shape { mode: SealMode::Quorum, n: 3, k: 2, ..Shape::durable() }).await;
    world.stop().await;
    let receiver = Receiver::start(world.directory()).await;
    receiver.of(&mut world);
    receiver.answers.lock().unwrap().push_back(answer(StatusCode::SERVICE_UNAVAILABLE, None));
    world.start().await;
    let mut admin = Caller::new(&world, &world.admins[1]).await;
    let session: UnsealSession = admin.call("POST", "/v1/seal/session").await.ok().json();
    let path = format!("/v1/seal/session/{}", session.id);
    let key: EncryptedShareKey = admin.call("GET", &format!("{path}/key")).await.ok().json();
    let own = share(&view(&world), &world.admins[1], &session, &key);
    for file in [vec![], vec![0; 64]] {
        let bad = GiveShare { file: evidence::Bytes(file), ..own.clone() };
        admin.call_json("POST", &format!("{path}/share"), &bad).await.refused(Code::BadShare);
    }
    receiver.wait(3).await;
    world.clock.step(3 * 3_600_000);
    receiver.wait(4).await;
    metric(&world, "bulla_webhook_waiting 0").await;
    let node = world.server().node.parts.key.public_key().clone();
    {
        let calls = receiver.calls.lock().unwrap();
        let told: Vec<_> = calls.iter().map(|call| (call.message().number, call.message().alarm.kind)).collect();
        let share = |number| (number, AlarmKind::BadShare);
        assert!(told[1..].iter().filter(|told| **told == share(1)).count() == 1, "{told:?}");
        assert!(told.contains(&share(2)) && told.contains(&(3, AlarmKind::ClockStepped)), "{told:?}");
        for call in calls.iter() {
            let message = call.message();
            assert_eq!((message.cluster, message.node, message.lineage), (world.cluster, node.key_id(), None));
            assert_eq!((message.dropped, message.alarm.id.as_str()), (0, ""));
            if message.alarm.kind == AlarmKind::BadShare {
                let admin = bulla_crypto::evidence::payload_digest(&world.admins[1].record).to_string();
                assert_eq!(message.alarm.actor.unwrap().principal.to_string(), admin);
            }
            let timestamp = call.header(TIMESTAMP_HEADER).parse().unwrap();
            let signature = call.header(SIGNATURE_HEADER).strip_prefix(SIGNATURE_PREFIX).unwrap();
            let over = signed(call.header(ID_HEADER), timestamp, &call.body);
            node.verify(&over, &base64_decode(signature).unwrap()).unwrap();
        }
    }
    world.stop().await;
}
