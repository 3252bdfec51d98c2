//! Any request of the API: for tools that look at it, and for routes that have no method here.

use crate::builder::Client;
use crate::call::{Call, CallBody};
use crate::error::ClientError;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::wrap::MAX_CIPHERTEXT_BYTES;
use bytes::Bytes;

/// Largest answer in bytes: that of `open`.
const MAX_ANSWER_BYTES: u64 = MAX_CIPHERTEXT_BYTES + 512 * 1024;

/// An answer whose signature was verified.
#[derive(Debug)]
pub struct RawAnswer {
    /// Its media type.
    pub media: String,
    /// Its body, as it came.
    pub body: Bytes,
}

impl Client {
    /// Signs and sends a request, with a JSON body or none. The body of `PUT /v1/kv/…` is encrypted to the cluster's
    /// ingress key, as the route demands.
    ///
    /// # Errors
    /// [`ClientError::Input`] for another method than GET, PUT, POST and DELETE; else as every call.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        query: &str,
        body: Option<Vec<u8>>,
    ) -> Result<RawAnswer, ClientError> {
        let known = ["GET", "PUT", "POST", "DELETE"].into_iter().find(|known| *known == method);
        let method = known.ok_or_else(|| {
            ClientError::input(format!("no route has the method {method:?}"), "give GET, PUT, POST or DELETE")
        })?;
        let body = match body {
            None => CallBody::Empty,
            Some(bytes) if method == "PUT" && path.starts_with("/v1/kv/") => CallBody::Ingress(SecretBytes::new(bytes)),
            Some(bytes) => CallBody::Json(bytes),
        };
        let call = Call {
            method,
            query: query.to_owned(),
            body,
            limit: usize::try_from(MAX_ANSWER_BYTES).unwrap_or(usize::MAX),
            changes: method != "GET",
            judged: !path.starts_with("/v1/seal"),
            ..Call::read(path)
        };
        let answer = self.call(call).await?;
        Ok(RawAnswer { media: answer.media, body: answer.body })
    }
}
