//! Stored secrets that the server cannot read: what their writer signs, and how they travel (`spec/kv.md`).

use crate::dsse::Envelope;
use crate::encoding::Base64;
use crate::id::{ClusterId, PrincipalId, WrapId};
use crate::json::{StrictMap, V1};
use crate::name::SecretPath;
use crate::wrap::{Addressee, Ciphertext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// `payloadType` of [`SealedStatement`].
pub const SEALED_TYPE: &str = "application/vnd.bulla.kv.v1+json";

/// What a writer signs over a version that is encrypted to its readers. It names its place, so a server cannot show it in
/// another, nor as a version that it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedStatement {
    /// Format version.
    pub v: V1,
    /// The cluster.
    pub cluster: ClusterId,
    /// Where it lies.
    pub path: SecretPath,
    /// The version that it is: the next one when it was written.
    pub version: u64,
    /// Random. The age file's binding names it in place of a wrap.
    pub id: WrapId,
    /// The writer.
    pub from: PrincipalId,
    /// The readers, at least one, no principal twice.
    pub to: Vec<Addressee>,
    /// The age file.
    pub ct: Ciphertext,
}

/// A version that its readers alone can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedKv {
    /// The writer's [`SealedStatement`].
    pub statement: Envelope,
    /// The age file, which holds a [`KvContent`].
    pub file: Base64,
}

/// The content of a version: fields or bytes, one of the two.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvContent {
    /// The fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<StrictMap<String>>,
    /// The bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Base64>,
}

impl fmt::Debug for KvContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KvContent")
    }
}
