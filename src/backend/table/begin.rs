//! Operator state that a new owner got from the subtasks before it.

use super::{Table, log::Log};
use crate::{
    backend::error,
    state::{
        Change, StateBackend as _,
        op::{self, Op, OpContext, scan::Reach},
        operator::{self, Contents},
    },
    types::StateId,
};

impl Table {
    /// Replaces the contents of these states.
    ///
    /// # Errors
    /// A fault of the inner backend, as text.
    pub(crate) fn replace_all(&mut self, shares: &[(StateId, Contents)], log: &mut Log<'_>) -> Result<(), String> {
        for (id, share) in shares {
            self.replace(*id, share, log)?;
        }
        self.inner.finish_batch().map_err(|fault| error::inner(&fault))
    }

    fn replace(&mut self, id: StateId, share: &Contents, log: &mut Log<'_>) -> Result<(), String> {
        let Self { inner, states, env, time, .. } = self;
        // A state that is not in force has no operations, so none here either.
        let Some(descriptor) = states.get(id) else { return Ok(()) };
        let limits = &env.options.limits;
        let context = OpContext {
            descriptor,
            max_value_bytes: limits.max_value_bytes,
            // Nothing is read here, so pages, tokens and positions in lists are of no use.
            page_bytes: 0,
            key_groups: self.shape.key_groups,
            scope: 0,
            time: *time,
            upkeep: None,
            reach: Reach::default(),
            cursors: None,
        };
        let mut log = |change: &Change<'_>| log.append(change);
        let at = operator::address(id);
        let mut run = |op: Op<'_>| {
            op::execute(inner, at, &op, &context, &mut log).map(|_| ()).map_err(|fault| error::inner(&fault))
        };
        match share {
            Contents::Elements(elements) => run(Op::ListUpdate(elements)),
            Contents::Entries(entries) => {
                run(Op::Clear)?;
                entries.iter().try_for_each(|(map_key, value)| run(Op::MapPut { map_key, value }))
            }
        }
    }
}
