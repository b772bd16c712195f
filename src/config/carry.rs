//! Values of Flink's settings in our notation.

use std::time::Duration;

use super::{
    legacy::{self, BACKEND, Carry},
    listing::{literal, quoted},
    options, store_url,
};
use crate::setting::{Kind, size};

/// Units of Flink's durations, in nanoseconds; without a unit, a number means milliseconds.
const UNITS: [(&[&str], u128); 7] = [
    (&["d", "day", "days"], 86_400_000_000_000),
    (&["h", "hour", "hours"], 3_600_000_000_000),
    (&["m", "min", "minute", "minutes"], 60_000_000_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000_000_000),
    (&["", "ms", "milli", "millis", "millisecond", "milliseconds"], 1_000_000),
    (&["µs", "micro", "micros", "microsecond", "microseconds"], 1_000),
    (&["ns", "nano", "nanos", "nanosecond", "nanoseconds"], 1),
];

/// RocksDB's option that is composed of several settings of Flink.
const BLOCK_TABLE: &str = "block_based_table_factory";

/// A setting of Flink in our terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Carried {
    /// Name of the option, or of an entry of a table (`<key of the table>.<name>`).
    pub(super) key: String,
    /// Its value, in the form of a flag or an environment variable.
    pub(super) text: String,
    /// How it is combined with another one of the same key.
    pub(super) join: Join,
}

/// How two settings with the same key are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// One of them wins.
    Replace,
    /// Both are items of a list.
    List,
    /// Both are parts of a value in braces.
    Braces,
}

impl Carried {
    /// Checks that the option allows the value.
    ///
    /// # Errors
    /// A description of the values that it allows.
    fn checked(self) -> Result<Self, String> {
        let (spec, entry) =
            options::find_with_entry(&self.key).expect("a test finds every option that the table names");
        let fits = entry.is_some() || spec.kind.parse(&self.text).is_some();
        if fits { Ok(self) } else { Err(format!("`{}` allows {}", spec.key, spec.kind.allowed())) }
    }

    /// Combines it with another one of the same key.
    pub(super) fn join(&mut self, other: &Self) {
        match self.join {
            Join::Replace => {}
            Join::List => self.text = format!("{},{}", self.text, other.text),
            Join::Braces => {
                let inner = |text: &str| text.trim_start_matches('{').trim_end_matches('}').to_owned();
                self.text = format!("{{{};{}}}", inner(&self.text), inner(&other.text));
            }
        }
    }

    /// In the form of a line of a configuration file, without line break.
    pub(super) fn toml(&self) -> String {
        let (spec, entry) = options::find_with_entry(&self.key).expect("it was checked");
        let value = if entry.is_some() { quoted(&self.text) } else { literal(spec.kind, &self.text) };
        format!("{} = {value}", self.key)
    }

    /// In the form of an argument of `--set`.
    pub(super) fn flag(&self) -> String {
        format!("--set {}={}", self.key, self.text)
    }

    /// In the form of an environment variable.
    pub(super) fn variable(&self) -> String {
        let (spec, entry) = options::find_with_entry(&self.key).expect("it was checked");
        let name = entry.map(|entry| format!("{entry}=")).unwrap_or_default();
        format!("{}={name}{}", options::variable(spec.key), self.text)
    }
}

/// The setting of `to` that has the same effect as Flink's `key` with `value`; `None` if no setting is needed.
///
/// # Errors
///
/// A description of the allowed values.
pub(super) fn carry(carry: Carry, key: &str, to: &str, value: &str) -> Result<Option<Carried>, String> {
    let entry = |name: &str, text: String, join| Carried { key: format!("{to}.{name}"), text, join };
    let option = |text: String| Carried { key: to.to_owned(), text, join: Join::Replace };
    let value = value.trim();
    let carried = match carry {
        Carry::AsIs => match options::find(to).expect("a test finds every option that the table names").kind {
            Kind::Store => option(store_url::ours(value).map_err(|why| format!("`{to}`: {why}"))?),
            kind => option(as_is(kind, value).ok_or_else(|| format!("`{to}` allows {}", kind.allowed()))?),
        },
        Carry::Backend => option(legacy::backend(value).map_or(value, |(word, _)| word).to_owned()),
        Carry::Compression => option(if flag(value)? { "lz4" } else { "none" }.to_owned()),
        Carry::Negated(name) => entry(name, (!flag(value)?).to_string(), Join::Replace),
        Carry::Entry(name) => entry(name, value.to_owned(), Join::Replace),
        Carry::Bytes(name) => entry(name, bytes(value)?.to_string(), Join::Replace),
        Carry::CompactionStyle => {
            let lower = value.to_ascii_lowercase();
            let mut letters = lower.chars();
            let first = letters.next().map(|c| c.to_ascii_uppercase());
            let word: String = first.into_iter().chain(letters).collect();
            entry("compaction_style", format!("kCompactionStyle{word}"), Join::Replace)
        }
        Carry::Block(name) => entry(BLOCK_TABLE, format!("{{{name}={}}}", bytes(value)?), Join::Braces),
        Carry::BlockFlag(name) => entry(BLOCK_TABLE, format!("{{{name}={}}}", flag(value)?), Join::Braces),
        Carry::Metric if flag(value)? => {
            let property = key.rsplit('.').next().unwrap_or_default();
            Carried { key: to.to_owned(), text: property.to_owned(), join: Join::List }
        }
        Carry::Metric => return Ok(None),
    };
    carried.checked().map(Some)
}

/// How to carry over the value of the option `to`, which both have.
pub(super) fn of_same(to: &str) -> Carry {
    if to == BACKEND { Carry::Backend } else { Carry::AsIs }
}

fn flag(value: &str) -> Result<bool, String> {
    value.to_ascii_lowercase().parse().map_err(|_| "allowed is `true` or `false`".to_owned())
}

fn bytes(value: &str) -> Result<u64, String> {
    size::parse(value).ok_or_else(|| "allowed is a memory size such as `64 mb`".to_owned())
}

/// `value` in our notation of this kind; `None` if it cannot be converted.
fn as_is(kind: Kind, value: &str) -> Option<String> {
    Some(match kind {
        Kind::Flag => value.to_ascii_lowercase(),
        Kind::Duration { .. } => humantime::format_duration(duration(value)?).to_string(),
        Kind::Size { .. } | Kind::Share => size::format(size::parse(value)?),
        Kind::Choice(words) => words.iter().find(|word| word.eq_ignore_ascii_case(value))?.to_string(),
        Kind::Paths => value.split([',', ';', ':']).map(str::trim).collect::<Vec<_>>().join(","),
        _ => value.to_owned(),
    })
}

/// A duration in Flink's notation: digits and a unit.
fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = unit.trim().to_lowercase();
    let (_, nanoseconds) = UNITS.iter().find(|(names, _)| names.contains(&unit.as_str()))?;
    let all = digits.parse::<u128>().ok()?.checked_mul(*nanoseconds)?;
    Some(Duration::from_nanos(u64::try_from(all).ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_flinks_units() {
        for (text, expected) in [
            ("1 s", Some(Duration::from_secs(1))),
            ("500", Some(Duration::from_millis(500))),
            ("10min", Some(Duration::from_mins(10))),
            ("2 DAYS", Some(Duration::from_hours(48))),
            ("3 milliseconds", Some(Duration::from_millis(3))),
            ("7 µs", Some(Duration::from_micros(7))),
            ("PT10M", None),
            ("1 year", None),
            ("99999999999999999999 d", None),
            ("", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn values_change_their_notation() {
        for (how, key, to, value, written) in [
            (Carry::AsIs, "", "drain-timeout", "600000", "drain-timeout = \"10m\""),
            (Carry::AsIs, "", "memory.rocksdb", "2048 mb", "memory.rocksdb = \"2 GiB\""),
            (Carry::AsIs, "", "state.changelog.enabled", "TRUE", "state.changelog.enabled = true"),
            (
                Carry::AsIs,
                "",
                "state.backend.rocksdb.localdir",
                "/mnt/a:/mnt/b",
                "state.backend.rocksdb.localdir = [\"/mnt/a\", \"/mnt/b\"]",
            ),
            (Carry::Backend, "", BACKEND, "FsStateBackend", "state.backend.type = \"hashmap\""),
            (
                Carry::Bytes("write_buffer_size"),
                "",
                legacy::ROCKSDB_OPTIONS,
                "64 mb",
                "state.backend.rocksdb.options.write_buffer_size = \"67108864\"",
            ),
            (
                Carry::CompactionStyle,
                "",
                legacy::ROCKSDB_OPTIONS,
                "UNIVERSAL",
                "state.backend.rocksdb.options.compaction_style = \"kCompactionStyleUniversal\"",
            ),
            (
                Carry::Metric,
                "state.backend.rocksdb.metrics.estimate-num-keys",
                "state.backend.rocksdb.metrics",
                "true",
                "state.backend.rocksdb.metrics = [\"estimate-num-keys\"]",
            ),
        ] {
            assert_eq!(carry(how, key, to, value).unwrap().unwrap().toml(), written);
        }
        assert_eq!(carry(Carry::Metric, "a.b", "c", "false"), Ok(None));
    }

    #[test]
    fn stores_are_named_as_we_do_or_refused_with_the_reason() {
        let to = "state.changelog.dstl.dfs.base-path";
        for (value, text) in [
            ("hdfs://namenode/flink", "hdfs://namenode/flink"),
            ("wasbs://c@me.blob.core.windows.net/a", "abfss://c@me.dfs.core.windows.net/a"),
        ] {
            assert_eq!(carry(Carry::AsIs, "", to, value).unwrap().unwrap().text, text);
        }
        let refused = carry(Carry::AsIs, "", to, "oss://bucket/a").unwrap_err();
        assert!(refused.starts_with("`state.changelog.dstl.dfs.base-path`: OSS "), "{refused}");
    }

    #[test]
    fn what_the_option_does_not_allow_is_told() {
        for (how, to, value) in [
            (Carry::AsIs, "drain-timeout", "soon"),
            (Carry::AsIs, "execution.checkpointing.num-retained", "0"),
            (Carry::Backend, BACKEND, "forst"),
            (Carry::Metric, "state.backend.rocksdb.metrics", "true"),
        ] {
            let refused = carry(how, "a.no-such-property", to, value).unwrap_err();
            assert!(refused.contains(&format!("`{to}` allows ")), "{refused}");
        }
    }

    #[test]
    fn parts_of_one_value_are_joined_in_braces() {
        let part = |name, value| carry(Carry::Block(name), "", legacy::ROCKSDB_OPTIONS, value).unwrap().unwrap();
        let mut all = part("block_size", "16 kb");
        all.join(&part("metadata_block_size", "8kb"));
        assert_eq!(all.text, "{block_size=16384;metadata_block_size=8192}");
        assert!(
            all.variable().ends_with("_OPTIONS=block_based_table_factory={block_size=16384;metadata_block_size=8192}")
        );
    }
}
