//! Signing and verifying DSSE envelopes (<https://github.com/secure-systems-lab/dsse>, protocol version 1).
//!
//! The signature covers the payload type and the payload's bytes as they stand in the envelope. Nothing is
//! serialised again before a check, and a payload is read only through [`Verified`].
//!
//! Two deviations from the protocol page, both stricter: a wrong signature that names a known key refuses the
//! envelope instead of being skipped, since only tampering or a fault makes one; and key ids are required, in one
//! spelling. As there, a key id only selects the key to try and is not believed.
//!
//! Not held: the list of signatures itself. Anyone can drop signatures, reorder them, and add ones by keys that
//! the verifier does not know.

use crate::sign::{PublicKey, SignError, Signer, SigningKey};
use bulla_wire::dsse::{Envelope, Signature, pae};
use bulla_wire::id::KeyId;
use std::collections::BTreeSet;
use std::fmt;

/// Why an envelope proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DsseError {
    /// It is a statement of another type.
    OtherType {
        /// The type it has.
        found: String,
    },
    /// It names a known key, but the signature is not that key's. Somebody altered it.
    BadSignature(KeyId),
    /// No known key signed it.
    NoKnownKey,
}

impl fmt::Display for DsseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherType { found } => write!(f, "the signed statement has another type: {found:?}"),
            Self::BadSignature(key) => write!(f, "the signature of {key} does not verify"),
            Self::NoKnownKey => f.write_str("none of the expected keys signed the statement"),
        }
    }
}

impl std::error::Error for DsseError {}

/// A payload that at least one of the given keys signed. Made by [`verify`] only.
#[derive(Debug)]
pub struct Verified<'a> {
    payload: &'a [u8],
    signers: BTreeSet<KeyId>,
}

impl<'a> Verified<'a> {
    /// The signed bytes.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The given keys that signed, each once, never empty.
    pub fn signers(&self) -> &BTreeSet<KeyId> {
        &self.signers
    }
}

/// Checks `envelope` against `keys`. Signatures by other keys are ignored; how many signers are enough is the
/// caller's to decide.
///
/// # Errors
/// See [`DsseError`]. One wrong signature by a given key spoils the envelope, however many others are right.
pub fn verify<'a>(envelope: &'a Envelope, payload_type: &str, keys: &[&PublicKey]) -> Result<Verified<'a>, DsseError> {
    if envelope.payload_type != payload_type {
        return Err(DsseError::OtherType { found: envelope.payload_type.clone() });
    }
    let message = pae(payload_type, &envelope.payload);
    let mut signers = BTreeSet::new();
    for signature in &envelope.signatures {
        if let Some(key) = keys.iter().find(|key| key.key_id() == signature.key) {
            key.verify(&message, &signature.bytes).map_err(|_| DsseError::BadSignature(signature.key))?;
            signers.insert(signature.key);
        }
    }
    if signers.is_empty() { Err(DsseError::NoKnownKey) } else { Ok(Verified { payload: &envelope.payload, signers }) }
}

/// Makes an envelope signed by all `signers`, one after the other.
///
/// # Errors
/// The first signer's error; no envelope is made then.
pub async fn sign(payload_type: &str, payload: Vec<u8>, signers: &[&dyn Signer]) -> Result<Envelope, SignError> {
    let mut envelope = Envelope { payload_type: payload_type.to_owned(), payload, signatures: Vec::new() };
    for signer in signers {
        add_signature(&mut envelope, *signer).await?;
    }
    Ok(envelope)
}

/// As [`sign`], with keys in memory, which need no waiting.
///
/// # Errors
/// As [`sign`].
pub fn sign_in_memory(payload_type: &str, payload: Vec<u8>, keys: &[&SigningKey]) -> Result<Envelope, SignError> {
    let message = pae(payload_type, &payload);
    let signatures = keys
        .iter()
        .map(|key| Ok(Signature { key: key.public_key().key_id(), bytes: key.sign(&message)? }))
        .collect::<Result<_, SignError>>()?;
    Ok(Envelope { payload_type: payload_type.to_owned(), payload, signatures })
}

/// Adds one more signature over what the envelope says, or replaces the one that this key made before. The
/// signer must have looked at the payload: this does not.
///
/// # Errors
/// The signer's; the envelope is then as it was.
pub async fn add_signature(envelope: &mut Envelope, signer: &dyn Signer) -> Result<(), SignError> {
    let key = signer.public_key().key_id();
    let bytes = signer.sign(&pae(&envelope.payload_type, &envelope.payload)).await?;
    envelope.signatures.retain(|signature| signature.key != key);
    envelope.signatures.push(Signature { key, bytes });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxFuture;
    use crate::random::SeededRng;
    use data_encoding::{BASE64, HEXLOWER};
    use std::task::{Context, Poll, Waker};

    const TYPE: &str = "application/vnd.bulla.test.v1+json";

    fn key(seed: u64) -> SigningKey {
        SigningKey::generate(&mut SeededRng::from_u64(seed)).unwrap()
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("software waits for nothing"),
        }
    }

    /// The test vector of the DSSE protocol page, made by its reference implementation.
    #[test]
    fn the_published_vector_verifies() {
        let point = HEXLOWER
            .decode(
                concat!(
                    "04",
                    "67cd390f77aa359cb08c2235f652270493a9ed832b0abcc01f70954c0390d238",
                    "0c782bd54e269125a44f4433aff1432ce94e12bca73aa67ac80cea12608ddf74",
                )
                .as_bytes(),
            )
            .unwrap();
        let key = PublicKey::from_p256_point(&point).unwrap();
        let signature = "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==";
        let envelope = Envelope {
            payload_type: "http://example.com/HelloWorld".to_owned(),
            payload: b"hello world".to_vec(),
            signatures: vec![Signature { key: key.key_id(), bytes: BASE64.decode(signature.as_bytes()).unwrap() }],
        };
        let verified = verify(&envelope, "http://example.com/HelloWorld", &[&key]).unwrap();
        assert_eq!(verified.payload(), b"hello world");
        assert_eq!(verified.signers(), &BTreeSet::from([key.key_id()]));
    }

    #[test]
    fn several_sign_and_strangers_do_not_count() {
        let (a, b, stranger) = (key(1), key(2), key(3));
        let mut envelope = now(sign(TYPE, b"{ }".to_vec(), &[&a, &b])).unwrap();
        assert_eq!(envelope, sign_in_memory(TYPE, b"{ }".to_vec(), &[&a, &b]).unwrap());
        now(add_signature(&mut envelope, &stranger)).unwrap();
        let (a_key, b_key) = (a.public_key(), b.public_key());
        let both = verify(&envelope, TYPE, &[a_key, b_key]).unwrap();
        assert_eq!(both.signers(), &BTreeSet::from([a_key.key_id(), b_key.key_id()]));
        assert_eq!(verify(&envelope, TYPE, &[b_key]).unwrap().signers().len(), 1);
        assert_eq!(verify(&envelope, TYPE, &[key(4).public_key()]).unwrap_err(), DsseError::NoKnownKey);
        assert_eq!(verify(&envelope, TYPE, &[]).unwrap_err(), DsseError::NoKnownKey);
    }

    #[test]
    fn one_key_counts_once() {
        let a = key(1);
        let mut envelope = sign_in_memory(TYPE, b"x".to_vec(), &[&a, &a, &a]).unwrap();
        assert_eq!(verify(&envelope, TYPE, &[a.public_key(), a.public_key()]).unwrap().signers().len(), 1);
        now(add_signature(&mut envelope, &a)).unwrap();
        assert_eq!(envelope.signatures.len(), 1);
    }

    #[test]
    fn a_wrong_signature_by_a_known_key_spoils_all() {
        let (a, b) = (key(1), key(2));
        let good = sign_in_memory(TYPE, b"text".to_vec(), &[&a, &b]).unwrap();
        let keys = [a.public_key(), b.public_key()];
        let spoilt = DsseError::BadSignature(b.public_key().key_id());

        let mut bent = good.clone();
        *bent.signatures.get_mut(1).unwrap().bytes.first_mut().unwrap() ^= 1;
        assert_eq!(verify(&bent, TYPE, &keys).unwrap_err(), spoilt);
        assert!(verify(&bent, TYPE, &[a.public_key()]).is_ok());

        let mut swapped = good.clone();
        let first = swapped.signatures.first().unwrap().bytes.clone();
        swapped.signatures.get_mut(1).unwrap().bytes = first;
        assert_eq!(verify(&swapped, TYPE, &keys).unwrap_err(), spoilt);

        let mut other_text = good.clone();
        other_text.payload.push(b' ');
        assert!(matches!(verify(&other_text, TYPE, &keys), Err(DsseError::BadSignature(_))));

        let mut other_type = good;
        other_type.payload_type.push('x');
        assert!(matches!(verify(&other_type, TYPE, &keys), Err(DsseError::OtherType { .. })));
        let type_now = other_type.payload_type.clone();
        assert!(matches!(verify(&other_type, &type_now, &keys), Err(DsseError::BadSignature(_))));
    }

    #[test]
    fn a_signer_that_fails_leaves_the_envelope_as_it_was() {
        struct Gone(SigningKey);
        impl Signer for Gone {
            fn public_key(&self) -> &PublicKey {
                self.0.public_key()
            }
            fn sign<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
                Box::pin(async { Err(SignError::Holder("the token was pulled out".into())) })
            }
        }
        let a = key(1);
        let gone = Gone(key(1));
        let mut envelope = sign_in_memory(TYPE, b"x".to_vec(), &[&a]).unwrap();
        let before = envelope.clone();
        let error = now(add_signature(&mut envelope, &gone)).unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the token was pulled out");
        assert_eq!(envelope, before);
        assert!(now(sign(TYPE, b"x".to_vec(), &[&a, &gone])).is_err());
    }
}
