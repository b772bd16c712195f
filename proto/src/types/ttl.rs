//! Time to live: how long the entries of a state live, and how expired ones are removed.

/// Default of [`IncrementalCleanup::entries`], as in Flink.
const INCREMENTAL_ENTRIES: u32 = 5;

/// Default of [`CompactionCleanup::time_every_entries`], as in Flink.
const TIME_EVERY_ENTRIES: u64 = 1_000;

/// Default of [`CompactionCleanup::periodic_ms`], as in Flink: 30 days.
const PERIODIC_COMPACTION_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// How long the entries of a state live. Each value, map entry or list element is an entry of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct Ttl {
    /// Milliseconds after the last touch at which an entry expires; at least 1.
    pub duration_ms: u64,
    /// The operations that touch an entry.
    pub update: TtlUpdate,
    /// Whether reads see expired entries.
    pub visibility: TtlVisibility,
    /// How expired entries are removed, apart from reads that find them.
    pub cleanup: TtlCleanup,
}

/// The operations that touch an entry, so that it lives for the full duration again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(rename_all = "snake_case"))]
pub enum TtlUpdate {
    /// Only writes touch an entry.
    #[default]
    OnCreateAndWrite,
    /// Reads touch an entry too, and become writes by that.
    OnReadAndWrite,
}

/// Whether reads see expired entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(rename_all = "snake_case"))]
pub enum TtlVisibility {
    /// Reads never return an expired entry.
    #[default]
    NeverReturnExpired,
    /// Reads return an expired entry until it was cleaned up.
    ReturnExpiredIfNotCleanedUp,
}

/// How expired entries are removed, apart from reads that find them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct TtlCleanup {
    /// Materializations leave expired entries out.
    pub at_materialization: bool,
    /// Each batch looks at some entries, in turn, and removes the expired ones.
    pub incremental: Option<IncrementalCleanup>,
    /// Compactions of RocksDB leave expired entries out.
    pub compaction: Option<CompactionCleanup>,
}

/// Clean-up by batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct IncrementalCleanup {
    /// Entries looked at per operation on the state; at least 1.
    pub entries: u32,
    /// Whether batches that do not touch the state also look at `entries` of them.
    pub every_batch: bool,
}

/// Clean-up by compactions of RocksDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct CompactionCleanup {
    /// The compaction filter reads the time again after so many entries; at least 1.
    pub time_every_entries: u64,
    /// Files older than this many milliseconds are compacted for clean-up alone; at least 1.
    pub periodic_ms: u64,
}

impl Ttl {
    /// A TTL of `duration_ms` milliseconds, with Flink's defaults for the rest.
    #[must_use]
    pub fn new(duration_ms: u64) -> Self {
        Self {
            duration_ms,
            update: TtlUpdate::default(),
            visibility: TtlVisibility::default(),
            cleanup: TtlCleanup::default(),
        }
    }
}

impl Default for TtlCleanup {
    /// Clean-up in the background, by batches and by compactions.
    fn default() -> Self {
        let (incremental, compaction) = (Some(IncrementalCleanup::default()), Some(CompactionCleanup::default()));
        Self { at_materialization: false, incremental, compaction }
    }
}

impl Default for IncrementalCleanup {
    fn default() -> Self {
        Self { entries: INCREMENTAL_ENTRIES, every_batch: false }
    }
}

impl Default for CompactionCleanup {
    fn default() -> Self {
        Self { time_every_entries: TIME_EVERY_ENTRIES, periodic_ms: PERIODIC_COMPACTION_MS }
    }
}
