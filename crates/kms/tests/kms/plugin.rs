//! The plugin over backends that fail in every way.

use crate::fake::{Backend, Mood, node, node_that_looks, soon};
use bulla_crypto::secret::SecretBytes;
use bulla_kms::combine::{Combination, Policy};
use bulla_kms::plugin::{Encrypted, Plugin, Refusal};
use bulla_kms::provider::Class;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ALL: Combination = Combination::Any(Policy::All);
const DEGRADED: Combination = Combination::Any(Policy::Degraded(1));

fn seed(byte: u8) -> SecretBytes {
    SecretBytes::new(vec![byte; 32])
}

async fn ready(combination: Combination, backends: &[&Backend]) -> Arc<Plugin> {
    let plugin = node(combination, backends, None);
    plugin.look_once().await;
    plugin
}

async fn encrypted(plugin: &Plugin) -> Encrypted {
    plugin.encrypt(seed(7), soon()).await.unwrap()
}

async fn decrypted(plugin: &Plugin, made: &Encrypted) -> Result<Vec<String>, Refusal> {
    let done = plugin.decrypt(made.key_id.as_str(), &made.ciphertext, soon()).await?;
    assert_eq!(done.seed.expose(), &[7; 32]);
    Ok(done.members)
}

#[tokio::test]
async fn two_nodes_agree_without_talking() {
    let backend = Backend::new("a");
    let (one, two) = (ready(ALL, &[&backend]).await, ready(ALL, &[&backend]).await);
    assert_eq!(one.ready().unwrap(), two.ready().unwrap());
    let made = encrypted(&one).await;
    assert_eq!(made.key_id, one.ready().unwrap());
    assert_eq!(decrypted(&two, &made).await.unwrap(), ["a"]);
}

#[tokio::test]
async fn nothing_is_told_before_a_key_was_proven() {
    let backend = Backend::new("a");
    let plugin = node(ALL, &[&backend], None);
    assert_eq!(plugin.ready().unwrap_err().class, Class::Unavailable);
    let early = Instant::now() + Duration::from_millis(20);
    assert_eq!(plugin.encrypt(seed(7), early).await.unwrap_err().class, Class::Unavailable);
    backend.is(Mood::Lying);
    plugin.look_once().await;
    assert_eq!(plugin.ready().unwrap_err().class, Class::Unavailable, "it does not unwrap to the same");
    backend.is(Mood::Well);
    plugin.look_once().await;
    plugin.ready().unwrap();
}

#[tokio::test]
async fn a_request_right_after_the_start_waits_for_the_first_look() {
    let backend = Backend::new("a");
    let plugin = node(ALL, &[&backend], None);
    let look = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        plugin.look_once().await;
    };
    let (status, made, ()) = tokio::join!(plugin.status(soon()), plugin.encrypt(seed(7), soon()), look);
    assert_eq!(status.unwrap(), made.unwrap().key_id);
}

#[tokio::test]
async fn a_rotation_is_seen_and_the_old_key_still_decrypts() {
    let backend = Backend::new("a");
    let plugin = ready(ALL, &[&backend]).await;
    let old = encrypted(&plugin).await;
    backend.rotate();
    plugin.look_once().await;
    assert_eq!(encrypted(&plugin).await.key_id, old.key_id, "not at the first sight, and with the version of its id");
    plugin.look_once().await;
    let new = encrypted(&plugin).await;
    assert_ne!(new.key_id, old.key_id);
    for made in [&old, &new] {
        decrypted(&plugin, made).await.unwrap();
    }
    backend.state().keys.remove(&1);
    plugin.look_once().await;
    assert_eq!(decrypted(&plugin, &old).await.unwrap_err().class, Class::UnknownKey, "a retired key");
    decrypted(&plugin, &new).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_behind_looks_when_it_meets_a_new_key() {
    let backend = Backend::new("a");
    let (ahead, behind) = (ready(ALL, &[&backend]).await, ready(ALL, &[&backend]).await);
    backend.rotate();
    ahead.look_once().await;
    ahead.look_once().await;
    let made = encrypted(&ahead).await;
    assert_ne!(made.key_id, behind.ready().unwrap());
    decrypted(&behind, &made).await.unwrap();
}

#[tokio::test]
async fn what_was_altered_or_belongs_elsewhere_does_not_decrypt() {
    let backend = Backend::new("a");
    let plugin = ready(ALL, &[&backend]).await;
    let made = encrypted(&plugin).await;
    backend.rotate();
    plugin.look_once().await;
    plugin.look_once().await;
    let other = plugin.ready().unwrap();
    let moved = Encrypted { key_id: other, ..made.clone() };
    assert_eq!(decrypted(&plugin, &moved).await.unwrap_err().class, Class::Corrupt);
    for place in [0, 1, 2, 5, 12, 40, made.ciphertext.len() - 1] {
        let mut altered = made.clone();
        altered.ciphertext[place] ^= 1;
        decrypted(&plugin, &altered).await.unwrap_err();
    }
    for key_id in ["", "other-plugin", "b1.x"] {
        let refused = plugin.decrypt(key_id, &made.ciphertext, soon()).await.unwrap_err();
        assert_eq!(refused.class, Class::UnknownKey);
    }
}

#[tokio::test]
async fn a_backend_that_is_away_stops_new_seeds_and_comes_back() {
    let backend = Backend::new("a");
    let plugin = ready(ALL, &[&backend]).await;
    let made = encrypted(&plugin).await;
    for mood in [Mood::Down, Mood::Hung, Mood::Disabled] {
        backend.is(mood);
        let begun = Instant::now();
        plugin.encrypt(seed(7), soon()).await.unwrap_err();
        decrypted(&plugin, &made).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(2), "{mood:?}");
        tokio::time::sleep(Duration::from_millis(550)).await;
        plugin.look_once().await;
        let refused = plugin.ready().unwrap_err();
        assert_eq!(refused.class, Class::Unavailable, "an error, which alone stops kube-apiserver's writes");
        backend.is(Mood::Well);
        plugin.look_once().await;
        assert_eq!(plugin.ready().unwrap(), made.key_id);
        decrypted(&plugin, &made).await.unwrap();
    }
}

#[tokio::test]
async fn a_hung_provider_costs_a_hedge_and_not_the_answer() {
    let (a, b) = (Backend::new("a"), Backend::new("b"));
    let plugin = ready(ALL, &[&a, &b]).await;
    let made = encrypted(&plugin).await;
    assert_eq!(made.members, ["a", "b"]);
    for (hung, other) in [(&a, "b"), (&b, "a")] {
        hung.is(Mood::Hung);
        let begun = Instant::now();
        assert_eq!(decrypted(&plugin, &made).await.unwrap(), [other]);
        assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
        hung.is(Mood::Well);
    }
    // An answer that does not open the seal is none.
    a.is(Mood::Lying);
    assert_eq!(decrypted(&plugin, &made).await.unwrap(), ["b"]);
    assert!(plugin.metrics().text().contains("bulla_kms_hedges_total"));
}

#[tokio::test]
async fn a_strict_policy_makes_no_seed_without_all() {
    let (a, b) = (Backend::new("a"), Backend::new("b"));
    let plugin = ready(ALL, &[&a, &b]).await;
    b.is(Mood::Down);
    let refused = plugin.encrypt(seed(7), soon()).await.unwrap_err();
    assert_eq!((refused.class, refused.text.as_str()), (Class::Unavailable, "not wrapped (b: unavailable)"));
    plugin.ready().expect("an outage alone changes nothing");
    tokio::time::sleep(Duration::from_millis(550)).await;
    plugin.look_once().await;
    plugin.ready().expect_err("until it lasts");
}

#[tokio::test]
async fn a_degraded_seed_has_an_id_of_its_own_until_the_member_is_back() {
    let (a, b) = (Backend::new("a"), Backend::new("b"));
    let plugin = ready(DEGRADED, &[&a, &b]).await;
    let whole = encrypted(&plugin).await;
    b.is(Mood::Down);
    plugin.look_once().await;
    assert_eq!(plugin.ready().unwrap(), whole.key_id, "an outage alone changes nothing");
    plugin.encrypt(seed(7), soon()).await.expect_err("the id named both");
    let less = encrypted(&plugin).await;
    assert_eq!(less.key_id, plugin.ready().unwrap());
    assert_ne!(less.key_id, whole.key_id);
    assert_eq!(less.members, ["a"]);
    // A node that was restarted meanwhile finds the same id.
    let other = node(DEGRADED, &[&a, &b], None);
    other.look_once().await;
    assert_eq!(other.ready().unwrap(), less.key_id);
    b.is(Mood::Well);
    plugin.look_once().await;
    assert_eq!(plugin.ready().unwrap(), less.key_id, "one good look may be luck");
    plugin.look_once().await;
    assert_eq!(plugin.ready().unwrap(), whole.key_id);
    a.is(Mood::Down);
    decrypted(&plugin, &less).await.expect_err("its only copy is away");
    decrypted(&plugin, &whole).await.unwrap();
}

#[tokio::test]
async fn a_quorum_goes_on_under_the_same_id() {
    let (a, b, c) = (Backend::new("a"), Backend::new("b"), Backend::new("c"));
    let plugin = ready(Combination::Any(Policy::Quorum(2)), &[&a, &b, &c]).await;
    let whole = encrypted(&plugin).await;
    c.is(Mood::Hung);
    let less = encrypted(&plugin).await;
    assert_eq!((&less.key_id, less.members.as_slice()), (&whole.key_id, ["a".to_owned(), "b".to_owned()].as_slice()));
    b.is(Mood::Down);
    plugin.encrypt(seed(7), soon()).await.unwrap_err();
    decrypted(&plugin, &less).await.unwrap();
}

#[tokio::test]
async fn split_members_are_all_needed_to_decrypt() {
    let (a, b) = (Backend::new("a"), Backend::new("b"));
    let plugin = ready(Combination::Split, &[&a, &b]).await;
    let made = encrypted(&plugin).await;
    assert_eq!(decrypted(&plugin, &made).await.unwrap(), ["a", "b"]);
    for member in [&a, &b] {
        member.is(Mood::Down);
        let refused = decrypted(&plugin, &made).await.unwrap_err();
        assert_eq!(refused.class, Class::Unavailable);
        member.is(Mood::Well);
        plugin.look_once().await;
    }
    // Either alone, as whoever stole it: neither opens it in the other mode.
    let alone = ready(ALL, &[&a]).await;
    decrypted(&alone, &made).await.unwrap_err();
}

#[tokio::test]
async fn a_reboot_in_any_order_comes_up() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let backend = Backend::new("a");
    let before = node(ALL, &[&backend], Some(&state));
    before.look_once().await;
    let made = encrypted(&before).await;
    drop(before);
    // The plugin is there first, kube-apiserver asks next, and the backend comes last.
    backend.is(Mood::Down);
    let plugin = node(ALL, &[&backend], Some(&state));
    let watch = tokio::spawn(Arc::clone(&plugin).supervise());
    assert_eq!(plugin.status(soon()).await.unwrap_err().class, Class::Unavailable);
    decrypted(&plugin, &made).await.unwrap_err();
    backend.is(Mood::Well);
    let begun = Instant::now();
    while plugin.ready().is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never comes up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(plugin.ready().unwrap(), made.key_id);
    assert_eq!(decrypted(&plugin, &made).await.unwrap(), ["a"]);
    watch.abort();
    // The backend is there first, and the first question is a read.
    let plugin = node(ALL, &[&backend], Some(&state));
    let watch = tokio::spawn(Arc::clone(&plugin).supervise());
    assert_eq!(decrypted(&plugin, &made).await.unwrap(), ["a"]);
    assert_eq!(encrypted(&plugin).await.key_id, made.key_id);
    watch.abort();
}

#[tokio::test]
async fn a_plugin_restart_in_a_rotation_goes_on_and_a_way_back_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let backend = Backend::new("a");
    let first = node(ALL, &[&backend], Some(&state));
    first.look_once().await;
    let old = first.ready().unwrap();
    backend.rotate();
    let second = node(ALL, &[&backend], Some(&state));
    second.look_once().await;
    assert_eq!(second.ready().unwrap(), old, "what the others still use");
    second.look_once().await;
    second.look_once().await;
    let new = second.ready().unwrap();
    assert_ne!(new, old);
    backend.state().active = 1;
    let third = node(ALL, &[&backend], Some(&state));
    third.look_once().await;
    assert_eq!(third.ready().unwrap(), new, "the key that was left is not used again");
    assert!(third.metrics().text().contains("bulla_kms_member_went_back{member=\"a\",kind=\"age\"} 1"));
    backend.state().keys.remove(&2);
    let fourth = node(ALL, &[&backend], Some(&state));
    fourth.look_once().await;
    fourth.ready().expect_err("nor if it is all that is left");
}

#[tokio::test]
async fn many_who_ask_for_one_seed_cause_one_call() {
    let backend = Backend::new("a");
    let plugin = ready(ALL, &[&backend]).await;
    let made = Arc::new(encrypted(&plugin).await);
    backend.state().delay = Duration::from_millis(50);
    let before = backend.state().unwraps;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (plugin, made) = (Arc::clone(&plugin), Arc::clone(&made));
        tasks.spawn(async move { decrypted(&plugin, &made).await.unwrap() });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(backend.state().unwraps - before, 1);
}

#[tokio::test]
async fn each_who_asks_for_one_seed_has_its_own_time() {
    let backend = Backend::new("a");
    let plugin = ready(ALL, &[&backend]).await;
    let made = Arc::new(encrypted(&plugin).await);
    backend.state().delay = Duration::from_millis(80);
    let ask = |millis: u64| {
        let (plugin, made) = (Arc::clone(&plugin), Arc::clone(&made));
        let until = Instant::now() + Duration::from_millis(millis);
        tokio::spawn(async move { plugin.decrypt(made.key_id.as_str(), &made.ciphertext, until).await.map(|_| ()) })
    };
    // The first has too little time, and who joined it has enough.
    let (first, second) = (ask(40), ask(2000));
    assert_eq!(first.await.unwrap().unwrap_err().class, Class::Unavailable);
    second.await.unwrap().unwrap();
    // And the other way round: who joined waits no longer than it may.
    let (first, began) = (ask(2000), Instant::now());
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(ask(20).await.unwrap().unwrap_err().class, Class::Unavailable);
    assert!(began.elapsed() < Duration::from_millis(75), "{:?}", began.elapsed());
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn seeds_have_a_size() {
    let backend = Backend::new("a");
    let plugin = ready(ALL, &[&backend]).await;
    for bytes in [0, 65, 5000] {
        let refused = plugin.encrypt(SecretBytes::new(vec![1; bytes]), soon()).await.unwrap_err();
        assert_eq!(refused.class, Class::Corrupt);
        assert!(refused.text.contains(&bytes.to_string()), "{refused}");
    }
    let made = plugin.encrypt(SecretBytes::new(vec![1; 64]), soon()).await.unwrap();
    let back = plugin.decrypt(made.key_id.as_str(), &made.ciphertext, soon()).await.unwrap();
    assert_eq!(back.seed.expose(), &[1; 64]);
}

/// Another node is ahead by a key of one member while another member hangs: who has the key is asked as soon as it is known, and
/// not when the time is over.
#[tokio::test]
async fn a_member_that_hangs_keeps_nobody_from_a_new_key_of_another() {
    let (a, b) = (Backend::new("a"), Backend::new("b"));
    let behind = node_that_looks(DEGRADED, &[&a, &b], None, Duration::from_secs(3600));
    behind.look_once().await;
    let ahead = ready(DEGRADED, &[&a]).await;
    a.rotate();
    ahead.look_once().await;
    ahead.look_once().await;
    let made = encrypted(&ahead).await;
    b.is(Mood::Hung);
    assert_eq!(decrypted(&behind, &made).await.unwrap(), ["a"]);
}

/// A thousand ask at once while one member hangs: who has a place is answered by the other, everybody else is told so, and no
/// place is kept.
#[tokio::test]
async fn a_thousand_who_ask_at_once_are_answered_or_told_though_a_member_hangs() {
    let (a, b) = (Backend::new("a"), Backend::new("b"));
    let plugin = ready(ALL, &[&a, &b]).await;
    let made = Arc::new(encrypted(&plugin).await);
    for hung in [&a, &b] {
        hung.is(Mood::Hung);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let (plugin, made) = (Arc::clone(&plugin), Arc::clone(&made));
            tasks.spawn(async move { decrypted(&plugin, &made).await.map(|_| ()) });
        }
        let (mut answered, mut told) = (0, 0);
        while let Some(done) = tasks.join_next().await {
            match done.unwrap() {
                Ok(()) => answered += 1,
                Err(refused) => {
                    assert_eq!(refused.class, Class::Throttled, "{refused}");
                    told += 1;
                }
            }
        }
        assert!(answered >= 64 && answered + told == 1000, "{answered} answered, {told} told");
        hung.is(Mood::Well);
        decrypted(&plugin, &made).await.unwrap();
        // It was left alone meanwhile.
        plugin.look_once().await;
    }
}

/// What passes is tried once more and what does not is not; a member that failed again and again is not asked for a while, until a
/// look proves it.
#[tokio::test]
async fn a_member_is_tried_twice_at_most_and_then_left_alone() {
    let backend = Backend::new("a");
    let plugin = ready(ALL, &[&backend]).await;
    let made = encrypted(&plugin).await;
    let asked = async |mood: Mood| {
        backend.is(mood);
        let before = backend.state().unwraps;
        let class = decrypted(&plugin, &made).await.unwrap_err().class;
        let asked = backend.state().unwraps - before;
        (class, asked)
    };
    assert_eq!(asked(Mood::Disabled).await, (Class::KeyDisabled, 1));
    assert_eq!(asked(Mood::Down).await, (Class::Unavailable, 2));
    assert_eq!(asked(Mood::Down).await, (Class::Unavailable, 2));
    assert_eq!(asked(Mood::Well).await, (Class::Unavailable, 0), "it is left alone");
    plugin.look_once().await;
    assert_eq!(decrypted(&plugin, &made).await.unwrap(), ["a"]);
}

/// A disk that is full or read-only takes no seed away from the cluster; it is counted.
#[tokio::test]
async fn a_state_that_cannot_be_written_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("none/state.json");
    let backend = Backend::new("a");
    let plugin = node(ALL, &[&backend], Some(&state));
    plugin.look_once().await;
    let made = encrypted(&plugin).await;
    assert_eq!(plugin.ready().unwrap(), made.key_id);
    decrypted(&plugin, &made).await.unwrap();
    let counted = plugin.metrics().text();
    assert!(counted.contains("bulla_kms_state_failures_total 1"), "{counted}");
}
