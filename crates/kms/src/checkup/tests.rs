use super::*;
use crate::finding::Verdict::{self, Fail, Ok as Fine, Warn};
use crate::provider::Class;

fn verdict(finding: &Finding) -> Verdict {
    assert_eq!(finding.hint.is_none(), finding.verdict == Fine, "{finding:?}");
    finding.verdict
}

fn owned(mode: u32) -> Owned {
    Owned { mode, uid: 0, gid: 7 }
}

#[test]
fn the_socket_and_its_mode() {
    let place: Place = "/run/bulla-kms/kms.sock".parse().unwrap();
    let access = Access { mode: 0o660, gid: None, uids: vec![0] };
    for (seen, wanted) in [
        (SeenSocket::Absent, Fail),
        (SeenSocket::Other, Fail),
        (SeenSocket::Abstract, Warn),
        (SeenSocket::File(owned(0o660)), Fine),
        (SeenSocket::File(owned(0o666)), Fail),
        (SeenSocket::File(owned(0o600)), Warn),
    ] {
        assert_eq!(verdict(&socket(&place, &access, &seen)), wanted, "{seen:?}");
    }
}

#[test]
fn folders_that_others_write_into() {
    let of = |modes: &[u32]| {
        let above: Vec<_> = modes.iter().enumerate().map(|(n, mode)| (format!("/{n}").into(), owned(*mode))).collect();
        verdict(&folder(&above, &[]))
    };
    for (modes, wanted) in [
        (&[][..], Fine),
        (&[0o750, 0o755, 0o755], Fine),
        (&[0o2750, 0o755], Fine),
        (&[0o2770, 0o755], Fail),
        (&[0o750, 0o775], Fail),
        (&[0o1770, 0o755], Fail),
        (&[0o755, 0o755], Warn),
        (&[0o777, 0o755], Fail),
        (&[0o750, 0o777], Fail),
        (&[0o750, 0o1777], Fine),
        (&[0o1777, 0o755], Fail),
    ] {
        assert_eq!(of(modes), wanted, "{modes:?}");
    }
}

#[test]
fn folders_that_others_own() {
    let of = |uids: &[u32]| {
        let owned = |uid: &u32| Owned { mode: 0o750, uid: *uid, gid: 0 };
        let above: Vec<_> = uids.iter().enumerate().map(|(n, uid)| (format!("/{n}").into(), owned(uid))).collect();
        verdict(&folder(&above, &[990, 991]))
    };
    for (uids, wanted) in
        [(&[0, 0][..], Fine), (&[990, 0], Fine), (&[991, 990, 0], Fine), (&[1000, 0], Warn), (&[990, 1000, 0], Warn)]
    {
        assert_eq!(of(uids), wanted, "{uids:?}");
    }
}

#[test]
fn who_answers() {
    let (own, other) = (KeyId::of("prod", 1, [], 0), KeyId::of("prod", 1, [], 1));
    let status = |key_id: &str, healthz: &str| Answered::Status { key_id: key_id.into(), healthz: healthz.into() };
    for (answered, wanted) in [
        (Answered::Nobody, Fail),
        (Answered::Forbidden, Warn),
        (Answered::HungUp, Warn),
        (Answered::Silent, Fail),
        (Answered::Refused("Unavailable".into()), Fail),
        (status(own.as_str(), "ok"), Fine),
        (status(own.as_str(), "no"), Fail),
        (status(other.as_str(), "ok"), Warn),
        (status("kleidi-kms-plugin_1_2", "ok"), Fail),
    ] {
        assert_eq!(verdict(&answers(&answered, Some(&own))), wanted, "{answered:?}");
    }
    assert_eq!(verdict(&answers(&status(own.as_str(), "ok"), None)), Fine);
}

#[test]
fn members_and_what_ends_soon() {
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let seen = |key: bool, error: bool, ends: Option<Duration>, renewed: bool| SeenMember {
        name: "m".into(),
        kind: Kind::Vault,
        key: key.then(|| "3 (x)".into()),
        error: error.then(|| ProviderError::new(Class::Denied, "no")),
        ends: ends.map(|left| now + left),
        renewed,
        period: Duration::from_secs(20),
        unopened: false,
    };
    let minute = Duration::from_secs(60);
    for (seen, wanted) in [
        (seen(true, false, None, false), &[Fine][..]),
        (seen(true, true, None, false), &[Fail]),
        (SeenMember { unopened: true, ..seen(false, true, None, true) }, &[Fail]),
        (seen(false, false, None, true), &[Fail]),
        // One that is renewed may be short, if only a look comes in time.
        (seen(true, false, Some(day), true), &[Fine]),
        (seen(true, false, Some(minute), true), &[Fine]),
        (seen(true, false, Some(minute / 2), true), &[Fine, Warn]),
        (seen(true, false, Some(day), false), &[Fine, Warn]),
        (seen(true, false, Some(day * 15), false), &[Fine]),
    ] {
        let verdicts: Vec<Verdict> = member(&seen, now).iter().map(verdict).collect();
        assert_eq!(verdicts, wanted, "{seen:?}");
    }
}

#[test]
fn the_key_id_and_what_is_written() {
    let id = KeyId::of("prod", 1, [], 0);
    assert!(key_id(Some((&id, true))).found.contains(&id.hash()), "as kube-apiserver prints it");
    assert_eq!(verdict(&key_id(Some((&id, false)))), Warn);
    assert_eq!(verdict(&key_id(None)), Fail);
    assert_eq!(verdict(&written("state", Some(("/s", true)))), Fine);
    assert_eq!(verdict(&written("state", Some(("/s", false)))), Fail);
    assert_eq!((verdict(&written("state", None)), verdict(&written("audit", None))), (Warn, Warn));
}
