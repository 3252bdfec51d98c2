//! JSON bodies about transit keys (`spec/transit.md`). Bytes are unpadded base64url in text fields.

pub use crate::transit::{DigestAlgorithm, KeyKind, Versioned};

use crate::error::Code;
use crate::json::V1;
use crate::name::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most items of one request: what a body of 1 MiB holds of small things, and about a millisecond of symmetric work.
pub const MAX_TRANSIT_ITEMS: usize = 1000;
/// Most items of one request that takes RSA's private key for each: up to 5 ms each, so half a second.
pub const MAX_RSA_ITEMS: usize = 100;
/// Most versions of a key: eight years of monthly rotation, and a backup of the largest kind fits one body.
pub const MAX_TRANSIT_VERSIONS: u32 = 100;
/// Largest JSON answer of a batch in bytes: the largest request, and what encryption and spelling add to each item.
pub const MAX_TRANSIT_ANSWER_BYTES: usize = 2 * 1024 * 1024;

/// `PUT /v1/transit/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTransitKey {
    /// What it is to be.
    pub kind: KeyKind,
    /// Its private or secret part may be exported and backed up. That is settled here, once.
    #[serde(default)]
    pub exportable: bool,
    /// It may be deleted.
    #[serde(default)]
    pub deletion_allowed: bool,
}

/// Plaintext of the body of `POST /v1/transit/{name}:import`, after the ingress line.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportTransitKey {
    /// What it is.
    pub kind: KeyKind,
    /// The key: 32 bytes of a symmetric key, 32 to 64 of an HMAC key, else PKCS#8 in DER.
    pub key: String,
    /// As in `CreateTransitKey`.
    #[serde(default)]
    pub exportable: bool,
    /// As in `CreateTransitKey`.
    #[serde(default)]
    pub deletion_allowed: bool,
}

/// `POST /v1/transit/{name}:configure`. What is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigureTransitKey {
    /// Whether the key may be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_allowed: Option<bool>,
    /// The oldest version that decrypts and verifies, 1 to the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_decryption_version: Option<u32>,
    /// The oldest version that encrypts and signs; 0: the newest alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_encryption_version: Option<u32>,
}

/// `GET /v1/transit/{name}`, and the answer of whatever changes a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransitKey {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: KeyKind,
    /// The newest version, which encrypts and signs unless another is named.
    pub latest_version: u32,
    /// The oldest version that decrypts and verifies.
    pub min_decryption_version: u32,
    /// The oldest version that encrypts and signs; 0: the newest alone.
    pub min_encryption_version: u32,
    /// It may be exported and backed up.
    pub exportable: bool,
    /// It may be deleted.
    pub deletion_allowed: bool,
    /// Its versions, oldest first; in the answer of a change only those that it made.
    pub versions: Vec<TransitVersion>,
}

/// One version of a key, as everybody may see it who may read the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransitVersion {
    /// Its number, from 1.
    pub version: u32,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// The public key in PEM (`PUBLIC KEY`), for kinds that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// `GET /v1/transit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransitKeys {
    /// Names of keys, sorted within the page.
    pub names: Vec<Name>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// Why one item of a batch failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemError {
    /// What kind of error.
    pub code: Code,
    /// What was wrong, for people.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What holds secrets does not print.
macro_rules! silent {
    ($($type:ident)*) => {
        $(impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), "(..)"))
            }
        })*
    };
}
silent! {
    ImportTransitKey Encrypt EncryptItem Datakey Sign SignItem Verify VerifyItem Hmac HmacItem VerifyHmac
    VerifyHmacItem ExportedKey TransitBackup BackupVersion Plaintexts PlaintextItem CiphertextItem SignatureItem
    MacItem VerdictItem
}

macro_rules! items {
    ($($(#[doc = $doc:literal])* $item:ident { $(#[doc = $line:literal])* $field:ident: $type:ty })*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
            #[serde(deny_unknown_fields)]
            pub struct $item {
                $(#[doc = $line])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
                /// Why there is none.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub error: Option<ItemError>,
            }

            impl From<Result<$type, ItemError>> for $item {
                fn from(result: Result<$type, ItemError>) -> Self {
                    match result {
                        Ok(value) => Self { $field: Some(value), error: None },
                        Err(error) => Self { $field: None, error: Some(error) },
                    }
                }
            }
        )*
    };
}

items! {
    /// One ciphertext or why there is none.
    CiphertextItem {
        /// `bulla:v<version>:<base64url>`.
        ciphertext: String
    }
    /// One plaintext or why there is none.
    PlaintextItem {
        /// What was encrypted.
        plaintext: String
    }
    /// One signature or why there is none.
    SignatureItem {
        /// `bulla:v<version>:<base64url>`.
        signature: String
    }
    /// One MAC or why there is none.
    MacItem {
        /// `bulla:v<version>:<base64url>`.
        mac: String
    }
    /// One verdict or why there is none.
    VerdictItem {
        /// Whether it holds.
        valid: bool
    }
}

/// Answer of `:encrypt` and `:rewrap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ciphertexts {
    /// In the order of the request.
    pub items: Vec<CiphertextItem>,
}

/// Plaintext of the answer of `:decrypt`, encrypted to the reader.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plaintexts {
    /// In the order of the request.
    pub items: Vec<PlaintextItem>,
}

/// Answer of `:sign`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signatures {
    /// What signed, which says how the bytes are to be read.
    pub kind: KeyKind,
    /// In the order of the request.
    pub items: Vec<SignatureItem>,
}

/// Answer of `:hmac`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Macs {
    /// In the order of the request.
    pub items: Vec<MacItem>,
}

/// Answer of `:verify` and `:verify-hmac`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verdicts {
    /// In the order of the request.
    pub items: Vec<VerdictItem>,
}

/// Plaintext of the body of `POST /v1/transit/{name}:encrypt`, after the ingress line.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encrypt {
    /// 1 to 1,000.
    pub items: Vec<EncryptItem>,
    /// The version that is to encrypt; the newest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// One thing to encrypt.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptItem {
    /// What is to be encrypted.
    pub plaintext: String,
    /// What must be given again to decrypt; it is not in the ciphertext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associated_data: Option<String>,
}

/// Body of `:decrypt` and `:rewrap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decrypt {
    /// 1 to 1,000.
    pub items: Vec<DecryptItem>,
}

/// One ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecryptItem {
    /// `bulla:v<version>:<base64url>`.
    pub ciphertext: String,
    /// What was given when it was encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associated_data: Option<String>,
}

/// Body of `:datakey` and `:datakey-wrapped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDatakey {
    /// Its length: 16, 32 or 64.
    pub bytes: u32,
    /// What must be given again to decrypt it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub associated_data: Option<String>,
}

/// Plaintext of the answer of `:datakey`, encrypted to the reader.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Datakey {
    /// The key.
    pub plaintext: String,
    /// The key, encrypted under the transit key.
    pub ciphertext: String,
}

/// Answer of `:datakey-wrapped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrappedDatakey {
    /// The key, encrypted under the transit key.
    pub ciphertext: String,
}

/// Plaintext of the body of `POST /v1/transit/{name}:sign`, after the ingress line.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sign {
    /// 1 to 1,000.
    pub items: Vec<SignItem>,
    /// The version that is to sign; the newest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The digest that is signed: for RSA any, SHA-256 if absent; else that of the kind. Required with `digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_algorithm: Option<DigestAlgorithm>,
}

/// One thing to sign: a message, or the digest of one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignItem {
    /// The message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its digest, by the algorithm that the request names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Plaintext of the body of `POST /v1/transit/{name}:verify`, after the ingress line.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// 1 to 1,000.
    pub items: Vec<VerifyItem>,
    /// As in `Sign`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_algorithm: Option<DigestAlgorithm>,
}

/// One signature to verify.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyItem {
    /// The message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its digest, by the algorithm that the request names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// `bulla:v<version>:<base64url>`.
    pub signature: String,
}

/// Plaintext of the body of `POST /v1/transit/{name}:hmac`, after the ingress line.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hmac {
    /// 1 to 1,000.
    pub items: Vec<HmacItem>,
    /// The version that is to authenticate; the newest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// One message to authenticate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HmacItem {
    /// The message.
    pub message: String,
}

/// Plaintext of the body of `POST /v1/transit/{name}:verify-hmac`, after the ingress line.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyHmac {
    /// 1 to 1,000.
    pub items: Vec<VerifyHmacItem>,
}

/// One MAC to verify.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyHmacItem {
    /// The message.
    pub message: String,
    /// `bulla:v<version>:<base64url>`.
    pub mac: String,
}

/// Body of `POST /v1/transit/{name}:export`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportTransitKey {
    /// Which version; the newest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// Plaintext of the answer of `:export`, encrypted to the reader.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportedKey {
    /// The key's name.
    pub name: Name,
    /// What it is.
    pub kind: KeyKind,
    /// Which version.
    pub version: u32,
    /// As in `ImportTransitKey`.
    pub key: String,
}

/// A whole key: plaintext of the answer of `:backup`, encrypted to the reader, and of the body of `:restore`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransitBackup {
    /// Version of this form.
    pub v: V1,
    /// The key's name, which its ciphertexts are bound to.
    pub name: Name,
    /// What it is.
    pub kind: KeyKind,
    /// As in `TransitKey`.
    pub min_decryption_version: u32,
    /// As in `TransitKey`.
    pub min_encryption_version: u32,
    /// As in `TransitKey`.
    pub deletion_allowed: bool,
    /// All versions, from 1 without a gap.
    pub versions: Vec<BackupVersion>,
}

/// One version of a backup.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupVersion {
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// As in `ImportTransitKey`.
    pub key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let body =
            Encrypt { items: vec![EncryptItem { plaintext: "canary".into(), associated_data: None }], version: None };
        assert!(!format!("{body:?} {:?}", body.items).contains("canary"));
        let answer = Plaintexts { items: vec![Ok("canary".to_owned()).into()] };
        assert!(!format!("{answer:?} {:?}", answer.items).contains("canary"));
    }
}
