//! A client that was written from the specification alone, in Python, beside the real binary.

use bulla_testkit::{Cli, Options, Server, bulla, process, skip, tools};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

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

/// A plugin for Kubernetes that serves.
struct Plugin(Child);

impl Plugin {
    /// With a key file of its own, on this socket.
    fn start(cli: &Cli, socket: &str) -> Self {
        let (work, uid) = (cli.work(), rustix::process::geteuid().as_raw());
        cli.run(["keygen", "-q", "-o", "node.key", "--name", "node"]).ok();
        cli.run(["kms", "keyfile", "create", "keys.age", "--node", "node=node.pub", "--identity", "node.key"]).ok();
        let config = format!(
            "cluster = 'test'\n[socket]\npath = '{socket}'\nallow_uids = [{uid}]\n[members.node.age]\nfile = \
             '{0}/keys.age'\nidentity = '{0}/node.key'\n",
            work.display()
        );
        cli.file("kms.toml", config.as_bytes());
        let binary = bulla!();
        let mut command = process::command(&binary);
        command.args(["kms", "serve", "--config", "kms.toml"]).current_dir(&work).env("HOME", cli.home());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(process::spawn(command))
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn another_grpc_than_gos_asks_the_plugin_for_kubernetes() {
    let Some(python) = tools::grpc() else {
        skip!("another_grpc_than_gos_asks_the_plugin_for_kubernetes", "needs Python with grpcio (BULLA_TEST_GRPC)")
    };
    let script = script().with_file_name("kms.py");
    let name = format!("bulla-test-{}", std::process::id());
    for abstract_ in [false, true] {
        let cli = person();
        let path = cli.work().join("kms.sock");
        let path = path.to_str().expect("a path in UTF-8");
        let (socket, target) = if abstract_ {
            (format!("@{name}"), format!("unix-abstract:{name}"))
        } else {
            (path.to_owned(), format!("unix:{path}"))
        };
        let plugin = Plugin::start(&cli, &socket);
        let pid = plugin.0.id().to_string();
        let arguments = [script.as_os_str(), target.as_ref(), pid.as_ref()];
        let told = cli.run_program(&python, arguments, b"").ok();
        for case in ["round_trip", "altered", "oversized", "malformed", "at_once", "deadline", "authority"] {
            assert!(told.lines().any(|line| line == format!("ok {case}")), "{target}: no {case} in:\n{told}");
        }
    }
}
