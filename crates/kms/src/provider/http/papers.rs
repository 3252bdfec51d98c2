//! What lies on this node for the way to a backend: who may have signed its certificate, and what is shown to it.

use super::{Origin, Shown};
use crate::provider::files::{MAX_BYTES, MAX_CA_BYTES, digest, whole};
use crate::provider::{Class, ProviderError};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the system's own authorities are read again: they are some hundred files, which change with an update.
const OWN: Duration = Duration::from_secs(600);

/// Where it lies.
#[derive(Clone)]
pub(super) struct Papers {
    pub ca: Option<PathBuf>,
    pub shown: Option<Shown>,
}

/// What was read.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub digest: [u8; 32],
    pub at: Instant,
    /// What tells the failures to read some of the system's authorities from others: those that remain are known.
    faults: [u8; 32],
}

impl Papers {
    /// How TLS is spoken by the files as they are now, and what tells them from others; `None` for the former if they are as
    /// they were.
    ///
    /// # Errors
    /// [`Class::Config`], with the file.
    pub fn read(&self, origin: &Origin, known: Option<Known>) -> Result<(Known, Option<ClientConfig>), ProviderError> {
        let at = Instant::now();
        let own = self.ca.is_none() && !origin.is_plain();
        if let Some(known) = known.filter(|known| own && self.shown.is_none() && known.at.elapsed() < OWN) {
            return Ok((known, None));
        }
        let mut faults = digest([]);
        let authorities = match &self.ca {
            Some(path) => certificates(path, whole(path, MAX_CA_BYTES)?.expose())?,
            // In no order that lasts.
            None if own => {
                let read = rustls_native_certs::load_native_certs();
                faults = judged(&read.errors, known)?;
                let mut authorities = read.certs;
                authorities.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
                authorities
            }
            None => Vec::new(),
        };
        let shown = match &self.shown {
            None => None,
            Some(Shown { certificate, key }) => Some((whole(certificate, MAX_BYTES)?, whole(key, MAX_BYTES)?)),
        };
        let contents = shown.iter().flat_map(|(certificate, key)| [certificate.expose().as_slice(), key.expose()]);
        let digest = digest(authorities.iter().map(|authority| authority.as_ref()).chain(contents));
        let now = Known { digest, at, faults };
        if known.is_some_and(|known| known.digest == digest) {
            return Ok((now, None));
        }
        let config = |error: rustls::Error| ProviderError::new(Class::Config, format!("cannot set up TLS: {error}"));
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(config)?
            .with_root_certificates(self.roots(origin, authorities)?);
        let tls = match (&self.shown, shown) {
            (Some(Shown { certificate: place, key: key_place }), Some((certificate, key))) => {
                let chain = certificates(place, certificate.expose())?;
                let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|error| unfit(key_place, &error))?;
                tls.with_client_auth_cert(chain, key).map_err(config)?
            }
            _ => tls.with_no_client_auth(),
        };
        Ok((now, Some(tls)))
    }

    /// Who may have signed the backend's certificate.
    fn roots(
        &self,
        origin: &Origin,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<RootCertStore, ProviderError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for authority in authorities {
                    roots.add(authority).map_err(|error| unfit(path, &error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(authorities);
            }
        }
        if roots.is_empty() && !origin.is_plain() {
            let text = format!(
                "there is no authority to judge the certificate of {origin} by: install the package ca-certificates, or name \
                 them with ca"
            );
            return Err(ProviderError::new(Class::Config, text));
        }
        Ok(roots)
    }
}

/// What tells these failures from others.
///
/// # Errors
/// There are some that were not there when what is known was read: half of an update, or too few open files. Then what is known
/// is better. Those that were there remain, such as a link to nothing, and must not keep an update away for ever.
fn judged(errors: &[impl fmt::Display], known: Option<Known>) -> Result<[u8; 32], ProviderError> {
    let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.sort();
    let faults = digest(texts.iter().map(String::as_bytes));
    match (texts.first(), known) {
        (Some(first), Some(known)) if known.faults != faults => {
            let text = format!("cannot read all of the system's authorities: {first}");
            Err(ProviderError::new(Class::Config, text))
        }
        _ => Ok(faults),
    }
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, ProviderError> {
    CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(|error| unfit(path, &error))
}

fn unfit(path: &Path, error: &dyn fmt::Display) -> ProviderError {
    ProviderError::new(Class::Config, format!("cannot use {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_are_read_by_half_take_the_place_of_none() {
        let known = |faults| Some(Known { digest: [0; 32], at: Instant::now(), faults });
        let none: [&str; 0] = [];
        let (well, link) = (judged(&none, None).unwrap(), judged(&["link"], None).unwrap());
        assert_ne!(well, link);
        let half = judged(&["too many open files"], known(well)).unwrap_err();
        assert!(half.class == Class::Config && half.text.contains("open files"), "{half}");
        assert!(judged(&["link", "other"], known(link)).is_err());
        // What was wrong from the start goes on being so, or is mended.
        assert_eq!(judged(&["link"], known(link)), Ok(link));
        assert_eq!(judged(&none, known(link)), Ok(well));
    }
}
