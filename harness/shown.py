"""What a sweep shows: every table and plot of its suite, written to the results folder and printed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness import plots, samples, tables
from harness.job import Job, changes
from harness.record import Record, read_record
from harness.store import digest, write_file
from harness.suite import Row, RowPreset
from methods.rcnn import published

NEEDS_NO_FILES = {"shapes"}
# What --set may change without making a recipe or its judgement another one: how it runs, and regions that papers have.
HARMLESS = {"train.workers", "data.regions"}


def tables_folder(job: Job) -> Path:
    """Where the job's tables lie. Those of changed settings, other data or other seeds must not take each other's
    place."""
    cells = [*job.cells, *job.others]
    data = sorted({cell.val_fingerprint for cell in cells if not NEEDS_NO_FILES & {cell.settings.dataset}})
    parts = [*changes(job), *data, *filter(None, [other_seeds(job)])]
    return job.store.tables(job.suite.name, job.preset_name + (f"-{digest(parts)[:8]}" if parts else ""))


def other_seeds(job: Job) -> str:
    """What to say of seeds that are not the preset's; empty where they are."""
    seeds = {cell.settings.seed for cell in job.cells}
    if not seeds or seeds == set(job.preset.seeds):
        return ""
    return f"seeds {', '.join(map(str, sorted(seeds)))}: not the preset's"


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


def show_tables(job: Job, records: Sequence[Record], console: Console) -> bool:
    """Write every table and plot of the suite; print those that have something to show, or were asked for.

    False where a file could not be written, on a full disk for example; what is printed is all there.
    """
    problems: list[str] = []

    def keep(path: Path, content: str | bytes) -> None:
        try:
            write_file(path, lambda file: file.write(content.encode() if isinstance(content, str) else content))
        except OSError as error:
            problems.append(f"{path} cannot be written: {error.strerror or error}")

    folder, changed = tables_folder(job), changes(job)
    notes = [f"changed with --set: {', '.join(changed)}"] if changed else []
    notes += [f"data: {job.data_root}"] if job.data_root else []
    notes += filter(None, [other_seeds(job)])
    reason = "settings changed with --set" if set(job.overrides) - HARMLESS - _weights_alone(job) else ""
    rows = {**job.suite.rows, **{cell.settings.row: cell.row for cell in job.cells}}
    rows = {name: _in_preset(row, job.preset.rows.get(name)) for name, row in rows.items()}
    kept = [record for record in (read_record(cell.record) for cell in job.others) if record is not None]
    known = [*records, *kept]
    folders = {cell.settings.cell: cell.folders["evaluate"] for cell in [*job.cells, *job.others]}
    read = functools.cache(lambda cell: samples.load(folders[cell]))
    empty, seeds = [], {cell.settings.seed for cell in job.cells}
    own = [row for row in rows if row not in job.suite.rows]  # a method of the person's own belongs into every table
    for name, table in job.suite.tables.items():
        table = table.model_copy(update={"rows": (*table.rows, *own)}) if table.rows else table
        drawn = tables.draw(
            table, rows, job.preset, known, notes, reason, len(seeds), lambda record: read(record.settings.cell)
        )
        for suffix, text in (
            ("md", drawn.markdown()),
            ("csv", drawn.csv()),
            ("tex", drawn.latex(f"{folder.name}-{name}")),
        ):
            keep(folder / f"{name}.{suffix}", text)
        # The terminal's width is the reader's business: a wrapped table is worse than a wide one.
        if name in job.tables or {record.settings.row for record in known} & set(table.rows or rows):
            console.print(f"\n{drawn.terminal()}", markup=False, highlight=False, soft_wrap=True)
        else:
            empty.append(name)
    for name, plot in job.suite.plots.items():
        image = plots.plot(plot, rows, job.preset, known, notes)
        if image is not None:
            keep(folder / f"{name}.png", image)
    if empty:
        console.print(
            f"\nnothing run yet of the tables {', '.join(empty)}: --tables NAME runs their rows", soft_wrap=True
        )
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        console.print(f"\n{problems[0]}{more}", style="red", markup=False, soft_wrap=True)
    console.print(f"\ntables: {folder}   records: {job.store.output / 'records'}", markup=False, soft_wrap=True)
    return not problems
