//! Users of a real PostgreSQL who have no password: their certificates log in while their leases run, and never after.

use crate::cases::{certified, database, role_body};
use crate::support::finish;
use bulla_client::Client;
use bulla_core::engine::database::Connection;
use bulla_server::database::{Job, User};
use bulla_testkit::postgres::{ADMIN, PASSWORD, Postgres};
use bulla_testkit::skip;
use bulla_testkit::world::{Shape, World};
use bulla_wire::api::{CertificateCredentials, PutDatabase, PutDatabaseRole, PutPolicy};
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use rcgen::{KeyPair, PublicKeyData as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Key and certificate as libpq takes them.
fn kept(pair: &KeyPair, made: &CertificateCredentials) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let mut options = std::fs::File::options();
        let file = options.create_new(true).write(true).mode(0o600).open(folder.path().join(name));
        std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
    };
    write("client.key", pair.serialize_pem());
    write("client.crt", made.certificate.clone());
    folder
}

/// How often the user who makes others is a member of somebody, beside the group that it was given to hand on.
fn memberships(server: &Postgres) -> String {
    let admin = ADMIN.replace('\'', "''");
    server.sql(&format!(
        "SELECT count(*) FROM pg_auth_members WHERE member = (SELECT oid FROM pg_roles WHERE rolname = '{admin}') \
         AND roleid <> 'certified'::regrole"
    ))
}

/// Rules for users by certificate are for these alone: neither the user who makes them is locked out by them, whatever
/// cannot be dropped, nor are users with passwords.
#[tokio::test(flavor = "multi_thread")]
async fn rules_for_certificates_lock_out_nobody_else() {
    let Some(mut server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else {
        skip!("database_certificate::rules_for_certificates_lock_out_nobody_else", "needs postgresql");
    };
    let (world, alice) = scene(&server).await;
    let app = name("app");
    server.sql("CREATE ROLE readers NOLOGIN; CREATE ROLE certified NOLOGIN IN ROLE readers");
    // What PostgreSQL demands from version 16 on of whoever hands on a role; it makes a member of it.
    let admin = ADMIN.replace('"', "\"\"");
    server.sql(&format!("GRANT certified TO \"{admin}\" WITH ADMIN OPTION"));
    alice.database_role_put(&app, &name("cert"), &certified()).await.unwrap();
    let creation = vec!["CREATE ROLE {{name}} LOGIN PASSWORD {{password}} IN ROLE readers".to_owned()];
    alice.database_role_put(&app, &name("reader"), &PutDatabaseRole { creation, ..role_body() }).await.unwrap();
    server.by_certificate("certified", &alice.database_ca(&app).await.unwrap());

    // It owns something, so it is not dropped.
    let pair = KeyPair::generate().unwrap();
    let stuck = certify(&alice, &pair).await;
    server.sql(&format!("CREATE TABLE kept (); ALTER TABLE kept OWNER TO {}", stuck.user));
    alice.lease_revoke(&stuck.lease).await.unwrap();
    let began = Instant::now();
    while !alice.lease(&stuck.lease).await.unwrap().error.is_some_and(|error| error.contains("--owner")) {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(memberships(&server), "0", "of a user who was not dropped");

    // With all connections closed, users are made and dropped as before.
    server.kill();
    server.restart();
    let made = alice.database_issue(&app, &name("reader"), None).await.unwrap();
    assert_eq!(server.try_sql(&made.user, &made.password, "SELECT 1"), Ok("1".to_owned()));
    let next = certify(&alice, &pair).await;
    let in_as = server.try_sql_by_certificate(&next.user, kept(&pair, &next).path(), "SELECT current_user");
    assert_eq!(in_as, Ok(next.user.clone()));
    for lease in [made.lease, next.lease] {
        alice.lease_revoke(&lease).await.unwrap();
    }
    let began = Instant::now();
    while server.users() != std::slice::from_ref(&stuck.user) {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", server.users());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    finish(world).await;
}

/// Statements of a role run as a member of the user, who may stay there by them; the membership does not.
#[tokio::test(flavor = "multi_thread")]
async fn no_membership_outlives_a_drop() {
    let Some(server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else {
        skip!("database_certificate::no_membership_outlives_a_drop", "needs postgresql");
    };
    let put = PutDatabase { user: ADMIN.into(), password: PASSWORD.into(), ..database(server.port()) };
    let connection = Connection::new(name("app"), put, 0).unwrap();
    let (mut client, _) = bulla_server::database::Client::connect(&connection).await.unwrap();
    let user = User { name: "bulla_made", password: "made", expires_ms: 4_000_000_000_000 };
    client.run(Job::Create, &role_body().creation, user).await.unwrap();
    server.sql("CREATE ROLE certified; CREATE TABLE kept (); ALTER TABLE kept OWNER TO bulla_made");
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    client.run(Job::Drop, &texts(&["ALTER ROLE {{name}} CONNECTION LIMIT 0"]), user).await.unwrap();
    assert_eq!((memberships(&server).as_str(), server.users().len()), ("0", 1));
    client.run(Job::Drop, &texts(&["DROP ROLE {{name}}"]), user).await.unwrap_err();
    assert_eq!(memberships(&server), "0");
    client.run(Job::Drop, &texts(&["DROP OWNED BY {{name}}", "DROP ROLE {{name}}"]), user).await.unwrap();
    assert!(server.users().is_empty());
}

/// A cluster that has the database `app`, and somebody who may do everything with it.
async fn scene(server: &Postgres) -> (World, Client) {
    let world = World::new(Shape::durable()).await;
    let alice = world.client(&world.admit("alice").await);
    let text = "permit (principal, action in Bulla::Action::\"database\", resource);".to_owned();
    let policy = PutPolicy { text, replaces: None };
    world.client(&world.admins[0]).policy_put(&name("databases"), &policy).await.unwrap();
    let put = PutDatabase { user: ADMIN.into(), password: PASSWORD.into(), ..database(server.port()) };
    alice.database_put(&name("app"), &put).await.unwrap();
    (world, alice)
}

async fn certify(client: &Client, pair: &KeyPair) -> CertificateCredentials {
    client.database_certify(&name("app"), &name("cert"), &pair.subject_public_key_info(), Some(600)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_a_password_logs_in_by_certificate() {
    let Some(mut server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else {
        skip!("database_certificate::a_user_without_a_password_logs_in_by_certificate", "needs postgresql");
    };
    let (world, alice) = scene(&server).await;
    let (app, cert) = (name("app"), name("cert"));

    // There is no password in such a role, and no renewal.
    let missing = alice.database_ca(&app).await.unwrap_err();
    assert_eq!(missing.code(), Some(Code::NotFound), "{missing}");
    let with = PutDatabaseRole { creation: role_body().creation, ..certified() };
    let refused = alice.database_role_put(&app, &cert, &with).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::BadTemplate), "{refused}");
    let renewal = vec!["ALTER ROLE {{name}} VALID UNTIL {{expiration}}".to_owned()];
    let refused = alice.database_role_put(&app, &cert, &PutDatabaseRole { renewal, ..certified() }).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Malformed), "{refused}");
    server.sql("CREATE ROLE certified NOLOGIN");
    alice.database_role_put(&app, &cert, &certified()).await.unwrap();
    alice.database_role_put(&app, &name("reader"), &role_body()).await.unwrap();
    let authority = alice.database_ca(&app).await.unwrap();
    alice.database_role_put(&app, &cert, &certified()).await.unwrap();
    assert_eq!(alice.database_ca(&app).await.unwrap(), authority, "it stays the same");
    server.by_certificate("certified", &authority);

    // Each role gives what it is for.
    let pair = KeyPair::generate().unwrap();
    let wrong = alice.database_issue(&app, &cert, None).await.unwrap_err();
    assert!(wrong.to_string().contains("by a certificate"), "{wrong}");
    let spki = pair.subject_public_key_info();
    let wrong = alice.database_certify(&app, &name("reader"), &spki, None).await.unwrap_err();
    assert!(wrong.to_string().contains("by a password"), "{wrong}");
    let wrong = alice.database_certify(&app, &cert, b"no key", None).await.unwrap_err();
    assert_eq!(wrong.code(), Some(Code::Malformed), "{wrong}");

    // Two users; each certificate is for its own key and its own user.
    let made = certify(&alice, &pair).await;
    let other_pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let other = certify(&alice, &other_pair).await;
    let (files, other_files) = (kept(&pair, &made), kept(&other_pair, &other));
    let in_as = |user: &str, folder: &Path| server.try_sql_by_certificate(user, folder, "SELECT current_user");
    assert_eq!(in_as(&made.user, files.path()), Ok(made.user.clone()));
    assert_eq!(in_as(&other.user, other_files.path()), Ok(other.user.clone()));
    assert!(in_as(&other.user, files.path()).unwrap_err().contains("certificate authentication failed"));
    assert!(in_as(&made.user, kept(&other_pair, &made).path()).is_err(), "another key");
    for user in [&made.user, &other.user] {
        let kept = format!("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = '{user}'");
        assert_eq!(server.sql(&kept), "t", "{user} has no password");
        assert!(server.try_sql(user, "", "SELECT 1").is_err() && server.try_sql(user, "x", "SELECT 1").is_err());
    }
    // Signed by somebody else it is none.
    let forged = CertificateCredentials { certificate: forged(&pair, &made.user), ..made.clone() };
    assert!(in_as(&made.user, kept(&pair, &forged).path()).is_err());

    // It ends with its lease, which is not renewed; revoked, it logs in no more.
    let lease = alice.lease(&made.lease).await.unwrap();
    assert_eq!((lease.expires_ms, lease.max_ms), (made.expires_ms, made.expires_ms));
    let kept_as_is = alice.lease_renew(&made.lease, None).await.unwrap_err();
    assert_eq!(kept_as_is.code(), Some(Code::Malformed), "{kept_as_is}");
    alice.lease_revoke(&made.lease).await.unwrap();
    let began = Instant::now();
    while server.users().contains(&made.user) {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(in_as(&made.user, files.path()).is_err());
    assert!(in_as(&other.user, other_files.path()).is_ok());
    finish(world).await;
}

/// A certificate for the user by an authority that is named like the cluster's.
fn forged(pair: &KeyPair, user: &str) -> String {
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(ca, KeyPair::generate().unwrap());
    let mut own = rcgen::CertificateParams::default();
    own.distinguished_name.push(rcgen::DnType::CommonName, user);
    own.signed_by(pair, &issuer).unwrap().pem()
}
