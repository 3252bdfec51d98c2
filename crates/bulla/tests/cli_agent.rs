//! People whose signing keys are in an SSH agent, and whose decryption keys are in files or behind an age plugin.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::agent::{SOCKET, SshAgent};
use bulla_testkit::transcript::Transcript;
use bulla_testkit::{Cli, Options, Server, bulla, skip, tools};
use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What `age-plugin-tagtest` opens, as `age-plugin-yubikey` would write it.
const PLUGIN: &str = "#       Serial: 1\n#    Recipient: \
                      age1tag1qwe0kafsjrar4txm6heqnhpfuggzr0gvznz7fvygxrlq90u5mq2pysxtw6h\nAGE-PLUGIN-TAGTEST-1CXM4UC\n";
/// A recipient that the plugin does not open: the generator of P-256.
const OTHERS: &str = "age1tag1qd43050juykyy3lchnnw2caygre8wqmasyk7kvaq7jsnj3wcnrpfvt5hxye";
const POLICY: &str = "permit (principal, action in Bulla::Action::\"kv\", resource);\n";

fn transcript(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd").join(name)
}

fn private(cli: &Cli, name: &str, content: &str) {
    let path = cli.file(name, content.as_bytes());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// `PATH` with the folder of `age-plugin-tagtest`.
fn path_with_plugin() -> Option<OsString> {
    let mut path = vec![tools::age()?.parent()?.to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH")?));
    path.first()?.join("age-plugin-tagtest").is_file().then(|| std::env::join_paths(path).unwrap())
}

/// Alice decrypts with a key in a file, Bob with a plugin; the agent signs for both.
#[test]
fn an_agent_signs() {
    const NAME: &str = "an_agent_signs";
    let Some(agent) = SshAgent::new() else { skip!(NAME, "needs openssh-client") };
    let Some(path) = path_with_plugin() else { skip!(NAME, "age-plugin-tagtest beside age 1.3 (BULLA_TEST_AGE)") };
    let (alice_key, bob_key) = (agent.key("alice", "ed25519"), agent.key("bob", "ecdsa -b 256"));
    let next_key = agent.key("next", "ecdsa -b 384");
    let [mut ann, mut alice, mut bob] = [(); 3].map(|()| Cli::new(bulla!()));
    ann.run(["keygen", "-q", "-o", "ann.key"]).ok();
    ann.env("BULLA_IDENTITY", ann.work().join("ann.key"));
    ann.file("kv.cedar", POLICY.as_bytes());
    for cli in [&mut alice, &mut bob] {
        cli.env(SOCKET, agent.socket()).env("PATH", path.clone());
    }
    private(&bob, "plugin.txt", PLUGIN);
    alice.run(["keygen", "-q", "-o", "opens.key", "--name", "unused"]).ok();

    let server = RefCell::new(Server::prepare(Options::durable(bulla!()).admin(ann.work().join("ann.pub"))));
    let start = |_: &[&str]| server.borrow_mut().restart();
    let join = |_: &[&str]| {
        let shown: serde_json::Value = serde_json::from_str(&ann.run(["context", "show", "-o", "json"]).ok()).unwrap();
        let [address, cluster] = ["address", "cluster"].map(|field| shown.get(field).unwrap().as_str().unwrap());
        let bobs = format!("ssh-agent:{}", agent.fingerprint(&bob_key));
        let alices = format!("ssh-agent:{}.pub", alice_key.display());
        for (cli, identity, opens) in [(&alice, &alices, "opens.key"), (&bob, &bobs, "plugin.txt")] {
            let keys = ["--identity", identity, "--decrypt-with", opens];
            cli.run([&["context", "add", "prod", address, "--cluster", cluster][..], &keys].concat()).ok();
        }
    };
    let ssh = |words: &[&str]| {
        let key = agent.folder().join("alice");
        match words {
            ["forgets", "alice"] => drop(agent.add([Path::new("-d"), &key])),
            ["learns", "alice"] => drop(agent.add([&key])),
            _ => unreachable!("{words:?}"),
        }
    };
    let ready = server.borrow().directory().join("ready-1.json");
    Transcript::new()
        .person("ann", &ann)
        .person("alice", &alice)
        .person("bob", &bob)
        .world("server", start)
        .world("join", join)
        .world("ssh", ssh)
        .variable("READY", ready.to_str().unwrap())
        .variable("ALICEPUB", alice.work().join("alice.pub").to_str().unwrap())
        .variable("BOBPUB", bob.work().join("bob.pub").to_str().unwrap())
        .variable("NEXT", bob.work().join("next.pub").to_str().unwrap())
        .variable("ALICEKEY", &agent.fingerprint(&alice_key))
        .variable("BOBKEY", &agent.fingerprint(&bob_key))
        .variable("NEXTKEY", &agent.fingerprint(&next_key))
        .variable("KEYS", agent.folder().to_str().unwrap())
        .check(&transcript("agent.txt"));
}

#[test]
fn what_agents_and_plugins_refuse() {
    const NAME: &str = "what_agents_and_plugins_refuse";
    let Some(agent) = SshAgent::new() else { skip!(NAME, "needs openssh-client") };
    let Some(path) = path_with_plugin() else { skip!(NAME, "age-plugin-tagtest beside age 1.3 (BULLA_TEST_AGE)") };
    let (without, mut with) = (Cli::new(bulla!()), Cli::new(bulla!()));
    with.env(SOCKET, agent.socket()).env("PATH", path);
    for cli in [&without, &with] {
        cli.run(["keygen", "-q", "-o", "opens.key"]).ok();
        private(cli, "plugin.txt", PLUGIN);
    }
    private(
        &with,
        "wrong.txt",
        &PLUGIN.replace("age1tag1qwe0kafsjrar4txm6heqnhpfuggzr0gvznz7fvygxrlq90u5mq2pysxtw6h", OTHERS),
    );
    private(&with, "yubikey.txt", &PLUGIN.replace("age1tag1", "age1yubikey1"));
    private(&with, "path.txt", "AGE-PLUGIN-../X-1\n");
    let rsa = agent.pair("rsa", "rsa -b 3072");
    let own = agent.pair("own", "ed25519");
    let ssh = |words: &[&str]| match words {
        ["learns", "rsa"] => drop(agent.add([&rsa])),
        ["learns", "own"] => drop(agent.add([&own])),
        ["is", "locked"] => drop(agent.add(["-x"])),
        _ => unreachable!("{words:?}"),
    };
    Transcript::new()
        .person("without", &without)
        .person("with", &with)
        .world("ssh", ssh)
        .variable("RSA", &agent.fingerprint(&rsa))
        .variable("OWN", &agent.fingerprint(&own))
        .variable("KEYS", agent.folder().to_str().unwrap())
        .check(&transcript("agent-errors.txt"));
}

/// The variable is for identities that only sign. What is typed takes the place of a key.
#[test]
fn the_variable_takes_no_keys_place() {
    const NAME: &str = "the_variable_takes_no_keys_place";
    let Some(agent) = SshAgent::new() else { skip!(NAME, "needs openssh-client") };
    agent.key("ann", "ed25519");
    let mut ann = Cli::new(bulla!());
    for key in ["ann.key", "opens.key"] {
        ann.run(["keygen", "-q", "-o", key, "--name", "ann"]).ok();
    }
    ann.env("BULLA_DECRYPT_WITH", "opens.key").env(SOCKET, agent.socket());
    let record = |from: &str, to: &str, more: &[&str]| {
        ann.run([&["keygen", "--from", from, "--name", "ann", "-o", to], more].concat())
    };
    let refused = record("ann.key", "refused.pub", &[]).failed(64);
    assert!(
        refused.contains("ann.key decrypts by itself, and BULLA_DECRYPT_WITH names another key for that")
            && refused.contains("give --decrypt-with KEY"),
        "{refused}"
    );
    assert!(!ann.work().join("refused.pub").exists());
    record("ann.key", "typed.pub", &["--decrypt-with", "opens.key"]).ok();
    record("ssh-agent:", "agent.pub", &[]).ok();
    // Both name the recipient of the other key, and not that of `ann.key`.
    let recipient = |file: &str| {
        let line = std::fs::read(ann.work().join(file)).unwrap();
        let envelope: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let payload = envelope.get("payload").and_then(|payload| payload.as_str()).unwrap();
        let payload = bulla_wire::encoding::base64_decode(payload).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        record.pointer("/keys/0/recipients/0").unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(recipient("typed.pub"), recipient("opens.pub"));
    assert_eq!(recipient("agent.pub"), recipient("opens.pub"));
    assert_ne!(recipient("ann.pub"), recipient("opens.pub"));
}
