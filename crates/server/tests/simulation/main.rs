//! The node under a seeded simulator: real requests with real signatures go through the real gate, policy, engines, file
//! store and audit log, on disks that lose power, over a network that loses, repeats and reorders, by a clock that jumps.
//! Only sockets, HTTP and TLS are left out. One number decides what happens; a failure prints it, and
//! `BULLA_TEST_SEED=<seed>` plays it alone.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a simulation that cannot go on has to stop there, with a message"
)]

mod history;
mod judge;
mod machine;
mod mutant;
mod play;
mod rng;
mod sim;
mod stage;

use history::Broken;
use mutant::Mutant;
use sim::Sim;
use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};

/// What is written where an invariant breaks, in two parts, or it would be found here.
const CALL: &str = concat!("broken", "(");

/// Memory that looks like a directory, if the machine has it: nothing here has to outlive the test.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
}

/// What timers of the server ask for: futures are polled by hand.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A seed that breaks an invariant, and how it came to that.
struct Failure {
    seed: u64,
    trace: Vec<String>,
    broken: Broken,
}

/// Plays seeds on all cores until one breaks an invariant that `wanted` takes.
fn play(seeds: Range<u64>, mutant: Option<Mutant>, wanted: impl Fn(&Broken) -> bool + Sync) -> Option<Failure> {
    let stages = stage::stages();
    let directory = directory();
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let log: PathBuf = directory.path().join(format!("{worker}.jsonl"));
            let (next, failed, wanted) = (&next, &failed, &wanted);
            scope.spawn(move || {
                let runtime = runtime();
                let _entered = runtime.enter();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let played = std::panic::catch_unwind(AssertUnwindSafe(|| Sim::play(stages, seed, &log, mutant)));
                    let (trace, broken) = match played {
                        Ok((_, Ok(()))) => continue,
                        Ok((trace, Err(broken))) => (trace, broken),
                        // On a disk that lies the database may find itself in a state that it holds for impossible.
                        Err(_) if mutant.is_some() => continue,
                        Err(panic) => std::panic::resume_unwind(panic),
                    };
                    if wanted(&broken) {
                        failed.lock().unwrap().get_or_insert(Failure { seed, trace, broken });
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

fn report(Failure { seed, trace, broken }: &Failure) -> String {
    format!(
        "{}\n\nseed {seed} breaks {}: {}\n\
         BULLA_TEST_SEED={seed} cargo test --workspace --test simulation seeds plays it alone",
        trace.join("\n"),
        broken.invariant,
        broken.detail
    )
}

#[test]
fn seeds() {
    let seeds = match std::env::var("BULLA_TEST_SEED") {
        Ok(given) => {
            let number = |text: &str| text.parse::<u64>().expect("BULLA_TEST_SEED is a number, or two as in 5..9");
            given.split_once("..").map_or_else(|| number(&given)..number(&given) + 1, |(a, b)| number(a)..number(b))
        }
        Err(_) if bulla_testkit::long() => 0..1_000_000,
        Err(_) => 0..10_000,
    };
    let (count, began) = (seeds.end - seeds.start, Instant::now());
    stage::stages();
    let ready = began.elapsed();
    if let Some(failed) = play(seeds, None, |_| true) {
        panic!("{}", report(&failed));
    }
    let each = (began.elapsed() - ready).as_secs_f64() * 1000.0 / count as f64;
    println!("{count} seeds, {each:.1} ms each on all cores");
}

/// What is not decided by the seed (keys, ids, salts, the order of a map) must not show in what happens.
#[test]
fn a_seed_plays_the_same_again() {
    let (stages, directory) = (stage::stages(), directory());
    let runtime = runtime();
    let _entered = runtime.enter();
    for seed in 0..60 {
        let again = || Sim::play(stages, seed, &directory.path().join("log.jsonl"), None).0;
        let (first, second) = (again(), again());
        let differs = first.iter().zip(&second).position(|(one, other)| one != other);
        assert!(
            differs.is_none() && first.len() == second.len(),
            "seed {seed}: {:?}",
            differs.map(|at| (&first[at], &second[at]))
        );
    }
    assert_ne!(Sim::play(stages, 1, &directory.path().join("log.jsonl"), None).0.len(), 0);
}

/// What a seed found once.
#[test]
fn a_line_outlives_a_clock_that_is_set_back() {
    let (stages, directory) = (stage::stages(), directory());
    let runtime = runtime();
    let _entered = runtime.enter();
    // What power leaves of the log's end is the seed's.
    for seed in 0..24 {
        let mut sim = Sim::new(stages, seed, &directory.path().join("log.jsonl"), None);
        if let Err(broken) = sim.clock_set_back() {
            panic!("seed {seed} breaks {}: {}", broken.invariant, broken.detail);
        }
    }
}

/// Each wrong world is noticed, by the invariants that speak of it.
#[test]
fn wrong_worlds_are_noticed() {
    for (mutant, invariants) in mutant::MUTANTS {
        for invariant in *invariants {
            let failed = play(0..mutant::SEEDS, Some(*mutant), |broken| broken.invariant == *invariant);
            let Some(Failure { seed, .. }) = failed else {
                panic!("{mutant:?} does not break {invariant} within {} seeds", mutant::SEEDS);
            };
            println!("{mutant:?}: seed {seed} breaks {invariant}");
        }
    }
}

/// An invariant that nothing breaks proves nothing.
#[test]
fn every_invariant_has_a_wrong_world() {
    let mut named = BTreeSet::new();
    for text in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation")) {
        for call in text.split(CALL).skip(1) {
            let argument = call.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
            named.insert(argument.expect("an invariant is named where it breaks").0.to_owned());
        }
    }
    let broken: BTreeSet<String> =
        mutant::MUTANTS.iter().flat_map(|(_, invariants)| *invariants).map(|name| (*name).to_owned()).collect();
    assert_eq!(named, broken);
}

fn sources(folder: &Path) -> Vec<String> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![std::fs::read_to_string(path).unwrap()] })
        .collect()
}
