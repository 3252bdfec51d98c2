//! AWS KMS and STS as the documentation of AWS has them.

use crate::check::{context, down_and_back, failed, observed, round_trip};
use bulla_crypto::random::{SystemRng, secret_key};
use bulla_kms::provider::aws::{Aws, Settings};
use bulla_kms::provider::{Class, Kind, Provider};
use bulla_testkit::cloud::aws::{Account, Fault, KEY, ROLE, by_file, settings};
use bulla_testkit::cloud::peer::{Call, Model, Peer, says, text};
use bulla_testkit::cloud::{Cloud as _, start};
use bulla_wire::encoding::base64;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

fn open(peer: &Peer, credentials: &str) -> Aws {
    Aws::open(&toml::from_str::<Settings>(&settings(peer, credentials)).unwrap()).unwrap()
}

fn with_a_file(peer: &Peer) -> Aws {
    open(peer, &by_file(peer))
}

fn by_role(peer: &Peer) -> Aws {
    let token = peer.file("token", "projected.token.one\n");
    let (token, origin) = (token.display(), &peer.origin);
    open(peer, &format!("web_identity = {{ role = '{ROLE}', token_file = '{token}', endpoint = '{origin}' }}"))
}

/// What was asked.
fn action(call: &Call) -> Option<String> {
    let target = call.header("x-amz-target");
    Some(if target.is_empty() { call.path.clone() } else { target.replace("TrentService.", "") })
}

#[tokio::test]
async fn a_key_goes_there_and_back() {
    let (mut peer, account) = start::<Account>().await;
    let aws = with_a_file(&peer);
    assert_eq!(aws.kind(), Kind::Aws);
    let seen = observed(&aws).await;
    assert_eq!(peer.calls(action), ["DescribeKey", "ListKeyRotations"]);
    let current = account.lock().unwrap().materials[0].clone();
    assert_eq!((seen.active.backend.as_str(), seen.active.version.as_str()), (KEY, current.as_str()));
    assert_eq!((seen.active.created, seen.credential_ends), (Some(1_700_000_000), None));
    let (plain, here) = (secret_key(&mut SystemRng), context("here"));
    let wrapped = aws.wrap(&seen.active, &plain, &here).await.unwrap();
    // The second tells the material that wrapped it.
    assert_eq!(peer.calls(action), ["Encrypt", "Decrypt"]);
    aws.unwrap(&seen.active, &wrapped, &here).await.unwrap();
    assert_eq!(peer.calls(action), ["Decrypt"]);
    round_trip(&aws, &seen.active, true).await;
    down_and_back(&aws, &mut peer).await;
}

#[tokio::test]
async fn a_rotated_key_unwraps_what_is_old_and_wraps_by_the_new() {
    let (peer, account) = start::<Account>().await;
    let aws = with_a_file(&peer);
    let first = observed(&aws).await.active;
    let old = round_trip(&aws, &first, true).await;
    for _ in 0..4 {
        account.lock().unwrap().rotate();
    }
    let text = failed(aws.wrap(&first, &secret_key(&mut SystemRng), &context("here")).await, Class::Protocol);
    assert!(text.contains("rotated"), "{text}");
    let seen = observed(&aws).await;
    // Five materials, and the key as it was known before KMS named these.
    assert_eq!((seen.readable.len(), seen.readable.contains(&first)), (6, true));
    assert_eq!(seen.active.created, Some(1_700_000_004));
    assert_ne!(seen.active, first);
    aws.unwrap(&first, &old, &context("here")).await.unwrap();
    failed(aws.unwrap(&seen.active, &old, &context("here")).await, Class::Corrupt);
    round_trip(&aws, &seen.active, true).await;
}

#[tokio::test]
async fn a_key_that_tells_no_material_has_one_version() {
    let (peer, account) = start::<Account>().await;
    account.lock().unwrap().untold = true;
    let aws = with_a_file(&peer);
    let seen = observed(&aws).await;
    assert_eq!((seen.active.version.as_str(), seen.active.check.as_str()), ("1", "1700000000"));
    assert_eq!(seen.readable, std::slice::from_ref(&seen.active));
    round_trip(&aws, &seen.active, true).await;
    peer.count();
    aws.wrap(&seen.active, &secret_key(&mut SystemRng), &context("here")).await.unwrap();
    assert_eq!(peer.calls(action), ["Encrypt"]);
}

#[tokio::test]
async fn what_wrapped_is_found_out() {
    let (peer, account) = start::<Account>().await;
    let aws = with_a_file(&peer);
    let key = observed(&aws).await.active;
    for (fault, says) in [
        (Fault::Mixes, "unwraps another key than was wrapped"),
        (Fault::Untold, "does not tell by which key material"),
        (Fault::Rotates, "rotated just now"),
    ] {
        account.lock().unwrap().fault = fault;
        let text = failed(aws.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await, Class::Protocol);
        assert!(text.contains(says), "{text}");
    }
}

#[tokio::test]
async fn states_and_rights_are_told_apart() {
    let (peer, account) = start::<Account>().await;
    let aws = with_a_file(&peer);
    let key = observed(&aws).await.active;
    let wrapped = round_trip(&aws, &key, true).await;
    for (state, class) in
        [("Disabled", Class::KeyDisabled), ("PendingDeletion", Class::KeyDisabled), ("Updating", Class::Unavailable)]
    {
        account.lock().unwrap().state = state;
        let text = failed(aws.observe().await, class);
        assert!(text.contains(state) && text.contains(KEY), "{text}");
        if class == Class::KeyDisabled {
            failed(aws.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await, class);
            failed(aws.unwrap(&key, &wrapped, &context("here")).await, class);
        }
    }
    account.lock().unwrap().state = "Enabled";
    for right in ["DescribeKey", "ListKeyRotations", "Encrypt", "Decrypt"] {
        account.lock().unwrap().denied = Some(right);
        let result = match right {
            "Encrypt" | "Decrypt" => aws.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await.map(|_| ()),
            _ => aws.observe().await.map(|_| ()),
        };
        let text = failed(result, Class::Denied);
        assert!(text.contains(&format!("kms:{right}")) && !text.contains("not authorized"), "{text}");
    }
}

#[tokio::test]
async fn every_code_has_its_class() {
    let (peer, _) = start::<Account>().await;
    let aws = with_a_file(&peer);
    observed(&aws).await;
    for (status, code, class) in [
        (400, "ThrottlingException", Class::Throttled),
        (429, "", Class::Throttled),
        (400, "com.amazonaws.kms#NotFoundException", Class::UnknownKey),
        (400, "InvalidArnException", Class::Config),
        (400, "InvalidKeyUsageException", Class::Config),
        (400, "InvalidSignatureException", Class::Denied),
        (400, "ExpiredTokenException", Class::Denied),
        (500, "KMSInternalException", Class::Unavailable),
        (500, "KeyUnavailableException", Class::Unavailable),
        (503, "", Class::Unavailable),
        (400, "IncorrectKeyException", Class::Corrupt),
        (400, "canary <b>", Class::Protocol),
        (302, "", Class::Protocol),
    ] {
        peer.lies("DescribeKey", status, json!({"__type": code, "message": "canary"}).to_string());
        let text = failed(aws.observe().await, class);
        assert!(!text.contains("canary") && text.contains(&peer.origin), "{text}");
    }
    peer.lies("DescribeKey", 500, "<html>canary</html>");
    assert!(!failed(aws.observe().await, Class::Unavailable).contains("canary"));
}

#[tokio::test]
async fn an_answer_that_is_none_is_refused() {
    let (peer, _) = start::<Account>().await;
    let aws = with_a_file(&peer);
    let key = observed(&aws).await.active;
    let metadata = |change: &[(&str, Value)]| {
        let mut metadata = json!({"Arn": KEY, "CreationDate": 1.0, "KeyState": "Enabled",
            "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", "CurrentKeyMaterialId": "a"});
        change.iter().for_each(|(name, value)| metadata[*name] = value.clone());
        json!({ "KeyMetadata": metadata }).to_string()
    };
    for (body, class, says) in [
        ("canary".to_owned(), Class::Protocol, "not JSON"),
        ("{}".to_owned(), Class::Protocol, "."),
        ("{\"KeyMetadata\":{\"Arn\":\"canary\"}}".to_owned(), Class::Protocol, "KeyMetadata"),
        (metadata(&[("Arn", "canary".into())]), Class::Protocol, "answers for another key"),
        (metadata(&[("KeySpec", "RSA_2048".into())]), Class::Config, "no symmetric key"),
        (metadata(&[("KeyUsage", "SIGN_VERIFY".into())]), Class::Config, "no symmetric key"),
        (metadata(&[("CurrentKeyMaterialId", "canary\n\u{9b}2J".into())]), Class::Protocol, "what is no id"),
        (metadata(&[("CurrentKeyMaterialId", "".into())]), Class::Protocol, "what is no id"),
        (metadata(&[("CurrentKeyMaterialId", "a".repeat(65).into())]), Class::Protocol, "what is no id"),
        // That of a key which tells none, and whose wrapping is not looked at again.
        (metadata(&[("CurrentKeyMaterialId", "1".into())]), Class::Protocol, "what is no id"),
        ("a".repeat(300 * 1024), Class::Protocol, "more than 262144 bytes"),
    ] {
        peer.lies("DescribeKey", 200, body);
        let text = failed(aws.observe().await, class);
        assert!(text.contains(says) && !text.contains("canary"), "{text}");
    }
    peer.lies("ListKeyRotations", 200, json!({"Rotations": [], "Truncated": true, "NextMarker": "1"}).to_string());
    assert!(failed(aws.observe().await, Class::Protocol).contains("more than"), "a list without an end");
    let rotation = json!({"KeyMaterialId": "canary b", "KeyMaterialState": "CURRENT"});
    peer.lies("ListKeyRotations", 200, json!({"Rotations": [rotation], "Truncated": false}).to_string());
    assert!(!failed(aws.observe().await, Class::Protocol).contains("canary"), "a material that is none");
    let blob = |blob: &[u8]| json!({"KeyId": KEY, "CiphertextBlob": base64(blob)}).to_string();
    for body in [blob(b""), blob(&[1; 257]), blob(&[1; 64]).replace("key/", "key/2")] {
        peer.lies("Encrypt", 200, body);
        failed(aws.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await, Class::Protocol);
    }
    for plain in [&[1; 31][..], &[1; 33]] {
        peer.lies("Decrypt", 200, json!({"KeyId": KEY, "Plaintext": base64(plain)}).to_string());
        failed(aws.unwrap(&key, &[1; 64], &context("here")).await, Class::Protocol);
    }
}

#[tokio::test]
async fn a_role_is_taken_once_and_renewed_with_the_newest_token() {
    let (peer, account) = start::<Account>().await;
    let aws = by_role(&peer);
    let seen = observed(&aws).await;
    assert_eq!(peer.calls(action), ["/", "DescribeKey", "ListKeyRotations"]);
    assert!(seen.credential_ends.unwrap() > SystemTime::now() + Duration::from_secs(3500));
    round_trip(&aws, &seen.active, true).await;
    assert_eq!(account.lock().unwrap().roles, 1);
    // The role's credentials are taken away, and the token is another one.
    {
        let mut account = account.lock().unwrap();
        account.keys.clear();
        account.token = "projected.token.two".to_owned();
    }
    // They are too new to be given up, which keeps a plugin without rights from asking all the time.
    assert!(failed(aws.observe().await, Class::Denied).contains("UnrecognizedClientException"));
    assert_eq!(account.lock().unwrap().roles, 1);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let text = failed(aws.observe().await, Class::Denied);
    assert!(text.contains("InvalidIdentityToken") && text.contains(ROLE) && !text.contains("secret"), "{text}");
    peer.file("token", "projected.token.two\n");
    peer.count();
    failed(aws.unwrap(&seen.active, &[1; 64], &context("here")).await, Class::Denied);
    assert_eq!(peer.count(), 0, "not asked again at once");
    tokio::time::sleep(Duration::from_secs(6)).await;
    // A call obtains credentials where there are none.
    round_trip(&aws, &seen.active, true).await;
    assert_eq!(account.lock().unwrap().roles, 2);
}

#[tokio::test]
async fn what_ended_is_not_shown() {
    let (peer, account) = start::<Account>().await;
    account.lock().unwrap().lasting = Duration::from_secs(2);
    let aws = by_role(&peer);
    let key = observed(&aws).await.active;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    account.lock().unwrap().lasting = Duration::from_secs(3600);
    round_trip(&aws, &key, true).await;
    assert_eq!(account.lock().unwrap().roles, 2);
}

/// Of a metadata service that gives an old one again, or where the clock stands ahead.
#[tokio::test]
async fn what_has_ended_when_it_is_given_is_not_shown() {
    let (peer, account) = start::<Account>().await;
    account.lock().unwrap().lasting = Duration::ZERO;
    let metadata = metadata(&account).await;
    let aws = open(&peer, &format!("instance = {{ endpoint = '{}' }}", metadata.origin));
    for _ in 0..3 {
        assert!(failed(aws.observe().await, Class::Unavailable).contains("clock"));
    }
    assert_eq!((metadata.count(), peer.count()), (3, 0), "it is asked for once, and nothing is signed by it");
}

#[tokio::test]
async fn a_file_that_changed_is_read_again() {
    let (peer, account) = start::<Account>().await;
    let aws = with_a_file(&peer);
    observed(&aws).await;
    {
        let keys = &mut account.lock().unwrap().keys;
        keys.clear();
        keys.insert("AKIATWO".to_owned(), ("another".to_owned(), None));
    }
    peer.file("credentials", "[default]\naws_access_key_id=AKIATWO\naws_secret_access_key=another\n");
    observed(&aws).await;
    // One that cannot be read leaves what is kept.
    peer.file("credentials", "[other]\n");
    observed(&aws).await;
    peer.file("credentials", "[default]\naws_access_key_id=AKIATWO\naws_secret_access_key=wrong\n");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(failed(aws.observe().await, Class::Denied).contains("InvalidSignatureException"));
}

/// The metadata service of an instance and of a container, whose credentials are those of the role.
async fn metadata(account: &Arc<Mutex<Account>>) -> Peer {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let account = Arc::clone(account);
    Peer::plain(move |_| -> Model {
        Box::new(move |call| {
            let given = || {
                let (id, secret, session, ends) = account.lock().unwrap().role();
                json!({"Code": "Success", "AccessKeyId": id, "SecretAccessKey": secret, "Token": session,
                    "Expiration": ends})
            };
            let token = call.header("x-aws-ec2-metadata-token");
            match (call.method.as_str(), call.path.as_str()) {
                ("PUT", "/latest/api/token") => {
                    assert_eq!(call.header("x-aws-ec2-metadata-token-ttl-seconds"), "60");
                    text(200, "imds-token")
                }
                ("GET", "/v1/credentials") if call.header("authorization") == "pod.token" => says(200, &given()),
                ("GET", ROLES) if token == "imds-token" => text(200, "kms-role\n"),
                ("GET", path) if token == "imds-token" && path == format!("{ROLES}kms-role") => says(200, &given()),
                _ => text(401, "secret"),
            }
        })
    })
    .await
}

#[tokio::test]
async fn an_instance_and_a_container_have_roles() {
    let (peer, account) = start::<Account>().await;
    let metadata = metadata(&account).await;
    let token = peer.file("pod-token", "pod.token");
    let (token, origin) = (token.display(), &metadata.origin);
    for (source, calls) in [
        (format!("instance = {{ endpoint = '{origin}' }}"), 3),
        (format!("container = {{ uri = '{origin}/v1/credentials', token_file = '{token}' }}"), 1),
    ] {
        let aws = open(&peer, &source);
        let seen = observed(&aws).await;
        assert!(seen.credential_ends.is_some());
        round_trip(&aws, &seen.active, true).await;
        assert_eq!(metadata.count(), calls, "{source}");
    }
    peer.file("pod-token", "another");
    let aws = open(&peer, &format!("container = {{ uri = '{origin}/v1/credentials', token_file = '{token}' }}"));
    assert!(!failed(aws.observe().await, Class::Denied).contains("secret"));
    metadata.lies("/security-credentials/", 404, "");
    let aws = open(&peer, &format!("instance = {{ endpoint = '{origin}' }}"));
    assert!(failed(aws.observe().await, Class::Config).contains("attach an instance profile"));
}

/// The credential that is shown to it would go to whoever it names, and what that answers would be believed.
#[tokio::test]
async fn a_metadata_service_leads_nowhere_else() {
    let (peer, account) = start::<Account>().await;
    let away = Peer::plain(|origin| -> Model {
        let there = format!("{origin}/elsewhere");
        Box::new(move |_| {
            let mut answer = text(302, "");
            answer.headers_mut().insert("location", there.parse().unwrap());
            answer
        })
    })
    .await;
    let token = peer.file("pod-token", "pod.token");
    let (token, origin) = (token.display(), &away.origin);
    for (source, asked) in [
        (format!("instance = {{ endpoint = '{origin}' }}"), "/latest/api/token"),
        (format!("container = {{ uri = '{origin}/v1/credentials', token_file = '{token}' }}"), "/v1/credentials"),
    ] {
        failed(open(&peer, &source).observe().await, Class::Unavailable);
        assert_eq!(away.calls(|call| Some(call.path.clone())), [asked]);
    }
    // The name of a role is one segment of a path.
    let metadata = metadata(&account).await;
    for role in ["../../user-data", "kms-role/x", "kms-role?x", "a b", "", &"a".repeat(65)] {
        metadata.lies("/security-credentials/", 200, role);
        let aws = open(&peer, &format!("instance = {{ endpoint = '{}' }}", metadata.origin));
        let error = aws.observe().await.map(|_| ()).unwrap_err();
        assert!(error.text.contains("names no role"), "{role}: {error}");
        assert_eq!(metadata.count(), 2, "{role}");
    }
}
