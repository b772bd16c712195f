//! A savepoint of rows as the source of a backend's state.

use std::collections::BTreeMap;

use crate::{
    savepoint::{OperatorMeta, SavepointId},
    types::StateId,
};

/// The state of an operator in a savepoint, and the ids that its states get here.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) id: SavepointId,
    pub(crate) operator: OperatorMeta,
    pub(crate) names: BTreeMap<String, StateId>,
}
