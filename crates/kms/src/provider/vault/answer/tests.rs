use super::*;
use serde_json::{Value, json};

fn body(text: impl AsRef<str>) -> SecretBytes {
    SecretBytes::new(text.as_ref().as_bytes().to_vec())
}

fn key_answer(change: impl FnOnce(&mut Value)) -> Result<KeyState, ProviderError> {
    // As OpenBao 2.7 answers.
    let mut answer = json!({
        "request_id": "8693cc6f", "lease_id": "", "renewable": false, "lease_duration": 0,
        "data": {
            "allow_plaintext_backup": false, "auto_rotate_period": 0, "deletion_allowed": false, "derived": false,
            "exportable": false, "imported_key": false, "keys": {"2": 1_795_855_148, "3": 1_795_855_150},
            "latest_version": 3, "min_available_version": 0, "min_decryption_version": 2, "min_encryption_version": 0,
            "name": "k8s", "soft_deleted": false, "supports_encryption": true, "type": "aes256-gcm96",
        },
        "wrap_info": null, "warnings": null, "auth": null,
    });
    change(&mut answer["data"]);
    key(&body(answer.to_string()))
}

#[test]
fn a_key_is_as_it_is_described() {
    let state = key_answer(|_| ()).unwrap();
    assert_eq!((state.latest, state.min_decryption, state.min_encryption), (3, 2, 0));
    assert_eq!(state.versions, BTreeMap::from([(2, 1_795_855_148), (3, 1_795_855_150)]));
    assert!(state.unfit.is_none() && !state.leaves);
    assert!(key_answer(|data| data["exportable"] = json!(true)).unwrap().leaves);
    assert!(key_answer(|data| data["allow_plaintext_backup"] = json!(true)).unwrap().leaves);
    // An engine that has more to say of a key says it to others.
    assert!(key_answer(|data| data["another"] = json!({"a": [1]})).is_ok());
}

#[test]
fn a_key_that_must_not_be_used_says_why() {
    for (field, value, class, names) in [
        ("derived", json!(true), Class::Config, "derived"),
        ("soft_deleted", json!(true), Class::KeyDisabled, "restore"),
    ] {
        let unfit = key_answer(|data| data[field] = value).unwrap().unfit.unwrap();
        assert!(unfit.class == class && unfit.text.contains(names), "{unfit}");
    }
    let deletable = key_answer(|data| data["deletion_allowed"] = json!(true)).unwrap();
    assert!(deletable.unfit.is_none() && deletable.deletable, "it is warned of");
    // A pair of keys tells more of each version than a time, and a key that only authenticates tells less of itself.
    for kind in ["rsa-4096", "ed25519", "hmac", ""] {
        let other = key(&body(json!({"data": {"type": kind, "keys": {"1": {"public_key": "x"}}}}).to_string()));
        let other = other.unwrap_err();
        assert!(other.class == Class::Config && other.text.contains("type"), "{other}");
    }
    for kind in KINDS {
        assert!(key_answer(|data| data["type"] = json!(kind)).unwrap().unfit.is_none());
    }
}

#[test]
fn what_describes_no_key_is_refused() {
    for field in ["type", "latest_version", "min_decryption_version", "keys", "derived", "deletion_allowed"] {
        let missing = key_answer(|data| drop(data.as_object_mut().unwrap().remove(field)));
        assert_eq!(missing.unwrap_err().class, Class::Protocol, "{field}");
    }
    for (field, value) in [
        ("keys", json!({})),
        ("keys", json!({"1": 5})),
        ("keys", json!({"03": 5})),
        ("keys", json!({"3": 5, "+2": 5})),
        ("keys", json!({"3": 5, "0": 5})),
        ("keys", json!({"3": 5, "99999999999999999999": 5})),
        ("keys", json!({"3": -5})),
        ("keys", json!({"3": 5.5})),
        ("keys", json!({"3": "5"})),
        ("keys", json!({"3": null})),
        ("keys", json!([5])),
        ("latest_version", json!(4)),
        ("latest_version", json!(0)),
        ("latest_version", json!(-1)),
        ("latest_version", json!(1e300)),
        ("min_decryption_version", json!(4)),
        ("min_encryption_version", json!(-1)),
        ("derived", json!("false")),
        ("deletion_allowed", json!(null)),
        ("type", json!(3)),
    ] {
        let error = key_answer(|data| data[field] = value.clone()).unwrap_err();
        assert_eq!(error.class, Class::Protocol, "{field} {value}");
    }
    for text in
        ["", "{}", "null", "[]", "{\"data\":null}", "{\"data\":{}}", "<html>", "{\"data\":", &"[".repeat(100_000)]
    {
        assert_eq!(key(&body(text)).unwrap_err().class, Class::Protocol);
    }
}

#[test]
fn the_largest_version_is_a_version() {
    let large = u64::MAX;
    let state = key_answer(|data| {
        data["latest_version"] = json!(large);
        data["keys"] = json!({large.to_string(): 1});
    });
    assert_eq!(state.unwrap().latest, large);
    let wrapped = wrapped(&encrypted(&format!("vault:v{large}:{}", base64(&[7; 60]))), large).unwrap();
    assert_eq!(ciphertext(&wrapped, large), format!("vault:v{large}:{}", base64(&[7; 60])));
}

fn encrypted(text: &str) -> SecretBytes {
    body(json!({"data": {"ciphertext": text, "key_version": 3}}).to_string())
}

#[test]
fn only_the_version_that_was_asked_for_encrypts() {
    let text = format!("vault:v3:{}", base64(&[9; 60]));
    assert_eq!(wrapped(&encrypted(&text), 3).unwrap(), [9; 60]);
    let error = wrapped(&encrypted(&text), 2).unwrap_err();
    assert!(error.class == Class::Protocol && error.text.contains("version 3"), "{error}");
    for bad in [
        String::new(),
        base64(&[9; 60]),
        format!("vault:3:{}", base64(&[9; 60])),
        format!("vault:v03:{}", base64(&[9; 60])),
        format!("vault:v:{}", base64(&[9; 60])),
        format!("other:v3:{}", base64(&[9; 60])),
        format!("vault:v3:{}\n", base64(&[9; 60])),
        format!("vault:v3:{}", base64(&[9; 47])),
        format!("vault:v3:{}", base64(&[9; 73])),
        "vault:v3:".to_owned(),
        "vault:v3".to_owned(),
    ] {
        assert_eq!(wrapped(&encrypted(&bad), 3).unwrap_err().class, Class::Protocol, "{bad}");
    }
    for bad in [json!({"data": {}}), json!({"data": {"ciphertext": null}}), json!({"ciphertext": text}), json!([])] {
        assert_eq!(wrapped(&body(bad.to_string()), 3).unwrap_err().class, Class::Protocol, "{bad}");
    }
}

#[test]
fn only_a_key_was_decrypted() {
    let decrypted = |text: &str| plain(&body(json!({"data": {"plaintext": text}}).to_string()));
    assert_eq!(decrypted(&base64(&[5; 32])).unwrap().expose(), &[5; 32]);
    for bad in [String::new(), base64(&[5; 31]), base64(&[5; 33]), "canary".to_owned(), "can\"ary".to_owned()] {
        let error = decrypted(&bad).err().unwrap();
        assert!(error.class == Class::Protocol && !error.text.contains("canary"), "{error}");
    }
}

#[test]
fn a_login_gives_a_token_and_its_time() {
    let auth = |auth: Value| login(&body(json!({"auth": auth, "data": null}).to_string()));
    let state =
        auth(json!({"client_token": "s.canary", "lease_duration": 60, "renewable": true, "num_uses": 0})).unwrap();
    let token = state.token.unwrap();
    assert!(token.is_sensitive() && token == "s.canary" && !format!("{token:?}").contains("canary"));
    assert_eq!((state.ttl, state.renewable), (Some(Duration::from_secs(60)), true));
    let endless = auth(json!({"client_token": "t", "lease_duration": 0, "renewable": false})).unwrap();
    assert_eq!(endless.ttl, None);
    let huge = auth(json!({"client_token": "t", "lease_duration": u64::MAX, "renewable": false})).unwrap();
    assert_eq!(huge.ttl, None);
    let limited = auth(json!({"client_token": "s.canary", "lease_duration": 5, "renewable": true, "num_uses": 3}));
    let limited = limited.err().unwrap();
    assert!(limited.class == Class::Config && limited.text.contains("num_uses") && !limited.text.contains("canary"));
    for bad in [
        json!(null),
        json!({}),
        json!({"client_token": "", "lease_duration": 5, "renewable": true}),
        json!({"client_token": "s.can ary", "lease_duration": 5, "renewable": true}),
        json!({"client_token": "s.can\nary", "lease_duration": 5, "renewable": true}),
        json!({"client_token": "s.canary", "lease_duration": -5, "renewable": true}),
        json!({"client_token": "s.canary", "renewable": true}),
        json!({"client_token": "s.canary", "lease_duration": 5}),
    ] {
        let error = auth(bad.clone()).err().unwrap();
        assert!(error.class == Class::Protocol && !error.text.contains("ary"), "{bad}: {error}");
    }
}

#[test]
fn a_token_tells_its_time() {
    let seen = |data: Value| lookup(&body(json!({"data": data}).to_string())).unwrap();
    let root = seen(json!({"ttl": 0, "creation_ttl": 0, "expire_time": null, "num_uses": 0, "renewable": false}));
    assert_eq!((root.ttl, root.whole, root.renewable), (None, None, false));
    let usual = seen(json!({"ttl": 19, "creation_ttl": 20, "expire_time": "2026-11-28T08:39:28Z", "renewable": true}));
    assert!(usual.renewable && !usual.periodic);
    assert_eq!((usual.ttl, usual.whole), (Some(Duration::from_secs(19)), Some(Duration::from_secs(20))));
    let periodic = seen(json!({"ttl": 9, "creation_ttl": 3600, "period": 10, "expire_time": "x", "renewable": true}));
    assert_eq!((periodic.whole, periodic.periodic), (Some(Duration::from_secs(10)), true));
    let aging = seen(json!({"ttl": 9, "period": 10, "explicit_max_ttl": 60, "renewable": true}));
    assert!(!aging.periodic, "it ends at its greatest age");
    let last = seen(json!({"ttl": 0, "creation_ttl": 20, "expire_time": "2026-11-28T08:39:28Z", "renewable": true}));
    assert_eq!(last.ttl, Some(Duration::ZERO));
}

#[test]
fn a_cluster_says_which_it_is() {
    let said = |health: Value| cluster_id(&body(health.to_string()));
    assert_eq!(said(json!({"cluster_id": "8926b228-eea9", "sealed": false})).unwrap(), "8926b228-eea9");
    for bad in
        [json!({}), json!({"cluster_id": ""}), json!({"cluster_id": "a/b"}), json!({"cluster_id": "x".repeat(65)})]
    {
        assert_eq!(said(bad).unwrap_err().class, Class::Protocol);
    }
}

#[test]
fn rights_are_those_of_the_path() {
    let may = |value: Value| may_create(&body(value.to_string()), "transit/encrypt/k");
    assert_eq!(may(json!({"data": {"transit/encrypt/k": ["update"]}})), Some(false));
    assert_eq!(may(json!({"data": {"transit/encrypt/k": ["create", "update"]}})), Some(true));
    assert_eq!(may(json!({"data": {"transit/encrypt/k": ["root"]}})), Some(true));
    for unknown in [json!({"data": {"other": ["update"]}}), json!({}), json!({"data": {"transit/encrypt/k": "update"}})]
    {
        assert_eq!(may(unknown), None);
    }
}

#[test]
fn errors_are_repeated_without_what_may_be_secret() {
    let errors = |text: &str| body(json!({"errors": [text]}).to_string());
    assert_eq!(said(&errors("invalid role name \"x\""), b""), "invalid role name \"x\"");
    assert_eq!(said(&errors("no eyJhbGciOiJFUzI1NiJ9.eyJpc3Mi token"), b""), "no […] token");
    assert_eq!(said(&errors("bad tok-5 here"), b"tok-5"), "");
    assert_eq!(said(&errors(&"word ".repeat(500)), b"").chars().count(), QUOTED_CHARS);
    assert_eq!(said(&body("<html>"), b""), "");
    assert!(is_absence(&body("{\"errors\":[]}")) && !is_absence(&errors("no handler")) && !is_absence(&body("x")));
}
