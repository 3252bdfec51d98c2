//! The header of an age file: version line, recipient stanzas, MAC line.
//!
//! Exactly one spelling is taken for every header, so nothing is ever re-encoded: the MAC is computed
//! over the bytes as they came. Grammar: the age specification, section "Header".

use super::OpenError;
use crate::digest;
use crate::kdf::hkdf_sha256;
use crate::secret::{Secret, SecretBytes, SecretKey};
use data_encoding::BASE64_NOPAD;
use std::io::{self, BufRead, Read as _};
use zeroize::Zeroizing;

/// The largest header that is read: [`super::MAX_RECIPIENTS`] of the largest stanza (RSA of 8192 bits and
/// hybrid are both below 1.8 KiB) and a binding. It bounds memory before anything is authenticated.
pub const MAX_HEADER_BYTES: usize = 256 * 1024;
/// Length of an age file key.
pub const FILE_KEY_BYTES: usize = 16;
/// Length of the nonce between header and payload.
pub(super) const PAYLOAD_NONCE_BYTES: usize = 16;

const VERSION: &str = "age-encryption.org/v1";
/// Base64 columns on each full line of a stanza body: 48 bytes.
const COLUMNS: usize = 64;
const FOOTER: &[u8] = b"---";

/// The key of one age file: 128 bits, from which header MAC and payload key are derived.
pub struct FileKey(Secret<[u8; FILE_KEY_BYTES]>);

impl FileKey {
    /// Takes what a stanza held; `None` unless it is 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Secret::from_slice(bytes).map(Self)
    }

    /// Draws a new key.
    pub(super) fn generate(rng: &mut dyn crate::random::Rng) -> Self {
        Self(Secret::filled(|bytes| rng.fill(bytes)))
    }

    /// Lends the 16 bytes.
    pub fn expose(&self) -> &[u8; FILE_KEY_BYTES] {
        self.0.expose()
    }

    /// The key of the payload: HKDF-SHA-256 with the payload nonce as salt.
    pub(super) fn payload_key(&self, nonce: &[u8; PAYLOAD_NONCE_BYTES]) -> SecretKey {
        hkdf_sha256(self.expose(), nonce, b"payload")
    }

    /// HMAC-SHA-256 over the header up to and including `---`.
    fn mac(&self, covered: &[u8]) -> [u8; 32] {
        let key: SecretKey = hkdf_sha256(self.expose(), &[], b"header");
        digest::hmac_sha256(key.expose(), &[covered])
    }
}

impl std::fmt::Debug for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileKey(..)")
    }
}

/// One recipient stanza: `-> kind args…`, then the body in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    /// The first word after `->`, such as `X25519`.
    pub kind: String,
    /// The other words.
    pub args: Vec<String>,
    /// The decoded body.
    pub body: Vec<u8>,
}

impl Stanza {
    /// Reads one stanza from a conversation with a plugin, if it has at most `limit` bytes. It may hold a file key, so
    /// the text is wiped.
    ///
    /// # Errors
    /// [`OpenError::Header`] with what is wrong, or [`OpenError::Io`], also if the input ends.
    pub fn read(input: &mut impl BufRead, limit: usize) -> Result<Self, OpenError> {
        let mut text = SecretBytes::new(Vec::with_capacity(limit.saturating_add(1)));
        let mut input = input.take(u64::try_from(limit).unwrap_or(u64::MAX));
        loop {
            let start = text.expose().len();
            let read = input.read_until(b'\n', text.expose_mut())?;
            if read == 0 || !text.expose().ends_with(b"\n") {
                let too_long = input.limit() == 0;
                let ended = || OpenError::Io(io::ErrorKind::UnexpectedEof.into());
                return Err(if too_long { OpenError::Header("a stanza is too long") } else { ended() });
            }
            // The first line is none of the body, whose last line is short.
            if start > 0 && text.expose().len().saturating_sub(start) <= COLUMNS {
                break;
            }
        }
        let mut lines = Lines { file: text.expose(), rest: text.expose() };
        let first = lines.next()?;
        parse_stanza(first, &mut lines)
    }

    /// The stanza as it is written, in a header or to a plugin.
    pub fn to_text(&self) -> SecretBytes {
        // Room for all of it from the start: it may hold a passphrase, and a growing buffer would leave copies behind.
        let words = self.args.iter().fold(self.kind.len(), |sum, arg| sum.saturating_add(arg.len()).saturating_add(1));
        let room = self.body.len().saturating_mul(3).saturating_div(2).saturating_add(words).saturating_add(16);
        let mut out = SecretBytes::new(Vec::with_capacity(room));
        self.write(out.expose_mut());
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"-> ");
        out.extend_from_slice(self.kind.as_bytes());
        for arg in &self.args {
            out.push(b' ');
            out.extend_from_slice(arg.as_bytes());
        }
        out.push(b'\n');
        let body = Zeroizing::new(BASE64_NOPAD.encode(&self.body));
        for line in body.as_bytes().chunks(COLUMNS) {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        // The last line of a body is always short, empty if need be, so that its end is known.
        if body.len().is_multiple_of(COLUMNS) {
            out.push(b'\n');
        }
    }
}

/// A word of a stanza that holds bytes: base64 without padding, in its one spelling.
pub fn decode_word(word: &str) -> Option<Vec<u8>> {
    BASE64_NOPAD.decode(word.as_bytes()).ok()
}

/// A parsed header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) stanzas: Vec<Stanza>,
    /// The bytes up to and including `---`.
    covered: Vec<u8>,
    mac: [u8; 32],
}

impl Header {
    /// Writes a header for `stanzas`, with its MAC.
    pub(super) fn write(stanzas: &[Stanza], key: &FileKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(stanzas.len().saturating_mul(2048));
        out.extend_from_slice(VERSION.as_bytes());
        out.push(b'\n');
        for stanza in stanzas {
            stanza.write(&mut out);
        }
        out.extend_from_slice(FOOTER);
        let mac = key.mac(&out);
        out.push(b' ');
        out.extend_from_slice(BASE64_NOPAD.encode(&mac).as_bytes());
        out.push(b'\n');
        out
    }

    /// Parses the header at the front of `file`, and gives what follows it.
    pub(super) fn parse(file: &[u8]) -> Result<(Self, &[u8]), OpenError> {
        let mut lines = Lines { file, rest: file };
        if lines.next()? != VERSION.as_bytes() {
            return Err(OpenError::Header("not an age file of version 1"));
        }
        let mut stanzas = Vec::new();
        loop {
            let before = lines.consumed();
            let line = lines.next()?;
            if let Some(mac) = line.strip_prefix(FOOTER) {
                let mac = mac.strip_prefix(b" ").and_then(|text| BASE64_NOPAD.decode(text).ok());
                let mac = mac.and_then(|mac| mac.try_into().ok()).ok_or(OpenError::Header("malformed MAC line"))?;
                if stanzas.is_empty() {
                    return Err(OpenError::Header("no recipient stanza"));
                }
                let covered = file.get(..before.saturating_add(FOOTER.len())).unwrap_or_default().to_vec();
                return Ok((Self { stanzas, covered, mac }, lines.rest));
            }
            stanzas.push(parse_stanza(line, &mut lines)?);
        }
    }

    /// Checks the MAC, which authenticates every stanza under the file key.
    pub(super) fn authenticate(&self, key: &FileKey) -> Result<(), OpenError> {
        if digest::equal(&key.mac(&self.covered), &self.mac) { Ok(()) } else { Err(OpenError::Mac) }
    }
}

/// Whether `line` (without its newline) ends a header. A reader of streams stops there: neither a
/// stanza's first line nor base64 can begin so.
pub(super) fn ends_header(line: &[u8]) -> bool {
    line.starts_with(FOOTER)
}

fn parse_stanza(line: &[u8], lines: &mut Lines<'_>) -> Result<Stanza, OpenError> {
    let line = line.strip_prefix(b"-> ").ok_or(OpenError::Header("expected a recipient stanza"))?;
    let mut words = line.split(|byte| *byte == b' ').map(|word| {
        // The specification's "arbitrary string": one or more of the printing ASCII characters.
        let printing = !word.is_empty() && word.iter().all(u8::is_ascii_graphic);
        let word = if printing { std::str::from_utf8(word).ok() } else { None };
        word.map(str::to_owned).ok_or(OpenError::Header("malformed word in a stanza"))
    });
    let kind = words.next().ok_or(OpenError::Header("a stanza without a kind"))??;
    let args = words.collect::<Result<_, _>>()?;
    let mut body = Vec::new();
    loop {
        let line = lines.next()?;
        if line.len() > COLUMNS {
            return Err(OpenError::Header("a stanza's body line is too long"));
        }
        let bytes = BASE64_NOPAD.decode(line).map_err(|_| OpenError::Header("malformed base64 in a stanza"))?;
        body.extend_from_slice(&Zeroizing::new(bytes));
        if line.len() < COLUMNS {
            return Ok(Stanza { kind, args, body });
        }
    }
}

/// Lines of a header, each ended by one line feed.
struct Lines<'a> {
    file: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    fn consumed(&self) -> usize {
        self.file.len().saturating_sub(self.rest.len())
    }

    fn next(&mut self) -> Result<&'a [u8], OpenError> {
        let room = MAX_HEADER_BYTES.saturating_sub(self.consumed());
        let window = self.rest.get(..room).unwrap_or(self.rest);
        let cut_short = OpenError::Header(if window.len() < self.rest.len() {
            "the header is larger than any real one"
        } else {
            "the header is cut short"
        });
        let end = window.iter().position(|byte| *byte == b'\n').ok_or(cut_short)?;
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(line)
    }
}
