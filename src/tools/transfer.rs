//! Copies of savepoints, to another store or another name: `dstl savepoint export`, and `import` of a savepoint.

use super::retry;
use crate::{
    object::{Created, Path, PutPayload, Store, StoreError},
    savepoint::{Metadata, NativeMetadata, OperatorMeta, Savepoint, SavepointError, SavepointId},
    types::Name,
};

/// The reason why a savepoint was not copied.
#[derive(Debug, thiserror::Error)]
pub enum TransferFault {
    /// The savepoint cannot be read.
    #[error(transparent)]
    Savepoint(#[from] SavepointError),
    /// There are objects below the new name already.
    #[error("`{0}` exists already there, whole or in part: choose another name, or remove it (`dstl savepoint rm`)")]
    Exists(Path),
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One end of a copy: a savepoint, and the store that has it or will have it.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// The store at this end.
    pub store: &'a Store,
    /// Job and name of the savepoint at this end.
    pub id: &'a SavepointId,
}

/// Copies the savepoint at `from` to `to`. The length of each file is
/// checked, and its checksum if the metadata has one. The metadata is written last. Calls `progress` with the bytes
/// copied so far. Cancel-safe, but if dropped, files without metadata may stay.
///
/// # Errors
/// [`TransferFault`]. The files copied so far are then deleted, as far as the store answers.
pub async fn copy(from: End<'_>, to: End<'_>, mut progress: impl FnMut(u64)) -> Result<Savepoint, TransferFault> {
    let savepoint = Savepoint::read(from.store, from.id, retry()).await?;
    if !to.store.list(&to.id.folder(), retry()).await?.is_empty() {
        return Err(TransferFault::Exists(to.id.folder()));
    }
    let mut created = vec![];
    let copied = async {
        let metadata = match &savepoint {
            Savepoint::Rows(metadata) => {
                rows(from, to, metadata, &mut created, &mut progress).await?;
                metadata.encode()
            }
            Savepoint::Native(metadata) => {
                objects(from, to, metadata, &mut created, &mut progress).await?;
                metadata.encode()
            }
        };
        // Ordering: the metadata comes last, since the savepoint exists as soon as it does.
        create(to.store, to.id.metadata(), metadata, &mut created).await
    };
    let copied = copied.await;
    if let Err(error) = copied {
        if let Err(left) = to.store.delete_all(created, retry()).await {
            tracing::warn!(error = %left, "files of a savepoint that was not copied stay: remove it by its name");
        }
        return Err(error);
    }
    Ok(savepoint)
}

/// Copies the files of rows.
async fn rows(
    from: End<'_>,
    to: End<'_>,
    metadata: &Metadata,
    created: &mut Vec<Path>,
    progress: &mut impl FnMut(u64),
) -> Result<(), TransferFault> {
    let mut done = 0;
    for (operator, meta) in &metadata.operators {
        let operator = Name::new(operator).expect("it was checked");
        for file in &meta.files {
            let (_, bytes) = OperatorMeta::read_file(from.store, from.id, &operator, file, retry()).await?;
            let path = to.id.rows(&operator, &Name::new(&file.name).expect("it was checked"));
            create(to.store, path, bytes, created).await?;
            done += file.bytes;
            progress(done);
        }
    }
    Ok(())
}

/// Copies the objects of a native savepoint.
async fn objects(
    from: End<'_>,
    to: End<'_>,
    metadata: &NativeMetadata,
    created: &mut Vec<Path>,
    progress: &mut impl FnMut(u64),
) -> Result<(), TransferFault> {
    let (source, target) = (metadata.folder(from.id), metadata.folder(to.id));
    let mut done = 0;
    for object in &metadata.objects {
        let path = object.at(&source);
        let damaged =
            |size: u64| SavepointError::damaged(&path, None, format!("it has {size} bytes, {} recorded", object.bytes));
        let size = match from.store.head(&path, retry()).await? {
            Some(meta) => meta.size,
            None => return Err(SavepointError::Missing(path).into()),
        };
        if size != object.bytes {
            return Err(damaged(size).into());
        }
        // A read of a whole object is bounded, and objects of a savepoint may be longer than the bound.
        let bytes = from.store.get_range(&path, 0..size, retry()).await?;
        create(to.store, object.at(&target), bytes, created).await?;
        done += object.bytes;
        progress(done);
    }
    Ok(())
}

async fn create(store: &Store, path: Path, bytes: bytes::Bytes, created: &mut Vec<Path>) -> Result<(), TransferFault> {
    match store.create(&path, PutPayload::from_bytes(bytes), retry()).await? {
        Created::Conflict => Err(TransferFault::Exists(path)),
        // An identical object is the work of an earlier attempt of this request, whose answer was lost.
        Created::New | Created::Identical => {
            created.push(path);
            Ok(())
        }
    }
}
