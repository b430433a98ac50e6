"""Losses and groupings, timed against what a user would otherwise write: `python -m benchmarks.grouping`.

Medians over rounds in one process, the contenders of a case interleaved; each one's first result is compared with
ours, where the case says how. Memory is the rise of the peak over what was there before one call, each in a process of
its own: resident size on a processor, allocated on a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

from benchmarks.cases import Case
from harness.provenance import processor

MODULES = ("recurrent_mean_shift", "pull_push", "spatial_embeddings", "segsort")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--memory-of", nargs=3, metavar=("MODULE", "CASE", "CONTENDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.memory_of:
        print(json.dumps(_rise(device, *arguments.memory_of)))
        return
    rows = []
    for module in MODULES:
        for case in cases(module, device):
            if arguments.only in case.name:
                rows += _rows(case, module, arguments.rounds, device)
                print(f"{case.name}: done", file=sys.stderr, flush=True)
    headers = ("case", "who", "median ms", "min", "max", "times ours", "peak MB")
    print(tabulate(rows, headers, floatfmt=("", "", ".1f", ".1f", ".1f", ".2f", ".0f"), tablefmt="pipe"))
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} thread(s) of {processor()}"
    print(f"\ntorch {torch.__version__}, {where}, {arguments.rounds} rounds")


def cases(module: str, device: torch.device) -> list[Case]:
    return importlib.import_module(f"benchmarks.cases.{module}").cases(device)


def _rows(case: Case, module: str, rounds: int, device: torch.device) -> list[tuple]:
    for name, call in case.contenders.items():
        if name not in case.slow:
            call()  # warms up
    results: dict[str, object] = {}
    ours = next(iter(case.contenders))
    seconds: dict[str, list[float]] = {name: [] for name in case.contenders}
    for number in range(rounds):
        for name, call in case.contenders.items():
            if number == 0 or name not in case.slow:
                result, took = _time(call, device)
                seconds[name].append(took)
                if number == 0:
                    results[name] = result
    for name, result in results.items():
        if case.same and name != ours:
            case.same(results[ours], result)
    results.clear()
    median = {name: statistics.median(found) for name, found in seconds.items()}
    rows = []
    for name, found in seconds.items():
        title = f"{case.name} (goal: {case.target})" if name == ours else ""
        times = (1000 * median[name], 1000 * min(found), 1000 * max(found))
        rows.append((title, name, *times, median[name] / median[ours], _memory(module, case.name, name, device)))
    return rows


def _time(call: Callable[[], object], device: torch.device) -> tuple[object, float]:
    _wait(device)
    start = time.perf_counter()
    result = call()
    _wait(device)
    return result, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _memory(module: str, case: str, contender: str, device: torch.device) -> float:
    """Megabytes that one call adds at its peak, measured in a fresh process; NaN where that cannot be told."""
    command = [sys.executable, "-m", "benchmarks.grouping", "--device", device.type]
    command += ["--threads", str(torch.get_num_threads()), "--memory-of", module, case, contender]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _rise(device: torch.device, module: str, case_name: str, contender: str) -> float:
    call = next(case for case in cases(module, device) if case.name == case_name).contenders[contender]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():  # only Linux can say
        return float("nan")
    before = _field(status, "VmRSS")
    reset.write_text("5", encoding="ascii")  # forget the peak so far
    call()
    return (_field(status, "VmHWM") - before) / 1e3


def _field(status: Path, name: str) -> float:
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return float(line.split()[1])  # kB


if __name__ == "__main__":
    main()
