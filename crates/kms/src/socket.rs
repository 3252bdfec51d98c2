//! The socket on which kube-apiserver asks: held by systemd, at a path, or in the abstract namespace.
//!
//! Threat: whoever connects may have every seed decrypted that it holds the ciphertext of. So the file's mode and the
//! peer's user decide who connects, a path that others may replace is refused, and only a socket that nobody answers on
//! is replaced.

use rustix::process::geteuid;
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest path of a socket in bytes (`sun_path` of unix(7), with its end).
const MAX_PATH_BYTES: usize = 107;
/// Its temporary name, before it takes its place.
const TEMPORARY: &str = ".new";

/// Where the socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file.
    Path(PathBuf),
    /// A name without a file, and so without a mode: for kube-apiservers up to 1.31, whose way of writing a path no
    /// HTTP/2 of Rust takes.
    Abstract(String),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('@') {
            Some(name) if !name.is_empty() && name.len() < MAX_PATH_BYTES => Ok(Self::Abstract(name.to_owned())),
            Some(_) => Err("the name of an abstract socket has 1 to 106 bytes"),
            None if !text.starts_with('/') => Err("expected an absolute path, or @NAME for an abstract socket"),
            None if text.len() > MAX_PATH_BYTES.saturating_sub(TEMPORARY.len()) => {
                Err("the path of a socket has at most 103 bytes")
            }
            None => Ok(Self::Path(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Mode of the file.
    pub mode: u32,
    /// Its group, if not that of the process.
    pub gid: Option<u32>,
    /// Users that are answered; everybody else is hung up on.
    pub uids: Vec<u32>,
}

/// A socket that is listened on. A file goes with it.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub listener: UnixListener,
    file: Option<(PathBuf, u64, u64)>,
}

impl Bound {
    /// One that somebody else holds, and keeps when this process ends.
    pub const fn held(listener: UnixListener) -> Self {
        Self { listener, file: None }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let Some((path, dev, ino)) = &self.file else { return };
        // Another one may have taken the place.
        if fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (*dev, *ino)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Listens at a place. A file takes its place at once and with its mode, so nobody connects to half of it.
///
/// # Errors
/// [`io::Error`], whose text says what to do.
pub fn bind(place: &Place, access: &Access) -> io::Result<Bound> {
    let path = match place {
        Place::Abstract(name) => {
            return UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?).map(Bound::held);
        }
        Place::Path(path) => path,
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    private(folder)?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(refused(format!("{} is there and is no socket; remove it", path.display())));
        }
        Ok(_) => match UnixStream::connect(path) {
            // Nobody listens: it was left behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Ok(_) => {
                let text = format!("another process answers at {}; stop it, or name another path", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            Err(error) => {
                let text = format!("whether another process listens at {} cannot be seen: {error}", path.display());
                return Err(io::Error::new(error.kind(), text));
            }
        },
    }
    let mut temporary = path.clone().into_os_string();
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    if fs::symlink_metadata(&temporary).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(&temporary)?;
    }
    let listener = UnixListener::bind(&temporary)?;
    let prepared = fs::set_permissions(&temporary, Permissions::from_mode(access.mode))
        .and_then(|()| access.gid.map_or(Ok(()), |gid| std::os::unix::fs::chown(&temporary, None, Some(gid))))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| fs::symlink_metadata(path));
    match prepared {
        Ok(found) => Ok(Bound { listener, file: Some((path.clone(), found.dev(), found.ino())) }),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Who else may write into a folder of this mode, if anybody may: pure, over what the file system says of it. Whoever may has
/// the socket replaced by one of his own, and is handed new seeds in clear. A group may look into it: its members are those who
/// are to connect, and the socket's own mode decides.
pub const fn writers(mode: u32) -> Option<&'static str> {
    if mode & 0o002 != 0 {
        Some("everybody")
    } else if mode & 0o020 != 0 {
        Some("its group")
    } else {
        None
    }
}

/// Refuses a folder in which others could put a socket of their own in the place of ours.
fn private(folder: &Path) -> io::Result<()> {
    let found = fs::metadata(folder).map_err(|error| {
        let text = format!("the folder {} of the socket: {error}; make it, with mode 0750", folder.display());
        io::Error::new(error.kind(), text)
    })?;
    if let Some(who) = writers(found.mode()) {
        let text = format!("{who} may write into {0}, and so replace the socket; chmod go-w {0}", folder.display());
        return Err(refused(text));
    }
    if let Some(text) = strange(folder, found.uid(), geteuid().as_raw()) {
        return Err(refused(text));
    }
    Ok(())
}

/// Why a folder must not belong to whom it does, if so: its owner may give himself every right to it.
fn strange(folder: &Path, owner: u32, own: u32) -> Option<String> {
    let text = || {
        let folder = folder.display();
        format!("user {owner} owns {folder}, and so may replace the socket; chown {own} {folder}, or give it to root")
    };
    (owner != 0 && owner != own).then(text)
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access { mode: 0o660, gid: None, uids: vec![0] }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.sock");
        (folder, path)
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_the_process() {
        let (_folder, path) = folder();
        let bound = bind(&Place::Path(path.clone()), &access()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_nobody_answers_on_is_replaced_and_another_is_not() {
        let (_folder, path) = folder();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a killed process leaves it");
        let first = bind(&Place::Path(path.clone()), &access()).unwrap();
        let second = bind(&Place::Path(path.clone()), &access()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse, "{second}");
        UnixStream::connect(&path).expect("the first goes on");
        // One that took the place is not removed by the one that had it.
        fs::remove_file(&path).unwrap();
        let third = bind(&Place::Path(path.clone()), &access()).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(third);
    }

    #[test]
    fn nothing_else_is_replaced() {
        let (_folder, path) = folder();
        fs::write(&path, "mine").unwrap();
        assert!(bind(&Place::Path(path.clone()), &access()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_folder_that_others_write_into_is_refused() {
        let (folder, path) = folder();
        let bound = |mode| {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            bind(&Place::Path(path.clone()), &access())
        };
        for (mode, who) in [(0o777, "everybody"), (0o1777, "everybody"), (0o770, "its group"), (0o2775, "its group")] {
            let error = bound(mode).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains(who) && error.to_string().contains("chmod go-w"), "{error}");
        }
        // As systemd's RuntimeDirectoryMode= and tmpfiles.d make it.
        for mode in [0o700, 0o750, 0o2750, 0o755] {
            drop(bound(mode).unwrap());
        }
        let error = bind(&Place::Path("/nowhere/kms.sock".into()), &access()).unwrap_err();
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }

    #[test]
    fn a_folder_is_the_plugin_s_or_root_s() {
        let strange = |owner, own| strange(Path::new("/run/kms"), owner, own);
        assert!(strange(0, 18796).is_none() && strange(18796, 18796).is_none() && strange(0, 0).is_none());
        for own in [0, 18796] {
            assert!(strange(1000, own).unwrap().contains("user 1000 owns /run/kms"), "{own}");
        }
    }

    #[test]
    fn places_have_one_form() {
        assert_eq!("@bulla".parse(), Ok(Place::Abstract("bulla".into())));
        assert_eq!("/run/k.sock".parse(), Ok(Place::Path("/run/k.sock".into())));
        for bad in ["", "@", "k.sock", "unix:///run/k.sock", &format!("/{}", "k".repeat(110))] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
