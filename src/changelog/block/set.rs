//! Builds change sets: one block while they are short, then one for each part of the key groups.
//!
//! ```text
//!   whole ──SPLIT_BYTES──▶ blocks: part 0 │ part 1 │ …      each change goes to the block of its key group's part
//! ```
//!
//! Changes of operator state ([`KeyGroup::OPERATOR`]) have a block of their own from the first change on: after a
//! rescale every subtask reads the operator state of all others, and nothing else of them.
//!
//! So a reader of some key groups fetches only some blocks, and a small checkpoint stays small. Only the short
//! beginning is copied, once per change set; later changes go to their block directly. The order of a key's changes
//! stays: they have the same key group, and so are in the same block.

use super::{BlockReader, ChangeSetBody, builder::BlockBuilder};
use crate::types::{KeyGroup, KeyGroupRange, Sqn, SqnRange, TimeMs};

/// Builds one change set after the other, like [`BlockBuilder`] for blocks.
///
/// Invariants: `blocks` is empty, or has one builder per part, all with the same batch open or none; then `whole` is
/// empty.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct ChangeSetBuilder {
    /// The parts of the key groups: at least one, disjoint, in order.
    parts: Vec<KeyGroupRange>,
    split_bytes: usize,
    whole: BlockBuilder,
    blocks: Vec<BlockBuilder>,
    /// The block of operator state; `None` before its first change in this change set.
    operator: Option<BlockBuilder>,
    /// Lengths of the blocks of the last change set, which the next ones may need again.
    last_lengths: Vec<usize>,
    open: Option<(Sqn, TimeMs)>,
}

impl ChangeSetBuilder {
    /// An empty builder of change sets with the key groups `parts`, which are disjoint and in order. A change set of at
    /// least `split_bytes` has a block for each part that it changes.
    ///
    /// # Panics
    /// If there are no parts.
    #[must_use]
    pub fn new(parts: Vec<KeyGroupRange>, split_bytes: usize) -> Self {
        assert!(!parts.is_empty(), "change sets have key groups");
        // With one part there is nothing to split, and the copy would only cost.
        let split_bytes = if parts.len() == 1 { usize::MAX } else { split_bytes };
        let (blocks, last_lengths) = Default::default();
        Self { parts, split_bytes, whole: BlockBuilder::new(), blocks, operator: None, last_lengths, open: None }
    }

    /// Opens the batch `sqn`, applied at `time`. Writes nothing yet. As long as time does not go back, appending never
    /// makes a change set shorter, not even when it is split.
    ///
    /// # Panics
    /// If a batch is open, or `sqn` is not above all earlier ones.
    pub fn begin_batch(&mut self, sqn: Sqn, time: TimeMs) {
        self.builders().for_each(|builder| builder.begin_batch(sqn, time));
        self.open = Some((sqn, time));
    }

    /// Appends one change to the open batch. `encode` appends its bytes, and must not touch the bytes before them.
    ///
    /// # Panics
    /// If no batch is open.
    pub fn push(&mut self, key_group: KeyGroup, encode: impl FnOnce(&mut Vec<u8>)) {
        if key_group == KeyGroup::OPERATOR {
            self.operator().push(key_group, encode);
        } else if self.blocks.is_empty() {
            self.whole.push(key_group, encode);
            if self.whole.len() >= self.split_bytes {
                self.split();
            }
        } else {
            self.block(key_group).push(key_group, encode);
        }
    }

    /// Ends the open batch; returns whether it had changes, and so uses its sequence number.
    ///
    /// # Panics
    /// If no batch is open.
    pub fn end_batch(&mut self) -> bool {
        self.open = None;
        // Not `||`, which would skip the later builders once one has changed: each of them has the batch open and must
        // end it.
        self.builders().fold(false, |changed, builder| builder.end_batch() | changed)
    }

    /// Ends the open batch and removes its changes. Without an open batch, nothing happens.
    pub fn abandon_batch(&mut self) {
        self.open = None;
        self.builders().for_each(BlockBuilder::abandon_batch);
    }

    /// Bytes of the change set so far, an open batch included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.whole_or_blocks().iter().chain(&self.operator).map(BlockBuilder::len).sum()
    }

    /// Whether no batch with changes has ended since the change set was started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.whole_or_blocks().iter().chain(&self.operator).all(BlockBuilder::is_empty)
    }

    /// Returns the change set and starts the next one; `None` if it [is empty](Self::is_empty).
    ///
    /// # Panics
    /// If a batch is open.
    pub fn finish(&mut self) -> Option<ChangeSetBody> {
        assert!(self.open.is_none(), "a change set ends inside of a batch");
        // Taken first, so that the next change set begins without a block of operator state.
        let operator = self.operator.take();
        if self.blocks.is_empty() && operator.is_none() {
            return self.whole.finish();
        }
        let mut blocks = std::mem::take(&mut self.blocks);
        if blocks.is_empty() {
            // Keyed changes may be few enough for one block although there is a second one, of operator state.
            blocks.push(std::mem::take(&mut self.whole));
        } else {
            self.last_lengths = blocks.iter().map(BlockBuilder::len).collect();
        }
        let body = blocks.into_iter().chain(operator).filter_map(BlockBuilder::close).reduce(|mut all, more| {
            all.blocks.extend(more.blocks);
            // All blocks of a set begin at the same `from`, but each ends with its own last batch.
            all.range = SqnRange { from: all.range.from, to: all.range.to.max(more.range.to) };
            all.changes += more.changes;
            all
        });
        self.whole =
            BlockBuilder::with_capacity(self.split_bytes, body.as_ref().map_or(Sqn::default(), |b| b.range.to));
        body
    }

    /// Switches to one block per part, in the middle of the open batch.
    #[cold]
    fn split(&mut self) {
        let (sqn, time) = self.open.expect("changes are pushed to an open batch");
        let (lowest, highest) = self.whole.bounds().expect("a change was pushed");
        let (first, last) = (self.part(lowest), self.part(highest));
        // A load tends to stay as it is, so the last set tells how long each block will become. Guessing wrong costs a
        // reallocation, no more.
        let lengths = self.last_lengths.iter().copied().chain(std::iter::repeat(self.split_bytes));
        let lengths = lengths.take(self.parts.len());
        self.blocks = lengths.map(|length| BlockBuilder::of_part(&self.whole, length)).collect();
        let mut whole = std::mem::take(&mut self.whole);
        if first == last {
            // The other parts have no changes yet.
            self.blocks.iter_mut().for_each(|block| block.begin_batch(sqn, time));
            *self.block(lowest) = whole;
            return;
        }
        // The open batch is ended to make it readable, and opened again in each block below.
        whole.end_batch();
        let body = whole.close().expect("it has a change");
        let bytes = body.blocks.first().map(|block| block.bytes.clone()).unwrap_or_default();
        for batch in BlockReader::new(&bytes, body.range) {
            let mut batch = batch.expect("what was built reads back");
            self.blocks.iter_mut().for_each(|block| block.begin_batch(batch.sqn, batch.time));
            while let Some((key_group, record)) = batch.changes.next_record() {
                self.block(key_group).push_record(key_group, record);
            }
            // The last batch is the one that is still open: more changes of it may follow.
            if batch.sqn != sqn {
                self.blocks.iter_mut().for_each(|block| _ = block.end_batch());
            }
        }
    }

    /// The block of operator state, which is begun if there is none.
    fn operator(&mut self) -> &mut BlockBuilder {
        if self.operator.is_none() {
            let (sqn, time) = self.open.expect("changes are pushed to an open batch");
            // All blocks agree on where the change set begins. The gaps in a block count from there, so a block of
            // operator state with another beginning would be read with other sequence numbers.
            let keyed = self.whole_or_blocks().first().expect("there is a block at least");
            let mut block = BlockBuilder::of_part(keyed, 0);
            block.begin_batch(sqn, time);
            let from = block.from().expect("a part knows where its change set begins");
            // The block of keyed changes may still be empty, and would later begin at its own first batch.
            self.whole.begin_at(from);
            self.operator = Some(block);
        }
        self.operator.as_mut().expect("it was made")
    }

    /// The position of the part of `key_group`; of the last part if the key group is above all.
    fn part(&self, key_group: KeyGroup) -> usize {
        // Without branches: key groups come in random order, and a wrong branch prediction costs more than these
        // comparisons.
        let before = self.parts.iter().filter(|part| part.last() < key_group).count();
        before.min(self.parts.len() - 1)
    }

    /// The block of `key_group`, after the split.
    fn block(&mut self, key_group: KeyGroup) -> &mut BlockBuilder {
        let part = self.part(key_group);
        self.blocks.get_mut(part).expect("there is a block per part")
    }

    fn whole_or_blocks(&self) -> &[BlockBuilder] {
        if self.blocks.is_empty() { std::slice::from_ref(&self.whole) } else { &self.blocks }
    }

    fn builders(&mut self) -> impl Iterator<Item = &mut BlockBuilder> {
        let keyed = if self.blocks.is_empty() { std::slice::from_mut(&mut self.whole) } else { &mut self.blocks };
        keyed.iter_mut().chain(&mut self.operator)
    }
}
