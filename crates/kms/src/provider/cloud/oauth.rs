//! Access tokens of OAuth 2.0 (RFC 6749), and calls that show one.

use super::credentials::{Credentials, Issued, Issuer};
use super::{Text, answer, word};
use crate::provider::http::{Http, Reply};
use crate::provider::{Class, ProviderError};
use bulla_crypto::secret::SecretBytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Deserializer};
use std::time::SystemTime;

/// Longest time that a token is believed to last.
const MAX_SECONDS: u64 = 24 * 3600;

/// The answer of a token endpoint. What else stands in it is passed over, as everybody adds something.
#[derive(Deserialize)]
pub(in crate::provider) struct Token {
    access_token: Text,
    #[serde(deserialize_with = "seconds")]
    expires_in: u64,
}

/// Azure's metadata service writes numbers as text.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(|_| serde::de::Error::custom("expected a number")),
    }
}

/// Asks for a token. `wants` says in an error what the service judged.
///
/// # Errors
/// [`Class::Denied`] if it is refused; otherwise as the status says.
pub async fn token(
    http: &Http,
    request: http::request::Builder,
    path: &str,
    body: SecretBytes,
    wants: &str,
) -> Result<Issued<Text>, ProviderError> {
    let request = if body.expose().is_empty() {
        request
    } else {
        request.header(CONTENT_TYPE, "application/x-www-form-urlencoded")
    };
    let reply = http.call(request, path, body).await?;
    if reply.status != StatusCode::OK {
        return Err(refusal(http, &reply, wants));
    }
    let token: Token = answer(http.origin(), &reply, &["access_token", "expires_in"])?;
    Ok(Issued::lasting(token.access_token, token.expires_in.min(MAX_SECONDS)))
}

/// Why a token was refused (RFC 6749 §5.2).
fn refusal(http: &Http, reply: &Reply, wants: &str) -> ProviderError {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        error_description: String,
    }
    let (origin, status) = (http.origin(), reply.status.as_u16());
    let said: Option<Refusal> = serde_json::from_slice(reply.body.expose()).ok();
    // Entra ID tells by a number what it means; the rest of the description may name what is nobody's business.
    let number = said.as_ref().and_then(|said| said.error_description.split([':', ' ']).next());
    let number = number.filter(|number| number.starts_with("AADSTS")).map(|number| format!(" ({})", word(number)));
    let code = said.as_ref().map_or("an unknown code", |said| word(&said.error));
    let class = match reply.status {
        StatusCode::TOO_MANY_REQUESTS => Class::Throttled,
        status if status.is_server_error() => Class::Unavailable,
        StatusCode::NOT_FOUND | StatusCode::GONE => Class::Config,
        status if status.is_client_error() => Class::Denied,
        _ => Class::Protocol,
    };
    let text = format!("{origin} gives no token for {wants}: status {status}, {code}{}", number.unwrap_or_default());
    ProviderError::new(class, text)
}

/// An API whose calls show a token.
pub struct Api<I: Issuer<Credential = Text>> {
    /// The way there.
    pub http: Http,
    credentials: Credentials<I>,
}

impl<I: Issuer<Credential = Text>> Api<I> {
    /// An API and who gives tokens for it.
    pub fn new(http: Http, issuer: I) -> Self {
        Self { http, credentials: Credentials::new(issuer) }
    }

    /// Reads the authorities again, and renews the token if that is due; when it ends.
    ///
    /// # Errors
    /// Those of the issuer, if there is none, and of [`Http::renewed`].
    pub async fn renew(&self) -> Result<Option<SystemTime>, ProviderError> {
        self.http.renewed().await?;
        Ok(self.credentials.renewed().await?.ends)
    }

    /// Makes a call, again with a new token if the one that was kept is refused.
    ///
    /// # Errors
    /// Those of the issuer and of [`Http::call`].
    pub async fn call(&self, path: &str, body: Option<SecretBytes>) -> Result<Reply, ProviderError> {
        let held = self.credentials.get().await?;
        let reply = self.send(&held.credential, path, body.as_ref()).await?;
        if reply.status != StatusCode::UNAUTHORIZED || !self.credentials.refused(&held) {
            return Ok(reply);
        }
        let held = self.credentials.get().await?;
        self.send(&held.credential, path, body.as_ref()).await
    }

    async fn send(&self, token: &Text, path: &str, body: Option<&SecretBytes>) -> Result<Reply, ProviderError> {
        let request = Request::builder().header(AUTHORIZATION, token.header("Bearer "));
        match body {
            None => self.http.call(request.method(Method::GET), path, SecretBytes::new(Vec::new())).await,
            Some(body) => {
                let request = request.method(Method::POST).header(CONTENT_TYPE, "application/json");
                self.http.call(request, path, body.copy()).await
            }
        }
    }
}
