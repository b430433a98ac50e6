"""A suite: its TOML file, checked; and the settings of its cells after preset and command line.

What a suite holds and where a value may be overridden is declared here once, as models; an unknown key is an error.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from harness.names import UsageError, look_up, unknown

ROOT = Path(__file__).resolve().parent.parent
SUITES = ROOT / "suites"


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ShapesOptions(Spec):
    """`datasets.shapes`: how many scenes of which level; ``size`` in pixels.

    ``val_split`` is what is judged: "val" to choose settings on, "test" for tables.
    """

    level: str = "standard"
    size: int = Field(128, ge=32, le=1024)
    seed: int = Field(0, ge=0)
    train_images: int = Field(4000, ge=1)
    val_images: int = Field(200, ge=1)
    train_split: Literal["train"] = "train"
    val_split: Literal["val", "test"] = "test"


class VocOptions(Spec):
    """`datasets.voc`: the lists of ImageSets/Segmentation to train and to judge on.

    ``regions`` is a folder of VOC2012 with an over-segmentation of every training image as ID.png; empty: none.
    """

    train_split: str = "train"
    val_split: str = "val"
    regions: str = ""


DATA_OPTIONS: dict[str, type[Spec]] = {"shapes": ShapesOptions, "voc": VocOptions}


class Stage(Spec):
    """A later stage of a training: what it changes of the first one's settings; it goes on with the weights alone."""

    steps: int = Field(ge=1)
    batch_size: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    pretrained_rate: float | None = Field(None, ge=0)
    warmup: float | None = Field(None, ge=0, lt=1)
    crop: int | None = Field(None, ge=0)
    around_instances: bool | None = None
    frozen_statistics: bool | None = None


class TrainSettings(Spec):
    """The recipe of one training. ``steps`` of ``batch_size`` images; learning rates follow ``schedule``.

    ``pretrained_rate`` multiplies the rate of parameters that start pretrained; ``clip`` is the largest gradient norm
    (0: no clipping). Augmentation: ``crop`` in pixels (0: none), centred on a random instance with
    ``around_instances``; ``scale`` range of the random resize before it, ``flip`` probability, ``color`` jitter
    strength in 0..1. With ``frozen_statistics`` batch normalisation keeps its running mean and variance. ``then`` are
    later stages, such as a fine-tuning on larger crops at a lower rate. Methods that look at the training images once
    more after training (`Method.prepare`) see ``prepare_images`` of them (0: all), resized to ``prepare_side`` pixels
    (0: not).
    """

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(8, ge=1)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    pretrained_rate: float = Field(1.0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["one_cycle", "poly", "constant"] = "one_cycle"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps that warm up")
    clip: float = Field(5.0, ge=0)
    crop: int = Field(0, ge=0)
    around_instances: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = Field(0.5, ge=0, le=1)
    color: float = Field(0.0, ge=0, le=1)
    frozen_statistics: bool = False
    then: tuple[Stage, ...] = ()
    prepare_images: int = Field(0, ge=0)
    prepare_side: int = Field(0, ge=0)
    workers: int = Field(0, ge=0, description="loader processes; the result does not depend on it")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"

    @model_validator(mode="after")
    def _scale_fits(self) -> TrainSettings:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high, not {list(self.scale)}")
        if not self.crop and self.scale != (1.0, 1.0):
            raise ValueError("scale needs a crop, or the images of a batch would differ in size: set train.crop")
        if self.around_instances and not self.crop:
            raise ValueError("around_instances says where the crop is: set train.crop")
        for stage in self.then:
            self._with(stage)
        return self

    def stages(self) -> list[TrainSettings]:
        """The settings of every stage, each without later ones."""
        return [self.model_copy(update={"then": ()}), *(self._with(stage) for stage in self.then)]

    def _with(self, stage: Stage) -> TrainSettings:
        return TrainSettings(**{**self.model_dump(), "then": (), **stage.model_dump(exclude_none=True)})


class PredictSettings(Spec):
    """``long_side``: images are resized to it before the network, in pixels (0: original size)."""

    long_side: int = Field(0, ge=0)


class EvaluateSettings(Spec):
    """``protocols`` to judge by; ``resamples`` of the bootstrap over images (0: no interval), at ``confidence``."""

    protocols: tuple[Literal["voc", "coco", "proposals", "semantic"], ...] = Field(("voc",), min_length=1)
    resamples: int = Field(1000, ge=0, le=100_000)
    confidence: float = Field(0.95, gt=0, lt=1)


class Reported(Spec):
    """Selects values of results/reported/FILE.csv: every field given must equal the CSV's column."""

    file: str
    where: dict[str, str]
    caption: str = ""


class Row(Spec):
    """One measured row: a method with settings of its own, and what a paper reports for it."""

    method: str
    title: str
    config: dict[str, Any] = {}
    reported: Reported | None = None
    not_comparable: str = ""


class RowPreset(Spec):
    """What a preset changes for one method: fields of its config, and of the shared recipe."""

    config: dict[str, Any] = {}
    train: dict[str, Any] = {}
    predict: dict[str, Any] = {}


class Data(Spec):
    """One dataset of a preset; ``options`` are checked by the dataset's own model.

    ``official_images`` is the size of the split that papers are judged on: on another number of images nothing is
    comparable with them (0: there is no official split).
    """

    dataset: str
    official_images: int = 0
    options: dict[str, Any] = {}


class Preset(Spec):
    """How much to spend: data, recipe, seeds, and a time limit for one cell in seconds.

    ``grouping`` holds settings for every method whose config extends `GroupingConfig`, a plugin's too; ``methods`` for
    one method.
    """

    description: str
    seeds: tuple[int, ...] = (0,)
    timeout: float = Field(86400.0, gt=0)
    not_comparable: str = ""
    data: dict[str, Data]
    train: TrainSettings = TrainSettings()
    predict: PredictSettings = PredictSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    grouping: dict[str, Any] = {}
    methods: dict[str, RowPreset] = {}


class Column(Spec):
    """One column of a table: a metric of the record, or one of its costs (``cost.predict.network_ms``).

    ``scale`` turns the stored number into the printed one (100 for per cent). ``reported_class`` is the value of the
    reported CSV's column ``class`` that belongs in this column.
    """

    metric: str
    title: str
    digits: int = 1
    scale: float = 1.0
    reported_class: str = ""


class ReportedRow(Spec):
    """A row that only a paper has: ``reported`` narrowed to each column's ``reported_class``."""

    title: str
    reported: Reported


class Table(Spec):
    """A table of the suite: rows of papers, then the measured rows, over ``columns``.

    ``compare`` says how rows end: "full" with seeds, what a paper reports and the verdict, "verdict" with that alone.
    """

    title: str
    columns: tuple[Column, ...]
    compare: Literal["full", "verdict", "none"] = "full"
    reported_rows: tuple[ReportedRow, ...] = ()
    footnotes: tuple[str, ...] = ()


class Suite(Spec):
    name: str
    title: str
    default_preset: str
    needs: str = ""
    rows: dict[str, Row]
    presets: dict[str, Preset]
    tables: dict[str, Table]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides one cell's outcome; written to the cell's folder and read by its process."""

    suite: str
    preset: str
    row: str
    method: str
    config: dict[str, Any]
    data_name: str
    dataset: str
    data: dict[str, Any]
    seed: int
    train: TrainSettings
    predict: PredictSettings
    evaluate: EvaluateSettings

    @property
    def cell(self) -> str:
        """The cell's name, unique within suite and preset."""
        return f"{self.row}.{self.data_name}.s{self.seed}"


def suite_names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """Read and check suites/NAME.toml. Raises `UsageError` for an unknown name or a broken file."""
    look_up("suite", name, dict.fromkeys(suite_names()))
    path = SUITES / f"{name}.toml"
    try:
        suite = Suite.model_validate({"name": name, **tomllib.loads(path.read_text(encoding="utf-8"))})
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"suites/{name}.toml is not a valid suite: {error}") from error
    used = {row.method: None for row in suite.rows.values()}
    for key, preset in suite.presets.items():
        for method in preset.methods:
            look_up(f"method in suites/{name}.toml, preset {key},", method, used)
    look_up(f"default_preset in suites/{name}.toml", suite.default_preset, suite.presets)
    return suite


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """``["train.steps=10", ...]`` -> {"train.steps": 10}; values are TOML, or else plain text."""
    values: dict[str, Any] = {}
    for item in items:
        key, sign, text = item.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"--set {item!r}: write KEY=VALUE, for example --set train.steps=100")
        try:
            values[key.strip()] = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    return values


def check(model: type[Spec], values: Mapping[str, Any], where: str) -> Any:
    """``model(**values)``, or `UsageError` that names the key, with the nearest names for an unknown one."""
    for key in values:
        if key not in model.model_fields:
            raise unknown(f"key in {where}", key, model.model_fields)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(f"{where}: {_first(error)}") from error


def build_config(config_class: type, values: Mapping[str, Any], where: str) -> Any:
    """A method's frozen ``Config`` from ``values``: unknown keys, wrong types and bad choices are `UsageError`."""
    declared = {field.name: field for field in dataclasses.fields(config_class)}
    for key in values:
        if key not in declared:
            raise unknown(f"setting of {where}", key, declared)
    try:
        config = TypeAdapter(config_class).validate_python(dict(values))
    except ValidationError as error:
        raise UsageError(f"{where}: {_first(error)}") from error
    for name, field in declared.items():
        value = getattr(config, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{where}.{name}: {value} is not a finite number")
        choices = field.metadata.get("choices", ())
        if choices and value not in choices:
            listing = ", ".join(map(str, choices))
            raise UsageError(f"{where}.{name}: {value!r} is not one of {listing}")
    return config


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = "".join(f"{part}: " for part in [".".join(map(str, problem["loc"]))] if part)
    got = f" (got {json.dumps(problem.get('input'), default=str)})" if place else ""
    return f"{place}{problem['msg'].removeprefix('Value error, ')}{got}"
