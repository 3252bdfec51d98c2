//! Answers that OpenBao does not give in a test: those of other nodes, and of somebody in its place.

use super::{active, fails, unwrap, wrap};
use bulla_kms::key::KeyRef;
use bulla_kms::provider::vault::Vault;
use bulla_kms::provider::{Class, Provider as _};
use bulla_wire::encoding::base64;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

const TOKEN: &str = "s.canarycanary";

/// What is answered to each path; without an entry 404 and no error, as for a key that is not there.
type Answers = Arc<Mutex<HashMap<&'static str, (u16, Value)>>>;

/// Serves one connection.
fn serve(stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().trim_start_matches("/v1/").to_owned();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut sent = vec![0; length];
        reader.read_exact(&mut sent)?;
        let known = answers.lock().unwrap().get(path.as_str()).cloned();
        let (status, body) = known.unwrap_or((404, json!({"errors": []})));
        // Whatever was sent comes back as an error, too.
        let body = match body {
            Value::Null => json!({"errors": [String::from_utf8_lossy(&sent)]}).to_string(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        let head =
            format!("HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
    }
}

/// A server that is as Vault is until it is told otherwise.
struct Fake {
    answers: Answers,
    address: String,
    folder: tempfile::TempDir,
}

impl Fake {
    /// A provider of its key, by a way to log in that reads a file of this content.
    fn provider(&self, auth: impl FnOnce(&Path) -> Value, content: &str) -> Vault {
        let file = self.folder.path().join("credential");
        std::fs::write(&file, content).unwrap();
        let settings = json!({"address": self.address, "key": "k8s", "auth": auth(&file)});
        Vault::open(&serde_json::from_value(settings).unwrap()).unwrap()
    }

    /// Answers so to a path.
    fn says(&self, path: &'static str, status: u16, body: Value) {
        self.answers.lock().unwrap().insert(path, (status, body));
    }
}

fn token(file: &Path) -> Value {
    json!({"token": {"file": file}})
}

fn fake() -> (Fake, Vault) {
    let key = json!({"data": {
        "type": "aes256-gcm96", "latest_version": 2, "min_decryption_version": 1, "min_encryption_version": 0,
        "derived": false, "deletion_allowed": false, "keys": {"1": 1000, "2": 2000},
    }});
    let about = json!({"data": {"ttl": 3600, "creation_ttl": 3600, "renewable": true, "expire_time": "x"}});
    let answers: Answers = Arc::new(Mutex::new(HashMap::from([
        ("sys/health", (200, json!({"cluster_id": "c-1"}))),
        ("transit/keys/k8s", (200, key)),
        ("transit/encrypt/k8s", (200, encrypted(2))),
        ("transit/decrypt/k8s", (200, json!({"data": {"plaintext": base64(&[7; 32])}}))),
        ("auth/token/lookup-self", (200, about)),
        ("sys/capabilities-self", (200, json!({"data": {"transit/encrypt/k8s": ["update"]}}))),
    ])));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let own = Arc::clone(&answers);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let own = Arc::clone(&own);
            std::thread::spawn(move || drop(serve(stream, &own)));
        }
    });
    let fake = Fake { answers, address, folder: tempfile::tempdir().unwrap() };
    let vault = fake.provider(token, TOKEN);
    (fake, vault)
}

fn encrypted(version: u64) -> Value {
    json!({"data": {"ciphertext": format!("vault:v{version}:{}", base64(&[9; 60])), "key_version": version}})
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_than_was_asked_for_is_refused() {
    let (fake, vault) = fake();
    let key = active(&vault).await;
    assert_eq!(
        (key.backend.as_str(), key.version.as_str(), key.check.as_str()),
        ("vault:c-1/transit/k8s", "2", "2000")
    );
    assert_eq!(wrap(&vault, &key).await.unwrap(), [9; 60]);
    unwrap(&vault, &key, &[9; 60]).await.unwrap();
    let first = KeyRef { version: "1".into(), check: "1000".into(), ..key.clone() };
    assert!(fails(wrap(&vault, &first).await, Class::Protocol).contains("version 2"));
    fake.says("transit/encrypt/k8s", 200, encrypted(3));
    assert!(fails(wrap(&vault, &key).await, Class::Protocol).contains("version 3"));
    for bad in [json!({"data": {"ciphertext": ""}}), json!({"data": {}}), json!({}), json!("not json"), json!("")] {
        fake.says("transit/encrypt/k8s", 200, bad.clone());
        fails(wrap(&vault, &key).await, Class::Protocol);
        fake.says("transit/decrypt/k8s", 200, bad.clone());
        fails(unwrap(&vault, &key, &[9; 60]).await, Class::Protocol);
        fake.says("transit/keys/k8s", 200, bad);
        fails(vault.observe().await, Class::Protocol);
    }
    fake.says("transit/decrypt/k8s", 200, json!({"data": {"plaintext": base64(&[7; 31])}}));
    fails(unwrap(&vault, &key, &[9; 60]).await, Class::Protocol);
    fake.says("transit/decrypt/k8s", 200, json!("x".repeat(300 * 1024)));
    assert!(fails(unwrap(&vault, &key, &[9; 60]).await, Class::Protocol).contains("more than"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_do_not_serve() {
    let (fake, vault) = fake();
    let key = active(&vault).await;
    let known = || json!({"cluster_id": "c-1"});
    // Standbys that hand on what they are asked, or answer it.
    for status in [429, 473] {
        fake.says("sys/health", status, known());
        assert_eq!(active(&vault).await, key);
    }
    for (status, body, class) in [
        (429, Value::Null, Class::Throttled),
        (472, known(), Class::Unavailable),
        (501, known(), Class::Unavailable),
        (503, known(), Class::Unavailable),
        (307, known(), Class::Unavailable),
        (500, Value::Null, Class::Unavailable),
        (200, json!({"cluster_id": ""}), Class::Protocol),
        (200, json!({}), Class::Protocol),
        (404, Value::Null, Class::Config),
    ] {
        fake.says("sys/health", status, body);
        fails(vault.observe().await, class);
    }
    for (status, class) in [
        (307, Class::Unavailable),
        (405, Class::Config),
        (412, Class::Unavailable),
        (429, Class::Throttled),
        (473, Class::Unavailable),
        (500, Class::Unavailable),
        (502, Class::Unavailable),
        (503, Class::Unavailable),
        (418, Class::Protocol),
    ] {
        fake.says("transit/encrypt/k8s", status, Value::Null);
        fake.says("transit/decrypt/k8s", status, Value::Null);
        fails(wrap(&vault, &key).await, class);
        fails(unwrap(&vault, &key, &[9; 60]).await, class);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_as_an_error_is_not_repeated() {
    let (fake, vault) = fake();
    let key = active(&vault).await;
    let secret = base64(&[7; 32]);
    for status in [400, 403, 404, 500] {
        fake.says("transit/encrypt/k8s", status, Value::Null);
        fake.says("transit/decrypt/k8s", status, Value::Null);
        for error in [wrap(&vault, &key).await.map(drop), unwrap(&vault, &key, &[9; 60]).await] {
            let error = error.unwrap_err();
            assert!(!error.text.contains(&secret) && !error.text.contains(&base64(&[9; 60])), "{error}");
        }
    }
    // What a login sends: once as it is, once in pieces, once as a value where a number belongs.
    let jwt = |file: &Path| json!({"jwt": {"file": file, "role": "r"}});
    let approle = |file: &Path| json!({"approle": {"role_id": "r", "secret_id": file}});
    for (path, auth) in [("auth/jwt/login", &jwt as &dyn Fn(&Path) -> Value), ("auth/approle/login", &approle)] {
        for (status, body, class) in [
            (400, Value::Null, Class::Denied),
            (403, json!({"errors": [format!("no {TOKEN} here")]}), Class::Denied),
            (500, Value::Null, Class::Unavailable),
            (200, json!({"auth": {"client_token": "t", "lease_duration": TOKEN, "renewable": true}}), Class::Protocol),
            (
                200,
                json!({"auth": {"client_token": format!("{TOKEN}\n"), "lease_duration": 1, "renewable": true}}),
                Class::Protocol,
            ),
        ] {
            fake.says(path, status, body);
            let text = fails(fake.provider(auth, TOKEN).observe().await, class);
            assert!(!text.contains("canary"), "{text}");
        }
    }
    for (status, body, class) in [
        (403, json!({"errors": [TOKEN]}), Class::Denied),
        (500, json!({"errors": [TOKEN]}), Class::Unavailable),
        (200, json!({"data": {"ttl": TOKEN}}), Class::Protocol),
    ] {
        fake.says("transit/keys/k8s", 403, json!({"errors": [TOKEN]}));
        fake.says("auth/token/lookup-self", status, body);
        let text = fails(fake.provider(token, TOKEN).observe().await, class);
        assert!(!text.contains("canary"), "{text}");
    }
}
