//! AWS KMS and STS as the documentation of AWS has them, with signatures that are verified by code that shares nothing
//! with what signed.

use crate::check::{context, down_and_back, failed, observed, round_trip};
use crate::peer::{Call, Model, Peer, says, text};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use bulla_crypto::random::{SystemRng, draw, secret_key};
use bulla_kms::provider::aws::{Aws, Settings};
use bulla_kms::provider::{Class, Kind, Provider};
use bulla_wire::encoding::{base64, base64_decode};
use http::Response;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

pub const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const ROLE: &str = "arn:aws:iam::111122223333:role/kms";

/// An account of AWS with one key.
struct Account {
    /// The ids of the key's materials, the current one last.
    materials: Vec<String>,
    state: &'static str,
    /// The current material of a key that tells none.
    untold: bool,
    denied: Option<&'static str>,
    /// The secrets and sessions of access keys.
    keys: HashMap<String, (String, Option<String>)>,
    /// What is shown to take the role.
    token: String,
    /// How long a role's credentials last.
    lasting: Duration,
    roles: usize,
    /// What is wrong with it.
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Rotates the key at each call of Encrypt.
    Rotates,
    /// Unwraps another plaintext than was wrapped.
    Mixes,
    /// Tells no material when it decrypts.
    Untold,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn material() -> String {
    hex(&draw::<32>(&mut SystemRng))
}

impl Account {
    fn new() -> Self {
        let keys = HashMap::from([("AKIAFILE".to_owned(), ("file/secret+one".to_owned(), None))]);
        Self {
            materials: vec![material()],
            state: "Enabled",
            untold: false,
            denied: None,
            keys,
            token: "projected.token.one".to_owned(),
            lasting: Duration::from_secs(3600),
            roles: 0,
            fault: Fault::None,
        }
    }

    /// New credentials of the role.
    fn role(&mut self) -> (String, String, String, String) {
        self.roles += 1;
        let id = format!("ASIAROLE{}", self.roles);
        let (secret, session) = (format!("role/secret{}", self.roles), format!("session//{}==", self.roles));
        self.keys.insert(id.clone(), (secret.clone(), Some(session.clone())));
        let ends = humantime::format_rfc3339_seconds(SystemTime::now() + self.lasting).to_string();
        (id, secret, session, ends)
    }

    fn take(&mut self, call: &Call) -> Response<String> {
        if call.header("content-type") == "application/x-www-form-urlencoded" {
            return self.assume(call);
        }
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/"));
        assert_eq!(call.header("content-type"), "application/x-amz-json-1.1");
        if let Err(code) = self.signed(call) {
            return says(
                400,
                &json!({"__type": code, "message": "The security token included in the request is secret"}),
            );
        }
        let action = call.header("x-amz-target").strip_prefix("TrentService.").unwrap().to_owned();
        let body = call.json();
        assert_eq!(body["KeyId"], KEY);
        if self.denied == Some(action.as_str()) {
            return says(400, &json!({"__type": "AccessDeniedException", "Message": "User: x is not authorized"}));
        }
        match (action.as_str(), self.state) {
            ("DescribeKey", _) => self.describe(),
            ("ListKeyRotations", _) => self.rotations(&body),
            (_, "Disabled") => says(400, &json!({"__type": "DisabledException", "message": "is disabled"})),
            (_, "PendingDeletion") => says(400, &json!({"__type": "KMSInvalidStateException", "message": "pending"})),
            ("Encrypt", _) => self.encrypt(&body),
            ("Decrypt", _) => self.decrypt(&body),
            other => panic!("{other:?}"),
        }
    }

    fn assume(&mut self, call: &Call) -> Response<String> {
        assert_eq!(call.header("authorization"), "", "taking a role is not signed");
        assert_eq!(call.form("Action"), "AssumeRoleWithWebIdentity");
        assert_eq!((call.form("Version"), call.form("RoleArn")), ("2011-06-15".to_owned(), ROLE.to_owned()));
        assert!(!call.form("RoleSessionName").is_empty());
        if call.form("WebIdentityToken") != self.token {
            let error = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                         <Code>InvalidIdentityToken</Code><Message>secret</Message></Error></ErrorResponse>";
            return text(400, error);
        }
        let (id, secret, session, ends) = self.role();
        let answer = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n\
             <AssumeRoleWithWebIdentityResult>\n<SubjectFromWebIdentityToken>a</SubjectFromWebIdentityToken>\n\
             <Credentials>\n<SessionToken>{session}</SessionToken>\n<SecretAccessKey>{secret}</SecretAccessKey>\n\
             <Expiration>{ends}</Expiration>\n<AccessKeyId>{id}</AccessKeyId>\n</Credentials>\n\
             </AssumeRoleWithWebIdentityResult>\n</AssumeRoleWithWebIdentityResponse>"
        );
        text(200, &answer)
    }

    /// Verifies the signature, from what the request has in its headers.
    fn signed(&self, call: &Call) -> Result<(), &'static str> {
        let shown = call.header("authorization").strip_prefix("AWS4-HMAC-SHA256 ").ok_or("IncompleteSignature")?;
        let parts: HashMap<&str, &str> = shown.split(", ").filter_map(|part| part.split_once('=')).collect();
        let scope: Vec<&str> = parts["Credential"].split('/').collect();
        let [id, day, region, service, "aws4_request"] = scope[..] else { return Err("IncompleteSignature") };
        assert_eq!((region, service), ("eu-west-1", "kms"));
        let (secret, session) = self.keys.get(id).ok_or("UnrecognizedClientException")?;
        let at = call.header("x-amz-date");
        let stamp = |time| humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "");
        let (from, until) = (stamp(SystemTime::now() - Duration::from_secs(300)), stamp(SystemTime::now()));
        assert!(at.starts_with(day) && at >= from.as_str() && at <= until.as_str(), "{at}");
        let signed: Vec<&str> = parts["SignedHeaders"].split(';').collect();
        for needed in ["content-type", "host", "x-amz-date", "x-amz-target"] {
            assert!(signed.contains(&needed), "{needed} is not signed");
        }
        if let Some(session) = session {
            assert!(signed.contains(&"x-amz-security-token"));
            if call.header("x-amz-security-token") != session {
                return Err("UnrecognizedClientException");
            }
        }
        let headers: String = signed.iter().map(|name| format!("{name}:{}\n", call.header(name))).collect();
        let sha = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
        let request = format!("POST\n/\n\n{headers}\n{}\n{}", parts["SignedHeaders"], sha(&call.body));
        let text =
            format!("AWS4-HMAC-SHA256\n{at}\n{day}/{region}/{service}/aws4_request\n{}", sha(request.as_bytes()));
        let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let mut key = mac(format!("AWS4{secret}").as_bytes(), day);
        for part in [region, service, "aws4_request"] {
            key = mac(key.as_ref(), part);
        }
        if hex(mac(key.as_ref(), &text).as_ref()) == parts["Signature"] {
            Ok(())
        } else {
            Err("InvalidSignatureException")
        }
    }

    fn describe(&self) -> Response<String> {
        let mut metadata = json!({
            "AWSAccountId": "111122223333", "Arn": KEY, "CreationDate": 1_700_000_000.123, "Enabled": true,
            "KeyState": self.state, "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", "Origin": "AWS_KMS",
        });
        if !self.untold {
            metadata["CurrentKeyMaterialId"] = self.materials.last().unwrap().as_str().into();
        }
        says(200, &json!({ "KeyMetadata": metadata }))
    }

    /// Two at a time, so that there are pages.
    fn rotations(&self, body: &Value) -> Response<String> {
        assert_eq!(body["IncludeKeyMaterial"], "ALL_KEY_MATERIAL");
        let from: usize = body["Marker"].as_str().map_or(0, |marker| marker.parse().unwrap());
        let last = self.materials.len() - 1;
        let entry = |(index, id): (usize, &String)| {
            let mut entry = json!({"KeyId": KEY, "KeyMaterialId": id, "KeyMaterialState": "NON_CURRENT"});
            if index == last {
                entry["KeyMaterialState"] = "CURRENT".into();
            }
            if index > 0 {
                entry["RotationDate"] = (1_700_000_000.5 + f64::from(u32::try_from(index).unwrap())).into();
            }
            entry
        };
        let page: Vec<Value> = self.materials.iter().enumerate().skip(from).take(2).map(entry).collect();
        let truncated = from + 2 < self.materials.len();
        let mut answer = json!({"Rotations": page, "Truncated": truncated});
        if truncated {
            answer["NextMarker"] = (from + 2).to_string().into();
        }
        says(200, &answer)
    }

    fn cipher(material: &str) -> LessSafeKey {
        let key = digest::digest(&digest::SHA256, material.as_bytes());
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap())
    }

    fn encrypt(&mut self, body: &Value) -> Response<String> {
        if self.fault == Fault::Rotates {
            self.materials.push(material());
        }
        let current = self.materials.last().unwrap();
        let mut sealed = base64_decode(body["Plaintext"].as_str().unwrap()).unwrap();
        let nonce: [u8; 12] = draw(&mut SystemRng);
        let aad = Aad::from(body["EncryptionContext"].to_string());
        let key = Self::cipher(current);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).unwrap();
        let blob = [current.as_bytes(), &nonce, &sealed].concat();
        says(200, &json!({"CiphertextBlob": base64(&blob), "KeyId": KEY, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}))
    }

    fn decrypt(&self, body: &Value) -> Response<String> {
        let invalid = || says(400, &json!({"__type": "InvalidCiphertextException"}));
        let blob = base64_decode(body["CiphertextBlob"].as_str().unwrap()).unwrap();
        let Some((id, rest)) = blob.split_at_checked(64) else { return invalid() };
        let Some((nonce, sealed)) = rest.split_first_chunk::<12>() else { return invalid() };
        let Some(material) = self.materials.iter().find(|material| material.as_bytes() == id) else { return invalid() };
        let aad = Aad::from(body["EncryptionContext"].to_string());
        let mut sealed = sealed.to_vec();
        let opened = Self::cipher(material).open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut sealed);
        let Ok(plain) = opened else { return invalid() };
        if self.fault == Fault::Mixes {
            plain[0] ^= 1;
        }
        let mut answer = json!({"KeyId": KEY, "Plaintext": base64(plain), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"});
        if !self.untold && self.fault != Fault::Untold {
            answer["KeyMaterialId"] = material.as_str().into();
        }
        says(200, &answer)
    }
}

async fn account() -> (Peer, Arc<Mutex<Account>>) {
    let account = Arc::new(Mutex::new(Account::new()));
    let own = Arc::clone(&account);
    let peer = Peer::start(|_| -> Model { Box::new(move |call| own.lock().unwrap().take(call)) }).await;
    (peer, account)
}

fn open(peer: &Peer, credentials: &str) -> Aws {
    let (ca, origin) = (peer.ca.display(), &peer.origin);
    let text = format!("key = '{KEY}'\nendpoint = '{origin}'\nca = '{ca}'\ncredentials = {{ {credentials} }}");
    Aws::open(&toml::from_str::<Settings>(&text).unwrap()).unwrap()
}

fn by_file(peer: &Peer) -> Aws {
    let content = "[default]\naws_access_key_id = AKIAFILE\naws_secret_access_key = file/secret+one\n";
    open(peer, &format!("file = {{ path = '{}' }}", peer.file("credentials", content).display()))
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
    let (mut peer, account) = account().await;
    let aws = by_file(&peer);
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
    let (peer, account) = account().await;
    let aws = by_file(&peer);
    let first = observed(&aws).await.active;
    let old = round_trip(&aws, &first, true).await;
    for _ in 0..4 {
        account.lock().unwrap().materials.push(material());
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
    let (peer, account) = account().await;
    account.lock().unwrap().untold = true;
    let aws = by_file(&peer);
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
    let (peer, account) = account().await;
    let aws = by_file(&peer);
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
    let (peer, account) = account().await;
    let aws = by_file(&peer);
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
    let (peer, _) = account().await;
    let aws = by_file(&peer);
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
    let (peer, _) = account().await;
    let aws = by_file(&peer);
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
        ("a".repeat(300 * 1024), Class::Protocol, "more than 262144 bytes"),
    ] {
        peer.lies("DescribeKey", 200, body);
        let text = failed(aws.observe().await, class);
        assert!(text.contains(says) && !text.contains("canary"), "{text}");
    }
    peer.lies("ListKeyRotations", 200, json!({"Rotations": [], "Truncated": true, "NextMarker": "1"}).to_string());
    assert!(failed(aws.observe().await, Class::Protocol).contains("more than"), "a list without an end");
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
    let (peer, account) = account().await;
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
    let (peer, account) = account().await;
    account.lock().unwrap().lasting = Duration::from_secs(2);
    let aws = by_role(&peer);
    let key = observed(&aws).await.active;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    account.lock().unwrap().lasting = Duration::from_secs(3600);
    round_trip(&aws, &key, true).await;
    assert_eq!(account.lock().unwrap().roles, 2);
}

#[tokio::test]
async fn a_file_that_changed_is_read_again() {
    let (peer, account) = account().await;
    let aws = by_file(&peer);
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
    let (peer, account) = account().await;
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
