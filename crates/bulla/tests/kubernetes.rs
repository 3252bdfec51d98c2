//! The plugin under the code of Kubernetes itself (`tests/apiserver`): its client library, and whole kube-apiservers with etcd.
//! How each plugin is set up, its description in `tests/apiserver/plugins` says.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::{Cli, bulla, skip, tools};
use std::path::{Path, PathBuf};

const WHY: &str = "needs the programs of tests/apiserver (BULLA_TEST_APISERVER)";

fn harness() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/apiserver")
}

/// Has the harness judge, and shows what it printed.
fn judged(kmscheck: &Path, args: &[&str]) {
    let mut cli = Cli::new(bulla!());
    if let Some(openbao) = tools::openbao() {
        cli.env("BULLA_TEST_OPENBAO", openbao);
    }
    let done = cli.run_program(kmscheck, args, b"");
    let text = done.text();
    println!("{text}");
    assert_eq!(done.code, 0, "{args:?}:\n{text}\n{}", done.errors());
    assert!(text.lines().any(|line| line.starts_with("ok ")), "no case ran:\n{text}");
    let unasked = |line: &str| !line.starts_with("skipped ") || line.contains("not asked of this plugin");
    assert!(text.lines().all(unasked), "a case was skipped:\n{text}");
}

fn plugin(kmscheck: &Path, level: &str, name: &str) {
    let plugins = harness().join("plugins");
    let description = plugins.join(format!("{name}.json"));
    let (binary, plugins) = (format!("bulla={}", bulla!().display()), format!("plugins={}", plugins.display()));
    judged(kmscheck, &[level, "--plugin", description.to_str().unwrap(), "--set", &binary, "--set", &plugins]);
}

macro_rules! kmscheck {
    ($test:literal) => {
        match tools::apiserver() {
            Some(folder) => folder.join("kmscheck"),
            None => skip!($test, "{WHY}"),
        }
    };
}

#[test]
fn the_harness_notices_every_fault() {
    let kmscheck = kmscheck!("the_harness_notices_every_fault");
    judged(&kmscheck, &["selftest", "library"]);
}

#[test]
fn a_key_of_bulla_under_the_client_library() {
    let kmscheck = kmscheck!("a_key_of_bulla_under_the_client_library");
    plugin(&kmscheck, "library", "bulla");
}

#[test]
fn a_key_of_vault_under_the_client_library() {
    let kmscheck = kmscheck!("a_key_of_vault_under_the_client_library");
    if tools::openbao().is_none() {
        skip!("a_key_of_vault_under_the_client_library", "needs OpenBao (BULLA_TEST_OPENBAO)");
    }
    plugin(&kmscheck, "library", "vault");
}

#[test]
fn a_key_on_a_token_under_the_client_library() {
    let kmscheck = kmscheck!("a_key_on_a_token_under_the_client_library");
    plugin(&kmscheck, "library", "pkcs11");
}

#[test]
fn two_keys_together_under_the_client_library() {
    let kmscheck = kmscheck!("two_keys_together_under_the_client_library");
    plugin(&kmscheck, "library", "several");
}

/// With `--long`: the apiserver takes four minutes to build.
#[test]
fn keys_under_kube_apiserver() {
    let kmscheck = kmscheck!("keys_under_kube_apiserver");
    if bulla_testkit::long() {
        ["bulla", "pkcs11", "several"].iter().for_each(|name| plugin(&kmscheck, "apiserver", name));
    }
}
