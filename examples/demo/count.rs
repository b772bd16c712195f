//! The straightforward count, for comparison: one thread, plain maps, and only the definition of a word shared with the
//! task.

use std::collections::{BTreeMap, HashMap};

use super::{
    input::{Input, words},
    states::WINDOW_RECORDS,
};

/// The facts about one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// How often it occurs.
    pub(super) count: i64,
    /// Its first record.
    pub(super) first: i64,
    /// Its last record.
    pub(super) last: i64,
    /// The files that have it, in order.
    pub(super) files: Vec<u64>,
}

/// The count of a whole input.
#[derive(Debug, Default)]
pub(super) struct Count<'a> {
    /// The facts about each word.
    pub(super) words: HashMap<&'a str, Word>,
    /// Number of words in each window of each file.
    pub(super) windows: BTreeMap<(u64, u64), i64>,
    /// Number of words in the input.
    pub(super) records: u64,
    /// Number of updates by the task: four per word, one per file of each word, and one per file.
    pub(super) updates: u64,
}

/// Counts the words of `input`.
pub(super) fn count(input: &Input) -> Count<'_> {
    let mut all = Count::default();
    for (number, file) in (0_u64..).zip(&input.files) {
        for (_, text) in words(input.text_of(file, file.start)) {
            let at = i64::try_from(all.records).unwrap_or(i64::MAX);
            let word = all.words.entry(text).or_insert_with(|| Word { count: 0, first: at, last: at, files: vec![] });
            word.count += 1;
            word.last = at;
            if word.files.last() != Some(&number) {
                word.files.push(number);
            }
            *all.windows.entry((number, all.records / WINDOW_RECORDS)).or_default() += 1;
            all.records += 1;
        }
    }
    let listed: usize = all.words.values().map(|word| word.files.len()).sum();
    all.updates = 4 * all.records + (listed + input.files.len()) as u64;
    all
}
