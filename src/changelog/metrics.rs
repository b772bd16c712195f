//! Metrics of uploads, per job.
//!
//! One upload is one segment, from its encoding to its outcome; single requests to the store are measured by the object
//! layer.

use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

use crate::{
    metrics::{JobLabels, Metrics},
    types::Name,
};

/// The metric families of all jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct UploadMetrics {
    uploads: Family<JobLabels, Counter>,
    failures: Family<JobLabels, Counter>,
    conflicts: Family<JobLabels, Counter>,
    uploaded: Family<JobLabels, Counter>,
    stored: Family<JobLabels, Counter>,
    attempts: Histograms,
    duration: Histograms,
    size: Histograms,
    change_sets: Histograms,
    waiting_sets: Family<JobLabels, Gauge>,
    waiting_bytes: Family<JobLabels, Gauge>,
    in_flight: Family<JobLabels, Gauge>,
}

/// The metrics of one job's uploads.
#[derive(Debug, Clone)]
pub struct JobUploadMetrics {
    /// Segments whose upload began (Flink: upload requests).
    pub uploads: Counter,
    /// Uploads that failed for good.
    pub failures: Counter,
    /// Uploads that found another object under their name, and were repeated under a new one.
    pub conflicts: Counter,
    /// Bytes of the uploaded change sets before compression.
    pub uploaded: Counter,
    /// Bytes of the uploaded segments as stored.
    pub stored: Counter,
    /// Attempts against the store per successful upload.
    pub attempts: Histogram,
    /// Seconds per successful upload, encoding and retries included.
    pub duration: Histogram,
    /// Bytes per uploaded segment.
    pub size: Histogram,
    /// Change sets per uploaded segment (Flink: batch size).
    pub change_sets: Histogram,
    /// Change sets that wait for their upload to begin (Flink: queue size).
    pub waiting_sets: Gauge,
    /// Bytes of those, uncompressed.
    pub waiting_bytes: Gauge,
    /// Uploads that have begun and not ended.
    pub in_flight: Gauge,
}

type Histograms = Family<JobLabels, Histogram, fn() -> Histogram>;

impl UploadMetrics {
    /// Registers the families; call it once per registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Family::<JobLabels, Counter>::default());
        let gauge = |name, help| metrics.register(name, help, Family::<JobLabels, Gauge>::default());
        let histogram =
            |name, help, new: fn() -> Histogram| metrics.register(name, help, Histograms::new_with_constructor(new));
        Self {
            uploads: counter("changelog_uploads", "Segments whose upload began"),
            failures: counter("changelog_upload_failures", "Segments whose upload failed for good"),
            conflicts: counter("changelog_upload_conflicts", "Segments that found their name taken and took another"),
            uploaded: counter("changelog_uploaded_bytes", "Bytes of uploaded change sets before compression"),
            stored: counter("changelog_stored_bytes", "Bytes of uploaded segments"),
            attempts: histogram(
                "changelog_upload_attempts",
                "Attempts against the object store per uploaded segment",
                || Histogram::new(exponential_buckets(1.0, 2.0, 8)),
            ),
            duration: histogram(
                "changelog_upload_duration_seconds",
                "Time from the encoding of a segment until it is durable, retries included",
                || Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            ),
            size: histogram("changelog_segment_size_bytes", "Bytes per uploaded segment", || {
                Histogram::new(exponential_buckets(1024.0, 4.0, 10))
            }),
            change_sets: histogram("changelog_segment_change_sets", "Change sets per uploaded segment", || {
                Histogram::new(exponential_buckets(1.0, 2.0, 10))
            }),
            waiting_sets: gauge("changelog_waiting_change_sets", "Change sets that wait for their upload to begin"),
            waiting_bytes: gauge("changelog_waiting_bytes", "Bytes of change sets that wait for their upload to begin"),
            in_flight: gauge("changelog_uploads_in_flight", "Segments that are being uploaded"),
        }
    }

    /// Removes the series of `job`.
    pub fn forget(&self, job: &Name) {
        let labels = JobLabels { job: job.to_string() };
        for counters in [&self.uploads, &self.failures, &self.conflicts, &self.uploaded, &self.stored] {
            counters.remove(&labels);
        }
        for histograms in [&self.attempts, &self.duration, &self.size, &self.change_sets] {
            histograms.remove(&labels);
        }
        for gauges in [&self.waiting_sets, &self.waiting_bytes, &self.in_flight] {
            gauges.remove(&labels);
        }
    }

    /// The metrics of `job`.
    #[must_use]
    pub fn of_job(&self, job: &Name) -> JobUploadMetrics {
        let labels = JobLabels { job: job.to_string() };
        JobUploadMetrics {
            uploads: self.uploads.get_or_create_owned(&labels),
            failures: self.failures.get_or_create_owned(&labels),
            conflicts: self.conflicts.get_or_create_owned(&labels),
            uploaded: self.uploaded.get_or_create_owned(&labels),
            stored: self.stored.get_or_create_owned(&labels),
            attempts: self.attempts.get_or_create_owned(&labels),
            duration: self.duration.get_or_create_owned(&labels),
            size: self.size.get_or_create_owned(&labels),
            change_sets: self.change_sets.get_or_create_owned(&labels),
            waiting_sets: self.waiting_sets.get_or_create_owned(&labels),
            waiting_bytes: self.waiting_bytes.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
        }
    }
}
