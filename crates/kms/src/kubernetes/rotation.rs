//! How far a rotation is, and whether the key before may be retired.
//!
//! A key that is retired too early takes Secrets away for ever, so what counts is proof. kube-apiserver tells which key ids
//! it read from etcd since it began, and reads every object of a watched kind when it begins. So the proof is: every
//! kube-apiserver began after the last write under the old key, has read something since, and nothing of that was under
//! another key id than the one in use. That the old hash stopped moving is none, as nobody may have read.

use super::metrics::{Apiserver, OfProvider};
use crate::finding::Finding;
use std::collections::{BTreeMap, BTreeSet};

/// kube-apiserver writes with a key id for so long after it was last told it, in seconds.
const WINDOW: f64 = 180.0;

/// What is to be judged.
#[derive(Debug)]
pub struct Rotation<'a> {
    /// The name of the plugin in the EncryptionConfiguration.
    pub provider: &'a str,
    /// The hash of the key id that the plugin on this node names.
    pub own: &'a str,
    /// What each kube-apiserver says, by the name of its file.
    pub apiservers: &'a [(String, Apiserver)],
}

/// The key that is to be retired.
#[derive(Debug, Clone, Copy)]
pub struct Retired<'a> {
    /// The hash of its key id.
    pub old: &'a str,
    /// How many kube-apiservers the cluster has.
    pub apiservers: usize,
}

/// What no metric shows, to be told with each proof.
pub const NOT_SHOWN: &[(&str, &str)] = &[
    (
        "backups of etcd from before need the key before",
        "disable or archive it, and keep it until the last of them is gone",
    ),
    (
        "objects that kube-apiserver does not watch, such as events and kinds with a cache of size 0",
        "encrypt none of them, or rewrite and read each of them",
    ),
    (
        "kube-apiservers whose metrics were not given, aggregated ones, and other clusters that use the same key",
        "count them before anything is retired",
    ),
];

impl Rotation<'_> {
    fn of<'a>(&self, apiserver: &'a Apiserver) -> Option<&'a OfProvider> {
        apiserver.providers.get(self.provider)
    }

    /// Whether all kube-apiservers use the key id that the plugin names.
    pub fn agreed(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (file, apiserver) in self.apiservers {
            findings.push(match self.of(apiserver).and_then(OfProvider::newest) {
                None => {
                    let names: Vec<&str> = apiserver.providers.keys().map(String::as_str).collect();
                    let found = format!("{file}: no provider {} was ever told a key id", self.provider);
                    Finding::fail("told", found, format!("--provider NAME; it has {}", names.join(", ")))
                }
                Some((hash, at)) if hash == self.own => {
                    Finding::ok("told", format!("{file}: {hash}, at {}", second(at)))
                }
                Some((hash, at)) => {
                    let found = format!("{file}: {hash} at {}, and this plugin names {}", second(at), self.own);
                    let hint =
                        "wait promote_delay_s and a minute; if it stays so, compare `bulla kms verify` on every node";
                    Finding::fail("told", found, hint)
                }
            });
            findings.push(self.stored(file, apiserver));
        }
        findings
    }

    fn stored(&self, file: &str, apiserver: &Apiserver) -> Finding {
        let read = self.of(apiserver).map(|of| &of.read);
        let others: Vec<String> = read
            .into_iter()
            .flatten()
            .filter(|(hash, _)| *hash != self.own)
            .map(|(hash, at)| format!("{hash} (last at {})", second(*at)))
            .collect();
        if others.is_empty() {
            return Finding::ok("stored", format!("{file}: nothing under another key was read since it began"));
        }
        let found = format!("{file}: since it began it read objects under {}", others.join(", "));
        let hint = "rewrite them: `kubectl get secrets -A -o json | kubectl replace -f -`, and every other kind that is encrypted";
        Finding::warn("stored", found, hint)
    }

    /// Whether a key may be retired: it may if no finding fails.
    pub fn retirable(&self, retired: Retired<'_>) -> Vec<Finding> {
        let name = "proof";
        let mut findings = self.agreed();
        if retired.old == self.own {
            findings.push(Finding::fail(name, format!("{} is the key in use", retired.old), "name the one before"));
        }
        let ids: BTreeSet<&str> = self.apiservers.iter().filter_map(|(_, one)| one.id.as_deref()).collect();
        if ids.is_empty() || ids.len() != self.apiservers.len() || ids.len() != retired.apiservers {
            let found = format!(
                "{} files tell of {} kube-apiservers, and there are said to be {}",
                self.apiservers.len(),
                ids.len(),
                retired.apiservers
            );
            let hint = "give one file of each: `kubectl --server https://NODE:6443 get --raw /metrics > NODE.metrics`";
            findings.push(Finding::fail(name, found, hint));
        }
        for (file, apiserver) in self.apiservers {
            findings.push(self.proven(file, apiserver, retired.old));
        }
        findings
    }

    fn proven(&self, file: &str, apiserver: &Apiserver, old: &str) -> Finding {
        let restart =
            "rewrite everything, wait three minutes, restart this kube-apiserver, and fetch its metrics again";
        let fail = |found: String| Finding::fail("proof", format!("{file}: {found}"), restart);
        let Some(of) = self.of(apiserver) else { return fail("nothing is known of this provider".to_owned()) };
        let Some(started) = apiserver.started else {
            return fail("it does not say when it began (process_start_time_seconds)".to_owned());
        };
        // A renamed provider may have had the same key.
        let anywhere = |pick: fn(&OfProvider) -> &BTreeMap<String, f64>| {
            apiserver.providers.values().any(|of| pick(of).contains_key(old))
        };
        if anywhere(|of| &of.told) {
            return fail("it was told the old key id since it began, so it may have written under it".to_owned());
        }
        if anywhere(|of| &of.written) {
            return fail("it wrote under the old key since it began".to_owned());
        }
        if anywhere(|of| &of.read) {
            return fail("it read an object under the old key since it began".to_owned());
        }
        if of.told.keys().chain(of.written.keys()).any(|hash| hash != self.own) {
            return fail(
                "since it began it was told a third key id, or wrote under one, which may be of the old key too"
                    .to_owned(),
            );
        }
        if of.read.keys().any(|hash| hash != self.own) {
            return fail("it read objects under a third key id, which may be of the old key too".to_owned());
        }
        if !of.read.contains_key(self.own) {
            return fail("it read nothing from etcd since it began, so nothing is known of what is stored".to_owned());
        }
        let newest = of.newest().map_or(started, |(_, at)| at);
        if newest - started < WINDOW {
            return fail(format!("it began at {}, less than three minutes before it was last told", second(started)));
        }
        Finding::ok(
            "proof",
            format!("{file}: began at {}, and read objects under the key in use alone", second(started)),
        )
    }
}

/// The first second that humantime does not write: that of the year 10000.
const YEAR_10000: f64 = 253_402_300_800.0;

/// A time of the metrics, which are whatever somebody handed over.
fn second(at: f64) -> String {
    let at = Some(at.floor()).filter(|at| *at < YEAR_10000);
    let at = at.and_then(|at| std::time::Duration::try_from_secs_f64(at).ok());
    let at = at.and_then(|at| std::time::UNIX_EPOCH.checked_add(at));
    at.map_or_else(|| "no time".to_owned(), |at| humantime::format_rfc3339_seconds(at).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Verdict;

    const OWN: &str = "sha256:own";
    const OLD: &str = "sha256:old";
    const START: f64 = 1_700_000_000.0;

    /// One that was restarted after everything was rewritten.
    fn restarted(id: &str) -> Apiserver {
        let of = OfProvider {
            told: [(OWN.to_owned(), START + 600.0)].into(),
            written: [(OWN.to_owned(), START + 500.0)].into(),
            read: [(OWN.to_owned(), START + 2.0)].into(),
        };
        Apiserver { id: Some(id.into()), started: Some(START), providers: [("bulla".to_owned(), of)].into() }
    }

    fn with(change: impl FnOnce(&mut Apiserver, &mut OfProvider)) -> Apiserver {
        let mut one = restarted("two");
        let mut of = one.providers.remove("bulla").unwrap();
        change(&mut one, &mut of);
        one.providers.insert("bulla".into(), of);
        one
    }

    fn put(map: &mut BTreeMap<String, f64>, hash: &str, at: f64) {
        map.insert(hash.to_owned(), at);
    }

    fn failed(apiservers: Vec<Apiserver>, count: usize, old: &str) -> Vec<String> {
        let files: Vec<_> = apiservers.into_iter().enumerate().map(|(place, one)| (format!("f{place}"), one)).collect();
        let rotation = Rotation { provider: "bulla", own: OWN, apiservers: &files };
        let findings = rotation.retirable(Retired { old, apiservers: count });
        assert!(findings.iter().all(|finding| finding.hint.is_some() == (finding.verdict != Verdict::Ok)));
        findings.into_iter().filter(|one| one.verdict == Verdict::Fail).map(|one| one.found).collect()
    }

    #[test]
    fn any_time_is_written() {
        assert_eq!(second(1_700_000_000.9), "2023-11-14T22:13:20Z");
        assert_eq!(second(YEAR_10000 - 1.0), "9999-12-31T23:59:59Z");
        for at in [YEAR_10000, 7e14, f64::MAX, -1.0] {
            assert_eq!(second(at), "no time");
        }
    }

    #[test]
    fn proof_is_a_restart_that_read_nothing_old() {
        assert_eq!(failed(vec![restarted("one"), restarted("two")], 2, OLD), [""; 0]);
    }

    #[test]
    fn without_proof_nothing_is_retired() {
        for (one, named) in [
            // It stopped moving long ago, which is no proof.
            (with(|_, of| put(&mut of.read, OLD, START + 1.0)), "read an object under the old key"),
            (with(|_, of| put(&mut of.written, OLD, START + 1.0)), "wrote under the old key"),
            (with(|_, of| put(&mut of.told, OLD, START + 1.0)), "was told the old key id"),
            (with(|_, of| put(&mut of.told, OLD, START + 9e3)), "this plugin names"),
            (with(|_, of| put(&mut of.read, "sha256:third", START)), "read objects under a third key id"),
            // As while a member was away: the id of those that were there has the old key too.
            (with(|_, of| put(&mut of.told, "sha256:third", START + 1.0)), "told a third key id"),
            (with(|_, of| put(&mut of.written, "sha256:third", START + 1.0)), "wrote under one"),
            (with(|_, of| of.read.clear()), "read nothing"),
            (with(|one, _| one.started = None), "when it began"),
            (with(|one, _| one.started = Some(START + 500.0)), "three minutes"),
            (with(|one, _| one.id = Some("one".into())), "2 files tell of 1"),
            (with(|one, _| one.id = None), "2 files tell of 1"),
            (with(|_, of| of.told.clear()), "ever told"),
            (
                with(|one, of| {
                    let renamed = OfProvider { read: [(OLD.to_owned(), START)].into(), ..of.clone() };
                    one.providers.insert("before".into(), renamed);
                }),
                "read an object under the old key",
            ),
        ] {
            let failed = failed(vec![restarted("one"), one], 2, OLD);
            assert!(failed.iter().any(|found| found.contains(named)), "{named}: {failed:?}");
        }
        assert!(!failed(vec![restarted("one")], 3, OLD).is_empty(), "two are missing");
        assert!(!failed(vec![restarted("one")], 1, OWN).is_empty(), "it is in use");
        assert!(!failed(vec![], 0, OLD).is_empty(), "nothing proves nothing");
    }

    #[test]
    fn a_status_needs_agreement_alone() {
        let files = [("f".to_owned(), with(|_, of| put(&mut of.read, OLD, START)))];
        let findings = Rotation { provider: "bulla", own: OWN, apiservers: &files }.agreed();
        assert_eq!(findings.iter().map(|one| one.verdict).collect::<Vec<_>>(), [Verdict::Ok, Verdict::Warn]);
        assert!(findings.last().unwrap().found.contains("sha256:old (last at 2023-11-14T22:13:20Z)"));
        let findings = Rotation { provider: "other", own: OWN, apiservers: &files }.agreed();
        assert_eq!(findings.first().map(|one| one.verdict), Some(Verdict::Fail));
    }
}
