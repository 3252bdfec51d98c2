//! Why a server did not start, and what to do about it.

use crate::ceremony::CeremonyError;
use crate::sink;
use crate::tls::TlsError;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;

/// Why a server did not start.
#[derive(Debug)]
pub enum RunError {
    /// A file or socket.
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that is not as it must be.
    Unfit {
        /// Which.
        what: String,
        /// Why.
        reason: String,
        /// The way out.
        hint: String,
    },
    /// The store.
    Store(bulla_store::OpenError),
    /// The audit log.
    Audit(sink::OpenError),
    /// TLS.
    Tls(TlsError),
    /// Rows of the store.
    Phase(CeremonyError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, what, source } => write!(f, "cannot {action} {what}: {source}"),
            Self::Unfit { what, reason, hint: _ } => write!(f, "{what}: {reason}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::Audit(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "{error}"),
            Self::Phase(error) => write!(f, "the store holds no whole cluster: {error}"),
        }
    }
}

impl RunError {
    /// A file that is not as it must be, why, and the way out.
    pub fn unfit(what: impl fmt::Display, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unfit { what: what.to_string(), reason: reason.into(), hint: hint.into() }
    }

    /// What to do about it; none where the store's message says so itself.
    pub fn hint(&self) -> Option<&str> {
        match self {
            // The local socket is a path, as files are.
            Self::Io { action: "listen on", what, source } if what.parse::<SocketAddr>().is_ok() => {
                Some(listen_hint(source.kind()))
            }
            Self::Io { action: "listen for metrics on", .. } => Some("give --metrics-listen another address"),
            Self::Io { .. } => Some("check the path, and that the server's user may use it"),
            Self::Unfit { hint, .. } => Some(hint),
            Self::Tls(TlsError::Mode { .. }) => Some("set it to 0600"),
            Self::Tls(TlsError::Own(_)) => Some("give a certificate with tls.cert and tls.key"),
            Self::Tls(_) => Some("check the files that tls.cert and tls.key name"),
            Self::Store(bulla_store::OpenError::Io { .. }) => Some("check the path, and that the disk has room"),
            Self::Store(_) => None,
            Self::Audit(error) => Some(error.hint()),
            Self::Phase(_) => Some("put back the newest copy of the store, or restore a snapshot"),
        }
    }
}

fn listen_hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::PermissionDenied => "ports below 1024 are root's: give --listen a higher one, such as 8250",
        ErrorKind::AddrNotAvailable => "give --listen an address of this machine; 0.0.0.0 means all of them",
        _ => "give --listen another address, or end what listens there",
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => error.source(),
            Self::Audit(error) => error.source(),
            Self::Tls(error) => error.source(),
            Self::Phase(error) => error.source(),
            Self::Io { .. } | Self::Unfit { .. } => None,
        }
    }
}
