//! Counts what must not fill the disk: requests without a valid signature.
//!
//! Whoever can reach a listener can make such requests, at any rate and for ever. So what is new is written within a
//! second, what goes on once a minute, and in all no more than a fixed number of lines an hour. Counts wait in memory,
//! where they are bounded; none is lost but with the process.

use bulla_core::audit::{ANONYMOUS_ADDRESSES_MAX, Address, Body, Label};
use bulla_wire::error::Code;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most pairs of route and reason at once. There are fewer routes and reasons than that; were there more, the rest is
/// counted together.
pub(super) const PAIRS_MAX: usize = 256;
/// The route of what is counted together.
const OTHER: &str = "other";
/// A pair that goes on gets a line so often.
const AGAIN: Duration = Duration::from_secs(60);
/// Lines in an hour. Each has at most 1 KiB, so that is 24 MiB a day; and it is room for seventeen pairs that go on
/// without a pause, which is more than well-behaved clients and a health check make.
pub(super) const LINES_AN_HOUR: u32 = 1024;
const HOUR: Duration = Duration::from_secs(3600);

/// The counts since the last lines were written.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pairs: BTreeMap<(&'static str, Option<&'static str>), Counter>,
    /// When the hour began, and how many lines it has had.
    hour: Option<(Instant, u32)>,
}

#[derive(Debug)]
struct Counter {
    reason: Option<Code>,
    from_ms: u64,
    /// 0 after a line was written, until the next request.
    count: u64,
    addresses: Vec<Address>,
    /// Not before; none for a pair that is new.
    next: Option<Instant>,
}

impl Counters {
    /// Counts one request.
    pub(super) fn count(&mut self, route: &'static str, reason: Option<Code>, address: Address, now_ms: u64) {
        let code = reason.map(Code::as_str);
        let full = self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&(route, code));
        let (key, reason) = if full { ((OTHER, None), None) } else { ((route, code), reason) };
        let new = || Counter { reason, from_ms: now_ms, count: 0, addresses: Vec::new(), next: None };
        let counter = self.pairs.entry(key).or_insert_with(new);
        if counter.count == 0 {
            counter.from_ms = now_ms;
        }
        counter.count = counter.count.saturating_add(1);
        if counter.addresses.len() < ANONYMOUS_ADDRESSES_MAX && !counter.addresses.contains(&address) {
            counter.addresses.push(address);
        }
    }

    /// Takes as lines what is due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Body> {
        let (began, mut lines) = match self.hour {
            Some((began, lines)) if now.saturating_duration_since(began) < HOUR => (began, lines),
            _ => (now, 0),
        };
        let mut bodies = Vec::new();
        self.pairs.retain(|(route, _), counter| {
            if counter.next.is_some_and(|next| now < next) {
                return true;
            }
            if counter.count > 0 && lines < LINES_AN_HOUR {
                lines = lines.saturating_add(1);
                bodies.push(counter.take(route));
                counter.next = Some(now + AGAIN);
            } else if counter.count == 0 {
                return false;
            }
            true
        });
        self.hour = Some((began, lines));
        bodies
    }

    /// Takes everything as lines, as the log ends.
    pub(super) fn all(&mut self) -> Vec<Body> {
        let pairs = std::mem::take(&mut self.pairs);
        pairs.into_iter().filter(|(_, counter)| counter.count > 0).map(|((r, _), mut c)| c.take(r)).collect()
    }
}

impl Counter {
    fn take(&mut self, route: &str) -> Body {
        Body::Anonymous {
            route: Label::lossy(route),
            reason: self.reason,
            from_ms: self.from_ms,
            count: std::mem::take(&mut self.count),
            addresses: std::mem::take(&mut self.addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> Address {
        Address::Ip(std::net::Ipv6Addr::from(u128::MAX - u128::from(n)).into())
    }

    fn counted(bodies: &[Body]) -> u64 {
        bodies.iter().map(|body| if let Body::Anonymous { count, .. } = body { *count } else { 0 }).sum()
    }

    #[test]
    fn what_is_new_is_told_at_once_and_what_goes_on_once_a_minute() {
        let (mut counters, began) = (Counters::default(), Instant::now());
        let mut lines = Vec::new();
        for second in 0..600 {
            counters.count("kv", Some(Code::Unauthenticated), address(second), u64::from(second));
            if second == 125 {
                counters.count("health", None, address(0), 125);
            }
            let due = counters.due(began + Duration::from_secs(second.into()));
            lines.extend(due.into_iter().map(|body| (second, body)));
        }
        let kv: Vec<_> = lines.iter().filter(|(_, body)| counted(std::slice::from_ref(body)) > 1).collect();
        assert_eq!(
            kv.iter().map(|(second, _)| *second).collect::<Vec<_>>(),
            [60, 120, 180, 240, 300, 360, 420, 480, 540]
        );
        assert!(kv.iter().all(|(second, body)| match body {
            Body::Anonymous { from_ms, count, addresses, .. } => {
                (*from_ms, *count, addresses.len()) == (u64::from(*second) - 59, 60, 8)
            }
            _ => false,
        }));
        let singles: Vec<_> = lines.iter().filter(|(_, body)| counted(std::slice::from_ref(body)) == 1).collect();
        assert_eq!(singles.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [0, 125], "new, so at once");
        assert_eq!(counted(&counters.all()), 59, "what waits is not lost");
        assert!(counters.all().is_empty());
    }

    #[test]
    fn a_pair_that_paused_is_new_again() {
        let (mut counters, began) = (Counters::default(), Instant::now());
        for second in [0, 61, 200] {
            counters.count("kv", None, address(0), 0);
            assert_eq!(counted(&counters.due(began + Duration::from_secs(second))), 1);
        }
        counters.due(began + Duration::from_secs(261));
        assert!(counters.pairs.is_empty());
    }

    #[test]
    fn nobody_fills_the_disk_from_outside() {
        let (mut counters, began) = (Counters::default(), Instant::now());
        let routes: Vec<&'static str> =
            (0..PAIRS_MAX + 50).map(|n| &*Box::leak(format!("r{n}").into_boxed_str())).collect();
        let (mut sent, mut told, mut bytes) = (0, 0, 0);
        for second in 0..24 * 3600 {
            for route in routes.iter().skip(usize::from(second % 2 == 0) * 50).step_by(17) {
                counters.count(route, Some(Code::Unauthenticated), address(second), u64::from(second));
                sent += 1;
            }
            for body in counters.due(began + Duration::from_secs(second.into())) {
                told += counted(std::slice::from_ref(&body));
                let mut line = Vec::new();
                bulla_core::audit::Chain::default().append(u64::MAX, &body, &mut line);
                bytes += line.len();
            }
        }
        assert!(counters.pairs.len() <= PAIRS_MAX + 1);
        assert!(bytes <= 24 * 1024 * 1024, "{bytes} bytes a day");
        assert!(told < sent, "some wait");
        told += counted(&counters.all());
        assert_eq!(told, sent, "and none is lost");
    }
}
