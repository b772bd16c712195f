//! Reads in pages, which are returned item by item, with memory for one page.

use std::{
    collections::VecDeque,
    fmt,
    ops::{Bound, RangeBounds},
};

use bytes::Bytes;

use super::{
    ClientError, Decode, Encode, Form, ListState, MapState, Session,
    state::{Scope, encoded, private::Sealed as _},
};
use dstl_proto::v1::{Operation, OperationKind, OperationResult};

/// Most items of a page that [`Scan::next`] reads, unless the scan says otherwise.
const PAGE_ITEMS: u64 = 1000;

/// Reads one page and, if others follow, changes the operation to read the next one.
type Page<T> = fn(OperationResult, &mut Operation) -> Result<(VecDeque<T>, bool), ClientError>;

/// A read of many items, a page at a time. It holds one page in memory. Other operations of the session go on between
/// two pages. All pages must be read over sessions of the same backend.
///
/// ```no_run
/// # use dstl_client::{ClientError, MapState, Session};
/// # async fn print(session: &Session, seen: &MapState<String, String, i64>) -> Result<(), ClientError> {
/// let mut entries = seen.prefix("user", "2026-");
/// while let Some((day, count)) = entries.next(session).await? {
///     println!("{day}: {count}");
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "it reads nothing by itself"]
pub struct Scan<T> {
    /// The operation that reads the next page.
    operation: Operation,
    read: Page<T>,
    page: VecDeque<T>,
    more: bool,
    /// Most items of a page, 0 for as many as fit into a message.
    page_items: Option<u64>,
}

/// A key that has entries in a state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredKey<K, N> {
    /// The key, decoded.
    pub key: K,
    /// The namespace in which it has entries.
    pub namespace: N,
    /// The key group of the key.
    pub key_group: u32,
}

impl<T> Scan<T> {
    pub(super) fn new(operation: Operation, read: Page<T>) -> Self {
        Self { operation, read, page: VecDeque::new(), more: true, page_items: None }
    }

    /// The same read with pages of at most so many items; 0 for as many as fit into a message, which is the default of
    /// [`collect`](Self::collect). That of [`next`](Self::next) is 1000.
    pub fn page_of(mut self, items: u64) -> Self {
        self.page_items = Some(items);
        self
    }

    /// The next item; `None` after the last one. Cancel-safe.
    ///
    /// # Errors
    /// The error of the daemon, the reason why the session is over, or [`ClientError::Malformed`] if stored bytes do
    /// not fit the handle's types.
    pub async fn next(&mut self, session: &Session) -> Result<Option<T>, ClientError> {
        self.operation.limit = self.page_items.unwrap_or(PAGE_ITEMS);
        while self.page.is_empty() && self.more {
            let result = session.run(&self.operation).await?;
            (self.page, self.more) = (self.read)(result, &mut self.operation)?;
        }
        Ok(self.page.pop_front())
    }

    /// All remaining items, in memory. Many items take several reads, between which other writes may be applied.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub async fn collect(mut self, session: &Session) -> Result<Vec<T>, ClientError> {
        self.page_items.get_or_insert(0);
        let mut items = Vec::new();
        while let Some(item) = self.next(session).await? {
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

/// The keys in the namespace of `scope`.
pub(super) fn keys<K: Decode>(scope: &Scope) -> Scan<K> {
    Scan::new(keys_operation(scope), |result, operation| {
        read_keys(result, operation, |stored: StoredKey<_, Bytes>| stored.key)
    })
}

/// The keys in every namespace.
pub(super) fn all_keys<K: Decode, N: Decode>(scope: &Scope) -> Scan<StoredKey<K, N>> {
    let operation = Operation { namespace: Bytes::new(), all_namespaces: true, ..keys_operation(scope) };
    Scan::new(operation, |result, operation| read_keys(result, operation, |stored| stored))
}

fn keys_operation(scope: &Scope) -> Operation {
    Operation { key_group: None, ..scope.operation(OperationKind::Keys) }
}

impl<K: ?Sized, M: Decode, V: Decode> MapState<K, M, V> {
    /// The entries of `key`, in order of the bytes of their keys. An entry that the session writes between two pages is
    /// seen if its key is behind the first page.
    pub fn scan(&self, key: &(impl Form<K> + ?Sized)) -> Scan<(M, V)> {
        self.entries_of(encoded(key), Operation::default())
    }

    /// The entries with map keys in `range`, by the order of their bytes ([`Ordered`](super::Ordered) numbers are in
    /// numeric order). The bounds are those of ranges of a `BTreeMap`.
    pub fn range<N: Form<M> + ?Sized>(
        &self,
        key: &(impl Form<K> + ?Sized),
        range: impl RangeBounds<N>,
    ) -> Scan<(M, V)> {
        let from = match range.start_bound() {
            Bound::Included(first) => encoded(first),
            Bound::Excluded(before) => successor(&encoded(before)),
            Bound::Unbounded => Bytes::new(),
        };
        let to = match range.end_bound() {
            Bound::Included(last) => Some(successor(&encoded(last))),
            Bound::Excluded(behind) => Some(encoded(behind)),
            Bound::Unbounded => None,
        };
        // An empty end would mean no end to the daemon. It is not above any beginning, so such a range reads nothing.
        let is_empty = to.as_ref().is_some_and(|to| *to <= from);
        let bounds = Operation { map_key: from, map_key_to: to.unwrap_or_default(), ..Operation::default() };
        Scan { more: !is_empty, ..self.entries_of(encoded(key), bounds) }
    }

    /// The entries with map keys that begin with the bytes of `prefix`.
    pub fn prefix(&self, key: &(impl Form<K> + ?Sized), prefix: &(impl Encode + ?Sized)) -> Scan<(M, V)> {
        self.entries_of(encoded(key), Operation { map_prefix: encoded(prefix), ..Operation::default() })
    }

    fn entries_of(&self, key: Bytes, bounds: Operation) -> Scan<(M, V)> {
        let Operation { map_key, map_key_to, map_prefix, .. } = bounds;
        let operation = self.scope().operation(OperationKind::MapEntries);
        Scan::new(Operation { key, map_key, map_key_to, map_prefix, ..operation }, entries)
    }
}

impl<K: ?Sized, V: Decode> ListState<K, V> {
    /// The elements of `key`, in order. An element that exists from the first page to the last is always returned, even
    /// if others expire meanwhile. If the list is replaced or removed between two pages, the next page begins at the
    /// same index of the new list.
    pub fn scan(&self, key: &(impl Form<K> + ?Sized)) -> Scan<V> {
        let operation = self.scope().operation(OperationKind::ListGet);
        Scan::new(Operation { key: encoded(key), ..operation }, elements)
    }
}

/// The next byte string after `bytes`.
fn successor(bytes: &[u8]) -> Bytes {
    [bytes, &[0]].concat().into()
}

fn read_keys<K: Decode, N: Decode, T>(
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
    // A page without an entry has no place to go on from, so it ends the scan in any case.
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
