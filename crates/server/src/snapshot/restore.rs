//! A new data directory from a snapshot, without a server (`spec/snapshot.md`).
//!
//! The store gets its name last, when all of the file was read, checked and written to the disk. A server starts in no
//! directory in which that did not come to its end.

use crate::failpoint;
use crate::node::Phase;
use crate::plain::read_phase;
use crate::run::{RunError, prepare_directory};
use bulla_core::snapshot::{agrees, mark, stored};
use bulla_crypto::evidence::{ClusterView, EvidenceError};
use bulla_crypto::random::SystemRng;
use bulla_crypto::snapshot::{Reader, SnapshotError, Verified};
use bulla_store::{Filled, Filling, OnFatal, OpenError, left_unfinished, unfinished};
use bulla_wire::dsse::Envelope;
use bulla_wire::id::Digest;
use bulla_wire::snapshot::Manifest;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

const STORE: &str = "bulla.redb";
/// What an unfinished restore leaves beside its store: it may begin anew there.
const LEFT: [&str; 2] = ["VERSION", "lock"];
/// Bytes read at once: some frames, of which the longest has half a megabyte.
const READ_BYTES: usize = 1024 * 1024;

/// Why nothing was restored.
#[derive(Debug)]
pub enum RestoreError {
    /// Something lies in the directory already.
    NotEmpty {
        /// The directory.
        data: PathBuf,
        /// One of the things.
        found: String,
    },
    /// The directory.
    Directory(RunError),
    /// A file.
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The snapshot.
    Snapshot(SnapshotError),
    /// The new store.
    Store(OpenError),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEmpty { data, found } => write!(f, "{} is not empty: {found} lies in it", data.display()),
            Self::Directory(error) => write!(f, "{error}"),
            Self::Io { action, path, .. } => write!(f, "cannot {action} {}", path.display()),
            Self::Snapshot(_) => f.write_str("the snapshot cannot be used"),
            Self::Store(error) => write!(f, "{error}"),
        }
    }
}
impl std::error::Error for RestoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotEmpty { .. } => None,
            Self::Directory(error) => error.source(),
            Self::Io { source, .. } => Some(source),
            Self::Snapshot(error) => Some(error),
            Self::Store(error) => error.source(),
        }
    }
}

impl From<SnapshotError> for RestoreError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error)
    }
}
impl From<OpenError> for RestoreError {
    fn from(error: OpenError) -> Self {
        Self::Store(error)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { action, path, source }
}

/// Fills the empty directory `data` from a snapshot. `begin`, `known` and `vouched` as in
/// [`bulla_crypto::snapshot::Whole::verify`].
///
/// # Errors
/// See [`RestoreError`]; then no store is there.
pub async fn restore(
    file: &Path,
    data: &Path,
    begin: impl FnOnce(&Envelope, &[Envelope]) -> Result<ClusterView, EvidenceError>,
    known: Option<&ClusterView>,
    vouched: Option<Digest>,
) -> Result<Verified, RestoreError> {
    let input = File::open(file).map_err(io("open", file))?;
    empty(data)?;
    let _lock = prepare_directory(data).map_err(RestoreError::Directory)?;
    // Nobody came between the look and the lock.
    empty(data)?;
    let path = data.join(STORE);
    let filled = match fill(input, file, &path, begin, known, vouched) {
        Ok((filled, verified)) => check(&filled, &verified.manifest).await.map(|()| (filled, verified)),
        Err(error) => Err(error),
    };
    let (filled, verified) = filled.inspect_err(|_| {
        // What is left serves nobody; the first error is the one that matters.
        left_unfinished(&path).into_iter().for_each(|left| drop(fs::remove_file(left)));
    })?;
    failpoint::hit(failpoint::SNAPSHOT_BEFORE_RENAME);
    filled.publish()?;
    Ok(verified)
}

/// Whether a restore into this directory did not come to its end. No store is there then.
pub fn is_unfinished(data: &Path) -> bool {
    unfinished(&data.join(STORE)).exists()
}

/// Refuses a directory in which something lies.
fn empty(data: &Path) -> Result<(), RestoreError> {
    let entries = match fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look into", data)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io("look into", data))?;
        let name = entry.file_name();
        if !left_unfinished(&data.join(STORE)).contains(&entry.path()) && !LEFT.iter().any(|left| name == *left) {
            let found = name.to_string_lossy().into_owned();
            return Err(RestoreError::NotEmpty { data: data.to_owned(), found });
        }
    }
    Ok(())
}

/// Reads, checks and writes, all in one go; the rows are under no name of a store until all of them were believed.
fn fill(
    mut input: File,
    file: &Path,
    path: &Path,
    begin: impl FnOnce(&Envelope, &[Envelope]) -> Result<ClusterView, EvidenceError>,
    known: Option<&ClusterView>,
    vouched: Option<Digest>,
) -> Result<(Filled, Verified), RestoreError> {
    let mut filling = Filling::begin(path)?;
    let mut reader = Reader::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = input.read(&mut buffer).map_err(io("read", file))?;
        if length == 0 {
            break;
        }
        reader.take(buffer.get(..length).unwrap_or_default(), &mut |row| {
            failpoint::hit(failpoint::SNAPSHOT_RESTORED_ROW);
            let (table, key, value) = stored(&row).map_err(io::Error::other)?;
            filling.put(table, key, value).map_err(io::Error::other)
        })?;
    }
    let verified = reader.finish()?.verify(begin, known, vouched)?;
    let (key, value) =
        mark(&verified.manifest, &mut SystemRng).map_err(|error| io("mark", path)(io::Error::other(error)))?;
    filling.put(bulla_core::record::Table::Plain, key, value)?;
    Ok((filling.finish()?, verified))
}

/// Opens the new store as a server would, and compares what is in it with what the manifest says.
async fn check(filled: &Filled, manifest: &Manifest) -> Result<(), RestoreError> {
    let store = filled.open(OnFatal::default())?;
    let phase = read_phase(&store).await;
    store.close().await;
    let agreed = match phase {
        Ok(Phase::Sealed(sealed)) => {
            let head = sealed.stored.head_unverified().is_ok_and(|head| agrees(manifest, &head));
            let config = sealed.stored.config();
            head && (config.cluster, config.epoch) == (manifest.cluster, manifest.epoch)
        }
        _ => false,
    };
    if agreed {
        Ok(())
    } else {
        Err(SnapshotError::Altered("its rows are not of the state that its manifest names").into())
    }
}
