//! Small files that only their owner reads: what the client remembers of one cluster.
//!
//! A file is replaced by renaming a whole new one over it, so a reader sees the old or the new. Who changes a file
//! by what stood in it holds the directory's lock meanwhile; it is gone with the process that held it.

use bulla_crypto::evidence::AdminSet;
use bulla_crypto::random::{SystemRng, draw};
use bulla_wire::encoding::base32;
use bulla_wire::id::ClusterId;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file that is read back in bytes. Documents of a cluster are the largest; a hundred of them fit.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The directory of one cluster, or of all clusters of the same admins.
#[derive(Debug, Clone)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Opens, or makes with mode 0700, the directory of `cluster` below `base`.
    pub(crate) fn of_cluster(base: &Path, cluster: &ClusterId) -> io::Result<Self> {
        let path = base.join(cluster.base64url());
        make(&path)?;
        Ok(Self(path))
    }

    /// Opens, or makes, the directory of all clusters of these admins below `base`.
    pub(crate) fn of_admins(base: &Path, admins: &AdminSet) -> io::Result<Self> {
        let path = base.join(format!("admins-{}", admins.digest().base64url()));
        make(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A directory below, made if it is not there.
    pub(crate) fn below(&self, name: &str) -> io::Result<Self> {
        let path = self.path(name);
        make(&path)?;
        Ok(Self(path))
    }

    /// Waits for the directory's lock, which is held until the file is dropped.
    pub(crate) fn lock(&self) -> io::Result<File> {
        let file = own(OpenOptions::new().create(true).truncate(false)).open(self.path("lock"))?;
        file.lock()?;
        Ok(file)
    }

    /// Waits until it is this caller's turn at `name`, among all processes and tasks that work in this directory.
    pub(crate) async fn turn(&self, name: &str) -> io::Result<Turn> {
        let path = self.path(&format!("{name}.turn"));
        let mut waited = false;
        loop {
            let file = own(OpenOptions::new().create(true).truncate(false)).open(&path)?;
            let file = match file.try_lock() {
                Ok(()) => file,
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) => {
                    waited = true;
                    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
                    locked.await.map_err(io::Error::other)??
                }
            };
            // Whoever had the turn before has removed this file, and others stand in line at a new one.
            if file.metadata()?.nlink() > 0 {
                return Ok(Turn { path, waited, _file: file });
            }
            waited = true;
        }
    }

    /// The bytes of a file; `None` if there is none.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
            return Err(io::Error::other("the file is larger than any that was written here"));
        }
        Ok(Some(bytes))
    }

    /// Puts a whole new file in the place of the old one, also if the power fails: then it is the old one or the new one. With
    /// `durable` it is the new one once this has returned.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
        let temporary = self.path(&format!("{name}.{}", base32(&draw::<10>(&mut SystemRng))));
        let write = || -> io::Result<()> {
            let mut file = own(OpenOptions::new().create_new(true)).open(&temporary)?;
            file.write_all(bytes)?;
            // Before it has the name, or some file systems leave the name with nothing in it.
            file.sync_all()?;
            fs::rename(&temporary, self.path(name))?;
            if durable { sync(&self.0) } else { Ok(()) }
        };
        let written = write();
        if written.is_err() {
            // What is left of the temporary file serves nobody; the first error is the one that matters.
            drop(fs::remove_file(&temporary));
        }
        written
    }

    /// Removes a file, having overwritten it. On file systems and disks that copy on write the old bytes may
    /// stay until they are reused.
    pub(crate) fn destroy(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        let mut file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len().min(MAX_FILE_BYTES);
        io::copy(&mut io::repeat(0).take(length), &mut file)?;
        file.sync_all()?;
        fs::remove_file(&path)?;
        sync(&self.0)
    }
}

/// A turn at something; the next begins when this is dropped, or its process ends.
#[derive(Debug)]
pub(crate) struct Turn {
    path: PathBuf,
    waited: bool,
    _file: File,
}

impl Turn {
    /// Somebody else had it meanwhile.
    pub(crate) fn waited(&self) -> bool {
        self.waited
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A file that stays is used by the next turn.
        drop(fs::remove_file(&self.path));
    }
}

/// A nameless file that only this process can reach, in `directory`: its name is removed at once.
pub(crate) fn nameless(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".bulla-{}", base32(&draw::<15>(&mut SystemRng))));
    let file = own(OpenOptions::new().read(true).create_new(true)).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Syncs a directory, so that a renamed or new name in it survives a power cut.
pub(crate) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Adds writing with mode 0600.
pub(crate) fn own(options: &mut OpenOptions) -> &mut OpenOptions {
    options.write(true).mode(0o600)
}

fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_the_owners_alone() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::of_cluster(&base.path().join("bulla"), &ClusterId::new([1; 32])).unwrap();
        assert_eq!(directory.read("x").unwrap(), None);
        directory.replace("x", b"one", true).unwrap();
        directory.replace("x", b"two", false).unwrap();
        assert_eq!(directory.read("x").unwrap().unwrap(), b"two");
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(directory.path("x")), 0o600);
        assert_eq!(mode(directory.0.clone()), 0o700);
        let names = || fs::read_dir(&directory.0).unwrap().count();
        assert_eq!(names(), 1);
        directory.destroy("x").unwrap();
        directory.destroy("x").unwrap();
        assert_eq!(names(), 0);
    }

    #[test]
    fn a_nameless_file_leaves_no_name() {
        let base = tempfile::tempdir().unwrap();
        let mut file = nameless(base.path()).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn one_holds_the_lock() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::of_cluster(base.path(), &ClusterId::new([1; 32])).unwrap();
        let held = directory.lock().unwrap();
        let second = File::open(directory.path("lock")).unwrap();
        assert!(second.try_lock().is_err());
        drop(held);
        assert!(second.try_lock().is_ok());
    }

    /// Sixteen at once have it one after another, each but the first knows that it waited, and no file is left.
    #[tokio::test(flavor = "multi_thread")]
    async fn turns_are_taken_one_after_another() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::of_cluster(base.path(), &ClusterId::new([1; 32])).unwrap();
        let first = directory.turn("x").await.unwrap();
        assert!(!first.waited());
        assert!(!directory.turn("y").await.unwrap().waited(), "another name");
        let busy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let others: Vec<_> = (0..16)
            .map(|_| {
                let (directory, busy) = (directory.clone(), busy.clone());
                tokio::spawn(async move {
                    let turn = directory.turn("x").await.unwrap();
                    assert!(turn.waited());
                    assert!(!busy.swap(true, std::sync::atomic::Ordering::SeqCst), "two at once");
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                    busy.store(false, std::sync::atomic::Ordering::SeqCst);
                })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(others.iter().all(|other| !other.is_finished()));
        drop(first);
        for other in others {
            other.await.unwrap();
        }
        assert!(!directory.turn("x").await.unwrap().waited());
        assert_eq!(std::fs::read_dir(directory.path("")).unwrap().count(), 0);
    }
}
