//! A provider: one key somewhere that wraps other keys, and all that is known of it.
//!
//! Threat: what is behind may be down, slow, hung, throttled, another one under the same name, or hostile. So a provider
//! says which version wrapped and fails rather than use another; the caller limits the time of every call by dropping it,
//! checks that what was wrapped unwraps before it relies on a key, and authenticates what comes back.

pub mod age;
pub mod aws;
pub mod azure;
pub mod bulla;
mod cloud;
mod files;
pub mod gcp;
pub mod http;
#[doc(hidden)]
pub mod parsers;
pub mod pkcs11;
pub mod token;
pub mod vault;

use crate::key::KeyRef;
use bulla_crypto::BoxFuture;
use bulla_crypto::digest::{framed, sha256};
use bulla_crypto::secret::SecretKey;
use std::fmt;
use std::time::SystemTime;

/// What came of asking a provider.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ProviderError>>;

/// One key somewhere that wraps 32-byte keys. A call is given up by dropping its future, at any point.
pub trait Provider: Send + Sync {
    /// What is behind it.
    fn kind(&self) -> Kind;

    /// Largest size in bytes of what [`Provider::wrap`] makes.
    fn max_wrapped_bytes(&self) -> usize;

    /// Opens what lies on this node, such as files with authorities and identities, if it is not open yet or has changed, and
    /// asks nobody over a network; an identity on a token logs in there. Whoever observes does so too: this is for whoever asks whether a configuration can be used.
    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Looks at the key: which versions there are, and which one new keys are to be wrapped by. Renews and obtains
    /// credentials where that is due, opens again what was lost, and so heals what can be healed.
    fn observe(&self) -> Answer<'_, Observation>;

    /// Why what lies there is not what is in use, if it is not: of a provider whose keys are a file, which keeps those that
    /// it has when it is given another.
    fn refused(&self) -> Option<ProviderError> {
        None
    }

    /// Wraps `plain` by exactly this version of the key, bound to `context` where the backend can bind.
    fn wrap<'a>(&'a self, key: &'a KeyRef, plain: &'a SecretKey, context: &'a Context) -> Answer<'a, Vec<u8>>;

    /// Unwraps what [`Provider::wrap`] made with the same key and context.
    fn unwrap<'a>(&'a self, key: &'a KeyRef, wrapped: &'a [u8], context: &'a Context) -> Answer<'a, SecretKey>;
}

/// What a provider saw of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The version that the backend would wrap by.
    pub active: KeyRef,
    /// Every version that unwraps, the active one among them.
    pub readable: Vec<KeyRef>,
    /// Whether older versions wrap too, if they are asked to. Where they do not, a new version is used as soon as it is
    /// seen: to wait would be to make no seeds meanwhile.
    pub older_wraps: bool,
    /// When the credential ends that was used, unless it is renewed.
    pub credential_ends: Option<SystemTime>,
    /// Whether the provider gets another one by itself before that. If not, somebody else has to.
    pub credential_renewed: bool,
}

/// What a wrapped key belongs to: the Kubernetes cluster and the key id. Backends that take additional data get it, so
/// that a wrapped key of another cluster does not unwrap here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context([u8; 32]);

impl Context {
    /// Of a cluster's name and a key id.
    pub fn new(cluster: &str, key_id: &str) -> Self {
        Self(sha256(&[&framed(&[b"bulla/kms/v1/context", cluster.as_bytes(), key_id.as_bytes()])]))
    }

    /// Its bytes: a SHA-256.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $line:literal])* $variant:ident = $text:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $line])* $variant,)*
        }
        impl $name {
            /// Its name in configuration, metrics and audit.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What is behind a provider.
    Kind {
        /// A transit key of a Bulla cluster.
        Bulla = "bulla",
        /// A transit key of a HashiCorp Vault or an OpenBao.
        Vault = "vault",
        /// An AES key on a token behind PKCS#11.
        Pkcs11 = "pkcs11",
        /// A key in a file that is encrypted to the node's own identity, which may be a file, a token or a TPM.
        Age = "age",
        /// AWS KMS.
        Aws = "aws",
        /// Azure Key Vault.
        Azure = "azure",
        /// Google Cloud KMS.
        Gcp = "gcp",
    }
}

words! {
    /// Why a provider did not do it. Each class is one label of a metric and one status of gRPC.
    Class {
        /// Nothing answers, or not in time; later it may.
        Unavailable = "unavailable",
        /// It wants fewer requests.
        Throttled = "throttled",
        /// The credential is refused, or has no right to do this.
        Denied = "denied",
        /// The key, or the version, is disabled or about to be deleted.
        KeyDisabled = "key_disabled",
        /// There is no such key or version.
        UnknownKey = "unknown_key",
        /// What was to be unwrapped was altered, or belongs to another key or cluster.
        Corrupt = "corrupt",
        /// The configuration does not fit what is there.
        Config = "config",
        /// It answered what it must not: another version, another size.
        Protocol = "protocol",
    }
}

impl Class {
    /// Whether the same call may succeed in a moment, and so speaks for not asking this provider for a while.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Unavailable | Self::Throttled)
    }
}

/// Why a provider did not do it. The text is for the operator's log: it names no secret and repeats nothing that was
/// encrypted; kube-apiserver is told the class alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderError {
    /// What kind of failure it is.
    pub class: Class,
    /// What happened, and what to do where that is known.
    pub text: String,
}

impl ProviderError {
    /// A failure.
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ProviderError {}
