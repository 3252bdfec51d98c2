//! The configuration: a TOML file, read once into what cannot be wrong. No secret stands in it, only the names of files, which
//! may not be there yet: what can become right by itself is no matter of the configuration.

use crate::combine::{Combination, Policy};
use crate::envelope::{self, MAX_CIPHERTEXT_BYTES, MAX_MEMBERS, MAX_SEED_BYTES};
use crate::member::{Member, Timing};
use crate::metrics::Metrics;
use crate::plugin::Parts;
use crate::promotion::Rules;
use crate::provider::{Provider, ProviderError, age, aws, azure, bulla, gcp, pkcs11, vault};
use crate::socket::{Access, Place};
use crate::state::StateFile;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Longest name of a cluster or a member, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// A longer time without a look at a member would outlast the three minutes after which kube-apiserver writes nothing, and
/// would be noticed by nobody before.
const MAX_STALE_S: u64 = 170;

/// What the file says.
pub struct Config {
    /// The plugin's parts.
    pub plugin: Parts,
    /// Where it listens, unless its socket is held for it.
    pub socket: Option<Place>,
    /// Who may connect.
    pub access: Access,
    /// Where monitors ask.
    pub operations: Option<SocketAddr>,
    /// Where audit lines go.
    pub audit: Option<PathBuf>,
}

/// Why a file is none, and will be none until it is changed. It names the field and says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ConfigError {}

fn wrong(field: &str, what: impl fmt::Display) -> ConfigError {
    ConfigError { text: format!("{field}: {what}") }
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    cluster: String,
    #[serde(default)]
    epoch: u32,
    state: Option<PathBuf>,
    #[serde(default)]
    socket: WrittenSocket,
    #[serde(default)]
    operations: WrittenOperations,
    #[serde(default)]
    audit: WrittenAudit,
    #[serde(default)]
    combine: WrittenCombination,
    #[serde(default)]
    timing: WrittenTiming,
    members: BTreeMap<String, WrittenMember>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSocket {
    path: Option<String>,
    mode: Option<String>,
    gid: Option<u32>,
    allow_uids: Option<Vec<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOperations {
    address: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAudit {
    file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCombination {
    mode: Option<WrittenMode>,
    policy: Option<WrittenPolicy>,
    minimum: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenMode {
    Any,
    Split,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenPolicy {
    All,
    Quorum,
    Degraded,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTiming {
    attempt_ms: Option<u64>,
    look_ms: Option<u64>,
    period_s: Option<u64>,
    stale_s: Option<u64>,
    promote_looks: Option<u32>,
    promote_delay_s: Option<u64>,
}

/// A member: the kind of its provider, and that one's settings.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenMember {
    Age(age::Settings),
    Bulla(bulla::Settings),
    Pkcs11(pkcs11::Settings),
    Vault(vault::Settings),
    Aws(Box<aws::Settings>),
    Azure(Box<azure::Settings>),
    Gcp(Box<gcp::Settings>),
}

impl Written {
    /// The same for whoever only looks, as root perhaps: members write nothing that the plugin has to read.
    #[must_use]
    pub fn without_memory(mut self) -> Self {
        for member in self.members.values_mut() {
            if let WrittenMember::Bulla(settings) = member {
                settings.memory = None;
            }
        }
        self
    }
}

impl WrittenMember {
    fn open(&self) -> Result<Box<dyn Provider>, ProviderError> {
        Ok(match self {
            Self::Age(settings) => Box::new(age::Age::open(settings)?),
            Self::Pkcs11(settings) => Box::new(pkcs11::Pkcs11::open(settings)?),
            Self::Bulla(settings) => Box::new(bulla::Bulla::open(settings)?),
            Self::Vault(settings) => Box::new(vault::Vault::open(settings)?),
            Self::Aws(settings) => Box::new(aws::Aws::open(settings)?),
            Self::Azure(settings) => Box::new(azure::Azure::open(settings)?),
            Self::Gcp(settings) => Box::new(gcp::Gcp::open(settings)?),
        })
    }
}

/// What a file says of the plugin itself, once it was judged.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Settled {
    /// Where it listens.
    pub socket: Option<Place>,
    /// Who may connect.
    pub access: Access,
    /// How members are combined.
    pub combination: Combination,
    /// How members are looked at, and when their keys come into use.
    pub times: (Timing, Rules),
}

impl Written {
    /// Judges what can be judged before anything is opened.
    ///
    /// # Errors
    /// [`ConfigError`].
    #[doc(hidden)]
    pub fn settle(&self) -> Result<Settled, ConfigError> {
        name("cluster", &self.cluster)?;
        let socket: Option<Place> =
            self.socket.path.as_deref().map(str::parse).transpose().map_err(|error| wrong("socket.path", error))?;
        let access = access(&self.socket, socket.as_ref())?;
        if let Some(address) = self.operations.address.filter(|address| !address.ip().is_loopback()) {
            let what =
                format!("{address} is not on this machine alone; use 127.0.0.1, and let a proxy with TLS ask there");
            return Err(wrong("operations.address", what));
        }
        if self.members.is_empty() || self.members.len() > MAX_MEMBERS {
            return Err(wrong("members", format!("expected 1 to {MAX_MEMBERS} of them")));
        }
        let combination = combination(&self.combine, self.members.len())?;
        let times = times(&self.timing)?;
        self.members.keys().try_for_each(|member| name("members", member))?;
        Ok(Settled { socket, access, combination, times })
    }

    /// How many members it has.
    #[doc(hidden)]
    pub fn count(&self) -> usize {
        self.members.len()
    }
}

impl Config {
    /// Judges what was written. Nothing that a member names is opened yet, as it may come later: whoever looks at a member opens
    /// it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(written: Written) -> Result<Self, ConfigError> {
        Self::at(written, |cluster| cluster)
    }

    /// The same members for identities in place of kube-apiserver's seeds (`identity`). Neither opens what the other made:
    /// no name of a cluster has a slash. Nothing is remembered, since nobody was told a key id.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn for_identities(written: Written) -> Result<Parts, ConfigError> {
        let mut written = written.without_memory();
        written.state = None;
        // No other node has to know a new version before it is used.
        (written.timing.promote_looks, written.timing.promote_delay_s) = (Some(1), Some(0));
        Self::at(written, |cluster| format!("identity/{cluster}")).map(|config| config.plugin)
    }

    fn at(written: Written, place: impl FnOnce(String) -> String) -> Result<Self, ConfigError> {
        let Settled { socket, access, combination, times } = written.settle()?;
        let Written { cluster, epoch, state, operations, audit, members, .. } = written;
        let cluster = place(cluster);
        let state = state.map(|path| StateFile::new(path, epoch));
        let mut remembered = match &state {
            None => BTreeMap::new(),
            Some(file) => file.load().map_err(|error| wrong("state", format!("{}: {error}", file.path().display())))?,
        };
        let metrics = Arc::new(Metrics::new());
        let mut opened = Vec::with_capacity(members.len());
        for (member, written) in members {
            let provider = written.open().map_err(|error| wrong(&format!("members.{member}"), error))?;
            let known = remembered.remove(&member).unwrap_or_default();
            let metrics = Arc::clone(&metrics);
            opened.push(Arc::new(Member::new(member, provider, &cluster, times, known, metrics)));
        }
        let size = envelope::size(opened.iter().map(|member| member.max_wrapped_bytes()), MAX_SEED_BYTES);
        if size > MAX_CIPHERTEXT_BYTES {
            let what = format!(
                "together they make ciphertexts of up to {size} bytes, and kube-apiserver takes {MAX_CIPHERTEXT_BYTES}; \
                 leave one out"
            );
            return Err(wrong("members", what));
        }
        let plugin = Parts { cluster, epoch, combination, members: opened, state, metrics };
        Ok(Self { plugin, socket, access, operations: operations.address, audit: audit.file })
    }
}

fn name(field: &str, name: &str) -> Result<(), ConfigError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(known) {
        return Err(wrong(field, format!("a name has 1 to {MAX_NAME_BYTES} letters, digits, -, _ and .")));
    }
    Ok(())
}

fn access(socket: &WrittenSocket, place: Option<&Place>) -> Result<Access, ConfigError> {
    let mode = socket.mode.as_deref().unwrap_or("0660");
    let parsed = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
    let mode = parsed.ok_or_else(|| wrong("socket.mode", "expected a mode such as \"0660\""))?;
    if mode & 0o007 != 0 {
        return Err(wrong("socket.mode", "everybody could connect; use \"0660\" and a group"));
    }
    let uids = match (&socket.allow_uids, place) {
        (Some(uids), _) if uids.is_empty() => {
            return Err(wrong("socket.allow_uids", "nobody could connect; name kube-apiserver's user"));
        }
        (Some(uids), _) => uids.clone(),
        // Nothing else keeps others from an abstract socket.
        (None, Some(Place::Abstract(_))) => {
            return Err(wrong("socket.allow_uids", "an abstract socket has no mode; name kube-apiserver's user"));
        }
        (None, _) => vec![0, rustix::process::geteuid().as_raw()],
    };
    Ok(Access { mode, gid: socket.gid, uids })
}

fn combination(written: &WrittenCombination, members: usize) -> Result<Combination, ConfigError> {
    let WrittenCombination { mode, policy, minimum } = *written;
    if mode == Some(WrittenMode::Split) {
        if policy.is_some() || minimum.is_some() {
            return Err(wrong("combine", "in mode split all members are needed; leave policy and minimum out"));
        }
        if members < 2 {
            return Err(wrong("combine.mode", "split needs two members or more"));
        }
        return Ok(Combination::Split);
    }
    let minimum = |name: &str| match minimum {
        Some(count) if (1..=members).contains(&count) => Ok(count),
        _ => Err(wrong("combine.minimum", format!("policy {name} needs it, from 1 to {members}"))),
    };
    Ok(Combination::Any(match policy {
        Some(WrittenPolicy::Quorum) => Policy::Quorum(minimum("quorum")?),
        Some(WrittenPolicy::Degraded) => Policy::Degraded(minimum("degraded")?),
        Some(WrittenPolicy::All) | None => {
            if written.minimum.is_some() {
                return Err(wrong(
                    "combine.minimum",
                    "policy all needs all of them; leave it out, or name another policy",
                ));
            }
            if policy.is_none() && members > 1 {
                return Err(wrong("combine.policy", "several members: expected \"all\", \"quorum\" or \"degraded\""));
            }
            Policy::All
        }
    }))
}

fn times(written: &WrittenTiming) -> Result<(Timing, Rules), ConfigError> {
    let within = |field: &str, value: Option<u64>, usual: u64, least: u64, most: u64| match value.unwrap_or(usual) {
        value if (least..=most).contains(&value) => Ok(value),
        _ => Err(wrong(&format!("timing.{field}"), format!("expected {least} to {most}"))),
    };
    let period = within("period_s", written.period_s, 20, 1, 60)?;
    let stale = within("stale_s", written.stale_s, 90, 2, MAX_STALE_S)?;
    if stale < period.saturating_mul(2) {
        return Err(wrong("timing.stale_s", "expected at least twice period_s, or one slow look would stop writes"));
    }
    let timing = Timing {
        attempt: Duration::from_millis(within("attempt_ms", written.attempt_ms, 1000, 50, 2500)?),
        look: Duration::from_millis(within("look_ms", written.look_ms, 5000, 50, 60_000)?),
        period: Duration::from_secs(period),
        stale: Duration::from_secs(stale),
    };
    let looks = within("promote_looks", written.promote_looks.map(u64::from), 2, 1, 100)?;
    let delay = within("promote_delay_s", written.promote_delay_s, 120, 0, 86_400)?;
    let rules = Rules { observations: u32::try_from(looks).unwrap_or(u32::MAX), delay: Duration::from_secs(delay) };
    Ok((timing, rules))
}
