//! What was measured of both, side by side: ratios, Markdown and JSON lines.

use super::calls::Call;
use crate::Fault;
use crate::installation::Class;
use crate::load::{Sample, middle, percentiles};
use crate::table::store;
use crate::work::Work;
use serde::Serialize;
use std::fmt::Write as _;

/// Above this part of its time a load measures itself more than the server.
const LOAD_BUSY_MAX: f64 = 0.9;

/// An operation of ours, what does the same on OpenBao, and how many times as many a second we want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Ours.
    pub work: Work,
    /// Theirs.
    pub call: Call,
    aim_in_memory: Option<u32>,
    aim_durable: Option<u32>,
}

const fn row(work: Work, call: Call, aim_in_memory: Option<u32>, aim_durable: Option<u32>) -> Row {
    Row { work, call, aim_in_memory, aim_durable }
}

/// All rows about what happens without engines. Those with the same operation of ours share its measurement.
pub const ROWS: [Row; 6] = [
    row(Work::Cycle, Call::Cycle, Some(3), Some(15)),
    row(Work::KvPut, Call::Write, Some(3), Some(6)),
    row(Work::KvGet, Call::Read, Some(3), Some(3)),
    row(Work::KvGet, Call::ReadInline, Some(6), Some(6)),
    row(Work::Cold, Call::ColdLogin, Some(10), Some(10)),
    row(Work::Cold, Call::ColdInline, Some(3), Some(3)),
];

/// Rows about many secrets.
pub const SECRETS: [Row; 4] = [
    row(Work::KvPut, Call::Write, Some(3), Some(6)),
    row(Work::KvGet, Call::Read, Some(3), Some(3)),
    row(Work::KvGet, Call::ReadInline, Some(6), Some(6)),
    row(Work::KvList, Call::List, None, None),
];

/// Rows about keys and databases: leases are renewed that were begun, and revoked after that.
pub const ENGINES: [Row; 9] = [
    row(Work::Encrypt, Call::Encrypt, Some(3), Some(3)),
    row(Work::EncryptMany, Call::EncryptMany, Some(10), Some(10)),
    row(Work::Decrypt, Call::Decrypt, None, None),
    row(Work::DecryptMany, Call::DecryptMany, None, None),
    row(Work::Sign, Call::Sign, None, None),
    row(Work::SignMany, Call::SignMany, None, None),
    row(Work::Issue, Call::Issue, None, None),
    row(Work::Renew, Call::Renew, None, None),
    row(Work::Revoke, Call::Revoke, None, None),
];

/// One server at one operation.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    operations: u64,
    /// Medians of the rounds.
    per_second: f64,
    server_us: f64,
    load_us: f64,
    load_busy: f64,
    written_kib: f64,
    /// Of all rounds together.
    p50_us: u32,
    p95_us: u32,
    p99_us: u32,
    /// What went wrong, if anything did.
    failures: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl Side {
    /// Of some rounds of the same.
    pub fn new(samples: &[Sample]) -> Self {
        let each = |of: &dyn Fn(&Sample) -> f64| middle(samples.iter().map(of).collect());
        let [p50_us, p95_us, p99_us] = percentiles(samples);
        // A round without an operation has a failure, or says so as one: its numbers are not used.
        let one = |sample: &Sample| sample.operations().max(1.0);
        let mut failures: Vec<&String> = samples.iter().flat_map(|sample| &sample.failures).collect();
        let nothing = "a round without an operation".to_owned();
        if samples.iter().any(|sample| sample.latencies.is_empty()) {
            failures.push(&nothing);
        }
        Self {
            operations: samples.iter().map(|sample| sample.latencies.len() as u64).sum(),
            per_second: each(&|sample| sample.operations() / sample.wall_s),
            server_us: each(&|sample| sample.server_s * 1e6 / one(sample)),
            load_us: each(&|sample| sample.load_s * 1e6 / one(sample)),
            load_busy: each(&|sample| sample.load_s / sample.wall_s),
            written_kib: each(&|sample| sample.written as f64 / 1024.0 / one(sample)),
            p50_us,
            p95_us,
            p99_us,
            failures: failures.len(),
            failure: failures.first().map(|failure| (*failure).clone()),
        }
    }

    fn latencies(&self) -> String {
        let ms = |us: u32| format!("{:.2}", f64::from(us) / 1000.0);
        format!("{} / {} / {}", ms(self.p50_us), ms(self.p95_us), ms(self.p99_us))
    }
}

/// Both at one operation.
#[derive(Debug, Serialize)]
pub struct Comparison {
    work: Work,
    call: Call,
    class: Class,
    /// How many lie in both, where that is what is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<u64>,
    clients: usize,
    rounds: usize,
    ours: Side,
    theirs: Side,
    /// Ours a second by theirs. None if something went wrong.
    per_second_ratio: Option<f64>,
    /// Their server's CPU time by ours.
    server_cpu_ratio: Option<f64>,
    /// How many times as many a second we want, where that was said.
    aim: Option<u32>,
}

impl Comparison {
    /// Of the rounds of both.
    pub fn new(row: Row, class: Class, clients: usize, ours: &[Sample], theirs: &[Sample]) -> Self {
        let rounds = ours.len();
        let (ours, theirs) = (Side::new(ours), Side::new(theirs));
        let sound = ours.failures == 0 && theirs.failures == 0;
        let ratio = |one, other| if sound { ratio(one, other) } else { None };
        Self {
            work: row.work,
            call: row.call,
            class,
            secrets: None,
            clients,
            rounds,
            per_second_ratio: ratio(ours.per_second, theirs.per_second),
            server_cpu_ratio: ratio(theirs.server_us, ours.server_us),
            aim: if class == Class::File { row.aim_durable } else { row.aim_in_memory },
            ours,
            theirs,
        }
    }

    /// Beside so many secrets.
    pub fn with_secrets(self, secrets: Option<u64>) -> Self {
        Self { secrets, ..self }
    }

    /// Where it stands in the table.
    pub fn place(&self) -> (Option<usize>, usize, Option<u64>) {
        let mut rows = ROWS.iter().chain(&SECRETS).chain(&ENGINES);
        (rows.position(|row| row.work == self.work && row.call == self.call), self.clients, self.secrets)
    }

    /// Its row of the table.
    pub fn row(&self) -> String {
        let Self { ours, theirs, .. } = self;
        let store = store(self.class, self.secrets);
        let head = format!("| {} | {} | {store} | {} |", self.work.name(), self.call.name(), self.clients);
        let aim = self.aim.map_or_else(|| "–".to_owned(), |aim| format!("{aim} ×"));
        if let Some(void) = self.void() {
            return format!("{head} – | – | – | {aim} | – | – | – | – | – | – | – | {void} |");
        }
        format!(
            "{head} {:.0} | {:.0} | {} | {aim} | {} | {} | {:.0} | {:.0} | {} | {:.0} | {:.0} | {} |",
            ours.per_second,
            theirs.per_second,
            times(self.per_second_ratio),
            ours.latencies(),
            theirs.latencies(),
            ours.server_us,
            theirs.server_us,
            times(self.server_cpu_ratio),
            ours.load_us,
            theirs.load_us,
            self.note(),
        )
    }

    fn void(&self) -> Option<String> {
        let told = |name: &str, side: &Side| {
            let failure = side.failure.as_ref()?;
            let failure = failure.replace(['|', '\n'], " ");
            Some(format!("void: {name} failed {} times, first with: {failure}", side.failures))
        };
        told("ours", &self.ours).or_else(|| told("OpenBao", &self.theirs))
    }

    fn note(&self) -> String {
        let busy = |name: &str, side: &Side| {
            (side.load_busy > LOAD_BUSY_MAX).then(|| format!("load {:.0} % busy at {name}", side.load_busy * 100.0))
        };
        let notes = [busy("ours", &self.ours), busy("OpenBao", &self.theirs)];
        notes.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// A single number of each.
#[derive(Debug, Serialize)]
pub struct Figure {
    what: String,
    ours: f64,
    theirs: f64,
    unit: &'static str,
    /// Theirs by ours.
    ratio: Option<f64>,
}

impl Figure {
    /// Of both.
    pub fn new(what: impl Into<String>, ours: f64, theirs: f64, unit: &'static str) -> Self {
        Self { what: what.into(), ours, theirs, unit, ratio: ratio(theirs, ours) }
    }
}

/// All measurements of a run.
pub struct Report {
    /// The machine, the date, the versions, the conditions.
    pub heading: Vec<String>,
    /// Operations.
    pub comparisons: Vec<Comparison>,
    /// Sizes, memory, start, syncs.
    pub figures: Vec<Figure>,
    /// What could not be measured.
    pub missing: Vec<String>,
}

impl Report {
    /// One JSON object a line.
    pub fn json(&self) -> Result<String, Fault> {
        let mut lines = Vec::new();
        for comparison in &self.comparisons {
            lines.push(serde_json::to_string(comparison)?);
        }
        for figure in &self.figures {
            lines.push(serde_json::to_string(figure)?);
        }
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }

    /// Tables for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for line in &self.heading {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
        if !self.comparisons.is_empty() {
            text.push_str(
                "\n### Operations\n\n| ours | OpenBao | store | clients | a second, ours | OpenBao | ratio | aim | \
                 p50 / p95 / p99 ms, ours | OpenBao | server CPU µs, ours | OpenBao | ratio | load CPU µs, ours | \
                 OpenBao | |\n\
                 | --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- |\n",
            );
        }
        for comparison in &self.comparisons {
            let _ = writeln!(text, "{}", comparison.row());
        }
        text.push_str("\n### Size, memory, start\n\n| what | ours | OpenBao | ratio |\n| --- | --: | --: | --: |\n");
        for Figure { what, ours, theirs, unit, ratio } in &self.figures {
            let number = |value: &f64| format!("{value:.1} {unit}").trim_end().to_owned();
            let _ = writeln!(text, "| {what} | {} | {} | {} |", number(ours), number(theirs), times(*ratio));
        }
        for missing in &self.missing {
            let _ = writeln!(text, "\nNot measured: {missing}.");
        }
        text
    }
}

/// How many times the other; none if one of them is nothing.
fn ratio(one: f64, other: f64) -> Option<f64> {
    (one > 0.0 && other > 0.0).then(|| one / other)
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row = ROWS[0];

    /// So many operations of 2 ms in a second, with this much CPU time of the server and the load.
    fn sample(operations: usize, server_s: f64, load_s: f64) -> Sample {
        Sample { wall_s: 1.0, server_s, load_s, latencies: vec![2000; operations], ..Sample::default() }
    }

    fn failed(samples: &[Sample], failure: &str) -> Vec<Sample> {
        let failures = vec![failure.to_owned()];
        let mut samples = samples.to_vec();
        samples.push(Sample { failures, ..sample(1, 0.1, 0.1) });
        samples
    }

    #[test]
    fn ratios_are_of_the_medians() {
        let ours = [sample(100, 0.1, 0.5), sample(400, 0.4, 0.5), sample(300, 0.3, 0.5)];
        let theirs = [sample(100, 0.4, 0.1), sample(10, 0.04, 0.1), sample(900, 3.6, 0.1)];
        let both = Comparison::new(ROW, Class::File, 8, &ours, &theirs);
        // 300 by 100 a second; 1 ms of our server, 4 ms of theirs.
        assert_eq!(both.per_second_ratio, Some(3.0));
        assert!((both.server_cpu_ratio.unwrap() - 4.0).abs() < 1e-9);
        assert_eq!((both.aim, both.rounds, both.ours.operations), (Some(15), 3, 800));
        assert_eq!(Comparison::new(ROW, Class::Memory, 8, &ours, &theirs).aim, Some(3));
        let row = both.row();
        assert_eq!(
            row,
            "| cycle | wrap + unwrap | file | 8 | 300 | 100 | 3.00 | 15 × | 2.00 / 2.00 / 2.00 | 2.00 / 2.00 / 2.00 \
             | 1000 | 4000 | 4.00 | 1667 | 1000 |  |"
        );
    }

    #[test]
    fn a_row_tells_how_many_secrets_there_are_and_no_aim_that_nobody_has() {
        let rounds = [sample(100, 0.1, 0.5)];
        let both = Comparison::new(SECRETS[3], Class::File, 1, &rounds, &rounds).with_secrets(Some(1000));
        let row = both.row();
        assert!(
            row.starts_with("| kv list, 100 names | list by token | file, 1000 secrets | 1 | 100 | 100 |"),
            "{row}"
        );
        assert_eq!((row.contains("| – |"), row.matches('|').count()), (true, 17));
        let fewer = Comparison::new(SECRETS[3], Class::File, 1, &rounds, &rounds).with_secrets(Some(10));
        let more_clients = Comparison::new(SECRETS[3], Class::File, 8, &rounds, &rounds).with_secrets(Some(10));
        assert!(fewer.place() < both.place() && both.place() < more_clients.place());
    }

    #[test]
    fn a_row_with_a_failure_is_void_on_either_side() {
        let good = [sample(100, 0.1, 0.1), sample(100, 0.1, 0.1)];
        let bad = failed(&good, "503: a | b\nc");
        for (ours, theirs, name) in [(&good[..], &bad[..], "OpenBao"), (&bad, &good, "ours")] {
            let both = Comparison::new(ROW, Class::Memory, 1, ours, theirs);
            assert_eq!((both.per_second_ratio, both.server_cpu_ratio), (None, None));
            let row = both.row();
            assert!(row.ends_with(&format!("| void: {name} failed 1 times, first with: 503: a   b c |")), "{row}");
            assert_eq!(row.matches('|').count(), 17);
        }
        let none = Comparison::new(ROW, Class::Memory, 1, &good, &[sample(0, 0.1, 0.1)]);
        assert!(none.row().contains("void: OpenBao failed 1 times, first with: a round without an operation"));
    }

    #[test]
    fn a_load_that_is_busy_is_marked() {
        let (idle, busy) = ([sample(100, 0.1, 0.9)], [sample(100, 0.1, 0.97)]);
        assert_eq!(Comparison::new(ROW, Class::Memory, 1, &idle, &idle).note(), "");
        assert_eq!(Comparison::new(ROW, Class::Memory, 1, &busy, &idle).note(), "load 97 % busy at ours");
        let both = Comparison::new(ROW, Class::Memory, 1, &busy, &busy).note();
        assert_eq!(both, "load 97 % busy at ours; load 97 % busy at OpenBao");
    }

    #[test]
    fn tables_have_as_many_columns_as_heads_and_json_a_line_each() {
        let rounds = [sample(100, 0.0, 0.1)];
        let report = Report {
            heading: vec!["A machine.".to_owned()],
            comparisons: vec![Comparison::new(ROW, Class::Memory, 1, &rounds, &rounds)],
            figures: vec![Figure::new("binary", 30.0, 180.0, "MiB"), Figure::new("syncs", 0.0, 47.0, "")],
            missing: vec!["something".to_owned()],
        };
        let text = report.markdown();
        let tables: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(tables, [17, 17, 17, 5, 5, 5, 5]);
        assert!(text.contains("| binary | 30.0 MiB | 180.0 MiB | 6.00 |"), "{text}");
        assert!(text.contains("| syncs | 0.0 | 47.0 | – |") && text.ends_with("Not measured: something.\n"), "{text}");
        let json = report.json().unwrap();
        let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["per_second_ratio"], 1.0);
        // No CPU time that the kernel counted: nothing to divide.
        assert_eq!(lines[0]["server_cpu_ratio"], serde_json::Value::Null);
        assert_eq!((&lines[0]["work"], &lines[0]["call"]), (&"cycle".into(), &"cycle".into()));
        assert_eq!(lines[1]["ratio"], 6.0);
    }

    #[test]
    fn rows_with_the_same_operation_of_ours_stand_together() {
        let mut works: Vec<Work> = ROWS.iter().map(|row| row.work).collect();
        works.dedup();
        assert_eq!(works, [Work::Cycle, Work::KvPut, Work::KvGet, Work::Cold]);
    }
}
