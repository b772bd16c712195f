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

/// A built-in, versioned merge of one entry. The meaning of a variant never changes; a new meaning is a new variant. Its
/// number, in the protocol and in manifests, is its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Concatenation.
    Append = 7,
    /// A count of things, wrapping around; an empty operand counts one.
    Count = 8,
    /// Sum and count of integers, both wrapping around.
    AverageI64 = 9,
    /// IEEE 754 sum, and count, of numbers.
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

    /// What stands for it in messages and manifests; 0 stands for none.
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
