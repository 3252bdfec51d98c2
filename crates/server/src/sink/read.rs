//! Reading a log that may be written meanwhile: verification and search.

use super::files::{Layout, Raw, read_line};
use bulla_core::audit::{AuditBlocked, Expectations, LINE_BYTES_MAX, Line, Report, Verifier};
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

/// Why lines could not be read, or written again.
#[derive(Debug)]
pub enum LogError {
    /// The files cannot be read.
    Read(io::Error),
    /// The log takes no lines.
    Blocked(AuditBlocked),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_) => f.write_str("cannot read the audit log"),
            Self::Blocked(_) => f.write_str("cannot write recovered lines to the audit log"),
        }
    }
}
impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Blocked(error) => Some(error),
        }
    }
}

/// One line with its bytes as they stand in the file.
#[derive(Debug, Clone)]
pub struct FileLine {
    /// Number of the file.
    pub file: u32,
    /// The bytes, without the newline.
    pub bytes: Vec<u8>,
    /// What they say.
    pub line: Line,
}

/// A directory holds many files, anything else is one.
fn layout(path: &Path) -> Layout {
    if path.is_dir() { Layout::Directory(path.to_owned()) } else { Layout::Single(path.to_owned()) }
}

/// Judges the files of a directory, or one file.
///
/// A node that writes meanwhile may be within its last line, which then shows as `cut`; ask again.
pub fn verify(path: &Path, expected: Expectations) -> io::Result<Report> {
    let layout = layout(path);
    let mut verifier = Verifier::new(expected);
    let numbers = layout.numbers()?;
    if numbers.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no audit file"));
    }
    for number in numbers {
        verifier.file(number);
        let mut reader = BufReader::with_capacity(64 * 1024, File::open(layout.path(number))?);
        while let Some(raw) = read_line(&mut reader)? {
            match raw {
                Raw::Line(bytes) => verifier.line(&bytes),
                // A piece of a line that is too long; each piece is reported.
                Raw::Unterminated(bytes) if bytes.len() > LINE_BYTES_MAX => verifier.line(&bytes),
                Raw::Unterminated(bytes) => verifier.unterminated(&bytes),
            }
        }
    }
    Ok(verifier.finish())
}

/// Calls `take` with every line that can be read and has a number above `after`, oldest first, until it says
/// `false`. Lines that cannot be read are the business of [`verify`].
pub fn lines(path: &Path, after: u64, mut take: impl FnMut(FileLine) -> bool) -> io::Result<()> {
    let layout = layout(path);
    let numbers = layout.numbers()?;
    let mut begin = 0;
    // The last file that begins at or before the line that is asked for.
    for (index, number) in numbers.iter().enumerate().rev() {
        let mut reader = BufReader::new(File::open(layout.path(*number))?);
        if let Some(Raw::Line(bytes)) = read_line(&mut reader)?
            && Line::parse(&bytes).is_ok_and(|line| line.n <= after.saturating_add(1))
        {
            begin = index;
            break;
        }
    }
    for number in numbers.into_iter().skip(begin) {
        let mut reader = BufReader::with_capacity(64 * 1024, File::open(layout.path(number))?);
        while let Some(raw) = read_line(&mut reader)? {
            let Raw::Line(bytes) = raw else { continue };
            let Ok(line) = Line::parse(&bytes) else { continue };
            if line.n > after && !take(FileLine { file: number, bytes, line }) {
                return Ok(());
            }
        }
    }
    Ok(())
}
