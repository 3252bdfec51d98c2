//! What Vault answers, from bytes to values that cannot be wrong. Nothing here does IO.
//!
//! Threat: what answers may be anybody. No error repeats a part of an answer, and what an answer does not say is not
//! taken as said.

use crate::provider::{Class, ProviderError};
use bulla_crypto::secret::{SecretBytes, SecretKey};
use bulla_wire::encoding::{base64, base64_decode};
use http::HeaderValue;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Largest wrapped key in bytes: a nonce of at most 24 bytes, 32 of the key, a tag of 16.
pub const MAX_WRAPPED_BYTES: usize = 72;
/// What a wrapped key has at least: as many bytes as the key, and a tag.
const MIN_WRAPPED_BYTES: usize = 48;
/// Kinds of keys that encrypt with authentication and take additional data.
const KINDS: &[&str] = &["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"];
/// As much of an error of Vault as is repeated, in characters.
const QUOTED_CHARS: usize = 200;
/// From this length on a word of an error may be a token, and is left out.
const SUSPICIOUS_CHARS: usize = 20;

/// A transit key as its engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyState {
    /// The newest version.
    pub latest: u64,
    /// The oldest version that decrypts.
    pub min_decryption: u64,
    /// The oldest version that encrypts; 0 is the newest alone by default, and any on request.
    pub min_encryption: u64,
    /// When each version was made, in Unix seconds.
    pub versions: BTreeMap<u64, u64>,
    /// Why it must not be used as it is.
    pub unfit: Option<ProviderError>,
    /// It may be deleted, and all that it encrypts with it.
    pub deletable: bool,
    /// Whether whoever has the right can take the key out of Vault.
    pub leaves: bool,
}

/// A token as a login, a renewal or a look at it tells.
pub struct TokenState {
    /// The token, where the answer brings it.
    pub token: Option<HeaderValue>,
    /// How long it lives; `None` is without end.
    pub ttl: Option<Duration>,
    /// How long it lived when it was made or last renewed, which is what a renewal asks for.
    pub whole: Option<Duration>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// Whether renewals keep it for as long as they come: it has a period, and no greatest age.
    pub periodic: bool,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Auth<T> {
    auth: T,
}

/// Parses an answer to `what`.
fn parse<'a, T: Deserialize<'a>>(body: &'a SecretBytes, what: &str) -> Result<T, ProviderError> {
    serde_json::from_slice(body.expose()).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        protocol(format!("{what} is not what Vault answers, at {place}: compare the address with that of the Vault"))
    })
}

fn protocol(text: impl Into<String>) -> ProviderError {
    ProviderError::new(Class::Protocol, text)
}

/// The answer to a look at a key.
///
/// # Errors
/// [`Class::Protocol`] if it is none, [`Class::Config`] if the key does not encrypt.
pub fn key(body: &SecretBytes) -> Result<KeyState, ProviderError> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    #[derive(Deserialize)]
    struct Key {
        latest_version: u64,
        min_decryption_version: u64,
        #[serde(default)]
        min_encryption_version: u64,
        derived: bool,
        deletion_allowed: bool,
        #[serde(default)]
        soft_deleted: bool,
        #[serde(default)]
        exportable: bool,
        #[serde(default)]
        allow_plaintext_backup: bool,
        keys: BTreeMap<String, serde_json::Value>,
    }
    // Of keys that do not encrypt, other things are said.
    let kind = parse::<Data<Kind>>(body, "the description of the key")?.data.kind;
    if !KINDS.contains(&kind.as_str()) {
        let text = "the key is of a type that does not encrypt with associated data: make one of type aes256-gcm96, \
                    chacha20-poly1305 or aes128-gcm96";
        return Err(ProviderError::new(Class::Config, text));
    }
    let key: Key = parse::<Data<Key>>(body, "the description of the key")?.data;
    let mut state = KeyState {
        latest: key.latest_version,
        min_decryption: key.min_decryption_version,
        min_encryption: key.min_encryption_version,
        versions: BTreeMap::new(),
        unfit: unfit(key.derived, key.soft_deleted),
        deletable: key.deletion_allowed,
        leaves: key.exportable || key.allow_plaintext_backup,
    };
    for (version, made) in &key.keys {
        let version = number(version).ok_or_else(|| protocol("the key has a version that is no number"))?;
        let made = made.as_u64().ok_or_else(|| protocol("a version of the key has no time at which it was made"))?;
        state.versions.insert(version, made);
    }
    if !state.versions.contains_key(&state.latest) || state.min_decryption > state.latest {
        return Err(protocol("the newest version of the key is not among its versions"));
    }
    Ok(state)
}

/// Why a key must not be used, or `None`.
fn unfit(derived: bool, deleted: bool) -> Option<ProviderError> {
    let config = |text: &str| Some(ProviderError::new(Class::Config, text));
    if derived {
        return config("the key is derived, so each context has another key: make one without derived");
    }
    if deleted {
        return Some(ProviderError::new(
            Class::KeyDisabled,
            "the key is deleted for the time being: restore it in Vault",
        ));
    }
    None
}

/// A number as it is written, without sign or zeros before it.
fn number(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|number| *number != 0 && number.to_string() == text)
}

/// What was encrypted, if it was by `version`.
///
/// # Errors
/// [`Class::Protocol`] if it was by another, or is not a key that was encrypted.
pub fn wrapped(body: &SecretBytes, version: u64) -> Result<Vec<u8>, ProviderError> {
    #[derive(Deserialize)]
    struct Encrypted<'a> {
        ciphertext: &'a str,
    }
    let text = parse::<Data<Encrypted<'_>>>(body, "what was encrypted")?.data.ciphertext;
    let parts = text.strip_prefix("vault:v").and_then(|rest| rest.split_once(':'));
    let (by, text) = parts.ok_or_else(|| protocol("what was encrypted does not begin with vault:vVERSION:"))?;
    let by = number(by).ok_or_else(|| protocol("what was encrypted names no version"))?;
    if by != version {
        return Err(protocol(format!("version {by} of the key encrypted, where version {version} was asked for")));
    }
    let bytes = base64_decode(text).ok_or_else(|| protocol("what was encrypted is not base64"))?;
    if !(MIN_WRAPPED_BYTES..=MAX_WRAPPED_BYTES).contains(&bytes.len()) {
        return Err(protocol(format!("what was encrypted has {} bytes, so it is not the key", bytes.len())));
    }
    Ok(bytes)
}

/// The spelling that [`wrapped`] read.
pub fn ciphertext(wrapped: &[u8], version: u64) -> String {
    format!("vault:v{version}:{}", base64(wrapped))
}

/// What was decrypted.
///
/// # Errors
/// [`Class::Protocol`] if it is not a key of 32 bytes.
pub fn plain(body: &SecretBytes) -> Result<SecretKey, ProviderError> {
    #[derive(Deserialize)]
    struct Decrypted<'a> {
        plaintext: &'a str,
    }
    let text = parse::<Data<Decrypted<'_>>>(body, "what was decrypted")?.data.plaintext;
    let bytes = base64_decode(text).map(SecretBytes::new);
    let key = bytes.and_then(|bytes| SecretKey::from_slice(bytes.expose()));
    key.ok_or_else(|| protocol("what was decrypted is not a key of 32 bytes"))
}

/// The cluster's own id.
///
/// # Errors
/// [`Class::Protocol`] if it is not said.
pub fn cluster_id(body: &SecretBytes) -> Result<String, ProviderError> {
    #[derive(Deserialize)]
    struct Health {
        cluster_id: String,
    }
    let id = parse::<Health>(body, "what it says of its health")?.cluster_id;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if id.is_empty() || id.len() > 64 || !id.bytes().all(known) {
        return Err(protocol(
            "it does not say which cluster it is: there is no cluster_id in the answer of sys/health",
        ));
    }
    Ok(id)
}

/// What a login or a renewal gave.
///
/// # Errors
/// [`Class::Protocol`] if there is no token, [`Class::Config`] if it can be used a few times only.
pub fn login(body: &SecretBytes) -> Result<TokenState, ProviderError> {
    #[derive(Deserialize)]
    struct Login<'a> {
        client_token: &'a str,
        lease_duration: u64,
        renewable: bool,
        #[serde(default)]
        num_uses: u64,
    }
    let login = parse::<Auth<Login<'_>>>(body, "what the login gave")?.auth;
    unlimited(login.num_uses)?;
    let ttl = seconds(login.lease_duration);
    let token = header(login.client_token.as_bytes()).ok_or_else(|| protocol("the login gave no token"))?;
    Ok(TokenState { token: Some(token), ttl, whole: ttl, renewable: login.renewable, periodic: false })
}

/// What a token says of itself.
///
/// # Errors
/// As [`login`].
pub fn lookup(body: &SecretBytes) -> Result<TokenState, ProviderError> {
    #[derive(Deserialize)]
    struct Lookup {
        ttl: u64,
        #[serde(default)]
        creation_ttl: u64,
        #[serde(default)]
        period: u64,
        #[serde(default)]
        explicit_max_ttl: u64,
        #[serde(default)]
        renewable: bool,
        #[serde(default)]
        num_uses: u64,
        #[serde(default)]
        expire_time: Option<String>,
    }
    let token = parse::<Data<Lookup>>(body, "what the token says of itself")?.data;
    unlimited(token.num_uses)?;
    // In its last second a token has a TTL of 0 too, but it does have an end.
    let ttl = seconds(token.ttl).or_else(|| token.expire_time.map(|_| Duration::ZERO));
    let whole = seconds(token.period).or_else(|| seconds(token.creation_ttl)).or(ttl);
    let periodic = token.period > 0 && token.explicit_max_ttl == 0;
    Ok(TokenState { token: None, ttl, whole, renewable: token.renewable, periodic })
}

fn unlimited(num_uses: u64) -> Result<(), ProviderError> {
    if num_uses == 0 {
        return Ok(());
    }
    let text = "the token can be used a few times only: set token_num_uses=0 on the role, or make it without a limit";
    Err(ProviderError::new(Class::Config, text))
}

/// A TTL as Vault writes it, in which 0 is none. One of centuries is none either.
fn seconds(ttl: u64) -> Option<Duration> {
    const CENTURY: u64 = 100 * 366 * 24 * 3600;
    (1..=CENTURY).contains(&ttl).then(|| Duration::from_secs(ttl))
}

/// A token as a header, which does not print.
pub fn header(token: &[u8]) -> Option<HeaderValue> {
    let graphic = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    let mut value = HeaderValue::from_bytes(token).ok().filter(|_| graphic)?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a token may create what stands at `path`; `None` if the answer does not say.
pub fn may_create(body: &SecretBytes, path: &str) -> Option<bool> {
    let mut all = serde_json::from_slice::<Data<BTreeMap<String, serde_json::Value>>>(body.expose()).ok()?.data;
    let rights: Vec<String> = serde_json::from_value(all.remove(path)?).ok()?;
    Some(rights.iter().any(|right| right == "create" || right == "root"))
}

/// Where a wrapping token was made.
///
/// # Errors
/// [`Class::Protocol`] if it is not said.
pub fn creation_path(body: &SecretBytes) -> Result<String, ProviderError> {
    #[derive(Deserialize)]
    struct Wrapping {
        creation_path: String,
    }
    Ok(parse::<Data<Wrapping>>(body, "what is said of the wrapping token")?.data.creation_path)
}

/// The secret of a role, as a wrapping token gives it.
///
/// # Errors
/// [`Class::Protocol`] if there is none.
pub fn secret_id(body: &SecretBytes) -> Result<SecretBytes, ProviderError> {
    #[derive(Deserialize)]
    struct Unwrapped<'a> {
        secret_id: &'a str,
    }
    let secret = parse::<Data<Unwrapped<'_>>>(body, "what the wrapping token gave")?.data.secret_id;
    Ok(SecretBytes::new(secret.as_bytes().to_vec()))
}

/// The errors that an answer names, for people. Words that may be tokens are left out, and whatever contains what was
/// sent as a secret.
pub fn said(body: &SecretBytes, secret: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let Ok(said) = serde_json::from_slice::<Errors>(body.expose()) else { return String::new() };
    let said = said.errors.join("; ");
    if !secret.is_empty() && said.as_bytes().windows(secret.len()).any(|part| part == secret) {
        return String::new();
    }
    let word = |word: &str| {
        let plain = word.chars().count() < SUSPICIOUS_CHARS && word.bytes().all(|byte| byte.is_ascii_graphic());
        if plain { word.to_owned() } else { "[…]".to_owned() }
    };
    let words: Vec<String> = said.split_whitespace().map(word).collect();
    words.join(" ").chars().take(QUOTED_CHARS).collect()
}

/// Whether an answer of 404 has no error in it: the thing asked for is not there, while its engine is.
pub fn is_absence(body: &SecretBytes) -> bool {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<serde_json::Value>,
    }
    serde_json::from_slice::<Errors>(body.expose()).is_ok_and(|said| said.errors.is_empty())
}

#[cfg(test)]
mod tests;
