//! A question to a daemon whether it is ready, for health checks of containers without an HTTP client.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Time for connecting, and then for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 4 << 10;

/// The reason why a daemon does not count as ready.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The daemon has no admin address.
    #[error("`admin.address` is `off`, so that nobody can be asked")]
    Off,
    /// The daemon does not answer at its admin address.
    #[error("asking the daemon at `{address}`")]
    NoAnswer {
        /// The address of the request.
        address: SocketAddr,
        /// The error of the connection.
        source: io::Error,
    },
    /// The daemon answered with a status other than 200.
    #[error("the daemon at `{address}` is not ready: `{answer}`")]
    NotReady {
        /// The address of the request.
        address: SocketAddr,
        /// The state that the daemon answered; its status line if the answer has no body.
        answer: String,
    },
}

/// Asks the daemon whose `admin.address` is `admin`. An unspecified address (`0.0.0.0`) is replaced by loopback. Blocks
/// for a few seconds at most.
///
/// # Errors
/// [`HealthError`], unless the daemon is ready.
pub fn ask(admin: Option<SocketAddr>) -> Result<(), HealthError> {
    let address = reachable(admin.ok_or(HealthError::Off)?);
    let answer = get_ready(address).map_err(|source| HealthError::NoAnswer { address, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    let says = if body.trim().is_empty() { status } else { body.trim() };
    Err(HealthError::NotReady { address, answer: says.to_owned() })
}

pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn get_ready(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// The message about a server that gives this answer to every request.
    fn asked(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let said = ask(Some(SocketAddr::from(([0, 0, 0, 0], port)))).map_err(|error| error.to_string());
        assert!(serving.join().unwrap().starts_with("GET /ready HTTP/1.1\r\nHost: 127.0.0.1:"));
        said.map_err(|said| said.replace(&format!(":{port}"), ""))
    }

    #[test]
    fn only_200_is_ready() {
        assert_eq!(asked("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n"), Ok(()));
        let draining = asked("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\n\r\ndraining\n");
        assert_eq!(draining, Err("the daemon at `127.0.0.1` is not ready: `draining`".into()));
        let other = asked("HTTP/1.1 404 Not Found\r\n\r\n");
        assert_eq!(other, Err("the daemon at `127.0.0.1` is not ready: `HTTP/1.1 404 Not Found`".into()));
    }

    #[test]
    fn nobody_there_is_not_ready() {
        assert!(matches!(ask(None), Err(HealthError::Off)));
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(ask(Some(free)), Err(HealthError::NoAnswer { .. })));
    }
}
