//! The real binary beside the shell: completions that a shell really loads, the signal by which a server reads its
//! certificate again, and a watch that goes on while the server restarts.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::{Cli, Options, Server, bulla, process, skip, tls, tools};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long a server may take to read a file again.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn completions_are_those_of_each_shell() {
    let cli = Cli::new(bulla!());
    let made = |shell: &str| cli.run(["completions", shell]).ok();
    assert!(made("zsh").starts_with("#compdef bulla\n") && made("zsh").contains("'wrap:"), "{}", made("zsh"));
    assert!(made("fish").contains("complete -c bulla ") && made("fish").contains("-a \"wrap\""), "{}", made("fish"));
    cli.file("bulla.bash", made("bash").as_bytes());
    // What bash itself does at the tab key: it looks up the function and calls it with command, word and word before.
    let script = r#"
        . ./bulla.bash
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        function=$(complete -p bulla); function=${function#*-F }; function=${function%% *}
        "$function" bulla "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let completed = |words: &[&str]| {
        let args = [&["--norc", "-c", script, "bash"], words].concat();
        cli.run_program(Path::new("bash"), args, b"").ok()
    };
    assert_eq!(completed(&["bulla", "wr"]), "wrap");
    assert_eq!(completed(&["bulla", "wrap", "cr"]), "create");
    assert_eq!(completed(&["bulla", "wrap", "create", "--expi"]), "--expires");
    assert_eq!(completed(&["bulla", "nothing-begins-so"]), "");
}

/// The manual's first commands of operations work as they are typed, up to the one that stays.
#[test]
fn the_first_steps_of_operations_work_as_written() {
    let mut cli = Cli::new(bulla!());
    cli.env("BULLA", bulla!()).env("PATH", std::env::var_os("PATH").unwrap());
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manual/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    let block = page.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut lines: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert_eq!(lines.pop(), Some("bulla server --config server.toml"));
    assert_eq!(lines.len(), 3, "{block}");
    let script = format!("set -e\nbulla() {{ \"$BULLA\" \"$@\"; }}\n{}\n", lines.join("\n"));
    let told = cli.run_program(Path::new("/bin/sh"), ["-c", &script], b"").ok();
    assert!(told.contains("data            data"), "{told}");
}

/// What the log cannot take is lost, and nothing else: a full disk, as a terminal that was closed, ends no ceremony.
#[test]
fn a_log_that_nobody_takes_ends_no_ceremony() {
    let mut cli = Cli::new(bulla!());
    cli.env("BULLA", bulla!()).env("PATH", std::env::var_os("PATH").unwrap());
    let script = r#"
        set -e
        "$BULLA" keygen -q -o a.key > keys
        "$BULLA" server --data data --listen 127.0.0.1:0 --admin a.pub --ready-file ready.json 2> /dev/full &
        trap 'kill $!; wait $!' EXIT
        "$BULLA" --identity a.key init --name full --any --admin a.pub --ready-file ready.json --save-context full
        timeout 60 "$BULLA" unseal --yes
        timeout 60 "$BULLA" seal
        timeout 60 "$BULLA" unseal
        "$BULLA" status
    "#;
    let told = cli.run_program(Path::new("/bin/sh"), ["-c", script], b"").ok();
    assert!(told.contains("state     unsealed"), "{told}");
}

/// A certificate and its key in PEM, made by openssl, and the certificate's bytes.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
    der: Vec<u8>,
}

impl Pair {
    fn make(cli: &Cli, openssl: &Path, name: &str) -> Self {
        let (certificate, key) = (cli.work().join(format!("{name}.pem")), cli.work().join(format!("{name}.key")));
        let (subject, out, keyout) = (format!("/CN={name}"), certificate.to_str().unwrap(), key.to_str().unwrap());
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        let files = ["-subj", &subject, "-out", out, "-keyout", keyout];
        cli.run_program(openssl, new.into_iter().chain(files), b"").ok();
        let der = cli.run_program(openssl, ["x509", "-in", out, "-outform", "DER"], b"");
        assert_eq!(der.code, 0, "{}", der.errors());
        Self { certificate, key, der: der.stdout }
    }

    /// Puts it in the place of another one.
    fn replace(&self, other: &Self) {
        std::fs::rename(&self.key, &other.key).unwrap();
        std::fs::rename(&self.certificate, &other.certificate).unwrap();
    }
}

/// The certificate that a new connection is shown.
async fn served(server: &Server) -> Vec<u8> {
    let stream = tls::connect(server.address().parse().unwrap(), "http/1.1").await;
    stream.get_ref().1.peer_certificates().unwrap().first().unwrap().to_vec()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks for the health on a connection that stays open.
async fn health(stream: &mut (impl tokio::io::AsyncRead + AsyncWrite + Unpin)) -> String {
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nHost: bulla\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    while !(bytes.ends_with(b"}") && bytes.windows(4).any(|four| four == b"\r\n\r\n")) {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the connection ended");
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_signal_makes_a_server_read_its_certificate_again() {
    let Some(openssl) = tools::find("openssl") else {
        skip!("a_signal_makes_a_server_read_its_certificate_again", "needs openssl");
    };
    let cli = Cli::new(bulla!());
    let [first, second] = ["first", "second"].map(|name| Pair::make(&cli, &openssl, name));
    let options = Options::durable(bulla!())
        .env("BULLA_SERVER_TLS__CERT", &first.certificate)
        .env("BULLA_SERVER_TLS__KEY", &first.key);
    let server = Server::start(options);
    assert_eq!(served(&server).await, first.der);
    let mut old = tls::connect(server.address().parse().unwrap(), "http/1.1").await;
    assert!(health(&mut old).await.contains("uninitialised"));

    second.replace(&first);
    assert_eq!(served(&server).await, first.der, "files are not watched");
    server.signal(rustix::process::Signal::HUP);
    until("the new certificate is served", async || served(&server).await == second.der).await;
    assert!(health(&mut old).await.contains("uninitialised"), "who was connected stays");

    // A certificate that cannot be used is told, and the one before stays.
    let other = Pair::make(&cli, &openssl, "other");
    for (broken, content) in
        [("no PEM", b"nothing".to_vec()), ("of another key", std::fs::read(&other.certificate).unwrap())]
    {
        std::fs::write(&first.certificate, content).unwrap();
        let told = |log: &str| log.matches("the certificate was not read again; the old one stays").count();
        let before = told(&server.log());
        server.signal(rustix::process::Signal::HUP);
        until(broken, async || told(&server.log()) > before).await;
        assert_eq!(served(&server).await, second.der, "{broken}");
        assert!(health(&mut old).await.contains("uninitialised"), "{broken}");
    }
}

/// `bulla kv watch`, and what it has printed so far.
struct Watch {
    process: std::process::Child,
    printed: PathBuf,
    told: PathBuf,
}

impl Watch {
    fn start(cli: &Cli, name: &str, more: &[&str]) -> Self {
        let [printed, told] = ["out", "err"].map(|end| cli.work().join(format!("{name}.{end}")));
        let mut command = process::command(bulla!());
        command.args(["kv", "watch", "app/db"]).args(more).env_clear().env("HOME", cli.home());
        command.env("BULLA_IDENTITY", cli.work().join("admin.key")).stdin(Stdio::null());
        command.stdout(File::create(&printed).unwrap()).stderr(File::create(&told).unwrap());
        Self { process: process::spawn(command), printed, told }
    }

    async fn until(&self, printed: &str, told: &[&str]) {
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        until(printed, async || text(&self.printed) == printed).await;
        let began = Instant::now();
        while !told.iter().all(|what| text(&self.told).matches(what).count() == 1) {
            assert!(began.elapsed() < PATIENCE, "{told:?} once in {}", text(&self.told));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Who watches waits for a server that is sealed, or away, and learns then what was written meanwhile.
#[tokio::test]
async fn a_watch_outlives_the_server() {
    let mut alice = Cli::new(bulla!());
    let mut server = Server::with_admin(Options::durable(bulla!()), &mut alice);
    server.keep_address();
    alice.file("kv.cedar", b"permit (principal, action in Bulla::Action::\"kv\", resource);\n");
    alice.run(["policy", "put", "kv", "kv.cedar"]).ok();
    let put = || alice.run_with(["kv", "put", "app/db", "password=-"], b"hunter2").ok();
    put();
    let watch = Watch::start(&alice, "watch", &[]);
    watch.until("version 1 live\n", &[]).await;

    alice.run(["seal"]).ok();
    watch.until("version 1 live\n", &["warning: sealed"]).await;
    alice.run(["kv", "watch", "app/db"]).failed(2);
    assert!(!server.log().contains("ERROR"), "{}", server.log());
    alice.run(["unseal", "--yes"]).ok();
    put();
    watch.until("version 1 live\nversion 2 live\n", &["warning: sealed"]).await;

    // It prints nothing before the change; the log has its first answer.
    let answers = || {
        let files = std::fs::read_dir(server.audit()).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
        files.map(|bytes| String::from_utf8_lossy(&bytes).matches("\"kv.watch\"").count()).sum::<usize>()
    };
    let before = answers();
    let mut once = Watch::start(&alice, "once", &["--once"]);
    until("a first answer", async || answers() > before).await;
    server.kill();
    watch.until("version 1 live\nversion 2 live\n", &["warning: no answer"]).await;
    server.restart();
    alice.run(["unseal", "--yes"]).ok();
    put();
    watch.until("version 1 live\nversion 2 live\nversion 3 live\n", &["warning: no answer"]).await;
    // Its request may have been tried again by itself until the server was back, and then there is nothing to tell.
    once.until("version 3 live\n", &[]).await;
    assert_eq!(process::wait(&mut once.process, PATIENCE).unwrap().code(), Some(0));
    // Without a first answer there is nothing to wait for.
    server.kill();
    alice.run(["kv", "watch", "app/db", "--once"]).failed(15);
}
