"""Locks of a results folder: whatever dies, one process at a time makes a result.

The system holds such a lock for a process and for all its children that inherited it, and frees it when the last of
them is gone: there are no stale locks, and a cell that outlives its driver still has its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Busy(Exception):
    """Another process holds the lock; the message says which one, as far as it is known."""


@contextmanager
def hold(paths: Sequence[Path]) -> Iterator[tuple[int, ...]]:
    """Hold all locks, or none and raise `Busy`. Yields descriptors, for children that are to hold them, too.

    Nobody waits while holding one, so two processes cannot wait for each other. On a file system without locks nothing
    is held: ``run_all.py doctor`` says so.
    """
    held: list[int] = []
    try:
        for path in paths:
            descriptor = _take(path)
            if descriptor is not None:
                held.append(descriptor)
        yield tuple(held)
    finally:
        for descriptor in held:
            os.close(descriptor)


def _take(path: Path) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # For a person's eyes: what holds the lock is known to the system alone.
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BlockingIOError:
        owner = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise Busy(owner or "another process") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:  # on a full disk it is locked, without a name
            os.close(descriptor)
            if error.errno in _UNSUPPORTED:
                return None
            raise
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
