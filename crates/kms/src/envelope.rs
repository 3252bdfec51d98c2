//! What kube-apiserver stores in place of its seed (`spec/kms.md`).
//!
//! ```text
//! ciphertext = 0x01 ‖ mode(1) ‖ count(1) ‖ count × ( tag(8) ‖ length(2) ‖ wrapped ) ‖ sealed
//! sealed     = bulla sealed(key = K, aad = framed("bulla/kms/v1/seed", cluster, key id, all bytes before), seed)
//! ```
//!
//! K is drawn for every seed. In mode `any` each member wraps K, in mode `split` each wraps a share, whose XOR is K. So a
//! seed is sealed once, whoever the members are; what they cannot bind, the seal binds: the Kubernetes cluster, the key
//! id and who the members were.

use bulla_crypto::digest::framed;
use bulla_crypto::random::{Rng, secret_key};
use bulla_crypto::sealed;
use bulla_crypto::secret::{SecretBytes, SecretKey};

use crate::key::{KeyId, KeyTag, TAG_LEN};
use std::fmt;

/// What kube-apiserver takes at most (`ValidateEncryptedObject` of k8s.io/apiserver).
pub const MAX_CIPHERTEXT_BYTES: usize = 1024;
/// Largest seed taken, in bytes. kube-apiserver's have 32.
pub const MAX_SEED_BYTES: usize = 64;
/// Most members.
pub const MAX_MEMBERS: usize = 8;

const FORMAT: u8 = 1;
const HEAD_LEN: usize = 3;
/// What a member takes besides what it wrapped.
const PART_LEN: usize = TAG_LEN + 2;

/// How members are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Any one of them decrypts.
    Any,
    /// All of them are needed to decrypt.
    Split,
}

impl Mode {
    /// Its byte.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Any => 1,
            Self::Split => 2,
        }
    }

    /// Of the members that wrapped, how many have to unwrap.
    pub const fn needed_to_read(self, members: usize) -> usize {
        match self {
            Self::Any => 1,
            Self::Split => members,
        }
    }
}

/// What one member wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// By which key.
    pub tag: KeyTag,
    /// What came of it.
    pub wrapped: Vec<u8>,
}

/// Where a seed belongs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The name of the Kubernetes cluster.
    pub cluster: &'a str,
    /// The key id that kube-apiserver was told with it.
    pub key_id: &'a KeyId,
}

/// Why a ciphertext is none, or does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvelopeError {
    /// It has another form: it was made by another plugin, or was altered.
    Form,
    /// It would be, or is, larger than kube-apiserver takes.
    TooLarge,
    /// It is sound, and belongs to another cluster, key id or key, or was altered.
    OtherPlace,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "the ciphertext is none of this plugin",
            Self::TooLarge => "the ciphertext is larger than kube-apiserver takes",
            Self::OtherPlace => "the ciphertext was altered, or belongs to another cluster, key id or key",
        })
    }
}

impl std::error::Error for EnvelopeError {}

/// The size in bytes of what [`seal`] makes, if the members wrap into these sizes.
pub fn size(wrapped: impl IntoIterator<Item = usize>, seed: usize) -> usize {
    let parts = wrapped.into_iter().fold(0_usize, |sum, bytes| sum.saturating_add(bytes).saturating_add(PART_LEN));
    HEAD_LEN.saturating_add(parts).saturating_add(seed).saturating_add(sealed::OVERHEAD)
}

/// Seals a seed under `key`, which the members wrapped.
///
/// # Errors
/// [`EnvelopeError::TooLarge`]; [`EnvelopeError::Form`] for no or too many members.
pub fn seal(
    place: Place<'_>,
    mode: Mode,
    parts: &[Part],
    key: &SecretKey,
    seed: &SecretBytes,
    rng: &mut dyn Rng,
) -> Result<Vec<u8>, EnvelopeError> {
    let count = u8::try_from(parts.len()).map_err(|_| EnvelopeError::Form)?;
    if parts.is_empty() || parts.len() > MAX_MEMBERS {
        return Err(EnvelopeError::Form);
    }
    let whole = size(parts.iter().map(|part| part.wrapped.len()), seed.expose().len());
    if seed.expose().len() > MAX_SEED_BYTES || whole > MAX_CIPHERTEXT_BYTES {
        return Err(EnvelopeError::TooLarge);
    }
    let mut bytes = vec![FORMAT, mode.byte(), count];
    for part in parts {
        bytes.extend(part.tag.0);
        bytes.extend(u16::try_from(part.wrapped.len()).map_err(|_| EnvelopeError::TooLarge)?.to_be_bytes());
        bytes.extend(&part.wrapped);
    }
    let sealed = sealed::seal(key, &aad(place, &bytes), seed.expose(), rng);
    bytes.extend(sealed);
    Ok(bytes)
}

/// A ciphertext whose form is right.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    /// How its members are combined.
    pub mode: Mode,
    /// What they wrapped.
    pub parts: Vec<Part>,
    head: Vec<u8>,
    sealed: Vec<u8>,
}

impl Envelope {
    /// Reads the form.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`], [`EnvelopeError::Form`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_CIPHERTEXT_BYTES {
            return Err(EnvelopeError::TooLarge);
        }
        let ([FORMAT, mode, count], mut rest) = bytes.split_first_chunk().ok_or(EnvelopeError::Form)? else {
            return Err(EnvelopeError::Form);
        };
        let mode = [Mode::Any, Mode::Split].into_iter().find(|known| known.byte() == *mode);
        let mode = mode.ok_or(EnvelopeError::Form)?;
        let count = usize::from(*count);
        if count == 0 || count > MAX_MEMBERS {
            return Err(EnvelopeError::Form);
        }
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            let (tag, after) = rest.split_first_chunk::<TAG_LEN>().ok_or(EnvelopeError::Form)?;
            let (length, after) = after.split_first_chunk::<2>().ok_or(EnvelopeError::Form)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (wrapped, after) = after.split_at_checked(length).ok_or(EnvelopeError::Form)?;
            parts.push(Part { tag: KeyTag(*tag), wrapped: wrapped.to_vec() });
            rest = after;
        }
        if rest.len() < sealed::OVERHEAD || rest.len() > sealed::OVERHEAD.saturating_add(MAX_SEED_BYTES) {
            return Err(EnvelopeError::Form);
        }
        let head = bytes.get(..bytes.len().saturating_sub(rest.len())).ok_or(EnvelopeError::Form)?;
        Ok(Self { mode, parts, head: head.to_vec(), sealed: rest.to_vec() })
    }

    /// The seed, if `key` is the one that it was sealed under, at this place.
    ///
    /// # Errors
    /// [`EnvelopeError::OtherPlace`].
    pub fn open(&self, place: Place<'_>, key: &SecretKey) -> Result<SecretBytes, EnvelopeError> {
        sealed::open(key, &aad(place, &self.head), &self.sealed).map_err(|_| EnvelopeError::OtherPlace)
    }
}

fn aad(place: Place<'_>, head: &[u8]) -> Vec<u8> {
    framed(&[b"bulla/kms/v1/seed", place.cluster.as_bytes(), place.key_id.as_str().as_bytes(), head])
}

/// Shares of `key`, all of which are needed to join it again: any fewer tell nothing of it.
pub fn split(key: &SecretKey, count: usize, rng: &mut dyn Rng) -> Vec<SecretKey> {
    let mut last = key.copy();
    let mut shares = Vec::with_capacity(count);
    for _ in 1..count {
        let share = secret_key(rng);
        mix(&mut last, &share);
        shares.push(share);
    }
    shares.push(last);
    shares
}

/// What [`split`] took apart.
pub fn join<'a>(shares: impl IntoIterator<Item = &'a SecretKey>) -> SecretKey {
    let mut key = SecretKey::filled(|_| ());
    shares.into_iter().for_each(|share| mix(&mut key, share));
    key
}

fn mix(into: &mut SecretKey, other: &SecretKey) {
    into.expose_mut().iter_mut().zip(other.expose()).for_each(|(to, from)| *to ^= from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::random::SeededRng;

    fn part(tag: u8, bytes: usize) -> Part {
        Part { tag: KeyTag([tag; TAG_LEN]), wrapped: vec![tag; bytes] }
    }

    fn key(byte: u8) -> SecretKey {
        SecretKey::filled(|key| *key = [byte; 32])
    }

    fn id(epoch: u32) -> KeyId {
        KeyId::of("prod", 1, [], epoch)
    }

    fn sealed_with(parts: &[Part], seed: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let mut rng = SeededRng::from_u64(1);
        let place = Place { cluster: "prod", key_id: &id(0) };
        seal(place, Mode::Any, parts, &key(9), &SecretBytes::new(seed.to_vec()), &mut rng)
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_alone() {
        let bytes = sealed_with(&[part(1, 60), part(2, 0)], &[5; 32]).unwrap();
        assert_eq!(bytes.len(), size([60, 0], 32));
        let envelope = Envelope::parse(&bytes).unwrap();
        assert_eq!((envelope.mode, envelope.parts.as_slice()), (Mode::Any, [part(1, 60), part(2, 0)].as_slice()));
        let place = Place { cluster: "prod", key_id: &id(0) };
        assert_eq!(envelope.open(place, &key(9)).unwrap().expose(), &[5; 32]);
        for (place, key) in [
            (Place { cluster: "test", key_id: &id(0) }, key(9)),
            (Place { cluster: "prod", key_id: &id(1) }, key(9)),
            (place, key(8)),
        ] {
            assert_eq!(envelope.open(place, &key).err(), Some(EnvelopeError::OtherPlace));
        }
    }

    #[test]
    fn no_byte_can_be_altered_added_or_left_out() {
        let bytes = sealed_with(&[part(1, 20), part(2, 30)], &[5; 32]).unwrap();
        let opens = |bytes: &[u8]| {
            Envelope::parse(bytes)
                .and_then(|envelope| envelope.open(Place { cluster: "prod", key_id: &id(0) }, &key(9)).map(|_| ()))
        };
        assert_eq!(opens(&bytes), Ok(()));
        for place in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[place] ^= 1;
            assert!(opens(&altered).is_err(), "byte {place}");
            assert!(opens(&bytes[..place]).is_err(), "only {place} bytes");
        }
        assert!(opens(&[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn what_is_too_large_is_refused_on_both_ways() {
        let fits = MAX_CIPHERTEXT_BYTES - size([0], 32);
        assert_eq!(sealed_with(&[part(1, fits)], &[5; 32]).unwrap().len(), MAX_CIPHERTEXT_BYTES);
        assert_eq!(sealed_with(&[part(1, fits + 1)], &[5; 32]), Err(EnvelopeError::TooLarge));
        assert_eq!(sealed_with(&[part(1, 1)], &[5; MAX_SEED_BYTES + 1]), Err(EnvelopeError::TooLarge));
        assert_eq!(Envelope::parse(&[1; MAX_CIPHERTEXT_BYTES + 1]), Err(EnvelopeError::TooLarge));
        assert_eq!(sealed_with(&[], &[5; 32]), Err(EnvelopeError::Form));
        let many: Vec<Part> = (0..9).map(|tag| part(tag, 1)).collect();
        assert_eq!(sealed_with(&many, &[5; 32]), Err(EnvelopeError::Form));
    }

    #[test]
    fn other_forms_are_refused() {
        let good = sealed_with(&[part(1, 20)], &[5; 32]).unwrap();
        for (place, byte) in [(0, 2), (1, 0), (1, 3), (2, 0), (2, 9), (11, 0xff)] {
            let mut bad = good.clone();
            bad[place] = byte;
            assert_eq!(Envelope::parse(&bad), Err(EnvelopeError::Form), "byte {place} is {byte}");
        }
        for bad in [&b""[..], b"\x01", b"k8s:enc:kms:v2:"] {
            assert_eq!(Envelope::parse(bad), Err(EnvelopeError::Form));
        }
    }

    #[test]
    fn all_shares_join_and_fewer_do_not() {
        let mut rng = SeededRng::from_u64(3);
        for count in 1..=MAX_MEMBERS {
            let shares = split(&key(7), count, &mut rng);
            assert_eq!(shares.len(), count);
            assert_eq!(join(&shares).expose(), key(7).expose());
            assert_ne!(join(&shares[1..]).expose(), key(7).expose());
        }
    }
}
