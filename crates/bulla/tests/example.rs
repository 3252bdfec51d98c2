//! The examples of the client library, against a real server.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use bulla_testkit::postgres::{ADMIN, PASSWORD, Postgres};
use bulla_testkit::{Cli, Options, Server, bulla, skip};
use std::path::Path;
use std::time::{Duration, Instant};

/// The examples themselves, so that no stale build of them is tried.
#[expect(dead_code, reason = "its main is for the command line")]
#[path = "../../client/examples/databases.rs"]
mod databases;
#[expect(dead_code, reason = "its main is for the command line")]
#[path = "../../client/examples/deliver.rs"]
mod deliver;
#[expect(dead_code, reason = "its main is for the command line")]
#[path = "../../client/examples/secrets.rs"]
mod secrets;

#[test]
fn they_run() {
    let mut alice = Cli::new(bulla!());
    alice.run(["keygen", "-q", "-o", "alice.key"]).ok();
    let identity = alice.work().join("alice.key");
    alice.env("BULLA_IDENTITY", &identity);
    let server = Server::start(Options::transient(bulla!()).admin(alice.work().join("alice.pub")));
    let ready = server.directory().join("ready-1.json");
    let init = ["init", "--name", "test", "--admin", "alice.pub", "--save-context", "test", "--ready-file"];
    let made = alice.run(init.iter().copied().chain([ready.to_str().unwrap()])).ok();
    let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim();
    alice.run(["unseal", "--yes"]).ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(deliver::deliver(server.address(), cluster, &identity)).unwrap();
    let listed = alice.run(["wrap", "list"]).ok();
    assert!(listed.lines().count() == 2 && listed.contains("acked"), "one wrap, which arrived: {listed}");

    let groups = r#"permit (principal, action in [Bulla::Action::"kv", Bulla::Action::"transit"], resource);"#;
    alice.file("app.cedar", groups.as_bytes());
    alice.run(["policy", "put", "app", "app.cedar"]).ok();
    runtime.block_on(secrets::secrets(server.address(), cluster, &identity)).unwrap();
    let history = alice.run(["kv", "history", "app/db"]).ok();
    assert_eq!(history.lines().count(), 3, "two versions: {history}");
    runtime.block_on(with_a_database(&alice, server.address(), cluster, &identity));
}

/// The example of databases, with a real one.
async fn with_a_database(alice: &Cli, address: &str, cluster: &str, identity: &Path) {
    let Some(postgres) = Postgres::start() else {
        skip!("they_run", "needs postgresql");
    };
    postgres.sql("CREATE ROLE billing LOGIN PASSWORD 'typed'");
    let permit = r#"permit (principal, action in Bulla::Action::"database", resource);"#;
    alice.file("db.cedar", permit.as_bytes());
    alice.file("pw.txt", PASSWORD.as_bytes());
    alice.run(["policy", "put", "db", "db.cedar"]).ok();
    let port = postgres.port().to_string();
    let reached = ["--host", "127.0.0.1", "--port", &port, "--user", ADMIN, "--no-tls", "password=@pw.txt"];
    alice.run(["database", "configure", "app", "--engine", "postgres"].iter().chain(&reached)).ok();
    let creation = "CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}";
    alice.run(["database", "role", "put", "app", "reader", "--creation", creation]).ok();
    alice.run("database static put app billing --user billing --rotate-every 24h".split(' ')).ok();
    databases::databases(address, cluster, identity).await.unwrap();
    let began = Instant::now();
    while !postgres.users().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", postgres.users());
        std::thread::sleep(Duration::from_millis(100));
    }
}
