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

/// About the bytes that one page of a count reads.
const PAGE_BYTES: usize = 1 << 20;

/// Bounds of one slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct SliceSize {
    /// Most operations of one slice.
    pub(super) operations: usize,
    /// Most entries that are looked at.
    pub(super) entries: usize,
}

impl SliceSize {
    /// The size for reads that may have to wait for a disk, or not: about a millisecond of work.
    pub(super) fn new(may_block: bool) -> Self {
        if may_block { Self { operations: 8, entries: 4_096 } } else { Self { operations: 64, entries: 65_536 } }
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
        // A batch that fits one slice gains nothing: the body reads it in one go.
        let may_block = self.inner.may_block();
        let size = SliceSize::new(may_block);
        let counts = |operation: &Operation<'_>| matches!(operation.op, Op::MapCount | Op::ListCount);
        if operations.len() <= size.operations && !operations.iter().any(counts) {
            return Ok(false);
        }
        if ahead.slices == 0 {
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
        let (end, mut entries) = (ahead.view.done + size.operations, size.entries);
        let may_block = self.inner.may_block();
        // If many reads may each wait for a disk, none of them cleans up expired entries.
        let is_long = may_block && operations.len() > size.operations;
        while let Some(operation) = operations.get(ahead.view.done) {
            if ahead.view.done >= end || entries == 0 {
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
