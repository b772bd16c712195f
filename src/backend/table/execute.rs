//! Execution of a batch: each operation decides its changes against the inner backend, which applies them, and the same
//! bytes go into the log.

use std::sync::Arc;

use super::{
    Table,
    check::{address, read_key_groups},
    cleanup::Pass,
    log::Log,
    marks::Live,
    slices::Ahead,
};
use crate::{
    backend::{error, words::Operation},
    state::{
        Change, StateBackend as _, WARM_PLACES,
        op::{self, Answer, Upkeep},
    },
    tasks,
};

impl Table {
    /// The upkeep that one batch may do.
    pub(crate) fn upkeep(&self) -> Upkeep {
        self.clean_ups.upkeep()
    }

    /// Carries out checked operations, without those that were read `ahead`. With `upkeep`, expired entries are cleaned
    /// up.
    ///
    /// # Errors
    /// A fault of the inner backend, as text: a part of the operations may have been carried out.
    pub(crate) fn execute(
        &mut self,
        operations: &[Operation<'_>],
        upkeep: Option<&Upkeep>,
        ahead: Ahead,
        log: &mut Log<'_>,
    ) -> Result<Vec<(u32, Option<Answer>)>, String> {
        tasks::blocking_if(self.may_block(), || self.try_execute(operations, upkeep, ahead, log))
    }

    fn try_execute(
        &mut self,
        operations: &[Operation<'_>],
        upkeep: Option<&Upkeep>,
        ahead: Ahead,
        log: &mut Log<'_>,
    ) -> Result<Vec<(u32, Option<Answer>)>, String> {
        let limits = &self.env.options.limits;
        let mut view = ahead.view(limits, self.scope);
        view.time = self.time;
        view.expect(operations.iter().skip(view.done).filter(|operation| operation.op.answers()).count());
        let Self { inner, states, key_groups, clean_ups, marks, .. } = self;
        let all = self.shape.key_groups;
        let cursors = Arc::clone(clean_ups.lists());
        let done = view.done;
        let left = || operations.iter().zip(key_groups.iter()).skip(done);
        let mut log = |change: &Change<'_>| log.append(change);
        for (index, (operation, key_group)) in left().enumerate() {
            if index % WARM_PLACES == 0 {
                let from = done + index;
                let places = operations.get(from..).unwrap_or_default().iter().zip(key_groups.iter().skip(from));
                inner.warm(&mut places.take(WARM_PLACES).map(|(operation, group)| address(operation, *group)));
            }
            let descriptor = states.get(operation.state).expect("a checked operation has a state");
            // Bounded before the operation runs: an answer that does not fit could not be taken back, and firing timers
            // would have removed them for nothing.
            if operation.op.answers() && view.is_full(limits) {
                view.answered(None);
                continue;
            }
            let key_groups = read_key_groups(operation, *key_group, all);
            let context = view.context(descriptor, key_groups, upkeep, &cursors);
            let at = address(operation, *key_group);
            if descriptor.ttl.is_some() {
                clean_ups.touched(operation.state, descriptor);
            }
            let mut live = Live::new(marks, inner, descriptor.kind);
            let answer = op::execute(live.backend(), at, &operation.op, &context, &mut log);
            match answer.map_err(|fault| error::inner(&fault))? {
                Some(answer) => view.answered(Some(answer)),
                None => view.done += 1,
            }
        }
        // Ordering: the clean-up comes after the operations and before the batch ends. Its removals are changes of this
        // batch, and cannot hide an entry from an operation of it.
        let incremental = upkeep.map(|_| clean_ups.upkeep());
        let pass = Pass { states, key_groups: all, time: self.time, upkeep: incremental.as_ref() };
        clean_ups.settle(marks, inner, &pass, &mut log).map_err(|fault| error::inner(&fault))?;
        inner.finish_batch().map_err(|fault| error::inner(&fault))?;
        self.env.metrics.ttl_removed(upkeep, incremental.as_ref());
        Ok(view.answers)
    }
}
