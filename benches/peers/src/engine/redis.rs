//! Redis over its Unix socket, pipelined, with its append-only file synced each second (`appendfsync everysec`).
//!
//! All else are its defaults, rewrites of that file included; snapshots are off, as the file makes them needless. It
//! does not tell when a sync is done, so its durable points have no durations.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Driven, Point};
use crate::{Fault, child::bound, source::Source};

/// Batches in flight: while Redis works on one, the task makes the next.
const FLIGHTS: usize = 4;

/// How long Redis may take until it serves, or answers.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// After so long, a sync of everything that was written before has begun.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The version of the installed server.
pub(super) fn version() -> Result<String, Fault> {
    let output = Command::new("redis-server").arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="));
    Ok(version.ok_or("redis-server tells no version")?.to_owned())
}

pub(super) struct Redis {
    server: Server,
    input: BufReader<UnixStream>,
    output: UnixStream,
    /// The numbers of replies that batches in flight wait for.
    flights: VecDeque<usize>,
    request: Vec<u8>,
    line: Vec<u8>,
    applied: u64,
}

/// A server that ends with its owner.
struct Server(Child);

impl Server {
    fn start(folder: &Path, socket: &Path) -> Result<Self, Fault> {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
        command.arg("--unixsocket").arg(socket).arg("--dir").arg(folder);
        Ok(Self(bound(&command).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Redis {
    pub(super) fn start(folder: &Path) -> Result<Self, Fault> {
        let socket: PathBuf = folder.join("redis.sock");
        let server = Server::start(folder, &socket)?;
        let deadline = Instant::now() + TIMEOUT;
        let output = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(format!("Redis does not serve: {error}").into()),
                Err(_) => std::thread::sleep(POLL),
            }
        };
        output.set_read_timeout(Some(TIMEOUT))?;
        output.set_write_timeout(Some(TIMEOUT))?;
        let input = BufReader::with_capacity(1 << 16, output.try_clone()?);
        let (flights, request, line) = (VecDeque::new(), Vec::new(), Vec::new());
        Ok(Self { server, input, output, flights, request, line, applied: 0 })
    }

    /// Sends the requests of a batch, and waits until fewer than so many batches are in flight.
    fn send(&mut self, requests: usize) -> Result<(), Fault> {
        self.output.write_all(&self.request)?;
        self.request.clear();
        self.flights.push_back(requests);
        self.land(FLIGHTS)
    }

    fn land(&mut self, fewer_than: usize) -> Result<(), Fault> {
        while self.flights.len() >= fewer_than {
            for _ in 0..self.flights.pop_front().unwrap_or_default() {
                self.reply()?;
                self.applied += 1;
            }
        }
        Ok(())
    }

    /// Reads a reply that is one line: `+OK`, `:7` or an error.
    fn reply(&mut self) -> Result<(), Fault> {
        self.line.clear();
        self.input.read_until(b'\n', &mut self.line)?;
        match self.line.first() {
            Some(b'+' | b':') => Ok(()),
            Some(_) => Err(format!("Redis answered `{}`", String::from_utf8_lossy(&self.line).trim_end()).into()),
            None => Err("Redis closed the connection".into()),
        }
    }

    /// One field of `INFO persistence`, where that is a number.
    fn persistence(&mut self, field: &str) -> Result<Option<u64>, Fault> {
        write(&mut self.request, &[b"INFO", b"persistence"]);
        self.output.write_all(&self.request)?;
        self.request.clear();
        self.line.clear();
        self.input.read_until(b'\n', &mut self.line)?;
        let header = String::from_utf8_lossy(&self.line).into_owned();
        let length: usize = header.trim_start_matches('$').trim_end().parse()?;
        let mut text = vec![0; length + 2];
        std::io::Read::read_exact(&mut self.input, &mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(found.and_then(|value| value.parse().ok()))
    }
}

/// Appends a request with these arguments, as Redis' protocol wants it.
fn write(request: &mut Vec<u8>, arguments: &[&[u8]]) {
    // Writing into memory cannot fail.
    let _ = write!(request, "*{}\r\n", arguments.len());
    for argument in arguments {
        let _ = write!(request, "${}\r\n", argument.len());
        request.extend_from_slice(argument);
        request.extend_from_slice(b"\r\n");
    }
}

impl Driven for Redis {
    async fn put(&mut self, keys: &[u64], source: &mut Source) -> Result<(), Fault> {
        for key in keys {
            write(&mut self.request, &[b"SET", &key.to_be_bytes(), source.value()]);
        }
        self.send(keys.len())
    }

    async fn count(&mut self, keys: &[u64]) -> Result<(), Fault> {
        for key in keys {
            write(&mut self.request, &[b"INCR", &key.to_be_bytes()]);
        }
        self.send(keys.len())
    }

    fn applied(&self) -> u64 {
        self.applied
    }

    async fn settle(&mut self) -> Result<(), Fault> {
        self.land(1)
    }

    fn point(&self) -> Option<Point> {
        None
    }

    fn server(&self) -> Option<u32> {
        Some(self.server.0.id())
    }

    /// The file is durable when nothing is buffered and the sync that began last has ended.
    async fn close(mut self) -> Result<(), Fault> {
        tokio::time::sleep(SYNC_EVERY).await;
        let deadline = Instant::now() + TIMEOUT;
        for field in ["aof_buffer_length", "aof_pending_bio_fsync"] {
            while self.persistence(field)?.ok_or("Redis tells nothing of its file")? > 0 {
                if Instant::now() >= deadline {
                    return Err("Redis does not sync its file".into());
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_arrays_of_strings_with_lengths() {
        let mut request = Vec::new();
        write(&mut request, &[b"SET", b"a\r\n", b""]);
        assert_eq!(request, b"*3\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n$0\r\n\r\n");
    }
}
