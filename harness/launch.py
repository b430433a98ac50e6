"""Start a cell's process, follow it, and make sure that it ends: by itself, at its time limit, or with the driver."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.cell import CellPlan
from harness.store import write_text
from harness.suite import ROOT

_LOG_LINES = 20


@dataclass(frozen=True)
class Outcome:
    """How the process ended; ``log`` holds its last lines."""

    status: Literal["ok", "failed", "timeout"]
    reason: str
    log: str


def launch(plan: CellPlan, folder: Path, timeout: float, follow: Callable[[dict], None]) -> Outcome:
    """Run one cell in a process group of its own, with ``timeout`` in seconds; its log is ``folder``/log.txt.

    ``follow`` gets every progress message. KeyboardInterrupt passes through after the group has been killed.
    """
    write_text(folder / "plan.json", plan.model_dump_json(indent=1))
    log_path = folder / "log.txt"
    deadline = time.monotonic() + timeout
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cell", str((folder / "plan.json").resolve())],
            cwd=ROOT,
            env={**os.environ, **_absolute_path()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # its own group: killed whole, loader workers included
        )
        try:
            in_time = _follow(process, deadline, follow)
        finally:
            _kill_group(process)
            process.stdout.close()
    text = log_path.read_text(encoding="utf-8", errors="replace")
    tail = "\n".join(text.splitlines()[-_LOG_LINES:])
    if not in_time:
        return Outcome("timeout", f"stopped at its limit of {timeout:g} s", tail)
    if process.returncode == 0:
        return Outcome("ok", "", "")
    return Outcome("failed", _reason(process.returncode, text), tail)


def _absolute_path() -> dict[str, str]:
    """PYTHONPATH by whole names: the cell starts in another folder than the driver."""
    given = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, given.split(os.pathsep)))} if given else {}


def _follow(process: subprocess.Popen, deadline: float, follow: Callable[[dict], None]) -> bool:
    """Pass messages on until the process ends; False when the deadline came first."""
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    buffer = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if not selector.select(min(left, 1.0)):
            if process.poll() is not None:  # a child of it may hold the pipe open
                break
            continue
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            break
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            follow(json.loads(line))
    try:
        process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(returncode: int, log: str) -> str:
    errors = [line for line in log.splitlines() if line.startswith("ERROR: ")]
    if errors:
        return errors[-1].removeprefix("ERROR: ")
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit status {returncode}"
