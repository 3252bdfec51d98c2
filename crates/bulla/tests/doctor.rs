//! `bulla doctor` with the real binary: a whole way, a proxy that changes what passes, clocks apart, and a server's machine
//! with something wrong on it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

use bulla_testkit::hop::{Deed, Hop, certificate};
use bulla_testkit::transcript::Transcript;
use bulla_testkit::world::{Person, Shape, World};
use bulla_testkit::{Cli, Options, Server, bulla};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn private(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Somebody of the world at a command line of their own.
fn seated(world: &World, person: &Person) -> Cli {
    let mut cli = Cli::new(bulla!());
    let text = person.identity.to_file_text(Some(person.name.as_str()), None).unwrap();
    private(&cli.file("own.key", text.expose()), 0o600);
    cli.env("BULLA_IDENTITY", "own.key");
    cli.env("BULLA_ADDR", world.address());
    cli.env("BULLA_CLUSTER", world.cluster.to_string());
    cli
}

fn deed(words: &str) -> Deed {
    match words {
        "strips /v1" => Deed::Strips("/v1"),
        "drops the query" => Deed::DropsQuery,
        "takes bulla-audience" => Deed::Takes("bulla-audience"),
        "keeps bulla-state" => Deed::Keeps("bulla-state"),
        "compresses" => Deed::Compresses,
        "fails" => Deed::Fails,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_on_the_way_is_named() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let world = runtime.block_on(World::new(Shape::default()));
    let people = ["alice", "bob"].map(|name| runtime.block_on(world.admit(name)));
    let alice = seated(&world, &people[0]);
    let (admin, mallory) = (seated(&world, &world.admins[0]), seated(&world, &Person::new("mallory")));
    let hop = runtime.block_on(Hop::start(world.server().ready.address));
    let clock = |words: &[&str]| {
        let ms = match words {
            // Whole seconds are shown: the way may take most of one.
            ["back", "30s"] => 30_900,
            ["back", "40s"] => 40_000,
            other => panic!("{other:?}"),
        };
        world.clock.step(-ms);
        // It is looked at once a second.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !alice.run(["status"]).errors().contains("the clock moved") {
            assert!(Instant::now() < deadline, "it never happened");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    Transcript::new()
        .person("alice", &alice)
        .person("admin", &admin)
        .person("mallory", &mallory)
        .world("hop", |words| hop.does(deed(&words.join(" "))))
        .world("clock", clock)
        .variable("ADDR", world.address().strip_prefix("https://").unwrap())
        .variable("HOP", &hop.address.to_string())
        .variable("CLUSTER", &world.cluster.to_string())
        .check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd/doctor.txt"));
}

/// The checks of a server's machine by name: verdict, what was found, hint.
fn server_checks(cli: &Cli, args: &[&str], failed: &[&str]) -> Vec<Value> {
    let output = cli.run([&["doctor", "--server", "-o", "json"], args].concat());
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    // Room and swap are those of the machine that runs this.
    let ours = |check: &&Value| !["data disk", "audit disk", "swap"].contains(&check["name"].as_str().unwrap());
    let bad: Vec<_> = checks.iter().filter(ours).filter(|check| check["verdict"] != "ok").collect();
    let names: Vec<_> = bad.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, failed, "{checks:#?}");
    assert!(checks.iter().all(|check| check["verdict"] == "ok" || check["hint"].as_str().unwrap().len() > 8));
    let any = checks.iter().any(|check| check["verdict"] == "fail");
    assert_eq!(output.code, i32::from(any), "{output:?}");
    bad.into_iter().cloned().collect()
}

fn told(check: &Value, found: &str, hint: &str) {
    let text = |field: &str| check[field].as_str().unwrap().to_owned();
    assert!(text("found").contains(found) && text("hint").contains(hint), "{check}");
}

/// Everything below a folder, with its length, mode and time of change.
fn state(folder: &Path) -> Vec<(PathBuf, u64, u32, std::time::SystemTime)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        all.push((path.clone(), found.len(), found.permissions().mode(), found.modified().unwrap()));
        if found.is_dir() {
            all.extend(state(&path));
        }
    }
    all.sort();
    all
}

#[test]
fn what_is_wrong_on_a_servers_machine_is_named() {
    let cli = Cli::new(bulla!());
    cli.run(["keygen", "-q", "-o", "ann.key"]).ok();
    let mut server = Server::start(Options::durable(bulla!()).admin(cli.work().join("ann.pub")));
    let data = server.data();
    let args = ["--data", data.to_str().unwrap()];
    // While it runs, and afterwards; and nothing is touched.
    server_checks(&cli, &args, &[]);
    assert!(server.stop().success());
    let before = state(&data);
    server_checks(&cli, &args, &[]);
    assert_eq!(state(&data), before);
    let absent = cli.work().join("absent");
    let checks = server_checks(&cli, &["--data", absent.to_str().unwrap()], &["store"]);
    told(&checks[0], "no store", "check --data");
    assert!(!absent.exists());

    private(&data, 0o755);
    private(&data.join("node.key"), 0o644);
    let bad = server_checks(&cli, &args, &["directory", "node key"]);
    told(&bad[0], "has mode 0755", "0700");
    told(&bad[1], "node.key: has mode 0644", "0600");
    private(&data, 0o700);
    private(&data.join("node.key"), 0o600);

    let (store, aside) = (data.join("bulla.redb"), cli.work().join("aside"));
    fs::rename(&store, &aside).unwrap();
    told(&server_checks(&cli, &args, &["store"])[0], "an audit log and no store", "bulla snapshot restore");
    fs::rename(&aside, &store).unwrap();
    fs::rename(data.join("node.key"), &aside).unwrap();
    told(&server_checks(&cli, &args, &["store"])[0], "no node.key", "put it back");
    fs::rename(&aside, data.join("node.key")).unwrap();

    let log = data.join("audit/000001.jsonl");
    let whole = fs::read(&log).unwrap();
    fs::write(&log, &whole[..whole.len() - 10]).unwrap();
    told(&server_checks(&cli, &args, &["audit log"])[0], "000001.jsonl:", "bulla audit verify");
    fs::write(&log, &whole).unwrap();

    let (pem, key) = certificate("bulla.example", 2020);
    let (pem, key) = (cli.file("tls.pem", pem.as_bytes()), cli.file("tls.key", key.as_bytes()));
    let (pem, key) = (pem.display(), key.display());
    let text = format!("data = {data:?}\n[tls]\ncert = \"{pem}\"\nkey = \"{key}\"\n");
    let file = cli.file("server.toml", text.as_bytes());
    let bad = server_checks(&cli, &["--config", file.to_str().unwrap()], &["certificate end"]);
    told(&bad[0], "of bulla.example, ended 2020-01-01T00:00:00Z", "tls.cert");
    fs::remove_file(cli.work().join("tls.key")).unwrap();
    let bad = server_checks(&cli, &["--config", file.to_str().unwrap()], &["certificate", "certificate end"]);
    told(&bad[0], "tls.key", "tls.key");
}
