//! Who started this process and waits until it is ready, as systemd does (sd_notify(3)).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// Where it listens.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long a word may wait until it is taken: whoever does not read must not keep this process.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who is told how it goes.
pub struct Manager {
    address: Option<SocketAddr>,
}

impl Manager {
    /// The one that the environment names, if there is one.
    pub fn of(variables: &[(String, OsString)]) -> Self {
        let find = |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_os_str());
        let address = find(SOCKET).and_then(|name| match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(Path::new(name)).ok(),
        });
        Self { address }
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
