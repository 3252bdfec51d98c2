//! The plugin for Kubernetes: what its calls cost over the socket with each kind of member, its memory and starts, and a
//! kube-apiserver that starts over many Secrets.
//!
//! The plugin keeps no seed after an answer, so that is not measured which it does not do: Status comes from memory, each
//! Encrypt and Decrypt reaches a member, and only callers that ask for one seed at the same time share an answer. How often
//! members were called stands beside every figure, as the plugin counts it.

mod calls;
mod coldstart;
mod grpc;
mod members;
mod process;
mod report;

use crate::scale::{REST, STARTS};
use crate::{CLIENTS, Fault, Plan, proc, table};
use calls::{Call, Place, Round, Start};
use members::{Members, Setting};
use process::Plugin;
use report::{Report, Row, Standing};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// What is measured, and with what.
pub struct Subject<'a> {
    /// Our binary.
    pub binary: &'a Path,
    /// OpenBao's.
    pub openbao: Option<&'a Path>,
    /// The folder with the programs of `tests/apiserver`.
    pub harness: Option<&'a Path>,
    /// The core of plugins and servers.
    pub core: usize,
}

/// Measures all of it: tables, and JSON lines.
pub async fn run(subject: &Subject<'_>, plan: &Plan) -> Result<(String, String), Fault> {
    let load_before = proc::load_average();
    let mut report = Report::default();
    eprintln!("members");
    let members = Box::pin(Members::new(subject.binary, subject.openbao, subject.core)).await?;
    Box::pin(plugins(subject, &members, plan, &mut report)).await?;
    report.missing.extend(members.missing.iter().cloned());
    report.missing.push("clouds".to_owned());
    drop(members);
    for &secrets in plan.kubernetes {
        let what = format!("a start of kube-apiserver over {secrets} Secrets");
        let Some(harness) = subject.harness else {
            report.missing.push(format!("{what}, which needs the programs of tests/apiserver"));
            continue;
        };
        eprintln!("{what}");
        // What was measured before it is not lost for it.
        match coldstart::run(harness, subject.binary, secrets).await {
            Ok(cold) => report.colds.push(cold),
            Err(error) => report.missing.push(format!("{what}: {error}")),
        }
    }
    report.sort();
    report.heading = table::heading(&load_before);
    report.heading.push(versions(subject)?);
    report.missing.iter().for_each(|missing| eprintln!("not measured: {missing}"));
    Ok((report.markdown(), report.json()?))
}

/// All plugins at once, each with members of its own; only the one that is asked has work.
async fn plugins(subject: &Subject<'_>, members: &Members, plan: &Plan, report: &mut Report) -> Result<(), Fault> {
    let mut places = Vec::new();
    for setting in members.settings() {
        let plugin = Plugin::new(subject.binary, subject.core, setting, None)?;
        places.push(Arc::new(Place::new(plugin).await?));
    }
    tokio::time::sleep(REST).await;
    let idle = memories(&places)?;
    for place in &mut places {
        alone(place)?.prepare().await?;
    }
    let loaded = if plan.operations {
        report.rows = Box::pin(rounds(&places, plan)).await?;
        tokio::time::sleep(REST).await;
        memories(&places)?.into_iter().map(Some).collect()
    } else {
        vec![None; places.len()]
    };
    eprintln!("starts");
    let mut starts: Vec<Vec<Start>> = vec![Vec::new(); places.len()];
    for _ in 0..STARTS {
        for (place, starts) in places.iter_mut().zip(&mut starts) {
            starts.push(Box::pin(alone(place)?.again()).await?);
        }
    }
    for (((place, starts), idle), loaded) in places.iter().zip(&starts).zip(idle).zip(loaded) {
        report.standings.push(Standing::new(place.plugin.name(), starts, idle, loaded));
    }
    if let Some((member, tpm)) = &members.bound {
        let plugin = Plugin::new(subject.binary, subject.core, Setting::of_one(member), Some(tpm.clone()))?;
        report.standings.push(Box::pin(bound(plugin)).await?);
    }
    Ok(())
}

/// Every call on every plugin with every number of callers, in rounds, so that a disturbance hits all of them alike.
async fn rounds(places: &[Arc<Place>], plan: &Plan) -> Result<Vec<Row>, Fault> {
    // Connections to the members are there and everything is known before anything is timed.
    for place in places {
        place.round(Call::Encrypt, CLIENTS.into_iter().max().unwrap_or_default(), plan.length / 2).await?;
    }
    let mut rows = Vec::new();
    for callers in CLIENTS {
        let calls: Vec<Call> = Call::ALL.into_iter().filter(|call| call.applies(callers)).collect();
        let mut taken: Vec<Vec<Vec<Round>>> = vec![vec![Vec::new(); places.len()]; calls.len()];
        for _ in 0..plan.rounds {
            for (&call, taken) in calls.iter().zip(&mut taken) {
                for (place, taken) in places.iter().zip(taken) {
                    taken.push(Box::pin(place.round(call, callers, plan.length)).await?);
                }
            }
        }
        for (&call, taken) in calls.iter().zip(&taken) {
            for (place, taken) in places.iter().zip(taken) {
                let row = Row::new(call, place.plugin.name(), callers, taken);
                eprintln!("  {}", row.line());
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// Starts and idle memory of a plugin whose key file a TPM opens; its calls are those of a key file that a file opens.
async fn bound(plugin: Plugin) -> Result<Standing, Fault> {
    let mut place = Place::new(plugin).await?;
    tokio::time::sleep(REST).await;
    let idle = place.plugin.memory()?;
    place.prepare().await?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(place.again().await?);
    }
    Ok(Standing::new(place.plugin.name(), &starts, idle, None))
}

fn memories(places: &[Arc<Place>]) -> Result<Vec<f64>, Fault> {
    places.iter().map(|place| place.plugin.memory()).collect()
}

fn alone(place: &mut Arc<Place>) -> Result<&mut Place, Fault> {
    Arc::get_mut(place).ok_or_else(|| "a caller still works".into())
}

/// What was measured, as it says itself.
fn versions(subject: &Subject<'_>) -> Result<String, Fault> {
    let said = |binary: &Path, argument: &str| -> Result<String, Fault> {
        let output = Command::new(binary).arg(argument).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let ours = said(subject.binary, "--version")?;
    Ok(match subject.openbao {
        Some(openbao) => format!("{ours}, with {}.", said(openbao, "version")?),
        None => format!("{ours}."),
    })
}
