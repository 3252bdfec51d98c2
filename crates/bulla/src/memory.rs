//! Memory that never goes to swap, for a process that holds keys as long as it runs.
//!
//! All of it is locked, as it is touched: which pages hold a key nobody can say, and locking single ones takes unsafe code. A
//! limit on locked memory counts what is mapped, used or not, and who comes to it later gets no memory at all, so with a limit
//! nothing is locked.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use std::fmt;
use std::io;

/// Why memory is not locked.
#[derive(Debug)]
pub enum Unlocked {
    /// The limit, in bytes.
    Limit(u64),
    /// The kernel refused.
    Kernel(io::Error),
}

impl fmt::Display for Unlocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(bytes) => write!(f, "RLIMIT_MEMLOCK is {bytes} bytes"),
            Self::Kernel(error) => write!(f, "mlockall: {error}"),
        }
    }
}

/// Locks what is mapped now and later.
///
/// # Errors
/// [`Unlocked`].
pub fn lock() -> Result<(), Unlocked> {
    // A capability that cannot be asked for is none.
    let free = capabilities(None).is_ok_and(|held| held.effective.contains(CapabilitySet::IPC_LOCK));
    if let Some(bytes) = limit(getrlimit(Resource::Memlock), free) {
        return Err(Unlocked::Limit(bytes));
    }
    let kernel = |error: rustix::io::Errno| Unlocked::Kernel(error.into());
    if !free {
        setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).map_err(kernel)?;
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).map_err(kernel)
}

/// The limit that would be met one day, if there is one: the soft one may be raised to the hard one, and a process with
/// `CAP_IPC_LOCK` has none.
fn limit(of: Rlimit, free: bool) -> Option<u64> {
    if free { None } else { of.maximum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_can_be_raised_is_none() {
        let of = |current, maximum| Rlimit { current, maximum };
        assert_eq!(limit(of(Some(8 << 20), None), false), None);
        assert_eq!(limit(of(None, None), false), None);
        assert_eq!(limit(of(Some(8 << 20), Some(16 << 20)), false), Some(16 << 20));
        assert_eq!(limit(of(Some(0), Some(0)), true), None);
        assert_eq!(limit(of(Some(0), Some(0)), false), Some(0));
    }
}
