//! AWS KMS and STS as the documentation of AWS has them, with signatures that are verified by code that shares nothing
//! with what signed.

use super::Cloud;
use super::peer::{Call, Peer, says, text};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use bulla_crypto::random::{SystemRng, draw};
use bulla_wire::encoding::{base64, base64_decode};
use http::Response;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// The key's ARN.
pub const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// A role that may use it.
pub const ROLE: &str = "arn:aws:iam::111122223333:role/kms";

/// An account of AWS with one key.
#[derive(Debug)]
pub struct Account {
    /// The ids of the key's materials, the current one last.
    pub materials: Vec<String>,
    /// Its state, as KMS names it.
    pub state: &'static str,
    /// The current material of a key that tells none.
    pub untold: bool,
    /// The action that the credentials may not do.
    pub denied: Option<&'static str>,
    /// The secrets and sessions of access keys.
    pub keys: HashMap<String, (String, Option<String>)>,
    /// What is shown to take the role.
    pub token: String,
    /// How long a role's credentials last.
    pub lasting: Duration,
    /// How often the role was taken.
    pub roles: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What may be wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
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

impl Cloud for Account {
    const KIND: &'static str = "aws";

    fn new(_: &str) -> Self {
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

    fn rotate(&mut self) {
        self.materials.push(material());
    }

    fn settings(peer: &Peer) -> String {
        settings(peer, &by_file(peer))
    }
}

impl Account {
    /// New credentials of the role: an access key, its secret, the session, and when they end.
    pub fn role(&mut self) -> (String, String, String, String) {
        self.roles += 1;
        let id = format!("ASIAROLE{}", self.roles);
        let (secret, session) = (format!("role/secret{}", self.roles), format!("session//{}==", self.roles));
        self.keys.insert(id.clone(), (secret.clone(), Some(session.clone())));
        let ends = humantime::format_rfc3339_seconds(SystemTime::now() + self.lasting).to_string();
        (id, secret, session, ends)
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

/// What a member with the key is configured by, with these credentials.
pub fn settings(peer: &Peer, credentials: &str) -> String {
    let (ca, origin) = (peer.ca.display(), &peer.origin);
    format!("key = '{KEY}'\nendpoint = '{origin}'\nca = '{ca}'\ncredentials = {{ {credentials} }}")
}

/// The credentials that lie in a file.
pub fn by_file(peer: &Peer) -> String {
    let content = "[default]\naws_access_key_id = AKIAFILE\naws_secret_access_key = file/secret+one\n";
    format!("file = {{ path = '{}' }}", peer.file("credentials", content).display())
}
