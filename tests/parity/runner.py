"""Golden files: find the cases of a folder, hand each to its checker, insist that nothing is left out.

A case is all files of one folder that share the name up to its first dot, such as ``voc1_random3.npz`` and
``voc1_random3.expected.json``. To add a kind, add a line to `CHECKERS` and a file with ``check(paths) -> int``.
"""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-9

# Pattern of a case's name -> module of this folder. Its ``check(paths: list[Path]) -> int`` compares one case, raises
# AssertionError where it differs, and returns how many values it compared. Modules are imported when a case needs them.
CHECKERS = {
    "bsds*": "boundary",
    "coco*": "coco",
    "cs*": "cityscapes",
    "miou*": "semantic",
    "nv_meanshift_*": "nv_meanshift",
    "pullpush_*": "pullpush",
    "prop_*": "proposals",
    "rpe_*": "rpe",
    "lovasz_hinge*": "spatial",
    "spatial_*": "spatial",
    "segsort_*": "segsort",
    "voc*": "voc",
}


@dataclass(frozen=True)
class Case:
    """Files that are checked together."""

    name: str
    paths: tuple[Path, ...]


def find_cases(folder: Path) -> list[Case]:
    """All cases below ``folder``, by name; README files are known. AssertionError if there is none."""
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("README"):
            groups[path.parent / path.name.split(".")[0]].append(path)
    assert groups, f"no golden files in {folder}"
    return [Case(str(name.relative_to(folder)), tuple(paths)) for name, paths in sorted(groups.items())]


def check_case(case: Case) -> int:
    """Run the case's checker; the number of values that it compared. AssertionError for a file that has none."""
    name = Path(case.name).name
    modules = {module for pattern, module in CHECKERS.items() if fnmatchcase(name, pattern)}
    files = ", ".join(str(path) for path in case.paths)
    assert modules, f"unknown file: {files}; known are {', '.join(CHECKERS)} (tests/parity/runner.py)"
    assert len(modules) == 1, f"{files} matches several patterns, of {', '.join(sorted(modules))}"
    check: Callable[[list[Path]], int] = importlib.import_module(modules.pop()).check
    compared = check(list(case.paths))
    assert compared > 0, f"nothing was compared: {files}"
    return compared


class Golden:
    """The entries of one .npz or .json file: remembers which were used and counts the values that were compared."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compared = 0
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                self._entries: dict[str, Any] = dict(file)
        else:
            self._entries = json.loads(path.read_text(encoding="utf-8"))
        self._unused = set(self._entries)

    def names(self) -> list[str]:
        return list(self._entries)

    def take(self, name: str) -> Any:
        """An entry that serves as input, or that the checker compares by itself (`count` it then)."""
        assert name in self._entries, f"{self.path.name} has no {name!r}"
        self._unused.discard(name)
        return self._entries[name]

    def ignore(self, *names: str) -> None:
        """Entries that are deliberately not compared; the call's comment says why. They may be missing."""
        self._unused -= set(names)

    def compare(self, name: str, actual: Any, rtol: float = 0.0, atol: float = TOLERANCE) -> None:
        """Demand equal shapes and values (NaN equals NaN) and count them."""
        expected, actual = np.asarray(self.take(name)), np.asarray(actual)
        assert actual.shape == expected.shape, f"{self.path.name} {name}: {actual.shape}, expected {expected.shape}"
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=f"{self.path.name} {name}")
        self.count(expected.size)

    def count(self, values: int) -> None:
        self.compared += values

    def finish(self) -> int:
        """The number of values compared; AssertionError if an entry was never used."""
        assert not self._unused, f"{self.path.name}: never used: {', '.join(sorted(self._unused))}"
        return self.compared
