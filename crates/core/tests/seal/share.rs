//! Shares: which of them open the seal, and who is named when one is bad.

use crate::world::{NOW_MS, World, subsets};
use bulla_core::seal::{
    FILE_BYTES_MAX, Give, GiveOutcome, SESSION_MS, SESSIONS_MAX, Session, SessionError, Sessions, ShareFault, open, row,
};
use bulla_crypto::envelope;
use bulla_crypto::identity::{Identity, IdentityKind};
use bulla_crypto::kdf;
use bulla_crypto::random::secret_key;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::sealed;
use bulla_crypto::shamir::{self, Share};
use bulla_wire::evidence::SealMode;
use bulla_wire::id::PrincipalId;

fn check_quorum(k: u8, n: usize) {
    let mut world = World::new(SealMode::Quorum, k, n);
    let keyring_row = world.store.plain("seal/keyring");
    for subset in subsets(n, usize::from(k)) {
        let (session, root) = world.root(subset.clone());
        let opened = open(&root.unwrap(), session.stored()).unwrap();
        assert_eq!(opened.config().epoch, 1, "{subset:?}");
    }
    for subset in subsets(n, usize::from(k) - 1) {
        let (session, root) = world.root(subset.clone());
        assert!(root.is_none() && session.root_key().is_none(), "{subset:?}");
        assert_eq!((session.progress().have, session.progress().need), (k - 1, k));
    }
    assert_eq!(world.store.plain("seal/keyring"), keyring_row, "looking changes nothing");
}

#[test]
fn any_k_of_n_open_and_fewer_do_not() {
    for n in 2..=8 {
        for k in 2..=n {
            check_quorum(u8::try_from(k).unwrap(), n);
        }
    }
}

/// The counter is not what protects: admins who also hold a copy of the store combine what they have by themselves.
#[test]
fn k_minus_1_admins_with_the_store_have_nothing() {
    for n in 3..=8 {
        for k in 3..=n {
            let mut world = World::new(SealMode::Quorum, u8::try_from(k).unwrap(), n);
            let session = world.session();
            let shares: Vec<_> = (0..n).map(|admin| share_from_store(&world, &session, admin)).collect();
            let gives = |subset: Vec<usize>| {
                let key = shamir::combine(subset.iter().map(|i| &shares[*i])).unwrap();
                let config = session.stored().config();
                let fields: [&[u8]; 2] = [config.cluster.as_bytes(), &config.epoch.to_be_bytes()];
                kdf::derive(key.expose(), "seal/kcv", &fields).expose().as_slice() == config.kcv.0
            };
            assert!(subsets(n, k).all(gives));
            assert!(!subsets(n, k - 1).any(gives));
        }
    }
}

fn share_from_store(world: &World, session: &Session, admin: usize) -> Share {
    let (index, key) = world.fetch(session, admin).unwrap();
    let value = world.store.plain(&format!("seal/share/{index}"));
    let sealed_share = &row::content(&value).unwrap()[..sealed::OVERHEAD + 33];
    let context = world.context(session, index);
    let share = sealed::open(&key, context.as_bytes(), sealed_share).unwrap();
    Share::from_bytes(share.expose().as_slice().try_into().unwrap()).unwrap()
}

#[test]
fn any_goes_the_same_road() {
    for n in 1..=8 {
        let mut world = World::new(SealMode::Any, 1, n);
        for admin in 0..n {
            let (_, opened) = world.open([admin]);
            assert_eq!(opened.config().admins.len(), n);
        }
        for admin in 0..n {
            world.unseal([admin]);
        }
        assert_eq!(world.store.seal().unwrap().config().epoch, 1 + n as u64);
    }
}

fn fault(result: Result<GiveOutcome, SessionError>) -> (PrincipalId, ShareFault) {
    match result {
        Err(SessionError::BadShare { admin, fault }) => (admin, fault),
        other => panic!("not a bad share: {other:?}"),
    }
}

#[test]
fn a_bad_share_names_its_admin_and_leaves_the_others() {
    let mut world = World::new(SealMode::Quorum, 3, 4);
    let mut before = world.session();
    let (_, old_key) = world.fetch(&before, 1).unwrap();
    let old_context = world.context(&before, 1);
    world.unseal([0, 1, 2]);

    let mut session = world.session();
    world.give(&mut session, 0).unwrap();
    let bad = world.admins[1].id();
    let (index, key) = world.fetch(&session, 1).unwrap();

    // A key of its own making, of the epoch before, and of another admin.
    let made_up = secret_key(&mut world.rng);
    assert_eq!(fault(world.give_key(&mut session, 1, index, &made_up)), (bad, ShareFault::Share));
    assert_eq!(fault(world.give_key(&mut session, 1, index, &old_key)), (bad, ShareFault::Share));
    let (_, foreign) = world.fetch(&session, 2).unwrap();
    assert_eq!(fault(world.give_key(&mut session, 1, index, &foreign)), (bad, ShareFault::Share));

    // An honest message, for another epoch, share, or session.
    let context = world.context(&session, index);
    for message in [
        old_context.give_plaintext(session.id(), &old_key),
        world.context(&session, 2).give_plaintext(session.id(), &foreign),
        context.give_plaintext(before.id(), &key),
        context.key_plaintext(&key),
    ] {
        let file = World::to_session(&session, message.expose());
        assert_eq!(fault(world.give_file(&mut session, 1, index, &file)), (bad, ShareFault::Context));
    }

    // Files that are not for this session, or no files.
    let message = context.give_plaintext(session.id(), &key);
    let to_other = World::to_session(&before, message.expose());
    let too_long = World::to_session(&session, &[0; 65]);
    for file in [to_other, too_long, b"age-encryption.org/v1\n".to_vec(), vec![], vec![0; FILE_BYTES_MAX + 1]] {
        assert_eq!(fault(world.give_file(&mut session, 1, index, &file)), (bad, ShareFault::File));
    }
    let short = World::to_session(&session, &message.expose()[..63]);
    assert_eq!(fault(world.give_file(&mut session, 1, index, &short)), (bad, ShareFault::Context));

    // The place of another admin, and somebody who holds no share.
    let result = world.give_key(&mut session, 1, 2, &foreign);
    assert!(matches!(result, Err(SessionError::NotYours { own: 1 })), "{result:?}");
    let stranger = PrincipalId::new([9; 32]);
    let give = Give { admin: stranger, index: 0, file: &[], approval: None };
    assert!(matches!(session.give(&give, &world.view), Err(SessionError::NotAdmin)));
    assert!(matches!(session.key_for(&stranger), Err(SessionError::NotAdmin)));

    // None of this cost the first admin anything, and the one who erred may still do right.
    assert_eq!((session.progress().have, session.has(0), session.has(1)), (1, true, false));
    world.give(&mut session, 1).unwrap();
    assert!(matches!(world.give(&mut session, 3).unwrap(), GiveOutcome::Complete(_)));

    // A session that began before the advance takes keys of its own epoch only.
    assert_eq!(fault(world.give_key(&mut before, 1, index, &key)), (bad, ShareFault::Share));
}

#[test]
fn giving_twice_changes_nothing() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let mut session = world.session();
    for _ in 0..3 {
        match world.give(&mut session, 2).unwrap() {
            GiveOutcome::Progress(progress) => assert_eq!((progress.have, progress.need), (1, 2)),
            GiveOutcome::Complete(_) => panic!("one share is not two"),
        }
    }
    // A bad one after a good one does not take the good one back.
    let made_up = secret_key(&mut world.rng);
    fault(world.give_key(&mut session, 2, 2, &made_up));
    assert_eq!(session.progress().have, 1);
    assert!(matches!(world.give(&mut session, 0).unwrap(), GiveOutcome::Complete(_)));
    // After a lost answer the last admin asks again, and a third one is welcome.
    assert!(matches!(world.give(&mut session, 0).unwrap(), GiveOutcome::Complete(_)));
    assert!(matches!(world.give(&mut session, 1).unwrap(), GiveOutcome::Complete(_)));
    assert_eq!(session.progress().have, 2);
}

#[test]
fn the_first_share_comes_with_an_approval() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let mut session = world.session();
    let (index, key) = world.fetch(&session, 0).unwrap();
    let message = world.context(&session, index).give_plaintext(session.id(), &key);
    let file = World::to_session(&session, message.expose());
    let give = |approval| Give { admin: world.admins[0].id(), index, file: &file, approval };

    let result = session.give(&give(None), &world.view);
    assert!(matches!(result, Err(SessionError::ApprovalMissing)), "{result:?}");
    let of_another = world.approval(1);
    let mut of_other_cluster = world.approval(0);
    of_other_cluster.payload = br#"{"v":1,"cluster":"sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#.to_vec();
    for bad in [&of_another, &of_other_cluster] {
        let result = session.give(&give(Some(bad)), &world.view);
        assert!(matches!(result, Err(SessionError::BadApproval)), "{result:?}");
    }
    assert_eq!(session.progress().have, 0);

    // Once stored, it is not asked for again.
    world.unseal([0, 1]);
    assert!(world.store.has_plain("approval/0") && world.store.has_plain("approval/1"));
    let mut session = world.session();
    assert_eq!(session.stored().approvals().len(), 2);
    let (index, key) = world.fetch(&session, 0).unwrap();
    let message = world.context(&session, index).give_plaintext(session.id(), &key);
    let file = World::to_session(&session, message.expose());
    let give = Give { admin: world.admins[0].id(), index, file: &file, approval: None };
    assert!(matches!(session.give(&give, &world.view).unwrap(), GiveOutcome::Progress(_)));
    assert!(session.approvals().is_empty());
}

#[test]
fn sessions_end_and_are_few() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let mut sessions = Sessions::default();
    let stored = world.store.seal().unwrap();
    let first = sessions.open(NOW_MS, &stored, &mut world.rng).unwrap().describe();
    assert_eq!((first.epoch, first.expires_ms), (1, NOW_MS + SESSION_MS));
    assert_eq!(first.config_sha256, stored.config_digest());
    // The running one, whoever asks.
    let again = sessions.open(NOW_MS + SESSION_MS - 1, &world.store.seal().unwrap(), &mut world.rng).unwrap();
    assert_eq!(again.id(), first.id);
    assert!(sessions.get(NOW_MS + SESSION_MS - 1, &first.id).is_ok());
    assert!(matches!(sessions.get(NOW_MS, "another"), Err(SessionError::Unknown)));
    assert!(sessions.newest(NOW_MS).is_some() && sessions.newest(NOW_MS + SESSION_MS).is_none());
    // After its end, a new one.
    assert!(matches!(sessions.get(NOW_MS + SESSION_MS, &first.id), Err(SessionError::Unknown)));
    let second = sessions.open(NOW_MS + SESSION_MS, &stored, &mut world.rng).unwrap().describe();
    assert!(second.id != first.id && second.recipient != first.recipient);

    // One for each configuration, and not more than eight.
    let mut sessions = Sessions::default();
    for _ in 0..SESSIONS_MAX {
        sessions.open(NOW_MS, &world.store.seal().unwrap(), &mut world.rng).unwrap();
        world.unseal([0, 1]);
    }
    let stored = world.store.seal().unwrap();
    assert!(matches!(sessions.open(NOW_MS, &stored, &mut world.rng), Err(SessionError::TooMany)));
    assert!(sessions.open(NOW_MS + SESSION_MS, &stored, &mut world.rng).is_ok(), "their time has come");
    sessions.clear();
    assert!(sessions.newest(NOW_MS + SESSION_MS).is_none());
}

/// What is over is dropped with the shares in it, also if nobody asks again.
#[test]
fn what_is_over_is_swept() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let mut sessions = Sessions::default();
    sessions.open(NOW_MS, &world.store.seal().unwrap(), &mut world.rng).unwrap();
    world.unseal([0, 1]);
    let later = sessions.open(NOW_MS + 1, &world.store.seal().unwrap(), &mut world.rng).unwrap().id().to_owned();
    let held = |sessions: &Sessions| format!("{sessions:?}").matches("shares").count();
    sessions.sweep(NOW_MS + SESSION_MS - 1);
    assert_eq!(held(&sessions), 2);
    sessions.sweep(NOW_MS + SESSION_MS);
    assert_eq!(held(&sessions), 1);
    assert!(sessions.get(NOW_MS + SESSION_MS, &later).is_ok());
}

#[test]
fn a_file_for_a_crowd_is_not_opened() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let mut session = world.session();
    let (index, key) = world.fetch(&session, 0).unwrap();
    let message = world.context(&session, index).give_plaintext(session.id(), &key);
    let mut to: Vec<Recipient> = vec![session.describe().recipient.parse().unwrap()];
    let mut file = Vec::new();
    while file.len() <= FILE_BYTES_MAX {
        if !file.is_empty() {
            world.give_file(&mut session, 0, index, &file).unwrap();
        }
        file = envelope::seal(&to, None, message.expose()).unwrap();
        to.extend(Identity::generate(IdentityKind::Hybrid, &mut world.rng).unwrap().recipients().iter().cloned());
    }
    assert_eq!(fault(world.give_file(&mut session, 0, index, &file)), (world.admins[0].id(), ShareFault::File));
}

/// An approval is stored at its admin's place in genesis, whoever else has come.
#[test]
fn an_approval_has_its_admins_place() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let mut session = world.session();
    for admin in [2, 1] {
        world.give(&mut session, admin).unwrap();
    }
    let approvals = session.approvals();
    assert_eq!(approvals.len(), 2);
    for (place, approval) in approvals {
        let founder = world.view.genesis().admins().nth(usize::from(place)).unwrap();
        assert!(founder.key(&approval.signatures[0].key).is_some(), "{place}");
    }
}
