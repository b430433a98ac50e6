"""What there is, and what would run: the text behind `list` and `--dry-run`."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from tabulate import tabulate

import methods
from datasets import DATASETS
from harness import estimate
from harness.checkpoint import Checkpoints
from harness.job import Job, make_job
from harness.keys import differences
from harness.names import MissingData, UsageError, look_up
from harness.plan import Cell, Request, load_method, resolve
from harness.progress import bar
from harness.record import read_record
from harness.settings import Settings
from harness.store import INPUTS, STEPS, Store
from harness.suite import load_suite, suite_names


def show_dry_run(suite: str, request: Request, output: Path, console: Console) -> None:
    """What `show_plan` shows, or without the data what can be known without them."""
    try:
        job = make_job(suite, request, output)
    except MissingData as error:
        preset_name, preset, cells = resolve(load_suite(suite), request)
        _print(console, f"suite {suite}, preset {preset_name}: {preset.description}")
        _print(console, f"States and estimates of the cells are unknown, because the data cannot be opened: {error}")
        _show_settings([settings for _, settings in cells], console)
        return
    show_plan(job, console)
    for row, reason in job.left_out.items():
        _print(console, f"\n{row} is left out: {reason}")


def show_plan(job: Job, console: Console) -> None:
    """Cells with the state of their steps, then the settings that each one resolves to."""
    _print(console, f"suite {job.suite.name}, preset {job.preset_name}: {job.preset.description}")
    estimates, trained, total = [], set(), 0.0
    with bar(console, "estimating time and memory", len(job.cells)) as advance:
        for number, cell in enumerate(job.cells, 1):
            shared = cell.folders["train"] in trained
            trained.add(cell.folders["train"])
            text, seconds = estimate.describe(cell, job.data_root, job.store, shared)
            estimates.append(text)
            total += seconds
            advance(number)
    _print(console, _cells(job.cells, estimates))
    _print_stale(console, job.cells)
    _print(
        console,
        f"about {estimate.duration(total)} in all; estimates are from small images of noise, now, on "
        f"{estimate.device_name()}, without loading, grouping and judging",
    )
    _show_settings([cell.settings for cell in job.cells], console)


def _show_settings(cells: Sequence[Settings], console: Console) -> None:
    """What all cells share, then what each one has beside it."""
    lines = {settings.cell: _settings_lines(settings) for settings in cells}
    shared = set.intersection(*map(set, lines.values())) if len(lines) > 1 else set()
    if shared:
        common = [line for line in next(iter(lines.values())) if line in shared]
        _print(console, "\nall cells\n" + "\n".join(common))
    for cell, own in lines.items():
        _print(console, f"\n{cell}\n" + "\n".join(line for line in own if line not in shared))


def _settings_lines(settings: Settings) -> list[str]:
    sections = {
        f"{settings.method}": settings.config,
        "data": {"dataset": settings.dataset, **settings.data},
        "train": settings.train.model_dump(exclude={"then"}),
        **{
            f"train.then[{place}]": then.model_dump(exclude_unset=True)
            for place, then in enumerate(settings.train.then)
        },
        "predict": settings.predict.model_dump(),
        "evaluate": settings.evaluate.model_dump(),
    }
    return [f"  {name}.{key} = {value}" for name, values in sections.items() for key, value in values.items()]


def show_everything(
    suite: str | None, preset: str | None, data_root: Path | None, output: Path, console: Console
) -> None:
    """Suites with presets, methods, data sets, and each suite's cells with their state in ``output``."""
    names = suite_names()
    if suite is not None:
        look_up("suite", suite, dict.fromkeys(names))
        names = [suite]
    suites = [load_suite(name) for name in names]
    if preset is not None:
        look_up("preset", preset, dict.fromkeys(key for one in suites for key in one.presets))
    rows = [(s.name, s.title, ", ".join(s.presets), s.needs or "nothing") for s in suites]
    _print(console, tabulate(rows, ("suite", "title", "presets", "needs"), tablefmt="simple"))
    rows = [(name, load_method(name).paper, ", ".join(sorted(load_method(name).tasks))) for name in methods.available()]
    _print(console, "\n" + tabulate(rows, ("method", "paper", "tasks"), tablefmt="simple"))
    _print(console, "\n" + tabulate(sorted(DATASETS.items()), ("data set", "what it is"), tablefmt="simple"))
    for one in suites:
        chosen = preset or one.default_preset
        _print(console, f"\nsuite {one.name}, preset {chosen}, in {output}; tables: {', '.join(one.tables)}")
        try:
            cells = make_job(one.name, Request(preset=chosen, data_root=data_root), output).cells
            _print(console, _cells(cells))
            _print_stale(console, cells)
        except UsageError as error:
            _print(console, f"  cells unknown: {error}")


def _cells(cells: list[Cell], estimates: Sequence[str] = ()) -> str:
    """A line for each cell; ``estimates`` of what is missing, if there are any, come last."""
    rows = [[cell.settings.cell, cell.settings.method, *_states(cell), _record_state(cell)] for cell in cells]
    head = ["cell", "method", *STEPS, "record"]
    if estimates:
        rows, head = [[*row, text] for row, text in zip(rows, estimates, strict=True)], [*head, "estimate"]
    return tabulate(rows, head, tablefmt="simple")


def _states(cell: Cell) -> list[str]:
    """Step by step: done; to be done again (damaged, or behind one that is missing); at some step of the training;
    stale (there is a result under another key); or missing."""
    return [_state(cell, step, cell.finished()) for step in STEPS]


def _state(cell: Cell, step: str, finished: Sequence[str]) -> str:
    folder = cell.folders[step]
    if step in finished:
        return "done"
    if folder.is_dir():
        return "again"
    half = Checkpoints(Store(folder.parents[2]).unfinished(folder.name), 0.0).step() if step == "train" else 0
    return f"at step {half}" if half else "stale" if _others(folder) else "missing"


def _others(folder: Path) -> list[Path]:
    """Results of the same step of the same cell under other keys, the newest first."""
    found = folder.parent.glob(f"{glob.escape(folder.name.rpartition('-')[0])}-*")
    return sorted((one for one in found if one != folder), key=lambda one: one.stat().st_mtime, reverse=True)


def why_stale(cell: Cell) -> str:
    """Why the first step that is missing cannot use the nearest result there is; empty where there is none."""
    for step in STEPS:
        folder = cell.folders[step]
        if not folder.is_dir():
            # Rows may share the name of their training: the result that differs least is the one to speak of.
            reasons = [_why(other, cell.inputs[step]) for other in _others(folder)]
            return f"{step}: {'; '.join(min(reasons, key=len))}" if reasons else ""
    return ""


def _why(old: Path, inputs: Mapping[str, Any]) -> list[str]:
    try:
        before = json.loads((old / INPUTS).read_text(encoding="utf-8"))
        return differences(before, json.loads(json.dumps(inputs))) or ["the key is made otherwise"]
    except (OSError, ValueError, AttributeError):
        return ["the result there is does not say what it was made of"]


def _print_stale(console: Console, cells: Sequence[Cell]) -> None:
    """Stale cells by their reason, which many may share."""
    reasons: dict[str, list[str]] = {}
    for cell in cells:
        if reason := why_stale(cell):
            reasons.setdefault(reason, []).append(cell.settings.cell)
    for reason, names in reasons.items():
        _print(console, f"stale: {', '.join(names)}: {reason}")


def _record_state(cell: Cell) -> str:
    record = read_record(cell.record)
    return "-" if record is None else record.status


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
