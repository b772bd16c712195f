//! Assembles the core of an owner from its parts.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::{restored::Loaded, warm};
use crate::{
    backend::{
        bases::{Bases, snapshots::Snapshots},
        condition::Condition,
        core::{Core, Origin},
        credit::Account,
        environment::Environment,
        holds::Holds,
        kept::Kept,
        lingering::Lingering,
        seat::Seat,
        shared::Shared,
        signals::Signals,
        table::{Filled, Table},
        uploading::Uploading,
        waiters::Waiters,
        worker::{snapshot, upload},
    },
    changelog::block::ChangeSetBuilder,
    checkpoint::owner::{Beginning, Options, Owner},
    claim::{claimed::Claim, spec::OpenSpec},
    state::undo::Undo,
};

/// The facts from which an owner is assembled.
pub(super) struct Assembly {
    /// The manifest that opened the epoch, and the state that it begins with.
    pub(super) claim: Claim,
    /// The state, loaded.
    pub(super) loaded: Loaded,
    /// Credit for its changes.
    pub(super) account: Account,
    /// Whether it must not need the restored checkpoint.
    pub(super) no_claim: bool,
}

/// Assembles the core of an owner, which comes back to `shared` from its uploads and snapshots.
pub(super) fn assemble(env: &Environment, spec: &OpenSpec, assembly: Assembly, shared: &Weak<Shared>) -> Core {
    let Assembly { claim: Claim { manifest, crc, skipped, .. }, loaded, account, no_claim } = assembly;
    let Loaded { inner, states, parts, restored, previous, images, .. } = loaded;
    let (id, options, shape) = (&spec.id, &env.options, manifest.shape);
    let (signals, epoch) = (Arc::new(Signals::default()), manifest.owner().epoch);
    let blocks =
        ChangeSetBuilder::new(shape.key_groups.parts(shape.max_parallelism).collect(), options.block_split_threshold);
    let keeps_marks = options.queries || warm::needs_marks(env, shape.inner);
    // Without a log, replays do not grow any more.
    let log_changes = if shape.changelog { restored.log_changes } else { 0 };
    let filled = Filled {
        inner,
        states,
        // A base may lack entries that were expired at the cut, and this daemon's clock may be behind; so time must not
        // go back.
        time: parts.iter().map(|part| part.time).max().unwrap_or(0).max(restored.time),
        restored: parts.first().map(|part| part.checkpoint),
        log_changes,
        undo: keeps_marks.then(|| undo(env)),
    };
    let retention = spec.retention.unwrap_or(options.retention);
    let beginning = Beginning { manifest, crc, retention, is_claimed: !no_claim, blocks };
    // Without a claim, its materializations must not name files of the restored checkpoint.
    let previous = previous.filter(|_| !no_claim);
    let snapshots = Snapshots::new(snapshot::uploads_of(shared.clone(), env.tasks.clone()));
    let largest = options.limits.max_message_bytes as u64;
    let core = Core {
        env: env.clone(),
        id: id.clone(),
        signals,
        condition: Condition::Serving,
        owner: Owner::new(beginning, Options::new(options.notice_delay), Instant::now().into_std()),
        table: Table::new(env, id, shape, epoch, filled),
        seat: Seat::new(id, &env.metrics, account, largest),
        bases: Bases::new(env, id, previous, log_changes, snapshots),
        waiters: Waiters::default(),
        kept: Kept::new(images),
        uploading: Uploading::new(env.uploads.of_job(&id.job), upload::outcomes_for(shared.clone())),
        coordinated: None,
        holds: Holds::default(),
        lingering: Lingering::new(Instant::now()),
        origin: Origin { restored: parts, skipped },
    };
    core.want_copies();
    core
}

/// The undo log that completed-checkpoint queries and warm restarts read.
fn undo(env: &Environment) -> Undo {
    let limit = env.options.undo_memory;
    if env.options.queries { Undo::new(limit) } else { Undo::lazy(limit) }
}
