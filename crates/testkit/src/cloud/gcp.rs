//! Google Cloud KMS and its token services as the documentation of Google has them.

use super::Cloud;
use super::peer::{Call, Peer, says};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use bulla_crypto::digest::sha256;
use bulla_crypto::jwt::JwtKey;
use bulla_crypto::pem;
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::transit;
use bulla_wire::api::KeyKind;
use bulla_wire::encoding::{base64, base64_decode, base64url_decode};
use http::Response;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The key's name.
pub const KEY: &str = "projects/p-1/locations/europe-west1/keyRings/r/cryptoKeys/k8s";
/// The service account.
pub const EMAIL: &str = "kms@p-1.iam.gserviceaccount.com";
/// The provider of identities whose tokens are exchanged.
pub const AUDIENCE: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/a/providers/b";
const SCOPE: &str = "https://www.googleapis.com/auth/cloudkms";

/// The key of the service account in PEM, and its public half.
pub static ACCOUNT: LazyLock<(String, Vec<u8>)> = LazyLock::new(|| {
    let der = transit::generate(KeyKind::Rsa2048, &mut SystemRng).unwrap();
    let text = String::from_utf8(pem::write("PRIVATE KEY", der.expose()).expose().clone()).unwrap();
    let public = JwtKey::from_pem(&text).unwrap().public_key().spki().to_vec();
    (text, public)
});

/// By a table, unlike the one that is tested.
pub fn crc32c(bytes: &[u8]) -> String {
    let table: Vec<u32> = (0..256_u32)
        .map(|byte| (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }))
        .collect();
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ table[((crc ^ u32::from(*byte)) & 0xff) as usize]);
    (!crc).to_string()
}

/// What may be wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Wraps by the primary version, whatever was named.
    Mixes,
    /// Damages what it answers.
    Damages,
    /// Does not look at checksums.
    Unchecked,
}

/// A project with one key, and those who give tokens for it.
#[derive(Debug)]
pub struct Project {
    origin: String,
    /// The states of the versions, from 1 on.
    pub versions: Vec<&'static str>,
    /// The version that wraps.
    pub primary: Option<usize>,
    /// Those that are taken.
    pub tokens: HashSet<String>,
    /// How many tokens were given.
    pub fetched: usize,
    /// The right that the identity lacks.
    pub denied: Option<&'static str>,
    /// What is wrong with it.
    pub fault: Fault,
    /// The token of the other issuer.
    pub subject: String,
}

impl Cloud for Project {
    const KIND: &'static str = "gcp";

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

    fn rotate(&mut self) {
        self.versions.push("ENABLED");
        self.primary = Some(self.versions.len());
    }

    fn settings(peer: &Peer) -> String {
        settings(peer, &by_file(peer, &service_account(peer, &ACCOUNT.0)))
    }
}

impl Project {
    /// An answer with another token.
    pub fn token(&mut self) -> Response<String> {
        self.fetched += 1;
        let token = format!("ya29.{}", self.fetched);
        self.tokens.insert(token.clone());
        says(200, &json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}))
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

    /// The name of a version.
    pub fn name(number: usize) -> String {
        format!("{KEY}/cryptoKeyVersions/{number}")
    }

    /// A version, as it is shown.
    pub fn version(&self, number: usize) -> Value {
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

/// A refusal.
pub fn error(code: u16, status: &str) -> Response<String> {
    says(code, &json!({"error": {"code": code, "message": "canary", "status": status, "details": []}}))
}

/// What a member with the key is configured by, with these credentials.
pub fn settings(peer: &Peer, credentials: &str) -> String {
    let (ca, origin) = (peer.ca.display(), &peer.origin);
    format!("key = '{KEY}'\nendpoint = '{origin}'\nca = '{ca}'\ncredentials = {{ {credentials} }}")
}

/// The file of the service account, with this key.
pub fn service_account(peer: &Peer, key: &str) -> Value {
    json!({"type": "service_account", "project_id": "p-1", "private_key_id": "0123abcd", "private_key": key,
        "client_email": EMAIL, "token_uri": format!("{}/token", peer.origin), "universe_domain": "googleapis.com"})
}

/// The credentials that lie in a file.
pub fn by_file(peer: &Peer, content: &Value) -> String {
    format!("file = {{ path = '{}' }}", peer.file("google.json", content.to_string()).display())
}
