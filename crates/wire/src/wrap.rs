//! One-time wraps: the writer's statement, the server's receipt, the slip, and how they travel
//! (`spec/wrap.md`).

use crate::dsse::Envelope;
use crate::evidence::Actor;
use crate::id::{ClusterId, Digest, KeyId, Lineage, PrincipalId, WrapId, text_serde};
use crate::json::V1;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// `payloadType` of [`Statement`].
pub const STATEMENT_TYPE: &str = "application/vnd.bulla.wrap.v1+json";
/// `payloadType` of [`Receipt`].
pub const RECEIPT_TYPE: &str = "application/vnd.bulla.receipt.v1+json";
/// `payloadType` of an [`Origin`].
pub const ORIGIN_TYPE: &str = "application/vnd.bulla.origin.v1+json";
/// Media type of [`Parcel`].
pub const PARCEL_MEDIA_TYPE: &str = "application/vnd.bulla.wrap";

/// Largest content of a wrap in bytes, before encryption. Larger things are files for a file server.
pub const MAX_CONTENT_BYTES: u64 = 16 * 1024 * 1024;
/// Largest ciphertext in bytes: content, 16 bytes a 64 KiB chunk, and a header for the most recipients.
pub const MAX_CIPHERTEXT_BYTES: u64 = MAX_CONTENT_BYTES + 256 * 1024;
/// Most principals a wrap is addressed to.
pub const MAX_RECIPIENTS: usize = 64;
/// Longest label in bytes.
pub const MAX_LABEL_BYTES: usize = 256;
/// What a new label holds, as an error says it.
pub const LABEL_RULE: &str = "must be one line of at most 256 bytes without control characters";

/// Whether a label may be made: one line of at most [`MAX_LABEL_BYTES`] bytes, without characters that a terminal
/// or a page would obey: controls, line and paragraph separators, and those that turn the direction of writing.
///
/// A reader does not ask this: it shows a label of old without them.
pub fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL_BYTES && !text.chars().any(is_obeyed)
}

/// Whether a screen would obey this character instead of showing it.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Longest life of a wrap in milliseconds: 366 days. A secret that waits longer is not one-time data.
pub const MAX_LIFE_MS: u64 = 366 * 24 * 3600 * 1000;
/// Default for [`Statement::ack_s`].
pub const DEFAULT_ACK_S: u32 = 600;
/// Bounds of [`Statement::ack_s`]: ten seconds to a day.
pub const ACK_S_RANGE: std::ops::RangeInclusive<u32> = 10..=86_400;
/// How often an opened wrap is delivered to the same claim at most, the first time included.
pub const MAX_DELIVERIES: u32 = 16;

/// Who gets the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The first of the recipients who opens it; one slot.
    First,
    /// Each of the recipients once; one slot a principal.
    Each,
}

/// A recipient of a wrap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Addressee {
    /// The principal.
    pub principal: PrincipalId,
    /// The record whose recipients were used.
    pub record_sha256: Digest,
    /// SHA-256 of each age recipient's canonical text that the content was encrypted to.
    pub recipients: Vec<Digest>,
}

/// Digest and length of the age file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ciphertext {
    /// SHA-256 of the age file.
    pub sha256: Digest,
    /// Its length in bytes.
    pub len: u64,
}

/// What the writer signs over a wrap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// The wrap.
    pub wrap: WrapId,
    /// The writer, who is also the signer of the creating request.
    pub from: PrincipalId,
    /// To whom, at least one, no principal twice.
    pub to: Vec<Addressee>,
    /// First or each.
    pub mode: Mode,
    /// The age file.
    pub ct: Ciphertext,
    /// Not to be opened before, Unix milliseconds; 0 for at once.
    pub nbf_ms: u64,
    /// Not to be opened at or after, Unix milliseconds.
    pub exp_ms: u64,
    /// Seconds of unsealed time in which the opener must acknowledge.
    pub ack_s: u32,
    /// A line for the recipients, readable by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// An [`Origin`], if the content is what a node read for the writer, who has not seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Envelope>,
}

/// What a node signs over content that it read for one principal and encrypted to another, who alone can open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that read and encrypted it.
    pub node: KeyId,
    /// For which wrap.
    pub wrap: WrapId,
    /// Who asked, and writes the wrap.
    pub from: PrincipalId,
    /// To whom it is encrypted.
    pub to: PrincipalId,
    /// What was asked for, such as `kv.get`.
    pub action: String,
    /// Of what, such as `kv/app/db`.
    pub resource: String,
    /// The age file.
    pub ct: Ciphertext,
    /// When it was read, Unix milliseconds.
    pub at_ms: u64,
    /// Number of the newest document.
    pub doc: u32,
}

/// The lines over which `to_sha256` of the binding stanza is taken, in the statement's order:
/// `<principal> <record_sha256> <recipient>\n`, each a 43-character digest.
pub fn to_lines(to: &[Addressee]) -> String {
    let mut lines = String::new();
    for addressee in to {
        for recipient in &addressee.recipients {
            for (part, end) in [
                (addressee.principal.base64url(), ' '),
                (addressee.record_sha256.base64url(), ' '),
                (recipient.base64url(), '\n'),
            ] {
                lines.push_str(&part);
                lines.push(end);
            }
        }
    }
    lines
}

/// What happened to a wrap's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptKind {
    /// The wrap was stored.
    Created,
    /// A claim won.
    Opened,
    /// The same claim fetched it again.
    Redelivered,
    /// The opener has the content safe.
    Acked,
    /// The opener could not open the content.
    Nacked,
    /// No acknowledgement came in time.
    Lapsed,
    /// Nobody opened it in time.
    Expired,
    /// The writer took it back; without an actor, a restore ended what had been opened or revoked in a lost history.
    Revoked,
    /// An attempt by another claim was refused.
    Refused,
}

/// The server's signed word about what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that signs.
    pub node: KeyId,
    /// What happened.
    pub kind: ReceiptKind,
    /// To which wrap.
    pub wrap: WrapId,
    /// To which slot of it; 0 with mode `first`.
    pub slot: u16,
    /// SHA-256 of the statement's payload bytes.
    pub statement_sha256: Digest,
    /// Who did it; null where time did.
    pub actor: Option<Actor>,
    /// SHA-256 of the claim recipient's canonical text, where there is a claim.
    pub claim_sha256: Option<Digest>,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Number of the newest document.
    pub doc: u32,
    /// Epoch of the seal.
    pub epoch: u64,
    /// History of the store.
    pub lineage: Lineage,
    /// SHA-256 of the payload bytes of this slot's receipt before; of the created receipt for the first.
    pub prev: Option<Digest>,
}

/// Names one exact wrap. Not a secret; goes by mail or chat.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slip {
    /// The cluster.
    pub cluster: ClusterId,
    /// The wrap.
    pub wrap: WrapId,
    /// SHA-256 of the statement's payload bytes.
    pub statement_sha256: Digest,
}

impl fmt::Display for Slip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bulla:wrap:{}:{}:{}", self.cluster.base64url(), self.wrap, self.statement_sha256.base64url())
    }
}

/// Why a text is no slip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseSlipError;

impl fmt::Display for ParseSlipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a slip, copied whole: bulla:wrap:<cluster>:<wrap>:<digest>")
    }
}
impl std::error::Error for ParseSlipError {}

impl FromStr for Slip {
    type Err = ParseSlipError;
    fn from_str(text: &str) -> Result<Self, ParseSlipError> {
        let mut parts = text.strip_prefix("bulla:wrap:").ok_or(ParseSlipError)?.split(':');
        let mut next = || parts.next().ok_or(ParseSlipError);
        let cluster = ClusterId::from_base64url(next()?).ok_or(ParseSlipError)?;
        let wrap = next()?.parse().map_err(|_| ParseSlipError)?;
        let statement_sha256 = Digest::from_base64url(next()?).ok_or(ParseSlipError)?;
        if parts.next().is_some() {
            return Err(ParseSlipError);
        }
        Ok(Self { cluster, wrap, statement_sha256 })
    }
}
text_serde!(Slip, "^bulla:wrap:[A-Za-z0-9_-]{43}:[a-z2-7]{26}:[A-Za-z0-9_-]{43}$");

/// A JSON document and an age file in one body: u32 big-endian length of the document, the document, the file.
#[derive(Debug)]
pub struct Parcel<'a> {
    /// The JSON document: a statement's or receipt's DSSE envelope.
    pub document: &'a [u8],
    /// The age file.
    pub file: &'a [u8],
}

/// Why bytes are no [`Parcel`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseParcelError;

impl fmt::Display for ParseParcelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a u32 big-endian length, a JSON document of that length, and an age file")
    }
}
impl std::error::Error for ParseParcelError {}

impl<'a> Parcel<'a> {
    /// Largest document in a parcel in bytes: an envelope around the largest statement.
    pub const MAX_DOCUMENT_BYTES: usize = 128 * 1024;

    /// Splits `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseParcelError> {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(ParseParcelError)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| ParseParcelError)?;
        if length > Self::MAX_DOCUMENT_BYTES {
            return Err(ParseParcelError);
        }
        let (document, file) = rest.split_at_checked(length).ok_or(ParseParcelError)?;
        Ok(Self { document, file })
    }

    /// The bytes in front of the file: length and document.
    pub fn head(document: &[u8]) -> Vec<u8> {
        let length = u32::try_from(document.len()).unwrap_or(u32::MAX);
        let mut head = length.to_be_bytes().to_vec();
        head.extend_from_slice(document);
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips() {
        let slip = Slip {
            cluster: ClusterId::new([1; 32]),
            wrap: WrapId::new([2; 16]),
            statement_sha256: Digest::new([3; 32]),
        };
        let text = slip.to_string();
        assert_eq!(text.parse(), Ok(slip));
        for bad in [
            format!("{text}:x"),
            text.replace("wrap", "warp"),
            text.to_uppercase(),
            text[..40].to_string(),
            format!("{text}="),
        ] {
            assert!(bad.parse::<Slip>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parcels() {
        let mut bytes = Parcel::head(b"{}");
        bytes.extend_from_slice(b"age");
        let parcel = Parcel::parse(&bytes).expect("a parcel");
        assert_eq!((parcel.document, parcel.file), (&b"{}"[..], &b"age"[..]));
        assert!(Parcel::parse(&bytes[..5]).is_err());
        assert!(Parcel::parse(&[0xff; 8]).is_err());
        assert!(Parcel::parse(b"").is_err());
        let long = |length: usize| Parcel::head(&vec![b' '; length]);
        let (most, over) = (long(Parcel::MAX_DOCUMENT_BYTES), long(Parcel::MAX_DOCUMENT_BYTES + 1));
        assert!(Parcel::parse(&most).is_ok_and(|parcel| parcel.file.is_empty()) && Parcel::parse(&over).is_err());
    }

    #[test]
    fn labels() {
        for good in ["", "a b", "größe", &"x".repeat(256)] {
            assert!(is_label(good), "{good:?}");
        }
        for bad in ["a\nb", "\u{1b}[1m", "\u{202e}a", &"x".repeat(257), &"ö".repeat(129)] {
            assert!(!is_label(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_line_for_each_recipient() {
        let addressee = |principal, recipients: &[u8]| Addressee {
            principal: PrincipalId::new([principal; 32]),
            record_sha256: Digest::new([0; 32]),
            recipients: recipients.iter().map(|recipient| Digest::new([*recipient; 32])).collect(),
        };
        let text = |byte| Digest::new([byte; 32]).base64url();
        let zero = text(0);
        let expected = [(1, 3), (1, 4), (2, 5)].map(|(to, key)| format!("{} {zero} {}\n", text(to), text(key)));
        assert_eq!(to_lines(&[addressee(1, &[3, 4]), addressee(2, &[5])]), expected.concat());
        assert_eq!(to_lines(&[addressee(1, &[])]), "");
    }
}
