//! A listing of all files below a folder. The NameNode lists one folder at a time, so several are listed at once.

use std::{collections::VecDeque, sync::Arc};

use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use hdfs_native::client::FileStatus;
use object_store::{ObjectMeta, Result};

use super::{Inner, found, meta};

/// Number of folders that are listed at once.
const CONCURRENT_FOLDERS: usize = 8;

/// A listing under way.
struct Walk {
    store: Arc<Inner>,
    folders: Vec<String>,
    listing: FuturesUnordered<BoxFuture<'static, Result<Vec<FileStatus>>>>,
    files: VecDeque<FileStatus>,
}

/// All files below the folder `top`, temporaries included. Empty if there is no such folder.
pub(super) fn files_below(store: Arc<Inner>, top: String) -> BoxStream<'static, Result<ObjectMeta>> {
    let walk = Walk { store, folders: vec![top], listing: FuturesUnordered::new(), files: VecDeque::new() };
    stream::try_unfold(walk, |mut walk| async move {
        let next = walk.next().await?;
        next.map(|status| Ok((meta(&status)?, walk))).transpose()
    })
    .boxed()
}

impl Walk {
    async fn next(&mut self) -> Result<Option<FileStatus>> {
        loop {
            // Files that were found go out before more folders are listed, so memory holds the entries of a few folders
            // only.
            if let Some(file) = self.files.pop_front() {
                return Ok(Some(file));
            }
            while self.listing.len() < CONCURRENT_FOLDERS
                && let Some(folder) = self.folders.pop()
            {
                self.listing.push(Box::pin(list(Arc::clone(&self.store), folder)));
            }
            let Some(listed) = self.listing.next().await else { return Ok(None) };
            for status in listed? {
                if status.isdir {
                    self.folders.push(status.path);
                } else {
                    self.files.push_back(status);
                }
            }
        }
    }
}

/// The entries of `folder`. Empty if `folder` is a file, or has been removed because a delete left it empty.
async fn list(store: Arc<Inner>, folder: String) -> Result<Vec<FileStatus>> {
    let listed = store.connection.call(|client| {
        let folder = folder.clone();
        async move { found(client.list_status(&folder, false).await) }
    });
    let mut listed = listed.await?.unwrap_or_default();
    listed.retain(|status| status.path != folder);
    Ok(listed)
}
