//! Metrics of sweeps by schedule, per job.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use super::Tally;
use crate::{
    metrics::{JobLabels, Metrics},
    types::Name,
};

/// The outcome of one turn of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum Outcome {
    completed,
    failed,
    skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SweepLabels {
    job: String,
    outcome: Outcome,
}

/// The metric families of all jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GcMetrics {
    sweeps: Family<SweepLabels, Counter>,
    failures: Family<JobLabels, Gauge>,
    deleted_objects: Family<JobLabels, Counter>,
    deleted_bytes: Family<JobLabels, Counter>,
    duration: Histogram,
}

fn labels(job: &Name) -> JobLabels {
    JobLabels { job: job.to_string() }
}

impl GcMetrics {
    /// Registers the families; call it once per registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Family::<JobLabels, Counter>::default());
        Self {
            sweeps: metrics.register(
                "gc_sweeps",
                "Turns of a job to be swept: completed, failed, or skipped because another daemon just swept it",
                Family::default(),
            ),
            failures: metrics.register(
                "gc_consecutive_failures",
                "Sweeps of a job that failed since the last one that did not",
                Family::default(),
            ),
            deleted_objects: counter("gc_deleted_objects", "Objects that sweeps deleted"),
            deleted_bytes: counter("gc_deleted_bytes", "Bytes of the objects that sweeps deleted"),
            duration: metrics.register(
                "gc_sweep_duration_seconds",
                "Duration of sweeps that completed or failed",
                // From 10 ms to 5 min in powers of two; the last bucket has everything slower.
                Histogram::new(exponential_buckets(0.01, 2.0, 16)),
            ),
        }
    }

    pub(super) fn completed(&self, job: &Name, duration: Duration, deleted: Tally) {
        self.count(job, Outcome::completed);
        self.duration.observe(duration.as_secs_f64());
        self.deleted_objects.get_or_create(&labels(job)).inc_by(deleted.objects);
        self.deleted_bytes.get_or_create(&labels(job)).inc_by(deleted.bytes);
        self.failures.get_or_create(&labels(job)).set(0);
    }

    pub(super) fn failed(&self, job: &Name, duration: Duration) {
        self.count(job, Outcome::failed);
        self.duration.observe(duration.as_secs_f64());
        self.failures.get_or_create(&labels(job)).inc();
    }

    /// Records that another daemon sweeps the job, or just did, so that earlier failures here no longer count.
    pub(super) fn skipped(&self, job: &Name) {
        self.count(job, Outcome::skipped);
        self.failures.get_or_create(&labels(job)).set(0);
    }

    /// Removes the series of a job that is no longer swept.
    pub(super) fn forgotten(&self, job: &Name) {
        for family in [&self.deleted_objects, &self.deleted_bytes] {
            family.remove(&labels(job));
        }
        self.failures.remove(&labels(job));
        for outcome in [Outcome::completed, Outcome::failed, Outcome::skipped] {
            self.sweeps.remove(&SweepLabels { job: job.to_string(), outcome });
        }
    }

    fn count(&self, job: &Name, outcome: Outcome) {
        self.sweeps.get_or_create(&SweepLabels { job: job.to_string(), outcome }).inc();
    }
}
