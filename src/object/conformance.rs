//! What every store has to do, as functions: memory and directories run them here, cloud stores in the integration
//! tests.
//!
//! Each function works below a prefix of its own and cleans it before and after, so that a bucket can be used again and
//! again, but not by two runs at once. They panic where the store does not conform.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;

use super::{Created, PutPayload, Retry, Store, StoreError};

/// Failures of the store itself are retried a little, so that a real one is not blamed for a hiccup.
const ATTEMPTS: u32 = 5;

/// How many race for one name.
const RACERS: usize = 16;

/// Runs all.
///
/// # Panics
/// Where `store` does not conform.
pub async fn all(store: &Store) {
    creates_once(store).await;
    one_of_many_creators_wins(store).await;
    all_identical_creators_win(store).await;
    reads_ranges_exactly(store).await;
    tells_what_does_not_exist(store).await;
    lists_what_was_created(store).await;
    deletes_idempotently(store).await;
    stores_large_objects_in_chunks(store).await;
}

/// An object is created once; the same bytes again are identical, others a conflict, and neither changes it.
///
/// # Panics
/// Where `store` does not conform.
pub async fn creates_once(store: &Store) {
    let root = fresh(store, "creates-once").await;
    let path = root.clone().join("a");
    assert_eq!(create(store, &path, b"one").await, Created::New);
    assert_eq!(create(store, &path, b"one").await, Created::Identical);
    for other in [&b"two"[..], b"on", b"one more", b""] {
        assert_eq!(create(store, &path, other).await, Created::Conflict);
    }
    assert_eq!(get(store, &path).await, "one");
    let chunks: PutPayload = [&b"o"[..], b"", b"ne"].into_iter().map(Bytes::from_static).collect();
    assert_eq!(store.create(&path, chunks, retry()).await.expect("create"), Created::Identical);
    let empty = root.clone().join("empty");
    assert_eq!(create(store, &empty, b"").await, Created::New);
    assert_eq!(create(store, &empty, b"").await, Created::Identical);
    assert_eq!(get(store, &empty).await, "");
    clean(store, &root).await;
}

/// Of many who create one name with different bytes exactly one wins, and its bytes stay.
///
/// # Panics
/// Where `store` does not conform.
pub async fn one_of_many_creators_wins(store: &Store) {
    let root = fresh(store, "one-wins").await;
    let path = root.clone().join("a");
    let racers = (0..RACERS).map(|racer| store.create(&path, format!("racer {racer}").into(), retry()));
    let outcomes: Vec<_> = join_all(racers).await.into_iter().map(|outcome| outcome.expect("create")).collect();
    // A winner whose answer got lost finds its own bytes.
    let winners: Vec<_> = (0..RACERS).filter(|racer| outcomes.get(*racer) != Some(&Created::Conflict)).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(winners.first().map(|racer| format!("racer {racer}").into()), Some(get(store, &path).await));
    clean(store, &root).await;
}

/// Many who create one name with the same bytes all learn that it has them.
///
/// # Panics
/// Where `store` does not conform.
pub async fn all_identical_creators_win(store: &Store) {
    let root = fresh(store, "identical-win").await;
    let path = root.clone().join("a");
    let racers = (0..RACERS).map(|_| store.create(&path, "same".into(), retry()));
    for outcome in join_all(racers).await {
        assert_ne!(outcome.expect("create"), Created::Conflict);
    }
    clean(store, &root).await;
}

/// Ranges are read exactly; one that ends behind the object is an error that tells its size.
///
/// # Panics
/// Where `store` does not conform.
pub async fn reads_ranges_exactly(store: &Store) {
    let root = fresh(store, "ranges").await;
    let path = root.clone().join("a");
    create(store, &path, b"0123456789").await;
    for (range, bytes) in [(0..10, "0123456789"), (0..1, "0"), (3..7, "3456"), (9..10, "9"), (4..4, ""), (99..99, "")] {
        assert_eq!(store.get_range(&path, range, retry()).await.expect("range"), bytes);
    }
    for range in [0..11, 9..20, 10..11, 50..60] {
        let answer = store.get_range(&path, range.clone(), retry()).await;
        assert!(matches!(answer, Err(StoreError::OutOfRange { size: 10, .. })), "{range:?}: {answer:?}");
    }
    clean(store, &root).await;
}

/// What does not exist is told from what cannot be reached.
///
/// # Panics
/// Where `store` does not conform.
pub async fn tells_what_does_not_exist(store: &Store) {
    let root = fresh(store, "absent").await;
    let path = root.clone().join("a");
    assert!(matches!(store.get(&path, retry()).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.get_range(&path, 0..1, retry()).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.get_optional(&path, retry()).await.expect("optional"), None);
    assert_eq!(store.head(&path, retry()).await.expect("head"), None);
    assert_eq!(store.list(&root, retry()).await.expect("list"), []);
    store.probe(retry()).await.expect("probe");
}

/// A listing has everything that was created before it, in order of the paths, with sizes and times, and nothing that
/// only begins with the same letters.
///
/// # Panics
/// Where `store` does not conform.
pub async fn lists_what_was_created(store: &Store) {
    let root = fresh(store, "lists").await;
    let names = ["b/2", "b/1", "b/1x", "a", "b/c/d", "bb/1"];
    let paths: Vec<Path> = names.iter().map(|name| below(&root, name)).collect();
    for path in &paths {
        create(store, path, b"12345").await;
    }
    let listed = store.list(&root, retry()).await.expect("list");
    let expected: BTreeSet<_> = paths.into_iter().collect();
    assert!(listed.iter().map(|meta| &meta.path).eq(&expected), "{listed:?}");
    assert!(listed.iter().all(|meta| meta.size == 5));
    for meta in &listed {
        assert_eq!(store.head(&meta.path, retry()).await.expect("head").map(|head| head.size), Some(5));
    }
    let within = store.list(&below(&root, "b"), retry()).await.expect("list");
    let within: Vec<_> = within.into_iter().map(|meta| meta.path).collect();
    assert_eq!(within, ["b/1", "b/1x", "b/2", "b/c/d"].map(|name| below(&root, name)));
    let after = store.list_after(&below(&root, "b"), &below(&root, "b/1x"), retry()).await.expect("list");
    let after: Vec<_> = after.into_iter().map(|meta| meta.path).collect();
    assert_eq!(after, ["b/2", "b/c/d"].map(|name| below(&root, name)));
    clean(store, &root).await;
}

/// Deleting is idempotent, one by one and in bulk, and what was deleted is gone.
///
/// # Panics
/// Where `store` does not conform.
pub async fn deletes_idempotently(store: &Store) {
    let root = fresh(store, "deletes").await;
    let paths: Vec<_> = (0..25).map(|i| root.clone().join(format!("{i}"))).collect();
    for path in &paths {
        create(store, path, b"1").await;
    }
    let (first, rest) = paths.split_first().expect("there are 25 paths");
    store.delete(first, retry()).await.expect("delete");
    assert_eq!(store.get_optional(first, retry()).await.expect("get"), None);
    store.delete(first, retry()).await.expect("delete again");
    assert_eq!(store.list(&root, retry()).await.expect("list").len(), rest.len());
    store.delete_all(paths.clone(), retry()).await.expect("delete all, one of which is gone");
    assert_eq!(store.list(&root, retry()).await.expect("list"), []);
    store.delete_all(paths, retry()).await.expect("delete all again");
    store.delete_all(Vec::new(), retry()).await.expect("delete nothing");
}

/// An object of several megabytes, given in chunks of odd sizes, is read back whole and in part.
///
/// # Panics
/// Where `store` does not conform.
pub async fn stores_large_objects_in_chunks(store: &Store) {
    let root = fresh(store, "large").await;
    let path = root.clone().join("a");
    let bytes: Bytes = (0..8_u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut rest = bytes.clone();
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        chunks.push(rest.split_to(rest.len().min(1_000_003)));
    }
    let payload: PutPayload = chunks.into_iter().collect();
    assert_eq!(store.create(&path, payload.clone(), retry()).await.expect("create"), Created::New);
    assert_eq!(store.create(&path, payload, retry()).await.expect("create"), Created::Identical);
    assert!(get(store, &path).await == bytes, "a large object is not read back as written");
    let part = store.get_range(&path, 1_000_000..5_000_000, retry()).await.expect("range");
    assert!(part == bytes.slice(1_000_000..5_000_000), "a part of a large object is not read back as written");
    clean(store, &root).await;
}

fn retry() -> Retry {
    Retry::forever().at_most(ATTEMPTS)
}

fn below(root: &Path, name: &str) -> Path {
    name.split('/').fold(root.clone(), |path, part| path.join(part))
}

async fn create(store: &Store, path: &Path, bytes: &'static [u8]) -> Created {
    store.create(path, PutPayload::from_static(bytes), retry()).await.expect("create")
}

async fn get(store: &Store, path: &Path) -> Bytes {
    store.get(path, retry()).await.expect("get")
}

/// The prefix of one function, empty.
async fn fresh(store: &Store, name: &str) -> Path {
    let root = Path::from_iter(["conformance", name]);
    clean(store, &root).await;
    root
}

async fn clean(store: &Store, root: &Path) {
    let left = store.list(root, retry()).await.expect("list");
    store.delete_all(left.into_iter().map(|meta| meta.path).collect(), retry()).await.expect("delete");
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use crate::{
        clock::Clock,
        metrics::Metrics,
        object::{Store, StoreOptions, open::open},
        random::Random,
    };

    fn store(url: &str) -> Store {
        open(&StoreOptions::new(url), &Metrics::new(), &Clock::new(|| 0), Random::seeded(1)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn memory_conforms() {
        super::all(&store("memory://")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn memory_below_a_base_conforms() {
        super::all(&store("memory:///a/b")).await;
    }

    #[tokio::test]
    async fn a_directory_conforms_and_is_empty_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        super::all(&store(dir.path().to_str().unwrap())).await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
