//! The time that batches take, from the moment that a task hands them over until they are applied.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use dstl::client::Receipt;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use super::Fault;

/// The longest time that is told exactly; a longer one counts as this.
const LONGEST_NANOS: u64 = 600_000_000_000;

/// Records the latencies of batches. Cheap to clone; all clones record into one histogram.
#[derive(Clone)]
pub(crate) struct Probe {
    histogram: Arc<Mutex<Histogram<u64>>>,
    watched: mpsc::UnboundedSender<(Instant, Receipt)>,
}

impl Probe {
    pub(crate) fn new() -> Result<Self, Fault> {
        let (watched, mut receipts) = mpsc::unbounded_channel::<(Instant, Receipt)>();
        let probe = Self { histogram: Arc::new(Mutex::new(empty()?)), watched };
        let histogram = Arc::clone(&probe.histogram);
        tokio::spawn(async move {
            // Batches are applied in the order in which they were sent, so that waiting for one delays no other.
            while let Some((begun, receipt)) = receipts.recv().await {
                if receipt.applied().await.is_ok() {
                    record(&histogram, begun);
                }
            }
        });
        Ok(probe)
    }

    /// Records when the batch that was handed over at `begun` is applied.
    pub(crate) fn watch(&self, begun: Instant, receipt: Receipt) {
        // The receiver lives as long as this sender.
        let _ = self.watched.send((begun, receipt));
    }

    /// Records that a batch that was handed over at `begun` is applied now.
    pub(crate) fn record(&self, begun: Instant) {
        record(&self.histogram, begun);
    }

    /// The latencies in nanoseconds since the last call.
    pub(crate) fn take(&self) -> Histogram<u64> {
        let mut histogram = lock(&self.histogram);
        let taken = histogram.clone();
        histogram.reset();
        taken
    }
}

/// An empty histogram of nanoseconds.
pub(crate) fn empty() -> Result<Histogram<u64>, Fault> {
    Ok(Histogram::new_with_bounds(1, LONGEST_NANOS, 3)?)
}

fn record(histogram: &Mutex<Histogram<u64>>, begun: Instant) {
    let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(LONGEST_NANOS);
    lock(histogram).saturating_record(nanos);
}

fn lock(histogram: &Mutex<Histogram<u64>>) -> MutexGuard<'_, Histogram<u64>> {
    // A panic elsewhere leaves the counts as they are.
    histogram.lock().unwrap_or_else(PoisonError::into_inner)
}
