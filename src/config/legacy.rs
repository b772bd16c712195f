//! The table of Flink's names: settings with another name here, settings that dstl does not have, and former values of
//! `state.backend.type`. Faults of a configuration and the translation of a Flink file both use it.
//!
//! An option that has the same name in both is only in the table of options; [`SAME`] lists the differences in meaning.

use super::options;

/// Keys of Flink with the same answer; the one that Flink itself prefers is first.
#[derive(Debug)]
pub(super) struct Legacy {
    /// Whole keys, or beginnings of keys if they end with `*`.
    pub(super) names: &'static [&'static str],
    pub(super) answer: Answer,
}

/// The answer to a setting of Flink. Texts are parts of sentences, without a final full stop.
#[derive(Debug)]
pub(super) enum Answer {
    /// Another option has the same meaning.
    Renamed { to: &'static str, carry: Carry },
    /// Another option has a similar meaning; `note` tells the difference.
    Changed { to: &'static str, carry: Carry, note: &'static str },
    /// There is no such option; the text gives the reason and an alternative.
    Missing(&'static str),
    /// As [`Missing`](Self::Missing), and the value must not be shown.
    Secret(&'static str),
    /// The setting is not about state; the text tells where it belongs.
    Foreign(&'static str),
}

/// How a value of Flink becomes one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carry {
    /// The same value in our notation.
    AsIs,
    /// The name of a state backend.
    Backend,
    /// Whether to compress becomes the kind of compression.
    Compression,
    /// A flag, inverted, as this entry of a table.
    Negated(&'static str),
    /// The same value, as this entry of a table.
    Entry(&'static str),
    /// A size in bytes, as this entry of a table.
    Bytes(&'static str),
    /// A word with this prefix, in which only the first letter is a capital, as the entry `compaction_style`.
    CompactionStyle,
    /// A size in bytes, as this part of the entry `block_based_table_factory`.
    Block(&'static str),
    /// A flag, as this part of the entry `block_based_table_factory`.
    BlockFlag(&'static str),
    /// The property at the end of the key becomes an item of a list, if the flag is set.
    Metric,
}

/// An option that both have, with a difference.
pub(super) struct Same {
    pub(super) key: &'static str,
    /// Flink's default; empty if it does not matter.
    pub(super) flink_default: &'static str,
    /// Other differences; may be empty.
    pub(super) note: &'static str,
}

const fn renamed(names: &'static [&'static str], to: &'static str) -> Legacy {
    Legacy { names, answer: Answer::Renamed { to, carry: Carry::AsIs } }
}

const fn changed(names: &'static [&'static str], to: &'static str, note: &'static str) -> Legacy {
    Legacy { names, answer: Answer::Changed { to, carry: Carry::AsIs, note } }
}

const fn carried(names: &'static [&'static str], to: &'static str, carry: Carry) -> Legacy {
    Legacy { names, answer: Answer::Renamed { to, carry } }
}

const fn missing(names: &'static [&'static str], why: &'static str) -> Legacy {
    Legacy { names, answer: Answer::Missing(why) }
}

const fn secret(names: &'static [&'static str], why: &'static str) -> Legacy {
    Legacy { names, answer: Answer::Secret(why) }
}

const fn foreign(names: &'static [&'static str], why: &'static str) -> Legacy {
    Legacy { names, answer: Answer::Foreign(why) }
}

/// The option that names the inner backend.
pub(super) const BACKEND: &str = "state.backend.type";
/// The table of RocksDB's own options.
pub(super) const ROCKSDB_OPTIONS: &str = "state.backend.rocksdb.options";
const ROCKSDB_METRICS: &str = "state.backend.rocksdb.metrics";
const STORE: &str = "state.changelog.dstl.dfs.base-path";
const STORE_OPTIONS: &str = "state.changelog.dstl.dfs.store-options";
const COMPRESSION: &str = "state.changelog.dstl.dfs.compression";

const ENGINE: &str =
    "the engine decides when checkpoints are made and what their barriers do; it stays in the engine's configuration";
const CREDENTIALS: &str = "credentials come from the environment, as with the store's own tools (AWS_ACCESS_KEY_ID and \
                           AWS_SECRET_ACCESS_KEY, a role, a web identity)";
const OF_A_TASK: &str =
    "it is about Flink's own processes, which dstl does not replace; it stays in Flink's configuration";
const WRITE_BUFFERS: &str = "dstl has no such buffer: a segment is one request, of what the changelog holds in memory";

/// Beginnings of keys that Flink has changed since; the rest of the key stayed.
pub(super) const MOVED: [(&str, &str); 2] =
    [("dstl.dfs.", "state.changelog.dstl.dfs."), ("state.backend.changelog.", "state.changelog.")];

/// All keys. A whole key takes precedence over a beginning.
pub(super) static TABLE: &[Legacy] = &[
    carried(&["state.backend"], BACKEND, Carry::Backend),
    changed(
        &["execution.checkpointing.dir", "state.checkpoints.dir", "state.backend.fs.checkpointdir"],
        STORE,
        "changelogs and checkpoints lie in one store, in folders of their job",
    ),
    missing(
        &[
            "execution.checkpointing.savepoint-dir",
            "state.savepoints.dir",
            "savepoints.state.backend.fs.dir",
            "state.backend.fs.savepointdir",
        ],
        "savepoints lie beside the job's checkpoints, in the store of state.changelog.dstl.dfs.base-path; `dstl savepoint` makes them",
    ),
    renamed(&["state.checkpoints.num-retained"], "execution.checkpointing.num-retained"),
    missing(
        &["execution.checkpointing.storage", "state.checkpoint-storage", "state.changelog.storage"],
        "there is one storage, the store of state.changelog.dstl.dfs.base-path, which has everything; set that",
    ),
    missing(
        &["state.checkpoints.create-subdir", "execution.checkpointing.create-subdir"],
        "the store has a folder for each job, always",
    ),
    renamed(
        &["state.storage.fs.memory-threshold", "state.backend.fs.memory-threshold"],
        "execution.checkpointing.data-inline-threshold",
    ),
    missing(
        &[
            "execution.checkpointing.write-buffer-size",
            "state.storage.fs.write-buffer-size",
            "state.backend.fs.write-buffer-size",
        ],
        WRITE_BUFFERS,
    ),
    missing(&["state.changelog.dstl.dfs.upload.buffer-size"], WRITE_BUFFERS),
    missing(
        &["state.backend.fs.*"],
        "set state.changelog.dstl.dfs.base-path and its neighbours, see `dstl config options`",
    ),
    missing(
        &["state.backend.async", "state.backend.heap.async"],
        "snapshots are made beside the writer, always; remove it",
    ),
    missing(
        &["execution.checkpointing.incremental", "state.backend.incremental"],
        "a materialization uploads only what changed, always; remove it",
    ),
    changed(
        &["state.backend.local-recovery"],
        "execution.state-recovery.from-local",
        "it has restores read local copies; for these to be made, set execution.checkpointing.local-backup.enabled too",
    ),
    renamed(&["taskmanager.state.local.root-dirs"], "execution.checkpointing.local-backup.dirs"),
    renamed(&["execution.savepoint-restore-mode"], "execution.state-recovery.claim-mode"),
    missing(
        &[
            "execution.state-recovery.path",
            "execution.savepoint.path",
            "execution.state-recovery.ignore-unclaimed-state",
            "execution.savepoint.ignore-unclaimed-state",
        ],
        "the engine says what to restore when it opens a backend",
    ),
    missing(
        &["state.changelog.max-failures-allowed"],
        "a failed materialization is repeated and never fails the task; what it may cost is bounded by recovery.max-replay-time",
    ),
    missing(
        &["state.changelog.dstl.dfs.upload.max-attempts", "state.changelog.dstl.dfs.upload.retry-policy"],
        "an upload is repeated until the checkpoint's timeout; set execution.checkpointing.timeout",
    ),
    Legacy {
        names: &["state.changelog.dstl.dfs.compression.enabled"],
        answer: Answer::Changed {
            to: COMPRESSION,
            carry: Carry::Compression,
            note: "Flink compresses with Snappy, which dstl does not have",
        },
    },
    missing(
        &["state.changelog.dstl.dfs.discard.num-threads"],
        "segments are deleted by sweeps, see gc.interval and gc.grace-period",
    ),
    changed(
        &["state.backend.rocksdb.memory.fixed-per-tm", "state.backend.rocksdb.memory.fixed-per-slot"],
        "memory.rocksdb",
        "it is of the whole daemon, however many slots its tasks have, and changelogs and state in memory have budgets of their own",
    ),
    missing(
        &["state.backend.rocksdb.memory.managed"],
        "the memory of RocksDB is always bounded; set memory.rocksdb, a size or a percentage of memory.budget",
    ),
    missing(
        &["state.backend.rocksdb.memory.high-prio-pool-ratio"],
        "the cache has no such pool; indexes and filters are in it like data",
    ),
    carried(
        &["state.backend.rocksdb.memory.partitioned-index-filters"],
        ROCKSDB_OPTIONS,
        Carry::BlockFlag("partition_filters"),
    ),
    renamed(&["state.backend.rocksdb.checkpointdir"], "state.backend.rocksdb.localdir"),
    changed(
        &["state.backend.rocksdb.checkpoint.transfer.thread.num"],
        "state.changelog.dstl.dfs.download.num-threads",
        "it bounds what a restore reads at a time; uploads have state.changelog.dstl.dfs.upload.num-threads",
    ),
    missing(
        &["state.backend.rocksdb.timer-service.cache-size"],
        "how many timers of a key group are in memory follows from the number of key groups; remove it",
    ),
    missing(
        &["state.backend.rocksdb.options-factory"],
        "there is no Java here; set single options by RocksDB's own names in state.backend.rocksdb.options",
    ),
    carried(&["state.backend.rocksdb.files.open"], ROCKSDB_OPTIONS, Carry::Entry("max_open_files")),
    carried(&["state.backend.rocksdb.writebuffer.size"], ROCKSDB_OPTIONS, Carry::Bytes("write_buffer_size")),
    carried(&["state.backend.rocksdb.writebuffer.count"], ROCKSDB_OPTIONS, Carry::Entry("max_write_buffer_number")),
    carried(
        &["state.backend.rocksdb.writebuffer.number-to-merge"],
        ROCKSDB_OPTIONS,
        Carry::Entry("min_write_buffer_number_to_merge"),
    ),
    carried(&["state.backend.rocksdb.compaction.style"], ROCKSDB_OPTIONS, Carry::CompactionStyle),
    carried(
        &["state.backend.rocksdb.compaction.level.use-dynamic-size"],
        ROCKSDB_OPTIONS,
        Carry::Entry("level_compaction_dynamic_level_bytes"),
    ),
    carried(
        &["state.backend.rocksdb.compaction.level.target-file-size-base"],
        ROCKSDB_OPTIONS,
        Carry::Bytes("target_file_size_base"),
    ),
    carried(
        &["state.backend.rocksdb.compaction.level.max-size-level-base"],
        ROCKSDB_OPTIONS,
        Carry::Bytes("max_bytes_for_level_base"),
    ),
    carried(&["state.backend.rocksdb.block.blocksize"], ROCKSDB_OPTIONS, Carry::Block("block_size")),
    carried(&["state.backend.rocksdb.block.metadata-blocksize"], ROCKSDB_OPTIONS, Carry::Block("metadata_block_size")),
    missing(
        &["state.backend.rocksdb.block.cache-size"],
        "all databases share one cache; set memory.rocksdb and state.backend.rocksdb.memory.write-buffer-ratio",
    ),
    missing(
        &["state.backend.rocksdb.use-bloom-filter", "state.backend.rocksdb.bloom-filter.*"],
        "set `filter_policy` in the entry `block_based_table_factory` of state.backend.rocksdb.options",
    ),
    missing(
        &["state.backend.rocksdb.compression.per.level"],
        "set `compression_per_level` in state.backend.rocksdb.options, to RocksDB's own words",
    ),
    missing(
        &["state.backend.rocksdb.write-batch-size"],
        "a batch of the session is one write, see rpc.max-message-size",
    ),
    missing(&["state.backend.rocksdb.log.*"], "the log of RocksDB is kept with its files, small; remove it"),
    missing(
        &[
            "state.backend.rocksdb.compaction.filter.*",
            "state.backend.rocksdb.ttl.compaction.filter.enabled",
            "state.backend.rocksdb.manual-compaction.*",
        ],
        "dstl compacts and cleans up by itself; remove it",
    ),
    missing(
        &[
            "state.backend.rocksdb.restore-overlap-fraction-threshold",
            "state.backend.rocksdb.overlap-fraction-threshold",
            "state.backend.rocksdb.use-ingest-db-restore-mode",
            "state.backend.rocksdb.incremental-restore-async-compact-after-rescale",
            "state.backend.rocksdb.use-delete-files-in-range",
            "state.backend.rocksdb.rescaling.*",
        ],
        "dstl rescales in its own way, without such a setting; remove it",
    ),
    Legacy {
        names: &["state.backend.rocksdb.metrics.*"],
        answer: Answer::Renamed { to: ROCKSDB_METRICS, carry: Carry::Metric },
    },
    missing(
        &["state.backend.forst.*"],
        "there is no ForSt here; `rocksdb` keeps state on local disk, and the store has the changelog",
    ),
    missing(
        &["state.backend.latency-track.*", "state.latency-track.*", "state.size-track.*"],
        "latencies and sizes are always measured, see `/metrics` at admin.address",
    ),
    missing(&["table.exec.state.ttl"], "time to live is said of each state when it is registered, not here"),
    changed(
        &["queryable-state.enable"],
        "queryable-state.enabled",
        "there is no query server: clients read through the socket, with the call Query",
    ),
    missing(&["queryable-state.*"], "dstl has no query server or proxy; clients read through the socket"),
    carried(&["s3.endpoint", "fs.s3a.endpoint"], STORE_OPTIONS, Carry::Entry("aws_endpoint")),
    carried(&["s3.region", "s3.endpoint.region", "fs.s3a.endpoint.region"], STORE_OPTIONS, Carry::Entry("aws_region")),
    carried(
        &["s3.path.style.access", "s3.path-style-access", "fs.s3a.path.style.access"],
        STORE_OPTIONS,
        Carry::Negated("aws_virtual_hosted_style_request"),
    ),
    secret(&["s3.access-key", "s3.access.key", "fs.s3a.access.key", "s3.access*"], CREDENTIALS),
    secret(&["s3.secret-key", "s3.secret.key", "fs.s3a.secret.key", "s3.secret*"], CREDENTIALS),
    secret(
        &["fs.azure.account.*", "fs.s3a.*", "fs.gs.*", "s3.*", "gs.*"],
        "options of the store by its own names go into state.changelog.dstl.dfs.store-options, credentials into the environment",
    ),
    missing(
        &["env.hadoop.conf.dir", "fs.hdfs.hadoopconf", "fs.hdfs.hdfsdefault", "fs.hdfs.hdfssite"],
        "the daemon finds Hadoop's configuration by HADOOP_CONF_DIR; where the store is on HDFS, `config_dir` in \
         state.changelog.dstl.dfs.store-options names it, too",
    ),
    missing(
        &["security.kerberos.login.keytab", "security.kerberos.login.principal"],
        "where the store is on HDFS, set `kerberos_keytab` and `kerberos_principal` in state.changelog.dstl.dfs.store-options",
    ),
    missing(&["execution.checkpointing.*"], ENGINE),
    missing(
        &["execution.state-recovery.*", "execution.savepoint.*"],
        "the engine says what to restore when it opens a backend",
    ),
    foreign(
        &[
            "taskmanager.*",
            "jobmanager.*",
            "high-availability.*",
            "high-availability",
            "restart-strategy.*",
            "restart-strategy",
            "parallelism.*",
            "pipeline.*",
            "rest.*",
            "kubernetes.*",
            "yarn.*",
            "env.*",
            "akka.*",
            "pekko.*",
            "cluster.*",
            "blob.*",
            "web.*",
            "security.*",
            "jobstore.*",
            "historyserver.*",
        ],
        OF_A_TASK,
    ),
    foreign(&["metrics.*"], "dstl has its own metrics, at admin.address"),
];

/// Options that both have, with a difference, in the order of the table of options.
pub(super) static SAME: &[Same] = &[
    Same {
        key: BACKEND,
        flink_default: "",
        note: "an engine may choose another for each backend; both keep their checkpoints in the store",
    },
    Same {
        key: "state.backend.rocksdb.thread.num",
        flink_default: "1",
        note: "threads are shared by all databases of the daemon, and compactions have as many again",
    },
    Same { key: "state.changelog.enabled", flink_default: "false", note: "" },
    Same { key: "state.changelog.dstl.dfs.base-path", flink_default: "", note: "it is the store of checkpoints, too" },
    Same { key: "state.changelog.dstl.dfs.upload.max-in-flight", flink_default: "100 mb", note: "" },
    Same {
        key: "state.changelog.dstl.dfs.upload.timeout",
        flink_default: "1 s",
        note: "it is the timeout of a small upload and grows with the size, where Flink's is the same for all sizes; a late success of \
               an attempt that was given up does no harm in either",
    },
    Same {
        key: "state.changelog.dstl.dfs.upload.next-attempt-delay",
        flink_default: "500 ms",
        note: "it doubles with each attempt up to upload.max-attempt-delay, and attempts end with the checkpoint's timeout",
    },
    Same {
        key: "execution.checkpointing.num-retained",
        flink_default: "1",
        note: "an engine may say otherwise for each backend",
    },
    Same {
        key: "execution.state-recovery.claim-mode",
        flink_default: "NO_CLAIM",
        note: "it is for every restore of which the engine does not say, restarts after failures too: each would keep a checkpoint, so \
               an engine that restarts tasks says `CLAIM` for these; there is no `LEGACY`",
    },
    Same {
        key: "state.changelog.dstl.dfs.download.local-cache.idle-timeout-ms",
        flink_default: "",
        note: "it is about local copies of what this host uploaded; a restore reads just the ranges of segments that it needs, each \
               once, so what it downloads is not kept on disk",
    },
    Same {
        key: "execution.checkpointing.max-concurrent-checkpoints",
        flink_default: "1",
        note: "it is the most that dstl answers at a time; how many are made, the engine decides",
    },
];

/// A key that is in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) answer: &'static Answer,
    /// Its position in the table. Of two keys for one option, Flink prefers the lower one.
    pub(super) rank: usize,
    /// Whether a whole key was found, instead of a beginning.
    pub(super) whole: bool,
}

/// The answer to `key`, which is not an option, under Flink's present name of it ([`present_name`]).
pub(super) fn find(key: &str) -> Option<Found> {
    found(|name| matched(name, key))
}

/// As [`find`], for the name of an environment variable.
pub(super) fn find_variable(variable: &str) -> Option<Found> {
    found(|name| match name.strip_suffix('*') {
        Some(beginning) => variable.starts_with(&options::variable(beginning)).then_some(false),
        None => (options::variable(name) == variable).then_some(true),
    })
}

/// Flink's present name of `key`, if its beginning has changed.
pub(super) fn present_name(key: &str) -> Option<String> {
    MOVED.iter().find_map(|(old, new)| key.strip_prefix(old).map(|rest| format!("{new}{rest}")))
}

/// Whether `name` matches `key`, and if so, whether as a whole.
fn matched(name: &str, key: &str) -> Option<bool> {
    match name.strip_suffix('*') {
        Some(beginning) => key.starts_with(beginning).then_some(false),
        None => (name == key).then_some(true),
    }
}

fn found(fits: impl Fn(&str) -> Option<bool>) -> Option<Found> {
    let names = TABLE.iter().flat_map(|row| row.names.iter().map(move |name| (*name, &row.answer)));
    let hits = names.enumerate().filter_map(|(rank, (name, answer))| Some(Found { answer, rank, whole: fits(name)? }));
    // A whole key wins over a beginning, wherever the two are in the table.
    hits.min_by_key(|hit| (!hit.whole, hit.rank))
}

/// Names of state backends: our word for each, and the meaning that it does not express.
const BACKENDS: [(&[&str], &str, &str); 4] = [
    (&["hashmap", "HashMapStateBackend"], "hashmap", ""),
    (
        &["jobmanager", "memory", "MemoryStateBackend"],
        "hashmap",
        "checkpoints go to the store of state.changelog.dstl.dfs.base-path, not to the JobManager",
    ),
    (
        &["filesystem", "FsStateBackend"],
        "hashmap",
        "where its checkpoints go is said by state.changelog.dstl.dfs.base-path",
    ),
    (&["rocksdb", "RocksDBStateBackend", "EmbeddedRocksDBStateBackend"], "rocksdb", ""),
];

/// Our word for the state backend that Flink calls `name`, which is a word, a class or its factory; with a remark about
/// it.
pub(super) fn backend(name: &str) -> Option<(&'static str, &'static str)> {
    let class = match name.strip_prefix("org.apache.flink.") {
        Some(class) => class.rsplit(['.', '$']).next()?,
        None => name,
    };
    let class = class.strip_suffix("Factory").unwrap_or(class);
    let (_, word, note) = BACKENDS.iter().find(|(names, ..)| names.iter().any(|it| it.eq_ignore_ascii_case(class)))?;
    Some((word, note))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_of_the_table_is_an_option_or_stands_twice() {
        let mut names = BTreeSet::new();
        for name in TABLE.iter().flat_map(|row| row.names) {
            assert!(options::find_with_entry(name).is_none(), "{name} is an option");
            assert!(present_name(name).is_none(), "{name} has moved");
            assert!(names.insert(name), "{name} stands twice");
        }
    }

    #[test]
    fn answers_name_options_that_there_are() {
        for row in TABLE {
            if let Answer::Renamed { to, .. } | Answer::Changed { to, .. } = row.answer {
                assert!(options::find(to).is_some(), "{to}");
            }
        }
        for same in SAME {
            assert!(options::find(same.key).is_some(), "{}", same.key);
        }
    }

    #[test]
    fn texts_are_parts_of_sentences() {
        for row in TABLE {
            if let Answer::Changed { note: text, .. }
            | Answer::Missing(text)
            | Answer::Secret(text)
            | Answer::Foreign(text) = row.answer
            {
                assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
            }
        }
    }

    #[test]
    fn a_whole_key_wins_over_a_beginning() {
        let answer = |key| find(key).unwrap().answer;
        assert!(matches!(answer("taskmanager.numberOfTaskSlots"), Answer::Foreign(_)));
        assert!(matches!(answer("taskmanager.state.local.root-dirs"), Answer::Renamed { .. }));
        assert!(matches!(answer("s3.endpoint"), Answer::Renamed { .. }));
        assert!(matches!(answer("s3.secret-key"), Answer::Secret(_)));
        assert!(find("state.backend.rocksdb.localdirs").is_none());
    }

    #[test]
    fn names_that_moved_twice_are_found() {
        assert_eq!(present_name("dstl.dfs.base-path").unwrap(), "state.changelog.dstl.dfs.base-path");
        assert_eq!(present_name("state.backend.changelog.storage").unwrap(), "state.changelog.storage");
        assert_eq!(present_name("dstl.data-dir"), None);
    }

    #[test]
    fn a_state_backend_is_known_by_word_class_and_factory() {
        for (name, word) in [
            ("jobmanager", "hashmap"),
            ("filesystem", "hashmap"),
            ("rocksdb", "rocksdb"),
            ("MemoryStateBackend", "hashmap"),
            ("FsStateBackend", "hashmap"),
            ("org.apache.flink.runtime.state.memory.MemoryStateBackend", "hashmap"),
            ("org.apache.flink.runtime.state.filesystem.FsStateBackendFactory", "hashmap"),
            ("org.apache.flink.runtime.state.hashmap.HashMapStateBackend", "hashmap"),
            ("org.apache.flink.contrib.streaming.state.RocksDBStateBackendFactory", "rocksdb"),
            ("org.apache.flink.state.rocksdb.EmbeddedRocksDBStateBackend", "rocksdb"),
        ] {
            assert_eq!(backend(name).unwrap().0, word, "{name}");
        }
        assert_eq!(backend("com.example.RocksDBStateBackend"), None);
        assert_eq!(backend("forst"), None);
    }
}
