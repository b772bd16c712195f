"""Who serves a socket, before anything is told to them: somebody else may have put a socket of theirs where the daemon's should be."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

from ..errors import ConnectionLostError

_ROOT = 0


def check(path: str) -> None:
    """Raises `ConnectionLostError` unless the socket is served by this user, root, or the owner of the folders that lead there.

    A folder that everybody may write and that is not sticky counts for nothing: its owner let everybody in, as for the containers of a pod.
    """
    if len(os.fsencode(path)) > 107:
        raise ConnectionLostError(f"`{path}` is too long for the path of a Unix socket: 107 bytes at most", retryable=False)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(10)
            probe.connect(path)
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError as error:
        raise ConnectionLostError(f"no daemon serves `{path}`: {error.strerror or error}") from error
    except ValueError as error:
        raise ConnectionLostError(f"{path!r} is no path of a Unix socket: {error}", retryable=False) from error
    peer, own = struct.unpack("3i", credentials)[1], os.geteuid()
    if peer in (own, _ROOT):
        return
    folder = _suspicious(peer, own, Path(path).resolve().parent)
    if folder is not None:
        raise ConnectionLostError(
            f"`{path}` is served by uid {peer}, who is neither this user nor root, and folder `{folder}` does not say that it may be: "
            "put the daemon's socket into a folder of its user, below folders of root",
            retryable=False,
        )


def _suspicious(peer: int, own: int, folder: Path) -> Path | None:
    """The first folder, from the socket's own upwards, by which `peer` could have come there without leave."""
    child = peer
    for place in (folder, *folder.parents):
        try:
            status = place.stat()
        except OSError:
            return place
        trusted = status.st_uid in (own, _ROOT)
        if status.st_mode & stat.S_IWOTH:
            # Whoever made what lies in a sticky folder that everybody may write has nobody's leave.
            fine = child in (own, _ROOT) if status.st_mode & stat.S_ISVTX else trusted
        else:
            fine = trusted or status.st_uid == peer
        if not fine:
            return place
        child = status.st_uid
    return None
