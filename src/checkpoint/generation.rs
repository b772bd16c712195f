//! Generations: the subtasks of an operator that ran together with one parallelism.
//!
//! A rescale begins a new generation. The chain of a subtask whose number still exists goes on with the new generation;
//! the other chains *vanish*. The new generation is restored from their checkpoints, too, and its imports name their
//! objects.
//!
//! # Fences
//!
//! A backend that restores from the chain of another subtask first appends a manifest to that chain, which opens an
//! epoch under its own attempt: a **fence**. It keeps all checkpoints and begins nothing. So the subtask that owns the
//! chain can open it as usual, before or after the fence: it finds the same attempt, or the fence of a peer.
//!
//! # Peers
//!
//! Engines may count attempts by subtask, so that the subtasks of one start have different attempts. Their owners then
//! carry a common group, and are *peers*. Peers neither fence nor outdate each other in chains that they only read,
//! whatever their attempts:
//!
//! ```text
//!   2 -> 4 subtasks, attempts 5 5 4 4       2 fences chain 1 by attempt 4, then 1 opens it by 5      as without peers
//!                                           1 opens chain 1 by 5, then 2 reads it, and fences nobody  (4 is no zombie)
//!   attempts 4 4 5 5                        2 fences chain 1 by attempt 5, then 1 opens it by 4      (5 only read)
//! ```
//!
//! In its own chain a peer with a lower attempt is refused, because the higher attempt has replaced it there. The parts
//! that peers made are one checkpoint, whatever their attempts ([`is_same`]).
//!
//! # Retirement
//!
//! The chain of a vanished subtask is *retired* once no surviving chain retains any of its checkpoints (with the same
//! attempt and id, or of peers). Then none of them can be a restore point of the job again, since the survivors never
//! get a dropped one back. Retiring adds a fence without checkpoints, so the chain names nothing; imports still name
//! their objects. Checkpoints of another run of the job than the survivors' stay: they are not counted, and the maker
//! of that run has to discard them.
//!
//! A chain is retired only if its subtask does not exist in the newest generation that served, its own newest attempt
//! is not above that of this generation (a restore from the chain would have raised it), and none of its checkpoints is
//! pinned. An opener that comes meanwhile conflicts with the retirement in the chain; then one of the two looks again.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    chain::Head,
    job::JobCheckpoint,
    manifest::{CheckpointRecord, Contents, EpochRecord, Manifest},
};
use crate::types::{Attempt, BackendId, CheckpointIdentity, Epoch, Name, Sqn};

/// The parts of `checkpoint` that the chains of `heads` retain for `operator`, by subtask; the newest of each. Pure.
pub fn parts<'a>(
    heads: &'a [Manifest],
    operator: &Name,
    checkpoint: JobCheckpoint,
) -> Vec<(&'a Manifest, &'a CheckpointRecord)> {
    // By (attempt, id) and not by epoch, which each chain counts for itself.
    let same = |record: &&CheckpointRecord| JobCheckpoint::of(record) == checkpoint;
    // From the end: two owners of one attempt may have used the id, and the newer one's checkpoint counts.
    let part = |head: &'a Manifest| Some((head, head.checkpoints.iter().rev().find(same)?));
    let mut parts: Vec<_> = heads.iter().filter(|head| head.backend.operator == *operator).filter_map(part).collect();
    parts.sort_by_key(|(head, _)| head.backend.subtask);
    parts
}

/// Whether `parts` of one checkpoint, by subtask, include all subtasks of their generation. Pure.
#[must_use]
pub fn is_whole(parts: &[(&Manifest, &CheckpointRecord)]) -> bool {
    let whole = parts.first().map_or(0, |(head, record)| head.span(record).parallelism);
    let fits = |(part, subtask): (&(&Manifest, &CheckpointRecord), u32)| {
        let (head, record) = part;
        head.backend.subtask == subtask && head.span(record).parallelism == whole
    };
    // Parts are sorted by subtask, so the comparison with 0, 1, 2, … finds gaps and parts of another parallelism alike.
    whole > 0 && parts.len() == whole as usize && parts.iter().zip(0..).all(fits)
}

/// Whether both records are parts of one checkpoint: made under one attempt, or by peers.
#[must_use]
pub fn is_same(one: &Manifest, record: &CheckpointRecord, other: &Manifest, counterpart: &CheckpointRecord) -> bool {
    let by_peers = || {
        let peers = one.peers(record);
        !peers.is_empty() && peers == other.peers(counterpart)
    };
    record.identity.id == counterpart.identity.id && (record.attempt == counterpart.attempt || by_peers())
}

/// The manifest after `head` that outdates its owner for `attempt`, one of `peers`, and keeps everything else. `None`
/// if no epoch number is left. Pure.
#[must_use]
pub fn fence(head: &Head, attempt: Attempt, peers: &Bytes, owner: Uuid) -> Option<Manifest> {
    let before = head.manifest.owner();
    let number = before.epoch.number + 1;
    // Epoch numbers are the upper bits of sequence numbers. Beyond the last one two epochs would share sequence
    // numbers.
    if number > Sqn::MAX_EPOCH {
        return None;
    }
    let record = EpochRecord {
        // With a new UUID as owner, two fences made at once have different bytes, and one of them learns that it lost.
        epoch: Epoch { number, owner },
        attempt,
        restored: None,
        contents: Contents::default(),
        span: before.span,
        peers: peers.clone(),
        job_run: Bytes::new(),
        is_fence: true,
        // The fence opens an epoch of this attempt and publishes nothing. So it repeats what the attempt has published
        // before, whose own record may be pruned. Without it, the chain would look as if its newest manifests were
        // lost.
        published_to: head.manifest.published_to(attempt).unwrap_or(Some(0)),
    };
    let mut manifest = Manifest {
        number: head.manifest.number + 1,
        previous_crc: head.crc,
        opens_epoch: true,
        // The nil instance: a fence will never name a segment, snapshot file or page.
        instance: Uuid::nil(),
        segment_low_water: u64::MAX,
        snapshot_low_water: u64::MAX,
        page_low_water: u64::MAX,
        ..head.manifest.clone()
    };
    manifest.epochs.push(record);
    // A fence opens an epoch, so its manifest stays for ever, like any opening one: its number is the next of the
    // fenced owner.
    manifest.fences.open(manifest.number);
    manifest.prune(&[]);
    Some(manifest)
}

/// The manifest after `head` that outdates its owner for `attempt`, and lets go of the checkpoints `going`. `None` if
/// no epoch number is left. Pure.
#[must_use]
pub fn retirement(
    head: &Head,
    attempt: Attempt,
    owner: Uuid,
    going: impl Fn(&CheckpointRecord) -> bool,
) -> Option<Manifest> {
    // A retirement has no peers, so attempts alone decide who comes after it.
    let mut manifest = fence(head, attempt, &Bytes::new(), owner)?;
    manifest.checkpoints.retain(|record| !going(record));
    manifest.prune(&[]);
    Some(manifest)
}

/// The manifest after `head` that outdates its owner, keeps its attempt as the newest, and lets go of `checkpoint`.
/// `None` if no epoch number is left. Pure.
#[must_use]
pub fn discard(head: &Head, checkpoint: &CheckpointIdentity, owner: Uuid) -> Option<Manifest> {
    retirement(head, head.manifest.owner().attempt, owner, |record| record.identity == *checkpoint)
}

/// The manifest after `head` that outdates its owner, keeps its attempt as the newest, and pins `checkpoint` or
/// releases it; a released checkpoint that retention let go before goes. `None` if no epoch number is left. Pure.
#[must_use]
pub fn pin(head: &Head, checkpoint: &CheckpointIdentity, is_pinned: bool, owner: Uuid) -> Option<Manifest> {
    let is_it = |record: &CheckpointRecord| record.identity == *checkpoint;
    let goes = |record: &CheckpointRecord| !is_pinned && record.subsumed && is_it(record);
    let mut manifest = retirement(head, head.manifest.owner().attempt, owner, goes)?;
    manifest.checkpoints.iter_mut().filter(|record| is_it(record)).for_each(|record| record.pinned = is_pinned);
    Some(manifest)
}

/// Whether the chain has nothing left to let go of, and no owner that could name more. Pure.
#[must_use]
pub fn is_retired(head: &Manifest) -> bool {
    head.owner().is_fence && head.checkpoints.is_empty()
}

/// A chain that may be retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// The backend of the chain.
    pub backend: BackendId,
    /// The attempt of the newest generation.
    pub attempt: Attempt,
    /// Number of subtasks of the newest generation.
    pub parallelism: u32,
    /// The checkpoints that it lets go of.
    pub going: Vec<CheckpointIdentity>,
}

/// The chains of `heads`, all of one job, that may be retired. Pure.
#[must_use]
pub fn retired(heads: &[Manifest]) -> Vec<Retired> {
    let mut newest: BTreeMap<&Name, (Attempt, u32, &Bytes)> = BTreeMap::new();
    for head in heads {
        let Some(served) = head.served() else { continue };
        // If one attempt has two parallelisms, the higher one is taken, since it retires fewer chains.
        let generation = (served.attempt, served.span.parallelism, &served.job_run);
        let of_operator = newest.entry(&head.backend.operator).or_insert(generation);
        // Compared by attempt first, so an older generation never wins over a newer one.
        *of_operator = (*of_operator).max(generation);
    }
    let retired = |head: &Manifest| {
        let &(attempt, parallelism, job_run) = newest.get(&head.backend.operator)?;
        let survivors = || {
            heads
                .iter()
                .filter(|other| other.backend.operator == head.backend.operator)
                .filter(|other| other.backend.subtask < parallelism)
        };
        let is_retained = |record: &CheckpointRecord| {
            let has = |survivor: &Manifest| survivor.checkpoints.iter().any(|r| is_same(head, record, survivor, r));
            survivors().any(has)
        };
        // An attempt above that of the generation means that somebody opened or fenced this chain for a start that no
        // survivor shows yet. Its checkpoints may be about to be restored.
        let is_behind = head.backend.subtask >= parallelism && head.owner().attempt <= attempt && !is_retired(head);
        // One pinned checkpoint keeps the whole chain: retiring lets go of several, and a pin is a user's promise.
        if !is_behind || head.checkpoints.iter().any(|record| record.pinned) {
            return None;
        }
        let own: Vec<_> = head.checkpoints.iter().filter(|record| record.job_run == job_run).collect();
        // A chain that has only checkpoints of another run is left to the maker of that run. A chain without any may be
        // retired, so that it is not looked at again.
        let has_some = !own.is_empty() || head.checkpoints.is_empty();
        if !has_some || own.iter().any(|record| is_retained(record)) {
            return None;
        }
        let going = own.iter().map(|record| record.identity).collect();
        Some(Retired { backend: head.backend.clone(), attempt, parallelism, going })
    };
    heads.iter().filter_map(retired).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::checkpoint::{job::tests::head, manifest::tests::sample};

    fn names(retired: &[Retired]) -> Vec<u32> {
        retired.iter().map(|retired| retired.backend.subtask).collect()
    }

    #[test]
    fn a_fence_keeps_the_checkpoints_and_drops_what_the_owner_alone_needs() {
        let head = Head { manifest: sample(), crc: 77 };
        let fenced = fence(&head, 9, &Bytes::new(), Uuid::from_u128(1)).unwrap();
        assert_eq!((fenced.number, fenced.previous_crc, fenced.opens_epoch), (13, 77, true));
        assert_eq!(fenced.checkpoints, head.manifest.checkpoints);
        for record in &fenced.checkpoints {
            assert_eq!(fenced.contents(record), head.manifest.contents(record));
            assert_eq!(fenced.span(record), head.manifest.span(record));
        }
        assert_eq!((fenced.owner().attempt, fenced.owner().epoch.number, fenced.owner().is_fence), (9, 3, true));
        assert_eq!(fenced.runs[&2].handles.len(), 2, "the third is beyond every cut");
        assert_eq!(fenced.served().unwrap().attempt, 2);
        assert_eq!(Manifest::decode(&fenced.encode()).unwrap(), fenced);
        let retired = retirement(&head, 9, Uuid::from_u128(1), |_| true).unwrap();
        assert_eq!((retired.checkpoints.len(), retired.runs.len(), retired.epochs.len()), (0, 0, 1));
    }

    #[test]
    fn a_checkpoint_is_pinned_by_a_fence_and_goes_with_its_pin_once_it_was_let_go() {
        let mut head = Head { manifest: sample(), crc: 77 };
        let it = head.manifest.checkpoints[0].identity;
        let pinned = pin(&head, &it, true, Uuid::from_u128(1)).unwrap();
        assert!(pinned.checkpoints[0].pinned && pinned.owner().is_fence && !pinned.checkpoints[1].pinned);
        assert_eq!(Manifest::decode(&pinned.encode()).unwrap(), pinned);
        let released = pin(&Head { manifest: pinned.clone(), crc: 1 }, &it, false, Uuid::from_u128(2)).unwrap();
        assert_eq!(released.checkpoints, head.manifest.checkpoints);
        head.manifest = pinned;
        head.manifest.checkpoints[0].subsumed = true;
        let released = pin(&head, &it, false, Uuid::from_u128(2)).unwrap();
        assert_eq!(released.checkpoints.len(), head.manifest.checkpoints.len() - 1);
    }

    #[test]
    fn a_vanished_chain_is_retired_once_no_survivor_retains_its_checkpoints() {
        let old = |subtask, checkpoints: &[(u64, u64)]| head(subtask, 3, checkpoints, true);
        let new = |subtask, checkpoints: &[(u64, u64)]| {
            let mut head = head(subtask, 2, checkpoints, true);
            head.epochs.last_mut().unwrap().attempt = 3;
            head
        };
        assert_eq!(retired(&[old(0, &[(2, 1)]), old(1, &[(2, 1)]), old(2, &[(2, 1)])]), []);
        assert_eq!(retired(&[new(0, &[(2, 1)]), old(1, &[(2, 1)]), old(2, &[(2, 1)])]), []);
        assert_eq!(retired(&[new(0, &[(3, 2)]), new(1, &[(2, 1), (3, 2)]), old(2, &[(2, 1)])]), []);
        let heads = [new(0, &[(3, 2)]), new(1, &[(3, 2)]), old(2, &[(2, 1)])];
        assert_eq!(names(&retired(&heads)), [2]);
        let mut pinned = heads.clone();
        pinned[2].checkpoints[0].pinned = true;
        assert_eq!(retired(&pinned), []);
        let mut read_meanwhile = heads.clone();
        let reader = Head { manifest: heads[2].clone(), crc: 0 };
        read_meanwhile[2] = fence(&reader, 4, &Bytes::new(), Uuid::from_u128(1)).unwrap();
        assert_eq!(retired(&read_meanwhile), [], "a later attempt is about to restore from it");
        let mut done = heads.clone();
        done[2] = retirement(&reader, 3, Uuid::from_u128(1), |_| true).unwrap();
        assert_eq!(retired(&done), [], "once is enough");
    }
}
