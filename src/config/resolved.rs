//! Resolves the configuration: fills in computed defaults, and checks the rules between options.

use std::{collections::BTreeSet, num::NonZeroU32, path::PathBuf};

use url::Url;

use super::{
    AdminConfig, ChangelogConfig, CheckpointConfig, ClaimMode, Compression, Config, GcConfig, Host, InnerBackend,
    LocalCopiesConfig, LogConfig, LogFormat, MaterializationConfig, MemoryConfig, PredefinedOptions, RocksDbConfig,
    RpcConfig, StoreOptions, TcpConfig, TcpSecurity, TimerService, UploadConfig,
    check::{self, MAX_IN_FLIGHT, Rule},
    fault::{Fault, Faults},
    kind::Share,
    legacy::ROCKSDB_OPTIONS,
    merged::Merged,
    size,
    typed::{Setting, Typed},
};
use crate::{
    admin::prices::Prices,
    limits::{Bounds, Times},
    types::AllowedJobs,
};

const ALLOWED_JOBS: &str = "rpc.allowed-jobs";

const STORE_PRICES: &str = "admin.store-prices";

/// Longest path of a Unix socket in bytes (`sun_path` without its final zero).
pub(super) const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Highest default budget, in bytes, for changes that are not yet durable: enough for half a minute of a busy task.
const MAX_IN_FLIGHT_BYTES: usize = 256 << 20;

/// Highest share of the memory budget that this default may take, in percent.
const MAX_IN_FLIGHT_PERCENT: u64 = 15;

/// Resolves the typed settings. The error has every fault of single settings and of the rules. A rule about an option
/// that is faulty by itself is not checked.
pub(super) fn resolve(typed: Typed, host: &Host) -> Result<Config, Faults> {
    let mut merged = Merged::new(&typed);
    let Typed { settings, mut faults, incomplete } = typed;
    faults.extend(settings.iter().flat_map(rocksdb_faults));
    let faulty: BTreeSet<String> = faults
        .iter()
        .filter_map(|fault| match fault {
            Fault::Malformed { setting, .. } => Some(setting.key.clone()),
            _ => None,
        })
        .collect();
    let (config, secured) = build(&mut merged, host, &mut faults);
    debug_assert!(merged.untaken().is_empty(), "nothing reads {:?}", merged.untaken());
    if !incomplete {
        let judged = |rule: &&Rule| rule.keys.iter().all(|key| !faulty.contains(*key));
        for rule in check::RULES.iter().filter(judged).filter(|rule| !(rule.holds)(&config, &secured)) {
            let settings = rule.keys.iter().map(|key| merged.quoted(key)).collect();
            faults.push(Fault::Conflict { rule: rule.text.into(), settings });
        }
    }
    if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
}

/// The settings of TCP, before the rules check whether they make sense.
pub(super) struct Secured {
    pub(super) certificates: [Option<PathBuf>; 3],
    pub(super) insecure: bool,
}

fn build(merged: &mut Merged, host: &Host, faults: &mut Vec<Fault>) -> (Config, Secured) {
    let data_dir = merged.path("dstl.data-dir").unwrap_or_else(|| host.data_dir());
    let memory = memory(merged, host, faults);
    let (rpc, secured) = rpc(merged, host, memory.budget_bytes, faults);
    let mut changelog = changelog(merged, data_dir.join("store"));
    let max_in_flight = merged.computed_count(MAX_IN_FLIGHT);
    changelog.upload.max_in_flight_bytes =
        max_in_flight.unwrap_or_else(|| max_in_flight_bytes(&memory, &changelog, &rpc));
    merged.quote_default(MAX_IN_FLIGHT, size::format(changelog.upload.max_in_flight_bytes as u64));
    let config = Config {
        inner: merged
            .choice("state.backend.type", &[("hashmap", InnerBackend::Hashmap), ("rocksdb", InnerBackend::Rocksdb)]),
        memory,
        rocksdb: rocksdb(merged, data_dir.join("local")),
        changelog,
        checkpoint: CheckpointConfig {
            num_retained: merged.count("execution.checkpointing.num-retained"),
            timeout: merged.duration("execution.checkpointing.timeout"),
            inline_bytes: merged.count("execution.checkpointing.data-inline-threshold"),
            max_concurrent: merged.count("execution.checkpointing.max-concurrent-checkpoints"),
            coordination_interval: merged.duration("execution.checkpointing.coordination.poll-interval"),
        },
        local_copies: LocalCopiesConfig {
            backup: merged.flag("execution.checkpointing.local-backup.enabled"),
            recovery: merged.flag("execution.state-recovery.from-local"),
            dirs: merged
                .paths("execution.checkpointing.local-backup.dirs")
                .unwrap_or_else(|| vec![data_dir.join("copies")]),
            max_bytes: merged.count("execution.checkpointing.local-backup.max-size") as u64,
            idle_timeout: merged.duration("state.changelog.dstl.dfs.download.local-cache.idle-timeout-ms"),
        },
        materialization: MaterializationConfig {
            interval: merged
                .flag("state.changelog.periodic-materialize.enabled")
                .then_some(merged.duration("state.changelog.periodic-materialize.interval")),
            max_replay: merged.duration("recovery.max-replay-time"),
            replay_rate: merged.number("recovery.replay-rate"),
        },
        gc: GcConfig {
            grace_period: merged.duration("gc.grace-period"),
            interval: Some(merged.duration("gc.interval")).filter(|interval| !interval.is_zero()),
        },
        rpc,
        admin: admin(merged, host, faults),
        log: LogConfig {
            format: merged.choice("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            level: merged.text("log.level"),
        },
        claim: merged.choice(
            "execution.state-recovery.claim-mode",
            &[("CLAIM", ClaimMode::Claim), ("NO_CLAIM", ClaimMode::NoClaim)],
        ),
        pin_lease: merged.duration("recovery.pin-lease"),
        linger: merged.duration("execution.state-recovery.linger"),
        queries: merged.flag("queryable-state.enabled"),
        warm: merged.flag("execution.state-recovery.warm"),
        savepoint_timeout: merged.duration("savepoint.timeout"),
        verify_interval: Some(merged.duration("verify.interval")).filter(|interval| !interval.is_zero()),
        drain_timeout: merged.duration("drain-timeout"),
        data_dir,
    };
    (config, secured)
}

fn memory(merged: &mut Merged, host: &Host, faults: &mut Vec<Fault>) -> MemoryConfig {
    let budget_bytes = match (merged.share("memory.budget"), host.memory_bytes) {
        (Share::Bytes(bytes), _) => bytes,
        (Share::Percent(percent), Some(all)) => all / 100 * percent,
        (Share::Percent(_), None) => {
            faults.push(merged.malformed("memory.budget", "a memory size, as this machine does not tell its memory"));
            u64::MAX
        }
    };
    let mut of_budget = |key| match merged.share(key) {
        Share::Bytes(bytes) => bytes,
        Share::Percent(percent) => budget_bytes / 100 * percent,
    };
    let (state_bytes, rocksdb_bytes) = (of_budget("memory.state"), of_budget("memory.rocksdb"));
    let reading_bytes = of_budget("memory.reading");
    MemoryConfig { budget_bytes, state_bytes, rocksdb_bytes, undo_bytes: merged.number("memory.undo"), reading_bytes }
}

/// The default budget of changes that are not yet durable. Only the rule about the memory budget can refuse it.
fn max_in_flight_bytes(memory: &MemoryConfig, changelog: &ChangelogConfig, rpc: &RpcConfig) -> usize {
    let share = usize::try_from(memory.budget_bytes / 100 * MAX_IN_FLIGHT_PERCENT).unwrap_or(usize::MAX);
    let thresholds = changelog.preemptive_persist_bytes.max(changelog.persist_size_bytes);
    share.min(MAX_IN_FLIGHT_BYTES).max(2 * rpc.max_message_bytes).max(thresholds)
}

fn rocksdb(merged: &mut Merged, default_folder: PathBuf) -> RocksDbConfig {
    RocksDbConfig {
        local_dirs: merged.paths("state.backend.rocksdb.localdir").unwrap_or_else(|| vec![default_folder]),
        write_buffer_ratio: merged.ratio("state.backend.rocksdb.memory.write-buffer-ratio"),
        threads: u16::try_from(merged.number("state.backend.rocksdb.thread.num"))
            .expect("the option is bounded by 256"),
        predefined: merged.choice(
            "state.backend.rocksdb.predefined-options",
            &[
                ("DEFAULT", PredefinedOptions::Default),
                ("SPINNING_DISK_OPTIMIZED", PredefinedOptions::SpinningDisk),
                ("SPINNING_DISK_OPTIMIZED_HIGH_MEM", PredefinedOptions::SpinningDiskHighMemory),
                ("FLASH_SSD_OPTIMIZED", PredefinedOptions::FlashSsd),
            ],
        ),
        timers: merged.choice(
            "state.backend.rocksdb.timer-service.factory",
            &[("ROCKSDB", TimerService::RocksDb), ("HEAP", TimerService::Heap)],
        ),
        options: merged.table(ROCKSDB_OPTIONS),
        metrics: merged.words("state.backend.rocksdb.metrics"),
    }
}

/// RocksDB's complaints about the single options of a setting.
#[cfg(feature = "rocksdb")]
fn rocksdb_faults(setting: &Setting) -> Vec<Fault> {
    use super::{fault::Quoted, kind::Value};
    let Value::Table(options) = &setting.value else { return vec![] };
    if setting.spec.key != ROCKSDB_OPTIONS {
        return vec![];
    }
    let refused = crate::state::rocksdb::refused_options(options);
    let fault = |(name, reason): (String, String)| {
        let value = options.get(&name).cloned().unwrap_or_default();
        let origin = setting.quoted.origin.clone();
        let setting = Quoted { key: format!("{ROCKSDB_OPTIONS}.{name}"), value, origin };
        Fault::Malformed { setting, allowed: format!("what RocksDB accepts: {reason}") }
    };
    refused.into_iter().map(fault).collect()
}

/// Without RocksDB its options cannot be checked, and no backend will use them.
#[cfg(not(feature = "rocksdb"))]
fn rocksdb_faults(_setting: &Setting) -> Vec<Fault> {
    vec![]
}

fn changelog(merged: &mut Merged, default_store: PathBuf) -> ChangelogConfig {
    let local = || Url::from_file_path(&default_store).expect("the data folder is absolute");
    ChangelogConfig {
        enabled: merged.flag("state.changelog.enabled"),
        base_path: merged.store("state.changelog.dstl.dfs.base-path").unwrap_or_else(local),
        store_options: StoreOptions(merged.table("state.changelog.dstl.dfs.store-options")),
        compression: merged.choice(
            "state.changelog.dstl.dfs.compression",
            &[("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)],
        ),
        preemptive_persist_bytes: merged.count("state.changelog.dstl.dfs.preemptive-persist-threshold"),
        persist_delay: merged.duration("state.changelog.dstl.dfs.batch.persist-delay"),
        persist_size_bytes: merged.count("state.changelog.dstl.dfs.batch.persist-size-threshold"),
        upload: UploadConfig {
            num_threads: merged.count("state.changelog.dstl.dfs.upload.num-threads"),
            max_in_flight_bytes: 0,
            timeout: merged.duration("state.changelog.dstl.dfs.upload.timeout"),
            next_attempt_delay: merged.duration("state.changelog.dstl.dfs.upload.next-attempt-delay"),
            max_attempt_delay: merged.duration("state.changelog.dstl.dfs.upload.max-attempt-delay"),
        },
        download_threads: merged.count("state.changelog.dstl.dfs.download.num-threads"),
        max_requests_per_second: u32::try_from(merged.number("state.changelog.dstl.dfs.max-requests-per-second"))
            .ok()
            .and_then(NonZeroU32::new),
    }
}

/// The admin service may use at most one of this many parts of the descriptors.
const ADMIN_DESCRIPTORS_PART: u64 = 8;

fn admin(merged: &mut Merged, host: &Host, faults: &mut Vec<Fault>) -> AdminConfig {
    let part = usize::try_from(descriptors(host) / ADMIN_DESCRIPTORS_PART).unwrap_or(usize::MAX).max(1);
    AdminConfig {
        address: merged.address("admin.address"),
        max_connections: merged.count("admin.max-connections").min(part),
        header_timeout: merged.duration("admin.header-timeout"),
        prices: prices(merged, faults),
    }
}

fn prices(merged: &mut Merged, faults: &mut Vec<Fault>) -> Prices {
    let table = merged.table(STORE_PRICES);
    Prices::read(&table).unwrap_or_else(|allowed| {
        faults.push(merged.malformed(STORE_PRICES, &allowed));
        Prices::default()
    })
}

fn descriptors(host: &Host) -> u64 {
    /// The usual limit of a process.
    const USUAL: u64 = 1024;
    host.descriptors.unwrap_or(USUAL)
}

/// The bounds on peers. Bounds that are not set follow from the budget and from `message`, the length of the longest
/// message.
fn bounds(merged: &mut Merged, host: &Host, budget: u64, message: u64) -> Bounds {
    let usual = Bounds::of(budget, message, descriptors(host));
    let connections = merged.computed_count("rpc.max-connections").unwrap_or(usual.connections);
    let bytes = |bytes: usize| bytes as u64;
    let request_bytes = merged.computed_count("rpc.request-memory").map_or(usual.request_bytes, bytes);
    Bounds {
        connections,
        connections_per_uid: merged.computed_count("rpc.max-connections-per-uid").unwrap_or(connections),
        handshakes: merged.count("rpc.max-handshakes"),
        streams: u32::try_from(merged.count("rpc.max-streams")).unwrap_or(u32::MAX),
        calls: merged.computed_count("rpc.max-calls").unwrap_or(usual.calls),
        request_bytes,
        answer_bytes: merged.computed_count("rpc.answer-memory").map_or(request_bytes, bytes),
        times: Times {
            preface: merged.duration("rpc.preface-timeout"),
            handshake: merged.duration("rpc.handshake-timeout"),
            first_call: merged.duration("rpc.first-call-timeout"),
            request: merged.duration("rpc.request-timeout"),
            stuck: merged.duration("rpc.stuck-timeout"),
        },
        ..usual
    }
}

fn allowed_jobs(merged: &mut Merged, faults: &mut Vec<Fault>) -> AllowedJobs {
    let table = merged.table(ALLOWED_JOBS);
    AllowedJobs::read(&table).unwrap_or_else(|why| {
        faults.push(merged.malformed(ALLOWED_JOBS, &why));
        AllowedJobs::default()
    })
}

fn rpc(merged: &mut Merged, host: &Host, budget: u64, faults: &mut Vec<Fault>) -> (RpcConfig, Secured) {
    let address = merged.address("rpc.tcp.address");
    let secured = Secured {
        certificates: ["rpc.tcp.cert", "rpc.tcp.key", "rpc.tcp.client-ca"].map(|key| merged.path(key)),
        insecure: merged.flag("rpc.tcp.insecure"),
    };
    let security = match secured.certificates.clone() {
        [Some(certificate), Some(key), Some(client_ca)] => TcpSecurity::MutualTls { certificate, key, client_ca },
        _ => TcpSecurity::Insecure,
    };
    let max_message_bytes = merged.count("rpc.max-message-size");
    let rpc = RpcConfig {
        socket: merged.path("rpc.socket").unwrap_or_else(|| host.socket()),
        socket_mode: u32::try_from(merged.number("rpc.socket-mode")).expect("a file mode has nine bits"),
        socket_group: Some(merged.text("rpc.socket-group")).filter(|group| !group.is_empty()),
        allowed_uids: merged.ids("rpc.allowed-uids"),
        socket_folder_open: merged.flag("rpc.socket-folder-open"),
        allowed_jobs: allowed_jobs(merged, faults),
        tcp: address.map(|address| TcpConfig { address, security }),
        bounds: bounds(merged, host, budget, max_message_bytes as u64),
        max_message_bytes,
        max_key_bytes: merged.count("rpc.max-key-size"),
        max_value_bytes: merged.count("rpc.max-value-size"),
        max_batch_operations: merged.count("rpc.max-batch-operations"),
    };
    (rpc, secured)
}
