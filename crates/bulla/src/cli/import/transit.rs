//! Transit keys: those that Vault lets out, with all their versions in one request, so that a key is here whole or not.

use super::report::{Item, Kind, Outcome, Report};
use super::vault::{Answer, MAX_ANSWER_BYTES, Vault, parse};
use super::{Refused, refused_here};
use crate::exit::Failure;
use crate::session::now_ms;
use bulla_client::{Client, ClientError};
use bulla_crypto::secret::{Secret, SecretBytes, SecretKey};
use bulla_crypto::sign::SigningKey;
use bulla_crypto::{pem, pkcs8, transit};
use bulla_wire::api::{BackupVersion, KeyKind, MAX_TRANSIT_VERSIONS, TransitBackup};
use bulla_wire::encoding::{base64_decode, base64url};
use bulla_wire::error::Code;
use bulla_wire::json::V1;
use bulla_wire::name::{Name, SecretPath};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

/// `GET /v1/{mount}/keys/{name}`, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Described {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    exportable: bool,
    #[serde(default)]
    derived: bool,
    /// Of OpenBao: such a key does nothing until it is taken back.
    #[serde(default)]
    soft_deleted: bool,
    #[serde(default)]
    deletion_allowed: bool,
    latest_version: u32,
    #[serde(default)]
    min_available_version: u32,
    #[serde(default)]
    min_decryption_version: u32,
    #[serde(default)]
    min_encryption_version: u32,
    /// Seconds, or an object with a time.
    #[serde(default)]
    keys: BTreeMap<u32, Value>,
}

/// `GET /v1/{mount}/export/{which}/{name}`.
#[derive(Deserialize)]
struct Exported {
    keys: BTreeMap<u32, String>,
}

/// The versions that Vault let out.
type Keys = BTreeMap<u32, Secret<String>>;

/// Imports the keys of a mount, or says what would be imported.
pub async fn import(mount: &SecretPath, vault: &Vault, client: &Client, report: &mut Report) -> Result<(), Failure> {
    let names = match vault.list(&format!("{mount}/keys")).await? {
        Ok(names) => names,
        Err(why) => {
            report.add(Item::refused(Kind::Key, format!("{mount}/keys"), why));
            return Ok(());
        }
    };
    for name in names {
        let from = format!("{mount}/{name}");
        let item = match name.parse::<Name>() {
            Ok(name) => one(mount, &name, vault, client, report.dry_run).await?,
            Err(error) => Item::refused(Kind::Key, from, format!("its name cannot be one here: {error}")),
        };
        report.add(item);
    }
    Ok(())
}

async fn one(mount: &SecretPath, name: &Name, vault: &Vault, client: &Client, dry_run: bool) -> Result<Item, Failure> {
    let from = format!("{mount}/{name}");
    let refused = |why: String| Ok(Item::refused(Kind::Key, from.clone(), why));
    let asked = format!("{mount}/keys/{name}");
    let body = match vault.get(&asked, MAX_ANSWER_BYTES).await? {
        Answer::Found(body) => body,
        Answer::Absent => return refused("it is gone".to_owned()),
        Answer::Refused(why) => return refused(why),
    };
    let described: Described = parse(&body, &asked)?;
    let (kind, which) = match described.fit(mount, name) {
        Ok(fit) => fit,
        Err(why) => return refused(why),
    };
    let asked = format!("{mount}/export/{which}/{name}");
    let body = match vault.get(&asked, MAX_ANSWER_BYTES).await? {
        Answer::Found(body) => body,
        Answer::Absent => return refused("it is gone".to_owned()),
        Answer::Refused(why) => return refused(format!("{asked}: {why}")),
    };
    let exported = parse::<Exported>(&body, &asked)?.keys;
    let keys: Keys = exported.into_iter().map(|(number, key)| (number, Secret::new(key))).collect();
    let backup = match described.backup(mount, name, kind, &keys) {
        Ok(backup) => backup,
        Err(why) => return refused(why),
    };
    let item = |outcome| Item {
        notes: notes(kind).into_iter().map(str::to_owned).collect(),
        ..Item::new(Kind::Key, from.clone(), Some(format!("transit/{name}")), outcome)
    };
    match put(client, name, &backup, dry_run).await {
        Ok(Ok(outcome)) => Ok(item(outcome)),
        Ok(Err(why)) => Ok(item(Outcome::Conflict).note(why)),
        Err(error) => match refused_here(error) {
            Refused::Stop(failure) => Err(failure),
            Refused::Item(outcome, why) => Ok(item(outcome).note(why)),
        },
    }
}

/// Restores it, if no key has its name. The inner error is what is in the way.
async fn put(
    client: &Client,
    name: &Name,
    backup: &TransitBackup,
    dry_run: bool,
) -> Result<Result<Outcome, String>, ClientError> {
    match client.transit_read(name).await {
        Err(error) if error.proven() == Some(Code::NotFound) && dry_run => return Ok(Ok(Outcome::Ready)),
        Err(error) if error.proven() == Some(Code::NotFound) => {
            client.transit_restore(name, backup).await?;
            return Ok(Ok(Outcome::Imported));
        }
        Err(error) => return Err(error),
        Ok(here) if here.kind != backup.kind => {
            return Ok(Err(format!("here a key of kind {} has its name", here.kind)));
        }
        Ok(here) if !here.exportable => {
            return Ok(Err("a key has its name here that is not exportable, so it is another".to_owned()));
        }
        Ok(_) => {}
    }
    let file = client.transit_backup(name).await?;
    let here = client.transit_open_backup(&file).await?;
    let same = |(one, other): (&BackupVersion, &BackupVersion)| one.key == other.key;
    if !here.versions.iter().zip(&backup.versions).all(same) {
        return Ok(Err("another key has its name here, and is not overwritten".to_owned()));
    }
    Ok(match here.versions.len().cmp(&backup.versions.len()) {
        std::cmp::Ordering::Equal => Ok(Outcome::Present),
        std::cmp::Ordering::Less => Err("it was rotated in Vault after it was imported, and versions are brought in \
                                         together only: delete it here, if nothing needs it yet, and import it again"
            .to_owned()),
        std::cmp::Ordering::Greater => Err("it was rotated here after it was imported".to_owned()),
    })
}

/// What holds of each key of a kind, once it is here.
fn notes(kind: KeyKind) -> Vec<&'static str> {
    match kind {
        KeyKind::Aes256Gcm | KeyKind::ChaCha20Poly1305 => {
            vec!["what Vault encrypted does not open here: decrypt there, encrypt here, before Vault is switched off"]
        }
        KeyKind::Ed25519 => vec!["signatures are the same bytes: vault:v1:BASE64 there, bulla:v1:BASE64URL here"],
        KeyKind::EcdsaP256 | KeyKind::EcdsaP384 => {
            vec!["signatures hold by the public key; here they are r and s (marshaling_algorithm=jws there), not DER"]
        }
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => vec![
            "signatures hold by the public key; here only PSS with a salt as long as the digest (salt_length=hash there)",
            "what Vault encrypted does not open here: decrypt there, encrypt here, before Vault is switched off",
        ],
        KeyKind::HmacSha256 => vec!["MACs are the same bytes: vault:v1:BASE64 there, bulla:v1:BASE64URL here"],
    }
}

impl Described {
    /// What it is here and by which word Vault lets it out, or why it cannot come.
    fn fit(&self, mount: &SecretPath, name: &Name) -> Result<(KeyKind, &'static str), String> {
        let (kind, which) = match self.kind.as_str() {
            "aes256-gcm96" => (KeyKind::Aes256Gcm, "encryption-key"),
            "chacha20-poly1305" => (KeyKind::ChaCha20Poly1305, "encryption-key"),
            "ed25519" => (KeyKind::Ed25519, "signing-key"),
            "ecdsa-p256" => (KeyKind::EcdsaP256, "signing-key"),
            "ecdsa-p384" => (KeyKind::EcdsaP384, "signing-key"),
            "rsa-2048" => (KeyKind::Rsa2048, "signing-key"),
            "rsa-3072" => (KeyKind::Rsa3072, "signing-key"),
            "rsa-4096" => (KeyKind::Rsa4096, "signing-key"),
            "hmac" => (KeyKind::HmacSha256, "hmac-key"),
            other => {
                return Err(format!(
                    "keys of type {other} do not exist here: make one of another kind, and have what this \
                                    one made decrypted or signed anew"
                ));
            }
        };
        if self.soft_deleted {
            return Err(format!("it is deleted: `bao write -f {mount}/keys/{name}/soft-delete-restore` takes it back"));
        }
        if self.derived {
            return Err(
                "it is derived by a context, which does not exist here: make a key, decrypt there, encrypt here, \
                        with the context as associated data"
                    .to_owned(),
            );
        }
        if !self.exportable {
            return Err(format!(
                "it is not exportable: `bulla transit create {name} --kind {kind}`, then decrypt there and encrypt here; \
                 or let it out for ever with `vault write {mount}/keys/{name}/config exportable=true`, and import again"
            ));
        }
        if self.min_available_version > 1 {
            let oldest = self.min_available_version;
            return Err(format!(
                "its versions before {oldest} were trimmed in Vault, and a key has all versions here: make a new one"
            ));
        }
        if self.latest_version > MAX_TRANSIT_VERSIONS {
            return Err(format!(
                "it has {} versions, and {MAX_TRANSIT_VERSIONS} are the most here",
                self.latest_version
            ));
        }
        Ok((kind, which))
    }

    /// The key with all versions.
    fn backup(&self, mount: &SecretPath, name: &Name, kind: KeyKind, keys: &Keys) -> Result<TransitBackup, String> {
        let mut versions = Vec::new();
        for number in 1..=self.latest_version {
            let Some(text) = keys.get(&number) else {
                return Err(format!(
                    "version {number} is archived in Vault: `vault write {mount}/keys/{name}/config \
                     min_decryption_version=1`, and import again"
                ));
            };
            let bytes =
                key_bytes(kind, text.expose()).ok_or_else(|| format!("version {number} is no key of kind {kind}"))?;
            transit::TransitKey::parse(kind, bytes.expose())
                .map_err(|_| format!("version {number} cannot be used here as a key of kind {kind}"))?;
            versions.push(BackupVersion { created_ms: self.created_ms(number), key: base64url(bytes.expose()) });
        }
        if versions.is_empty() {
            return Err("it has no version".to_owned());
        }
        Ok(TransitBackup {
            v: V1,
            name: name.clone(),
            kind,
            min_decryption_version: self.min_decryption_version.max(1),
            min_encryption_version: self.min_encryption_version,
            deletion_allowed: self.deletion_allowed,
            versions,
        })
    }

    /// When Vault made a version; now, if it does not say so.
    fn created_ms(&self, number: u32) -> u64 {
        let said = self.keys.get(&number);
        let text = said.and_then(|key| key.get("creation_time")).and_then(Value::as_str);
        let time = text.and_then(|text| humantime::parse_rfc3339(text).ok());
        let by_time = time.and_then(|time| u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok());
        let by_seconds = || said.and_then(Value::as_u64).and_then(|seconds| seconds.checked_mul(1000));
        by_time.or_else(by_seconds).unwrap_or_else(now_ms).min(now_ms())
    }
}

/// A key as Vault writes it, as the API takes it.
fn key_bytes(kind: KeyKind, text: &str) -> Option<SecretBytes> {
    let decoded = || base64_decode(text.trim()).map(SecretBytes::new);
    // Some versions write PKCS#8, others what was used before it.
    let any = |label: &str, wrap: fn(&[u8]) -> SecretBytes| {
        pem::read("PRIVATE KEY", text).or_else(|| pem::read(label, text).map(|der| wrap(der.expose())))
    };
    match kind {
        KeyKind::Aes256Gcm | KeyKind::ChaCha20Poly1305 | KeyKind::HmacSha256 => decoded(),
        // The seed and the public key behind it (RFC 8032 §5.1.5), or the seed alone.
        KeyKind::Ed25519 => {
            let key = decoded()?;
            let seed = SecretKey::from_slice(key.expose().get(..32)?)?;
            let signing = SigningKey::from_seed(&seed).ok()?;
            matches!(key.expose().len(), 32 | 64).then(|| signing.to_pkcs8().ok())?
        }
        KeyKind::EcdsaP256 => any("EC PRIVATE KEY", pkcs8::of_p256),
        KeyKind::EcdsaP384 => any("EC PRIVATE KEY", pkcs8::of_p384),
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => any("RSA PRIVATE KEY", pkcs8::of_rsa),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(more: &str) -> Described {
        let json = format!(
            r#"{{"type":"aes256-gcm96","exportable":true,"latest_version":2,"keys":{{"1":1500000000}}{more}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn of(more: &str) -> Result<(KeyKind, &'static str), String> {
        described(more).fit(&"transit".parse().unwrap(), &"orders".parse().unwrap())
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        assert_eq!(of(""), Ok((KeyKind::Aes256Gcm, "encryption-key")));
        for (more, told) in [
            (r#","derived":true"#, "associated data"),
            (r#","min_available_version":2"#, "trimmed"),
            (r#","soft_deleted":true"#, "takes it back"),
        ] {
            let why = of(more).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
        let of = |json: &str| {
            let described: Described = serde_json::from_str(json).unwrap();
            described.fit(&"keys/eu".parse().unwrap(), &"orders".parse().unwrap()).unwrap_err()
        };
        let closed = of(r#"{"type":"rsa-3072","latest_version":1}"#);
        assert!(closed.contains("--kind rsa-3072") && closed.contains("keys/eu/keys/orders/config"), "{closed}");
        assert!(of(r#"{"type":"ecdsa-p521","exportable":true,"latest_version":1}"#).contains("ecdsa-p521"));
        assert!(of(r#"{"type":"hmac","exportable":true,"latest_version":101}"#).contains("100"));
    }

    #[test]
    fn all_versions_come_or_none() {
        let key = bulla_wire::encoding::base64(&[7; 32]);
        let (mount, name): (SecretPath, Name) = ("transit".parse().unwrap(), "orders".parse().unwrap());
        let backup = |numbers: &[u32]| {
            let keys = numbers.iter().map(|number| (*number, Secret::new(key.clone()))).collect();
            described(r#","min_decryption_version":2"#).backup(&mount, &name, KeyKind::Aes256Gcm, &keys)
        };
        let whole = backup(&[1, 2]).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((whole.versions.len(), whole.min_decryption_version), (2, 2));
        assert_eq!(whole.versions[0].created_ms, 1_500_000_000_000);
        assert!(backup(&[2]).err().unwrap().contains("min_decryption_version=1"));
        let short = [(1, Secret::new("AAAA".to_owned())), (2, Secret::new("AAAA".to_owned()))].into();
        assert!(described("").backup(&mount, &name, KeyKind::Aes256Gcm, &short).err().unwrap().contains("version 1"));
    }

    #[test]
    fn keys_in_the_forms_of_vault() {
        let seed = [[9; 32], [0; 32]].concat();
        let ed25519 = key_bytes(KeyKind::Ed25519, &bulla_wire::encoding::base64(&seed)).unwrap();
        assert!(transit::TransitKey::parse(KeyKind::Ed25519, ed25519.expose()).is_ok());
        for (kind, text) in [
            (KeyKind::Ed25519, "AAAA"),
            (KeyKind::HmacSha256, "no base64"),
            (KeyKind::EcdsaP256, "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"),
            (KeyKind::Rsa2048, "AAAA"),
        ] {
            assert!(key_bytes(kind, text).is_none(), "{kind}");
        }
    }
}
