"""A planned sweep: what the command line asks for, resolved, with the state of every cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.launch import Limits
from harness.machine import memory_sizes
from harness.names import UsageError
from harness.plan import Cell, Request, plan, resolve
from harness.reported import check_reported
from harness.store import Store
from harness.suite import Preset, Suite, load_suite

_OF_MACHINE = 0.95  # a cell that takes more is stopped and says so, before the system kills whatever it picks


@dataclass(frozen=True)
class Job:
    """A planned sweep: the chosen ``cells``, the suite's ``others``, which tables show too, the ``tables`` asked
    for by name, and the rows that cannot run here, with the reason (``left_out``)."""

    suite: Suite
    preset_name: str
    preset: Preset
    cells: list[Cell]
    others: list[Cell]
    store: Store
    data_root: Path | None
    overrides: Mapping[str, Any]
    limits: Limits
    tables: tuple[str, ...]
    left_out: Mapping[str, str]


def make_job(suite_name: str, request: Request, output: Path) -> Job:
    """Resolve and plan; raises `UsageError` for whatever the person has to mend."""
    suite = load_suite(suite_name)
    check_reported(suite)
    own = sorted({"data.train_annotations", "data.val_annotations"} & set(request.overrides))
    if own and all(data.dataset != "coco" for preset in suite.presets.values() for data in preset.data.values()):
        coco = "--train and --val name annotations in COCO's layout"
        raise UsageError(f"{coco}, and suite {suite_name} has other data: take --suite coco or --suite nuclei")
    preset_name, preset, settings = resolve(suite, request)
    store = Store(output)
    # A row that was asked for by name must run; of a table or a preset, those that can.
    left_out: dict[str, str] = {}
    cells = plan(settings, store, request.data_root, left_out if request.methods is None else None)
    if left_out and not cells:
        raise UsageError("; ".join(f"{row}: {reason}" for row, reason in left_out.items()))
    chosen = {cell.settings.cell for cell in cells}
    every_row = dataclasses.replace(request, methods=list(suite.rows), tables=None, lenient=True)
    _, _, everything = resolve(suite, every_row)
    rest = [pair for pair in everything if pair[1].cell not in chosen]
    others = plan(rest, store, request.data_root, {})
    return Job(
        suite,
        preset_name,
        preset,
        cells,
        others,
        store,
        request.data_root,
        request.overrides,
        _limits(preset, request),
        tuple(request.tables or ()),
        left_out,
    )


def _limits(preset: Preset, request: Request) -> Limits:
    """The command line's, or else the preset's time and nearly all of the machine's memory."""
    memory = 1e9 * request.memory if request.memory else _OF_MACHINE * memory_sizes()[0]
    return Limits(request.timeout or preset.timeout, int(memory))


def changes(job: Job) -> list[str]:
    """What --set changed, as "KEY = VALUE"."""
    return [f"{key} = {value}" for key, value in sorted(job.overrides.items())]
