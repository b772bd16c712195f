//! The actor that folds: takes waiting messages, reads, folds, writes, answers.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tokio::sync::mpsc;

use dstl_proto::v1::OperationKind;

use super::Aggregate;
use crate::{BatchBuilder, ClientError, Decode, RawOperation, Session, State, outgoing::Reply, state::encoded};

/// Most messages of one round.
const MAX_ROUND: usize = 256;

/// The place of one accumulator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) namespace: Bytes,
    key_group: Option<u32>,
    key: Bytes,
}

impl Address {
    /// The place of `key` in the namespace and key group of `state`.
    pub(super) fn of(state: &impl State, key: Bytes) -> Self {
        let scope = state.scope().operation(OperationKind::Get);
        Self { namespace: scope.namespace, key_group: scope.key_group, key }
    }

    pub(super) fn in_namespace(&self, namespace: Bytes) -> Self {
        Self { namespace, ..self.clone() }
    }

    /// An operation on this place.
    pub(super) fn operation(&self, state: u32, kind: OperationKind, value: &[u8]) -> BatchBuilder {
        let (namespace, key_group) = (&self.namespace[..], self.key_group);
        let mut operation = BatchBuilder::new();
        operation.push(RawOperation {
            kind,
            state,
            key: &self.key,
            namespace,
            key_group,
            value,
            ..RawOperation::default()
        });
        operation
    }
}

/// The task of a message.
#[derive(Debug)]
pub(super) enum Task<I> {
    /// Folds inputs in order.
    Add(Vec<(Address, I)>),
    /// Merges accumulators into the first one and removes them.
    Merge(Address, Vec<Address>),
    /// Removes one accumulator.
    Clear(Address),
}

impl<I> Task<I> {
    /// The places that it reads and writes.
    fn addresses(&self) -> Vec<Address> {
        match self {
            Self::Add(inputs) => inputs.iter().map(|(address, _)| address.clone()).collect(),
            Self::Merge(target, sources) => [target].into_iter().chain(sources).cloned().collect(),
            Self::Clear(address) => vec![address.clone()],
        }
    }
}

pub(super) struct Message<A: Aggregate> {
    pub(super) task: Task<A::Input>,
    pub(super) reply: Reply<()>,
}

/// An accumulator in a round.
struct Entry<T> {
    value: Result<Option<T>, ClientError>,
    /// Entries that were merged with each other have the same group. They are written in one batch, since otherwise a
    /// barrier could come between them.
    group: usize,
}

type Entries<T> = BTreeMap<Address, Entry<T>>;

pub(super) struct Worker<A: Aggregate> {
    session: Session,
    state: u32,
    function: Arc<A>,
    messages: mpsc::Receiver<Message<A>>,
}

impl<A: Aggregate> Worker<A> {
    pub(super) fn new(session: Session, state: u32, function: Arc<A>, messages: mpsc::Receiver<Message<A>>) -> Self {
        Self { session, state, function, messages }
    }

    /// Serves until the last handle is dropped.
    pub(super) async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.messages.recv_many(&mut waiting, MAX_ROUND).await > 0 {
            // Ordering: a round has written its results before the next one reads. Two rounds at once could read the
            // same accumulator, and the later write would lose the folds of the earlier one.
            self.round(std::mem::take(&mut waiting)).await;
        }
    }

    async fn round(&self, messages: Vec<Message<A>>) {
        let addresses: Vec<_> = messages.iter().map(|message| message.task.addresses()).collect();
        let mut entries = self.read(addresses.iter().flatten().cloned()).await;
        let mut replies = Vec::with_capacity(messages.len());
        for Message { task, reply } in messages {
            self.fold(task, &mut entries);
            replies.push(reply);
        }
        // Ordering: callers are told after the write. A fold that was only computed may still fail.
        let failed = self.write(&entries).await;
        for (reply, addresses) in replies.into_iter().zip(addresses) {
            let groups = addresses.iter().filter_map(|address| entries.get(address)).map(|entry| entry.group);
            let error = groups.into_iter().find_map(|group| failed.get(&group)).cloned();
            let _ = reply.send(error.map_or(Ok(()), Err));
        }
    }

    /// Reads each accumulator once, in one round trip.
    async fn read(&self, addresses: impl Iterator<Item = Address>) -> Entries<A::Accumulator> {
        // Inputs of the same place meet in one entry, so each is read and written once.
        let distinct: std::collections::BTreeSet<_> = addresses.collect();
        let reads = distinct.iter().map(|address| address.operation(self.state, OperationKind::Get, &[])).collect();
        let results = self.session.operate_together(reads).await;
        let decode = |bytes| A::Accumulator::decode(bytes);
        let values = results.into_iter().map(|result| {
            let result = result?;
            result.found.then(|| decode(result.value)).transpose()
        });
        let entries = (0..).zip(values).map(|(group, value)| Entry { value, group });
        distinct.into_iter().zip(entries).collect()
    }

    fn fold(&self, task: Task<A::Input>, entries: &mut Entries<A::Accumulator>) {
        match task {
            Task::Add(inputs) => {
                for (address, input) in inputs {
                    let entry = entries.get_mut(&address).expect("every address was read");
                    if let Ok(value) = &mut entry.value {
                        *value = Some(match value.take() {
                            Some(accumulator) => self.function.add(accumulator, input),
                            None => self.function.start(input),
                        });
                    }
                }
            }
            Task::Merge(target, sources) => {
                join(entries, &target, &sources);
                let mut merged = take(entries, &target);
                for source in &sources {
                    merged = match (merged, take(entries, source)) {
                        (Ok(Some(first)), Ok(Some(second))) => Ok(Some(self.function.merge(first, second))),
                        (Ok(first), Ok(second)) => Ok(first.or(second)),
                        (Err(error), _) | (_, Err(error)) => Err(error),
                    };
                }
                entries.get_mut(&target).expect("every address was read").value = merged;
            }
            Task::Clear(address) => drop(take(entries, &address)),
        }
    }

    /// Writes every entry; returns the errors of the groups that were not written.
    async fn write(&self, entries: &Entries<A::Accumulator>) -> BTreeMap<usize, ClientError> {
        let mut groups: BTreeMap<usize, Result<Vec<BatchBuilder>, ClientError>> = BTreeMap::new();
        for (address, entry) in entries {
            let group = groups.entry(entry.group).or_insert_with(|| Ok(Vec::new()));
            match (&mut *group, &entry.value) {
                (Ok(operations), Ok(Some(value))) => {
                    operations.push(address.operation(self.state, OperationKind::Put, &encoded(value)));
                }
                (Ok(operations), Ok(None)) => operations.push(address.operation(self.state, OperationKind::Clear, &[])),
                (Ok(_), Err(error)) => *group = Err(error.clone()),
                (Err(_), _) => {}
            }
        }
        let mut failed = BTreeMap::new();
        let (mut single, mut singles, mut receipts) = (Vec::new(), Vec::new(), Vec::new());
        for (group, operations) in groups {
            match operations {
                Err(error) => drop(failed.insert(group, error)),
                // Only merges make groups of several places. All others share batches.
                Ok(mut operations) if operations.len() == 1 => {
                    single.push(group);
                    singles.append(&mut operations);
                }
                Ok(operations) => {
                    let mut batch = BatchBuilder::new();
                    operations.iter().for_each(|operation| batch.append(operation));
                    receipts.push((group, self.session.send(batch).await));
                }
            }
        }
        let results = self.session.operate_together(singles).await;
        failed.extend(single.into_iter().zip(results).filter_map(|(group, result)| Some((group, result.err()?))));
        for (group, receipt) in receipts {
            let applied = match receipt {
                Ok(receipt) => receipt.applied().await.map(drop),
                Err(error) => Err(error),
            };
            failed.extend(applied.err().map(|error| (group, error)));
        }
        failed
    }
}

/// Puts the target and the sources into one group.
fn join<T>(entries: &mut Entries<T>, target: &Address, sources: &[Address]) {
    let group_of = |address: &Address| entries.get(address).map(|entry| entry.group);
    let groups: Vec<_> = std::iter::once(target).chain(sources).filter_map(group_of).collect();
    let first = groups.iter().min().copied().unwrap_or_default();
    // Groups that were joined before come along as a whole.
    for entry in entries.values_mut().filter(|entry| groups.contains(&entry.group)) {
        entry.group = first;
    }
}

/// Takes the value out, so that the entry is empty. An error is taken like a value.
fn take<T>(entries: &mut Entries<T>, address: &Address) -> Result<Option<T>, ClientError> {
    let entry = entries.get_mut(address).expect("every address was read");
    std::mem::replace(&mut entry.value, Ok(None))
}
