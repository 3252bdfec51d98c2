//! Killed at every failpoint: the server ends from inside and starts again, while it works ([`deaths`]), while it
//! accounts for what its store lost ([`restore`]), while it does what is due ([`timed`]), in a rekey ([`rekey`]), and
//! while it makes and drops users of a database ([`lease`]).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test fails where it stands, and its tasks are few"
)]

mod check;
mod deaths;
mod lease;
mod rekey;
mod restore;
mod snapshot;
mod timed;
mod work;

use bulla_server::failpoint::{POINTS, STORE_POINTS};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const VARIABLE: &str = "BULLA_FAILPOINT";
const SIGABRT: i32 = 6;
/// How long a server may live until it meets its point, or until it is sealed.
const LIFE: Duration = Duration::from_secs(90);
/// Cases at once: each waits most of its time.
const AT_ONCE: usize = 3;

/// Runs these cases, or those whose description holds the text in the environment, to look into one.
async fn many<C: Debug, F: Future<Output = ()> + Send + 'static>(cases: Vec<C>, run: impl Fn(C) -> F) {
    let only = std::env::var("BULLA_TEST_KILL").unwrap_or_default();
    let turn = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    let mut names = HashMap::new();
    for case in cases {
        let name = format!("{case:?}");
        if !name.contains(&only) {
            continue;
        }
        let (turn, case) = (Arc::clone(&turn), run(case));
        let task = running.spawn(async move {
            let _permit = turn.acquire().await.unwrap();
            case.await;
        });
        names.insert(task.id(), name);
    }
    let all = names.len();
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next_with_id().await {
        if let Err(error) = ended {
            eprintln!("FAILED: {}", names[&error.id()]);
            failed.push(names[&error.id()].clone());
        }
    }
    assert!(failed.is_empty(), "{} of {all} deaths were not survived:\n{}", failed.len(), failed.join("\n"));
}

/// Each point ends a server in one of the tests.
#[test]
fn every_point_is_met() {
    let met = deaths::points().chain(restore::points()).chain(timed::points());
    let met = met.chain(rekey::POINTS).chain(snapshot::POINTS).chain(lease::points());
    let met: BTreeSet<&str> = met.collect();
    let all: BTreeSet<&str> = STORE_POINTS.iter().chain(POINTS).copied().collect();
    assert_eq!(met, all);
}

/// The list of points is whole: every call in the sources names one of them, and each is called.
#[test]
fn every_point_in_the_sources_is_known() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    for (folder, points) in [("server/src", POINTS), ("store/src", STORE_POINTS)] {
        let constants = std::fs::read_to_string(crates.join(folder).join("failpoint.rs")).unwrap();
        let value = |constant: &str| {
            let line =
                constants.lines().find_map(|line| line.strip_prefix(&format!("pub const {constant}: &str = \"")));
            line.and_then(|rest| rest.strip_suffix("\";")).unwrap_or_else(|| panic!("no point is called {constant}"))
        };
        let mut called = BTreeSet::new();
        for text in sources(&crates.join(folder)) {
            for call in text.split("failpoint::hit(").skip(1) {
                let (argument, _) = call.split_once(')').unwrap();
                let constant =
                    argument.strip_prefix("failpoint::").unwrap_or_else(|| panic!("{argument} is no constant"));
                called.insert(value(constant).to_owned());
            }
        }
        let known: BTreeSet<String> = points.iter().map(|point| (*point).to_owned()).collect();
        assert_eq!(called, known, "{folder}");
    }
}

fn sources(folder: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    texts
}
