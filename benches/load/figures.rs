//! The figures of one measurement, as text or as JSON: the same names for every scenario.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    Scenario,
    options::{Changelog, Inner, Options},
};

/// The figures of one measurement. A scenario leaves out those that it does not measure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) scenario: Scenario,
    /// Which measurement of the scenario, if it has several.
    pub(crate) case: Option<String>,
    version: &'static str,
    pub(crate) inner: Inner,
    pub(crate) changelog: Changelog,
    pub(crate) keys: u64,
    value_bytes: usize,
    batch: usize,
    pub(crate) operations: Option<u64>,
    /// The median of the windows.
    pub(crate) operations_per_second: Option<f64>,
    /// The rate of each window.
    pub(crate) windows: Vec<f64>,
    /// Of a batch, from its hand-over until it is applied; or of one operation, where one is in flight.
    pub(crate) latency_us: Option<Latency>,
    /// Of a checkpoint, from the barrier's hand-over until the answer.
    pub(crate) checkpoint_ms: Option<Distribution>,
    pub(crate) daemon_cpu_s_per_million: Option<f64>,
    pub(crate) client_cpu_s_per_million: Option<f64>,
    pub(crate) daemon_rss_bytes: Option<u64>,
    /// Objects that the daemon created in the store.
    pub(crate) objects_written: Option<u64>,
    /// Bytes of these objects.
    pub(crate) bytes_written: Option<u64>,
    /// Bytes of segments for each change that was logged.
    pub(crate) log_bytes_per_change: Option<f64>,
    /// Of files of 8 MiB where the store is, just before the scenario.
    pub(crate) fsynced_bandwidth_bytes_per_second: Option<f64>,
    /// The median of a bare tonic echo on a stream, just before the scenario.
    pub(crate) bare_echo_us: Option<f64>,
    /// These figures over those of the floor of the same run.
    #[serde(serialize_with = "as_map")]
    of_floor: Vec<(&'static str, Value)>,
    /// Figures that only this scenario has.
    #[serde(flatten, serialize_with = "as_map")]
    others: Vec<(&'static str, Value)>,
}

/// Where single latencies lie, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) p9999: f64,
    pub(crate) max: f64,
}

/// Where single measurements lie.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Distribution {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Figures {
    /// None so far, of `scenario` with these options.
    pub(crate) fn new(scenario: Scenario, options: &Options) -> Self {
        Self {
            scenario,
            case: None,
            version: env!("CARGO_PKG_VERSION"),
            inner: options.inner,
            changelog: options.changelog,
            keys: options.keys,
            value_bytes: options.value_bytes,
            batch: options.batch,
            operations: None,
            operations_per_second: None,
            windows: vec![],
            latency_us: None,
            checkpoint_ms: None,
            daemon_cpu_s_per_million: None,
            client_cpu_s_per_million: None,
            daemon_rss_bytes: None,
            objects_written: None,
            bytes_written: None,
            log_bytes_per_change: None,
            fsynced_bandwidth_bytes_per_second: None,
            bare_echo_us: None,
            of_floor: vec![],
            others: vec![],
        }
    }

    /// The same under the name of one of several cases.
    pub(crate) fn case(mut self, case: impl Into<String>) -> Self {
        self.case = Some(case.into());
        self
    }

    /// The same with one more figure, which only this scenario has.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a figure that only this scenario has.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.others.push((name, value.into()));
    }

    /// The figure of that name, of those that only this scenario has.
    pub(crate) fn other(&self, name: &str) -> Option<f64> {
        self.others.iter().find(|(of, _)| *of == name).and_then(|(_, value)| value.as_f64())
    }

    /// Takes the rates of windows, and their median.
    pub(crate) fn set_rates(&mut self, windows: Vec<f64>) {
        self.operations_per_second = (!windows.is_empty()).then(|| median(&windows));
        self.windows = windows;
    }

    /// Processor seconds of daemon and client for a million operations.
    pub(crate) fn cpu_s_per_million(&self) -> Option<f64> {
        Some(self.daemon_cpu_s_per_million? + self.client_cpu_s_per_million?)
    }

    /// Whether one operation was in flight at a time.
    fn is_of_one(&self) -> bool {
        self.operations_per_second.is_none() && self.latency_us.is_some()
    }

    /// Tells every figure as a part of that of the floor, which did the same: batches, or one operation at a time.
    pub(crate) fn compare(&mut self, floors: &[Self]) {
        let Some(floor) = floors.iter().find(|floor| floor.is_of_one() == self.is_of_one()) else { return };
        let ratios = self.comparable().into_iter().zip(floor.comparable());
        let ratios = ratios.filter_map(|((name, own), (_, of))| Some((name, Value::from(own? / of?))));
        self.of_floor = ratios.collect();
    }

    fn comparable(&self) -> [(&'static str, Option<f64>); 8] {
        let latency = self.latency_us.as_ref();
        [
            ("operations_per_second", self.operations_per_second),
            ("latency_us_p50", latency.map(|latency| latency.p50)),
            ("latency_us_p99", latency.map(|latency| latency.p99)),
            ("latency_us_p999", latency.map(|latency| latency.p999)),
            ("daemon_cpu_s_per_million", self.daemon_cpu_s_per_million),
            ("client_cpu_s_per_million", self.client_cpu_s_per_million),
            ("cpu_s_per_million", self.cpu_s_per_million()),
            ("daemon_rss_bytes", self.daemon_rss_bytes.map(|bytes| bytes as f64)),
        ]
    }
}

/// Named values as the fields of one object, in their order.
fn as_map<S: Serializer>(values: &[(&'static str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(name, value)| (name, value)))
}

impl Latency {
    /// Of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let (count, max) = (histogram.len(), histogram.max() as f64 / 1e3);
        Self { count, p50: at(0.5), p99: at(0.99), p999: at(0.999), p9999: at(0.9999), max }
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

/// The median; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let (middle, last) = (sorted.len() / 2, sorted.len().saturating_sub(1));
    f64::midpoint(at(middle), at(last - middle.min(last)))
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = format!("{:?}", self.inner).to_lowercase();
        let changelog = format!("{:?}", self.changelog).to_lowercase();
        let case = self.case.as_ref().map_or_else(String::new, |case| format!(" ({case})"));
        writeln!(f, "{}{case}: {inner}, changelog {changelog}, {} keys", self.scenario, self.keys)?;
        let mut lines = Lines { f, of_floor: &self.of_floor };
        lines.number("operations", self.operations.map(|count| count as f64))?;
        lines.number("operations_per_second", self.operations_per_second)?;
        if self.windows.len() > 1 {
            let (least, most) = self.windows.iter().fold((f64::MAX, 0.0_f64), |(a, b), it| (a.min(*it), b.max(*it)));
            lines.text("windows", format!("{} from {} to {}", self.windows.len(), short(least), short(most)))?;
        }
        if let Some(Latency { count, p50, p99, p999, p9999, max }) = self.latency_us {
            let text = format!("{count} p50 {p50:.0}, p99 {p99:.0}, p99.9 {p999:.0}, p99.99 {p9999:.0}, max {max:.0}");
            lines.text("latency_us", text)?;
        }
        if let Some(Distribution { count, p50, p99, max }) = self.checkpoint_ms.filter(|it| it.count > 0) {
            lines.text("checkpoint_ms", format!("{count} p50 {p50:.1}, p99 {p99:.1}, max {max:.1}"))?;
        }
        lines.number("daemon_cpu_s_per_million", self.daemon_cpu_s_per_million)?;
        lines.number("client_cpu_s_per_million", self.client_cpu_s_per_million)?;
        let counts = [
            ("daemon_rss_bytes", self.daemon_rss_bytes),
            ("objects_written", self.objects_written),
            ("bytes_written", self.bytes_written),
        ];
        for (name, count) in counts {
            lines.number(name, count.map(|count| count as f64))?;
        }
        lines.number("log_bytes_per_change", self.log_bytes_per_change)?;
        lines.number("fsynced_bandwidth_bytes_per_second", self.fsynced_bandwidth_bytes_per_second)?;
        lines.number("bare_echo_us", self.bare_echo_us)?;
        for (name, value) in &self.others {
            match value.as_f64() {
                Some(number) => lines.number(name, Some(number))?,
                None => lines.text(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned))?,
            }
        }
        let rest: Vec<_> = self.of_floor.iter().filter(|(name, _)| name.starts_with("latency")).collect();
        for (name, ratio) in rest {
            lines.text(name, format!("{:.2} of the floor", ratio.as_f64().unwrap_or_default()))?;
        }
        Ok(())
    }
}

/// Writes one figure a line.
struct Lines<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    of_floor: &'a [(&'static str, Value)],
}

impl Lines<'_, '_> {
    /// Writes a number, beside its part of the floor's; nothing if there is none.
    fn number(&mut self, name: &str, number: Option<f64>) -> fmt::Result {
        let Some(number) = number else { return Ok(()) };
        let ratio = self.of_floor.iter().find(|(of, _)| *of == name).and_then(|(_, ratio)| ratio.as_f64());
        let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.2} of the floor)"));
        self.text(name, format!("{}{ratio}", short(number)))
    }

    fn text(&mut self, name: &str, text: String) -> fmt::Result {
        writeln!(self.f, "  {name:<36} {text}")
    }
}

/// A number in few characters: `1234567.8` is `1.235 M`.
fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 1e9 => format!("{:.3} G", number / 1e9),
        size if size >= 1e6 => format!("{:.3} M", number / 1e6),
        size if size >= 1e4 => format!("{:.1} k", number / 1e3),
        size if size >= 100.0 || (number.fract() == 0.0) => format!("{number:.0}"),
        _ => format!("{number:.3}"),
    }
}
