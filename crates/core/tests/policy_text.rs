//! What is refused as policy text, and how the refusal reads.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use bulla_core::action::{Action, Resource};
use bulla_core::policy::{
    Fault, MAX_NESTING, MAX_STATEMENT_TOKENS, MAX_STATEMENTS, MAX_TEXT_BYTES, PolicyError, PolicySet, Refusal, Subject,
    first_texts, permit,
};
use bulla_wire::id::PrincipalId;
use bulla_wire::name::Name;
use std::collections::BTreeMap;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn parse(text: &str) -> Result<PolicySet, PolicyError> {
    PolicySet::parse(&BTreeMap::from([(name("team"), text.to_owned())]))
}

fn refusal(text: &str) -> Refusal {
    match parse(text) {
        Err(PolicyError::Refused(refusal)) => *refusal,
        other => panic!("{text:.200}: {other:?}"),
    }
}

/// A statement with `condition` in its `when`.
fn when(condition: &str) -> String {
    format!("permit (principal, action, resource) when {{ {condition} }};")
}

/// Text, kind of fault, line, column, and a part of what is said.
const REFUSED: &[(&str, Fault, usize, usize, &str)] = &[
    ("", Fault::Empty, 1, 1, "there is no statement in it; write one, or delete the policy"),
    ("// nothing\n", Fault::Empty, 1, 1, "there is no statement"),
    ("permit (principal, action, resource)", Fault::Syntax, 1, 37, "unexpected end of input"),
    ("\n  allow (principal, action, resource);", Fault::Syntax, 2, 3, "invalid policy effect: allow"),
    ("permit (principal, action);", Fault::Syntax, 1, 26, "missing the `resource` variable"),
    (
        "forbid (principal, action, resource);\npermit (principal == ?principal, action, resource);",
        Fault::Template,
        2,
        1,
        "templates are not supported; write the principal or resource in place of ?principal",
    ),
    ("permit (principal == User::\"bob\", action, resource);", Fault::Schema, 1, 22, "entity type `User`"),
    (
        "permit (principal in Group::\"ops\", action, resource);",
        Fault::Schema,
        1,
        22,
        "unrecognized entity Group::\"ops\"; write Bulla::Group::\"ops\"",
    ),
    (
        "permit (principal == Principal::\"bob\", action, resource);",
        Fault::Schema,
        1,
        22,
        "write Bulla::Principal::\"bob\"",
    ),
    (
        "permit (principal, action, resource);\nforbid (principal, action in [Bulla::Action::\"kv.get\", Action::\"kv.put\"], resource);",
        Fault::Schema,
        2,
        56,
        "write Bulla::Action::\"kv.put\"",
    ),
    ("permit (principal, action, resource in Kv::\"app\");", Fault::Schema, 1, 40, "write Bulla::Kv::\"app\""),
    ("permit (principal is Person, action, resource);", Fault::Schema, 1, 22, "unrecognized entity type"),
    (
        "permit (principal, action == Bulla::Action::\"kv.read\", resource);",
        Fault::Schema,
        1,
        30,
        "column 30: unrecognized action `Bulla::Action::\"kv.read\"`; spec/policy.md lists",
    ),
    (
        "permit (principal, action, resource)\nwhen { principal.role == \"dba\" };",
        Fault::Schema,
        2,
        8,
        "attribute `role` on entity type `Bulla::Principal` not found",
    ),
    (
        "permit (principal, action, resource)\nwhen { principal.getTag(\"team\") == \"red\" };",
        Fault::Schema,
        2,
        8,
        "`.hasTag(\"team\") && ..`",
    ),
    ("permit (principal, action, resource) when { principal.name == 1 };", Fault::Schema, 1, 45, "not compatible"),
    ("permit (principal, action, resource) when { principal.name };", Fault::Schema, 1, 45, "unexpected type"),
    ("permit (principal, action, resource) when { context.ip == \"::1\" };", Fault::Schema, 1, 1, "only \"principal\""),
    ("permit (principal, action, resource) when { resource has owner };", Fault::Schema, 1, 1, "only \"principal\""),
    (
        "permit (principal, action, resource) when {\n  \
         Bulla::Principal::\"sha256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\".name == principal.name };",
        Fault::Schema,
        1,
        1,
        "only \"principal\" itself has attributes",
    ),
    (
        "permit (principal == Bulla::Principal::\"bob\", action, resource);",
        Fault::Id,
        1,
        22,
        "to name a person, compare principal.name",
    ),
    (
        "forbid (\n  principal,\n  action,\n  resource in Bulla::Kv::\"/app\"\n);",
        Fault::Id,
        4,
        15,
        "Bulla::Kv::\"/app\" can be in no request; expected a path without a slash at its ends",
    ),
    ("forbid (principal, action, resource in Bulla::Kv::\"app/\");", Fault::Id, 1, 40, "without a slash at its ends"),
    ("forbid (principal, action, resource in Bulla::Kv::\"app/*\");", Fault::Id, 1, 40, "can be in no request"),
    ("forbid (principal in Bulla::Group::\"the ops\", action, resource);", Fault::Id, 1, 22, "a group's name"),
    ("forbid (principal, action, resource == Bulla::Seal::\"seal\");", Fault::Id, 1, 40, "there is only one"),
    ("forbid (principal, action, resource == Bulla::Wrap::\"1\");", Fault::Id, 1, 40, "a wrap's id"),
    ("forbid (principal, action, resource == Bulla::Lease::\"1\");", Fault::Id, 1, 40, "a lease's id"),
    ("forbid (principal, action, resource == Bulla::Policy::\"a b\");", Fault::Id, 1, 40, "a policy's name"),
    ("forbid (principal, action, resource == Bulla::Transit::\"a/b\");", Fault::Id, 1, 40, "a transit key's name"),
    ("forbid (principal, action, resource == Bulla::Database::\"a/b/c\");", Fault::Id, 1, 40, "<database>/<role>"),
    (
        "forbid (principal, action, resource == Bulla::PrincipalRecord::\"a b\");",
        Fault::Id,
        1,
        40,
        "a principal's name",
    ),
    // The second statement of two that read the same, and one behind others on its line.
    (
        "permit (principal, action, resource);\npermit (principal, action, resource) when { 1 < 2 }; forbid (principal, action, resource) when { principal.role == \"x\" };",
        Fault::Schema,
        2,
        98,
        "attribute `role`",
    ),
    (
        "forbid (principal, action, resource) when { resource has owner };\nforbid (principal, action, resource);",
        Fault::Schema,
        1,
        1,
        "only \"principal\"",
    ),
    (
        "permit (principal, action == Bulla::Action::\"kv.get\", resource);\npermit (principal, action, resource);\n  forbid (principal, action, resource) when { resource has owner };",
        Fault::Schema,
        3,
        3,
        "only \"principal\"",
    ),
    (
        "permit (principal, action == Bulla::Action::\"kv.get\", resource == Bulla::Seal::\"\");",
        Fault::Never,
        1,
        1,
        "would never apply",
    ),
    (
        "permit (principal, action, resource);\n\nforbid (principal, action, resource)\nwhen { resource is Bulla::Group };",
        Fault::Never,
        3,
        1,
        "would never apply",
    ),
    (
        "permit (principal, action, resource) when { principal.name == \"bob\u{202e}\" };",
        Fault::Misleading,
        1,
        63,
        "string `\"bob\\u{202e}\"` contains BIDI control characters; write it in plain ASCII",
    ),
];

#[test]
fn refused_texts() {
    for (text, fault, line, column, message) in REFUSED {
        let refusal = refusal(text);
        let shown = refusal.to_string();
        assert_eq!((refusal.fault, refusal.line, refusal.column), (*fault, *line, *column), "{text}\n{shown}");
        assert!(shown.contains(message), "{text}\n{shown}");
        assert!(shown.starts_with(&format!("policy team, line {line}, column {column}: ")), "{shown}");
        assert!(!refusal.hint.is_empty());
    }
}

#[test]
fn limits() {
    let statement = "permit (principal, action, resource);\n";
    let too_long = format!("{}{statement}", " ".repeat(MAX_TEXT_BYTES));
    assert_eq!(refusal(&too_long).fault, Fault::Limit);
    assert!(parse(&statement.repeat(MAX_STATEMENTS)).is_ok());
    let refused = refusal(&statement.repeat(MAX_STATEMENTS + 1));
    assert_eq!((refused.fault, refused.line), (Fault::Limit, MAX_STATEMENTS + 1));

    let thousand = statement.repeat(MAX_STATEMENTS);
    let mut texts: BTreeMap<Name, String> = (0..10).map(|n| (name(&format!("p{n}")), thousand.clone())).collect();
    let full = PolicySet::parse(&texts).unwrap();
    assert_eq!(full.with(&name("more"), statement).unwrap_err(), PolicyError::TooManyStatements(10_001));
    texts.insert(name("more"), statement.to_owned());
    assert_eq!(PolicySet::parse(&texts).unwrap_err(), PolicyError::TooManyStatements(10_001));
    assert!(full.with(&name("p0"), &thousand).is_ok(), "in the place of one that is there");
}

/// What `--output-policy` prints grants what it says to whom it says, and nothing else.
#[test]
fn a_permit_that_is_written_grants_one_thing() {
    let id = PrincipalId::new([1; 32]);
    let subject = |id| Subject { id, name: name("bob"), groups: vec![], attributes: BTreeMap::new() };
    let cases = [
        ("kv.get", "kv/app/db", "kv/app"),
        ("principal.read", "principal/bob", "principal/eve"),
        ("policy.read", "policy/first", "policy/other"),
        ("transit.encrypt", "transit/orders", "transit/other"),
        ("wrap.create", "wrap", "self"),
        ("audit.read", "audit", "cluster"),
        ("database.issue", "database/pg/app", "database/pg/other"),
    ];
    for (action, resource, other) in cases {
        let (action, other): (Action, Resource) = (action.parse().unwrap(), other.parse().unwrap());
        let resource: Resource = resource.parse().unwrap();
        let set = parse(&permit(&id, action, &resource)).unwrap();
        assert!(set.decide(&subject(id), action, &resource).allowed, "{action} {resource}");
        assert!(!set.decide(&subject(id), action, &other).allowed, "{action} {other}");
        assert!(!set.decide(&subject(PrincipalId::new([2; 32])), action, &resource).allowed);
        let others = Action::ALL.iter().filter(|other| **other != action);
        assert!(others.copied().all(|other| !set.decide(&subject(id), other, &resource).allowed));
    }
}

/// On a thread with the stack of a server's worker (2 MiB), the deepest texts that the limits let through are
/// parsed, and deeper ones are refused before Cedar's unbounded recursion sees them.
#[test]
fn depth_never_ends_the_process() {
    let nested = |n: usize, open: &str, close: &str| when(&format!("{}true{}", open.repeat(n), close.repeat(n)));
    let chained = |n: usize, operator: &str, item: &str| when(&vec![item; n].join(operator));
    // `when {` and the statement's own bracket are open or closed around these.
    let deepest = MAX_NESTING - 1;
    let longest = (MAX_STATEMENT_TOKENS - 13) / 2;
    let good = [
        nested(deepest, "(", ")"),
        nested(deepest, "if true then ", " else false"),
        nested(deepest / 2, "if (", ") then true else false"),
        chained(longest, " || ", "true"),
        chained(longest, " && ", "true"),
    ];
    let bad = [
        nested(MAX_NESTING, "(", ")"),
        nested(20_000, "(", ")"),
        nested(20_000, "[", "]"),
        nested(3_000, "if true then ", " else false"),
        chained(longest + 10, " || ", "true"),
        chained(10_000, "||", "true"),
        chained(10_000, "\r||", "true").replacen("when", "when //", 1),
        when(&format!("principal{}", ".name".repeat(10_000))),
        format!("permit (principal, action, resource) // \r {};", "(".repeat(20_000)),
    ];
    let check = move || {
        for text in good {
            assert!(parse(&text).is_ok(), "{text:.100}: {:?}", parse(&text));
        }
        for text in bad {
            assert_eq!(refusal(&text).fault, Fault::Limit, "{text:.100}");
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}

#[test]
fn a_set_is_changed_one_policy_at_a_time() {
    let first = PolicySet::first().unwrap();
    let more = first.with(&name("open"), "permit (principal, action, resource);").unwrap();
    let names: Vec<_> = more.texts().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["first", "open"]);
    assert!(
        matches!(more.with(&name("open"), "permit"), Err(PolicyError::Refused(refusal)) if refusal.policy == name("open"))
    );
    let again = more.without(&name("open")).unwrap();
    let texts: BTreeMap<Name, String> = again.texts().map(|(name, text)| (name.clone(), text.to_owned())).collect();
    assert_eq!(texts, first_texts());
    assert_eq!(PolicySet::parse(&BTreeMap::new()).unwrap().texts().count(), 0);
}

/// Ids that a request can have, of every type, and text that only looks like something else.
#[test]
fn texts_that_are_taken() {
    for resource in [
        "Kv::\"\"",
        "Kv::\"app/db\"",
        "Wrap::\"\"",
        "Wrap::\"aaaaaaaaaaaaaaaaaaaaaaaaaa\"",
        "Lease::\"\"",
        "Lease::\"aaaaaaaaaaaaaaaaaaaaaaaaaa\"",
        "Policy::\"\"",
        "Policy::\"first\"",
        "PrincipalRecord::\"\"",
        "PrincipalRecord::\"bob\"",
        "Transit::\"\"",
        "Transit::\"orders\"",
        "Database::\"\"",
        "Database::\"pg\"",
        "Database::\"pg/app\"",
        "Seal::\"\"",
    ] {
        let text = format!("forbid (principal, action, resource == Bulla::{resource});");
        assert!(parse(&text).is_ok(), "{text}: {:?}", parse(&text));
    }
    // Brackets and ends within a comment or a literal are none, and one slash begins no comment.
    let inside = "permit (principal, action, resource) // ) } ; if (((\nwhen { principal.name == \"; ( \\\" { if\" };";
    assert!(parse(inside).is_ok(), "{:?}", parse(inside));
    let slash = refusal("permit (principal, action, resource) / when { true };");
    assert_eq!((slash.fault, slash.line), (Fault::Syntax, 1));
    // A name may be written in the letters of several scripts.
    let mixed = when("principal.name == \"b\u{43e}b\"");
    assert!(parse(&mixed).is_ok(), "{:?}", parse(&mixed));
    // The longest text is one.
    let statement = "permit (principal, action, resource);";
    let longest = format!("{}{statement}", " ".repeat(MAX_TEXT_BYTES - statement.len()));
    assert_eq!(longest.len(), MAX_TEXT_BYTES);
    assert!(parse(&longest).is_ok());
    assert_eq!(refusal(&format!(" {longest}")).fault, Fault::Limit);
}

/// Comments count as nothing and a literal as one word, whatever they hold; neither hides what stands behind it.
#[test]
fn comments_and_literals_count_as_what_they_are() {
    let (brackets, words) = ("(".repeat(MAX_NESTING + 1), "word ".repeat(MAX_STATEMENT_TOKENS + 1));
    for text in [
        format!("permit (principal, action, resource) // {words}{brackets}\n;"),
        when(&format!("principal.name == \"{words}\"")),
        when(&format!("principal.name == \"\\\"{brackets}\"")),
    ] {
        assert!(parse(&text).is_ok(), "{text:.100}: {:?}", parse(&text));
    }
    let nested = format!("{}true{}", "(".repeat(MAX_NESTING), ")".repeat(MAX_NESTING));
    let ends = vec!["principal.name == \";\""; MAX_STATEMENT_TOKENS / 6 + 1];
    for text in [
        // No literal reaches beyond its end, and none ends the statement.
        when(&format!("principal.name == \"x\" && {nested}")),
        when(&ends.join(" || ")),
        // One slash begins no comment.
        format!("permit (principal, action, resource) / {brackets};"),
    ] {
        assert_eq!(refusal(&text).fault, Fault::Limit, "{text:.100}");
    }
}

/// Exactly as many words and signs as are allowed are taken, and each is counted once, however long it is.
#[test]
fn the_longest_statement_is_one() {
    let chained = |count: usize, item: &str| when(&vec![item; count].join(" || "));
    // Ten words and signs stand around the chain, whose items have one operator less.
    let most = (MAX_STATEMENT_TOKENS - 10) / 2;
    for text in [chained(most, "true"), chained((MAX_STATEMENT_TOKENS - 10) / 4, "1 < 99999999999")] {
        assert!(parse(&text).is_ok(), "{text:.100}: {:?}", parse(&text));
    }
    for text in [
        chained(most + 1, "true"),
        // A point counts, and so does the name behind it.
        when(&format!("principal{}", ".name".repeat(most + 1))),
        // Each `if` nests without a bracket.
        when(&format!("{}true{}", "if true then ".repeat(MAX_NESTING), " else false".repeat(MAX_NESTING))),
    ] {
        assert_eq!(refusal(&text).fault, Fault::Limit, "{text:.100}");
    }
}
