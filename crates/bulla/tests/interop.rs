//! The real binary beside programs of others: age opens what it wrote, OpenSSH's keys serve as they are, openssl and
//! curl see the TLS and the health that the manual promises.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::{Canary, Cli, Options, Output, Server, bulla, skip, tools};
use std::path::{Path, PathBuf};

/// A server with one admin, who is also its first writer.
struct House {
    server: Server,
    admin: Cli,
    cluster: String,
}

/// Somebody who uses this identity file, found in their working directory.
fn person(name: &str, make: impl FnOnce(&Cli)) -> (Cli, PathBuf) {
    let mut cli = Cli::new(bulla!());
    make(&cli);
    cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
    let record = cli.work().join(format!("{name}.pub"));
    (cli, record)
}

fn keygen(name: &str, kind: &[&str]) -> (Cli, PathBuf) {
    let file = format!("{name}.key");
    person(name, |cli| {
        cli.run([&["keygen", "-o", &file], kind].concat()).ok();
    })
}

impl House {
    fn sealed() -> Self {
        let (admin, record) = keygen("alice", &[]);
        let server = Server::start(Options::transient(bulla!()).admin(&record));
        Self { server, admin, cluster: String::new() }
    }

    fn init(&mut self) {
        let ready = self.server.directory().join("ready-1.json");
        let args = ["init", "--name", "test", "--ready-file", ready.to_str().unwrap(), "--admin", "alice.pub"];
        let output = self.admin.run(args.into_iter().chain(["--save-context", "test"])).ok();
        self.cluster = output.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
    }

    fn new() -> Self {
        let mut house = Self::sealed();
        house.init();
        house.admin.run(["unseal", "--yes"]).ok();
        house
    }

    fn admit(&self, person: &(Cli, PathBuf)) {
        let (cli, record) = person;
        self.admin.run(["principal", "add", record.to_str().unwrap()]).ok();
        cli.run(["context", "add", "test", self.server.address(), "--cluster", &self.cluster]).ok();
    }

    fn wrap(&self, to: &str, content: &[u8]) -> String {
        self.admin.file("content", content);
        self.admin.run(["wrap", "create", "--to", to, "content"]).ok()
    }

    /// A wrap that was opened with `--raw` is an age file, which this age program opens to exactly the content.
    fn raw(&self, reader: &Cli, to: &str, age: &Path) {
        for (number, content) in contents().iter().enumerate() {
            let (slip, file) = (self.wrap(to, content), format!("{to}{number}.age"));
            reader.run(["open", "--raw", &slip, "-o", &file]).ok();
            let key = format!("{to}.key");
            let opened = reader.run_program(age, ["-d", "-i", &key, &file], b"");
            assert_eq!(opened.code, 0, "{}", opened.errors());
            assert!(opened.stdout == *content, "{to}: another content of {} bytes", content.len());
        }
    }
}

/// Text, nothing, bytes that are no text, and more than one chunk of age and of the server.
fn contents() -> [Vec<u8>; 4] {
    let bytes = |len: usize| (0..len).map(|place| u8::try_from(place % 251).unwrap()).collect();
    [Canary::text("raw").bytes().to_vec(), vec![], bytes(4096), bytes(700_000)]
}

#[test]
fn age_opens_what_open_raw_wrote() {
    let Some(age) = tools::age() else { skip!("age_opens_what_open_raw_wrote", "needs age 1.3 (BULLA_TEST_AGE)") };
    let house = House::new();
    let bob = keygen("bob", &[]);
    house.admit(&bob);
    house.raw(&bob.0, "bob", &age);
    // The identity file is age's own: it names the recipient that the record holds.
    let recipient = bob.0.run_program(&age.with_file_name("age-keygen"), ["-y", "bob.key"], b"").ok();
    assert!(recipient.starts_with("age1pq1"), "{recipient}");
    assert_eq!(house.wrap(&recipient, b"by recipient").lines().count(), 1, "the recipient finds Bob");
}

#[test]
fn an_older_age_opens_what_open_raw_wrote_for_a_classical_key() {
    let Some(age) = tools::age_of_debian() else {
        skip!(
            "an_older_age_opens_what_open_raw_wrote_for_a_classical_key",
            "needs Debian's age (BULLA_TEST_AGE_DEBIAN)"
        )
    };
    let house = House::new();
    let bob = keygen("bob", &["--classical"]);
    house.admit(&bob);
    house.raw(&bob.0, "bob", &age);
}

#[test]
fn ssh_keys_serve_as_they_are() {
    let Some(ssh_keygen) = tools::find("ssh-keygen") else { skip!("ssh_keys_serve_as_they_are", "needs ssh-keygen") };
    let age = tools::age().or_else(tools::age_of_debian);
    let house = House::new();
    for (name, args) in [("edda", &["-t", "ed25519"][..]), ("rudi", &["-t", "rsa", "-b", "3072"])] {
        let key = format!("{name}.key");
        let reader = person(name, |cli| {
            let made = cli.run_program(&ssh_keygen, [args, &["-q", "-N", "", "-f", &key]].concat(), b"");
            assert_eq!(made.code, 0, "{}", made.errors());
            let record = format!("{name}.pub");
            // ssh-keygen puts its public key where the record goes.
            std::fs::rename(cli.work().join(format!("{key}.pub")), cli.work().join("ssh.pub")).unwrap();
            cli.run(["keygen", "--from", &key, "--name", name, "-o", &record]).ok();
        });
        house.admit(&reader);
        let (cli, _) = &reader;
        assert!(cli.run(["whoami"]).ok().contains(name), "the key signs");
        let content = Canary::text("ssh");
        let slip = house.wrap(name, content.bytes());
        assert_eq!(cli.run(["open", &slip]).stdout, content.bytes(), "the key decrypts");
        cli.run(["open", &slip]).failed(3);
        if let Some(age) = &age {
            house.raw(cli, name, age);
        }
        // They write too: the statement is signed with the SSH key.
        let slip = cli.run_with(["wrap", "create", "--to", "alice", "-"], b"from ssh").ok();
        assert_eq!(house.admin.run(["open", &slip]).ok(), "from ssh");
    }
    if age.is_none() {
        skip!("ssh_keys_serve_as_they_are", "needs an age for the part with --raw");
    }
}

fn openssl(house: &House, args: &[&str]) -> Option<Output> {
    let openssl = tools::find("openssl")?;
    let connect = ["s_client", "-connect", house.server.address(), "-alpn", "http/1.1", "-ign_eof"];
    let request = b"GET /v1/health HTTP/1.1\r\nHost: bulla\r\nConnection: close\r\n\r\n";
    Some(house.admin.run_program(&openssl, [&connect, args].concat(), request))
}

#[test]
fn openssl_sees_tls_1_3_with_a_good_group_and_no_ticket() {
    let house = House::sealed();
    let Some(seen) = openssl(&house, &["-msg"]) else {
        skip!("openssl_sees_tls_1_3_with_a_good_group_and_no_ticket", "needs openssl")
    };
    let text = seen.text();
    assert!(text.contains("HTTP/1.1 501"), "the whole exchange is here:\n{text}");
    assert!(text.contains("New, TLSv1.3, Cipher is TLS_"), "{text}");
    // OpenSSL 3.5 offers the post-quantum group, older ones X25519; each says it in its own words.
    let groups =
        ["Server Temp Key: X25519,", "Negotiated TLS1.3 group: X25519MLKEM768", "Peer Temp Key: X25519MLKEM768"];
    assert!(groups.iter().any(|group| text.contains(group)), "{text}");
    // A resumed session would skip the key exchange.
    assert!(text.contains("<<< TLS 1.3, Handshake"), "messages are shown:\n{text}");
    assert!(!text.contains("NewSessionTicket") && !text.contains("Post-Handshake New Session Ticket"), "{text}");
    let older = openssl(&house, &["-tls1_2"]).unwrap();
    assert!(older.code != 0 && !older.text().contains("HTTP/1.1"), "TLS 1.2 is refused:\n{}", older.text());
    let weak = openssl(&house, &["-groups", "P-256"]).unwrap();
    assert!(weak.code != 0 && !weak.text().contains("HTTP/1.1"), "another group is refused:\n{}", weak.text());
}

#[test]
fn curl_sees_the_health_of_each_phase() {
    let Some(curl) = tools::find("curl") else { skip!("curl_sees_the_health_of_each_phase", "needs curl") };
    let mut house = House::sealed();
    let probe = |house: &House, query: &str| {
        let url = format!("https://{}/v1/health{query}", house.server.address());
        let text = house.admin.run_program(&curl, ["-sk", "-w", "\n%{http_code}", &url], b"").ok();
        let (body, status) = text.rsplit_once('\n').unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        (status.to_owned(), body["state"].as_str().unwrap().to_owned())
    };
    let chosen = "?activecode=299&sealedcode=200&uninitcode=288";
    let health = |house: &House| (probe(house, ""), probe(house, chosen).0);
    let is = |status: &str, state: &str, chosen: &str| ((status.to_owned(), state.to_owned()), chosen.to_owned());
    assert_eq!(health(&house), is("501", "uninitialised", "288"));
    house.init();
    assert_eq!(health(&house), is("503", "sealed", "200"));
    house.admin.run(["unseal", "--yes"]).ok();
    assert_eq!(health(&house), is("200", "unsealed", "299"));
    house.admin.run(["seal"]).ok();
    assert_eq!(health(&house), is("503", "sealed", "200"));
}
