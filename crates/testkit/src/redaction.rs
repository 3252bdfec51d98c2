//! Names for what differs from run to run, so that a transcript is the same each time.
//!
//! Equal values get equal names within one transcript, numbered in the order in which they first appear.

use std::collections::BTreeMap;

/// What stands before a number that differs from run to run.
const COUNTED: &[&str] = &[
    "sequence ",
    "sequence  ",
    "sequence <n> to ",
    "remembers ",
    "audit     up to line ",
    "rows      ",
    "rows      <n>, ",
];

/// What was renamed so far.
#[derive(Debug, Default)]
pub(crate) struct Redaction {
    /// Values that the test named itself, longest first.
    named: Vec<(String, String)>,
    numbers: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Redaction {
    /// Shows `value` as `name` from now on.
    pub(crate) fn name(&mut self, value: &str, name: &str) {
        if !value.is_empty() {
            self.named.push((value.to_owned(), name.to_owned()));
            self.named.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        }
    }

    /// `text` with names in place of values.
    pub(crate) fn apply(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, name) in &self.named {
            text = text.replace(value, name);
        }
        let mut output = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let length = match length_of_time(rest) {
                Some(length) => {
                    output.push_str("<time>");
                    length
                }
                // Base64url begins with any of its characters; other words do not begin with these two.
                None if first.is_ascii_alphanumeric()
                    || (is_token(first)
                        && [":", "lineage ", "plaintext   "].iter().any(|before| output.ends_with(before))) =>
                {
                    let length = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
                    let token = &rest[..length];
                    output.push_str(&self.token(token, &output));
                    length
                }
                None => {
                    output.push(first);
                    first.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        output
    }

    fn token(&mut self, token: &str, before: &str) -> String {
        let base32 = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
        let kind = if is_made_by_a_key(before) {
            "made"
        } else if token.len() == 43 {
            "id"
        } else if token.len() == 26 && token.chars().all(base32) {
            if ["request ", "policy explain "].iter().any(|words| before.ends_with(words)) { "request" } else { "wrap" }
        } else if token.len() == 22 && before.ends_with("lineage ") {
            "lineage"
        } else if token.len() > 50 && token.starts_with("age1") {
            "recipient"
        } else if token.len() >= 32 && token.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
            "hex"
        } else if before.ends_with("127.0.0.1:") && token.chars().all(|c| c.is_ascii_digit()) {
            return "<port>".to_owned();
        } else if COUNTED.iter().any(|words| before.ends_with(words)) && token.chars().all(|c| c.is_ascii_digit()) {
            // The cluster commits by itself too, when a minute ends.
            return "<n>".to_owned();
        } else if token.len() == 13 && token.chars().all(|c| c.is_ascii_digit()) {
            return "<ms>".to_owned();
        } else {
            return token.to_owned();
        };
        if let Some(name) = self.numbers.get(token) {
            return name.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("<{kind} {count}>");
        self.numbers.insert(token.to_owned(), name.clone());
        name
    }
}

/// Whether `bulla:v<version>:` stands there: ciphertexts, signatures and MACs are drawn anew each time.
fn is_made_by_a_key(before: &str) -> bool {
    let version = before.strip_suffix(':').and_then(|text| text.rsplit_once("bulla:v"));
    version.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

const fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// The length of an RFC 3339 time in UTC at the start of `text`, with or without a fraction of a second.
fn length_of_time(text: &str) -> Option<usize> {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let bytes = text.as_bytes();
    let head = bytes.get(..SHAPE.len())?;
    let fits = head.iter().zip(SHAPE).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    });
    let fraction = match bytes.get(SHAPE.len()) {
        Some(b'.') => 1 + bytes[SHAPE.len() + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => 0,
    };
    let end = SHAPE.len() + fraction;
    (fits && bytes.get(end) == Some(&b'Z')).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_differ_get_names_that_do_not() {
        let mut redaction = Redaction::default();
        redaction.name("/tmp/x", "~");
        let (one, two) = ("A".repeat(43), "_b".repeat(21) + "c");
        let wrap = "abcdefghijklmnopqrstuvwxyz";
        let text = format!("sha256:{one} by sha256:{one}, bulla:wrap:{two}:{wrap}:{one}\n");
        assert_eq!(redaction.apply(&text), "sha256:<id 1> by sha256:<id 1>, bulla:wrap:<id 2>:<wrap 1>:<id 1>\n");
        assert_eq!(redaction.apply("at 2026-11-21T10:00:00Z, 2026-11-21T10:00:00.123Z"), "at <time>, <time>");
        assert_eq!(
            redaction.apply("https://127.0.0.1:43561/v1, port 43561"),
            "https://127.0.0.1:<port>/v1, port 43561"
        );
        assert_eq!(redaction.apply("/tmp/x/alice.key – é"), "~/alice.key – é");
        assert_eq!(redaction.apply("2026-11-21 is a day"), "2026-11-21 is a day");
        assert_eq!(redaction.apply("serial 1795766924930"), "serial <ms>");
        assert_eq!(redaction.apply("back from sequence 13 to 9, 9 rows"), "back from sequence <n> to <n>, 9 rows");
        assert_eq!(redaction.apply("lineage KYSIMxGwygtQHPq6Y9Q2iQ,"), "lineage <lineage 1>,");
        let lineage = format!("-{}", "a".repeat(21));
        assert_eq!(redaction.apply(&format!("of lineage {lineage}, - not")), "of lineage <lineage 2>, - not");
        assert_eq!(redaction.apply("as request zyxwvutsrqponmlkjihgfedcba"), "as request <request 1>");
        assert_eq!(
            redaction.apply("with `bulla policy explain yxwvutsrqponmlkjihgfedcbaa`"),
            "with `bulla policy explain <request 2>`"
        );
        let recipient = format!("age1{}", "q".repeat(58));
        assert_eq!(redaction.apply(&format!("to {recipient}")), "to <recipient 1>");
    }
}
