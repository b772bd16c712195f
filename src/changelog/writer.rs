//! The writer of one owner's changelog: what is appended, rolled over, durable. Pure.
//!
//! ```text
//!   first            persisted_to                        rolled_to            next
//!     │  change sets, durable │  change sets being uploaded │  the active block │
//!     └───────────────────────┴─────────────────────────────┴───────────────────┘
//! ```
//!
//! Uploads may finish in any order; `persisted_to` only passes a change set when all before it are durable. The active block is in
//! truth one or several: see [`ChangeSetBuilder`].

use std::collections::VecDeque;

use super::{
    block::ChangeSetBuilder,
    segment::{ChangeSet, SegmentHandle},
};
use crate::types::{BackendId, Sqn, SqnRange, TimeMs};

/// The changelog writer of one owner.
///
/// Invariants: `persisted_to <= rolled_to <= next`, all of one epoch; change sets abut; `unpersisted_bytes` is the sum of
/// the sets that are not yet passed by `persisted_to` and of the active block.
#[derive(Debug)]
pub struct Writer {
    backend: BackendId,
    epoch: u64,
    active: ChangeSetBuilder,
    /// Number of the first batch in the active block; `None` while it is empty.
    active_first_batch: Option<u64>,
    /// Bytes appended to the active block.
    active_bytes: u64,
    /// Rolled-over sets beyond `persisted_to`, in order.
    sets: VecDeque<RolledSet>,
    next: Sqn,
    rolled_to: Sqn,
    persisted_to: Sqn,
    unpersisted_bytes: u64,
}

#[derive(Debug)]
struct RolledSet {
    range: SqnRange,
    bytes: u64,
    first_batch: u64,
    handle: Option<SegmentHandle>,
}

/// What an upload brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Handles of the change sets that `persisted_to` has passed now, in order: they belong into the log index.
    pub handles: Vec<SegmentHandle>,
    /// Bytes that need no longer be held in memory.
    pub released_bytes: u64,
}

impl Writer {
    /// A writer without changes, at the first sequence number of `epoch`; `active` must be empty.
    #[must_use]
    pub fn new(backend: BackendId, epoch: u64, active: ChangeSetBuilder) -> Self {
        let first = Sqn::first_of(epoch);
        Self {
            backend,
            epoch,
            active,
            active_first_batch: None,
            active_bytes: 0,
            sets: VecDeque::new(),
            next: first,
            rolled_to: first,
            persisted_to: first,
            unpersisted_bytes: 0,
        }
    }

    /// The sequence number that the next batch with changes gets. Reading it advances nothing.
    #[must_use]
    pub fn next(&self) -> Sqn {
        self.next
    }

    /// Everything below is durable.
    #[must_use]
    pub fn persisted_to(&self) -> Sqn {
        self.persisted_to
    }

    /// The batch number below which every batch is durable, given that batches below `applied_to` are applied. Batches
    /// without changes are durable with those before them.
    #[must_use]
    pub fn persisted_batches(&self, applied_to: u64) -> u64 {
        let first_open = self.sets.front().map(|set| set.first_batch).or(self.active_first_batch);
        first_open.unwrap_or(applied_to)
    }

    /// Bytes of changes that are not yet durable, the active block included.
    #[must_use]
    pub fn unpersisted_bytes(&self) -> u64 {
        self.unpersisted_bytes
    }

    /// Bytes of the active block.
    #[must_use]
    pub fn active_bytes(&self) -> usize {
        self.active.len()
    }

    /// The lowest segment that holds a change set which is uploaded but not yet passed by `persisted_to`.
    #[must_use]
    pub fn lowest_unlisted_segment(&self) -> Option<u64> {
        self.sets.iter().filter_map(|set| set.handle.as_ref()).map(|handle| handle.segment.number).min()
    }

    /// Begins batch `number`, read at `time`, which never goes back; hand its changes to the returned builder, then call
    /// [`Self::end_batch`] or [`Self::abandon_batch`].
    pub fn begin_batch(&mut self, number: u64, time: TimeMs) -> &mut ChangeSetBuilder {
        self.active_first_batch.get_or_insert(number);
        self.active.begin_batch(self.next, time);
        &mut self.active
    }

    /// The builder of the batch that was begun.
    pub fn builder(&mut self) -> &mut ChangeSetBuilder {
        &mut self.active
    }

    /// Ends the batch; `len_before` is what [`Self::active_bytes`] was before it began. A batch that changed nothing leaves no
    /// trace and takes no sequence number. Returns the bytes appended.
    pub fn end_batch(&mut self, len_before: usize) -> u64 {
        let changed = self.active.end_batch();
        if !changed {
            if self.active.is_empty() {
                self.active_first_batch = None;
            }
            return 0;
        }
        self.next = self.next.next();
        let appended = (self.active.len() - len_before) as u64;
        self.active_bytes += appended;
        self.unpersisted_bytes += appended;
        appended
    }

    /// Ends the batch as if it had never begun. Without an open batch, nothing happens.
    pub fn abandon_batch(&mut self) {
        self.active.abandon_batch();
        if self.active.is_empty() {
            self.active_first_batch = None;
        }
    }

    /// Closes the active block into a change set to upload; `None` if there are no changes since the last one.
    pub fn roll_over(&mut self) -> Option<ChangeSet> {
        let first_batch = self.active_first_batch.take()?;
        let body = self.active.finish().expect("a first batch with changes was noted");
        let range = SqnRange { from: self.rolled_to, to: self.next };
        assert!(!range.is_empty(), "a change set holds at least one batch");
        assert_eq!(body.range, range, "change sets abut");
        self.rolled_to = self.next;
        let bytes = std::mem::take(&mut self.active_bytes);
        self.sets.push_back(RolledSet { range, bytes, first_batch, handle: None });
        Some(ChangeSet { backend: self.backend.clone(), epoch: self.epoch, body })
    }

    /// Learns that the change set of `handle` is durable. One that is known already, or not of this writer, changes nothing.
    pub fn on_uploaded(&mut self, handle: SegmentHandle) -> Uploaded {
        if let Some(set) = self.sets.iter_mut().find(|set| set.range == handle.range) {
            set.handle.get_or_insert(handle);
        }
        let mut uploaded = Uploaded::default();
        while let Some(RolledSet { handle: Some(_), .. }) = self.sets.front() {
            let Some(RolledSet { range, bytes, handle: Some(handle), .. }) = self.sets.pop_front() else { break };
            assert_eq!(range.from, self.persisted_to, "durable change sets abut");
            self.persisted_to = range.to;
            self.unpersisted_bytes -= bytes;
            uploaded.released_bytes += bytes;
            uploaded.handles.push(handle);
        }
        assert!(self.persisted_to <= self.rolled_to && self.rolled_to <= self.next);
        uploaded
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        changelog::{
            compression::Compression,
            segment::{SegmentId, encode},
        },
        types::{KeyGroup, KeyGroupRange, Name},
    };

    #[test]
    fn what_is_appended_is_what_change_sets_have_and_release_with_any_number_of_blocks() {
        let name = |name| Name::new(name).unwrap();
        let backend = BackendId { job: name("job"), operator: name("op"), subtask: 0 };
        let parts = KeyGroupRange::new(0, 127).unwrap().parts(128).collect();
        let mut writer = Writer::new(backend, 1, ChangeSetBuilder::new(parts, 3_000));
        let (mut sets, mut appended) = (vec![], 0);
        for number in 0..100_u64 {
            let before = writer.active_bytes();
            let builder = writer.begin_batch(number, 1_000 + number);
            for change in 0..number % 7 {
                let group = KeyGroup(u16::try_from((number * 5 + change * 31) % 128).unwrap());
                builder.push(group, |out| out.extend_from_slice(&vec![7; usize::try_from(number).unwrap()]));
            }
            appended += writer.end_batch(before);
            if number % 40 == 3 {
                sets.extend(writer.roll_over());
            }
        }
        sets.extend(writer.roll_over());
        assert_eq!(sets.iter().map(|set| set.body.blocks.len()).collect::<Vec<_>>(), [1, 4, 4, 4]);
        assert_eq!(sets.iter().map(|set| set.body.length()).sum::<u64>(), appended);
        assert_eq!(writer.unpersisted_bytes(), appended);
        let id = SegmentId { job: name("job"), instance: Uuid::nil(), number: 1 };
        let handles = encode(id, &sets, Compression::None).handles;
        let released: Vec<_> = handles.into_iter().map(|handle| writer.on_uploaded(handle).released_bytes).collect();
        assert_eq!(released, sets.iter().map(|set| set.body.length()).collect::<Vec<_>>());
        assert_eq!((writer.unpersisted_bytes(), writer.persisted_to()), (0, writer.next()));
    }
}
