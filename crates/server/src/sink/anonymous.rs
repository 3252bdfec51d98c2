//! Counts what must not fill the disk: requests without a valid signature.

use bulla_core::audit::{ANONYMOUS_ADDRESSES_MAX, Address, Body, Label};
use bulla_wire::error::Code;
use std::collections::BTreeMap;

/// Most pairs of route and reason in one second. There are fewer routes and reasons than that; were there more,
/// the rest is counted together.
pub(super) const PAIRS_MAX: usize = 256;
/// The route of what is counted together.
const OTHER: &str = "other";

/// The counts since the last lines were written.
#[derive(Debug, Default)]
pub(super) struct Counters(BTreeMap<(&'static str, Option<&'static str>), Counter>);

#[derive(Debug)]
struct Counter {
    reason: Option<Code>,
    from_ms: u64,
    count: u64,
    addresses: Vec<Address>,
}

impl Counters {
    /// Counts one request.
    pub(super) fn count(&mut self, route: &'static str, reason: Option<Code>, address: Address, now_ms: u64) {
        let code = reason.map(Code::as_str);
        let full = self.0.len() >= PAIRS_MAX && !self.0.contains_key(&(route, code));
        let (key, reason) = if full { ((OTHER, None), None) } else { ((route, code), reason) };
        let counter =
            self.0.entry(key).or_insert_with(|| Counter { reason, from_ms: now_ms, count: 0, addresses: Vec::new() });
        counter.count = counter.count.saturating_add(1);
        if counter.addresses.len() < ANONYMOUS_ADDRESSES_MAX && !counter.addresses.contains(&address) {
            counter.addresses.push(address);
        }
    }

    /// Takes the counts as lines.
    pub(super) fn take(&mut self) -> Vec<Body> {
        std::mem::take(&mut self.0)
            .into_iter()
            .map(|((route, _), Counter { reason, from_ms, count, addresses })| Body::Anonymous {
                route: Label::lossy(route),
                reason,
                from_ms,
                count,
                addresses,
            })
            .collect()
    }
}
