//! What these tests share.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use bulla_crypto::BoxFuture;
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{self, Decrypter, OpenError, Opened};
use bulla_crypto::identity::{Identity, IdentityError, IdentityKind, P256Agreement, TagKey};
use bulla_crypto::kem::{MlKemKey, P256Point};
use bulla_crypto::random::SeededRng;
use bulla_crypto::secret::{Secret, SecretBytes, SecretKey};
use bulla_crypto::sign::RsaMinimum;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// Runs a future that never waits, as those of all software keys.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a software key does not wait"),
    }
}

/// A folder of `spec/vectors`.
pub fn vectors(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors").join(folder)
}

/// Bytes from hex.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    assert!(digits.len().is_multiple_of(2));
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
}

/// A new identity, always the same for the same number.
pub fn identity(kind: IdentityKind, number: u64) -> Identity {
    Identity::generate(kind, &mut SeededRng::from_u64(number)).unwrap()
}

/// Parses an identity that needs no passphrase, with the usual limit for RSA.
pub fn parse(file: &[u8]) -> Result<Identity, IdentityError> {
    Identity::parse(file, RsaMinimum::Bits3072, &|| panic!("nothing is encrypted"))
}

/// As [`parse`], for an encrypted key.
pub fn parse_with(file: &[u8], passphrase: &str) -> Result<Identity, IdentityError> {
    Identity::parse(file, RsaMinimum::Bits3072, &|| Some(SecretBytes::new(passphrase.as_bytes().to_vec())))
}

/// A P-256 key in memory where a token's would be. Counts how often it was asked.
pub struct SoftToken {
    private: PrivateKey,
    public: P256Point,
    asked: AtomicUsize,
    lies: AtomicUsize,
}

impl SoftToken {
    pub fn new(scalar: &[u8]) -> Arc<Self> {
        let private = PrivateKey::from_private_key(&ECDH_P256, scalar).unwrap();
        let public = P256Point::from_uncompressed(private.compute_public_key().unwrap().as_ref()).unwrap();
        Arc::new(Self { private, public, asked: AtomicUsize::new(0), lies: AtomicUsize::new(0) })
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// The next `times` answers are wrong: what is seen of a stanza that has this key's tag and is for another key.
    pub fn lie(&self, times: usize) {
        self.lies.store(times, Ordering::Relaxed);
    }
}

impl P256Agreement for SoftToken {
    fn public_key(&self) -> &P256Point {
        &self.public
    }

    fn agree<'a>(&'a self, peer: &'a P256Point) -> BoxFuture<'a, Result<SecretKey, OpenError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let peer = UnparsedPublicKey::new(&ECDH_P256, peer.uncompressed());
        let refused = OpenError::Key("refused".to_owned());
        let mut agreed = agree(&self.private, peer, refused, |x| Ok(SecretKey::from_slice(x).unwrap()));
        if self.lies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            agreed = agreed.map(|x| SecretKey::filled(|to| to.copy_from_slice(&sha256(&[x.expose()]))));
        }
        Box::pin(std::future::ready(agreed))
    }
}

/// The key of these halves in hex, and its token.
pub fn tag_key(scalar: &str, ml_kem_seed: Option<&str>) -> (Arc<SoftToken>, TagKey) {
    let token = SoftToken::new(&unhex(scalar));
    let ml_kem = ml_kem_seed.map(|seed| MlKemKey::from_seed(&Secret::from_slice(&unhex(seed)).unwrap()).unwrap());
    let agreement: Arc<dyn P256Agreement> = Arc::<SoftToken>::clone(&token);
    (token, TagKey::new(agreement, ml_kem).unwrap())
}

/// Opens in one piece with one identity, at most 64 MiB.
pub fn open(identity: &Identity, file: &[u8]) -> Result<Opened, OpenError> {
    now(envelope::open(&[identity as &dyn Decrypter], file, 64 << 20))
}

/// Runs a program with `input` and gives its standard output; panics with its standard error.
pub fn run(program: &Path, args: &[&str], directory: Option<&Path>, input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that refuses early closes its end; its exit code says the rest.
        drop(stdin.write_all(&input));
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{} {args:?}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The first `name` on `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Says that a test did not run; fails where everything must run.
pub fn skip(test: &str, missing: &str) {
    println!("SKIPPED: {test}: {missing}");
    assert!(std::env::var_os("BULLA_TEST_NO_SKIP").is_none_or(|value| value != "1"), "{test} was skipped: {missing}");
}

/// Makes an SSH key with `ssh-keygen` and gives the private key file's path; `None` without `ssh-keygen`.
pub fn ssh_key(folder: &Path, args: &[&str], passphrase: &str) -> Option<PathBuf> {
    let keygen = on_path("ssh-keygen")?;
    let path = folder.join(format!("key{}", args.concat().replace(['@', '.', '-'], "_")));
    let file = path.to_str().unwrap();
    run(&keygen, &[args, &["-q", "-C", "a comment", "-N", passphrase, "-f", file]].concat(), None, b"");
    Some(path)
}
