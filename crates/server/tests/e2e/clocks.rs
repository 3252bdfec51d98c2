//! Clocks that step: nothing opens early or late, nothing is deleted, until somebody says which time is right.

use crate::cases::{claim, open_body};
use crate::support::{Caller, finish, finish_after_steps, lines, unsealed};
use bulla_client::{Client, ClientError, MemoryOutput, Outgoing, content};
use bulla_core::audit::Body;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{AlarmKind, SlotState};
use bulla_wire::error::Code;
use bulla_wire::signature::EMPTY_MEDIA_TYPE;
use bulla_wire::wrap::Slip;
use std::time::Duration;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

async fn open(world: &World, person: &Person, slip: &Slip) -> Result<Vec<u8>, ClientError> {
    let mut output = MemoryOutput::new();
    world.client(person).wrap_open(slip, &mut output).await?.acked?;
    Ok(output.content().to_vec())
}

async fn made(world: &World, writer: &Client, nbf_s: u64, life_s: u64) -> Slip {
    let bob = writer.resolve("bob").await.unwrap();
    let nbf_ms = if nbf_s == 0 { 0 } else { world.server().node.now_ms() + nbf_s * 1000 };
    let outgoing = Outgoing { nbf_ms, ..Outgoing::new(vec![bob], life_s) };
    writer.wrap_create(outgoing, content(b"x".to_vec())).await.unwrap().slip
}

/// The sweep looks once a second.
async fn sweep() {
    tokio::time::sleep(Duration::from_millis(2500)).await;
}

async fn state(writer: &Client, slip: &Slip) -> SlotState {
    writer.wrap_inspect(slip).await.unwrap().slots[0].state
}

async fn stepped(by: i64) {
    let world = World::new(Shape::durable()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let (writer, admin) = (world.client(&alice), world.client(&world.admins[0]));
    // Half an hour around the step's end lies within none of them, or within one.
    let whole_year = made(&world, &writer, 0, 360 * 24 * 3600).await;
    let soon = made(&world, &writer, 1800, 7200).await;
    let short = made(&world, &writer, 0, 1800).await;
    world.clock.step(by);
    // Before the node has looked at its clock, and after.
    for look in 0..2 {
        let early = open(&world, &bob, &soon).await.expect_err("too early by one of the clocks");
        // Behind the low-water mark of nonces nothing at all is changed.
        let expected = if by > 0 {
            Code::ClockStepped
        } else if by > -5 * MINUTE {
            Code::NotYet
        } else {
            Code::NonceExpired
        };
        assert_eq!(early.code(), Some(expected), "{early}");
        if by > 0 {
            let late = open(&world, &bob, &short).await.expect_err("too late by one of the clocks");
            assert_eq!(late.code(), Some(Code::ClockStepped), "{late}");
        }
        if look == 0 {
            sweep().await;
        }
    }
    let health = admin.health().await.unwrap().0;
    assert!(!health.clock_ok);
    assert_eq!(state(&writer, &short).await, SlotState::Sealed, "nothing was swept");
    let told = admin.alarms(None, None, false).await.unwrap().alarms;
    assert!(told.iter().any(|alarm| alarm.kind == AlarmKind::ClockStepped), "{told:?}");
    assert!(lines(&world).await.iter().any(|line| match &line.body {
        Body::Alarm { alarm, .. } => alarm.as_str() == "clock_stepped",
        _ => false,
    }));
    if (-5 * MINUTE..=HOUR).contains(&by) {
        assert_eq!(open(&world, &bob, &whole_year).await.unwrap(), b"x", "no clock stands in its way");
    }
    // The clock is put right again, and an admin says so.
    world.clock.step(-by);
    sweep().await;
    assert!(!admin.health().await.unwrap().0.clock_ok, "a step back is a step");
    // A client that held a challenge of the other time would not know what came of it.
    world.client(&world.admins[0]).seal_confirm_clock().await.unwrap();
    assert!(admin.health().await.unwrap().0.clock_ok);
    assert_eq!(open(&world, &bob, &soon).await.unwrap_err().code(), Some(Code::NotYet));
    assert_eq!(open(&world, &bob, &short).await.unwrap(), b"x");
    world.clock.pass(1801 * 1000);
    assert_eq!(open(&world, &bob, &soon).await.unwrap(), b"x");
    finish_after_steps(world).await;
}

/// A day forward; in a night (`cargo xtask test --long`) steps of many sizes, from half an hour on.
#[tokio::test(flavor = "multi_thread")]
async fn other_steps() {
    stepped(DAY).await;
    if bulla_testkit::long() {
        for by in [HOUR / 2, 2 * HOUR, 30 * DAY, YEAR, 50 * YEAR] {
            stepped(by).await;
            stepped(-by).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_forward() {
    stepped(HOUR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_back() {
    stepped(-HOUR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_minutes_back() {
    stepped(-3 * MINUTE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_years_forward() {
    stepped(10 * YEAR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_years_back() {
    stepped(-10 * YEAR).await;
}

/// An alarm of a time that never was, marked as seen, hides none that follow.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_back_hides_no_alarm() {
    let world = World::new(Shape::durable()).await;
    let (alice, bob, eve) = (world.admit("alice").await, world.admit("bob").await, world.admit("eve").await);
    let writer = world.client(&alice);
    let slip = made(&world, &writer, 0, 360 * 24 * 3600).await;
    world.clock.step(HOUR);
    let path = format!("/v1/wrap/{}:open", slip.wrap);
    let mut stranger = Caller::new(&world, &eve).await;
    stranger.call_json("POST", &path, &open_body(&slip, &claim())).await.refused(Code::NotFound);
    let told = writer.alarms(None, None, false).await.unwrap().alarms;
    let [alarm] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(alarm.kind, AlarmKind::ClaimByStranger);
    writer.alarms_seen(&alarm.id).await.unwrap();
    world.clock.step(-HOUR);
    let mut caller = Caller::new(&world, &bob).await;
    caller.call_json("POST", &path, &open_body(&slip, &claim())).await.ok();
    let reply = caller.call_json("POST", &path, &open_body(&slip, &claim())).await.refused(Code::AlreadyOpened);
    assert_eq!(reply.state().alarms, 2, "the stranger, whom bob has not seen yet, and this");
    let told = writer.alarms(None, None, false).await.unwrap().alarms;
    let kinds: Vec<_> = told.iter().map(|alarm| alarm.kind).collect();
    assert_eq!(kinds, [AlarmKind::SecondClaim]);
    finish_after_steps(world).await;
}

/// A step is noticed once: an alarm that cannot be stored just then, as while a rekey ends, is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_alarm_is_not_stored_is_told() {
    let world = World::new(Shape::default()).await;
    unsealed(&world).forget();
    world.clock.step(HOUR);
    sweep().await;
    let told = lines(&world).await.into_iter().filter(|line| match &line.body {
        Body::Alarm { alarm, .. } => alarm.as_str() == "clock_stepped",
        _ => false,
    });
    assert_eq!(told.count(), 1);
    finish_after_steps(world).await;
}

/// A wall clock that stands still while time passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_clock_opens_nothing_late() {
    let world = World::new(Shape::default()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let writer = world.client(&alice);
    let short = made(&world, &writer, 0, 1800).await;
    world.clock.pass(1900 * 1000);
    world.clock.step(-1900 * 1000);
    let late = open(&world, &bob, &short).await.expect_err("half an hour is over");
    assert_eq!(late.code(), Some(Code::ClockStepped), "{late}");
    world.clock.step(1900 * 1000);
    world.client(&world.admins[0]).seal_confirm_clock().await.unwrap();
    assert_eq!(open(&world, &bob, &short).await.unwrap_err().code(), Some(Code::Expired));
    finish_after_steps(world).await;
}

/// A node that starts long after the store's last commit believes neither time.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_ahead_at_start_is_not_believed() {
    let mut world = World::new(Shape::durable()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let writer = world.client(&alice);
    let long = made(&world, &writer, 0, 300 * 24 * 3600).await;
    let short = made(&world, &writer, 0, 3600).await;
    world.stop().await;
    world.clock.step(2 * 24 * HOUR);
    world.start().await;
    world.unseal().await;
    let admin = world.client(&world.admins[0]);
    assert!(!admin.health().await.unwrap().0.clock_ok);
    assert_eq!(open(&world, &bob, &short).await.unwrap_err().code(), Some(Code::ClockStepped));
    assert_eq!(open(&world, &bob, &long).await.unwrap(), b"x");
    sweep().await;
    let writer = world.client(&alice);
    assert_eq!(state(&writer, &short).await, SlotState::Sealed);
    admin.seal_confirm_clock().await.unwrap();
    sweep().await;
    assert_eq!(state(&writer, &short).await, SlotState::Expired);
    finish(world).await;
}

/// `ack_s` counts only the time in which the cluster was unsealed.
#[tokio::test(flavor = "multi_thread")]
async fn an_opened_wrap_does_not_lapse_while_sealed() {
    let mut world = World::new(Shape::durable()).await;
    let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
    let writer = world.client(&alice);
    let slip = made(&world, &writer, 0, 30 * 24 * 3600).await;
    let mut caller = crate::support::Caller::new(&world, &bob).await;
    let body = crate::cases::open_body(&slip, &crate::cases::claim());
    caller.call_json("POST", &format!("/v1/wrap/{}:open", slip.wrap), &body).await.ok();
    world.clock.pass(500 * 1000);
    sweep().await;
    assert_eq!(state(&writer, &slip).await, SlotState::Opened);
    world.client(&world.admins[0]).seal().await.unwrap();
    world.clock.pass(3600 * 1000);
    world.stop().await;
    world.clock.pass(3600 * 1000);
    world.start().await;
    world.unseal().await;
    sweep().await;
    let writer = world.client(&alice);
    assert_eq!(state(&writer, &slip).await, SlotState::Opened, "two hours sealed count nothing");
    world.clock.pass(101 * 1000);
    sweep().await;
    assert_eq!(state(&writer, &slip).await, SlotState::Lapsed);
    let told = writer.alarms(None, None, false).await.unwrap().alarms;
    assert!(told.iter().any(|alarm| alarm.kind == AlarmKind::Lapse && alarm.wrap == Some(slip.wrap)));
    finish(world).await;
}

/// An admin said that the time is right; whoever caught that does not say so of a later step.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_is_of_one_step() {
    let world = World::new(Shape::durable()).await;
    let mut admin = Caller::new(&world, &world.admins[0]).await;
    let nonce = admin.nonce();
    let request = admin.request("POST", "/v1/seal:confirm-clock", EMPTY_MEDIA_TYPE, vec![], nonce);
    admin.send(&request).await.ok();
    for _ in 0..2 {
        world.clock.pass(100_000);
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    world.clock.step(10_000);
    sweep().await;
    admin.call("GET", "/v1/whoami").await;
    let retry = admin.sign(request, nonce);
    admin.send(&retry).await.ok();
    assert!(!world.server().node.clock_is_even(), "it was about no step");
    admin.call("POST", "/v1/seal:confirm-clock").await.ok();
    assert!(world.server().node.clock_is_even());
    finish_after_steps(world).await;
}
