//! What a terminal shows and a pipe does not get, how far long transfers are; and that it is left as it was. `script` of
//! util-linux is the terminal.

use bulla_testkit::{Cli, Options, Server, bulla, skip, tools};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Runs a shell line whose standard input, output and error are a terminal, and gives what stood on it.
fn at_terminal(cli: &Cli, line: &str) -> String {
    let binary = format!("'{}'", bulla!().display());
    let line = line.replace("bulla ", &format!("{binary} "));
    let output = cli.run_program(Path::new("script"), ["-q", "-e", "-c", &line, "/dev/null"], b"");
    assert_eq!(output.code, 0, "{line}: {}{}", output.text(), output.errors());
    output.text()
}

#[test]
fn progress_is_shown_to_whoever_looks() {
    if tools::find("script").is_none() {
        skip!("progress_is_shown_to_whoever_looks", "needs script of util-linux");
    }
    let mut alice = Cli::new(bulla!());
    alice.run(["keygen", "-q", "-o", "alice.key"]).ok();
    alice.env("BULLA_IDENTITY", alice.work().join("alice.key"));
    let server = Server::start(Options::transient(bulla!()).admin(alice.work().join("alice.pub")));
    let ready = server.directory().join("ready-1.json");
    let init = ["init", "--name", "test", "--admin", "alice.pub", "--save-context", "test", "--ready-file"];
    alice.run(init.iter().copied().chain([ready.to_str().unwrap()])).ok();
    alice.run(["unseal", "--yes"]).ok();
    let large: Vec<u8> = (0..6_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    alice.file("large.bin", &large);
    alice.file("small.txt", b"small");

    // Nobody looks: a pipe, a file for the messages, --quiet.
    let create = ["wrap", "create", "--to", "alice", "large.bin"];
    let piped = alice.run(create);
    let slip = piped.ok();
    assert!(!piped.errors().contains("MiB") && !piped.errors().contains('\r'), "{}", piped.errors());
    assert!(!at_terminal(&alice, "bulla wrap create --to alice large.bin 2> errors.txt").contains("MiB"));
    assert!(!std::fs::read_to_string(alice.work().join("errors.txt")).unwrap().contains("MiB"));
    assert!(!at_terminal(&alice, "bulla wrap create --quiet --to alice large.bin").contains("MiB"));
    // What is over at once needs no line.
    assert!(!at_terminal(&alice, "bulla wrap create --to alice small.txt").contains("MiB"));

    let shown = at_terminal(&alice, "bulla wrap create --to alice large.bin > slip.txt");
    assert!(
        shown.contains("\rencrypting ") && shown.contains("\rsending ") && shown.contains("MiB, 100 %"),
        "{shown:?}"
    );
    assert!(
        shown.ends_with("\rto be opened once, with `bulla open SLIP`\r\n"),
        "the line is gone before words: {shown:?}"
    );
    assert!(std::fs::read_to_string(alice.work().join("slip.txt")).unwrap().starts_with("bulla:wrap:"));

    // Words begin a line of their own, whatever the content ends with; a pipe gets the content alone.
    for (content, expected) in [("k=v", "{\"k\":\"v\"}\r\n"), ("-", "line\r\n")] {
        let slip = alice.run_with(["wrap", "create", "-q", "--to", "alice", content], b"line\n").ok();
        let shown = at_terminal(&alice, &format!("bulla open {slip}"));
        assert!(shown.contains(&format!("{expected}from alice ")), "{shown:?}");
    }
    let short = alice.run(["wrap", "create", "-q", "--to", "alice", "k=v"]).ok();
    let all = at_terminal(&alice, &format!("bulla open {short} | wc -c"));
    assert!(all.contains("9\r\n"), "{all:?}");
    // A reader of the log who goes away has read enough.
    let (binary, line) = (bulla!(), "set -o pipefail; \"$0\" audit show | (exec <&-; sleep 1)");
    alice.run_program(Path::new("bash"), ["-c", line, binary.to_str().unwrap()], b"").ok();

    let shown = at_terminal(&alice, &format!("bulla open {slip} -o opened.bin"));
    assert!(shown.contains("\rreceiving ") && shown.contains(" of 5.7 MiB, "), "{shown:?}");
    assert_eq!(std::fs::read(alice.work().join("opened.bin")).unwrap(), large);

    let shown = at_terminal(&alice, "bulla curl GET /v1/whoami");
    assert!(shown.starts_with("{\"") && shown.ends_with("}\r\n"), "{shown:?}");
}

/// Whoever asks and is no longer waited for leaves the terminal as it was: a question of ours, and a plugin that asks by itself.
#[test]
fn a_question_that_is_given_up_leaves_the_terminal_as_it_was() {
    const NAME: &str = "a_question_that_is_given_up_leaves_the_terminal_as_it_was";
    if tools::find("script").is_none() {
        skip!(NAME, "needs script of util-linux");
    }
    let mut ann = Cli::new(bulla!());
    ann.run(["keygen", "-q", "-o", "ann.key"]).ok();
    let recipient = "age1tag1qwe0kafsjrar4txm6heqnhpfuggzr0gvznz7fvygxrlq90u5mq2pysxtw6h";
    let private = |name: &str, text: &str, mode: u32| {
        let path = ann.file(name, text.as_bytes());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    private("plugin.txt", &format!("# recipient: {recipient}\nAGE-PLUGIN-TAGTEST-1CXM4UC\n"), 0o600);
    let plugin = private("age-plugin-tagtest", "", 0o700);
    let mut path = vec![ann.work()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    ann.env("PATH", std::env::join_paths(path).unwrap());
    let own = bulla!();
    let line = format!(
        "stty sane; '{}' keygen --from ann.key --decrypt-with plugin.txt -o ann.pub --timeout 2s; echo \"code $?\"; stty -a",
        own.display()
    );
    // Keys are pressed all the while, and return never is.
    let pressed = "while sleep 1; do printf x; done | script -q -e -E never -c \"$0\" /dev/null";
    for script in [
        "while read -r line; do [ \"$line\" = '-> done' ] && break; done; read -r line
         printf -- '-> request-secret\\nUElO\\n'; read -r line",
        "stty raw -echo < /dev/tty; exec sleep 600",
    ] {
        std::fs::write(&plugin, format!("#!/bin/sh\n{script}\n")).unwrap();
        let shown = ann.run_program(Path::new("sh"), ["-c", pressed, &line], b"").text();
        assert!(shown.contains("gave no answer within 2 s") && shown.contains("code 1"), "{script}: {shown}");
        assert_eq!(shown.contains("PIN"), script.contains("request-secret"), "{script}: {shown}");
        assert!(shown.contains("isig icanon iexten echo echoe"), "{script}: {shown}");
    }
}

/// Ctrl-C at a question ends the program, and the terminal is as it was.
#[test]
fn a_question_that_is_interrupted_leaves_the_terminal_as_it_was() {
    const NAME: &str = "a_question_that_is_interrupted_leaves_the_terminal_as_it_was";
    let Some(ssh_keygen) = tools::find("ssh-keygen").filter(|_| tools::find("script").is_some()) else {
        skip!(NAME, "needs script of util-linux and ssh-keygen");
    };
    let ann = Cli::new(bulla!());
    let made = ["-q", "-t", "ed25519", "-N", "sesame", "-C", "", "-f", "locked"];
    assert_eq!(ann.run_program(&ssh_keygen, made, b"").code, 0);
    let own = bulla!();
    let line = format!("stty sane; '{}' seal check --identity locked; echo \"code $?\"; stty -a", own.display());
    for (keys, expected) in [
        ("x\\003", "code 130"),
        ("wrong\\r", "code 1\n"),
        ("sesame\\r", "code 0"),
        ("wort\\025sesame\\r", "code 0"),
        ("\\004", "code 1\n"),
    ] {
        let pressed = format!("(sleep 2; printf '{keys}'; sleep 2) | script -q -E never -c \"$0\" /dev/null");
        let shown = ann.run_program(Path::new("sh"), ["-c", &pressed, &line], b"").text().replace('\r', "");
        // Where signals of the keyboard are ignored, as in a background job, it is told instead.
        let ignored = keys.contains("003") && shown.contains("cannot ask: interrupted");
        assert!(shown.contains("Passphrase of ") && (shown.contains(expected) || ignored), "{keys}: {shown}");
        assert!(!shown.contains("wrong\n") && !shown.contains("sesame"), "{keys}: {shown}");
        assert!(shown.contains("isig icanon iexten echo echoe"), "{keys}: {shown}");
    }
}
