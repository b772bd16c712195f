//! `dstl checkpoints diff`, which shows the states and keys that grew between two checkpoints or savepoints.
//!
//! Both are read key group by key group. Memory holds the sizes of the keys of one range of key groups. If they do not
//! fit, the range is halved.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
};

use super::{
    outline::Node,
    state::{Filter, Met, Opened, StateFault, open, printed},
    target::Target,
};
use crate::{
    restore::reader::ReaderOptions,
    savepoint::{Place, Row, word},
    types::{KeyGroup, KeyGroupRange, Name, StateKind},
};

/// Bytes of memory counted for a key beyond those of the key itself.
const KEY_BYTES: u64 = 128;

/// Entries between two calls of `progress`.
const ROWS_PER_TURN: u64 = 4096;

/// The reason why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum DiffFault {
    /// One of the two sides cannot be read.
    #[error(transparent)]
    State(#[from] StateFault),
    /// The keys of a single key group do not fit into memory.
    #[error(
        "operator `{operator}`: the keys of {key_groups} take more than {memory} bytes of memory; give more (`--memory`)"
    )]
    Memory {
        /// Name of the operator.
        operator: Name,
        /// The key group that does not fit.
        key_groups: KeyGroupRange,
        /// Bytes that the sizes of keys may take.
        memory: u64,
    },
}

/// One side of the comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The checkpoint or savepoint that is compared.
    pub target: &'a Target,
    /// The resources for reading it.
    pub options: &'a ReaderOptions<'a>,
    /// Term of the lease that keeps it meanwhile, in milliseconds; 0 for none.
    pub lease_ms: u64,
}

/// Entries and bytes on both sides.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    entries: [u64; 2],
    bytes: [u64; 2],
}

/// A key whose size differs between the sides.
struct GrownKey {
    operator: Name,
    state: String,
    key_group: KeyGroup,
    key: Vec<u8>,
    sizes: Sizes,
}

/// Sizes of the keys of some key groups, by number of the state, key group and key.
type Keys = HashMap<(u32, KeyGroup, Vec<u8>), Sizes>;

#[derive(Default)]
struct Diff {
    /// Kind and sizes of each state, by operator and name.
    states: BTreeMap<(Name, String), (StateKind, Sizes)>,
    keys: Vec<GrownKey>,
}

/// Compares `from` with `to`. Returns the sizes of all states, and the `top` keys that grew or shrank most. States are
/// ordered by growth, keys by the absolute value of their growth. Calls `progress` with the number of entries read so
/// far. Cancel-safe, but if dropped, its pins stay until their lease ends.
///
/// # Errors
/// [`DiffFault`].
pub async fn diff(from: Side<'_>, to: Side<'_>, top: usize, mut progress: impl FnMut(u64)) -> Result<Node, DiffFault> {
    let mut diff = Diff::default();
    // Too little memory is no fault of a target, and `open` returns only those. So this fault goes around it.
    let mut told = None;
    // Half of the memory is for the entries that are read, the other half for sizes.
    let half = |options: &ReaderOptions<'_>| options.memory / 2;
    let (first, second) = (half(from.options), half(to.options));
    let mut before = from.options.clone();
    let mut after = to.options.clone();
    (before.memory, after.memory) = (first, second);
    let compared = async |one: Opened<'_>| {
        let compare = async |other: Opened<'_>| {
            let sides = [(one, &before), (other, &after)];
            let outcome = diff.run(sides, top, first, &mut progress).await;
            outcome.or_else(|fault| match fault {
                DiffFault::State(fault) => Err(fault),
                memory => {
                    told = Some(memory);
                    Ok(())
                }
            })
        };
        open(to.target, &after, to.lease_ms, compare).await
    };
    open(from.target, &before, from.lease_ms, compared).await?;
    match told {
        Some(fault) => Err(fault),
        None => Ok(diff.told(from.target, to.target)),
    }
}

impl Diff {
    async fn run(
        &mut self,
        sides: [(Opened<'_>, &ReaderOptions<'_>); 2],
        top: usize,
        memory: u64,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), DiffFault> {
        let mut operators: BTreeMap<Name, u32> = BTreeMap::new();
        for (name, max) in sides.iter().flat_map(|(side, _)| side.operators()) {
            let of = operators.entry(name).or_insert(max);
            *of = (*of).max(max);
        }
        let mut read: u64 = 0;
        for (operator, max_parallelism) in operators {
            let all = KeyGroupRange::new(0, max_parallelism.saturating_sub(1)).ok();
            // This is a stack, so that the two halves of a range come right after it.
            let mut left: Vec<KeyGroupRange> = [Some(KeyGroupRange::OPERATOR), all].into_iter().flatten().collect();
            while let Some(key_groups) = left.pop() {
                let filter =
                    Filter { operator: Some(operator.clone()), key_groups: Some(key_groups), ..Filter::default() };
                let mut part = Part { names: vec![], kinds: vec![], keys: Keys::new(), bytes: 0, memory };
                let mut fits = ControlFlow::Continue(());
                for (side, (opened, options)) in sides.iter().enumerate() {
                    let mut show = |_: &Name, row: &Row<'_>| {
                        read += 1;
                        if read.is_multiple_of(ROWS_PER_TURN) {
                            progress(read);
                        }
                        part.add(side, row)
                    };
                    fits = opened.rows(&filter, &mut Met::default(), options, &mut show).await?;
                    if fits.is_break() {
                        break;
                    }
                }
                if fits.is_continue() {
                    self.take(&operator, part, top);
                    continue;
                }
                // Both sides are read again for each half. All of a range has to be in memory at once, since a key is
                // compared only when both of its sizes are known.
                if key_groups.count() == 1 {
                    return Err(DiffFault::Memory { operator, key_groups, memory });
                }
                let (first, last) = (u32::from(key_groups.first().0), u32::from(key_groups.last().0));
                let middle = first.midpoint(last);
                let half = |from, to| KeyGroupRange::new(from, to).expect("a part of a range is a range");
                left.extend([half(middle + 1, last), half(first, middle)]);
            }
        }
        Ok(())
    }

    /// Adds the sizes of some key groups.
    fn take(&mut self, operator: &Name, part: Part, top: usize) {
        for ((state, key_group, key), sizes) in part.keys {
            let at = usize::try_from(state).unwrap_or(usize::MAX);
            let (Some(name), Some(kind)) = (part.names.get(at), part.kinds.get(at)) else { continue };
            let of = self.states.entry((operator.clone(), name.clone())).or_insert((*kind, Sizes::default()));
            of.1.add(sizes);
            // Operator state has no keys, so it counts for its states alone.
            if sizes.bytes[0] != sizes.bytes[1] && key_group != KeyGroup::OPERATOR {
                let (operator, state) = (operator.clone(), name.clone());
                self.keys.push(GrownKey { operator, state, key_group, key, sizes });
            }
            // To sort after each key would take too long, and to keep all keys would take too much memory.
            if self.keys.len() > top.saturating_mul(2).saturating_add(1024) {
                self.cut(top);
            }
        }
        self.cut(top);
    }

    /// Keeps the keys that changed most.
    fn cut(&mut self, top: usize) {
        self.keys.sort_by(|one, other| {
            let order = |grown: &GrownKey| std::cmp::Reverse(grown.sizes.grew().unsigned_abs());
            order(one).cmp(&order(other)).then_with(|| one.key.cmp(&other.key))
        });
        self.keys.truncate(top);
    }

    fn told(&self, from: &Target, to: &Target) -> Node {
        let mut states: Vec<_> = self.states.iter().collect();
        states.sort_by_key(|(_, (_, sizes))| std::cmp::Reverse(sizes.grew()));
        let states = states.into_iter().map(|((operator, state), (kind, sizes))| {
            let named =
                [("operator", Node::text(operator)), ("state", Node::text(state)), ("kind", Node::text(word(*kind)))];
            Node::Fields(named.into_iter().chain(sizes.fields()).collect())
        });
        let keys = self.keys.iter().map(|grown| {
            let named = [
                ("operator", Node::text(&grown.operator)),
                ("state", Node::text(&grown.state)),
                ("key_group", u64::from(grown.key_group.0).into()),
                ("key", Node::text(printed(&grown.key))),
            ];
            Node::Fields(named.into_iter().chain(grown.sizes.fields()).collect())
        });
        Node::Fields(vec![
            ("from", Node::text(from)),
            ("to", Node::text(to)),
            ("states", Node::list(states)),
            ("keys", Node::list(keys)),
        ])
    }
}

/// The sizes of some key groups of one operator.
struct Part {
    names: Vec<String>,
    kinds: Vec<StateKind>,
    keys: Keys,
    /// Bytes of memory that `keys` take.
    bytes: u64,
    memory: u64,
}

impl Part {
    /// Counts a row of one side. Breaks if the sizes no longer fit.
    fn add(&mut self, side: usize, row: &Row<'_>) -> ControlFlow<()> {
        let state = self.names.iter().position(|name| name == row.state).unwrap_or_else(|| {
            self.names.push(row.state.to_owned());
            self.kinds.push(row.entry.kind());
            self.names.len() - 1
        });
        let key_group = match row.place {
            Place::KeyGroup(key_group) => key_group,
            Place::Subtask(_) => KeyGroup::OPERATOR,
        };
        let state = u32::try_from(state).unwrap_or(u32::MAX);
        let before = self.keys.len();
        let sizes = self.keys.entry((state, key_group, row.key.to_vec())).or_default();
        if let (Some(entries), Some(bytes)) = (sizes.entries.get_mut(side), sizes.bytes.get_mut(side)) {
            *entries += 1;
            *bytes += row.bytes() as u64;
        }
        if self.keys.len() > before {
            self.bytes += KEY_BYTES + row.key.len() as u64;
        }
        if self.bytes > self.memory { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Sizes {
    fn add(&mut self, other: Self) {
        let of_both = self.entries.iter_mut().zip(other.entries).chain(self.bytes.iter_mut().zip(other.bytes));
        of_both.for_each(|(sum, more)| *sum += more);
    }

    /// Number of bytes by which the later side is larger.
    fn grew(&self) -> i64 {
        self.bytes[1].cast_signed().saturating_sub(self.bytes[0].cast_signed())
    }

    fn fields(&self) -> [(&'static str, Node); 5] {
        [
            ("entries_before", self.entries[0].into()),
            ("entries_after", self.entries[1].into()),
            ("bytes_before", self.bytes[0].into()),
            ("bytes_after", self.bytes[1].into()),
            ("grew_by", self.grew().into()),
        ]
    }
}
