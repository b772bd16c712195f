//! Reducing and aggregating state, whose functions run in the task.
//!
//! The daemon cannot run these functions. So a fold is a read, the function, and a write of its result. The log
//! contains the result, so replay needs no function. One worker per bound handle does this. So the folds of a key are
//! in order, and calls that are awaited at the same time share two round trips:

mod worker;

use std::{fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::worker::{Address, Message, Task, Worker};
use super::{
    BatchBuilder, ClientError, Decode, Encode, Form, Session, State as _, ValueState, outgoing::Reply, state::encoded,
};
use dstl_proto::v1::OperationKind;

/// Messages that may wait for the worker.
const MAX_MESSAGES: usize = 1024;
/// Most inputs of one message.
const MAX_INPUTS: usize = 256;

/// Turns inputs into a stored accumulator, and the accumulator into a result. The functions must not panic, and must
/// return the same result for the same arguments.
pub trait Aggregate: Send + Sync + 'static {
    /// The type of the inputs.
    type Input: Send + 'static;
    /// The type of the stored accumulator.
    type Accumulator: Encode + Decode + Send + Sync + 'static;
    /// The type of the result.
    type Output;

    /// The accumulator of a single input.
    fn start(&self, input: Self::Input) -> Self::Accumulator;

    /// The accumulator with one more input.
    fn add(&self, accumulator: Self::Accumulator, input: Self::Input) -> Self::Accumulator;

    /// The accumulator of the inputs of both, as for two session windows that meet.
    fn merge(&self, first: Self::Accumulator, second: Self::Accumulator) -> Self::Accumulator;

    /// The result of an accumulator.
    fn output(&self, accumulator: Self::Accumulator) -> Self::Output;
}

/// An aggregate whose function makes one value of two.
pub struct Reduce<V, F> {
    function: F,
    types: PhantomData<fn(V) -> V>,
}

impl<V, F> Reduce<V, F> {
    /// The aggregate of `function`, which must be associative.
    pub fn new(function: F) -> Self {
        Self { function, types: PhantomData }
    }
}

impl<V, F> Aggregate for Reduce<V, F>
where
    V: Encode + Decode + Send + Sync + 'static,
    F: Fn(V, V) -> V + Send + Sync + 'static,
{
    type Input = V;
    type Accumulator = V;
    type Output = V;

    fn start(&self, input: V) -> V {
        input
    }

    fn add(&self, accumulator: V, input: V) -> V {
        (self.function)(accumulator, input)
    }

    fn merge(&self, first: V, second: V) -> V {
        (self.function)(first, second)
    }

    fn output(&self, accumulator: V) -> V {
        accumulator
    }
}

impl<V, F> fmt::Debug for Reduce<V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reduce")
    }
}

/// A value state with the function that folds inputs into it. It is made by
/// [`Backend::aggregating_state`](super::Backend::aggregating_state).
pub struct AggregatingState<K: ?Sized, A: Aggregate> {
    values: ValueState<K, A::Accumulator>,
    function: Arc<A>,
}

/// A state made by [`Backend::reducing_state`](super::Backend::reducing_state).
pub type ReducingState<K, V, F> = AggregatingState<K, Reduce<V, F>>;

impl<K: ?Sized, A: Aggregate> AggregatingState<K, A> {
    /// The state of `values` with this function.
    pub fn new(values: ValueState<K, A::Accumulator>, function: A) -> Self {
        Self { values, function: Arc::new(function) }
    }

    /// The accumulators, to read and write them in batches. Writes of keys that are folded at the same time are lost.
    #[must_use]
    pub fn values(&self) -> &ValueState<K, A::Accumulator> {
        &self.values
    }

    /// The handle for folding over `session`. Its worker runs on the current tokio runtime until the last clone is
    /// dropped. All folds into the state must go through one handle and its clones, since two handles do not know of
    /// each other.
    #[must_use]
    pub fn on(&self, session: &Session) -> BoundAggregate<K, A> {
        let (messages, received) = mpsc::channel(MAX_MESSAGES);
        tokio::spawn(Worker::new(session.clone(), self.values.id(), self.function.clone(), received).run());
        BoundAggregate { state: self.clone(), session: session.clone(), messages }
    }
}

impl<K: ?Sized, A: Aggregate> Clone for AggregatingState<K, A> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), function: self.function.clone() }
    }
}

impl<K: ?Sized, A: Aggregate> fmt::Debug for AggregatingState<K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AggregatingState").field(&self.values).finish()
    }
}

/// An [`AggregatingState`] bound to a session, made with its `on`. Cheap to clone; clones share a worker.
///
/// Calls that are awaited at the same time share two round trips, whatever their keys and namespaces. Calls that change
/// something are carried out in order, and are applied when they return; a call that is dropped may be carried out. If
/// the daemon refuses one of several writes in a batch, only that call fails.
pub struct BoundAggregate<K: ?Sized, A: Aggregate> {
    state: AggregatingState<K, A>,
    session: Session,
    messages: mpsc::Sender<Message<A>>,
}

impl<K: ?Sized, A: Aggregate> BoundAggregate<K, A> {
    /// The same state in another namespace.
    #[must_use]
    pub fn namespace(&self, namespace: &(impl Encode + ?Sized)) -> Self {
        self.at(self.state.values.namespace(namespace))
    }

    /// The same state for keys of this key group; needed exactly if the backend's assignment is GIVEN.
    #[must_use]
    pub fn key_group(&self, key_group: u32) -> Self {
        self.at(self.state.values.key_group(key_group))
    }

    fn at(&self, values: ValueState<K, A::Accumulator>) -> Self {
        let mut other = self.clone();
        other.state.values = values;
        other
    }

    /// The accumulators, for example to iterate over [keys](ValueState::keys). Do not write them while they are folded.
    #[must_use]
    pub fn values(&self) -> &ValueState<K, A::Accumulator> {
        &self.state.values
    }

    /// The result of `key`.
    ///
    /// # Errors
    /// As for every operation, or [`ClientError::Malformed`] if the stored bytes are not an accumulator.
    pub async fn get(&self, key: &(impl Form<K> + ?Sized)) -> Result<Option<A::Output>, ClientError> {
        let accumulator = self.session.run(self.state.values.get(key)).await?;
        Ok(accumulator.map(|accumulator| self.state.function.output(accumulator)))
    }

    /// Folds `input` into the accumulator of `key`.
    ///
    /// # Errors
    /// As for [`get`](Self::get); nothing was changed then.
    pub async fn add(&self, key: &(impl Form<K> + ?Sized), input: A::Input) -> Result<(), ClientError> {
        self.run(Task::Add(vec![(self.address(key), input)])).await
    }

    /// Folds inputs, in order, into the accumulators of their keys; a key may come several times.
    ///
    /// # Errors
    /// The first error of [`add`](Self::add); inputs of other keys were folded.
    pub async fn add_all<Q, I>(&self, inputs: I) -> Result<(), ClientError>
    where
        Q: Form<K>,
        I: IntoIterator<Item = (Q, A::Input)>,
    {
        let mut inputs = inputs.into_iter().map(|(key, input)| (self.address(&key), input));
        let mut answers = Vec::new();
        loop {
            let some: Vec<_> = inputs.by_ref().take(MAX_INPUTS).collect();
            if some.is_empty() {
                break;
            }
            // All messages are handed in before the first answer is awaited, so that they share rounds.
            answers.push(self.hand_in(Task::Add(some)).await?);
        }
        let mut done = Ok(());
        for answer in answers {
            // Every answer is awaited, also behind an error: the other inputs are folded all the same.
            done = done.and(answered(answer).await);
        }
        done
    }

    /// Removes the accumulator of `key`.
    ///
    /// # Errors
    /// As for every operation.
    pub async fn clear(&self, key: &(impl Form<K> + ?Sized)) -> Result<(), ClientError> {
        self.run(Task::Clear(self.address(key))).await
    }

    /// Merges, by the function, the accumulators that `sources` have of `key` into that of this namespace, in the given
    /// order, and removes them, all in one batch.
    ///
    /// # Errors
    /// As for [`get`](Self::get), and nothing was changed then; [`ClientError::MergeIntoItself`] if the sources are not
    /// distinct, or one of them is this namespace.
    pub async fn merge_namespaces<N: Encode>(
        &self,
        key: &(impl Form<K> + ?Sized),
        sources: &[N],
    ) -> Result<(), ClientError> {
        let target = self.address(key);
        let sources: Vec<_> = sources.iter().map(|source| target.in_namespace(encoded(source))).collect();
        check_distinct(&target, &sources)?;
        self.run(Task::Merge(target, sources)).await
    }

    fn address(&self, key: &(impl Encode + ?Sized)) -> Address {
        Address::of(&self.state.values, encoded(key))
    }

    async fn run(&self, task: Task<A::Input>) -> Result<(), ClientError> {
        answered(self.hand_in(task).await?).await
    }

    async fn hand_in(&self, task: Task<A::Input>) -> Result<oneshot::Receiver<Result<(), ClientError>>, ClientError> {
        let (reply, answer): (Reply<()>, _) = oneshot::channel();
        self.messages.send(Message { task, reply }).await.map_err(|_| ClientError::Closed)?;
        Ok(answer)
    }
}

/// If there is no answer, the worker has ended with the runtime, or by a panic of the function.
async fn answered(answer: oneshot::Receiver<Result<(), ClientError>>) -> Result<(), ClientError> {
    answer.await.unwrap_or(Err(ClientError::Closed))
}

impl<K: ?Sized, A: Aggregate> Clone for BoundAggregate<K, A> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), session: self.session.clone(), messages: self.messages.clone() }
    }
}

impl<K: ?Sized, A: Aggregate> fmt::Debug for BoundAggregate<K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoundAggregate").field(&self.state).finish()
    }
}

impl<K: ?Sized, V: Encode + Decode> ValueState<K, V> {
    /// Merges, by `function`, the values that `sources` have of `key` into that of this namespace, in the given order,
    /// and removes them. All are read in one batch and written in another. Writes of these values in between are lost;
    /// an [`AggregatingState`] has no such restriction.
    ///
    /// # Errors
    /// As for [`Session::run`], and nothing was changed then; [`ClientError::MergeIntoItself`] if the sources are not
    /// distinct, or one of them is this namespace.
    pub async fn merge_namespaces_with<N: Encode>(
        &self,
        session: &Session,
        key: &(impl Form<K> + ?Sized),
        sources: &[N],
        mut function: impl FnMut(V, V) -> V,
    ) -> Result<(), ClientError> {
        let target = Address::of(self, encoded(key));
        let sources: Vec<_> = sources.iter().map(|source| target.in_namespace(encoded(source))).collect();
        check_distinct(&target, &sources)?;
        let state = self.id();
        let reads = std::iter::once(&target).chain(&sources).map(|at| at.operation(state, OperationKind::Get, &[]));
        let mut merged: Option<V> = None;
        for result in session.operate_together(reads.collect()).await {
            let result = result?;
            if result.found {
                let value = V::decode(result.value)?;
                merged = Some(match merged {
                    Some(before) => function(before, value),
                    None => value,
                });
            }
        }
        let Some(merged) = merged else { return Ok(()) };
        // The value and the clears are one batch, so that no barrier comes between them.
        let mut batch = BatchBuilder::new();
        batch.append(&target.operation(state, OperationKind::Put, &encoded(&merged)));
        for source in &sources {
            batch.append(&source.operation(state, OperationKind::Clear, &[]));
        }
        session.send(batch).await?.applied().await.map(drop)
    }
}

fn check_distinct(target: &Address, sources: &[Address]) -> Result<(), ClientError> {
    let mut all: Vec<&Bytes> = sources.iter().chain([target]).map(|at| &at.namespace).collect();
    all.sort_unstable();
    match all.is_sorted_by(|a, b| a < b) {
        true => Ok(()),
        false => Err(ClientError::MergeIntoItself),
    }
}
