//! The outcome of a demo: one JSON object, or a table.

use std::{fmt::Write as _, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Everything that a demo found out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Outcome {
    /// Whether the result is exact, every kill was survived, and nothing unreferenced is left in the store.
    pub(super) ok: bool,
    /// The inner backend.
    pub(super) inner: String,
    /// The seed, with which the kills can be repeated.
    pub(super) seed: u64,
    /// The store, as given.
    pub(super) store: String,
    /// The job's name in the store.
    pub(super) job: String,
    /// Number of files.
    pub(super) files: u64,
    /// Bytes of text counted.
    pub(super) input_bytes: u64,
    /// Whether the input was cut at the greatest length.
    pub(super) input_bounded: bool,
    /// Number of words.
    pub(super) records: u64,
    /// State changes, each applied exactly once in effect.
    pub(super) updates: u64,
    /// State changes per second, from the first start of the task to its end, recoveries included.
    pub(super) updates_per_second: f64,
    /// The time from the first start of the task to its end.
    pub(super) seconds: f64,
    /// Entries of state that were compared.
    pub(super) entries: u64,
    /// Entries that differ from the count in memory, are missing, or should not exist.
    pub(super) mismatches: u64,
    /// Kills that were survived.
    pub(super) kills: Kills,
    /// Checkpoints that completed.
    pub(super) checkpoints: Checkpoints,
    /// Number of materializations that completed.
    pub(super) materializations: u64,
    /// For each kill the time in milliseconds until the task applied batches again.
    pub(super) recoveries_ms: Vec<f64>,
    /// Objects that are left in the store.
    pub(super) objects: Objects,
}

/// Kills that were survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Kills {
    /// Number of kills of the daemon.
    pub(super) daemon: u32,
    /// Number of kills of the task.
    pub(super) task: u32,
}

/// Completed checkpoints. Durations are from the barrier to the reply, as the task measures them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(super) struct Checkpoints {
    /// Number of checkpoints.
    pub(super) count: u64,
    /// Median duration in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of durations in milliseconds.
    pub p99_ms: f64,
    /// Longest duration in milliseconds.
    pub(super) max_ms: f64,
    /// Bytes of changelog of all checkpoints.
    pub(super) bytes: u64,
    /// Checkpoints that did not complete while both processes lived.
    pub(super) failed: u64,
}

/// Objects of the job in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Objects {
    /// Objects that are referenced.
    pub(super) live: u64,
    /// Objects that are not referenced, and remain after the sweep.
    pub(super) unreferenced: u64,
    /// Objects that killed processes left behind and the sweep deleted.
    pub(super) swept: u64,
}

/// Collects the durations of checkpoints.
#[derive(Debug)]
pub(super) struct Durations {
    microseconds: Histogram<u64>,
    bytes: u64,
    failed: u64,
}

impl Durations {
    /// A collection without checkpoints.
    pub(super) fn new() -> Self {
        let microseconds = Histogram::new(3).expect("3 significant digits are possible");
        Self { microseconds, bytes: 0, failed: 0 }
    }

    /// Adds a completed checkpoint.
    pub(super) fn add(&mut self, duration_us: u64, bytes: u64) {
        self.microseconds.record(duration_us).expect("the histogram grows with its values");
        self.bytes += bytes;
    }

    /// Counts a checkpoint that did not complete.
    pub(super) fn add_failed(&mut self) {
        self.failed += 1;
    }

    /// The summary of all checkpoints so far.
    pub(super) fn summary(&self) -> Checkpoints {
        let at = |quantile| self.microseconds.value_at_quantile(quantile) as f64 / 1_000.0;
        Checkpoints {
            count: self.microseconds.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: self.microseconds.max() as f64 / 1_000.0,
            bytes: self.bytes,
            failed: self.failed,
        }
    }
}

impl Outcome {
    /// As one line of JSON.
    #[must_use]
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("an outcome has only strings and finite numbers") + "\n"
    }

    /// As a table for people.
    #[must_use]
    pub(super) fn table(&self) -> String {
        let mut rows: Vec<(&str, String)> = vec![
            ("inner backend", self.inner.clone()),
            ("seed", format!("{} (repeats the kills)", self.seed)),
            ("input", self.input()),
            ("records", grouped(self.records)),
            ("updates", format!("{} in {:.1} s", grouped(self.updates), self.seconds)),
            ("updates/s", format!("{}, recoveries included", grouped(self.updates_per_second.round() as u64))),
        ];
        let Checkpoints { count, p50_ms, p99_ms, max_ms, bytes, failed } = self.checkpoints;
        let failures = if failed == 0 { String::new() } else { format!(", {failed} did not complete") };
        rows.push(("checkpoints", format!("{count} with {} of changelog{failures}", bytes_of(bytes))));
        rows.push(("  duration", format!("p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms")));
        rows.push(("kills survived", format!("{} of the daemon, {} of the task", self.kills.daemon, self.kills.task)));
        let recoveries: Vec<_> = self.recoveries_ms.iter().map(|ms| format!("{ms:.0}")).collect();
        if !recoveries.is_empty() {
            rows.push((
                "recovered in",
                format!("{} ms (from the kill until the task applies again)", recoveries.join(", ")),
            ));
        }
        rows.push(("objects in store", self.objects()));
        rows.push(("result", self.result()));
        let widest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter().fold(String::new(), |mut table, (name, value)| {
            let _ = writeln!(table, "  {name:<widest$}  {value}");
            table
        })
    }

    fn input(&self) -> String {
        let bounded = if self.input_bounded { ", cut there (--max-bytes)" } else { "" };
        format!("{} files, {}{bounded}", grouped(self.files), bytes_of(self.input_bytes))
    }

    fn objects(&self) -> String {
        let Objects { live, unreferenced, swept } = self.objects;
        let referenced = match unreferenced {
            0 => "all referenced".to_owned(),
            left => format!("{left} more that nothing references"),
        };
        format!("{live}, {referenced}; {swept} left behind by the killed were swept")
    }

    fn result(&self) -> String {
        match self.mismatches {
            0 => format!("exact: all {} entries are as counted in memory", grouped(self.entries)),
            wrong => format!(
                "WRONG: {} of {} entries differ from the count in memory",
                grouped(wrong),
                grouped(self.entries)
            ),
        }
    }
}

/// With thousands separators.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// In a unit that fits the size.
fn bytes_of(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// In milliseconds, to the microsecond.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn durations_are_summed_up() {
        let mut durations = Durations::new();
        (1..=100).for_each(|ms| durations.add(ms * 1_000, 10));
        durations.add_failed();
        let Checkpoints { count, p50_ms, p99_ms, max_ms, bytes, failed } = durations.summary();
        assert_eq!((count, bytes, failed), (100, 1_000, 1));
        for (found, expected) in [(p50_ms, 50.0), (p99_ms, 99.0), (max_ms, 100.0)] {
            assert!((found - expected).abs() < 0.1, "{found}");
        }
    }
}
