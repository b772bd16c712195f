//! Goes on after a rejected batch or a broken stream.

use std::collections::VecDeque;

use super::{Asked, Book, Item, Sent};
use dstl_proto::v1::{Acknowledgement, SessionHalted, SessionStarted, session_halted::Refused};

use crate::{
    ClientError, batch,
    error::violation,
    outgoing::{Outgoing, Waiter},
};

impl Book {
    /// Sends the reads of an applied batch again.
    pub(super) fn ask_again(&mut self, outgoing: Outgoing, number: u64) -> Result<(), ClientError> {
        if let Some(again) = outgoing.reads_again(number)? {
            self.ask_first(again);
        }
        Ok(())
    }

    /// Puts reads at the front of the queue, but behind a pending Resume.
    pub(super) fn ask_first(&mut self, reads: Outgoing) {
        let resume = matches!(self.queue.front(), Some(Item::Resume(_)));
        let item = self.item(reads);
        self.queue.insert(usize::from(resume), item);
    }

    /// Fails the rejected batch, and puts everything behind it back into the queue, in order, behind a Resume.
    ///
    /// The daemon refuses everything until it reads that Resume. By then it has read and refused everything that was in
    /// flight. So only the refusal of the rejected batch itself matters; the others only repeat it.
    pub(crate) fn on_halted(&mut self, halted: SessionHalted) -> Result<(), ClientError> {
        let first_failed = halted.first_failed;
        if halted.refused != Some(Refused::Batch(first_failed)) {
            return Ok(());
        }
        let is_failed = |sent: &Sent| matches!(sent, Sent::Batch(number, _) if *number == first_failed);
        let Some(position) = self.sent.iter().position(is_failed) else {
            return Err(violation(format!("batch {first_failed} is rejected but not in flight")));
        };
        let mut behind = self.sent.split_off(position);
        let failed = behind.pop_front();
        // Ordering: three things are put in front of the queue, the last one first: the items behind the failed batch,
        // the halves of it, and the Resume. So the daemon reads the Resume first, and the order of the task is kept.
        // Without the Resume in front, it would refuse the others.
        self.put_back(behind);
        self.next = first_failed;
        if let Some(Sent::Batch(_, failed)) = failed {
            self.sent_batches -= 1;
            let error = halted.error.unwrap_or_default().into();
            self.reject_or_split(failed, &error)?;
        }
        self.queue.push_front(Item::Resume(first_failed));
        Ok(())
    }

    /// Rejects a batch. A batch with the operations of several callers is halved and tried again, so that in the end
    /// only the faulty operation fails.
    fn reject_or_split(&mut self, failed: Outgoing, error: &ClientError) -> Result<(), ClientError> {
        // Reads that are sent again keep the indexes of their first batch, and are not divided.
        let Outgoing { sealed, waiter: Some(Waiter::Each(mut replies)), again: None, .. } = failed else {
            failed.reject(error);
            return Ok(());
        };
        if replies.len() < 2 {
            Outgoing::shared(sealed, replies).reject(error);
            return Ok(());
        }
        let half = replies.len() / 2;
        let (head, tail) = batch::split(&sealed, half)?;
        let later = replies.split_off(half);
        // The tail is put in front first, so that the head comes before it.
        for (sealed, replies) in [(tail, later), (head, replies)] {
            let item = self.item(Outgoing::shared(sealed, replies));
            self.queue.push_front(item);
        }
        Ok(())
    }

    /// Moves everything that was in flight back to the front of the queue, except barriers that were answered
    /// meanwhile.
    fn put_back(&mut self, behind: VecDeque<Sent>) {
        for sent in behind.into_iter().rev() {
            match sent {
                Sent::Batch(_, outgoing) => {
                    self.sent_batches -= 1;
                    self.queue.push_front(Item::Batch(outgoing));
                }
                Sent::Barrier(id) => {
                    if let Some(pending) = self.barriers.remove(&id) {
                        self.queue.push_front(Item::Barrier(pending));
                    }
                }
            }
        }
    }

    /// Handles the end of a stream, on which nothing more will come: checkpoints in flight are lost; notices and
    /// persist requests are sent again.
    pub(crate) fn on_break(&mut self) {
        for (checkpoint_id, pending) in std::mem::take(&mut self.barriers) {
            // A barrier is not sent again: the daemon may have its checkpoint, and an id is used once.
            let _ = pending.reply.send(Err(ClientError::CheckpointInterrupted { checkpoint_id }));
        }
        // A halt ends with its stream.
        if matches!(self.queue.front(), Some(Item::Resume(_))) {
            self.queue.pop_front();
        }
        for asked in std::mem::take(&mut self.asked).into_iter().rev() {
            match asked {
                Asked::Notice(notice, reply) => self.notices.push_front((notice, reply)),
                Asked::Persist(_, reply) => self.queue.push_front(Item::Persist(reply)),
            }
        }
    }

    /// Handles the start of a new stream: batches that the daemon has applied are settled, the others are sent again.
    pub(crate) fn on_started(&mut self, started: &SessionStarted) -> Result<(), ClientError> {
        let applied_to = started.applied_to;
        if applied_to < self.acknowledged.applied_to || applied_to > self.next {
            return Err(violation(format!(
                "the next batch is {applied_to}, yet {} were acknowledged and {} were sent",
                self.acknowledged.applied_to, self.next
            )));
        }
        // Credit is counted for each stream.
        self.granted = started.credit;
        self.used = 0;
        // Ordering 1: applied batches leave `sent`, or they would be applied twice.
        // Ordering 2: the others go back to the front of the queue, and numbers begin where the daemon stands.
        // Ordering 3: reads without an answer go in front of them, from the last to the first, so they end up in their
        // order.
        self.on_acknowledgement(&Acknowledgement { applied_to, ..Acknowledgement::default() })?;
        let rest = std::mem::take(&mut self.sent);
        self.put_back(rest);
        self.next = applied_to;
        for (number, outgoing) in std::mem::take(&mut self.unanswered).into_iter().rev() {
            self.ask_again(outgoing, number)?;
        }
        Ok(())
    }
}
