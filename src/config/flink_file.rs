//! Flink's configuration files: `config.yaml` (nested YAML, lists) and `flink-conf.yaml` (a line `key: value` for each
//! setting), as settings by dotted key, every value as it was written.
//!
//! A file is read as YAML. A file that is not YAML but consists of `key: value` lines is read line by line, as Flink
//! reads `flink-conf.yaml`; its values may have characters with a meaning in YAML.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Longest file in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Deepest nesting of tables and lists.
const MAX_DEPTH: usize = 64;

/// A setting in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FlinkSetting {
    /// Its dotted name.
    pub(super) key: String,
    /// The value; items of a list are joined by commas.
    pub(super) value: String,
    /// Its line, counted from 1.
    pub(super) line: usize,
}

/// A file that is not a configuration of Flink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The file is far too long.
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// The file is neither YAML nor `key: value` lines.
    #[error("line {line}: this is not YAML: {reason}")]
    Syntax {
        /// The line, counted from 1.
        line: usize,
        /// The message of the parser.
        reason: String,
    },
    /// The file is YAML, but not a table of settings.
    #[error("line {line}: {reason}")]
    Shape {
        /// The line, counted from 1.
        line: usize,
        /// A description of the fault.
        reason: &'static str,
    },
}

/// The settings of a file, in order; those without a value are left out, as in Flink.
pub(super) fn read(text: &str) -> Result<Vec<FlinkSetting>, Unusable> {
    if text.len() > MAX_BYTES {
        return Err(Unusable::TooLong);
    }
    // Only a file that is no YAML at all is read line by line. The fault of one that is YAML, and no table of settings,
    // is told as such.
    nested(text).or_else(|unusable| match unusable {
        Unusable::Syntax { .. } => flat(text).ok_or(unusable),
        _ => Err(unusable),
    })
}

/// The settings of a file that has only `key: value` lines; `None` if any line has another form.
fn flat(text: &str) -> Option<Vec<FlinkSetting>> {
    let mut settings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        if line.trim().is_empty() {
            continue;
        }
        let (key, value) = line.split_once(": ").or_else(|| Some((line.trim_end().strip_suffix(':')?, "")))?;
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) {
            return None;
        }
        let value = value.trim();
        if !value.is_empty() {
            settings.push(FlinkSetting { key: key.into(), value: value.into(), line: index + 1 });
        }
    }
    Some(settings)
}

/// The settings of a YAML file.
fn nested(text: &str) -> Result<Vec<FlinkSetting>, Unusable> {
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let syntax = |error: ScanError| Unusable::Syntax { line: error.marker().line(), reason: error.info().into() };
        let (event, span) = event.map_err(syntax)?;
        reader.take(event, span).map_err(|reason| Unusable::Shape { line: span.start.line(), reason })?;
    }
    Ok(reader.settings)
}

/// A table or a list that has begun.
#[derive(Debug)]
enum Open {
    /// A table, with the key whose value comes next.
    Table { key: Option<String> },
    /// A list, with the items so far.
    List { items: Vec<String>, line: usize },
}

/// The settings so far, and the place of the next event in the document.
#[derive(Debug, Default)]
struct Reader {
    open: Vec<Open>,
    documents: usize,
    anchors: HashMap<usize, String>,
    settings: Vec<FlinkSetting>,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), &'static str> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 { Err("a second document begins here; Flink reads one") } else { Ok(()) }
            }
            Event::MappingStart(..) => self.begin(Open::Table { key: None }),
            Event::SequenceStart(..) => self.begin(Open::List { items: vec![], line: span.start.line() }),
            Event::MappingEnd => {
                self.open.pop();
                self.end_value();
                Ok(())
            }
            Event::SequenceEnd => match self.open.pop() {
                Some(Open::List { items, line }) => self.scalar(items.join(","), line),
                _ => Ok(()),
            },
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let text = if plain && matches!(&*text, "~" | "null" | "Null" | "NULL") { "".into() } else { text };
                if anchor > 0 {
                    self.anchors.insert(anchor, text.to_string());
                }
                self.scalar(text.into_owned(), span.start.line())
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(text) => self.scalar(text, span.start.line()),
                None => Err("an alias of a table or a list; write it out"),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, opened: Open) -> Result<(), &'static str> {
        match (self.open.last(), &opened) {
            (None, Open::List { .. }) => return Err("this is a list, not a table of settings"),
            (Some(Open::Table { key: None }), _) => return Err("a key must be a word"),
            _ if self.open.len() >= MAX_DEPTH => return Err("this is nested too deep"),
            _ => {}
        }
        self.open.push(opened);
        Ok(())
    }

    /// Handles a scalar: a key, a value or an item.
    fn scalar(&mut self, text: String, line: usize) -> Result<(), &'static str> {
        let prefix = self.prefix();
        match self.open.last_mut() {
            None if text.is_empty() => Ok(()),
            None => Err("this is not a table of settings (`key: value`)"),
            Some(Open::List { items, .. }) => {
                items.push(text);
                Ok(())
            }
            Some(Open::Table { key: key @ None }) if !text.is_empty() => {
                *key = Some(text);
                Ok(())
            }
            Some(Open::Table { key: None }) => Err("a key must be a word"),
            Some(Open::Table { .. }) => {
                // A table in a list is an item without a name, which no option of dstl takes.
                if !text.is_empty() {
                    self.settings.push(FlinkSetting { key: prefix, value: text, line });
                }
                self.end_value();
                Ok(())
            }
        }
    }

    /// The next scalar in the innermost table is a key.
    fn end_value(&mut self) {
        if let Some(Open::Table { key }) = self.open.last_mut() {
            *key = None;
        }
    }

    fn prefix(&self) -> String {
        let keys = self.open.iter().filter_map(|open| match open {
            Open::Table { key } => key.as_deref(),
            Open::List { .. } => Some("[]"),
        });
        keys.collect::<Vec<_>>().join(".")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String, usize)> {
        read(text).unwrap().into_iter().map(|it| (it.key, it.value, it.line)).collect()
    }

    fn pair(key: &str, value: &str, line: usize) -> (String, String, usize) {
        (key.into(), value.into(), line)
    }

    #[test]
    fn nested_tables_lists_and_dotted_keys_are_the_same_settings() {
        let text = "# a comment\nstate:\n  backend:\n    type: rocksdb\n    rocksdb.localdir: [/a, '/b']\n\
                    env.list:\n  - 1\n  - two # more\nempty:\nnothing: ~\nstate.changelog.enabled: \"true\"\n";
        let expected = [
            pair("state.backend.type", "rocksdb", 4),
            pair("state.backend.rocksdb.localdir", "/a,/b", 5),
            pair("env.list", "1,two", 7),
            pair("state.changelog.enabled", "true", 11),
        ];
        assert_eq!(pairs(text), expected);
    }

    #[test]
    fn values_stay_as_written() {
        let text = "a: 1.10\nb: 0x10\nc: yes\nd: 10 min\ne: '~'\nf: s3://bucket/path\n";
        let values: Vec<_> = pairs(text).into_iter().map(|(_, value, _)| value).collect();
        assert_eq!(values, ["1.10", "0x10", "yes", "10 min", "~", "s3://bucket/path"]);
    }

    #[test]
    fn lines_that_are_no_yaml_are_read_as_flink_reads_them() {
        let text = "env.java.opts: -Da=b: -Dc # note\nstate.backend: filesystem\nstate.x: @home\nstate.y:\n\n";
        let expected = [
            pair("env.java.opts", "-Da=b: -Dc", 1),
            pair("state.backend", "filesystem", 2),
            pair("state.x", "@home", 3),
        ];
        assert_eq!(pairs(text), expected);
    }

    #[test]
    fn aliases_of_words_are_followed() {
        assert_eq!(pairs("a: &it x\nb: *it\n"), [pair("a", "x", 1), pair("b", "x", 2)]);
    }

    #[test]
    fn tables_in_lists_have_no_names_of_options() {
        assert_eq!(
            pairs("a:\n  - b: 1\n    c: 2\nd: 3\n"),
            [pair("a.[].b", "1", 2), pair("a.[].c", "2", 3), pair("d", "3", 4)]
        );
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_line() {
        for (text, line, part) in [
            ("- a\n- b\n", 1, "a list"),
            ("just words\n", 1, "not a table"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: [1, 2\n  b: {\n", 2, "not YAML"),
            ("? [a]\n: b\n", 1, "a key must be a word"),
            ("a: &x {b: 1}\nc: *x\n", 2, "an alias"),
            (&format!("a: {}", "[".repeat(80)), 1, "nested too deep"),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(said.starts_with(&format!("line {line}: ")) && said.contains(part), "{text}: {said}");
        }
        assert_eq!(read(&" ".repeat(MAX_BYTES + 1)), Err(Unusable::TooLong));
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("# nothing set\n"), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "([a-z.]{1,4}|[\\[\\]{}:,&*!|>'\"%@#\\-? \\n~]|: |\\n  |PC){0,40}") {
            let _ = read(&text);
        }
    }
}
