//! Metrics of the requests to the store: their number and outcome, their duration, and the bytes moved.
//!
//! Every request is counted once, when it ends. This includes retried requests, and the reads after a create that found
//! an object in its way. A request that its caller drops is not counted, nor is one that was never sent.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

use super::{AttemptError, Operation, error::is_throttled};
use crate::metrics::Metrics;

/// Upper bounds of the duration histogram, in seconds.
const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The store did as asked.
    Ok,
    /// There is no such object.
    NotFound,
    /// There is already such an object.
    Exists,
    /// The store did not answer in time.
    Timeout,
    /// The store answered that it receives too many requests.
    Throttled,
    /// The request failed in any other way.
    Error,
}

impl Outcome {
    /// All outcomes, in the order of the variants.
    const ALL: [Self; 6] = [Self::Ok, Self::NotFound, Self::Exists, Self::Timeout, Self::Throttled, Self::Error];

    /// The value of the label `outcome`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Exists => "exists",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Error => "error",
        }
    }
}

impl From<&AttemptError> for Outcome {
    fn from(error: &AttemptError) -> Self {
        match error {
            AttemptError::Store(object_store::Error::NotFound { .. }) => Self::NotFound,
            AttemptError::Store(object_store::Error::AlreadyExists { .. }) => Self::Exists,
            AttemptError::Timeout { .. } => Self::Timeout,
            AttemptError::Store(error) if is_throttled(error) => Self::Throttled,
            _ => Self::Error,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

/// The metrics of one store. Cheap to clone; clones share their values.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<OperationLabels, Histogram, fn() -> Histogram>,
    written: Counter,
    read: Counter,
    retries: Family<OperationLabels, Counter>,
}

impl StoreMetrics {
    /// Registers the metrics of a store; may be called once per registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.register(
                "object_requests",
                "Requests to the object store that ended, by operation and outcome",
                Family::default(),
            ),
            durations: metrics.register(
                "object_request_duration_seconds",
                "Duration of requests to the object store, whatever their outcome",
                Family::new_with_constructor((|| Histogram::new(DURATION_BUCKETS)) as fn() -> Histogram),
            ),
            written: metrics.register(
                "object_written_bytes",
                "Bytes of the objects that the store accepted",
                Counter::default(),
            ),
            read: metrics.register("object_read_bytes", "Bytes read from the object store", Counter::default()),
            retries: metrics.register("object_retries", "Attempts at an operation beyond its first", Family::default()),
        }
    }

    /// Number of requests of `operation` that have ended, whatever their outcome.
    #[must_use]
    pub fn requests(&self, operation: Operation) -> u64 {
        let labels = |outcome: Outcome| RequestLabels { operation: operation.as_str(), outcome: outcome.as_str() };
        Outcome::ALL.iter().filter_map(|outcome| self.requests.get(&labels(*outcome)).map(|count| count.get())).sum()
    }

    /// Records that one request ended with `outcome` after `duration`.
    pub fn requested(&self, operation: Operation, outcome: Outcome, duration: Duration) {
        let operation = operation.as_str();
        self.requests.get_or_create(&RequestLabels { operation, outcome: outcome.as_str() }).inc();
        self.durations.get_or_create(&OperationLabels { operation }).observe(duration.as_secs_f64());
    }

    /// Records that the store accepted an object of `bytes` bytes.
    pub fn wrote(&self, bytes: u64) {
        self.written.inc_by(bytes);
    }

    /// Records that the store returned `bytes` bytes.
    pub fn read(&self, bytes: u64) {
        self.read.inc_by(bytes);
    }

    /// Records that another attempt at `operation` is about to be made.
    pub fn retried(&self, operation: Operation) {
        self.retries.get_or_create(&OperationLabels { operation: operation.as_str() }).inc();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crate::{
        clock::Clock,
        metrics::Metrics,
        object::{
            Created, MemoryStore, Path, Retry, RetryOptions, Store,
            faulty::{FaultPlan, FaultyStore},
        },
        random::Random,
        tasks::Tasks,
    };

    #[tokio::test(start_paused = true)]
    async fn requests_bytes_retries_and_durations_are_exact() {
        let memory = Arc::new(MemoryStore::new(Clock::new(|| 0)));
        let faulty = FaultyStore::new(memory, Random::seeded(1), Tasks::default());
        let faults = faulty.faults();
        let metrics = Metrics::new();
        let options = RetryOptions::default();
        let store = Store::new(Arc::new(faulty), Path::default(), options, &metrics, Random::seeded(2));
        let (a, b) = (Path::from("a"), Path::from("b"));
        let latency = Duration::from_millis(250)..Duration::from_millis(250);
        let calm = FaultPlan { latency, ..FaultPlan::none() };

        faults.set_plan(calm.clone());
        assert_eq!(store.create(&a, "12345".into(), Retry::none()).await.unwrap(), Created::New);
        assert_eq!(store.create(&a, "12345".into(), Retry::none()).await.unwrap(), Created::Identical);
        assert_eq!(store.create(&a, "1".into(), Retry::none()).await.unwrap(), Created::Conflict);
        store.get_range(&a, 1..3, Retry::none()).await.unwrap();
        store.get_optional(&b, Retry::none()).await.unwrap();
        store.list(&Path::default(), Retry::none()).await.unwrap();
        faults.set_plan(FaultPlan { error_before: 1.0, ..calm.clone() });
        store.head(&a, Retry::forever().at_most(3)).await.unwrap_err();
        faults.set_plan(FaultPlan { hang: 1.0, ..calm.clone() });
        store.get(&a, Retry::none()).await.unwrap_err();
        faults.set_plan(calm);
        store.delete(&a, Retry::none()).await.unwrap();

        let text = metrics.encode();
        for line in [
            r#"dstl_object_requests_total{operation="create",outcome="ok"} 1"#,
            r#"dstl_object_requests_total{operation="create",outcome="exists"} 2"#,
            r#"dstl_object_requests_total{operation="head",outcome="ok"} 2"#,
            r#"dstl_object_requests_total{operation="head",outcome="error"} 3"#,
            r#"dstl_object_requests_total{operation="get",outcome="ok"} 1"#,
            r#"dstl_object_requests_total{operation="get",outcome="not_found"} 1"#,
            r#"dstl_object_requests_total{operation="get",outcome="timeout"} 1"#,
            r#"dstl_object_requests_total{operation="get_range",outcome="ok"} 1"#,
            r#"dstl_object_requests_total{operation="list",outcome="ok"} 1"#,
            r#"dstl_object_requests_total{operation="delete",outcome="ok"} 1"#,
            r#"dstl_object_retries_total{operation="head"} 2"#,
            "dstl_object_written_bytes_total 5",
            "dstl_object_read_bytes_total 7",
            r#"dstl_object_request_duration_seconds_count{operation="create"} 3"#,
            r#"dstl_object_request_duration_seconds_bucket{le="0.1",operation="create"} 0"#,
            r#"dstl_object_request_duration_seconds_bucket{le="0.5",operation="create"} 3"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("dstl_object_requests_total{").count(), 10, "{text}");
        assert_eq!(text.matches("dstl_object_retries_total{").count(), 1, "{text}");
    }
}
