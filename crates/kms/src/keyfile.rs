//! Key files: key-encryption keys that all nodes share, encrypted by age to each node (`spec/kms-keyfile.md`).
//!
//! Held: who is no node learns nothing of the keys, and a file that does not continue the one before it is told
//! ([`KeyFile::continues`]), so nobody who lacks the keys can put others in their place under a running node. Not held: age
//! does not say who made a file, so what a node starts with is whatever lies there.

mod text;

use bulla_crypto::digest::equal;
use bulla_crypto::envelope::{self, Decrypter, OpenError, SealError};
use bulla_crypto::kdf::derive;
use bulla_crypto::random::{Rng, draw, secret_key};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::{SecretBytes, SecretKey};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// Largest file in bytes: the largest content, and a stanza for each node.
pub const MAX_FILE_BYTES: usize = 512 * 1024;
/// Largest content in bytes: 64 nodes with recipients of 2,015 characters, 64 keys.
const MAX_TEXT_BYTES: usize = 160 * 1024;
/// How many nodes a file may have.
pub const MAX_NODES: usize = 64;
/// How many keys a file may hold. One a month fills it in five years; those that nothing is encrypted by can be dropped.
pub const MAX_KEYS: usize = 64;
const MAX_NAME_CHARS: usize = 63;
/// The last second of the year 9999, so that a time is no millisecond by mistake.
const MAX_TIME: u64 = 253_402_300_799;
const ID_BYTES: usize = 16;
/// Bytes of a check value.
const CHECK_BYTES: usize = 16;

/// Why there is no key file, or why it is not changed so. Nothing of a key is in it.
#[derive(Debug)]
pub enum KeyFileError {
    /// Larger than [`MAX_FILE_BYTES`].
    TooLarge,
    /// It does not open.
    Open(OpenError),
    /// It cannot be encrypted.
    Seal(SealError),
    /// A line of the content is not what it must be.
    Line {
        /// Its number, from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// A node's name.
    Name,
    /// There is a node of that name, or with that recipient, or too many.
    Node(&'static str),
    /// There is no node of that name.
    NoNode,
    /// It would be left without a node, or without a key.
    Last,
    /// The key to encrypt by now would go.
    InUse,
    /// It would have too many keys.
    TooManyKeys,
    /// The time of a key is before that of the key before it, or none.
    Time,
    /// The file does not continue the one before it; in which way.
    Another(&'static str),
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "it has more than {MAX_FILE_BYTES} bytes, so it is no key file"),
            Self::Open(OpenError::NoMatch) => {
                f.write_str("it is not encrypted to this node: enrol the node's recipient")
            }
            Self::Open(error) => error.fmt(f),
            Self::Seal(error) => error.fmt(f),
            Self::Line { line, expected } => write!(f, "line {line} of its content should be {expected}"),
            Self::Name => write!(
                f,
                "a node's name has 1 to {MAX_NAME_CHARS} small letters, digits, dots and hyphens, and begins with a letter or digit"
            ),
            Self::Node(why) => f.write_str(why),
            Self::NoNode => f.write_str("there is no node of that name"),
            Self::Last => f.write_str("a key file has at least one node and one key"),
            Self::InUse => f.write_str("the key that is in use now stays, and every key after it"),
            Self::TooManyKeys => {
                write!(f, "a key file has at most {MAX_KEYS} keys: drop those that nothing is encrypted by")
            }
            Self::Time => f.write_str("a key begins no earlier than the key before it, and at a time in Unix seconds"),
            Self::Another(how) => f.write_str(how),
        }
    }
}

impl std::error::Error for KeyFileError {}

/// A node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName(String);

impl NodeName {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = KeyFileError;

    fn from_str(text: &str) -> Result<Self, KeyFileError> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins && text.len() <= MAX_NAME_CHARS && text.bytes().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyFileError::Name)
        }
    }
}

/// Who opens the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, for people.
    pub name: NodeName,
    /// What the file is encrypted to for it.
    pub recipient: Recipient,
}

/// A key-encryption key.
pub struct Kek {
    /// Its number; the first is 1, and a later key has a higher one.
    pub number: NonZeroU32,
    /// When it was made, in Unix seconds.
    pub created: u64,
    /// From when on it is the one to encrypt by, in Unix seconds.
    pub begins: u64,
    key: SecretKey,
}

impl Kek {
    /// The key.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// What tells it from every other key of the same file and number: 16 bytes that are derived from the key, for that alone.
    pub fn check(&self, id: &FileId) -> [u8; CHECK_BYTES] {
        let number = self.number.get().to_be_bytes();
        let derived = derive(self.key.expose(), "kms/key-file/check", &[&id.0, &number]);
        let mut check = [0; CHECK_BYTES];
        check.iter_mut().zip(derived.expose()).for_each(|(to, from)| *to = *from);
        check
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kek({})", self.number)
    }
}

/// What names a key file, whatever is in it: 16 random bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileId([u8; ID_BYTES]);

/// A key file that is open.
#[derive(Debug)]
pub struct KeyFile {
    id: FileId,
    nodes: Vec<Node>,
    keys: Vec<Kek>,
}

impl KeyFile {
    /// Makes one with a first key, for these nodes. `now` is in Unix seconds.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn create(nodes: Vec<Node>, now: u64, rng: &mut dyn Rng) -> Result<Self, KeyFileError> {
        let mut file = Self { id: FileId(draw(rng)), nodes: Vec::new(), keys: Vec::new() };
        for node in nodes {
            file.enrol(node)?;
        }
        if file.nodes.is_empty() {
            return Err(KeyFileError::Last);
        }
        file.rotate(now, now, rng)?;
        Ok(file)
    }

    /// Opens one with a node's identity.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub async fn open(file: &[u8], decrypter: &dyn Decrypter) -> Result<Self, KeyFileError> {
        if file.len() > MAX_FILE_BYTES {
            return Err(KeyFileError::TooLarge);
        }
        let opened = envelope::open(&[decrypter], file, MAX_TEXT_BYTES).await.map_err(KeyFileError::Open)?;
        text::parse(opened.plaintext.expose())
    }

    /// Encrypts it to its nodes.
    ///
    /// # Errors
    /// [`KeyFileError::Seal`].
    pub fn seal(&self) -> Result<Vec<u8>, KeyFileError> {
        let to: Vec<Recipient> = self.nodes.iter().map(|node| node.recipient.clone()).collect();
        envelope::seal(&to, None, text::write(self).expose()).map_err(KeyFileError::Seal)
    }

    /// Reads the content, as it is before it is encrypted: for the fuzz target, as files are opened by [`KeyFile::open`].
    ///
    /// # Errors
    /// [`KeyFileError::Line`].
    #[doc(hidden)]
    pub fn parse_content(content: &[u8]) -> Result<Self, KeyFileError> {
        text::parse(content)
    }

    /// The content that [`KeyFile::parse_content`] reads.
    #[doc(hidden)]
    pub fn content(&self) -> SecretBytes {
        text::write(self)
    }

    /// What names it.
    pub fn id(&self) -> &FileId {
        &self.id
    }

    /// Who opens it.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its keys by number.
    pub fn keys(&self) -> &[Kek] {
        &self.keys
    }

    /// The key to encrypt by at this time: the last that has begun, or the first if none has.
    pub fn active(&self, now: u64) -> Option<&Kek> {
        self.keys.iter().rev().find(|kek| kek.begins <= now).or(self.keys.first())
    }

    /// Adds a node: from now on the file is encrypted to it too.
    ///
    /// # Errors
    /// [`KeyFileError::Node`] if its name or recipient is there, or it is of another kind than the others.
    pub fn enrol(&mut self, node: Node) -> Result<(), KeyFileError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(KeyFileError::Node("a key file has at most 64 nodes"));
        }
        if self.nodes.iter().any(|other| other.name == node.name) {
            return Err(KeyFileError::Node("there is a node of that name"));
        }
        if self.nodes.iter().any(|other| other.recipient == node.recipient) {
            return Err(KeyFileError::Node("there is a node with that recipient"));
        }
        if self.nodes.iter().any(|other| other.recipient.is_hybrid() != node.recipient.is_hybrid()) {
            return Err(KeyFileError::Node(
                "recipients are hybrid (age1pq1…, age1tagpq1…) for all nodes, or for none: whoever has a quantum computer would take \
                 the weakest",
            ));
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Takes a node out. It knows the keys that there are: rotate afterwards, and encrypt anew what was encrypted by them.
    ///
    /// # Errors
    /// [`KeyFileError::NoNode`], and [`KeyFileError::Last`].
    pub fn remove(&mut self, name: &NodeName) -> Result<(), KeyFileError> {
        let rest: Vec<Node> = self.nodes.iter().filter(|node| node.name != *name).cloned().collect();
        if rest.len() == self.nodes.len() {
            return Err(KeyFileError::NoNode);
        }
        if rest.is_empty() {
            return Err(KeyFileError::Last);
        }
        self.nodes = rest;
        Ok(())
    }

    /// Adds a key, by which all nodes encrypt from `begins` on, in Unix seconds: time to copy the file to all of them.
    ///
    /// # Errors
    /// [`KeyFileError::Time`] if it begins before it is made, or before the key before it.
    pub fn rotate(&mut self, now: u64, begins: u64, rng: &mut dyn Rng) -> Result<NonZeroU32, KeyFileError> {
        let last = self.keys.last();
        let number = last.map_or(Some(NonZeroU32::MIN), |last| last.number.checked_add(1));
        let number = number.ok_or(KeyFileError::TooManyKeys)?;
        if begins < now || begins > MAX_TIME || last.is_some_and(|last| begins < last.begins || now < last.created) {
            return Err(KeyFileError::Time);
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(KeyFileError::TooManyKeys);
        }
        self.keys.push(Kek { number, created: now, begins, key: secret_key(rng) });
        Ok(number)
    }

    /// Drops the keys before `number`. What was encrypted by them is lost.
    ///
    /// # Errors
    /// [`KeyFileError::InUse`] if the key that is active now would go.
    pub fn drop_before(&mut self, number: NonZeroU32, now: u64) -> Result<(), KeyFileError> {
        if self.active(now).is_none_or(|active| active.number < number) {
            return Err(KeyFileError::InUse);
        }
        self.keys.retain(|kek| kek.number >= number);
        Ok(())
    }

    /// Whether this file may take the place of `earlier` in a running node: it is the same file, holds the newest key of
    /// the earlier one, and gives no key another value. Only who knew that key can have made it.
    ///
    /// # Errors
    /// [`KeyFileError::Another`].
    pub fn continues(&self, earlier: &Self) -> Result<(), KeyFileError> {
        if self.id != earlier.id {
            return Err(KeyFileError::Another("it is another key file: its id is another"));
        }
        for kek in &earlier.keys {
            let same = self.keys.iter().find(|own| own.number == kek.number);
            if same.is_some_and(|own| !equal(own.key.expose(), kek.key.expose())) {
                return Err(KeyFileError::Another("a key of the same number has another value"));
            }
        }
        let newest = earlier.keys.last().map(|kek| kek.number);
        if self.keys.iter().any(|kek| Some(kek.number) == newest) {
            Ok(())
        } else {
            Err(KeyFileError::Another("it is older, or was made without the newest key"))
        }
    }
}
