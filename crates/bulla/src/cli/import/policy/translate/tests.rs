use super::super::read::rules;
use super::*;
use bulla_core::action::{Action, Resource};
use bulla_core::policy::{PolicySet, Subject};

fn moved() -> Vec<Moved> {
    vec![
        Moved::Kv { mount: "secret".to_owned(), versions: true, to: "apps".parse().unwrap() },
        Moved::Kv { mount: "old".to_owned(), versions: false, to: "old".parse().unwrap() },
        Moved::Transit { mount: "transit".to_owned() },
    ]
}

fn draft(text: &str) -> Draft {
    let name: Name = "dev".parse().unwrap();
    let group: Name = "vault-dev".parse().unwrap();
    let draft = translate(&name, &group, &rules(text).unwrap(), &moved());
    if draft.statements > 0 {
        PolicySet::parse(&[(name, draft.text.clone())].into())
            .unwrap_or_else(|error| panic!("{error}\n{}", draft.text));
    }
    draft
}

/// Whether somebody in the group may do it, by the evaluator of the server.
fn may(draft: &Draft, action: &str, resource: &str) -> bool {
    let set = PolicySet::parse(&[("dev".parse().unwrap(), draft.text.clone())].into()).unwrap();
    let id = format!("sha256:{}", "A".repeat(43)).parse().unwrap();
    let groups = vec!["vault-dev".parse().unwrap()];
    let subject = Subject { id, name: "bob".parse().unwrap(), groups, attributes: [].into() };
    let (action, resource): (Action, Resource) = (action.parse().unwrap(), resource.parse().unwrap());
    set.decide(&subject, action, &resource).allowed
}

#[test]
fn secrets_with_versions() {
    let draft = draft(
        r#"path "secret/data/app/*" { capabilities = ["create", "update", "read"] }
           path "secret/metadata/app/*" { capabilities = ["list", "read"] }
           path "secret/data/shared" { capabilities = ["read"] }
           path "secret/destroy/app/*" { capabilities = ["update"] }"#,
    );
    assert_eq!((draft.statements, draft.open), (3, 1), "{}", draft.text);
    for (action, resource, allowed) in [
        ("kv.get", "kv/apps/app/db", true),
        ("kv.put", "kv/apps/app/db", true),
        ("kv.list", "kv/apps/app", true),
        ("kv.inspect", "kv/apps/app/db", true),
        ("kv.destroy", "kv/apps/app/db", false),
        ("kv.get", "kv/apps/shared", true),
        ("kv.put", "kv/apps/shared", false),
        ("kv.get", "kv/apps/shared/more", false),
        ("kv.delete", "kv/apps/app/db", false),
        ("kv.configure", "kv/apps/app/db", false),
        ("kv.get", "kv/apps/application", false),
        ("kv.get", "kv/secret/app/db", false),
    ] {
        assert_eq!(may(&draft, action, resource), allowed, "{action} {resource}\n{}", draft.text);
    }
}

#[test]
fn the_more_specific_path_decides_as_in_vault() {
    let draft = draft(
        r#"path "secret/data/*" { capabilities = ["create", "update", "read"] }
           path "secret/data/app/*" { capabilities = ["read"] }
           path "secret/data/app/root" { capabilities = ["deny"] }
           path "secret/data/locked/*" { capabilities = ["deny"] }
           path "secret/data/locked/open" { capabilities = ["read"] }"#,
    );
    for (action, resource, allowed) in [
        ("kv.put", "kv/apps/web", true),
        ("kv.put", "kv/apps/app/db", false),
        ("kv.get", "kv/apps/app/db", true),
        ("kv.get", "kv/apps/app/root", false),
        ("kv.get", "kv/apps/locked/x", false),
        ("kv.get", "kv/apps/locked/open", true),
        ("kv.put", "kv/apps/locked/open", false),
    ] {
        assert_eq!(may(&draft, action, resource), allowed, "{action} {resource}\n{}", draft.text);
    }
}

#[test]
fn whole_mounts() {
    let draft = draft(
        r#"path "old/*" { capabilities = ["read", "list", "delete"] }
           path "secret/*" { capabilities = ["read"] }
           path "transit/*" { capabilities = ["update", "list"] }"#,
    );
    for (action, resource, allowed) in [
        ("kv.get", "kv/old/x", true),
        ("kv.destroy", "kv/old/x", true),
        ("kv.get", "kv/apps/x", true),
        ("kv.inspect", "kv/apps/x", true),
        ("kv.put", "kv/apps/x", false),
        ("transit.encrypt", "transit/orders", true),
        ("transit.list", "transit", true),
        ("transit.export", "transit/orders", false),
    ] {
        assert_eq!(may(&draft, action, resource), allowed, "{action} {resource}\n{}", draft.text);
    }
}

#[test]
fn transit_keys() {
    let draft = draft(
        r#"path "transit/encrypt/orders" { capabilities = ["update"] }
           path "transit/keys/orders/rotate" { capabilities = ["update"] }
           path "transit/keys" { capabilities = ["list"] }
           path "transit/keys/*" { capabilities = ["read"] }
           path "transit/keys/below/*" { capabilities = ["update"] }
           path "transit/datakey/wrapped/orders" { capabilities = ["create", "update"] }"#,
    );
    for (action, resource, allowed) in [
        ("transit.encrypt", "transit/orders", true),
        ("transit.encrypt", "transit/other", false),
        ("transit.decrypt", "transit/orders", false),
        ("transit.rotate", "transit/orders", true),
        ("transit.rotate", "transit/other", false),
        ("transit.list", "transit", true),
        ("transit.configure", "transit/below", true),
        ("transit.create", "transit/below", false),
        ("transit.read", "transit/other", true),
        ("transit.datakey-wrapped", "transit/orders", true),
        ("transit.datakey", "transit/orders", false),
    ] {
        assert_eq!(may(&draft, action, resource), allowed, "{action} {resource}\n{}", draft.text);
    }
}

#[test]
fn what_has_no_counterpart_is_told_and_permits_nothing() {
    for (path, told) in [
        ("secret/data/app*", "within a word"),
        ("secret/data/+/db", "one word"),
        ("secret/data/{{identity.entity.name}}/*", "own name"),
        ("secret/config", "no counterpart"),
        ("sys/seal", "runs the cluster"),
        ("auth/token/create", "no tokens"),
        ("identity/*", "admission"),
        ("cubbyhole/*", "wrap"),
        ("pki/issue/x", "no mount"),
        ("*", "everything"),
        ("secret/data/a b", "no counterpart"),
        ("transit/sign/release/sha2-256", "no counterpart"),
    ] {
        let draft = draft(&format!("path \"{path}\" {{ capabilities = [\"read\", \"update\"] }}"));
        assert_eq!((draft.statements, draft.open), (0, 1), "{path}\n{}", draft.text);
        assert!(draft.text.contains(told), "{path}\n{}", draft.text);
        assert!(!draft.text.contains("permit ("), "{path}\n{}", draft.text);
    }
}

#[test]
fn what_would_permit_more_than_vault_stays_a_comment() {
    for text in [
        // A narrower path that cannot be said here takes something away there.
        r#"path "secret/data/*" { capabilities = ["read"] }
           path "secret/data/+/root" { capabilities = ["deny"] }"#,
        r#"path "secret/data/app/*" {
             capabilities = ["read"]
             required_parameters = ["x"]
           }"#,
    ] {
        let draft = draft(text);
        assert_eq!(draft.statements, 0, "{}", draft.text);
        assert!(draft.text.contains("// DECIDE") && draft.text.contains("// permit ("), "{}", draft.text);
        assert!(draft.text.lines().all(|line| line.is_empty() || line.starts_with("//")), "{}", draft.text);
    }
    let sudo = draft(r#"path "secret/data/app" { capabilities = ["read", "sudo"] }"#);
    assert_eq!((sudo.statements, sudo.open), (1, 1), "{}", sudo.text);
}

/// A word that is only a part of an action here, or an action that is for less.
#[test]
fn a_part_of_an_action_stays_a_comment() {
    for (path, words, action, told) in [
        ("secret/data/a/*", "\"create\"", "kv.put", "what is new"),
        ("secret/data/a/*", "\"update\"", "kv.put", "what is there"),
        ("secret/data/a/*", "\"patch\"", "kv.put", "what is there"),
        ("secret/data/a/*", "\"update\", \"patch\"", "kv.put", "what is there"),
        ("secret/data/a/*", "\"create\", \"patch\"", "kv.put", "what is new"),
        ("secret/data/a/*", "\"delete\"", "kv.delete", "newest version"),
        ("secret/metadata/a/*", "\"update\"", "kv.configure", "what is there"),
        ("secret/metadata/a/*", "\"patch\"", "kv.configure", "what is there"),
        ("secret/destroy/a/*", "\"update\"", "kv.destroy", "name and settings"),
        ("old/a/*", "\"update\"", "kv.put", "what is there"),
        ("transit/encrypt/a", "\"create\"", "transit.encrypt", "made with it"),
        ("transit/export/hmac-key/a", "\"read\"", "transit.export", "for one use"),
        ("transit/export/encryption-key/*", "\"read\"", "transit.export", "for one use"),
    ] {
        let draft = draft(&format!("path \"{path}\" {{ capabilities = [{words}] }}"));
        assert_eq!((draft.statements, draft.open), (0, 1), "{path} {words}\n{}", draft.text);
        assert!(
            draft.text.contains(told) && draft.text.contains(&format!("//   action == Bulla::Action::\"{action}\""))
        );
        assert!(draft.text.lines().all(|line| line.is_empty() || line.starts_with("//")), "{}", draft.text);
    }
    // What else the rule says holds.
    let draft = draft(r#"path "secret/data/a/*" { capabilities = ["read", "update"] }"#);
    assert_eq!((draft.statements, draft.open), (1, 1), "{}", draft.text);
    assert!(may(&draft, "kv.get", "kv/apps/a/x") && !may(&draft, "kv.put", "kv/apps/a/x"), "{}", draft.text);
}

/// Where Vault does not look whether something is there, create is nothing and update all of it.
#[test]
fn a_word_that_is_all_of_an_action_holds_alone() {
    for (path, word, action, resource) in [
        ("secret/delete/a/*", "update", "kv.delete", "kv/apps/a/x"),
        ("secret/metadata/a/*", "delete", "kv.destroy", "kv/apps/a/x"),
        ("transit/encrypt/a", "update", "transit.encrypt", "transit/a"),
        ("transit/keys/a", "update", "transit.create", "transit/a"),
        ("transit/export/*", "read", "transit.export", "transit/a"),
    ] {
        let draft = draft(&format!("path \"{path}\" {{ capabilities = [\"{word}\"] }}"));
        assert_eq!((draft.statements, draft.open), (1, 0), "{path}\n{}", draft.text);
        assert!(may(&draft, action, resource), "{path}\n{}", draft.text);
    }
    let nothing = draft(r#"path "transit/sign/a" { capabilities = ["create"] }"#);
    assert_eq!(nothing.statements, 0, "{}", nothing.text);
    assert!(nothing.text.contains("does nothing") && !nothing.text.contains("permit ("), "{}", nothing.text);
    // What one part of a path gives needs no word about another part.
    let whole = draft(r#"path "secret/*" { capabilities = ["create", "read", "update", "delete", "list"] }"#);
    assert_eq!(whole.open, 0, "{}", whole.text);
    assert!(may(&whole, "kv.delete", "kv/apps/x") && may(&whole, "kv.destroy", "kv/apps/x"), "{}", whole.text);
}

/// An export is of a key, so what takes away one use of it takes away all.
#[test]
fn an_export_of_one_use_is_none() {
    let draft = draft(
        r#"path "transit/export/*" { capabilities = ["read"] }
           path "transit/export/encryption-key/a" { capabilities = ["read"] }"#,
    );
    assert!(
        may(&draft, "transit.export", "transit/b") && !may(&draft, "transit.export", "transit/a"),
        "{}",
        draft.text
    );
}

/// A path is text of others: it must not end the comment that it stands in.
#[test]
fn no_path_becomes_a_statement() {
    let evil = "x\\n\\rpermit(principal,action,resource);\\u2028\\u202e";
    let draft = draft(&format!("path \"{evil}\" {{ capabilities = [\"read\\npermit\"] }}"));
    assert_eq!(draft.statements, 0);
    assert!(draft.text.lines().all(|line| line.is_empty() || line.starts_with("//")), "{}", draft.text);
    assert!(draft.text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{2028}' && c != '\u{202e}')));
}

/// `secret/*` and `secret/data/*` mean the same secrets here. There the second decides alone for their content, also for
/// what it does not speak of.
#[test]
fn a_path_of_the_same_things_decides_too() {
    let draft = draft(
        r#"path "secret/*" { capabilities = ["create", "update", "read", "delete", "list"] }
           path "secret/data/*" { capabilities = ["read"] }
           path "transit/*" { capabilities = ["update"] }
           path "transit/keys/*" { capabilities = ["read"] }
           path "old/*" { capabilities = ["deny"] }
           path "old/open/*" { capabilities = ["read"] }"#,
    );
    for (action, resource, allowed) in [
        ("kv.get", "kv/apps/db", true),
        ("kv.put", "kv/apps/db", false),
        ("kv.destroy", "kv/apps/db", true),
        ("kv.list", "kv/apps", true),
        ("transit.encrypt", "transit/orders", true),
        ("transit.read", "transit/orders", true),
        ("transit.create", "transit/orders", false),
        ("transit.rotate", "transit/orders", false),
        ("transit.configure", "transit/orders", false),
        ("kv.get", "kv/old/open/x", true),
        ("kv.get", "kv/old/x", false),
    ] {
        assert_eq!(may(&draft, action, resource), allowed, "{action} {resource}\n{}", draft.text);
    }
    let shut = self::draft(
        r#"path "secret/*" { capabilities = ["deny"] }
           path "secret/data/*" { capabilities = ["read"] }"#,
    );
    assert!(may(&shut, "kv.get", "kv/apps/db") && !may(&shut, "kv.inspect", "kv/apps/db"), "{}", shut.text);
}
