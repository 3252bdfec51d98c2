//! Identity files on disk.

use crate::ClientError;
use bulla_crypto::evidence::Payload as _;
use bulla_crypto::identity::{Identity, MAX_IDENTITY_BYTES};
use bulla_crypto::secret::{SecretBytes, file};
use bulla_crypto::sign::RsaMinimum;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::PrincipalRecord;
use bulla_wire::json;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Reads an identity file or an OpenSSH private key. A file that others may read is refused ([`file::judge`]). `passphrase` is
/// asked at most once, and only for an encrypted SSH key.
///
/// # Errors
/// [`ClientError::Io`], or [`ClientError::Input`] with what is wrong with the file.
pub fn read(path: &Path, passphrase: &dyn Fn() -> Option<SecretBytes>) -> Result<Arc<Identity>, ClientError> {
    parse(path, &bytes(path)?, passphrase)
}

/// What [`bytes`] read, as an identity.
///
/// # Errors
/// As [`read`].
pub fn parse(
    path: &Path,
    bytes: &SecretBytes,
    passphrase: &dyn Fn() -> Option<SecretBytes>,
) -> Result<Arc<Identity>, ClientError> {
    let identity = Identity::parse(bytes.expose(), RsaMinimum::Bits3072, passphrase);
    identity.map(Arc::new).map_err(|error| ClientError::io("cannot read", path.to_path_buf(), io::Error::other(error)))
}

/// The bytes of a file with somebody's keys, whatever their kind. A file that others may read is refused.
///
/// # Errors
/// As [`read`].
pub fn bytes(path: &Path) -> Result<SecretBytes, ClientError> {
    let failed = |error| ClientError::io("cannot read", path.to_path_buf(), error);
    let opened = File::open(path).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    let limit = u64::try_from(MAX_IDENTITY_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    // Room for all of it from the start: a growing buffer would leave copies behind.
    let mut bytes = SecretBytes::new(Vec::with_capacity(MAX_IDENTITY_BYTES.saturating_add(2)));
    opened.take(limit).read_to_end(bytes.expose_mut()).map_err(failed)?;
    let shown = path.display();
    // Looked at before the mode: a record is for everyone, so its mode is not what is wrong.
    if is_record(bytes.expose()) {
        return Err(ClientError::input(
            format!("{shown} is a record, not an identity"),
            "give the file that `bulla keygen` wrote beside it",
        ));
    }
    if let Err(exposed) = file::judge(found.uid(), found.mode(), rustix::process::geteuid().as_raw()) {
        let (mode, who) = (found.mode() & 0o777, exposed.who());
        return Err(ClientError::input(
            format!("{shown} has mode {mode:04o}, so {who} can use this identity"),
            exposed.hint(shown),
        ));
    }
    Ok(bytes)
}

/// Whether these are the bytes of somebody's record (.pub).
fn is_record(bytes: &[u8]) -> bool {
    let envelope: Result<Envelope, _> = json::parse(bytes, json::MAX_JSON_BYTES);
    envelope.is_ok_and(|envelope| envelope.payload_type == PrincipalRecord::TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::identity::IdentityKind;
    use bulla_crypto::random::SystemRng;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alice.key");
        let identity = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        fs::write(&path, identity.to_file_text(Some("alice"), None).unwrap().expose()).unwrap();
        for (mode, good) in [(0o644, false), (0o640, false), (0o604, false), (0o600, true), (0o400, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path, &|| None).is_ok(), good, "{mode:o}");
        }
        assert_eq!(read(&path, &|| None).unwrap().name(), Some("alice"));
    }
}
