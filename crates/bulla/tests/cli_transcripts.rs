//! What is typed and printed: success, and each main error with its hint. `BULLA_BLESS=1` writes the transcripts anew.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::transcript::Transcript;
use bulla_testkit::{Cli, Options, Server, bulla};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

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
    cli.file("wrong.txt", b"wrong\n");
    cli.file("right.txt", b"passphrase\n");
    Transcript::new().person("", &cli).check(&transcript("offline.txt"));
}

/// Two of three run a cluster; one loses its key, one is added, one takes a new key; what was there before still opens.
#[test]
fn the_admins_of_a_cluster_change() {
    let mut people = ["ann", "ben", "cat", "dan"].map(|name| {
        let mut cli = Cli::new(bulla!());
        cli.run(["keygen", "-q", "-o", &format!("{name}.key")]).ok();
        cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
        cli
    });
    let record = |cli: &Cli, name: &str| cli.work().join(format!("{name}.pub")).to_str().unwrap().to_owned();
    let mut server = Server::start(Options::durable(bulla!()).admin(people[0].work().join("ann.pub")));
    let ready = server.directory().join("ready-1.json");
    let [ann, ben, cat, dan] = &people;
    let mut init = vec!["init", "--name", "test", "-k", "2", "--ready-file", ready.to_str().unwrap()];
    let records = [record(ann, "ann"), record(ben, "ben"), record(cat, "cat")];
    records.iter().for_each(|record| init.extend(["--admin", record]));
    let made = ann.run([&init[..], &["--save-context", "test"]].concat()).ok();
    let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
    for cli in [ben, cat, dan] {
        cli.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
    }
    ann.run(["unseal", "--yes"]).ok();
    ben.run(["unseal", "--yes"]).ok();
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
