//! Single RocksDB options that users set: which are refused, and why.
//!
//! RocksDB checks names and values itself: they are used to open an empty database in memory. Options that would break
//! the assumptions of this folder, or circumvent the shared memory, are refused before that.

use std::collections::BTreeMap;

use rocksdb::{DB, Env, Options};

/// Options that are set by this code or must keep their defaults.
const RESERVED: &[&str] = &[
    "best_efforts_recovery",
    "blob_cache",
    "cf_paths",
    "comparator",
    "compaction_filter",
    "compaction_filter_factory",
    "create_if_missing",
    "db_log_dir",
    "db_paths",
    "enable_blob_files",
    "env",
    "error_if_exists",
    "inplace_update_support",
    "merge_operator",
    "persist_user_defined_timestamps",
    "plain_table_factory",
    "prefix_extractor",
    "row_cache",
    "table_factory",
    "wal_dir",
    "write_buffer_manager",
];

/// The options that are refused, by name, each with the reason. Takes milliseconds for each option; touches no disk.
#[must_use]
pub fn refused_options(options: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let refusal = |(name, value): (&String, &String)| Some((name.clone(), refusal(name, value)?));
    options.iter().filter_map(refusal).collect()
}

fn refusal(name: &str, value: &str) -> Option<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if name.is_empty() || !name.chars().all(word) {
        return Some("this is not the name of an option".to_owned());
    }
    let private_cache =
        name.starts_with("block_based_table_factory") && format!("{name} {value}").contains("block_cache");
    if RESERVED.contains(&name) || private_cache {
        return Some("this option is not the user's to set".to_owned());
    }
    if name == "compaction_style" && value.contains("FIFO") {
        return Some("this compaction style drops state".to_owned());
    }
    // Ordering: the form is checked before RocksDB reads the text. A value with a `;` would end here and set another
    // option, which none of the checks above has seen.
    if !is_one_value(value) {
        return Some("this is not one value; values of several parts stand in braces".to_owned());
    }
    open(&format!("{name}={value}")).err().map(|error| error.into_string())
}

/// Whether the value cannot end its option and begin another one.
fn is_one_value(value: &str) -> bool {
    let mut depth = 0_u32;
    for c in value.chars() {
        depth = match c {
            '{' => depth + 1,
            '}' => match depth.checked_sub(1) {
                Some(depth) => depth,
                None => return false,
            },
            ';' | '\0' if depth == 0 => return false,
            _ => depth,
        };
    }
    depth == 0
}

fn open(text: &str) -> Result<(), rocksdb::Error> {
    // RocksDB checks some values only when it opens a database, so an empty one is opened in memory.
    let mut options = Options::default().get_options_from_string(text)?;
    options.set_env(&Env::mem_env()?);
    options.create_if_missing(true);
    DB::open(&options, "/options").map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn refused(options: &[(&str, &str)]) -> Vec<(String, String)> {
        refused_options(&options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn rocksdb_judges_names_and_values() {
        let fine = [
            ("max_open_files", "512"),
            ("write_buffer_size", "16M"),
            ("compression", "kZSTD"),
            ("compaction_style", "kCompactionStyleUniversal"),
            ("block_based_table_factory", "{block_size=16K;format_version=5}"),
            ("compression_opts", "{level=3;}"),
        ];
        assert_eq!(refused(&fine), []);
        for (name, value) in [
            ("max_open_filez", "512"),
            ("max_open_files", "many"),
            ("block_based_table_factory", "{block_sise=16K}"),
            ("compression", "kSnappyCompression"),
        ] {
            let refused = refused(&[("bytes_per_sync", "1M"), (name, value)]);
            assert_eq!(refused.len(), 1, "{refused:?}");
            assert_eq!(refused[0].0, name);
        }
    }

    #[test]
    fn what_would_break_state_or_budget_is_refused() {
        for (name, value) in [
            ("comparator", "rocksdb.ReverseBytewiseComparator"),
            ("enable_blob_files", "true"),
            ("compaction_style", "kCompactionStyleFIFO"),
            ("block_based_table_factory", "{block_cache=1G}"),
            ("block_based_table_factory.block_cache", "1G"),
            ("max_open_files", "1;comparator=x"),
            ("max_open_files=1;comparator", "x"),
            ("bytes_per_sync", "1}"),
            ("", "1"),
        ] {
            assert_eq!(refused(&[(name, value)]).len(), 1, "{name}={value}");
        }
    }
}
