//! Resolves the configuration: fills in computed defaults, and checks the rules between options.

use std::collections::BTreeSet;

use super::{
    check::{self, BUDGET, MAX_IN_FLIGHT, Rule},
    declared::Config,
    fault::{Fault, Faults},
    host::Host,
    merged::Merged,
    typed::{Setting, Sources, Typed},
};
use crate::setting::{Share, size};

/// The admin service may use at most one of this many parts of the descriptors.
const ADMIN_DESCRIPTORS_PART: u64 = 8;

impl Config {
    /// The configuration that `sources` give on `host`.
    ///
    /// # Errors
    ///
    /// [`Faults`] with everything that is wrong.
    pub fn resolve(sources: &Sources, host: &Host) -> Result<Self, Faults> {
        resolve(Typed::read(sources), host)
    }
}

/// Resolves the typed settings. The error has every fault of single settings and of the rules. A rule about an option
/// that is faulty by itself is not checked.
fn resolve(typed: Typed, host: &Host) -> Result<Config, Faults> {
    let Typed { settings, mut faults, incomplete } = typed;
    let mut merged = Merged::new(&settings);
    faults.extend(settings.iter().flat_map(rocksdb_faults));
    let faulty: BTreeSet<String> = faults
        .iter()
        .filter_map(|fault| match fault {
            Fault::Malformed { setting, .. } => Some(setting.key.clone()),
            _ => None,
        })
        .collect();
    let budget = budget(&merged, host).unwrap_or_else(|fault| {
        // With a budget that is not known, no rule about memory fails. Its own fault is enough.
        faults.push(fault);
        u64::MAX
    });
    // Ordering: shares become bytes before fields are read, since fields have only bytes.
    merged.values.share_out(BUDGET, budget);
    let mut config = Config::read(&mut merged.values, host);
    let part = usize::try_from(host.open_files() / ADMIN_DESCRIPTORS_PART).unwrap_or(usize::MAX).max(1);
    config.admin.max_connections = config.admin.max_connections.min(part);
    merged.quote_default(MAX_IN_FLIGHT, size::format(config.max_in_flight_bytes));
    for (key, allowed) in merged.values.refused() {
        faults.push(merged.malformed(key, allowed));
    }
    // Settings of an unreadable file are missing, so a rule could fail by defaults that the user did not choose.
    if !incomplete {
        let judged = |rule: &&Rule| rule.keys.iter().all(|key| !faulty.contains(*key));
        for rule in check::RULES.iter().filter(judged).filter(|rule| !(rule.holds)(&config)) {
            let settings = rule.keys.iter().map(|key| merged.quoted(key)).collect();
            faults.push(Fault::Conflict { rule: rule.text.into(), settings });
        }
    }
    if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
}

/// Bytes that the whole daemon may use.
fn budget(merged: &Merged, host: &Host) -> Result<u64, Fault> {
    match (merged.values.share(BUDGET), host.memory_bytes) {
        (Share::Bytes(bytes), _) => Ok(bytes),
        (Share::Percent(percent), Some(all)) => Ok(all / 100 * percent),
        (Share::Percent(_), None) => {
            Err(merged.malformed(BUDGET, "a memory size, as this machine does not tell its memory"))
        }
    }
}

/// RocksDB's complaints about the single options of a setting.
#[cfg(feature = "rocksdb")]
fn rocksdb_faults(setting: &Setting) -> Vec<Fault> {
    use super::{fault::Quoted, legacy::ROCKSDB_OPTIONS};
    use crate::setting::Value;
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
