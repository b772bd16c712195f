//! Plans which process is killed when: a pure function of the seed.
//!
//! The work is cut into as many stretches as there are kills, and a rest behind them. Each kill happens in its stretch,
//! at a random delay after a random record of it. The task may not leave a stretch before its kill, so that every kill
//! hits running work. Some kills do not wait for a record, but happen during the recovery from the kill before.

use std::time::Duration;

use dstl::random::Random;

/// Longest random delay of a kill.
const MAX_DELAY_MS: u64 = 300;

/// One of this many kills happens during the recovery from the one before.
const IN_RECOVERY: u64 = 6;

/// The process that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// The daemon is killed.
    Daemon,
    /// The task is killed.
    Task,
}

/// A planned kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kill {
    /// The process to kill.
    pub(super) victim: Victim,
    /// The record after which it happens; `None` if it follows the kill before.
    pub(super) record: Option<u64>,
    /// Delay after that.
    pub(super) delay: Duration,
    /// The record that the task must not pass before it.
    pub(super) permit: u64,
}

/// Plans `kills` kills over the work on `records` records. Of two or more, one hits the daemon and one the task.
pub(super) fn plan(random: &Random, kills: u32, records: u64) -> Vec<Kill> {
    let mut victims: Vec<_> =
        (0..kills).map(|_| if random.below(2) == 0 { Victim::Daemon } else { Victim::Task }).collect();
    if kills >= 2 && victims.iter().all(|victim| Some(victim) == victims.first()) {
        let other = if victims.first() == Some(&Victim::Daemon) { Victim::Task } else { Victim::Daemon };
        let index = usize::try_from(random.below(kills.into())).unwrap_or_default();
        victims.splice(index..=index, [other]);
    }
    let boundary =
        |index: u64| u64::try_from(u128::from(records) * u128::from(index) / u128::from(kills + 1)).unwrap_or(0);
    (0..)
        .zip(victims)
        .map(|(index, victim)| {
            let (from, to) = (boundary(index), boundary(index + 1));
            let record = from + random.below(to - from);
            let delay = Duration::from_millis(random.below(MAX_DELAY_MS));
            let in_recovery = random.below(IN_RECOVERY) == 0 && index > 0;
            Kill { victim, record: (!in_recovery).then_some(record), delay, permit: to }
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn every_kill_falls_into_its_stretch_and_both_are_hit() {
        for seed in 0..200 {
            let kills = plan(&Random::seeded(seed), 4, 1_000);
            assert_eq!(kills, plan(&Random::seeded(seed), 4, 1_000));
            assert_eq!(kills.iter().map(|kill| kill.permit).collect::<Vec<_>>(), [200, 400, 600, 800]);
            assert!(
                kills
                    .iter()
                    .all(|kill| kill.record.is_none_or(|record| (record + 1..=record + 200).contains(&kill.permit)))
            );
            assert!(kills[0].record.is_some());
            for victim in [Victim::Daemon, Victim::Task] {
                assert!(kills.iter().any(|kill| kill.victim == victim), "seed {seed}");
            }
        }
    }

    #[test]
    fn there_may_be_more_kills_than_records() {
        let kills = plan(&Random::seeded(1), 9, 2);
        assert!(kills.iter().all(|kill| kill.permit < 2));
        assert!(plan(&Random::seeded(1), 0, 5).is_empty());
    }
}
