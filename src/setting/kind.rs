//! Types of options: the values that each allows, and how to parse them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tracing_subscriber::EnvFilter;
use url::Url;

use super::size;
use crate::types::InnerBackend;

/// Type of an option, with the bounds that do not depend on other options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Flag,
    /// A number; both bounds are inclusive.
    Integer { min: u64, max: u64 },
    /// A time of at least `min`.
    Duration { min: Duration },
    /// Bytes; both bounds are inclusive.
    Size { min: u64, max: u64 },
    /// Bytes, or a percentage of a quantity that the option names.
    Share,
    /// A part of a whole, from 0.1 to 0.9.
    Ratio,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An absolute path; empty means none, if `optional`.
    Path { optional: bool },
    /// URL of an object store, or an absolute path.
    Store,
    /// Address and port, or `off`.
    Address,
    /// Permissions of a file, in octal.
    Mode,
    /// A text without restrictions.
    Text,
    /// A filter of tracing events.
    Filter,
    /// A list of user ids.
    Ids,
    /// A list of absolute paths, at least one.
    Paths,
    /// A list of some of these words.
    Words(&'static [&'static str]),
    /// A table of strings. Secret ones are never shown.
    Table { secret: bool },
}

/// A value of an option; the variant follows from its [`Kind`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Flag(bool),
    Number(u64),
    Duration(Duration),
    Share(Share),
    Ratio(f64),
    Text(String),
    Path(Option<PathBuf>),
    Store(Url),
    Address(Option<SocketAddr>),
    Ids(Vec<u32>),
    Paths(Vec<PathBuf>),
    Words(Vec<&'static str>),
    Table(BTreeMap<String, String>),
}

/// An enum whose variants have words in settings. [`words!`](super::words) implements it.
pub(crate) trait Word: Sized {
    /// All words, in the order of listings.
    const WORDS: &[&str];

    /// The variant that has this word.
    fn of(word: &str) -> Option<Self>;
}

impl Word for InnerBackend {
    const WORDS: &[&str] = &[Self::HashMap.as_str(), Self::RocksDb.as_str()];

    fn of(word: &str) -> Option<Self> {
        [Self::HashMap, Self::RocksDb].into_iter().find(|inner| inner.as_str() == word)
    }
}

/// A share of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// A number of bytes.
    Bytes(u64),
    /// A percentage of the quantity that the option is a share of, 1 to 90.
    Percent(u64),
}

const SCHEMES: [&str; 9] = ["file", "memory", "s3", "s3a", "gs", "az", "abfs", "abfss", "hdfs"];

impl Kind {
    pub(crate) const THREADS: Self = Self::Integer { min: 1, max: 256 };
    pub(crate) const COUNT: Self = Self::Integer { min: 1, max: 1 << 20 };
    pub(crate) const ANY_DURATION: Self = Self::Duration { min: Duration::ZERO };
    pub(crate) const AT_LEAST_1_MS: Self = Self::Duration { min: Duration::from_millis(1) };
    pub(crate) const AT_LEAST_1_S: Self = Self::Duration { min: Duration::from_secs(1) };
    pub(crate) const OPTIONAL_PATH: Self = Self::Path { optional: true };

    /// Bytes, at least so many.
    pub(crate) const fn at_least(min: u64) -> Self {
        Self::Size { min, max: 1 << 40 }
    }

    /// One of the words of `T`.
    pub(crate) const fn of<T: Word>() -> Self {
        Self::Choice(T::WORDS)
    }

    /// One word for the type, for listings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flag => "boolean",
            Self::Integer { .. } => "integer",
            Self::Duration { .. } => "duration",
            Self::Size { .. } => "memory size",
            Self::Share => "memory size or percentage",
            Self::Ratio => "number",
            Self::Choice(_) => "enum",
            Self::Path { .. } => "path",
            Self::Store => "URL or path",
            Self::Address => "address",
            Self::Mode => "file mode",
            Self::Text => "string",
            Self::Filter => "tracing filter",
            Self::Ids => "list of integers",
            Self::Paths => "list of paths",
            Self::Words(_) => "list of enums",
            Self::Table { .. } => "table of strings",
        }
    }

    /// The allowed values, to complete "allowed is …".
    pub(crate) fn allowed(self) -> String {
        match self {
            Self::Flag => "`true` or `false`".into(),
            Self::Integer { min, max } => format!("an integer from {min} to {max}"),
            Self::Duration { min } if min.is_zero() => "a duration such as `10 ms` or `5 min`".into(),
            Self::Duration { min } => {
                format!("a duration such as `10 ms` or `5 min`, at least `{}`", humantime::format_duration(min))
            }
            Self::Size { min, max } => {
                format!("a memory size such as `64 MiB`, from `{}` to `{}`", size::format(min), size::format(max))
            }
            Self::Share => "a memory size such as `2 GiB`, or a percentage from `1%` to `90%`".into(),
            Self::Ratio => "a number from `0.1` to `0.9`".into(),
            Self::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or "),
            Self::Path { optional: false } => "an absolute path".into(),
            Self::Path { optional: true } => "an absolute path, or nothing".into(),
            Self::Store => format!(
                "an absolute path, or a URL with one of the schemes {}, without credentials and query: those come from the environment",
                SCHEMES.join(", ")
            ),
            Self::Address => "an address with port such as `127.0.0.1:9321` or `[::1]:9321`, or `off`".into(),
            Self::Mode => "a file mode in octal such as `0660`".into(),
            Self::Text => "a string".into(),
            Self::Filter => "a tracing filter such as `info` or `info,dstl::changelog=debug`".into(),
            Self::Ids => "a list of user ids such as `[1000, 1001]`, or `1000,1001` outside of the file".into(),
            Self::Paths => "a list of absolute paths such as `[\"/mnt/a\", \"/mnt/b\"]`, or `/mnt/a,/mnt/b`".into(),
            Self::Words(words) => {
                format!("a list of some of {}, separated by commas outside of the file", words.join(", "))
            }
            Self::Table { .. } => "a table of strings, or `name=value,name=value` outside of the file".into(),
        }
    }

    /// Parses `text`; `None` if it is not [`allowed`](Self::allowed).
    pub(crate) fn parse(self, text: &str) -> Option<Value> {
        let text = text.trim();
        match self {
            Self::Flag => text.parse().ok().map(Value::Flag),
            Self::Integer { min, max } => {
                text.replace('_', "").parse().ok().filter(|it| (min..=max).contains(it)).map(Value::Number)
            }
            Self::Duration { min } => humantime::parse_duration(text).ok().filter(|it| *it >= min).map(Value::Duration),
            Self::Size { min, max } => size::parse(text).filter(|it| (min..=max).contains(it)).map(Value::Number),
            Self::Share => share(text).map(Value::Share),
            Self::Ratio => text.parse().ok().filter(|it| (0.1..=0.9).contains(it)).map(Value::Ratio),
            Self::Choice(words) => words.contains(&text).then(|| Value::Text(text.into())),
            Self::Path { optional } => path(text, optional).map(Value::Path),
            Self::Store => store(text).map(Value::Store),
            Self::Address if text == "off" => Some(Value::Address(None)),
            Self::Address => text.parse().ok().map(|it| Value::Address(Some(it))),
            Self::Mode => mode(text).map(Value::Number),
            Self::Text => Some(Value::Text(text.into())),
            Self::Filter => EnvFilter::try_new(text).is_ok().then(|| Value::Text(text.into())),
            Self::Ids => list(text)?.iter().map(|it| it.parse().ok()).collect::<Option<_>>().map(Value::Ids),
            Self::Paths => paths(&list(text)?).map(Value::Paths),
            Self::Words(words) => list(text)?
                .iter()
                .map(|item| words.iter().find(|word| *word == item).copied())
                .collect::<Option<_>>()
                .map(Value::Words),
            Self::Table { .. } => items(text).map(assignment).collect::<Option<_>>().map(Value::Table),
        }
    }
}

/// `text` divided at its first `=`.
fn assignment(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    (!name.trim().is_empty()).then(|| (name.trim().into(), value.trim().into()))
}

/// The items of a list, in the notation of the file or separated by commas. `None` for anything else.
fn list(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return Some(items(text).map(str::to_owned).collect());
    }
    let table: toml::Table = format!("list = {text}").parse().ok()?;
    // `text` may end the list and go on with other keys, which would be settings that nobody checks.
    let toml::Value::Array(items) = table.get("list").filter(|_| table.len() == 1)? else { return None };
    let item = |item: &toml::Value| match item {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    items.iter().map(item).collect()
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn share(text: &str) -> Option<Share> {
    match text.strip_suffix('%') {
        Some(number) => number.trim().parse().ok().filter(|it| (1..=90).contains(it)).map(Share::Percent),
        None => size::parse(text).filter(|it| *it > 0).map(Share::Bytes),
    }
}

fn path(text: &str, optional: bool) -> Option<Option<PathBuf>> {
    match text {
        "" => optional.then_some(None),
        text => Path::new(text).is_absolute().then(|| Some(text.into())),
    }
}

fn paths(items: &[String]) -> Option<Vec<PathBuf>> {
    let paths: Vec<PathBuf> = items.iter().map(PathBuf::from).collect();
    (!paths.is_empty() && paths.iter().all(|path| path.is_absolute())).then_some(paths)
}

fn store(text: &str) -> Option<Url> {
    if Path::new(text).is_absolute() {
        return Url::from_file_path(text).ok();
    }
    let url = Url::parse(text).ok()?;
    // A relative path behind `file:` would silently become an absolute one, so the text itself is looked at.
    let local = url.scheme() != "file" || (url.host().is_none() && text.starts_with("file:/"));
    // Azure's `container@account` is not a user.
    let has_user = !url.username().is_empty() && !url.scheme().starts_with("abfs");
    let plain = url.query().is_none() && url.fragment().is_none() && url.password().is_none() && !has_user;
    (SCHEMES.contains(&url.scheme()) && local && plain).then_some(url)
}

fn mode(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok().filter(|it| *it <= 0o777)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const DURATION: Kind = Kind::Duration { min: Duration::from_millis(1) };

    #[test]
    fn reads_durations_with_and_without_a_space() {
        for (text, millis) in [("10 ms", 10), ("10min", 600_000), ("500ms", 500), ("1h 30m", 5_400_000)] {
            assert_eq!(DURATION.parse(text), Some(Value::Duration(Duration::from_millis(millis))), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_out_of_bounds_or_of_another_type() {
        let number = Kind::Integer { min: 1, max: 8 };
        let size = Kind::Size { min: 1024, max: 1 << 20 };
        for (kind, text) in [
            (number, "0"),
            (number, "9"),
            (number, "four"),
            (number, "-1"),
            (size, "1023"),
            (size, "2 mb"),
            (DURATION, "0 s"),
            (DURATION, "10"),
            (Kind::Flag, "yes"),
            (Kind::Share, "95%"),
            (Kind::Share, "0"),
            (Kind::Choice(&["text", "json"]), "xml"),
            (Kind::Path { optional: false }, ""),
            (Kind::Path { optional: true }, "relative/path"),
            (Kind::Store, "ftp://host/path"),
            (Kind::Store, "file://host/path"),
            (Kind::Store, "relative"),
            (Kind::Store, "s3://key:secret@bucket/p"),
            (Kind::Store, "s3://key@bucket/p"),
            (Kind::Store, "az://container/p?sig=secret"),
            (Kind::Address, "localhost"),
            (Kind::Mode, "0999"),
            (Kind::Mode, "7777"),
            (Kind::Filter, "info,dstl=loud"),
            (Kind::Ids, "[1000"),
            (Kind::Ids, "[1000]\nother = 1"),
            (Kind::Ids, "[1.5]"),
            (Kind::Ids, "[\"a\"]"),
            (Kind::Paths, "[]"),
            (Kind::Paths, "[\"a\"]"),
            (Kind::Paths, "[/a]"),
            (Kind::Ratio, "1.0"),
            (Kind::Ratio, "half"),
            (Kind::Paths, "/mnt/a,mnt/b"),
            (Kind::Paths, ""),
            (Kind::Words(&["a", "b"]), "a,c"),
            (Kind::Table { secret: true }, "name"),
        ] {
            assert_eq!(kind.parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_and_a_file_url_name_the_same_store() {
        assert_eq!(Kind::Store.parse("/var/lib/my store"), Kind::Store.parse("file:///var/lib/my%20store"));
        let Some(Value::Store(url)) = Kind::Store.parse("s3://bucket/some/prefix") else {
            panic!("an S3 URL is refused")
        };
        assert_eq!(url.as_str(), "s3://bucket/some/prefix");
    }

    #[test]
    fn reads_lists_and_tables() {
        assert_eq!(Kind::Ids.parse("1000, 1001"), Some(Value::Ids(vec![1000, 1001])));
        assert_eq!(Kind::Ids.parse(""), Some(Value::Ids(vec![])));
        assert_eq!(Kind::Paths.parse("/a, /b"), Some(Value::Paths(vec!["/a".into(), "/b".into()])));
        assert_eq!(Kind::Words(&["a", "b"]).parse("b"), Some(Value::Words(vec!["b"])));
        // As `allowed` shows them, and as they are in the file.
        assert_eq!(Kind::Ids.parse("[1000, 1001]"), Some(Value::Ids(vec![1000, 1001])));
        assert_eq!(Kind::Ids.parse("[]"), Some(Value::Ids(vec![])));
        assert_eq!(Kind::Paths.parse(r#"["/a,b", '/c']"#), Some(Value::Paths(vec!["/a,b".into(), "/c".into()])));
        assert_eq!(Kind::Words(&["a", "b"]).parse(r#"["b"]"#), Some(Value::Words(vec!["b"])));
        let expected = BTreeMap::from([("a".to_string(), "x=y".to_string()), ("b".to_string(), String::new())]);
        assert_eq!(Kind::Table { secret: true }.parse("a = x=y, b="), Some(Value::Table(expected)));
    }
}
