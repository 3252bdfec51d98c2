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
use bulla_testkit::{skip, tools};
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use std::cell::Cell;
use std::path::Path;
use std::process::Command;

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

/// The key is there, and its token lacks the mechanism: the identity signs, and whoever needs the key to decrypt is told.
#[test]
fn a_token_that_cannot_agree_signs() {
    let Some(hsm) = SoftHsm::of_this_process("a_token_that_cannot_agree_signs") else { return };
    hsm.token("ops", PIN);
    hsm.pair("ops", PIN, "EC:prime256v1", "both", "01", &["--usage-sign", "--usage-derive"]);
    hsm.without("CKM_ECDH1_DERIVE");
    let place = uri(&hsm, "token=ops;object=both");
    let identity = Tokens::default().identity(&place, &right).unwrap();
    assert!(identity.recipients().is_empty() && !identity.dual_use());
    signs(&identity).unwrap();
    let refused = Tokens::default().decrypter(&place, &right).err().unwrap();
    assert!(matches!(refused, TokenError::Mechanism { .. }) && refused.to_string().contains("CKM_ECDH1_DERIVE"));
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

fn refused(hsm: &SoftHsm, path: &str) -> TokenError {
    let error = Tokens::default().identity(&uri(hsm, path), &right).unwrap_err();
    assert!(!error.hint().is_empty());
    error
}

/// The public half of a key, as `pkcs11-tool` takes it.
fn public_file(hsm: &SoftHsm, folder: &Path, path: &str) -> String {
    let identity = Tokens::default().identity(&uri(hsm, path), &right).unwrap();
    let file = folder.join("public.der");
    std::fs::write(&file, identity.public_key().spki()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn keys_of_one_name_are_refused() {
    let Some(hsm) = SoftHsm::of_this_process("keys_of_one_name_are_refused") else { return };
    hsm.token("ops", PIN);
    hsm.pair("ops", PIN, "EC:prime256v1", "twin", "01", SIGNS);
    hsm.pair("ops", PIN, "EC:prime256v1", "twin", "01", AGREES);
    for path in ["token=ops;object=twin", "token=ops;id=%01", "token=ops;object=twin;id=%01"] {
        let error = refused(&hsm, path);
        assert!(matches!(&error, TokenError::Twins { key } if key == "twin (id=%01)"), "{error}");
    }
    // One id under two labels: the label tells them apart, and their public halves.
    for label in ["ann", "ben"] {
        hsm.pair("ops", PIN, "EC:prime256v1", label, "02", SIGNS);
    }
    let error = refused(&hsm, "token=ops;id=%02");
    assert!(matches!(&error, TokenError::SeveralKeys { there, .. } if there.len() == 2), "{error}");
    assert!(error.hint().contains("object="), "{}", error.hint());
    let [ann, ben] = ["ann", "ben"]
        .map(|label| Tokens::default().identity(&uri(&hsm, &format!("token=ops;object={label}")), &right).unwrap());
    assert_ne!(ann.public_key(), ben.public_key());
    for identity in [&ann, &ben] {
        signs(identity).unwrap();
    }
}

/// Whoever writes public objects, for which no PIN is needed, takes nobody's place.
#[test]
fn a_public_key_is_believed_when_the_private_one_proved_it() {
    const NAME: &str = "a_public_key_is_believed_when_the_private_one_proved_it";
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    hsm.token("ops", PIN);
    hsm.pair("ops", PIN, "EC:prime256v1", "other", "09", &["--usage-sign", "--usage-derive"]);
    let other = public_file(&hsm, folder.path(), "token=ops;object=other");
    hsm.pair("ops", PIN, "EC:prime256v1", "signs", "01", SIGNS);
    hsm.pair("ops", PIN, "EC:prime256v1", "both", "02", &["--usage-sign", "--usage-derive"]);
    let put = |label: &str, id: &str| {
        let object = ["--write-object", &other, "--type", "pubkey", "--label", label, "--id", id];
        hsm.tool("ops", PIN, &[&object[..], &["--usage-sign", "--usage-derive"]].concat());
    };
    // Beside the true one, under another label and under the same.
    put("shadow", "01");
    signs(&Tokens::default().identity(&uri(&hsm, "token=ops;object=signs"), &right).unwrap()).unwrap();
    put("signs", "01");
    let error = refused(&hsm, "token=ops;object=signs");
    assert!(matches!(&error, TokenError::SeveralPublicKeys { key } if key == "signs (id=%01)"), "{error}");
    // In its place.
    for id in ["01", "01", "01", "02"] {
        hsm.tool("ops", PIN, &["--delete-object", "--type", "pubkey", "--id", id]);
    }
    put("signs", "01");
    put("both", "02");
    let wrong = Tokens::default().identity(&uri(&hsm, "token=ops;object=signs"), &right).unwrap();
    let error = signs(&wrong).unwrap_err();
    assert!(matches!(holder(&error), TokenError::WrongAnswer { what: "the signature" }), "{error:?}");
    let wrong = Tokens::default().identity(&uri(&hsm, "token=ops;object=both"), &right).unwrap();
    let sealed = envelope::seal(wrong.recipients(), None, b"content").unwrap();
    let error = now(envelope::open(&[&wrong], &sealed, 100)).unwrap_err();
    assert!(error.to_string().contains("the agreed key does not fit the public key"), "{error}");
}

/// A private key that anybody could write is nobody's: not the only one, and not a second one beside the own.
#[test]
fn a_private_key_that_was_put_there_without_the_pin_is_none() {
    const NAME: &str = "a_private_key_that_was_put_there_without_the_pin_is_none";
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    hsm.token("ops", PIN);
    hsm.pair("ops", PIN, "EC:prime256v1", "own", "01", SIGNS);
    hsm.pair("ops", PIN, "EC:prime256v1", "other", "02", AGREES);
    // The module is loaded here first, and nobody is logged in.
    let context = Pkcs11::new(hsm.module()).unwrap();
    let how = cryptoki::context::CInitializeFlags::OS_LOCKING_OK;
    context.initialize(cryptoki::context::CInitializeArgs::new(how)).unwrap();
    let slot = *context.get_slots_with_initialized_token().unwrap().first().unwrap();
    let session = context.open_rw_session(slot).unwrap();
    let plant = |label: &str, id: u8| {
        let template = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Sensitive(false),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(vec![id]),
            Attribute::EcParams(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec()),
            Attribute::Value(vec![7; 32]),
            Attribute::Sign(true),
            Attribute::Derive(true),
        ];
        session.create_object(&template).unwrap();
    };
    plant("own", 1);
    plant("planted", 2);
    drop(session);
    let own = Tokens::default().identity(&uri(&hsm, "token=ops;object=own"), &right).unwrap();
    assert!(own.recipients().is_empty(), "it decrypts with a planted key");
    signs(&own).unwrap();
    let error = refused(&hsm, "token=ops;object=planted");
    assert!(matches!(&error, TokenError::NoKey { there, .. } if there == &["other", "own"]), "{error}");
}

/// As on PIV cards: the public key stands in a certificate and nowhere else.
#[test]
fn a_certificate_tells_the_public_key() {
    const NAME: &str = "a_certificate_tells_the_public_key";
    if tools::find("openssl").is_none() {
        skip!(NAME, "needs openssl");
    }
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let openssl = |args: &[&str]| {
        let done = Command::new("openssl").args(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    // Somebody who issues certificates for others' keys.
    let issuer = path("issuer.pem");
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &issuer]);
    hsm.token("ops", PIN);
    let certify = |uri: &str, name: &str| {
        let (public, pem, certificate) = (public_file(&hsm, folder.path(), uri), path("public.pem"), path(name));
        openssl(&["pkey", "-pubin", "-inform", "DER", "-in", &public, "-out", &pem]);
        let made = ["-new", "-force_pubkey", &pem, "-subj", "/CN=ann", "-key", &issuer, "-outform", "DER"];
        openssl(&[&["x509"], &made[..], &["-out", &certificate]].concat());
        certificate
    };
    let write = |file: &str, id: &str, label: &str| {
        hsm.tool("ops", PIN, &["--write-object", file, "--type", "cert", "--id", id, "--label", label]);
    };
    for (kind, id) in [("EC:edwards25519", "01"), ("EC:prime256v1", "02"), ("EC:secp384r1", "03"), ("rsa:3072", "04")] {
        let usage = if id == "02" { &["--usage-sign", "--usage-derive"][..] } else { SIGNS };
        hsm.pair("ops", PIN, kind, "PIV AUTH key", id, usage);
        let key = format!("token=ops;id=%{id}");
        let certificate = certify(&key, &format!("{id}.der"));
        let told = Tokens::default().identity(&uri(&hsm, &key), &right).unwrap().public_key().clone();
        hsm.tool("ops", PIN, &["--delete-object", "--type", "pubkey", "--id", id]);
        let error = refused(&hsm, &key);
        assert!(matches!(error, TokenError::NoPublicKey { .. }), "{error}");
        write(&certificate, id, "Certificate for PIV Authentication");
        let identity = Tokens::default().identity(&uri(&hsm, &key), &right).unwrap();
        assert_eq!(*identity.public_key(), told);
        signs(&identity).unwrap();
        if id == "02" {
            opens(&identity);
        }
    }
    // One that was renewed says the same; another's beside it is one too many, or is disproved.
    let [second, third] = ["02", "03"].map(|id| path(&format!("{id}.der")));
    write(&second, "02", "renewed");
    signs(&Tokens::default().identity(&uri(&hsm, "token=ops;id=%02"), &right).unwrap()).unwrap();
    write(&third, "02", "another's");
    let error = refused(&hsm, "token=ops;id=%02");
    assert!(matches!(error, TokenError::SeveralPublicKeys { .. }), "{error}");
    for _ in 0..3 {
        hsm.tool("ops", PIN, &["--delete-object", "--type", "cert", "--id", "02"]);
    }
    write(&third, "02", "another's");
    let wrong = Tokens::default().identity(&uri(&hsm, "token=ops;id=%02"), &right).map(|wrong| signs(&wrong));
    assert!(matches!(wrong, Ok(Err(_)) | Err(_)), "a key of another curve was believed");
}

#[test]
fn a_key_that_wants_its_pin_each_time_is_refused_with_the_way_out() {
    const NAME: &str = "a_key_that_wants_its_pin_each_time_is_refused_with_the_way_out";
    let Some(hsm) = SoftHsm::of_this_process(NAME) else { return };
    hsm.token("ops", PIN);
    hsm.pair("ops", PIN, "EC:prime256v1", "card", "01", &["--usage-sign", "--always-auth"]);
    hsm.pair("ops", PIN, "EC:prime256v1", "card", "02", AGREES);
    hsm.pair("ops", PIN, "EC:prime256v1", "card", "03", SIGNS);
    for path in ["token=ops;id=%01", "token=ops;object=card;id=%01"] {
        let error = refused(&hsm, path);
        assert!(matches!(&error, TokenError::AlwaysAuthenticate { key } if key == "card (id=%01)"), "{error}");
        assert!(error.hint().contains("id= in the URI") && error.hint().contains("9c"), "{}", error.hint());
    }
    // Those beside it serve when they are named.
    signs(&Tokens::default().identity(&uri(&hsm, "token=ops;id=%03"), &right).unwrap()).unwrap();
    let (opener, _) = Tokens::default().decrypter(&uri(&hsm, "token=ops;id=%02"), &right).unwrap();
    let sealed = envelope::seal(opener.recipients(), None, b"content").unwrap();
    assert_eq!(now(envelope::open(&[&*opener], &sealed, 100)).unwrap().plaintext.expose(), b"content");
}
