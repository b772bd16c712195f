//! One batch on its way, and who waits for it.

use tokio::sync::oneshot;

use super::{
    Applied, ClientError,
    batch::{self, Sealed},
};
use crate::proto::v1::OperationResult;

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
}

impl Outgoing {
    pub(super) fn new(sealed: Sealed, accepted: oneshot::Sender<()>, applied: Reply<Applied>) -> Self {
        Self { sealed, accepted: Some(accepted), waiter: Some(Waiter::Whole(applied)), again: None }
    }

    /// A batch, or a part of one, with the operations of several callers.
    pub(super) fn shared(sealed: Sealed, replies: Vec<Reply<OperationResult>>) -> Self {
        Self { sealed, accepted: None, waiter: Some(Waiter::Each(replies)), again: None }
    }

    /// Answers whoever waits.
    pub(super) fn complete(&mut self, number: u64, mut results: Vec<OperationResult>) {
        let mut number = number;
        if let Some((first_number, indexes)) = &self.again {
            number = *first_number;
            results.retain_mut(|result| {
                let index = indexes.get(result.operation as usize);
                result.operation = index.copied().unwrap_or_default();
                index.is_some()
            });
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
        let Some((sealed, mut indexes)) = batch::only_reads(&self.sealed)? else { return Ok(None) };
        let mut first_number = number;
        if let Some((before, earlier)) = &self.again {
            first_number = *before;
            indexes.retain_mut(|index| {
                let original = earlier.get(*index as usize);
                *index = original.copied().unwrap_or_default();
                original.is_some()
            });
        }
        Ok(Some(Self { sealed, accepted: None, waiter: self.waiter, again: Some((first_number, indexes)) }))
    }
}
