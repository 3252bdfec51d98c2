//! Signature Version 4 of AWS, as far as KMS needs it: `POST /` without a query, with a body that is known.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>

use bulla_crypto::digest::{hmac_sha256, sha256};
use bulla_crypto::secret::SecretBytes;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";

/// Who signs, and for what.
pub struct Scope<'a> {
    /// The access key's id.
    pub key_id: &'a str,
    /// The secret access key.
    pub secret: &'a str,
    /// The region.
    pub region: &'a str,
    /// The service's name in signatures.
    pub service: &'a str,
}

/// A time as `x-amz-date` has it: `20150830T123600Z`.
pub fn stamp(at: SystemTime) -> String {
    // A clock that shows a year beyond 9999 signs nothing that anybody takes.
    let last = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(253_402_300_799)).unwrap_or(at);
    humantime::format_rfc3339_seconds(at.clamp(SystemTime::UNIX_EPOCH, last)).to_string().replace(['-', ':'], "")
}

/// The value of `authorization` for a request with these headers, whose names are in lower case and in order; `host` and
/// `x-amz-date` are among them.
pub fn authorization(scope: &Scope<'_>, stamp: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let signed = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut canonical = "POST\n/\n\n".to_owned();
    for (name, value) in headers {
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        // Writing to a String does not fail.
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{signed}\n{}", hex(&sha256(&[body])));
    let day = stamp.get(..8).unwrap_or_default();
    let place = format!("{day}/{}/{}/{TERMINATOR}", scope.region, scope.service);
    let to_sign = format!("{ALGORITHM}\n{stamp}\n{place}\n{}", hex(&sha256(&[canonical.as_bytes()])));
    let mut key = SecretBytes::new([b"AWS4", scope.secret.as_bytes()].concat());
    for part in [day, scope.region, scope.service, TERMINATOR] {
        key = SecretBytes::new(hmac_sha256(key.expose(), &[part.as_bytes()]).to_vec());
    }
    let signature = hex(&hmac_sha256(key.expose(), &[to_sign.as_bytes()]));
    format!("{ALGORITHM} Credential={}/{place}, SignedHeaders={signed}, Signature={signature}", scope.key_id)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: &str = "20150830T123600Z";
    const HOST: (&str, &str) = ("host", "example.amazonaws.com");
    const DATE: (&str, &str) = ("x-amz-date", STAMP);
    const SESSION: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoI\
        YRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx\
        6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2IC\
        CR/oLxBA==";

    /// Name, headers, body and signature.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);

    /// Every `POST /` of AWS's published Signature Version 4 test suite.
    #[test]
    fn the_published_vectors() {
        let form = ("content-type", "application/x-www-form-urlencoded");
        let form_utf8 = ("content-type", "application/x-www-form-urlencoded; charset=utf8");
        let cases: &[Case<'_>] = &[
            ("post-vanilla", &[HOST, DATE], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "post-header-key-sort",
                &[HOST, ("my-header1", "value1"), DATE],
                "",
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
            (
                "post-header-value-case",
                &[HOST, ("my-header1", "VALUE1"), DATE],
                "",
                "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
            ),
            (
                "post-sts-header-before",
                &[HOST, DATE, ("x-amz-security-token", SESSION)],
                "",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
            (
                "post-x-www-form-urlencoded",
                &[form, HOST, DATE],
                "Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "post-x-www-form-urlencoded-parameters",
                &[form_utf8, HOST, DATE],
                "Param1=value1",
                "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
            ),
        ];
        let (key_id, secret) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let scope = Scope { key_id, secret, region: "us-east-1", service: "service" };
        for (name, headers, body, signature) in cases {
            let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, \
                 Signature={signature}"
            );
            assert_eq!(authorization(&scope, STAMP, headers, body.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn a_time_is_stamped() {
        let at = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap();
        assert_eq!(stamp(at(1_440_938_160)), STAMP);
        assert_eq!(stamp(at(0)), "19700101T000000Z");
        assert_eq!(stamp(at(300_000_000_000)), "99991231T235959Z");
    }
}
