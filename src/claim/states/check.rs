//! Checks of a single descriptor.

use crate::{
    error::{Error, Reason},
    state::merge::check_value,
    types::{Limits, Redistribution, Schema, Serializer, StateDescriptor, StateKind},
};

/// Longest name or serializer id of a state, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// Checks a descriptor that a client declares.
///
/// # Errors
/// If a part of it is too long, or contradicts another part.
pub(crate) fn check(descriptor: &StateDescriptor, limits: &Limits) -> Result<(), Error> {
    let length = descriptor.name.len();
    let Schema { key, namespace, value } = &descriptor.schema;
    let is_long = |serializer: &Serializer| serializer.id.len() > MAX_NAME_BYTES;
    if length == 0 || length > MAX_NAME_BYTES || [key, namespace, value].into_iter().any(is_long) {
        let text = format!(
            "state `{}`: a name has 1 to {MAX_NAME_BYTES} bytes, a serializer id up to as many",
            descriptor.name
        );
        return Err(Error::new(Reason::LimitExceeded, text));
    }
    if descriptor.kind == StateKind::Timer {
        check_timers(descriptor)?;
    }
    if let Some(redistribution) = descriptor.redistribution {
        check_operator_state(descriptor, redistribution)?;
    }
    if descriptor.merge.is_some() && descriptor.kind == StateKind::List {
        let text = format!("state `{}`: a list has no merge function; use LIST_ADD", descriptor.name);
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    check_default(descriptor, limits)
}

fn check_default(descriptor: &StateDescriptor, limits: &Limits) -> Result<(), Error> {
    let StateDescriptor { name, default_value, .. } = descriptor;
    let invalid = |text: String| Err(Error::new(Reason::InvalidArgument, format!("state `{name}`: {text}")));
    if default_value.is_empty() {
        return Ok(());
    }
    if descriptor.kind != StateKind::Value {
        return invalid("a default value, which only value states have".to_owned());
    }
    if default_value.len() > limits.max_value_bytes {
        let (bytes, most) = (default_value.len(), limits.max_value_bytes);
        let text = format!("state `{name}`: a default value of {bytes} bytes, at most {most} are allowed");
        return Err(Error::new(Reason::LimitExceeded, text));
    }
    match descriptor.merge.map(|function| check_value(function, default_value)) {
        Some(Err(unfit)) => invalid(format!("a default value of {unfit}")),
        None | Some(Ok(())) => Ok(()),
    }
}

fn check_operator_state(descriptor: &StateDescriptor, redistribution: Redistribution) -> Result<(), Error> {
    let wanted = match redistribution {
        Redistribution::Split | Redistribution::Union => StateKind::List,
        Redistribution::Broadcast => StateKind::Map,
    };
    let what = if descriptor.kind != wanted {
        format!("redistribution {redistribution:?} is for states of kind {wanted:?}, not {:?}", descriptor.kind)
    } else if descriptor.ttl.is_some() {
        "operator state has no TTL".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(Reason::InvalidArgument, format!("state `{}`: {what}", descriptor.name)))
}

fn check_timers(descriptor: &StateDescriptor) -> Result<(), Error> {
    let StateDescriptor { name, merge, ttl, redistribution, default_value, .. } = descriptor;
    if merge.is_some() || ttl.is_some() || redistribution.is_some() || !default_value.is_empty() {
        let text = format!("state `{name}`: timers have no merge function, TTL, redistribution or default value");
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    Ok(())
}
