//! The one way out: an answer becomes a signed response here, and an error gets its public text here.

use crate::gate::Share;
use crate::listen::Held;
use crate::node::{Node, Phase};
use bulla_core::operation::Refusal;
use bulla_crypto::message::{digest_header, sign_response};
use bulla_wire::error::{Code, ErrorBody, ErrorEntry};
use bulla_wire::signature::{
    Answered, CALLER_HEADER, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, JSON_MEDIA_TYPE, ResponseParts, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER, STATE_HEADER,
};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use serde::Serialize;

/// Seconds after which a client that met an overloaded or blocked node may try again.
const RETRY_AFTER_S: u32 = 1;

/// What a node says, before it is signed.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The error's code, if it is one.
    pub code: Option<Code>,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
    /// Sequence of the snapshot that it was read from, or of the commit that it tells.
    pub sequence: Option<u64>,
    /// Alarms that the caller has not seen.
    pub alarms: u32,
    /// Methods that the path takes, for 405.
    pub allow: Option<String>,
    /// The memory that the body takes, until it was sent.
    pub room: Option<Box<Held>>,
    /// The caller's request, which is under way until then.
    pub share: Option<Box<Share>>,
}

/// A body, its memory and its request: the connection drops them when the last byte is written.
struct Roomy {
    body: Bytes,
    _room: Option<Box<Held>>,
    _share: Option<Box<Share>>,
}

impl AsRef<[u8]> for Roomy {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Answer {
    /// A JSON document.
    pub fn json<T: Serialize>(value: &T) -> Self {
        Self::bytes(200, JSON_MEDIA_TYPE, bulla_wire::json::to_vec(value))
    }

    /// Bytes of any kind.
    pub fn bytes(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        let body = Bytes::from(body);
        let (code, sequence, allow, room, share) = Default::default();
        Self { status, code, content_type, body, sequence, alarms: 0, allow, room, share }
    }

    /// An error. `id` finds the request in audit and log; none where it was not recorded.
    pub fn refusal(refusal: &Refusal, id: Option<String>) -> Self {
        let Refusal { code, message, field, hint, receipt } = refusal.clone();
        let entry = ErrorEntry { code, message, field, hint, id, receipt: receipt.map(|receipt| *receipt) };
        let body = bulla_wire::json::to_vec(&ErrorBody { errors: vec![entry] });
        Self { code: Some(code), ..Self::bytes(code.status(), JSON_MEDIA_TYPE, body) }
    }

    /// The same answer with the sequence that it was read at.
    #[must_use]
    pub fn at(mut self, sequence: Option<u64>) -> Self {
        self.sequence = sequence;
        self
    }
}

/// The request line of a request, as it was sent.
#[derive(Debug, Clone)]
pub struct RequestLine {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query without its question mark.
    pub query: String,
}

impl RequestLine {
    /// Takes it from a request's head.
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let (method, path) = (method.as_str().to_owned(), uri.path().to_owned());
        Self { method, path, query: uri.query().unwrap_or_default().to_owned() }
    }
}

/// Signs an answer.
pub fn sign(node: &Node, phase: &Phase, answered: &Answered<'_>, answer: Answer) -> Response<Bytes> {
    let challenge = phase.issue(node).to_string();
    let state = phase.state(answer.sequence, answer.alarms).to_string();
    let digest = digest_header(&answer.body);
    let parts = ResponseParts {
        status: answer.status,
        content_type: answer.content_type,
        content_digest: &digest,
        challenge: &challenge,
        state: &state,
    };
    let signed = sign_response(&parts, answered, node.now_ms() / 1000, &node.parts.key);
    let body = Roomy { body: answer.body, _room: answer.room, _share: answer.share };
    let mut response = Response::new(Bytes::from_owner(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let mut put = |name: http::HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(CONTENT_TYPE, answer.content_type);
    put(CACHE_CONTROL, "no-store, no-transform");
    put(http::HeaderName::from_static(CONTENT_DIGEST_HEADER), &digest);
    put(http::HeaderName::from_static(CHALLENGE_HEADER), &challenge);
    put(http::HeaderName::from_static(STATE_HEADER), &state);
    if let Answered::Connection { caller, .. } = answered {
        put(http::HeaderName::from_static(CALLER_HEADER), &caller.to_string());
    }
    if let Some(allow) = &answer.allow {
        put(ALLOW, allow);
    }
    if matches!(answer.code, Some(Code::Overloaded | Code::AuditBlocked | Code::Unknown | Code::Busy)) {
        put(RETRY_AFTER, &RETRY_AFTER_S.to_string());
    }
    match signed {
        Ok(signature) => {
            put(http::HeaderName::from_static(SIGNATURE_INPUT_HEADER), &signature.signature_input);
            put(http::HeaderName::from_static(SIGNATURE_HEADER), &signature.signature);
        }
        // An unsigned answer is no answer for any client; the log says why.
        Err(error) => tracing::error!(%error, "the node's key does not sign"),
    }
    response
}

/// What stands in an answer for a fault of ours: nothing but where to look.
pub fn internal(detail: &dyn std::fmt::Display, id: &str) -> Refusal {
    tracing::error!(%detail, request = id, "internal fault");
    Refusal::new(Code::Internal, "the server failed; its log says why")
        .hint(format!("look for {id} in the server's log"))
}
