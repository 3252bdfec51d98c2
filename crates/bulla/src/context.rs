//! Contexts: which cluster, where, and as whom, under a short name in `config.toml`.
//!
//! What a context trusts is the pin from which everything else is believed, so the file is made for its owner alone.

use crate::exit::{Exit, Failure};
use bulla_client::Pin;
use bulla_crypto::evidence::AdminSet;
use bulla_keys::KeySource;
use bulla_wire::id::{ClusterId, KeyId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Which cluster is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The one with this id.
    Cluster(ClusterId),
    /// Any that k of these admins approved.
    Admins(AdminSet),
}

impl Trust {
    /// Where a client's belief begins.
    pub fn pin(&self) -> Pin {
        match self {
            Self::Cluster(cluster) => Pin::Cluster(*cluster),
            Self::Admins(admins) => Pin::Admins(admins.clone()),
        }
    }
}

impl std::fmt::Display for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(cluster) => cluster.fmt(f),
            Self::Admins(admins) => write!(f, "any of {} of {} admins", admins.k(), admins.keys().len()),
        }
    }
}

/// Where to find a cluster, which one it must be, and who calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Context {
    /// `https://host:port`, `host:port` or `unix:/path`.
    pub address: String,
    /// What is believed.
    pub trust: Trust,
    /// The identity: a file, or keys on a token.
    pub identity: Option<KeySource>,
    /// The key that decrypts, if the identity only signs.
    pub decrypt_with: Option<KeySource>,
    /// Authorities that must also vouch for the server's certificate.
    pub ca: Option<PathBuf>,
}

/// A context as it stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k: Option<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    admins: Vec<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decrypt_with: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
}

/// What is trusted if not one cluster.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Admins,
}

impl TryFrom<Written> for Context {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { address, cluster, trust, k, admins, identity, decrypt_with, ca } = written;
        if address.is_empty() {
            return Err("missing field `address`".into());
        }
        let trust = match (cluster, trust, k) {
            (Some(cluster), None, None) if admins.is_empty() => Trust::Cluster(cluster),
            (None, Some(Word::Admins), Some(k)) => {
                Trust::Admins(AdminSet::new(admins, k).map_err(|error| error.to_string())?)
            }
            _ => return Err("it needs either cluster, or trust = \"admins\" with admins and k".into()),
        };
        let key = |field: &str, written: Option<PathBuf>| {
            let parsed = written.map(|written| KeySource::parse(written.as_os_str())).transpose();
            parsed.map_err(|error| format!("`{field}` names no key: {error}"))
        };
        let (identity, decrypt_with) = (key("identity", identity)?, key("decrypt_with", decrypt_with)?);
        Ok(Self { address, trust, identity, decrypt_with, ca })
    }
}

impl From<Context> for Written {
    fn from(context: Context) -> Self {
        let Context { address, trust, identity, decrypt_with, ca } = context;
        let path = |source: KeySource| source.to_os_string().into();
        let (identity, decrypt_with) = (identity.map(path), decrypt_with.map(path));
        let written = Self { address, identity, decrypt_with, ca, ..Self::default() };
        match trust {
            Trust::Cluster(cluster) => Self { cluster: Some(cluster), ..written },
            Trust::Admins(admins) => Self {
                trust: Some(Word::Admins),
                k: Some(admins.k()),
                admins: admins.keys().iter().copied().collect(),
                ..written
            },
        }
    }
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The context that is meant if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All contexts by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, Context>,
}

impl Contexts {
    /// Reads the file; nothing yet is no error.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::file("cannot read", path, &error)),
        };
        toml::from_str(&text).map_err(|error| {
            let problem = error.message().to_owned();
            Failure::new(Exit::Failed, format!("{} is no file of contexts: {problem}", path.display()))
                .hint("correct it, or put it away and add the contexts again with `bulla context add`")
        })
    }

    /// Changes the file: reads it, and writes a new one in its place. Nobody else changes it meanwhile, so of two who add a
    /// context at once neither is lost. If the change fails, the file stays as it is.
    pub fn change<T>(path: &Path, change: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let failed = |error: io::Error| Failure::file("cannot write", path, &error);
        let _held = lock(path).map_err(failed)?;
        let mut contexts = Self::load(path)?;
        let done = change(&mut contexts)?;
        let text = toml::to_string(&contexts)
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot write the contexts: {error}")))?;
        replace(path, text.as_bytes()).map_err(failed)?;
        Ok(done)
    }

    /// The context with this name.
    pub fn find(&self, name: &str) -> Result<&Context, Failure> {
        self.context.get(name).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no context {name:?}"))
                .hint("`bulla context list` shows them, `bulla context add NAME ADDR` makes one")
        })
    }

    /// Adds a context, which becomes the current one if there is none.
    pub fn add(&mut self, name: &str, context: Context) -> Result<(), Failure> {
        check_name(name)?;
        if self.context.contains_key(name) {
            return Err(Failure::new(Exit::Conflict, format!("there is a context {name:?} already"))
                .hint(format!("choose another name, or remove it first with `bulla context remove {name}`")));
        }
        self.context.insert(name.to_owned(), context);
        self.current.get_or_insert_with(|| name.to_owned());
        Ok(())
    }
}

/// Names of contexts are those of everything else.
pub fn check_name(name: &str) -> Result<(), Failure> {
    match name.parse::<bulla_wire::name::Name>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(format!("{name:?} is no name for a context: {error}"))
            .hint("choose a short word, such as prod")),
    }
}

/// Waits for the lock of the file of contexts, which is held until this is dropped, or its process ends. It is a file beside
/// it, since the file itself is replaced.
fn lock(path: &Path) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = path.with_extension("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(beside)?;
    file.lock()?;
    Ok(file)
}

/// Puts a whole new file in the place of the old one. Whoever does holds the lock, so the name is nobody else's.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("toml.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn context() -> Context {
        Context {
            address: "https://127.0.0.1:8250".into(),
            trust: Trust::Cluster(ClusterId::new([7; 32])),
            identity: Some(KeySource::File("/home/alice/alice.key".into())),
            decrypt_with: None,
            ca: None,
        }
    }

    #[test]
    fn the_first_context_is_the_current_one_and_none_is_replaced() {
        let mut contexts = Contexts::default();
        contexts.add("prod", context()).unwrap();
        contexts.add("test", context()).unwrap();
        assert_eq!(contexts.current.as_deref(), Some("prod"));
        assert_eq!(contexts.add("prod", context()).unwrap_err().exit, Exit::Conflict);
        assert_eq!(contexts.add("a b", context()).unwrap_err().exit, Exit::Usage);
        assert_eq!(contexts.find("none").unwrap_err().exit, Exit::NotFound);
    }

    #[test]
    fn the_file_is_read_as_it_was_written_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bulla/config.toml");
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default());
        let mut contexts = Contexts::default();
        contexts.add("prod", context()).unwrap();
        let admins = AdminSet::new([KeyId::new([2; 32]), KeyId::new([1; 32])], 2).unwrap();
        contexts.add("ci", Context { trust: Trust::Admins(admins), ..context() }).unwrap();
        let token = KeySource::Token(Box::new("pkcs11:token=ops;object=alice?pin-source=/pin".parse().unwrap()));
        let decrypt_with = Some(KeySource::File("/a.key".into()));
        contexts.add("ops", Context { identity: Some(token), decrypt_with, ..context() }).unwrap();
        let put = |there: &mut Contexts| {
            *there = contexts.clone();
            Ok(())
        };
        Contexts::change(&path, put).unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), contexts);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(&path, "[context.prod]\naddress = \"x\"\nclutser = \"y\"\n").unwrap();
        assert!(Contexts::load(&path).unwrap_err().message.contains("clutser"));
    }

    /// Two shells, or two steps of one script, add a context at once.
    #[test]
    fn of_those_who_change_it_at_once_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bulla/config.toml");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                let add = move |contexts: &mut Contexts| {
                    // Nobody else has it for as long as it is read, changed and written.
                    let other = File::open(path.with_extension("lock")).unwrap();
                    assert!(other.try_lock().is_err());
                    contexts.add(&format!("c{number}"), context())
                };
                scope.spawn(move || Contexts::change(path, add).unwrap());
            }
        });
        assert_eq!(Contexts::load(&path).unwrap().context.len(), 8);
        // Who fails changes nothing, and leaves the way to others.
        let before = fs::read(&path).unwrap();
        let failed = Contexts::change(&path, |contexts| {
            contexts.context.clear();
            contexts.find("c1").map(drop)
        });
        assert_eq!(failed.unwrap_err().exit, Exit::NotFound);
        assert_eq!(fs::read(&path).unwrap(), before);
        Contexts::change(&path, |contexts| contexts.add("last", context())).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|one| one.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["config.lock", "config.toml"]);
        assert_eq!(fs::metadata(path.with_extension("lock")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_context_trusts_one_thing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let (cluster, key) = (ClusterId::new([7; 32]), KeyId::new([1; 32]));
        let load = |lines: &str| {
            fs::write(&path, format!("[context.ci]\naddress = \"x\"\n{lines}\n")).unwrap();
            Contexts::load(&path).map(|contexts| contexts.context["ci"].trust.to_string())
        };
        let admins = format!("admins = [\"{key}\"]");
        assert_eq!(load(&format!("cluster = \"{cluster}\"")).unwrap(), cluster.to_string());
        assert_eq!(load(&format!("trust = \"admins\"\nk = 1\n{admins}")).unwrap(), "any of 1 of 1 admins");
        for bad in [
            String::new(),
            format!("cluster = \"{cluster}\"\ntrust = \"admins\"\nk = 1\n{admins}"),
            format!("cluster = \"{cluster}\"\n{admins}"),
            format!("trust = \"admins\"\n{admins}"),
            format!("k = 1\n{admins}"),
            format!("trust = \"admins\"\nk = 2\n{admins}"),
            format!("trust = \"admins\"\nk = 0\n{admins}"),
            "trust = \"admins\"\nk = 1\nadmins = []".to_owned(),
            format!("cluster = \"{cluster}\"\nidentity = \"pkcs11:tokne=a\""),
            format!("trust = \"anybody\"\nk = 1\n{admins}"),
        ] {
            assert!(load(&bad).is_err(), "{bad}");
        }
    }
}
