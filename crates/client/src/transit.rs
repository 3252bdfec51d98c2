//! Transit keys: encryption, signatures and MACs by keys that stay in the cluster. Plaintexts travel encrypted: to the
//! cluster's ingress key, and to the reader's.

mod file;

use crate::builder::Client;
use crate::call::Call;
use crate::error::{ClientError, demand};
use crate::open::open_secret;
use crate::wrap::{Outgoing, Wrapped};
use bulla_crypto::envelope::{self, OpenError};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{
    Ciphertexts, ConfigureTransitKey, CreateTransitKey, Datakey, Decrypt, Encrypt, ExportTransitKey, ExportedKey, Hmac,
    ImportTransitKey, MAX_TRANSIT_ANSWER_BYTES, Macs, NewDatakey, Plaintexts, Sign, Signatures, TransitBackup,
    TransitKey, TransitKeys, Verdicts, Verify, VerifyHmac, WrappedDatakey,
};
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::name::Name;
use bulla_wire::signature::AGE_MEDIA_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;

const OTHER_KEY: &str = "the cluster answers with another key";
/// What an age file adds for four recipients, in bytes, with room.
const AGE_BYTES: usize = 64 * 1024;

impl Client {
    /// A page of the names of transit keys.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_list(&self, after: Option<&str>, limit: Option<u32>) -> Result<TransitKeys, ClientError> {
        self.json(Call::read("/v1/transit").with("after", after).with("limit", limit)).await
    }

    /// A key's settings and public keys.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_read(&self, key: &Name) -> Result<TransitKey, ClientError> {
        of(key, self.json(Call::read(format!("/v1/transit/{key}"))).await?)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `exists` if there is one of this name.
    pub async fn transit_create(&self, key: &Name, body: &CreateTransitKey) -> Result<TransitKey, ClientError> {
        of(key, self.json(Call::change("PUT", format!("/v1/transit/{key}"), body)).await?)
    }

    /// Brings in a key that was made elsewhere.
    ///
    /// # Errors
    /// As [`Client::transit_create`].
    pub async fn transit_import(&self, key: &Name, body: &ImportTransitKey) -> Result<TransitKey, ClientError> {
        of(key, self.ingress(key, "import", true, body).await?)
    }

    /// Brings back a key from a backup, under its own name.
    ///
    /// # Errors
    /// As [`Client::transit_create`].
    pub async fn transit_restore(&self, key: &Name, body: &TransitBackup) -> Result<TransitKey, ClientError> {
        of(key, self.ingress(key, "restore", true, body).await?)
    }

    /// Gives a key a new version, which encrypts and signs from now on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_rotate(&self, key: &Name) -> Result<TransitKey, ClientError> {
        of(key, self.json(Call::action(path(key, "rotate"))).await?)
    }

    /// Changes a key's settings.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_configure(&self, key: &Name, body: &ConfigureTransitKey) -> Result<TransitKey, ClientError> {
        of(key, self.json(Call::change("POST", path(key, "configure"), body)).await?)
    }

    /// Deletes a key, if its settings allow it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_delete(&self, key: &Name) -> Result<(), ClientError> {
        let call = Call { method: "DELETE", ..Call::action(format!("/v1/transit/{key}")) };
        self.call(call).await.map(drop)
    }

    /// Takes a version of a key out, if its settings allow it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_export(&self, key: &Name, body: &ExportTransitKey) -> Result<ExportedKey, ClientError> {
        let exported: ExportedKey = self.secret(compute(key, "export", body)).await?;
        demand(exported.name == *key, OTHER_KEY)?;
        demand(body.version.is_none_or(|asked| asked == exported.version), "the cluster answers with another version")?;
        Ok(exported)
    }

    /// As [`Client::transit_export`], encrypted by the cluster to the one recipient of `outgoing` as a wrap. This client
    /// sees nothing of it.
    ///
    /// # Errors
    /// As [`Client::transit_export`] and [`Client::wrap_create`].
    pub async fn transit_export_to(
        &self,
        key: &Name,
        body: &ExportTransitKey,
        outgoing: Outgoing,
    ) -> Result<Wrapped, ClientError> {
        self.wrap_read(compute(key, "export", body), ("transit.export", format!("transit/{key}")), outgoing).await
    }

    /// As [`Client::transit_decrypt`], encrypted by the cluster to the one recipient of `outgoing` as a wrap. This client
    /// sees nothing of it.
    ///
    /// # Errors
    /// As [`Client::transit_decrypt`] and [`Client::wrap_create`].
    pub async fn transit_decrypt_to(
        &self,
        key: &Name,
        body: &Decrypt,
        outgoing: Outgoing,
    ) -> Result<Wrapped, ClientError> {
        fits(&json::to_vec(body))?;
        self.wrap_read(compute(key, "decrypt", body), ("transit.decrypt", format!("transit/{key}")), outgoing).await
    }

    /// As [`Client::transit_datakey`], encrypted by the cluster to the one recipient of `outgoing` as a wrap. This client
    /// sees nothing of it.
    ///
    /// # Errors
    /// As [`Client::transit_datakey`] and [`Client::wrap_create`].
    pub async fn transit_datakey_to(
        &self,
        key: &Name,
        body: &NewDatakey,
        outgoing: Outgoing,
    ) -> Result<Wrapped, ClientError> {
        self.wrap_read(compute(key, "datakey", body), ("transit.datakey", format!("transit/{key}")), outgoing).await
    }

    /// A whole key, if its settings allow it, as an age file to the caller.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_backup(&self, key: &Name) -> Result<Vec<u8>, ClientError> {
        let call = Call { changes: false, limit: MAX_JSON_BYTES + AGE_BYTES, ..Call::action(path(key, "backup")) };
        let answer = self.call(call).await?;
        demand(answer.media == AGE_MEDIA_TYPE, "the backup is not encrypted")?;
        // What cannot be opened is none.
        let backup = self.transit_open_backup(&answer.body).await?;
        demand(backup.name == *key, OTHER_KEY)?;
        Ok(answer.body.to_vec())
    }

    /// As [`Client::transit_backup`], encrypted by the cluster to the one recipient of `outgoing` as a wrap. This client
    /// sees nothing of it.
    ///
    /// # Errors
    /// As [`Client::transit_backup`] and [`Client::wrap_create`].
    pub async fn transit_backup_to(&self, key: &Name, outgoing: Outgoing) -> Result<Wrapped, ClientError> {
        let call = Call { changes: false, limit: MAX_JSON_BYTES + AGE_BYTES, ..Call::action(path(key, "backup")) };
        self.wrap_read(call, ("transit.backup", format!("transit/{key}")), outgoing).await
    }

    /// Reads what the reader of [`Client::transit_backup_to`] opened, and opens what [`Client::transit_backup`] gave, also with the keys of [`crate::Builder::also_opens`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_open_backup(&self, file: &[u8]) -> Result<TransitBackup, ClientError> {
        let malformed = |_| {
            ClientError::input("the file holds no backup of a transit key", "give what `bulla transit backup` wrote")
        };
        // What the reader of a wrap opened is in clear.
        if file.trim_ascii_start().starts_with(b"{") {
            return json::parse_secret(file, MAX_JSON_BYTES, &[]).map_err(malformed);
        }
        let opened = envelope::open(&self.decrypters()?, file, MAX_JSON_BYTES).await.map_err(|error| match error {
            OpenError::NoMatch => ClientError::input(
                "no key at hand opens this backup",
                "give the key that it was made to, such as a former one (`--old-identity`)",
            ),
            error => error.into(),
        })?;
        let plaintext = opened.plaintext;
        json::parse_secret(plaintext.expose(), MAX_JSON_BYTES, &[]).map_err(malformed)
    }

    /// Encrypts.
    ///
    /// # Errors
    /// [`ClientError`]; an item that failed has its error in the answer, unless it was the only one.
    pub async fn transit_encrypt(&self, key: &Name, body: &Encrypt) -> Result<Ciphertexts, ClientError> {
        let made: Ciphertexts = self.ingress(key, "encrypt", false, body).await?;
        same(made.items.len(), body.items.len())?;
        Ok(made)
    }

    /// Decrypts.
    ///
    /// # Errors
    /// As [`Client::transit_encrypt`].
    pub async fn transit_decrypt(&self, key: &Name, body: &Decrypt) -> Result<Plaintexts, ClientError> {
        fits(&json::to_vec(body))?;
        let made: Plaintexts = self.secret(compute(key, "decrypt", body)).await?;
        same(made.items.len(), body.items.len())?;
        Ok(made)
    }

    /// Encrypts anew by the newest version; nobody sees the plaintexts.
    ///
    /// # Errors
    /// As [`Client::transit_encrypt`].
    pub async fn transit_rewrap(&self, key: &Name, body: &Decrypt) -> Result<Ciphertexts, ClientError> {
        fits(&json::to_vec(body))?;
        let made: Ciphertexts = self.json(compute(key, "rewrap", body)).await?;
        same(made.items.len(), body.items.len())?;
        Ok(made)
    }

    /// Makes a data key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_datakey(&self, key: &Name, body: &NewDatakey) -> Result<Datakey, ClientError> {
        self.secret(compute(key, "datakey", body)).await
    }

    /// Makes a data key that only whoever may decrypt will see.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_datakey_wrapped(&self, key: &Name, body: &NewDatakey) -> Result<WrappedDatakey, ClientError> {
        self.json(compute(key, "datakey-wrapped", body)).await
    }

    /// Signs.
    ///
    /// # Errors
    /// As [`Client::transit_encrypt`].
    pub async fn transit_sign(&self, key: &Name, body: &Sign) -> Result<Signatures, ClientError> {
        let made: Signatures = self.ingress(key, "sign", false, body).await?;
        same(made.items.len(), body.items.len())?;
        Ok(made)
    }

    /// Verifies signatures.
    ///
    /// # Errors
    /// As [`Client::transit_encrypt`].
    pub async fn transit_verify(&self, key: &Name, body: &Verify) -> Result<Verdicts, ClientError> {
        let made: Verdicts = self.ingress(key, "verify", false, body).await?;
        same(made.items.len(), body.items.len())?;
        Ok(made)
    }

    /// Makes MACs.
    ///
    /// # Errors
    /// As [`Client::transit_encrypt`].
    pub async fn transit_hmac(&self, key: &Name, body: &Hmac) -> Result<Macs, ClientError> {
        let made: Macs = self.ingress(key, "hmac", false, body).await?;
        same(made.items.len(), body.items.len())?;
        Ok(made)
    }

    /// Verifies MACs.
    ///
    /// # Errors
    /// As [`Client::transit_encrypt`].
    pub async fn transit_verify_hmac(&self, key: &Name, body: &VerifyHmac) -> Result<Verdicts, ClientError> {
        let made: Verdicts = self.ingress(key, "verify-hmac", false, body).await?;
        same(made.items.len(), body.items.len())?;
        Ok(made)
    }

    /// A call whose body goes to the ingress key.
    async fn ingress<B: Serialize, T: DeserializeOwned>(
        &self,
        key: &Name,
        verb: &str,
        changes: bool,
        body: &B,
    ) -> Result<T, ClientError> {
        let bytes = SecretBytes::new(json::to_vec(body));
        fits(bytes.expose())?;
        let call = |body| Call { changes, body, limit: MAX_TRANSIT_ANSWER_BYTES, ..Call::action(path(key, verb)) };
        self.to_ingress(&bytes, call).await
    }

    /// A call whose answer is encrypted to the caller.
    async fn secret<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let key = self.opening_key()?;
        let answer = self.call(call).await?;
        demand(answer.media == AGE_MEDIA_TYPE, "the answer is not encrypted")?;
        let plaintext = open_secret(key, &answer.body, MAX_TRANSIT_ANSWER_BYTES).await?;
        json::parse_secret(plaintext.expose(), MAX_TRANSIT_ANSWER_BYTES, &[])
            .map_err(|_| ClientError::contradiction("the answer is malformed"))
    }
}

/// A key's settings, if they are those of this key.
fn of(key: &Name, answer: TransitKey) -> Result<TransitKey, ClientError> {
    demand(answer.name == *key, OTHER_KEY)?;
    Ok(answer)
}

fn path(key: &Name, verb: &str) -> String {
    format!("/v1/transit/{key}:{verb}")
}

/// A call that changes nothing.
fn compute<B: Serialize>(key: &Name, verb: &str, body: &B) -> Call {
    let call = Call::change("POST", path(key, verb), body);
    Call { changes: false, limit: MAX_TRANSIT_ANSWER_BYTES + AGE_BYTES, ..call }
}

/// An answer is in the order of the request, so it has as many items.
fn same(answered: usize, asked: usize) -> Result<(), ClientError> {
    demand(answered == asked, "the answer has not as many items as were sent")
}

/// Refuses what the server would not take.
fn fits(body: &[u8]) -> Result<(), ClientError> {
    let bytes = body.len();
    if bytes <= MAX_JSON_BYTES {
        return Ok(());
    }
    Err(ClientError::input(
        format!("the request has {bytes} bytes as JSON, at most {MAX_JSON_BYTES} are taken"),
        "send fewer items; encrypt large things with `bulla encrypt`, and sign their digest by a key of kind ecdsa or rsa",
    ))
}
