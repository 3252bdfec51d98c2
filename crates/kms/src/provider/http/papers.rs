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
    /// Since when there are other failures.
    refused: Option<Instant>,
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
                let judged = judged(&read.errors, known, at);
                faults = judged.0;
                if let (Some(since), Some(known)) = (judged.1, known) {
                    return Ok((Known { at, refused: Some(since), ..known }, None));
                }
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
        let now = Known { digest, at, faults, refused: None };
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

/// What tells these failures from others; and since when they are met, if what is known is better than what was read with them.
/// That is so where they were not there when it was read: half of an update, or too few open files. Such that were there
/// remain, like a link to nothing, and so do new ones after a while: they must not keep an update away for ever.
fn judged(errors: &[impl fmt::Display], known: Option<Known>, at: Instant) -> ([u8; 32], Option<Instant>) {
    let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.sort();
    let faults = digest(texts.iter().map(String::as_bytes));
    let (Some(first), Some(known)) = (texts.first(), known) else { return (faults, None) };
    if known.faults == faults || known.refused.is_some_and(|since| at.saturating_duration_since(since) >= OWN) {
        return (faults, None);
    }
    if known.refused.is_none() {
        tracing::warn!(
            error = first,
            "cannot read all of the system's authorities; those that were read before are used"
        );
    }
    (faults, Some(known.refused.unwrap_or(at)))
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
        let at = Instant::now();
        let known = |faults, refused| Some(Known { digest: [0; 32], at, faults, refused });
        let none: [&str; 0] = [];
        let (well, link) = (judged(&none, None, at).0, judged(&["link"], None, at).0);
        assert_ne!(well, link);
        assert_eq!(judged(&["link"], None, at), (link, None));
        assert_eq!(judged(&["link"], known(link, None), at), (link, None), "it was there");
        let (few, since) = judged(&["too many open files"], known(well, None), at);
        assert_eq!(since, Some(at));
        assert!(judged(&["link", "other"], known(link, None), at).1.is_some());
        // It stays, and is no reason to go without an update any more.
        let later = at + OWN - Duration::from_secs(1);
        assert_eq!(judged(&["too many open files"], known(well, Some(at)), later), (few, Some(at)));
        assert_eq!(judged(&["too many open files"], known(well, Some(at)), at + OWN), (few, None));
        assert_eq!(judged(&["another"], known(well, Some(at)), later).1, Some(at), "however the words vary");
        assert_eq!(judged(&none, known(link, Some(at)), later), (well, None), "all is well again");
    }
}
