//! `bulla kms`: the Kubernetes KMS v2 plugin, and the keys and files that its members use.

pub mod bind;
mod doctor;
mod identity;
mod keyfile;
mod migrate;
mod rotate;
mod token;

use super::Variables;
use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::keys::key_source;
use crate::log::LogArgs;
use crate::memory;
use crate::session::Session;
use crate::systemd::Manager;
use bulla_keys::KeySource;
use bulla_kms::ask::{self, Answered, Lives};
use bulla_kms::config::{Config, ConfigError, Written};
use bulla_kms::member::Member;
use bulla_kms::plugin::Plugin;
use bulla_kms::serve;
use bulla_kms::socket::Place;
use clap::{Args, Subcommand};
use listenfd::ListenFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A configuration with every key.
const SAMPLE: &str = include_str!("../../../../docs/samples/kms.toml");

/// Encrypt what Kubernetes stores, by keys that are elsewhere
///
/// A KMS v2 plugin for kube-apiserver. Its members are keys of Bulla and of other services; one of them is enough, or
/// several wrap each seed together.
#[derive(Debug, Args)]
pub struct Kms {
    #[command(subcommand)]
    verb: Verb,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Answer kube-apiserver until a signal comes
    Serve {
        #[command(flatten)]
        log: LogArgs,
    },
    /// Tell whether the process at a socket lives, for probes of containers
    ///
    /// It is asked for nothing that needs a member, and no configuration is read: so neither a backend that is away nor a file
    /// that is being changed has a sound process restarted. It ends with 0 if somebody answers, with 15 if nobody does within
    /// three seconds, and with 1 if this user may not connect.
    Alive {
        /// Where it listens: an absolute path, or @NAME for an abstract socket
        #[arg(value_name = "SOCKET")]
        socket: Place,
    },
    /// Check the configuration, and ask nobody
    Check,
    /// Have every member wrap something and unwrap it again, and show the key id
    ///
    /// Nodes of one Kubernetes cluster have to show the same key id. The hash is what kube-apiserver's metrics show.
    Verify,
    Doctor(doctor::Doctor),
    /// See how far a rotation is, and whether the key before may be retired
    #[command(subcommand)]
    Rotate(rotate::Rotate),
    /// Translate the configuration of another plugin
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Print a configuration file with every key
    Sample,
    /// Make and change the file of keys that the members `age` of all nodes share
    ///
    /// It is encrypted by age to each node. Whoever opens it can change it; afterwards copy it to every node, whose plugin takes
    /// it up by itself.
    #[command(subcommand)]
    Keyfile(keyfile::Keyfile),
    Bind(bind::Bind),
    /// Encrypt an identity of `bulla kms bind --config` anew, by the keys that its members use now
    ///
    /// To be run after a key of a member was rotated, before its older version is retired. The identity stays the same.
    Rebind {
        /// The file of the identity, which is replaced
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make an AES-256 key on a token, where it stays, and print the lines of a member `pkcs11` that uses it
    Keygen {
        /// The token, and the label of the key (object=)
        #[arg(value_name = "URI", value_parser = key_source())]
        place: KeySource,
    },
}

pub async fn run(args: Kms, session: &Session<'_>, variables: Variables) -> Result<Exit, Failure> {
    let Kms { verb, config } = args;
    let named = || {
        config.as_deref().ok_or_else(|| {
            Failure::usage("no configuration is named").hint("give --config FILE; `bulla kms sample` prints one")
        })
    };
    match verb {
        Verb::Sample => session.screen.bytes(SAMPLE.as_bytes()).map(|()| Exit::Ok),
        Verb::Keyfile(verb) => keyfile::run(verb, session).await,
        Verb::Bind(args) => Box::pin(bind::run(args, config.as_deref(), session)).await,
        Verb::Rebind { file } => Box::pin(bind::again(&file, named()?, session)).await,
        Verb::Keygen { place } => token::keygen(&place, session),
        Verb::Serve { log } => {
            log.begin()?;
            answer(named()?, &variables).await
        }
        Verb::Alive { socket } => alive(&socket, session).await,
        Verb::Check => {
            let path = named()?;
            check(path).await?;
            session.screen.say(&format!("{} can be used", path.display()));
            Ok(Exit::Ok)
        }
        Verb::Verify => verify(looking(named()?)?, session).await,
        Verb::Doctor(doctor) => Box::pin(doctor::run(doctor, named()?, session)).await,
        Verb::Rotate(verb) => Box::pin(rotate::run(verb, named()?, session)).await,
        Verb::Migrate(verb) => migrate::run(verb, session),
    }
}

/// Asks a process whether it lives.
async fn alive(socket: &Place, session: &Session<'_>) -> Result<Exit, Failure> {
    let unreachable = |text: String, hint: &str| Err(Failure::new(Exit::Unreachable, text).hint(hint));
    match ask::alive(socket).await {
        Ok(Lives::Answers) => session.screen.say(&format!("the process at {socket} answers")),
        Ok(Lives::HangsUp) => session
            .screen
            .say(&format!("the process at {socket} lives, and hangs up on this user, who is not in socket.allow_uids")),
        Err(Answered::Forbidden) => {
            return Err(Failure::new(Exit::Failed, format!("this user may not connect to {socket}"))
                .hint("run it as the plugin's user, or as root"));
        }
        Err(Answered::Silent) => {
            return unreachable(
                format!("{socket} accepts, and nobody answers within three seconds"),
                "the process hangs, was stopped, or is not started yet: look at its log, and start it again",
            );
        }
        Err(_) => {
            return unreachable(format!("nobody listens at {socket}"), "start `bulla kms serve`, or name its socket");
        }
    }
    Ok(Exit::Ok)
}

/// Answers kube-apiserver until a signal comes.
async fn answer(path: &Path, variables: &Variables) -> Result<Exit, Failure> {
    // Before anything is read that is secret.
    let locked = memory::lock();
    // A socket of systemd, whose place it knows.
    let held = ListenFd::from_env().take_unix_listener(0);
    let held = held.map_err(|error| Failure::new(Exit::Failed, format!("the socket of systemd: {error}")))?;
    let opened = serve::open(load(path)?, held).await;
    let opened = opened.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    opened.plugin().metrics().memory_locked(locked.is_ok());
    if let Err(why) = locked {
        tracing::info!(%why, "memory is not locked, so keys may go to swap where there is some");
    }
    if let Ok(Some(address)) = opened.operations() {
        tracing::info!(%address, "metrics are shown");
    }
    let (mut end, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let manager = Manager::of(variables);
    manager.tell("READY=1");
    tracing::info!("kube-apiserver is answered");
    let stop = async {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
        manager.tell("STOPPING=1");
    };
    let served = Box::pin(opened.run(stop)).await;
    served.map_err(|error| Failure::new(Exit::Failed, format!("the socket: {error}")))?;
    Ok(Exit::Ok)
}

fn load(path: &Path) -> Result<Config, Failure> {
    Config::new(written(path)?).map_err(|error| unfit(path, &error))
}

/// For a command that only looks, as root perhaps: its members leave nothing behind that the plugin's user could not read. It has to
/// put the state aside as well.
fn looking(path: &Path) -> Result<Config, Failure> {
    Config::new(written(path)?.without_memory()).map_err(|error| unfit(path, &error))
}

/// Opens what lies on this node. `serve` starts without it, and opens it once it is there.
async fn check(path: &Path) -> Result<(), Failure> {
    prepare(path, &looking(path)?.plugin.members).await
}

/// Opens what members name on this node, tokens among it, and asks nobody over a network.
pub async fn prepare(path: &Path, members: &[Arc<Member>]) -> Result<(), Failure> {
    for member in members {
        member.prepare().await.map_err(|error| {
            Failure::usage(format!("{}: members.{}: {error}", path.display(), member.name()))
                .hint("mend what is named; the plugin starts without it, and opens it by itself once it is there")
        })?;
    }
    Ok(())
}

/// What a configuration says. Nothing is opened.
pub fn written(path: &Path) -> Result<Written, Failure> {
    let text = input::text(path, Limit::TEXT)?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        // The error's own text repeats the line, and with it what should not have been written there.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        Failure::usage(format!("{}: line {line}: {}", path.display(), error.message()))
            .hint("`bulla kms sample` prints a file with every key")
    })
}

fn unfit(path: &Path, error: &ConfigError) -> Failure {
    Failure::usage(format!("{}: {error}", path.display())).hint("`bulla kms sample` says what each key means")
}

fn on(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("cannot take signals: {error}")))
}

/// Looks at every member once.
async fn verify(mut config: Config, session: &Session<'_>) -> Result<Exit, Failure> {
    config.plugin.state = None;
    let plugin = Plugin::new(config.plugin);
    plugin.look_once().await;
    let mut rows = Vec::new();
    let mut sound = true;
    for member in plugin.members() {
        let (standing, error) = (member.standing(), member.error());
        sound &= error.is_none() && standing.key.is_some();
        let key = standing.key.map_or_else(String::new, |key| format!("{} ({})", key.version, key.digest()));
        let said = error.map_or_else(|| "wraps and unwraps".to_owned(), |error| format!("{}: {error}", error.class));
        rows.push(vec![member.name().to_owned(), member.kind().to_string(), key, said]);
    }
    session.screen.table(&["MEMBER", "KIND", "VERSION", "STATE"], &rows)?;
    match plugin.published() {
        Some(snapshot) => {
            session.screen.pairs(&[("key id", snapshot.key_id.to_string()), ("hash", snapshot.key_id.hash())])?;
            if snapshot.whole && sound {
                return Ok(Exit::Ok);
            }
            Err(Failure::new(Exit::Failed, "not every member wraps")
                .hint("seeds that are encrypted meanwhile have fewer copies than configured"))
        }
        None => Err(Failure::new(Exit::Failed, "too few members wrap for a key id")
            .hint("mend the members that are not well, or take them out of the configuration")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::identity::{Identity, IdentityKind};
    use bulla_crypto::random::SystemRng;

    /// A configuration with these lines before its members, which have these names.
    fn config(folder: &Path, before: &str, members: &[&str]) -> Result<Config, String> {
        let identity = folder.join("identity");
        let made = Identity::generate(IdentityKind::Hybrid, &mut SystemRng).unwrap();
        std::fs::write(&identity, made.to_file_text(None, None).unwrap().expose()).unwrap();
        std::fs::set_permissions(&identity, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let member = |name: &&str| {
            format!(
                "[members.\"{name}\".bulla]\naddress = 'https://localhost:1'\nkey = 'k'\nidentity = '{}'\n\
                 cluster = 'sha256:UNhY4JhezH9gQYqvDMWrWH9CwlcKiECVqejMrND2VFw'\n",
                identity.display()
            )
        };
        let members: String = members.iter().map(member).collect();
        let written: Written = toml::from_str(&format!("{before}\n{members}")).map_err(|error| error.to_string())?;
        Config::new(written).map_err(|error| error.to_string())
    }

    /// The line at fault may hold what should not have been written there.
    #[test]
    fn an_error_of_the_file_repeats_none_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.toml");
        for text in [
            "cluster = 'prod'\npin = \"1234secret\"\n",
            "cluster = 'prod'\n[members.a.pkcs11]\nuri = \"pkcs11:token=t;id=%01?pin-value=1234secret\"\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = written(&path).unwrap_err();
            assert!(!format!("{} {:?}", failure.message, failure.hints).contains("1234secret"), "{}", failure.message);
            assert!(failure.message.contains("line "), "{}", failure.message);
        }
    }

    /// A table of the sample: its path, whether it is commented out, and its lines without what makes them comments.
    struct Section {
        path: Vec<&'static str>,
        other: bool,
        lines: Vec<&'static str>,
    }

    fn sections() -> Vec<Section> {
        let mut sections = vec![Section { path: Vec::new(), other: false, lines: Vec::new() }];
        for line in SAMPLE.lines() {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            match bare.strip_prefix('[').and_then(|path| path.strip_suffix(']')) {
                Some(path) => {
                    let path = path.split('.').collect();
                    sections.push(Section { path, other: bare != line, lines: Vec::new() });
                }
                None => sections.last_mut().unwrap().lines.push(bare),
            }
        }
        sections
    }

    fn below<'a>(table: &'a mut toml::Table, path: &[&str]) -> &'a mut toml::Table {
        path.iter().fold(table, |table, name| table.get_mut(*name).unwrap().as_table_mut().unwrap())
    }

    /// The names that would be understood in the place of `nothing`.
    fn expected(table: toml::Table) -> Vec<String> {
        let error = table.try_into::<Written>().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("unknown") && error.contains("`nothing`"), "{error}");
        let names = error.lines().find_map(|line| line.split_once("expected ")).unwrap().1;
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_sample_has_every_key() {
        let whole: toml::Table = toml::from_str(SAMPLE).unwrap();
        let sections = sections();
        assert!(sections.iter().filter(|section| section.other).count() >= 11);
        for Section { path, other, lines } in &sections {
            let mut table = whole.clone();
            if *other {
                let (own, above) = path.split_last().unwrap();
                let lines: Vec<&str> = lines.iter().copied().take_while(|line| !line.is_empty()).collect();
                let content: toml::Table = toml::from_str(&lines.join("\n")).unwrap();
                *below(&mut table, above) = toml::Table::from_iter([((*own).to_owned(), content.into())]);
            }
            table.clone().try_into::<Written>().unwrap_or_else(|error| panic!("{path:?}: {error}"));
            below(&mut table, path).insert("nothing".to_owned(), 1.into());
            // A map of members takes any name.
            for name in expected(table) {
                let key = lines.iter().any(|line| line.starts_with(&format!("{name} = ")));
                let table = sections.iter().any(|other| {
                    other.path.strip_prefix(path.as_slice()).is_some_and(|rest| rest.first() == Some(&name.as_str()))
                });
                assert!(key || table, "{path:?} lacks {name}");
            }
        }
    }

    #[test]
    fn the_sample_has_every_kind_of_member_and_credential() {
        let whole: toml::Table = toml::from_str(SAMPLE).unwrap();
        let sections = sections();
        for path in sections.iter().map(|section| &section.path).filter(|path| path.len() >= 3) {
            let (_, above) = path.split_last().unwrap();
            let mut table = whole.clone();
            *below(&mut table, above) = toml::Table::from_iter([("nothing".to_owned(), toml::Table::new().into())]);
            for name in expected(table) {
                let there = sections.iter().any(|other| {
                    // Each member is of one kind, so the other kinds are those of other members.
                    let beside = other.path.len() == path.len() && (path.len() == 3 || other.path.starts_with(above));
                    beside && other.path.last() == Some(&name.as_str())
                });
                assert!(there, "{path:?}: nothing shows {name}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let good = "cluster = 'prod'";
        let with = |more: &str| format!("{good}\n{more}");
        config(folder.path(), good, &["a"]).map(|_| ()).unwrap();
        let degraded = with("[combine]\npolicy = 'degraded'\nminimum = 1");
        config(folder.path(), &degraded, &["a", "b"]).map(|_| ()).unwrap();
        for (before, members, named) in [
            ("cluster = ''".to_owned(), &["a"][..], "cluster"),
            ("cluster = 'a b'".to_owned(), &["a"], "cluster"),
            (with("typo = 1"), &["a"], "typo"),
            (with("[socket]\npath = 'k.sock'"), &["a"], "socket.path"),
            (with("[socket]\nmode = '0666'"), &["a"], "socket.mode"),
            (with("[socket]\nmode = 'rw'"), &["a"], "socket.mode"),
            (with("[socket]\nallow_uids = []"), &["a"], "socket.allow_uids"),
            (with("[socket]\npath = '@kms'"), &["a"], "socket.allow_uids"),
            (with("[operations]\naddress = '0.0.0.0:1'"), &["a"], "operations.address"),
            (with("[combine]\nmode = 'split'"), &["a"], "combine.mode"),
            (with("[combine]\nmode = 'split'\nminimum = 1"), &["a", "b"], "combine"),
            (with("[combine]\npolicy = 'degraded'"), &["a", "b"], "combine.minimum"),
            (with("[combine]\npolicy = 'quorum'\nminimum = 3"), &["a", "b"], "combine.minimum"),
            (with("[combine]\nminimum = 1"), &["a"], "combine.minimum"),
            (good.to_owned(), &["a", "b"], "combine.policy"),
            (with("[timing]\nstale_s = 30"), &["a"], "timing.stale_s"),
            (with("[timing]\nperiod_s = 0"), &["a"], "timing.period_s"),
            (with("[timing]\nattempt_ms = 9000"), &["a"], "timing.attempt_ms"),
            (with("[members]"), &[], "members"),
            (with("[combine]\npolicy = 'all'"), &["a", "b", "c", "d", "e", "f", "g"], "members"),
            (good.to_owned(), &["a b"], "members"),
        ] {
            let error = config(folder.path(), &before, members).map(|_| ()).unwrap_err();
            assert!(error.contains(named), "{before}: {error}");
        }
    }
}
