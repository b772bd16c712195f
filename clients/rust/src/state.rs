//! Typed handles of states, as [`Backend`](super::Backend) registers them.
//!
//! A handle names a state and a namespace in it, and has no connection. Its methods make operations ([`Op`]) and reads
//! of many items ([`Scan`]), which a session carries out.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;

use super::{Decode, Encode, Op, Scan, StoredKey, op, scan, ttl, wire::Target};
use dstl_proto::{
    types::{MergeFunction, Redistribution, Schema, Serializer, StateKind, Ttl},
    v1::{self, Operation, OperationKind, Outcome},
};

/// Options of a typed state, besides its name and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateOptions {
    merge: Option<MergeFunction>,
    schema: Schema,
    ttl: Option<Ttl>,
    redistribution: Option<Redistribution>,
    default_value: Bytes,
    compatible: bool,
}

impl StateOptions {
    /// A state without merges and serializers, whose entries live until they are removed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `merge` combine values with this function. The numeric functions need values of type `i64` or `f64`, the
    /// averages [`Average`](super::Average), the union a `BTreeSet` of `String`, `Vec<u8>` or `Bytes`, and
    /// `HyperLogLog` a [`Sketch`](crate::types::Sketch).
    #[must_use]
    pub fn with_merge(mut self, merge: MergeFunction) -> Self {
        self.merge = Some(merge);
        self
    }

    /// The serializers of keys, namespaces and values. A later registration must name the same ones, or declare the
    /// change: see [`compatible`](Self::compatible).
    #[must_use]
    pub fn with_schema(mut self, schema: Schema) -> Self {
        self.schema = schema;
        self
    }

    /// The time to live of each entry: a value, a map entry, a list element. Not for timers and operator state.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The answer of `get_or_default` if there is no value; of the handle's value type. Only for values.
    #[must_use]
    pub fn with_default(mut self, value: &(impl Encode + ?Sized)) -> Self {
        self.default_value = encoded(value);
        self
    }

    /// Declares that these serializers can read the bytes of those in an earlier registration: entries stay, and the
    /// state gets the new schema. Without this, a difference is refused; [`Backend::migrate`](super::Backend::migrate)
    /// rewrites entries.
    #[must_use]
    pub fn compatible(mut self) -> Self {
        self.compatible = true;
        self
    }

    pub(super) fn is_compatible(&self) -> bool {
        self.compatible
    }

    pub(super) fn redistributed(mut self, redistribution: Redistribution) -> Self {
        self.redistribution = Some(redistribution);
        self
    }

    /// The descriptor of a state with these options.
    #[must_use]
    pub fn descriptor(self, name: &str, kind: StateKind) -> v1::StateDescriptor {
        let kind = match kind {
            StateKind::Value => v1::StateKind::Value,
            StateKind::List => v1::StateKind::List,
            StateKind::Map => v1::StateKind::Map,
            StateKind::Timer => v1::StateKind::Timer,
        };
        v1::StateDescriptor {
            name: name.to_owned(),
            kind: kind.into(),
            merge: self.merge.map_or(0, |merge| merge.number().into()),
            key_serializer: serializer(self.schema.key),
            namespace_serializer: serializer(self.schema.namespace),
            value_serializer: serializer(self.schema.value),
            ttl: self.ttl.map(ttl::to_proto),
            redistribution: self.redistribution.map_or(0, |redistribution| redistribution as i32),
            default_value: self.default_value,
        }
    }
}

/// The bytes of a key, a namespace or a value.
pub(super) fn encoded(value: &(impl Encode + ?Sized)) -> Bytes {
    let mut bytes = Vec::with_capacity(value.encoded_len());
    value.encode(&mut bytes);
    bytes.into()
}

fn serializer(serializer: Serializer) -> Option<v1::Serializer> {
    (serializer != Serializer::default()).then_some(v1::Serializer { id: serializer.id, version: serializer.version })
}

/// A state, a namespace in it and, if the client assigns key groups, the key group.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    state: u32,
    namespace: Bytes,
    key_group: Option<u32>,
}

impl Scope {
    pub(super) fn target(&self, kind: OperationKind) -> Target<'_> {
        Target { kind, state: self.state, namespace: &self.namespace, key_group: self.key_group }
    }

    /// An operation on this state and namespace, for rare calls.
    pub(super) fn operation(&self, kind: OperationKind) -> Operation {
        Operation {
            kind: kind.into(),
            state: self.state,
            namespace: self.namespace.clone(),
            key_group: self.key_group,
            ..Operation::default()
        }
    }
}

/// Any typed handle.
pub trait State: private::Sealed {
    /// The type of its keys.
    type Key: ?Sized;

    /// The id that the daemon gave the state.
    fn id(&self) -> u32;
}

pub(super) mod private {
    /// Restricts [`super::State`] to the handles of this library, and lets them share code.
    pub trait Sealed: Clone {
        #[allow(private_interfaces, reason = "reached by this library alone")]
        fn scope(&self) -> &super::Scope;
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident<$($type:ident),*>, on $key:ident) => {
        $(#[$doc])*
        pub struct $name<$($type: ?Sized),*> {
            scope: Scope,
            types: PhantomData<fn($(&$type),*)>,
        }

        impl<$($type: ?Sized),*> $name<$($type),*> {
            /// The handle of the state with this id, in the void namespace. The caller is responsible for the types.
            #[must_use]
            pub fn from_id(id: u32) -> Self {
                Self { scope: Scope { state: id, namespace: Bytes::new(), key_group: None }, types: PhantomData }
            }

            /// The same state in another namespace.
            #[must_use]
            pub fn namespace(&self, namespace: &(impl Encode + ?Sized)) -> Self {
                let mut other = self.clone();
                other.scope.namespace = encoded(namespace);
                other
            }

            /// The same state for keys of this key group; needed exactly if the backend's assignment is GIVEN.
            #[must_use]
            pub fn key_group(&self, key_group: u32) -> Self {
                let mut other = self.clone();
                other.scope.key_group = Some(key_group);
                other
            }

            /// Removes everything of `key` in this namespace. `key` must be of the handle's key type.
            pub fn clear<'a>(&'a self, key: &'a (impl Encode + ?Sized)) -> impl Op<Output = ()> {
                op::clear(&self.scope, key)
            }

            /// Merges the contents that `sources` have of `key` into this namespace, and clears them, as for session
            /// windows that meet. `key` must be of the handle's key type. The sources are distinct, and none is this
            /// namespace. [`Outcome::LimitReached`] means that a result would have become too long, and nothing was
            /// changed.
            pub fn merge_namespaces<'a, X: Encode>(
                &'a self,
                key: &'a (impl Encode + ?Sized),
                sources: &'a [X],
            ) -> impl Op<Output = Outcome> {
                op::merge_namespaces(&self.scope, key, sources)
            }

            /// The keys that have entries in this namespace, of all key groups of the backend, in no particular order.
            /// A key that exists from the first page to the last is returned exactly once, whatever the session writes
            /// in between. A key that comes or goes meanwhile may be missing.
            pub fn keys(&self) -> Scan<<$key as ToOwned>::Owned>
            where
                $key: ToOwned<Owned: Decode>,
            {
                scan::keys(&self.scope)
            }

            /// The keys in every namespace, as pairs of key and namespace; otherwise as [`keys`](Self::keys).
            pub fn all_keys<X: Decode>(&self) -> Scan<StoredKey<<$key as ToOwned>::Owned, X>>
            where
                $key: ToOwned<Owned: Decode>,
            {
                scan::all_keys(&self.scope)
            }
        }

        impl<$($type: ?Sized),*> State for $name<$($type),*> {
            type Key = $key;

            fn id(&self) -> u32 {
                self.scope.state
            }
        }

        #[allow(private_interfaces, reason = "the trait is sealed")]
        impl<$($type: ?Sized),*> private::Sealed for $name<$($type),*> {
            fn scope(&self) -> &Scope {
                &self.scope
            }
        }

        impl<$($type: ?Sized),*> Clone for $name<$($type),*> {
            fn clone(&self) -> Self {
                Self { scope: self.scope.clone(), types: PhantomData }
            }
        }

        impl<$($type: ?Sized),*> fmt::Debug for $name<$($type),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.scope).finish()
            }
        }
    };
}

handle! {
    /// One value per key and namespace.
    ValueState<K, V>, on K
}

handle! {
    /// A map per key and namespace, ordered by the bytes of its keys.
    MapState<K, M, V>, on K
}

handle! {
    /// An ordered list per key and namespace.
    ListState<K, V>, on K
}

handle! {
    /// Timers: a set of times, each with a key and a namespace `N`, read in order of time over all keys of the backend.
    /// Use two states for event time and processing time; the task decides about the meaning of a time.
    TimerState<K, N>, on K
}
