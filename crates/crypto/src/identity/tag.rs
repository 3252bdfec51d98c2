//! Decryption keys whose P-256 half is in hardware: stanzas `p256tag` and `mlkem768p256tag`.
//!
//! Hardware that computes with ML-KEM is rare, so that half is given as a key in memory. Where its seed is kept is for
//! the caller: as a data object on the token, or in a file beside it. Whoever reads the seed alone opens nothing, and
//! what the seed adds holds as long as nobody but the holder reads it.

use super::software::{StanzaError, decode, sealed_file_key};
use crate::BoxFuture;
use crate::envelope::{Decrypter, FileKey, OpenError, Stanza};
use crate::kem::p256::{ML_KEM_P256_ENCAPSULATION_BYTES, combine_ml_kem_p256, extract_and_expand};
use crate::kem::{self, MlKemKey, P256_BYTES, P256Point, Suite};
use crate::recipient::{
    ML_KEM_P256_TAG_INFO, ML_KEM_P256_TAG_KIND, P256_TAG_INFO, P256_TAG_KIND, Recipient, RecipientError,
    ml_kem_p256_tag, p256_tag,
};
use crate::secret::SecretKey;
use std::fmt;
use std::sync::Arc;

/// How many stanzas of one header are taken to the device. Two keys have the same tag by chance once in 2^32, so more
/// were made on purpose, and each may cost the holder a touch.
const MAX_AGREEMENTS: usize = 4;

/// Whoever holds a private key of P-256 and computes with it: a token, a card, a TPM. Asynchronous, because a person
/// may have to touch the device.
pub trait P256Agreement: Send + Sync {
    /// The public key. Known without a touch or PIN.
    fn public_key(&self) -> &P256Point;

    /// ECDH (SP 800-56A §5.7.1.2): the x coordinate of private key times `peer`, all 32 bytes of it, big endian, and
    /// nothing derived from it. Asked for once by each stanza that names the key.
    ///
    /// # Errors
    /// [`OpenError::Key`] with what the device said.
    fn agree<'a>(&'a self, peer: &'a P256Point) -> BoxFuture<'a, Result<SecretKey, OpenError>>;
}

/// Opens what is sealed to one `age1tag1…` or `age1tagpq1…` recipient.
pub struct TagKey {
    agreement: Arc<dyn P256Agreement>,
    ml_kem: Option<MlKemKey>,
    recipients: [Recipient; 1],
}

impl TagKey {
    /// The key of `age1tag1…`, or with `ml_kem` that of `age1tagpq1…`.
    ///
    /// # Errors
    /// None for keys of the right size, which these are.
    pub fn new(agreement: Arc<dyn P256Agreement>, ml_kem: Option<MlKemKey>) -> Result<Self, RecipientError> {
        let recipient = match &ml_kem {
            Some(ml_kem) => Recipient::from_ml_kem_p256(ml_kem, agreement.public_key())?,
            None => Recipient::from_p256(agreement.public_key())?,
        };
        Ok(Self { agreement, ml_kem, recipients: [recipient] })
    }

    /// What can be sealed to for this key to open.
    pub fn recipient(&self) -> &Recipient {
        let [recipient] = &self.recipients;
        recipient
    }

    async fn find_file_key(&self, stanzas: &[Stanza]) -> Result<Option<FileKey>, OpenError> {
        let kind = if self.ml_kem.is_some() { ML_KEM_P256_TAG_KIND } else { P256_TAG_KIND };
        let mut agreements = 0_usize;
        for stanza in stanzas.iter().filter(|stanza| stanza.kind == kind) {
            let addressed = match self.addressed(stanza) {
                Ok(addressed) => addressed,
                Err(error) => {
                    error.unless_not_mine()?;
                    continue;
                }
            };
            agreements = agreements.saturating_add(1);
            if agreements > MAX_AGREEMENTS {
                return Err(OpenError::Header("too many stanzas have the tag of one key"));
            }
            let agreed = self.agreement.agree(&addressed.share).await?;
            match self.open(&addressed, &agreed) {
                Ok(file_key) => return Ok(Some(file_key)),
                // The tag was another key's that collides, or forged.
                Err(error) => error.unless_not_mine()?,
            }
        }
        Ok(None)
    }

    /// All that can be said of a stanza without the device.
    fn addressed<'a>(&self, stanza: &'a Stanza) -> Result<Addressed<'a>, StanzaError> {
        let [tag, encapsulated] = stanza.args.as_slice() else { return Err(StanzaError::Malformed) };
        let (tag, own) = (decode::<4>(tag)?, self.agreement.public_key());
        let (encapsulated, expected) = if self.ml_kem.is_some() {
            let encapsulated = decode::<ML_KEM_P256_ENCAPSULATION_BYTES>(encapsulated)?.to_vec();
            let expected = ml_kem_p256_tag(own, &encapsulated);
            (encapsulated, expected)
        } else {
            let encapsulated = decode::<P256_BYTES>(encapsulated)?.to_vec();
            let expected = p256_tag(own, &encapsulated);
            (encapsulated, expected)
        };
        let body = sealed_file_key(stanza)?;
        if tag != expected {
            return Err(StanzaError::NotMine);
        }
        let (ciphertext, share) = encapsulated.split_last_chunk::<P256_BYTES>().ok_or(StanzaError::Malformed)?;
        // A point off the curve would draw the private key out of a device that does not look.
        let share = P256Point::from_uncompressed(share)?;
        Ok(Addressed { ciphertext: ciphertext.to_vec(), share, body })
    }

    fn open(&self, addressed: &Addressed<'_>, agreed: &SecretKey) -> Result<FileKey, StanzaError> {
        let Addressed { ciphertext, share, body } = addressed;
        let own = self.agreement.public_key();
        let plaintext = match &self.ml_kem {
            Some(ml_kem) => {
                let secret = combine_ml_kem_p256(ml_kem, ciphertext, agreed, share, own)?;
                kem::open_with(Suite::MlKem768P256, &secret, ML_KEM_P256_TAG_INFO, &[], body)?
            }
            None => {
                let secret = extract_and_expand(agreed, share, own)?;
                kem::open_with(Suite::DhkemP256, &secret, P256_TAG_INFO, &[], body)?
            }
        };
        FileKey::from_slice(plaintext.expose()).ok_or(StanzaError::Malformed)
    }
}

/// A well-formed stanza with this key's tag.
struct Addressed<'a> {
    /// ML-KEM's; empty for `p256tag`.
    ciphertext: Vec<u8>,
    share: P256Point,
    body: &'a [u8],
}

impl Decrypter for TagKey {
    fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    fn unwrap_file_key<'a>(&'a self, stanzas: &'a [Stanza]) -> BoxFuture<'a, Result<Option<FileKey>, OpenError>> {
        Box::pin(self.find_file_key(stanzas))
    }
}

impl fmt::Debug for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TagKey({:?})", self.recipient())
    }
}
