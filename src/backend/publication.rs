//! Publication: when a manifest is wanted, and who is answered once it is durable.

use tokio::time::Instant;

use super::{
    core::Core,
    outbox::SessionEvent,
    waiters::{CheckpointReply, Flight},
    words::CompletedCheckpoint,
};
use crate::checkpoint::{
    handle::CheckpointHandle,
    index::NewPage,
    manifest::CheckpointRecord,
    owner::{Outside, Publication, Published},
};

/// Whether the backend has ended and no last manifest is under way.
pub(super) fn has_given_up(core: &Core) -> bool {
    core.has_ended() && !core.owner.is_sealed()
}

/// When something has to be done without a call: a timeout, or a manifest for notices alone.
pub(super) fn next_deadline(core: &Core) -> Option<Instant> {
    let notices = core.owner.notices_due().map(Instant::from_std);
    core.waiters.next_expiry().into_iter().chain(notices).min()
}

/// The manifest to write now, if one is wanted.
pub(super) fn next_publication(core: &mut Core, now: Instant) -> Option<Publication> {
    if core.has_ended() {
        return None;
    }
    core.owner.note_notices(now.into_std());
    // Ordering 1: the numbers of segments and files are read before the manifest begins. A segment that finishes after
    // that has a number that this manifest does not rule out, so the next one may name it.
    let outside = outside(core);
    if !core.owner.is_due(now.into_std(), outside, core.waiters.want_manifest()) {
        return None;
    }
    // Ordering 2: the callers so far join this manifest in the same hold of the lock in which its contents are taken. A
    // caller that comes later may have made a change that is not in it, and waits for the next one.
    core.waiters.publishing();
    let states = core.table.states().registrations().map(|(id, registration)| (id, registration.clone()));
    let random = core.env.random.clone();
    let publication = core.owner.begin(outside, states, || random.uuid());
    let now = Instant::now();
    for id in &publication.publishes {
        core.waiters.persisted(*id, now);
    }
    if publication.lets_go {
        core.want_copies();
    }
    Some(publication)
}

/// The numbers that segments and files have reached.
fn outside(core: &Core) -> Outside {
    Outside { segments_to: core.uploading.low_water(), next_file: core.bases.next_file() }
}

/// Pages to write now, although no manifest is wanted.
pub(super) fn next_pages(core: &mut Core) -> Vec<NewPage> {
    if core.has_ended() {
        return vec![];
    }
    let random = core.env.random.clone();
    core.owner.next_pages(|| random.uuid())
}

/// Notes that the manifest that was begun is durable, and answers everything that waited for it.
pub(super) fn published(core: &mut Core, crc: u32) {
    let Published { checkpoints, released_bytes } = core.owner.published(crc, Instant::now().into_std());
    core.release_memory(released_bytes);
    // Ordering 1: reports and answers only now. A caller that heard of a checkpoint before its manifest is durable
    // could restore it after a crash, and find nothing.
    for record in checkpoints {
        if let Some(coordinated) = &mut core.coordinated {
            coordinated.owe_report(&mut core.owner, &record);
        }
        let Some(flight) = core.waiters.land(record.identity.id) else { continue };
        let completed = completed(core, &record, Some(&flight));
        core.env.metrics.checkpoint_completed(&core.id, core.env.clock.now_ms(), &completed);
        match flight.reply {
            CheckpointReply::Session(_) => core.seat.tell(SessionEvent::CheckpointCompleted(Box::new(completed))),
            CheckpointReply::Call(reply) => _ = reply.send(Ok(completed)),
        }
    }
    if !core.has_ended() {
        let retained = core.owner.ledger().retained();
        let full_bytes = retained.last().map_or(0, |newest| core.owner.manifest().stored_bytes(newest));
        core.env.metrics.published(&core.id, retained.len(), full_bytes);
    }
    core.waiters.published();
    // Ordering 2: acknowledgements after the answers. The batches of an inlined tail are persisted by this manifest,
    // and no upload comes back to tell so.
    if released_bytes > 0 {
        core.on_persisted();
    }
}

/// A checkpoint that is complete, as its caller is told. `flight` has the times of its way.
pub(super) fn completed(core: &Core, record: &CheckpointRecord, flight: Option<&Flight>) -> CompletedCheckpoint {
    let handle = CheckpointHandle { backend: core.id.clone(), checkpoint: record.identity };
    let now = Instant::now();
    let (triggered, cut, persisted) =
        flight.map_or((now, now, now), |flight| (flight.triggered, flight.cut, flight.persisted.unwrap_or(now)));
    CompletedCheckpoint {
        identity: record.identity,
        handle: handle.encode(),
        applied_to: record.applied_to,
        incremental_bytes: record.incremental_bytes,
        full_bytes: core.owner.manifest().stored_bytes(record),
        changes: record.changes,
        sync: cut - triggered,
        persist: persisted - cut,
        publish: now - persisted,
        total: now - triggered,
        self_sustained_since: core.owner.sustained_since(),
    }
}
