//! Signed requests and responses, the challenge, and the derived values of `spec/request.md`.
//!
//! Both ends call these functions, so they cannot disagree about which bytes are signed. The texts
//! themselves are built in [`bulla_wire::signature`]; here they meet keys.
//!
//! Held: a signature covers method, path, query, body digest, audience and challenge. Not held: a
//! caller must compare the `Content-Digest` header with the body itself (see [`digest_header`]), and
//! the path with what it routes.

use crate::digest::{equal, framed, hmac_sha256, sha256};
use crate::kdf;
use crate::random::{Rng, draw};
use crate::secret::SecretKey;
use crate::sign::{Algorithm, PublicKey, RsaMinimum, SignError, Signer, SigningKey, VerifyError, verify_dummy};
use bulla_wire::challenge::{Challenge, FUTURE_SKEW_MS, LIFETIME_MS};
use bulla_wire::id::{ClusterId, Digest, KeyId, Nonce};
use bulla_wire::signature::{
    Answered, Audience, RequestParameters, RequestParts, ResponseParameters, ResponseParts, TemplateError,
    content_digest, parse_signature, signature,
};
use std::fmt;
use std::hint::black_box;
use std::sync::LazyLock;

/// Milliseconds of an hour: how long one derived challenge key is used.
const HOUR_MS: u64 = 3_600_000;

/// The two headers that carry a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureHeaders {
    /// Value of `Signature-Input`.
    pub signature_input: String,
    /// Value of `Signature`.
    pub signature: String,
}

/// The `Content-Digest` of `body`.
pub fn digest_header(body: &[u8]) -> String {
    content_digest(&sha256(&[body]))
}

/// Signs a request by profile `bulla-req-v1`. Key and algorithm are the signer's, so they cannot be
/// named wrongly.
///
/// # Errors
/// The signer's.
pub async fn sign_request(
    parts: &RequestParts<'_>,
    created_s: u64,
    nonce: Nonce,
    signer: &dyn Signer,
) -> Result<SignatureHeaders, SignError> {
    let key = signer.public_key();
    let parameters =
        RequestParameters { created_s, nonce, key: key.key_id(), algorithm: key.algorithm().name().to_owned() };
    let bytes = signer.sign(parameters.signature_base(parts).as_bytes()).await?;
    Ok(SignatureHeaders { signature_input: parameters.header(), signature: signature(&bytes) })
}

/// The key of a request is unknown, or the signature is not its own. One value for both: whoever asks
/// must not learn which keys exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unauthenticated;

impl fmt::Display for Unauthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key is not known, or the signature is not its own")
    }
}

impl std::error::Error for Unauthenticated {}

/// Verifies a request's signature. `key` is the one registered under `parameters.key`, or `None` if
/// there is none; then the work of the algorithm that the parameters name is done for nothing, so that the time of
/// a refusal does not tell whether there is such a key. For RSA that is the work of a key with 3072 bits: longer
/// keys cost more, and can be told from unknown ones.
///
/// # Errors
/// [`Unauthenticated`] if there is no key, the key is another than the parameters name, its algorithm
/// is not the one they name, or the signature does not hold.
pub fn verify_request(
    parts: &RequestParts<'_>,
    parameters: &RequestParameters,
    signature: &[u8],
    key: Option<&PublicKey>,
) -> Result<(), Unauthenticated> {
    let base = parameters.signature_base(parts);
    let fits =
        |key: &&PublicKey| key.key_id() == parameters.key && key.algorithm().name() == parameters.algorithm.as_str();
    let Some(key) = key.filter(fits) else {
        spend_verification(&parameters.algorithm, base.as_bytes(), signature);
        return Err(Unauthenticated);
    };
    key.verify(base.as_bytes(), signature).map_err(|_| Unauthenticated)
}

/// Spends the time of one verification by the algorithm of this name, and tells nothing. A name that is none costs
/// what Ed25519 costs, whether the key is known or not.
fn spend_verification(algorithm: &str, message: &[u8], signature: &[u8]) {
    match Algorithm::from_name(algorithm).and_then(stand_in) {
        None => verify_dummy(message, signature),
        Some(key) => {
            let _: Result<(), VerifyError> = black_box(key.verify(black_box(message), black_box(signature)));
        }
    }
}

/// The key whose work is done where there is no key; for Ed25519 [`verify_dummy`] has its own.
fn stand_in(algorithm: Algorithm) -> Option<&'static PublicKey> {
    match algorithm {
        Algorithm::Ed25519 => None,
        Algorithm::EcdsaP256 => Some(&STAND_IN_P256),
        Algorithm::EcdsaP384 => Some(&STAND_IN_P384),
        Algorithm::RsaPssSha512 => Some(&STAND_IN_RSA),
    }
}

/// The public key of RFC 6979 §A.2.5: any valid key serves, its owner gains nothing.
#[expect(clippy::expect_used, reason = "a constant, exercised by a test")]
static STAND_IN_P256: LazyLock<PublicKey> = LazyLock::new(|| {
    PublicKey::from_p256_point(
        b"\x04\x60\xfe\xd4\xba\x25\x5a\x9d\x31\xc9\x61\xeb\x74\xc6\x35\x6d\x68\xc0\x49\xb8\x92\x3b\x61\xfa\
           \x6c\xe6\x69\x62\x2e\x60\xf2\x9f\xb6\x79\x03\xfe\x10\x08\xb8\xbc\x99\xa4\x1a\xe9\xe9\x56\x28\xbc\
           \x64\xf2\xf1\xb2\x0c\x2d\x7e\x9f\x51\x77\xa3\xc2\x94\xd4\x46\x22\x99",
    )
    .expect("the key of RFC 6979 parses")
});

/// The public key of RFC 6979 §A.2.6.
#[expect(clippy::expect_used, reason = "a constant, exercised by a test")]
static STAND_IN_P384: LazyLock<PublicKey> = LazyLock::new(|| {
    PublicKey::from_p384_point(
        b"\x04\xec\x3a\x4e\x41\x5b\x4e\x19\xa4\x56\x86\x18\x02\x9f\x42\x7f\xa5\xda\x9a\x8b\xc4\xae\x92\xe0\
           \x2e\x06\xaa\xe5\x28\x6b\x30\x0c\x64\xde\xf8\xf0\xea\x90\x55\x86\x60\x64\xa2\x54\x51\x54\x80\xbc\
           \x13\x80\x15\xd9\xb7\x2d\x7d\x57\x24\x4e\xa8\xef\x9a\xc0\xc6\x21\x89\x67\x08\xa5\x93\x67\xf9\xdf\
           \xb9\xf5\x4c\xa8\x4b\x3f\x1c\x9d\xb1\x28\x8b\x23\x1c\x3a\xe0\xd4\xfe\x73\x44\xfd\x25\x33\x26\x47\
           \x20",
    )
    .expect("the key of RFC 6979 parses")
});

/// An odd number of 3072 bits. Verifying needs no primes, and the result is thrown away.
#[expect(clippy::expect_used, reason = "a constant, exercised by a test")]
static STAND_IN_RSA: LazyLock<PublicKey> = LazyLock::new(|| {
    PublicKey::from_rsa(&[0xd5; 384], &[1, 0, 1], RsaMinimum::Bits3072).expect("an odd modulus of 3072 bits parses")
});

/// Signs a response by the profile that fits `answered`.
///
/// # Errors
/// [`SignError::Library`], also for a node key that is not Ed25519.
pub fn sign_response(
    parts: &ResponseParts<'_>,
    answered: &Answered<'_>,
    created_s: u64,
    node: &SigningKey,
) -> Result<SignatureHeaders, SignError> {
    if node.public_key().algorithm() != Algorithm::Ed25519 {
        return Err(SignError::Library);
    }
    let parameters = ResponseParameters { created_s, node: node.public_key().key_id() };
    let bytes = node.sign(parameters.signature_base(parts, answered).as_bytes())?;
    Ok(SignatureHeaders { signature_input: parameters.header(answered), signature: signature(&bytes) })
}

/// Why a response is not a node's answer to this request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseError {
    /// A header is not in its one spelling, or of the other profile.
    Template(TemplateError),
    /// Signed by a key that is no active node.
    UnknownNode(KeyId),
    /// The signature is not the node's over this response and request.
    BadSignature(KeyId),
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(error) => write!(f, "the response is not signed in the expected form: {error}"),
            Self::UnknownNode(key) => write!(f, "the response is signed by {key}, which is no active node"),
            Self::BadSignature(key) => {
                write!(f, "the response's signature, said to be by node {key}, does not verify")
            }
        }
    }
}

impl std::error::Error for ResponseError {}

impl From<TemplateError> for ResponseError {
    fn from(error: TemplateError) -> Self {
        Self::Template(error)
    }
}

/// Verifies a response against the request it answers. `node_key` looks a node's key up, among those
/// that are active in the newest document.
///
/// # Errors
/// See [`ResponseError`]. A response that does not verify is no answer: the outcome is unknown.
pub fn verify_response<'k>(
    parts: &ResponseParts<'_>,
    answered: &Answered<'_>,
    headers: &SignatureHeaders,
    node_key: impl FnOnce(&KeyId) -> Option<&'k PublicKey>,
) -> Result<ResponseParameters, ResponseError> {
    let parameters = ResponseParameters::parse(&headers.signature_input, answered)?;
    let signature = parse_signature(&headers.signature)?;
    let key = node_key(&parameters.node)
        .filter(|key| key.key_id() == parameters.node && key.algorithm() == Algorithm::Ed25519)
        .ok_or(ResponseError::UnknownNode(parameters.node))?;
    key.verify(parameters.signature_base(parts, answered).as_bytes(), &signature)
        .map_err(|_| ResponseError::BadSignature(parameters.node))?;
    Ok(parameters)
}

/// Why a challenge is refused. The client is told `stale_challenge` for each; the difference is for
/// log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeError {
    /// Made under a key of another epoch.
    OtherEpoch,
    /// Issued more than [`LIFETIME_MS`] ago.
    Old,
    /// Issued more than [`FUTURE_SKEW_MS`] from now.
    Future,
    /// Not made by this cluster for this audience.
    Forged,
}

impl fmt::Display for ChallengeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherEpoch => "the challenge is of another epoch",
            Self::Old => "the challenge is too old",
            Self::Future => "the challenge is of the future",
            Self::Forged => "the challenge was not made here",
        })
    }
}

impl std::error::Error for ChallengeError {}

/// The key under which challenges are made: of the keyring, or of one process while sealed.
#[derive(Debug)]
pub struct ChallengeKey {
    key: SecretKey,
    epoch: u16,
}

impl ChallengeKey {
    /// The key of an unsealed cluster in `epoch`, of which the low 16 bits stand in the challenge.
    pub fn of_epoch(key: SecretKey, epoch: u64) -> Self {
        let [.., high, low] = epoch.to_be_bytes();
        Self { key, epoch: u16::from_be_bytes([high, low]) }
    }

    /// A key that a sealed or uninitialised process drew for itself. Its key epoch is 0.
    pub fn of_process(key: SecretKey) -> Self {
        Self { key, epoch: 0 }
    }

    /// What stands as key epoch in the challenges of this key.
    pub fn key_epoch(&self) -> u16 {
        self.epoch
    }

    /// Makes a challenge.
    pub fn issue(&self, audience: &Audience, now_ms: u64, node: &KeyId, rng: &mut dyn Rng) -> Challenge {
        let [n0, n1, ..] = *node.as_bytes();
        let covered = Challenge::covered(self.epoch, now_ms, [n0, n1], draw(rng));
        Challenge::new(covered, self.tag(audience, now_ms, &covered))
    }

    /// Checks a challenge that came back.
    ///
    /// # Errors
    /// See [`ChallengeError`].
    pub fn check(&self, challenge: &Challenge, audience: &Audience, now_ms: u64) -> Result<(), ChallengeError> {
        if challenge.key_epoch() != self.epoch {
            return Err(ChallengeError::OtherEpoch);
        }
        let issued_ms = challenge.issued_ms();
        if issued_ms > now_ms.saturating_add(FUTURE_SKEW_MS) {
            return Err(ChallengeError::Future);
        }
        if now_ms.saturating_sub(issued_ms) > LIFETIME_MS {
            return Err(ChallengeError::Old);
        }
        let (covered, tag) = challenge.parts();
        if equal(&self.tag(audience, issued_ms, &covered), &tag) { Ok(()) } else { Err(ChallengeError::Forged) }
    }

    fn tag(&self, audience: &Audience, issued_ms: u64, covered: &[u8]) -> [u8; 16] {
        let hour = (issued_ms / HOUR_MS).to_be_bytes();
        let key = kdf::derive(self.key.expose(), "challenge", &[&hour]);
        let full = hmac_sha256(key.expose(), &[b"bulla/v1/challenge", audience.to_string().as_bytes(), covered]);
        let mut tag = [0; 16];
        for (to, from) in tag.iter_mut().zip(full) {
            *to = from;
        }
        tag
    }
}

/// What a mutation's second attempt must have in common with its first: all but challenge, time and
/// signature.
pub fn request_digest(parts: &RequestParts<'_>) -> Digest {
    let fields = [parts.method, parts.path, parts.query, parts.content_type, parts.content_digest];
    Digest::new(sha256(&[&framed(&fields.map(str::as_bytes))]))
}

/// Under which a used nonce is remembered.
pub fn seen_key(key: &KeyId, nonce: &Nonce) -> Digest {
    Digest::new(sha256(&[b"bulla/v1/seen", key.as_bytes(), nonce.as_bytes()]))
}

/// The first line, with its end, of the plaintext of a body that is encrypted to the ingress key. It ties
/// the ciphertext to one signer and one request.
pub fn ingress_line(cluster: &ClusterId, key: &KeyId, method: &str, path: &str, query: &str, nonce: &Nonce) -> String {
    format!("bulla-ingress-v1 {cluster} {key} {method} {path}?{query} {nonce}\n")
}

/// The plaintext was written for another signer, request or cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngressMismatch;

impl fmt::Display for IngressMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the encrypted body was made for another signer or request")
    }
}

impl std::error::Error for IngressMismatch {}

/// The JSON body after the line, which must be `line`, as [`ingress_line`] makes it from signed values.
///
/// # Errors
/// [`IngressMismatch`] if it is another.
pub fn after_ingress_line<'a>(plaintext: &'a [u8], line: &str) -> Result<&'a [u8], IngressMismatch> {
    plaintext.strip_prefix(line.as_bytes()).ok_or(IngressMismatch)
}

#[cfg(test)]
mod tests;
