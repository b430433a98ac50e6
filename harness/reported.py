"""What the papers report: results/reported/*.csv, one value at a time, as a suite's tables select them."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.names import UsageError, look_up
from harness.suite import ROOT, Column, Reported, Suite

REPORTED = ROOT / "results" / "reported"
_NEEDED = ("paper", "table", "dataset", "split", "value", "unit", "source", "confidence")


@dataclass(frozen=True)
class ReportedValue:
    """One value of a paper: ``text`` as it prints, ``number`` in the printed unit, NaN where it is none (">10").

    ``source`` says in words which paper, table and split, where it was read, and how sure the reading is.
    """

    text: str
    number: float = math.nan
    source: str = ""


NOTHING = ReportedValue("")  # the column is none of the paper's
MISSING = ReportedValue("not available")  # the column is the paper's, but the value is not in our files


def reported_value(reported: Reported | None, column: Column) -> ReportedValue:
    """The value that ``reported``, narrowed by the column, selects.

    `NOTHING` where either has no selection, `MISSING` where no line of the CSV fits. `UsageError` for a file or field
    that does not exist, and where several lines fit.
    """
    if reported is None or column.reported is None:
        return NOTHING
    where = {**reported.where, **column.reported}
    header, lines = _read(reported.file)
    for field in where:
        look_up(f"column of results/reported/{reported.file}.csv", field, dict.fromkeys(header))
    found = [line for line in lines if all(line[field] == value for field, value in where.items())]
    if len(found) > 1:
        raise UsageError(
            f"results/reported/{reported.file}.csv has {len(found)} values for {where}, not one: select by more columns"
        )
    return _value(found[0], reported.file, column) if found and found[0]["value"] else MISSING


def check_reported(suite: Suite) -> None:
    """Raise `UsageError` for the first selection of the suite's tables that is not one value or none."""
    for place, reported, column in _selections(suite):
        try:
            reported_value(reported, column)
        except UsageError as error:
            raise UsageError(f"suites/{suite.name}.toml, {place}, column {column.title}: {error}") from error


def _selections(suite: Suite) -> Iterator[tuple[str, Reported, Column]]:
    for name, table in suite.tables.items():
        named = [(row.title, row.reported) for row in table.reported_rows]
        for title, reported in [*named, *table.reported.items()]:
            for column in table.columns:
                yield f"table {name}, row {title}", reported, column


@functools.cache
def _read(file: str) -> tuple[tuple[str, ...], tuple[dict[str, str], ...]]:
    """The header and the lines of one CSV."""
    look_up("file in results/reported", file, {path.stem: path for path in REPORTED.glob("*.csv")})
    path = REPORTED / f"{file}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle, restval="")
            header, lines = tuple(reader.fieldnames or ()), tuple(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if lost := [name for name in _NEEDED if name not in header]:
        raise UsageError(f"{path} lacks the columns {', '.join(lost)}")
    return header, lines


def _value(line: Mapping[str, str], file: str, column: Column) -> ReportedValue:
    source = (
        f"{line['paper']}, {line['table']}, {line['dataset']} {line['split']}: {line['source']}"
        f" (confidence {line['confidence']}; results/reported/{file}.csv)"
    )
    text, scale = line["value"], column.reported_scale
    number = _number(text)
    if scale == 1.0:  # the digits that the paper prints, however many
        return ReportedValue(text, number, source)
    if math.isnan(number):
        return ReportedValue(f"{text} {line['unit']}", number, source)
    return ReportedValue(f"{scale * number:.{column.digits}f}", scale * number, source)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
