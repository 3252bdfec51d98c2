//! The service `v2.KeyManagementService` of k8s.io/kms (KEP-3299), over hyper with tonic's messages.
//!
//! Three methods without streams are less than a generator would make of them, and hyper is what serves everything else
//! here.

use crate::audit::{Audit, Line, Operation, Peer};
use crate::plugin::{Plugin, Refusal};
use crate::provider::Class;
use bulla_crypto::BoxFuture;
use bulla_crypto::secret::SecretBytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

/// What kube-apiserver takes for this version of the protocol.
const VERSION: &str = "v2";
/// A request may take so long, whatever its caller says: less than the three seconds that kube-apiserver waits unless it is
/// told otherwise, so that it hears why.
const LONGEST: Duration = Duration::from_millis(2500);
/// Largest message in bytes: a ciphertext, a key id and 32 KiB of annotations are what the protocol knows.
const MAX_MESSAGE_BYTES: usize = 48 * 1024;

/// `StatusRequest` of the protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {}

/// `StatusResponse` of the protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    /// `v2`.
    #[prost(string, tag = "1")]
    pub version: String,
    /// `ok`; what is not well is an error instead.
    #[prost(string, tag = "2")]
    pub healthz: String,
    /// The key id.
    #[prost(string, tag = "3")]
    pub key_id: String,
}

/// `EncryptRequest` of the protocol.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct EncryptRequest {
    /// The seed.
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
    /// What the caller's log calls this request.
    #[prost(string, tag = "2")]
    pub uid: String,
}

impl fmt::Debug for EncryptRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptRequest").field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// `EncryptResponse` of the protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptResponse {
    /// What is stored.
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    /// The key id.
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// None: they would be stored with every object.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// `DecryptRequest` of the protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DecryptRequest {
    /// What was stored.
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    /// What the caller's log calls this request.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The key id that was stored.
    #[prost(string, tag = "3")]
    pub key_id: String,
    /// The annotations that were stored.
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// `DecryptResponse` of the protocol.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct DecryptResponse {
    /// The seed.
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

impl fmt::Debug for DecryptResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DecryptResponse(..)")
    }
}

/// The service, for one connection.
#[derive(Clone)]
pub struct Service {
    plugin: Arc<Plugin>,
    audit: Arc<Audit>,
    peer: Peer,
}

impl Service {
    /// For a connection of this peer.
    pub fn new(plugin: Arc<Plugin>, audit: Arc<Audit>, peer: Peer) -> Self {
        Self { plugin, audit, peer }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Never: every failure is a status in the answer.
    pub async fn answer(
        self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<tonic::body::Body>, Infallible> {
        // The length of a message is a client's word, which is judged before anything is kept.
        fn grpc<T, U>() -> Grpc<ProstCodec<T, U>>
        where
            T: prost::Message + 'static,
            U: prost::Message + Default + 'static,
        {
            Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_MESSAGE_BYTES)
        }
        let request = request.map(|body| body.map_err(|error| Status::internal(error.to_string())));
        Ok(match request.uri().path() {
            "/v2.KeyManagementService/Status" => grpc::<StatusResponse, StatusRequest>().unary(self, request).await,
            "/v2.KeyManagementService/Encrypt" => grpc::<EncryptResponse, EncryptRequest>().unary(self, request).await,
            "/v2.KeyManagementService/Decrypt" => grpc::<DecryptResponse, DecryptRequest>().unary(self, request).await,
            // KMS v1, which Kubernetes has left, among others.
            _ => Status::unimplemented("this plugin serves v2.KeyManagementService").into_http(),
        })
    }

    /// Counts and writes down what was answered.
    fn done<T>(&self, asked: Asked, result: &Result<T, Refusal>, key_id: &str, members: &[String]) {
        let took = asked.begun.elapsed();
        let metrics = self.plugin.metrics();
        metrics.asked(asked.operation.as_str(), result, |refusal| refusal.class, took);
        let line = Line {
            uid: &asked.uid,
            peer: self.peer,
            operation: asked.operation,
            key_id,
            members,
            outcome: result.as_ref().err().map_or("ok", |refusal| refusal.class.as_str()),
            took,
        };
        if let Err(error) = self.audit.write(&line) {
            tracing::error!(%error, "an audit line could not be written");
            metrics.audit_failed();
        }
        if let Err(refusal) = result {
            tracing::warn!(uid = asked.uid, operation = asked.operation.as_str(), class = %refusal.class, %refusal, "refused");
        }
    }
}

/// A request that is worked on.
struct Asked {
    operation: Operation,
    uid: String,
    begun: Instant,
}

impl Asked {
    fn new(operation: Operation, uid: String) -> Self {
        Self { operation, uid, begun: Instant::now() }
    }
}

impl UnaryService<StatusRequest> for Service {
    type Response = StatusResponse;
    type Future = BoxFuture<'static, Result<Response<StatusResponse>, Status>>;

    fn call(&mut self, request: Request<StatusRequest>) -> Self::Future {
        let plugin = Arc::clone(&self.plugin);
        Box::pin(async move {
            // Three a minute from each kube-apiserver: counted, and not written down.
            let begun = Instant::now();
            let result = plugin.status(deadline(request.metadata())).await;
            plugin.metrics().asked("Status", &result, |refusal| refusal.class, begun.elapsed());
            let key_id = result.map_err(status)?;
            Ok(Response::new(StatusResponse {
                version: VERSION.to_owned(),
                healthz: "ok".to_owned(),
                key_id: key_id.to_string(),
            }))
        })
    }
}

impl UnaryService<EncryptRequest> for Service {
    type Response = EncryptResponse;
    type Future = BoxFuture<'static, Result<Response<EncryptResponse>, Status>>;

    fn call(&mut self, request: Request<EncryptRequest>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let until = deadline(request.metadata());
            let EncryptRequest { plaintext, uid } = request.into_inner();
            let seed = SecretBytes::new(plaintext);
            let asked = Asked::new(Operation::Encrypt, uid);
            let result = service.plugin.encrypt(seed, until).await;
            let (key_id, members) = match &result {
                Ok(encrypted) => (encrypted.key_id.as_str(), encrypted.members.as_slice()),
                Err(_) => ("", &[][..]),
            };
            service.done(asked, &result, key_id, members);
            let encrypted = result.map_err(status)?;
            Ok(Response::new(EncryptResponse {
                ciphertext: encrypted.ciphertext,
                key_id: encrypted.key_id.to_string(),
                annotations: BTreeMap::new(),
            }))
        })
    }
}

impl UnaryService<DecryptRequest> for Service {
    type Response = DecryptResponse;
    type Future = BoxFuture<'static, Result<Response<DecryptResponse>, Status>>;

    fn call(&mut self, request: Request<DecryptRequest>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let until = deadline(request.metadata());
            let DecryptRequest { ciphertext, uid, key_id, annotations } = request.into_inner();
            let asked = Asked::new(Operation::Decrypt, uid);
            let result = if annotations.is_empty() {
                service.plugin.decrypt(&key_id, &ciphertext, until).await
            } else {
                let text = "annotations: this plugin makes none, so somebody added them";
                Err(Refusal { class: Class::Corrupt, text: text.to_owned() })
            };
            let members = result.as_ref().map_or(&[][..], |decrypted| decrypted.members.as_slice());
            service.done(asked, &result, &key_id, members);
            let decrypted = result.map_err(status)?;
            Ok(Response::new(DecryptResponse { plaintext: decrypted.seed.expose().clone() }))
        })
    }
}

/// When the answer has to be there: what the caller says in `grpc-timeout`, and no later than the limit.
fn deadline(metadata: &MetadataMap) -> Instant {
    let said = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
    let now = Instant::now();
    now.checked_add(said.map_or(LONGEST, |said| said.min(LONGEST))).unwrap_or(now)
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.saturating_mul(3600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// kube-apiserver does not interpret the code; people who read its log and metrics do.
fn status(refusal: Refusal) -> Status {
    let code = match refusal.class {
        Class::Unavailable => Code::Unavailable,
        Class::Throttled => Code::ResourceExhausted,
        Class::Denied => Code::PermissionDenied,
        Class::KeyDisabled | Class::Config => Code::FailedPrecondition,
        Class::UnknownKey => Code::NotFound,
        Class::Corrupt => Code::InvalidArgument,
        Class::Protocol => Code::Internal,
    };
    Status::new(code, refusal.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, ms) in [("3S", 3000), ("2999m", 2999), ("1H", 3_600_000), ("1M", 60_000), ("5000u", 5), ("0n", 0)] {
            assert_eq!(timeout(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "S", "3", "3s", "123456789S", "-1S", "+1S", "1 S", "3é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_deadline_is_later_than_the_limit() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "1H".parse().unwrap());
        assert!(deadline(&metadata) <= Instant::now() + LONGEST);
        metadata.insert("grpc-timeout", "1m".parse().unwrap());
        assert!(deadline(&metadata) <= Instant::now() + Duration::from_millis(1));
    }

    #[test]
    fn messages_with_seeds_do_not_print_them() {
        let request = EncryptRequest { plaintext: b"canary".to_vec(), uid: "u".into() };
        assert_eq!(format!("{request:?}"), r#"EncryptRequest { uid: "u", .. }"#);
        assert_eq!(format!("{:?}", DecryptResponse { plaintext: b"canary".to_vec() }), "DecryptResponse(..)");
    }
}
