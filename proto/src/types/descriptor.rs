//! State descriptors: kind, merge function, serializers and time to live of a state.

use std::fmt;

use bytes::Bytes;

use super::Ttl;

/// The id of a state within its backend, at least 1, fixed for the backend's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(pub u32);

/// The shape of the contents that a state has per (key, namespace).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(rename_all = "snake_case"))]
pub enum StateKind {
    /// One value, or none.
    Value,
    /// An ordered list of elements.
    List,
    /// A map, ordered by the bytes of its keys.
    Map,
    /// A set of times, each with a key and a namespace, in order of time over all keys of the backend.
    Timer,
}

/// A built-in, versioned merge of one entry. The meaning of a variant never changes; a new meaning is a new variant.
/// Its number, in the protocol and in manifests, is its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(rename_all = "snake_case"))]
pub enum MergeFunction {
    /// Two's complement sum, wrapping around.
    SumI64 = 1,
    /// The lesser integer.
    MinI64 = 2,
    /// The greater integer.
    MaxI64 = 3,
    /// IEEE 754 sum.
    SumF64 = 4,
    /// The lesser number; NaN counts as missing.
    MinF64 = 5,
    /// The greater number; NaN counts as missing.
    MaxF64 = 6,
    /// The operand's bytes appended to the entry.
    Append = 7,
    /// A count of things, wrapping around; an empty operand counts one.
    Count = 8,
    /// Sum and count of integers, both wrapping around.
    AverageI64 = 9,
    /// IEEE 754 sum of numbers, and their count.
    AverageF64 = 10,
    /// The union of sets of byte strings.
    SetUnion = 11,
    /// A [`Sketch`](super::Sketch) of the distinct operands.
    HyperLogLog = 12,
}

impl MergeFunction {
    /// Every function, in order of their numbers, which count from 1.
    pub const ALL: [Self; 12] = [
        Self::SumI64,
        Self::MinI64,
        Self::MaxI64,
        Self::SumF64,
        Self::MinF64,
        Self::MaxF64,
        Self::Append,
        Self::Count,
        Self::AverageI64,
        Self::AverageF64,
        Self::SetUnion,
        Self::HyperLogLog,
    ];

    /// The number of the function in messages and manifests; 0 means no function.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The function with this number; `None` if there is none.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|function| u32::from(function.number()) == number)
    }
}

/// A serializer of the engine, as the engine names it. The daemon only compares it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
#[cfg_attr(feature = "server", serde(default))]
pub struct Serializer {
    /// The engine's name of the serializer; empty if there is none.
    pub id: String,
    /// The version of the format that the serializer writes.
    pub version: u32,
}

/// The serializers that give meaning to the bytes of a state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
#[cfg_attr(feature = "server", serde(default))]
pub struct Schema {
    /// The serializer of keys.
    pub key: Serializer,
    /// The serializer of namespaces.
    pub namespace: Serializer,
    /// The serializer of values, list elements, map keys and map values.
    pub value: Serializer,
}

impl fmt::Display for Serializer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id.as_str() {
            "" if self.version == 0 => f.write_str("none"),
            id => write!(f, "`{id}` version {}", self.version),
        }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}, namespace {}, value {}", self.key, self.namespace, self.value)
    }
}

/// How operator state moves to another parallelism at a restore. Its number is used in messages and manifests, where 0
/// means keyed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(rename_all = "snake_case"))]
pub enum Redistribution {
    /// The elements of all subtasks are cut evenly.
    Split = 1,
    /// Every subtask gets the elements of all.
    Union = 2,
    /// Every subtask gets one of the copies.
    Broadcast = 3,
}

impl Redistribution {
    /// The one with this number; `None` if there is none.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Split, Self::Union, Self::Broadcast].into_iter().find(|one| *one as u32 == number)
    }
}

/// A state as the engine declared it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(deny_unknown_fields))]
pub struct StateDescriptor {
    /// Unique within the backend.
    pub name: String,
    /// The shape of its contents.
    pub kind: StateKind,
    /// How merges combine, for values and maps.
    pub merge: Option<MergeFunction>,
    /// The serializers of its bytes.
    #[cfg_attr(feature = "server", serde(default))]
    pub schema: Schema,
    /// How long its entries live; `None` if they live until they are removed.
    pub ttl: Option<Ttl>,
    /// For operator state; `None` for keyed state.
    pub redistribution: Option<Redistribution>,
    /// For values: the answer of a read where there is no value.
    #[cfg_attr(feature = "server", serde(with = "crate::types::hex", default))]
    pub default_value: Bytes,
}

impl StateDescriptor {
    /// A keyed state with a name and a kind, and defaults for the rest.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: StateKind) -> Self {
        Self {
            name: name.into(),
            kind,
            merge: None,
            schema: Schema::default(),
            ttl: None,
            redistribution: None,
            default_value: Bytes::new(),
        }
    }

    /// The same descriptor with this merge function, or without one.
    #[must_use]
    pub fn with_merge(self, merge: impl Into<Option<MergeFunction>>) -> Self {
        Self { merge: merge.into(), ..self }
    }
}

/// Declares how to go on with a state whose registered schema differs from the descriptor asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// The name of the state.
    pub state: String,
    /// Whether the new serializers can read the old bytes.
    pub mode: SchemaMode,
}

/// How the serializers of a [`SchemaChange`] go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaMode {
    /// The new ones can read the bytes of the old ones: the entries stay.
    Compatible,
    /// The new ones cannot: the client rewrites the entries from the old state to the new one.
    Migrate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_functions_are_numbered_from_1_on() {
        for (number, function) in (1_u8..).zip(MergeFunction::ALL) {
            assert_eq!(function.number(), number);
            assert_eq!(MergeFunction::from_number(number.into()), Some(function));
        }
        assert_eq!([0, 13, 257].map(MergeFunction::from_number), [None; 3]);
    }
}
