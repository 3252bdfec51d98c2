//! The whole way with the real binary: keys, server, init, unseal, admission, a wrap, and that it opens once.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it stands")]

use bulla_testkit::{Canary, Cli, Options, Server, bulla, canary};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn person(name: &str) -> (Cli, PathBuf) {
    let mut cli = Cli::new(bulla!());
    cli.run(["keygen", "-o", &format!("{name}.key")]).ok();
    cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
    let record = cli.work().join(format!("{name}.pub"));
    (cli, record)
}

/// Makes the cluster and points everybody to it.
fn init(server: &Server, admins: &[(&Cli, &PathBuf)], k: &[&str], others: &[&mut Cli]) -> String {
    let ready = server.directory().join("ready-1.json");
    let mut args = vec!["init", "--name", "test", "--ready-file", ready.to_str().unwrap()];
    for (_, record) in admins {
        args.extend(["--admin", record.to_str().unwrap()]);
    }
    args.extend(k);
    args.extend(["--save-context", "test"]);
    let (first, _) = admins[0];
    let output = first.run(&args).ok();
    let cluster = output.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
    let rest = admins[1..].iter().map(|(cli, _)| *cli).chain(others.iter().map(|cli| &**cli));
    for cli in rest {
        cli.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
    }
    cluster
}

/// Alice, an admin, sends Bob a secret; Bob opens it once; Mallory, who was admitted too, learns nothing.
fn deliver(alice: &Cli, bob: &Cli, bob_record: &Path, mallory: &Cli, mallory_record: &Path, secret: &Canary) {
    let added = alice.run(["principal", "add", bob_record.to_str().unwrap(), "--group", "dev"]).ok();
    assert!(added.contains("name         bob") && added.contains("dev"), "{added}");
    alice.run(["principal", "add", mallory_record.to_str().unwrap()]).ok();
    assert!(bob.run(["whoami"]).ok().contains("bob"));

    alice.file("secret.txt", secret.bytes());
    let created = alice.run(["wrap", "create", "--to", "bob", "secret.txt"]);
    let slip = created.ok();
    assert!(slip.starts_with("bulla:wrap:") && slip.lines().count() == 1, "{slip}");

    mallory.run(["open", &slip]).failed(5);
    let opened = bob.run(["open", &slip, "-o", "secret.txt"]);
    assert_eq!(opened.ok(), "");
    assert_eq!(std::fs::read(bob.work().join("secret.txt")).unwrap(), secret.bytes());

    // Once is once: the content is gone, and the refusal says so; the file that is there is not touched.
    let again = bob.run(["open", &slip, "-o", "again.txt"]).failed(3);
    assert!(again.contains("error: already_opened") && again.contains("by bob"), "{again}");
    assert!(!bob.work().join("again.txt").exists());
    assert!(bob.run(["open", &slip, "-o", "secret.txt"]).failed(18).contains("nothing is overwritten"));
    let inspected = alice.run(["wrap", "inspect", &slip]).ok();
    assert!(inspected.contains("acked") && inspected.contains("bob"), "{inspected}");
}

/// A second claim while the first is open: what somebody meets who opens with a stolen key after the holder did.
fn second_claim(alice: &Cli, bob: &mut Cli) {
    let slip = alice.run_with(["wrap", "create", "--to", "bob", "-"], b"for bob alone").ok();
    // The first opener has the content but cannot hand it on, so it is not acknowledged.
    let held = bob.run(["open", &slip, "--field", "none"]).failed(1);
    assert!(held.contains("open it again"), "{held}");
    let mut thief = Cli::new(bulla!());
    let key = thief.file("stolen.key", &std::fs::read(bob.work().join("bob.key")).unwrap());
    set_private(&key);
    thief.env("BULLA_IDENTITY", &key);
    let context = bob.run(["context", "show", "-o", "json"]).ok();
    let text = |name: &str| {
        let (_, rest) = context.split_once(&format!("\"{name}\": \"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    thief.run(["context", "add", "test", &text("address"), "--cluster", &text("cluster")]).ok();
    let refused = thief.run(["open", &slip]).failed(3);
    assert!(
        refused.contains("error: already_opened") && refused.contains("opened 2") && refused.contains("by bob"),
        "{refused}"
    );
    // The holder goes on with the claim that was begun, and is warned.
    let output = bob.run(["open", &slip]);
    assert_eq!(output.ok(), "for bob alone");
    assert!(output.errors().contains("bulla alarms"), "{}", output.errors());
    assert!(bob.run(["alarms", "--seen"]).ok().contains("second_claim"));
    assert_eq!(bob.run(["alarms"]).ok(), "");
}

fn set_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_secret_opens_once_on_a_transient_server_with_one_admin() {
    let (alice, alice_record) = person("alice");
    let (mut bob, bob_record) = person("bob");
    let (mut mallory, mallory_record) = person("mallory");
    let server = Server::start(Options::transient(bulla!()).admin(&alice_record));
    let uninitialised = alice.run(["status", "--addr", server.address()]);
    assert_eq!(uninitialised.code, 17, "{}", uninitialised.errors());
    init(&server, &[(&alice, &alice_record)], &[], &[&mut bob, &mut mallory]);
    assert_eq!(alice.run(["status"]).code, 2);
    // Nobody can be asked here, and a first share is an approval.
    assert!(alice.run(["unseal"]).failed(64).contains("--yes"));
    assert!(alice.run(["unseal", "--yes"]).ok().contains("unsealed"));
    assert_eq!(alice.run(["status"]).code, 0);
    let secret = Canary::text("secret");
    deliver(&alice, &bob, &bob_record, &mallory, &mallory_record, &secret);
    second_claim(&alice, &mut bob);
    let opened = alice.run(["audit", "show", "--principal", "bob", "--action", "wrap.open"]).ok();
    assert!(opened.lines().count() >= 3 && opened.lines().all(|line| line.contains("bob  wrap.open")), "{opened}");
    assert!(opened.contains("200") && opened.contains("409 already_opened"), "{opened}");
    canary::assert_absent(&[secret], [server.directory(), alice.home().join(".local").as_path()]);
}

#[test]
fn a_secret_opens_once_on_a_durable_server_with_two_of_three_admins() {
    let (alice, alice_record) = person("alice");
    let (carol, carol_record) = person("carol");
    let (dave, dave_record) = person("dave");
    let (mut bob, bob_record) = person("bob");
    let (mut mallory, mallory_record) = person("mallory");
    let mut server = Server::start(Options::durable(bulla!()).admin(&alice_record));
    let admins = [(&alice, &alice_record), (&carol, &carol_record), (&dave, &dave_record)];
    let cluster = init(&server, &admins, &["-k", "2"], &[&mut bob, &mut mallory]);
    assert!(alice.run(["unseal", "--yes"]).ok().contains("share given: 1 of 2"));
    assert_eq!(alice.run(["status"]).code, 2);
    assert!(carol.run(["unseal", "--yes"]).ok().starts_with("unsealed"));
    let secret = Canary::text("secret");
    deliver(&alice, &bob, &bob_record, &mallory, &mallory_record, &secret);

    // Over a restart: sealed, then two other admins, and what was opened stays opened.
    let slip = alice.run_with(["wrap", "create", "--to", "bob", "--label", "later", "key=-"], b"value").ok();
    let code = server.stop().code();
    assert_eq!(code, Some(0), "{}", server.log());
    server.restart();
    for cli in [&alice, &carol, &dave, &bob] {
        cli.run(["context", "remove", "test"]).ok();
        cli.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
    }
    let sealed = bob.run(["open", &slip]).failed(2);
    assert!(sealed.contains("hint: k admins run `bulla unseal`"), "{sealed}");
    dave.run(["unseal", "--yes"]).ok();
    carol.run(["unseal"]).ok();
    assert_eq!(bob.run(["open", &slip, "--field", "key"]).ok(), "value");
    bob.run(["open", &slip]).failed(3);
    canary::assert_absent(&[secret], [server.directory(), alice.home().join(".local").as_path()]);
    let report = alice.run(["audit", "verify", "--file", server.audit().to_str().unwrap(), "--whole"]).ok();
    assert!(report.ends_with("sound"), "{report}");
}

/// Without listed admins the cluster is made over the local socket, with an SSH key as it is; then a key is rotated,
/// and what was wrapped to the old one is opened with the new.
#[test]
fn an_ssh_key_makes_the_cluster_over_the_socket_and_keys_are_rotated() {
    let mut alice = Cli::new(bulla!());
    let key = alice.work().join("id_ed25519");
    let args = ["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()];
    if bulla_testkit::tools::find("ssh-keygen").is_none() {
        bulla_testkit::skip!("an_ssh_key_makes_the_cluster_over_the_socket_and_keys_are_rotated", "needs ssh-keygen");
    }
    alice.run_program(Path::new("ssh-keygen"), args, b"").ok();
    alice.run(["keygen", "--from", "id_ed25519", "--name", "alice"]).ok();
    alice.env("BULLA_IDENTITY", &key);
    let (mut bob, bob_record) = person("bob");
    let server = Server::start(Options::durable(bulla!()));
    let ready = server.directory().join("ready-1.json");
    let socket = server.data().join("bulla.sock");
    let init = ["init", "--name", "test", "--admin", "alice.pub", "--save-context", "test"];
    // Nobody is listed, so nobody may over the network.
    let over_network = init.iter().copied().chain(["--classical", "--ready-file", ready.to_str().unwrap()]);
    assert!(alice.run(over_network).failed(13).contains("error: "));
    let over_socket = || init.iter().copied().chain(["--socket", socket.to_str().unwrap()]);
    assert!(alice.run(over_socket()).failed(1).contains("--classical"));
    alice.run(over_socket().chain(["--classical"])).ok();
    alice.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob_record.to_str().unwrap(), "--group", "dev"]).ok();
    let cluster = alice.run(["context", "show"]).ok();
    let cluster = cluster.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
    bob.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
    let before = alice.run_with(["wrap", "create", "-q", "--to", "bob", "-"], b"before").ok();
    let raw = alice.run_with(["wrap", "create", "-q", "--to", "bob", "-"], b"before").ok();
    let two_lines = ["wrap", "create", "--to", "bob", "--label", "a\nproof  yes", "-"];
    assert!(alice.run_with(two_lines, b"x").failed(64).contains("one line"));

    bob.run(["keygen", "-q", "-o", "new.key", "--name", "bob"]).ok();
    bob.run(["principal", "rotate", "new.key", "-o", "bob-2.pub"]).ok();
    let next = bob.work().join("bob-2.pub");
    let admitted = alice.run(["principal", "add", next.to_str().unwrap()]).ok();
    assert!(admitted.contains("version 2") && admitted.contains("dev"), "groups stay: {admitted}");
    bob.run(["whoami"]).failed(14);
    let old = bob.work().join("bob.key");
    let new = bob.work().join("new.key");
    bob.env("BULLA_IDENTITY", &new);
    assert!(bob.run(["whoami"]).ok().contains("version 2"));
    let after = alice.run_with(["wrap", "create", "-q", "--to", "bob", "-"], b"after").ok();
    assert_eq!(bob.run(["open", &after]).ok(), "after");
    // The old wraps are for the old key. That is told before they are claimed, since bad deliveries are final.
    let refused = bob.run(["open", &before]).failed(1);
    assert!(refused.contains("nothing was opened") && refused.contains("--old-identity FILE"), "{refused}");
    let inspected = bob.run(["wrap", "inspect", &before]).ok();
    assert!(inspected.contains("sealed") && !inspected.contains("opened"), "{inspected}");
    let new_alone = ["open", &before, "--old-identity", new.to_str().unwrap()];
    assert!(bob.run(new_alone).failed(1).contains("nothing was opened"));
    let (new_key, old_key) = (new.to_str().unwrap(), old.to_str().unwrap());
    let both = ["open", &before, "--old-identity", new_key, "--old-identity", old_key];
    assert_eq!(bob.run(both).ok(), "before");
    assert!(alice.run(["wrap", "inspect", &before]).ok().contains("acked"));
    // Or it is handed out as it is, and age opens it.
    bob.run(["open", &raw, "--raw", "-o", "before.age"]).ok();
    assert!(std::fs::read(bob.work().join("before.age")).unwrap().starts_with(b"age-encryption.org/v1"));
    if let Some(age) = bulla_testkit::tools::age() {
        let opened = bob.run_program(&age, ["-d", "-i", old.to_str().unwrap(), "before.age"], b"");
        assert_eq!(opened.ok(), "before");
    }
    // Whoever has only the documents could not judge Bob's second record.
    let late = alice.run(["enroller", "add", "bob"]).failed(18);
    assert!(late.contains("version 2") && late.contains("hint: make an enroller before"), "{late}");
    let proposed = alice.run(["document", "propose", "--add-enroller", "bob", "-o", "d.json"]).failed(18);
    assert!(proposed.contains("version 2") && !alice.work().join("d.json").exists(), "{proposed}");
}

/// An SSH key that was replaced twice still opens what was wrapped to it, and nothing is lost by trying without it.
#[test]
fn an_ssh_key_of_before_opens_what_was_wrapped_to_it() {
    let mut bob = Cli::new(bulla!());
    if bulla_testkit::tools::find("ssh-keygen").is_none() {
        bulla_testkit::skip!("an_ssh_key_of_before_opens_what_was_wrapped_to_it", "needs ssh-keygen");
    }
    bob.run_program(Path::new("ssh-keygen"), ["-q", "-t", "ed25519", "-N", "", "-f", "id_ed25519"], b"").ok();
    bob.run(["keygen", "--from", "id_ed25519", "--name", "bob"]).ok();
    bob.env("BULLA_IDENTITY", bob.work().join("id_ed25519"));
    let mut alice = Cli::new(bulla!());
    alice.run(["keygen", "-q", "--classical", "-o", "alice.key"]).ok();
    alice.env("BULLA_IDENTITY", alice.work().join("alice.key"));
    let record = alice.work().join("alice.pub");
    let server = Server::start(Options::transient(bulla!()).admin(&record));
    init(&server, &[(&alice, &record)], &["--classical"], &[&mut bob]);
    alice.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob.work().join("bob.pub").to_str().unwrap()]).ok();
    let slip = alice.run_with(["wrap", "create", "-q", "--to", "bob", "-"], b"before").ok();
    for version in ["2", "3"] {
        let (key, next) = (format!("bob-{version}.key"), format!("bob-{version}.pub"));
        bob.run(["keygen", "-q", "--classical", "-o", &key, "--name", "bob"]).ok();
        // The record of keygen is of version 1; the next version takes its place.
        std::fs::remove_file(bob.work().join(&next)).unwrap();
        bob.run(["principal", "rotate", &key, "-o", &next]).ok();
        alice.run(["principal", "add", bob.work().join(&next).to_str().unwrap()]).ok();
        bob.env("BULLA_IDENTITY", bob.work().join(&key));
    }
    assert!(alice.run(["enroller", "add", "bob"]).failed(18).contains("version 3"));
    let propose =
        |record: &Path| alice.run(["document", "propose", "--renew", record.to_str().unwrap(), "-o", "d.json"]);
    assert!(propose(&bob.work().join("bob.pub")).failed(5).contains("neither"));
    assert!(propose(&record).failed(18).contains("this record of alice already"));
    assert!(bob.run(["whoami"]).ok().contains("version 3"));
    assert!(bob.run(["open", &slip]).failed(1).contains("nothing was opened"));
    assert_eq!(bob.run(["open", &slip, "--old-identity", "id_ed25519"]).ok(), "before");
}

/// Two admins sign a document, one of them without a network; a third cannot do it alone.
#[test]
fn an_enroller_is_made_by_two_of_two_admins() {
    let (alice, alice_record) = person("alice");
    let (carol, carol_record) = person("carol");
    let (mut bob, bob_record) = person("bob");
    let (_dave, dave_record) = person("dave");
    let server = Server::start(Options::transient(bulla!()).admin(&alice_record));
    let admins = [(&alice, &alice_record), (&carol, &carol_record)];
    init(&server, &admins, &["-k", "2"], &[&mut bob]);
    alice.run(["unseal", "--yes"]).ok();
    carol.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob_record.to_str().unwrap()]).ok();
    alice.run(["enroller", "add", "bob", "-o", "document.json"]).ok();
    let submit = alice.run(["document", "submit", "document.json"]).failed(1);
    assert!(submit.contains("1 admins signed, 2 are needed"), "{submit}");
    let document = std::fs::read(alice.work().join("document.json")).unwrap();
    carol.file("document.json", &document);
    let shown = carol.run(["document", "sign", "document.json"]).failed(64);
    assert!(shown.contains("enroller  bob"), "{shown}");
    carol.run(["document", "sign", "document.json", "--yes", "--addr", "127.0.0.1:1"]).ok();
    carol.run(["document", "submit", "document.json"]).ok();
    assert!(bob.run(["whoami"]).ok().contains("enroller"));
    // An enroller admits only where policy lets it too.
    bob.run(["principal", "add", dave_record.to_str().unwrap()]).failed(13);
}

/// Who was admitted by an enroller that is removed is void, but for those whom somebody admits again by name.
#[test]
fn a_removed_enroller_takes_its_admissions_along() {
    let (alice, alice_record) = person("alice");
    let (mut erin, erin_record) = person("erin");
    let server = Server::start(Options::transient(bulla!()).admin(&alice_record));
    let mut people: Vec<(Cli, PathBuf)> = ["bob", "dave", "frank"].map(person).into();
    init(&server, &[(&alice, &alice_record)], &[], &[&mut erin]);
    let cluster = alice.run(["context", "show", "-o", "json"]).ok();
    let cluster = cluster.split_once("\"cluster\": \"").unwrap().1.split_once('"').unwrap().0.to_owned();
    alice.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", erin_record.to_str().unwrap(), "--group", "enrol"]).ok();
    alice.run(["enroller", "add", "erin"]).ok();
    let text = "permit (principal in Bulla::Group::\"enrol\", action == Bulla::Action::\"principal.put\", resource);";
    alice.file("enrol.cedar", text.as_bytes());
    alice.run(["policy", "put", "enrol", "enrol.cedar"]).ok();
    for (cli, record) in &people {
        cli.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
        erin.run(["principal", "add", record.to_str().unwrap(), "--group", "dev"]).ok();
        cli.run(["whoami"]).ok();
    }
    let unknown = alice.run(["enroller", "remove", "erin", "--readmit", "alice"]).failed(5);
    assert!(unknown.contains("alice is not among those"), "{unknown}");
    let removed = alice.run(["enroller", "remove", "erin", "--readmit", "dave"]);
    removed.ok();
    let told = removed.errors();
    assert!(told.contains("dave is admitted by you now"), "{told}");
    assert!(told.contains("bob is void once") && told.contains("frank is void once"), "{told}");
    let listed = alice.run(["principal", "list"]).ok();
    let state = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(state("bob").contains("void") && state("frank").contains("void"), "{listed}");
    assert!(state("dave").contains("enabled") && state("erin").contains("enabled"), "{listed}");
    let shown = alice.run(["principal", "show", "bob"]).failed(4);
    assert!(shown.contains("bob is void") && shown.contains("hint: its keys are refused until"), "{shown}");
    let [(bob, bob_record), (dave, _), (frank, _)] = &mut people[..] else { unreachable!("three people") };
    bob.run(["whoami"]).failed(14);
    frank.run(["whoami"]).failed(14);
    assert!(dave.run(["whoami"]).ok().contains("dev"));
    alice.run(["wrap", "create", "--to", "bob", "enrol.cedar"]).failed(4);
    // Void is not for ever, and does not stand in the way of the next removal.
    let added = alice.run(["principal", "add", bob_record.to_str().unwrap()]);
    added.ok();
    assert!(added.errors().contains("warning: bob is void, so its groups"), "{}", added.errors());
    bob.run(["whoami"]).ok();
    alice.run(["enroller", "add", "erin"]).ok();
    frank.run(["whoami"]).ok();
    let removed = alice.run(["enroller", "remove", "erin", "--readmit-all"]);
    assert!(removed.errors().contains("frank is admitted by you now"), "{}", removed.errors());
    assert!(frank.run(["whoami"]).ok().contains("dev"));
}

/// After a restore without node.key the server has a new key, and nobody believes it until k admins take it in.
#[test]
fn a_new_node_key_enters_by_a_document_before_the_unseal() {
    let (alice, alice_record) = person("alice");
    let (carol, carol_record) = person("carol");
    let (dave, dave_record) = person("dave");
    let (mut bob, bob_record) = person("bob");
    let mut server = Server::start(Options::durable(bulla!()).admin(&alice_record));
    let admins = [(&alice, &alice_record), (&carol, &carol_record), (&dave, &dave_record)];
    let cluster = init(&server, &admins, &["-k", "2"], &[&mut bob]);
    alice.run(["unseal", "--yes"]).ok();
    carol.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob_record.to_str().unwrap()]).ok();
    let slip = alice.run_with(["wrap", "create", "--to", "bob", "--label", "before", "key=-"], b"value").ok();
    assert!(!server.log().contains("--add-node"), "{}", server.log());
    server.keep_address();
    server.stop();
    let old = server.node().to_owned();
    std::fs::remove_file(server.data().join("node.key")).unwrap();
    server.restart();
    let spki = server.ready().spki.clone();
    assert_ne!(server.node(), old);
    let command = format!("bulla document propose --add-node {spki} --retire-node {old} -o FILE");
    assert!(server.log().contains(&command), "{}", server.log());

    // Everybody refuses it, whatever they remember, and status says what to do without naming a key.
    let (mut newcomer, _) = person("newcomer");
    newcomer.env("BULLA_CLUSTER", &cluster).env("BULLA_ADDR", server.address());
    for (cli, command) in [(&alice, "status"), (&bob, "whoami"), (&carol, "unseal"), (&newcomer, "status")] {
        let refused = cli.run([command]).failed(4);
        assert!(refused.contains("no document names"), "{command}: {refused}");
        assert_eq!(refused.contains("--add-node SPKI"), command == "status", "{command}: {refused}");
        assert!(!refused.contains(&spki), "{refused}");
    }

    // Alice proposes without a network: she knows the documents. One admin is not enough.
    let propose = ["document", "propose", "--add-node", &spki, "--retire-node", &old, "-o", "node.json"];
    let bad = ["document", "propose", "--add-node", server.node(), "-o", "node.json"];
    assert!(alice.run(bad).failed(64).contains("add-node"));
    alice.run(propose.iter().copied().chain(["--addr", "127.0.0.1:1"])).ok();
    assert!(alice.run(["document", "submit", "node.json"]).failed(1).contains("1 admins signed, 2 are needed"));
    dave.file("node.json", &std::fs::read(alice.work().join("node.json")).unwrap());
    let shown = dave.run(["document", "sign", "node.json"]).failed(64);
    assert!(shown.contains(server.node()) && shown.contains("retired"), "{shown}");
    dave.run(["document", "sign", "node.json", "--yes"]).ok();
    dave.run(["document", "submit", "node.json"]).ok();
    // Again is no mistake, and the key is in.
    dave.run(["document", "submit", "node.json"]).ok();
    let twice = ["document", "propose", "--add-node", &spki, "-o", "again.json"];
    assert!(alice.run(twice).failed(18).contains("already"));

    assert!(carol.run(["unseal"]).ok().contains("1 of 2"));
    assert!(dave.run(["unseal", "--yes"]).ok().starts_with("unsealed"));
    assert_eq!(bob.run(["open", &slip, "--field", "key"]).ok(), "value");
    assert!(newcomer.run(["status"]).ok().contains(server.node()));
    // What the old node signed stays proof.
    bob.run(["receipt", "save", &slip, "-o", "proof.json"]).ok();
    bob.run(["receipt", "verify", "proof.json"]).ok();
    server.restart();
    assert!(!server.log().contains("--add-node"), "{}", server.log());
    let report = alice.run(["audit", "verify", "--file", server.audit().to_str().unwrap(), "--whole"]).ok();
    assert!(report.ends_with("sound"), "{report}");
}

/// A data directory without a store in it keeps no records, and the status says so. A log in JSON is JSON to the last line.
#[test]
fn a_store_in_memory_says_so_in_a_log_of_events() {
    let (alice, record) = person("alice");
    let mut options = Options::durable(bulla!()).admin(&record);
    for arg in ["--store", "memory", "--log-format", "json", "--metrics-listen", "127.0.0.1:0"] {
        options = options.arg(arg);
    }
    let mut server = Server::start(options);
    let status = alice.run(["status", "--addr", server.address()]);
    assert!(status.text().contains("none over a restart"), "{}{}", status.text(), status.errors());
    server.stop();
    let events: Vec<serde_json::Value> =
        server.log().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
    let told = |message: &str| events.iter().find(|event| event["fields"]["message"] == message).unwrap();
    assert_eq!(told("listens")["fields"]["address"], server.address());
    assert!(told("metrics")["fields"]["url"].as_str().unwrap().ends_with("/metrics"));
}

/// `bulla … | head -1` is no failure, whatever the command; it ends as it would have ended. A slip that nobody has is one.
#[test]
fn a_reader_that_goes_away_has_read_enough() {
    let (alice, record) = person("alice");
    let server = Server::start(Options::transient(bulla!()).admin(&record));
    init(&server, &[(&alice, &record)], &["--any"], &[]);
    assert_eq!(alice.run_unread(["status"]).failed(2), "");
    alice.run(["unseal", "--yes"]).ok();
    alice.file("kv.cedar", b"permit (principal, action in Bulla::Action::\"kv\", resource);\n");
    alice.run(["policy", "put", "kv", "kv.cedar"]).ok();
    alice.run(["kv", "put", "app/db", "user=app", "password=secret"]).ok();
    let slip = alice.run(["wrap", "create", "-q", "--to", "alice", "k=v"]).ok();
    for line in [
        "version",
        "--help",
        "--version",
        "wrap --help",
        "completions bash",
        "openapi",
        "context list",
        "status",
        "whoami",
        "principal list",
        "policy list",
        "enroller list",
        "document show",
        "seal status",
        "wrap list",
        "wrap list -o json",
        &format!("wrap inspect {slip}"),
        "kv list",
        "kv get app/db -q",
        "audit show",
        "alarms",
        "curl GET /v1/whoami",
    ] {
        let words = line.split(' ');
        let read = alice.run(words.clone());
        assert!(read.code == 0 && (!read.stdout.is_empty() || line == "alarms"), "{line}: {}", read.errors());
        assert_eq!(alice.run_unread(words).failed(0), read.errors(), "{line}");
    }
    for args in
        [&["wrap", "create", "--to", "alice", "k=v"][..], &["wrap", "create", "--to", "alice", "k=v", "-o", "json"]]
    {
        let told = alice.run_unread(args).failed(1);
        assert!(told.contains("nobody read its slip") && told.contains("`bulla wrap list`"), "{told}");
    }
    assert_eq!(alice.run(["wrap", "list"]).ok().lines().count(), 4);
    // Content is no listing: what was not handed on was not opened here.
    let told = alice.run_unread(["open", &slip]).failed(1);
    assert!(told.contains("-o FILE"), "{told}");
    assert_eq!(alice.run(["open", &slip, "-q"]).ok(), "{\"k\":\"v\"}");
}

/// How many processes wait for a turn at a claim beneath `folder`, as the kernel tells.
fn waiting(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => waiting(&entry.path()),
        Ok(metadata) if entry.path().extension().is_some_and(|extension| extension == "turn") => {
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            let inode = format!(":{} ", metadata.ino());
            locks.lines().filter(|line| line.contains("-> ") && line.contains(&inode)).count()
        }
        _ => 0,
    };
    entries.flatten().map(count).sum()
}

/// Two processes of one person open one slip at once: the second waits for the first, and claims nothing anew.
#[test]
fn two_at_once_on_one_machine_raise_no_alarm() {
    let (alice, alice_record) = person("alice");
    let (mut bob, bob_record) = person("bob");
    let server = Server::start(Options::transient(bulla!()).admin(&alice_record));
    init(&server, &[(&alice, &alice_record)], &[], &[&mut bob]);
    alice.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob_record.to_str().unwrap()]).ok();
    // More than a pipe holds, so that the first stands in the middle until somebody reads.
    let content = vec![b'x'; 300_000];
    alice.file("large", &content);
    let slip = alice.run(["wrap", "create", "--to", "bob", "large"]).ok();
    let (mut reader, writer) = std::io::pipe().unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| bob.run_into(["open", &slip], writer));
        let mut read = vec![0];
        reader.read_exact(&mut read).unwrap();
        let second = scope.spawn(|| bob.run(["open", &slip, "-o", "second"]));
        let third = scope.spawn(|| bob.run(["wrap", "nack", &slip]));
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while waiting(&bob.home().join(".local")) < 2 {
            assert!(!second.is_finished() && !third.is_finished() && std::time::Instant::now() < until, "they wait");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        reader.read_to_end(&mut read).unwrap();
        assert!(read == content);
        first.join().unwrap().ok();
        let told = second.join().unwrap().failed(1);
        assert!(told.contains("another process on this machine") && told.contains("hint: look there"), "{told}");
        assert!(third.join().unwrap().failed(8).contains("acked"));
    });
    assert!(!bob.work().join("second").exists());
    let alarms = bob.run(["alarms"]).ok();
    assert!(!alarms.contains("second_claim"), "{alarms}");
    assert!(alice.run(["wrap", "inspect", &slip]).ok().contains("acked"));
}

/// What a command needs is told as the policy that an admin then puts, and asking does nothing.
#[test]
fn a_command_tells_the_policy_that_it_needs() {
    let (alice, alice_record) = person("alice");
    let (mut bob, bob_record) = person("bob");
    let server = Server::start(Options::transient(bulla!()).admin(&alice_record));
    init(&server, &[(&alice, &alice_record)], &["--any"], &[&mut bob]);
    alice.run(["unseal", "--yes"]).ok();
    alice.run(["principal", "add", bob_record.to_str().unwrap()]).ok();

    let put = ["kv", "put", "app/db", "password=x"];
    bob.run(put).failed(13);
    let told = bob.run([&put[..], &["--output-policy"]].concat());
    let policy = told.ok();
    assert!(
        policy.starts_with("permit (\n") && policy.contains("\"kv.put\"") && policy.contains("\"app/db\""),
        "{policy}"
    );
    assert!(told.errors().contains("bob needs this"), "{}", told.errors());
    bob.run(put).failed(13);
    alice.file("bob.cedar", policy.as_bytes());
    alice.run(["policy", "put", "bob", "bob.cedar"]).ok();
    // Even what one may do is only told.
    bob.run([&put[..], &["--output-policy"]].concat()).ok();
    let get = bob.run(["--output-policy", "kv", "get", "app/db"]).ok();
    assert!(get.contains("\"kv.get\""), "{get}");
    alice.file("get.cedar", get.as_bytes());
    alice.run(["policy", "put", "get", "get.cedar"]).ok();
    bob.run(["kv", "get", "app/db"]).failed(5);
    bob.run(put).ok();
    assert_eq!(bob.run(["kv", "get", "app/db", "--field", "password"]).ok(), "x");
    // It is the policy for one path and one person.
    bob.run(["kv", "put", "app/other", "password=x"]).failed(13);
    // What is on the way to everything is done, and needs no word.
    assert!(bob.run(["whoami", "--output-policy"]).ok().contains("bob"));
    let slip = bob.run_with(["wrap", "create", "--to", "alice", "-", "--output-policy"], b"one").ok();
    assert!(slip.contains("\"wrap.create\"") && slip.contains("Bulla::Wrap::\"\""), "{slip}");
    assert_eq!(bob.run(["wrap", "list", "-q"]).ok(), "");
    // What no policy gives is not done either, nor what asks nobody.
    alice.run(["seal"]).ok();
    assert!(alice.run(["unseal", "--yes", "--output-policy"]).failed(64).contains("no policy gives"));
    assert_eq!(alice.run(["status"]).code, 2);
    assert!(alice.run(["keygen", "-o", "more.key", "--output-policy"]).failed(64).contains("asks no server"));
    for signs in [
        &["seal", "consent", "sign", "--yes", "x.json"][..],
        &["document", "sign", "--yes", "x.json"],
        &["policy", "recover", "sign", "--yes", "all.json", "x.json"],
    ] {
        assert!(alice.run([signs, &["--output-policy"]].concat()).failed(64).contains("asks no server"), "{signs:?}");
    }
    assert!(!alice.work().join("more.key").exists());
}
