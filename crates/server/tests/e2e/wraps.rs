//! Wraps whole: who may open when, what each end says, and who is told.

use crate::cases::{Cast, claim, open_all, open_body, parcel};
use crate::support::{Caller, announce, finish, read, rows, tls};
use bulla_client::{Client, ClientError, MemoryOutput, Outgoing, content};
use bulla_crypto::envelope;
use bulla_crypto::identity::IdentityKind;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{self, AlarmKind, SlotState};
use bulla_wire::error::Code;
use bulla_wire::id::Digest;
use bulla_wire::wrap::{MAX_CONTENT_BYTES, MAX_DELIVERIES, Mode, Parcel, ReceiptKind, Slip};
use hyper_util::rt::TokioIo;
use std::time::Duration;

struct Stage {
    world: World,
    writer: Client,
    bob: Person,
    carol: Person,
}

async fn stage(shape: Shape) -> Stage {
    let world = World::new(shape).await;
    let alice = world.admit("alice").await;
    let (bob, carol) = (world.admit("bob").await, world.admit("carol").await);
    let writer = world.client(&alice);
    Stage { writer, world, bob, carol }
}

impl Stage {
    async fn make(&self, change: impl FnOnce(&mut Outgoing)) -> Slip {
        let mut to = Vec::new();
        for name in ["bob", "carol"] {
            to.push(self.writer.resolve(name).await.unwrap());
        }
        let mut outgoing = Outgoing::new(to, 3600);
        change(&mut outgoing);
        self.writer.wrap_create(outgoing, content(b"the launch code".to_vec())).await.unwrap().slip
    }

    async fn open(&self, person: &Person, slip: &Slip) -> Result<Vec<u8>, ClientError> {
        let mut output = MemoryOutput::new();
        self.world.client(person).wrap_open(slip, &mut output).await?.acked?;
        Ok(output.content().to_vec())
    }

    async fn refused(&self, person: &Person, slip: &Slip, code: Code) {
        let error = self.open(person, slip).await.expect_err("refused");
        assert_eq!(error.code(), Some(code), "{error}");
    }

    async fn states(&self, slip: &Slip) -> Vec<SlotState> {
        self.writer.wrap_inspect(slip).await.unwrap().slots.iter().map(|slot| slot.state).collect()
    }

    async fn kinds(&self, slip: &Slip) -> Vec<ReceiptKind> {
        let view = self.writer.wrap_inspect(slip).await.unwrap();
        view.slots.iter().flat_map(|slot| &slot.receipts).map(|receipt| receipt.receipt.kind).collect()
    }

    async fn alarms(&self, client: &Client, slip: &Slip) -> Vec<AlarmKind> {
        let alarms = client.alarms(None, Some(1000), true).await.unwrap().alarms;
        alarms.iter().filter(|alarm| alarm.wrap == Some(slip.wrap)).map(|alarm| alarm.kind).collect()
    }

    async fn sweep(&self) {
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_is_for_one_and_each_for_all() {
    let stage = stage(Shape::durable()).await;
    let first = stage.make(|_| {}).await;
    assert_eq!(stage.open(&stage.carol, &first).await.unwrap(), b"the launch code");
    stage.refused(&stage.bob, &first, Code::AlreadyOpened).await;
    // The opener's own second try, with another claim, comes from a key in other hands.
    stage.refused(&stage.carol, &first, Code::AlreadyOpened).await;
    assert_eq!(stage.alarms(&stage.writer, &first).await, [AlarmKind::SecondClaim]);

    let each = stage.make(|outgoing| outgoing.mode = Mode::Each).await;
    assert_eq!(stage.open(&stage.bob, &each).await.unwrap(), b"the launch code");
    assert_eq!(stage.states(&each).await, [SlotState::Acked, SlotState::Sealed]);
    assert_eq!(stage.open(&stage.carol, &each).await.unwrap(), b"the launch code");
    stage.refused(&stage.carol, &each, Code::AlreadyOpened).await;
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_early_nor_late() {
    let stage = stage(Shape::default()).await;
    let nbf_ms = stage.world.server().node.now_ms() + 600_000;
    let slip = stage.make(|outgoing| outgoing.nbf_ms = nbf_ms).await;
    stage.refused(&stage.bob, &slip, Code::NotYet).await;
    assert_eq!(stage.states(&slip).await, [SlotState::Sealed]);
    stage.world.clock.pass(601_000);
    assert_eq!(stage.open(&stage.bob, &slip).await.unwrap(), b"the launch code");

    let slip = stage.make(|_| {}).await;
    stage.world.clock.pass(3_601_000);
    stage.refused(&stage.bob, &slip, Code::Expired).await;
    stage.sweep().await;
    assert_eq!(stage.states(&slip).await, [SlotState::Expired]);
    assert_eq!(stage.alarms(&stage.writer, &slip).await, [AlarmKind::ExpiredUnopened]);
    stage.refused(&stage.bob, &slip, Code::Expired).await;
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_back_before_and_after_it_was_opened() {
    let stage = stage(Shape::default()).await;
    let slip = stage.make(|_| {}).await;
    let theft = stage.world.client(&stage.bob).wrap_revoke(&slip).await.expect_err("not his to take back");
    assert!(matches!(theft.code(), Some(Code::NotFound | Code::Denied)), "{theft}");
    assert_eq!(stage.states(&slip).await, [SlotState::Sealed]);
    let receipts = stage.writer.wrap_revoke(&slip).await.unwrap();
    assert_eq!(receipts.iter().map(|r| r.receipt.kind).collect::<Vec<_>>(), [ReceiptKind::Revoked]);
    stage.refused(&stage.bob, &slip, Code::Revoked).await;

    let slip = stage.make(|_| {}).await;
    let mut bob = Caller::new(&stage.world, &stage.bob).await;
    let claim = claim();
    let path = format!("/v1/wrap/{}:open", slip.wrap);
    bob.call_json("POST", &path, &open_body(&slip, &claim)).await.ok();
    let receipts = stage.writer.wrap_revoke(&slip).await.unwrap();
    let kinds: Vec<_> = receipts.iter().map(|receipt| receipt.receipt.kind).collect();
    assert_eq!(kinds, [ReceiptKind::Opened, ReceiptKind::Revoked], "the writer learns that it was opened");
    bob.call_json("POST", &path, &open_body(&slip, &claim)).await.refused(Code::Revoked);
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_open_comes_again_to_the_same_claim_only() {
    let stage = stage(Shape::durable()).await;
    let slip = stage.make(|_| {}).await;
    let mut bob = Caller::new(&stage.world, &stage.bob).await;
    let (own, other) = (claim(), claim());
    let path = format!("/v1/wrap/{}:open", slip.wrap);
    let mut files = Vec::new();
    for delivery in 0..MAX_DELIVERIES {
        let reply = bob.call_json("POST", &path, &open_body(&slip, &own)).await.ok();
        let opened = envelope::open(&[&own], &reply.body, usize::MAX).await.unwrap();
        files.push(Parcel::parse(opened.plaintext.expose()).unwrap().file.to_vec());
        assert!(envelope::open(&[&other], &reply.body, usize::MAX).await.is_err());
        assert!(
            envelope::open(&[&*stage.bob.identity], &reply.body, usize::MAX).await.is_err(),
            "not the long-term key"
        );
        if delivery == 0 {
            bob.call_json("POST", &path, &open_body(&slip, &other)).await.refused(Code::AlreadyOpened);
        }
    }
    files.dedup();
    assert_eq!(files.len(), 1, "the same ciphertext each time");
    bob.call_json("POST", &path, &open_body(&slip, &own)).await.refused(Code::TooManyDeliveries);
    let kinds = stage.kinds(&slip).await;
    assert_eq!(kinds.iter().filter(|kind| **kind == ReceiptKind::Opened).count(), 1);
    assert_eq!(kinds.iter().filter(|kind| **kind == ReceiptKind::Redelivered).count(), MAX_DELIVERIES as usize - 1);
    let told = stage.alarms(&stage.writer, &slip).await;
    assert_eq!(told, [AlarmKind::SecondClaim, AlarmKind::Redelivery]);
    let body = api::FinishWrap { statement_sha256: slip.statement_sha256, claim_sha256: Digest::new([1; 32]) };
    bob.call_json("POST", &format!("/v1/wrap/{}:ack", slip.wrap), &body).await.error().expect("not with another claim");
    let claim_sha256 = own.recipients()[0].digest();
    let body = api::FinishWrap { claim_sha256, ..body };
    for _ in 0..2 {
        bob.call_json("POST", &format!("/v1/wrap/{}:ack", slip.wrap), &body).await.ok();
    }
    bob.call_json("POST", &path, &open_body(&slip, &own)).await.refused(Code::Acked);
    finish(stage.world).await;
}

/// What is opened takes its share of the memory for bodies before anything is won, and keeps it until it was sent.
#[tokio::test(flavor = "multi_thread")]
async fn large_answers_have_their_share_of_memory() {
    let stage = stage(Shape::durable()).await;
    let len = MAX_CONTENT_BYTES as usize;
    let bob = stage.writer.resolve("bob").await.unwrap();
    let made = stage.writer.wrap_create(Outgoing::new(vec![bob], 3600), content(vec![7; len])).await.unwrap();
    let mut bob = Caller::new(&stage.world, &stage.bob).await;
    let node = stage.world.server().node.clone();
    let bodies = &node.parts.bodies;
    let all = bodies.free_bytes();
    let path = format!("/v1/wrap/{}:open", made.slip.wrap);
    let body = bulla_wire::json::to_vec(&open_body(&made.slip, &claim()));
    let request = |caller: &Caller| {
        caller.request("POST", &path, bulla_wire::signature::JSON_MEDIA_TYPE, body.clone(), caller.nonce())
    };
    // Two thirds of what it takes are free.
    let others = bodies.hold(all - 2 * len).unwrap();
    let before = rows(&stage.world).await;
    for _ in 0..=MAX_DELIVERIES {
        let refused = bob.send(&request(&bob)).await.refused(Code::Overloaded);
        assert_eq!(refused.header("retry-after"), "1");
    }
    assert_eq!(rows(&stage.world).await, before, "it is not opened, and no delivery is counted");
    drop(others);
    // Its head is there, and nobody reads the rest.
    let stream = TokioIo::new(tls(stage.world.server().ready.address, "http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request(&bob).http(None).unwrap()).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let held = all - bodies.free_bytes();
    assert!((len..3 * len).contains(&held), "{held} bytes are held for an answer of {len}");
    assert!(read(response).await.body.len() > len);
    for _ in 0..100 {
        if bodies.free_bytes() == all {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bodies.free_bytes(), all, "it was sent");
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_ends_it_and_is_told() {
    let stage = stage(Shape::default()).await;
    let slip = stage.make(|_| {}).await;
    let mut bob = Caller::new(&stage.world, &stage.bob).await;
    let claim = claim();
    bob.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &open_body(&slip, &claim)).await.ok();
    let body =
        api::FinishWrap { statement_sha256: slip.statement_sha256, claim_sha256: claim.recipients()[0].digest() };
    bob.call_json("POST", &format!("/v1/wrap/{}:nack", slip.wrap), &body).await.ok();
    bob.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &open_body(&slip, &claim))
        .await
        .refused(Code::Nacked);
    assert_eq!(stage.states(&slip).await, [SlotState::Nacked]);
    assert!(stage.alarms(&stage.writer, &slip).await.contains(&AlarmKind::Nack));
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_acknowledged_lapses() {
    let stage = stage(Shape::default()).await;
    let slip = stage.make(|outgoing| outgoing.ack_s = 10).await;
    let mut bob = Caller::new(&stage.world, &stage.bob).await;
    let claim = claim();
    bob.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &open_body(&slip, &claim)).await.ok();
    stage.world.clock.pass(11_000);
    stage.sweep().await;
    assert_eq!(stage.states(&slip).await, [SlotState::Lapsed]);
    assert_eq!(stage.alarms(&stage.writer, &slip).await, [AlarmKind::Lapse]);
    bob.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &open_body(&slip, &claim))
        .await
        .refused(Code::Lapsed);
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_learn_nothing_and_are_told_of() {
    let stage = stage(Shape::default()).await;
    let mallory = stage.world.admit("mallory").await;
    let slip = stage.make(|_| {}).await;
    let mut stranger = Caller::new(&stage.world, &mallory).await;
    let unknown = Slip { wrap: bulla_wire::id::WrapId::new([3; 16]), ..slip.clone() };
    let mut answers = Vec::new();
    for slip in [&slip, &unknown] {
        let reply =
            stranger.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &open_body(slip, &claim())).await;
        let look = stranger.call("GET", &format!("/v1/wrap/{}", slip.wrap)).await;
        for mut reply in [reply, look] {
            let mut error = reply.error().unwrap();
            (error.id, error.message) = (None, error.message.replace(&slip.wrap.to_string(), "ID"));
            reply.headers.remove("content-length");
            let lasting: Vec<_> = crate::support::lasting(&reply.headers);
            let lasting: Vec<_> = lasting.into_iter().filter(|(name, _)| name != "content-digest").collect();
            answers.push((reply.status, lasting, error));
        }
    }
    assert_eq!(answers[0], answers[2]);
    assert_eq!(answers[1], answers[3]);
    assert_eq!(stage.alarms(&stage.writer, &slip).await, [AlarmKind::ClaimByStranger]);
    let bob = stage.world.client(&stage.bob);
    assert_eq!(stage.alarms(&bob, &slip).await, [AlarmKind::ClaimByStranger]);
    assert_eq!(bob.alarms_waiting(), 1, "each answer counts them");
    let seen = bob.alarms(None, None, false).await.unwrap().alarms;
    bob.alarms_seen(&seen.last().unwrap().id).await.unwrap();
    assert_eq!(bob.alarms_waiting(), 0);
    assert_eq!(stage.open(&stage.bob, &slip).await.unwrap(), b"the launch code", "and the wrap is whole");
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_lists_their_own() {
    let stage = stage(Shape::default()).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(stage.make(|_| {}).await.wrap);
        stage.world.clock.pass(10);
    }
    let bob = stage.world.client(&stage.bob);
    for client in [&stage.writer, &bob] {
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let page = client.wraps(after.as_deref(), Some(2)).await.unwrap();
            listed.extend(page.wraps.iter().map(|wrap| wrap.wrap));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, made, "oldest first, page by page");
    }
    let stranger = stage.world.admit("mallory").await;
    assert!(stage.world.client(&stranger).wraps(None, None).await.unwrap().wraps.is_empty());
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_up_to_the_limit_and_none_above() {
    let stage = stage(Shape::durable()).await;
    let bob = stage.writer.resolve("bob").await.unwrap();
    for length in [0, 1, 64 * 1024, 256 * 1024, 512 * 1024 + 1, MAX_CONTENT_BYTES as usize] {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let outgoing = Outgoing::new(vec![bob.clone()], 3600);
        let made = stage.writer.wrap_create(outgoing, content(bytes.clone())).await.unwrap();
        assert!(stage.open(&stage.bob, &made.slip).await.unwrap() == bytes, "{length} bytes");
    }
    let before = rows(&stage.world).await;
    let larger = vec![0; MAX_CONTENT_BYTES as usize + 1];
    let error = stage.writer.wrap_create(Outgoing::new(vec![bob], 3600), content(larger)).await.expect_err("too large");
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
    // By hand, announced as too long: refused before a byte of it was read.
    let caller = Caller::new(&stage.world, &stage.bob).await;
    let body = vec![0; bulla_server::route::MAX_PARCEL_BODY_BYTES + 1];
    let request = caller.request("POST", "/v1/wrap", "application/vnd.bulla.wrap", body, caller.nonce());
    assert_eq!(announce(stage.world.server().ready.address, &request).await, 413);
    assert_eq!(rows(&stage.world).await, before);
    finish(stage.world).await;
}

/// A piece that is authentic by itself, but not the one that was stored, is not given out.
#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_checked_together() {
    use bulla_core::barrier::{Kind, Query, RecordKey, Writes};
    use bulla_core::engine::chunk::{CHUNK_BYTES, Upload};
    let stage = stage(Shape::default()).await;
    let bob = stage.writer.resolve("bob").await.unwrap();
    let made =
        stage.writer.wrap_create(Outgoing::new(vec![bob], 3600), content(vec![7; 2 * CHUNK_BYTES])).await.unwrap();
    let unsealed = crate::support::unsealed(&stage.world);
    let machine = stage.world.server().node.machine();
    let key = RecordKey::hidden(Kind::Wrap, made.slip.wrap.as_bytes(), "ct");
    let query = [Query::Get(key.clone())];
    let snapshot = machine.store.read(unsealed.keys.barrier.reads(&query).unwrap()).await.unwrap();
    let (_, records) = unsealed.keys.barrier.records(&query, snapshot).unwrap();
    let stored = records.get(&key).unwrap().unwrap().bytes.expose().split_first().unwrap().1.to_vec();
    let upload = Upload::parse(&bulla_crypto::secret::SecretBytes::new(stored)).unwrap();
    let mut bob = Caller::new(&stage.world, &stage.bob).await;
    let (path, body) = (format!("/v1/wrap/{}:open", made.slip.wrap), open_body(&made.slip, &claim()));
    bob.call_json("POST", &path, &body).await.ok();
    for other in [vec![8; CHUNK_BYTES], vec![7; CHUNK_BYTES - 1]] {
        let mut writes = Writes::default();
        writes.put(upload.chunk(1), other);
        unsealed.write(machine, &writes).await.unwrap();
        bob.call_json("POST", &path, &body).await.refused(Code::Internal);
    }
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hybrid_and_classical_recipients_do_not_mix() {
    let stage = stage(Shape::default()).await;
    let dave = Person::with_kind("dave", IdentityKind::Classical);
    stage.world.admit_person(&dave, &[]).await;
    let (bob, classical) = (stage.writer.resolve("bob").await.unwrap(), stage.writer.resolve("dave").await.unwrap());
    let both = Outgoing::new(vec![bob, classical.clone()], 3600);
    let error = stage.writer.wrap_create(both, content(b"x".to_vec())).await.expect_err("mixed");
    assert!(error.to_string().ends_with("without: dave"), "who is in the way is named: {error}");
    let one = Outgoing::new(vec![classical], 3600);
    let made = stage.writer.wrap_create(one, content(b"x".to_vec())).await.unwrap();
    assert_eq!(open_all(&stage.world.client(&dave), &made.slip).await, b"x");
    finish(stage.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_principal_opens_nothing_until_it_is_enabled() {
    let stage = stage(Shape::default()).await;
    let admin = stage.world.client(&stage.world.admins[0]);
    let slip = stage.make(|_| {}).await;
    admin.principal_disable(&"bob".parse().unwrap()).await.unwrap();
    stage.refused(&stage.bob, &slip, Code::Unauthenticated).await;
    admin.principal_enable(&"bob".parse().unwrap()).await.unwrap();
    assert_eq!(stage.open(&stage.bob, &slip).await.unwrap(), b"the launch code");
    finish(stage.world).await;
}

/// Statements that a client would never sign are refused by the server, and nothing is kept.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_do_not_hold() {
    let world = World::new(Shape::default()).await;
    let mut cast = Cast::new(&world).await;
    let before = rows(&world).await;
    type Change = fn(&mut bulla_wire::wrap::Statement);
    let spoilt: [(&str, Change); 9] = [
        ("cluster", |s| s.cluster = bulla_wire::id::ClusterId::new([1; 32])),
        ("from", |s| s.from = s.to[0].principal),
        ("to", |s| s.to.clear()),
        ("to", |s| s.to.push(s.to[0].clone())),
        ("record_sha256", |s| s.to[0].record_sha256 = Digest::new([1; 32])),
        ("nbf_ms", |s| s.nbf_ms = s.exp_ms),
        ("exp_ms", |s| s.exp_ms += 367 * 24 * 3_600_000),
        ("ack_s", |s| s.ack_s = 9),
        ("ct", |s| s.ct.len += 1),
    ];
    for (field, change) in spoilt {
        let (body, _) = parcel(&world, &cast.alice_person, &[&cast.bob_person], change);
        let alice = &mut cast.alice;
        let request = alice.request("POST", "/v1/wrap", "application/vnd.bulla.wrap", body, alice.nonce());
        let reply = alice.send(&request).await;
        assert!((400..500).contains(&reply.status), "{field}: {}", reply.status);
        let error = reply.error().unwrap();
        assert!(error.field.is_some(), "{field}: {error:?}");
    }
    let (body, _) = parcel(&world, &cast.alice_person, &[&cast.bob_person], |s| s.exp_ms -= 2 * 3_600_000);
    let request = cast.alice.request("POST", "/v1/wrap", "application/vnd.bulla.wrap", body, cast.alice.nonce());
    assert!(cast.alice.send(&request).await.error().is_some(), "over before it begins");
    // Somebody else's statement.
    let (body, _) = parcel(&world, &cast.alice_person, &[&cast.bob_person], |_| {});
    let request = cast.bob.request("POST", "/v1/wrap", "application/vnd.bulla.wrap", body.clone(), cast.bob.nonce());
    assert!(cast.bob.send(&request).await.error().is_some());
    assert_eq!(rows(&world).await, before);
    // The same statement twice is one wrap; under another nonce too.
    for _ in 0..2 {
        let request =
            cast.alice.request("POST", "/v1/wrap", "application/vnd.bulla.wrap", body.clone(), cast.alice.nonce());
        cast.alice.send(&request).await.ok();
    }
    finish(world).await;
}
