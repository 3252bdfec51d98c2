//! Transit: keys that never leave, which encrypt, sign and authenticate for those whom policy lets
//! (`spec/transit.md`).
//!
//! A key is a record of its settings, and one record for each version, since the private keys of many versions would
//! not fit one. What is made names its version, and is made and undone by functions of [`bulla_crypto::transit`].
//!
//! A batch fails item by item; a request with a single item fails with it, so that its audit line says so.

mod encrypt;
mod key;
mod sign;

pub use encrypt::{Datakey, Decrypt, Encrypt, Rewrap};
pub use key::{Backup, Configure, Create, Delete, Export, Import, List, Read, Restore, Rotate};
pub use sign::{Hmac, Sign, Verify, VerifyHmac};

use crate::barrier::{Kind, Record, RecordKey, Records};
use crate::operation::{Fault, Outcome, Refusal, Step, parse_record};
use bulla_crypto::secret::{Secret, SecretBytes};
use bulla_crypto::transit::{TransitError, TransitKey, Use};
use bulla_wire::api::{ItemError, KeyKind, MAX_RSA_ITEMS, MAX_TRANSIT_ITEMS, Versioned};
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::error::Code;
use bulla_wire::name::Name;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Batches of more items than this are worked on beside the loop: so many AEAD keys are derived in about 50 µs. Where RSA's
/// private key may be asked for, one item is the most.
const FEW_ITEMS: usize = 16;

/// A key's settings as they are stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: Name,
    kind: KeyKind,
    latest: u32,
    min_decryption: u32,
    min_encryption: u32,
    exportable: bool,
    deletion_allowed: bool,
}

/// A version as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    version: u32,
    created_ms: u64,
    key: Material,
    /// In PEM, so that reading a key with many versions parses none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

/// A key's bytes as unpadded base64url, without an unwiped copy of the text.
struct Material(SecretBytes);

impl Serialize for Material {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Secret::new(base64url(self.0.expose())).expose())
    }
}

impl<'de> Deserialize<'de> for Material {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MaterialVisitor;
        impl Visitor<'_> for MaterialVisitor {
            type Value = Material;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key in base64url")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Material, E> {
                let bytes = base64url_decode(text).ok_or_else(|| E::custom("not base64url"))?;
                Ok(Material(SecretBytes::new(bytes)))
            }
        }
        deserializer.deserialize_str(MaterialVisitor)
    }
}

fn settings_key(name: &Name) -> RecordKey {
    RecordKey::hidden(Kind::TransitKey, "", name.as_str())
}

/// The number stands in clear, so that one scan gives all versions in their order.
fn version_key(name: &Name, version: u32) -> RecordKey {
    RecordKey::clear(Kind::TransitVersion, name.as_str(), version.to_be_bytes())
}

/// Why a step does not go on.
enum Stop {
    Need(Vec<RecordKey>),
    Refused(Refusal),
    Fault(Fault),
}

impl Stop {
    /// Names the field that a refusal is about.
    fn field(self, name: impl Into<String>) -> Self {
        match self {
            Self::Refused(refusal) => Self::Refused(refusal.field(name)),
            other => other,
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A step as whoever drives it takes it.
fn settle(step: Result<Step, Stop>) -> Result<Step, Fault> {
    match step {
        Ok(step) => Ok(step),
        Err(Stop::Need(keys)) => Ok(Step::need(keys)),
        Err(Stop::Refused(refusal)) => Ok(Outcome::refuse(refusal)),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

fn found<'a>(records: &'a Records, key: &RecordKey) -> Result<Option<&'a Record>, Stop> {
    records.get(key).ok_or_else(|| Stop::Need(vec![key.clone()]))
}

/// A key's settings, and the record they stand in.
fn settings<'a>(records: &'a Records, name: &Name) -> Result<(&'a Record, Settings), Stop> {
    let Some(record) = found(records, &settings_key(name))? else {
        let refusal = Refusal::new(Code::NotFound, format!("no transit key is called {name}"));
        return Err(refusal.hint("`bulla transit list` shows what there is").into());
    };
    Ok((record, parse_record("transit key", &record.bytes)?))
}

impl Settings {
    /// A version, which these settings say is there. It is read together with the settings, which may have changed
    /// since they were first read.
    fn version(&self, records: &Records, version: u32) -> Result<Version, Stop> {
        let key = version_key(&self.name, version);
        let Some(found) = records.get(&key) else { return Err(Stop::Need(vec![settings_key(&self.name), key])) };
        let Some(record) = found else {
            let reason = format!("version {version} is missing");
            return Err(Fault::Record { kind: "transit version", reason }.into());
        };
        let stored: Version = parse_record("transit version", &record.bytes)?;
        if stored.version != version {
            return Err(Fault::Record { kind: "transit version", reason: "its number is another".into() }.into());
        }
        Ok(stored)
    }

    /// A version's key, ready for use.
    fn key(&self, records: &Records, version: u32, taken_for: Use) -> Result<TransitKey, Stop> {
        let stored = self.version(records, version)?;
        TransitKey::parse_for(taken_for, self.kind, stored.key.0.expose()).map_err(|_| Fault::Key("transit key").into())
    }

    /// The version that encrypts or signs: the newest, or the one that was asked for.
    fn making(&self, asked: Option<u32>) -> Result<u32, Refusal> {
        let Some(version) = asked else { return Ok(self.latest) };
        let oldest = if self.min_encryption == 0 { self.latest } else { self.min_encryption };
        let hint = "leave the version out for the newest one";
        if version == 0 || version > self.latest {
            let refusal = Refusal::new(Code::UnknownVersion, format!("{} has no version {version}", self.name));
            return Err(refusal.field("version").hint(hint));
        }
        if version < oldest {
            let message = format!("version {version} of {} is no longer used: the oldest is {oldest}", self.name);
            return Err(Refusal::new(Code::VersionArchived, message).field("version").hint(hint));
        }
        Ok(version)
    }

    /// Whether what a version made may still be undone or verified.
    fn undoing(&self, version: u32) -> Result<(), Refusal> {
        if version > self.latest {
            let message = format!("{} has versions up to {}, not {version}", self.name, self.latest);
            let hint = "a key of another cluster made it, or one that was restored from an older backup";
            return Err(Refusal::new(Code::UnknownVersion, message).hint(hint));
        }
        if version < self.min_decryption {
            let oldest = self.min_decryption;
            let message = format!("version {version} of {} is archived: the oldest in use is {oldest}", self.name);
            let hint =
                "whoever may configure the key can lower it with `bulla transit configure --min-decryption-version`";
            return Err(Refusal::new(Code::VersionArchived, message).hint(hint));
        }
        Ok(())
    }

    fn demand(&self, can: bool, verb: &str, kinds: &str) -> Result<(), Refusal> {
        if can {
            return Ok(());
        }
        let message = format!("{} is of kind {}, which does not {verb}", self.name, self.kind);
        Err(Refusal::new(Code::WrongKeyKind, message).hint(format!("keys of kind {kinds} do")))
    }

    fn demand_encrypts(&self) -> Result<(), Refusal> {
        self.demand(self.kind.encrypts(), "encrypt", "aes256-gcm, chacha20-poly1305 and rsa-*")
    }

    fn demand_signs(&self) -> Result<(), Refusal> {
        self.demand(self.kind.signs(), "sign", "ed25519, ecdsa-* and rsa-*")
    }

    /// Whether a batch is one that the private key may work on.
    fn demand_few(&self, items: usize) -> Result<(), Refusal> {
        if !self.kind.is_rsa() || items <= MAX_RSA_ITEMS {
            return Ok(());
        }
        let message = format!("{items} items, at most {MAX_RSA_ITEMS} are taken for a key of kind {}", self.kind);
        Err(Refusal::new(Code::TooLarge, message).field("items").hint("make several requests"))
    }

    fn demand_macs(&self) -> Result<(), Refusal> {
        self.demand(self.kind == KeyKind::HmacSha256, "make MACs", "hmac-sha256")
    }

    /// What the cryptography says, in public words; a fault of ours has none.
    fn refusal(&self, error: TransitError) -> Stop {
        let of = |code, hint: &str| Refusal::new(code, error.to_string()).hint(hint);
        match error {
            TransitError::OtherKey => of(
                Code::CiphertextOfOtherKey,
                "name the key that made it; a key of the same name on another cluster is another key",
            ),
            TransitError::Damaged => of(
                Code::CiphertextDamaged,
                "give the ciphertext as it was made, with the associated data of its encryption",
            ),
            TransitError::TooLong { .. } => {
                of(Code::TooLarge, "encrypt a data key with it (`bulla transit datakey`), and the content with that")
            }
            TransitError::WrongDigest => of(
                Code::WrongKeyKind,
                "ecdsa-p256 signs sha-256, ecdsa-p384 sha-384, rsa-* any; ed25519 signs messages, and names no digest",
            ),
            TransitError::DigestLength => of(Code::Malformed, "sha-256 has 32 bytes, sha-384 48, sha-512 64"),
            TransitError::NoKey => of(
                Code::Malformed,
                "symmetric keys have 32 bytes, HMAC keys 32 to 64; others are PKCS#8 of exactly this kind, as `openssl pkcs8 -topk8 \
                 -nocrypt` writes it",
            ),
            TransitError::WrongKind | TransitError::Library => return Fault::Key("transit key").into(),
        }
        .into()
    }
}

/// Keys of several versions, each parsed once.
type Keys = BTreeMap<u32, TransitKey>;

/// Parses what keys made; the versions that may still undo it.
fn made<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Result<Versioned, Refusal>> {
    let hint = "give it as it was answered, without spaces or ends of lines";
    texts.map(|text| text.parse().map_err(|e: &str| Refusal::new(Code::Malformed, e).hint(hint))).collect()
}

impl Settings {
    /// The keys of all versions among these that may still be used.
    fn keys(&self, records: &Records, made: &[Result<Versioned, Refusal>], taken_for: Use) -> Result<Keys, Stop> {
        let used = |version: &u32| self.undoing(*version).is_ok();
        let versions: std::collections::BTreeSet<u32> =
            made.iter().flatten().map(|made| made.version).filter(used).collect();
        let missing: Vec<RecordKey> = versions
            .iter()
            .map(|version| version_key(&self.name, *version))
            .filter(|key| records.get(key).is_none())
            .collect();
        if !missing.is_empty() {
            return Err(Stop::Need(missing.into_iter().chain([settings_key(&self.name)]).collect()));
        }
        versions.into_iter().map(|version| Ok((version, self.key(records, version, taken_for)?))).collect()
    }

    /// The key that made something, if it may still be used.
    fn of<'a>(&self, keys: &'a Keys, made: &Versioned) -> Result<&'a TransitKey, Stop> {
        self.undoing(made.version)?;
        keys.get(&made.version).ok_or_else(|| self.refusal(TransitError::Library))
    }
}

/// Bytes of a text field.
fn bytes(field: &str, text: &str) -> Result<SecretBytes, Refusal> {
    base64url_decode(text).map(SecretBytes::new).ok_or_else(|| {
        let refusal = Refusal::new(Code::Malformed, format!("{field} is not base64url without padding"));
        refusal.hint("bytes are written with A-Z a-z 0-9 - _, without = at the end")
    })
}

/// Bytes of a text field that may be left out, which is the same as empty.
fn optional_bytes(field: &str, text: Option<&String>) -> Result<SecretBytes, Refusal> {
    text.map_or_else(|| Ok(SecretBytes::new(vec![])), |text| bytes(field, text))
}

/// Whether a batch has a size that is taken.
fn count(items: usize) -> Result<(), Refusal> {
    match items {
        0 => Err(Refusal::new(Code::Malformed, "there is no item").field("items").hint("give 1 to 1,000")),
        1..=MAX_TRANSIT_ITEMS => Ok(()),
        _ => {
            let message = format!("{items} items, at most {MAX_TRANSIT_ITEMS} are taken");
            Err(Refusal::new(Code::TooLarge, message).field("items").hint("make several requests"))
        }
    }
}

/// The items of an answer. A single one that failed is the failure of the request, so that its audit line says so.
fn answer<T, I: From<Result<T, ItemError>>>(results: Vec<Result<T, Stop>>) -> Result<Vec<I>, Stop> {
    let alone = results.len() == 1;
    let mut items = Vec::with_capacity(results.len());
    for result in results {
        items.push(match result {
            Ok(made) => Ok(made).into(),
            Err(Stop::Refused(refusal)) if alone => return Err(refusal.field("items[0]").into()),
            Err(Stop::Refused(Refusal { code, message, hint, .. })) => Err(ItemError { code, message, hint }).into(),
            Err(stop) => return Err(stop),
        });
    }
    Ok(items)
}
