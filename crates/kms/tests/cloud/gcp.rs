//! Google Cloud KMS and its token services as the documentation of Google has them.

use crate::check::{context, down_and_back, failed, observed, round_trip};
use bulla_crypto::pem;
use bulla_crypto::random::{SystemRng, secret_key};
use bulla_crypto::transit;
use bulla_kms::provider::gcp::{Gcp, Settings};
use bulla_kms::provider::{Class, Kind, Provider};
use bulla_testkit::cloud::gcp::{ACCOUNT, AUDIENCE, Fault, KEY, Project, crc32c, error, service_account, settings};
use bulla_testkit::cloud::peer::{Call, Model, Peer, text};
use bulla_testkit::cloud::{gcp, start};
use bulla_wire::api::KeyKind;
use bulla_wire::encoding::base64;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn open(peer: &Peer, credentials: &str) -> Gcp {
    Gcp::open(&toml::from_str::<Settings>(&settings(peer, credentials)).unwrap()).unwrap()
}

fn by_file(peer: &Peer, content: &Value) -> Gcp {
    open(peer, &gcp::by_file(peer, content))
}

fn by_account(peer: &Peer) -> Gcp {
    by_file(peer, &service_account(peer, &ACCOUNT.0))
}

/// What was asked, without what stands before the key's own part, and without the query.
fn asked(call: &Call) -> Option<String> {
    Some(call.path.split('?').next().unwrap().replace(&format!("/v1/{KEY}"), "key"))
}

#[tokio::test]
async fn a_key_goes_there_and_back() {
    let (mut peer, project) = start::<Project>().await;
    let gcp = by_account(&peer);
    assert_eq!(gcp.kind(), Kind::Gcp);
    let seen = observed(&gcp).await;
    assert_eq!(peer.calls(asked), ["/token", "key", "key/cryptoKeyVersions"]);
    assert_eq!((seen.active.backend.as_str(), seen.active.version.as_str()), (format!("gcp:{KEY}").as_str(), "1"));
    assert_eq!(seen.active.check, "2026-01-01T10:20:30.123456789Z");
    assert_eq!(seen.active.created, Some(1_767_262_830));
    assert!(seen.credential_ends.unwrap() > SystemTime::now() + Duration::from_secs(3500));
    gcp.wrap(&seen.active, &secret_key(&mut SystemRng), &context("here")).await.unwrap();
    assert_eq!(peer.calls(asked), ["key/cryptoKeyVersions/1:encrypt"]);
    round_trip(&gcp, &seen.active, true).await;
    assert_eq!(project.lock().unwrap().fetched, 1, "never a token for each call");
    down_and_back(&gcp, &mut peer).await;
}

#[tokio::test]
async fn a_version_is_pinned() {
    let (peer, project) = start::<Project>().await;
    let gcp = by_account(&peer);
    let first = observed(&gcp).await.active;
    let old = round_trip(&gcp, &first, true).await;
    {
        let mut project = project.lock().unwrap();
        project.versions.extend(["DESTROYED", "ENABLED"]);
        project.primary = Some(3);
    }
    let seen = observed(&gcp).await;
    assert_eq!((seen.readable.len(), seen.active.version.as_str()), (2, "3"));
    gcp.unwrap(&first, &old, &context("here")).await.unwrap();
    // By the old one, as it is named.
    let wrapped = gcp.wrap(&first, &secret_key(&mut SystemRng), &context("here")).await.unwrap();
    assert_eq!(wrapped[0], 1);
    project.lock().unwrap().fault = Fault::Mixes;
    let text = failed(gcp.wrap(&first, &secret_key(&mut SystemRng), &context("here")).await, Class::Protocol);
    assert!(text.contains("another version"), "{text}");
}

#[tokio::test]
async fn what_is_damaged_on_the_way_is_noticed() {
    let (peer, project) = start::<Project>().await;
    let gcp = by_account(&peer);
    let key = observed(&gcp).await.active;
    let plain = secret_key(&mut SystemRng);
    let wrapped = gcp.wrap(&key, &plain, &context("here")).await.unwrap();
    project.lock().unwrap().fault = Fault::Damages;
    for text in [
        failed(gcp.wrap(&key, &plain, &context("here")).await, Class::Protocol),
        failed(gcp.unwrap(&key, &wrapped, &context("here")).await, Class::Protocol),
    ] {
        assert!(text.contains("damaged on the way"), "{text}");
    }
    project.lock().unwrap().fault = Fault::Unchecked;
    let text = failed(gcp.wrap(&key, &plain, &context("here")).await, Class::Protocol);
    assert!(text.contains("did not check"), "{text}");
}

#[tokio::test]
async fn what_is_disabled_or_denied_is_told_apart() {
    let (peer, project) = start::<Project>().await;
    let gcp = by_account(&peer);
    let key = observed(&gcp).await.active;
    let wrapped = round_trip(&gcp, &key, true).await;
    project.lock().unwrap().versions[0] = "DISABLED";
    failed(gcp.observe().await, Class::KeyDisabled);
    failed(gcp.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await, Class::KeyDisabled);
    failed(gcp.unwrap(&key, &wrapped, &context("here")).await, Class::KeyDisabled);
    project.lock().unwrap().versions[0] = "ENABLED";
    project.lock().unwrap().primary = None;
    failed(gcp.observe().await, Class::KeyDisabled);
    project.lock().unwrap().primary = Some(1);
    for right in
        ["cryptoKeys.get", "cryptoKeyVersions.list", "cryptoKeyVersions.useToEncrypt", "cryptoKeyVersions.useToDecrypt"]
    {
        project.lock().unwrap().denied = Some(right);
        let result = match right {
            "cryptoKeyVersions.useToEncrypt" => {
                gcp.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await.map(|_| ())
            }
            "cryptoKeyVersions.useToDecrypt" => gcp.unwrap(&key, &wrapped, &context("here")).await.map(|_| ()),
            _ => gcp.observe().await.map(|_| ()),
        };
        let text = failed(result, Class::Denied);
        assert!(text.contains(&format!("cloudkms.{right}")) && !text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn every_status_has_its_class() {
    let (peer, _) = start::<Project>().await;
    let gcp = by_account(&peer);
    observed(&gcp).await;
    for (code, status, class) in [
        (429, "RESOURCE_EXHAUSTED", Class::Throttled),
        (503, "UNAVAILABLE", Class::Unavailable),
        (500, "canary <b>", Class::Unavailable),
        (404, "NOT_FOUND", Class::UnknownKey),
        (400, "INVALID_ARGUMENT", Class::Config),
        (400, "FAILED_PRECONDITION", Class::KeyDisabled),
        (302, "", Class::Protocol),
    ] {
        peer.lies("/cryptoKeys/k8s", code, error(code, status).into_body());
        let text = failed(gcp.observe().await, class);
        assert!(!text.contains("canary") && text.contains(KEY), "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_refused() {
    let (peer, project) = start::<Project>().await;
    let gcp = by_account(&peer);
    let key = observed(&gcp).await.active;
    let primary = project.lock().unwrap().version(1);
    let with = |name: &str, value: &str| {
        let mut primary = primary.clone();
        primary[name] = value.into();
        json!({"purpose": "ENCRYPT_DECRYPT", "primary": primary}).to_string()
    };
    for (body, class) in [
        ("canary".to_owned(), Class::Protocol),
        ("{}".to_owned(), Class::Protocol),
        (json!({"purpose": "MAC"}).to_string(), Class::Config),
        (
            with("name", "projects/1/locations/europe-west1/keyRings/r/cryptoKeys/k8s/cryptoKeyVersions/1"),
            Class::Protocol,
        ),
        (with("name", &format!("{KEY}/cryptoKeyVersions/canary")), Class::Protocol),
        (with("createTime", "canary"), Class::Protocol),
        (with("state", "canary"), Class::KeyDisabled),
        ("a".repeat(300 * 1024), Class::Protocol),
    ] {
        peer.lies("/cryptoKeys/k8s", 200, body);
        let text = failed(gcp.observe().await, class);
        assert!(!text.contains("canary"), "{text}");
    }
    // A list without an end: each page names the next, and its path ends as the first one's.
    peer.lies("100", 200, json!({"cryptoKeyVersions": [], "nextPageToken": "100"}).to_string());
    peer.count();
    assert!(failed(gcp.observe().await, Class::Config).contains("more than"));
    assert_eq!(peer.count(), 21);
    let name = Project::name(1);
    for (blob, crc) in [(vec![], crc32c(b"")), (vec![1; 257], crc32c(&[1; 257])), (vec![1; 64], "canary".to_owned())] {
        let body = json!({"name": name, "ciphertext": base64(&blob), "ciphertextCrc32c": crc,
            "verifiedPlaintextCrc32c": true, "verifiedAdditionalAuthenticatedDataCrc32c": true});
        peer.lies(":encrypt", 200, body.to_string());
        failed(gcp.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await, Class::Protocol);
    }
    for plain in [&[1; 31][..], &[1; 33]] {
        peer.lies(":decrypt", 200, json!({"plaintext": base64(plain), "plaintextCrc32c": crc32c(plain)}).to_string());
        failed(gcp.unwrap(&key, &[1; 64], &context("here")).await, Class::Protocol);
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_obtained_anew_with_the_newest_key() {
    let (peer, project) = start::<Project>().await;
    let gcp = by_account(&peer);
    let key = observed(&gcp).await.active;
    project.lock().unwrap().tokens.clear();
    failed(gcp.observe().await, Class::Denied);
    assert_eq!(project.lock().unwrap().fetched, 1, "one that is new is not given up");
    let other = transit::generate(KeyKind::Rsa2048, &mut SystemRng).unwrap();
    let other = String::from_utf8(pem::write("PRIVATE KEY", other.expose()).expose().clone()).unwrap();
    peer.file("google.json", service_account(&peer, &other).to_string());
    tokio::time::sleep(Duration::from_secs(6)).await;
    let text = failed(gcp.observe().await, Class::Denied);
    assert!(text.contains("invalid_grant") && !text.contains("canary"), "{text}");
    peer.file("google.json", service_account(&peer, &ACCOUNT.0).to_string());
    tokio::time::sleep(Duration::from_secs(6)).await;
    round_trip(&gcp, &key, true).await;
    assert_eq!(project.lock().unwrap().fetched, 2);
}

#[tokio::test]
async fn a_federated_identity_and_a_machine_have_tokens() {
    let (peer, project) = start::<Project>().await;
    let external = |source: Value| {
        json!({"type": "external_account", "audience": AUDIENCE, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{}/v1/token", peer.origin), "credential_source": source})
    };
    let (plain, within) =
        (peer.file("subject", "subject.token\n"), peer.file("subject.json", r#"{"t":"subject.token"}"#));
    let own = Arc::clone(&project);
    let metadata = Peer::plain(move |_| -> Model {
        Box::new(move |call| {
            assert_eq!(call.path, "/computeMetadata/v1/instance/service-accounts/default/token");
            if call.header("metadata-flavor") == "Google" { own.lock().unwrap().token() } else { text(403, "") }
        })
    })
    .await;
    let json = json!({"file": within, "format": {"type": "json", "subject_token_field_name": "t"}});
    let [plain_file, json_file] = [("plain.json", json!({ "file": plain })), ("json.json", json)]
        .map(|(name, source)| peer.file(name, external(source).to_string()));
    for source in [
        format!("file = {{ path = '{}' }}", plain_file.display()),
        format!("file = {{ path = '{}' }}", json_file.display()),
        format!("metadata = {{ endpoint = '{}' }}", metadata.origin),
    ] {
        let gcp = open(&peer, &source);
        let before = project.lock().unwrap().fetched;
        let seen = observed(&gcp).await;
        round_trip(&gcp, &seen.active, true).await;
        assert_eq!(project.lock().unwrap().fetched, before + 1);
    }
    project.lock().unwrap().subject = "another".to_owned();
    let text = failed(by_file(&peer, &external(json!({ "file": plain }))).observe().await, Class::Denied);
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_file_that_does_not_fit_is_named() {
    let (peer, _) = start::<Project>().await;
    let mut impersonates = json!({"type": "external_account", "audience": AUDIENCE, "subject_token_type": "t",
        "token_url": format!("{}/v1/token", peer.origin), "credential_source": {"file": "/none"}});
    let elsewhere = {
        let mut other = impersonates.clone();
        other["credential_source"] = json!({"url": "http://canary.example"});
        other
    };
    impersonates["service_account_impersonation_url"] = "https://canary.example/a".into();
    let mut plain = service_account(&peer, &ACCOUNT.0);
    plain["token_uri"] = "http://canary.example/token".into();
    for (content, says) in [
        (json!("canary"), "neither the key of a service account"),
        (json!({"type": "authorized_user", "client_secret": "canary"}), "neither the key of a service account"),
        (json!({"type": "service_account", "private_key": "canary"}), "neither the key of a service account"),
        (service_account(&peer, "canary"), "private_key: not a private key"),
        (plain, "token_uri: http to another machine"),
        (impersonates, "service_account_impersonation_url: not done"),
        (elsewhere, "only a file is read"),
    ] {
        let text = failed(by_file(&peer, &content).observe().await, Class::Config);
        assert!(text.contains(says) && text.contains("google.json") && !text.contains("canary"), "{text}");
    }
}
