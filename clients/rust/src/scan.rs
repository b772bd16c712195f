//! Reads in pages, which are returned item by item, with memory for one page.

use std::{
    borrow::Borrow,
    collections::VecDeque,
    fmt,
    ops::{Bound as End, RangeBounds},
};

use bytes::Bytes;

use super::{
    BatchBuilder, Bound, ClientError, Decode, Encode, ListState, MapState, Session, State,
    state::{encoded, private::Sealed as _},
};
use crate::proto::v1::{Operation, OperationKind, OperationResult};

/// Default of the most items of a page.
const PAGE_ITEMS: u64 = 1000;

/// Reads one page and, if others follow, changes the operation to read the next one.
type Page<T> = fn(OperationResult, &mut Operation) -> Result<(VecDeque<T>, bool), ClientError>;

/// A read of many items, a page at a time. It holds one page in memory. Other operations of the session go on between
/// two pages.
///
/// ```no_run
/// # use dstl_client::{Bound, ClientError, MapState};
/// # async fn print(seen: &Bound<MapState<String, String, i64>>) -> Result<(), ClientError> {
/// let mut entries = seen.prefix("user", "2026-");
/// while let Some((day, count)) = entries.next().await? {
///     println!("{day}: {count}");
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "it reads nothing by itself"]
pub struct Scan<T> {
    session: Session,
    /// The operation that reads the next page.
    operation: Operation,
    read: Page<T>,
    page: VecDeque<T>,
    more: bool,
}

/// A key that has entries in a state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredKey<K, N> {
    /// The key.
    pub key: K,
    /// The namespace in which it has entries.
    pub namespace: N,
    /// The key group of the key.
    pub key_group: u32,
}

impl<T> Scan<T> {
    pub(super) fn new(session: &Session, mut operation: Operation, read: Page<T>) -> Self {
        operation.limit = PAGE_ITEMS;
        Self { session: session.clone(), operation, read, page: VecDeque::new(), more: true }
    }

    /// The same read with pages of at most so many items; 0 for as many as fit into a message. Default: 1000.
    pub fn page_of(mut self, items: u64) -> Self {
        self.operation.limit = items;
        self
    }

    /// The next item; `None` after the last one. Cancel-safe.
    ///
    /// # Errors
    /// The error of the daemon, the reason why the session is over, or [`ClientError::Malformed`] if stored bytes do
    /// not fit the handle's types.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        while self.page.is_empty() && self.more {
            let mut operation = BatchBuilder::new();
            operation.push(&self.operation);
            let result = self.session.operate(operation).await?;
            (self.page, self.more) = (self.read)(result, &mut self.operation)?;
        }
        Ok(self.page.pop_front())
    }

    /// All remaining items, in memory.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub async fn collect(mut self) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        while let Some(item) = self.next().await? {
            items.push(item);
            items.extend(self.page.drain(..));
        }
        Ok(items)
    }
}

impl<T> fmt::Debug for Scan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, more) = (self.page.len(), self.more);
        f.debug_struct("Scan").field("operation", &self.operation).field("held", &held).field("more", &more).finish()
    }
}

/// The owned form of a state's key.
type Owned<S> = <<S as State>::Key as ToOwned>::Owned;

impl<S> Bound<S>
where
    S: State<Key: ToOwned<Owned: Decode>>,
{
    /// The keys that have entries in this namespace, of all key groups of the backend, in no particular order. A key
    /// that exists from the first page to the last is returned exactly once, whatever this session writes in between. A
    /// key that comes or goes meanwhile may be missing.
    pub fn keys(&self) -> Scan<Owned<S>> {
        let operation = self.keys_operation();
        Scan::new(self.session(), operation, |result, operation| {
            keys(result, operation, |stored: StoredKey<_, Bytes>| stored.key)
        })
    }

    /// The keys in every namespace, as pairs of key and namespace; otherwise as [`keys`](Self::keys).
    pub fn all_keys<N: Decode>(&self) -> Scan<StoredKey<Owned<S>, N>> {
        let operation = Operation { namespace: Bytes::new(), all_namespaces: true, ..self.keys_operation() };
        Scan::new(self.session(), operation, |result, operation| keys(result, operation, |stored| stored))
    }

    fn keys_operation(&self) -> Operation {
        Operation { key_group: None, ..self.state().scope().operation(OperationKind::Keys) }
    }
}

impl<K: ?Sized, M, V> Bound<MapState<K, M, V>>
where
    M: Decode,
    V: Decode,
{
    /// The entries of `key`, in order of the bytes of their keys. An entry that the session writes between two pages is
    /// seen if its key is behind the first page.
    pub fn scan<Q>(&self, key: &Q) -> Scan<(M, V)>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.entries_of(key, Operation::default())
    }

    /// The entries with map keys in `range`, by the order of their bytes ([`Ordered`](super::Ordered) numbers are in
    /// numeric order). The bounds are those of ranges of a `BTreeMap`.
    pub fn range<Q, N>(&self, key: &Q, range: impl RangeBounds<N>) -> Scan<(M, V)>
    where
        K: Borrow<Q>,
        M: Borrow<N>,
        Q: Encode + ?Sized,
        N: Encode + ?Sized,
    {
        let from = match range.start_bound() {
            End::Included(first) => encoded(first),
            End::Excluded(before) => successor(&encoded(before)),
            End::Unbounded => Bytes::new(),
        };
        let to = match range.end_bound() {
            End::Included(last) => Some(successor(&encoded(last))),
            End::Excluded(behind) => Some(encoded(behind)),
            End::Unbounded => None,
        };
        let is_empty = to.as_ref().is_some_and(|to| *to <= from);
        let bounds = Operation { map_key: from, map_key_to: to.unwrap_or_default(), ..Operation::default() };
        Scan { more: !is_empty, ..self.entries_of(key, bounds) }
    }

    /// The entries with map keys that begin with the bytes of `prefix`.
    pub fn prefix<Q>(&self, key: &Q, prefix: &(impl Encode + ?Sized)) -> Scan<(M, V)>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.entries_of(key, Operation { map_prefix: encoded(prefix), ..Operation::default() })
    }

    fn entries_of<Q: Encode + ?Sized>(&self, key: &Q, bounds: Operation) -> Scan<(M, V)> {
        let Operation { map_key, map_key_to, map_prefix, .. } = bounds;
        let operation = self.state().scope().operation(OperationKind::MapEntries);
        let operation = Operation { key: encoded(key), map_key, map_key_to, map_prefix, ..operation };
        Scan::new(self.session(), operation, entries)
    }
}

impl<K: ?Sized, V: Decode> Bound<ListState<K, V>> {
    /// The elements of `key`, in order. An element that exists from the first page to the last is always returned, even
    /// if others expire meanwhile. If the list is replaced or removed between two pages, the next page begins at the
    /// same index of the new list.
    pub fn scan<Q>(&self, key: &Q) -> Scan<V>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        let operation = self.state().scope().operation(OperationKind::ListGet);
        Scan::new(self.session(), Operation { key: encoded(key), ..operation }, elements)
    }
}

/// The next byte string after `bytes`.
fn successor(bytes: &[u8]) -> Bytes {
    [bytes, &[0]].concat().into()
}

fn keys<K: Decode, N: Decode, T>(
    result: OperationResult,
    operation: &mut Operation,
    item: impl Fn(StoredKey<K, N>) -> T,
) -> Result<(VecDeque<T>, bool), ClientError> {
    let decoded = result.keys.into_iter().map(|stored| {
        let (key, namespace) = (K::decode(stored.key)?, N::decode(stored.namespace)?);
        Ok(item(StoredKey { key, namespace, key_group: stored.key_group }))
    });
    let page = decoded.collect::<Result<_, ClientError>>()?;
    operation.token = result.token;
    Ok((page, !operation.token.is_empty()))
}

fn entries<M: Decode, V: Decode>(
    result: OperationResult,
    operation: &mut Operation,
) -> Result<(VecDeque<(M, V)>, bool), ClientError> {
    let last = result.entries.last().map(|entry| entry.key.clone());
    let decoded = result.entries.into_iter().map(|entry| Ok((M::decode(entry.key)?, V::decode(entry.value)?)));
    let page = decoded.collect::<Result<_, ClientError>>()?;
    let more = result.more && last.is_some();
    if let Some(last) = last {
        operation.map_key = successor(&last);
    }
    Ok((page, more))
}

fn elements<V: Decode>(result: OperationResult, operation: &mut Operation) -> Result<(VecDeque<V>, bool), ClientError> {
    let page = result.elements.into_iter().map(V::decode).collect::<Result<_, ClientError>>()?;
    operation.token = result.token;
    Ok((page, !operation.token.is_empty()))
}
