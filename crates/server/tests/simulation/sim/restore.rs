//! An older copy is put in the place of the store: a snapshot, or the disk as it was. The admins consent to what is lost.

use super::Sim;
use crate::history::{Attempt, Broken, broken};
use crate::machine::{Future, wait};
use crate::mutant::Mutant;
use crate::play::Kind;
use crate::stage::ADMIN;
use bulla_crypto::evidence::{self, ClusterView};
use bulla_crypto::snapshot::Reader;
use bulla_server::snapshot::restore;
use bulla_store::simulated::Disk;
use bulla_wire::api::{ShareGiven, Signed};
use bulla_wire::dsse::Envelope;
use bulla_wire::json;
use bulla_wire::snapshot::Begun;
use std::path::PathBuf;

/// So many requests follow a restore.
const OPS_AFTER: usize = 10;

/// A copy of the store, which is older by and by.
pub struct OlderCopy {
    at: u64,
    what: What,
    /// The log beside it, for the wrong world that puts that back too.
    log: Vec<(PathBuf, Vec<u8>)>,
}

enum What {
    Disk(Disk),
    Snapshot { id: String, page: u64, bytes: Vec<u8>, reader: Box<Reader> },
}

/// What was done with it.
#[derive(Debug)]
pub struct Restored {
    at: u64,
    copied_at: u64,
    /// Wraps that were there when the copy was taken.
    copied: Vec<usize>,
    /// So many requests and wraps there were before.
    pub ops: usize,
    pub wraps: usize,
    /// The admins were asked to consent to a loss.
    is_consented: bool,
    is_open: bool,
}

impl Restored {
    /// Whether a wrap was made after the copy, in the history that was lost.
    pub fn has_lost(&self, wrap: usize) -> bool {
        wrap < self.wraps && !self.copied.contains(&wrap)
    }
}

impl Sim<'_> {
    /// Somebody takes a copy, goes on with it, or puts it back. A seed has one at most.
    pub fn copy_or_restore(&mut self) -> Result<(), Broken> {
        if self.restored.is_some() || self.wraps.is_empty() {
            return Ok(());
        }
        let Some(copy) = self.copy.take() else {
            if self.rng.once_in(3) {
                return self.begin_snapshot();
            }
            let (mut rng, disk) = (self.rng.fork(), &self.disks.store);
            let disk = disk.after_power_cut(disk.orders(), || rng.next());
            self.has_copied(What::Disk(disk));
            return Ok(());
        };
        match &copy.what {
            What::Snapshot { reader, .. } if !reader.at_end() => self.next_page(copy),
            // While it is sealed, lines that power took are not written again yet: then nobody knows what is lost.
            _ if self.machine().is_unsealed() && self.rng.once_in(2) => self.put_back(copy),
            _ => {
                self.copy = Some(copy);
                Ok(())
            }
        }
    }

    fn has_copied(&mut self, what: What) {
        self.now += 1;
        self.tell("somebody takes a copy".into());
        let read = |path: PathBuf| {
            let bytes = std::fs::read(&path).expect("a log that can be read");
            (path, bytes)
        };
        let log = match self.mutant {
            Some(Mutant::LogRollsBackToo) => self.disks.log_files().into_iter().map(read).collect(),
            _ => vec![],
        };
        self.copy = Some(OlderCopy { at: self.now, what, log });
    }

    fn begin_snapshot(&mut self) -> Result<(), Broken> {
        self.drain()?;
        self.challenges[ADMIN] = None;
        let Some(reply) = self.admin(ADMIN, "POST", "/v1/snapshot", vec![])? else { return Ok(()) };
        if reply.status != 200 {
            return Ok(());
        }
        let Begun { id, .. } = reply.json();
        self.has_copied(What::Snapshot { id, page: 0, bytes: vec![], reader: Box::new(Reader::new()) });
        Ok(())
    }

    /// Fetches one page. Without it there is no copy.
    fn next_page(&mut self, mut copy: OlderCopy) -> Result<(), Broken> {
        let What::Snapshot { id, page, bytes, reader } = &mut copy.what else { return Ok(()) };
        self.drain()?;
        self.challenges[ADMIN] = None;
        let target = format!("/v1/snapshot/{id}?page={page}");
        let Some(reply) = self.admin(ADMIN, "GET", &target, vec![])? else { return Ok(()) };
        if reply.status != 200 {
            return Ok(());
        }
        reader.take(&reply.body, &mut |_| Ok(())).expect("a page");
        bytes.extend_from_slice(&reply.body);
        *page += 1;
        self.copy = Some(copy);
        Ok(())
    }

    /// The node stops, and begins again on the copy, which takes somebody more than a minute.
    fn put_back(&mut self, copy: OlderCopy) -> Result<(), Broken> {
        self.machine().sync_log();
        self.tell("the copy is put back".into());
        self.drop_tasks();
        let disk = match &copy.what {
            What::Disk(disk) => disk.clone(),
            What::Snapshot { bytes, .. } => self.disk_of(bytes),
        };
        if self.mutant == Some(Mutant::LogRollsBackToo) {
            self.disks.log_files().iter().for_each(|path| std::fs::remove_file(path).expect("a file"));
            copy.log.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("a file"));
        }
        self.disks.put_back(disk);
        self.machine = None;
        self.pass(61_000);
        self.now += 1;
        let is_copied = |attempt: &&Attempt| {
            attempt.ended.is_some_and(|ended| ended < copy.at)
                && attempt.outcome.as_ref().is_some_and(|outcome| outcome.code.is_none())
        };
        let copied = self.attempts.iter().filter(is_copied).filter_map(|attempt| match self.ops[attempt.op].kind {
            Kind::Create { wrap } => Some(wrap),
            _ => None,
        });
        self.restored = Some(Restored {
            at: self.now,
            copied_at: copy.at,
            copied: copied.collect(),
            ops: self.ops.len(),
            wraps: self.wraps.len(),
            is_consented: false,
            is_open: false,
        });
        (self.rekey, self.epoch) = (None, 0);
        self.weather.ops = self.ops.len() + OPS_AFTER;
        self.start()
    }

    /// What the product makes of a snapshot.
    fn disk_of(&self, bytes: &[u8]) -> Disk {
        let (file, data) = (self.disks.log.with_extension("snapshot"), self.disks.log.with_extension("restored"));
        drop(std::fs::remove_dir_all(&data));
        std::fs::write(&file, bytes).expect("a file");
        let (cluster, into) = (self.stage.view.id(), data.clone());
        let restored: Future<()> = Box::pin(async move {
            let begin = |genesis: &Envelope, _: &[Envelope]| ClusterView::pinned(cluster, genesis);
            restore(&file, &into, begin, None, None).await.map(drop).expect("a snapshot that can be restored");
        });
        wait(restored);
        Disk::with_database(std::fs::read(data.join("bulla.redb")).expect("a store"))
    }

    /// If the node asks for consent to a loss, enough admins give it. `None` if power went.
    pub fn consent(&mut self, admin: usize, given: ShareGiven) -> Result<Option<ShareGiven>, Broken> {
        let (Some(restored), Some(consent)) = (self.restored.as_mut(), given.consent_needed.clone()) else {
            return Ok(Some(given));
        };
        restored.is_consented = true;
        let needed = usize::from(self.view.newest().body().k);
        let admins = self.admins().into_iter().take(needed);
        let keys: Vec<_> = admins.map(|admin| self.stage.people[admin].identity.signing_key().unwrap()).collect();
        let envelope = evidence::sign_in_memory(&consent, &keys).expect("signatures");
        self.tell("the admins consent to a loss".into());
        let body = json::to_vec(&Signed { envelope });
        let Some(reply) = self.admin(admin, "POST", "/v1/seal:consent", body)? else { return Ok(None) };
        if reply.status != 200 {
            return broken("it_starts_again", String::from_utf8_lossy(&reply.body));
        }
        Ok(Some(reply.json()))
    }

    /// The first time that the seal is open on a copy: if anything was lost, the admins were asked.
    pub fn is_opened_again(&mut self) -> Result<(), Broken> {
        let Some(restored) = self.restored.as_mut().filter(|restored| !restored.is_open) else { return Ok(()) };
        restored.is_open = true;
        let (at, copied_at) = (restored.at, restored.copied_at);
        let kind = |attempt: &Attempt| self.ops[attempt.op].kind;
        let is_done = |attempt: &&Attempt| {
            attempt.outcome.as_ref().is_some_and(|outcome| outcome.code.is_none()) && kind(attempt).action().is_some()
        };
        let is_new = |attempt: &&Attempt| {
            let mut earlier = self.attempts.iter().take_while(|other| other.began <= copied_at);
            !earlier.any(|other| kind(other) == kind(attempt))
        };
        let since = self.attempts.iter().filter(|attempt| (copied_at..at).contains(&attempt.began));
        let lost = since.filter(is_done).find(is_new).map(kind);
        if let (Some(lost), Some(Restored { is_consented: false, .. })) = (lost, &self.restored) {
            return broken("loss_needs_consent", format!("{lost:?} was lost, and nobody was asked"));
        }
        Ok(())
    }
}
