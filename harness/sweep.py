"""The main job: verify data, run what is missing, keep records, draw tables."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from datasets.base import DatasetError
from harness.cell import CellPlan
from harness.checkpoint import Checkpoints
from harness.job import Job
from harness.launch import Outcome, launch
from harness.locks import Busy, hold
from harness.names import UsageError
from harness.plan import Cell, open_data, stage_data
from harness.progress import Follower, bar
from harness.provenance import environment
from harness.record import Evaluation, PredictCost, Provenance, Record, TrainCost, read_record, read_summary
from harness.shown import show_tables
from harness.store import STEPS, Store, write_text

_ASK_AGAIN = 1.0  # seconds between two looks at cells that another run is at work on


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
        show_tables(job, records, console)
        done = f"{len(records)} of {len(job.cells)} cells are done and kept"
        console.print(f"\ninterrupted: {done}; the same command goes on")
        return 1
    written = show_tables(job, records, console)
    failed = [record for record in records if record.status != "ok"]
    for record in failed:  # the whole reason; the log's tail is in the record
        log = job.store.output / "logs" / f"{record.cell}-{record.provenance.keys['evaluate']}" / "log.txt"
        where = f"   log: {log}" if log.is_file() else ""
        console.print(
            f"{record.cell} {record.status}: {record.reason}{where}", style="red", soft_wrap=True, markup=False
        )
    _say_left_out(job, console)
    return 1 if failed or job.left_out or not written else 0


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
    job.store.tidy()
    _verify_data(job, console)
    yield from _in_turn(job, console)


def _in_turn(job: Job, console: Console) -> Iterator[Record]:
    """Cell by cell; one that another run is at work on is put off, and its results are taken over then."""
    told, before = set(), {cell.record: _content(cell.record) for cell in job.cells}
    waiting = [(f"[{number}/{len(job.cells)}] {one.settings.cell}", one) for number, one in enumerate(job.cells, 1)]
    while waiting:
        for place, (title, cell) in enumerate(waiting):
            locks = [job.store.lock(cell.folders[step]) for step in STEPS if step not in cell.finished()]
            try:
                with hold(locks) as held:
                    record = _run_cell(job, cell, title, console, held, before[cell.record])
            except OSError as error:  # a disk that is full, or may not be written: the next cell may need none
                record = make_record(cell, Outcome("failed", f"the driver cannot run it: {error}", ""))
            except Busy as error:
                if title not in told:
                    console.print(f"{title}: another run is at work on it ({error})", markup=False, soft_wrap=True)
                told.add(title)
                continue
            yield record
            del waiting[place]
            break
        else:
            time.sleep(_ASK_AGAIN)


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


def _run_cell(job: Job, cell: Cell, title: str, console: Console, locks: Sequence[int], before: bytes) -> Record:
    """Run what is missing of a cell whose ``locks`` are held; ``before``: its record's content when this run began."""
    finished = cell.finished()
    missing = [step for step in STEPS if step not in finished]
    record = read_record(cell.record)
    if record is not None and not missing and record.status == "ok":
        console.print(f"{title}: reused {', '.join(STEPS)}", markup=False)
        return record
    if record is not None and missing and _content(cell.record) != before:
        console.print(f"{title}: {record.status} in another run, just now", markup=False)
        return record
    checkpoints = Checkpoints(job.store.unfinished(cell.folders["train"].name), 0.0)
    if "train" in finished:
        checkpoints.remove()  # of a run that was killed right after the training
    on = f" from step {checkpoints.step()} on" if checkpoints.step() else ""
    todo = ", ".join(f"{step}{on}" if step == "train" else step for step in missing) or "record"
    reused = f" (reused {', '.join(finished)})" if finished else ""
    by = f" by {cell.implementation}" if cell.implementation else ""
    console.print(f"{title}: {todo}{reused}{by}", markup=False, soft_wrap=True)
    outcome = Outcome("ok", "", "")
    if missing:  # a later step whose input is made anew is made anew too
        folder = job.store.output / "logs" / f"{cell.settings.cell}-{cell.keys['evaluate']}"
        with Follower(console) as follower, job.store.drafts(cell.folders["evaluate"].name) as drafts:
            handed = cell_plan(cell, job.store, job.data_root, drafts, missing)
            outcome = launch(handed, folder, job.limits, follower.message, locks)
        if outcome.status == "ok" and len(cell.finished()) < len(STEPS):
            outcome = Outcome("failed", "the process ended early and said nothing", outcome.log)
        elif outcome.status == "ok":
            outcome = Outcome("ok", "", "")
    record = make_record(cell, outcome)
    try:
        write_text(cell.record, record.model_dump_json(indent=1))
    except OSError as error:  # on a full disk the sweep goes on: a later cell may need none
        console.print(f"{title}: its record cannot be written: {error}", style="red", markup=False, soft_wrap=True)
    return record


def _content(path: Path) -> bytes:
    """A file's content; nothing where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def cell_plan(cell: Cell, store: Store, data_root: Path | None, drafts: Path, missing: Sequence[str]) -> CellPlan:
    """What a cell's process needs to run the ``missing`` steps: all paths absolute, for it works in another folder."""
    return CellPlan(
        settings=cell.settings,
        output=store.output.resolve(),
        data_root=None if data_root is None else data_root.resolve(),
        folders={step: folder.resolve() for step, folder in cell.folders.items()},
        inputs=cell.inputs,
        checkpoints=store.unfinished(cell.folders["train"].name).resolve(),
        drafts=drafts,
        missing=tuple(missing),
    )


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
