//! An EncryptionConfiguration of kube-apiserver, from a tree to values. Keys that stand in it are not kept.

use serde_json::{Map, Value};
use std::time::Duration;

/// Most lists of resources, and providers in each.
const MAX_ENTRIES: usize = 100;
/// What kube-apiserver waits for a plugin unless it is told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// Kinds of objects, each with who encrypts them.
    pub groups: Vec<Group>,
}

/// Kinds of objects and who encrypts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The kinds.
    pub resources: Vec<String>,
    /// The first one writes; all of them read.
    pub providers: Vec<Provider>,
}

/// Who encrypts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// Nobody.
    Identity,
    /// kube-apiserver, by keys in the file.
    Local(&'static str),
    /// A plugin.
    Kms(Kms),
}

/// A plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kms {
    /// Where it stands.
    pub at: String,
    /// Which protocol; kube-apiserver takes `v1` where it is left out.
    pub api_version: Option<String>,
    /// Its name, which stands in every stored object.
    pub name: String,
    /// Where it answers.
    pub endpoint: String,
    /// How long it may take; `None` if that is no duration.
    pub timeout: Option<Duration>,
    /// Whether a size of a cache is named, of protocol `v1`.
    pub cachesize: bool,
}

impl Encryption {
    /// Reads a tree.
    ///
    /// # Errors
    /// Which field is not as kube-apiserver takes it.
    pub fn read(tree: &Value) -> Result<Self, String> {
        let top = table(tree, "the file")?;
        known(top, "the file", &["apiVersion", "kind", "resources"])?;
        for (field, wanted) in [("apiVersion", "apiserver.config.k8s.io/v1"), ("kind", "EncryptionConfiguration")] {
            if text(top, "", field)? != wanted {
                return Err(format!("{field}: expected {wanted}"));
            }
        }
        let groups = list(top, "", "resources")?;
        let groups = groups.iter().enumerate().map(|(place, group)| Group::read(group, &format!("resources[{place}]")));
        Ok(Self { groups: groups.collect::<Result<_, _>>()? })
    }

    /// Every plugin in it.
    pub fn plugins(&self) -> impl Iterator<Item = &Kms> {
        self.groups.iter().flat_map(|group| &group.providers).filter_map(|provider| match provider {
            Provider::Kms(kms) => Some(kms),
            _ => None,
        })
    }
}

impl Group {
    fn read(tree: &Value, at: &str) -> Result<Self, String> {
        let group = table(tree, at)?;
        known(group, at, &["resources", "providers"])?;
        let resources = list(group, at, "resources")?.iter().map(|name| name.as_str().map(str::to_owned));
        let resources: Option<Vec<String>> = resources.collect();
        let resources = resources.ok_or_else(|| format!("{at}.resources: expected names"))?;
        let providers = list(group, at, "providers")?;
        let providers =
            providers.iter().enumerate().map(|(place, one)| Provider::read(one, &format!("{at}.providers[{place}]")));
        Ok(Self { resources, providers: providers.collect::<Result<_, _>>()? })
    }
}

impl Provider {
    fn read(tree: &Value, at: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected one of kms, aesgcm, aescbc, secretbox and identity";
        let mut fields = table(tree, at)?.iter();
        let (Some((kind, content)), None) = (fields.next(), fields.next()) else {
            return Err(format!("{at}: {EXPECTED}"));
        };
        Ok(match kind.as_str() {
            "identity" => Self::Identity,
            "aesgcm" => Self::Local("aesgcm"),
            "aescbc" => Self::Local("aescbc"),
            "secretbox" => Self::Local("secretbox"),
            "kms" => Self::Kms(Kms::read(content, &format!("{at}.kms"))?),
            _ => return Err(format!("{at}: {EXPECTED}")),
        })
    }
}

impl Kms {
    fn read(tree: &Value, at: &str) -> Result<Self, String> {
        let kms = table(tree, at)?;
        known(kms, at, &["apiVersion", "name", "endpoint", "timeout", "cachesize"])?;
        let optional = |field: &str| match kms.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("{at}.{field}: expected a text")),
        };
        Ok(Self {
            at: at.to_owned(),
            api_version: optional("apiVersion")?.filter(|version| !version.is_empty()),
            name: text(kms, at, "name")?.to_owned(),
            endpoint: text(kms, at, "endpoint")?.to_owned(),
            timeout: optional("timeout")?.map_or(Some(DEFAULT_TIMEOUT), |text| duration(&text)),
            cachesize: kms.get("cachesize").is_some_and(|size| !size.is_null()),
        })
    }
}

fn table<'a>(tree: &'a Value, at: &str) -> Result<&'a Map<String, Value>, String> {
    tree.as_object().ok_or_else(|| format!("{at}: expected a table of names and values"))
}

/// A field that is not known is not repeated: it may be a key that stands in the wrong place.
fn known(table: &Map<String, Value>, at: &str, fields: &[&str]) -> Result<(), String> {
    if table.keys().all(|name| fields.contains(&name.as_str())) {
        return Ok(());
    }
    Err(format!("{at}: has another field than {}", fields.join(", ")))
}

fn path(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") }
}

fn text<'a>(table: &'a Map<String, Value>, at: &str, field: &str) -> Result<&'a str, String> {
    let found = table.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    found.ok_or_else(|| format!("{}: expected a text", path(at, field)))
}

fn list<'a>(table: &'a Map<String, Value>, at: &str, field: &str) -> Result<&'a Vec<Value>, String> {
    let found = table.get(field).and_then(Value::as_array);
    let found = found.filter(|list| (1..=MAX_ENTRIES).contains(&list.len()));
    found.ok_or_else(|| format!("{}: expected a list of 1 to {MAX_ENTRIES} entries", path(at, field)))
}

/// A duration as Go writes it, such as `1m30s`, `2.5s` or `500ms`, that is positive.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = next;
    }
    (!total.is_zero()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::yaml;

    #[test]
    fn what_it_says_is_read_and_keys_are_not_kept() {
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, \
                    configmaps]\n  providers:\n  - kms: {apiVersion: v2, name: bulla, endpoint: 'unix:///k.sock', timeout: 3s}\n  \
                    - aescbc: {keys: [{name: a, secret: aHVudGVyMg==}]}\n  - identity: {}\n";
        let read = Encryption::read(&yaml::parse(text).unwrap()).unwrap();
        let [group] = read.groups.as_slice() else { panic!("{read:?}") };
        assert_eq!(group.resources, ["secrets", "configmaps"]);
        assert_eq!(group.providers.get(1..), Some(&[Provider::Local("aescbc"), Provider::Identity][..]));
        assert!(!format!("{read:?}").contains("aHVud"));
        let kms = read.plugins().next().unwrap();
        assert_eq!((kms.name.as_str(), kms.timeout), ("bulla", Some(DEFAULT_TIMEOUT)));
    }

    #[test]
    fn what_is_wrong_is_named_without_what_stands_there() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
        let one = |provider: &str| format!("{head}resources: [{{resources: [secrets], providers: [{provider}]}}]");
        for (text, named) in [
            ("hunter2".to_owned(), "the file"),
            ("kind: EncryptionConfig\napiVersion: v1\n".to_owned(), "apiVersion"),
            (head.to_owned(), "resources"),
            (format!("{head}resources: []"), "resources"),
            (format!("{head}resources: [{{resources: [secrets]}}]"), "resources[0].providers"),
            (format!("{head}resources: [{{resources: [1], providers: [identity: {{}}]}}]"), "resources[0].resources"),
            (format!("{head}resources: [hunter2]"), "resources[0]"),
            (one("hunter2: {}"), "resources[0].providers[0]"),
            (one("{identity: {}, aesgcm: {}}"), "resources[0].providers[0]"),
            (one("kms: hunter2"), "resources[0].providers[0].kms"),
            (one("kms: {endpoint: x}"), "resources[0].providers[0].kms.name"),
            (one("kms: {name: x}"), "resources[0].providers[0].kms.endpoint"),
            (one("kms: {name: x, endpoint: y, timeout: 3}"), "kms.timeout"),
            (one("kms: {name: x, endpoint: y, hunter2: z}"), "kms"),
        ] {
            let error = Encryption::read(&yaml::parse(&text).unwrap()).unwrap_err();
            assert!(error.contains(named) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn durations_are_gos() {
        let ms = Duration::from_millis;
        for (text, wanted) in [("3s", ms(3000)), ("1m30s", ms(90_000)), ("2.5s", ms(2500)), ("500ms", ms(500))] {
            assert_eq!(duration(text), Some(wanted), "{text}");
        }
        for bad in ["", "3", "0s", "-3s", "3 s", "s", "1d", "1e400s", "..s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
