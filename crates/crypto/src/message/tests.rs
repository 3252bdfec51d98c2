//! Signed messages: the appendix vectors of RFC 9421 and what a tamperer would try.

use super::*;
use crate::random::{SeededRng, secret_key};
use crate::sign::RsaMinimum;
use bulla_wire::encoding::{base64_decode, base64url_decode};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

fn key(seed: u64) -> SigningKey {
    SigningKey::generate(&mut SeededRng::from_u64(seed)).unwrap()
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("software waits for nothing"),
    }
}

const REQUEST: RequestParts<'static> = RequestParts {
    method: "POST",
    path: "/v1/wrap/abc:open",
    query: "a=1&b=2",
    content_type: "application/json",
    content_digest: "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    audience: "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    challenge: "challenge",
};
const RESPONSE: ResponseParts<'static> = ResponseParts {
    status: 200,
    content_type: "application/json",
    content_digest: "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    challenge: "next",
    state: "v1;0;-;-;doc=-;alarms=0",
};

fn nonce(bytes: [u8; 16]) -> Nonce {
    let [a, b, c, d, rest @ ..] = bytes;
    Nonce::new(u32::from_be_bytes([a, b, c, d]), rest)
}

fn parsed(headers: &SignatureHeaders) -> (RequestParameters, Vec<u8>) {
    (RequestParameters::parse(&headers.signature_input).unwrap(), parse_signature(&headers.signature).unwrap())
}

#[test]
fn a_request_verifies_and_each_part_counts() {
    let alice = key(1);
    let headers = now(sign_request(&REQUEST, 5, nonce([1; 16]), &alice)).unwrap();
    let (parameters, signature) = parsed(&headers);
    let check = |parts: &RequestParts<'_>| verify_request(parts, &parameters, &signature, Some(alice.public_key()));
    assert_eq!(check(&REQUEST), Ok(()));
    let altered = [
        RequestParts { method: "PUT", ..REQUEST },
        RequestParts { path: "/v1/wrap/abd:open", ..REQUEST },
        RequestParts { query: "a=1", ..REQUEST },
        RequestParts { content_type: "application/age", ..REQUEST },
        RequestParts { content_digest: "sha-256=:AAAA:", ..REQUEST },
        RequestParts { audience: "node:x", ..REQUEST },
        RequestParts { challenge: "challengf", ..REQUEST },
    ];
    for parts in altered {
        assert_eq!(check(&parts), Err(Unauthenticated), "{parts:?}");
    }
    let with =
        |parameters: RequestParameters| verify_request(&REQUEST, &parameters, &signature, Some(alice.public_key()));
    assert!(with(RequestParameters { created_s: 6, ..parameters.clone() }).is_err());
    assert!(with(RequestParameters { nonce: nonce([2; 16]), ..parameters.clone() }).is_err());
    assert!(with(RequestParameters { key: key(2).public_key().key_id(), ..parameters.clone() }).is_err());
    assert!(with(RequestParameters { algorithm: "ecdsa-p256-sha256".into(), ..parameters.clone() }).is_err());
}

#[test]
fn another_key_or_none_is_one_refusal() {
    let headers = now(sign_request(&REQUEST, 5, nonce([1; 16]), &key(1))).unwrap();
    let (parameters, signature) = parsed(&headers);
    for other in [None, Some(key(2).public_key())] {
        assert_eq!(verify_request(&REQUEST, &parameters, &signature, other), Err(Unauthenticated));
    }
    // A registered key under which somebody else signed.
    let forged = now(sign_request(&REQUEST, 5, nonce([1; 16]), &key(2))).unwrap();
    let (_, signature) = parsed(&forged);
    assert_eq!(verify_request(&REQUEST, &parameters, &signature, Some(key(1).public_key())), Err(Unauthenticated));
}

/// Whoever looks keys up by their ids never meets this; but a signature that holds is not enough by itself.
#[test]
fn a_key_signs_under_its_own_name_alone() {
    let bob = key(2);
    let own = bob.public_key();
    let named = RequestParameters {
        created_s: 5,
        nonce: nonce([1; 16]),
        key: own.key_id(),
        algorithm: own.algorithm().name().to_owned(),
    };
    let check = |parameters: &RequestParameters| {
        let signature = bob.sign(parameters.signature_base(&REQUEST).as_bytes()).unwrap();
        verify_request(&REQUEST, parameters, &signature, Some(own))
    };
    assert_eq!(check(&named), Ok(()));
    let other = RequestParameters { key: key(1).public_key().key_id(), ..named.clone() };
    assert_eq!(check(&other), Err(Unauthenticated));
    assert_eq!(check(&RequestParameters { algorithm: "ecdsa-p256-sha256".into(), ..named }), Err(Unauthenticated));
}

/// An unknown key costs what a known one of the same algorithm costs, so there is a stand-in for each.
#[test]
fn an_unknown_key_costs_the_work_of_its_algorithm() {
    let all = [Algorithm::Ed25519, Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::RsaPssSha512];
    let alice = key(1);
    let (parameters, _) = parsed(&now(sign_request(&REQUEST, 5, nonce([1; 16]), &alice)).unwrap());
    for algorithm in all {
        assert_eq!(
            stand_in(algorithm).map(PublicKey::algorithm),
            Some(algorithm).filter(|it| *it != Algorithm::Ed25519)
        );
        let parameters = RequestParameters { algorithm: algorithm.name().into(), ..parameters.clone() };
        for signature in [vec![], vec![1; algorithm.signature_len().unwrap_or(384)], vec![0xff; 1024]] {
            // Unknown, and known as a key of Ed25519.
            for known in [None, Some(alice.public_key())] {
                assert_eq!(verify_request(&REQUEST, &parameters, &signature, known), Err(Unauthenticated));
            }
        }
    }
    spend_verification("no such algorithm", b"", b"");
}

#[derive(serde::Deserialize)]
struct MtlsVectors {
    node_seed: String,
    responses: Vec<MtlsResponse>,
}

#[derive(serde::Deserialize)]
struct MtlsResponse {
    what: String,
    method: String,
    path: String,
    query: String,
    caller: KeyId,
    nonce: Option<String>,
    status: u16,
    content_type: String,
    content_digest: String,
    challenge: String,
    state: String,
    created_s: u64,
    base: String,
    signature_input: String,
    signature: String,
}

/// `spec/vectors/mtls`, made by other code; and caller and nonce count.
#[test]
fn an_answer_over_mtls_is_for_its_caller_only() {
    let text = include_str!("../../../../spec/vectors/mtls/mtls.json");
    let vectors: MtlsVectors = serde_json::from_str(text).unwrap();
    let seed = base64_decode(&vectors.node_seed).unwrap();
    let node = SigningKey::from_seed(&SecretKey::from_slice(&seed).unwrap()).unwrap();
    let look = |id: &KeyId| (*id == node.public_key().key_id()).then(|| node.public_key());
    for it in &vectors.responses {
        let nonce: Option<Nonce> = it.nonce.as_ref().map(|text| text.parse().unwrap());
        let answered = |caller, nonce| Answered::Connection {
            method: &it.method,
            path: &it.path,
            query: &it.query,
            caller,
            nonce,
        };
        let parts = ResponseParts {
            status: it.status,
            content_type: &it.content_type,
            content_digest: &it.content_digest,
            challenge: &it.challenge,
            state: &it.state,
        };
        let own = answered(it.caller, nonce);
        let parameters = ResponseParameters { created_s: it.created_s, node: node.public_key().key_id() };
        assert_eq!(parameters.signature_base(&parts, &own), it.base, "{}", it.what);
        let headers = sign_response(&parts, &own, it.created_s, &node).unwrap();
        assert_eq!(headers.signature_input, it.signature_input, "{}", it.what);
        assert_eq!(headers.signature, it.signature, "{}", it.what);
        assert!(verify_response(&parts, &own, &headers, look).is_ok(), "{}", it.what);
        let others = [
            answered(KeyId::new([1; 32]), nonce),
            answered(it.caller, nonce.is_none().then(|| self::nonce([1; 16]))),
            answered(it.caller, Some(self::nonce([2; 16]))),
            Answered::Open { method: &it.method, path: &it.path, query: &it.query },
        ];
        for other in others {
            assert!(verify_response(&parts, &other, &headers, look).is_err(), "{} for {other:?}", it.what);
        }
    }
    assert_eq!(vectors.responses.len(), 2);
}

#[test]
fn a_response_verifies_for_its_request_only() {
    let (alice, node) = (key(1), key(9));
    let sent = now(sign_request(&REQUEST, 5, nonce([1; 16]), &alice)).unwrap();
    let answered =
        Answered::Signed { request: REQUEST, signature_input: &sent.signature_input, signature: &sent.signature };
    let headers = sign_response(&RESPONSE, &answered, 6, &node).unwrap();
    let look = |id: &KeyId| (*id == node.public_key().key_id()).then(|| node.public_key());
    let verify = |parts: &ResponseParts<'_>, answered: &Answered<'_>| verify_response(parts, answered, &headers, look);
    assert_eq!(verify(&RESPONSE, &answered).unwrap().created_s, 6);
    let bad = Err(ResponseError::BadSignature(node.public_key().key_id()));
    for parts in [
        ResponseParts { status: 201, ..RESPONSE },
        ResponseParts { content_type: "application/age", ..RESPONSE },
        ResponseParts { content_digest: "x", ..RESPONSE },
        ResponseParts { challenge: "x", ..RESPONSE },
        ResponseParts { state: "x", ..RESPONSE },
    ] {
        assert_eq!(verify(&parts, &answered), bad, "{parts:?}");
    }
    let other = now(sign_request(&REQUEST, 6, nonce([1; 16]), &alice)).unwrap();
    for (request, input, signature) in [
        (RequestParts { method: "GET", ..REQUEST }, &sent.signature_input, &sent.signature),
        (RequestParts { path: "/", ..REQUEST }, &sent.signature_input, &sent.signature),
        (RequestParts { query: "", ..REQUEST }, &sent.signature_input, &sent.signature),
        (RequestParts { content_digest: "x", ..REQUEST }, &sent.signature_input, &sent.signature),
        (REQUEST, &other.signature_input, &sent.signature),
        (REQUEST, &sent.signature_input, &other.signature),
    ] {
        assert_eq!(verify(&RESPONSE, &Answered::Signed { request, signature_input: input, signature }), bad);
    }
    // The open profile is another line, and no node's key is another error.
    let open = Answered::Open { method: REQUEST.method, path: REQUEST.path, query: REQUEST.query };
    assert!(matches!(verify(&RESPONSE, &open), Err(ResponseError::Template(_))));
    let nobody = verify_response(&RESPONSE, &answered, &headers, |_| None);
    assert_eq!(nobody, Err(ResponseError::UnknownNode(node.public_key().key_id())));
    let wrong_look = verify_response(&RESPONSE, &answered, &headers, |_| Some(alice.public_key()));
    assert!(matches!(wrong_look, Err(ResponseError::UnknownNode(_))));
    let open_headers = sign_response(&RESPONSE, &open, 6, &node).unwrap();
    assert!(verify_response(&RESPONSE, &open, &open_headers, look).is_ok());
    let elsewhere = Answered::Open { method: "GET", path: REQUEST.path, query: REQUEST.query };
    assert_eq!(verify_response(&RESPONSE, &elsewhere, &open_headers, look), bad);
}

#[test]
fn challenges() {
    let audience = Audience::Cluster(ClusterId::new([1; 32]));
    let make = || ChallengeKey::of_epoch(secret_key(&mut SeededRng::from_u64(1)), 0x1_0002);
    let key = make();
    assert_eq!(key.key_epoch(), 2);
    // Just before a full hour, so that the check happens in the next one.
    let issued = 1_800_000_000_000 - 1;
    let node = KeyId::new([7; 32]);
    let challenge = key.issue(&audience, issued, &node, &mut SeededRng::from_u64(2));
    assert_eq!(challenge, make().issue(&audience, issued, &node, &mut SeededRng::from_u64(2)));
    assert_eq!(challenge.issued_ms(), issued);
    let check = |now_ms| key.check(&challenge, &audience, now_ms);
    assert_eq!(check(issued), Ok(()));
    assert_eq!(check(issued + LIFETIME_MS), Ok(()));
    assert_eq!(check(issued + LIFETIME_MS + 1), Err(ChallengeError::Old));
    assert_eq!(check(issued - FUTURE_SKEW_MS), Ok(()));
    assert_eq!(check(issued - FUTURE_SKEW_MS - 1), Err(ChallengeError::Future));
    let elsewhere = Audience::Node(KeyId::new([1; 32]));
    assert_eq!(key.check(&challenge, &elsewhere, issued), Err(ChallengeError::Forged));
    let other = ChallengeKey::of_epoch(secret_key(&mut SeededRng::from_u64(3)), 2);
    assert_eq!(other.check(&challenge, &audience, issued), Err(ChallengeError::Forged));
    let process = ChallengeKey::of_process(secret_key(&mut SeededRng::from_u64(1)));
    assert_eq!(process.check(&challenge, &audience, issued), Err(ChallengeError::OtherEpoch));
    // Every covered byte and every tag byte counts.
    let (covered, tag) = challenge.parts();
    for place in 11..covered.len() {
        let mut bent = covered;
        bent[place] ^= 1;
        assert_eq!(key.check(&Challenge::new(bent, tag), &audience, issued), Err(ChallengeError::Forged));
    }
    for place in 0..tag.len() {
        let mut bent = tag;
        bent[place] ^= 1;
        assert_eq!(key.check(&Challenge::new(covered, bent), &audience, issued), Err(ChallengeError::Forged));
    }
}

/// The tag by `spec/request.md`, "Challenges".
#[test]
fn a_challenges_tag_is_made_by_the_key_of_its_hour() {
    let audience = Audience::Cluster(ClusterId::new([1; 32]));
    let secret = secret_key(&mut SeededRng::from_u64(1));
    let derived = kdf::derive(secret.expose(), "challenge", &[&500_000_u64.to_be_bytes()]);
    let key = ChallengeKey::of_epoch(secret, 1);
    let issued_ms = 500_000 * 3_600_000 + 1_234_567;
    let challenge = key.issue(&audience, issued_ms, &KeyId::new([7; 32]), &mut SeededRng::from_u64(2));
    let (covered, tag) = challenge.parts();
    let full = hmac_sha256(derived.expose(), &[b"bulla/v1/challenge", audience.to_string().as_bytes(), &covered]);
    assert_eq!(tag, full[..16]);
}

#[test]
fn derived_values() {
    assert_eq!(digest_header(b""), REQUEST.content_digest);
    let digest = request_digest(&REQUEST);
    assert_eq!(digest, request_digest(&RequestParts { audience: "other", challenge: "other", ..REQUEST }));
    for other in [
        RequestParts { method: "PUT", ..REQUEST },
        RequestParts { path: "/", ..REQUEST },
        RequestParts { query: "", ..REQUEST },
        RequestParts { content_type: "x", ..REQUEST },
        RequestParts { content_digest: "x", ..REQUEST },
        // A boundary that moves must not give the same bytes.
        RequestParts { method: "POST/", path: "v1/wrap/abc:open", ..REQUEST },
    ] {
        assert_ne!(request_digest(&other), digest, "{other:?}");
    }
    let seen = seen_key(&KeyId::new([1; 32]), &nonce([1; 16]));
    assert_eq!(*seen.as_bytes(), sha256(&[b"bulla/v1/seen", &[1; 32], &[1; 16]]));
}

#[test]
fn ingress_lines() {
    let line = ingress_line(&ClusterId::new([1; 32]), &KeyId::new([2; 32]), "PUT", "/v1/kv/a", "", &nonce([1; 16]));
    assert_eq!(
        line,
        "bulla-ingress-v1 sha256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE \
         sha256:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI PUT /v1/kv/a? AQEBAQEBAQEBAQEBAQEBAQ\n"
    );
    let plaintext = format!("{line}{{}}");
    assert_eq!(after_ingress_line(plaintext.as_bytes(), &line), Ok(&b"{}"[..]));
    let other = ingress_line(&ClusterId::new([1; 32]), &KeyId::new([3; 32]), "PUT", "/v1/kv/a", "", &nonce([1; 16]));
    assert_eq!(after_ingress_line(plaintext.as_bytes(), &other), Err(IngressMismatch));
}

/// RFC 9421 appendix B.2: the published bases and signatures hold under the published keys of B.1. Left out: B.2.5, an
/// HMAC, which no key of ours makes; B.3, a proxy's headers about TLS clients, which are never believed; B.4, what
/// proxies may change, which one exact template forbids. B.1.1 is for RSA PKCS #1 v1.5, with which nothing is signed.
#[test]
fn rfc_9421_appendix_b() {
    let url = |text: &str| base64url_decode(text).unwrap();
    let ed25519: [u8; 32] = url("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs").try_into().unwrap();
    let ed25519 = PublicKey::from_ed25519(&ed25519).unwrap();
    let point = [
        vec![4],
        url("qIVYZVLCrPZHGHjP17CTW0_-D9Lfw0EkjqF7xB4FivA"),
        url("Mc4nN9LTDOBhfoUeg8Ye9WedFRhnZXZJA12Qp0zZ6F0"),
    ]
    .concat();
    let p256 = PublicKey::from_p256_point(&point).unwrap();
    let modulus = url(concat!(
        "r4tmm3r20Wd_PbqvP1s2-QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct-Lh1GH45x28Rw3Ry53mm-oAXjyQ86OnDkZ5N8lYbggD4O3w6M",
        "6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHqgDsznjPFmTOtCEcN2Z1FpWgchwuYLPL-Wokqltd11nqqzi-bJ9cvSKADYdUAAN5WUtzdpiy6LbTg",
        "SxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4aOT9v6d-nb4bnNkQVklLQ3fVAvJm-xdDOp9LCNCN48V2pnDOkFV6-U9nV5oy",
        "c6XI2w",
    ));
    let rsa = PublicKey::from_rsa(&modulus, &[1, 0, 1], RsaMinimum::Bits2048).unwrap();
    let b21 = r#""@signature-params": ();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd""#;
    let b22 = r#""@authority": example.com
"content-digest": sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
"@query-param";name="Pet": dog
"@signature-params": ("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example""#;
    let b23 = r#""date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@query": ?param=Value&Pet=dog
"@authority": example.com
"content-type": application/json
"content-digest": sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss""#;
    let b24 = r#""@status": 200
"content-type": application/json
"content-digest": sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:
"content-length": 23
"@signature-params": ("@status" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-ecc-p256""#;
    let b26 = r#""date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@authority": example.com
"content-type": application/json
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#;
    for (key, base, signature) in [
        (
            &rsa,
            b21,
            "d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==",
        ),
        (
            &rsa,
            b22,
            "LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==",
        ),
        (
            &rsa,
            b23,
            "bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==",
        ),
        (&p256, b24, "wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw=="),
        (&ed25519, b26, "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="),
    ] {
        let signature = base64_decode(signature).unwrap();
        assert_eq!(key.verify(base.as_bytes(), &signature), Ok(()), "{base}");
        assert!(key.verify(base.replace("1618884473", "1618884474").as_bytes(), &signature).is_err());
    }
}

/// RFC 9421 §2.5 for any list of components: reads the inner list and looks each component up. Written
/// from the RFC's text and not from the templates that it is compared with.
fn generic_base(member: &str, values: &BTreeMap<&str, String>) -> String {
    let (list, _) = member.strip_prefix('(').unwrap().split_once(')').unwrap();
    let mut lines = Vec::new();
    for component in list.split(' ').filter(|component| !component.is_empty()) {
        let value = values.get(component).unwrap_or_else(|| panic!("no value for {component}"));
        lines.push(format!("{component}: {value}"));
    }
    lines.push(format!("\"@signature-params\": {member}"));
    lines.join("\n")
}

fn member(header: &str) -> &str {
    header.strip_prefix("bulla=").unwrap()
}

proptest! {
    #[test]
    fn our_bases_are_those_of_the_rfc(
        method in "GET|PUT|POST|DELETE", path in "/[a-z0-9/:._~@+=-]{0,40}", query in "[a-z]{0,3}=?[a-z0-9/:]{0,20}",
        media in "[a-z/+.-]{1,30}", body in any::<Vec<u8>>(), audience in any::<[u8; 32]>(), node in any::<[u8; 32]>(),
        nonce in any::<[u8; 16]>(), created_s in any::<u64>(), status in 200_u16..600, state in "[a-z0-9;=-]{1,60}",
    ) {
        let content_digest = digest_header(&body);
        let audience = Audience::Cluster(ClusterId::new(audience)).to_string();
        let parts = RequestParts {
            method: &method, path: &path, query: &query, content_type: &media, content_digest: &content_digest,
            audience: &audience, challenge: "c",
        };
        let parameters = RequestParameters {
            created_s, nonce: self::nonce(nonce), key: KeyId::new(node), algorithm: "ed25519".into(),
        };
        let mut values = BTreeMap::from([
            ("\"@method\"", method.clone()), ("\"@path\"", path.clone()), ("\"@query\"", format!("?{query}")),
            ("\"content-type\"", media.clone()), ("\"content-digest\"", content_digest.clone()),
            ("\"bulla-audience\"", audience.clone()), ("\"bulla-challenge\"", "c".to_owned()),
        ]);
        let input = parameters.header();
        prop_assert_eq!(parameters.signature_base(&parts), generic_base(member(&input), &values));

        let signature_header = signature(&[7; 64]);
        let response = ResponseParts {
            status, content_type: &media, content_digest: &content_digest, challenge: "d", state: &state,
        };
        values.extend([
            ("\"@status\"", status.to_string()), ("\"bulla-state\"", state.clone()),
            ("\"@method\";req", method.clone()), ("\"@path\";req", path.clone()), ("\"@query\";req", format!("?{query}")),
            ("\"content-digest\";req", content_digest.clone()),
            ("\"signature-input\";req;key=\"bulla\"", member(&input).to_owned()),
            ("\"signature\";req;key=\"bulla\"", member(&signature_header).to_owned()),
        ]);
        values.insert("\"bulla-challenge\"", "d".to_owned());
        let caller = KeyId::new([5; 32]);
        values.insert("\"bulla-caller\"", caller.to_string());
        values.insert("\"bulla-nonce\";req", self::nonce(nonce).to_string());
        let of_node = ResponseParameters { created_s, node: KeyId::new(node) };
        for answered in [
            Answered::Signed { request: parts, signature_input: &input, signature: &signature_header },
            Answered::Connection { method: &method, path: &path, query: &query, caller, nonce: None },
            Answered::Connection { method: &method, path: &path, query: &query, caller, nonce: Some(self::nonce(nonce)) },
            Answered::Open { method: &method, path: &path, query: &query },
        ] {
            let header = of_node.header(&answered);
            prop_assert_eq!(of_node.signature_base(&response, &answered), generic_base(member(&header), &values));
        }
    }
}

/// The work is done, not only promised: a refusal that costs nothing would tell who is not registered. Half of it is
/// enough to be seen, and of many calls the quickest is not disturbed by the machine's other work.
#[test]
fn a_refusal_of_an_unknown_key_takes_time() {
    use std::time::{Duration, Instant};
    let alice = key(1);
    let quickest = |call: &dyn Fn()| -> Duration {
        let time = |_| {
            let began = Instant::now();
            call();
            began.elapsed()
        };
        (0..64).map(time).min().unwrap()
    };
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::RsaPssSha512] {
        let own = stand_in(algorithm).unwrap_or(alice.public_key());
        let parameters = RequestParameters {
            created_s: 5,
            nonce: nonce([1; 16]),
            key: own.key_id(),
            algorithm: algorithm.name().to_owned(),
        };
        // In range for each algorithm, so that no library ends early.
        let signature = vec![1; algorithm.signature_len().unwrap_or(384)];
        let refused = |known: Option<&PublicKey>| {
            assert_eq!(verify_request(&REQUEST, &parameters, &signature, known), Err(Unauthenticated));
        };
        let (known, unknown) = (quickest(&|| refused(Some(own))), quickest(&|| refused(None)));
        assert!(unknown > known / 2, "{algorithm}: {unknown:?}, and {known:?} for a known key");
    }
}

#[test]
fn a_refusal_says_nothing_of_keys() {
    assert_eq!(Unauthenticated.to_string(), "the key is not known, or the signature is not its own");
    assert_eq!(IngressMismatch.to_string(), "the encrypted body was made for another signer or request");
}
