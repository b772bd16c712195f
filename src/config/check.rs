//! Rules between options: settings that are valid alone and invalid together.

use std::{os::unix::ffi::OsStrExt as _, path::PathBuf, time::Duration};

use super::declared::Config;
use crate::{rpc::listener::TcpSettings, types::InnerBackend};

/// Longest path of a Unix socket in bytes (`sun_path` without its final zero).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Room in a message for the framing around keys and value: ids, lengths, the batch's own header.
const ENVELOPE_BYTES: usize = 4 << 10;

/// A rule between options.
pub(super) struct Rule {
    /// The options that it is about.
    pub(super) keys: &'static [&'static str],
    /// The rule in words.
    pub(super) text: &'static str,
    /// Whether the rule holds.
    pub(super) holds: fn(&Config) -> bool,
}

pub(super) const BUDGET: &str = "memory.budget";
pub(super) const MAX_IN_FLIGHT: &str = "state.changelog.dstl.dfs.upload.max-in-flight";
const MAX_MESSAGE: &str = "rpc.max-message-size";

/// Every rule, in the order in which faults are listed.
pub(super) static RULES: &[Rule] = &[
    Rule {
        keys: &["state.changelog.dstl.dfs.batch.persist-size-threshold", MAX_IN_FLIGHT],
        text: "a batch of uploads must fit the budget of changes that are not yet durable",
        holds: |config| config.changelog.upload.batch.persist_size_threshold <= config.max_in_flight_bytes,
    },
    Rule {
        keys: &["state.changelog.dstl.dfs.preemptive-persist-threshold", MAX_IN_FLIGHT],
        text: "the preemptive threshold must not exceed the budget of changes that are not yet durable",
        holds: |config| config.backend.preemptive_persist_threshold <= config.max_in_flight_bytes,
    },
    Rule {
        keys: &[MAX_IN_FLIGHT, MAX_MESSAGE],
        text: "the budget of changes that are not yet durable must hold two of the longest messages",
        holds: |config| config.max_in_flight_bytes / 2 >= config.requests.max_message_bytes as u64,
    },
    Rule {
        keys: &[
            "state.changelog.dstl.dfs.upload.next-attempt-delay",
            "state.changelog.dstl.dfs.upload.max-attempt-delay",
        ],
        text: "the first delay between attempts must not exceed the longest one",
        holds: |config| config.changelog.retry.first_delay <= config.changelog.retry.longest_delay,
    },
    Rule {
        keys: &["state.changelog.dstl.dfs.upload.timeout", "execution.checkpointing.timeout"],
        text: "one attempt of an upload must not last longer than a checkpoint may",
        holds: |config| config.changelog.retry.attempt_timeout <= config.backend.checkpoint_timeout,
    },
    Rule {
        keys: &["gc.grace-period", "execution.checkpointing.timeout"],
        text: "the grace period must be at least as long as a checkpoint may last",
        holds: |config| config.gc.grace_period >= config.backend.checkpoint_timeout,
    },
    Rule {
        keys: &["gc.interval"],
        text: "sweeps must be off (`0 s`) or at least a second apart",
        holds: |config| config.gc.interval.is_none_or(|interval| interval >= Duration::from_secs(1)),
    },
    Rule {
        keys: &["memory.state", MAX_MESSAGE],
        text: "the budget of state must hold the longest message",
        holds: |config| config.backend.state_memory >= config.requests.max_message_bytes as u64,
    },
    Rule {
        keys: &["memory.rocksdb", MAX_MESSAGE],
        text: "the memory of RocksDB must hold the longest message",
        holds: |config| config.rocksdb.resources.memory_bytes >= config.requests.max_message_bytes as u64,
    },
    Rule {
        keys: &["memory.state", "memory.rocksdb", MAX_IN_FLIGHT, BUDGET],
        text: "state in memory, RocksDB and changes that are not yet durable must fit the memory budget together",
        holds: |config| {
            let (state, rocksdb) = (config.backend.state_memory, config.rocksdb.resources.memory_bytes);
            state.saturating_add(rocksdb).saturating_add(config.max_in_flight_bytes) <= config.memory_budget
        },
    },
    Rule {
        keys: &["state.backend.type"],
        text: "RocksDB is not built into this program; `hashmap` is",
        holds: |config| config.backend.inner == InnerBackend::HashMap || cfg!(feature = "rocksdb"),
    },
    Rule {
        keys: &["rpc.max-key-size", "rpc.max-value-size", MAX_MESSAGE],
        text: "one message must hold a key, a namespace, a map key and a value, each of the longest, and 4 KiB",
        holds: |config| {
            let requests = &config.requests;
            3 * requests.max_key_bytes + requests.max_value_bytes + ENVELOPE_BYTES <= requests.max_message_bytes
        },
    },
    Rule {
        keys: &["rpc.socket"],
        text: "the path of a Unix socket must not be longer than 107 bytes",
        holds: |config| config.listener.socket.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH_BYTES,
    },
    Rule {
        keys: &["rpc.tcp.address", "rpc.tcp.cert", "rpc.tcp.key", "rpc.tcp.client-ca", "rpc.tcp.insecure"],
        text: "TCP needs a certificate, its key and a client CA, or must be marked insecure",
        holds: |config| {
            config.tcp.address.is_none() || config.tcp.insecure || certificates(&config.tcp).all(Option::is_some)
        },
    },
    Rule {
        keys: &["rpc.tcp.address", "rpc.tcp.insecure"],
        text: "TCP without TLS is allowed only on a loopback address",
        holds: |config| !config.tcp.insecure || config.tcp.address.is_none_or(|address| address.ip().is_loopback()),
    },
    Rule {
        keys: &["rpc.tcp.insecure", "rpc.tcp.cert", "rpc.tcp.key", "rpc.tcp.client-ca"],
        text: "TCP is either insecure or has certificates, not both",
        holds: |config| !config.tcp.insecure || certificates(&config.tcp).all(Option::is_none),
    },
    Rule {
        keys: &["admin.address", "rpc.tcp.address"],
        text: "the admin service and TCP need different addresses",
        holds: |config| config.tcp.address.is_none_or(|tcp| tcp.port() == 0 || config.admin.address != Some(tcp)),
    },
];

fn certificates(tcp: &TcpSettings) -> impl Iterator<Item = &Option<PathBuf>> {
    [&tcp.certificate, &tcp.key, &tcp.client_ca].into_iter()
}

#[cfg(all(test, not(feature = "rocksdb")))]
mod tests {
    use crate::config::{
        declared::Config,
        host::Host,
        typed::{Flag, Sources},
    };

    #[test]
    fn rocksdb_is_refused_where_it_is_not_built_in() {
        let flags = vec![Flag::Set("state.backend.type=rocksdb".into()), Flag::Set("memory.budget=1 GiB".into())];
        let faults = Config::resolve(&Sources { flags, ..Sources::default() }, &Host::default());
        let said = faults.expect_err("there is no RocksDB").to_string();
        assert!(said.contains("RocksDB is not built into this program; `hashmap` is; `state.backend.type`"), "{said}");
    }
}
