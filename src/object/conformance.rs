//! The contract of stores, as checks that can be run. The tests run them on the stores of this process and on real
//! servers, and `dstl store doctor` runs them on a user's store.
//!
//! Each check works in a folder of its own and cleans it afterwards, whatever the outcome, so that a bucket can be used
//! again. Do not run checks of one folder twice at once.

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod broken;
mod checks;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

use std::{collections::BTreeSet, fmt, time::Duration};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::{Created, ObjectMeta, PutPayload, Retry, Store, StoreError};
use crate::clock::Clock;

/// Attempts at a request of a check: a real store is not blamed for a single failure.
const ATTEMPTS: u32 = 5;

/// Number of repetitions of a condition that need not hold at once, and the pause between them.
const SETTLE_ATTEMPTS: u32 = 10;
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

/// Folder of the checks below the base of the store, in tests.
#[cfg(any(test, feature = "testing"))]
const ROOT: &str = "conformance";

/// A promise of the store that dstl relies on. [`Promise::text`] spells it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A create never replaces an object, and has one winner.
    CreateIfAbsent,
    /// An object can be read as soon as it is created, as it was written.
    ReadAfterWrite,
    /// Objects of several megabytes are stored whole, and read whole or in parts.
    LargeObjects,
    /// Parts of small objects are read exactly.
    Ranges,
    /// A missing object is distinguished from an unreachable store.
    Absence,
    /// A listing has every object that was created before it.
    ListAfterWrite,
    /// A listing no longer has objects that were deleted before it.
    ListAfterDelete,
    /// A listing continues after its first page.
    LongLists,
    /// A listing can begin after a given name.
    ListAfterName,
    /// Deleting a missing object succeeds.
    Delete,
    /// The store accepts the longest names that dstl makes.
    LongNames,
    /// The times of objects agree with the clock of this host.
    Clock,
}

impl Promise {
    /// Short name of the promise, for outputs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreateIfAbsent => "create-if-absent",
            Self::ReadAfterWrite => "read-after-write",
            Self::LargeObjects => "large-objects",
            Self::Ranges => "ranges",
            Self::Absence => "absence",
            Self::ListAfterWrite => "list-after-write",
            Self::ListAfterDelete => "list-after-delete",
            Self::LongLists => "long-lists",
            Self::ListAfterName => "list-after-name",
            Self::Delete => "delete",
            Self::LongNames => "long-names",
            Self::Clock => "clock",
        }
    }

    /// The promise, as a full sentence.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::CreateIfAbsent => {
                "An object is created once: of several creators one wins, the others learn that they did not, and its bytes stay."
            }
            Self::ReadAfterWrite => "An object that was created is read at once, with the bytes that were written.",
            Self::LargeObjects => "Objects of several megabytes are kept whole, and read whole or in parts.",
            Self::Ranges => "A part of a small object is read exactly; one that ends behind it is refused.",
            Self::Absence => "An object that does not exist is told from one that cannot be reached.",
            Self::ListAfterWrite => {
                "A listing has every object that was created before it, with its size, and none of another folder."
            }
            Self::ListAfterDelete => "What was deleted is gone from listings and reads.",
            Self::LongLists => "A listing is complete where it has more than 1,000 entries.",
            Self::ListAfterName => "A listing can begin after a name, and leaves that one out.",
            Self::Delete => "Deleting is idempotent: what is not there can be deleted, alone and among others.",
            Self::LongNames => "Objects with the longest names that dstl makes can be created, listed and deleted.",
            Self::Clock => "Objects are dated by a clock that agrees with this host's within a minute.",
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The observation that shows that a promise does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self(crate::error::Error::from(error).message)
    }
}

/// A test of one promise.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Name of the check, unique among all checks.
    pub name: &'static str,
    /// The promise that it tests.
    pub promise: Promise,
    run: for<'a> fn(&'a Ground) -> LocalBoxFuture<'a, Result<(), Broken>>,
}

/// All checks, in the order in which they are run.
pub const CHECKS: &[Check] = checks::ALL;

/// The store, folder and clock of one check.
#[derive(Debug)]
pub struct Ground {
    store: Store,
    root: Path,
    clock: Clock,
    /// Paths of all objects created, so that they are deleted even if the store does not list them.
    created: Mutex<BTreeSet<Path>>,
}

impl Check {
    /// Runs the check on `store`, in a folder of its own below `root`; `clock` is this host's. Not cancel-safe: a check
    /// that is dropped leaves objects behind.
    ///
    /// # Errors
    /// The observation, if the promise does not hold.
    pub async fn run(&self, store: &Store, root: &Path, clock: &Clock) -> Result<(), Broken> {
        let root = root.clone().join(self.name);
        let ground = Ground { store: store.clone(), root, clock: clock.clone(), created: Mutex::default() };
        ground.clean().await?;
        let outcome = (self.run)(&ground).await;
        let cleaned = ground.clean().await;
        outcome.and(cleaned)
    }
}

/// Runs all checks on `store`, in the folder `conformance`.
///
/// # Panics
/// If a promise does not hold.
#[cfg(any(test, feature = "testing"))]
pub async fn all(store: &Store, clock: &Clock) {
    for check in CHECKS {
        let outcome = check.run(store, &Path::from(ROOT), clock).await;
        assert_eq!(outcome, Ok(()), "{}: {}", check.promise, check.name);
    }
}

impl Ground {
    /// Path of `name`, which has one or more parts, in the folder of the check.
    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.root.clone(), |path, part| path.join(part))
    }

    async fn create(&self, path: &Path, bytes: impl Into<PutPayload>) -> Result<Created, Broken> {
        self.created.lock().insert(path.clone());
        Ok(self.store.create(path, bytes.into(), retry()).await?)
    }

    /// Creates an object under a new name, and waits until it can be read. That it can be read at once is another
    /// promise.
    async fn create_new(&self, path: &Path, bytes: impl Into<PutPayload>) -> Result<(), Broken> {
        let created = self.create(path, bytes).await?;
        // An attempt whose answer was lost finds its own bytes.
        expect(created != Created::Conflict, || format!("`{path}`, a new name, exists with other bytes"))?;
        self.settle(path).await
    }

    /// Waits until the object at `path` can be read.
    async fn settle(&self, path: &Path) -> Result<(), Broken> {
        self.eventually(async || {
            let head = self.store.head(path, retry()).await?;
            expect(head.is_some(), || format!("`{path}` was created, and does not exist"))
        })
        .await
    }

    /// Repeats `check` for a while, until it holds. For conditions that need not hold at once, as that is another
    /// promise.
    async fn eventually(&self, check: impl AsyncFn() -> Result<(), Broken>) -> Result<(), Broken> {
        let mut outcome = check().await;
        for _ in 0..SETTLE_ATTEMPTS {
            if outcome.is_ok() {
                break;
            }
            sleep(SETTLE_PAUSE).await;
            outcome = check().await;
        }
        outcome
    }

    async fn get(&self, path: &Path) -> Result<Bytes, Broken> {
        Ok(self.store.get(path, retry()).await?)
    }

    async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, Broken> {
        Ok(self.store.list(folder, retry()).await?)
    }

    /// Deletes all objects that the check created, and all that are listed in its folder.
    async fn clean(&self) -> Result<(), Broken> {
        let mut left: BTreeSet<_> = self.list(&self.root).await?.into_iter().map(|meta| meta.path).collect();
        let created = std::mem::take(&mut *self.created.lock());
        for path in created {
            // An object whose `head` fails may exist.
            let absent = !left.contains(&path) && matches!(self.store.head(&path, retry()).await, Ok(None));
            if !absent {
                left.insert(path);
            }
        }
        Ok(self.store.delete_all(left.into_iter().collect(), retry()).await?)
    }
}

fn retry() -> Retry {
    Retry::forever().at_most(ATTEMPTS)
}

/// Fails with the observation `seen`, unless `holds`.
fn expect(holds: bool, seen: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(seen())) }
}
