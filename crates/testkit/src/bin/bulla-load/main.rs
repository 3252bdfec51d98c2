//! The load of `cargo xtask bench`: real clients over real TLS against the server of the release binary, which runs on
//! a core of its own. Prints tables and JSON lines on standard output, and progress on standard error.
//!
//! `bulla-load BINARY CORE quick|usual|long|scale [JSON]`: the server's binary, its core, how much to measure, and a file
//! for the JSON lines in the place of standard output.

mod installation;
mod load;
mod primitives;
mod proc;
mod scale;
mod table;
mod work;

use installation::{Class, Installation};
use load::Sample;
use primitives::Primitives;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use table::{Report, Speed};
use work::{Place, Work, round};

/// Whatever stops the measurement.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// How many clients work at once.
const CLIENTS: [usize; 3] = [1, 8, 32];

/// How much is measured.
struct Plan {
    /// Rounds of each operation; none for memory and start alone.
    rounds: usize,
    length: Duration,
    /// Outstanding wraps at which memory and start are measured.
    sizes: &'static [u64],
}

impl Plan {
    fn named(name: &str) -> Option<Self> {
        let rounds = 3;
        match name {
            "quick" => Some(Self { rounds, length: Duration::from_millis(700), sizes: &[1_000, 5_000] }),
            "usual" => Some(Self { rounds, length: Duration::from_secs(2), sizes: &[1_000, 100_000] }),
            "long" => Some(Self { rounds: 5, length: Duration::from_secs(5), sizes: &[1_000, 100_000, 1_000_000] }),
            "scale" => Some(Self { rounds: 0, length: Duration::ZERO, sizes: &[1_000, 100_000] }),
            _ => None,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Fault> {
    const USAGE: &str = "usage: bulla-load BINARY CORE quick|usual|long|scale [JSON]";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (binary, core, plan, file) = match arguments.as_slice() {
        [binary, core, plan] => (binary, core, plan, None),
        [binary, core, plan, file] => (binary, core, plan, Some(PathBuf::from(file))),
        _ => return Err(USAGE.into()),
    };
    // The server runs in a directory of its own.
    let (binary, core) = (&*std::fs::canonicalize(binary)?, core.parse()?);
    let plan = Plan::named(plan).ok_or(USAGE)?;
    let before = proc::load_average();

    eprintln!("cryptography by itself");
    let primitives = Primitives::measure().await?;
    let mut singles = Vec::new();
    let mut speeds = Vec::new();
    for class in [Class::Memory, Class::File] {
        eprintln!("operations, store: {}", class.name());
        singles.push(scale::idle(binary, class, core).await?);
        if plan.rounds > 0 {
            speeds.extend(Box::pin(operations(binary, class, core, &plan, &primitives)).await?);
        }
    }
    eprintln!("outstanding wraps");
    singles.extend(Box::pin(scale::grow(binary, core, plan.sizes)).await?);

    // Both classes of an operation stand beside each other.
    speeds.sort_by_key(|(work, clients, _)| (Work::ALL.iter().position(|one| one == work), *clients));
    let speeds = speeds.into_iter().map(|(_, _, speed)| speed).collect();
    let report = Report { heading: table::heading(&before), speeds, primitives, singles };
    println!("{}", report.markdown());
    match file {
        Some(file) => std::fs::write(file, report.json()?)?,
        None => print!("{}", report.json()?),
    }
    Ok(())
}

/// Every operation with every number of clients, in rounds, so that a disturbance hits all of them alike.
async fn operations(
    binary: &Path,
    class: Class,
    core: usize,
    plan: &Plan,
    primitives: &Primitives,
) -> Result<Vec<(Work, usize, Speed)>, Fault> {
    let mut installation = Installation::new(binary, class, core).await?;
    installation.admit().await?;
    let seats = installation.seats().await?;
    let place = Arc::new(Place { installation, seats });
    // Connections, writers and challenges are known before anything is timed.
    let first = Box::pin(round(&place, Work::Cycle, installation::PEOPLE, plan.length)).await?;
    first.whole("the first cycles")?;
    let mut speeds = Vec::new();
    for clients in CLIENTS {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); Work::ALL.len()];
        for _ in 0..plan.rounds {
            for (work, samples) in Work::ALL.into_iter().zip(&mut samples) {
                let sample = Box::pin(round(&place, work, clients, plan.length)).await?;
                samples.push(sample.whole(work.name())?);
            }
        }
        for (work, samples) in Work::ALL.into_iter().zip(&samples) {
            let speed = Speed::new(work, class, clients, samples, primitives);
            eprintln!("  {}", speed.row());
            speeds.push((work, clients, speed));
        }
    }
    Ok(speeds)
}
