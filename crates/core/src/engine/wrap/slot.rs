//! One slot of a wrap: who may open it, who did, and how it ended.
//!
//! ```text
//! SEALED → OPENED → ACKED | LAPSED | NACKED | REVOKED
//! SEALED → EXPIRED | REVOKED | PARKED        PARKED → SEALED | EXPIRED | REVOKED
//! ```
//!
//! A state is left only through one of the functions below; each takes the state away and gives the next
//! one, or says that there is no such way. So nothing that was opened can become sealed again.

use bulla_wire::api::SlotState;
use bulla_wire::id::{Digest, PrincipalId};
use bulla_wire::wrap::MAX_DELIVERIES;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Refused receipts of one slot at most about second claims of the opener's own principal, each with its alarm:
/// enough to show an attack, and a bound on what an attacker can have written. Later attempts get the same answer,
/// and leave nothing.
pub const MAX_REFUSED: u32 = 16;

/// Refused receipts of one slot at most about other recipients, who raise no alarm. Counted apart: a recipient who
/// opened with another's stolen key must not use up what that other one's own claim will leave.
pub const MAX_QUIETLY_REFUSED: u32 = 15;

/// Deliveries above this raise an alarm: a reply is lost now and then, not three times in a row.
pub const QUIET_DELIVERIES: u32 = 3;

/// The claim that won a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// Whose claim.
    pub by: PrincipalId,
    /// SHA-256 of the claim recipient's text. The text itself comes again with each delivery's request.
    pub claim_sha256: Digest,
    /// Active milliseconds at which it lapses, or a nacked one loses its ciphertext.
    pub lapse_active_ms: u64,
    /// How often it was delivered, the first time included.
    pub deliveries: u32,
}

/// The state of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum State {
    /// Nobody opened it.
    Sealed,
    /// Waits for its writer's release after a restore.
    Parked,
    /// A claim won; not acknowledged yet.
    Opened(Opening),
    /// The opener has it.
    Acked(Opening),
    /// The opener never said so.
    Lapsed(Opening),
    /// The opener could not open the content.
    Nacked {
        /// Who.
        opening: Opening,
        /// The ciphertext is still kept.
        kept: bool,
    },
    /// The writer took it back, before or after it was opened; or a restore ended it, since that or an opening was lost.
    Revoked(Option<Opening>),
    /// Nobody opened it in time.
    Expired,
}

/// The drawn machine has no such arrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTransition {
    /// Where the slot was.
    pub from: SlotState,
    /// What was asked of it.
    pub event: &'static str,
}

impl fmt::Display for InvalidTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a slot that is {:?} cannot {}", self.from, self.event)
    }
}
impl std::error::Error for InvalidTransition {}

impl State {
    /// The state as the API tells it.
    pub fn name(&self) -> SlotState {
        match self {
            Self::Sealed => SlotState::Sealed,
            Self::Parked => SlotState::Parked,
            Self::Opened(_) => SlotState::Opened,
            Self::Acked(_) => SlotState::Acked,
            Self::Lapsed(_) => SlotState::Lapsed,
            Self::Nacked { .. } => SlotState::Nacked,
            Self::Revoked(_) => SlotState::Revoked,
            Self::Expired => SlotState::Expired,
        }
    }

    /// The claim that won, if one did.
    pub fn opening(&self) -> Option<&Opening> {
        match self {
            Self::Opened(opening) | Self::Acked(opening) | Self::Lapsed(opening) => Some(opening),
            Self::Nacked { opening, .. } => Some(opening),
            Self::Revoked(opening) => opening.as_ref(),
            Self::Sealed | Self::Parked | Self::Expired => None,
        }
    }

    /// Whether the slot still needs the ciphertext, and so counts as live.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Sealed | Self::Parked | Self::Opened(_) => true,
            Self::Nacked { kept, .. } => *kept,
            Self::Acked(_) | Self::Lapsed(_) | Self::Revoked(_) | Self::Expired => false,
        }
    }

    fn refuse(&self, event: &'static str) -> InvalidTransition {
        InvalidTransition { from: self.name(), event }
    }

    /// A claim wins.
    pub fn open(self, opening: Opening) -> Result<Self, InvalidTransition> {
        match self {
            Self::Sealed => Ok(Self::Opened(opening)),
            other => Err(other.refuse("open")),
        }
    }

    /// The claim that won is served once more.
    pub fn deliver(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Opened(opening) if opening.deliveries < MAX_DELIVERIES => {
                Ok(Self::Opened(Opening { deliveries: opening.deliveries.saturating_add(1), ..opening }))
            }
            other => Err(other.refuse("deliver")),
        }
    }

    /// The opener has the content safe.
    pub fn ack(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Opened(opening) => Ok(Self::Acked(opening)),
            other => Err(other.refuse("ack")),
        }
    }

    /// The opener could not open the content.
    pub fn nack(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Opened(opening) => Ok(Self::Nacked { opening, kept: true }),
            other => Err(other.refuse("nack")),
        }
    }

    /// `ack_s` is over: an opened slot ends, and a nacked one no longer keeps the ciphertext.
    pub fn lapse(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Opened(opening) => Ok(Self::Lapsed(opening)),
            Self::Nacked { opening, kept: true } => Ok(Self::Nacked { opening, kept: false }),
            other => Err(other.refuse("lapse")),
        }
    }

    /// The time in which it could be opened is over.
    pub fn expire(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Sealed | Self::Parked => Ok(Self::Expired),
            other => Err(other.refuse("expire")),
        }
    }

    /// The writer takes it back.
    pub fn revoke(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Sealed | Self::Parked => Ok(Self::Revoked(None)),
            Self::Opened(opening) => Ok(Self::Revoked(Some(opening))),
            other => Err(other.refuse("revoke")),
        }
    }

    /// A restore does not know whether it was opened in the history that was lost.
    pub fn park(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Sealed => Ok(Self::Parked),
            other => Err(other.refuse("park")),
        }
    }

    /// The writer lets it be opened after a restore.
    pub fn release(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Parked => Ok(Self::Sealed),
            other => Err(other.refuse("release")),
        }
    }
}

/// A slot's record: its state, and where its chain of receipts stands. Below 1 KiB as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its state.
    pub state: State,
    /// Number of its receipts. The opened receipt, where there is one, has number 0.
    pub receipts: u32,
    /// Digest of its last receipt; of the created receipt while it has none.
    pub last: Digest,
    /// Number of the receipt that ended it.
    pub ended: Option<u32>,
    /// How many of its receipts refuse a second claim of the opener's own principal, with an alarm.
    pub refused: u32,
    /// How many refuse another recipient, without one.
    #[serde(default)]
    pub quietly_refused: u32,
}

impl Slot {
    /// A new slot, whose chain begins after the created receipt.
    pub fn new(created: Digest) -> Self {
        Self { state: State::Sealed, receipts: 0, last: created, ended: None, refused: 0, quietly_refused: 0 }
    }

    /// Number of the receipt that says how it stands: how it ended, or that it was opened.
    pub fn telling(&self) -> Option<u32> {
        self.ended.or_else(|| self.opened())
    }

    /// Counts a refusal that leaves a receipt: of the opener's own principal or of another recipient. `false` if
    /// there were enough of its kind already.
    pub fn refuse(&mut self, own: bool) -> bool {
        let (count, most) =
            if own { (&mut self.refused, MAX_REFUSED) } else { (&mut self.quietly_refused, MAX_QUIETLY_REFUSED) };
        let counted = *count < most;
        *count = count.saturating_add(u32::from(counted));
        counted
    }

    /// Number of the opened receipt.
    pub fn opened(&self) -> Option<u32> {
        self.state.opening().map(|_| 0)
    }
}
