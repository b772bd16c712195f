//! Options of backends.

use std::time::Duration;

use crate::{
    changelog::{block::SPLIT_BYTES, compression::Compression},
    checkpoint::ledger::Retention,
    claim::claiming::ClaimMode,
    materialization::schedule::ScheduleOptions,
    setting::{Kind, options},
    types::{InnerBackend, Limits},
};

options! {
    /// Options of backends. Most are the answers to questions that `Open` or a barrier leaves open.
    #[derive(Debug, Clone, PartialEq)]
    pub struct BackendOptions given (limits: Limits, start_grace: Duration, compression: Compression) {
        /// Limits on a client's requests.
        pub limits: Limits = plain(limits);
        /// Inner backend of a backend whose engine names none: `hashmap` keeps state in memory, `rocksdb` on local
        /// disk.
        pub inner: InnerBackend = option("state.backend.type", State 2, Kind::of::<InnerBackend>(), "hashmap");
        /// Whether a backend whose engine does not say gets a changelog. Without one a checkpoint is a snapshot of what
        /// changed since the last one, and takes as long as that does. Flink's default is `false`.
        pub changelog: bool = option("state.changelog.enabled", Changelog 1, Kind::Flag, "true");
        /// Completed checkpoints that are kept of a backend whose engine does not say. Flink's default is 1.
        pub retention: Retention =
            option("execution.checkpointing.num-retained", Checkpoints 1, Kind::Integer { min: 1, max: 1_000 }, "3");
        /// A checkpoint that is not complete after so long is aborted.
        pub checkpoint_timeout: Duration =
            option("execution.checkpointing.timeout", Checkpoints 2, Kind::AT_LEAST_1_S, "10 min");
        /// A changelog with so many bytes that are not yet uploaded starts an upload before any checkpoint asks.
        pub preemptive_persist_threshold: u64 =
            option("state.changelog.dstl.dfs.preemptive-persist-threshold", Changelog 5, Kind::at_least(1), "5 MiB");
        /// Changes of one backend since its last upload that are not more than so many bytes at a barrier go into its
        /// manifest rather than a segment: the checkpoint costs one write. `0` turns this off.
        pub data_inline_threshold: usize = option(
            "execution.checkpointing.data-inline-threshold", Checkpoints 5,
            Kind::Size { min: 0, max: 1 << 20 }, "20 KiB",
        );
        /// A change set of at least this many bytes is cut into one block per part of the key groups.
        pub block_split_threshold: usize = plain(SPLIT_BYTES);
        /// Budget of all state in memory: a size, or a percentage of memory.budget. Growth beyond it is refused; reads
        /// and deletes go on.
        pub state_memory: u64 = option("memory.state", State 5, Kind::Share, "50%");
        /// Most objects that one restore reads at a time.
        pub download_parallelism: usize =
            option("state.changelog.dstl.dfs.download.num-threads", Transfer 6, Kind::THREADS, "4");
        /// How long changes of the ledger by notices may wait for the manifest of a checkpoint, before a manifest is
        /// written for them alone.
        pub notice_delay: Duration = plain(Duration::from_secs(5));
        /// How long an open tries to reach the store.
        pub open_timeout: Duration = plain(Duration::from_secs(120));
        /// How often a daemon looks whether another one has committed a checkpoint that its backends have reported, in
        /// jobs that let dstl coordinate (DeclareJob).
        pub coordination_interval: Duration =
            option("execution.checkpointing.coordination.poll-interval", Checkpoints 4, Kind::AT_LEAST_1_MS, "1 s");
        /// Who owns a checkpoint that is restored, where the engine does not say: with `CLAIM` the new owner, which
        /// builds on it and lets it go as any other; with `NO_CLAIM` nobody, so that it stays until a user lets it go,
        /// and Open takes as long as copying all state to the store takes. Checkpoints of other jobs are never claimed.
        /// Here restarts after failures are restores like others, so an engine that restarts tasks says `CLAIM` for
        /// these. Flink's default is `NO_CLAIM`.
        pub claim: ClaimMode =
            option("execution.state-recovery.claim-mode", Materialization 5, Kind::of::<ClaimMode>(), "CLAIM");
        /// How long what a clone of another job's checkpoint reads is kept for it, after it last said that it still
        /// reads. It says so three times as often, and stops if it cannot: the lease is the longest outage of the store
        /// that a clone survives.
        pub pin_lease: Duration = option("recovery.pin-lease", Materialization 6, Kind::AT_LEAST_1_S, "10 min");
        /// How long a backend stays open without a session, for its task to come back, where the task does not say
        /// itself; then it is closed. `0 s`: for ever. Where memory runs short, backends that have such a time and no
        /// session are closed at once, the one that is without for longest first.
        pub linger: Option<Duration> =
            option("execution.state-recovery.linger", Materialization 8, Kind::ANY_DURATION, "0 s");
        /// How long a start that was named by a token is remembered after another start has superseded it.
        pub start_grace: Duration = plain(start_grace);
        /// When backends materialize.
        pub materialization: ScheduleOptions = group();
        /// Time limit of one materialization.
        pub materialization_timeout: Duration = plain(Duration::from_secs(600));
        /// Compression of snapshots, and of tails in manifests.
        pub compression: Compression = plain(compression);
        /// Whether clients may read backends beside their writers (the call Query): what is applied, or the newest
        /// completed checkpoint. Whoever reaches the socket may, then.
        pub queries: bool = option("queryable-state.enabled", Operation 1, Kind::Flag, "false");
        /// Whether a task that comes back to its daemon gets the checkpoint that it restores from there, rather than
        /// from the store. hashmap: what is overwritten between checkpoints is kept, up to memory.undo, and rolled
        /// back. rocksdb: the files of the newest base stay linked on local disk, and what is uploaded of the log is
        /// copied there, up to execution.checkpointing.local-backup.max-size. With hashmap a writer at full speed takes
        /// up to 60 % more processor time.
        pub warm: bool = option("execution.state-recovery.warm", Materialization 7, Kind::Flag, "false");
        /// Budget of each backend for what was overwritten since its newest completed checkpoint, which queries read
        /// (queryable-state.enabled) and warm restarts of hashmap go back to (execution.state-recovery.warm); without
        /// both nothing is kept. Beyond it queries have to wait until the next one completes, and restarts read the
        /// store.
        pub undo_memory: u64 = option("memory.undo", State 4, Kind::at_least(1), "16 MiB");
        /// State in memory while a checkpoint is read (savepoints by barrier, ReadCheckpoint, verify.interval), one at
        /// a time; each key group must fit it: a size, or a percentage of memory.budget. Beside it are up to 64 MiB
        /// that are read ahead, and up to 96 MiB of the file that a savepoint fills.
        pub reading_memory: u64 = option("memory.reading", State 6, Kind::Share, "3%");
        /// How long a savepoint by barrier may take, from the barrier until it exists, where the barrier does not say.
        pub savepoint_timeout: Duration = option("savepoint.timeout", Checkpoints 6, Kind::AT_LEAST_1_S, "1 h");
    }
}

impl Default for BackendOptions {
    /// The defaults of the options, but that every change goes to a segment.
    fn default() -> Self {
        let usual = Self::usual(Limits::default(), Duration::from_secs(3_600), Compression::default());
        Self { data_inline_threshold: 0, reading_memory: 64 << 20, ..usual }
    }
}
