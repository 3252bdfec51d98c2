//! The steps of a rotation for the members of a configuration, with what is typed.

use serde_json::Value;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done; lower case, no full stop.
    pub what: String,
    /// What is typed for it.
    pub commands: Vec<String>,
}

fn step(what: impl Into<String>, commands: impl IntoIterator<Item = String>) -> Step {
    Step { what: what.into(), commands: commands.into_iter().collect() }
}

/// The steps. `config` is the file as a tree, and `file` its name.
pub fn steps(config: &Value, file: &str) -> Vec<Step> {
    let file = word(file);
    let members = config.get("members").and_then(Value::as_object);
    let of = |make: fn(&str, &Value) -> Option<Step>| {
        let kinds = members.into_iter().flatten().filter_map(|(name, member)| {
            let (kind, settings) = member.as_object()?.iter().next()?;
            make(kind, settings).map(|step| Step { what: format!("member {name}: {}", step.what), ..step })
        });
        kinds.collect::<Vec<_>>()
    };
    let mut steps =
        vec![step("note the hash of the key in use, as OLD", [format!("bulla kms verify --config {file}")])];
    steps.extend(of(rotate));
    let hash = "compare: every kube-apiserver was told the hash that every node's plugin names (wait promote_delay_s and a minute)";
    let status = format!("bulla kms rotate status --config {file} --metrics NODE1.metrics NODE2.metrics NODE3.metrics");
    let fetch = "kubectl --server https://NODE1:6443 get --raw /metrics > NODE1.metrics".to_owned();
    steps.push(step(hash, [fetch.clone(), status.clone()]));
    let kinds = "rewrite everything that is encrypted; the same for every other kind in the EncryptionConfiguration";
    steps.push(step(kinds, ["kubectl get secrets -A -o json | kubectl replace -f -".to_owned()]));
    let restart =
        "wait three minutes, then restart each kube-apiserver, one after the other: it reads everything when it begins";
    steps.push(step(restart, []));
    steps.push(step(
        "prove that nothing is left under the key before",
        [fetch, format!("{status} --old OLD --apiservers 3")],
    ));
    steps.push(step("wait until the last backup of etcd from before has gone; it needs the key before", []));
    steps.extend(of(retire));
    steps
}

fn rotate(kind: &str, settings: &Value) -> Option<Step> {
    let field = |name: &str| word(settings.get(name).and_then(Value::as_str).unwrap_or_default());
    Some(match kind {
        "bulla" => step(
            "make a new version",
            [format!(
                "bulla transit rotate {} --addr {} --cluster {}",
                field("key"),
                field("address"),
                field("cluster")
            )],
        ),
        "vault" => step(
            "make a new version",
            [format!("{}vault write -f {}/keys/{}/rotate", vault(settings), mount(settings), field("key"))],
        ),
        "aws" => step("make new key material", [format!("aws kms rotate-key-on-demand --key-id {}", field("key"))]),
        "azure" => azure(settings),
        "gcp" => {
            step("make a new primary version", [format!("gcloud kms keys versions create --primary {}", gcp(settings))])
        }
        "pkcs11" => step(
            "make another AES-256 key with another id on the token of every node, put its URI in uri and the one before into \
             also, and restart the plugin, one node after the other",
            [],
        ),
        "age" => step(
            "make a new key in the key file, and copy the file to every node within the hour",
            [format!("bulla kms keyfile rotate {} --begins 1h {}", field("file"), opens(settings))],
        ),
        _ => return None,
    })
}

fn retire(kind: &str, settings: &Value) -> Option<Step> {
    let field = |name: &str| word(settings.get(name).and_then(Value::as_str).unwrap_or_default());
    Some(match kind {
        "bulla" => step(
            "no longer decrypt by versions before N, the one in use",
            [format!(
                "bulla transit configure {} --min-decryption-version N --addr {} --cluster {}",
                field("key"),
                field("address"),
                field("cluster")
            )],
        ),
        "vault" => step(
            "no longer decrypt by versions before N, the one in use",
            [format!(
                "{}vault write {}/keys/{}/config min_decryption_version=N",
                vault(settings),
                mount(settings),
                field("key")
            )],
        ),
        "aws" => step("nothing: AWS KMS keeps every key material for as long as the key", []),
        "azure" => step(
            "disable the version before",
            [format!("az keyvault key set-attributes --id {}/VERSION --enabled false", azure_key(settings))],
        ),
        "gcp" => {
            step("disable the version before", [format!("gcloud kms keys versions disable VERSION {}", gcp(settings))])
        }
        "pkcs11" => step("take the URI of the key before out of also, on every node; keep the key on the token", []),
        "age" => step(
            "drop the keys before N, the one in use, and copy the file to every node; keep the file from before",
            [format!("bulla kms keyfile drop {} --before N {}", field("file"), opens(settings))],
        ),
        _ => return None,
    })
}

/// The options by which a node opens its key file.
fn opens(settings: &Value) -> String {
    let option = |(option, field): (&str, &str)| {
        settings.get(field).and_then(Value::as_str).map(|value| format!("{option} {}", word(value)))
    };
    let known = [("--identity", "identity"), ("--bound-to", "bound_to"), ("--pin-file", "pin_file")];
    known.into_iter().filter_map(option).collect::<Vec<_>>().join(" ")
}

fn mount(settings: &Value) -> String {
    word(settings.get("mount").and_then(Value::as_str).unwrap_or("transit"))
}

fn vault(settings: &Value) -> String {
    let variables = [("VAULT_ADDR", "address"), ("VAULT_NAMESPACE", "namespace")].into_iter();
    let set = variables.filter_map(|(name, field)| Some((name, settings.get(field)?.as_str()?)));
    set.map(|(name, value)| format!("{name}={} ", word(value))).collect()
}

/// The key's URL without a version.
fn azure_key(settings: &Value) -> String {
    let key = settings.get("key").and_then(Value::as_str).unwrap_or_default();
    let (before, path) = key.split_once("/keys/").unwrap_or((key, ""));
    let name = path.split('/').next().unwrap_or_default();
    word(&format!("{before}/keys/{name}"))
}

fn azure(settings: &Value) -> Step {
    let key = settings.get("key").and_then(Value::as_str).unwrap_or_default();
    let pinned = key.split_once("/keys/").is_some_and(|(_, path)| path.contains('/'));
    let what = if pinned {
        "make a new version, put it into key on every node, and restart the plugin, one node after the other"
    } else {
        "make a new version"
    };
    step(what, [format!("az keyvault key rotate --id {}", azure_key(settings))])
}

fn gcp(settings: &Value) -> String {
    let key = settings.get("key").and_then(Value::as_str).unwrap_or_default();
    let parts: Vec<&str> = key.split('/').collect();
    match parts.as_slice() {
        [_, project, _, location, _, ring, _, name] => format!(
            "--key {} --keyring {} --location {} --project {}",
            word(name),
            word(ring),
            word(location),
            word(project)
        ),
        _ => format!("--key {}", word(key)),
    }
}

/// A word of a shell's command line.
pub fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_has_its_commands() {
        for (kind, settings, made, left) in [
            (
                "bulla",
                json!({"key": "k", "address": "https://b:1", "cluster": "c"}),
                "bulla transit rotate k --addr",
                "bulla",
            ),
            (
                "vault",
                json!({"key": "k", "address": "https://v:8200", "namespace": "n/s"}),
                "VAULT_NAMESPACE=n/s vault",
                "vault",
            ),
            ("aws", json!({"key": "arn:aws:kms:eu:1:key/x"}), "--key-id arn:aws:kms:eu:1:key/x", ""),
            (
                "azure",
                json!({"key": "https://v.vault.azure.net/keys/k/1"}),
                "--id https://v.vault.azure.net/keys/k",
                "/VERSION",
            ),
            ("gcp", json!({"key": "projects/p/locations/l/keyRings/r/cryptoKeys/k"}), "--key k --keyring r", "disable"),
            ("pkcs11", json!({"uri": "pkcs11:x"}), "", ""),
            (
                "age",
                json!({"file": "/f", "identity": "/i"}),
                "rotate /f --begins 1h --identity /i",
                "drop /f --before N",
            ),
        ] {
            let steps = steps(&json!({"members": {"m": {kind: settings}}}), "/etc/kms.toml");
            let own: Vec<&Step> = steps.iter().filter(|step| step.what.starts_with("member m: ")).collect();
            let [first, last] = own.as_slice() else { panic!("{kind}: {steps:?}") };
            assert!(first.commands.concat().contains(made) && last.commands.concat().contains(left), "{kind}: {own:?}");
            let place = |needle: &str| steps.iter().position(|step| step.commands.concat().contains(needle)).unwrap();
            assert!(place("kubectl replace") < place("--old OLD"), "{steps:?}");
            assert_eq!(steps.last(), Some(*last), "nothing is retired before the proof");
        }
    }

    /// What is typed is pasted by whoever holds every key: it names the right one, and nothing of a file becomes a command.
    #[test]
    fn what_is_typed_fits_the_member() {
        let of = |kind: &str, settings: Value| {
            let steps = steps(&json!({"members": {"m": {kind: settings}}}), "/etc/my kms.toml");
            let own = steps.iter().filter(|step| step.what.starts_with("member m: "));
            let own: Vec<_> = own.map(|step| format!("{}\n{}", step.what, step.commands.join("\n"))).collect();
            assert!(
                steps.iter().flat_map(|step| &step.commands).any(|line| line.contains("--config '/etc/my kms.toml'"))
            );
            own.join("\n")
        };
        let age =
            of("age", json!({"file": "/f", "identity": "/i", "bound_to": "pkcs11:token=t;object=o", "pin_file": "/p"}));
        let opens = "--identity /i --bound-to 'pkcs11:token=t;object=o' --pin-file /p";
        assert_eq!(age.matches(opens).count(), 2, "{age}");
        let azure = |key: &str| of("azure", json!({ "key": key }));
        assert!(azure("https://v.vault.azure.net/keys/k/1").contains("put it into key on every node"));
        assert!(!azure("https://v.vault.azure.net/keys/k").contains("put it into key"));
        let vault =
            of("vault", json!({"key": "k", "mount": "team/t", "address": "https://v:8200", "namespace": "a;b"}));
        assert!(
            vault.contains("VAULT_ADDR=https://v:8200 VAULT_NAMESPACE='a;b' vault write -f team/t/keys/k/rotate"),
            "{vault}"
        );
        let gcp = of("gcp", json!({"key": "projects/p/locations/l/keyRings/r/cryptoKeys/k"}));
        assert_eq!(gcp.matches("--key k --keyring r --location l --project p").count(), 2, "{gcp}");
    }

    #[test]
    fn words_are_words_of_a_shell() {
        assert_eq!(word("a/b"), "a/b");
        assert_eq!(word(""), "''");
        assert_eq!(word("a;rm 'x'"), r"'a;rm '\''x'\'''");
    }
}
