//! The right that a request needs, for whoever was refused.

use super::{Auth, find};
use bulla_core::action::{Action, Resource};
use bulla_wire::id::PrincipalId;

/// What somebody needs in order to make a request; `None` for what is on the way to others and changes nothing: open
/// routes, to know who one is, and to resolve names.
pub fn needed(method: &str, path: &str) -> Option<Needed> {
    let Ok(matched) = find(method, path) else { return Some(Needed::NoPolicy) };
    let on_the_way = [Action::SelfRead, Action::PrincipalRead, Action::PrincipalList];
    match matched.needs() {
        Some((action, _)) if on_the_way.contains(&action) => None,
        Some((action, resource)) => Some(Needed::Policy(action, resource)),
        None if matched.route.auth == Auth::Open => None,
        None => Some(Needed::NoPolicy),
    }
}

/// A right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// One that policy gives.
    Policy(Action, Resource),
    /// One that no policy gives: a place among the seal's admins, or their signatures.
    NoPolicy,
}

impl Needed {
    /// The statement that gives it to one principal alone.
    pub fn policy(&self, principal: &PrincipalId) -> Option<String> {
        match self {
            Self::Policy(action, resource) => Some(bulla_core::policy::permit(principal, *action, resource)),
            Self::NoPolicy => None,
        }
    }
}
