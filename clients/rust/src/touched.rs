//! The states whose reads are writes, because they touch the entries that they read. A batch with such a read costs
//! credit, even if all its other operations only read.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;

use super::wire;
use dstl_proto::v1::{RegisteredState, ttl};

/// The ids of these states, as far as the backend's registrations told. Cheap to clone; clones share the ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Touched(Arc<RwLock<BTreeSet<u32>>>);

impl Touched {
    /// Takes in registered states.
    pub(super) fn learn(&self, states: &[RegisteredState]) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for state in states {
            let ttl = state.descriptor.as_ref().and_then(|descriptor| descriptor.ttl.as_ref());
            if ttl.is_some_and(|ttl| ttl.update() == ttl::Update::OnReadAndWrite) {
                known.insert(state.id);
            } else {
                known.remove(&state.id);
            }
        }
    }

    /// Whether one of a batch's encoded operations is on such a state.
    pub(super) fn has_any_of(&self, operations: &Bytes) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // Nearly every backend has no such states.
        !known.is_empty()
            && wire::split_operations(operations)
                .is_ok_and(|parts| parts.iter().filter_map(wire::part_state).any(|state| known.contains(&state)))
    }
}
