//! The configuration of another plugin as ours: what can be said in ours is translated, and all else is named. No secret is
//! copied: where one stood, a file is named that a person makes.

pub mod kleidi;
pub mod trousseau;

use serde_json::{Map, Value};
use std::fmt::Write as _;

/// Where our socket is.
const ENDPOINT: &str = "unix:///run/bulla-kms/kms.sock";
/// Longest value that is taken over, in bytes.
const MAX_VALUE_BYTES: usize = 2048;

/// The plugin that is there, as kube-apiserver knows it.
#[derive(Debug, Clone)]
pub struct Before {
    /// Its name in the EncryptionConfiguration, which stands in every object that it encrypted.
    pub name: String,
    /// Its endpoint.
    pub endpoint: String,
}

/// What is chosen for the new one.
#[derive(Debug, Clone)]
pub struct Target {
    /// The name of the Kubernetes cluster.
    pub cluster: String,
    /// Kinds of objects that are encrypted.
    pub resources: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// `kms.toml`.
    pub config: String,
    /// The EncryptionConfiguration, with the old plugin second.
    pub encryption: String,
    /// What could not be translated, and why.
    pub left: Vec<String>,
    /// What a person does, in this order.
    pub steps: Vec<String>,
}

/// Fields of a table, taken out one by one, so that what nobody took is named.
struct Fields {
    fields: Map<String, Value>,
}

impl Fields {
    /// Names are taken without regard to case, as Go's JSON takes them.
    fn new(tree: &Value) -> Result<Self, String> {
        let table = tree.as_object().ok_or("expected a table of names and values")?;
        let fields = table.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        Ok(Self { fields })
    }

    fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// A text that is not empty.
    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        let plain = |text: &str| text.len() <= MAX_VALUE_BYTES && !text.chars().any(char::is_control);
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if plain(&text) => Ok(Some(text)),
            Some(_) => Err(format!("{name}: expected a text in one line")),
        }
    }

    /// A text that has to be there.
    fn needed(&mut self, name: &str) -> Result<String, String> {
        self.text(name)?.ok_or_else(|| format!("{name}: it is missing"))
    }

    /// Whether something stands there; it is not looked at, and gone.
    fn secret(&mut self, name: &str) -> bool {
        self.fields.remove(name).is_some_and(|value| value != Value::Null && value != "")
    }

    /// What nobody took, by name: what stands there may be secret.
    fn rest(self, left: &mut Vec<String>) {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        for (name, value) in self.fields {
            if value == Value::Null || value == "" {
                continue;
            }
            let shown =
                if !name.is_empty() && name.bytes().all(word) { name.as_str() } else { "a name that is no word" };
            left.push(format!("{shown}: not known here"));
        }
    }
}

/// A text of TOML and of YAML alike. Control characters are refused before.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// An address for us: Vault is not asked in clear.
fn address(given: &str, left: &mut Vec<String>) -> String {
    let given = given.trim_end_matches('/');
    // Who is shown there may have a password.
    let whole = given.split_once("://").and_then(|(scheme, rest)| {
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        Some(format!("{scheme}://{}{path}", authority.rsplit_once('@')?.1))
    });
    if whole.is_some() {
        left.push("address: the user before @ is not copied, nor a password there; change it".to_owned());
    }
    let given = whole.as_deref().unwrap_or(given);
    match given.strip_prefix("http://") {
        Some(rest) => {
            left.push(format!(
                "address: {given} is in clear, where everybody on the way reads the credential; have it speak TLS, and correct address"
            ));
            format!("https://{rest}")
        }
        None => given.to_owned(),
    }
}

/// The name of a mount without slashes around it.
fn mount(given: &str) -> String {
    given.trim_matches('/').to_owned()
}

fn config(target: &Target, before: &str, members: &str) -> String {
    format!(
        "# Translated from the configuration of {before}; `bulla kms sample` explains every key.\n\
         cluster = {}\nstate = \"/var/lib/bulla-kms/state.json\"\n\n[socket]\npath = \"/run/bulla-kms/kms.sock\"\n\n\
         [audit]\nfile = \"/var/log/bulla-kms/audit.jsonl\"\n{members}",
        quoted(&target.cluster)
    )
}

/// Ours first, which writes, and the one before second, which still reads.
fn encryption(target: &Target, before: &Before, protocol: &str) -> String {
    let resources = target.resources.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n  - resources: [{resources}]\n    \
         providers:\n      - kms:\n          apiVersion: v2\n          name: bulla\n          endpoint: {ENDPOINT}\n          \
         timeout: 3s\n      - kms:\n          apiVersion: {protocol}\n"
    );
    // Writing to a String does not fail.
    let _ =
        write!(text, "          name: {}\n          endpoint: {}\n", quoted(&before.name), quoted(&before.endpoint));
    text
}

fn steps(before: &Before, first: &[&str], last: &[&str]) -> Vec<String> {
    let common = [
        "fill in what kms.toml still lacks, and copy it to /etc/bulla-kms/kms.toml on every node".to_owned(),
        "`bulla kms verify --config /etc/bulla-kms/kms.toml` on every node has to show the same hash; then start bulla-kms.socket".to_owned(),
        format!(
            "compare name and endpoint of the second provider with the EncryptionConfiguration that is in use ({}, {}); if that \
             has other providers, take them over below it yourself",
            before.name, before.endpoint
        ),
        "put a copy of the EncryptionConfiguration with bulla second on every kube-apiserver, so that all of them read; then the \
         one that was written, with bulla first"
            .to_owned(),
        "rewrite everything: `kubectl get secrets -A -o json | kubectl replace -f -`, and every other kind in the list".to_owned(),
        "restart each kube-apiserver, and see that `bulla kms rotate status` finds no object under another key, and that no \
         metric names the old provider in from_storage"
            .to_owned(),
        format!("take {} out of the EncryptionConfiguration, stop its plugin, and keep its key for as long as there are backups", before.name),
    ];
    first
        .iter()
        .map(|text| (*text).to_owned())
        .chain(common)
        .chain(last.iter().map(|text| (*text).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
