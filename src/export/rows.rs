//! The rows of a checkpoint: its entries, one after the other, whichever inner backend made its base.

use std::collections::BTreeMap;

use crate::{
    restore::reader::Part,
    savepoint::{Entry, Place, Row},
    state::{Action, Change, StateError},
    types::{KeyGroup, KeyGroupRange, StateDescriptor, StateId},
};

/// Why rows cannot be read, other than what their reader says.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The part does not have the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// A change sets no entry.
    #[error("{0}")]
    Change(String),
}

/// A place of rows: a state, and the key group or subtask that its rows belong to.
#[derive(Debug, Clone, Copy)]
pub struct At<'s> {
    /// Id of the state in the checkpoint.
    pub state: StateId,
    /// The descriptor of that state.
    pub descriptor: &'s StateDescriptor,
    /// The key group; [`KeyGroup::OPERATOR`] for operator state.
    pub key_group: KeyGroup,
    /// The place that each row names.
    pub place: Place,
}

/// The states and key groups of a `part` of `subtask`, in order of key groups: the places of its rows. `states` are
/// those of the checkpoint.
pub fn places<'s>(
    part: &Part,
    subtask: u32,
    states: &'s BTreeMap<StateId, StateDescriptor>,
) -> impl Iterator<Item = At<'s>> {
    let is_operator = part.key_groups == KeyGroupRange::OPERATOR;
    part.key_groups.iter().flat_map(move |key_group| {
        let place = if is_operator { Place::Subtask(subtask) } else { Place::KeyGroup(key_group) };
        let states = states.iter().filter(move |(_, state)| state.redistribution.is_some() == is_operator);
        states.map(move |(state, descriptor)| At { state: *state, descriptor, key_group, place })
    })
}

/// Hands the rows at one of the [`places`] of `part` to `read`, until that fails.
///
/// # Errors
/// [`RowError`], as `E`, or that of `read`.
pub fn each<E: From<RowError>>(
    part: &Part,
    at: At<'_>,
    mut read: impl FnMut(&Row<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut next = Some(0);
    while let Some(first) = next {
        next = piece(part, at, first, &mut read)?;
    }
    Ok(())
}

/// Does the same with the piece of them that begins at the stable hash `first`, whose size is bounded unless one entry
/// is larger. Returns where the next one begins; `None` after the last one. The first one begins at 0.
///
/// # Errors
/// As [`each`].
pub fn piece<E: From<RowError>>(
    part: &Part,
    at: At<'_>,
    first: u64,
    mut read: impl FnMut(&Row<'_>) -> Result<(), E>,
) -> Result<Option<u64>, E> {
    // A copy of a piece cannot be broken off. After a fault, the rest of the piece is passed over.
    let (mut outcome, mut removed) = (Ok(()), 0);
    let mut push = |change: &Change<'_>| {
        if outcome.is_ok() {
            outcome = match row(change, at.place, at.descriptor, &mut removed) {
                Ok(Some(row)) => read(&row),
                Ok(None) => Ok(()),
                Err(fault) => Err(RowError::Change(fault).into()),
            };
        }
    };
    let next = part.inner.piece(at.state, at.key_group, first, &mut push).map_err(RowError::from)?;
    outcome.map(|()| next)
}

/// The row of a change, with the elements of a list numbered without those that were `removed` from it.
fn row<'c>(
    change: &Change<'c>,
    place: Place,
    state: &'c StateDescriptor,
    removed: &mut u64,
) -> Result<Option<Row<'c>>, String> {
    // The elements of a list follow each other, so index 0 begins another list.
    if matches!(change.action, Action::ListPut { index: 0, .. }) {
        *removed = 0;
    }
    let Some(row) = Row::of(change, place, state)? else {
        *removed += 1;
        return Ok(None);
    };
    Ok(Some(match row.entry {
        Entry::Element(index, value) => Row { entry: Entry::Element(index.saturating_sub(*removed), value), ..row },
        _ => row,
    }))
}
