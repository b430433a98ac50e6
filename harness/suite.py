"""A suite: its TOML file, checked. It names rows, presets, tables and plots; a name that leads nowhere is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from harness.names import UsageError, look_up
from harness.settings import EvaluateSettings, PredictSettings, Protocol, Spec, TrainSettings

ROOT = Path(__file__).resolve().parent.parent
SUITES = ROOT / "suites"
FileName = Annotated[str, Field(pattern=r"^\w[\w+-]*$")]  # it becomes part of a file's name


class Reported(Spec):
    """Selects values of results/reported/FILE.csv: every field given must equal the CSV's column.

    ``origin`` is who printed it, for the table. ``not_comparable`` says why a measured row cannot be held against them,
    where it cannot; where the data have all the options ``unless``, it can. ``by`` names the library that the value was
    made with: a row that ran by another one cannot be held against it.
    """

    file: str
    where: dict[str, str]
    origin: str = "paper"
    caption: str = ""
    not_comparable: str = ""
    unless: dict[str, str] = {}
    by: str = ""


class Row(Spec):
    """One measured row: a method with settings of its own.

    ``data`` names the preset's data that it runs on (empty: all). ``not_comparable`` says why its numbers cannot be
    held against a paper's, where they cannot.
    """

    method: str
    title: str
    config: dict[str, Any] = {}
    train: dict[str, Any] = {}
    predict: dict[str, Any] = {}
    data: tuple[str, ...] = ()
    not_comparable: str = ""


class RowPreset(Spec):
    """What a preset changes for one method or one row: fields of its config and of the shared recipe; a row's title,
    and why it cannot be held against a paper there."""

    config: dict[str, Any] = {}
    train: dict[str, Any] = {}
    predict: dict[str, Any] = {}
    title: str = ""
    not_comparable: str = ""


class Data(Spec):
    """One dataset of a preset; ``options`` are checked by the dataset's own model.

    ``official_images`` is the size of the split that papers are judged on: on another number of images nothing is
    comparable with them (0: there is no official split). ``protocols`` judge it; empty: the preset's.
    """

    dataset: str
    official_images: int = 0
    options: dict[str, Any] = {}
    protocols: tuple[Protocol, ...] = ()


class Preset(Spec):
    """How much to spend: data, recipe, seeds, and a time limit for one cell in seconds.

    Three seeds are what a table needs to say how sure a method is; a preset that trains nothing has one.

    ``grouping`` holds settings for every method whose config extends `GroupingConfig`, a plugin's too; ``methods`` for
    one method, ``rows`` for one row, which come last. ``run`` names the rows that run when nothing else is asked for
    (empty: all).
    """

    description: str
    run: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    timeout: float = Field(86400.0, gt=0)
    not_comparable: str = ""
    data: dict[FileName, Data]
    train: TrainSettings = TrainSettings()
    predict: PredictSettings = PredictSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    grouping: dict[str, Any] = {}
    methods: dict[str, RowPreset] = {}
    rows: dict[str, RowPreset] = {}


class Column(Spec):
    """One column of a table: a metric of the record, or one of its costs (``cost.predict.network_ms``).

    ``scale`` turns the stored number into the printed one (100 for per cent). ``reported`` are the columns of the
    reported CSV that select this column's value, beside the row's own; None: papers have nothing for this column.
    ``reported_scale`` turns the paper's number into the printed one. ``best`` says which value is the best, where one
    is: the rows are then held against the best one. Costs have none, since machines differ, nor have the parts that a
    whole is lost to: who finds nothing merges nothing.
    """

    metric: str
    title: str
    digits: int = 1
    scale: float = 1.0
    reported: dict[str, str] | None = None
    reported_scale: float = 1.0
    best: Literal["highest", "lowest", ""] = "highest"


class ReportedRow(Spec):
    """A row that only a paper has: ``reported`` narrowed by each column's."""

    title: str
    reported: Reported


class Table(Spec):
    """A table of the suite over ``columns``: rows that only papers have, then the measured ``rows`` (empty: all).

    ``data`` names the preset's data that it shows (empty: all). Where ``reported`` has a paper's values for a measured
    row, they stand in a line above it. ``compare`` says whether rows end with a verdict.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    compare: Literal["verdict", "none"] = "verdict"
    reported: dict[str, Reported] = {}
    reported_rows: tuple[ReportedRow, ...] = ()
    footnotes: tuple[str, ...] = ()


class Axis(Spec):
    """A metric, as in `Column`, and its name on the plot."""

    metric: str
    title: str
    scale: float = 1.0
    log: bool = False


class Plot(Spec):
    """One point for each measured row of ``rows`` (empty: all) and data set."""

    title: str
    x: Axis
    y: Axis
    rows: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


class Suite(Spec):
    name: str
    title: str
    default_preset: str
    needs: str = ""
    rows: dict[FileName, Row]
    presets: dict[FileName, Preset]
    tables: dict[FileName, Table]
    plots: dict[FileName, Plot] = {}


def suite_names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """Read and check suites/NAME.toml. Raises `UsageError` for an unknown name or a broken file."""
    look_up("suite", name, dict.fromkeys(suite_names()))
    path = SUITES / f"{name}.toml"
    try:
        suite = Suite.model_validate({"name": name, **tomllib.loads(path.read_text(encoding="utf-8"))})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValidationError) as error:
        raise UsageError(f"suites/{name}.toml is not a valid suite: {error}") from error
    _check_names(suite)
    return suite


def _check_names(suite: Suite) -> None:
    """Raise `UsageError` for a name in the suite that nothing has."""
    where = f"suites/{suite.name}.toml"

    def known(kind: str, names: Iterable[str], known_ones: Iterable[str]) -> None:
        for one in names:
            look_up(f"{kind} in {where}", one, dict.fromkeys(known_ones))

    known("default_preset", [suite.default_preset], suite.presets)
    for key, preset in suite.presets.items():
        known(f"method of preset {key}", preset.methods, [row.method for row in suite.rows.values()])
        known(f"row of preset {key}", [*preset.rows, *preset.run], suite.rows)
        for row_name, row in suite.rows.items():
            known(f"data of row {row_name}, preset {key},", row.data, preset.data)
    data = {name for preset in suite.presets.values() for name in preset.data}
    for name, table in suite.tables.items():
        known(f"row of table {name}", [*table.rows, *table.reported], suite.rows)
        known(f"data of table {name}", table.data, data)
    for name, plot in suite.plots.items():
        known(f"row of plot {name}", plot.rows, suite.rows)
        known(f"data of plot {name}", plot.data, data)


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """``["train.steps=10", ...]`` -> {"train.steps": 10}; values are TOML, or else plain text, paths absolute."""
    values: dict[str, Any] = {}
    for item in items:
        key, sign, text = item.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"--set {item!r}: write KEY=VALUE, for example --set train.steps=100")
        try:
            values[key.strip()] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
        if key.strip().endswith("train.weights"):  # the cell's process has another working directory
            values[key.strip()] = str(Path(values[key.strip()]).resolve())
    return values
