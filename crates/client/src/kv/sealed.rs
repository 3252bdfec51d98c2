//! Secrets that the server cannot read: encrypted here to readers who were resolved here, and signed with their place.

use crate::builder::Client;
use crate::error::{ClientError, demand};
use crate::open::{check_binding, check_ciphertext, unopened};
use crate::resolve::Resolved;
use crate::wrap::{addressees, binding, by_any_record, of_one_kind};
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope;
use bulla_crypto::evidence::{self, Record, RecordChain, verify_sealed};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{Kv, KvWritten, PutKv};
use bulla_wire::encoding::Base64;
use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, MAX_JSON_BYTES, V1};
use bulla_wire::kv::{KvContent, SealedKv, SealedStatement};
use bulla_wire::name::SecretPath;
use bulla_wire::wrap::Ciphertext;

/// A sealed version that was opened.
#[derive(Debug)]
pub struct OpenedKv {
    /// What is in it.
    pub content: KvContent,
    /// Who wrote it, verified.
    pub writer: Resolved,
    /// To whom it is sealed.
    pub readers: Vec<PrincipalId>,
}

impl Client {
    /// Encrypts `content` to these readers here and writes it as the version after `newest` (0 for a new secret). The
    /// server stores what it cannot read.
    ///
    /// # Errors
    /// As [`Client::kv_put`]; `version_mismatch` if `newest` is not the newest version.
    pub async fn kv_put_sealed(
        &self,
        path: &SecretPath,
        newest: u64,
        to: &[Resolved],
        content: &KvContent,
        ttl_s: Option<u64>,
    ) -> Result<KvWritten, ClientError> {
        of_one_kind(to)?;
        let (trust, me) = (self.trust().await?, self.me().await?);
        let (cluster, id, from) = (trust.view.id(), WrapId::new(draw(&mut SystemRng)), me.resolved.principal());
        let (to, recipients) = addressees(to);
        let binding = binding(id, cluster, from, &to);
        let plaintext = SecretBytes::new(json::to_vec(content));
        let file = envelope::seal(&recipients, Some(&binding), plaintext.expose())?;
        let len = u64::try_from(file.len()).unwrap_or(u64::MAX);
        let ct = Ciphertext { sha256: Digest::new(sha256(&[&file])), len };
        let version = newest.saturating_add(1);
        let statement = SealedStatement { v: V1, cluster, path: path.clone(), version, id, from, to, ct };
        let statement = evidence::sign(&statement, &[&**self.key()?]).await?;
        // The reader's checks, so that a mistake is told before it travels.
        let keys: Vec<_> = me.resolved.record().public_keys().collect();
        verify_sealed(&statement, &cluster, &from, &keys).map_err(|error| {
            ClientError::input(format!("the secret cannot be sealed: {error}"), "choose fewer readers")
        })?;
        let sealed = Some(SealedKv { statement, file: Base64(file) });
        self.kv_put(path, &PutKv { sealed, ttl_s, ..PutKv::default() }).await
    }

    /// Opens a sealed version that was read: verifies who wrote it, that it was written for this place and as this version,
    /// and decrypts it. None if it is not sealed.
    ///
    /// # Errors
    /// [`ClientError::Tampered`] if it is not what its writer signed; [`ClientError::Input`] if the caller is no reader.
    pub async fn kv_open(&self, kv: &Kv) -> Result<Option<OpenedKv>, ClientError> {
        let Some(SealedKv { statement, file: Base64(file) }) = &kv.sealed else { return Ok(None) };
        let verify = |cluster: &ClusterId, chain: &RecordChain| {
            let by =
                |record: &Record| verify_sealed(statement, cluster, &kv.by, &record.public_keys().collect::<Vec<_>>());
            by_any_record(chain, by)
        };
        let (writer, stated) = self.writer(&kv.by, "the writer's statement", verify).await?;
        let place = stated.path == kv.path && stated.version == kv.version;
        demand(place, "the secret was sealed for another place or as another version")?;
        check_ciphertext(&stated.ct, file)?;
        let me = self.me().await?.resolved.principal();
        if !stated.to.iter().any(|addressee| addressee.principal == me) {
            return Err(ClientError::input(
                format!("version {} of {} is not sealed to you", kv.version, kv.path),
                "a reader adds you with `bulla kv share`; `bulla kv history` shows the readers",
            ));
        }
        let opened = envelope::open(&self.decrypters()?, file, MAX_JSON_BYTES).await.map_err(unopened)?;
        let expected = binding(stated.id, stated.cluster, stated.from, &stated.to);
        check_binding(&expected, opened.binding.as_ref())?;
        let content: KvContent = json::parse_secret(opened.plaintext.expose(), MAX_JSON_BYTES, &["data", "bytes"])
            .map_err(|_| ClientError::Tampered { what: "it holds neither fields nor bytes" })?;
        if content.data.is_some() == content.bytes.is_some() {
            return Err(ClientError::Tampered { what: "it holds neither fields nor bytes, or both" });
        }
        let readers = stated.to.iter().map(|addressee| addressee.principal).collect();
        Ok(Some(OpenedKv { content, writer, readers }))
    }
}
