//! Files that hold a credential: read again whenever it is needed, since others change them.

use crate::provider::{Class, ProviderError};
use bulla_crypto::digest::{framed, sha256};
use bulla_crypto::secret::SecretBytes;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Largest file in bytes: a chain of certificates, or a token of a Kubernetes cluster, many times over.
const MAX_BYTES: u64 = 64 * 1024;

/// The one line of a file that holds a secret.
///
/// # Errors
/// [`Class::Config`], with the file.
pub fn line(path: &Path) -> Result<SecretBytes, ProviderError> {
    let mut bytes = whole(path)?;
    let text = bytes.expose_mut();
    while text.last().is_some_and(u8::is_ascii_whitespace) {
        text.pop();
    }
    if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
        return Err(unfit(path, "it must hold one word and nothing else"));
    }
    Ok(bytes)
}

/// A digest over files, which tells whether one of them has changed.
///
/// # Errors
/// As [`line`].
pub fn digest<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<[u8; 32], ProviderError> {
    let contents: Vec<SecretBytes> = paths.into_iter().map(whole).collect::<Result<_, _>>()?;
    let fields: Vec<[u8; 32]> = contents.iter().map(|content| sha256(&[content.expose()])).collect();
    let fields: Vec<&[u8]> = fields.iter().map(<[u8; 32]>::as_slice).collect();
    Ok(sha256(&[&framed(&fields)]))
}

fn whole(path: &Path) -> Result<SecretBytes, ProviderError> {
    let failed = |error: std::io::Error| unfit(path, &error.to_string());
    // A pipe would be waited for.
    let length = std::fs::metadata(path).and_then(|about| match about.is_file() {
        true => Ok(about.len()),
        false => Err(std::io::Error::other("it is not a file")),
    });
    let length = length.map_err(failed)?;
    if length > MAX_BYTES {
        return Err(unfit(path, "it is larger than any credential"));
    }
    let room = usize::try_from(length).unwrap_or_default().saturating_add(1);
    let mut bytes = SecretBytes::new(vec![0; room]);
    let mut file = File::open(path).map_err(failed)?;
    let mut filled = 0;
    // Into room that is there: a vector that grows by itself leaves a copy behind.
    while let Some(rest) = bytes.expose_mut().get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if filled == room {
        return Err(unfit(path, "it grew while it was read; it is read again"));
    }
    bytes.expose_mut().truncate(filled);
    Ok(bytes)
}

fn unfit(path: &Path, why: &str) -> ProviderError {
    ProviderError::new(Class::Config, format!("cannot use {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            line(&path).map(|line| line.expose().clone())
        };
        assert_eq!(read(b"s.canary\r\n\n").unwrap(), b"s.canary");
        assert_eq!(read(&[b'a'; 65536]).unwrap().len(), 65536);
        for bad in [&b""[..], b"\n", b"s.canary s.canary", b"s.can\nary", b" s.canary", &[0xff], &[b'a'; 65537]] {
            let error = read(bad).unwrap_err();
            assert!(error.class == Class::Config && error.text.contains("token"), "{error}");
            assert!(!error.text.contains("canary"), "{error}");
        }
        assert!(line(&folder.path().join("none")).is_err() && line(folder.path()).is_err());
    }

    #[test]
    fn a_changed_file_has_another_digest() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, "one").unwrap();
        std::fs::write(&b, "two").unwrap();
        let of = || digest([a.as_path(), b.as_path()]).unwrap();
        let first = of();
        assert_eq!(first, of());
        std::fs::write(&b, "three").unwrap();
        assert_ne!(first, of());
        std::fs::write(&a, "onet").unwrap();
        std::fs::write(&b, "hree").unwrap();
        assert_ne!(first, of());
    }
}
