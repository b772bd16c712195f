//! Registration of states: planned, then carried out at once, except for the moves of entries that it demands.

use std::collections::BTreeSet;

use super::Table;
use crate::{
    backend::error,
    claim::states::{Plan, RegisteredState},
    error::Error,
    state::{PageLimit, StateBackend, StateError},
    tasks,
    types::{KeyGroupRange, SchemaChange, StateDescriptor, StateId},
};

impl Table {
    /// Plans the registration of `wanted`, and carries out everything except the moves. If there are moves, the backend
    /// has to be `writable`.
    ///
    /// # Errors
    /// If a descriptor is malformed, or differs from the registered one without a declared change. Nothing was changed.
    pub(crate) fn register(
        &mut self,
        wanted: &[StateDescriptor],
        changes: &[SchemaChange],
        writable: Result<(), Error>,
    ) -> Result<(Plan, Vec<RegisteredState>), Error> {
        // Only data whose descriptor changes is looked at, since each look may read the disk.
        let suspects = self.states.suspects(wanted);
        let filled = self.filled(suspects)?;
        let plan = self.states.plan(wanted, changes, &filled, &self.env.options.limits)?;
        if !plan.moves.is_empty() {
            writable?;
        }
        let may_block = self.inner.may_block();
        tasks::blocking_if(may_block, || {
            for (id, registration) in plan.new.iter().filter(|(id, registration)| registration.data == *id) {
                self.inner.register(*id, &registration.descriptor);
            }
        });
        // Ordering: the former TTLs are read before the plan replaces them.
        let before = plan.ttls_before(&self.states);
        self.states.carry_out(&plan);
        let changed: BTreeSet<StateId> =
            plan.binds.iter().chain(&plan.unbinds).map(|id| self.states.data_of(*id)).collect();
        for data in changed {
            self.clean_ups.set(data, self.states.get(data).and_then(|descriptor| descriptor.ttl));
        }
        let registered: Vec<_> = plan.ids.iter().map(|id| self.states.registered(*id)).collect();
        // An old registration that is in force again is no new one.
        for RegisteredState { id, descriptor, .. } in &registered {
            if let Some(ttl) = descriptor.ttl {
                tasks::blocking_if(may_block, || self.inner.set_ttl(*id, ttl));
                if before.get(id).is_some_and(|before| *before != Some(ttl)) {
                    // Entries that were alive at these marks may be dropped from now on.
                    self.close_way_back("the time-to-live of a state was changed");
                }
            }
        }
        Ok((plan, registered))
    }

    /// The subset of `data` that has entries.
    fn filled(&self, data: BTreeSet<StateId>) -> Result<BTreeSet<StateId>, Error> {
        let inner = &self.inner;
        let look = || -> Result<BTreeSet<StateId>, StateError> {
            let mut filled = BTreeSet::new();
            for state in data {
                if has_entries(inner, state, self.groups_of(state))? {
                    filled.insert(state);
                }
            }
            Ok(filled)
        };
        tasks::blocking_if(inner.may_block(), look)
            .map_err(|fault| Error::new(error::local(&fault), error::inner(&fault)))
    }
}

/// Whether a state has entries in some of these key groups.
pub(super) fn has_entries(inner: &dyn StateBackend, state: StateId, groups: KeyGroupRange) -> Result<bool, StateError> {
    let (first, mut found) = (PageLimit { entries: 1, bytes: 0 }, false);
    for group in groups.iter() {
        inner.name_page(state, group, None, first, &mut |_, _| found = true)?;
        if found {
            break;
        }
    }
    Ok(found)
}
