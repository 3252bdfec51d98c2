//! What is asked of the cluster: the line, the body, and how its answer is taken.

use crate::transport::Upload;
use bulla_crypto::evidence::ClusterView;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::json::{self, MAX_JSON_BYTES};
use std::sync::Arc;

/// What is to be asked of the cluster.
pub(crate) struct Call {
    pub method: &'static str,
    pub path: String,
    /// Without its question mark.
    pub query: String,
    pub body: CallBody,
    /// Largest body of an answer.
    pub limit: usize,
    /// It changes something, so an unknown outcome must be told.
    pub changes: bool,
    /// Whether the answer's position is judged and remembered. Not while sealed: the node has not checked it then.
    pub judged: bool,
    /// By which documents the node is believed, if not by those that are held: a node may enter by the very one that
    /// is handed in.
    pub view: Option<Arc<ClusterView>>,
}

/// What a request carries.
pub(crate) enum CallBody {
    /// Nothing.
    Empty,
    /// JSON that is no secret.
    Json(Vec<u8>),
    /// JSON that goes to the ingress key.
    Ingress(SecretBytes),
    /// A statement and an age file.
    Parcel { upload: Upload, sha256: [u8; 32] },
}

impl Call {
    /// A reading call with a JSON answer.
    pub(crate) fn read(path: impl Into<String>) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            query: String::new(),
            body: CallBody::Empty,
            limit: MAX_JSON_BYTES,
            changes: false,
            judged: true,
            view: None,
        }
    }

    /// A changing call with a JSON body and answer.
    pub(crate) fn change<T: serde::Serialize>(method: &'static str, path: impl Into<String>, body: &T) -> Self {
        Self { method, changes: true, body: CallBody::Json(json::to_vec(body)), ..Self::read(path) }
    }

    /// A changing call without a body.
    pub(crate) fn action(path: impl Into<String>) -> Self {
        Self { method: "POST", changes: true, ..Self::read(path) }
    }

    /// Adds `name=value` to the query, if there is a value.
    pub(crate) fn with(mut self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        if let Some(value) = value {
            let joint = if self.query.is_empty() { "" } else { "&" };
            self.query = format!("{}{joint}{name}={value}", self.query);
        }
        self
    }

    /// A call to a route of the seal.
    pub(crate) fn of_seal(self) -> Self {
        Self { judged: false, ..self }
    }
}
