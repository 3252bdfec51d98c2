//! The demo: it ends well with nobody watching, leaves no process, and what it prints can be typed.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails where it stands")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

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

    // What it says at the end, in its order, on a port that is free here.
    let (_, farewell) = text.split_once("To go on with this cluster:").expect("a farewell");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let lines: Vec<&str> = farewell.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let typed = lines.join("\n").replace("8250", &port.to_string());
    let script = format!("set -eu\ntrap 'kill $! 2>/dev/null; wait' EXIT\n{typed}\n");
    // A person takes longer to type the next line than the server to start.
    let script =
        script.replace(" &\n", &format!(" &\nuntil (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done\n"));
    let on = Command::new("bash").arg("-c").arg(&script).current_dir(folder.path()).stdin(Stdio::null()).output();
    let on = on.expect("bash runs");
    let (printed, errors) = (String::from_utf8_lossy(&on.stdout), String::from_utf8_lossy(&on.stderr));
    assert!(on.status.success() && printed.contains("bulla:wrap:"), "{script}\n{printed}\n{errors}");
}

/// Writes to the demo's input line by line: it goes on with each, and not before.
#[test]
fn with_pause_it_waits_before_each_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_bulla"));
    let demo = demo.args(["demo", "--pause"]).current_dir(folder.path());
    let mut demo = demo.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut input = demo.stdin.take().expect("its input");
    let lines = BufReader::new(demo.stdout.take().expect("its output")).lines();
    let (sender, printed) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let key = folder.path().join("bulla-demo-1/ann.key");
    let mut seen = Vec::new();
    let mut steps = 0;
    while demo.try_wait().expect("its state").is_none() {
        match printed.recv_timeout(Duration::from_millis(1500)) {
            Ok(line) => seen.push(line),
            Err(RecvTimeoutError::Timeout) => {
                if steps == 0 {
                    assert!(!key.exists(), "nothing is done before the first key: {seen:?}");
                }
                steps += 1;
                assert!(steps < 40, "{seen:?}");
                writeln!(input).expect("it reads");
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(demo.wait().expect("its end").success(), "{seen:?}");
    assert!(steps >= 6, "{steps} pauses: {seen:?}");
    assert!(key.exists() && folder.path().join("bulla-demo-1/opened.txt").exists());
}

#[test]
fn a_demo_that_is_ended_takes_its_server_along() {
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("bulla-demo-1/ready.json");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_bulla"));
    let demo = demo.arg("demo").current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut demo = demo.stderr(Stdio::null()).spawn().expect("it starts");
    let patience = Instant::now() + Duration::from_secs(30);
    while !ready.exists() {
        assert!(Instant::now() < patience, "no server");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill").arg(demo.id().to_string()).status().expect("kill runs");
    assert!(killed.success());
    assert_eq!(demo.wait().expect("its end").code(), Some(143));
    while alive(&ready) {
        assert!(Instant::now() < patience, "its server stays");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_second_run_takes_another_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("bulla-demo-1")).expect("a folder that is taken");
    assert!(demo(folder.path()).status.success());
    assert!(folder.path().join("bulla-demo-2/opened.txt").exists());
    assert!(std::fs::read_dir(folder.path().join("bulla-demo-1")).expect("a folder").next().is_none());
}
