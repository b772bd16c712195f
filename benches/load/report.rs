//! Results of measurements, as text or as JSON.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    Changelog, Inner, Options, Scenario, export::Exported, restore::Restored, saturate::Saturated, scale::Scaled,
};

/// The whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(skip)]
    json: bool,
    version: &'static str,
    keys: u64,
    value_bytes: usize,
    batch: usize,
    checkpoint_ms: u64,
    inner: Inner,
    changelog: Changelog,
    #[serde(skip)]
    floor: Option<f64>,
    saturated: Vec<Saturated>,
    restored: Vec<Restored>,
    scaled: Vec<Scaled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latencies>,
    #[serde(skip_serializing_if = "Option::is_none")]
    export: Option<Exported>,
}

/// Rates of windows.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) windows: Vec<f64>,
}

/// Where single measurements lie.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Distribution {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Latencies of all kinds of operations.
#[derive(Debug, Serialize)]
pub(crate) struct Latencies {
    pub(crate) kinds: Vec<Latency>,
}

/// Latency of one kind of operation, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    kind: &'static str,
    operations: u64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// Median over the median of the bare echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_echo: Option<f64>,
}

impl Spread {
    /// Of one rate per window.
    pub(crate) fn of(windows: Vec<f64>) -> Self {
        let mut sorted = windows.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let (middle, last) = (sorted.len() / 2, sorted.len().saturating_sub(1));
        let median = f64::midpoint(at(middle), at(last - middle.min(last)));
        Self { median, min: at(0), max: at(last), windows }
    }
}

impl Distribution {
    /// Of `values`, by nearest rank.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            values.get(rank - 1).copied().unwrap_or_default()
        };
        Self { count: values.len(), p50: at(50), p99: at(99), max: at(100) }
    }
}

impl Latency {
    /// Of nanoseconds.
    pub(crate) fn of(kind: &'static str, histogram: &Histogram<u64>, to_echo: Option<f64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self { kind, operations: histogram.len(), p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), to_echo }
    }
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            json: options.json,
            version: env!("CARGO_PKG_VERSION"),
            keys: options.keys,
            value_bytes: options.value_bytes,
            batch: options.batch,
            checkpoint_ms: options.checkpoint_ms,
            inner: options.inner,
            changelog: options.changelog,
            floor: None,
            saturated: vec![],
            restored: vec![],
            scaled: vec![],
            latency: None,
            export: None,
        }
    }

    /// Beside the floor, if that was measured before.
    pub(crate) fn saturated(&mut self, scenario: Scenario, mut measured: Saturated) {
        let median = measured.operations_per_second.median;
        if scenario == Scenario::Floor {
            self.floor = Some(median);
        } else {
            measured.to_floor = self.floor.map(|floor| median / floor);
        }
        self.say(&measured);
        self.saturated.push(measured);
    }

    pub(crate) fn restore(&mut self, restored: Vec<Restored>) {
        restored.iter().for_each(|restored| self.say(restored));
        self.restored.extend(restored);
    }

    pub(crate) fn scale(&mut self, scaled: Scaled) {
        self.say(&scaled);
        self.scaled.push(scaled);
    }

    fn say(&self, measured: &impl std::fmt::Display) {
        if !self.json {
            println!("{measured}");
        }
    }

    pub(crate) fn latency(&mut self, latencies: Latencies) {
        if !self.json {
            println!("latency, one operation in flight, in microseconds");
            println!("  {:<16} {:>8} {:>8} {:>8}  to echo", "", "p50", "p99", "p99.9");
            for latency in &latencies.kinds {
                let Latency { kind, p50_us, p99_us, p999_us, to_echo, .. } = latency;
                let ratio = to_echo.map_or_else(String::new, |ratio| format!("{ratio:.2} x"));
                println!("  {kind:<16} {p50_us:>8.1} {p99_us:>8.1} {p999_us:>8.1}  {ratio}");
            }
        }
        self.latency = Some(latencies);
    }

    pub(crate) fn export(&mut self, exported: Exported) {
        if !self.json {
            println!("export, time until a batch is applied, in microseconds");
            println!("  {:<24} {:>8} {:>8} {:>8}", "", "p50", "p99", "p99.9");
            for latency in [&exported.without, &exported.with] {
                let Latency { kind, p50_us, p99_us, p999_us, .. } = latency;
                println!("  {kind:<24} {p50_us:>8.1} {p99_us:>8.1} {p999_us:>8.1}");
            }
            let Exported { p99_ratio, savepoints, rows, bytes, seconds, .. } = &exported;
            let mib = bytes >> 20;
            println!("  p99 {p99_ratio:.2} x; {savepoints} savepoints of {rows} rows, {mib} MiB, {seconds:.1} s each");
        }
        self.export = Some(exported);
    }

    /// Prints the results that were not printed yet.
    pub(crate) fn print(&self) {
        if self.json {
            println!("{}", serde_json::json!(self));
        }
    }
}
