//! Time to live: how long the entries of a state do.

/// Entries that an operation looks at where incremental clean-up does not say, as in Flink.
const INCREMENTAL_ENTRIES: u32 = 5;

/// Entries after which a compaction filter reads the time anew where nothing says, as in Flink.
const TIME_EVERY_ENTRIES: u64 = 1_000;

/// Age of files that are compacted for clean-up alone where nothing says, as in Flink: 30 days, in milliseconds.
const PERIODIC_COMPACTION_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// How long entries of a state live: a value, a map entry, a list element, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct Ttl {
    /// Milliseconds since an entry was last touched after which it is expired; at least 1.
    pub duration_ms: u64,
    /// What touches an entry.
    pub update: TtlUpdate,
    /// Whether reads see expired entries.
    pub visibility: TtlVisibility,
    /// What removes expired entries, besides reads of them.
    pub cleanup: TtlCleanup,
}

/// What touches an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(rename_all = "snake_case"))]
pub enum TtlUpdate {
    /// Writes of it.
    #[default]
    OnCreateAndWrite,
    /// Reads of it, too: they are writes then.
    OnReadAndWrite,
}

/// Whether reads see expired entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(rename_all = "snake_case"))]
pub enum TtlVisibility {
    /// Never.
    #[default]
    NeverReturnExpired,
    /// Until something has cleaned them up.
    ReturnExpiredIfNotCleanedUp,
}

/// What removes expired entries, besides reads of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct TtlCleanup {
    /// Materializations leave them out.
    pub at_materialization: bool,
    /// Batches look at some entries, in turn.
    pub incremental: Option<IncrementalCleanup>,
    /// Compactions of a local store leave them out.
    pub compaction: Option<CompactionCleanup>,
}

/// Clean-up by batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct IncrementalCleanup {
    /// Entries looked at per operation on the state; at least 1.
    pub entries: u32,
    /// Batches that do not touch the state look at as many as one operation on it does.
    pub every_batch: bool,
}

/// Clean-up by compactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct CompactionCleanup {
    /// Entries after which the time is read anew; at least 1.
    pub time_every_entries: u64,
    /// Files older than this many milliseconds are compacted for that alone; at least 1.
    pub periodic_ms: u64,
}

impl Ttl {
    /// Flink's defaults for entries that live `duration_ms` milliseconds.
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
    /// In the background.
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
