//! Who started this process and waits until it is ready, as systemd does (sd_notify(3)).

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// Where it listens; it names itself to whom it starts and to nobody else.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Within how many microseconds it wants a sign of life.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// From which process.
const WATCHDOG_OF: &str = "WATCHDOG_PID";

/// How long a word may wait until it is taken: whoever does not read must not keep this process.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who is told how it goes.
pub struct Manager {
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// Variables that are meant for this process and not for those that it starts.
    pub const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG, WATCHDOG_OF];

    /// The one that the environment names, if there is one.
    pub fn of(variables: &[(String, OsString)]) -> Self {
        let find = |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_os_str());
        let address = find(SOCKET).and_then(|name| match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(Path::new(name)).ok(),
        });
        let number = |name| find(name).and_then(OsStr::to_str).and_then(|text| text.parse::<u64>().ok());
        let mine = find(WATCHDOG_OF).is_none() || number(WATCHDOG_OF) == Some(u64::from(std::process::id()));
        let watchdog = number(WATCHDOG).filter(|us| mine && *us > 0).map(Duration::from_micros);
        Self { address, watchdog }
    }

    /// How often it is to have a sign of life: twice in the time that it named, as sd_watchdog_enabled(3) advises.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|within| within / 2)
    }

    /// A manager that does not listen loses nothing but the news.
    pub fn tell(&self, state: &str) {
        let Some(address) = &self.address else { return };
        let told = UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.send_to_addr(state.as_bytes(), address)
        });
        if let Err(error) = told {
            tracing::warn!(%error, state, "whoever started this process was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_for_the_process_that_is_named() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
            Manager::of(&pairs).watchdog()
        };
        let me = std::process::id().to_string();
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(WATCHDOG, "3000000")]), Some(Duration::from_millis(1500)));
        assert_eq!(of(&[(WATCHDOG, "3000000"), (WATCHDOG_OF, &me)]), Some(Duration::from_millis(1500)));
        for other in ["1", "", "x"] {
            assert_eq!(of(&[(WATCHDOG, "3000000"), (WATCHDOG_OF, other)]), None, "{other}");
        }
        assert_eq!((of(&[(WATCHDOG, "0")]), of(&[(WATCHDOG, "soon")])), (None, None));
    }
}
