//! The newest outcomes of checkpoints and the newest errors of backends, for people.
//!
//! Both are bounded: so many outcomes of each open backend, and so many errors of the daemon. A reader waits for no
//! backend, as the journal has a lock of its own that is held for microseconds.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::types::{BackendId, CheckpointId, TimeMs};

/// Most outcomes that are kept of one backend.
const OUTCOMES: usize = 40;

/// Most errors that are kept.
const ERRORS: usize = 32;

/// Longest text of an error in characters; the rest is cut off.
const TEXT: usize = 600;

/// How long each phase of a checkpoint took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phases {
    /// From the barrier to the cut.
    pub sync: Duration,
    /// From the cut until all changes were durable.
    pub persist: Duration,
    /// From then until the manifest was durable.
    pub publish: Duration,
}

/// The outcome of one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The id of the checkpoint.
    pub id: CheckpointId,
    /// When that was known, in milliseconds since the Unix epoch.
    pub at: TimeMs,
    /// Its phases, or why it failed.
    pub result: Result<Phases, String>,
    /// Bytes of changelog since the checkpoint before; 0 if it failed.
    pub incremental_bytes: u64,
}

/// An error that may need attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mishap {
    /// When it happened, in milliseconds since the Unix epoch.
    pub at: TimeMs,
    /// The backend that it is about.
    pub backend: BackendId,
    /// The text of the error.
    pub text: String,
}

/// A checkpoint that was read back, to prove that it can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The id of the checkpoint.
    pub id: CheckpointId,
    /// When that was done, in milliseconds since the Unix epoch.
    pub at: TimeMs,
    /// How long reading and rebuilding all of it took.
    pub took: Duration,
    /// Stored bytes that were read.
    pub bytes: u64,
    /// Why it cannot be restored; `None` if it can.
    pub fault: Option<String>,
}

/// The journal of one daemon. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    outcomes: BTreeMap<BackendId, VecDeque<Outcome>>,
    proofs: BTreeMap<BackendId, Proof>,
    errors: VecDeque<Mishap>,
}

impl Journal {
    /// Adds the outcome of a checkpoint of `backend`.
    pub(super) fn add(&self, backend: &BackendId, outcome: Outcome) {
        let mut pages = self.0.lock();
        if let Err(why) = &outcome.result {
            let mishap = Mishap { at: outcome.at, backend: backend.clone(), text: short(why) };
            push(&mut pages.errors, mishap, ERRORS);
        }
        // Cut before it is kept: the text of an error may repeat bytes of a peer, of any length.
        let result = outcome.result.map_err(|why| short(&why));
        push(pages.outcomes.entry(backend.clone()).or_default(), Outcome { result, ..outcome }, OUTCOMES);
    }

    /// Notes whether a checkpoint of `backend` can be restored.
    pub(super) fn prove(&self, backend: &BackendId, proof: Proof) {
        self.0.lock().proofs.insert(backend.clone(), proof);
    }

    /// Forgets a backend that has ended; its errors stay.
    pub(super) fn forget(&self, backend: &BackendId) {
        let mut pages = self.0.lock();
        pages.outcomes.remove(backend);
        pages.proofs.remove(backend);
    }

    /// The newest checkpoint of `backend` that was read back.
    #[must_use]
    pub fn proof(&self, backend: &BackendId) -> Option<Proof> {
        self.0.lock().proofs.get(backend).cloned()
    }

    /// The outcomes of `backend`, oldest first.
    #[must_use]
    pub fn outcomes(&self, backend: &BackendId) -> Vec<Outcome> {
        self.0.lock().outcomes.get(backend).map_or_else(Vec::new, |kept| kept.iter().cloned().collect())
    }

    /// The errors, oldest first.
    #[must_use]
    pub fn errors(&self) -> Vec<Mishap> {
        self.0.lock().errors.iter().cloned().collect()
    }
}

fn push<T>(ring: &mut VecDeque<T>, item: T, most: usize) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(item);
}

fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::types::Name;

    #[test]
    fn the_newest_are_kept_and_errors_outlive_their_backend() {
        let (journal, name) = (Journal::default(), Name::new("n").unwrap());
        let backend = BackendId { job: name.clone(), operator: name, subtask: 0 };
        for id in 1..=100 {
            let phases = Phases { sync: Duration::ZERO, persist: Duration::from_millis(id), publish: Duration::ZERO };
            let result = if id % 2 == 0 { Ok(phases) } else { Err("ä".repeat(10_000)) };
            journal.add(&backend, Outcome { id, at: id, result, incremental_bytes: 0 });
        }
        let kept = journal.outcomes(&backend);
        assert_eq!((kept.len(), kept[0].id, kept[OUTCOMES - 1].id), (OUTCOMES, 61, 100));
        journal.forget(&backend);
        assert_eq!(journal.outcomes(&backend), []);
        let errors = journal.errors();
        assert_eq!((errors.len(), errors[ERRORS - 1].at), (ERRORS, 99));
        assert_eq!(errors[0].text.chars().count(), TEXT + 1);
    }
}
