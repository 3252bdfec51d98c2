//! Keys from keys: HKDF-SHA-256 (RFC 5869), always with a purpose.
//!
//! Two keys derived from one secret are independent when their `info` differs. Here it is
//! `"bulla/v1/" ‖ purpose ‖ fields`, each field written as u32 big-endian length ‖ bytes. Purposes hold no
//! NUL, and a length begins with one (a field is shorter than 16 MiB), so no purpose with fields can
//! be read as another.
//!
//! The input must be a uniform secret of 256 bits or more. This is not for passwords.

use crate::digest::framed;
use crate::secret::{Secret, SecretKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};

/// Derives a 256-bit key for `purpose`, bound to `context`.
///
/// The purpose is the part of the label after `bulla/v1/`, such as `identity/sign`.
pub fn derive(key: &[u8], purpose: &'static str, context: &[&[u8]]) -> SecretKey {
    hkdf_sha256(key, &[], &label(purpose, context))
}

/// HKDF-SHA-256 as other specifications use it, with their own `info`. For Bulla's own keys take [`derive()`].
///
/// An empty salt stands for 32 zero bytes (RFC 5869 §2.2).
pub fn hkdf_sha256<const N: usize>(key: &[u8], salt: &[u8], info: &[u8]) -> Secret<[u8; N]> {
    const { assert!(N <= 255 * 32, "RFC 5869 §2.3: at most 255 blocks") }
    let extracted = Salt::new(HKDF_SHA256, salt).extract(key);
    Secret::filled(|output: &mut [u8; N]| {
        let filled = extracted.expand(&[info], Length(N)).and_then(|blocks| blocks.fill(output));
        #[expect(clippy::expect_used, reason = "it fails for a length that the line above does not compile with")]
        filled.expect("HKDF fills its output");
    })
}

/// How many bytes are derived.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn label(purpose: &'static str, context: &[&[u8]]) -> Vec<u8> {
    [b"bulla/v1/", purpose.as_bytes(), &framed(context)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    /// RFC 5869 §A.1 and §A.3.
    #[test]
    fn rfc_5869() {
        let decode = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap_or_default();
        let output: Secret<[u8; 42]> =
            hkdf_sha256(&[0x0b; 22], &decode("000102030405060708090a0b0c"), &decode("f0f1f2f3f4f5f6f7f8f9"));
        assert_eq!(
            HEXLOWER.encode(output.expose()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
        let output: Secret<[u8; 42]> = hkdf_sha256(&[0x0b; 22], &[], &[]);
        assert_eq!(
            HEXLOWER.encode(output.expose()),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
        );
    }

    #[test]
    fn the_label_is_the_documented_one() {
        assert_eq!(label("identity/sign", &[]), b"bulla/v1/identity/sign");
        assert_eq!(label("a", &[b"xy", b""]), b"bulla/v1/a\0\0\0\x02xy\0\0\0\0");
        let expected: SecretKey = hkdf_sha256(&[1; 32], &[], b"bulla/v1/identity/sign");
        assert_eq!(derive(&[1; 32], "identity/sign", &[]).expose(), expected.expose());
    }

    #[test]
    fn purpose_context_and_key_all_count() {
        let keys = [
            derive(&[1; 32], "a", &[]),
            derive(&[2; 32], "a", &[]),
            derive(&[1; 32], "b", &[]),
            derive(&[1; 32], "a", &[b""]),
            derive(&[1; 32], "a", &[b"xy"]),
            derive(&[1; 32], "a", &[b"x", b"y"]),
            derive(&[1; 32], "a", &[b"", b"xy"]),
        ];
        for (i, first) in keys.iter().enumerate() {
            for second in keys.iter().skip(i + 1) {
                assert_ne!(first.expose(), second.expose());
            }
        }
    }
}
