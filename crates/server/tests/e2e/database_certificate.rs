//! Users of a real PostgreSQL who have no password: their certificates log in while their leases run, and never after.

use crate::cases::{certified, database, role_body};
use crate::support::finish;
use bulla_client::Client;
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

async fn certify(client: &Client, pair: &KeyPair) -> CertificateCredentials {
    client.database_certify(&name("app"), &name("cert"), &pair.subject_public_key_info(), Some(600)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_a_password_logs_in_by_certificate() {
    let Some(mut server) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else {
        skip!("database_certificate::a_user_without_a_password_logs_in_by_certificate", "needs postgresql");
    };
    let world = World::new(Shape::durable()).await;
    let alice = world.client(&world.admit("alice").await);
    let text = "permit (principal, action in Bulla::Action::\"database\", resource);".to_owned();
    let policy = PutPolicy { text, replaces: None };
    world.client(&world.admins[0]).policy_put(&name("databases"), &policy).await.unwrap();
    let put = PutDatabase { user: ADMIN.into(), password: PASSWORD.into(), ..database(server.port()) };
    let (app, cert) = (name("app"), name("cert"));
    alice.database_put(&app, &put).await.unwrap();

    // There is no password in such a role, and no renewal.
    let missing = alice.database_ca(&app).await.unwrap_err();
    assert_eq!(missing.code(), Some(Code::NotFound), "{missing}");
    let with = PutDatabaseRole { creation: role_body().creation, ..certified() };
    let refused = alice.database_role_put(&app, &cert, &with).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::BadTemplate), "{refused}");
    let renewal = vec!["ALTER ROLE {{name}} VALID UNTIL {{expiration}}".to_owned()];
    let refused = alice.database_role_put(&app, &cert, &PutDatabaseRole { renewal, ..certified() }).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Malformed), "{refused}");
    server.sql("CREATE ROLE readers NOLOGIN");
    alice.database_role_put(&app, &cert, &certified()).await.unwrap();
    alice.database_role_put(&app, &name("reader"), &role_body()).await.unwrap();
    let authority = alice.database_ca(&app).await.unwrap();
    alice.database_role_put(&app, &cert, &certified()).await.unwrap();
    assert_eq!(alice.database_ca(&app).await.unwrap(), authority, "it stays the same");
    server.by_certificate("readers", &authority);

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
