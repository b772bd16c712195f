//! The configuration resolved: computed defaults filled in, and the rules between options checked.

use std::{collections::BTreeSet, path::PathBuf};

use url::Url;

use super::{
    AdminConfig, ChangelogConfig, CheckpointConfig, Compression, Config, GcConfig, Host, InnerBackend, LogConfig,
    LogFormat, MaterializationConfig, MemoryConfig, RpcConfig, StoreOptions, TcpConfig, TcpSecurity, UploadConfig,
    check::{self, Rule},
    fault::{Fault, Faults},
    kind::Share,
    merged::Merged,
    typed::Typed,
};

/// Longest path of a Unix socket in bytes (`sun_path` without its final zero).
pub(super) const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Resolves what was typed. Every fault of typing and of the rules is in the error; a rule about an option that is
/// faulty by itself is not judged.
pub(super) fn resolve(typed: Typed, host: &Host) -> Result<Config, Faults> {
    let mut merged = Merged::new(&typed);
    let Typed { mut faults, incomplete, .. } = typed;
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

/// The settings of TCP as they stand, before the rules say whether they make sense.
pub(super) struct Secured {
    pub(super) certificates: [Option<PathBuf>; 3],
    pub(super) insecure: bool,
}

fn build(merged: &mut Merged, host: &Host, faults: &mut Vec<Fault>) -> (Config, Secured) {
    let data_dir = merged.path("dstl.data-dir").unwrap_or_else(|| host.data_dir());
    let (rpc, secured) = rpc(merged, host);
    let config = Config {
        inner: merged.choice("state.backend.type", &[("hashmap", InnerBackend::Hashmap)]),
        memory: memory(merged, host, faults),
        changelog: changelog(merged, data_dir.join("store")),
        checkpoint: CheckpointConfig {
            num_retained: merged.count("execution.checkpointing.num-retained"),
            timeout: merged.duration("execution.checkpointing.timeout"),
            max_concurrent: merged.count("execution.checkpointing.max-concurrent-checkpoints"),
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
        admin: AdminConfig { address: merged.address("admin.address") },
        log: LogConfig {
            format: merged.choice("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            level: merged.text("log.level"),
        },
        drain_timeout: merged.duration("drain-timeout"),
        data_dir,
    };
    (config, secured)
}

fn memory(merged: &mut Merged, host: &Host, faults: &mut Vec<Fault>) -> MemoryConfig {
    let state_bytes = match (merged.share("memory.state"), host.memory_bytes) {
        (Share::Bytes(bytes), _) => bytes,
        (Share::Percent(percent), Some(all)) => all / 100 * percent,
        (Share::Percent(_), None) => {
            faults.push(merged.malformed("memory.state", "a memory size, as this machine does not tell its memory"));
            u64::MAX
        }
    };
    MemoryConfig { state_bytes }
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
            max_in_flight_bytes: merged.count("state.changelog.dstl.dfs.upload.max-in-flight"),
            timeout: merged.duration("state.changelog.dstl.dfs.upload.timeout"),
            next_attempt_delay: merged.duration("state.changelog.dstl.dfs.upload.next-attempt-delay"),
            max_attempt_delay: merged.duration("state.changelog.dstl.dfs.upload.max-attempt-delay"),
        },
        download_threads: merged.count("state.changelog.dstl.dfs.download.num-threads"),
    }
}

fn rpc(merged: &mut Merged, host: &Host) -> (RpcConfig, Secured) {
    let address = merged.address("rpc.tcp.address");
    let secured = Secured {
        certificates: ["rpc.tcp.cert", "rpc.tcp.key", "rpc.tcp.client-ca"].map(|key| merged.path(key)),
        insecure: merged.flag("rpc.tcp.insecure"),
    };
    let security = match secured.certificates.clone() {
        [Some(certificate), Some(key), Some(client_ca)] => TcpSecurity::MutualTls { certificate, key, client_ca },
        _ => TcpSecurity::Insecure,
    };
    let rpc = RpcConfig {
        socket: merged.path("rpc.socket").unwrap_or_else(|| host.socket()),
        socket_mode: u32::try_from(merged.number("rpc.socket-mode")).expect("a file mode has nine bits"),
        socket_group: Some(merged.text("rpc.socket-group")).filter(|group| !group.is_empty()),
        allowed_uids: merged.ids("rpc.allowed-uids"),
        tcp: address.map(|address| TcpConfig { address, security }),
        max_message_bytes: merged.count("rpc.max-message-size"),
        max_key_bytes: merged.count("rpc.max-key-size"),
        max_value_bytes: merged.count("rpc.max-value-size"),
        max_batch_operations: merged.count("rpc.max-batch-operations"),
    };
    (rpc, secured)
}
