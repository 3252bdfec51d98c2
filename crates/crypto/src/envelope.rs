//! Envelopes: age files (`spec/envelope.md`), the form in which every secret is given and taken.
//!
//! ```text
//! age-encryption.org/v1
//! -> mlkem768x25519 <encapsulated key>         one stanza for each recipient, holding the file key
//! <sealed file key>
//! -> bulla-wrap-v1 <wrap> <cluster> <from> <to> at most one: what this envelope was made for
//!
//! --- <MAC over the above, under the file key>
//! <nonce><chunk 0><chunk 1>…                    the payload
//! ```
//!
//! Held: who has no key learns only the length, and the binding, which is not secret; who changes
//! anything is noticed; all recipients are hybrid or all are classical. Not held: an age file does not
//! say who made it. That is what statements are for (`crate::dsse`).

mod header;
mod stream;
mod transit;

pub use header::{FILE_KEY_BYTES, FileKey, MAX_HEADER_BYTES, Stanza, decode_word};
pub use transit::TransitStanza;

use crate::BoxFuture;
use crate::kem::{KemError, TAG_BYTES};
use crate::random::{Rng, SystemRng};
use crate::recipient::Recipient;
use crate::secret::SecretBytes;
use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
use header::{Header, PAYLOAD_NONCE_BYTES};
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use stream::{CHUNK_BYTES, SEALED_CHUNK_BYTES, Stream};
use zeroize::Zeroizing;

/// How many recipients one envelope may have. More would let a small request cost many key agreements.
pub const MAX_RECIPIENTS: usize = 128;
/// The kind of the binding stanza.
const BINDING_KIND: &str = "bulla-wrap-v1";
/// The nonce of the payload is counted to the header, as in the published vectors.
const NO_NONCE: OpenError = OpenError::Header("nothing follows it");
/// The kind of age's passphrase stanza.
const PASSPHRASE_KIND: &str = "scrypt";

/// What a wrap's envelope was made for. The header MAC authenticates it under the file key, and age
/// programs that do not know it ignore it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The wrap.
    pub wrap: WrapId,
    /// The cluster that keeps it.
    pub cluster: ClusterId,
    /// The writer.
    pub from: PrincipalId,
    /// SHA-256 of the list of recipients in the writer's statement (`spec/envelope.md`).
    pub to_sha256: Digest,
}

impl Binding {
    fn stanza(&self) -> Stanza {
        let args =
            vec![self.wrap.to_string(), self.cluster.base64url(), self.from.base64url(), self.to_sha256.base64url()];
        Stanza { kind: BINDING_KIND.to_owned(), args, body: Vec::new() }
    }

    /// The one binding among `stanzas`, if there is one.
    fn find(stanzas: &[Stanza]) -> Result<Option<Self>, OpenError> {
        let mut found = stanzas.iter().filter(|stanza| stanza.kind == BINDING_KIND);
        let Some(stanza) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(OpenError::Binding("there is more than one"));
        }
        Self::parse(stanza).map(Some).ok_or(OpenError::Binding("it is malformed"))
    }

    fn parse(stanza: &Stanza) -> Option<Self> {
        let [wrap, cluster, from, to_sha256] = stanza.args.as_slice() else { return None };
        if !stanza.body.is_empty() {
            return None;
        }
        Some(Self {
            wrap: wrap.parse().ok()?,
            cluster: ClusterId::from_base64url(cluster)?,
            from: PrincipalId::from_base64url(from)?,
            to_sha256: Digest::from_base64url(to_sha256)?,
        })
    }
}

/// Why nothing was sealed.
#[derive(Debug)]
pub enum SealError {
    /// No recipient was named.
    NoRecipient,
    /// More than [`MAX_RECIPIENTS`].
    TooManyRecipients,
    /// Some recipients are hybrid and some are not. A reader with a quantum computer would take the
    /// weakest way in, so the hybrid ones would be deceived.
    MixedRecipients {
        /// The classical recipients.
        classical: Vec<Recipient>,
    },
    /// A key agreement or the library failed.
    Crypto(KemError),
    /// Reading the plaintext or writing the envelope failed. What was written is not an envelope.
    Io(io::Error),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecipient => f.write_str("no recipient is named"),
            Self::TooManyRecipients => write!(f, "more than {MAX_RECIPIENTS} recipients"),
            Self::MixedRecipients { classical } => {
                f.write_str("some recipients are hybrid post-quantum and some are not; not hybrid:")?;
                classical.iter().try_for_each(|recipient| write!(f, " {recipient}"))
            }
            Self::Crypto(error) => write!(f, "sealing failed: {error}"),
            Self::Io(error) => write!(f, "sealing failed: {error}"),
        }
    }
}

impl std::error::Error for SealError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Crypto(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::NoRecipient | Self::TooManyRecipients | Self::MixedRecipients { .. } => None,
        }
    }
}

impl From<KemError> for SealError {
    fn from(error: KemError) -> Self {
        Self::Crypto(error)
    }
}

impl From<io::Error> for SealError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why an envelope did not open.
#[derive(Debug)]
pub enum OpenError {
    /// The header is no well-formed age header; what is wrong with it.
    Header(&'static str),
    /// The file is encrypted to a passphrase. Whoever guesses the passphrase would be a recipient.
    Passphrase,
    /// The binding is malformed, or there are two; which of both.
    Binding(&'static str),
    /// None of the given keys is a recipient.
    NoMatch,
    /// A key fits, but the header was changed after it was made.
    Mac,
    /// The payload was changed, cut short or extended.
    Payload,
    /// The content is larger than the caller takes.
    TooLarge {
        /// The caller's limit in bytes.
        limit: usize,
    },
    /// A key that lives elsewhere (a token, a TPM, an agent) could not be used; what it said.
    Key(String),
    /// The library failed for a reason of its own.
    Crypto(KemError),
    /// Reading the envelope or writing its content failed.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(why) => write!(f, "not a well-formed age file: {why}"),
            Self::Passphrase => f.write_str("passphrase recipients are refused"),
            Self::Binding(why) => write!(f, "the binding of this envelope cannot be used: {why}"),
            Self::NoMatch => f.write_str("no key at hand is a recipient of this envelope"),
            Self::Mac => f.write_str("the header of this envelope was changed"),
            Self::Payload => f.write_str("the content of this envelope was changed or cut short"),
            Self::TooLarge { limit } => write!(f, "the content is larger than {limit} bytes"),
            Self::Key(why) => write!(f, "the key could not be used: {why}"),
            Self::Crypto(error) => write!(f, "opening failed: {error}"),
            Self::Io(error) => write!(f, "opening failed: {error}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Crypto(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<KemError> for OpenError {
    fn from(error: KemError) -> Self {
        Self::Crypto(error)
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whoever can find the file key in a header. Asynchronous, because the key may live in a token.
pub trait Decrypter: Send + Sync {
    /// What is sealed for this decrypter, so that one can tell before a one-time delivery is asked for whether it
    /// could be read. A token knows them from its certificate or public key, without a touch or PIN.
    fn recipients(&self) -> &[Recipient];

    /// The file key, or `None` if no stanza is for this key. A stanza of this decrypter's own kind that
    /// is malformed is [`OpenError::Header`].
    fn unwrap_file_key<'a>(&'a self, stanzas: &'a [Stanza]) -> BoxFuture<'a, Result<Option<FileKey>, OpenError>>;
}

/// An opened envelope.
#[derive(Debug)]
pub struct Opened {
    /// The content.
    pub plaintext: SecretBytes,
    /// The binding, authenticated.
    pub binding: Option<Binding>,
}

/// What a header shows to anybody. Nothing of it is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The kinds of all stanzas in order, the binding's included.
    pub kinds: Vec<String>,
    /// The binding.
    pub binding: Option<Binding>,
    /// The length of the content in bytes.
    pub plaintext_bytes: usize,
}

/// Seals `plaintext` to `recipients`.
pub fn seal(recipients: &[Recipient], binding: Option<&Binding>, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let (mut out, mut stream) = begin(recipients, binding)?;
    let chunks = plaintext.len().div_ceil(CHUNK_BYTES).max(1);
    out.reserve_exact(plaintext.len().saturating_add(chunks.saturating_mul(TAG_BYTES)));
    let mut rest = plaintext;
    loop {
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK_BYTES));
        stream.seal(chunk, after.is_empty(), &mut out)?;
        if after.is_empty() {
            return Ok(out);
        }
        rest = after;
    }
}

/// Seals all that `plaintext` gives into `envelope`, holding two chunks in memory. Returns the number of
/// plaintext bytes. After an error, what was written does not open.
pub fn seal_to(
    recipients: &[Recipient],
    binding: Option<&Binding>,
    plaintext: impl Read,
    envelope: impl Write,
) -> Result<u64, SealError> {
    pour(begin(recipients, binding)?, plaintext, envelope)
}

/// As [`seal_to`], under a file key that somebody keeps in the one stanza. The key must serve this file only.
pub fn seal_under(
    file_key: &FileKey,
    stanza: &Stanza,
    plaintext: impl Read,
    envelope: impl Write,
) -> Result<u64, SealError> {
    pour(under(file_key, std::slice::from_ref(stanza), &mut SystemRng)?, plaintext, envelope)
}

/// Writes the header and all that `plaintext` gives.
fn pour(begun: (Vec<u8>, Stream), mut plaintext: impl Read, mut envelope: impl Write) -> Result<u64, SealError> {
    let (header, mut stream) = begun;
    envelope.write_all(&header)?;
    let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES));
    let mut ahead = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES));
    let mut sealed = Vec::with_capacity(SEALED_CHUNK_BYTES);
    let mut total = 0_u64;
    fill(&mut plaintext, &mut chunk, CHUNK_BYTES)?;
    loop {
        // Only what comes after a full chunk says whether it was the last.
        ahead.clear();
        if chunk.len() == CHUNK_BYTES {
            fill(&mut plaintext, &mut ahead, CHUNK_BYTES)?;
        }
        let last = ahead.is_empty();
        sealed.clear();
        stream.seal(&chunk, last, &mut sealed)?;
        envelope.write_all(&sealed)?;
        total = total.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if last {
            envelope.flush()?;
            return Ok(total);
        }
        std::mem::swap(&mut chunk, &mut ahead);
    }
}

/// The header and payload nonce, and the stream that follows them.
fn begin(recipients: &[Recipient], binding: Option<&Binding>) -> Result<(Vec<u8>, Stream), SealError> {
    if recipients.is_empty() {
        return Err(SealError::NoRecipient);
    }
    if recipients.len() > MAX_RECIPIENTS {
        return Err(SealError::TooManyRecipients);
    }
    let classical: Vec<_> = recipients.iter().filter(|recipient| !recipient.is_hybrid()).cloned().collect();
    if !classical.is_empty() && classical.len() < recipients.len() {
        return Err(SealError::MixedRecipients { classical });
    }
    // The library's own randomness, as for every encapsulation: a file key is never a test's to choose.
    let mut rng = SystemRng;
    let file_key = FileKey::generate(&mut rng);
    let mut stanzas = recipients.iter().map(|to| to.wrap(&file_key)).collect::<Result<Vec<_>, _>>()?;
    stanzas.extend(binding.map(Binding::stanza));
    under(&file_key, &stanzas, &mut rng)
}

/// The header of these stanzas and the payload nonce, and the stream that follows them.
fn under(file_key: &FileKey, stanzas: &[Stanza], rng: &mut dyn Rng) -> Result<(Vec<u8>, Stream), SealError> {
    let mut out = Header::write(stanzas, file_key);
    let mut nonce = [0; PAYLOAD_NONCE_BYTES];
    rng.fill(&mut nonce);
    out.extend_from_slice(&nonce);
    Ok((out, Stream::new(&file_key.payload_key(&nonce))?))
}

/// Reads until `buffer` holds `size` bytes or the source ends.
fn fill(source: &mut impl Read, buffer: &mut Vec<u8>, size: usize) -> io::Result<()> {
    buffer.clear();
    source.by_ref().take(u64::try_from(size).unwrap_or(u64::MAX)).read_to_end(buffer).map(|_| ())
}

/// Opens `file` with the first of `decrypters` that is a recipient, if the content has at most `limit` bytes.
pub async fn open(decrypters: &[&dyn Decrypter], file: &[u8], limit: usize) -> Result<Opened, OpenError> {
    let (header, payload) = Header::parse(file)?;
    let binding = check(&header)?;
    let (nonce, mut rest) = payload.split_first_chunk().ok_or(NO_NONCE)?;
    let file_key = find_file_key(decrypters, &header).await?;
    let size = plaintext_bytes(rest.len()).ok_or(OpenError::Payload)?;
    if size > limit {
        return Err(OpenError::TooLarge { limit });
    }
    let mut stream = Stream::new(&file_key.payload_key(nonce))?;
    // The last tag needs its room while the last chunk is opened in place, and no more is ever written.
    let mut plaintext = SecretBytes::new(Vec::with_capacity(size.saturating_add(TAG_BYTES)));
    loop {
        let (chunk, after) = rest.split_at(rest.len().min(SEALED_CHUNK_BYTES));
        match (stream.open(chunk, plaintext.expose_mut())?, after.is_empty()) {
            (false, false) => rest = after,
            (true, true) => return Ok(Opened { plaintext, binding }),
            // Cut short after a whole chunk, or something after the last.
            (false, true) | (true, false) => return Err(OpenError::Payload),
        }
    }
}

/// Opens what `envelope` gives into `content`, a chunk at a time, and returns the binding.
///
/// **`content` receives true bytes, but after an error perhaps not all of them**: the caller keeps what it
/// writes apart until this returns `Ok`.
pub async fn open_to(
    decrypters: &[&dyn Decrypter],
    envelope: impl BufRead,
    content: impl Write,
) -> Result<Option<Binding>, OpenError> {
    Reader::begin(decrypters, envelope).await?.copy_to(content)
}

/// An envelope whose header is opened and authenticated, and whose content is still to be read.
pub struct Reader<R> {
    envelope: R,
    stream: Stream,
    binding: Option<Binding>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header, finds the file key and checks the MAC. Only this part waits for a decrypter.
    pub async fn begin(decrypters: &[&dyn Decrypter], mut envelope: R) -> Result<Self, OpenError> {
        let header = read_header(&mut envelope)?;
        let (header, _) = Header::parse(&header)?;
        let binding = check(&header)?;
        let mut nonce = [0; PAYLOAD_NONCE_BYTES];
        envelope.read_exact(&mut nonce).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => NO_NONCE,
            _ => OpenError::Io(error),
        })?;
        let file_key = find_file_key(decrypters, &header).await?;
        let stream = Stream::new(&file_key.payload_key(&nonce))?;
        Ok(Self { envelope, stream, binding })
    }

    /// The binding, authenticated.
    pub fn binding(&self) -> Option<&Binding> {
        self.binding.as_ref()
    }

    /// Writes the content to `content`; see [`open_to`] for what an error leaves there.
    pub fn copy_to(mut self, mut content: impl Write) -> Result<Option<Binding>, OpenError> {
        let mut chunk = Vec::with_capacity(SEALED_CHUNK_BYTES);
        let mut plaintext = Zeroizing::new(Vec::with_capacity(SEALED_CHUNK_BYTES));
        loop {
            fill(&mut self.envelope, &mut chunk, SEALED_CHUNK_BYTES)?;
            plaintext.clear();
            let last = self.stream.open(&chunk, &mut plaintext)?;
            content.write_all(&plaintext)?;
            if last {
                content.flush()?;
                let more = chunk.len() == SEALED_CHUNK_BYTES && !self.envelope.fill_buf()?.is_empty();
                return if more { Err(OpenError::Payload) } else { Ok(self.binding) };
            }
        }
    }
}

/// Shows what a header says, without any key. `file` must be whole, for the length.
pub fn inspect(file: &[u8]) -> Result<Inspection, OpenError> {
    let (header, payload) = Header::parse(file)?;
    let binding = check(&header)?;
    let sealed = payload.len().checked_sub(PAYLOAD_NONCE_BYTES).ok_or(NO_NONCE)?;
    Ok(Inspection {
        kinds: header.stanzas.into_iter().map(|stanza| stanza.kind).collect(),
        binding,
        plaintext_bytes: plaintext_bytes(sealed).ok_or(OpenError::Payload)?,
    })
}

/// What every header must hold before a key is tried on it.
fn check(header: &Header) -> Result<Option<Binding>, OpenError> {
    if header.stanzas.iter().any(|stanza| stanza.kind == PASSPHRASE_KIND) {
        return Err(OpenError::Passphrase);
    }
    Binding::find(&header.stanzas)
}

async fn find_file_key(decrypters: &[&dyn Decrypter], header: &Header) -> Result<FileKey, OpenError> {
    for decrypter in decrypters {
        if let Some(file_key) = decrypter.unwrap_file_key(&header.stanzas).await? {
            header.authenticate(&file_key)?;
            return Ok(file_key);
        }
    }
    Err(OpenError::NoMatch)
}

/// Reads up to the end of the line that ends the header, and no further.
fn read_header(envelope: &mut impl BufRead) -> Result<Vec<u8>, OpenError> {
    let mut header = Vec::new();
    loop {
        let start = header.len();
        // One byte more than is allowed, so that the parser sees that there is more.
        let room = MAX_HEADER_BYTES.saturating_sub(start).saturating_add(1);
        envelope.take(u64::try_from(room).unwrap_or(u64::MAX)).read_until(b'\n', &mut header)?;
        let line = header.get(start..).unwrap_or_default();
        if header::ends_header(line) || !line.ends_with(b"\n") {
            // Whole, cut short, or over the limit: the parser tells them apart.
            return Ok(header);
        }
    }
}

/// The length of the content of a payload of `sealed` bytes without its nonce; `None` if there is no such.
fn plaintext_bytes(sealed: usize) -> Option<usize> {
    let chunks = sealed.div_ceil(SEALED_CHUNK_BYTES);
    sealed.checked_sub(chunks.max(1).checked_mul(TAG_BYTES)?)
}
