//! Answers: what a node signed, and how that is checked.

use crate::error::{ClientError, Untrusted, demand};
use crate::transport::Received;
use bulla_crypto::digest::sha256;
use bulla_crypto::message::{SignatureHeaders, verify_response};
use bulla_crypto::sign::PublicKey;
use bulla_wire::challenge::Challenge;
use bulla_wire::error::ErrorBody;
use bulla_wire::id::KeyId;
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::signature::{
    Answered, CHALLENGE_HEADER, CONTENT_DIGEST_HEADER, JSON_MEDIA_TYPE, RequestParts, ResponseParts, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER, STATE_HEADER, content_digest,
};
use bulla_wire::state::State;
use bytes::Bytes;
use serde::de::DeserializeOwned;

/// A verified answer below status 400.
pub(crate) struct Answer {
    pub media: String,
    pub body: Bytes,
    /// Where the cluster says that it stands.
    pub state: State,
}

impl Answer {
    /// Reads a JSON answer.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        demand(self.media == JSON_MEDIA_TYPE, "the answer is not of the expected media type")?;
        json::parse(&self.body, usize::MAX).map_err(|_| ClientError::contradiction("the answer is malformed"))
    }
}

/// A request without a signature.
pub(crate) struct OpenRequest<'a> {
    pub method: &'static str,
    pub path: &'a str,
    pub query: &'a str,
    pub limit: usize,
}

/// The headers of a signed answer, each there once, and its body's digest compared.
pub(crate) struct Frame<'a> {
    status: u16,
    pub media: &'a str,
    digest: &'a str,
    challenge_text: &'a str,
    pub challenge: Challenge,
    state_text: &'a str,
    pub state: State,
    headers: SignatureHeaders,
}

impl<'a> Frame<'a> {
    pub(crate) fn of(received: &'a Received) -> Result<Self, Untrusted> {
        let status = received.status;
        let header = |name| received.header(name).ok_or(Untrusted::Unsigned { status, header: name });
        let (challenge_text, state_text) = (header(CHALLENGE_HEADER)?, header(STATE_HEADER)?);
        let frame = Self {
            status,
            media: header("content-type")?,
            digest: header(CONTENT_DIGEST_HEADER)?,
            challenge_text,
            challenge: challenge_text.parse().map_err(|_| Untrusted::Unsigned { status, header: CHALLENGE_HEADER })?,
            state_text,
            state: state_text.parse().map_err(|_| Untrusted::Unsigned { status, header: STATE_HEADER })?,
            headers: SignatureHeaders {
                signature_input: header(SIGNATURE_INPUT_HEADER)?.to_owned(),
                signature: header(SIGNATURE_HEADER)?.to_owned(),
            },
        };
        let same = content_digest(&sha256(&[&received.body])) == frame.digest;
        if same { Ok(frame) } else { Err(Untrusted::Body) }
    }

    /// The answer to which these headers, once verified, belong.
    pub(crate) fn answer(&self, received: &Received) -> Answer {
        Answer { media: self.media.to_owned(), body: received.body.clone(), state: self.state.clone() }
    }

    /// Which of the two profiles the answer claims.
    pub(crate) fn is_open(&self) -> bool {
        self.headers.signature_input.ends_with("tag=\"bulla-res-open-v1\"")
    }

    pub(crate) fn verify(
        &self,
        answered: &Answered<'_>,
        node_key: impl FnOnce(&KeyId) -> Option<PublicKey>,
    ) -> Result<(), Untrusted> {
        let parts = ResponseParts {
            status: self.status,
            content_type: self.media,
            content_digest: self.digest,
            challenge: self.challenge_text,
            state: self.state_text,
        };
        let slot = std::cell::OnceCell::new();
        let look = |key: &KeyId| node_key(key).map(|found| slot.get_or_init(|| found));
        verify_response(&parts, answered, &self.headers, look).map_err(Untrusted::Signature)?;
        Ok(())
    }
}

/// What a response signature covers of the signed request.
pub(crate) fn answered<'a>(parts: &RequestParts<'a>, headers: &'a SignatureHeaders, open: bool) -> Answered<'a> {
    if open {
        return Answered::Open { method: parts.method, path: parts.path, query: parts.query };
    }
    Answered::Signed { request: *parts, signature_input: &headers.signature_input, signature: &headers.signature }
}

/// Verifies the answer of an open route.
pub(crate) fn verify_open(
    request: &OpenRequest<'_>,
    received: &Received,
    node_key: impl FnOnce(&KeyId) -> Option<PublicKey>,
) -> Result<(), Untrusted> {
    let answered = Answered::Open { method: request.method, path: request.path, query: request.query };
    Frame::of(received)?.verify(&answered, node_key)
}

/// The refusal in an answer of status 400 or above.
pub(crate) fn refused(received: &Received, verified: bool) -> ClientError {
    let status = received.status;
    match json::parse::<ErrorBody>(&received.body, MAX_JSON_BYTES) {
        Ok(ErrorBody { errors }) if !errors.is_empty() => {
            ClientError::Refused { status, errors, verified, may_have_happened: false }
        }
        _ => Untrusted::Contradiction { what: "the answer is an error without a code that is known here" }.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::message::digest_header;

    fn received(status: u16, headers: &[(&'static str, &str)], body: &str) -> Received {
        let mut map = http::HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Received { status, headers: map, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn each_header_stands_there_once() {
        use bulla_crypto::message::sign_response;
        use bulla_crypto::random::SeededRng;
        use bulla_crypto::sign::SigningKey;
        let node = SigningKey::generate(&mut SeededRng::from_u64(1)).unwrap();
        let challenge = Challenge::new(Challenge::covered(0, 1, [0; 2], [0; 8]), [0; 16]).to_string();
        let digest = digest_header(b"{}");
        let parts = ResponseParts {
            status: 200,
            content_type: JSON_MEDIA_TYPE,
            content_digest: &digest,
            challenge: &challenge,
            state: "v1;0;-;-;doc=-;alarms=0",
        };
        let open = Answered::Open { method: "GET", path: "/v1/health", query: "" };
        let signed = sign_response(&parts, &open, 1, &node).unwrap();
        let headers = [
            ("content-type", JSON_MEDIA_TYPE),
            (CONTENT_DIGEST_HEADER, &digest),
            (CHALLENGE_HEADER, &challenge),
            (STATE_HEADER, parts.state),
            (SIGNATURE_INPUT_HEADER, &signed.signature_input),
            (SIGNATURE_HEADER, &signed.signature),
        ];
        let request = OpenRequest { method: "GET", path: "/v1/health", query: "", limit: 1 };
        let look = |_: &KeyId| Some(node.public_key().clone());
        assert!(verify_open(&request, &received(200, &headers, "{}"), look).is_ok());
        assert!(matches!(verify_open(&request, &received(200, &headers, "{ }"), look), Err(Untrusted::Body)));
        let other = received(201, &headers, "{}");
        assert!(matches!(verify_open(&request, &other, look), Err(Untrusted::Signature(_))));
        let elsewhere = OpenRequest { path: "/v1/cluster", ..request };
        assert!(verify_open(&elsewhere, &received(200, &headers, "{}"), look).is_err());
        let request = OpenRequest { method: "GET", path: "/v1/health", query: "", limit: 1 };
        for place in 0..headers.len() {
            let mut twice = headers.to_vec();
            twice.push(headers[place]);
            let mut missing = headers.to_vec();
            missing.remove(place);
            for bad in [twice, missing] {
                let error = verify_open(&request, &received(200, &bad, "{}"), look).unwrap_err();
                assert!(matches!(error, Untrusted::Unsigned { .. }), "{error}");
            }
        }
    }
}
