//! People whose keys are on tokens, in SoftHSM, which the real program loads.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::softhsm::{CONFIGURATION, SoftHsm};
use bulla_testkit::transcript::Transcript;
use bulla_testkit::world::copy;
use bulla_testkit::{Cli, Options, Server, bulla, skip, tools};
use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PIN: &str = "1234";
const BACKUP: &str =
    "permit (principal in Bulla::Group::\"admins\", action == Bulla::Action::\"snapshot.save\", resource);\n";

fn transcript(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd").join(name)
}

fn file(cli: &Cli, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = cli.file(name, content.as_bytes());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn path(cli: &Cli, name: &str) -> String {
    cli.work().join(name).to_str().unwrap().to_owned()
}

/// Somebody with a token of their own, and the URI of keys on it that bear their name.
fn holder(hsm: &SoftHsm, name: &str) -> (Cli, String) {
    hsm.token(name, PIN);
    let mut cli = Cli::new(bulla!());
    cli.env(CONFIGURATION, hsm.configuration());
    let pin = file(&cli, "pin.txt", PIN, 0o600);
    let uri = format!("pkcs11:token={name};object={name}?module-path={}&pin-source={}", hsm.module(), pin.display());
    (cli, uri)
}

/// A cluster whose admins hold tokens: made, opened, its seal changed, copied and put back.
#[test]
fn admins_hold_tokens() {
    let Some(hsm) = SoftHsm::new() else { skip!("admins_hold_tokens", "needs softhsm2 and opensc") };
    let names = ["ann", "ben", "cat", "dave", "alice", "bob"];
    let mut people = names.map(|name| holder(&hsm, name));
    for (cli, uri) in &mut people {
        cli.env("BULLA_IDENTITY", uri.clone());
    }
    hsm.pair("alice", PIN, "EC:secp384r1", "alice", "01", &["--usage-sign"]);
    let [(ann, _), _, _, _, (alice, _), _] = &people;
    alice.run(["keygen", "-q", "-o", "opens.key"]).ok();

    ann.file("backup.cedar", BACKUP.as_bytes());
    let server = RefCell::new(Server::prepare(Options::durable(bulla!()).admin(ann.work().join("ann.pub"))));
    let machine = RefCell::new(Server::prepare(Options::durable(bulla!())));
    let start = |_: &[&str]| {
        let mut server = server.borrow_mut();
        server.restart();
        server.keep_address();
    };
    let join = |who: &[&str]| {
        let shown = ann.run(["context", "show", "-o", "json"]).ok();
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let [address, cluster] = ["address", "cluster"].map(|field| shown.get(field).unwrap().as_str().unwrap());
        for name in who {
            let (_, (cli, _)) = names.iter().zip(&people).find(|(known, _)| *known == name).unwrap();
            cli.run(["context", "add", "prod", address, "--cluster", cluster]).ok();
        }
    };
    // Another machine at the same address, with log and key of the old one.
    let move_to = |_: &[&str]| {
        let (mut old, mut new) = (server.borrow_mut(), machine.borrow_mut());
        old.stop();
        *new.options_mut() = Options::durable(bulla!()).listen(old.address());
        for name in ["node.key", "audit"] {
            copy(&old.data().join(name), &new.data().join(name));
        }
        new.restart();
    };
    let shared = |name: &str| server.borrow().directory().join(name).to_str().unwrap().to_owned();
    let restored = machine.borrow().data().to_str().unwrap().to_owned();
    let mut play = Transcript::new().variable("MODULE", hsm.module());
    for (name, (cli, uri)) in names.iter().zip(&people) {
        let upper = name.to_uppercase();
        play = play.person(name, cli).variable(&format!("{upper}KEY"), uri);
        play = play.variable(&format!("{upper}PUB"), &path(cli, &format!("{name}.pub")));
    }
    play.variable("READY", &shared("ready-1.json"))
        .variable("DOCUMENT", &shared("document.json"))
        .variable("CONSENT", &shared("consent.json"))
        .variable("FILE", &shared("prod.snapshot"))
        .variable("DATA", &restored)
        .world("server", start)
        .world("join", join)
        .world("machine", move_to)
        .check(&transcript("token.txt"));
}

#[test]
fn what_a_token_refuses() {
    let Some(hsm) = SoftHsm::new() else { skip!("what_a_token_refuses", "needs softhsm2 and opensc") };
    let (ann, _) = holder(&hsm, "ann");
    hsm.token("other", "5678");
    hsm.pair("ann", PIN, "rsa:2048", "short", "10", &["--usage-sign"]);
    hsm.pair("ann", PIN, "rsa:3072", "rsa", "11", &["--usage-sign"]);
    for id in ["01", "02"] {
        hsm.pair("ann", PIN, "EC:prime256v1", "twice", id, &["--usage-sign"]);
    }
    file(&ann, "wide.txt", PIN, 0o644);
    file(&ann, "wrong.txt", "4321\n", 0o600);
    let pinentry = |get: &str| {
        format!(
            "#!/bin/sh\necho OK\nwhile read -r line; do case $line in GETPIN) {get};; BYE) exit;; *) echo OK;; esac; done\n"
        )
    };
    file(&ann, "answers", &pinentry("echo 'D 1234'; echo OK"), 0o700);
    file(&ann, "refuses", &pinentry("echo 'ERR 83886179 Operation cancelled <Pinentry>'"), 0o700);
    ann.run(["keygen", "-q", "-o", "file.key"]).ok();
    Transcript::new().person("ann", &ann).check(&transcript("token-errors.txt"));
}

/// At a terminal the PIN is asked for, and is not shown.
#[test]
fn a_pin_is_asked_for_at_a_terminal() {
    const NAME: &str = "a_pin_is_asked_for_at_a_terminal";
    let Some(hsm) = SoftHsm::new() else { skip!(NAME, "needs softhsm2 and opensc") };
    if tools::find("script").is_none() {
        skip!(NAME, "needs script of util-linux");
    }
    let (ann, uri) = holder(&hsm, "ann");
    let (uri, _) = uri.split_once("&pin-source").unwrap();
    // Typed again and again, since programs throw away what was typed before they asked.
    let typed = |uri: &str, flags: &str, pin: &str, code: i32| {
        let own = bulla!();
        let line =
            format!("'{}' keygen --pkcs11 '{uri}' -o ann.pub {flags}; code=$?; stty -a; exit $code", own.display());
        let at_terminal = "while sleep 1; do echo \"$1\"; done | script -q -e -E never -c \"$0\" /dev/null";
        let output = ann.run_program(Path::new("sh"), ["-c", at_terminal, &line, pin], b"");
        assert_eq!(output.code, code, "{}{}", output.text(), output.errors());
        output.text()
    };
    let shown = typed(uri, "", "4321", 1);
    assert!(shown.contains("PIN of token ann: ") && shown.contains("refused the PIN"), "{shown}");
    assert!(!shown.contains("4321"), "{shown}");
    // A program that leaves the terminal without echo, and hangs.
    let hangs = file(&ann, "hangs", "#!/bin/sh\nstty raw -echo < /dev/tty\nexec sleep 600\n", 0o700);
    let begun = Instant::now();
    let shown = typed(uri, &format!("--pinentry {} --timeout 2s", hangs.display()), "1234", 1);
    assert!(shown.contains("hangs gave no PIN within 2 s") && begun.elapsed() < Duration::from_secs(60), "{shown}");
    assert!(shown.contains("\nisig icanon iexten "), "{shown}");
    let shown = typed(uri, "", "1234", 0);
    assert!(shown.contains("PIN of token ann: ") && !shown.contains("1234"), "{shown}");
    // Debian's pinentry on the same terminal.
    if let Some(pinentry) = tools::find("pinentry-tty") {
        std::fs::remove_file(ann.work().join("ann.pub")).unwrap();
        let shown =
            typed(&uri.replace("object=ann", "object=two"), &format!("--pinentry {}", pinentry.display()), "1234", 0);
        assert!(shown.contains("PIN of the token \"ann\"") && !shown.contains("1234"), "{shown}");
    }
}

/// A module that hangs when it is asked for its tokens, and a token that hangs once it was logged in to: both are given up, and
/// the process ends although a thread of it does not.
#[test]
fn what_hangs_is_given_up() {
    let Some(hsm) = SoftHsm::new() else { skip!("what_hangs_is_given_up", "needs softhsm2 and opensc") };
    let (ann, uri) = holder(&hsm, "ann");
    hsm.pair("ann", PIN, "EC:prime256v1", "ann", "01", &["--usage-sign"]);
    ann.run(["keygen", "-q", "-o", "opens.key", "--name", "unused"]).ok();
    let (uri, _) = uri.split_once("&pin-source").unwrap();
    let keygen = ["keygen", "--from", uri, "--decrypt-with", "opens.key", "--name", "ann", "-o", "ann.pub"];
    let given_up = |more: &[&str], told: &str| {
        let begun = Instant::now();
        let error = ann.run([&keygen[..], more].concat()).failed(1);
        assert!(error.contains(told) && error.contains("hint: check that the token is plugged in"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    };

    let pin = path(&ann, "pin.txt");
    let locked = hsm.hang();
    given_up(
        &["--timeout", "2s", "--pin-file", &pin],
        "libsofthsm2.so gave no answer within 2 s, when it was to show its tokens",
    );
    drop(locked);

    // The token hangs while its PIN is typed.
    let script = "#!/bin/sh\necho OK\nwhile read -r line; do case $line in GETPIN) : > asked; \
                  while ! [ -e locked ]; do sleep 0.05; done; echo 'D 1234'; echo OK;; BYE) exit;; *) echo OK;; esac; done\n";
    file(&ann, "pinentry", script, 0o700);
    let (asked, answer) = (ann.work().join("asked"), ann.work().join("locked"));
    std::thread::scope(|scope| {
        let locked = scope.spawn(|| {
            while !asked.exists() {
                std::thread::sleep(Duration::from_millis(10));
            }
            let locked = hsm.hang();
            std::fs::write(answer, b"").unwrap();
            locked
        });
        given_up(
            &["--timeout", "5s", "--pinentry", "./pinentry"],
            "token \"ann\" gave no answer within 5 s, when it was to ",
        );
        drop(locked.join().unwrap());
    });
    ann.run([&keygen[..], &["--pin-file", &pin]].concat()).ok();
}
