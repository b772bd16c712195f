//! HDFS as a store.
//!
//! * **Create-if-absent.** HDFS has no conditional write, but its rename can refuse to replace. An object is written to
//!   `<name>#<random number>` in its folder, made durable, closed, and then renamed without overwrite:
//!
//!   ```text
//!   create name#17 ── write ── hsync ── close ── rename name#17 -> name (no overwrite) ── answer
//!   ```
//!
//!   So an object is whole as soon as it is visible, and of two creators the NameNode lets one rename.
//! * **Leftovers.** A writer that is killed leaves its temporary file. No later create uses the same name; listings
//!   show it, and [`ObjectName`](super::ObjectName) and the sweep recognize it. Temporaries of failed attempts of this
//!   process are deleted by its next creates.
//! * **Durability.** `hsync` makes every DataNode of the pipeline write the last block to its disk; the client requests
//!   the same at the end of each block. Files in erasure-coded folders cannot be synced; for them, set
//!   `dfs.datanode.synconclose` on the DataNodes.
//! * **Hangs.** If a NameNode does not answer, the next one is used; see [`connection`].
//! * **Folders.** A create makes missing folders in the same transaction of the NameNode. A delete removes the folders
//!   that become empty, up to the base. It never removes them with contents, so it cannot race with a create.
//! * **Names.** One part of a path has at most 255 bytes, and a folder has at most 1,048,576 entries
//!   (`dfs.namenode.fs-limits.…` of the NameNode).

mod connection;
mod error;
mod settings;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
mod walk;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use hdfs_native::{Client, HdfsError, WriteOptions, client::FileStatus};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;
use url::Url;

use self::{connection::Connection, error::told, settings::Settings};
use super::{OpenError, StoreOptions, memory::not_implemented};
use crate::random::Random;

/// Number of concurrent deletions of one stream.
const CONCURRENT_DELETIONS: usize = 10;

/// A create of more bytes first looks for the object: one more round trip, but no transfer in vain.
const LOOK_FIRST_BYTES: usize = 1 << 20;

/// Most temporaries of failed attempts that are remembered. The sweep finds the others.
const LEFTOVERS: usize = 1000;

/// Most leftovers that one create deletes, so that it is not delayed much.
const LEFTOVERS_AT_ONCE: usize = 4;

/// The objects below one folder. Clones share all.
#[derive(Debug, Clone)]
pub(super) struct HdfsStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    /// Path of the base in HDFS, a folder that is kept even if it is empty.
    base: String,
    /// Temporaries of attempts of this process that failed or were dropped.
    leftovers: Mutex<VecDeque<String>>,
    random: Random,
}

/// A temporary of an attempt. When it is dropped and not `gone`, it is added to the leftovers.
struct Temporary<'a> {
    path: String,
    store: &'a Inner,
    gone: bool,
}

impl HdfsStore {
    /// The store that `url` names; `base` is the path of the URL. Reads Hadoop's configuration, but sends no request to
    /// the NameNodes.
    ///
    /// # Errors
    /// [`OpenError`], which names the setting at fault.
    pub(super) fn open(
        options: &StoreOptions,
        url: &Url,
        base: &Path,
        random: Random,
    ) -> std::result::Result<Self, OpenError> {
        let connection = Connection::new(Settings::new(options, url)?);
        Ok(Self(Arc::new(Inner { connection, base: file(base), leftovers: Mutex::default(), random })))
    }

    /// Checks that HDFS accepts the path of a URL.
    ///
    /// # Errors
    /// The reason why HDFS does not accept it.
    pub(super) fn check_base(base: &Path) -> std::result::Result<(), &'static str> {
        if base.as_ref().contains(':') { Err("HDFS allows no `:` in a path") } else { Ok(()) }
    }

    async fn delete_file(&self, location: Path) -> Result<Path> {
        let path = file(&location);
        self.0.connection.call(|client| async move { client.delete(&path, false).await }).await?;
        Ok(location)
    }

    /// Deletes `folders` and their ancestors up to the base, as far as they are empty. A folder that cannot be deleted
    /// now is tried again by the next delete in it.
    async fn tidy(&self, folders: BTreeSet<String>) {
        let tidied = stream::iter(folders).for_each_concurrent(CONCURRENT_DELETIONS, |mut folder| async move {
            while folder.len() > self.0.base.len() {
                let above = parent(&folder).to_owned();
                let deleted = self.0.connection.call(|client| async move { client.delete(&folder, false).await });
                // As a rule the folder is not empty. Its parent is not empty then either.
                if deleted.await.is_err() {
                    return;
                }
                folder = above;
            }
        });
        tidied.await;
    }
}

impl Inner {
    async fn create(&self, client: &Client, target: &str, payload: PutPayload) -> hdfs_native::Result<()> {
        if payload.content_length() > LOOK_FIRST_BYTES && found(client.get_file_info(target).await)?.is_some() {
            return Err(HdfsError::AlreadyExists(target.to_owned()));
        }
        let path = format!("{target}#{}", self.random.below(u64::MAX));
        let mut temporary = Temporary { path, store: self, gone: false };
        let written = self.write(client, &temporary.path, payload).await;
        // Ordering: the file is closed and durable before it is renamed.
        let created = match written {
            Ok(()) => client.rename(&temporary.path, target, false).await,
            Err(error) => Err(error),
        };
        // A rename whose answer was lost may still happen, or have happened. In the latter case there is no temporary
        // to delete.
        // If this future is dropped before here, `gone` is still false, and the temporary becomes a leftover.
        temporary.gone = created.is_ok() || client.delete(&temporary.path, false).await.is_ok();
        self.delete_leftovers(client).await;
        created
    }

    async fn write(&self, client: &Client, path: &str, payload: PutPayload) -> hdfs_native::Result<()> {
        let mut options = WriteOptions::default();
        let settings = self.connection.settings();
        if let Some(replication) = settings.replication {
            options = options.replication(replication);
        }
        if let Some(block_size) = settings.block_size {
            options = options.block_size(block_size);
        }
        let mut writer = client.create(path, options).await?;
        for chunk in payload {
            writer.write_bytes(chunk).await?;
        }
        match writer.hsync().await {
            // Such files cannot be synced at all, see the top of this file. Any other failed sync fails the create.
            Err(HdfsError::OperationFailed(text)) if text.contains("erasure-coded") => {}
            synced => synced?,
        }
        writer.close().await
    }

    async fn delete_leftovers(&self, client: &Client) {
        for _ in 0..LEFTOVERS_AT_ONCE {
            // Taken out first: two creates at once do not delete the same leftover. If the deletion fails, the guard
            // puts it back.
            let Some(path) = self.leftovers.lock().pop_front() else { return };
            let mut leftover = Temporary { path, store: self, gone: false };
            leftover.gone = client.delete(&leftover.path, false).await.is_ok();
            if !leftover.gone {
                return;
            }
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.gone {
            let mut leftovers = self.store.leftovers.lock();
            // The oldest is forgotten, and the sweep finds it.
            if leftovers.len() >= LEFTOVERS {
                leftovers.pop_front();
            }
            leftovers.push_back(std::mem::take(&mut self.path));
        }
    }
}

impl fmt::Display for HdfsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HDFS {}", self.0.connection.settings().url)
    }
}

#[async_trait]
impl ObjectStore for HdfsStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !matches!(options.mode, PutMode::Create) {
            return not_implemented("overwriting", self);
        }
        let target = file(location);
        self.0.connection.call(|client| async move { self.0.create(&client, &target, payload).await }).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        not_implemented("multipart upload", self)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = file(location);
        let head = options.head;
        let (status, reader) = self
            .0
            .connection
            .call(|client| async move {
                let status = client.get_file_info(&path).await?;
                if status.isdir {
                    return Err(HdfsError::FileNotFound(path));
                }
                // In the same call as the status, so that both are answered by one client.
                let reader = if head { None } else { Some(client.read(&path).await?) };
                Ok((status, reader))
            })
            .await?;
        let meta = meta(&status)?;
        options.check_preconditions(&meta)?;
        // The size that the reader knows: it panics if a longer range is read.
        let size = reader.as_ref().map_or(meta.size, |reader| reader.file_length() as u64);
        let range = match options.range {
            Some(range) => {
                range.as_range(size).map_err(|error| Error::Generic { store: error::STORE, source: error.into() })?
            }
            None => 0..size,
        };
        let payload = match reader {
            None => stream::empty().boxed(),
            Some(reader) => {
                let (offset, length) = (as_usize(range.start), as_usize(range.end - range.start));
                let settings = self.0.connection.settings().clone();
                reader.read_range_stream(offset, length).map_err(move |error| told(error, &settings)).boxed()
            }
        };
        let payload = GetResultPayload::Stream(payload);
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let folders = Arc::new(Mutex::new(BTreeSet::new()));
        let (store, emptied) = (self.clone(), Arc::clone(&folders));
        let deleted = locations
            .map(move |location| {
                let (store, emptied) = (store.clone(), Arc::clone(&emptied));
                async move {
                    let location = store.delete_file(location?).await?;
                    emptied.lock().insert(parent(&file(&location)).to_owned());
                    Ok(location)
                }
            })
            .buffered(CONCURRENT_DELETIONS);
        let store = self.clone();
        // After the deletions, since a folder is empty only when its last file is gone.
        let tidied = stream::once(async move {
            let folders = std::mem::take(&mut *folders.lock());
            store.tidy(folders).await;
        });
        deleted.chain(tidied.filter_map(|()| async { None })).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let top = prefix.map_or_else(|| "/".to_owned(), file);
        walk::files_below(self.0.clone(), top)
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        not_implemented("listing of one folder", self)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_implemented("copy", self)
    }
}

/// Path of an object in HDFS.
fn file(location: &Path) -> String {
    format!("/{location}")
}

/// Path of the folder of `path`; empty at the root.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Turns the error "no such file" into `None`.
fn found<T>(answer: hdfs_native::Result<T>) -> hdfs_native::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error::is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn meta(status: &FileStatus) -> Result<ObjectMeta> {
    Ok(ObjectMeta {
        location: Path::parse(&status.path)?,
        last_modified: (UNIX_EPOCH + Duration::from_millis(status.modification_time)).into(),
        size: status.length as u64,
        e_tag: None,
        version: None,
    })
}

fn as_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("the client gave the length of the file as a usize, and no range exceeds it")
}
