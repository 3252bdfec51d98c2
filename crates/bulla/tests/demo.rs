//! The demo: it ends well with nobody watching, leaves no process, and what it prints can be typed.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails where it stands")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn demo(folder: &Path) -> Output {
    let output =
        Command::new(env!("CARGO_BIN_EXE_bulla")).arg("demo").current_dir(folder).stdin(Stdio::null()).output();
    output.expect("the demo runs")
}

fn alive(ready: &Path) -> bool {
    let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(ready).expect("a ready file")).expect("JSON");
    let pid = ready["pid"].as_u64().expect("a process id");
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn it_ends_well_and_its_lines_can_be_typed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = demo(folder.path());
    let text = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!alive(&folder.path().join("bulla-demo-1/ready.json")), "the server goes when nobody watches");
    for expected in ["The launch code is 0000", "second_claim", "sound", "bulla:wrap:"] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    assert!(errors.contains("already_opened"), "{errors}");

    // The printed lines, as a person would type them, in another folder.
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(lines.len() > 20, "{lines:?}");
    let script = format!("set -eu\ntrap 'kill $! 2>/dev/null; wait' EXIT\n{}\ncat opened.txt\n", lines.join("\n"));
    let again = tempfile::tempdir().expect("a folder");
    let replay = Command::new("bash").arg("-c").arg(&script).current_dir(again.path()).stdin(Stdio::null()).output();
    let replay = replay.expect("bash runs");
    let (printed, errors) = (String::from_utf8_lossy(&replay.stdout), String::from_utf8_lossy(&replay.stderr));
    assert!(replay.status.success(), "{script}\n{printed}\n{errors}");
    assert!(printed.trim_end().ends_with("The launch code is 0000. Change it."), "{printed}");
    assert!(!again.path().join("bulla-demo-1/again.txt").exists(), "the thief got nothing");
    assert!(!alive(&again.path().join("bulla-demo-1/ready.json")), "the script stops its server");
}

#[test]
fn a_second_run_takes_another_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("bulla-demo-1")).expect("a folder that is taken");
    assert!(demo(folder.path()).status.success());
    assert!(folder.path().join("bulla-demo-2/opened.txt").exists());
    assert!(std::fs::read_dir(folder.path().join("bulla-demo-1")).expect("a folder").next().is_none());
}
