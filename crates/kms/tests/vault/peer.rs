//! A server that hangs, is gone, is sealed, or has enough.

use super::{active, fails, file, provider, provider_with, server, unwrap, with_token, wrap};
use bulla_kms::provider::{Class, Provider as _};
use bulla_testkit::openbao::OpenBao;
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_given_up_and_comes_back() {
    let bao = server!("a_server_that_hangs_is_given_up_and_comes_back");
    let vault = with_token(&bao, "k8s", "node");
    let key = active(&vault).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    let patience = Duration::from_millis(300);
    bao.signal(Signal::STOP);
    // Each of its threads has to hear of it.
    tokio::time::sleep(patience).await;
    for _ in 0..3 {
        assert!(tokio::time::timeout(patience, unwrap(&vault, &key, &wrapped)).await.is_err());
        assert!(tokio::time::timeout(patience, wrap(&vault, &key)).await.is_err());
        assert!(tokio::time::timeout(patience, vault.observe()).await.is_err());
    }
    bao.signal(Signal::CONT);
    tokio::time::timeout(Duration::from_secs(5), unwrap(&vault, &key, &wrapped)).await.unwrap().unwrap();
    assert_eq!(active(&vault).await, key);
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_come_later_and_change() {
    let bao = server!("authorities_come_later_and_change");
    let ca = bao.folder().join("authorities.pem");
    let auth = json!({"token": {"file": file(&bao, "root", bao.root())}});
    let vault = provider_with(&bao, auth, |settings| settings["ca"] = json!(ca));
    assert!(fails(vault.observe().await, Class::Config).contains("authorities.pem"));
    fails(vault.prepare().await, Class::Config);
    // One that did not sign the server's certificate.
    let (other, _) = bulla_testkit::tls::of_this_machine();
    std::fs::write(&ca, &other).unwrap();
    vault.prepare().await.unwrap();
    assert!(fails(vault.observe().await, Class::Unavailable).contains(&bao.address()));
    std::fs::copy(bao.ca(), &ca).unwrap();
    let key = active(&vault).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    // What cannot be used takes the place of nothing.
    for broken in ["", "-----BEGIN CERTIFICATE-----\n"] {
        std::fs::write(&ca, broken).unwrap();
        assert_eq!(active(&vault).await, key);
    }
    std::fs::remove_file(&ca).unwrap();
    assert_eq!(active(&vault).await, key);
    // Who is trusted no more is asked nothing more, by connections of before either.
    std::fs::write(&ca, &other).unwrap();
    fails(vault.observe().await, Class::Unavailable);
    fails(unwrap(&vault, &key, &wrapped).await, Class::Unavailable);
    std::fs::copy(bao.ca(), &ca).unwrap();
    assert_eq!(active(&vault).await, key);
    unwrap(&vault, &key, &wrapped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_comes_back_sealed() {
    let mut bao = server!("a_server_that_is_killed_comes_back_sealed", OpenBao::start_on_disk());
    let vault = with_token(&bao, "k8s", "node");
    let key = active(&vault).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    bao.kill();
    assert!(fails(unwrap(&vault, &key, &wrapped).await, Class::Unavailable).contains(&bao.address()));
    fails(wrap(&vault, &key).await, Class::Unavailable);
    fails(vault.observe().await, Class::Unavailable);
    // Who begins anew meanwhile does not fail before it is asked.
    let auth = json!({"token": {"file": file(&bao, "root", bao.root())}});
    let fresh = provider(&bao, auth);
    fails(fresh.observe().await, Class::Unavailable);
    bao.start_again();
    assert!(fails(vault.observe().await, Class::Unavailable).contains("sealed"));
    assert!(fails(unwrap(&vault, &key, &wrapped).await, Class::Unavailable).contains("sealed"));
    fails(wrap(&vault, &key).await, Class::Unavailable);
    fails(fresh.observe().await, Class::Unavailable);
    bao.unseal();
    unwrap(&vault, &key, &wrapped).await.unwrap();
    // The cluster and its keys are those of before.
    assert_eq!(active(&vault).await, key);
    assert_eq!(active(&fresh).await, key);
    bao.run(&["operator", "seal"]);
    fails(unwrap(&vault, &key, &wrapped).await, Class::Unavailable);
    bao.unseal();
    wrap(&vault, &key).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_at_the_same_place_has_other_keys() {
    let bao = server!("another_cluster_at_the_same_place_has_other_keys");
    let other = OpenBao::start().unwrap();
    super::furnish(&other);
    let (here, there) = (with_token(&bao, "k8s", "node"), with_token(&other, "k8s", "node"));
    let (key, foreign) = (active(&here).await, active(&there).await);
    assert_ne!(key.digest(), foreign.digest());
    let wrapped = wrap(&there, &foreign).await.unwrap();
    fails(unwrap(&here, &foreign, &wrapped).await, Class::UnknownKey);
    fails(unwrap(&here, &key, &wrapped).await, Class::Corrupt);
    // A server whose certificate somebody else vouches for is told nothing.
    let auth = json!({"token": {"file": file(&bao, "root", bao.root())}});
    let vault = super::provider_with(&bao, auth, |settings| settings["ca"] = json!(other.ca()));
    assert!(fails(vault.observe().await, Class::Unavailable).contains("certificate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_throttles() {
    let bao = server!("a_quota_throttles");
    let vault = with_token(&bao, "k8s", "node");
    let key = active(&vault).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    bao.run(&["write", "sys/quotas/rate-limit/few", "path=transit", "rate=1", "interval=60s"]);
    let mut throttled = 0;
    for _ in 0..4 {
        if let Err(error) = unwrap(&vault, &key, &wrapped).await {
            assert_eq!(error.class, Class::Throttled, "{error}");
            throttled += 1;
        }
    }
    assert!(throttled >= 3);
    fails(vault.observe().await, Class::Throttled);
    bao.run(&["delete", "sys/quotas/rate-limit/few"]);
    unwrap(&vault, &key, &wrapped).await.unwrap();
}
