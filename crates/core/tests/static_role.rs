//! Static roles without IO: schedules by seed, in which rotations by time and by people, a database that is away or
//! silent, whoever dies between intent, effect and word, late effects and restores get in each other's way. Whatever
//! happens, a password that is told is the one that the database has, and stays it until it is rotated.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![expect(dead_code, reason = "the world serves several test programs")]

mod wrap_world;

use bulla_core::action::RoleName;
use bulla_core::barrier::{Kind, Query, RecordKey};
use bulla_core::engine::database::static_role::{
    Ask, Asked, DeleteStatic, DueRotation, Held, MAX_EVERY_S, Missed, PutStatic, ReadPassword, ReadStatic, StaticRole,
    Stored, Withdraw,
};
use bulla_core::engine::database::{Configure, Connection, Delete, Password, PutRole, Release, connection_key};
use bulla_core::engine::lease::{self, Mark, PENDING_MS, Take, demands};
use bulla_core::operation::{Operation, Replay, Reply};
use bulla_core::record::{SealedValue, StoreKey};
use bulla_crypto::random::{SeededRng, draw};
use bulla_wire::api::{
    self, DatabaseEngine, DatabaseTls, PutDatabase, PutDatabaseRole, PutStaticRole, StaticCredentials,
};
use bulla_wire::error::Code;
use bulla_wire::id::LeaseId;
use bulla_wire::name::Name;
use std::collections::BTreeMap;
use wrap_world::*;

const EVERY_S: u64 = 3600;

fn seeds(count: u64) -> std::ops::Range<u64> {
    let long = std::env::var_os("BULLA_TEST_LONG").is_some_and(|value| value == "1");
    0..if long { 100 * count } else { count }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn role() -> RoleName {
    "app/billing".parse().unwrap()
}

fn connection(of: &str, user: &str) -> Connection {
    let put = PutDatabase {
        engine: DatabaseEngine::Postgres,
        host: "db.example".into(),
        port: 5432,
        database: None,
        user: user.into(),
        password: "secret".into(),
        owner: None,
        tls: DatabaseTls::Verify,
        ca: None,
        connections: 4,
        check: false,
        moved: false,
    };
    Connection::new(name(of), put, START_MS).unwrap()
}

fn body(user: &str) -> PutStaticRole {
    PutStaticRole { user: user.into(), rotate_every_s: EVERY_S }
}

fn secret<T: serde::de::DeserializeOwned>(answered: &Answered) -> Option<T> {
    match &answered.result {
        Ok(Reply::Secret(bytes)) => Some(serde_json::from_slice(bytes.expose()).unwrap()),
        Ok(other) => panic!("expected a secret, got {other:?}"),
        Err(_) => None,
    }
}

/// A world with a database, and the password that its user has.
struct Scene {
    world: World,
    rng: SeededRng,
    /// What the user has; none if nobody but a person set it.
    has: Option<String>,
    /// Requests under way that may still have their effect, until when.
    late: Vec<(u64, String)>,
    kept: Option<BTreeMap<StoreKey, SealedValue>>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let configure = Configure { connection: connection("app", "root"), moved: false };
        world.run(Box::new(configure), Some("alice")).result.unwrap();
        let rng = SeededRng::from_u64(seed ^ 0x57a7);
        Self { world, rng, has: None, late: vec![], kept: None }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(draw::<1>(&mut self.rng)[0]) % limit
    }

    fn run(&mut self, op: impl Operation + 'static, who: Option<&str>) -> Answered {
        self.world.run(Box::new(op), who)
    }

    fn begun(seed: u64) -> Self {
        let mut scene = Self::new(seed);
        let put = PutStatic::new(role(), body("billing")).unwrap();
        let stored: Stored = secret(&scene.run(put, Some("alice"))).unwrap();
        assert!(stored.first);
        scene
    }

    /// Time passes; what is under way may have its effect, and has it in the end.
    fn pass(&mut self, ms: u64) {
        self.world.pass(ms);
        let now_ms = self.world.now.steady_ms;
        for (until_ms, password) in std::mem::take(&mut self.late) {
            if until_ms <= now_ms || self.below(3) == 0 {
                self.has = Some(password);
            } else {
                self.late.push((until_ms, password));
            }
        }
    }

    fn told(&mut self) -> Option<String> {
        let answered = self.run(ReadPassword { role: role() }, Some("bob"));
        secret::<StaticCredentials>(&answered).map(|made| made.password)
    }

    fn check(&mut self, seed: u64) {
        let Some(told) = self.told() else { return };
        assert_eq!(Some(&told), self.has.as_ref(), "seed {seed}: another password is told");
        assert!(self.late.iter().all(|(_, late)| *late == told), "seed {seed}: it will be another one");
    }

    /// The database is asked, and whoever asks may die of it.
    fn rotate(&mut self, ask: Ask, who: Option<&str>, up: bool) {
        let answered = self.run(ask.clone(), who);
        let Some(Asked { of }) = secret(&answered) else {
            assert!(matches!(answered.code(), Some(Code::DatabaseFailed | Code::Parked)), "{answered:?}");
            return;
        };
        let Some((StaticRole { id, next, .. }, _)) = of else { return };
        let password = next.unwrap();
        let text = password.expose().to_owned();
        let missed = |certain| Missed { role: role(), id, error: "no".into(), certain };
        let outcome = if up { self.below(8) } else { 1 };
        match outcome {
            // It dies before the effect; or the database is away, or refuses.
            0 => {}
            1 | 2 => drop(self.run(missed(true), None)),
            // Nobody knows, and the effect comes later, if ever, or has come.
            3 | 4 => {
                match self.below(3) {
                    0 => {}
                    1 => self.has = Some(text),
                    _ => self.late.push((self.world.now.steady_ms + PENDING_MS / 2, text)),
                }
                if outcome == 3 {
                    self.run(missed(false), None).result.unwrap();
                }
            }
            // It dies after the effect.
            5 => self.has = Some(text),
            _ => {
                self.has = Some(text);
                self.run(Held { role: role(), id, password }, None).result.unwrap();
            }
        }
    }

    /// One look of the server at what is due.
    fn look(&mut self, up: bool) {
        let query = demands(16);
        let records = self.world.read(std::slice::from_ref(&query));
        let page = records.page(&query).unwrap().0;
        let marks: Vec<Mark> = page.iter().map(|record| Mark::parse(&record.bytes).unwrap()).collect();
        for mark in marks {
            self.run(mark, None).result.unwrap();
        }
        let query = lease::scan(&name("app"), None, 64);
        let records = self.world.read(std::slice::from_ref(&query));
        let page = records.page(&query).unwrap().0;
        assert!(Take::due(&name("app"), page, self.world.now).is_empty(), "no lease is due");
        for ask in Ask::due(&name("app"), page, self.world.now) {
            self.rotate(ask.unwrap(), None, up);
        }
    }

    fn entries(&self) -> usize {
        let query = lease::scan(&name("app"), None, 64);
        self.world.read(std::slice::from_ref(&query)).page(&query).unwrap().0.len()
    }

    fn rows_of_static_roles(&self) -> usize {
        let query = |dir: &str| Query::Scan { kind: Kind::StaticRole, dir: dir.into(), after: None, limit: 9 };
        let queries = [query("app"), query("app/users")];
        let records = self.world.read(&queries);
        queries.iter().map(|query| records.page(query).unwrap().0.len()).sum()
    }

    /// The store is put back to what it was, and somebody releases the database once that is known.
    fn restore(&mut self, seed: u64) {
        let Some(rows) = self.kept.take() else {
            self.kept = Some(self.world.rows.clone());
            return;
        };
        self.world.rows = rows;
        self.world.losses += 1;
        self.pass(PENDING_MS);
        assert_eq!(self.told(), None, "seed {seed}: a password of a restored store is told");
        self.look(true);
        assert_eq!(self.told(), None, "seed {seed}: a database that waits is not asked");
        self.run(Release { name: name("app") }, Some("alice")).result.unwrap();
        assert_eq!(self.told(), None, "seed {seed}: it is not rotated yet");
    }
}

#[test]
fn what_is_told_is_what_the_database_has() {
    let (mut told, mut rotations) = (0, 0);
    for seed in seeds(300) {
        let mut scene = Scene::begun(seed);
        let mut last = None;
        for _ in 0..80 {
            match scene.below(10) {
                0..5 => {
                    let up = scene.below(4) > 0;
                    scene.look(up);
                }
                5 => scene.rotate(Ask { role: role(), due: None }, Some("alice"), true),
                6 if scene.below(6) == 0 => scene.restore(seed),
                7 => scene.pass(EVERY_S * 1000),
                _ => {
                    let ms = u64::from(u16::from_be_bytes(draw(&mut scene.rng)));
                    scene.pass(ms);
                }
            }
            assert_eq!(scene.entries(), 1, "seed {seed}: it has one entry");
            scene.check(seed);
            let now = scene.told();
            told += usize::from(now.is_some());
            if now.is_some() && now != last {
                rotations += 1;
                last = now;
            }
        }
        // The database is there and answers, and in the end a password is told.
        for _ in 0..400 {
            scene.pass(5_000);
            scene.look(true);
            scene.check(seed);
            if scene.told().is_some() && scene.late.is_empty() {
                break;
            }
        }
        assert!(scene.told().is_some(), "seed {seed}: nobody is told a password in the end");
    }
    assert!(told > 5_000 && rotations > 1_000, "{told} looks told one, of {rotations} passwords");
}

/// Nobody sets a third password while a request that was not answered may still have its effect.
#[test]
fn a_third_password_waits_for_what_was_not_answered() {
    let mut scene = Scene::begun(1);
    let ask = || Ask { role: role(), due: None };
    let asked = |scene: &mut Scene| secret::<Asked>(&scene.run(ask(), Some("alice"))).unwrap().of.unwrap().0;
    let first = asked(&mut scene);
    let missed = Missed { role: role(), id: first.id, error: "silent".into(), certain: false };
    scene.run(missed, None).result.unwrap();
    let view: api::StaticRole = scene.run(ReadStatic { role: role() }, Some("bob")).json();
    assert!(view.rotating && view.attempts == 1 && view.error.as_deref() == Some("silent"));
    let again = asked(&mut scene);
    assert_eq!(again.next, first.next, "the same password is asked for");
    let older = Held { role: role(), id: again.id, password: Password::new("older".into()) };
    scene.run(older, None).result.unwrap();
    let told = scene.run(ReadPassword { role: role() }, Some("bob"));
    assert_eq!(told.code(), Some(Code::DatabaseFailed), "not the password that is asked for");
    let held = Held { role: role(), id: again.id, password: again.next.unwrap() };
    scene.run(held, None).result.unwrap();
    scene.has = Some(first.next.unwrap().expose().to_owned());
    scene.check(1);
    let busy = scene.run(ask(), Some("alice"));
    assert_eq!(busy.code(), Some(Code::DatabaseFailed), "{busy:?}");
    assert_eq!(scene.run(DeleteStatic { role: role() }, Some("alice")).code(), Some(Code::DatabaseFailed));
    scene.pass(PENDING_MS);
    assert_ne!(asked(&mut scene).next, again.password);
}

#[test]
fn a_user_has_one_master() {
    let mut scene = Scene::begun(2);
    let put = |of: &str, user: &str| PutStatic::new(of.parse().unwrap(), body(user)).unwrap();
    for user in ["bulla_reader_x", "BULLA_x", "", " x", "x ", "a\nb", &"x".repeat(64)] {
        assert_eq!(PutStatic::new(role(), body(user)).unwrap_err().code, Code::Malformed, "{user:?}");
    }
    for rotate_every_s in [0, 59, MAX_EVERY_S + 1] {
        let put = PutStaticRole { rotate_every_s, ..body("billing") };
        assert_eq!(PutStatic::new(role(), put).unwrap_err().field.as_deref(), Some("rotate_every_s"));
    }
    // Neither the administering user of this database or of another at the same server, nor another role's.
    let twin = Configure { connection: connection("twin", "keeper"), moved: false };
    scene.run(twin, Some("alice")).result.unwrap();
    for (of, user) in [("app/x", "root"), ("app/x", "keeper"), ("app/x", "billing"), ("twin/x", "billing")] {
        let refused = scene.run(put(of, user), Some("alice"));
        assert_eq!(refused.code(), Some(Code::Exists), "{of} {user}");
    }
    for of in ["app", "twin", "third"] {
        let taken = Configure { connection: connection(of, "billing"), moved: false };
        assert_eq!(scene.run(taken, Some("alice")).code(), Some(Code::Exists), "{of}");
    }
    // Another user is another role, and a name is one thing.
    assert_eq!(scene.run(put("app/billing", "other"), Some("alice")).code(), Some(Code::Exists));
    let (creation, none) = (vec!["CREATE ROLE {{name}} PASSWORD {{password}}".to_owned()], Vec::new());
    let made = PutDatabaseRole {
        creation,
        revocation: none.clone(),
        renewal: none,
        ttl_s: 60,
        max_ttl_s: 60,
        certificate: false,
    };
    let refused = scene.run(PutRole { role: role(), body: made.clone(), authority: None }, Some("alice"));
    assert_eq!(refused.code(), Some(Code::Exists));
    scene
        .run(PutRole { role: "app/made".parse().unwrap(), body: made, authority: None }, Some("alice"))
        .result
        .unwrap();
    assert_eq!(scene.run(put("app/made", "other"), Some("alice")).code(), Some(Code::Exists));
    assert_eq!(scene.run(put("none/x", "other"), Some("alice")).code(), Some(Code::NotFound));
    // A database with static roles is neither deleted nor another server's; without them nothing is left.
    assert_eq!(scene.run(Delete { name: name("app") }, Some("alice")).code(), Some(Code::Exists));
    let mut elsewhere = connection("app", "root");
    elsewhere.host = "db2.example".into();
    let moved = scene.run(Configure { connection: elsewhere, moved: false }, Some("alice"));
    assert_eq!(moved.code(), Some(Code::Exists));
    scene.run(DeleteStatic { role: role() }, Some("alice")).result.unwrap();
    assert_eq!((scene.entries(), scene.rows_of_static_roles()), (0, 0));
    assert_eq!(scene.run(ReadStatic { role: role() }, Some("bob")).code(), Some(Code::NotFound));
}

/// What the database refused at first leaves nothing; what it may have taken stays.
#[test]
fn a_first_rotation_that_is_refused_is_none() {
    for certain in [true, false] {
        let mut scene = Scene::begun(3);
        let ask = Ask { role: role(), due: None };
        let id = secret::<Asked>(&scene.run(ask, Some("alice"))).unwrap().of.unwrap().0.id;
        scene.run(Missed { role: role(), id, error: "no".into(), certain }, None).result.unwrap();
        scene.run(Withdraw { role: role(), id }, Some("alice")).result.unwrap();
        let left = if certain { (0, 0) } else { (1, 2) };
        assert_eq!((scene.entries(), scene.rows_of_static_roles()), left);
        // The same request again says so, and begins nothing.
        scene.world.repeated = Some(Replay::Again);
        let again = scene.run(PutStatic::new(role(), body("billing")).unwrap(), Some("alice"));
        assert_eq!(again.code(), certain.then_some(Code::NonceExpired));
    }
}

/// A request that comes again is not told that what failed was done.
#[test]
fn a_repeated_rotation_says_what_came_of_it() {
    let mut scene = Scene::begun(5);
    let ask = Ask { role: role(), due: None };
    let asked = secret::<Asked>(&scene.run(ask.clone(), Some("alice"))).unwrap().of.unwrap().0;
    scene.world.repeated = Some(Replay::Again);
    // Whoever asked first has not heard of it yet, or never does.
    assert_eq!(scene.run(ask.clone(), Some("alice")).code(), Some(Code::DatabaseFailed));
    scene.world.repeated = None;
    scene.run(Missed { role: role(), id: asked.id, error: "no".into(), certain: true }, None).result.unwrap();
    scene.world.repeated = Some(Replay::Again);
    let refused = scene.run(ask.clone(), Some("alice")).result.unwrap_err();
    assert_eq!((refused.code, refused.message.ends_with(": no")), (Code::DatabaseFailed, true), "{}", refused.message);
    scene.world.repeated = None;
    let asked = secret::<Asked>(&scene.run(ask.clone(), Some("alice"))).unwrap().of.unwrap().0;
    scene.run(Held { role: role(), id: asked.id, password: asked.next.unwrap() }, None).result.unwrap();
    scene.world.repeated = Some(Replay::Again);
    assert!(secret::<Asked>(&scene.run(ask, Some("alice"))).unwrap().of.is_none(), "it was done");
}

/// Another database at the same server is found among however many.
#[test]
fn a_neighbour_is_found_behind_a_thousand_others() {
    let mut scene = Scene::begun(6);
    for batch in 0..5_u32 {
        scene.world.write(|writes| {
            for number in 0..250_u32 {
                let mut other = connection(&format!("other-{batch}-{number}"), "root");
                other.host = "elsewhere.example".into();
                writes.create(connection_key(&other.name), bulla_wire::json::to_vec(&other));
            }
        });
    }
    // Wherever it stands in an order that means nothing.
    for number in 0..8 {
        let near = connection(&format!("near-{number}"), &format!("user-{number}"));
        scene.world.write(|writes| writes.create(connection_key(&near.name), bulla_wire::json::to_vec(&near)));
        let put = PutStatic::new(RoleName::new(&name("app"), &name("x")), body(&near.user)).unwrap();
        assert_eq!(scene.run(put, Some("alice")).code(), Some(Code::Exists));
    }
}

/// Another period counts from the last rotation.
#[test]
fn a_period_is_changed_without_a_rotation() {
    let mut scene = Scene::begun(4);
    let ask = Ask { role: role(), due: None };
    let asked = secret::<Asked>(&scene.run(ask, Some("alice"))).unwrap().of.unwrap().0;
    scene.run(Held { role: role(), id: asked.id, password: asked.next.unwrap() }, None).result.unwrap();
    let told = scene.told();
    let rotated_ms = scene.world.now.steady_ms;
    scene.pass(60_000);
    for (rotate_every_s, due_ms) in [(600, rotated_ms + 600_000), (60, rotated_ms + 60_000)] {
        let put = PutStatic::new(role(), PutStaticRole { rotate_every_s, ..body("billing") }).unwrap();
        let stored: Stored = secret(&scene.run(put, Some("alice"))).unwrap();
        assert!(!stored.first);
        let view: api::StaticRole = scene.run(ReadStatic { role: role() }, Some("bob")).json();
        assert_eq!((view.rotates_ms, view.rotated_ms), (due_ms, Some(rotated_ms)));
    }
    assert_eq!(scene.told(), told);
}

/// The first password is asked for and held; it is told from now on.
fn hold(scene: &mut Scene) {
    let ask = Ask { role: role(), due: None };
    let asked = secret::<Asked>(&scene.run(ask, Some("alice"))).unwrap().of.unwrap().0;
    let (id, password) = (asked.id, asked.next.unwrap());
    scene.run(Held { role: role(), id, password }, None).result.unwrap();
}

/// Whoever configures a database after a restore accepts it as a release does.
#[test]
fn a_configuration_after_a_restore_rotates_once() {
    let mut scene = Scene::begun(7);
    hold(&mut scene);
    let configure = || Configure { connection: connection("app", "root"), moved: false };
    scene.run(configure(), Some("alice")).result.unwrap();
    assert_eq!(scene.world.count(Kind::LeaseDemand), 0, "nothing was lost");
    scene.world.losses += 1;
    scene.run(configure(), Some("alice")).result.unwrap();
    assert_eq!(scene.told(), None, "it may be an old one");
    let query = demands(16);
    let records = scene.world.read(std::slice::from_ref(&query));
    let page = records.page(&query).unwrap().0;
    let marks: Vec<Mark> = page.iter().map(|record| Mark::parse(&record.bytes).unwrap()).collect();
    assert_eq!(marks.len(), 1);
    for mark in marks {
        scene.run(mark, None).result.unwrap();
    }
    let view: api::StaticRole = scene.run(ReadStatic { role: role() }, Some("bob")).json();
    assert_eq!((view.outdated, view.rotates_ms), (true, scene.world.now.steady_ms), "it is due now");
    assert_eq!(scene.world.count(Kind::LeaseDemand), 0);
    // The longest that there may be.
    let put = PutStaticRole { rotate_every_s: MAX_EVERY_S, ..body(&"u".repeat(63)) };
    assert!(PutStatic::new(role(), put).is_ok());
}

#[test]
fn another_period_does_not_put_off_what_is_tried_again() {
    let mut scene = Scene::begun(8);
    hold(&mut scene);
    scene.pass(60_000);
    let ask = Ask { role: role(), due: None };
    let id = secret::<Asked>(&scene.run(ask, Some("alice"))).unwrap().of.unwrap().0.id;
    scene.run(Missed { role: role(), id, error: "away".into(), certain: true }, None).result.unwrap();
    let again_ms = scene.world.now.steady_ms + 1000;
    let put = PutStatic::new(role(), PutStaticRole { rotate_every_s: 2 * EVERY_S, ..body("billing") }).unwrap();
    scene.run(put, Some("alice")).result.unwrap();
    let view: api::StaticRole = scene.run(ReadStatic { role: role() }, Some("bob")).json();
    assert_eq!((view.attempts, view.rotates_ms), (1, again_ms));
}

/// Works off all demands, as the server does.
fn mark_all(scene: &mut Scene) {
    let query = demands(16);
    let records = scene.world.read(std::slice::from_ref(&query));
    let page = records.page(&query).unwrap().0;
    let marks: Vec<Mark> = page.iter().map(|record| Mark::parse(&record.bytes).unwrap()).collect();
    for mark in marks {
        scene.run(mark, None).result.unwrap();
    }
}

fn view(scene: &mut Scene) -> api::StaticRole {
    scene.run(ReadStatic { role: role() }, Some("bob")).json()
}

/// Whether somebody said that there was no answer, or whoever asked died of it.
#[test]
fn a_role_is_deleted_once_nothing_can_have_its_effect_any_more() {
    for told in [true, false] {
        let mut scene = Scene::begun(9);
        let ask = Ask { role: role(), due: None };
        let id = secret::<Asked>(&scene.run(ask, Some("alice"))).unwrap().of.unwrap().0.id;
        if told {
            let missed = Missed { role: role(), id, error: "silent".into(), certain: false };
            scene.run(missed, None).result.unwrap();
        }
        scene.pass(PENDING_MS - 1);
        let early = scene.run(DeleteStatic { role: role() }, Some("alice")).result.unwrap_err();
        assert_eq!((early.code, early.hint.as_deref()), (Code::DatabaseFailed, Some("try again in 1 s")), "{told}");
        scene.pass(1);
        scene.run(DeleteStatic { role: role() }, Some("alice")).result.unwrap();
        assert_eq!((scene.entries(), scene.rows_of_static_roles()), (0, 0), "{told}");
    }
}

#[test]
fn another_period_does_not_put_off_what_a_restore_demands() {
    let mut scene = Scene::begun(10);
    hold(&mut scene);
    assert!(!view(&mut scene).outdated, "nothing was lost");
    scene.world.losses += 1;
    scene.run(Release { name: name("app") }, Some("alice")).result.unwrap();
    mark_all(&mut scene);
    let now_ms = scene.world.now.steady_ms;
    let put = PutStatic::new(role(), PutStaticRole { rotate_every_s: 2 * EVERY_S, ..body("billing") }).unwrap();
    scene.run(put, Some("alice")).result.unwrap();
    let view = view(&mut scene);
    assert_eq!((view.outdated, view.rotates_ms, view.rotate_every_s), (true, now_ms, 2 * EVERY_S));
}

/// Somebody was faster than the demand of the release.
#[test]
fn what_was_rotated_since_a_restore_is_not_rotated_again() {
    let mut scene = Scene::begun(11);
    hold(&mut scene);
    scene.world.losses += 1;
    scene.run(Release { name: name("app") }, Some("alice")).result.unwrap();
    hold(&mut scene);
    mark_all(&mut scene);
    let rotates_ms = scene.world.now.steady_ms + EVERY_S * 1000;
    let view = view(&mut scene);
    assert_eq!((view.outdated, view.rotates_ms), (false, rotates_ms));
}

/// What is due of static roles now.
fn due(scene: &Scene) -> Vec<Ask> {
    let query = lease::scan(&name("app"), None, 64);
    let records = scene.world.read(std::slice::from_ref(&query));
    let page = records.page(&query).unwrap().0;
    Ask::due(&name("app"), page, scene.world.now).into_iter().map(|ask| ask.unwrap()).collect()
}

/// What an entry of the queue has the database asked for.
fn asked(scene: &mut Scene, ask: &Ask) -> Option<(StaticRole, Connection)> {
    secret::<Asked>(&scene.run(ask.clone(), None)).unwrap().of
}

#[test]
fn an_entry_asks_at_its_time_and_once() {
    let mut scene = Scene::begun(12);
    hold(&mut scene);
    scene.pass(EVERY_S * 1000);
    let ask = due(&scene).remove(0);
    // The clock is behind what it was.
    scene.world.now.steady_ms -= 1;
    let commits = scene.world.commits;
    assert!(asked(&mut scene, &ask).is_none());
    assert_eq!(scene.world.commits, commits);
    scene.world.now.steady_ms += 1;
    let (StaticRole { id, next, .. }, _) = asked(&mut scene, &ask).unwrap();
    scene.run(Held { role: role(), id, password: next.unwrap() }, None).result.unwrap();
    // Somebody else was faster.
    let commits = scene.world.commits;
    assert!(asked(&mut scene, &ask).is_none());
    assert_eq!(scene.world.commits, commits);
}

/// No role knows of these: one of the name was deleted and put anew, or something was left over.
#[test]
fn an_entry_of_no_use_goes_and_asks_for_nothing() {
    let mut scene = Scene::begun(13);
    hold(&mut scene);
    scene.pass(EVERY_S * 1000);
    let now_ms = scene.world.now.steady_ms;
    let own = due(&scene).remove(0).due.unwrap().id;
    let leave = |scene: &mut Scene, due_ms: u64, id: LeaseId| {
        let place = [&due_ms.to_be_bytes()[..], id.as_bytes()].concat();
        let key = RecordKey::clear(Kind::LeaseDue, "app", place);
        scene.world.write(|writes| writes.put(key, bulla_wire::json::to_vec(&name("billing"))));
        Ask { role: role(), due: Some(DueRotation { due_ms, id }) }
    };
    for (due_ms, id) in [(now_ms, LeaseId::new([9; 16])), (now_ms - 1, own)] {
        let ask = leave(&mut scene, due_ms, id);
        assert_eq!(scene.entries(), 2);
        assert!(asked(&mut scene, &ask).is_none());
        assert_eq!((scene.entries(), due(&scene).remove(0).due.unwrap().id), (1, own));
    }
    scene.run(DeleteStatic { role: role() }, Some("alice")).result.unwrap();
    let ask = leave(&mut scene, now_ms, own);
    assert!(asked(&mut scene, &ask).is_none());
    assert_eq!(scene.entries(), 0);
    assert_eq!(scene.run(Ask { role: role(), due: None }, Some("alice")).code(), Some(Code::NotFound));
}

/// Whoever puts a static role looks again if the user or the name is somebody else's meanwhile.
#[test]
fn a_static_role_has_its_name_and_its_user_alone() {
    let made = PutDatabaseRole {
        creation: vec!["CREATE ROLE {{name}} PASSWORD {{password}}".into()],
        revocation: vec![],
        renewal: vec![],
        ttl_s: 60,
        max_ttl_s: 60,
        certificate: false,
    };
    let named: Box<dyn Operation> = Box::new(PutRole { role: role(), body: made, authority: None });
    let reached = Box::new(Configure { connection: connection("app", "billing"), moved: false });
    let held = Box::new(PutStatic::new("twin/x".parse().unwrap(), body("billing")).unwrap());
    for other in [named, reached, held] {
        let mut scene = Scene::new(14);
        let twin = Configure { connection: connection("twin", "keeper"), moved: false };
        scene.run(twin, Some("alice")).result.unwrap();
        let put = PutStatic::new(role(), body("billing")).unwrap();
        let alice = scene.world.actor("alice");
        let mut task = Task::new(Box::new(put), Some(alice));
        task.decide(&mut scene.world);
        scene.world.run(other, Some("alice")).result.unwrap();
        assert_eq!(task.finish(&mut scene.world).code(), Some(Code::Exists));
    }
}

/// At another address the users of its static roles may be somebody else's.
#[test]
fn a_database_with_static_roles_moves_to_nobody_elses_address() {
    let mut scene = Scene::begun(15);
    let at = |of: &str, user: &str| {
        let mut connection = connection(of, user);
        connection.host = "db2.example".into();
        connection
    };
    let twin = Configure { connection: at("twin", "billing"), moved: false };
    scene.run(twin, Some("alice")).result.unwrap();
    let moved = || Configure { connection: at("app", "root"), moved: true };
    let refused = scene.run(moved(), Some("alice")).result.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::Exists, Some("host")));
    scene.run(Delete { name: name("twin") }, Some("alice")).result.unwrap();
    scene.run(moved(), Some("alice")).result.unwrap();
}
