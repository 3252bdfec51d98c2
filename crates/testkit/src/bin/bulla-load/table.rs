//! What was measured, as JSON lines and as Markdown.

use crate::installation::Class;
use crate::load::{Sample, middle, percentiles};
use crate::primitives::{FORMULA, Primitives};
use crate::proc;
use crate::work::Work;
use serde::Serialize;
use std::fmt::Write as _;

/// An operation by so many clients on a class of store.
#[derive(Debug, Serialize)]
pub struct Speed {
    work: Work,
    class: Class,
    /// How many lie in the store, where that is what is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<u64>,
    clients: usize,
    rounds: usize,
    operations: u64,
    /// Medians of the rounds.
    per_second: f64,
    per_server_core_second: f64,
    server_us: f64,
    crypto_us: Option<f64>,
    load_us: f64,
    server_busy: f64,
    load_busy: f64,
    transactions: f64,
    written_kib: f64,
    /// Of all rounds together.
    p50_us: u32,
    p95_us: u32,
    p99_us: u32,
}

impl Speed {
    /// Of some rounds of the same.
    pub fn new(work: Work, class: Class, clients: usize, samples: &[Sample], primitives: &Primitives) -> Self {
        let each = |of: &dyn Fn(&Sample) -> f64| middle(samples.iter().map(of).collect());
        let [p50_us, p95_us, p99_us] = percentiles(samples);
        Self {
            work,
            class,
            secrets: None,
            clients,
            rounds: samples.len(),
            operations: samples.iter().map(|sample| sample.latencies.len() as u64).sum(),
            per_second: each(&|sample| sample.operations() / sample.wall_s),
            per_server_core_second: each(&|sample| sample.operations() / sample.server_s.max(0.01)),
            server_us: each(&|sample| sample.server_s * 1e6 / sample.operations()),
            crypto_us: primitives.of(work),
            load_us: each(&|sample| sample.load_s * 1e6 / sample.operations()),
            server_busy: each(&|sample| sample.server_s / sample.wall_s),
            load_busy: each(&|sample| sample.load_s / sample.wall_s),
            transactions: each(&|sample| sample.transactions as f64 / sample.operations()),
            written_kib: each(&|sample| sample.written as f64 / 1024.0 / sample.operations()),
            p50_us,
            p95_us,
            p99_us,
        }
    }

    /// Beside so many secrets.
    pub fn with_secrets(self, secrets: u64) -> Self {
        Self { secrets: Some(secrets), ..self }
    }

    /// Its row of the table.
    pub fn row(&self) -> String {
        let ms = |us: u32| format!("{:.2}", f64::from(us) / 1000.0);
        format!(
            "| {} | {} | {} | {:.0} | {:.0} | {} / {} / {} | {:.0} | {} | {:.0} | {:.0} % | {:.0} % | {:.2} | {:.1} |",
            self.work.name(),
            store(self.class, self.secrets),
            self.clients,
            self.per_second,
            self.per_server_core_second,
            ms(self.p50_us),
            ms(self.p95_us),
            ms(self.p99_us),
            self.server_us,
            self.crypto_us.map_or_else(|| "–".to_owned(), |us| format!("{us:.0}")),
            self.load_us,
            self.server_busy * 100.0,
            self.load_busy * 100.0,
            self.transactions,
            self.written_kib,
        )
    }
}

/// Both classes of an operation beside each other, and what grows in its order.
pub fn sort(speeds: &mut [Speed]) {
    speeds.sort_by_key(|speed| (speed.work, speed.clients, speed.secrets));
}

/// A store and what lies in it, as tables name them.
pub fn store(class: Class, secrets: Option<u64>) -> String {
    match secrets {
        Some(secrets) => format!("{}, {secrets} secrets", class.name()),
        None => class.name().to_owned(),
    }
}

/// A single number.
#[derive(Debug, Serialize)]
pub struct Single {
    /// What it is of.
    pub what: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// All measurements of a run.
pub struct Report {
    /// The machine, the date and how it was measured.
    pub heading: Vec<String>,
    /// Operations.
    pub speeds: Vec<Speed>,
    /// The cryptography by itself.
    pub primitives: Primitives,
    /// Memory and start.
    pub singles: Vec<Single>,
}

impl Report {
    /// One JSON object a line.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        let mut text = String::new();
        let primitives = self.primitives.all().map(|(what, value)| Single { what: what.into(), value, unit: "us" });
        for speed in &self.speeds {
            text.push_str(&serde_json::to_string(speed)?);
            text.push('\n');
        }
        for single in primitives.iter().chain(&self.singles) {
            text.push_str(&serde_json::to_string(single)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// Tables for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for line in &self.heading {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
        text.push_str("\n### Operations\n\n");
        text.push_str(
            "| work | store | clients | a second | a second of server CPU | p50 / p95 / p99 ms | server CPU µs | \
             of it cryptography µs | load CPU µs | server core busy | load core busy | transactions | KiB written |\n",
        );
        text.push_str("| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n");
        for speed in &self.speeds {
            let _ = writeln!(text, "{}", speed.row());
        }
        text.push_str("\n### Cryptography by itself\n\n| primitive | µs |\n| --- | --: |\n");
        for (name, us) in self.primitives.all() {
            let _ = writeln!(text, "| {name} | {us:.1} |");
        }
        let _ = writeln!(text, "\nOf an operation: {FORMULA}");
        text.push_str("\n### Memory and start\n\n| what | |\n| --- | --: |\n");
        for Single { what, value, unit } in &self.singles {
            let _ = writeln!(text, "| {what} | {value:.1} {unit} |");
        }
        text
    }
}

/// The heading of a run: machine, date, conditions.
pub fn heading(load_before: &str) -> Vec<String> {
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    vec![
        format!("{date}. {}.", proc::machine()),
        format!("Load average {load_before} before, {} after.", proc::load_average()),
    ]
}
