//! The states of a node, and the only ways between them.

use bulla_wire::api::SealState;
use std::fmt;

/// What changes a node's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The commit of a new cluster.
    Init,
    /// The commit of an epoch advance.
    Unseal,
    /// An admin's word, or the end of the audit log: keys are dropped.
    Seal,
}

impl Transition {
    const ALL: [Self; 3] = [Self::Init, Self::Unseal, Self::Seal];
}

/// The transition does not start here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Where the node is.
    pub state: SealState,
    /// What was to happen.
    pub transition: Transition,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, transition } = self;
        let word = match state {
            SealState::Uninitialised => "uninitialised",
            SealState::Sealed => "sealed",
            SealState::Unsealed => "unsealed",
        };
        match transition {
            Transition::Init => write!(f, "cannot be initialised: the node is {word}"),
            Transition::Unseal => write!(f, "cannot be unsealed: the node is {word}"),
            Transition::Seal => write!(f, "cannot be sealed: the node is {word}"),
        }
    }
}

impl std::error::Error for Refused {}

/// Where `transition` leads from `state`. Sealing what is sealed changes nothing.
///
/// # Errors
/// [`Refused`], if it does not start there.
pub fn next(state: SealState, transition: Transition) -> Result<SealState, Refused> {
    match (state, transition) {
        (SealState::Uninitialised, Transition::Init) => Ok(SealState::Sealed),
        (SealState::Sealed, Transition::Unseal) => Ok(SealState::Unsealed),
        (SealState::Sealed | SealState::Unsealed, Transition::Seal) => Ok(SealState::Sealed),
        _ => Err(Refused { state, transition }),
    }
}

/// The machine drawn as a Mermaid state diagram, from [`next`] itself.
pub fn diagram() -> String {
    let mut text = "stateDiagram-v2\n    [*] --> Uninitialised\n".to_owned();
    for state in [SealState::Uninitialised, SealState::Sealed, SealState::Unsealed] {
        for transition in Transition::ALL {
            if let Ok(to) = next(state, transition) {
                text.push_str(&format!("    {state:?} --> {to:?}: {transition:?}\n"));
            }
        }
    }
    text
}
