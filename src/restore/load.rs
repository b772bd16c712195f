//! Loads a base of pieces: they are read in parallel, verified and applied.

use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::{Progress, Restore, RestoreError};
use crate::{
    checkpoint::{
        base::{BaseIndex, Piece, PieceBlock, PieceError},
        damage::Fault,
        manifest::{Contents, SnapshotFile},
    },
    object::{Path, Retry, Store, StoreError, layout::ObjectName},
    state::{StateBackend, snapshot},
    tasks,
    types::{BackendId, KeyGroup},
};

/// Most bytes of adjacent pieces that one read fetches.
const READ_BYTES: u64 = 4 << 20;

/// Adjacent pieces of one file, fetched by one read.
struct Read {
    file: SnapshotFile,
    from: u64,
    to: u64,
    pieces: Vec<(KeyGroup, PieceBlock)>,
}

impl Restore<'_> {
    /// The index of the base of `contents`, limited to the pieces that this backend needs; `None` without a base.
    pub(super) async fn read_base(&self, contents: &Contents) -> Result<Option<BaseIndex>, RestoreError> {
        let Some(uuid) = contents.base else { return Ok(None) };
        let Some(base) = self.manifest.materialization(uuid) else {
            return Err(self.lacks(format_args!("the manifest has no materialization {uuid}")));
        };
        let path = self.file_path(&base.index);
        let index = self.store.get_checked(&path, self.retry, |bytes| BaseIndex::of(base, bytes)).await;
        let index = index
            .map_err(|error| self.base_unreadable(&path, error))?
            .map_err(|error| self.damaged(Fault::corrupt(&path, None, error)))?;
        if index.sqns().is_some_and(|(from, complete_at)| from < base.from || complete_at > base.complete_at) {
            let what = format_args!("its pieces are not those of materialization {uuid} of the manifest");
            return Err(self.damaged(Fault::corrupt(&path, None, what)));
        }
        for (_, block) in index.stored() {
            self.check_length(block.length, || self.file_path(&block.file).to_string())?;
        }
        Ok(Some(index))
    }

    /// Applies every piece to `inner`.
    pub(super) async fn load(
        &self,
        inner: &mut dyn StateBackend,
        base: &BaseIndex,
        progress: &mut Progress,
        report: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), RestoreError> {
        let wanted = self.wanted();
        let reads = plan(base, |piece| wanted.iter().any(|wanted| wanted.overlaps(piece.key_groups)));
        let (backend, retry) = (self.manifest.backend.clone(), self.retry);
        let fetches = reads.into_iter().map(move |read| fetch(self.store.clone(), backend.clone(), read, retry));
        let mut fetched = stream::iter(fetches).buffered(self.parallel_reads.max(1));
        while let Some((read, opened)) = fetched.next().await {
            let path = self.file_path(&read.file);
            let opened = opened.map_err(|error| self.base_unreadable(&path, error))?;
            let opened =
                opened.map_err(|refused| self.damaged(Fault::corrupt(&path, Some(refused.offset), refused.error)))?;
            let may_block = inner.may_block();
            tasks::blocking_if(may_block, || self.load_pieces(inner, (&read, &opened), &path, progress))?;
            report(*progress);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Applies the verified pieces of one read of the object at `path`.
    fn load_pieces(
        &self,
        inner: &mut dyn StateBackend,
        (read, opened): (&Read, &[Bytes]),
        path: &Path,
        progress: &mut Progress,
    ) -> Result<(), RestoreError> {
        for ((group, block), raw) in read.pieces.iter().zip(opened) {
            let damaged = |what: String| self.damaged(Fault::corrupt(path, Some(block.offset), what));
            for change in snapshot::changes(*group, raw) {
                let change = change.map_err(|error| damaged(error.to_string()))?;
                let Some(change) = self.renamed(change) else { continue };
                let unfit = |source| self.unfit(source, path.as_ref(), block.offset);
                inner.apply(&change).map_err(unfit)?;
            }
            inner.finish_batch().map_err(|source| self.inner_error(source))?;
            progress.changes = progress.changes.saturating_add(block.changes);
            progress.bytes_done += u64::from(block.stored_length);
        }
        Ok(())
    }

    pub(super) fn file_path(&self, file: &SnapshotFile) -> Path {
        path(&self.manifest.backend, file)
    }

    /// The restore error for an object of the base that cannot be read.
    pub(super) fn base_unreadable(&self, object: &Path, error: StoreError) -> RestoreError {
        match error {
            StoreError::NotFound { .. } => self.damaged(Fault::missing(object)),
            StoreError::OutOfRange { .. } => {
                // The object is shorter than the index says, so it is not the object that was written.
                let what = error.to_string();
                self.damaged(Fault { object: object.to_string(), offset: None, what, missing: false })
            }
            other => other.into(),
        }
    }
}

/// A piece that differs from the one that was written.
#[derive(Debug, thiserror::Error)]
#[error("byte {offset}: {error}")]
struct Refused {
    offset: u64,
    error: PieceError,
}

impl Read {
    /// The contents of the pieces in `bytes`, each verified.
    fn open(&self, bytes: &Bytes) -> Result<Vec<Bytes>, Refused> {
        let open = |(_, block): &(KeyGroup, PieceBlock)| {
            let from = usize::try_from(block.offset - self.from).unwrap_or(usize::MAX).min(bytes.len());
            let stored = bytes.slice(from..from.saturating_add(block.stored_length as usize).min(bytes.len()));
            block.open(&stored).map_err(|error| Refused { offset: block.offset, error })
        };
        self.pieces.iter().map(open).collect()
    }
}

type Opened = Result<Result<Vec<Bytes>, Refused>, StoreError>;

async fn fetch(store: Store, backend: BackendId, read: Read, retry: Retry) -> (Read, Opened) {
    let (path, range) = (path(&backend, &read.file), read.from..read.to);
    let opened = store.get_range_checked(&path, range, retry, |bytes| read.open(bytes)).await;
    (read, opened)
}

fn path(backend: &BackendId, file: &SnapshotFile) -> Path {
    let (backend, file_name) = (backend.clone(), file.name.clone());
    ObjectName::SnapshotFile { backend, instance: file.instance, file: file_name }.path()
}

/// Reads that together fetch every wanted piece, in order of objects and offsets.
fn plan(base: &BaseIndex, wanted: impl Fn(&Piece) -> bool) -> Vec<Read> {
    let mut all: Vec<(&Piece, &PieceBlock)> = base.stored().filter(|(piece, _)| wanted(piece)).collect();
    all.sort_by(|(_, a), (_, b)| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    let mut reads: Vec<Read> = vec![];
    for (piece, block) in all {
        let end = block.offset + u64::from(block.stored_length);
        match reads.last_mut() {
            Some(read) if read.file == block.file && read.to == block.offset && end - read.from <= READ_BYTES => {
                read.to = end;
                read.pieces.push((piece.key_groups.first(), block.clone()));
            }
            _ => reads.push(Read {
                file: block.file.clone(),
                from: block.offset,
                to: end,
                pieces: vec![(piece.key_groups.first(), block.clone())],
            }),
        }
    }
    reads
}
