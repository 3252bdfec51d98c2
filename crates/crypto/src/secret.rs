//! Bytes that do not print, are not compared by accident, and are wiped when dropped.
//!
//! Held: no `Debug`, `Clone`, `PartialEq` or `Serialize` of the content; one place on the heap, so that
//! moving the owner copies a pointer and not the bytes; zeroed on drop.
//!
//! Not held: copies made by libraries while they work, by `Vec` when it grows, by the stack frames of a
//! value that was made before it came here, by swap and by core dumps (which the process switches off).

pub mod file;

use std::fmt;
use zeroize::Zeroize;

/// Owns a secret value.
pub struct Secret<T: Zeroize>(Box<T>);

/// Secret bytes of any length, such as a plaintext.
pub type SecretBytes = Secret<Vec<u8>>;

/// A 256-bit secret key, the only symmetric key size in use.
pub type SecretKey = Secret<[u8; 32]>;

impl<T: Zeroize> Secret<T> {
    /// Takes ownership. For an array prefer [`Secret::filled`], which leaves no copy on the stack.
    pub fn new(value: T) -> Self {
        Self(Box::new(value))
    }

    /// Lends the secret for reading. Callers must not copy what they see into anything that is not wiped.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// Lends the secret for writing in place.
    pub fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize + Clone> Secret<T> {
    /// Makes a second copy, which is wiped on its own. A named step, so that copies are found by reading.
    pub fn copy(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<const N: usize> Secret<[u8; N]> {
    /// Makes an array in its place on the heap and lets `write` fill it.
    pub fn filled(write: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Box::new([0; N]));
        write(secret.expose_mut());
        secret
    }

    /// Copies exactly `N` bytes; `None` for any other length. The caller still owns, and wipes, `bytes`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; N] = bytes.try_into().ok()?;
        Some(Self::filled(|place| place.copy_from_slice(bytes)))
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts how often it was wiped.
    struct Probe(Arc<AtomicUsize>);
    impl Zeroize for Probe {
        fn zeroize(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_secret_is_wiped_once_when_dropped() {
        let wiped = Arc::new(AtomicUsize::new(0));
        let secret = Secret::new(Probe(Arc::clone(&wiped)));
        let moved = secret;
        assert_eq!(wiped.load(Ordering::Relaxed), 0);
        drop(moved);
        assert_eq!(wiped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = SecretBytes::new(b"canary".to_vec());
        for text in [format!("{secret:?}"), format!("{secret:#?}"), format!("{:?}", Some(&secret))] {
            assert!(text.contains("Secret(..)") && !text.contains("99") && !text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn a_copy_stands_on_its_own() {
        let mut first = SecretKey::from_slice(&[7; 32]).unwrap();
        let second = first.copy();
        first.expose_mut().zeroize();
        assert_eq!(second.expose(), &[7; 32]);
        assert!(SecretKey::from_slice(&[7; 31]).is_none());
        assert!(SecretKey::from_slice(&[7; 33]).is_none());
    }
}
