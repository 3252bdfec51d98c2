//! Killed in the middle of real work over the real client, and started again. What was acknowledged must be there, what
//! was not must be there whole or not at all, nothing may open twice, and the admins must be able to unseal.

use crate::check::{self, Fate, Line};
use crate::work::{Died, Kind, Work};
use crate::{LIFE, SIGABRT, VARIABLE, many};
use bulla_server::failpoint::{
    AUDIT_AFTER_SYNC, AUDIT_AFTER_WRITE, AUDIT_BEFORE_ROTATE, AUDIT_BEFORE_WRITE, AUDIT_EMPTY_FILE, DRIVE_AFTER_CHANGE,
    DRIVE_AFTER_COMMIT, DRIVE_BEFORE_COMMIT, INIT_AFTER_COMMIT, INIT_BEFORE_ANSWER, INIT_BEFORE_COMMIT,
    SERVE_AFTER_LINE, SERVE_BEFORE_CLAIM_REPLY, SERVE_BEFORE_LINE, STORE_POINTS, UNSEAL_AFTER_COMMIT,
    UNSEAL_AFTER_LINE, UNSEAL_BEFORE_COMMIT, UNSEAL_BEFORE_LINE, UPLOAD_AFTER_MARKER, UPLOAD_AFTER_PIECE,
    UPLOAD_BEFORE_PUBLISH,
};
use bulla_testkit::world::Person;
use bulla_testkit::{Options, Server, bulla, long, process};
use bulla_wire::api::SealState;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// The number of the round after the death.
const LAST: usize = 1000;
/// Deaths at each point.
const RUNS: u64 = 6;
/// Where a server dies that has died before, when it is unsealed.
const AGAIN: &[&str] = &[UNSEAL_BEFORE_COMMIT, UNSEAL_AFTER_COMMIT, UNSEAL_BEFORE_LINE, UNSEAL_AFTER_LINE];

/// A point that work meets.
#[derive(Debug, Clone, Copy)]
struct Point {
    name: &'static str,
    kind: Kind,
    /// Whether the change that was under way is there, if its client died with the server.
    fate: Fate,
    /// What became of its line.
    line: Line,
    hits: Hits,
}

/// At which of its hits a point ends the server: the first, how far to the next, and how many there are until it begins
/// again.
type Hits = (u64, u64, u64);

/// Spread so that together they meet every commit of a first round, from the making of the cluster on.
const ODD: Hits = (1, 2, RUNS);
const EVEN: Hits = (2, 2, RUNS);
/// The audit log writes its first line before the server answers.
const WRITES: Hits = (2, 5, RUNS);
const SYNCS: Hits = (2, 1, RUNS);
/// Always the first.
const ONCE: Hits = (1, 1, 1);

const fn point(name: &'static str, kind: Kind, fate: Fate, line: Line, hits: Hits) -> Point {
    Point { name, kind, fate, line, hits }
}

const MET: &[Point] = &[
    // The points of store and log are met by other commits and lines too.
    point(STORE_POINTS[0], Kind::Whole, None, Line::Any, ODD),
    point(STORE_POINTS[1], Kind::Whole, None, Line::Any, EVEN),
    point(STORE_POINTS[2], Kind::Whole, None, Line::Any, ODD),
    point(STORE_POINTS[3], Kind::Whole, None, Line::Any, EVEN),
    point(STORE_POINTS[4], Kind::Whole, None, Line::Any, ODD),
    point(STORE_POINTS[5], Kind::Whole, None, Line::Any, (1, 1, RUNS)),
    point(STORE_POINTS[6], Kind::Whole, None, Line::Any, (1, 1, RUNS)),
    point(DRIVE_BEFORE_COMMIT, Kind::Whole, Some(false), Line::Any, ODD),
    point(DRIVE_AFTER_COMMIT, Kind::Whole, Some(true), Line::Lost, EVEN),
    point(DRIVE_AFTER_CHANGE, Kind::Whole, Some(true), Line::Lost, (1, 1, 6)),
    point(UPLOAD_AFTER_MARKER, Kind::Upload, Some(false), Line::Any, (1, 1, 2)),
    point(UPLOAD_AFTER_PIECE, Kind::Upload, Some(false), Line::Any, (1, 1, 5)),
    point(UPLOAD_BEFORE_PUBLISH, Kind::Upload, Some(false), Line::Any, (1, 1, 2)),
    point(SERVE_BEFORE_CLAIM_REPLY, Kind::Open, Some(true), Line::Any, (1, 1, RUNS)),
    point(SERVE_BEFORE_LINE, Kind::Whole, Some(true), Line::Lost, ODD),
    point(SERVE_AFTER_LINE, Kind::Whole, Some(true), Line::Kept, EVEN),
    point(INIT_BEFORE_COMMIT, Kind::Whole, Some(false), Line::Any, ONCE),
    point(INIT_AFTER_COMMIT, Kind::Whole, Some(true), Line::Any, ONCE),
    point(INIT_BEFORE_ANSWER, Kind::Whole, Some(true), Line::Any, ONCE),
    point(UNSEAL_BEFORE_COMMIT, Kind::Seal, None, Line::Any, (1, 1, 5)),
    point(UNSEAL_AFTER_COMMIT, Kind::Seal, None, Line::Any, (1, 1, 5)),
    point(UNSEAL_BEFORE_LINE, Kind::Seal, None, Line::Any, (1, 1, 5)),
    point(UNSEAL_AFTER_LINE, Kind::Seal, None, Line::Any, (1, 1, 5)),
    point(AUDIT_BEFORE_WRITE, Kind::Whole, None, Line::Any, WRITES),
    point(AUDIT_AFTER_WRITE, Kind::Whole, None, Line::Any, WRITES),
    point(AUDIT_AFTER_SYNC, Kind::Whole, None, Line::Any, SYNCS),
    point(AUDIT_BEFORE_ROTATE, Kind::Rotate, None, Line::Any, (1, 1, 3)),
    point(AUDIT_EMPTY_FILE, Kind::Rotate, None, Line::Any, (1, 1, 3)),
];

/// The points that end a server here.
pub fn points() -> impl Iterator<Item = &'static str> {
    MET.iter().map(|point| point.name)
}

/// One death.
#[derive(Debug, Clone)]
struct Case {
    point: Point,
    hit: u64,
    /// The client goes on asking until the server is back, with the nonce that it had. Otherwise it dies too.
    patient: bool,
    /// The server dies a second time, when it is unsealed, at this point.
    again: Option<&'static str>,
    /// Everything is done once more in the end.
    goes_on: bool,
}

impl Case {
    /// A client that asks again must have been told in the end.
    fn fate(&self) -> Fate {
        if self.patient { None } else { self.point.fate }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (place, point) in MET.iter().enumerate() {
        let (first, step, count) = if long() && point.hits.2 == RUNS { (1, 1, 3 * RUNS) } else { point.hits };
        for run in 0..if long() { 3 * RUNS } else { RUNS } {
            let hit = first + step * (run % count);
            let turn = usize::try_from(run).unwrap();
            let again = (run % 2 == 0).then(|| AGAIN[turn / 2 % AGAIN.len()]);
            let both = if long() { vec![false, true] } else { vec![(turn / 2 + turn + place) % 2 == 1] };
            let goes_on = long() || turn / 2 % 2 == 0;
            cases.extend(both.into_iter().map(|patient| Case { point: *point, hit, patient, again, goes_on }));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_killed_at_any_point_loses_nothing_it_acknowledged() {
    many(cases(), |case| async move { one(&case).await }).await;
}

async fn one(case: &Case) {
    let admins: Vec<Person> = ["ann", "ben", "cleo"].into_iter().map(Person::new).collect();
    let mut server = tokio::task::spawn_blocking({
        let records: Vec<_> = admins.iter().map(|admin| bulla_wire::json::to_vec(&admin.record)).collect();
        let chosen = format!("{}:{}", case.point.name, case.hit);
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
                let Died = work.go(case.point.kind).await;
            } else {
                tokio::select! { Died = work.go(case.point.kind) => {}, () = until(&work.died) => {} }
            }
            ended.send(true).unwrap();
        },
        async {
            server = match case.point.kind {
                Kind::Rotate => death_while_rotating(server, case.point.name).await,
                _ => death(server, case.point.name).await,
            };
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
    if case.goes_on {
        // Everything goes on as if nothing had been.
        work.died.store(false, Ordering::SeqCst);
        work.ledger().forgive();
        work.complete().await.unwrap();
        work.round(LAST).await.unwrap();
        happened.extend(check::effects(&work, None).await);
    }
    let line = if case.patient { Line::Any } else { case.point.line };
    tokio::task::spawn_blocking(move || {
        assert_eq!(server.stop().code(), Some(0), "{}", server.log());
        check::audit(&server, &work, &happened, line);
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

/// The same, while somebody moves the newest audit file away again and again, as logrotate does, so that the server
/// begins another. In the end all of them are put back.
async fn death_while_rotating(server: Server, point: &'static str) -> Server {
    let (pid, audit) = (server.ready().pid, server.audit());
    let dead = AtomicBool::new(false);
    let death = async {
        let server = death(server, point).await;
        dead.store(true, Ordering::SeqCst);
        server
    };
    let rotation = async {
        let mut moved = Vec::new();
        while !dead.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let newest = check::audit_files(&audit).pop().expect("an audit file");
            if std::fs::metadata(&newest).unwrap().len() > 0 {
                let aside = newest.with_extension("moved");
                std::fs::rename(&newest, &aside).unwrap();
                process::signal_id(pid, Signal::HUP);
                moved.push((aside, newest));
            }
            // The next file shows that the server heard of it.
            while check::audit_files(&audit).is_empty() && !dead.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        for (aside, place) in moved {
            std::fs::rename(aside, place).unwrap();
        }
    };
    tokio::join!(death, rotation).0
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
    if matches!(case.point.name, INIT_BEFORE_COMMIT | INIT_AFTER_COMMIT | INIT_BEFORE_ANSWER) && !case.patient {
        assert_eq!(Some(work.health().await.cluster.is_some()), case.point.fate, "the cluster");
    }
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
        // Asked for before the state is: the patient client may be told of its cluster at any moment.
        let acknowledged = work.ledger().cluster;
        let health = work.health().await;
        if let Some(cluster) = health.cluster {
            assert_eq!(health.state, SealState::Sealed);
            let known = work.ledger().cluster.replace(cluster);
            assert!(known.is_none_or(|known| known == cluster), "another cluster than the acknowledged one");
            return;
        }
        assert_eq!(health.state, SealState::Uninitialised);
        assert!(acknowledged.is_none(), "the cluster was acknowledged and is gone");
        if patient {
            tokio::time::sleep(Duration::from_millis(50)).await;
        } else {
            let view = work.founder().init(&work.init_body()).await.unwrap();
            work.ledger().cluster = Some(view.id());
        }
    }
    panic!("the client that asked for a cluster gave up");
}
