//! Key files of the Kubernetes plugin at the command line, from the first node to a dropped key; keys on tokens, and
//! identities bound to a TPM. What comes out is used by the plugin itself (`bulla kms verify`).
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::softhsm::{CONFIGURATION, SoftHsm};
use bulla_testkit::tpm::{self, Tpm};
use bulla_testkit::transcript::Transcript;
use bulla_testkit::{Cli, bulla, skip};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

const PIN: &str = "1234";

fn file(cli: &Cli, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = cli.file(name, content.as_bytes());
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A node with an identity of its own.
fn node(name: &str) -> Cli {
    let mut cli = Cli::new(bulla!());
    cli.run(["keygen", "-q", "-o", &format!("{name}.key")]).ok();
    cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
    cli
}

/// The id of the key that the plugin would use, which all nodes have to agree on.
fn key_id(cli: &Cli, member: &str) -> String {
    let config = cli.file("kms.toml", format!("cluster = 'test'\n{member}").as_bytes());
    let told = cli.run(["kms", "verify", "--config", config.to_str().unwrap()]).ok();
    told.lines().find_map(|line| line.strip_prefix("key id")).unwrap().trim().to_owned()
}

#[test]
fn two_nodes_share_a_key_file() {
    let (one, two) = (node("one"), node("two"));
    one.run(["keygen", "-q", "--classical", "-o", "old.key"]).ok();
    one.run(["keygen", "-q", "-o", "other.key"]).ok();
    let (mine, theirs) = (one.work().join("keys.age"), two.work().join("keys.age"));
    file(&one, "bad.bound", "# bulla bound identity v1\nrecipient: age1\n", 0o600);
    let admin = |words: &[&str]| match words {
        ["copy"] => drop(fs::copy(&mine, &theirs).unwrap()),
        ["chmod", mode] => {
            fs::set_permissions(&theirs, Permissions::from_mode(u32::from_str_radix(mode, 8).unwrap())).unwrap();
        }
        ["cut"] => {
            let bytes = fs::read(&theirs).unwrap();
            fs::write(&theirs, &bytes[..bytes.len() - 7]).unwrap();
        }
        other => panic!("{other:?}"),
    };
    let record = two.work().join("two.pub");
    Transcript::new()
        .person("one", &one)
        .person("two", &two)
        .world("admin", admin)
        .variable("TWO", record.to_str().unwrap())
        .check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd/kms-keyfile.txt"));

    assert_eq!(mode(&mine), 0o644);
    let left: Vec<_> = fs::read_dir(one.work()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "nothing half is left: {left:?}");
    // What both nodes have is one key to the plugin, also by a link to the file, which stays one.
    let record = record.to_str().unwrap();
    let link = one.work().join("link.age");
    symlink(&mine, &link).unwrap();
    one.run(["kms", "keyfile", "enrol", "link.age", "--node", &format!("two={record}")]).ok();
    assert!(link.symlink_metadata().unwrap().is_symlink() && mine.symlink_metadata().unwrap().is_file());
    fs::copy(&mine, &theirs).unwrap();
    let of = |cli: &Cli, name: &str| {
        let work = cli.work();
        let (file, key) = (work.join("keys.age"), work.join(name));
        key_id(cli, &format!("[members.node.age]\nfile = '{}'\nidentity = '{}'\n", file.display(), key.display()))
    };
    assert_eq!(of(&one, "one.key"), of(&two, "two.key"));
}

#[test]
fn a_key_is_made_on_a_token() {
    let Some(hsm) = SoftHsm::new() else { skip!("a_key_is_made_on_a_token", "needs softhsm2 and opensc") };
    hsm.token("kms", PIN);
    let mut cli = Cli::new(bulla!());
    cli.env(CONFIGURATION, hsm.configuration());
    let pin = file(&cli, "pin", PIN, 0o600);
    let uri = format!("pkcs11:token=kms;object=k8s?module-path={}", hsm.module());
    let make = || cli.run(["kms", "keygen", &uri, "--pin-file", "pin"]).ok();

    // The answer is the member, as it stands in a configuration.
    let made = make();
    assert!(made.contains(&format!("pin_file = \"{}\"", pin.display())), "{made}");
    let first = key_id(&cli, &made);
    let id = made.lines().find_map(|line| line.strip_prefix("# Key ")).unwrap().trim_end_matches('.').to_owned();
    let there = hsm.tool("kms", PIN, &["--list-objects", "--type", "secrkey"]);
    assert!(id.len() == 32 && there.contains(&id), "{id} in {there}");
    assert!(there.contains("never extractable"), "{there}");
    // Rotation makes one more of the same label.
    assert_ne!(key_id(&cli, &make()), first);

    let refused = cli.run(["kms", "keygen", &uri]).failed(64);
    assert!(refused.contains("--pin-file FILE"), "{refused}");
    for (place, exit, said) in [
        (uri.replace(";object=k8s", ""), 64, "object=NAME"),
        (uri.replace("k8s", "k8s;id=%01"), 1, "leave id= out"),
        (uri.replace("token=kms", "token=none"), 5, "token="),
    ] {
        let refused = cli.run(["kms", "keygen", &place, "--pin-file", "pin"]).failed(exit);
        assert!(refused.contains(said), "{place}: {refused}");
    }
}

#[test]
fn an_identity_is_bound_to_a_tpm() {
    let Some(tpm) = Tpm::start(PIN) else { skip!("an_identity_is_bound_to_a_tpm", "{}", tpm::NEEDS) };
    tpm.pair(PIN, "rsa:2048", "node", "07", "--usage-decrypt");
    tpm.pair(PIN, "rsa:2048", "other", "08", "--usage-decrypt");
    let mut cli = Cli::new(bulla!());
    for (name, value) in tpm.environment() {
        cli.env(name, value);
    }
    let pin = file(&cli, "pin", PIN, 0o600);
    let [uri, other] = ["node", "other"].map(|object| {
        format!("pkcs11:token=tpm;object={object}?module-path={}&pin-source=file:{}", tpm.module(), pin.display())
    });
    let run = |args: &[&str]| {
        tpm.forget();
        cli.run(args)
    };
    let recipient = run(&["kms", "bind", "-o", "node.bound", "--to", &uri]).ok();
    let recipient = recipient.trim_end();
    assert!(recipient.starts_with("age1pq1") && mode(&cli.work().join("node.bound")) == 0o600);
    assert!(run(&["kms", "bind", "-o", "node.bound", "--to", &uri]).failed(18).contains("nothing is overwritten"));

    run(&["kms", "keyfile", "create", "keys.age", "--node", &format!("cp1={recipient}")]).ok();
    let bound = ["--identity", "node.bound", "--bound-to", &uri];
    assert!(run(&[&["kms", "keyfile", "show", "keys.age"], &bound[..]].concat()).ok().contains("active"));
    run(&[&["kms", "keyfile", "rotate", "keys.age", "--begins", "0s"], &bound[..]].concat()).ok();
    for (more, exit, said) in [
        (&["--identity", "node.bound"][..], 64, "--bound-to URI"),
        (&["--identity", "node.bound", "--bound-to", &other], 1, "bound to another key"),
    ] {
        let refused = run(&[&["kms", "keyfile", "show", "keys.age"], more].concat()).failed(exit);
        assert!(refused.contains(said), "{refused}");
    }
    // The plugin opens it in the same way.
    let (keys, identity) = (cli.work().join("keys.age"), cli.work().join("node.bound"));
    let (keys, identity) = (keys.display(), identity.display());
    tpm.forget();
    key_id(&cli, &format!("[members.node.age]\nfile = '{keys}'\nidentity = '{identity}'\nbound_to = '{uri}'\n"));
}
