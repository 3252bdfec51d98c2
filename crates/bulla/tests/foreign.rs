//! A client that was written from the specification alone, in Python, beside the real binary.

use bulla_testkit::{Cli, Options, Server, bulla, skip, tools};
use std::path::{Path, PathBuf};

const WHY: &str = "needs Python with cryptography and requests (BULLA_TEST_PYTHON)";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/foreign/test_client.py")
}

/// Somebody whose Python leaves no compiled files in the source tree.
fn person() -> Cli {
    let mut cli = Cli::new(bulla!());
    cli.env("PYTHONDONTWRITEBYTECODE", "1").env("BULLA", bulla!());
    cli
}

#[test]
fn the_vectors_hold_for_a_client_written_from_the_specification() {
    let Some(python) = tools::python() else {
        skip!("the_vectors_hold_for_a_client_written_from_the_specification", "{WHY}")
    };
    let counts = person().run_program(&python, [script()], b"").ok();
    let judged = ["identity", "age", "record", "genesis", "document", "admission", "statement", "receipt"];
    for kind in judged.iter().chain(&["exchange", "changed exchange", "forged"]) {
        let count = counts.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(": "));
        assert!(count.is_some_and(|count| count.parse().is_ok_and(|count: u32| count > 0)), "no {kind} in:\n{counts}");
    }
}

#[test]
fn a_client_written_from_the_specification_and_the_real_one_serve_each_other() {
    let Some(python) = tools::python() else {
        skip!("a_client_written_from_the_specification_and_the_real_one_serve_each_other", "{WHY}")
    };
    let mut cli = person();
    cli.run(["keygen", "-o", "alice.key"]).ok();
    cli.run(["keygen", "-o", "bob.key"]).ok();
    let server = Server::start(Options::transient(bulla!()).admin(cli.work().join("alice.pub")));
    let (address, node) = (server.address(), server.node());
    let init = ["--name", "home", "--any", "--admin", "alice.pub", "--addr", address, "--node", node, "-o", "json"];
    let answer = cli.run(["--identity", "alice.key", "init"].iter().chain(&init)).ok();
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let cluster = answer["cluster"].as_str().expect("the cluster's id").to_owned();
    cli.env("BULLA_ADDR", address).env("BULLA_CLUSTER", &cluster);
    cli.run(["--identity", "alice.key", "unseal", "--yes"]).ok();
    cli.run(["--identity", "alice.key", "principal", "add", "bob.pub"]).ok();
    let script = script();
    let arguments = [script.as_os_str(), address.as_ref(), cluster.as_ref(), "alice.key".as_ref(), "bob.key".as_ref()];
    cli.run_program(&python, arguments, b"").ok();
}
