//! One batch on its way, with the callers that wait for it.

use tokio::sync::oneshot;

use super::{
    Applied, ClientError,
    batch::{self, Sealed},
};
use dstl_proto::v1::{OperationResult, Outcome};

/// Takes an answer. It is not an error if the caller no longer waits.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ClientError>>;

/// The callers that wait for a batch.
#[derive(Debug)]
pub(super) enum Waiter {
    /// One caller for the whole batch.
    Whole(Reply<Applied>),
    /// One caller per operation.
    Each(Vec<Reply<OperationResult>>),
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) sealed: Sealed,
    /// Told when the batch is sent.
    pub(super) accepted: Option<oneshot::Sender<()>>,
    /// The waiting callers; `None` once they are answered.
    pub(super) waiter: Option<Waiter>,
    /// For reads that are sent again: number and operation indexes of their first batch.
    pub(super) again: Option<(u64, Vec<u32>)>,
    /// Results that came earlier, while other reads are sent again.
    pub(super) results: Vec<OperationResult>,
}

impl Outgoing {
    pub(super) fn new(sealed: Sealed, accepted: oneshot::Sender<()>, applied: Reply<Applied>) -> Self {
        Self { accepted: Some(accepted), ..Self::for_waiter(sealed, Some(Waiter::Whole(applied))) }
    }

    /// A batch, or a part of one, with the operations of several callers.
    pub(super) fn shared(sealed: Sealed, replies: Vec<Reply<OperationResult>>) -> Self {
        Self::for_waiter(sealed, Some(Waiter::Each(replies)))
    }

    fn for_waiter(sealed: Sealed, waiter: Option<Waiter>) -> Self {
        Self { sealed, accepted: None, waiter, again: None, results: Vec::new() }
    }

    /// Takes the waiter with everything that belongs to it. The sent batch remains, without a waiter.
    pub(super) fn take(&mut self) -> Self {
        let sent = Self::for_waiter(self.sealed.clone(), None);
        std::mem::replace(self, sent)
    }

    /// Takes in results. Reads that the daemon left out because the message was full are returned as a batch to send
    /// again.
    ///
    /// # Errors
    /// [`ClientError::Incomplete`] if the batch is incomplete.
    pub(super) fn answer(&mut self, number: u64, results: Vec<OperationResult>) -> Result<Option<Self>, ClientError> {
        let is_left_out = |result: &OperationResult| result.outcome() == Outcome::AskAgain;
        if !results.iter().any(is_left_out) {
            self.complete(number, results);
            return Ok(None);
        }
        let (left_out, results): (Vec<_>, Vec<_>) = results.into_iter().partition(is_left_out);
        // Ordering: the results are translated first, since `take` moves the former indexes away. Those of the reads
        // that are left out stay indexes of this batch, by which its operations are found.
        let results = self.translated(results);
        let mut rest = self.take();
        rest.results.extend(results);
        rest.reads_of(number, |index| left_out.iter().any(|result| result.operation == index))
    }

    /// The results with the indexes that their operations had in the first batch.
    fn translated(&self, mut results: Vec<OperationResult>) -> Vec<OperationResult> {
        if let Some((_, indexes)) = &self.again {
            results.retain_mut(|result| {
                let index = indexes.get(result.operation as usize);
                result.operation = index.copied().unwrap_or_default();
                index.is_some()
            });
        }
        results
    }

    /// Answers the waiting callers.
    pub(super) fn complete(&mut self, number: u64, results: Vec<OperationResult>) {
        let number = self.again.as_ref().map_or(number, |(first_number, _)| *first_number);
        let mut results = self.translated(results);
        if !self.results.is_empty() {
            results.append(&mut self.results);
            results.sort_unstable_by_key(|result| result.operation);
        }
        match self.waiter.take() {
            None => {}
            Some(Waiter::Whole(reply)) => drop(reply.send(Ok(Applied { number, results }))),
            Some(Waiter::Each(replies)) => {
                let mut results = results.into_iter().peekable();
                for (index, reply) in (0..).zip(replies) {
                    // Results are in order of their operations. A write that was simply done has none, and the default
                    // says so.
                    let result = results.next_if(|result| result.operation == index).unwrap_or_default();
                    let _ = reply.send(Ok(result));
                }
            }
        }
    }

    /// Tells the waiting callers that nothing of the batch was applied.
    pub(super) fn reject(self, error: &ClientError) {
        match self.waiter {
            None => {}
            Some(Waiter::Whole(reply)) => drop(reply.send(Err(error.clone()))),
            Some(Waiter::Each(replies)) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Whether a caller would miss the result of a read if the answer has no results.
    pub(super) fn lacks_results(&self) -> bool {
        self.waiter.is_some() && self.sealed.reads > 0
    }

    /// A batch with the reads of this one, for the same waiter. This one was applied as `number`.
    pub(super) fn reads_again(mut self, number: u64) -> Result<Option<Self>, ClientError> {
        if !self.lacks_results() {
            self.complete(number, Vec::new());
            return Ok(None);
        }
        self.reads_of(number, |_| true)
    }

    /// A batch with those reads of this one whose index is `wanted`, for the same waiter.
    fn reads_of(self, number: u64, wanted: impl Fn(u32) -> bool) -> Result<Option<Self>, ClientError> {
        let Some((sealed, mut indexes)) = batch::only_reads(&self.sealed, wanted)? else { return Ok(None) };
        let mut first_number = number;
        if let Some((before, earlier)) = &self.again {
            first_number = *before;
            indexes.retain_mut(|index| {
                let original = earlier.get(*index as usize);
                *index = original.copied().unwrap_or_default();
                original.is_some()
            });
        }
        Ok(Some(Self { sealed, accepted: None, again: Some((first_number, indexes)), ..self }))
    }
}
