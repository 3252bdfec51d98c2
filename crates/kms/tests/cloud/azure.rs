//! Azure Key Vault and Entra ID as the documentation of Azure has them.

use crate::check::{context, down_and_back, failed, observed, round_trip};
use bulla_crypto::digest::sha256;
use bulla_crypto::pem;
use bulla_crypto::random::{SystemRng, draw, secret_key};
use bulla_crypto::sign::{RsaMinimum, SigningKey};
use bulla_kms::key::KeyRef;
use bulla_kms::provider::azure::{Azure, Settings};
use bulla_kms::provider::{Class, Kind, Provider};
use bulla_testkit::cloud::azure::{AUDIENCE, CLIENT, KEYS, TENANT, Vault, application, now, settings};
use bulla_testkit::cloud::peer::{Call, Model, Peer, percent_decoded, says, text};
use bulla_testkit::cloud::{Cloud as _, azure, start};
use bulla_testkit::tls;
use bulla_wire::encoding::base64url;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

fn open(peer: &Peer, version: &str, credentials: &str) -> Azure {
    Azure::open(&toml::from_str::<Settings>(&settings(peer, version, credentials)).unwrap()).unwrap()
}

fn by_secret(peer: &Peer, version: &str) -> Azure {
    open(peer, version, &azure::by_secret(peer))
}

/// What was asked, without the query.
fn asked(call: &Call) -> Option<String> {
    Some(call.path.split('?').next().unwrap().trim_start_matches('/').to_owned())
}

#[tokio::test]
async fn a_key_goes_there_and_back() {
    let (mut peer, vault) = start::<Vault>().await;
    let azure = by_secret(&peer, "");
    assert_eq!(azure.kind(), Kind::Azure);
    let seen = observed(&azure).await;
    let first = "0".repeat(32);
    let token = format!("{TENANT}/oauth2/v2.0/token");
    assert_eq!(peer.calls(asked), [token, "keys/k8s/versions".to_owned(), format!("keys/k8s/{first}")]);
    assert_eq!(
        (seen.active.backend.clone(), seen.active.version.clone()),
        (format!("{}/keys/k8s", peer.origin), first)
    );
    assert_eq!((seen.active.check.len(), seen.active.created), (52, Some(1_700_000_000)));
    assert!(seen.credential_ends.unwrap() > SystemTime::now() + Duration::from_secs(3500));
    // A version that was looked at is not asked for again.
    assert_eq!(observed(&azure).await, seen);
    assert_eq!(peer.calls(asked), ["keys/k8s/versions"]);
    round_trip(&azure, &seen.active, false).await;
    assert_eq!(vault.lock().unwrap().fetched, 1, "never a token for each call");
    down_and_back(&azure, &mut peer).await;
    assert_eq!(vault.lock().unwrap().fetched, 1);
}

#[tokio::test]
async fn a_rotated_key_unwraps_what_is_old() {
    let (peer, vault) = start::<Vault>().await;
    let (newest, pinned) = (by_secret(&peer, ""), by_secret(&peer, &format!("/{}", "0".repeat(32))));
    let first = observed(&newest).await.active;
    let old = round_trip(&newest, &first, false).await;
    vault.lock().unwrap().rotate();
    let seen = observed(&newest).await;
    assert_eq!((seen.readable.len(), seen.active == first), (2, false));
    assert_ne!(seen.active.check, first.check);
    newest.unwrap(&first, &old, &context("here")).await.unwrap();
    // The old one wraps, as it is named, and nothing of it opens under the new one.
    newest.wrap(&first, &secret_key(&mut SystemRng), &context("here")).await.unwrap();
    failed(newest.unwrap(&seen.active, &old, &context("here")).await, Class::Corrupt);
    let seen = observed(&pinned).await;
    assert_eq!((seen.active == first, seen.readable.len()), (true, 2));
    // A third that is over does not wrap, but unwraps.
    vault.lock().unwrap().rotate();
    vault.lock().unwrap().versions[2].exp = Some(now() - 1);
    let seen = observed(&newest).await;
    assert_eq!((seen.active.version.ends_with('1'), seen.readable.len()), (true, 3));
}

#[tokio::test]
async fn what_is_disabled_or_denied_is_told_apart() {
    let (peer, vault) = start::<Vault>().await;
    let azure = by_secret(&peer, "");
    let key = observed(&azure).await.active;
    let wrapped = round_trip(&azure, &key, false).await;
    vault.lock().unwrap().versions[0].enabled = false;
    failed(azure.observe().await, Class::KeyDisabled);
    failed(azure.unwrap(&key, &wrapped, &context("here")).await, Class::KeyDisabled);
    vault.lock().unwrap().versions[0].enabled = true;
    let unknown = KeyRef { version: "f".repeat(32), ..key.clone() };
    failed(azure.unwrap(&unknown, &wrapped, &context("here")).await, Class::UnknownKey);
    vault.lock().unwrap().rotate();
    for right in ["keys/list", "keys/get", "keys/wrap", "keys/unwrap"] {
        vault.lock().unwrap().denied = Some(right);
        let result = match right {
            "keys/wrap" => azure.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await.map(|_| ()),
            "keys/unwrap" => azure.unwrap(&key, &wrapped, &context("here")).await.map(|_| ()),
            _ => azure.observe().await.map(|_| ()),
        };
        let text = failed(result, Class::Denied);
        assert!(text.contains(right) && !text.contains("canary"), "{text}");
    }
    vault.lock().unwrap().denied = None;
    let key = observed(&azure).await.active;
    vault.lock().unwrap().mixes = true;
    failed(azure.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await, Class::Protocol);
}

#[tokio::test]
async fn every_status_has_its_class() {
    let (peer, _) = start::<Vault>().await;
    let azure = by_secret(&peer, "");
    observed(&azure).await;
    let at = "/keys/k8s/versions?api-version=7.4&maxresults=25";
    for (status, code, class) in [
        (429, "Throttled", Class::Throttled),
        (500, "", Class::Unavailable),
        (503, "canary <b>", Class::Unavailable),
        (404, "KeyNotFound", Class::UnknownKey),
        (409, "Conflict", Class::KeyDisabled),
        (403, "KeyOperationForbidden", Class::Config),
        (403, "ForbiddenByFirewall", Class::Denied),
        (400, "BadParameter", Class::Config),
        (302, "", Class::Protocol),
    ] {
        peer.lies(at, status, json!({"error": {"code": code, "message": "canary"}}).to_string());
        let text = failed(azure.observe().await, class);
        assert!(!text.contains("canary") && text.contains(&peer.origin), "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_refused() {
    let (peer, _) = start::<Vault>().await;
    let azure = by_secret(&peer, "");
    let key = observed(&azure).await.active;
    let at = "/keys/k8s/versions?api-version=7.4&maxresults=25";
    let kid = format!("{}/keys/k8s/{}", peer.origin, "a".repeat(32));
    let item = |kid: &str| json!({"kid": kid, "attributes": {"enabled": true, "created": 1}});
    for (body, class) in [
        ("canary".to_owned(), Class::Protocol),
        ("{}".to_owned(), Class::Protocol),
        (json!({"value": [{"kid": "canary"}]}).to_string(), Class::Protocol),
        (json!({"value": [item("https://canary.example/keys/k8s/a")]}).to_string(), Class::Protocol),
        (json!({"value": [item(&kid.replace("k8s/", "k8sx/"))]}).to_string(), Class::Protocol),
        (json!({"value": [], "nextLink": "https://canary.example/keys/k8s"}).to_string(), Class::Protocol),
        (json!({"value": []}).to_string(), Class::KeyDisabled),
        (json!({"value": vec![item(&kid); 101]}).to_string(), Class::Config),
        (json!({"value": [item(&kid)]}).to_string(), Class::UnknownKey),
        ("a".repeat(300 * 1024), Class::Protocol),
    ] {
        peer.lies(at, 200, body);
        let text = failed(azure.observe().await, class);
        assert!(!text.contains("canary"), "{text}");
    }
    // A list that goes on elsewhere on the same host, or on one whose name begins so, or for ever.
    for next in ["/secrets/canary", ".example/keys/canary", "keys/canary", "@canary.example/keys/k8s"] {
        peer.lies(at, 200, json!({"value": [], "nextLink": format!("{}{next}", peer.origin)}).to_string());
        peer.count();
        let text = failed(azure.observe().await, Class::Protocol);
        assert!(text.contains("elsewhere") && !text.contains("canary"), "{text}");
        assert_eq!(peer.count(), 1, "{next}");
    }
    peer.lies(at, 200, json!({"value": [], "nextLink": format!("{}{at}", peer.origin)}).to_string());
    assert!(failed(azure.observe().await, Class::Protocol).contains("more than 20 pages"));
    assert_eq!(peer.count(), 20);
    let (kid, wraps) = (format!("{}/keys/k8s/{}", peer.origin, key.version), "wrapkey?api-version=7.4");
    for value in [String::new(), "=".to_owned(), base64url(&[1; 255]), base64url(&[1; 385])] {
        peer.lies(wraps, 200, json!({"kid": kid, "value": value}).to_string());
        failed(azure.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await, Class::Protocol);
        failed(azure.unwrap(&key, &[1; 256], &context("here")).await, Class::Protocol);
    }
}

#[tokio::test]
async fn a_version_that_is_no_rsa_key_is_refused() {
    let (peer, _) = start::<Vault>().await;
    let version = "0".repeat(32);
    let kid = format!("{}/keys/k8s/{version}", peer.origin);
    let at = "00000000000000000000000000000000?api-version=7.4";
    for (key, class) in [
        (json!({"kid": kid, "kty": "oct-HSM"}), Class::Config),
        (json!({"kid": kid, "kty": "RSA", "n": base64url(&[1; 128]), "e": "AQAB"}), Class::Config),
        (json!({"kid": kid, "kty": "RSA", "n": base64url(&[1; 512]), "e": "AQAB"}), Class::Config),
        (json!({"kid": kid, "kty": "RSA", "n": "=", "e": "AQAB"}), Class::Config),
        (json!({"kid": kid.replace("0000", "0001"), "kty": "RSA", "n": "", "e": ""}), Class::Protocol),
    ] {
        peer.lies(at, 200, json!({ "key": key }).to_string());
        failed(by_secret(&peer, "").observe().await, class);
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_obtained_anew_with_the_newest_secret() {
    let (peer, vault) = start::<Vault>().await;
    let azure = by_secret(&peer, "");
    let key = observed(&azure).await.active;
    vault.lock().unwrap().tokens.clear();
    vault.lock().unwrap().secret = "client~secret.2".to_owned();
    failed(azure.observe().await, Class::Denied);
    assert_eq!(vault.lock().unwrap().fetched, 1, "one that is new is not given up");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let text = failed(azure.observe().await, Class::Denied);
    assert!(text.contains("invalid_client (AADSTS7000215)") && !text.contains("canary"), "{text}");
    peer.file("secret", "client~secret.2");
    tokio::time::sleep(Duration::from_secs(6)).await;
    round_trip(&azure, &key, false).await;
    assert_eq!(vault.lock().unwrap().fetched, 2);
}

#[tokio::test]
async fn of_many_calls_at_once_one_fetches_a_token() {
    let (peer, vault) = start::<Vault>().await;
    let azure = Arc::new(by_secret(&peer, ""));
    vault.lock().unwrap().lasting = 1;
    let key = observed(&*azure).await.active;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    vault.lock().unwrap().lasting = 3600;
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let (azure, key) = (Arc::clone(&azure), key.clone());
            tokio::spawn(async move { azure.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(vault.lock().unwrap().fetched, 2);
}

/// A certificate and its key in PEM.
fn certificate(pkcs8: &[u8]) -> (SigningKey, Vec<u8>, Vec<u8>, Vec<u8>) {
    let key = SigningKey::from_pkcs8(pkcs8, RsaMinimum::Bits2048).unwrap();
    let der = tls::certificate(&key, |_| {}).cert[0].to_vec();
    let own = pem::write("CERTIFICATE", &der).expose().clone();
    (key, der, own, pem::write("PRIVATE KEY", pkcs8).expose().clone())
}

#[tokio::test]
async fn every_way_to_a_token() {
    let (peer, vault) = start::<Vault>().await;
    let (key, der, certificate, own) = certificate(&KEYS[1]);
    vault.lock().unwrap().certificate = Some((key.public_key().spki().to_vec(), base64url(&sha256(&[&der]))));
    let (certificate, own) = (peer.file("certificate.pem", certificate), peer.file("key.pem", own));
    let token = peer.file("token", "federated.token");
    let metadata = machine(&vault).await;
    let proof = format!("certificate = '{}', key = '{}'", certificate.display(), own.display());
    for source in [
        format!("certificate = {{ {} }}", application(&peer, &proof)),
        format!("workload_identity = {{ {} }}", application(&peer, &format!("token_file = '{}'", token.display()))),
        format!("managed_identity = {{ client = '{CLIENT}', endpoint = '{}' }}", metadata.origin),
    ] {
        let azure = open(&peer, "", &source);
        let before = vault.lock().unwrap().fetched;
        let seen = observed(&azure).await;
        round_trip(&azure, &seen.active, false).await;
        assert_eq!(vault.lock().unwrap().fetched, before + 1, "{source}");
    }
    // Another key than the certificate's.
    let (_, _, _, other) = self::certificate(&KEYS[2]);
    peer.file("key.pem", other);
    let azure = open(&peer, "", &format!("certificate = {{ {} }}", application(&peer, &proof)));
    failed(azure.observe().await, Class::Denied);
    for (name, content) in [("certificate.pem", "none"), ("key.pem", "none")] {
        peer.file(name, content);
        let azure = open(&peer, "", &format!("certificate = {{ {} }}", application(&peer, &proof)));
        let text = failed(azure.observe().await, Class::Config);
        assert!(text.contains("certificate.pem"), "{text}");
    }
}

/// The metadata service of a machine.
async fn machine(vault: &Arc<Mutex<Vault>>) -> Peer {
    let vault = Arc::clone(vault);
    Peer::plain(move |_| -> Model {
        Box::new(move |call| {
            let (path, query) = call.path.split_once('?').unwrap();
            assert_eq!((call.method.as_str(), path), ("GET", "/metadata/identity/oauth2/token"));
            if call.header("metadata") != "true" {
                return text(400, "");
            }
            let query: Vec<String> =
                query.split('&').map(|field| field.split_once('=').unwrap().1).map(percent_decoded).collect();
            assert_eq!(query, ["2018-02-01", AUDIENCE, CLIENT]);
            let token = vault.lock().unwrap().issue();
            let ends = (now() + 3600).to_string();
            // It writes numbers as text.
            says(200, &json!({"access_token": token, "expires_in": "3599", "expires_on": ends, "token_type": "Bearer"}))
        })
    })
    .await
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_refused() {
    let (peer, _) = start::<Vault>().await;
    let salt = base64url(&draw::<8>(&mut SystemRng));
    for (status, body, class) in [
        (200, salt.clone(), Class::Protocol),
        (200, json!({"access_token": salt}).to_string(), Class::Protocol),
        (200, json!({"access_token": format!("{salt} x"), "expires_in": 1}).to_string(), Class::Protocol),
        (200, json!({"access_token": salt, "expires_in": "soon"}).to_string(), Class::Protocol),
        // One that has ended already is none.
        (200, json!({"access_token": salt, "expires_in": 0}).to_string(), Class::Unavailable),
        (400, json!({"error": "invalid_grant", "error_description": salt}).to_string(), Class::Denied),
        (400, salt.clone(), Class::Denied),
        (404, String::new(), Class::Config),
        (429, String::new(), Class::Throttled),
        (502, salt.clone(), Class::Unavailable),
    ] {
        peer.lies("/oauth2/v2.0/token", status, body);
        let text = failed(by_secret(&peer, "").observe().await, class);
        assert!(!text.contains(&salt), "{text}");
    }
}

/// Else it would be renewed never, and a time that no clock has would count as none.
#[tokio::test]
async fn no_token_is_believed_for_longer_than_a_day() {
    let (peer, vault) = start::<Vault>().await;
    let token = vault.lock().unwrap().issue();
    for lasts in [json!(u64::MAX), json!(u64::MAX.to_string()), json!(400 * 24 * 3600)] {
        peer.lies("/oauth2/v2.0/token", 200, json!({"access_token": token, "expires_in": lasts}).to_string());
        let ends = observed(&by_secret(&peer, "")).await.credential_ends;
        assert!(ends.is_some_and(|ends| ends <= SystemTime::now() + Duration::from_secs(24 * 3600)), "{lasts}");
    }
}

/// One that begins later does not wrap yet, and one that does not fit is left out; neither takes the others away.
#[tokio::test]
async fn a_version_that_begins_later_or_does_not_fit_leaves_the_others() {
    let (peer, vault) = start::<Vault>().await;
    let azure = by_secret(&peer, "");
    let first = observed(&azure).await.active;
    vault.lock().unwrap().rotate();
    let second = observed(&azure).await.active;
    let item = |key: &KeyRef, created: u64, from: Option<u64>| {
        let attributes = json!({"enabled": true, "created": created, "nbf": from});
        json!({"kid": format!("{}/{}", key.backend, key.version), "attributes": attributes})
    };
    for (from, active) in [(None, &second), (Some(now() - 1), &second), (Some(now() + 3600), &first)] {
        let list = json!({"value": [item(&first, 1, None), item(&second, 2, from)]});
        peer.lies("/keys/k8s/versions?api-version=7.4&maxresults=25", 200, list.to_string());
        let seen = azure.observe().await.unwrap();
        assert_eq!((&seen.active.version, seen.readable.len()), (&active.version, 2), "{from:?}");
    }
    let key = json!({"kid": format!("{}/{}", first.backend, first.version), "kty": "oct-HSM"});
    peer.lies("00000000000000000000000000000000?api-version=7.4", 200, json!({ "key": key }).to_string());
    let seen = by_secret(&peer, "").observe().await.unwrap();
    assert_eq!((&seen.active, &seen.readable), (&second, &vec![second.clone()]));
}
