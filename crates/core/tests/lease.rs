//! Leases without IO: thousands of schedules by seed, in which requests, time and a database that is away get in each
//! other's way and everything may die between intent, effect and word. Whatever happens, each lease has one entry, each
//! user has a lease, and in the end no user is left.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(dead_code, reason = "the world serves several test programs")]

mod wrap_world;

use bulla_core::action::RoleName;
use bulla_core::audit::{Demanded, Names};
use bulla_core::barrier::{Cursor, Kind, Query, RecordKey, Records, Writes};
use bulla_core::directory::{Change, Principal};
use bulla_core::engine::database::{
    Authority, BeginRotation, Configure, Connection, Delete, DeleteRole, EndRotation, Password, PutRole,
    Read as ReadDatabase, ReadAuthority, Release, Role,
};
use bulla_core::engine::lease::{
    self, Activate, Begin, Begun, Demand, Doubt, Ended, Failed, Lease, ListAll, Mark, OVERDUE_MS, PENDING_MS,
    PlanRenewal, Renewal, Renewed, Revoke, State, Take, Taken, Unheard, Which, demands,
};
use bulla_core::engine::principal;
use bulla_core::operation::{Operation, Replay, Reply};
use bulla_crypto::random::{SeededRng, draw};
use bulla_wire::api::{
    CertificateCredentials, DatabaseAuthority, DatabaseEngine, DatabaseTls, Leases, PutDatabase, PutDatabaseRole,
    RevokeLeases,
};
use bulla_wire::error::Code;
use bulla_wire::id::{LeaseId, PrincipalId};
use bulla_wire::name::Name;
use std::collections::{BTreeMap, BTreeSet};
use wrap_world::*;

const OWNERS: [&str; 2] = ["alice", "bob"];
const EACH: u64 = 5;
const TTL_S: u64 = 600;
const MAX_TTL_S: u64 = 3600;

fn seeds(count: u64) -> std::ops::Range<u64> {
    let long = std::env::var_os("BULLA_TEST_LONG").is_some_and(|value| value == "1");
    0..if long { 100 * count } else { count }
}

fn app() -> Name {
    "app".parse().unwrap()
}

fn role() -> RoleName {
    "app/reader".parse().unwrap()
}

fn reached() -> PutDatabase {
    PutDatabase {
        engine: DatabaseEngine::Postgres,
        host: "db.example".into(),
        port: 5432,
        database: None,
        user: "root".into(),
        password: "secret".into(),
        owner: None,
        tls: DatabaseTls::Verify,
        ca: None,
        connections: 4,
        check: false,
        moved: false,
    }
}

/// A world with a database, whose users are the ones named here.
struct Scene {
    world: World,
    users: BTreeSet<String>,
    rng: SeededRng,
}

fn secret<T: serde::de::DeserializeOwned>(answered: &Answered) -> Option<T> {
    match &answered.result {
        Ok(Reply::Secret(bytes)) => Some(serde_json::from_slice(bytes.expose()).unwrap()),
        Ok(other) => panic!("expected a secret, got {other:?}"),
        Err(_) => None,
    }
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let connection = Connection::new(app(), reached(), START_MS).unwrap();
        world.run(Box::new(Configure { connection, moved: false }), Some("alice")).result.unwrap();
        world
            .run(Box::new(PutRole { role: role(), body: plain_role(), authority: None }), Some("alice"))
            .result
            .unwrap();
        Self { world, users: BTreeSet::new(), rng: SeededRng::from_u64(seed ^ 0xdb) }
    }

    fn chance(&mut self, one_in: u8) -> bool {
        draw::<1>(&mut self.rng)[0].is_multiple_of(one_in)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(draw::<1>(&mut self.rng)[0]) % limit
    }

    fn run(&mut self, op: impl Operation + 'static, who: Option<&str>) -> Answered {
        self.world.run(Box::new(op), who)
    }

    fn scan(&self, query: &Query) -> Records {
        self.world.read(std::slice::from_ref(query))
    }

    fn leases(&self) -> Vec<Lease> {
        let query = Query::Scan { kind: Kind::Lease, dir: vec![], after: None, limit: 1000 };
        let records = self.scan(&query);
        let page = records.page(&query).unwrap().0;
        page.iter().map(|record| serde_json::from_slice(record.bytes.expose()).unwrap()).collect()
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let query = lease::scan(&app(), None, 1000);
        self.scan(&query).page(&query).unwrap().0.iter().map(|record| record.cursor.as_bytes().to_vec()).collect()
    }

    /// What holds between any two steps.
    fn check(&self, seed: u64) {
        let leases = self.leases();
        let mut due: Vec<Vec<u8>> =
            leases.iter().map(|lease| [&lease.due_ms.to_be_bytes()[..], lease.id.as_bytes()].concat()).collect();
        due.sort();
        assert_eq!(due, self.entries(), "seed {seed}: each lease has one entry");
        let named: BTreeSet<&String> = leases.iter().map(|lease| &lease.user).collect();
        assert!(self.users.iter().all(|user| named.contains(user)), "seed {seed}: a user without a lease");
        let mut counts: BTreeMap<PrincipalId, u64> = BTreeMap::new();
        leases.iter().for_each(|lease| *counts.entry(lease.owner).or_default() += 1);
        for name in OWNERS {
            let owner = self.world.id(name);
            let query =
                Query::Scan { kind: Kind::LeaseOwner, dir: owner.as_bytes().to_vec(), after: None, limit: 1000 };
            let listed = self.scan(&query).page(&query).unwrap().0.len() as u64;
            let count = counts.get(&owner).copied().unwrap_or_default();
            assert_eq!(listed, count, "seed {seed}: {name}'s list");
            assert!(count <= EACH, "seed {seed}: {name} has {count}");
        }
    }

    /// A request for a user, which may die anywhere, and whose database may refuse or be away.
    fn issue(&mut self) {
        let owner = OWNERS[self.below(2)];
        let id = LeaseId::new(draw(&mut self.rng));
        let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: EACH };
        let answered = self.run(begin.clone(), Some(owner));
        let Some(begun) = secret::<Begun>(&answered) else {
            assert_eq!(answered.code(), Some(Code::TooManyLeases));
            return;
        };
        assert!(begun.fresh && begun.lease.state == State::Pending);
        let lease = begun.lease.clone();
        match self.below(6) {
            // It dies before the effect, or the database was not reached.
            0 => {}
            1 => drop(self.run(Ended { id }, Some(owner))),
            // The database refused, or nobody knows.
            2 => drop(self.run(Doubt { lease, error: "refused".into(), answered: true }, Some(owner))),
            3 => {
                if self.chance(2) {
                    self.users.insert(begun.lease.user);
                }
                drop(self.run(Doubt { lease, error: "silent".into(), answered: false }, Some(owner)));
            }
            // It dies after the effect.
            4 => drop(self.users.insert(begun.lease.user)),
            _ => {
                self.users.insert(begun.lease.user.clone());
                let made = self.run(Activate { lease: lease.clone() }, Some(owner));
                let first = secret::<bulla_wire::api::Credentials>(&made).unwrap();
                // The same request again finds the same user.
                self.world.repeated = Some(Replay::Again);
                let again = secret::<Begun>(&self.run(begin, Some(owner))).unwrap();
                self.world.repeated = None;
                assert!(!again.fresh);
                let again = secret::<bulla_wire::api::Credentials>(&self.run(Activate { lease }, Some(owner))).unwrap();
                assert_eq!(first, again);
            }
        }
    }

    fn some(&mut self) -> Option<Lease> {
        let leases = self.leases();
        if leases.is_empty() { None } else { Some(leases[self.below(leases.len())].clone()) }
    }

    fn renew(&mut self) {
        let Some(lease) = self.some() else { return };
        let owner = OWNERS[self.below(2)];
        let planned = self.run(PlanRenewal { id: lease.id, ttl_s: None }, Some(owner));
        let own = lease.owner == self.world.id(owner);
        let Some(Renewal { expires_ms, .. }) = secret(&planned) else {
            assert!(matches!(planned.code(), Some(Code::NotFound | Code::Expired)));
            return;
        };
        assert!(own && expires_ms <= lease.max_ms);
        // Somebody revokes it while the database is asked.
        if self.chance(3) {
            self.run(Revoke { id: lease.id }, Some(owner)).result.unwrap();
            let late = self.run(Renewed { id: lease.id, expires_ms }, Some(owner));
            assert_eq!(late.code(), Some(Code::Expired), "what is being revoked is not renewed");
        } else {
            self.run(Renewed { id: lease.id, expires_ms }, Some(owner)).result.unwrap();
        }
    }

    fn revoke(&mut self) {
        let Some(lease) = self.some() else { return };
        let owner = OWNERS[self.below(2)];
        let answered = self.run(Revoke { id: lease.id }, Some(owner));
        assert_eq!(answered.result.is_ok(), lease.owner == self.world.id(owner), "only its owner ends it");
    }

    fn demand(&mut self) {
        let demand = match self.below(4) {
            0 => Which::All,
            1 => Which::Principal(self.world.id("bob")),
            2 => Which::Resource("database/app".into()),
            _ => Which::Resource("database/ap".into()),
        };
        self.run(Demand::Many(demand), Some("alice")).result.unwrap();
    }

    /// One look of the server at what is due.
    fn look(&mut self, up: bool) {
        let query = demands(16);
        let records = self.scan(&query);
        let marks: Vec<Mark> =
            records.page(&query).unwrap().0.iter().map(|record| Mark::parse(&record.bytes).unwrap()).collect();
        for mark in marks {
            self.run(mark, None).result.unwrap();
        }
        let query = lease::scan(&app(), None, 64);
        let records = self.scan(&query);
        let due = Take::due(&app(), records.page(&query).unwrap().0, self.world.now);
        for take in due {
            let Some(Taken { lease: Some(lease), connection: Some(_), .. }) = secret(&self.run(take, None)) else {
                continue;
            };
            assert!(matches!(lease.state, State::Revoking { .. }));
            // It dies before the effect, or after it.
            if self.chance(8) {
                return;
            }
            if !up {
                self.run(Failed { id: lease.id, error: "away".into() }, None).result.unwrap();
                continue;
            }
            self.users.remove(&lease.user);
            if self.chance(8) {
                return;
            }
            self.run(Ended { id: lease.id }, None).result.unwrap();
        }
    }
}

#[test]
fn in_the_end_no_user_is_left() {
    for seed in seeds(300) {
        let mut scene = Scene::new(seed);
        for _ in 0..60 {
            match scene.below(10) {
                0..4 => scene.issue(),
                4 => scene.renew(),
                5 => scene.revoke(),
                6 if scene.chance(3) => scene.demand(),
                7 => {
                    let ms = u64::from(u16::from_be_bytes(draw(&mut scene.rng))) * 8;
                    scene.world.pass(ms);
                }
                _ => {
                    let up = scene.chance(2);
                    scene.look(up);
                }
            }
            scene.check(seed);
        }
        // Nobody asks for more, and the database is there.
        scene.world.pass(MAX_TTL_S * 1000 + PENDING_MS);
        for _ in 0..200 {
            scene.look(true);
            scene.check(seed);
            scene.world.pass(1000);
        }
        assert!(scene.users.is_empty() && scene.leases().is_empty(), "seed {seed}: {:?}", scene.leases());
        let left = (scene.world.count(Kind::LeaseOwner), scene.world.count(Kind::LeaseDue));
        assert_eq!(left, (0, 0), "seed {seed}: neither entries nor counts are left");
    }
}

/// Begins a lease and makes it run.
fn active(scene: &mut Scene, owner: &str) -> Lease {
    let id = LeaseId::new(draw(&mut scene.rng));
    let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: 1000 };
    let begun: Begun = secret(&scene.run(begin, Some(owner))).unwrap();
    scene.run(Activate { lease: begun.lease.clone() }, Some(owner)).result.unwrap();
    begun.lease
}

/// Works off all demands; in how many commits.
fn mark_all(scene: &mut Scene) -> usize {
    let mut pages = 0;
    loop {
        let query = demands(16);
        let records = scene.scan(&query);
        let Some(record) = records.page(&query).unwrap().0.first() else { return pages };
        let mark = Mark::parse(&record.bytes).unwrap();
        scene.run(mark, None).result.unwrap();
        pages += 1;
    }
}

fn running(scene: &Scene) -> Vec<LeaseId> {
    let leases = scene.leases().into_iter();
    leases.filter(|lease| lease.state == State::Active).map(|lease| lease.id).collect()
}

/// A demand marks what is there, page by page, whatever the clock said when that began.
#[test]
fn a_demand_marks_what_is_there() {
    let mut scene = Scene::new(1);
    for _ in 0..150 {
        active(&mut scene, "bob");
    }
    scene.world.now.steady_ms -= DAY_MS;
    let demand = Demand::new(RevokeLeases::resource("database/app/reader")).unwrap();
    scene.run(demand, Some("alice")).result.unwrap();
    assert_eq!(mark_all(&mut scene), 4, "a page has a bounded number of leases");
    assert_eq!(running(&scene), []);
    let later = active(&mut scene, "bob");
    assert_eq!(mark_all(&mut scene), 0);
    assert_eq!(running(&scene), [later.id]);
    let one = RevokeLeases::resource("database/app");
    assert_eq!(Demand::new(one.clone()), Ok(Demand::Many(Which::Resource("database/app".into()))));
    for bad in [RevokeLeases::default(), RevokeLeases { all: true, ..one }] {
        assert_eq!(Demand::new(bad).unwrap_err().code, Code::Malformed);
    }
    for bad in ["kv/app", "database/", "database/app/", "database/app/reader/x", "Database/app", ""] {
        assert_eq!(Demand::new(RevokeLeases::resource(bad)).unwrap_err().code, Code::Malformed, "{bad}");
    }
}

/// The longest statements that a role may have, in the longest spelling of a record: a page ends before a commit is too
/// large for the store.
#[test]
fn a_page_of_a_demand_ends_by_bytes() {
    let mut scene = Scene::new(3);
    let longest = |text: &str| vec![format!("{text} {{{{name}}}} '{}'", "\"".repeat(4090 - text.len() - 9))];
    let body = PutDatabaseRole {
        creation: vec!["CREATE ROLE {{name}}".into()],
        revocation: longest("DROP"),
        renewal: longest("ALTER"),
        ttl_s: TTL_S,
        max_ttl_s: MAX_TTL_S,
        certificate: false,
    };
    scene.run(PutRole { role: role(), body, authority: None }, Some("alice")).result.unwrap();
    for _ in 0..96 {
        active(&mut scene, "bob");
    }
    scene.run(Demand::Many(Which::All), Some("alice")).result.unwrap();
    assert_eq!(mark_all(&mut scene), 3);
    assert_eq!(running(&scene), []);
}

/// As the directory has it, and no operation did it.
fn bob_is_disabled(scene: &mut Scene) {
    let mut stored = Principal::founder(&scene.world.people["bob"].record, vec![]);
    stored.disabled = true;
    scene.world.directory = scene.world.directory.with(Change::Principal(Box::new(stored))).unwrap();
}

/// Whoever is not heard any more keeps nothing.
#[test]
fn leases_of_the_unheard_end() {
    let mut scene = Scene::new(4);
    let (bobs, alices) = (active(&mut scene, "bob"), active(&mut scene, "alice"));
    let bob = scene.world.id("bob");
    scene.run(Unheard { principal: bob }, None).result.unwrap();
    assert_eq!(mark_all(&mut scene), 0, "he is heard");
    bob_is_disabled(&mut scene);
    scene.run(Unheard { principal: bob }, None).result.unwrap();
    assert_eq!(mark_all(&mut scene), 1);
    assert_eq!(running(&scene), [alices.id]);
    let late = scene.run(Activate { lease: bobs }, Some("bob"));
    assert_eq!(late.code(), Some(Code::Revoked));
}

/// A process that stood still while its lease was given up makes the user all the same: the lease is there again, and
/// drops it.
#[test]
fn a_user_who_comes_late_has_a_lease_again() {
    for silent in [false, true] {
        let mut scene = Scene::new(5);
        let id = LeaseId::new([7; 16]);
        let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: EACH };
        let lease = secret::<Begun>(&scene.run(begin, Some("bob"))).unwrap().lease;
        scene.world.pass(PENDING_MS + 1);
        scene.look(true);
        scene.look(true);
        assert!(scene.leases().is_empty());
        scene.users.insert(lease.user.clone());
        if silent {
            let doubt = Doubt { lease, error: "silent".into(), answered: false };
            scene.run(doubt, Some("bob")).result.unwrap();
        } else {
            assert_eq!(scene.run(Activate { lease }, Some("bob")).code(), Some(Code::Revoked));
        }
        scene.check(0);
        scene.world.pass(PENDING_MS + 1);
        for _ in 0..20 {
            scene.look(true);
        }
        assert!(scene.users.is_empty() && scene.leases().is_empty());
    }
}

fn configured(change: impl FnOnce(&mut PutDatabase)) -> Connection {
    let mut put = reached();
    change(&mut put);
    Connection::new(app(), put, START_MS).unwrap()
}

/// At another server no user is there, which must not count as dropped.
#[test]
fn leases_stay_with_their_server() {
    let mut scene = Scene::new(6);
    let lease = active(&mut scene, "bob");
    let moved = configured(|put| put.host = "db2.example".into());
    let refused = scene.run(Configure { connection: moved.clone(), moved: false }, Some("alice"));
    assert_eq!(refused.code(), Some(Code::Exists));
    // It is the same server, says whoever configures it.
    scene.run(Configure { connection: moved, moved: true }, Some("alice")).result.unwrap();
    scene.run(Revoke { id: lease.id }, Some("bob")).result.unwrap();
    let take = |scene: &mut Scene| {
        let query = lease::scan(&app(), None, 64);
        let records = scene.scan(&query);
        let take = Take::due(&app(), records.page(&query).unwrap().0, scene.world.now).remove(0);
        secret::<Taken>(&scene.run(take, None)).unwrap()
    };
    assert!(take(&mut scene).lease.is_some());
    scene.run(Ended { id: lease.id }, None).result.unwrap();
    // A lease that began just before the address changed knows where its user is.
    let id = LeaseId::new([7; 16]);
    let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: EACH };
    scene.run(begin, Some("bob")).result.unwrap();
    let mut elsewhere = scene.leases().remove(0);
    elsewhere.address = "db3.example:5432".into();
    let mut writes = Writes::default();
    writes.put(RecordKey::clear(Kind::Lease, "", *id.as_bytes()), bulla_wire::json::to_vec(&elsewhere));
    let batch = scene.world.barrier.batch(&writes, &mut scene.rng).unwrap();
    assert!(scene.world.commit(batch));
    scene.run(Revoke { id }, Some("bob")).result.unwrap();
    scene.world.pass(PENDING_MS);
    assert!(take(&mut scene).lease.is_none(), "nothing is dropped");
    let view = scene.leases().remove(0).view(scene.world.now);
    assert_eq!(view.attempts, 1);
    assert!(view.error.unwrap().contains("db3.example:5432"));
}

/// What a rotation may have set is tried until it is known, whatever is configured meanwhile.
#[test]
fn a_rotation_survives_a_configuration() {
    let mut scene = Scene::new(7);
    let begun: Connection = secret(&scene.run(BeginRotation { name: app() }, Some("alice"))).unwrap();
    let next = begun.next.unwrap();
    let older = EndRotation { name: app(), password: Password::new("older".into()) };
    assert_eq!(scene.run(older, Some("alice")).code(), Some(Code::VersionMismatch));
    let anew = configured(|put| put.password = "typed".into());
    scene.run(Configure { connection: anew, moved: false }, Some("alice")).result.unwrap();
    let again: Connection = secret(&scene.run(BeginRotation { name: app() }, Some("alice"))).unwrap();
    assert_eq!((again.password.expose(), again.next.as_ref()), ("typed", Some(&next)));
    scene.run(EndRotation { name: app(), password: next.clone() }, Some("alice")).result.unwrap();
    let view: bulla_wire::api::Database = scene.run(ReadDatabase { name: app() }, Some("alice")).json();
    assert!(!view.rotating && view.rotated_ms.is_some());
    // Of another user it is not the password; the rotation does not say that all is well.
    scene.run(BeginRotation { name: app() }, Some("alice")).result.unwrap();
    let other = configured(|put| put.user = "other".into());
    scene.run(Configure { connection: other, moved: false }, Some("alice")).result.unwrap();
    let ended = scene.run(EndRotation { name: app(), password: next }, Some("alice"));
    assert_eq!(ended.code(), Some(Code::VersionMismatch));
    // Nor does one lock out who else is that user.
    let twin = Connection { name: "twin".parse().unwrap(), ..configured(|put| put.user = "other".into()) };
    scene.run(Configure { connection: twin, moved: false }, Some("alice")).result.unwrap();
    assert_eq!(scene.run(BeginRotation { name: app() }, Some("alice")).code(), Some(Code::Exists));
}

/// After a restore nothing is made, kept or dropped until somebody releases the database.
#[test]
fn a_restore_parks_databases() {
    let mut scene = Scene::new(8);
    let lease = active(&mut scene, "bob");
    scene.world.losses = 1;
    let id = LeaseId::new([7; 16]);
    let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: EACH };
    assert_eq!(scene.run(begin.clone(), Some("bob")).code(), Some(Code::Parked));
    let renew = PlanRenewal { id: lease.id, ttl_s: None };
    assert_eq!(scene.run(renew, Some("bob")).code(), Some(Code::Parked));
    assert_eq!(scene.run(BeginRotation { name: app() }, Some("alice")).code(), Some(Code::Parked));
    scene.users.insert(lease.user);
    scene.world.pass(TTL_S * 1000);
    scene.look(true);
    assert_eq!(scene.users.len(), 1, "nothing is dropped");
    let view: bulla_wire::api::Database = scene.run(ReadDatabase { name: app() }, Some("alice")).json();
    assert!(view.parked);
    let stuck = ListAll { resource: None, principal: None, stuck: true, after: None, limit: 10 };
    assert!(scene.run(stuck.clone(), Some("alice")).json::<Leases>().leases.is_empty());
    scene.world.pass(OVERDUE_MS);
    assert!(scene.run(stuck.clone(), Some("alice")).json::<Leases>().leases.is_empty(), "not more than a minute");
    scene.world.pass(1);
    assert_eq!(scene.run(stuck, Some("alice")).json::<Leases>().leases.len(), 1, "it is overdue");
    scene.run(Release { name: app() }, Some("alice")).result.unwrap();
    for _ in 0..20 {
        scene.look(true);
    }
    assert!(scene.users.is_empty());
    scene.run(begin, Some("bob")).result.unwrap();
}

/// The waits grow to five minutes, and from six failures on a lease is stuck.
#[test]
fn waits_grow_to_a_limit() {
    let mut scene = Scene::new(2);
    let id = active(&mut scene, "bob").id;
    scene.run(Revoke { id }, Some("bob")).result.unwrap();
    let mut waits = Vec::new();
    for _ in 0..12 {
        scene.run(Failed { id, error: "away".into() }, None).result.unwrap();
        let lease = scene.leases().remove(0);
        waits.push((lease.due_ms - scene.world.now.steady_ms) / 1000);
        let stuck = lease.view(scene.world.now).state == bulla_wire::api::LeaseState::Stuck;
        assert_eq!(stuck, waits.len() >= 6, "from six failures on");
        scene.world.now.steady_ms = lease.due_ms;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    let view = scene.leases()[0].view(scene.world.now);
    assert_eq!((view.state, view.attempts), (bulla_wire::api::LeaseState::Stuck, 12));
    assert_eq!(view.error.as_deref(), Some("away"));
}

/// The next entry of a lease, when its time has come.
fn taken(scene: &mut Scene) -> Taken {
    let query = lease::scan(&app(), None, 64);
    let records = scene.scan(&query);
    let take = Take::due(&app(), records.page(&query).unwrap().0, scene.world.now).remove(0);
    secret(&scene.run(take, None)).unwrap()
}

fn put_role(scene: &mut Scene, revocation: &[&str]) {
    let revocation = revocation.iter().map(|text| (*text).to_owned()).collect();
    let body = PutDatabaseRole { revocation, ..plain_role() };
    scene.run(PutRole { role: role(), body, authority: None }, Some("alice")).result.unwrap();
}

/// A mistake in the statements that a lease keeps is put right in the role, and only tried once it was one.
#[test]
fn what_a_role_says_now_is_tried_after_a_failure() {
    let mut scene = Scene::new(10);
    put_role(&mut scene, &["DROP {{name}}"]);
    let id = active(&mut scene, "bob").id;
    put_role(&mut scene, &["DROP ROLE {{name}}"]);
    scene.run(Revoke { id }, Some("bob")).result.unwrap();
    let first = taken(&mut scene);
    assert_eq!(first.lease.unwrap().revocation, ["DROP {{name}}"]);
    assert_eq!(first.corrected, None, "its own are right until they fail");
    for (now, corrected) in [
        (Some(&["DROP ROLE {{name}}"][..]), Some(vec!["DROP ROLE {{name}}".to_owned()])),
        (Some(&[]), Some(vec![])),
        (Some(&["DROP {{name}}"]), None),
        (None, None),
    ] {
        scene.run(Failed { id, error: "syntax".into() }, None).result.unwrap();
        match now {
            Some(now) => put_role(&mut scene, now),
            None => drop(scene.run(DeleteRole { role: role() }, Some("alice")).result.unwrap()),
        }
        scene.world.now.steady_ms = scene.leases()[0].due_ms;
        let next = taken(&mut scene);
        assert_eq!((next.lease.unwrap().revocation, next.corrected), (vec!["DROP {{name}}".to_owned()], corrected));
    }
}

/// Whoever asks again for the end of a lease has what failed tried at once, and nothing before its time.
#[test]
fn what_failed_is_tried_at_once_if_somebody_asks() {
    let mut scene = Scene::new(11);
    let id = active(&mut scene, "bob").id;
    scene.run(Revoke { id }, Some("bob")).result.unwrap();
    for round in 0..9_u8 {
        scene.run(Failed { id, error: "away".into() }, None).result.unwrap();
        assert!(scene.leases()[0].due_ms > scene.world.now.steady_ms);
        match round % 3 {
            0 => drop(scene.run(Revoke { id }, Some("bob")).result.unwrap()),
            1 => drop(scene.run(Demand::One(id), Some("alice")).result.unwrap()),
            _ => {
                scene.run(Demand::Many(Which::All), Some("alice")).result.unwrap();
                mark_all(&mut scene);
            }
        }
        scene.check(11);
        let lease = scene.leases().remove(0);
        assert_eq!(lease.due_ms, scene.world.now.steady_ms);
        assert_eq!(lease.view(scene.world.now).attempts, u32::from(round) + 1, "what failed is remembered");
    }
    scene.run(Ended { id }, None).result.unwrap();
    // Nobody knows whether the user of this one comes into being until then.
    let id = LeaseId::new([7; 16]);
    let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: EACH };
    let lease = secret::<Begun>(&scene.run(begin, Some("bob"))).unwrap().lease;
    scene.run(Doubt { lease, error: "silent".into(), answered: false }, Some("bob")).result.unwrap();
    let due_ms = scene.leases()[0].due_ms;
    scene.run(Revoke { id }, Some("bob")).result.unwrap();
    scene.run(Demand::One(id), Some("alice")).result.unwrap();
    scene.run(Demand::Many(Which::All), Some("alice")).result.unwrap();
    mark_all(&mut scene);
    assert_eq!(scene.leases()[0].due_ms, due_ms);
    assert_eq!(due_ms, scene.world.now.steady_ms + PENDING_MS);
}

/// A user by certificate: the same request finds the same certificate, which nothing makes last longer.
#[test]
fn a_certificate_ends_with_its_lease() {
    let mut scene = Scene::new(9);
    let body = PutDatabaseRole {
        creation: vec!["CREATE ROLE {{name}} LOGIN".into()],
        revocation: vec![],
        renewal: vec![],
        ttl_s: TTL_S,
        max_ttl_s: MAX_TTL_S,
        certificate: true,
    };
    let key = Password::new("key".into());
    let authority = Some(Authority { subject: "s".into(), certificate: "CA".into(), key });
    scene.run(PutRole { role: role(), body, authority }, Some("alice")).result.unwrap();
    let begin =
        |certificate| Begin { id: LeaseId::new([7; 16]), role: role(), ttl_s: None, certificate, leases_each: EACH };
    assert_eq!(scene.run(begin(false), Some("bob")).code(), Some(Code::Malformed));
    let mut begun: Begun = secret(&scene.run(begin(true), Some("bob"))).unwrap();
    assert_eq!(begun.authority.unwrap().certificate, "CA");
    assert!(begun.lease.password.is_none() && begun.lease.max_ms == begun.lease.expires_ms);
    begun.lease.certificate = Some("one".into());
    let activate = Activate { lease: begun.lease.clone() };
    let made: CertificateCredentials = scene.run(activate, Some("bob")).json();
    scene.world.repeated = Some(Replay::Again);
    let mut again: Begun = secret(&scene.run(begin(true), Some("bob"))).unwrap();
    scene.world.repeated = None;
    assert!(!again.fresh && again.authority.is_none());
    again.lease.certificate = Some("another".into());
    let found: CertificateCredentials = scene.run(Activate { lease: again.lease }, Some("bob")).json();
    assert_eq!((found.certificate.as_str(), &found), ("one", &made));
    let renew = PlanRenewal { id: made.lease, ttl_s: None };
    assert_eq!(scene.run(renew, Some("bob")).code(), Some(Code::Malformed));
    let view: DatabaseAuthority = scene.run(ReadAuthority { database: app() }, Some("bob")).json();
    assert_eq!(view.certificate, "CA");
    // MariaDB knows no such users.
    let twin = Connection { name: "twin".parse().unwrap(), ..configured(|put| put.engine = DatabaseEngine::Mariadb) };
    scene.run(Configure { connection: twin, moved: false }, Some("alice")).result.unwrap();
    let body = PutDatabaseRole {
        creation: vec!["CREATE USER {{name}}".into()],
        revocation: vec![],
        renewal: vec![],
        ttl_s: TTL_S,
        max_ttl_s: MAX_TTL_S,
        certificate: true,
    };
    let refused = scene.run(PutRole { role: "twin/x".parse().unwrap(), body, authority: None }, Some("alice"));
    assert_eq!(refused.code(), Some(Code::Malformed));
}

fn plain_role() -> PutDatabaseRole {
    PutDatabaseRole {
        creation: vec!["CREATE ROLE {{name}} PASSWORD {{password}}".into()],
        revocation: vec![],
        renewal: vec![],
        ttl_s: TTL_S,
        max_ttl_s: MAX_TTL_S,
        certificate: false,
    }
}

/// As one that was revoked before.
#[test]
fn what_ends_by_time_elsewhere_is_put_off() {
    let mut scene = Scene::new(12);
    active(&mut scene, "bob");
    // One former address more than are remembered.
    for number in 0..9 {
        let connection = configured(|put| put.host = format!("db{number}.example"));
        scene.run(Configure { connection, moved: true }, Some("alice")).result.unwrap();
    }
    scene.world.pass(TTL_S * 1000);
    assert!(taken(&mut scene).lease.is_none(), "nothing is dropped");
    let lease = scene.leases().remove(0);
    assert!(matches!(lease.state, State::Revoking { attempts: 1, .. }), "{lease:?}");
    assert_eq!(lease.due_ms, scene.world.now.steady_ms + 1000);
    scene.check(12);
}

/// Whoever deletes a database looks again if a role comes meanwhile.
#[test]
fn no_role_outlives_its_database() {
    let mut scene = Scene::new(13);
    scene.run(DeleteRole { role: role() }, Some("alice")).result.unwrap();
    let alice = scene.world.actor("alice");
    let mut task = Task::new(Box::new(Delete { name: app() }), Some(alice));
    task.decide(&mut scene.world);
    let put = PutRole { role: role(), body: plain_role(), authority: None };
    scene.run(put, Some("alice")).result.unwrap();
    assert_eq!(task.finish(&mut scene.world).code(), Some(Code::Exists));
}

#[test]
fn a_lease_lasts_as_its_role_allows_and_has_a_user_of_its_own() {
    let mut scene = Scene::new(14);
    let begin = |scene: &mut Scene, ttl_s, certificate| {
        let id = LeaseId::new(draw(&mut scene.rng));
        scene.run(Begin { id, role: role(), ttl_s, certificate, leases_each: EACH }, Some("bob"))
    };
    for bad in [0, MAX_TTL_S + 1, u64::MAX] {
        let refusal = begin(&mut scene, Some(bad), false).result.unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_deref()), (Code::Malformed, Some("ttl_s")), "{bad}");
    }
    let refusal = begin(&mut scene, None, true).result.unwrap_err();
    assert_eq!((refusal.code, refusal.field.as_deref()), (Code::Malformed, Some("role")), "by a password alone");
    assert!(scene.leases().is_empty());
    let now_ms = scene.world.now.steady_ms;
    for (ttl_s, lasts_s) in [(None, TTL_S), (Some(1), 1), (Some(MAX_TTL_S), MAX_TTL_S)] {
        let lease = secret::<Begun>(&begin(&mut scene, ttl_s, false)).unwrap().lease;
        let times = (lease.issued_ms, lease.ttl_ms, lease.expires_ms);
        assert_eq!(times, (now_ms, lasts_s * 1000, now_ms + lasts_s * 1000));
        assert_eq!((lease.max_ms, lease.due_ms), (now_ms + MAX_TTL_S * 1000, now_ms + PENDING_MS));
    }
    let users: BTreeSet<String> = scene.leases().into_iter().map(|lease| lease.user).collect();
    assert_eq!(users.len(), 3, "no two have one name");
    assert!(users.iter().all(|user| user.starts_with("bulla_reader_") && user.len() == 29), "{users:?}");
    // The longest name that MySQL takes whole.
    let long: RoleName = "app/Billing-Reports".parse().unwrap();
    let put = PutRole { role: long.clone(), body: plain_role(), authority: None };
    scene.run(put, Some("alice")).result.unwrap();
    let id = LeaseId::new([7; 16]);
    let begin = Begin { id, role: long, ttl_s: None, certificate: false, leases_each: EACH };
    let user = secret::<Begun>(&scene.run(begin, Some("bob"))).unwrap().lease.user;
    assert!(user.starts_with("bulla_billingr_") && user.len() <= 32, "{user}");
}

/// A request whose lease has ended makes no second user when it comes again.
#[test]
fn a_repeated_request_begins_nothing_anew() {
    let mut scene = Scene::new(15);
    let id = LeaseId::new([7; 16]);
    let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: EACH };
    scene.run(begin.clone(), Some("bob")).result.unwrap();
    scene.run(Ended { id }, Some("bob")).result.unwrap();
    scene.world.repeated = Some(Replay::Again);
    assert_eq!(scene.run(begin, Some("bob")).code(), Some(Code::NonceExpired));
    assert!(scene.leases().is_empty());
}

/// Whoever is refused, or whose lease is revoked, while its user is made, is told nothing.
#[test]
fn what_is_made_meanwhile_is_not_told() {
    for unheard in [true, false] {
        let mut scene = Scene::new(16);
        let id = LeaseId::new([7; 16]);
        let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: EACH };
        let lease = secret::<Begun>(&scene.run(begin, Some("bob"))).unwrap().lease;
        if unheard {
            bob_is_disabled(&mut scene);
        } else {
            scene.run(Revoke { id }, Some("bob")).result.unwrap();
        }
        assert_eq!(scene.run(Activate { lease }, Some("bob")).code(), Some(Code::Revoked));
        let lease = scene.leases().remove(0);
        assert_eq!((lease.state == State::Pending, lease.password.is_some()), (unheard, unheard));
        assert_eq!(lease.due_ms, scene.world.now.steady_ms + PENDING_MS, "its user may still come into being");
    }
}

#[test]
fn doubt_waits_unless_the_database_answered() {
    for (lost, answered) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut scene = Scene::new(17);
        let id = LeaseId::new([7; 16]);
        let begin = Begin { id, role: role(), ttl_s: None, certificate: false, leases_each: EACH };
        let lease = secret::<Begun>(&scene.run(begin, Some("bob"))).unwrap().lease;
        scene.world.pass(1000);
        if lost {
            scene.run(Ended { id }, Some("bob")).result.unwrap();
        }
        let begun_ms = lease.issued_ms;
        scene.run(Doubt { lease, error: "no".into(), answered }, Some("bob")).result.unwrap();
        let lease = scene.leases().remove(0);
        let now_ms = scene.world.now.steady_ms;
        let due_ms = match (lost, answered) {
            (_, true) => now_ms,
            (false, false) => begun_ms + PENDING_MS,
            (true, false) => now_ms + PENDING_MS,
        };
        assert_eq!(lease.due_ms, due_ms, "{lost} {answered}");
        assert_eq!(lease.state, State::Revoking { attempts: 0, error: Some("no".into()) });
        assert!(lease.password.is_none());
        scene.check(17);
    }
}

/// Whoever is disabled keeps nothing, not what begins at that moment either.
#[test]
fn leases_of_the_disabled_end() {
    let disable = || principal::SetDisabled { name: "bob".parse().unwrap(), disabled: true };
    let with_bob = |seed| {
        let mut scene = Scene::new(seed);
        let record = scene.world.people["bob"].record.clone();
        let stored = Principal::founder(&record, vec![]);
        scene.world.write(|writes| principal::found(writes, &stored, [&record]));
        scene
    };
    let mut scene = with_bob(18);
    active(&mut scene, "bob");
    let alices = active(&mut scene, "alice");
    scene.run(disable(), Some("alice")).result.unwrap();
    assert_eq!(mark_all(&mut scene), 1);
    assert_eq!(running(&scene), [alices.id]);
    let enable = principal::SetDisabled { disabled: false, ..disable() };
    scene.run(enable, Some("alice")).result.unwrap();
    assert_eq!(mark_all(&mut scene), 0);

    let mut scene = with_bob(19);
    let alice = scene.world.actor("alice");
    let mut task = Task::new(Box::new(disable()), Some(alice));
    task.decide(&mut scene.world);
    active(&mut scene, "bob");
    task.finish(&mut scene.world);
    assert_eq!(mark_all(&mut scene), 1);
    assert_eq!(running(&scene), []);
}

#[test]
fn a_resource_is_that_and_what_lies_below_it() {
    let mut scene = Scene::new(20);
    let (bobs, alices) = (active(&mut scene, "bob"), active(&mut scene, "alice"));
    let listed = |scene: &mut Scene, resource: Option<&str>, principal| {
        let resource = resource.map(str::to_owned);
        let all = ListAll { resource, principal, stuck: false, after: None, limit: 10 };
        let leases = scene.run(all, Some("alice")).json::<Leases>().leases;
        leases.into_iter().map(|lease| lease.id).collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from([bobs.id, alices.id]);
    for whole in ["database", "database/app", "database/app/reader"] {
        assert_eq!(listed(&mut scene, Some(whole), None), both, "{whole}");
    }
    for part in ["database/ap", "database/app/read", "database/twin"] {
        assert!(listed(&mut scene, Some(part), None).is_empty(), "{part}");
        scene.run(Demand::Many(Which::Resource(part.into())), Some("alice")).result.unwrap();
    }
    mark_all(&mut scene);
    assert_eq!(running(&scene).len(), 2);
    let bob = scene.world.id("bob");
    assert_eq!(listed(&mut scene, None, Some(bob)), BTreeSet::from([bobs.id]));
    assert_eq!(Demand::new(RevokeLeases::lease(bobs.id)), Ok(Demand::One(bobs.id)));
    assert_eq!(Demand::new(RevokeLeases::principal(bob)), Ok(Demand::Many(Which::Principal(bob))));
    assert_eq!(Demand::new(RevokeLeases::all()), Ok(Demand::Many(Which::All)));
    scene.run(Demand::Many(Which::Resource("database/app".into())), Some("alice")).result.unwrap();
    mark_all(&mut scene);
    assert_eq!(running(&scene), []);
}

#[test]
fn leases_are_shown_to_their_owner() {
    let mut scene = Scene::new(21);
    let mine: BTreeSet<LeaseId> = (0..3).map(|_| active(&mut scene, "bob").id).collect();
    let alices = active(&mut scene, "alice").id;
    assert_eq!(scene.run(lease::Read { id: alices }, Some("bob")).code(), Some(Code::NotFound));
    let shown: bulla_wire::api::Lease = scene.run(lease::Read { id: alices }, Some("alice")).json();
    assert_eq!((shown.id, shown.owner), (alices, scene.world.id("alice")));
    let (mut after, mut seen, mut pages) = (None, BTreeSet::new(), 0);
    loop {
        let page: Leases = scene.run(lease::List { after, limit: 2 }, Some("bob")).json();
        seen.extend(page.leases.iter().map(|lease| lease.id));
        pages += 1;
        let Some(next) = page.next else { break };
        after = Cursor::parse(&next);
    }
    assert_eq!((seen, pages), (mine, 2));
}

#[test]
fn a_place_is_due_from_its_time_on() {
    let now = Scene::new(22).world.now;
    let place = |ms: u64| Cursor::after_clear([&ms.to_be_bytes()[..], &[7_u8; 16][..]].concat());
    assert!(lease::is_due(&place(now.steady_ms), now) && !lease::is_due(&place(now.steady_ms + 1), now));
    assert!(lease::is_due(&Cursor::after_clear([1]), now), "what is no place is in nobody's way");
}

#[test]
fn a_renewal_goes_from_now_and_not_beyond_the_last_end() {
    let mut scene = Scene::new(23);
    let lease = active(&mut scene, "bob");
    let (id, max_ms) = (lease.id, lease.max_ms);
    let plan = |scene: &mut Scene, ttl_s| scene.run(PlanRenewal { id, ttl_s }, Some("bob"));
    let ends = |scene: &mut Scene, ttl_s| secret::<Renewal>(&plan(scene, ttl_s)).unwrap().expires_ms;
    scene.world.pass(1000);
    let now_ms = scene.world.now.steady_ms;
    assert_eq!(ends(&mut scene, None), now_ms + TTL_S * 1000);
    assert_eq!(ends(&mut scene, Some(5)), now_ms + 5000);
    assert_eq!(ends(&mut scene, Some(u64::MAX)), max_ms);
    let none = plan(&mut scene, Some(0)).result.unwrap_err();
    assert_eq!((none.code, none.field.as_deref()), (Code::Malformed, Some("ttl_s")));
    // At its end it is over, whether or not anybody has come by.
    scene.world.pass(TTL_S * 1000 - 1001);
    assert!(plan(&mut scene, None).result.is_ok());
    scene.world.pass(1);
    assert_eq!(plan(&mut scene, None).code(), Some(Code::Expired));
    let late = scene.run(Renewed { id, expires_ms: max_ms }, Some("bob"));
    assert_eq!(late.code(), Some(Code::Expired));

    let mut scene = Scene::new(24);
    let lease = active(&mut scene, "bob");
    let id = lease.id;
    let renewed: bulla_wire::api::Lease = scene.run(Renewed { id, expires_ms: u64::MAX }, Some("bob")).json();
    assert_eq!((renewed.expires_ms, renewed.due_ms), (lease.max_ms, lease.max_ms));
    scene.check(24);
    assert!(scene.leases()[0].password.is_none(), "it goes with the first renewal");
    assert_eq!(scene.run(Activate { lease: lease.clone() }, Some("bob")).code(), Some(Code::NonceExpired));
    let commits = scene.world.commits;
    scene.world.repeated = Some(Replay::Again);
    let again: bulla_wire::api::Lease = scene.run(Renewed { id, expires_ms: lease.expires_ms }, Some("bob")).json();
    assert_eq!((again.expires_ms, scene.world.commits), (lease.max_ms, commits));
}

#[test]
fn what_is_taken_is_due_and_stored_as_revoked() {
    let mut scene = Scene::new(25);
    let lease = active(&mut scene, "bob");
    let id = lease.id;
    let take = Take { database: app(), due_ms: lease.expires_ms, id };
    scene.world.pass(TTL_S * 1000 - 1);
    let early: Taken = secret(&scene.run(take.clone(), None)).unwrap();
    assert!(early.lease.is_none());
    assert_eq!(running(&scene), [id], "nothing before its time");
    scene.world.pass(1);
    let now: Taken = secret(&scene.run(take, None)).unwrap();
    assert!(now.lease.is_some());
    assert!(matches!(scene.leases()[0].state, State::Revoking { attempts: 0, .. }));
    scene.run(Failed { id, error: "away".into() }, None).result.unwrap();
    let lease = scene.leases().remove(0);
    assert!(matches!(lease.state, State::Revoking { attempts: 1, .. }));
    assert_eq!(lease.due_ms, scene.world.now.steady_ms + 1000);
}

/// Three checks stand behind each other: that it succeeds in the end holds each of them.
#[test]
fn a_database_goes_once_nothing_is_left_of_it() {
    let mut scene = Scene::new(26);
    let delete = |scene: &mut Scene| scene.run(Delete { name: app() }, Some("alice")).result.map(drop);
    let says = |refused: Result<(), bulla_core::operation::Refusal>, what: &str| {
        let refusal = refused.unwrap_err();
        assert!(refusal.code == Code::Exists && refusal.message.ends_with(what), "{}", refusal.message);
    };
    let id = active(&mut scene, "bob").id;
    says(delete(&mut scene), "still has roles");
    scene.run(DeleteRole { role: role() }, Some("alice")).result.unwrap();
    says(delete(&mut scene), "still has leases");
    scene.run(Ended { id }, Some("bob")).result.unwrap();
    delete(&mut scene).unwrap();
    assert_eq!(scene.run(ReadDatabase { name: app() }, Some("alice")).code(), Some(Code::NotFound));
    assert_eq!(delete(&mut scene).unwrap_err().code, Code::NotFound);
}

#[test]
fn a_database_stays_the_server_that_it_is() {
    let mut scene = Scene::new(27);
    let id = active(&mut scene, "bob").id;
    let configure = |scene: &mut Scene, connection| {
        scene.run(Configure { connection, moved: false }, Some("alice")).result.map(drop)
    };
    configure(&mut scene, configured(|put| put.password = "typed".into())).unwrap();
    let other = configure(&mut scene, configured(|put| put.engine = DatabaseEngine::Mariadb)).unwrap_err();
    assert_eq!((other.code, other.field.as_deref()), (Code::Exists, Some("engine")));
    scene.run(Ended { id }, Some("bob")).result.unwrap();
    configure(&mut scene, configured(|put| put.host = "db2.example".into())).unwrap();
    // Whoever configures it after a restore has looked at it.
    scene.world.losses = 1;
    let parked = |scene: &mut Scene| {
        let view: bulla_wire::api::Database = scene.run(ReadDatabase { name: app() }, Some("alice")).json();
        view.parked
    };
    assert!(parked(&mut scene));
    configure(&mut scene, configured(|put| put.host = "db2.example".into())).unwrap();
    assert!(!parked(&mut scene));
}

#[test]
fn what_a_database_is_reached_by_is_checked() {
    type Change = fn(&mut PutDatabase);
    let told = |change: Change| {
        let mut put = reached();
        change(&mut put);
        Connection::new(app(), put, START_MS).map(drop).map_err(|refusal| refusal.field.unwrap())
    };
    let good: [Change; 11] = [
        |put| put.host = "h".repeat(253),
        |put| put.host = "::1".into(),
        |put| put.user = "u".repeat(253),
        |put| put.password = "p".repeat(1024),
        |put| put.port = 1,
        |put| put.connections = 1,
        |put| put.connections = 32,
        |put| put.owner = Some("nobody".into()),
        |put| (put.tls, put.host) = (DatabaseTls::Off, "localhost".into()),
        |put| (put.tls, put.host) = (DatabaseTls::Off, "127.0.0.1".into()),
        |put| put.ca = Some("-----BEGIN CERTIFICATE-----".to_owned() + &"x".repeat(64 * 1024 - 27)),
    ];
    for (index, change) in good.into_iter().enumerate() {
        assert_eq!(told(change), Ok(()), "{index}");
    }
    let bad: [(Change, &str); 21] = [
        (|put| put.host.clear(), "host"),
        (|put| put.host = "h".repeat(254), "host"),
        (|put| put.host = "a\nb".into(), "host"),
        (|put| put.host = "a b".into(), "host"),
        (|put| put.host = "/run/postgresql".into(), "host"),
        (|put| put.user.clear(), "user"),
        (|put| put.user = "u".repeat(254), "user"),
        (|put| put.database = Some(String::new()), "database"),
        (|put| put.owner = Some("a\0".into()), "owner"),
        (|put| put.port = 0, "port"),
        (|put| put.password.clear(), "password"),
        (|put| put.password = "p".repeat(1025), "password"),
        (|put| put.password = "a\0b".into(), "password"),
        (|put| put.connections = 0, "connections"),
        (|put| put.connections = 33, "connections"),
        (|put| (put.engine, put.owner) = (DatabaseEngine::Mariadb, Some("x".into())), "owner"),
        (|put| put.tls = DatabaseTls::Off, "tls"),
        (|put| (put.tls, put.host) = (DatabaseTls::Off, "10.1.2.3".into()), "tls"),
        (|put| (put.tls, put.host) = (DatabaseTls::Off, "localhost.example".into()), "tls"),
        (|put| put.ca = Some("no certificate".into()), "ca"),
        (|put| put.ca = Some("-----BEGIN CERTIFICATE-----".to_owned() + &"x".repeat(64 * 1024 - 26)), "ca"),
    ];
    for (index, (change, field)) in bad.into_iter().enumerate() {
        assert_eq!(told(change), Err(field.to_owned()), "{index}");
    }
}

#[test]
fn what_a_role_may_say_is_checked() {
    type Change = fn(&mut PutDatabaseRole);
    const YEAR_S: u64 = 366 * 24 * 3600;
    let told = |change: &dyn Fn(&mut PutDatabaseRole)| {
        let mut body = plain_role();
        change(&mut body);
        let made = Role::new(DatabaseEngine::Postgres, "reader".parse().unwrap(), body);
        made.map(drop).map_err(|refusal| (refusal.code, refusal.field.unwrap()))
    };
    let good: [Change; 5] = [
        |role| (role.ttl_s, role.max_ttl_s) = (YEAR_S, YEAR_S),
        |role| role.ttl_s = 1,
        |role| role.creation = vec!["SELECT {{name}}".into(); 16],
        |role| role.creation = vec!["{{name}} ".to_owned() + &"x".repeat(4096 - 9)],
        |role| role.renewal = vec!["SELECT 1".into()],
    ];
    for (index, change) in good.into_iter().enumerate() {
        assert_eq!(told(&change), Ok(()), "{index}");
    }
    let certified = |change: Change| {
        told(&|role| {
            (role.certificate, role.creation) = (true, vec!["CREATE ROLE {{name}}".into()]);
            change(role);
        })
    };
    assert_eq!(certified(|_| ()), Ok(()));
    let refused = certified(|role| role.revocation = vec!["DROP {{name}} {{expiration}}".into()]);
    assert_eq!(refused.map_err(|(_, field)| field), Err("revocation[0]".into()));
    let refused = certified(|role| role.renewal = vec!["ALTER {{name}}".into()]);
    assert_eq!(refused, Err((Code::Malformed, "renewal".into())));
    let bad: [(Change, Code, &str); 12] = [
        (|role| role.ttl_s = 0, Code::Malformed, "ttl_s"),
        (|role| role.ttl_s = MAX_TTL_S + 1, Code::Malformed, "ttl_s"),
        (|role| role.max_ttl_s = YEAR_S + 1, Code::Malformed, "ttl_s"),
        (|role| role.creation = vec!["SELECT {{name}}".into(); 17], Code::BadTemplate, "creation"),
        (|role| role.creation = vec!["SELECT {{name}}".into(), "x".repeat(4096 - 14)], Code::BadTemplate, "creation"),
        (|role| role.creation.clear(), Code::BadTemplate, "creation"),
        (|role| role.creation = vec!["SELECT 1".into()], Code::BadTemplate, "creation"),
        (|role| role.revocation = vec!["DROP ROLE x".into()], Code::BadTemplate, "revocation"),
        (|role| role.revocation = vec!["DROP {{name}} {{password}}".into()], Code::BadTemplate, "revocation[0]"),
        (|role| role.revocation = vec!["DROP {{name}} {{expiration}}".into()], Code::BadTemplate, "revocation[0]"),
        (|role| role.renewal = vec!["ALTER {{name}} {{password}}".into()], Code::BadTemplate, "renewal[0]"),
        (|role| role.certificate = true, Code::BadTemplate, "creation[0]"),
    ];
    for (index, (change, code, field)) in bad.into_iter().enumerate() {
        assert_eq!(told(&change), Err((code, field.to_owned())), "{index}");
    }
}

/// What was not restored, or is released already, stays as it is.
#[test]
fn a_release_without_a_loss_writes_nothing() {
    let mut scene = Scene::new(28);
    let commits = scene.world.commits;
    scene.run(Release { name: app() }, Some("alice")).result.unwrap();
    assert_eq!(scene.world.commits, commits);
    scene.world.losses = 1;
    for _ in 0..2 {
        scene.run(Release { name: app() }, Some("alice")).result.unwrap();
        assert_eq!(scene.world.commits, commits + 1, "once");
    }
}

#[test]
fn the_audit_log_is_told_what_was_demanded() {
    let bob = Scene::new(29).world.id("bob");
    let id = LeaseId::new([7; 16]);
    let resource = Names::Clear.resource(&"database/app/reader".parse().unwrap());
    for (demand, told) in [
        (Demand::One(id), Some(Demanded::Lease(id))),
        (Demand::Many(Which::Resource("database/app/reader".into())), Some(Demanded::Resource(resource))),
        (Demand::Many(Which::Principal(bob)), Some(Demanded::Principal(bob))),
        (Demand::Many(Which::All), Some(Demanded::All)),
        (Demand::Many(Which::Static(app())), None),
    ] {
        assert_eq!(demand.told(&Names::Clear), told);
    }
}
