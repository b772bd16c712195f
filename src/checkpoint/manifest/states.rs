//! The registered states of manifests.

use crate::{
    proto::store,
    types::{
        CompactionCleanup, IncrementalCleanup, MergeFunction, Redistribution, Schema, Serializer, StateDescriptor,
        StateId, StateKind, Ttl, TtlCleanup, TtlUpdate, TtlVisibility,
    },
};

/// The registration of a state. It never changes: a changed descriptor is another registration, with another id.
///
/// ```text
///   registrations  1: `a` v1, data 1    2: `a` v2, data 1    3: `a` v3, data 3, migrating from 1
///   in force         1 ────────────────── 2 ─────────────────── 2 and 3 ──────────────── 3
/// ```
///
/// The [`CheckpointRecord`](super::CheckpointRecord) tells which registrations are in force at its cut. No two of these
/// share their data. Data without a registration in force has no entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The descriptor that the engine declared.
    pub descriptor: StateDescriptor,
    /// The id of its entries in the log, in inner backends and for clients. It is the id of the first registration of
    /// these entries.
    pub data: StateId,
    /// Data of registrations with the same name and another schema, whose entries belong here once the client has
    /// rewritten them.
    pub migrating_from: Vec<StateId>,
}

impl Registration {
    /// The first registration of its entries.
    #[must_use]
    pub fn first(id: StateId, descriptor: StateDescriptor) -> Self {
        Self { descriptor, data: id, migrating_from: vec![] }
    }
}

pub(super) fn encode_state(id: StateId, registration: &Registration) -> store::State {
    let state = &registration.descriptor;
    store::State {
        // 0 for the common case, which takes no bytes.
        data_id: if registration.data == id { 0 } else { registration.data.0 },
        migrating_from: registration.migrating_from.iter().map(|data| data.0).collect(),
        id: id.0,
        name: state.name.clone(),
        kind: match state.kind {
            StateKind::Value => 1,
            StateKind::List => 2,
            StateKind::Map => 3,
            StateKind::Timer => 4,
        },
        merge: state.merge.map_or(0, |merge| merge.number().into()),
        key_serializer: encode_serializer(&state.schema.key),
        namespace_serializer: encode_serializer(&state.schema.namespace),
        value_serializer: encode_serializer(&state.schema.value),
        ttl: state.ttl.as_ref().map(encode_ttl),
        redistribution: state.redistribution.map_or(0, |redistribution| redistribution as u32),
        default_value: state.default_value.clone(),
    }
}

pub(super) fn decode_state(message: &store::State) -> Result<(StateId, Registration), &'static str> {
    let kind = match message.kind {
        1 => StateKind::Value,
        2 => StateKind::List,
        3 => StateKind::Map,
        4 => StateKind::Timer,
        _ => return Err("an unknown kind of state"),
    };
    let merge = match message.merge {
        0 => None,
        number => Some(MergeFunction::from_number(number).ok_or("an unknown merge function")?),
    };
    let redistribution = match message.redistribution {
        0 => None,
        number => Some(Redistribution::from_number(number).ok_or("an unknown redistribution")?),
    };
    let descriptor = StateDescriptor {
        name: message.name.clone(),
        kind,
        merge,
        schema: Schema {
            key: decode_serializer(message.key_serializer.as_ref()),
            namespace: decode_serializer(message.namespace_serializer.as_ref()),
            value: decode_serializer(message.value_serializer.as_ref()),
        },
        ttl: message.ttl.as_ref().map(decode_ttl).transpose()?,
        redistribution,
        default_value: message.default_value.clone(),
    };
    let data = StateId(if message.data_id == 0 { message.id } else { message.data_id });
    let migrating_from = message.migrating_from.iter().copied().map(StateId).collect();
    Ok((StateId(message.id), Registration { descriptor, data, migrating_from }))
}

fn encode_serializer(serializer: &Serializer) -> Option<store::Serializer> {
    let Serializer { id, version } = serializer;
    // Absent and default are the same, so a state without serializer takes no bytes.
    (*serializer != Serializer::default()).then(|| store::Serializer { id: id.clone(), version: *version })
}

fn decode_serializer(message: Option<&store::Serializer>) -> Serializer {
    message.map(|message| Serializer { id: message.id.clone(), version: message.version }).unwrap_or_default()
}

fn encode_ttl(ttl: &Ttl) -> store::Ttl {
    let TtlCleanup { at_materialization, incremental, compaction } = ttl.cleanup;
    store::Ttl {
        duration_ms: ttl.duration_ms,
        update: match ttl.update {
            TtlUpdate::OnCreateAndWrite => 1,
            TtlUpdate::OnReadAndWrite => 2,
        },
        visibility: match ttl.visibility {
            TtlVisibility::NeverReturnExpired => 1,
            TtlVisibility::ReturnExpiredIfNotCleanedUp => 2,
        },
        cleanup_at_materialization: at_materialization,
        incremental_entries: incremental.map_or(0, |incremental| incremental.entries),
        incremental_every_batch: incremental.is_some_and(|incremental| incremental.every_batch),
        compaction_time_every_entries: compaction.map_or(0, |compaction| compaction.time_every_entries),
        compaction_periodic_ms: compaction.map_or(0, |compaction| compaction.periodic_ms),
    }
}

fn decode_ttl(message: &store::Ttl) -> Result<Ttl, &'static str> {
    let update = match message.update {
        1 => TtlUpdate::OnCreateAndWrite,
        2 => TtlUpdate::OnReadAndWrite,
        _ => return Err("an unknown update type of TTL"),
    };
    let visibility = match message.visibility {
        1 => TtlVisibility::NeverReturnExpired,
        2 => TtlVisibility::ReturnExpiredIfNotCleanedUp,
        _ => return Err("an unknown visibility of TTL"),
    };
    let incremental = (message.incremental_entries > 0).then_some(IncrementalCleanup {
        entries: message.incremental_entries,
        every_batch: message.incremental_every_batch,
    });
    let compaction = (message.compaction_time_every_entries > 0).then_some(CompactionCleanup {
        time_every_entries: message.compaction_time_every_entries,
        periodic_ms: message.compaction_periodic_ms,
    });
    let cleanup = TtlCleanup { at_materialization: message.cleanup_at_materialization, incremental, compaction };
    Ok(Ttl { duration_ms: message.duration_ms, update, visibility, cleanup })
}
