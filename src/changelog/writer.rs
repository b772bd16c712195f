//! The writer of one owner's changelog: which changes are appended, rolled over and durable. Pure.
//!
//! ```text
//!   first            persisted_to              listed_to                  rolled_to            next
//!     │  change sets, durable │ tails, and sets after │ change sets being uploaded │  the active block │
//!     └───────────────────────┴───────────────────────┴────────────────────────────┴───────────────────┘
//! ```
//!
//! Uploads may finish in any order, but `listed_to` passes a change set only when all sets before it have passed. A
//! *tail* goes into the manifest itself: it is listed at once, and durable when a manifest that lists it is.
//! `persisted_to` waits for that. The active block may in fact be several blocks: see [`ChangeSetBuilder`].
//!
//! A *silent* writer has no log and only counts sequence numbers. Then snapshots make changes durable; each has
//! everything below a cut.

use std::collections::VecDeque;

use super::{
    block::ChangeSetBuilder,
    segment::{ChangeSet, SegmentHandle},
};
use crate::types::{BackendId, KeyGroup, Sqn, SqnRange, TimeMs};

/// The changelog writer of one owner.
///
/// Invariants: `persisted_to <= listed_to <= rolled_to <= next`, all of one epoch; change sets abut;
/// `unpersisted_bytes` is the sum of the sets that are not yet passed by `persisted_to` and of the active block.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Writer {
    backend: BackendId,
    epoch: u64,
    active: ChangeSetBuilder,
    /// Number of the first batch in the active block; `None` while it is empty.
    active_first_batch: Option<u64>,
    /// Bytes appended to the active block.
    active_bytes: u64,
    /// Rolled-over change sets above `persisted_to`, in order.
    sets: VecDeque<RolledSet>,
    next: Sqn,
    rolled_to: Sqn,
    listed_to: Sqn,
    persisted_to: Sqn,
    unpersisted_bytes: u64,
    silent: Option<Silent>,
}

/// The counters of a writer without log.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Silent {
    /// Number of the current batch.
    batch: u64,
    /// Whether the current batch changed anything.
    changed: bool,
    /// Batches below this are in a snapshot.
    persisted_batches: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct RolledSet {
    range: SqnRange,
    bytes: u64,
    first_batch: u64,
    state: SetState,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum SetState {
    /// The change set is being uploaded.
    Uploading,
    /// The change set is in a segment, but a set before it is not listed yet.
    Uploaded(SegmentHandle),
    /// The change set is in the log index, but in no durable manifest yet.
    Tail,
    /// The change set is in the log index, and a durable manifest names it.
    Durable,
}

/// The effect of an upload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Handles of the change sets that `listed_to` has passed now, in order; they have to be added to the log index.
    pub handles: Vec<SegmentHandle>,
    /// Bytes that no longer have to stay in memory.
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
            listed_to: first,
            persisted_to: first,
            unpersisted_bytes: 0,
            silent: None,
        }
    }

    /// Turns it into a writer without log, which appends and rolls over nothing.
    #[must_use]
    pub fn silenced(self) -> Self {
        Self { silent: Some(Silent::default()), ..self }
    }

    /// Whether there is no log.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent.is_some()
    }

    /// The sequence number of the next batch with changes. Reading it has no effect.
    #[must_use]
    pub fn next(&self) -> Sqn {
        self.next
    }

    /// Every change below is durable.
    #[must_use]
    pub fn persisted_to(&self) -> Sqn {
        self.persisted_to
    }

    /// Every change below is in the log index, so a manifest made now makes it restorable.
    #[must_use]
    pub fn listed_to(&self) -> Sqn {
        self.listed_to
    }

    /// Whether a listed change set becomes durable only with a manifest.
    #[must_use]
    pub fn awaits_manifest(&self) -> bool {
        self.sets.front().is_some_and(|set| matches!(set.state, SetState::Tail))
    }

    /// Whether all rolled-over change sets are listed, so that the next one may become a tail.
    #[must_use]
    pub fn is_all_listed(&self) -> bool {
        self.listed_to == self.rolled_to
    }

    /// The batch number below which every batch is durable, if batches below `applied_to` are applied. A batch without
    /// changes is durable with the batches before it.
    #[must_use]
    pub fn persisted_batches(&self, applied_to: u64) -> u64 {
        if let Some(silent) = &self.silent {
            // If a snapshot has everything that was ever changed, each batch after it changed nothing. There is nothing
            // of such batches to lose, so they are durable, too.
            return if self.persisted_to == self.next { applied_to } else { silent.persisted_batches };
        }
        // `sets` has only sets above `persisted_to`, so its front has the oldest batch that a crash would lose. The
        // active block is newer than every set. It counts only if there is no such set.
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

    /// The lowest segment with a change set that is uploaded but not yet passed by `persisted_to`.
    #[must_use]
    pub fn lowest_unlisted_segment(&self) -> Option<u64> {
        // A tail lies in no segment, and a durable set is listed. The segment of a set that is still being uploaded is
        // in flight, or has no number yet. Either way the low water of the uploads is not above it.
        let unlisted = self.sets.iter().filter_map(|set| match &set.state {
            SetState::Uploaded(handle) => handle.segment(),
            _ => None,
        });
        unlisted.map(|segment| segment.number).min()
    }

    /// Begins batch `number`, applied at `time`, which never goes back. [Push](Self::push) its changes, then call
    /// [`Self::end_batch`] or [`Self::abandon_batch`].
    pub fn begin_batch(&mut self, number: u64, time: TimeMs) {
        if let Some(silent) = &mut self.silent {
            (silent.batch, silent.changed) = (number, false);
            return;
        }
        // Only the first batch since the last roll-over is noted. A later one must not replace it: `persisted_batches`
        // would then tell that the earlier ones are durable.
        self.active_first_batch.get_or_insert(number);
        self.active.begin_batch(self.next, time);
    }

    /// Appends one change to the open batch: `encode` adds its bytes.
    #[inline]
    pub fn push(&mut self, key_group: KeyGroup, encode: impl FnOnce(&mut Vec<u8>)) {
        match &mut self.silent {
            None => self.active.push(key_group, encode),
            Some(silent) => silent.changed = true,
        }
    }

    /// Ends the batch. `len_before` is the value of [`Self::active_bytes`] before it began. A batch that changed
    /// nothing is not logged and takes no sequence number. Returns the bytes appended.
    pub fn end_batch(&mut self, len_before: usize) -> u64 {
        if let Some(silent) = &mut self.silent {
            if std::mem::take(&mut silent.changed) {
                // Batches since the snapshot that changed nothing are as durable as the snapshot.
                if self.persisted_to == self.next {
                    silent.persisted_batches = silent.batch;
                }
                self.next = self.next.next();
            }
            return 0;
        }
        let changed = self.active.end_batch();
        if !changed {
            // The noted batch left nothing behind. If its number stayed, it would count as not durable until the next
            // roll-over, although there is nothing to roll over.
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

    /// Ends the batch and removes its changes. Without an open batch, nothing happens.
    pub fn abandon_batch(&mut self) {
        if self.silent.is_some() {
            return;
        }
        self.active.abandon_batch();
        if self.active.is_empty() {
            self.active_first_batch = None;
        }
    }

    /// Closes the active block and returns it as a change set to upload; `None` if there are no changes since the last
    /// one.
    pub fn roll_over(&mut self) -> Option<ChangeSet> {
        let first_batch = self.active_first_batch.take()?;
        // A noted first batch means that the block is not empty: a batch that ends or is abandoned without leaving
        // anything takes its note with it.
        let body = self.active.finish().expect("a first batch with changes was noted");
        let range = SqnRange { from: self.rolled_to, to: self.next };
        assert!(!range.is_empty(), "a change set holds at least one batch");
        assert_eq!(body.range, range, "change sets abut");
        self.rolled_to = self.next;
        let bytes = std::mem::take(&mut self.active_bytes);
        self.sets.push_back(RolledSet { range, bytes, first_batch, state: SetState::Uploading });
        Some(ChangeSet { backend: self.backend.clone(), epoch: self.epoch, body })
    }

    /// Notes that a snapshot of a writer without log is durable. It has every change below `cut`, and all batches below
    /// `applied_to`.
    ///
    /// # Panics
    /// If there is a log.
    pub fn on_snapshot(&mut self, cut: Sqn, applied_to: u64) {
        let silent = self.silent.as_mut().expect("only without a log do snapshots make durable");
        assert!(cut <= self.next, "a snapshot is of the past");
        // Snapshots may end in any order. An older one that ends late must not move the positions back: callers were
        // told that more is durable.
        if cut >= self.persisted_to {
            (self.persisted_to, self.listed_to, self.rolled_to) = (cut, cut, cut);
            silent.persisted_batches = silent.persisted_batches.max(applied_to);
        }
    }

    /// Notes that the change set of `handle` is durable. A handle that is known already, or is of another writer, has
    /// no effect.
    pub fn on_uploaded(&mut self, handle: SegmentHandle) -> Uploaded {
        // Sequence numbers are never reused, so a range of this epoch names one set. No set is found for the handle of
        // a set that has passed `persisted_to`, or of another writer; both have no effect.
        let set = self.sets.iter_mut().find(|set| set.range == handle.range);
        if let Some(set) = set.filter(|set| matches!(set.state, SetState::Uploading)) {
            set.state = SetState::Uploaded(handle);
        }
        let mut uploaded = Uploaded::default();
        for set in &mut self.sets {
            // Ordering: sets are listed strictly in the order of their sequence numbers, and the loop ends at the first
            // set that is still being uploaded. If sets [5, 7) and [7, 9) were listed as they arrive, and [7, 9) came
            // first, a manifest made in between would publish a checkpoint at cut 9 without the changes of [5, 7).
            // `Durable` stands in only while the handle is moved out of the state; the other arms put the state back.
            match std::mem::replace(&mut set.state, SetState::Durable) {
                SetState::Uploaded(handle) => {
                    assert_eq!(set.range.from, self.listed_to, "listed change sets abut");
                    self.listed_to = set.range.to;
                    uploaded.handles.push(handle);
                }
                SetState::Uploading => {
                    // break; Later sets stay `Uploaded`. They are listed by the call that closes this gap.
                    set.state = SetState::Uploading;
                    break;
                }
                listed @ (SetState::Tail | SetState::Durable) => set.state = listed,
            }
        }
        uploaded.released_bytes = self.advance();
        uploaded
    }

    /// Lists the change set that was rolled over last as a tail: the next manifest makes it durable.
    ///
    /// # Panics
    /// If a set before it is not listed, or `range` is not that of the last one.
    pub fn on_inlined(&mut self, range: SqnRange) {
        let set = self.sets.back_mut().expect("a tail was rolled over");
        assert_eq!(
            // A tail after a set that is still being uploaded would stand in the log index before its predecessor. A
            // manifest would then list a log with a gap.
            (set.range, range.from),
            (range, self.listed_to),
            "a tail is the last set, and all before it are listed"
        );
        set.state = SetState::Tail;
        self.listed_to = range.to;
    }

    /// Notes that a manifest with the log index up to `listed_to` is durable. Returns the bytes that no longer have to
    /// stay in memory.
    pub fn on_published(&mut self, listed_to: Sqn) -> u64 {
        assert!(listed_to <= self.listed_to, "a manifest is of the past");
        // Only tails that this manifest lists. A tail that was listed while the manifest was under way is not in its
        // bytes: if it counted as durable now, its memory would be released, and a crash would lose it.
        for set in self.sets.iter_mut().filter(|set| set.range.to <= listed_to) {
            if matches!(set.state, SetState::Tail) {
                set.state = SetState::Durable;
            }
        }
        self.advance()
    }

    /// Moves `persisted_to` over durable sets; returns their bytes.
    fn advance(&mut self) -> u64 {
        let mut released = 0;
        // In order again: a segment behind a tail is durable earlier than the tail, but callers wait for positions, and
        // a position says that everything below is durable.
        while let Some(set) = self.sets.pop_front_if(|set| matches!(set.state, SetState::Durable)) {
            assert_eq!(set.range.from, self.persisted_to, "durable change sets abut");
            self.persisted_to = set.range.to;
            released += set.bytes;
        }
        self.unpersisted_bytes -= released;
        let ordered = self.persisted_to <= self.listed_to && self.listed_to <= self.rolled_to;
        assert!(ordered && self.rolled_to <= self.next, "positions are in order");
        released
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
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
            writer.begin_batch(number, 1_000 + number);
            for change in 0..number % 7 {
                let group = KeyGroup(u16::try_from((number * 5 + change * 31) % 128).unwrap());
                writer.push(group, |out| out.extend_from_slice(&vec![7; usize::try_from(number).unwrap()]));
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

    #[test]
    fn a_tail_and_what_comes_after_it_are_durable_with_a_manifest() {
        let name = |name| Name::new(name).unwrap();
        let backend = BackendId { job: name("job"), operator: name("op"), subtask: 0 };
        let parts = KeyGroupRange::new(0, 127).unwrap().parts(128).collect();
        let mut writer = Writer::new(backend, 1, ChangeSetBuilder::new(parts, 3_000));
        let append = |writer: &mut Writer, number| {
            writer.begin_batch(number, 1_000);
            writer.push(KeyGroup(3), |out| out.push(7));
            writer.end_batch(0);
            writer.roll_over().unwrap()
        };
        let first = append(&mut writer, 0).body.range;
        writer.on_inlined(first);
        assert_eq!((writer.listed_to(), writer.persisted_batches(1)), (first.to, 0));
        assert!(writer.awaits_manifest() && writer.is_all_listed());
        let second = append(&mut writer, 1);
        assert!(!writer.is_all_listed());
        let id = SegmentId { job: name("job"), instance: Uuid::nil(), number: 1 };
        let handle = encode(id, &[second], Compression::None).handles.remove(0);
        let uploaded = writer.on_uploaded(handle.clone());
        assert_eq!((uploaded.handles.len(), uploaded.released_bytes), (1, 0), "listed, and not yet passed");
        assert_eq!(writer.on_uploaded(handle), Uploaded::default(), "once is enough");
        assert_eq!(writer.on_published(Sqn::first_of(1)), 0, "a manifest from before the tail");
        let held = writer.unpersisted_bytes();
        assert_eq!(writer.on_published(first.to), held);
        assert_eq!((writer.persisted_to(), writer.unpersisted_bytes()), (writer.next(), 0));
        assert!(!writer.awaits_manifest());
    }

    #[test]
    fn a_silent_writer_counts_and_is_as_durable_as_its_newest_snapshot() {
        let name = |name| Name::new(name).unwrap();
        let backend = BackendId { job: name("job"), operator: name("op"), subtask: 0 };
        let parts = KeyGroupRange::new(0, 127).unwrap().parts(128).collect();
        let mut writer = Writer::new(backend, 3, ChangeSetBuilder::new(parts, 100)).silenced();
        let batch = |writer: &mut Writer, number, changes: bool| {
            writer.begin_batch(number, 5);
            if changes {
                writer.push(KeyGroup(3), |_| panic!("nothing is encoded"));
            }
            assert_eq!(writer.end_batch(0), 0);
            assert_eq!((writer.active_bytes(), writer.unpersisted_bytes(), writer.roll_over()), (0, 0, None));
        };
        batch(&mut writer, 0, false);
        assert_eq!((writer.next(), writer.persisted_batches(1)), (Sqn::first_of(3), 1));
        batch(&mut writer, 1, true);
        let cut = writer.next();
        assert_eq!((cut, writer.persisted_batches(2)), (Sqn::first_of(3).next(), 1));
        batch(&mut writer, 2, true);
        writer.on_snapshot(cut, 2);
        assert_eq!((writer.persisted_to(), writer.persisted_batches(3)), (cut, 2));
        writer.on_snapshot(writer.next(), 3);
        batch(&mut writer, 3, false);
        writer.on_snapshot(cut, 2);
        assert_eq!((writer.persisted_to(), writer.persisted_batches(4)), (writer.next(), 4));
        batch(&mut writer, 4, true);
        assert_eq!(writer.persisted_batches(5), 4, "it never goes back");
    }

    #[test]
    fn an_abandoned_batch_leaves_what_was_before_to_be_made_durable() {
        let name = |name| Name::new(name).unwrap();
        let backend = BackendId { job: name("job"), operator: name("op"), subtask: 0 };
        let parts = KeyGroupRange::new(0, 127).unwrap().parts(128).collect();
        let mut writer = Writer::new(backend, 1, ChangeSetBuilder::new(parts, 100));
        writer.begin_batch(0, 5);
        writer.push(KeyGroup(3), |out| out.push(1));
        writer.abandon_batch();
        assert_eq!((writer.roll_over(), writer.persisted_batches(1)), (None, 1));
        writer.begin_batch(1, 6);
        writer.push(KeyGroup(3), |out| out.push(1));
        let appended = writer.end_batch(0);
        writer.begin_batch(2, 7);
        writer.push(KeyGroup(4), |out| out.push(2));
        writer.abandon_batch();
        assert_eq!(writer.persisted_batches(3), 1);
        let body = writer.roll_over().unwrap().body;
        assert_eq!((body.changes, body.length(), writer.unpersisted_bytes()), (1, appended, appended));
    }
}
