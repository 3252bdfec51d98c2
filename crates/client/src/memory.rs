//! What a client remembers between calls, and with a directory also between runs.

use crate::ClientError;
use crate::disk::Directory;
use crate::known::{self, Known, KnownError};
use crate::state::Seen;
use bulla_crypto::evidence::{RecordChain, payload_digest};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::dsse::Envelope;
use bulla_wire::evidence::{Admission, Scope};
use bulla_wire::id::{Digest, WrapId};
use bulla_wire::name::Name;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const STATE_FILE: &str = "state.json";
/// Apart from the position, which it does not have: a sealed node's answers tell none that was checked.
const SHARE_FILE: &str = "share.json";
const KNOWN_FILE: &str = "known.json";
const DOCUMENTS_FILE: &str = "documents.json";
const CONSENTS_FILE: &str = "consents.json";
/// How often a busy client writes its position at most: an older one on disk is only a weaker memory.
const STATE_EVERY: Duration = Duration::from_secs(1);

/// What one of these files holds, from its bytes alone. Claims are besides, each an identity file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    /// `state.json`: the highest position that was seen.
    State(Seen),
    /// `share.json`: the highest epoch of which a share of the owner knows.
    Share(u64),
    /// `known.json`: names and the keys that they stood for.
    Known(BTreeMap<Name, Known>),
    /// `documents.json`: the cluster's documents, genesis first. They are verified again wherever they are used.
    Documents(Vec<Envelope>),
    /// `consents.json`: digests of the consents that were shown when the documents were learnt.
    Consents(BTreeSet<Digest>),
}

impl Remembered {
    /// Reads the file of this name; `None` if no such file has that name.
    ///
    /// # Errors
    /// [`io::Error`] with what is wrong with it.
    pub fn parse(name: &str, bytes: &[u8]) -> io::Result<Option<Self>> {
        Ok(Some(match name {
            STATE_FILE => Self::State(parsed(bytes)?),
            SHARE_FILE => Self::Share(parsed(bytes)?),
            KNOWN_FILE => Self::Known(parsed(bytes)?),
            DOCUMENTS_FILE => Self::Documents(parsed(bytes)?),
            CONSENTS_FILE => Self::Consents(parsed(bytes)?),
            _ => return Ok(None),
        }))
    }

    /// The file as it is written.
    ///
    /// # Errors
    /// [`io::Error`], which does not happen.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::State(seen) => written(seen),
            Self::Share(epoch) => written(epoch),
            Self::Known(known) => written(known),
            Self::Documents(documents) => written(documents),
            Self::Consents(consents) => written(consents),
        }
    }
}

/// One cluster's memory.
pub(crate) struct Memory {
    directory: Option<Directory>,
    names: Names,
    /// Names that last over all clusters of the pinned admins.
    lasting: Option<Arc<Names>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    seen: Option<Seen>,
    on_disk: Option<Seen>,
    written: Option<Instant>,
    share_epoch: u64,
    pub claims: HashMap<WrapId, SecretBytes>,
    /// Where no directory keeps them.
    documents: Vec<Envelope>,
    /// Digests of those that were shown when the documents were learnt.
    consents: BTreeSet<Digest>,
}

/// Names and the keys that they stood for.
pub(crate) enum Names {
    /// Until the process ends.
    Volatile(Mutex<BTreeMap<Name, Known>>),
    /// In a file of this directory.
    Kept(Directory),
}

impl Names {
    /// Nothing is kept over the process' end.
    pub(crate) fn volatile() -> Self {
        Self::Volatile(Mutex::default())
    }

    /// Has what is known of `name` judged, and remembers what comes of it, if anything. Of all processes one does at a
    /// time.
    fn judge(
        &self,
        name: &Name,
        judge: impl FnOnce(Option<&Known>) -> Result<Option<Known>, KnownError>,
    ) -> Result<(), ClientError> {
        let directory = match self {
            Self::Volatile(known) => {
                // No code panics while it holds the lock, and if it did, the values would still be whole.
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let told = judge(known.get(name))?;
                told.map(|told| known.insert(name.clone(), told));
                return Ok(());
            }
            Self::Kept(directory) => directory,
        };
        let lock = directory.lock().map_err(|error| wrote(directory, KNOWN_FILE, error))?;
        let mut known: BTreeMap<Name, Known> = read_json(directory, KNOWN_FILE)?.unwrap_or_default();
        let told = judge(known.get(name))?;
        if told.is_some() && known.get(name) != told.as_ref() {
            known.extend(told.map(|told| (name.clone(), told)));
            write_json(directory, KNOWN_FILE, &known)?;
        }
        drop(lock);
        Ok(())
    }
}

impl Memory {
    /// Nothing is kept over the process' end.
    pub(crate) fn volatile() -> Self {
        Self { directory: None, names: Names::volatile(), lasting: None, inner: Mutex::default() }
    }

    /// Reads what was kept in `directory`.
    pub(crate) fn of_directory(directory: Directory) -> Result<Self, ClientError> {
        let seen = read_json(&directory, STATE_FILE)?;
        let share_epoch = read_json(&directory, SHARE_FILE)?.unwrap_or_default();
        let consents = read_json(&directory, CONSENTS_FILE)?.unwrap_or_default();
        let inner = Inner { seen, on_disk: seen, share_epoch, consents, ..Inner::default() };
        let names = Names::Kept(directory.clone());
        Ok(Self { directory: Some(directory), names, lasting: None, inner: Mutex::new(inner) })
    }

    /// Remembers names besides over all clusters of the same admins.
    pub(crate) fn with_lasting(mut self, names: Arc<Names>) -> Self {
        self.lasting = Some(names);
        self
    }

    pub(crate) fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// No code panics while it holds the lock, and if it did, the values would still be whole.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest position known now.
    pub(crate) fn seen(&self) -> Option<Seen> {
        self.inner().seen
    }

    /// Remembers a position if it is higher. On disk the highest of all processes wins.
    pub(crate) fn remember(&self, told: Seen) -> Result<(), ClientError> {
        let write = {
            let mut inner = self.inner();
            let highest = inner.seen.map_or(told, |seen| seen.highest(told));
            inner.seen = Some(highest);
            let due = inner.written.is_none_or(|written| written.elapsed() >= STATE_EVERY);
            let jumped = inner.on_disk.is_none_or(|old| old.lineage != highest.lineage);
            (inner.on_disk != Some(highest) && (due || jumped)).then_some(highest)
        };
        write.map_or(Ok(()), |seen| self.write_state(seen, None))
    }

    /// Takes the cluster's position as it is: that what was seen until `lost` is gone was accepted. What another call or
    /// process saw beyond stays.
    pub(crate) fn accept_loss(&self, told: Seen, lost: Option<&Seen>) -> Result<(), ClientError> {
        let stands = {
            let mut inner = self.inner();
            let stands = after_loss(inner.seen, told, lost);
            inner.seen = Some(stands);
            stands
        };
        if stands != told {
            return Ok(());
        }
        self.write_state(told, lost)?;
        // Another process saw more than what was lost: its position stays, and so does its epoch.
        if self.seen() != Some(told) {
            return Ok(());
        }
        self.write_share_epoch(told.epoch, true)
    }

    /// The highest epoch of which a share of this memory's owner knows.
    pub(crate) fn share_epoch(&self) -> u64 {
        self.inner().share_epoch
    }

    /// Remembers an epoch that a share was given to, or that it opened, if it is higher. It is on disk afterwards.
    pub(crate) fn remember_share(&self, epoch: u64) -> Result<(), ClientError> {
        self.write_share_epoch(epoch, false)
    }

    fn write_share_epoch(&self, epoch: u64, lower_too: bool) -> Result<(), ClientError> {
        let there = |there: u64| if lower_too { epoch } else { there.max(epoch) };
        let Some(directory) = &self.directory else {
            let mut inner = self.inner();
            inner.share_epoch = there(inner.share_epoch);
            return Ok(());
        };
        let lock = directory.lock().map_err(|error| wrote(directory, SHARE_FILE, error))?;
        let highest = there(read_json(directory, SHARE_FILE)?.unwrap_or_default());
        write_json(directory, SHARE_FILE, &highest)?;
        drop(lock);
        self.inner().share_epoch = highest;
        Ok(())
    }

    /// Writes what is not written yet.
    pub(crate) fn flush(&self) -> Result<(), ClientError> {
        let seen = {
            let inner = self.inner();
            inner.seen.filter(|seen| inner.on_disk != Some(*seen))
        };
        seen.map_or(Ok(()), |seen| self.write_state(seen, None))
    }

    /// Writes a position, in the place of whatever is not beyond `lost`, if something was.
    fn write_state(&self, seen: Seen, lost: Option<&Seen>) -> Result<(), ClientError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let lock = directory.lock().map_err(|error| wrote(directory, STATE_FILE, error))?;
        let highest = after_loss(read_json(directory, STATE_FILE)?, seen, lost);
        write_json(directory, STATE_FILE, &highest)?;
        drop(lock);
        let mut inner = self.inner();
        inner.on_disk = Some(highest);
        inner.written = Some(Instant::now());
        inner.seen = Some(after_loss(inner.seen, highest, lost));
        Ok(())
    }

    /// Judges a verified chain under a name, and remembers it. Without an admission a document is the word for it.
    pub(crate) fn know(
        &self,
        name: &Name,
        chain: &RecordChain,
        admission: Option<&Admission>,
    ) -> Result<(), ClientError> {
        self.judge(name, chain, admission, true)
    }

    /// Whether [`Self::know`] would take it, without remembering it.
    pub(crate) fn would_know(
        &self,
        name: &Name,
        chain: &RecordChain,
        admission: &Admission,
    ) -> Result<(), ClientError> {
        self.judge(name, chain, Some(admission), false)
    }

    fn judge(
        &self,
        name: &Name,
        chain: &RecordChain,
        admission: Option<&Admission>,
        keep: bool,
    ) -> Result<(), ClientError> {
        if let Some(lasting) = &self.lasting {
            let serial = admission.filter(|admission| matches!(admission.scope, Scope::Admins(_)));
            let serial = serial.map(|admission| admission.serial);
            let judged = |known: Option<&Known>| known::judge_lasting(name, known, chain, serial);
            lasting.judge(name, |known| judged(known).map(|told| told.filter(|_| keep)))?;
        }
        let serial = admission.map_or(0, |admission| admission.serial);
        self.names.judge(name, |known| known::judge(name, known, chain, serial).map(|told| keep.then_some(told)))
    }

    /// The documents that were kept. They are verified again, so a damaged file costs a look-up and nothing else.
    pub(crate) fn documents(&self) -> Vec<Envelope> {
        let Some(directory) = &self.directory else { return self.inner().documents.clone() };
        read_json(directory, DOCUMENTS_FILE).ok().flatten().unwrap_or_default()
    }

    /// Digests of the consents that were shown beside the documents when this process learnt them, or one before it. What another
    /// process went by meanwhile may be about the loss of just these.
    pub(crate) fn consents(&self) -> BTreeSet<Digest> {
        self.inner().consents.clone()
    }

    /// Keeps the documents if they go on from those that are kept: another process may have read further, or have taken
    /// others after a loss. With `fewer_too` they are kept as they are.
    pub(crate) fn keep_documents(
        &self,
        documents: &[&Envelope],
        consents: &[Digest],
        fewer_too: bool,
    ) -> Result<(), ClientError> {
        self.inner().consents.extend(consents);
        let Some(directory) = &self.directory else {
            self.inner().documents = documents.iter().copied().cloned().collect();
            return Ok(());
        };
        let lock = directory.lock().map_err(|error| wrote(directory, DOCUMENTS_FILE, error))?;
        let kept = self.documents();
        // First, so that a document never lies there without them.
        let mut known: BTreeSet<Digest> = read_json(directory, CONSENTS_FILE)?.unwrap_or_default();
        let before = known.len();
        known.extend(consents);
        if known.len() > before {
            write_json(directory, CONSENTS_FILE, &known)?;
        }
        // The signatures may be others: whoever shows a document chooses some of them.
        let same = |(kept, told): (&Envelope, &&Envelope)| payload_digest(kept) == payload_digest(told);
        let goes_on = documents.len() > kept.len() && kept.iter().zip(documents).all(same);
        if fewer_too || goes_on {
            write_json(directory, DOCUMENTS_FILE, &documents)?;
        }
        drop(lock);
        Ok(())
    }

    /// Works with the claims of a client without a directory.
    pub(crate) fn with_claims<T>(&self, work: impl FnOnce(&mut HashMap<WrapId, SecretBytes>) -> T) -> T {
        work(&mut self.inner().claims)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Nobody is left to be told; what is lost is at most a second of memory.
        drop(self.flush());
    }
}

/// What stands where `there` did, after a loss of what was seen until `lost`, or without one.
fn after_loss(there: Option<Seen>, told: Seen, lost: Option<&Seen>) -> Seen {
    let place = |seen: &Seen| (seen.epoch, seen.sequence);
    match there {
        // Places of one history compare; those of the lost one and of what came instead do not.
        Some(there) if there.lineage == told.lineage => there.highest(told),
        Some(there) if lost.is_none_or(|lost| place(&there) > place(lost)) => there.highest(told),
        _ => told,
    }
}

fn read_json<T: serde::de::DeserializeOwned>(directory: &Directory, name: &str) -> Result<Option<T>, ClientError> {
    let failed = |error| ClientError::io("cannot read", directory.path(name), error);
    let Some(bytes) = directory.read(name).map_err(failed)? else { return Ok(None) };
    parsed(&bytes).map(Some).map_err(failed)
}

fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

fn written<T: serde::Serialize>(value: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

/// An epoch that a share was given to is on the disk when this returns; the rest may lose its last moments.
fn write_json<T: serde::Serialize>(directory: &Directory, name: &str, value: &T) -> Result<(), ClientError> {
    let replaced = written(value).and_then(|bytes| directory.replace(name, &bytes, name == SHARE_FILE));
    replaced.map_err(|error| wrote(directory, name, error))
}

fn wrote(directory: &Directory, name: &str, error: io::Error) -> ClientError {
    ClientError::io("cannot write", directory.path(name), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{person, world};
    use bulla_crypto::evidence::AdmissionDraft;
    use bulla_wire::id::{ClusterId, Lineage};

    fn seen(epoch: u64, sequence: u64) -> Seen {
        Seen { epoch, lineage: Lineage::new([u8::try_from(epoch).unwrap(); 16]), sequence, doc: 0, at_ms: 0 }
    }

    #[test]
    fn the_highest_of_all_processes_stands_on_disk() {
        let base = tempfile::tempdir().unwrap();
        let open = || {
            let directory = Directory::of_cluster(base.path(), &ClusterId::new([1; 32])).unwrap();
            Memory::of_directory(directory).unwrap()
        };
        let (first, second) = (open(), open());
        first.remember(seen(2, 50)).unwrap();
        second.remember(seen(1, 90)).unwrap();
        assert_eq!(second.seen(), Some(seen(2, 50)));
        // A second write within the second waits for the end.
        first.remember(seen(2, 51)).unwrap();
        assert_eq!(open().seen(), Some(seen(2, 50)));
        drop(first);
        assert_eq!(open().seen(), Some(seen(2, 51)));
        second.accept_loss(seen(1, 1), Some(&seen(2, 50))).unwrap();
        assert_eq!(open().seen(), Some(seen(2, 51)), "another process saw more than was accepted as lost");
        open().accept_loss(seen(1, 1), Some(&seen(2, 51))).unwrap();
        assert_eq!(open().seen(), Some(seen(1, 1)));
    }

    #[test]
    fn a_damaged_memory_is_not_taken_for_none() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::of_cluster(base.path(), &ClusterId::new([1; 32])).unwrap();
        directory.replace(STATE_FILE, b"{}", false).unwrap();
        assert!(Memory::of_directory(directory).is_err());
    }

    /// Whoever accepts a loss speaks for what he had seen. What another process saw beyond stays, and with it the epoch below
    /// which no share is given.
    #[test]
    fn a_loss_that_others_saw_beyond_brings_no_share_to_an_older_epoch() {
        let base = tempfile::tempdir().unwrap();
        let open = || {
            let directory = Directory::of_cluster(base.path(), &ClusterId::new([1; 32])).unwrap();
            Memory::of_directory(directory).unwrap()
        };
        let (first, second) = (open(), open());
        first.remember(seen(5, 50)).unwrap();
        second.remember(seen(5, 50)).unwrap();
        first.remember_share(6).unwrap();
        first.remember(seen(6, 60)).unwrap();
        second.accept_loss(seen(3, 9), Some(&seen(5, 50))).unwrap();
        assert_eq!((open().seen(), open().share_epoch()), (Some(seen(6, 60)), 6));
        assert_eq!(second.seen(), Some(seen(6, 60)));
        open().accept_loss(seen(3, 9), Some(&seen(6, 60))).unwrap();
        assert_eq!((open().seen(), open().share_epoch()), (Some(seen(3, 9)), 3));
    }

    /// A full disk, as it looks here: it is told, this process forgets nothing, and writes it once it can.
    #[test]
    fn what_cannot_be_written_is_told_and_known_all_the_same() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::of_cluster(base.path(), &ClusterId::new([1; 32])).unwrap();
        std::fs::create_dir(directory.path("lock")).unwrap();
        let memory = Memory::of_directory(directory.clone()).unwrap();
        assert!(matches!(memory.remember(seen(2, 50)), Err(ClientError::Io { .. })));
        assert_eq!(memory.seen(), Some(seen(2, 50)));
        assert!(memory.flush().is_err());
        // What is not on the disk was given to nobody.
        assert!(memory.remember_share(2).is_err());
        assert_eq!(memory.share_epoch(), 0);
        std::fs::remove_dir(directory.path("lock")).unwrap();
        memory.flush().unwrap();
        assert_eq!(Memory::of_directory(directory).unwrap().seen(), Some(seen(2, 50)));
    }

    /// What an enroller only asks about is not known afterwards: else a server took a name from its holder by one wrong answer.
    #[test]
    fn what_would_be_known_is_not_known() {
        let (world, base) = (world(), tempfile::tempdir().unwrap());
        let below = |byte| Directory::of_cluster(base.path(), &ClusterId::new([byte; 32])).unwrap();
        let [one, other] = [11, 12].map(|seed| person("frank", seed).record);
        let chain = |record: &bulla_crypto::evidence::Record| RecordChain::open(&[record.envelope().clone()]).unwrap();
        let (one, other) = (chain(&one), chain(&other));
        let admission = |chain: &RecordChain| {
            let draft = AdmissionDraft { serial: 5, ..AdmissionDraft::default() };
            Admission { scope: Scope::Admins(Digest::new([7; 32])), ..draft.payload(&world.view, chain.newest()) }
        };
        let kept = Memory::of_directory(below(1)).unwrap();
        for (memory, lasting) in [(Memory::volatile(), Names::volatile()), (kept, Names::Kept(below(2)))] {
            let memory = memory.with_lasting(Arc::new(lasting));
            let name = one.newest().name();
            memory.would_know(name, &other, &admission(&other)).unwrap();
            memory.know(name, &one, Some(&admission(&one))).unwrap();
            let refused = memory.would_know(name, &other, &admission(&other)).unwrap_err();
            assert!(matches!(refused, ClientError::Known(KnownError::OtherPrincipal { .. })), "{refused}");
        }
    }

    /// Of several processes none takes away the documents that another has read, but for a loss that was accepted.
    #[test]
    fn documents_are_kept_where_they_go_on_from_those_that_are_kept() {
        let base = tempfile::tempdir().unwrap();
        let open = || {
            let directory = Directory::of_cluster(base.path(), &ClusterId::new([1; 32])).unwrap();
            Memory::of_directory(directory).unwrap()
        };
        let [genesis, one, two, other] = ["0", "1", "2", "x"].map(|text| Envelope {
            payload_type: "x".into(),
            payload: text.as_bytes().to_vec(),
            signatures: Vec::new(),
        });
        let (first, second) = (open(), open());
        first.keep_documents(&[&genesis, &one], &[], false).unwrap();
        for shown in [&[&genesis][..], &[&genesis, &other], &[&genesis, &other, &two]] {
            second.keep_documents(shown, &[], false).unwrap();
            assert_eq!(open().documents(), [genesis.clone(), one.clone()]);
        }
        let consent = Digest::new([3; 32]);
        second.keep_documents(&[&genesis, &one, &two], &[consent], false).unwrap();
        assert_eq!(first.documents().len(), 3);
        assert!(open().consents().contains(&consent), "what was shown beside them is known to the next run");
        first.keep_documents(&[&genesis, &other], &[], true).unwrap();
        assert_eq!(open().documents(), [genesis, other]);
    }
}
