//! Reads a checkpoint without restoring a backend: key group by key group, in bounded memory, whichever inner backend
//! made its base.
//!
//! ```text
//!   key groups of the checkpoint ──cut──▶ part ──restore──▶ hash map of bounded size ──▶ changes, by state and key group
//!                                    ▲      │ too large for it
//!                                    └ halved
//! ```
//!
//! Each part is restored as a [restore](super::Restore) does it. So a reader sees the same state as a restored backend,
//! and fails for the same reasons. Base and log are read only for the key groups of the part, as far as their blocks
//! are cut that way; blocks with key groups of several parts are read for each. Images of a base are downloaded once
//! and kept on local disk until the reader is dropped.
//!
//! The caller must make sure that the checkpoint is not deleted meanwhile, by a [`crate::checkpoint::pin`].

use std::collections::BTreeMap;

use super::{Imported, KeptImages, Progress, Restore, RestoreError, block_memory};
use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest},
    object::{Retry, Store},
    random::Random,
    state::{StateBackend as _, StateError, bounded::BoundedBackend, image::LocalBackends},
    tasks::Tasks,
    types::{KeyGroupRange, StateDescriptor, StateId},
};

/// A stored byte is assumed to need this many bytes of memory, until it was read.
const EXPANSION: u64 = 4;

/// The resources of a reader.
#[derive(Debug, Clone)]
pub struct ReaderOptions<'a> {
    /// The store that has the objects.
    pub store: &'a Store,
    /// The tasks that reads run on.
    pub tasks: &'a Tasks,
    /// Makes names for local folders.
    pub random: &'a Random,
    /// Inner backends on local disk, which can read images; `None` if there are none.
    pub local: Option<&'a dyn LocalBackends>,
    /// Most bytes of memory for state.
    pub memory: u64,
    /// Range reads in flight at the same time.
    pub parallel_reads: usize,
    /// How each read is retried.
    pub retry: Retry,
}

/// Reads one checkpoint of one backend.
#[derive(Debug)]
pub struct Reader<'a> {
    options: ReaderOptions<'a>,
    manifest: &'a Manifest,
    checkpoint: &'a CheckpointRecord,
    states: BTreeMap<StateId, StateDescriptor>,
    kept: KeptImages,
    /// Key groups that are still to be read; the next is last.
    left: Vec<KeyGroupRange>,
    read: Progress,
}

/// The state of some key groups at the checkpoint.
pub struct Part {
    /// The key groups; [`KeyGroupRange::OPERATOR`] for operator state.
    pub key_groups: KeyGroupRange,
    /// An inner backend with all entries of these key groups.
    pub inner: BoundedBackend,
}

/// Why a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The checkpoint cannot be restored either, for this reason.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The entries of one key group take too much memory.
    #[error(
        "key group {key_group} alone takes more than the {allowed} bytes of memory that there are to read it; give more, or spread state \
         over more key groups (a higher max parallelism)"
    )]
    KeyGroup {
        /// The key group.
        key_group: u16,
        /// Bytes of state that a part may have.
        allowed: u64,
    },
    /// The operator state of one subtask takes too much memory.
    #[error("its operator state takes more than the {allowed} bytes of memory that there are to read it; give more")]
    OperatorState {
        /// Bytes of state that a part may have.
        allowed: u64,
    },
}

impl<'a> Reader<'a> {
    /// A reader of `checkpoint`, which `manifest` has.
    #[must_use]
    pub fn new(options: ReaderOptions<'a>, manifest: &'a Manifest, checkpoint: &'a CheckpointRecord) -> Self {
        let in_force = manifest.states.iter().filter(|(id, _)| checkpoint.has_state(**id));
        let states = in_force.map(|(_, state)| (state.data, state.descriptor.clone())).collect();
        let span = manifest.span(checkpoint).key_groups;
        let expected = manifest.stored_bytes(checkpoint).saturating_mul(EXPANSION);
        let parts = expected.div_ceil(options.memory.max(1)).clamp(1, span.count() as u64);
        // The next one is last, so that it can be taken off and replaced by its halves. Operator state comes first in
        // the list, and so is read last.
        let mut left = cut(span, parts);
        left.reverse();
        left.insert(0, KeyGroupRange::OPERATOR);
        Self { options, manifest, checkpoint, states, kept: KeptImages::default(), left, read: Progress::default() }
    }

    /// The same reader, of `key_groups` alone.
    #[must_use]
    pub fn only(mut self, key_groups: KeyGroupRange) -> Self {
        self.left = self.left.into_iter().filter_map(|left| left.intersection(key_groups)).collect();
        self
    }

    /// The states that existed at the checkpoint, by the ids that their entries have.
    #[must_use]
    pub fn states(&self) -> &BTreeMap<StateId, StateDescriptor> {
        &self.states
    }

    /// Bytes and changes that were read so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.read
    }

    /// Reads the next part, in order of key groups, operator state last; `None` at the end. Drop the part before it
    /// first, since both together may exceed the memory. Cancel-safe: a dropped read begins again at the next call.
    ///
    /// # Errors
    /// [`ReaderError`].
    pub async fn next(&mut self) -> Result<Option<Part>, ReaderError> {
        while let Some(key_groups) = self.left.last().copied() {
            match self.part(key_groups).await {
                // Too large for the memory: each half is read alone. A single key group, and operator state, cannot be
                // halved.
                Err(RestoreError::Inner { source: StateError::Full { allowed }, .. }) => {
                    self.left.pop();
                    if key_groups == KeyGroupRange::OPERATOR {
                        return Err(ReaderError::OperatorState { allowed });
                    }
                    if key_groups.count() == 1 {
                        return Err(ReaderError::KeyGroup { key_group: key_groups.first().0, allowed });
                    }
                    self.left.extend(cut(key_groups, 2).into_iter().rev());
                }
                Ok(part) => {
                    self.left.pop();
                    return Ok(Some(part));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    async fn part(&mut self, key_groups: KeyGroupRange) -> Result<Part, RestoreError> {
        let ReaderOptions { store, tasks, random, local, memory, parallel_reads, retry } = self.options.clone();
        let mut inner = BoundedBackend::new(key_groups, memory);
        let is_operator = key_groups == KeyGroupRange::OPERATOR;
        let states = || self.states.iter().filter(|(_, state)| state.redistribution.is_some() == is_operator);
        let names = states().map(|(id, _)| (*id, *id)).collect();
        states().for_each(|(id, state)| inner.register(*id, state));
        for import in self.manifest.export(self.checkpoint, key_groups, &names, || random.uuid()) {
            let (manifest, checkpoint) = import.view(self.manifest, self.checkpoint.identity.id);
            let restore = Restore {
                store,
                tasks,
                local,
                kept: Some(&self.kept),
                manifest: &manifest,
                checkpoint: &checkpoint,
                parallel_reads,
                retry,
                block_memory: block_memory(memory),
                imported: Some(Imported { import: &import, by: self.manifest }),
            };
            self.read.add(restore.run(&mut inner, |_| {}).await?.progress);
        }
        Ok(Part { key_groups, inner })
    }
}

/// Cuts `range` into up to `parts` ranges of about the same size, in order.
fn cut(range: KeyGroupRange, parts: u64) -> Vec<KeyGroupRange> {
    let (first, last) = (u64::from(range.first().0), u64::from(range.last().0));
    let width = (last - first + 1).div_ceil(parts.max(1));
    let part = |from: u64| {
        let narrow = |n: u64| u32::try_from(n).expect("a key group is a u16");
        KeyGroupRange::new(narrow(from), narrow((from + width - 1).min(last))).expect("a part of a range is a range")
    };
    (first..=last).step_by(usize::try_from(width).expect("far fewer key groups")).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_groups_are_cut_into_parts_without_gap() {
        let range = KeyGroupRange::new(3, 9).expect("a range");
        let cut = |parts| super::cut(range, parts).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(cut(1), "3..=9");
        assert_eq!(cut(2), "3..=6 7..=9");
        assert_eq!(cut(3), "3..=5 6..=8 9..=9");
        assert_eq!(cut(7), "3..=3 4..=4 5..=5 6..=6 7..=7 8..=8 9..=9");
    }
}
