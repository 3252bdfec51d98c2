//! What takes how long must not tell what is secret: Welch's t-test, as dudect makes it, on calls that differ only in
//! what a stranger must not learn. They are judged with `BULLA_TEST_LONG=1` alone, since few calls on a busy
//! machine say little; that a comparison which stops early is noticed, is held always.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use bulla_crypto::digest::equal;
use bulla_crypto::message::verify_request;
use bulla_crypto::random::{Rng, SeededRng, SystemRng, draw};
use bulla_crypto::sign::{PublicKey, SigningKey};
use bulla_wire::id::{KeyId, Nonce};
use bulla_wire::signature::{RequestParameters, RequestParts};
use std::hint::black_box;
use std::time::Instant;

/// Beyond this a difference is no chance any more: one run in a hundred thousand would show it by itself.
const T_MAX: f64 = 4.5;
/// The share of the slowest calls that is thrown away: they tell of the machine's other work.
const CROPPED: f64 = 0.1;

/// How often something is called for each of the two cases; fewer where one call takes longer.
const CALLS: usize = 1_000_000;

/// Welch's t of two samples.
fn welch(left: &[f64], right: &[f64]) -> f64 {
    let moments = |sample: &[f64]| {
        let count = sample.len() as f64;
        let mean = sample.iter().sum::<f64>() / count;
        let variance = sample.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((left, left_error), (right, right_error)) = (moments(left), moments(right));
    (left - right) / (left_error + right_error).sqrt().max(f64::MIN_POSITIVE)
}

/// Leaves out of both samples what is slower than most of all.
fn crop(samples: &mut [Vec<f64>; 2]) {
    let mut all: Vec<f64> = samples.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let limit = all.get(((1.0 - CROPPED) * all.len() as f64) as usize).copied().unwrap_or(f64::MAX);
    samples.iter_mut().for_each(|sample| sample.retain(|value| *value < limit));
}

/// Lays one of two inputs, by chance, in the same place, varies what both have in common, calls, and compares the times of
/// the calls.
fn t_of<T: Clone>(calls: usize, inputs: [&T; 2], vary: impl Fn(&mut T), call: impl Fn(&T)) -> f64 {
    let [left, right] = inputs;
    let mut samples = [Vec::with_capacity(calls), Vec::with_capacity(calls)];
    let mut coins = vec![0; calls.div_ceil(4)];
    SystemRng.fill(&mut coins);
    // One place for both: where something lies has a time of its own.
    let mut place = left.clone();
    for number in 0..calls * 2 {
        let side = usize::from(coins.get(number / 8).is_some_and(|coin| coin >> (number % 8) & 1 == 1));
        place.clone_from(if side == 0 { left } else { right });
        vary(&mut place);
        let began = Instant::now();
        call(black_box(&place));
        let took = began.elapsed().as_nanos() as f64;
        // The first calls fill caches.
        if number > calls / 100
            && let Some(sample) = samples.get_mut(side)
        {
            sample.push(took);
        }
    }
    crop(&mut samples);
    let [left, right] = &samples;
    welch(left, right)
}

#[test]
fn the_test_sees_a_difference_and_none_where_there_is_none() {
    let mut rng = SeededRng::new([7; 32]);
    // Something like a time: a base, noise, and now and then the machine's other work.
    let mut time = |base: f64| {
        let mut bytes = [0; 4];
        rng.fill(&mut bytes);
        let [a, b, c, rare] = bytes.map(f64::from);
        base + a + b + c + if rare > 250.0 { 50_000.0 } else { 0.0 }
    };
    let mut sample = |base: f64| (0..100_000).map(|_| time(base)).collect::<Vec<f64>>();
    let mut same = [sample(1000.0), sample(1000.0)];
    crop(&mut same);
    let [left, right] = &same;
    assert!(welch(left, right).abs() < T_MAX, "{}", welch(left, right));
    // Three in a thousand.
    let mut other = [sample(1000.0), sample(1004.0)];
    crop(&mut other);
    let [left, right] = &other;
    assert!(welch(left, right) < -T_MAX, "{}", welch(left, right));
}

/// A key that is registered, and the parameters of a request that names it.
fn known(key: PublicKey) -> (PublicKey, RequestParameters) {
    let parameters = RequestParameters {
        created_s: 1_800_000_000,
        nonce: Nonce::new(30_000_000, [5; 12]),
        key: key.key_id(),
        algorithm: key.algorithm().name().to_owned(),
    };
    (key, parameters)
}

/// Public keys made by openssl: not those whose work is done for unknown ones.
const P256: &str = "04814fa6a870dbf7944f3fece0b79b7c6d11d9aead61f3df2c3bb00004cd8c1ae8\
    b596d91053741ea1e560cb10bc91d4ce3940da019492159b12fb84fb6a335b18";
const P384: &str = "04b9fb75a8b164dc95d9214397018401a57e338fb9aca10395ab52a497be059248\
    eaf2510c8da7cc7bbbbd4b192efa306d71b92822a69beeaeb99e5442ee67d7102797f6cd49e4de3e14b662c8e55185c6bb0fc4e3fa6460045ab209e9d4762f89";

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn times_tell_nothing() {
    let long = std::env::var_os("BULLA_TEST_LONG").is_some_and(|value| value == "1");
    let calls = if long { CALLS } else { CALLS / 20 };
    let mut told = Vec::new();
    let mut judge = |what: &str, t: f64| {
        println!("t = {t:6.2}  {what}");
        told.push((what.to_owned(), t));
    };
    // A leak that must be seen on this machine, or what follows proves nothing.
    let (mut early, mut late, right) = ([7; 64], [7; 64], [7; 64]);
    (early[0], late[63]) = (1, 1);
    let naive = |bytes: &[u8; 64]| bytes.iter().zip(black_box(&right)).all(|(a, b)| black_box(a) == b);
    let leak = t_of(calls, [&early, &late], |_| {}, |bytes| _ = black_box(naive(bytes)));
    assert!(leak.abs() > 3.0 * T_MAX, "a comparison that stops early was not noticed: t = {leak}");
    let t = t_of(calls, [&early, &late], |_| {}, |bytes| _ = black_box(equal(bytes, black_box(&right))));
    judge("tags, shares, commitments: other at the first byte, or at the last", t);

    let keys = [
        known(SigningKey::generate(&mut SystemRng).unwrap().public_key().clone()),
        known(PublicKey::from_p256_point(&hex(P256)).unwrap()),
        known(PublicKey::from_p384_point(&hex(P384)).unwrap()),
    ];
    let parts = RequestParts {
        method: "POST",
        path: "/v1/wrap/aaaaaaaaaaaaaaaaaaaaaaaaaa:open",
        query: "",
        content_type: "application/json",
        content_digest: "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:",
        audience: "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        challenge: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    };
    for (key, parameters) in &keys {
        let length = if key.key_id() == keys[2].0.key_id() { 96 } else { 64 };
        let mut signature = vec![0; length];
        SystemRng.fill(&mut signature);
        // In range for each algorithm, so that no library ends early on either road.
        for half in signature.chunks_mut(length / 2) {
            if let (Some(first), Some(last)) = (half.first().copied(), half.last().copied()) {
                half[0] = first & 0x0f;
                half[length / 2 - 1] = last & 0x0f;
            }
        }
        let unknown = RequestParameters { key: KeyId::new([9; 32]), ..parameters.clone() };
        // The work depends on the digest of what is signed, which nobody chooses.
        let vary = |parameters: &mut RequestParameters| parameters.nonce = Nonce::new(30_000_000, draw(&mut SystemRng));
        let t = t_of(calls / 10, [parameters, &unknown], vary, |parameters| {
            // As the gate looks it up.
            let found = Some(key).filter(|key| key.key_id() == parameters.key);
            _ = black_box(verify_request(&parts, parameters, &signature, found).is_err());
        });
        judge(&format!("{}: a wrong signature, or a key that nobody knows", parameters.algorithm), t);
    }
    let leaks: Vec<_> = told.iter().filter(|(_, t)| t.abs() > T_MAX).collect();
    // So few calls on a busy machine are a trial of this test, not of what it measures.
    assert!(!long || leaks.is_empty(), "{leaks:?}");
}
