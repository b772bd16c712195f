//! A damaged checkpoint: which objects are missing or corrupt, which checkpoints that spoils, which can still be
//! restored, and whether the opener goes on with an older one.

use std::{collections::BTreeSet, fmt::Write as _};

use tokio::time::Instant;

use super::{
    claimed::Claim,
    claiming::Claiming,
    spec::{OpenSpec, RestoreFrom},
};
use crate::{
    checkpoint::{
        chain,
        damage::{self, Damage, Fault},
        job::{self, JobCheckpoint, Spoilt},
        manifest::{CheckpointRecord, Manifest},
    },
    error::{Error, Reason},
    object::Retry,
    types::{BackendId, CheckpointId},
};

/// Most objects, and checkpoints per chain, that a message lists, since it travels in the trailers of a call.
const MAX_LISTED: usize = 12;

/// Decides how to handle `fault`, which prevents restoring `checkpoint` of `claim`. Returns no error if the opener may
/// go on with another checkpoint: it may fall back, and no other subtask can have begun with this one.
pub(crate) async fn weigh(
    by: &Claiming,
    spec: &OpenSpec,
    claim: &Claim,
    checkpoint: CheckpointId,
    fault: &Fault,
) -> Result<(), Error> {
    let retry = Retry::until(Instant::now() + by.open_timeout);
    let reason = if fault.missing { Reason::MissingObject } else { Reason::CorruptObject };
    let mut text = format!("backend `{}`: checkpoint {checkpoint} cannot be restored: {fault}", spec.id);
    let mut damaged = vec![];
    // The damage is described even if the opener may fall back, since somebody has to hear of it.
    match examine(by, claim, fault, retry).await {
        Ok((heads, damage)) => {
            let parts = parts(&heads);
            describe(&mut text, &parts, &damage);
            let spoilt = |(position, (_, record)): (usize, &(&Manifest, &CheckpointRecord))| {
                Some(Spoilt::new(JobCheckpoint::of(record), damage.first_of(position)?))
            };
            damaged.extend(parts.iter().enumerate().filter_map(spoilt));
        }
        Err(error) => {
            let _ = write!(text, "; the other checkpoints could not be examined: {}", error.message);
        }
    }
    tracing::warn!(backend = %spec.id, checkpoint, "{text}");
    if !spec.fallback || !matches!(spec.restore, RestoreFrom::Latest { .. } | RestoreFrom::Id(_)) {
        return Err(Error::new(reason, text));
    }
    // Ordering: the damage is recorded before this opener chooses again, so its choice is without this checkpoint. The
    // answer says whether this opener alone can have followed the former choice. Otherwise another subtask may serve
    // that checkpoint already, and nobody falls back.
    match job::mark(&by.store, spec.opener(), &damaged, retry).await {
        Ok(true) if !damaged.is_empty() => return Ok(()),
        Ok(_) => text.push_str(
            "; other subtasks of this attempt may have begun with it: to fall back, open all subtasks with a higher attempt",
        ),
        Err(error) => {
            let _ = write!(text, "; that could not be recorded, so there is no falling back: {error}");
        }
    }
    Err(Error::new(reason, text))
}

/// Examines the checkpoints that the backend's own chain and the chains of the other parts retain.
async fn examine(by: &Claiming, claim: &Claim, fault: &Fault, retry: Retry) -> Result<(Vec<Manifest>, Damage), Error> {
    let mut heads = vec![claim.manifest.clone()];
    let sources = claim.operator.imports.iter().map(|import| &import.origin);
    let of_parts = claim.parts.iter().map(|part| &part.backend);
    let others: BTreeSet<&BackendId> = of_parts.chain(sources).filter(|of| **of != claim.manifest.backend).collect();
    for backend in others {
        heads.extend(chain::read_head(&by.store, backend, retry).await?.map(|head| head.manifest));
    }
    let parts = parts(&heads);
    let known = std::slice::from_ref(fault);
    let mut damage = damage::survey(&by.store, &parts, known, &BTreeSet::new(), retry).await?;
    // Objects that the restore needs of other chains, such as operator state, spoil the checkpoint, too.
    let is_restored = |(_, record): &(&Manifest, &CheckpointRecord)| {
        claim.parts.iter().any(|part| part.checkpoint == record.identity)
    };
    let restored: Vec<usize> = (0..parts.len()).filter(|part| parts.get(*part).is_some_and(is_restored)).collect();
    if restored.iter().all(|part| damage.first_of(*part).is_none())
        && let Some(index) = damage.faults.iter().position(|found| found.object == fault.object)
    {
        for part in restored {
            if let Some(of) = damage.of.get_mut(part) {
                of.insert(index);
            }
        }
    }
    drop(parts);
    Ok((heads, damage))
}

fn parts(heads: &[Manifest]) -> Vec<(&Manifest, &CheckpointRecord)> {
    heads.iter().flat_map(|head| head.checkpoints.iter().map(move |record| (head, record))).collect()
}

/// Adds every fault to `text`, and the spoilt and sound checkpoints of each chain.
fn describe(text: &mut String, parts: &[(&Manifest, &CheckpointRecord)], damage: &Damage) {
    let place = |fault: &Fault| match (fault.missing, fault.offset) {
        (true, _) => format!("`{}` is missing", fault.object),
        (false, Some(offset)) => format!("`{}` is corrupt at byte {offset}", fault.object),
        (false, None) => format!("`{}` is corrupt", fault.object),
    };
    let _ = write!(text, "; missing or corrupt objects: {}", listed(damage.faults.iter().map(place)));
    let mut chains: Vec<&BackendId> = vec![];
    for (head, _) in parts {
        if !chains.contains(&&head.backend) {
            chains.push(&head.backend);
        }
    }
    for backend in chains {
        let of_chain = parts.iter().zip(&damage.of).filter(|((head, _), _)| head.backend == *backend);
        let (spoilt, sound): (Vec<_>, Vec<_>) = of_chain.partition(|(_, faults)| !faults.is_empty());
        let names = |records: Vec<(&(&Manifest, &CheckpointRecord), &BTreeSet<usize>)>| {
            let name = |((_, record), _): (&(_, &CheckpointRecord), _)| {
                format!("{} (epoch {})", record.identity.id, record.identity.epoch)
            };
            listed(records.into_iter().map(name))
        };
        let _ = write!(text, "; of `{backend}` it spoils: {}; still restore: {}", names(spoilt), names(sound));
    }
}

/// The items as a list; if they are too many, some of them and their number.
fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let left = items.len().saturating_sub(MAX_LISTED);
    let mut listed: Vec<String> = items.take(MAX_LISTED).collect();
    match (listed.is_empty(), left) {
        (true, _) => listed.push("none".to_owned()),
        (false, 0) => {}
        (false, left) => listed.push(format!("and {left} more")),
    }
    listed.join(", ")
}
