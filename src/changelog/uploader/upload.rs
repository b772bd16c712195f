//! One upload: from change sets to a durable segment.

use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::mpsc, task::yield_now, time::Instant};

use super::{InFlight, Number, Ticket, UploadEdge, UploadError};
use crate::{
    changelog::{
        compression::Compression,
        segment::{ChangeSet, EncodedSegment, SegmentEncoder, SegmentHandle, SegmentId},
        squash::squash,
    },
    object::{
        Created, ObjectName, Path, Retry,
        copies::{Label, Part, Use},
    },
    tasks,
    types::Name,
};

/// A change set of at least this many bytes takes longer to encode than it takes to hand the other tasks of the thread
/// to another one.
const LONG_SET_BYTES: u64 = 256 << 10;

/// The upload of one segment.
pub(super) struct Upload {
    pub(super) job: Name,
    pub(super) compression: Compression,
    pub(super) edge: UploadEdge,
    pub(super) in_flight: InFlight,
    /// The change sets in the order in which they lie in the segment.
    pub(super) sets: Vec<(ChangeSet, Ticket)>,
}

/// One of the worker's slots, given back when dropped.
pub(super) struct Slot {
    pub(super) free: mpsc::UnboundedSender<()>,
    pub(super) in_flight: Gauge,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.in_flight.dec();
        // The worker may have ended, for example when its task was stopped; then nobody needs the slot.
        let _ = self.free.send(());
    }
}

impl Upload {
    /// Uploads the segment and calls every `done`. Only then `number` stops being in flight and `slot` is free, even if
    /// this is aborted.
    pub(super) async fn run(self, number: Number, slot: Slot) {
        // Declared before the tickets. If this future is dropped halfway, its locals are dropped in the reverse order
        // of their declaration, so the tickets are called before the number stops being in flight.
        let (slot, mut number) = (slot, number);
        let (mut sets, tickets): (Vec<_>, Vec<_>) = self.sets.into_iter().unzip();
        let length = sets.iter().map(|set| set.body.length()).sum();
        // In place, so that the bytes of a change set are not held beside those that are left of it.
        for set in &mut sets {
            tasks::blocking_if(is_long(set), || {
                if let Some(squashed) = squash(&set.body, self.edge.entry_of) {
                    set.body = squashed;
                }
            });
        }
        let (metrics, store) = (&self.edge.metrics, &self.edge.store);
        metrics.uploads.inc();
        let begun = Instant::now();
        let outcome = loop {
            let id =
                SegmentId { job: self.job.clone(), instance: self.in_flight.numbers.instance, number: number.number };
            // Encoded anew for each number, since the header repeats the number. Within one number, `create` retries
            // identical bytes, so an attempt whose outcome is unknown is recognised as its own.
            let EncodedSegment { payload, handles, bytes } = encode(id.clone(), &sets, self.compression).await;
            match store.create_counted(&path(&id), payload.clone(), Retry::forever()).await {
                Ok((Created::New | Created::Identical, attempts)) => {
                    metrics.attempts.observe(f64::from(attempts));
                    metrics.duration.observe(begun.elapsed().as_secs_f64());
                    metrics.stored.inc_by(bytes);
                    metrics.size.observe(observed(bytes));
                    store.copy(&path(&id), payload, || label(&sets));
                    break Ok(handles);
                }
                Ok((Created::Conflict, _)) => {
                    metrics.conflicts.inc();
                    tracing::warn!(segment = %path(&id), "the name of a segment is taken by another object");
                    // The old number is dropped only after the new one was begun. Between the two the low water is at
                    // most the old number, so it never passes the segment that is about to be made.
                    number = self.in_flight.begin();
                }
                // With `Retry::forever` only an error comes here that no attempt can change: a store that has no
                // create-if-absent.
                Err(source) => break Err(UploadError::Store { segment: id, source }),
            }
        };
        match &outcome {
            Ok(_) => {
                metrics.uploaded.inc_by(length);
                metrics.change_sets.observe(observed(sets.len() as u64));
            }
            Err(_) => {
                metrics.failures.inc();
            }
        }
        // The submitters release the credit for these bytes as soon as they know the outcome.
        drop(sets);
        // Order: 1. the owners take the outcome, 2. the number stops being in flight. Otherwise the low water could
        // pass a segment that its owner has not listed yet, and a sweep could delete it.
        tell(tickets, outcome);
        drop((number, slot));
    }
}

fn tell(tickets: Vec<Ticket>, outcome: Result<Vec<SegmentHandle>, UploadError>) {
    match outcome {
        Ok(handles) => {
            // The encoder keeps the order of the sets, and so the order of the tickets.
            assert_eq!(handles.len(), tickets.len(), "one handle per change set");
            for (ticket, handle) in tickets.into_iter().zip(handles) {
                ticket.call(Ok(handle));
            }
        }
        Err(error) => {
            for ticket in tickets {
                ticket.call(Err(error.clone()));
            }
        }
    }
}

/// Whether sessions must not wait for work on a change set.
fn is_long(set: &ChangeSet) -> bool {
    set.body.length() >= LONG_SET_BYTES
}

/// The segment of `sets`. Other tasks run between two of them.
async fn encode(id: SegmentId, sets: &[ChangeSet], compression: Compression) -> EncodedSegment {
    let mut encoder = SegmentEncoder::new(id, compression);
    for set in sets {
        tasks::blocking_if(is_long(set), || encoder.push(set));
        yield_now().await;
    }
    encoder.finish()
}

fn path(id: &SegmentId) -> Path {
    ObjectName::Segment { job: id.job.clone(), instance: id.instance, number: id.number }.path()
}

/// The label of a local copy, which tells whose changes the segment has.
fn label(sets: &[ChangeSet]) -> Label {
    let usage = |set: &ChangeSet| Use { backend: set.backend.clone(), part: Part::Log(set.body.range) };
    Label { uses: sets.iter().map(usage).collect(), ..Label::default() }
}

/// A count for histograms, exact below 2^53.
fn observed(count: u64) -> f64 {
    count as f64
}
