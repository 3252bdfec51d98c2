//! What all attempts of a call carry: nonce and body, made once.

use super::{Call, CallBody};
use crate::builder::{Client, Trust};
use crate::error::ClientError;
use crate::transport::Upload;
use bulla_crypto::envelope;
use bulla_crypto::message::{digest_header, ingress_line};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::challenge::Challenge;
use bulla_wire::id::{ClusterId, Nonce};
use bulla_wire::signature::{AGE_MEDIA_TYPE, EMPTY_MEDIA_TYPE, JSON_MEDIA_TYPE, content_digest};

/// What all attempts of a call have in common.
pub(super) struct Prepared {
    /// For which cluster; none before init.
    pub cluster: Option<ClusterId>,
    pub nonce: Nonce,
    pub upload: Upload,
    pub content_digest: String,
    pub media: &'static str,
}

impl Client {
    /// Chooses the nonce and makes the body that all attempts carry.
    pub(super) fn prepare(
        &self,
        call: &Call,
        trust: Option<&Trust>,
        challenge: &Challenge,
    ) -> Result<Prepared, ClientError> {
        let nonce = Nonce::new(challenge.minute(), draw(&mut SystemRng));
        let cluster = trust.map(|trust| trust.view.id());
        let whole = |bytes: Vec<u8>, media| Prepared {
            cluster,
            nonce,
            content_digest: digest_header(&bytes),
            upload: Upload::Bytes(bytes.into()),
            media,
        };
        Ok(match &call.body {
            CallBody::Empty => whole(Vec::new(), EMPTY_MEDIA_TYPE),
            CallBody::Json(json) => whole(json.clone(), JSON_MEDIA_TYPE),
            CallBody::Parcel { upload, sha256 } => Prepared {
                cluster,
                nonce,
                upload: upload.clone(),
                content_digest: content_digest(sha256),
                media: bulla_wire::wrap::PARCEL_MEDIA_TYPE,
            },
            CallBody::Ingress(json) => {
                let trust = trust.ok_or(ClientError::NoPin)?;
                let key = self.key()?.public_key().key_id();
                let line = ingress_line(&trust.view.id(), &key, call.method, &call.path, &call.query, &nonce);
                let length = line.len().saturating_add(json.expose().len());
                let mut plaintext = SecretBytes::new(Vec::with_capacity(length));
                plaintext.expose_mut().extend_from_slice(line.as_bytes());
                plaintext.expose_mut().extend_from_slice(json.expose());
                let ingress = std::slice::from_ref(trust.view.newest().ingress());
                whole(envelope::seal(ingress, None, plaintext.expose())?, AGE_MEDIA_TYPE)
            }
        })
    }
}
