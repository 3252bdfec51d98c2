//! What runs server and agent as services: the units' hardening by systemd's own measure, the configuration that the package
//! brings, and the words by which systemd learns that the server is ready.

use bulla_testkit::{Cli, Options, Server, bulla, skip, tools};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most that `systemd-analyze security` may find exposed, in tenths; it calls 4.0 medium.
const EXPOSURE_MAX: &str = "20";

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging")
}

#[test]
fn the_units_expose_little() {
    let Some(analyze) = tools::find("systemd-analyze") else {
        skip!("the_units_expose_little", "systemd-analyze is not installed");
    };
    let cli = Cli::new(bulla!());
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    for unit in ["bulla.service", "bulla-agent.service", "bulla-kms.service"] {
        let unit = packaging().join("systemd").join(unit);
        let unit = unit.to_str().unwrap();
        let judged = cli.run_program(&analyze, ["security", "--offline=true", &threshold, unit], b"");
        assert_eq!(judged.code, 0, "{unit}: {}", judged.text());
    }
    // It notices a unit without hardening.
    cli.file("bare.service", b"[Service]\nExecStart=/usr/bin/bulla server\n");
    let bare = cli.run_program(&analyze, ["security", "--offline=true", &threshold, "bare.service"], b"");
    assert_ne!(bare.code, 0);
}

/// The flags of the unit with the package's own configuration, on an empty directory.
#[test]
fn the_units_command_starts() {
    let unit = std::fs::read_to_string(packaging().join("systemd/bulla.service")).unwrap();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/bulla ")).unwrap();
    let cli = Cli::new(bulla!());
    let data = cli.work().join("data");
    let (config, data) = (packaging().join("server.toml"), data.to_str().unwrap());
    let config = config.to_str().unwrap();
    let words: Vec<&str> = command
        .split(' ')
        .map(|word| match word {
            "/etc/bulla/server.toml" => config,
            "/var/lib/bulla" => data,
            word => word,
        })
        .collect();
    assert!(words.contains(&config) && words.contains(&data), "{words:?}");
    let (verb, flags) = words.split_first().unwrap();
    cli.run([&[*verb, "check"], flags].concat()).ok();
}

/// The agent's unit, by the words of its command and the names in its environment.
#[test]
fn the_agents_unit_names_what_there_is() {
    let unit = std::fs::read_to_string(packaging().join("systemd/bulla-agent.service")).unwrap();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/bulla agent ")).unwrap();
    let cli = Cli::new(bulla!());
    let config = cli.file("agent.toml", b"[child]\ncommand = [\"true\"]\n");
    let words = command.replace("/etc/bulla/agent.toml", config.to_str().unwrap());
    cli.run(["agent", "check"].into_iter().chain(words.split(' '))).ok();
    for variable in ["BULLA_ADDR", "BULLA_CLUSTER", "BULLA_IDENTITY", "XDG_STATE_HOME"] {
        assert!(unit.contains(variable), "{variable}");
    }
}

#[test]
fn systemd_learns_that_the_server_is_ready_and_that_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let name = format!("bulla-test-{}", std::process::id());
    let sockets = [
        (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
        (UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(), format!("@{name}")),
    ];
    for (socket, name) in sockets {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let heard = || {
            let mut text = [0; 64];
            let length = socket.recv(&mut text).unwrap();
            String::from_utf8(text.iter().copied().take(length).collect()).unwrap()
        };
        let mut server = Server::start(Options::durable(bulla!()).env("NOTIFY_SOCKET", &name));
        assert_eq!(heard(), "READY=1");
        assert!(server.stop().success());
        assert_eq!(heard(), "STOPPING=1");
    }
    // Nobody listens there: the server serves all the same.
    let mut server = Server::start(Options::durable(bulla!()).env("NOTIFY_SOCKET", "/nowhere/notify"));
    assert!(server.log().contains("whoever started this process was not told"), "{}", server.log());
    assert!(server.stop().success());
}
