"""The metrics, timed against reference programs where those can be installed: `python -m benchmarks.evaluation`.

See `benchmarks.side_by_side` for what is measured. ``--scale 4`` takes four times as many images. Reading files is part
of a contender where its name says so.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys

from benchmarks import side_by_side
from benchmarks.cases.evaluation import BUILDERS
from harness.provenance import processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help=f"of {', '.join(BUILDERS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--ours", action="store_true", help="leave the others out")
    parser.add_argument("--memory-of", nargs=3, metavar=("BUILDER", "CASE", "CONTENDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.scale <= 0:
        parser.error("--rounds is 1 or more, --scale more than 0")
    builders = {
        name: functools.partial(_cases, build, arguments.scale, arguments.ours)
        for name, build in BUILDERS.items()
        if arguments.only in name
    }
    if not builders:
        parser.error(f"--only {arguments.only}: there are {', '.join(BUILDERS)}")
    if arguments.memory_of:
        print(json.dumps(side_by_side.rise(side_by_side.contender(builders, *arguments.memory_of))))
        return
    command = [sys.executable, "-m", "benchmarks.evaluation", "--scale", str(arguments.scale)]
    print(side_by_side.table(builders, command, arguments.rounds, ""))
    print(f"\n{os.cpu_count()} cores of {processor()}, {arguments.rounds} rounds")


def _cases(build, scale: float, ours: bool):
    cases = build(scale)
    if not ours:
        return cases
    return [case.only_ours() for case in cases]


if __name__ == "__main__":
    main()
