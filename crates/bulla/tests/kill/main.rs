//! Killed at every failpoint: the real server on the embedded store ends from inside, in the middle of real work over
//! the real client, and starts again. What was acknowledged must be there, what was not must be there whole or not
//! at all, nothing may open twice, and the admins must be able to unseal.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test fails where it stands, and its tasks are few"
)]

mod check;
mod rekey;
mod work;

use bulla_server::failpoint::{
    DRIVE_AFTER_COMMIT, DRIVE_BEFORE_COMMIT, POINTS, REKEY_AFTER_COMMIT, REKEY_BEFORE_COMMIT, SERVE_BEFORE_CLAIM_REPLY,
    STORE_POINTS, UNSEAL_AFTER_COMMIT, UNSEAL_BEFORE_COMMIT,
};
use bulla_testkit::world::Person;
use bulla_testkit::{Options, Server, bulla, long};
use bulla_wire::api::SealState;
use std::collections::{BTreeSet, HashMap};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use work::{Died, Kind, Work};

const VARIABLE: &str = "BULLA_FAILPOINT";
const SIGABRT: i32 = 6;
/// How long a server may live until it meets its point, or until it is sealed.
const LIFE: Duration = Duration::from_secs(90);
/// Servers at once: each waits most of its time.
const AT_ONCE: usize = 3;

/// The number of the round after the death.
const LAST: usize = 1000;

/// One death.
#[derive(Debug, Clone)]
struct Case {
    point: &'static str,
    hit: u64,
    /// The client goes on asking until the server is back, with the nonce that it had. Otherwise it dies too.
    patient: bool,
    /// The server dies a second time, when it is unsealed, at this point.
    again: Option<&'static str>,
}

impl Case {
    fn kind(&self) -> Kind {
        match self.point {
            UNSEAL_BEFORE_COMMIT | UNSEAL_AFTER_COMMIT => Kind::Seal,
            SERVE_BEFORE_CLAIM_REPLY => Kind::Open,
            _ => Kind::Whole,
        }
    }

    /// Whether the change that was under way is there. The points of the store are met by other commits too, and a
    /// client that asks again must have been told in the end.
    fn fate(&self) -> check::Fate {
        match self.point {
            _ if self.patient => None,
            DRIVE_BEFORE_COMMIT => Some(false),
            DRIVE_AFTER_COMMIT | SERVE_BEFORE_CLAIM_REPLY => Some(true),
            _ => None,
        }
    }
}

/// Ten deaths at each point, spread so that together they meet every commit of a first round.
fn cases() -> Vec<Case> {
    // Rekeys have a test of their own.
    let own = [REKEY_BEFORE_COMMIT, REKEY_AFTER_COMMIT];
    let points: Vec<&'static str> =
        STORE_POINTS.iter().chain(POINTS).copied().filter(|point| !own.contains(point)).collect();
    let mut cases = Vec::new();
    for (place, point) in points.iter().enumerate() {
        let runs = if long() { 30 } else { 10 };
        for run in 0..runs {
            let one_by_one = long() || !(point.starts_with("store.") || point.starts_with("drive."));
            let hit = match (one_by_one, run) {
                // Making the cluster and its first opening, at every point of the store.
                (true, _) | (false, 0 | 1) => run + 1,
                (false, _) => 2 * run - 1 + u64::try_from(place).unwrap() % 2,
            };
            let again = match (run + 1) % 4 {
                1 => Some(UNSEAL_BEFORE_COMMIT),
                3 => Some(UNSEAL_AFTER_COMMIT),
                _ => None,
            };
            let odd = (run + u64::try_from(place).unwrap()) % 2 == 1;
            let both = if long() { vec![false, true] } else { vec![odd] };
            cases.extend(both.into_iter().map(|patient| Case { point, hit, patient, again }));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_killed_at_any_point_loses_nothing_it_acknowledged() {
    let turn = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    let mut names = HashMap::new();
    for case in chosen() {
        let (turn, name) = (Arc::clone(&turn), format!("{case:?}"));
        let task = running.spawn(async move {
            let _permit = turn.acquire().await.unwrap();
            one(&case).await;
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

/// All cases, or those whose description holds the text in the environment, to look into one.
fn chosen() -> Vec<Case> {
    let only = std::env::var("BULLA_TEST_KILL").unwrap_or_default();
    let all = cases().into_iter();
    let chosen: Vec<Case> =
        all.filter(|case| format!("{}:{} {}", case.point, case.hit, case.patient).contains(&only)).collect();
    assert!(!chosen.is_empty(), "no case is called {only:?}");
    chosen
}

async fn one(case: &Case) {
    let admins: Vec<Person> = ["ann", "ben", "cleo"].into_iter().map(Person::new).collect();
    let mut server = tokio::task::spawn_blocking({
        let records: Vec<_> = admins.iter().map(|admin| bulla_wire::json::to_vec(&admin.record)).collect();
        let chosen = format!("{}:{}", case.point, case.hit);
        move || {
            let mut server = Server::prepare(Options::durable(bulla!()).env(VARIABLE, chosen));
            let path = server.directory().join("ann.pub");
            std::fs::write(&path, &records[0]).unwrap();
            let options = server.options_mut();
            *options = options.clone().admin(path);
            server.restart();
            server.keep_address();
            server
        }
    })
    .await
    .unwrap();

    let work = Work::new(admins, server.address(), server.node());
    let (ended, mut end) = watch::channel(false);
    let ((), back) = tokio::join!(
        async {
            if case.patient {
                let Died = work.go(case.kind()).await;
            } else {
                tokio::select! { Died = work.go(case.kind()) => {}, () = until(&work.died) => {} }
            }
            ended.send(true).unwrap();
        },
        async {
            server = death(server, case.point).await;
            work.died.store(true, Ordering::SeqCst);
            if !case.patient {
                end.wait_for(|ended| *ended).await.unwrap();
            }
            recover(server, &work, case).await
        }
    );
    server = back;

    let mut happened = check::effects(&work, case.fate()).await;
    check::disabled(&work).await;
    // Everything goes on as if nothing had been.
    work.died.store(false, Ordering::SeqCst);
    work.ledger().forgive();
    work.complete().await.unwrap();
    work.round(LAST).await.unwrap();
    happened.extend(check::effects(&work, None).await);
    let lost = case.point == DRIVE_AFTER_COMMIT && !case.patient;
    tokio::task::spawn_blocking(move || {
        assert_eq!(server.stop().code(), Some(0), "{}", server.log());
        check::audit(&server, &work, &happened, lost);
    })
    .await
    .unwrap();
}

async fn until(happened: &AtomicBool) {
    while !happened.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the server dies of its failpoint.
async fn death(mut server: Server, point: &'static str) -> Server {
    let end = tokio::task::spawn_blocking(move || {
        let status = server.wait(LIFE);
        assert_eq!(status.signal(), Some(SIGABRT), "{status}:\n{}", server.log());
        assert!(server.log().contains(&format!("failpoint {point}: abort")), "{}", server.log());
        server
    });
    end.await.unwrap()
}

async fn start(mut server: Server, point: Option<&'static str>) -> Server {
    let start = tokio::task::spawn_blocking(move || {
        let options = server.options_mut();
        options.without_env(VARIABLE);
        if let Some(point) = point {
            *options = options.clone().env(VARIABLE, point);
        }
        server.restart();
        server
    });
    start.await.unwrap()
}

/// Starts the server where it was, and has it unsealed by two admins, of whom one has not given a share before.
async fn recover(server: Server, work: &Work, case: &Case) -> Server {
    let mut server = start(server, case.again).await;
    if let Some(point) = case.again {
        made(work, case.patient).await;
        let died = AtomicBool::new(false);
        let unseal = async {
            // The admins ask until the server is gone: where the workload unseals too, the two may meet.
            while !died.load(Ordering::SeqCst) {
                tokio::select! {
                    ended = work.unseal([2, 0]) => assert!(ended.is_err() || case.patient, "it outlived {point}"),
                    () = until(&died) => {}
                }
            }
        };
        let death = async {
            let server = death(server, point).await;
            died.store(true, Ordering::SeqCst);
            server
        };
        ((), server) = tokio::join!(unseal, death);
        server = start(server, None).await;
    }
    made(work, case.patient).await;
    // Where the workload unseals by itself, the two may meet, and one has to ask again.
    let mut tries = if case.patient { 20 } else { 1 };
    while let Err(error) = work.unseal([1, 2]).await {
        tries -= 1;
        let open = work.health().await.state == SealState::Unsealed;
        assert!(open || tries > 0, "two admins cannot unseal: {error:?}");
        if open {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    server
}

/// The node has no cluster or a whole one. If none, it is made again, by the client that still asks or by another.
async fn made(work: &Work, patient: bool) {
    for _ in 0..600 {
        let health = work.health().await;
        if let Some(cluster) = health.cluster {
            assert_eq!(health.state, SealState::Sealed);
            let acknowledged = work.ledger().cluster.replace(cluster);
            assert!(acknowledged.is_none_or(|known| known == cluster), "another cluster than the acknowledged one");
            return;
        }
        assert_eq!(health.state, SealState::Uninitialised);
        assert!(work.ledger().cluster.is_none(), "the cluster was acknowledged and is gone");
        if patient {
            tokio::time::sleep(Duration::from_millis(50)).await;
        } else {
            let view = work.founder().init(&work.init_body()).await.unwrap();
            work.ledger().cluster = Some(view.id());
        }
    }
    panic!("the client that asked for a cluster gave up");
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
