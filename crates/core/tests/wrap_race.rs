//! Races over wraps: thousands of interleavings, each replayable from its seed.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(dead_code, reason = "the world serves several test programs")]

mod wrap_world;

use bulla_core::engine::wrap::{Ack, Nack, Revoke, TOMBSTONE_MS};
use bulla_core::operation::{Operation, Reply};
use bulla_crypto::random::{SeededRng, draw};
use bulla_crypto::recipient::Recipient;
use bulla_wire::api::{FinishWrap, RevokeWrap, SlotState};
use bulla_wire::error::Code;
use bulla_wire::wrap::{MAX_DELIVERIES, Mode};
use std::sync::OnceLock;
use wrap_world::*;

/// So many seeds, or a hundred times as many in a night (`cargo xtask test --long`).
fn seeds(count: u64) -> std::ops::Range<u64> {
    let long = std::env::var_os("BULLA_TEST_LONG").is_some_and(|value| value == "1");
    0..if long { 100 * count } else { count }
}

/// Claims are slow to make and need not differ from race to race.
fn claims() -> &'static [Recipient] {
    static CLAIMS: OnceLock<Vec<Recipient>> = OnceLock::new();
    CLAIMS.get_or_init(|| {
        let mut world = World::new(9);
        (0..6).map(|_| world.claim()).collect()
    })
}

fn below(rng: &mut SeededRng, limit: usize) -> usize {
    u32::from_be_bytes(draw(rng)) as usize % limit
}

/// Six claims by three principals at one wrap in mode `first`: exactly one is served, all others are told so.
#[test]
fn one_claim_wins_whatever_the_order() {
    let mut world = World::new(1);
    let mut winners = [0; 6];
    for seed in seeds(1500) {
        let mut rng = SeededRng::from_u64(seed);
        let wrap = world.wrap(&["bob", "carol", "dave"], Mode::First);
        let names = ["bob", "bob", "bob", "carol", "carol", "dave"];
        let mut tasks: Vec<_> = names
            .iter()
            .zip(claims())
            .enumerate()
            .map(|(n, (name, claim))| (n, Task::new(Box::new(wrap.open(claim)), Some(world.actor(name)))))
            .collect();
        let mut served = 0;
        while !tasks.is_empty() {
            let place = below(&mut rng, tasks.len());
            let (n, task) = &mut tasks[place];
            let Some(answered) = task.tick(&mut world) else { continue };
            match &answered.result {
                Ok(Reply::Claim { .. }) => {
                    served += 1;
                    winners[*n] += 1;
                }
                Ok(_) => panic!("seed {seed}: an answer of another kind"),
                Err(refusal) => assert!([Code::AlreadyOpened, Code::Busy].contains(&refusal.code), "seed {seed}"),
            }
            drop(tasks.swap_remove(place));
        }
        assert_eq!(served, 1, "seed {seed}");
        invariants(&world, &wrap);
        // A small store keeps the scans short.
        world.rows.clear();
        world.served.clear();
    }
    assert!(winners.iter().all(|wins| *wins > 50), "the scheduler is fair: {winners:?}");
}

/// Everything that can happen to a wrap with a slot for each, at once and while time passes; then time goes
/// on until nothing may be left.
#[test]
fn everything_at_once() {
    let mut world = World::new(2);
    let mut ends = std::collections::BTreeMap::<String, usize>::new();
    for seed in seeds(500) {
        let mut rng = SeededRng::from_u64(seed);
        let wrap = world.wrap(&["bob", "carol", "dave"], Mode::Each);
        let mut tasks = script(&world, &wrap, &mut rng);
        while !tasks.is_empty() {
            match below(&mut rng, 40) {
                0 => world.pass(200_000),
                1 => world.pass_sealed(1_500_000),
                2 | 3 => {
                    let entries = world.overdue();
                    tasks.extend(entries.into_iter().map(|entry| Task::new(Box::new(entry), None)));
                }
                _ => {
                    let place = below(&mut rng, tasks.len());
                    let commits = world.commits;
                    if tasks[place].tick(&mut world).is_some() {
                        drop(tasks.swap_remove(place));
                    }
                    if world.commits > commits {
                        invariant_live_counts(&world, &wrap);
                        invariant_ct_gone_when_final(&world, &wrap);
                    }
                }
            }
        }
        invariants(&world, &wrap);
        for index in 0..3 {
            *ends.entry(format!("{:?}", world.state(&wrap.id, index))).or_default() += 1;
        }
        world.pass(LIFE_MS);
        world.sweep();
        invariants(&world, &wrap);
        assert!((0..3).all(|index| world.state(&wrap.id, index) != SlotState::Sealed));
        world.pass(u64::from(ACK_S) * 1000);
        world.sweep();
        assert!((0..3).all(|index| !world.slot(&wrap.id, index).state.is_live()), "seed {seed}");
        world.pass(TOMBSTONE_MS);
        world.sweep();
        invariant_nothing_left(&world);
        world.rows.clear();
        world.served.clear();
    }
    for state in ["Sealed", "Opened", "Acked", "Lapsed", "Nacked", "Expired", "Revoked"] {
        assert!(ends.contains_key(state), "never reached: {state} in {ends:?}");
    }
}

/// A random selection of what three recipients, a thief, a stranger and the writer may do.
fn script(world: &World, wrap: &Wrap, rng: &mut SeededRng) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut add = |op: Box<dyn Operation>, name: &str| tasks.push(Task::new(op, Some(world.actor(name))));
    for (n, name) in ["bob", "carol", "dave"].into_iter().enumerate() {
        let claim = &claims()[n];
        let body = FinishWrap { statement_sha256: wrap.digest, claim_sha256: claim.digest() };
        for _ in 0..below(rng, 3) {
            add(Box::new(wrap.open(claim)), name);
        }
        if below(rng, 3) == 0 {
            add(Box::new(wrap.open(&claims()[5])), name);
        }
        if below(rng, 2) == 0 {
            add(Box::new(Ack { wrap: wrap.id, body: body.clone() }), name);
        }
        if below(rng, 3) == 0 {
            add(Box::new(Nack { wrap: wrap.id, body }), name);
        }
    }
    if below(rng, 3) == 0 {
        add(Box::new(wrap.open(&claims()[4])), "eve");
    }
    if below(rng, 4) == 0 {
        add(Box::new(Revoke { wrap: wrap.id, body: RevokeWrap { statement_sha256: wrap.digest } }), "alice");
    }
    // Something is always under way, or the race would be over before it began.
    add(Box::new(wrap.open(&claims()[0])), "bob");
    tasks
}

/// The same claim many times at once: never more deliveries than allowed, each with a receipt.
#[test]
fn one_claim_many_times_at_once() {
    let mut world = World::new(3);
    for seed in seeds(50) {
        let mut rng = SeededRng::from_u64(seed);
        let wrap = world.wrap(&["bob"], Mode::First);
        let bob = world.actor("bob");
        let mut tasks: Vec<_> =
            (0..24).map(|_| Task::new(Box::new(wrap.open(&claims()[0])), Some(bob.clone()))).collect();
        let mut served = 0;
        while !tasks.is_empty() {
            let place = below(&mut rng, tasks.len());
            let Some(answered) = tasks[place].tick(&mut world) else { continue };
            served += u32::from(answered.result.is_ok());
            drop(tasks.swap_remove(place));
        }
        assert!((1..=MAX_DELIVERIES).contains(&served));
        assert_eq!(world.slot(&wrap.id, 0).state.opening().unwrap().deliveries, served);
        assert_eq!(world.receipts(&wrap.id, 0).len(), served as usize);
        invariants(&world, &wrap);
        world.rows.clear();
        world.served.clear();
    }
}
