//! Turns at the password of a static role: one rotation at a time, and nobody is told a password while it changes. Those who
//! are told it have it side by side, so that however many they are a rotation waits for those alone who are at it.

use crate::unsealed::lock;
use bulla_core::action::RoleName;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Who has it rotates; the end of it lets the next one.
pub type Turn = OwnedRwLockWriteGuard<()>;

/// Who has it is told the password; the next rotation waits for its end.
pub type Look = OwnedRwLockReadGuard<()>;

/// The turns of all static roles. What nobody holds or waits for takes no memory for long.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<RoleName, Arc<RwLock<()>>>>);

impl Turns {
    fn of(&self, role: &RoleName) -> Arc<RwLock<()>> {
        let mut turns = lock(&self.0);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(role.clone()).or_default().clone()
    }

    /// Waits for a turn. They come in order, so whoever waits is not kept out by those who come after.
    pub async fn wait(&self, role: &RoleName) -> Turn {
        self.of(role).write_owned().await
    }

    /// Waits until no rotation is under way, nor one waits that came before.
    pub async fn look(&self, role: &RoleName) -> Look {
        self.of(role).read_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    /// Whoever may be told a password keeps it from no rotation, with however many requests.
    #[tokio::test]
    async fn a_rotation_waits_for_those_alone_who_are_told_the_password_now() {
        let turns = Turns::default();
        let role = RoleName::new(&"app".parse().unwrap(), &"billing".parse().unwrap());
        let mut context = Context::from_waker(Waker::noop());
        let told = [turns.look(&role).await, turns.look(&role).await];
        let mut rotation = pin!(turns.wait(&role));
        assert!(rotation.as_mut().poll(&mut context).is_pending());
        let mut later: Vec<_> = (0..100).map(|_| Box::pin(turns.look(&role))).collect();
        assert!(later.iter_mut().all(|look| look.as_mut().poll(&mut context).is_pending()), "they came later");
        drop(told);
        let turn = rotation.await;
        assert!(later.iter_mut().all(|look| look.as_mut().poll(&mut context).is_pending()), "it changes");
        drop(turn);
        for look in later {
            drop(look.await);
        }
        drop(turns.wait(&RoleName::new(&"app".parse().unwrap(), &"other".parse().unwrap())).await);
        assert_eq!(lock(&turns.0).len(), 1, "what nobody holds takes no memory");
    }
}
