//! Carries out long batches of reads a slice at a time. Between two slices other callers may get the core, and the
//! caller may go away.
//!
//! ```text
//!   batch   read read count count … read │ write read write …
//!           ╰─ slice ─╯╰─ slice ─╯  …     ╰─ body: in one go, whole or not at all
//! ```
//!
//! The *leading* reads of a batch, those before its first possible change, change nothing. So they may be carried out
//! ahead of the rest, as long as no other batch comes between; the lane of batches makes sure of that. Slices are
//! bounded by counts instead of times, so that a batch is cut into the same slices wherever it runs.

use super::{
    Table,
    check::{address, read_key_groups},
    view::BatchView,
};
use crate::{
    backend::{error, words::Operation},
    state::{
        Address, PageLimit, StateBackend, StateError,
        op::{
            self, Answer, Op,
            count::{self, PagedCount},
        },
        ttl::Lifespan,
    },
    tasks,
    types::{KeyGroup, Limits, StateDescriptor, TimeMs, TtlUpdate},
};

/// Bytes of an answer that count as one entry.
const ENTRY_BYTES: usize = 64;

/// The cost of an operation that may read many entries, in operations that read one from memory.
const OTHER_COST: usize = 16;

/// About the bytes that one page of a count reads.
const PAGE_BYTES: usize = 1 << 20;

/// Bounds of one slice: about a millisecond of work.
#[derive(Debug, Clone, Copy)]
struct SliceSize {
    /// Most operations of one slice, each of them as many as it [costs](Self::cost).
    work: usize,
    /// The cost of an operation that reads one entry.
    point: usize,
    /// Most entries that are looked at.
    entries: usize,
}

impl SliceSize {
    /// The size for reads that may have to wait for a disk, or not.
    fn new(may_block: bool) -> Self {
        if may_block {
            // Most reads of one entry are answered by a cache. Smaller slices would mostly pay for their beginnings,
            // since the tasks of this thread move to another one at each.
            Self { work: 8 * OTHER_COST, point: OTHER_COST / 8, entries: 4_096 }
        } else {
            Self { work: 64 * OTHER_COST, point: 1, entries: 65_536 }
        }
    }

    fn cost(self, op: &Op<'_>) -> usize {
        if op.is_point() { self.point } else { OTHER_COST }
    }

    /// The number of leading reads of `operations` that fit one slice.
    fn fitting(self, operations: &[Operation<'_>]) -> usize {
        let mut left = self.work;
        let fits = |operation: &&Operation<'_>| {
            let after = left.checked_sub(self.cost(&operation.op));
            left = after.unwrap_or(0);
            !operation.op.is_write() && after.is_some()
        };
        operations.iter().take_while(fits).count()
    }

    /// Whether one slice is enough for all leading reads of `operations`.
    fn takes_all(self, operations: &[Operation<'_>]) -> bool {
        let (reads, rest) = operations.split_at(self.fitting(operations));
        let counts = |operation: &Operation<'_>| matches!(operation.op, Op::MapCount | Op::ListCount);
        rest.first().is_none_or(|operation| operation.op.is_write()) && !reads.iter().any(counts)
    }
}

/// A count that may need more than one slice.
#[derive(Debug, Default)]
pub(super) struct Counted(Option<PagedCount>);

impl Counted {
    /// Whether a count has begun and not ended.
    pub(super) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Goes on counting, over at most `entries`, which is reduced by the number of entries that were looked at. `None`
    /// if another slice has to go on.
    pub(super) fn next(
        &mut self,
        reads: &dyn StateBackend,
        at: Address<'_>,
        of: (&Op<'_>, &StateDescriptor, TimeMs),
        entries: &mut usize,
    ) -> Result<Option<u64>, StateError> {
        let counted = self.0.get_or_insert_default();
        let (op, descriptor, time) = of;
        let life = descriptor.ttl.map(|ttl| Lifespan::new(ttl, time));
        loop {
            let page = counted.page(reads, at, op, life, PageLimit { entries: *entries, bytes: PAGE_BYTES })?;
            *entries = entries.saturating_sub(page.looked_at);
            if page.total.is_some() {
                self.0 = None;
                return Ok(page.total);
            }
            if *entries == 0 {
                return Ok(None);
            }
        }
    }
}

/// The leading reads of one batch.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    view: BatchView,
    counted: Counted,
    /// Number of slices that were read.
    slices: usize,
}

impl Ahead {
    /// The progress with which the rest of the batch goes on.
    pub(super) fn view(self, limits: &Limits, scope: u64) -> BatchView {
        if self.slices == 0 { BatchView::new(limits, scope, 0) } else { self.view }
    }
}

impl Table {
    /// Carries out a slice of the leading reads of `operations`, if the batch is long enough to need slices. Returns
    /// whether others follow. If the batch is malformed, nothing is read: applying the rest returns the error.
    ///
    /// # Errors
    /// The fault of the inner backend, as text.
    pub(crate) fn read_ahead(
        &mut self,
        operations: &[Operation<'_>],
        ahead: &mut Ahead,
        changes_nothing: bool,
    ) -> Result<bool, String> {
        let may_block = self.inner.may_block();
        let size = SliceSize::new(may_block);
        if ahead.slices == 0 {
            // Leading reads that fit one slice gain nothing: the body reads them in one go, and checks the batch once.
            if size.takes_all(operations) {
                return Ok(false);
            }
            // The body checks again, and returns the error. Before that nothing may be read of a batch that is refused.
            if self.check_batch(operations).is_err() {
                return Ok(false);
            }
            self.pass_time();
            ahead.view = BatchView::new(&self.env.options.limits, self.scope, self.time);
        }
        ahead.slices += 1;
        let read = tasks::blocking_if(may_block, || self.read_slice(operations, ahead, size, changes_nothing));
        read.map_err(|fault| error::inner(&fault))
    }

    fn read_slice(
        &mut self,
        operations: &[Operation<'_>],
        ahead: &mut Ahead,
        size: SliceSize,
        changes_nothing: bool,
    ) -> Result<bool, StateError> {
        let (done, mut entries) = (ahead.view.done, size.entries);
        let end = done + size.fitting(operations.get(done..).unwrap_or_default());
        let may_block = self.inner.may_block();
        // If many reads may each wait for a disk, none of them cleans up expired entries.
        let is_long = may_block && operations.len() > size.work / OTHER_COST;
        // The key groups are those of this batch: no other batch was checked since.
        let places = operations.iter().zip(&self.key_groups).take(end).skip(done);
        self.inner.warm(&mut places.map(|(operation, group)| address(operation, *group)));
        while let Some(operation) = operations.get(ahead.view.done) {
            let is_over = ahead.view.done >= end || entries == 0;
            if is_over && !operation.op.is_write() {
                return Ok(true);
            }
            // The batch was checked before, so this does not happen.
            let Ok(key_group) = self.check_operation(ahead.view.done, operation) else { return Ok(false) };
            let Some(descriptor) = self.states.get(operation.state) else { return Ok(false) };
            let is_paged = count::is_paged(&operation.op, descriptor, may_block);
            let is_timed = descriptor.ttl.is_some() && !changes_nothing;
            let touches = descriptor.ttl.is_some_and(|ttl| ttl.update == TtlUpdate::OnReadAndWrite);
            if operation.op.is_write() || (is_timed && !is_paged && (touches || !is_long)) {
                return Ok(false);
            }
            // An operation of bounded cost, or one that is left out of a full reply.
            if !is_paged || ahead.view.is_full(&self.env.options.limits) {
                let before = ahead.view.room();
                self.read_one(operation, key_group, &mut ahead.view)?;
                entries = entries.saturating_sub(1 + (before - ahead.view.room()) / ENTRY_BYTES);
                continue;
            }
            let of = (&operation.op, descriptor, ahead.view.time);
            let is_first = !ahead.counted.is_under_way();
            let at = address(operation, key_group);
            let Some(total) = ahead.counted.next(&self.inner, at, of, &mut entries)? else { return Ok(true) };
            if is_timed && is_first && !is_long {
                // A count this short is left to the body, which also cleans up.
                return Ok(false);
            }
            ahead.view.answered(Some(Answer::Count(total)));
        }
        Ok(false)
    }

    /// Carries out one read of a batch, which changes nothing.
    fn read_one(
        &mut self,
        operation: &Operation<'_>,
        key_group: KeyGroup,
        view: &mut BatchView,
    ) -> Result<(), StateError> {
        let limits = &self.env.options.limits;
        if view.is_full(limits) {
            view.answered(None);
            return Ok(());
        }
        let descriptor = self.states.get(operation.state).expect("a checked operation has a state");
        let key_groups = read_key_groups(operation, key_group, self.shape.key_groups);
        let context = view.context(descriptor, key_groups, None, self.clean_ups.lists());
        let at = address(operation, key_group);
        let answer = op::execute(&mut self.inner, at, &operation.op, &context, &mut |_| {})?;
        view.answered(answer);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::{state::MapKeys, types::StateId};

    fn operations(count: usize, op: Op<'static>) -> Vec<Operation<'static>> {
        vec![Operation { state: StateId(1), key_group: None, key: b"key", namespace: b"", op }; count]
    }

    #[test]
    fn a_slice_has_many_reads_of_one_entry_each_if_they_are_in_memory() {
        let gets = operations(2_000, Op::Get);
        let pages = operations(2_000, Op::MapEntries { keys: MapKeys::default(), limit: 0 });
        let both = [operations(512, Op::Get), pages.clone()].concat();
        let fitting =
            |may_block| [&gets, &pages, &both].map(|operations| SliceSize::new(may_block).fitting(operations));
        assert_eq!(fitting(false), [1_024, 64, 512 + 32]);
        assert_eq!(fitting(true), [64, 8, 64]);
    }

    #[test]
    fn only_leading_reads_that_are_many_or_counts_need_slices() {
        let takes_all = |parts: &[&[Operation<'_>]]| SliceSize::new(true).takes_all(&parts.concat());
        let (puts, gets) = (&operations(2_000, Op::Put(b""))[..], &operations(2_000, Op::Get)[..]);
        let (few, many) = (&gets[..64], &gets[..65]);
        assert!(takes_all(&[]) && takes_all(&[puts]) && takes_all(&[puts, gets]));
        assert!(takes_all(&[few]) && takes_all(&[few, puts]));
        assert!(!takes_all(&[many]) && !takes_all(&[many, puts]));
        let counts = &operations(1, Op::MapCount)[..];
        assert!(!takes_all(&[counts]) && takes_all(&[puts, counts]));
    }
}
