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

/// Copies savepoint `from.1` of the store `from.0` to savepoint `to.1` of the store `to.0`. The length of each file is
/// checked, and its checksum if the metadata has one. The metadata is written last. Calls `progress` with the bytes
/// copied so far. Cancel-safe, but if dropped, files without metadata may stay.
///
/// # Errors
/// [`TransferFault`]. The files copied so far are then deleted, as far as the store answers.
pub async fn copy(
    from: (&Store, &SavepointId),
    to: (&Store, &SavepointId),
    mut progress: impl FnMut(u64),
) -> Result<Savepoint, TransferFault> {
    let savepoint = Savepoint::read(from.0, from.1, retry()).await?;
    if !to.0.list(&to.1.folder(), retry()).await?.is_empty() {
        return Err(TransferFault::Exists(to.1.folder()));
    }
    let mut created = vec![];
    let copied = async {
        let metadata = match &savepoint {
            Savepoint::Rows(metadata) => {
                rows(from, to, metadata, (&mut created, &mut progress)).await?;
                metadata.encode()
            }
            Savepoint::Native(metadata) => {
                objects(from, to, metadata, (&mut created, &mut progress)).await?;
                metadata.encode()
            }
        };
        create(to.0, to.1.metadata(), metadata, &mut created).await
    };
    let copied = copied.await;
    if let Err(error) = copied {
        if let Err(left) = to.0.delete_all(created, retry()).await {
            tracing::warn!(error = %left, "files of a savepoint that was not copied stay: remove it by its name");
        }
        return Err(error);
    }
    Ok(savepoint)
}

/// Copies the files of rows.
async fn rows(
    (from, id): (&Store, &SavepointId),
    (to, copy): (&Store, &SavepointId),
    metadata: &Metadata,
    (created, progress): (&mut Vec<Path>, &mut impl FnMut(u64)),
) -> Result<(), TransferFault> {
    let mut done = 0;
    for (operator, meta) in &metadata.operators {
        let operator = Name::new(operator).expect("it was checked");
        for file in &meta.files {
            let (_, bytes) = OperatorMeta::read_file(from, (id, &operator), file, retry()).await?;
            let path = copy.rows(&operator, &Name::new(&file.name).expect("it was checked"));
            create(to, path, bytes, created).await?;
            done += file.bytes;
            progress(done);
        }
    }
    Ok(())
}

/// Copies the objects of a native savepoint.
async fn objects(
    (from, id): (&Store, &SavepointId),
    (to, copy): (&Store, &SavepointId),
    metadata: &NativeMetadata,
    (created, progress): (&mut Vec<Path>, &mut impl FnMut(u64)),
) -> Result<(), TransferFault> {
    let (source, target) = (metadata.folder(id), metadata.folder(copy));
    let mut done = 0;
    for object in &metadata.objects {
        let path = object.at(&source);
        let damaged =
            |size: u64| SavepointError::damaged(&path, None, format!("it has {size} bytes, {} recorded", object.bytes));
        let size = match from.head(&path, retry()).await? {
            Some(meta) => meta.size,
            None => return Err(SavepointError::Missing(path).into()),
        };
        if size != object.bytes {
            return Err(damaged(size).into());
        }
        let bytes = from.get_range(&path, 0..size, retry()).await?;
        create(to, object.at(&target), bytes, created).await?;
        done += object.bytes;
        progress(done);
    }
    Ok(())
}

async fn create(store: &Store, path: Path, bytes: bytes::Bytes, created: &mut Vec<Path>) -> Result<(), TransferFault> {
    match store.create(&path, PutPayload::from_bytes(bytes), retry()).await? {
        Created::Conflict => Err(TransferFault::Exists(path)),
        Created::New | Created::Identical => {
            created.push(path);
            Ok(())
        }
    }
}
