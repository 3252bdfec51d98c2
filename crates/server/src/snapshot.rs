//! Snapshots of a running node: which states are held for whom, and their pages (`spec/snapshot.md`).
//!
//! A held state keeps what is overwritten meanwhile, in the file or in memory. So there are few, and each ends if nobody
//! asks for its next page.

mod restore;

pub use restore::{RestoreError, is_unfinished, restore};

use crate::node::Node;
use crate::unsealed::{Unsealed, lock};
use bulla_core::audit::Body;
use bulla_core::snapshot::{Pages, Voucher};
use bulla_crypto::evidence::sign_in_memory;
use bulla_crypto::random::{SystemRng, draw};
use bulla_store::Frozen;
use bulla_wire::encoding::base32;
use bulla_wire::evidence::Position;
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::snapshot::{Begun, Manifest};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Most states that are held at once: one to take, and one for somebody who was cut off or begins too early.
pub const SESSIONS_MAX: usize = 2;
/// How long a state is held for somebody who asks for nothing, in milliseconds, 5 min: longer than a client goes on asking
/// for a page.
pub const IDLE_MS: u64 = 300_000;
/// How long a state is held at all, in milliseconds, 6 h: 40 GB at 2 MB a second.
pub const LIFE_MS: u64 = 6 * 3600 * 1000;

/// Why there is no page.
#[derive(Debug)]
pub enum SessionError {
    /// The session ended, or never was, or is another's.
    Unknown,
    /// Others take snapshots.
    TooMany,
    /// Another page is next.
    Page {
        /// Which.
        next: u64,
    },
    /// The audit log took no line.
    Blocked(String),
    /// The store, or a fault of ours.
    Fault(String),
}

fn fault(error: impl fmt::Display) -> SessionError {
    SessionError::Fault(error.to_string())
}

/// States that are held.
#[derive(Debug, Default)]
pub struct Sessions(Vec<Arc<Session>>);

/// A state that is held for somebody.
#[derive(Debug)]
pub struct Session {
    begun: Begun,
    owner: PrincipalId,
    /// Nonce and digest of the request that began it.
    asked: Option<(Digest, Digest)>,
    begun_ms: u64,
    used_ms: AtomicU64,
    /// All pages were made: nothing is held any more but the last.
    ended: AtomicBool,
    work: tokio::sync::Mutex<Work>,
}

#[derive(Debug)]
struct Work {
    /// Nothing once all pages were made.
    frozen: Option<Frozen>,
    pages: Pages,
    next: u64,
    /// The page given last, for who lost the answer.
    last: Arc<Vec<u8>>,
}

impl Sessions {
    /// The session that this request began.
    pub fn begun_by(&self, asked: Option<(Digest, Digest)>) -> Option<Begun> {
        self.0.iter().find(|session| session.asked == asked).map(|session| session.begun.clone())
    }

    /// A session of this principal, which is used now.
    pub fn get(&self, id: &str, owner: &PrincipalId, monotonic_ms: u64) -> Option<Arc<Session>> {
        let session = self.0.iter().find(|session| session.begun.id == id && session.owner == *owner)?;
        session.used_ms.store(monotonic_ms, Ordering::Relaxed);
        Some(Arc::clone(session))
    }

    /// Ends what nobody uses any more.
    pub fn sweep(&mut self, monotonic_ms: u64) {
        self.0.retain(|session| {
            let idle = monotonic_ms.saturating_sub(session.used_ms.load(Ordering::Relaxed));
            // Who waits for a page just now is not idle.
            let busy = session.work.try_lock().is_err();
            (busy || idle < IDLE_MS) && monotonic_ms.saturating_sub(session.begun_ms) < LIFE_MS
        });
    }

    fn has_room(&self, owner: &PrincipalId) -> bool {
        let held = |session: &&Arc<Session>| session.owner != *owner && !session.ended.load(Ordering::Relaxed);
        self.0.iter().filter(held).count() < SESSIONS_MAX
    }

    fn add(&mut self, session: Session) -> Result<Begun, SessionError> {
        if !self.has_room(&session.owner) {
            return Err(SessionError::TooMany);
        }
        self.0.retain(|other| other.owner != session.owner);
        let begun = session.begun.clone();
        self.0.push(Arc::new(session));
        Ok(begun)
    }
}

/// Holds the state of this moment for `owner`; an older one of the same owner ends. `asked` is the request's nonce and
/// digest.
///
/// # Errors
/// [`SessionError::TooMany`], or the store's.
pub async fn begin(
    node: &Node,
    unsealed: &Unsealed,
    owner: PrincipalId,
    asked: Option<(Digest, Digest)>,
) -> Result<Begun, SessionError> {
    if !lock(&unsealed.snapshots).has_room(&owner) {
        return Err(SessionError::TooMany);
    }
    let frozen = node.parts.store.freeze().await.map_err(fault)?;
    let saved_ms = node.now_ms();
    let sequence = frozen.read(vec![]).await.map_err(fault)?.sequence.unwrap_or_default().0;
    let pages = Pages::new(frozen.buckets().await.map_err(fault)?);
    let monotonic_ms = node.parts.clock.monotonic_ms();
    let session = Session {
        begun: Begun { id: base32(&draw::<16>(&mut SystemRng)), sequence, saved_ms },
        owner,
        asked,
        begun_ms: monotonic_ms,
        used_ms: AtomicU64::new(monotonic_ms),
        ended: AtomicBool::new(false),
        work: tokio::sync::Mutex::new(Work { frozen: Some(frozen), pages, next: 0, last: Arc::default() }),
    };
    lock(&unsealed.snapshots).add(session)
}

impl Session {
    /// The next page, or the one given last.
    ///
    /// # Errors
    /// See [`SessionError`]; the page can be asked for again.
    pub async fn page(&self, node: &Node, unsealed: &Unsealed, number: u64) -> Result<Arc<Vec<u8>>, SessionError> {
        let mut work = self.work.lock().await;
        if number.checked_add(1) == Some(work.next) {
            return Ok(Arc::clone(&work.last));
        }
        if number != work.next || work.frozen.is_none() {
            return Err(SessionError::Page { next: work.next });
        }
        if work.fill(node, unsealed, self.begun.saved_ms).await? {
            work.frozen = None;
            self.ended.store(true, Ordering::Relaxed);
        }
        work.last = Arc::new(work.pages.page());
        work.next = work.next.saturating_add(1);
        Ok(Arc::clone(&work.last))
    }
}

impl Work {
    /// Fills a page. True if it is the last.
    async fn fill(&mut self, node: &Node, unsealed: &Unsealed, saved_ms: u64) -> Result<bool, SessionError> {
        while let Some(read) = self.pages.wanted() {
            if self.pages.is_full() {
                return Ok(false);
            }
            let Some(frozen) = &self.frozen else { return Ok(true) };
            let answers = frozen.read(vec![read]).await.map_err(fault)?.answers;
            let page = answers.into_iter().next().and_then(bulla_core::record::Answer::into_page);
            self.pages.take(page.unwrap_or_default()).map_err(fault)?;
        }
        let (cluster, epoch) = (unsealed.keys.cluster, unsealed.keys.epoch);
        let voucher = Voucher { cluster, epoch, node: node.id(), saved_ms };
        let manifest = self.pages.manifest(&voucher).map_err(fault)?;
        let envelope = sign_in_memory(&manifest, &[&node.parts.key]).map_err(fault)?;
        let Manifest { lineage, sequence, rows, sha256, .. } = manifest;
        let line = Body::Snapshot { from: Position { lineage, sequence }, rows, sha256 };
        node.parts.sink.note(line).await.map_err(|blocked| SessionError::Blocked(blocked.to_string()))?;
        self.pages.end(&envelope).map_err(fault)?;
        Ok(true)
    }
}
