//! Stores that break one promise each, to test that a check finds it.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;

use super::Promise;
use crate::{
    clock::Clock,
    metrics::Metrics,
    object::{MemoryStore, RetryOptions, Store, memory::not_implemented},
    random::Random,
};

/// One way in which a store breaks one promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Overwrites,
    LooksThenWrites,
    ShowsObjectsLate,
    CutsLargeObjects,
    ReadsOneByteLess,
    FailsForWhatIsMissing,
    ListsLate,
    ListsWhatIsDeleted,
    ListsOnePage,
    ListsTheNameItself,
    FailsToDeleteWhatIsMissing,
    RefusesLongNames,
    RunsAnHourAhead,
}

/// All ways to break a promise, with the promise that each of them breaks.
pub(crate) const WAYS: [(Way, Promise); 13] = [
    (Way::Overwrites, Promise::CreateIfAbsent),
    (Way::LooksThenWrites, Promise::CreateIfAbsent),
    (Way::ShowsObjectsLate, Promise::ReadAfterWrite),
    (Way::CutsLargeObjects, Promise::LargeObjects),
    (Way::ReadsOneByteLess, Promise::Ranges),
    (Way::FailsForWhatIsMissing, Promise::Absence),
    (Way::ListsLate, Promise::ListAfterWrite),
    (Way::ListsWhatIsDeleted, Promise::ListAfterDelete),
    (Way::ListsOnePage, Promise::LongLists),
    (Way::ListsTheNameItself, Promise::ListAfterName),
    (Way::FailsToDeleteWhatIsMissing, Promise::Delete),
    (Way::RefusesLongNames, Promise::LongNames),
    (Way::RunsAnHourAhead, Promise::Clock),
];

/// A store that breaks one promise and keeps all others.
#[derive(Debug, Clone)]
pub(crate) struct BrokenStore {
    objects: MemoryStore,
    way: Way,
    /// Objects that the next read or listing misses, or still shows although they are deleted.
    late: Arc<Mutex<BTreeSet<Path>>>,
}

impl BrokenStore {
    pub(crate) fn new(way: Way) -> Self {
        Self { objects: MemoryStore::new(Clock::new(|| 0)), way, late: Arc::default() }
    }

    pub(crate) fn door(&self) -> Store {
        let store = Arc::new(self.clone());
        Store::new(store, Path::default(), RetryOptions::default(), &Metrics::new(), Random::seeded(1))
    }

    /// Number of objects in the store.
    pub(crate) async fn count(&self) -> usize {
        self.objects.list(None).count().await
    }

    fn failed<T>() -> Result<T> {
        Err(Error::Generic { store: "broken", source: "500".into() })
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if self.way == Way::RunsAnHourAhead {
            meta.last_modified += Duration::from_hours(1);
        }
        meta
    }

    async fn listed(self, prefix: Option<Path>) -> Vec<Result<ObjectMeta>> {
        let mut found: Vec<_> = self.objects.list(prefix.as_ref()).collect().await;
        let below = |path: &Path| prefix.as_ref().is_none_or(|prefix| path.prefix_matches(prefix));
        let late: BTreeSet<_> = self.late.lock().extract_if(.., |path| below(path)).collect();
        match self.way {
            Way::ListsLate => found.retain(|meta| !late.contains(&meta.as_ref().unwrap().location)),
            Way::ListsWhatIsDeleted => found.extend(late.into_iter().map(|location| {
                Ok(ObjectMeta { location, last_modified: Default::default(), size: 1, e_tag: None, version: None })
            })),
            Way::ListsOnePage => found.truncate(1000),
            _ => {}
        }
        found.into_iter().map(|meta| meta.map(|meta| self.dated(meta))).collect()
    }

    async fn delete_one(self, location: Path) -> Result<Path> {
        if self.way == Way::FailsToDeleteWhatIsMissing && self.objects.head(&location).await.is_err() {
            return Self::failed();
        }
        if self.way == Way::ListsWhatIsDeleted {
            self.late.lock().insert(location.clone());
        }
        self.objects.delete(&location).await?;
        Ok(location)
    }
}

impl fmt::Display for BrokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.way)
    }
}

#[async_trait]
impl ObjectStore for BrokenStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let mut payload = payload;
        match self.way {
            Way::Overwrites => options.mode = PutMode::Overwrite,
            Way::LooksThenWrites if self.objects.head(location).await.is_err() => {
                tokio::task::yield_now().await;
                options.mode = PutMode::Overwrite;
            }
            Way::CutsLargeObjects if payload.content_length() > 1 << 20 => {
                payload = PutPayload::from(vec![0; 1 << 20]);
            }
            Way::RefusesLongNames if location.parts().any(|part| part.as_ref().len() > 100) => return Self::failed(),
            _ => {}
        }
        let put = self.objects.put_opts(location, payload, options).await?;
        if matches!(self.way, Way::ShowsObjectsLate | Way::ListsLate) {
            self.late.lock().insert(location.clone());
        }
        Ok(put)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        not_implemented("multipart upload", self)
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        if self.way == Way::ShowsObjectsLate && self.late.lock().remove(location) {
            return Err(Error::NotFound { path: location.to_string(), source: "not yet".into() });
        }
        if let (Way::ReadsOneByteLess, Some(object_store::GetRange::Bounded(range))) = (self.way, &mut options.range) {
            range.start += 1;
        }
        match self.objects.get_opts(location, options).await {
            Err(Error::NotFound { .. }) if self.way == Way::FailsForWhatIsMissing => Self::failed(),
            Err(error) => Err(error),
            Ok(got) => Ok(GetResult { meta: self.dated(got.meta.clone()), ..got }),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations.then(move |location| store.clone().delete_one(location.unwrap())).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.clone().listed(prefix.cloned()).into_stream().flat_map(stream::iter).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (offset, with_itself) = (offset.clone(), self.way == Way::ListsTheNameItself);
        let after = move |path: &Path| *path > offset || (with_itself && *path == offset);
        let listed = self.list(prefix);
        listed.filter(move |meta| std::future::ready(after(&meta.as_ref().unwrap().location))).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        not_implemented("listing of one folder", self)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_implemented("copy", self)
    }
}
