//! Leases on a real PostgreSQL and a real MariaDB: users are there while their leases run, and gone afterwards, whatever happens between.

use crate::cases::{database, role_body};
use crate::support::{Caller, finish, finish_after_steps, lines};
use bulla_client::{Client, LeasesOf};
use bulla_core::audit::{Body, Demanded, LeaseEvent};
use bulla_core::engine::database::{Connection, Password};
use bulla_server::database::{DatabaseError, Job, User};
use bulla_testkit::long;
use bulla_testkit::mariadb::{self, Mariadb};
use bulla_testkit::postgres::{ADMIN, PASSWORD, Postgres};
use bulla_testkit::skip;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{
    self, Credentials, DatabaseEngine, LeaseState, PutDatabase, PutDatabaseRole, PutPolicy, RevokeLeases,
};
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use std::time::{Duration, Instant};

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn reached(server: &Postgres) -> PutDatabase {
    PutDatabase { user: ADMIN.into(), password: PASSWORD.into(), connections: 4, ..database(server.port()) }
}

/// A cluster whose alice configures a database, and whose bob gets users of it.
struct Scene {
    world: World,
    server: Postgres,
    alice: Client,
    bob: Client,
    bob_person: Person,
}

impl Scene {
    async fn new(shape: Shape) -> Option<Self> {
        let server = tokio::task::spawn_blocking(Postgres::start).await.unwrap()?;
        let world = World::new(shape).await;
        let (alice, bob_person) = (world.admit("alice").await, world.admit("bob").await);
        let text = "permit (principal, action in Bulla::Action::\"database\", resource) when { principal.name == \"alice\" };\n\
                    permit (principal, action == Bulla::Action::\"database.issue\", resource);\n";
        let put = PutPolicy { text: text.to_owned(), replaces: None };
        world.client(&world.admins[0]).policy_put(&name("databases"), &put).await.unwrap();
        let (alice, bob) = (world.client(&alice), world.client(&bob_person));
        alice.database_put(&name("app"), &reached(&server)).await.unwrap();
        alice.database_role_put(&name("app"), &name("reader"), &role_body()).await.unwrap();
        Some(Self { world, server, alice, bob, bob_person })
    }

    async fn issue(&self, ttl_s: u64) -> Credentials {
        self.bob.database_issue(&name("app"), &name("reader"), Some(ttl_s)).await.unwrap()
    }

    fn logs_in(&self, made: &Credentials) -> bool {
        self.server.try_sql(&made.user, &made.password, "SELECT 1").is_ok()
    }

    /// Waits until so many users are there.
    async fn users(&self, count: usize) {
        let began = Instant::now();
        while self.server.users().len() != count {
            let left = self.server.users();
            assert!(began.elapsed() < Duration::from_secs(60), "{count} were expected: {left:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until no lease is left.
    async fn none_left(&self) {
        let began = Instant::now();
        while !self.leases().await.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", self.leases().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The leases of everybody.
    async fn leases(&self) -> Vec<api::Lease> {
        self.world.client(&self.world.admins[0]).leases_of(&LeasesOf::default(), None, None).await.unwrap().leases
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_lives_as_long_as_its_lease() {
    let Some(scene) = Scene::new(Shape::durable()).await else {
        skip!("database::a_user_lives_as_long_as_its_lease", "needs postgresql");
    };
    let mut role = role_body();
    role.creation.push("GRANT CREATE ON SCHEMA public TO {{name}}".into());
    scene.alice.database_role_put(&name("app"), &name("reader"), &role).await.unwrap();
    let made = scene.issue(600).await;
    assert!(scene.logs_in(&made));
    assert!(made.user.starts_with("bulla_reader_"), "{}", made.user);
    let lease = scene.bob.lease(&made.lease).await.unwrap();
    assert_eq!((lease.state, lease.resource.as_str()), (LeaseState::Active, "database/app/reader"));
    assert_eq!(scene.bob.leases(None, None).await.unwrap().leases, std::slice::from_ref(&lease));

    // Renewed, it outlives its first end; the database knows too.
    scene.world.clock.pass(500 * SECOND);
    let renewed = scene.bob.lease_renew(&made.lease, Some(1200)).await.unwrap();
    assert!(renewed.expires_ms > lease.expires_ms + 600 * SECOND);
    let until = scene
        .server
        .sql(&format!("SELECT extract(epoch from rolvaliduntil) FROM pg_roles WHERE rolname = '{}'", made.user));
    assert_eq!(until.split('.').next().unwrap(), (renewed.expires_ms / 1000).to_string());
    scene.world.clock.pass(600 * SECOND);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(scene.server.users().len(), 1);
    // It ends by itself, with its sessions and what it made.
    what_it_made_is_nobodys(&scene, &made).await;
    scene.none_left().await;
    let ended = made.clone();
    assert_eq!(scene.bob.lease(&made.lease).await.unwrap_err().code(), Some(Code::NotFound));
    assert_eq!(scene.bob.lease_renew(&made.lease, None).await.unwrap_err().code(), Some(Code::NotFound));

    // No renewal reaches beyond the longest time, and none longer than the role allows is given.
    let made = scene.issue(600).await;
    let renewed = scene.bob.lease_renew(&made.lease, Some(1_000_000)).await.unwrap();
    assert_eq!((renewed.expires_ms, renewed.max_ms), (made.max_ms, made.max_ms));
    let long = scene.bob.database_issue(&name("app"), &name("reader"), Some(25 * 3600)).await.unwrap_err();
    assert_eq!(long.code(), Some(Code::Malformed));
    scene.bob.lease_revoke(&made.lease).await.unwrap();
    scene.users(0).await;

    // The audit log says who had which user, and that it is gone.
    let lines = lines(&scene.world).await;
    let told = |wanted: LeaseEvent| {
        lines.iter().any(|line| {
            matches!(&line.body, Body::Lease { event, lease, user, .. }
                if *event == wanted && *lease == ended.lease && user.as_str() == ended.user)
        })
    };
    assert!(told(LeaseEvent::Begun) && told(LeaseEvent::Ended));

    // Neither password nor what is sent of it stands in the database's log.
    let log = scene.server.log();
    assert!(log.contains("CREATE ROLE") && !log.contains(&made.password), "{log}");
    finish(scene.world).await;
}

/// A function of a dropped user must not run with the rights of the user who drops it, and a table is not deleted:
/// without a role for them the user stays, locked out, and with one they go there.
async fn what_it_made_is_nobodys(scene: &Scene, made: &Credentials) {
    let makes = "CREATE TABLE kept AS SELECT 1 AS x; CREATE FUNCTION trap() RETURNS name LANGUAGE sql SECURITY DEFINER \
                 AS 'SELECT current_user'";
    scene.server.try_sql(&made.user, &made.password, makes).unwrap();
    scene.world.clock.pass(700 * SECOND);
    let began = Instant::now();
    loop {
        let error = scene.leases().await.remove(0).error.unwrap_or_default();
        if error.contains("--owner") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!scene.logs_in(made));
    assert_eq!(scene.server.users(), std::slice::from_ref(&made.user));
    let admin = ADMIN.replace('"', "\"\"");
    scene.server.sql(&format!(
        "CREATE ROLE leftovers NOLOGIN; GRANT leftovers TO \"{admin}\"; GRANT CREATE ON SCHEMA public TO leftovers"
    ));
    let put = PutDatabase { owner: Some("leftovers".into()), ..reached(&scene.server) };
    // Her challenge is old, which her own clock does not tell her.
    scene.alice.database(&name("app")).await.unwrap();
    scene.alice.database_put(&name("app"), &put).await.unwrap();
    scene.world.clock.pass(300 * SECOND);
    scene.users(0).await;
    assert_eq!(scene.server.sql("SELECT x FROM kept"), "1");
    assert_eq!(scene.server.sql("SELECT trap()"), "leftovers");
}

/// A statement that never worked keeps a user until the role says another, and then no longer than somebody waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_a_role_is_put_right_for_leases_that_run() {
    let Some(scene) = Scene::new(Shape::default()).await else {
        skip!("database::a_mistake_in_a_role_is_put_right_for_leases_that_run", "needs postgresql");
    };
    let mut role = PutDatabaseRole { revocation: vec!["DROP ROLL {{name}}".into()], ..role_body() };
    scene.alice.database_role_put(&name("app"), &name("reader"), &role).await.unwrap();
    let made = scene.issue(600).await;
    scene.bob.lease_revoke(&made.lease).await.unwrap();
    let began = Instant::now();
    // The clock passes each wait until the next one is five minutes.
    while scene.leases().await[0].attempts < 9 {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", scene.leases().await);
        scene.world.clock.pass(20 * SECOND);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Their challenges are old, which their own clocks do not tell them.
    scene.alice.database(&name("app")).await.unwrap();
    scene.bob.leases(None, None).await.unwrap();
    let stuck = scene.leases().await.remove(0);
    assert_eq!(stuck.state, LeaseState::Stuck);
    assert!(stuck.error.unwrap().contains("SQLSTATE 42601") && !scene.logs_in(&made));
    role.revocation = vec!["DROP ROLE {{name}}".into()];
    scene.alice.database_role_put(&name("app"), &name("reader"), &role).await.unwrap();
    scene.bob.lease_revoke(&made.lease).await.unwrap();
    scene.none_left().await;
    assert!(scene.server.users().is_empty());
    finish(scene.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_its_owners_alone() {
    let Some(scene) = Scene::new(Shape::default()).await else {
        skip!("database::a_lease_is_its_owners_alone", "needs postgresql");
    };
    let made = scene.issue(600).await;
    for refused in [
        scene.alice.lease(&made.lease).await.unwrap_err(),
        scene.alice.lease_renew(&made.lease, None).await.unwrap_err(),
        scene.alice.lease_revoke(&made.lease).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Some(Code::NotFound), "{refused}");
    }
    assert!(scene.alice.leases(None, None).await.unwrap().leases.is_empty());
    let all = scene.alice.leases_revoke(&RevokeLeases::all()).await.unwrap_err();
    assert_eq!(all.code(), Some(Code::Denied));
    assert!(scene.logs_in(&made));
    // Without the right and the role there are no more users, and the one who is there lives on.
    let admin = scene.world.client(&scene.world.admins[0]);
    scene.alice.database_role_delete(&name("app"), &name("reader")).await.unwrap();
    admin.policy_delete(&name("databases")).await.unwrap();
    let denied = scene.bob.database_issue(&name("app"), &name("reader"), None).await.unwrap_err();
    assert_eq!(denied.code(), Some(Code::Denied));
    let renewed = scene.bob.lease_renew(&made.lease, Some(1_000_000)).await.unwrap();
    assert_eq!(renewed.expires_ms, made.max_ms);
    assert!(scene.logs_in(&made));
    // Disabled, he keeps nothing.
    admin.principal_disable(&scene.bob_person.name).await.unwrap();
    scene.users(0).await;
    finish(scene.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_together() {
    let Some(scene) = Scene::new(Shape::default()).await else {
        skip!("database::leases_end_together", "needs postgresql");
    };
    scene.alice.database_role_put(&name("app"), &name("other"), &role_body()).await.unwrap();
    let carol_person = scene.world.admit("carol").await;
    let carol = scene.world.client(&carol_person);
    let admin = scene.world.client(&scene.world.admins[0]);
    for role in ["reader", "reader", "other"] {
        scene.bob.database_issue(&name("app"), &name(role), None).await.unwrap();
        carol.database_issue(&name("app"), &name(role), None).await.unwrap();
    }
    assert_eq!(scene.server.users().len(), 6);
    admin.leases_revoke(&RevokeLeases::resource("database/app/oth")).await.unwrap();
    admin.leases_revoke(&RevokeLeases::resource("database/app/other")).await.unwrap();
    scene.users(4).await;
    let carol_id = admin.resolve("carol").await.unwrap().principal();
    let of_carol = LeasesOf { principal: Some(carol_id), ..LeasesOf::default() };
    assert_eq!(admin.leases_of(&of_carol, None, None).await.unwrap().leases.len(), 2);
    admin.leases_revoke(&RevokeLeases::principal(carol_id)).await.unwrap();
    scene.users(2).await;
    let one = scene.bob.leases(None, None).await.unwrap().leases[0].id;
    admin.leases_revoke(&RevokeLeases::lease(one)).await.unwrap();
    scene.users(1).await;
    let left = scene.alice.database_delete(&name("app")).await.unwrap_err();
    assert_eq!(left.code(), Some(Code::Exists));
    for role in ["reader", "other"] {
        scene.alice.database_role_delete(&name("app"), &name(role)).await.unwrap();
    }
    let left = scene.alice.database_delete(&name("app")).await.unwrap_err();
    assert!(left.to_string().contains("leases"), "{left}");
    admin.leases_revoke(&RevokeLeases::all()).await.unwrap();
    scene.users(0).await;
    // The audit log says what was demanded, also of who may not.
    let denied = carol.leases_revoke(&RevokeLeases::resource("database/app")).await.unwrap_err();
    assert_eq!(denied.code(), Some(Code::Denied));
    let lines = lines(&scene.world).await;
    let demands = lines.iter().filter_map(|line| match &line.body {
        Body::Request(request) => request.demanded.as_deref().cloned(),
        _ => None,
    });
    let resource = |text: &str| Demanded::Resource(bulla_core::audit::Names::Clear.resource(&text.parse().unwrap()));
    let expected = [
        resource("database/app/oth"),
        resource("database/app/other"),
        Demanded::Principal(carol_id),
        Demanded::Lease(one),
        Demanded::All,
        resource("database/app"),
    ];
    assert_eq!(demands.collect::<Vec<_>>(), expected);
    let began = Instant::now();
    while scene.alice.database_delete(&name("app")).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    finish(scene.world).await;
}

/// A database that is down for an hour loses no revocation, and what it is asked for meanwhile leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_is_cleaned_once_it_is_back() {
    let Some(mut scene) = Scene::new(Shape::durable()).await else {
        skip!("database::a_database_that_is_down_is_cleaned_once_it_is_back", "needs postgresql");
    };
    for _ in 0..10 {
        scene.issue(600).await;
    }
    scene.server.kill();
    let refused = scene.bob.database_issue(&name("app"), &name("reader"), None).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::DatabaseFailed), "{refused}");
    assert_eq!(scene.leases().await.len(), 10, "nothing was asked for, so nothing is left");
    scene.world.clock.pass(601 * SECOND);
    // Time passes, and each minute it is tried.
    let admin = scene.world.client(&scene.world.admins[0]);
    let mut stuck = 0;
    for _ in 0..12 {
        scene.world.clock.pass(300 * SECOND);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let of = LeasesOf { stuck: true, ..LeasesOf::default() };
        stuck = admin.leases_of(&of, None, None).await.unwrap().leases.len();
    }
    assert_eq!(stuck, 10, "each is overdue, tried or not");
    let leases = scene.leases().await;
    assert_eq!(leases.len(), 10);
    assert!(leases.iter().any(|lease| lease.attempts > 0 && lease.error.is_some()), "{leases:?}");
    // A restart forgets nothing either.
    scene.world.stop().await;
    scene.server.restart();
    assert_eq!(scene.server.users().len(), 10);
    scene.world.start().await;
    scene.world.unseal().await;
    scene.world.clock.pass(HOUR);
    scene.users(0).await;
    finish(scene.world).await;
}

/// A wall clock that is set forward ends no lease, and one that is set back lengthens none.
#[tokio::test(flavor = "multi_thread")]
async fn leases_go_by_the_steady_clock() {
    let Some(scene) = Scene::new(Shape::default()).await else {
        skip!("database::leases_go_by_the_steady_clock", "needs postgresql");
    };
    let made = scene.issue(600).await;
    scene.world.clock.step(24 * HOUR as i64);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(scene.server.users().contains(&made.user));
    scene.world.clock.step(-48 * HOUR as i64);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    scene.world.clock.pass(601 * SECOND);
    scene.users(0).await;
    scene.world.clock.step(24 * HOUR as i64);
    finish_after_steps(scene.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_changes_its_meaning() {
    let Some(scene) = Scene::new(Shape::default()).await else {
        skip!("database::no_statement_changes_its_meaning", "needs postgresql");
    };
    let role = |creation: &str| PutDatabaseRole { creation: vec![creation.to_owned()], ..role_body() };
    for (creation, part) in [
        ("CREATE ROLE \"{{name}}\" LOGIN", "{{name}}"),
        ("CREATE ROLE {{name}} LOGIN PASSWORD '{{password}}'", "'{{password}}'"),
        ("CREATE ROLE {{name}}; DROP TABLE x", "; DROP"),
        ("CREATE ROLE {{name}} -- x", "-- x"),
        ("CREATE ROLE x{{name}}", "x{{name}}"),
        ("DO $$ CREATE ROLE {{name}} $$", "{{name}}"),
        ("CREATE ROLE {{user}}", "{{user}}"),
        ("CREATE ROLE fixed", ""),
    ] {
        let refused = scene.alice.database_role_put(&name("app"), &name("bad"), &role(creation)).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::BadTemplate), "{creation}");
        assert!(refused.to_string().contains(part), "{creation}: {refused}");
    }
    // A statement that the server refuses leaves neither user nor lease, and its error no password.
    let broken = role("CREATE ROLE {{name}} LOGIN PASSWORD {{password}} GRANT");
    scene.alice.database_role_put(&name("app"), &name("broken"), &broken).await.unwrap();
    let refused = scene.bob.database_issue(&name("app"), &name("broken"), None).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::DatabaseFailed));
    assert!(refused.to_string().contains("SQLSTATE 42601") && !refused.to_string().contains("SCRAM"), "{refused}");
    let half = PutDatabaseRole {
        creation: vec!["CREATE ROLE {{name}} LOGIN".into(), "GRANT no_such_role TO {{name}}".into()],
        ..role_body()
    };
    scene.alice.database_role_put(&name("app"), &name("half"), &half).await.unwrap();
    let refused = scene.bob.database_issue(&name("app"), &name("half"), None).await.unwrap_err();
    assert!(refused.to_string().contains("no_such_role"), "{refused}");
    assert!(scene.server.users().is_empty());
    // A password that is wrong, and a host that is not there, are told before anything is stored.
    let wrong = PutDatabase { password: "wrong".into(), ..reached(&scene.server) };
    let refused = scene.alice.database_put(&name("wrong"), &wrong).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::DatabaseFailed), "{refused}");
    assert!(refused.to_string().contains("28P01"), "{refused}");
    let open = PutDatabase { host: "db.example".into(), ..reached(&scene.server) };
    let refused = scene.alice.database_put(&name("open"), &open).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Malformed), "no TLS to another machine");
    // What is wrong with it is said, though nothing that it says.
    let put = || reached(&scene.server);
    for (bad, says) in [
        (PutDatabase { connections: 33, ..put() }, "the most connections at once are 1 to 32"),
        (
            PutDatabase { owner: Some("x".into()), engine: DatabaseEngine::Mariadb, ..put() },
            "an owner is for PostgreSQL",
        ),
        (PutDatabase { ca: Some("x".into()), ..put() }, "the authorities (ca) are PEM"),
        (PutDatabase { host: "evil@host/x".into(), ..put() }, "the host is a name or an IP address alone"),
    ] {
        let refused = scene.alice.database_put(&name("bad"), &bad).await.unwrap_err();
        assert!(refused.code() == Some(Code::Malformed) && refused.to_string().contains(says), "{refused}");
        assert!(!refused.to_string().contains("evil"), "{refused}");
        let denied = scene.bob.database_put(&name("bad"), &bad).await.unwrap_err();
        assert_eq!(denied.code(), Some(Code::Denied), "{denied}");
    }
    what_a_role_sets_is_its_own(&scene).await;
    // Nothing tells the administering password.
    let shown = format!("{:?}", scene.alice.database(&name("app")).await.unwrap());
    assert!(!shown.contains("first'"), "{shown}");
    finish(scene.world).await;
}

/// What one role's statements set does not reach another's, over the same connection; and where a role says itself how
/// a user is dropped, its sessions end all the same, and one who is not there is dropped.
async fn what_a_role_sets_is_its_own(scene: &Scene) {
    let put = PutDatabase { connections: 1, ..reached(&scene.server) };
    scene.alice.database_put(&name("app"), &put).await.unwrap();
    scene.server.sql("CREATE TABLE plain AS SELECT 1 AS x");
    let admin = ADMIN.replace('"', "\"\"");
    scene.server.sql(&format!("GRANT SELECT ON plain TO \"{admin}\" WITH GRANT OPTION"));
    let create = role_body().creation.remove(0);
    let own = vec!["REVOKE ALL ON public.plain FROM {{name}}".to_owned(), "DROP ROLE {{name}}".to_owned()];
    let grant = "GRANT SELECT ON plain TO {{name}}".to_owned();
    let set = "SET search_path = nowhere".to_owned();
    let mut role = PutDatabaseRole { creation: vec![create, grant, set], revocation: own, ..role_body() };
    scene.alice.database_role_put(&name("app"), &name("sets"), &role).await.unwrap();
    let first = scene.bob.database_issue(&name("app"), &name("sets"), None).await.unwrap();
    role.creation.pop();
    scene.alice.database_role_put(&name("app"), &name("plain"), &role).await.unwrap();
    let second = scene.bob.database_issue(&name("app"), &name("plain"), None).await.unwrap();
    std::thread::scope(|scope| {
        // It holds its own row, which everybody may change the password of.
        let holds = "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'mine'; SELECT pg_sleep(100)";
        let sleeping = scope.spawn(|| scene.server.try_sql(&first.user, &first.password, holds));
        std::thread::sleep(Duration::from_millis(500));
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| runtime.block_on(scene.bob.lease_revoke(&first.lease))).unwrap();
        assert!(sleeping.join().unwrap().is_err());
    });
    let drop = format!("REVOKE ALL ON plain FROM {}; DROP ROLE {}", second.user, second.user);
    scene.server.try_sql(ADMIN, PASSWORD, &drop).unwrap();
    scene.bob.lease_revoke(&second.lease).await.unwrap();
    scene.none_left().await;
    assert!(scene.server.users().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administering_password_is_known_to_the_cluster_alone() {
    let Some(scene) = Scene::new(Shape::durable()).await else {
        skip!("database::the_administering_password_is_known_to_the_cluster_alone", "needs postgresql");
    };
    let made = scene.issue(600).await;
    scene.alice.database_rotate(&name("app")).await.unwrap();
    assert!(scene.server.try_sql(ADMIN, PASSWORD, "SELECT 1").is_err(), "the first password works no more");
    let second = scene.issue(600).await;
    assert!(scene.logs_in(&made) && scene.logs_in(&second));
    scene.alice.database_rotate(&name("app")).await.unwrap();
    let database = scene.alice.database(&name("app")).await.unwrap();
    assert!(database.rotated_ms.is_some() && !database.rotating);
    for lease in [made.lease, second.lease] {
        scene.bob.lease_revoke(&lease).await.unwrap();
    }
    scene.none_left().await;
    assert!(!scene.logs_in(&made) && !scene.logs_in(&second));
    finish(scene.world).await;
}

/// The same request again finds the same user, also by another process of the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_makes_one_user() {
    let Some(mut scene) = Scene::new(Shape::durable()).await else {
        skip!("database::a_repeated_request_makes_one_user", "needs postgresql");
    };
    let mut caller = Caller::new(&scene.world, &scene.bob_person).await;
    let nonce = caller.nonce();
    let body = bulla_wire::json::to_vec(&api::IssueCredentials { ttl_s: Some(600) });
    let request =
        caller.request("POST", "/v1/database/app/reader:issue", bulla_wire::signature::JSON_MEDIA_TYPE, body, nonce);
    let mut passwords = Vec::new();
    for round in 0..3 {
        if round == 2 {
            scene.world.stop().await;
            scene.world.start().await;
            scene.world.unseal().await;
            caller = Caller::new(&scene.world, &scene.bob_person).await;
        }
        let again = caller.sign(request.clone(), nonce);
        let answer = caller.send(&again).await.ok();
        let opened =
            bulla_crypto::envelope::open(&[&*scene.bob_person.identity], &answer.body, usize::MAX).await.unwrap();
        let made: Credentials = bulla_wire::json::parse(opened.plaintext.expose(), 1 << 20).unwrap();
        passwords.push(made.password);
    }
    assert!(passwords.iter().all(|password| *password == passwords[0]));
    assert_eq!(scene.server.users().len(), 1);
    finish(scene.world).await;
}

/// Two hundred leases end at once (a hundred thousand in a night), and one principal gets no more than its share.
#[tokio::test(flavor = "multi_thread")]
async fn many_leases_end_at_once() {
    let Some(mut scene) = Scene::new(Shape::durable()).await else {
        skip!("database::many_leases_end_at_once", "needs postgresql");
    };
    let count = if long() { 100_000 } else { 200 };
    scene.world.stop().await;
    scene.world.config.limits.leases = count;
    scene.world.start().await;
    scene.world.unseal().await;
    scene.bob = scene.world.client(&scene.bob_person);
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let bob = scene.bob.clone();
        let share = count / 4 + u64::from(worker < count % 4);
        tasks.spawn(async move {
            for _ in 0..share {
                bob.database_issue(&name("app"), &name("reader"), Some(3600)).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    println!("{count} users were made in {:?}", began.elapsed());
    let more = scene.bob.database_issue(&name("app"), &name("reader"), None).await.unwrap_err();
    assert_eq!(more.code(), Some(Code::TooManyLeases), "{more}");
    assert_eq!(scene.server.users().len() as u64, count);
    let began = Instant::now();
    scene.world.clock.pass(3601 * SECOND);
    while !scene.server.users().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(120 + count / 20), "{} are left", scene.server.users().len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("they were dropped in {:?}", began.elapsed());
    let began = Instant::now();
    while scene.bob.database_issue(&name("app"), &name("reader"), None).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "its share is free again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    finish(scene.world).await;
}

fn maria(server: &Mariadb) -> PutDatabase {
    let (user, password) = (mariadb::ADMIN.into(), mariadb::PASSWORD.into());
    PutDatabase { engine: DatabaseEngine::Mariadb, user, password, ..database(server.port()) }
}

fn maria_role() -> PutDatabaseRole {
    let creation = vec![
        "CREATE USER {{name}}@'127.0.0.1' IDENTIFIED BY {{password}}".to_owned(),
        "GRANT SELECT ON app.* TO {{name}}@'127.0.0.1'".to_owned(),
    ];
    PutDatabaseRole { creation, ..role_body() }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_users_live_as_long_as_their_leases() {
    let Some(mut server) = tokio::task::spawn_blocking(Mariadb::start).await.unwrap() else {
        skip!("database::mariadb_users_live_as_long_as_their_leases", "needs mariadb-server");
    };
    let world = World::new(Shape::durable()).await;
    let alice = world.client(&world.admit("alice").await);
    let text = "permit (principal, action in Bulla::Action::\"database\", resource);".to_owned();
    let put = PutPolicy { text, replaces: None };
    world.client(&world.admins[0]).policy_put(&name("databases"), &put).await.unwrap();
    let wrong = PutDatabase { password: "wrong".into(), ..maria(&server) };
    let refused = alice.database_put(&name("app"), &wrong).await.unwrap_err();
    assert!(refused.to_string().contains("error 1045"), "{refused}");
    alice.database_put(&name("app"), &maria(&server)).await.unwrap();
    alice.database_role_put(&name("app"), &name("reader"), &maria_role()).await.unwrap();
    let gone = async |server: &Mariadb| {
        let began = Instant::now();
        while !server.users().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", server.users());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };

    // Used, renewed, expired.
    let made = alice.database_issue(&name("app"), &name("reader"), Some(600)).await.unwrap();
    assert_eq!(server.try_sql(&made.user, &made.password, "SELECT 1"), Ok("1".to_owned()));
    world.clock.pass(500 * SECOND);
    alice.lease_renew(&made.lease, Some(600)).await.unwrap();
    world.clock.pass(300 * SECOND);
    tokio::time::sleep(Duration::from_millis(2000)).await;
    assert_eq!(server.users(), std::slice::from_ref(&made.user));
    world.clock.pass(301 * SECOND);
    gone(&server).await;

    // Revoked, its sessions end. The client's challenge is five minutes old, which its own clock does not tell it.
    assert!(alice.leases(None, None).await.unwrap().leases.is_empty());
    let made = alice.database_issue(&name("app"), &name("reader"), None).await.unwrap();
    let running = std::thread::scope(|scope| {
        let sleeping = scope.spawn(|| server.try_sql(&made.user, &made.password, "SELECT SLEEP(100)"));
        std::thread::sleep(Duration::from_millis(500));
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| runtime.block_on(alice.lease_revoke(&made.lease))).unwrap();
        let began = Instant::now();
        let ended = sleeping.join().unwrap();
        (ended, began.elapsed())
    });
    assert!(running.0.is_err() && running.1 < Duration::from_secs(60), "{running:?}");
    gone(&server).await;

    // Half a user is none, and an error tells nothing of the statement.
    let mut half = maria_role();
    half.creation[1] = "GRANT SELECT ON nothing.* TO {{name}}@'127.0.0.1'".to_owned();
    alice.database_role_put(&name("app"), &name("half"), &half).await.unwrap();
    let refused = alice.database_issue(&name("app"), &name("half"), None).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::DatabaseFailed));
    assert!(refused.to_string().contains("error 1044") && !refused.to_string().contains("bulla_"), "{refused}");
    gone(&server).await;
    for creation in ["CREATE USER '{{name}}'@'%'", "CREATE USER `{{name}}`@'%'", "CREATE USER {{name}}@{{password}}"] {
        let role = PutDatabaseRole { creation: vec![creation.to_owned()], ..role_body() };
        let refused = alice.database_role_put(&name("app"), &name("bad"), &role).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::BadTemplate), "{creation}");
    }

    // Only the cluster knows the password.
    alice.database_rotate(&name("app")).await.unwrap();
    assert!(server.try_sql(mariadb::ADMIN, mariadb::PASSWORD, "SELECT 1").is_err());
    let made = alice.database_issue(&name("app"), &name("reader"), Some(600)).await.unwrap();

    // Away while the lease ends: it is there, and so is the user, until the server is back.
    server.kill();
    world.clock.pass(601 * SECOND);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let left = alice.leases(None, None).await.unwrap().leases;
    assert_eq!(left.iter().map(|lease| &lease.user).collect::<Vec<_>>(), [&made.user]);
    server.restart();
    world.clock.pass(HOUR);
    gone(&server).await;
    finish(world).await;
}

/// However many sessions a user has, and whatever statements drop it, they end with the lease.
#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_of_a_user_of_mariadb_end() {
    let Some(server) = tokio::task::spawn_blocking(Mariadb::start).await.unwrap() else {
        skip!("database::all_sessions_of_a_user_of_mariadb_end", "needs mariadb-server");
    };
    server.sql("SET GLOBAL max_connections = 600");
    let world = World::new(Shape::durable()).await;
    let alice = world.client(&world.admit("alice").await);
    let text = "permit (principal, action in Bulla::Action::\"database\", resource);".to_owned();
    let put = PutPolicy { text, replaces: None };
    world.client(&world.admins[0]).policy_put(&name("databases"), &put).await.unwrap();
    alice.database_put(&name("app"), &maria(&server)).await.unwrap();
    let role = PutDatabaseRole { revocation: vec!["DROP USER {{name}}@'127.0.0.1'".to_owned()], ..maria_role() };
    alice.database_role_put(&name("app"), &name("reader"), &role).await.unwrap();
    let made = alice.database_issue(&name("app"), &name("reader"), Some(600)).await.unwrap();
    let mut sessions = Vec::new();
    for _ in 0..300 {
        let options = mysql_async::OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(server.port());
        let options = options.user(Some(&made.user)).pass(Some(&made.password)).prefer_socket(false);
        sessions.push(mysql_async::Conn::new(options).await.unwrap());
    }
    let count =
        || server.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER LIKE 'bulla@_%' ESCAPE '@'");
    assert_eq!(count(), "300");
    alice.lease_revoke(&made.lease).await.unwrap();
    let began = Instant::now();
    while !server.users().is_empty() || count() != "0" {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?} {}", server.users(), count());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(sessions);
    finish(world).await;
}

/// Why nothing answers is said once, and alike of both servers.
#[tokio::test]
async fn a_server_that_is_not_there_is_told_plainly() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for engine in [DatabaseEngine::Postgres, DatabaseEngine::Mariadb] {
        let connection = Connection::new(name("app"), PutDatabase { engine, ..database(port) }, 0).unwrap();
        let error = bulla_server::database::Client::connect(&connection).await.err().unwrap();
        assert_eq!(error.to_string(), "the database is not reached: Connection refused (os error 111)");
    }
}

/// MariaDB writes statements about users as they are into each of its logs, that for replicas included.
#[tokio::test(flavor = "multi_thread")]
async fn no_log_of_mariadb_holds_a_password() {
    let Some(server) = tokio::task::spawn_blocking(Mariadb::start).await.unwrap() else {
        skip!("database::no_log_of_mariadb_holds_a_password", "needs mariadb-server");
    };
    server.sql("CREATE USER fixed@'127.0.0.1', fixed@'10.%'");
    let connection = Connection::new(name("app"), maria(&server), 0).unwrap();
    let (created, fixed, root) = ("canary-of-a-user", "canary-of-a-static-role", "canary-of-the-root");
    let rotated = Password::new(root.into());
    bulla_server::database::Client::rotate(&connection, &rotated).await.unwrap();
    let connection = Connection { password: rotated, ..connection };
    let (mut admin, _) = bulla_server::database::Client::connect(&connection).await.unwrap();
    let made = User { name: "made", password: created, expires_ms: 0 };
    admin.run(Job::Create, &maria_role().creation, made).await.unwrap();
    admin.run(Job::Password, &[], User { name: "fixed", password: fixed, ..made }).await.unwrap();
    for (user, password) in [("made", created), ("fixed", fixed), (mariadb::ADMIN, root)] {
        assert_eq!(server.try_sql(user, password, "SELECT 1"), Ok("1".to_owned()), "{user}");
    }
    let mut read = 0;
    for file in std::fs::read_dir(server.logs()).unwrap() {
        let (path, has) = (file.unwrap().path(), |bytes: &[u8], text: &str| {
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        });
        let bytes = std::fs::read(&path).unwrap();
        read += usize::from(has(&bytes, "CREATE USER `made`") && has(&bytes, "ALTER USER `fixed`"));
        assert!(!has(&bytes, "canary"), "{} holds a password", path.display());
    }
    assert_eq!(read, 3, "the statements are in each log");
    // Where a server takes no hash, nothing is sent in clear in its place.
    server.sql("INSTALL SONAME 'simple_password_check'");
    let refused = admin.run(Job::Create, &maria_role().creation, User { name: "other", ..made }).await.unwrap_err();
    assert!(refused.to_string().contains("strict_password_validation"), "{refused}");
    let general = std::fs::read_to_string(server.logs().join("general")).unwrap();
    assert!(general.contains("`other`") && !general.contains("canary"), "{general}");
}

/// Names and passwords of every character that a quote could mind.
fn nasty() -> Vec<(String, String)> {
    let all: Vec<char> = (1..=127_u8).map(char::from).chain(['ä', '€', '\u{ff07}', '\u{2019}']).collect();
    let chunk = |chunk: &[char]| format!("n{}n", chunk.iter().collect::<String>());
    let mut texts: Vec<String> = all.chunks(8).map(chunk).collect();
    texts.extend(
        ["x''", "\"\"", "``", "\\'", "\\\\", "'; DROP USER x; --", "{{name}}", "$$", "/*", "*/", "%s"]
            .map(str::to_owned),
    );
    texts.iter().map(|text| (text.clone(), format!("p{text}"))).collect()
}

async fn stays(connection: Connection, creation: &[&str]) {
    let templates: Vec<String> = creation.iter().map(|text| (*text).to_owned()).collect();
    let (mut admin, _) = bulla_server::database::Client::connect(&connection).await.unwrap();
    for (user, password) in nasty() {
        let made = User { name: &user, password: &password, expires_ms: 4_000_000_000_000 };
        admin.run(Job::Create, &templates, made).await.unwrap_or_else(|error| panic!("{user:?}: {error}"));
        let own = Connection { user: user.clone(), password: Password::new(password.clone()), ..connection.clone() };
        let (mut client, _) = bulla_server::database::Client::connect(&own)
            .await
            .unwrap_or_else(|error| panic!("{user:?} {password:?}: {error}"));
        assert!(client.is_open());
        // It may not make others, so it is no admin by another name.
        let other = User { name: "other", ..made };
        assert!(client.run(Job::Create, &templates, other).await.is_err(), "{user:?}");
        admin.run(Job::Drop, &[], made).await.unwrap_or_else(|error| panic!("{user:?}: {error}"));
        assert!(bulla_server::database::Client::connect(&own).await.is_err(), "{user:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_name_and_password_are_they_stay_that_in_postgres() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else {
        skip!("database::whatever_name_and_password_are_they_stay_that_in_postgres", "needs postgresql");
    };
    let connection = Connection::new(name("app"), reached(&server), 0).unwrap();
    stays(connection, &["CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_name_and_password_are_they_stay_that_in_mariadb() {
    let Some(server) = tokio::task::spawn_blocking(Mariadb::start).await.unwrap() else {
        skip!("database::whatever_name_and_password_are_they_stay_that_in_mariadb", "needs mariadb-server");
    };
    let connection = Connection::new(name("app"), maria(&server), 0).unwrap();
    stays(connection, &["CREATE USER {{name}}@'127.0.0.1' IDENTIFIED BY {{password}}"]).await;
}

/// TLS, with a certificate for the host by whom the configuration names, and by nobody else.
async fn by_tls(put: PutDatabase, ca: &str) {
    let verified = PutDatabase { tls: api::DatabaseTls::Verify, ca: Some(ca.to_owned()), ..put };
    let connect = async |put: &PutDatabase| {
        let connection = Connection::new(name("app"), put.clone(), 0).unwrap();
        bulla_server::database::Client::connect(&connection).await
    };
    assert!(connect(&verified).await.unwrap().0.is_open());
    let (other, _) = bulla_testkit::tls::of_this_machine();
    for refused in [
        PutDatabase { ca: Some(other), ..verified.clone() },
        PutDatabase { ca: None, ..verified.clone() },
        PutDatabase { host: "localhost".into(), ..verified },
    ] {
        let error = connect(&refused).await.err().unwrap();
        assert!(matches!(error, DatabaseError::Unreachable(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_configured_server_is_believed() {
    let (postgres, mariadb) = tokio::task::spawn_blocking(|| (Postgres::start(), Mariadb::start())).await.unwrap();
    let (Some(postgres), Some(mariadb)) = (postgres, mariadb) else {
        skip!("database::only_the_configured_server_is_believed", "needs postgresql and mariadb-server");
    };
    by_tls(reached(&postgres), postgres.ca()).await;
    by_tls(maria(&mariadb), mariadb.ca()).await;
}
