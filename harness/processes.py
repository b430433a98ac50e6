"""The processes of one cell: their memory, and their end, whatever they started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import NoReturn

import psutil

_LINUX = sys.platform == "linux"
_SUBREAPER, _DEATH_SIGNAL = 36, 1  # of prctl, <linux/prctl.h>
_LOOK_EVERY = 0.05  # seconds: so long the end of a cell, or of its driver, may go unnoticed


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
        """Kill all of them; back when none is left."""
        _kill_descendants(self._before)


def _memory(process: psutil.Process, shared: bool) -> int:
    """Bytes of one process; 0 for one that has gone."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.memory_info().rss if shared else process.memory_full_info().pss
    return 0


def guard() -> None:
    """Called first in a cell's process. Returns in a child of it, which does the work; the process itself stays as the
    guardian: it ends with the child's status, and takes all that descends from it along.

    It does so, too, when the driver is gone: its standard input is a pipe that only the driver can close. It works in
    no library, so that nothing can keep it from this. Where memory is short the child goes before the driver (Linux).
    """
    _prctl(_SUBREAPER, 1)
    worker = os.fork()
    if worker:
        _guardian(worker)
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)  # with the guardian, whatever may kill that
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


def _guardian(worker: int) -> NoReturn:
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(worker, signal.SIGUSR1))
    os.closerange(1, 4096)  # the locks, the log and the driver's pipe are the worker's to hold
    status = 1
    while True:
        ended, found = os.waitpid(worker, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(found)
            break
        with contextlib.suppress(InterruptedError):
            if select.select([0], [], [], _LOOK_EVERY)[0] and not os.read(0, 1024):
                break
    _kill_descendants(set())
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _kill_descendants(spared: set[int]) -> None:
    """Kill all descendants of this process but those ``spared``; again, for one may be starting another meanwhile."""
    for _ in range(20):
        members = [one for one in psutil.Process().children(recursive=True) if one.pid not in spared]
        if not members:
            return
        for one in members:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(members, timeout=1.0)


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        with contextlib.suppress(OSError, AttributeError):  # another C library may lack it
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
