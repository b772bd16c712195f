//! Decides which waiting change sets are uploaded together, and when. Pure: it is told the time, and does nothing
//! itself.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::segment::ChangeSet;
use crate::{
    setting::{Kind, options},
    types::BackendId,
};

options! {
    /// When change sets are sent. The size that ends the delay, of uncompressed bytes, is also that of a full segment.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct BatchOptions {
        /// How long an upload waits for other backends of the job to share its segment. `0 ms` uploads at once.
        pub persist_delay: Duration =
            option("state.changelog.dstl.dfs.batch.persist-delay", Changelog 6, Kind::ANY_DURATION, "10 ms");
        /// So many waiting bytes are uploaded without waiting out the delay.
        pub persist_size_threshold: u64 =
            option("state.changelog.dstl.dfs.batch.persist-size-threshold", Changelog 7, Kind::at_least(1), "10 MiB");
    }
}

/// The change sets of one job's backends that wait for their upload, each with a `T` of the caller.
///
/// All waiting change sets become *due* when one of these holds:
///
/// 1. `persist_delay` has passed since the first of them came;
/// 2. they have `persist_size_threshold` bytes or more;
/// 3. one of them is urgent;
/// 4. every registered writer has one among them, so that waiting is useless. With one writer, this is always so.
///
/// Due change sets are sent in the order in which they came, in segments that are closed once they reach
/// `persist_size_threshold`.
///
/// Invariants: `bytes` is the sum over `waiting`; `due` is at most its length; one backend's sets keep their order.
#[derive(Debug)]
pub struct Batcher<T> {
    options: BatchOptions,
    waiting: VecDeque<Waiting<T>>,
    bytes: u64,
    /// Number of change sets at the front that are due and not yet sent.
    due: usize,
    writers: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    set: ChangeSet,
    since: Instant,
    urgent: bool,
    ticket: T,
}

impl<T> Batcher<T> {
    /// An empty batcher without writers.
    #[must_use]
    pub fn new(options: BatchOptions) -> Self {
        Self { options, waiting: VecDeque::new(), bytes: 0, due: 0, writers: 0 }
    }

    /// Registers one more writer.
    pub fn writer_joined(&mut self) {
        self.writers += 1;
    }

    /// Removes one writer.
    ///
    /// # Panics
    /// If no writer is registered.
    pub fn writer_left(&mut self) {
        self.writers = self.writers.checked_sub(1).expect("a writer joins before it leaves");
    }

    /// Lets `set` wait, beginning at `now`.
    pub fn push(&mut self, now: Instant, set: ChangeSet, urgent: bool, ticket: T) {
        self.bytes += size(&set);
        self.waiting.push_back(Waiting { set, since: now, urgent, ticket });
    }

    /// Takes the change sets of the next segment, if any are due at `now`. Call it again until it returns `None`, or no
    /// slot is free.
    pub fn take(&mut self, now: Instant) -> Option<Vec<(ChangeSet, T)>> {
        // Due change sets stay due, even if the condition no longer holds after a part of them was sent. Otherwise the
        // rest of a large batch would wait once more.
        if self.is_due(now) {
            self.due = self.waiting.len();
        }
        if self.due == 0 {
            return None;
        }
        let mut segment = Vec::new();
        let mut bytes = 0;
        // The last segment may also take change sets that came after the others became due. Waiting longer would not
        // make a better segment for them, and the order of one backend's sets stays.
        while let Some(first) = self.waiting.pop_front() {
            bytes += size(&first.set);
            segment.push((first.set, first.ticket));
            if bytes >= self.options.persist_size_threshold {
                break;
            }
        }
        self.bytes -= bytes;
        // Saturates because the segment may have more sets than were due.
        self.due = self.due.saturating_sub(segment.len());
        Some(segment)
    }

    /// When the waiting change sets become due by time. After a [`take`](Self::take) without result, this is the only
    /// timer to arm.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|first| first.since + self.options.persist_delay)
    }

    /// Removes the waiting change sets of `epoch` of `backend`, and returns their tickets in order.
    pub fn withdraw(&mut self, backend: &BackendId, epoch: u64) -> Vec<T> {
        let mut withdrawn = Vec::new();
        let due = self.due;
        for (index, waiting) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if waiting.set.epoch == epoch && waiting.set.backend == *backend {
                self.bytes -= size(&waiting.set);
                // Due sets are at the front, so the old position tells whether this one was among them.
                self.due -= usize::from(index < due);
                withdrawn.push(waiting.ticket);
            } else {
                self.waiting.push_back(waiting);
            }
        }
        withdrawn
    }

    /// Removes all waiting change sets, and returns their tickets in order.
    pub fn clear(&mut self) -> Vec<T> {
        self.bytes = 0;
        self.due = 0;
        self.waiting.drain(..).map(|waiting| waiting.ticket).collect()
    }

    /// Number of waiting change sets.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of the waiting change sets, uncompressed.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.bytes
    }

    fn is_due(&self, now: Instant) -> bool {
        let Some(deadline) = self.deadline() else { return false };
        now >= deadline
            || self.bytes >= self.options.persist_size_threshold
            || self.waiting.iter().any(|waiting| waiting.urgent)
            || self.nobody_is_missing()
    }

    fn nobody_is_missing(&self) -> bool {
        let here = || self.waiting.iter().map(|waiting| (&waiting.set.backend, waiting.set.epoch));
        // The cheap comparison comes first: without enough sets there cannot be one of each writer, and the set of
        // names would be built for nothing on every message.
        self.waiting.len() >= self.writers && here().collect::<BTreeSet<_>>().len() >= self.writers
    }
}

fn size(set: &ChangeSet) -> u64 {
    set.body.length()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::{
        changelog::block::{BlockBody, ChangeSetBody},
        types::{KeyGroupRange, Name, Sqn, SqnRange},
    };

    fn set(subtask: u32, bytes: usize) -> ChangeSet {
        let name = |name| Name::new(name).unwrap();
        let range = SqnRange { from: Sqn(0), to: Sqn(1) };
        let key_groups = KeyGroupRange::new(0, 0).unwrap();
        ChangeSet {
            backend: BackendId { job: name("job"), operator: name("op"), subtask },
            epoch: 1,
            body: ChangeSetBody {
                blocks: vec![BlockBody { bytes: vec![0; bytes].into(), key_groups }],
                range,
                changes: 1,
            },
        }
    }

    /// A batcher with three writers, and a time to begin at.
    fn batcher(delay_ms: u64, threshold: u64) -> (Batcher<u32>, Instant) {
        let persist_delay = Duration::from_millis(delay_ms);
        let mut batcher = Batcher::new(BatchOptions { persist_delay, persist_size_threshold: threshold });
        for _ in 0..3 {
            batcher.writer_joined();
        }
        (batcher, Instant::now())
    }

    fn tickets(segment: Option<Vec<(ChangeSet, u32)>>) -> Option<Vec<u32>> {
        segment.map(|sets| sets.into_iter().map(|(_, ticket)| ticket).collect())
    }

    #[test]
    fn without_delay_and_threshold_each_goes_at_once_and_alone_in_order() {
        let (mut batcher, now) = batcher(0, 0);
        for ticket in 0..3 {
            batcher.push(now, set(0, 5), false, ticket);
        }
        for ticket in 0..3 {
            assert_eq!(tickets(batcher.take(now)), Some(vec![ticket]));
        }
        assert_eq!((tickets(batcher.take(now)), batcher.deadline()), (None, None));
    }

    #[test]
    fn below_the_size_threshold_nothing_goes_and_reaching_it_sends_everything_at_once() {
        let (mut batcher, now) = batcher(1_000, 10);
        batcher.push(now, set(0, 4), false, 1);
        batcher.push(now, set(0, 5), false, 2);
        assert_eq!(tickets(batcher.take(now)), None);
        batcher.push(now, set(1, 1), false, 3);
        assert_eq!(tickets(batcher.take(now)), Some(vec![1, 2, 3]));
        assert_eq!((batcher.waiting(), batcher.waiting_bytes()), (0, 0));
    }

    #[test]
    fn one_timer_runs_from_the_first_and_sends_the_sets_of_all_in_one_segment() {
        let (mut batcher, now) = batcher(10, 1_000);
        let at = |ms| now + Duration::from_millis(ms);
        batcher.push(now, set(0, 4), false, 1);
        batcher.push(at(9), set(1, 4), false, 2);
        assert_eq!((tickets(batcher.take(at(9))), batcher.deadline()), (None, Some(at(10))));
        assert_eq!(tickets(batcher.take(at(10))), Some(vec![1, 2]));
        assert_eq!((tickets(batcher.take(at(11))), batcher.deadline()), (None, None));
    }

    #[test]
    fn an_empty_batcher_makes_no_segment() {
        let (mut batcher, now) = batcher(0, 0);
        assert_eq!(tickets(batcher.take(now)), None);
    }

    #[test]
    fn nobody_is_waited_for_once_every_writer_has_submitted() {
        let (mut batcher, now) = batcher(10, 1_000);
        for (ticket, subtask) in [(1, 0), (2, 0), (3, 1)] {
            batcher.push(now, set(subtask, 1), false, ticket);
            assert_eq!(tickets(batcher.take(now)), None);
        }
        batcher.push(now, set(2, 1), false, 4);
        assert_eq!(tickets(batcher.take(now)), Some(vec![1, 2, 3, 4]));
    }

    #[test]
    fn a_single_writer_never_waits_nor_do_the_others_of_one_that_left() {
        let (mut batcher, now) = batcher(10, 1_000);
        batcher.push(now, set(0, 1), false, 1);
        batcher.writer_left();
        assert_eq!(tickets(batcher.take(now)), None);
        batcher.writer_left();
        assert_eq!(tickets(batcher.take(now)), Some(vec![1]));
        batcher.push(now, set(0, 1), false, 2);
        assert_eq!(tickets(batcher.take(now)), Some(vec![2]));
    }

    #[test]
    fn an_urgent_set_takes_along_all_that_wait() {
        let (mut batcher, now) = batcher(10, 1_000);
        batcher.push(now, set(0, 1), false, 1);
        batcher.push(now, set(1, 1), true, 2);
        assert_eq!(tickets(batcher.take(now)), Some(vec![1, 2]));
    }

    #[test]
    fn what_piled_up_goes_in_full_segments_to_the_last_set_that_was_due() {
        let (mut batcher, now) = batcher(1_000, 10);
        for ticket in 0..5 {
            batcher.push(now, set(0, 6), false, ticket);
        }
        assert_eq!(tickets(batcher.take(now)), Some(vec![0, 1]));
        assert_eq!(batcher.waiting_bytes(), 18);
        assert_eq!(tickets(batcher.take(now)), Some(vec![2, 3]));
        assert_eq!(tickets(batcher.take(now)), Some(vec![4]));
        batcher.push(now, set(0, 6), false, 5);
        assert_eq!(tickets(batcher.take(now)), None);
    }

    #[test]
    fn a_withdrawn_set_is_never_sent() {
        let (mut batcher, now) = batcher(1_000, 10);
        for (ticket, subtask) in [(0, 7), (1, 8), (2, 7), (3, 7), (4, 9)] {
            batcher.push(now, set(subtask, 6), false, ticket);
        }
        let backend = set(7, 0).backend;
        assert_eq!(tickets(batcher.take(now)), Some(vec![0, 1]));
        assert_eq!(batcher.withdraw(&backend, 2), Vec::<u32>::new());
        assert_eq!(batcher.withdraw(&backend, 1), [2, 3]);
        assert_eq!(batcher.waiting_bytes(), 6);
        assert_eq!(tickets(batcher.take(now)), Some(vec![4]), "was due before the withdrawal");
        batcher.push(now, set(9, 6), false, 5);
        assert_eq!(batcher.clear(), [5]);
        assert_eq!((batcher.waiting(), batcher.waiting_bytes(), batcher.deadline()), (0, 0, None));
    }
}
