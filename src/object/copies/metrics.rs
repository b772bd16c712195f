//! Metrics of local copies: the bytes that they take, and how often they served a read.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use crate::metrics::Metrics;

/// The outcome of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// The copy was read in place of the object.
    Hit,
    /// There is no copy.
    Miss,
    /// The copy is damaged.
    Corrupt,
}

impl Read {
    fn outcome(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Corrupt => "corrupt",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadLabels {
    outcome: &'static str,
}

#[derive(Debug)]
pub(super) struct CopyMetrics {
    bytes: Gauge,
    reads: Family<ReadLabels, Counter>,
    failures: Counter,
}

impl CopyMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let registered = Self {
            bytes: metrics.register("local_copies_bytes", "Bytes of the local copies of objects", Gauge::default()),
            reads: metrics.register(
                "local_copies_reads",
                "Reads that looked for a local copy first, by outcome: misses and corrupt ones were read from the store",
                Family::default(),
            ),
            failures: metrics.register(
                "local_copies_failures",
                "Local copies of objects that could not be made",
                Counter::default(),
            ),
        };
        // Register all outcomes, so that they show before the first restore.
        for read in [Read::Hit, Read::Miss, Read::Corrupt] {
            drop(registered.reads.get_or_create(&ReadLabels { outcome: read.outcome() }));
        }
        registered
    }

    pub(super) fn bytes(&self, bytes: u64) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn read(&self, read: Read) {
        self.reads.get_or_create(&ReadLabels { outcome: read.outcome() }).inc();
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }
}
