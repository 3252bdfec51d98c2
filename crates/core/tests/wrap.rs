//! Wraps, one rule of `spec/wrap.md` after the other.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod wrap_world;

use bulla_core::barrier::{Cursor, Kind, RecordKey, Writes};
use bulla_core::engine::alarm;
use bulla_core::engine::chunk::{CHUNK_BYTES, UPLOAD_LIFETIME_MS, Upload};
use bulla_core::engine::due::{self, What};
use bulla_core::engine::wrap::slot::{InvalidTransition, MAX_QUIETLY_REFUSED, MAX_REFUSED, Opening, State};
use bulla_core::engine::wrap::{
    Ack, Draft, Early, Inspect, List, MAX_SHOWN, MAX_STRANGERS, Nack, Open, Park, Release, Retire, Revoke, TOMBSTONE_MS,
};
use bulla_core::operation::{Content, Replay};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{Payload, sign_in_memory};
use bulla_crypto::recipient::Recipient;
use bulla_wire::api::{AlarmKind, Alarms, FinishWrap, OpenWrap, RevokeWrap, SlotState, WrapView, Wraps};
use bulla_wire::error::Code;
use bulla_wire::id::{Digest, Lineage};
use bulla_wire::wrap::{MAX_DELIVERIES, MAX_LIFE_MS, Mode, ReceiptKind, Statement};
use wrap_world::*;

fn finish(wrap: &Wrap, claim: &Recipient) -> FinishWrap {
    FinishWrap { statement_sha256: wrap.digest, claim_sha256: claim.digest() }
}

fn ack(world: &mut World, wrap: &Wrap, name: &str, claim: &Recipient) -> Answered {
    world.run(Box::new(Ack { wrap: wrap.id, body: finish(wrap, claim) }), Some(name))
}

fn nack(world: &mut World, wrap: &Wrap, name: &str, claim: &Recipient) -> Answered {
    world.run(Box::new(Nack { wrap: wrap.id, body: finish(wrap, claim) }), Some(name))
}

fn revoke(world: &mut World, wrap: &Wrap, name: &str) -> Answered {
    let body = RevokeWrap { statement_sha256: wrap.digest };
    world.run(Box::new(Revoke { wrap: wrap.id, body }), Some(name))
}

fn release(world: &mut World, wrap: &Wrap, name: &str) -> Answered {
    let body = RevokeWrap { statement_sha256: wrap.digest };
    world.run(Box::new(Release { wrap: wrap.id, body }), Some(name))
}

fn inspect(world: &mut World, wrap: &Wrap, name: &str) -> Answered {
    world.run(Box::new(Inspect { wrap: wrap.id }), Some(name))
}

/// The machine as it is drawn in `wrap_machine.txt`.
#[test]
fn the_drawn_machine() {
    let opening =
        Opening { by: [1; 32].into_id(), claim_sha256: Digest::new([2; 32]), lapse_active_ms: 3, deliveries: 1 };
    let states = [
        State::Sealed,
        State::Parked,
        State::Opened(opening.clone()),
        State::Acked(opening.clone()),
        State::Lapsed(opening.clone()),
        State::Nacked { opening: opening.clone(), kept: true },
        State::Revoked(None),
        State::Expired,
    ];
    type Arrow = fn(State, Opening) -> Result<State, InvalidTransition>;
    let arrows: [(&str, Arrow); 9] = [
        ("open", State::open),
        ("deliver", |state, _| state.deliver()),
        ("ack", |state, _| state.ack()),
        ("nack", |state, _| state.nack()),
        ("lapse", |state, _| state.lapse()),
        ("expire", |state, _| state.expire()),
        ("revoke", |state, _| state.revoke()),
        ("park", |state, _| state.park()),
        ("release", |state, _| state.release()),
    ];
    let mut drawn = String::new();
    for state in &states {
        for (event, arrow) in arrows {
            match arrow(state.clone(), opening.clone()) {
                Ok(next) => drawn.push_str(&format!("{:?} --{event}--> {:?}\n", state.name(), next.name())),
                Err(error) => assert_eq!(error, InvalidTransition { from: state.name(), event }),
            }
        }
    }
    assert_eq!(drawn, include_str!("wrap_machine.txt"));
    let last = State::Opened(Opening { deliveries: MAX_DELIVERIES, ..opening.clone() });
    assert!(last.deliver().is_err());
    assert!(State::Nacked { opening, kept: false }.lapse().is_err());
    assert_eq!(State::Sealed.ack().unwrap_err().to_string(), "a slot that is Sealed cannot ack");
}

trait IntoId {
    fn into_id(self) -> bulla_wire::id::PrincipalId;
}
impl IntoId for [u8; 32] {
    fn into_id(self) -> bulla_wire::id::PrincipalId {
        bulla_wire::id::PrincipalId::new(self)
    }
}

#[test]
fn create_open_ack() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    invariants(&world, &wrap);
    let claim = world.claim();
    let opened = world.open(&wrap, "bob", &claim);
    let (receipt, content) = opened.content();
    assert_eq!(content, Content::Inline(CIPHERTEXT.to_vec()));
    let receipt = world.verify(&receipt).receipt;
    assert_eq!((receipt.kind, receipt.slot), (ReceiptKind::Opened, 0));
    assert_eq!(receipt.actor.unwrap(), world.actor("bob"));
    assert_eq!(opened.receipts.len(), 1, "for the audit line");
    invariants(&world, &wrap);
    let acked = ack(&mut world, &wrap, "bob", &claim);
    assert_eq!(world.kinds(&acked.receipts()), [ReceiptKind::Acked]);
    invariants(&world, &wrap);
    assert_eq!((world.count(Kind::DueActive), world.count(Kind::Due)), (0, 1), "only the tombstone is due");
    // A lost answer: asked again, the same receipt.
    let again = ack(&mut world, &wrap, "bob", &claim);
    assert_eq!(again.receipts(), acked.receipts());
    assert_eq!(world.receipts(&wrap.id, 0).len(), 2);
    let late = world.open(&wrap, "bob", &claim);
    let late = late.result.unwrap_err();
    assert_eq!((late.code, late.hint), (Code::Acked, None), "there is nothing to do about it");
    let proof = late.receipt.unwrap();
    assert_eq!(*proof, acked.receipts()[0]);
}

#[test]
fn a_repeated_creation_gets_the_same_receipt_at_any_time() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let rows = world.rows.clone();
    world.pass(LIFE_MS + DAY_MS);
    let again = world.create_as("alice", &wrap.envelope, Content::Inline(CIPHERTEXT.to_vec()));
    assert_eq!(again.receipts(), std::slice::from_ref(&wrap.created));
    assert_eq!(world.rows, rows, "nothing was written");
    let mut other = wrap.statement.clone();
    other.exp_ms += DAY_MS;
    let other = world.sign(&other);
    let refused = world.create_as("alice", &other, Content::Inline(CIPHERTEXT.to_vec()));
    assert_eq!(refused.code(), Some(Code::Exists));
    assert_eq!(world.rows, rows, "nothing was written");
}

/// Who posts its own statement under a known id learns that there is a wrap; its parties learn of that.
#[test]
fn a_creation_under_anothers_id_is_told_to_its_parties() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let own = |world: &mut World, name: &str, ciphertext: &[u8]| {
        let statement = world.statement(&["dave"], Mode::First, ciphertext);
        let statement = Statement { wrap: wrap.id, from: world.id(name), ..statement };
        sign_in_memory(&statement, &[world.people[name].identity.signing_key().unwrap()]).unwrap()
    };
    for n in 0..usize::from(MAX_STRANGERS) + 3 {
        let envelope = own(&mut world, "eve", CIPHERTEXT);
        let refused = world.create_as("eve", &envelope, Content::Inline(CIPHERTEXT.to_vec()));
        assert_eq!(refused.code(), Some(Code::Exists));
        let expected = usize::from(n < usize::from(MAX_STRANGERS));
        assert_eq!(refused.alarm_kinds(), vec![AlarmKind::ClaimByStranger; expected], "attempt {n}");
        assert!(refused.alarms.iter().all(|raised| raised.alarm.wrap == Some(wrap.id)));
    }
    for (name, alarms) in [("alice", 16), ("bob", 16), ("dave", 0), ("eve", 0)] {
        assert_eq!(world.alarms_of(name), alarms, "{name}");
    }
    // Attempts to open are counted with them.
    let claim = world.claim();
    assert!(world.open(&wrap, "eve", &claim).alarms.is_empty());
    invariants(&world, &wrap);
    // A party knows of it already.
    let wrap = world.wrap(&["bob"], Mode::First);
    let statement = Statement { wrap: wrap.id, ..world.statement(&["dave"], Mode::First, CIPHERTEXT) };
    let statement = Statement { from: world.id("bob"), ..statement };
    let envelope = sign_in_memory(&statement, &[world.people["bob"].identity.signing_key().unwrap()]).unwrap();
    let refused = world.create_as("bob", &envelope, Content::Inline(CIPHERTEXT.to_vec()));
    assert_eq!((refused.code(), refused.alarms.len()), (Some(Code::Exists), 0));
    // A large one is not answered before its pieces are there, for the answer comes with the alarm.
    let large = own(&mut world, "eve", &vec![7; CHUNK_BYTES + 1]);
    let statement: Statement = serde_json::from_slice(&large.payload).unwrap();
    let record = world.part(&statement.wrap, "head");
    assert!(record.is_some());
    let eve = world.actor("eve");
    let key = Draft::check(&large, &world.context(Some(&eve))).unwrap().head_key();
    let records = world.read(&[bulla_core::barrier::Query::Get(key.clone())]);
    let context = world.context(Some(&eve));
    let early = Draft::check(&large, &context).unwrap().early(records.get(&key).unwrap(), &context).unwrap();
    assert!(matches!(early, Early::Wanted), "{early:?}");
}

/// Each breaks one rule of a statement that is right otherwise.
/// What is signed as a statement and has the fields of none.
#[derive(serde::Serialize, serde::Deserialize)]
struct Spoilt(serde_json::Value);
impl Payload for Spoilt {
    const TYPE: &'static str = Statement::TYPE;
}

#[test]
fn creations_that_are_refused() {
    type Break = fn(&mut World, &mut Statement);
    let other_principal: Break = |world, s| s.to[0].principal = world.id("carol");
    let cases: Vec<(&str, Code, Option<&str>, Break)> = vec![
        ("another cluster", Code::BadStatement, Some("cluster"), |_, s| {
            s.cluster = bulla_wire::id::ClusterId::new([9; 32]);
        }),
        ("another writer", Code::BadStatement, Some("from"), |world, s| s.from = world.id("bob")),
        ("nobody", Code::BadStatement, Some("to"), |_, s| s.to.clear()),
        ("twice", Code::BadStatement, Some("to.principal"), |_, s| s.to.push(s.to[0].clone())),
        ("unknown", Code::UnknownRecipient, Some("to[0].principal"), |_, s| s.to[0].principal = [7; 32].into_id()),
        ("stale record", Code::VersionMismatch, Some("to[0].record_sha256"), |_, s| {
            s.to[0].record_sha256 = Digest::new([7; 32]);
        }),
        ("another's record", Code::VersionMismatch, Some("to[0].record_sha256"), other_principal),
        ("foreign recipient", Code::BadStatement, Some("to[0].recipients"), |_, s| {
            s.to[0].recipients = vec![Digest::new([7; 32])];
        }),
        ("no recipient", Code::BadStatement, Some("to.recipients"), |_, s| s.to[0].recipients.clear()),
        ("over", Code::BadStatement, Some("exp_ms"), |world, s| s.exp_ms = world.now.unix_ms),
        ("too long", Code::BadStatement, Some("exp_ms"), |world, s| s.exp_ms = world.now.unix_ms + MAX_LIFE_MS + 1),
        ("never open", Code::BadStatement, Some("exp_ms"), |_, s| s.nbf_ms = s.exp_ms),
        ("ack_s low", Code::BadStatement, Some("ack_s"), |_, s| s.ack_s = 9),
        ("ack_s high", Code::BadStatement, Some("ack_s"), |_, s| s.ack_s = 86_401),
        ("label", Code::BadStatement, Some("label"), |_, s| s.label = Some("x".repeat(257))),
        ("label of two lines", Code::BadStatement, Some("label"), |_, s| s.label = Some("a\nproof  yes".into())),
        ("label with a control", Code::BadStatement, Some("label"), |_, s| s.label = Some("a\u{1b}[2J".into())),
        ("label with a delete", Code::BadStatement, Some("label"), |_, s| s.label = Some("a\u{7f}".into())),
        ("label with a separator", Code::BadStatement, Some("label"), |_, s| s.label = Some("a\u{2028}b".into())),
        ("label turned round", Code::BadStatement, Some("label"), |_, s| s.label = Some("a\u{202e}b".into())),
        ("length", Code::BadStatement, Some("ct.len"), |_, s| s.ct.len += 1),
        ("digest", Code::BadStatement, Some("ct.sha256"), |_, s| s.ct.sha256 = Digest::new([7; 32])),
    ];
    let mut world = World::new(1);
    for (name, code, field, spoil) in cases {
        let mut statement = world.statement(&["bob"], Mode::First, CIPHERTEXT);
        spoil(&mut world, &mut statement);
        let envelope = world.sign(&statement);
        let refused = world.create_as("alice", &envelope, Content::Inline(CIPHERTEXT.to_vec()));
        assert_eq!(refused.code(), Some(code), "{name}");
        assert_eq!(refused.result.unwrap_err().field.as_deref(), field, "{name}");
        assert!(world.rows.is_empty(), "{name}: something was written");
    }
    for (to, code, named) in
        [(&["gina"][..], Code::UnknownRecipient, "gina"), (&["bob", "oscar"], Code::MixedRecipients, "oscar")]
    {
        let statement = world.statement(to, Mode::Each, CIPHERTEXT);
        let envelope = world.sign(&statement);
        let refused = world.create_as("alice", &envelope, Content::Inline(CIPHERTEXT.to_vec()));
        assert_eq!(refused.code(), Some(code));
        let message = refused.result.unwrap_err().message;
        assert!(message.contains(named) && !message.contains("bob"), "{message}");
    }
    let statement = world.statement(&["bob"], Mode::First, CIPHERTEXT);
    let envelope = world.sign(&Spoilt(serde_json::json!({ "statement": statement, "v": 1 })));
    let refused = world.create_as("alice", &envelope, Content::Inline(CIPHERTEXT.to_vec())).result.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::BadStatement, Some("statement")));
    let longest = world.statement(&["oscar"], Mode::First, CIPHERTEXT);
    let longest = Statement { exp_ms: world.now.unix_ms + MAX_LIFE_MS, ack_s: 10, ..longest };
    let envelope = world.sign(&longest);
    assert!(world.create_as("alice", &envelope, Content::Inline(CIPHERTEXT.to_vec())).result.is_ok(), "all classical");
}

#[test]
fn the_signer_of_the_statement_is_the_signer_of_the_request() {
    let mut world = World::new(1);
    let statement = world.statement(&["bob"], Mode::First, CIPHERTEXT);
    let by_alice = world.sign(&statement);
    let content = Content::Inline(CIPHERTEXT.to_vec());
    assert_eq!(world.create_as("bob", &by_alice, content.clone()).code(), Some(Code::BadStatement));
    let by_bob = sign_in_memory(&statement, &[world.people["bob"].identity.signing_key().unwrap()]).unwrap();
    assert_eq!(world.create_as("alice", &by_bob, content.clone()).code(), Some(Code::BadStatement));
    let mut bent = by_alice.clone();
    bent.payload.push(b' ');
    assert_eq!(world.create_as("alice", &bent, content.clone()).code(), Some(Code::BadStatement));
    bent = by_alice;
    bent.payload_type.push('x');
    assert_eq!(world.create_as("alice", &bent, content).code(), Some(Code::BadStatement));
    assert!(world.rows.is_empty());
}

#[test]
fn what_can_be_refused_early_is() {
    let mut world = World::new(1);
    let statement = world.statement(&["gina"], Mode::First, CIPHERTEXT);
    let (envelope, alice) = (world.sign(&statement), world.actor("alice"));
    let context = world.context(Some(&alice));
    let draft = Draft::check(&envelope, &context).unwrap();
    match draft.early(None, &context).unwrap() {
        Early::Answer(Err(refusal)) => assert_eq!(refusal.code, Code::UnknownRecipient),
        other => panic!("{other:?}"),
    }
    let statement = world.statement(&["bob"], Mode::First, CIPHERTEXT);
    let envelope = world.sign(&statement);
    let context = world.context(Some(&alice));
    assert!(matches!(Draft::check(&envelope, &context).unwrap().early(None, &context).unwrap(), Early::Wanted));
}

#[test]
fn to_strangers_a_wrap_looks_like_none() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob", "carol"], Mode::First);
    let claim = world.claim();
    let never = Wrap { id: bulla_wire::id::WrapId::new([9; 16]), ..wrap.clone() };
    let spell = |answered: &Answered, wrap: &Wrap| {
        format!("{:?}", answered.result.as_ref().unwrap_err()).replace(&wrap.id.to_string(), "ID")
    };
    let unknown = world.open(&never, "eve", &claim);
    assert!(unknown.alarms.is_empty());
    for n in 0..u32::from(MAX_STRANGERS) + 3 {
        let answered = world.open(&wrap, "eve", &claim);
        assert_eq!(spell(&answered, &wrap), spell(&unknown, &never));
        let expected = u32::from(n < u32::from(MAX_STRANGERS)) as usize;
        assert_eq!(answered.alarm_kinds(), vec![AlarmKind::ClaimByStranger; expected]);
    }
    for name in ["alice", "bob", "carol"] {
        assert_eq!(world.alarms_of(name), usize::from(MAX_STRANGERS));
    }
    assert_eq!(world.alarms_of("eve"), 0);
    type Try = fn(&mut World, &Wrap, &Recipient) -> Answered;
    let tries: [Try; 5] = [
        |world, wrap, claim| ack(world, wrap, "eve", claim),
        |world, wrap, claim| nack(world, wrap, "eve", claim),
        |world, wrap, _| revoke(world, wrap, "eve"),
        |world, wrap, _| release(world, wrap, "eve"),
        |world, wrap, _| inspect(world, wrap, "eve"),
    ];
    for attempt in tries {
        let there = attempt(&mut world, &wrap, &claim);
        let not = attempt(&mut world, &never, &claim);
        assert_eq!(there.code(), Some(Code::NotFound));
        assert_eq!(spell(&there, &wrap), spell(&not, &never));
    }
    assert_eq!(world.state(&wrap.id, 0), SlotState::Sealed);
    // The writer knows of it, but it is not for her.
    assert_eq!(world.open(&wrap, "alice", &claim).code(), Some(Code::Denied));
    assert_eq!(revoke(&mut world, &wrap, "bob").code(), Some(Code::Denied));
}

#[test]
fn a_slip_of_another_statement_is_refused() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    let wrong = Wrap { digest: Digest::new([7; 32]), ..wrap.clone() };
    assert_eq!(world.open(&wrong, "bob", &claim).code(), Some(Code::BadStatement));
    assert_eq!(revoke(&mut world, &wrong, "alice").code(), Some(Code::BadStatement));
    assert_eq!(release(&mut world, &wrong, "alice").code(), Some(Code::BadStatement));
    world.open(&wrap, "bob", &claim).content();
    assert_eq!(ack(&mut world, &wrong, "bob", &claim).code(), Some(Code::BadStatement));
    assert_eq!(nack(&mut world, &wrong, "bob", &claim).code(), Some(Code::BadStatement));
    assert_eq!(world.state(&wrap.id, 0), SlotState::Opened);
}

#[test]
fn claims_that_are_none() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let hybrid = world.claim().to_string();
    let body = OpenWrap { statement_sha256: wrap.digest, claim: hybrid.clone() };
    assert!(Open::new(wrap.id, body).is_ok());
    let classical = world.people["oscar"].identity.recipients()[0].to_string();
    for (claim, code) in [
        ("", Code::Malformed),
        ("age1pq1qqq", Code::Malformed),
        (&hybrid.to_uppercase(), Code::Malformed),
        (&format!("{hybrid}\n"), Code::Malformed),
        (&classical, Code::KemTooWeak),
    ] {
        let body = OpenWrap { statement_sha256: wrap.digest, claim: claim.to_owned() };
        let refusal = Open::new(wrap.id, body).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (code, Some("claim")), "{claim}");
    }
    let long_term = world.people["bob"].identity.recipients()[0].clone();
    assert_eq!(world.open(&wrap, "bob", &long_term).code(), Some(Code::Malformed), "not fresh");
    assert_eq!(world.state(&wrap.id, 0), SlotState::Sealed);
}

#[test]
fn only_between_nbf_and_exp() {
    let mut world = World::new(1);
    let start = world.now.unix_ms;
    let statement = Statement { nbf_ms: start + 1000, ..world.statement(&["bob"], Mode::First, CIPHERTEXT) };
    let envelope = world.sign(&statement);
    let claim = world.claim();
    let cases = [(999, Some(Code::NotYet)), (1000, None), (LIFE_MS - 1, None), (LIFE_MS, Some(Code::Expired))];
    for (after, code) in cases {
        world.rows.clear();
        (world.now.unix_ms, world.now.steady_ms) = (start, start);
        let created = world.create_as("alice", &envelope, Content::Inline(CIPHERTEXT.to_vec())).receipts().remove(0);
        let digest = bulla_crypto::evidence::payload_digest(&envelope);
        let statement = statement.clone();
        let wrap = Wrap { id: statement.wrap, digest, envelope: envelope.clone(), created, statement };
        world.pass(after);
        assert_eq!(world.open(&wrap, "bob", &claim).code(), code, "after {after} ms");
    }
}

/// After a step nobody knows which of two times it is: it opens only if it would by both.
#[test]
fn a_clock_step_opens_nothing_early_or_late() {
    const HOUR_MS: u64 = 3_600_000;
    let mut world = World::new(1);
    let start = world.now.unix_ms;
    let statement = Statement { nbf_ms: start + HOUR_MS, ..world.statement(&["bob"], Mode::First, CIPHERTEXT) };
    let statement = Statement { exp_ms: start + 3 * HOUR_MS, ..statement };
    let envelope = world.sign(&statement);
    let claim = world.claim();
    let cases = [
        (0, 0, Some(Code::NotYet)),
        (2, 0, Some(Code::ClockStepped)),
        (0, 2, Some(Code::ClockStepped)),
        (1, 2, None),
        (2, 1, None),
        (3, 2, Some(Code::ClockStepped)),
        (2, 3, Some(Code::ClockStepped)),
        (0, 3, Some(Code::ClockStepped)),
        (3, 4, Some(Code::Expired)),
    ];
    for (wall, steady, code) in cases {
        world.rows.clear();
        (world.now.unix_ms, world.now.steady_ms) = (start, start);
        let created = world.create_as("alice", &envelope, Content::Inline(CIPHERTEXT.to_vec())).receipts().remove(0);
        let digest = bulla_crypto::evidence::payload_digest(&envelope);
        let statement = statement.clone();
        let wrap = Wrap { id: statement.wrap, digest, envelope: envelope.clone(), created, statement };
        (world.now.unix_ms, world.now.steady_ms) = (start + wall * HOUR_MS, start + steady * HOUR_MS);
        assert_eq!(world.open(&wrap, "bob", &claim).code(), code, "{wall} h by the wall, {steady} h by the other");
    }
}

#[test]
fn a_second_claim_is_refused_and_seen() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob", "carol"], Mode::First);
    let (first, second) = (world.claim(), world.claim());
    let opened = world.open(&wrap, "bob", &first).content().0;
    // Another listed recipient who comes later: the same answer, without an alarm.
    let carol = world.open(&wrap, "carol", &second);
    assert!(carol.alarms.is_empty());
    for n in 1..=MAX_REFUSED + 3 {
        let refused = world.open(&wrap, "bob", &second);
        assert_eq!(refused.code(), Some(Code::AlreadyOpened));
        assert_eq!(
            refused.result.as_ref().unwrap_err().receipt,
            Some(Box::new(opened.clone())),
            "proof of who opened it"
        );
        let alarms = if n <= MAX_REFUSED { vec![AlarmKind::SecondClaim] } else { vec![] };
        assert_eq!(refused.alarm_kinds(), alarms, "attempt {n}");
    }
    assert_eq!(carol.result.unwrap_err().receipt, Some(Box::new(opened)));
    assert_eq!(world.receipts(&wrap.id, 0).len() as u32, 1 + 1 + MAX_REFUSED);
    assert_eq!(world.alarms_of("alice"), world.alarms_of("bob"));
    assert_eq!(world.alarms_of("carol"), 0);
    invariants(&world, &wrap);
    // The winner is not disturbed, and after its ack a second claim still is told who won.
    ack(&mut world, &wrap, "bob", &first).receipts();
    assert_eq!(world.open(&wrap, "bob", &second).code(), Some(Code::AlreadyOpened));
    assert_eq!(ack(&mut world, &wrap, "bob", &second).code(), Some(Code::Acked));
    invariants(&world, &wrap);
}

/// carol opens with bob's stolen key, then as herself until nothing is written any more: bob's own claim still
/// leaves its receipt and is told to him and the writer.
#[test]
fn quiet_refusals_leave_room_for_those_that_alarm() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob", "carol"], Mode::First);
    let (stolen, own) = (world.claim(), world.claim());
    world.open(&wrap, "bob", &stolen).content();
    for _ in 0..MAX_REFUSED + 3 {
        let quiet = world.open(&wrap, "carol", &own);
        assert_eq!((quiet.code(), quiet.alarms.len()), (Some(Code::AlreadyOpened), 0));
    }
    let quiet = world.receipts(&wrap.id, 0).len();
    assert_eq!(quiet as u32, 1 + MAX_QUIETLY_REFUSED);
    let claim = world.claim();
    for n in 1..=MAX_REFUSED {
        assert_eq!(world.open(&wrap, "bob", &claim).alarm_kinds(), [AlarmKind::SecondClaim], "attempt {n}");
    }
    assert!(world.open(&wrap, "bob", &claim).alarms.is_empty());
    let receipts = world.receipts(&wrap.id, 0);
    assert_eq!(receipts.len() as u32, 1 + MAX_QUIETLY_REFUSED + MAX_REFUSED);
    let told = &receipts[quiet].receipt;
    assert_eq!((told.kind, told.claim_sha256), (ReceiptKind::Refused, Some(claim.digest())));
    assert_eq!((world.alarms_of("alice"), world.alarms_of("bob"), world.alarms_of("carol")), (16, 16, 0));
    invariants(&world, &wrap);
}

/// A thief of bob's key may not hide from him what happens later.
#[test]
fn only_alarms_that_exist_are_marked_as_seen() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    let unseen = |world: &mut World, name: &str| {
        let list = alarm::List { after: None, limit: 100, all: false };
        world.run(Box::new(list), Some(name)).json::<Alarms>().alarms
    };
    let mark = |world: &mut World, name: &str, up_to: &Cursor| {
        world.run(Box::new(alarm::Seen { up_to: up_to.clone() }), Some(name)).code()
    };
    world.open(&wrap, "eve", &claim);
    let first = Cursor::parse(&unseen(&mut world, "bob")[0].id).unwrap();
    let last = Cursor::after_clear([0xff; 128]);
    let later = Cursor::after_clear([first.as_bytes(), &[0]].concat());
    let before = Cursor::after_clear([0]);
    for none in [&last, &later, &before] {
        let refused = world.run(Box::new(alarm::Seen { up_to: none.clone() }), Some("bob"));
        assert_eq!(refused.code(), Some(Code::NotFound));
        assert_eq!(refused.result.unwrap_err().field.as_deref(), Some("up_to"));
    }
    assert_eq!(mark(&mut world, "eve", &first), Some(Code::NotFound), "it is not hers");
    assert_eq!(unseen(&mut world, "bob").len(), 1, "nothing was marked");
    assert_eq!(mark(&mut world, "bob", &first), None);
    assert_eq!(mark(&mut world, "bob", &first), None, "asked again");
    assert!(unseen(&mut world, "bob").is_empty());
    world.pass(1);
    world.open(&wrap, "eve", &claim);
    let second = Cursor::parse(&unseen(&mut world, "bob")[0].id).unwrap();
    assert_eq!(mark(&mut world, "bob", &second), None);
    assert_eq!(mark(&mut world, "bob", &first), None, "an older one does not take the mark back");
    assert!(unseen(&mut world, "bob").is_empty());
}

/// Whatever the clocks say, and whoever decided first: an alarm that comes later is never behind the mark.
#[test]
fn no_alarm_comes_behind_the_mark() {
    let mut world = World::new(1);
    let wraps: Vec<_> = (0..3).map(|_| world.wrap(&["bob"], Mode::First)).collect();
    let claim = world.claim();
    // One is decided, and waits.
    let mut late = Task::new(Box::new(wraps[0].open(&claim)), Some(world.actor("eve")));
    late.decide(&mut world);
    // The clock stands an hour ahead; another is raised and seen.
    world.now.unix_ms += 3_600_000;
    world.open(&wraps[1], "eve", &claim);
    let list = |world: &mut World, all: bool| {
        let list = alarm::List { after: None, limit: 100, all };
        world.run(Box::new(list), Some("bob")).json::<Alarms>().alarms
    };
    let mark = |world: &mut World| {
        let up_to = Cursor::parse(&list(world, false).last().unwrap().id).unwrap();
        assert_eq!(world.run(Box::new(alarm::Seen { up_to }), Some("bob")).code(), None);
        assert!(list(world, false).is_empty());
    };
    mark(&mut world);
    late.finish(&mut world);
    assert_eq!(list(&mut world, false)[0].wrap, Some(wraps[0].id), "the one that waited");
    mark(&mut world);
    world.now.unix_ms -= 3_600_000;
    for count in 1..=4 {
        world.open(&wraps[2], "eve", &claim);
        assert_eq!(list(&mut world, false).len(), count, "all within one millisecond, and an hour earlier");
    }
    mark(&mut world);
    world.open(&wraps[2], "eve", &claim);
    assert_eq!(list(&mut world, false).len(), 1);
    let ids: Vec<_> = list(&mut world, true).iter().map(|alarm| Cursor::parse(&alarm.id).unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[0].as_bytes() < pair[1].as_bytes()));
    assert_eq!(ids.len(), 7);
}

/// Old alarms go when their owner marks later ones as seen; what nobody has seen stays.
#[test]
fn seen_alarms_go_after_ninety_days() {
    let mut world = World::new(1);
    let wraps: Vec<_> = (0..3).map(|_| world.wrap(&["bob"], Mode::First)).collect();
    let claim = world.claim();
    let list = |world: &mut World, all: bool| {
        let list = alarm::List { after: None, limit: 100, all };
        world.run(Box::new(list), Some("bob")).json::<Alarms>().alarms
    };
    let mark = |world: &mut World, id: &str| {
        let up_to = Cursor::parse(id).unwrap();
        assert_eq!(world.run(Box::new(alarm::Seen { up_to }), Some("bob")).code(), None);
    };
    for wrap in &wraps {
        world.open(wrap, "eve", &claim);
    }
    let alarms = list(&mut world, false);
    world.pass(alarm::KEPT_MS - 1);
    mark(&mut world, &alarms[1].id);
    assert_eq!(list(&mut world, true).len(), 3, "a millisecond too early");
    world.pass(1);
    // By one of the clocks it is too early.
    world.now.steady_ms -= 1;
    mark(&mut world, &alarms[1].id);
    assert_eq!(list(&mut world, true).len(), 3);
    world.now.steady_ms += 1;
    for _ in 0..2 {
        mark(&mut world, &alarms[1].id);
        let left: Vec<_> = list(&mut world, true).into_iter().map(|alarm| alarm.id).collect();
        assert_eq!(left, [alarms[1].id.as_str(), &alarms[2].id]);
    }
    assert_eq!(list(&mut world, false).len(), 1);
    assert_eq!(world.alarms_of("alice"), 3, "hers are hers");
}

/// What the webhook's list counts, and the alarms in it after a number.
fn listed(world: &World, after: u64) -> (alarm::Counts, Vec<(u64, alarm::Listed)>) {
    let query = alarm::waiting(after, 100);
    let records = world.read(&query);
    let [scan, ..] = &query;
    let parse = |record: &bulla_core::barrier::Record| {
        let listed = serde_json::from_slice(record.bytes.expose()).unwrap();
        (alarm::number_of(&record.cursor).unwrap(), listed)
    };
    (alarm::counts(&records).unwrap(), records.page(scan).unwrap().0.iter().map(parse).collect())
}

/// A receiver that is gone while alarms come without end: the list has an end, what comes then is counted and told to the
/// parties all the same, and whoever comes later says how many those were.
#[test]
fn a_flood_of_alarms_does_not_outgrow_the_webhooks_list() {
    let mut world = World::new(1);
    world.webhook = true;
    let told = vec![world.id("alice")];
    let raise = alarm::Raise { kind: AlarmKind::ClockStepped, message: "again", told };
    for _ in 0..alarm::WAITING_MAX + 50 {
        assert_eq!(world.run(Box::new(raise.clone()), None).code(), None);
    }
    let max = usize::try_from(alarm::WAITING_MAX).unwrap();
    assert_eq!(world.count(Kind::Alarm), max + max + 50, "the list of the webhook, and that of alice");
    let (counts, rest) = listed(&world, alarm::WAITING_MAX - 1);
    let full = alarm::Counts { newest: alarm::WAITING_MAX + 50, dropped: 50, done: 0 };
    assert_eq!((counts, counts.waiting()), (full, alarm::WAITING_MAX));
    assert_eq!(rest.iter().map(|(number, listed)| (*number, listed.dropped)).collect::<Vec<_>>(), [(10_000, 0)]);

    // Two are taken, not in their order, one of them twice as far as the node knows: so two have room.
    for number in [7, 3, 7] {
        world.run(Box::new(alarm::Delivered { number }), None);
    }
    assert_eq!(listed(&world, 0).0, alarm::Counts { done: 2, ..full });
    for _ in 0..3 {
        world.run(Box::new(raise.clone()), None);
    }
    let (counts, rest) = listed(&world, alarm::WAITING_MAX);
    assert_eq!((counts.dropped, counts.waiting()), (51, alarm::WAITING_MAX));
    let found: Vec<_> = rest.iter().map(|(number, listed)| (*number, listed.dropped)).collect();
    assert_eq!(found, [(10_051, 50), (10_052, 50)]);
    world.run(Box::new(alarm::Delivered { number: 1 }), None);
    world.run(Box::new(raise), None);
    assert_eq!(listed(&world, 10_052).1[0].1.dropped, 51);
}

/// The same number comes again after a snapshot was put back: the history says that it is another alarm.
#[test]
fn an_alarm_for_the_webhook_names_its_history() {
    let mut world = World::new(1);
    world.webhook = true;
    let raise = alarm::Raise { kind: AlarmKind::ClockStepped, message: "again", told: vec![] };
    world.run(Box::new(raise.clone()), None);
    let snapshot = world.rows.clone();
    world.run(Box::new(raise.clone()), None);
    let before = listed(&world, 1).1;
    world.rows = snapshot;
    world.lineage = Lineage::new([2; 16]);
    world.run(Box::new(raise), None);
    let after = listed(&world, 1).1;
    assert_eq!((before[0].0, after[0].0), (2, 2));
    assert_eq!((before[0].1.lineage, after[0].1.lineage), (Lineage::new([1; 16]), Lineage::new([2; 16])));
    assert_eq!(listed(&world, 0).1[0].1.lineage, Lineage::new([1; 16]), "what waited then is what it was");
}

#[test]
fn redelivery_has_an_end() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    for n in 1..=MAX_DELIVERIES {
        let answered = world.open(&wrap, "bob", &claim);
        let kind = if n == 1 { ReceiptKind::Opened } else { ReceiptKind::Redelivered };
        assert_eq!(world.kinds(&[answered.content().0]), [kind]);
        assert_eq!(answered.content().1, Content::Inline(CIPHERTEXT.to_vec()));
        let alarms = if n == 4 { vec![AlarmKind::Redelivery] } else { vec![] };
        assert_eq!(answered.alarm_kinds(), alarms);
    }
    assert_eq!(world.open(&wrap, "bob", &claim).code(), Some(Code::TooManyDeliveries));
    // Expiry does not touch an opened slot, and the opener may go on after it.
    world.now.unix_ms += LIFE_MS;
    world.sweep();
    assert_eq!(world.state(&wrap.id, 0), SlotState::Opened);
    invariants(&world, &wrap);
    ack(&mut world, &wrap, "bob", &claim).receipts();
    invariants(&world, &wrap);
}

/// The same request under the same nonce is the same delivery: it writes nothing, and gets the content all the same.
#[test]
fn a_repeated_request_is_no_delivery() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    let opened = world.open(&wrap, "bob", &claim).content();
    for n in 2..=MAX_DELIVERIES {
        assert_eq!(repeat(&mut world, &wrap, &claim, Replay::Again).content(), opened, "{n}");
        world.open(&wrap, "bob", &claim).content();
    }
    assert_eq!(repeat(&mut world, &wrap, &claim, Replay::Again).content(), opened, "the last one too");
    assert_eq!(world.slot(&wrap.id, 0).state.opening().unwrap().deliveries, MAX_DELIVERIES);
    ack(&mut world, &wrap, "bob", &claim).receipts();
    assert_eq!(repeat(&mut world, &wrap, &claim, Replay::Again).code(), Some(Code::Acked));
    invariants(&world, &wrap);
}

fn repeat(world: &mut World, wrap: &Wrap, claim: &Recipient, before: Replay) -> Answered {
    let commits = world.commits;
    world.repeated = Some(before);
    let answered = world.open(wrap, "bob", claim);
    world.repeated = None;
    assert_eq!(answered.receipts, []);
    assert_eq!(answered.alarm_kinds(), []);
    assert_eq!(world.commits, commits);
    answered
}

/// A request that came before its wrap was told that there is none. Its nonce says that it was answered, so it is told
/// so again, although the wrap is there by now, and even when another request with its claim has opened it.
#[test]
fn a_request_from_before_its_wrap_does_not_open_it() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    assert_eq!(repeat(&mut world, &wrap, &claim, Replay::Noted).code(), Some(Code::NotFound));
    assert_eq!(world.state(&wrap.id, 0), SlotState::Sealed);
    world.open(&wrap, "bob", &claim).content();
    assert_eq!(repeat(&mut world, &wrap, &claim, Replay::Noted).code(), Some(Code::NotFound));
    invariants(&world, &wrap);
}

#[test]
fn each_recipient_has_a_slot() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob", "carol", "dave"], Mode::Each);
    let claims = [world.claim(), world.claim(), world.claim()];
    for (slot, name) in ["bob", "carol"].into_iter().enumerate() {
        let (receipt, _) = world.open(&wrap, name, &claims[slot]).content();
        assert_eq!(usize::from(world.verify(&receipt).receipt.slot), slot);
        invariants(&world, &wrap);
    }
    let unopened = ack(&mut world, &wrap, "dave", &claims[2]).result.unwrap_err();
    assert_eq!((unopened.code, unopened.hint.as_deref()), (Code::NotFound, Some("`bulla open` opens it")));
    ack(&mut world, &wrap, "bob", &claims[0]).receipts();
    invariants(&world, &wrap);
    assert!(world.part(&wrap.id, "ct").is_some(), "others still need it");
    let seen: WrapView = inspect(&mut world, &wrap, "carol").json();
    let counts: Vec<_> = seen.slots.iter().map(|slot| (slot.state, slot.receipts.len())).collect();
    assert_eq!(counts, [(SlotState::Acked, 0), (SlotState::Opened, 1), (SlotState::Sealed, 0)], "her own only");
    assert_eq!(seen.slots[1].principal, Some(world.id("carol")));
    let all: WrapView = inspect(&mut world, &wrap, "alice").json();
    assert_eq!(all.slots.iter().map(|slot| slot.receipts.len()).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!((all.statement, all.created), (wrap.envelope.clone(), wrap.created.clone()));
    world.pass(LIFE_MS);
    let kinds: Vec<_> = world.sweep().iter().map(|raised| raised.alarm.kind).collect();
    assert_eq!(kinds, [AlarmKind::ExpiredUnopened, AlarmKind::Lapse]);
    invariants(&world, &wrap);
    assert!(world.part(&wrap.id, "ct").is_none());
    assert_eq!(world.open(&wrap, "dave", &claims[2]).code(), Some(Code::Expired));
    assert_eq!(world.open(&wrap, "carol", &claims[1]).code(), Some(Code::Lapsed));
}

#[test]
fn the_writer_takes_back() {
    let mut world = World::new(1);
    // Before it was opened.
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    let revoked = revoke(&mut world, &wrap, "alice").receipts();
    assert_eq!(world.kinds(&revoked), [ReceiptKind::Revoked]);
    assert_eq!(revoke(&mut world, &wrap, "alice").receipts(), revoked, "asked again");
    assert_eq!(world.open(&wrap, "bob", &claim).code(), Some(Code::Revoked));
    invariants(&world, &wrap);
    // After it was opened: the answer proves that, and nothing is delivered any more.
    let wrap = world.wrap(&["bob"], Mode::First);
    world.open(&wrap, "bob", &claim).content();
    let revoked = revoke(&mut world, &wrap, "alice").receipts();
    assert_eq!(world.kinds(&revoked), [ReceiptKind::Opened, ReceiptKind::Revoked]);
    assert_eq!(revoke(&mut world, &wrap, "alice").receipts(), revoked, "asked again");
    assert_eq!(world.open(&wrap, "bob", &claim).code(), Some(Code::Revoked));
    assert_eq!(ack(&mut world, &wrap, "bob", &claim).code(), Some(Code::Revoked));
    invariants(&world, &wrap);
    // Too late.
    let wrap = world.wrap(&["bob"], Mode::First);
    world.open(&wrap, "bob", &claim).content();
    ack(&mut world, &wrap, "bob", &claim).receipts();
    let late = revoke(&mut world, &wrap, "alice");
    assert_eq!(late.code(), Some(Code::Acked));
    assert_eq!(world.kinds(&[*late.result.unwrap_err().receipt.unwrap()]), [ReceiptKind::Acked]);
    // With a slot for each: those that did not end.
    let wrap = world.wrap(&["bob", "carol", "dave"], Mode::Each);
    world.open(&wrap, "bob", &claim).content();
    ack(&mut world, &wrap, "bob", &claim).receipts();
    world.open(&wrap, "carol", &claim).content();
    let revoked = revoke(&mut world, &wrap, "alice").receipts();
    assert_eq!(world.kinds(&revoked), [ReceiptKind::Opened, ReceiptKind::Revoked, ReceiptKind::Revoked]);
    invariants(&world, &wrap);
    assert!(world.part(&wrap.id, "ct").is_none());
}

#[test]
fn a_nack_keeps_the_ciphertext_until_ack_s() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    world.open(&wrap, "bob", &claim).content();
    let nacked = nack(&mut world, &wrap, "bob", &claim);
    assert_eq!(nacked.alarm_kinds(), [AlarmKind::Nack]);
    assert_eq!((world.alarms_of("alice"), world.alarms_of("bob")), (1, 1));
    assert_eq!(world.kinds(&nacked.receipts()), [ReceiptKind::Nacked]);
    let again = nack(&mut world, &wrap, "bob", &claim);
    assert_eq!(again.receipts(), nacked.receipts());
    assert!(again.alarms.is_empty());
    assert_eq!(world.open(&wrap, "bob", &claim).code(), Some(Code::Nacked));
    assert_eq!(ack(&mut world, &wrap, "bob", &claim).code(), Some(Code::Nacked));
    assert_eq!(revoke(&mut world, &wrap, "alice").code(), Some(Code::Nacked));
    world.pass(u64::from(ACK_S) * 1000 - 1);
    world.sweep();
    assert!(world.part(&wrap.id, "ct").is_some());
    invariants(&world, &wrap);
    world.pass(1);
    assert!(world.sweep().is_empty(), "nothing new to tell");
    assert!(world.part(&wrap.id, "ct").is_none());
    invariants(&world, &wrap);
}

#[test]
fn ack_s_stands_still_while_sealed() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    world.open(&wrap, "bob", &claim).content();
    world.pass(300_000);
    world.pass_sealed(10 * DAY_MS);
    world.pass(299_999);
    world.sweep();
    assert_eq!(world.state(&wrap.id, 0), SlotState::Opened);
    world.open(&wrap, "bob", &claim).content();
    world.pass(1);
    let alarms = world.sweep();
    assert_eq!(alarms.len(), 1);
    assert_eq!((alarms[0].alarm.kind, &alarms[0].told), (AlarmKind::Lapse, &vec![world.id("alice")]));
    let receipt = world.receipts(&wrap.id, 0).pop().unwrap().receipt;
    assert_eq!((receipt.kind, receipt.actor), (ReceiptKind::Lapsed, None));
    assert_eq!(ack(&mut world, &wrap, "bob", &claim).code(), Some(Code::Lapsed));
    invariants(&world, &wrap);
}

#[test]
fn nobody_opens_it() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    world.pass(LIFE_MS - 1);
    assert!(world.sweep().is_empty());
    assert_eq!(world.state(&wrap.id, 0), SlotState::Sealed);
    world.pass(1);
    let entry = world.overdue().remove(0);
    let alarms = world.sweep();
    assert_eq!((alarms[0].alarm.kind, &alarms[0].told), (AlarmKind::ExpiredUnopened, &vec![world.id("alice")]));
    invariants(&world, &wrap);
    // A sweep that was cut off runs again.
    assert!(world.run(Box::new(entry), None).alarms.is_empty());
    assert_eq!(world.receipts(&wrap.id, 0).len(), 1);
    // A sweep comes late, and an entry that stands at another time than its wrap ends is of no use.
    let wrap = world.wrap(&["bob"], Mode::First);
    let early = due::key(Kind::Due, world.now.unix_ms, What::WrapExpiry, wrap.id.as_bytes());
    world.write(|writes| writes.put(early, vec![]));
    assert!(world.sweep().is_empty() && world.overdue().is_empty());
    assert_eq!(world.state(&wrap.id, 0), SlotState::Sealed);
    world.pass(LIFE_MS + 60_000);
    assert_eq!(world.sweep().len(), 1);
    assert_eq!(world.state(&wrap.id, 0), SlotState::Expired);
}

#[test]
fn what_the_store_lost_is_retired() {
    let mut world = World::new(1);
    let retire = |world: &mut World, wrap: &Wrap, of: Option<&str>| {
        let principal = of.map(|name| world.id(name));
        let answered = world.run(Box::new(Retire { wrap: wrap.id, principal, opened: true }), None);
        answered.result.as_ref().unwrap();
        (answered.alarm_kinds(), [0, 1].map(|slot| world.state(&wrap.id, slot)))
    };
    let wrap = world.wrap(&["bob", "carol"], Mode::Each);
    let lost = vec![AlarmKind::StoreRolledBack];
    assert_eq!(retire(&mut world, &wrap, Some("eve")), (vec![], [SlotState::Sealed, SlotState::Sealed]));
    assert_eq!(retire(&mut world, &wrap, Some("carol")), (lost.clone(), [SlotState::Sealed, SlotState::Revoked]));
    let claim = world.claim();
    let told = world.open(&wrap, "carol", &claim).result.unwrap_err();
    assert_eq!((told.code, told.message.contains("a history that the store lost")), (Code::Revoked, true));
    assert_eq!(retire(&mut world, &wrap, Some("carol")).0, vec![], "once");
    assert_eq!(retire(&mut world, &wrap, None), (lost, [SlotState::Revoked; 2]));
    invariants(&world, &wrap);
    let never = Wrap { id: bulla_wire::id::WrapId::new([9; 16]), ..wrap };
    assert!(world.run(Box::new(Retire { wrap: never.id, principal: None, opened: true }), None).alarms.is_empty());
}

/// A lost delivery was one of the claim that won, where that opening was kept.
#[test]
fn a_lost_delivery_takes_nothing_from_the_claim_that_won() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob", "carol"], Mode::Each);
    let claim = world.claim();
    world.open(&wrap, "bob", &claim).content();
    for (name, opened) in [("bob", false), ("carol", false), ("bob", true)] {
        let retire = Retire { wrap: wrap.id, principal: Some(world.id(name)), opened };
        world.run(Box::new(retire), None).result.unwrap();
        let bob = if opened { SlotState::Revoked } else { SlotState::Opened };
        assert_eq!(world.state(&wrap.id, 0), bob, "{name}");
        if !opened {
            world.open(&wrap, "bob", &claim).content();
        }
    }
    assert_eq!(world.state(&wrap.id, 1), SlotState::Revoked, "what was sealed still has ended");
}

#[test]
fn a_parked_wrap_waits_for_its_writer() {
    let mut world = World::new(1);
    let claim = world.claim();
    let wrap = world.wrap(&["bob"], Mode::First);
    let park = |world: &mut World, wrap: &Wrap| world.run(Box::new(Park { wrap: wrap.id }), None).result.unwrap();
    park(&mut world, &wrap);
    let parked = world.open(&wrap, "bob", &claim).result.unwrap_err();
    assert_eq!(parked.code, Code::Parked);
    assert!(parked.hint.unwrap().contains("bulla wrap release"));
    assert_eq!(release(&mut world, &wrap, "bob").code(), Some(Code::Denied));
    release(&mut world, &wrap, "alice").result.unwrap();
    release(&mut world, &wrap, "alice").result.unwrap();
    world.open(&wrap, "bob", &claim).content();
    park(&mut world, &wrap);
    assert_eq!(world.state(&wrap.id, 0), SlotState::Opened, "what was opened is known");
    assert_eq!(release(&mut world, &wrap, "alice").code(), Some(Code::AlreadyOpened), "nothing is to be released");
    invariants(&world, &wrap);
    // Not released: it ends as others do.
    let wrap = world.wrap(&["bob"], Mode::First);
    park(&mut world, &wrap);
    world.pass(LIFE_MS);
    assert_eq!(release(&mut world, &wrap, "alice").code(), Some(Code::Expired));
    world.sweep();
    assert_eq!(world.state(&wrap.id, 0), SlotState::Expired);
    invariants(&world, &wrap);
    let wrap = world.wrap(&["bob"], Mode::First);
    park(&mut world, &wrap);
    revoke(&mut world, &wrap, "alice").receipts();
    assert_eq!(release(&mut world, &wrap, "alice").code(), Some(Code::Revoked));
    invariants(&world, &wrap);
}

#[test]
fn tombstones_stay_ninety_days() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob", "carol"], Mode::Each);
    let (claim, other) = (world.claim(), world.claim());
    world.open(&wrap, "bob", &claim).content();
    world.open(&wrap, "bob", &other);
    world.open(&wrap, "eve", &other);
    world.pass(LIFE_MS);
    world.sweep();
    world.pass(TOMBSTONE_MS - 1);
    world.sweep();
    invariants(&world, &wrap);
    let listed: Wraps = world.run(Box::new(List { after: None, limit: 10 }), Some("bob")).json();
    assert_eq!(listed.wraps[0].states, [SlotState::Lapsed, SlotState::Expired]);
    world.pass(1);
    world.sweep();
    invariant_nothing_left(&world);
    assert_eq!(world.open(&wrap, "bob", &claim).code(), Some(Code::NotFound));
}

#[test]
fn a_burial_waits_for_what_is_open_and_takes_many_commits() {
    let mut world = World::new(1);
    let wrap = world.wrap(&["bob"], Mode::First);
    let claim = world.claim();
    world.open(&wrap, "bob", &claim).content();
    // Sealed all that time: nothing lapsed.
    world.pass_sealed(LIFE_MS + TOMBSTONE_MS);
    world.sweep();
    assert_eq!(world.state(&wrap.id, 0), SlotState::Opened);
    invariants(&world, &wrap);
    ack(&mut world, &wrap, "bob", &claim).receipts();
    // More receipts than one commit may delete.
    let mut writes = Writes::default();
    for number in 100u32..400 {
        let child = [&0u16.to_be_bytes()[..], &number.to_be_bytes()].concat();
        writes.put(RecordKey::clear(Kind::Receipt, wrap.id.as_bytes(), child), b"{}".to_vec());
    }
    let batch = world.barrier.batch(&writes, &mut world.rng).unwrap();
    assert!(world.commit(batch));
    world.pass(DAY_MS - 1);
    world.sweep();
    assert!(world.part(&wrap.id, "head").is_some());
    world.pass(1);
    world.sweep();
    invariant_nothing_left(&world);
}

#[test]
fn listings_go_page_by_page() {
    let mut world = World::new(1);
    let wraps: Vec<_> = (0..5)
        .map(|_| {
            world.pass(1);
            world.wrap(&["bob", "alice"], Mode::Each)
        })
        .collect();
    world.wrap(&["carol"], Mode::First);
    for (name, total) in [("bob", 5), ("alice", 6), ("carol", 1), ("eve", 0)] {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page: Wraps = world.run(Box::new(List { after, limit: 2 }), Some(name)).json();
            assert!(page.wraps.len() <= 2);
            seen.extend(page.wraps);
            let Some(next) = page.next else { break };
            after = bulla_core::barrier::Cursor::parse(&next);
        }
        assert_eq!(seen.len(), total, "{name}");
        assert!(seen.is_sorted_by_key(|wrap| wrap.created_ms), "oldest first");
        if name == "bob" {
            assert_eq!(
                seen.iter().map(|wrap| wrap.wrap).collect::<Vec<_>>(),
                wraps.iter().map(|w| w.id).collect::<Vec<_>>()
            );
            assert_eq!(seen[0].statement_sha256, wraps[0].digest);
            assert_eq!(seen[0].states, [SlotState::Sealed, SlotState::Sealed]);
        }
    }
}

/// Writes an upload's pieces, as the server does.
fn upload(world: &mut World, bytes: &[u8]) -> Upload {
    let digest = Digest::new(sha256(&[bytes]));
    let upload = Upload::new([5; 16], world.id("alice"), bytes.len() as u64, digest, world.now.unix_ms);
    let pieces = bytes.chunks(CHUNK_BYTES).enumerate().map(|(n, piece)| upload.write(n as u32, piece.to_vec()));
    for writes in std::iter::once(upload.begin()).chain(pieces) {
        let batch = world.barrier.batch(&writes, &mut world.rng).unwrap();
        assert!(world.commit(batch));
    }
    upload
}

#[test]
fn a_large_wrap_lies_in_pieces() {
    let mut world = World::new(1);
    let bytes = vec![7; 3 * CHUNK_BYTES + 1];
    let statement = world.statement(&["bob"], Mode::First, &bytes);
    let envelope = world.sign(&statement);
    assert_eq!(
        world.create_as("alice", &envelope, Content::Inline(bytes.clone())).code(),
        Some(Code::TooLarge),
        "not in one record"
    );
    let pieces = upload(&mut world, &bytes);
    let created = world.create_as("alice", &envelope, Content::Chunked(pieces.clone())).receipts().remove(0);
    let digest = bulla_crypto::evidence::payload_digest(&envelope);
    let wrap = Wrap { id: statement.wrap, digest, envelope, created, statement };
    assert_eq!((world.count(Kind::Chunk), world.count(Kind::Upload)), (4, 0));
    world.pass(UPLOAD_LIFETIME_MS);
    world.sweep();
    // A sweep that listed the upload before it was published must not take its pieces.
    let stale = due::Entry {
        kind: Kind::Due,
        at_ms: pieces.deadline_ms,
        what: What::Upload,
        id: pieces.id.clone().into_bytes(),
    };
    world.run(Box::new(stale), None).result.unwrap();
    assert_eq!(world.count(Kind::Chunk), 4);
    let claim = world.claim();
    assert_eq!(world.open(&wrap, "bob", &claim).content().1, Content::Chunked(pieces));
    ack(&mut world, &wrap, "bob", &claim).receipts();
    assert_eq!(world.count(Kind::Chunk), 0);
    invariants(&world, &wrap);
}

#[test]
fn an_upload_that_is_never_published_goes() {
    let mut world = World::new(1);
    let pieces = upload(&mut world, &vec![7; CHUNK_BYTES + 1]);
    world.pass(UPLOAD_LIFETIME_MS - 1);
    world.sweep();
    assert_eq!(world.count(Kind::Chunk), 2);
    world.pass(1);
    world.sweep();
    invariant_nothing_left(&world);
    // Too late to write a piece, or to publish.
    let late = world.barrier.batch(&pieces.write(1, vec![1]), &mut world.rng).unwrap();
    assert!(!world.commit(late));
    let mut publish = Writes::default();
    pieces.publish(&mut publish);
    let late = world.barrier.batch(&publish, &mut world.rng).unwrap();
    assert!(!world.commit(late));
}

/// The largest wrap there is fits the limits of a batch at every end.
#[test]
fn sixty_four_recipients() {
    let mut world = World::new(1);
    let names: Vec<&'static str> = (0..64).map(|n| &*Box::leak(format!("many-{n}").into_boxed_str())).collect();
    world.admit(&names);
    let claim = world.claim();
    let wrap = world.wrap(&names, Mode::Each);
    for name in &names {
        world.open(&wrap, name, &claim).content();
    }
    world.open(&wrap, "eve", &claim);
    let all: WrapView = inspect(&mut world, &wrap, "alice").json();
    assert_eq!(all.slots.len(), 64);
    assert_eq!(revoke(&mut world, &wrap, "alice").receipts().len(), 128);
    invariants(&world, &wrap);
    world.wrap(&names, Mode::Each);
    world.pass(LIFE_MS);
    assert_eq!(world.sweep().len(), 1);
    world.pass(TOMBSTONE_MS);
    world.sweep();
    invariant_nothing_left(&world);
}

#[test]
fn what_is_shown_and_listed_at_once_has_an_end() {
    let mut world = World::new(1);
    let names: Vec<&'static str> = (0..64).map(|n| &*Box::leak(format!("many-{n}").into_boxed_str())).collect();
    world.admit(&names);
    let (claim, other) = (world.claim(), world.claim());
    let wrap = world.wrap(&names, Mode::Each);
    for (n, name) in names.iter().enumerate() {
        world.open(&wrap, name, &claim).content();
        // Twelve receipts each; the first has one more, and the second one less.
        for _ in 0..[12, 10].get(n).copied().unwrap_or(11) {
            assert_eq!(world.open(&wrap, name, &other).code(), Some(Code::AlreadyOpened));
        }
    }
    let shown = |world: &mut World| -> Vec<usize> {
        let view: WrapView = inspect(world, &wrap, "alice").json();
        view.slots.iter().map(|slot| slot.receipts.len()).collect()
    };
    let all = shown(&mut world);
    assert_eq!((all[0], all[1], all.iter().sum::<usize>()), (13, 11, MAX_SHOWN));
    world.open(&wrap, names[1], &other);
    assert_eq!(shown(&mut world), [12; 64], "the oldest of each");

    // Nine hundred slots are read for one page, and no more.
    for recipients in [64; 13].into_iter().chain([4, 1]) {
        world.pass(1);
        world.wrap(&names[..recipients], Mode::Each);
    }
    let page: Wraps = world.run(Box::new(List { after: None, limit: 100 }), Some("alice")).json();
    assert_eq!(page.wraps.len(), 15);
    let after = bulla_core::barrier::Cursor::parse(&page.next.unwrap());
    let rest: Wraps = world.run(Box::new(List { after, limit: 100 }), Some("alice")).json();
    assert_eq!((rest.wraps.len(), rest.next), (1, None));
}

#[test]
fn the_receipt_that_tells_how_a_slot_stands() {
    let mut world = World::new(1);
    let (wrap, claim) = (world.wrap(&["bob"], Mode::First), world.claim());
    assert_eq!(world.slot(&wrap.id, 0).telling(), None);
    world.open(&wrap, "bob", &claim).content();
    assert_eq!(world.slot(&wrap.id, 0).telling(), Some(0));
    ack(&mut world, &wrap, "bob", &claim).receipts();
    assert_eq!(world.slot(&wrap.id, 0).telling(), Some(1));
}

#[test]
fn pieces_are_read_back_as_they_were_written() {
    let mut world = World::new(1);
    let bytes: Vec<u8> = [vec![1; CHUNK_BYTES], vec![2; CHUNK_BYTES], vec![3; 5]].concat();
    let pieces = upload(&mut world, &bytes);
    let read = |from: u32, count: u32| -> Vec<u8> {
        let records = world.read(&pieces.queries(from, count));
        let found = (0..4).filter_map(|index| records.get(&pieces.chunk(index)));
        found.flat_map(|record| record.unwrap().bytes.expose().clone()).collect()
    };
    assert!(read(0, 2) == bytes[..2 * CHUNK_BYTES]);
    assert!(read(1, 1) == bytes[CHUNK_BYTES..2 * CHUNK_BYTES]);
    assert!(read(2, 2) == bytes[2 * CHUNK_BYTES..], "behind the last there is none");
    assert!(read(3, 1).is_empty());
}

/// By it the sweep knows that nothing behind a page is due either.
#[test]
fn an_entry_is_early_until_its_time() {
    let mut world = World::new(1);
    world.wrap(&["bob"], Mode::First);
    world.write(|writes| writes.put(RecordKey::clear(Kind::Due, "", [0]), vec![]));
    let query = due::scan(Kind::Due, None, 2);
    let records = world.read(std::slice::from_ref(&query));
    let [damaged, expiry] = records.page(&query).unwrap().0 else { panic!("two entries") };
    let mut now = world.now;
    assert!(!due::is_early(Kind::Due, damaged, now), "what is damaged is in nobody's way");
    now.unix_ms += LIFE_MS - 1;
    assert!(due::is_early(Kind::Due, expiry, now));
    now.unix_ms += 1;
    assert!(!due::is_early(Kind::Due, expiry, now));
}
