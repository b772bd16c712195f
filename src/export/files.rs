//! The files of rows of a savepoint being made: one is filled, the others are in the store.

use std::{collections::BTreeMap, mem};

use parquet::errors::ParquetError;

use super::{ExportError, rows};
use crate::{
    object::{Created, Path, PutPayload},
    restore::reader::{Part, ReaderOptions},
    savepoint::{FileMeta, FileWriter, Place, Row, SavepointId, WrittenFile},
    types::{KeyGroupRange, Name, StateDescriptor, StateId},
};

/// The files of a savepoint.
pub struct Files<'a> {
    options: &'a ReaderOptions<'a>,
    id: &'a SavepointId,
    operator: Name,
    filling: Filling,
    /// Rows of each state of the operator.
    rows: BTreeMap<String, u64>,
    /// The files of the operator that are in the store.
    written: Vec<FileMeta>,
    /// All objects that were made, of every operator; they are deleted if the savepoint fails.
    created: Vec<Path>,
}

/// The file at hand, and those that are full.
#[derive(Default)]
struct Filling {
    file: Option<(FileWriter, Places)>,
    full: Vec<(WrittenFile, Places)>,
}

/// The places of the first and the last row of a file.
type Places = (Place, Place);

impl<'a> Files<'a> {
    /// The files of a new savepoint `id`; none yet.
    ///
    /// # Errors
    /// [`ExportError::Exists`] if something of it is there.
    pub async fn new(options: &'a ReaderOptions<'a>, id: &'a SavepointId) -> Result<Self, ExportError> {
        if !options.store.list(&id.folder(), options.retry).await?.is_empty() {
            return Err(ExportError::Exists(id.folder()));
        }
        // Until one is begun.
        let operator = id.job.clone();
        let (filling, rows) = (Filling::default(), BTreeMap::new());
        Ok(Self { options, id, operator, filling, rows, written: vec![], created: vec![] })
    }

    /// The savepoint that the files belong to.
    #[must_use]
    pub fn id(&self) -> &'a SavepointId {
        self.id
    }

    /// Begins with an operator.
    pub fn begin(&mut self, operator: &Name) {
        self.operator = operator.clone();
    }

    /// Adds all rows of a part of subtask `subtask`, whose states are `states`. However large a key group is, a file
    /// that is full leaves memory before the next one grows.
    pub(super) async fn add(
        &mut self,
        subtask: u32,
        states: &BTreeMap<StateId, StateDescriptor>,
        part: &Part,
    ) -> Result<(), ExportError> {
        for at in rows::places(part, subtask, states) {
            let (mut count, mut next) = (0, Some(0));
            while let Some(first) = next {
                next = rows::piece(part, at, first, |row| {
                    count += 1;
                    self.filling.push(row).map_err(rows_error)
                })?;
                self.upload().await?;
            }
            *self.rows.entry(at.descriptor.name.clone()).or_insert(0) += count;
        }
        Ok(())
    }

    /// Adds a row. Rows of keyed state come in order of their key groups, those of operator state in order of subtasks.
    /// Not cancel-safe.
    ///
    /// # Errors
    /// [`ExportError`].
    pub async fn row(&mut self, row: &Row<'_>) -> Result<(), ExportError> {
        self.filling.push(row).map_err(rows_error)?;
        match self.rows.get_mut(row.state) {
            Some(rows) => *rows += 1,
            None => _ = self.rows.insert(row.state.to_owned(), 1),
        }
        if self.filling.full.is_empty() { Ok(()) } else { self.upload().await }
    }

    /// Writes everything that there is.
    async fn flush(&mut self) -> Result<(), ExportError> {
        self.filling.end().map_err(rows_error)?;
        self.upload().await
    }

    /// Writes the files that are full.
    async fn upload(&mut self) -> Result<(), ExportError> {
        for (file, places) in mem::take(&mut self.filling.full) {
            let name = Name::new(&format!("{:08}.parquet", self.written.len())).expect("digits and a word are a name");
            let path = self.id.rows(&self.operator, &name);
            let (key_groups, subtask) = match places {
                (Place::KeyGroup(first), Place::KeyGroup(last)) => {
                    let range = KeyGroupRange::new(first.0.into(), last.0.into()).expect("key groups come in order");
                    (Some(range.into()), None)
                }
                (Place::Subtask(subtask), _) | (_, Place::Subtask(subtask)) => (None, Some(subtask)),
            };
            self.written.push(FileMeta {
                name: name.to_string(),
                bytes: file.payload.content_length() as u64,
                crc32: format!("{:08x}", file.crc32),
                rows: file.rows,
                key_groups,
                subtask,
            });
            self.create(&path, file.payload).await?;
        }
        Ok(())
    }

    /// Creates an object of the savepoint. Not cancel-safe.
    ///
    /// # Errors
    /// [`ExportError::Exists`] if another object is there.
    pub async fn create(&mut self, path: &Path, payload: PutPayload) -> Result<(), ExportError> {
        match self.options.store.create(path, payload, self.options.retry).await? {
            // An identical object is the work of an earlier attempt of this request, whose answer was lost.
            Created::New | Created::Identical => self.created.push(path.clone()),
            Created::Conflict => return Err(ExportError::Exists(path.clone())),
        }
        Ok(())
    }

    /// Ends with the operator; tells the rows of each state, and the files. Not cancel-safe.
    ///
    /// # Errors
    /// [`ExportError`].
    pub async fn end(&mut self) -> Result<(BTreeMap<String, u64>, Vec<FileMeta>), ExportError> {
        self.flush().await?;
        Ok((mem::take(&mut self.rows), mem::take(&mut self.written)))
    }

    /// Deletes the objects that were made, as far as the store takes it. Cancel-safe in that sense.
    pub async fn delete(&mut self) {
        let created = mem::take(&mut self.created);
        if let Err(error) = self.options.store.delete_all(created, self.options.retry).await {
            tracing::warn!(%error, "files of a savepoint that was not made stay: remove it by its name");
        }
    }
}

impl Filling {
    fn push(&mut self, row: &Row<'_>) -> Result<(), ParquetError> {
        // Ordering: the file ends before the row comes, since the metadata has one range of key groups, or one subtask,
        // for each file.
        if self.file.as_ref().is_some_and(|(_, (_, last))| !is_same_file(*last, row.place)) {
            self.end()?;
        }
        let (mut file, (first, _)) = match self.file.take() {
            Some(file) => file,
            None => (FileWriter::new()?, (row.place, row.place)),
        };
        file.push(row)?;
        let is_full = file.is_full();
        self.file = Some((file, (first, row.place)));
        if is_full { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<(), ParquetError> {
        if let Some((file, places)) = self.file.take() {
            self.full.push((file.finish()?, places));
        }
        Ok(())
    }
}

/// Whether a row of `other` may follow one of `one` in a file.
fn is_same_file(one: Place, other: Place) -> bool {
    match (one, other) {
        (Place::KeyGroup(one), Place::KeyGroup(other)) => one <= other,
        _ => one == other,
    }
}

fn rows_error(error: impl std::fmt::Display) -> ExportError {
    ExportError::Rows(error.to_string())
}
