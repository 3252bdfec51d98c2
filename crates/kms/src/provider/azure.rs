//! Azure Key Vault and Managed HSM: an RSA key, by the REST API.
//!
//! A version is pinned by its URL. RSA-OAEP-256 binds to no context; what is wrapped here is a key for a single use, and
//! what that key seals is bound to the cluster and the key id. Whoever has the public key can wrap, so what is unwrapped
//! proves nothing of who wrapped it: the caller authenticates what it opens. Keys of AES, which only a Managed HSM has,
//! are refused.

mod source;

pub use source::{Id, Source};

use super::cloud::oauth::Api;
use super::cloud::{self, Text, answer, json, word};
use super::http::{Http, Origin, Reply};
use super::{Answer, Class, Context, Kind, Observation, Provider, ProviderError};
use crate::key::KeyRef;
use bulla_crypto::digest::{framed, sha256};
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_wire::encoding::{base32, base64url, base64url_decode};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use source::Tokens;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Largest wrapped key in bytes: that of RSA with 4096 bits, the longest that Key Vault has.
const MAX_WRAPPED_BYTES: usize = 512;
/// Fewest bits of a key.
const MIN_BITS: u16 = 2048;
/// The version of the API, which every vault and HSM speaks.
const API: &str = "api-version=7.4";
/// How many versions a key may have that are enabled, each of which is looked at once.
const MAX_VERSIONS: usize = 100;
const MAX_PAGES: usize = 20;
const ALGORITHM: &str = "RSA-OAEP-256";
/// The domains of vaults and HSMs, whose tokens are for `https://` and the domain.
const DOMAINS: &[&str] = &[
    "vault.azure.net",
    "managedhsm.azure.net",
    "vault.azure.cn",
    "managedhsm.azure.cn",
    "vault.usgovcloudapi.net",
    "managedhsm.usgovcloudapi.net",
];

/// A key of Azure Key Vault or Managed HSM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key's URL, with a version if always that one is to wrap; without one, the newest that is enabled does.
    pub key: KeyUrl,
    /// What tokens are for; needed only where the vault is not in a domain of Azure's own.
    #[serde(default, deserialize_with = "cloud::origin")]
    pub audience: Option<Origin>,
    /// The most bits that a version has: 2048, 3072 or 4096. They decide how long what is wrapped may be, and members share
    /// the room of an envelope.
    #[serde(default)]
    pub bits: Bits,
    /// A PEM file of authorities that judge the certificates of vault and authority; the system's if none is named.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How tokens are obtained.
    pub credentials: Source,
}

/// How many bits a version of a key has at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
pub struct Bits(u16);

impl Default for Bits {
    fn default() -> Self {
        Self(3072)
    }
}

impl TryFrom<u16> for Bits {
    type Error = &'static str;

    fn try_from(bits: u16) -> Result<Self, Self::Error> {
        if [MIN_BITS, 3072, 4096].contains(&bits) { Ok(Self(bits)) } else { Err("expected 2048, 3072 or 4096") }
    }
}

/// The URL of a key: `https://VAULT.vault.azure.net/keys/NAME`, or with `/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyUrl {
    origin: Origin,
    name: String,
    version: Option<String>,
}

impl TryFrom<String> for KeyUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const FORM: &str = "expected the URL of a key, https://VAULT.vault.azure.net/keys/NAME, or with /VERSION";
        let (origin, path) = text.split_once("/keys/").ok_or(FORM)?;
        let origin: Origin = origin.parse()?;
        if origin.as_str() != origin.as_str().to_ascii_lowercase() || !text.starts_with(&format!("{origin}/")) {
            return Err("expected the URL of a key with its host in lower case");
        }
        let (name, version) = path.split_once('/').map_or((path, None), |(name, version)| (name, Some(version)));
        let plain = |part: &str| {
            (1..=127).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !plain(name) || !version.is_none_or(plain) {
            return Err(FORM);
        }
        Ok(Self { name: name.to_owned(), version: version.map(str::to_owned), origin })
    }
}

impl KeyUrl {
    /// It, without a version.
    fn backend(&self) -> String {
        format!("{}/keys/{}", self.origin, self.name)
    }

    /// What tokens for its vault are for.
    fn audience(&self) -> Result<Origin, ProviderError> {
        let domain = self.origin.host().split_once('.').map_or("", |(_, domain)| domain);
        let known = DOMAINS.iter().find(|known| **known == domain).map(|known| format!("https://{known}").parse());
        known.and_then(Result::ok).ok_or_else(|| {
            let text = format!("{} is in no domain of Azure's own: name audience, what tokens are for", self.origin);
            ProviderError::new(Class::Config, text)
        })
    }
}

/// A key of Azure Key Vault or Managed HSM.
pub struct Azure {
    key: KeyUrl,
    backend: String,
    bits: Bits,
    api: Api<Tokens>,
    /// The versions that were looked at: their public key does not change.
    seen: Mutex<HashMap<String, String>>,
}

impl Azure {
    /// Makes ready to use the key. Nothing is asked.
    ///
    /// # Errors
    /// [`Class::Config`].
    pub fn open(settings: &Settings) -> Result<Self, ProviderError> {
        let (key, ca) = (settings.key.clone(), settings.ca.as_deref());
        let audience = settings.audience.clone().map_or_else(|| key.audience(), Ok)?;
        let tokens = Tokens::open(&settings.credentials, &audience, ca)?;
        let api = Api::new(Http::new(key.origin.clone(), ca, None), tokens);
        Ok(Self { backend: key.backend(), bits: settings.bits, key, api, seen: Mutex::default() })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        right: &'static str,
        path: &str,
        body: Option<SecretBytes>,
        fields: &'static [&'static str],
    ) -> Result<T, ProviderError> {
        let reply = self.api.call(path, body).await?;
        if reply.status == StatusCode::OK {
            answer(self.api.http.origin(), &reply, fields)
        } else {
            Err(self.refusal(right, &reply))
        }
    }

    fn refusal(&self, right: &str, reply: &Reply) -> ProviderError {
        let (code, key) = (code(reply), &self.backend);
        let failed = |class, what: &str| ProviderError::new(class, format!("{key}: {code}: {what}"));
        match (reply.status, code.as_str()) {
            (_, "KeyDisabled" | "KeyExpired" | "KeyNotYetValid" | "ObjectIsDeletedButRecoverable") => {
                failed(Class::KeyDisabled, "this version is disabled, out of its time or deleted")
            }
            (_, "KeyOperationForbidden") => failed(Class::Config, &format!("the key's operations lack {right}")),
            (StatusCode::UNAUTHORIZED, _) => {
                failed(Class::Denied, "the token is refused: is it for this audience, and of the vault's tenant?")
            }
            (StatusCode::FORBIDDEN, "ForbiddenByFirewall" | "ForbiddenByConnection") => {
                failed(Class::Denied, "the vault's firewall does not let this machine in")
            }
            (StatusCode::FORBIDDEN, _) => failed(Class::Denied, &format!("the identity lacks the right {right}")),
            (StatusCode::NOT_FOUND, _) => failed(Class::UnknownKey, "there is no such key or version"),
            (StatusCode::CONFLICT, _) => failed(Class::KeyDisabled, "the key is being deleted or restored"),
            (StatusCode::TOO_MANY_REQUESTS, _) => failed(Class::Throttled, "fewer requests are wanted"),
            (StatusCode::BAD_REQUEST, _) if right == "keys/unwrap" => {
                failed(Class::Corrupt, "what was wrapped was altered, or belongs to another key")
            }
            (StatusCode::BAD_REQUEST, _) => failed(Class::Config, "the request does not fit: is it an RSA key?"),
            (StatusCode::REQUEST_TIMEOUT, _) => failed(Class::Unavailable, "the service does not work"),
            (status, _) if status.is_server_error() => failed(Class::Unavailable, "the service does not work"),
            (status, _) => failed(Class::Protocol, &format!("status {}", status.as_u16())),
        }
    }

    /// The version in a key's URL as it is answered.
    fn version_of<'a>(&self, kid: &'a str) -> Result<&'a str, ProviderError> {
        let version = kid.strip_prefix(&self.backend).and_then(|rest| rest.strip_prefix('/'));
        version.filter(|version| word(version) == *version).ok_or_else(|| {
            let text = format!("{} answers for another key; is its name in the same case?", self.backend);
            ProviderError::new(Class::Protocol, text)
        })
    }

    fn is_version(&self, kid: &str, version: &str) -> Result<(), ProviderError> {
        if self.version_of(kid)? == version {
            return Ok(());
        }
        Err(ProviderError::new(Class::Protocol, format!("{} answers for another version", self.backend)))
    }

    /// Every version that is enabled.
    async fn enabled(&self) -> Result<Vec<Version>, ProviderError> {
        let mut path = format!("/keys/{}/versions?{API}&maxresults=25", self.key.name);
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let page: Versions = self.call("keys/list", &path, None, &["value", "nextLink"]).await?;
            for Item { kid, attributes } in page.value {
                if attributes.enabled {
                    all.push(Version { name: self.version_of(&kid)?.to_owned(), attributes });
                }
            }
            let Some(next) = page.next_link.filter(|next| !next.is_empty()) else { return self.few(all) };
            // The service writes its port, which is that of https.
            let own = next.strip_prefix(self.key.origin.as_str());
            let own =
                own.map(|next| next.strip_prefix(":443").unwrap_or(next)).filter(|next| next.starts_with("/keys/"));
            path = own.map(str::to_owned).ok_or_else(|| {
                let text = format!("{} continues its list of versions elsewhere", self.backend);
                ProviderError::new(Class::Protocol, text)
            })?;
        }
        let text = format!("{} lists more than {MAX_PAGES} pages of versions", self.backend);
        Err(ProviderError::new(Class::Protocol, text))
    }

    fn few(&self, versions: Vec<Version>) -> Result<Vec<Version>, ProviderError> {
        if versions.len() > MAX_VERSIONS {
            let text = format!("{} has more than {MAX_VERSIONS} enabled versions: disable the oldest", self.backend);
            return Err(ProviderError::new(Class::Config, text));
        }
        Ok(versions)
    }

    /// A hash of a version's public key, which is asked once.
    async fn check(&self, version: &str) -> Result<String, ProviderError> {
        let known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(version).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let path = format!("/keys/{}/{version}?{API}", self.key.name);
        let Bundle { key } = self.call("keys/get", &path, None, &["key"]).await?;
        self.is_version(&key.kid, version)?;
        let part = |part: Option<String>| part.as_deref().and_then(base64url_decode);
        let (Some(n), Some(e), "RSA" | "RSA-HSM") = (part(key.n), part(key.e), key.kty.as_str()) else {
            let text = format!("{} has a version that is no RSA key ({})", self.backend, word(&key.kty));
            return Err(ProviderError::new(Class::Config, text));
        };
        let length = n.len().saturating_mul(8);
        if !(usize::from(MIN_BITS)..=usize::from(self.bits.0)).contains(&length) {
            let text =
                format!("{} has a version of {length} bits; bits allows {MIN_BITS} to {}", self.backend, self.bits.0);
            return Err(ProviderError::new(Class::Config, text));
        }
        let check = base32(&sha256(&[&framed(&[&n, &e])]));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Versions come and go; the ones that are needed are asked again.
        if seen.len() >= 2 * MAX_VERSIONS {
            seen.clear();
        }
        seen.insert(version.to_owned(), check.clone());
        Ok(check)
    }

    async fn look(&self) -> Result<(KeyRef, Vec<KeyRef>), ProviderError> {
        let enabled = self.enabled().await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let wraps = |version: &&Version| {
            self.key.version.as_ref().is_none_or(|pinned| *pinned == version.name)
                && version.attributes.nbf.is_none_or(|from| from <= now)
                && version.attributes.exp.is_none_or(|until| now < until)
        };
        let newest = enabled.iter().filter(wraps).max_by_key(|version| (version.attributes.created, &version.name));
        let Some(newest) = newest.map(|version| version.name.clone()) else {
            let which = self.key.version.as_deref().map_or("no version", |_| "its configured version not");
            let text = format!("{} has {which} enabled and within its time", self.backend);
            return Err(ProviderError::new(Class::KeyDisabled, text));
        };
        let (mut active, mut readable) = (None, Vec::new());
        for Version { name, attributes } in enabled {
            let is_active = name == newest;
            let check = match self.check(&name).await {
                // Somebody made a version that this member cannot use, which is no matter for the others.
                Err(error) if error.class == Class::Config && !is_active => {
                    tracing::warn!(%error, "a version is left out");
                    continue;
                }
                check => check?,
            };
            let key = KeyRef { backend: self.backend.clone(), version: name, check, created: attributes.created };
            if is_active {
                active = Some(key.clone());
            }
            readable.push(key);
        }
        let lost = || ProviderError::new(Class::Protocol, format!("{} lost its newest version", self.backend));
        Ok((active.ok_or_else(lost)?, readable))
    }

    /// Has a version do something to bytes.
    async fn operate(
        &self,
        key: &KeyRef,
        (operation, right): (&str, &'static str),
        bytes: &[u8],
    ) -> Result<SecretBytes, ProviderError> {
        cloud::is_of(key, &self.backend)?;
        let path = format!("/keys/{}/{}/{operation}?{API}", self.key.name, word(&key.version));
        let value = SecretBytes::new(base64url(bytes).into_bytes());
        let value = std::str::from_utf8(value.expose()).unwrap_or_default();
        let body = json(&Operation { alg: ALGORITHM, value });
        let done: Operated = self.call(right, &path, Some(body), &["kid", "value"]).await?;
        self.is_version(&done.kid, &key.version)?;
        let bytes = base64url_decode(done.value.expose()).map(SecretBytes::new);
        bytes.filter(|bytes| bytes.expose().len() <= MAX_WRAPPED_BYTES).ok_or_else(|| {
            let text = format!("{}: {operation} answers with a value that is none", self.backend);
            ProviderError::new(Class::Protocol, text)
        })
    }
}

impl Provider for Azure {
    fn kind(&self) -> Kind {
        Kind::Azure
    }

    fn max_wrapped_bytes(&self) -> usize {
        usize::from(self.bits.0 / 8)
    }

    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.api.http.renewed().await.map(|_| ()) })
    }

    fn observe(&self) -> Answer<'_, Observation> {
        Box::pin(async move {
            let credential_ends = self.api.renew().await?;
            let (active, readable) = self.look().await?;
            Ok(Observation { active, readable, older_wraps: true, credential_ends, credential_renewed: true })
        })
    }

    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, _: &'a Context) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let wrapped = self.operate(key, ("wrapkey", "keys/wrap"), plain.expose()).await?;
            if !(usize::from(MIN_BITS / 8)..=self.max_wrapped_bytes()).contains(&wrapped.expose().len()) {
                let text = format!("{}: what was wrapped is shorter or longer than RSA makes it", self.backend);
                return Err(ProviderError::new(Class::Protocol, text));
            }
            Ok(wrapped.expose().clone())
        })
    }

    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], _: &'a Context) -> Answer<'a, SecretKey> {
        Box::pin(async move {
            let plain = self.operate(key, ("unwrapkey", "keys/unwrap"), wrapped).await?;
            cloud::key(self.api.http.origin(), &plain)
        })
    }
}

/// A version that is enabled.
struct Version {
    name: String,
    attributes: Attributes,
}

#[derive(Deserialize)]
pub(super) struct Versions {
    value: Vec<Item>,
    #[serde(rename = "nextLink")]
    next_link: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    kid: String,
    attributes: Attributes,
}

#[derive(Deserialize)]
struct Attributes {
    enabled: bool,
    created: Option<u64>,
    nbf: Option<u64>,
    exp: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Bundle {
    key: Jwk,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    n: Option<String>,
    e: Option<String>,
}

#[derive(Serialize)]
struct Operation<'a> {
    alg: &'static str,
    value: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Operated {
    kid: String,
    value: Text,
}

/// The code of a failure: the inner one, which is more precise, if there is one.
pub(super) fn code(reply: &Reply) -> String {
    #[derive(Deserialize)]
    struct Failure {
        error: Coded,
    }
    #[derive(Deserialize)]
    struct Coded {
        code: String,
        #[serde(alias = "innerError")]
        innererror: Option<Box<Coded>>,
    }
    let failure: Option<Failure> = serde_json::from_slice(reply.body.expose()).ok();
    let code = failure.map(|failure| failure.error.innererror.map_or(failure.error.code, |inner| inner.code));
    word(&code.unwrap_or_default()).to_owned()
}

#[cfg(test)]
mod tests;
