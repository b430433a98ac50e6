"""Tables: one description (suites/*.toml) gives terminal, Markdown and CSV; reported beside measured, never mixed."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas
from tabulate import tabulate

from evaluation.statistics import t_interval
from harness.judged import KINDS
from harness.names import UsageError
from harness.record import Environment, Evaluation, Record
from harness.suite import ROOT, Column, Preset, Reported, Row, Table

REPORTED = ROOT / "results" / "reported"
MISSING = "n/a"
_REASON = 60  # characters of a failure's reason in a table; the whole stands below it


@dataclass(frozen=True)
class Measured:
    """A metric over the seeds of one row; ``half`` is half the interval's width, NaN where there is none."""

    value: float
    half: float


@dataclass(frozen=True)
class Drawn:
    """A finished table: text cells, and one frame with the bare numbers for CSV."""

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    frame: pandas.DataFrame
    footnotes: tuple[str, ...]

    def terminal(self) -> str:
        notes = "".join(f"\n  {note}" for note in self.footnotes)
        return (
            f"{self.title}\n{tabulate(self.body, self.head, tablefmt='rounded_outline', disable_numparse=True)}{notes}"
        )

    def markdown(self) -> str:
        # A bar in a name would end the cell.
        body = [[cell.replace("|", "\\|") for cell in row] for row in self.body]
        notes = "".join(f"\n- {note}" for note in self.footnotes)
        return f"## {self.title}\n\n{tabulate(body, self.head, tablefmt='pipe', disable_numparse=True)}\n{notes}\n"

    def csv(self) -> str:
        return self.frame.to_csv(index=False, lineterminator="\n")


def draw(
    table: Table, rows: Mapping[str, Row], preset: Preset, records: Sequence[Record], extra: Sequence[str] = ()
) -> Drawn:
    """The table from the records at hand: rows of papers, then one row for each of ``rows`` and data set.

    Rows whose cells all failed show why; rows without a record say "not run". ``extra`` are footnotes of this run.
    """
    head = ("method", *(column.title for column in table.columns), "seeds", "paper reports", "verdict")
    several = len(preset.data) > 1
    body, numbers = [], []
    for row in table.reported_rows:
        values = [reported_value(row.reported, {"class": column.reported_class}) for column in table.columns]
        body.append(
            (row.title, *(_plain(v, c) for v, c in zip(values, table.columns, strict=True)), "", "", "reported")
        )
        numbers.append(
            _frame_row(row.title, "reported", "", table.columns, [Measured(v, math.nan) for v in values], math.nan, "")
        )
    for row_name, row in rows.items():
        for data_name in preset.data:
            chosen = [r for r in records if r.settings.row == row_name and r.settings.data_name == data_name]
            title = f"{row.title}, {data_name}" if several else row.title
            text, line = _measured_row(title, data_name, row, table, preset, chosen)
            body.append(text)
            numbers.append(line)
    if table.compare == "verdict":
        head, body = (*head[:-3], head[-1]), [(*row[:-3], row[-1]) for row in body]
    elif table.compare == "none":
        head, body = head[:-3], [row[:-3] for row in body]
    notes = [preset.description, *extra, *table.footnotes, *_notes(table, records), *_missing(body)]
    return Drawn(table.title, head, tuple(body), pandas.DataFrame(numbers), tuple(notes))


def _missing(body: Sequence[Sequence[str]]) -> list[str]:
    cells = {cell for row in body for cell in row}
    notes = {
        MISSING: "the paper's value is not available",
        "-": "not measured: no such class or part, or not asked for (evaluate.protocols)",
    }
    return [f"{sign}: {meaning}" for sign, meaning in notes.items() if sign in cells]


def _measured_row(
    title: str, data_name: str, row: Row, table: Table, preset: Preset, records: Sequence[Record]
) -> tuple[tuple[str, ...], dict[str, object]]:
    done = [record for record in records if record.status == "ok" and record.evaluation]
    paper = reported_value(row.reported, {}) if row.reported else math.nan
    caption = f"{_number(paper, 1)} {row.reported.caption}".strip() if row.reported else MISSING
    if not done:
        status, text = (records[0].status, _short(records[0])) if records else ("not run", "not run")
        blanks = [Measured(math.nan, math.nan)] * len(table.columns)
        line = _frame_row(title, status, data_name, table.columns, blanks, paper, text)
        # Without a column for the verdict the first number's place says why there is none.
        first = text if table.compare == "none" else ""
        return (title, first, *("" for _ in table.columns[1:]), "0", caption, text), line
    values = [measured(done, column.metric) for column in table.columns]
    images, official = done[0].evaluation.images, preset.data[data_name].official_images
    reasons = [
        f"{images} images, not the official {official}" if official and images != official else "",
        preset.not_comparable,
        row.not_comparable,
    ]
    verdict = judge(values[0], paper, next(filter(None, reasons), ""), table.columns[0])
    cells = [_interval(value, column) for value, column in zip(values, table.columns, strict=True)]
    seeds = str(len(done)) if len(done) == len(records) else f"{len(done)} of {len(records)}"
    line = _frame_row(title, "ok", data_name, table.columns, values, paper, verdict)
    return (title, *cells, seeds, caption, verdict), line


def _short(record: Record) -> str:
    text = f"{record.status}: {record.reason}"
    return text if len(text) <= _REASON else text[: _REASON - 1] + "…"


def measured(records: Sequence[Record], metric: str) -> Measured:
    """One seed: its value and bootstrap interval over images. More: the seeds' mean and t-interval."""
    found = [_lookup(record, metric) for record in records]
    if len(found) > 1 and metric.startswith("cost."):
        return Measured(sum(value.value for value in found) / len(found), math.nan)
    if len(found) > 1:
        return Measured(*t_interval([value.value for value in found], records[0].evaluation.confidence))
    return found[0]


def _lookup(record: Record, metric: str) -> Measured:
    """``cost.NAME`` reads the record's costs, anything else its metrics."""
    if metric.startswith("cost."):
        _, part, name = metric.split(".")
        return Measured(float(getattr(getattr(record, part), name)), math.nan)
    found = record.evaluation.find(metric)
    if found is None:
        return Measured(math.nan, math.nan)
    _, value = found
    half = math.nan if value.low is None else 0.5 * (value.high - value.low)
    return Measured(value.value, half)


def judge(value: Measured, paper: float, not_comparable: str, column: Column) -> str:
    """reproduced | not reproduced | not comparable (why) | no reported value."""
    if not_comparable:
        return f"not comparable: {not_comparable}"
    if math.isnan(paper):
        return "no reported value"
    if math.isnan(value.value):
        return "not measured"
    scale = column.scale
    delta = scale * value.value - paper
    within = abs(delta) <= (0.0 if math.isnan(value.half) else scale * value.half)
    return f"{'reproduced' if within else 'not reproduced'} ({delta:+.{column.digits}f})"


@functools.cache
def _reported_lines(file: str) -> tuple[dict[str, str], ...]:
    path = REPORTED / f"{file}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return tuple(csv.DictReader(handle))
    except OSError as error:
        raise UsageError(f"no reported values in {path}: {error.strerror}") from error


def reported_value(reported: Reported, extra: dict[str, str]) -> float:
    """The one value that ``reported`` selects; NaN where the paper has none. `UsageError` if it selects several."""
    where = {**reported.where, **{key: value for key, value in extra.items() if value}}
    lines = [line for line in _reported_lines(reported.file) if all(line.get(k) == v for k, v in where.items())]
    if len(lines) > 1:
        raise UsageError(f"results/reported/{reported.file}.csv has {len(lines)} values for {where}, not one")
    return float(lines[0]["value"]) if lines else math.nan


def _plain(value: float, column: Column) -> str:
    return MISSING if math.isnan(value) else _number(value, column.digits)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _interval(value: Measured, column: Column) -> str:
    text = _number(column.scale * value.value, column.digits)
    return text if math.isnan(value.half) else f"{text} ± {column.scale * value.half:.{column.digits}f}"


def _frame_row(
    title: str,
    status: str,
    data: str,
    columns: Sequence[Column],
    values: Sequence[Measured],
    paper: float,
    verdict: str,
) -> dict[str, object]:
    line: dict[str, object] = {"method": title, "data": data, "status": status}
    for column, value in zip(columns, values, strict=True):
        scale = 1.0 if status == "reported" else column.scale
        line[column.metric] = scale * value.value
        if not math.isnan(value.half):
            line[f"{column.metric} half-width"] = scale * value.half
    return {**line, "paper": paper, "verdict": verdict}


def _notes(table: Table, records: Sequence[Record]) -> list[str]:
    """What was judged how, for the metrics of this table; what ± means; what it ran on."""
    done = [record for record in records if record.status == "ok"]
    judged: dict[str, None] = {}
    for evaluation in (record.evaluation for record in done):
        kinds = {found[0]: None for column in table.columns if (found := evaluation.find(column.metric))}
        judged |= {_judged(kind, evaluation): None for kind in kinds}
    spread = {
        f"± is half of the {100 * record.evaluation.confidence:g} % interval: over images for one seed, over seeds for "
        "several"
        for record in done
    }
    ran = {_where(cost.environment) for record in done for cost in (record.train, record.predict)}
    return [*judged, *(sorted(spread) if judged else ()), *sorted(ran)]


def _judged(kind: str, evaluation: Evaluation) -> str:
    verdict = evaluation.verdicts[kind]
    instances = f" with {verdict.instances} instances" if verdict.instances else ""
    return (
        f"{KINDS[kind].title}: {verdict.variant} (metric version {verdict.version}), on {evaluation.images} images"
        f"{instances}"
    )


def _where(ran: Environment) -> str:
    machine = ran.gpu or f"{ran.processor}, {ran.cores} cores"
    changes = " with local changes" if ran.dirty else ""
    return f"ran on {machine}; torch {ran.packages.get('torch')}; commit {ran.commit[:10]}{changes}"
