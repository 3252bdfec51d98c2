//! Both ways with the other age programs. Each test looks for its program and says when it is missing:
//!
//! - `BULLA_TEST_AGE`: age 1.3 or newer, with `age-keygen` beside it; else `age` on `PATH` if it is so new. For keys in
//!   hardware also `age-plugin-tagtest`, which age's sources bring and which holds two fixed keys.
//! - `BULLA_TEST_AGE_DEBIAN`: an older age (Debian 12 has 1.1.1); else `age` on `PATH` if it is so old.
//! - `BULLA_TEST_AGE_NPM`: a folder whose `node_modules` holds `age-encryption`; `node` on `PATH`.

use crate::support::{identity, now, on_path, open, parse, run, skip, ssh_key, tag_key};
use crate::tag::{CLASSICAL, HYBRID};
use bulla_crypto::envelope::{self, Binding, Decrypter as _};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
use std::path::{Path, PathBuf};

const SIZES: [usize; 4] = [0, 12, 65_536, 150_000];

fn text(size: usize) -> Vec<u8> {
    (0..size).map(|place| u8::try_from(place % 253).unwrap()).collect()
}

fn binding() -> Binding {
    Binding {
        wrap: WrapId::new([1; 16]),
        cluster: ClusterId::new([2; 32]),
        from: PrincipalId::new([3; 32]),
        to_sha256: Digest::new([4; 32]),
    }
}

/// An age program: the one that `variable` names, or the one on `PATH` if its version is right.
fn age(variable: &str, modern: bool) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(PathBuf::from(path));
    }
    let path = on_path("age")?;
    let version = String::from_utf8(run(&path, &["--version"], None, b"")).unwrap();
    let version = version.trim().trim_start_matches('v');
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let newer = (numbers.next(), numbers.next()) >= (Some(1), Some(3));
    (newer == modern).then_some(path)
}

/// Ours opened by the program, and the program's opened by us.
fn both_ways(program: &Path, key_file: &Path, own: &Identity) {
    let recipient = own.recipients()[0].as_str();
    let key_file = key_file.to_str().unwrap();
    for size in SIZES {
        let content = text(size);
        let ours = envelope::seal(own.recipients(), Some(&binding()), &content).unwrap();
        assert_eq!(run(program, &["-d", "-i", key_file], None, &ours), content, "{recipient}");
        let theirs = run(program, &["-r", recipient], None, &content);
        assert_eq!(open(own, &theirs).unwrap().plaintext.expose(), &content, "{recipient}");
    }
}

fn keep(folder: &Path, name: &str, own: &Identity) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, own.to_file_text(Some("alice"), Some(r#"{"v":1}"#)).unwrap().expose()).unwrap();
    path
}

fn ssh_keys_both_ways(program: &Path, folder: &Path) {
    for args in [vec!["-t", "ed25519"], vec!["-t", "rsa", "-b", "3072"]] {
        let path = ssh_key(folder, &args, "").unwrap();
        both_ways(program, &path, &parse(&std::fs::read(&path).unwrap()).unwrap());
    }
}

#[test]
fn the_reference_implementation() {
    let Some(program) = age("BULLA_TEST_AGE", true) else {
        return skip("the_reference_implementation", "age 1.3 or newer (BULLA_TEST_AGE)");
    };
    let folder = tempfile::tempdir().unwrap();
    let keygen = program.with_file_name("age-keygen");
    for (kind, name) in [(IdentityKind::Hybrid, "pq"), (IdentityKind::Classical, "classical")] {
        let own = identity(kind, 7);
        let path = keep(folder.path(), name, &own);
        both_ways(&program, &path, &own);
        let derived = run(&keygen, &["-y", path.to_str().unwrap()], None, b"");
        assert_eq!(std::str::from_utf8(&derived).unwrap().trim(), own.recipients()[0].as_str());

        let args: &[&str] = if kind == IdentityKind::Hybrid { &["-pq"] } else { &[] };
        let made = run(&keygen, args, None, b"");
        let own = parse(&made).unwrap();
        let path = folder.path().join(format!("{name}-made"));
        std::fs::write(&path, &made).unwrap();
        both_ways(&program, &path, &own);
    }
    if on_path("ssh-keygen").is_none() {
        return skip("the_reference_implementation (SSH keys)", "ssh-keygen");
    }
    ssh_keys_both_ways(&program, folder.path());
}

/// age's own plugin opens what is sealed to `age1tag1…` and `age1tagpq1…`, and the other way round.
#[test]
fn the_reference_implementation_with_keys_in_hardware() {
    const NAME: &str = "the_reference_implementation_with_keys_in_hardware";
    let plugin = "age-plugin-tagtest";
    let Some(program) = age("BULLA_TEST_AGE", true).filter(|age| age.with_file_name(plugin).is_file()) else {
        return skip(NAME, "age 1.3 or newer with age-plugin-tagtest beside it (BULLA_TEST_AGE)");
    };
    // age looks for its plugins on PATH.
    let mut folders = vec![program.parent().unwrap().to_path_buf()];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let path = format!("PATH={}", std::env::join_paths(folders).unwrap().to_str().unwrap());
    let (env, age) = (on_path("env").unwrap(), program.to_str().unwrap());
    for (scalar, ml_kem_seed) in [CLASSICAL, HYBRID] {
        let (token, own) = tag_key(scalar, ml_kem_seed);
        for size in SIZES {
            let content = text(size);
            let ours = envelope::seal(own.recipients(), Some(&binding()), &content).unwrap();
            assert_eq!(run(&env, &[&path, age, "-d", "-j", "tagtest"], None, &ours), content);
            let theirs = run(&program, &["-r", own.recipient().as_str()], None, &content);
            let opened = now(envelope::open(&[&own], &theirs, 1 << 20)).unwrap();
            assert_eq!(opened.plaintext.expose(), &content);
        }
        assert_eq!(token.asked(), SIZES.len());
    }
}

#[test]
fn an_older_age_with_classical_keys() {
    let Some(program) = age("BULLA_TEST_AGE_DEBIAN", false) else {
        return skip("an_older_age_with_classical_keys", "an age before 1.3 (BULLA_TEST_AGE_DEBIAN)");
    };
    let folder = tempfile::tempdir().unwrap();
    let own = identity(IdentityKind::Classical, 7);
    both_ways(&program, &keep(folder.path(), "classical", &own), &own);
    if on_path("ssh-keygen").is_none() {
        return skip("an_older_age_with_classical_keys (SSH keys)", "ssh-keygen");
    }
    ssh_keys_both_ways(&program, folder.path());
}

#[test]
fn the_typescript_implementation() {
    const SCRIPT: &str = r#"
        import * as age from "age-encryption";
        import { readFileSync, writeFileSync } from "node:fs";
        const [mode, key] = [process.env.BULLA_MODE, process.env.BULLA_KEY];
        const input = new Uint8Array(readFileSync(0));
        const c = mode === "open" ? new age.Decrypter() : new age.Encrypter();
        mode === "open" ? c.addIdentity(key) : c.addRecipient(key);
        writeFileSync(1, mode === "open" ? await c.decrypt(input) : await c.encrypt(input));
    "#;
    let (Some(folder), Some(node)) = (std::env::var_os("BULLA_TEST_AGE_NPM"), on_path("node")) else {
        return skip("the_typescript_implementation", "node and npm's age-encryption (BULLA_TEST_AGE_NPM)");
    };
    let folder = PathBuf::from(folder);
    let env = on_path("env").unwrap();
    let call = |mode: &str, key: &str, input: &[u8]| {
        let (mode, key) = (format!("BULLA_MODE={mode}"), format!("BULLA_KEY={key}"));
        let node = node.to_str().unwrap();
        run(&env, &[&mode, &key, node, "--input-type=module", "-e", SCRIPT], Some(&folder), input)
    };
    for kind in [IdentityKind::Hybrid, IdentityKind::Classical] {
        let own = identity(kind, 7);
        let file = String::from_utf8(own.to_file_text(None, None).unwrap().expose().clone()).unwrap();
        let secret = file.lines().last().unwrap();
        for size in SIZES {
            let content = text(size);
            let ours = envelope::seal(own.recipients(), Some(&binding()), &content).unwrap();
            assert_eq!(call("open", secret, &ours), content);
            let theirs = call("seal", own.recipients()[0].as_str(), &content);
            assert_eq!(open(&own, &theirs).unwrap().plaintext.expose(), &content);
        }
    }
    // It seals to keys in hardware, and has none.
    for (scalar, ml_kem_seed) in [CLASSICAL, HYBRID] {
        let own = tag_key(scalar, ml_kem_seed).1;
        let theirs = call("seal", own.recipient().as_str(), b"text");
        assert_eq!(now(envelope::open(&[&own], &theirs, 100)).unwrap().plaintext.expose(), b"text");
    }
}
