//! `dstl savepoint`, which lists, shows, verifies and removes savepoints.

use super::{hex, outline::Node, retry, time};
use crate::{
    object::{ObjectMeta, ObjectName, Path, Store, StoreError, layout::savepoints},
    savepoint::{Metadata, OperatorMeta, Savepoint, SavepointError, SavepointId, StateMeta, read_rows, word},
    types::Name,
};

/// Most bytes of a row group that is read, uncompressed.
pub(super) const MAX_GROUP_BYTES: u64 = 1 << 30;

/// The savepoints of `job`, or of all jobs of the store, and a line for each that cannot be read. Cancel-safe.
///
/// # Errors
/// If the store fails.
pub async fn list(store: &Store, job: Option<&Name>) -> Result<(Node, Vec<String>), StoreError> {
    let objects = store.list(&job.map_or_else(Path::default, savepoints), retry()).await?;
    let of_savepoint = |object: ObjectMeta| match ObjectName::parse(&object.path)? {
        ObjectName::SavepointFile { job, savepoint, .. } => Some(SavepointId { job, name: savepoint }),
        _ => None,
    };
    let mut ids: Vec<SavepointId> = objects.into_iter().filter_map(of_savepoint).collect();
    // The listing is ordered by path, so the files of one savepoint follow each other.
    ids.dedup();
    let (mut nodes, mut faults) = (vec![], vec![]);
    for id in ids {
        match Savepoint::read(store, &id, retry()).await {
            Ok(metadata) => nodes.push(Node::Fields(outline(&id, &metadata))),
            Err(SavepointError::Store(error)) => return Err(error),
            Err(error) => faults.push(error.to_string()),
        }
    }
    Ok((Node::Fields(vec![("job", job.map_or(Node::None, Node::text)), ("savepoints", Node::list(nodes))]), faults))
}

/// Shows the contents of a savepoint, operator by operator. Cancel-safe.
///
/// # Errors
/// If its metadata cannot be read.
pub async fn show(store: &Store, id: &SavepointId) -> Result<Node, SavepointError> {
    let metadata = Savepoint::read(store, id, retry()).await?;
    Ok(whole(id, &metadata))
}

/// Reads every file of a savepoint of rows, and shows its contents if every file is sound. This proves that the rows
/// can be read. It does not prove that an engine understands their bytes. Cancel-safe.
///
/// # Errors
/// The first file that is missing or damaged.
pub async fn verify(store: &Store, id: &SavepointId) -> Result<Node, SavepointError> {
    let metadata = Metadata::read(store, id, retry()).await?;
    for (name, operator) in &metadata.operators {
        let folder = Name::new(name).expect("it was checked");
        let mut rows: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
        for file in &operator.files {
            let (path, bytes) = OperatorMeta::read_file(store, id, &folder, file, retry()).await?;
            let read = read_rows(&path, &bytes, MAX_GROUP_BYTES, |row| {
                let known = operator.state(row.state).filter(|state| state.kind == row.entry.kind());
                known.ok_or_else(|| format!("the metadata has no state `{}` of this kind", row.state))?;
                match rows.get_mut(row.state) {
                    Some(rows) => *rows += 1,
                    None => _ = rows.insert(row.state.to_owned(), 1),
                }
                Ok(())
            })?;
            if read != file.rows {
                let what = format!("it has {read} rows, {} recorded", file.rows);
                return Err(SavepointError::damaged(&path, None, what));
            }
        }
        let counted = |state: &&StateMeta| rows.get(&state.descriptor.name).copied().unwrap_or(0) != state.rows;
        if let Some(state) = operator.states.iter().find(counted) {
            let what = format!("state `{}` of operator `{name}` has not the rows recorded", state.descriptor.name);
            return Err(SavepointError::damaged(&id.metadata(), None, what));
        }
    }
    Ok(whole(id, &Savepoint::Rows(metadata)))
}

/// The contents of a savepoint, operator by operator.
#[must_use]
pub fn whole(id: &SavepointId, savepoint: &Savepoint) -> Node {
    let mut fields = outline(id, savepoint);
    let operators = match savepoint {
        Savepoint::Rows(metadata) => Node::list(metadata.operators.iter().map(|(name, of)| of_operator(name, of))),
        Savepoint::Native(metadata) => Node::list(metadata.operators.iter().map(|(name, of)| {
            Node::Fields(vec![
                ("operator", Node::text(name)),
                ("parallelism", of.parallelism.into()),
                ("max_parallelism", of.max_parallelism.into()),
            ])
        })),
    };
    fields.push(("operators", operators));
    Node::Fields(fields)
}

/// The report that a savepoint was removed, with the number of its objects.
#[must_use]
pub fn removed(id: &SavepointId, objects: u64) -> Node {
    Node::Fields(vec![("removed", Node::text(id.folder())), ("objects", objects.into())])
}

fn outline(id: &SavepointId, savepoint: &Savepoint) -> Vec<(&'static str, Node)> {
    let (format, job, checkpoint, created_ms) = match savepoint {
        Savepoint::Rows(of) => ("parquet", &of.job, of.checkpoint, of.created_ms),
        Savepoint::Native(of) => ("native", &of.job, of.checkpoint, of.created_ms),
    };
    let mut fields = vec![
        ("savepoint", Node::text(id.folder())),
        ("format", Node::text(format)),
        ("job", Node::text(job)),
        ("checkpoint", checkpoint.into()),
        ("created", time(created_ms)),
    ];
    match savepoint {
        Savepoint::Native(of) => {
            fields.push(("files", (of.objects.len() as u64).into()));
            fields.push(("bytes", of.bytes().into()));
        }
        Savepoint::Rows(of) => {
            let files = || of.operators.values().flat_map(|operator| &operator.files);
            fields.push(("files", (files().count() as u64).into()));
            fields.push(("rows", files().map(|file| file.rows).fold(0, u64::saturating_add).into()));
            fields.push(("bytes", files().map(|file| file.bytes).fold(0, u64::saturating_add).into()));
        }
    }
    fields
}

fn of_operator(name: &str, operator: &OperatorMeta) -> Node {
    let states = operator.states.iter().map(|state| {
        let descriptor = &state.descriptor;
        Node::Fields(vec![
            ("state", Node::text(&descriptor.name)),
            ("kind", Node::text(word(descriptor.kind))),
            ("rows", state.rows.into()),
            ("serializers", Node::text(&descriptor.schema)),
        ])
    });
    let attachments = operator.subtasks.iter().map(|subtask| Node::text(hex(&subtask.attachment)));
    Node::Fields(vec![
        ("operator", Node::text(name)),
        ("parallelism", operator.parallelism.into()),
        ("max_parallelism", operator.max_parallelism.into()),
        ("states", Node::list(states)),
        ("attachments", Node::list(attachments)),
    ])
}
