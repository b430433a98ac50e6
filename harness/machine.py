"""What this machine, its folders and this installation are like: probes for `run_all.py doctor`.

A probe gives lines. None imports a compiled package or uses the network, and none prints the environment.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from harness.printed import printable

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 13))  # as pyproject.toml says, which Python 3.10 cannot read
PIP = f"{sys.executable} -m pip"
LEAST_MEMORY = 4 * 2**30  # bytes
LEAST_DISK = 5 * 10**9  # bytes, for results
LEAST_TEMPORARY = 10**9
LEAST_SHARED = 2**30  # loader workers hand batches over in shared memory
LEAST_FILES = 1024
EXTRAS = {  # of pyproject.toml, and what each is for
    "cityscapes": "Cityscapes' download tool and official evaluator",
    "mask2former": "the method mask2former",
    "test": "the tests",
}
TRAPS = {
    "numpy": "cityscapesscripts 2.3.0 breaks on numpy 2.4",
    "torch": "a build of 2.13 comes without torchvision's operators",
}


@dataclass(frozen=True)
class Line:
    """One finding. ``advice``: what to do, or what a missing part is for and the command that brings it."""

    what: str
    found: str
    state: Literal["ok", "not there", "WRONG"] = "ok"
    advice: str = ""


def guarded(probe: Callable[..., list[Line]], *arguments: Any) -> list[Line]:
    """What ``probe`` finds; one line that says what it raised, where it raises."""
    try:
        return probe(*arguments)
    except (Exception, SystemExit) as error:  # the last stop: a broken installation raises anything
        found = f"{type(error).__name__}: {error}"
        return [Line(probe.__name__, found, "WRONG", "`make install` brings what is missing; if it stays, report this")]


def plain(text: str) -> str:
    """``text`` on one line, with control characters as escapes: messages come from strangers' code."""
    return printable(" ".join(text.split()))


# The machine


def system() -> list[Line]:
    from harness.provenance import cores, processor

    return [Line("system", platform.platform()), Line("processor", f"{processor()}, {cores()} cores usable")]


def memory() -> list[Line]:
    total, free = memory_sizes()
    found = f"{total / 2**30:.1f} GiB" + ("" if free is None else f", {free / 2**30:.1f} GiB free")
    if total >= LEAST_MEMORY:
        return [Line("memory", found)]
    advice = "less than 4 GiB: a small cell takes 1.3 and the driver is beside it, so cells may be killed"
    return [Line("memory", found, "WRONG", advice)]


def memory_sizes(root: Path = Path("/")) -> tuple[int, int | None]:
    """Total and free memory in bytes, of the machine or of the control group where that has less; free may be None."""
    try:
        rows = dict(re.findall(r"(\w+): +(\d+) kB", (root / "proc/meminfo").read_text()))
        total, free = (1024 * int(rows[name]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    for limit, used in _group_limits(root):
        total, free = min(total, limit), min(free, max(limit - used, 0))
    return total, free


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of the control groups that this process is in, of either version."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        cache = "total_inactive_file" if controllers else "inactive_file"
        place = base / path.strip("/")
        for folder in (place, *place.parents[: len(place.relative_to(base).parts)]):
            try:
                limit, used = ((folder / name).read_text().strip() for name in names)
                kept = re.search(rf"^{cache} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
                yield int(limit), int(used) - (int(kept[1]) if kept else 0)
            except (OSError, ValueError):  # no such group in this container, or the limit "max"
                continue


def shared_memory(folder: Path = Path("/dev/shm")) -> list[Line]:
    if not folder.is_dir():
        return []
    total = shutil.disk_usage(folder).total
    if total >= LEAST_SHARED:
        return [Line("shared memory", f"{total / 2**30:.1f} GiB")]
    advice = "loader workers die of it: give the container more (docker run --shm-size=8g), or set train.workers=0"
    return [Line("shared memory", f"{total / 2**20:.0f} MiB", "WRONG", advice)]


def files() -> list[Line]:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found = "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
    # Only on Linux does torch hold one open file for every tensor that a worker hands over.
    if limit == resource.RLIM_INFINITY or limit >= LEAST_FILES or sys.platform != "linux":
        return [Line("open files", found)]
    advice = "loader workers need many: `ulimit -n 4096` before the run, or train.workers=0"
    return [Line("open files", found, "WRONG", advice)]


# Folders


def results_folder(output: Path) -> list[Line]:
    """Space, and whether files can be written and locked where the results are, or will be."""
    place = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not place.is_dir():
        return [Line("results folder", f"{place} is a file", "WRONG", "choose another folder with --output")]
    lines = [_space("results folder", place, LEAST_DISK, "free some, or choose another folder with --output")]
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as scratch:
            return [*lines, Line("writing there", "works"), _locks(Path(scratch) / "lock")]
    except OSError as error:
        advice = "make it writable, or choose another folder with --output"
        return [*lines, Line("writing there", str(error), "WRONG", advice)]


def _space(what: str, place: Path, least: int, advice: str) -> Line:
    free = shutil.disk_usage(place).free
    found = f"{place.resolve()}, {free / 1e9:.1f} GB free"
    if free >= least:
        return Line(what, found)
    return Line(what, found, "WRONG", f"less than {least / 1e9:.0f} GB: {advice}")


def _locks(path: Path) -> Line:
    """Whether a locked file cannot be locked again."""
    import fcntl

    advice = "two runs on this folder would disturb each other: choose a local disk with --output, or run one at a time"
    try:
        with path.open("w") as first, path.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Line("locks there", "work")
        return Line("locks there", "a locked file was locked again", "WRONG", advice)
    except OSError as error:
        return Line("locks there", f"this disk has none: {error}", "WRONG", advice)


def temporary_folder() -> list[Line]:
    return [_space("temporary folder", Path(tempfile.gettempdir()), LEAST_TEMPORARY, "free some, or set TMPDIR")]


def samples() -> list[Line]:
    purpose = "COCO's and BSDS500's own samples for some tests; README.md, Tests"
    given = os.environ.get("GROUPBENCH_DATA")
    if not given:
        return [Line("GROUPBENCH_DATA", "not set", "not there", purpose)]
    there = [name for name in ("coco-eval-100", "bsds-mini/bench") if (Path(given) / name).is_dir()]
    if there:
        return [Line("GROUPBENCH_DATA", f"{given} with {' and '.join(there)}")]
    advice = f"name the folder that holds them: {purpose}"
    return [Line("GROUPBENCH_DATA", f"{given} has neither sample", "WRONG", advice)]


# The project


def python() -> list[Line]:
    found = f"{platform.python_version()} ({sys.executable})"
    if PYTHONS[0] <= tuple(sys.version_info[:2]) <= PYTHONS[1]:
        return [Line("Python", found)]
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    return [Line("Python", found, "WRONG", f"needs {first} to {last}: `make install PYTHON=/path/to/python{last}`")]


def code() -> list[Line]:
    from harness.provenance import git_state

    commit, changed = git_state()
    if commit == "unknown":
        advice = "records name the commit that they were made with: run in a clone, with git"
        return [Line("commit", "unknown", "not there", advice)]
    return [Line("commit", commit + (", with changes" if changed else ", unchanged"))]


def shadows() -> list[Line]:
    """Whether our folders are what Python imports by their names, and nobody else's package is installed for one."""
    lines = []
    for name in ("datasets", "evaluation", "harness", "methods"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != ROOT / name / "__init__.py":
            advice = f"another package of that name hides this project's: take it off PYTHONPATH, or {PIP} uninstall it"
            lines.append(Line(f"import {name}", f"finds {origin}", "WRONG", advice))
    if version := _version("datasets"):
        advice = f"this project's folder has that name, and one hides the other: {PIP} uninstall datasets"
        lines.append(Line("package datasets", f"{version} from the index is installed", "WRONG", advice))
    return lines or [Line("folders", "are what Python imports")]


def packages() -> list[Line]:
    """Every dependency, with its version against the range of pyproject.toml."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {requirement.name: (requirement, "") for requirement in map(Requirement, project["dependencies"])}
    for extra in EXTRAS:  # those of a purpose of their own first
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            wanted.setdefault(requirement.name, (requirement, extra))
    return [_package(*one) for one in wanted.values()]


def _package(requirement: Any, extra: str) -> Line:
    name, version, needed = requirement.name, _version(requirement.name), requirement.specifier
    bring = f'{PIP} install -c constraints.txt ".[{extra}]"' if extra else "`make install`"
    if not version:
        state, why = ("not there", f"for {EXTRAS[extra]}: ") if extra else ("WRONG", "")
        return Line(name, f"not installed ({needed})", state, why + bring)
    if needed.contains(version, prereleases=True):
        return Line(name, f"{version} ({needed})")
    because = f"{TRAPS[name]}; " if name in TRAPS else ""
    return Line(name, f"{version}, but {needed} is needed", "WRONG", f"{because}{bring} brings one that fits")


def _version(name: str) -> str:
    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""


# Tools and files that some parts need


def hub_cache() -> list[Line]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    names = sorted(path.name.removeprefix("models--timm--") for path in folder.glob("models--timm--*"))
    nearest = next(one for one in (folder, *folder.parents) if one.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        return [Line("timm's weights", f"{folder} cannot be written", "WRONG", "set HF_HOME to a folder of yours")]
    how = "HF_HUB_OFFLINE is set: nothing is fetched" if constants.HF_HUB_OFFLINE else "fetched when first used"
    if names:
        return [Line("timm's weights", f"{folder}: {', '.join(names)}; others: {how}")]
    advice = f"for encoders of the presets paper and shared; {how}; without the internet, copy HF_HOME from elsewhere"
    return [Line("timm's weights", f"none in {folder}", "not there", advice)]


def _tool(*names: str) -> str:
    return next(filter(None, map(shutil.which, names)), "")


def git() -> list[Line]:
    advice = "for the commit in records, and to install detectron2: your system's package git"
    found = _tool("git")
    return [Line("git", found) if found else Line("git", "not found", "not there", advice)]


def compiler() -> list[Line]:
    found = _tool(*filter(None, [os.environ.get("CXX")]), "c++", "g++", "clang++")
    advice = "to build detectron2: your system's package g++ (or build-essential, or Xcode's command line tools)"
    return [Line("C++ compiler", found) if found else Line("C++ compiler", "not found", "not there", advice)]
