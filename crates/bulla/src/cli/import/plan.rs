//! Which versions a secret is to have here, from what Vault says of it: decided before anything is written.

use bulla_wire::api::{
    DEFAULT_MAX_VERSIONS, KvMetadata, KvSettings, KvState, MAX_CUSTOM, MAX_CUSTOM_KEY_BYTES, MAX_CUSTOM_VALUE_BYTES,
    MAX_TTL_S, MAX_VERSIONS,
};
use bulla_wire::json::StrictMap;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

/// As many numbers of versions that are gone are written and destroyed, so that those after them keep their own. With
/// more, all are counted from 1: a write for each would cost more than the numbers are worth.
const FILLED: u64 = 100;

/// `GET /v1/{mount}/metadata/{path}` of a kv engine with versions, as far as it is looked at.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    current_version: u64,
    #[serde(default)]
    max_versions: u64,
    #[serde(default)]
    cas_required: bool,
    #[serde(default)]
    delete_version_after: String,
    #[serde(default)]
    custom_metadata: Option<StrictMap<String>>,
    #[serde(default)]
    versions: BTreeMap<u64, Kept>,
}

#[derive(Debug, Deserialize)]
struct Kept {
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
}

/// A version that a secret is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Its number here.
    pub number: u64,
    /// Its number in Vault.
    pub theirs: u64,
    /// Whether it can be read there.
    pub state: State,
}

/// What a version is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Readable, for ever or until then in Unix milliseconds.
    Live(Option<u64>),
    /// A number without content.
    Gone,
}

/// What a secret is to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its versions from 1 without a gap; none if none can be read.
    pub versions: Vec<Planned>,
    /// Its settings.
    pub settings: KvSettings,
    /// What a person has to know.
    pub notes: Vec<String>,
}

/// Settings that nobody chose.
pub fn default_settings() -> KvSettings {
    let custom = StrictMap(BTreeMap::new());
    KvSettings { max_versions: DEFAULT_MAX_VERSIONS, cas_required: false, ttl_s: 0, custom }
}

impl Plan {
    /// One version, as an engine without them has it.
    pub fn single() -> Self {
        let only = Planned { number: 1, theirs: 1, state: State::Live(None) };
        Self { versions: vec![only], settings: default_settings(), notes: Vec::new() }
    }

    /// From what Vault says of the secret.
    pub fn of(metadata: &Metadata, now_ms: u64) -> Self {
        let mut notes = Vec::new();
        let last = metadata.current_version;
        let live = |number: u64| metadata.versions.get(&number).and_then(|kept| kept.until(now_ms));
        let oldest_kept = last.saturating_sub(u64::from(MAX_VERSIONS) - 1).max(1);
        let readable = || metadata.versions.keys().copied().filter(|number| *number <= last && live(*number).is_some());
        let left = readable().filter(|number| *number < oldest_kept).count();
        if left > 0 {
            notes.push(format!("its {left} oldest versions stay behind: {MAX_VERSIONS} are kept here"));
        }
        let Some(first) = readable().find(|number| *number >= oldest_kept) else {
            return Self { versions: Vec::new(), settings: metadata.settings(0, &mut Vec::new()), notes };
        };
        // The first has number 1 or more, as it is at least `oldest_kept`.
        let shift = if first - 1 > FILLED { first - 1 } else { 0 };
        if shift > 0 {
            notes.push(format!("its versions {first} to {last} are 1 to {} here", last - shift));
        }
        let gone = |number: u64| number >= first && live(number).is_none();
        let lost: Vec<String> =
            (first..=last).filter(|number| gone(*number)).map(|number| number.to_string()).collect();
        if !lost.is_empty() {
            notes.push(format!(
                "deleted or destroyed in Vault, so without content here: version {}; undelete there first what is wanted",
                lost.join(", ")
            ));
        }
        let settings = metadata.settings(last - first + 1, &mut notes);
        let one = |theirs: u64| {
            let state = live(theirs).filter(|_| theirs >= first).map_or(State::Gone, State::Live);
            Planned { number: theirs - shift, theirs, state }
        };
        Self { versions: (shift + 1..=last).map(one).collect(), settings, notes }
    }
}

impl Kept {
    /// Until when it can be read; `None` if it cannot.
    fn until(&self, now_ms: u64) -> Option<Option<u64>> {
        if self.destroyed {
            return None;
        }
        if self.deletion_time.is_empty() {
            return Some(None);
        }
        // What is no time counts as a deletion: it is asked for neither, and told.
        let at = humantime::parse_rfc3339(&self.deletion_time).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let at_ms = u64::try_from(at.as_millis()).ok()?;
        (at_ms > now_ms).then_some(Some(at_ms))
    }
}

impl Metadata {
    /// The settings here of a secret with so many versions.
    fn settings(&self, versions: u64, notes: &mut Vec<String>) -> KvSettings {
        let chosen = if self.max_versions == 0 { u64::from(DEFAULT_MAX_VERSIONS) } else { self.max_versions };
        let kept = u32::try_from(chosen.max(versions)).unwrap_or(u32::MAX).min(MAX_VERSIONS);
        if chosen > u64::from(MAX_VERSIONS) {
            notes.push(format!("it keeps {MAX_VERSIONS} versions here, not {chosen}"));
        }
        KvSettings {
            max_versions: kept,
            cas_required: self.cas_required,
            ttl_s: self.ttl_s(notes),
            custom: self.custom(notes),
        }
    }

    fn ttl_s(&self, notes: &mut Vec<String>) -> u64 {
        let text = self.delete_version_after.as_str();
        // -1s says that the mount's own does not hold either.
        if matches!(text, "" | "0s") || text.starts_with('-') {
            return 0;
        }
        let known = humantime::parse_duration(text).map(|time| time.as_secs()).ok();
        match known.filter(|seconds| (1..=MAX_TTL_S).contains(seconds)) {
            Some(seconds) => {
                notes.push(format!("after {text} versions are destroyed here, not only deleted"));
                seconds
            }
            None => {
                notes.push(format!("delete_version_after {text:?} is left out; ten years are the longest here"));
                0
            }
        }
    }

    fn custom(&self, notes: &mut Vec<String>) -> StrictMap<String> {
        let custom = self.custom_metadata.clone().unwrap_or_default();
        let fits = |(key, value): (&String, &String)| {
            (1..=MAX_CUSTOM_KEY_BYTES).contains(&key.len()) && value.len() <= MAX_CUSTOM_VALUE_BYTES
        };
        if custom.0.len() <= MAX_CUSTOM && custom.0.iter().all(fits) {
            return custom;
        }
        notes.push("its custom metadata is left out: it is more than is taken here".to_owned());
        StrictMap(BTreeMap::new())
    }
}

/// What is to be done about a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Todo {
    /// Versions that are here and must be the same.
    pub compare: Vec<u64>,
    /// Versions that are here, readable and to be gone: if they are ours, without a field, they are destroyed.
    pub empty: Vec<u64>,
    /// The newest version that is here.
    pub newest: u64,
    /// Whether the settings are still to be made.
    pub configure: bool,
}

/// Compares what is here with the plan, as far as that is possible without any content. The error says what is in the way.
pub fn todo(here: Option<&KvMetadata>, plan: &Plan) -> Result<Todo, String> {
    let last = plan.versions.last().map_or(0, |version| version.number);
    let Some(here) = here else {
        let configure = plan.settings != default_settings();
        return Ok(Todo { compare: Vec::new(), empty: Vec::new(), newest: 0, configure });
    };
    if here.version > last {
        return Err(format!("here are versions up to {}, from Vault came {last}", here.version));
    }
    let (mut compare, mut empty) = (Vec::new(), Vec::new());
    for planned in plan.versions.iter().filter(|planned| planned.number <= here.version) {
        let number = planned.number;
        let state = here.versions.iter().find(|known| known.version == number).map(|known| known.state);
        match (planned.state, state) {
            (State::Live(_), Some(KvState::Live)) => compare.push(number),
            (State::Live(_), Some(KvState::Expired)) => {}
            (State::Live(_), _) => return Err(format!("version {number} can be read in Vault and not here")),
            (State::Gone, Some(KvState::Live)) => empty.push(number),
            (State::Gone, _) => {}
        }
    }
    let writes = here.version < last;
    if here.version > 0 && writes && here.settings.max_versions < plan.settings.max_versions {
        let kept = here.settings.max_versions;
        return Err(format!("it keeps {kept} versions here, so that older ones would be destroyed"));
    }
    let configure = here.version == 0 && here.settings != plan.settings;
    if configure && here.settings != default_settings() {
        return Err("somebody made settings for it here that are not those of Vault".to_owned());
    }
    Ok(Todo { compare, empty, newest: here.version, configure })
}

/// Seconds that a version still lives; 0 for ever. The second value is false if it would live longer than may be.
pub fn ttl_s(until_ms: Option<u64>, now_ms: u64) -> (u64, bool) {
    let Some(until_ms) = until_ms else { return (0, true) };
    let left = Duration::from_millis(until_ms.saturating_sub(now_ms)).as_secs().max(1);
    if left > MAX_TTL_S { (0, false) } else { (left, true) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_wire::api::KvVersion;

    const NOW: u64 = 1_800_000_000_000;

    fn metadata(json: &str) -> Metadata {
        serde_json::from_str(json).unwrap()
    }

    fn states(plan: &Plan) -> Vec<(u64, u64, bool)> {
        plan.versions.iter().map(|one| (one.number, one.theirs, one.state != State::Gone)).collect()
    }

    #[test]
    fn numbers_are_kept_over_what_is_gone() {
        let json = r#"{"current_version":5,"max_versions":3,"versions":{
            "3":{"deletion_time":"","destroyed":false},
            "4":{"deletion_time":"2020-01-02T03:04:05.123456789Z","destroyed":false},
            "5":{"deletion_time":"2090-01-02T03:04:05.123456789Z","destroyed":false}}}"#;
        let plan = Plan::of(&metadata(json), NOW);
        let wanted = [(1, 1, false), (2, 2, false), (3, 3, true), (4, 4, false), (5, 5, true)];
        assert_eq!(states(&plan), wanted);
        assert!(matches!(plan.versions.last().unwrap().state, State::Live(Some(until)) if until > NOW));
        assert_eq!(plan.settings.max_versions, 3);
        assert!(matches!(plan.notes.as_slice(), [note] if note.contains("version 4;")), "{:?}", plan.notes);
    }

    #[test]
    fn numbers_that_would_cost_too_much_begin_at_one() {
        let json = r#"{"current_version":5000,"versions":{"4999":{},"5000":{}}}"#;
        let plan = Plan::of(&metadata(json), NOW);
        assert_eq!(states(&plan), [(1, 4999, true), (2, 5000, true)]);
        assert!(plan.notes.iter().any(|note| note == "its versions 4999 to 5000 are 1 to 2 here"), "{:?}", plan.notes);
        let edge = Plan::of(&metadata(r#"{"current_version":101,"versions":{"101":{}}}"#), NOW);
        assert_eq!((edge.versions.len(), edge.notes.len()), (101, 0));
    }

    #[test]
    fn more_versions_than_are_kept_stay_behind() {
        let versions: Vec<String> = (1..=150).map(|number| format!("\"{number}\":{{}}")).collect();
        let json = format!("{{\"current_version\":150,\"max_versions\":200,\"versions\":{{{}}}}}", versions.join(","));
        let plan = Plan::of(&metadata(&json), NOW);
        assert_eq!(plan.versions.iter().filter(|one| one.state != State::Gone).count(), 100);
        assert_eq!(plan.settings.max_versions, 100);
        assert!(plan.notes.iter().any(|note| note.contains("50 oldest")), "{:?}", plan.notes);
    }

    /// What no Vault says neither overflows nor makes endless work.
    #[test]
    fn numbers_that_cannot_be_are_harmless() {
        for json in [
            r#"{"current_version":18446744073709551615,"versions":{"1":{}}}"#,
            r#"{"current_version":0,"versions":{"1":{}}}"#,
            r#"{"current_version":3,"versions":{"0":{},"7":{}}}"#,
            r#"{"current_version":2,"versions":{"1":{"destroyed":true},"2":{"deletion_time":"never"}}}"#,
            r#"{"current_version":0}"#,
        ] {
            assert!(Plan::of(&metadata(json), NOW).versions.is_empty(), "{json}");
        }
        let huge = r#"{"current_version":18446744073709551615,"versions":{"18446744073709551615":{}}}"#;
        assert_eq!(states(&Plan::of(&metadata(huge), NOW)), [(1, u64::MAX, true)]);
    }

    #[test]
    fn settings_are_kept_where_there_are_such() {
        let of = |more: &str| {
            let plan =
                Plan::of(&metadata(&format!("{{\"current_version\":1,\"versions\":{{\"1\":{{}}}},{more}}}")), NOW);
            (plan.settings, plan.notes)
        };
        let (settings, notes) =
            of(r#""cas_required":true,"delete_version_after":"3h25m19s","custom_metadata":{"owner":"red"}"#);
        assert_eq!((settings.cas_required, settings.ttl_s, notes.len()), (true, 12319, 1));
        assert_eq!(settings.custom.0.get("owner").map(String::as_str), Some("red"));
        for none in [r#""delete_version_after":"0s""#, r#""delete_version_after":"-1s""#, r#""custom_metadata":null"#] {
            assert_eq!(of(none), (default_settings(), Vec::new()), "{none}");
        }
        for left_out in
            [r#""delete_version_after":"876000h""#, r#""delete_version_after":"soon""#, r#""custom_metadata":{"":"x"}"#]
        {
            let (settings, notes) = of(left_out);
            assert_eq!((settings, notes.len()), (default_settings(), 1), "{left_out}");
        }
    }

    fn here(version: u64, states: &[(u64, KvState)]) -> KvMetadata {
        let one = |(version, state): &(u64, KvState)| KvVersion {
            version: *version,
            written_ms: 0,
            by: format!("sha256:{}", "A".repeat(43)).parse().unwrap(),
            state: *state,
            since_ms: None,
            expires_ms: None,
            readers: Vec::new(),
        };
        let (path, settings) = ("a".parse().unwrap(), default_settings());
        KvMetadata { path, version, settings, versions: states.iter().map(one).collect() }
    }

    #[test]
    fn what_is_here_decides_what_is_done() {
        let plan =
            Plan::of(&metadata(r#"{"current_version":3,"versions":{"1":{},"2":{"destroyed":true},"3":{}}}"#), NOW);
        let new = todo(None, &plan).unwrap();
        assert_eq!(new, Todo { compare: vec![], empty: vec![], newest: 0, configure: false });
        let half = todo(Some(&here(2, &[(1, KvState::Live), (2, KvState::Live)])), &plan).unwrap();
        assert_eq!(half, Todo { compare: vec![1], empty: vec![2], newest: 2, configure: false });
        let whole = [(1, KvState::Live), (2, KvState::Destroyed), (3, KvState::Live)];
        let done = todo(Some(&here(3, &whole)), &plan).unwrap();
        assert_eq!(done, Todo { compare: vec![1, 3], empty: vec![], newest: 3, configure: false });
        let longer = [(1, KvState::Live), (2, KvState::Destroyed), (3, KvState::Live), (4, KvState::Live)];
        assert!(todo(Some(&here(4, &longer)), &plan).unwrap_err().contains("up to 4"));
        assert!(todo(Some(&here(1, &[(1, KvState::Deleted)])), &plan).unwrap_err().contains("version 1"));
        assert!(todo(Some(&here(1, &[(1, KvState::Expired)])), &plan).is_ok());
        let mut set = here(0, &[]);
        set.settings.ttl_s = 5;
        assert!(todo(Some(&set), &plan).unwrap_err().contains("settings"));
        let mut few = here(1, &[(1, KvState::Live)]);
        few.settings.max_versions = 1;
        assert!(todo(Some(&few), &plan).unwrap_err().contains("keeps 1"));
    }

    #[test]
    fn a_life_has_a_second_at_least() {
        assert_eq!(ttl_s(None, NOW), (0, true));
        assert_eq!(ttl_s(Some(NOW + 1), NOW), (1, true));
        assert_eq!(ttl_s(Some(NOW + 61_000), NOW), (61, true));
        assert_eq!(ttl_s(Some(u64::MAX), NOW), (0, false));
    }
}
