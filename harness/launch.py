"""Start a cell's process, follow it, and make sure that it ends: by itself, at a limit, or with the driver."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.cell import CellPlan
from harness.processes import Tree
from harness.store import write_text
from harness.suite import ROOT

_LOG_LINES = 20
_LOG_BYTES = 64_000  # of a log's end that are looked at: a cell may print gigabytes
_LOOK_EVERY = 1.0  # seconds between two looks at the memory


@dataclass(frozen=True)
class Limits:
    """What one cell may take: ``seconds`` of time, ``memory`` in bytes, all of its processes together."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Outcome:
    """How the process ended; ``log`` holds its last lines."""

    status: Literal["ok", "failed", "timeout", "memory"]
    reason: str
    log: str


@dataclass
class _Watch:
    """What is known of a running cell."""

    last: dict[str, Any] = field(default_factory=dict)  # its last message of progress
    failure: dict[str, Any] = field(default_factory=dict)  # its own last word
    over: str = ""  # the limit that it went over: timeout or memory
    memory: int = 0  # bytes, when it did

    def message(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            self.failure = message
        elif "step" in message:
            self.last = message

    def place(self) -> str:
        return " in {step}, at {done} of {total}".format(**self.last) if self.last else ""


def launch(
    plan: CellPlan, folder: Path, limits: Limits, follow: Callable[[dict], None], locks: Sequence[int] = ()
) -> Outcome:
    """Run one cell in a process of its own; see `supervise`. Its plan and its log lie in ``folder``."""
    write_text(folder / "plan.json", plan.model_dump_json(indent=1))
    command = [sys.executable, "-X", "faulthandler", "-m", "harness.cell", str((folder / "plan.json").resolve())]
    return supervise(command, folder / "log.txt", limits, follow, locks)


def supervise(
    command: Sequence[str], log: Path, limits: Limits, follow: Callable[[dict], None], locks: Sequence[int] = ()
) -> Outcome:
    """Run a cell's process in a group of its own, within ``limits``; its standard error goes to ``log``.

    ``follow`` gets every message of its standard output; ``locks`` are descriptors that it holds as long as it lives.
    When this returns, or KeyboardInterrupt passes through, none of its processes is left.
    """
    watch, tree = _Watch(), Tree()
    log.unlink(missing_ok=True)  # written through, a link would lead elsewhere
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **_absolute_path()},
            stdin=subprocess.PIPE,  # closed with this process, however it ends: harness.processes.guard
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # its own group: killed whole, loader workers included
            pass_fds=tuple(locks),
        )
        try:
            _follow(process, limits, tree, watch, follow)
        finally:
            _end(process, tree)
    tail = _tail(log)
    if watch.over == "timeout":
        return Outcome("timeout", f"stopped at its limit of {limits.seconds:g} s{watch.place()}", tail)
    if watch.over == "memory":
        took, may = watch.memory / 1e9, limits.memory / 1e9
        return Outcome("memory", f"took {took:.1f} GB of memory, the limit is {may:.1f} GB{watch.place()}", tail)
    if watch.failure:
        reason = watch.failure["failed"].encode(errors="replace").decode()  # names of files may not be text
        return Outcome("memory" if watch.failure["memory"] else "failed", reason, tail)
    if process.returncode == 0:
        return Outcome("ok", "", tail)
    return Outcome("failed", f"{_reason(process.returncode)}{watch.place()}", tail)


def _absolute_path() -> dict[str, str]:
    """PYTHONPATH by whole names: the cell starts in another folder than the driver."""
    given = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, given.split(os.pathsep)))} if given else {}


def _follow(
    process: subprocess.Popen, limits: Limits, tree: Tree, watch: _Watch, follow: Callable[[dict], None]
) -> None:
    """Pass messages on until the process ends, or goes over a limit, which ``watch`` then says."""
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    deadline, look = time.monotonic() + limits.seconds, time.monotonic()
    buffer, open_ = b"", True
    while open_ or process.poll() is None:
        now = time.monotonic()
        if now >= deadline and process.poll() is None:
            watch.over = "timeout"
            _say_where(process)
            return
        if now >= look:
            watch.memory = tree.memory(limits.memory)
            if watch.memory > limits.memory:
                watch.over = "memory"
                return
            look = now + _LOOK_EVERY
        wait = max(0.0, min(deadline, look) - now)
        if not open_:  # it closed its output and has still to end
            time.sleep(min(wait, 0.05))
        elif selector.select(min(wait, _LOOK_EVERY)):
            data = os.read(process.stdout.fileno(), 65536)
            open_ = bool(data)
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                if message := _message(line):
                    watch.message(message)
                    follow(message)
        elif process.poll() is not None:  # a child of it may hold the pipe open, but nothing more is in it
            return


def _message(line: bytes) -> dict[str, Any]:
    """A whole message of `harness.cell.Reporter`; empty for what something else printed."""
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        kinds = ({"step": str, "done": int, "total": int}, {"finished": str}, {"failed": str, "memory": bool})
        for kind in kinds:
            if isinstance(found, dict) and all(isinstance(found.get(name), type_) for name, type_ in kind.items()):
                return found
    return {}


def _say_where(process: subprocess.Popen) -> None:
    """Have the cell write into its log where all of its threads are, as `harness.cell` has arranged."""
    process.send_signal(signal.SIGUSR1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)


def _end(process: subprocess.Popen, tree: Tree) -> None:
    """Not to be interrupted: a second Ctrl-C, or a scheduler that repeats itself, would leave processes."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()  # before the rest is reaped, or its exit status would be lost
        tree.kill()
        process.stdin.close()
        process.stdout.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-_LOG_LINES:])


def _reason(returncode: int) -> str:
    if returncode < 0:
        names = {one.value: one.name for one in signal.Signals}
        name = names.get(-returncode, f"signal {-returncode}")
        hint = " (by the system, for lack of memory?)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit status {returncode}"
