//! The registry of metrics, and the labels that they share. The metrics themselves live beside the code that they
//! measure.
//!
//! Names: `dstl_<part>_<noun>_<unit>[_total]`, base units (bytes, seconds), labels only `job`, `operator`, `subtask`
//! and enumerations. Constructors register each metric once. [`Metrics::encode`] makes the text, and
//! [`Metrics::encode_plain`] the older text for scrapers that do not speak OpenMetrics.

use std::{collections::BTreeSet, fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text},
    metrics::{MetricType, gauge::ConstGauge},
    registry::{Metric, Registry},
};

/// The prefix of every name.
const PREFIX: &str = "dstl";

use crate::types::BackendId;

/// All metrics of one daemon. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    registry: Mutex<Registry>,
    samples: Mutex<Vec<String>>,
}

/// Labels of a metric of one job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabels {
    /// Name of the job.
    pub job: String,
}

/// Labels of a metric of one backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BackendLabels {
    /// Name of the job.
    pub job: String,
    /// Name of the operator within the job.
    pub operator: String,
    /// Number of the subtask, from 0.
    pub subtask: u32,
}

impl From<&BackendId> for BackendLabels {
    fn from(id: &BackendId) -> Self {
        Self { job: id.job.to_string(), operator: id.operator.to_string(), subtask: id.subtask }
    }
}

impl Metrics {
    /// An empty registry whose names begin with `dstl_`.
    #[must_use]
    pub fn new() -> Self {
        let registry = Mutex::new(Registry::with_prefix(PREFIX));
        Self(Arc::new(Shared { registry, samples: Mutex::default() }))
    }

    /// Registers `metric` and returns it. `name` without the prefix and, for counters, without `_total`; `help` is one
    /// sentence without its full stop.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let suffixes: &[&str] = match metric.metric_type() {
            MetricType::Counter => &["_total"],
            MetricType::Histogram => &["_bucket", "_count", "_sum"],
            MetricType::Gauge | MetricType::Info | MetricType::Unknown => &[""],
        };
        self.0.samples.lock().extend(suffixes.iter().map(|suffix| format!("{PREFIX}_{name}{suffix}")));
        self.0.registry.lock().register(name, help, metric.clone());
        metric
    }

    /// Registers a gauge whose value is `read` each time the text is made; `read` must not use these metrics itself.
    /// `name` and `help` are as for [`register`](Self::register).
    pub fn read(&self, name: &str, help: &str, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.0.samples.lock().push(format!("{PREFIX}_{name}"));
        let gauge = Reading { name: name.to_owned(), help: format!("{help}."), read: Box::new(read) };
        self.0.registry.lock().register_collector(Box::new(gauge));
    }

    /// The names of all samples that the text can ever contain, in the order of registration. A name that is listed
    /// twice was registered twice.
    #[must_use]
    pub fn sample_names(&self) -> Vec<String> {
        self.0.samples.lock().clone()
    }

    /// The OpenMetrics text of all metrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.0.registry.lock()).expect("writing to a string cannot fail");
        out
    }

    /// The same in Prometheus's older text format, version 0.0.4, for promtool and old scrapers. There a counter is
    /// described by the name of its samples, `_total` included, and there is no end mark.
    #[must_use]
    pub fn encode_plain(&self) -> String {
        let text = self.encode();
        let counter = |line| str::strip_prefix(line, "# TYPE ")?.strip_suffix(" counter");
        let counters: BTreeSet<&str> = text.lines().filter_map(counter).collect();
        let mut plain = String::with_capacity(text.len());
        for line in text.lines().filter(|line| *line != "# EOF") {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some(keyword), Some(name), Some(rest)) if counters.contains(name) => {
                    plain.push_str(&format!("# {keyword} {name}_total {rest}"));
                }
                _ => plain.push_str(line),
            }
            plain.push('\n');
        }
        plain
    }
}

/// A gauge that is read each time the text is made.
struct Reading {
    name: String,
    help: String,
    read: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = ConstGauge::new(i64::try_from((self.read)()).unwrap_or(i64::MAX));
        gauge.encode(encoder.encode_descriptor(&self.name, &self.help, None, MetricType::Gauge)?)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

    use super::*;

    #[test]
    fn the_plain_text_describes_counters_by_their_samples() {
        let metrics = Metrics::new();
        metrics.register("a_things", "Things, as in # HELP", Counter::<u64>::default()).inc();
        metrics.register("a_level", "A level", Gauge::<i64>::default()).set(7);
        let expected = "# HELP dstl_a_things_total Things, as in # HELP.\n# TYPE dstl_a_things_total counter\n\
                        dstl_a_things_total 1\n# HELP dstl_a_level A level.\n# TYPE dstl_a_level gauge\ndstl_a_level 7\n";
        assert_eq!(metrics.encode_plain(), expected);
    }

    #[test]
    fn names_are_known_before_there_is_a_value() {
        let metrics = Metrics::new();
        metrics.register("a_things", "Things", Family::<JobLabels, Counter>::default());
        metrics.register("a_size_bytes", "Sizes", Histogram::new([1.0]));
        metrics.register("a_level", "A level", Gauge::<i64>::default());
        let expected = ["a_things_total", "a_size_bytes_bucket", "a_size_bytes_count", "a_size_bytes_sum", "a_level"];
        assert_eq!(metrics.sample_names(), expected.map(|name| format!("dstl_{name}")));
    }
}
