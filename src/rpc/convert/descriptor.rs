//! Descriptors of states between protobuf and domain types.

use super::{invalid, unknown_value};
use crate::{
    backend::RegisteredState,
    error::Error,
    proto::v1::{self, ttl},
    types::{
        CompactionCleanup, IncrementalCleanup, MergeFunction, Redistribution, Schema, SchemaChange, SchemaMode,
        Serializer, StateDescriptor, StateKind, Ttl, TtlCleanup, TtlUpdate, TtlVisibility,
    },
};

/// A state that a client declares.
pub(in crate::rpc) fn descriptor(descriptor: &v1::StateDescriptor) -> Result<StateDescriptor, Error> {
    let state = &descriptor.name;
    let kind = match v1::StateKind::try_from(descriptor.kind) {
        Ok(v1::StateKind::Value) => StateKind::Value,
        Ok(v1::StateKind::List) => StateKind::List,
        Ok(v1::StateKind::Map) => StateKind::Map,
        Ok(v1::StateKind::Timer) => StateKind::Timer,
        Ok(v1::StateKind::Unspecified) => return Err(invalid(format!("state `{state}`: `kind` is missing"))),
        Err(_) => return Err(unknown_value("kind", descriptor.kind)),
    };
    let merge = match descriptor.merge {
        0 => None,
        number => {
            let function = u32::try_from(number).ok().and_then(MergeFunction::from_number);
            Some(function.ok_or_else(|| unknown_value("merge", number))?)
        }
    };
    let redistribution = match descriptor.redistribution {
        0 => None,
        number => {
            let redistribution = u32::try_from(number).ok().and_then(Redistribution::from_number);
            Some(redistribution.ok_or_else(|| unknown_value("redistribution", number))?)
        }
    };
    Ok(StateDescriptor {
        name: state.clone(),
        kind,
        merge,
        schema: Schema {
            key: serializer(descriptor.key_serializer.as_ref()),
            namespace: serializer(descriptor.namespace_serializer.as_ref()),
            value: serializer(descriptor.value_serializer.as_ref()),
        },
        ttl: descriptor.ttl.as_ref().map(|ttl| self::ttl(state, ttl)).transpose()?,
        redistribution,
        default_value: descriptor.default_value.clone(),
    })
}

fn serializer(serializer: Option<&v1::Serializer>) -> Serializer {
    serializer.map(|one| Serializer { id: one.id.clone(), version: one.version }).unwrap_or_default()
}

fn ttl(state: &str, ttl: &v1::Ttl) -> Result<Ttl, Error> {
    if ttl.duration_ms == 0 {
        return Err(invalid(format!("state `{state}`: `ttl.duration_ms` is 0; leave `ttl` out for entries that stay")));
    }
    let update = match ttl::Update::try_from(ttl.update) {
        Ok(ttl::Update::Unspecified | ttl::Update::OnCreateAndWrite) => TtlUpdate::OnCreateAndWrite,
        Ok(ttl::Update::OnReadAndWrite) => TtlUpdate::OnReadAndWrite,
        Err(_) => return Err(unknown_value("ttl.update", ttl.update)),
    };
    let visibility = match ttl::Visibility::try_from(ttl.visibility) {
        Ok(ttl::Visibility::Unspecified | ttl::Visibility::NeverReturnExpired) => TtlVisibility::NeverReturnExpired,
        Ok(ttl::Visibility::ReturnExpiredIfNotCleanedUp) => TtlVisibility::ReturnExpiredIfNotCleanedUp,
        Err(_) => return Err(unknown_value("ttl.visibility", ttl.visibility)),
    };
    let cleanup = ttl.cleanup.as_ref().map_or_else(TtlCleanup::default, |cleanup| TtlCleanup {
        at_materialization: cleanup.at_materialization,
        incremental: cleanup.incremental.as_ref().map(|wire| IncrementalCleanup {
            entries: or_default(wire.entries, IncrementalCleanup::default().entries),
            every_batch: wire.every_batch,
        }),
        compaction: cleanup.compaction_filter.as_ref().map(|wire| {
            let default = CompactionCleanup::default();
            CompactionCleanup {
                time_every_entries: or_default(wire.time_every_entries, default.time_every_entries),
                periodic_ms: or_default(wire.periodic_compaction_ms, default.periodic_ms),
            }
        }),
    });
    Ok(Ttl { duration_ms: ttl.duration_ms, update, visibility, cleanup })
}

fn or_default<T: PartialEq + Default>(wire: T, default: T) -> T {
    if wire == T::default() { default } else { wire }
}

/// A change that a client declares.
pub(in crate::rpc) fn schema_change(change: &v1::SchemaChange) -> Result<SchemaChange, Error> {
    use v1::schema_change::Mode;
    let state = change.state.clone();
    let mode = match Mode::try_from(change.mode) {
        Ok(Mode::Compatible) => SchemaMode::Compatible,
        Ok(Mode::Migrate) => SchemaMode::Migrate,
        Ok(Mode::Unspecified) => return Err(invalid(format!("schema change of state `{state}`: `mode` is missing"))),
        Err(_) => return Err(unknown_value("changes.mode", change.mode)),
    };
    Ok(SchemaChange { state, mode })
}

pub(in crate::rpc) fn to_registered(state: &RegisteredState) -> v1::RegisteredState {
    let RegisteredState { id, descriptor, migrating_from } = state;
    let kind = match descriptor.kind {
        StateKind::Value => v1::StateKind::Value,
        StateKind::List => v1::StateKind::List,
        StateKind::Map => v1::StateKind::Map,
        StateKind::Timer => v1::StateKind::Timer,
    };
    let descriptor = v1::StateDescriptor {
        name: descriptor.name.clone(),
        kind: kind.into(),
        merge: descriptor.merge.map_or(0, |merge| merge.number().into()),
        key_serializer: to_serializer(&descriptor.schema.key),
        namespace_serializer: to_serializer(&descriptor.schema.namespace),
        value_serializer: to_serializer(&descriptor.schema.value),
        ttl: descriptor.ttl.as_ref().map(to_ttl),
        redistribution: descriptor.redistribution.map_or(0, |redistribution| redistribution as i32),
        default_value: descriptor.default_value.clone(),
    };
    v1::RegisteredState {
        id: id.0,
        descriptor: Some(descriptor),
        migrating_from: migrating_from.map_or(0, |from| from.0),
    }
}

fn to_serializer(serializer: &Serializer) -> Option<v1::Serializer> {
    let Serializer { id, version } = serializer;
    (*serializer != Serializer::default()).then(|| v1::Serializer { id: id.clone(), version: *version })
}

fn to_ttl(ttl: &Ttl) -> v1::Ttl {
    let update = match ttl.update {
        TtlUpdate::OnCreateAndWrite => ttl::Update::OnCreateAndWrite,
        TtlUpdate::OnReadAndWrite => ttl::Update::OnReadAndWrite,
    };
    let visibility = match ttl.visibility {
        TtlVisibility::NeverReturnExpired => ttl::Visibility::NeverReturnExpired,
        TtlVisibility::ReturnExpiredIfNotCleanedUp => ttl::Visibility::ReturnExpiredIfNotCleanedUp,
    };
    let TtlCleanup { at_materialization, incremental, compaction } = ttl.cleanup;
    let cleanup = ttl::Cleanup {
        at_materialization,
        incremental: incremental
            .map(|IncrementalCleanup { entries, every_batch }| ttl::Incremental { entries, every_batch }),
        compaction_filter: compaction.map(|CompactionCleanup { time_every_entries, periodic_ms }| {
            ttl::CompactionFilter { time_every_entries, periodic_compaction_ms: periodic_ms }
        }),
    };
    v1::Ttl {
        duration_ms: ttl.duration_ms,
        update: update.into(),
        visibility: visibility.into(),
        cleanup: Some(cleanup),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_comes_back_as_it_was_declared() {
        let ttl = Ttl { update: TtlUpdate::OnReadAndWrite, ..Ttl::new(5) };
        let cleanup = TtlCleanup { at_materialization: true, incremental: None, compaction: None };
        let full = StateDescriptor {
            schema: Schema { value: Serializer { id: "row".to_owned(), version: 7 }, ..Schema::default() },
            ttl: Some(Ttl { visibility: TtlVisibility::ReturnExpiredIfNotCleanedUp, cleanup, ..ttl }),
            redistribution: Some(Redistribution::Broadcast),
            default_value: bytes::Bytes::from_static(b"default"),
            ..StateDescriptor::new("full", StateKind::Map).with_merge(MergeFunction::Count)
        };
        let usual = StateDescriptor { ttl: Some(ttl), ..StateDescriptor::new("usual", StateKind::List) };
        for declared in [full, usual, StateDescriptor::new("bare", StateKind::Timer)] {
            let (id, migrating_from) = (crate::types::StateId(3), Some(crate::types::StateId(2)));
            let wire = to_registered(&RegisteredState { id, descriptor: declared.clone(), migrating_from });
            assert_eq!((wire.id, wire.migrating_from), (3, 2));
            assert_eq!(descriptor(&wire.descriptor.unwrap()).unwrap(), declared);
        }
    }

    #[test]
    fn a_schema_change_says_how_the_serializers_go_together() {
        let declared = |mode| schema_change(&v1::SchemaChange { state: "a".to_owned(), mode });
        let change = |mode| Ok(SchemaChange { state: "a".to_owned(), mode });
        assert_eq!((declared(1), declared(2)), (change(SchemaMode::Compatible), change(SchemaMode::Migrate)));
        assert!(declared(0).unwrap_err().message.contains("`mode` is missing"));
        assert!(declared(3).is_err());
    }

    #[test]
    fn ttl_without_more_has_the_defaults_and_none_lasts_no_time() {
        let lives = |duration_ms, cleanup| v1::StateDescriptor {
            name: "a".to_owned(),
            kind: v1::StateKind::Value.into(),
            ttl: Some(v1::Ttl { duration_ms, cleanup, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(descriptor(&lives(9, None)).unwrap().ttl, Some(Ttl::new(9)));
        let incremental = Some(ttl::Incremental { entries: 0, every_batch: true });
        let some = ttl::Cleanup { incremental, ..Default::default() };
        let cleanup = descriptor(&lives(9, Some(some))).unwrap().ttl.unwrap().cleanup;
        assert_eq!(cleanup.incremental, Some(IncrementalCleanup { entries: 5, every_batch: true }));
        assert_eq!((cleanup.at_materialization, cleanup.compaction), (false, None));
        assert!(descriptor(&lives(0, None)).unwrap_err().message.contains("duration_ms"));
    }
}
