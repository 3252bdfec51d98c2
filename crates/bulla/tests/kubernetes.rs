//! The plugin under the code of Kubernetes itself (`tests/apiserver`): its client library, and whole kube-apiservers with etcd.
//! How each plugin is set up, its description in `tests/apiserver/plugins` says.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::cloud;
use bulla_testkit::moto::Moto;
use bulla_testkit::tpm::{self, Tpm};
use bulla_testkit::{Cli, bulla, skip, tools};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the harness may take. Beside all that runs at the same time it takes five minutes; with `--long` more cases.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
const WHY: &str = "needs the programs of tests/apiserver (BULLA_TEST_APISERVER)";

fn harness() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/apiserver")
}

/// Has the harness judge, and shows what it printed. The scripts find these variables.
fn judged(program: &Path, args: &[&str], variables: &[(&str, &str)]) {
    let mut cli = Cli::new(bulla!());
    cli.patience(PATIENCE);
    if bulla_testkit::long() {
        cli.env("BULLA_TEST_LONG", "1");
    }
    if let Some(openbao) = tools::openbao() {
        cli.env("BULLA_TEST_OPENBAO", openbao);
    }
    for (name, value) in variables {
        cli.env(name, value);
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
    plugin_with(kmscheck, &[level], name, &[]);
}

fn plugin_with(kmscheck: &Path, how: &[&str], name: &str, variables: &[(&str, &str)]) {
    let plugins = harness().join("plugins");
    let description = plugins.join(format!("{name}.json"));
    let (binary, plugins) = (format!("bulla={}", bulla!().display()), format!("plugins={}", plugins.display()));
    let what = ["--plugin", description.to_str().unwrap(), "--set", &binary, "--set", &plugins];
    judged(kmscheck, &[how, &what].concat(), variables);
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
    judged(&kmscheck, &["selftest", "library"], &[]);
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
fn a_key_file_that_a_tpm_opens_under_the_client_library() {
    const TEST: &str = "a_key_file_that_a_tpm_opens_under_the_client_library";
    let kmscheck = kmscheck!(TEST);
    if !Tpm::can_start() {
        skip!(TEST, "{}", tpm::NEEDS);
    }
    plugin(&kmscheck, "library", "tpm");
}

/// moto shows no key material, so its keys do not rotate; [`a_rotated_key_of_aws_under_the_client_library`] has one that does.
#[test]
fn a_key_of_aws_under_the_client_library() {
    const TEST: &str = "a_key_of_aws_under_the_client_library";
    let kmscheck = kmscheck!(TEST);
    let Some(moto) = Moto::start() else { skip!(TEST, "needs moto of PyPI (BULLA_TEST_MOTO)") };
    plugin_with(&kmscheck, &["library"], "aws", &[("BULLA_TEST_MOTO_ORIGIN", &moto.origin())]);
}

/// A cloud that is a process of its own beside each case's plugins: this program, of which this test alone is run again.
macro_rules! cloud {
    ($test:ident, $cloud:ty, $name:literal, $cases:expr) => {
        #[test]
        fn $test() {
            cloud::of_this_process::<$cloud>();
            let kmscheck = kmscheck!(stringify!($test));
            let own = std::env::current_exe().unwrap();
            let variables =
                [("BULLA_TEST_CLOUDS", own.to_str().unwrap()), ("BULLA_TEST_CLOUD_TEST", stringify!($test))];
            let cases: &[&str] = &$cases;
            let how: Vec<&str> =
                std::iter::once("library").chain(cases.iter().flat_map(|case| ["--case", *case])).collect();
            plugin_with(&kmscheck, &how, $name, &variables);
        }
    };
}

cloud!(
    a_rotated_key_of_aws_under_the_client_library,
    cloud::aws::Account,
    "cloud",
    ["rotation", "two_planes_rotation", "key_id_mismatch"]
);
cloud!(a_key_of_azure_under_the_client_library, cloud::azure::Vault, "cloud", []);
cloud!(a_key_of_gcp_under_the_client_library, cloud::gcp::Project, "cloud", []);

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
        judged(&kmscheck, &["selftest", "apiserver"], &[]);
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
    judged(&helm, &std::iter::once(script.to_str().unwrap()).chain(named).collect::<Vec<_>>(), &[]);
}
