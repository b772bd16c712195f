//! The table of options: name, type, default and meaning of each. Parsing, validation, `dstl config options` and the
//! commented example are all made from it. The rows are those of [`Config`]: its fields are declared with them.
//!
//! Names are Flink's where Flink has the option, so that a settings file carries over; defaults that deviate from
//! Flink's say so.

use std::sync::LazyLock;

use super::declared::Config;
use crate::setting::{Kind, Spec};

/// Every option, in the order of listings.
static TABLE: LazyLock<Vec<&'static Spec>> = LazyLock::new(|| {
    let mut table = vec![];
    Config::declare(&mut table);
    table.sort_by_key(|spec| (spec.section, spec.place));
    table
});

/// Every option, in the order of listings.
pub(super) fn all() -> impl ExactSizeIterator<Item = &'static Spec> + Clone {
    TABLE.iter().copied()
}

/// The option with this name.
pub(super) fn find(key: &str) -> Option<&'static Spec> {
    all().find(|spec| spec.key == key)
}

/// The option with this name, or the table and the name of its entry (`<key of the table>.<name>`).
pub(super) fn find_with_entry(key: &str) -> Option<(&'static Spec, Option<&str>)> {
    find(key).map(|spec| (spec, None)).or_else(|| {
        let table = |spec: &Spec| matches!(spec.kind, Kind::Table { .. });
        all().filter(|spec| table(spec)).find_map(|spec| {
            let entry = key.strip_prefix(spec.key)?.strip_prefix('.')?;
            (!entry.is_empty()).then_some((spec, Some(entry)))
        })
    })
}

/// The environment variable of the option `key`: `DSTL_`, then the name in upper case with `_` for dots and dashes. A
/// leading `dstl.` of the name is not said twice.
pub(super) fn variable(key: &str) -> String {
    let name = key.strip_prefix("dstl.").unwrap_or(key);
    format!("DSTL_{}", name.to_ascii_uppercase().replace(['.', '-'], "_"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::setting::Default;

    #[test]
    fn every_default_is_allowed() {
        for spec in all() {
            let default = match spec.default {
                Default::Text(text) => text,
                Default::Computed { for_root, .. } => for_root,
            };
            assert!(spec.kind.parse(default).is_some(), "{} = {default}", spec.key);
        }
    }

    #[test]
    fn names_and_variables_are_unique() {
        let keys: BTreeSet<_> = all().map(|spec| spec.key).collect();
        let variables: BTreeSet<_> = keys.iter().map(|key| variable(key)).collect();
        assert_eq!((keys.len(), variables.len()), (all().len(), all().len()));
    }

    #[test]
    fn each_option_has_its_own_place() {
        let places: BTreeSet<_> = all().map(|spec| (spec.section, spec.place)).collect();
        assert_eq!(places.len(), all().len());
    }

    #[test]
    fn names_are_kebab_case() {
        for spec in all() {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            assert!(spec.key.chars().all(fits), "{}", spec.key);
            assert!(spec.doc.ends_with('.'), "{} has no sentence", spec.key);
        }
    }

    #[test]
    fn a_variable_follows_from_its_key() {
        assert_eq!(variable("state.changelog.dstl.dfs.base-path"), "DSTL_STATE_CHANGELOG_DSTL_DFS_BASE_PATH");
        assert_eq!(variable("dstl.data-dir"), "DSTL_DATA_DIR");
    }
}
