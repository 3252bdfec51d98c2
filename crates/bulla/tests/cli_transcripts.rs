//! What is typed and printed: success, and each main error with its hint. `BULLA_BLESS=1` writes the transcripts anew.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::transcript::Transcript;
use bulla_testkit::world::{Person, Shape, World, copy};
use bulla_testkit::{Cli, Options, Server, bulla};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An Ed25519 key of `ssh-keygen` that is encrypted with the passphrase "passphrase".
const LOCKED: &str = include_str!("cmd/locked.key");

fn transcript(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd").join(name)
}

fn private(cli: &Cli, name: &str, content: &[u8], mode: u32) {
    let path = cli.file(name, content);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_works_without_a_server() {
    let cli = Cli::new(bulla!());
    private(&cli, "wide.key", b"AGE-SECRET-KEY-1", 0o644);
    private(&cli, "locked", LOCKED.as_bytes(), 0o600);
    private(&cli, "wrong.txt", b"wrong\n", 0o600);
    private(&cli, "right.txt", b"passphrase\n", 0o600);
    private(&cli, "read.txt", b"passphrase\n", 0o644);
    cli.file("unknown.toml", b"data = \"data\"\nlistne = \"127.0.0.1:8250\"\n");
    cli.file("tls.toml", b"data = \"data\"\n[tls]\ncert = \"nothing.pem\"\nkey = \"nothing.key\"\n");
    for (directory, mode) in [("wide", 0o755), ("held", 0o700)] {
        let path = cli.work().join(directory);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    cli.file("held/bulla.redb", b"");
    Transcript::new().person("", &cli).check(&transcript("offline.txt"));
    // Whoever only looked made nothing.
    assert!(!cli.work().join("data").exists());
    assert!(std::fs::read_dir(cli.work().join("wide")).unwrap().next().is_none());
}

/// The record that `keygen` wrote for somebody.
fn record(cli: &Cli, name: &str) -> String {
    cli.work().join(format!("{name}.pub")).to_str().unwrap().to_owned()
}

/// People, of whom the first three are the admins of a cluster that any two of them open. The others know where it is.
fn two_of_three<const N: usize>(names: [&str; N]) -> ([Cli; N], Server, String) {
    let people = names.map(|name| {
        let mut cli = Cli::new(bulla!());
        cli.run(["keygen", "-q", "-o", &format!("{name}.key")]).ok();
        cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
        cli
    });
    let records: Vec<String> = people.iter().zip(names).take(3).map(|(cli, name)| record(cli, name)).collect();
    let [first, second, others @ ..] = &people[..] else { unreachable!("three admins") };
    let server = Server::start(Options::durable(bulla!()).admin(records.first().unwrap()));
    let ready = server.directory().join("ready-1.json");
    let mut init = vec!["init", "--name", "test", "-k", "2", "--ready-file", ready.to_str().unwrap()];
    records.iter().for_each(|record| init.extend(["--admin", record]));
    let made = first.run([&init[..], &["--save-context", "test"]].concat()).ok();
    let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
    for cli in [second].into_iter().chain(others) {
        cli.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
    }
    first.run(["unseal", "--yes"]).ok();
    second.run(["unseal", "--yes"]).ok();
    (people, server, cluster)
}

/// Two of three run a cluster; one loses its key, one is added, one takes a new key; what was there before still opens.
#[test]
fn the_admins_of_a_cluster_change() {
    let (mut people, mut server, cluster) = two_of_three(["ann", "ben", "cat", "dan"]);
    let ann = &people[0];
    ann.run(["keygen", "-q", "-o", "ann-2.key", "--name", "ann"]).ok();
    // The record of keygen is of version 1; the next version takes its place.
    std::fs::remove_file(ann.work().join("ann-2.pub")).unwrap();
    let (shared, next) = (server.directory().join("document.json"), server.directory().join("next.json"));
    let play = |people: &[Cli; 4], name: &str| {
        let [ann, ben, cat, dan] = people;
        Transcript::new()
            .person("ann", ann)
            .person("ben", ben)
            .person("cat", cat)
            .person("dan", dan)
            .variable("CLUSTER", &cluster)
            .variable("DOCUMENT", shared.to_str().unwrap())
            .variable("NEXT", next.to_str().unwrap())
            .variable("DAN", &record(dan, "dan"))
            .check(&transcript(name));
    };
    play(&people, "rekey.txt");
    // A restart finds the seal of the new admins, and only theirs.
    server.kill();
    server.restart();
    let identity = people[0].work().join("ann-2.key");
    people[0].env("BULLA_IDENTITY", identity);
    for cli in &mut people {
        cli.env("BULLA_ADDR", server.address());
    }
    play(&people, "rekey-restart.txt");
}

/// The manual's steps for an admin's key that was stolen, as they are typed there; then the server's own key was, too.
#[test]
fn a_stolen_key_is_taken_out() {
    let (people, mut server, cluster) = two_of_three(["ann", "ben", "cat", "dan", "eve"]);
    let [ann, ben, cat, dan, eve] = &people;
    let mut thief = Cli::new(bulla!());
    thief.env("BULLA_IDENTITY", ben.work().join("ben.key"));
    thief.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
    thief.file(
        "thief.cedar",
        b"permit (principal in Bulla::Group::\"admins\", action in Bulla::Action::\"kv\", resource);\n",
    );
    ben.run(["principal", "add", &record(dan, "dan"), "--group", "dev"]).ok();
    let (folder, node) = (server.directory().to_owned(), server.node().to_owned());
    let play = |name: &str, spki: &str| {
        let mut play = Transcript::new().person("thief", &thief);
        for (name, cli) in [("ann", ann), ("ben", ben), ("cat", cat), ("dan", dan), ("eve", eve)] {
            play = play.person(name, cli);
        }
        for file in ["ALONE", "UNUSED", "DOCUMENT", "NEXT", "NODES"] {
            play = play.variable(file, folder.join(format!("{}.json", file.to_lowercase())).to_str().unwrap());
        }
        play.variable("CLUSTER", &cluster)
            .variable("NODE", &node)
            .variable("SPKI", spki)
            .variable("EVE", &record(eve, "eve"))
            .variable("BEN2", &record(ben, "ben2"))
            .check(&transcript(name));
    };
    play("stolen.txt", "");
    server.keep_address();
    server.stop();
    std::fs::rename(server.data().join("node.key"), folder.join("node.key")).unwrap();
    server.restart();
    play("stolen-node.txt", &server.ready().spki);
}

#[test]
fn what_works_with_a_server() {
    let (mut alice, mut bob) = (Cli::new(bulla!()), Cli::new(bulla!()));
    for (name, cli) in [("alice", &mut alice), ("bob", &mut bob)] {
        cli.run(["keygen", "-o", &format!("{name}.key")]).ok();
        cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
    }
    alice.file("note.txt", b"the launch code\n");
    alice.file(
        "dev.cedar",
        b"permit (principal in Bulla::Group::\"dev\", action in Bulla::Action::\"kv\", resource);\n",
    );
    alice.file("broken.cedar", b"permit (principal, action, resource) when { principal.nothing };\n");
    let first = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/policy/first.cedar")).unwrap();
    alice.file("set.json", serde_json::json!({ "first": first }).to_string().as_bytes());
    let server = Server::start(Options::transient(bulla!()).admin(alice.work().join("alice.pub")));
    let ready = server.directory().join("ready-1.json");
    let steps = |name: &str, cluster: &str| {
        Transcript::new()
            .person("alice", &alice)
            .person("bob", &bob)
            .variable("ADDR", server.address())
            .variable("READY", ready.to_str().unwrap())
            .variable("BOB", bob.work().join("bob.pub").to_str().unwrap())
            .variable("CLUSTER", cluster)
            .check(&transcript(name));
    };
    steps("init.txt", "");
    let context = alice.run(["context", "show", "-o", "json"]).ok();
    let context: serde_json::Value = serde_json::from_str(&context).unwrap();
    steps("server.txt", context.get("cluster").and_then(serde_json::Value::as_str).unwrap());
}

/// Transit keys from the first to the last verb, and each failure with its hint.
#[test]
fn what_transit_keys_do() {
    let (mut alice, mut bob) = (Cli::new(bulla!()), Cli::new(bulla!()));
    for (name, cli) in [("alice", &mut alice), ("bob", &mut bob)] {
        cli.run(["keygen", "-q", "-o", &format!("{name}.key")]).ok();
        cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
    }
    alice.file("card.txt", b"4000 0000 0000 0002\n");
    alice.file("app.tar", b"an archive\n");
    alice.file("large", &[7; 200_000]);
    alice.file("short.key", &[7; 31]);
    alice.file("own.key.bin", &[7; 32]);
    alice.file(
        "transit.cedar",
        b"permit (principal in Bulla::Group::\"admins\", action in Bulla::Action::\"transit\", resource);\n",
    );
    let server = Server::start(Options::transient(bulla!()).admin(alice.work().join("alice.pub")));
    let ready = server.directory().join("ready-1.json");
    let init = ["init", "--name", "test", "--any", "--admin", "alice.pub", "--ready-file", ready.to_str().unwrap()];
    let made = alice.run([&init[..], &["--save-context", "test"]].concat()).ok();
    let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
    alice.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob.work().join("bob.pub").to_str().unwrap()]).ok();
    bob.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
    Transcript::new().person("alice", &alice).person("bob", &bob).check(&transcript("transit.txt"));
    let read = |name: &str| std::fs::read(alice.work().join(name)).unwrap();
    assert_eq!(read("large.back"), read("large"));
    alice.file("cut.age", &read("large.age")[..150_000]);
    // Who was handed the key brings it back.
    alice.file("theirs.json", &std::fs::read(bob.work().join("theirs.json")).unwrap());
    alice.run(["transit", "delete", "orders"]).ok();
    alice.run(["transit", "restore", "orders", "theirs.json"]).ok();
    let back = alice.run(["decrypt", "large.age", "-o", "large.again"]);
    assert_eq!((back.code, read("large.again") == read("large")), (0, true), "{}", back.errors());
    let cut = alice.run(["decrypt", "cut.age", "-o", "cut"]);
    assert_eq!(cut.code, 4, "{}", cut.errors());
    assert!(cut.errors().contains("get the whole of it anew") && !alice.work().join("cut").exists());
    let mode = std::fs::metadata(alice.work().join("orders.bin")).unwrap().permissions().mode();
    assert_eq!((read("orders.bin").len(), mode & 0o777), (32, 0o600));
    assert!(read("release.pem").starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
}

/// Somebody of the world at a command line of their own.
fn seated(world: &World, person: &Person) -> Cli {
    let mut cli = Cli::new(bulla!());
    let record = bulla_wire::json::to_vec(&person.record);
    let text = person.identity.to_file_text(Some(person.name.as_str()), None).unwrap();
    private(&cli, "own.key", text.expose(), 0o600);
    cli.file(&format!("{}.pub", person.name), &record);
    cli.file("note.txt", b"the launch code\n");
    cli.env("BULLA_IDENTITY", cli.work().join("own.key"));
    cli.env("BULLA_ADDR", world.address());
    cli.env("BULLA_CLUSTER", world.cluster.to_string());
    cli
}

/// Waits for something that happens soon.
fn until(there: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !there() {
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A runtime for a server in the test's own process; commands are run beside it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn what_becomes_of_a_wrap() {
    let runtime = runtime();
    let world = runtime.block_on(World::new(Shape::default()));
    let people = ["alice", "bob", "mallory"].map(|name| runtime.block_on(world.admit(name)));
    let [alice, bob, mallory] = people.each_ref().map(|person| seated(&world, person));
    let (admin, thief) = (seated(&world, &world.admins[0]), seated(&world, &people[1]));
    let again = |words: &[&str]| {
        let [args @ .., times] = words else { panic!("what, and how often") };
        for _ in 0..times.parse().unwrap() {
            bob.run(args).failed(1);
        }
    };
    let clock = |words: &[&str]| {
        let [how, time] = words else { panic!("how, and by how much") };
        let ms = u64::try_from(humantime::parse_duration(time).unwrap().as_millis()).unwrap();
        // What is due by time, and the clock itself, are looked at once a second.
        match *how {
            "pass" => {
                world.clock.pass(ms);
                until(|| ["lapsed", "expired"].iter().all(|end| alice.run(["wrap", "list"]).text().contains(end)));
            }
            _ => {
                world.clock.step(i64::try_from(ms).unwrap());
                until(|| alice.run(["status"]).errors().contains("the clock moved"));
            }
        }
    };
    Transcript::new()
        .person("admin", &admin)
        .person("alice", &alice)
        .person("bob", &bob)
        .person("mallory", &mallory)
        .person("thief", &thief)
        .world("again", again)
        .world("clock", clock)
        .variable("CLUSTER", &world.cluster.to_string())
        .check(&transcript("wraps.txt"));
}

/// Secrets from their first version to their last, and whatever is refused on the way.
#[test]
fn the_life_of_a_secret() {
    let runtime = runtime();
    let world = runtime.block_on(World::new(Shape::default()));
    let people = ["alice", "bob"].map(|name| runtime.block_on(world.admit(name)));
    let [alice, bob] = people.each_ref().map(|person| seated(&world, person));
    let admin = seated(&world, &world.admins[0]);
    admin.file(
        "kv.cedar",
        b"permit (principal, action in Bulla::Action::\"kv\", resource) when { principal.name == \"alice\" };\n\
          permit (principal, action in [Bulla::Action::\"kv.get\", Bulla::Action::\"kv.list\"],\n\
          resource in Bulla::Kv::\"app\") when { principal.name == \"bob\" };\n\
          forbid (principal, action, resource in Bulla::Kv::\"app/private\") when { principal.name == \"bob\" };\n",
    );
    alice.file("password.txt", b"correct horse");
    alice.file("key.der", b"\x30\x03\x02\x01\xff");
    alice.file("large.bin", &[7; 197_000]);
    alice.file(
        "app.conf.tmpl",
        b"# {{{{ name }}\nurl = {{ kv/app/conf#password | json }}\nkey = {{kv/app/key | base64}}\n",
    );
    alice.file("bad.tmpl", b"a\nb = {{ kv/app/conf#password\n");
    let clock = |words: &[&str]| {
        let [time] = words else { panic!("by how much") };
        let ms = u64::try_from(humantime::parse_duration(time).unwrap().as_millis()).unwrap();
        world.clock.pass(ms);
        until(|| alice.run(["kv", "history", "app/short"]).text().contains("expired"));
    };
    Transcript::new()
        .person("admin", &admin)
        .person("alice", &alice)
        .person("bob", &bob)
        .world("pass", clock)
        .variable("LONG", &"app/".repeat(2500))
        .check(&transcript("kv.txt"));
    let made = alice.work().join("app.conf");
    assert!(std::fs::read_to_string(&made).unwrap().ends_with("key = MAMCAf8=\n"));
    assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o600);
    // A key whose name was forgotten looks like an option.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAAAAAAAA==\n-----END PRIVATE KEY-----";
    let refused = alice.run(["kv", "put", "app/bad", pem]);
    assert_eq!(refused.code, 64);
    assert!(!refused.errors().contains("MC4C") && refused.errors().contains("-----BEGIN"), "{}", refused.errors());
}

/// What a client remembers of the cluster, to be changed behind its back.
fn forge(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(&path, value.to_string()).unwrap();
}

/// The first record names its principal.
fn principal_of(person: &Person) -> String {
    bulla_crypto::evidence::Record::open(&person.record, None).unwrap().principal().to_string()
}

#[test]
fn whom_to_believe() {
    let runtime = runtime();
    let world = runtime.block_on(World::new(Shape::default()));
    let people = ["alice", "bob", "carol"].map(|name| runtime.block_on(world.admit(name)));
    let [alice, bob, carol] = people.each_ref().map(|person| seated(&world, person));
    let admin = seated(&world, &world.admins[0]);
    let again = Person::new("carol");
    let carol_again = admin.file("again.pub", &bulla_wire::json::to_vec(&again.record));
    alice.run(["principal", "show", "bob"]).ok();
    alice.run(["principal", "show", "carol"]).ok();
    let folder = alice.home().join(".local/state/bulla").join(world.cluster.base64url());
    let memory = |words: &[&str]| match words.join(" ").as_str() {
        "bob has the keys of carol" => forge(&folder, "known.json", |known| known["bob"] = known["carol"].clone()),
        "bob has a later record" => forge(&folder, "known.json", |known| {
            known["bob"] = known["carol"].clone();
            known["bob"]["principal"] = json!(principal_of(&people[1]));
            known["bob"]["version"] = json!(2);
        }),
        "forget bob" => forge(&folder, "known.json", |known| drop(known.as_object_mut().unwrap().remove("bob"))),
        "a later epoch was seen" => forge(&folder, "state.json", |seen| seen["epoch"] = json!(9)),
        "forget the epoch" => std::fs::remove_file(folder.join("state.json")).unwrap(),
        other => panic!("{other:?}"),
    };
    let old = alice.work().join("old.pub");
    Transcript::new()
        .person("admin", &admin)
        .person("alice", &alice)
        .person("bob", &bob)
        .person("carol", &carol)
        .world("memory", memory)
        .variable("CLUSTER", &world.cluster.to_string())
        .variable("OLD", old.to_str().unwrap())
        .variable("CAROL_AGAIN", carol_again.to_str().unwrap())
        .check(&transcript("trust.txt"));
}

#[test]
fn what_a_restore_asks_for() {
    let (mut alice, mut bob) = (Cli::new(bulla!()), Cli::new(bulla!()));
    for (name, cli) in [("alice", &mut alice), ("bob", &mut bob)] {
        cli.run(["keygen", "-q", "-o", &format!("{name}.key")]).ok();
        cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
        cli.file("note.txt", b"the launch code\n");
    }
    let mut server = Server::start(Options::durable(bulla!()).admin(alice.work().join("alice.pub")));
    server.keep_address();
    let ready = server.directory().join("ready-1.json");
    let init = ["init", "--name", "test", "--admin", "alice.pub", "--save-context", "test", "--ready-file"];
    let made = alice.run(init.iter().copied().chain([ready.to_str().unwrap()])).ok();
    let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim();
    bob.run(["context", "add", "test", server.address(), "--cluster", cluster]).ok();
    alice.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob.work().join("bob.pub").to_str().unwrap()]).ok();
    let (file, copy) = (server.data().join("bulla.redb"), server.directory().join("copy"));
    let address = server.address().to_owned();
    let server = RefCell::new(server);
    let store = |words: &[&str]| {
        let mut server = server.borrow_mut();
        server.stop();
        match words {
            ["copy"] => drop(std::fs::copy(&file, &copy).unwrap()),
            ["restore"] => std::fs::rename(&copy, &file).unwrap(),
            other => panic!("{other:?}"),
        }
        server.restart();
    };
    Transcript::new()
        .person("alice", &alice)
        .person("bob", &bob)
        .world("store", store)
        .variable("ADDR", &address)
        .variable("CLUSTER", cluster)
        .check(&transcript("restore.txt"));
}

/// Somebody who runs a cluster that is to be copied and put back, on two machines after it.
struct Night {
    people: [Cli; 6],
    server: Server,
    cluster: String,
    node: String,
    /// Of the first admin, then of Bob.
    slip: String,
}

impl Night {
    const NAMES: [&str; 6] = ["ann", "ben", "cat", "alice", "bob", "backup"];

    /// Two of three run it; Alice writes, Bob reads, and a program takes copies.
    fn begin() -> Self {
        let people = Self::NAMES.map(|name| {
            let mut cli = Cli::new(bulla!());
            cli.run(["keygen", "-q", "-o", &format!("{name}.key")]).ok();
            cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
            cli
        });
        let record = |name: &str, cli: &Cli| cli.work().join(format!("{name}.pub")).to_str().unwrap().to_owned();
        let [ann, ben, cat, alice, bob, backup] = &people;
        let mut server = Server::start(Options::durable(bulla!()).admin(ann.work().join("ann.pub")));
        server.keep_address();
        let ready = server.directory().join("ready-1.json");
        let mut init = vec!["init", "--name", "prod", "-k", "2", "--ready-file", ready.to_str().unwrap()];
        let records = [record("ann", ann), record("ben", ben), record("cat", cat)];
        records.iter().for_each(|record| init.extend(["--admin", record]));
        let made = ann.run([&init[..], &["--save-context", "prod"]].concat()).ok();
        let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
        for cli in [ben, cat, alice, bob, backup] {
            cli.run(["context", "add", "prod", server.address(), "--cluster", &cluster]).ok();
        }
        ann.run(["unseal", "--yes"]).ok();
        ben.run(["unseal", "--yes"]).ok();
        ann.run(["principal", "add", &record("alice", alice)]).ok();
        ann.run(["principal", "add", &record("bob", bob)]).ok();
        ann.run(["principal", "add", &record("backup", backup), "--group", "backup"]).ok();
        let text = "permit (principal, action in Bulla::Action::\"kv\", resource in Bulla::Kv::\"app\");\n";
        ann.file("app.cedar", text.as_bytes());
        ann.run(["policy", "put", "app", "app.cedar"]).ok();
        alice.run(["kv", "put", "app/db", "password=of the day"]).ok();
        let slip = alice.run_with(["wrap", "create", "-q", "--to", "bob", "-"], b"once").ok();
        ann.file("backup.cedar", BACKUP.as_bytes());
        let node = server.node().to_owned();
        Self { people, server, cluster, node, slip }
    }

    fn file(&self) -> PathBuf {
        self.server.directory().join("prod.snapshot")
    }

    /// After the copy: the wrap is opened, Alice writes, the cluster forgets the program that took the copy.
    fn go_on(&self) {
        let [ann, _, _, alice, bob, _] = &self.people;
        assert_eq!(bob.run(["open", "-q", &self.slip]).ok(), "once");
        alice.run(["kv", "put", "app/db", "password=of tomorrow"]).ok();
        ann.run(["principal", "disable", "backup"]).ok();
    }

    /// Everyone, and what they name.
    fn play(&self) -> Transcript<'_> {
        let mut play = Transcript::new();
        for (name, cli) in Self::NAMES.iter().zip(&self.people) {
            play = play.person(name, cli);
        }
        let file = self.file();
        play.variable("CLUSTER", &self.cluster)
            .variable("FILE", file.to_str().unwrap())
            .variable("NODE", &self.node)
            .variable("SLIP", &self.slip)
    }

    /// A copy was taken, work went on, and then the machine is gone; another one stands in its place.
    fn lost() -> (Self, Server) {
        let mut night = Self::begin();
        let [ann, .., backup] = &night.people;
        ann.run(["policy", "put", "backup", "backup.cedar"]).ok();
        backup.run(["snapshot", "save", night.file().to_str().unwrap()]).ok();
        night.go_on();
        night.server.stop();
        let machine = night.machine();
        (night, machine)
    }

    /// Another machine, with nothing on it, that answers at the same address.
    fn machine(&self) -> Server {
        Server::prepare(Options::durable(bulla!()).listen(self.server.address()))
    }
}

const BACKUP: &str = "permit (\n  principal in Bulla::Group::\"backup\",\n  action == \
                      Bulla::Action::\"snapshot.save\",\n  resource\n);\n";

/// The manual's page about snapshots, from the first copy to a cluster on another machine, as it is typed there.
#[test]
fn a_cluster_comes_back_from_a_snapshot() {
    let mut night = Night::begin();
    night.play().check(&transcript("snapshot.txt"));
    let file = night.file();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    night.go_on();
    let bytes = std::fs::read(&file).unwrap();
    let (cut, altered) = (file.with_extension("cut"), file.with_extension("altered"));
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let mut other = bytes.clone();
    other[bytes.len() - 4000] ^= 1;
    std::fs::write(&altered, other).unwrap();
    night.server.stop();

    // Log and key of the node are left.
    let machine = RefCell::new(night.machine());
    let (old, data) = (night.server.data(), machine.borrow().data());
    let consent = machine.borrow().directory().join("consent.json");
    let do_it = |words: &[&str]| match words {
        ["start"] => machine.borrow_mut().restart(),
        ["copy", name] => copy(&old.join(name), &data.join(name)),
        other => panic!("{other:?}"),
    };
    let night_watch = Cli::new(bulla!());
    night
        .play()
        .person("watch", &night_watch)
        .world("machine", do_it)
        .variable("OLD", old.to_str().unwrap())
        .variable("DATA", data.to_str().unwrap())
        .variable("CUT", cut.to_str().unwrap())
        .variable("ALTERED", altered.to_str().unwrap())
        .variable("CONSENT", consent.to_str().unwrap())
        .check(&transcript("snapshot-moved.txt"));
    machine.borrow_mut().stop();
}

/// Nothing is left but the file.
#[test]
fn a_cluster_comes_back_from_nothing_but_a_snapshot() {
    let (night, mut machine) = Night::lost();
    let (data, file) = (machine.data(), night.file());
    let restore = ["snapshot", "restore", file.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let unpinned = Cli::new(bulla!());
    unpinned.run(restore).failed(64);
    unpinned.run([&restore[..], &["--cluster", &night.cluster]].concat()).ok();
    let refused = machine.try_restart().expect_err("without its log a server does not start by itself");
    assert!(refused.log.contains("--accept-audit-loss"), "{}", refused.log);
    *machine.options_mut() = Options::durable(bulla!()).listen(night.server.address()).arg("--accept-audit-loss");
    machine.restart();
    let log = machine.log();
    let spki = log.split("--add-node ").nth(1).and_then(|rest| rest.split(' ').next());
    // What a person reads there, compares with what an admin says, and types.
    let accept = |words: &[&str]| {
        let (_, cli) = Night::NAMES.iter().zip(&night.people).find(|(name, _)| words == [**name]).unwrap();
        let shown = cli.run(["context", "accept-loss"]).failed(64);
        let lineage = shown.split_once("it is now").and_then(|(_, now)| now.split("lineage ").nth(1)).unwrap();
        let lineage = lineage.split_whitespace().next().unwrap();
        cli.run(["context", "accept-loss", "--lineage", "AAAAAAAAAAAAAAAAAAAAAA"]).failed(4);
        cli.run(["context", "accept-loss", "--lineage", lineage]).ok();
    };
    let (consent, document) = (machine.directory().join("consent.json"), machine.directory().join("node.json"));
    night
        .play()
        .world("accept", accept)
        .variable("SPKI", spki.unwrap())
        .variable("DOCUMENT", document.to_str().unwrap())
        .variable("CONSENT", consent.to_str().unwrap())
        .check(&transcript("snapshot-lost.txt"));
}

/// The log is lost too, and the admins say in their consent that they put the copy back: nobody has to be told.
#[test]
fn clients_go_on_by_the_admins_word() {
    let (night, mut machine) = Night::lost();
    let (data, file) = (machine.data(), night.file());
    let restore = ["snapshot", "restore", file.to_str().unwrap(), "--data", data.to_str().unwrap()];
    Cli::new(bulla!()).run([&restore[..], &["--cluster", &night.cluster]].concat()).ok();
    std::fs::copy(night.server.data().join("node.key"), data.join("node.key")).unwrap();
    *machine.options_mut() = Options::durable(bulla!()).listen(night.server.address()).arg("--accept-audit-loss");
    machine.restart();
    let consent = machine.directory().join("consent.json");
    night.play().variable("CONSENT", consent.to_str().unwrap()).check(&transcript("snapshot-excused.txt"));
}

/// Each failure says what to do next; those of the command line's own parser say it in their own words.
#[test]
fn no_error_is_told_without_a_hint() {
    let folder = transcript("");
    let mut errors = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for step in text.split("\nexit ") {
            let lines: Vec<&str> = step.lines().filter_map(|line| line.strip_prefix("! ")).collect();
            let Some(at) = lines.iter().position(|line| line.starts_with("error: ")) else { continue };
            errors += 1;
            let hinted = lines[at..].iter().any(|line| line.starts_with("hint: ") || line.contains("'--help'"));
            assert!(hinted, "{}: no hint after {}", path.display(), lines[at]);
        }
    }
    assert!(errors > 100, "{errors} errors in all transcripts");
}
