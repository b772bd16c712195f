//! Claims a backend with a savepoint: rows in files, which have no owner and are never written again.
//!
//! Like a [clone](super::clone), the owner serves only once all of its state is in a materialization of its own. None
//! of its manifests names the savepoint, which may be removed from then on.

use std::collections::BTreeMap;

use super::{
    admit::Admitted,
    claimed::{Claim, Known},
    claiming::{ClaimMode, Claiming},
    error::unreadable_savepoint,
    native::{self, NativeSource},
    part::RestoredPart,
    plan::{Plan, derive},
    redistribution::Sources,
    refusal::refuse_outdated,
    shape,
    source::Source,
    spec::OpenSpec,
    states::{self, Adopted},
};
use crate::{
    checkpoint::{
        chain::{self, ChainError, Head},
        manifest::{Attachment, Registration, Span},
    },
    error::{Error, Reason},
    object::Retry,
    savepoint::{OperatorMeta, Savepoint, SavepointId},
    types::{BackendId, CheckpointId, CheckpointIdentity, KeyGroupRange, Limits, StateId},
};

/// How often it begins again when others open the same backend.
const CLAIM_ATTEMPTS: usize = 16;

/// Validates the request, and makes the manifest that opens the new epoch, which names nothing of the savepoint.
///
/// # Errors
/// [`Reason::CheckpointNotFound`] if there is no such savepoint, or it has no such operator.
pub(crate) async fn claim(
    by: &Claiming,
    admitted: &Admitted,
    id: &SavepointId,
    known: &mut Known,
    retry: Retry,
) -> Result<Claim, Error> {
    let spec = &admitted.spec;
    if spec.claim == Some(ClaimMode::Claim) {
        let text = format!("backend `{}`: a savepoint cannot be claimed: it stays until somebody removes it", spec.id);
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    let metadata =
        match Savepoint::read(&by.store, id, retry).await.map_err(|error| unreadable_savepoint(&spec.id, error))? {
            Savepoint::Rows(metadata) => metadata,
            Savepoint::Native(metadata) => {
                let source = NativeSource { id, metadata: &metadata };
                return Box::pin(native::claim(by, admitted, source, known, retry)).await;
            }
        };
    let Some(operator) = metadata.operators.get(spec.id.operator.as_str()) else {
        let names: Vec<&str> = metadata.operators.keys().map(String::as_str).collect();
        let (backend, folder, names) = (&spec.id, id.folder(), names.join(", "));
        let text = format!("backend `{backend}`: savepoint `{folder}` has no such operator; it has: {names}");
        return Err(Error::new(Reason::CheckpointNotFound, text));
    };
    // Only the own chain can move meanwhile: a savepoint never changes, so its metadata is read once.
    for _ in 0..CLAIM_ATTEMPTS {
        let head = known.head(by, spec, retry).await?;
        if let Some(head) = &head {
            refuse_outdated(spec, &head.manifest)?;
        }
        let (plan, names) = plan(by, spec, head.as_ref(), operator)?;
        let manifest = derive(by, spec, head, &plan)?;
        let beside = admitted.still(by, &known.seen, retry);
        let (crc, still) = match chain::append_beside(&by.store, &manifest, retry, beside).await {
            Ok(appended) => appended,
            Err(ChainError::Fenced { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let parts = parts(spec, id, operator, metadata.checkpoint, plan.shape.key_groups);
        return Ok(Claim {
            reads: manifest.clone(),
            manifest,
            crc,
            still,
            bound: plan.states.bound,
            is_own: false,
            attachments: parts.iter().map(|part| Attachment::Here(part.attachment.clone())).collect(),
            parts,
            fenced: vec![],
            skipped: vec![],
            pins: vec![],
            operator: Sources::default(),
            savepoint: Some(Source { id: id.clone(), operator: operator.clone(), names }),
            native: None,
        });
    }
    Err(ChainError::Contended(spec.id.clone()).into())
}

/// Decides the contents of the manifest, and the ids that the states of the savepoint get here. Pure.
fn plan(
    by: &Claiming,
    spec: &OpenSpec,
    head: Option<&Head>,
    operator: &OperatorMeta,
) -> Result<(Plan, BTreeMap<String, StateId>), Error> {
    let OperatorMeta { parallelism, max_parallelism, assignment, .. } = *operator;
    let all = KeyGroupRange::new(0, max_parallelism - 1).expect("it was checked");
    let known = Span { parallelism, max_parallelism, key_groups: all, assignment };
    let shape = shape::shape(by, spec, Some(&known))?;
    let plan = |states| Plan { shape, parts: vec![], is_own: true, is_clone: true, operator: vec![], states };
    let limits: &Limits = &by.limits;
    let descriptors = || operator.states.iter().map(|state| &state.descriptor);
    descriptors().try_for_each(|descriptor| states::check(descriptor, limits))?;
    // The states of a savepoint get ids as those of a backend without other states.
    let mut source = derive(by, spec, None, &plan(Adopted::default()))?;
    let numbered = (1..).map(StateId).zip(descriptors());
    source.states = numbered.map(|(id, state)| (id, Registration::first(id, state.clone()))).collect();
    let mut record = source.beginning(0);
    record.states_to = u32::try_from(source.states.len()).unwrap_or(u32::MAX);
    // Ids of the own chain stay taken, since an id is never used again for another registration.
    let own = head.map(|head| head.manifest.states.clone()).unwrap_or_default();
    let adopted = states::adopt(own, &[(&source, &record)], &[], false)?;
    if adopted.known.len() > limits.max_states {
        let (backend, states, most) = (&spec.id, adopted.known.len(), limits.max_states);
        let text = format!("backend `{backend}` would have {states} states: a backend has at most {most}");
        return Err(Error::new(Reason::TooManyStates, text));
    }
    let ids = adopted.names.first().into_iter().flatten();
    let name = |(from, to): (&StateId, &StateId)| Some((source.states.get(from)?.descriptor.name.clone(), *to));
    let names = ids.filter_map(name).collect();
    Ok((plan(adopted), names))
}

/// The parts of the subtasks that had key groups of this backend, in `checkpoint`, of which savepoint `id` was made.
fn parts(
    spec: &OpenSpec,
    id: &SavepointId,
    operator: &OperatorMeta,
    checkpoint: CheckpointId,
    key_groups: KeyGroupRange,
) -> Vec<RestoredPart> {
    let subtasks = (0..).zip(&operator.subtasks).filter(|(_, had)| had.key_groups().overlaps(key_groups));
    let part = |(subtask, had): (u32, &crate::savepoint::SubtaskMeta)| RestoredPart {
        backend: BackendId { job: id.job.clone(), operator: spec.id.operator.clone(), subtask },
        checkpoint: CheckpointIdentity { epoch: had.epoch, id: checkpoint, uuid: had.uuid() },
        key_groups: had.key_groups(),
        attachment: had.attachment.clone(),
        time: had.time_ms,
    };
    subtasks.map(part).collect()
}
