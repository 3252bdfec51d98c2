//! The ways to log in, and how a token is kept.

use super::{POLICY, active, fails, file, policy, provider, provider_with, server, unwrap, wrap};
use bulla_crypto::pem;
use bulla_crypto::random::SystemRng;
use bulla_crypto::sign::{Algorithm, SigningKey};
use bulla_kms::provider::vault::Vault;
use bulla_kms::provider::{Class, Provider as _};
use bulla_testkit::openbao::OpenBao;
use bulla_wire::encoding::base64url;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A role of AppRole whose tokens live so long; its id.
fn approle(bao: &OpenBao, ttl: &str, max: &str) -> String {
    let enabled = bao.try_run(&["auth", "enable", "approle"]);
    assert!(enabled.is_ok() || enabled.unwrap_err().contains("already in use"));
    let (ttl, max) = (format!("token_ttl={ttl}"), format!("token_max_ttl={max}"));
    bao.run(&["write", "auth/approle/role/node", "token_policies=node", &ttl, &max]);
    bao.run(&["read", "-field=role_id", "auth/approle/role/node/role-id"])
}

fn secret_id(bao: &OpenBao) -> String {
    bao.run(&["write", "-f", "-field=secret_id", "auth/approle/role/node/secret-id"])
}

fn with_approle(bao: &OpenBao, role_id: &str) -> Vault {
    let secret = file(bao, "secret-id", &secret_id(bao));
    provider(bao, json!({"approle": {"role_id": role_id, "secret_id": secret}}))
}

/// How many tokens there are, of whomever.
fn tokens(bao: &OpenBao) -> usize {
    let listed = bao.run(&["list", "-format=json", "auth/token/accessors"]);
    serde_json::from_str::<Vec<String>>(&listed).unwrap().len()
}

/// Observes as a supervisor does for so long; whatever happens, it works every time.
async fn works_for(vault: &Vault, seconds: u64) {
    let began = Instant::now();
    let key = active(vault).await;
    let wrapped = wrap(vault, &key).await.unwrap();
    while began.elapsed() < Duration::from_secs(seconds) {
        let seen = vault.observe().await.unwrap();
        if let Some(ends) = seen.credential_ends {
            assert!(ends > SystemTime::now(), "it was observed with a token that has ended");
        }
        unwrap(vault, &key, &wrapped).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_role_are_renewed_and_replaced() {
    let bao = server!("tokens_of_a_role_are_renewed_and_replaced");
    let role = approle(&bao, "4s", "1h");
    let vault = with_approle(&bao, &role);
    let before = tokens(&bao);
    works_for(&vault, 13).await;
    assert_eq!(tokens(&bao), before + 1, "a token that can be renewed is not replaced");
    // At its greatest age a token is renewed no more.
    let role = approle(&bao, "4s", "6s");
    let vault = with_approle(&bao, &role);
    works_for(&vault, 14).await;
    // The one of before may have ended, as nobody renews it.
    assert!((before + 1..=before + 4).contains(&tokens(&bao)), "{} after {before}", tokens(&bao));
    // Tokens that cannot be renewed.
    bao.run(&["write", "auth/approle/role/node", "token_type=batch", "token_ttl=4s", "token_max_ttl=4s"]);
    works_for(&with_approle(&bao, &role), 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_replaced_by_whoever_observes() {
    let bao = server!("a_revoked_token_is_replaced_by_whoever_observes");
    let role = approle(&bao, "1h", "2h");
    let vault = with_approle(&bao, &role);
    let key = active(&vault).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    bao.run(&["token", "revoke", "-mode=path", "auth/approle"]);
    let before = tokens(&bao);
    for _ in 0..3 {
        fails(unwrap(&vault, &key, &wrapped).await, Class::Denied);
        fails(wrap(&vault, &key).await, Class::Denied);
    }
    assert_eq!(tokens(&bao), before, "a call does not log in while there is a token");
    active(&vault).await;
    unwrap(&vault, &key, &wrapped).await.unwrap();
    assert_eq!(tokens(&bao), before + 1);
    // A right that is missing is no reason to log in again.
    policy(&bao, "node", &POLICY.replace("[\"read\"]", "[\"list\"]"));
    for _ in 0..4 {
        assert!(fails(vault.observe().await, Class::Denied).contains("transit/keys/k8s"));
    }
    assert_eq!(tokens(&bao), before + 1);
    policy(&bao, "node", &POLICY.replace("encrypt/k8s", "encrypt/other"));
    active(&vault).await;
    assert!(fails(wrap(&vault, &key).await, Class::Denied).contains("transit/encrypt/k8s"));
    unwrap(&vault, &key, &wrapped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_log_in_once() {
    let bao = server!("many_calls_log_in_once");
    let role = approle(&bao, "1h", "2h");
    let key = active(&with_approle(&bao, &role)).await;
    let wrapped = wrap(&with_approle(&bao, &role), &key).await.unwrap();
    let vault = std::sync::Arc::new(with_approle(&bao, &role));
    let before = tokens(&bao);
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let (vault, key, wrapped) = (std::sync::Arc::clone(&vault), key.clone(), wrapped.clone());
            tokio::spawn(async move { unwrap(&vault, &key, &wrapped).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(tokens(&bao), before + 1);
    // Whoever gives up leaves the login to the others.
    let vault = with_approle(&bao, &role);
    drop(tokio::time::timeout(Duration::from_millis(1), unwrap(&vault, &key, &wrapped)).await);
    unwrap(&vault, &key, &wrapped).await.unwrap();
    assert!(tokens(&bao) <= before + 2);
    // A secret that is refused: everybody hears it, and nobody tries again at once.
    let bad = json!({"approle": {"role_id": role, "secret_id": file(&bao, "bad", "canary-secret-id")}});
    let vault = provider(&bao, bad);
    for _ in 0..3 {
        let text = fails(unwrap(&vault, &key, &wrapped).await, Class::Denied);
        assert!(text.contains("auth/approle/login") && !text.contains("canary"), "{text}");
    }
    file(&bao, "bad", &secret_id(&bao));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    unwrap(&vault, &key, &wrapped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_secret_is_used_once_and_its_origin_checked() {
    let bao = server!("a_wrapped_secret_is_used_once_and_its_origin_checked");
    let role = approle(&bao, "3s", "4s");
    let wrapping =
        |path: &str, field: &str| bao.run(&["write", "-wrap-ttl=60s", "-f", "-field=wrapping_token", path, field]);
    let made = "auth/approle/role/node/secret-id";
    let of = |token: &str| {
        let auth = json!({"approle": {"role_id": role, "wrapped_secret_id": file(&bao, "wrapping", token)}});
        provider(&bao, auth)
    };
    let vault = of(&wrapping(made, "ttl=1h"));
    // The secret is kept for the next logins.
    works_for(&vault, 8).await;
    // A process that begins anew finds the token used up.
    let again = of(&std::fs::read_to_string(bao.folder().join("wrapping")).unwrap());
    assert!(fails(again.observe().await, Class::Denied).contains("was used already"));
    file(&bao, "wrapping", &wrapping(made, "ttl=1h"));
    active(&again).await;
    // Whoever took the secret and wrapped it again is found out.
    for path in ["sys/wrapping/wrap", "cubbyhole/auth/approle/role/node/secret-id"] {
        bao.try_run(&["write", path, "secret_id=stolen"]).ok();
        let token = match path {
            "sys/wrapping/wrap" => wrapping(path, "secret_id=stolen"),
            _ => bao.run(&["read", "-wrap-ttl=60s", "-field=wrapping_token", path]),
        };
        assert!(fails(of(&token).observe().await, Class::Denied).contains("was not made by"));
    }
    // Even if the caller gives up at any moment, what the token gave is not lost.
    for patience in [1, 3, 5, 8, 12, 20] {
        let vault = of(&wrapping(made, "ttl=1h"));
        drop(tokio::time::timeout(Duration::from_millis(patience), vault.observe()).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
        active(&vault).await;
    }
}

struct Certified {
    authority: Issuer<'static, KeyPair>,
}

impl Certified {
    fn new(bao: &OpenBao) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut about = CertificateParams::default();
        about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = file(bao, "nodes-ca.pem", &about.self_signed(&key).unwrap().pem());
        bao.run(&["auth", "enable", "cert"]);
        let certificate = format!("certificate=@{own}");
        bao.run(&["write", "auth/cert/certs/node", &certificate, "token_policies=node", "token_ttl=1h"]);
        Self { authority: Issuer::new(about, key) }
    }

    fn issue(&self, bao: &OpenBao, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut about = CertificateParams::new(vec![name.to_owned()]).unwrap();
        about.distinguished_name.push(rcgen::DnType::CommonName, name);
        about.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        file(bao, "node.pem", &about.signed_by(&key, &self.authority).unwrap().pem());
        file(bao, "node-key.pem", &key.serialize_pem());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_logs_in_and_is_read_again() {
    let bao = server!("a_certificate_logs_in_and_is_read_again");
    let authority = Certified::new(&bao);
    let at = |name: &str| bao.folder().join(name);
    let auth = json!({"certificate": {"certificate": at("node.pem"), "key": at("node-key.pem"), "role": "node"}});
    let vault = provider(&bao, auth);
    assert!(fails(vault.observe().await, Class::Config).contains("node.pem"));
    authority.issue(&bao, "first");
    let key = active(&vault).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    let before = tokens(&bao);
    authority.issue(&bao, "second");
    active(&vault).await;
    assert_eq!(tokens(&bao), before + 1, "a token belongs to its certificate");
    unwrap(&vault, &key, &wrapped).await.unwrap();
    // Half of a rotation: the key does not fit, so all remains as it was.
    file(&bao, "node-key.pem", &KeyPair::generate().unwrap().serialize_pem());
    active(&vault).await;
    assert_eq!(tokens(&bao), before + 1);
    // One that nobody vouches for.
    let other = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&other).unwrap();
    file(&bao, "own.pem", &own.pem());
    file(&bao, "own-key.pem", &other.serialize_pem());
    let auth = json!({"certificate": {"certificate": at("own.pem"), "key": at("own-key.pem")}});
    fails(provider(&bao, auth).observe().await, Class::Denied);
}

fn jwt(key: &SigningKey, claims: &Value) -> String {
    let part = |value: &Value| base64url(value.to_string().as_bytes());
    let text = format!("{}.{}", part(&json!({"alg": "EdDSA", "typ": "JWT"})), part(claims));
    format!("{text}.{}", base64url(&key.sign(text.as_bytes()).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_token_logs_in() {
    let bao = server!("a_signed_token_logs_in");
    let key = SigningKey::generate(&mut SystemRng).unwrap();
    assert_eq!(key.public_key().algorithm(), Algorithm::Ed25519);
    let public = pem::write("PUBLIC KEY", key.public_key().spki());
    let public = file(&bao, "jwt.pem", std::str::from_utf8(public.expose()).unwrap());
    bao.run(&["auth", "enable", "jwt"]);
    let keys = format!("jwt_validation_pubkeys=@{public}");
    bao.run(&["write", "auth/jwt/config", &keys, "jwt_supported_algs=EdDSA", "bound_issuer=nodes"]);
    let role = ["role_type=jwt", "user_claim=sub", "bound_audiences=vault", "token_policies=node", "token_ttl=3s"];
    bao.run(&[&["write", "auth/jwt/role/node", "token_max_ttl=4s"], &role[..]].concat());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = |aud: &str, exp: u64| json!({"iss": "nodes", "sub": "n1", "aud": aud, "iat": now, "exp": exp});
    let path = file(&bao, "jwt", &jwt(&key, &claims("vault", now + 300)));
    let vault = provider(&bao, json!({"jwt": {"file": path, "role": "node"}}));
    works_for(&vault, 6).await;
    let stranger = SigningKey::generate(&mut SystemRng).unwrap();
    for (bad, says) in [
        (jwt(&key, &claims("other", now + 300)), "aud"),
        (jwt(&key, &claims("vault", now - 3000)), ""),
        (jwt(&stranger, &claims("vault", now + 300)), ""),
    ] {
        file(&bao, "jwt", &bad);
        let fresh = provider(&bao, json!({"jwt": {"file": path, "role": "node"}}));
        let text = fails(fresh.observe().await, Class::Denied);
        assert!(text.contains(says) && !text.contains(&bad[..30]), "{text}");
    }
    file(&bao, "jwt", &jwt(&key, &claims("vault", now + 300)));
    let role = provider(&bao, json!({"jwt": {"file": path, "role": "nobody"}}));
    fails(role.observe().await, Class::Denied);
    let mount = provider(&bao, json!({"jwt": {"file": path, "role": "node", "mount": "elsewhere"}}));
    assert!(fails(mount.observe().await, Class::Denied).contains("mount"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_others_made() {
    let bao = server!("tokens_that_others_made");
    let create = |args: &[&str]| bao.run(&[&["token", "create", "-field=token", "-policy=node"], args].concat());
    let of = |token: &str| provider(&bao, json!({"token": {"file": file(&bao, "token", token)}}));
    // One without end, which is bad style and works.
    let root = of(bao.root());
    assert_eq!(root.observe().await.unwrap().credential_ends, None);
    works_for(&root, 1).await;
    let periodic = of(&create(&["-period=4s"]));
    works_for(&periodic, 9).await;
    assert!(periodic.observe().await.unwrap().credential_renewed);
    works_for(&of(&create(&["-period=4s", "-no-default-policy"])), 2).await;
    // At its greatest age nobody here can get another one, and says so before.
    let vault = of(&create(&["-ttl=3s", "-explicit-max-ttl=5s"]));
    works_for(&vault, 3).await;
    let seen = vault.observe().await.unwrap();
    assert!(seen.credential_ends.is_some() && !seen.credential_renewed);
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(fails(vault.observe().await, Class::Denied).contains("denied"));
    file(&bao, "token", &create(&["-ttl=1h", "-renewable=false"]));
    assert!(!vault.observe().await.unwrap().credential_renewed, "somebody else has to");
    // A file that changes is used, long before its token ends.
    let first = std::fs::read_to_string(bao.folder().join("token")).unwrap();
    file(&bao, "token", &create(&["-ttl=1h"]));
    active(&vault).await;
    bao.run(&["token", "revoke", &first]);
    active(&vault).await;
    // One that was revoked is not tried for ever, and heals with another.
    let now = std::fs::read_to_string(bao.folder().join("token")).unwrap();
    bao.run(&["token", "revoke", &now]);
    fails(vault.observe().await, Class::Denied);
    file(&bao, "token", &create(&["-ttl=1h", "-no-default-policy"]));
    active(&vault).await;
    let limited = of(&create(&["-use-limit=20"]));
    assert!(fails(limited.observe().await, Class::Config).contains("num_uses"));
    let nobody = provider_with(&bao, json!({"token": {"file": file(&bao, "nobody", "s.canarycanarycanary")}}), |_| ());
    let text = fails(nobody.observe().await, Class::Denied);
    assert!(!text.contains("canary"), "{text}");
}
