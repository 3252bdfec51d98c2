//! Azure Key Vault and Entra ID as the documentation of Azure has them, with keys and signatures that are real.

use super::Cloud;
use super::peer::{Call, Peer, says};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use bulla_crypto::random::SystemRng;
use bulla_crypto::transit;
use bulla_wire::api::KeyKind;
use bulla_wire::encoding::{base64url, base64url_decode};
use http::Response;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The application that may use the key.
pub const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
/// Its tenant.
pub const TENANT: &str = "tenant.example";
/// Whom its tokens are for.
pub const AUDIENCE: &str = "https://vault.azure.net";

/// Making keys takes a while, so there are few.
pub static KEYS: [LazyLock<Vec<u8>>; 3] = [LazyLock::new(key), LazyLock::new(key), LazyLock::new(key)];

fn key() -> Vec<u8> {
    transit::generate(KeyKind::Rsa2048, &mut SystemRng).unwrap().expose().clone()
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A version of the key.
#[derive(Debug)]
pub struct Version {
    name: String,
    /// Whether it unwraps.
    pub enabled: bool,
    created: u64,
    /// When it ends.
    pub exp: Option<u64>,
    pkcs8: Vec<u8>,
}

/// A vault with one key, and the authority that gives tokens for it.
#[derive(Debug)]
pub struct Vault {
    origin: String,
    /// From the first one on.
    pub versions: Vec<Version>,
    /// Those that are taken.
    pub tokens: HashSet<String>,
    /// The application's.
    pub secret: String,
    /// The public key and thumbprint of the application's certificate.
    pub certificate: Option<(Vec<u8>, String)>,
    ids: HashSet<String>,
    /// For how many seconds a token is given.
    pub lasting: u64,
    /// How many tokens were given.
    pub fetched: usize,
    /// The right that the identity lacks.
    pub denied: Option<&'static str>,
    /// Answers for the version before.
    pub mixes: bool,
}

impl Cloud for Vault {
    const KIND: &'static str = "azure";

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

    fn settings(peer: &Peer) -> String {
        settings(peer, "", &by_secret(peer))
    }
}

impl Vault {
    /// Another token.
    pub fn issue(&mut self) -> String {
        self.fetched += 1;
        let token = format!("vault.token-{}", self.fetched);
        self.tokens.insert(token.clone());
        token
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

/// What a member with the key, of a version if it has a slash and one, is configured by, with these credentials.
pub fn settings(peer: &Peer, version: &str, credentials: &str) -> String {
    let (ca, origin) = (peer.ca.display(), &peer.origin);
    format!(
        "key = '{origin}/keys/k8s{version}'\naudience = '{AUDIENCE}'\nca = '{ca}'\ncredentials = {{ {credentials} }}"
    )
}

/// The application, which proves itself by this.
pub fn application(peer: &Peer, proof: &str) -> String {
    format!("tenant = '{TENANT}', client = '{CLIENT}', authority = '{}', {proof}", peer.origin)
}

/// The application with its secret in a file.
pub fn by_secret(peer: &Peer) -> String {
    let proof = format!("secret_file = '{}'", peer.file("secret", "client~secret.1\n").display());
    format!("client_secret = {{ {} }}", application(peer, &proof))
}
