"""What decides a cell's outcome: its data's options, its training, prediction and evaluation, declared once as models.

An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from harness.names import UsageError, unknown

Protocol = Literal["voc", "coco", "boxes", "cityscapes", "proposals", "semantic", "boundary"]


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


class FileOptions(Spec):
    """``val_limit``: how many images to judge on, evenly spaced over the split (0: all)."""

    val_limit: int = Field(0, ge=0)


class VocOptions(FileOptions):
    """`datasets.voc`: the lists of ImageSets/Segmentation to train and to judge on.

    ``regions`` is a folder of VOC2012 with an over-segmentation of every training image as ID.png; empty: none.
    """

    train_split: str = "train"
    val_split: str = "val"
    regions: str = ""


class CocoOptions(FileOptions):
    """`datasets.coco`: any data in COCO's layout, by the JSON files to train and to judge on.

    Paths are absolute or relative to --data-root. ``train_images`` and ``val_images`` are the images' folders; empty:
    looked for beside the JSON.
    """

    train_annotations: str = "annotations/instances_train2017.json"
    val_annotations: str = "annotations/instances_val2017.json"
    train_images: str = ""
    val_images: str = ""


class CityscapesOptions(FileOptions):
    """`datasets.cityscapes`: folders of leftImg8bit and gtFine to train and to judge on.

    ``task`` says what the class map holds: the 8 classes with instances, or the 19 of semantic segmentation.
    """

    train_split: str = "train"
    val_split: str = "val"
    task: Literal["instances", "semantic"] = "instances"


class BsdsOptions(FileOptions):
    """`datasets.bsds`: folders of BSDS500 to train and to judge on; "all" is a folder without splits."""

    train_split: Literal["train", "val", "test", "trainval", "all"] = "train"
    val_split: Literal["train", "val", "test", "trainval", "all"] = "test"


DATA_OPTIONS: dict[str, type[Spec]] = {
    "shapes": ShapesOptions,
    "voc": VocOptions,
    "coco": CocoOptions,
    "cityscapes": CityscapesOptions,
    "bsds": BsdsOptions,
}


# Protocols whose truth only one layout has.
NEEDS_LAYOUT = {"cityscapes": "cityscapes", "boundary": "bsds"}


class Stage(Spec):
    """A later stage of a training: what it changes of the first one's settings; it goes on with the weights alone.

    ``split`` is another split to train on (where the data set's option is a ``train_split``), empty: the first one's.
    """

    steps: int = Field(ge=1)
    split: str = ""
    batch_size: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    pretrained_rate: float | None = Field(None, ge=0)
    warmup: float | None = Field(None, ge=0, lt=1)
    crop: int | None = Field(None, ge=0)
    around_instances: bool | None = None
    frozen_statistics: bool | None = None


WITHOUT_EFFECT = {"workers", "checkpoint_seconds"}  # settings of a training that change nothing of its outcome


class TrainSettings(Spec):
    """The recipe of one training. ``steps`` of ``batch_size`` images; learning rates follow ``schedule``.

    ``pretrained_rate`` multiplies the rate of parameters that start pretrained (0: they stay as they are, with their
    normalisation's statistics); ``clip`` is the largest gradient norm (0: no clipping). Augmentation, in this order:
    ``border`` pixels, at most, are cut off at each side; the image is turned by up to ``rotation`` degrees; resized so
    that its shorter side is one of ``short_side`` but its longer side no longer than ``long_side`` (with ``long_side``
    alone: to it; 0 and empty: not), times a factor from the range ``scale``, its longer side kept to ``longest`` (0:
    any); cut to ``crop`` in pixels (0: not), centred on a random instance with ``around_instances``; mirrored with
    probability ``flip``; its colours changed by ``color`` (0..1), ``gamma`` (largest |log|) and ``gain`` (of each
    channel, 0..1). ``chance`` is the probability of each of rotation, scale, gamma and gain. Images of a batch that
    differ in size are padded to the largest. With
    ``frozen_statistics`` batch normalisation keeps its running mean and variance. ``then`` are
    later stages, such as a fine-tuning on larger crops at a lower rate. Methods that look at the training images once
    more after training (`Method.prepare`) see ``prepare_images`` of them (0: all), resized to ``prepare_side`` pixels
    (0: not).

    ``weights`` is a safetensors file of all of the method's weights, as its train step writes it, to start from
    (absolute, or relative to where the command runs; in a suite, to the project's folder). ``workers`` and
    ``checkpoint_seconds`` change nothing of the result (`harness.settings.WITHOUT_EFFECT`).
    """

    steps: int = Field(1000, ge=0, description="0: nothing is trained")
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
    border: int = Field(0, ge=0)
    short_side: tuple[int, ...] = ()
    long_side: int = Field(0, ge=0)
    scale: tuple[float, float] = (1.0, 1.0)
    longest: int = Field(0, ge=0)
    rotation: float = Field(0.0, ge=0, le=180)
    flip: float = Field(0.5, ge=0, le=1)
    color: float = Field(0.0, ge=0, le=1)
    gamma: float = Field(0.0, ge=0)
    gain: float = Field(0.0, ge=0, le=1)
    chance: float = Field(1.0, ge=0, le=1)
    frozen_statistics: bool = False
    then: tuple[Stage, ...] = ()
    prepare_images: int = Field(0, ge=0)
    prepare_side: int = Field(0, ge=0)
    weights: str = ""
    workers: int = Field(0, ge=0, description="loader processes")
    checkpoint_seconds: float = Field(60.0, ge=0, description="how often a training's state is kept; 0: every step")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"

    @model_validator(mode="after")
    def _scale_fits(self) -> TrainSettings:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high, not {list(self.scale)}")
        if min(self.short_side, default=1) < 1:
            raise ValueError(f"short_side must hold positive numbers of pixels, not {list(self.short_side)}")
        if self.around_instances and not self.crop:
            raise ValueError("around_instances says where the crop is: set train.crop")
        for stage in self.then:
            self._with(stage)
        return self

    def stages(self) -> list[TrainSettings]:
        """The settings of every stage, each without later ones."""
        return [self.model_copy(update={"then": ()}), *(self._with(stage) for stage in self.then)]

    def _with(self, stage: Stage) -> TrainSettings:
        changes = stage.model_dump(exclude_none=True, exclude={"split"})
        return TrainSettings(**{**self.model_dump(), "then": (), **changes})


class PredictSettings(Spec):
    """Images are resized before the network so that the shorter side has ``short_side`` pixels, but the longer no more
    than ``long_side``; with ``long_side`` alone: to it (0: original size)."""

    short_side: int = Field(0, ge=0)
    long_side: int = Field(0, ge=0)


class EvaluateSettings(Spec):
    """``protocols`` to judge by; ``resamples`` of the bootstrap over images (0: no interval), at ``confidence``.

    ``boundary_thresholds``: how many, evenly spaced in 0..1 (official 99), the protocol "boundary" tries.
    """

    protocols: tuple[Protocol, ...] = Field(("voc",), min_length=1)
    boundary_thresholds: int = Field(99, ge=1, le=255)
    resamples: int = Field(1000, ge=0, le=100_000)
    confidence: float = Field(0.95, gt=0, lt=1)


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
        config = _adapter(config_class).validate_python(dict(values))
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


@functools.cache
def _adapter(config_class: type) -> TypeAdapter:
    """Making one takes ten milliseconds, and planning asks for every row."""
    return TypeAdapter(config_class)


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = "".join(f"{part}: " for part in [".".join(map(str, problem["loc"]))] if part)
    got = f" (got {json.dumps(problem.get('input'), default=str)})" if place else ""
    return f"{place}{problem['msg'].removeprefix('Value error, ')}{got}"
