//! Content on its way into a wrap. Its digest and length come first in the request, so all of it is encrypted
//! before anything is sent: to memory, or beyond [`IN_MEMORY_BYTES`] to a nameless file. What lies in the file is
//! ciphertext, whose key is gone.

use crate::disk;
use bulla_crypto::digest::Sha256;
use bulla_crypto::envelope::{self, Binding, SealError};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::wrap::MAX_CONTENT_BYTES;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::PathBuf;

/// Largest ciphertext that is kept in memory, in bytes. The server takes larger ones in pieces too.
pub(crate) const IN_MEMORY_BYTES: usize = 512 * 1024;

/// What goes into a wrap.
pub type Content = Box<dyn Read + Send>;

/// Bytes as content. They are wiped when they were read.
pub fn content(bytes: Vec<u8>) -> Content {
    Box::new(Secret(SecretBytes::new(bytes), 0))
}

struct Secret(SecretBytes, u64);

impl Read for Secret {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut cursor = Cursor::new(self.0.expose());
        cursor.set_position(self.1);
        let count = cursor.read(buffer)?;
        self.1 = cursor.position();
        Ok(count)
    }
}

/// An age file that is ready to be sent.
pub(crate) struct Spooled {
    pub place: Place,
    pub len: u64,
    pub sha256: [u8; 32],
    /// The head it was hashed behind, and the digest of both; see [`digest_after`].
    file_hash: Sha256,
}

pub(crate) enum Place {
    Memory(Vec<u8>),
    File(File),
}

/// Why nothing was spooled.
#[derive(Debug)]
pub(crate) enum SpoolError {
    /// More than [`MAX_CONTENT_BYTES`].
    TooLarge,
    Seal(SealError),
}

/// Encrypts all of `content`. Blocks.
pub(crate) fn seal(
    recipients: &[Recipient],
    binding: &Binding,
    content: impl Read,
    directory: PathBuf,
) -> Result<Spooled, SpoolError> {
    let mut limited = Limited { inner: content, left: MAX_CONTENT_BYTES, over: false };
    let mut sink = Sink { place: Place::Memory(Vec::new()), hash: Sha256::new(), len: 0, directory };
    let sealed = envelope::seal_to(recipients, Some(binding), &mut limited, &mut sink);
    if limited.over {
        return Err(SpoolError::TooLarge);
    }
    sealed.map_err(SpoolError::Seal)?;
    let Sink { place, hash, len, directory: _ } = sink;
    Ok(Spooled { place, len, sha256: hash.clone().finish(), file_hash: hash })
}

impl Spooled {
    /// An age file that somebody else made.
    pub(crate) fn of(file: Vec<u8>) -> Self {
        let mut hash = Sha256::new();
        hash.update(&file);
        let len = u64::try_from(file.len()).unwrap_or(u64::MAX);
        Self { place: Place::Memory(file), len, sha256: hash.clone().finish(), file_hash: hash }
    }

    /// SHA-256 of `head` and then this file, which is read again.
    pub(crate) fn digest_after(&mut self, head: &[u8]) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        hash.update(head);
        match &mut self.place {
            Place::Memory(bytes) => hash.update(bytes),
            Place::File(file) => {
                let mut again = Sha256::new();
                let mut piece = vec![0; 64 * 1024];
                io::Seek::rewind(file)?;
                loop {
                    let count = file.read(&mut piece)?;
                    let bytes = piece.get(..count).unwrap_or_default();
                    if bytes.is_empty() {
                        break;
                    }
                    hash.update(bytes);
                    again.update(bytes);
                }
                if again.finish() != self.file_hash.clone().finish() {
                    return Err(io::Error::other("the temporary file does not hold what was written to it"));
                }
            }
        }
        Ok(hash.finish())
    }
}

/// Stops one byte after the limit, so that a file of exactly the limit passes.
struct Limited<R> {
    inner: R,
    left: u64,
    over: bool,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)) {
            Some(left) => {
                self.left = left;
                Ok(count)
            }
            None => {
                self.over = true;
                Err(io::Error::other("the content is too large"))
            }
        }
    }
}

struct Sink {
    place: Place,
    hash: Sha256,
    len: u64,
    directory: PathBuf,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Place::Memory(memory) = &mut self.place
            && memory.len().saturating_add(bytes.len()) > IN_MEMORY_BYTES
        {
            let mut file = disk::nameless(&self.directory)?;
            file.write_all(memory)?;
            self.place = Place::File(file);
        }
        match &mut self.place {
            Place::Memory(memory) => memory.extend_from_slice(bytes),
            Place::File(file) => file.write_all(bytes)?,
        }
        self.hash.update(bytes);
        self.len = self.len.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::digest::sha256;
    use bulla_crypto::identity::{Identity, IdentityKind};
    use bulla_crypto::random::SystemRng;
    use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};

    fn binding() -> Binding {
        Binding {
            wrap: WrapId::new([1; 16]),
            cluster: ClusterId::new([2; 32]),
            from: PrincipalId::new([3; 32]),
            to_sha256: Digest::new([4; 32]),
        }
    }

    fn spool(size: u64, directory: &std::path::Path) -> (Identity, Result<Spooled, SpoolError>) {
        let identity = Identity::generate(IdentityKind::Classical, &mut SystemRng).unwrap();
        let content = io::repeat(b'c').take(size);
        let spooled = seal(identity.recipients(), &binding(), content, directory.to_path_buf());
        (identity, spooled)
    }

    fn bytes(spooled: &mut Spooled) -> Vec<u8> {
        match &mut spooled.place {
            Place::Memory(bytes) => bytes.clone(),
            Place::File(file) => {
                let mut bytes = Vec::new();
                io::Seek::rewind(file).unwrap();
                file.read_to_end(&mut bytes).unwrap();
                bytes
            }
        }
    }

    #[tokio::test]
    async fn small_content_stays_in_memory_and_large_goes_to_disk_encrypted() {
        let directory = tempfile::tempdir().unwrap();
        for (size, on_disk) in [(0, false), (1000, false), (400_000, false), (2_000_000, true)] {
            let (identity, spooled) = spool(size, directory.path());
            let mut spooled = spooled.unwrap();
            assert_eq!(matches!(spooled.place, Place::File(_)), on_disk, "{size}");
            let file = bytes(&mut spooled);
            assert_eq!((spooled.len, spooled.sha256), (file.len() as u64, sha256(&[&file])));
            assert_eq!(spooled.digest_after(b"head").unwrap(), sha256(&[b"head", &file]));
            assert!(!file.windows(64).any(|window| window == [b'c'; 64]));
            let opened = envelope::open(&[&identity], &file, usize::MAX).await.unwrap();
            assert_eq!(opened.plaintext.expose().len() as u64, size);
            assert_eq!(opened.binding, Some(binding()));
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_limit_is_told_before_anything_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        assert!(spool(MAX_CONTENT_BYTES, directory.path()).1.is_ok());
        assert!(matches!(spool(MAX_CONTENT_BYTES + 1, directory.path()).1, Err(SpoolError::TooLarge)));
    }

    #[test]
    fn a_temporary_file_that_somebody_changed_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut spooled = spool(2_000_000, directory.path()).1.unwrap();
        let Place::File(file) = &spooled.place else { panic!("expected a file") };
        std::os::unix::fs::FileExt::write_at(file, b"x", 1_000_000).unwrap();
        assert!(spooled.digest_after(b"").is_err());
    }

    #[test]
    fn bytes_are_content() {
        let mut read = Vec::new();
        content(b"abc".to_vec()).read_to_end(&mut read).unwrap();
        assert_eq!(read, b"abc");
    }
}
