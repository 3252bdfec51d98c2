//! One run of a command: who calls which cluster where, and what is to be said at its end.

use crate::context::{Context, Contexts, Trust};
use crate::exit::{Exit, Failure};
use crate::keys::{Keys, key_source};
use crate::output::{Screen, time};
use bulla_client::{Client, ClientError, State};
use bulla_crypto::envelope::Decrypter;
use bulla_crypto::identity::Identity;
use bulla_keys::uri::TokenUri;
use bulla_keys::{KeySource, Make};
use bulla_server::route::{self, Needed};
use bulla_wire::id::ClusterId;
use clap::Args;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The address of a client that calls nobody.
const NOWHERE: &str = "localhost:8250";

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Use this context instead of the current one
    #[arg(long, global = true, env = "BULLA_CONTEXT", hide_env_values = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The server: https://HOST:PORT, HOST:PORT or unix:/PATH
    #[arg(long, global = true, env = "BULLA_ADDR", hide_env_values = true, value_name = "ADDR")]
    pub addr: Option<String>,
    /// The cluster's id, from which everything is verified
    #[arg(long, global = true, env = "BULLA_CLUSTER", hide_env_values = true, value_name = "ID")]
    pub cluster: Option<ClusterId>,
    /// Your identity: a file of `bulla keygen`, an SSH private key, keys on a token (pkcs11:…) or in an agent (ssh-agent:…)
    #[arg(long, global = true, env = "BULLA_IDENTITY", hide_env_values = true, value_name = "KEY", value_parser = key_source())]
    pub identity: Option<KeySource>,
    /// Decrypt with this identity's key, and sign with that of --identity, which may only sign
    #[arg(long, global = true, env = "BULLA_DECRYPT_WITH", hide_env_values = true, value_name = "KEY", value_parser = key_source())]
    pub decrypt_with: Option<KeySource>,
    /// It is the variable that says so.
    #[arg(skip)]
    pub decrypt_with_by_variable: bool,
    /// Read the passphrase of an encrypted SSH key from the first line of this file
    #[arg(long, global = true, env = "BULLA_PASSPHRASE_FILE", hide_env_values = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Read a token's PIN from the first line of this file
    #[arg(long, global = true, env = "BULLA_PIN_FILE", hide_env_values = true, value_name = "FILE")]
    pub pin_file: Option<PathBuf>,
    /// Ask for a token's PIN with this pinentry program
    #[arg(long, global = true, env = "BULLA_PINENTRY", hide_env_values = true, value_name = "PROGRAM")]
    pub pinentry: Option<OsString>,
    /// Give up after this time, at most 4m; such as 10s
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Print the policy that the command needs, in place of what it would do
    #[arg(long, global = true)]
    pub output_policy: bool,
    /// Print nothing but the answer, warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// Where files of this user lie.
#[derive(Debug, Clone, Default)]
pub struct Places {
    config: Option<PathBuf>,
    state: Option<PathBuf>,
}

impl Places {
    /// From the environment, by the XDG rules: a relative path there counts as none.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let below = |path: &str| home.as_ref().map(|home| home.join(path));
        Self {
            config: absolute("XDG_CONFIG_HOME").or_else(|| below(".config")).map(|path| path.join("bulla/config.toml")),
            state: absolute("XDG_STATE_HOME").or_else(|| below(".local/state")).map(|path| path.join("bulla")),
        }
    }
}

/// What flags, environment and context say together.
#[derive(Debug)]
pub struct Settled {
    /// Where.
    pub address: String,
    /// Which cluster is believed.
    pub trust: Option<Trust>,
    /// Authorities of the certificate.
    pub ca: Option<PathBuf>,
}

/// A run of a command.
pub struct Session<'a> {
    /// Flags of every command.
    pub global: Global,
    /// Where words go.
    pub screen: &'a Screen,
    places: Places,
    client: OnceLock<Client>,
    alarms_shown: AtomicBool,
    identity: OnceLock<Arc<Identity>>,
    needed: Arc<OnceLock<Needed>>,
    keys: Keys,
}

impl<'a> Session<'a> {
    /// Nothing is read yet.
    pub fn new(global: Global, screen: &'a Screen, places: Places) -> Self {
        let keys = Keys::new(global.timeout);
        Self {
            global,
            screen,
            places,
            client: OnceLock::new(),
            alarms_shown: AtomicBool::new(false),
            identity: OnceLock::new(),
            needed: Arc::default(),
            keys,
        }
    }

    /// The file of contexts.
    pub fn config_path(&self) -> Result<&Path, Failure> {
        self.places.config.as_deref().ok_or_else(|| {
            Failure::new(Exit::Failed, "there is no place for contexts")
                .hint("set HOME or XDG_CONFIG_HOME, or give --addr, --cluster and --identity")
        })
    }

    /// The contexts.
    pub fn contexts(&self) -> Result<Contexts, Failure> {
        self.places.config.as_deref().map_or_else(|| Ok(Contexts::default()), Contexts::load)
    }

    fn context(&self) -> Result<Option<Context>, Failure> {
        let contexts = self.contexts()?;
        let name = self.global.context.as_ref().or(contexts.current.as_ref());
        name.map(|name| contexts.find(name).cloned()).transpose()
    }

    /// What is trusted by flag, environment or context, if anything is.
    pub fn trust(&self) -> Result<Option<Trust>, Failure> {
        match self.global.cluster {
            Some(cluster) => Ok(Some(Trust::Cluster(cluster))),
            None => Ok(self.context()?.map(|context| context.trust)),
        }
    }

    /// Lays flags and environment over the context.
    pub fn settled(&self) -> Result<Settled, Failure> {
        let Global { addr, .. } = &self.global;
        let context = self.context()?;
        let address = addr.clone().or_else(|| context.as_ref().map(|context| context.address.clone()));
        let address = address.ok_or_else(|| {
            let failure = Failure::usage("no server is named");
            let failure = match self.places.config {
                Some(_) => failure,
                None => failure.hint("no contexts were looked at: set HOME or XDG_CONFIG_HOME"),
            };
            failure.hint("give --addr ADDR and --cluster ID, or add a context with `bulla context add NAME ADDR`")
        })?;
        // Another address is not vouched for by the authorities of the context's own.
        let ca = if addr.is_none() { context.as_ref().and_then(|context| context.ca.clone()) } else { None };
        Ok(Settled { address, trust: self.trust()?, ca })
    }

    /// The caller's identity.
    pub fn identity(&self) -> Result<Arc<Identity>, Failure> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity.clone());
        }
        let (signs, opens) = self.sources()?;
        let identity = self.read_identity(&signs, opens.as_ref())?;
        Ok(self.identity.get_or_init(|| identity).clone())
    }

    /// Where the caller's key is, and another that decrypts if there is one.
    fn sources(&self) -> Result<(KeySource, Option<KeySource>), Failure> {
        let Global { identity, decrypt_with, .. } = &self.global;
        let (signs, opens) = match identity {
            // What the context says belongs to its own identity.
            Some(identity) => (Some(identity.clone()), decrypt_with.clone()),
            None => {
                let context = self.context()?;
                let kept = context.as_ref().and_then(|context| context.decrypt_with.clone());
                (context.and_then(|context| context.identity), decrypt_with.clone().or(kept))
            }
        };
        Ok((signs.ok_or_else(|| Failure::from(ClientError::NoIdentity))?, opens))
    }

    /// The caller's key that decrypts.
    pub fn decrypting_source(&self) -> Result<KeySource, Failure> {
        self.sources().map(|(signs, opens)| opens.unwrap_or(signs))
    }

    /// What opens by this key, whether or not there is one that signs.
    pub fn decrypter(&self, key: &KeySource) -> Result<Arc<dyn Decrypter>, Failure> {
        self.keys.decrypter(&self.global, key)
    }

    /// A new AES key on a token, and its id.
    pub fn make_aes_on_token(&self, uri: &TokenUri) -> Result<Vec<u8>, Failure> {
        self.keys.generate_aes(&self.global, uri)
    }

    /// New keys on a token.
    pub fn make_on_token(&self, uri: &TokenUri, make: Make) -> Result<Arc<Identity>, Failure> {
        self.keys.generate(&self.global, uri, make)
    }

    /// The identity with this key, and with another that decrypts if there is one.
    pub fn read_identity(&self, key: &KeySource, opens: Option<&KeySource>) -> Result<Arc<Identity>, Failure> {
        self.keys.identity(&self.global, key, opens)
    }

    /// A client as the caller.
    pub fn client(&self) -> Result<Client, Failure> {
        self.client_with(&[])
    }

    /// A client as the caller, which opens wraps with these older keys too. To be asked for before any other.
    pub fn client_with(&self, old: &[KeySource]) -> Result<Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let settled = self.settled()?;
        let identity = self.identity()?;
        if settled.trust.is_none() {
            return Err(ClientError::NoPin.into());
        }
        let mut builder = self.builder(&settled)?.identity(identity);
        for key in old {
            builder = builder.also_opens(self.keys.decrypter(&self.global, key)?);
        }
        let client = builder.build()?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// A client that calls open routes only.
    pub fn open_client(&self) -> Result<Client, Failure> {
        let settled = self.settled()?;
        Ok(self.builder(&settled)?.build()?)
    }

    /// A client that calls nobody: for files that are judged by what is trusted and what was learnt before.
    pub fn offline_client(&self) -> Result<Client, Failure> {
        let trust = self.trust()?.ok_or_else(|| Failure::from(bulla_client::ClientError::NoPin))?;
        Ok(self.builder(&Settled { address: NOWHERE.to_owned(), trust: Some(trust), ca: None })?.build()?)
    }

    /// A client of some address, with the pin and the authorities that were settled.
    pub fn builder(&self, settled: &Settled) -> Result<bulla_client::Builder, Failure> {
        let Settled { address, trust, ca } = settled;
        let mut builder = Client::builder(address.clone());
        if let Some(timeout) = self.global.timeout {
            builder = builder.timeout(timeout);
        }
        if let Some(ca) = ca {
            builder = builder.ca_file(ca.clone());
        }
        if let Some(trust) = trust {
            builder = builder.pin(trust.pin());
        }
        if let Some(line) = self.screen.progress() {
            builder = builder.progress(move |progress| line.draw(progress));
        }
        if self.global.output_policy {
            let needed = Arc::clone(&self.needed);
            builder = builder.withhold(move |method, path| match route::needed(method, path) {
                Some(found) => {
                    needed.get_or_init(|| found);
                    true
                }
                None => false,
            });
        }
        Ok(builder.state(self.state()?))
    }

    fn state(&self) -> Result<State, Failure> {
        let path = self.places.state.clone().ok_or_else(|| {
            Failure::new(Exit::Failed, "there is no place to remember what was seen of the cluster")
                .hint("set HOME or XDG_STATE_HOME")
        })?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| Failure::file("cannot make", &path, &error))?;
        Ok(State::Directory(path))
    }

    /// Prints the policy that the command needs, if it stopped there.
    pub async fn tell_policy(&self) -> Result<bool, Failure> {
        let Some(needed) = self.needed.get() else { return Ok(false) };
        if *needed == Needed::NoPolicy {
            return Err(Failure::usage(
                "no policy gives the right to do this: it is that of the seal's admins, or of k of them",
            )
            .hint("run it without --output-policy, as one of them"));
        }
        let me = self.client()?.whoami().await?;
        self.screen.say(&format!("{} needs this, in a policy of any name", me.principal.name));
        self.screen.bytes(needed.policy(&me.principal.id).unwrap_or_default().as_bytes())?;
        Ok(true)
    }

    /// The caller was shown its alarms, so they need no mention.
    pub fn alarms_shown(&self) {
        self.alarms_shown.store(true, Ordering::Relaxed);
    }

    /// Writes what was learnt, and tells what waits for the caller.
    pub fn finish(&self) -> Result<(), Failure> {
        let Some(client) = self.client.get() else { return Ok(()) };
        client.flush()?;
        for loss in client.losses() {
            let (lost, kept) = (loss.consent.lost.sequence, loss.consent.kept.sequence);
            let from = if lost == kept { loss.seen.sequence } else { lost };
            self.screen.warn(&format!(
                "k admins accepted that the cluster lost commits: it went back from sequence {from} to {kept}"
            ));
            if let Some(known) = loss.unknown_to_admins() {
                self.screen.warn(&format!(
                    "this machine has seen sequence {}, and the admins knew that history up to {}; ask them whether the \
                     audit log was whole",
                    loss.seen.sequence, known.sequence
                ));
            }
        }
        match client.alarms_waiting() {
            _ if self.alarms_shown.load(Ordering::Relaxed) => {}
            0 => {}
            1 => self.screen.warn("an alarm waits for you; `bulla alarms --seen` shows and marks it"),
            count => {
                self.screen.warn(&format!("{count} alarms wait for you; `bulla alarms --seen` shows and marks them"))
            }
        }
        Ok(())
    }
}

/// A point in time on the command line: RFC 3339, or a time from now such as `2h`.
pub fn moment(text: &str) -> Result<u64, String> {
    let now = now_ms();
    if let Ok(span) = humantime::parse_duration(text) {
        return Ok(now.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)));
    }
    let at = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "expected a time such as 2030-01-31T12:00:00Z, or one from now such as 2h".to_owned())?;
    let since = at.duration_since(std::time::UNIX_EPOCH).map_err(|_| "a time before 1970".to_owned())?;
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    if ms <= now { Err(format!("{} has passed", time(ms))) } else { Ok(ms) }
}

/// Unix milliseconds by this machine's clock.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_where_the_xdg_rules_say() {
        let of = |pairs: &'static [(&str, &str)]| {
            Places::new(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into()))
        };
        let places = of(&[("HOME", "/home/a")]);
        assert_eq!(places.config, Some("/home/a/.config/bulla/config.toml".into()));
        assert_eq!(places.state, Some("/home/a/.local/state/bulla".into()));
        let places = of(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "relative")]);
        assert_eq!(places.config, Some("/c/bulla/config.toml".into()));
        assert_eq!(places.state, Some("/home/a/.local/state/bulla".into()));
        assert_eq!(of(&[]).config, None);
    }

    #[test]
    fn moments_lie_ahead() {
        let now = now_ms();
        assert!(moment("2h").is_ok_and(|at| at.abs_diff(now + 7_200_000) < 60_000));
        assert!(moment("2090-01-01T00:00:00Z").is_ok_and(|at| at > now));
        for bad in ["2001-01-01T00:00:00Z", "tomorrow", ""] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
