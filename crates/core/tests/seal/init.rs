//! Init: what is refused, and what a new cluster holds.

use crate::world::{Admin, Map, NOW_MS, World, init_body, record, record_envelope, try_init};
use bulla_core::record::{Precondition, Table};
use bulla_core::seal::{InitError, SealError, StoredSeal, Transition, diagram, next};
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::kem::{MlKemKey, P256Point};
use bulla_crypto::random::SeededRng;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::Secret;
use bulla_crypto::sign::SigningKey;
use bulla_wire::api::{Init, SealState};
use bulla_wire::evidence::{MinKem, SealMode};

fn admins(n: usize, kind: IdentityKind) -> (Vec<Admin>, SigningKey, SeededRng) {
    let mut rng = SeededRng::from_u64(9);
    let admins = (0..n).map(|i| Admin::new(&format!("admin-{i}"), kind, &mut rng)).collect();
    let node = SigningKey::generate(&mut rng).unwrap();
    (admins, node, rng)
}

fn refusal(body: &Init, signer: &Admin) -> String {
    let (_, node, mut rng) = admins(0, IdentityKind::Hybrid);
    match try_init(body, &signer.identity, &node, &mut rng) {
        Ok(_) => panic!("accepted"),
        Err(InitError::Record { index, cause }) => format!("record {index}: {cause}"),
        Err(InitError::Document(cause)) => format!("document: {cause}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_quorum_must_be_one() {
    let (three, ..) = admins(3, IdentityKind::Hybrid);
    for (mode, k) in [
        (SealMode::Any, 0),
        (SealMode::Any, 2),
        (SealMode::Quorum, 0),
        (SealMode::Quorum, 1),
        (SealMode::Quorum, 4),
        (SealMode::Quorum, 255),
    ] {
        let text = refusal(&init_body(&three, mode, k, MinKem::Hybrid), &three[0]);
        assert!(text.starts_with("document: ") && text.contains('k'), "{mode:?} {k}: {text}");
    }
    let (seventeen, ..) = admins(17, IdentityKind::Classical);
    let text = refusal(&init_body(&seventeen, SealMode::Quorum, 2, MinKem::Classical), &seventeen[0]);
    assert!(text.contains("admins"), "{text}");
    let none = init_body(&[], SealMode::Any, 1, MinKem::Hybrid);
    assert!(refusal(&none, &three[0]).contains("not signed by one of the admins"));
}

#[test]
fn nobody_counts_twice() {
    let (three, ..) = admins(3, IdentityKind::Hybrid);
    let good = init_body(&three, SealMode::Quorum, 2, MinKem::Hybrid);

    let mut twice = good.clone();
    twice.admins.push(twice.admins[0].clone());
    assert!(refusal(&twice, &three[0]).starts_with("document: "));

    let (a, b) = (&three[0].identity, &three[1].identity);
    for record in [
        record_envelope("other", &[(a, b.recipients())]),
        record_envelope("other", &[(b, a.recipients())]),
        record_envelope("admin-0", &[(b, b.recipients())]),
    ] {
        let body = Init { admins: vec![three[0].record.envelope().clone(), record], ..good.clone() };
        assert!(refusal(&body, &three[0]).starts_with("document: "));
    }
}

#[test]
fn records_must_hold_and_the_signer_must_be_among_them() {
    let (three, ..) = admins(3, IdentityKind::Hybrid);
    let mut body = init_body(&three, SealMode::Quorum, 2, MinKem::Hybrid);
    assert!(
        refusal(&init_body(&three[..2], SealMode::Any, 1, MinKem::Hybrid), &three[2]).contains("not signed by one")
    );
    body.admins[1].signatures[0].bytes[0] ^= 1;
    assert!(refusal(&body, &three[0]).starts_with("record 1: "));
}

#[test]
fn weak_recipients_need_leave() {
    let (two, node, mut rng) = admins(2, IdentityKind::Classical);
    let result = try_init(&init_body(&two, SealMode::Any, 1, MinKem::Hybrid), &two[0].identity, &node, &mut rng);
    match result {
        Err(InitError::KemTooWeak { name, recipient }) => {
            assert_eq!((name.as_str(), &recipient), ("admin-0", &two[0].identity.recipients()[0]));
        }
        other => panic!("{:?}", other.err()),
    }
    let made = try_init(&init_body(&two, SealMode::Any, 1, MinKem::Classical), &two[0].identity, &node, &mut rng);
    assert!(made.unwrap().view.genesis().ingress().is_hybrid());
}

/// A record holds hybrid keys of any kind together, in hardware or not; a classical one in hardware is classical.
#[test]
fn keys_in_hardware_count_as_what_they_are() {
    let (mut one, node, mut rng) = admins(1, IdentityKind::Hybrid);
    let point = P256Point::from_compressed(&[[2].as_slice(), &[0; 32]].concat()).unwrap();
    let ml_kem = MlKemKey::from_seed(&Secret::new([5; 64])).unwrap();
    let identity = &one[0].identity;
    let hybrid = [identity.recipients(), &[Recipient::from_ml_kem_p256(&ml_kem, &point).unwrap()]].concat();
    let classical = [Recipient::from_p256(&point).unwrap()];
    let of = |recipients: &[Recipient]| record("admin-0", &[(identity, recipients)]);
    let (hybrid, classical) = (of(&hybrid), of(&classical));
    assert_eq!((hybrid.is_hybrid(), classical.is_hybrid()), (true, false));
    for (record, min_kem, taken) in
        [(&hybrid, MinKem::Hybrid, true), (&classical, MinKem::Hybrid, false), (&classical, MinKem::Classical, true)]
    {
        one[0].record = record.clone();
        let result = try_init(&init_body(&one, SealMode::Any, 1, min_kem), &one[0].identity, &node, &mut rng);
        assert!(if taken { result.is_ok() } else { matches!(result, Err(InitError::KemTooWeak { .. })) });
    }
}

/// An SSH key of RSA may be shorter than what counts as strong elsewhere.
#[test]
fn an_rsa_admin_needs_3072_bits() {
    let (mut one, node, mut rng) = admins(1, IdentityKind::Hybrid);
    for (bits, taken) in [(2048, false), (3072, true), (4096, true)] {
        let recipients = [rsa(bits)];
        one[0].record = record("admin-0", &[(&one[0].identity, &recipients)]);
        let result = try_init(&init_body(&one, SealMode::Any, 1, MinKem::Classical), &one[0].identity, &node, &mut rng);
        assert_eq!(result.is_ok(), taken, "{bits}");
    }
}

/// A line as `ssh-keygen` writes it, with some modulus of that length.
fn rsa(bits: usize) -> Recipient {
    let mut modulus = vec![0xff; bits / 8];
    modulus.insert(0, 0);
    let fields = [b"ssh-rsa".to_vec(), vec![1, 0, 1], modulus];
    let blob: Vec<u8> =
        fields.iter().flat_map(|field| [&(field.len() as u32).to_be_bytes()[..], field].concat()).collect();
    format!("ssh-rsa {}", bulla_wire::encoding::base64(&blob)).parse().unwrap()
}

#[test]
fn a_genesis_that_no_client_would_read_is_not_made() {
    let (_, node, mut rng) = admins(0, IdentityKind::Hybrid);
    let many: Vec<_> = (0..16)
        .map(|i| {
            let identity = Identity::generate(IdentityKind::Hybrid, &mut rng).unwrap();
            let others = [(); 7].map(|()| Identity::generate(IdentityKind::Hybrid, &mut rng).unwrap());
            let own = identity.recipients().iter();
            let recipients: Vec<_> = own.chain(others.iter().flat_map(Identity::recipients)).cloned().collect();
            let record = record(&format!("admin-{i}"), &[(&identity, &recipients)]);
            Admin { identity, record }
        })
        .collect();
    let of = |n: usize, rng: &mut SeededRng| {
        try_init(&init_body(&many[..n], SealMode::Any, 1, MinKem::Hybrid), &many[0].identity, &node, rng)
    };
    assert!(of(4, &mut rng).is_ok());
    assert!(matches!(of(16, &mut rng), Err(InitError::TooLarge { bytes }) if bytes > 192 * 1024));
}

#[test]
fn a_new_cluster_is_sealed_and_complete() {
    let (three, node, mut rng) = admins(3, IdentityKind::Hybrid);
    let body = init_body(&three, SealMode::Quorum, 2, MinKem::Hybrid);
    let made = try_init(&body, &three[1].identity, &node, &mut rng).unwrap();
    assert!(made.batch.preconditions.iter().all(|(_, _, precondition)| *precondition == Precondition::Absent));
    assert_eq!(made.batch.preconditions.len(), made.batch.puts.len(), "nothing is overwritten");
    let mut names: Vec<_> = made.batch.puts.iter().map(|(table, key, _)| (*table, key.as_bytes().to_vec())).collect();
    names.sort();
    let expected = [
        "document/0",
        "head",
        "lineages",
        "seal/config",
        "seal/keyring",
        "seal/share/0",
        "seal/share/1",
        "seal/share/2",
    ];
    assert_eq!(names, expected.map(|name| (Table::Plain, name.as_bytes().to_vec())));
    assert_eq!((made.epoch, made.head.sequence.0, made.head.commit_ms), (1, 1, NOW_MS));
    assert_eq!(made.view.id(), made.cluster);
    assert!(made.keyring.barrier(made.cluster).is_some());
    let ingress = made.keyring.ingress_identities().unwrap();
    assert_eq!(ingress[0].recipients()[0], *made.view.genesis().ingress());

    // A share without all else is no empty store.
    let mut store = Map::default();
    store.put_plain("seal/share/0", vec![2; 40]);
    let parsed = StoredSeal::parse(store.read(&StoredSeal::reads().unwrap()));
    assert!(matches!(parsed, Err(SealError::Row(name)) if name == "seal/config"));

    // A second init finds the first.
    let mut store = Map::default();
    assert!(StoredSeal::parse(store.read(&StoredSeal::reads().unwrap())).unwrap().is_none());
    store.commit(&made.batch).unwrap();
    let second = try_init(&body, &three[0].identity, &node, &mut rng).unwrap();
    assert_ne!(second.cluster, made.cluster);
    let before = store.clone();
    assert!(store.commit(&second.batch).is_err());
    assert_eq!(store, before);
}

#[test]
fn sixteen_admins_fit_every_limit() {
    let mut world = World::new(SealMode::Quorum, 16, 16);
    world.unseal(0..16);
    assert_eq!(world.store.seal().unwrap().config().epoch, 2);
}

#[test]
fn the_states_of_a_node() {
    let drawn = "stateDiagram-v2
    [*] --> Uninitialised
    Uninitialised --> Sealed: Init
    Sealed --> Unsealed: Unseal
    Sealed --> Sealed: Seal
    Unsealed --> Sealed: Seal
";
    assert_eq!(diagram(), drawn);
    let refused = next(SealState::Unsealed, Transition::Init).unwrap_err();
    assert_eq!(refused.to_string(), "cannot be initialised: the node is unsealed");
}
