//! OpenSSH keys: public key lines and private key files (PROTOCOL.key, RFC 4253 §6.6, RFC 8709 §4).
//!
//! Only the kinds that can decrypt an age file are taken: Ed25519 and RSA. The private key file, with its
//! encryption, is parsed by the `ssh-key` crate, which is built without any signing or RSA code; the
//! numbers of an RSA key go to aws-lc as PKCS#8.

pub mod agent;

use crate::pkcs8::{self, put_der};
use crate::secret::{SecretBytes, SecretKey};
use bulla_wire::encoding::{base64, base64_decode};
use ssh_key::private::{KeypairData, PrivateKey, RsaKeypair};
use ssh_key::{Algorithm, Kdf};
use std::fmt;
use zeroize::Zeroize;

/// The most bcrypt rounds that are computed for an encrypted key: some minutes of work. `ssh-keygen`
/// takes 24 unless told otherwise.
const MAX_BCRYPT_ROUNDS: u32 = 10_000;
/// The largest RSA modulus, in bytes: what aws-lc takes.
const MAX_RSA_BYTES: usize = 1024;

const ED25519: &str = "ssh-ed25519";
const RSA: &str = "ssh-rsa";

/// An SSH public key of a kind that can encrypt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshPublicKey {
    /// The 32 bytes of RFC 8032.
    Ed25519([u8; 32]),
    /// Modulus and exponent, big endian, without leading zeros.
    Rsa {
        /// n
        modulus: Vec<u8>,
        /// e
        exponent: Vec<u8>,
    },
}

/// Why a text is no SSH public key that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshPublicKeyError {
    /// A key of a kind that cannot encrypt, by its name.
    Kind(String),
    /// Not `kind base64`, or the base64 does not hold such a key in its one encoding.
    Malformed,
    /// There is something after the key, such as a comment.
    Comment,
}

impl fmt::Display for SshPublicKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "an SSH key of kind {kind} cannot decrypt; take ssh-ed25519 or ssh-rsa"),
            Self::Malformed => f.write_str("malformed SSH public key"),
            Self::Comment => f.write_str("an SSH recipient is written without a comment"),
        }
    }
}

impl std::error::Error for SshPublicKeyError {}

impl SshPublicKey {
    /// Parses `kind base64` with nothing around it.
    ///
    /// # Errors
    /// See [`SshPublicKeyError`].
    pub fn parse(text: &str) -> Result<Self, SshPublicKeyError> {
        let (kind, rest) = text.split_once(' ').ok_or(SshPublicKeyError::Malformed)?;
        if kind != ED25519 && kind != RSA {
            return Err(SshPublicKeyError::Kind(kind.to_owned()));
        }
        if rest.contains(char::is_whitespace) {
            return Err(SshPublicKeyError::Comment);
        }
        let blob = base64_decode(rest).ok_or(SshPublicKeyError::Malformed)?;
        let key = Self::from_blob(kind, &blob).ok_or(SshPublicKeyError::Malformed)?;
        // Padding of numbers, trailing bytes, the repeated name: one comparison finds every second spelling.
        if key.blob() == blob { Ok(key) } else { Err(SshPublicKeyError::Malformed) }
    }

    fn from_blob(kind: &str, blob: &[u8]) -> Option<Self> {
        let (name, rest) = take_string(blob)?;
        if name != kind.as_bytes() {
            return None;
        }
        if kind == ED25519 {
            let (key, _) = take_string(rest)?;
            return Some(Self::Ed25519(key.try_into().ok()?));
        }
        let (exponent, rest) = take_string(rest)?;
        let (modulus, _) = take_string(rest)?;
        let (exponent, modulus) = (unsigned(exponent)?.to_vec(), unsigned(modulus)?.to_vec());
        (modulus.len() <= MAX_RSA_BYTES).then_some(Self::Rsa { modulus, exponent })
    }

    /// The key in SSH wire encoding: the bytes that fingerprints and age's tags are made of.
    pub fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        match self {
            Self::Ed25519(key) => {
                put_string(&mut blob, ED25519.as_bytes());
                put_string(&mut blob, key);
            }
            Self::Rsa { modulus, exponent } => {
                put_string(&mut blob, RSA.as_bytes());
                put_mpint(&mut blob, exponent);
                put_mpint(&mut blob, modulus);
            }
        }
        blob
    }
}

impl fmt::Display for SshPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Ed25519(_) => ED25519,
            Self::Rsa { .. } => RSA,
        };
        write!(f, "{kind} {}", base64(&self.blob()))
    }
}

/// The first two words of a line of a `.pub` or `authorized_keys` file without options: what
/// [`SshPublicKey::parse`] takes. The comment names nobody, so it is dropped.
pub fn without_comment(line: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    words.by_ref().take(2).collect::<Vec<_>>().join(" ")
}

/// RFC 4251 §5: `string`.
fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// The bytes of a positive RFC 4251 §5 `mpint`, without the zero that keeps it positive.
fn unsigned(mpint: &[u8]) -> Option<&[u8]> {
    let bytes = mpint.strip_prefix(&[0]).unwrap_or(mpint);
    bytes.first().is_some_and(|first| *first != 0).then_some(bytes)
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // Keys are far below 4 GiB.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_mpint(out: &mut Vec<u8>, magnitude: &[u8]) {
    let sign: &[u8] = if magnitude.first().is_some_and(|first| *first >= 0x80) { &[0] } else { &[] };
    put_string(out, &[sign, magnitude].concat());
}

/// An SSH private key.
pub enum SshPrivateKey {
    /// The seed of RFC 8032, and the public key that the file names.
    Ed25519 {
        /// The seed.
        seed: SecretKey,
        /// The public key, not yet compared with the seed.
        public: [u8; 32],
    },
    /// RSA as DER PKCS#8 (RFC 5958), its parts not yet compared with each other.
    Rsa {
        /// The key.
        pkcs8: SecretBytes,
        /// n, big endian without leading zeros.
        modulus: Vec<u8>,
        /// e, big endian without leading zeros.
        exponent: Vec<u8>,
    },
}

/// Why a private key file could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshPrivateKeyError {
    /// A key of a kind that cannot decrypt, by its name.
    Kind(String),
    /// The file is damaged.
    Malformed,
    /// The key is encrypted, and no passphrase was given.
    PassphraseNeeded,
    /// The key is encrypted, and not under this passphrase.
    WrongPassphrase,
    /// Deriving the key from the passphrase would take unreasonably long.
    TooManyRounds(u32),
}

impl fmt::Display for SshPrivateKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "an SSH key of kind {kind} cannot decrypt; take Ed25519 or RSA"),
            Self::Malformed => f.write_str("the SSH private key is damaged"),
            Self::PassphraseNeeded => f.write_str("the SSH private key is encrypted and needs its passphrase"),
            Self::WrongPassphrase => f.write_str("wrong passphrase for the SSH private key"),
            Self::TooManyRounds(rounds) => {
                write!(f, "the SSH private key asks for {rounds} bcrypt rounds; at most {MAX_BCRYPT_ROUNDS} are done")
            }
        }
    }
}

impl std::error::Error for SshPrivateKeyError {}

/// Reads an OpenSSH private key file. `passphrase` is asked once, and only if the key is encrypted.
///
/// # Errors
/// See [`SshPrivateKeyError`].
pub fn parse_private_key(
    pem: &[u8],
    passphrase: &dyn Fn() -> Option<SecretBytes>,
) -> Result<SshPrivateKey, SshPrivateKeyError> {
    let key = PrivateKey::from_openssh(pem).map_err(|_| SshPrivateKeyError::Malformed)?;
    // The kind stands in clear: better to refuse before somebody types a passphrase.
    if !matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Rsa { .. }) {
        return Err(SshPrivateKeyError::Kind(key.algorithm().to_string()));
    }
    if !key.is_encrypted() {
        return convert(&key);
    }
    if let Kdf::Bcrypt { rounds, .. } = key.kdf()
        && *rounds > MAX_BCRYPT_ROUNDS
    {
        return Err(SshPrivateKeyError::TooManyRounds(*rounds));
    }
    let passphrase = passphrase().ok_or(SshPrivateKeyError::PassphraseNeeded)?;
    convert(&key.decrypt(passphrase.expose()).map_err(|_| SshPrivateKeyError::WrongPassphrase)?)
}

fn convert(key: &PrivateKey) -> Result<SshPrivateKey, SshPrivateKeyError> {
    match key.key_data() {
        KeypairData::Ed25519(pair) => {
            let seed = SecretKey::from_slice(pair.private.as_ref()).ok_or(SshPrivateKeyError::Malformed)?;
            Ok(SshPrivateKey::Ed25519 { seed, public: pair.public.0 })
        }
        KeypairData::Rsa(pair) => rsa_pkcs8(pair).ok_or(SshPrivateKeyError::Malformed),
        _ => Err(SshPrivateKeyError::Kind(key.algorithm().to_string())),
    }
}

/// Writes an RSA key as PKCS#8 `PrivateKeyInfo` around an `RSAPrivateKey` (RFC 8017 §A.1.2). OpenSSH leaves
/// out d mod (p-1) and d mod (q-1), so they are computed.
fn rsa_pkcs8(pair: &RsaKeypair) -> Option<SshPrivateKey> {
    let modulus = pair.public.n.as_positive_bytes()?;
    let exponent = pair.public.e.as_positive_bytes()?;
    let d = pair.private.d.as_positive_bytes()?;
    let p = pair.private.p.as_positive_bytes()?;
    let q = pair.private.q.as_positive_bytes()?;
    let q_inverse = pair.private.iqmp.as_positive_bytes()?;
    if [modulus, exponent, d, p, q, q_inverse].iter().any(|number| number.is_empty() || number.len() > MAX_RSA_BYTES) {
        return None;
    }
    let d_p = modulo_minus_one(d, p);
    let d_q = modulo_minus_one(d, q);
    // Twice the modulus holds the six smaller numbers, so nothing grows and leaves a copy behind.
    let room = modulus.len().saturating_mul(8).saturating_add(256);
    let mut numbers = SecretBytes::new(Vec::with_capacity(room));
    numbers.expose_mut().extend_from_slice(&[0x02, 0x01, 0x00]);
    for number in [modulus, exponent, d, p, q, d_p.expose(), d_q.expose(), q_inverse] {
        put_integer(numbers.expose_mut(), number);
    }
    let mut sequence = SecretBytes::new(Vec::with_capacity(room));
    put_der(sequence.expose_mut(), 0x30, numbers.expose());
    let pkcs8 = pkcs8::of_rsa(sequence.expose());
    Some(SshPrivateKey::Rsa { pkcs8, modulus: modulus.to_vec(), exponent: exponent.to_vec() })
}

/// Writes a positive DER INTEGER.
fn put_integer(out: &mut Vec<u8>, magnitude: &[u8]) {
    let start = magnitude.iter().position(|byte| *byte != 0).unwrap_or(magnitude.len());
    let magnitude = magnitude.get(start..).unwrap_or_default();
    let sign: &[u8] = if magnitude.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    let mut content = [sign, magnitude].concat();
    put_der(out, 0x02, &content);
    content.zeroize();
}

/// `number mod (prime - 1)`, all big endian, for an odd `prime`.
///
/// Shift and subtract, one bit at a time, without branches on secret bits: slow in theory, below a
/// millisecond for 8192 bits, and short enough to be seen right.
fn modulo_minus_one(number: &[u8], prime: &[u8]) -> SecretBytes {
    // One byte more than the modulus, so that doubling never overflows.
    let mut modulus = SecretBytes::new([&[0], prime].concat());
    if let Some(last) = modulus.expose_mut().last_mut() {
        *last &= 0xfe;
    }
    let mut remainder = SecretBytes::new(vec![0; modulus.expose().len()]);
    let mut reduced = SecretBytes::new(vec![0; modulus.expose().len()]);
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = (byte >> bit) & 1;
            for digit in remainder.expose_mut().iter_mut().rev() {
                let next = *digit >> 7;
                *digit = (*digit << 1) | carry;
                carry = next;
            }
            let mut borrow = 0_u8;
            let digits = remainder.expose().iter().zip(modulus.expose()).rev();
            for (place, (digit, subtract)) in reduced.expose_mut().iter_mut().rev().zip(digits) {
                let difference = i16::from(*digit) - i16::from(*subtract) - i16::from(borrow);
                [_, *place] = difference.to_be_bytes();
                borrow = u8::from(difference < 0);
            }
            // borrow = 1: the remainder was the smaller one, keep it.
            let keep = 0_u8.wrapping_sub(borrow);
            for (digit, subtracted) in remainder.expose_mut().iter_mut().zip(reduced.expose()) {
                *digit = (*digit & keep) | (*subtracted & !keep);
            }
        }
    }
    remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_line_has_one_spelling() {
        let key = SshPublicKey::Ed25519([7; 32]);
        assert_eq!(SshPublicKey::parse(&key.to_string()), Ok(key.clone()));
        let (first, second) = (base64(&key.blob()[..49]), base64(&key.blob()[49..]));
        let joined = format!("ssh-ed25519 {first}{second}");
        assert_eq!(SshPublicKey::parse(&joined), Err(SshPublicKeyError::Malformed));
    }

    #[test]
    fn remainders() {
        let of = |number: u64, prime: u64| {
            let bytes = modulo_minus_one(&number.to_be_bytes(), &prime.to_be_bytes());
            let (low, high) = bytes.expose().split_last_chunk::<8>().map(|(high, low)| (*low, high.to_vec())).unwrap();
            assert!(high.iter().all(|byte| *byte == 0));
            u64::from_be_bytes(low)
        };
        for number in [0, 1, 5, 255, 256, 65_537, 0x1234_5678_9abc_def0, u64::MAX] {
            for prime in [3, 5, 7, 257, 65_537, 0xffff_fffb, 0xffff_ffff_ffff_ffc5] {
                assert_eq!(of(number, prime), number % (prime - 1), "{number} mod {}", prime - 1);
            }
        }
    }

    #[test]
    fn integers_are_positive() {
        let integer = |magnitude: &[u8]| {
            let mut out = Vec::new();
            put_integer(&mut out, magnitude);
            out
        };
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[]), [2, 1, 0]);
    }

    /// 8,192 bits are the most (`spec/envelope.md`), and no number is zero.
    #[test]
    fn numbers_of_an_rsa_key_have_1_to_1024_bytes() {
        use ssh_key::Mpint;
        use ssh_key::private::RsaPrivateKey;
        use ssh_key::public::RsaPublicKey;
        let number = |bytes: usize| Mpint::from_positive_bytes(&vec![0x11; bytes]).unwrap();
        let taken = |modulus: usize, q_inverse: usize| {
            let public = RsaPublicKey { e: number(3), n: number(modulus) };
            let private = RsaPrivateKey { d: number(3), iqmp: number(q_inverse), p: number(3), q: number(3) };
            rsa_pkcs8(&RsaKeypair { public, private }).is_some()
        };
        assert!(taken(1024, 3) && taken(3, 1024));
        for (modulus, q_inverse) in [(1025, 3), (3, 1025), (0, 3), (3, 0)] {
            assert!(!taken(modulus, q_inverse), "{modulus} {q_inverse}");
        }
    }
}
