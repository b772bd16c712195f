//! A store that closes at a given request: that one and all later ones wait until it opens, if ever.
//!
//! It stands between one daemon and the store, so that the daemon seems stopped, or cut off, while others go on. What
//! waits has its effect when the gate opens, even if whoever asked has given up meanwhile: a late arrival.

use std::{fmt, future::Future, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use tokio::sync::watch;

use crate::support::World;

/// The handle to a gate. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    store: Arc<dyn ObjectStore>,
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug)]
struct State {
    /// Requests so far.
    arrived: u64,
    /// The first that waits.
    closes_at: u64,
    /// Whether that one has its effect before it waits.
    after_effect: bool,
}

impl Gate {
    /// `world` as seen through a gate that is open.
    pub(crate) fn before(world: &World) -> (World, Self) {
        let state = State { arrived: 0, closes_at: u64::MAX, after_effect: false };
        let gate = Self { store: world.objects.clone(), state: Arc::new(watch::Sender::new(state)) };
        (World { objects: Arc::new(gate.clone()), ..world.clone() }, gate)
    }

    /// Closes once `more` more requests have arrived; the next one waits, with its effect had or not.
    pub(crate) fn close_after(&self, more: u64, after_effect: bool) {
        self.state.send_modify(|state| {
            (state.closes_at, state.after_effect) = (state.arrived + more, after_effect);
        });
    }

    pub(crate) fn open(&self) {
        self.state.send_modify(|state| state.closes_at = u64::MAX);
    }

    /// Waits until a request waits.
    pub(crate) async fn closed(&self) {
        let mut state = self.state.subscribe();
        state.wait_for(|state| state.arrived > state.closes_at).await.unwrap();
    }

    async fn request<T: Send + 'static>(&self, effect: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (mut number, mut after_effect) = (0, false);
        self.state.send_modify(|state| {
            (number, after_effect) = (state.arrived, state.after_effect && state.arrived == state.closes_at);
            state.arrived += 1;
        });
        let mut state = self.state.subscribe();
        let passes = async move {
            if state.wait_for(|state| number < state.closes_at).await.is_err() {
                // Nobody is left to open it.
                std::future::pending::<()>().await;
            }
        };
        let waits = tokio::spawn(async move {
            if after_effect {
                let answer = effect.await;
                passes.await;
                return answer;
            }
            passes.await;
            effect.await
        });
        waits.await.unwrap()
    }

    fn listing(
        &self,
        list: impl FnOnce(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let gate = self.clone();
        let found = async move {
            let store = gate.store.clone();
            let found: Vec<_> = gate.request(async move { list(&*store).try_collect().await }).await?;
            Ok::<_, Error>(stream::iter(found).map(Ok))
        };
        stream::once(found).try_flatten().boxed()
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gate before {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (store, location) = (self.store.clone(), location.clone());
        self.request(async move { store.put_opts(&location, payload, options).await }).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (store, location) = (self.store.clone(), location.clone());
        self.request(async move { store.get_opts(&location, options).await }).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let gate = self.clone();
        let delete = move |location: Result<Path>| {
            let gate = gate.clone();
            async move {
                let (store, location) = (gate.store.clone(), location?);
                let deleted = location.clone();
                gate.request(async move { store.delete(&deleted).await }).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned();
        self.listing(move |store| store.list(prefix.as_ref()))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (prefix, offset) = (prefix.cloned(), offset.clone());
        self.listing(move |store| store.list_with_offset(prefix.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("dstl makes no multipart uploads")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("dstl copies nothing on the store")
    }
}
