//! Whatever the store does to its rows, the seal stays shut or gives the same keys.

use crate::world::{Map, NOW_MS, World};
use bulla_core::head::Head;
use bulla_core::seal::{GiveOutcome, Opened, RootKey, SealError, Session, open};
use bulla_wire::evidence::SealMode;

/// Everything that an unseal would go on with.
fn essence(opened: &Opened) -> (Head, Vec<[u8; 32]>, [u8; 32], u64) {
    let terms = opened.keyring.terms.values().map(|key| *key.expose()).collect();
    (opened.head, terms, *opened.keyring.path.expose(), opened.config().epoch)
}

/// A whole unseal by honest admins 0 and 1 over this store, up to the advance.
fn try_open(world: &mut World, store: &Map) -> Result<Opened, String> {
    let stored = store.seal().map_err(|error| error.to_string())?;
    let mut session = Session::open(NOW_MS, stored, &mut world.rng).unwrap();
    let mut root: Option<RootKey> = None;
    for admin in [0, 1] {
        let (index, key) = world.fetch(&session, admin)?;
        let given = world.give_key(&mut session, admin, index, &key).map_err(|error| error.to_string())?;
        if let GiveOutcome::Complete(key) = given {
            root = Some(key);
        }
    }
    let root = root.ok_or("not enough")?;
    open(&root, session.stored()).map_err(|error| error.to_string())
}

fn flip_each_byte(mode: SealMode, row: &str) {
    let k = if mode == SealMode::Any { 1 } else { 2 };
    let mut world = World::new(mode, k, 2);
    let good = world.store.clone();
    let reference = essence(&try_open(&mut world, &good).unwrap());
    let bytes = good.plain(row).into_bytes();
    for place in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[place] ^= 1 << (place % 8);
        let mut store = good.clone();
        store.put_plain(row, altered);
        // The revision is the store's own; it means nothing to the seal, but is part of the head's MAC.
        let revision = (5..13).contains(&place) && row != "head";
        match try_open(&mut world, &store) {
            Ok(opened) => {
                assert!(revision, "{row} byte {place} was taken");
                assert_eq!(essence(&opened), reference, "{row} byte {place}");
            }
            Err(reason) => assert!(!revision, "{row} byte {place}: {reason}"),
        }
    }
}

#[test]
fn every_byte_of_the_configuration_counts() {
    flip_each_byte(SealMode::Quorum, "seal/config");
    flip_each_byte(SealMode::Any, "seal/config");
}

#[test]
fn every_byte_of_the_keyring_counts() {
    flip_each_byte(SealMode::Quorum, "seal/keyring");
}

#[test]
fn every_byte_of_a_share_counts() {
    flip_each_byte(SealMode::Quorum, "seal/share/0");
    flip_each_byte(SealMode::Any, "seal/share/1");
}

#[test]
fn every_byte_of_the_head_counts() {
    flip_each_byte(SealMode::Quorum, "head");
}

#[test]
fn rows_cannot_be_missing_swapped_or_cut() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let good = world.store.clone();
    for row in ["seal/config", "seal/keyring", "seal/share/0", "seal/share/1", "head"] {
        let mut store = good.clone();
        store.0.retain(|(_, key), _| key.as_bytes() != row.as_bytes());
        assert!(matches!(store.seal(), Err(SealError::Row(_))), "{row}");
        let bytes = good.plain(row).into_bytes();
        for length in [13, 14, 45, bytes.len() - 1] {
            let mut store = good.clone();
            store.put_plain(row, bytes[..length].to_vec());
            assert!(try_open(&mut world, &store).is_err(), "{row} cut to {length}");
        }
    }
    let mut store = good.clone();
    store.put_plain("seal/share/0", good.plain("seal/share/1").into_bytes());
    store.put_plain("seal/share/1", good.plain("seal/share/0").into_bytes());
    assert!(try_open(&mut world, &store).is_err());
    let mut store = good.clone();
    store.put_plain("seal/share/2", good.plain("seal/share/1").into_bytes());
    assert!(matches!(store.seal(), Err(SealError::Row("seal/share/"))));
}

/// Any mixture of the rows of two epochs stays shut, and so do rows of another cluster.
#[test]
fn rows_of_other_epochs_and_clusters_do_not_fit() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let old = world.store.clone();
    world.unseal([0, 1]);
    let new = world.store.clone();
    let other = World::with_seed(SealMode::Quorum, 2, 2, 2).store;
    let rows = ["seal/config", "seal/keyring", "seal/share/0", "seal/share/1", "head"];
    for mask in 1_u32..31 {
        for from in [&old, &other] {
            let mut store = new.clone();
            for (_, row) in rows.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0) {
                store.put_plain(row, from.plain(row).into_bytes());
            }
            assert!(try_open(&mut world, &store).is_err(), "{mask:05b}");
        }
    }
    // All of them together are yesterday's copy, which its shares open: only memory elsewhere tells.
    assert_eq!(try_open(&mut world, &old).unwrap().config().epoch, 1);
    assert_eq!(try_open(&mut world, &new).unwrap().config().epoch, 2);
}

#[test]
fn yesterdays_root_key_opens_nothing_today() {
    let mut world = World::new(SealMode::Quorum, 2, 2);
    let (_, root) = world.root([0, 1]);
    world.unseal([0, 1]);
    let stored = world.store.seal().unwrap();
    assert!(matches!(open(&root.unwrap(), &stored), Err(SealError::CheckValue)));
}
