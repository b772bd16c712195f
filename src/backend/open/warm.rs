//! Warm restart: a new owner begins with the state that the ended owner left in memory or on local disk.

use std::sync::Arc;

use super::restored::{Contents, LoadError, restore};
use crate::{
    backend::{condition::Condition, core::Core, environment::Environment, error, handle::Backend, table},
    claim::{claimed::Claim, states::States},
    error::Reason,
    materialization::reusable::Reusable,
    object::Path,
    restore::{KeptImages, Progress, RestoreError, Restored},
    state::{StateBackend, StateError},
    types::{InnerBackend, Sqn},
};

/// The state that an owner begins with.
pub(super) struct Begun {
    pub(super) contents: Contents,
    /// Images to keep if the next owner may need some.
    pub(super) images: Option<KeptImages>,
    /// Number of changes that were rolled back, if the state was made that way.
    pub(super) rolled_back: Option<u64>,
    /// Whether none of the state was read from the store.
    pub(super) is_warm: bool,
    /// Why the start is not warm; empty if it is, or if there was no older owner.
    pub(super) not_warm: String,
}

/// Whether warm restarts of such a backend need records of overwritten entries.
pub(super) fn needs_marks(env: &Environment, inner: InnerBackend) -> bool {
    env.options.warm && inner == InnerBackend::HashMap
}

/// Makes the state that `claim` begins with, which has `states`. Uses the state of `predecessor`, which has ended, as
/// far as possible.
pub(super) async fn begin(
    env: &Environment,
    claim: &Claim,
    predecessor: Option<&Backend>,
    states: &States,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Begun, LoadError> {
    let on_disk = claim.manifest.shape.inner == InnerBackend::RocksDb;
    let images = (on_disk && env.options.warm).then(KeptImages::default);
    let mut not_warm = String::new();
    if let Some(predecessor) = predecessor {
        let begun = match (on_disk, &images) {
            (true, Some(_)) => from_disk(env, claim, predecessor, states, progress).await?,
            (true, None) => Err(OFF.to_owned()),
            (false, _) => from_memory(env, claim, predecessor, states),
        };
        match begun {
            Ok(begun) => return Ok(begun),
            Err(why) => not_warm = why,
        }
        tracing::info!(backend = %predecessor.id(), why = not_warm, "what is at hand is of no use: restoring from the store");
    }
    let contents = restore(env, claim, states, images.as_ref(), progress).await?;
    Ok(Begun { contents, images, rolled_back: None, is_warm: false, not_warm })
}

/// The reason if nothing was kept.
const OFF: &str = "`execution.state-recovery.warm` is off";

/// Restores from local images and copies, and reads the rest from the store; or says why there is nothing to restore
/// from.
async fn from_disk(
    env: &Environment,
    claim: &Claim,
    predecessor: &Backend,
    states: &States,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Result<Begun, String>, LoadError> {
    // The core is let go before the restore, which may take long.
    let images = {
        let mut core = predecessor.shared.core();
        if !is_fenced(&core) {
            return Ok(Err(ENDED.to_owned()));
        }
        if core.owner.manifest().shape.inner != claim.manifest.shape.inner {
            return Ok(Err(OTHER_SHAPE.to_owned()));
        }
        core.kept.take()
    };
    let Some(images) = images else { return Ok(Err("the owner before kept nothing on local disk".to_owned())) };
    let (store, recall) = env.store.recalling();
    let recalling = Environment { store, ..env.clone() };
    let restored = restore(&recalling, claim, states, Some(&images), progress).await;
    let contents = match restored {
        Ok(contents) => contents,
        Err(LoadError::Restore(RestoreError::Stopped)) => return Err(LoadError::Restore(RestoreError::Stopped)),
        // A restore without local files will show whether the store fails, too.
        Err(LoadError::Restore(error)) => return Ok(Err(format!("restoring from local disk: {error}"))),
        Err(refused) => return Err(refused),
    };
    let not_warm = recall.missing().map(|(reads, first)| not_local(reads, &first)).unwrap_or_default();
    Ok(Ok(Begun { contents, images: Some(images), rolled_back: None, is_warm: not_warm.is_empty(), not_warm }))
}

fn not_local(reads: u64, first: &Path) -> String {
    format!(
        "{reads} reads of what is not on local disk, or not any more, went to the store; the first was of `{first}`"
    )
}

/// Takes the state of `predecessor`, rolled back, with `states`; or says why that is not possible.
fn from_memory(env: &Environment, claim: &Claim, predecessor: &Backend, states: &States) -> Result<Begun, String> {
    let taken = take_over(env, &mut predecessor.shared.core(), claim)?;
    let epoch = claim.manifest.owner().epoch.number;
    // The rollback is stamped with the first sqn of the new epoch, which is above every sqn of the old ones. So no
    // piece of an older materialization counts as unchanged, where the rollback has changed it.
    let rolled_back = roll_back(taken, states, Sqn::first_of(epoch));
    let (contents, changes) = rolled_back.map_err(|fault| format!("rolling back: {}", error::inner(&fault)))?;
    let (rolled_back, not_warm) = (Some(changes), String::new());
    Ok(Begun { contents, images: None, rolled_back, is_warm: true, not_warm })
}

const ENDED: &str = "the owner before had ended";

const OTHER_SHAPE: &str = "the backend is opened with another shape than before";

fn is_fenced(core: &Core) -> bool {
    matches!(&core.condition, Condition::Ended(error) if error.reason == Reason::Fenced)
}

/// The parts of an old owner that a new one takes over.
struct Taken {
    table: table::Taken,
    previous: Option<Arc<Reusable>>,
}

/// Takes the parts that the new owner needs out of the old owner's core.
fn take_over(env: &Environment, core: &mut Core, claim: &Claim) -> Result<Taken, String> {
    if !env.options.warm {
        return Err(OFF.to_owned());
    }
    // An owner that ended otherwise has dropped its state, or a fault may be in it.
    if !is_fenced(core) {
        return Err(ENDED.to_owned());
    }
    let [part] = claim.parts.as_slice() else { return Err("the checkpoint has several parts".to_owned()) };
    if !claim.is_own || core.owner.manifest().shape != claim.manifest.shape {
        return Err(OTHER_SHAPE.to_owned());
    }
    let known = |(id, registration)| claim.manifest.states.get(&id) == Some(registration);
    // The new owner takes an id that no manifest names for another state. The inner backend would have two states under
    // one id.
    if !core.table.states().registrations().all(known) {
        return Err("the owner before had registered states that none of its manifests names".to_owned());
    }
    // Ordering: everything that may refuse comes before the table is emptied.
    let table = core.table.take(&part.checkpoint)?;
    // Parts are reused only of the base that the new manifest names. Those of another materialization may be deleted by
    // now.
    let base = claim.manifest.owner().contents.base;
    let previous = core.bases.take_previous().filter(|previous| Some(previous.uuid()) == base);
    Ok(Taken { table, previous })
}

/// Rolls the contents back to the mark; the changes that do so are stamped with `stamp`.
fn roll_back(taken: Taken, states: &States, stamp: Sqn) -> Result<(Contents, u64), StateError> {
    let Taken { table: table::Taken { mut inner, mut marks, mark, log_changes, time, last_state }, previous } = taken;
    // The changes of the rollback are counted and not logged: the new epoch begins with the state of the checkpoint,
    // which it names.
    let mut changes = 0;
    inner.set_stamp(stamp.0);
    let is_back = marks.undo.roll_back(&mut inner, mark, &mut |_| changes += 1)?;
    assert!(is_back, "the mark was open");
    inner.finish_batch()?;
    // States that owners on other daemons registered meanwhile.
    for (id, descriptor) in states.data().filter(|(id, _)| id.0 > last_state) {
        inner.register(id, descriptor);
    }
    let mut restored = Restored::default();
    (restored.log_changes, restored.time) = (log_changes, time);
    Ok((Contents { inner, restored, previous }, changes))
}
