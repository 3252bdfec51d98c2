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
    /// Signs and sends a request, with a JSON body or none. Where a route takes secrets, such as `PUT /v1/kv/…`, the body is
    /// encrypted to the cluster's ingress key, as the route demands.
    ///
    /// # Errors
    /// [`ClientError::Input`] for another method than GET, PUT, PATCH, POST and DELETE, for what is no path or query of
    /// this server, and for a route that takes secrets without any; else as every call.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        query: &str,
        body: Option<Vec<u8>>,
    ) -> Result<RawAnswer, ClientError> {
        let known = ["GET", "PUT", "PATCH", "POST", "DELETE"].into_iter().find(|known| *known == method);
        let method = known.ok_or_else(|| {
            ClientError::input(format!("no route has the method {method:?}"), "give GET, PUT, PATCH, POST or DELETE")
        })?;
        if !travels_whole(path, query) {
            let shown = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
            return Err(ClientError::input(
                format!("{shown:?} is no path of a route"),
                "give path and query alone, such as /v1/whoami: a / first, no host, no #",
            ));
        }
        let body = match (body, holds_secrets(method, path)) {
            (None, false) => CallBody::Empty,
            (None, true) => {
                return Err(ClientError::input(
                    "this route takes a body, and none is given",
                    "give its JSON, as `bulla curl -d` does",
                ));
            }
            (Some(bytes), true) => CallBody::Ingress(SecretBytes::new(bytes)),
            (Some(bytes), false) => CallBody::Json(bytes),
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

/// Whether the route takes its body encrypted only: one that writes a secret's content or a database's password, or gives a
/// transit key what nobody else is to see.
fn holds_secrets(method: &str, path: &str) -> bool {
    match method {
        "PUT" | "PATCH" if path.starts_with("/v1/kv/") => !path.contains(':'),
        "PUT" => path.strip_prefix("/v1/database/").is_some_and(|name| !name.contains(['/', ':'])),
        "POST" => path.strip_prefix("/v1/transit/").and_then(|rest| rest.split_once(':')).is_some_and(|(_, verb)| {
            matches!(verb, "import" | "restore" | "encrypt" | "sign" | "verify" | "hmac" | "verify-hmac")
        }),
        _ => false,
    }
}

/// Whether path and query reach the server as they stand here. What is signed is what the caller gave, so anything
/// that is cut off or rewritten on the way would look like a forgery.
fn travels_whole(path: &str, query: &str) -> bool {
    let mark = if query.is_empty() { "" } else { "?" };
    let parsed = format!("https://localhost{path}{mark}{query}").parse::<http::Uri>();
    path.starts_with('/') && parsed.is_ok_and(|uri| uri.path() == path && uri.query().unwrap_or_default() == query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_secrets_is_encrypted() {
        for (method, path) in [
            ("PUT", "/v1/kv/a/b"),
            ("PATCH", "/v1/kv/a"),
            ("POST", "/v1/transit/orders:encrypt"),
            ("PUT", "/v1/database/app"),
        ] {
            assert!(holds_secrets(method, path), "{method} {path}");
        }
        for (method, path) in [
            ("PUT", "/v1/transit/orders"),
            ("POST", "/v1/transit/orders:rotate"),
            ("GET", "/v1/kv/a"),
            ("PUT", "/v1/kv/a:metadata"),
            ("PUT", "/v1/database/app/role/reader"),
        ] {
            assert!(!holds_secrets(method, path), "{method} {path}");
        }
    }

    #[test]
    fn only_a_whole_path_is_signed() {
        for (path, query) in [("/v1/whoami", ""), ("/v1/wrap", "limit=10&after=x"), ("/v1/kv/a/b:list", "")] {
            assert!(travels_whole(path, query), "{path} {query}");
        }
        let cut = [
            ("whoami", ""),
            ("", ""),
            ("/v1/whoami#x", ""),
            ("/v1/wrap", "limit=10#x"),
            ("https://x/v1/whoami", ""),
            ("@x/v1/whoami", ""),
            (":1/v1/whoami", ""),
            ("/v1/who ami", ""),
            ("/v1/whoami?a", ""),
        ];
        for (path, query) in cut {
            assert!(!travels_whole(path, query), "{path} {query}");
        }
    }
}
