//! `dstl top`, which shows the backends of a running daemon live in a terminal.
//!
//! The figures are those of the status page, fetched from the admin address. Alternatively, the daemon's socket gives
//! as many of them as the protocol has. [`draw`] is pure; [`watch`] sets up and restores the terminal.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::ControlFlow,
    path::PathBuf,
    thread,
    time::Duration,
};

use ratatui::{
    Frame, Terminal,
    backend::{TermionBackend, TestBackend},
    layout::{Constraint, Layout, Rect, Size},
    style::{Color, Modifier, Style},
    termion::{self, event::Key, input::TermRead as _, raw::IntoRawMode as _, screen::IntoAlternateScreen as _},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Sparkline, Table},
};

use super::health::reachable;
use crate::{
    admin::{
        snapshot::{BackendFigures, CheckpointFigures, NewestFigures, Snapshot},
        words,
    },
    client::{Client, ClientError},
    clock::Clock,
    proto::v1::{BackendDescription, InnerBackend},
};

/// Time between two pictures.
const INTERVAL: Duration = Duration::from_secs(1);

/// Number of times that keys are read between two pictures.
const KEY_POLLS: u32 = 20;

/// Time for connecting, and then for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Columns and lines of the picture of [`once`].
const ONCE: Size = Size::new(140, 40);

/// The source of the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The admin address of the daemon.
    Admin(SocketAddr),
    /// The Unix socket of its gRPC service.
    Socket(PathBuf),
}

/// The reason why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The admin address does not answer.
    #[error("asking the daemon at `{address}`: {source}")]
    NoAnswer {
        /// The admin address of the daemon.
        address: SocketAddr,
        /// The fault of the connection.
        source: io::Error,
    },
    /// The answer does not come from this version of dstl.
    #[error("the answer of `{address}` to `/status` has no figures: {why}")]
    Answer {
        /// The admin address of the daemon.
        address: SocketAddr,
        /// The part of the answer that is missing or is no figure.
        why: String,
    },
    /// The socket does not answer.
    #[error("asking the daemon at `{}`: {source}", socket.display())]
    Socket {
        /// The path of the socket.
        socket: PathBuf,
        /// The answer of the daemon, or the fault of the connection.
        source: Box<ClientError>,
    },
    /// The terminal cannot be used.
    #[error("using the terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// Settings of the picture.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The order of the backends.
    pub order: Order,
    /// Number of backends above the first one shown.
    pub first: usize,
    /// The error of the last question to the daemon; empty if it answered.
    pub trouble: String,
}

/// The column by which backends are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Backends in the order of their names.
    #[default]
    Name,
    /// Backends with the most batches a second first.
    Rate,
    /// Backends with the longest changelog first.
    Changelog,
    /// Backends that would take longest to recover first.
    Recovery,
    /// Backends whose newest checkpoint is oldest first.
    Age,
}

impl Order {
    /// The order that follows in the cycle.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Name => Self::Rate,
            Self::Rate => Self::Changelog,
            Self::Changelog => Self::Recovery,
            Self::Recovery => Self::Age,
            Self::Age => Self::Name,
        }
    }
}

impl Source {
    /// Asks for the present figures. `before` are the previous ones, from which the rate of batches is computed if the
    /// daemon does not report it. Blocks for a few seconds at most.
    ///
    /// # Errors
    /// [`TopError`].
    pub fn ask(&self, before: Option<&Snapshot>) -> Result<Snapshot, TopError> {
        match self {
            Self::Admin(address) => ask_admin(reachable(*address)),
            Self::Socket(socket) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let described = runtime.block_on(async {
                    let client = Client::connect(socket).await?;
                    Ok((client.describe(None).await?, client.daemon_instance().to_owned()))
                });
                let (described, instance) = described
                    .map_err(|source| TopError::Socket { socket: socket.clone(), source: Box::new(source) })?;
                Ok(of_descriptions(&described, instance, Clock::system().now_ms(), before))
            }
        }
    }
}

fn ask_admin(address: SocketAddr) -> Result<Snapshot, TopError> {
    let asked = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // HTTP/1.0, so that the answer is not chunked.
        let request = format!("GET /status HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = asked().map_err(|source| TopError::NoAnswer { address, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(TopError::Answer { address, why: format!("`{status}`") });
    }
    serde_json::from_str(body).map_err(|error| TopError::Answer { address, why: error.to_string() })
}

/// The figures that descriptions of backends contain.
fn of_descriptions(
    described: &[BackendDescription],
    instance: String,
    at_ms: u64,
    before: Option<&Snapshot>,
) -> Snapshot {
    // Another process has begun to count anew.
    let before = before.filter(|before| before.instance == instance);
    let mut backends: Vec<_> = described.iter().map(|description| of_description(description, at_ms, before)).collect();
    backends.sort_by(|one, other| one.name.cmp(&other.name));
    let mut snapshot = Snapshot { instance, at_ms, readiness: "serving".to_owned(), ..Snapshot::default() };
    snapshot.rates.batches = backends.iter().map(|backend| backend.batches_per_second).sum();
    Snapshot { backends, ..snapshot }
}

fn of_description(description: &BackendDescription, at_ms: u64, before: Option<&Snapshot>) -> BackendFigures {
    let reference = description.backend.clone().unwrap_or_default();
    let id = reference.id.unwrap_or_default();
    let name = format!("{}/{}/{}", id.job, id.operator, id.subtask);
    let epoch = reference.epoch.unwrap_or_default().number;
    let acknowledged = description.acknowledgement.unwrap_or_default();
    let known = before.and_then(|before| Some((before, before.backends.iter().find(|known| known.name == name)?)));
    // A new owner counts its batches anew.
    let batches_per_second = known.filter(|(_, known)| known.epoch == epoch).map_or(0.0, |(before, known)| {
        let batches = acknowledged.applied_to.saturating_sub(known.applied_to);
        #[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let rate = batches as f64 * 1_000.0 / at_ms.saturating_sub(before.at_ms).max(1) as f64;
        rate
    });
    let newest = description.checkpoints.last();
    BackendFigures {
        name,
        at_ms,
        phase: if description.failsafe.is_empty() { "open" } else { "failsafe" }.to_owned(),
        inner: match description.inner() {
            InnerBackend::Rocksdb => "rocksdb",
            InnerBackend::Hashmap | InnerBackend::Unspecified => "hashmap",
        }
        .to_owned(),
        epoch,
        attempt: description.attempt,
        batches_per_second,
        applied_to: acknowledged.applied_to,
        persisted_to: acknowledged.persisted_to,
        confirmed_to: acknowledged.confirmed_to,
        state_bytes: description.state_bytes,
        pending_bytes: description.pending_bytes,
        log_bytes: description.log_bytes,
        failsafe: description.failsafe.clone(),
        retained: description.checkpoints.len() as u64,
        newest: newest.map(|newest| NewestFigures {
            id: newest.checkpoint.as_ref().map_or(0, |identity| identity.checkpoint_id),
            triggered_at_ms: newest.triggered_at_ms,
        }),
        ..BackendFigures::default()
    }
}

/// Shows the figures of `source` until the user presses `q`.
///
/// # Errors
/// If the terminal cannot be used, or the first question fails.
pub fn watch(source: &Source) -> Result<(), TopError> {
    let mut snapshot = source.ask(None)?;
    // When dropped, it restores the terminal.
    let screen = io::stdout().into_raw_mode()?.into_alternate_screen()?;
    let mut terminal = Terminal::new(TermionBackend::new(screen))?;
    let mut keys = termion::async_stdin().keys();
    let mut view = View::default();
    loop {
        for _ in 0..KEY_POLLS {
            terminal.draw(|frame| draw(frame, &snapshot, &view))?;
            while let Some(key) = keys.next().transpose()? {
                if view.on_key(key, snapshot.backends.len()).is_break() {
                    return Ok(());
                }
            }
            thread::sleep(INTERVAL / KEY_POLLS);
        }
        match source.ask(Some(&snapshot)) {
            Ok(newer) => (snapshot, view.trouble) = (newer, String::new()),
            // The daemon may come back.
            Err(error) => view.trouble = error.to_string(),
        }
    }
}

impl View {
    fn on_key(&mut self, key: Key, backends: usize) -> ControlFlow<()> {
        match key {
            Key::Char('q') | Key::Esc | Key::Ctrl('c') => return ControlFlow::Break(()),
            Key::Char('s') => self.order = self.order.next(),
            Key::Down | Key::Char('j') => self.first = (self.first + 1).min(backends.saturating_sub(1)),
            Key::Up | Key::Char('k') => self.first = self.first.saturating_sub(1),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Returns one picture as text. With a socket it takes a second, as rates need two questions.
///
/// # Errors
/// If the daemon does not answer.
pub fn once(source: &Source) -> Result<String, TopError> {
    let first = source.ask(None)?;
    let snapshot = match source {
        Source::Admin(_) => first,
        Source::Socket(_) => {
            thread::sleep(INTERVAL);
            source.ask(Some(&first))?
        }
    };
    Ok(picture(&snapshot, &View::default(), ONCE))
}

/// A picture of this `size` in columns and lines, as text without colours.
#[must_use]
pub fn picture(snapshot: &Snapshot, view: &View, size: Size) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(size.width, size.height));
    let Ok(_) = terminal.draw(|frame| draw(frame, snapshot, view));
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for line in 0..size.height {
        let cells = (0..size.width).filter_map(|column| buffer.cell((column, line)));
        let line: String = cells.map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    format!("{}\n", text.trim_end())
}

/// Draws as much of `snapshot` as fits.
pub fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, view: &View) {
    let errors = u16::try_from(snapshot.errors.len()).unwrap_or(u16::MAX).min(4);
    let has_errors = u16::from(errors > 0) * (errors + 1);
    let rows = [Constraint::Length(3), Constraint::Length(3), Constraint::Min(4), Constraint::Length(has_errors)];
    let [head, lines, table, bottom] = Layout::vertical(rows).areas(frame.area());
    draw_head(frame, head, snapshot, &view.trouble);
    draw_lines(frame, lines, snapshot);
    draw_backends(frame, table, snapshot, view);
    let complaints = snapshot.errors.iter().take(errors.into()).map(|error| {
        let at = words::moment(error.at_ms, snapshot.at_ms);
        Line::from(format!("{at} {}: {}", error.about, error.text))
    });
    let block = Block::new().title(Line::from("last errors").style(Modifier::BOLD));
    frame.render_widget(Paragraph::new(complaints.collect::<Vec<_>>()).block(block), bottom);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, trouble: &str) {
    let colour =
        if snapshot.readiness == "ready" || snapshot.readiness == "serving" { Color::Green } else { Color::Yellow };
    let mut title = vec![
        Span::from("dstl ").style(Modifier::BOLD),
        Span::from(snapshot.readiness.clone()).style(colour),
        Span::from(format!(
            "  {} backends  {} batches/s  {} operations/s  {}/s of changelog",
            snapshot.backends.len(),
            words::count(snapshot.rates.batches),
            words::count(snapshot.rates.operations),
            words::bytes(words::whole(snapshot.rates.appended_bytes)),
        )),
    ];
    if !snapshot.version.is_empty() {
        let up = words::time(words::float(snapshot.uptime_ms));
        title.push(Span::from(format!("  version {}, up {up}", snapshot.version)).style(Modifier::DIM));
    }
    let requests: f64 = snapshot.store.operations.iter().map(|operation| operation.per_hour).sum();
    let store = match snapshot.store.operations.is_empty() {
        true => String::new(),
        false => format!(
            "store: {} requests/h, {}/h",
            words::count(requests),
            words::price(snapshot.store.price_per_hour, &snapshot.store.currency)
        ),
    };
    let why = [trouble, &snapshot.store.trouble].into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let lines =
        vec![Line::from(title), Line::from(store), Line::from(why.to_owned()).style(Style::new().fg(Color::Red))];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_lines(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    let history = &snapshot.history;
    let rates: Vec<u64> = history.iter().map(|moment| words::whole(moment.rates.operations)).collect();
    let pending: Vec<u64> = history.iter().map(|moment| moment.pending_bytes).collect();
    for (area, title, values) in [(left, "operations/s", rates), (right, "not yet durable", pending)] {
        let newest = values.len().saturating_sub(area.width.into());
        let line = Sparkline::default().data(values.get(newest..).unwrap_or_default());
        let block = Block::new().title(Line::from(title).style(Modifier::DIM));
        frame.render_widget(line.block(block).style(Color::Cyan), area);
    }
}

fn draw_backends(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, view: &View) {
    const TITLES: [&str; 11] = [
        "BACKEND",
        "PHASE",
        "BATCHES/S",
        "STATE",
        "PENDING",
        "CHANGELOG",
        "BASE",
        "RECOVERY",
        "VERIFIED",
        "CHECKPOINT",
        "TOOK",
    ];
    let mut backends: Vec<&BackendFigures> = snapshot.backends.iter().collect();
    let age = |backend: &BackendFigures| {
        backend.newest.map_or(u64::MAX, |newest| snapshot.at_ms.saturating_sub(newest.triggered_at_ms))
    };
    match view.order {
        Order::Name => {}
        Order::Rate => backends.sort_by(|one, other| other.batches_per_second.total_cmp(&one.batches_per_second)),
        Order::Changelog => backends.sort_by_key(|backend| std::cmp::Reverse(backend.log_bytes)),
        Order::Recovery => backends.sort_by_key(|backend| std::cmp::Reverse(backend.replay_ms)),
        Order::Age => backends.sort_by_key(|backend| std::cmp::Reverse(age(backend))),
    }
    let rows = backends.iter().skip(view.first).map(|backend| {
        let colour = match backend.phase.as_str() {
            "failsafe" | "ended" => Color::Red,
            "pushed back" | "unknown" | "closing" => Color::Yellow,
            _ => Color::Reset,
        };
        Row::new(cells(backend, snapshot.at_ms)).style(Style::new().fg(colour))
    });
    let widths = [
        Constraint::Min(20),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(18),
        Constraint::Length(8),
    ];
    let titles = Row::new(TITLES).style(Modifier::BOLD | Modifier::REVERSED);
    let keys = Line::from(" q: end  s: sort  up, down: scroll ").style(Modifier::DIM);
    let block = Block::new().title_bottom(keys);
    frame.render_widget(Table::new(rows, widths).header(titles).block(block), area);
}

fn cells(backend: &BackendFigures, now_ms: u64) -> [String; 11] {
    let newest = backend.newest.map_or_else(
        || "none".to_owned(),
        |newest| {
            let ago = now_ms.saturating_sub(newest.triggered_at_ms);
            format!("{}, {} ago", newest.id, words::time(words::float(ago)))
        },
    );
    let took = backend.checkpoints.last().map_or_else(String::new, |newest| match newest.fault.is_empty() {
        true => words::time(CheckpointFigures::total_ms(newest)),
        false => "FAILED".to_owned(),
    });
    let verified = match &backend.verified {
        Some(verified) if verified.fault.is_empty() => words::time(words::float(verified.took_ms)),
        Some(_) => "FAILED".to_owned(),
        None => "-".to_owned(),
    };
    [
        backend.name.clone(),
        backend.phase.clone(),
        words::count(backend.batches_per_second),
        words::bytes(backend.state_bytes),
        words::bytes(backend.pending_bytes),
        words::bytes(backend.log_bytes),
        words::bytes(backend.materialized_bytes),
        words::time(words::float(backend.replay_ms)),
        verified,
        newest,
        took,
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::admin::snapshot::{ErrorFigures, Moment, Rates, VerifiedFigures};

    fn backend(name: &str, rate: f64, replay_ms: u64) -> BackendFigures {
        BackendFigures {
            name: name.to_owned(),
            phase: "writing".to_owned(),
            batches_per_second: rate,
            replay_ms,
            log_bytes: 3 << 20,
            newest: Some(NewestFigures { id: 41, triggered_at_ms: 7_000 }),
            checkpoints: vec![CheckpointFigures { persist_ms: 12.0, ..CheckpointFigures::default() }],
            ..BackendFigures::default()
        }
    }

    fn snapshot() -> Snapshot {
        let proved = VerifiedFigures { took_ms: 2_500, ..VerifiedFigures::default() };
        Snapshot {
            readiness: "ready".to_owned(),
            at_ms: 10_000,
            rates: Rates { batches: 30.0, ..Rates::default() },
            history: vec![Moment { pending_bytes: 5, ..Moment::default() }; 200],
            backends: vec![
                BackendFigures { verified: Some(proved), ..backend("job/a/0", 10.0, 700) },
                BackendFigures { phase: "failsafe".to_owned(), newest: None, ..backend("job/b/0", 20.0, 90_000) },
            ],
            errors: vec![ErrorFigures { at_ms: 9_000, about: "job/b/0".to_owned(), text: "no disk".to_owned() }],
            ..Snapshot::default()
        }
    }

    fn line<'p>(picture: &'p str, has: &str) -> (usize, &'p str) {
        picture.lines().enumerate().find(|(_, line)| line.contains(has)).unwrap()
    }

    #[test]
    fn a_picture_has_rate_changelog_recovery_and_ages_of_each_backend() {
        let picture = picture(&snapshot(), &View::default(), Size::new(140, 20));
        assert!(line(&picture, "dstl ready").1.contains("2 backends  30 batches/s"), "{picture}");
        let (at, a) = line(&picture, "job/a/0");
        for part in ["writing", "10", "3.0 MiB", "700 ms", "2.5 s", "41, 3.0 s ago", "12 ms"] {
            assert!(a.contains(part), "{part}: {picture}");
        }
        let (below, b) = line(&picture, "job/b/0");
        assert!(at < below && b.contains("failsafe") && b.contains("none") && b.contains("90 s"), "{picture}");
        assert!(picture.contains("00:00:09 job/b/0: no disk"), "{picture}");
    }

    #[test]
    fn the_order_decides_who_comes_first() {
        for (order, first) in [(Order::Rate, "job/b/0"), (Order::Recovery, "job/b/0"), (Order::Age, "job/b/0")] {
            let picture = picture(&snapshot(), &View { order, ..View::default() }, Size::new(140, 20));
            let rows: Vec<_> = picture.lines().filter(|line| line.starts_with("job/")).collect();
            assert!(rows[0].starts_with(first), "{order:?}: {picture}");
        }
    }

    #[test]
    fn keys_sort_scroll_and_end() {
        let mut view = View::default();
        for key in [Key::Char('s'), Key::Down, Key::Down, Key::Down, Key::Up, Key::Char('x')] {
            assert!(view.on_key(key, 3).is_continue());
        }
        assert_eq!((view.order, view.first), (Order::Rate, 1));
        assert!(view.on_key(Key::Char('q'), 3).is_break() && view.on_key(Key::Ctrl('c'), 3).is_break());
    }

    #[test]
    fn a_small_terminal_is_no_panic() {
        for (width, height) in [(1, 1), (10, 3), (20, 200), (400, 2)] {
            let size = Size::new(width, height);
            assert!(picture(&snapshot(), &View::default(), size).ends_with('\n'));
        }
    }

    #[test]
    fn rates_over_the_socket_are_those_between_two_answers() {
        let described = |applied_to| {
            let mut description = BackendDescription::default();
            description.acknowledgement.get_or_insert_default().applied_to = applied_to;
            [description]
        };
        let first = of_descriptions(&described(10), "one".to_owned(), 1_000, None);
        let second = of_descriptions(&described(40), "one".to_owned(), 3_000, Some(&first));
        assert_eq!((first.rates.batches, second.rates.batches), (0.0, 15.0));
        let restarted = of_descriptions(&described(99), "two".to_owned(), 4_000, Some(&second));
        assert_eq!(restarted.rates.batches, 0.0, "another daemon counts anew");
    }
}
