//! PEM (RFC 7468): DER as text.

use crate::secret::SecretBytes;
use data_encoding::BASE64;

/// Characters on each full line.
const COLUMNS: usize = 64;

/// DER under a label such as `PUBLIC KEY`. In a buffer that does not grow and is wiped, as it may be a private key.
pub fn write(label: &str, der: &[u8]) -> SecretBytes {
    let text = SecretBytes::new(BASE64.encode(der).into_bytes());
    let lines = text.expose().len().div_ceil(COLUMNS);
    let (begin, end) = (format!("-----BEGIN {label}-----\n"), format!("-----END {label}-----\n"));
    let room = [begin.len(), text.expose().len(), lines, end.len()].iter().sum();
    let mut out = SecretBytes::new(Vec::with_capacity(room));
    let to = out.expose_mut();
    to.extend_from_slice(begin.as_bytes());
    for line in text.expose().chunks(COLUMNS) {
        to.extend_from_slice(line);
        to.push(b'\n');
    }
    to.extend_from_slice(end.as_bytes());
    out
}

/// The DER of the one PEM block of `text`, if it has this label; white space around it and in it is passed over, as
/// programs differ in it.
pub fn read(label: &str, text: &str) -> Option<SecretBytes> {
    let body = text.trim().strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let body = body.strip_suffix(&format!("-----END {label}-----"))?;
    let mut joined = SecretBytes::new(Vec::with_capacity(body.len()));
    joined.expose_mut().extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    BASE64.decode(joined.expose()).ok().map(SecretBytes::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 47, 48, 49, 96, 2000] {
            let der: Vec<u8> = (0..length).map(|byte: u32| byte.to_le_bytes()[0]).collect();
            let text = write("PRIVATE KEY", &der);
            assert_eq!(text.expose().len(), text.expose().capacity(), "it did not grow");
            let text = std::str::from_utf8(text.expose()).unwrap();
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            assert_eq!(read("PRIVATE KEY", text).unwrap().expose(), &der);
            assert_eq!(read("PRIVATE KEY", &text.replace('\n', "\r\n")).unwrap().expose(), &der);
            assert!(read("PUBLIC KEY", text).is_none());
        }
        assert_eq!(write("X", b"abc").expose(), b"-----BEGIN X-----\nYWJj\n-----END X-----\n");
        assert!(read("X", "-----BEGIN X-----\nYWJ\n-----END X-----").is_none());
    }
}
