//! Where an opened wrap's content goes. It counts as received only once it is durable.

use crate::disk;
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::encoding::base32;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Takes the content of a wrap. What was written counts only after [`Output::commit`]; without it nothing may stay.
pub trait Output: Write + Send {
    /// Makes what was written durable. Afterwards the wrap is acknowledged, and the cluster deletes it.
    ///
    /// # Errors
    /// Whatever keeps it from being safe: the wrap can then be opened again.
    fn commit(&mut self) -> io::Result<()>;
}

/// A new file with mode 0600 unless [`FileOutput::mode`] says otherwise. It gets its name when all of it is on the disk, and replaces nothing unless it is meant to.
#[derive(Debug)]
pub struct FileOutput {
    file: File,
    temporary: PathBuf,
    /// It lies at the temporary name. Else it has none yet, and of whoever is ended by a signal nothing stays.
    named: bool,
    path: PathBuf,
    replaces: bool,
    committed: bool,
}

impl FileOutput {
    /// Prepares a file that will be `path`.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if there is one; else the system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists, and nothing is overwritten"));
        }
        Self::prepare(path, false)
    }

    /// As [`FileOutput::create`], but what lies there is replaced, whole for whole.
    ///
    /// # Errors
    /// The system's.
    pub fn replacing(path: &Path) -> io::Result<Self> {
        Self::prepare(path, true)
    }

    /// Gives it this mode before it has its name, so that it is never seen with another one.
    ///
    /// # Errors
    /// The system's.
    pub fn mode(self, mode: u32) -> io::Result<Self> {
        self.file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(self)
    }

    /// Gives it the owner that `path` has, so that whoever reads that can read this.
    ///
    /// # Errors
    /// The system's: nobody but root gives files away.
    pub fn owned_as(self, path: &Path) -> io::Result<Self> {
        let (own, there) = (self.file.metadata()?, fs::metadata(path)?);
        if (own.uid(), own.gid()) != (there.uid(), there.gid()) {
            std::os::unix::fs::fchown(&self.file, Some(there.uid()), Some(there.gid()))?;
        }
        Ok(self)
    }

    fn prepare(path: &Path, replaces: bool) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("this is no name of a file"))?;
        let random = base32(&draw::<10>(&mut SystemRng));
        let temporary = path.with_file_name(format!(".{}.{random}", name.to_string_lossy()));
        let (file, named) = match unnamed(folder_of(path))? {
            Some(file) => (file, false),
            None => (disk::own(OpenOptions::new().create_new(true)).open(&temporary)?, true),
        };
        Ok(Self { file, temporary, named, path: path.to_path_buf(), replaces, committed: false })
    }
}

impl Write for FileOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Output for FileOutput {
    fn commit(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.replaces {
            if !self.named {
                // To replace a file takes two steps.
                give_name(&self.file, &self.temporary)?;
                self.named = true;
            }
            fs::rename(&self.temporary, &self.path)?;
        } else if self.named {
            // A plain rename would replace what somebody else put there meanwhile.
            rename_new(&self.temporary, &self.path)?;
        } else {
            give_name(&self.file, &self.path)?;
        }
        self.committed = true;
        disk::sync(folder_of(&self.path))
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file without a name that can be given one, where the file system has such.
fn unnamed(folder: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::io::Errno;
    if !Path::new("/proc/self/fd").exists() {
        return Ok(None);
    }
    match open(folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives it a name, unless there is one of that name (open(2), "O_TMPFILE").
fn give_name(file: &File, to: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, own, CWD, to, AtFlags::SYMLINK_FOLLOW)?)
}

/// Gives a file its name, unless there is one of that name.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems do not know this flag, others no links.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        done => Ok(done?),
    }
}

impl Drop for FileOutput {
    fn drop(&mut self) {
        if self.named && !self.committed {
            // Nobody is left to be told; the file has mode 0600.
            drop(fs::remove_file(&self.temporary));
        }
    }
}

/// Content in memory, wiped when dropped. Durable only as long as the process.
#[derive(Debug)]
pub struct MemoryOutput(SecretBytes);

impl MemoryOutput {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(SecretBytes::new(Vec::new()))
    }
    /// What was written.
    pub fn content(&self) -> &[u8] {
        self.0.expose()
    }
}

impl Default for MemoryOutput {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for MemoryOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let content = self.0.expose_mut();
        if content.capacity().saturating_sub(content.len()) < bytes.len() {
            // Growing in place would leave an unwiped copy behind.
            let needed = content.len().saturating_add(bytes.len());
            let mut larger = SecretBytes::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.expose_mut().extend_from_slice(content);
            self.0 = larger;
        }
        self.0.expose_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for MemoryOutput {
    fn commit(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let count = || fs::read_dir(directory.path()).unwrap().count();
        let mut output = FileOutput::create(&path).unwrap();
        output.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(output);
        assert_eq!(count(), 0);
        let mut output = FileOutput::create(&path).unwrap();
        output.write_all(b"whole").unwrap();
        output.commit().unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(count(), 1);
        let mut output = FileOutput::replacing(&path).unwrap().mode(0o640).unwrap();
        output.write_all(b"another").unwrap();
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"another");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(count(), 1);
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        fs::write(&path, "old").unwrap();
        assert_eq!(FileOutput::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&path).unwrap();
        // Somebody makes the file between.
        let mut output = FileOutput::create(&path).unwrap();
        fs::write(&path, "other").unwrap();
        assert!(output.commit().is_err());
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn memory_keeps_all() {
        let mut output = MemoryOutput::new();
        for _ in 0..100 {
            output.write_all(b"0123456789").unwrap();
        }
        assert_eq!(output.content(), b"0123456789".repeat(100));
    }

    /// Whoever presses Ctrl-C while something is decrypted leaves nothing of it behind.
    #[test]
    fn a_file_that_is_begun_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let count = || fs::read_dir(directory.path()).unwrap().count();
        for replaces in [false, true] {
            let made = if replaces { FileOutput::replacing(&path) } else { FileOutput::create(&path) };
            let mut output = made.unwrap();
            if output.named {
                // This file system knows no files without a name.
                return;
            }
            output.write_all(b"half").unwrap();
            assert_eq!(count(), usize::from(replaces), "it ends here, by whatever signal");
            output.write_all(b" and half").unwrap();
            output.commit().unwrap();
            drop(output);
            assert_eq!((fs::read(&path).unwrap(), count()), (b"half and half".to_vec(), 1));
        }
    }
}
