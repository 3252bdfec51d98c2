//! `bulla kms` at a command line: check, verify, doctor, rotations and translations, with the real binary, a real cluster
//! behind it and a real plugin at the socket.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it stands")]

use bulla_testkit::{Cli, Options, Server, bulla, process};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const POLICY: &[u8] = b"permit (principal in Bulla::Group::\"admins\", action in Bulla::Action::\"transit\", resource);
permit (principal in Bulla::Group::\"nodes\", action in [Bulla::Action::\"transit.read\",
    Bulla::Action::\"transit.encrypt\", Bulla::Action::\"transit.decrypt\"], resource);\n";

/// A cluster with a transit key, and a node that may use it.
struct Scene {
    alice: Cli,
    node: Cli,
    server: Server,
    cluster: String,
}

impl Scene {
    fn new() -> Self {
        let (mut alice, node) = (Cli::new(bulla!()), Cli::new(bulla!()));
        let server = Server::with_admin(Options::transient(bulla!()), &mut alice);
        node.run(["keygen", "-q", "-o", "node.key", "--name", "node"]).ok();
        alice.run(["principal", "add", node.work().join("node.pub").to_str().unwrap(), "--group", "nodes"]).ok();
        alice.file("kms.cedar", POLICY);
        alice.run(["policy", "put", "kms", "kms.cedar"]).ok();
        alice.run(["transit", "create", "kubernetes"]).ok();
        let context: Value = serde_json::from_str(&alice.run(["context", "show", "-o", "json"]).ok()).unwrap();
        let cluster = context["cluster"].as_str().unwrap().to_owned();
        fs::set_permissions(node.work(), fs::Permissions::from_mode(0o750)).unwrap();
        Self { alice, node, server, cluster }
    }

    fn socket(&self) -> PathBuf {
        self.node.work().join("kms.sock")
    }

    /// Writes `kms.toml`, with more lines before its only member.
    fn configure(&self, more: &str) {
        let (work, uid) = (self.node.work(), rustix::process::geteuid().as_raw());
        let config = format!(
            "cluster = 'test'\nstate = '{0}/state.json'\n[socket]\npath = '{0}/kms.sock'\nallow_uids = [{uid}]\n[audit]\nfile = \
             '{0}/audit.jsonl'\n[timing]\nperiod_s = 1\nstale_s = 4\npromote_delay_s = 0\n{more}\n[members.central.bulla]\naddress = \
             'https://{1}'\ncluster = '{2}'\nkey = 'kubernetes'\nidentity = '{0}/node.key'\n",
            work.display(),
            self.server.address().trim_start_matches("https://"),
            self.cluster,
        );
        self.node.file("kms.toml", config.as_bytes());
    }

    fn kms(&self, args: &[&str]) -> bulla_testkit::Output {
        self.node.run([&["kms"], args, &["--config", "kms.toml"]].concat())
    }

    /// The checks of the doctor that are not OK, as `name verdict`; and all of them.
    fn doctor(&self, args: &[&str], code: i32) -> (Vec<String>, Vec<Value>) {
        let output = self.kms(&[&["doctor", "-o", "json"], args].concat());
        assert_eq!(output.code, code, "{}{}", output.text(), output.errors());
        checks(&output.text())
    }

    /// What the plugin wrote to its log.
    fn log(&self) -> String {
        fs::read_to_string(self.node.work().join("log")).unwrap()
    }

    /// What a monitor is answered.
    fn monitor(&self, path: &str) -> String {
        let address = || self.log().split("address=").nth(1)?.split_whitespace().next().map(str::to_owned);
        until(|| address().is_some());
        let mut monitor = TcpStream::connect(address().unwrap()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        monitor.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        monitor.read_to_string(&mut text).unwrap();
        text
    }

    /// The hash that `verify` shows.
    fn hash(&self) -> String {
        let text = self.kms(&["verify"]).ok();
        text.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned()
    }
}

fn checks(text: &str) -> (Vec<String>, Vec<Value>) {
    let checks: Vec<Value> = serde_json::from_str(text).unwrap();
    let word = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
    let bad = checks.iter().filter(|check| check["verdict"] != "ok");
    (bad.map(|check| format!("{} {}", word(check, "name"), word(check, "verdict"))).collect(), checks)
}

/// A plugin that serves.
struct Plugin(Child);

impl Plugin {
    fn start(scene: &Scene) -> Self {
        let binary = bulla!();
        let mut command = process::command(binary.to_str().unwrap());
        command
            .args(["kms", "serve", "--config", "kms.toml"])
            .current_dir(scene.node.work())
            .env("HOME", scene.node.home());
        let log = File::create(scene.node.work().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let plugin = Self(process::spawn(command));
        until(|| scene.socket().exists());
        plugin
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[track_caller]
fn until(fits: impl Fn() -> bool) {
    let began = Instant::now();
    while !fits() {
        assert!(began.elapsed() < PATIENCE, "it never happened");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn encryption(endpoint: &Path, last: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - \
         kms: {{apiVersion: v2, name: bulla, endpoint: 'unix://{}', timeout: 3s}}\n{last}",
        endpoint.display()
    )
}

#[test]
fn a_node_is_checked_verified_and_examined() {
    let scene = Scene::new();
    scene.configure("");
    scene.kms(&["check"]).ok();

    // Nobody serves yet, and nothing is written by a look.
    let (bad, all) = scene.doctor(&[], 1);
    assert_eq!(bad, ["socket fail", "answers fail"], "{all:?}");
    assert!(!scene.node.work().join("state.json").exists());
    let hash = scene.hash();

    let plugin = Plugin::start(&scene);
    until(|| scene.kms(&["doctor"]).code == 0);
    scene.node.file("encryption.yaml", encryption(&scene.socket(), "").as_bytes());
    let (bad, all) = scene.doctor(&["--encryption-config", "encryption.yaml"], 0);
    assert_eq!(bad, [""; 0], "{all:?}");
    let found = |name: &str| all.iter().find(|check| check["name"] == name).unwrap()["found"].as_str().unwrap();
    assert!(found("key id").contains(&hash) && found("answers").contains("this plugin"), "{all:?}");

    scene.node.file("encryption.yaml", encryption(&scene.socket(), "  - identity: {}\n").as_bytes());
    assert_eq!(scene.doctor(&["--encryption-config", "encryption.yaml"], 0).0, ["encryption warn"]);
    scene.node.file("encryption.yaml", encryption(Path::new("/run/other.sock"), "").as_bytes());
    assert_eq!(scene.doctor(&["--encryption-config", "encryption.yaml"], 1).0, ["encryption fail"]);

    // The server's address, if it were one of the cluster's Services.
    let (bad, _) = scene.doctor(&["--service-cidr", "127.0.0.0/8"], 1);
    assert_eq!(bad, ["loop fail"]);

    // Another configuration than the one that is served.
    scene.configure("");
    let config = fs::read_to_string(scene.node.work().join("kms.toml")).unwrap();
    scene.node.file("kms.toml", config.replace("state =", "epoch = 1\nstate =").as_bytes());
    assert_eq!(scene.doctor(&[], 0).0, ["answers warn"]);
    drop(plugin);

    scene.configure("typo = 1");
    assert_eq!(scene.doctor(&[], 1).0, ["configuration fail"]);
    scene.kms(&["check"]).failed(64);
}

#[test]
fn a_process_lives_whatever_its_members_do() {
    let mut scene = Scene::new();
    scene.configure("");
    let socket = scene.socket();
    let alive = |scene: &Scene| scene.node.run(["kms", "alive", socket.to_str().unwrap()]);
    assert!(alive(&scene).failed(15).contains("nobody listens"));
    let plugin = Plugin::start(&scene);
    assert!(alive(&scene).ok().is_empty());
    // A backend that is away, and a configuration that is being written, are nobody's death.
    scene.server.kill();
    scene.node.file("kms.toml", b"cluster = ");
    until(|| scene.log().contains("the member is not well"));
    alive(&scene).ok();
    let process = rustix::process::Pid::from_child(&plugin.0);
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    assert!(alive(&scene).failed(15).contains("three seconds"));
    rustix::process::kill_process(process, rustix::process::Signal::CONT).unwrap();
    alive(&scene).ok();
    drop(plugin);
    assert!(alive(&scene).failed(15).contains("nobody listens"));
    scene.node.run(["kms", "alive", "kms.sock"]).failed(64);
}

#[test]
fn a_member_whose_file_comes_later_joins_then() {
    const OPERATIONS: &str = "[operations]\naddress = '127.0.0.1:0'";
    let scene = Scene::new();
    scene.configure(OPERATIONS);
    let (here, away) = (scene.node.work().join("node.key"), scene.node.work().join("away.key"));
    fs::rename(&here, &away).unwrap();
    assert!(scene.kms(&["check"]).failed(64).contains("node.key"), "who asks before is told");
    let mut plugin = Plugin::start(&scene);
    until(|| scene.log().contains("cannot be opened"));
    assert!(scene.log().contains("node.key") && scene.log().contains("class=config"), "{}", scene.log());
    // The only member is away, and the process lives, says why, and makes no seeds.
    scene.node.run(["kms", "alive", scene.socket().to_str().unwrap()]).ok();
    let (bad, all) = scene.doctor(&[], 1);
    assert_eq!(bad, ["answers fail", "member fail", "key id fail"], "{all:?}");
    let found = all.iter().find(|check| check["name"] == "member").unwrap()["found"].as_str().unwrap();
    assert!(found.contains("not opened") && found.contains("node.key"), "{found}");
    let unopened = |count: u8| format!("bulla_kms_member_unopened{{member=\"central\",kind=\"bulla\"}} {count}\n");
    assert!(scene.monitor("/metrics").contains(&unopened(1)));
    assert!(scene.monitor("/readyz").contains("(central: not opened, config)"));
    assert!(plugin.0.try_wait().unwrap().is_none(), "it lives");
    fs::rename(&away, &here).unwrap();
    until(|| scene.kms(&["doctor"]).code == 0);
    assert!(scene.monitor("/metrics").contains(&unopened(0)));
    drop(plugin);

    // Beside another member, which serves alone meanwhile.
    scene.node.run(["keygen", "-q", "-o", "box.key", "--name", "box"]).ok();
    scene.node.run(["kms", "keyfile", "create", "keys.age", "--node", "box=box.pub", "--identity", "box.key"]).ok();
    let work = scene.node.work().display().to_string();
    scene.configure(&format!(
        "[combine]\npolicy = 'degraded'\nminimum = 1\n{OPERATIONS}\n[members.node.age]\nfile = '{work}/keys.age'\n\
         identity = '{work}/box.key'"
    ));
    fs::rename(&here, &away).unwrap();
    let plugin = Plugin::start(&scene);
    until(|| scene.monitor("/readyz").contains("200 OK"));
    let text = scene.monitor("/metrics");
    assert!(text.contains(&unopened(1)) && text.contains("bulla_kms_degraded 1\n"), "{text}");
    fs::rename(&away, &here).unwrap();
    until(|| scene.monitor("/metrics").contains("bulla_kms_degraded 0\n"));
    drop(plugin);

    // What no file mends is told at once.
    let config = fs::read_to_string(scene.node.work().join("kms.toml")).unwrap();
    scene.node.file("kms.toml", config.replace("key = 'kubernetes'", "key = 'kuber netes'").as_bytes());
    assert!(scene.kms(&["serve"]).failed(64).contains("members.central: key"));
}

#[test]
fn what_is_not_swapped_is_told() {
    let scene = Scene::new();
    scene.configure("[operations]\naddress = '127.0.0.1:0'");
    let plugin = Plugin::start(&scene);
    let text = scene.monitor("/metrics");
    let shown = text.lines().find_map(|line| line.strip_prefix("bulla_kms_memory_locked ")).unwrap();
    // What the kernel has locked is what the plugin says.
    let status = fs::read_to_string(format!("/proc/{}/status", plugin.0.id())).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap().trim() != "0 kB";
    assert_eq!(shown, if locked { "1" } else { "0" }, "{status}");
    assert_eq!(scene.log().contains("memory is not locked"), !locked, "{}", scene.log());
}

#[test]
fn a_member_that_is_denied_is_named() {
    let scene = Scene::new();
    scene.configure("");
    scene.alice.file("kms.cedar", POLICY.split(|byte| *byte == b'\n').next().unwrap());
    scene.alice.run(["policy", "put", "kms", "kms.cedar"]).ok();
    let (bad, all) = scene.doctor(&[], 1);
    assert!(bad.contains(&"member fail".to_owned()) && bad.contains(&"key id fail".to_owned()), "{all:?}");
    assert!(scene.kms(&["verify"]).failed(1).contains("too few members"));
}

/// The metrics of a kube-apiserver that began at 1,000 and has read what is under these hashes.
fn metrics(id: &str, told: &str, read: &[&str]) -> String {
    const NAME: &str = "apiserver_envelope_encryption_key_id_hash";
    let labels = |hash: &str| format!("apiserver_id_hash=\"{id}\",key_id_hash=\"{hash}\",provider_name=\"bulla\"");
    let read = read.iter().map(|hash| {
        format!("{NAME}_last_timestamp_seconds{{{},transformation_type=\"from_storage\"}} 1002\n", labels(hash))
    });
    format!(
        "process_start_time_seconds 1000\n{NAME}_status_last_timestamp_seconds{{{}}} 2e+03\n{}",
        labels(told),
        read.collect::<String>()
    )
}

#[test]
fn a_key_is_retired_with_proof_alone() {
    let scene = Scene::new();
    scene.configure("");
    let old = scene.hash();
    scene.alice.run(["transit", "rotate", "kubernetes"]).ok();
    assert!(!scene.node.work().join("state.json").exists(), "whoever only looks leaves nothing behind");
    let own = scene.hash();
    assert_ne!(own, old);
    let plan = scene.kms(&["rotate", "plan"]).ok();
    assert!(
        plan.contains("bulla transit rotate kubernetes --addr") && plan.contains("--min-decryption-version N"),
        "{plan}"
    );

    let status = |files: &[&str], more: &[&str]| {
        let output = scene.kms(&[&["rotate", "status", "-o", "json", "--metrics"], files, more].concat());
        let (bad, _) = checks(&output.text());
        (output.code, bad)
    };
    let proof = ["--old", old.as_str(), "--apiservers", "2"];
    scene.node.file("one", metrics("one", &own, &[&own]).as_bytes());
    scene.node.file("two", metrics("two", &own, &[&own, &old]).as_bytes());
    scene.node.file("behind", metrics("two", &old, &[&old]).as_bytes());
    scene.node.file("restarted", metrics("two", &own, &[&own]).as_bytes());
    let shown = ["not shown warn"; 3].map(str::to_owned).to_vec();
    assert_eq!(status(&["one", "two"], &[]), (0, vec!["stored warn".to_owned()]));
    assert_eq!(status(&["one", "behind"], &[]), (1, vec!["told fail".into(), "stored warn".into()]));
    assert_eq!(status(&["one", "restarted"], &proof), (0, shown.clone()));
    let (code, bad) = status(&["one", "two"], &proof);
    assert!(code == 1 && bad.contains(&"proof fail".to_owned()), "{bad:?}");
    assert_eq!(status(&["one"], &proof).0, 1, "one is missing");
    assert_eq!(status(&["one", "one"], &proof).0, 1, "one is given twice");
    assert_eq!(status(&["one", "restarted"], &["--old", &own, "--apiservers", "2"]).0, 1, "it is in use");
    scene.kms(&["rotate", "status", "--metrics", "one", "--old", &old]).failed(64);
    scene.kms(&["rotate", "status", "--metrics", "one", "--old", "x", "--apiservers", "1"]).failed(64);
    assert!(scene.kms(&["rotate", "status", "--metrics", "kms.toml"]).failed(1).contains("no key id"));
}

#[test]
fn other_plugins_are_translated_without_their_secrets() {
    const SECRET: &str = "hunter2-canary";
    let cli = Cli::new(bulla!());
    cli.file("kleidi.json", br#"{"transitkey": "k", "address": "https://v.example:8200", "authmethod": "cert"}"#);
    cli.file(
        "vault.yaml",
        format!("keyNames: [k]\naddress: https://v.example\nroleID: r\nsecretID: {SECRET}\n").as_bytes(),
    );
    let migrate =
        |from: &str, file: &str, to: &str| cli.run(["kms", "migrate", from, file, "--kubernetes", "prod", "--to", to]);
    let said = migrate("from-kleidi", "kleidi.json", "one").ok();
    assert!(said.contains("VAULT_CLIENT_CERT") && said.contains("kubectl replace"), "{said}");
    let said = migrate("from-trousseau", "vault.yaml", "two").ok();
    assert!(said.contains("KMSv1=true") && said.contains("secretID: not copied"), "{said}");
    for (folder, protocol) in [("one", "v2"), ("two", "v1")] {
        let read = |name: &str| fs::read_to_string(cli.work().join(folder).join(name)).unwrap();
        let (config, encryption) = (read("kms.toml"), read("encryption.yaml"));
        assert!(!config.contains(SECRET) && !encryption.contains(SECRET) && !said.contains(SECRET));
        assert_eq!(
            encryption.matches(&format!("apiVersion: {protocol}\n")).count(),
            if protocol == "v2" { 2 } else { 1 }
        );
    }
    // Of Trousseau's, all is there but the file with the secret, which is read when it is needed.
    let config = cli.work().join("two/kms.toml");
    let text = fs::read_to_string(&config).unwrap().replace("/var/lib/bulla-kms", cli.work().to_str().unwrap());
    fs::write(&config, text).unwrap();
    cli.run(["kms", "check", "--config", "two/kms.toml"]).ok();
    assert!(migrate("from-kleidi", "kleidi.json", "one").failed(1).contains("cannot write"), "nothing is replaced");
    assert!(migrate("from-kleidi", "vault.yaml", "three").failed(1).contains("kleidi"));
    assert!(!cli.work().join("three").exists());
}
