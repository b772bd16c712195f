//! What a state is: its kind, its merge function, its serializer.

/// The id of a state within its backend, at least 1, fixed for the backend's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(pub u32);

/// The shape of what a state keeps per (key, namespace).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateKind {
    /// One value.
    Value,
    /// An ordered list of elements.
    List,
    /// A map, ordered by the bytes of its keys.
    Map,
}

/// A built-in, versioned merge of one entry. The meaning of a variant never changes; a new meaning is a new variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MergeFunction {
    /// Two's complement sum, wrapping around.
    SumI64,
    /// The lesser integer.
    MinI64,
    /// The greater integer.
    MaxI64,
    /// IEEE 754 sum.
    SumF64,
    /// The lesser number; NaN counts as missing.
    MinF64,
    /// The greater number; NaN counts as missing.
    MaxF64,
    /// Concatenation.
    Append,
}

impl MergeFunction {
    /// The length in bytes that every value of this function has, if it prescribes one.
    #[must_use]
    pub fn width(self) -> Option<usize> {
        match self {
            Self::Append => None,
            Self::SumI64 | Self::MinI64 | Self::MaxI64 | Self::SumF64 | Self::MinF64 | Self::MaxF64 => Some(8),
        }
    }
}

/// How the engine declared a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDescriptor {
    /// Unique within the backend.
    pub name: String,
    /// Its shape.
    pub kind: StateKind,
    /// How merges combine, for values and maps.
    pub merge: Option<MergeFunction>,
    /// Opaque ids of the engine's serializers.
    pub serializer: String,
}
