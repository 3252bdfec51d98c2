//! From text to [`Config`]: the layers one over another, then what must fit together.

use super::keys::{VARIABLE_PREFIX, find};
use super::{
    Alarms, Audit, AuditNames, AuditSync, AuditTarget, AutoUnseal, CertificateFiles, Config, Init, KEYS, Key, Kind,
    Limits, StoreKind, Tls, WebhookUrl,
};
use crate::webhook::WebhookUrlError;
use bulla_wire::id::ClusterId;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// A key set by a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The key's name, such as `audit.file`.
    pub key: &'static str,
    /// The value; a key that takes several stands several times.
    pub value: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(&'static str),
    /// Nowhere: it is missing.
    Missing,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Environment(variable) => write!(f, "from the environment variable {variable}"),
            Self::Flag(flag) => write!(f, "from the flag {flag}"),
            Self::Missing => f.write_str("given nowhere"),
        }
    }
}

/// Why there is no configuration. Names the key and where its value came from, and says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, as it stands in the file; the file itself if it is no TOML.
    pub key: String,
    /// Where the value came from.
    pub source: Source,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration: {} ({}): {}", self.key, self.source, self.problem)
    }
}
impl std::error::Error for ConfigError {}

/// Reads `file` if there is one, and lays the environment and the flags over it.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Config, ConfigError> {
    let text = match file {
        Some(path) => Some((
            path,
            std::fs::read_to_string(path).map_err(|error| ConfigError {
                key: "--config".into(),
                source: Source::File(path.to_owned()),
                problem: format!("cannot read the file: {error}"),
                hint: "give the path of a TOML file; `bulla server sample` prints one with every key".into(),
            })?,
        )),
        None => None,
    };
    layer(text.as_ref().map(|(path, text)| (*path, text.as_str())), environment, flags)
}

/// Lays the text of a file, the environment and the flags over each other and over the defaults.
pub fn layer(
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Config, ConfigError> {
    let mut settings = Settings::default();
    if let Some((path, text)) = file {
        settings.file(path, text)?;
    }
    settings.environment(environment)?;
    settings.flags(flags)?;
    settings.into_config()
}

/// Whether keys stand in a section of this name.
fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name))
}

/// A value whose form was checked against its key's kind.
#[derive(Debug, Clone)]
enum Setting {
    Text(String),
    Cluster(ClusterId),
    List(Vec<PathBuf>),
    Address(SocketAddr),
    Url(WebhookUrl),
    Boolean(bool),
    Number(u64),
}

#[derive(Default)]
struct Settings(BTreeMap<&'static str, (Setting, Source)>);

impl Settings {
    fn file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            ConfigError {
                key: format!("line {}", before.matches('\n').count().saturating_add(1)),
                source: Source::File(path.to_owned()),
                problem: format!("this is no TOML: {}", error.message()),
                hint: "`bulla server sample` prints a file with every key".into(),
            }
        })?;
        let source = Source::File(path.to_owned());
        for (name, value) in table {
            match value {
                Value::Table(section) if is_section(&name) => {
                    for (inner, value) in section {
                        self.toml(&format!("{name}.{inner}"), value, &source)?;
                    }
                }
                value => self.toml(&name, value, &source)?,
            }
        }
        Ok(())
    }

    fn toml(&mut self, name: &str, value: Value, source: &Source) -> Result<(), ConfigError> {
        let key = find(name).ok_or_else(|| unknown(name, source))?;
        let setting = match (key.kind, value) {
            (Kind::Boolean, Value::Boolean(value)) => Setting::Boolean(value),
            (Kind::Number(..), Value::Integer(value)) => parse(key, &value.to_string(), source)?,
            (Kind::Paths, Value::Array(values)) => {
                let paths =
                    values.iter().map(|value| value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from));
                Setting::List(paths.collect::<Option<_>>().ok_or_else(|| wrong(key, source, "no list of texts"))?)
            }
            (
                Kind::Path | Kind::Identity | Kind::Cluster | Kind::Address | Kind::Url | Kind::Choice(_),
                Value::String(text),
            ) => parse(key, &text, source)?,
            // The value may be a secret.
            (_, value) => return Err(wrong(key, source, &format!("something of type {}", value.type_str()))),
        };
        self.0.insert(key.name, (setting, source.clone()));
        Ok(())
    }

    fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (variable, text) in variables {
            if !variable.starts_with(VARIABLE_PREFIX) {
                continue;
            }
            let source = Source::Environment(variable.clone());
            let key = KEYS.iter().find(|key| key.variable() == variable).ok_or_else(|| unknown(&variable, &source))?;
            let setting = match key.kind {
                Kind::Paths => {
                    Setting::List(text.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect())
                }
                _ => parse(key, &text, &source)?,
            };
            self.0.insert(key.name, (setting, source));
        }
        Ok(())
    }

    fn flags(&mut self, flags: &[Flag]) -> Result<(), ConfigError> {
        for flag in flags {
            let Some(key) = find(flag.key) else { return Err(unknown(flag.key, &Source::Flag("--?"))) };
            let source = Source::Flag(key.flag.unwrap_or(key.name));
            let setting = match (key.kind, self.0.remove(key.name)) {
                // The first of them replaces what stands below, the others add to it.
                (Kind::Paths, Some((Setting::List(mut paths), Source::Flag(_)))) => {
                    paths.push(PathBuf::from(&flag.value));
                    Setting::List(paths)
                }
                (Kind::Paths, _) => Setting::List(vec![PathBuf::from(&flag.value)]),
                _ => parse(key, &flag.value, &source)?,
            };
            self.0.insert(key.name, (setting, source));
        }
        Ok(())
    }

    fn source(&self, name: &str) -> Source {
        self.0.get(name).map_or(Source::Missing, |(_, source)| source.clone())
    }
    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }
    fn text(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .and_then(|(setting, _)| if let Setting::Text(text) = setting { Some(text.as_str()) } else { None })
    }
    fn list(&self, name: &str) -> Vec<PathBuf> {
        self.0
            .get(name)
            .and_then(|(setting, _)| if let Setting::List(paths) = setting { Some(paths.clone()) } else { None })
            .unwrap_or_default()
    }
    fn address(&self, name: &str) -> Option<SocketAddr> {
        self.0
            .get(name)
            .and_then(|(setting, _)| if let Setting::Address(value) = setting { Some(*value) } else { None })
    }
    fn url(&self, name: &str) -> Option<WebhookUrl> {
        self.0
            .get(name)
            .and_then(|(setting, _)| if let Setting::Url(value) = setting { Some(value.clone()) } else { None })
    }
    fn boolean(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some((Setting::Boolean(true), _)))
    }
    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(|(setting, _)| if let Setting::Number(value) = setting { Some(*value) } else { None })
    }

    fn into_config(mut self) -> Result<Config, ConfigError> {
        self.defaults()?;
        let transient = self.boolean("transient");
        let data = self.path("data");
        self.check_place(transient, data.is_some())?;
        let store = match self.text("store") {
            Some("memory") => StoreKind::Memory,
            _ if transient => StoreKind::Memory,
            _ => StoreKind::File,
        };
        let files = match (self.path("tls.cert"), self.path("tls.key")) {
            (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(self.fault("tls.key", "tls.cert is given, its key is not", TLS_HINT)),
            (None, Some(_)) => {
                return Err(self.fault("tls.cert", "tls.key is given, its certificate is not", TLS_HINT));
            }
        };
        let target = match (self.text("audit.file"), &data) {
            (Some("-"), _) => AuditTarget::Stdout,
            (Some(path), _) => AuditTarget::File(path.into()),
            (None, Some(data)) => AuditTarget::Directory(data.join("audit")),
            (None, None) => {
                return Err(self.fault("audit.file", "a transient server has no directory for it", AUDIT_HINT));
            }
        };
        let sync = if self.text("audit.sync") == Some("each") { AuditSync::Each } else { AuditSync::Interval };
        let names = if self.text("audit.names") == Some("hashed") { AuditNames::Hashed } else { AuditNames::Clear };
        let missing = |name| self.fault(name, "it has no value", "this is a fault of the program: report it");
        let size =
            |name| self.number(name).and_then(|number| usize::try_from(number).ok()).ok_or_else(|| missing(name));
        Ok(Config {
            store,
            listen: self.address("listen").ok_or_else(|| missing("listen"))?,
            metrics_listen: self.address("metrics_listen"),
            tls: Tls { files, require_pq: self.boolean("tls.require_pq") },
            audit: Audit {
                target,
                sync,
                names,
                max_size_mib: self.number("audit.max_size_mib").ok_or_else(|| missing("audit.max_size_mib"))?,
            },
            alarms: Alarms { webhook: self.url("alarms.webhook"), webhook_ca: self.path("alarms.webhook_ca") },
            init: Init { admins: self.list("init.admins"), bundle: self.path("init.bundle") },
            auto_unseal: self.auto_unseal(data.as_deref())?,
            limits: Limits {
                connections: size("limits.connections")?,
                body_mib: size("limits.body_mib")?,
                requests_per_s: u32::try_from(size("limits.requests_per_s")?).unwrap_or(u32::MAX),
                leases: self.number("limits.leases").ok_or_else(|| missing("limits.leases"))?,
            },
            ready_file: self.path("ready_file"),
            accept_audit_loss: self.boolean("accept_audit_loss"),
            data,
        })
    }

    fn auto_unseal(&self, data: Option<&Path>) -> Result<Option<AutoUnseal>, ConfigError> {
        let cluster = self.0.get("auto_unseal.cluster").map(|(setting, _)| setting);
        let given = KEYS.iter().find(|key| key.name.starts_with("auto_unseal.") && self.0.contains_key(key.name));
        let (cluster, identity, data) = match (cluster, self.text("auto_unseal.identity"), data, given) {
            (Some(Setting::Cluster(cluster)), Some(identity), Some(data), _) => (*cluster, identity.to_owned(), data),
            (_, _, _, None) => return Ok(None),
            (_, _, None, Some(key)) => {
                let problem = "a transient server's cluster ends with it, so there is none to be opened at its start";
                return Err(self.fault(key.name, problem, "leave it out, or give --data DIR"));
            }
            (Some(_), None, ..) => {
                let hint = "name the identity of an admin; \"bulla kms bind\" makes one that keys elsewhere open";
                return Err(self.fault("auto_unseal.identity", "nobody is named whose share is given", hint));
            }
            (_, _, _, Some(_)) => {
                let hint = "give the id that \"bulla init\" printed; \"bulla status\" shows it, too";
                return Err(self.fault("auto_unseal.cluster", "no cluster is named that the share is for", hint));
            }
        };
        let memory = self.path("auto_unseal.memory").unwrap_or_else(|| data.join("unsealer"));
        let (kms, pin_file) = (self.path("auto_unseal.kms"), self.path("auto_unseal.pin_file"));
        if identity.starts_with("pkcs11:") && kms.is_some() {
            let hint = "leave it out: the token's own key is the identity; or name a file of \"bulla kms bind\"";
            return Err(self.fault("auto_unseal.kms", "auto_unseal.identity is on a token", hint));
        }
        Ok(Some(AutoUnseal { cluster, identity, kms, pin_file, memory }))
    }

    /// Fills in what no layer set. The defaults of the table go through the same parser as a file.
    fn defaults(&mut self) -> Result<(), ConfigError> {
        for key in KEYS {
            let Some(default) = key.default else { continue };
            // A transient server's store has another default.
            if self.0.contains_key(key.name) || key.name == "store" {
                continue;
            }
            let text = default.trim_matches('"');
            let setting =
                if key.kind == Kind::Paths { Setting::List(vec![]) } else { parse(key, text, &Source::Missing)? };
            self.0.insert(key.name, (setting, Source::Missing));
        }
        Ok(())
    }

    fn check_place(&self, transient: bool, data: bool) -> Result<(), ConfigError> {
        match (transient, data) {
            (false, false) => {
                return Err(self.fault(
                    "data",
                    "there is no data directory",
                    "give one with --data DIR, or run with --transient to keep nothing",
                ));
            }
            (true, true) => {
                return Err(self.fault(
                    "data",
                    "a transient server keeps nothing, so it takes no data directory",
                    "leave out either data or transient",
                ));
            }
            _ => {}
        }
        if transient && self.text("store") == Some("file") {
            let problem = "a transient server keeps its records in memory";
            return Err(self.fault("store", problem, "leave out either store or transient"));
        }
        if !transient && self.path("init.bundle").is_some() {
            let problem = "a cluster with a data directory keeps its principals and policies itself";
            return Err(self.fault("init.bundle", problem, "leave it out, or run with --transient"));
        }
        if transient && self.list("init.admins").is_empty() {
            let problem = "a transient server has no Unix socket, so somebody must be allowed to make the cluster";
            return Err(self.fault("init.admins", problem, "give --admin FILE with a record from \"bulla keygen\""));
        }
        Ok(())
    }

    fn fault(&self, key: &str, problem: &str, hint: &str) -> ConfigError {
        ConfigError { key: key.into(), source: self.source(key), problem: problem.into(), hint: hint.into() }
    }
}

const TLS_HINT: &str = "give both, or neither for a certificate of the node's own";
const AUDIT_HINT: &str = "give --audit FILE, or --audit - for standard output";

/// Reads a value from its text form, as environment and flags give it.
fn parse(key: &Key, text: &str, source: &Source) -> Result<Setting, ConfigError> {
    let refused = || wrong(key, source, &format!("\"{text}\""));
    match key.kind {
        Kind::Path | Kind::Paths if text.is_empty() => Err(refused()),
        Kind::Identity if text.is_empty() => Err(refused()),
        Kind::Path | Kind::Identity => Ok(Setting::Text(text.to_owned())),
        Kind::Cluster => text.parse().map(Setting::Cluster).map_err(|_| refused()),
        Kind::Paths => Ok(Setting::List(vec![text.into()])),
        Kind::Address => text.parse().map(Setting::Address).map_err(|_| refused()),
        // It may hold a secret, so it is not repeated.
        Kind::Url => text.parse().map(Setting::Url).map_err(|problem: WebhookUrlError| wrong(key, source, problem.0)),
        Kind::Choice(words) if words.contains(&text) => Ok(Setting::Text(text.to_owned())),
        Kind::Choice(_) => Err(refused()),
        Kind::Boolean => text.parse().map(Setting::Boolean).map_err(|_| refused()),
        Kind::Number(least, most) => match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Setting::Number(number)),
            _ => Err(refused()),
        },
    }
}

fn wrong(key: &Key, source: &Source, found: &str) -> ConfigError {
    ConfigError {
        key: key.name.into(),
        source: source.clone(),
        problem: format!("expected {}, found {found}", key.kind.expected()),
        hint: format!("correct {}, or leave it out", key.name),
    }
}

fn unknown(name: &str, source: &Source) -> ConfigError {
    let spelled = |key: &Key| match source {
        Source::Environment(_) => key.variable(),
        _ => key.name.to_owned(),
    };
    let nearest = KEYS.iter().map(spelled).min_by_key(|known| distance(known, name));
    let hint = match nearest.filter(|known| distance(known, name) <= 3) {
        Some(known) => format!("did you mean {known}?"),
        None => "`bulla server sample` prints a file with every key".into(),
    };
    // A name without letters is written as TOML writes it, or nothing would be named.
    let key = if name.is_empty() { "\"\"".to_owned() } else { name.to_owned() };
    ConfigError { key, source: source.clone(), problem: "there is no such key".into(), hint }
}

/// Letters to change, add or leave out to make one text of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        let mut next = vec![before];
        for (right, above) in b.bytes().zip(row.iter().skip(1)) {
            let changed = diagonal + usize::from(left != right);
            diagonal = *above;
            before = changed.min(above + 1).min(before + 1);
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Config, ConfigError> {
        layer(Some((Path::new("b.toml"), text)), [], &[])
    }
    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
    fn flag(key: &'static str, value: &str) -> Flag {
        Flag { key, value: value.into() }
    }

    #[test]
    fn defaults_with_a_data_directory() {
        let config = layer(None, [], &[flag("data", "/d")]).expect("a configuration");
        let expected = Config {
            data: Some("/d".into()),
            store: StoreKind::File,
            listen: "127.0.0.1:8250".parse().expect("an address"),
            metrics_listen: None,
            tls: Tls { files: None, require_pq: false },
            audit: Audit {
                target: AuditTarget::Directory("/d/audit".into()),
                sync: AuditSync::Interval,
                names: AuditNames::Clear,
                max_size_mib: 256,
            },
            alarms: Alarms { webhook: None, webhook_ca: None },
            init: Init { admins: vec![], bundle: None },
            auto_unseal: None,
            limits: Limits { connections: 4096, body_mib: 256, requests_per_s: 0, leases: 1000 },
            ready_file: None,
            accept_audit_loss: false,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn later_layers_win() {
        let text = "data = \"/file\"\nlisten = \"127.0.0.1:1\"\n[audit]\nsync = \"each\"\nmax_size_mib = 5\n\
                    [init]\nadmins = [\"a.pub\"]\n";
        let environment = environment(&[
            ("PATH", "/bin"),
            ("BULLA_SERVER_LISTEN", "127.0.0.1:2"),
            ("BULLA_SERVER_AUDIT__MAX_SIZE_MIB", "6"),
            ("BULLA_SERVER_INIT__ADMINS", "b.pub:c.pub"),
            ("BULLA_SERVER_TLS__REQUIRE_PQ", "true"),
        ]);
        let below = layer(Some((Path::new("b.toml"), text)), environment.clone(), &[]).expect("a configuration");
        assert_eq!(below.listen.port(), 2);
        assert_eq!((below.audit.sync, below.audit.max_size_mib), (AuditSync::Each, 6));
        assert_eq!(below.init.admins, [PathBuf::from("b.pub"), "c.pub".into()]);
        assert!(below.tls.require_pq);
        let flags =
            [flag("listen", "[::1]:3"), flag("init.admins", "d.pub"), flag("init.admins", "e.pub"), flag("data", "/x")];
        let config = layer(Some((Path::new("b.toml"), text)), environment, &flags).expect("a configuration");
        assert_eq!((config.listen.port(), config.data), (3, Some("/x".into())));
        assert_eq!(config.init.admins, [PathBuf::from("d.pub"), "e.pub".into()]);
    }

    macro_rules! cluster {
        () => {
            "sha256:UNhY4JhezH9gQYqvDMWrWH9CwlcKiECVqejMrND2VFw"
        };
    }

    #[test]
    fn every_key_can_be_set_by_every_layer() {
        for key in KEYS {
            let (text, plain) = match key.kind {
                Kind::Path | Kind::Identity => ("\"/p\"", "/p"),
                Kind::Cluster => (concat!("\"", cluster!(), "\""), cluster!()),
                Kind::Paths => ("[\"/p\"]", "/p"),
                Kind::Address => ("\"127.0.0.9:9\"", "127.0.0.9:9"),
                Kind::Url => ("\"https://a.example/b\"", "https://a.example/b"),
                Kind::Choice(words) => (words.last().copied().expect("a word"), words.last().copied().expect("a word")),
                Kind::Boolean => ("true", "true"),
                Kind::Number(..) => ("77", "77"),
            };
            let quoted = if matches!(key.kind, Kind::Choice(_)) { format!("\"{text}\"") } else { text.to_owned() };
            // What must stand beside it.
            let (mut beside, mut head) = (vec![], String::new());
            match key.name {
                "data" => {}
                "transient" => beside = vec![flag("init.admins", "/a"), flag("audit.file", "-")],
                "init.bundle" => {
                    beside = vec![flag("transient", "true"), flag("init.admins", "/a"), flag("audit.file", "-")];
                }
                _ => beside = vec![flag("data", "/d")],
            }
            match key.name {
                "tls.cert" => head = "[tls]\nkey = \"/k\"\n".into(),
                "tls.key" => head = "[tls]\ncert = \"/c\"\n".into(),
                "auto_unseal.cluster" => head = "[auto_unseal]\nidentity = \"/i\"\n".into(),
                "auto_unseal.identity" => head = concat!("[auto_unseal]\ncluster = \"", cluster!(), "\"\n").into(),
                name if name.starts_with("auto_unseal.") => {
                    head = concat!("[auto_unseal]\nidentity = \"/i\"\ncluster = \"", cluster!(), "\"\n").into();
                }
                _ => {}
            }
            let with = |text: &str, variables: &[(&str, &str)], flags: &[Flag]| {
                let flags: Vec<_> = beside.iter().chain(flags).cloned().collect();
                layer(Some((Path::new("b.toml"), text)), environment(variables), &flags)
                    .unwrap_or_else(|error| panic!("{}: {error}", key.name))
            };
            let in_file = match key.name.split_once('.') {
                Some((_, name)) if !head.is_empty() => format!("{head}{name} = {quoted}\n"),
                Some((section, name)) => format!("[{section}]\n{name} = {quoted}\n"),
                None => format!("{} = {quoted}\n", key.name),
            };
            let from_file = with(&in_file, &[], &[]);
            assert_eq!(from_file, with(&head, &[(&key.variable(), plain)], &[]), "{}", key.name);
            assert_eq!(from_file, with(&head, &[], &[flag(key.name, plain)]), "{}", key.name);
            // It has an effect.
            if key.name != "data" && key.name != "transient" && head.is_empty() {
                assert_ne!(from_file, with(&head, &[], &[]), "{}", key.name);
            }
        }
    }

    #[test]
    fn the_sample_is_taken_with_and_without_its_comments() {
        let sample = super::super::sample();
        let data = [flag("data", "/d")];
        let plain = layer(Some((Path::new("s"), &sample)), [], &data).expect("a configuration");
        assert_eq!(plain, layer(None, [], &data).expect("a configuration"));
        let set: String = sample
            .lines()
            .map(|line| match line.strip_prefix('#') {
                // A bundle is for a server without a data directory.
                Some(rest) if !rest.starts_with(' ') && !rest.starts_with("bundle = ") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = file(&set).expect("a configuration");
        assert_eq!(config.data, Some("/var/lib/bulla".into()));
        for key in KEYS {
            let name = key.name.rsplit('.').next().expect("a name");
            let stands = |line: &str| line.trim_start_matches('#').starts_with(&format!("{name} = "));
            assert!(set.lines().any(stands), "{}", key.name);
        }
    }

    #[test]
    fn errors_name_key_source_and_remedy() {
        let shown = |result: Result<Config, ConfigError>| {
            let error = result.expect_err("a fault");
            format!("{error}; {}", error.hint)
        };
        for (text, expected) in [
            ("daat = \"/d\"", "daat (in b.toml): there is no such key; did you mean data?"),
            (
                "[tls]\nrequire_qp = true",
                "tls.require_qp (in b.toml): there is no such key; did you mean tls.require_pq?",
            ),
            ("[tls.more]\nx = 1", "tls.more (in b.toml): there is no such key"),
            ("\"\" = 1", "\"\" (in b.toml): there is no such key"),
            (
                "[limits]\nconnections = 0",
                "limits.connections (in b.toml): expected a number from 1 to 1000000, found \"0\"",
            ),
            ("[limits]\nconnections = \"5\"", "found something of type string"),
            ("[limits]\nconnections = -1", "found \"-1\""),
            ("transient = \"true\"", "expected true or false"),
            ("listen = \"localhost:80\"", "listen (in b.toml): expected an IP address and a port"),
            ("store = \"disk\"", "expected \"file\" or \"memory\", found \"disk\""),
            ("data = \"\"", "expected a path"),
            ("[init]\nadmins = [1]", "init.admins (in b.toml): expected a list of paths"),
            ("a = = b", "line 1 (in b.toml): this is no TOML"),
            ("data = \"/d\"\n\nx", "line 3 (in b.toml): this is no TOML"),
            ("data = \"/a\"\ndata = \"/b\"", "this is no TOML"),
            ("", "data (given nowhere): there is no data directory; give one with --data DIR"),
            ("data = \"/d\"\ntransient = true", "data (in b.toml): a transient server keeps nothing"),
            ("transient = true", "init.admins (given nowhere): a transient server has no Unix socket"),
            ("transient = true\nstore = \"file\"", "store (in b.toml)"),
            (
                "transient = true\n[init]\nadmins = [\"a\"]",
                "audit.file (given nowhere): a transient server has no directory",
            ),
            (
                "data = \"/d\"\n[tls]\ncert = \"c\"",
                "tls.key (given nowhere): tls.cert is given, its key is not; give both",
            ),
            ("data = \"/d\"\n[tls]\nkey = \"c\"", "tls.cert (given nowhere)"),
            (
                "data = \"/d\"\n[init]\nbundle = \"b\"",
                "init.bundle (in b.toml): a cluster with a data directory keeps its principals and policies itself; \
                 leave it out",
            ),
        ] {
            let found = shown(file(text));
            assert!(found.contains(expected), "{text}: {found}");
        }
        let variable =
            |name: &str, value: &str| shown(layer(None, environment(&[(name, value)]), &[flag("data", "/d")]));
        let found = variable("BULLA_SERVER_AUDIT__SINC", "each");
        assert!(found.contains("there is no such key; did you mean BULLA_SERVER_AUDIT__SYNC?"), "{found}");
        let found = variable("BULLA_SERVER_AUDIT__SYNC", "never");
        assert!(found.contains("audit.sync (from the environment variable BULLA_SERVER_AUDIT__SYNC)"), "{found}");
        let found = shown(layer(None, [], &[flag("listen", "x")]));
        assert!(found.contains("listen (from the flag --listen)"), "{found}");
        let found = shown(load(Some(Path::new("/does/not/exist")), [], &[]));
        assert!(found.contains("--config (in /does/not/exist): cannot read the file"), "{found}");
    }

    #[test]
    fn a_transient_server() {
        let flags = [flag("transient", "true"), flag("init.admins", "a.pub"), flag("audit.file", "-")];
        let config = layer(None, [], &flags).expect("a configuration");
        assert_eq!((config.data, config.store, config.audit.target), (None, StoreKind::Memory, AuditTarget::Stdout));
    }

    /// The address may hold a secret, and whoever reads a log of failed starts need not know it.
    #[test]
    fn a_webhook_that_is_refused_is_not_repeated() {
        let silent = |result: Result<Config, ConfigError>| {
            let error = result.expect_err("a fault");
            let told = format!("{error:?} {error} {}", error.hint);
            assert!(!told.contains("s3cret"), "{told}");
        };
        for value in [
            "\"http://alerts.example/s3cret\"",
            "\"https://me:s3cret@alerts.example/\"",
            "[\"https://alerts.example/s3cret\"]",
            "\"https://alerts.example/s3cret",
        ] {
            silent(file(&format!("data = \"/d\"\n[alarms]\nwebhook = {value}\n")));
        }
        for value in ["s3cret", "http://alerts.example/s3cret", "https://me:s3cret@alerts.example/"] {
            silent(layer(None, environment(&[("BULLA_SERVER_ALARMS__WEBHOOK", value)]), &[flag("data", "/d")]));
        }
    }

    /// Each number is taken to its ends and not beyond; memory for bodies is enough for one largest wrap, which takes three times
    /// its size.
    #[test]
    fn numbers_have_their_ends() {
        for key in KEYS {
            let Kind::Number(least, most) = key.kind else { continue };
            let set = |value: u64| layer(None, [], &[flag("data", "/d"), flag(key.name, &value.to_string())]).is_ok();
            assert!(set(least) && set(most) && !set(most + 1), "{}", key.name);
            assert!(least.checked_sub(1).is_none_or(|below| !set(below)), "{}", key.name);
        }
        let Some(Kind::Number(least, most)) = find("limits.body_mib").map(|key| key.kind) else { panic!("a number") };
        assert!(least * 1024 * 1024 >= 3 * bulla_wire::wrap::MAX_CIPHERTEXT_BYTES);
        assert!(most * 1024 * 1024 <= u64::from(u32::MAX), "permits are counted so");
    }

    /// A section that is misspelt is refused also where it is empty, and a key that is written as a section is not left at its default.
    #[test]
    fn a_section_that_is_none_is_refused_though_it_is_empty() {
        for (text, key) in
            [("[limts]", "limts"), ("data = {}", "data"), ("[listen]", "listen"), ("[tls.more]", "tls.more")]
        {
            assert_eq!(layer(Some((Path::new("b.toml"), text)), [], &[flag("data", "/d")]).expect_err(text).key, key);
        }
        file("data = \"/d\"\n[limits]\n[tls]\n").expect("sections whose keys are all comments, as in the sample");
    }
}
