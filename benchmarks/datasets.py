"""How many samples a second the data sets give on one core: `python -m benchmarks.datasets [--voc-root DIR]`.

Medians over rounds, the layouts interleaved in one run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from tabulate import tabulate

from datasets.base import Dataset
from datasets.shapes import LEVELS, Shapes
from datasets.voc import Voc
from harness.provenance import processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voc-root", type=Path, help="also read this VOC 2012 folder")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    data: dict[str, Dataset] = {f"shapes {level}, 128 x 128": Shapes("train", 100_000, level) for level in LEVELS}
    if arguments.voc_root:
        data["voc val, original size"] = Voc(arguments.voc_root, "val")
    rates: dict[str, list[float]] = {name: [] for name in data}
    for name, one in data.items():
        _rate(one, 0)  # the first sample also builds the texture bank
        rates[name].clear()
    for number in range(arguments.rounds):
        for name, one in data.items():
            rates[name].append(_rate(one, number))
    rows = [(name, statistics.median(found), min(found), max(found)) for name, found in rates.items()]
    print(tabulate(rows, ("data set", "images/s, median", "min", "max"), floatfmt=".0f", tablefmt="pipe"))
    print(f"\none process on one core of: {processor()}")


def _rate(data: Dataset, number: int, count: int = 200) -> float:
    start = time.perf_counter()
    for index in range(count):
        data[(number * count + index) % len(data)]
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
