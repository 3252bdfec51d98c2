//! The agent's configuration: a TOML file, read once into what cannot be wrong.

use super::child::OnChange;
use super::wanted::{RoleName, Wanted};
use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::systemd::Manager;
use crate::template::{self, Part};
use bulla_wire::name::Name;
use rustix::process::Signal;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration with every key.
pub const SAMPLE: &str = include_str!("../../../../docs/samples/agent.toml");

/// Seconds between looks for change unless the file says otherwise: a new password is in place within a minute, and an
/// agent costs the cluster next to nothing.
const POLL_S: u64 = 30;
/// Longest time between looks: a day, beyond which nobody would wait for a change.
const MAX_POLL_S: u64 = 24 * 3600;
/// Seconds that a child has to end unless the file says otherwise, as containers give by default.
const GRACE_S: u64 = 10;
/// Longest grace: an hour, for what has long requests to finish.
const MAX_GRACE_S: u64 = 3600;
/// Mode of files unless the file says otherwise.
const MODE: &str = "0600";
/// Signals that a child may get on change. The others cannot be caught or mean something else to every program.
const SIGNALS: [(&str, Signal); 7] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
];

/// The whole configuration.
#[derive(Debug)]
pub struct Config {
    /// How often change is looked for.
    pub poll: Duration,
    /// Files.
    pub templates: Vec<Template>,
    /// Users of databases that are kept.
    pub databases: BTreeMap<RoleName, Source>,
    /// The program.
    pub child: Option<ChildConfig>,
    /// The Unix socket.
    pub socket: Option<SocketConfig>,
}

/// Where the user of a role is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It is made, with a lease that is to last so many seconds.
    Made {
        /// The role's own time without them.
        ttl_s: Option<u64>,
    },
    /// It is there, and the cluster rotates its password.
    Static,
}

/// A file that is written.
#[derive(Debug)]
pub struct Template {
    /// Where it is written.
    pub destination: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its text, with the names of values.
    pub parts: Vec<Part<Wanted>>,
}

/// The program that is run.
#[derive(Debug)]
pub struct ChildConfig {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its variables.
    pub variables: Vec<(String, Wanted)>,
    /// What it is told of changes.
    pub on_change: OnChange,
    /// How long it may take to end.
    pub grace: Duration,
}

/// The Unix socket.
#[derive(Debug)]
pub struct SocketConfig {
    /// Where it lies.
    pub path: PathBuf,
    /// Who may connect besides the agent's own user.
    pub uids: BTreeSet<u32>,
    /// Whose primary group may connect.
    pub gids: BTreeSet<u32>,
    /// What may be asked for, by the name in the request.
    pub values: BTreeMap<Name, Wanted>,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    poll_s: Option<u64>,
    #[serde(default)]
    template: Vec<WrittenTemplate>,
    #[serde(default)]
    database: Vec<WrittenDatabase>,
    child: Option<WrittenChild>,
    socket: Option<WrittenSocket>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTemplate {
    source: PathBuf,
    destination: PathBuf,
    mode: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDatabase {
    role: String,
    #[serde(default, rename = "static")]
    of_static: bool,
    ttl_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenChild {
    command: Vec<String>,
    on_change: Option<String>,
    grace_s: Option<u64>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSocket {
    path: PathBuf,
    #[serde(default)]
    allow_uids: BTreeSet<u32>,
    #[serde(default)]
    allow_gids: BTreeSet<u32>,
    #[serde(default)]
    values: BTreeMap<String, String>,
}

/// What is wrong with a key, and what to do instead.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    key: String,
    problem: String,
    hint: String,
}

fn fault(key: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault { key: key.into(), problem: problem.into(), hint: hint.into() }
}

impl Config {
    /// Reads the file and the templates that it names.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = input::text(path, Limit::TEXT)?;
        Self::parse(&text, |path| input::text(path, Limit::TEXT)).map_err(|error| match error {
            Unfit::Key(Fault { key, problem, hint }) => {
                Failure::usage(format!("{}: {key}: {problem}", path.display())).hint(hint)
            }
            Unfit::File(failure) => failure,
        })
    }

    /// From the text of the file; `read` gives that of a template.
    fn parse(text: &str, read: impl Fn(&Path) -> Result<String, Failure>) -> Result<Self, Unfit> {
        let Written { poll_s, template, database, child, socket } = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count().saturating_add(1);
            fault(format!("line {line}"), error.message(), "`bulla agent sample` shows every key")
        })?;
        let poll_s = within("poll_s", poll_s.unwrap_or(POLL_S), 1, MAX_POLL_S)?;
        let templates = template.into_iter().map(|written| self::template(written, &read)).collect::<Result<_, _>>()?;
        let databases = databases(database)?;
        let child = child.map(self::child).transpose()?;
        let socket = socket.map(self::socket).transpose()?;
        let config = Self { poll: Duration::from_secs(poll_s), templates, databases, child, socket };
        config.check()?;
        Ok(config)
    }

    /// Every name of a value, with the key where it stands.
    fn named(&self) -> impl Iterator<Item = (String, &Wanted)> {
        let templates = self.templates.iter().flat_map(|template| {
            let key = format!("the template for {}", template.destination.display());
            template.wanted().map(move |wanted| (key.clone(), wanted))
        });
        let variables = self.child.iter().flat_map(|child| &child.variables);
        let variables = variables.map(|(name, wanted)| (format!("child.env.{name}"), wanted));
        let values = self.socket.iter().flat_map(|socket| &socket.values);
        let values = values.map(|(name, wanted)| (format!("socket.values.{name}"), wanted));
        templates.chain(variables).chain(values)
    }

    /// What must fit together.
    fn check(&self) -> Result<(), Fault> {
        if self.templates.is_empty() && self.child.is_none() && self.socket.is_none() {
            let problem = "there is nothing to do";
            return Err(fault("the file", problem, "name a [[template]], a [child] or a [socket]"));
        }
        let mut destinations = BTreeSet::new();
        for Template { destination, .. } in &self.templates {
            if !destinations.insert(destination) {
                let problem = format!("two templates are written to {}", destination.display());
                return Err(fault("template.destination", problem, "give each a file of its own"));
            }
        }
        let mut used = BTreeSet::new();
        for (key, wanted) in self.named() {
            let Wanted::User(role, _) = wanted else { continue };
            if !self.databases.contains_key(role) {
                let hint = format!("add it:\n[[database]]\nrole = \"{role}\"");
                return Err(fault(key, format!("{wanted} is of a role that no [[database]] names"), hint));
            }
            used.insert(role);
        }
        match self.databases.keys().find(|role| !used.contains(role)) {
            None => Ok(()),
            Some(role) => Err(fault(
                "database.role",
                format!("users of {role} would be made for nobody"),
                format!("name database/{role}#username or #password in a template, child.env or socket.values"),
            )),
        }
    }
}

impl Template {
    /// The values in it.
    pub fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        self.parts.iter().filter_map(|part| if let Part::Value(wanted, _) = part { Some(wanted) } else { None })
    }
}

/// Why a configuration cannot be used.
#[derive(Debug)]
enum Unfit {
    Key(Fault),
    File(Failure),
}

impl From<Fault> for Unfit {
    fn from(fault: Fault) -> Self {
        Self::Key(fault)
    }
}

fn within(key: &str, number: u64, least: u64, most: u64) -> Result<u64, Fault> {
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(fault(key, format!("{number} is too little or too much"), format!("give {least} to {most} seconds")))
}

fn wanted(key: impl Into<String>, text: &str) -> Result<Wanted, Fault> {
    let hint = "name a value as kv/app/db#password, or database/app/reader#password";
    text.parse().map_err(|why: String| fault(key, format!("{text:?}: {why}"), hint))
}

fn template(written: WrittenTemplate, read: impl Fn(&Path) -> Result<String, Failure>) -> Result<Template, Unfit> {
    let WrittenTemplate { source, destination, mode } = written;
    let mode = mode.as_deref().unwrap_or(MODE);
    // Whoever can write the file could put another secret in its place.
    let number = u32::from_str_radix(mode, 8).ok().filter(|number| *number <= 0o777 && number & 0o022 == 0);
    let mode = number.ok_or_else(|| {
        let problem = format!("{mode:?} is no mode, or one by which others could write");
        fault("template.mode", problem, "give it as in mode = \"0640\"")
    })?;
    if destination.file_name().is_none() {
        let problem = format!("{} is no name of a file", destination.display());
        return Err(fault("template.destination", problem, "give the path of the file that is to be written").into());
    }
    if source == Path::new("-") || source == destination {
        let hint = "give the path of the template, which stays as it is";
        return Err(fault("template.source", format!("{} cannot be one", source.display()), hint).into());
    }
    let text = read(&source).map_err(Unfit::File)?;
    let parts = template::parse(&text).map_err(|(line, why)| {
        let message = format!("{}, line {line}: {why}", source.display());
        let hint = "write {{ kv/PATH#FIELD }} or {{ database/NAME/ROLE#username }}, and {{{{ for two braces";
        Unfit::File(Failure::new(Exit::Usage, message).hint(hint))
    })?;
    Ok(Template { destination, mode, parts })
}

fn databases(written: Vec<WrittenDatabase>) -> Result<BTreeMap<RoleName, Source>, Fault> {
    let mut databases = BTreeMap::new();
    for WrittenDatabase { role, of_static, ttl_s } in written {
        let name = role.parse::<RoleName>();
        let name = name.map_err(|why| fault("database.role", why, "give the database and the role: app/reader"))?;
        if ttl_s == Some(0) {
            let hint = "leave it out to take the role's own time";
            return Err(fault("database.ttl_s", "a lease lasts at least a second", hint));
        }
        if of_static && ttl_s.is_some() {
            let hint = "leave it out: its password is read again when it was rotated";
            return Err(fault("database.ttl_s", "a static role has no lease", hint));
        }
        let source = if of_static { Source::Static } else { Source::Made { ttl_s } };
        if databases.insert(name, source).is_some() {
            return Err(fault("database.role", format!("{role} stands there twice"), "name each role once"));
        }
    }
    Ok(databases)
}

fn child(written: WrittenChild) -> Result<ChildConfig, Fault> {
    let WrittenChild { command, on_change, grace_s, env } = written;
    let mut words = command.into_iter();
    let program = words.next().filter(|program| !program.is_empty());
    let hint = "give the program and its arguments: command = [\"/usr/bin/app\", \"--port\", \"80\"]";
    let program = program.ok_or_else(|| fault("child.command", "no program is named", hint))?;
    let arguments = words.collect();
    let on_change = match on_change.as_deref() {
        None | Some("restart") => OnChange::Restart,
        Some("none") => OnChange::Nothing,
        Some(other) => {
            let named = other.strip_prefix("signal:");
            let known = SIGNALS.iter().find(|(name, _)| Some(*name) == named);
            let (_, signal) = known.ok_or_else(|| {
                let names = SIGNALS.map(|(name, _)| name).join(", ");
                let hint = format!("give restart, none, or signal: and one of {names}");
                fault("child.on_change", format!("{other:?} is nothing that can be done"), hint)
            })?;
            OnChange::Signal(*signal)
        }
    };
    let grace_s = within("child.grace_s", grace_s.unwrap_or(GRACE_S), 0, MAX_GRACE_S)?;
    let variable = |(name, text): (String, String)| {
        let key = format!("child.env.{name}");
        if name.is_empty() || name.contains(['=', '\0']) || Manager::VARIABLES.contains(&name.as_str()) {
            return Err(fault(key, "this is no name for a variable of the child", "choose another name"));
        }
        Ok((name, wanted(key, &text)?))
    };
    let variables = env.into_iter().map(variable).collect::<Result<_, _>>()?;
    Ok(ChildConfig { program, arguments, variables, on_change, grace: Duration::from_secs(grace_s) })
}

fn socket(written: WrittenSocket) -> Result<SocketConfig, Fault> {
    let WrittenSocket { path, allow_uids: uids, allow_gids: gids, values } = written;
    if path.file_name().is_none() {
        return Err(fault("socket.path", "this is no name of a file", "give a path such as /run/app/agent.sock"));
    }
    let value = |(name, text): (String, String)| {
        let key = format!("socket.values.{name}");
        let short = name.parse::<Name>();
        let short =
            short.map_err(|error| fault(&key, error.to_string(), "choose a short word, such as db-password"))?;
        Ok((short, wanted(&key, &text)?))
    };
    let values = values.into_iter().map(value).collect::<Result<_, _>>()?;
    Ok(SocketConfig { path, uids, gids, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Unfit> {
        Config::parse(text, |_| Ok("{{ kv/app/db#password }} {{ database/app/reader#username }}".to_owned()))
    }

    #[test]
    fn the_sample_has_every_key() {
        let config = parse(SAMPLE).unwrap();
        // No key of `Written` is left at its default.
        assert_ne!(config.poll.as_secs(), POLL_S);
        assert_ne!(config.templates[0].mode, u32::from_str_radix(MODE, 8).unwrap());
        assert!(config.databases.values().any(|source| *source == Source::Static));
        assert!(config.databases.values().any(|source| matches!(source, Source::Made { ttl_s: Some(_) })));
        let child = config.child.unwrap();
        assert!(!child.arguments.is_empty() && !child.variables.is_empty());
        assert_ne!((child.on_change, child.grace.as_secs()), (OnChange::Restart, GRACE_S));
        let socket = config.socket.unwrap();
        assert!(!socket.uids.is_empty() && !socket.gids.is_empty() && !socket.values.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key_and_a_way_out() {
        let child = |line: &str| format!("[child]\ncommand = [\"app\"]\n{line}");
        let template = |line: &str| format!("[[database]]\nrole = \"app/reader\"\n[[template]]\n{line}");
        let socket = |line: &str| format!("[socket]\npath = \"/run/a.sock\"\n{line}");
        for (text, key) in [
            (String::new(), "the file"),
            ("polls = 3".to_owned(), "line 1"),
            (child("\ngrace = 3"), "line 4"),
            ("poll_s = 0".to_owned(), "poll_s"),
            (child("grace_s = 3601"), "child.grace_s"),
            ("[child]\ncommand = []".to_owned(), "child.command"),
            (child("on_change = \"reload\""), "child.on_change"),
            (child("on_change = \"signal:KILL\""), "child.on_change"),
            (child("[child.env]\nA = \"app/db\""), "child.env.A"),
            (child("[child.env]\nNOTIFY_SOCKET = \"kv/a#b\""), "child.env.NOTIFY_SOCKET"),
            (child("[child.env]\nA = \"database/app/reader#password\""), "child.env.A"),
            (child("[[database]]\nrole = \"app/reader\""), "database.role"),
            (child("[[database]]\nrole = \"reader\""), "database.role"),
            (child("[[database]]\nrole = \"a/b\"\nttl_s = 0"), "database.ttl_s"),
            (child("[[database]]\nrole = \"a/b\"\nstatic = true\nttl_s = 60"), "database.ttl_s"),
            (child("[[database]]\nrole = \"a/b\"\n[[database]]\nrole = \"a/b\""), "database.role"),
            (template("source = \"a\"\ndestination = \"b\"\nmode = \"0666\""), "template.mode"),
            (template("source = \"a\"\ndestination = \"b\"\nmode = \"rw\""), "template.mode"),
            (template("source = \"a\"\ndestination = \"a\""), "template.source"),
            (template("source = \"a\"\ndestination = \"/\""), "template.destination"),
            (
                template("source = \"a\"\ndestination = \"b\"\n[[template]]\nsource = \"c\"\ndestination = \"b\""),
                "template.destination",
            ),
            (socket("[socket.values]\n\"a/b\" = \"kv/a#b\""), "socket.values.a/b"),
            (socket("[socket.values]\na = \"kv/\""), "socket.values.a"),
        ] {
            match parse(&text).map(drop) {
                Err(Unfit::Key(fault)) => {
                    assert_eq!(fault.key, key, "{text}\n{fault:?}");
                    assert!(!fault.problem.is_empty() && !fault.hint.is_empty(), "{fault:?}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        let unfit = Config::parse("[[template]]\nsource = \"a\"\ndestination = \"b\"", |_| Ok("\n{{ x }}".into()));
        assert!(matches!(unfit, Err(Unfit::File(failure)) if failure.message.starts_with("a, line 2")));
    }
}
