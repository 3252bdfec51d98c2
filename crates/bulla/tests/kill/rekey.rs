//! Killed in a rekey: what stands then is the seal of before or the seal of after, with everything that was in the
//! store, and the same document can be put again.

use super::{LIFE, SIGABRT, VARIABLE};
use bulla_server::failpoint::{REKEY_AFTER_COMMIT, REKEY_BEFORE_COMMIT};
use bulla_testkit::{Cli, Options, Server, bulla};
use std::os::unix::process::ExitStatusExt as _;

/// The points that end a server here.
pub const POINTS: [&str; 2] = [REKEY_BEFORE_COMMIT, REKEY_AFTER_COMMIT];

/// Deaths at each point.
const RUNS: usize = 5;

#[test]
fn a_server_killed_in_a_rekey_has_one_seal() {
    for _ in 0..RUNS {
        // Two at once, as there are two points.
        std::thread::scope(|scope| {
            scope.spawn(|| one(REKEY_BEFORE_COMMIT, false));
            scope.spawn(|| one(REKEY_AFTER_COMMIT, true));
        });
    }
}

/// Ben's share goes to Dan, and the server dies of it.
fn one(point: &str, rekeyed: bool) {
    let mut people = ["ann", "ben", "cat", "dan"].map(|name| {
        let mut cli = Cli::new(bulla!());
        cli.run(["keygen", "-q", "-o", &format!("{name}.key")]).ok();
        cli.env("BULLA_IDENTITY", cli.work().join(format!("{name}.key")));
        cli
    });
    let record = |cli: &Cli, name: &str| cli.work().join(format!("{name}.pub")).to_str().unwrap().to_owned();
    let options = Options::durable(bulla!()).admin(people[0].work().join("ann.pub")).env(VARIABLE, point);
    let mut server = Server::start(options);
    let ready = server.directory().join("ready-1.json");
    let document = server.directory().join("document.json").to_str().unwrap().to_owned();
    {
        let [ann, ben, cat, dan] = &people;
        let records = [record(ann, "ann"), record(ben, "ben"), record(cat, "cat")];
        let mut init = vec!["init", "--name", "test", "-k", "2", "--ready-file", ready.to_str().unwrap()];
        records.iter().for_each(|record| init.extend(["--admin", record]));
        let made = ann.run([&init[..], &["--save-context", "test"]].concat()).ok();
        let cluster = made.lines().find_map(|line| line.strip_prefix("cluster")).unwrap().trim().to_owned();
        for cli in [ben, cat, dan] {
            cli.run(["context", "add", "test", server.address(), "--cluster", &cluster]).ok();
        }
        ann.run(["unseal", "--yes"]).ok();
        ben.run(["unseal", "--yes"]).ok();
        let dan = record(dan, "dan");
        ann.run(["document", "propose", "--remove-admin", "ben", "--add-admin", &dan, "-o", &document]).ok();
        cat.run(["document", "sign", "--yes", &document]).ok();
    }
    let slip = people[0].run_with(["wrap", "create", "-q", "--to", "cat", "-"], b"before the death").ok();
    let lost = people[2].run(["document", "submit", &document, "--timeout", "2s"]);
    assert_ne!(lost.code, 0, "{}", lost.errors());
    let status = server.wait(LIFE);
    assert_eq!(status.signal(), Some(SIGABRT), "{status}:\n{}", server.log());
    assert!(server.log().contains(&format!("failpoint {point}: abort")), "{}", server.log());

    server.options_mut().without_env(VARIABLE);
    server.restart();
    for cli in &mut people {
        cli.env("BULLA_ADDR", server.address());
    }
    let [ann, ben, cat, dan] = &people;
    let (out, second) = if rekeyed { (ben, dan) } else { (dan, ben) };
    assert_ne!(out.run(["unseal", "--yes"]).code, 0, "{point}: who holds no share gives none");
    ann.run(["unseal", "--yes"]).ok();
    assert!(second.run(["unseal", "--yes"]).ok().contains("unsealed"), "{point}");
    assert_eq!(cat.run(["open", &slip]).ok(), "before the death");
    cat.run(["document", "submit", &document]).ok();
    assert!(dan.run(["whoami"]).ok().contains("admin"), "{point}");
    let report = ann.run(["audit", "verify", "--file", server.audit().to_str().unwrap(), "--whole"]).ok();
    assert!(report.ends_with("sound"), "{report}");
}
