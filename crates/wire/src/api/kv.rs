//! Bodies of the routes of stored secrets (`spec/kv.md`).

use crate::encoding::Base64;
use crate::id::PrincipalId;
use crate::json::StrictMap;
use crate::kv::SealedKv;
use crate::name::SecretPath;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Largest value in bytes, its JSON form included: fits one record. Larger things go by wrap.
pub const MAX_VALUE_BYTES: usize = 256 * 1024;
/// Versions that a secret keeps unless its settings say otherwise, as users of Vault expect.
pub const DEFAULT_MAX_VERSIONS: u32 = 10;
/// Most versions that a secret keeps: what is known of them fits one small record.
pub const MAX_VERSIONS: u32 = 100;
/// Most entries of a secret's custom metadata.
pub const MAX_CUSTOM: usize = 64;
/// Longest key in custom metadata, in bytes.
pub const MAX_CUSTOM_KEY_BYTES: usize = 128;
/// Longest value in custom metadata, in bytes: it is no place for a secret.
pub const MAX_CUSTOM_VALUE_BYTES: usize = 512;
/// Longest life of a version in seconds, ten years: what lives longer has no end that anybody plans for.
pub const MAX_TTL_S: u64 = 3660 * 24 * 3600;

/// Plaintext of the body of `PUT /v1/kv/{path}`, after the ingress line. It holds one of `data`, `bytes`
/// and `sealed`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutKv {
    /// The fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<StrictMap<String>>,
    /// Bytes of any kind instead of fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Base64>,
    /// What the server cannot read instead of either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedKv>,
    /// The version that must be there now; 0 for none; absent to write whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cas: Option<u64>,
    /// Seconds from now after which the version is destroyed; absent for what the secret's settings say, 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// When the version is destroyed, Unix milliseconds, in place of `ttl_s`: who writes the content of a version again
    /// gives the end of that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// That the server may read this version, though the newest one is sealed to its readers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseal: bool,
}

/// Plaintext of the body of `PATCH /v1/kv/{path}`, after the ingress line: a merge patch (RFC 7396) of the newest
/// version's fields.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchKv {
    /// What the fields become; null takes a field away. The others stay.
    pub data: StrictMap<Option<String>>,
    /// The version that must be there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cas: Option<u64>,
    /// As in [`PutKv`], but absent the version ends when the one before it would have, if that has an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

impl PutKv {
    /// These fields, whatever is there.
    pub fn fields(data: StrictMap<String>) -> Self {
        Self { data: Some(data), ..Self::default() }
    }
    /// These bytes, whatever is there.
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self { bytes: Some(Base64(bytes)), ..Self::default() }
    }
}

impl fmt::Debug for PutKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutKv(cas {:?}, ttl_s {:?})", self.cas, self.ttl_s)
    }
}

impl fmt::Debug for PatchKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PatchKv(cas {:?}, ttl_s {:?})", self.cas, self.ttl_s)
    }
}

/// Answer of `PUT` and `PATCH /v1/kv/{path}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvWritten {
    /// The version that was written.
    pub version: u64,
    /// When it will be destroyed, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// Plaintext of the answer of `GET /v1/kv/{path}?version=`, encrypted to the reader.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kv {
    /// Where it lies.
    pub path: SecretPath,
    /// Its version, from 1.
    pub version: u64,
    /// When it was written, Unix milliseconds.
    pub written_ms: u64,
    /// Who wrote it.
    pub by: PrincipalId,
    /// When it will be destroyed, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// The fields, if it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<StrictMap<String>>,
    /// Its bytes, if it has those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Base64>,
    /// What its readers alone can open, if it is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedKv>,
}

impl fmt::Debug for Kv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kv({} version {})", self.path, self.version)
    }
}

/// What a version of a secret has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvState {
    /// It can be read.
    Live,
    /// It cannot be read, and can be undeleted.
    Deleted,
    /// Its content is gone.
    Destroyed,
    /// Its content is gone, because its time was over.
    Expired,
}

/// What is known of a version without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvVersion {
    /// Its number, from 1.
    pub version: u64,
    /// When it was written, Unix milliseconds.
    pub written_ms: u64,
    /// Who wrote it.
    pub by: PrincipalId,
    /// What it has come to.
    pub state: KvState,
    /// When it came to that, Unix milliseconds; none while it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// When it will be destroyed, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// To whom it is sealed; none if the server can read it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<PrincipalId>,
}

/// What a secret's owner decides about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvSettings {
    /// How many versions are kept, 1 to 100. The oldest is destroyed by the put that makes one too many.
    pub max_versions: u32,
    /// Whether each put must name the version that it replaces.
    pub cas_required: bool,
    /// Seconds that a version lives if its put does not say; 0 for ever.
    pub ttl_s: u64,
    /// Words for people and programs. Not secret: whoever may inspect the secret sees them.
    pub custom: StrictMap<String>,
}

/// `GET /v1/kv/{path}:metadata`, and the answer of what changes it. Versions that are kept no more are not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvMetadata {
    /// Where it lies.
    pub path: SecretPath,
    /// The newest version; 0 if none was ever written.
    pub version: u64,
    /// What its owner decided.
    pub settings: KvSettings,
    /// Its versions, oldest first.
    pub versions: Vec<KvVersion>,
}

/// Longest time that a watch waits, in seconds: proxies in between often give up after sixty.
pub const MAX_WATCH_S: u64 = 50;
/// How long it waits unless the caller says otherwise, in seconds.
pub const DEFAULT_WATCH_S: u64 = 30;

/// `GET /v1/kv/{path}:watch`: what lies there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvWatched {
    /// Where.
    pub path: SecretPath,
    /// The newest version; 0 if there is none.
    pub version: u64,
    /// What it has come to; none if there is none.
    pub state: Option<KvState>,
    /// When it will be destroyed, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Give it as `after`, to wait until something else lies there. 64 bytes at most, and nobody's business but the
    /// server's.
    pub mark: String,
}

/// `PUT /v1/kv/{path}:metadata`: what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetKvSettings {
    /// As in [`KvSettings`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_versions: Option<u32>,
    /// As in [`KvSettings`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cas_required: Option<bool>,
    /// As in [`KvSettings`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// A merge patch (RFC 7396) of the custom metadata: null takes an entry away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<StrictMap<Option<String>>>,
}

/// `POST /v1/kv/{path}:delete` and `:undelete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvVersions {
    /// Which versions; absent for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Vec<u64>>,
}

/// `POST /v1/kv/{path}:destroy`: these versions, or everything. One of the two must stand there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DestroyKv {
    /// Which versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Vec<u64>>,
    /// All versions, the settings and the name itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// `GET /v1/kv:list`, `GET /v1/kv/{path}:list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvNames {
    /// Names below the path; a directory ends in `/`. Sorted within the page.
    pub names: Vec<String>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}
