//! The states of an import, as declared or as the rows show them.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use crate::{
    savepoint::{OperatorMeta, Place, Row, word},
    types::{KeyGroupAssignment, MAX_PARALLELISM_LIMIT, Name, StateDescriptor},
};

/// Longest file of declarations, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// The states of an operator, and its key groups.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// Number of key groups.
    pub max_parallelism: u32,
    /// Whether the daemon or the client computes the key group of a key.
    #[serde(default = "hashed")]
    pub assignment: KeyGroupAssignment,
    /// The states, in the form of a savepoint's metadata.
    pub states: Vec<StateDescriptor>,
}

/// A fault in the declaration of states.
#[derive(Debug, thiserror::Error)]
pub enum DeclaredFault {
    /// The file cannot be read, or is no declaration.
    #[error("`{file}` declares no states: {what}")]
    File {
        /// The path of the file of states.
        file: String,
        /// The fault in it, in words.
        what: String,
    },
    /// A number of key groups that no operator has.
    #[error("max parallelism {0}: there are 1 to {MAX_PARALLELISM_LIMIT} key groups")]
    MaxParallelism(u32),
    /// The operator has more states than a backend can have: its name, and their number.
    #[error("operator `{0}` would have {1} states, more than a backend may have; is the column `state` mistaken?")]
    TooManyStates(Name, usize),
}

fn hashed() -> KeyGroupAssignment {
    KeyGroupAssignment::Hashed
}

impl Declared {
    /// Reads a JSON file: an object with a declaration for each operator.
    ///
    /// # Errors
    /// [`DeclaredFault::File`].
    pub fn read(file: &Path) -> Result<BTreeMap<Name, Self>, DeclaredFault> {
        let fault = |what: String| DeclaredFault::File { file: file.display().to_string(), what };
        let size = std::fs::metadata(file).map_err(|error| fault(error.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(fault(format!("it has {size} bytes, at most {MAX_BYTES} are read")));
        }
        let bytes = std::fs::read(file).map_err(|error| fault(error.to_string()))?;
        let all: BTreeMap<String, Self> = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
        all.into_iter()
            .map(|(name, declared)| {
                let mut names = std::collections::BTreeSet::new();
                if let Some(twice) = declared.states.iter().find(|state| !names.insert(&state.name)) {
                    return Err(fault(format!("operator `{name}` has two states `{}`", twice.name)));
                }
                Ok((Name::new(&name).map_err(|error| fault(error.to_string()))?, declared))
            })
            .collect()
    }
}

impl From<&OperatorMeta> for Declared {
    /// The states of an operator of another savepoint.
    fn from(operator: &OperatorMeta) -> Self {
        Self {
            max_parallelism: operator.max_parallelism,
            assignment: operator.assignment,
            states: operator.states.iter().map(|state| state.descriptor.clone()).collect(),
        }
    }
}

/// The states that an operator will have, numbered in order of their appearance.
pub(super) struct States {
    numbers: BTreeMap<String, u32>,
    descriptors: Vec<StateDescriptor>,
    are_declared: bool,
}

impl States {
    /// Exactly the declared states; none yet if `declared` is `None`.
    pub(super) fn new(declared: Option<&Declared>) -> Self {
        let mut states = Self { numbers: BTreeMap::new(), descriptors: vec![], are_declared: declared.is_some() };
        declared.into_iter().flat_map(|declared| &declared.states).for_each(|state| states.add(state.clone()));
        states
    }

    fn add(&mut self, descriptor: StateDescriptor) {
        let number = u32::try_from(self.descriptors.len()).unwrap_or(u32::MAX);
        self.numbers.insert(descriptor.name.clone(), number);
        self.descriptors.push(descriptor);
    }

    pub(super) fn len(&self) -> usize {
        self.descriptors.len()
    }

    /// Checks a row against its state. A state that is not known yet is added, unless the states are declared.
    ///
    /// # Errors
    /// If the row cannot belong to the state, or the state has to be declared.
    pub(super) fn learn(&mut self, row: &Row<'_>) -> Result<(), String> {
        if self.find(row.state).is_none() {
            self.check_new(row)?;
            self.add(StateDescriptor::new(row.state, row.entry.kind()));
        }
        let Some((_, state)) = self.find(row.state) else { return Ok(()) };
        row.check(state)
    }

    fn check_new(&self, row: &Row<'_>) -> Result<(), String> {
        let name = row.state;
        if self.are_declared {
            let names: Vec<String> = self.numbers.keys().map(|name| format!("`{name}`")).collect();
            return Err(format!("state `{name}` is not declared; these are: {}", names.join(", ")));
        }
        let declare = |what| Err(format!("state `{name}` {what}, which has to be declared (`--states`, `--like`)"));
        match row.place {
            _ if name.is_empty() || name.len() > Name::MAX_BYTES => {
                Err(format!("the name of a state has 1 to {} bytes", Name::MAX_BYTES))
            }
            Place::Subtask(_) => declare("is operator state"),
            Place::KeyGroup(_) if row.touched.is_some() => declare("has time-to-live"),
            Place::KeyGroup(_) => Ok(()),
        }
    }

    /// Number and descriptor of a state.
    pub(super) fn find(&self, name: &str) -> Option<(u32, &StateDescriptor)> {
        let number = *self.numbers.get(name)?;
        Some((number, self.by_number(number)?))
    }

    pub(super) fn by_number(&self, number: u32) -> Option<&StateDescriptor> {
        self.descriptors.get(usize::try_from(number).ok()?)
    }

    pub(super) fn into_descriptors(self) -> impl Iterator<Item = StateDescriptor> {
        self.descriptors.into_iter()
    }

    /// Name and kind of a state, for messages.
    pub(super) fn named(state: &StateDescriptor) -> String {
        format!("state `{}` ({})", state.name, word(state.kind))
    }
}
