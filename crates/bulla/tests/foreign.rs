//! A client that others wrote from the specification alone, in Python, against the real binary.

use bulla_testkit::{bulla, process, skip, tools};
use std::path::Path;
use std::time::Duration;

/// How long it may take: it starts several servers and many commands.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn a_client_written_from_the_specification_passes_its_tests() {
    let Some(python) = tools::python() else {
        skip!(
            "a_client_written_from_the_specification_passes_its_tests",
            "needs Python with cryptography and requests (BULLA_TEST_PYTHON)"
        )
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/foreign/test_client.py");
    let mut command = process::command(python);
    command.arg(script).env("BULLA", bulla!()).stdin(std::process::Stdio::null());
    let mut child = process::spawn(command);
    let status = process::wait(&mut child, PATIENCE);
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    assert!(status.is_some_and(|status| status.success()), "it ended with {status:?}; what it said stands above");
}
