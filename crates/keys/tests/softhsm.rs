//! Keys on tokens of SoftHSM, with `pkcs11-tool` beside us.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

use bulla_crypto::envelope;
use bulla_crypto::identity::Identity;
use bulla_crypto::random::SystemRng;
use bulla_crypto::recipient::RecipientKind;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::sign::{Algorithm, SignError, Signer as _};
use bulla_keys::pin::PinError;
use bulla_keys::uri::TokenUri;
use bulla_keys::{Make, TokenError, Tokens};
use bulla_testkit::softhsm::SoftHsm;
use std::cell::Cell;

const PIN: &str = "1234";
const SIGNS: &[&str] = &["--usage-sign"];
const AGREES: &[&str] = &["--usage-derive"];

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn uri(hsm: &SoftHsm, path: &str) -> TokenUri {
    format!("pkcs11:{path}?module-path={}", hsm.module()).parse().unwrap()
}

fn right(_: (&str, &str)) -> Result<SecretBytes, PinError> {
    Ok(SecretBytes::new(PIN.as_bytes().to_vec()))
}

fn signs(identity: &Identity) -> Result<(), SignError> {
    let signature = now(identity.sign(b"message"))?;
    assert!(identity.public_key().verify(b"message", &signature).is_ok());
    Ok(())
}

fn opens(identity: &Identity) {
    let sealed = envelope::seal(identity.recipients(), None, b"content").unwrap();
    assert_eq!(now(envelope::open(&[identity], &sealed, 100)).unwrap().plaintext.expose(), b"content");
}

fn holder(error: &SignError) -> &TokenError {
    let SignError::Holder(cause) = error else { panic!("{error}") };
    cause.downcast_ref().unwrap()
}

#[test]
fn keys_of_every_kind_sign() {
    let Some(hsm) = SoftHsm::of_this_process("keys_of_every_kind_sign") else { return };
    hsm.token("ops", PIN);
    let kinds = [
        ("EC:edwards25519", Algorithm::Ed25519),
        ("EC:prime256v1", Algorithm::EcdsaP256),
        ("EC:secp384r1", Algorithm::EcdsaP384),
        ("rsa:3072", Algorithm::RsaPssSha512),
    ];
    let tokens = Tokens::default();
    for (number, (kind, algorithm)) in kinds.into_iter().enumerate() {
        hsm.pair("ops", PIN, kind, "key", &format!("0{number}"), SIGNS);
        let identity = tokens.identity(&uri(&hsm, &format!("token=ops;id=%0{number}")), &right).unwrap();
        assert_eq!(identity.public_key().algorithm(), algorithm);
        assert!(identity.recipients().is_empty() && !identity.dual_use() && identity.signing_key().is_none());
        for _ in 0..3 {
            signs(&identity).unwrap();
        }
    }
    hsm.pair("ops", PIN, "rsa:2048", "short", "10", SIGNS);
    let short = tokens.identity(&uri(&hsm, "token=ops;object=short"), &right).unwrap_err();
    assert!(short.to_string().contains("2048 bits"), "{short}");
    assert!(matches!(
        tokens.identity(&uri(&hsm, "token=ops;object=key"), &right),
        Err(TokenError::SeveralKeys { there, .. }) if there.len() == 4
    ));
}

#[test]
fn keys_made_on_a_token_stay_there_and_open() {
    let Some(hsm) = SoftHsm::of_this_process("keys_made_on_a_token_stay_there_and_open") else { return };
    hsm.token("ops", PIN);
    let made = [
        ("hybrid", Make::Hybrid, Some(RecipientKind::MlKem768P256Tag)),
        ("classical", Make::Classical, Some(RecipientKind::P256Tag)),
        ("signing", Make::Signing, None),
    ];
    for (label, make, kind) in made {
        let place = uri(&hsm, &format!("token=ops;object={label}"));
        let own = Tokens::default().generate(&place, make, &mut SystemRng, &right).unwrap();
        assert_eq!(own.recipients().first().map(|recipient| recipient.kind()), kind);
        assert!(!own.dual_use() && own.public_key().algorithm() == Algorithm::EcdsaP256);
        let again = Tokens::default().generate(&place, make, &mut SystemRng, &right).unwrap_err();
        assert!(matches!(again, TokenError::Exists { .. }), "{again}");
        let found = Tokens::default().identity(&place, &right).unwrap();
        assert_eq!((found.public_key(), found.recipients()), (own.public_key(), own.recipients()));
        signs(&found).unwrap();
        if kind.is_some() {
            opens(&found);
            let (decrypter, public) = Tokens::default().decrypter(&place, &right).unwrap();
            assert_eq!(decrypter.recipients(), own.recipients());
            assert_ne!(&public, own.public_key(), "one key signs, the other agrees");
        } else {
            let none = Tokens::default().decrypter(&place, &right).err().unwrap();
            assert!(matches!(none, TokenError::NoKey { purpose: "decrypts", .. }), "{none}");
        }
    }
    let shown = hsm.tool("ops", PIN, &["--list-objects", "--type", "privkey"]);
    assert_eq!(shown.matches("never extractable").count(), 5, "{shown}");
    assert_eq!(shown.matches("Usage:      sign\n").count(), 3, "{shown}");
    assert_eq!(shown.matches("Usage:      derive\n").count(), 2, "{shown}");
}

/// Keys of `pkcs11-tool`, one for both uses and one for each.
#[test]
fn keys_of_another_program_serve() {
    let Some(hsm) = SoftHsm::of_this_process("keys_of_another_program_serve") else { return };
    hsm.token("ops", PIN);
    hsm.pair("ops", PIN, "EC:prime256v1", "both", "01", &["--usage-sign", "--usage-derive"]);
    let both = Tokens::default().identity(&uri(&hsm, "token=ops;object=both"), &right).unwrap();
    assert!(both.dual_use());
    signs(&both).unwrap();
    opens(&both);
    hsm.pair("ops", PIN, "EC:secp384r1", "apart", "02", SIGNS);
    hsm.pair("ops", PIN, "EC:prime256v1", "apart", "03", AGREES);
    let apart = Tokens::default().identity(&uri(&hsm, "token=ops;object=apart;type=private"), &right).unwrap();
    assert_eq!(apart.recipients().first().map(|recipient| recipient.kind()), Some(RecipientKind::P256Tag));
    signs(&apart).unwrap();
    opens(&apart);
}

#[test]
fn a_lost_session_is_opened_again_and_an_error_spoils_nothing() {
    let Some(hsm) = SoftHsm::of_this_process("a_lost_session_is_opened_again_and_an_error_spoils_nothing") else {
        return;
    };
    hsm.token("ops", PIN);
    hsm.token("other", "9999");
    hsm.pair("ops", PIN, "EC:prime256v1", "short-lived", "01", SIGNS);
    let (tokens, asked) = (Tokens::default(), Cell::new(0));
    let ask = |_: (&str, &str)| {
        asked.set(asked.get() + 1);
        right(("", ""))
    };
    let own = tokens.generate(&uri(&hsm, "token=ops;object=own"), Make::Hybrid, &mut SystemRng, &ask).unwrap();
    let short_lived = tokens.identity(&uri(&hsm, "token=ops;object=short-lived"), &ask).unwrap();
    let other = |_: (&str, &str)| Ok(SecretBytes::new(b"9999".to_vec()));
    let other = tokens.generate(&uri(&hsm, "token=other;object=own"), Make::Classical, &mut SystemRng, &other).unwrap();
    signs(&short_lived).unwrap();
    // Another program takes the key away.
    hsm.tool("ops", PIN, &["--delete-object", "--type", "privkey", "--id", "01"]);
    let gone = signs(&short_lived).unwrap_err();
    assert!(matches!(holder(&gone), TokenError::KeyGone { .. }), "{gone:?}");
    signs(&own).unwrap();
    opens(&own);
    // The module forgets every session and who logged in, as when a token is plugged in again.
    let context = cryptoki::context::Pkcs11::new(hsm.module()).unwrap();
    context.clone().finalize().unwrap();
    let how = cryptoki::context::CInitializeFlags::OS_LOCKING_OK;
    context.initialize(cryptoki::context::CInitializeArgs::new(how)).unwrap();
    signs(&own).unwrap();
    opens(&own);
    signs(&other).unwrap();
    opens(&other);
    assert_eq!(asked.get(), 1, "a PIN is asked for once for each token");
}

#[test]
fn a_wrong_pin_is_sent_once() {
    let Some(hsm) = SoftHsm::of_this_process("a_wrong_pin_is_sent_once") else { return };
    hsm.token("ops", PIN);
    let (tokens, asked) = (Tokens::default(), Cell::new(0));
    let place = uri(&hsm, "token=ops;object=own");
    let wrong = |_: (&str, &str)| {
        asked.set(asked.get() + 1);
        Ok(SecretBytes::new(b"4321".to_vec()))
    };
    let error = tokens.identity(&place, &wrong).unwrap_err();
    assert!(matches!(error, TokenError::WrongPin { .. }), "{error}");
    for _ in 0..2 {
        let error = tokens.identity(&place, &wrong).unwrap_err();
        assert!(matches!(error, TokenError::NotTriedAgain { .. }), "{error}");
    }
    assert_eq!(asked.get(), 1);
    // Who logged in is a matter of the whole process: a second part of it finds itself logged in.
    let first = Tokens::default();
    first.generate(&place, Make::Signing, &mut SystemRng, &right).unwrap();
    signs(&Tokens::default().identity(&place, &wrong).unwrap()).unwrap();
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let Some(hsm) = SoftHsm::of_this_process("what_is_not_there_is_told_with_what_is") else { return };
    for label in ["ops", "twin", "twin"] {
        hsm.token(label, PIN);
    }
    hsm.pair("ops", PIN, "EC:prime256v1", "alice", "01", SIGNS);
    hsm.pair("ops", PIN, "EC:prime256v1", "bob", "02", SIGNS);
    let nobody = |_: (&str, &str)| panic!("nothing is asked for what is not there");
    let told = |uri: &str, known: bool| {
        let uri: TokenUri = uri.parse().unwrap();
        let error = Tokens::default().identity(&uri, if known { &right } else { &nobody }).unwrap_err();
        assert!(!error.hint().is_empty());
        error.to_string()
    };
    let module = hsm.module();
    for (uri, known, expected) in [
        ("pkcs11:token=ops".to_owned(), false, "which module"),
        ("pkcs11:token=ops?module-name=no-such".to_owned(), false, "\"no-such\""),
        ("pkcs11:token=ops?module-path=/nonexistent.so".to_owned(), false, "/nonexistent.so cannot be used"),
        ("pkcs11:token=ops?module-path=/etc/passwd".to_owned(), false, "/etc/passwd cannot be used"),
        (format!("pkcs11:token=nothing?module-path={module}"), false, "there are: "),
        (format!("pkcs11:token=twin?module-path={module}"), false, "twin (serial "),
        (format!("pkcs11:token=ops;object=carol?module-path={module}"), true, "its keys are: alice, bob"),
        (format!("pkcs11:token=ops?module-path={module}"), true, "alice (id=%01), bob (id=%02)"),
        (format!("pkcs11:token=ops;object=alice?module-path={module}&pin-source=/nonexistent"), false, "/nonexistent"),
    ] {
        let told = told(&uri, known);
        assert!(told.contains(expected) || (told.contains("bob (id=%02), alice (id=%01)") && known), "{uri}: {told}");
    }
    let by_name: TokenUri = "pkcs11:token=ops;object=alice?module-name=softhsm2".parse().unwrap();
    signs(&Tokens::default().identity(&by_name, &right).unwrap()).unwrap();
}
