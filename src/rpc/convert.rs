//! Conversion between protobuf and domain types.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

pub(super) mod claim;
mod descriptor;
mod job;
mod query;

pub(super) use self::{
    descriptor::{descriptor, schema_change, to_registered},
    job::{declaration, to_damaged, to_declared, to_job},
    query::{
        query_operations, query_start, reading, savepoint, to_query_result, to_query_started, to_read,
        to_savepoint_made,
    },
};

use super::reply::Reply;
use crate::{
    backend::{
        Acknowledgement, BarrierRequest, BatchResult, CompletedCheckpoint, Description, OpenSpec, Opened, Operation,
        RestoreFrom, RestoredPart, StateSummary,
    },
    checkpoint::{
        handle::CheckpointHandle,
        ledger::{NoticeKind, NoticeOutcome, NoticeTarget, Retention},
        manifest::CheckpointRecord,
    },
    error::{Error, Reason},
    proto::{
        v1::{self, OperationKind, session_response::Response},
        wire::{Fields, results},
    },
    savepoint::SavepointId,
    state::{
        MapKeys,
        op::{Answer, Op, Timer},
    },
    types::{
        Attempt, BackendId, CheckpointIdentity, Epoch, InnerBackend, KeyGroup, KeyGroupAssignment, KeyGroupRange,
        Limits, Name, StateId,
    },
};

/// Bytes of a short result, to guess how many bytes all results have.
const SHORT_RESULT_BYTES: usize = 24;

/// Longest token, peer group and run, in bytes.
const MAX_TAG_BYTES: usize = 64;

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Reason::InvalidArgument, text)
}

fn name(what: &str, name: &str) -> Result<Name, Error> {
    Name::new(name).map_err(|error| invalid(format!("{what}: {error}")))
}

/// The job that a message names.
pub(super) fn job_name(job: &str) -> Result<Name, Error> {
    name("job", job)
}

/// The backend that a message names.
pub(super) fn backend_id(id: Option<&v1::BackendId>) -> Result<BackendId, Error> {
    let id = id.ok_or_else(|| invalid("no backend is named"))?;
    Ok(BackendId { job: name("job", &id.job)?, operator: name("operator", &id.operator)?, subtask: id.subtask })
}

/// The backend and epoch that a call carries.
pub(super) fn backend_ref(reference: Option<&v1::BackendRef>) -> Result<(BackendId, Epoch), Error> {
    let reference = reference.ok_or_else(|| invalid("`backend` is missing: put `Opened.backend` into every call"))?;
    let epoch = reference.epoch.as_ref().ok_or_else(|| invalid("`backend.epoch` is missing: it is in `Opened`"))?;
    let owner =
        Uuid::from_slice(&epoch.owner).map_err(|_| invalid("`backend.epoch.owner` is not a UUID of 16 bytes"))?;
    Ok((backend_id(reference.id.as_ref())?, Epoch { number: epoch.number, owner }))
}

pub(super) fn to_backend_ref(id: &BackendId, epoch: Epoch) -> v1::BackendRef {
    v1::BackendRef {
        id: Some(v1::BackendId { job: id.job.to_string(), operator: id.operator.to_string(), subtask: id.subtask }),
        epoch: Some(v1::Epoch { number: epoch.number, owner: Bytes::copy_from_slice(epoch.owner.as_bytes()) }),
    }
}

fn to_range(range: KeyGroupRange) -> v1::KeyGroupRange {
    v1::KeyGroupRange { first: range.first().0.into(), last: range.last().0.into() }
}

fn to_assignment(assignment: KeyGroupAssignment) -> i32 {
    match assignment {
        KeyGroupAssignment::Hashed => v1::KeyGroupAssignment::Hashed.into(),
        KeyGroupAssignment::Given => v1::KeyGroupAssignment::Given.into(),
    }
}

fn unknown_value(field: &str, value: i32) -> Error {
    invalid(format!("`{field}` has the value {value}, which this daemon does not know"))
}

/// The contents of an `Open` request.
pub(super) fn open_spec(request: &v1::OpenRequest) -> Result<OpenSpec, Error> {
    let assignment = match v1::KeyGroupAssignment::try_from(request.key_group_assignment) {
        Ok(v1::KeyGroupAssignment::Unspecified) => None,
        Ok(v1::KeyGroupAssignment::Hashed) => Some(KeyGroupAssignment::Hashed),
        Ok(v1::KeyGroupAssignment::Given) => Some(KeyGroupAssignment::Given),
        Err(_) => return Err(unknown_value("key_group_assignment", request.key_group_assignment)),
    };
    let inner = match v1::InnerBackend::try_from(request.inner) {
        Ok(v1::InnerBackend::Unspecified) => None,
        Ok(v1::InnerBackend::Hashmap) => Some(InnerBackend::HashMap),
        Ok(v1::InnerBackend::Rocksdb) => Some(InnerBackend::RocksDb),
        Err(_) => return Err(unknown_value("inner", request.inner)),
    };
    let changelog = match v1::ChangelogMode::try_from(request.changelog) {
        Ok(v1::ChangelogMode::Unspecified) => None,
        Ok(v1::ChangelogMode::Enabled) => Some(true),
        Ok(v1::ChangelogMode::Disabled) => Some(false),
        Err(_) => return Err(unknown_value("changelog", request.changelog)),
    };
    let key_groups = request.key_groups.as_ref().map(|range| KeyGroupRange::new(range.first, range.last));
    Ok(OpenSpec {
        id: backend_id(request.backend.as_ref())?,
        parallelism: request.parallelism,
        max_parallelism: (request.max_parallelism > 0).then_some(request.max_parallelism),
        key_groups: key_groups.transpose().map_err(|error| invalid(error.to_string()))?,
        assignment,
        inner,
        changelog,
        attempt: attempt(request)?,
        token: tag("attempt_token", &request.attempt_token)?,
        fresh: request.fresh,
        peers: tag("peer_group", &request.peer_group)?,
        job_run: tag("run", &request.run)?,
        restore: restore(request.restore.as_ref())?,
        fallback: fallback(request.restore.as_ref())?,
        retention: retention(request.retention.as_ref())?,
        linger: (request.linger_ms > 0).then(|| Duration::from_millis(request.linger_ms)),
        claim: claim::mode(request.claim_mode)?,
    })
}

/// The attempt; 0 if there is a token instead.
fn attempt(request: &v1::OpenRequest) -> Result<Attempt, Error> {
    if request.attempt > 0 && !request.attempt_token.is_empty() {
        return Err(invalid(format!(
            "`attempt` {} and `attempt_token` are both set: the token stands for an attempt, leave `attempt` out",
            request.attempt
        )));
    }
    Ok(request.attempt)
}

/// Opaque bytes with a meaning for the engine.
fn tag(field: &str, bytes: &Bytes) -> Result<Bytes, Error> {
    if bytes.len() > MAX_TAG_BYTES {
        return Err(invalid(format!("`{field}` has {} bytes, at most {MAX_TAG_BYTES} are allowed", bytes.len())));
    }
    // Copied, so that the longer request is not kept in memory.
    Ok(Bytes::copy_from_slice(bytes))
}

fn restore(restore: Option<&v1::Restore>) -> Result<RestoreFrom, Error> {
    use v1::restore::Restore;
    let missing = || invalid("`restore` is missing: set `empty`, `id`, `handles`, `savepoint` or `latest`");
    match restore.and_then(|restore| restore.restore.as_ref()).ok_or_else(missing)? {
        Restore::Empty(_) => Ok(RestoreFrom::Empty),
        Restore::Id(id) => Ok(RestoreFrom::Id(*id)),
        Restore::Latest(latest) => Ok(RestoreFrom::Latest { or_empty: latest.or_empty }),
        Restore::Handles(handles) if handles.handles.is_empty() => Err(invalid("`restore.handles` is empty")),
        Restore::Handles(handles) => {
            let decode = |handle: &Bytes| {
                CheckpointHandle::decode(handle).map_err(|error| invalid(format!("a checkpoint handle: {error}")))
            };
            let decoded = handles.handles.iter().map(decode).collect::<Result<_, _>>()?;
            Ok(if handles.vouched { RestoreFrom::Vouched(decoded) } else { RestoreFrom::Handles(decoded) })
        }
        Restore::Savepoint(path) => SavepointId::parse(path).map(RestoreFrom::Savepoint).ok_or_else(|| {
            invalid(format!("`restore.savepoint` is `{path}`, which does not end with `<job>/savepoints/<name>`"))
        }),
    }
}

/// Whether a restore may fall back to an older checkpoint. Only some restores define which checkpoints are older.
fn fallback(restore: Option<&v1::Restore>) -> Result<bool, Error> {
    use v1::restore::Restore;
    let Some(restore) = restore.filter(|restore| restore.fallback) else { return Ok(false) };
    match restore.restore {
        Some(Restore::Id(_) | Restore::Latest(_)) => Ok(true),
        _ => Err(invalid("`restore.fallback` goes with `id` and `latest` only")),
    }
}

fn retention(retention: Option<&v1::Retention>) -> Result<Option<Retention>, Error> {
    use v1::retention::Retention as Wire;
    match retention.and_then(|retention| retention.retention.as_ref()) {
        None => Ok(None),
        Some(Wire::Explicit(_)) => Ok(Some(Retention::Explicit)),
        Some(Wire::Count(0)) => Err(invalid("`retention.count` is 0; at least 1 checkpoint is retained")),
        Some(Wire::Count(count)) => Ok(Some(Retention::Count(*count as usize))),
    }
}

pub(super) fn to_opened(opened: &Opened) -> v1::Opened {
    v1::Opened {
        backend: Some(to_backend_ref(opened.backend.id(), opened.backend.epoch())),
        checkpoint: opened.checkpoint.as_ref().map(to_identity),
        applied_to: opened.applied_to,
        states: opened.states.iter().map(to_registered).collect(),
        attachment: opened.attachment.clone(),
        reconnected: opened.reconnected,
        key_groups: Some(to_range(opened.shape.key_groups)),
        max_parallelism: opened.shape.max_parallelism,
        key_group_assignment: to_assignment(opened.shape.assignment),
        restored_changes: opened.restored.changes,
        restored_bytes: opened.restored.bytes_done,
        last_checkpoint_id: opened.last_checkpoint_id,
        parts: opened.parts.iter().map(to_part).collect(),
        skipped: opened.skipped.iter().map(to_damaged).collect(),
        warm: opened.warm,
        not_warm: opened.not_warm.clone(),
        coordinated: opened.coordinated,
        attempt: opened.backend.attempt(),
        self_sustained_since: opened.self_sustained_since,
    }
}

fn to_part(part: &RestoredPart) -> v1::RestoredPart {
    v1::RestoredPart {
        subtask: part.backend.subtask,
        checkpoint: Some(to_identity(&part.checkpoint)),
        key_groups: Some(to_range(part.key_groups)),
        attachment: part.attachment.clone(),
    }
}

pub(super) fn to_limits(limits: &Limits) -> v1::Limits {
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    v1::Limits {
        max_message_bytes: limits.max_message_bytes as u64,
        max_key_bytes: limits.max_key_bytes as u64,
        max_value_bytes: limits.max_value_bytes as u64,
        max_attachment_bytes: limits.max_attachment_bytes as u64,
        max_batch_operations: limits.max_batch_operations as u64,
        max_concurrent_checkpoints: narrow(limits.max_concurrent_checkpoints),
        max_states: narrow(limits.max_states),
        max_name_bytes: 200,
    }
}

/// The operations of a batch, borrowed from it.
pub(super) fn operations(batch: &v1::Batch) -> Result<Vec<Operation<'_>>, Error> {
    let one = |(index, operation): (usize, _)| {
        self::operation(&Fields::from(operation)).map_err(|what| invalid(format!("operation {index}: {what}")))
    };
    batch.operations.iter().enumerate().map(one).collect()
}

/// Converts one operation.
///
/// # Errors
/// The fault of its fields.
#[inline]
pub(super) fn operation<'a>(wire: &Fields<'a>) -> Result<Operation<'a>, String> {
    let unknown = || format!("`kind` has the value {}, which this daemon does not know", wire.kind);
    let kind = OperationKind::try_from(wire.kind).map_err(|_| unknown())?;
    let Fields { map_key, value, .. } = *wire;
    let op = match kind {
        OperationKind::Unspecified => return Err("`kind` is missing".to_owned()),
        OperationKind::Clear => Op::Clear,
        OperationKind::Put => Op::Put(value),
        OperationKind::Get => Op::Get,
        OperationKind::Merge => Op::Merge(value),
        OperationKind::MapPut => Op::MapPut { map_key, value },
        OperationKind::MapGet => Op::MapGet { map_key },
        OperationKind::MapRemove => Op::MapRemove { map_key },
        OperationKind::MapContains => Op::MapContains { map_key },
        OperationKind::MapMerge => Op::MapMerge { map_key, operand: value },
        OperationKind::MapEntries => Op::MapEntries {
            keys: MapKeys { from: map_key, to: wire.map_key_to, prefix: wire.map_prefix },
            limit: wire.limit,
        },
        OperationKind::MapCount => Op::MapCount,
        OperationKind::ListAdd => Op::ListAdd(value),
        OperationKind::ListAddAll => Op::ListAddAll(wire.values),
        OperationKind::ListUpdate => Op::ListUpdate(wire.values),
        OperationKind::ListGet => Op::ListGet { start: wire.start, token: wire.token, limit: wire.limit },
        OperationKind::ListCount => Op::ListCount,
        OperationKind::MergeNamespaces => Op::MergeNamespaces(wire.values),
        OperationKind::TimerRegister => Op::TimerRegister { time: wire.time },
        OperationKind::TimerDelete => Op::TimerDelete { time: wire.time },
        OperationKind::Timers => Op::Timers { up_to: wire.time, token: wire.token, limit: wire.limit },
        OperationKind::TimersFire => Op::TimersFire { up_to: wire.time, limit: wire.limit },
        OperationKind::TimerCount => Op::TimerCount,
        OperationKind::Keys => Op::Keys { all_namespaces: wire.all_namespaces, token: wire.token, limit: wire.limit },
    };
    refuse_unused(wire, kind)?;
    Ok(Operation {
        state: StateId(wire.state),
        key_group: wire.key_group,
        key: wire.key,
        namespace: wire.namespace,
        op,
    })
}

/// The fields that [`refuse_unused`] looks at, in its order.
const UNUSED: [&str; 11] = [
    "map_key",
    "value",
    "values",
    "start",
    "limit",
    "token",
    "time",
    "map_key_to",
    "map_prefix",
    "all_namespaces",
    "namespace",
];

/// Refuses fields that the operation does not use: a client that sets one has misunderstood it, and must be told.
fn refuse_unused(wire: &Fields<'_>, kind: OperationKind) -> Result<(), String> {
    use OperationKind as Kind;
    let map = matches!(
        kind,
        Kind::MapPut | Kind::MapGet | Kind::MapRemove | Kind::MapContains | Kind::MapMerge | Kind::MapEntries
    );
    let value = matches!(kind, Kind::Put | Kind::Merge | Kind::MapPut | Kind::MapMerge | Kind::ListAdd);
    let values = matches!(kind, Kind::ListAddAll | Kind::ListUpdate | Kind::MergeNamespaces);
    let limit = matches!(kind, Kind::MapEntries | Kind::ListGet | Kind::Keys | Kind::Timers | Kind::TimersFire);
    let timer = matches!(kind, Kind::TimerRegister | Kind::TimerDelete | Kind::Timers | Kind::TimersFire);
    let of_all = matches!(kind, Kind::Timers | Kind::TimersFire | Kind::TimerCount);
    let fits = [
        map || wire.map_key.is_empty(),
        value || wire.value.is_empty(),
        values || wire.values.is_empty(),
        kind == Kind::ListGet || wire.start == 0,
        limit || wire.limit == 0,
        matches!(kind, Kind::Keys | Kind::Timers | Kind::ListGet) || wire.token.is_empty(),
        timer || wire.time == 0,
        kind == Kind::MapEntries || wire.map_key_to.is_empty(),
        kind == Kind::MapEntries || wire.map_prefix.is_empty(),
        kind == Kind::Keys || !wire.all_namespaces,
        wire.namespace.is_empty() || !(wire.all_namespaces || of_all),
    ];
    if kind == Kind::ListGet && wire.start != 0 && !wire.token.is_empty() {
        return Err("`start` and `token` are both set: a token says where to begin, leave `start` out".to_owned());
    }
    match UNUSED.iter().zip(fits).find(|(_, fits)| !fits) {
        Some((field, _)) => Err(format!("{} does not use `{field}`, which is set", kind.as_str_name())),
        None => Ok(()),
    }
}

pub(super) fn to_batch_result(result: BatchResult) -> v1::BatchResult {
    v1::BatchResult {
        number: result.number,
        results: result.answers.into_iter().map(|(operation, answer)| to_result(operation, answer)).collect(),
        repeated_batch: result.repeated,
    }
}

/// The results of a batch, encoded at once.
pub(super) fn to_reply(result: BatchResult) -> Reply {
    if result.repeated {
        return Response::Result(to_batch_result(result)).into();
    }
    let mut contents = Vec::with_capacity(result.answers.len() * SHORT_RESULT_BYTES);
    results::begin(&mut contents, result.number);
    for (operation, answer) in result.answers {
        match answer {
            Some(Answer::Value(Some(value))) => results::put_value(&mut contents, operation, true, &value),
            Some(Answer::Value(None)) => results::put_value(&mut contents, operation, false, &[]),
            other => results::put(&mut contents, &to_result(operation, other)),
        }
    }
    Reply::Results(contents)
}

fn to_result(operation: u32, answer: Option<Answer>) -> v1::OperationResult {
    let mut result = v1::OperationResult { operation, ..Default::default() };
    match answer {
        None | Some(Answer::AskAgain) => result.set_outcome(v1::Outcome::AskAgain),
        Some(Answer::LimitReached) => result.set_outcome(v1::Outcome::LimitReached),
        Some(Answer::Value(value)) => {
            result.found = value.is_some();
            result.value = value.unwrap_or_default();
        }
        Some(Answer::Default(value)) => result.value = value,
        Some(Answer::Found(found)) => result.found = found,
        Some(Answer::Entries { entries, more }) => {
            result.found = !entries.is_empty();
            result.entries = entries.into_iter().map(|(key, value)| v1::MapEntry { key, value }).collect();
            result.more = more;
        }
        Some(Answer::Elements { elements, token }) => {
            result.found = !elements.is_empty();
            result.elements = elements;
            result.more = token.is_some();
            result.token = token.unwrap_or_default();
        }
        Some(Answer::Keys { keys, token }) => {
            result.found = !keys.is_empty();
            let stored = |(group, key, namespace): (KeyGroup, Bytes, Bytes)| v1::StoredKey {
                key,
                namespace,
                key_group: group.0.into(),
            };
            result.keys = keys.into_iter().map(stored).collect();
            result.token = token.unwrap_or_default();
        }
        Some(Answer::Timers { timers, token }) => {
            result.found = !timers.is_empty();
            result.timers = timers.into_iter().map(to_timer).collect();
            result.token = token.unwrap_or_default();
        }
        Some(Answer::Fired { timers, more }) => {
            result.found = !timers.is_empty();
            result.timers = timers.into_iter().map(to_timer).collect();
            result.more = more;
        }
        Some(Answer::Count(count)) => {
            result.found = count > 0;
            result.count = count;
        }
    }
    result
}

fn to_timer(timer: Timer) -> v1::Timer {
    v1::Timer { time: timer.time, key: timer.key, namespace: timer.namespace, key_group: timer.key_group.0.into() }
}

pub(super) fn to_acknowledgement(acknowledgement: Acknowledgement, credit: u64) -> v1::Acknowledgement {
    v1::Acknowledgement {
        applied_to: acknowledgement.applied_to,
        persisted_to: acknowledgement.persisted_to,
        confirmed_to: acknowledgement.confirmed_to,
        credit,
    }
}

pub(super) fn barrier(barrier: &v1::Barrier) -> BarrierRequest {
    BarrierRequest {
        id: barrier.checkpoint_id,
        attachment: barrier.attachment.clone(),
        timeout: (barrier.timeout_ms > 0).then(|| Duration::from_millis(barrier.timeout_ms)),
    }
}

/// The checkpoint that a message means.
pub(super) fn target(identity: Option<&v1::CheckpointIdentity>) -> Result<NoticeTarget, Error> {
    let identity = identity.ok_or_else(|| invalid("no checkpoint is named"))?;
    let uuid = match identity.handle_uuid.len() {
        0 => None,
        _ => Some(
            Uuid::from_slice(&identity.handle_uuid)
                .map_err(|_| invalid("`checkpoint.handle_uuid` has neither 16 bytes nor none"))?,
        ),
    };
    Ok(NoticeTarget { epoch: identity.epoch, id: identity.checkpoint_id, uuid })
}

/// The kind of a notice, and its checkpoint.
pub(super) fn notice(notice: &v1::Notice) -> Result<(NoticeKind, NoticeTarget), Error> {
    let kind = match v1::NoticeKind::try_from(notice.kind) {
        Ok(v1::NoticeKind::Complete) => NoticeKind::Complete,
        Ok(v1::NoticeKind::Abort) => NoticeKind::Abort,
        Ok(v1::NoticeKind::Subsume) => NoticeKind::Subsume,
        Ok(v1::NoticeKind::Discard) => NoticeKind::Discard,
        Ok(v1::NoticeKind::Unspecified) => return Err(invalid("`notice.kind` is missing")),
        Err(_) => return Err(unknown_value("notice.kind", notice.kind)),
    };
    Ok((kind, target(notice.checkpoint.as_ref())?))
}

pub(super) fn to_outcome(outcome: NoticeOutcome) -> v1::NoticeOutcome {
    match outcome {
        NoticeOutcome::Done => v1::NoticeOutcome::Done,
        NoticeOutcome::Unchanged => v1::NoticeOutcome::Unchanged,
        NoticeOutcome::Unknown => v1::NoticeOutcome::Unknown,
        NoticeOutcome::Pinned => v1::NoticeOutcome::Pinned,
        NoticeOutcome::Coordinated => v1::NoticeOutcome::Coordinated,
    }
}

pub(super) fn to_identity(identity: &CheckpointIdentity) -> v1::CheckpointIdentity {
    v1::CheckpointIdentity {
        epoch: identity.epoch,
        checkpoint_id: identity.id,
        handle_uuid: Bytes::copy_from_slice(identity.uuid.as_bytes()),
    }
}

pub(super) fn to_completed(checkpoint: &CompletedCheckpoint) -> v1::CheckpointCompleted {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    v1::CheckpointCompleted {
        checkpoint: Some(to_identity(&checkpoint.identity)),
        handle: checkpoint.handle.clone(),
        applied_to: checkpoint.applied_to,
        incremental_bytes: checkpoint.incremental_bytes,
        full_bytes: checkpoint.full_bytes,
        changes: checkpoint.changes,
        sync_ms: ms(checkpoint.sync),
        persist_ms: ms(checkpoint.persist),
        publish_ms: ms(checkpoint.publish),
        total_ms: ms(checkpoint.total),
        self_sustained_since: checkpoint.self_sustained_since,
        savepoint: None,
    }
}

pub(super) fn to_description(description: &Description) -> v1::BackendDescription {
    let manifest = &description.manifest;
    let log = manifest.log_totals();
    let state = |state: &StateSummary| v1::StateDescription {
        state: Some(to_registered(&state.state)),
        entries: state.entries,
        entries_at_least: state.at_least,
    };
    v1::BackendDescription {
        backend: Some(to_backend_ref(&description.id, description.epoch)),
        parallelism: manifest.shape.parallelism,
        max_parallelism: manifest.shape.max_parallelism,
        key_groups: Some(to_range(manifest.shape.key_groups)),
        key_group_assignment: to_assignment(manifest.shape.assignment),
        inner: match manifest.shape.inner {
            InnerBackend::HashMap => v1::InnerBackend::Hashmap.into(),
            InnerBackend::RocksDb => v1::InnerBackend::Rocksdb.into(),
        },
        attempt: manifest.owner().attempt,
        states: description.states.iter().map(state).collect(),
        checkpoints: manifest.checkpoints.iter().map(|record| to_checkpoint(&description.id, record)).collect(),
        acknowledgement: Some(to_acknowledgement(description.acknowledgement, 0)),
        state_bytes: description.state_bytes,
        pending_bytes: description.pending_bytes,
        log_bytes: log.stored_bytes,
        log_change_sets: log.change_sets,
        failsafe: description.failsafe.clone(),
        self_sustained_since: description.self_sustained_since,
    }
}

fn to_checkpoint(backend: &BackendId, record: &CheckpointRecord) -> v1::CheckpointDescription {
    let handle = CheckpointHandle { backend: backend.clone(), checkpoint: record.identity };
    v1::CheckpointDescription {
        checkpoint: Some(to_identity(&record.identity)),
        handle: handle.encode(),
        completed: record.completed,
        pinned: record.pinned,
        triggered_at_ms: record.triggered_at,
        incremental_bytes: record.incremental_bytes,
    }
}
