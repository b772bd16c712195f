//! The registry of metrics and what all of them share. The metrics themselves live beside the code that they measure.
//!
//! Names: `dstl_<part>_<noun>_<unit>[_total]`, base units (bytes, seconds), labels only `job`, `operator`, `subtask` and
//! enumerations. Registering happens once, in constructors; the text is made by [`Metrics::encode`].

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    registry::{Metric, Registry},
};

use crate::types::BackendId;

/// All metrics of one daemon. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

/// Labels of what belongs to one job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabels {
    /// The job.
    pub job: String,
}

/// Labels of what belongs to one backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BackendLabels {
    /// The job.
    pub job: String,
    /// The operator.
    pub operator: String,
    /// The subtask.
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
        Self(Arc::new(Mutex::new(Registry::with_prefix("dstl"))))
    }

    /// Registers `metric` and returns it. `name` without the prefix and, for counters, without `_total`; `help` is one
    /// sentence without its full stop.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().register(name, help, metric.clone());
        metric
    }

    /// The Prometheus (OpenMetrics) text of all metrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.0.lock()).expect("writing to a string cannot fail");
        out
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
