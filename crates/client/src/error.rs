//! Why a call failed, and what to do about it.

use crate::known::KnownError;
use crate::state::StateError;
use bulla_crypto::envelope::{OpenError, SealError};
use bulla_crypto::evidence::EvidenceError;
use bulla_crypto::message::ResponseError;
use bulla_crypto::sign::SignError;
use bulla_crypto::snapshot::SnapshotError;
use bulla_wire::error::{Code, ErrorEntry};
use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// How the first document is called in [`Untrusted::Statement`].
pub(crate) const GENESIS: &str = "genesis";
/// How an admission is called there.
pub(crate) const ADMISSION: &str = "the principal's admission";

/// What about an answer is not to be believed.
#[derive(Debug)]
pub enum Untrusted {
    /// It carries no signature, or a header twice.
    Unsigned {
        /// Its HTTP status.
        status: u16,
        /// The header at fault.
        header: &'static str,
    },
    /// Its signature is not that of an active node of the pinned cluster.
    Signature(ResponseError),
    /// Its body is not the one that was signed.
    Body,
    /// It claims to answer before the request's signature was checked, yet it is no error.
    OpenProfile,
    /// A signed statement in it does not hold.
    Statement {
        /// Which statement.
        what: &'static str,
        /// Why.
        cause: EvidenceError,
    },
    /// It says something else than was asked, or than was signed elsewhere.
    Contradiction {
        /// What does not fit.
        what: &'static str,
    },
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned { status, header } => {
                write!(f, "the answer (status {status}) is not signed: {header} is missing or not unique")
            }
            Self::Signature(error) => error.fmt(f),
            Self::Body => f.write_str("the body of the answer is not the one that the node signed"),
            Self::OpenProfile => f.write_str("the answer does not belong to this signed request"),
            Self::Statement { what, cause } => write!(f, "{what} does not hold: {cause}"),
            Self::Contradiction { what } => f.write_str(what),
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub enum ClientError {
    /// The cluster refused: nothing happened, unless `verified` is false.
    Refused {
        /// HTTP status.
        status: u16,
        /// At least one.
        errors: Vec<ErrorEntry>,
        /// A node of the pinned cluster signed the refusal. For a change that means: as the answer to this very
        /// request. It is false before init, and where a change was refused before its signature was checked: what
        /// the node said to another request of the same path would look the same.
        verified: bool,
        /// A change was sent, and the refusal is not verified: whoever stands between may have handed the change in.
        may_have_happened: bool,
    },
    /// No answer came. Nothing is known to have happened, and for a call that changes nothing that is all.
    Unreachable {
        /// Where.
        address: String,
        /// What the network said.
        cause: String,
    },
    /// An answer came that must not be believed.
    Untrusted(Untrusted),
    /// The cluster stands behind what this client has already seen.
    RolledBack(StateError),
    /// A name stands for other keys than before, without proof.
    Known(KnownError),
    /// A change was sent, and nobody knows whether it happened. It must not be sent again as a new one.
    UnknownOutcome {
        /// What the last attempt met.
        cause: Box<Self>,
    },
    /// A snapshot cannot be used.
    Snapshot(SnapshotError),
    /// The content of a wrap or of a sealed secret is not what its writer signed.
    Tampered {
        /// What does not fit.
        what: &'static str,
    },
    /// Signing failed.
    Sign(SignError),
    /// Encrypting failed.
    Seal(SealError),
    /// Decrypting failed.
    Open(OpenError),
    /// A local file could not be read or written.
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file, if one is known.
        path: Option<PathBuf>,
        /// What the system said.
        cause: io::Error,
    },
    /// The content is larger than a wrap may be.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The call needs an identity, and the client has none.
    NoIdentity,
    /// It was asked for that this call is not sent ([`crate::Builder::withhold`]).
    Withheld,
    /// The call needs an identity that decrypts, and the client's only signs.
    SignsOnly,
    /// The call needs a pin, and the client has none.
    NoPin,
    /// The caller asked for something that cannot be.
    Input {
        /// What is wrong with it.
        what: String,
        /// What to do instead.
        hint: String,
    },
}

impl ClientError {
    /// The public code of a refusal that a node of the pinned cluster signed. Whoever does something because of a refusal goes
    /// by this.
    pub fn proven(&self) -> Option<Code> {
        match self {
            Self::Refused { errors, verified: true, .. } => errors.first().map(|entry| entry.code),
            _ => None,
        }
    }

    /// Whether what binds a principal to its name does not hold.
    pub fn is_void(&self) -> bool {
        matches!(self, Self::Untrusted(Untrusted::Statement { what: ADMISSION, .. }))
    }

    /// The public code of a refusal, to be shown: it may be anybody's word ([`Self::proven`]).
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { errors, .. } => errors.first().map(|entry| entry.code),
            Self::UnknownOutcome { cause } => cause.code(),
            _ => None,
        }
    }

    /// What to do next. Empty only if the cluster refused and did not say.
    pub fn hint(&self) -> String {
        match self {
            Self::Refused { errors, .. } => errors.iter().find_map(|entry| entry.hint.clone()).unwrap_or_default(),
            Self::Unreachable { address, .. } => {
                format!("check the address and that the server runs{}", port_hint(address))
            }
            Self::Untrusted(Untrusted::Signature(ResponseError::UnknownNode(_))) => {
                "the answer is from another cluster, or from a node that no document names, which was removed or has a new \
                 key: compare the pinned cluster id".into()
            }
            Self::Untrusted(Untrusted::Unsigned { .. } | Untrusted::Body) => {
                "something between you and the server answers in its place or rewrites answers".into()
            }
            Self::Untrusted(Untrusted::Statement { what: GENESIS, cause }) => genesis_hint(cause).into(),
            Self::Untrusted(_) => "do not go on; ask the admins".into(),
            Self::RolledBack(_) => {
                "the storage was set back, or this is a copy of the cluster: ask the admins; if they know of it, \
                 `bulla context accept-loss` goes on".into()
            }
            Self::Known(KnownError::Older { .. }) => {
                "the server, or the bundle that it began with, is older than what you saw: ask its admins".into()
            }
            Self::Known(_) => "ask the holder of the name by another way whether the key changed".into(),
            Self::UnknownOutcome { .. } => "read the state before you try again".into(),
            Self::Tampered { .. } => "nothing was kept; tell the writer".into(),
            Self::Snapshot(error) => snapshot_hint(error).into(),
            Self::Sign(_) => "check that the token or agent that holds the key is there".into(),
            Self::Open(OpenError::Key(_)) => "check that the token that holds the key is there".into(),
            Self::Open(OpenError::Payload | OpenError::Mac) => "it is not what was encrypted: get the whole of it anew".into(),
            Self::Open(OpenError::Header(_) | OpenError::Binding(_) | OpenError::Passphrase) => {
                "check that it is the right file, and whole".into()
            }
            Self::Open(_) => "check that the identity is the one that it was encrypted to".into(),
            Self::Seal(SealError::MixedRecipients { .. }) => {
                "make two wraps: one to the post-quantum keys, one to the classical ones".into()
            }
            Self::Seal(SealError::Io(cause)) | Self::Io { cause, .. } => io_hint(cause.kind()).into(),
            Self::Seal(_) => "check for whom it is".into(),
            Self::Input { hint, .. } => hint.clone(),
            Self::TooLarge { .. } => "keep large things elsewhere, and wrap the key to them".into(),
            Self::NoIdentity => "name an identity file".into(),
            Self::Withheld => "make the client without withholding".into(),
            Self::SignsOnly => "name a second identity, which decrypts for this one".into(),
            Self::NoPin => "name the cluster id, which the admins can tell you".into(),
        }
    }

    /// What to do besides [`Self::hint`], where a refused change may have happened all the same.
    pub fn caution(&self) -> Option<&'static str> {
        match self {
            Self::Refused { may_have_happened: true, .. } => {
                Some("an answer that could not be verified proves nothing: read the state before you try again")
            }
            _ => None,
        }
    }

    pub(crate) fn io(what: &'static str, path: impl Into<Option<PathBuf>>, cause: io::Error) -> Self {
        Self::Io { what, path: path.into(), cause }
    }

    pub(crate) fn statement(what: &'static str) -> impl FnOnce(EvidenceError) -> Self {
        move |cause| Self::Untrusted(Untrusted::Statement { what, cause })
    }

    pub(crate) fn contradiction(what: &'static str) -> Self {
        Self::Untrusted(Untrusted::Contradiction { what })
    }

    pub(crate) fn input(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input { what: what.into(), hint: hint.into() }
    }
}

/// What else to know where nothing answers at an address that names no port, to go on with a hint; else nothing.
pub fn port_hint(address: &str) -> &'static str {
    let names_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if names_port || address.starts_with("unix:") {
        ""
    } else {
        "; without a port it is 443, and a server listens on 8250 unless it was told another"
    }
}

/// What to do about a local file that cannot be used.
pub fn io_hint(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied, StorageFull};
    match kind {
        AlreadyExists => "choose another path",
        NotFound | IsADirectory | NotADirectory => "check the path",
        PermissionDenied => "check whose file it is, and its mode",
        StorageFull => "make room on that disk",
        _ => "mend what the message names, then try again",
    }
}

/// What to do about a snapshot that is not to be taken.
pub fn snapshot_hint(error: &SnapshotError) -> &'static str {
    match error {
        SnapshotError::NotASnapshot => "name a file that `bulla snapshot save` wrote",
        SnapshotError::NewerVersion(_) => "use the version of bulla that wrote it",
        SnapshotError::Truncated | SnapshotError::Malformed(_) => "copy the file again, or take another one",
        SnapshotError::Altered(_) => "take another one, and ask who could write this file",
        SnapshotError::OtherCluster(_) => "choose the context, or the --cluster ID, that it was taken from",
        SnapshotError::Untrusted(_) => "do not use it; take another one, and ask who could write this file",
        SnapshotError::Compromised(_) => {
            "its node's key was stolen, so anybody may have made it; if the audit log or another record that you trust has \
             its digest, give that with --sha256"
        }
        SnapshotError::OtherDigest(_) => "this is not the file that the digest is of",
        SnapshotError::Io(_) => "make room, and check who may write there",
    }
}

fn genesis_hint(cause: &EvidenceError) -> &'static str {
    match cause {
        EvidenceError::TooFewAdmins { .. } => {
            "this cluster is new: its admins approve it with the shares by which they unseal it first"
        }
        EvidenceError::OtherAdmins => {
            "this is a cluster of other people: send nothing there before you know why; check the address"
        }
        EvidenceError::OtherK { .. } => "ask the admins whether they made the cluster anew with another k",
        EvidenceError::OtherPin => {
            "this is another cluster than the pinned one: ask the admins whether they made a new one"
        }
        _ => "do not go on; ask the admins",
    }
}

/// Refuses an answer unless `holds`.
pub(crate) fn demand(holds: bool, what: &'static str) -> Result<(), ClientError> {
    if holds { Ok(()) } else { Err(ClientError::contradiction(what)) }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { status, errors, verified, .. } => {
                let Some(first) = errors.first() else { return write!(f, "refused with status {status}") };
                write!(f, "{}: {}", first.code, first.message)?;
                if *verified { Ok(()) } else { f.write_str(" (this answer could not be verified)") }
            }
            Self::Unreachable { address, cause } => write!(f, "no answer from {address}: {cause}"),
            Self::Untrusted(what) => what.fmt(f),
            Self::RolledBack(error) => error.fmt(f),
            Self::Known(error) => error.fmt(f),
            Self::UnknownOutcome { .. } => f.write_str("it is not known whether the change happened"),
            Self::Tampered { what } => write!(f, "the content is not what its writer signed: {what}"),
            Self::Snapshot(_) => f.write_str("the snapshot cannot be used"),
            Self::Sign(_) => f.write_str("signing failed"),
            Self::Seal(_) => f.write_str("encrypting failed"),
            Self::Open(_) => f.write_str("decrypting failed"),
            Self::Io { what, path: Some(path), .. } => write!(f, "{what} {}", path.display()),
            Self::Io { what, path: None, .. } => f.write_str(what),
            Self::TooLarge { limit } => write!(f, "the content is larger than {limit} bytes"),
            Self::NoIdentity => f.write_str("this needs an identity"),
            Self::Withheld => f.write_str("the call was withheld"),
            Self::SignsOnly => f.write_str("this identity only signs, and this needs one that decrypts too"),
            Self::NoPin => f.write_str("this needs a pinned cluster"),
            Self::Input { what, hint: _ } => f.write_str(what),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::UnknownOutcome { cause } => Some(cause),
            Self::Snapshot(cause) => Some(cause),
            Self::Sign(cause) => Some(cause),
            Self::Seal(cause) => Some(cause),
            Self::Open(cause) => Some(cause),
            Self::Io { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl From<SignError> for ClientError {
    fn from(error: SignError) -> Self {
        Self::Sign(error)
    }
}

impl From<SealError> for ClientError {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

impl From<OpenError> for ClientError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<Untrusted> for ClientError {
    fn from(what: Untrusted) -> Self {
        Self::Untrusted(what)
    }
}

impl From<StateError> for ClientError {
    fn from(error: StateError) -> Self {
        Self::RolledBack(error)
    }
}

impl From<KnownError> for ClientError {
    fn from(error: KnownError) -> Self {
        Self::Known(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_is_told_which_one_was_tried() {
        let hint = |address: &str| ClientError::Unreachable { address: address.into(), cause: String::new() }.hint();
        for address in ["https://bulla.example", "https://[::1]"] {
            assert!(hint(address).contains("443"), "{address}");
        }
        for address in ["https://bulla.example:8250", "https://[::1]:8250", "unix:/run/bulla.sock"] {
            assert!(!hint(address).contains("443"), "{address}");
        }
    }
}
