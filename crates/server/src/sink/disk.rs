//! What the sink does to files, as few operations as can be replaced in a test that breaks one of them.

use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are kept free, so that sealing can be logged on a full disk: eight lines of the largest size.
pub const RESERVE_BYTES: usize = 64 * 1024;

/// Writes and syncs. The sink asks for nothing else while it runs.
pub trait Disk: Send {
    /// Writes at the end of the file, maybe less than all.
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize>;
    /// Returns when everything written is on the disk. An error is final: the kernel forgets what it could not
    /// write, so a second try would succeed and prove nothing.
    fn sync(&mut self, file: &File) -> io::Result<()>;
}

/// The disk of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// Whether the error may go away when somebody makes room.
pub(super) fn is_full(error: &io::Error) -> bool {
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| full.contains(&code))
}

/// Makes the directory for the owner alone, with everything above it.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens for appending; a file that is made is readable for the owner alone. A symbolic link is not followed where
/// the sink chose the name itself.
pub(super) fn open_append(path: &Path, follow: bool, create_new: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600);
    if create_new {
        options.create_new(true);
    } else {
        options.create(true);
    }
    if !follow && let Ok(flags) = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()) {
        options.custom_flags(flags);
    }
    options.open(path)
}

/// Makes names in the directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A file that does nothing but keep room.
#[derive(Debug)]
pub(super) struct Reserve {
    path: Option<PathBuf>,
    kept: bool,
}

impl Reserve {
    /// Keeps room beside the log; without a path there is nothing to keep it for.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, kept: false }
    }

    /// Makes sure that the room is kept.
    pub(super) fn keep(&mut self) -> io::Result<()> {
        let Some(path) = self.path.as_ref().filter(|_| !self.kept) else { return Ok(()) };
        let result = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
            // Not zeros: a file system that compresses or skips them would keep nothing.
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .flatten()
            .take(RESERVE_BYTES)
            .collect();
            file.write_all(&bytes)?;
            file.sync_all()
        })();
        if result.is_err() {
            // A part of it is of no use, and would take room from whoever could use it.
            drop(fs::remove_file(path));
        }
        self.kept = result.is_ok();
        result
    }

    /// Gives the room up. Says whether there was any.
    pub(super) fn spend(&mut self) -> bool {
        let spent = self.kept && self.path.as_ref().is_some_and(|path| fs::remove_file(path).is_ok());
        self.kept = false;
        spent
    }
}
