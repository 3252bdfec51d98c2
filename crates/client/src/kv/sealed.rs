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
use bulla_wire::api::{Kv, KvWritten, MAX_VALUE_BYTES, PutKv};
use bulla_wire::encoding::Base64;
use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, MAX_JSON_BYTES, V1};
use bulla_wire::kv::{FieldName, KvContent, SealedKv, SealedStatement};
use bulla_wire::name::SecretPath;
use bulla_wire::wrap::Ciphertext;

/// On which terms a sealed version is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SealTerms {
    /// The newest version, if whoever asks for the write named it. What a program has only just looked up is no such word, and
    /// is refused with `cas_required` where the secret's settings demand one.
    pub cas: Option<u64>,
    /// As in [`PutKv`].
    pub ttl_s: Option<u64>,
    /// As in [`PutKv`].
    pub expires_ms: Option<u64>,
}

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
    /// As [`Client::kv_put`]; `version_mismatch` if `newest` is not the newest version, `cas_required` if the
    /// secret's settings demand that `terms` name it too.
    pub async fn kv_put_sealed(
        &self,
        path: &SecretPath,
        newest: u64,
        to: &[Resolved],
        content: &KvContent,
        terms: SealTerms,
    ) -> Result<KvWritten, ClientError> {
        of_one_kind(to)?;
        // The server cannot see them.
        content
            .data
            .iter()
            .flat_map(|data| data.0.keys())
            .try_for_each(|name| FieldName::check(name))
            .map_err(|error| ClientError::input(error.to_string(), "give the field another name"))?;
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
        let SealTerms { cas, ttl_s, expires_ms } = terms;
        let sealed = SealedKv { statement, file: Base64(file) };
        sealed_fits(content, &sealed)?;
        let sealed = Some(sealed);
        self.kv_put(path, &PutKv { sealed, cas, ttl_s, expires_ms, ..PutKv::default() }).await
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

/// Refuses what the server would not take, with the number of the writer's own bytes that fit: what is sealed is written as
/// base64 once more, and bytes are base64 in it already.
fn sealed_fits(content: &KvContent, sealed: &SealedKv) -> Result<(), ClientError> {
    // As the server measures it: with `{"sealed":` before and `}` behind.
    let bytes = json::to_vec(sealed).len().saturating_add(11);
    let Some(over) = bytes.checked_sub(MAX_VALUE_BYTES).filter(|over| *over > 0) else { return Ok(()) };
    let (what, own, over) = match content {
        KvContent { bytes: Some(Base64(bytes)), .. } => ("the bytes", bytes.len(), over.div_ceil(16).saturating_mul(9)),
        _ => {
            let json = SecretBytes::new(json::to_vec(content));
            ("the fields as JSON", json.expose().len(), over.div_ceil(4).saturating_mul(3))
        }
    };
    // What rounds to whole groups of base64.
    let most = own.saturating_sub(over).saturating_sub(16);
    Err(ClientError::input(
        format!("sealed to these readers, {most} bytes fit, and {what} are {own}"),
        "send larger things as a wrap, or keep them elsewhere",
    ))
}
