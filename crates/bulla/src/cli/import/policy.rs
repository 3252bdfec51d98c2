//! Policies, as drafts in Cedar for a person to read. None is ever put into the cluster from here: whom a policy of Vault
//! holds for is decided elsewhere there, and its paths mean something else.

mod lines;
mod read;
mod translate;

pub use translate::Moved;

use super::report::{Item, Kind, Outcome, Report};
use super::vault::{Answer, MAX_ANSWER_BYTES, Vault, parse};
use crate::exit::Failure;
use bulla_client::{FileOutput, Output as _};
use bulla_core::policy::PolicySet;
use bulla_wire::name::Name;
use serde::Deserialize;
use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::path::Path;

/// Where policies are in the API.
pub const POLICIES: &str = "sys/policies/acl";
/// The one that cannot be read, since it is no text.
const ROOT: &str = "root";

#[derive(Deserialize)]
struct Text {
    policy: String,
}

/// Writes a draft for each policy, or says what would be written.
pub async fn import(folder: &Path, moved: &[Moved], vault: &Vault, report: &mut Report) -> Result<(), Failure> {
    let names = match vault.list(POLICIES).await? {
        Ok(names) => names,
        Err(why) => {
            report.add(Item::refused(Kind::Policy, POLICIES, why));
            return Ok(());
        }
    };
    if !report.dry_run {
        let made = DirBuilder::new().recursive(true).create(folder);
        made.map_err(|error| Failure::file("cannot make", folder, &error))?;
    }
    for name in names.iter().filter(|name| *name != ROOT) {
        let from = format!("{POLICIES}/{name}");
        let item = match name.parse::<Name>() {
            Ok(name) => one(folder, &name, moved, vault, report.dry_run).await?,
            Err(error) => Item::refused(Kind::Policy, from, format!("its name cannot be one here: {error}")),
        };
        report.add(item);
    }
    Ok(())
}

async fn one(folder: &Path, name: &Name, moved: &[Moved], vault: &Vault, dry_run: bool) -> Result<Item, Failure> {
    let from = format!("{POLICIES}/{name}");
    let body = match vault.get(&from, MAX_ANSWER_BYTES).await? {
        Answer::Found(body) => body,
        Answer::Absent => return Ok(Item::new(Kind::Policy, from, None, Outcome::Empty).note("it is gone")),
        Answer::Refused(why) => return Ok(Item::refused(Kind::Policy, from, why)),
    };
    let text = parse::<Text>(&body, &from)?.policy;
    let draft = match draft(name, &text, moved) {
        Ok(draft) => draft,
        Err(why) => return Ok(Item::refused(Kind::Policy, from, why)),
    };
    let path = folder.join(format!("{name}.cedar"));
    let outcome =
        if dry_run { Ok(compare(&path, &draft.text)?.unwrap_or(Outcome::Ready)) } else { save(&path, &draft.text) };
    let mut item = Item::new(Kind::Policy, from, Some(path.display().to_string()), outcome?);
    if item.outcome == Outcome::Conflict {
        item = item.note("the file is there with another text, and is not overwritten");
    }
    Ok(item.note(to_read(draft.statements, draft.open)))
}

/// What there is to read in a draft. One without a statement is refused by the cluster, so nobody shall try.
fn to_read(statements: usize, open: usize) -> String {
    let decide = if open == 0 { String::new() } else { format!(", and {open} places marked DECIDE") };
    match statements {
        0 => format!("no statement is left, so there is nothing to put{decide}"),
        _ => format!("{statements} statements to read{decide}"),
    }
}

/// A policy in Cedar, checked as the server checks what is put.
fn draft(name: &Name, text: &str, moved: &[Moved]) -> Result<translate::Draft, String> {
    let group: Name = format!("vault-{name}").parse().map_err(|error| format!("its name is too long here: {error}"))?;
    let draft = translate::translate(name, &group, &read::rules(text)?, moved);
    if draft.statements > 0 {
        let texts = [(name.clone(), draft.text.clone())].into();
        PolicySet::parse(&texts).map_err(|error| format!("its translation is refused: {error}"))?;
    }
    Ok(draft)
}

/// What a file that is there means; `None` if there is none.
fn compare(path: &Path, text: &str) -> Result<Option<Outcome>, Failure> {
    match fs::read(path) {
        Ok(there) if there == text.as_bytes() => Ok(Some(Outcome::Present)),
        Ok(_) => Ok(Some(Outcome::Conflict)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file("cannot read", path, &error)),
    }
}

fn save(path: &Path, text: &str) -> Result<Outcome, Failure> {
    if let Some(there) = compare(path, text)? {
        return Ok(there);
    }
    let failed = |error: io::Error| Failure::file("cannot write", path, &error);
    let mut file = FileOutput::create(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.commit()).map_err(failed)?;
    Ok(Outcome::Imported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_without_statements_is_not_to_be_put() {
        assert_eq!(to_read(2, 0), "2 statements to read");
        assert_eq!(to_read(1, 3), "1 statements to read, and 3 places marked DECIDE");
        assert_eq!(to_read(0, 1), "no statement is left, so there is nothing to put, and 1 places marked DECIDE");
    }
}
