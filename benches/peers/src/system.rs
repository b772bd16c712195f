//! The systems: their names, where they keep state, and how durable their durable points are.

use clap::ValueEnum;
use serde::Serialize;

use super::Work;

/// A system under measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    Floor,
    DstlHashmap,
    FlinkBareHashmapChangelog,
    FlinkHashmapChangelog,
    FlinkHashmap,
    Redis,
    DstlRocksdb,
    FlinkBareRocksdbChangelog,
    FlinkRocksdbChangelog,
    FlinkRocksdb,
    Slatedb,
    Rocksdb,
}

/// Systems that this program drives by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    Redis,
    Slatedb,
    Rocksdb,
}

/// The program that drives a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// The bench `load`, with the scenario of the work if no other is named.
    Load { scenario: Option<&'static str> },
    /// Java code: a job, or Flink's state backend alone.
    Flink { bare: bool, changelog: bool },
    /// This program.
    Own(Engine),
}

/// Where a system keeps its state. Systems are compared with the dstl of the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    Memory,
    Disk,
}

impl System {
    /// All of them, in the order of a round and of the table.
    pub(crate) const ALL: [Self; 12] = [
        Self::Floor,
        Self::DstlHashmap,
        Self::FlinkBareHashmapChangelog,
        Self::FlinkHashmapChangelog,
        Self::FlinkHashmap,
        Self::Redis,
        Self::DstlRocksdb,
        Self::FlinkBareRocksdbChangelog,
        Self::FlinkRocksdbChangelog,
        Self::FlinkRocksdb,
        Self::Slatedb,
        Self::Rocksdb,
    ];

    /// Its name on the command line and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::DstlHashmap => "dstl-hashmap",
            Self::FlinkBareHashmapChangelog => "flink-bare-hashmap-changelog",
            Self::FlinkHashmapChangelog => "flink-hashmap-changelog",
            Self::FlinkHashmap => "flink-hashmap",
            Self::Redis => "redis",
            Self::DstlRocksdb => "dstl-rocksdb",
            Self::FlinkBareRocksdbChangelog => "flink-bare-rocksdb-changelog",
            Self::FlinkRocksdbChangelog => "flink-rocksdb-changelog",
            Self::FlinkRocksdb => "flink-rocksdb",
            Self::Slatedb => "slatedb",
            Self::Rocksdb => "rocksdb",
        }
    }

    /// Whether `name` means it: its own name, or the first word of it.
    pub(crate) fn is_called(self, name: &str) -> bool {
        let rest = self.name().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Its name for readers.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Floor => "the wire alone",
            Self::DstlHashmap => "dstl, hash map",
            Self::FlinkBareHashmapChangelog => "Flink without a job, heap + changelog",
            Self::FlinkHashmapChangelog => "Flink, heap + changelog",
            Self::FlinkHashmap => "Flink, heap",
            Self::Redis => "Redis",
            Self::DstlRocksdb => "dstl, RocksDB",
            Self::FlinkBareRocksdbChangelog => "Flink without a job, RocksDB + changelog",
            Self::FlinkRocksdbChangelog => "Flink, RocksDB + changelog",
            Self::FlinkRocksdb => "Flink, RocksDB",
            Self::Slatedb => "SlateDB, in process",
            Self::Rocksdb => "RocksDB, in process",
        }
    }

    /// The step of each second that makes work durable.
    pub(crate) fn durability(self) -> &'static str {
        match self {
            Self::Floor => "none",
            Self::DstlHashmap | Self::DstlRocksdb => "checkpoint, fsync",
            Self::Redis => "AOF, fsync everysec",
            Self::Slatedb => "flush of the WAL, fsync",
            Self::Rocksdb => "flush_wal, fsync",
            Self::FlinkBareHashmapChangelog
            | Self::FlinkHashmapChangelog
            | Self::FlinkHashmap
            | Self::FlinkBareRocksdbChangelog
            | Self::FlinkRocksdbChangelog
            | Self::FlinkRocksdb => "checkpoint, no fsync",
        }
    }

    /// Where it keeps its state.
    pub(crate) fn place(self) -> Place {
        match self {
            Self::Floor
            | Self::DstlHashmap
            | Self::FlinkBareHashmapChangelog
            | Self::FlinkHashmapChangelog
            | Self::FlinkHashmap
            | Self::Redis => Place::Memory,
            Self::DstlRocksdb
            | Self::FlinkBareRocksdbChangelog
            | Self::FlinkRocksdbChangelog
            | Self::FlinkRocksdb
            | Self::Slatedb
            | Self::Rocksdb => Place::Disk,
        }
    }

    /// Who drives it.
    pub(crate) fn driver(self) -> Driver {
        let bare = matches!(self, Self::FlinkBareHashmapChangelog | Self::FlinkBareRocksdbChangelog);
        match self {
            Self::Floor => Driver::Load { scenario: Some("floor") },
            Self::DstlHashmap | Self::DstlRocksdb => Driver::Load { scenario: None },
            Self::FlinkHashmap | Self::FlinkRocksdb => Driver::Flink { bare, changelog: false },
            Self::FlinkBareHashmapChangelog
            | Self::FlinkHashmapChangelog
            | Self::FlinkBareRocksdbChangelog
            | Self::FlinkRocksdbChangelog => Driver::Flink { bare, changelog: true },
            Self::Redis => Driver::Own(Engine::Redis),
            Self::Slatedb => Driver::Own(Engine::Slatedb),
            Self::Rocksdb => Driver::Own(Engine::Rocksdb),
        }
    }

    /// The dstl that it is compared with.
    pub(crate) fn yardstick(self) -> Self {
        match self.place() {
            Place::Memory => Self::DstlHashmap,
            Place::Disk => Self::DstlRocksdb,
        }
    }

    pub(crate) fn is_dstl(self) -> bool {
        matches!(self, Self::DstlHashmap | Self::DstlRocksdb)
    }

    /// Whether it has this work: the floor has updates alone.
    pub(crate) fn does(self, work: Work) -> bool {
        self != Self::Floor || work == Work::Update
    }
}

impl Place {
    /// How tables and charts name it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Memory => "state in memory",
            Self::Disk => "state on local disk",
        }
    }
}

impl Engine {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Slatedb => "slatedb",
            Self::Rocksdb => "rocksdb",
        }
    }
}
