"""The main job: verify data, run what is missing, keep records, draw tables."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets.base import DatasetError
from harness import plots, tables
from harness.cell import CellPlan
from harness.launch import Outcome, launch
from harness.names import UsageError
from harness.plan import Cell, Request, open_data, plan, resolve, stage_data
from harness.progress import Follower, bar
from harness.provenance import environment
from harness.record import Evaluation, PredictCost, Provenance, Record, TrainCost, read_summary
from harness.reported import check_reported
from harness.store import STEPS, Store, digest, write_file, write_text
from harness.suite import Preset, Row, RowPreset, Suite, load_suite
from methods.rcnn import published

NEEDS_NO_FILES = {"shapes"}
# What --set may change without making a recipe or its judgement another one: how it runs, and regions that papers have.
HARMLESS = {"train.workers", "data.regions"}


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
        tuple(request.tables or ()),
        left_out,
    )


def run(job: Job, console: Console) -> int:
    """Run the job's missing steps and print its tables.

    Exit status: 0 all cells ok, 1 a cell failed, a row cannot run here, or interrupted.
    """
    records: list[Record] = []
    _say_left_out(job, console)  # and once more at the end: days may lie between
    try:
        for record in _records(job, console):
            records.append(record)
    except KeyboardInterrupt:
        _show_tables(job, records, console)
        done = f"{len(records)} of {len(job.cells)} cells are done and kept"
        console.print(f"\ninterrupted: {done}; the same command goes on")
        return 1
    _show_tables(job, records, console)
    failed = [record for record in records if record.status != "ok"]
    for record in failed:  # the whole reason; the log's tail is in the record
        console.print(f"{record.cell} {record.status}: {record.reason}", style="red", markup=False, soft_wrap=True)
    _say_left_out(job, console)
    return 1 if failed or job.left_out else 0


def _say_left_out(job: Job, console: Console) -> None:
    for row, reason in job.left_out.items():
        console.print(f"{row} is left out: {reason}", style="red", markup=False, soft_wrap=True)


def run_cells(job: Job, console: Console) -> list[Record]:
    """Check the data, then run each cell's missing steps; a cell that fails has a record that says so."""
    return list(_records(job, console))


def _records(job: Job, console: Console) -> Iterator[Record]:
    try:
        job.store.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {job.store.output} cannot be written: {error.strerror}") from error
    _verify_data(job, console)
    for number, cell in enumerate(job.cells, 1):
        yield _run_cell(job, cell, f"[{number}/{len(job.cells)}] {cell.settings.cell}", console)


def _verify_data(job: Job, console: Console) -> None:
    """Check every sample of splits that a missing step will read; once for each fingerprint."""
    for cell in job.cells:
        if len(cell.finished()) == len(STEPS):
            continue
        options = tuple(sorted(cell.settings.data.items()))
        splits = open_data(cell.settings.dataset, options, job.data_root, job.store.file_digests)
        others = stage_data(cell.settings, job.data_root, job.store.file_digests)
        for split in (splits.train, *others.values(), splits.val):
            marker = job.store.verified(split.info.fingerprint)
            if marker.exists() or split.info.generated:
                continue
            with bar(console, f"checking {split.info.name} {split.info.split}", len(split)) as advance:
                try:
                    for index in range(len(split)):
                        split.verify(index)
                        advance(index + 1)
                except DatasetError as error:
                    raise UsageError(str(error)) from error
            write_text(marker, f"{split.info.name} {split.info.split}: {len(split)} samples\n")


def _run_cell(job: Job, cell: Cell, title: str, console: Console) -> Record:
    finished = cell.finished()
    missing = [step for step in STEPS if step not in finished]
    record = None if missing else read_record(cell.record)
    if record is not None:
        console.print(f"{title}: reused {', '.join(STEPS)}", markup=False)
        return record
    reused = f" (reused {', '.join(finished)})" if finished else ""
    by = f" by {cell.implementation}" if cell.implementation else ""
    console.print(f"{title}: {', '.join(missing) or 'record'}{reused}{by}", markup=False, soft_wrap=True)
    outcome = Outcome("ok", "", "")
    if missing:  # a later step whose input is made anew is made anew too
        folder = job.store.output / "logs" / f"{cell.settings.cell}-{cell.keys['evaluate']}"
        with Follower(console) as follower, job.store.drafts() as drafts:
            handed = CellPlan(
                settings=cell.settings,
                output=job.store.output.resolve(),
                data_root=_absolute(job.data_root),
                folders={step: folder.resolve() for step, folder in cell.folders.items()},
                drafts=drafts,
                missing=tuple(missing),
            )
            outcome = launch(handed, folder, job.preset.timeout, follower.message)
        if outcome.status == "ok" and len(cell.finished()) < len(STEPS):
            outcome = Outcome("failed", "the process ended early and said nothing", outcome.log)
    record = make_record(cell, outcome)
    write_text(cell.record, record.model_dump_json(indent=1))
    return record


def read_record(path: Path) -> Record | None:
    """The record at ``path``; None where there is none or it is damaged: it is then made anew from the steps."""
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def make_record(cell: Cell, outcome: Outcome) -> Record:
    """Put together what the finished steps left."""
    return Record(
        cell=cell.settings.cell,
        status=outcome.status,
        reason=outcome.reason,
        log=outcome.log,
        settings=cell.settings,
        train=read_summary(cell.folders["train"], TrainCost),
        predict=read_summary(cell.folders["predict"], PredictCost),
        evaluation=read_summary(cell.folders["evaluate"], Evaluation),
        provenance=Provenance(
            environment=environment(on_gpu=False),
            train_fingerprint=cell.train_fingerprint,
            val_fingerprint=cell.val_fingerprint,
            keys=dict(cell.keys),
            implementation=cell.implementation,
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        ),
    )


def tables_folder(job: Job) -> Path:
    """Where the job's tables lie. Those of changed settings, or of other data, must not take each other's place."""
    cells = [*job.cells, *job.others]
    data = sorted({cell.val_fingerprint for cell in cells if not NEEDS_NO_FILES & {cell.settings.dataset}})
    parts = [*changes(job), *data]
    return job.store.tables(job.suite.name, job.preset_name + (f"-{digest(parts)[:8]}" if parts else ""))


def changes(job: Job) -> list[str]:
    """What --set changed, as "KEY = VALUE"."""
    return [f"{key} = {value}" for key, value in sorted(job.overrides.items())]


def _weights_alone(job: Job) -> set[str]:
    """Keys that only say where the preset's own file of weights lies, for a row that trains nothing."""
    found = set()
    for key, value in job.overrides.items():
        row, _, rest = key.rpartition(".")
        own = job.preset.rows.get(row, RowPreset()).config.get("weights", "")
        cells = [cell for cell in job.cells if cell.settings.row == row]
        untrained = not any(stage.steps for cell in cells for stage in cell.settings.train.stages())
        name = Path(str(value)).name
        same = name == Path(own).name or (own == "download" and published(name) is not None)  # fetched by other means
        if rest == "weights" and own and untrained and same:
            found.add(key)
    return found


def _in_preset(row: Row, changed: RowPreset | None) -> Row:
    """A row with the title that a preset gives it, and its reason why no paper has such numbers."""
    own = {name: getattr(changed, name) for name in ("title", "not_comparable") if getattr(changed, name, "")}
    return row.model_copy(update=own)


def _show_tables(job: Job, records: Sequence[Record], console: Console) -> None:
    """Write every table and plot of the suite; print those that have something to show, or were asked for."""
    folder, changed = tables_folder(job), changes(job)
    notes = [f"changed with --set: {', '.join(changed)}"] if changed else []
    notes += [f"data: {job.data_root}"] if job.data_root else []
    reason = "settings changed with --set" if set(job.overrides) - HARMLESS - _weights_alone(job) else ""
    rows = {**job.suite.rows, **{cell.settings.row: cell.row for cell in job.cells}}
    rows = {name: _in_preset(row, job.preset.rows.get(name)) for name, row in rows.items()}
    kept = [record for record in (read_record(cell.record) for cell in job.others) if record is not None]
    known = [*records, *kept]
    empty, seeds = [], {cell.settings.seed for cell in job.cells}
    own = [row for row in rows if row not in job.suite.rows]  # a method of the person's own belongs into every table
    for name, table in job.suite.tables.items():
        table = table.model_copy(update={"rows": (*table.rows, *own)}) if table.rows else table
        drawn = tables.draw(table, rows, job.preset, known, notes, reason, len(seeds))
        for suffix, text in (
            ("md", drawn.markdown()),
            ("csv", drawn.csv()),
            ("tex", drawn.latex(f"{folder.name}-{name}")),
        ):
            write_text(folder / f"{name}.{suffix}", text)
        # The terminal's width is the reader's business: a wrapped table is worse than a wide one.
        if name in job.tables or {record.settings.row for record in known} & set(table.rows or rows):
            console.print(f"\n{drawn.terminal()}", markup=False, highlight=False, soft_wrap=True)
        else:
            empty.append(name)
    for name, plot in job.suite.plots.items():
        image = plots.plot(plot, rows, job.preset, known, notes)
        if image is not None:
            write_file(folder / f"{name}.png", lambda file, image=image: file.write(image))
    if empty:
        console.print(
            f"\nnothing run yet of the tables {', '.join(empty)}: --tables NAME runs their rows", soft_wrap=True
        )
    console.print(f"\ntables: {folder}   records: {job.store.output / 'records'}", markup=False, soft_wrap=True)
