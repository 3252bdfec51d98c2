//! Stored secrets, from kv engines of both versions.
//!
//! Nothing that is here is ever overwritten: each version is written only if the one before it is the newest. So a run
//! that was stopped is gone on with by the next, which compares what is here with what is there.

use super::plan::{Metadata, Plan, Planned, State, Todo, todo, ttl_s};
use super::report::{Item, Kind, Outcome, Report};
use super::vault::{Answer, Engine, MAX_ANSWER_BYTES, Mount, Vault, parse};
use super::{Refused, refused_here};
use crate::exit::{Exit, Failure};
use crate::session::now_ms;
use bulla_client::{Client, ClientError};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{DestroyKv, KvMetadata, KvState, MAX_VALUE_BYTES, PutKv, SetKvSettings};
use bulla_wire::error::Code;
use bulla_wire::json::{self, StrictMap};
use bulla_wire::kv::{FieldName, KvContent};
use bulla_wire::name::{Name, SecretPath};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Most names that one run looks at. A path has sixteen segments, so a Vault that makes up directories would go on for
/// ever; no installation has a tenth of it.
const MAX_NAMES: usize = 1_000_000;

/// What is imported: a mount, or what lies below a place in it.
pub struct Tree {
    /// Where it is.
    pub mount: Mount,
    /// The place in it; empty for all.
    pub below: String,
    /// What the mount's name becomes.
    pub to: SecretPath,
}

/// Something to look at, by its path in the mount; a directory ends in `/`, or is empty.
enum Place {
    Secret(String),
    Directory(String),
}

/// A secret as it is there.
struct Theirs {
    plan: Plan,
    /// The content of each version that can be read, by its number here.
    contents: BTreeMap<u64, KvContent>,
}

/// One that cannot be brought over, and why.
enum Unfit {
    Empty(String),
    Refused(String),
}

impl Tree {
    /// Imports it, or says what would be imported.
    pub async fn import(&self, vault: &Vault, client: &Client, report: &mut Report) -> Result<(), Failure> {
        let (mut walk, before) = (Walk::new(self), report.items.len());
        while let Some(path) = walk.next(vault, Some(report)).await? {
            let from = format!("{}/{path}", self.mount.path);
            let to = match self.path_here(&path) {
                Ok(to) => to,
                Err(why) => {
                    report.add(Item::refused(Kind::Secret, from, why));
                    continue;
                }
            };
            let item = match self.read(vault, &path).await? {
                Ok(theirs) => self.put(client, &from, to, theirs, report.dry_run).await?,
                Err(Unfit::Refused(why)) => Item::refused(Kind::Secret, from, why),
                Err(Unfit::Empty(why)) => Item::new(Kind::Secret, from, None, Outcome::Empty).note(why),
            };
            report.add(item);
        }
        if report.items.len() == before {
            let from = format!("{}/{}", self.mount.path, self.below);
            report.add(Item::new(Kind::Secret, from, None, Outcome::Empty).note("nothing lies there"));
        }
        Ok(())
    }

    /// How many secrets there are; the inner error is why that is not known.
    pub async fn count(&self, vault: &Vault) -> Result<Result<usize, String>, Failure> {
        let (mut walk, mut count) = (Walk::new(self), 0_usize);
        while walk.unlisted.is_none() && walk.next(vault, None).await?.is_some() {
            count = count.saturating_add(1);
        }
        Ok(walk.unlisted.map_or(Ok(count), Err))
    }

    /// Where a path of the mount lies here.
    fn path_here(&self, path: &str) -> Result<SecretPath, String> {
        let path = path.trim_end_matches('/');
        format!("{}/{path}", self.to).parse().map_err(|error| format!("its path cannot be one here: {error}"))
    }

    /// The path in the API by which secrets are listed, and which is also that of their metadata.
    fn listed(&self, path: &str) -> String {
        match self.mount.engine {
            Engine::Kv2 => format!("{}/metadata/{path}", self.mount.path),
            _ => format!("{}/{path}", self.mount.path),
        }
    }

    async fn read(&self, vault: &Vault, path: &str) -> Result<Result<Theirs, Unfit>, Failure> {
        let mut plan = Plan::single();
        if self.mount.engine == Engine::Kv2 {
            let asked = self.listed(path);
            let body = match vault.get(&asked, MAX_ANSWER_BYTES).await? {
                Answer::Found(body) => body,
                Answer::Absent => return Ok(Err(Unfit::Empty("it is gone".to_owned()))),
                Answer::Refused(why) => return Ok(Err(Unfit::Refused(why))),
            };
            plan = Plan::of(&parse::<Metadata>(&body, &asked)?, now_ms());
        }
        if plan.versions.is_empty() {
            return Ok(Err(Unfit::Empty(
                "no version of it can be read: undelete there first what is wanted".to_owned(),
            )));
        }
        let mut contents = BTreeMap::new();
        for planned in &mut plan.versions {
            if planned.state == State::Gone {
                continue;
            }
            match self.content(vault, path, planned.theirs).await? {
                Read::Content(content, Some(note)) => {
                    plan.notes.push(format!("version {}: {note}", planned.theirs));
                    contents.insert(planned.number, content);
                }
                Read::Content(content, None) => drop(contents.insert(planned.number, content)),
                // It was deleted while it was looked at.
                Read::Absent => planned.state = State::Gone,
                Read::Unfit(why) => return Ok(Err(Unfit::Refused(format!("version {}: {why}", planned.theirs)))),
            }
        }
        // Or numbers without any content would take its place here.
        if contents.is_empty() {
            return Ok(Err(Unfit::Empty("it was deleted while it was looked at".to_owned())));
        }
        Ok(Ok(Theirs { plan, contents }))
    }

    async fn content(&self, vault: &Vault, path: &str, version: u64) -> Result<Read, Failure> {
        let asked = match self.mount.engine {
            Engine::Kv2 => format!("{}/data/{path}?version={version}", self.mount.path),
            _ => format!("{}/{path}", self.mount.path),
        };
        let body = match vault.get(&asked, MAX_ANSWER_BYTES).await? {
            Answer::Found(body) => body,
            Answer::Absent => return Ok(Read::Absent),
            Answer::Refused(why) => return Ok(Read::Unfit(why)),
        };
        let data = match self.mount.engine {
            Engine::Kv2 => parse::<Version<'_>>(&body, &asked)?.data,
            _ => Some(parse::<StrictMap<&RawValue>>(&body, &asked)?),
        };
        Ok(data.map_or(Read::Absent, |data| read(&data)))
    }

    /// Writes what is missing here, if nothing else is in its place.
    async fn put(
        &self,
        client: &Client,
        from: &str,
        to: SecretPath,
        theirs: Theirs,
        dry_run: bool,
    ) -> Result<Item, Failure> {
        let item = |outcome| Item {
            notes: theirs.plan.notes.clone(),
            ..Item::new(Kind::Secret, from, Some(format!("kv/{to}")), outcome)
        };
        match attempt(client, &to, &theirs, dry_run).await {
            Ok(Attempt::Done(outcome)) => Ok(item(outcome)),
            Ok(Attempt::Conflict(why)) => Ok(item(Outcome::Conflict).note(why)),
            Err(error) => match refused_here(error) {
                Refused::Stop(failure) => Err(failure),
                Refused::Item(outcome, why) => Ok(item(outcome).note(why)),
            },
        }
    }
}

#[derive(Deserialize)]
struct Version<'a> {
    #[serde(borrow, default)]
    data: Option<StrictMap<&'a RawValue>>,
}

/// What came of reading one version.
enum Read {
    /// The fields, and what a person has to know.
    Content(KvContent, Option<String>),
    Absent,
    Unfit(String),
}

/// Fields of Vault, which are any JSON, as fields here, which are text.
fn read(data: &StrictMap<&RawValue>) -> Read {
    let (mut fields, mut kept_as_json) = (BTreeMap::new(), Vec::new());
    for (name, value) in &data.0 {
        if let Err(error) = FieldName::check(name) {
            return Read::Unfit(format!("the field {name:?}: {error}"));
        }
        let text = match serde_json::from_str::<String>(value.get()) {
            Ok(text) => text,
            Err(_) if value.get().starts_with('"') => return Read::Unfit("a text is not Unicode".to_owned()),
            Err(_) => {
                kept_as_json.push(format!("{name:?}"));
                value.get().to_owned()
            }
        };
        fields.insert(name.clone(), text);
    }
    let content = KvContent { data: Some(StrictMap(fields)), bytes: None };
    let bytes = SecretBytes::new(json::to_vec(&content)).expose().len();
    if bytes > MAX_VALUE_BYTES {
        return Read::Unfit(format!("it has {bytes} bytes as JSON, at most {MAX_VALUE_BYTES} are taken"));
    }
    let note = (!kept_as_json.is_empty()).then(|| format!("no text, so kept as JSON: {}", kept_as_json.join(", ")));
    Read::Content(content, note)
}

/// What came of writing a secret.
enum Attempt {
    Done(Outcome),
    Conflict(String),
}

async fn attempt(client: &Client, to: &SecretPath, theirs: &Theirs, dry_run: bool) -> Result<Attempt, ClientError> {
    let here = match client.kv_metadata(to).await {
        Ok(here) => Some(here),
        Err(error) if error.proven() == Some(Code::NotFound) => None,
        Err(error) => return Err(error),
    };
    let todo = match todo(here.as_ref(), &theirs.plan) {
        Ok(todo) => todo,
        Err(why) => return Ok(Attempt::Conflict(why)),
    };
    let none = nothing();
    let wanted = todo.compare.iter().map(|number| (*number, theirs.contents.get(number)));
    for (number, content) in wanted.chain(todo.empty.iter().map(|number| (*number, Some(&none)))) {
        let version = client.kv_get_version(to, number).await?;
        let same = content.is_some_and(|content| version.data == content.data && version.bytes == content.bytes);
        if !same {
            return Ok(Attempt::Conflict(format!("version {number} here is another, and is not overwritten")));
        }
    }
    let left: Vec<&Planned> = theirs.plan.versions.iter().filter(|one| one.number > todo.newest).collect();
    if left.is_empty() && todo.empty.is_empty() {
        return Ok(Attempt::Done(Outcome::Present));
    }
    if !dry_run {
        write(client, to, theirs, &todo, &left).await?;
    }
    Ok(Attempt::Done(if dry_run { Outcome::Ready } else { Outcome::Imported }))
}

/// What stands in the place of a version that is gone, until it is destroyed.
fn nothing() -> KvContent {
    KvContent { data: Some(StrictMap(BTreeMap::new())), bytes: None }
}

async fn write(
    client: &Client,
    to: &SecretPath,
    theirs: &Theirs,
    todo: &Todo,
    left: &[&Planned],
) -> Result<(), ClientError> {
    let settings = &theirs.plan.settings;
    if todo.configure {
        let custom = settings.custom.0.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        let body = SetKvSettings {
            max_versions: Some(settings.max_versions),
            cas_required: Some(settings.cas_required),
            ttl_s: Some(settings.ttl_s),
            custom: Some(StrictMap(custom)),
        };
        client.kv_configure(to, &body).await?;
    }
    for planned in left {
        let (ttl_s, content) = match (planned.state, theirs.contents.get(&planned.number)) {
            (State::Live(until_ms), Some(content)) => (ttl_s(until_ms, now_ms()).0, content.clone()),
            _ => (0, nothing()),
        };
        let KvContent { data, bytes } = content;
        let cas = Some(planned.number.saturating_sub(1));
        client.kv_put(to, &PutKv { data, bytes, cas, ttl_s: Some(ttl_s), ..PutKv::default() }).await?;
    }
    let gone = |number: u64| theirs.plan.versions.iter().any(|one| one.number == number && one.state == State::Gone);
    if !theirs.plan.versions.iter().any(|one| one.state == State::Gone) {
        return Ok(());
    }
    let here: KvMetadata = client.kv_metadata(to).await?;
    let readable = here.versions.iter().filter(|version| version.state == KvState::Live);
    let versions: Vec<u64> = readable.map(|version| version.version).filter(|number| gone(*number)).collect();
    if !versions.is_empty() {
        client.kv_destroy(to, &DestroyKv { versions: Some(versions), all: false }).await?;
    }
    Ok(())
}

/// Goes through a tree, directory by directory.
struct Walk<'a> {
    tree: &'a Tree,
    waiting: Vec<Place>,
    seen: usize,
    /// The directory that was not listed last, and why.
    unlisted: Option<String>,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree) -> Self {
        let mut waiting = Vec::new();
        if !tree.below.is_empty() {
            waiting.push(Place::Directory(format!("{}/", tree.below)));
            waiting.push(Place::Secret(tree.below.clone()));
        } else {
            waiting.push(Place::Directory(String::new()));
        }
        Self { tree, waiting, seen: 0, unlisted: None }
    }

    /// The path of the next secret.
    async fn next(&mut self, vault: &Vault, mut report: Option<&mut Report>) -> Result<Option<String>, Failure> {
        let mut refuse = |from: String, why: String| {
            if let Some(report) = report.as_deref_mut() {
                report.add(Item::refused(Kind::Secret, from, why));
            }
        };
        loop {
            let directory = match self.waiting.pop() {
                None => return Ok(None),
                Some(Place::Secret(path)) if path == self.tree.below && !self.is_there(vault, &path).await? => continue,
                Some(Place::Secret(path)) => return Ok(Some(path)),
                Some(Place::Directory(directory)) => directory,
            };
            let from = format!("{}/{directory}", self.tree.mount.path);
            let names = match vault.list(&self.tree.listed(&directory)).await? {
                Ok(names) => names,
                Err(why) => {
                    self.unlisted = Some(format!("{from} is not listed: {why}"));
                    refuse(from, format!("it is not listed, and what is below it left out: {why}"));
                    continue;
                }
            };
            self.seen = self.seen.saturating_add(names.len());
            if self.seen > MAX_NAMES {
                let message = format!("{} has more than {MAX_NAMES} names", self.tree.mount.path);
                return Err(Failure::new(Exit::Failed, message).hint("import parts of it: --kv MOUNT/PREFIX"));
            }
            for name in names.into_iter().rev() {
                match place(self.tree, &directory, &name) {
                    Ok(place) => self.waiting.push(place),
                    Err(why) => refuse(format!("{from}{name}"), why),
                }
            }
        }
    }

    /// Whether the place that was named is a secret too.
    async fn is_there(&self, vault: &Vault, path: &str) -> Result<bool, Failure> {
        // Why it cannot be read is told when it is read.
        Ok(!matches!(vault.get(&self.tree.listed(path), MAX_ANSWER_BYTES).await?, Answer::Absent))
    }
}

/// A name of a listing. Only one segment is ever taken, so no Vault leads out of the directory that was listed.
fn place(tree: &Tree, directory: &str, name: &str) -> Result<Place, String> {
    let bare = name.strip_suffix('/').unwrap_or(name);
    bare.parse::<Name>().map_err(|error| format!("its path cannot be one here: {error}"))?;
    let path = format!("{directory}{name}");
    tree.path_here(&path)?;
    Ok(if name.ends_with('/') { Place::Directory(path) } else { Place::Secret(path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mount = Mount { path: "secret".to_owned(), engine: Engine::Kv2 };
        Tree { mount, below: String::new(), to: "apps/old".parse().unwrap() }
    }

    #[test]
    fn a_listing_leads_nowhere_else() {
        let tree = tree();
        assert!(matches!(place(&tree, "", "db"), Ok(Place::Secret(path)) if path == "db"));
        assert!(matches!(place(&tree, "app/", "x/"), Ok(Place::Directory(path)) if path == "app/x/"));
        for bad in ["", "/", "..", "../", ".", "a/b", "a//", "a b", "ä", "a?list=true", "a#b", "a%2fb", "a:delete"] {
            assert!(place(&tree, "app/", bad).is_err(), "{bad:?}");
        }
        assert!(place(&tree, "app/", &"x".repeat(129)).is_err());
        // Below the mount's new name are fourteen segments more.
        assert!(place(&tree, &"a/".repeat(13), "db").is_ok());
        assert!(place(&tree, &"a/".repeat(14), "db").is_err());
        assert_eq!(tree.path_here("app/db").unwrap().as_str(), "apps/old/app/db");
    }

    fn fields(json: &str) -> Read {
        let data: StrictMap<&RawValue> = serde_json::from_str(json).unwrap();
        read(&data)
    }

    #[test]
    fn what_is_no_text_stays_as_it_was_written() {
        let json =
            r#"{"text":"a\n\u0041","number":12345678901234567890.10,"none":null,"list":[1, {"x":"y"}],"a b/c":"odd"}"#;
        let Read::Content(content, note) = fields(json) else { panic!("it fits") };
        let data = content.data.unwrap().0;
        let get = |name: &str| data.get(name).map(String::as_str);
        assert_eq!(get("text"), Some("a\nA"));
        assert_eq!(get("number"), Some("12345678901234567890.10"));
        assert_eq!(get("none"), Some("null"));
        assert_eq!(get("list"), Some(r#"[1, {"x":"y"}]"#));
        assert_eq!(get("a b/c"), Some("odd"));
        assert_eq!(note.unwrap(), r#"no text, so kept as JSON: "list", "none", "number""#);
    }

    #[test]
    fn what_does_not_fit_is_told_without_the_value() {
        let long = format!(r#"{{"canary":"{}"}}"#, "c".repeat(MAX_VALUE_BYTES));
        assert!(matches!(fields(&long), Read::Unfit(why) if why.contains("262144") && !why.contains("canary")));
        assert!(matches!(fields(r#"{"a":"\ud800"}"#), Read::Unfit(_)));
        for name in ["", "a=b"] {
            let told = fields(&format!(r#"{{"{name}":"canary"}}"#));
            assert!(matches!(told, Read::Unfit(why) if why.contains(&format!("{name:?}")) && !why.contains("canary")));
        }
        assert!(serde_json::from_str::<StrictMap<&RawValue>>(r#"{"a":1,"a":2}"#).is_err(), "a field stands once");
    }

    #[test]
    fn a_deleted_version_has_no_content() {
        let body = SecretBytes::new(br#"{"data":{"data":null,"metadata":{"destroyed":true}}}"#.to_vec());
        assert!(parse::<Version<'_>>(&body, "x").unwrap().data.is_none());
    }
}
