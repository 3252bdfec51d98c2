//! `bulla import`: from another secrets service to here, by whoever runs both, on their own machine.

mod kv;
mod plan;
mod policy;
mod report;
mod transit;
mod vault;

use super::Variables;
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs};
use crate::session::Session;
use bulla_client::ClientError;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::error::Code;
use bulla_wire::name::SecretPath;
use clap::{Args, Subcommand};
use kv::Tree;
use policy::Moved;
use report::{Outcome, Report};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use vault::{Address, Engine, Mount, Vault};

/// Longest token in bytes. Those of Vault have some hundred, with namespaces and batch tokens a few more.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// The variable that Vault's own command line takes a token from.
const TOKEN_VARIABLE: &str = "VAULT_TOKEN";

#[derive(Debug, Subcommand)]
pub enum Import {
    Vault(Box<FromVault>),
}

/// Import secrets, transit keys and policies from HashiCorp Vault or OpenBao
///
/// Without --kv, --transit and --policies it lists what there is. Nothing is changed in Vault, and nothing that is here
/// is overwritten: run it again after an interruption, and it goes on. Ends with 18 if something else is in the place
/// of what was to be imported, with 1 if something cannot be imported.
#[derive(Debug, Args)]
pub struct FromVault {
    /// Where it is: https://HOST:PORT, or http on this machine
    address: Address,
    /// Import the secrets of this mount of a kv engine, or those at and below a path in it; repeatable
    #[arg(long, value_name = "MOUNT[/PATH]")]
    kv: Vec<SecretPath>,
    /// Put the secrets of the one --kv below this path in place of its mount's name
    #[arg(long, value_name = "PATH", requires = "kv")]
    to: Option<SecretPath>,
    /// Import the exportable keys of this mount of a transit engine, with all versions; repeatable
    #[arg(long, value_name = "MOUNT")]
    transit: Vec<SecretPath>,
    /// Write a draft in Cedar of each policy to a file in this directory, for you to read; none is put
    #[arg(long, value_name = "DIRECTORY")]
    policies: Option<PathBuf>,
    /// Read everything, compare, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Vault's token: a file, or - for standard input; the variable VAULT_TOKEN if left out
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Who may have signed Vault's certificate, in place of those whom the system trusts: a PEM file
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The namespace in Vault
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    format: FormatArgs,
}

/// What there is, for who has not chosen.
#[derive(Serialize)]
struct There {
    mounts: Vec<ThereMount>,
    #[serde(flatten)]
    policies: Policies,
}

#[derive(Serialize)]
struct Policies {
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policies_uncounted: Option<String>,
}

#[derive(Serialize)]
struct ThereMount {
    mount: String,
    engine: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    /// Why there is no count.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncounted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    option: Option<String>,
}

pub async fn run(command: Import, session: &Session<'_>, variables: Variables) -> Result<Exit, Failure> {
    let Import::Vault(args) = command;
    if args.to.is_some() && args.kv.len() > 1 {
        return Err(
            Failure::usage("--to is the place of one --kv, and there are several").hint("import them one by one")
        );
    }
    let token = token(args.token_file.as_deref(), &variables)?;
    let vault = Vault::new(args.address.clone(), &token, args.namespace.as_deref(), args.ca.as_deref())?;
    if args.kv.is_empty() && args.transit.is_empty() && args.policies.is_none() {
        return list(&vault, session, args.format).await;
    }
    let mut report = Report { dry_run: args.dry_run, ..Report::default() };
    let done = Box::pin(import(&args, &vault, session, &mut report)).await;
    // What was done before it stopped is told too; but where policy is asked for, that is the answer.
    if !session.global.output_policy {
        report.print(session.screen, args.format.format)?;
    }
    done.map(|()| report.exit())
}

async fn import(args: &FromVault, vault: &Vault, session: &Session<'_>, report: &mut Report) -> Result<(), Failure> {
    let mut trees = Vec::with_capacity(args.kv.len());
    for path in &args.kv {
        trees.push(tree(path, args.to.as_ref(), vault).await?);
    }
    for mount in &args.transit {
        let found = vault.mount_of(mount.as_str()).await?;
        if found.engine != Engine::Transit || found.path != mount.as_str() {
            return Err(Failure::usage(format!("{mount} is no mount of a transit engine, but of {}", found.engine)));
        }
    }
    for tree in &trees {
        tree.import(vault, &session.client()?, report).await?;
    }
    for mount in &args.transit {
        transit::import(mount, vault, &session.client()?, report).await?;
    }
    if let Some(folder) = &args.policies {
        let moved = moved(vault.mounts().await?, &trees);
        policy::import(folder, &moved, vault, report).await?;
    }
    Ok(())
}

/// The secrets that somebody named.
async fn tree(path: &SecretPath, to: Option<&SecretPath>, vault: &Vault) -> Result<Tree, Failure> {
    let mount = vault.mount_of(path.as_str()).await?;
    if !matches!(mount.engine, Engine::Kv1 | Engine::Kv2) {
        return Err(Failure::usage(format!("{path} lies in a mount of {}, not of a kv engine", mount.engine)));
    }
    let below = path.as_str().strip_prefix(&mount.path).unwrap_or_default().trim_start_matches('/').to_owned();
    let to = match to {
        Some(to) => to.clone(),
        None => named(&mount)?,
    };
    Ok(Tree { mount, below, to })
}

/// The mount's name as a path here.
fn named(mount: &Mount) -> Result<SecretPath, Failure> {
    mount.path.parse().map_err(|error| {
        Failure::new(Exit::Failed, format!("the mount {:?} cannot be a path here: {error}", mount.path))
    })
}

/// What each mount is here, for policies. What is imported by another name is that.
fn moved(mounts: Vec<Mount>, trees: &[Tree]) -> Vec<Moved> {
    let of = |mount: Mount| {
        let elsewhere = trees.iter().find(|tree| tree.mount.path == mount.path).map(|tree| tree.to.clone());
        let path: SecretPath = mount.path.parse().ok()?;
        match mount.engine {
            Engine::Kv1 | Engine::Kv2 => Some(Moved::Kv {
                versions: mount.engine == Engine::Kv2,
                to: elsewhere.unwrap_or(path),
                mount: mount.path,
            }),
            Engine::Transit => Some(Moved::Transit { mount: mount.path }),
            Engine::Other(_) => None,
        }
    };
    mounts.into_iter().filter_map(of).collect()
}

/// What there is in a mount, as far as the token may list it.
async fn there(mount: Mount, vault: &Vault) -> Result<ThereMount, Failure> {
    let path = mount.path.parse::<SecretPath>().ok();
    let (counted, option) = match (&mount.engine, path) {
        (Engine::Kv1 | Engine::Kv2, Some(to)) => {
            let tree = Tree { mount: mount.clone(), below: String::new(), to };
            (Some(tree.count(vault).await?), Some(format!("--kv {}", mount.path)))
        }
        (Engine::Transit, Some(path)) => {
            let keys = listed(vault, &format!("{path}/keys")).await?;
            (Some(keys), Some(format!("--transit {path}")))
        }
        _ => (None, None),
    };
    let (count, uncounted) = split(counted);
    Ok(ThereMount { mount: mount.path, engine: mount.engine.to_string(), count, uncounted, option })
}

/// How many names there are; the inner error is why that is not known.
async fn listed(vault: &Vault, path: &str) -> Result<Result<usize, String>, Failure> {
    let names = vault.list(path).await?;
    Ok(names.map(|names| names.len()).map_err(|why| format!("{path} is not listed: {why}")))
}

fn split(counted: Option<Result<usize, String>>) -> (Option<usize>, Option<String>) {
    match counted {
        Some(Ok(count)) => (Some(count), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    }
}

async fn list(vault: &Vault, session: &Session<'_>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let mut mounts = Vec::new();
    for mount in vault.mounts().await? {
        mounts.push(there(mount, vault).await?);
    }
    let (policies, policies_uncounted) = split(Some(listed(vault, policy::POLICIES).await?));
    let policies = Policies { policies, policies_uncounted };
    if format == Format::Json {
        return session.screen.json(&There { mounts, policies }).map(|()| Exit::Ok);
    }
    let count = |count: Option<usize>| count.map_or_else(String::new, |count| count.to_string());
    let (mut rows, mut uncounted): (Vec<Vec<String>>, _) = (Vec::new(), Vec::new());
    for ThereMount { mount, engine, count: number, uncounted: why, option } in mounts {
        rows.push(vec![mount, engine, count(number), option.unwrap_or_else(|| "no counterpart".to_owned())]);
        uncounted.extend(why);
    }
    rows.push(vec![
        policy::POLICIES.to_owned(),
        "policies".to_owned(),
        count(policies.policies),
        "--policies DIRECTORY".to_owned(),
    ]);
    uncounted.extend(policies.policies_uncounted);
    session.screen.table(&["MOUNT", "ENGINE", "COUNT", "OPTION"], &rows)?;
    uncounted.iter().for_each(|why| session.screen.hint(why));
    Ok(Exit::Ok)
}

/// The token, without the white space around it.
fn token(file: Option<&Path>, variables: &Variables) -> Result<SecretBytes, Failure> {
    let mut bytes = SecretBytes::new(Vec::with_capacity(MAX_TOKEN_BYTES + 1));
    let most = u64::try_from(MAX_TOKEN_BYTES + 1).unwrap_or(u64::MAX);
    match file {
        Some(path) if path == Path::new("-") => {
            let read = io::stdin().lock().take(most).read_to_end(bytes.expose_mut());
            read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
        }
        Some(path) => {
            let read = File::open(path).and_then(|file| file.take(most).read_to_end(bytes.expose_mut()));
            read.map_err(|error| Failure::file("cannot read", path, &error))?;
        }
        None => {
            let found = variables.iter().find(|(name, _)| name == TOKEN_VARIABLE);
            let text = found.map(|(_, text)| text.as_encoded_bytes()).unwrap_or_default();
            bytes.expose_mut().extend_from_slice(text.get(..MAX_TOKEN_BYTES + 1).unwrap_or(text));
        }
    }
    let trimmed = bytes.expose().trim_ascii();
    if trimmed.is_empty() {
        return Err(Failure::usage("there is no token for Vault").hint("give --token-file FILE, or set VAULT_TOKEN"));
    }
    if bytes.expose().len() > MAX_TOKEN_BYTES {
        return Err(Failure::usage(format!("the token has more than {MAX_TOKEN_BYTES} bytes")));
    }
    let mut whole = SecretBytes::new(Vec::with_capacity(trimmed.len()));
    whole.expose_mut().extend_from_slice(trimmed);
    Ok(whole)
}

/// What a refusal of the cluster means for an import.
enum Refused {
    /// For one thing.
    Item(Outcome, String),
    /// For the whole run.
    Stop(Failure),
}

fn refused_here(error: ClientError) -> Refused {
    let outcome = match (&error, error.proven()) {
        // Whether it happened is not known: the next run finds out.
        (ClientError::UnknownOutcome { .. }, _) => None,
        (ClientError::Input { .. }, _) => Some(Outcome::Refused),
        (_, Some(Code::VersionMismatch | Code::Exists)) => Some(Outcome::Conflict),
        (_, Some(Code::Denied | Code::Malformed | Code::TooLarge | Code::KeyProtected)) => Some(Outcome::Refused),
        _ => None,
    };
    let failure = Failure::from(error);
    match outcome {
        None => Refused::Stop(failure.hint("run the command again: it goes on where it stopped")),
        Some(outcome) => {
            let hint = failure.hints.first().map_or_else(String::new, |hint| format!("; {hint}"));
            Refused::Item(outcome, format!("{}{hint}", failure.message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_word_of_a_file_or_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " s.abc\n").unwrap();
        assert_eq!(token(Some(&path), &Vec::new()).unwrap().expose(), b"s.abc");
        let variables = vec![(TOKEN_VARIABLE.to_owned(), "s.def".into())];
        assert_eq!(token(None, &variables).unwrap().expose(), b"s.def");
        assert_eq!(token(Some(&path), &variables).unwrap().expose(), b"s.abc");
        assert_eq!(token(None, &Vec::new()).unwrap_err().exit, Exit::Usage);
        std::fs::write(&path, vec![b'x'; MAX_TOKEN_BYTES + 1]).unwrap();
        assert_eq!(token(Some(&path), &Vec::new()).unwrap_err().exit, Exit::Usage);
        assert!(token(Some(&folder.path().join("none")), &Vec::new()).unwrap_err().message.contains("none"));
    }

    #[test]
    fn policies_speak_of_where_secrets_went() {
        let mount = |path: &str, engine| Mount { path: path.to_owned(), engine };
        let mounts = vec![
            mount("a", Engine::Kv2),
            mount("b", Engine::Kv1),
            mount("t", Engine::Transit),
            mount("p", Engine::Other("pki".to_owned())),
            mount("no path", Engine::Kv2),
        ];
        let tree = Tree { mount: mount("a", Engine::Kv2), below: "x".to_owned(), to: "new/a".parse().unwrap() };
        let of =
            |mount: &str, versions, to: &str| Moved::Kv { mount: mount.to_owned(), versions, to: to.parse().unwrap() };
        let wanted = vec![of("a", true, "new/a"), of("b", false, "b"), Moved::Transit { mount: "t".to_owned() }];
        assert_eq!(moved(mounts, &[tree]), wanted);
    }
}
