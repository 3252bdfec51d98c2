//! Whether Secrets are kept by an EncryptionConfiguration, and by this plugin.

use super::encryption::{DEFAULT_TIMEOUT, Encryption, Group, Kms, Provider};
use crate::finding::{Finding, Verdict};
use crate::socket::Place;
use std::collections::BTreeSet;

const NAME: &str = "encryption";
/// Lists of resources that take Secrets in.
const SECRETS: &[&str] = &["secrets", "*.", "*.*"];
const REWRITE: &str = "`kubectl get secrets -A -o json | kubectl replace -f -`";

/// Judges what a file says; `place` is where this plugin answers.
pub fn judge(read: &Result<Encryption, String>, place: &Place) -> Vec<Finding> {
    let encryption = match read {
        Ok(encryption) => encryption,
        Err(error) => {
            let hint = "mend the field that is named; kube-apiserver does not start with this file";
            return vec![Finding::fail(NAME, error.clone(), hint)];
        }
    };
    let mut findings = Vec::new();
    for (place_of_group, group) in encryption.groups.iter().enumerate() {
        identity(group, place_of_group, &mut findings);
    }
    names(encryption, &mut findings);
    for kms in encryption.plugins() {
        plugin(kms, is_ours(kms, place), &mut findings);
    }
    secrets(encryption, place, &mut findings);
    if findings.iter().all(|finding| finding.verdict == Verdict::Ok) {
        findings.push(Finding::ok(NAME, "every provider is as kube-apiserver wants it"));
    }
    findings
}

/// The socket of an endpoint in one spelling.
fn socket(text: &str) -> String {
    text.strip_prefix("/var/run/").map_or_else(|| text.to_owned(), |rest| format!("/run/{rest}"))
}

fn is_ours(kms: &Kms, place: &Place) -> bool {
    let Some(path) = kms.endpoint.strip_prefix("unix://") else { return false };
    match place {
        // kube-apiserver takes a name after the third slash as that of an abstract socket.
        Place::Abstract(name) => path.strip_prefix("/@") == Some(name),
        Place::Path(own) => own.to_str().is_some_and(|own| socket(own) == socket(path)),
    }
}

fn identity(group: &Group, at: usize, findings: &mut Vec<Finding>) {
    let places = group.providers.iter().enumerate().filter(|(_, provider)| matches!(provider, Provider::Identity));
    for (place, _) in places {
        if place == 0 {
            let found = format!("resources[{at}]: identity is first, so {} are written in clear", shown(group));
            let hint = "put it last; first it belongs only on the way out, when everything is to be decrypted";
            findings.push(Finding::fail(NAME, found, hint));
        } else {
            let found = format!(
                "resources[{at}]: identity is left, so whoever writes to etcd can put {} there in clear",
                shown(group)
            );
            findings.push(Finding::warn(NAME, found, format!("rewrite everything by {REWRITE}, then take it out")));
        }
    }
}

fn shown(group: &Group) -> String {
    group.resources.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
}

fn names(encryption: &Encryption, findings: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    for kms in encryption.plugins() {
        if !seen.insert(&kms.name) {
            let found = format!("{}: a second provider has the name {}", kms.at, kms.name);
            let hint = "name each provider once: for more kinds of objects, add them to its list of resources";
            findings.push(Finding::fail(NAME, found, hint));
        }
    }
    let mut resources = BTreeSet::new();
    for group in &encryption.groups {
        for name in &group.resources {
            if !resources.insert(name) {
                let found = format!("{name} stands in two lists of resources");
                findings.push(Finding::fail(NAME, found, "leave it in the list that has the right provider first"));
            }
        }
    }
}

fn plugin(kms: &Kms, ours: bool, findings: &mut Vec<Finding>) {
    let (at, name) = (&kms.at, &kms.name);
    let mut say = |verdict: Verdict, found: String, hint: &str| {
        let of = if verdict == Verdict::Warn { Finding::warn } else { Finding::fail };
        findings.push(of(NAME, found, hint.to_owned()));
    };
    match kms.api_version.as_deref() {
        Some("v2") => {}
        None if ours => {
            say(Verdict::Fail, format!("{at}: apiVersion is left out, which means v1"), "write `apiVersion: v2` there");
        }
        None | Some("v1") if !ours => {
            let hint =
                "from Kubernetes 1.29 it needs --feature-gates=KMSv1=true; rewrite what it wrote, then take it out";
            say(Verdict::Warn, format!("{at}: {name} speaks KMS v1"), hint);
        }
        _ if ours => say(Verdict::Fail, format!("{at}: this plugin speaks v2 alone"), "write `apiVersion: v2` there"),
        _ => say(Verdict::Fail, format!("{at}: apiVersion is neither v1 nor v2"), "write that which the plugin speaks"),
    }
    if kms.cachesize && kms.api_version.as_deref() == Some("v2") {
        say(Verdict::Fail, format!("{at}: cachesize is of v1, and refused in v2"), "take cachesize out");
    }
    if name.contains(':') {
        say(Verdict::Fail, format!("{at}: the name {name} has a colon"), "choose a name without one");
    }
    if !kms.endpoint.starts_with("unix:///") {
        say(Verdict::Fail, format!("{at}: endpoint is no unix:///PATH"), "write unix:/// and the path of the socket");
    }
    match kms.timeout {
        None => {
            say(
                Verdict::Fail,
                format!("{at}: timeout is no positive duration"),
                "write `timeout: 3s`, or leave it out",
            );
        }
        Some(timeout) if timeout < DEFAULT_TIMEOUT => {
            let found = format!("{at}: timeout is {} ms", timeout.as_millis());
            say(Verdict::Warn, found, "write 3s: this plugin uses 2.5 s, to ask another member when one hangs");
        }
        Some(_) => {}
    }
}

fn secrets(encryption: &Encryption, place: &Place, findings: &mut Vec<Finding>) {
    let covers = |group: &&Group| group.resources.iter().any(|name| SECRETS.contains(&name.as_str()));
    let Some(group) = encryption.groups.iter().find(covers) else {
        let hint = "write `resources: [secrets]` in the list that has this plugin first";
        return findings.push(Finding::fail(
            NAME,
            "no list of resources has secrets, so they are written in clear",
            hint,
        ));
    };
    let ours = |provider: &Provider| matches!(provider, Provider::Kms(kms) if is_ours(kms, place));
    match group.providers.iter().position(ours) {
        Some(0) => findings.push(Finding::ok(NAME, format!("{} are written by this plugin", shown(group)))),
        Some(_) => {
            let hint = "put this plugin first when every kube-apiserver knows it; until then another provider writes";
            findings.push(Finding::warn(NAME, "this plugin reads Secrets and does not write them", hint));
        }
        None => {
            let found = format!("no provider of Secrets has the endpoint of this plugin, {place}");
            let hint = match place {
                Place::Path(path) => format!("write `endpoint: unix://{}`", path.display()),
                Place::Abstract(name) => format!("write `endpoint: unix:///@{name}`"),
            };
            findings.push(Finding::fail(NAME, found, hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::yaml;

    fn judged(groups: &str) -> Vec<Finding> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:";
        let read = yaml::parse(&format!("{head} [{groups}]")).and_then(|tree| Encryption::read(&tree));
        let findings = judge(&read, &"/run/bulla-kms/kms.sock".parse().unwrap());
        assert!(findings.iter().all(|finding| finding.hint.is_some() == (finding.verdict != Verdict::Ok)));
        findings
    }

    fn group(resources: &str, providers: &str) -> String {
        format!("{{resources: [{resources}], providers: [{providers}]}}")
    }

    const OURS: &str = "kms: {apiVersion: v2, name: bulla, endpoint: 'unix:///run/bulla-kms/kms.sock', timeout: 3s}";
    const OLD: &str = "kms: {apiVersion: v2, name: old, endpoint: 'unix:///run/old.sock'}";

    #[test]
    fn a_good_one_is_good() {
        for good in [
            group("secrets", OURS),
            group("'*.*'", OURS),
            group("'*.'", OURS),
            group("secrets", &format!("{OURS}, {OLD}")),
            group("secrets", &OURS.replace("/run/bulla", "/var/run/bulla")),
            group("secrets", &OURS.replace(", timeout: 3s", "")),
        ] {
            assert!(judged(&good).iter().all(|finding| finding.verdict == Verdict::Ok), "{:?}", judged(&good));
        }
    }

    #[test]
    fn what_is_wrong_is_found() {
        use Verdict::{Fail, Warn};
        let changed = |from: &str, to: &str| group("secrets", &OURS.replace(from, to));
        for (text, verdict, named) in [
            (changed("apiVersion: v2, ", ""), Fail, "left out"),
            (changed("v2", "v1"), Fail, "v2 alone"),
            (changed("bulla-kms/kms.sock", "other.sock"), Fail, "endpoint of this plugin"),
            (changed("unix:///run", "/run"), Fail, "endpoint"),
            (changed("3s", "2s"), Warn, "2000 ms"),
            (changed("3s", "soon"), Fail, "timeout"),
            (changed("3s", "3s, cachesize: 100"), Fail, "cachesize"),
            (changed("bulla,", "'a:b',"), Fail, "colon"),
            (group("secrets", &format!("identity: {{}}, {OURS}")), Fail, "identity is first"),
            (group("secrets", &format!("{OURS}, identity: {{}}")), Warn, "identity is left"),
            (group("secrets", &format!("{OLD}, {OURS}")), Warn, "does not write"),
            (group("secrets", &format!("{OURS}, {}", OLD.replace("v2", "v1"))), Warn, "KMS v1"),
            (
                group("secrets", &format!("{OURS}, {}", OLD.replace("name: old", "name: bulla"))),
                Fail,
                "second provider",
            ),
            (format!("{}, {}", group("secrets", OURS), group("configmaps", OURS)), Fail, "second provider"),
            (format!("{}, {}", group("secrets", OURS), group("secrets", OLD)), Fail, "two lists"),
            (group("configmaps", OURS), Fail, "no list"),
            (group("secrets", "aescbc: {keys: []}"), Fail, "endpoint of this plugin"),
            ("1".to_owned(), Fail, "resources[0]"),
        ] {
            let findings = judged(&text);
            let found = findings.iter().find(|finding| finding.found.contains(named));
            assert_eq!(found.map(|finding| finding.verdict), Some(verdict), "{text}: {findings:?}");
        }
    }

    #[test]
    fn an_abstract_socket_is_named_after_the_third_slash() {
        let text = group("secrets", &OURS.replace("/run/bulla-kms/kms.sock", "/@bulla-kms"));
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:";
        let read = yaml::parse(&format!("{head} [{text}]")).and_then(|tree| Encryption::read(&tree));
        let findings = judge(&read, &"@bulla-kms".parse().unwrap());
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:?}");
    }
}
