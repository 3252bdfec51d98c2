//! The load of `cargo xtask bench`: real clients over real TLS against the server of the release binary, which runs on
//! a core of its own. Prints tables and JSON lines on standard output, and progress on standard error.
//!
//! `bulla-load BINARY CORE quick|usual|long|scale|long-scale [--engines | --kms] [--openbao BAO] [--apiserver FOLDER] [JSON]`: the
//! server's binary, its core, how much to measure, whether of the engines or of the plugin for Kubernetes, the binary of
//! OpenBao if both are to be compared or it is to be behind the plugin, the programs of `tests/apiserver` for the latter,
//! and a file for the JSON lines in the place of standard output.

mod engines;
mod installation;
mod kms;
mod load;
mod primitives;
mod proc;
mod scale;
mod stock;
mod table;
mod versus;
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
    /// Whether operations are measured besides what grows with what is stored.
    operations: bool,
    /// Rounds of each operation.
    rounds: usize,
    length: Duration,
    /// Outstanding wraps at which memory and start are measured.
    sizes: &'static [u64],
    /// How many lie in both servers when they are compared: OpenBao makes some hundred a second.
    versus_wraps: u64,
    /// Numbers of secrets at which secrets are measured.
    secrets: &'static [u64],
    /// Leases with which memory and start are measured.
    leases: u64,
    /// Secrets over which a kube-apiserver starts.
    kubernetes: &'static [u64],
}

impl Plan {
    fn named(name: &str) -> Option<Self> {
        let usual = Self {
            operations: true,
            rounds: 3,
            length: Duration::from_secs(2),
            sizes: &[1_000, 100_000],
            versus_wraps: 60_000,
            secrets: &[1_000],
            leases: 100_000,
            kubernetes: &[10_000, 50_000],
        };
        match name {
            "usual" => Some(usual),
            "quick" => {
                let length = Duration::from_millis(700);
                let (sizes, kubernetes) = (&[1_000, 5_000], &[10_000]);
                Some(Self { length, sizes, versus_wraps: 2_000, leases: 1_000, kubernetes, ..usual })
            }
            "long" => {
                let (length, sizes) = (Duration::from_secs(5), &[1_000, 100_000, 1_000_000]);
                Some(Self { rounds: 5, length, sizes, versus_wraps: 100_000, secrets: &[1_000, 1_000_000], ..usual })
            }
            "long-scale" => Some(Self { operations: false, ..Self::named("long")? }),
            "scale" => Some(Self { operations: false, secrets: &[1_000, 1_000_000], ..usual }),
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

/// What the command line says.
struct Arguments {
    /// The server's binary.
    binary: PathBuf,
    /// Its core.
    core: usize,
    plan: Plan,
    /// What is measured.
    subject: Subject,
    /// OpenBao's binary.
    openbao: Option<PathBuf>,
    /// The folder with the programs of `tests/apiserver`.
    apiserver: Option<PathBuf>,
    /// Where the JSON lines go.
    json: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// Requests, secrets and wraps.
    Wraps,
    /// Secrets in numbers, keys, databases and leases.
    Engines,
    /// The plugin for Kubernetes.
    Kms,
}

impl Arguments {
    fn parse(words: &[String]) -> Result<Self, Fault> {
        const USAGE: &str = "usage: bulla-load BINARY CORE quick|usual|long|scale|long-scale [--engines | --kms] [--openbao BAO] \
                             [--apiserver FOLDER] [JSON]";
        let [binary, core, plan, rest @ ..] = words else { return Err(USAGE.into()) };
        let (subject, rest) = match rest {
            [flag, rest @ ..] if flag == "--engines" => (Subject::Engines, rest),
            [flag, rest @ ..] if flag == "--kms" => (Subject::Kms, rest),
            rest => (Subject::Wraps, rest),
        };
        let (openbao, rest) = match rest {
            [flag, openbao, rest @ ..] if flag == "--openbao" => (Some(std::fs::canonicalize(openbao)?), rest),
            rest => (None, rest),
        };
        let (apiserver, rest) = match rest {
            [flag, folder, rest @ ..] if flag == "--apiserver" && subject == Subject::Kms => {
                (Some(std::fs::canonicalize(folder)?), rest)
            }
            rest => (None, rest),
        };
        let json = match rest {
            [] => None,
            [json] if !json.starts_with('-') => Some(PathBuf::from(json)),
            _ => return Err(USAGE.into()),
        };
        let plan = Plan::named(plan).ok_or(USAGE)?;
        // Servers run in directories of their own.
        Ok(Self {
            binary: std::fs::canonicalize(binary)?,
            core: core.parse()?,
            plan,
            subject,
            openbao,
            apiserver,
            json,
        })
    }
}

async fn run() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Arguments { binary, core, plan, subject, openbao, apiserver, json: file } = Arguments::parse(&words)?;
    let binary = &*binary;
    let (markdown, json) = match (subject, openbao) {
        (Subject::Kms, openbao) => {
            let (openbao, harness) = (openbao.as_deref(), apiserver.as_deref());
            Box::pin(kms::run(&kms::Subject { binary, openbao, harness, core }, &plan)).await?
        }
        (Subject::Engines, Some(openbao)) => Box::pin(versus::engines::run(binary, &openbao, core, &plan)).await?,
        (Subject::Wraps, Some(openbao)) => Box::pin(versus::run(binary, &openbao, core, &plan)).await?,
        (Subject::Engines, None) => Box::pin(engines::run(binary, core, &plan)).await?,
        (Subject::Wraps, None) => Box::pin(alone(binary, core, &plan)).await?,
    };
    println!("{markdown}");
    match file {
        Some(file) => std::fs::write(file, json)?,
        None => print!("{json}"),
    }
    Ok(())
}

/// Measures our server by itself: tables, and JSON lines.
async fn alone(binary: &Path, core: usize, plan: &Plan) -> Result<(String, String), Fault> {
    let before = proc::load_average();

    eprintln!("cryptography by itself");
    let primitives = Primitives::measure().await?;
    let mut singles = Vec::new();
    let mut speeds = Vec::new();
    for class in [Class::Memory, Class::File] {
        eprintln!("operations, store: {}", class.name());
        singles.push(scale::idle(binary, class, core).await?);
        if plan.operations {
            let mut installation = Installation::new(binary, class, core).await?;
            installation.admit().await?;
            let place = Arc::new(Place::new(installation).await?);
            speeds.extend(Box::pin(operations(&place, &Work::ALL, class, plan, &primitives)).await?);
        }
    }
    eprintln!("outstanding wraps");
    singles.extend(Box::pin(scale::grow(binary, core, plan.sizes)).await?);

    table::sort(&mut speeds);
    let report = Report { heading: table::heading(&before), speeds, primitives, singles };
    Ok((report.markdown(), report.json()?))
}

/// Every operation with every number of clients, in rounds, so that a disturbance hits all of them alike.
async fn operations(
    place: &Arc<Place>,
    works: &[Work],
    class: Class,
    plan: &Plan,
    primitives: &Primitives,
) -> Result<Vec<Speed>, Fault> {
    // Connections, writers and challenges are known before anything is timed.
    let first = Box::pin(round(place, Work::Cycle, installation::PEOPLE, plan.length)).await?;
    first.whole("the first cycles")?;
    let mut speeds = Vec::new();
    for clients in CLIENTS {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); works.len()];
        for _ in 0..plan.rounds {
            for (&work, samples) in works.iter().zip(&mut samples) {
                let sample = Box::pin(round(place, work, clients, plan.length)).await?;
                samples.push(sample.whole(work.name())?);
            }
        }
        for (&work, samples) in works.iter().zip(&samples) {
            let speed = Speed::new(work, class, clients, samples, primitives);
            eprintln!("  {}", speed.row());
            speeds.push(speed);
        }
    }
    Ok(speeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_or_refused() {
        let parse = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            Arguments::parse(&words).ok()
        };
        let alone = parse("/bin/sh 0 quick").unwrap();
        assert_eq!((alone.core, alone.openbao, alone.json), (0, None, None));
        assert_eq!(parse("/bin/sh 0 usual out").unwrap().json, Some("out".into()));
        let both = parse("/bin/sh 1 long --openbao /bin/sh out").unwrap();
        assert!(both.core == 1 && both.subject == Subject::Wraps);
        assert!(both.openbao.is_some() && both.json == Some("out".into()));
        let engines = parse("/bin/sh 1 quick --engines --openbao /bin/sh").unwrap();
        assert!(engines.subject == Subject::Engines && engines.openbao.is_some() && engines.json.is_none());
        assert!(parse("/bin/sh 1 quick --engines out").unwrap().json.is_some());
        let kms = parse("/bin/sh 1 quick --kms --openbao /bin/sh --apiserver / out").unwrap();
        assert!(kms.subject == Subject::Kms && kms.openbao.is_some() && kms.apiserver == Some("/".into()));
        assert_eq!(kms.json, Some("out".into()));
        let bare = parse("/bin/sh 1 long --kms").unwrap();
        assert!(bare.subject == Subject::Kms && bare.openbao.is_none() && bare.apiserver.is_none());
        for bad in [
            "",
            "/bin/sh 0 quick --openbao /bin/sh --engines",
            "/bin/sh 0",
            "/bin/sh x quick",
            "/bin/sh 0 slow",
            "/no/such 0 quick",
            "/bin/sh 0 quick a b",
            "/bin/sh 0 quick --openbao",
            "/bin/sh 0 quick --vault /bin/sh",
            "/bin/sh 0 quick --kms --engines",
            "/bin/sh 0 quick --engines --apiserver /",
            "/bin/sh 0 quick --kms --apiserver",
            "/bin/sh 0 quick --kms --apiserver /no/such",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
