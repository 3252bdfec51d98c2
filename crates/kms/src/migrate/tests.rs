use super::*;
use crate::config::{Config, Written};
use crate::finding::Verdict;
use crate::kubernetes::encryption::Encryption;
use crate::kubernetes::{judge, yaml};

const SECRET: &str = "hunter2-canary";

fn before() -> Before {
    Before { name: "old".into(), endpoint: "unix:///old/\"x.sock".into() }
}

fn target() -> Target {
    Target { cluster: "prod".into(), resources: vec!["secrets".into(), "configmaps".into()] }
}

/// What every translation holds to. Gives the members as a tree, and what was left.
fn held(migration: &Migration) -> (Value, String) {
    let whole = format!("{migration:?}");
    assert!(!whole.contains(SECRET), "a secret was copied: {whole}");
    let judged = judge::judge(
        &yaml::parse(&migration.encryption).and_then(|tree| Encryption::read(&tree)),
        &"/run/bulla-kms/kms.sock".parse().unwrap(),
    );
    assert!(judged.iter().all(|finding| finding.verdict != Verdict::Fail), "{judged:?}");
    let read = Encryption::read(&yaml::parse(&migration.encryption).unwrap()).unwrap();
    let names: Vec<&str> = read.plugins().map(|kms| kms.name.as_str()).collect();
    assert_eq!(names, ["bulla", "old"]);
    assert_eq!(read.plugins().last().map(|kms| kms.endpoint.as_str()), Some("unix:///old/\"x.sock"));
    let tree: Value = toml::from_str(&migration.config).unwrap();
    (tree["members"].clone(), migration.left.join("\n"))
}

fn opens(migration: &Migration) {
    let mut written: toml::Table = toml::from_str(&migration.config).unwrap();
    // What no machine of a test has.
    written.remove("state");
    let written: Written = written.try_into().unwrap();
    Config::new(written).map(|_| ()).unwrap();
}

fn kleidi(text: &str) -> Result<Migration, String> {
    kleidi::translate(&yaml::parse(text).unwrap(), &before(), &target())
}

fn trousseau(texts: &[&str]) -> Result<Migration, String> {
    let trees: Vec<Value> = texts.iter().map(|text| yaml::parse(text).unwrap()).collect();
    trousseau::translate(&trees, &before(), &target())
}

#[test]
fn kleidi_with_vault() {
    let text = r#"{"namespace": "admin/", "transitkey": "k", "vaultrole": "r", "address": "http://172.20.10.9:8200", "transitpath":
        "/transit/", "authmethod": "cert", "authpath": "certauth", "extra": "hunter2-canary"}"#;
    let migration = kleidi(text).unwrap();
    let (members, left) = held(&migration);
    let vault = &members["vault"]["vault"];
    assert_eq!(vault["address"], "https://172.20.10.9:8200");
    assert_eq!((&vault["namespace"], &vault["mount"]), (&"admin".into(), &"transit".into()));
    assert_eq!(vault["auth"]["certificate"]["mount"], "certauth");
    assert!(left.contains("in clear") && left.contains("VAULT_CLIENT_CERT") && left.contains("extra"), "{left}");
    opens(&kleidi(&text.replace("certauth", "cert")).unwrap());

    // The names of before, and the way to log in that makes a loop.
    let older = r#"{"Namespace": "admin", "Transit": "k", "Role": "r", "Path": "https://v.example:8200"}"#;
    let (members, left) = held(&kleidi(older).unwrap());
    assert!(members["vault"]["vault"]["auth"].get("kubernetes").is_none());
    assert!(left.contains("neither starts"), "{left}");
}

#[test]
fn kleidi_with_a_token() {
    let text = r#"{"tokenLabel": "my token", "pin": "hunter2-canary", "path": "/usr/lib64/softhsm/libsofthsm.so"}"#;
    let migration = kleidi(text).unwrap();
    let (members, left) = held(&migration);
    let uri = members["hsm"]["pkcs11"]["uri"].as_str().unwrap().to_owned();
    assert!(uri.contains("token=my%20token;") && uri.ends_with("libsofthsm.so"), "{uri}");
    assert!(left.contains("pin:") && left.contains("same on every node"), "{left}");
    opens(&migration);
}

#[test]
fn trousseau_with_each_of_its_providers() {
    let vault = "keyNames: [a, b]\naddress: https://v.example\ntoken: hunter2-canary\n";
    let (members, left) = held(&trousseau(&[vault]).unwrap());
    assert_eq!(members["vault"]["vault"]["auth"]["token"]["file"], "/etc/bulla-kms/vault-token");
    assert!(left.contains("token: not copied") && left.contains("keyNames"), "{left}");

    let role =
        "keyNames: [a]\naddress: https://v.example\nroleID: r-1\nsecretID: hunter2-canary\nauthPath: auth/team\n";
    let migration = trousseau(&[role]).unwrap();
    let (members, _) = held(&migration);
    let approle = &members["vault"]["vault"]["auth"]["approle"];
    assert_eq!((&approle["role_id"], &approle["mount"]), (&"r-1".into(), &"team/approle".into()));
    opens(&migration);
    assert!(migration.encryption.contains("apiVersion: v1\n"));
    assert!(migration.steps.first().unwrap().contains("KMSv1=true"));

    let aws = "keyArn: arn:aws:kms:eu-west-1:000000000000:key/af05ccec\nprofile: p\nroleArn: x\nassumeRoleMFAToken: hunter2-canary\n";
    let migration = trousseau(&[aws, role]).unwrap();
    let (members, left) = held(&migration);
    assert_eq!(members["aws"]["aws"]["credentials"]["file"]["profile"], "p");
    assert!(left.contains("roleArn") && left.contains("assumeRoleMFAToken"), "{left}");
    assert!(migration.config.contains("policy = \"degraded\""));
    opens(&migration);

    let azure = "configFilePath: /etc/azure.json\nkeyVaultName: v\nkeyName: k\nkeyVersion: '1'\n";
    let (members, left) = held(&trousseau(&[azure]).unwrap());
    assert_eq!(members["azure"]["azure"]["key"], "https://v.vault.azure.net/keys/k");
    assert!(left.contains("configFilePath") && left.contains("keyVersion"), "{left}");
    let (members, _) = held(&trousseau(&[&format!("{azure}managedHSM: true\n")]).unwrap());
    assert_eq!(members["azure"]["azure"]["key"], "https://v.managedhsm.azure.net/keys/k");
}

/// All else is named: whoever moves has to know what did not come.
#[test]
fn what_nobody_took_is_named() {
    let text = r#"{"transitkey": "k", "address": "https://v.example", "vault_role": "hunter2-canary", "max-ttl": 3, "ca.file":
        true, "hunter2-canary!": "x", "": "x", "empty": "", "none": null}"#;
    let (_, left) = held(&kleidi(text).unwrap());
    for name in ["vault_role: not known", "max-ttl: not known", "ca.file: not known", "no word: not known"] {
        assert!(left.contains(name), "{name}: {left}");
    }
    assert!(!left.contains("empty:") && !left.contains("none:"), "{left}");
}

#[test]
fn who_is_named_in_an_address_stays_behind() {
    for (given, wanted) in [
        ("http://root:hunter2-canary@v.example:8200/", "https://v.example:8200"),
        ("https://hunter2-canary@v.example", "https://v.example"),
        ("https://v.example/a@b", "https://v.example/a@b"),
    ] {
        let migration = kleidi(&format!(r#"{{"transitkey": "k", "address": "{given}"}}"#)).unwrap();
        let (members, left) = held(&migration);
        assert_eq!(members["vault"]["vault"]["address"], wanted);
        assert_eq!(left.contains("before @"), given.contains("canary"), "{left}");
    }
}

#[test]
fn trousseau_logs_in_by_a_certificate_or_below_another_path() {
    let text = "keyNames: [a]\naddress: https://v.example\nclientCert: /c.pem\nclientKey: /k.pem\nvaultCACert: /ca.pem\n\
                transitPath: /team/transit/\ntlsServerName: v\ntoken: hunter2-canary\n";
    let migration = trousseau(&[text]).unwrap();
    let (members, left) = held(&migration);
    let vault = &members["vault"]["vault"];
    assert_eq!((&vault["ca"], &vault["mount"]), (&"/ca.pem".into(), &"team/transit".into()));
    assert_eq!(vault["auth"], serde_json::json!({"certificate": {"certificate": "/c.pem", "key": "/k.pem"}}));
    assert!(left.contains("tlsServerName") && left.contains("token: not copied"), "{left}");
    opens(&migration);
    for (path, mount, told) in [
        ("auth", None, false),
        ("/auth/", None, false),
        ("auth/team", Some("team/cert"), false),
        // A word that only begins so is another path.
        ("authority/team", None, true),
        ("team", None, true),
    ] {
        let (members, left) = held(&trousseau(&[&format!("{text}authPath: {path}\n")]).unwrap());
        assert_eq!(members["vault"]["vault"]["auth"]["certificate"]["mount"].as_str(), mount, "{path}");
        assert_eq!(left.contains("not below auth"), told, "{path}: {left}");
    }
}

#[test]
fn kleidi_with_a_token_that_has_no_label() {
    let text = r#"{"tokenSerial": "hunter2-canary", "slotNumber": 3, "pin": "", "path": "/m.so"}"#;
    let (members, left) = held(&kleidi(text).unwrap());
    assert!(members["hsm"]["pkcs11"]["uri"].as_str().unwrap().contains("token=LABEL;"));
    assert!(left.contains("named by its label") && !left.contains("pin:"), "{left}");
    assert!(!left.contains("not known"), "{left}");
}

#[test]
fn what_is_not_theirs_is_refused_by_name() {
    for (error, named) in [
        (kleidi("{}"), "expected kleidi"),
        (kleidi("[1]"), "expected a table"),
        (kleidi("{transitkey: k}"), "address"),
        (kleidi("{transitkey: [hunter2-canary]}"), "transitkey"),
        (kleidi("{transitkey: k, address: 'https://v', authmethod: hunter2-canary}"), "authmethod"),
        (kleidi("{transitkey: \"a\\nb\", address: 'https://v'}"), "transitkey"),
        (kleidi("{tokenLabel: t}"), "path"),
        (trousseau(&["a: 1"]), "expected a file of Trousseau"),
        (trousseau(&["keyNames: x"]), "keyNames"),
        (trousseau(&["keyNames: [k]\naddress: 'https://v'"]), "expected one of token"),
        (trousseau(&["keyArn: a", "keyArn: b"]), "two files"),
        (trousseau(&["keyVaultName: v"]), "keyname"),
    ] {
        let error = error.unwrap_err();
        assert!(error.contains(named) && !error.contains(SECRET), "{error}");
    }
}
