//! What is asked of KMS and what it answers, as its JSON API has it.

use crate::provider::Context;
use crate::provider::cloud::{Text, word};
use crate::provider::http::Reply;
use bulla_wire::encoding::base64url;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is asked of KMS. Each is a right of its own.
#[derive(Clone, Copy)]
pub enum Action {
    DescribeKey,
    ListKeyRotations,
    Encrypt,
    Decrypt,
}

impl Action {
    pub const fn name(self) -> &'static str {
        match self {
            Self::DescribeKey => "DescribeKey",
            Self::ListKeyRotations => "ListKeyRotations",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribeKey<'a> {
    pub key_id: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Described {
    pub key_metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metadata {
    pub arn: String,
    pub creation_date: f64,
    pub key_state: String,
    pub key_usage: String,
    pub key_spec: String,
    pub current_key_material_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListKeyRotations<'a> {
    pub key_id: &'a str,
    pub include_key_material: &'static str,
    pub limit: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Rotations {
    pub rotations: Vec<Rotation>,
    #[serde(default)]
    pub truncated: bool,
    pub next_marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Rotation {
    pub key_material_id: Option<String>,
    pub key_material_state: Option<String>,
    pub import_state: Option<String>,
    pub rotation_date: Option<f64>,
}

impl Rotation {
    pub fn unwraps(&self) -> bool {
        matches!(self.key_material_state.as_deref(), Some("CURRENT" | "NON_CURRENT"))
            && self.import_state.as_deref() != Some("PENDING_IMPORT")
    }
}

/// Additional authenticated data, which KMS takes as texts.
#[derive(Serialize)]
pub struct EncryptionContext {
    #[serde(rename = "bulla-kms")]
    pub hash: String,
}

impl EncryptionContext {
    pub fn of(context: &Context) -> Self {
        Self { hash: base64url(context.bytes()) }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Encrypt<'a> {
    pub key_id: &'a str,
    pub plaintext: &'a str,
    pub encryption_context: EncryptionContext,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Encrypted {
    pub key_id: String,
    pub ciphertext_blob: Text,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Decrypt<'a> {
    pub key_id: &'a str,
    pub ciphertext_blob: &'a str,
    pub encryption_context: EncryptionContext,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Decrypted {
    pub key_id: String,
    pub plaintext: Text,
    pub key_material_id: Option<String>,
}

/// A time as KMS writes it, in whole seconds.
pub fn seconds(time: f64) -> Option<u64> {
    Duration::try_from_secs_f64(time).ok().map(|time| time.as_secs())
}

/// The code of a failure: the last part of `__type`, or of a header.
pub fn code(reply: &Reply) -> String {
    #[derive(Deserialize)]
    struct Failure {
        #[serde(rename = "__type")]
        kind: String,
    }
    let body = serde_json::from_slice(reply.body.expose()).ok().map(|failure: Failure| failure.kind);
    let header = || Some(reply.headers.get("x-amzn-errortype")?.to_str().ok()?.split(':').next()?.to_owned());
    let code = body.or_else(header).unwrap_or_default();
    word(code.rsplit('#').next().unwrap_or_default()).to_owned()
}

/// Whether a code says that the credentials are no longer any.
pub fn is_refused(code: &str) -> bool {
    matches!(code, "ExpiredTokenException" | "ExpiredToken" | "UnrecognizedClientException" | "InvalidClientTokenId")
}
