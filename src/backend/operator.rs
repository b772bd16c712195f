//! Logs the operator state that a new owner got from the subtasks before it, before the owner serves.

use super::{apply::Appender, core::Core, error};
use crate::{
    state::{
        Change, StateBackend as _,
        op::{self, Op, OpContext, scan::Reach},
        operator::{self, Contents},
    },
    types::StateId,
};

impl Core {
    /// Replaces the contents of these states by changes with a sequence number of their own, before the first batch. So
    /// they are part of every cut of this epoch, and of the restored checkpoint as queries read it. Takes no batch
    /// number.
    ///
    /// # Errors
    /// The text of the inner backend's error.
    pub(super) fn begin_with(&mut self, shares: &[(StateId, Contents)]) -> Result<(), String> {
        if shares.is_empty() {
            return Ok(());
        }
        assert_eq!(self.next_batch, 0, "an owner begins before its first batch");
        let bytes_before = self.owner.writer().active_bytes();
        self.begin_logging();
        for (id, share) in shares {
            self.replace(*id, share)?;
        }
        self.inner.finish_batch().map_err(|fault| error::inner(&fault))?;
        let appended = self.owner.end_batch(bytes_before);
        // These bytes are held even if there is no credit for them; the next batch waits until they are durable.
        self.account.hold(appended);
        self.count_appended(appended);
        self.close_way_back("operator state of other subtasks was merged");
        Ok(())
    }

    fn replace(&mut self, id: StateId, share: &Contents) -> Result<(), String> {
        let Self { inner, states, owner, log_changes, env, time, .. } = self;
        let Some(descriptor) = states.get(id) else { return Ok(()) };
        let limits = &env.options.limits;
        let context = OpContext {
            descriptor,
            max_value_bytes: limits.max_value_bytes,
            page_bytes: 0,
            key_groups: owner.manifest().shape.key_groups,
            scope: 0,
            time: *time,
            upkeep: None,
            reach: Reach::default(),
            cursors: None,
        };
        let mut appender = Appender { log: owner.log(), log_changes };
        let mut log = |change: &Change<'_>| appender.append(change);
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
