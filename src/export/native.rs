//! Making a native savepoint: the objects of a checkpoint are copied into a folder of their own, by the store itself
//! where it can.
//!
//! ```text
//!   checkpoint, pinned ──▶ objects that it needs ──▶ copies ──▶ manifests with this checkpoint alone ──▶ metadata
//! ```

use std::{collections::BTreeSet, future};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Export, ExportError,
    source::{Found, SourceError},
};
use crate::{
    checkpoint::{
        chain, damage,
        manifest::{CheckpointRecord, Manifest},
    },
    object::{Created, Path, PutPayload, StoreError},
    restore::{RestoreError, reader::ReaderOptions},
    savepoint::{NativeMetadata, NativeObject, NativeOperator, SavepointId},
    types::BackendId,
};

/// Makes a native savepoint; tells `progress` the bytes that were copied so far. Cancel-safe: dropped, files may stay,
/// without metadata.
///
/// # Errors
/// [`ExportError`]; then there is no savepoint, and nothing of it.
pub async fn create(
    export: &Export,
    options: &ReaderOptions<'_>,
    progress: impl FnMut(u64),
) -> Result<NativeMetadata, ExportError> {
    let id = SavepointId { job: export.source.job.clone(), name: export.name.clone() };
    if !options.store.list(&id.folder(), options.retry).await?.is_empty() {
        return Err(ExportError::Exists(id.folder()));
    }
    let read = async |found: &Found<'_>| {
        let mut copying = Copying { export, options, id: &id, created: vec![] };
        let copied = copying.run(found, progress).await;
        if copied.is_err() {
            copying.delete().await;
        }
        copied
    };
    export.source.read(options, read).await
}

struct Copying<'a> {
    export: &'a Export,
    options: &'a ReaderOptions<'a>,
    id: &'a SavepointId,
    /// All objects that were made.
    created: Vec<Path>,
}

impl Copying<'_> {
    async fn run(&mut self, found: &Found<'_>, mut progress: impl FnMut(u64)) -> Result<NativeMetadata, ExportError> {
        let mut metadata = NativeMetadata {
            job: self.export.source.job.to_string(),
            checkpoint: found.checkpoint.id,
            attempt: found.checkpoint.attempt,
            created_ms: self.export.now,
            folder: self.options.random.uuid().to_string(),
            operators: std::collections::BTreeMap::new(),
            objects: vec![],
        };
        let folder = metadata.folder(self.id);
        for (operator, parts) in &found.operators {
            let Some((head, record)) = parts.first() else { continue };
            let span = head.span(record);
            let of = NativeOperator { parallelism: span.parallelism, max_parallelism: span.max_parallelism };
            metadata.operators.insert(operator.to_string(), of);
        }
        let parts: Vec<Manifest> =
            found.operators.values().flatten().map(|(head, record)| alone(head, record)).collect();
        for part in &parts {
            let name = chain::manifest_name(&part.backend, part.number).path();
            let bytes = part.encode();
            let object = NativeObject { path: name.to_string(), bytes: bytes.len() as u64 };
            self.make(&object.at(&folder), PutPayload::from_bytes(bytes)).await?;
            metadata.objects.push(object);
        }
        // Ordering: damage is looked for before the first object is copied.
        let objects = self.objects(&parts).await?;
        let mut done = 0;
        let copies = objects.iter().map(|object| self.copy(object, &folder)).collect::<Vec<_>>();
        let copied = stream::iter(copies).buffer_unordered(self.options.parallel_reads.max(1));
        let copied = copied.try_for_each(|bytes| {
            done += bytes;
            progress(done);
            future::ready(Ok(()))
        });
        let outcome = copied.await;
        // Ordering: all copies count as made before the outcome is looked at. If one failed, those that others have
        // made must be deleted as well.
        self.created.extend(objects.iter().map(|object| object.at(&folder)));
        outcome?;
        metadata.objects.extend(objects);
        metadata.objects.sort_by(|one, other| one.path.cmp(&other.path));
        // Ordering: the metadata is written last, since the savepoint exists as soon as it does.
        let bytes = metadata.encode();
        // What nobody could read is not written.
        NativeMetadata::decode(&bytes).map_err(ExportError::Unfit)?;
        self.make(&self.id.metadata(), PutPayload::from_bytes(bytes)).await?;
        Ok(metadata)
    }

    /// The objects that the parts need, beside their manifests.
    async fn objects(&self, parts: &[Manifest]) -> Result<Vec<NativeObject>, ExportError> {
        let ReaderOptions { store, retry, .. } = *self.options;
        let whole: Vec<(&Manifest, &CheckpointRecord)> =
            parts.iter().filter_map(|part| Some((part, part.checkpoints.first()?))).collect();
        let damage = damage::survey(store, &whole, &[], &BTreeSet::new(), retry).await?;
        for (number, (part, record)) in whole.iter().enumerate() {
            if let Some(fault) = damage.first_of(number) {
                let damaged = RestoreError::Damaged { checkpoint: record.identity.id, fault: fault.clone() };
                return Err(unreadable(&part.backend, damaged));
            }
        }
        let heads = damage.needed.iter().map(|path| async move {
            let size = store.head(path, retry).await?.map(|meta| meta.size);
            let bytes = size.ok_or_else(|| StoreError::NotFound { path: path.clone() })?;
            Ok::<_, StoreError>(NativeObject { path: path.to_string(), bytes })
        });
        let heads: Vec<_> = heads.collect();
        Ok(stream::iter(heads).buffered(self.options.parallel_reads.max(1)).try_collect().await?)
    }

    /// Copies one object; tells its bytes.
    async fn copy(&self, object: &NativeObject, folder: &Path) -> Result<u64, ExportError> {
        let from = object.at(&Path::default());
        let to = object.at(folder);
        self.options.store.copy_object(&from, &to, object.bytes, self.options.retry).await?;
        Ok(object.bytes)
    }

    async fn make(&mut self, path: &Path, payload: PutPayload) -> Result<(), ExportError> {
        match self.options.store.create(path, payload, self.options.retry).await? {
            Created::New | Created::Identical => self.created.push(path.clone()),
            Created::Conflict => return Err(ExportError::Exists(path.clone())),
        }
        Ok(())
    }

    /// Deletes what was made, as far as the store takes it.
    async fn delete(&mut self) {
        let created = std::mem::take(&mut self.created);
        if let Err(error) = self.options.store.delete_all(created, self.options.retry).await {
            tracing::warn!(%error, "files of a savepoint that was not made stay: remove it by its name");
        }
    }
}

/// The manifest `head` with this one checkpoint, and what it needs.
fn alone(head: &Manifest, record: &CheckpointRecord) -> Manifest {
    let mut manifest = head.clone();
    manifest.checkpoints.retain(|other| other.identity == record.identity);
    manifest.prune(&[]);
    manifest
}

fn unreadable(of: &BackendId, error: RestoreError) -> ExportError {
    SourceError::Unreadable { of: of.clone(), source: error.into() }.into()
}
