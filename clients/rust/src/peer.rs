//! Checks who serves a socket before anything is sent to it: another user may have put a socket in the place of the
//! daemon's.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

const ROOT: u32 = 0;
const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o002;

/// Connects to the socket at `path`, if the user who serves it can be trusted: this user, root, or the owner of the
/// folders that lead there. A folder that is writable by everybody and not sticky is not checked further: its owner let
/// everybody in, as for the containers of a pod.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    // Ordering: connect first, and then ask who serves this very connection. Between a check of the path and the
    // connect, another user could put a socket of his own there.
    let stream = UnixStream::connect(path).await?;
    let peer = stream.peer_cred()?.uid();
    let own = own_uid()?;
    if peer == own || peer == ROOT {
        return Ok(stream);
    }
    let path = path.canonicalize()?;
    let folders: Vec<_> = path.ancestors().skip(1).map(look).collect::<io::Result<_>>()?;
    match suspicious(peer, own, &folders) {
        None => Ok(stream),
        Some(folder) => {
            let text = format!(
                "`{}` is served by uid {peer}, who is neither this user nor root, and folder `{}` does not say that it may be: put the \
                 daemon's socket into a folder of its user, below folders of root",
                path.display(),
                folder.display()
            );
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
    }
}

/// A folder on the way to a socket.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    owner: u32,
    mode: u32,
}

fn look(path: &Path) -> io::Result<Folder> {
    let found = fs::metadata(path)?;
    Ok(Folder { path: path.to_owned(), owner: found.uid(), mode: found.mode() })
}

/// The first folder, from the socket's own upwards, in which `peer` could have put the socket without permission.
fn suspicious(peer: u32, own: u32, folders: &[Folder]) -> Option<&Path> {
    // In a sticky folder that is writable by everybody, an entry only shows who made it, not that its maker had
    // permission.
    let mut child = peer;
    for folder in folders {
        let is_open = folder.mode & OTHERS_WRITE != 0;
        let is_sticky = folder.mode & STICKY != 0;
        let trusted = [own, ROOT].contains(&folder.owner);
        let fine = match (is_open, is_sticky) {
            (true, true) => [own, ROOT].contains(&child),
            (true, false) => trusted,
            (false, _) => trusted || folder.owner == peer,
        };
        if !fine {
            return Some(&folder.path);
        }
        child = folder.owner;
    }
    None
}

/// The user of this process, as its peers see it.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 1000;
    const DAEMON: u32 = 500;
    const THIEF: u32 = 666;

    fn folders(folders: &[(u32, u32)]) -> Vec<Folder> {
        folders.iter().map(|&(owner, mode)| Folder { path: PathBuf::from(format!("{owner}")), owner, mode }).collect()
    }

    #[test]
    fn a_daemons_user_is_known_by_the_folders_that_root_gave_it() {
        let fine = |peer, way: &[(u32, u32)]| suspicious(peer, OWN, &folders(way)).is_none();
        assert!(fine(DAEMON, &[(DAEMON, 0o750), (ROOT, 0o755), (ROOT, 0o755)]), "/run/dstl");
        assert!(fine(DAEMON, &[(ROOT, 0o755), (ROOT, 0o755)]), "/run");
        assert!(fine(DAEMON, &[(ROOT, 0o2777), (ROOT, 0o755)]), "the volume of a pod");
        assert!(fine(DAEMON, &[(OWN, 0o755), (ROOT, 0o1777), (ROOT, 0o755)]), "a folder of this user's, below /tmp");
        assert!(!fine(THIEF, &[(THIEF, 0o755), (ROOT, 0o1777), (ROOT, 0o755)]), "a folder of the thief's, below /tmp");
        assert!(!fine(THIEF, &[(THIEF, 0o777), (ROOT, 0o1777), (ROOT, 0o755)]));
        assert!(!fine(THIEF, &[(ROOT, 0o1777), (ROOT, 0o755)]), "/tmp itself");
        assert!(!fine(THIEF, &[(DAEMON, 0o755), (ROOT, 0o755)]), "somebody else's folder");
    }

    #[tokio::test]
    async fn a_socket_of_this_user_is_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let _listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        connect(&path).await.expect("it is ours");
    }
}
