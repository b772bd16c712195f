//! Time to live in the form of the protocol.

use dstl_proto::{
    types::{Ttl, TtlUpdate, TtlVisibility},
    v1::{self, ttl},
};

pub(super) fn to_proto(from: Ttl) -> v1::Ttl {
    let update = match from.update {
        TtlUpdate::OnCreateAndWrite => ttl::Update::OnCreateAndWrite,
        TtlUpdate::OnReadAndWrite => ttl::Update::OnReadAndWrite,
    };
    let visibility = match from.visibility {
        TtlVisibility::NeverReturnExpired => ttl::Visibility::NeverReturnExpired,
        TtlVisibility::ReturnExpiredIfNotCleanedUp => ttl::Visibility::ReturnExpiredIfNotCleanedUp,
    };
    let cleanup = ttl::Cleanup {
        at_materialization: from.cleanup.at_materialization,
        incremental: from
            .cleanup
            .incremental
            .map(|incremental| ttl::Incremental { entries: incremental.entries, every_batch: incremental.every_batch }),
        compaction_filter: from.cleanup.compaction.map(|compaction| ttl::CompactionFilter {
            time_every_entries: compaction.time_every_entries,
            periodic_compaction_ms: compaction.periodic_ms,
        }),
    };
    v1::Ttl {
        duration_ms: from.duration_ms,
        update: update.into(),
        visibility: visibility.into(),
        cleanup: Some(cleanup),
    }
}
