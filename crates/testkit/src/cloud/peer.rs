//! A service of somebody else, over TLS or beside this machine: it answers what a test's model of it says, hangs, lies, or
//! is not there.

use crate::tls;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::convert::Infallible;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Call {
    /// A header, empty if it has none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body, if it is JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A field of a form.
    pub fn form(&self, name: &str) -> String {
        let body = std::str::from_utf8(&self.body).unwrap();
        let field = body.split('&').filter_map(|field| field.split_once('=')).find(|(found, _)| *found == name);
        percent_decoded(field.map_or("", |(_, value)| value))
    }
}

/// What a field of a form or query says.
pub fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut out) = (text.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            assert!(byte.is_ascii_alphanumeric() || b"-._~".contains(&byte), "{text}");
            out.push(byte);
        }
    }
    String::from_utf8(out).unwrap()
}

/// An answer of JSON.
pub fn says(status: u16, body: &Value) -> Response<String> {
    Response::builder().status(status).body(body.to_string()).unwrap()
}

/// An answer of anything.
pub fn text(status: u16, body: &str) -> Response<String> {
    Response::builder().status(status).body(body.to_owned()).unwrap()
}

/// What a peer does with a call.
#[derive(Debug, Clone)]
pub enum Deed {
    /// Answers as its model says.
    Answers,
    /// Never answers.
    Hangs,
    /// Answers this to calls whose path or target ends so, and as its model says to others.
    Says(&'static str, u16, String),
}

/// What answers.
pub type Model = Box<dyn Fn(&Call) -> Response<String> + Send + Sync>;

struct Inner {
    model: Model,
    deed: Mutex<Deed>,
    calls: Mutex<Vec<Call>>,
}

/// A service, until it is dropped.
pub struct Peer {
    /// Where it is.
    pub origin: String,
    /// The file with its certificate.
    pub ca: PathBuf,
    folder: TempDir,
    port: u16,
    tls: Option<TlsAcceptor>,
    inner: Arc<Inner>,
    serving: Option<JoinHandle<()>>,
}

impl Peer {
    /// One over TLS, whose certificate is in its `ca`.
    pub async fn start(model: impl FnOnce(&str) -> Model) -> Self {
        let (chain, key) = tls::of_this_machine();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, &chain).unwrap();
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::begin(Some(TlsAcceptor::from(Arc::new(config))), folder, ca, model).await
    }

    /// One beside this machine, which speaks HTTP as metadata services do.
    pub async fn plain(model: impl FnOnce(&str) -> Model) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("none");
        Self::begin(None, folder, ca, model).await
    }

    async fn begin(tls: Option<TlsAcceptor>, folder: TempDir, ca: PathBuf, model: impl FnOnce(&str) -> Model) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let origin = format!("{}://127.0.0.1:{port}", if tls.is_some() { "https" } else { "http" });
        let model = model(&origin);
        let inner = Arc::new(Inner { model, deed: Mutex::new(Deed::Answers), calls: Mutex::default() });
        let mut own = Self { origin, ca, folder, port, tls, inner, serving: None };
        own.serve(listener);
        own
    }

    /// A file with this content, which nobody else may read and which is gone with the peer.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        // A plugin takes no secret that others may read.
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Has it do this from now on.
    pub fn does(&self, deed: Deed) {
        *self.inner.deed.lock().unwrap() = deed;
    }

    /// Has it answer so to calls whose path or target ends with `at`.
    pub fn lies(&self, at: &'static str, status: u16, body: impl Into<String>) {
        self.does(Deed::Says(at, status, body.into()));
    }

    /// The calls that came since the last time this was asked, shortened to what `which` makes of each.
    pub fn calls<T>(&self, which: impl Fn(&Call) -> Option<T>) -> Vec<T> {
        std::mem::take(&mut *self.inner.calls.lock().unwrap()).iter().filter_map(which).collect()
    }

    /// How many calls came since the last time this was asked.
    pub fn count(&self) -> usize {
        self.calls(|_| Some(())).len()
    }

    /// Ends it and every connection.
    pub async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    /// Starts it again at the same port.
    pub async fn start_again(&mut self) {
        self.serve(TcpListener::bind(("127.0.0.1", self.port)).await.unwrap());
    }

    fn serve(&mut self, listener: TcpListener) {
        let (tls, inner) = (self.tls.clone(), Arc::clone(&self.inner));
        self.serving = Some(tokio::spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, inner) = (tls.clone(), Arc::clone(&inner));
                connections.spawn(async move {
                    let service = service_fn(move |request| take(Arc::clone(&inner), request));
                    let server = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            drop(server.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                });
            }
        }));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn take(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let path = head.uri.path_and_query().unwrap().to_string();
    let call = Call { method: head.method, path, headers: head.headers, body };
    inner.calls.lock().unwrap().push(call.clone());
    let deed = inner.deed.lock().unwrap().clone();
    let answer = match deed {
        Deed::Hangs => std::future::pending().await,
        Deed::Says(at, status, body) if call.path.ends_with(at) || call.header("x-amz-target").ends_with(at) => {
            text(status, &body)
        }
        _ => (inner.model)(&call),
    };
    let (mut head, body) = answer.into_parts();
    if head.status == StatusCode::OK && !head.headers.contains_key("content-type") {
        head.headers.insert("content-type", "application/json".parse().unwrap());
    }
    Ok(Response::from_parts(head, Full::new(body.into())))
}
