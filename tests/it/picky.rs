//! A store that refuses to create objects whose path contains a certain text, and knows what was read.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;

use crate::support::World;

/// What is refused. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused(Arc<Mutex<Option<&'static str>>>, Arc<Mutex<Vec<String>>>);

impl Refused {
    /// From now on, refuses paths that contain `part`; nothing if `None`.
    pub(crate) fn set(&self, part: Option<&'static str>) {
        *self.0.lock() = part;
    }

    /// Paths of the objects that were read since this was last asked, once for each read.
    pub(crate) fn take_reads(&self) -> Vec<String> {
        std::mem::take(&mut *self.1.lock())
    }

    /// `world` with its store made picky.
    pub(crate) fn by(&self, world: World) -> World {
        let objects = Arc::new(PickyStore { store: world.objects.clone(), refused: self.clone() });
        World { objects, ..world }
    }
}

#[derive(Debug)]
struct PickyStore {
    store: Arc<dyn ObjectStore>,
    refused: Refused,
}

impl fmt::Display for PickyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "picky {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for PickyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.refused.0.lock().is_some_and(|part| location.as_ref().contains(part)) {
            return Err(Error::Generic { store: "picky", source: format!("`{location}` is refused").into() });
        }
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart upload of {path}")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !options.head {
            self.refused.1.lock().push(location.to_string());
        }
        self.store.get_opts(location, options).await
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
