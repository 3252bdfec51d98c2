//! X.509 certificates (RFC 5280 §4.1) as envelopes of one public key.
//!
//! Of a caller's certificate two fields count: the `SubjectPublicKeyInfo`, whose digest is the key id, and the
//! validity. Nobody looks at who issued it, for whom, or with which signature: whoever holds the key can make another
//! certificate for it, so nothing else in it says more than its holder does.
//!
//! Held: the key id is that of the bytes in the one place where the format has the key, wherever else such bytes may
//! stand; and whoever verifies a handshake with [`Certificate::spki`] verifies it with exactly the key that is named.

use crate::digest::sha256;
use bulla_wire::id::KeyId;
use std::fmt;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT Version`, absent in version 1.
const VERSION: u8 = 0xa0;

/// Why a certificate is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateError {
    /// Not the DER of a certificate.
    Malformed,
    /// It is valid only later.
    NotYet,
    /// It was valid until before.
    Expired,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a certificate in DER",
            Self::NotYet => "the certificate is not valid yet",
            Self::Expired => "the certificate has expired",
        })
    }
}

impl std::error::Error for CertificateError {}

/// A certificate, as far as it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate<'a> {
    spki: &'a [u8],
    not_before_s: i64,
    not_after_s: i64,
}

impl<'a> Certificate<'a> {
    /// Finds key and validity in the DER of a certificate.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        Self::read(der).ok_or(CertificateError::Malformed)
    }

    fn read(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(der);
        let mut certificate = outer.enter(SEQUENCE)?;
        outer.end()?;
        let mut tbs = certificate.enter(SEQUENCE)?;
        certificate.enter(SEQUENCE)?;
        certificate.enter(BIT_STRING)?;
        certificate.end()?;
        if tbs.0.first() == Some(&VERSION) {
            tbs.enter(VERSION)?;
        }
        tbs.enter(INTEGER)?; // serial number
        tbs.enter(SEQUENCE)?; // signature algorithm
        tbs.enter(SEQUENCE)?; // issuer
        let mut validity = tbs.enter(SEQUENCE)?;
        let (not_before_s, not_after_s) = (validity.time()?, validity.time()?);
        validity.end()?;
        tbs.enter(SEQUENCE)?; // subject
        let (spki, tag, _) = tbs.element()?;
        if tag != SEQUENCE {
            return None;
        }
        // Unique ids and extensions say nothing here; they must be elements all the same.
        while !tbs.0.is_empty() {
            tbs.element()?;
        }
        Some(Self { spki, not_before_s, not_after_s })
    }

    /// The DER `SubjectPublicKeyInfo`, as it stands in the certificate. Whether it is a key that Bulla takes is not
    /// known: one that is not is no principal's.
    pub fn spki(&self) -> &'a [u8] {
        self.spki
    }

    /// SHA-256 of the SPKI.
    pub fn key_id(&self) -> KeyId {
        KeyId::new(sha256(&[self.spki]))
    }

    /// Whether it is valid at this Unix time. Both ends belong to it (RFC 5280 §4.1.2.5).
    ///
    /// # Errors
    /// [`CertificateError::NotYet`] or [`CertificateError::Expired`].
    pub fn check_time(&self, now_s: u64) -> Result<(), CertificateError> {
        let now_s = i64::try_from(now_s).unwrap_or(i64::MAX);
        if now_s < self.not_before_s {
            return Err(CertificateError::NotYet);
        }
        if now_s > self.not_after_s { Err(CertificateError::Expired) } else { Ok(()) }
    }
}

/// Reads DER elements one after the other (X.690 §8.1, §10.1): definite lengths in their shortest form, tags of one byte.
struct Reader<'a>(&'a [u8]);

/// Whether bytes are one SEQUENCE in DER, with nothing after it.
pub(crate) fn is_one_sequence(der: &[u8]) -> bool {
    let mut reader = Reader(der);
    reader.enter(SEQUENCE).is_some() && reader.end().is_some()
}

impl<'a> Reader<'a> {
    /// The next element whole, its tag, and its content.
    fn element(&mut self) -> Option<(&'a [u8], u8, &'a [u8])> {
        let all = self.0;
        let (tag, rest) = all.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            0x81 => {
                let (byte, rest) = rest.split_first()?;
                (usize::from(*byte), rest)
            }
            0x82 => {
                let (bytes, rest) = rest.split_first_chunk()?;
                // A handshake message has less than 64 KiB, so no element needs a longer length.
                (usize::from(u16::from_be_bytes(*bytes)), rest)
            }
            _ => return None,
        };
        let shortest = match length {
            0..=0x7f => *first <= 0x7f,
            0x80..=0xff => *first == 0x81,
            _ => *first == 0x82,
        };
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        let whole = all.get(..all.len().checked_sub(after.len())?)?;
        // A tag of more than one byte stands nowhere in a certificate.
        (shortest && *tag & 0x1f != 0x1f).then_some((whole, *tag, content))
    }

    /// The content of the next element, which has this tag.
    fn enter(&mut self, tag: u8) -> Option<Self> {
        let (_, found, content) = self.element()?;
        (found == tag).then_some(Self(content))
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// A `Time` as Unix seconds: `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5.1, §4.1.2.5.2).
    fn time(&mut self) -> Option<i64> {
        let (_, tag, text) = self.element()?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let (digits, rest) = text.split_first_chunk::<2>()?;
                let year = number(digits)?;
                (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
            }
            GENERALIZED_TIME => {
                let (digits, rest) = text.split_first_chunk::<4>()?;
                (number(digits)?, rest)
            }
            _ => return None,
        };
        let digits = rest.strip_suffix(b"Z").filter(|digits| digits.len() == 10)?;
        let mut pairs = digits.chunks(2).map(number);
        let mut next = |least: i64, most: i64| pairs.next()?.filter(|value| (least..=most).contains(value));
        let (month, day) = (next(1, 12)?, next(1, 31)?);
        let (hour, minute, second) = (next(0, 23)?, next(0, 59)?, next(0, 59)?);
        let day = (day <= days_of(year, month)).then_some(day)?;
        Some(((days_before(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second)
    }
}

/// A decimal number without a sign.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of a month; negative before.
fn days_before(year: i64, month: i64) -> i64 {
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    years + (1..month).map(|month| days_of(year, month)).sum::<i64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{PublicKey, RsaMinimum};
    use bulla_wire::encoding::base64_decode;
    use proptest::prelude::*;

    /// An element with its length in the shortest form.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        let head = match length.to_be_bytes() {
            [0, short @ 0..=0x7f] => vec![tag, short],
            [0, long] => vec![tag, 0x81, long],
            [high, low] => vec![tag, 0x82, high, low],
        };
        [head, content.to_vec()].concat()
    }

    fn certificate(version: &[u8], times: &[u8], spki: &[u8], rest: &[u8]) -> Vec<u8> {
        let fields = [
            version,
            &der(INTEGER, &[1]),
            &der(SEQUENCE, &[]),
            &der(SEQUENCE, b""),
            &der(SEQUENCE, times),
            &der(SEQUENCE, b""),
        ];
        let tbs = der(SEQUENCE, &[&fields.concat(), spki, rest].concat());
        der(SEQUENCE, &[tbs, der(SEQUENCE, &[]), der(BIT_STRING, &[0, 1])].concat())
    }

    fn times() -> Vec<u8> {
        [der(UTC_TIME, b"700101000001Z"), der(GENERALIZED_TIME, b"20500101000000Z")].concat()
    }

    #[test]
    fn key_and_validity_stand_in_one_place() {
        let (spki, other) = (der(SEQUENCE, &[7; 300]), der(SEQUENCE, &[8; 300]));
        let version = der(VERSION, &der(INTEGER, &[2]));
        for (version, rest) in [(&version[..], &der(0xa3, &other)[..]), (&[][..], &[][..])] {
            let bytes = certificate(version, &times(), &spki, rest);
            let parsed = Certificate::parse(&bytes).unwrap();
            assert_eq!(parsed.spki(), spki);
            assert_eq!(parsed.key_id(), KeyId::new(sha256(&[&spki])));
            assert_eq!(parsed.check_time(0), Err(CertificateError::NotYet));
            assert_eq!(parsed.check_time(1), Ok(()));
            assert_eq!(parsed.check_time(2_524_608_000), Ok(()));
            assert_eq!(parsed.check_time(2_524_608_001), Err(CertificateError::Expired));
            for end in 0..bytes.len() {
                assert_eq!(Certificate::parse(&bytes[..end]), Err(CertificateError::Malformed));
            }
            assert!(Certificate::parse(&[&bytes[..], &[0]].concat()).is_err(), "something after it");
        }
        for wrong in [
            certificate(&[], &times(), &der(0x31, &[7; 300]), &[]),
            certificate(&[], &times(), &spki, &[0xa3, 0x80]),
            certificate(&[], &times(), &spki, &[0xbf, 0x1f, 0]),
            certificate(&[], &der(UTC_TIME, b"700101000001Z"), &spki, &[]),
            certificate(&[], &[times(), der(UTC_TIME, b"700101000001Z")].concat(), &spki, &[]),
            certificate(&der(VERSION, &[]).repeat(2), &times(), &spki, &[]),
        ] {
            assert_eq!(Certificate::parse(&wrong), Err(CertificateError::Malformed));
        }
    }

    #[test]
    fn a_length_has_one_spelling() {
        for long in
            [&[SEQUENCE, 0x81, 0x05][..], &[SEQUENCE, 0x82, 0, 0x05], &[SEQUENCE, 0x83, 0, 0, 0x05], &[SEQUENCE, 0x80]]
        {
            assert!(Reader(&[long, &[0; 300]].concat()).element().is_none(), "{long:?}");
        }
        assert!(Reader(&[&[SEQUENCE, 0x81, 0x80][..], &[0; 128]].concat()).element().is_some());
        assert!(Reader(&[&[SEQUENCE, 0x81, 0xff][..], &[0; 255]].concat()).element().is_some());
        assert!(Reader(&[&[SEQUENCE, 0x82, 0, 0xff][..], &[0; 255]].concat()).element().is_none());
        assert!(Reader(&[&[SEQUENCE, 0x82, 1, 0][..], &[0; 256]].concat()).element().is_some());
    }

    #[test]
    fn a_tag_is_one_byte() {
        assert!(Reader(&[0, 0]).element().is_some());
        assert!([0x1f, 0x3f, 0xbf].iter().all(|tag| Reader(&[*tag, 0]).element().is_none()));
    }

    /// Every month from the year 1 on, counted one by one.
    #[test]
    fn days_are_counted_as_the_calendar_does() {
        let mut days = -719_162;
        for year in 1..=2600 {
            let february = match (year % 400, year % 100, year % 4) {
                (0, ..) | (_, 1.., 0) => 29,
                _ => 28,
            };
            for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
                assert_eq!((days_before(year, month), days_of(year, month)), (days, length), "{year}-{month}");
                days += length;
            }
        }
    }

    #[test]
    fn times_have_one_form() {
        let at = |tag, text: &[u8]| Reader(&der(tag, text)).time();
        for (text, seconds) in [
            (&b"700101000000Z"[..], 0),
            (b"691231235959Z", -1),
            (b"000229120000Z", 951_825_600),
            (b"240229235959Z", 1_709_251_199),
            (b"491231235959Z", 2_524_607_999),
            (b"500101000000Z", -631_152_000),
        ] {
            assert_eq!(at(UTC_TIME, text), Some(seconds), "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(at(GENERALIZED_TIME, b"99991231235959Z"), Some(253_402_300_799));
        assert_eq!(at(GENERALIZED_TIME, b"00010101000000Z"), Some(-62_135_596_800));
        for text in [
            &b"230229000000Z"[..],
            b"210431000000Z",
            b"211301000000Z",
            b"210100000000Z",
            b"210101240000Z",
            b"210101006000Z",
            b"210101000060Z",
            b"2101010000Z",
            b"210101000000",
            b"210101000000+0100",
            b"21010100000 Z",
            b"+10101000000Z",
            b"20210101000000Z",
            b"",
        ] {
            assert_eq!(at(UTC_TIME, text), None, "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(at(GENERALIZED_TIME, b"20210101000000.5Z"), None);
        assert_eq!(at(INTEGER, b"210101000000Z"), None);
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        certificates: Vec<Good>,
        malformed: Vec<Bad>,
    }

    #[derive(serde::Deserialize)]
    struct Good {
        what: String,
        der: String,
        key: KeyId,
        not_before_s: u64,
        not_after_s: u64,
    }

    #[derive(serde::Deserialize)]
    struct Bad {
        what: String,
        der: String,
    }

    /// `spec/vectors/mtls`, made by other code.
    #[test]
    fn the_vectors() {
        let text = include_str!("../../../spec/vectors/mtls/mtls.json");
        let vectors: Vectors = serde_json::from_str(text).unwrap();
        for Good { what, der, key, not_before_s, not_after_s } in &vectors.certificates {
            let der = base64_decode(der).unwrap();
            let parsed = Certificate::parse(&der).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(parsed.key_id(), *key, "{what}");
            assert!(PublicKey::from_spki(parsed.spki(), RsaMinimum::Bits3072).is_ok(), "{what}");
            assert_eq!(parsed.check_time(*not_before_s), Ok(()), "{what}");
            assert_eq!(parsed.check_time(*not_after_s), Ok(()), "{what}");
            assert_eq!(parsed.check_time(not_after_s + 1), Err(CertificateError::Expired), "{what}");
            let before = not_before_s.checked_sub(1).map(|before| parsed.check_time(before));
            assert!(before.is_none_or(|judged| judged == Err(CertificateError::NotYet)), "{what}");
        }
        for Bad { what, der } in &vectors.malformed {
            let der = base64_decode(der).unwrap();
            assert_eq!(Certificate::parse(&der), Err(CertificateError::Malformed), "{what}");
        }
        assert_eq!((vectors.certificates.len(), vectors.malformed.len()), (7, 12));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Certificate::parse(&bytes);
        }
    }
}
