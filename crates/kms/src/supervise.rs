//! The watch over the members: each is looked at for as long as the plugin runs, and what changed is published.

use crate::member::Member;
use crate::plugin::{FIRST_LOOK, Plugin};
use bulla_crypto::random::SystemRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Every so many looks the key in use is proven again.
const DEEP: u32 = 3;
/// First wait after a look that failed; each next one is twice as long, until it is that of good looks.
const FIRST_WAIT: Duration = Duration::from_secs(2);

impl Plugin {
    /// Looks at the members until the task is dropped.
    pub async fn supervise(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        for member in self.members() {
            let (plugin, member) = (Arc::clone(&self), Arc::clone(member));
            tasks.spawn(async move { plugin.keep_watch(&member).await });
        }
        let plugin = Arc::clone(&self);
        tasks.spawn(async move {
            // A member that hangs at the first look keeps the others waiting no longer than this.
            sleep(FIRST_LOOK).await;
            plugin.publish();
        });
        while tasks.join_next().await.is_some() {}
    }

    async fn keep_watch(&self, member: &Member) {
        let mut next = FIRST_WAIT;
        for look in 0_u32.. {
            member.look(look % DEEP == 0 || !member.is_well()).await;
            self.publish();
            let wait = if member.error().is_none() {
                next = FIRST_WAIT;
                member.period()
            } else {
                let wait = next.min(member.period());
                next = wait.saturating_mul(2);
                wait
            };
            // Nodes that were started together do not ask together.
            let [byte] = bulla_crypto::random::draw::<1>(&mut SystemRng);
            sleep(wait.mul_f64(0.9 + 0.2 * f64::from(byte) / 255.0)).await;
        }
    }

    /// Looks at every member once, and proves the key that each uses.
    pub async fn look_once(&self) {
        self.look_at_all(true, || false).await;
        self.publish();
    }

    /// Looks at every member at the same time, until all were looked at or those that were are `enough`. The looks that are
    /// not done then are dropped, as they are if this is.
    pub(crate) async fn look_at_all(&self, deep: bool, enough: impl Fn() -> bool) {
        let mut tasks = JoinSet::new();
        for member in self.members() {
            let member = Arc::clone(member);
            tasks.spawn(async move { member.look(deep).await });
        }
        while tasks.join_next().await.is_some() && !enough() {}
    }
}
