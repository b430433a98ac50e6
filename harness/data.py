"""`run_all.py data verify` and `data download`: is a suite's data there and whole, and fetching what is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tabulate import tabulate

from datasets import open_split
from datasets.archives import Archive, Survey, official_archives, official_samples, survey
from datasets.base import Dataset, DatasetError
from datasets.files import first_five
from harness.download import DownloadError, fetch, needed, unpack, wrong
from harness.names import UsageError, look_up, unknown
from harness.plan import Request
from harness.printed import printable
from harness.progress import bar
from harness.settings import DATA_OPTIONS, check
from harness.store import Store, write_text
from harness.suite import Suite, load_suite

_PARTIAL = (
    "Not the official data, or not whole: suites run on it, but nothing measured there is comparable with papers."
)


@dataclass(frozen=True)
class DataSet:
    """One data set of a suite with its options, and the ``presets`` that use it.

    ``archives`` are the official ones that hold it; none for generated data and one's own.
    """

    name: str
    options: dict[str, Any]
    presets: tuple[str, ...]
    archives: tuple[Archive, ...]

    @property
    def generated(self) -> bool:
        return self.name == "shapes"

    def split_title(self, split: str) -> str:
        own = self.options.get(f"{split}_split") or Path(self.options[f"{split}_annotations"]).stem
        return f"samples of {own}"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was expected and found. ``problem`` says what to do, if any."""

    data: str
    what: str
    expected: str
    found: str
    state: str
    problem: str = ""

    @property
    def good(self) -> bool:
        return self.state in ("ok", "not checked", "needs no files")


def verify(suite: str, request: Request, output: Path, quick: bool, console: Console) -> int:
    """Say whether the suite's data are the official ones and whole, with names of what is missing or broken.

    Looks at the data of ``request.preset`` (None: of every preset). ``quick`` neither decodes samples nor computes
    checksums. What was decoded once is remembered in ``output``, and runs that write there need not do it again.
    Returns 0 when all is there, 1 when not. Raises `UsageError` where the data's folder is not given.
    """
    chosen = load_suite(suite)
    sets = data_sets(chosen, request)
    root = _root(chosen, sets, request.data_root)
    if root is not None and not root.is_dir():
        raise UsageError(f"--data-root {root} is not a folder")
    again = f"`python run_all.py data download --suite {suite} --data-root {root}`"
    findings: list[Finding] = []
    for archive in _archives(sets):
        findings += _archive_findings(archive, root, again + _only_for(archive, sets), quick, console)
    store = Store(output)
    for one in sets:
        findings += [_split_finding(one, split, root, store, quick, console) for split in ("train", "val")]
    return _report(list(dict.fromkeys(findings)), console)


def download(suite: str, request: Request, keep: bool, console: Console) -> int:
    """Fetch and unpack what the suite lacks, where the owners allow it; for the rest print what to do.

    Returns 0 when all is there at the end, 1 when not. Archives are deleted once they are unpacked, unless ``keep`` or
    they were there before.
    """
    chosen = load_suite(suite)
    sets = data_sets(chosen, request)
    root = _root(chosen, sets, request.data_root)
    if all(one.generated for one in sets):
        _say(console, f"suite {suite} needs no files")
        return 0
    lacking = [_missing_own(one, root) for one in sets if not one.archives and not one.generated]
    for problem in filter(None, lacking):
        _say(console, f"Nothing to download for data of your own. {problem}", style="red")
    try:
        done = _fetch_missing(_archives(sets), root, keep, console)
    except (DownloadError, DatasetError) as error:
        _say(console, str(error), style="red")
        return 1
    except KeyboardInterrupt:
        _say(console, "interrupted: what was downloaded is kept; the same command goes on")
        return 1
    if not done or any(lacking):
        return 1
    where = f" --data-root {root}" if root else ""
    _say(console, f"All is there. `python run_all.py data verify --suite {suite}{where}` checks it.")
    return 0


def data_sets(suite: Suite, request: Request) -> list[DataSet]:
    """Every data set of the request's preset (None: of all), once; --set data.KEY changes their options."""
    presets = suite.presets
    if request.preset is not None:
        presets = {request.preset: look_up(f"preset of suite {suite.name}", request.preset, suite.presets)}
    changes = {}
    for key, value in request.overrides.items():
        if not key.startswith("data."):
            raise unknown("key in --set", key, [f"data.{name}" for m in _models(suite) for name in m.model_fields])
        changes[key.removeprefix("data.")] = value
    found: dict[str, DataSet] = {}
    for name, data in ((name, data) for name, preset in presets.items() for data in preset.data.values()):
        options = check(DATA_OPTIONS[data.dataset], {**data.options, **changes}, "data").model_dump()
        options = {name: value for name, value in options.items() if name != "val_limit"}  # the whole is asked about
        key = f"{data.dataset} {sorted(options.items())}"
        users = dict.fromkeys((*(found[key].presets if key in found else ()), name))
        found[key] = DataSet(data.dataset, options, tuple(users), official_archives(data.dataset, options))
    return list(found.values())


def _models(suite: Suite) -> Iterator[type]:
    return (DATA_OPTIONS[data.dataset] for preset in suite.presets.values() for data in preset.data.values())


def _archives(sets: Sequence[DataSet]) -> list[Archive]:
    return list(dict.fromkeys(archive for one in sets for archive in one.archives))


def _root(suite: Suite, sets: Sequence[DataSet], root: Path | None) -> Path | None:
    """--data-root, which only generated data and absolute paths can do without."""
    if root is None and not all(one.generated or _absolute(one) for one in sets):
        raise UsageError(f"--data-root DIR is missing; suite {suite.name} needs {suite.needs or 'its data there'}")
    return root


def _absolute(one: DataSet) -> bool:
    files = [value for key, value in one.options.items() if key.endswith("_annotations")]
    return bool(files) and all(Path(file).is_absolute() for file in files)


# What is there


def _only_for(archive: Archive, sets: Sequence[DataSet]) -> str:
    """A remark on archives that some presets can do without."""
    every = dict.fromkeys(name for one in sets for name in one.presets)
    users = dict.fromkeys(name for one in sets if archive in one.archives for name in one.presets)
    return "" if users == every else f" (only for --preset {', '.join(users)})"


def _archive_findings(archive: Archive, root: Path, again: str, quick: bool, console: Console) -> Iterator[Finding]:
    """Lines for one archive: the file itself where it lies in ``root``, then each count of what it unpacks to.

    ``again`` is the command that gets it.
    """
    path, part = root / archive.name, root / f"{archive.name}.part"
    known = f"{archive.size:,} bytes, {archive.checksum.partition(':')[0]}" if archive.size else "no published checksum"
    if path.is_file():
        fault = wrong(path, archive, console, quick)
        advice = f"{path}: {fault} ({archive.origin}). Delete it; {again} gets it again" if fault else ""
        state = "broken" if fault else "ok" if archive.checksum and not quick else "not checked"
        yield Finding(archive.title, archive.name, known, fault or f"{path.stat().st_size:,} bytes", state, advice)
    if part.is_file():
        problem = f"{part}: an unfinished download. {again} goes on with it"
        yield Finding(archive.title, part.name, known, f"{part.stat().st_size:,} bytes", "unfinished", problem)
    try:
        there = survey(archive, root)
    except DatasetError as error:
        yield Finding(archive.title, archive.makes, "", "", "broken", str(error))
        return
    problem = _problem(there, root, again)
    for count, n in zip(archive.counts, there.found, strict=True):
        state = "ok" if n == count.number else "missing" if n == 0 else "partial" if n < count.number else "too many"
        yield Finding(archive.title, count.what, f"{count.number:,}", f"{n:,}", state, "" if state == "ok" else problem)


def _problem(there: Survey, root: Path, again: str) -> str:
    """What lacks of an archive, and what to do; "" where it is whole."""
    archive = there.archive
    if there.whole:
        return ""
    if there.empty and (root / archive.name).is_file():
        return f"{archive.title}: {archive.name} is not unpacked. {again} does it."
    if there.empty:
        places = ", ".join(place or "the folder itself" for place in archive.places)
        way = "gets it" if archive.urls else "says how to get it"
        return f"{archive.title}: nothing of {archive.name} in {root}; looked in {places}. {again} {way}."
    return f"{archive.title} in {there.folder}: {', '.join(there.gaps())}"


def _split_finding(one: DataSet, split: str, root: Path | None, store: Store, quick: bool, console: Console) -> Finding:
    """Open one split as a run does and, unless ``quick``, decode every sample of it."""
    title = one.split_title(split)
    official = official_samples(one.name, one.options, split) if one.archives else None
    expected = "" if official is None else f"{official:,}"
    try:
        opened = open_split(one.name, split, one.options, root, store.file_digests)
        broken = [] if quick or one.generated else broken_samples(opened, store, console)
    except DatasetError as error:
        return Finding(one.name, title, expected, "", "missing", str(error))
    found = f"{len(opened):,}"
    if one.generated:
        return Finding(one.name, title, "", found, "needs no files")
    if broken:
        more = f"\n  and {len(broken) - 5:,} more" if len(broken) > 5 else ""
        problem = "\n  ".join([f"{one.name}: {len(broken):,} broken {title}:", *broken[:5]]) + more
        return Finding(one.name, title, expected, f"{found}, {len(broken):,} broken", "broken", problem)
    if official not in (None, len(opened)):
        state = "partial" if len(opened) < official else "too many"
        return Finding(one.name, title, expected, found, state, f"{one.name}: {found} of {expected} {title}")
    return Finding(one.name, title, expected, found, "not checked" if quick else "ok")


def broken_samples(split: Dataset, store: Store, console: Console) -> list[str]:
    """Decode every sample; the messages of those that cannot be used. A split that was whole once is not read again.

    Raises `DatasetError` where a file cannot be read at all.
    """
    marker = store.verified(split.info.fingerprint)
    if marker.exists():
        return []
    broken = []
    with bar(console, f"checking {split.info.name} {split.info.split}", len(split)) as advance:
        for index in range(len(split)):
            try:
                split.verify(index)
            except DatasetError as error:
                broken.append(str(error))
            advance(index + 1)
    if not broken:
        write_text(marker, f"{split.info.name} {split.info.split}: {len(split)} samples\n")
    return broken


def _report(findings: Sequence[Finding], console: Console) -> int:
    rows = [(one.data, one.what, one.expected, one.found, one.state) for one in findings]
    headers = ("data set", "what", "expected", "found", "state")
    align = ("left", "left", "right", "right", "left")
    _say(console, tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align))
    for problem in dict.fromkeys(one.problem for one in findings if one.problem):
        _say(console, f"\n{problem}", style="red")
    bad = [one for one in findings if not one.good]
    if bad:
        _say(console, f"\n{len(bad)} of {len(findings)} lines are not as they should be")
        if any(one.state in ("partial", "too many") for one in bad):
            _say(console, _PARTIAL)
        return 1
    unchecked = sum(one.state == "not checked" for one in findings)
    _say(console, "\nall is there" + (f"; {unchecked} were not looked into" if unchecked else ""))
    return 0


# Fetching what is not there


def _missing_own(one: DataSet, root: Path | None) -> str:
    """Why data that no archive holds cannot be opened; "": they can."""
    try:
        for split in ("train", "val"):
            open_split(one.name, split, one.options, root, None)
    except DatasetError as error:
        return str(error)
    return ""


def _fetch_missing(archives: Sequence[Archive], root: Path | None, keep: bool, console: Console) -> bool:
    """Fetch and unpack what lacks; False where a registration is needed. Nothing that is there is written over."""
    wanted = []
    for archive in archives:
        there = survey(archive, root)
        if there.whole:
            _say(console, f"{archive.title}: {archive.name} is there, whole, in {there.folder}")
        elif not there.empty:
            raise DownloadError(
                f"{archive.title} in {there.folder} is there, but not whole: {', '.join(there.gaps())}. Nothing is "
                "written over it: move it away, or name another --data-root."
            )
        else:
            wanted.append(archive)
    by_hand = [one for one in wanted if not one.urls and not (root / one.name).is_file()]
    wanted = [one for one in wanted if one not in by_hand]
    if wanted:
        _prepare(wanted, root, keep, console)
    for archive in wanted:
        _fetch_one(archive, root, keep, console)
    for steps in dict.fromkeys(one.steps for one in by_hand):
        names = first_five([one.name for one in by_hand if one.steps == steps])
        _say(console, f"{names} cannot be downloaded for you.\n{steps.format(root=root)}")
    return not by_hand


def _prepare(wanted: Sequence[Archive], root: Path, keep: bool, console: Console) -> None:
    """Make the folder, check that nothing is in the way and that the disk has room, and say what will come."""
    for archive in wanted:
        if (root / archive.makes).exists():
            raise DownloadError(f"{root / archive.makes} is in the way of {archive.name}; move it away")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"--data-root {root} cannot be made: {error.strerror}") from error
    for line in dict.fromkeys(f"{one.title}: {one.terms}" for one in wanted):
        _say(console, line)
    names = ", ".join(one.name for one in wanted)
    room, free = needed(wanted, root, keep), shutil.disk_usage(root).free
    _say(console, f"{names}: takes about {_size(room)} in {root} at the fullest, {_size(free)} are free")
    if free < room:
        raise DownloadError(f"There is not enough room in {root}: free {_size(room - free)}, or name another folder.")


def _fetch_one(archive: Archive, root: Path, keep: bool, console: Console) -> None:
    path = root / archive.name
    ours = not path.exists()
    if ours:
        fetch(archive, root, console)
    elif fault := wrong(path, archive, console):
        raise DownloadError(f"{path} is not the known archive: {fault}; delete it and run the command again")
    unpack(path, archive, root, console)
    _say(console, f"{archive.title}: {archive.name} is unpacked to {root / archive.makes}")
    if ours and not keep:
        path.unlink()
    elif not keep:
        _say(console, f"{path} was there before and is kept; it is not needed any more")


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(printable(text, lines=True), markup=False, emoji=False, soft_wrap=True, style=style)
