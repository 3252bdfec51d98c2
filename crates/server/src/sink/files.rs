//! The files of a log: finding them, reading them, and what is done about their end before a node writes on.

use super::OpenError;
use super::disk::{create_directory, open_append, sync_directory};
use bulla_core::audit::{AuditPosition, Body, Chain, LINE_BYTES_MAX, Label, Line, Quote, RequestId, line_hash};
use rustix::fs::FlockOperation;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::hash::Hash;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How far before the end of what the store remembers is searched first for the last quoted commit. Outcomes are
/// written almost in the order of their commits, so this much holds the highest of the newest lineage.
const SEARCH_BYTES: u64 = 1024 * 1024;
/// What every line that quotes a commit contains.
const MARK: &str = "\"sequence\":";
/// What every line contains that tells of lost lines.
const LOSS_MARK: &str = "\"loss";

/// So many bytes hold the line that ends there, and the newlines around it.
const LAST_LINE_BYTES: u64 = LINE_BYTES_MAX as u64 + 2;

/// Where the files lie.
#[derive(Debug, Clone)]
pub(super) enum Layout {
    /// `000001.jsonl`, `000002.jsonl`, … in this directory.
    Directory(PathBuf),
    /// One file that somebody else named. Its number is 1.
    Single(PathBuf),
}

impl Layout {
    /// The directory, or the one file.
    pub(super) fn place(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Single(path) => path,
        }
    }

    /// The path of a file by its number.
    pub(super) fn path(&self, number: u32) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(format!("{number:06}.jsonl")),
            Self::Single(path) => path.clone(),
        }
    }

    /// The numbers of the files that are there, in order.
    pub(super) fn numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        match self {
            Self::Directory(directory) => {
                for entry in fs::read_dir(directory)? {
                    let name = entry?.file_name();
                    let number = name.to_str().and_then(|name| name.strip_suffix(".jsonl")).filter(|n| n.len() >= 6);
                    numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
                }
            }
            Self::Single(path) => {
                if path.try_exists()? {
                    numbers.push(1);
                }
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// One line as it lies in a file.
pub(super) enum Raw {
    /// Without its newline.
    Line(Vec<u8>),
    /// Bytes that no newline ends, or more than a line can have: at most one byte more than the limit is kept.
    Unterminated(Vec<u8>),
}

/// Reads the next line; nothing at the end.
pub(super) fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Raw>> {
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
    Ok(match bytes.pop() {
        None => None,
        Some(b'\n') => Some(Raw::Line(bytes)),
        Some(last) => {
            bytes.push(last);
            Some(Raw::Unterminated(bytes))
        }
    })
}

/// What is known about a log before the first new line is written.
pub(super) struct Found {
    /// The number of the file to write to.
    pub(super) number: u32,
    /// The last line.
    pub(super) chain: Chain,
    /// The last quoted commit.
    pub(super) quoted: Option<Quote>,
    /// Lines were lost, and the cluster was not unsealed since.
    pub(super) loss: bool,
    /// What has to be written before anything else.
    pub(super) notes: Vec<Body>,
}

/// How the log is opened.
pub(super) struct Search<'a> {
    pub(super) layout: &'a Layout,
    pub(super) head: Option<AuditPosition>,
    pub(super) accept_loss: bool,
    pub(super) now_ms: u64,
}

/// A place in the files, with the chain up to there. Without a chain the next line is trusted to follow.
struct Cursor {
    number: u32,
    offset: u64,
    chain: Option<Chain>,
    quoted: Option<Quote>,
    loss: bool,
    /// The last line says that the node stopped in order.
    stopped: bool,
    /// Lines read since the cursor was made.
    lines: u64,
}

/// Where and why the walk along the chain ended early.
struct Broken {
    detail: String,
    /// Nothing but a crash explains it: the end is not a whole line, or holds zeros where data never arrived.
    torn: bool,
}

impl Search<'_> {
    /// Finds the end of the log, and repairs what a crash may have left there.
    pub(super) fn run(self) -> Result<Found, OpenError> {
        if let Layout::Directory(directory) = self.layout {
            create_directory(directory).map_err(OpenError::io("make", directory))?;
        }
        let any = self.layout.path(1);
        let numbers = self.layout.numbers().map_err(OpenError::io("list", any.parent().unwrap_or(&any)))?;
        let mut notes = Vec::new();
        let Some(mut cursor) = self.start(&numbers, &mut notes)? else {
            let number = self.head.map_or(1, |head| head.file.saturating_add(1));
            let number = if matches!(self.layout, Layout::Single(_)) { 1 } else { number };
            let loss = !notes.is_empty();
            return Ok(Found { number, chain: Chain::default(), quoted: None, loss, notes });
        };
        let torn = self.walk(&mut cursor, &numbers, &mut notes)?;
        let chain = cursor.chain.unwrap_or_default();
        let loss = cursor.loss || notes.iter().any(|note| note.tells_loss() == Some(true));
        if chain.n > 0 && !cursor.stopped && (torn || self.head.is_some() && cursor.lines == 0) {
            notes.push(Body::TailLost { from_ms: chain.at_ms, to_ms: self.now_ms });
        }
        Ok(Found { number: cursor.number, chain, quoted: cursor.quoted, loss, notes })
    }

    /// The line that the store remembers, or the beginning of the last file. Nothing if there are no files.
    fn start(&self, numbers: &[u32], notes: &mut Vec<Body>) -> Result<Option<Cursor>, OpenError> {
        if let Some(head) = self.head {
            let found = if numbers.contains(&head.file) {
                let path = self.layout.path(head.file);
                self.at_head(&head).map_err(OpenError::io("read", &path))?
            } else {
                Err(format!("there is no {}", self.layout.path(head.file).display()))
            };
            match found {
                Ok(cursor) => return Ok(Some(cursor)),
                Err(found) => self.loss(OpenError::AuditLoss { expected: head, found }, notes)?,
            }
        }
        // A crash between making a file and writing to it leaves it empty.
        let filled = numbers.iter().rev().find(|number| !self.is_empty(**number));
        let Some(&number) = filled.or(numbers.last()) else { return Ok(None) };
        Ok(Some(Cursor { number, offset: 0, chain: None, quoted: None, loss: false, stopped: false, lines: 0 }))
    }

    fn is_empty(&self, number: u32) -> bool {
        fs::metadata(self.layout.path(number)).is_ok_and(|metadata| metadata.len() == 0)
    }

    /// After a loss within or between the files before it: the log goes on in the last file, whose first line is
    /// trusted, as nothing before can vouch for it.
    fn skip_to(&self, last: u32, cursor: &mut Cursor) {
        let chain = cursor.chain.filter(|_| self.is_empty(last));
        *cursor = Cursor { number: last, offset: 0, chain, stopped: false, ..*cursor };
    }

    /// Goes on after a loss if that was asked for, and says so in the log.
    fn loss(&self, error: OpenError, notes: &mut Vec<Body>) -> Result<(), OpenError> {
        if !self.accept_loss {
            return Err(error);
        }
        notes.push(Body::LossAccepted {
            reason: Label::lossy(&error.to_string()),
            expected_n: self.head.map(|head| head.n),
            expected: self.head.map(|head| head.hash),
        });
        Ok(())
    }

    /// Looks whether the line that the store remembers is there.
    fn at_head(&self, head: &AuditPosition) -> io::Result<Result<Cursor, String>> {
        let mut file = File::open(self.layout.path(head.file))?;
        let length = file.metadata()?.len();
        if length < head.offset {
            return Ok(Err(format!("file {:06} has only {length} bytes", head.file)));
        }
        let Some(bytes) = line_before(&mut file, head.offset)? else {
            return Ok(Err("no line ends there".into()));
        };
        if line_hash(&bytes) != head.hash {
            return Ok(Err(format!("the line that ends there is another one, {}", line_hash(&bytes))));
        }
        let line = match Line::parse(&bytes) {
            Ok(line) if line.n == head.n => line,
            Ok(line) => return Ok(Err(format!("the line that ends there has number {}", line.n))),
            Err(error) => return Ok(Err(format!("the line that ends there is no line: {error}"))),
        };
        let mut chain = Chain::default();
        chain.advance(&line, &bytes);
        let (quoted, loss) = told_before(&mut file, head.offset)?;
        let stopped = matches!(line.body, Body::Stop {});
        Ok(Ok(Cursor { number: head.file, offset: head.offset, chain: Some(chain), quoted, loss, stopped, lines: 0 }))
    }

    /// Follows the chain to the end of the last file. Says whether a torn end was moved aside.
    fn walk(&self, cursor: &mut Cursor, numbers: &[u32], notes: &mut Vec<Body>) -> Result<bool, OpenError> {
        let last = numbers.last().copied().unwrap_or(cursor.number);
        loop {
            let path = self.layout.path(cursor.number);
            let broken = follow(cursor, &path).map_err(OpenError::io("read", &path))?;
            if let Some(Broken { detail, torn }) = broken {
                // Files are synced before the next one begins, so only the last can be torn.
                let torn = torn && cursor.number == last;
                if !torn {
                    let error = OpenError::Altered { path: path.clone(), offset: cursor.offset, detail };
                    self.loss(error, notes)?;
                }
                if cursor.number == last {
                    notes.push(move_aside(&path, cursor).map_err(OpenError::io("repair", &path))?);
                    return Ok(torn);
                }
                self.skip_to(last, cursor);
                continue;
            }
            if cursor.number >= last {
                return Ok(false);
            }
            let next = cursor.number.saturating_add(1);
            if numbers.contains(&next) {
                (cursor.number, cursor.offset) = (next, 0);
            } else {
                self.loss(OpenError::MissingFile { path: self.layout.path(next) }, notes)?;
                self.skip_to(last, cursor);
            }
        }
    }
}

/// Follows the chain through one file, from the cursor to its end or to the first line that does not belong.
fn follow(cursor: &mut Cursor, path: &Path) -> io::Result<Option<Broken>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(cursor.offset))?;
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    while let Some(raw) = read_line(&mut reader)? {
        let broken = match raw {
            Raw::Line(bytes) => match Line::parse(&bytes) {
                Ok(line) if cursor.chain.is_none_or(|chain| chain.follows(&line)) => {
                    let mut chain = cursor.chain.unwrap_or_default();
                    chain.advance(&line, &bytes);
                    cursor.chain = Some(chain);
                    cursor.offset = cursor.offset.saturating_add(length_of(&bytes)).saturating_add(1);
                    cursor.quoted = Quote::after(cursor.quoted, &line.body);
                    cursor.loss = line.body.tells_loss().unwrap_or(cursor.loss);
                    cursor.stopped = matches!(line.body, Body::Stop {});
                    cursor.lines = cursor.lines.saturating_add(1);
                    continue;
                }
                Ok(line) => Broken { detail: format!("line {} does not follow", line.n), torn: false },
                Err(error) => Broken { detail: error.to_string(), torn: bytes.contains(&0) },
            },
            Raw::Unterminated(bytes) => Broken {
                detail: "the file does not end with a whole line".into(),
                torn: bytes.len() <= LINE_BYTES_MAX || bytes.contains(&0),
            },
        };
        return Ok(Some(broken));
    }
    Ok(None)
}

/// Moves everything behind the cursor to a file of its own, which nobody deletes.
fn move_aside(path: &Path, cursor: &Cursor) -> io::Result<Body> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = format!("{name}.{}.torn", cursor.offset);
    let aside = path.with_file_name(&name);
    let mut from = File::open(path)?;
    from.seek(SeekFrom::Start(cursor.offset))?;
    let mut to = OpenOptions::new().append(true).create(true).mode(0o600).open(&aside)?;
    let bytes = io::copy(&mut from, &mut to)?;
    to.sync_all()?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        sync_directory(directory)?;
    }
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(cursor.offset)?;
    file.sync_all()?;
    Ok(Body::Torn { file: cursor.number, offset: cursor.offset, bytes, moved_to: Label::lossy(&name) })
}

/// The last quoted commit of the lines before `end`, and whether lines were lost since the last unsealing, searched
/// backwards block by block. Each file of a directory begins with what the ones before told, so one file is enough.
fn told_before(file: &mut File, mut end: u64) -> io::Result<(Option<Quote>, bool)> {
    let (mut quoted, mut loss) = (None, None);
    loop {
        let begin = end.saturating_sub(SEARCH_BYTES);
        let bytes = read_range(file, begin, end)?;
        // The first line of a block is most likely cut, and read with the block before.
        let first = bytes.iter().position(|byte| *byte == b'\n').filter(|_| begin > 0);
        let whole = first.map_or(0, |at| at.saturating_add(1));
        // Every line that tells anything holds one of the marks.
        let lines = bytes.get(whole..).unwrap_or_default().split(|byte| *byte == b'\n');
        let told = lines
            .filter_map(|line| std::str::from_utf8(line).ok())
            .filter(|line| [MARK, LOSS_MARK].iter().any(|mark| line.contains(mark)))
            .filter_map(|line| Line::parse(line.as_bytes()).ok())
            .fold((None, None), |(quoted, loss), Line { body, .. }| {
                (Quote::after(quoted, &body), body.tells_loss().or(loss))
            });
        (quoted, loss) = (quoted.or(told.0), loss.or(told.1));
        if begin == 0 || (quoted.is_some() && loss.is_some()) {
            return Ok((quoted, loss.unwrap_or_default()));
        }
        let before = begin.saturating_add(u64::try_from(whole).unwrap_or(u64::MAX));
        // Where no line begins in a block, none is looked for.
        end = if before < end { before } else { begin };
    }
}

/// Which of these requests, as `of` names them, have a line, in files whose last line is not older than `since_ms`. Where
/// the clock was set back older files have later lines, so each is looked at; the last one is read in any case.
pub(super) fn present<T: Eq + Hash>(
    layout: &Layout,
    wanted: &HashSet<T>,
    since_ms: u64,
    of: fn(RequestId) -> T,
) -> io::Result<HashSet<T>> {
    let mut present = HashSet::new();
    for (age, number) in layout.numbers()?.into_iter().rev().enumerate() {
        let mut file = File::open(layout.path(number))?;
        if age > 0 && last_ms(&mut file)?.is_some_and(|last| last < since_ms) {
            continue;
        }
        file.rewind()?;
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        while let Some(raw) = read_line(&mut reader)? {
            let Raw::Line(bytes) = raw else { continue };
            present.extend(request_id(&bytes).map(of).filter(|one| wanted.contains(one)));
        }
        if present.len() == wanted.len() {
            break;
        }
    }
    Ok(present)
}

/// When the last line of a file was written.
fn last_ms(file: &mut File) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    Ok(line_before(file, length)?.and_then(|line| Line::parse(&line).ok()).map(|line| line.at_ms))
}

/// The line that ends at `end`, without its newline; none if no line ends there.
fn line_before(file: &mut File, end: u64) -> io::Result<Option<Vec<u8>>> {
    let bytes = read_range(file, end.saturating_sub(LAST_LINE_BYTES), end)?;
    let last = bytes.strip_suffix(b"\n").and_then(|bytes| bytes.rsplit(|byte| *byte == b'\n').next());
    Ok(last.map(<[u8]>::to_vec))
}

/// The request id of a line, without parsing the rest.
fn request_id(line: &[u8]) -> Option<RequestId> {
    const BEFORE: &[u8] = b"\"kind\":\"request\",\"id\":\"";
    let at = line.windows(BEFORE.len()).take(256).position(|window| window == BEFORE)?;
    let text = line.get(at.checked_add(BEFORE.len())?..)?.get(..26)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn read_range(file: &mut File, begin: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(begin))?;
    file.take(end.saturating_sub(begin)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A length as it counts in files.
pub(super) fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Opens the file to write to, and says whether it is one that can be read back and synced.
pub(super) fn open_output(layout: &Layout, number: u32) -> io::Result<(File, bool)> {
    let path = layout.path(number);
    let file = open_append(&path, matches!(layout, Layout::Single(_)), false)?;
    let regular = file.metadata()?.is_file();
    if let (true, Some(directory)) = (regular, path.parent().filter(|directory| !directory.as_os_str().is_empty())) {
        sync_directory(directory)?;
    }
    Ok((file, regular))
}

/// Whether a path still names an open file.
pub(super) fn same_file(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

/// Two processes in one directory would break the chain for each other.
pub(super) fn lock_out(layout: &Layout) -> Result<Option<File>, OpenError> {
    let Layout::Directory(directory) = layout else { return Ok(None) };
    super::disk::create_directory(directory).map_err(OpenError::io("make", directory))?;
    let file = File::open(directory).map_err(OpenError::io("open", directory))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(directory.clone())),
        Err(error) => Err(OpenError::io("lock", directory)(error.into())),
    }
}
