"""What Mask R-CNN of either maker is built from and fed with: settings, encoder, targets."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from methods.backbones import freeze
from methods.base import Instances, MethodError, ObjectMasks, setting
from methods.weights import Weights, first_other_class

_PUBLISHED = {r"model_final_([0-9a-f]{6})\.pkl": "md5", r"maskrcnn_\w+-([0-9a-f]{8})\.pth": "sha256"}
_OWN_PREFIX = "detector.model."  # where the plugin keeps the makers' network


@dataclass(frozen=True)
class MaskRCNNConfig:
    backend: str = setting(
        "auto",
        "whose implementation; auto: detectron2's where it is installed and works, else torchvision's",
        source="ours",
        choices=("auto", "detectron2", "torchvision"),
    )
    zoo: str = setting(
        "",
        "a network of the makers' zoo, as they build it, instead of the one that the settings below describe: "
        "maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2 (torchvision), or a file of detectron2's folder configs "
        "such as COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml; it resizes images as they do",
        source="ours",
    )
    weights: str = setting(
        "",
        "file to start from: the zoo's weights, whole or of the encoder (.pkl, .pth, .pt, .safetensors); download: "
        "torchvision's weights of that name",
        source="ours",
        file=True,
    )
    new_classes: bool = setting(
        False, "leave the layers of the weights that are for other classes as they are first made", source="ours"
    )
    encoder: str = setting("resnet50", "timm name of the encoder", source="section 3")
    frozen_levels: int = setting(
        0, "encoder levels that keep their first weights", source="torchvision trains all but 2"
    )
    fixed_normalisation: bool = setting(
        False, "the encoder's batch normalisation does not learn, neither statistics nor factors", source="both makers"
    )
    pretrained: bool = setting(True, "start the encoder from ImageNet", source="section 3")
    strides: tuple[int, ...] = setting((4, 8, 16, 32), "pyramid levels, by their stride in pixels", source="FPN")
    coarser_level: bool = setting(True, "add one level by pooling the last, for proposals only", source="FPN")
    channels: int = setting(256, "width of the pyramid", source="FPN")
    anchors: tuple[int, ...] = setting((32, 64, 128, 256, 512), "side of each level's anchors, in pixels", source="FPN")
    normalisation: str = setting(
        "none",
        "group: normalise in pyramid and mask head, as Wu & He (2018) do",
        source="Wu & He",
        choices=("none", "group"),
    )
    canonical_size: int = setting(224, "side in pixels of a box that is pooled from stride 16", source="FPN, eq. 1")
    representation: int = setting(1024, "width of the box head's two layers", source="FPN")
    mask_layers: tuple[int, ...] = setting((256, 256, 256, 256), "widths of the mask head's layers", source="figure 4")
    proposals: int = setting(
        0,
        "proposals kept in training, before and after NMS (0: as the makers, 2000 before and 2000 or 1000 after)",
        source="both makers",
    )
    test_proposals: int = setting(1000, "proposals kept in prediction", source="both makers", stage="predict")
    rpn_proposals: int = setting(
        0,
        "proposals of the network's first stage that get a mask and are judged as proposals, best first, at most "
        "test_proposals (0: the detections are)",
        source="ours",
        stage="predict",
    )
    anchor_samples: int = setting(256, "anchors sampled per image for the proposals' loss", source="torchvision")
    box_samples: int = setting(512, "proposals sampled per image for the box loss", source="section 3.1, FPN")
    score_threshold: float = setting(0.05, "lowest score kept", source="torchvision", stage="predict")
    nms_threshold: float = setting(
        0.5, "IoU above which the lower-scored box goes", source="section 3.1", stage="predict"
    )
    detections: int = setting(100, "most detections per image", source="section 3.1", stage="predict")
    mask_threshold: float = setting(
        0.5, "probability at which a pixel belongs to the mask", source="section 3.1", stage="predict"
    )


def object_targets(objects: ObjectMasks) -> dict[str, Tensor]:
    """What either maker trains on, for one image; objects without a pixel, left outside by a crop, are none.

    Gives ``masks`` (N, H, W) uint8, ``labels`` (N,) int64 and ``boxes`` (N, 4) float32 as (x1, y1, x2, y2) with the
    right and lower edge past the last pixel.
    """
    seen = objects.masks.flatten(1).any(1)
    masks = objects.masks[seen]
    rows, columns = masks.any(2).to(torch.uint8), masks.any(1).to(torch.uint8)
    height, width = objects.masks.shape[1:]
    # argmax gives the first of equals: the first and, from behind, the last line that the mask touches.
    boxes = torch.stack(
        [columns.argmax(1), rows.argmax(1), width - columns.flip(1).argmax(1), height - rows.flip(1).argmax(1)], dim=1
    )
    return {"boxes": boxes.to(torch.float32), "labels": objects.labels[seen], "masks": masks.to(torch.uint8)}


def clipped(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """``boxes`` (N, 4) as x1, y1, x2, y2, float32 within an image of ``size`` (height, width)."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0.0), boxes.new_tensor([width, height, width, height])).float()


class Detector(Protocol):
    """One maker's Mask R-CNN, as the plugin drives it. Images are (3, H, W) float32 RGB in [0, 1], without padding."""

    encoder: nn.Module  # what starts pretrained

    def loss(self, images: Sequence[Tensor], objects: Sequence[ObjectMasks]) -> dict[str, Tensor]:
        """The maker's losses by the maker's names."""

    def detect(self, image: Tensor, size: Sequence[int], proposals: int) -> tuple[Instances, Instances | None]:
        """Detections at ``size`` (height, width); and with ``proposals``, so many of the first stage, of class 0."""

    def load(self, weights: str, class_names: Sequence[str], new_classes: bool) -> None:
        """Start from the maker's weights; see `MaskRCNNConfig.weights`."""

    def load_imagenet(self) -> None:
        """Start the encoder from ImageNet."""


class Encoder(nn.Module):
    """timm's encoder at the pyramid's strides: (B, 3, H, W) -> feature maps, finest first; ``widths`` their channels.

    Raises `MethodError` for a name or strides that timm does not have.
    """

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        import timm

        try:
            self.model = timm.create_model(config.encoder, features_only=True, pretrained=False)
        except RuntimeError as error:
            raise MethodError(f"mask_rcnn: unknown encoder {config.encoder!r}: {error}") from error
        reductions = self.model.feature_info.reduction()
        missing = set(config.strides) - set(reductions)
        if missing:
            raise MethodError(f"mask_rcnn: encoder {config.encoder} has strides {reductions}, not {sorted(missing)}")
        self._frozen = freeze(self.model, config.frozen_levels)
        if config.fixed_normalisation:
            fixed = [one for one in self.model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
            for module in fixed:
                module.requires_grad_(False)
            self._frozen = [*self._frozen, *fixed]
        self.levels = [reductions.index(stride) for stride in config.strides]
        self.widths = [self.model.feature_info.channels()[level] for level in self.levels]

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.model(images)
        return [features[level] for level in self.levels]


def unwrapped(weights: Weights) -> Weights:
    """Weights of a run of this project, by the names of the makers' network."""
    if not all(name.startswith(_OWN_PREFIX) for name in weights.tensors):
        return weights
    return replace(weights, tensors={name.removeprefix(_OWN_PREFIX): value for name, value in weights.tensors.items()})


def published(name: str) -> tuple[str, str] | None:
    """The digest's algorithm and beginning that a maker put into the name of a published file; None for other names.

    detectron2 takes the MD5, torchvision the SHA-256.
    """
    for pattern, algorithm in _PUBLISHED.items():
        if found := re.fullmatch(pattern, name):
            return algorithm, found[1]
    return None


def check_published(path: Path) -> None:
    """Raises `MethodError` for a file with a maker's name whose content is not the maker's."""
    if (named := published(path.name)) is None:
        return
    algorithm, beginning = named
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    if not digest.startswith(beginning):
        raise MethodError(
            f"weights {path}: this is not the published file of that name, whose {algorithm.upper()} begins with "
            f"{beginning}, but {digest[:8]} here: load it again, or give a file of your own another name"
        )


def check_levels(config: MaskRCNNConfig) -> int:
    """How many levels the pyramid has. Raises `MethodError` where the anchors are not as many."""
    levels = len(config.strides) + config.coarser_level
    if len(config.anchors) != levels:
        raise MethodError(f"mask_rcnn: {levels} pyramid levels need as many anchors, not {len(config.anchors)}")
    return levels


def group_norm(config: MaskRCNNConfig) -> Callable[[int], nn.Module] | None:
    """What makes the normalisation of pyramid and mask head; None where there is none."""
    if config.normalisation != "group":
        return None
    return lambda channels: nn.GroupNorm(math.gcd(32, channels), channels)


def check_classes(weights: str, trained: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises `MethodError` where the data's classes are not, one by one, those that the weights were trained for."""
    other = first_other_class(trained, wanted)
    if wanted and trained and (other or len(trained) != len(wanted)):
        example = f"class {other[0]} is {other[1]}, not {other[2]}" if other else "the others are the same"
        raise MethodError(
            f"weights {weights} are for {len(trained)} classes, the data have {len(wanted)}: {example}. With "
            "new_classes = true the layers for classes are trained anew"
        )
