//! A store of which one answer is wrong, though every object is whole.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;

use crate::support::World;

/// What the next lie is about. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lie(Arc<Mutex<Option<&'static str>>>);

impl Lie {
    /// The next answer about an object whose path contains `part` is wrong.
    pub(crate) fn about(&self, part: &'static str) {
        *self.0.lock() = Some(part);
    }

    /// Whether it was told.
    pub(crate) fn is_told(&self) -> bool {
        self.0.lock().is_none()
    }

    /// `world` with its store made to lie.
    pub(crate) fn by(&self, world: World) -> World {
        let objects = Arc::new(LyingStore { store: world.objects.clone(), lie: self.clone() });
        World { objects, ..world }
    }
}

#[derive(Debug)]
struct LyingStore {
    store: Arc<dyn ObjectStore>,
    lie: Lie,
}

impl fmt::Display for LyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lying {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for LyingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart upload of {path}")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_read = !options.head;
        let result = self.store.get_opts(location, options).await?;
        let lies = is_read && self.lie.0.lock().take_if(|part| location.as_ref().contains(*part)).is_some();
        if !lies {
            return Ok(result);
        }
        let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
        let mut bytes = result.bytes().await?.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 16;
        let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(bytes.into()) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        panic!("copy of {from} to {to}")
    }
}
