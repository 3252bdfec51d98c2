//! Turns at the password of a static role: one rotation at a time, and nobody is told a password while it changes.

use crate::unsealed::lock;
use bulla_core::action::RoleName;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;

/// Who has it rotates; the end of it lets the next one.
pub type Turn = OwnedMutexGuard<()>;

/// The turns of all static roles. What nobody holds or waits for takes no memory for long.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<RoleName, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    fn of(&self, role: &RoleName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.0);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(role.clone()).or_default().clone()
    }

    /// Waits for a turn. They come in order, so whoever waits is not kept out by those who come after.
    pub async fn wait(&self, role: &RoleName) -> Turn {
        self.of(role).lock_owned().await
    }
}
