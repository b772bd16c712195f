//! The table of options: name, type, default and meaning of each. Parsing, validation, `dstl config options` and the
//! commented example are all made from it.
//!
//! Names are Flink's where Flink has the option, so that a settings file carries over; defaults that deviate from
//! Flink's say so.

mod limits;

use std::time::Duration;

use self::limits::LIMITS;
use super::kind::Kind;

/// An option: name, type, default and meaning.
#[derive(Debug)]
pub(super) struct Spec {
    /// Dotted name in kebab-case.
    pub(super) key: &'static str,
    /// The type of its value.
    pub(super) kind: Kind,
    /// Its default value.
    pub(super) default: Default,
    /// Its meaning, in sentences.
    pub(super) doc: &'static str,
}

/// The value of an option that is not set.
#[derive(Debug)]
pub(super) enum Default {
    /// This fixed text.
    Text(&'static str),
    /// A computed value: a description of the computation, and the result for root without XDG folders.
    Computed { how: &'static str, for_root: &'static str },
}

impl Default {
    /// The default in the form of listings.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Text(text) => text,
            Self::Computed { how, .. } => how,
        }
    }
}

/// Options that belong together.
pub(super) struct Section {
    /// The heading in listings.
    pub(super) title: &'static str,
    /// The options, in the order in which they are listed.
    pub(super) options: &'static [Spec],
}

const fn text(key: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Spec {
    Spec { key, kind, default: Default::Text(default), doc }
}

const THREADS: Kind = Kind::Integer { min: 1, max: 256 };
const AT_LEAST_1_MS: Kind = Kind::Duration { min: Duration::from_millis(1) };
const AT_LEAST_1_S: Kind = Kind::Duration { min: Duration::from_secs(1) };
const ANY_DURATION: Kind = Kind::Duration { min: Duration::ZERO };
const OPTIONAL_PATH: Kind = Kind::Path { optional: true };

const fn at_least(min: u64) -> Kind {
    Kind::Size { min, max: 1 << 40 }
}

/// Every option, in the order of listings.
pub(super) static SECTIONS: &[Section] = &[
    Section { title: "State", options: STATE },
    Section { title: "RocksDB", options: ROCKSDB },
    Section { title: "Changelog", options: CHANGELOG },
    Section { title: "Materialization and recovery", options: MATERIALIZATION },
    Section { title: "Uploads and downloads", options: TRANSFER },
    Section { title: "Checkpoints", options: CHECKPOINTS },
    Section { title: "Local recovery", options: LOCAL_COPIES },
    Section { title: "The socket", options: SOCKET },
    Section { title: "TCP", options: TCP },
    Section { title: "Limits of requests", options: LIMITS },
    Section { title: "Operation", options: OPERATION },
];

const STATE: &[Spec] = &[
    Spec {
        key: "dstl.data-dir",
        kind: Kind::Path { optional: false },
        default: Default::Computed {
            how: "$XDG_STATE_HOME/dstl, else /var/lib/dstl for root, else ~/.local/state/dstl",
            for_root: "/var/lib/dstl",
        },
        doc: "Folder of what the daemon keeps on this machine.",
    },
    text(
        "state.backend.type",
        Kind::Choice(&["hashmap", "rocksdb"]),
        "hashmap",
        "Inner backend of a backend whose engine names none: `hashmap` keeps state in memory, `rocksdb` on local disk.",
    ),
    text(
        "memory.budget",
        Kind::Share,
        "80%",
        "What the whole daemon may use: a size, or a percentage of the memory that this process may use (the machine's or \
         its cgroup's). memory.state, memory.rocksdb and state.changelog.dstl.dfs.upload.max-in-flight must fit it \
         together; what they leave is for everything else.",
    ),
    text(
        "memory.undo",
        at_least(1),
        "16 MiB",
        "Budget of each backend for what was overwritten since its newest completed checkpoint, which queries read \
         (queryable-state.enabled) and warm restarts of hashmap go back to (execution.state-recovery.warm); without both nothing is kept. \
         Beyond it queries have to wait until the next one completes, and restarts read the store.",
    ),
    text(
        "memory.state",
        Kind::Share,
        "50%",
        "Budget of all state in memory: a size, or a percentage of memory.budget. Growth beyond it is refused; reads and \
         deletes go on.",
    ),
    text(
        "memory.reading",
        Kind::Share,
        "3%",
        "State in memory while a checkpoint is read (savepoints by barrier, ReadCheckpoint, verify.interval), one at a time; each key group \
         must fit it: a size, or a percentage of memory.budget. Beside it are up to 64 MiB \
         that are read ahead, and up to 96 MiB of the file that a savepoint fills.",
    ),
];

/// Integer properties of RocksDB that can be metrics.
const ROCKSDB_PROPERTIES: &[&str] = &[
    "actual-delayed-write-rate",
    "background-errors",
    "block-cache-pinned-usage",
    "block-cache-usage",
    "compaction-pending",
    "cur-size-all-mem-tables",
    "estimate-live-data-size",
    "estimate-num-keys",
    "estimate-pending-compaction-bytes",
    "estimate-table-readers-mem",
    "is-write-stopped",
    "live-sst-files-size",
    "mem-table-flush-pending",
    "num-deletes-active-mem-table",
    "num-entries-active-mem-table",
    "num-immutable-mem-table",
    "num-live-versions",
    "num-running-compactions",
    "num-running-flushes",
    "num-snapshots",
    "total-sst-files-size",
];

const ROCKSDB: &[Spec] = &[
    text(
        "memory.rocksdb",
        Kind::Share,
        "25%",
        "Memory of all RocksDB backends together, block cache and memtables: a size, or a percentage of memory.budget. \
         Flink's state.backend.rocksdb.memory.managed and memory.fixed-per-slot. There is no \
         state.backend.rocksdb.memory.high-prio-pool-ratio: the cache has no such pool; indexes and filters are \
         in it like data.",
    ),
    text(
        "state.backend.rocksdb.memory.write-buffer-ratio",
        Kind::Ratio,
        "0.5",
        "The part of memory.rocksdb that memtables may take.",
    ),
    Spec {
        key: "state.backend.rocksdb.localdir",
        kind: Kind::Paths,
        default: Default::Computed { how: "the folder `local` in dstl.data-dir", for_root: "/var/lib/dstl/local" },
        doc: "Folders of RocksDB's files, best on different local disks: databases are spread over them. Daemons may share \
              them. Nothing in them outlives its daemon; what a killed one left, the next one removes.",
    },
    text(
        "state.backend.rocksdb.thread.num",
        THREADS,
        "2",
        "Threads for the flushes of all RocksDB backends, and as many for their compactions.",
    ),
    text(
        "state.backend.rocksdb.predefined-options",
        Kind::Choice(&[
            "DEFAULT",
            "SPINNING_DISK_OPTIMIZED",
            "SPINNING_DISK_OPTIMIZED_HIGH_MEM",
            "FLASH_SSD_OPTIMIZED",
        ]),
        "DEFAULT",
        "Options of RocksDB for a kind of disk, as Flink has them.",
    ),
    text(
        "state.backend.rocksdb.timer-service.factory",
        Kind::Choice(&["ROCKSDB", "HEAP"]),
        "ROCKSDB",
        "What keeps the timers of RocksDB backends in order: `ROCKSDB` itself, with the first ones of each key group in memory, \
         or an index of all of them in memory, `HEAP`. On disk they are either way, so it may change at any restart.",
    ),
    text(
        "state.backend.rocksdb.options",
        Kind::Table { secret: false },
        "",
        "Single options of RocksDB over the predefined ones, by RocksDB's own names, such as `max_open_files` or \
         `write_buffer_size`; those of tables as `block_based_table_factory = \"{block_size=16K}\"`. RocksDB checks names \
         and values. A single one can be set as `state.backend.rocksdb.options.<name>`.",
    ),
    text(
        "state.backend.rocksdb.metrics",
        Kind::Words(ROCKSDB_PROPERTIES),
        "",
        "Properties of RocksDB that become metrics, summed over all databases: `estimate-num-keys` is \
         `dstl_rocksdb_estimate_num_keys`. Flink has an option for each instead. Some cost time with many databases.",
    ),
];

const CHANGELOG: &[Spec] = &[
    text(
        "state.changelog.enabled",
        Kind::Flag,
        "true",
        "Whether a backend whose engine does not say gets a changelog. Without one a checkpoint is a snapshot of \
         what changed since the last one, and takes as long as that does. \
         Flink's default is `false`.",
    ),
    Spec {
        key: "state.changelog.dstl.dfs.base-path",
        kind: Kind::Store,
        default: Default::Computed { how: "the folder `store` in dstl.data-dir", for_root: "/var/lib/dstl/store" },
        doc: "Where changelogs and checkpoints are kept: an absolute path or a URL (file, s3, gs, az, abfs, hdfs, memory). \
              Credentials come from the environment, as the store's own tools read them.",
    },
    text(
        "state.changelog.dstl.dfs.store-options",
        Kind::Table { secret: true },
        "",
        "Options handed to the object store as they are, such as `aws_endpoint` or `aws_region`; for HDFS `config_dir`, `user`, \
         `replication`, `block_size`, `kerberos_principal`, `kerberos_keytab`, `kerberos_cache`. Their values are never \
         shown. A single one can be set as `state.changelog.dstl.dfs.store-options.<name>`.",
    ),
    text(
        "state.changelog.dstl.dfs.compression",
        Kind::Choice(&["none", "lz4", "zstd"]),
        "none",
        "How change sets are compressed.",
    ),
    text(
        "state.changelog.dstl.dfs.preemptive-persist-threshold",
        at_least(1),
        "5 MiB",
        "A changelog with so many bytes that are not yet uploaded starts an upload before any checkpoint asks.",
    ),
    text(
        "state.changelog.dstl.dfs.batch.persist-delay",
        ANY_DURATION,
        "10 ms",
        "How long an upload waits for other backends of the job to share its segment. `0 ms` uploads at once.",
    ),
    text(
        "state.changelog.dstl.dfs.batch.persist-size-threshold",
        at_least(1),
        "10 MiB",
        "So many waiting bytes are uploaded without waiting out the delay.",
    ),
];

const MATERIALIZATION: &[Spec] = &[
    text(
        "state.changelog.periodic-materialize.enabled",
        Kind::Flag,
        "true",
        "Whether backends materialize by time. Without it they do on request and before a replay gets too long.",
    ),
    text(
        "state.changelog.periodic-materialize.interval",
        Kind::Duration { min: Duration::from_secs(1) },
        "10 min",
        "Time between two materializations of a backend; the first comes at a random moment within it.",
    ),
    text(
        "recovery.max-replay-time",
        Kind::Duration { min: Duration::from_secs(1) },
        "1 min",
        "How long the replay of a changelog may take, as estimated. A materialization begins at half of it; at the limit the writer \
         waits for one.",
    ),
    text(
        "recovery.replay-rate",
        Kind::Integer { min: 1, max: 1 << 30 },
        "500000",
        "State changes that a replay does in a second, for that estimate.",
    ),
    text(
        "execution.state-recovery.claim-mode",
        Kind::Choice(&["CLAIM", "NO_CLAIM"]),
        "CLAIM",
        "Who owns a checkpoint that is restored, where the engine does not say: with `CLAIM` the new owner, which builds on it and \
         lets it go as any other; with `NO_CLAIM` nobody, so that it stays until a user lets it go, and Open takes as long \
         as copying all state to the store takes. Checkpoints of other jobs are never claimed. Here restarts after failures \
         are restores like others, so an engine that restarts tasks says `CLAIM` for these. Flink's default is `NO_CLAIM`.",
    ),
    text(
        "recovery.pin-lease",
        AT_LEAST_1_S,
        "10 min",
        "How long what a clone of another job's checkpoint reads is kept for it, after it last said that it still reads. It says so \
         three times as often, and stops if it cannot: the lease is the longest outage of the store that a clone survives.",
    ),
    text(
        "execution.state-recovery.warm",
        Kind::Flag,
        "false",
        "Whether a task that comes back to its daemon gets the checkpoint that it restores from there, rather than from the store. \
         hashmap: what is overwritten between checkpoints is kept, up to memory.undo, and rolled back. rocksdb: the files of the \
         newest base stay linked on local disk, and what is uploaded of the log is copied there, up to \
         execution.checkpointing.local-backup.max-size. With hashmap a writer at full speed takes up to 60 % more processor time.",
    ),
    text(
        "execution.state-recovery.linger",
        ANY_DURATION,
        "0 s",
        "How long a backend stays open without a session, for its task to come back, where the task does not say itself; then it is \
         closed. `0 s`: for ever. Where memory runs short, backends that have such a time and no session are closed at once, the one \
         that is without for longest first.",
    ),
];

const TRANSFER: &[Spec] = &[
    text("state.changelog.dstl.dfs.upload.num-threads", THREADS, "5", "Most segments that are uploaded at a time."),
    Spec {
        key: "state.changelog.dstl.dfs.upload.max-in-flight",
        kind: at_least(1 << 20),
        default: Default::Computed {
            how: "256 MiB or 15% of memory.budget, whichever is less, but enough for two of the longest messages and for the \
                  thresholds of uploads",
            for_root: "256 MiB",
        },
        doc: "Budget of changes that are not yet durable. Writers are pushed back beyond it. Flink's default is 100 MB.",
    },
    text(
        "state.changelog.dstl.dfs.upload.timeout",
        Kind::Duration { min: Duration::from_millis(10) },
        "5 s",
        "Timeout of one attempt of a small upload; it grows with the size. Flink's default is 1 s whatever the size.",
    ),
    text(
        "state.changelog.dstl.dfs.upload.next-attempt-delay",
        AT_LEAST_1_MS,
        "100 ms",
        "Delay before the first repetition of an upload; it doubles with each. Uploads are repeated until the \
         checkpoint's timeout, where Flink gives up after 3 attempts.",
    ),
    text(
        "state.changelog.dstl.dfs.upload.max-attempt-delay",
        AT_LEAST_1_MS,
        "5 s",
        "Longest delay between two attempts of an upload.",
    ),
    text(
        "state.changelog.dstl.dfs.download.num-threads",
        THREADS,
        "4",
        "Most objects that one restore reads at a time.",
    ),
    text(
        "state.changelog.dstl.dfs.max-requests-per-second",
        Kind::Integer { min: 0, max: 1_000_000 },
        "0",
        "Most requests that this daemon makes of the store in a second, over all its backends, repetitions included; what is beyond \
         waits. `0` is no limit. Not in Flink.",
    ),
];

const LOCAL_COPIES: &[Spec] = &[
    text(
        "execution.checkpointing.local-backup.enabled",
        Kind::Flag,
        "false",
        "Whether what is uploaded is also written to local disk, as far as the newest completed checkpoint and newer ones need it. \
         A copy that cannot be written never fails a checkpoint.",
    ),
    text(
        "execution.state-recovery.from-local",
        Kind::Flag,
        "false",
        "Whether restores read local copies where there are any. Each is verified; the store is asked for what has none, and for \
         manifests always.",
    ),
    Spec {
        key: "execution.checkpointing.local-backup.dirs",
        kind: Kind::Paths,
        default: Default::Computed { how: "the folder `copies` in dstl.data-dir", for_root: "/var/lib/dstl/copies" },
        doc: "Folders of the local copies, which are spread over them. They outlive the daemon, and belong to one daemon at a time: a \
              second one does without.",
    },
    text(
        "execution.checkpointing.local-backup.max-size",
        at_least(1 << 20),
        "10 GiB",
        "Most bytes of all local copies; beyond, the oldest are deleted. Flink has no such bound.",
    ),
    text(
        "state.changelog.dstl.dfs.download.local-cache.idle-timeout-ms",
        AT_LEAST_1_S,
        "10 min",
        "Local copies of a backend that has not been open for so long are deleted.",
    ),
];

const CHECKPOINTS: &[Spec] = &[
    text(
        "execution.checkpointing.num-retained",
        Kind::Integer { min: 1, max: 1_000 },
        "3",
        "Completed checkpoints that are kept of a backend whose engine does not say. Flink's default is 1.",
    ),
    text(
        "execution.checkpointing.timeout",
        AT_LEAST_1_S,
        "10 min",
        "A checkpoint that is not complete after so long is aborted.",
    ),
    text(
        "execution.checkpointing.max-concurrent-checkpoints",
        Kind::Integer { min: 1, max: 1_000 },
        "64",
        "Most checkpoints of one backend that are triggered and not yet answered. Where a barrier would make it more, the second \
         oldest fails, so that the oldest and the newest go on. Flink allows only 1 with a changelog.",
    ),
    text(
        "execution.checkpointing.coordination.poll-interval",
        AT_LEAST_1_MS,
        "1 s",
        "How often a daemon looks whether another one has committed a checkpoint that its backends have reported, in jobs that let dstl \
         coordinate (DeclareJob).",
    ),
    text(
        "execution.checkpointing.data-inline-threshold",
        Kind::Size { min: 0, max: 1 << 20 },
        "20 KiB",
        "Changes of one backend since its last upload that are not more than so many bytes at a barrier go into its manifest \
         rather than a segment: the checkpoint costs one write. `0` turns this off.",
    ),
    text(
        "savepoint.timeout",
        AT_LEAST_1_S,
        "1 h",
        "How long a savepoint by barrier may take, from the barrier until it exists, where the barrier does not say.",
    ),
    text(
        "verify.interval",
        ANY_DURATION,
        "0 s",
        "Time between two proofs that the newest checkpoint of each backend can be restored, if it has a newer one than at the proof before. \
         `0 s`, never, is the default: a proof reads all state from the store and takes a processor as long as a restore does, so only you \
         know how often that is worth it. `24 h` is a good start.",
    ),
    text(
        "gc.grace-period",
        AT_LEAST_1_S,
        "1 h",
        "Unreferenced objects younger than this, by the store's clock, are not deleted.",
    ),
    text(
        "gc.interval",
        ANY_DURATION,
        "1 h",
        "Time between two sweeps of each job of which this daemon has a backend; the first comes at a random moment within it. `0 s` \
         turns them off: then `dstl gc --delete` has to be run by a timer.",
    ),
];

const SOCKET: &[Spec] = &[
    Spec {
        key: "rpc.socket",
        kind: Kind::Path { optional: false },
        default: Default::Computed {
            how: "$XDG_RUNTIME_DIR/dstl.sock, else /run/dstl/dstl.sock for root, else /tmp/dstl-<uid>/dstl.sock",
            for_root: "/run/dstl/dstl.sock",
        },
        doc: "Unix socket of the gRPC service.",
    },
    text("rpc.socket-mode", Kind::Mode, "0600", "Permissions of the socket, in octal."),
    text("rpc.socket-group", Kind::Text, "", "Group of the socket, by name or id; empty for the daemon's own."),
    text(
        "rpc.allowed-uids",
        Kind::Ids,
        "",
        "User ids that may connect to the socket, beside the daemon's own; empty for whoever its permissions admit.",
    ),
    text(
        "rpc.socket-folder-open",
        Kind::Flag,
        "false",
        "Takes a folder for the socket that everybody may write: whoever can could put a socket of theirs in its place. For a volume that \
         only the containers of one pod have.",
    ),
    text(
        "rpc.allowed-jobs",
        Kind::Table { secret: false },
        "",
        "Who may use which jobs: `uid:1000` (over the socket) or `cert:NAME` (over TCP, a name of the client's certificate), or `*` for all \
         others; then names of jobs, with spaces between them, of which each may end with `*`. Whoever is not named may use none. Empty: \
         whoever can connect may use every job. A single one can be set as `rpc.allowed-jobs.<who>`.",
    ),
];

const TCP: &[Spec] = &[
    text(
        "rpc.tcp.address",
        Kind::Address,
        "off",
        "Address of the gRPC service over TCP; needs TLS or rpc.tcp.insecure.",
    ),
    text("rpc.tcp.cert", OPTIONAL_PATH, "", "Certificate chain of the daemon, PEM."),
    text("rpc.tcp.key", OPTIONAL_PATH, "", "Private key of the daemon, PEM."),
    text("rpc.tcp.client-ca", OPTIONAL_PATH, "", "Certificates that sign those of the clients, PEM."),
    text("rpc.tcp.insecure", Kind::Flag, "false", "Serves TCP without TLS; only on a loopback address."),
];

const OPERATION: &[Spec] = &[
    text(
        "queryable-state.enabled",
        Kind::Flag,
        "false",
        "Whether clients may read backends beside their writers (the call Query): what is applied, or the newest completed \
         checkpoint. Whoever reaches the socket may, then.",
    ),
    text("admin.address", Kind::Address, "127.0.0.1:9321", "Address of metrics, health and status page, by HTTP."),
    text(
        "admin.max-connections",
        Kind::Integer { min: 1, max: 4096 },
        "64",
        "Most connections to it, and an eighth of the open files that this process may have; beyond it the one that has been idle for longest \
         is closed.",
    ),
    text(
        "admin.header-timeout",
        AT_LEAST_1_MS,
        "5 s",
        "A connection to it on which no request is whole for so long is closed.",
    ),
    text(
        "admin.store-prices",
        Kind::Table { secret: false },
        "",
        "Prices of 1,000 requests to the store, for the status page: of `create`, `get`, `get_range`, `head`, `list` and `delete`; and their \
         `currency`. What is not set is as Amazon S3 asks in us-east-1: 0.005 USD for `create` and `list`, 0.0004 for reads, 0 for `delete`. \
         A single one can be set as `admin.store-prices.<operation>`.",
    ),
    text(
        "drain-timeout",
        ANY_DURATION,
        "30 s",
        "How long a daemon that was asked to stop serves its open sessions before it ends them.",
    ),
    text("log.format", Kind::Choice(&["text", "json"]), "text", "Format of the log on standard error."),
    text(
        "log.level",
        Kind::Filter,
        "info",
        "What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or a filter as of tracing. The environment \
         variable DSTL_LOG is short for it.",
    ),
];

/// Every option of [`SECTIONS`].
pub(super) fn all() -> impl Iterator<Item = &'static Spec> + Clone {
    SECTIONS.iter().flat_map(|section| section.options)
}

/// The option with this name.
pub(super) fn find(key: &str) -> Option<&'static Spec> {
    all().find(|spec| spec.key == key)
}

/// The option with this name, or the table and the name of its entry (`<key of the table>.<name>`).
pub(super) fn find_with_entry(key: &str) -> Option<(&'static Spec, Option<&str>)> {
    find(key).map(|spec| (spec, None)).or_else(|| {
        let table = |spec: &Spec| matches!(spec.kind, Kind::Table { .. });
        all().filter(|spec| table(spec)).find_map(|spec| {
            let entry = key.strip_prefix(spec.key)?.strip_prefix('.')?;
            (!entry.is_empty()).then_some((spec, Some(entry)))
        })
    })
}

/// The environment variable of the option `key`: `DSTL_`, then the name in upper case with `_` for dots and dashes. A
/// leading `dstl.` of the name is not said twice.
pub(super) fn variable(key: &str) -> String {
    let name = key.strip_prefix("dstl.").unwrap_or(key);
    format!("DSTL_{}", name.to_ascii_uppercase().replace(['.', '-'], "_"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_is_allowed() {
        for spec in all() {
            let default = match spec.default {
                Default::Text(text) => text,
                Default::Computed { for_root, .. } => for_root,
            };
            assert!(spec.kind.parse(default).is_some(), "{} = {default}", spec.key);
        }
    }

    #[test]
    fn names_and_variables_are_unique() {
        let keys: BTreeSet<_> = all().map(|spec| spec.key).collect();
        let variables: BTreeSet<_> = keys.iter().map(|key| variable(key)).collect();
        assert_eq!((keys.len(), variables.len()), (all().count(), all().count()));
    }

    #[test]
    fn names_are_kebab_case() {
        for spec in all() {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            assert!(spec.key.chars().all(fits), "{}", spec.key);
            assert!(spec.doc.ends_with('.'), "{} has no sentence", spec.key);
        }
    }

    #[test]
    fn a_variable_follows_from_its_key() {
        assert_eq!(variable("state.changelog.dstl.dfs.base-path"), "DSTL_STATE_CHANGELOG_DSTL_DFS_BASE_PATH");
        assert_eq!(variable("dstl.data-dir"), "DSTL_DATA_DIR");
    }
}
