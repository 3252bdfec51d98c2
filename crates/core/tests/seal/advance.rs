//! The epoch advance: crashes, races, many of them, and what the audit file remembers.

use crate::world::{Admin, LATER, World, long};
use bulla_core::head::Head;
use bulla_core::record::Table;
use bulla_core::seal::{
    LINEAGES_MAX, Lost, SealConfig, SealError, StoredSeal, TERMS_MAX, lost_commits, open, reopen, row,
};
use bulla_crypto::evidence::{DocumentDraft, sign_in_memory};
use bulla_crypto::identity::IdentityKind;
use bulla_crypto::random::{Rng, SeededRng, draw};
use bulla_wire::api::LineageEntry;
use bulla_wire::evidence::{EXCUSE_SKEW_MS, Position, SealMode};
use bulla_wire::id::{Digest, Lineage};
use bulla_wire::json;

const NOW_MS: u64 = 1_800_000_000_000;

fn config(world: &World) -> (SealConfig, Digest) {
    let stored = world.store.seal().unwrap();
    (stored.config().clone(), stored.config_digest())
}

#[test]
fn an_advance_replaces_everything_that_opened_the_epoch() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let before = world.store.clone();
    let (old, old_digest) = config(&world);
    let advance = world.advance([0, 2]);
    assert_eq!((advance.epoch, advance.head.sequence.0), (2, 2));
    assert_eq!((advance.head.audit, advance.head.commit_ms), (LATER, NOW_MS + 1));
    world.store.commit(&advance.batch).unwrap();
    let (new, new_digest) = config(&world);
    assert_eq!((new.epoch, new.prev, new_digest), (2, Some(old_digest), advance.config_sha256));
    assert_ne!((new.lineage, &new.kcv), (old.lineage, &old.kcv));
    for name in ["seal/config", "seal/keyring", "seal/share/0", "seal/share/1", "seal/share/2", "lineages", "head"] {
        assert_ne!(world.store.plain(name), before.plain(name), "{name}");
    }
    let (_, opened) = world.open([1, 2]);
    assert_eq!(opened.head, advance.head);
    assert!(!opened.is_restored());
    assert_eq!(opened.keyring.terms.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(opened.keyring.challenge_epoch, 2);
    let listed: Vec<LineageEntry> =
        json::parse(row::content(&world.store.plain("lineages")).unwrap(), json::MAX_JSON_BYTES).unwrap();
    assert_eq!(listed, opened.keyring.lineages);
    assert_eq!((listed[1].lineage, listed[1].first_sequence), (new.lineage, 2));
}

/// The process may die at any step. Whatever was committed, k admins unseal what is there, and nobody is locked out.
#[test]
fn a_crash_anywhere_leaves_a_seal_that_opens() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let mut chance = SeededRng::from_u64(77);
    let (mut epoch, mut reached) = (1, 1);
    for round in 0..if long() { 10_000 } else { 120 } {
        let first = usize::from(draw::<1>(&mut chance)[0]) % 3;
        let admins = [first, (first + 1 + usize::from(draw::<1>(&mut chance)[0]) % 2) % 3];
        let mut step = [0];
        chance.fill(&mut step);
        match step[0] % 6 {
            // Before, during and after the shares; after opening; with the batch in hand.
            0 => drop(world.session()),
            1 => drop(world.root([admins[0]])),
            2 => drop(world.open(admins)),
            3 => drop(world.advance(admins)),
            // After the commit, before anything else.
            4 => {
                let advance = world.advance(admins);
                world.store.commit(&advance.batch).unwrap();
                (epoch, reached) = (epoch + 1, reached + 1);
            }
            // After some work.
            _ => {
                let keyring = world.unseal(admins);
                (epoch, reached) = (epoch + 1, reached + 1 + 5);
                world.work(&keyring, 5);
            }
        }
        let (_, opened) = world.open(admins);
        assert_eq!((opened.config().epoch, opened.head.sequence.0), (epoch, reached), "round {round}");
    }
    assert!(epoch > 20, "the chances must reach every step");
}

#[test]
fn of_two_advances_one_wins() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let (one, two) = (world.advance([0, 1]), world.advance([1, 2]));
    world.store.commit(&two.batch).unwrap();
    let after = world.store.clone();
    assert!(world.store.commit(&one.batch).is_err());
    assert_eq!(world.store, after, "the loser leaves no trace");
    assert_eq!(config(&world).0.lineage, two.lineage.lineage);
    world.unseal([0, 2]);
}

#[test]
fn an_advance_that_missed_a_transaction_is_refused() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let keyring = world.unseal([0, 1]);
    let late = world.advance([0, 1]);
    world.work(&keyring, 1);
    assert!(world.store.commit(&late.batch).is_err());
}

#[test]
fn many_epochs() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let first = world.unseal([0, 1]);
    let cluster = world.view.id();
    let barrier = first.barrier(cluster).unwrap();
    let key = bulla_core::record::StoreKey::new("a").unwrap();
    let written = barrier.seal(Table::Data, &key, 10, b"of the second epoch", &mut world.rng).unwrap();
    let mut digests = vec![config(&world).1];
    // Two hundred of them, or in a night more than there can be terms and histories.
    let last = if long() { 10_000 } else { 202 };
    for epoch in 3..=last {
        let skip = usize::try_from(epoch % 3).unwrap();
        let keyring = world.unseal((0..3).filter(|admin| *admin != skip));
        let (config, digest) = config(&world);
        assert_eq!((config.epoch, config.prev), (epoch, digests.last().copied()));
        assert!(!digests.contains(&digest));
        digests.push(digest);
        assert_eq!(keyring.lineages.len(), LINEAGES_MAX.min(usize::try_from(epoch).unwrap()));
        assert_eq!(keyring.path.expose(), first.path.expose());
        assert_ne!(keyring.challenge.expose(), first.challenge.expose());
    }
    let (_, opened) = world.open([0, 2]);
    assert_eq!(opened.keyring.terms.len() as u64, last.min(TERMS_MAX.into()));
    let barrier = opened.keyring.barrier(cluster).unwrap();
    assert_eq!(barrier.open(Table::Data, &key, 10, &written).unwrap().expose(), b"of the second epoch");
}

fn consent(world: &World, lost: &Lost, signers: &[usize]) -> bulla_wire::dsse::Envelope {
    let keys: Vec<_> = signers.iter().map(|admin| world.admins[*admin].identity.signing_key().unwrap()).collect();
    sign_in_memory(&lost.consent(world.view.id(), vec![]), &keys).unwrap()
}

#[test]
fn lost_commits_need_the_consent_of_k() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let keyring = world.unseal([0, 1]);
    let kept = world.work(&keyring, 3);
    let backup = world.store.clone();
    let reached = world.work(&keyring, 4);
    let (_, opened) = world.open([0, 1]);
    assert!(lost_commits(&opened, Some(reached)).is_ok());
    assert!(lost_commits(&opened, Some(kept)).is_ok());
    assert!(lost_commits(&opened, None).is_ok());

    // Somebody puts yesterday's copy back.
    world.store = backup;
    let (session, opened) = world.open([0, 1]);
    let lost = lost_commits(&opened, Some(reached)).unwrap_err();
    assert_eq!(lost, Lost { lost: reached, kept });

    let result = lost.accept(&world.view, vec![], &consent(&world, &lost, &[1]), NOW_MS);
    assert!(matches!(result, Err(SealError::Consent(_))), "{result:?}");
    let other = Lost { kept: reached, ..lost };
    let result = lost.accept(&world.view, vec![], &consent(&world, &other, &[0, 1]), NOW_MS);
    assert!(matches!(result, Err(SealError::OtherConsent)), "{result:?}");

    let signed = consent(&world, &lost, &[1, 2]);
    let result = lost.accept(&world.view, vec![reached], &signed, NOW_MS);
    assert!(matches!(result, Err(SealError::OtherConsent)), "{result:?}");
    // Whom it excuses is the admins' to say, up to now.
    let until = |until_ms| {
        let mut consent = lost.consent(world.view.id(), vec![]);
        consent.excused_until_ms = Some(until_ms);
        sign_in_memory(&consent, &[1, 2].map(|admin: usize| world.admins[admin].identity.signing_key().unwrap()))
            .unwrap()
    };
    let ahead = lost.accept(&world.view, vec![], &until(NOW_MS + EXCUSE_SKEW_MS + 1), NOW_MS);
    assert!(matches!(ahead, Err(SealError::ConsentAhead)), "{ahead:?}");
    lost.accept(&world.view, vec![], &until(NOW_MS + EXCUSE_SKEW_MS), NOW_MS).unwrap();
    let accounted = lost.accept(&world.view, vec![], &signed, NOW_MS).unwrap();
    let advance = world.advance_from(&session, opened, accounted).unwrap();
    world.store.commit(&advance.batch).unwrap();
    let stored = world.store.plain("consent/0");
    assert_eq!(row::content(&stored).unwrap(), json::to_vec(&signed));
    // The next history begins where the store went on, so that clients see what was lost.
    assert_eq!(advance.lineage.first_sequence, kept.sequence + 1);
    let (_, opened) = world.open([0, 1]);
    assert!(lost_commits(&opened, Some(reached)).is_err());
    assert!(lost_commits(&opened, Some(advance.head.position())).is_ok());
    let unknown = Position { lineage: Lineage::new([8; 16]), sequence: 1 };
    assert!(lost_commits(&opened, Some(unknown)).is_err());
}

#[test]
fn consent_to_one_state_does_not_serve_another() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let keyring = world.unseal([0, 1]);
    let (_, opened) = world.open([0, 1]);
    let accounted = lost_commits(&opened, None).unwrap();
    world.work(&keyring, 1);
    let (session, opened) = world.open([0, 1]);
    let result = world.advance_from(&session, opened, accounted);
    assert!(matches!(result.err(), Some(SealError::NotAccounted)));
}

/// Signs and takes in a document that differs from the newest by `change`.
fn next_document(world: &mut World, change: impl FnOnce(&mut DocumentDraft), signers: &[usize]) {
    let mut draft = DocumentDraft::of(world.view.newest());
    change(&mut draft);
    let document = world.view.next_document(&draft).unwrap();
    let keys: Vec<_> = signers.iter().map(|admin| world.admins[*admin].identity.signing_key().unwrap()).collect();
    let envelope = sign_in_memory(&document, &keys).unwrap();
    world.view.push(&envelope).unwrap();
}

#[test]
fn the_newest_document_says_who_gets_the_shares() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let newcomer = Admin::new("newcomer", IdentityKind::Hybrid, &mut world.rng);
    let genesis_view = world.view.clone();
    let (gone, new) = (world.admins[2].id(), newcomer.record.clone());
    let swap = |draft: &mut DocumentDraft| {
        draft.admins.retain(|id| *id != gone);
        draft.admins.push(new.principal());
        draft.enrollers.push(new.principal());
        draft.records.push(new);
    };
    // The shares are still those of genesis; the batch makes them those of document 1, and stores it.
    let (session, opened) = world.open([0, 1]);
    next_document(&mut world, swap, &[0, 2]);
    let accounted = lost_commits(&opened, None).unwrap();
    let advance = world.advance_from(&session, opened, accounted).unwrap();
    world.store.commit(&advance.batch).unwrap();
    assert!(world.store.has_plain("document/1"));
    assert_eq!(advance.keyring.document, 1);
    assert!(world.session().key_for(&gone).is_err());
    world.admins[2] = newcomer;
    // A newcomer is no founder, so it approves nothing.
    let mut session = world.session();
    world.give(&mut session, 0).unwrap();
    let (index, key) = world.fetch(&session, 2).unwrap();
    let message = world.context(&session, index).give_plaintext(session.id(), &key);
    let file = World::to_session(&session, message.expose());
    let give = bulla_core::seal::Give { admin: world.admins[2].id(), index, file: &file, approval: None };
    session.give(&give, &world.view).unwrap();
    let opened = open(&session.root_key().unwrap().unwrap(), session.stored()).unwrap();

    // A store that shows only genesis again is caught.
    let newest = std::mem::replace(&mut world.view, genesis_view);
    let accounted = lost_commits(&opened, None).unwrap();
    let result = world.advance_from(&session, opened, accounted);
    assert!(matches!(result.err(), Some(SealError::DocumentRolledBack { newest: 0, known: 1 })));
    world.view = newest;
}

#[test]
fn fewer_admins_leave_no_share_behind() {
    let mut world = World::new(SealMode::Quorum, 2, 3);
    let gone = world.admins[2].id();
    let (session, opened) = world.open([0, 1]);
    next_document(&mut world, |draft| draft.admins.retain(|id| *id != gone), &[0, 1]);
    let accounted = lost_commits(&opened, None).unwrap();
    let advance = world.advance_from(&session, opened, accounted).unwrap();
    world.store.commit(&advance.batch).unwrap();
    assert!(!world.store.has_plain("seal/share/2"));
    world.unseal([0, 1]);
}

#[test]
fn a_head_of_an_older_history_is_refused() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let old_head = world.store.plain("head");
    world.unseal([0, 1]);
    world.store.put_plain("head", old_head.as_bytes().to_vec());
    let (session, root) = world.root([0, 1]);
    assert!(matches!(open(&root.unwrap(), session.stored()), Err(SealError::HeadLineage)));
}

/// A snapshot that was put back lost something, whether the log knows it or not.
#[test]
fn a_restored_store_waits_for_consent() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let keyring = world.unseal([0, 1]);
    let reached = world.work(&keyring, 3);
    world.store.put_plain(row::RESTORED, row::encode(b"x", &mut world.rng).unwrap().into_bytes());
    let (session, opened) = world.open([0, 1]);
    assert!(opened.is_restored() && session.stored().is_restored());
    let lost = Lost { lost: reached, kept: reached };
    assert_eq!(Lost::unknown(&opened), lost);
    for quoted in [None, Some(reached)] {
        assert_eq!(lost_commits(&opened, quoted).unwrap_err(), lost);
    }
    let beyond = Position { sequence: reached.sequence + 1, ..reached };
    assert_eq!(lost_commits(&opened, Some(beyond)).unwrap_err(), Lost { lost: beyond, kept: reached });
    let accounted = lost.accept(&world.view, vec![], &consent(&world, &lost, &[0, 1]), NOW_MS).unwrap();
    let advance = world.advance_from(&session, opened, accounted).unwrap();
    world.store.commit(&advance.batch).unwrap();
    assert!(!world.store.has_plain(row::RESTORED));
    let (session, opened) = world.open([0, 1]);
    assert!(!opened.is_restored() && !session.stored().is_restored());
}

/// A running node has the keys, and looks whether what it dealt still stands there.
#[test]
fn the_seal_of_a_running_node_is_what_it_dealt() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let old_head = world.store.plain("head");
    let advance = world.advance([0, 1]);
    world.store.commit(&advance.batch).unwrap();
    let stored = world.store.seal().unwrap();
    let again = |digest: &Digest, stored: &StoredSeal, mark, active_ms| {
        reopen(advance.keyring.copy(), digest, stored, mark, active_ms)
    };
    let ours = &advance.config_sha256;
    let (mark, active_ms) = (advance.head.mark + 7, advance.head.active_ms + 9);
    let opened = again(ours, &stored, mark, active_ms).unwrap();
    assert_eq!(opened.head, Head { mark, active_ms, ..advance.head });
    assert_eq!(again(ours, &stored, 0, 0).unwrap().head, advance.head, "never behind");
    let other = again(&Digest::new([9; 32]), &stored, 0, 0);
    assert!(matches!(other.err(), Some(SealError::ConfigMac)));
    world.store.put_plain("head", old_head.as_bytes().to_vec());
    let other = again(ours, &world.store.seal().unwrap(), 0, 0);
    assert!(matches!(other.err(), Some(SealError::HeadLineage)));
}

#[test]
fn another_clusters_documents_are_refused() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let other = World::with_seed(SealMode::Quorum, 2, 2, 5);
    let (session, opened) = world.open([0, 1]);
    let accounted = lost_commits(&opened, None).unwrap();
    world.view = other.view;
    let result = world.advance_from(&session, opened, accounted);
    assert!(matches!(result.err(), Some(SealError::OtherCluster)));
}

#[test]
fn what_happens_is_printed_without_keys() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let (session, opened) = world.open([0, 1]);
    let (_, root) = world.root([0, 1]);
    let text = format!("{session:?} {opened:?} {:?} {:?}", root.unwrap(), session.stored());
    // Ids, the epoch and counts: there is no room for a key.
    assert!(text.len() < 200 && text.contains("RootKey(..)"), "{text}");
}

/// Everything that the log quotes and the store does not hold, apart from where the log ends.
#[test]
fn a_consent_names_every_history_that_was_lost() {
    let at = |byte: u8, sequence| Position { lineage: Lineage::new([byte; 16]), sequence };
    let entry =
        |byte: u8, first_sequence| LineageEntry { epoch: byte.into(), lineage: at(byte, 0).lineage, first_sequence };
    let held = [entry(1, 1), entry(2, 50)];
    let lost = Lost { lost: at(5, 120), kept: at(2, 80) };
    // Kept, kept, cut short, two histories whose lines are out of order, and the one in which the log ends.
    let log = [at(1, 49), at(2, 80), at(2, 82), at(2, 81), at(3, 90), at(4, 100), at(3, 92), at(4, 101), at(5, 120)];
    assert_eq!(lost.earlier(&held, log), [at(2, 82), at(3, 92), at(4, 101)]);
    let many =
        |i: u32| Position { lineage: Lineage::new([i.to_be_bytes(); 4].concat().try_into().unwrap()), sequence: 1 };
    let found = lost.earlier(&held, (0..3000).map(|i| many(i + 0x1000)));
    assert_eq!((found.len(), found.last()), (2048, Some(&many(2999 + 0x1000))), "the newest");
}
