//! The first policy set as a matrix, the examples of `spec/policy.md`, and what a failed statement does.

#![expect(clippy::unwrap_used, reason = "a test")]

use bulla_core::action::{Action, Resource};
use bulla_core::policy::exempt::SealRight;
use bulla_core::policy::{Authorized, Decision, PolicySet, Subject, first_texts};
use bulla_wire::id::{LeaseId, PrincipalId, WrapId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

fn subject(name: &str, groups: &[&str], attributes: &[(&str, &str)]) -> Subject {
    Subject {
        id: PrincipalId::new([u8::try_from(name.len()).unwrap(); 32]),
        name: name.parse().unwrap(),
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        attributes: attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

fn set(policies: &[(&str, &str)]) -> PolicySet {
    let texts = policies.iter().map(|(name, text)| (name.parse().unwrap(), (*text).to_owned())).collect();
    PolicySet::parse(&texts).unwrap()
}

fn ask(set: &PolicySet, subject: &Subject, action: &str, resource: &str) -> Decision {
    set.decide(subject, action.parse().unwrap(), &resource.parse().unwrap())
}

fn allowed(set: &PolicySet, subject: &Subject, action: &str, resource: &str) -> bool {
    ask(set, subject, action, resource).allowed
}

/// Something that the action can be done to.
fn fitting(action: Action) -> Resource {
    match action {
        Action::SealStatus
        | Action::SealSeal
        | Action::SealClock
        | Action::SealRekey
        | Action::SealSession
        | Action::SealKey
        | Action::SealShare
        | Action::SealConsent => Resource::Seal,
        Action::ClusterInit | Action::DocumentPut | Action::SnapshotSave => Resource::Cluster,
        Action::PrincipalList => Resource::Principals,
        Action::PrincipalRead | Action::PrincipalPut | Action::PrincipalDisable | Action::PrincipalEnable => {
            Resource::Principal("bob".parse().unwrap())
        }
        Action::PolicyList | Action::PolicyCheck | Action::PolicyExplain | Action::PolicyRecover => Resource::Policies,
        Action::PolicyRead | Action::PolicyPut | Action::PolicyDelete => Resource::Policy("team".parse().unwrap()),
        Action::AuditRead => Resource::Audit,
        Action::AlarmRead => Resource::Alarms,
        Action::SelfRead => Resource::Own,
        Action::WrapList => Resource::Wraps,
        Action::WrapCreate
        | Action::WrapInspect
        | Action::WrapOpen
        | Action::WrapAck
        | Action::WrapNack
        | Action::WrapRevoke
        | Action::WrapRelease => Resource::Wrap(WrapId::new([0; 16])),
        Action::KvGet
        | Action::KvPut
        | Action::KvList
        | Action::KvWatch
        | Action::KvInspect
        | Action::KvConfigure
        | Action::KvDelete
        | Action::KvUndelete
        | Action::KvDestroy => Resource::Kv("app/db".parse().unwrap()),
        Action::TransitList => Resource::Transits,
        Action::TransitRead
        | Action::TransitCreate
        | Action::TransitImport
        | Action::TransitRestore
        | Action::TransitRotate
        | Action::TransitConfigure
        | Action::TransitDelete
        | Action::TransitExport
        | Action::TransitBackup
        | Action::TransitEncrypt
        | Action::TransitDecrypt
        | Action::TransitRewrap
        | Action::TransitDatakey
        | Action::TransitDatakeyWrapped
        | Action::TransitSign
        | Action::TransitVerify
        | Action::TransitHmac => Resource::Transit("orders".parse().unwrap()),
        Action::DatabaseList => Resource::Databases,
        Action::DatabaseRead | Action::DatabaseDelete | Action::DatabaseRotate => {
            Resource::Database("app".parse().unwrap())
        }
        Action::DatabaseConfigure | Action::DatabaseIssue | Action::DatabaseStaticCreds => {
            Resource::DatabaseRole("app/reader".parse().unwrap())
        }
        Action::LeaseList | Action::LeaseManage => Resource::Leases,
        Action::LeaseRead | Action::LeaseRenew | Action::LeaseRevoke => Resource::Lease(LeaseId::new([0; 16])),
    }
}

/// Whoever writes policies looks the verbs up there.
#[test]
fn the_specification_lists_every_action() {
    let page = include_str!("../../../spec/policy.md");
    let table = page.split("| group | verbs |").nth(1).unwrap().split("\n\n").next().unwrap();
    let (mut group, mut listed) = (String::new(), BTreeSet::new());
    for row in table.lines().skip(2) {
        let quoted = |cell: usize| row.split('|').nth(cell).unwrap().split('`').skip(1).step_by(2);
        group = quoted(1).next().map_or(group, str::to_owned);
        for verb in quoted(2) {
            assert!(listed.insert(format!("{group}.{verb}")), "{group}.{verb} stands there twice");
        }
    }
    let asked = Action::ALL.iter().filter(|action| action.asks_policy());
    assert_eq!(listed, asked.map(ToString::to_string).collect());
}

/// Regenerated with `BULLA_BLESS=1`; every change of it is a change of who may do what.
#[test]
fn authorization_matrix() {
    let first = PolicySet::first().unwrap();
    let callers =
        [subject("admin", &["admins"], &[]), subject("enroller", &["enrollers"], &[]), subject("plain", &[], &[])];
    let mut matrix = "# Who may do what under the first policy set (spec/policy/first.cedar).\n\
                      # seal: a right of the seal's admins, which no policy grants.\n\n"
        .to_owned();
    writeln!(matrix, "{:<25}{:<33}{:<10}{:<10}plain", "action", "resource", "admin", "enroller").unwrap();
    for action in Action::ALL {
        let resource = fitting(*action);
        write!(matrix, "{:<25}{:<33}", action.as_str(), resource.to_string()).unwrap();
        let marks = callers.iter().map(|caller| {
            let decision = first.decide(caller, *action, &resource);
            assert_eq!(decision.errors.is_empty(), action.asks_policy());
            match (action.asks_policy(), decision.allowed) {
                (false, allowed) => {
                    assert!(!allowed);
                    "seal"
                }
                (true, true) => "✔",
                (true, false) => "✘",
            }
        });
        let row: String = marks.map(|mark| format!("{mark:<10}")).collect();
        writeln!(matrix, "{}", row.trim_end()).unwrap();
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/authorization.txt");
    if std::env::var_os("BULLA_BLESS").is_some() {
        std::fs::write(golden, &matrix).unwrap();
    }
    let expected = std::fs::read_to_string(golden).expect("run once with BULLA_BLESS=1");
    assert_eq!(matrix, expected, "if this is meant, run with BULLA_BLESS=1");
}

/// Each example of the specification parses, and does what its text says.
#[test]
fn examples_of_the_specification() {
    let page = include_str!("../../../spec/policy.md");
    let examples: Vec<&str> = page.split("```cedar\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [below, one, verb, attribute, keys, person] = examples[..] else {
        unreachable!("the specification has {} examples", examples.len())
    };
    let dev = subject("dev", &["payments"], &[]);
    let other = subject("other", &["web"], &[]);

    let read = set(&[("payments", below)]);
    for path in ["kv/payments", "kv/payments/db", "kv/payments/db/main"] {
        assert!(allowed(&read, &dev, "kv.get", path) && allowed(&read, &dev, "kv.list", path));
        assert!(!allowed(&read, &dev, "kv.put", path) && !allowed(&read, &other, "kv.get", path));
    }
    for path in ["kv", "kv/payments-old", "kv/web/payments"] {
        assert!(!allowed(&read, &dev, "kv.get", path), "{path}");
    }

    let one = set(&[("payments", below), ("deploy", one)]);
    assert!(allowed(&one, &dev, "kv.put", "kv/payments/deploy-key"));
    assert!(!allowed(&one, &dev, "kv.put", "kv/payments/deploy-key/old"));

    let forbid = set(&[("everything", "permit (principal, action, resource);"), ("frozen", verb)]);
    assert!(allowed(&forbid, &dev, "kv.get", "kv/prod/db"));
    let refused = ask(&forbid, &dev, "kv.put", "kv/prod/db");
    assert_eq!((refused.allowed, refused.because), (false, vec!["frozen#0".to_owned()]));
    assert!(allowed(&forbid, &subject("cd", &["release"], &[]), "kv.put", "kv/prod/db"));

    let condition = set(&[("dba", attribute)]);
    assert!(allowed(&condition, &subject("ann", &[], &[("role", "dba")]), "kv.get", "kv/db/main"));
    assert!(!allowed(&condition, &subject("ann", &[], &[("role", "dev")]), "kv.get", "kv/db/main"));
    assert!(!allowed(&condition, &subject("ann", &[], &[]), "kv.get", "kv/db/main"));

    let transit = set(&[("orders", keys)]);
    let (shop, billing) = (subject("web", &["shop"], &[]), subject("cron", &["billing"], &[]));
    assert!(allowed(&transit, &shop, "transit.encrypt", "transit/orders"));
    assert!(!allowed(&transit, &shop, "transit.decrypt", "transit/orders"));
    assert!(!allowed(&transit, &shop, "transit.encrypt", "transit/invoices"));
    assert!(allowed(&transit, &billing, "transit.rewrap", "transit/orders"));
    assert!(!allowed(&transit, &billing, "transit.encrypt", "transit/orders"));

    let named = set(&[("carol", person)]);
    assert!(allowed(&named, &subject("carol", &[], &[]), "audit.read", "audit"));
    assert!(!allowed(&named, &subject("dave", &[], &[]), "audit.read", "audit"));
}

#[test]
fn nothing_is_allowed_unless_permitted() {
    let empty = PolicySet::parse(&BTreeMap::new()).unwrap();
    let admin = subject("admin", &["admins"], &[]);
    for action in Action::ALL {
        let decision = empty.decide(&admin, *action, &fitting(*action));
        assert!(!decision.allowed && decision.because.is_empty());
    }
}

/// Cedar skips a statement that fails. Here it denies, whichever effect it has and whatever else permits.
#[test]
fn a_failed_statement_denies() {
    let all = "permit (principal, action, resource);\n";
    let caller = subject("bob", &[], &[]);
    for effect in ["permit", "forbid"] {
        let failing = format!(
            "{all}{effect} (principal, action, resource)\n\
             when {{ principal.name == \"bob\" && 9223372036854775807 + 1 == 0 }};"
        );
        let policies = set(&[("x", &failing)]);
        let decision = ask(&policies, &caller, "kv.get", "kv/app");
        assert!(!decision.allowed && decision.because.is_empty(), "{decision:?}");
        assert!(matches!(&decision.errors[..], [error] if error.starts_with("x#1: ")), "{decision:?}");
        // It fails only for whom it is evaluated.
        assert!(allowed(&policies, &subject("alice", &[], &[]), "kv.get", "kv/app"));
    }
}

#[test]
fn statements_are_numbered_in_the_order_of_the_text() {
    let text: String = (0..12)
        .map(|n| format!("@id(\"mine\") permit (principal, action, resource) when {{ {n} == {n} }};\n"))
        .collect();
    let policies = set(&[("z", &text), ("a", "permit (principal, action, resource);")]);
    let because = ask(&policies, &subject("bob", &[], &[]), "kv.get", "kv/app").because;
    let expected: Vec<String> = std::iter::once("a#0".to_owned()).chain((0..12).map(|n| format!("z#{n}"))).collect();
    assert_eq!(because, expected);
    let text = format!("{text}forbid (principal, action, resource);");
    assert_eq!(ask(&set(&[("z", &text)]), &subject("bob", &[], &[]), "kv.get", "kv/app").because, ["z#12"]);
}

#[test]
fn authorized_carries_what_was_asked() {
    let first = PolicySet::first().unwrap();
    let admin = subject("admin", &["admins"], &[]);
    let granted = first.authorize(&admin, Action::AuditRead, Resource::Audit, 7).unwrap();
    assert_eq!((granted.op(), granted.subject(), granted.action()), (&7, &admin, Action::AuditRead));
    assert_eq!((granted.resource(), granted.because()), (&Resource::Audit, &["first#0".to_owned()][..]));
    assert_eq!((granted.op(), granted.subject()), (&7, &admin));

    let denied = first.authorize(&subject("plain", &[], &[]), Action::AuditRead, Resource::Audit, 7).unwrap_err();
    assert_eq!(
        (denied.subject.name.as_str(), denied.action, &denied.resource),
        ("plain", Action::AuditRead, &Resource::Audit)
    );
    assert_eq!(denied.decision, Decision { allowed: false, because: vec![], errors: vec![] });

    let misfit = first.authorize(&admin, Action::AuditRead, Resource::Seal, 7).unwrap_err();
    assert_eq!(misfit.decision.errors, ["audit.read is never done to seal"]);
}

/// The seal's right opens the verbs that policy cannot decide, and no other.
#[test]
fn the_seal_right_is_narrow() {
    let admin = subject("admin", &[], &[]);
    let stranger = subject("stranger", &["admins"], &[]);
    assert_eq!(SealRight::assertion(&[admin.id], stranger.clone()).unwrap_err(), stranger);
    for action in Action::ALL {
        let right = SealRight::assertion(&[stranger.id, admin.id], admin.clone()).unwrap();
        let given = Authorized::exempt(right, *action, fitting(*action), ());
        let sealed_too = [Action::SealStatus, Action::DocumentPut].contains(action);
        let expected = !action.asks_policy() || sealed_too;
        assert_eq!(given.is_ok(), expected, "{action}");
    }
}

/// `cargo test -p bulla-core --test policy -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn how_long_a_decision_takes() {
    let caller = subject("dev", &["team5", "web", "payments"], &[("role", "dba")]);
    for count in [10_usize, 100, 1000, 9_900] {
        let mut texts = first_texts();
        for n in 0..count - texts.len() {
            let text = format!(
                "permit (principal in Bulla::Group::\"team{n}\", action in [Bulla::Action::\"kv.get\", \
                 Bulla::Action::\"kv.list\"], resource in Bulla::Kv::\"team{n}\");"
            );
            texts.insert(format!("team{n}").parse().unwrap(), text);
        }
        let started = Instant::now();
        let policies = PolicySet::parse(&texts).unwrap();
        let parsed = started.elapsed();
        let started = Instant::now();
        let more = policies.with(&"more".parse().unwrap(), "permit (principal, action, resource);").unwrap();
        let written = started.elapsed();
        assert!(allowed(&more, &caller, "kv.put", "kv/x"));
        let resource = "kv/team5/app/db/main".parse().unwrap();
        let rounds = 20_000;
        let started = Instant::now();
        for _ in 0..rounds {
            assert!(policies.decide(&caller, Action::KvGet, &resource).allowed);
        }
        println!(
            "{count} policies: decide {:?}, parse {parsed:?}, one written {written:?}",
            started.elapsed() / rounds
        );
    }
}
