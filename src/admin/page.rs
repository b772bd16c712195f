//! The status page: one HTML document with its style and charts in it, without scripts and without anything to load.
//! The browser asks for it again every few seconds.
//!
//! Every text that comes from a snapshot goes through [`Escaped`]: a name cannot become markup.

mod chart;

use std::fmt::{self, Display, Write as _};

use super::{
    snapshot::{BackendFigures, ErrorFigures, Moment, Snapshot, StoreFigures},
    words,
};

const STYLE: &str = include_str!("page/style.css");

/// Seconds between two versions of the page in a browser.
const REFRESH_SECONDS: u32 = 3;

/// Most backends that are shown; those in trouble come first.
const BACKENDS: usize = 60;

/// Figures of a backend that are older than this are marked.
const STALE_MS: u64 = 5_000;

/// A text as the content of an element or an attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => f.write_char(other),
        })
    }
}

/// The page that shows `snapshot`.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut page = String::with_capacity(16 << 10);
    put_page(&mut page, snapshot).expect("writing to a string cannot fail");
    page
}

fn put_page(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>dstl</title>\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=\"refresh\" content=\"{REFRESH_SECONDS}\">\n<style>{STYLE}</style></head><body>\n"
    )?;
    let readiness = if snapshot.readiness == "ready" { "good" } else { "warn" };
    writeln!(
        out,
        "<header><h1>dstl</h1><span class=\"chip {readiness}\">{}</span><span class=\"soft\">version {}, up {}, figures of \
         {} UTC, instance {}</span></header>",
        Escaped(&snapshot.readiness),
        Escaped(&snapshot.version),
        words::time(words::float(snapshot.uptime_ms)),
        words::moment(snapshot.at_ms, snapshot.at_ms),
        Escaped(&snapshot.instance),
    )?;
    put_tiles(out, snapshot)?;
    put_backends(out, snapshot)?;
    put_store(out, &snapshot.store)?;
    put_errors(out, snapshot)?;
    out.write_str(
        "<footer class=\"soft\"><a href=\"/status\">these figures as JSON</a> · <a href=\"/metrics\">metrics</a> · \
         <a href=\"/live\">live</a> · <a href=\"/ready\">ready</a></footer>\n</body></html>\n",
    )
}

fn put_tiles(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let Snapshot { rates, backends, store, .. } = snapshot;
    let history = snapshot.history.as_slice();
    let pending = backends.iter().map(|backend| backend.pending_bytes).fold(0, u64::saturating_add);
    let requests: f64 = store.operations.iter().map(|operation| operation.per_hour).sum();
    out.write_str("<section class=\"tiles\" id=\"tiles\">\n")?;
    put_tile(out, "backends", &backends.len().to_string(), None)?;
    let read: fn(&Moment) -> f64 = |moment| moment.rates.batches;
    put_tile(out, "batches a second", &words::count(rates.batches), Some((history, read)))?;
    let read: fn(&Moment) -> f64 = |moment| moment.rates.operations;
    put_tile(out, "operations a second", &words::count(rates.operations), Some((history, read)))?;
    let appended = words::bytes(words::whole(rates.appended_bytes));
    let read: fn(&Moment) -> f64 = |moment| moment.rates.appended_bytes;
    put_tile(out, "changelog a second", &appended, Some((history, read)))?;
    let read: fn(&Moment) -> f64 = |moment| words::float(moment.pending_bytes);
    put_tile(out, "not yet durable", &words::bytes(pending), Some((history, read)))?;
    put_tile(out, "store requests an hour", &words::count(requests), None)?;
    put_tile(out, "their price an hour", &words::price(store.price_per_hour, &store.currency), None)?;
    out.write_str("</section>\n")
}

type Line<'a> = (&'a [Moment], fn(&Moment) -> f64);

fn put_tile(out: &mut String, name: &str, value: &str, line: Option<Line<'_>>) -> fmt::Result {
    write!(out, "<div class=\"tile\"><small>{name}</small><b>{}</b>", Escaped(value))?;
    if let Some((history, read)) = line {
        chart::line(out, &format!("{name}, the last two minutes"), history, read)?;
    }
    out.write_str("</div>\n")
}

fn put_backends(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    writeln!(out, "<h2>Backends</h2>")?;
    if snapshot.backends.is_empty() {
        return out.write_str("<p class=\"soft\">None is open.</p>\n");
    }
    out.write_str(
        "<p class=\"soft\">Checkpoints: <span class=\"key\" style=\"background:var(--sync)\"></span>sync \
         <span class=\"key\" style=\"background:var(--persist)\"></span>persist \
         <span class=\"key\" style=\"background:var(--publish)\"></span>publish \
         <span class=\"key\" style=\"background:var(--bad)\"></span>failed. Stored: \
         <span class=\"key\" style=\"background:var(--base)\"></span>materialized \
         <span class=\"key\" style=\"background:var(--log)\"></span>changelog.</p>\n<section class=\"cards\" id=\"backends\">\n",
    )?;
    let mut backends: Vec<&BackendFigures> = snapshot.backends.iter().collect();
    // The sort is stable, so backends in equal trouble stay in order of their names.
    backends.sort_by_key(|backend| std::cmp::Reverse(trouble(backend)));
    for backend in backends.iter().take(BACKENDS) {
        put_backend(out, backend, snapshot.at_ms)?;
    }
    out.write_str("</section>\n")?;
    match backends.len().checked_sub(BACKENDS) {
        Some(more @ 1..) => {
            writeln!(out, "<p class=\"soft\">And {more} more: <a href=\"/status\">all as JSON</a>.</p>")
        }
        _ => Ok(()),
    }
}

/// How much a backend needs to be looked at; 0 if all is well.
fn trouble(backend: &BackendFigures) -> u8 {
    let is_unproved = backend.verified.as_ref().is_some_and(|verified| !verified.fault.is_empty());
    match backend.phase.as_str() {
        "failsafe" => 3,
        _ if is_unproved => 2,
        "pushed back" | "unknown" => 1,
        _ => u8::from(backend.checkpoints.last().is_some_and(|newest| !newest.fault.is_empty())),
    }
}

fn put_backend(out: &mut String, backend: &BackendFigures, now_ms: u64) -> fmt::Result {
    let class = match backend.phase.as_str() {
        "writing" => "good",
        "failsafe" | "ended" => "bad",
        "pushed back" | "unknown" | "closing" => "warn",
        _ => "calm",
    };
    write!(
        out,
        "<article class=\"card\"><div><h3>{}</h3><span class=\"chip {class}\">{}</span></div>\
         <small>{}{}, attempt {}, epoch {}</small>",
        Escaped(&backend.name),
        Escaped(&backend.phase),
        Escaped(&backend.inner),
        if backend.changelog { " with changelog" } else { " without changelog" },
        backend.attempt,
        backend.epoch,
    )?;
    let age = now_ms.saturating_sub(backend.at_ms);
    if backend.at_ms > 0 && age > STALE_MS {
        let age = words::time(words::float(age));
        write!(out, "<p class=\"warn\">It is in use without a gap: these figures are {age} old.</p>")?;
    }
    if !backend.failsafe.is_empty() {
        write!(out, "<p class=\"bad\">Refuses writes: {}</p>", Escaped(&backend.failsafe))?;
    }
    if backend.materialization_failures > 0 {
        let failures = backend.materialization_failures;
        write!(out, "<p class=\"warn\">{failures} materializations failed in a row.</p>")?;
    }
    chart::checkpoints(out, &backend.checkpoints)?;
    put_facts(out, backend, now_ms)?;
    let stored = format!(
        "{} materialized, {} of changelog",
        words::bytes(backend.materialized_bytes),
        words::bytes(backend.log_bytes)
    );
    chart::parts(out, &stored, [(backend.materialized_bytes, "base"), (backend.log_bytes, "log")])?;
    out.write_str("</article>\n")
}

fn put_facts(out: &mut String, backend: &BackendFigures, now_ms: u64) -> fmt::Result {
    let ago = |at_ms: u64| words::time(words::float(now_ms.saturating_sub(at_ms)));
    let durations = backend.checkpoints.iter().rev().find(|checkpoint| checkpoint.fault.is_empty());
    let newest = match backend.newest {
        Some(newest) => format!("{}, {} ago", newest.id, ago(newest.triggered_at_ms)),
        None => "none yet".to_owned(),
    };
    let verified = match &backend.verified {
        Some(it) if it.fault.is_empty() => {
            let took = words::time(words::float(it.took_ms));
            format!("{took} (checkpoint {}, {}, {} ago)", it.id, words::bytes(it.bytes), ago(it.at_ms))
        }
        Some(it) => format!("FAILED {} ago: {}", ago(it.at_ms), it.fault),
        None => "not yet".to_owned(),
    };
    let batches = |to: u64| words::count(words::float(to));
    let batches = format!(
        "{} applied, {} persisted, {} confirmed",
        batches(backend.applied_to),
        batches(backend.persisted_to),
        batches(backend.confirmed_to)
    );
    out.write_str("<dl>")?;
    for (name, value) in [
        ("batches a second", words::count(backend.batches_per_second)),
        ("newest checkpoint", newest),
        ("it took", durations.map_or_else(|| "unknown".to_owned(), |newest| words::time(newest.total_ms()))),
        ("retained, in flight", format!("{}, {}", backend.retained, backend.in_flight)),
        ("batches", batches),
        ("state in memory", words::bytes(backend.state_bytes)),
        ("not yet durable", words::bytes(backend.pending_bytes)),
        ("materialized", words::bytes(backend.materialized_bytes)),
        ("changelog", words::bytes(backend.log_bytes)),
        ("replay, estimated", words::time(words::float(backend.replay_ms))),
        ("recovery, verified", verified),
    ] {
        write!(out, "<dt>{name}</dt><dd>{}</dd>", Escaped(&value))?;
    }
    out.write_str("</dl>")
}

fn put_store(out: &mut String, store: &StoreFigures) -> fmt::Result {
    out.write_str("<h2>Object store</h2>\n")?;
    if !store.trouble.is_empty() {
        let ago = words::time(words::float(store.trouble_ago_ms));
        writeln!(out, "<p class=\"bad\" id=\"trouble\">A request failed {ago} ago: {}</p>", Escaped(&store.trouble))?;
    }
    out.write_str(
        "<div class=\"table\"><table id=\"store\"><tr><th>requests</th><th>since the start</th><th>an hour</th>\
         <th>price an hour</th></tr>\n",
    )?;
    for operation in &store.operations {
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            Escaped(&operation.operation),
            words::count(words::float(operation.total)),
            words::count(operation.per_hour),
            Escaped(&words::price(operation.price_per_hour, &store.currency)),
        )?;
    }
    out.write_str("</table></div>\n")
}

fn put_errors(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    out.write_str("<h2>Last errors</h2>\n")?;
    if snapshot.errors.is_empty() {
        return out.write_str("<p class=\"soft\">None.</p>\n");
    }
    out.write_str("<div class=\"table\"><table class=\"words\" id=\"errors\">\n")?;
    for ErrorFigures { at_ms, about, text } in &snapshot.errors {
        let at = words::moment(*at_ms, snapshot.at_ms);
        writeln!(out, "<tr><td>{at}</td><td>{}</td><td>{}</td></tr>", Escaped(about), Escaped(text))?;
    }
    out.write_str("</table></div>\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::admin::snapshot::{CheckpointFigures, VerifiedFigures};

    const EVIL: &str = "<script>alert('x' & \"y\")</script>";

    #[test]
    fn no_text_can_become_markup() {
        let text = || EVIL.to_owned();
        let checkpoint = CheckpointFigures { fault: text(), ..CheckpointFigures::default() };
        let verified = VerifiedFigures { fault: text(), ..VerifiedFigures::default() };
        let backend = BackendFigures {
            name: text(),
            phase: text(),
            inner: text(),
            failsafe: text(),
            checkpoints: vec![checkpoint],
            verified: Some(verified),
            ..BackendFigures::default()
        };
        let mut snapshot = Snapshot {
            version: text(),
            instance: text(),
            readiness: text(),
            backends: vec![backend],
            errors: vec![ErrorFigures { at_ms: 1, about: text(), text: text() }],
            ..Snapshot::default()
        };
        snapshot.store.trouble = text();
        snapshot.store.currency = text();
        let page = render(&snapshot);
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains("alert('x'"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)&lt;/script&gt;").count(), 13);
    }

    #[test]
    fn those_in_trouble_come_first_and_there_are_so_many_at_most() {
        let backend = |n: usize| BackendFigures { name: format!("job/op/{n}"), ..BackendFigures::default() };
        let mut backends: Vec<_> = (0..BACKENDS + 5).map(backend).collect();
        backends[BACKENDS + 3].phase = "failsafe".to_owned();
        let page = render(&Snapshot { backends, ..Snapshot::default() });
        assert_eq!(page.matches("<article").count(), BACKENDS);
        let at = |name: &str| page.find(&format!("<h3>{name}</h3>")).unwrap();
        assert!(at(&format!("job/op/{}", BACKENDS + 3)) < at("job/op/0"));
        assert!(page.contains("And 5 more"), "{page}");
    }

    #[test]
    fn a_page_loads_nothing_and_asks_to_be_asked_for_again() {
        let page = render(&Snapshot::default());
        assert!(!page.contains("://") && !page.contains("src="), "{page}");
        assert!(page.contains("<meta http-equiv=\"refresh\" content=\"3\">"), "{page}");
    }
}
