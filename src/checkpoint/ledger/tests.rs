//! The ledger by hand: one checkpoint after the other.

use bytes::Bytes;
use uuid::Uuid;

use super::*;

const EPOCH: u64 = 2;

fn record(id: u64, cut: u64) -> CheckpointRecord {
    CheckpointRecord {
        identity: CheckpointIdentity { epoch: EPOCH, id, uuid: Uuid::from_u128(u128::from(id)) },
        attempt: 1,
        cut: Sqn(Sqn::first_of(EPOCH).0 + cut),
        applied_to: cut,
        attachment: Bytes::new().into(),
        job_run: Bytes::new(),
        completed: false,
        pinned: false,
        subsumed: false,
        triggered_at: 0,
        time: 0,
        incremental_bytes: 0,
        changes: 0,
        states_to: 0,
        base: None,
        missing_states: vec![],
    }
}

fn target(id: u64) -> NoticeTarget {
    NoticeTarget { epoch: EPOCH, id, uuid: None }
}

fn at(cut: u64) -> Sqn {
    Sqn(Sqn::first_of(EPOCH).0 + cut)
}

/// A ledger in which checkpoints 1..=n are published; checkpoint i has the cut 10 i.
fn published(n: u64, retention: Retention) -> Ledger {
    let mut ledger = Ledger::new(EPOCH, retention, vec![], 0);
    for id in 1..=n {
        ledger.trigger(record(id, 10 * id), Awaits::Log);
    }
    ledger.begin_publishing(at(10 * n));
    assert_eq!(ledger.published().len() as u64, n);
    ledger
}

fn ids(ledger: &Ledger) -> Vec<u64> {
    ledger.retained().iter().map(|record| record.identity.id).collect()
}

#[test]
fn publishes_only_what_is_durable() {
    let mut ledger = Ledger::new(EPOCH, Retention::Count(2), vec![], 0);
    ledger.trigger(record(1, 10), Awaits::Log);
    ledger.trigger(record(2, 20), Awaits::Log);
    assert!(!ledger.is_ready(at(9)));
    assert!(ledger.is_ready(at(10)));
    let (ids, records) = ledger.begin_publishing(at(15));
    assert_eq!((ids, records.len()), (vec![1], 1));
    assert_eq!(ledger.published()[0].identity.id, 1);
    assert_eq!(ledger.in_flight(), 1);
}

#[test]
fn snapshots_may_be_done_in_any_order() {
    let mut ledger = Ledger::new(EPOCH, Retention::Count(2), vec![], 0);
    ledger.trigger(record(1, 10), Awaits::Snapshot);
    ledger.trigger(record(2, 20), Awaits::Snapshot);
    ledger.trigger(record(3, 20), Awaits::Nothing);
    assert_eq!(ledger.begin_publishing(at(99)).0, [3]);
    ledger.published();
    assert!(!ledger.is_ready(at(99)), "no log makes them durable");
    ledger.snapshotted(2, Uuid::from_u128(7), 123);
    assert!(ledger.is_ready(at(0)));
    let (_, records) = ledger.begin_publishing(at(0));
    assert_eq!(records.iter().map(|r| r.identity.id).collect::<Vec<_>>(), [2, 3]);
    let published = ledger.published();
    assert_eq!((published[0].base, published[0].incremental_bytes), (Some(Uuid::from_u128(7)), 123));
    ledger.fail(1);
    ledger.snapshotted(1, Uuid::from_u128(8), 1);
    assert_eq!((ids(&ledger), ledger.in_flight()), (vec![2, 3], 0));
}

#[test]
fn a_checkpoint_that_fails_while_its_manifest_is_written_is_withdrawn_by_the_next() {
    let mut ledger = Ledger::new(EPOCH, Retention::Count(2), vec![], 0);
    ledger.trigger(record(1, 10), Awaits::Log);
    ledger.begin_publishing(at(10));
    assert!(ledger.fail(1));
    assert!(ledger.published().is_empty());
    assert!(ledger.is_dirty(), "the manifest on the store still has it");
    assert!(ledger.begin_publishing(at(10)).1.is_empty());
}

#[test]
fn ids_increase_and_are_bounded_in_number() {
    let mut ledger = Ledger::new(EPOCH, Retention::Explicit, vec![], 0);
    ledger.trigger(record(5, 10), Awaits::Log);
    assert_eq!(ledger.check(5, 9, 9), Err(TriggerError::OutOfOrder { id: 5, last: 5 }));
    assert_eq!(ledger.check(6, 1, 9), Err(TriggerError::InFlight(1)));
    assert_eq!(ledger.check(6, 9, 1), Err(TriggerError::Retained(0)));
    assert_eq!(ledger.check(6, 9, 9), Ok(()));
}

#[test]
fn between_the_oldest_and_the_newest_in_flight_one_gives_way() {
    let mut ledger = Ledger::new(EPOCH, Retention::Explicit, vec![], 0);
    for id in 1..=4 {
        ledger.trigger(record(id, id), Awaits::Log);
    }
    assert_eq!((ledger.check(5, 4, 9), ledger.gives_way()), (Ok(()), Some(2)));
    ledger.begin_publishing(at(2));
    assert_eq!(ledger.gives_way(), Some(3), "a manifest under way has 2");
    ledger.fail(3);
    ledger.fail(4);
    assert_eq!((ledger.check(5, 2, 9), ledger.gives_way()), (Err(TriggerError::InFlight(2)), None));
}

#[test]
fn retains_the_newest_completed_whatever_the_order_of_notices() {
    for order in [[1, 2, 3, 4], [4, 3, 2, 1], [2, 4, 1, 3], [3, 1, 4, 2]] {
        let mut ledger = published(4, Retention::Count(2));
        for id in order {
            ledger.notice(NoticeKind::Complete, target(id));
        }
        assert_eq!(ids(&ledger), [3, 4], "{order:?}");
        assert_eq!(ledger.confirmed_to(), 40);
    }
}

#[test]
fn an_uncompleted_checkpoint_stays_until_enough_newer_ones_completed() {
    let mut ledger = published(4, Retention::Count(2));
    ledger.notice(NoticeKind::Complete, target(3));
    assert_eq!(ids(&ledger), [1, 2, 3, 4]);
    ledger.notice(NoticeKind::Complete, target(4));
    assert_eq!(ids(&ledger), [3, 4]);
}

#[test]
fn notices_are_idempotent_and_strangers_change_nothing() {
    let mut ledger = published(2, Retention::Count(9));
    assert_eq!(ledger.notice(NoticeKind::Complete, target(1)), NoticeOutcome::Done);
    assert_eq!(ledger.notice(NoticeKind::Complete, target(1)), NoticeOutcome::Unchanged);
    let stranger = NoticeTarget { uuid: Some(Uuid::from_u128(77)), ..target(2) };
    let foreign = NoticeTarget { epoch: 1, ..target(2) };
    for kind in [NoticeKind::Complete, NoticeKind::Abort, NoticeKind::Subsume, NoticeKind::Discard] {
        assert_eq!(ledger.notice(kind, stranger), NoticeOutcome::Unknown);
        assert_eq!(ledger.notice(kind, foreign), NoticeOutcome::Unknown);
        assert_eq!(ledger.notice(kind, target(u64::MAX)), NoticeOutcome::Unknown);
    }
    assert_eq!(ids(&ledger), [1, 2]);
    assert_eq!(ledger.notice(NoticeKind::Discard, target(2)), NoticeOutcome::Done);
    assert_eq!(ledger.notice(NoticeKind::Discard, target(2)), NoticeOutcome::Unknown);
    assert_eq!(ids(&ledger), [1]);
}

#[test]
fn a_pin_keeps_what_retention_lets_go_until_it_is_released() {
    let mut ledger = published(3, Retention::Count(1));
    assert!(ledger.pin(target(1)));
    assert_eq!(ledger.notice(NoticeKind::Discard, target(1)), NoticeOutcome::Pinned);
    ledger.notice(NoticeKind::Complete, target(3));
    assert_eq!(ids(&ledger), [1, 3]);
    assert_eq!(ledger.release(target(1)), Some(true));
    assert_eq!(ids(&ledger), [3]);
    assert_eq!(ledger.release(target(3)), Some(false));
    assert_eq!(ids(&ledger), [3], "a checkpoint that was not let go stays after its pin");
}

#[test]
fn subsuming_lets_older_ones_of_the_same_epoch_go() {
    let mut old = record(9, 5);
    old.identity.epoch = 1;
    let mut ledger = Ledger::new(EPOCH, Retention::Explicit, vec![old], 0);
    for id in 1..=3 {
        ledger.trigger(record(id, id), Awaits::Log);
    }
    ledger.begin_publishing(at(3));
    ledger.published();
    assert_eq!(ledger.notice(NoticeKind::Subsume, target(2)), NoticeOutcome::Done);
    assert_eq!(ids(&ledger), [9, 3]);
}

#[test]
fn a_commit_completes_and_lets_go_of_what_is_older_and_never_will() {
    for retention in [Retention::Count(2), Retention::Explicit] {
        let mut ledger = published(6, retention);
        ledger.pin(target(2));
        assert_eq!(ledger.commit(target(1)), NoticeOutcome::Done);
        assert_eq!(ledger.commit(target(4)), NoticeOutcome::Done);
        let ids = |ledger: &Ledger| ledger.retained().iter().map(|record| record.identity.id).collect::<Vec<_>>();
        assert_eq!(ids(&ledger), [1, 2, 4, 5, 6], "3 is subsumed, 2 once it is released");
        assert!(ledger.is_dirty());
        assert_eq!(ledger.confirmed_to(), 40);
        assert_eq!(ledger.release(target(2)), Some(true));
        assert_eq!(ids(&ledger), [1, 4, 5, 6]);
        assert_eq!(ledger.commit(target(4)), NoticeOutcome::Unchanged);
        assert_eq!(ledger.commit(target(3)), NoticeOutcome::Unknown);
        ledger.recall(|record| record.identity.id == 5);
        ledger.commit(target(6));
        let kept: &[u64] = if retention == Retention::Explicit { &[1, 4, 5, 6] } else { &[5, 6] };
        assert_eq!(ids(&ledger), kept, "{retention:?}");
    }
}

/// The checkpoints of earlier owners: one in each epoch; those in `completed` are completed.
fn left(completed: &[u64], epochs: std::ops::Range<u64>, retention: Retention) -> Ledger {
    let one = |epoch: u64| {
        let mut record = record(1, 10);
        (record.identity.epoch, record.attempt, record.completed) = (epoch, epoch, completed.contains(&epoch));
        record
    };
    Ledger::new(epochs.end, retention, epochs.map(one).collect(), 0)
}

fn epochs(ledger: &Ledger) -> Vec<u64> {
    ledger.retained().iter().map(|record| record.identity.epoch).collect()
}

/// The checkpoints of earlier owners (`completed`, and a pinned one in epoch 2) that remain after an owner that began
/// with the checkpoint of epoch `from` has published one of its own.
fn left_by_retention(completed: &[u64], retention: Retention, from: u64) -> Vec<u64> {
    let mut ledger = left(completed, 1..10, retention);
    assert!(ledger.pin(NoticeTarget { epoch: 2, id: 1, uuid: None }));
    ledger.begin((from, 1));
    ledger.begin_publishing(Sqn(0));
    ledger.published();
    assert_eq!(
        epochs(&ledger),
        (1..10).collect::<Vec<_>>(),
        "to open, and a manifest without a checkpoint, let nothing go"
    );
    let mut own = record(1, 0);
    own.identity.epoch = 10;
    ledger.trigger(own, Awaits::Nothing);
    let records = ledger.begin_publishing(Sqn(0)).1;
    ledger.published();
    assert_eq!(records, ledger.retained(), "in the manifest that has its checkpoint");
    let mut left = epochs(&ledger);
    assert_eq!(left.pop(), Some(10));
    left
}

#[test]
fn with_its_first_checkpoint_an_owner_lets_go_of_what_owners_before_left_beyond_the_count() {
    let all: Vec<u64> = (1..10).collect();
    assert_eq!(left_by_retention(&all, Retention::Count(3), 9), [2, 7, 8, 9]);
    assert_eq!(left_by_retention(&all, Retention::Count(3), 6), [2, 4, 5, 6, 7, 8, 9], "went back on purpose");
    assert_eq!(left_by_retention(&[3, 9], Retention::Count(3), 9), all, "fewer completed");
    assert_eq!(left_by_retention(&all, Retention::Count(3), 77), all, "what it began with is not of this chain");
    assert_eq!(left_by_retention(&all, Retention::Explicit, 9), all);
}

#[test]
fn at_the_limit_what_retention_would_let_go_makes_room() {
    let mut ledger = left(&[5, 6, 7], 1..10, Retention::Count(2));
    ledger.begin((1, 1));
    assert!(!ledger.make_room(10), "there is room");
    assert!(ledger.pin(NoticeTarget { epoch: 2, id: 1, uuid: None }));
    assert!(ledger.make_room(8));
    assert_eq!(epochs(&ledger), [1, 2, 5, 6, 7, 8, 9], "neither what it began with nor what is pinned");
    assert!(ledger.make_room(1));
    assert_eq!(epochs(&ledger), [1, 2, 6, 7], "all that may");
    assert_eq!(ledger.check(2, 9, 1), Err(TriggerError::Retained(4)));
    let mut own = published(4, Retention::Count(1));
    assert!(!own.make_room(1), "its own may still complete");
    let mut explicit = left(&[1, 2], 1..10, Retention::Explicit);
    assert!(!explicit.make_room(1), "the engine says what goes");
}

#[test]
fn what_is_held_stays_until_it_is_let_loose_whatever_retention_says() {
    let mut ledger = published(4, Retention::Count(1));
    ledger.hold(1);
    ledger.hold(2);
    ledger.notice(NoticeKind::Complete, target(3));
    assert_eq!(ids(&ledger), [1, 2, 3, 4]);
    ledger.let_loose(1, false);
    assert_eq!(ids(&ledger), [2, 3, 4], "retention had let it go meanwhile");
    ledger.hold(4);
    ledger.let_loose(4, true);
    assert_eq!(ids(&ledger), [2, 3], "it was only made to be held");
    ledger.hold(3);
    ledger.let_loose(3, true);
    ledger.let_loose(9, true);
    assert_eq!(ids(&ledger), [2, 3], "it is completed");
}
