//! Static roles on a real PostgreSQL and a real MariaDB: the password that is told logs in, and the one before does not.

use crate::cases::{database, static_body};
use crate::support::{finish, lines, unsealed};
use bulla_client::Client;
use bulla_core::action::RoleName;
use bulla_core::audit::Body;
use bulla_testkit::mariadb::{self, Mariadb};
use bulla_testkit::postgres::{self, Postgres};
use bulla_testkit::skip;
use bulla_testkit::world::{Shape, World};
use bulla_wire::api::{DatabaseEngine, PutDatabase, PutPolicy, PutStaticRole, StaticCredentials};
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use std::time::{Duration, Instant};

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A cluster whose alice runs databases, and whose bob reads passwords of static roles.
struct Scene {
    world: World,
    alice: Client,
    bob: Client,
}

impl Scene {
    async fn new(put: &PutDatabase) -> Self {
        let world = World::new(Shape::durable()).await;
        let (alice, bob) = (world.admit("alice").await, world.admit("bob").await);
        let text = "permit (principal, action in Bulla::Action::\"database\", resource) when { principal.name == \"alice\" };\n\
                    permit (principal, action == Bulla::Action::\"database.static-creds\", resource);\n";
        let policy = PutPolicy { text: text.to_owned(), replaces: None };
        world.client(&world.admins[0]).policy_put(&name("databases"), &policy).await.unwrap();
        let (alice, bob) = (world.client(&alice), world.client(&bob));
        alice.database_put(&name("app"), put).await.unwrap();
        Self { world, alice, bob }
    }

    async fn creds(&self) -> StaticCredentials {
        self.bob.database_static_creds(&name("app"), &name("billing")).await.unwrap()
    }

    /// Waits until another password is told.
    async fn after(&self, before: &StaticCredentials) -> StaticCredentials {
        let began = Instant::now();
        loop {
            let now = self.bob.database_static_creds(&name("app"), &name("billing")).await;
            if let Ok(now) = &now
                && now.password != before.password
            {
                return now.clone();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{now:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_owns_a_password_of_postgres() {
    let Some(mut server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else {
        skip!("static_role::the_cluster_owns_a_password_of_postgres", "needs postgresql");
    };
    let put =
        PutDatabase { user: postgres::ADMIN.into(), password: postgres::PASSWORD.into(), ..database(server.port()) };
    let scene = Scene::new(&put).await;
    let (app, billing) = (name("app"), name("billing"));
    let user = "billing \"of' them";
    let put_static = PutStaticRole { user: user.into(), rotate_every_s: 3600 };

    // Who is not there, or may not be changed, is told and leaves nothing.
    let refused = scene.alice.database_static_put(&app, &billing, &put_static).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::DatabaseFailed));
    assert!(refused.to_string().contains("42704"), "{refused}");
    let superuser = PutStaticRole { user: "postgres".into(), ..put_static.clone() };
    let refused = scene.alice.database_static_put(&app, &billing, &superuser).await.unwrap_err();
    assert!(refused.to_string().contains("42501"), "{refused}");
    assert!(scene.alice.database_static_list(&app, None, None).await.unwrap().names.is_empty());
    let own = PutStaticRole { user: postgres::ADMIN.into(), ..put_static.clone() };
    let refused = scene.alice.database_static_put(&app, &billing, &own).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Exists), "{refused}");

    server.sql("CREATE ROLE \"billing \"\"of' them\" LOGIN PASSWORD 'typed'");
    scene.alice.database_static_put(&app, &billing, &put_static).await.unwrap();
    let logs_in = |server: &Postgres, password: &str| server.try_sql(user, password, "SELECT 1").is_ok();
    assert!(!logs_in(&server, "typed"));
    let first = scene.creds().await;
    assert_eq!((first.user.as_str(), first.rotates_ms), (user, first.rotated_ms + HOUR));
    assert!(logs_in(&server, &first.password));
    let denied = scene.bob.database_static_rotate(&app, &billing).await.unwrap_err();
    assert_eq!(denied.code(), Some(Code::Denied));

    // By time, by itself; the audit log says so.
    scene.world.clock.pass(HOUR + SECOND);
    let second = scene.after(&first).await;
    assert!(logs_in(&server, &second.password) && !logs_in(&server, &first.password));
    let began = Instant::now();
    while !lines(&scene.world).await.into_iter().any(|line| {
        matches!(&line.body, Body::PasswordRotated { resource, user: told }
            if resource.as_str() == "database/app/billing" && told.as_str().starts_with("billing"))
    }) {
        assert!(began.elapsed() < Duration::from_secs(10), "no line tells of the rotation");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Now, because somebody asks.
    scene.alice.database(&app).await.unwrap();
    scene.alice.database_static_rotate(&app, &billing).await.unwrap();
    let third = scene.creds().await;
    assert!(logs_in(&server, &third.password) && !logs_in(&server, &second.password));

    // Away, it keeps its password, which is told; back, it is rotated.
    server.kill();
    let refused = scene.alice.database_static_rotate(&app, &billing).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::DatabaseFailed), "{refused}");
    assert_eq!(scene.creds().await, StaticCredentials { rotates_ms: scene.creds().await.rotates_ms, ..third.clone() });
    let view = scene.alice.database_static(&app, &billing).await.unwrap();
    assert!(view.attempts > 0 && view.error.is_some() && !view.rotating, "{view:?}");
    server.restart();
    assert!(logs_in(&server, &third.password));
    scene.world.clock.pass(HOUR);
    let fourth = scene.after(&third).await;
    assert!(logs_in(&server, &fourth.password) && !logs_in(&server, &third.password));
    assert!(!server.log().contains(&fourth.password), "no password stands in the database's log");

    // Deleted, the user stays as it is.
    scene.alice.database(&app).await.unwrap();
    let kept = scene.alice.database_delete(&app).await.unwrap_err();
    assert!(kept.to_string().contains("static roles"), "{kept}");
    scene.alice.database_static_delete(&app, &billing).await.unwrap();
    assert!(logs_in(&server, &fourth.password));
    let gone = scene.bob.database_static_creds(&app, &billing).await.unwrap_err();
    assert_eq!(gone.code(), Some(Code::NotFound));
    finish(scene.world).await;
}

/// Whoever loses the right while a rotation goes on is not told the password.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_disabled_while_it_waits_gets_nothing() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else {
        skip!("static_role::who_is_disabled_while_it_waits_gets_nothing", "needs postgresql");
    };
    let put =
        PutDatabase { user: postgres::ADMIN.into(), password: postgres::PASSWORD.into(), ..database(server.port()) };
    let scene = Scene::new(&put).await;
    let (app, billing) = (name("app"), name("billing"));
    server.sql("CREATE ROLE billing LOGIN PASSWORD 'typed'");
    let body = PutStaticRole { user: "billing".into(), rotate_every_s: 3600 };
    scene.alice.database_static_put(&app, &billing, &body).await.unwrap();
    scene.creds().await;
    let unsealed = unsealed(&scene.world);
    let turn = unsealed.rotations.wait(&RoleName::new(&app, &billing)).await;
    let bob = scene.bob.clone();
    let waiting = tokio::spawn(async move { bob.database_static_creds(&name("app"), &name("billing")).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    scene.world.client(&scene.world.admins[0]).principal_disable(&name("bob")).await.unwrap();
    drop(turn);
    let refused = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unauthenticated), "{refused}");
    finish(scene.world).await;
}

/// A user of MariaDB has one password at all of its hosts.
#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_owns_a_password_of_mariadb() {
    let Some(server) = tokio::task::spawn_blocking(Mariadb::start).await.unwrap() else {
        skip!("static_role::the_cluster_owns_a_password_of_mariadb", "needs mariadb-server");
    };
    let put = PutDatabase {
        engine: DatabaseEngine::Mariadb,
        user: mariadb::ADMIN.into(),
        password: mariadb::PASSWORD.into(),
        ..database(server.port())
    };
    let scene = Scene::new(&put).await;
    let (app, billing) = (name("app"), name("billing"));
    let refused = scene.alice.database_static_put(&app, &billing, &static_body("billing")).await.unwrap_err();
    assert!(refused.to_string().contains("no such user"), "{refused}");
    for host in ["127.0.0.1", "10.%"] {
        server.sql(&format!("CREATE USER billing@'{host}' IDENTIFIED BY 'typed'"));
    }
    scene.alice.database_static_put(&app, &billing, &static_body("billing")).await.unwrap();
    let logs_in = |password: &str| server.try_sql("billing", password, "SELECT 1").is_ok();
    let first = scene.creds().await;
    assert!(logs_in(&first.password) && !logs_in("typed"));
    let kept = "SELECT COUNT(DISTINCT authentication_string) FROM mysql.user WHERE User = 'billing'";
    assert_eq!(server.sql(kept), "1", "each host has the same");
    scene.world.clock.pass(25 * HOUR);
    let second = scene.after(&first).await;
    assert!(logs_in(&second.password) && !logs_in(&first.password));
    assert_eq!(server.sql(kept), "1");
    scene.alice.database(&app).await.unwrap();
    scene.alice.database_static_delete(&app, &billing).await.unwrap();
    finish(scene.world).await;
}
