//! One call of Vault's API: its headers, and what a status means.

use super::answer;
use super::settings::MountPath;
use crate::provider::http::{Http, Reply};
use crate::provider::{Class, ProviderError};
use bulla_crypto::secret::SecretBytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use serde::Serialize;
use std::sync::Arc;

/// Room in a request's body for what is not a value.
const FRAME_BYTES: usize = 256;

/// The way to a Vault in one namespace.
#[derive(Clone)]
pub struct Api {
    pub http: Arc<Http>,
    pub namespace: Option<HeaderValue>,
}

/// What is asked.
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// The path beneath `/v1/`.
    pub path: &'a str,
    /// By which token.
    pub token: Option<&'a HeaderValue>,
    /// The body; empty for none.
    pub body: SecretBytes,
}

impl<'a> Call<'a> {
    /// Reads.
    pub fn get(path: &'a str, token: Option<&'a HeaderValue>) -> Self {
        Self { method: Method::GET, path, token, body: SecretBytes::new(Vec::new()) }
    }

    /// Does something. `secret` is the number of bytes in `body` that are secret: with that much room no copy of them is
    /// left behind.
    ///
    /// # Errors
    /// [`Class::Config`] if the body cannot be written, which no body here does.
    pub fn post(
        path: &'a str,
        token: Option<&'a HeaderValue>,
        body: &impl Serialize,
        secret: usize,
    ) -> Result<Self, ProviderError> {
        // A byte of JSON takes six at most, and those of tokens one.
        let mut bytes = SecretBytes::new(Vec::with_capacity(secret.saturating_mul(2).saturating_add(FRAME_BYTES)));
        serde_json::to_writer(bytes.expose_mut(), body)
            .map_err(|error| ProviderError::new(Class::Config, format!("no request to {path} can be made: {error}")))?;
        Ok(Self { method: Method::POST, path, token, body: bytes })
    }
}

/// The namespace as a header.
pub fn namespace(path: Option<&MountPath>) -> Result<Option<HeaderValue>, ProviderError> {
    let header = path.map(|path| HeaderValue::from_str(path.as_str())).transpose();
    header.map_err(|_| ProviderError::new(Class::Config, "namespace has characters that no namespace has"))
}

impl Api {
    /// Sends it; the answer, whatever its status.
    ///
    /// # Errors
    /// As those of [`Http::call`].
    pub async fn send(&self, call: Call<'_>) -> Result<Reply, ProviderError> {
        // A proxy beside the server may demand this header, which no link in a browser sends.
        let mut request = Request::builder().method(call.method).header("x-vault-request", "true");
        if let Some(token) = call.token {
            request = request.header("x-vault-token", token.clone());
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace.clone());
        }
        if !call.body.expose().is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.http.call(request, &format!("/v1/{}", call.path), call.body).await
    }

    /// Sends it; the body of an answer that says yes.
    ///
    /// # Errors
    /// As [`refused`] says, with nothing of the answer.
    pub async fn demand(&self, call: Call<'_>) -> Result<SecretBytes, ProviderError> {
        let path = call.path.to_owned();
        let reply = self.send(call).await?;
        if reply.status == StatusCode::OK { Ok(reply.body) } else { Err(refused(reply.status, &path, "")) }
    }

    /// The id of the cluster, without a token. `sys/health` is no part of a namespace.
    ///
    /// # Errors
    /// [`Class::Unavailable`] if it does not serve, [`Class::Protocol`] if it does not say.
    pub async fn cluster_id(&self) -> Result<String, ProviderError> {
        const PATH: &str = "sys/health";
        let root = Self { http: Arc::clone(&self.http), namespace: None };
        let reply = root.send(Call::get(PATH, None)).await?;
        let unavailable =
            |text: &str| Err(ProviderError::new(Class::Unavailable, format!("{}: {text}", self.origin())));
        match reply.status.as_u16() {
            200 | 473 => answer::cluster_id(&reply.body),
            // A standby answers so, and so does a quota.
            429 => answer::cluster_id(&reply.body).map_err(|_| refused(reply.status, PATH, "")),
            472 => unavailable(
                "it is a standby for disasters, which serves nobody; give the address of the active cluster",
            ),
            501 => unavailable("it is not initialized"),
            503 => unavailable("it is sealed"),
            _ => Err(refused(reply.status, PATH, "")),
        }
    }

    fn origin(&self) -> &str {
        self.http.origin().as_str()
    }
}

/// What a status means that is not 200, where nothing else is known of the call. `said` is what may be repeated.
pub fn refused(status: StatusCode, path: &str, said: &str) -> ProviderError {
    let (class, text) = match status.as_u16() {
        300..=399 => (
            Class::Unavailable,
            "it points to another node, which is not followed: give the address of the active node, or of a balancer",
        ),
        400 => (Class::Protocol, "it does not take the request"),
        403 => (Class::Denied, "the token is refused, or its policies do not allow it"),
        404 => (Class::Config, "nothing is mounted there: compare mount and namespace"),
        405 => (Class::Config, "what is mounted there is of another kind: compare mount and namespace"),
        412 => (Class::Unavailable, "this node does not know yet what another one has written"),
        429 => (Class::Throttled, "a quota limits the number of requests"),
        472 | 473 => (Class::Unavailable, "it is a standby"),
        500 | 502 | 504 => (Class::Unavailable, "it failed, or has no active node"),
        503 => (Class::Unavailable, "it is sealed, or about to end"),
        _ => (Class::Protocol, "Vault does not answer so: compare the address with that of the Vault"),
    };
    let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
    ProviderError::new(class, format!("{path} answers {}: {text}{said}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_a_class() {
        for (status, class) in [
            (201, Class::Protocol),
            (204, Class::Protocol),
            (302, Class::Unavailable),
            (307, Class::Unavailable),
            (400, Class::Protocol),
            (403, Class::Denied),
            (404, Class::Config),
            (405, Class::Config),
            (412, Class::Unavailable),
            (418, Class::Protocol),
            (429, Class::Throttled),
            (472, Class::Unavailable),
            (473, Class::Unavailable),
            (500, Class::Unavailable),
            (502, Class::Unavailable),
            (503, Class::Unavailable),
            (504, Class::Unavailable),
        ] {
            let error = refused(StatusCode::from_u16(status).unwrap(), "transit/keys/k", "");
            assert_eq!(error.class, class, "{status}");
            assert!(error.text.starts_with(&format!("transit/keys/k answers {status}: ")), "{error}");
        }
    }

    #[test]
    fn a_body_is_written_in_its_place() {
        let secret = "s".repeat(3000);
        let call = Call::post("x", None, &serde_json::json!({"jwt": secret, "role": "r"}), 3000).unwrap();
        assert!(call.body.expose().capacity() >= 6000 && call.body.expose().len() < 3100);
    }
}
