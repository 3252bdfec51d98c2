//! What a certificate says, for people who look for what is wrong: whom it names and when it ends. Nothing is believed
//! because of it.
//!
//! The library that judges certificates takes them apart only to judge them, so its verdicts are asked for: what it
//! says long after the end names the end.

use crate::ClientError;
use crate::call::now_ms;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use std::io;
use std::path::Path;
use std::time::Duration;

/// The last second that the library can think of in a certificate: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
/// A name that nobody has (RFC 6761 §6.4).
const NOBODY: &str = "nobody.invalid";

/// A certificate of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Hosts and addresses that it names.
    pub names: Vec<String>,
    /// When it ends, Unix milliseconds; none if it has no end that is written down.
    pub ends_ms: Option<u64>,
    /// It looks as one that a node makes for itself: signed with its own key, for `localhost`.
    pub is_own: bool,
}

impl Certificate {
    /// Reads one in DER; `None` if it is none that the TLS library reads.
    pub fn of(der: &[u8]) -> Option<Self> {
        let der = CertificateDer::from(der);
        let parsed = ParsedCertificate::try_from(&der).ok()?;
        let names = names_of(&parsed);
        let ends_ms = end_of(&parsed).map(|end| end.saturating_mul(1000));
        let is_own = names == ["localhost"] && signed_itself(&der, &parsed);
        Some(Self { names, ends_ms, is_own })
    }

    /// Reads those in a PEM file, the server's own first.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn read(path: &Path) -> Result<Vec<Self>, ClientError> {
        let failed = |cause| ClientError::io("cannot read certificates from", path.to_path_buf(), cause);
        let pem = std::fs::read(path).map_err(failed)?;
        let read = CertificateDer::pem_slice_iter(&pem).map(|der| Self::of(&der.ok()?));
        let all: Option<Vec<_>> = read.collect();
        all.filter(|all| !all.is_empty()).ok_or_else(|| failed(io::Error::other("no certificates in PEM")))
    }
}

/// What the library says about a certificate at a time, with these for authorities.
fn judge(parsed: &ParsedCertificate<'_>, roots: &RootCertStore, at_s: u64) -> Result<(), Error> {
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at_s));
    let algorithms = default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(parsed, roots, &[], at, algorithms)
}

/// The time is judged before the chain, so no authority is needed.
fn end_of(parsed: &ParsedCertificate<'_>) -> Option<u64> {
    match judge(parsed, &RootCertStore::empty(), LAST_SECOND) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => Some(not_after.as_secs()),
        _ => None,
    }
}

fn signed_itself(der: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(der.clone().into_owned()).is_ok() && judge(parsed, &roots, now_ms() / 1000).is_ok()
}

fn names_of(parsed: &ParsedCertificate<'_>) -> Vec<String> {
    let Ok(nobody) = ServerName::try_from(NOBODY) else { return Vec::new() };
    match verify_server_name(parsed, &nobody) {
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. })) => {
            presented.iter().map(|name| bare(name)).collect()
        }
        _ => Vec::new(),
    }
}

/// The library gives `DnsName("host")` and `IpAddress(1.2.3.4)`.
fn bare(name: &str) -> String {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(name).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str], year: i32) -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 2, 3);
        Certificate::of(parameters.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn names_and_end_are_told() {
        let read = certificate(&["a.example", "*.b.example", "10.0.0.1"], 2031);
        assert_eq!(read.names, ["a.example", "*.b.example", "10.0.0.1"]);
        // 2031-02-03
        assert_eq!(read.ends_ms, Some(1_927_843_200_000));
        assert!(!read.is_own);
        let past = certificate(&["a.example"], 2001);
        assert_eq!(past.ends_ms, Some(981_158_400_000));
        assert!(Certificate::of(b"nothing").is_none());
    }

    #[test]
    fn a_nodes_own_is_known_again() {
        assert!(certificate(&["localhost"], 4096).is_own);
        assert!(!certificate(&["localhost", "a.example"], 4096).is_own);
        // Of somebody else's authority.
        let (authority, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let issuer = rcgen::Issuer::new(parameters, authority);
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let issued = parameters.signed_by(&key, &issuer).unwrap();
        assert!(!Certificate::of(issued.der()).unwrap().is_own);
    }
}
