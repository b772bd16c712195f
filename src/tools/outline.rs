//! The result of a tool, as text for people or JSON for programs.
//!
//! ```text
//!   backend: wc/count/0
//!   key groups: 0-127
//!   checkpoints:
//!     - id 1, completed yes
//!     - id 2, completed no
//! ```

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};

/// A value, a list or named fields in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// No value: `none` in text, `null` in JSON.
    None,
    /// A boolean: `yes` or `no` in text.
    Bool(bool),
    /// A whole number, not negative.
    Number(u64),
    /// A number that may be negative.
    Signed(i64),
    /// Any other value, as text.
    Text(String),
    /// Several values of one kind, in order.
    List(Vec<Node>),
    /// Named parts; names are in snake case, which text shows with spaces.
    Fields(Vec<(&'static str, Node)>),
}

impl Node {
    /// The text that `value` displays.
    pub fn text(value: impl fmt::Display) -> Self {
        Self::Text(value.to_string())
    }

    /// A list of `nodes`.
    pub fn list(nodes: impl IntoIterator<Item = Self>) -> Self {
        Self::List(nodes.into_iter().collect())
    }

    /// The value as JSON. Fields become an object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(value) => (*value).into(),
            Self::Signed(value) => (*value).into(),
            Self::Text(value) => value.as_str().into(),
            Self::List(nodes) => nodes.iter().map(Self::to_json).collect(),
            Self::Fields(fields) => Value::Object(
                fields.iter().map(|(name, node)| ((*name).to_owned(), node.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// The value as lines of text. The last line is ended, too.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    /// Whether the value fits into one line.
    fn is_flat(&self) -> bool {
        match self {
            Self::List(nodes) => nodes.iter().all(Self::is_scalar),
            Self::Fields(fields) => fields.iter().all(|(_, node)| node.is_scalar()),
            _ => true,
        }
    }

    fn is_scalar(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Fields(_))
    }

    fn inline(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
            Self::Number(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Text(value) => value.clone(),
            Self::List(nodes) if nodes.is_empty() => "none".to_owned(),
            Self::List(nodes) => nodes.iter().map(Self::inline).collect::<Vec<_>>().join(", "),
            Self::Fields(fields) => {
                let fields = fields.iter().map(|(name, node)| format!("{} {}", spaced(name), node.inline()));
                fields.collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn write(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        match self {
            Self::Fields(fields) => {
                for (name, node) in fields {
                    let is_line = node.is_scalar() || (matches!(node, Self::List(_)) && node.is_flat());
                    if is_line {
                        push_line(out, format_args!("{indent}{}: {}", spaced(name), node.inline()));
                    } else {
                        push_line(out, format_args!("{indent}{}:", spaced(name)));
                        node.write(out, depth + 1);
                    }
                }
            }
            Self::List(nodes) => {
                for node in nodes {
                    if node.is_flat() {
                        push_line(out, format_args!("{indent}- {}", node.inline()));
                    } else {
                        let mut item = String::new();
                        node.write(&mut item, depth + 1);
                        // The first line of the item stands behind the dash, which is as wide as one step of the
                        // indent.
                        let body = item.get(indent.len() + 2..).unwrap_or_default();
                        out.push_str(&indent);
                        out.push_str("- ");
                        out.push_str(body);
                    }
                }
            }
            scalar => push_line(out, format_args!("{indent}{}", scalar.inline())),
        }
    }
}

fn push_line(out: &mut String, line: fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("a string grows");
}

fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

impl From<u64> for Node {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<i64> for Node {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<u32> for Node {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<bool> for Node {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_nested_fields_and_lists() {
        let item = |id: u64, done: bool| Node::Fields(vec![("id", id.into()), ("is_done", done.into())]);
        let deep = Node::Fields(vec![("id", 3_u64.into()), ("parts", Node::list([item(4, true)]))]);
        let node = Node::Fields(vec![
            ("the_name", Node::text("x")),
            ("nothing", Node::List(vec![])),
            ("numbers", Node::list([Node::Number(1), Node::Number(2)])),
            ("items", Node::list([item(1, true), item(2, false), deep])),
        ]);
        let text = "the name: x\nnothing: none\nnumbers: 1, 2\nitems:\n  - id 1, is done yes\n  - id 2, is done no\n  - id: 3\n    parts:\n      - id 4, is done yes\n";
        assert_eq!(node.to_text(), text);
        let json = r#"{"items":[{"id":1,"is_done":true},{"id":2,"is_done":false},{"id":3,"parts":[{"id":4,"is_done":true}]}],"nothing":[],"numbers":[1,2],"the_name":"x"}"#;
        assert_eq!(node.to_json().to_string(), json);
    }
}
