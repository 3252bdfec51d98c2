//! A transit key of the released OpenBao: versions, limits, what is refused and why.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

mod hostile;
mod login;
mod peer;

use bulla_crypto::secret::SecretKey;
use bulla_kms::key::KeyRef;
use bulla_kms::provider::vault::Vault;
use bulla_kms::provider::{Class, Context, Observation, Provider as _, ProviderError};
use bulla_testkit::openbao::OpenBao;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What a node needs there, as the manual says.
const POLICY: &str = r#"
path "transit/keys/k8s" { capabilities = ["read"] }
path "transit/encrypt/k8s" { capabilities = ["update"] }
path "transit/decrypt/k8s" { capabilities = ["update"] }
"#;

/// A server with a transit key `k8s` and the policy `node`, or the test is skipped.
macro_rules! server {
    ($name:literal) => {
        $crate::server!($name, OpenBao::start())
    };
    ($name:literal, $start:expr) => {{
        let Some(bao) = $start else { bulla_testkit::skip!($name, "needs OpenBao (BULLA_TEST_OPENBAO)") };
        $crate::furnish(&bao);
        bao
    }};
}
pub(crate) use server;

fn furnish(bao: &OpenBao) {
    bao.run(&["secrets", "enable", "transit"]);
    bao.run(&["write", "-f", "transit/keys/k8s"]);
    policy(bao, "node", POLICY);
}

fn policy(bao: &OpenBao, name: &str, text: &str) {
    bao.run(&["policy", "write", name, &file(bao, "policy.hcl", text)]);
}

/// A file in the server's folder; its path.
fn file(bao: &OpenBao, name: &str, content: &str) -> String {
    let path = bao.folder().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A provider with these ways to log in; `change` may alter the rest of its settings.
fn provider_with(bao: &OpenBao, auth: Value, change: impl FnOnce(&mut Value)) -> Vault {
    let mut settings = json!({"address": bao.address(), "ca": bao.ca(), "key": "k8s", "auth": auth});
    change(&mut settings);
    Vault::open(&serde_json::from_value(settings).unwrap()).unwrap()
}

fn provider(bao: &OpenBao, auth: Value) -> Vault {
    provider_with(bao, auth, |_| ())
}

/// A provider of the key `key` with a token of a policy.
fn with_token(bao: &OpenBao, key: &str, policies: &str) -> Vault {
    let token = bao.run(&["token", "create", "-field=token", &format!("-policy={policies}")]);
    let auth = json!({"token": {"file": file(bao, &format!("token-{key}-{policies}"), &token)}});
    provider_with(bao, auth, |settings| settings["key"] = json!(key))
}

fn plain() -> SecretKey {
    SecretKey::from_slice(&[7; 32]).unwrap()
}

fn context() -> Context {
    Context::new("prod", "b1.x")
}

async fn wrap(vault: &Vault, key: &KeyRef) -> Result<Vec<u8>, ProviderError> {
    vault.wrap(key, &plain(), &context()).await
}

async fn unwrap(vault: &Vault, key: &KeyRef, wrapped: &[u8]) -> Result<(), ProviderError> {
    let key = vault.unwrap(key, wrapped, &context()).await?;
    assert_eq!(key.expose(), plain().expose());
    Ok(())
}

async fn active(vault: &Vault) -> KeyRef {
    vault.observe().await.unwrap().active
}

/// What it said when it failed with this class; no error says a token, or what was encrypted.
#[track_caller]
fn fails<T>(result: Result<T, ProviderError>, class: Class) -> String {
    let Err(error) = result else { panic!("it works") };
    assert_eq!(error.class, class, "{error}");
    // As tokens of OpenBao begin, and as what is encrypted does.
    assert!(!error.text.contains(" s.") && !error.text.contains("vault:v1:"), "{error}");
    error.text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_wraps_and_unwraps_in_its_context() {
    let bao = server!("a_key_wraps_and_unwraps_in_its_context");
    let vault = with_token(&bao, "k8s", "node");
    let Observation { active: key, readable, credential_ends, .. } = vault.observe().await.unwrap();
    let health: Value = serde_json::from_str(&bao.run(&["read", "-format=json", "sys/health"])).unwrap();
    let id = health["data"]["cluster_id"].as_str().unwrap();
    assert_eq!(key.backend, format!("vault:{id}/transit/k8s"));
    assert_eq!((key.version.as_str(), key.check.clone()), ("1", key.created.unwrap().to_string()));
    assert!(readable == [key.clone()] && credential_ends.is_some());
    let wrapped = wrap(&vault, &key).await.unwrap();
    assert_eq!(wrapped.len(), 60);
    unwrap(&vault, &key, &wrapped).await.unwrap();
    assert_ne!(wrapped, wrap(&vault, &key).await.unwrap());
    for other in [Context::new("test", "b1.x"), Context::new("prod", "b1.y")] {
        fails(vault.unwrap(&key, &wrapped, &other).await, Class::Corrupt);
    }
    for at in 0..wrapped.len() {
        let mut altered = wrapped.clone();
        altered[at] ^= 1;
        fails(unwrap(&vault, &key, &altered).await, Class::Corrupt);
    }
    for cut in [0, 1, 12, 28, 59] {
        fails(unwrap(&vault, &key, &wrapped[..cut]).await, Class::Corrupt);
    }
    fails(unwrap(&vault, &key, &[wrapped.as_slice(), &[0]].concat()).await, Class::Corrupt);
    fails(unwrap(&vault, &key, &[0; 4096]).await, Class::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_pinned_over_rotations() {
    let bao = server!("a_version_is_pinned_over_rotations");
    let vault = with_token(&bao, "k8s", "node");
    let first = active(&vault).await;
    let by_first = wrap(&vault, &first).await.unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    bao.run(&["write", "-f", "transit/keys/k8s/rotate"]);
    // What was observed before the rotation is used on, and not what is newest.
    let late = wrap(&vault, &first).await.unwrap();
    unwrap(&vault, &first, &late).await.unwrap();
    let Observation { active: second, readable, .. } = vault.observe().await.unwrap();
    assert_eq!(second.version, "2");
    assert_eq!(readable, [first.clone(), second.clone()]);
    let by_second = wrap(&vault, &second).await.unwrap();
    unwrap(&vault, &first, &by_first).await.unwrap();
    fails(unwrap(&vault, &second, &by_first).await, Class::Corrupt);
    fails(unwrap(&vault, &first, &by_second).await, Class::Corrupt);
    // A version of which this node knows nothing yet, and one that will never be.
    let third = KeyRef { version: "3".into(), ..second.clone() };
    assert!(fails(wrap(&vault, &third).await, Class::UnknownKey).contains("no version 3"));
    fails(unwrap(&vault, &third, &by_second).await, Class::UnknownKey);
    for version in ["0", "-1", "x", "99999999999999999999"] {
        fails(wrap(&vault, &KeyRef { version: version.into(), ..second.clone() }).await, Class::UnknownKey);
    }
    // The same version, made at another time, is another key.
    let other = KeyRef { check: "5".into(), ..second.clone() };
    assert!(fails(wrap(&vault, &other).await, Class::UnknownKey).contains("another key"));
    bao.run(&["write", "transit/keys/k8s/config", "min_encryption_version=2"]);
    assert!(fails(wrap(&vault, &first).await, Class::KeyDisabled).contains("min_encryption_version"));
    unwrap(&vault, &first, &by_first).await.unwrap();
    bao.run(&["write", "transit/keys/k8s/config", "min_decryption_version=2"]);
    assert_eq!(vault.observe().await.unwrap().readable, std::slice::from_ref(&second));
    assert!(fails(unwrap(&vault, &first, &by_first).await, Class::KeyDisabled).contains("min_decryption_version"));
    unwrap(&vault, &second, &by_second).await.unwrap();
    bao.run(&["write", "transit/keys/k8s/config", "min_decryption_version=1"]);
    unwrap(&vault, &first, &by_first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_unknown_and_never_made() {
    let bao = server!("a_missing_key_is_unknown_and_never_made");
    let creating = POLICY.replace("\"update\"", "\"create\", \"update\"");
    policy(&bao, "creating", &creating);
    let root = provider(&bao, json!({"token": {"file": file(&bao, "root", bao.root())}}));
    for vault in [with_token(&bao, "k8s", "node"), with_token(&bao, "k8s", "creating"), root] {
        let key = active(&vault).await;
        let wrapped = wrap(&vault, &key).await.unwrap();
        bao.run(&["write", "transit/keys/k8s/config", "deletion_allowed=true"]);
        // A warning, since a member that counted as away would stop writes.
        vault.observe().await.unwrap();
        unwrap(&vault, &key, &wrapped).await.unwrap();
        wrap(&vault, &key).await.unwrap();
        bao.run(&["delete", "transit/keys/k8s"]);
        fails(wrap(&vault, &key).await, Class::UnknownKey);
        fails(unwrap(&vault, &key, &wrapped).await, Class::UnknownKey);
        assert!(fails(vault.observe().await, Class::UnknownKey).contains("transit/k8s"));
        assert!(bao.try_run(&["read", "transit/keys/k8s"]).is_err(), "the key was made");
        // Another key takes its name, and the number of its version.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        bao.run(&["write", "-f", "transit/keys/k8s"]);
        assert!(fails(wrap(&vault, &key).await, Class::UnknownKey).contains("another key"));
        assert!(fails(unwrap(&vault, &key, &wrapped).await, Class::UnknownKey).contains("another key"));
        assert_ne!(active(&vault).await.digest(), key.digest());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_other_kinds() {
    let bao = server!("keys_of_other_kinds");
    let root = file(&bao, "root", bao.root());
    let of = |key: &str| {
        let auth = json!({"token": {"file": root}});
        provider_with(&bao, auth, |settings| settings["key"] = json!(key))
    };
    for (kind, size) in
        [("aes128-gcm96", 60), ("aes256-gcm96", 60), ("chacha20-poly1305", 60), ("xchacha20-poly1305", 72)]
    {
        bao.run(&["write", &format!("transit/keys/{kind}"), &format!("type={kind}")]);
        let vault = of(kind);
        let key = active(&vault).await;
        let wrapped = wrap(&vault, &key).await.unwrap();
        assert_eq!(wrapped.len(), size);
        unwrap(&vault, &key, &wrapped).await.unwrap();
        fails(vault.unwrap(&key, &wrapped, &Context::new("test", "b1.x")).await, Class::Corrupt);
    }
    bao.run(&["write", "transit/keys/derived", "derived=true"]);
    assert!(fails(of("derived").observe().await, Class::Config).contains("derived"));
    for kind in ["rsa-2048", "ed25519", "ecdsa-p256", "hmac"] {
        let extra = if kind == "hmac" { "key_size=32" } else { "exportable=false" };
        bao.run(&["write", &format!("transit/keys/{kind}"), &format!("type={kind}"), extra]);
        assert!(fails(of(kind).observe().await, Class::Config).contains("type"));
    }
    bao.run(&["write", "-f", "transit/keys/gone"]);
    let gone = of("gone");
    let key = active(&gone).await;
    let wrapped = wrap(&gone, &key).await.unwrap();
    bao.run(&["delete", "transit/keys/gone/soft-delete"]);
    fails(gone.observe().await, Class::KeyDisabled);
    fails(unwrap(&gone, &key, &wrapped).await, Class::KeyDisabled);
    fails(wrap(&gone, &key).await, Class::KeyDisabled);
    bao.run(&["write", "-f", "transit/keys/gone/soft-delete-restore"]);
    unwrap(&gone, &key, &wrapped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_and_namespaces_are_apart() {
    let bao = server!("mounts_and_namespaces_are_apart");
    bao.run(&["secrets", "enable", "-path=team/other", "transit"]);
    bao.run(&["write", "-f", "team/other/keys/k8s"]);
    bao.run(&["namespace", "create", "tenant"]);
    bao.run(&["secrets", "enable", "-namespace=tenant", "transit"]);
    bao.run(&["write", "-namespace=tenant", "-f", "transit/keys/k8s"]);
    let auth = json!({"token": {"file": file(&bao, "root", bao.root())}});
    let at = |fields: Value| {
        provider_with(&bao, auth.clone(), |settings| {
            settings.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        })
    };
    let all = [at(json!({})), at(json!({"mount": "team/other"})), at(json!({"namespace": "tenant"}))];
    let mut wrapped = Vec::new();
    for (vault, ends) in all.iter().zip(["/transit/k8s", "/team/other/k8s", "/tenant/transit/k8s"]) {
        let key = active(vault).await;
        assert!(key.backend.ends_with(ends), "{}", key.backend);
        wrapped.push((wrap(vault, &key).await.unwrap(), key));
    }
    for (own, vault) in all.iter().enumerate() {
        for (made, (bytes, key)) in wrapped.iter().enumerate() {
            match own == made {
                true => unwrap(vault, key, bytes).await.unwrap(),
                false => drop(fails(unwrap(vault, key, bytes).await, Class::UnknownKey)),
            }
        }
    }
    for (fields, class) in [
        (json!({"mount": "nothing"}), Class::Config),
        (json!({"mount": "secret"}), Class::Config),
        (json!({"namespace": "nothing"}), Class::Config),
        (json!({"key": "nothing"}), Class::UnknownKey),
    ] {
        fails(at(fields).observe().await, class);
    }
    let none: PathBuf = bao.folder().join("none");
    let missing = provider(&bao, json!({"token": {"file": none}}));
    assert!(fails(missing.observe().await, Class::Config).contains("none"));
}
