"""From suite, preset and command line to cells: which rows run, on which data, with which settings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import methods
from datasets import DATASETS, open_split
from datasets.base import Dataset, DatasetError
from harness.keys import Splits, step_inputs, step_keys
from harness.names import MissingData, UsageError, look_up, unknown
from harness.record import SUMMARIES, read_summary
from harness.settings import (
    DATA_OPTIONS,
    NEEDS_LAYOUT,
    EvaluateSettings,
    PredictSettings,
    Settings,
    TrainSettings,
    build_config,
    check,
)
from harness.store import STEPS, Store
from harness.suite import ROOT, Data, Preset, Row, RowPreset, Suite
from methods.base import Method, MethodError
from methods.grouping import GroupingConfig
from methods.weights import READERS as WEIGHTS_FILES


@dataclass(frozen=True)
class Cell:
    """One method on one dataset with one seed, with what its three steps depend on, and their keys.

    ``implementation`` says whose code runs where it is not this project's.
    """

    settings: Settings
    row: Row
    implementation: str
    inputs: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, str]
    folders: Mapping[str, Path]
    record: Path
    train_fingerprint: str
    val_fingerprint: str

    def finished(self) -> list[str]:
        """The steps that need not run: those before the first whose result is missing or damaged."""
        good = (read_summary(self.folders[step], SUMMARIES[step]) is not None for step in STEPS)
        return [step for step, _ in itertools.takewhile(lambda pair: pair[1], zip(STEPS, good, strict=True))]


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None means the suite's own choice.

    ``methods`` are names of rows or methods, ``tables`` of tables whose rows are wanted ("all": every row).
    """

    methods: Sequence[str] | None = None
    tables: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    preset: str | None = None
    data_root: Path | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timeout: float | None = None  # seconds of one cell
    memory: float | None = None  # GB of one cell
    lenient: bool = False  # pass over overrides of rows that are not asked for


def load_method(name: str) -> type[Method]:
    """The method class for a name, an entry point, or "file.py:Class"; `UsageError` when there is none."""
    try:
        found = methods.load(name)
    except KeyError:
        hint = "A method of your own runs by its path: --methods my_method.py:MyMethod."
        raise unknown("method", name, methods.available(), hint) from None
    except (Exception, SystemExit) as error:  # a stranger's file may raise anything while it is imported
        raise UsageError(f"method {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise UsageError(f"method {name!r} is not a subclass of methods.base.Method")
    missing = [word for word in ("name", "paper", "tasks", "Config") if not hasattr(found, word)]
    if missing:
        raise UsageError(f"method {name!r} does not declare {', '.join(missing)} (see methods/base.py)")
    if not dataclasses.is_dataclass(found.Config):
        raise UsageError(f"method {name!r}: its Config is not a dataclass")
    if not re.fullmatch(r"\w[\w-]*", found.name):  # it becomes part of file names
        raise UsageError(f"method {name!r}: its name {found.name!r} may hold letters, digits, _ and - only")
    return found


def select_rows(suite: Suite, preset: Preset, names: Sequence[str]) -> dict[str, Row]:
    """The suite's rows for row names or method names.

    A method stands for those of its rows that the preset runs, or else for all; one that the suite lacks gets a row of
    its own.
    """
    rows: dict[str, Row] = {}
    for name in names:
        if name in suite.rows:
            rows[name] = suite.rows[name]
        elif matching := {key: row for key, row in suite.rows.items() if row.method == name}:
            rows.update({key: row for key, row in matching.items() if key in preset.run} or matching)
        elif ":" in name:
            path, _, attribute = name.rpartition(":")
            absolute = f"{Path(path).resolve()}:{attribute}"  # the cell's process has another working directory
            own = load_method(absolute).name
            if own in {**suite.rows, **rows, **methods.METHODS}:
                raise UsageError(f"{name}: the name {own!r} is taken by another method or row; give yours its own")
            rows[own] = Row(method=absolute, title=own)
        elif name in methods.available():
            rows[name] = Row(method=name, title=name)
        else:
            known = {*suite.rows, *(row.method for row in suite.rows.values())}
            raise unknown(f"method of suite {suite.name}", name, known, "Or a path: my_method.py:MyMethod.")
    return rows


def wanted_rows(suite: Suite, preset: Preset, request: Request) -> dict[str, Row]:
    """The rows that a request is about: its methods', its tables', or the preset's own choice."""
    rows = select_rows(suite, preset, request.methods or ())
    for name in request.tables or ():
        if name == "all":
            return {**suite.rows, **rows}
        table = look_up(f"table of suite {suite.name}", name, suite.tables)
        rows |= {key: suite.rows[key] for key in table.rows or suite.rows}
    if request.methods is None and request.tables is None:
        rows = {key: suite.rows[key] for key in preset.run or suite.rows}
    return rows


def resolve(suite: Suite, request: Request) -> tuple[str, Preset, list[tuple[Row, Settings]]]:
    """All cells' settings, by preset, method, row, preset's row and --set. `UsageError` for anything unknown."""
    preset_name = suite.default_preset if request.preset is None else request.preset
    preset = look_up(f"preset of suite {suite.name}", preset_name, suite.presets)
    rows = wanted_rows(suite, preset, request)
    overrides = _Overrides(request.overrides, rows, preset)
    cells: list[tuple[Row, Settings]] = []
    without_effect: dict[str, list[str]] = {}
    for row_name, row in rows.items():
        method = load_method(row.method)
        own = overrides.of(row_name, row.method)
        shared = preset.grouping if issubclass(method.Config, GroupingConfig) else {}
        layers = [preset.methods.get(row.method, RowPreset()), row, preset.rows.get(row_name, RowPreset())]
        of_method, *of_row = [layer.config for layer in layers]
        # What makes a row is its own: a value for the whole method does not change it.
        config = {**shared, **of_method, **own["method"], **_merged(of_row), **own["row"]}
        for key in own["row"]:
            without_effect.setdefault(f"{row_name}.{key}", []).append("")
        for key in own["method"]:
            without_effect.setdefault(f"{method.name}.{key}", []).append(row_name if key in _merged(of_row) else "")
        # As JSON has it, so that the cell's process reads back what was planned.
        settled = _settled(method, build_config(method.Config, config, row_name), row_name, request.lenient)
        resolved = json.loads(json.dumps(dataclasses.asdict(settled)))
        changes = {part: _merged([getattr(layer, part) for layer in layers]) for part in ("train", "predict")}
        train = check(TrainSettings, {**preset.train.model_dump(), **changes["train"], **own["train"]}, "train")
        predict = check(
            PredictSettings, {**preset.predict.model_dump(), **changes["predict"], **own["predict"]}, "predict"
        )
        for data_name in row.data or preset.data:
            data = preset.data[data_name]
            options, evaluate = _data_settings(data, preset, own)
            for seed in preset.seeds if request.seeds is None else request.seeds:
                settings = Settings(
                    suite.name, preset_name, row_name, row.method, resolved, data_name, data.dataset, options, seed,
                    train, predict, evaluate,
                )  # fmt: skip
                cells.append((row, settings))
    if not request.lenient:
        overrides.finish()
        for key, names in without_effect.items():
            if all(names):
                setting = key.partition(".")[2]
                raise UsageError(
                    f"--set {key} changes nothing: {', '.join(names)} has its own; set {names[0]}.{setting}"
                )
    return preset_name, preset, cells


def _settled(method: type[Method], config: Any, row: str, lenient: bool) -> Any:
    """The config with what is automatic decided. A ``lenient`` request shows rows that cannot run here, too."""
    try:
        return method.settled(config)
    except MethodError as error:
        if lenient:
            return config
        raise UsageError(f"{row}: {_without_name(method, error)}") from error


def _without_name(method: type[Method], error: MethodError) -> str:
    """A method's message; the row's name will stand before it."""
    return str(error).removeprefix(f"{method.name}: ")


def _data_settings(
    data: Data, preset: Preset, own: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], EvaluateSettings]:
    """The options of a preset's data set, and how it is judged."""
    look_up("dataset", data.dataset, DATASETS)
    options = check(DATA_OPTIONS[data.dataset], {**data.options, **own["data"]}, "data").model_dump()
    judged = {"protocols": data.protocols} if data.protocols else {}
    evaluate = check(EvaluateSettings, {**preset.evaluate.model_dump(), **judged, **own["evaluate"]}, "evaluate")
    for protocol in evaluate.protocols:
        layout = NEEDS_LAYOUT.get(protocol, data.dataset)
        if layout != data.dataset or (protocol == "cityscapes" and options["task"] != "instances"):
            needed = f"data in the layout {layout}" + " with task = instances" * (protocol == "cityscapes")
            raise UsageError(f"evaluate.protocols: {protocol} needs {needed}, not {data.dataset}")
    return options, evaluate


def _merged(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of several, the later before the earlier."""
    return {key: value for layer in layers for key, value in layer.items()}


class _Overrides:
    """--set keys, handed out to rows; keys that nobody took are errors."""

    SECTIONS: ClassVar = {"train": TrainSettings, "predict": PredictSettings, "evaluate": EvaluateSettings}

    def __init__(self, values: Mapping[str, Any], rows: Mapping[str, Row], preset: Preset) -> None:
        self.values, self.rows = values, rows
        self.data_models = [DATA_OPTIONS[data.dataset] for data in preset.data.values() if data.dataset in DATA_OPTIONS]

    def of(self, row: str, method: str) -> dict[str, dict[str, Any]]:
        """The values for one row by section; ``method`` and ``row`` are settings given under these names."""
        found: dict[str, dict[str, Any]] = {name: {} for name in ("method", "row", "data", *self.SECTIONS)}
        for key, value in sorted(self.values.items(), key=lambda item: item[0].count(".")):
            first, _, rest = key.partition(".")
            if first in found and first not in ("method", "row"):
                found[first][rest] = value
            elif first in (row, method, load_method(method).name):
                section, _, name = rest.partition(".")
                if section in ("data", "evaluate") and name:
                    raise UsageError(f"--set {key}: all rows of a table share their {section}: set {rest} instead")
                if section in ("train", "predict") and name:
                    found[section][name] = value
                else:
                    found["row" if first == row else "method"][rest] = value
        return found

    def finish(self) -> None:
        """Raise `UsageError` for keys whose first word names no section and no row."""
        first_words = {"data", *self.SECTIONS, *self.rows}
        for row in self.rows.values():
            first_words.add(load_method(row.method).name)
        for key in self.values:
            if key.partition(".")[0] not in first_words or "." not in key:
                raise unknown("key in --set", key, self.known_keys())

    def known_keys(self) -> list[str]:
        keys = [f"{section}.{name}" for section, model in self.SECTIONS.items() for name in model.model_fields]
        keys += [f"data.{name}" for model in self.data_models for name in model.model_fields]
        for row in self.rows.values():
            method = load_method(row.method)
            keys += [f"{method.name}.{field.name}" for field in dataclasses.fields(method.Config)]
        return list(dict.fromkeys(keys))


def plan(
    settings: Iterable[tuple[Row, Settings]],
    store: Store,
    data_root: Path | None,
    left_out: dict[str, str] | None = None,
) -> list[Cell]:
    """Give every cell its keys. Opens the datasets; raises `UsageError` when data are missing.

    Where a method's library or file of weights is missing, the row is put into ``left_out`` with the reason, and its
    cells are not planned; without ``left_out`` this is a `UsageError`, too.
    """
    cells = []
    for row, one in settings:
        method = load_method(one.method)
        try:
            implementation = method.implementation(build_config(method.Config, one.config, one.row))
            _check_files(method, one)
        except MethodError as error:
            if left_out is None:
                raise UsageError(f"{one.row}: {_without_name(method, error)}") from error
            left_out[one.row] = _without_name(method, error)
            continue
        splits = open_data(one.dataset, tuple(sorted(one.data.items())), data_root, store.file_digests)
        others = stage_data(one, data_root, store.file_digests)
        inputs = step_inputs(one, method, implementation, splits, others, store.file_digests)
        keys = step_keys(inputs)
        folders = {step: store.step(step, _folder_name(step, one), keys[step]) for step in STEPS}
        record = store.record(one.cell, keys["evaluate"])
        fingerprints = (splits.train.info.fingerprint, splits.val.info.fingerprint)
        cells.append(Cell(one, row, implementation, inputs, keys, folders, record, *fingerprints))
    return cells


def _check_files(method: type[Method], settings: Settings) -> None:
    """Raises `MethodError` for a setting that names a file of weights which is not there."""
    if settings.train.weights and not (ROOT / settings.train.weights).is_file():
        raise MethodError(f"there is no file {settings.train.weights} (train.weights) to start from")
    for field in dataclasses.fields(method.Config):
        path = Path(settings.config[field.name]) if field.metadata.get("file") else None
        if path is not None and path.suffix in WEIGHTS_FILES and not path.exists():
            raise MethodError(
                f"there is no file {path}; docs/baselines.md says where the makers keep theirs, and "
                f"--set {settings.row}.{field.name}=PATH names yours"
            )


def _folder_name(step: str, settings: Settings) -> str:
    """A name for people; training is shared by rows that differ only in how they predict."""
    method = load_method(settings.method).name
    return f"{method if step == 'train' else settings.row}.{settings.data_name}.s{settings.seed}"


@functools.lru_cache(maxsize=16)
def open_data(dataset: str, options: tuple[tuple[str, Any], ...], root: Path | None, cache: Path) -> Splits:
    """Both splits of a dataset, opened once. Raises `MissingData` with the dataset's explanation, or `UsageError`."""
    try:
        splits = Splits(*(open_split(dataset, split, dict(options), root, cache) for split in ("train", "val")))
        train, val = splits.train.info, splits.val.info  # hashes the files: one that is missing shows here
    except DatasetError as error:
        raise MissingData(str(error)) from error
    if train.categories != val.categories:
        other = [name for name in train.categories if name not in val.categories]
        more = [name for name in val.categories if name not in train.categories]
        raise UsageError(
            f"{dataset}: {train.split} and {val.split} must have the same categories in the same order of ids, or "
            f"labels would change their meaning; only in the first: {', '.join(other) or 'none'}, only in the second: "
            f"{', '.join(more) or 'none'}"
        )
    return splits


def stage_data(settings: Settings, root: Path | None, cache: Path) -> dict[str, Dataset]:
    """The further splits that later stages of a training ask for, by name. Raises `UsageError`."""
    found = {}
    for name in dict.fromkeys(stage.split for stage in settings.train.then if stage.split):
        if "train_split" not in settings.data:
            raise UsageError(f"train.then: data in the layout {settings.dataset} have no split {name!r} to go on with")
        options = check(DATA_OPTIONS[settings.dataset], {**settings.data, "train_split": name}, "train.then: split")
        found[name] = open_data(settings.dataset, tuple(sorted(options.model_dump().items())), root, cache).train
    return found
