//! Where a token's PIN comes from.

use bulla_crypto::secret::SecretBytes;
use bulla_crypto::secret::file::{Exposed, judge};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest PIN. Tokens take far less; a longer line is the wrong file.
const MAX_PIN_BYTES: u64 = 1024;

/// Gives the PIN of the token with this label and serial. It is asked once for each token.
pub type AskPin<'a> = &'a dyn Fn((&str, &str)) -> Result<SecretBytes, PinError>;

/// Why there is no PIN.
#[derive(Debug)]
pub enum PinError {
    /// Nothing says where it is, and nobody can be asked.
    NoSource {
        /// The token's label.
        token: String,
    },
    /// The file with the PIN cannot be read.
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Others on this machine can read the file.
    Mode {
        /// Which file.
        path: PathBuf,
        /// Who can.
        exposed: Exposed,
    },
    /// The file's first line is empty or too long.
    NoPin {
        /// Which file.
        path: PathBuf,
    },
    /// One file, and several tokens to try it on.
    SeveralTokens {
        /// The label of the second token.
        token: String,
    },
    /// The person who was asked gave none.
    Cancelled,
    /// The program that asks failed.
    Pinentry(String),
    /// The program that asks gave no answer.
    TimedOut {
        /// Which program.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// The terminal failed.
    Terminal(io::Error),
}

impl PinError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSource { .. } => {
                "add ?pin-source=file:/PATH to the URI, give --pin-file FILE or --pinentry PROGRAM, or run it at a terminal"
            }
            Self::File { .. } => "check the path and whose file it is",
            Self::Mode { exposed: Exposed::Others, .. } => "take the right to read it from others: chmod o-rwx",
            Self::Mode { exposed: Exposed::Group, .. } => {
                "chmod 600; a group may only read what root owns, and only for a process that is not root (chmod 440, chown root)"
            }
            Self::Mode { exposed: Exposed::GroupBesideRoot, .. } => {
                "chmod 400; or, if it is meant for a service whose group this is, run this as the user of that service"
            }
            Self::NoPin { .. } => "the PIN is the file's first line",
            Self::SeveralTokens { .. } => "name each token's own file with pin-source= in its URI",
            Self::Cancelled => "run it again, and give the PIN",
            Self::Pinentry(_) => "check the program that --pinentry names",
            Self::TimedOut { .. } => {
                "run it again, and give the PIN where the program asks; check what --pinentry names"
            }
            Self::Terminal(_) => "give --pin-file FILE",
        }
    }
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSource { token } => write!(f, "token {token:?} needs its PIN"),
            Self::File { path, cause } => write!(f, "cannot read {}: {cause}", path.display()),
            Self::Mode { path, exposed: Exposed::Others } => {
                write!(f, "everybody here can read the PIN in {}", path.display())
            }
            Self::Mode { path, .. } => write!(f, "the group of {} can read the PIN in it", path.display()),
            Self::NoPin { path } => write!(f, "there is no PIN in {}", path.display()),
            Self::SeveralTokens { token } => {
                write!(f, "the PIN in the file was for another token, so it is not tried on {token:?}")
            }
            Self::Cancelled => f.write_str("no PIN was given"),
            Self::Pinentry(what) => write!(f, "cannot ask for the PIN: {what}"),
            Self::TimedOut { program, limit } => write!(f, "{program} gave no PIN within {} s", limit.as_secs()),
            Self::Terminal(cause) => write!(f, "cannot ask for the PIN: {cause}"),
        }
    }
}

impl std::error::Error for PinError {}

/// Reads the PIN from a file's first line. A group may read the file if a service manager handed it over so ([`judge`]).
///
/// # Errors
/// [`PinError`].
pub fn read(path: &Path) -> Result<SecretBytes, PinError> {
    let failed = |cause| PinError::File { path: path.into(), cause };
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    judge(found.uid(), found.mode(), rustix::process::geteuid().as_raw())
        .map_err(|exposed| PinError::Mode { path: path.into(), exposed })?;
    first_line(file).map_err(failed)?.ok_or_else(|| PinError::NoPin { path: path.into() })
}

/// The first line of what such a file holds; `None` if it is empty or too long.
///
/// # Errors
/// That of the reader.
pub fn first_line(file: impl Read) -> io::Result<Option<SecretBytes>> {
    // Room for all of it from the start: a growing buffer would leave copies behind.
    let mut bytes = SecretBytes::new(Vec::with_capacity(2 * MAX_PIN_BYTES as usize));
    // The longest PIN, and the end of its line.
    file.take(MAX_PIN_BYTES + 2).read_to_end(bytes.expose_mut())?;
    let read = bytes.expose().len() as u64;
    let end = bytes.expose().iter().position(|byte| *byte == b'\n');
    // Else the return that happens to stand last would be taken off a longer line, and the rest of it for the PIN.
    if end.is_none() && read > MAX_PIN_BYTES + 1 {
        return Ok(None);
    }
    bytes.expose_mut().truncate(end.unwrap_or(usize::MAX));
    if bytes.expose().ends_with(b"\r") {
        bytes.expose_mut().pop();
    }
    let length = bytes.expose().len() as u64;
    Ok((1..=MAX_PIN_BYTES).contains(&length).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_first_line_of_a_file_that_nobody_else_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let with = |content: &[u8], mode| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read(&path).map(|pin| pin.expose().clone())
        };
        for (content, pin) in [("1234\n", "1234"), ("1234", "1234"), ("12 34\r\nmore\n", "12 34")] {
            assert_eq!(with(content.as_bytes(), 0o600).unwrap(), pin.as_bytes());
            assert_eq!(with(content.as_bytes(), 0o400).unwrap(), pin.as_bytes());
        }
        assert!(matches!(with(b"1234\n", 0o604), Err(PinError::Mode { exposed: Exposed::Others, .. })));
        // Whether root or somebody else runs this: it is not handed over.
        assert!(matches!(with(b"1234\n", 0o440), Err(PinError::Mode { .. })));
        for none in [b"".as_slice(), b"\n1234", &[b'1'; 1025]] {
            assert!(matches!(with(none, 0o600), Err(PinError::NoPin { .. })));
        }
        assert!(matches!(read(&folder.path().join("none")), Err(PinError::File { .. })));
    }

    /// Where a line is longer than any PIN, no part of it is one: the token would count it as a try.
    #[test]
    fn a_line_that_is_too_long_is_no_pin_wherever_it_is_cut() {
        let longest = [b'1'; MAX_PIN_BYTES as usize];
        let with = |rest: &[u8]| first_line([&longest[..], rest].concat().as_slice()).unwrap();
        for end in [&b""[..], b"\r", b"\n", b"\r\n", b"\nmore", b"\r\nmore"] {
            assert_eq!(with(end).map(|pin| pin.expose().clone()), Some(longest.to_vec()), "{end:?}");
        }
        for more in [&b"1"[..], b"\r1", b"\r\r\n", b"1\r\n", b"\r1\n", b"1\n"] {
            assert!(with(more).is_none(), "{more:?}");
        }
    }
}
