//! Rules of Vault as statements in Cedar.
//!
//! What is translated permits no more than Vault did, as far as one policy alone says that; where it would, the
//! statement stands there as a comment with its reason behind `DECIDE`. The one exception is a secret that has the name
//! of a directory, for which what is said of the directory holds; each draft says so. Two things differ. In Vault the most specific
//! path decides and the others do not count; here every statement counts and a `forbid` wins. So a statement on a
//! directory leaves out what a more specific path of the same policy speaks of. And paths with `*` in a word or with `+`
//! have no counterpart.
//!
//! Threat: the text becomes a policy. Words of others stand in it only as names that were parsed, or escaped in
//! comments.

mod area;

use super::read::Rule;
use area::{Area, KV_1, KV_2, TRANSIT};
use bulla_wire::name::{Name, SecretPath};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A mount of Vault, and what it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// Stored secrets.
    Kv {
        /// The mount.
        mount: String,
        /// Whether its engine knows versions.
        versions: bool,
        /// Where its secrets are here.
        to: SecretPath,
    },
    /// Transit keys.
    Transit {
        /// The mount.
        mount: String,
    },
}

/// A policy in Cedar.
#[derive(Debug)]
pub struct Draft {
    /// Its text.
    pub text: String,
    /// How many statements hold if it is put.
    pub statements: usize,
    /// How many places a person has to decide about.
    pub open: usize,
}

/// Words for what is allowed that mean something in every engine.
const KNOWN: &[&str] = &["create", "read", "update", "patch", "delete", "list", "deny"];

impl Moved {
    fn mount(&self) -> &str {
        match self {
            Self::Kv { mount, .. } | Self::Transit { mount } => mount,
        }
    }

    fn areas(&self) -> &'static [Area] {
        match self {
            Self::Kv { versions: true, .. } => KV_2,
            Self::Kv { versions: false, .. } => KV_1,
            Self::Transit { .. } => TRANSIT,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Kv { .. } => "Bulla::Kv",
            Self::Transit { .. } => "Bulla::Transit",
        }
    }

    /// The id here of something in the mount, or of all of it.
    fn id(&self, inside: &str) -> Option<String> {
        match self {
            Self::Kv { to, .. } if inside.is_empty() => Some(to.to_string()),
            Self::Kv { to, .. } => {
                format!("{to}/{inside}").parse::<SecretPath>().ok().map(|path| path.as_str().to_owned())
            }
            Self::Transit { .. } if inside.is_empty() => Some(String::new()),
            Self::Transit { .. } => inside.parse::<Name>().ok().map(|name| name.to_string()),
        }
    }
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    kind: &'static str,
    id: String,
    /// It, or what lies in it.
    below: bool,
}

impl Target {
    /// `resource …`.
    fn condition(&self) -> String {
        let Self { kind, id, below } = self;
        format!("resource {} {kind}::\"{id}\"", if *below { "in" } else { "==" })
    }

    /// Whether another lies in it, and is not the same.
    fn holds(&self, other: &Self) -> bool {
        let inside = self.id.is_empty() || other.id == self.id || other.id.starts_with(&format!("{}/", self.id));
        self.below && self.kind == other.kind && self != other && inside
    }
}

/// What is done to something, each by its name in policies.
type Actions = BTreeSet<&'static str>;

/// What one rule says in one area.
#[derive(Debug)]
struct Grant {
    rule: usize,
    /// The area's place among those of its mount, and the mount.
    area: (usize, usize),
    target: Target,
    /// None if all that the rule says of the area is that others do not count there.
    actions: Actions,
    /// Actions that would permit more than the rule does, and what that is.
    beyond: BTreeMap<&'static str, &'static str>,
    denies: bool,
}

/// What becomes of a path.
enum Placed {
    Targets(Vec<Grant>),
    Nowhere(String),
}

/// Translates a policy that holds for a group.
pub fn translate(name: &Name, group: &Name, rules: &[Rule], moved: &[Moved]) -> Draft {
    let placed: Vec<Placed> = (0..).zip(rules).map(|(number, rule)| place(number, rule, moved)).collect();
    let grants: Vec<&Grant> = placed
        .iter()
        .flat_map(|placed| match placed {
            Placed::Targets(grants) => grants.as_slice(),
            Placed::Nowhere(_) => &[],
        })
        .collect();
    let unplaced: Vec<&Rule> = rules
        .iter()
        .zip(&placed)
        .filter(|(_, placed)| matches!(placed, Placed::Nowhere(_)))
        .map(|(rule, _)| rule)
        .collect();
    let mut draft = Draft { text: heading(name, group), statements: 0, open: 0 };
    for (rule, placed) in rules.iter().zip(&placed) {
        let words: Vec<String> = rule.capabilities.iter().map(|word| escaped(word)).collect();
        let _written = writeln!(draft.text, "\n// path {}: {}", escaped(&rule.path), words.join(", "));
        match placed {
            Placed::Nowhere(why) => draft.decide(why),
            Placed::Targets(own) => {
                let doubts = doubts(rule, &unplaced);
                for doubt in remarks(rule).iter().chain(&doubts) {
                    draft.decide(doubt);
                }
                let live = |grant: &Grant| grant.actions.clone();
                for statement in statements(own, &grants, rules, group, live) {
                    draft.add(&statement, doubts.is_empty());
                }
                let beyond: BTreeSet<&str> = own.iter().flat_map(|grant| grant.beyond.values().copied()).collect();
                for more in beyond {
                    let mut shown = statements(own, &grants, rules, group, |grant| only(grant, more, own)).into_iter();
                    let Some(first) = shown.next() else { continue };
                    draft.decide(more);
                    draft.add(&first, false);
                    shown.for_each(|statement| draft.add(&statement, false));
                }
            }
        }
    }
    draft
}

fn heading(name: &Name, group: &Name) -> String {
    format!(
        "// A draft from Vault's policy {name}. Read it, then `bulla policy put {name} {name}.cedar`.\n\
         // It holds for the group {group}, in which nobody is until somebody puts them there.\n\
         // In Vault the most specific path of all policies of a token decides. Here every statement counts, and a forbid\n\
         // wins over every permit. What is said of a directory holds for a secret of its own name too.\n"
    )
}

/// Text of others for a comment: on one line, and nothing that a reader would take for something else.
fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}

impl Draft {
    fn decide(&mut self, why: &str) {
        self.open = self.open.saturating_add(1);
        let _written = writeln!(self.text, "// DECIDE: {why}");
    }

    /// Adds a statement, or shows it in a comment.
    fn add(&mut self, statement: &str, holds: bool) {
        if holds {
            self.statements = self.statements.saturating_add(1);
            self.text.push_str(statement);
            return;
        }
        for line in statement.lines() {
            let _written = writeln!(self.text, "// {line}");
        }
    }
}

/// Why what a rule permits must not hold before a person looked.
fn doubts(rule: &Rule, unplaced: &[&Rule]) -> Vec<String> {
    if rule.capabilities.iter().any(|word| word == "deny") {
        return Vec::new();
    }
    let mut doubts = Vec::new();
    if !rule.constraints.is_empty() {
        let words: Vec<String> = rule.constraints.iter().map(|word| escaped(word)).collect();
        doubts.push(format!(
            "it is bound by {}, which has no counterpart: decide whether it holds without",
            words.join(", ")
        ));
    }
    if let Some(literal) = rule.path.strip_suffix('*') {
        for narrower in unplaced.iter().filter(|other| fixed(&other.path).starts_with(literal)) {
            doubts
                .push(format!("{} decides in Vault for a part of it, and is not translated", escaped(&narrower.path)));
        }
    }
    doubts
}

/// What a person has to know of what is translated.
fn remarks(rule: &Rule) -> Vec<String> {
    let other = rule.capabilities.iter().filter(|word| !KNOWN.contains(&word.as_str()));
    other.map(|word| format!("{} has no counterpart, and is left out", escaped(word))).collect()
}

/// A path up to what may be anything.
fn fixed(path: &str) -> &str {
    path.split(['*', '+']).next().unwrap_or_default().split("{{").next().unwrap_or_default()
}

/// Where a path lies here.
fn place(number: usize, rule: &Rule, moved: &[Moved]) -> Placed {
    let path = rule.path.as_str();
    if path.contains("{{") {
        return Placed::Nowhere("a path with the caller's own name in it: write a statement for each".to_owned());
    }
    if path.split('/').any(|segment| segment == "+") {
        return Placed::Nowhere("+ stands for any one word: write a statement for each".to_owned());
    }
    let (literal, glob) = path.strip_suffix('*').map_or((path, false), |literal| (literal, true));
    // No mount of Vault lies in another.
    let inside = |moved: &Moved| literal.strip_prefix(moved.mount()).and_then(|rest| rest.strip_prefix('/'));
    let mut found = (0..).zip(moved).filter_map(|(index, moved)| Some((index, moved, inside(moved)?)));
    let Some((index, mount, rest)) = found.next() else { return Placed::Nowhere(elsewhere(path)) };
    let mut grants = Vec::new();
    let mut reached = false;
    for (area_number, area) in (0..).zip(mount.areas()) {
        for (id, below) in area.find(rest, glob) {
            // No key lies in another, so below one is nothing.
            if below && !id.is_empty() && matches!(mount, Moved::Transit { .. }) {
                continue;
            }
            let Some(id) = mount.id(id) else { continue };
            reached = true;
            let target = Target { kind: mount.kind(), id, below };
            grants.extend(grants_of(area, (number, (index, area_number)), &target, rule, rest, glob));
        }
    }
    if !reached {
        return Placed::Nowhere(
            "no counterpart: * within a word, a part of the API that does not exist here, or a path that \
                                cannot be one"
                .to_owned(),
        );
    }
    if grants.iter().all(|grant| grant.actions.is_empty() && grant.beyond.is_empty()) {
        return Placed::Nowhere("what it allows there does nothing, in Vault as here".to_owned());
    }
    Placed::Targets(grants)
}

/// Why a path of no mount that is moved has no counterpart.
fn elsewhere(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    match first {
        "sys" => "what runs the cluster is another thing here: see the actions seal, policy, audit and snapshot",
        "auth" => "there are no tokens and nothing to log in to; who calls is admitted by an enroller",
        "identity" => "who is in which group stands in the admission: see the actions of principal",
        "cubbyhole" => "there is none; a wrap holds something for one reader",
        "*" => "everything: nobody may do everything here; name what is needed",
        _ => "in no mount that this import knows as kv or transit",
    }
    .to_owned()
}

/// What a rule says in an area of a target.
fn grants_of(
    area: &Area,
    (rule, place): (usize, (usize, usize)),
    target: &Target,
    said: &Rule,
    rest: &str,
    glob: bool,
) -> Vec<Grant> {
    let denies = said.capabilities.iter().any(|word| word == "deny");
    let (mut actions, beyond) = if denies { area.all() } else { area.said(&said.capabilities, rest, glob) };
    let grant = |target, actions, beyond| Grant { rule, area: place, target, actions, beyond, denies };
    let mut grants = Vec::new();
    // Keys are listed all together or not at all, and that is done to no key.
    let all = Target { below: false, id: String::new(), ..target.clone() };
    if actions.remove("transit.list") && target.id.is_empty() {
        grants.push(grant(all.clone(), ["transit.list"].into(), BTreeMap::new()));
    }
    // A directory of one exact path can be listed alone.
    let root_alone = *target == all && target.kind == "Bulla::Transit";
    if !root_alone {
        grants.push(grant(target.clone(), actions, beyond));
    }
    grants
}

/// The actions of a grant that would permit this more, unless its rule permits them of the same by another way.
fn only(grant: &Grant, more: &str, own: &[Grant]) -> Actions {
    let here = grant.beyond.iter().filter(|(_, why)| **why == more).map(|(action, _)| *action);
    let live = |action: &&str| own.iter().any(|other| other.target == grant.target && other.actions.contains(action));
    here.filter(|action| !live(action)).collect()
}

/// Whether Vault takes one rule before another wherever it holds at all.
fn is_narrower(rules: &[Rule], rule: usize, than: usize) -> bool {
    let path = |number: usize| rules.get(number).map_or("", |rule| rule.path.as_str());
    path(than).strip_suffix('*').is_some_and(|literal| path(rule).starts_with(literal))
}

/// The statements of a rule about some of its actions: what has the same target and the same exceptions in one.
fn statements(
    own: &[Grant],
    all: &[&Grant],
    rules: &[Rule],
    group: &Name,
    which: impl Fn(&Grant) -> Actions,
) -> Vec<String> {
    let mut joined: Vec<(Target, BTreeSet<Target>, Actions, bool)> = Vec::new();
    for (grant, which) in own.iter().map(|grant| (grant, which(grant))).filter(|(_, which)| !which.is_empty()) {
        let narrower = all.iter().filter(|other| other.rule != grant.rule && other.area == grant.area);
        // Two paths may mean the same here and not there: secret/* and secret/data/* both mean all secrets.
        let narrower =
            narrower.filter(|other| grant.target.holds(&other.target) || is_narrower(rules, other.rule, grant.rule));
        // One that says the same and more takes nothing away.
        let differing = narrower.filter(|other| other.denies != grant.denies || !other.actions.is_superset(&which));
        let except: BTreeSet<Target> = differing.map(|other| other.target.clone()).collect();
        // Nothing is left of it.
        if except.contains(&grant.target) {
            continue;
        }
        match joined.iter_mut().find(|(target, but, _, _)| *target == grant.target && *but == except) {
            Some((_, _, actions, _)) => actions.extend(&which),
            None => joined.push((grant.target.clone(), except, which, grant.denies)),
        }
    }
    joined
        .iter()
        .map(|(target, except, actions, denies)| {
            let effect = if *denies { "forbid" } else { "permit" };
            let named: Vec<String> = actions.iter().map(|action| format!("Bulla::Action::\"{action}\"")).collect();
            let action = match named.as_slice() {
                [one] => format!("action == {one}"),
                several => format!("action in [{}]", several.join(", ")),
            };
            let but: Vec<String> = except.iter().map(Target::condition).collect();
            let unless = if but.is_empty() { String::new() } else { format!("\nunless {{ {} }}", but.join(" || ")) };
            let resource = target.condition();
            format!("{effect} (\n  principal in Bulla::Group::\"{group}\",\n  {action},\n  {resource}\n){unless};\n")
        })
        .collect()
}

#[cfg(test)]
mod tests;
