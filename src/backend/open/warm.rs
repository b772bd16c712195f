//! Warm restart: what an owner that ended on this daemon had there, for its successor to begin with.
//!
//! ```text
//!   hashmap   old owner: state + what was overwritten since each mark ──roll back to the mark──▶ new owner
//!   rocksdb   old owner: images of bases, as links; copies of the log ──load, replay───────────▶ new owner
//! ```
//!
//! Which checkpoint, and who owns the backend, is decided as for any other restore, by manifests; this only replaces
//! the read. The new epoch begins with the checkpoint's base and log, up to its cut, and is the only one to use its
//! sqns.
//!
//! # State in memory: rolled back
//!
//! What was overwritten since the newest completed checkpoint is recorded (`marks`), within a budget. Rolled back, the
//! state is exactly the checkpoint's base and log. So nothing is appended for that: changes behind the cut are in no
//! log that the new epoch has, and need no others to undo them.
//!
//! What is published and may be used again is told by stamps ([`crate::materialization`]). What was changed behind the
//! cut keeps its stamp of then, or gets that of the new epoch's first sqn when it is rolled back: both are above those
//! of every piece and image that the checkpoint's base has, so that they are copied anew. Only if the newest
//! materialization is that base, it is used again.
//!
//! Operator state of other subtasks is read and merged after that, as after any restore
//! ([`operator`](super::operator)). An owner that began so is no longer what its checkpoint was: there is no way back
//! to that one, only to later ones.
//!
//! Time goes on from where the old owner was: what was expired for it, its inner backend may have dropped. For the same
//! reason there is no way back behind a change of a time-to-live.
//!
//! # State on local disk: restored from local disk
//!
//! To record what is overwritten, RocksDB would have to read before each write: blind writes, which are what it is good
//! at, would become point reads. Only merges, list appends and clears read already what they change, and a way back
//! needs everything. So nothing is recorded, and there is one mechanism: the images of the newest base, which RocksDB
//! links anyway to upload them, stay linked ([`crate::restore::KeptImages`]), and what was uploaded of the log, of
//! operator state and of indexes is copied to local disk ([`crate::object::copies`]), which costs a writer little
//! processor time, and the disk each change once. The new owner does what any restore does, in an inner backend of its
//! own; but where an image or copy is there, it is used instead of the store. Nothing that the old owner did behind the
//! cut can be in them, and what is not there any more is read from the store, object by object. It is called warm if
//! the store was asked for none.

use std::{mem, sync::Arc};

use super::{Claim, Contents, LoadError, Reusable, States, restore};
use crate::{
    backend::{
        core::{Condition, Core},
        environment::Environment,
        handle::Backend,
        marks::{MarkedCut, Marks},
    },
    error::Reason,
    restore::{KeptImages, Progress, RestoreError, Restored},
    state::{StateBackend, StateError, hashmap::HashMapBackend, operator::WithOperatorState, undo::Mark},
    types::{InnerBackend, Sqn},
};

/// What an owner begins with.
pub(super) struct Begun {
    pub(super) contents: Contents,
    /// Images to keep, if the next owner may need some.
    pub(super) images: Option<KeptImages>,
    /// Changes that were rolled back, if it was made so.
    pub(super) rolled_back: Option<u64>,
    /// Nothing of it was read from the store.
    pub(super) is_warm: bool,
    /// Why not, if there was an owner before.
    pub(super) not_warm: String,
}

/// Whether warm restarts of such a backend need what was overwritten.
pub(super) fn needs_marks(env: &Environment, inner: InnerBackend) -> bool {
    env.options.warm && inner == InnerBackend::HashMap
}

/// Makes what `claim` begins with, in which `states` are known: from what `predecessor` has, which has ended, as far as
/// that can be.
pub(super) async fn begin(
    env: &Environment,
    claim: &Claim,
    (predecessor, states): (Option<&Backend>, &States),
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Begun, LoadError> {
    let on_disk = claim.manifest.shape.inner == InnerBackend::RocksDb;
    let images = (on_disk && env.options.warm).then(KeptImages::default);
    let mut not_warm = String::new();
    if let Some(predecessor) = predecessor {
        let begun = match (on_disk, &images) {
            (true, Some(_)) => from_disk(env, claim, (predecessor, states), progress).await?,
            (true, None) => Err(OFF.to_owned()),
            (false, _) => from_memory(env, claim, predecessor, states),
        };
        match begun {
            Ok(begun) => return Ok(begun),
            Err(why) => not_warm = why,
        }
        tracing::info!(backend = %predecessor.id(), why = not_warm, "what is at hand is of no use: restoring from the store");
    }
    let contents = restore(env, claim, states, (&env.store, images.as_ref()), progress).await?;
    Ok(Begun { contents, images, rolled_back: None, is_warm: false, not_warm })
}

/// Why there is nothing to begin with where nothing was kept.
const OFF: &str = "`execution.state-recovery.warm` is off";

/// Restores from the images and copies that there are, and the rest from the store; or says why there is nothing to
/// restore from.
async fn from_disk(
    env: &Environment,
    claim: &Claim,
    (predecessor, states): (&Backend, &States),
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Result<Begun, String>, LoadError> {
    let images = {
        let mut core = predecessor.shared.core();
        if !is_fenced(&core) {
            return Ok(Err(ENDED.to_owned()));
        }
        if core.manifest.shape.inner != claim.manifest.shape.inner {
            return Ok(Err(OTHER_SHAPE.to_owned()));
        }
        core.images.take()
    };
    let Some(images) = images else { return Ok(Err("the owner before kept nothing on local disk".to_owned())) };
    let (store, recall) = env.store.recalling();
    let restored = restore(env, claim, states, (&store, Some(&images)), progress).await;
    let contents = match restored {
        Ok(contents) => contents,
        Err(LoadError::Restore(RestoreError::Stopped)) => return Err(LoadError::Restore(RestoreError::Stopped)),
        // Whether the store says the same is seen without what is local.
        Err(LoadError::Restore(error)) => return Ok(Err(format!("restoring from local disk: {error}"))),
        Err(refused) => return Err(refused),
    };
    let not_warm = recall.missing().map(not_local).unwrap_or_default();
    Ok(Ok(Begun { contents, images: Some(images), rolled_back: None, is_warm: not_warm.is_empty(), not_warm }))
}

fn not_local((reads, first): (u64, crate::object::Path)) -> String {
    format!(
        "{reads} reads of what is not on local disk, or not any more, went to the store; the first was of `{first}`"
    )
}

/// Takes the state of `predecessor`, rolled back, in which `states` are known; or says why that cannot be.
fn from_memory(env: &Environment, claim: &Claim, predecessor: &Backend, states: &States) -> Result<Begun, String> {
    let taken = take_over(env, &mut predecessor.shared.core(), claim)?;
    let epoch = claim.manifest.owner().epoch.number;
    let rolled_back = roll_back(taken, states, Sqn::first_of(epoch));
    let (contents, changes) =
        rolled_back.map_err(|fault| format!("rolling back: {}", crate::backend::error::inner(&fault)))?;
    let (rolled_back, not_warm) = (Some(changes), String::new());
    Ok(Begun { contents, images: None, rolled_back, is_warm: true, not_warm })
}

const ENDED: &str = "the owner before had ended";

const OTHER_SHAPE: &str = "the backend is opened with another shape than before";

fn is_fenced(core: &Core) -> bool {
    matches!(&core.condition, Condition::Ended(error) if error.reason == Reason::Fenced)
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

/// Takes what the new owner needs out of the core of the old one.
fn take_over(env: &Environment, core: &mut Core, claim: &Claim) -> Result<Taken, String> {
    if !env.options.warm {
        return Err(OFF.to_owned());
    }
    if !is_fenced(core) {
        return Err(ENDED.to_owned());
    }
    let [part] = claim.parts.as_slice() else { return Err("the checkpoint has several parts".to_owned()) };
    if !claim.is_own || core.manifest.shape != claim.manifest.shape {
        return Err(OTHER_SHAPE.to_owned());
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
fn roll_back(taken: Taken, states: &States, stamp: Sqn) -> Result<(Contents, u64), StateError> {
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
    Ok((Contents { inner, restored, previous }, changes))
}
