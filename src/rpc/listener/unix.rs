//! Listening on a Unix socket: its file, its permissions, its peers.
//!
//! At no moment can a client connect that lacks permission: the socket gets its group and mode while it is bound but
//! not yet listening, when it refuses all connections.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::{Backoff, Connection, Counters, Group, ListenError, ListenerOptions, Occasionally, Peer, Transport};
use crate::limits::{Slots, Times};

/// Connections that the system queues before they are accepted.
const BACKLOG: u32 = 1024;

/// How long an existing socket may take to answer a probe before it counts as another daemon's.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between, and number of, attempts to lock the directory.
const LOCK_RETRY: Duration = Duration::from_millis(20);
const LOCK_ATTEMPTS: u32 = 50;

const ROOT: u32 = 0;

/// Bits of a directory's mode.
const STICKY: u32 = 0o1000;
const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// Connections over the Unix socket.
#[derive(Debug)]
pub(super) struct UnixIncoming {
    listener: UnixListener,
    file: SocketFile,
    /// Users that may connect; `None` if the mode of the socket decides.
    allowed_uids: Option<Vec<u32>>,
    slots: Slots,
    times: Times,
    backoff: Backoff,
    refusals: Occasionally,
    counters: Counters,
}

/// The file of a socket that was made here. Dropping this removes the file, unless another file has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode number.
    identity: (u64, u64),
}

impl UnixIncoming {
    /// Begins to listen. The options must have no faults.
    pub(super) async fn bind(options: &ListenerOptions, slots: Slots, counters: Counters) -> Result<Self, ListenError> {
        let path = &options.socket;
        let group = options.socket_group.as_ref().map(group_id).transpose()?;
        let only_owner = options.socket_mode.bits() & 0o077 == 0;
        let allowed_uids = match &options.allowed_uids {
            Some(uids) => Some(uids.clone()),
            None if only_owner => {
                Some(vec![own_uid().map_err(|source| failed("find the owner of a socket for", path, source))?, ROOT])
            }
            None => None,
        };
        // Ordering 1: the lock. Two daemons that start at once could otherwise each remove the socket of the other.
        let lock = lock_directory(options.directory()).await?;
        // Ordering 2: the directory is checked before anything in it is removed or made.
        check_directory(options)?;
        clear_the_way(path).await?;
        let socket = UnixSocket::new_stream().map_err(|source| failed("make socket", path, source))?;
        socket.bind(path).map_err(|source| failed("bind socket", path, source))?;
        // Ordering 3: from here on the file is removed if anything fails.
        let file = SocketFile::new(path).map_err(|source| failed("look at socket", path, source))?;
        if group.is_some() {
            std::os::unix::fs::chown(path, None, group).map_err(|source| failed("set the group of", path, source))?;
        }
        // Ordering 4: the group before the mode, which may admit that group. Until then it is the daemon's own.
        let mode = fs::Permissions::from_mode(options.socket_mode.bits());
        fs::set_permissions(path, mode).map_err(|source| failed("set the mode of", path, source))?;
        // Ordering 5: listening comes last. Before it every client is refused, even under wrong permissions.
        let listener = socket.listen(BACKLOG).map_err(|source| failed("listen on", path, source))?;
        drop(lock);
        Ok(Self {
            listener,
            file,
            allowed_uids,
            slots,
            times: options.bounds.times,
            backoff: Backoff::new(),
            refusals: Occasionally::default(),
            counters,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// The next connection whose peer has permission.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        loop {
            ready!(self.backoff.poll_ready(cx));
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    self.backoff.on_accepted();
                    if let Some(connection) = self.on_stream(stream) {
                        return Poll::Ready(connection);
                    }
                }
                Err(error) => self.backoff.on_error(&error, &self.counters),
            }
        }
    }

    /// Accepts the client, or closes its connection.
    fn on_stream(&mut self, stream: UnixStream) -> Option<Connection> {
        let cred = match stream.peer_cred() {
            Ok(cred) => cred,
            Err(error) => {
                self.backoff.on_error(&error, &self.counters);
                return None;
            }
        };
        let peer = Peer::Unix { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() };
        if self.allowed_uids.as_ref().is_some_and(|allowed| !allowed.contains(&cred.uid())) {
            self.counters.on_refused(Transport::Unix);
            if let Some(silenced) = self.refusals.due() {
                tracing::warn!(%peer, silenced, "refused a client whose uid is not in `allowed-uids`");
            }
            return None;
        }
        let Some(slot) = self.slots.take(Some(cred.uid())) else {
            self.counters.on_full(&peer, &mut self.refusals);
            return None;
        };
        self.counters.on_accepted(Transport::Unix);
        Some(Connection::unix(stream, peer, slot, self.times))
    }
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another daemon may have replaced the file, which is then not ours to remove.
        let ours = identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "removing the socket");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Refuses a directory in which another user could replace our socket by another: clients would send their state to it.
fn check_directory(options: &ListenerOptions) -> Result<(), ListenError> {
    let directory = options.directory();
    let found = fs::metadata(directory).map_err(|source| failed("look at the directory", directory, source))?;
    let own = own_uid().map_err(|source| failed("find the owner of a socket for", directory, source))?;
    if ![own, ROOT].contains(&found.uid()) {
        return Err(ListenError::ForeignDirectory { directory: directory.to_owned(), owner: found.uid() });
    }
    let mode = found.mode();
    // In such a directory only the owner of a file can remove or rename it.
    if mode & STICKY != 0 {
        return Ok(());
    }
    if mode & OTHERS_WRITE != 0 && !options.open_directory {
        return Err(ListenError::OpenDirectory { directory: directory.to_owned() });
    }
    if mode & GROUP_WRITE != 0 && !options.open_directory {
        tracing::warn!(directory = %directory.display(), "members of the group of the socket's folder can replace the socket: chmod g-w");
    }
    Ok(())
}

/// Prevents daemons that start at the same moment from removing each other's sockets, until the result is dropped. The
/// lock is on the directory itself, since a lock file would stay behind. If the lock cannot be had, the daemon starts
/// without it.
async fn lock_directory(directory: &Path) -> Result<Option<File>, ListenError> {
    let opened = match File::open(directory) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ListenError::NoDirectory { directory: directory.to_owned() });
        }
        Err(_) => return Ok(None),
    };
    for _ in 0..LOCK_ATTEMPTS {
        match opened.try_lock() {
            Ok(()) => return Ok(Some(opened)),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_RETRY).await,
            Err(TryLockError::Error(_)) => break,
        }
    }
    Ok(None)
}

/// Removes the socket of a daemon that is gone.
async fn clear_the_way(path: &Path) -> Result<(), ListenError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed("look at", path, source)),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    let in_use = || ListenError::InUse { path: path.to_owned() };
    match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // The backlog is full, so a daemon is listening.
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Err(in_use()),
        Ok(Err(source)) => return Err(failed("find out whether a daemon is behind", path, source)),
        Ok(Ok(_)) | Err(_) => return Err(in_use()),
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove stale socket", path, source)),
        _ => Ok(()),
    }
}

/// The user of this process, as its peers see it.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

fn group_id(group: &Group) -> Result<u32, ListenError> {
    match group {
        Group::Id(id) => Ok(*id),
        Group::Name(name) => {
            let known = fs::read_to_string("/etc/group").unwrap_or_default();
            find_group(&known, name).ok_or_else(|| ListenError::UnknownGroup { name: name.clone() })
        }
    }
}

/// Finds a group in the text of `/etc/group`: lines of `name:password:gid:members`.
fn find_group(known: &str, name: &str) -> Option<u32> {
    known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> ListenError {
    ListenError::Socket { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let known = "root:x:0:\nstaff:x:50:a,b\nbroken\nsta:x:51:\n";
        assert_eq!(find_group(known, "staff"), Some(50));
        assert_eq!(find_group(known, "sta"), Some(51));
        assert_eq!(find_group(known, "x"), None);
        assert_eq!(find_group(known, "broken"), None);
    }
}
