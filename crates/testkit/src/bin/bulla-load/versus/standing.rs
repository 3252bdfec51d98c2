//! What both take while they stand: memory with nothing and with many wraps, and the time of a start.

use super::calls::Counter;
use super::comparison::Figure;
use super::openbao::OpenBao;
use super::{Binaries, Both, syncs};
use crate::Fault;
use crate::installation::Class;
use crate::load::middle;
use crate::scale::{self, MIB, REST, SMALL_BYTES, STARTS, Start, fill, resident};
use crate::work::Work;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The sizes of both binaries.
pub fn size(binaries: &Binaries) -> Result<Figure, Fault> {
    let mib = |path: &Path| std::fs::metadata(path).map(|file| file.len() as f64 / MIB);
    Ok(Figure::new("binary", mib(&binaries.ours)?, mib(&binaries.theirs)?, "MiB"))
}

/// Memory of servers that were just unsealed, and never asked anything else.
pub async fn idle(binaries: &Binaries, class: Class) -> Result<Figure, Fault> {
    let ours = scale::idle(&binaries.ours, class, binaries.core).await?.value;
    let server = OpenBao::new(&binaries.theirs, class, binaries.core).await?;
    tokio::time::sleep(REST).await;
    let theirs = resident(server.pid()?)?;
    Ok(Figure::new(format!("idle memory, unsealed, {}", class.name()), ours, theirs, "MiB"))
}

/// Syncs of the disk for a cycle by one client; none where they cannot be counted.
pub async fn syncs(both: &Both) -> Result<Option<Figure>, Fault> {
    let Both { ours, theirs } = both;
    let cycle = || async { Work::Cycle.once(ours, 0).await.map(drop) };
    let Some(our_syncs) = syncs::count(ours.installation.pid(), cycle).await? else { return Ok(None) };
    let cycle = || async { theirs.once(super::Call::Cycle, 0).await.map(drop) };
    let Some(their_syncs) = syncs::count(theirs.server.pid()?, cycle).await? else { return Ok(None) };
    Ok(Some(Figure::new("disk syncs for a cycle, one client", our_syncs, their_syncs, "")))
}

/// Lays so many wraps into both, and starts both anew.
pub async fn outstanding(both: Both, wraps: u64) -> Result<Vec<Figure>, Fault> {
    let Both { ours, theirs } = both;
    let began = Instant::now();
    let at = ours.clone();
    let lay = move |number, _| {
        let place = at.clone();
        async move { scale::lay(&place, number).await }
    };
    fill(wraps, lay).await?;
    eprintln!("  {wraps} wraps in ours after {:.0} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let at = theirs.clone();
    let lay = move |number, _| {
        let counter = at.clone();
        async move { counter.lay(number, SMALL_BYTES).await }
    };
    fill(wraps, lay).await?;
    eprintln!("  {wraps} wraps in OpenBao after {:.0} s", began.elapsed().as_secs_f64());
    tokio::time::sleep(REST).await;
    let (our_memory, their_memory) = (resident(ours.installation.pid())?, resident(theirs.server.pid()?)?);

    let place = Arc::into_inner(ours).ok_or("a client still works")?;
    drop(place.seats);
    let mut installation = place.installation;
    let our_start = scale::start(&mut installation).await?;
    // It does not run beside the other's start.
    drop(installation);
    let mut counter = Arc::into_inner(theirs).ok_or("a client still works")?;
    let their_start = start(&mut counter).await?;

    let with = format!("{wraps} wraps");
    let mut figures = vec![Figure::new(format!("memory after making {with}"), our_memory, their_memory, "MiB")];
    figures.extend(starts(&our_start, &their_start, &with));
    Ok(figures)
}

/// The starts of both.
pub fn starts(ours: &Start, theirs: &Start, with: &str) -> [Figure; 3] {
    let figure = |what: &str, ours, theirs, unit| Figure::new(format!("{what} {with}"), ours, theirs, unit);
    [
        figure("kill -9, exec to health answering sealed, with", ours.sealed_ms, theirs.sealed_ms, "ms"),
        figure("share to a new client's first secret, with", ours.served_ms, theirs.served_ms, "ms"),
        figure("memory after start and unsealing with", ours.memory_mib, theirs.memory_mib, "MiB"),
    ]
}

/// Kills OpenBao and starts it again, some times.
pub async fn start(counter: &mut Counter) -> Result<Start, Fault> {
    let (mut sealed, mut served, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        counter.server.kill();
        let began = Instant::now();
        counter.server.start().await?;
        sealed.push(began.elapsed().as_secs_f64() * 1000.0);
        let began = Instant::now();
        counter.server.unseal().await?;
        counter.newcomer().await?;
        served.push(began.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(REST).await;
        memory.push(resident(counter.server.pid()?)?);
    }
    Ok(Start { sealed_ms: middle(sealed), served_ms: middle(served), memory_mib: middle(memory) })
}
