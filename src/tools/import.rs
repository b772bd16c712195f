//! `dstl savepoint import`, which makes a savepoint from Parquet files of another program.
//!
//! ```text
//!   files ──each row checked──▶ bytes of each key group ──cut──▶ some key groups ──read again, sorted──▶ files ──▶ metadata
//! ```
//!
//! The first pass reads all rows and writes nothing. Then the key groups are divided into parts whose rows fit into
//! memory. Each part reads again the row groups that have some of its key groups. So files that are sorted by key group
//! are read twice, and other files once for each part.

mod declared;
mod input;
mod sorted;

use std::collections::BTreeMap;

use self::{
    declared::States,
    sorted::{HELD_BYTES, Origin, Sorted},
};
pub use self::{
    declared::{Declared, DeclaredFault},
    input::{File, Input, InputFault},
};
use super::savepoint::MAX_GROUP_BYTES;
use crate::{
    backend::hash_key_group,
    export::{ExportError, files::Files},
    object::PutPayload,
    restore::reader::ReaderOptions,
    savepoint::{FileFault, Metadata, OperatorMeta, Place, ReadFile, Row, SavepointId, StateMeta, SubtaskMeta},
    types::{KeyGroup, KeyGroupAssignment, KeyGroupRange, Limits, MAX_PARALLELISM_LIMIT, Name, TimeMs},
};

/// Rows between two calls of `progress`.
const ROWS_PER_TURN: u64 = 4096;

/// The savepoint to make, and its source.
#[derive(Debug)]
pub struct Import {
    /// Job and name of the savepoint.
    pub id: SavepointId,
    /// The files of each operator.
    pub operators: BTreeMap<Name, Vec<Input>>,
    /// The declared states of operators. An operator that is missing here gets its states from the rows.
    pub declared: BTreeMap<Name, Declared>,
    /// Number of key groups of operators that are not declared.
    pub max_parallelism: u32,
    /// The present time, which becomes the time of the savepoint.
    pub now: TimeMs,
}

/// The reason why no savepoint was made.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file does not have the form that an import reads.
    #[error("`{file}`: {fault}")]
    File {
        /// Path or URL of the file.
        file: String,
        /// The row group, the row and the fault.
        fault: FileFault,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Input(#[from] InputFault),
    /// The declaration of the states is wrong.
    #[error(transparent)]
    Declared(#[from] DeclaredFault),
    /// Some rows have to be in memory together, and do not fit.
    #[error(
        "operator `{operator}`: {what} takes {bytes} bytes of memory to sort, and there are {memory}; give more (`--memory`)"
    )]
    TooLarge {
        /// Name of the operator.
        operator: Name,
        /// The rows: those of a key group, or operator state.
        what: String,
        /// Bytes of memory that the rows need.
        bytes: u64,
        /// Bytes of memory that are available.
        memory: u64,
    },
    /// A file changed while it was read.
    #[error("operator `{0}`: its files changed while they were read: import what nobody writes to")]
    Changed(Name),
    /// The savepoint cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// The result of the first pass for one operator.
struct Survey<'a> {
    operator: &'a Name,
    inputs: &'a [Input],
    shape: Shape,
    states: States,
    /// Bytes in memory and number of rows of each key group, by its number.
    key_groups: Vec<(u64, u64)>,
    /// Bytes in memory and number of rows of operator state.
    operator_state: (u64, u64),
    /// For each file, the contents of its row groups by their number. A row group without rows is missing.
    groups: Vec<BTreeMap<usize, Group>>,
    /// Number of subtasks that had operator state, at least 1.
    parallelism: u32,
    /// The newest `touched_ms` of all rows; 0 if no row has one.
    touched: TimeMs,
}

/// The contents of a row group of a file.
#[derive(Clone, Copy, Default)]
struct Group {
    /// The range of key groups of its rows; `None` if it has no keyed state.
    key_groups: Option<KeyGroupRange>,
    /// Whether it has rows of operator state.
    has_operator_state: bool,
}

/// Number and assignment of an operator's key groups.
#[derive(Clone, Copy)]
struct Shape {
    max_parallelism: u32,
    assignment: KeyGroupAssignment,
}

/// The rows that a pass is about.
#[derive(Clone, Copy)]
enum Part {
    KeyGroups(KeyGroupRange),
    Operator,
}

/// Makes the savepoint, and calls `progress` with the number of rows read so far. Cancel-safe, but if dropped, files
/// without metadata may stay. Blocks its thread while it reads.
///
/// # Errors
/// [`ImportError`]. The files written so far are then deleted, as far as the store answers.
pub async fn create(
    import: &Import,
    options: &ReaderOptions<'_>,
    mut progress: impl FnMut(u64),
) -> Result<Metadata, ImportError> {
    let mut surveys = vec![];
    let mut rows: u64 = 0;
    let mut count = |_: &Row<'_>| {
        rows += 1;
        if rows.is_multiple_of(ROWS_PER_TURN) {
            progress(rows);
        }
    };
    for (operator, inputs) in &import.operators {
        let declared = import.declared.get(operator);
        let shape = import.shape(declared)?;
        let survey = Survey::of(operator, inputs, shape, States::new(declared), &mut count)?;
        survey.check_memory(options.memory)?;
        surveys.push(survey);
    }
    // Ordering: every row of every operator is checked before the first file is written. A fault in the last row costs
    // time, and leaves nothing behind.
    let mut files = Files::new(options, &import.id).await?;
    let written = write(import, options, surveys, &mut files, &mut count).await;
    if written.is_err() {
        files.delete().await;
    }
    written
}

async fn write(
    import: &Import,
    options: &ReaderOptions<'_>,
    surveys: Vec<Survey<'_>>,
    files: &mut Files<'_>,
    count: &mut impl FnMut(&Row<'_>),
) -> Result<Metadata, ImportError> {
    let (job, created_ms) = (import.id.job.to_string(), import.now);
    let mut metadata = Metadata { job, checkpoint: 0, attempt: 0, created_ms, operators: BTreeMap::new() };
    for survey in surveys {
        let (operator, shape) = (survey.operator, survey.shape);
        files.begin(operator);
        // Ordering: parts come in order of their key groups, and operator state last, as files need it.
        for (part, rows) in survey.parts(options.memory) {
            let sorted = survey.read(part, rows, &mut *count)?;
            for row in sorted.rows(&survey.states) {
                files.row(&row).await?;
            }
        }
        let (rows, written) = files.end().await?;
        let (parallelism, max_parallelism) = (survey.parallelism, shape.max_parallelism);
        let subtasks = (0..parallelism).map(|subtask| {
            let key_groups = KeyGroupRange::of_subtask(subtask, parallelism, max_parallelism);
            let key_groups = key_groups.expect("subtasks were checked against the key groups").into();
            let uuid = options.random.uuid().to_string();
            SubtaskMeta { key_groups, epoch: 1, uuid, attachment: bytes::Bytes::new(), time_ms: survey.touched }
        });
        let subtasks = subtasks.collect();
        let states = survey.states.into_descriptors().map(|descriptor| {
            let rows = rows.get(&descriptor.name).copied().unwrap_or(0);
            StateMeta { rows, descriptor }
        });
        let states = states.collect();
        let assignment = shape.assignment;
        let meta = OperatorMeta { parallelism, max_parallelism, assignment, states, subtasks, files: written };
        metadata.operators.insert(operator.to_string(), meta);
    }
    let bytes = metadata.encode();
    // Metadata that no reader accepts is not written.
    Metadata::decode(&bytes).map_err(ExportError::Unfit)?;
    files.create(&import.id.metadata(), PutPayload::from_bytes(bytes)).await?;
    Ok(metadata)
}

impl Import {
    fn shape(&self, declared: Option<&Declared>) -> Result<Shape, DeclaredFault> {
        let hashed = (self.max_parallelism, KeyGroupAssignment::Hashed);
        let (max_parallelism, assignment) = declared.map_or(hashed, |of| (of.max_parallelism, of.assignment));
        if max_parallelism == 0 || max_parallelism > MAX_PARALLELISM_LIMIT {
            return Err(DeclaredFault::MaxParallelism(max_parallelism));
        }
        Ok(Shape { max_parallelism, assignment })
    }
}

impl Shape {
    fn hashed(&self, key: &[u8]) -> KeyGroup {
        // The number of key groups was checked, so each of them fits.
        KeyGroup(u16::try_from(hash_key_group(key, self.max_parallelism)).unwrap_or(u16::MAX))
    }

    /// Reads the `wanted` row groups of `file`.
    fn read(
        &self,
        file: &Input,
        wanted: impl FnMut(usize) -> bool,
        read: impl FnMut(usize, &Row<'_>) -> Result<(), String>,
    ) -> Result<u64, ImportError> {
        let hashed = |key: &[u8]| self.hashed(key);
        let how = ReadFile {
            max_group_bytes: MAX_GROUP_BYTES,
            is_foreign: true,
            key_group_of: (self.assignment == KeyGroupAssignment::Hashed)
                .then_some(&hashed as &dyn Fn(&[u8]) -> KeyGroup),
        };
        let rows = how.run(file.open()?, wanted, read);
        rows.map_err(|fault| ImportError::File { file: file.name().to_owned(), fault })
    }

    /// Checks that a row has the key group of its key, and that its subtask can exist.
    ///
    /// # Errors
    /// The right place of the row.
    fn check(&self, row: &Row<'_>) -> Result<(), String> {
        let max = self.max_parallelism;
        match row.place {
            Place::KeyGroup(KeyGroup(group)) if u32::from(group) >= max => {
                Err(format!("key group {group}, the operator has {max}"))
            }
            Place::KeyGroup(group) if self.assignment == KeyGroupAssignment::Hashed => {
                let right = self.hashed(row.key);
                let wrong = || {
                    format!(
                        "key group {}, the key belongs to {} of {max}; leave out the column `key_group`, or declare \
                         `assignment` as `given`",
                        group.0, right.0
                    )
                };
                if group == right { Ok(()) } else { Err(wrong()) }
            }
            Place::Subtask(subtask) if subtask >= max => {
                Err(format!("subtask {subtask}, the operator has {max} key groups, and no more subtasks than these"))
            }
            _ => Ok(()),
        }
    }
}

impl<'a> Survey<'a> {
    /// Reads all rows of `inputs`, and checks each of them by itself.
    fn of(
        operator: &'a Name,
        inputs: &'a [Input],
        shape: Shape,
        states: States,
        count: &mut impl FnMut(&Row<'_>),
    ) -> Result<Self, ImportError> {
        let key_groups = vec![(0, 0); shape.max_parallelism as usize];
        let mut survey = Self {
            operator,
            inputs,
            shape,
            states,
            key_groups,
            operator_state: (0, 0),
            groups: vec![],
            parallelism: 1,
            touched: 0,
        };
        let limits = Limits::default();
        for input in inputs {
            survey.groups.push(BTreeMap::new());
            shape.read(
                input,
                |_| true,
                |group, row| {
                    shape.check(row)?;
                    check_size(row, &limits)?;
                    survey.states.learn(row)?;
                    survey.add(group, row);
                    count(row);
                    Ok(())
                },
            )?;
        }
        if survey.states.len() > limits.max_states {
            return Err(DeclaredFault::TooManyStates(operator.clone(), survey.states.len()).into());
        }
        Ok(survey)
    }

    fn add(&mut self, group: usize, row: &Row<'_>) {
        let bytes = HELD_BYTES + row.bytes() as u64;
        let seen = self.groups.last_mut().map(|groups| groups.entry(group).or_default());
        match row.place {
            Place::KeyGroup(key_group) => {
                let one = KeyGroupRange::one(key_group);
                if let Some(seen) = seen {
                    seen.key_groups = Some(seen.key_groups.map_or(one, |range| union(range, one)));
                }
                if let Some((total, rows)) = self.key_groups.get_mut(usize::from(key_group.0)) {
                    *total += bytes;
                    *rows += 1;
                }
            }
            Place::Subtask(subtask) => {
                if let Some(seen) = seen {
                    seen.has_operator_state = true;
                }
                self.operator_state.0 += bytes;
                self.operator_state.1 += 1;
                // The subtask is below the number of key groups (`Shape::check`), so the sum does not overflow.
                self.parallelism = self.parallelism.max(subtask + 1);
            }
        }
        self.touched = self.touched.max(row.touched.unwrap_or(0));
    }

    fn check_memory(&self, memory: u64) -> Result<(), ImportError> {
        // A key group is the smallest part, since all of its rows are sorted together. Operator state is one part, too.
        let too_large =
            |what: String, bytes| ImportError::TooLarge { operator: self.operator.clone(), what, bytes, memory };
        if let Some((group, (bytes, _))) = self.key_groups.iter().enumerate().find(|(_, (bytes, _))| *bytes > memory) {
            return Err(too_large(format!("key group {group}"), *bytes));
        }
        let (bytes, _) = self.operator_state;
        if bytes > memory { Err(too_large("operator state".to_owned(), bytes)) } else { Ok(()) }
    }

    /// The parts to read, in order, each with the number of its rows. Each of them fits into `memory`.
    fn parts(&self, memory: u64) -> Vec<(Part, u64)> {
        let mut parts: Vec<(Part, u64)> = vec![];
        let mut filling: Option<(KeyGroupRange, u64, u64)> = None;
        for (group, (bytes, rows)) in (0..).map(KeyGroup).zip(&self.key_groups).filter(|(_, (_, rows))| *rows > 0) {
            let one = KeyGroupRange::one(group);
            filling = match filling {
                Some((range, had, count)) if had + bytes <= memory => {
                    Some((union(range, one), had + bytes, count + rows))
                }
                before => {
                    parts.extend(before.map(|(range, _, count)| (Part::KeyGroups(range), count)));
                    Some((one, *bytes, *rows))
                }
            };
        }
        parts.extend(filling.map(|(range, _, count)| (Part::KeyGroups(range), count)));
        let (_, rows) = self.operator_state;
        parts.extend((rows > 0).then_some((Part::Operator, rows)));
        parts
    }

    /// Reads and sorts the rows of one part, of which the first pass counted `rows`.
    fn read(&self, part: Part, rows: u64, mut count: impl FnMut(&Row<'_>)) -> Result<Sorted, ImportError> {
        let mut sorted = Sorted::with_capacity(usize::try_from(rows).unwrap_or(usize::MAX));
        for (number, (input, groups)) in self.inputs.iter().zip(&self.groups).enumerate() {
            let wanted = |group: usize| groups.get(&group).is_some_and(|has| part.is_in(*has));
            self.shape.read(input, wanted, |group, row| {
                if part.has(row) {
                    count(row);
                    sorted.push(row, &self.states, Origin { input: number, group })?;
                }
                Ok(())
            })?;
        }
        // The parts were cut by the numbers of the first pass. Other numbers mean other rows, which nothing has
        // checked.
        if sorted.len() as u64 != rows {
            return Err(ImportError::Changed(self.operator.clone()));
        }
        let name = |origin: Origin| self.inputs.get(origin.input).map_or("", Input::name);
        sorted.sort(&self.states, name).map_err(|(origin, what)| ImportError::File {
            file: name(origin).to_owned(),
            fault: FileFault { group: Some(origin.group), what },
        })?;
        Ok(sorted)
    }
}

impl Part {
    fn is_in(self, group: Group) -> bool {
        match self {
            Self::KeyGroups(wanted) => group.key_groups.is_some_and(|range| range.overlaps(wanted)),
            Self::Operator => group.has_operator_state,
        }
    }

    fn has(self, row: &Row<'_>) -> bool {
        match (self, row.place) {
            (Self::KeyGroups(range), Place::KeyGroup(group)) => range.contains(group),
            (Self::Operator, Place::Subtask(_)) => true,
            _ => false,
        }
    }
}

/// The key groups from the lowest to the highest of both ranges.
fn union(one: KeyGroupRange, other: KeyGroupRange) -> KeyGroupRange {
    let (first, last) = (one.first().min(other.first()), one.last().max(other.last()));
    KeyGroupRange::new(first.0.into(), last.0.into()).expect("key groups were checked")
}

/// Checks that a task could have written the row.
fn check_size(row: &Row<'_>, limits: &Limits) -> Result<(), String> {
    let cells = row.entry.cells();
    let keys = [("key", Some(row.key)), ("namespace", Some(row.namespace)), ("map_key", cells.map_key)];
    let values = [("value", cells.value)];
    let all = keys.iter().map(|named| (named, limits.max_key_bytes));
    for ((name, bytes), most) in all.chain(values.iter().map(|named| (named, limits.max_value_bytes))) {
        let length = bytes.map_or(0, <[u8]>::len);
        if length > most {
            return Err(format!("`{name}` has {length} bytes, at most {most} are allowed"));
        }
    }
    if cells.time == Some(i64::MIN) {
        return Err("`time` is the lowest number, at which no timer fires".to_owned());
    }
    Ok(())
}
