//! A node without a disk: when its power goes, all is over, and nothing says otherwise.

use super::Sim;
use crate::history::{Broken, broken};
use crate::mutant::Mutant;
use bulla_store::Store;
use bulla_testkit::raw;
use bulla_wire::api::{Health, SealState};

impl Sim<'_> {
    /// Power goes. What begins then knows of no cluster, and does nothing that was asked of the one before.
    pub fn memory_ends(&mut self) -> Result<(), Broken> {
        self.tell("power goes, and with it all data".into());
        if self.mutant != Some(Mutant::MemoryStays) {
            self.disks.memory = Some(Store::memory());
        }
        self.machine = None;
        self.start()?;
        let health = self.ask(&raw::open("GET", "/v1/health"))?.expect("no power goes any more");
        let health: Health = health.json();
        if health.state != SealState::Uninitialised {
            return broken("memory_ends_with_power", format!("{health:?}"));
        }
        self.challenges = Default::default();
        for op in 0..self.ops.len() {
            let challenge = self.challenge(self.ops[op].who)?.expect("no power goes any more");
            let request = self.ops[op].signed(self.stage, &challenge);
            let reply = self.ask(&request)?.expect("no power goes any more");
            if reply.status == 200 {
                return broken("memory_ends_with_power", format!("{:?} was done", self.ops[op].kind));
            }
        }
        Ok(())
    }
}
