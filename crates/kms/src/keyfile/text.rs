//! The content of a key file: lines, in one spelling.

use super::{FileId, ID_BYTES, Kek, KeyFile, KeyFileError, MAX_KEYS, MAX_NODES, MAX_TEXT_BYTES, MAX_TIME, Node};
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_wire::encoding::{base32, base32_decode, base64url, base64url_decode};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::str::Split;

const FIRST_LINE: &str = "bulla kms key file v1";
const ID_LINE: &str = "\"id: \" and 26 digits of base32";
const NODE_LINE: &str = "\"node: NAME RECIPIENT\", each node once";
const KEY_LINE: &str = "\"key: NUMBER CREATED BEGINS KEY\", numbers and times ascending";
const END: &str = "the end of the last line, with a line feed";
const LIMIT: &str = "absent: there are too many";

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

/// The content.
pub(super) fn write(file: &KeyFile) -> SecretBytes {
    // Room for all of it from the start: a growing buffer would leave copies behind.
    let mut text = SecretBytes::new(Vec::with_capacity(MAX_TEXT_BYTES));
    let out = text.expose_mut();
    out.extend(format!("{FIRST_LINE}\nid: {}\n", file.id).bytes());
    for node in &file.nodes {
        out.extend(format!("node: {} {}\n", node.name.as_str(), node.recipient).bytes());
    }
    for kek in &file.keys {
        out.extend(format!("key: {} {} {} ", kek.number, kek.created, kek.begins).bytes());
        let key = SecretBytes::new(base64url(kek.key.expose()).into_bytes());
        out.extend_from_slice(key.expose());
        out.push(b'\n');
    }
    text
}

/// Reads what [`write`] wrote, and nothing else.
pub(super) fn parse(bytes: &[u8]) -> Result<KeyFile, KeyFileError> {
    let text = std::str::from_utf8(bytes).map_err(|_| wrong(1, FIRST_LINE))?;
    let mut lines = Lines { rest: text.split('\n'), line: 0 };
    if lines.next() != Some(FIRST_LINE) {
        return Err(wrong(1, FIRST_LINE));
    }
    let id = lines.next().and_then(|line| line.strip_prefix("id: ")).and_then(base32_decode);
    let id: Option<[u8; ID_BYTES]> = id.and_then(|id| id.try_into().ok());
    let id = FileId(id.ok_or(wrong(2, ID_LINE))?);
    let mut file = KeyFile { id, nodes: Vec::new(), keys: Vec::new() };
    let mut line = lines.next();
    while let Some(node) = line.and_then(|line| line.strip_prefix("node: ")) {
        if file.nodes.len() >= MAX_NODES {
            return Err(wrong(lines.line, LIMIT));
        }
        file.enrol(read_node(node).ok_or(wrong(lines.line, NODE_LINE))?).map_err(|_| wrong(lines.line, NODE_LINE))?;
        line = lines.next();
    }
    if file.nodes.is_empty() {
        return Err(wrong(lines.line, NODE_LINE));
    }
    while let Some(key) = line.and_then(|line| line.strip_prefix("key: ")) {
        if file.keys.len() >= MAX_KEYS {
            return Err(wrong(lines.line, LIMIT));
        }
        let kek = read_key(key).filter(|kek| {
            file.keys
                .last()
                .is_none_or(|last| last.number < kek.number && last.created <= kek.created && last.begins <= kek.begins)
        });
        file.keys.push(kek.ok_or(wrong(lines.line, KEY_LINE))?);
        line = lines.next();
    }
    if file.keys.is_empty() {
        return Err(wrong(lines.line, KEY_LINE));
    }
    // What follows the last line feed is nothing.
    if line == Some("") && lines.next().is_none() { Ok(file) } else { Err(wrong(lines.line, END)) }
}

fn read_node(line: &str) -> Option<Node> {
    let (name, recipient) = line.split_once(' ')?;
    Some(Node { name: name.parse().ok()?, recipient: recipient.parse().ok()? })
}

fn read_key(line: &str) -> Option<Kek> {
    let mut words = line.split(' ');
    let (number, created, begins) = (words.next()?, words.next()?, words.next()?);
    let key = SecretBytes::new(base64url_decode(words.next()?)?);
    let (number, created, begins) = (decimal::<NonZeroU32>(number)?, decimal(created)?, decimal(begins)?);
    let ordered = created <= begins && begins <= MAX_TIME && words.next().is_none();
    let key = SecretKey::from_slice(key.expose()).filter(|_| ordered)?;
    Some(Kek { number, created, begins, key })
}

/// A number in its one spelling.
fn decimal<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

fn wrong(line: usize, expected: &'static str) -> KeyFileError {
    KeyFileError::Line { line, expected }
}

struct Lines<'a> {
    rest: Split<'a, char>,
    /// The number of the last line that was taken.
    line: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.line = self.line.saturating_add(1);
        self.rest.next()
    }
}
