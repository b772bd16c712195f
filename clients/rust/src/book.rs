//! The book of a session: requests that wait, requests in flight, and answers that are due. It does no I/O; the worker
//! does that.
//!
//! ```text
//!   callers ─▶ collector ─▶ queue ──(credit)──▶ sent ──(acknowledged)──▶ done
//!                             ▲                  │
//!                             └── halt, break ───┘
//! ```
//!
//! Invariants:
//! * `queue` and `sent` together are the order in which the task sent; `sent` comes first.
//! * A batch gets its number when it moves to `sent`, so numbers in `sent` are consecutive and end before `next`.
//! * `used <= granted` on every stream.
//! * A batch leaves `sent` only when it is applied, rejected, or put back.

mod recovery;

use std::collections::{BTreeMap, VecDeque};

use super::{
    ClientError,
    batch::{BatchBuilder, Sealed},
    error::violation,
    outgoing::{Outgoing, Reply},
    touched::Touched,
    wire::{self, Frame},
};
use dstl_proto::v1::{
    Acknowledgement, Barrier, BatchResult, CheckpointCompleted, CheckpointFailed, Limits, Notice, NoticeOutcome,
    NoticeReply, OperationResult, PersistMark, PersistReply, Resume, SessionRequest, SessionStarted,
    session_request::Request,
};

/// Most batches in flight; reads cost no credit, so credit does not bound them.
const MAX_SENT_BATCHES: usize = 4096;
/// Most items that wait in the queue before callers wait.
const MAX_QUEUED: usize = 256;
/// Operations and bytes at which collected operations become a batch.
const MAX_COLLECTED_OPERATIONS: usize = 4096;
const MAX_COLLECTED_BYTES: usize = 256 << 10;

/// An item that waits in order.
#[derive(Debug)]
enum Item {
    Resume(u64),
    Batch(Outgoing),
    Barrier(PendingBarrier),
    Persist(Reply<PersistReply>),
}

/// An item in flight, in order. Barriers are only marks: their answers come in any order.
#[derive(Debug)]
enum Sent {
    Batch(u64, Outgoing),
    Barrier(u64),
}

#[derive(Debug)]
struct PendingBarrier {
    barrier: Barrier,
    reply: Reply<CheckpointCompleted>,
}

/// Requests that the daemon answers with one message each, in the order of the requests.
#[derive(Debug)]
enum Asked {
    Notice(Notice, Reply<NoticeOutcome>),
    Persist(u64, Reply<PersistReply>),
}

/// The book of a session; see the documentation of this module.
#[derive(Debug)]
pub(super) struct Book {
    limits: Limits,
    touched: Touched,
    collector: BatchBuilder,
    callers: Vec<Reply<OperationResult>>,
    queue: VecDeque<Item>,
    notices: VecDeque<(Notice, Reply<NoticeOutcome>)>,
    sent: VecDeque<Sent>,
    sent_batches: usize,
    /// Applied batches of reads whose results have not come yet.
    unanswered: BTreeMap<u64, Outgoing>,
    barriers: BTreeMap<u64, PendingBarrier>,
    asked: VecDeque<Asked>,
    next: u64,
    next_token: u64,
    acknowledged: Acknowledgement,
    granted: u64,
    used: u64,
}

impl Book {
    pub(super) fn new(limits: Limits, touched: Touched, started: &SessionStarted) -> Self {
        Self {
            limits,
            touched,
            collector: BatchBuilder::new(),
            callers: Vec::new(),
            queue: VecDeque::new(),
            notices: VecDeque::new(),
            sent: VecDeque::new(),
            sent_batches: 0,
            unanswered: BTreeMap::new(),
            barriers: BTreeMap::new(),
            asked: VecDeque::new(),
            next: started.applied_to,
            next_token: 1,
            acknowledged: Acknowledgement { applied_to: started.applied_to, ..Acknowledgement::default() },
            granted: started.credit,
            used: 0,
        }
    }

    /// The latest acknowledgement.
    pub(super) fn acknowledged(&self) -> Acknowledgement {
        self.acknowledged
    }

    /// Whether callers may pass in more.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < MAX_QUEUED && !self.collector_is_full()
    }

    /// Whether nothing waits, and no batch is in flight.
    pub(super) fn is_settled(&self) -> bool {
        self.queue.is_empty()
            && self.notices.is_empty()
            && self.collector.is_empty()
            && self.sent_batches == 0
            && self.unanswered.is_empty()
    }

    /// Whether a caller still waits for a checkpoint, a notice or a persist request.
    pub(super) fn is_owed(&self) -> bool {
        !self.barriers.is_empty() || !self.asked.is_empty()
    }

    // Requests of callers.

    /// Adds one operation to the collected ones.
    pub(super) fn add_operation(&mut self, operation: &BatchBuilder, reply: Reply<OperationResult>) {
        // Both lengths count the overhead of a message, so this seals a little early and never too late.
        if self.collector.seal_len() + operation.seal_len() > self.limits.max_message_bytes {
            self.seal_collected();
        }
        self.collector.append(operation);
        self.callers.push(reply);
        if self.collector_is_full() {
            self.seal_collected();
        }
    }

    pub(super) fn add_batch(&mut self, batch: Outgoing) {
        // Ordering: operations that were collected before this batch come first. The same goes for barriers and persist
        // requests below.
        self.seal_collected();
        let item = self.item(batch);
        self.queue.push_back(item);
    }

    /// The queue item for a batch that was just made.
    fn item(&self, mut batch: Outgoing) -> Item {
        batch.sealed.look_for_touches(&self.touched);
        Item::Batch(batch)
    }

    pub(super) fn add_barrier(&mut self, barrier: Barrier, reply: Reply<CheckpointCompleted>) {
        self.seal_collected();
        self.queue.push_back(Item::Barrier(PendingBarrier { barrier, reply }));
    }

    pub(super) fn add_persist(&mut self, reply: Reply<PersistReply>) {
        self.seal_collected();
        self.queue.push_back(Item::Persist(reply));
    }

    /// Adds a notice. Notices have no place in the order of batches, and overtake items that wait for credit.
    pub(super) fn add_notice(&mut self, notice: Notice, reply: Reply<NoticeOutcome>) {
        self.notices.push_back((notice, reply));
    }

    fn collector_is_full(&self) -> bool {
        let most = usize::try_from(self.limits.max_batch_operations).unwrap_or(usize::MAX);
        self.collector.operations() >= most.min(MAX_COLLECTED_OPERATIONS)
            || self.collector.encoded_len() >= MAX_COLLECTED_BYTES
    }

    /// Moves collected operations into the queue.
    fn seal_collected(&mut self) {
        if self.collector.is_empty() {
            return;
        }
        let replies = std::mem::take(&mut self.callers);
        match std::mem::take(&mut self.collector).seal(&self.limits) {
            Ok(sealed) => {
                let item = self.item(Outgoing::shared(sealed, replies));
                self.queue.push_back(item);
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    // Outgoing messages.

    /// Whether [`take_next`](Self::take_next) has something to do.
    pub(super) fn can_send(&self) -> bool {
        !self.notices.is_empty()
            || self.queue.front().map_or(!self.collector.is_empty() && self.window_is_open(), |item| self.fits(item))
    }

    /// The next message to send; `None` if credit does not cover it.
    pub(super) fn take_next(&mut self) -> Option<Frame> {
        if let Some((notice, reply)) = self.notices.pop_front() {
            self.asked.push_back(Asked::Notice(notice.clone(), reply));
            return Some(request(Request::Notice(notice)));
        }
        // Collected operations become a batch when nothing else waits. As long as others are in the queue, more
        // operations are collected, so batches grow under load.
        if self.queue.is_empty() {
            self.seal_collected();
        }
        if !self.queue.front().is_some_and(|item| self.fits(item)) {
            return None;
        }
        Some(match self.queue.pop_front()? {
            Item::Resume(number) => request(Request::Resume(Resume { number })),
            Item::Batch(outgoing) => self.send_batch(outgoing),
            Item::Barrier(pending) => {
                let barrier = pending.barrier.clone();
                self.sent.push_back(Sent::Barrier(barrier.checkpoint_id));
                self.barriers.insert(barrier.checkpoint_id, pending);
                request(Request::Barrier(barrier))
            }
            Item::Persist(reply) => {
                let token = self.next_token;
                self.next_token += 1;
                self.asked.push_back(Asked::Persist(token, reply));
                request(Request::Persist(PersistMark { token }))
            }
        })
    }

    fn send_batch(&mut self, mut outgoing: Outgoing) -> Frame {
        let number = self.next;
        self.used += cost(number, &outgoing.sealed);
        assert!(self.used <= self.granted || !outgoing.sealed.writes(), "credit covers what is sent");
        self.next += 1;
        // The caller of `send` goes on from here. After a halt, the batch may be sent again under another number, and
        // its caller is not told a second time.
        if let Some(accepted) = outgoing.accepted.take() {
            let _ = accepted.send(());
        }
        let operations = outgoing.sealed.operations.clone();
        self.sent.push_back(Sent::Batch(number, outgoing));
        self.sent_batches += 1;
        Frame::Batch { number, operations }
    }

    fn fits(&self, item: &Item) -> bool {
        match item {
            Item::Batch(outgoing) => {
                let cost = cost(self.next, &outgoing.sealed);
                // A batch that only reads costs nothing, and never waits for credit.
                self.window_is_open() && (cost == 0 || self.used + cost <= self.granted)
            }
            // A checkpoint id is in flight once; a second barrier with it waits for the first one's answer.
            Item::Barrier(pending) => !self.barriers.contains_key(&pending.barrier.checkpoint_id),
            Item::Resume(_) | Item::Persist(_) => true,
        }
    }

    fn window_is_open(&self) -> bool {
        self.sent_batches < MAX_SENT_BATCHES
    }

    // Incoming messages.

    /// Settles every batch below `applied_to`.
    pub(super) fn on_acknowledgement(&mut self, new: &Acknowledgement) -> Result<(), ClientError> {
        // Only batches that were sent can be applied. A higher number would settle batches that the daemon never had.
        if new.applied_to > self.next {
            return Err(violation(format!(
                "batches below {} are acknowledged, {} comes next",
                new.applied_to, self.next
            )));
        }
        let known = &mut self.acknowledged;
        known.applied_to = known.applied_to.max(new.applied_to);
        known.persisted_to = known.persisted_to.max(new.persisted_to);
        known.confirmed_to = known.confirmed_to.max(new.confirmed_to);
        // Numbers of one stream only grow, so an older message cannot take back the news of a newer one.
        self.granted = self.granted.max(new.credit);
        while let Some(front) = self.sent.pop_front() {
            match front {
                // Everything before it is applied, so no halt has refused it.
                Sent::Barrier(_) => {}
                Sent::Batch(number, outgoing) if number >= new.applied_to => {
                    self.sent.push_front(Sent::Batch(number, outgoing));
                    break;
                }
                Sent::Batch(number, mut outgoing) => {
                    self.sent_batches -= 1;
                    // The results of reads come in a message of their own, perhaps behind this one.
                    if outgoing.lacks_results() {
                        self.unanswered.insert(number, outgoing);
                    } else {
                        outgoing.complete(number, Vec::new());
                    }
                }
            }
        }
        Ok(())
    }

    /// Answers a batch. Reads are sent again if the batch had been applied before, or the message had no room for their
    /// results.
    pub(super) fn on_result(&mut self, result: BatchResult) -> Result<(), ClientError> {
        let number = result.number;
        if result.repeated_batch {
            // The daemon had applied the batch on an earlier stream, and does not read again for it. Its writes are
            // done, and only the reads are sent once more.
            let waiting = self.unanswered.remove(&number);
            let waiting = waiting.or_else(|| self.find_sent(number).map(Outgoing::take));
            return waiting.map_or(Ok(()), |outgoing| self.ask_again(outgoing, number));
        }
        let rest = if let Some(mut outgoing) = self.unanswered.remove(&number) {
            outgoing.answer(number, result.results)?
        } else if let Some(outgoing) = self.find_sent(number) {
            outgoing.answer(number, result.results)?
        } else {
            None
        };
        if let Some(rest) = rest {
            self.ask_first(rest);
        }
        Ok(())
    }

    fn find_sent(&mut self, wanted: u64) -> Option<&mut Outgoing> {
        self.sent.iter_mut().find_map(|sent| match sent {
            Sent::Batch(number, outgoing) if *number == wanted => Some(outgoing),
            Sent::Batch(..) | Sent::Barrier(_) => None,
        })
    }

    pub(super) fn on_checkpoint_completed(&mut self, completed: CheckpointCompleted) {
        let id = completed.checkpoint.as_ref().map(|checkpoint| checkpoint.checkpoint_id);
        if let Some(pending) = id.and_then(|id| self.barriers.remove(&id)) {
            let _ = pending.reply.send(Ok(completed));
        }
    }

    pub(super) fn on_checkpoint_failed(&mut self, failed: CheckpointFailed) {
        if let Some(pending) = self.barriers.remove(&failed.checkpoint_id) {
            let _ = pending.reply.send(Err(failed.error.unwrap_or_default().into()));
        }
    }

    pub(super) fn on_notice_reply(&mut self, answer: &NoticeReply) {
        let same = |asked: &Asked| matches!((asked, &answer.notice), (Asked::Notice(n, _), Some(m)) if is_same(n, m));
        let position = self.asked.iter().position(same);
        if let Some(Asked::Notice(_, reply)) = position.and_then(|at| self.asked.remove(at)) {
            let _ = reply.send(Ok(answer.outcome()));
        }
    }

    pub(super) fn on_persisted(&mut self, answer: PersistReply) {
        let same = |asked: &Asked| matches!(asked, Asked::Persist(token, _) if *token == answer.token);
        let position = self.asked.iter().position(same);
        if let Some(Asked::Persist(_, reply)) = position.and_then(|at| self.asked.remove(at)) {
            let _ = reply.send(Ok(answer));
        }
    }

    /// Passes on an error that names no request: it answers the oldest notice or persist request.
    pub(super) fn on_error(&mut self, error: ClientError) {
        match self.asked.pop_front() {
            Some(Asked::Notice(_, reply)) => drop(reply.send(Err(error))),
            Some(Asked::Persist(_, reply)) => drop(reply.send(Err(error))),
            None => tracing::warn!(%error, "the daemon refused a request of this session"),
        }
    }
}

fn request(request: Request) -> Frame {
    Frame::Request(SessionRequest { request: Some(request) })
}

/// The credit that sending a batch as `number` costs.
fn cost(number: u64, sealed: &Sealed) -> u64 {
    if sealed.writes() { wire::batch_len(number, &sealed.operations) as u64 } else { 0 }
}

/// Whether a reply's notice is the one that was sent; the daemon may have filled in a missing UUID.
fn is_same(sent: &Notice, answered: &Notice) -> bool {
    let name = |notice: &Notice| notice.checkpoint.as_ref().map(|c| (c.epoch, c.checkpoint_id));
    sent.kind == answered.kind && name(sent) == name(answered)
}
