//! Checks operations by themselves: kind, ids and sizes, never the contents of the state.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Op, namespaces::MAX_SOURCES};
use crate::{
    state::{
        Address, MapKeys,
        merge::{Unfit, check_operand, check_value},
    },
    types::{Limits, StateDescriptor, StateKind},
};

/// A fault of an operation that does not depend on the contents of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The operation is for another kind of state.
    #[error("an operation on a {} state, but the state is a {} state", kind_name(*.operation), kind_name(*.state))]
    WrongKind {
        /// The kind of state that the operation is for.
        operation: StateKind,
        /// The kind of the state.
        state: StateKind,
    },
    /// The operation is about all of (key, namespace), but the state has timers.
    #[error(
        "an operation on all of a key and namespace, but the state is a timer state: timers are deleted one by one"
    )]
    OneByOne,
    /// No timer can have this time.
    #[error("a timer beyond the range: its time is {}, the lowest number; timers are above it", i64::MIN)]
    BeyondRange,
    /// The key is empty.
    #[error("the key is empty: keys have 1 byte or more")]
    EmptyKey,
    /// There is a key or namespace, but the state is operator state.
    #[error("a {}, but operator state belongs to the subtask: leave `key` and `namespace` empty", .0.name())]
    OfOperatorState(OpField),
    /// The operation needs keys or namespaces, but the state is operator state.
    #[error("operator state has neither keys nor namespaces: it is read by LIST_GET or MAP_ENTRIES")]
    NotKeyed,
    /// There is a key, but the operation reads all keys.
    #[error("a key, but the operation is on all keys of the state: leave `key` empty")]
    KeyPresent,
    /// The token was not made by this owner for this state.
    #[error("the token is of another state, or of another owner of the backend: begin with an empty one")]
    ForeignToken,
    /// A field is too long.
    #[error("a {} of {bytes} bytes: at most {limit} are allowed", .field.name())]
    TooLong {
        /// The field that is too long.
        field: OpField,
        /// Its length in bytes.
        bytes: usize,
        /// Its limit in bytes.
        limit: usize,
    },
    /// The operation is a merge, but the state was registered without a merge function.
    #[error("a merge, but the state has no merge function")]
    NoMergeFunction,
    /// The target is among the merged namespaces.
    #[error("source {0} is the target: a namespace cannot be merged into itself")]
    SourceIsTarget(usize),
    /// A namespace is listed twice.
    #[error("source {1} is source {0} again: each namespace is given once")]
    SourceTwice(usize, usize),
    /// There are more namespaces than one operation can merge.
    #[error("{0} sources: at most {MAX_SOURCES} namespaces are merged at once")]
    TooManySources(usize),
    /// The state's merge function cannot take this value or operand.
    #[error("a value of {0}")]
    Unfit(#[from] Unfit),
}

/// A field of an operation that has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpField {
    /// The field `key`.
    Key,
    /// The field `namespace`.
    Namespace,
    /// The key of a map entry.
    MapKey,
    /// A value, operand or list element.
    Value,
}

impl OpField {
    fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Namespace => "namespace",
            Self::MapKey => "map key",
            Self::Value => "value",
        }
    }
}

/// Checks an operation by its shape and sizes. The caller has found `descriptor` by the state's id, and has checked the
/// key group.
///
/// # Errors
/// [`OpError`] names the fault.
pub fn check(op: &Op<'_>, at: &Address<'_>, descriptor: &StateDescriptor, limits: &Limits) -> Result<(), OpError> {
    if let Some(operation) = op.kind()
        && operation != descriptor.kind
    {
        return Err(OpError::WrongKind { operation, state: descriptor.kind });
    }
    if descriptor.kind == StateKind::Timer && matches!(op, Op::Clear | Op::MergeNamespaces(_)) {
        return Err(OpError::OneByOne);
    }
    match (op.is_keyed(), at.key) {
        _ if descriptor.redistribution.is_some() => of_operator_state(op, at)?,
        (true, []) => return Err(OpError::EmptyKey),
        (false, [_, ..]) => return Err(OpError::KeyPresent),
        _ => {}
    }
    within(OpField::Key, at.key, limits.max_key_bytes)?;
    within(OpField::Namespace, at.namespace, limits.max_key_bytes)?;
    let map_key = |map_key: &[u8]| within(OpField::MapKey, map_key, limits.max_key_bytes);
    let value = |value: &[u8]| stored(value, descriptor, limits);
    match *op {
        Op::Put(put) => value(put),
        Op::Merge(operand) => merged(operand, descriptor, limits),
        Op::MapPut { map_key: key, value: put } => map_key(key).and_then(|()| value(put)),
        Op::MapMerge { map_key: key, operand } => map_key(key).and_then(|()| merged(operand, descriptor, limits)),
        Op::MapGet { map_key: key } | Op::MapRemove { map_key: key } | Op::MapContains { map_key: key } => map_key(key),
        // The page after one that ends with the longest key begins one byte later.
        Op::MapEntries { keys: MapKeys { from, to, prefix }, .. } => {
            within(OpField::MapKey, from, limits.max_key_bytes.saturating_add(1))?;
            within(OpField::MapKey, to, limits.max_key_bytes.saturating_add(1))?;
            map_key(prefix)
        }
        Op::ListAdd(element) => within(OpField::Value, element, limits.max_value_bytes),
        Op::ListAddAll(elements) | Op::ListUpdate(elements) => {
            elements.iter().try_for_each(|element| within(OpField::Value, element, limits.max_value_bytes))
        }
        Op::MergeNamespaces(namespaces) => sources(namespaces, at, limits),
        Op::TimerRegister { time: i64::MIN } | Op::TimerDelete { time: i64::MIN } => Err(OpError::BeyondRange),
        Op::Clear
        | Op::Get
        | Op::MapCount
        | Op::ListGet { .. }
        | Op::ListCount
        | Op::Keys { .. }
        | Op::TimerRegister { .. }
        | Op::TimerDelete { .. }
        | Op::Timers { .. }
        | Op::TimersFire { .. }
        | Op::TimerCount => Ok(()),
    }
}

/// Checks that an operation on operator state names no key or namespace.
fn of_operator_state(op: &Op<'_>, at: &Address<'_>) -> Result<(), OpError> {
    match (op, at.key, at.namespace) {
        (Op::Keys { .. } | Op::MergeNamespaces(_), ..) => Err(OpError::NotKeyed),
        (_, [], []) => Ok(()),
        (_, [], _) => Err(OpError::OfOperatorState(OpField::Namespace)),
        _ => Err(OpError::OfOperatorState(OpField::Key)),
    }
}

/// Checks the operand of a merge.
fn merged(operand: &[u8], descriptor: &StateDescriptor, limits: &Limits) -> Result<(), OpError> {
    let function = descriptor.merge.ok_or(OpError::NoMergeFunction)?;
    within(OpField::Value, operand, limits.max_value_bytes)?;
    Ok(check_operand(function, operand)?)
}

/// Checks a value that is stored unchanged.
fn stored(value: &[u8], descriptor: &StateDescriptor, limits: &Limits) -> Result<(), OpError> {
    within(OpField::Value, value, limits.max_value_bytes)?;
    descriptor.merge.map_or(Ok(()), |function| Ok(check_value(function, value)?))
}

/// Checks the namespaces that are merged into that of `at`.
fn sources(namespaces: &[Bytes], at: &Address<'_>, limits: &Limits) -> Result<(), OpError> {
    if namespaces.len() > MAX_SOURCES {
        return Err(OpError::TooManySources(namespaces.len()));
    }
    let mut seen = BTreeMap::new();
    for (index, source) in namespaces.iter().enumerate() {
        within(OpField::Namespace, source, limits.max_key_bytes)?;
        if source == at.namespace {
            return Err(OpError::SourceIsTarget(index));
        }
        if let Some(first) = seen.insert(source, index) {
            return Err(OpError::SourceTwice(first, index));
        }
    }
    Ok(())
}

fn within(field: OpField, value: &[u8], limit: usize) -> Result<(), OpError> {
    if value.len() > limit { Err(OpError::TooLong { field, bytes: value.len(), limit }) } else { Ok(()) }
}

fn kind_name(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Value => "value",
        StateKind::List => "list",
        StateKind::Map => "map",
        StateKind::Timer => "timer",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::types::{KeyGroup, MergeFunction, Redistribution, StateId};

    const LIMITS: fn() -> Limits = || Limits { max_key_bytes: 4, max_value_bytes: 16, ..Limits::default() };

    fn checked(op: Op<'_>, kind: StateKind, merge: Option<MergeFunction>) -> Result<(), OpError> {
        let descriptor = StateDescriptor::new("s", kind).with_merge(merge);
        let at = Address { state: StateId(1), key_group: KeyGroup(0), key: b"key", namespace: b"" };
        check(&op, &at, &descriptor, &LIMITS())
    }

    #[test]
    fn an_operation_for_another_kind_is_refused_but_clear_fits_all() {
        use StateKind::{List, Map, Value};
        let error = checked(Op::MapCount, Value, None).unwrap_err();
        assert_eq!(error, OpError::WrongKind { operation: Map, state: Value });
        assert_eq!(error.to_string(), "an operation on a map state, but the state is a value state");
        assert!(checked(Op::ListAdd(b""), Map, None).is_err());
        assert!(checked(Op::Get, List, None).is_err());
        for kind in [Value, List, Map] {
            assert_eq!(checked(Op::Clear, kind, None), Ok(()));
        }
    }

    #[test]
    fn timers_are_set_one_by_one_within_their_range() {
        let timer = |op| checked(op, StateKind::Timer, None);
        assert_eq!(timer(Op::Clear), Err(OpError::OneByOne));
        assert_eq!(timer(Op::MergeNamespaces(&[])), Err(OpError::OneByOne));
        assert_eq!(timer(Op::TimerRegister { time: i64::MIN }), Err(OpError::BeyondRange));
        assert_eq!(timer(Op::TimerDelete { time: i64::MIN }), Err(OpError::BeyondRange));
        assert!(OpError::BeyondRange.to_string().contains("a timer beyond the range"));
        for time in [i64::MIN + 1, -1, 0, i64::MAX] {
            assert_eq!(timer(Op::TimerRegister { time }), Ok(()));
            assert_eq!(timer(Op::TimerDelete { time }), Ok(()));
        }
        assert_eq!(timer(Op::TimersFire { up_to: 0, limit: 0 }), Err(OpError::KeyPresent));
        assert_eq!(timer(Op::TimerCount), Err(OpError::KeyPresent));
        assert_eq!(timer(Op::Timers { up_to: 0, token: b"", limit: 0 }), Err(OpError::KeyPresent));
        assert!(matches!(timer(Op::Get), Err(OpError::WrongKind { .. })));
        assert!(checked(Op::TimerRegister { time: 1 }, StateKind::Map, None).is_err());
    }

    #[test]
    fn every_field_has_its_limit() {
        let too_long = |field, bytes, limit| Err(OpError::TooLong { field, bytes, limit });
        let value = |op| checked(op, StateKind::Value, None);
        let map = |op| checked(op, StateKind::Map, None);
        let list = |op| checked(op, StateKind::List, None);
        assert_eq!(value(Op::Put(&[0; 16])), Ok(()));
        assert_eq!(value(Op::Put(&[0; 17])), too_long(OpField::Value, 17, 16));
        assert_eq!(map(Op::MapPut { map_key: b"", value: b"" }), Ok(()));
        assert_eq!(map(Op::MapPut { map_key: b"12345", value: b"" }), too_long(OpField::MapKey, 5, 4));
        assert_eq!(map(Op::MapEntries { keys: MapKeys::from(b"1234\0"), limit: 0 }), Ok(()));
        assert_eq!(map(Op::MapEntries { keys: MapKeys::from(b"123456"), limit: 0 }), too_long(OpField::MapKey, 6, 5));
        let elements = [Bytes::new(), Bytes::from_static(&[0; 17])];
        assert_eq!(list(Op::ListAdd(&elements[1])), too_long(OpField::Value, 17, 16));
        assert_eq!(list(Op::ListAddAll(&elements)), too_long(OpField::Value, 17, 16));
        assert_eq!(list(Op::ListUpdate(&elements)), too_long(OpField::Value, 17, 16));
        assert_eq!(list(Op::ListUpdate(&elements[..1])), Ok(()));
    }

    #[test]
    fn keys_are_present_and_bounded() {
        let descriptor = StateDescriptor::new("s", StateKind::Value);
        let checked = |key: &[u8], namespace: &[u8]| {
            let at = Address { state: StateId(1), key_group: KeyGroup(0), key, namespace };
            check(&Op::Get, &at, &descriptor, &LIMITS())
        };
        assert_eq!(checked(b"1234", b"1234"), Ok(()));
        assert_eq!(checked(b"", b""), Err(OpError::EmptyKey));
        assert_eq!(checked(b"12345", b""), Err(OpError::TooLong { field: OpField::Key, bytes: 5, limit: 4 }));
        assert_eq!(checked(b"1", b"12345"), Err(OpError::TooLong { field: OpField::Namespace, bytes: 5, limit: 4 }));
    }

    #[test]
    fn operator_state_has_neither_key_nor_namespace() {
        let descriptor = StateDescriptor {
            redistribution: Some(Redistribution::Split),
            ..StateDescriptor::new("s", StateKind::List)
        };
        let checked = |op: Op<'_>, key: &[u8], namespace: &[u8]| {
            let at = Address { state: StateId(1), key_group: KeyGroup::OPERATOR, key, namespace };
            check(&op, &at, &descriptor, &LIMITS())
        };
        assert_eq!(checked(Op::ListAdd(b"e"), b"", b""), Ok(()));
        assert_eq!(checked(Op::ListAdd(b"e"), b"k", b""), Err(OpError::OfOperatorState(OpField::Key)));
        assert_eq!(checked(Op::ListCount, b"", b"n"), Err(OpError::OfOperatorState(OpField::Namespace)));
        assert_eq!(checked(Op::MergeNamespaces(&[]), b"", b""), Err(OpError::NotKeyed));
        assert_eq!(checked(Op::Keys { all_namespaces: true, token: b"", limit: 0 }, b"", b""), Err(OpError::NotKeyed));
        let error = checked(Op::Get, b"", b"").unwrap_err();
        assert_eq!(error, OpError::WrongKind { operation: StateKind::Value, state: StateKind::List });
    }

    #[test]
    fn namespaces_are_merged_once_and_not_into_themselves() {
        let checked = |sources: &[&'static str]| {
            let sources: Vec<_> = sources.iter().map(|source| Bytes::from_static(source.as_bytes())).collect();
            let descriptor = StateDescriptor::new("s", StateKind::List);
            let at = Address { state: StateId(1), key_group: KeyGroup(0), key: b"key", namespace: b"w" };
            check(&Op::MergeNamespaces(&sources), &at, &descriptor, &LIMITS())
        };
        assert_eq!(checked(&[]), Ok(()));
        assert_eq!(checked(&["a", "", "b"]), Ok(()));
        assert_eq!(checked(&["a", "w"]), Err(OpError::SourceIsTarget(1)));
        assert_eq!(checked(&["", "b", ""]), Err(OpError::SourceTwice(0, 2)));
        let too_long = OpError::TooLong { field: OpField::Namespace, bytes: 5, limit: 4 };
        assert_eq!(checked(&["12345"]), Err(too_long));
        assert_eq!(checked(&["a"; MAX_SOURCES + 1]), Err(OpError::TooManySources(MAX_SOURCES + 1)));
    }

    #[test]
    fn merges_need_a_function_and_what_is_stored_has_its_form() {
        let unfit = |checked: Result<(), OpError>| matches!(checked, Err(OpError::Unfit(Unfit { bytes: 3, .. })));
        assert_eq!(checked(Op::Merge(b"abc"), StateKind::Value, None), Err(OpError::NoMergeFunction));
        let merge = Op::MapMerge { map_key: b"", operand: b"abc" };
        assert_eq!(checked(merge, StateKind::Map, None), Err(OpError::NoMergeFunction));
        assert_eq!(checked(merge, StateKind::Map, Some(MergeFunction::Append)), Ok(()));
        let put = Op::MapPut { map_key: b"", value: b"abc" };
        for function in MergeFunction::ALL.into_iter().filter(|function| *function != MergeFunction::Append) {
            let takes_all = function == MergeFunction::HyperLogLog;
            assert_eq!(unfit(checked(merge, StateKind::Map, Some(function))), !takes_all, "{function:?}");
            assert_eq!(unfit(checked(Op::Merge(b"abc"), StateKind::Value, Some(function))), !takes_all);
            assert!(unfit(checked(put, StateKind::Map, Some(function))), "{function:?}");
            assert!(unfit(checked(Op::Put(b"abc"), StateKind::Value, Some(function))), "{function:?}");
        }
        let count = Some(MergeFunction::Count);
        assert_eq!(checked(Op::Put(&[0; 8]), StateKind::Value, count), Ok(()));
        assert_eq!(checked(Op::Merge(b""), StateKind::Value, count), Ok(()));
        let error = checked(Op::Put(b""), StateKind::Value, count).unwrap_err();
        let text = "a value of 0 bytes that do not fit the merge function of the state: numbers have 8 bytes";
        assert_eq!(error.to_string(), text);
    }
}
