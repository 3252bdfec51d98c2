//! Servers that give an admin's share by themselves at start: by keys elsewhere, by a token, as one of a quorum; and those that
//! must not, or cannot yet.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

use bulla_testkit::softhsm::{CONFIGURATION, SoftHsm};
use bulla_testkit::{Cli, Options, Server, bulla, skip};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PIN: &str = "1234";
/// Longer than the longest wait after a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster whose admins are alice and a machine.
struct World {
    alice: Cli,
    server: Server,
    cluster: String,
}

impl World {
    /// Makes it; `unsealer` is the machine's record, `how` what is said of the admins.
    fn new(alice: Cli, unsealer: &str, how: &[&str]) -> Self {
        let mut alice = alice;
        alice.run(["keygen", "-o", "alice.key"]).ok();
        alice.env("BULLA_IDENTITY", alice.work().join("alice.key"));
        let record = alice.work().join("alice.pub");
        let mut server = Server::start(Options::durable(bulla!()).admin(&record));
        let ready = server.directory().join("ready-1.json");
        let ready = ready.to_str().unwrap();
        let init = ["init", "--name", "test", "--admin", "alice.pub", "--admin", unsealer, "--ready-file", ready];
        let made = alice.run(init.iter().chain(&["--save-context", "test"]).chain(how)).ok();
        let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
        server.keep_address();
        Self { alice, server, cluster }
    }

    /// Sets a key of the server's configuration for its next start.
    fn set(&mut self, key: &str, value: impl Into<std::ffi::OsString>) {
        let options = self.server.options_mut();
        let variable = format!("BULLA_SERVER_AUTO_UNSEAL__{key}");
        options.without_env(&variable);
        *options = options.clone().env(variable, value);
    }

    fn auto(&mut self, identity: impl Into<std::ffi::OsString>) {
        let cluster = self.cluster.clone();
        self.set("CLUSTER", cluster);
        self.set("IDENTITY", identity);
    }

    fn state(&self) -> String {
        let told = self.alice.run(["status"]);
        let line = told.text().lines().find(|line| line.starts_with("state")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{}{}", told.text(), told.errors()))
    }

    fn is_sealed(&self) -> bool {
        !self.state().contains("unsealed")
    }

    fn await_open(&self) {
        let began = Instant::now();
        while self.is_sealed() {
            assert!(began.elapsed() < PATIENCE, "it stays sealed:\n{}", self.server.log());
            sleep(Duration::from_millis(200));
        }
    }

    fn await_log(&self, text: &str) {
        let began = Instant::now();
        while !self.server.log().contains(text) {
            assert!(began.elapsed() < PATIENCE, "the log never says {text:?}:\n{}", self.server.log());
            sleep(Duration::from_millis(100));
        }
    }
}

/// A machine whose identity members open, and the configuration of these.
fn machine(cli: &Cli, more: &str) -> (PathBuf, PathBuf) {
    cli.run(["keygen", "-q", "-o", "box.key"]).ok();
    cli.run(["kms", "keyfile", "create", "keys.age", "--node", "box=box.pub", "--identity", "box.key"]).ok();
    let work = cli.work();
    let member = |name: &str| {
        let (file, key) = (work.join("keys.age"), work.join("box.key"));
        format!("[members.{name}.age]\nfile = '{}'\nidentity = '{}'\n", file.display(), key.display())
    };
    let config = cli.file("kms.toml", format!("cluster = 'seal'\n{more}{}", member("node")).as_bytes());
    cli.run(["kms", "bind", "--config", "kms.toml", "-o", "unsealer.key"]).ok();
    (work.join("unsealer.key"), config)
}

#[test]
fn a_server_is_opened_by_members_and_stays_sealed_when_it_is_told_to() {
    let alice = Cli::new(bulla!());
    let (identity, config) = machine(&alice, "");
    let mut world = World::new(alice, "unsealer.pub", &["--any"]);
    world.auto(&identity);
    world.set("KMS", &config);
    // The first share of a founder approves the cluster, which the configuration names.
    world.server.restart();
    world.await_open();
    let log = lines(&world.server.audit());
    let given = |line: &str| line.contains("unsealer") && line.contains("seal.share");
    assert!(log.lines().any(given), "the audit log does not tell whose share it was:\n{log}");

    // It needs none of the rights that policy gives to admins.
    let shown = world.alice.run(["principal", "show", "unsealer"]).ok();
    let id = shown.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap();
    let text = format!("forbid (principal == Bulla::Principal::\"{id}\", action, resource);\n");
    world.alice.file("unsealer.cedar", text.as_bytes());
    world.alice.run(["policy", "put", "unsealer", "unsealer.cedar"]).ok();

    // Who seals it means it.
    world.alice.run(["seal"]).ok();
    sleep(Duration::from_secs(6));
    assert!(world.is_sealed(), "{}", world.server.log());

    // While the members' backend is away it waits, and tells why once.
    let (keys, away) = (world.alice.work().join("keys.age"), world.alice.work().join("away.age"));
    fs::rename(&keys, &away).unwrap();
    world.server.restart();
    world.await_log("the share is not given");
    sleep(Duration::from_secs(4));
    assert!(world.is_sealed());
    assert_eq!(world.server.log().matches("the share is not given").count(), 1, "{}", world.server.log());
    fs::rename(&away, &keys).unwrap();
    world.await_open();
}

/// All lines of an audit log.
fn lines(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    files.map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn one_of_a_quorum_waits_for_the_others() {
    let alice = Cli::new(bulla!());
    let (identity, config) = machine(&alice, "");
    let mut world = World::new(alice, "unsealer.pub", &["-k", "2"]);
    world.auto(&identity);
    world.set("KMS", &config);
    world.server.restart();
    world.await_log("the share is given: 1 of 2");
    assert!(world.is_sealed());
    world.alice.run(["unseal", "--yes"]).ok();
    assert!(!world.is_sealed());
}

#[test]
fn nothing_is_given_to_another_cluster_or_by_an_altered_file() {
    let alice = Cli::new(bulla!());
    let (identity, config) = machine(&alice, "");
    let mut world = World::new(alice, "unsealer.pub", &["--any"]);
    let cluster = std::mem::replace(&mut world.cluster, format!("sha256:{}", "A".repeat(43)));
    world.auto(&identity);
    world.set("KMS", &config);
    world.server.restart();
    world.await_log("the share is not given");
    assert!(world.is_sealed());
    world.cluster = cluster;
    world.auto(&identity);

    // The same members at another place, and another identity's recipient.
    let whole = fs::read_to_string(&identity).unwrap();
    let of = |text: &str| text.lines().find(|line| line.starts_with("recipient")).unwrap().to_owned();
    world.alice.run(["kms", "bind", "--config", "kms.toml", "-o", "other.key"]).ok();
    let other = fs::read_to_string(world.alice.work().join("other.key")).unwrap();
    let exchanged = whole.replace(&of(&whole), &of(&other));
    let place = fs::read_to_string(&config).unwrap().replace("'seal'", "'prod'");
    let elsewhere = world.alice.file("elsewhere.toml", place.as_bytes());
    for (text, config, said) in
        [(&exchanged, &config, "not the identity of the file's recipient"), (&whole, &elsewhere, "corrupt")]
    {
        fs::write(&identity, text).unwrap();
        world.set("KMS", config);
        world.server.restart();
        world.await_log(said);
        assert!(world.is_sealed());
    }

    // Whatever is wrong, the server is there for the other admins; `check` says it before.
    let (there, id) = (world.alice.work().join("data"), world.cluster.clone());
    let check = |kms: &Path| {
        let text = format!(
            "data = '{}'\n[auto_unseal]\ncluster = '{id}'\nidentity = '{}'\nkms = '{}'\n",
            there.display(),
            identity.display(),
            kms.display()
        );
        world.alice.file("server.toml", text.as_bytes());
        world.alice.run(["server", "check", "--config", "server.toml"])
    };
    for (text, exit, said) in [
        ("AGE-SECRET-KEY-1", 64, "no identity that members open"),
        ("# bulla kms identity v1\n", 1, "the lines recipient"),
    ] {
        fs::write(&identity, text).unwrap();
        let told = check(&config).failed(exit);
        assert!(told.contains(said), "{told}");
    }
    fs::write(&identity, &whole).unwrap();
    assert!(check(Path::new("/nowhere.toml")).errors().contains("nowhere.toml"));
    check(&config).ok();
    world.set("KMS", "/nowhere.toml");
    world.server.restart();
    world.await_log("nowhere.toml");
    world.alice.run(["unseal", "--yes"]).ok();

    // And the whole file opens it all the same.
    world.set("KMS", &config);
    world.server.restart();
    world.await_open();
}

#[test]
fn who_seals_while_it_tries_is_not_overruled() {
    let alice = Cli::new(bulla!());
    let (identity, config) = machine(&alice, "");
    let mut world = World::new(alice, "unsealer.pub", &["--any"]);
    let (keys, away) = (world.alice.work().join("keys.age"), world.alice.work().join("away.age"));
    fs::rename(&keys, &away).unwrap();
    world.auto(&identity);
    world.set("KMS", &config);
    world.server.restart();
    world.await_log("the share is not given");
    world.alice.run(["unseal", "--yes"]).ok();
    world.alice.run(["seal"]).ok();
    fs::rename(&away, &keys).unwrap();
    sleep(Duration::from_secs(12));
    assert!(world.is_sealed(), "{}", world.server.log());
}

#[test]
fn an_older_copy_gets_no_share() {
    let alice = Cli::new(bulla!());
    let (identity, config) = machine(&alice, "");
    let mut world = World::new(alice, "unsealer.pub", &["--any"]);
    let memory = world.alice.work().join("memory");
    world.auto(&identity);
    world.set("KMS", &config);
    world.set("MEMORY", &memory);
    world.server.stop();
    let (data, copy) = (world.server.data(), world.server.directory().join("copy"));
    copied(&data, &copy);
    for _ in 0..2 {
        world.server.restart();
        world.await_open();
        world.server.stop();
    }
    fs::remove_dir_all(&data).unwrap();
    copied(&copy, &data);
    world.server.restart();
    world.await_log("remove ");
    assert!(world.is_sealed(), "{}", world.server.log());
}

/// The same files elsewhere, as a copy of the disk has them.
fn copied(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

#[test]
fn an_identity_is_bound_again_after_a_rotation() {
    let alice = Cli::new(bulla!());
    let (identity, config) = machine(&alice, "[timing]\npromote_looks = 1\npromote_delay_s = 0\n");
    let before = fs::read_to_string(&identity).unwrap();
    let keyfile = |words: &[&str]| alice.run([&["kms", "keyfile"], words, &["--identity", "box.key"]].concat()).ok();
    keyfile(&["rotate", "keys.age", "--begins", "0s"]);
    let told = alice.run(["kms", "rebind", "unsealer.key", "--config", "kms.toml"]).ok();
    let ids: Vec<&str> = told.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1] && before.contains(ids[0]), "{told}");
    let after = fs::read_to_string(&identity).unwrap();
    assert!(after.contains(ids[1]) && after.lines().nth(1) == before.lines().nth(1), "{after}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&identity).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // The older key is needed no more.
    let mut world = World::new(alice, "unsealer.pub", &["--any"]);
    world.alice.run(["kms", "keyfile", "drop", "keys.age", "--before", "2", "--identity", "box.key"]).ok();
    fs::write(&identity, &before).unwrap();
    world.auto(&identity);
    world.set("KMS", &config);
    world.server.restart();
    world.await_log("the share is not given");
    fs::write(&identity, &after).unwrap();
    world.await_open();
}

#[test]
fn a_server_is_opened_by_a_key_on_a_token() {
    let test = "a_server_is_opened_by_a_key_on_a_token";
    let Some(hsm) = SoftHsm::new() else { skip!(test, "needs softhsm2 and opensc") };
    hsm.token("seal", PIN);
    let mut alice = Cli::new(bulla!());
    alice.env(CONFIGURATION, hsm.configuration());
    let pin = alice.file("pin", PIN.as_bytes());
    fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let uri = format!("pkcs11:token=seal;object=unsealer?module-path={}", hsm.module());
    alice.run(["keygen", "--pkcs11", &uri, "--name", "unsealer", "--pin-file", "pin"]).ok();
    let mut world = World::new(alice, "unsealer.pub", &["--any"]);
    world.auto(&uri);
    world.set("PIN_FILE", &pin);
    *world.server.options_mut() = world.server.options_mut().clone().env(CONFIGURATION, hsm.configuration());
    world.server.restart();
    world.await_open();
}

#[test]
fn a_configuration_that_does_not_fit_is_refused() {
    let refused = |set: &[(&str, &str)]| {
        let options = set.iter().fold(Options::durable(bulla!()), |options, (key, value)| {
            options.env(format!("BULLA_SERVER_AUTO_UNSEAL__{key}"), value)
        });
        Server::prepare(options).try_restart().unwrap_err().log
    };
    let cluster = ("CLUSTER", "sha256:UNhY4JhezH9gQYqvDMWrWH9CwlcKiECVqejMrND2VFw");
    for (set, said) in [
        (&[cluster][..], "auto_unseal.identity"),
        (&[("IDENTITY", "unsealer.key")], "auto_unseal.cluster"),
        (&[("CLUSTER", "test"), ("IDENTITY", "unsealer.key")], "expected the id of a cluster"),
        (&[cluster, ("IDENTITY", "pkcs11:token=a;object=b"), ("KMS", "kms.toml")], "is on a token"),
    ] {
        assert!(refused(set).contains(said), "{said}: {}", refused(set));
    }
    let mut transient = Options::transient(bulla!());
    for (key, value) in [cluster, ("IDENTITY", "unsealer.key")] {
        transient = transient.env(format!("BULLA_SERVER_AUTO_UNSEAL__{key}"), value);
    }
    let log = Server::prepare(transient).try_restart().unwrap_err().log;
    assert!(log.contains("a transient server"), "{log}");
}
