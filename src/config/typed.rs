//! Typed settings: those in the file, the environment and the flags, each checked against the table of options.

use std::{
    ffi::OsString,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    fault::{Fault, Origin, Quoted},
    foreign, options,
    secret::{self, HIDDEN},
    suggest,
};
use crate::setting::{Kind, Spec, Value};

/// Environment variables with our prefix that are not options: the name of the file.
const OTHER_VARIABLES: [&str; 1] = ["DSTL_CONFIG"];

/// Short name of the variable of `log.level`; the long name wins if both are set.
const LOG_VARIABLE: &str = "DSTL_LOG";

/// The sources of settings; later fields win.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, if there is one.
    pub file: Option<File>,
    /// The environment; variables without the prefix `DSTL_` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags in the order typed.
    pub flags: Vec<Flag>,
}

/// A configuration file.
#[derive(Debug, Clone)]
pub struct File {
    /// Its path, for faults.
    pub path: PathBuf,
    /// Its text, or the reason why it cannot be read.
    pub contents: Result<String, String>,
}

impl File {
    /// Reads the file at `path`; a failure becomes a fault of the configuration.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        Self { path: path.into(), contents: fs::read_to_string(path).map_err(|error| error.to_string()) }
    }
}

/// A flag of the command line that sets an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flag {
    /// `--set`, with its argument as typed.
    Set(String),
    /// A flag for one option.
    Named {
        /// The flag, such as `--socket`.
        name: &'static str,
        /// The option that it sets.
        key: &'static str,
        /// The argument of the flag.
        value: String,
    },
}

/// A setting with an allowed value.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) spec: &'static Spec,
    pub(super) value: Value,
    pub(super) quoted: Quoted,
}

/// All settings in order (a later one wins), and all faults.
#[derive(Debug, Default)]
pub(super) struct Typed {
    pub(super) settings: Vec<Setting>,
    pub(super) faults: Vec<Fault>,
    /// Whether settings are missing here because their file is unreadable.
    pub(super) incomplete: bool,
}

impl Typed {
    pub(super) fn read(sources: &Sources) -> Self {
        let mut typed = Self::default();
        if let Some(file) = &sources.file {
            typed.read_file(file);
        }
        typed.read_environment(&sources.environment);
        for flag in &sources.flags {
            typed.read_flag(flag);
        }
        typed
    }

    fn read_file(&mut self, file: &File) {
        let text = match &file.contents {
            Ok(text) => text,
            Err(reason) => {
                self.incomplete = true;
                return self.faults.push(Fault::Unreadable { path: file.path.clone(), reason: reason.clone() });
            }
        };
        let source = Text { path: &file.path, text };
        let (table, errors) = DeTable::parse_recoverable(text);
        // The table of a file with errors is a guess of the parser. Faults of its items would be confusing.
        if errors.is_empty() {
            let mut items = Vec::new();
            flatten("", table.get_ref(), &mut items);
            // The table is in order of names, and faults are listed in order of lines.
            items.sort_by_key(|(_, item)| item.span().start);
            return items.iter().for_each(|(key, item)| self.read_item(key, item, source));
        }
        self.incomplete = true;
        self.faults.extend(errors.iter().map(|error| {
            let origin = source.origin(&error.span().unwrap_or_default());
            Fault::Syntax { origin, reason: error.message().replace('\n', ", ") }
        }));
    }

    fn read_item(&mut self, key: &str, item: &Spanned<DeValue<'_>>, source: Text<'_>) {
        let origin = source.origin(&item.span());
        let spec = options::find(key);
        match (item.get_ref(), spec) {
            (DeValue::String(text), _) => self.add(key, text, origin),
            (DeValue::Array(items), Some(spec)) if matches!(spec.kind, Kind::Ids | Kind::Paths | Kind::Words(_)) => {
                let text = items.iter().map(|item| match item.get_ref() {
                    DeValue::String(text) => text,
                    _ => source.at(&item.span()),
                });
                let text = text.collect::<Vec<_>>().join(",");
                self.add(key, &text, origin);
            }
            (DeValue::Array(_), Some(spec)) => self.malformed(spec, source.at(&item.span()), origin),
            _ => self.add(key, source.at(&item.span()), origin),
        }
    }

    fn read_environment(&mut self, environment: &[(OsString, OsString)]) {
        let mut variables: Vec<_> = environment
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value)))
            .filter(|(name, _)| name.starts_with("DSTL_") && !OTHER_VARIABLES.contains(name) && !is_injected(name))
            .collect();
        // `DSTL_LOG` sorts before `DSTL_LOG_LEVEL`, so the longer name wins.
        variables.sort();
        for (name, value) in variables {
            let key = options::all().map(|spec| spec.key).find(|key| options::variable(key) == name);
            let Some(key) = key.or_else(|| (name == LOG_VARIABLE).then_some("log.level")) else {
                self.unknown_variable(name, &value.to_string_lossy());
                continue;
            };
            let origin = Origin::Environment(name.into());
            match (value.to_str(), options::find(key)) {
                (None, Some(spec)) => self.malformed(spec, &value.to_string_lossy(), origin),
                (text, _) => self.add(key, text.unwrap_or_default(), origin),
            }
        }
    }

    fn unknown_variable(&mut self, name: &str, value: &str) {
        let known: Vec<_> = options::all().map(|spec| options::variable(spec.key)).collect();
        let known = || known.iter().map(String::as_str);
        let misspelt = suggest::misspelt(name, known()).is_some();
        let fault = match foreign::variable(name, value, misspelt) {
            Some(fault) => fault,
            None => {
                Fault::UnknownVariable { name: name.into(), advice: suggest::nearest(name, known()).map(Into::into) }
            }
        };
        self.faults.push(fault);
    }

    fn read_flag(&mut self, flag: &Flag) {
        match flag {
            Flag::Named { name, key, value } => self.add(key, value, Origin::Flag((*name).into())),
            Flag::Set(text) => match text.split_once('=') {
                Some((key, value)) => self.add(key.trim(), value, Origin::Flag("--set".into())),
                None => self.faults.push(Fault::NotAssignment { text: secret::hide(text) }),
            },
        }
    }

    fn add(&mut self, key: &str, text: &str, origin: Origin) {
        let Some((spec, entry)) = options::find_with_entry(key) else {
            let known = || options::all().map(|spec| spec.key);
            let misspelt = suggest::misspelt(key, known()).is_some();
            // Ordering: Flink's names come before a suggestion, since their answer gives the text to write.
            let fault = foreign::key(key, text, &origin, misspelt).unwrap_or_else(|| {
                let advice = suggest::nearest(key, known()).map(Into::into);
                Fault::UnknownKey { key: key.into(), origin, advice }
            });
            return self.faults.push(fault);
        };
        let value = match entry {
            Some(entry) => Some(Value::Table([(entry.to_string(), text.to_string())].into())),
            None => spec.kind.parse(text),
        };
        match value {
            Some(value) => self.settings.push(Setting { spec, value, quoted: quote(spec, text, origin) }),
            None => match foreign::value(spec.key, text, &origin) {
                Some(fault) => self.faults.push(fault),
                None => self.malformed(spec, text, origin),
            },
        }
    }

    fn malformed(&mut self, spec: &'static Spec, text: &str, origin: Origin) {
        self.faults.push(Fault::Malformed { setting: quote(spec, text, origin), allowed: spec.kind.allowed() });
    }
}

/// Collects all values except tables, by their dotted keys.
fn flatten<'a, 'i>(prefix: &str, table: &'a DeTable<'i>, items: &mut Vec<(String, &'a Spanned<DeValue<'i>>)>) {
    for (name, item) in table {
        let name = name.get_ref();
        let key = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        match item.get_ref() {
            DeValue::Table(inner) => flatten(&key, inner, items),
            _ => items.push((key, item)),
        }
    }
}

fn quote(spec: &Spec, text: &str, origin: Origin) -> Quoted {
    let value = if spec.kind == (Kind::Table { secret: true }) { HIDDEN.into() } else { secret::hide(text) };
    Quoted { key: spec.key.into(), value, origin }
}

/// Whether Kubernetes or Docker sets this variable, for a service whose name begins with `dstl`.
fn is_injected(variable: &str) -> bool {
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.ends_with("_PORT")
        || variable.contains("_PORT_")
}

/// The text of a file, to quote from it and find line numbers.
#[derive(Clone, Copy)]
struct Text<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Text<'a> {
    /// The text as written.
    fn at(self, span: &Range<usize>) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    fn origin(self, span: &Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        Origin::File { path: self.path.into(), line: before.matches('\n').count() + 1 }
    }
}
