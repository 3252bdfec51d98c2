//! Claims: the fresh key to which an opened wrap is delivered.
//!
//! A claim lies on the disk *before* it is used: whoever won with it and lost the answer comes back with the same
//! one, and no other key ever gets the content. The file is an age identity file whose name is the slip.

use crate::disk::{Directory, Turn};
use crate::error::ClientError;
use crate::memory::Memory;
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::random::SystemRng;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::sign::RsaMinimum;
use bulla_wire::id::Digest;
use bulla_wire::wrap::Slip;
use std::io;

const CLAIMS: &str = "claims";

pub(crate) struct Claim {
    identity: Identity,
    slip: Slip,
}

impl Claim {
    /// Waits until no other process of this machine works with the claim of this slip. It would be a second claim, and
    /// an alarm about oneself, to begin a new one when another has just destroyed it. None in memory, which no other
    /// process shares.
    pub(crate) async fn turn(memory: &Memory, slip: &Slip) -> Result<Option<Turn>, ClientError> {
        let Some(directory) = memory.directory() else { return Ok(None) };
        let (directory, name) = place(directory, slip)?;
        let turn = directory.turn(&name).await;
        turn.map(Some).map_err(|error| ClientError::io("cannot lock the claim in", directory.path(&name), error))
    }

    /// The claim that was begun for this slip, or a new one, which is durable when this returns.
    pub(crate) fn begin(memory: &Memory, slip: &Slip) -> Result<Self, ClientError> {
        let Some(directory) = memory.directory() else { return Self::in_memory(memory, slip) };
        let (directory, name) = place(directory, slip)?;
        let failed = |error| ClientError::io("cannot keep the claim in", directory.path(&name), error);
        let lock = directory.lock().map_err(failed)?;
        if let Some(claim) = Self::kept(&directory, &name, slip).map_err(failed)? {
            return Ok(claim);
        }
        let (claim, text) = Self::make(slip).map_err(failed)?;
        directory.replace(&name, text.expose(), true).map_err(failed)?;
        drop(lock);
        Ok(claim)
    }

    /// The claim that was begun for this slip and is not destroyed.
    pub(crate) fn find(memory: &Memory, slip: &Slip) -> Result<Option<Self>, ClientError> {
        let Some(directory) = memory.directory() else {
            let found = memory
                .with_claims(|claims| claims.get(&slip.wrap).map(|text| Self::read(text.expose(), slip)).transpose());
            return found.map_err(|error| ClientError::io("cannot read the claim in memory", None, error));
        };
        let (directory, name) = place(directory, slip)?;
        let failed = |error| ClientError::io("cannot read the claim in", directory.path(&name), error);
        Self::kept(&directory, &name, slip).map_err(failed)
    }

    /// A claim that nothing is opened with and nobody keeps: the cluster knows it for no opening.
    pub(crate) fn of_nothing(slip: &Slip) -> Result<Self, ClientError> {
        let made = Self::make(slip).map_err(|error| ClientError::io("cannot make a claim", None, error));
        made.map(|(claim, _)| claim)
    }

    fn kept(directory: &Directory, name: &str, slip: &Slip) -> io::Result<Option<Self>> {
        let Some(bytes) = directory.read(name)?.map(SecretBytes::new) else { return Ok(None) };
        // Whoever destroyed it ended before its name was gone.
        if !bytes.expose().is_empty() && bytes.expose().iter().all(|byte| *byte == 0) {
            directory.destroy(name)?;
            return Ok(None);
        }
        Self::read(bytes.expose(), slip).map(Some)
    }

    fn in_memory(memory: &Memory, slip: &Slip) -> Result<Self, ClientError> {
        let failed = |error| ClientError::io("cannot keep the claim in memory", None, error);
        memory
            .with_claims(|claims| {
                if let Some(text) = claims.get(&slip.wrap) {
                    return Self::read(text.expose(), slip);
                }
                let (claim, text) = Self::make(slip)?;
                claims.insert(slip.wrap, text);
                Ok(claim)
            })
            .map_err(failed)
    }

    fn make(slip: &Slip) -> io::Result<(Self, SecretBytes)> {
        let identity = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).map_err(io::Error::other)?;
        let text = identity.to_file_text(Some(&slip.to_string()), None).map_err(io::Error::other)?;
        Ok((Self { identity, slip: slip.clone() }, text))
    }

    fn read(text: &[u8], slip: &Slip) -> io::Result<Self> {
        let identity = Identity::parse(text, RsaMinimum::default(), &|| None).map_err(io::Error::other)?;
        if identity.name() != Some(slip.to_string().as_str()) {
            return Err(io::Error::other("the claim is of another slip"));
        }
        Ok(Self { identity, slip: slip.clone() })
    }

    /// The key.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// To whom the cluster encrypts its answer.
    pub(crate) fn recipient(&self) -> Result<&Recipient, ClientError> {
        self.identity.recipients().first().ok_or(ClientError::NoIdentity)
    }

    /// SHA-256 of the recipient's text, which receipts name.
    pub(crate) fn digest(&self) -> Result<Digest, ClientError> {
        self.recipient().map(Recipient::digest)
    }

    /// Destroys the secret: the cluster has deleted the ciphertext, or will never deliver it again.
    pub(crate) fn destroy(self, memory: &Memory) -> Result<(), ClientError> {
        let Some(directory) = memory.directory() else {
            memory.with_claims(|claims| claims.remove(&self.slip.wrap));
            return Ok(());
        };
        let (directory, name) = place(directory, &self.slip)?;
        directory
            .destroy(&name)
            .map_err(|error| ClientError::io("cannot destroy the claim in", directory.path(&name), error))
    }
}

fn place(directory: &Directory, slip: &Slip) -> Result<(Directory, String), ClientError> {
    let claims = directory.below(CLAIMS);
    let claims = claims.map_err(|error| ClientError::io("cannot make", directory.path(CLAIMS), error))?;
    Ok((claims, slip.wrap.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_wire::id::{ClusterId, WrapId};
    use std::os::unix::fs::PermissionsExt;

    fn slip(byte: u8) -> Slip {
        Slip { cluster: ClusterId::new([1; 32]), wrap: WrapId::new([2; 16]), statement_sha256: Digest::new([byte; 32]) }
    }

    #[test]
    fn a_claim_is_kept_until_it_is_destroyed() {
        let base = tempfile::tempdir().unwrap();
        let open = || Memory::of_directory(Directory::of_cluster(base.path(), &slip(3).cluster).unwrap()).unwrap();
        let first = Claim::begin(&open(), &slip(3)).unwrap().digest().unwrap();
        let again = Claim::begin(&open(), &slip(3)).unwrap();
        assert_eq!(again.digest().unwrap(), first);
        let path = base.path().join(slip(3).cluster.base64url()).join(CLAIMS).join(slip(3).wrap.to_string());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // The same wrap id under another statement is another wrap.
        assert!(Claim::begin(&open(), &slip(4)).is_err());
        assert!(Claim::find(&open(), &slip(4)).is_err());
        assert_eq!(Claim::find(&open(), &slip(3)).unwrap().unwrap().digest().unwrap(), first);
        again.destroy(&open()).unwrap();
        assert!(!path.exists());
        assert!(Claim::find(&open(), &slip(3)).unwrap().is_none());
        assert_ne!(Claim::begin(&open(), &slip(3)).unwrap().digest().unwrap(), first);
    }

    #[test]
    fn without_a_directory_it_is_kept_in_memory() {
        let memory = Memory::volatile();
        let first = Claim::begin(&memory, &slip(3)).unwrap().digest().unwrap();
        let again = Claim::begin(&memory, &slip(3)).unwrap();
        assert_eq!(again.digest().unwrap(), first);
        assert_eq!(Claim::find(&memory, &slip(3)).unwrap().unwrap().digest().unwrap(), first);
        again.destroy(&memory).unwrap();
        assert!(Claim::find(&memory, &slip(3)).unwrap().is_none());
        assert_ne!(Claim::begin(&memory, &slip(3)).unwrap().digest().unwrap(), first);
    }

    #[test]
    fn a_damaged_claim_is_not_replaced() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::of_cluster(base.path(), &slip(3).cluster).unwrap();
        let memory = Memory::of_directory(directory.clone()).unwrap();
        drop(Claim::begin(&memory, &slip(3)).unwrap());
        let (claims, name) = place(&directory, &slip(3)).unwrap();
        claims.replace(&name, b"damaged", true).unwrap();
        assert!(Claim::begin(&memory, &slip(3)).is_err());
    }

    /// Of one that was overwritten and whose name stayed, since the process or the power ended, nothing stays in the way.
    #[test]
    fn a_claim_whose_destruction_was_interrupted_is_destroyed() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::of_cluster(base.path(), &slip(3).cluster).unwrap();
        let memory = Memory::of_directory(directory.clone()).unwrap();
        let first = Claim::begin(&memory, &slip(3)).unwrap().digest().unwrap();
        let (claims, name) = place(&directory, &slip(3)).unwrap();
        let length = claims.read(&name).unwrap().unwrap().len();
        std::fs::write(claims.path(&name), vec![0; length]).unwrap();
        assert!(Claim::find(&memory, &slip(3)).unwrap().is_none());
        assert!(!claims.path(&name).exists());
        assert_ne!(Claim::begin(&memory, &slip(3)).unwrap().digest().unwrap(), first);
    }

    /// Where a claim cannot be kept there is none, so nothing is opened: what came would be lost with the process.
    #[test]
    fn a_claim_that_cannot_be_kept_is_none() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::of_cluster(base.path(), &slip(3).cluster).unwrap();
        let memory = Memory::of_directory(directory.clone()).unwrap();
        let (claims, _) = place(&directory, &slip(3)).unwrap();
        // As with a full disk: no file can be made.
        std::fs::create_dir(claims.path("lock")).unwrap();
        assert!(matches!(Claim::begin(&memory, &slip(3)), Err(ClientError::Io { .. })));
        assert!(Claim::find(&memory, &slip(3)).unwrap().is_none());
        std::fs::remove_dir(claims.path("lock")).unwrap();
        let begun = Claim::begin(&memory, &slip(3)).unwrap().digest().unwrap();
        assert_eq!(Claim::find(&memory, &slip(3)).unwrap().unwrap().digest().unwrap(), begun);
    }

    /// Two programs that open one wrap begin with one claim: a second would be an alarm about oneself.
    #[test]
    fn of_many_that_begin_at_once_all_have_one_claim() {
        let base = tempfile::tempdir().unwrap();
        let open = || Memory::of_directory(Directory::of_cluster(base.path(), &slip(3).cluster).unwrap()).unwrap();
        let start = std::sync::Barrier::new(8);
        let begin = || {
            let memory = open();
            start.wait();
            Claim::begin(&memory, &slip(3)).unwrap().digest().unwrap()
        };
        let digests: Vec<Digest> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    }
}
