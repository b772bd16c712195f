//! Options of the scenarios, and the settings of the daemon that follow from them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde::Serialize;

/// Kinds of inner backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Inner {
    Hashmap,
    Rocksdb,
}

/// Whether the changelog is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Changelog {
    On,
    Off,
}

/// Options of the scenarios. Those without a default here have one in each scenario that reads them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Print one JSON object a line, for each measurement, instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep this many keys.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) keys: u64,
    /// Write values of this length.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub(crate) value_bytes: usize,
    /// Put this many updates into a batch.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) batch: usize,
    /// Measure windows of this length.
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Measure this many windows.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) windows: usize,
    /// Warm up for so long, after every key was written once.
    #[arg(long, value_name = "S", default_value_t = 4)]
    pub(crate) warm_up: u64,
    /// Trigger checkpoints so often; 0 for none [default: 1000; of `checkpoint` 200].
    #[arg(long, value_name = "MS")]
    pub(crate) checkpoint_ms: Option<u64>,
    /// Time this many operations of each kind.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(crate) operations: u64,
    /// Keep the store here: a folder, or a URL, below which each daemon takes a place of its own [default: beside the
    /// socket]. Objects below a URL stay there.
    #[arg(long, value_name = "FOLDER|URL")]
    pub(crate) store: Option<String>,
    /// Make the temporary folders here [default: the system's folder for them].
    #[arg(long, value_name = "PATH")]
    pub(crate) dir: Option<PathBuf>,
    /// Measure this binary [default: `dstl` of the same build].
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_dstl"), hide_default_value = true)]
    pub(crate) daemon: PathBuf,
    /// Run the daemon on these processors, by `taskset`, for example `0` or `0-1`.
    #[arg(long, value_name = "LIST")]
    pub(crate) daemon_cpus: Option<String>,
    /// Keep state in this inner backend.
    #[arg(long, value_enum, default_value_t = Inner::Hashmap)]
    pub(crate) inner: Inner,
    /// Have a changelog, or snapshots at each checkpoint.
    #[arg(long, value_enum, default_value_t = Changelog::On)]
    pub(crate) changelog: Changelog,
    /// Skew the keys by a Zipf distribution of this exponent, below 1 [default: uniform; of `hot-keys` 0.99].
    #[arg(long, value_name = "THETA")]
    pub(crate) zipf: Option<f64>,
    /// Send at most so many operations a second [default: as many as the daemon takes; of `checkpoint` and `tail`
    /// 100000, of `export` 50000].
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<u64>,
    /// Write so many updates in `hot-keys`.
    #[arg(long, value_name = "N", default_value_t = 20_000_000)]
    pub(crate) updates: u64,
    /// Have so much state, one after the other, in `checkpoint`; the first of them in `tail` and `warm`
    /// [default: 10, 100, 1000, 4000; of the other two 1000].
    #[arg(long, value_name = "MB", value_delimiter = ',')]
    pub(crate) state_mb: Vec<u64>,
    /// Materialize so often in `checkpoint` and `tail`.
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub(crate) materialize_every: u64,
    /// Restart so often in `warm` [default: 5] and `kills` [default: 20].
    #[arg(long, value_name = "N")]
    pub(crate) restarts: Option<u64>,
    /// Have so many backends, one after the other, in `growth`.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,10,100")]
    pub(crate) backends: Vec<u64>,
    /// Have so many states, one after the other, in `growth`.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "10,1000,10000")]
    pub(crate) states: Vec<u64>,
    /// Have so many keys in RocksDB, one after the other, in `growth`.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000000,10000000,50000000")]
    pub(crate) growing_keys: Vec<u64>,
    /// Set an option of the daemon; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Whether every update is of a new key: a case of `tail`.
    #[arg(skip)]
    pub(crate) grows: bool,
}

impl Options {
    /// The length of a window.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Whether there is a changelog.
    pub(crate) fn is_logged(&self) -> bool {
        self.changelog == Changelog::On
    }

    /// Milliseconds between two checkpoints; 0 for none.
    pub(crate) fn checkpoint_ms(&self) -> u64 {
        self.checkpoint_ms.unwrap_or(1000)
    }

    /// Settings of the daemon.
    pub(crate) fn settings(&self) -> Vec<String> {
        let inner = match self.inner {
            Inner::Hashmap => "hashmap",
            Inner::Rocksdb => "rocksdb",
        };
        let changelog = format!("state.changelog.enabled={}", self.is_logged());
        let own = [format!("state.backend.type={inner}"), changelog];
        own.into_iter().chain(self.set.iter().cloned()).collect()
    }

    /// The same with more settings of the daemon; those of the command line go first.
    pub(crate) fn with(&self, settings: &[String]) -> Self {
        let key = |setting: &str| setting.split('=').next().unwrap_or_default().to_owned();
        let mut options = self.clone();
        for setting in settings {
            if !self.set.iter().any(|set| key(set) == key(setting)) {
                options.set.push(setting.clone());
            }
        }
        options
    }

    /// The same, with as many keys as take `megabytes` of keys and values.
    pub(crate) fn of_size(&self, megabytes: u64) -> Self {
        Self { keys: (megabytes * 1_000_000 / self.entry_bytes()).max(1), ..self.clone() }
    }

    /// Bytes of one key and its value.
    pub(crate) fn entry_bytes(&self) -> u64 {
        size_of::<u64>() as u64 + self.value_bytes as u64
    }
}

/// The setting without which backends materialize only where a replay would get too long.
pub(crate) fn no_periodic_materialization() -> String {
    "state.changelog.periodic-materialize.enabled=false".to_owned()
}

/// Settings without which backends never materialize by themselves.
pub(crate) fn no_materialization() -> Vec<String> {
    vec![no_periodic_materialization(), "recovery.max-replay-time=24 h".to_owned()]
}
