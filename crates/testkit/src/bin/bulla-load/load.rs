//! The closed loop: so many clients, each doing one thing after the other, while what the kernel counts is read.

use crate::Fault;
use crate::proc;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// One round.
#[derive(Debug, Default, Clone)]
pub struct Sample {
    /// How long it took, in seconds.
    pub wall_s: f64,
    /// CPU time of the server in seconds.
    pub server_s: f64,
    /// CPU time of the load in seconds.
    pub load_s: f64,
    /// Store transactions, where they are known.
    pub transactions: u64,
    /// Bytes that the server had written to the disk.
    pub written: u64,
    /// How long each operation took, in microseconds.
    pub latencies: Vec<u32>,
    /// What went wrong. A client that failed does nothing more in its round.
    pub failures: Vec<String>,
}

impl Sample {
    /// Operations.
    pub fn operations(&self) -> f64 {
        f64::from(u32::try_from(self.latencies.len()).unwrap_or(u32::MAX))
    }

    /// The round, if nothing went wrong in it.
    pub fn whole(self, what: &str) -> Result<Self, Fault> {
        self.failures.first().map_or(Ok(()), |failure| Err(format!("{what}: {failure}")))?;
        Ok(self)
    }
}

/// Lets so many clients do `once` for so long against the server with this process id. A client ends early when it
/// says `false`: there is nothing to do.
pub async fn drive<Once, Doing>(pid: u32, clients: usize, length: Duration, once: Once) -> Result<Sample, Fault>
where
    Once: Fn(usize) -> Doing + Clone + Send + 'static,
    Doing: Future<Output = Result<bool, Fault>> + Send + 'static,
{
    let own = std::process::id();
    let (server, load, written) = (proc::cpu(pid)?, proc::cpu(own)?, proc::written(pid)?);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let once = once.clone();
        tasks.spawn(async move {
            let (mut latencies, mut failure) = (Vec::new(), None);
            while began.elapsed() < length {
                let start = Instant::now();
                match Box::pin(once(number)).await {
                    Ok(true) => latencies.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX)),
                    Ok(false) => break,
                    Err(error) => {
                        failure = Some(error.to_string());
                        break;
                    }
                }
            }
            (latencies, failure)
        });
    }
    let mut sample = Sample::default();
    while let Some(done) = tasks.join_next().await {
        let (latencies, failure) = done?;
        sample.latencies.extend(latencies);
        sample.failures.extend(failure);
    }
    sample.wall_s = began.elapsed().as_secs_f64();
    sample.server_s = proc::cpu(pid)?.saturating_sub(server).as_secs_f64();
    sample.load_s = proc::cpu(own)?.saturating_sub(load).as_secs_f64();
    sample.written = proc::written(pid)?.saturating_sub(written);
    Ok(sample)
}

/// The latencies below which 50, 95 and 99 of a hundred operations stay, in microseconds, all rounds together.
pub fn percentiles(samples: &[Sample]) -> [u32; 3] {
    let mut latencies: Vec<u32> = samples.iter().flat_map(|sample| sample.latencies.iter().copied()).collect();
    latencies.sort_unstable();
    [50, 95, 99].map(|percent| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default())
}

/// The median; of an even number the higher of the two in the middle.
pub fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(middle(vec![3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(middle(vec![]).to_string(), "0");
    }

    #[test]
    fn percentiles_are_of_all_rounds_together() {
        let round = |latencies: std::ops::Range<u32>| Sample { latencies: latencies.collect(), ..Sample::default() };
        assert_eq!(percentiles(&[round(50..100), round(0..50)]), [50, 95, 99]);
        assert_eq!(percentiles(&[]), [0, 0, 0]);
    }

    #[tokio::test]
    async fn a_client_that_fails_stops_and_is_counted() {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        let once = move |number: usize| {
            let call = count.fetch_add(1, Ordering::Relaxed);
            async move {
                match number {
                    0 => Err(format!("call {call}").into()),
                    1 => Ok(false),
                    _ => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        Ok(true)
                    }
                }
            }
        };
        let sample = drive(std::process::id(), 3, Duration::from_millis(50), once).await.unwrap();
        assert_eq!(sample.failures.len(), 1);
        assert!(!sample.latencies.is_empty() && sample.latencies.len() == calls.load(Ordering::Relaxed) - 2);
        assert!(sample.wall_s >= 0.05 && sample.latencies.iter().all(|us| *us >= 1000));
    }
}
