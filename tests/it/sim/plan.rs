//! The shape of one run, drawn from its seed.

use std::{collections::BTreeMap, time::Duration};

use dstl::{
    backend::BackendOptions,
    changelog::compression::Compression,
    checkpoint::ledger::Retention,
    materialization::schedule::ScheduleOptions,
    object::{RetryOptions, faulty::FaultPlan},
    random::Random,
    types::{Attempt, BackendId, KeyGroup, KeyGroupAssignment, KeyGroupRange, Limits, Name},
};

use super::model::{Key, MAX_VALUE_BYTES, pick};

pub(super) const MAX_PARALLELISM: u32 = 16;

/// Parallelisms of attempts that follow each other.
const RESCALES: [&[u32]; 4] = [&[1, 3], &[2, 3], &[3, 2, 1], &[1, 3, 2, 4]];

/// Room for answers beside what replies keep free, see `REPLY_OVERHEAD_BYTES`.
const MESSAGE_BYTES: usize = 160 << 10;

/// One backend of the job, as one attempt has it.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub(super) id: BackendId,
    pub(super) parallelism: u32,
    pub(super) key_groups: KeyGroupRange,
    pub(super) keys: Vec<Key>,
    /// A key of another subtask, if there is one.
    pub(super) foreign: Option<Key>,
}

/// How a run goes.
#[derive(Debug)]
pub(super) struct Plan {
    /// Every backend that any attempt has.
    pub(super) seats: Vec<BackendId>,
    /// By operator: its parallelism, attempt by attempt, and then again.
    generations: BTreeMap<Name, Vec<u32>>,
    keys: Vec<Key>,
    pub(super) hosts: usize,
    pub(super) attempts: u64,
    pub(super) assignment: KeyGroupAssignment,
    pub(super) retention: Retention,
    pub(super) backend: BackendOptions,
    pub(super) retry: RetryOptions,
    pub(super) credit_bytes: u64,
    pub(super) persist_delay: Duration,
    pub(super) segment_bytes: u64,
    pub(super) upload_threads: usize,
    pub(super) compression: Compression,
    /// Longest value that steps have.
    pub(super) value_bytes: u64,
    /// Between two actions of an engine, at most.
    pub(super) pause: Duration,
    /// How long an attempt lasts, at most.
    pub(super) attempt: Duration,
    /// Between two misfortunes, at most.
    pub(super) peace: Duration,
}

impl Plan {
    pub(super) fn random(random: &Random) -> Self {
        let one_in = |n: u64| random.below(n) == 0;
        let millis = |below: u64| Duration::from_millis(random.below(below));
        let rescaled = *pick(random, &RESCALES);
        let operators: Vec<(&str, &[u32])> = match random.below(5) {
            0 => vec![("op", &[1])],
            1 => vec![("op", &[2])],
            2 => vec![("op", &[2]), ("sink", &[1])],
            3 => vec![("op", rescaled)],
            _ => vec![("op", rescaled), ("sink", &[1])],
        };
        let assignment = if one_in(3) { KeyGroupAssignment::Given } else { KeyGroupAssignment::Hashed };
        let name = |name: &str| Name::new(name).unwrap();
        let most = |generations: &[u32]| generations.iter().copied().max().unwrap_or(1);
        let ids = |(operator, generations): &(&str, &[u32])| {
            let operator = name(operator);
            let id = move |subtask| BackendId { job: name("job"), operator: operator.clone(), subtask };
            (0..most(generations)).map(id).collect::<Vec<_>>()
        };
        let seats: Vec<_> = operators.iter().flat_map(ids).collect();
        let finest = operators.iter().map(|(_, generations)| most(generations)).max().unwrap_or(1);
        let generations = operators.iter().map(|(operator, of)| (name(operator), of.to_vec())).collect();
        // Each batch its own change set, and so many that the log index is paged.
        let many = one_in(6);
        let heavy = one_in(4);
        let limits = Limits {
            max_message_bytes: MESSAGE_BYTES,
            max_key_bytes: 64,
            max_value_bytes: MAX_VALUE_BYTES,
            max_attachment_bytes: 64,
            max_batch_operations: 200,
            max_concurrent_checkpoints: if one_in(4) { 2 } else { 8 },
            ..Limits::default()
        };
        let retention = if one_in(4) { Retention::Explicit } else { Retention::Count(1 + random.below(3) as usize) };
        let mut backend = BackendOptions {
            limits,
            retention,
            checkpoint_timeout: Duration::from_millis(300) + millis(4000),
            preemptive_persist_threshold: if many { 1 } else { 200 + random.below(5000) },
            state_memory: if one_in(8) { 30_000 } else { 1 << 30 },
            download_parallelism: 1 + random.below(4) as usize,
            notice_delay: millis(1500),
            open_timeout: Duration::from_secs(20),
            materialization: ScheduleOptions {
                interval: (!one_in(3)).then(|| millis(2500) + Duration::from_millis(20)),
                ..ScheduleOptions::default()
            },
            materialization_timeout: millis(5000) + Duration::from_millis(100),
            queries: true,
            warm: !one_in(4),
            undo_memory: 20_000,
            ..BackendOptions::default()
        };
        // Change sets of one block and of several.
        backend.block_split_threshold = backend.preemptive_persist_threshold as usize / 3;
        let accounts = 2 * seats.len() as u64;
        let credit_bytes = accounts * MESSAGE_BYTES as u64 + random.below(MESSAGE_BYTES as u64);
        // Drawn from what is drawn already, so that older seeds keep the rest of their plans.
        backend.data_inline_threshold = [0, 200, 1_000, 20_000][credit_bytes as usize % 4];
        Self {
            credit_bytes,
            hosts: 1 + random.below(3) as usize,
            attempts: 2 + random.below(4),
            seats,
            generations,
            keys: keys(finest),
            assignment,
            retention,
            backend,
            retry: RetryOptions {
                first_delay: Duration::from_millis(10),
                longest_delay: Duration::from_millis(200),
                attempt_timeout: Duration::from_millis(300),
                ..RetryOptions::default()
            },
            persist_delay: if one_in(4) { Duration::ZERO } else { millis(50) },
            segment_bytes: if one_in(4) { 0 } else { 1 + random.below(20_000) },
            upload_threads: 1 + random.below(4) as usize,
            compression: *pick(random, &[Compression::None, Compression::Lz4, Compression::Zstd]),
            value_bytes: if heavy { 500 } else { 12 },
            pause: if many { Duration::from_millis(12) } else { Duration::from_millis(60) },
            attempt: Duration::from_millis(if many { 2500 } else { 4000 }),
            peace: Duration::from_millis(if one_in(3) { 400 } else { 1500 }),
        }
    }

    /// How the store behaves for a while.
    pub(super) fn weather(random: &Random) -> FaultPlan {
        let latency = Duration::from_millis(1)..Duration::from_millis(2 + random.below(60));
        let delay = Duration::ZERO..Duration::from_secs(3);
        let often = [0.0, 0.02, 0.1, 0.25][random.below(4) as usize];
        let chance = || random.fraction() * often;
        FaultPlan {
            error_before: chance(),
            error_after: chance(),
            refused: chance(),
            hang: chance(),
            delayed: chance(),
            latency,
            delay,
        }
    }
}

impl Plan {
    /// A backend as `attempt` has it; `None` if it does not.
    pub(super) fn seat(&self, seat: usize, attempt: Attempt) -> Option<Seat> {
        let id = self.seats[seat].clone();
        let generations = &self.generations[&id.operator];
        let parallelism = generations[(attempt as usize - 1) % generations.len()];
        let key_groups = KeyGroupRange::of_subtask(id.subtask, parallelism, MAX_PARALLELISM).ok()?;
        let is_own = |key: &&Key| key_groups.contains(KeyGroup(key.group));
        let keys = self.keys.iter().filter(is_own).cloned().collect();
        let foreign = self.keys.iter().find(|key| !is_own(key)).cloned();
        Some(Seat { id, parallelism, key_groups, keys, foreign })
    }

    /// The backends that `attempt` has.
    pub(super) fn seats_of(&self, attempt: Attempt) -> Vec<usize> {
        (0..self.seats.len()).filter(|seat| self.seat(*seat, attempt).is_some()).collect()
    }

    /// Whether any operator ever has another parallelism.
    pub(super) fn rescales(&self) -> bool {
        self.generations.values().any(|generations| generations.len() > 1)
    }
}

/// Some keys for each of `parts` subtasks.
fn keys(parts: u32) -> Vec<Key> {
    let all: Vec<_> = (0..200).map(|n| key(&format!("key-{n}"))).collect();
    let own = |subtask| {
        let range = KeyGroupRange::of_subtask(subtask, parts, MAX_PARALLELISM).unwrap();
        let own = all.iter().filter(move |key| range.contains(KeyGroup(key.group)));
        own.take(if parts > 2 { 2 } else { 4 }).cloned().collect::<Vec<_>>()
    };
    (0..parts).flat_map(own).collect()
}

fn key(key: &str) -> Key {
    let hash = murmur3::murmur3_32(&mut key.as_bytes(), 0).unwrap();
    Key { group: (hash % MAX_PARALLELISM) as u16, bytes: key.as_bytes().to_vec() }
}
