//! The plugin under the code of Kubernetes itself (`tests/apiserver`): its client library, and whole kube-apiservers with etcd.
//! How each plugin is set up, its description in `tests/apiserver/plugins` says.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::{Cli, bulla, skip, tools};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the harness may take. Beside all that runs at the same time it takes five minutes; with `--long` more cases.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
const WHY: &str = "needs the programs of tests/apiserver (BULLA_TEST_APISERVER)";

fn harness() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/apiserver")
}

/// Has the harness judge, and shows what it printed.
fn judged(program: &Path, args: &[&str]) {
    let mut cli = Cli::new(bulla!());
    cli.patience(PATIENCE);
    if bulla_testkit::long() {
        cli.env("BULLA_TEST_LONG", "1");
    }
    if let Some(openbao) = tools::openbao() {
        cli.env("BULLA_TEST_OPENBAO", openbao);
    }
    let done = cli.run_program(program, args, b"");
    let text = done.text();
    println!("{text}");
    assert_eq!(done.code, 0, "{args:?}:\n{text}\n{}", done.errors());
    assert!(text.lines().any(|line| line.starts_with("ok ")), "no case ran:\n{text}");
    let known = ["not asked of this plugin", "runs with BULLA_TEST_LONG=1", "needs root"];
    let fits = |line: &str| known.iter().any(|why| line.contains(why));
    assert!(text.lines().all(|line| !line.starts_with("skipped ") || fits(line)), "a case was skipped:\n{text}");
}

fn plugin(kmscheck: &Path, level: &str, name: &str) {
    let plugins = harness().join("plugins");
    let description = plugins.join(format!("{name}.json"));
    let (binary, plugins) = (format!("bulla={}", bulla!().display()), format!("plugins={}", plugins.display()));
    judged(kmscheck, &[level, "--plugin", description.to_str().unwrap(), "--set", &binary, "--set", &plugins]);
}

macro_rules! kmscheck {
    ($test:expr) => {
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
fn a_key_file_under_the_client_library() {
    let kmscheck = kmscheck!("a_key_file_under_the_client_library");
    plugin(&kmscheck, "library", "age");
}

#[test]
fn two_keys_together_under_the_client_library() {
    let kmscheck = kmscheck!("two_keys_together_under_the_client_library");
    plugin(&kmscheck, "library", "several");
}

/// Whole kube-apiservers with etcd.
macro_rules! kube_apiserver {
    ($test:ident, $name:literal) => {
        #[test]
        fn $test() {
            let kmscheck = kmscheck!(stringify!($test));
            plugin(&kmscheck, "apiserver", $name);
        }
    };
}

kube_apiserver!(a_key_of_bulla_under_kube_apiserver, "bulla");
kube_apiserver!(a_key_on_a_token_under_kube_apiserver, "pkcs11");
kube_apiserver!(two_keys_together_under_kube_apiserver, "several");

/// With `--long`: it takes two minutes of both processors.
#[test]
fn the_harness_notices_every_fault_under_kube_apiserver() {
    let kmscheck = kmscheck!("the_harness_notices_every_fault_under_kube_apiserver");
    if bulla_testkit::long() {
        judged(&kmscheck, &["selftest", "apiserver"]);
    }
}

#[test]
fn what_is_deployed_is_taken_by_helm_and_kube_apiserver() {
    const TEST: &str = "what_is_deployed_is_taken_by_helm_and_kube_apiserver";
    let (Some(helm), Some(kubectl), Some(promtool)) = (tools::helm(), tools::kubectl(), tools::promtool()) else {
        skip!(TEST, "needs Helm, kubectl and promtool (BULLA_TEST_HELM, BULLA_TEST_KUBECTL, BULLA_TEST_PROMTOOL)")
    };
    let kapiserver = kmscheck!(TEST).with_file_name("kapiserver");
    let (script, bulla) = (harness().join("manifests"), bulla!());
    let programs =
        [("--kubectl", &kubectl), ("--promtool", &promtool), ("--kapiserver", &kapiserver), ("--bulla", &bulla)];
    let named = programs.iter().flat_map(|(flag, path)| [*flag, path.to_str().unwrap()]);
    judged(&helm, &std::iter::once(script.to_str().unwrap()).chain(named).collect::<Vec<_>>());
}
