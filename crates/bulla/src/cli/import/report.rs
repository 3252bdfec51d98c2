//! What came of an import: a line for each thing, which names it and holds no value.

use crate::exit::{Exit, Failure};
use crate::output::{Format, Screen, word};
use serde::Serialize;
use std::collections::BTreeMap;

/// What became of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is here now.
    Imported,
    /// It would be imported; this is a dry run.
    Ready,
    /// It was here already, the same.
    Present,
    /// There is nothing of it that could be brought over.
    Empty,
    /// Something else is here, which stays.
    Conflict,
    /// It cannot be brought over as it is.
    Refused,
}

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A stored secret.
    Secret,
    /// A transit key.
    Key,
    /// A policy.
    Policy,
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Where it was.
    pub from: String,
    /// Where it is, or would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// What a person has to know or do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Item {
    /// Without notes.
    pub fn new(kind: Kind, from: impl Into<String>, to: Option<String>, outcome: Outcome) -> Self {
        Self { kind, from: from.into(), to, outcome, notes: Vec::new() }
    }

    /// It cannot be brought over, and this is why.
    pub fn refused(kind: Kind, from: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(kind, from, None, Outcome::Refused).note(why)
    }

    /// Adds what a person has to know or do.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Nothing was written.
    pub dry_run: bool,
    /// How many of what became what, such as `secret imported`.
    pub counts: BTreeMap<String, u64>,
    /// Each thing.
    pub items: Vec<Item>,
    /// What holds of all of a kind.
    pub notes: Vec<String>,
}

impl Report {
    /// Adds one thing.
    pub fn add(&mut self, item: Item) {
        let name = format!("{} {}", word(&item.kind), word(&item.outcome));
        let count = self.counts.entry(name).or_default();
        *count = count.saturating_add(1);
        self.items.push(item);
    }

    /// How the command ends.
    pub fn exit(&self) -> Exit {
        let any = |outcome| self.items.iter().any(|item| item.outcome == outcome);
        if any(Outcome::Conflict) {
            Exit::Conflict
        } else if any(Outcome::Refused) {
            Exit::Failed
        } else {
            Exit::Ok
        }
    }

    /// Prints it: for people the counts, and what needs one; as JSON everything.
    pub fn print(&self, screen: &Screen, format: Format) -> Result<(), Failure> {
        if format == Format::Json {
            return screen.json(self);
        }
        for item in &self.items {
            let calm = matches!(item.outcome, Outcome::Imported | Outcome::Ready | Outcome::Present);
            if calm && item.notes.is_empty() {
                continue;
            }
            screen.line(&format!("{} {}: {}", word(&item.kind), item.from, word(&item.outcome)))?;
            item.notes.iter().try_for_each(|note| screen.line(&format!("  {note}")))?;
        }
        self.notes.iter().try_for_each(|note| screen.line(&format!("note: {note}")))?;
        if self.dry_run {
            screen.line("nothing was written: this is a dry run")?;
        }
        self.counts.iter().try_for_each(|(name, count)| screen.line(&format!("{name}: {count}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_decides_how_it_ends() {
        let item = |outcome| Item::new(Kind::Secret, "a", None, outcome);
        let mut report = Report::default();
        report.add(item(Outcome::Imported));
        report.add(item(Outcome::Empty));
        assert_eq!(report.exit(), Exit::Ok);
        report.add(item(Outcome::Refused));
        assert_eq!(report.exit(), Exit::Failed);
        report.add(item(Outcome::Conflict));
        report.add(item(Outcome::Conflict));
        assert_eq!(report.exit(), Exit::Conflict);
        assert_eq!(report.counts.get("secret conflict"), Some(&2));
    }
}
