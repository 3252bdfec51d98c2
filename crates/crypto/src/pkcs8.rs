//! Private keys in older forms of DER as PKCS#8 `PrivateKeyInfo` (RFC 5958), which is what everything here takes.
//!
//! What is inside is not looked at: whoever parses the outcome as a key finds out whether it is one.

use crate::secret::SecretBytes;

/// AlgorithmIdentifier { rsaEncryption, NULL }.
const RSA: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// AlgorithmIdentifier { id-ecPublicKey, prime256v1 }.
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
/// AlgorithmIdentifier { id-ecPublicKey, secp384r1 }.
const P384: &[u8] =
    &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// The most that lengths, version and algorithm add, with room.
const AROUND_BYTES: usize = 64;

/// An `RSAPrivateKey` (RFC 8017 §A.1.2), the content of PEM's `RSA PRIVATE KEY`.
pub fn of_rsa(pkcs1: &[u8]) -> SecretBytes {
    info(RSA, pkcs1)
}

/// An `ECPrivateKey` (RFC 5915) of P-256, the content of PEM's `EC PRIVATE KEY`.
pub fn of_p256(sec1: &[u8]) -> SecretBytes {
    info(P256, sec1)
}

/// As [`of_p256`], of P-384.
pub fn of_p384(sec1: &[u8]) -> SecretBytes {
    info(P384, sec1)
}

/// In buffers that do not grow and leave no copy behind.
fn info(algorithm: &[u8], key: &[u8]) -> SecretBytes {
    let room = key.len().saturating_add(AROUND_BYTES);
    let mut content = SecretBytes::new(Vec::with_capacity(room));
    content.expose_mut().extend_from_slice(&[0x02, 0x01, 0x00]);
    content.expose_mut().extend_from_slice(algorithm);
    put_der(content.expose_mut(), 0x04, key);
    let mut whole = SecretBytes::new(Vec::with_capacity(room));
    put_der(whole.expose_mut(), 0x30, content.expose());
    whole
}

/// Writes one DER value (X.690 §8.1) of less than 64 KiB.
pub(crate) fn put_der(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let [.., high, low] = content.len().to_be_bytes();
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend_from_slice(&[0x81, low]),
        _ => out.extend_from_slice(&[0x82, high, low]),
    }
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SystemRng;
    use crate::transit;
    use bulla_wire::api::KeyKind;

    #[test]
    fn der_lengths() {
        for (length, head) in
            [(0x7f_usize, vec![0x30, 0x7f]), (0x80, vec![0x30, 0x81, 0x80]), (0x100, vec![0x30, 0x82, 1, 0])]
        {
            let mut out = Vec::new();
            put_der(&mut out, 0x30, &vec![0; length]);
            assert_eq!(out.strip_prefix(head.as_slice()).map(<[u8]>::len), Some(length));
        }
    }

    /// The library's own PKCS#8 without what is around the key, and put around it again.
    #[test]
    fn what_the_library_writes_comes_out_again() {
        type Wrap = fn(&[u8]) -> SecretBytes;
        let kinds: [(KeyKind, &[u8], Wrap); 3] =
            [(KeyKind::Rsa2048, RSA, of_rsa), (KeyKind::EcdsaP256, P256, of_p256), (KeyKind::EcdsaP384, P384, of_p384)];
        for (kind, algorithm, wrap) in kinds {
            let whole = transit::generate(kind, &mut SystemRng).unwrap();
            let at = whole.expose().windows(algorithm.len()).position(|bytes| bytes == algorithm).unwrap();
            let octets = whole.expose().get(at + algorithm.len()..).unwrap();
            // Tag and length of the octet string: short, or long of one or two bytes.
            let head = match octets.get(1).unwrap() {
                0x81 => 3,
                0x82 => 4,
                _ => 2,
            };
            let inner = octets.get(head..).unwrap();
            assert_eq!(wrap(inner).expose(), whole.expose(), "{kind:?}");
        }
    }
}
