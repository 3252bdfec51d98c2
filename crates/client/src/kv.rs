//! Key/value secrets that policy opens. Values travel encrypted: to the cluster's ingress key, and to the reader's.

mod sealed;

pub use sealed::{OpenedKv, SealTerms};

use crate::builder::Client;
use crate::call::Call;
use crate::error::{ClientError, demand};
use crate::open::open_secret;
use crate::wrap::{Outgoing, Wrapped};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{
    DestroyKv, Kv, KvMetadata, KvNames, KvVersions, KvWatched, KvWritten, MAX_VALUE_BYTES, MAX_WATCH_S, PatchKv, PutKv,
    SetKvSettings,
};
use bulla_wire::encoding::Base64;
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::name::SecretPath;
use bulla_wire::signature::AGE_MEDIA_TYPE;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Largest answer with a secret in bytes: the largest JSON and what an age file adds for four recipients.
const MAX_SECRET_BYTES: usize = MAX_JSON_BYTES + 64 * 1024;
/// Between the answers of two watches that tell nothing new, where a client's own timeout leaves less than the server's
/// unit of waiting.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

impl Client {
    /// Writes a version.
    ///
    /// # Errors
    /// [`ClientError::Input`] before anything is sent, for what no request can hold; [`ClientError::Refused`] with
    /// `version_mismatch` if `cas` is not what is there, with `cas_required` if the secret's settings demand one.
    pub async fn kv_put(&self, path: &SecretPath, body: &PutKv) -> Result<KvWritten, ClientError> {
        body.data.as_ref().map_or(Ok(()), fields_fit)?;
        body.bytes.as_ref().map_or(Ok(()), bytes_fit)?;
        self.kv_write("PUT", path, body).await
    }

    /// Writes a version that changes some fields of the newest.
    ///
    /// # Errors
    /// As [`Client::kv_put`]; [`ClientError::Refused`] with `deleted`, `destroyed` or `expired` if the newest version
    /// cannot be read.
    pub async fn kv_patch(&self, path: &SecretPath, body: &PatchKv) -> Result<KvWritten, ClientError> {
        fields_fit(&body.data)?;
        self.kv_write("PATCH", path, body).await
    }

    async fn kv_write<T: Serialize>(
        &self,
        method: &'static str,
        path: &SecretPath,
        body: &T,
    ) -> Result<KvWritten, ClientError> {
        let bytes = SecretBytes::new(json::to_vec(body));
        let call = |body| Call { method, changes: true, body, ..Call::read(format!("/v1/kv/{path}")) };
        self.to_ingress(&bytes, call).await
    }

    /// Reads the newest version.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] with `deleted`, `destroyed` or `expired` if it cannot be read.
    pub async fn kv_get(&self, path: &SecretPath) -> Result<Kv, ClientError> {
        self.kv_read(path, None).await
    }

    /// Reads a version.
    ///
    /// # Errors
    /// As [`Client::kv_get`]; [`ClientError::Refused`] with `not_found` if it is kept no more.
    pub async fn kv_get_version(&self, path: &SecretPath, version: u64) -> Result<Kv, ClientError> {
        self.kv_read(path, Some(version)).await
    }

    async fn kv_read(&self, path: &SecretPath, version: Option<u64>) -> Result<Kv, ClientError> {
        let key = self.opening_key()?;
        let call = Call { limit: MAX_SECRET_BYTES, ..Call::read(format!("/v1/kv/{path}")) };
        let answer = self.call(call.with("version", version)).await?;
        demand(answer.media == AGE_MEDIA_TYPE, "the secret is not encrypted")?;
        let plaintext = open_secret(key, &answer.body, MAX_JSON_BYTES).await?;
        let kv: Kv = json::parse(plaintext.expose(), MAX_JSON_BYTES)
            .map_err(|_| ClientError::contradiction("the secret is malformed"))?;
        demand(kv.path == *path, "the cluster answers with another secret")?;
        demand(version.is_none_or(|version| kv.version == version), "the cluster answers with another version")?;
        let contents = [kv.data.is_some(), kv.bytes.is_some(), kv.sealed.is_some()];
        demand(contents.iter().filter(|there| **there).count() == 1, "the secret has no content, or several")?;
        Ok(kv)
    }

    /// Has a version, or the newest, encrypted by the cluster to the one recipient of `outgoing`, and makes a wrap of it.
    /// This client sees nothing of it, and may be one without a key that decrypts.
    ///
    /// # Errors
    /// As [`Client::kv_get_version`] and [`Client::wrap_create`].
    pub async fn kv_get_to(
        &self,
        path: &SecretPath,
        version: Option<u64>,
        outgoing: Outgoing,
    ) -> Result<Wrapped, ClientError> {
        let call = Call { limit: MAX_SECRET_BYTES, ..Call::read(format!("/v1/kv/{path}")).with("version", version) };
        self.wrap_read(call, ("kv.get", format!("kv/{path}")), outgoing).await
    }

    /// A page of the names below a path; all top-level names without one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kv_list(
        &self,
        below: Option<&SecretPath>,
        after: Option<&str>,
        limit: Option<u32>,
    ) -> Result<KvNames, ClientError> {
        let path = below.map_or_else(|| "/v1/kv:list".to_owned(), |path| format!("/v1/kv/{path}:list"));
        self.json(Call::read(path).with("after", after).with("limit", limit)).await
    }

    /// Waits until something else lies there than `after`, the mark of the answer before, tells; answers at once without
    /// one. After `wait`, 50 seconds or half of the client's timeout at most, it answers with the same mark. Who reads the secret between the first
    /// answer and the second call misses no version.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kv_watch(
        &self,
        path: &SecretPath,
        after: Option<&str>,
        wait: Duration,
    ) -> Result<KvWatched, ClientError> {
        // The answer has to come before this client gives up.
        let wait = wait.min(self.0.timeout / 2);
        let wait_s = wait.as_secs().min(MAX_WATCH_S);
        let call = Call::read(format!("/v1/kv/{path}:watch")).with("after", after).with("wait_s", Some(wait_s));
        let began = Instant::now();
        let watched: KvWatched = self.json(call).await?;
        demand(watched.path == *path, "the cluster answers with another secret")?;
        if after == Some(watched.mark.as_str()) {
            // The server counts whole seconds, and may be in a hurry: who watches in a loop must not ask without a pause.
            sleep(wait.min(WATCH_PAUSE).saturating_sub(began.elapsed())).await;
        }
        Ok(watched)
    }

    /// The history and the settings of a secret.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kv_metadata(&self, path: &SecretPath) -> Result<KvMetadata, ClientError> {
        self.json(Call::read(format!("/v1/kv/{path}:metadata"))).await
    }

    /// Changes the settings of a secret, which need not have a version yet.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kv_configure(&self, path: &SecretPath, body: &SetKvSettings) -> Result<KvMetadata, ClientError> {
        self.json(Call::change("PUT", format!("/v1/kv/{path}:metadata"), body)).await
    }

    /// Makes versions unreadable until they are undeleted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kv_delete(&self, path: &SecretPath, body: &KvVersions) -> Result<KvMetadata, ClientError> {
        self.json(Call::change("POST", format!("/v1/kv/{path}:delete"), body)).await
    }

    /// Takes deleted versions back.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] with `destroyed` or `expired` for those whose content is gone.
    pub async fn kv_undelete(&self, path: &SecretPath, body: &KvVersions) -> Result<KvMetadata, ClientError> {
        self.json(Call::change("POST", format!("/v1/kv/{path}:undelete"), body)).await
    }

    /// Destroys versions, or the secret with its history and settings.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kv_destroy(&self, path: &SecretPath, body: &DestroyKv) -> Result<KvMetadata, ClientError> {
        self.json(Call::change("POST", format!("/v1/kv/{path}:destroy"), body)).await
    }
}

/// Refuses fields that the server would not take, in terms of the values: JSON spells a control character in six bytes.
fn fields_fit<T: Serialize>(data: &T) -> Result<(), ClientError> {
    // As the server measures them: with `{"data":` before and `}` behind.
    let bytes = SecretBytes::new(json::to_vec(data)).expose().len().saturating_add(9);
    if bytes <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(ClientError::input(
        format!(
            "the fields have {bytes} bytes as JSON, where a control character takes six; {MAX_VALUE_BYTES} are taken"
        ),
        "write bytes that are no text as base64, and large things as a wrap or elsewhere",
    ))
}

/// Most bytes of a value that holds no fields: as base64 they take a third more, besides what stands around them.
const MOST_BYTES: usize = (MAX_VALUE_BYTES - 12) / 4 * 3;

fn bytes_fit(Base64(bytes): &Base64) -> Result<(), ClientError> {
    if bytes.len() <= MOST_BYTES {
        return Ok(());
    }
    Err(ClientError::input(
        format!("a value has at most {MOST_BYTES} bytes, these are {}", bytes.len()),
        "send larger things as a wrap, or keep them elsewhere",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_wire::json::StrictMap;

    #[test]
    fn what_the_server_would_not_take_is_told_in_terms_of_the_value() {
        let fit = |value: String| fields_fit(&StrictMap([("field".to_owned(), value)].into()));
        let around = br#"{"data":{"field":""}}"#.len();
        assert!(fit("a".repeat(MAX_VALUE_BYTES - around)).is_ok());
        for large in ["a".repeat(MAX_VALUE_BYTES - around + 1), "\u{1}".repeat(50_000)] {
            let refused = fit(large).unwrap_err().to_string();
            assert!(refused.contains("control character") && refused.contains("262144 are taken"), "{refused}");
        }
        let whole = |count: usize| json::to_vec(&PutKv::bytes(vec![0; count])).len();
        assert!(whole(MOST_BYTES) <= MAX_VALUE_BYTES && whole(MOST_BYTES + 1) > MAX_VALUE_BYTES);
        assert!(bytes_fit(&Base64(vec![0; MOST_BYTES])).is_ok());
        let refused = bytes_fit(&Base64(vec![0; 200_000])).unwrap_err().to_string();
        assert_eq!(refused, "a value has at most 196599 bytes, these are 200000");
    }
}
