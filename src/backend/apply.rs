//! Batches, each applied as a whole or not at all.

use super::{
    core::Core,
    table::{log::Log, slices::Ahead},
    words::{BatchResult, Operation},
};
use crate::{
    error::Error,
    state::{op::Answer, operator::Contents},
    types::StateId,
};

/// Applies the next batch, without the operations that were read `ahead`. Returns also how many bytes were logged. The
/// caller has to account for the credit.
///
/// # Errors
/// Nothing was applied, except with [`Reason::Failsafe`](crate::error::Reason::Failsafe).
pub(super) fn apply_batch(
    core: &mut Core,
    operations: &[Operation<'_>],
    ahead: Ahead,
) -> Result<(BatchResult, u64), Error> {
    // Ordering 1: everything that may refuse the batch. The inner backend has no way back from a part of a batch, so
    // after the first operation only failsafe would be left.
    let effects = core.table.check_batch(operations)?;
    if effects.writes {
        core.check_writable()?;
    }
    // Ordering 2: the clock, before the log opens a batch. The batch is logged with this time, and a replay judges by
    // it which entries have expired.
    core.table.pass_time();
    // Reads go on in failsafe, but without upkeep, since upkeep writes.
    let upkeep = (effects.reads_change && core.check_writable().is_ok()).then(|| core.table.upkeep());
    // Upkeep removes expired entries, and each removal is a change like any other. So a batch of reads that may do
    // upkeep opens a batch of the log, too.
    let executed = if effects.writes || upkeep.is_some() {
        core.logged(|table, log| table.execute(operations, upkeep.as_ref(), ahead, log))
    } else {
        read(core, operations, ahead).map(|answers| (answers, 0))
    };
    let (answers, appended) = executed.map_err(|fault| core.fail_safe(fault))?;
    // Ordering 3: the number advances only once all changes are in the table and in the log. After a broken stream a
    // client sends again from this number on. If it advanced earlier, a fault would make the client leave out a batch
    // that was never applied.
    let number = core.seat.next_batch();
    core.seat.applied();
    core.env.metrics.batch_applied(operations.len(), appended);
    core.table.count_bytes();
    core.table.tend_marks();
    core.count_copies();
    // Ordering 4: the block is closed between two batches, so a change set always has whole batches.
    roll_over_if_long(core);
    Ok((BatchResult { number, answers, repeated: false }, appended))
}

/// Rolls over the active block once it has reached its greatest length.
pub(super) fn roll_over_if_long(core: &mut Core) {
    if core.owner.writer().active_bytes() as u64 >= core.env.options.preemptive_persist_threshold {
        core.roll_over(false);
    }
}

/// Answers a batch that only reads. It takes no number.
///
/// # Errors
/// If it is malformed, or with [`Reason::Failsafe`](crate::error::Reason::Failsafe).
pub(super) fn read_batch(core: &mut Core, operations: &[Operation<'_>], ahead: Ahead) -> Result<BatchResult, Error> {
    let effects = core.table.check_batch(operations)?;
    assert!(!effects.writes, "the caller checks that there are only reads");
    core.table.pass_time();
    let answers = read(core, operations, ahead).map_err(|fault| core.fail_safe(fault))?;
    core.env.metrics.batch_applied(operations.len(), 0);
    Ok(BatchResult { number: core.seat.next_batch(), answers, repeated: false })
}

/// Carries out operations that change nothing.
fn read(core: &mut Core, operations: &[Operation<'_>], ahead: Ahead) -> Result<Vec<(u32, Option<Answer>)>, String> {
    let Core { table, owner, bases, .. } = core;
    let mut log = Log { log: owner.log(), log_changes: bases.log_changes_mut() };
    table.execute(operations, None, ahead, &mut log)
}

/// Carries out a slice of the leading reads of `operations`, if the batch is long enough to need slices. A batch that
/// `changes_nothing` takes no number, so its reads clean nothing up. Returns whether others follow.
///
/// # Errors
/// If the inner backend failed.
pub(super) fn read_ahead(
    core: &mut Core,
    operations: &[Operation<'_>],
    ahead: &mut Ahead,
    changes_nothing: bool,
) -> Result<bool, Error> {
    core.table.read_ahead(operations, ahead, changes_nothing).map_err(|fault| core.fail_safe(fault))
}

/// Replaces the contents of these states by changes with a sequence number of their own, before the first batch. So
/// they are part of every cut of this epoch, and of the restored checkpoint as queries read it. Takes no batch number.
///
/// # Errors
/// The text of the inner backend's error.
pub(super) fn begin_with(core: &mut Core, shares: &[(StateId, Contents)]) -> Result<(), String> {
    if shares.is_empty() {
        return Ok(());
    }
    assert_eq!(core.seat.next_batch(), 0, "an owner begins before its first batch");
    let ((), appended) = core.logged(|table, log| table.replace_all(shares, log))?;
    // These bytes are held even if there is no credit for them; the next batch waits until they are durable.
    core.seat.hold(appended);
    core.table.count_bytes();
    core.table.close_way_back("operator state of other subtasks was merged");
    Ok(())
}
