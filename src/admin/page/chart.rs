//! The charts of the status page, as inline SVG: bars and lines without scripts. Colours come from the page's style.

use std::fmt::{self, Write as _};

use super::{Escaped, words};
use crate::admin::snapshot::{CheckpointFigures, Moment};

/// Size of the chart of checkpoints, in its own units.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 64.0;

/// Most bars of the chart of checkpoints.
const BARS: usize = 40;

/// Gap between two bars.
const GAP: f64 = 2.0;

/// The durations of the newest checkpoints, oldest first, as bars of three phases. A failed checkpoint is a bar of full
/// height in another colour.
pub(super) fn checkpoints(out: &mut String, checkpoints: &[CheckpointFigures]) -> fmt::Result {
    let shown = checkpoints.get(checkpoints.len().saturating_sub(BARS)..).unwrap_or_default();
    let longest = shown.iter().map(CheckpointFigures::total_ms).fold(1.0, f64::max);
    let failed = shown.iter().filter(|checkpoint| !checkpoint.fault.is_empty()).count();
    write!(
        out,
        "<svg class=\"checkpoints\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>The newest {} checkpoints: the \
         longest took {}, {failed} failed</title><line x1=\"0\" x2=\"{WIDTH}\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\" \
         stroke=\"var(--line)\"/>",
        shown.len(),
        words::time(longest),
    )?;
    #[allow(clippy::cast_precision_loss, reason = "there are few bars")]
    let pitch = WIDTH / BARS as f64;
    // The newest is at the right edge.
    let mut left = WIDTH - pitch * f64::from(u32::try_from(shown.len()).unwrap_or(0));
    for checkpoint in shown {
        write!(out, "<g><title>{}</title>", Escaped(&told(checkpoint)))?;
        if checkpoint.fault.is_empty() {
            let mut bottom = HEIGHT;
            for (ms, colour) in
                [(checkpoint.sync_ms, "sync"), (checkpoint.persist_ms, "persist"), (checkpoint.publish_ms, "publish")]
            {
                let height = HEIGHT * ms / longest;
                bottom -= height;
                Bar { x: left, y: bottom, width: pitch - GAP, height }.draw(out, colour)?;
            }
        } else {
            Bar { x: left, y: 0.0, width: pitch - GAP, height: HEIGHT }.draw(out, "bad")?;
        }
        out.write_str("</g>")?;
        left += pitch;
    }
    out.write_str("</svg>")
}

fn told(checkpoint: &CheckpointFigures) -> String {
    if checkpoint.fault.is_empty() {
        let total = words::time(checkpoint.total_ms());
        format!("checkpoint {}: {total}, {} of changelog", checkpoint.id, words::bytes(checkpoint.bytes))
    } else {
        format!("checkpoint {} failed: {}", checkpoint.id, checkpoint.fault)
    }
}

/// A bar of a chart, in the units of the chart. Its corner at `x` and `y` is the upper left one.
struct Bar {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Bar {
    /// Draws the bar in a colour of the page's style.
    fn draw(&self, out: &mut String, colour: &str) -> fmt::Result {
        let Self { x, y, width, height } = self;
        write!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"var(--{colour})\"/>"
        )
    }
}

/// Two amounts as parts of one bar.
pub(super) fn parts(out: &mut String, title: &str, parts: [(u64, &str); 2]) -> fmt::Result {
    #[allow(clippy::cast_precision_loss, reason = "a bar has some hundred pixels")]
    let widths = parts.map(|(amount, colour)| (amount as f64, colour));
    let total = widths.iter().map(|(amount, _)| amount).sum::<f64>().max(1.0);
    write!(
        out,
        "<svg class=\"parts\" viewBox=\"0 0 {WIDTH} 10\" preserveAspectRatio=\"none\" role=\"img\"><title>{}</title>\
         <rect width=\"{WIDTH}\" height=\"10\" fill=\"var(--line)\"/>",
        Escaped(title)
    )?;
    let mut left = 0.0;
    for (amount, colour) in widths {
        Bar { x: left, y: 0.0, width: WIDTH * amount / total, height: 10.0 }.draw(out, colour)?;
        left += WIDTH * amount / total;
    }
    out.write_str("</svg>")
}

/// A line over the last minutes, with the value of `read` for each moment.
pub(super) fn line(out: &mut String, title: &str, history: &[Moment], read: impl Fn(&Moment) -> f64) -> fmt::Result {
    let highest = history.iter().map(&read).fold(f64::MIN_POSITIVE, f64::max);
    write!(out, "<svg class=\"line\" viewBox=\"0 0 120 24\" role=\"img\"><title>{}</title>", Escaped(title))?;
    out.write_str("<polyline fill=\"none\" stroke=\"var(--persist)\" stroke-width=\"1.5\" points=\"")?;
    let first = 120 - history.len().min(120);
    for (moment, x) in history.iter().rev().take(120).rev().zip(first..) {
        write!(out, "{x},{:.1} ", 23.0 - 22.0 * read(moment) / highest)?;
    }
    out.write_str("\"/></svg>")
}
