//! The status page: one HTML document without scripts and without anything to load.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use serde_json::{Map, Value};

use super::ReadinessState;

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>dstl</title>\n<style>\
body{font:14px/1.5 system-ui,sans-serif;margin:2em;color:#222}\
table{border-collapse:collapse;margin:.3em 0}\
th,td{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}\
th{background:#f3f3f3;font-weight:600}\
</style></head><body>\n<h1>dstl</h1>\n";

const TAIL: &str = "\n<p><a href=\"/metrics\">metrics</a> · <a href=\"/live\">live</a> · <a href=\"/ready\">ready</a></p>\n\
                    </body></html>\n";

/// Deepest nesting that is shown as tables; deeper values are shown as JSON.
const MAX_DEPTH: usize = 4;

/// The page that shows `status`: objects become tables of facts, arrays of objects become tables of rows, other values
/// text.
pub(super) fn render(readiness: ReadinessState, status: &Value) -> String {
    let mut page = String::from(HEAD);
    let written = writeln!(page, "<p>{readiness}</p>").and_then(|()| put_value(&mut page, status, MAX_DEPTH));
    written.expect("writing to a string cannot fail");
    page.push_str(TAIL);
    page
}

fn put_value(page: &mut String, value: &Value, depth: usize) -> fmt::Result {
    match value {
        Value::Null => Ok(()),
        Value::String(text) => put_text(page, text),
        Value::Object(facts) if depth > 0 => put_facts(page, facts, depth - 1),
        Value::Array(rows) if depth > 0 => match objects(rows) {
            Some(rows) => put_rows(page, &rows, depth - 1),
            None => rows.iter().enumerate().try_for_each(|(i, row)| {
                page.write_str(if i == 0 { "" } else { ", " })?;
                put_value(page, row, depth - 1)
            }),
        },
        other => put_text(page, &other.to_string()),
    }
}

/// The rows as objects, if there are any and all of them are objects.
fn objects(rows: &[Value]) -> Option<Vec<&Map<String, Value>>> {
    if rows.is_empty() { None } else { rows.iter().map(Value::as_object).collect() }
}

fn put_facts(page: &mut String, facts: &Map<String, Value>, depth: usize) -> fmt::Result {
    page.write_str("<table>")?;
    for (name, value) in facts {
        page.write_str("<tr><th>")?;
        put_text(page, name)?;
        page.write_str("</th><td>")?;
        put_value(page, value, depth)?;
        page.write_str("</td></tr>\n")?;
    }
    page.write_str("</table>")
}

fn put_rows(page: &mut String, rows: &[&Map<String, Value>], depth: usize) -> fmt::Result {
    let columns: BTreeSet<&String> = rows.iter().flat_map(|row| row.keys()).collect();
    page.write_str("<table><tr>")?;
    for column in &columns {
        page.write_str("<th>")?;
        put_text(page, column)?;
        page.write_str("</th>")?;
    }
    page.write_str("</tr>\n")?;
    for row in rows {
        page.write_str("<tr>")?;
        for column in &columns {
            page.write_str("<td>")?;
            put_value(page, row.get(*column).unwrap_or(&Value::Null), depth)?;
            page.write_str("</td>")?;
        }
        page.write_str("</tr>\n")?;
    }
    page.write_str("</table>")
}

fn put_text(page: &mut String, text: &str) -> fmt::Result {
    for character in text.chars() {
        match character {
            '&' => page.write_str("&amp;"),
            '<' => page.write_str("&lt;"),
            '>' => page.write_str("&gt;"),
            '"' => page.write_str("&quot;"),
            '\'' => page.write_str("&#39;"),
            other => page.write_char(other),
        }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_of_objects_are_tables_with_every_column() {
        let page = render(
            ReadinessState::Ready,
            &json!({ "version": "1", "backends": [{ "job": "a", "subtask": 1 }, { "job": "b", "sqns": [1, 2] }] }),
        );
        assert!(page.contains("<tr><th>version</th><td>1</td></tr>"), "{page}");
        assert!(page.contains("<tr><th>job</th><th>sqns</th><th>subtask</th></tr>"), "{page}");
        assert!(page.contains("<tr><td>a</td><td></td><td>1</td></tr>"), "{page}");
        assert!(page.contains("<tr><td>b</td><td>1, 2</td><td></td></tr>"), "{page}");
        assert!(page.contains("<p>ready</p>"), "{page}");
    }

    #[test]
    fn names_cannot_become_markup() {
        let page = render(ReadinessState::Starting, &json!({ "<b>": "<script>alert('x' & \"y\")</script>" }));
        assert!(page.contains("&lt;b&gt;"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)&lt;/script&gt;"), "{page}");
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn deep_nesting_ends_as_text() {
        let mut status = json!("end");
        for _ in 0..100 {
            status = json!({ "in": status });
        }
        let page = render(ReadinessState::Ready, &status);
        assert_eq!(page.matches("<table>").count(), MAX_DEPTH);
        assert!(page.contains("&quot;end&quot;"));
    }
}
