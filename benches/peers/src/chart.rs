//! The chart of `update`: a bar for each system, with the least and the most of its rounds, as SVG for dark and light
//! pages.

use std::fmt::Write as _;

use super::{
    Parameters, Work,
    report::{Outcome, Report},
    system::Place,
};

/// Sizes in pixels.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 310.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 52.0;
const ROW: f64 = 26.0;
const BAR: f64 = 16.0;
const HEADING: f64 = 30.0;
const FOOT_LINE: f64 = 17.0;

/// So many characters of the foot fit into the width.
const FOOT_CHARACTERS: usize = 150;

const STYLE: &str = "\
  <style>
    text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328; }
    .title { font-size: 16px; font-weight: 600; }
    .heading { font-weight: 600; }
    .foot { font-size: 11px; fill: #59636e; }
    .dstl { fill: #0969da; }
    .peer { fill: #8c959f; }
    .spread { stroke: #1f2328; stroke-width: 1.5; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .foot { fill: #9198a1; }
      .dstl { fill: #4493f8; }
      .peer { fill: #656c76; }
      .spread { stroke: #f0f6fc; }
    }
  </style>
";

/// Draws the results of `update`.
pub(crate) fn draw(report: &Report) -> String {
    let places = [Place::Memory, Place::Disk];
    let most = places.iter().flat_map(|place| report.of(Work::Update, *place));
    let most = most.map(|result| result.operations_per_second.max).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let mut body = String::new();
    let mut y = TOP;
    for place in places {
        if report.of(Work::Update, place).next().is_none() {
            continue;
        }
        y += HEADING;
        text(&mut body, "heading", (0.0, y - 10.0), place.title());
        for result in report.of(Work::Update, place) {
            row(&mut body, y, scale, result);
            y += ROW;
        }
    }
    y += FOOT_LINE;
    for line in foot(report).iter().flat_map(|text| wrapped(text)) {
        text(&mut body, "foot", (0.0, y), &line);
        y += FOOT_LINE;
    }
    let title = "Updates a second of one task, durable each second";
    let mut svg = String::new();
    // Writing into memory cannot fail.
    let _ = writeln!(svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\"");
    let _ = writeln!(svg, "  width=\"{WIDTH}\" height=\"{y}\" role=\"img\" aria-label=\"{title}\">");
    svg.push_str(STYLE);
    text(&mut svg, "title", (0.0, 20.0), title);
    let Parameters { keys, value_bytes, batch, .. } = &report.parameters;
    let keys = thousands(*keys);
    let detail =
        format!("{keys} keys of 8 bytes, uniform; {value_bytes}-byte incompressible values; batches of {batch}.");
    text(&mut svg, "foot", (0.0, 40.0), &detail);
    svg.push_str(&body);
    svg.push_str("</svg>\n");
    svg
}

/// The bar of one system, its name before it and its figures behind it.
fn row(body: &mut String, y: f64, scale: f64, result: &Outcome) {
    let rate = &result.operations_per_second;
    let class = if result.system.is_dstl() { "dstl" } else { "peer" };
    let (name, version) = (result.system.title(), &result.version);
    let name =
        if result.system.is_dstl() || version.is_empty() { name.to_owned() } else { format!("{name} {version}") };
    let (middle, baseline) = (y + BAR / 2.0, y + BAR - 3.0);
    text(body, "name", (0.0, baseline), &name);
    let _ = writeln!(
        body,
        "  <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
        rate.median * scale
    );
    let (from, to) = (LEFT + rate.min * scale, LEFT + rate.max * scale);
    let _ = writeln!(
        body,
        "  <line class=\"spread\" x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\"/>"
    );
    let mut figures = format!("{:.2} M/s", rate.median / 1e6);
    if let Some(ratio) = result.dstl_is() {
        let _ = write!(figures, " (dstl: {ratio:.1} x)");
    }
    text(body, "figures", (to + 8.0, baseline), &figures);
}

/// How to read the picture, what is not in it, how durable the systems are, and where the figures come from.
fn foot(report: &Report) -> Vec<String> {
    let left_out: Vec<_> = report.left_out(Work::Update).map(|left_out| left_out.title()).collect();
    let rounds = report.rounds;
    let mut lines = vec![format!("Bars are medians of {rounds} rounds; lines show the least and the most of them.")];
    if !left_out.is_empty() {
        lines.push(format!("Left out: {}.", left_out.join("; ")));
    }
    let durable = "dstl, Redis, SlateDB and RocksDB sync their files. Flink does not sync checkpoints on a local disk.";
    lines.push(format!("{durable} The wire alone is durable nowhere."));
    lines.push(report.machine.line());
    lines
}

/// The words of `text` on lines that fit into the picture.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + word.len() < FOOT_CHARACTERS => _ = write!(line, " {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "  <text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{escaped}</text>");
}

/// A number with its thousands apart.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!([7, 1_000, 10_000_000].map(thousands), ["7", "1,000", "10,000,000"]);
    }

    #[test]
    fn long_lines_are_wrapped_between_words() {
        let text = "word ".repeat(60);
        let lines = wrapped(text.trim_end());
        assert_eq!(lines.join(" "), text.trim_end());
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= FOOT_CHARACTERS), "{lines:?}");
    }
}
