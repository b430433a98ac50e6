"""The main job: verify data, run what is missing, keep records, draw tables."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from datasets.base import DatasetError
from harness.cell import CellPlan
from harness.job import Job
from harness.launch import Outcome, launch
from harness.names import UsageError
from harness.plan import Cell, open_data, stage_data
from harness.progress import Follower, bar
from harness.provenance import environment
from harness.record import Evaluation, PredictCost, Provenance, Record, TrainCost, read_record, read_summary
from harness.shown import show_tables
from harness.store import STEPS, write_text


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
    show_tables(job, records, console)
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
