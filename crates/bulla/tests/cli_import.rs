//! The way from Vault: a real OpenBao is filled, imported, and compared with what is here then. The real binary does it, as
//! a person types it.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_testkit::canary::assert_absent;
use bulla_testkit::openbao::{OpenBao, ROOT};
use bulla_testkit::{Canary, Cli, Options, Output, Server, bulla, skip};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// What whoever imports needs.
const POLICY: &str = r#"permit (
  principal in Bulla::Group::"admins",
  action in [
    Bulla::Action::"kv.get", Bulla::Action::"kv.list", Bulla::Action::"kv.put", Bulla::Action::"kv.inspect",
    Bulla::Action::"kv.configure", Bulla::Action::"kv.destroy"
  ],
  resource in Bulla::Kv::""
);
permit (principal in Bulla::Group::"admins", action in Bulla::Action::"transit", resource in Bulla::Transit::"");
"#;

/// Both sides, and somebody who administers both.
struct World {
    bao: OpenBao,
    server: Server,
    alice: Cli,
}

/// A cluster, and the admin of it.
fn cluster() -> (Server, Cli) {
    let mut alice = Cli::new(bulla!());
    alice.env("VAULT_TOKEN", ROOT);
    let server = Server::with_admin(Options::durable(bulla!()), &mut alice);
    alice.file("import.cedar", POLICY.as_bytes());
    alice.run(["policy", "put", "import", "import.cedar"]).ok();
    (server, alice)
}

impl World {
    fn new() -> Option<Self> {
        let bao = OpenBao::start()?;
        let (server, alice) = cluster();
        Some(Self { bao, server, alice })
    }

    fn import(&self, more: &[&str]) -> Output {
        let (address, ca) = (self.bao.address(), self.bao.ca());
        let words = ["import", "vault", &address, "--ca", ca.to_str().unwrap()];
        self.alice.run(words.iter().chain(more))
    }

    fn bulla(&self, line: &str) -> Output {
        self.alice.run(line.split(' '))
    }
}

/// Secrets of both kinds of engine, with what an import may stumble over.
fn fill(world: &World, secret: &str) {
    let bao = |line: &str| world.bao.run(&line.split(' ').collect::<Vec<_>>());
    bao("secrets enable -path=old -version=1 kv");
    bao(&format!("kv put -mount=old web/db user=app password={secret}"));
    for password in ["one", "two", "three", secret] {
        bao(&format!("kv put secret/app/db password={password}"));
    }
    bao("kv delete -versions=2 secret/app/db");
    bao("kv destroy -versions=3 secret/app/db");
    bao("kv metadata put -custom-metadata=owner=red -max-versions=20 -cas-required=true secret/app/db");
    let nested = world.alice.file("nested.json", br#"{"port":5432,"hosts":["a","b"],"name":"x"}"#);
    world.bao.run(&["kv", "put", "secret/app/nested", &format!("@{}", nested.display())]);
    bao("kv put secret/app a=of-the-directory's-own-name");
    bao("kv metadata put -delete-version-after=720h secret/app/short");
    bao("kv put secret/app/short a=1");
    bao("kv put secret/app/gone a=1");
    bao("kv delete secret/app/gone");
    world.bao.run(&["kv", "put", "secret/app/with space", "a=1"]);
    for number in 1..=12 {
        bao(&format!("kv put secret/often n={number}"));
    }
}

/// The overview for a token that may list a directory and not what lies in it.
fn what_is_not_listed_is_not_counted(world: &World) {
    let policy = "path \"secret/metadata/\" { capabilities = [\"list\"] }";
    let file = world.alice.file("part.hcl", policy.as_bytes());
    world.bao.run(&["policy", "write", "part", file.to_str().unwrap()]);
    world.alice.file("token", world.bao.run(&["token", "create", "-policy=part", "-field=token"]).as_bytes());
    let part = world.import(&["--token-file", "token"]);
    let told = part.ok();
    let columns = |mount: &str| {
        let line = told.lines().find(|line| line.starts_with(mount)).unwrap_or_default();
        line.split("  ").map(str::trim).filter(|column| !column.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(columns("secret"), ["secret", "kv, version 2", "--kv secret"], "{told}");
    assert_eq!(columns("sys/policies/acl"), ["sys/policies/acl", "policies", "--policies DIRECTORY"], "{told}");
    let why = part.errors();
    assert!(why.contains("secret/app/ is not listed: the token may not read it"), "{why}");
    assert!(why.contains("sys/policies/acl is not listed"), "{why}");
    let json = world.import(&["--token-file", "token", "-o", "json"]).ok();
    assert!(
        json.contains("policies_uncounted") && json.contains("\"uncounted\": \"secret/app/ is not listed"),
        "{json}"
    );
}

#[test]
fn secrets_with_all_their_versions() {
    let Some(world) = World::new() else {
        skip!("secrets_with_all_their_versions", "needs OpenBao (BULLA_TEST_OPENBAO)")
    };
    let bao = |line: &str| world.bao.run(&line.split(' ').collect::<Vec<_>>());
    let canary = Canary::text("value");
    let secret = canary.as_str().to_owned();
    fill(&world, &secret);

    // What there is, and what would happen.
    let there = world.import(&[]).ok();
    let row = |text: &str, mount: &str| text.lines().any(|line| line.starts_with(mount));
    assert!(row(&there, "old  ") && row(&there, "secret  ") && there.contains("--kv secret"), "{there}");
    let dry = world.import(&["--kv", "secret", "--kv", "old", "--dry-run"]);
    assert!(dry.code == 1 && dry.text().contains("this is a dry run"), "{}{}", dry.text(), dry.errors());
    assert_eq!(world.bulla("kv list").ok(), "");

    let done = world.import(&["--kv", "secret", "--kv", "old"]);
    done.failed(1);
    let told = done.text();
    assert!(told.contains("with space: refused") && told.contains("secret/app/gone: empty"), "{told}");
    assert!(told.contains("secret imported: 6") && told.contains("secret refused: 1"), "{told}");
    assert!(told.contains(r#"no text, so kept as JSON: "hosts", "port""#), "{told}");
    assert!(!told.contains(&secret) && !done.errors().contains(&secret));

    // The same, version by version.
    let get = |path: &str, version: u64, field: &str| {
        let version = version.to_string();
        world.alice.run(["kv", "get", path, "--version", &version, "--field", field])
    };
    assert_eq!(world.bulla("kv get old/web/db --field password").ok(), secret);
    assert_eq!(get("secret/app/db", 1, "password").ok(), "one");
    assert_eq!(get("secret/app/db", 4, "password").ok(), secret);
    assert!(get("secret/app/db", 2, "password").code != 0 && get("secret/app/db", 3, "password").code != 0);
    let settings = world.bulla("kv metadata get secret/app/db").ok();
    assert!(settings.contains("20") && settings.contains("red"), "{settings}");
    assert_eq!(world.bulla("kv get secret/app/nested --field port").ok(), "5432");
    assert_eq!(world.bulla("kv get secret/app/nested --field hosts").ok(), r#"["a","b"]"#);
    assert_eq!(world.bulla("kv get secret/app --field a").ok(), "of-the-directory's-own-name");
    assert!(world.bulla("kv get secret/app/short").errors().contains("until"));
    for number in 3..=12 {
        assert_eq!(get("secret/often", number, "n").ok(), number.to_string());
    }
    assert!(get("secret/often", 2, "n").code != 0);

    // Again, and nothing happens; only a part, and elsewhere; what was added comes after.
    let again = world.import(&["--kv", "secret", "--kv", "old", "-o", "json"]);
    again.failed(1);
    assert!(again.text().contains("\"secret present\": 6") && !again.text().contains("imported"), "{}", again.text());
    world.import(&["--kv", "secret/app/db", "--to", "copy"]).ok();
    assert_eq!(get("copy/app/db", 4, "password").ok(), secret);
    bao("kv put -cas=4 secret/app/db password=five");
    world.import(&["--kv", "secret/app/db"]).ok();
    assert_eq!(get("secret/app/db", 5, "password").ok(), "five");

    // What is here stays.
    world.bulla("kv put old/web/db password=ours").ok();
    let conflict = world.import(&["--kv", "old"]);
    conflict.failed(18);
    assert!(conflict.text().contains("old/web/db: conflict"), "{}", conflict.text());
    assert_eq!(world.bulla("kv get old/web/db --field password").ok(), "ours");

    // A token that may not, a Vault that is not believed, a way that others read.
    let token = bao("token create -policy=default -field=token");
    world.alice.file("token", token.as_bytes());
    assert!(world.import(&["--kv", "secret", "--token-file", "token"]).failed(13).contains("token may not read"));
    what_is_not_listed_is_not_counted(&world);
    let stranger = world.alice.run(["import", "vault", &world.bao.address(), "--kv", "secret"]);
    assert!(stranger.code != 0 && stranger.errors().contains("certificate"), "{}", stranger.errors());
    assert!(world.bulla("import vault http://vault.example:8200").failed(64).contains("https"));
    assert_absent(&[canary], [world.server.data().as_path(), world.server.audit().as_path()]);
}

#[test]
fn transit_keys_that_vault_lets_out() {
    let Some(world) = World::new() else {
        skip!("transit_keys_that_vault_lets_out", "needs OpenBao (BULLA_TEST_OPENBAO)")
    };
    let bao = |line: &str| world.bao.run(&line.split(' ').collect::<Vec<_>>());
    bao("secrets enable transit");
    for (name, kind) in [
        ("aes", "aes256-gcm96"),
        ("chacha", "chacha20-poly1305"),
        ("ed", "ed25519"),
        ("p256", "ecdsa-p256"),
        ("p384", "ecdsa-p384"),
        ("rsa", "rsa-2048"),
        ("p521", "ecdsa-p521"),
    ] {
        bao(&format!("write transit/keys/{name} type={kind} exportable=true"));
    }
    bao("write transit/keys/mac type=hmac key_size=32 exportable=true");
    bao("write -f transit/keys/closed");
    bao("write transit/keys/derived derived=true exportable=true");
    bao("write -f transit/keys/ed/rotate");
    bao("write -f transit/keys/aes/rotate");
    let input = "aGVsbG8=";
    let field = |path: &str, field: &str, more: &[&str]| {
        let field = format!("-field={field}");
        world.bao.run(&[&["write", &field, path, &format!("input={input}")], more].concat())
    };
    let translated = |text: &str| {
        let (version, base64) = text.strip_prefix("vault:v").unwrap().split_once(':').unwrap();
        format!("bulla:v{version}:{}", base64.replace('+', "-").replace('/', "_").trim_end_matches('='))
    };
    let signatures = [
        ("ed", field("transit/sign/ed", "signature", &["key_version=1"])),
        ("ed", field("transit/sign/ed", "signature", &[])),
        ("p256", field("transit/sign/p256", "signature", &["marshaling_algorithm=jws"])),
        ("p384", field("transit/sign/p384", "signature", &["marshaling_algorithm=jws", "hash_algorithm=sha2-384"])),
        ("rsa", field("transit/sign/rsa", "signature", &["signature_algorithm=pss", "salt_length=hash"])),
    ];
    let mac = field("transit/hmac/mac", "hmac", &[]);

    let done = world.import(&["--transit", "transit"]);
    done.failed(1);
    let told = done.text();
    assert!(told.contains("key imported: 7") && told.contains("key refused: 3"), "{told}");
    assert!(told.contains("transit/closed: refused") && told.contains("exportable=true"), "{told}");
    assert!(told.contains("ecdsa-p521") && told.contains("derived by a context"), "{told}");

    // What was signed there holds here, by the rules that the report tells.
    for (key, signature) in &signatures {
        let verified = world.alice.run_with(["transit", "verify", key, &translated(signature)], b"hello");
        assert_eq!(verified.code, 0, "{key} {signature}: {}{}", verified.text(), verified.errors());
    }
    let verified = world.alice.run_with(["transit", "hmac", "mac", "--verify", &translated(&mac)], b"hello");
    assert_eq!(verified.code, 0, "{}{}", verified.text(), verified.errors());
    // The keys themselves are the same.
    world.bulla("transit export aes --key-version 1 -o aes.bin").ok();
    let here = std::fs::read(world.alice.work().join("aes.bin")).unwrap();
    let there = bao("read -format=json transit/export/encryption-key/aes/1");
    assert!(there.contains(&bulla_wire::encoding::base64(&here)));

    let again = world.import(&["--transit", "transit"]);
    again.failed(1);
    assert!(again.text().contains("key present: 7"), "{}", again.text());
    bao("write -f transit/keys/p256/rotate");
    let conflict = world.import(&["--transit", "transit"]);
    conflict.failed(18);
    assert!(conflict.text().contains("rotated in Vault"), "{}", conflict.text());
    assert!(world.import(&["--transit", "secret"]).failed(64).contains("kv, version 2"));
}

#[test]
fn a_run_that_is_killed_is_gone_on_with() {
    let Some(world) = World::new() else {
        skip!("a_run_that_is_killed_is_gone_on_with", "needs OpenBao (BULLA_TEST_OPENBAO)")
    };
    for number in 1..=15 {
        for version in ["one", "two", "three"] {
            world.bao.run(&["kv", "put", &format!("secret/many/s{number}"), &format!("a={version}-{number}")]);
        }
        world.bao.run(&["kv", "destroy", "-versions=2", &format!("secret/many/s{number}")]);
    }
    let (address, ca) = (world.bao.address(), world.bao.ca());
    let mut killed = 0;
    // The first time is over before the program has begun; then it gets further each time, on a fast and on a slow machine.
    let mut milliseconds = 5.0_f64;
    loop {
        let time = format!("{:.3}", milliseconds / 1000.0);
        let binary = bulla!();
        let words = ["-s", "KILL", &time, binary.to_str().unwrap(), "import", "vault", &address, "--ca"];
        let words = words.iter().copied().chain([ca.to_str().unwrap(), "--kv", "secret"]);
        let done = world.alice.run_program(Path::new("/usr/bin/timeout"), words, b"");
        match done.code {
            0 => break,
            124 | 137 => killed += 1,
            _ => panic!("{}{}", done.text(), done.errors()),
        }
        milliseconds *= 1.2;
        assert!(milliseconds < 60_000.0, "it never ends");
    }
    assert!(killed > 0, "it was never killed");
    for number in 1..=15 {
        let get = |version: &str| {
            let path = format!("secret/many/s{number}");
            world.alice.run(["kv", "get", &path, "--version", version, "--field", "a"])
        };
        assert_eq!(get("1").ok(), format!("one-{number}"));
        assert!(get("2").errors().contains("destroyed"), "{}", get("2").errors());
        assert_eq!(get("3").ok(), format!("three-{number}"));
        assert!(get("4").code != 0);
    }
}

/// Something that answers as a Vault might that means harm, by the path that is asked for.
fn liar(answer: impl Fn(&str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut first = String::new();
            stream.read_line(&mut first).unwrap();
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                line.clear();
            }
            let path = first.split(' ').nth(1).unwrap_or_default();
            // Whoever has heard enough hangs up.
            let _heard = stream.get_mut().write_all(answer(path).as_bytes());
        }
    });
    address
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn a_vault_that_lies_reaches_nothing_else() {
    let (server, alice) = cluster();
    const MOUNT: &str = r#"{"data":{"path":"secret/","type":"kv","options":{"version":"1"}}}"#;
    let import = |address: &str| alice.run(["import", "vault", address, "--kv", "secret", "--to", "inside"]);

    // Names that would lead elsewhere are none.
    let names = r#"{"data":{"keys":["../up","..","a/b","/","x?list=true","x#y","\u0000","\u202egood","good"]}}"#;
    let told = import(&liar(move |path| match path {
        "/v1/sys/internal/ui/mounts/secret" => ok(MOUNT),
        "/v1/secret/?list=true" => ok(names),
        _ => ok(r#"{"data":{"a":"1"}}"#),
    }));
    told.failed(1);
    assert!(told.text().contains("secret imported: 1") && told.text().contains("secret refused: 8"), "{}", told.text());
    assert!(!told.text().contains('\u{202e}'));
    assert_eq!(alice.run(["kv", "list", "--recursive"]).ok(), "inside/good");

    // Directories without an end have one, as paths do.
    let told = import(&liar(move |path| match path {
        "/v1/sys/internal/ui/mounts/secret" => ok(MOUNT),
        _ => ok(r#"{"data":{"keys":["deeper/"]}}"#),
    }));
    told.failed(1);
    assert!(told.text().contains("16 segments"), "{}", told.text());

    // What is gone when it is read, by either engine, makes nothing here.
    let gone = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let told = import(&liar(move |path| match path {
        "/v1/sys/internal/ui/mounts/secret" => ok(MOUNT),
        "/v1/secret/?list=true" => ok(r#"{"data":{"keys":["gone"]}}"#),
        _ => gone.to_owned(),
    }));
    assert_eq!(told.code, 0, "{}", told.errors());
    assert!(told.text().contains("secret empty: 1") && !told.text().contains("imported"), "{}", told.text());
    let told = import(&liar(move |path| match path {
        "/v1/sys/internal/ui/mounts/secret" => ok(&MOUNT.replace(r#""1""#, r#""2""#)),
        "/v1/secret/metadata/?list=true" => ok(r#"{"data":{"keys":["gone"]}}"#),
        "/v1/secret/metadata/gone" => ok(r#"{"data":{"current_version":2,"versions":{"1":{},"2":{}}}}"#),
        "/v1/secret/data/gone?version=1" => ok(r#"{"data":{"data":null}}"#),
        _ => gone.to_owned(),
    }));
    assert_eq!(told.code, 0, "{}", told.errors());
    assert!(told.text().contains("secret empty: 1") && !told.text().contains("imported"), "{}", told.text());
    assert_eq!(alice.run(["kv", "list", "--recursive"]).ok(), "inside/good");

    // A mount that is another, a way elsewhere, no end, no JSON.
    let other = import(&liar(|_| ok(r#"{"data":{"path":"sec/","type":"kv"}}"#)));
    assert!(other.failed(1).contains("the path is not in"), "{}", other.errors());
    let away = "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let away = import(&liar(|_| away.to_owned()));
    assert!(away.failed(1).contains("another address"), "{}", away.errors());
    let endless = import(&liar(|_| ok(&"x".repeat(3 * 1024 * 1024))));
    assert!(endless.failed(1).contains("more than"), "{}", endless.errors());
    let malformed = import(&liar(|_| ok("<html>")));
    assert!(malformed.failed(1).contains("line 1"), "{}", malformed.errors());
    drop(server);
}

#[test]
fn a_sample_application_moves() {
    let Some(mut world) = World::new() else {
        skip!("a_sample_application_moves", "needs OpenBao (BULLA_TEST_OPENBAO)")
    };
    world.bao.run(&["kv", "put", "secret/shop/db", "user=shop", "password=before and after"]);
    world.bao.run(&["kv", "put", "secret/other", "a=not the shop's"]);
    let policy = "path \"secret/data/shop/*\" { capabilities = [\"read\"] }\npath \"auth/token/renew-self\" { capabilities = [\"update\"] }\n";
    let file = world.alice.file("shop.hcl", policy.as_bytes());
    world.bao.run(&["policy", "write", "shop", file.to_str().unwrap()]);

    let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let (address, ca, binary) = (world.bao.address(), world.bao.ca(), world.bao.binary().to_owned());
    world.alice.env("BAO", binary).env("BULLA", bulla!()).env("APP", scripts.join("app.sh"));
    world.alice.env("BAO_ADDR", address).env("BAO_CACERT", ca);
    let script = scripts.join("move.sh");
    let moved = world.alice.run_program(Path::new("/bin/sh"), [script.to_str().unwrap()], b"");
    moved.ok();
    let draft = std::fs::read_to_string(world.alice.work().join("drafts/shop.cedar")).unwrap();
    assert!(draft.contains("Bulla::Kv::\"apps/shop\"") && draft.contains("// DECIDE: there are no tokens"), "{draft}");
    let before = std::fs::read_to_string(world.alice.work().join("before.txt")).unwrap();
    assert!(before.contains("logged in as shop"), "{before}");

    // Vault is gone, and the application still starts; it reads nothing else.
    let World { bao, server, alice } = world;
    drop(bao);
    let run = ["--identity", "shop.key", "run", "--env", "DB_USER=kv/apps/shop/db#user", "--env"];
    let app = scripts.join("app.sh");
    let run = run.iter().copied().chain(["DB_PASSWORD=kv/apps/shop/db#password", "--", "sh", app.to_str().unwrap()]);
    assert_eq!(alice.run(run).text(), before);
    assert!(alice.run(["--identity", "shop.key", "kv", "list", "apps"]).code == 13);
    drop(server);
}

/// Policies in which the more specific path takes something away, or gives more.
const POLICIES: [(&str, &str); 4] = [
    (
        "wide",
        r#"path "secret/data/*" { capabilities = ["read"] }
path "secret/data/admin/*" { capabilities = ["deny"] }
path "secret/data/admin/open" { capabilities = ["read"] }
path "secret/metadata/*" { capabilities = ["list"] }"#,
    ),
    (
        "writes",
        r#"path "secret/data/app/*" { capabilities = ["create", "update"] }
path "secret/data/app/fixed" { capabilities = ["read"] }
path "secret/metadata/app" { capabilities = ["list"] }"#,
    ),
    ("keys", r#"{"path":{"transit/*":{"capabilities":["update"]},"transit/encrypt/locked":{"policy":"deny"}}}"#),
    (
        "nested",
        r#"path "secret/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "secret/data/*" { capabilities = ["read"] }
path "transit/*" { capabilities = ["update"] }
path "transit/keys/*" { capabilities = ["read"] }"#,
    ),
];

/// What a word of Vault is a part of stays a comment, and OpenBao says that it is a part; of a policy that HCL 1 alone takes.
#[test]
fn a_part_of_a_right_is_left_to_a_person() {
    let Some(world) = World::new() else {
        skip!("a_part_of_a_right_is_left_to_a_person", "needs OpenBao (BULLA_TEST_OPENBAO)")
    };
    let policy = r#"path "secret/data/u/*" { capabilities = ["update", "read"] min_wrapping_ttl = "0s" } path "secret/data/c/*" { capabilities = ["update", "read"] }"#;
    let file = world.alice.file("policy", policy.as_bytes());
    world.bao.run(&["policy", "write", "parts", file.to_str().unwrap()]);
    world.import(&["--policies", "drafts"]).ok();
    let draft = std::fs::read_to_string(world.alice.work().join("drafts/parts.cedar")).unwrap();
    assert!(draft.contains("// DECIDE: it is bound by min_wrapping_ttl"), "{draft}");
    assert!(draft.contains("// DECIDE: create alone is for what is new"), "{draft}");
    world.bulla("keygen -o bob.key").ok();
    world.bulla("principal add bob.pub --group vault-parts").ok();
    world.bulla("policy put parts drafts/parts.cedar").ok();
    assert_eq!(world.bulla("policy check bob kv.get kv/secret/c/x").code, 0);
    assert_eq!(world.bulla("policy check bob kv.put kv/secret/c/x").code, 13);
    // What is new is not written there either.
    let token = world.bao.run(&["token", "create", "-policy=parts", "-field=token"]);
    world.bao.run(&["kv", "put", "secret/c/there", "a=1"]);
    let put = |path: &str| {
        let header = format!("X-Vault-Token: {token}");
        let (ca, address) = (world.bao.ca(), format!("{}/v1/secret/data/{path}", world.bao.address()));
        let words = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", ca.to_str().unwrap(), "-H", &header];
        let words = words.iter().copied().chain(["-d", r#"{"data":{"a":"2"}}"#, &address]);
        world.alice.run_program(Path::new("/usr/bin/curl"), words, b"").text()
    };
    assert_eq!((put("c/new").as_str(), put("c/there").as_str()), ("403", "200"));
}

/// A right here, what it is there, and of which policies it is asked.
const QUESTIONS: [(&str, &str, &str, &[&str], &str); 12] = [
    ("kv.get", "kv/secret/top", "secret/data/top", &["read"], "wide keys"),
    ("kv.get", "kv/secret/app/db", "secret/data/app/db", &["read"], "nested"),
    ("kv.get", "kv/secret/app/fixed", "secret/data/app/fixed", &["read"], "writes"),
    ("kv.get", "kv/secret/admin/open", "secret/data/admin/open", &["read"], "wide"),
    ("kv.get", "kv/secret/admin/shut", "secret/data/admin/shut", &["read"], "wide"),
    ("kv.put", "kv/secret/app/db", "secret/data/app/db", &["create", "update"], "wide writes nested"),
    ("kv.put", "kv/secret/app/fixed", "secret/data/app/fixed", &["create", "update"], "writes"),
    ("kv.list", "kv/secret/app", "secret/metadata/app/", &["list"], "wide writes nested"),
    ("transit.encrypt", "transit/orders", "transit/encrypt/orders", &["update"], "keys nested"),
    ("transit.encrypt", "transit/locked", "transit/encrypt/locked", &["update"], "keys"),
    ("transit.create", "transit/orders", "transit/keys/orders", &["update"], "keys nested"),
    ("transit.rotate", "transit/orders", "transit/keys/orders/rotate", &["update"], "keys nested"),
];

/// OpenBao and the cluster are asked the same questions about the same policies.
#[test]
fn a_draft_decides_as_openbao_does() {
    let Some(world) = World::new() else {
        skip!("a_draft_decides_as_openbao_does", "needs OpenBao (BULLA_TEST_OPENBAO)")
    };
    world.bao.run(&["secrets", "enable", "transit"]);
    world.bulla("keygen -o bob.key").ok();
    let groups: String = POLICIES.iter().map(|(name, _)| format!(" --group vault-{name}")).collect();
    world.bulla(&format!("principal add bob.pub{groups}")).ok();
    for (name, text) in POLICIES {
        let file = world.alice.file("policy", text.as_bytes());
        world.bao.run(&["policy", "write", name, file.to_str().unwrap()]);
    }
    world.import(&["--policies", "drafts"]).ok();
    for (name, _) in POLICIES {
        world.bulla(&format!("policy put {name} drafts/{name}.cedar")).ok();
        let policy = format!("-policy={name}");
        let token = world.bao.run(&["token", "create", &policy, "-no-default-policy", "-field=token"]);
        let asked = QUESTIONS.iter().filter(|(.., of)| of.split(' ').any(|of| of == name));
        for (action, resource, path, needed, _) in asked {
            let told = world.bao.run(&["token", "capabilities", token.trim(), path]);
            let there = needed.iter().all(|word| told.trim().split(", ").any(|told| told == *word));
            let here = world.bulla(&format!("policy check bob {action} {resource}")).code;
            assert_eq!(here, if there { 0 } else { 13 }, "{name} {action} {resource}, in OpenBao: {told}");
        }
        world.bulla(&format!("policy delete {name}")).ok();
    }
}
