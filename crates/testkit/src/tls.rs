//! TLS as a test speaks it: any certificate is taken, as Bulla's clients do, which trust the signature under an answer.

use bulla_crypto::sign::SigningKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Takes any certificate whose key the other side holds.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // A client that offers TLS 1.2 asks whether the server would take it; the answer must not depend on this.
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client that offers exactly this.
pub fn offer(
    versions: &[&'static SupportedProtocolVersion],
    groups: &[&'static dyn SupportedKxGroup],
    protocols: &[&str],
) -> ClientConfig {
    let provider = Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() });
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("versions that the provider has")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// What a client shows of itself: its chain, and the key that signs the handshake.
pub type Shown = Arc<CertifiedKey>;

/// A certificate for a key, signed by itself; `change` may alter what it says.
pub fn certificate(key: &SigningKey, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Shown {
    let own = key_pair(key);
    let mut parameters = rcgen::CertificateParams::default();
    change(&mut parameters);
    let certificate = parameters.self_signed(&own).expect("a certificate");
    shown(vec![certificate.der().clone()], key)
}

/// A certificate for 127.0.0.1, which vouches for itself, and its key: both as PEM.
pub fn of_this_machine() -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let names = vec!["127.0.0.1".to_owned()];
    let own = rcgen::CertificateParams::new(names).expect("names").self_signed(&key).expect("a certificate");
    (own.pem(), key.serialize_pem())
}

/// The key as rcgen takes it.
pub fn key_pair(key: &SigningKey) -> rcgen::KeyPair {
    let pkcs8 = key.to_pkcs8().expect("a key that can be written");
    rcgen::KeyPair::try_from(pkcs8.expose().as_slice()).expect("a key")
}

/// This chain, whatever is in it, with this key.
pub fn shown(chain: Vec<CertificateDer<'static>>, key: &SigningKey) -> Shown {
    let pkcs8 = key.to_pkcs8().expect("a key that can be written");
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.expose().clone()));
    Arc::new(CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(&der).expect("a key")))
}

/// A client that speaks `protocol` over TLS 1.3 and shows a certificate, if it has one.
pub fn client(protocol: &str, shown: Option<Shown>) -> ClientConfig {
    let groups = aws_lc_rs::default_provider().kx_groups;
    let mut config = offer(&[&rustls::version::TLS13], &groups, &[protocol]);
    if let Some(shown) = shown {
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
    }
    config
}

/// Tries to make a connection.
///
/// # Errors
/// The handshake's. A client certificate is refused only after the client's side of it: the first read fails then.
pub async fn try_connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().expect("a name"), stream).await
}

/// A connection that speaks `protocol`, `http/1.1` or `h2`, over TLS 1.3.
pub async fn connect(address: SocketAddr, protocol: &str) -> TlsStream<TcpStream> {
    try_connect(address, client(protocol, None)).await.expect("a TLS connection")
}
