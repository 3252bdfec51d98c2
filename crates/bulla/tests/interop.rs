//! The real binary beside programs of others: age opens what it wrote, OpenSSH's keys serve as they are, openssl and
//! curl see the TLS and the health that the manual promises, and call with a client certificate.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

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
        // And make connections, by which they are known.
        if let Some(curl) = tools::find("curl") {
            cli.run(["certificate", "-o", "tls.pem"]).ok();
            let url = format!("https://{}/v1/whoami", house.server.address());
            let audience = format!("Bulla-Audience: {}", house.cluster);
            let told = cli.run_program(&curl, ["-sk", "--cert", "tls.pem", "-H", &audience, &url], b"").ok();
            assert!(told.contains(&format!("\"name\":\"{name}\"")), "{told}");
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

/// A change's nonce as the manual makes it in bash: the minute, and 12 random bytes.
const NONCE: &str = r#"nonce() { printf "$(printf '%08x%s' $(($(date +%s) / 60)) $(openssl rand -hex 12) | sed 's/../\\x&/g')" |
  openssl base64 -A | tr '+/' '-_' | tr -d '='; }"#;

/// What the manual says of curl and client certificates: one of ours, and one that openssl made for the same key.
#[test]
fn curl_is_known_by_a_certificate() {
    let (Some(curl), Some(openssl), Some(bash)) = (tools::find("curl"), tools::find("openssl"), tools::find("bash"))
    else {
        skip!("curl_is_known_by_a_certificate", "needs curl, openssl and bash")
    };
    let house = House::new();
    let bob = keygen("bob", &[]);
    house.admit(&bob);
    house.admin.file("kv", b"permit (principal, action in Bulla::Action::\"kv\", resource);");
    house.admin.run(["policy", "put", "kv", "kv"]).ok();
    let canary = Canary::text("by curl");
    house.admin.file("pw", canary.bytes());
    house.admin.run(["kv", "put", "app/db", "password=@pw"]).ok();
    let (cli, _) = &bob;
    let told = cli.run(["certificate", "-o", "bob.pem"]).ok();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(cli.work().join("bob.pem")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    cli.run(["certificate", "-o", "bob.pem"]).failed(18);
    let key = told.lines().find_map(|line| line.strip_prefix("key")).unwrap().trim().to_owned();
    // The key stands in the same file, for openssl to make a certificate with an end.
    let make = ["req", "-x509", "-key", "bob.pem", "-subj", "/CN=bob", "-days", "30", "-out", "bob.crt"];
    let made = cli.run_program(&openssl, make, b"");
    assert_eq!(made.code, 0, "{}", made.errors());
    let (audience, address) = (format!("Bulla-Audience: {}", house.cluster), house.server.address().to_owned());
    let ask = |shown: &[&str], args: &[&str], path: &str| {
        let url = format!("https://{address}{path}");
        let base = ["-sk", "-w", "\n%{http_code}", "-H", &audience];
        let text = cli.run_program(&curl, [&base, shown, args, &[&url]].concat(), b"").ok();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    };
    let own = &["--cert", "bob.pem"][..];
    for shown in [own, &["--cert", "bob.crt", "--key", "bob.pem"]] {
        let (status, body) = ask(shown, &["-D", "headers"], "/v1/whoami");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status.as_str(), body["principal"]["name"].as_str()), ("200", Some("bob")), "{body}");
        let headers = std::fs::read_to_string(cli.work().join("headers")).unwrap().to_lowercase();
        assert!(headers.contains(&format!("bulla-caller: {}", key.to_lowercase())), "{headers}");
    }
    assert_eq!(ask(&[], &[], "/v1/whoami").0, "401", "without a certificate");
    pages_are_refused(ask, own);
    let (status, body) = ask(own, &["-X", "POST", "-H", "Content-Type: application/vnd.bulla.wrap"], "/v1/wrap");
    assert!(status == "401" && body.contains("signature_required"), "{status} {body}");
    let check = [
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"principal":"bob","action":"kv.get","resource":"kv/app/db"}"#,
    ];
    assert_eq!(ask(own, &check, "/v1/policy:check").0, "403");

    // A secret comes encrypted to the identity, which the certificate does not hold.
    assert_eq!(ask(own, &["-o", "db.age"], "/v1/kv/app/db").0, "200");
    let file = std::fs::read(cli.work().join("db.age")).unwrap();
    assert!(file.starts_with(b"age-encryption.org/v1\n"));
    assert!(!file.windows(canary.bytes().len()).any(|window| window == canary.bytes()));
    let cluster: bulla_wire::api::Cluster = serde_json::from_str(&ask(&[], &[], "/v1/cluster").1).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&cluster.documents.last().unwrap().payload).unwrap();
    curl_writes(&house, cli, &bash, &key, document["ingress"].as_str().unwrap());
    // From the next request on.
    house.admin.run(["principal", "disable", "bob"]).ok();
    let (status, body) = ask(own, &[], "/v1/whoami");
    assert!(status == "401" && body.contains("unauthenticated"), "{status} {body}");
}

/// A page in a browser that holds the certificate: the browser says that it is one.
fn pages_are_refused(ask: impl Fn(&[&str], &[&str], &str) -> (String, String), own: &[&str]) {
    for said in
        ["Origin: https://example.org", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin"]
    {
        let (status, body) = ask(own, &["-H", said], "/v1/whoami");
        let body: bulla_wire::error::ErrorBody = serde_json::from_str(&body).unwrap();
        let error = body.errors.first().unwrap();
        assert_eq!((status.as_str(), error.code.as_str()), ("401", "signature_required"), "{said}: {error:?}");
        let name = said.split_once(':').unwrap().0.to_lowercase();
        assert_eq!(error.field.as_ref(), Some(&name), "{said}");
        assert!(error.hint.as_deref().unwrap().contains("no browser"), "{error:?}");
        assert_eq!(ask(&[], &["-H", said], "/v1/health").0, "200", "open routes know nobody");
    }
    assert_eq!(ask(own, &["-H", "Sec-Fetch-Site: none"], "/v1/whoami").0, "200", "what somebody typed");
}

/// The manual's lines for a change, in bash, and the decryption of what comes back, if there is an age for it.
fn curl_writes(house: &House, cli: &Cli, bash: &Path, key: &str, ingress: &str) {
    let Some(age) = tools::age() else { skip!("curl_is_known_by_a_certificate", "needs age 1.3 for writing") };
    let (age, cluster, url) = (age.display(), &house.cluster, format!("https://{}", house.server.address()));
    let script = format!(
        r#"set -euo pipefail; {NONCE}
nonce=$(nonce)
call() {{ curl -sk --fail-with-body --cert bob.pem -H "Bulla-Audience: {cluster}" "$@"; }}
printf 'bulla-ingress-v1 %s %s PUT /v1/kv/app/web? %s\n%s' {cluster} {key} $nonce '{{"data":{{"token":"t0"}}}}' |
  {age} -r {ingress} -o body.age
for attempt in 1 2; do
  call -H "Bulla-Nonce: $nonce" -H "Content-Type: application/age" -T body.age {url}/v1/kv/app/web; echo
done
call {url}/v1/kv/app/web | {age} -d -i bob.key
"#
    );
    let said = cli.run_program(bash, ["-c", &script], b"").ok();
    let [first, again, read] = said.lines().collect::<Vec<_>>()[..] else { panic!("three answers: {said}") };
    assert!(first.contains("\"version\":1") && again == first, "written once: {said}");
    assert!(read.contains("t0"), "{said}");
}

/// Sessions that openssl would resume: it is given nothing to do so, with a certificate or without.
#[test]
fn openssl_resumes_nothing() {
    let house = House::new();
    house.admin.run(["certificate", "-o", "alice.pem"]).ok();
    for shown in [&[][..], &["-cert", "alice.pem", "-key", "alice.pem"]] {
        let Some(seen) = openssl(&house, &[shown, &["-sess_out", "session.pem"]].concat()) else {
            skip!("openssl_resumes_nothing", "needs openssl")
        };
        assert!(seen.text().contains("HTTP/1.1 200") && seen.text().contains("New, TLSv1.3"), "{}", seen.text());
        assert!(!house.admin.work().join("session.pem").exists(), "a session to resume");
        // Connects six times over; what it could resume it would.
        let text = openssl(&house, &[shown, &["-reconnect"]].concat()).unwrap().text();
        assert!(text.contains("New, TLSv1.3") && !text.contains("Reused, "), "{text}");
    }
    // A session of another server: this one has never seen it, and does as if it were not there.
    std::fs::write(house.admin.work().join("session.pem"), foreign_session(&house)).unwrap();
    let own = ["-sess_in", "session.pem", "-cert", "alice.pem", "-key", "alice.pem"];
    let text = openssl(&house, &own).unwrap().text();
    assert!(text.contains("HTTP/1.1 200") && !text.contains("Reused, "), "{text}");
}

/// A session of another server, which gives out tickets: openssl's own.
fn foreign_session(house: &House) -> Vec<u8> {
    let script = r#"
openssl s_server -accept 127.0.0.1:0 -cert alice.pem -key alice.pem -tls1_3 -www >server.txt 2>&1 &
server=$!
for attempt in $(seq 100); do
  port=$(sed -n 's/^ACCEPT 127.0.0.1:\([0-9]*\).*/\1/p' server.txt)
  [ -n "$port" ] && break
  sleep 0.1
done
printf 'GET / HTTP/1.0\r\n\r\n' |
  openssl s_client -connect 127.0.0.1:$port -tls1_3 -ign_eof -sess_out foreign.pem >client.txt 2>&1
kill $server
"#;
    house.admin.run_program(&tools::find("sh").unwrap(), ["-c", script], b"");
    std::fs::read(house.admin.work().join("foreign.pem")).unwrap()
}

/// Lets the admin use transit keys.
fn transit(house: &House) -> &Cli {
    let text = b"permit (principal in Bulla::Group::\"admins\", action in Bulla::Action::\"transit\", resource);\n";
    house.admin.file("transit.cedar", text);
    house.admin.run(["policy", "put", "transit", "transit.cedar"]).ok();
    &house.admin
}

#[test]
fn openssl_verifies_what_transit_keys_sign() {
    let Some(openssl) = tools::find("openssl") else {
        skip!("openssl_verifies_what_transit_keys_sign", "needs openssl")
    };
    let house = House::new();
    let alice = transit(&house);
    alice.file("app", &[b"an archive ".repeat(5000), vec![0, 255]].concat());
    let verify = |args: &[&str]| alice.run_program(&openssl, args, b"");
    for kind in ["ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-2048"] {
        alice.run(["transit", "create", kind, "--kind", kind, "--exportable"]).ok();
        let public = alice.run(["transit", "read", kind, "--public-key"]).ok();
        alice.file("public.pem", format!("{public}\n").as_bytes());
        let digests: &[&str] = match kind {
            "ed25519" => &[""],
            "ecdsa-p256" => &["sha-256"],
            "ecdsa-p384" => &["sha-384"],
            _ => &["sha-256", "sha-384", "sha-512"],
        };
        for digest in digests {
            let signature = format!("{kind}{digest}.sig");
            let mut sign = vec!["transit", "sign", kind, "app", "-o", &signature];
            if !digest.is_empty() {
                sign.extend(["--digest-algorithm", digest]);
            }
            alice.run(sign).ok();
            let named = format!("-{}", digest.replace('-', ""));
            let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
            let args = match kind {
                "ed25519" => vec!["pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in", "app"],
                _ => vec!["dgst", &named, "-verify", "public.pem"],
            };
            let mut args: Vec<&str> = args;
            match kind {
                "ed25519" => args.extend(["-sigfile", &signature]),
                "rsa-2048" => args.extend(pss.into_iter().chain(["-signature", &signature, "app"])),
                _ => args.extend(["-signature", &signature, "app"]),
            }
            let verified = verify(&args);
            assert_eq!(verified.code, 0, "{kind} {digest}: {}", verified.errors());
            // The same for another file.
            let place = args.iter().position(|word| *word == "app").unwrap();
            args[place] = "alice.pub";
            assert_ne!(verify(&args).code, 0, "{kind} {digest}");
        }
        // The private key is what openssl takes it for, too.
        let private = format!("{kind}.pem");
        alice.run(["transit", "export", kind, "-o", &private]).ok();
        let own = verify(&["pkey", "-in", &private, "-pubout"]);
        assert_eq!(own.text().trim(), public.trim(), "{kind}");
    }
    // A key that openssl made signs here, by a digest that was made elsewhere.
    let made = verify(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "made.pem"]);
    assert_eq!(made.code, 0, "{}", made.errors());
    alice.run(["transit", "import", "made", "--kind", "ecdsa-p256", "made.pem"]).ok();
    assert_eq!(verify(&["dgst", "-sha256", "-binary", "-out", "digest", "app"]).code, 0);
    let prehashed = ["--prehashed", "--digest-algorithm", "sha-256"];
    let sign = ["transit", "sign", "made", "digest", "-o", "made.sig"];
    alice.run(sign.into_iter().chain(prehashed)).ok();
    let public = verify(&["pkey", "-in", "made.pem", "-pubout", "-out", "made.pub.pem"]);
    assert_eq!(public.code, 0, "{}", public.errors());
    let verified = verify(&["dgst", "-sha256", "-verify", "made.pub.pem", "-signature", "made.sig", "app"]);
    assert_eq!(verified.code, 0, "{}", verified.errors());
}

#[test]
fn python_decrypts_with_an_exported_transit_key() {
    let Some(python) = tools::python() else {
        skip!("python_decrypts_with_an_exported_transit_key", "needs Python with cryptography (BULLA_TEST_PYTHON)")
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/foreign/test_transit.py");
    let house = House::new();
    let alice = transit(&house);
    let counts = alice.run_program(&python, [&script], b"").ok();
    assert!(counts.contains("ciphertexts.json: 24") && counts.contains("rsa.json: 12"), "{counts}");
    alice.file("card", b"4000 0000 0000 0002");
    for kind in ["aes256-gcm", "chacha20-poly1305", "rsa-2048"] {
        alice.run(["transit", "create", kind, "--kind", kind, "--exportable"]).ok();
        alice.run(["transit", "rotate", kind]).ok();
        let file = format!("{kind}.key");
        alice.run(["transit", "export", kind, "-o", &file]).ok();
        let text = alice.run(["transit", "encrypt", kind, "card", "--associated-data", "row 1"]).ok();
        let arguments = [script.to_str().unwrap(), kind, &file, kind, "row 1"];
        let opened = alice.run_program(&python, arguments, text.as_bytes());
        assert_eq!(opened.stdout, b"4000 0000 0000 0002", "{kind}: {}", opened.errors());
    }
}
