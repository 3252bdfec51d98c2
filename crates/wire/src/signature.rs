//! The two signature profiles over HTTP messages, `bulla-req-v1` and `bulla-res-v1` (`spec/request.md`).
//!
//! Both are RFC 9421 with everything negotiable removed: one label, one list of components, one order of
//! parameters. A verifier rebuilds the one line that it would accept and compares bytes, so there is
//! nothing to parse, to downgrade or to confuse.

use crate::encoding::{base64, base64_decode};
use crate::id::{ClusterId, KeyId, Nonce};
use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

/// Header that names whom a request is for.
pub const AUDIENCE_HEADER: &str = "bulla-audience";
/// Header that carries a challenge, in requests and in every response.
pub const CHALLENGE_HEADER: &str = "bulla-challenge";
/// Header that tells where the cluster stands, in every response.
pub const STATE_HEADER: &str = "bulla-state";
/// Header in which a request over mTLS names its nonce.
pub const NONCE_HEADER: &str = "bulla-nonce";
/// Header that tells by which key a request over mTLS was known, in its answer.
pub const CALLER_HEADER: &str = "bulla-caller";
/// RFC 9530 header with the SHA-256 of the body.
pub const CONTENT_DIGEST_HEADER: &str = "content-digest";
/// RFC 9421 §4.1.
pub const SIGNATURE_INPUT_HEADER: &str = "signature-input";
/// RFC 9421 §4.2.
pub const SIGNATURE_HEADER: &str = "signature";

/// Content type of an empty body.
pub const EMPTY_MEDIA_TYPE: &str = "application/octet-stream";
/// Content type of JSON bodies.
pub const JSON_MEDIA_TYPE: &str = "application/json";
/// Content type of a body that is an age file: secret bytes to the ingress key, or to the reader.
pub const AGE_MEDIA_TYPE: &str = "application/age";

/// Longest signature in bytes: RSA of 8192 bits.
pub const MAX_SIGNATURE_BYTES: usize = 1024;
/// Longest sum of all request header names and values in bytes. Ours take about 700.
pub const MAX_HEADER_BYTES: usize = 12 * 1024;

const REQUEST_COMPONENTS: &str =
    r#"("@method" "@path" "@query" "content-type" "content-digest" "bulla-audience" "bulla-challenge")"#;
const RESPONSE_COMPONENTS: &str = r#"("@status" "content-type" "content-digest" "bulla-challenge" "bulla-state" "@method";req "@path";req "@query";req "content-digest";req "signature-input";req;key="bulla" "signature";req;key="bulla")"#;
const OPEN_RESPONSE_COMPONENTS: &str = r#"("@status" "content-type" "content-digest" "bulla-challenge" "bulla-state" "@method";req "@path";req "@query";req)"#;
const MTLS_RESPONSE_COMPONENTS: &str = r#"("@status" "content-type" "content-digest" "bulla-challenge" "bulla-state" "bulla-caller" "@method";req "@path";req "@query";req)"#;
const MTLS_RESPONSE_COMPONENTS_WITH_NONCE: &str = r#"("@status" "content-type" "content-digest" "bulla-challenge" "bulla-state" "bulla-caller" "@method";req "@path";req "@query";req "bulla-nonce";req)"#;

/// Why a header of a signed message is not the one spelling that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// The header at fault.
    pub header: &'static str,
    /// What it should have been.
    pub expected: &'static str,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}", self.header, self.expected)
    }
}
impl std::error::Error for TemplateError {}

/// Whom a request is for: a cluster, or before it exists one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// `sha256:…`
    Cluster(ClusterId),
    /// `node:sha256:…`
    Node(KeyId),
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(id) => write!(f, "{id}"),
            Self::Node(id) => write!(f, "node:{id}"),
        }
    }
}
impl FromStr for Audience {
    type Err = crate::id::ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("node:") {
            Some(id) => id.parse().map(Self::Node),
            None => text.parse().map(Self::Cluster),
        }
    }
}

/// `Content-Digest` of a body with this SHA-256 (RFC 9530 §2).
pub fn content_digest(sha256: &[u8; 32]) -> String {
    format!("sha-256=:{}:", base64(sha256))
}

/// Reads a `Content-Digest` with exactly one SHA-256 member.
pub fn parse_content_digest(text: &str) -> Result<[u8; 32], TemplateError> {
    text.strip_prefix("sha-256=:")
        .and_then(|rest| rest.strip_suffix(':'))
        .and_then(base64_decode)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(TemplateError { header: "content-digest", expected: "sha-256=:<base64 of 32 bytes>:" })
}

/// `Signature` with the one member `bulla` (RFC 9421 §4.2).
pub fn signature(bytes: &[u8]) -> String {
    format!("bulla=:{}:", base64(bytes))
}

/// Reads [`signature`].
pub fn parse_signature(text: &str) -> Result<Vec<u8>, TemplateError> {
    text.strip_prefix("bulla=:")
        .and_then(|rest| rest.strip_suffix(':'))
        .and_then(base64_decode)
        .filter(|bytes| !bytes.is_empty() && bytes.len() <= MAX_SIGNATURE_BYTES)
        .ok_or(TemplateError { header: "signature", expected: "bulla=:<base64 of the signature>:" })
}

/// What a signature covers of the request line and headers.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// The method in upper case.
    pub method: &'a str,
    /// The path exactly as it stands in the request line.
    pub path: &'a str,
    /// The query without its question mark; empty if there is none.
    pub query: &'a str,
    /// The `Content-Type` value.
    pub content_type: &'a str,
    /// The `Content-Digest` value.
    pub content_digest: &'a str,
    /// The `Bulla-Audience` value.
    pub audience: &'a str,
    /// The `Bulla-Challenge` value.
    pub challenge: &'a str,
}

/// The parameters of a request signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestParameters {
    /// The signer's clock, Unix seconds; evidence only, never checked.
    pub created_s: u64,
    /// The request's nonce.
    pub nonce: Nonce,
    /// The signing key.
    pub key: KeyId,
    /// The algorithm's name in RFC 9421 §6.2.2; must be the one registered with the key.
    pub algorithm: String,
}

impl RequestParameters {
    /// The inner list with parameters: the last line of the signature base and the value of the header's member.
    pub fn inner_list(&self) -> String {
        format!(
            r#"{REQUEST_COMPONENTS};created={};nonce="{}";keyid="{}";alg="{}";tag="bulla-req-v1""#,
            self.created_s, self.nonce, self.key, self.algorithm
        )
    }

    /// The value of `Signature-Input`.
    pub fn header(&self) -> String {
        format!("bulla={}", self.inner_list())
    }

    /// Reads a `Signature-Input` value; refuses all but the one spelling.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let refused = || TemplateError {
            header: "signature-input",
            expected: "the one line of profile bulla-req-v1 (spec/request.md), byte for byte",
        };
        let read = || -> Option<Self> {
            let rest = text.strip_prefix("bulla=")?.strip_prefix(REQUEST_COMPONENTS)?.strip_prefix(";created=")?;
            let (created, rest) = rest.split_once(";nonce=\"")?;
            let (nonce, rest) = rest.split_once("\";keyid=\"")?;
            let (key, rest) = rest.split_once("\";alg=\"")?;
            let algorithm = rest.strip_suffix("\";tag=\"bulla-req-v1\"")?;
            let plain = !algorithm.is_empty()
                && algorithm.len() <= 32
                && algorithm.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            plain.then_some(())?;
            Some(Self {
                created_s: created.parse().ok()?,
                nonce: nonce.parse().ok()?,
                key: key.parse().ok()?,
                algorithm: algorithm.to_owned(),
            })
        };
        let parameters = read().ok_or_else(refused)?;
        // Rebuilding catches what the pieces let through, such as a leading zero or plus in `created`.
        if parameters.header() == text { Ok(parameters) } else { Err(refused()) }
    }

    /// The bytes that are signed (RFC 9421 §2.5).
    pub fn signature_base(&self, parts: &RequestParts<'_>) -> String {
        format!(
            "\"@method\": {}\n\"@path\": {}\n\"@query\": ?{}\n\"content-type\": {}\n\"content-digest\": {}\n\"bulla-audience\": {}\n\"bulla-challenge\": {}\n\"@signature-params\": {}",
            parts.method,
            parts.path,
            parts.query,
            parts.content_type,
            parts.content_digest,
            parts.audience,
            parts.challenge,
            self.inner_list()
        )
    }
}

/// What a response signature covers of the response.
#[derive(Debug, Clone, Copy)]
pub struct ResponseParts<'a> {
    /// The status code.
    pub status: u16,
    /// The `Content-Type` value.
    pub content_type: &'a str,
    /// The `Content-Digest` value.
    pub content_digest: &'a str,
    /// The `Bulla-Challenge` value.
    pub challenge: &'a str,
    /// The `Bulla-State` value.
    pub state: &'a str,
}

/// What a response signature covers of its request.
#[derive(Debug, Clone, Copy)]
pub enum Answered<'a> {
    /// The request's signature was valid: profile `bulla-res-v1`.
    Signed {
        /// The request's method, path, query and digest; the rest is covered through its signature.
        request: RequestParts<'a>,
        /// The request's `Signature-Input` value.
        signature_input: &'a str,
        /// The request's `Signature` value.
        signature: &'a str,
    },
    /// The key of the connection's certificate was valid, and the request not signed: profile `bulla-res-mtls-v1`. A
    /// profile of its own, so that who signs never takes the answer to somebody else's request for one to his own.
    Connection {
        /// The request's method.
        method: &'a str,
        /// The request's path.
        path: &'a str,
        /// The request's query without its question mark.
        query: &'a str,
        /// The key, which stands in the response's `Bulla-Caller`.
        caller: KeyId,
        /// The request's `Bulla-Nonce`, if it named one.
        nonce: Option<Nonce>,
    },
    /// Open routes and everything refused before a signature was valid: profile `bulla-res-open-v1`.
    Open {
        /// The request's method.
        method: &'a str,
        /// The request's path.
        path: &'a str,
        /// The request's query without its question mark.
        query: &'a str,
    },
}

/// The parameters of a response signature. Node keys are Ed25519.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseParameters {
    /// The node's clock, Unix seconds.
    pub created_s: u64,
    /// The node's key.
    pub node: KeyId,
}

impl ResponseParameters {
    fn inner_list(&self, answered: &Answered<'_>) -> String {
        let (components, tag) = match answered {
            Answered::Signed { .. } => (RESPONSE_COMPONENTS, "bulla-res-v1"),
            Answered::Connection { nonce: None, .. } => (MTLS_RESPONSE_COMPONENTS, "bulla-res-mtls-v1"),
            Answered::Connection { nonce: Some(_), .. } => (MTLS_RESPONSE_COMPONENTS_WITH_NONCE, "bulla-res-mtls-v1"),
            Answered::Open { .. } => (OPEN_RESPONSE_COMPONENTS, "bulla-res-open-v1"),
        };
        format!(r#"{components};created={};keyid="{}";alg="ed25519";tag="{tag}""#, self.created_s, self.node)
    }

    /// The value of the response's `Signature-Input`.
    pub fn header(&self, answered: &Answered<'_>) -> String {
        format!("bulla={}", self.inner_list(answered))
    }

    /// Reads a response's `Signature-Input`; refuses all but the one spelling of the profile that fits `answered`.
    pub fn parse(text: &str, answered: &Answered<'_>) -> Result<Self, TemplateError> {
        let refused = || TemplateError {
            header: "signature-input",
            expected: "the one line of profile bulla-res-v1, bulla-res-mtls-v1 or bulla-res-open-v1 (spec/request.md), byte for byte",
        };
        let read = || -> Option<Self> {
            let (_, rest) = text.split_once(");created=")?;
            let (created, rest) = rest.split_once(";keyid=\"")?;
            let (node, _) = rest.split_once("\";alg=\"")?;
            Some(Self { created_s: created.parse().ok()?, node: node.parse().ok()? })
        };
        let parameters = read().ok_or_else(refused)?;
        if parameters.header(answered) == text { Ok(parameters) } else { Err(refused()) }
    }

    /// The bytes that are signed (RFC 9421 §2.5, with §2.4 for the request's components).
    pub fn signature_base(&self, parts: &ResponseParts<'_>, answered: &Answered<'_>) -> String {
        let mut base = format!(
            "\"@status\": {}\n\"content-type\": {}\n\"content-digest\": {}\n\"bulla-challenge\": {}\n\"bulla-state\": {}\n",
            parts.status, parts.content_type, parts.content_digest, parts.challenge, parts.state
        );
        let (method, path, query) = match answered {
            Answered::Signed { request, .. } => (request.method, request.path, request.query),
            Answered::Connection { method, path, query, .. } | Answered::Open { method, path, query } => {
                (*method, *path, *query)
            }
        };
        if let Answered::Connection { caller, .. } = answered {
            let _ = writeln!(base, "\"bulla-caller\": {caller}");
        }
        let _ = write!(base, "\"@method\";req: {method}\n\"@path\";req: {path}\n\"@query\";req: ?{query}\n");
        if let Answered::Signed { request, signature_input, signature } = answered {
            let _ = write!(
                base,
                "\"content-digest\";req: {}\n\"signature-input\";req;key=\"bulla\": {}\n\"signature\";req;key=\"bulla\": {}\n",
                request.content_digest,
                signature_input.strip_prefix("bulla=").unwrap_or(signature_input),
                signature.strip_prefix("bulla=").unwrap_or(signature)
            );
        }
        if let Answered::Connection { nonce: Some(nonce), .. } = answered {
            let _ = writeln!(base, "\"bulla-nonce\";req: {nonce}");
        }
        let _ = write!(base, "\"@signature-params\": {}", self.inner_list(answered));
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> RequestParameters {
        RequestParameters {
            created_s: 1_700_000_000,
            nonce: Nonce::new(28_333_333, [7; 12]),
            key: KeyId::new([1; 32]),
            algorithm: "ed25519".into(),
        }
    }

    #[test]
    fn request_header_has_one_spelling() {
        let text = parameters().header();
        assert_eq!(RequestParameters::parse(&text), Ok(parameters()));
        let alterations = [
            text.replace("created=1", "created=01"),
            text.replace("created=1", "created=+1"),
            text.replace("bulla=(", "bulla= ("),
            text.replace("\"@query\" ", ""),
            text.replace("bulla-req-v1", "bulla-req-v2"),
            text.replace("ed25519", "ED25519"),
            text.replace("ed25519", "ed25519\";x=\"y"),
            text.replace("nonce=", "Nonce="),
            format!("{text};x=1"),
            format!("{text}, other=()"),
            format!("bulla=(), {text}"),
        ];
        for altered in alterations {
            assert_ne!(altered, text);
            assert!(RequestParameters::parse(&altered).is_err(), "{altered}");
        }
    }

    const REQUEST: RequestParts<'static> = RequestParts {
        method: "POST",
        path: "/v1/a",
        query: "b=c",
        content_type: "application/json",
        content_digest: "sha-256=:AA==:",
        audience: "node:sha256:x",
        challenge: "AQ",
    };

    #[test]
    fn the_base_of_a_request() {
        let parameters = parameters();
        let expected = [
            "\"@method\": POST",
            "\"@path\": /v1/a",
            "\"@query\": ?b=c",
            "\"content-type\": application/json",
            "\"content-digest\": sha-256=:AA==:",
            "\"bulla-audience\": node:sha256:x",
            "\"bulla-challenge\": AQ",
            &format!("\"@signature-params\": {}", &parameters.header()["bulla=".len()..]),
        ];
        assert_eq!(parameters.signature_base(&REQUEST), expected.join("\n"));
    }

    #[test]
    fn the_base_of_a_response() {
        let parameters = ResponseParameters { created_s: 5, node: KeyId::new([2; 32]) };
        let parts = ResponseParts {
            status: 200,
            content_type: "application/age",
            content_digest: "sha-256=:BB==:",
            challenge: "AQ",
            state: "v1;1",
        };
        let caller = KeyId::new([3; 32]);
        let nonce = Nonce::new(1, [7; 12]);
        let (method, path, query) = ("POST", "/v1/a", "b=c");
        let connection = |nonce| Answered::Connection { method, path, query, caller, nonce };
        let signed = Answered::Signed { request: REQUEST, signature_input: "bulla=(1)", signature: "bulla=:2:" };
        let caller = format!("\"bulla-caller\": {caller}\n");
        let nonced = format!("\"bulla-nonce\";req: {nonce}\n");
        let request = "\"content-digest\";req: sha-256=:AA==:\n\"signature-input\";req;key=\"bulla\": (1)\n\"signature\";req;key=\"bulla\": :2:\n";
        for (answered, before, after) in [
            (signed, "", request),
            (connection(None), caller.as_str(), ""),
            (connection(Some(nonce)), caller.as_str(), nonced.as_str()),
            (Answered::Open { method, path, query }, "", ""),
        ] {
            let expected = format!(
                "\"@status\": 200\n\"content-type\": application/age\n\"content-digest\": sha-256=:BB==:\n\"bulla-challenge\": AQ\n\"bulla-state\": v1;1\n{before}\"@method\";req: POST\n\"@path\";req: /v1/a\n\"@query\";req: ?b=c\n{after}\"@signature-params\": {}",
                &parameters.header(&answered)["bulla=".len()..]
            );
            assert_eq!(parameters.signature_base(&parts, &answered), expected);
        }
    }

    #[test]
    fn an_audience_is_read_back() {
        for audience in [Audience::Cluster(ClusterId::new([1; 32])), Audience::Node(KeyId::new([1; 32]))] {
            assert_eq!(audience.to_string().parse(), Ok(audience));
        }
        assert!(Audience::Node(KeyId::new([1; 32])).to_string().starts_with("node:sha256:"));
    }

    #[test]
    fn response_header_fits_its_profile_only() {
        let open = Answered::Open { method: "GET", path: "/v1/health", query: "" };
        let parameters = ResponseParameters { created_s: 5, node: KeyId::new([2; 32]) };
        let text = parameters.header(&open);
        assert_eq!(ResponseParameters::parse(&text, &open), Ok(parameters.clone()));
        let request = RequestParts {
            method: "GET",
            path: "/",
            query: "",
            content_type: "",
            content_digest: "",
            audience: "",
            challenge: "",
        };
        let signed = Answered::Signed { request, signature_input: "bulla=()", signature: "bulla=::" };
        assert!(ResponseParameters::parse(&text, &signed).is_err());
        let connection = |nonce| Answered::Connection {
            method: "GET",
            path: "/v1/health",
            query: "",
            caller: KeyId::new([3; 32]),
            nonce,
        };
        let (bare, with) = (connection(None), connection(Some(Nonce::new(1, [7; 12]))));
        for answered in [open, signed, bare, with] {
            let text = parameters.header(&answered);
            for other in [open, signed, bare, with] {
                let same = parameters.header(&other) == text;
                assert_eq!(ResponseParameters::parse(&text, &other).is_ok(), same, "{text} for {other:?}");
            }
        }
        assert_eq!(parameters.header(&with).matches("bulla-nonce").count(), 1);
    }

    #[test]
    fn digests_and_signatures() {
        let text = content_digest(&[3; 32]);
        assert_eq!(parse_content_digest(&text), Ok([3; 32]));
        for bad in [
            text.to_uppercase(),
            format!("{text}, {text}"),
            format!("sha-512=:AA==:, {text}"),
            text.replace("=:", "=: "),
        ] {
            assert!(parse_content_digest(&bad).is_err(), "{bad}");
        }
        assert_eq!(parse_signature(&signature(&[1, 2])), Ok(vec![1, 2]));
        assert!(parse_signature("bulla=::").is_err());
        assert!(parse_signature(&signature(&[0; MAX_SIGNATURE_BYTES + 1])).is_err());
    }
}
