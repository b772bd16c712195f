//! The speed of the machine by itself at this moment: of a bare echo, and of writes that are synced to the disk.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
    time::Instant,
};

use bytes::Bytes;

use super::{
    Fault,
    daemon::{Process, folder_in, is_url, socket, temporary},
    echo::EchoClient,
    figures::median,
    options::Options,
};

/// Echoes on a stream, and how many of them come before any is timed.
const ECHOES: usize = 2_000;
const WARM_UP: usize = 500;

/// Bytes of an echo.
const ECHO_BYTES: usize = 128;

/// Files for the bandwidth, and their length.
const LARGE_FILES: usize = 12;
const LARGE_BYTES: usize = 8 << 20;

/// Files for the time of one write, and their length.
const SMALL_FILES: usize = 40;
const SMALL_BYTES: usize = 16 << 10;

/// The machine's own figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Baseline {
    /// The median of a bare echo in microseconds.
    pub(crate) echo_us: f64,
    /// Bytes a second that reach the disk below the store; none if the store is not a folder.
    pub(crate) bandwidth: Option<f64>,
    /// The median time in milliseconds until a small new file is on the disk under its name.
    pub(crate) write_ms: Option<f64>,
}

/// Measures the machine, in a second or two.
pub(crate) async fn measure(options: &Options) -> Result<Baseline, Fault> {
    let echo_us = echo_us(options).await?;
    if options.store.as_deref().is_some_and(is_url) {
        return Ok(Baseline { echo_us, bandwidth: None, write_ms: None });
    }
    let folder = match &options.store {
        Some(store) => folder_in(Path::new(store))?,
        None => temporary(options)?,
    };
    let bandwidth = Some(bandwidth(folder.path())?);
    let mut times = vec![];
    for number in 0..SMALL_FILES {
        times.push(write_small(folder.path(), number)?);
    }
    Ok(Baseline { echo_us, bandwidth, write_ms: Some(median(&times)) })
}

async fn echo_us(options: &Options) -> Result<f64, Fault> {
    let folder = temporary(options)?;
    let mut command = Command::new(std::env::current_exe()?);
    let _process = Process::spawn(command.arg("--serve-echo").arg(socket(&folder)))?;
    let mut echo = EchoClient::connect(&socket(&folder)).await?;
    let mut times = vec![];
    for number in 0..WARM_UP + ECHOES {
        let message = Bytes::from(vec![7; ECHO_BYTES]);
        let begun = Instant::now();
        echo.stream(message).await?;
        if number >= WARM_UP {
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(median(&times))
}

/// Bytes a second, of files as long as those that the daemon writes under load.
fn bandwidth(folder: &Path) -> Result<f64, Fault> {
    // No two blocks are alike, for file systems that would notice.
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        state.to_le_bytes()
    };
    let bytes: Vec<u8> = (0..LARGE_BYTES / 8).flat_map(|_| next()).collect();
    let begun = Instant::now();
    for number in 0..LARGE_FILES {
        let mut file = File::create(folder.join(format!("large-{number}")))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    for number in 0..LARGE_FILES {
        fs::remove_file(folder.join(format!("large-{number}")))?;
    }
    Ok((LARGE_FILES * LARGE_BYTES) as f64 / seconds)
}

/// Writes a file as a local store does: under another name, synced, renamed, and the folder synced. Returns the
/// milliseconds that it took.
fn write_small(folder: &Path, number: usize) -> Result<f64, Fault> {
    let (partial, name) = (folder.join(format!("small-{number}#1")), folder.join(format!("small-{number}")));
    let begun = Instant::now();
    let mut file = File::create(&partial)?;
    file.write_all(&[7; SMALL_BYTES])?;
    file.sync_all()?;
    fs::rename(&partial, &name)?;
    File::open(folder)?.sync_all()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
