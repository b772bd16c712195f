//! `dstl verify`, which proves that a checkpoint can be restored by rebuilding all of it.
//!
//! It takes the way of a restore, key group by key group. So it fails exactly where a restore of the checkpoint fails.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::outline::Node;
use crate::{
    checkpoint::job,
    export::{
        rows::{self, RowError},
        source::{Found, Parts, Source, SourceError, attachment},
    },
    restore::{
        Progress,
        reader::{Reader, ReaderOptions},
    },
    savepoint::word,
    types::{BackendId, Name, StateKind},
};

/// Facts that the proof does not cover.
const NOT_PROVED: &str = "that its engine understands the bytes of keys, values and attachments; that other checkpoints can be restored; \
                          that a host has the memory or disk to hold all of its state at once";

/// The entries of each state of an operator, by its name.
type Entries = BTreeMap<String, Counted>;

/// Number and bytes of the entries of one state.
#[derive(Debug, Clone, Copy)]
struct Counted {
    kind: StateKind,
    entries: u64,
    bytes: u64,
}

/// The rebuilt state of one operator, and the faults of its parts.
#[derive(Default)]
struct Rebuilt {
    states: Entries,
    read: Progress,
    faults: Vec<String>,
}

/// Rebuilds all of a checkpoint. Returns a report, and the faults that would hinder a restore. Calls `progress` after
/// each piece that was read. Cancel-safe, but if dropped, its pins stay until their lease ends.
///
/// # Errors
/// If there is no such checkpoint, or the store fails.
pub async fn checkpoint(
    source: &Source,
    options: &ReaderOptions<'_>,
    mut progress: impl FnMut(Progress),
) -> Result<(Node, Vec<String>), SourceError> {
    let began = Instant::now();
    let read = async |found: &Found<'_>| {
        let (mut operators, mut faults) = (vec![], vec![]);
        // A restore reads the job's record first.
        if let Err(error) = job::newest(options.store, &source.job, options.retry).await {
            faults.push(error.to_string());
        }
        for (operator, parts) in &found.operators {
            let rebuilt = rebuild(parts, options, &mut progress).await?;
            operators.push(of_operator(operator, parts, &rebuilt));
            faults.extend(rebuilt.faults);
        }
        let node = Node::Fields(vec![
            ("job", Node::text(&source.job)),
            ("checkpoint", found.checkpoint.id.into()),
            ("attempt", found.checkpoint.attempt.into()),
            ("restorable", faults.is_empty().into()),
            ("took_ms", u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).into()),
            ("operators", Node::List(operators)),
            ("not_proved", Node::text(NOT_PROVED)),
        ]);
        Ok((node, faults))
    };
    source.read(options, read).await
}

/// Rebuilds every part of an operator. A part that cannot be rebuilt adds a fault; the other parts are rebuilt all the
/// same.
async fn rebuild(
    parts: &Parts<'_>,
    options: &ReaderOptions<'_>,
    progress: &mut impl FnMut(Progress),
) -> Result<Rebuilt, SourceError> {
    let mut rebuilt = Rebuilt::default();
    for (manifest, record) in parts {
        let mut reader = Reader::new(options.clone(), manifest, record);
        // The attachment goes first: a part whose attachment is damaged counts no entries.
        let read = match attachment(manifest, record, options).await {
            Ok(_) => rebuild_part(&manifest.backend, &mut reader, &mut rebuilt.states, progress).await,
            Err(fault) => Err(fault),
        };
        rebuilt.read.add(reader.progress());
        match read {
            Ok(()) => {}
            // Damage is a finding about this part, and the others are still of interest. A store that fails says
            // nothing about any part.
            Err(fault @ (SourceError::Unreadable { .. } | SourceError::Rows { .. })) => {
                rebuilt.faults.push(fault.to_string())
            }
            Err(error) => return Err(error),
        }
    }
    Ok(rebuilt)
}

/// Rebuilds the part of backend `of`, and counts its entries in `states`.
async fn rebuild_part(
    of: &BackendId,
    reader: &mut Reader<'_>,
    states: &mut Entries,
    progress: &mut impl FnMut(Progress),
) -> Result<(), SourceError> {
    for state in reader.states().values() {
        let none = Counted { kind: state.kind, entries: 0, bytes: 0 };
        states.entry(state.name.clone()).or_insert(none);
    }
    let unreadable = |source| SourceError::Unreadable { of: of.clone(), source };
    while let Some(part) = reader.next().await.map_err(unreadable)? {
        for at in rows::places(&part, of.subtask, reader.states()) {
            let Some(counted) = states.get_mut(&at.descriptor.name) else { continue };
            rows::each(&part, at, |row| {
                counted.entries += 1;
                counted.bytes += row.bytes() as u64;
                Ok::<_, RowError>(())
            })
            .map_err(|source| SourceError::Rows { of: of.clone(), source })?;
        }
        progress(reader.progress());
    }
    Ok(())
}

fn of_operator(name: &Name, parts: &Parts<'_>, rebuilt: &Rebuilt) -> Node {
    let states = rebuilt.states.iter().map(|(name, counted)| {
        Node::Fields(vec![
            ("state", Node::text(name)),
            ("kind", Node::text(word(counted.kind))),
            ("entries", counted.entries.into()),
            ("bytes", counted.bytes.into()),
        ])
    });
    Node::Fields(vec![
        ("operator", Node::text(name)),
        ("parallelism", (parts.len() as u64).into()),
        ("bytes_read", rebuilt.read.bytes_done.into()),
        ("changes_replayed", rebuilt.read.changes.into()),
        ("states", Node::list(states)),
        ("faults", Node::list(rebuilt.faults.iter().map(Node::text))),
    ])
}
