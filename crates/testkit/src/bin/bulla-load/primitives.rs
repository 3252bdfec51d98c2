//! What the cryptography of a request costs by itself, measured on the core of the load in the same run.

use crate::Fault;
use crate::installation::VALUE_BYTES;
use crate::work::Work;
use bulla_client::crypto::digest::hmac_sha256;
use bulla_client::crypto::identity::{Identity, IdentityKind};
use bulla_client::crypto::random::{SystemRng, secret_key};
use bulla_client::crypto::transit::{self, Place, Signed, TransitKey};
use bulla_client::crypto::{dsse, envelope, sealed};
use bulla_client::wire::api::KeyKind;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Bytes of a request's signature base, about.
const BASE_BYTES: usize = 700;
/// Bytes of a receipt's payload, about.
const RECEIPT_BYTES: usize = 900;
/// Bytes of a record in the store that is neither content nor statement, about.
const RECORD_BYTES: usize = 512;
/// How long each primitive is measured. The median of the batches is taken.
const LENGTH: Duration = Duration::from_millis(300);
/// Calls in a batch: enough that reading the clock costs nothing.
const BATCH: u32 = 16;
/// The type of the statement that is signed here, which nobody verifies.
const TYPE: &str = "application/vnd.bulla.bench";

/// Microseconds of one call.
#[derive(Debug, Clone, Copy)]
pub struct Primitives {
    /// Ed25519 verification of a request.
    pub verify: f64,
    /// Ed25519 signature of an answer.
    pub sign: f64,
    /// Verification of a DSSE envelope.
    pub dsse_verify: f64,
    /// Signature of a DSSE envelope.
    pub dsse_sign: f64,
    /// An age file to one hybrid recipient.
    pub age_seal: f64,
    /// The same, opened.
    pub age_open: f64,
    /// A record sealed under the barrier.
    pub barrier_seal: f64,
    /// A record opened.
    pub barrier_open: f64,
    /// HMAC-SHA-256 of a challenge.
    pub hmac: f64,
    /// Content encrypted under a transit key.
    pub transit_encrypt: f64,
    /// The same, decrypted.
    pub transit_decrypt: f64,
    /// Content signed by a transit key.
    pub transit_sign: f64,
}

/// How often an operation calls each on the server, read from its code. Left out: TLS records, the digests of bodies
/// and audit lines, and the HMACs that hide the names of records.
struct Calls {
    /// Signed requests: each is verified, its challenge checked, its answer signed, the next challenge made.
    requests: u32,
    dsse_verify: u32,
    dsse_sign: u32,
    age_seal: u32,
    age_open: u32,
    barrier_seal: u32,
    barrier_open: u32,
    transit_encrypt: u32,
    transit_decrypt: u32,
    transit_sign: u32,
}

/// Names in a page of a listing, each in a record.
const LISTED: u32 = 100;
/// Items of a request for many.
const MANY: u32 = 100;

const NOTHING: Calls = Calls {
    requests: 1,
    dsse_verify: 0,
    dsse_sign: 0,
    age_seal: 0,
    age_open: 0,
    barrier_seal: 0,
    barrier_open: 0,
    transit_encrypt: 0,
    transit_decrypt: 0,
    transit_sign: 0,
};

/// Statement verified, receipt signed; head, content, count, slot, two parties' entries, two due entries, nonce.
const CREATE: Calls = Calls { dsse_verify: 1, dsse_sign: 1, barrier_seal: 9, ..NOTHING };
/// Inspect (head, slot), open (head, slot, content read; slot, receipt, due entry, nonce written; receipt signed;
/// age file to the claim), ack (head, slot, count read; slot, receipt, nonce written; receipt signed).
const OPEN: Calls = Calls { requests: 3, dsse_sign: 2, age_seal: 1, barrier_seal: 7, barrier_open: 8, ..NOTHING };

impl Calls {
    /// None where most of the work is not cryptography that we call.
    fn of(work: Work) -> Option<Self> {
        // Of a transit key its settings and one version are read; what comes in is encrypted, or what goes out.
        let encrypt = |items| Self { age_open: 1, barrier_open: 2, transit_encrypt: items, ..NOTHING };
        let decrypt = |items| Self { age_seal: 1, barrier_open: 2, transit_decrypt: items, ..NOTHING };
        let sign = |items| Self { age_open: 1, barrier_open: 2, transit_sign: items, ..NOTHING };
        Some(match work {
            Work::Whoami => NOTHING,
            Work::KvGet => Self { age_seal: 1, barrier_open: 2, ..NOTHING },
            Work::KvPut => Self { age_open: 1, barrier_seal: 3, barrier_open: 1, ..NOTHING },
            Work::Create => CREATE,
            Work::Open => OPEN,
            Work::Cycle => Self {
                requests: CREATE.requests + OPEN.requests,
                dsse_verify: CREATE.dsse_verify + OPEN.dsse_verify,
                dsse_sign: CREATE.dsse_sign + OPEN.dsse_sign,
                age_seal: CREATE.age_seal + OPEN.age_seal,
                age_open: CREATE.age_open + OPEN.age_open,
                barrier_seal: CREATE.barrier_seal + OPEN.barrier_seal,
                barrier_open: CREATE.barrier_open + OPEN.barrier_open,
                ..NOTHING
            },
            // Two open routes before the secret: their answers and challenges are signed; the handshake is not counted.
            Work::Cold => Self { age_seal: 1, barrier_open: 2, dsse_sign: 2, ..NOTHING },
            Work::KvList => Self { barrier_open: LISTED, ..NOTHING },
            Work::Encrypt => encrypt(1),
            Work::EncryptMany => encrypt(MANY),
            Work::Decrypt => decrypt(1),
            Work::DecryptMany => decrypt(MANY),
            Work::Sign => sign(1),
            Work::SignMany => sign(MANY),
            Work::Issue | Work::Renew | Work::Revoke => return None,
        })
    }
}

impl Primitives {
    /// Measures all of them.
    pub async fn measure() -> Result<Self, Fault> {
        let identity = Identity::generate(IdentityKind::Hybrid, &mut SystemRng)?;
        let key = identity.signing_key().ok_or("a key in memory")?;
        let (base, record) = (vec![7; BASE_BYTES], vec![7; RECORD_BYTES]);
        let signature = key.sign(&base)?;
        let receipt = dsse::sign_in_memory(TYPE, vec![7; RECEIPT_BYTES], &[key])?;
        let file = envelope::seal(identity.recipients(), None, &[7; VALUE_BYTES])?;
        let secret = secret_key(&mut SystemRng);
        let blob = sealed::seal(&secret, b"place", &record, &mut SystemRng);
        let (cipher, signer) = (transit_key(KeyKind::Aes256Gcm)?, transit_key(KeyKind::Ed25519)?);
        let (place, content) = (Place { name: "bench", version: 1 }, [7; VALUE_BYTES]);
        let ciphertext = cipher.encrypt(place, b"", &content, &mut SystemRng)?;
        Ok(Self {
            verify: time(|| key.public_key().verify(&base, &signature).is_ok()),
            sign: time(|| key.sign(&base).is_ok()),
            dsse_verify: time(|| dsse::verify(&receipt, TYPE, &[key.public_key()]).is_ok()),
            dsse_sign: time(|| dsse::sign_in_memory(TYPE, vec![7; RECEIPT_BYTES], &[key]).is_ok()),
            age_seal: time(|| envelope::seal(identity.recipients(), None, &[7; VALUE_BYTES]).is_ok()),
            age_open: age_open(&identity, &file).await?,
            barrier_seal: time(|| !sealed::seal(&secret, b"place", &record, &mut SystemRng).is_empty()),
            barrier_open: time(|| sealed::open(&secret, b"place", &blob).is_ok()),
            hmac: time(|| hmac_sha256(secret.expose(), &[&[7; 128]]) != [0; 32]),
            transit_encrypt: time(|| cipher.encrypt(place, b"", &content, &mut SystemRng).is_ok()),
            transit_decrypt: time(|| cipher.decrypt(place, b"", &ciphertext).is_ok()),
            transit_sign: time(|| signer.sign(Signed::Message(&content), None).is_ok()),
        })
    }

    /// Microseconds of cryptography that the server spends on an operation, where it can be told.
    pub fn of(&self, work: Work) -> Option<f64> {
        let calls = Calls::of(work)?;
        let each = [
            (calls.requests, self.verify + self.sign + 2.0 * self.hmac),
            (calls.dsse_verify, self.dsse_verify),
            (calls.dsse_sign, self.dsse_sign),
            (calls.age_seal, self.age_seal),
            (calls.age_open, self.age_open),
            (calls.barrier_seal, self.barrier_seal),
            (calls.barrier_open, self.barrier_open),
            (calls.transit_encrypt, self.transit_encrypt),
            (calls.transit_decrypt, self.transit_decrypt),
            (calls.transit_sign, self.transit_sign),
        ];
        Some(each.into_iter().map(|(times, us)| f64::from(times) * us).sum())
    }

    /// Each with its name.
    pub fn all(&self) -> [(&'static str, f64); 12] {
        [
            ("Ed25519 verify, 700 bytes", self.verify),
            ("Ed25519 sign, 700 bytes", self.sign),
            ("DSSE verify, 900 bytes", self.dsse_verify),
            ("DSSE sign, 900 bytes", self.dsse_sign),
            ("age file to one hybrid recipient, 1 KiB", self.age_seal),
            ("the same opened", self.age_open),
            ("barrier record sealed, 512 bytes", self.barrier_seal),
            ("barrier record opened, 512 bytes", self.barrier_open),
            ("HMAC-SHA-256, 128 bytes", self.hmac),
            ("transit encrypt, 1 KiB", self.transit_encrypt),
            ("transit decrypt, 1 KiB", self.transit_decrypt),
            ("transit sign by Ed25519, 1 KiB", self.transit_sign),
        ]
    }
}

/// The operations whose cryptography is told, with the formula in words.
pub const FORMULA: &str = "requests × (verify + sign + 2 HMAC) + DSSE + age + barrier records, with these numbers of calls: \
    whoami 1 request; kv get 1 request, 1 age file, 1 record opened; kv put 1 request, 1 age file opened, 2 records \
    sealed, 2 opened; wrap create 1 request, 1 DSSE verified, 1 signed, 9 records sealed; open + ack 3 requests, \
    2 DSSE signed, 1 age file, 7 records sealed, 8 opened; cycle the sum of both; cold client as kv get and 2 open \
    answers signed, without the TLS handshake; kv list 1 request, a record opened for each name; transit 1 request, 2 \
    records opened, 1 age file, and the items themselves, without the age file's growth with them.";

/// Microseconds of a call: the median of batches.
fn time(mut call: impl FnMut() -> bool) -> f64 {
    let mut batches = Vec::new();
    let began = Instant::now();
    while began.elapsed() < LENGTH {
        let batch = Instant::now();
        for _ in 0..BATCH {
            assert!(black_box(call()), "a primitive failed");
        }
        batches.push(batch.elapsed() / BATCH);
    }
    median(batches)
}

/// As [`time`], for the one primitive that may wait for a token elsewhere.
async fn age_open(identity: &Identity, file: &[u8]) -> Result<f64, Fault> {
    let mut batches = Vec::new();
    let began = Instant::now();
    while began.elapsed() < LENGTH {
        let batch = Instant::now();
        for _ in 0..BATCH {
            black_box(envelope::open(&[identity], file, VALUE_BYTES).await?);
        }
        batches.push(batch.elapsed() / BATCH);
    }
    Ok(median(batches))
}

fn transit_key(kind: KeyKind) -> Result<TransitKey, Fault> {
    Ok(TransitKey::parse(kind, transit::generate(kind, &mut SystemRng)?.expose())?)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}
