//! Files and standard input that are read whole, and never more of them than a limit.

use crate::exit::{Exit, Failure};
use bulla_kms::kubernetes::yaml;
use bulla_wire::api::MAX_VALUE_BYTES;
use bulla_wire::json::MAX_JSON_BYTES;
use bulla_wire::wrap::{MAX_CIPHERTEXT_BYTES, MAX_CONTENT_BYTES, Parcel};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Room that is made before anything is read, in bytes: what fits leaves no copies behind while the buffer grows.
const PREPARED_BYTES: u64 = 1024 * 1024;

/// How much is taken.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// In bytes.
    pub bytes: u64,
    /// What to do with more.
    pub larger: &'static str,
}

impl Limit {
    /// A stored secret.
    pub const VALUE: Self =
        Self { bytes: MAX_VALUE_BYTES as u64, larger: "send larger things with `bulla wrap create`" };
    /// Text that people write, and statements that they sign: any of them, and no file by mistake.
    pub const TEXT: Self = Self { bytes: MAX_JSON_BYTES as u64, larger: "name the right file" };
    /// A configuration of the plugin for Kubernetes, or of Kubernetes itself.
    pub const YAML: Self = Self { bytes: yaml::MAX_BYTES as u64, ..Self::TEXT };
    /// The body of any request: that of a wrap is the largest.
    pub const BODY: Self =
        Self { bytes: MAX_CIPHERTEXT_BYTES + Parcel::MAX_DOCUMENT_BYTES as u64 + 4, larger: "no route takes more" };
    /// The content of a wrap.
    pub const WRAP: Self =
        Self { bytes: MAX_CONTENT_BYTES, larger: "keep large things elsewhere, and wrap the key to them" };
}

/// The bytes of a file; `-` is standard input.
pub fn file(path: &Path, limit: Limit) -> Result<Vec<u8>, Failure> {
    if path == Path::new("-") {
        return stdin(limit);
    }
    let read = File::open(path).and_then(|file| limited(file, limit));
    let bytes = read.map_err(|error| Failure::file("cannot read", path, &error))?;
    bytes.ok_or_else(|| too_large(&path.display().to_string(), limit))
}

/// The text of a file; `-` is standard input.
pub fn text(path: &Path, limit: Limit) -> Result<String, Failure> {
    String::from_utf8(file(path, limit)?)
        .map_err(|_| Failure::usage(format!("{} is no UTF-8 text", path.display())).hint(limit.larger))
}

/// What comes by standard input.
pub fn stdin(limit: Limit) -> Result<Vec<u8>, Failure> {
    let bytes = limited(io::stdin().lock(), limit)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
    bytes.ok_or_else(|| too_large("standard input", limit))
}

/// Everything that there is, or none if it is more than the limit: a device or a pipe may never end.
fn limited(source: impl Read, limit: Limit) -> io::Result<Option<Vec<u8>>> {
    let room = limit.bytes.min(PREPARED_BYTES).saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or_default());
    source.take(limit.bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= limit.bytes))
}

fn too_large(what: &str, limit: Limit) -> Failure {
    Failure::new(Exit::Failed, format!("{what} has more than {} bytes", limit.bytes)).hint(limit.larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_is_refused_and_not_held() {
        let limit = Limit { bytes: 3, larger: "send less" };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(file(&path, limit).unwrap(), b"abc");
        std::fs::write(&path, "abcd").unwrap();
        for path in [&path, Path::new("/dev/zero")] {
            let failure = file(path, limit).unwrap_err();
            assert_eq!((failure.exit, failure.hints.as_slice()), (Exit::Failed, &["send less".to_owned()][..]));
            assert!(failure.message.ends_with("has more than 3 bytes"), "{}", failure.message);
        }
        assert!(file(&folder.path().join("none"), limit).unwrap_err().message.starts_with("cannot read"));
    }
}
