//! The table of options for people and scripts: a listing, JSON, and a commented example file.

use std::fmt::Write as _;

use serde::Serialize;

use super::options;
use crate::setting::{Default, Kind};

/// Longest line of a listing in columns.
const WIDTH: usize = 100;

/// One option as scripts see it.
#[derive(Debug, Serialize)]
pub struct OptionRow {
    /// Its dotted name.
    pub key: &'static str,
    /// The heading of its section.
    pub section: &'static str,
    /// One word for its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The allowed values, in words.
    pub allowed: String,
    /// Its default, or how the default is computed.
    pub default: &'static str,
    /// Its environment variable.
    pub environment: String,
    /// The meaning of the option.
    pub description: &'static str,
}

/// Every option, in the order of the table.
#[must_use]
pub fn option_rows() -> Vec<OptionRow> {
    let rows = options::all().map(|spec| OptionRow {
        key: spec.key,
        section: spec.section.title(),
        kind: spec.kind.name(),
        allowed: spec.kind.allowed(),
        default: spec.default.describe(),
        environment: options::variable(spec.key),
        description: spec.doc,
    });
    rows.collect()
}

/// Every option for people, by section.
#[must_use]
pub fn list() -> String {
    let mut out = String::new();
    let mut section = "";
    for row in option_rows() {
        if row.section != section {
            section = row.section;
            out.push_str(&format!("{}{section}\n", if out.is_empty() { "" } else { "\n" }));
        }
        let default = if row.default.is_empty() { "(empty)" } else { row.default };
        let _ = write!(out, "\n  {}\n", row.key);
        for text in [row.description.to_string(), format!("Allowed: {}.", row.allowed)] {
            wrap(&mut out, "      ", &text);
        }
        let _ = writeln!(out, "      Default: {default}\n      Environment: {}", row.environment);
    }
    out
}

/// Every option as a JSON array of [`OptionRow`], with a final line break.
#[must_use]
pub fn list_json() -> String {
    let mut json = serde_json::to_string_pretty(&option_rows()).expect("rows are plain strings");
    json.push('\n');
    json
}

/// A configuration file in which every option is named, explained and commented out, with its default.
#[must_use]
pub fn example() -> String {
    let mut out = String::from(
        "# Configuration of dstl. Every option is shown with its default; remove the `#` before one to set it.\n\
         #\n\
         # An environment variable (DSTL_, then the name in upper case with `_` for dots and dashes) wins over this file,\n\
         # a flag (`--set name=value`) over both. `dstl config check --config FILE` names everything that is wrong.\n",
    );
    let mut section = None;
    for spec in options::all() {
        if section != Some(spec.section) {
            section = Some(spec.section);
            let _ = write!(out, "\n# ---- {} ----\n", spec.section.title());
        }
        out.push('\n');
        wrap(&mut out, "# ", spec.doc);
        wrap(&mut out, "# ", &format!("Allowed: {}.", spec.kind.allowed()));
        let default = match spec.default {
            Default::Text(text) => text,
            Default::Computed { how, for_root } => {
                wrap(&mut out, "# ", &format!("Default: {how}."));
                for_root
            }
        };
        let _ = writeln!(out, "#{} = {}", spec.key, literal(spec.kind, default));
    }
    out
}

/// `text` as a TOML value of this type.
pub(super) fn literal(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Flag | Kind::Integer { .. } | Kind::Ratio => text.into(),
        Kind::Ids => format!("[{text}]"),
        Kind::Paths | Kind::Words(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(quoted);
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Kind::Table { .. } => "{}".into(),
        _ => quoted(text),
    }
}

/// `text` as a TOML string of one line.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Appends `text` in lines that begin with `prefix`.
pub(super) fn wrap(out: &mut String, prefix: &str, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        }
        out.push_str(if column == 0 { prefix } else { " " });
        column += length + if column == 0 { prefix.len() } else { 1 };
        out.push_str(word);
    }
    out.push('\n');
}
