//! A transient server over restarts: contexts that trust its admins, a bundle that it begins with, and whoever takes its
//! place. With the real binary; `BULLA_BLESS=1` writes the transcripts anew.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::transcript::Transcript;
use bulla_testkit::{Cli, Options, Server, bulla};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEV: &str =
    "permit (principal in Bulla::Group::\"dev\", action in Bulla::Action::\"kv\", resource in Bulla::Kv::\"app\");\n";

fn transcript(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd").join(name)
}

fn path(cli: &Cli, name: &str) -> String {
    cli.work().join(name).display().to_string()
}

fn person(name: &str) -> Cli {
    let mut cli = Cli::new(bulla!());
    cli.run(["keygen", "-o", &format!("{name}.key")]).ok();
    cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
    cli.file("note.txt", b"the launch code\n");
    cli
}

/// Alice and Erin are the admins, Bob stands in the bundle.
struct World {
    alice: Cli,
    erin: Cli,
    bob: Cli,
}

impl World {
    fn new() -> Self {
        let world = Self { alice: person("alice"), erin: person("erin"), bob: person("bob") };
        world.alice.file("dev.cedar", DEV.as_bytes());
        world.plan("plan.toml", &["bob.pub"], "dev.cedar");
        world
    }

    /// A plan in Alice's folder; Bob's records lie in his.
    fn plan(&self, name: &str, records: &[&str], policy: &str) {
        let records: Vec<_> = records.iter().map(|record| format!("{:?}", path(&self.bob, record))).collect();
        let text = format!(
            "admins = [\"alice.pub\", {:?}]\nk = 2\n\n[[principal]]\nrecords = [{}]\ngroups = [\"dev\"]\n\
             attributes = {{ team = \"web\" }}\n\n[policies]\ndev = {policy:?}\n",
            path(&self.erin, "erin.pub"),
            records.join(", ")
        );
        self.alice.file(name, text.as_bytes());
    }

    /// A bundle that both admins signed.
    fn bundle(&self, plan: &str, file: &str, expires: &str) -> String {
        self.alice.run(["bundle", "create", plan, "-o", file, "--expires", expires]).ok();
        let file = path(&self.alice, file);
        self.erin.run(["bundle", "sign", &file, "--yes"]).ok();
        file
    }

    fn options(&self, bundle: &str) -> Options {
        let admins = Options::transient(bulla!()).admin(path(&self.alice, "alice.pub"));
        admins.admin(path(&self.erin, "erin.pub")).arg("--bundle").arg(bundle)
    }

    fn transcript<'a>(&'a self, server: Option<&Server>) -> Transcript<'a> {
        let all = Transcript::new()
            .person("alice", &self.alice)
            .person("erin", &self.erin)
            .person("bob", &self.bob)
            .variable("ALICE", &path(&self.alice, "alice.pub"))
            .variable("ERIN", &path(&self.erin, "erin.pub"))
            .variable("BUNDLE", &path(&self.alice, "bundle.json"));
        match server {
            Some(server) => all
                .variable("ADDR", server.address())
                .variable("READY", &server.directory().join("ready-1.json").display().to_string()),
            None => all,
        }
    }

    /// Makes the cluster that a started server waits for; its id.
    fn init(&self, server: &Server, start: u32) -> String {
        let ready = server.directory().join(format!("ready-{start}.json")).display().to_string();
        let (alice, erin) = (path(&self.alice, "alice.pub"), path(&self.erin, "erin.pub"));
        let init = ["init", "--name", "ci", "--admin", &alice, "--admin", &erin, "-k", "2", "--ready-file", &ready];
        let made = self.alice.run(init.into_iter().chain(["-o", "json"])).ok();
        serde_json::from_str::<Value>(&made).unwrap().get("cluster").unwrap().as_str().unwrap().to_owned()
    }

    fn unseal(&self, cluster: &str) {
        for admin in [&self.alice, &self.erin] {
            admin.run(["unseal", "--cluster", cluster, "--yes"]).ok();
        }
    }
}

/// Lines of the audit log of one kind.
fn audit(server: &Server, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(server.audit()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("kind").unwrap() == kind).collect()
}

#[test]
fn a_bundle_is_made_without_a_server() {
    let world = World::new();
    world.alice.file("broken.cedar", b"permit (principal, action, resource) when { principal.nothing };\n");
    world.plan("broken.toml", &["bob.pub"], "broken.cedar");
    world.plan("twice.toml", &["bob.pub", "bob.pub"], "dev.cedar");
    world.alice.file("odd.toml", b"admins = [\"alice.pub\"]\nk = 1\npolicy = []\n");
    world
        .transcript(None)
        .variable("BOB", &path(&world.bob, "bob.pub"))
        .variable("PLAN", &path(&world.alice, "plan.toml"))
        .check(&transcript("bundle.txt"));
}

/// The way of CI: the server is killed and comes back as another cluster, and nobody pins anything anew.
#[test]
fn contexts_outlive_the_cluster() {
    let world = World::new();
    let bundle = world.bundle("plan.toml", "bundle.json", "30d");
    let mut server = Server::start(world.options(&bundle));
    server.keep_address();
    world.transcript(Some(&server)).check(&transcript("transient-init.txt"));
    // The refused init made nothing.
    assert!(audit(&server, "initialised").is_empty());
    let cluster = world.init(&server, 1);
    world.transcript(Some(&server)).variable("CLUSTER", &cluster).check(&transcript("transient.txt"));
    let [line] = audit(&server, "initialised").try_into().unwrap();
    let told = line.get("bundle").unwrap();
    let count = |field: &str| told.get(field).unwrap().as_array().unwrap().len();
    assert_eq!((count("signers"), count("principals"), count("policies")), (2, 1, 1), "{told}");

    server.restart();
    let again = world.init(&server, 2);
    assert_ne!(again, cluster);
    world.transcript(Some(&server)).variable("CLUSTER", &again).check(&transcript("transient-again.txt"));

    // Others make a cluster in the same place. Nothing that anybody signed reaches it.
    server.kill();
    let (mallory, trent) = (person("mallory"), person("trent"));
    let records = [path(&mallory, "mallory.pub"), path(&trent, "trent.pub")];
    let address = server.address().to_owned();
    let other = Options::transient(bulla!()).listen(&address).admin(&records[0]).admin(&records[1]);
    let other = Server::start(other);
    let ready = other.directory().join("ready-1.json").display().to_string();
    let admins = ["--admin", &records[0], "--admin", &records[1], "-k", "2"];
    let init = ["init", "--name", "ci", "--ready-file", &ready, "--save-context", "mine"];
    mallory.run(init.into_iter().chain(admins)).ok();
    mallory.run(["unseal", "--yes"]).ok();
    let cluster = mallory.run(["context", "show", "-o", "json"]).ok();
    let cluster: Value = serde_json::from_str(&cluster).unwrap();
    let cluster = cluster.get("cluster").unwrap().as_str().unwrap();
    trent.run(["unseal", "--addr", &address, "--cluster", cluster, "--yes"]).ok();
    world.transcript(Some(&other)).check(&transcript("transient-others.txt"));
    let names: Vec<_> = audit(&other, "request").iter().map(|line| line.get("name").unwrap().to_string()).collect();
    assert!(!names.is_empty() && names.iter().all(|name| name == "\"mallory\"" || name == "\"trent\""), "{names:?}");
}

/// Keys that changed while a cluster lived stay changed for whoever saw it, and a newer bundle brings them.
#[test]
fn an_older_bundle_does_not_bring_an_old_key_back() {
    let world = World::new();
    let old = world.bundle("plan.toml", "bundle.json", "30d");
    let mut server = Server::start(world.options(&old));
    server.keep_address();
    let (alice, erin) = (path(&world.alice, "alice.pub"), path(&world.erin, "erin.pub"));
    for cli in [&world.alice, &world.erin, &world.bob] {
        let add = ["context", "add", "ci", server.address(), "--admin", &alice, "--admin", &erin, "-k", "2"];
        cli.run(add).ok();
    }
    world.unseal(&world.init(&server, 1));
    world.bob.run(["keygen", "--name", "bob", "-o", "bob2.key"]).ok();
    world.bob.run(["principal", "rotate", "bob2.key", "-o", "bob-next.pub"]).ok();
    world.alice.run(["principal", "add", &path(&world.bob, "bob-next.pub")]).ok();
    world.alice.run(["principal", "show", "bob"]).ok();

    server.restart();
    world.unseal(&world.init(&server, 2));
    let refused = world.alice.run(["wrap", "create", "--to", "bob", "note.txt"]).failed(4);
    assert!(refused.contains("bob is said to have record version 1"), "{refused}");
    assert!(refused.contains("bundle"), "{refused}");
    // Erin saw nothing newer, so she cannot know. Bob's new key is nobody's here.
    assert!(world.erin.run(["principal", "show", "bob"]).ok().contains("version 1"));
    let bob2 = path(&world.bob, "bob2.key");
    world.bob.run(["--identity", &bob2, "whoami"]).failed(14);

    world.plan("newer.toml", &["bob.pub", "bob-next.pub"], "dev.cedar");
    let newer = world.bundle("newer.toml", "newer.json", "30d");
    let address = server.address().to_owned();
    server.kill();
    let server = Server::start(world.options(&newer).listen(&address));
    world.unseal(&world.init(&server, 1));
    let slip = world.alice.run(["wrap", "create", "--to", "bob", "note.txt"]).ok();
    world.bob.run(["--identity", &bob2, "open", &slip, "-o", "opened.txt"]).ok();
    assert_eq!(std::fs::read(world.bob.work().join("opened.txt")).unwrap(), b"the launch code\n");
}

#[test]
fn a_server_does_not_start_with_a_bundle_that_does_not_hold() {
    let world = World::new();
    let good = world.bundle("plan.toml", "bundle.json", "30d");
    let late = world.bundle("plan.toml", "late.json", "1s");
    world.alice.run(["bundle", "create", "plan.toml", "-o", "half.json"]).ok();
    let text = std::fs::read_to_string(&good).unwrap();
    let place = text.rfind("\"sig\":\"").unwrap() + 7;
    let mut bent = text.clone().into_bytes();
    bent[place] = if bent[place] == b'A' { b'B' } else { b'A' };
    world.alice.file("bent.json", &bent);
    world.alice.file("large.json", format!("{text}{}", " ".repeat(320 * 1024)).as_bytes());
    world.alice.file("other.json", &std::fs::read(world.bob.work().join("bob.pub")).unwrap());
    std::thread::sleep(Duration::from_millis(1100));
    let in_alice = |name: &str| path(&world.alice, name);
    let stranger = path(&world.bob, "bob.pub");
    for (options, expected) in [
        (
            world.options(&in_alice("half.json")),
            "1 admins signed, 2 are needed\nhint: the admins who have not signed it run",
        ),
        (world.options(&late), "it has expired\nhint: start the server with a newer bundle"),
        (world.options(&in_alice("bent.json")), "does not verify"),
        (world.options(&in_alice("large.json")), "has more than 327680 bytes"),
        (world.options(&in_alice("other.json")), "has another type"),
        (world.options(&in_alice("alice.key")), "\nhint: `bulla bundle create` writes one"),
        (world.options(&in_alice("none.json")), "cannot open"),
        (world.options(&good).admin(stranger), "is listed with --admin and is no admin of the bundle"),
        (Options::durable(bulla!()).arg("--bundle").arg(&good), "init.bundle (from the flag --bundle): a cluster with"),
    ] {
        let mut server = Server::prepare(options);
        let failure = server.try_restart().unwrap_err();
        assert!(failure.log.contains(expected), "{expected}\n{}", failure.log);
        assert!(failure.status.is_some_and(|status| !status.success()));
    }
}
