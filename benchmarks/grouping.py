"""Losses and groupings, timed against what a user would otherwise write: `python -m benchmarks.grouping`.

See `benchmarks.side_by_side` for what is measured; on a GPU, memory is what was allocated.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys

import torch

from benchmarks import side_by_side
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
    builders = {module: functools.partial(_cases, module, device) for module in MODULES}
    if arguments.memory_of:
        print(json.dumps(_rise(side_by_side.contender(builders, *arguments.memory_of), device)))
        return
    command = [sys.executable, "-m", "benchmarks.grouping", "--device", device.type]
    command += ["--threads", str(arguments.threads)]
    print(side_by_side.table(builders, command, arguments.rounds, arguments.only, functools.partial(_wait, device)))
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} thread(s) of {processor()}"
    print(f"\ntorch {torch.__version__}, {where}, {arguments.rounds} rounds")


def _cases(module: str, device: torch.device):
    return importlib.import_module(f"benchmarks.cases.{module}").cases(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _rise(call, device: torch.device) -> float:
    if device.type != "cuda":
        return side_by_side.rise(call)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


if __name__ == "__main__":
    main()
