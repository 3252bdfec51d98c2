//! Google Cloud KMS and its token services as the documentation of Google has them.

use crate::check::{context, down_and_back, failed, observed, round_trip};
use crate::peer::{Call, Model, Peer, says, text};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use bulla_crypto::digest::sha256;
use bulla_crypto::jwt::JwtKey;
use bulla_crypto::pem;
use bulla_crypto::random::{SystemRng, draw, secret_key};
use bulla_crypto::transit;
use bulla_kms::provider::gcp::{Gcp, Settings};
use bulla_kms::provider::{Class, Kind, Provider};
use bulla_wire::api::KeyKind;
use bulla_wire::encoding::{base64, base64_decode, base64url_decode};
use http::Response;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const KEY: &str = "projects/p-1/locations/europe-west1/keyRings/r/cryptoKeys/k8s";
const EMAIL: &str = "kms@p-1.iam.gserviceaccount.com";
const AUDIENCE: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/a/providers/b";
const SCOPE: &str = "https://www.googleapis.com/auth/cloudkms";

/// The key of the service account in PEM, and its public half.
static ACCOUNT: LazyLock<(String, Vec<u8>)> = LazyLock::new(|| {
    let der = transit::generate(KeyKind::Rsa2048, &mut SystemRng).unwrap();
    let text = String::from_utf8(pem::write("PRIVATE KEY", der.expose()).expose().clone()).unwrap();
    let public = JwtKey::from_pem(&text).unwrap().public_key().spki().to_vec();
    (text, public)
});

/// By a table, unlike the one that is tested.
fn crc32c(bytes: &[u8]) -> String {
    let table: Vec<u32> = (0..256_u32)
        .map(|byte| (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }))
        .collect();
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ table[((crc ^ u32::from(*byte)) & 0xff) as usize]);
    (!crc).to_string()
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Wraps by the primary version, whatever was named.
    Mixes,
    /// Damages what it answers.
    Damages,
    /// Does not look at checksums.
    Unchecked,
}

/// A project with one key, and those who give tokens for it.
struct Project {
    origin: String,
    /// The states of the versions, from 1 on.
    versions: Vec<&'static str>,
    primary: Option<usize>,
    tokens: HashSet<String>,
    fetched: usize,
    denied: Option<&'static str>,
    fault: Fault,
    subject: String,
}

impl Project {
    fn new(origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            versions: vec!["ENABLED"],
            primary: Some(1),
            tokens: HashSet::new(),
            fetched: 0,
            denied: None,
            fault: Fault::None,
            subject: "subject.token".to_owned(),
        }
    }

    fn token(&mut self) -> Response<String> {
        self.fetched += 1;
        let token = format!("ya29.{}", self.fetched);
        self.tokens.insert(token.clone());
        says(200, &json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}))
    }

    fn take(&mut self, call: &Call) -> Response<String> {
        match call.path.as_str() {
            "/token" => return self.account(call),
            "/v1/token" => return self.exchange(call),
            _ => {}
        }
        let token = call.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        if !self.tokens.contains(token) {
            return error(401, "UNAUTHENTICATED");
        }
        let (path, query) = call.path.split_once('?').unwrap_or((&call.path, ""));
        let Some(rest) = path.strip_prefix(&format!("/v1/{KEY}")) else { return error(404, "NOT_FOUND") };
        let (right, answer): (_, Response<String>) = match (call.method.as_str(), rest) {
            ("GET", "") => ("cryptoKeys.get", self.get()),
            ("GET", "/cryptoKeyVersions") => ("cryptoKeyVersions.list", self.list(query)),
            ("POST", ":decrypt") => ("cryptoKeyVersions.useToDecrypt", self.decrypt(&call.json())),
            ("POST", rest) => {
                let number = rest.strip_prefix("/cryptoKeyVersions/").and_then(|rest| rest.strip_suffix(":encrypt"));
                ("cryptoKeyVersions.useToEncrypt", self.encrypt(number.unwrap().parse().unwrap(), &call.json()))
            }
            other => panic!("{other:?}"),
        };
        if self.denied == Some(right) { error(403, "PERMISSION_DENIED") } else { answer }
    }

    /// A token for an assertion of the service account, which is checked.
    fn account(&mut self, call: &Call) -> Response<String> {
        assert_eq!(call.form("grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let assertion = call.form("assertion");
        let (signed, signature) = assertion.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let read = |part: &str| -> Value { serde_json::from_slice(&base64url_decode(part).unwrap()).unwrap() };
        let (header, claims) = (read(header), read(claims));
        assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "0123abcd"}));
        assert_eq!((&claims["iss"], &claims["scope"]), (&json!(EMAIL), &json!(SCOPE)));
        assert_eq!(claims["aud"], format!("{}/token", self.origin));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (from, until) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
        assert!(from <= now && now < until && until - from <= 3600, "{claims}");
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &ACCOUNT.1);
        if public.verify(signed.as_bytes(), &base64url_decode(signature).unwrap()).is_err() {
            return says(400, &json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature canary"}));
        }
        self.token()
    }

    /// A token for that of another issuer.
    fn exchange(&mut self, call: &Call) -> Response<String> {
        assert_eq!(call.form("grant_type"), "urn:ietf:params:oauth:grant-type:token-exchange");
        assert_eq!((call.form("audience"), call.form("scope")), (AUDIENCE.to_owned(), SCOPE.to_owned()));
        assert_eq!(call.form("requested_token_type"), "urn:ietf:params:oauth:token-type:access_token");
        assert_eq!(call.form("subject_token_type"), "urn:ietf:params:oauth:token-type:jwt");
        if call.form("subject_token") != self.subject {
            return says(400, &json!({"error": "invalid_grant", "error_description": "canary"}));
        }
        self.token()
    }

    fn name(number: usize) -> String {
        format!("{KEY}/cryptoKeyVersions/{number}")
    }

    fn version(&self, number: usize) -> Value {
        let made = format!("2026-01-0{number}T10:20:30.123456789Z");
        json!({"name": Self::name(number), "state": self.versions[number - 1], "createTime": made,
            "protectionLevel": "SOFTWARE", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"})
    }

    fn get(&self) -> Response<String> {
        let mut key = json!({"name": KEY, "purpose": "ENCRYPT_DECRYPT", "createTime": "2026-01-01T00:00:00Z"});
        if let Some(primary) = self.primary {
            key["primary"] = self.version(primary);
        }
        says(200, &key)
    }

    /// One at a time, so that there are pages.
    fn list(&self, query: &str) -> Response<String> {
        let fields: Vec<&str> = query.split('&').collect();
        assert_eq!(fields[..2], ["filter=state%3DENABLED", "pageSize=100"]);
        let after = fields.get(2).map_or(0, |field| field.strip_prefix("pageToken=n%2F").unwrap().parse().unwrap());
        let enabled = |number: &usize| self.versions[number - 1] == "ENABLED";
        let mut rest = (after + 1..=self.versions.len()).filter(enabled);
        let mut answer = json!({"totalSize": 9});
        if let Some(number) = rest.next() {
            answer["cryptoKeyVersions"] = json!([self.version(number)]);
            if rest.next().is_some() {
                answer["nextPageToken"] = format!("n/{number}").into();
            }
        }
        says(200, &answer)
    }

    fn cipher(number: usize) -> LessSafeKey {
        let key = sha256(&[b"version", &number.to_be_bytes()]);
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap())
    }

    /// A field's bytes, whose checksum has to be there and right.
    fn whole(body: &Value, field: &str) -> Vec<u8> {
        let bytes = base64_decode(body[field].as_str().unwrap()).unwrap();
        assert_eq!(body[format!("{field}Crc32c")], crc32c(&bytes), "{field}");
        bytes
    }

    fn encrypt(&self, number: usize, body: &Value) -> Response<String> {
        let number = if self.fault == Fault::Mixes { self.primary.unwrap() } else { number };
        match self.versions.get(number - 1) {
            None => return error(404, "NOT_FOUND"),
            Some(&"ENABLED") => {}
            Some(_) => return error(400, "FAILED_PRECONDITION"),
        }
        let (mut sealed, aad) = (Self::whole(body, "plaintext"), Self::whole(body, "additionalAuthenticatedData"));
        let nonce: [u8; 12] = draw(&mut SystemRng);
        let key = Self::cipher(number);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut sealed).unwrap();
        let mut blob = [&[u8::try_from(number).unwrap()][..], &nonce, &sealed].concat();
        let crc = crc32c(&blob);
        if self.fault == Fault::Damages {
            blob[9] ^= 1;
        }
        let checked = self.fault != Fault::Unchecked;
        says(
            200,
            &json!({"name": Self::name(number), "ciphertext": base64(&blob), "ciphertextCrc32c": crc,
                "verifiedPlaintextCrc32c": checked, "verifiedAdditionalAuthenticatedDataCrc32c": checked}),
        )
    }

    fn decrypt(&self, body: &Value) -> Response<String> {
        let invalid = || error(400, "INVALID_ARGUMENT");
        let (blob, aad) = (Self::whole(body, "ciphertext"), Self::whole(body, "additionalAuthenticatedData"));
        let Some((&number, rest)) = blob.split_first() else { return invalid() };
        let Some((nonce, sealed)) = rest.split_first_chunk::<12>() else { return invalid() };
        match self.versions.get(usize::from(number).wrapping_sub(1)) {
            None => return invalid(),
            Some(&"ENABLED") => {}
            Some(_) => return error(400, "FAILED_PRECONDITION"),
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = Self::cipher(usize::from(number)).open_in_place(nonce, Aad::from(aad), &mut sealed);
        let Ok(plain) = opened else { return invalid() };
        let crc = crc32c(plain);
        if self.fault == Fault::Damages {
            plain[9] ^= 1;
        }
        let primary = self.primary == Some(usize::from(number));
        says(200, &json!({"plaintext": base64(plain), "plaintextCrc32c": crc, "usedPrimary": primary}))
    }
}

fn error(code: u16, status: &str) -> Response<String> {
    says(code, &json!({"error": {"code": code, "message": "canary", "status": status, "details": []}}))
}

async fn project() -> (Peer, Arc<Mutex<Project>>) {
    let mut kept = None;
    let peer = Peer::start(|origin| -> Model {
        let project = Arc::new(Mutex::new(Project::new(origin)));
        kept = Some(Arc::clone(&project));
        Box::new(move |call| project.lock().unwrap().take(call))
    })
    .await;
    (peer, kept.unwrap())
}

fn open(peer: &Peer, credentials: &str) -> Gcp {
    let (ca, origin) = (peer.ca.display(), &peer.origin);
    let text = format!("key = '{KEY}'\nendpoint = '{origin}'\nca = '{ca}'\ncredentials = {{ {credentials} }}");
    Gcp::open(&toml::from_str::<Settings>(&text).unwrap()).unwrap()
}

fn service_account(peer: &Peer, key: &str) -> Value {
    json!({"type": "service_account", "project_id": "p-1", "private_key_id": "0123abcd", "private_key": key,
        "client_email": EMAIL, "token_uri": format!("{}/token", peer.origin), "universe_domain": "googleapis.com"})
}

fn by_file(peer: &Peer, content: &Value) -> Gcp {
    let path = peer.file("google.json", content.to_string());
    open(peer, &format!("file = {{ path = '{}' }}", path.display()))
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
    let (mut peer, project) = project().await;
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
    let (peer, project) = project().await;
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
    let (peer, project) = project().await;
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
    let (peer, project) = project().await;
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
    let (peer, _) = project().await;
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
    let (peer, project) = project().await;
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
    let (peer, project) = project().await;
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
    let (peer, project) = project().await;
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
    let (peer, _) = project().await;
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
