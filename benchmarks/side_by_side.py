"""Time and memory of contenders that do the same work: one table, one run.

Medians over rounds in one process, the contenders of a case interleaved; each one's first result is compared with
ours, where the case says how. Memory is the rise of the peak over what was there before one call, each in a process of
its own.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks.cases import Case

Builders = Mapping[str, Callable[[], Sequence[Case]]]
HEADERS = ("case", "who", "median ms", "min", "max", "times ours", "peak MB")


def table(
    builders: Builders, command: Sequence[str], rounds: int, only: str, wait: Callable[[], None] = lambda: None
) -> str:
    """The cases whose builder's or own name contains ``only``. ``command --memory-of BUILDER CASE CONTENDER`` must
    print what `rise` returns; ``wait`` ends when the device has.
    """
    rows = []
    for name, build in builders.items():
        for case in build():
            if only in name or only in case.name:
                rows += _rows(case, [*command, "--memory-of", name], rounds, wait)
                print(f"{case.name}: done", file=sys.stderr, flush=True)
    return tabulate(rows, HEADERS, floatfmt=("", "", ".1f", ".1f", ".1f", ".2f", ".0f"), tablefmt="pipe")


def _rows(case: Case, memory: Sequence[str], rounds: int, wait: Callable[[], None]) -> list[tuple]:
    for name, call in case.contenders.items():
        if name not in case.slow:
            call()  # warms up
    results: dict[str, object] = {}
    ours = next(iter(case.contenders))
    seconds: dict[str, list[float]] = {name: [] for name in case.contenders}
    for number in range(rounds):
        for name, call in case.contenders.items():
            if number == 0 or name not in case.slow:
                wait()
                start = time.perf_counter()
                result = call()
                wait()
                seconds[name].append(time.perf_counter() - start)
                if number == 0:
                    results[name] = result
    for name, result in results.items():
        if case.same and name != ours:
            case.same(results[ours], result)
    results.clear()
    median = {name: statistics.median(found) for name, found in seconds.items()}
    rows = []
    for name, found in seconds.items():
        title = f"{case.name} (goal: {case.target})" if name == ours else "same"
        times = (1000 * median[name], 1000 * min(found), 1000 * max(found))
        done = subprocess.run([*memory, case.name, name], capture_output=True, text=True, check=True)
        rows.append((title, name, *times, median[name] / median[ours], float(json.loads(done.stdout.splitlines()[-1]))))
    return rows


def contender(builders: Builders, builder: str, case: str, name: str) -> Callable[[], object]:
    return next(one for one in builders[builder]() if one.name == case).contenders[name]


def rise(call: Callable[[], object]) -> float:
    """Megabytes that one call adds to the resident size at its peak; NaN where only Linux could say."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what building the inputs left free would hide the rise
    before = _field(status, "VmRSS")
    reset.write_text("5", encoding="ascii")  # forget the peak so far
    call()
    return (_field(status, "VmHWM") - before) / 1e3


def _field(status: Path, name: str) -> float:
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return float(line.split()[1])  # kB
