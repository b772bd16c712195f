//! Operations as values: a handle makes one, a batch takes many in bulk, a session runs one.

use std::borrow::Borrow;

use super::{
    ClientError, Decode, Encode, ListState, MapState, RawOperation, TimerState, ValueState,
    state::{Scope, private::Sealed as _},
    wire::{self, Fields, Target},
};
use dstl_proto::v1::{Operation, OperationKind, OperationResult, Outcome};

const NO: &() = &();

/// Reads the result of an operation.
pub(super) type Reader<R> = fn(&OperationResult) -> Result<R, ClientError>;

/// One operation on a state, which has not run yet. The methods of handles make them.
///
/// [`BatchBuilder::push`](super::BatchBuilder::push) takes it into a batch, [`Session::run`](super::Session::run) runs
/// it together with those of other tasks. It borrows the handle, the key and the value.
#[must_use = "it does nothing by itself: push it into a batch, or run it in a session"]
pub trait Op: private::Put<<Self as Op>::Output> {
    /// The result: `()` of most writes, an [`Outcome`] of merges.
    type Output;
}

pub(super) mod private {
    use super::{OperationKind, Reader};

    /// Restricts [`Op`](super::Op) to the operations of this library.
    pub trait Put<R> {
        /// Appends the operation to the bytes of a batch.
        fn put(&self, out: &mut Vec<u8>) -> OperationKind;

        /// The reader of its result.
        fn reader(&self) -> Reader<R>;
    }
}

/// A borrowed form of `T`, which writes the same bytes: `T` itself, and for example `str` for `String`.
pub trait Form<T: ?Sized>: Encode {}

impl<T: Borrow<Q> + ?Sized, Q: Encode + ?Sized> Form<T> for Q {}

/// An operation with a key and its other parts; a part that it does not have is `()`.
struct One<'a, K: ?Sized, M: ?Sized, V: ?Sized, R> {
    target: Target<'a>,
    fields: Fields<'a, K, M, V>,
    reader: Reader<R>,
}

impl<'a, K: ?Sized, M: ?Sized, V: ?Sized, R> One<'a, K, M, V, R> {
    fn new(target: Target<'a>, key: &'a K, map_key: &'a M, value: &'a V, reader: Reader<R>) -> Self {
        Self { target, fields: Fields { key, map_key, value, start: 0, limit: 0 }, reader }
    }
}

impl<K, M, V, R> private::Put<R> for One<'_, K, M, V, R>
where
    K: Encode + ?Sized,
    M: Encode + ?Sized,
    V: Encode + ?Sized,
{
    #[inline]
    fn put(&self, out: &mut Vec<u8>) -> OperationKind {
        wire::put_operation(out, &self.target, &self.fields);
        self.target.kind
    }

    fn reader(&self) -> Reader<R> {
        self.reader
    }
}

impl<K, M, V, R> Op for One<'_, K, M, V, R>
where
    K: Encode + ?Sized,
    M: Encode + ?Sized,
    V: Encode + ?Sized,
{
    type Output = R;
}

/// An operation with several values.
struct Several<'a, K: ?Sized, V, R> {
    target: Target<'a>,
    key: &'a K,
    values: &'a [V],
    reader: Reader<R>,
}

impl<K: Encode + ?Sized, V: Encode, R> private::Put<R> for Several<'_, K, V, R> {
    fn put(&self, out: &mut Vec<u8>) -> OperationKind {
        wire::put_elements(out, &self.target, self.key, self.values);
        self.target.kind
    }

    fn reader(&self) -> Reader<R> {
        self.reader
    }
}

impl<K: Encode + ?Sized, V: Encode, R> Op for Several<'_, K, V, R> {
    type Output = R;
}

/// An operation on a timer.
struct OnTimer<'a, K: ?Sized> {
    target: Target<'a>,
    key: &'a K,
    time: i64,
}

impl<K: Encode + ?Sized> private::Put<()> for OnTimer<'_, K> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) -> OperationKind {
        wire::put_timer(out, &self.target, self.key, self.time);
        self.target.kind
    }

    fn reader(&self) -> Reader<()> {
        done
    }
}

impl<K: Encode + ?Sized> Op for OnTimer<'_, K> {
    type Output = ();
}

/// Any operation of the protocol.
impl private::Put<OperationResult> for &Operation {
    fn put(&self, out: &mut Vec<u8>) -> OperationKind {
        prost::encoding::message::encode(2, *self, out);
        self.kind()
    }

    fn reader(&self) -> Reader<OperationResult> {
        |result| Ok(result.clone())
    }
}

impl Op for &Operation {
    type Output = OperationResult;
}

/// It is copied only into the batch.
impl private::Put<OperationResult> for RawOperation<'_> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) -> OperationKind {
        let Self { kind, state, key, namespace, map_key, value, start, limit, key_group } = *self;
        wire::put_operation(
            out,
            &Target { kind, state, namespace, key_group },
            &Fields { key, map_key, value, start, limit },
        );
        kind
    }

    fn reader(&self) -> Reader<OperationResult> {
        |result| Ok(result.clone())
    }
}

impl Op for RawOperation<'_> {
    type Output = OperationResult;
}

fn done(_: &OperationResult) -> Result<(), ClientError> {
    Ok(())
}

fn outcome(result: &OperationResult) -> Result<Outcome, ClientError> {
    Ok(result.outcome())
}

fn count(result: &OperationResult) -> Result<u64, ClientError> {
    Ok(result.count)
}

fn value<V: Decode>(result: &OperationResult) -> Result<Option<V>, ClientError> {
    result.found.then(|| V::decode(result.value.clone())).transpose()
}

/// Removes everything of `key`.
pub(super) fn clear<'a>(scope: &'a Scope, key: &'a (impl Encode + ?Sized)) -> impl Op<Output = ()> {
    One::new(scope.target(OperationKind::Clear), key, NO, NO, done)
}

/// Merges the contents of other namespaces.
pub(super) fn merge_namespaces<'a, N: Encode>(
    scope: &'a Scope,
    key: &'a (impl Encode + ?Sized),
    sources: &'a [N],
) -> impl Op<Output = Outcome> {
    Several { target: scope.target(OperationKind::MergeNamespaces), key, values: sources, reader: outcome }
}

impl<K: ?Sized, V: ?Sized> ValueState<K, V> {
    /// Sets the value of `key`.
    #[inline]
    pub fn put<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        value: &'a (impl Form<V> + ?Sized),
    ) -> impl Op<Output = ()> {
        One::new(self.scope().target(OperationKind::Put), key, NO, value, done)
    }

    /// Merges `value` into the value of `key`. [`Outcome::LimitReached`] means that the result would have become too
    /// long, and nothing was changed.
    #[inline]
    pub fn merge<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        value: &'a (impl Form<V> + ?Sized),
    ) -> impl Op<Output = Outcome> {
        self.merge_operand(key, value)
    }

    /// Merges an operand that has another form than the value: a thing to count for `HyperLogLog`, one number for an
    /// average, `()` to count one.
    #[inline]
    pub fn merge_operand<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        operand: &'a (impl Encode + ?Sized),
    ) -> impl Op<Output = Outcome> {
        One::new(self.scope().target(OperationKind::Merge), key, NO, operand, outcome)
    }
}

impl<K: ?Sized, V: Decode> ValueState<K, V> {
    /// The value of `key`. [`ClientError::Malformed`] if the stored bytes are not a `V`.
    #[inline]
    pub fn get<'a>(&'a self, key: &'a (impl Form<K> + ?Sized)) -> impl Op<Output = Option<V>> {
        One::new(self.scope().target(OperationKind::Get), key, NO, NO, value)
    }

    /// The value of `key`, or else the state's default value. [`ClientError::Malformed`] also if the state has no
    /// default value, unless empty bytes are a `V`.
    #[inline]
    pub fn get_or_default<'a>(&'a self, key: &'a (impl Form<K> + ?Sized)) -> impl Op<Output = V> {
        One::new(self.scope().target(OperationKind::Get), key, NO, NO, |result| V::decode(result.value.clone()))
    }
}

impl<K: ?Sized, M: ?Sized, V: ?Sized> MapState<K, M, V> {
    /// Sets one entry.
    #[inline]
    pub fn put<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        map_key: &'a (impl Form<M> + ?Sized),
        value: &'a (impl Form<V> + ?Sized),
    ) -> impl Op<Output = ()> {
        One::new(self.scope().target(OperationKind::MapPut), key, map_key, value, done)
    }

    /// Merges `value` into one entry; see [`ValueState::merge`].
    #[inline]
    pub fn merge<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        map_key: &'a (impl Form<M> + ?Sized),
        value: &'a (impl Form<V> + ?Sized),
    ) -> impl Op<Output = Outcome> {
        self.merge_operand(key, map_key, value)
    }

    /// Merges an operand that has another form than the value into one entry; see [`ValueState::merge_operand`].
    #[inline]
    pub fn merge_operand<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        map_key: &'a (impl Form<M> + ?Sized),
        operand: &'a (impl Encode + ?Sized),
    ) -> impl Op<Output = Outcome> {
        One::new(self.scope().target(OperationKind::MapMerge), key, map_key, operand, outcome)
    }

    /// Removes one entry, if it is there.
    #[inline]
    pub fn remove<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        map_key: &'a (impl Form<M> + ?Sized),
    ) -> impl Op<Output = ()> {
        One::new(self.scope().target(OperationKind::MapRemove), key, map_key, NO, done)
    }

    /// Whether the map has this entry.
    pub fn contains<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        map_key: &'a (impl Form<M> + ?Sized),
    ) -> impl Op<Output = bool> {
        One::new(self.scope().target(OperationKind::MapContains), key, map_key, NO, |result| Ok(result.found))
    }

    /// Number of entries.
    pub fn count<'a>(&'a self, key: &'a (impl Form<K> + ?Sized)) -> impl Op<Output = u64> {
        One::new(self.scope().target(OperationKind::MapCount), key, NO, NO, count)
    }
}

impl<K: ?Sized, M: ?Sized, V: Decode> MapState<K, M, V> {
    /// The value of one entry. [`ClientError::Malformed`] if the stored bytes are not a `V`.
    #[inline]
    pub fn get<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        map_key: &'a (impl Form<M> + ?Sized),
    ) -> impl Op<Output = Option<V>> {
        One::new(self.scope().target(OperationKind::MapGet), key, map_key, NO, value)
    }
}

impl<K: ?Sized, V: ?Sized> ListState<K, V> {
    /// Appends one element.
    #[inline]
    pub fn add<'a>(
        &'a self,
        key: &'a (impl Form<K> + ?Sized),
        value: &'a (impl Form<V> + ?Sized),
    ) -> impl Op<Output = ()> {
        One::new(self.scope().target(OperationKind::ListAdd), key, NO, value, done)
    }

    /// Number of elements.
    pub fn count<'a>(&'a self, key: &'a (impl Form<K> + ?Sized)) -> impl Op<Output = u64> {
        One::new(self.scope().target(OperationKind::ListCount), key, NO, NO, count)
    }
}

impl<K: ?Sized, V: Encode> ListState<K, V> {
    /// Appends elements in order, all at once.
    pub fn add_all<'a>(&'a self, key: &'a (impl Form<K> + ?Sized), values: &'a [V]) -> impl Op<Output = ()> {
        Several { target: self.scope().target(OperationKind::ListAddAll), key, values, reader: done }
    }

    /// Replaces the list; without `values` it is cleared.
    pub fn update<'a>(&'a self, key: &'a (impl Form<K> + ?Sized), values: &'a [V]) -> impl Op<Output = ()> {
        Several { target: self.scope().target(OperationKind::ListUpdate), key, values, reader: done }
    }
}

impl<K: ?Sized, N: ?Sized> TimerState<K, N> {
    /// Registers a timer of `key` in this namespace; an existing one stays. `time` is above the lowest `i64`.
    #[inline]
    pub fn register<'a>(&'a self, key: &'a (impl Form<K> + ?Sized), time: i64) -> impl Op<Output = ()> {
        OnTimer { target: self.scope().target(OperationKind::TimerRegister), key, time }
    }

    /// Deletes a timer of `key` in this namespace, if it is there.
    #[inline]
    pub fn delete<'a>(&'a self, key: &'a (impl Form<K> + ?Sized), time: i64) -> impl Op<Output = ()> {
        OnTimer { target: self.scope().target(OperationKind::TimerDelete), key, time }
    }
}
