//! What the providers with a token have in common: URIs in the configuration, and what its failures mean.

use super::{Class, ProviderError};
use bulla_keys::uri::TokenUri;
use bulla_keys::{Outcome, TokenError};
use serde::{Deserialize, Deserializer};
use std::error::Error as _;
use std::time::Duration;

/// How long a token may take for one answer. A call of kube-apiserver has three seconds, in which other members are
/// asked too; making a session and logging in takes a TPM half a second.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// The URI of a key on a token, in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUri(pub TokenUri);

impl<'de> Deserialize<'de> for KeyUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|error| serde::de::Error::custom(format!("not a usable PKCS#11 URI: {error}")))
    }
}

/// What a failure of a token means here. The text says what to do.
pub(super) fn failure(error: &TokenError) -> ProviderError {
    let class = match error.outcome() {
        Outcome::Away => Class::Unavailable,
        Outcome::Denied => Class::Denied,
        Outcome::NoKey => Class::UnknownKey,
        Outcome::Disabled => Class::KeyDisabled,
        Outcome::NotAuthentic => Class::Corrupt,
        Outcome::Setup => Class::Config,
        Outcome::Wrong => Class::Protocol,
    };
    let cause = error.source().map(|cause| format!(" ({cause})")).unwrap_or_default();
    ProviderError::new(class, format!("{error}{cause}; {}", error.hint()))
}
