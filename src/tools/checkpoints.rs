//! `dstl checkpoints`, which lists and shows checkpoints that can be restored.

use super::{gc::GcError, hex, outline::Node, retry, time};
use crate::{
    checkpoint::{
        collect,
        handle::CheckpointHandle,
        job::{self, JobCheckpoint, JobError, JobRecord, JobView, Latest, OperatorCheckpoint},
        manifest::{Attachment, CheckpointRecord, Manifest},
    },
    export::source::{self, Parts, Source, SourceError},
    object::Store,
    savepoint::word,
    types::Name,
};

/// The checkpoints of `job`, or of all jobs of the store, and a line for each job that cannot be read. Cancel-safe.
///
/// # Errors
/// If the store fails, or has no such job.
pub async fn run(store: &Store, job: Option<Name>) -> Result<(Node, Vec<String>), GcError> {
    let jobs = match &job {
        Some(job) => vec![job.clone()],
        None => collect::jobs(store, retry()).await?,
    };
    let (mut nodes, mut faults) = (vec![], vec![]);
    for name in jobs {
        match of_job(store, &name).await {
            Ok(None) if job.is_some() => return Err(GcError::NoJob(name)),
            Ok(node) => nodes.extend(node),
            Err(error) => faults.push(format!("job `{name}` cannot be read: {error}")),
        }
    }
    Ok((Node::Fields(vec![("jobs", Node::List(nodes))]), faults))
}

/// Shows the checkpoint that `source` names: its parts, its states, and the bytes that a restore reads at most.
/// Cancel-safe.
///
/// # Errors
/// If there is no such checkpoint, or the store fails.
pub async fn show(store: &Store, source: &Source) -> Result<Node, SourceError> {
    let heads = job::read_heads(store, &source.job, retry()).await?;
    let chosen = source.choose(&heads, None)?;
    let operators = source::parts(&heads, chosen);
    let bytes = operators.values().flatten().map(|(head, record)| head.stored_bytes(record));
    Ok(Node::Fields(vec![
        ("job", Node::text(&source.job)),
        ("checkpoint", chosen.id.into()),
        ("attempt", chosen.attempt.into()),
        ("bytes_to_read_at_most", bytes.fold(0, u64::saturating_add).into()),
        ("operators", Node::list(operators.iter().map(|(name, parts)| of_parts(name, parts)))),
    ]))
}

fn of_parts(operator: &Name, parts: &Parts<'_>) -> Node {
    let mut states = std::collections::BTreeMap::new();
    for (head, record) in parts {
        let in_force = head.states.iter().filter(|(id, _)| record.has_state(**id));
        states.extend(in_force.map(|(_, state)| (&state.descriptor.name, &state.descriptor)));
    }
    let states = states.into_values().map(|state| {
        Node::Fields(vec![
            ("state", Node::text(&state.name)),
            ("kind", Node::text(word(state.kind))),
            ("ttl_ms", state.ttl.map_or(Node::None, |ttl| ttl.duration_ms.into())),
            ("serializers", Node::text(&state.schema)),
        ])
    });
    let span = parts.first().map(|(head, record)| head.span(record));
    Node::Fields(vec![
        ("operator", Node::text(operator)),
        ("parallelism", span.map_or(Node::None, |span| span.parallelism.into())),
        ("max_parallelism", span.map_or(Node::None, |span| span.max_parallelism.into())),
        ("states", Node::list(states)),
        ("parts", Node::list(parts.iter().map(|(head, record)| of_checkpoint(head, record)))),
    ])
}

async fn of_job(store: &Store, job: &Name) -> Result<Option<Node>, JobError> {
    let heads = job::read_heads(store, job, retry()).await?;
    if heads.is_empty() {
        return Ok(None);
    }
    let record = job::newest(store, job, retry()).await?;
    let view = JobView::of(&heads);
    let latest = match view.latest() {
        Latest::Nothing => Node::text("none: no subtask has completed one"),
        Latest::Inconsistent => Node::text("none: there is no checkpoint that every subtask retains"),
        Latest::Checkpoint(latest) => Node::Fields(vec![("id", latest.id.into()), ("attempt", latest.attempt.into())]),
    };
    let backends = Node::list(heads.iter().map(of_backend));
    let consistent = Node::list(view.consistent.iter().map(name_of));
    let operators = Node::list(view.operators.iter().map(|(name, checkpoints)| {
        let checkpoints = Node::list(checkpoints.iter().map(of_operator));
        Node::Fields(vec![("operator", Node::text(name)), ("checkpoints", checkpoints)])
    }));
    Ok(Some(Node::Fields(vec![
        ("job", Node::text(job)),
        ("latest", latest),
        ("generation", record.as_ref().map_or(Node::None, of_generation)),
        ("committed", Node::list(record.iter().flat_map(JobRecord::commits).map(|commit| name_of(&commit)))),
        ("restorable", consistent),
        ("operators", operators),
        ("backends", backends),
    ])))
}

fn of_generation(record: &JobRecord) -> Node {
    let declared = record.declared.as_ref().map_or_else(|| Node::text("no: its engine coordinates"), Node::text);
    Node::Fields(vec![
        ("attempt", record.attempt.into()),
        ("restores", record.restore().as_ref().map_or(Node::None, name_of)),
        ("declared", declared),
    ])
}

fn name_of(checkpoint: &JobCheckpoint) -> Node {
    Node::Fields(vec![("id", checkpoint.id.into()), ("attempt", checkpoint.attempt.into())])
}

fn of_operator(found: &OperatorCheckpoint) -> Node {
    let missing = found.missing().map(Node::from);
    Node::Fields(vec![
        ("id", found.checkpoint.id.into()),
        ("attempt", found.checkpoint.attempt.into()),
        ("parallelism", found.parallelism.into()),
        ("restorable", found.is_whole.into()),
        ("completed", found.completed.into()),
        ("missing_subtasks", Node::list(missing)),
    ])
}

fn of_backend(head: &Manifest) -> Node {
    Node::Fields(vec![
        ("backend", Node::text(&head.backend)),
        ("manifest", head.number.into()),
        ("epoch", head.owner().epoch.number.into()),
        ("attempt", head.owner().attempt.into()),
        ("checkpoints", Node::list(head.checkpoints.iter().map(|record| of_checkpoint(head, record)))),
    ])
}

/// One checkpoint of `head`.
pub(super) fn of_checkpoint(head: &Manifest, record: &CheckpointRecord) -> Node {
    let handle = CheckpointHandle { backend: head.backend.clone(), checkpoint: record.identity };
    let contents = head.contents(record);
    let span = head.span(record);
    let (attachment, attachment_page) = match &record.attachment {
        Attachment::Here(bytes) => (Node::text(hex(bytes)), Node::None),
        Attachment::Page(page) => (Node::None, Node::text(page.name(&head.backend).path())),
    };
    Node::Fields(vec![
        ("id", record.identity.id.into()),
        ("epoch", record.identity.epoch.into()),
        ("uuid", Node::text(record.identity.uuid)),
        ("attempt", record.attempt.into()),
        ("parallelism", span.parallelism.into()),
        ("key_groups", Node::text(span.key_groups)),
        ("completed", record.completed.into()),
        ("pinned", record.pinned.into()),
        ("subsumed", record.subsumed.into()),
        ("triggered", time(record.triggered_at)),
        ("cut", Node::text(record.cut)),
        ("applied_to", record.applied_to.into()),
        ("materialization", contents.base.map_or(Node::None, Node::text)),
        ("bytes_to_read_at_most", head.stored_bytes(record).into()),
        ("changes", record.changes.into()),
        ("attachment", attachment),
        ("attachment_page", attachment_page),
        ("run", Node::text(hex(&record.job_run))),
        ("handle", Node::text(hex(&handle.encode()))),
    ])
}
