//! What real processes keep: unique secrets through the real binary, and then a search of the server's memory, metrics
//! and files, and of what the people's commands remember. And who else can look into a process.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::canary::{Canary, Sighting, assert_absent, scan_bytes, scan_memory};
use bulla_testkit::{Cli, Options, Server, bulla, skip};
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

fn person(name: &str) -> Cli {
    let mut cli = Cli::new(bulla!());
    cli.run(["keygen", "-q", "-o", &format!("{name}.key")]).ok();
    cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
    cli
}

/// A person's decryption key, as it stands in the identity file.
fn key(cli: &Cli, name: &str) -> Canary {
    let text = std::fs::read_to_string(cli.work().join(format!("{name}.key"))).unwrap();
    Canary::of("identity", text.lines().find(|line| line.starts_with("AGE-SECRET")).unwrap().as_bytes())
}

fn metrics(server: &Server) -> Vec<u8> {
    let address = server.ready().metrics.clone().unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = Vec::new();
    stream.read_to_end(&mut page).unwrap();
    page
}

fn none(found: &[Sighting], when: &str) {
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{when}:\n{}", found.join("\n"));
}

/// Secrets that the server has in clear for a moment: fields with and without escapes, which a parser keeps in different places, fields
/// that a patch leaves alone, bytes, and what is encrypted. Of several lengths: a block of memory that is soon used again hides what was in it.
fn what_the_server_reads(alice: &Cli, bob: &Cli) -> Vec<Canary> {
    let mut read = Vec::new();
    alice.run(["transit", "create", "app"]).ok();
    for length in [0, 1000, 9000, 50_000] {
        let mut secret = |name: &str| {
            read.push(Canary::text(name));
            let text = read.last().unwrap().as_str();
            format!("{text}{}{text}", " ".repeat(length))
        };
        let (path, bytes) = (format!("app/{length}"), format!("bytes/{length}"));
        let (plain, escaped) = (secret("plain field"), format!("\"\n{}", secret("escaped field")));
        alice.run_with(["kv", "put", &path, "password=-"], plain.as_bytes()).ok();
        alice.run_with(["kv", "patch", &path, "escaped=-"], escaped.as_bytes()).ok();
        assert_eq!(bob.run(["kv", "get", &path, "--field", "password"]).ok(), plain);
        assert_eq!(bob.run(["kv", "get", &path, "--field", "escaped"]).ok(), escaped);
        let content = secret("bytes");
        alice.run_with(["kv", "put", &bytes, "--file", "-"], content.as_bytes()).ok();
        assert_eq!(bob.run(["kv", "get", &bytes]).ok(), content);
        let content = secret("encrypted");
        let token = alice.run_with(["transit", "encrypt", "app"], content.as_bytes()).ok();
        assert_eq!(alice.run_with(["transit", "decrypt", "app"], token.trim().as_bytes()).ok(), content);
    }
    read
}

#[test]
fn no_process_keeps_a_secret() {
    let (alice, bob) = (person("alice"), person("bob"));
    let options = Options::durable(bulla!()).admin(alice.work().join("alice.pub"));
    let server = Server::start(options.arg("--metrics-listen").arg("127.0.0.1:0"));
    let ready = server.directory().join("ready-1.json");
    let init = ["init", "--name", "test", "--ready-file", ready.to_str().unwrap(), "--admin", "alice.pub"];
    let made = alice.run(init.into_iter().chain(["--save-context", "test"])).ok();
    let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim();
    bob.run(["context", "add", "test", server.address(), "--cluster", cluster]).ok();
    alice.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob.work().join("bob.pub").to_str().unwrap()]).ok();
    alice.file(
        "policy",
        b"permit (principal, action in [Bulla::Action::\"kv\", Bulla::Action::\"transit\"], resource);",
    );
    alice.run(["policy", "put", "kv", "policy"]).ok();

    // Opened, opened in pieces, caught, taken back, and never opened.
    let wraps = ["small", "large", "taken back", "left"].map(Canary::text);
    let [small, large, taken, left] = &wraps;
    let mut much = vec![b' '; 600 * 1024];
    much.extend_from_slice(large.bytes());
    for content in [small.bytes(), &much] {
        let slip = alice.run_with(["wrap", "create", "-q", "--to", "bob", "-"], content).ok();
        assert!(bob.run(["open", &slip]).stdout == content);
        bob.run(["open", &slip]).failed(3);
    }
    let slip = alice.run_with(["wrap", "create", "-q", "--to", "bob", "-"], taken.bytes()).ok();
    alice.run(["wrap", "revoke", &slip]).ok();
    alice.run_with(["wrap", "create", "-q", "--to", "bob", "-"], left.bytes()).ok();
    let read = what_the_server_reads(&alice, &bob);

    let keys = [key(&alice, "alice"), key(&bob, "bob")];
    let there = [Canary::of("the server's directory", server.directory().as_os_str().as_encoded_bytes())];
    let pid = server.ready().pid;
    for when in ["unsealed", "sealed"] {
        if when == "sealed" {
            alice.run(["seal"]).ok();
        }
        for canaries in [&wraps[..], &read, &keys] {
            let people = [alice.home().join(".local"), alice.home().join(".config"), bob.home().join(".local")];
            assert_absent(canaries, people.iter().map(|path| path.as_path()).chain([server.directory()]));
            let page = metrics(&server);
            assert!(page.starts_with(b"HTTP/1.1 200") && page.len() > 1000, "{}", String::from_utf8_lossy(&page));
            none(&scan_bytes(canaries, Path::new("metrics"), &page), when);
        }
        let Some(found) = scan_memory(&there, pid) else {
            eprintln!("not tried: this machine does not let its users read the memory of others");
            continue;
        };
        assert!(!found.is_empty(), "the search finds what is there");
        // What is wrapped is never the server's to read, and what it reads it keeps no longer than it answers.
        for canaries in [&wraps[..], &keys, &read] {
            none(&scan_memory(canaries, pid).unwrap(), when);
        }
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "a crash leaves no dump: {core}");
}

/// Who may not read a process' environment may not read its memory: the kernel asks the same, and with Yama more, of
/// memory. So the environment is tried, which nothing but the process itself forbids.
#[test]
fn other_processes_of_the_user_cannot_look_in() {
    // Whom root's capabilities let in nothing keeps out: without them root is a user like others.
    let root = rustix::process::geteuid().is_root();
    let words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
    let bare: &[&str] = if root { &words[..] } else { &["env"] };
    let run = |line: &[&str]| {
        let mut words = bare.iter().chain(line);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap()
    };
    let binary = bulla!();
    let binary = binary.to_str().unwrap();
    if !run(&[binary, "version"]).status.success() {
        skip!("other_processes_of_the_user_cannot_look_in", "root cannot run bulla here without its capabilities");
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("bulla");
    fs::write(&program, format!("#!/bin/sh\nexec {} '{binary}' \"$@\"\n", bare.join(" "))).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let server = Server::start(Options::durable(&program));
    // First at the shell itself: a look into another process that forbids nothing.
    let look = "cat /proc/$$/environ > /dev/null && echo seen; cat /proc/$1/environ";
    let looked = run(&["sh", "-c", look, "sh", &server.ready().pid.to_string()]);
    let errors = String::from_utf8_lossy(&looked.stderr);
    assert_eq!(String::from_utf8_lossy(&looked.stdout), "seen\n", "{errors}");
    assert!(errors.contains("Permission denied"), "{errors}");
}
