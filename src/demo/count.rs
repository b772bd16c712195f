//! The straightforward count, to compare with: one thread, plain maps, nothing shared with the task but what a word is.

use std::collections::{BTreeMap, HashMap};

use super::{
    input::{Input, words},
    states::WINDOW_RECORDS,
};

/// What is known of one word.
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
    /// By word.
    pub(super) words: HashMap<&'a str, Word>,
    /// By file and window: its words there.
    pub(super) windows: BTreeMap<(u64, u64), i64>,
    /// Words in all.
    pub(super) records: u64,
    /// What the task writes in all: four updates a word, one for each file that a word is in, one for each file.
    pub(super) updates: u64,
}

/// Counts `input`.
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
