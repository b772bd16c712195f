//! Registration of states, and the moves of entries that it demands, between the batches of clients.

use std::sync::Arc;

use tokio::sync::{futures::OwnedNotified, oneshot};

use super::{
    apply::roll_over_if_long,
    core::Core,
    handle::{Backend, persist},
    outbox::Outbox,
    table::moving::Cursor,
    waiters::PersistWaiter,
};
use crate::{
    claim::states::{Move, Plan, RegisteredState, Rewrite},
    error::Error,
    types::{Epoch, SchemaChange, StateDescriptor, StateId},
};

/// The next step of a mover.
enum Next {
    /// Move another batch.
    Batch,
    /// End: all entries are moved.
    Done,
    /// Wait until the logged changes are durable.
    Durable(oneshot::Receiver<Result<u64, Error>>),
    /// Wait until a snapshot has ended.
    Copied(OwnedNotified),
    /// Wait until the outbox is woken.
    Woken,
}

impl Backend {
    /// Registers states, all or none, and moves their entries if a change of descriptor demands it; returns the states
    /// in order. Cancel-safe: after a drop or a crash, registering again goes on with the moves.
    ///
    /// # Errors
    /// If a descriptor is malformed, or differs from the registered one without a declared change: nothing was changed
    /// then. Or if entries could not be moved.
    pub async fn register_states(
        &self,
        epoch: Epoch,
        wanted: &[StateDescriptor],
        changes: &[SchemaChange],
    ) -> Result<Vec<RegisteredState>, Error> {
        loop {
            let (plan, registered) = {
                let _turn = self.shared.batches.enter().await;
                let mut core = self.shared.core();
                core.check_owner(epoch)?;
                register(&mut core, wanted, changes)?
            };
            // After the moves the same plan is made again. It finds the old data empty, takes it out of force, and
            // demands no more moves.
            if plan.moves.is_empty() {
                return Ok(registered);
            }
            for of in plan.moves {
                self.move_all(epoch, of).await?;
            }
        }
    }

    /// Moves all entries, beginning at the first key group.
    async fn move_all(&self, epoch: Epoch, of: Move) -> Result<(), Error> {
        let outbox = Arc::new(Outbox::default());
        let groups = self.shared.core().table.groups_of(of.from);
        let mut cursor = Cursor::first_of(groups);
        tracing::info!(backend = %self.id(), from = of.from.0, to = of.to.0, rewrite = ?of.rewrite, "moving entries");
        loop {
            let next = {
                // The lane keeps this from coming between the slices of a batch, whose reads see one moment.
                let _turn = self.shared.batches.enter().await;
                let mut core = self.shared.core();
                core.check_owner(epoch)?;
                move_next(&mut core, of, &mut cursor, &outbox)?
            };
            match next {
                Next::Done => return Ok(()),
                Next::Batch => tokio::task::yield_now().await,
                Next::Copied(copied) => copied.await,
                Next::Woken => outbox.changed().await,
                // If the wait failed, the next look at the core says why.
                Next::Durable(durable) => drop(durable.await),
            }
        }
    }

    /// Registers states that have no entries to move, as [`register_states`](Self::register_states) does; returns their
    /// ids in order. If entries have to move, the ids are valid only after `register_states` was called for them.
    ///
    /// # Errors
    /// If a descriptor is malformed, or differs from the registered one.
    pub fn register(&self, epoch: Epoch, wanted: &[StateDescriptor]) -> Result<Vec<StateId>, Error> {
        let mut core = self.shared.core();
        core.check_owner(epoch)?;
        let (_, registered) = register(&mut core, wanted, &[])?;
        Ok(registered.into_iter().map(|state| state.id).collect())
    }
}

/// Plans the registration of `wanted`, and carries out everything except the moves.
///
/// # Errors
/// As [`Backend::register_states`]; nothing was changed.
fn register(
    core: &mut Core,
    wanted: &[StateDescriptor],
    changes: &[SchemaChange],
) -> Result<(Plan, Vec<RegisteredState>), Error> {
    let writable = core.check_writable();
    core.table.register(wanted, changes, writable)
}

/// Moves one batch, or returns the condition to wait for first.
fn move_next(core: &mut Core, of: Move, cursor: &mut Cursor, outbox: &Arc<Outbox>) -> Result<Next, Error> {
    core.check_writable()?;
    // Ordering: every reason to wait or to refuse comes before the move. The bytes of a move are held whether or not
    // there is credit for them, so nothing else bounds them.
    // Only stamps make entries longer. All other moves remove as much as they add.
    if of.rewrite == Rewrite::Stamp {
        core.table.check_state_memory()?;
    }
    if core.pushes_back() {
        core.bases.push_back.wait(outbox);
        return Ok(Next::Woken);
    }
    // The bytes that every backend is guaranteed to hold.
    if core.seat.holds_most() {
        if core.owner.is_unlogged() {
            return Ok(Next::Copied(core.bases.snapshots.one_over()));
        }
        let (reply, durable) = oneshot::channel();
        persist(core, PersistWaiter::Call(reply))?;
        return Ok(Next::Durable(durable));
    }
    move_batch(core, of, cursor)?;
    Ok(if cursor.is_at_end() { Next::Done } else { Next::Batch })
}

/// Moves one batch. It has no number: it becomes durable with the next batch.
fn move_batch(core: &mut Core, of: Move, cursor: &mut Cursor) -> Result<(), Error> {
    core.table.pass_time();
    let moved = core.logged(|table, log| table.move_entries(of, cursor, log));
    let ((), appended) = moved.map_err(|fault| core.fail_safe(fault))?;
    // Held without credit, and released like other changes when they are durable.
    core.seat.hold(appended);
    core.env.metrics.batch_applied(0, appended);
    core.table.count_bytes();
    core.count_copies();
    roll_over_if_long(core);
    Ok(())
}
