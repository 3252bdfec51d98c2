//! Killed between intent and effect and word of leases, on a real PostgreSQL: in the end every user is gone whose lease
//! is not known to run, and one of two passwords works.

use crate::many;
use crate::timed::Victim;
use bulla_client::{Client, ClientError, LeasesOf};
use bulla_server::clock::Clock as _;
use bulla_server::failpoint::{
    LEASE_AFTER_DROP, LEASE_AFTER_EFFECT, LEASE_AFTER_RENEWAL, LEASE_BEFORE_DROP, LEASE_BEFORE_EFFECT, LEASE_MARKED,
    ROTATE_AFTER_SET, ROTATE_BEFORE_SET, STATIC_AFTER_SET, STATIC_BEFORE_SET,
};
use bulla_testkit::postgres::{ADMIN, PASSWORD, Postgres};
use bulla_testkit::skip;
use bulla_testkit::world::{Person, Shape, World};
use bulla_wire::api::{
    DatabaseEngine, DatabaseTls, LeaseState, PutDatabase, PutDatabaseRole, PutPolicy, PutStaticRole, RevokeLeases,
};
use bulla_wire::error::Code;
use bulla_wire::id::LeaseId;
use bulla_wire::name::Name;
use std::time::{Duration, Instant};

/// What is asked for while the server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Issue,
    Renew,
    Revoke,
    RevokeAll,
    Rotate,
    RotateStatic,
}

const CASES: &[(&str, Act)] = &[
    (LEASE_BEFORE_EFFECT, Act::Issue),
    (LEASE_AFTER_EFFECT, Act::Issue),
    (LEASE_AFTER_RENEWAL, Act::Renew),
    (LEASE_MARKED, Act::RevokeAll),
    (LEASE_BEFORE_DROP, Act::Revoke),
    (LEASE_AFTER_DROP, Act::Revoke),
    (ROTATE_BEFORE_SET, Act::Rotate),
    (ROTATE_AFTER_SET, Act::Rotate),
    (STATIC_BEFORE_SET, Act::RotateStatic),
    (STATIC_AFTER_SET, Act::RotateStatic),
];

/// The points that end a server here.
pub fn points() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(point, _)| *point)
}

const SECOND: u64 = 1000;
/// How long a lease is pending at most.
const PENDING: u64 = 120 * SECOND;
const TTL_S: u64 = 3600;
const MAX_TTL_S: u64 = 7200;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_dies_a_user_is_gone_in_the_end() {
    if tokio::task::spawn_blocking(Postgres::start).await.unwrap().is_none() {
        skip!("lease::whatever_dies_a_user_is_gone_in_the_end", "needs postgresql");
    }
    many(CASES.to_vec(), |(point, act)| async move { one(point, act).await }).await;
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

struct Scene {
    world: World,
    server: Postgres,
    bob: Person,
}

impl Scene {
    async fn new() -> Self {
        let server = tokio::task::spawn_blocking(Postgres::start).await.unwrap().unwrap();
        let world = World::new(Shape::durable()).await;
        let bob = world.admit("bob").await;
        let text = "permit (principal, action in Bulla::Action::\"database\", resource);".to_owned();
        let admin = world.client(&world.admins[0]);
        admin.policy_put(&name("databases"), &PutPolicy { text, replaces: None }).await.unwrap();
        let database = PutDatabase {
            engine: DatabaseEngine::Postgres,
            host: "127.0.0.1".into(),
            port: server.port(),
            database: None,
            user: ADMIN.into(),
            password: PASSWORD.into(),
            owner: None,
            tls: DatabaseTls::Off,
            ca: None,
            connections: 2,
            check: true,
            moved: false,
        };
        admin.database_put(&name("app"), &database).await.unwrap();
        let role = PutDatabaseRole {
            creation: vec!["CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}".into()],
            revocation: vec![],
            renewal: vec![],
            ttl_s: TTL_S,
            max_ttl_s: MAX_TTL_S,
            certificate: false,
        };
        admin.database_role_put(&name("app"), &name("reader"), &role).await.unwrap();
        server.sql("CREATE ROLE billing LOGIN PASSWORD 'typed'");
        let billing = PutStaticRole { user: "billing".into(), rotate_every_s: 3600 };
        admin.database_static_put(&name("app"), &name("billing"), &billing).await.unwrap();
        Self { world, server, bob }
    }

    /// Killed within a rotation, nobody is told a password that may be another one; it is rotated by itself.
    async fn one_password_works(&self) {
        let admin = self.world.client(&self.world.admins[0]);
        let began = Instant::now();
        let told = loop {
            match admin.database_static_creds(&name("app"), &name("billing")).await {
                Ok(told) => break told,
                Err(error) => {
                    assert_eq!(error.code(), Some(Code::DatabaseFailed), "{error}");
                    assert!(began.elapsed() < Duration::from_secs(60), "{error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        self.server.try_sql("billing", &told.password, "SELECT 1").unwrap();
        // Whoever died may have left a request behind: another password waits for its end.
        let busy = admin.database_static_rotate(&name("app"), &name("billing")).await.unwrap_err();
        assert!(busy.to_string().contains("an earlier rotation"), "{busy}");
        self.world.clock.pass(PENDING + SECOND);
        admin.database(&name("app")).await.unwrap();
        admin.database_static_rotate(&name("app"), &name("billing")).await.unwrap();
        let next = admin.database_static_creds(&name("app"), &name("billing")).await.unwrap();
        assert!(self.server.try_sql("billing", &told.password, "SELECT 1").is_err());
        self.server.try_sql("billing", &next.password, "SELECT 1").unwrap();
    }

    async fn leases(&self) -> Vec<bulla_wire::api::Lease> {
        let admin = self.world.client(&self.world.admins[0]);
        admin.leases_of(&LeasesOf::default(), None, None).await.unwrap().leases
    }

    /// Waits until no lease is left.
    async fn ended(&self) {
        let began = Instant::now();
        while !self.leases().await.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", self.leases().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn ask(act: Act, bob: &Client, admin: &Client, lease: Option<LeaseId>) -> Result<(), ClientError> {
    match (act, lease) {
        (Act::Renew, Some(lease)) => bob.lease_renew(&lease, None).await.map(drop),
        (Act::Revoke, Some(lease)) => bob.lease_revoke(&lease).await.map(drop),
        (Act::RevokeAll, _) => admin.leases_revoke(&RevokeLeases::all()).await,
        (Act::Rotate, _) => admin.database_rotate(&name("app")).await,
        (Act::RotateStatic, _) => admin.database_static_rotate(&name("app"), &name("billing")).await,
        _ => bob.database_issue(&name("app"), &name("reader"), None).await.map(drop),
    }
}

async fn one(point: &'static str, act: Act) {
    let mut scene = Scene::new().await;
    let mut lease = None;
    if act != Act::Issue {
        let bob = scene.world.client(&scene.bob);
        lease = Some(bob.database_issue(&name("app"), &name("reader"), None).await.unwrap().lease);
    }
    scene.world.stop().await;

    let victim = Victim::start(&scene.world, scene.world.clock.unix_ms(), (point, 1)).await;
    victim.unseal().await;
    let (bob, admin) = (victim.client(&scene.bob), victim.client(&scene.world.admins[0]));
    tokio::select! {
        // Marks and drops are made behind the answer.
        _ = async {
            drop(ask(act, &bob, &admin, lease).await);
            std::future::pending::<()>().await
        } => {}
        () = victim.death(point) => {}
    }

    scene.world.start().await;
    scene.world.unseal().await;
    match act {
        Act::Rotate => {
            let admin = scene.world.client(&scene.world.admins[0]);
            assert!(admin.database(&name("app")).await.unwrap().rotating);
            // The cluster reaches it, whichever password it has; and ends what was begun.
            let bob = scene.world.client(&scene.bob);
            bob.database_issue(&name("app"), &name("reader"), None).await.unwrap();
            admin.database_rotate(&name("app")).await.unwrap();
            assert!(!admin.database(&name("app")).await.unwrap().rotating);
            assert!(scene.server.try_sql(ADMIN, PASSWORD, "SELECT 1").is_err());
            bob.database_issue(&name("app"), &name("reader"), None).await.unwrap();
            scene.world.clock.pass((TTL_S + 1) * SECOND);
            scene.ended().await;
        }
        Act::RotateStatic => scene.one_password_works().await,
        Act::Issue => {
            let leases = scene.leases().await;
            assert_eq!(leases.len(), 1);
            assert_eq!(leases[0].state, LeaseState::Pending);
            scene.world.clock.pass(PENDING + SECOND);
            scene.ended().await;
            assert!(scene.server.users().is_empty());
        }
        Act::Renew => {
            assert_eq!(scene.server.users().len(), 1);
            scene.world.clock.pass((TTL_S + 1) * SECOND);
            scene.ended().await;
            assert!(scene.server.users().is_empty());
        }
        Act::Revoke | Act::RevokeAll => {
            scene.ended().await;
            assert!(scene.server.users().is_empty());
        }
    }
    scene.world.stop().await;
}
