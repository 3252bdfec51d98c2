//! What holds of each provider, whoever is behind it.

use bulla_crypto::random::{SystemRng, secret_key};
use bulla_kms::key::KeyRef;
use bulla_kms::provider::{Class, Context, Observation, Provider, ProviderError};
use bulla_testkit::cloud::peer::{Deed, Peer};
use std::time::Duration;

/// The context of a cluster's key.
pub fn context(name: &str) -> Context {
    Context::new(name, "b1.aaaaaaaaaaaaaaaaaaaaaaaaaa")
}

/// The class and text of a failure.
#[track_caller]
pub fn failed<T>(result: Result<T, ProviderError>, class: Class) -> String {
    match result {
        Ok(_) => panic!("expected {class}"),
        Err(error) => {
            assert_eq!(error.class, class, "{error}");
            error.text
        }
    }
}

/// A key goes there and back, and only where it belongs. `binds` is whether the service binds to a context.
pub async fn there_and_back(provider: &impl Provider, key: &KeyRef, binds: bool) -> Vec<u8> {
    let (plain, here) = (secret_key(&mut SystemRng), context("here"));
    let wrapped = provider.wrap(key, &plain, &here).await.unwrap();
    assert!(wrapped.len() <= provider.max_wrapped_bytes());
    assert!(!wrapped.windows(8).any(|bytes| plain.expose().windows(8).any(|own| own == bytes)));
    assert_eq!(provider.unwrap(key, &wrapped, &here).await.unwrap().expose(), plain.expose());
    let again = provider.wrap(key, &plain, &here).await.unwrap();
    assert_ne!(again, wrapped, "nothing tells that the same was wrapped");
    if binds {
        failed(provider.unwrap(key, &wrapped, &context("there")).await, Class::Corrupt);
    }
    let mut altered = wrapped.clone();
    *altered.last_mut().unwrap() ^= 1;
    failed(provider.unwrap(key, &altered, &here).await, Class::Corrupt);
    wrapped
}

/// As [`there_and_back`], and only as it is, wherever it is altered, and by no other key.
pub async fn round_trip(provider: &impl Provider, key: &KeyRef, binds: bool) -> Vec<u8> {
    let (plain, here) = (secret_key(&mut SystemRng), context("here"));
    let wrapped = there_and_back(provider, key, binds).await;
    for at in [0, wrapped.len() / 2] {
        let mut altered = wrapped.clone();
        altered[at] ^= 1;
        failed(provider.unwrap(key, &altered, &here).await, Class::Corrupt);
    }
    let other = KeyRef { backend: format!("{}x", key.backend), ..key.clone() };
    failed(provider.wrap(&other, &plain, &here).await, Class::UnknownKey);
    failed(provider.unwrap(&other, &wrapped, &here).await, Class::UnknownKey);
    wrapped
}

/// What an observation has to be.
pub async fn observed(provider: &impl Provider) -> Observation {
    let seen = provider.observe().await.unwrap();
    assert!(seen.readable.contains(&seen.active));
    for (index, key) in seen.readable.iter().enumerate() {
        assert!(!key.backend.is_empty() && !key.version.is_empty() && !key.check.is_empty(), "{key:?}");
        assert!(seen.readable.iter().skip(index + 1).all(|other| other.digest() != key.digest()), "{key:?}");
    }
    seen
}

/// A service that goes down and comes back, and one that hangs: the provider heals by itself.
pub async fn down_and_back(provider: &impl Provider, peer: &mut Peer) {
    let seen = observed(provider).await;
    peer.stop().await;
    let text = failed(provider.observe().await, Class::Unavailable);
    assert!(text.contains(&peer.origin), "{text}");
    failed(provider.unwrap(&seen.active, &[1; 64], &context("here")).await, Class::Unavailable);
    peer.start_again().await;
    assert_eq!(observed(provider).await.active, seen.active);
    peer.does(Deed::Hangs);
    let patience = Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, provider.observe()).await.is_err());
    peer.does(Deed::Answers);
    assert_eq!(observed(provider).await.active, seen.active);
    round_trip(provider, &seen.active, false).await;
}
