//! Google Cloud KMS: a symmetric key, by the REST API.
//!
//! A version is pinned by its name, and the answer names the one that was used. When it unwraps, the service finds the
//! version in what was wrapped and does not name it; the context, which is additional authenticated data, holds the key id
//! and so the version. Checksums go both ways and are demanded.

mod crc32c;
pub(super) mod source;

pub use source::Source;

use super::cloud::oauth::Api;
use super::cloud::{self, Text, answer, decoded, encoded, json, word};
use super::http::{Http, Origin, Reply};
use super::{Answer, Class, Context, Kind, Observation, Provider, ProviderError};
use crate::key::KeyRef;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use crc32c::crc32c;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use source::Tokens;
use std::path::PathBuf;
use std::time::SystemTime;

/// Largest wrapped key in bytes. One has about 110; the service does not say how many, and members share the room of an
/// envelope.
const MAX_WRAPPED_BYTES: usize = 256;
/// How many versions are asked for at once, and how often at most.
const PAGE: usize = 100;
const MAX_PAGES: usize = 20;
const ENDPOINT: &str = "https://cloudkms.googleapis.com";
const VERSIONS: &str = "/cryptoKeyVersions";

/// A key of Google Cloud KMS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key's name, `projects/P/locations/L/keyRings/R/cryptoKeys/K`, as the service writes it.
    pub key: KeyName,
    /// The endpoint, such as that of Private Service Connect; `https://cloudkms.googleapis.com` if none is named.
    #[serde(default, deserialize_with = "cloud::origin")]
    pub endpoint: Option<Origin>,
    /// A PEM file of authorities that judge the endpoints' certificates; the system's if none is named.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How tokens are obtained.
    pub credentials: Source,
}

/// The name of a key, without a version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyName(String);

impl TryFrom<String> for KeyName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |part: &str| {
            (1..=128).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
                && part != "."
                && part != ".."
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key]
                if [project, location, ring, key].into_iter().all(|part| plain(part)) =>
            {
                Ok(Self(text))
            }
            _ => Err("expected the name of a key, projects/P/locations/L/keyRings/R/cryptoKeys/K, without a version"),
        }
    }
}

/// A key of Google Cloud KMS.
pub struct Gcp {
    key: String,
    api: Api<Tokens>,
}

impl Gcp {
    /// Makes ready to use the key. Nothing is asked.
    ///
    /// # Errors
    /// [`Class::Config`].
    pub fn open(settings: &Settings) -> Result<Self, ProviderError> {
        let ca = settings.ca.as_deref();
        let own = || ENDPOINT.parse().map_err(|text: &str| ProviderError::new(Class::Config, text));
        let endpoint = settings.endpoint.clone().map_or_else(own, Ok)?;
        let tokens = Tokens::open(&settings.credentials, ca)?;
        Ok(Self { key: settings.key.0.clone(), api: Api::new(Http::new(endpoint, ca, None), tokens) })
    }

    fn origin(&self) -> &Origin {
        self.api.http.origin()
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
            answer(self.origin(), &reply, fields)
        } else {
            Err(self.refusal(right, &reply))
        }
    }

    fn refusal(&self, right: &str, reply: &Reply) -> ProviderError {
        let (status, key) = (status(reply), &self.key);
        let failed = |class, what: &str| ProviderError::new(class, format!("{key}: {status}: {what}"));
        match (reply.status, status.as_str()) {
            (StatusCode::UNAUTHORIZED, _) => failed(Class::Denied, "the token is refused"),
            (StatusCode::FORBIDDEN, _) => failed(
                Class::Denied,
                &format!("the account lacks the right cloudkms.{right}, or the API is not enabled in its project"),
            ),
            (StatusCode::NOT_FOUND, _) => failed(Class::UnknownKey, "there is no such key or version"),
            (StatusCode::TOO_MANY_REQUESTS, _) => failed(Class::Throttled, "fewer requests are wanted"),
            (_, "FAILED_PRECONDITION") => {
                failed(Class::KeyDisabled, "this version is disabled or about to be destroyed")
            }
            (StatusCode::BAD_REQUEST, _) if right == "cryptoKeyVersions.useToDecrypt" => {
                failed(Class::Corrupt, "what was wrapped was altered, or belongs to another key or cluster")
            }
            (StatusCode::BAD_REQUEST, _) => failed(Class::Config, "the request does not fit: does the key encrypt?"),
            (StatusCode::REQUEST_TIMEOUT, _) => failed(Class::Unavailable, "the service does not work"),
            (status, _) if status.is_server_error() => failed(Class::Unavailable, "the service does not work"),
            (status, _) => failed(Class::Protocol, &format!("it answers {}", status.as_u16())),
        }
    }

    /// A version as the service describes it.
    fn version(&self, seen: Version) -> Result<KeyRef, ProviderError> {
        let number = seen.name.strip_prefix(&self.key).and_then(|rest| rest.strip_prefix(VERSIONS));
        let number = number.and_then(|rest| rest.strip_prefix('/'));
        let number =
            number.filter(|number| (1..=10).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()));
        let created = humantime::parse_rfc3339(&seen.create_time).ok();
        let created =
            created.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|time| time.as_secs());
        match (number, created) {
            (Some(number), Some(_)) => {
                let version = number.to_owned();
                Ok(KeyRef { backend: format!("gcp:{}", self.key), version, check: seen.create_time, created })
            }
            (None, _) => {
                let text = format!(
                    "{} answers for another key than {}: write its project as the service does, by its id",
                    self.origin(),
                    self.key
                );
                Err(ProviderError::new(Class::Protocol, text))
            }
            (_, None) => {
                let text = format!("{} answers with a createTime that is no time", self.origin());
                Err(ProviderError::new(Class::Protocol, text))
            }
        }
    }

    async fn look(&self) -> Result<(KeyRef, Vec<KeyRef>), ProviderError> {
        let seen: Seen =
            self.call("cryptoKeys.get", &format!("/v1/{}", self.key), None, &["purpose", "primary"]).await?;
        if seen.purpose != "ENCRYPT_DECRYPT" {
            let text = format!("{} is for {}; a key that encrypts is needed", self.key, word(&seen.purpose));
            return Err(ProviderError::new(Class::Config, text));
        }
        let Some(primary) = seen.primary.filter(|primary| primary.state == "ENABLED") else {
            let text =
                format!("{} has no primary version that is enabled: enable it, or make another primary", self.key);
            return Err(ProviderError::new(Class::KeyDisabled, text));
        };
        let active = self.version(primary)?;
        let mut readable = self.enabled().await?;
        if !readable.contains(&active) {
            readable.push(active.clone());
        }
        Ok((active, readable))
    }

    /// Every version that is enabled.
    async fn enabled(&self) -> Result<Vec<KeyRef>, ProviderError> {
        let first = format!("/v1/{}{VERSIONS}?filter=state%3DENABLED&pageSize={PAGE}", self.key);
        let (mut path, mut all) = (first.clone(), Vec::new());
        for _ in 0..MAX_PAGES {
            let page: Versions =
                self.call("cryptoKeyVersions.list", &path, None, &["cryptoKeyVersions", "nextPageToken"]).await?;
            let enabled = page.crypto_key_versions.into_iter().filter(|version| version.state == "ENABLED");
            for version in enabled {
                all.push(self.version(version)?);
            }
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            let token = cloud::form(&[("pageToken", &page.next_page_token)]);
            path = format!("{first}&{}", std::str::from_utf8(token.expose()).unwrap_or_default());
        }
        let text = format!("{} has more than {} enabled versions", self.key, PAGE * MAX_PAGES);
        Err(ProviderError::new(Class::Config, text))
    }

    /// Whether a checksum in an answer is that of what came with it.
    fn is_whole(&self, field: &str, bytes: &[u8], said: &str) -> Result<(), ProviderError> {
        if said == crc32c(bytes).to_string() {
            return Ok(());
        }
        let text = format!("{} answers with a {field} that was damaged on the way", self.origin());
        Err(ProviderError::new(Class::Protocol, text))
    }
}

impl Provider for Gcp {
    fn kind(&self) -> Kind {
        Kind::Gcp
    }

    fn max_wrapped_bytes(&self) -> usize {
        MAX_WRAPPED_BYTES
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

    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, context: &'a Context) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            cloud::is_of(key, &format!("gcp:{}", self.key))?;
            let version = format!("{}{VERSIONS}/{}", self.key, word(&key.version));
            let (plaintext, aad) = (encoded(plain.expose()), encoded(context.bytes()));
            let body = json(&Encrypt {
                plaintext: plaintext.expose(),
                additional_authenticated_data: aad.expose(),
                plaintext_crc32c: crc32c(plain.expose()).to_string(),
                additional_authenticated_data_crc32c: crc32c(context.bytes()).to_string(),
            });
            let right = "cryptoKeyVersions.useToEncrypt";
            let fields = &["name", "ciphertext", "ciphertextCrc32c"];
            let made: Encrypted = self.call(right, &format!("/v1/{version}:encrypt"), Some(body), fields).await?;
            let failed = |what: &str| Err(ProviderError::new(Class::Protocol, format!("{} {what}", self.origin())));
            if made.name != version {
                return failed("wrapped by another version than was asked for");
            }
            if !made.verified_plaintext_crc32c || !made.verified_additional_authenticated_data_crc32c {
                return failed("did not check that what it wrapped came undamaged");
            }
            let wrapped = decoded(self.origin(), "ciphertext", &made.ciphertext, MAX_WRAPPED_BYTES)?;
            self.is_whole("ciphertext", wrapped.expose(), &made.ciphertext_crc32c)?;
            Ok(wrapped.expose().clone())
        })
    }

    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], context: &'a Context) -> Answer<'a, SecretKey> {
        Box::pin(async move {
            cloud::is_of(key, &format!("gcp:{}", self.key))?;
            let (ciphertext, aad) = (encoded(wrapped), encoded(context.bytes()));
            let body = json(&Decrypt {
                ciphertext: ciphertext.expose(),
                additional_authenticated_data: aad.expose(),
                ciphertext_crc32c: crc32c(wrapped).to_string(),
                additional_authenticated_data_crc32c: crc32c(context.bytes()).to_string(),
            });
            let (right, path) = ("cryptoKeyVersions.useToDecrypt", format!("/v1/{}:decrypt", self.key));
            let opened: Decrypted = self.call(right, &path, Some(body), &["plaintext", "plaintextCrc32c"]).await?;
            let plain = decoded(self.origin(), "plaintext", &opened.plaintext, 64 * 1024)?;
            self.is_whole("plaintext", plain.expose(), &opened.plaintext_crc32c)?;
            cloud::key(self.origin(), &plain)
        })
    }
}

#[derive(Deserialize)]
pub(super) struct Seen {
    purpose: String,
    primary: Option<Version>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    name: String,
    state: String,
    create_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct Versions {
    crypto_key_versions: Vec<Version>,
    next_page_token: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Encrypt<'a> {
    plaintext: &'a str,
    additional_authenticated_data: &'a str,
    plaintext_crc32c: String,
    additional_authenticated_data_crc32c: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Encrypted {
    name: String,
    ciphertext: Text,
    ciphertext_crc32c: String,
    #[serde(default)]
    verified_plaintext_crc32c: bool,
    #[serde(default)]
    verified_additional_authenticated_data_crc32c: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Decrypt<'a> {
    ciphertext: &'a str,
    additional_authenticated_data: &'a str,
    ciphertext_crc32c: String,
    additional_authenticated_data_crc32c: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decrypted {
    plaintext: Text,
    plaintext_crc32c: String,
}

/// The status of a failure, as a word.
pub(super) fn status(reply: &Reply) -> String {
    #[derive(Deserialize)]
    struct Failure {
        error: Stated,
    }
    #[derive(Deserialize)]
    struct Stated {
        status: String,
    }
    let failure: Option<Failure> = serde_json::from_slice(reply.body.expose()).ok();
    word(&failure.map(|failure| failure.error.status).unwrap_or_default()).to_owned()
}

#[cfg(test)]
mod tests;
