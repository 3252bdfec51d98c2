//! What was measured of the plugin, as JSON lines and as Markdown.

use super::calls::{Call, Round, Start};
use super::coldstart::Cold;
use crate::load::{Sample, middle, percentiles};
use serde::Serialize;
use std::fmt::Write as _;

/// Above this part of its time a load measures itself more than the plugin.
const LOAD_BUSY_MAX: f64 = 0.9;

/// A call by so many callers on a plugin with these members.
#[derive(Debug, Serialize)]
pub struct Row {
    call: Call,
    members: String,
    callers: usize,
    rounds: usize,
    operations: u64,
    /// Medians of the rounds.
    per_second: f64,
    plugin_us: f64,
    backends_us: f64,
    member_calls: f64,
    load_us: f64,
    server_busy: f64,
    load_busy: f64,
    /// Of all rounds together.
    p50_us: u32,
    p95_us: u32,
    p99_us: u32,
    /// What went wrong, if anything did.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl Row {
    /// Of some rounds of the same.
    pub fn new(call: Call, members: &str, callers: usize, rounds: &[Round]) -> Self {
        let each = |of: &dyn Fn(&Round) -> f64| middle(rounds.iter().map(of).collect());
        let samples: Vec<Sample> = rounds.iter().map(|round| round.sample.clone()).collect();
        let [p50_us, p95_us, p99_us] = percentiles(&samples);
        // A round without an operation has a failure, or says so as one: its numbers are not used.
        let one = |round: &Round| round.sample.operations().max(1.0);
        let empty = samples.iter().any(|sample| sample.latencies.is_empty());
        let failure = samples.iter().flat_map(|sample| &sample.failures).next().cloned();
        Self {
            call,
            members: members.to_owned(),
            callers,
            rounds: rounds.len(),
            operations: samples.iter().map(|sample| sample.latencies.len() as u64).sum(),
            per_second: each(&|round| round.sample.operations() / round.sample.wall_s),
            plugin_us: each(&|round| round.sample.server_s * 1e6 / one(round)),
            backends_us: each(&|round| round.backends_s * 1e6 / one(round)),
            member_calls: each(&|round| round.member_calls as f64 / one(round)),
            load_us: each(&|round| round.sample.load_s * 1e6 / one(round)),
            server_busy: each(&|round| (round.sample.server_s + round.backends_s) / round.sample.wall_s),
            load_busy: each(&|round| round.sample.load_s / round.sample.wall_s),
            p50_us,
            p95_us,
            p99_us,
            failure: failure.or_else(|| empty.then(|| "a round without an operation".to_owned())),
        }
    }

    /// Its row of the table.
    pub fn line(&self) -> String {
        let head = format!("| {} | {} | {} |", self.call.name(), self.members, self.callers);
        if let Some(failure) = &self.failure {
            return format!("{head} – | – | – | – | – | – | – | void: {} |", failure.replace('|', "/"));
        }
        let ms = |us: u32| format!("{:.2}", f64::from(us) / 1000.0);
        let busy = if self.load_busy > LOAD_BUSY_MAX { "the load is busy" } else { "" };
        format!(
            "{head} {:.0} | {} / {} / {} | {:.0} | {:.0} | {:.2} | {:.0} % | {:.0} % | {busy} |",
            self.per_second,
            ms(self.p50_us),
            ms(self.p95_us),
            ms(self.p99_us),
            self.plugin_us,
            self.backends_us,
            self.member_calls,
            self.server_busy * 100.0,
            self.load_busy * 100.0,
        )
    }
}

/// Starts and memory of a plugin: medians.
#[derive(Debug, Serialize)]
pub struct Standing {
    members: String,
    starts: usize,
    status_ms: f64,
    decrypt_ms: f64,
    encrypt_ms: f64,
    idle_mib: f64,
    /// After all rounds, where there were any.
    loaded_mib: Option<f64>,
}

impl Standing {
    /// Of some starts.
    pub fn new(members: &str, starts: &[Start], idle_mib: f64, loaded_mib: Option<f64>) -> Self {
        let each = |of: &dyn Fn(&Start) -> f64| middle(starts.iter().map(of).collect());
        Self {
            members: members.to_owned(),
            starts: starts.len(),
            status_ms: each(&|start| start.status_ms),
            decrypt_ms: each(&|start| start.decrypt_ms),
            encrypt_ms: each(&|start| start.encrypt_ms),
            idle_mib,
            loaded_mib,
        }
    }

    fn line(&self) -> String {
        format!(
            "| {} | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
            self.members,
            self.status_ms,
            self.decrypt_ms,
            self.encrypt_ms,
            self.idle_mib,
            self.loaded_mib.map_or_else(|| "–".to_owned(), |mib| format!("{mib:.1}")),
        )
    }
}

/// All measurements of a run.
#[derive(Default)]
pub struct Report {
    /// The machine, the date, who was measured.
    pub heading: Vec<String>,
    /// Calls.
    pub rows: Vec<Row>,
    /// Starts and memory.
    pub standings: Vec<Standing>,
    /// Starts of kube-apiserver.
    pub colds: Vec<Cold>,
    /// What was not measured, and why.
    pub missing: Vec<String>,
}

impl Report {
    /// The calls of one kind together, and in them each plugin's, in the order in which plugins were measured.
    pub fn sort(&mut self) {
        let order: Vec<String> = self.standings.iter().map(|standing| standing.members.clone()).collect();
        let place = |members: &str| order.iter().position(|name| name == members);
        self.rows.sort_by_key(|row| (row.call, place(&row.members), row.callers));
    }

    /// One JSON object a line.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        let mut lines = Vec::new();
        for row in &self.rows {
            lines.push(serde_json::to_string(row)?);
        }
        for standing in &self.standings {
            lines.push(serde_json::to_string(standing)?);
        }
        for cold in &self.colds {
            lines.push(serde_json::to_string(cold)?);
        }
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }

    /// Tables for people.
    pub fn markdown(&self) -> String {
        let mut text = self.heading.iter().map(|line| format!("{line}\n")).collect::<String>();
        if !self.rows.is_empty() {
            text.push_str(
                "\n### Calls over the socket\n\n\
                 | call | members | callers | a second | p50 / p95 / p99 ms | plugin CPU µs | backends CPU µs | member calls | \
                 server core busy | load core busy | |\n\
                 | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --- |\n",
            );
            self.rows.iter().for_each(|row| text.push_str(&format!("{}\n", row.line())));
        }
        text.push_str(
            "\n### Starts and memory of the plugin\n\n\
             | members | exec to a good Status, ms | first Decrypt then, ms | first Encrypt then, ms | memory idle, MiB | \
             after load, MiB |\n\
             | --- | --: | --: | --: | --: | --: |\n",
        );
        self.standings.iter().for_each(|standing| text.push_str(&format!("{}\n", standing.line())));
        if !self.colds.is_empty() {
            text.push_str(
                "\n### Starts of kube-apiserver\n\n\
                 | Secrets | seeds | in etcd, MiB | written in, s | Decrypt, as kube-apiserver / the plugin counts | \
                 ready, s | over no Secret, s | first list, s |\n\
                 | --: | --: | --: | --: | --: | --: | --: | --: |\n",
            );
            self.colds.iter().for_each(|cold| text.push_str(&format!("{}\n", line(cold))));
        }
        for missing in &self.missing {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\nNot measured: {missing}.");
        }
        text
    }
}

/// A start of kube-apiserver as a row: medians, and every count.
fn line(cold: &Cold) -> String {
    let counts = |counts: &[u64]| match counts {
        [] => "–".to_owned(),
        counts => counts.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    };
    format!(
        "| {} | {} | {:.1} | {:.0} | {} / {} | {:.1} | {:.1} | {:.1} |",
        cold.secrets,
        cold.seeds,
        cold.stored_mib,
        cold.written_s,
        counts(&cold.decrypts_asked),
        counts(&cold.decrypts_answered),
        middle(cold.ready_s.clone()),
        cold.empty_ready_s,
        middle(cold.listed_s.clone()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(latencies: &[u32], failures: &[&str]) -> Round {
        let failures = failures.iter().map(|failure| (*failure).to_owned()).collect();
        let (latencies, wall_s, server_s, load_s) = (latencies.to_vec(), 1.0, 0.1, 0.2);
        let sample = Sample { latencies, wall_s, server_s, load_s, failures, ..Sample::default() };
        Round { sample, backends_s: 0.3, member_calls: 4 }
    }

    #[test]
    fn a_row_holds_what_each_process_took() {
        let row = Row::new(Call::Encrypt, "bulla", 8, &[round(&[1000, 3000], &[]), round(&[2000, 2000], &[])]);
        let expected = "| Encrypt | bulla | 8 | 2 | 2.00 / 3.00 / 3.00 | 50000 | 150000 | 2.00 | 40 % | 20 % |  |";
        assert_eq!(row.line(), expected);
    }

    #[test]
    fn a_failure_makes_a_row_void_and_is_told() {
        let failed = Row::new(Call::Decrypt, "vault", 1, &[round(&[5], &[]), round(&[5], &["a | b"])]);
        assert_eq!(failed.line(), "| Decrypt | vault | 1 | – | – | – | – | – | – | – | void: a / b |");
        assert!(Row::new(Call::Status, "age", 1, &[round(&[], &[])]).line().contains("void: a round without"));
    }

    #[test]
    fn tables_are_in_order_and_say_what_is_missing() {
        let start = Start { status_ms: 30.0, decrypt_ms: 1.0, encrypt_ms: 2.0 };
        let standing = |name: &str| Standing::new(name, &[start], 20.0, None);
        let row = |call, name: &str| Row::new(call, name, 1, &[round(&[5], &[])]);
        let cold = Cold {
            plugin: "bulla".into(),
            secrets: 10_000,
            seeds: 3,
            written_s: 20.4,
            stored_mib: 7.0,
            empty_ready_s: 2.8,
            ready_s: vec![3.0, 2.0, 4.0],
            decrypts_asked: vec![3, 3, 3],
            decrypts_answered: vec![3, 3, 3],
            listed_s: vec![0.3],
        };
        let mut report = Report {
            heading: vec!["now".into()],
            rows: vec![row(Call::Decrypt, "bulla"), row(Call::Status, "age"), row(Call::Status, "bulla")],
            standings: vec![standing("bulla"), standing("age")],
            colds: vec![cold],
            missing: vec!["a TPM".into()],
        };
        report.sort();
        let text = report.markdown();
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with("| Status") || line.starts_with("| Dec")).collect();
        let begins = ["| Status | bulla |", "| Status | age |", "| Decrypt | bulla |"];
        assert!(lines.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)) && lines.len() == 3, "{text}");
        assert!(text.contains("| bulla | 30 | 1.0 | 2.0 | 20.0 | – |"), "{text}");
        assert!(text.contains("| 10000 | 3 | 7.0 | 20 | 3, 3, 3 / 3, 3, 3 | 3.0 | 2.8 | 0.3 |"), "{text}");
        assert!(text.starts_with("now\n") && text.ends_with("\nNot measured: a TPM.\n"), "{text}");
        assert_eq!(report.json().unwrap().lines().count(), 6);
    }
}
