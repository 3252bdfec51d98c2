//! Large wraps are kept in pieces, which are there before the wrap is and must go with it.

use super::Sim;
use crate::history::{Broken, broken};
use crate::machine::at_once;
use crate::mutant::Mutant;
use crate::play::Kind;
use crate::stage::ADMIN;
use bulla_core::engine::chunk::UPLOAD_LIFETIME_MS;
use bulla_core::record::{Answer, Read, SCAN_ENTRIES_MAX, Table};
use bulla_testkit::raw::Request;

/// No record has so many bytes but a piece.
const PIECE_BYTES: usize = 32 * 1024;

impl Sim<'_> {
    /// So much time passes that an upload which came to nothing is overdue.
    pub fn sweep_pieces(&mut self) -> Result<(), Broken> {
        self.unseal()?;
        // A clock that was set is noticed before an admin says that it is right.
        self.tick()?;
        self.challenges[ADMIN] = None;
        self.admin(ADMIN, "POST", "/v1/seal:confirm-clock", vec![])?;
        // What began before the clock was set back is due by so much later.
        self.pass(UPLOAD_LIFETIME_MS + self.set_back_ms);
        if self.mutant != Some(Mutant::NeverSweeps) {
            self.tick()?;
        }
        Ok(())
    }

    /// A large delivery waits for a thread, so nothing else may be under way, or the order would not be the seed's.
    pub fn arrive_in_order(&mut self, op: usize, request: Request) -> Result<(), Broken> {
        let is_large = |wrap: usize| self.stage.files[self.wraps[wrap].file].is_large();
        let alone = matches!(self.ops[op].kind, Kind::Open { wrap, .. } if is_large(wrap));
        if alone {
            self.drain()?;
        }
        self.arrive(op, request);
        if alone { self.drain() } else { Ok(()) }
    }

    fn tick(&mut self) -> Result<(), Broken> {
        let watch = self.watch.take().expect("a watch");
        self.watch = self.alone(|machine| machine.tick(watch))?.or(self.watch.take());
        Ok(())
    }

    /// The store has the pieces of the wraps that somebody may still open, and no others.
    pub fn no_piece_is_left(&mut self) -> Result<(), Broken> {
        let wanted = self.end().pieces();
        let store = self.machine().node.parts.store.clone();
        let (mut found, mut after) = (0, None);
        loop {
            let read = Read::Scan { table: Table::Data, prefix: vec![], after, limit: SCAN_ENTRIES_MAX };
            let mut answers = at_once(store.read(vec![read])).expect("a store that answers").answers;
            let page = answers.pop().and_then(Answer::into_page).unwrap_or_default();
            found += page.entries.iter().filter(|(_, value)| value.as_bytes().len() > PIECE_BYTES).count();
            after = page.entries.last().map(|(key, _)| key.clone());
            if !page.more || after.is_none() {
                break;
            }
        }
        if !wanted.contains(&found) {
            return broken("no_piece_is_left", format!("{found} pieces, and {wanted:?} are of use"));
        }
        Ok(())
    }
}
