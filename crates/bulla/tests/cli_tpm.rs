//! Somebody whose signing key is in a TPM 2.0, through its module for PKCS#11: swtpm, which is a TPM in software.

use bulla_testkit::tpm::{self, Tpm};
use bulla_testkit::{Cli, Options, Server, bulla, skip};
use std::os::unix::fs::PermissionsExt as _;

const TEST: &str = "a_key_in_a_tpm_signs";
const PIN: &str = "1234";

#[test]
fn a_key_in_a_tpm_signs() {
    let Some(tpm) = Tpm::start(PIN) else { skip!(TEST, "{}", tpm::NEEDS) };
    let mut ann = Cli::new(bulla!());
    for (name, value) in tpm.environment() {
        ann.env(name, value);
    }
    tpm.pair(PIN, "EC:prime256v1", "ann", "01", "--usage-sign");

    let pin = ann.file("pin", PIN.as_bytes());
    std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o600)).unwrap();
    let key = format!("pkcs11:token=tpm;object=ann?module-path={}&pin-source=file:{}", tpm.module(), pin.display());
    let run = |args: &[&str]| {
        tpm.forget();
        ann.run(args)
    };
    // It signs only: tpm2-pkcs11 1.9 agrees on no key, so a second one decrypts.
    run(&["keygen", "-q", "-o", "opens.key"]).ok();
    assert!(run(&["keygen", "--from", &key, "-o", "ann.pub"]).failed(64).contains("--decrypt-with"));
    run(&["keygen", "--from", &key, "--decrypt-with", "opens.key", "-o", "ann.pub"]).ok();

    // An admin: the seal, an admission, a wrap there and back, and a request for something secret.
    let server = Server::start(Options::transient(bulla!()).admin(ann.work().join("ann.pub")));
    let ready = server.directory().join("ready-1.json");
    let both = ["--identity", &key, "--decrypt-with", "opens.key"];
    let run = |args: &[&str]| run(&[&both[..], args].concat());
    let init = ["--name", "test", "--any", "--admin", "ann.pub", "--ready-file", ready.to_str().unwrap()];
    run(&[&["init"], &init[..], &["--save-context", "test"]].concat()).ok();
    run(&["unseal", "--yes"]).ok();
    assert!(run(&["whoami"]).ok().contains("ann"));
    ann.file("all.cedar", b"permit (principal, action in Bulla::Action::\"kv\", resource);\n");
    run(&["policy", "put", "all", "all.cedar"]).ok();
    run(&["kv", "put", "app/db", "password=x"]).ok();
    assert_eq!(run(&["kv", "get", "app/db", "--field", "password"]).ok(), "x");
    ann.file("letter", b"to myself");
    let slip = run(&["wrap", "create", "--to", "ann", "letter"]).ok();
    assert_eq!(run(&["open", &slip]).ok(), "to myself");
}
