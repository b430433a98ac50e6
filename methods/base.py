"""The interface of a method: what it trains on, what it predicts, and how its settings are declared.

A method is a ``torch.nn.Module`` with a loss and a ``predict``. A pixel-grouping method is written in three
parts, embed -> group -> score, which `methods.grouping.PixelGrouping` composes and times one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

IGNORE = 255  # semantic value of pixels that no loss may judge


class MethodError(Exception):
    """A method cannot be built or run as configured. The message says what to change."""


@dataclass(frozen=True)
class ObjectMasks:
    """The annotated objects of one image, which may overlap; crowds are not among them."""

    masks: Tensor  # (N, H, W) bool; an object that a crop left outside has no pixel
    labels: Tensor  # (N,) int64 in 1..C

    def to(self, device: torch.device | str) -> ObjectMasks:
        return ObjectMasks(self.masks.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Batch:
    """What a method trains on: images of one size with their annotation."""

    images: Tensor  # (B, 3, H, W) float32 RGB in [0, 1]; normalisation belongs to the model
    semantic: Tensor  # (B, H, W) int64; 0 background, 1..C, 255 ignore
    instances: Tensor  # (B, H, W) int64; 0 none, 1..N per image
    sizes: Tensor  # (B, 2) int64 (height, width) of each image; below and right of it is padding
    regions: Tensor | None = None  # (B, H, W) int64 over-segmentation, where the data bring one
    objects: tuple[ObjectMasks, ...] | None = None  # one an image, where the data have them and the method wants them

    def to(self, device: torch.device | str) -> Batch:
        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(one.to(device) for one in value)
            return None if value is None else value.to(device)

        return Batch(*(moved(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class Instances:
    """The objects found in one image, at its original resolution."""

    masks: Tensor  # (N, H, W) bool, may overlap; without a pixel only where the instance has a box of its own
    labels: Tensor  # (N,) int64 in 1..C (0 for class-agnostic proposals)
    scores: Tensor  # (N,) float32 in [0, 1]
    # (N, 4) float32 x1, y1, x2, y2 in pixels of the original image, only where a method has boxes of its own
    boxes: Tensor | None = None


@dataclass(frozen=True)
class Seconds:
    """Wall time spent on one image, in seconds; NaN for a part that the method does not have."""

    network: float
    grouping: float = float("nan")
    scoring: float = float("nan")


@dataclass(frozen=True)
class Truth:
    """The ground truth of one image at its original size, for a stage that it replaces."""

    semantic: Tensor  # (H, W) int64; 0 background, 1..C, 255 ignore
    instances: Tensor  # (H, W) int64; 0 none, 1..N


@dataclass(frozen=True)
class Embedding:
    """The network's dense outputs for one image, at the image's original size; a method may add fields."""

    pixels: Tensor  # (K, H, W) float32
    probabilities: Tensor  # (C + 1, H, W) float32 in [0, 1], background first


@dataclass(frozen=True)
class Features:
    """One point a pixel: what any grouping algorithm can work on."""

    points: Tensor  # (D, H, W) floating
    radius: float  # the usual largest distance from a group's centre to its pixels, in units of the points
    spherical: bool = False  # the points have length 1


@dataclass(frozen=True)
class Groups:
    """The pixels of one image in groups, before they have scores; a method may add fields."""

    semantic: Tensor  # (H, W) int64 class map that the grouping used
    masks: Tensor  # (H, W) int64 ids 1..N, 0 for none; or (N, H, W) bool, where groups may overlap
    labels: Tensor | None = None  # (N,) int64; None: the commonest class of the group's pixels
    confidence: Tensor | None = None  # (N,) float32 in [0, 1], the value at the group's seed


@dataclass(frozen=True)
class Retrieval:
    """Why segments got their labels: the nearest prototypes of the training images.

    Where several sizes or mirror images of an image voted, this is the view of the image's own size.
    """

    segments: Tensor  # (H, W) int64 numbers 0..S-1
    neighbours: Tensor  # (S, k) int64 rows of the method's bank, nearest first
    similarities: Tensor  # (S, k) float32 cosine
    labels: Tensor  # (S, k) int64 classes
    images: Tensor  # (S, k) int64 number of the training image that each came from


@dataclass(frozen=True)
class Prediction:
    """The result for one image; a method fills what its ``tasks`` declare."""

    instances: Instances | None = None
    semantic: Tensor | None = None  # (H, W) uint8
    boundary: Tensor | None = None  # (H, W) float32 in [0, 1]
    seconds: Seconds | None = None
    proposals: Instances | None = None  # class-agnostic: labels are 0
    retrieval: Retrieval | None = None


def setting(
    default: Any, help: str, *, source: str, stage: str = "train", choices: tuple = (), file: bool = False
) -> Any:
    """Declare one field of a method's frozen ``Config``.

    ``help`` says what it is, with its unit; ``source`` the paper's section or equation, or "ours".
    ``stage`` is "train" when a trained network depends on the value and "predict" when only the prediction does:
    changing a "predict" setting re-uses the trained weights. With ``file`` the value may be the path of a file
    (absolute, or relative to where the command runs): not its name but its content decides what is re-used.
    """
    if stage not in ("train", "predict"):
        raise ValueError(f"stage must be 'train' or 'predict', not {stage!r}")
    meta = {"help": help, "source": source, "stage": stage, "choices": choices, "file": file}
    return field(default=default, metadata=meta)


def objects_of_map(instances: Tensor, semantic: Tensor) -> ObjectMasks:
    """The instances of one image, ids ascending, from ``instances`` (H, W) int64, 0 none, and ``semantic`` (H, W)."""
    instances = torch.where((semantic == 0) | (semantic == IGNORE), 0, instances)
    ids, index = instances.unique(return_inverse=True)
    labels = torch.zeros_like(ids).scatter_reduce(0, index.flatten(), semantic.flatten(), "amax")  # all of one class
    ids, labels = ids[ids > 0], labels[ids > 0]
    return ObjectMasks(instances.unsqueeze(0) == ids.view(-1, 1, 1), labels)


class Method(nn.Module, ABC):
    """One way to segment instances. Construction builds modules: no files, no device, no data."""

    name: ClassVar[str]
    paper: ClassVar[str]
    tasks: ClassVar[frozenset[str]]  # of {"instances", "proposals", "semantic", "boundary"}
    Config: ClassVar[type]
    overlapping: ClassVar[bool] = False  # its loss wants `Batch.objects` where the data have them
    class_names: tuple[str, ...] = ()  # of classes 1..C; the harness sets them before `initialise`

    @classmethod
    def settled(cls, config: Any) -> Any:
        """``config`` with what "automatic" settings stand for on this machine; asked before anything is run."""
        return config

    @classmethod
    def implementation(cls, config: Any) -> str:
        """Whose code does the work, with version and commit, where it is not this project's; for records and tables.

        ``config`` is settled. Raises `MethodError` where that code is missing. A change makes results anew.
        """
        return ""

    def __init__(self, config: Any, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes  # C, without the background

    def initialise(self) -> None:
        """Load pretrained weights; called once, before training, never when a checkpoint is loaded."""

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that `initialise` fills; a recipe may give them a lower learning rate."""
        return ()

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named finite scalars; the trainer minimises their sum."""

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Called once after training, in evaluation mode, with training images as they are, one a batch.

        What it builds must be in the ``state_dict``. By default nothing, and no image is read.
        """

    @abstractmethod
    def predict(self, images: Tensor, sizes: Tensor, oracle: Batch | None = None) -> list[Prediction]:
        """Segment ``images`` (B, 3, h, w) float32 in [0, 1]; result i has the size ``sizes[i]`` (height, width).

        ``oracle`` is the ground truth at the original size; it is used only for the stages that the config names.
        The result for an image never depends on the other images of the batch.
        """

    def needs_truth(self) -> bool:
        """Whether `predict` is to be given the ground truth, because the config names a stage that it replaces."""
        return False
