//! The status page in a browser, of a daemon at work and of one whose store is out; and the same figures elsewhere.
//!
//! The browser is Debian's Chromium, headless. Where there is none, the part of the test that needs it is left out, but
//! not in CI. `DSTL_SCREENSHOTS` names a folder for the screenshots, to look at them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use dstl::{
    admin::snapshot::{BackendFigures, Snapshot},
    client::{Backend, Client, OpenOptions, Session, StateOptions, ValueState},
    proto::v1::{MaterializeRequest, state_backend_service_client::StateBackendServiceClient},
};
use tonic::transport::Endpoint;

use crate::deploy::{Daemon, installed};

async fn materialize(daemon: &Daemon, backend: &Backend) {
    let socket = format!("unix://{}", daemon.folder.path().join("s").display());
    let channel = Endpoint::try_from(socket).unwrap().connect().await.unwrap();
    let backend = Some(backend.reference().clone());
    StateBackendServiceClient::new(channel).materialize(MaterializeRequest { backend }).await.unwrap();
}

/// Colours of the page's ground: red, green, blue.
const LIGHT: [u8; 3] = [0xf6, 0xf7, 0xf9];
const DARK: [u8; 3] = [0x12, 0x16, 0x1b];

/// Sizes of windows in pixels.
const DESK: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);

struct Worker {
    session: Session,
    state: ValueState<String, i64>,
    backend: Backend,
    checkpoint: u64,
    key: i64,
}

impl Worker {
    async fn open(daemon: &Daemon, operator: &str) -> Self {
        let client = Client::connect(daemon.folder.path().join("s")).await.unwrap();
        let backend = client.open(OpenOptions::new("wordcount", operator)).await.unwrap();
        let state = backend.value_state::<String, i64>("count", StateOptions::new()).await.unwrap();
        let session = backend.session().await.unwrap();
        Self { session, state, backend, checkpoint: 0, key: 0 }
    }

    /// Writes some batches.
    async fn write(&mut self) {
        for _ in 0..20 {
            self.key += 1;
            self.session.run(self.state.put(&self.key.to_string(), &self.key)).await.unwrap();
        }
    }

    /// Takes a checkpoint, and says that all have it; returns why it failed.
    async fn checkpoint(&mut self, timeout: Duration) -> Result<(), String> {
        self.checkpoint += 1;
        let pending = self.session.barrier_with_timeout(self.checkpoint, "", timeout).await.unwrap();
        let completed = pending.await.map_err(|error| error.to_string())?;
        self.session.complete(&completed.checkpoint.unwrap()).await.unwrap();
        Ok(())
    }
}

fn figures(daemon: &Daemon) -> Snapshot {
    serde_json::from_str(&daemon.get("/status", "*/*")).unwrap()
}

/// Waits until the figures are as they should be.
fn figures_when(daemon: &Daemon, are_so: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let figures = figures(daemon);
        if are_so(&figures) {
            return figures;
        }
        assert!(Instant::now() < until, "{figures:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn of<'s>(snapshot: &'s Snapshot, name: &str) -> &'s BackendFigures {
    snapshot.backends.iter().find(|backend| backend.name == name).unwrap()
}

/// Runs the browser on the page, which has no scripts and forbids them; returns what it prints.
fn browse(chromium: &str, daemon: &Daemon, (width, height): (u32, u32), is_dark: bool, arguments: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(chromium);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]);
    command.args(["--no-first-run", "--disable-extensions", "--timeout=2000"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--window-size={width},{height}"));
    let scheme = if is_dark { 0 } else { 1 };
    command.arg(format!("--blink-settings=preferredColorScheme={scheme}"));
    command.args(arguments).arg(format!("http://{}/", daemon.admin));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "chromium {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A picture of the page.
struct Shot {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

fn shoot(chromium: &str, daemon: &Daemon, size: (u32, u32), is_dark: bool, name: &str) -> Shot {
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("DSTL_SCREENSHOTS").map(PathBuf::from);
    let file = kept.as_deref().unwrap_or(folder.path()).join(format!("{name}.png"));
    browse(chromium, daemon, size, is_dark, &[&format!("--screenshot={}", file.display())]);
    read_png(&file)
}

fn read_png(file: &Path) -> Shot {
    let mut decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(file).unwrap()));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let samples = info.color_type.samples();
    let pixels = bytes[..info.buffer_size()].chunks(samples).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    Shot { width: info.width as usize, height: info.height as usize, pixels }
}

impl Shot {
    /// The page is on `ground`, has something on it, and nothing that reaches over its right edge.
    fn assert_is_fine(&self, ground: [u8; 3], name: &str) {
        let on = |x: usize, y: usize| self.pixels[y * self.width + x] == ground;
        let ground_pixels = self.pixels.iter().filter(|pixel| **pixel == ground).count();
        assert!(ground_pixels * 20 > self.pixels.len(), "{name}: the ground is {:?}", self.pixels[0]);
        assert!(ground_pixels * 20 < self.pixels.len() * 19, "{name}: the page is empty");
        let over = (0..self.height).filter(|y| !(self.width - 6..self.width).all(|x| on(x, *y))).count();
        assert_eq!(over, 0, "{name}: something reaches over the right edge");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_a_daemon_at_work_and_an_outage_of_its_store() {
    let daemon = Daemon::start_with(&["verify.interval=1 s", "admin.store-prices.create=1000"]);
    let mut workers = [Worker::open(&daemon, "count").await, Worker::open(&daemon, "join").await];
    for round in 0..6 {
        for worker in &mut workers {
            worker.write().await;
            worker.checkpoint(Duration::from_secs(20)).await.unwrap();
        }
        if round == 2 {
            materialize(&daemon, &workers[0].backend).await;
        }
    }
    let at_work = figures_when(&daemon, |figures| {
        let verified = |name| of(figures, name).verified.as_ref().is_some_and(|verified| verified.id == 6);
        figures.backends.len() == 2 && verified("wordcount/count/0") && verified("wordcount/join/0")
    });
    let count = of(&at_work, "wordcount/count/0");
    assert_eq!((count.phase.as_str(), count.inner.as_str(), count.changelog), ("writing", "hashmap", true));
    assert_eq!((count.applied_to, count.persisted_to, count.confirmed_to), (120, 120, 120));
    assert_eq!((count.retained, count.newest.unwrap().id, count.in_flight), (3, 6, 0));
    assert_eq!(count.checkpoints.iter().map(|it| it.id).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(count.checkpoints.iter().all(|it| it.fault.is_empty() && it.total_ms() > 0.0), "{count:?}");
    assert!(count.materialized_bytes > 0 && of(&at_work, "wordcount/join/0").log_bytes > 0, "{at_work:?}");
    let verified = count.verified.as_ref().unwrap();
    assert!(verified.fault.is_empty() && verified.bytes > 0, "{verified:?}");
    let create = at_work.store.operations.iter().find(|it| it.operation == "create").unwrap();
    assert!(create.total >= 12 && create.per_hour > 0.0, "{create:?}");
    assert!((create.price_per_hour - create.per_hour).abs() < 1e-6, "1,000 for 1,000: {create:?}");
    assert_eq!(at_work.errors, [], "nothing is wrong yet");

    let chromium = installed("chromium", "chromium");
    let page = daemon.get("/", "text/html");
    assert!(!page.contains("<script") && page.contains("http-equiv=\"refresh\""), "{page}");
    if let Some(chromium) = chromium {
        let page = browse(chromium, &daemon, DESK, false, &["--dump-dom"]);
        for part in
            ["<h3>wordcount/count/0</h3>", "<h3>wordcount/join/0</h3>", "id=\"store\"", "class=\"chip good\">ready"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
        let [first, _] = page.split("<article").skip(1).collect::<Vec<_>>()[..] else { panic!("two cards: {page}") };
        assert_eq!(first.matches("<g><title>checkpoint ").count(), 6, "{first}");
        assert!(first.contains("recovery, verified</dt><dd>") && !first.contains("not yet</dd>"), "{first}");
        shoot(chromium, &daemon, DESK, false, "light").assert_is_fine(LIGHT, "light");
        shoot(chromium, &daemon, DESK, true, "dark").assert_is_fine(DARK, "dark");
        shoot(chromium, &daemon, PHONE, false, "phone").assert_is_fine(LIGHT, "phone");
        shoot(chromium, &daemon, PHONE, true, "phone-dark").assert_is_fine(DARK, "phone-dark");
    }
    let picture = Command::new(env!("CARGO_BIN_EXE_dstl"));
    for source in [["--admin".to_owned(), daemon.admin.to_string()], ["--socket".to_owned(), socket(&daemon)]] {
        let mut top = Command::new(picture.get_program());
        let output = top.args(["top", "--once"]).args(&source).env_clear().output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{source:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(shown.contains("wordcount/count/0") && shown.contains("wordcount/join/0"), "{source:?}: {shown}");
    }

    // A file in place of the store's folder: every request fails.
    let (store, aside) = (daemon.folder.path().join("store"), daemon.folder.path().join("aside"));
    fs::rename(&store, &aside).unwrap();
    fs::write(&store, "").unwrap();
    workers[0].write().await;
    let why = workers[0].checkpoint(Duration::from_secs(1)).await.unwrap_err();
    assert!(why.contains("was not durable in time"), "{why}");
    let is_told = |figures: &Snapshot| figures.errors.iter().any(|error| error.about == "wordcount/count/0");
    let out = figures_when(&daemon, |figures| is_told(figures) && !figures.store.trouble.is_empty());
    let newest = of(&out, "wordcount/count/0").checkpoints.last().unwrap();
    assert!(newest.id == 7 && newest.fault.contains("was not durable in time"), "{newest:?}");
    let began = Instant::now();
    let page = daemon.get("/", "text/html");
    assert!(began.elapsed() < Duration::from_secs(1), "the page waits for the store: {:?}", began.elapsed());
    assert!(page.contains("id=\"trouble\"") && page.contains("<title>checkpoint 7 failed: "), "{page}");
    if let Some(chromium) = chromium {
        shoot(chromium, &daemon, DESK, false, "outage").assert_is_fine(LIGHT, "outage");
        shoot(chromium, &daemon, PHONE, true, "outage-phone-dark").assert_is_fine(DARK, "outage-phone-dark");
    }
    fs::remove_file(&store).unwrap();
    fs::rename(&aside, &store).unwrap();
    workers[0].checkpoint(Duration::from_secs(20)).await.unwrap();
    figures_when(&daemon, |figures| of(figures, "wordcount/count/0").newest.is_some_and(|newest| newest.id == 8));
}

fn socket(daemon: &Daemon) -> String {
    daemon.folder.path().join("s").display().to_string()
}
