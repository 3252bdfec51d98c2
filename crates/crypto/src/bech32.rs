//! Bech32 (BIP 173) as age uses it: without the limit of 90 characters, in one case, one spelling.

use crate::secret::SecretBytes;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Checksum, Hrp};
use zeroize::Zeroizing;

/// The longest text that is read. A hybrid recipient has 1,959 characters, one for hardware 2,015.
const MAX_CHARS: usize = 2048;

/// The checksum of BIP 173, for texts longer than those it promises to correct.
enum Age {}

impl Checksum for Age {
    type MidstateRepr = <Bech32 as Checksum>::MidstateRepr;
    type CorrectionField = <Bech32 as Checksum>::CorrectionField;
    const ROOT_GENERATOR: Self::CorrectionField = Bech32::ROOT_GENERATOR;
    const ROOT_EXPONENTS: std::ops::RangeInclusive<usize> = Bech32::ROOT_EXPONENTS;
    const CODE_LENGTH: usize = MAX_CHARS;
    const CHECKSUM_LENGTH: usize = Bech32::CHECKSUM_LENGTH;
    const GENERATOR_SH: [Self::MidstateRepr; 5] = Bech32::GENERATOR_SH;
    const TARGET_RESIDUE: Self::MidstateRepr = Bech32::TARGET_RESIDUE;
}

/// Writes `bytes` after `prefix`, in the case of `prefix`; `None` if it is too long.
pub(crate) fn encode(prefix: &str, bytes: &[u8]) -> Option<Zeroizing<String>> {
    let hrp = Hrp::parse(prefix).ok()?;
    let text = if prefix.bytes().any(|byte| byte.is_ascii_uppercase()) {
        bech32::encode_upper::<Age>(hrp, bytes)
    } else {
        bech32::encode_lower::<Age>(hrp, bytes)
    };
    text.ok().map(Zeroizing::new)
}

/// Reads what [`encode`] wrote; `None` for another prefix, another case, or any other spelling.
pub(crate) fn decode(prefix: &str, text: &str) -> Option<SecretBytes> {
    if text.len() > MAX_CHARS {
        return None;
    }
    let parsed = CheckedHrpstring::new::<Age>(text).ok()?;
    // Room for all of it, so that no copy is left behind by growing.
    let mut bytes = SecretBytes::new(Vec::with_capacity(text.len()));
    bytes.expose_mut().extend(parsed.byte_iter());
    // The prefix, its case, and padding that is not zero, all at once.
    (encode(prefix, bytes.expose())?.as_str() == text).then_some(bytes)
}

/// What stands before the separator. It is checked by nothing but [`decode`].
pub(crate) fn prefix(text: &str) -> Option<&str> {
    text.rsplit_once('1').map(|(prefix, _)| prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_consistent() {
        Age::sanity_check();
    }

    #[test]
    fn one_spelling() {
        // From age's own documentation.
        let text = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let bytes = decode("age", text).unwrap();
        assert_eq!(bytes.expose().len(), 32);
        assert_eq!(encode("age", bytes.expose()).unwrap().as_str(), text);
        assert!(decode("ag", text).is_none());
        assert!(decode("age", &text.to_uppercase()).is_none());
        assert!(decode("AGE", text).is_none());
        assert!(decode("age", &text.replace("ql3", "qL3")).is_none());
        assert!(decode("age", &text.replace("ql3", "ql4")).is_none());
        assert!(decode("age", &format!("{text} ")).is_none());
        assert!(decode("age", &"a".repeat(10_000)).is_none());
    }

    #[test]
    fn the_longest_text_is_read() {
        let bytes = [7; 1273];
        let longest = encode("ages", &bytes).unwrap();
        assert_eq!(longest.len(), MAX_CHARS);
        assert_eq!(decode("ages", &longest).unwrap().expose().as_slice(), bytes);
        assert!(encode("agess", &bytes).is_none());
    }

    #[test]
    fn padding_must_be_zero() {
        // One byte is two symbols, ten bits: with the two spare bits set the checksum still fits, since it
        // is computed here, but the spelling is a second one.
        use bech32::{ByteIterExt, Fe32, Fe32IterExt};
        let hrp = Hrp::parse("age").unwrap();
        let mut symbols: Vec<Fe32> = [7_u8].iter().copied().bytes_to_fes().collect();
        let spelled =
            |symbols: &[Fe32]| -> String { symbols.iter().copied().with_checksum::<Age>(&hrp).chars().collect() };
        assert!(decode("age", &spelled(&symbols)).is_some());
        let last = symbols.pop().unwrap();
        symbols.push(Fe32::try_from(last.to_u8() | 1).unwrap());
        assert!(decode("age", &spelled(&symbols)).is_none());
    }
}
