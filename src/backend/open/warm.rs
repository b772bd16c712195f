//! Warm restart: the state of an owner that ended on this daemon, rolled back to the checkpoint that its successor begins with.
//!
//! ```text
//!   old owner: inner backend + what was overwritten since each mark     manifest that opens the new epoch,
//!                │ ended: applies and publishes nothing more            contents = the checkpoint
//!                ▼                                                                │
//!             roll back to the mark of the checkpoint ──the same contents──▶ new owner
//! ```
//!
//! Which checkpoint, and who owns the backend, is decided as for any other restore, by manifests; this only replaces the read. The new
//! epoch begins with the checkpoint's base and log, up to its cut: exactly what the state is after it was rolled back. So nothing
//! is appended for that: changes behind the cut are in no log that the new epoch has, and need no others to undo them. The sqns
//! of the old epoch behind the cut are not used again, as the new epoch has its own.
//!
//! What is published and may be used again is told by stamps ([`crate::materialization`]). What was changed behind the cut keeps its
//! stamp of then, or gets that of the new epoch's first sqn when it is rolled back: both are above those of every piece and image
//! that the checkpoint's base has, so that they are copied anew. Only if the newest materialization is that base, it is used again.
//!
//! Operator state of other subtasks is read and merged after that, as after any restore ([`operator`](super::operator)). An owner that began
//! so is no longer what its checkpoint was: there is no way back to that one, only to later ones.
//!
//! Time goes on from where the old owner was: what was expired for it, its inner backend may have dropped. For the same reason
//! there is no way back behind a change of a time-to-live.

use std::{mem, sync::Arc};

use super::{Claim, Reusable, States};
use crate::{
    backend::{
        core::{Condition, Core},
        environment::Environment,
        handle::Backend,
        marks::{MarkedCut, Marks},
    },
    error::Reason,
    restore::Restored,
    state::{StateBackend, StateError, hashmap::HashMapBackend, operator::WithOperatorState, undo::Mark},
    tasks,
    types::Sqn,
};

/// State that was rolled back.
pub(super) struct Warm {
    pub(super) inner: WithOperatorState,
    /// As a restore from the store would tell, but for what it reads.
    pub(super) restored: Restored,
    pub(super) previous: Option<Arc<Reusable>>,
    /// Changes that it took.
    pub(super) changes: u64,
}

/// What is taken from an owner.
struct Taken {
    inner: WithOperatorState,
    marks: Marks,
    mark: Mark,
    restored: Restored,
    previous: Option<Arc<Reusable>>,
    /// Its states have lower ids, up to this one.
    last_state: u32,
}

/// Takes the state of `predecessor`, which has ended, rolled back to what `claim` begins with, in which `states` are known; or says
/// why that cannot be.
pub(super) fn take(env: &Environment, predecessor: &Backend, claim: &Claim, states: &States) -> (Option<Warm>, String) {
    let taken = take_over(env, &mut predecessor.shared.core.lock(), claim);
    let rolled_back = taken.and_then(|taken| {
        let epoch = claim.manifest.owner().epoch.number;
        let on_disk = taken.inner.pieces().is_none();
        let roll_back = || roll_back(taken, states, Sqn::first_of(epoch));
        let rolled_back = if on_disk { tasks::blocking(roll_back) } else { roll_back() };
        rolled_back.map_err(|fault| format!("rolling back: {}", crate::backend::error::inner(&fault)))
    });
    match rolled_back {
        Ok(warm) => (Some(warm), String::new()),
        Err(why) => {
            tracing::info!(backend = %predecessor.id(), why, "the state at hand is of no use: restoring from the store");
            (None, why)
        }
    }
}

/// Takes what the new owner needs out of the core of the old one.
fn take_over(env: &Environment, core: &mut Core, claim: &Claim) -> Result<Taken, String> {
    if !env.options.warm {
        return Err("`execution.state-recovery.warm` is off".to_owned());
    }
    let is_fenced = matches!(&core.condition, Condition::Ended(error) if error.reason == Reason::Fenced);
    if !is_fenced {
        return Err("the owner before had ended".to_owned());
    }
    let [part] = claim.parts.as_slice() else { return Err("the checkpoint has several parts".to_owned()) };
    if !claim.is_own || core.manifest.shape != claim.manifest.shape {
        return Err("the backend is opened with another shape than before".to_owned());
    }
    let known = |(id, registration)| claim.manifest.states.get(&id) == Some(registration);
    if !core.states.registrations().all(known) {
        return Err("the owner before had registered states that none of its manifests names".to_owned());
    }
    let way_back = core.marks.as_ref().map(|marks| marks.way_back(&part.checkpoint));
    let (mark, MarkedCut { log_changes, .. }) = way_back.ok_or("nothing was kept of what changed")??;
    let marks = core.take_marks().ok_or("nothing was kept of what changed")?;
    // Ended, it answers nothing from this any more.
    let emptied = HashMapBackend::new(claim.manifest.shape.key_groups);
    let base = claim.manifest.owner().contents.base;
    let mut restored = Restored::default();
    (restored.log_changes, restored.time) = (log_changes, core.time);
    Ok(Taken {
        inner: mem::replace(&mut core.inner, WithOperatorState::new(Box::new(emptied))),
        marks,
        mark,
        restored,
        previous: core.previous.take().filter(|previous| Some(previous.uuid()) == base),
        last_state: core.states.last_id(),
    })
}

/// Brings the contents at the mark back; changes are stamped with `stamp`.
fn roll_back(taken: Taken, states: &States, stamp: Sqn) -> Result<Warm, StateError> {
    let Taken { mut inner, mut marks, mark, restored, previous, last_state } = taken;
    let mut changes = 0;
    inner.set_stamp(stamp.0);
    let is_back = marks.undo.roll_back(&mut inner, mark, &mut |_| changes += 1)?;
    assert!(is_back, "the mark was open");
    inner.finish_batch()?;
    // Of owners on other daemons, meanwhile.
    for (id, descriptor) in states.data().filter(|(id, _)| id.0 > last_state) {
        inner.register(id, descriptor);
    }
    Ok(Warm { inner, restored, previous, changes })
}
