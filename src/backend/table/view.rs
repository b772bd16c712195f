//! The view that one batch has of a table: its time, its answers so far, and the room that is left in its reply.

use crate::{
    state::{
        TimerRef,
        op::{Answer, OpContext, Upkeep, lists::Cursors, scan::Reach},
    },
    types::{KeyGroupRange, Limits, StateDescriptor, TimeMs},
};

/// Bytes of a reply that stay free for its framing.
pub(super) const REPLY_OVERHEAD_BYTES: usize = 64 << 10;

/// The progress of a batch, and its answers so far.
#[derive(Debug, Default)]
pub(crate) struct BatchView {
    pub(super) answers: Vec<(u32, Option<Answer>)>,
    /// Bytes of answers that still fit into the reply.
    room: usize,
    /// Number of operations that were carried out.
    pub(super) done: usize,
    /// The time of the batch, which all its operations see.
    pub(super) time: TimeMs,
    /// Longest value that an operation may write or make, in bytes.
    max_value_bytes: usize,
    /// The scope of scan tokens of this owner.
    scope: u64,
}

impl BatchView {
    /// A batch that begins at `time`, whose scan tokens are of `scope`.
    pub(super) fn new(limits: &Limits, scope: u64, time: TimeMs) -> Self {
        let room = limits.max_message_bytes.saturating_sub(REPLY_OVERHEAD_BYTES);
        Self { answers: vec![], room, done: 0, time, max_value_bytes: limits.max_value_bytes, scope }
    }

    /// Makes room for so many answers that are still to come.
    pub(super) fn expect(&mut self, answers: usize) {
        self.answers.reserve_exact(answers);
    }

    /// Whether the longest possible answer no longer fits, so that further answers are left out.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        // A timer has a key and a namespace.
        let longest = limits.max_value_bytes.max(2 * limits.max_key_bytes + TimerRef::FRAME_BYTES);
        !self.answers.is_empty() && self.room < longest
    }

    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Records the answer of the next operation; `None` if there was no room for it.
    pub(super) fn answered(&mut self, answer: Option<Answer>) {
        let position = u32::try_from(self.done).expect("the number of operations is limited");
        self.room = self.room.saturating_sub(answer.as_ref().map_or(0, reply_bytes));
        self.answers.push((position, answer));
        self.done += 1;
    }

    /// The context in which the next operation is executed, on a state with this descriptor. Without a key it reads
    /// `key_groups`. `cursors` has positions in lists, by the tokens of pages that were handed out.
    pub(super) fn context<'a>(
        &self,
        descriptor: &'a StateDescriptor,
        key_groups: KeyGroupRange,
        upkeep: Option<&'a Upkeep>,
        cursors: &'a Cursors,
    ) -> OpContext<'a> {
        OpContext {
            descriptor,
            max_value_bytes: self.max_value_bytes,
            page_bytes: self.room,
            key_groups,
            scope: self.scope,
            time: self.time,
            upkeep,
            reach: Reach::default(),
            cursors: Some(cursors),
        }
    }
}

/// Most bytes that an answer takes in a reply.
pub(super) fn reply_bytes(answer: &Answer) -> usize {
    /// Tags and lengths of one result or entry.
    const FRAME: usize = 24;
    FRAME
        + match answer {
            Answer::Value(value) => value.as_ref().map_or(0, bytes::Bytes::len),
            Answer::Default(value) => value.len(),
            Answer::Entries { entries, .. } => entries.iter().map(|(key, value)| key.len() + value.len() + FRAME).sum(),
            Answer::Elements { elements, token } => {
                let token = token.as_ref().map_or(0, bytes::Bytes::len);
                elements.iter().map(|element| element.len() + FRAME).sum::<usize>() + token
            }
            Answer::Keys { keys, .. } => keys.iter().map(|(_, key, ns)| key.len() + ns.len() + FRAME).sum(),
            Answer::Timers { timers, token } => {
                let token = token.as_ref().map_or(0, bytes::Bytes::len);
                timers.iter().map(|timer| timer.as_ref().page_bytes()).sum::<usize>() + token
            }
            Answer::Fired { timers, .. } => timers.iter().map(|timer| timer.as_ref().page_bytes()).sum(),
            Answer::Found(_) | Answer::Count(_) | Answer::LimitReached | Answer::AskAgain => 0,
        }
}
