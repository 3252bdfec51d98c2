//! Killed while a snapshot is taken or put back: no half file and no half store is there that looks like a whole one, and
//! the next try works.

use super::{SIGABRT, VARIABLE};
use bulla_server::failpoint::{SNAPSHOT_BEFORE_RENAME, SNAPSHOT_PAGE, SNAPSHOT_RESTORED_ROW};
use bulla_testkit::{Cli, Options, Server, bulla};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The points that end somebody here.
pub const POINTS: [&str; 3] = [SNAPSHOT_PAGE, SNAPSHOT_RESTORED_ROW, SNAPSHOT_BEFORE_RENAME];
/// How often a client is killed: at its beginning, and later and later.
const CLIENTS: u64 = 12;

/// A cluster of one, with some megabytes in it.
struct Kept {
    ann: Cli,
    server: Server,
    cluster: String,
}

fn begin(failpoint: Option<&str>) -> Kept {
    let mut ann = Cli::new(bulla!());
    ann.run(["keygen", "-q", "-o", "ann.key"]).ok();
    ann.env("BULLA_IDENTITY", ann.work().join("ann.key"));
    let options = Options::durable(bulla!()).admin(ann.work().join("ann.pub"));
    let mut server = Server::prepare(match failpoint {
        Some(point) => options.env(VARIABLE, point),
        None => options,
    });
    server.restart();
    server.keep_address();
    let ready = server.directory().join("ready-1.json");
    let init = ["init", "--name", "test", "--any", "--admin", "ann.pub", "--save-context", "test", "--ready-file"];
    let made = ann.run([&init[..], &[ready.to_str().unwrap()]].concat()).ok();
    let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
    ann.run(["unseal", "--yes"]).ok();
    let text = "permit (principal, action in [Bulla::Action::\"kv\", Bulla::Action::\"snapshot\"], resource);";
    ann.file("open.cedar", text.as_bytes());
    ann.run(["policy", "put", "open", "open.cedar"]).ok();
    ann.file("large", "x".repeat(200_000).as_bytes());
    for number in 0..30 {
        ann.run(["kv", "put", &format!("large/{number}"), "value=@large"]).ok();
    }
    Kept { ann, server, cluster }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    entries.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// The server dies at the first page, and at the second: the client leaves nothing, and asks anew afterwards.
#[test]
fn a_server_killed_while_a_snapshot_is_taken_leaves_no_file() {
    for page in 1..=2 {
        let Kept { ann, mut server, .. } = begin(Some(&format!("{SNAPSHOT_PAGE}:{page}")));
        let folder = ann.work().join("out");
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("state.snapshot");
        let save = ["snapshot", "save", file.to_str().unwrap(), "--timeout", "2s"];
        assert_ne!(ann.run(save).code, 0);
        assert_eq!(server.wait(super::LIFE).signal(), Some(SIGABRT), "{}", server.log());
        assert_eq!(names(&folder), [""; 0], "page {page}");
        server.options_mut().without_env(VARIABLE);
        server.restart();
        ann.run(["unseal", "--yes"]).ok();
        ann.run(save).ok();
        ann.run(["snapshot", "verify", file.to_str().unwrap()]).ok();
    }
}

/// Whether a process has a file open there, with a name or without.
fn writes_below(folder: &Path, process: u32) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    open.flatten().any(|open| std::fs::read_link(open.path()).is_ok_and(|file| file.starts_with(folder)))
}

/// The client is killed at any moment: what has the name is whole, or nothing has it.
#[test]
fn a_client_killed_while_it_takes_a_snapshot_leaves_no_file_by_that_name() {
    let Kept { ann, server, .. } = begin(None);
    let mut unfinished = 0;
    for run in 0..CLIENTS {
        let folder = ann.work().join(format!("out-{run}"));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("state.snapshot");
        let mut command = Command::new(bulla!());
        command.args(["snapshot", "save"]).arg(&file).env_clear().env("HOME", ann.home());
        command.env("BULLA_IDENTITY", ann.work().join("ann.key"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !writes_below(&folder, child.id()) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(run * 15));
        drop(child.kill());
        child.wait().unwrap();
        if file.exists() {
            ann.run(["snapshot", "verify", file.to_str().unwrap()]).ok();
        } else {
            unfinished += 1;
        }
        // What is left has another name, and stands in nobody's way.
        ann.run(["snapshot", "save", "-q", "--force", file.to_str().unwrap()]).ok();
    }
    assert!(unfinished > 0, "no client was killed under way");
    drop(server);
}

/// Restoring is killed at rows and before the last step: no server takes what is left, and restoring again works.
#[test]
fn a_restore_that_is_killed_leaves_no_store() {
    let Kept { mut ann, mut server, cluster } = begin(None);
    let file = ann.work().join("state.snapshot");
    ann.run(["snapshot", "save", file.to_str().unwrap()]).ok();
    server.stop();
    let target = |data: &Path| -> Vec<String> {
        let words = ["snapshot", "restore", file.to_str().unwrap(), "--data", data.to_str().unwrap()];
        [&words[..], &["--cluster", &cluster]].concat().into_iter().map(str::to_owned).collect()
    };
    for point in [
        &format!("{SNAPSHOT_RESTORED_ROW}:1"),
        &format!("{SNAPSHOT_RESTORED_ROW}:7"),
        &format!("{SNAPSHOT_RESTORED_ROW}:30"),
        SNAPSHOT_BEFORE_RENAME,
    ] {
        let mut machine = Server::prepare(Options::durable(bulla!()).arg("--accept-audit-loss"));
        let data: PathBuf = machine.data();
        ann.env(VARIABLE, point);
        let died = ann.run(target(&data));
        ann.env(VARIABLE, "");
        assert_eq!(died.code, 128 + SIGABRT, "{point}: {}", died.errors());
        assert!(!data.join("bulla.redb").exists(), "{point}");
        let refused = machine.try_restart().expect_err("a server takes half a store");
        assert!(refused.log.contains("snapshot restore"), "{point}: {}", refused.log);
        ann.run(target(&data)).ok();
        std::fs::copy(server.data().join("node.key"), data.join("node.key")).unwrap();
        machine.restart();
        ann.env("BULLA_ADDR", machine.address());
        let asked = ann.run(["unseal", "--consent-file", &format!("consent-{}.json", point.replace('.', "-"))]);
        assert_eq!(asked.code, 18, "{point}: {}", asked.errors());
    }
}
