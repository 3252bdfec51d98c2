//! The manual's page on databases as it is typed, with the real binary and a real PostgreSQL: what is printed works, no
//! password stands where it should not, and each failure says what to do.
#![expect(clippy::panic, reason = "tests")]

use bulla_testkit::canary::assert_absent;
use bulla_testkit::postgres::{ADMIN, PASSWORD, Postgres};
use bulla_testkit::{Canary, Cli, Options, Output, Server, bulla, skip};
use std::time::{Duration, Instant};

const POLICY: &str = "permit (principal, action in Bulla::Action::\"database\", resource in Bulla::Database::\"\");";

fn words<'a>(line: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    line.split(' ').chain(more.iter().copied()).collect()
}

/// The value of a pair that was printed.
fn value(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().to_owned()
}

/// A user, and the password of a static role, for somebody who opens a wrap; the caller has the lease, and sees no password.
fn handed_on(alice: &Cli, postgres: &Postgres) {
    alice.run(["keygen", "-o", "bob.key"]).ok();
    alice.run(["principal", "add", "bob.pub"]).ok();
    let before = alice.run(["lease", "list"]).ok().lines().count();
    let nobody = alice.run(words("database creds app reader --wrap-to nobody", &[])).failed(5);
    assert!(nobody.contains("hint"), "{nobody}");
    let made = alice.run(words("database creds app reader --ttl 20m --wrap-to bob --expires 10m", &[]));
    let slip = made.ok();
    assert!(slip.starts_with("bulla:wrap:") && made.errors().contains("bulla lease list"), "{}", made.errors());
    let leases = alice.run(["lease", "list"]).ok();
    assert_eq!(leases.lines().count(), before + 1, "{leases}");
    assert!(alice.run(["open", &slip]).code != 0);
    let opened = alice.run(["--identity", "bob.key", "open", &slip, "-o", "user.json"]);
    opened.ok();
    let from = "database.issue of database/app/reader";
    assert!(opened.errors().contains(from), "{}", opened.errors());
    let text = std::fs::read_to_string(alice.work().join("user.json")).unwrap_or_default();
    let of: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let field = |name: &str| of.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let (user, password, lease) = (field("user"), field("password"), field("lease"));
    assert_eq!(postgres.try_sql(user, password, "SELECT 1"), Ok("1".to_owned()));
    assert!(!password.is_empty() && !format!("{leases}{}{}", made.text(), made.errors()).contains(password));
    // The lease is the caller's alone.
    assert!(leases.contains(lease));
    assert!(alice.run(["--identity", "bob.key", "lease", "revoke", lease]).code != 0);
    alice.run(["lease", "revoke", lease]).ok();
}

/// A static role, from its beginning to its end; its last password.
fn a_password_that_is_rotated(alice: &Cli, postgres: &Postgres, configure: impl Fn(&[&str]) -> Output) -> String {
    alice.file("admin.txt", b"again");
    let admin = ADMIN.replace('"', "\"\"");
    postgres.sql(&format!("ALTER ROLE \"{admin}\" PASSWORD 'again'; CREATE ROLE billing LOGIN PASSWORD 'typed'"));
    configure(&["--no-tls", "password=@admin.txt"]).ok();
    let put = "database static put app billing --user billing --rotate-every";
    assert!(alice.run(words(put, &["10s"])).failed(1).contains("--rotate-every 24h"));
    let own = alice.run(words("database static put app own --rotate-every 24h --user", &[ADMIN])).failed(18);
    assert!(own.contains("rotate-root"), "{own}");
    let unknown = alice.run(words("database static put app x --user nobody --rotate-every 24h", &[])).failed(1);
    assert!(unknown.contains("database_failed") && unknown.contains("nothing is stored"), "{unknown}");
    alice.run(words(put, &["24h"])).ok();
    assert_eq!(alice.run(words("database static list app", &[])).ok(), "billing");
    let shown = alice.run(words("database static get app billing", &[])).ok();
    assert!(value(&shown, "rotated every").contains("1day"), "{shown}");
    let told = alice.run(words("database static creds app billing", &[])).ok();
    let first = value(&told, "password");
    assert!(postgres.try_sql("billing", &first, "SELECT 1").is_ok() && !shown.contains(&first));
    alice.run(words("database static rotate app billing", &[])).ok();
    assert!(postgres.try_sql("billing", &first, "SELECT 1").is_err());
    let last = alice.run(words("database static creds app billing --field password", &[])).ok();
    let slip = alice.run(words("database static creds app billing --wrap-to bob", &[])).ok();
    assert_eq!(alice.run(["--identity", "bob.key", "open", &slip, "--field", "password"]).ok(), last);
    assert!(postgres.try_sql("billing", &last, "SELECT 1").is_ok());
    assert!(alice.run(words("database static creds app billing --field lease", &[])).failed(64).contains("no lease"));
    assert!(alice.run(["database", "delete", "app"]).failed(18).contains("static roles"));
    alice.run(words("database static delete app billing", &[])).ok();
    assert!(alice.run(words("database static get app billing", &[])).failed(5).contains("hint"));
    alice.run(["database", "delete", "app"]).ok();
    last
}

/// An option that cannot be is named, with what it takes, before anything is sent.
#[test]
fn an_option_that_cannot_be_is_named() {
    let alice = Cli::new(bulla!());
    alice.file("pw.txt", b"pw");
    alice.file("no.pem", b"no certificate");
    for (options, option, says) in [
        ("--engine postgres --host db.example --connections 0", "--connections", "1..=32"),
        ("--engine postgres --host db.example --connections 33", "--connections", "1..=32"),
        ("--engine postgres --host db.example --connections 1000", "--connections", "1..=32"),
        ("--engine postgres --host db.example --port 0", "--port", "1..=65535"),
        ("--engine mariadb --host db.example --owner leftovers", "--owner", "PostgreSQL alone"),
        ("--engine postgres --host db.example --ca no.pem", "--ca", "PEM"),
        ("--engine postgres --host evil@host/x", "--host", "a name or an IP address alone"),
        ("--engine postgres --host 10.1.2.3 --no-tls", "--no-tls", "leave --no-tls out"),
    ] {
        let line = format!("database configure app --user bulla {options} password=@pw.txt");
        let said = alice.run(words(&line, &[])).failed(64);
        assert!(said.contains(option) && said.contains(says), "{options}: {said}");
    }
}

#[test]
fn a_user_of_a_database_by_the_command_line() {
    let Some(postgres) = Postgres::start() else {
        skip!("a_user_of_a_database_by_the_command_line", "needs postgresql");
    };
    let mut alice = Cli::new(bulla!());
    let server = Server::with_admin(Options::durable(bulla!()), &mut alice);
    alice.file("db.cedar", POLICY.as_bytes());
    alice.run(["policy", "put", "db", "db.cedar"]).ok();

    // Configured: the password comes from a file or a pipe, and is not shown again.
    alice.file("pw.txt", format!("{PASSWORD}\n").as_bytes());
    let port = postgres.port().to_string();
    let configure = |more: &[&str]| {
        let line = "database configure app --engine postgres --host 127.0.0.1 --port";
        alice.run(words(line, &[&[port.as_str(), "--user", ADMIN], more].concat()))
    };
    let open = configure(&["password=@pw.txt"]).failed(1);
    assert!(open.contains("TLS"), "{open}");
    assert!(configure(&["--no-tls", "password=wrong"]).failed(64).contains("password=@FILE"));
    alice.file("wrong.txt", b"wrong");
    let wrong = configure(&["--no-tls", "password=@wrong.txt"]).failed(1);
    assert!(wrong.contains("database_failed") && wrong.contains("hint"), "{wrong}");
    configure(&["--no-tls", "password=@pw.txt"]).ok();
    let shown = alice.run(["database", "read", "app", "-o", "json"]).ok();
    assert!(shown.contains("postgres") && !shown.contains("first'"), "{shown}");
    assert_eq!(alice.run(["database", "list"]).ok(), "app");

    // A role; a statement in quotes is refused, with the part at fault.
    let quoted = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'";
    let refused = alice.run(words("database role put app reader --creation", &[quoted])).failed(1);
    assert!(refused.contains("bad_template") && refused.contains("{{name}}"), "{refused}");
    let reader =
        alice.file("reader.sql", b"CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}\n");
    let from = format!("@{}", reader.display());
    alice.run(words("database role put app reader --ttl 1h --max-ttl 2h --creation", &[&from])).ok();
    assert!(alice.run(["database", "role", "read", "app", "reader"]).ok().contains("1h"));
    assert_eq!(alice.run(["database", "role", "list", "app"]).ok(), "reader");

    // Credentials that work, and whose password stands nowhere.
    let made = alice.run(words("database creds app reader --ttl 30m", &[])).ok();
    let (user, password, lease) = (value(&made, "user"), value(&made, "password"), value(&made, "lease"));
    assert_eq!(postgres.try_sql(&user, &password, "SELECT 1"), Ok("1".to_owned()));
    assert!(alice.run(["lease", "list"]).ok().contains(&lease));
    assert!(alice.run(["lease", "show", &lease]).ok().contains("active"));
    alice.run(["lease", "renew", &lease, "--ttl", "1h"]).ok();
    assert!(alice.run(words("lease list --all --resource database/app", &[])).ok().contains(&user));
    assert_eq!(alice.run(["lease", "stuck"]).ok(), "");
    alice.run(["database", "rotate-root", "app"]).ok();
    assert!(postgres.try_sql(ADMIN, PASSWORD, "SELECT 1").is_err());
    let only = alice.run(words("database creds app reader --field password", &[])).ok();
    assert!(only.ends_with("-Aa1"), "{only}");

    handed_on(&alice, &postgres);

    // Ended, one and all.
    alice.run(["lease", "revoke", &lease]).ok();
    alice.run(words("lease revoke --resource database/app", &[])).ok();
    let began = Instant::now();
    while !postgres.users().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", postgres.users());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(alice.run(["lease", "show", &lease]).failed(5).contains("hint"));
    assert!(alice.run(["database", "delete", "app"]).failed(18).contains("roles"));
    alice.run(["database", "role", "delete", "app", "reader"]).ok();
    while alice.run(["database", "delete", "app"]).code != 0 {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(200));
    }
    let fixed = a_password_that_is_rotated(&alice, &postgres, configure);
    let secrets = [
        Canary::of("fixed", fixed.as_bytes()),
        Canary::of("password", password.as_bytes()),
        Canary::of("first", PASSWORD.as_bytes()),
    ];
    assert_absent(&secrets, [server.data().as_path(), server.audit().as_path()]);
    assert!(!server.log().contains(&password) && !server.log().contains("first'"), "{}", server.log());
}

/// A user who has no password: the key pair is made here, and the database trusts the cluster's authority.
#[test]
fn a_user_by_certificate_by_the_command_line() {
    let Some(mut postgres) = Postgres::start() else {
        skip!("a_user_by_certificate_by_the_command_line", "needs postgresql");
    };
    let mut alice = Cli::new(bulla!());
    let server = Server::with_admin(Options::durable(bulla!()), &mut alice);
    alice.file("db.cedar", POLICY.as_bytes());
    alice.run(["policy", "put", "db", "db.cedar"]).ok();
    alice.file("pw.txt", PASSWORD.as_bytes());
    let port = postgres.port().to_string();
    let line = "database configure app --engine postgres --host 127.0.0.1 --no-tls --port";
    alice.run(words(line, &[&port, "--user", ADMIN, "password=@pw.txt"])).ok();
    assert!(alice.run(["database", "ca", "app"]).failed(5).contains("--certificate"));
    postgres.sql("CREATE ROLE certified NOLOGIN");
    let creation = "CREATE ROLE {{name}} LOGIN VALID UNTIL {{expiration}} IN ROLE certified";
    alice.run(words("database role put app cert --certificate --creation", &[creation])).ok();
    assert!(alice.run(["database", "role", "read", "app", "cert"]).ok().contains("by certificate"));
    let authority = alice.run(["database", "ca", "app"]).ok();
    postgres.by_certificate("certified", &format!("{authority}\n"));
    let plain = alice.run(["database", "creds", "app", "cert"]).failed(1);
    assert!(plain.contains("--certificate"), "{plain}");
    let made = alice.run(words("database creds app cert --ttl 30m --certificate tls", &[])).ok();
    let (user, lease, folder) = (value(&made, "user"), value(&made, "lease"), alice.work().join("tls"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&folder.join("client.key").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(postgres.try_sql_by_certificate(&user, &folder, "SELECT 1"), Ok("1".to_owned()));
    let key = std::fs::read(folder.join("client.key")).unwrap();
    assert_absent(&[Canary::of("key", &key)], [server.data().as_path(), server.audit().as_path()]);
    alice.run(["lease", "renew", &lease]).failed(1);
    alice.run(["lease", "revoke", &lease]).ok();
    let began = Instant::now();
    while !postgres.users().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", postgres.users());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(postgres.try_sql_by_certificate(&user, &folder, "SELECT 1").is_err());
}
