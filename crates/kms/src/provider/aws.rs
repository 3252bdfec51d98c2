//! AWS KMS: a symmetric key, by its JSON API over HTTPS.
//!
//! KMS wraps by the key material that is current at that moment and cannot be told which. So a wrapped key is unwrapped at
//! once, which tells the material that wrapped it; a rotation in between fails the call, and the next observation sees it.
//! What is wrapped is bound to the cluster and the key id by the encryption context, which CloudTrail shows: a hash.

pub(super) mod api;
mod sigv4;
pub(super) mod source;

pub use source::Source;

use super::cloud::credentials::{Credentials, Held};
use super::cloud::{self, answer, decoded, encoded, json, word};
use super::http::{Http, Origin, Reply};
use super::{Answer, Class, Context, Kind, Observation, Provider, ProviderError};
use crate::key::KeyRef;
use api::{
    Action, Decrypt, Decrypted, DescribeKey, Described, Encrypt, Encrypted, EncryptionContext, ListKeyRotations,
    Metadata, Rotation, Rotations, code, is_refused, seconds,
};
use bulla_crypto::digest::equal;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sigv4::{Scope, authorization, stamp};
use source::{AccessKey, Keys};
use std::path::PathBuf;
use std::time::SystemTime;

/// Largest wrapped key in bytes. One has about 180; KMS does not say how many, and members share the room of an envelope.
const MAX_WRAPPED_BYTES: usize = 256;
/// The version where KMS tells no key material: of keys in custom key stores, which do not rotate.
const ONLY: &str = "1";
/// How many key materials are asked for at once, and how often at most.
const PAGE: u16 = 500;
const MAX_PAGES: usize = 4;
const CONTENT: &str = "application/x-amz-json-1.1";

/// A key of AWS KMS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key's ARN. An alias is refused: one that is moved would take away every version that was used.
    pub key: KeyArn,
    /// The endpoint, such as that of a VPC; the region's own if none is named.
    #[serde(default, deserialize_with = "cloud::origin")]
    pub endpoint: Option<Origin>,
    /// A PEM file of authorities that judge the endpoints' certificates; the system's if none is named.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Where the credentials come from.
    pub credentials: Source,
}

/// The ARN of a key: `arn:aws:kms:REGION:ACCOUNT:key/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyArn {
    text: String,
    partition: String,
    region: String,
}

impl TryFrom<String> for KeyArn {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const FORM: &str = "expected the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID";
        let plain = |part: &str| {
            (1..=64).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let parts: Vec<&str> = text.split(':').collect();
        let ["arn", partition, "kms", region, account, resource] = parts.as_slice() else { return Err(FORM) };
        if resource.starts_with("alias/") {
            return Err("expected the ARN of the key itself: an alias may be moved to another key");
        }
        let id = resource.strip_prefix("key/").ok_or(FORM)?;
        let account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        if !account || ![partition, region, &id].into_iter().all(|part| plain(part)) {
            return Err(FORM);
        }
        let (partition, region) = ((*partition).to_owned(), (*region).to_owned());
        Ok(Self { partition, region, text })
    }
}

impl KeyArn {
    /// The origin of a service in the key's region.
    fn origin(&self, service: &str) -> Result<Origin, ProviderError> {
        let domain = match self.partition.as_str() {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            other => {
                let text = format!("the partition {} is not known; name the endpoint of {service}", word(other));
                return Err(ProviderError::new(Class::Config, text));
            }
        };
        let origin = format!("https://{service}.{}.{domain}", self.region).parse();
        origin.map_err(|text: &str| ProviderError::new(Class::Config, format!("key: {text}")))
    }
}

/// A key of AWS KMS.
pub struct Aws {
    key: KeyArn,
    http: Http,
    credentials: Credentials<Keys>,
}

impl Aws {
    /// Makes ready to use the key. Nothing is asked.
    ///
    /// # Errors
    /// [`Class::Config`].
    pub fn open(settings: &Settings) -> Result<Self, ProviderError> {
        let (key, ca) = (settings.key.clone(), settings.ca.as_deref());
        let origin = settings.endpoint.clone().map_or_else(|| key.origin("kms"), Ok)?;
        let keys = Keys::open(&settings.credentials, ca, key.origin("sts"))?;
        Ok(Self { http: Http::new(origin, ca, None), credentials: Credentials::new(keys), key })
    }

    /// Makes a call, again with new credentials if those that were kept are refused.
    async fn call<T: DeserializeOwned>(
        &self,
        action: Action,
        request: &impl Serialize,
        fields: &'static [&'static str],
    ) -> Result<T, ProviderError> {
        let body = json(request);
        let held = self.credentials.get().await?;
        let mut reply = self.send(action, &held, &body).await?;
        if reply.status != StatusCode::OK && is_refused(code(&reply).as_str()) && self.credentials.refused(&held) {
            let held = self.credentials.get().await?;
            reply = self.send(action, &held, &body).await?;
        }
        if reply.status == StatusCode::OK {
            answer(self.http.origin(), &reply, fields)
        } else {
            Err(self.refusal(action, &reply))
        }
    }

    async fn send(&self, action: Action, held: &Held<AccessKey>, body: &SecretBytes) -> Result<Reply, ProviderError> {
        let AccessKey { id, secret, session } = &held.credential;
        let origin = self.http.origin().as_str();
        let host = origin.split_once("://").map_or(origin, |(_, host)| host);
        let (at, target) = (stamp(SystemTime::now()), format!("TrentService.{}", action.name()));
        let mut headers = vec![("content-type", CONTENT), ("host", host), ("x-amz-date", at.as_str())];
        headers.extend(session.as_ref().map(|session| ("x-amz-security-token", session.expose())));
        headers.push(("x-amz-target", &target));
        let scope = Scope { key_id: id, secret: secret.expose(), region: &self.key.region, service: "kms" };
        let shown = authorization(&scope, &at, &headers, body.expose());
        let mut request = Request::builder()
            .method(Method::POST)
            .header(HOST, host)
            .header(CONTENT_TYPE, CONTENT)
            .header("x-amz-date", &at)
            .header("x-amz-target", &target)
            .header(AUTHORIZATION, shown);
        if let Some(session) = session {
            request = request.header("x-amz-security-token", session.header(""));
        }
        self.http.call(request, "/", body.copy()).await
    }

    fn refusal(&self, action: Action, reply: &Reply) -> ProviderError {
        let (code, origin, key) = (code(reply), self.http.origin(), &self.key.text);
        let failed = |class, what: &str| ProviderError::new(class, format!("{origin}: {code}: {what}"));
        match code.as_str() {
            "AccessDeniedException" => {
                failed(Class::Denied, &format!("the credentials lack kms:{} on {key}", action.name()))
            }
            code if is_refused(code) => failed(
                Class::Denied,
                "the credentials are refused: are they those of this key's partition, and not over?",
            ),
            "InvalidSignatureException" | "IncompleteSignature" | "MissingAuthenticationToken" => failed(
                Class::Denied,
                "the signature is refused: is the secret access key right, and this machine's clock?",
            ),
            "ThrottlingException" | "Throttling" | "RequestLimitExceeded" | "TooManyRequestsException" => {
                failed(Class::Throttled, "fewer requests are wanted")
            }
            "DisabledException" | "KMSInvalidStateException" => {
                failed(Class::KeyDisabled, &format!("{key} is disabled or about to be deleted"))
            }
            "NotFoundException" => failed(Class::UnknownKey, &format!("there is no key {key}")),
            "InvalidArnException" => failed(Class::Config, &format!("{key} is no key of this endpoint's region")),
            "InvalidKeyUsageException" | "UnsupportedOperationException" => {
                failed(Class::Config, &format!("{key} is no symmetric key that encrypts"))
            }
            "InvalidCiphertextException" | "IncorrectKeyException" => {
                failed(Class::Corrupt, "what was wrapped was altered, or belongs to another key or cluster")
            }
            _ => match reply.status {
                StatusCode::TOO_MANY_REQUESTS => failed(Class::Throttled, "fewer requests are wanted"),
                status if status.is_server_error() => failed(Class::Unavailable, "the service does not work"),
                status => failed(Class::Protocol, &format!("status {} to {}", status.as_u16(), action.name())),
            },
        }
    }

    /// Every key material that unwraps. The one that is current may be missing in the list, which lags.
    async fn materials(&self) -> Result<Vec<Rotation>, ProviderError> {
        let mut all = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let request = ListKeyRotations {
                key_id: &self.key.text,
                include_key_material: "ALL_KEY_MATERIAL",
                limit: PAGE,
                marker: marker.as_deref(),
            };
            let page: Rotations =
                self.call(Action::ListKeyRotations, &request, &["Rotations", "Truncated", "NextMarker"]).await?;
            all.extend(page.rotations.into_iter().filter(Rotation::unwraps));
            marker = page.next_marker.filter(|_| page.truncated);
            if marker.is_none() {
                return Ok(all);
            }
        }
        let text = format!("{} lists more than {} key materials", self.http.origin(), usize::from(PAGE) * MAX_PAGES);
        Err(ProviderError::new(Class::Protocol, text))
    }

    async fn look(&self) -> Result<(KeyRef, Vec<KeyRef>), ProviderError> {
        let request = DescribeKey { key_id: &self.key.text };
        let Described { key_metadata: seen } = self.call(Action::DescribeKey, &request, &["KeyMetadata"]).await?;
        self.is_fit(&seen)?;
        let created = seconds(seen.creation_date);
        let only = |version: &str, check: String, created| KeyRef {
            backend: self.key.text.clone(),
            version: version.to_owned(),
            check,
            created,
        };
        // Before KMS named the materials of a key it was known by this, and what was encrypted then still says so.
        let unnamed = only(ONLY, created.map_or_else(String::new, |created| created.to_string()), created);
        let Some(current) = seen.current_key_material_id.as_deref() else {
            return Ok((unnamed.clone(), vec![unnamed]));
        };
        let current = self.material(current)?;
        let mut readable = vec![unnamed];
        for Rotation { key_material_id, rotation_date, .. } in self.materials().await? {
            // The first material has no date of its own.
            let since = rotation_date.map_or(created, seconds);
            let Some(id) = key_material_id else { continue };
            readable.push(only(self.material(&id)?, id.clone(), since));
        }
        let known = readable.iter().find(|key| key.version == current).cloned();
        let active = known.unwrap_or_else(|| {
            let key = only(current, current.to_owned(), None);
            readable.push(key.clone());
            key
        });
        Ok((active, readable))
    }

    /// The id of a key material, which goes into logs, the state and what people are shown. That of a key without any is
    /// none: what is wrapped under it is not looked at again.
    fn material<'a>(&self, id: &'a str) -> Result<&'a str, ProviderError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if (1..=64).contains(&id.len()) && id.bytes().all(plain) && id != ONLY {
            return Ok(id);
        }
        let text = format!("{} names a key material by what is no id", self.http.origin());
        Err(ProviderError::new(Class::Protocol, text))
    }

    /// Whether the key is the one that is meant, and may be used.
    fn is_fit(&self, seen: &Metadata) -> Result<(), ProviderError> {
        let (origin, key) = (self.http.origin(), &self.key.text);
        let failed = |class, what: String| Err(ProviderError::new(class, format!("{origin}: {what}")));
        if seen.arn != *key {
            return failed(Class::Protocol, format!("asked for {key}, it answers for another key"));
        }
        match seen.key_state.as_str() {
            "Enabled" => {}
            "Creating" | "Updating" | "Unavailable" => {
                return failed(Class::Unavailable, format!("{key} is in the state {}", seen.key_state));
            }
            other => {
                return failed(Class::KeyDisabled, format!("{key} is in the state {}; enable it", word(other)));
            }
        }
        if seen.key_usage != "ENCRYPT_DECRYPT" || seen.key_spec != "SYMMETRIC_DEFAULT" {
            return failed(Class::Config, format!("{key} is no symmetric key that encrypts"));
        }
        Ok(())
    }

    async fn decrypt(&self, wrapped: &[u8], context: &Context) -> Result<(SecretKey, Option<String>), ProviderError> {
        let blob = encoded(wrapped);
        let request = Decrypt {
            key_id: &self.key.text,
            ciphertext_blob: blob.expose(),
            encryption_context: EncryptionContext::of(context),
        };
        let opened: Decrypted = self.call(Action::Decrypt, &request, &["KeyId", "Plaintext", "KeyMaterialId"]).await?;
        self.is_own(&opened.key_id)?;
        let plain = decoded(self.http.origin(), "Plaintext", &opened.plaintext, 4096)?;
        Ok((cloud::key(self.http.origin(), &plain)?, opened.key_material_id))
    }

    /// Whether an answer is that of the key that was asked.
    fn is_own(&self, answered: &str) -> Result<(), ProviderError> {
        if answered == self.key.text {
            return Ok(());
        }
        let text = format!("{} answers for another key than {}", self.http.origin(), self.key.text);
        Err(ProviderError::new(Class::Protocol, text))
    }
}

impl Provider for Aws {
    fn kind(&self) -> Kind {
        Kind::Aws
    }

    fn max_wrapped_bytes(&self) -> usize {
        MAX_WRAPPED_BYTES
    }

    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.http.renewed().await.map(|_| ()) })
    }

    fn observe(&self) -> Answer<'_, Observation> {
        Box::pin(async move {
            self.http.renewed().await?;
            let credential_ends = self.credentials.renewed().await?.ends;
            let (active, readable) = self.look().await?;
            Ok(Observation { active, readable, older_wraps: false, credential_ends, credential_renewed: true })
        })
    }

    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, context: &'a Context) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            cloud::is_of(key, &self.key.text)?;
            let plaintext = encoded(plain.expose());
            let request = Encrypt {
                key_id: &self.key.text,
                plaintext: plaintext.expose(),
                encryption_context: EncryptionContext::of(context),
            };
            let made: Encrypted = self.call(Action::Encrypt, &request, &["KeyId", "CiphertextBlob"]).await?;
            self.is_own(&made.key_id)?;
            let origin = self.http.origin();
            let wrapped = decoded(origin, "CiphertextBlob", &made.ciphertext_blob, MAX_WRAPPED_BYTES)?;
            if key.version != ONLY {
                let (back, material) = self.decrypt(wrapped.expose(), context).await?;
                let fault = match material {
                    None => Some("does not tell by which key material it wrapped"),
                    Some(material) if material != key.version => {
                        Some("wrapped by another key material: the key was rotated just now")
                    }
                    Some(_) if !equal(back.expose(), plain.expose()) => Some("unwraps another key than was wrapped"),
                    Some(_) => None,
                };
                if let Some(fault) = fault {
                    return Err(ProviderError::new(Class::Protocol, format!("{origin} {fault}")));
                }
            }
            Ok(wrapped.expose().clone())
        })
    }

    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], context: &'a Context) -> Answer<'a, SecretKey> {
        Box::pin(async move {
            cloud::is_of(key, &self.key.text)?;
            let (plain, material) = self.decrypt(wrapped, context).await?;
            match material {
                Some(material) if key.version != ONLY && material != key.version => {
                    let text = format!("{}: another key material wrapped this than its name says", self.http.origin());
                    Err(ProviderError::new(Class::Corrupt, text))
                }
                _ => Ok(plain),
            }
        })
    }
}

#[cfg(test)]
mod tests;
