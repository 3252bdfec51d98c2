//! A proxy that ends TLS in front of a server, as people put one there, and does to what passes what a test tells it to.

use crate::tls;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a proxy does to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Nothing but to add `via`.
    Passes,
    /// Takes this prefix off the path.
    Strips(&'static str),
    /// Forwards no query.
    DropsQuery,
    /// Forwards requests without this header.
    Takes(&'static str),
    /// Hands back answers without this header.
    Keeps(&'static str),
    /// Compresses the bodies of answers.
    Compresses,
    /// Says that it does not reach the server.
    Fails,
}

/// A proxy, until its runtime ends.
#[derive(Debug)]
pub struct Hop {
    /// Where it listens.
    pub address: SocketAddr,
    deed: Arc<Mutex<Deed>>,
}

impl Hop {
    /// Starts one in front of a server. Its certificate names `hop.example`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(server: SocketAddr) -> Self {
        let (chain, key) = certificate("hop.example", 2090);
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("its key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions that the provider has")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let deed = Arc::new(Mutex::new(Deed::Passes));
        let now = Arc::clone(&deed);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (acceptor, now) = (acceptor.clone(), Arc::clone(&now));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| {
                        let deed = *now.lock().unwrap_or_else(PoisonError::into_inner);
                        async move { Ok::<_, Infallible>(pass(request, server, deed).await) }
                    });
                    let served =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    drop(served.await);
                });
            }
        });
        Self { address, deed }
    }

    /// Has it do this from now on.
    pub fn does(&self, deed: Deed) {
        *self.deed.lock().unwrap_or_else(PoisonError::into_inner) = deed;
    }
}

/// A self-signed certificate in PEM that names one host and ends at the beginning of a year, and its key.
///
/// # Panics
/// If it cannot be made.
pub fn certificate(name: &str, ends: i32) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    parameters.not_after = rcgen::date_time_ymd(ends, 1, 1);
    let certificate = parameters.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

async fn pass(request: Request<Incoming>, server: SocketAddr, deed: Deed) -> Response<Full<Bytes>> {
    if deed == Deed::Fails {
        return bad_gateway();
    }
    let (mut head, body) = request.into_parts();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let path = match deed {
        Deed::Strips(prefix) => path.strip_prefix(prefix).unwrap_or(path),
        _ => path,
    };
    let line = if query.is_empty() || deed == Deed::DropsQuery { path.to_owned() } else { format!("{path}?{query}") };
    head.uri = line.parse::<Uri>().expect("a path");
    if let Deed::Takes(name) = deed {
        head.headers.remove(name);
    }
    let body = Full::new(body.collect().await.expect("a whole request").to_bytes());
    let stream = tls::connect(server, "http/1.1").await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let answer = sender.send_request(Request::from_parts(head, body)).await.expect("an answer");
    let (mut head, body) = answer.into_parts();
    let mut body = body.collect().await.expect("a whole answer").to_bytes();
    head.headers.insert("via", HeaderValue::from_static("1.1 hop"));
    match deed {
        Deed::Keeps(name) => drop(head.headers.remove(name)),
        Deed::Compresses => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&body).expect("memory");
            body = encoder.finish().expect("memory").into();
            head.headers.insert("content-encoding", HeaderValue::from_static("gzip"));
            head.headers.remove("content-length");
        }
        _ => {}
    }
    Response::from_parts(head, Full::new(body))
}

fn bad_gateway() -> Response<Full<Bytes>> {
    let page = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\r\n";
    let mut response = Response::new(Full::new(Bytes::from_static(page.as_bytes())));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response.headers_mut().insert("server", HeaderValue::from_static("nginx"));
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/html"));
    response
}
