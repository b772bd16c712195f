//! Writes the pages of log indexes.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{index::NewPage, local};
use crate::{
    object::{Created, PutPayload, Retry, Store, StoreError},
    types::BackendId,
};

/// Requests in flight at the same time.
const CONCURRENT_WRITES: usize = 16;

/// Makes `pages` durable, in any order. They list changes of backends among `origins`, all of one operator.
/// Cancel-safe: pages that are written by then stay, and are garbage if no manifest comes to name them.
///
/// # Errors
/// The error of the store, after the attempts that `retry` allows.
pub async fn write(store: &Store, origins: &[BackendId], pages: Vec<NewPage>, retry: Retry) -> Result<(), StoreError> {
    // Collected first: a stream of borrowing closures would make the opening a future that cannot be spawned.
    let writes: Vec<_> = pages.into_iter().map(|page| write_one(store, origins, page, retry)).collect();
    stream::iter(writes).buffer_unordered(CONCURRENT_WRITES).try_collect().await
}

async fn write_one(
    store: &Store,
    origins: &[BackendId],
    NewPage { reference, bytes }: NewPage,
    retry: Retry,
) -> Result<(), StoreError> {
    // Any of them will do: the reference itself says in which subtask's chain the page lies.
    let of = origins.first().expect("a page lists changes of some chain");
    let path = reference.name(of).path();
    match store.create(&path, PutPayload::from_bytes(bytes.clone()), retry).await? {
        Created::New | Created::Identical => {
            store.copy(&path, PutPayload::from_bytes(bytes), || local::page_label(origins, &reference));
            Ok(())
        }
        Created::Conflict => unreachable!("the page's UUID is new"),
    }
}
