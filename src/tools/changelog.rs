//! `dstl changelog dump`, which shows the changes in the log of a checkpoint.

use std::{collections::BTreeSet, ops::ControlFlow};

use bytes::Bytes;
use serde_json::json;

use super::{
    hex,
    state::{StateFault, all, key_group_of, printed},
};
use crate::{
    checkpoint::manifest::{CheckpointRecord, Manifest},
    export::source::{Found, Source, SourceError},
    restore::{Logged, Restore, block_memory, reader::ReaderOptions},
    state::Action,
    types::{BackendId, KeyGroup, KeyGroupRange, Name, Sqn},
};

/// A selection of changes. A change is shown if it matches every field that is given.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Changes of the backends of this operator.
    pub operator: Option<Name>,
    /// Changes in the part of the checkpoint that this subtask retains.
    pub subtask: Option<u32>,
    /// Changes of the state with this name.
    pub state: Option<String>,
    /// Changes of this key of keyed state.
    pub key: Option<Bytes>,
    /// Changes of this key group of keyed state.
    pub key_group: Option<u16>,
    /// Lowest sequence number, inclusive.
    pub from: Option<Sqn>,
    /// Highest sequence number, exclusive.
    pub to: Option<Sqn>,
}

/// A change, together with its log and the name of its state.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The backend whose chain lists the log.
    pub of: &'a BackendId,
    /// Name of the state; `None` if the state was replaced since.
    pub state: Option<&'a str>,
    /// The change with its sequence number, time and address.
    pub logged: &'a Logged<'a>,
}

/// Shows the changes in the log of `source` that match `filter`. For each subtask, in order, these are the changes from
/// its materialization up to the cut. Cancel-safe, but if dropped, its pins stay until their lease ends.
///
/// # Errors
/// [`StateFault`].
pub async fn dump(
    source: &Source,
    filter: &Filter,
    options: &ReaderOptions<'_>,
    mut show: impl FnMut(&Shown<'_>) -> ControlFlow<()>,
) -> Result<(), StateFault> {
    let read = async |found: &Found<'_>| {
        filter.check(found)?;
        for (operator, parts) in &found.operators {
            let subtask = |head: &Manifest| filter.subtask.is_none_or(|wanted| wanted == head.backend.subtask);
            if filter.operator.as_ref().is_some_and(|wanted| wanted != operator) {
                continue;
            }
            for (head, record) in parts.iter().filter(|(head, _)| subtask(head)) {
                if of_part(head, record, filter, options, &mut show).await?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    source.read(options, read).await
}

async fn of_part(
    head: &Manifest,
    record: &CheckpointRecord,
    filter: &Filter,
    options: &ReaderOptions<'_>,
    show: &mut impl FnMut(&Shown<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StateFault> {
    let restore = Restore {
        store: options.store,
        tasks: options.tasks,
        local: None,
        kept: None,
        manifest: head,
        checkpoint: record,
        parallel_reads: options.parallel_reads,
        retry: options.retry,
        block_memory: block_memory(options.memory),
        imported: None,
    };
    let span = head.span(record);
    let only = key_group_of(filter.key_group, filter.key.as_ref(), span.assignment, span.max_parallelism);
    // A key of keyed state is in one key group, so blocks of others are not read.
    let only = only.map_or_else(|| vec![span.key_groups, KeyGroupRange::OPERATOR], |one| vec![one]);
    let read = restore.changes(&only, |logged| {
        let named = head.states.values().find(|state| state.data == logged.change.at.state);
        let state = named.map(|state| state.descriptor.name.as_str());
        let is_meant = filter.state.as_ref().is_none_or(|wanted| state == Some(wanted.as_str()));
        if is_meant && filter.has(logged) {
            show(&Shown { of: &head.backend, state, logged })
        } else {
            ControlFlow::Continue(())
        }
    });
    let unreadable = |error| SourceError::Unreadable {
        of: head.backend.clone(),
        source: crate::restore::reader::ReaderError::Restore(error),
    };
    Ok(read.await.map_err(unreadable)?)
}

impl Filter {
    fn has(&self, logged: &Logged<'_>) -> bool {
        let at = logged.change.at;
        let is_keyed = at.key_group != KeyGroup::OPERATOR;
        self.key.as_ref().is_none_or(|wanted| is_keyed && *wanted == at.key)
            && self.from.is_none_or(|from| logged.sqn >= from)
            && self.to.is_none_or(|to| logged.sqn < to)
    }

    /// Refuses an operator or state that the checkpoint does not have.
    fn check(&self, found: &Found<'_>) -> Result<(), StateFault> {
        if let Some(wanted) = self.operator.as_ref().filter(|wanted| !found.operators.contains_key(*wanted)) {
            let names: BTreeSet<String> = found.operators.keys().map(ToString::to_string).collect();
            return Err(StateFault::NoOperator { wanted: wanted.clone(), there: all(&names) });
        }
        let heads = found.operators.values().flatten();
        let names: BTreeSet<String> =
            heads.flat_map(|(head, _)| head.states.values().map(|state| state.descriptor.name.clone())).collect();
        match self.state.as_ref().filter(|wanted| !names.contains(*wanted)) {
            Some(wanted) => Err(StateFault::NoState { wanted: wanted.clone(), there: all(&names) }),
            None => Ok(()),
        }
    }
}

/// The name of a change's action, and the values that it has.
struct Cells<'a> {
    action: &'static str,
    map_key: Option<&'a [u8]>,
    index: Option<u64>,
    value: Option<&'a [u8]>,
    time: Option<i64>,
}

fn cells<'a>(action: Action<'a>) -> Cells<'a> {
    let cells = |action| Cells { action, map_key: None, index: None, value: None, time: None };
    match action {
        Action::Clear => cells("clear"),
        Action::Put(value) => Cells { value: Some(value), ..cells("put") },
        Action::Append(value) => Cells { value: Some(value), ..cells("append") },
        Action::MapPut { map_key, value } => Cells { map_key: Some(map_key), value: Some(value), ..cells("map_put") },
        Action::MapRemove { map_key } => Cells { map_key: Some(map_key), ..cells("map_remove") },
        Action::MapAppend { map_key, value } => {
            Cells { map_key: Some(map_key), value: Some(value), ..cells("map_append") }
        }
        Action::ListPut { index, element } => Cells { index: Some(index), value: Some(element), ..cells("list_put") },
        Action::TimerPut { time } => Cells { time: Some(time), ..cells("timer_put") },
        Action::TimerRemove { time } => Cells { time: Some(time), ..cells("timer_remove") },
    }
}

/// A change as one line for people.
#[must_use]
pub fn line(shown: &Shown<'_>) -> String {
    let Shown { of, state, logged } = *shown;
    let at = logged.change.at;
    let Cells { action, map_key, index, value, time } = cells(logged.change.action);
    let place = match at.key_group {
        KeyGroup::OPERATOR => String::new(),
        KeyGroup(group) => format!(", key group {group}, key {}", printed(at.key)),
    };
    let fields = [
        (!at.namespace.is_empty()).then(|| format!(", namespace {}", printed(at.namespace))),
        map_key.map(|key| format!(", map key {}", printed(key))),
        index.map(|index| format!(", element {index}")),
        time.map(|time| format!(", at {time}")),
        value.map(|value| format!(": {}", printed(value))),
    ];
    let fields: String = fields.into_iter().flatten().collect();
    let state = state.map_or_else(|| format!("state {}", at.state.0), ToOwned::to_owned);
    format!("{}/{} {} {action} {state}{place}{fields}\n", of.operator, of.subtask, logged.sqn)
}

/// A change as one line of JSON, with bytes as hexadecimal digits.
#[must_use]
pub fn json_line(shown: &Shown<'_>) -> String {
    let Shown { of, state, logged } = *shown;
    let at = logged.change.at;
    let Cells { action, map_key, index, value, time } = cells(logged.change.action);
    let is_keyed = at.key_group != KeyGroup::OPERATOR;
    let object = json!({
        "operator": of.operator.as_str(),
        "subtask": of.subtask,
        "log_of": logged.of.to_string(),
        "sqn": logged.sqn.to_string(),
        "time_ms": logged.time,
        "action": action,
        "state": state,
        "key_group": is_keyed.then_some(at.key_group.0),
        "key": hex(at.key),
        "namespace": hex(at.namespace),
        "map_key": map_key.map(hex),
        "list_index": index,
        "value": value.map(hex),
        "time": time,
    });
    format!("{object}\n")
}
