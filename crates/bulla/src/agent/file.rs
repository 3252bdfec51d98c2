//! Files that are written: whole, and only when their content changed.

use bulla_client::{FileOutput, Output as _};
use bulla_crypto::secret::SecretBytes;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// Why somebody else could put another file in the place of this one, if so: whoever may write in its folder can, unless
/// that is sticky. A folder that is not there is told of when it is written to.
pub fn exposed(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = fs::metadata(folder).ok()?;
    let (mode, owner) = (found.permissions().mode(), found.uid());
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Some(format!("others may write in {} (mode {:04o})", folder.display(), mode & 0o7777));
    }
    let trusted = [0, rustix::process::geteuid().as_raw()];
    (!trusted.contains(&owner)).then(|| format!("{} belongs to another user (uid {owner})", folder.display()))
}

/// Makes this the content of a file; whether it was another one before.
pub fn write(path: &Path, mode: u32, content: &SecretBytes) -> io::Result<bool> {
    if holds(path, content)? {
        let permissions = fs::metadata(path)?.permissions();
        if permissions.mode() & 0o7777 != mode {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        return Ok(false);
    }
    let mut file = FileOutput::replacing(path)?.mode(mode)?;
    file.write_all(content.expose()).and_then(|()| file.commit())?;
    Ok(true)
}

/// Whether this is what lies there. Something that is no file is replaced, so it is none.
fn holds(path: &Path, content: &SecretBytes) -> io::Result<bool> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let length = content.expose().len();
    if !found.is_file() || found.len() != length as u64 {
        return Ok(false);
    }
    // A byte more than there should be: it may have grown since.
    let mut bytes = SecretBytes::new(Vec::with_capacity(length.saturating_add(1)));
    File::open(path)?.take(found.len().saturating_add(1)).read_to_end(bytes.expose_mut())?;
    Ok(bytes.expose() == content.expose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_folder_of_others_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.conf");
        for (mode, told) in [(0o700, false), (0o755, false), (0o777, true), (0o770, true), (0o1777, false)] {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposed(&path).is_some(), told, "{mode:o}");
        }
        assert_eq!(exposed(&directory.path().join("none/app.conf")), None);
    }

    #[test]
    fn a_file_is_replaced_only_when_its_content_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.conf");
        let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(write(&path, 0o640, &secret("one")).unwrap());
        assert_eq!((fs::read(&path).unwrap(), mode()), (b"one".to_vec(), 0o640));
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(!write(&path, 0o600, &secret("one")).unwrap());
        assert_eq!((fs::metadata(&path).unwrap().ino(), mode()), (inode, 0o600), "the mode is put right");
        assert!(write(&path, 0o600, &secret("two")).unwrap());
        assert!(write(&path, 0o600, &secret("longer")).unwrap());
        // What stands in the way is replaced, not followed.
        let other = directory.path().join("other");
        fs::write(&other, "longer").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        assert!(write(&path, 0o600, &secret("longer")).unwrap());
        assert!(path.symlink_metadata().unwrap().is_file());
        assert!(write(&directory.path().join("none/app.conf"), 0o600, &secret("x")).is_err());
    }
}
