//! One batch on its way, and who waits for it.

use tokio::sync::oneshot;

use super::{
    Applied, ClientError,
    batch::{self, Sealed},
};
use crate::proto::v1::{OperationResult, Outcome};

/// Where an answer goes. A caller that no longer waits is no error.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ClientError>>;

/// Who waits for a batch.
#[derive(Debug)]
pub(super) enum Waiter {
    /// One caller for all of it.
    Whole(Reply<Applied>),
    /// One caller per operation.
    Each(Vec<Reply<OperationResult>>),
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) sealed: Sealed,
    /// Told when the batch is handed over.
    pub(super) accepted: Option<oneshot::Sender<()>>,
    /// `None` once answered.
    pub(super) waiter: Option<Waiter>,
    /// For reads that are asked again: number and operation indexes of the batch that they were in.
    pub(super) again: Option<(u64, Vec<u32>)>,
    /// What came before, while other reads are asked again.
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

    /// Takes the waiter with all that belongs to it, and leaves what was sent, answered.
    pub(super) fn take(&mut self) -> Self {
        let sent = Self::for_waiter(self.sealed.clone(), None);
        std::mem::replace(self, sent)
    }

    /// Takes in results. What the daemon left out, since the message was full, comes back as a batch to ask again.
    ///
    /// # Errors
    /// [`ClientError::Incomplete`] if the batch is not whole.
    pub(super) fn answer(&mut self, number: u64, results: Vec<OperationResult>) -> Result<Option<Self>, ClientError> {
        let is_left_out = |result: &OperationResult| result.outcome() == Outcome::AskAgain;
        if !results.iter().any(is_left_out) {
            self.complete(number, results);
            return Ok(None);
        }
        let (left_out, results): (Vec<_>, Vec<_>) = results.into_iter().partition(is_left_out);
        let results = self.translated(results);
        let mut rest = self.take();
        rest.results.extend(results);
        rest.reads_of(number, |index| left_out.iter().any(|result| result.operation == index))
    }

    /// Results by the indexes that their operations had first.
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

    /// Answers whoever waits.
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
                    let result = results.next_if(|result| result.operation == index).unwrap_or_default();
                    let _ = reply.send(Ok(result));
                }
            }
        }
    }

    /// Tells whoever waits that nothing of it was applied.
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

    /// Whether an answer without results leaves somebody without what was read.
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

    /// The same for those reads of it, by their index, of which `wanted` holds.
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
