//! Killed while it does what is due: ends of wraps and uploads by time, and the dropping of old nonces. Nothing ends
//! twice or half, nothing stays behind, and a nonce is found, or too old to be believed.
//!
//! The victim is this test program, started again with a server inside whose clock moves.

use crate::work::Full;
use crate::{LIFE, SIGABRT, VARIABLE, many};
use bulla_client::{Client, Outgoing, Pin, Unseal, content};
use bulla_crypto::evidence::ClusterView;
use bulla_server::clock::Clock as _;
use bulla_server::failpoint::{
    NONCES_AFTER_DROP, NONCES_BEFORE_DROP, SWEEP_AFTER_END, SWEEP_BEFORE_END, UPLOAD_AFTER_PIECE,
};
use bulla_server::run;
use bulla_testkit::raw::{Caller, Request, rows, unsealed};
use bulla_testkit::world::{MovableClock, Person, Shape, World, config};
use bulla_testkit::{long, process};
use bulla_wire::api::{AlarmKind, KvWritten, PutKv, PutPolicy, SealState, SlotState};
use bulla_wire::error::Code;
use bulla_wire::id::Nonce;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::wrap::{ReceiptKind, Slip};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

/// Names its directory to the victim, and the time at which its clock begins.
const VICTIM: &str = "BULLA_TEST_VICTIM";
const AT: &str = "BULLA_TEST_VICTIM_AT";
/// A file in the victim's directory: so many milliseconds pass once it is there.
const PASS: &str = "pass";
const READY: &str = "ready.json";

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
/// How long an upload may take, and by default an opener to acknowledge.
const TEN_MINUTES: u64 = 10 * MINUTE;
/// How long after the scene's end everything is due.
const DUE: u64 = 60 * SECOND;
/// What passes in a victim, and after it for the clock that stands still while the cluster is sealed: everything is due
/// then, and the younger nonce is a minute and a half from its end.
const PASSES: u64 = 100 * SECOND;
/// The scene ends about so long after it began, and so long after a minute began.
const MINUTES: u64 = 20;
const AFTER_MINUTE: u64 = 10 * SECOND;
/// The older nonce was used so long before the scene's end: in the last minute whose nonces are still there.
const OLD: u64 = 220 * SECOND;
/// Wraps that nobody opens.
const EXPIRING: usize = 3;

/// Deaths at each point, and how many hits each has: an upload ends in two commits, each wrap in one, and what is done
/// is looked at once more.
const POINTS: &[(&str, u64)] =
    &[(SWEEP_BEFORE_END, 10), (SWEEP_AFTER_END, 6), (NONCES_BEFORE_DROP, 1), (NONCES_AFTER_DROP, 1)];
const RUNS: u64 = 5;

/// The points that end a server here.
pub fn points() -> impl Iterator<Item = &'static str> {
    POINTS.iter().map(|(point, _)| *point)
}

/// One or two deaths; none shows what is to be expected.
#[derive(Debug, Clone)]
struct Case(Vec<(&'static str, u64)>);

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (place, &(point, hits)) in POINTS.iter().enumerate() {
        for run in 0..if long() { 10 * RUNS } else { RUNS } {
            let mut deaths = vec![(point, 1 + run % hits)];
            // Every second time it dies again, where something is left to do.
            if run % 2 == 1 && point == SWEEP_BEFORE_END {
                let (other, _) = POINTS[(place + usize::try_from(run).unwrap() / 2) % POINTS.len()];
                deaths.push((other, 1));
            }
            cases.push(Case(deaths));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_due_happens_once_however_often_the_server_dies() {
    let scene = Arc::new(Scene::new().await);
    let undisturbed = one(&scene, &Case(vec![])).await;
    many(cases(), move |case| {
        let scene = Arc::clone(&scene);
        async move { assert_eq!(one(&scene, &case).await, undisturbed, "rows of data that are left") }
    })
    .await;
}

/// The victim. As an ordinary test it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(directory) = std::env::var(VICTIM) else { return };
    let directory = Path::new(&directory);
    let clock = Arc::new(MovableClock::at(std::env::var(AT).unwrap().parse().unwrap()));
    let mut config = config(directory, &Shape::durable());
    config.ready_file = Some(directory.join(READY));
    let _server = run(&config, clock.clone()).await.unwrap();
    loop {
        if let Ok(ms) = fs::read_to_string(directory.join(PASS)) {
            fs::remove_file(directory.join(PASS)).unwrap();
            clock.pass(ms.parse().unwrap());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A victim in the directory of a stopped world.
pub struct Victim<'a> {
    world: &'a World,
    child: Child,
    address: String,
}

impl<'a> Victim<'a> {
    pub async fn start(world: &'a World, at_ms: u64, (point, hit): (&str, u64)) -> Self {
        let directory = world.directory();
        drop(fs::remove_file(directory.join(READY)));
        let log = File::create(directory.join("victim.log")).unwrap();
        let mut command = process::command(std::env::current_exe().unwrap());
        command.args(["--exact", "timed::victim", "--nocapture"]).env(VICTIM, directory).env(AT, at_ms.to_string());
        command.env(VARIABLE, format!("{point}:{hit}"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = process::spawn(command);
        let ready: Value = loop {
            if let Ok(text) = fs::read(directory.join(READY)) {
                break serde_json::from_slice(&text).unwrap();
            }
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}:\n{}", fs::read_to_string(directory.join("victim.log")).unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let address = format!("https://{}", ready["address"].as_str().unwrap());
        Self { world, child, address }
    }

    pub fn client(&self, person: &Person) -> Client {
        person.client(&self.address, Pin::Cluster(self.world.cluster))
    }

    pub async fn unseal(&self) {
        let approve: &(dyn Fn(&ClusterView) -> bool + Sync) = &|_| true;
        let how = Unseal { approve, danger_older_epoch: false };
        let given = self.client(&self.world.admins[0]).unseal(&how).await.unwrap().given;
        assert_eq!(given.state, SealState::Unsealed);
    }

    fn pass(&self, ms: u64) {
        let (new, place) = (self.world.directory().join("pass.new"), self.world.directory().join(PASS));
        fs::write(&new, ms.to_string()).unwrap();
        fs::rename(new, place).unwrap();
    }

    pub async fn death(mut self, point: &str) {
        let log = self.world.directory().join("victim.log");
        let status = tokio::task::spawn_blocking(move || {
            let status = process::wait(&mut self.child, LIFE);
            if status.is_none() {
                drop(self.child.kill());
                drop(self.child.wait());
            }
            status
        });
        let status = status.await.unwrap();
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(status.and_then(|status| status.signal()), Some(SIGABRT), "{status:?}:\n{log}");
        assert!(log.contains(&format!("failpoint {point}: abort")), "{log}");
    }
}

/// A stopped world in which much is about to become due.
struct Scene {
    world: World,
    /// The time after which it was stopped, by its clock.
    at_ms: u64,
    alice: Person,
    bob: Person,
    /// Wraps: never opened; opened and never acknowledged.
    expiring: Vec<Slip>,
    lapsing: Slip,
    /// Writings of secrets, with nonces that are about to be dropped and that stay.
    old: (Request, Nonce),
    fresh: (Request, Nonce),
}

impl Scene {
    async fn new() -> Self {
        let mut world = World::new(Shape::durable()).await;
        let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
        let text = r#"permit (principal, action in Bulla::Action::"kv", resource);"#.to_owned();
        let admin = world.client(&world.admins[0]);
        admin.policy_put(&"kv".parse().unwrap(), &PutPolicy { text, replaces: None }).await.unwrap();
        let writer = world.client(&alice);
        let wrap = async |life_s| {
            let to = writer.resolve("bob").await.unwrap();
            writer.wrap_create(Outgoing::new(vec![to], life_s), content(b"x".to_vec())).await.unwrap().slip
        };
        let at_ms = (world.clock.unix_ms() / MINUTE + MINUTES) * MINUTE + AFTER_MINUTE;
        let until_ms = |ms: u64| ms.saturating_sub(world.server().node.now_ms());
        let mut expiring = Vec::new();
        for _ in 0..EXPIRING {
            expiring.push(wrap((until_ms(at_ms) + DUE) / SECOND).await);
        }
        let lapsing = wrap(24 * 60 * MINUTE / SECOND).await;

        // An upload ends with its server, and Bob opens what he cannot keep.
        world.clock.pass(until_ms(at_ms + DUE - TEN_MINUTES));
        world.client(&bob).wrap_open(&lapsing, &mut Full).await.expect_err("no room for it");
        world.stop().await;
        let victim = Victim::start(&world, world.clock.unix_ms(), (UPLOAD_AFTER_PIECE, 2)).await;
        victim.unseal().await;
        let client = victim.client(&alice);
        let to = client.resolve("bob").await.unwrap();
        let large = content(vec![7; 600 * 1024]);
        tokio::select! {
            made = client.wrap_create(Outgoing::new(vec![to], 24 * 60 * MINUTE / SECOND), large) => panic!("{made:?}"),
            () = victim.death(UPLOAD_AFTER_PIECE) => {}
        }

        world.start().await;
        world.unseal().await;
        let until_ms = |ms: u64| ms.saturating_sub(world.server().node.now_ms());
        world.clock.pass(until_ms(at_ms - OLD));
        let mut caller = Caller::new(&world, &alice).await;
        let old = put(&world, &mut caller, "old").await;
        world.clock.pass(until_ms(at_ms));
        // Its challenge has died; the refusal brings another.
        caller.call("GET", "/v1/whoami").await.refused(Code::StaleChallenge);
        let fresh = put(&world, &mut caller, "fresh").await;
        world.stop().await;
        let at_ms = world.clock.unix_ms();
        Self { world, at_ms, alice, bob, expiring, lapsing, old, fresh }
    }
}

/// Writes a secret by hand, so that the same nonce can be used again.
async fn put(world: &World, caller: &mut Caller, name: &str) -> (Request, Nonce) {
    let nonce = caller.nonce();
    let data = StrictMap([("value".to_owned(), name.to_owned())].into());
    let body = json::to_vec(&PutKv::fields(data));
    let path = format!("/v1/kv/{name}");
    let body = caller.ingress(world, "PUT", &path, &nonce, &body);
    let request = caller.request("PUT", &path, "application/age", body, nonce);
    let written: KvWritten = caller.send(&request).await.ok().json();
    assert_eq!(written.version, 1);
    (request, nonce)
}

async fn state(writer: &Client, slip: &Slip) -> SlotState {
    writer.wrap_inspect(slip).await.unwrap().slots[0].state
}

/// Lets servers die on a copy of the scene, and sees what the last one makes of it. Answers how many rows of data
/// there are in the end.
async fn one(scene: &Scene, case: &Case) -> usize {
    let mut world = scene.world.copied(scene.at_ms);
    for (place, &(point, hit)) in case.0.iter().enumerate() {
        // Everything has become due before the second dies.
        let (before, passes) = if place == 0 { (0, PASSES) } else { (PASSES, 0) };
        let victim = Victim::start(&world, world.clock.unix_ms() + before, (point, hit)).await;
        victim.unseal().await;
        victim.pass(passes);
        victim.death(point).await;
    }
    // As far as the victims' clocks went; and again, since the unsealed clock knows nothing of what was not committed.
    world.clock.pass(PASSES);
    world.start().await;
    world.unseal().await;
    world.clock.pass(PASSES);
    done(&world, scene).await;
    let left = rows(&world).await.keys().filter(|(table, _)| table == "Data").count();
    let (cluster, audit) = (world.cluster, world.directory().join("audit"));
    world.stop().await;
    let expected = bulla_server::sink::Expectations { cluster: Some(cluster), whole: true, ..Default::default() };
    let findings = bulla_server::sink::verify(&audit, expected).unwrap().findings;
    assert!(findings.is_empty(), "{findings:?}");
    left
}

async fn done(world: &World, scene: &Scene) {
    let writer = world.client(&scene.alice);
    let mut caller = Caller::new(world, &scene.alice).await;
    let (old, nonce) = &scene.old;
    for _ in 0..600 {
        let dropped = unsealed(world).keys.head.mark() > nonce.minute();
        if dropped && state(&writer, &scene.lapsing).await == SlotState::Lapsed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (slips, end, kinds) in [
        (&scene.expiring[..], SlotState::Expired, &[ReceiptKind::Expired][..]),
        (std::slice::from_ref(&scene.lapsing), SlotState::Lapsed, &[ReceiptKind::Opened, ReceiptKind::Lapsed]),
    ] {
        for slip in slips {
            let slot = &writer.wrap_inspect(slip).await.unwrap().slots[0];
            let told: Vec<ReceiptKind> = slot.receipts.iter().map(|receipt| receipt.receipt.kind).collect();
            assert_eq!((slot.state, &told[..]), (end, kinds), "{slip}");
            let mut output = bulla_client::MemoryOutput::new();
            world.client(&scene.bob).wrap_open(slip, &mut output).await.expect_err("it has ended");
        }
    }
    let mut alarms: BTreeMap<String, usize> = BTreeMap::new();
    for alarm in writer.alarms(None, None, true).await.unwrap().alarms {
        *alarms.entry(format!("{:?}", alarm.kind)).or_default() += 1;
    }
    let kinds = [(AlarmKind::ExpiredUnopened, EXPIRING), (AlarmKind::Lapse, 1), (AlarmKind::SecondClaim, 1)];
    assert_eq!(alarms, kinds.map(|(kind, count)| (format!("{kind:?}"), count)).into(), "each end is told once");

    // The nonce whose bucket went is too old to be believed; the other one is found.
    let refused = caller.send(&caller.sign(old.clone(), *nonce)).await;
    refused.refused(Code::NonceExpired);
    let (fresh, nonce) = &scene.fresh;
    let again = caller.sign(fresh.clone(), *nonce);
    assert_eq!(caller.send(&again).await.ok().json::<KvWritten>().version, 1, "what came of it the first time");
    for name in ["old", "fresh"] {
        assert_eq!(writer.kv_get(&name.parse().unwrap()).await.unwrap().version, 1, "{name} was written twice");
    }
}
