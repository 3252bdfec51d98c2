//! `bulla kms migrate`: another plugin's configuration as ours.

use crate::exit::{Exit, Failure};
use crate::input::{self, Limit};
use crate::session::Session;
use bulla_kms::kubernetes::yaml;
use bulla_kms::migrate::{Before, Migration, Target, kleidi, trousseau};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum Migrate {
    /// From kleidi's JSON file, for Vault or SoftHSM
    FromKleidi(From),
    /// From Trousseau: the YAML file of each of its providers
    FromTrousseau(From),
}

/// What is there and what is wanted. Secrets in the files are not copied.
#[derive(Debug, Args)]
pub struct From {
    /// Configuration of the other plugin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Name of the Kubernetes cluster, bound into everything that is encrypted
    #[arg(long, value_name = "NAME")]
    kubernetes: String,
    /// Directory for kms.toml and encryption.yaml, which is made
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Kinds of objects that are encrypted
    #[arg(long, value_name = "KIND", default_value = "secrets", value_delimiter = ',')]
    resources: Vec<String>,
    /// Name of the other plugin in the EncryptionConfiguration
    #[arg(long, value_name = "NAME")]
    old_name: Option<String>,
    /// Its endpoint there
    #[arg(long, value_name = "ENDPOINT")]
    old_endpoint: Option<String>,
}

pub fn run(verb: Migrate, session: &Session<'_>) -> Result<Exit, Failure> {
    let (args, is_kleidi) = match verb {
        Migrate::FromKleidi(args) => (args, true),
        Migrate::FromTrousseau(args) => (args, false),
    };
    let From { files, kubernetes: cluster, to, resources, old_name, old_endpoint } = args;
    let (name, endpoint) =
        if is_kleidi { (kleidi::NAME, kleidi::ENDPOINT) } else { (trousseau::NAME, trousseau::ENDPOINT) };
    let before = Before {
        name: old_name.unwrap_or_else(|| name.to_owned()),
        endpoint: old_endpoint.unwrap_or_else(|| endpoint.to_owned()),
    };
    if before.name == "bulla" {
        return Err(
            Failure::usage("two providers would have the name bulla").hint("--old-name says how the other is called")
        );
    }
    let target = Target { cluster, resources };
    let trees = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let translated = match trees.as_slice() {
        [tree] if is_kleidi => kleidi::translate(tree, &before, &target),
        _ if is_kleidi => return Err(Failure::usage("kleidi has one file").hint("give the file of its -configfile")),
        trees => trousseau::translate(trees, &before, &target),
    };
    let migration = translated.map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot translate: {error}"))
            .hint("correct the field, or write kms.toml by hand: `bulla kms sample`")
    })?;
    written(&to, &migration)?;
    told(&migration, session)
}

fn read(file: &Path) -> Result<Value, Failure> {
    yaml::parse(&input::text(file, Limit::YAML)?).map_err(|error| {
        Failure::new(Exit::Failed, format!("{}: {error}", file.display()))
            .hint("name the configuration file of the other plugin")
    })
}

/// Both files, neither of which may be there.
fn written(to: &Path, migration: &Migration) -> Result<(), Failure> {
    std::fs::create_dir_all(to).map_err(|error| Failure::file("cannot make", to, &error))?;
    for (name, text) in [("kms.toml", &migration.config), ("encryption.yaml", &migration.encryption)] {
        let path = to.join(name);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path);
        made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
            Failure::file("cannot write", &path, &error)
                .instead("name a directory of its own with --to; nothing is replaced")
        })?;
    }
    Ok(())
}

fn told(migration: &Migration, session: &Session<'_>) -> Result<Exit, Failure> {
    session.screen.line("Not translated:")?;
    migration.left.iter().try_for_each(|left| session.screen.line(&format!("- {left}")))?;
    session.screen.line("What to do:")?;
    for (place, step) in migration.steps.iter().enumerate() {
        session.screen.line(&format!("{}. {step}", place.saturating_add(1)))?;
    }
    Ok(Exit::Ok)
}
