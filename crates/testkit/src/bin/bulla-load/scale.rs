//! Memory and the time of a start, as they grow with what is stored.

use crate::Fault;
use crate::installation::{Class, Installation, PEOPLE, path};
use crate::load::middle;
use crate::proc;
use crate::table::Single;
use crate::work::Place;
use bulla_client::Client;
use bulla_client::wire::api::SealState;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Content of a wrap that only has to lie there, in bytes.
pub const SMALL_BYTES: usize = 16;
/// Starts at each size; the median is told.
pub const STARTS: usize = 3;
/// How long a server is left alone before its memory is read: the audit log is synced, connections are quiet.
pub const REST: Duration = Duration::from_secs(2);
/// Above so many wraps the starts are measured again when the nonces of the writing are over.
const LATER_FROM: u64 = 50_000;
/// Until they are: a server drops a minute's nonces after five minutes, and looks back at twice that when it starts.
const LATER: Duration = Duration::from_secs(7 * 60);
/// How often a person at the terminal hears of it.
const TOLD_EVERY: u64 = 10_000;

/// Bytes of a MiB.
pub const MIB: f64 = 1024.0 * 1024.0;

/// Memory of a server that was just unsealed, and never asked anything else.
pub async fn idle(binary: &Path, class: Class, core: usize) -> Result<Single, Fault> {
    let installation = Installation::new(binary, class, core).await?;
    tokio::time::sleep(REST).await;
    let value = resident(installation.pid())?;
    Ok(Single { what: format!("idle memory, unsealed, {}", class.name()), value, unit: "MiB" })
}

/// Fills a durable store with outstanding wraps and starts it anew at each of these sizes.
pub async fn grow(binary: &Path, core: usize, sizes: &[u64]) -> Result<Vec<Single>, Fault> {
    let mut installation = Installation::new(binary, Class::File, core).await?;
    installation.admit().await?;
    let mut singles = Vec::new();
    let mut wraps = 0;
    for &size in sizes {
        let place = Arc::new(Place::new(installation).await?);
        let began = Instant::now();
        let at = place.clone();
        let lay = move |number, _| {
            let place = at.clone();
            async move { lay(&place, number).await }
        };
        fill(size.saturating_sub(wraps), lay).await?;
        wraps = size;
        eprintln!("  {size} wraps after {:.0} s", began.elapsed().as_secs_f64());
        let place = Arc::into_inner(place).ok_or("a client still works")?;
        drop(place.seats);
        installation = place.installation;
        singles.extend(measure(&mut installation, size, "wraps").await?);
    }
    Ok(singles)
}

/// Memory, files and starts of a durable installation in which so many of something lie, just made.
pub async fn measure(installation: &mut Installation, size: u64, things: &str) -> Result<Vec<Single>, Fault> {
    tokio::time::sleep(REST).await;
    let value = resident(installation.pid())?;
    let mut singles = vec![Single { what: format!("memory after {size} {things} were made"), value, unit: "MiB" }];
    let value = files(installation)?;
    singles.push(Single { what: format!("store files with {size} {things}"), value, unit: "MiB" });
    singles.extend(self::singles(&start(installation).await?, &format!("{size} {things} just made")));
    if size >= LATER_FROM {
        eprintln!("  seven minutes until the nonces are over");
        tokio::time::sleep(LATER).await;
        let later = start(installation).await?;
        singles.extend(self::singles(&later, &format!("{size} {things}, seven minutes later")));
    }
    Ok(singles)
}

/// The files of a durable store in MiB.
pub fn files(installation: &Installation) -> Result<f64, Fault> {
    let data = installation.server.data();
    let bytes = |name| std::fs::metadata(data.join(name)).map(|file| file.len());
    Ok((bytes("bulla.redb")? + bytes("bulla.journal")?) as f64 / MIB)
}

/// Has all people together do `lay` so many times: with their number, and the number of the thing.
pub async fn fill<Lay, Doing>(things: u64, lay: Lay) -> Result<(), Fault>
where
    Lay: Fn(usize, u64) -> Doing + Clone + Send + 'static,
    Doing: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let taken = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for number in 0..PEOPLE {
        let (lay, taken) = (lay.clone(), taken.clone());
        tasks.spawn(async move {
            loop {
                let mine = taken.fetch_add(1, Ordering::Relaxed);
                if mine >= things {
                    return Ok::<_, Fault>(());
                }
                if mine > 0 && mine.is_multiple_of(TOLD_EVERY) {
                    eprintln!("  {mine} of {things}");
                }
                Box::pin(lay(number, mine)).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Makes a small wrap.
pub async fn lay(place: &Place, number: usize) -> Result<(), Fault> {
    let seat = place.seats.get(number).ok_or("a seat is missing")?;
    seat.wrap(SMALL_BYTES).await.map(drop)
}

/// What a start takes: medians.
pub struct Start {
    /// From exec until health answers that it is sealed, in milliseconds.
    pub sealed_ms: f64,
    /// From the share to the first secret of a new client.
    pub served_ms: f64,
    /// Resident memory after that, in MiB.
    pub memory_mib: f64,
}

/// Kills the server and starts it again, some times.
pub async fn start(installation: &mut Installation) -> Result<Start, Fault> {
    let (mut sealed, mut served, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        installation.server.kill();
        let began = Instant::now();
        installation.server.restart();
        let anyone = Client::builder(installation.address()).build()?;
        let (health, _) = anyone.health().await?;
        if health.state != SealState::Sealed {
            return Err(format!("a server that starts is {:?}", health.state).into());
        }
        sealed.push(began.elapsed().as_secs_f64() * 1000.0);
        let began = Instant::now();
        installation.unseal().await?;
        installation.stranger(0)?.kv_get(&path(0)?).await?;
        served.push(began.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(REST).await;
        memory.push(resident(installation.pid())?);
    }
    Ok(Start { sealed_ms: middle(sealed), served_ms: middle(served), memory_mib: middle(memory) })
}

/// The same as rows of the table.
fn singles(start: &Start, with: &str) -> [Single; 3] {
    let single = |what: &str, value, unit| Single { what: format!("{what} {with}"), value, unit };
    [
        single("kill -9, exec to health answering sealed, with", start.sealed_ms, "ms"),
        single("unsealing by one admin to a new client's first secret, with", start.served_ms, "ms"),
        single("memory after start and unsealing with", start.memory_mib, "MiB"),
    ]
}

/// Resident memory in MiB.
pub fn resident(pid: u32) -> Result<f64, Fault> {
    Ok(proc::resident(pid)? as f64 / MIB)
}
