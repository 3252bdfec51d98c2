//! The few verbs whose right does not come from policy: they must work while nothing can be read (init, unseal,
//! consent to lost commits), or repair the policy set itself. Their right is a place among the seal's admins.
//! Threat: a second road around policy. So it is a value of its own, made in one function, and good only for
//! the verbs listed in [`SealRight::covers`].

use super::Subject;
use crate::action::Action;
use bulla_wire::id::PrincipalId;

/// The caller is an admin of the seal.
#[derive(Debug)]
pub struct SealRight {
    holder: Subject,
}

impl SealRight {
    /// Vouches that `caller` is one of `admins`: those of the seal configuration, or at init those of the request.
    /// The caller's key must be verified. Where k admins must agree, counting their signatures is the operation's
    /// own duty. Gives the subject back if it is no admin.
    pub fn assertion(admins: &[PrincipalId], caller: Subject) -> Result<Self, Subject> {
        if admins.contains(&caller.id) { Ok(Self { holder: caller }) } else { Err(caller) }
    }

    /// Whether the right is enough for `action`. Looking at the seal and putting the next document are among them
    /// for a sealed node, which cannot ask policy; a document needs the signatures of k admins all the same.
    pub const fn covers(action: Action) -> bool {
        !action.asks_policy() || matches!(action, Action::SealStatus | Action::DocumentPut)
    }

    pub(super) fn into_holder(self) -> Subject {
        self.holder
    }
}
