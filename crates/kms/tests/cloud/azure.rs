//! Azure Key Vault and Entra ID as the documentation of Azure has them, with keys and signatures that are real.

use crate::check::{context, down_and_back, failed, observed, round_trip};
use crate::peer::{Call, Model, Peer, percent_decoded, says, text};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use bulla_crypto::digest::sha256;
use bulla_crypto::pem;
use bulla_crypto::random::{SystemRng, draw, secret_key};
use bulla_crypto::sign::{RsaMinimum, SigningKey};
use bulla_crypto::transit;
use bulla_kms::key::KeyRef;
use bulla_kms::provider::azure::{Azure, Settings};
use bulla_kms::provider::{Class, Kind, Provider};
use bulla_testkit::tls;
use bulla_wire::api::KeyKind;
use bulla_wire::encoding::{base64url, base64url_decode};
use http::Response;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
const TENANT: &str = "tenant.example";
const AUDIENCE: &str = "https://vault.azure.net";

/// Making keys takes a while, so there are few.
static KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    (0..3).map(|_| transit::generate(KeyKind::Rsa2048, &mut SystemRng).unwrap().expose().clone()).collect()
});

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

struct Version {
    name: String,
    enabled: bool,
    created: u64,
    exp: Option<u64>,
    pkcs8: Vec<u8>,
}

/// A vault with one key, and the authority that gives tokens for it.
struct Vault {
    origin: String,
    versions: Vec<Version>,
    tokens: HashSet<String>,
    secret: String,
    /// The public key and thumbprint of the application's certificate.
    certificate: Option<(Vec<u8>, String)>,
    ids: HashSet<String>,
    lasting: u64,
    fetched: usize,
    /// The right that the identity lacks.
    denied: Option<&'static str>,
    /// Answers for the version before.
    mixes: bool,
}

impl Vault {
    fn new(origin: &str) -> Self {
        let mut own = Self {
            origin: origin.to_owned(),
            versions: Vec::new(),
            tokens: HashSet::new(),
            secret: "client~secret.1".to_owned(),
            certificate: None,
            ids: HashSet::new(),
            lasting: 3600,
            fetched: 0,
            denied: None,
            mixes: false,
        };
        own.rotate();
        own
    }

    fn rotate(&mut self) {
        let index = self.versions.len();
        let name = format!("{index:032x}");
        let created = 1_700_000_000 + index as u64;
        self.versions.push(Version { name, enabled: true, created, exp: None, pkcs8: KEYS[index].clone() });
    }

    fn issue(&mut self) -> String {
        self.fetched += 1;
        let token = format!("vault.token-{}", self.fetched);
        self.tokens.insert(token.clone());
        token
    }

    fn take(&mut self, call: &Call) -> Response<String> {
        if call.path == format!("/{TENANT}/oauth2/v2.0/token") {
            return self.authority(call);
        }
        let token = call.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        if !self.tokens.contains(token) {
            return error(401, "Unauthorized", None);
        }
        let (path, query) = call.path.split_once('?').unwrap();
        assert!(query.split('&').any(|field| field == "api-version=7.4"), "{query}");
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (call.method.as_str(), parts.as_slice()) {
            ("GET", ["keys", "k8s", "versions"]) => self.permitted("keys/list", |own| own.list(query)),
            ("GET", ["keys", "k8s", version]) => self.permitted("keys/get", |own| own.get(version)),
            ("POST", ["keys", "k8s", version, "wrapkey"]) => {
                self.permitted("keys/wrap", |own| own.operate(version, &call.json(), true))
            }
            ("POST", ["keys", "k8s", version, "unwrapkey"]) => {
                self.permitted("keys/unwrap", |own| own.operate(version, &call.json(), false))
            }
            _ => error(404, "KeyNotFound", None),
        }
    }

    fn permitted(&self, right: &str, answer: impl FnOnce(&Self) -> Response<String>) -> Response<String> {
        if self.denied == Some(right) { error(403, "Forbidden", Some("ForbiddenByRbac")) } else { answer(self) }
    }

    fn authority(&mut self, call: &Call) -> Response<String> {
        assert_eq!(call.header("content-type"), "application/x-www-form-urlencoded");
        assert_eq!((call.form("grant_type"), call.form("client_id")), ("client_credentials".into(), CLIENT.into()));
        assert_eq!(call.form("scope"), format!("{AUDIENCE}/.default"));
        let assertion = call.form("client_assertion");
        let good = if assertion.is_empty() {
            call.form("client_secret") == self.secret
        } else {
            assert_eq!(call.form("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
            assertion == "federated.token" || self.asserted(&assertion)
        };
        if !good {
            let description = "AADSTS7000215: Invalid client secret provided: canary.";
            return says(401, &json!({"error": "invalid_client", "error_description": description}));
        }
        let token = self.issue();
        says(200, &json!({"token_type": "Bearer", "expires_in": self.lasting, "access_token": token}))
    }

    /// Whether a token is signed by the certificate's key, meant for this authority, short-lived and new.
    fn asserted(&mut self, assertion: &str) -> bool {
        let Some((public, thumbprint)) = &self.certificate else { return false };
        let (signed, signature) = assertion.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let read = |part: &str| -> Value { serde_json::from_slice(&base64url_decode(part).unwrap()).unwrap() };
        let (header, claims) = (read(header), read(claims));
        assert_eq!(header, json!({"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint}));
        assert_eq!(claims["aud"], format!("{}/{TENANT}/oauth2/v2.0/token", self.origin));
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!(CLIENT), &json!(CLIENT)));
        let (from, until) = (claims["nbf"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
        assert!(from <= now() && now() < until && until - from <= 600, "{claims}");
        assert!(self.ids.insert(claims["jti"].as_str().unwrap().to_owned()), "an assertion is used once");
        let public = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, public);
        public.verify(signed.as_bytes(), &base64url_decode(signature).unwrap()).is_ok()
    }

    fn kid(&self, version: &str) -> String {
        format!("{}/keys/k8s/{version}", self.origin)
    }

    /// One at a time, so that there are pages.
    fn list(&self, query: &str) -> Response<String> {
        let skip = query.split('&').find_map(|field| field.strip_prefix("$skiptoken="));
        let at: usize = skip.map_or(0, |at| at.parse().unwrap());
        let Version { name, enabled, created, exp, .. } = &self.versions[at];
        let attributes = json!({"enabled": enabled, "created": created, "updated": created, "exp": exp});
        let more = at + 1 < self.versions.len();
        let next = more.then(|| format!("{}/keys/k8s/versions?api-version=7.4&$skiptoken={}", self.origin, at + 1));
        says(200, &json!({"value": [{"kid": self.kid(name), "attributes": attributes}], "nextLink": next}))
    }

    fn get(&self, version: &str) -> Response<String> {
        let Some(found) = self.versions.iter().find(|found| found.name == version) else {
            return error(404, "KeyNotFound", None);
        };
        let pair = RsaKeyPair::from_pkcs8(&found.pkcs8).unwrap();
        // RSAPublicKey of 2048 bits: a sequence of n, with a zero before it, and 65537.
        let public = pair.public_key().as_ref();
        let (n, e) = (base64url(&public[9..265]), base64url(&public[267..]));
        assert_eq!(e, "AQAB");
        let key = json!({"kid": self.kid(version), "kty": "RSA", "n": n, "e": e, "key_ops": ["wrapKey", "unwrapKey"]});
        says(200, &json!({"key": key, "attributes": {"enabled": found.enabled}}))
    }

    fn operate(&self, version: &str, body: &Value, wraps: bool) -> Response<String> {
        assert_eq!(body["alg"], "RSA-OAEP-256");
        let value = base64url_decode(body["value"].as_str().unwrap()).unwrap();
        let Some(found) = self.versions.iter().find(|found| found.name == version) else {
            return error(404, "KeyNotFound", None);
        };
        // Azure lets a disabled key wrap, which needs the public key alone.
        if !found.enabled && !wraps {
            return error(403, "Forbidden", Some("KeyDisabled"));
        }
        let private = PrivateDecryptingKey::from_pkcs8(&found.pkcs8).unwrap();
        let made = if wraps {
            let public = OaepPublicEncryptingKey::new(private.public_key()).unwrap();
            let mut made = vec![0; public.ciphertext_size()];
            public.encrypt(&OAEP_SHA256_MGF1SHA256, &value, &mut made, None).map(|made| made.to_vec())
        } else {
            let private = OaepPrivateDecryptingKey::new(private).unwrap();
            let mut made = vec![0; private.min_output_size()];
            private.decrypt(&OAEP_SHA256_MGF1SHA256, &value, &mut made, None).map(|made| made.to_vec())
        };
        let Ok(made) = made else { return error(400, "BadParameter", None) };
        let name = if self.mixes { &self.versions[0].name } else { &found.name };
        says(200, &json!({"kid": self.kid(name), "value": base64url(&made)}))
    }
}

fn error(status: u16, code: &str, inner: Option<&str>) -> Response<String> {
    let inner = inner.map(|code| json!({ "code": code }));
    says(status, &json!({"error": {"code": code, "message": "canary", "innererror": inner}}))
}

async fn vault() -> (Peer, Arc<Mutex<Vault>>) {
    let mut kept = None;
    let peer = Peer::start(|origin| -> Model {
        let vault = Arc::new(Mutex::new(Vault::new(origin)));
        kept = Some(Arc::clone(&vault));
        Box::new(move |call| vault.lock().unwrap().take(call))
    })
    .await;
    (peer, kept.unwrap())
}

fn open(peer: &Peer, version: &str, credentials: &str) -> Azure {
    let (ca, origin) = (peer.ca.display(), &peer.origin);
    let text = format!(
        "key = '{origin}/keys/k8s{version}'\naudience = '{AUDIENCE}'\nca = '{ca}'\ncredentials = {{ {credentials} }}"
    );
    Azure::open(&toml::from_str::<Settings>(&text).unwrap()).unwrap()
}

fn application(peer: &Peer, proof: &str) -> String {
    format!("tenant = '{TENANT}', client = '{CLIENT}', authority = '{}', {proof}", peer.origin)
}

fn by_secret(peer: &Peer, version: &str) -> Azure {
    let secret = peer.file("secret", "client~secret.1\n");
    let proof = format!("secret_file = '{}'", secret.display());
    open(peer, version, &format!("client_secret = {{ {} }}", application(peer, &proof)))
}

/// What was asked, without the query.
fn asked(call: &Call) -> Option<String> {
    Some(call.path.split('?').next().unwrap().trim_start_matches('/').to_owned())
}

#[tokio::test]
async fn a_key_goes_there_and_back() {
    let (mut peer, vault) = vault().await;
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
    let (peer, vault) = vault().await;
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
    let (peer, vault) = vault().await;
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
    let (peer, _) = vault().await;
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
    let (peer, _) = vault().await;
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
    let (kid, wraps) = (format!("{}/keys/k8s/{}", peer.origin, key.version), "wrapkey?api-version=7.4");
    for value in [String::new(), "=".to_owned(), base64url(&[1; 255]), base64url(&[1; 385])] {
        peer.lies(wraps, 200, json!({"kid": kid, "value": value}).to_string());
        failed(azure.wrap(&key, &secret_key(&mut SystemRng), &context("here")).await, Class::Protocol);
        failed(azure.unwrap(&key, &[1; 256], &context("here")).await, Class::Protocol);
    }
}

#[tokio::test]
async fn a_version_that_is_no_rsa_key_is_refused() {
    let (peer, _) = vault().await;
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
    let (peer, vault) = vault().await;
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
    let (peer, vault) = vault().await;
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
    let (peer, vault) = vault().await;
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
    let (peer, _) = vault().await;
    let salt = base64url(&draw::<8>(&mut SystemRng));
    for (status, body, class) in [
        (200, salt.clone(), Class::Protocol),
        (200, json!({"access_token": salt}).to_string(), Class::Protocol),
        (200, json!({"access_token": format!("{salt} x"), "expires_in": 1}).to_string(), Class::Protocol),
        (200, json!({"access_token": salt, "expires_in": "soon"}).to_string(), Class::Protocol),
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
