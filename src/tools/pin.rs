//! `dstl pin`, which lists pins and leases, and pins or releases a checkpoint.
//!
//! A *pin* of a user is a mark on a checkpoint in the chain of each subtask, and never expires. A *lease* is an object
//! that a reader makes, and holds as long as it reads. Both keep a checkpoint beyond its retention.
//!
//! Only the owner of a chain writes to it. While a job runs, its daemon sets the mark. Otherwise the tool adds a fence
//! to the chain. A task that runs nevertheless meets this fence and stops.

use std::path::Path;

use super::{outline::Node, retry, time};
use crate::{
    checkpoint::{
        chain::{self, ChainError},
        collect, generation, job,
        manifest::{CheckpointRecord, Manifest},
        pin::Pin,
    },
    client::{Client, ClientError},
    export::source::{self, Source, SourceError},
    object::{ObjectMeta, ObjectName, Store, StoreError, layout},
    proto::v1,
    random::Random,
    types::{BackendId, CheckpointIdentity, Epoch, Name, Sqn},
};

/// Number of attempts at a chain to which others write meanwhile.
const ATTEMPTS: usize = 16;

/// The writer of the chains.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// The daemon that serves this socket.
    Daemon(&'a Path),
    /// Fences of this tool, because no task of the job runs.
    Fences,
}

/// The reason why a checkpoint is not pinned or released.
#[derive(Debug, thiserror::Error)]
pub enum PinFault {
    /// There is no such checkpoint.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A chain cannot be read or written.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon refused, or its answer was lost.
    #[error("`{backend}`: {source}; {done} of {all} subtasks are done, and the command can be given again")]
    Daemon {
        /// The subtask at which the command stopped.
        backend: BackendId,
        /// The answer of the daemon.
        source: ClientError,
        /// Number of subtasks that were done before it.
        done: usize,
        /// Number of subtasks that have a part of the checkpoint.
        all: usize,
    },
    /// The daemon cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A subtask released the checkpoint meanwhile.
    #[error("`{0}` let go of the checkpoint meanwhile")]
    LetGo(BackendId),
    /// The backend has no epoch number left.
    #[error("backend `{0}` was opened {max} times, the most there may be", max = Sqn::MAX_EPOCH)]
    TooManyEpochs(BackendId),
    /// There is no such lease.
    #[error("there is no lease `{0}`")]
    NoLease(ObjectName),
}

/// The pins and leases of `job`, or of all jobs, and a line for each object that cannot be read. Cancel-safe.
///
/// # Errors
/// If the store fails.
pub async fn list(store: &Store, job: Option<&Name>) -> Result<(Node, Vec<String>), StoreError> {
    let jobs = match job {
        Some(job) => vec![job.clone()],
        None => collect::jobs(store, retry()).await?,
    };
    let (mut pins, mut leases, mut faults) = (vec![], vec![], vec![]);
    for job in jobs {
        match job::read_heads(store, &job, retry()).await {
            Ok(heads) => pins.extend(heads.iter().flat_map(pinned)),
            Err(ChainError::Store(error)) => return Err(error),
            Err(error) => faults.push(error.to_string()),
        }
        let renewals = store.list(&layout::renewals(&job), retry()).await?;
        for object in store.list(&layout::pins(&job), retry()).await? {
            match lease(store, &job, &object, &renewals).await? {
                Ok(lease) => leases.push(lease),
                Err(fault) => faults.push(fault),
            }
        }
    }
    Ok((Node::Fields(vec![("pins", Node::List(pins)), ("leases", Node::List(leases))]), faults))
}

fn pinned(head: &Manifest) -> impl Iterator<Item = Node> {
    head.checkpoints.iter().filter(|record| record.pinned).map(|record| {
        Node::Fields(vec![
            ("backend", Node::text(&head.backend)),
            ("checkpoint", record.identity.id.into()),
            ("attempt", record.attempt.into()),
            ("subsumed", record.subsumed.into()),
            ("bytes_to_read_at_most", head.stored_bytes(record).into()),
        ])
    })
}

async fn lease(
    store: &Store,
    job: &Name,
    object: &ObjectMeta,
    renewals: &[ObjectMeta],
) -> Result<Result<Node, String>, StoreError> {
    let damaged = |what: String| Err(format!("pin `{}` is damaged: {what}", object.path));
    let Some(ObjectName::Pin { id, .. }) = ObjectName::parse(&object.path) else {
        return Ok(damaged("it has not the name of one".to_owned()));
    };
    let Some(bytes) = store.get_optional(&object.path, retry()).await? else {
        return Ok(Err(format!("pin `{}` was released meanwhile", object.path)));
    };
    let pin = match Pin::decode(job, &bytes) {
        Ok(pin) => pin,
        Err(error) => return Ok(damaged(error.to_string())),
    };
    let is_own = |renewal: &&ObjectMeta| matches!(ObjectName::parse(&renewal.path), Some(ObjectName::PinRenewal { id: of, .. }) if of == id);
    let touched = renewals.iter().filter(is_own).map(|renewal| renewal.modified_ms).fold(object.modified_ms, u64::max);
    Ok(Ok(Node::Fields(vec![
        ("lease", Node::text(&object.path)),
        ("operator", Node::text(&pin.operator)),
        ("made", time(object.modified_ms)),
        ("renewed", time(touched)),
        ("ends_unless_renewed", time(touched.saturating_add(pin.lease_ms))),
    ])))
}

/// Pins or releases the checkpoint that `source` names in all its subtasks. Idempotent. Not cancel-safe: if dropped,
/// some subtasks may be done.
///
/// # Errors
/// [`PinFault`]. Some subtasks may be done then.
pub async fn set(
    store: &Store,
    source: &Source,
    is_pinned: bool,
    by: By<'_>,
    random: &Random,
) -> Result<Node, PinFault> {
    let heads = job::read_heads(store, &source.job, retry()).await?;
    let chosen = source.choose(&heads, None)?;
    let operators = source::parts(&heads, chosen);
    let parts: Vec<&(&Manifest, &CheckpointRecord)> = operators.values().flatten().collect();
    match by {
        By::Daemon(socket) => {
            let client = Client::connect(socket).await?;
            // Subtasks are done one after the other. A fault leaves those before it done, and the error says how many
            // they are.
            for (done, (head, record)) in parts.iter().enumerate() {
                let (backend, all) = (head.backend.clone(), parts.len());
                let set = by_daemon(&client, &backend, head.owner().epoch, record.identity, is_pinned).await;
                set.map_err(|source| PinFault::Daemon { backend, source, done, all })?;
            }
        }
        By::Fences => {
            for (head, record) in &parts {
                by_fence(store, &head.backend, record.identity, is_pinned, random).await?;
            }
        }
    }
    Ok(Node::Fields(vec![
        ("job", Node::text(&source.job)),
        ("checkpoint", chosen.id.into()),
        ("attempt", chosen.attempt.into()),
        ("pinned", is_pinned.into()),
        ("subtasks", (parts.len() as u64).into()),
    ]))
}

async fn by_daemon(
    client: &Client,
    backend: &BackendId,
    epoch: Epoch,
    checkpoint: CheckpointIdentity,
    is_pinned: bool,
) -> Result<(), ClientError> {
    let id = v1::BackendId {
        job: backend.job.to_string(),
        operator: backend.operator.to_string(),
        subtask: backend.subtask,
    };
    let epoch = v1::Epoch { number: epoch.number, owner: epoch.owner.as_bytes().to_vec().into() };
    let backend = v1::BackendRef { id: Some(id), epoch: Some(epoch) };
    let checkpoint = v1::CheckpointIdentity {
        epoch: checkpoint.epoch,
        checkpoint_id: checkpoint.id,
        handle_uuid: checkpoint.uuid.as_bytes().to_vec().into(),
    };
    match is_pinned {
        true => client.pin(&backend, &checkpoint).await,
        false => client.release(&backend, &checkpoint).await.map(|_| ()),
    }
}

async fn by_fence(
    store: &Store,
    backend: &BackendId,
    checkpoint: CheckpointIdentity,
    is_pinned: bool,
    random: &Random,
) -> Result<(), PinFault> {
    for _ in 0..ATTEMPTS {
        let gone = || PinFault::LetGo(backend.clone());
        let head = chain::read_head(store, backend, retry()).await?.ok_or_else(gone)?;
        let record = head.manifest.checkpoints.iter().find(|record| record.identity == checkpoint).ok_or_else(gone)?;
        // An earlier run of the command has done this subtask.
        if record.pinned == is_pinned {
            return Ok(());
        }
        let fence = generation::pin(&head, &checkpoint, is_pinned, random.uuid());
        match chain::append(store, &fence.ok_or_else(|| PinFault::TooManyEpochs(backend.clone()))?, retry()).await {
            Ok(_) => return Ok(()),
            // Another writer was faster. The next try derives from its manifest, which may have let the checkpoint go.
            Err(ChainError::Fenced { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ChainError::Contended(backend.clone()).into())
}

/// Ends a lease whose reader is gone. A reader that still holds it stops. Cancel-safe, but if dropped, the lease may be
/// ended.
///
/// # Errors
/// [`PinFault::NoLease`], or if the store fails.
pub async fn end_lease(store: &Store, lease: &ObjectName) -> Result<Node, PinFault> {
    let path = lease.path();
    if store.head(&path, retry()).await?.is_none() {
        return Err(PinFault::NoLease(lease.clone()));
    }
    store.delete(&path, retry()).await?;
    Ok(Node::Fields(vec![("ended", Node::text(path))]))
}
