//! Texts of audit lines: short, printable, and names in clear or hidden behind a keyed hash.

use crate::action::{Resource, text_serde};
use bulla_crypto::digest::{framed, hmac_sha256};
use bulla_crypto::secret::SecretKey;
use bulla_wire::encoding::base64url;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Longest label in bytes: a name (128) with a number or a dotted suffix.
pub const LABEL_BYTES_MAX: usize = 160;
/// Longest resource in bytes: a kind and a path of 512 bytes.
pub const RESOURCE_BYTES_MAX: usize = 544;
/// What stands before a keyed hash. No name contains a colon, so no name looks like it.
const HASHED: &str = "hmac:";
/// What stands for a name that cannot be hashed yet, because the key is sealed.
const HIDDEN: &str = "hidden:";
/// Separates these hashes from every other use of a key.
const NAME_CONTEXT: &[u8] = b"bulla/v1/audit/name";

/// Why a text does not go into an audit line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseTextError(&'static str);

impl fmt::Display for ParseTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
impl std::error::Error for ParseTextError {}

/// Printable ASCII that JSON writes as it is: no text from outside can forge a second field or a second line.
fn plain(text: &str, limit: usize) -> bool {
    !text.is_empty()
        && text.len() <= limit
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\' || byte == b' ')
}

/// A short text of printable ASCII without quotation marks and backslashes: an action, a route, the id of a policy.
///
/// Lines hold actions as labels, so that a node reads what a newer one wrote; they are *made* from typed values only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(Box<str>);

impl Label {
    /// Keeps what fits: other characters become `?`, the rest beyond [`LABEL_BYTES_MAX`] is cut.
    pub fn lossy(text: &str) -> Self {
        let kept: String = text
            .chars()
            .take(LABEL_BYTES_MAX)
            .map(|c| if plain(c.encode_utf8(&mut [0; 4]), 1) { c } else { '?' })
            .collect();
        Self(if kept.is_empty() { "?".into() } else { kept.into() })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for Label {
    type Err = ParseTextError;
    fn from_str(text: &str) -> Result<Self, ParseTextError> {
        if plain(text, LABEL_BYTES_MAX) {
            Ok(Self(text.into()))
        } else {
            Err(ParseTextError("a label has 1 to 160 bytes of printable ASCII without \" and \\"))
        }
    }
}
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How names of principals and secrets stand in the lines (`audit.names`). Names of policies always stand in clear,
/// as do the reasons of decisions, which name policies.
#[derive(Debug, Clone, Default)]
pub enum Names {
    /// As they are.
    #[default]
    Clear,
    /// As HMAC-SHA-256 under a key that the barrier keeps.
    Hashed(NameKey),
    /// Not at all: names are to be hashed, and the key is sealed.
    Hidden,
}

/// The key of hashed names.
#[derive(Clone)]
pub struct NameKey(Arc<SecretKey>);

impl NameKey {
    /// Takes the audit key of the keyring.
    pub fn new(key: SecretKey) -> Self {
        Self(Arc::new(key))
    }

    fn hash(&self, kind: &str, name: &str) -> [u8; 32] {
        hmac_sha256(self.0.expose(), &[&framed(&[NAME_CONTEXT, kind.as_bytes(), name.as_bytes()])])
    }
}

impl fmt::Debug for NameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameKey(..)")
    }
}

impl Names {
    /// A principal's name as it goes into a line.
    pub fn principal(&self, name: &str) -> Label {
        Label(self.show("principal", name).into())
    }

    /// A user of a database as it goes into a line.
    pub fn user(&self, name: &str) -> Label {
        Label::lossy(&self.show("user", name))
    }

    /// A resource as it goes into a line: its kind always in clear, what stands behind it as configured. The id
    /// of a wrap is a random number that names nothing, and stays in clear.
    pub fn resource(&self, resource: &Resource) -> ResourceText {
        let (kind, id) = (resource.kind(), resource.id());
        ResourceText(match resource {
            _ if id.is_empty() => kind.into(),
            Resource::Wrap(_) | Resource::Policy(_) => resource.to_string().into(),
            _ => format!("{kind}/{}", self.show(kind, &id)).into(),
        })
    }

    fn show(&self, kind: &str, name: &str) -> String {
        match self {
            Self::Clear => name.to_owned(),
            Self::Hashed(key) => format!("{HASHED}{}", base64url(&key.hash(kind, name))),
            Self::Hidden => HIDDEN.to_owned(),
        }
    }
}

/// A resource as it stands in a line: `<kind>`, `<kind>/<id>`, `<kind>/hmac:<43 characters>` or `<kind>/hidden:`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourceText(Box<str>);

impl ResourceText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for ResourceText {
    type Err = ParseTextError;
    fn from_str(text: &str) -> Result<Self, ParseTextError> {
        if plain(text, RESOURCE_BYTES_MAX) && !text.contains(' ') {
            Ok(Self(text.into()))
        } else {
            Err(ParseTextError("a resource has 1 to 544 bytes of printable ASCII without space, \" and \\"))
        }
    }
}
impl fmt::Display for ResourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a request came from, as the node saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// `local`: the socket in the data directory.
    Local,
    /// The peer's address, without port.
    Ip(IpAddr),
}
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}
impl FromStr for Address {
    type Err = ParseTextError;
    fn from_str(text: &str) -> Result<Self, ParseTextError> {
        match text {
            "local" => Ok(Self::Local),
            _ => text.parse().map(Self::Ip).map_err(|_| ParseTextError("expected \"local\" or an IP address")),
        }
    }
}

text_serde!(Label, ResourceText, Address);

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::secret::Secret;

    fn key(byte: u8) -> Names {
        Names::Hashed(NameKey::new(Secret::filled(|key| key.fill(byte))))
    }

    #[test]
    fn labels_cannot_break_out_of_a_line() {
        for bad in ["", "a\"b", "a\\b", "a\nb", "a\0", "ä", &"x".repeat(161)] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
            let kept = Label::lossy(bad);
            assert!(kept.as_str().parse::<Label>().is_ok(), "{bad:?} gave {kept:?}");
        }
        assert_eq!(Label::lossy("a\"ä\n").as_str(), "a???");
    }

    #[test]
    fn names_are_hidden_as_configured() {
        let secret: Resource = "kv/app/db".parse().unwrap();
        assert_eq!(Names::Clear.resource(&secret).as_str(), "kv/app/db");
        assert_eq!(Names::Hidden.resource(&secret).as_str(), "kv/hidden:");
        let hashed = key(1).resource(&secret);
        assert!(hashed.as_str().starts_with("kv/hmac:") && hashed.as_str().len() == 51, "{hashed}");
        assert_eq!(hashed, key(1).resource(&secret));
        assert_ne!(hashed, key(2).resource(&secret));
        assert_ne!(hashed, key(1).resource(&"kv/app".parse().unwrap()));
        let wrap: Resource = "wrap/aaaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap();
        assert_eq!(key(1).resource(&wrap).as_str(), wrap.to_string());
        assert_eq!(key(1).resource(&Resource::Seal).as_str(), "seal");
        assert!(key(1).principal("bob").as_str().starts_with("hmac:"));
        // A principal is found by its name wherever it stands; a secret of that name has another hash.
        let hash = |text: &str| key(1).resource(&text.parse().unwrap()).as_str().split_once('/').unwrap().1.to_owned();
        assert_eq!(hash("principal/bob"), key(1).principal("bob").as_str());
        assert_ne!(hash("kv/bob"), hash("principal/bob"));
        assert_eq!(key(1).resource(&"policy/team".parse().unwrap()).as_str(), "policy/team");
    }

    #[test]
    fn addresses_have_one_spelling() {
        for good in ["local", "10.0.0.1", "2001:db8::1"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        assert!("10.0.0.1:80".parse::<Address>().is_err());
    }
}
