//! Key groups and their ranges, with Flink's arithmetic.

use std::fmt;

/// Highest number of key groups of a backend.
pub const MAX_PARALLELISM_LIMIT: u32 = 1 << 15;

/// Most parts that [`KeyGroupRange::parts`] cuts the key groups of an operator into.
pub const KEY_GROUP_PARTS: u32 = 4;

/// Lowest default number of key groups.
const DEFAULT_MAX_PARALLELISM_LOW: u64 = 1 << 7;

/// The number of a key group, from 0. Key groups are the units in which keyed state is spread over subtasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(pub u16);

impl KeyGroup {
    /// The key group of operator state, which belongs to a subtask rather than to a key. It lies outside the key groups
    /// of every operator.
    pub const OPERATOR: Self = Self(u16::MAX);
}

/// Key groups from `first` to `last`, both inclusive, as in Flink; or [`OPERATOR`](Self::OPERATOR). Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyGroupRange {
    first: u16,
    last: u16,
}

/// Numbers that do not make a range of key groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyGroupError {
    /// The range is backwards, or beyond the highest key group.
    #[error(
        "key groups {first}..={last}: `first` must not exceed `last`, and `last` must be below {MAX_PARALLELISM_LIMIT}"
    )]
    Range {
        /// The first key group, as the caller gave it.
        first: u32,
        /// The last key group, as the caller gave it.
        last: u32,
    },
    /// The numbers of subtask, parallelism and max parallelism do not fit each other.
    #[error(
        "subtask {subtask} of {parallelism} with {max_parallelism} key groups: it must hold that \
         subtask < parallelism <= max parallelism <= {MAX_PARALLELISM_LIMIT}"
    )]
    Parallelism {
        /// The subtask, from 0, as the caller gave it.
        subtask: u32,
        /// The number of subtasks, as the caller gave it.
        parallelism: u32,
        /// The number of key groups, as the caller gave it.
        max_parallelism: u32,
    },
}

impl KeyGroupRange {
    /// [`KeyGroup::OPERATOR`] alone, which no other range contains.
    pub const OPERATOR: Self = Self { first: KeyGroup::OPERATOR.0, last: KeyGroup::OPERATOR.0 };

    /// The range from `first` to `last`, both inclusive.
    ///
    /// # Errors
    /// If it is backwards or beyond [`MAX_PARALLELISM_LIMIT`].
    pub fn new(first: u32, last: u32) -> Result<Self, KeyGroupError> {
        match (u16::try_from(first), u16::try_from(last)) {
            (Ok(f), Ok(l)) if f <= l && last < MAX_PARALLELISM_LIMIT => Ok(Self { first: f, last: l }),
            _ => Err(KeyGroupError::Range { first, last }),
        }
    }

    /// A range that a part of a stored object may have: as [`new`](Self::new), or [`OPERATOR`](Self::OPERATOR).
    ///
    /// # Errors
    /// If it is neither.
    pub fn stored(first: u32, last: u32) -> Result<Self, KeyGroupError> {
        let operator = u32::from(KeyGroup::OPERATOR.0);
        if (first, last) == (operator, operator) { Ok(Self::OPERATOR) } else { Self::new(first, last) }
    }

    /// The range of one key group.
    #[must_use]
    pub fn one(group: KeyGroup) -> Self {
        Self { first: group.0, last: group.0 }
    }

    /// The key groups of subtask `i` of `p` with `m` key groups: first = (i*m + p - 1) / p, last = ((i+1)*m - 1) / p
    /// (Flink's `KeyGroupRangeAssignment`).
    ///
    /// # Errors
    /// Unless `i < p <= m <=` [`MAX_PARALLELISM_LIMIT`].
    pub fn of_subtask(subtask: u32, parallelism: u32, max_parallelism: u32) -> Result<Self, KeyGroupError> {
        if subtask >= parallelism || parallelism > max_parallelism || max_parallelism > MAX_PARALLELISM_LIMIT {
            return Err(KeyGroupError::Parallelism { subtask, parallelism, max_parallelism });
        }
        let (i, p, m) = (u64::from(subtask), u64::from(parallelism), u64::from(max_parallelism));
        let first = (i * m).div_ceil(p);
        let last = ((i + 1) * m - 1) / p;
        let narrow = |n: u64| u32::try_from(n).expect("below max parallelism, which is a u32");
        Self::new(narrow(first), narrow(last))
    }

    /// The first key group.
    #[must_use]
    pub fn first(self) -> KeyGroup {
        KeyGroup(self.first)
    }

    /// The last key group, inclusive.
    #[must_use]
    pub fn last(self) -> KeyGroup {
        KeyGroup(self.last)
    }

    /// Number of key groups, at least 1.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Whether `group` is in the range.
    #[must_use]
    pub fn contains(self, group: KeyGroup) -> bool {
        (self.first..=self.last).contains(&group.0)
    }

    /// Whether the two share a key group.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The key groups that both have; `None` if there are none.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }

    /// The key groups of this range that none of `others` has, as ranges in order.
    #[must_use]
    pub fn without(self, others: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut others: Vec<Self> = others.into_iter().filter(|other| self.overlaps(*other)).collect();
        others.sort_by_key(|other| other.first);
        let (mut missing, mut first) = (vec![], self.first);
        for other in others {
            if other.first > first {
                missing.push(Self { first, last: other.first - 1 });
            }
            first = first.max(other.last + 1);
        }
        if first <= self.last {
            missing.push(Self { first, last: self.last });
        }
        missing
    }

    /// The parts of this range, in order. The whole operator with `max_parallelism` key groups is cut into
    /// [`KEY_GROUP_PARTS`], and this range at the same places, so that the cuts are the same for every parallelism.
    pub fn parts(self, max_parallelism: u32) -> impl Iterator<Item = Self> {
        // The width depends on the operator alone. A cut that followed the range would move with the parallelism, and
        // files could not be taken over.
        let width = max_parallelism.div_ceil(KEY_GROUP_PARTS).max(1);
        let (first, last) = (u32::from(self.first), u32::from(self.last));
        (first / width..=last / width).map(move |part| {
            let (from, to) = ((part * width).max(first), ((part + 1) * width - 1).min(last));
            Self::new(from, to).expect("a part of a range is a range")
        })
    }

    /// The position of `group` within the range, from 0; `None` if it is outside.
    #[must_use]
    pub fn index(self, group: KeyGroup) -> Option<usize> {
        self.contains(group).then(|| usize::from(group.0 - self.first))
    }

    /// Every key group of the range, in order.
    pub fn iter(self) -> impl Iterator<Item = KeyGroup> {
        (self.first..=self.last).map(KeyGroup)
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::OPERATOR {
            return f.write_str("operator state");
        }
        write!(f, "{}..={}", self.first, self.last)
    }
}

/// Stable hashes from `first` to `last`, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashRange {
    /// The lowest hash of the range, inclusive.
    pub first: u64,
    /// The highest hash of the range, inclusive.
    pub last: u64,
}

impl HashRange {
    /// The range of all hashes.
    pub const ALL: Self = Self { first: 0, last: u64::MAX };

    /// Whether `hash` is in the range.
    #[must_use]
    pub fn contains(self, hash: u64) -> bool {
        (self.first..=self.last).contains(&hash)
    }
}

/// Who computes the key group of a key; fixed for the life of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "server", serde(rename_all = "snake_case"))]
pub enum KeyGroupAssignment {
    /// The daemon: murmur3_32(key, seed 0) modulo max parallelism.
    Hashed,
    /// The client gives it with every operation.
    Given,
}

/// Flink's default number of key groups: roundUpPow2(1.5 * parallelism) within 128..=32768.
#[must_use]
pub fn default_max_parallelism(parallelism: u32) -> u32 {
    let wanted = u64::from(parallelism) + u64::from(parallelism) / 2;
    let bounded = wanted.next_power_of_two().clamp(DEFAULT_MAX_PARALLELISM_LOW, u64::from(MAX_PARALLELISM_LIMIT));
    u32::try_from(bounded).expect("at most 32768")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_all_subtasks_partition_the_key_groups() {
        for m in [1, 7, 128, 4096] {
            for p in 1..=m.min(50) {
                let mut next = 0;
                for i in 0..p {
                    let range = KeyGroupRange::of_subtask(i, p, m).unwrap();
                    assert_eq!(u32::from(range.first().0), next, "subtask {i} of {p} with {m}");
                    for group in range.iter() {
                        assert_eq!(u32::from(group.0) * p / m, i, "owner of {group:?}");
                    }
                    next = u32::from(range.last().0) + 1;
                }
                assert_eq!(next, m);
            }
        }
    }

    #[test]
    fn the_default_max_parallelism_is_flinks() {
        let cases = [(1, 128), (85, 128), (86, 256), (200, 512), (30_000, 32_768), (32_768, 32_768)];
        for (parallelism, expected) in cases {
            assert_eq!(default_max_parallelism(parallelism), expected, "{parallelism}");
        }
    }

    #[test]
    fn what_others_do_not_have_is_what_is_missing() {
        let range = |first, last| KeyGroupRange::new(first, last).unwrap();
        assert_eq!(range(3, 9).intersection(range(9, 12)), Some(range(9, 9)));
        assert_eq!(range(3, 9).intersection(range(10, 12)), None);
        assert_eq!(range(3, 9).without([]), [range(3, 9)]);
        assert_eq!(range(3, 9).without([range(0, 20)]), []);
        assert_eq!(range(3, 9).without([range(8, 9), range(0, 4)]), [range(5, 7)]);
        assert_eq!(range(3, 9).without([range(5, 6), range(4, 7), range(5, 5)]), [range(3, 3), range(8, 9)]);
        assert_eq!(range(0, 32_767).without([range(1, 32_767)]), [range(0, 0)]);
        assert_eq!(range(0, 3).without([range(0, 0), range(2, 2)]), [range(1, 1), range(3, 3)]);
    }

    #[test]
    fn parts_are_cut_at_the_same_key_groups_whatever_the_range() {
        let range = |first, last| KeyGroupRange::new(first, last).unwrap();
        let cut = |first, last, max| range(first, last).parts(max).collect::<Vec<_>>();
        assert_eq!(cut(0, 127, 128), [range(0, 31), range(32, 63), range(64, 95), range(96, 127)]);
        assert_eq!(cut(43, 85, 128), [range(43, 63), range(64, 85)]);
        assert_eq!(cut(64, 95, 128), [range(64, 95)]);
        assert_eq!(cut(0, 0, 1), [range(0, 0)]);
        assert_eq!(cut(0, 9, 10), [range(0, 2), range(3, 5), range(6, 8), range(9, 9)]);
        assert_eq!(cut(0, 32_767, 32_768).len(), 4);
    }

    #[test]
    fn refuses_what_is_no_range() {
        assert!(KeyGroupRange::new(3, 2).is_err());
        assert!(KeyGroupRange::new(0, 32_768).is_err());
        assert!(KeyGroupRange::of_subtask(2, 2, 128).is_err());
        assert!(KeyGroupRange::of_subtask(0, 200, 128).is_err());
    }

    #[test]
    fn operator_state_lies_beside_all_key_groups() {
        let operator = KeyGroupRange::OPERATOR;
        assert_eq!(KeyGroupRange::stored(65_535, 65_535), Ok(operator));
        assert!(KeyGroupRange::new(65_535, 65_535).is_err());
        assert!(KeyGroupRange::stored(0, 65_535).is_err() && KeyGroupRange::stored(32_768, 32_768).is_err());
        let all = KeyGroupRange::new(0, MAX_PARALLELISM_LIMIT - 1).unwrap();
        assert!(!all.overlaps(operator) && !all.contains(KeyGroup::OPERATOR));
        assert_eq!((operator.count(), operator.index(KeyGroup::OPERATOR)), (1, Some(0)));
        assert_eq!(operator.iter().collect::<Vec<_>>(), [KeyGroup::OPERATOR]);
        assert_eq!(operator.to_string(), "operator state");
    }
}
