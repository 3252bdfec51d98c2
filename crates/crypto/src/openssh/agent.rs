//! The protocol of SSH agents (draft-ietf-sshm-ssh-agent), as bytes: the list of keys and one signature. No socket.
//!
//! An agent signs the bytes it is given. Those of SSH begin with a length or with `SSHSIG`, ours (RFC 9421, DSSE) with
//! a quotation mark or with `DSSEv1`, so what is signed for one is never valid for the other.

use super::{RSA, put_string, take_string, unsigned};
use crate::digest::sha256;
use crate::sign::{Algorithm, PublicKey, PublicKeyError};
use data_encoding::{BASE64, BASE64_NOPAD};
use std::fmt;
use std::str::FromStr;

/// The longest message either way, without its length: what OpenSSH's agent takes.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// The most keys of one agent that are looked at. Servers let people try a handful.
const MAX_KEYS: u32 = 1024;

// Numbers of messages (§5.1 of the draft).
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

const ED25519: &str = super::ED25519;
const P256: (&str, &str) = ("ecdsa-sha2-nistp256", "nistp256");
const P384: (&str, &str) = ("ecdsa-sha2-nistp384", "nistp384");

/// The SHA-256 fingerprint of a key, as `ssh-add -l` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of a key in SSH wire encoding.
    pub fn of(blob: &[u8]) -> Self {
        Self(sha256(&[blob]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", BASE64_NOPAD.encode(&self.0))
    }
}

/// A text is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FingerprintError;

impl fmt::Display for FingerprintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected SHA256: and 43 characters, as `ssh-add -l` shows")
    }
}

impl std::error::Error for FingerprintError {}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let encoded = text.strip_prefix("SHA256:").ok_or(FingerprintError)?;
        let bytes = BASE64_NOPAD.decode(encoded.as_bytes()).map_err(|_| FingerprintError)?;
        bytes.try_into().map(Self).map_err(|_| FingerprintError)
    }
}

/// The fingerprint of the one key in a `.pub` file; `None` if that is no such file.
pub fn fingerprint_of_line(text: &str) -> Option<Fingerprint> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let mut words = lines.next()?.split_ascii_whitespace();
    let (kind, blob) = (words.next()?, BASE64.decode(words.next()?.as_bytes()).ok()?);
    let named = take_string(&blob)?.0 == kind.as_bytes();
    (named && lines.next().is_none()).then(|| Fingerprint::of(&blob))
}

/// Why a key of an agent cannot sign here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentKeyError {
    /// RSA: agents pad as PKCS#1 v1.5 alone.
    Rsa,
    /// A FIDO key signs a counter and flags besides, and no verifier here knows them.
    SecurityKey(String),
    /// Another kind, by its name.
    Kind(String),
    /// The bytes are no key.
    Malformed,
    /// The key is not one that can be used.
    Public(PublicKeyError),
}

impl fmt::Display for AgentKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa => f.write_str("agents sign with RSA by PKCS#1 v1.5 only, and here it is RSA-PSS"),
            Self::SecurityKey(kind) => {
                write!(f, "a key of kind {kind} signs a counter of its device too, which is not taken here")
            }
            Self::Kind(kind) => write!(f, "keys of kind {kind} do not sign here"),
            Self::Malformed => f.write_str("the agent's public key is malformed"),
            Self::Public(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AgentKeyError {}

/// Why an answer cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerError {
    /// The agent said no; it does not say why.
    Refused,
    /// It is not an answer to what was asked; what is wrong.
    Malformed(&'static str),
}

/// A key that an agent holds.
#[derive(Debug, Clone)]
pub struct AgentKey {
    blob: Vec<u8>,
    public: Result<PublicKey, AgentKeyError>,
}

impl AgentKey {
    fn new(blob: &[u8]) -> Self {
        Self { blob: blob.to_vec(), public: public_key(blob) }
    }

    /// The key's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.blob)
    }

    /// The public key, or why this key cannot sign here.
    pub fn public_key(&self) -> Result<&PublicKey, &AgentKeyError> {
        self.public.as_ref()
    }

    /// Asks for a signature; `None` if the message is longer than agents take.
    pub fn sign_request(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut body = vec![SIGN_REQUEST];
        put_string(&mut body, &self.blob);
        put_string(&mut body, message);
        // No flags: they choose a hash for RSA.
        body.extend_from_slice(&[0; 4]);
        (body.len() <= MAX_MESSAGE_BYTES).then(|| framed(&body))
    }

    /// The signature in an answer, in the form that [`PublicKey::verify`] takes. It is not verified yet.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn signature(&self, body: &[u8]) -> Result<Vec<u8>, AnswerError> {
        const MALFORMED: AnswerError = AnswerError::Malformed("a malformed signature");
        let algorithm = self.public.as_ref().map_err(|_| MALFORMED)?.algorithm();
        let signature = whole_string(answer(body, SIGN_RESPONSE)?).ok_or(MALFORMED)?;
        let (name, rest) = take_string(signature).ok_or(MALFORMED)?;
        let signature = whole_string(rest).ok_or(MALFORMED)?;
        let number = match algorithm {
            Algorithm::Ed25519 if name == ED25519.as_bytes() => return Ok(signature.to_vec()),
            Algorithm::EcdsaP256 if name == P256.0.as_bytes() => 32,
            Algorithm::EcdsaP384 if name == P384.0.as_bytes() => 48,
            _ => return Err(MALFORMED),
        };
        let (r, rest) = take_string(signature).ok_or(MALFORMED)?;
        let s = whole_string(rest).ok_or(MALFORMED)?;
        let fixed = [r, s].map(|part| unsigned(part).and_then(|part| padded(part, number)));
        let [Some(r), Some(s)] = fixed else { return Err(MALFORMED) };
        Ok([r, s].concat())
    }
}

/// Asks for the list of keys.
pub fn list_request() -> Vec<u8> {
    framed(&[REQUEST_IDENTITIES])
}

/// The keys in an answer, those too that cannot be used.
///
/// # Errors
/// [`AnswerError`].
pub fn keys(body: &[u8]) -> Result<Vec<AgentKey>, AnswerError> {
    const MALFORMED: AnswerError = AnswerError::Malformed("a malformed list of keys");
    let (count, mut rest) = answer(body, IDENTITIES_ANSWER)?.split_first_chunk().ok_or(MALFORMED)?;
    let count = u32::from_be_bytes(*count);
    if count > MAX_KEYS {
        return Err(AnswerError::Malformed("too many keys"));
    }
    let mut keys = Vec::new();
    for _ in 0..count {
        let (blob, after) = take_string(rest).ok_or(MALFORMED)?;
        // The comment names nobody.
        let (_, after) = take_string(after).ok_or(MALFORMED)?;
        keys.push(AgentKey::new(blob));
        rest = after;
    }
    if rest.is_empty() { Ok(keys) } else { Err(MALFORMED) }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(body.len().saturating_add(4));
    put_string(&mut message, body);
    message
}

fn answer(body: &[u8], expected: u8) -> Result<&[u8], AnswerError> {
    match body.split_first() {
        Some((number, rest)) if *number == expected => Ok(rest),
        Some((&FAILURE, [])) => Err(AnswerError::Refused),
        _ => Err(AnswerError::Malformed("something else than was asked for")),
    }
}

/// A string that nothing follows.
fn whole_string(bytes: &[u8]) -> Option<&[u8]> {
    take_string(bytes).and_then(|(string, rest)| rest.is_empty().then_some(string))
}

fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let zeros = length.checked_sub(number.len())?;
    Some([&vec![0; zeros], number].concat())
}

fn public_key(blob: &[u8]) -> Result<PublicKey, AgentKeyError> {
    let (kind, rest) = take_string(blob).ok_or(AgentKeyError::Malformed)?;
    let kind = std::str::from_utf8(kind).map_err(|_| AgentKeyError::Malformed)?;
    let malformed = AgentKeyError::Malformed;
    if kind == ED25519 {
        let key = whole_string(rest).and_then(|key| key.try_into().ok()).ok_or(malformed)?;
        return PublicKey::from_ed25519(key).map_err(AgentKeyError::Public);
    }
    let curve = [P256, P384].into_iter().find(|(name, _)| *name == kind);
    if let Some((_, curve)) = curve {
        let (named, rest) = take_string(rest).ok_or(AgentKeyError::Malformed)?;
        let point = whole_string(rest).filter(|_| named == curve.as_bytes()).ok_or(malformed)?;
        let key = if curve == P256.1 { PublicKey::from_p256_point(point) } else { PublicKey::from_p384_point(point) };
        return key.map_err(AgentKeyError::Public);
    }
    // Whatever else it is called comes from the agent and is shown to a person.
    let shown = || kind.chars().filter(char::is_ascii_graphic).take(64).collect::<String>();
    Err(match kind {
        RSA => AgentKeyError::Rsa,
        _ if kind.starts_with("sk-") => AgentKeyError::SecurityKey(shown()),
        _ => AgentKeyError::Kind(shown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn string(bytes: &[u8]) -> Vec<u8> {
        framed(bytes)
    }

    fn listed(blobs: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![IDENTITIES_ANSWER];
        body.extend_from_slice(&u32::try_from(blobs.len()).unwrap().to_be_bytes());
        body.extend(blobs.iter().flat_map(|blob| [string(blob), string(b"somebody")].concat()));
        body
    }

    fn ed25519() -> Vec<u8> {
        BASE64.decode(KEY.split_once(' ').unwrap().1.as_bytes()).unwrap()
    }

    #[test]
    fn fingerprints_are_those_of_openssh() {
        // From the documentation of GitHub, whose key this was.
        let fingerprint = "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8";
        let key = "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEAq2A7hRGmdnm9tUDbO9IDSwBK6TbQa+PXYPCPy6rbTrTtw7PHkccKrpp0yVhp5HdEIcKr6pLlVDBfOLX9QUsyCOV0wzfjIJNlGEYsdlLJizHhbn2mUjvSAHQqZETYP81eFzLQNnPHt4EVVUh7VfDESU84KezmD5QlWpXLmvU31/yMf+Se8xhHTvKSCZIFImWwoG6mbUoWf9nzpIoaSjB+weqqUUmpaaasXVal72J+UX2B+2RPW3RcT0eOzQgqlJL3RKrTJvdsjE3JEAvGq3lGHSZXy28G3skua2SmVi/w4yCE6gbODqnTWlg7+wC604ydGXA8VJiS5ap43JXiUFFAaQ==";
        let parsed: Fingerprint = fingerprint.parse().unwrap();
        assert_eq!(parsed.to_string(), fingerprint);
        for line in [key.to_owned(), format!("{key} a comment\n"), format!("{key}\r\n\n")] {
            assert_eq!(fingerprint_of_line(&line), Some(parsed), "{line}");
        }
        for bad in [format!("{key}\n{key}"), key.replace("ssh-rsa ", "ssh-dss "), String::new(), "ssh-rsa".into()] {
            assert_eq!(fingerprint_of_line(&bad), None, "{bad}");
        }
        for bad in [&fingerprint[7..], &fingerprint[..49], &format!("{fingerprint}="), "SHA256:", "MD5:00"] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_are_read_whole_or_not() {
        let of = |kind: &str| [string(kind.as_bytes()), string(b"x")].concat();
        let rsa = of("ssh-rsa");
        let list = listed(&[ed25519(), rsa, of("sk-ssh-ed25519@openssh.com"), of("ssh-\u{7}dss"), b"x".to_vec()]);
        let found = keys(&list).unwrap();
        let told: Vec<_> = found.iter().map(|key| key.public_key().err().cloned()).collect();
        assert_eq!(
            told,
            [
                None,
                Some(AgentKeyError::Rsa),
                Some(AgentKeyError::SecurityKey("sk-ssh-ed25519@openssh.com".into())),
                Some(AgentKeyError::Kind("ssh-dss".into())),
                Some(AgentKeyError::Malformed),
            ]
        );
        for end in 0..list.len() {
            assert!(keys(&list[..end]).is_err(), "cut at {end}");
        }
        assert!(keys(&[list.as_slice(), b"x"].concat()).is_err());
        assert_eq!(keys(&[FAILURE]).unwrap_err(), AnswerError::Refused);
        let many = [&[IDENTITIES_ANSWER][..], &u32::MAX.to_be_bytes()].concat();
        assert_eq!(keys(&many).unwrap_err(), AnswerError::Malformed("too many keys"));
    }

    #[test]
    fn signatures_get_their_fixed_form() {
        // The generator of P-256.
        let point = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                     4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
        let key = PublicKey::from_p256_point(&data_encoding::HEXLOWER.decode(point.as_bytes()).unwrap());
        let key = AgentKey { blob: Vec::new(), public: Ok(key.unwrap()) };
        let response = |name: &str, r: &[u8], s: &[u8], more: &[u8]| {
            let blob = [string(r), string(s), more.to_vec()].concat();
            let signature = [string(name.as_bytes()), string(&blob)].concat();
            [vec![SIGN_RESPONSE], string(&signature)].concat()
        };
        // A short r, and an s whose first bit is set and which so begins with zero.
        let (r, s) = ([7; 30], [&[0][..], &[0xff; 32]].concat());
        let fixed = key.signature(&response("ecdsa-sha2-nistp256", &r, &s, &[])).unwrap();
        assert_eq!(fixed, [&[0, 0][..], &r, &[0xff; 32]].concat());
        for bad in [
            response("ecdsa-sha2-nistp384", &r, &s, &[]),
            response("ecdsa-sha2-nistp256", &r, &s, &[0]),
            response("ecdsa-sha2-nistp256", &[1; 33], &s, &[]),
            response("ecdsa-sha2-nistp256", &[], &s, &[]),
            vec![SIGN_RESPONSE],
        ] {
            assert_eq!(key.signature(&bad), Err(AnswerError::Malformed("a malformed signature")), "{bad:?}");
        }
        assert_eq!(key.signature(&[FAILURE]), Err(AnswerError::Refused));
        for other in [&[][..], &[IDENTITIES_ANSWER], &[FAILURE, 0]] {
            let told = key.signature(other);
            assert_eq!(told, Err(AnswerError::Malformed("something else than was asked for")), "{other:?}");
        }
        assert!(key.sign_request(&vec![0; MAX_MESSAGE_BYTES]).is_none());
    }

    /// The messages as agents read them: length, number, content.
    #[test]
    fn requests_have_the_form_of_the_protocol() {
        assert_eq!(list_request(), [0, 0, 0, 1, 11]);
        let key = AgentKey::new(&ed25519());
        let body = [&[13_u8][..], &string(&ed25519()), &string(b"message"), &[0; 4]].concat();
        assert_eq!(key.sign_request(b"message").unwrap(), string(&body));
        // What is not the message: number, key, the message's length, flags.
        let most = MAX_MESSAGE_BYTES - 1 - string(&ed25519()).len() - 4 - 4;
        assert_eq!(key.sign_request(&vec![0; most]).unwrap().len(), 4 + MAX_MESSAGE_BYTES);
        assert!(key.sign_request(&vec![0; most + 1]).is_none());
    }

    #[test]
    fn an_agent_has_at_most_1024_keys() {
        let read = |count: usize| keys(&listed(&vec![b"x".to_vec(); count])).map(|keys| keys.len());
        assert_eq!(read(1024), Ok(1024));
        assert_eq!(read(1025), Err(AnswerError::Malformed("too many keys")));
    }

    /// RFC 4251 §5, of a number without leading zeros.
    fn mpint(number: &[u8]) -> Vec<u8> {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let mut out = Vec::new();
        crate::openssh::put_mpint(&mut out, &number[zeros..]);
        out
    }

    /// A key of each kind that signs here, as agents list it and sign with it (RFC 5656 §3.1, RFC 8709 §4).
    #[test]
    fn what_an_agent_signs_holds_under_the_key_that_it_lists() {
        use crate::random::SystemRng;
        use crate::sign::{RsaMinimum, SigningKey};
        use bulla_wire::api::KeyKind;
        for (kind, name, curve) in [
            (KeyKind::Ed25519, ED25519, None),
            (KeyKind::EcdsaP256, P256.0, Some(P256.1)),
            (KeyKind::EcdsaP384, P384.0, Some(P384.1)),
        ] {
            let pkcs8 = crate::transit::generate(kind, &mut SystemRng).unwrap();
            let own = SigningKey::from_pkcs8(pkcs8.expose(), RsaMinimum::Bits3072).unwrap();
            let public = own.public_key();
            let signature = own.sign(b"message").unwrap();
            let (rest, inner) = if let Some(curve) = curve {
                let (r, s) = signature.split_at(signature.len() / 2);
                ([string(curve.as_bytes()), string(public.ec_point().unwrap())].concat(), [r, s].map(mpint).concat())
            } else {
                (string(public.ed25519().unwrap()), signature.clone())
            };
            let blob = [string(name.as_bytes()), rest].concat();
            let key = AgentKey::new(&blob);
            assert_eq!(key.public_key(), Ok(public), "{kind}");
            assert_eq!(key.fingerprint(), Fingerprint::of(&blob));
            let answer = |name: &str| {
                [vec![SIGN_RESPONSE], string(&[string(name.as_bytes()), string(&inner)].concat())].concat()
            };
            assert_eq!(key.signature(&answer(name)), Ok(signature.clone()), "{kind}");
            assert_eq!(public.verify(b"message", &signature), Ok(()));
            // The name of another algorithm is that of another signature.
            for other in [ED25519, P256.0, P384.0, "rsa-sha2-512"].into_iter().filter(|other| *other != name) {
                let told = key.signature(&answer(other));
                assert_eq!(told, Err(AnswerError::Malformed("a malformed signature")), "{kind} as {other}");
            }
        }
    }

    /// RFC 5656 §3.1 names the curve twice, and nothing follows the point.
    #[test]
    fn a_key_that_contradicts_itself_is_malformed() {
        // The generator of P-256.
        let point = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                     4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
        let point = data_encoding::HEXLOWER.decode(point.as_bytes()).unwrap();
        let of = |kind: &str, curve: &str, more: &[u8]| {
            AgentKey::new(&[string(kind.as_bytes()), string(curve.as_bytes()), string(&point), more.to_vec()].concat())
        };
        assert!(of(P256.0, P256.1, &[]).public_key().is_ok());
        let longer = AgentKey::new(&[ed25519(), vec![0]].concat());
        for bad in [of(P256.0, P384.1, &[]), of(P384.0, P256.1, &[]), of(P256.0, P256.1, &[0]), longer] {
            assert_eq!(bad.public_key(), Err(&AgentKeyError::Malformed), "{bad:?}");
        }
    }
}
