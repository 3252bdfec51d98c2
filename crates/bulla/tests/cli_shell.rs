//! The real binary beside the shell: completions that a shell really loads, and the signal by which a server reads its
//! certificate again.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::{Cli, Options, Server, bulla, skip, tls, tools};
use std::path::{Path, PathBuf};
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
