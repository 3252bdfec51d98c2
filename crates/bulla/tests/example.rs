//! The examples of the client library, against a real server.

use bulla_testkit::{Cli, Options, Server, bulla};

/// The examples themselves, so that no stale build of them is tried.
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
}
