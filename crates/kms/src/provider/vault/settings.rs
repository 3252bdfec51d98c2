//! The configuration of one key of a Vault or an OpenBao. It names files and no secret.

use crate::provider::http::Origin;
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest path of a namespace or a mount, and longest name of a key, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// A transit key of a HashiCorp Vault or an OpenBao, and who this node is there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where it is: `https://HOST[:PORT]`, of a node, or of what stands before several of them.
    #[serde(deserialize_with = "parsed")]
    pub address: Origin,
    /// PEM file of who may have signed its certificate; without it those whom the system trusts.
    pub ca: Option<PathBuf>,
    /// The namespace in which both the engine and the auth method are.
    pub namespace: Option<MountPath>,
    /// Where the transit engine is mounted.
    #[serde(default = "transit")]
    pub mount: MountPath,
    /// The name of the key. It is never made from here.
    pub key: KeyName,
    /// How this node logs in.
    pub auth: Auth,
}

/// How a node logs in. Every file is read again when it is needed, so another program may change it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// By a client certificate.
    Certificate(Certificate),
    /// By a token of a Kubernetes cluster, which Vault shows to that cluster. It must be another one than the cluster that
    /// this plugin serves, or neither starts without the other.
    Kubernetes(Jwt),
    /// By a signed token that Vault checks by public keys.
    Jwt(Jwt),
    /// By the id of a role and a secret.
    Approle(Approle),
    /// By a token that somebody else made.
    Token(TokenFile),
}

/// A client certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file of the certificate, and of those between it and the authority.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// Where the method is mounted: `cert` unless said otherwise.
    pub mount: Option<MountPath>,
    /// The role; without it Vault looks for one that fits.
    pub role: Option<KeyName>,
}

/// A JSON Web Token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// File that holds the token and nothing else.
    pub file: PathBuf,
    /// The role to log in as.
    pub role: KeyName,
    /// Where the method is mounted: `kubernetes` or `jwt` unless said otherwise.
    pub mount: Option<MountPath>,
}

/// A role of AppRole.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "ApproleFields")]
pub struct Approle {
    /// The id of the role. It is a name and opens nothing.
    pub role_id: RoleId,
    /// The secret.
    pub secret: SecretId,
    /// Where the method is mounted: `approle` unless said otherwise.
    pub mount: Option<MountPath>,
}

/// Where the secret of a role is.
#[derive(Debug, Clone)]
pub enum SecretId {
    /// `secret_id`: a file that holds it.
    Plain(PathBuf),
    /// `wrapped_secret_id`: a file that holds a wrapping token, which gives the secret once. The secret is kept in memory;
    /// after a restart there must be another wrapping token in the file.
    Wrapped(PathBuf),
}

/// [`Approle`] as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApproleFields {
    role_id: RoleId,
    secret_id: Option<PathBuf>,
    wrapped_secret_id: Option<PathBuf>,
    mount: Option<MountPath>,
}

impl TryFrom<ApproleFields> for Approle {
    type Error = &'static str;

    fn try_from(fields: ApproleFields) -> Result<Self, Self::Error> {
        let secret = match (fields.secret_id, fields.wrapped_secret_id) {
            (Some(file), None) => SecretId::Plain(file),
            (None, Some(file)) => SecretId::Wrapped(file),
            _ => return Err("approle takes a file as either secret_id or wrapped_secret_id"),
        };
        Ok(Self { role_id: fields.role_id, secret, mount: fields.mount })
    }
}

/// A file with a token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// File that holds the token and nothing else.
    pub file: PathBuf,
}

fn transit() -> MountPath {
    MountPath("transit".to_owned())
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = &'static str>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

macro_rules! name {
    ($(#[doc = $doc:literal])* $name:ident, $fits:expr, $expected:literal) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = &'static str;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let fits: fn(&str) -> bool = $fits;
                if text.len() <= MAX_NAME_BYTES && fits(text) { Ok(Self(text.to_owned())) } else { Err($expected) }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parsed(deserializer)
            }
        }
        impl $name {
            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The path of a mount or a namespace, in one spelling: names with a slash between them.
    MountPath, |text| text.split('/').all(is_name),
    "expected names of a-z, A-Z, 0-9, _, - and . with a slash between them, none at the ends"
}
name! {
    /// The name of a key or a role.
    KeyName, is_name, "expected a name of a-z, A-Z, 0-9, _, - and ., which begins and ends with a letter, a digit or _"
}
name! {
    /// The id of a role of AppRole.
    RoleId, |text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()),
    "expected the id of a role: one word without spaces"
}

/// As the transit engine takes names: what is a name needs no other spelling in a URL, and `..` is none.
fn is_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let ends = |byte: Option<&u8>| byte.copied().is_some_and(word);
    let bytes = text.as_bytes();
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|byte| word(*byte) || matches!(byte, b'-' | b'.'))
}

impl Auth {
    /// The path of the method's mount.
    pub fn mount(&self) -> &str {
        let (given, usual) = match self {
            Self::Certificate(own) => (own.mount.as_ref(), "cert"),
            Self::Kubernetes(own) => (own.mount.as_ref(), "kubernetes"),
            Self::Jwt(own) => (own.mount.as_ref(), "jwt"),
            Self::Approle(own) => (own.mount.as_ref(), "approle"),
            Self::Token(_) => (None, "token"),
        };
        given.map_or(usual, MountPath::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn with(change: impl FnOnce(&mut Value)) -> Result<Settings, String> {
        let mut value = json!({
            "address": "https://vault.example:8200",
            "key": "k8s",
            "auth": {"approle": {"role_id": "r", "secret_id": "/run/secret-id"}},
        });
        change(&mut value);
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_is_as_usual() {
        let settings = with(|_| ()).unwrap();
        assert_eq!((settings.mount.as_str(), settings.auth.mount()), ("transit", "approle"));
        assert!(settings.namespace.is_none() && settings.ca.is_none());
        for (auth, mount) in [
            (json!({"certificate": {"certificate": "c", "key": "k"}}), "cert"),
            (json!({"certificate": {"certificate": "c", "key": "k", "role": "r", "mount": "x/y"}}), "x/y"),
            (json!({"kubernetes": {"file": "t", "role": "r"}}), "kubernetes"),
            (json!({"jwt": {"file": "t", "role": "r"}}), "jwt"),
            (json!({"approle": {"role_id": "r", "wrapped_secret_id": "w"}}), "approle"),
            (json!({"token": {"file": "t"}}), "token"),
        ] {
            assert_eq!(with(|value| value["auth"] = auth).unwrap().auth.mount(), mount);
        }
    }

    #[test]
    fn what_is_not_known_or_ambiguous_is_refused() {
        for auth in [
            json!({"token": {"file": "t", "token": "hvs.secret"}}),
            json!({"approle": {"role_id": "r"}}),
            json!({"approle": {"role_id": "r", "secret_id": "a", "wrapped_secret_id": "b"}}),
            json!({"approle": {"role_id": "r", "secret_id": "a", "x": 1}}),
            json!({"token": {"file": "t"}, "jwt": {"file": "t", "role": "r"}}),
            json!({"userpass": {}}),
            json!({}),
        ] {
            assert!(with(|value| value["auth"] = auth.clone()).is_err(), "{auth}");
        }
        assert!(with(|value| value["keys"] = json!("k")).unwrap_err().contains("unknown field"));
        assert!(with(|value| value["address"] = json!("http://vault.example")).unwrap_err().contains("https"));
    }

    #[test]
    fn names_have_one_spelling() {
        for good in ["k", "k8s", "a-b", "a.b_c", "_"] {
            assert!(good.parse::<KeyName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "-a", "a-", "a%2fb", "ä", "a?b", &"a".repeat(257)] {
            assert!(bad.parse::<KeyName>().is_err(), "{bad}");
        }
        assert!("team/a/transit".parse::<MountPath>().is_ok());
        for bad in ["", "/a", "a/", "a//b", "a/../b"] {
            assert!(bad.parse::<MountPath>().is_err(), "{bad}");
        }
    }
}
