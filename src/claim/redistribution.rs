//! Operator state is redistributed: which subtasks of a checkpoint a backend needs it from.

use std::collections::BTreeSet;

use super::{part::Part, spec::OpenSpec};
use crate::{
    checkpoint::manifest::Import,
    error::{Error, Reason},
    state,
    types::{KeyGroupRange, Redistribution},
};

/// The operator state that a backend will read.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The operator state of each subtask that had some.
    pub(crate) imports: Vec<Import>,
    /// How many subtasks the checkpoint has; 0 if nothing is read.
    pub(crate) parallelism: u32,
    /// Whether only union lists are read, because the backend has its own operator state already.
    pub(crate) only_union: bool,
}

/// The subtasks whose operator state the backend needs, given parts of the checkpoint. Pure.
pub(crate) fn wanted(spec: &OpenSpec, parts: &[Part]) -> BTreeSet<u32> {
    let Some(old) = parts.first().map(|part| part.span().parallelism) else { return BTreeSet::new() };
    let of_part = |part: &Part| part.manifest.redistributions(&part.record).collect::<Vec<_>>();
    let to = state::operator::Successor { subtask: spec.id.subtask, parallelism: spec.parallelism };
    parts
        .iter()
        .flat_map(of_part)
        .flat_map(|redistribution| state::operator::sources(redistribution, old, to))
        .collect()
}

/// Whether the backend, which goes on with `part`, needs the operator state of its siblings. Pure.
pub(crate) fn needs_siblings(part: &Part) -> bool {
    let is_union = |redistribution| redistribution == Redistribution::Union;
    part.span().parallelism > 1 && part.manifest.redistributions(&part.record).any(is_union)
}

/// Checks that `parts` include all subtasks that are `wanted`. Pure.
///
/// # Errors
/// If some are missing; the error names them.
pub(crate) fn check(spec: &OpenSpec, parts: &[Part], wanted: &BTreeSet<u32>, by_handles: bool) -> Result<(), Error> {
    let Some(old) = parts.first().map(|part| part.span().parallelism) else { return Ok(()) };
    let has = |subtask: &u32| parts.iter().any(|part| part.manifest.backend.subtask == *subtask);
    let missing: Vec<String> = wanted.iter().filter(|subtask| !has(subtask)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (what, reason) = if by_handles {
        ("give their handles too", Reason::InvalidArgument)
    } else {
        ("they do not retain it", Reason::CheckpointNotFound)
    };
    let text = format!(
        "backend `{}`: the checkpoint has operator state that is redistributed, and so needs that of subtasks {} of {old}; {what}",
        spec.id,
        missing.join(", ")
    );
    Err(Error::new(reason, text))
}

/// Whether the chain of `part`, of which only operator state is read, belongs to a sibling that goes on. Pure.
pub(crate) fn is_of_sibling(spec: &OpenSpec, part: &Part, key_groups: KeyGroupRange) -> bool {
    let owner = part.manifest.owner();
    // The sibling had this parallelism when the part was made, or its chain was opened with it since. A fence opens
    // nothing, so its span says nothing.
    let is_alike =
        part.span().parallelism == spec.parallelism || (!owner.is_fence && owner.span.parallelism == spec.parallelism);
    let backend = &part.manifest.backend;
    is_alike
        && backend.subtask < spec.parallelism
        && *backend != spec.id
        && !part.span().key_groups.overlaps(key_groups)
}
