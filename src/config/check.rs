//! Rules between options: settings that are valid alone and invalid together.

use std::{os::unix::ffi::OsStrExt as _, time::Duration};

use super::{
    Config, InnerBackend,
    resolved::{MAX_SOCKET_PATH_BYTES, Secured},
};

/// Room in a message for the framing around keys and value: ids, lengths, the batch's own header.
const ENVELOPE_BYTES: usize = 4 << 10;

/// A rule between options.
pub(super) struct Rule {
    /// The options that it is about.
    pub(super) keys: &'static [&'static str],
    /// The rule in words.
    pub(super) text: &'static str,
    /// Whether the rule holds.
    pub(super) holds: fn(&Config, &Secured) -> bool,
}

pub(super) const MAX_IN_FLIGHT: &str = "state.changelog.dstl.dfs.upload.max-in-flight";
const MAX_MESSAGE: &str = "rpc.max-message-size";

/// Every rule, in the order in which faults are listed.
pub(super) static RULES: &[Rule] = &[
    Rule {
        keys: &["state.changelog.dstl.dfs.batch.persist-size-threshold", MAX_IN_FLIGHT],
        text: "a batch of uploads must fit the budget of changes that are not yet durable",
        holds: |config, _| config.changelog.persist_size_bytes <= config.changelog.upload.max_in_flight_bytes,
    },
    Rule {
        keys: &["state.changelog.dstl.dfs.preemptive-persist-threshold", MAX_IN_FLIGHT],
        text: "the preemptive threshold must not exceed the budget of changes that are not yet durable",
        holds: |config, _| config.changelog.preemptive_persist_bytes <= config.changelog.upload.max_in_flight_bytes,
    },
    Rule {
        keys: &[MAX_IN_FLIGHT, MAX_MESSAGE],
        text: "the budget of changes that are not yet durable must hold two of the longest messages",
        holds: |config, _| config.changelog.upload.max_in_flight_bytes / 2 >= config.rpc.max_message_bytes,
    },
    Rule {
        keys: &[
            "state.changelog.dstl.dfs.upload.next-attempt-delay",
            "state.changelog.dstl.dfs.upload.max-attempt-delay",
        ],
        text: "the first delay between attempts must not exceed the longest one",
        holds: |config, _| config.changelog.upload.next_attempt_delay <= config.changelog.upload.max_attempt_delay,
    },
    Rule {
        keys: &["state.changelog.dstl.dfs.upload.timeout", "execution.checkpointing.timeout"],
        text: "one attempt of an upload must not last longer than a checkpoint may",
        holds: |config, _| config.changelog.upload.timeout <= config.checkpoint.timeout,
    },
    Rule {
        keys: &["gc.grace-period", "execution.checkpointing.timeout"],
        text: "the grace period must be at least as long as a checkpoint may last",
        holds: |config, _| config.gc.grace_period >= config.checkpoint.timeout,
    },
    Rule {
        keys: &["gc.interval"],
        text: "sweeps must be off (`0 s`) or at least a second apart",
        holds: |config, _| config.gc.interval.is_none_or(|interval| interval >= Duration::from_secs(1)),
    },
    Rule {
        keys: &["memory.state", MAX_MESSAGE],
        text: "the budget of state must hold the longest message",
        holds: |config, _| config.memory.state_bytes >= config.rpc.max_message_bytes as u64,
    },
    Rule {
        keys: &["memory.rocksdb", MAX_MESSAGE],
        text: "the memory of RocksDB must hold the longest message",
        holds: |config, _| config.memory.rocksdb_bytes >= config.rpc.max_message_bytes as u64,
    },
    Rule {
        keys: &["memory.state", "memory.rocksdb", MAX_IN_FLIGHT, "memory.budget"],
        text: "state in memory, RocksDB and changes that are not yet durable must fit the memory budget together",
        holds: |config, _| {
            let (memory, changes) = (&config.memory, config.changelog.upload.max_in_flight_bytes as u64);
            memory.state_bytes.saturating_add(memory.rocksdb_bytes).saturating_add(changes) <= memory.budget_bytes
        },
    },
    Rule {
        keys: &["state.backend.type"],
        text: "RocksDB is not built into this program; `hashmap` is",
        holds: |config, _| config.inner == InnerBackend::Hashmap || cfg!(feature = "rocksdb"),
    },
    Rule {
        keys: &["rpc.max-key-size", "rpc.max-value-size", MAX_MESSAGE],
        text: "one message must hold a key, a namespace, a map key and a value, each of the longest, and 4 KiB",
        holds: |config, _| {
            let rpc = &config.rpc;
            3 * rpc.max_key_bytes + rpc.max_value_bytes + ENVELOPE_BYTES <= rpc.max_message_bytes
        },
    },
    Rule {
        keys: &["rpc.socket"],
        text: "the path of a Unix socket must not be longer than 107 bytes",
        holds: |config, _| config.rpc.socket.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH_BYTES,
    },
    Rule {
        keys: &["rpc.tcp.address", "rpc.tcp.cert", "rpc.tcp.key", "rpc.tcp.client-ca", "rpc.tcp.insecure"],
        text: "TCP needs a certificate, its key and a client CA, or must be marked insecure",
        holds: |config, secured| {
            config.rpc.tcp.is_none() || secured.insecure || secured.certificates.iter().all(Option::is_some)
        },
    },
    Rule {
        keys: &["rpc.tcp.address", "rpc.tcp.insecure"],
        text: "TCP without TLS is allowed only on a loopback address",
        holds: |config, secured| {
            !secured.insecure || config.rpc.tcp.as_ref().is_none_or(|tcp| tcp.address.ip().is_loopback())
        },
    },
    Rule {
        keys: &["rpc.tcp.insecure", "rpc.tcp.cert", "rpc.tcp.key", "rpc.tcp.client-ca"],
        text: "TCP is either insecure or has certificates, not both",
        holds: |_, secured| !secured.insecure || secured.certificates.iter().all(Option::is_none),
    },
    Rule {
        keys: &["admin.address", "rpc.tcp.address"],
        text: "the admin service and TCP need different addresses",
        holds: |config, _| {
            let tcp = config.rpc.tcp.as_ref().map(|tcp| tcp.address);
            tcp.is_none_or(|tcp| tcp.port() == 0 || config.admin.address != Some(tcp))
        },
    },
];

#[cfg(all(test, not(feature = "rocksdb")))]
mod tests {
    use crate::config::{Config, Flag, Host, Sources};

    #[test]
    fn rocksdb_is_refused_where_it_is_not_built_in() {
        let flags = vec![Flag::Set("state.backend.type=rocksdb".into()), Flag::Set("memory.budget=1 GiB".into())];
        let faults = Config::resolve(&Sources { flags, ..Sources::default() }, &Host::default());
        let said = faults.expect_err("there is no RocksDB").to_string();
        assert!(said.contains("RocksDB is not built into this program; `hashmap` is; `state.backend.type`"), "{said}");
    }
}
