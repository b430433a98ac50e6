"""Tables: one description (suites/*.toml), drawn from records; reported beside measured, never mixed in one number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.compared import CRITERION, Entry, judge
from harness.drawn import Drawn
from harness.judged import KINDS
from harness.measured import finished, is_cost, lines, measured, of_cell
from harness.paired import Read
from harness.record import Environment, Evaluation, Record
from harness.reported import MISSING, reported_value
from harness.standings import NOT_COMPARED, Standings, hold
from harness.standings import notes as notes_on_standings
from harness.suite import Preset, Reported, Row, Table

_REASON = 60  # characters of a failure's reason in a table; the record has the whole


@dataclass(frozen=True)
class _Line:
    """One row of the table. ``status`` is the cell's, "reported" on a paper's line; ``seeds``: how many are done."""

    title: str
    data: str
    status: str
    seeds: int
    entries: tuple[Entry, ...]
    verdict: str

    def cells(self) -> list[str]:
        if self.status == "reported":
            return [one.paper.text for one in self.entries]
        return [one.text() if self.seeds else "" for one in self.entries]

    def seeds_text(self, asked: int) -> str:
        if self.status == "reported":
            return ""
        return str(self.seeds) if self.seeds == asked else f"{self.seeds} of {asked}"


def draw(
    table: Table,
    rows: Mapping[str, Row],
    preset: Preset,
    records: Sequence[Record],
    extra: Sequence[str] = (),
    reason: str = "",
    seeds: int = 1,
    samples: Read | None = None,
) -> Drawn:
    """The table from the records at hand; ``extra`` are footnotes of this run.

    ``reason`` says why nothing of this run can be held against a paper (empty: it can); ``seeds`` are asked for.
    ``samples`` gives those of a record, to hold rows against the best one (`harness.standings`); None: no row is.

    First the rows that only papers have. Then the table's rows, each on each of its data sets, below a line with what
    the paper reports for it, where it does. A row whose cells all failed says why, one without a record "not run".
    `UsageError` for a selection of several reported values; `harness.reported.check_reported` finds those before.
    """
    shown = list(lines(rows, table.rows, preset, table.data))
    used = [one for name, _, data in shown for data_name in data for one in of_cell(records, name, data_name)]
    asked = max(seeds, len({one.settings.seed for one in used}))
    compared = hold(_by_data(shown, used), table.columns, samples) if samples else {}
    found = list(_lines(table, shown, preset, used, reason, compared))
    verdicts = table.compare == "verdict"
    body = []
    for line in found:
        cells = line.cells()
        if not (verdicts or line.seeds or line.status == "reported"):
            cells[0] = line.verdict  # without a column for the verdict the first number's place says why there is none
        body.append((line.title, *cells, *[line.seeds_text(asked)] * (asked > 1), *[line.verdict] * verdicts))
    head = ("method", *(column.title for column in table.columns), *["seeds"] * (asked > 1), *["verdict"] * verdicts)
    notes = [
        preset.description,
        *extra,
        *table.footnotes,
        *_notes(table, finished(used)),
        *_lost(used),
        *_legend(found, body),
    ]
    notes += notes_on_standings(compared, {name: row.title for name, row, _ in shown})
    return Drawn(table.title, head, tuple(body), tuple(n for line in found for n in _numbers(line)), tuple(notes))


def _lines(
    table: Table,
    shown: Sequence[tuple[str, Row, list[str]]],
    preset: Preset,
    records: Sequence[Record],
    changed: str,
    compared: Mapping[tuple[str, str], Standings],
) -> Iterator[_Line]:
    several = len({name for _, _, data in shown for name in data}) > 1
    for only in table.reported_rows:
        yield _paper_line(only.title, only.reported.caption, only.reported, table)
    for name, row, data in shown:
        reported = table.reported.get(name)
        if reported is not None:
            caption = ", ".join(filter(None, (reported.origin, reported.caption)))
            yield _paper_line(row.title, caption, reported, table)
        for data_name in data:
            title = f"{row.title}, {data_name}" if several else row.title
            chosen = of_cell(records, name, data_name)
            reason = _not_comparable(row, reported, preset, data_name, finished(chosen))
            reason = "; ".join(dict.fromkeys(filter(None, (changed, reason))))
            entries = [
                dataclasses.replace(one, standing=compared[one.column.metric, data_name].rows.get(name, NOT_COMPARED))
                if (one.column.metric, data_name) in compared
                else one
                for one in _entries(reported, table)
            ]
            line = _measured_line(title, data_name, chosen, entries, reason, row.not_comparable)
            without = table.compare == "none" and line.status == "ok"
            yield dataclasses.replace(line, verdict="") if without else line


def _by_data(
    shown: Sequence[tuple[str, Row, list[str]]], records: Sequence[Record]
) -> dict[str, dict[str, list[Record]]]:
    """The finished records of each data set, by row; rows without one are left out."""
    found: dict[str, dict[str, list[Record]]] = {}
    for name, _, data in shown:
        for data_name in data:
            if done := finished(of_cell(records, name, data_name)):
                found.setdefault(data_name, {})[name] = done
    return found


def _entries(reported: Reported | None, table: Table) -> list[Entry]:
    return [Entry(column, reported_value(reported, column)) for column in table.columns]


def _paper_line(title: str, caption: str, reported: Reported, table: Table) -> _Line:
    title = f"{title} ({caption})" if caption else title
    return _Line(title, "", "reported", 0, tuple(_entries(reported, table)), "reported")


def _not_comparable(row: Row, reported: Reported | None, preset: Preset, data_name: str, done: Sequence[Record]) -> str:
    """Why the row's numbers cannot be held against a paper's; empty where they can."""
    official = preset.data[data_name].official_images
    images = done[0].evaluation.images if done else official
    other = f"{images} images, not the official {official}" if official and images != official else ""
    if done and same_images(done[0]):
        other = "judged on the images that it was trained on"
    if any(_untrained(one) for one in done):
        other = "nothing was trained, and no weights were loaded"
    own = "" if reported is None else reported.not_comparable
    if own and reported.unless and done:
        data = done[0].settings.data
        own = "" if all(str(data.get(key)) == value for key, value in reported.unless.items()) else own
    if reported and reported.by and done and {name.split()[0] for name in makers(done)} != {reported.by}:
        own = f"the reported value is {reported.by}'s, and another implementation ran"
    return other or preset.not_comparable or row.not_comparable or own


def same_images(record: Record) -> bool:
    """Whether a cell was judged on its training images, as data on disk name them."""
    if not _steps(record):
        return False  # it only started from somebody's weights
    data = record.settings.data
    pairs = [(data.get(f"train_{name}"), data.get(f"val_{name}")) for name in ("split", "annotations")]
    return any(train is not None and train == val for train, val in pairs)


def _measured_line(
    title: str, data: str, records: Sequence[Record], unmeasured: Sequence[Entry], reason: str, own_reason: str
) -> _Line:
    done = finished(records)
    if not done:
        failed = next((one for one in records if one.status != "ok"), None)
        status, text = (failed.status, _short(failed)) if failed else ("not run", "not run")
        return _Line(title, data, status, 0, tuple(unmeasured), text)
    entries = tuple(
        dataclasses.replace(
            one, value=measured(done, one.column.metric).scaled(one.column.scale), comparable=not reason
        )
        for one in unmeasured
    )
    title = f"{title} [{' or '.join(makers(done))}]" if makers(done) else title
    return _Line(title, data, "ok", len(done), entries, judge(entries, reason, own_reason))


def _steps(record: Record) -> int:
    return sum(stage.steps for stage in record.settings.train.stages())


def _untrained(record: Record) -> bool:
    own = record.settings
    return not (_steps(record) or own.config.get("weights") or own.train.weights)


def makers(records: Sequence[Record]) -> list[str]:
    """Whose implementations ran, where they are not this project's."""
    found = (cost.implementation for one in records for cost in (one.train, one.predict) if cost)
    return list(dict.fromkeys(filter(None, found)))


def _short(record: Record) -> str:
    text = " ".join(f"{record.status}: {record.reason}".split())
    return text if len(text) <= _REASON else text[: _REASON - 1] + "…"


def _numbers(line: _Line) -> Iterator[dict[str, str | float]]:
    """The row's numbers without rounding, one CSV line for each column."""
    for one in line.entries:
        paper = one.paper
        yield {
            "method": line.title,
            "data": line.data,
            "status": line.status,
            "seeds": "" if line.status == "reported" else str(line.seeds),
            "metric": one.column.metric,
            "column": one.column.title,
            "value": one.value.value,
            "low": one.value.low,
            "high": one.value.high,
            "half_width": one.value.half,
            "std": one.value.deviation,
            "difference_to_best": one.column.scale * one.standing.difference.value,
            "difference_low": one.column.scale * one.standing.difference.low,
            "difference_high": one.column.scale * one.standing.difference.high,
            "significant": {None: "", True: "yes", False: "no"}[one.standing.significant],
            "paper": paper.text if math.isnan(paper.number) else paper.number,
            "delta": one.delta,
            "column_verdict": one.word if line.seeds else "",
            "verdict": line.verdict,
            "source": paper.source,
        }


def _notes(table: Table, done: Sequence[Record]) -> list[str]:
    """What was judged how, for the metrics of this table; what ± means; what it ran on."""
    judged: dict[str, None] = {}
    for evaluation in (record.evaluation for record in done):
        kinds = {found[0]: None for column in table.columns if (found := evaluation.find(column.metric))}
        judged |= {_judged(kind, evaluation): None for kind in kinds}
    spread = {
        f"± is half of the {100 * record.evaluation.confidence:g} % interval: over images for one seed, over seeds for "
        "several"
        for record in done
    }
    ran = {_where(cost.environment) for record in done for cost in (record.train, record.predict) if cost}
    return [*judged, *(sorted(spread) if judged else ()), *sorted(ran)]


def _lost(records: Sequence[Record]) -> list[str]:
    """Cells that failed where other seeds of the same row did not: nothing in the table shows their reason."""
    done = {(one.settings.row, one.settings.data_name) for one in finished(records)}
    lost = [one for one in records if one.status != "ok" and (one.settings.row, one.settings.data_name) in done]
    return [f"{one.cell}: {_short(one)}" for one in lost]


def _judged(kind: str, evaluation: Evaluation) -> str:
    verdict = evaluation.verdicts[kind]
    instances = f" with {verdict.instances} instances" if verdict.instances else ""
    title = KINDS[kind].title if kind in KINDS else kind
    return f"{title}: {verdict.variant} (metric version {verdict.version}), on {evaluation.images} images{instances}"


def _where(ran: Environment) -> str:
    machine = ran.gpu or f"{ran.processor}, {ran.cores} cores"
    changes = " with local changes" if ran.dirty else ""
    return f"ran on {machine}; torch {ran.packages.get('torch')}; commit {ran.commit[:10]}{changes}"


def _legend(found: Sequence[_Line], body: Sequence[Sequence[str]]) -> list[str]:
    """What the signs in the cells mean, and where the reported values come from."""
    entries = [one for line in found for one in line.entries]
    cells = {cell for row in body for cell in row}
    measured_cells = {cell for line, row in zip(found, body, strict=True) if line.status != "reported" for cell in row}
    notes = {
        CRITERION: any(not math.isnan(one.delta) for one in entries),
        "costs are shown beside the paper's and not judged: the machines differ": any(
            one.paper.text and is_cost(one.column.metric) for one in entries
        ),
        f"{MISSING.text}: the value is in no source of results/reported": MISSING.text in cells,
        "-: not measured: no such class or part, or not asked for (evaluate.protocols)": "-" in measured_cells,
        **{f"reported: {one.paper.source}": True for one in entries if one.paper.source},
    }
    return [note for note, wanted in notes.items() if wanted]
