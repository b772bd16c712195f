//! A store in memory, for tests, simulations and trials; the times of its objects come from the injected clock.
//!
//! Two simulations with one seed must list the same times, so that their sweeps delete the same objects.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use parking_lot::Mutex;

use crate::{clock::Clock, types::TimeMs};

/// Objects in memory. Clones share them.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    objects: Arc<InMemory>,
    times: Arc<Mutex<BTreeMap<Path, TimeMs>>>,
    clock: Clock,
}

impl MemoryStore {
    /// An empty store whose objects are dated by `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { objects: Arc::default(), times: Arc::default(), clock }
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let created_ms = self.times.lock().get(&meta.location).copied().unwrap_or_else(|| self.clock.now_ms());
        meta.last_modified = (UNIX_EPOCH + Duration::from_millis(created_ms)).into();
        meta
    }

    fn dated_all(&self, listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        listing.map(move |meta| meta.map(|meta| store.dated(meta))).boxed()
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

/// The answer to requests that this store does not implement: dstl writes objects whole, and reads and creates an
/// object again where the store cannot copy it.
pub(super) fn not_implemented<T>(operation: &str, store: &dyn fmt::Display) -> Result<T> {
    Err(object_store::Error::NotImplemented { operation: operation.to_owned(), implementer: store.to_string() })
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.objects.put_opts(location, payload, options).await?;
        // Only after the put took effect: a refused create must not change the time of the object that exists.
        self.times.lock().insert(location.clone(), self.clock.now_ms());
        Ok(put)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        not_implemented("multipart upload", self)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.objects.get_opts(location, options).await?;
        result.meta = self.dated(result.meta);
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let times = Arc::clone(&self.times);
        let deleted = self.objects.delete_stream(locations);
        deleted
            .inspect(move |path| {
                if let Ok(path) = path {
                    times.lock().remove(path);
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.dated_all(self.objects.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.dated_all(self.objects.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.objects.list_with_delimiter(prefix).await?;
        listed.objects = listed.objects.into_iter().map(|meta| self.dated(meta)).collect();
        Ok(listed)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_implemented("copy", self)
    }
}
