"""The processes of one cell: their memory, and their end, whatever they started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

_LINUX = sys.platform == "linux"
_SUBREAPER, _DEATH_SIGNAL = 36, 1  # of prctl, <linux/prctl.h>
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, version 1


def total_memory() -> int:
    """Bytes that this machine has, or that the container which this process runs in may use."""
    limits = [psutil.virtual_memory().total]
    for name in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            limits.append(int(Path(name).read_text(encoding="utf-8")))
    return min(limits)


class Tree:
    """All processes that descend from one child of this process, which leads a session of its own.

    On Linux those whose parents are gone become children of this process, so that none is lost sight of.
    """

    def __init__(self) -> None:
        _prctl(_SUBREAPER, 1)
        self._before = {one.pid for one in psutil.Process().children(recursive=True)}

    def members(self) -> list[psutil.Process]:
        found = psutil.Process().children(recursive=True)
        return [one for one in found if one.pid not in self._before]

    def memory(self, enough: int = 0) -> int:
        """Bytes of memory that the processes take; what several of them share counts once, where the system tells.

        Where even the quick sum, which counts it for each, is below ``enough``, that sum.
        """
        members = self.members()
        quick = sum(_memory(one, shared=True) for one in members)
        return quick if quick < enough or not _LINUX else sum(_memory(one, shared=False) for one in members)

    def kill(self) -> None:
        """Kill all of them; back when none is left. Again, because one may be starting another meanwhile."""
        for _ in range(20):
            members = self.members()
            if not members:
                return
            for one in members:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            psutil.wait_procs(members, timeout=1.0)


def _memory(process: psutil.Process, shared: bool) -> int:
    """Bytes of one process; 0 for one that has gone."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.memory_info().rss if shared else process.memory_full_info().pss
    return 0


def follow_driver() -> None:
    """Called in a cell's process: it ends when the driver does, be it killed.

    Its standard input is a pipe that only the driver can close. On Linux the system kills it, too, in case that it
    hangs in a library and no thread of it can run; and where memory is short it goes before the driver.
    """
    threading.Thread(target=_end_with_input, daemon=True).start()
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


def _end_with_input() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            time.sleep(0.1)
    os.killpg(0, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        with contextlib.suppress(OSError, AttributeError):  # another C library may lack it
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
