//! Checks that every manifest that is read satisfies the rules that owners keep. Its numbers may be forged, or wrong,
//! even if the checksum is right; and later code loops over them, adds them, and looks things up by them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckpointRecord, EpochRecord, Manifest, Registration, Span};
use crate::{
    proto::store,
    types::{MAX_PARALLELISM_LIMIT, StateId},
};

/// Highest number of a manifest or job record, so that there is always a next one.
pub(in crate::checkpoint) const MAX_NUMBER: u64 = u64::MAX >> 1;

/// Most checkpoints that a manifest retains: four times the number that [`Limits`](crate::types::Limits) allow.
const MAX_CHECKPOINTS: usize = 4_000;

/// Most sources, and pages of sources, that one epoch lists: a thousand times as many as
/// [`Bounds::SETTLED`](crate::checkpoint::index::Bounds).
const MAX_LISTED: usize = 1 << 14;

/// Checks `manifest`, which `message` was decoded to.
///
/// # Errors
/// Names the rule that the manifest breaks.
pub(super) fn check(message: &store::Manifest, manifest: &Manifest) -> Result<(), &'static str> {
    if !(1..=MAX_NUMBER).contains(&manifest.number) {
        return Err("a number that no manifest has");
    }
    check_span(&manifest.shape.span())?;
    check_epochs(&manifest.epochs)?;
    if manifest.states.len() != message.states.len() {
        return Err("a state that is there twice");
    }
    check_states(&manifest.states)?;
    check_checkpoints(manifest)?;
    check_imports(manifest)?;
    Ok(())
}

/// Checks that the contents on which a checkpoint without a base of its own epoch builds exist.
fn check_imports(manifest: &Manifest) -> Result<(), &'static str> {
    let imports: BTreeSet<_> = manifest.imports.iter().map(|import| import.uuid).collect();
    let without_base = manifest.checkpoints.iter().filter(|record| record.base.is_none());
    let epochs: BTreeSet<u64> = without_base.map(|record| record.identity.epoch).collect();
    let mut needed = manifest.epochs.iter().filter(|record| epochs.contains(&record.epoch.number));
    if needed.any(|record| record.contents.imports.iter().any(|uuid| !imports.contains(uuid))) {
        return Err("a checkpoint that needs an import that is not there");
    }
    Ok(())
}

fn check_span(span: &Span) -> Result<(), &'static str> {
    let Span { parallelism, max_parallelism, key_groups, .. } = *span;
    let fits = (1..=max_parallelism).contains(&parallelism) && max_parallelism <= MAX_PARALLELISM_LIMIT;
    if !fits || u32::from(key_groups.last().0) >= max_parallelism {
        return Err("a parallelism and key groups that do not fit the max parallelism");
    }
    Ok(())
}

fn check_epochs(epochs: &[EpochRecord]) -> Result<(), &'static str> {
    if epochs.is_empty() {
        return Err("no epoch");
    }
    if epochs.len() > MAX_CHECKPOINTS + 1 {
        return Err("more epochs than its checkpoints need");
    }
    if epochs.iter().any(|record| record.contents.sources.len().max(record.contents.past.len()) > MAX_LISTED) {
        return Err("an epoch that began with more parts of the log than one manifest lists");
    }
    if !epochs.is_sorted_by(|one, next| one.epoch.number < next.epoch.number) {
        return Err("epochs that are out of order, or there twice");
    }
    epochs.iter().try_for_each(|record| check_span(&record.span))
}

/// Checks that ids have no gaps, and that everything that a registration refers to exists.
fn check_states(states: &BTreeMap<StateId, Registration>) -> Result<(), &'static str> {
    if !states.keys().zip(1..).all(|(id, dense)| id.0 == dense) {
        return Err("ids of states that are not dense from 1");
    }
    for (id, Registration { data, migrating_from, .. }) in states {
        if *data > *id || states.get(data).is_none_or(|first| first.data != *data) {
            return Err("a registration of entries that no state has");
        }
        if migrating_from.contains(&StateId(0)) {
            return Err("a state that migrates from none");
        }
    }
    Ok(())
}

fn check_checkpoints(manifest: &Manifest) -> Result<(), &'static str> {
    let Manifest { checkpoints, states, .. } = manifest;
    if checkpoints.len() > MAX_CHECKPOINTS {
        return Err("more checkpoints than a backend retains");
    }
    let name = |record: &CheckpointRecord| (record.identity.epoch, record.identity.id);
    if !checkpoints.is_sorted_by(|one, next| name(one) < name(next)) {
        return Err("checkpoints that are out of order, or there twice");
    }
    if checkpoints.iter().any(|record| manifest.epoch(record.identity.epoch).is_none()) {
        return Err("a checkpoint of an epoch that has no record");
    }
    if checkpoints.iter().any(|record| record.states_to as usize > states.len()) {
        return Err("a checkpoint with states that there are not");
    }
    // Few states ever have more than one registration.
    // The first registration of some entries is their `data` itself, so the list of each begins with it.
    let mut by_data: BTreeMap<StateId, Vec<StateId>> = BTreeMap::new();
    for (id, registration) in states.iter().filter(|(id, registration)| **id != registration.data) {
        by_data.entry(registration.data).or_insert_with(|| vec![registration.data]).push(*id);
    }
    let shares = |record: &CheckpointRecord| {
        let in_force = |ids: &Vec<StateId>| ids.iter().filter(|id| record.has_state(**id)).count();
        by_data.values().any(|ids| in_force(ids) > 1)
    };
    if checkpoints.iter().any(shares) {
        return Err("a checkpoint in which two registrations share their entries");
    }
    Ok(())
}
