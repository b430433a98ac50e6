"""Mask R-CNN as detectron2 builds it, behind `methods.rcnn.Detector`: a network of our settings, or one of its zoo.

Its parts are put together from their constructors, and the zoo's from the YAML files that come with it: no catalogue of
data sets, no second trainer, and never `detectron2.model_zoo`, which needs a module that setuptools dropped.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import itertools
import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from methods.backbones import IMAGENET_MEAN, IMAGENET_STD, load_imagenet
from methods.base import Instances, MethodError, ObjectMasks
from methods.rcnn import (
    Encoder,
    MaskRCNNConfig,
    check_classes,
    check_levels,
    clipped,
    group_norm,
    object_targets,
    unwrapped,
)
from methods.weights import Weights, fit, read_weights

COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # of June 2026: the one that this adapter was run with
REPOSITORY = "https://github.com/facebookresearch/detectron2.git"
CLASS_LAYERS = (
    "roi_heads.box_predictor.cls_score.",
    "roi_heads.box_predictor.bbox_pred.",
    "roi_heads.mask_head.predictor.",
)
_CHUNK = 50  # proposals whose masks are dense at once


def install_command() -> str:
    """How to install detectron2 for the torch of this machine."""
    build = f"{sys.executable} -m pip install --no-build-isolation 'git+{REPOSITORY}@{COMMIT}'"
    cuda = torch.version.cuda
    if cuda and torch.cuda.is_available():
        return f"{build} (it compiles: the CUDA toolkit {cuda} of this torch {torch.__version__} must be installed)"
    return f"FORCE_CUDA=0 {build} (built for the processor with torch {torch.__version__}; some minutes)"


def installed() -> bool:
    """Whether there is a detectron2 to import; it may not work."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None  # a bare folder of that name is none


@functools.cache
def problem() -> str:
    """Why detectron2 cannot be used here; empty where it can. Imports it, which takes seconds."""
    if not installed():
        return "detectron2 is not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it scripts functions while it is imported, which torch deprecates
            from detectron2.layers import ROIAlign, batched_nms
            from detectron2.modeling import GeneralizedRCNN  # noqa: F401  # the import itself is the test

        box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        batched_nms(box, torch.ones(1), torch.zeros(1), 0.5)
        ROIAlign(2, 1.0, 0)(torch.zeros(1, 1, 8, 8), torch.cat([torch.zeros(1, 1), box], dim=1))
    except Exception as error:  # whatever a stranger's import raises means that it does not work
        return f"detectron2 is installed but does not work: {type(error).__name__}: {error}"
    return ""


def require() -> None:
    """Raises `MethodError`, with the command that installs it, where detectron2 cannot be used."""
    if problem():
        raise MethodError(
            f"{problem()}. It is not on the package index; install it with: {install_command()}. Networks of our own "
            "settings run with backend = torchvision, too"
        )


@functools.cache
def implementation() -> str:
    """detectron2's version and commit. Raises `MethodError` where it cannot be used."""
    require()
    import detectron2

    package = Path(detectron2.__file__).parent
    commit = _commit(package)
    origin = f"commit {commit[:8]}" if commit else f"sources {_digest(package)}"
    return f"detectron2 {detectron2.__version__}, {origin}"


def _digest(package: Path) -> str:
    """A key of the package's Python files, where no commit says what they are."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _commit(package: Path) -> str:
    """The commit of the clone that ``package`` is imported from, or that it was installed from by its address.

    Empty where nobody can tell: a clone with changes, or a copy that was installed from a folder.
    """
    folder = package.parent
    if not (folder / ".git").exists():
        try:
            installed = metadata.distribution("detectron2")
            source = json.loads(installed.read_text("direct_url.json") or "{}")
        except (metadata.PackageNotFoundError, ValueError):
            return ""
        if Path(installed.locate_file("detectron2")).resolve() != package.resolve():
            return ""  # another one is installed besides
        return source.get("vcs_info", {}).get("commit_id", "")
    try:
        changed, commit = (
            subprocess.run(("git", "-C", str(folder), *words), capture_output=True, text=True).stdout.strip()
            for words in (("status", "--porcelain", "--untracked-files=no", "--", "detectron2"), ("rev-parse", "HEAD"))
        )
    except OSError:  # no git here
        return ""
    return "" if changed else commit


def configs_folder() -> Path:
    """detectron2's YAML files: inside an installation, beside the package in a clone."""
    import detectron2

    package = Path(detectron2.__file__).parent
    for folder in (package / "model_zoo" / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise MethodError(f"detectron2 in {package} came without its configs folder: install it from its repository")


def zoo_file(zoo: str) -> Path:
    """The YAML file ``zoo`` of detectron2's; `MethodError` with the nearest names where there is none."""
    folder = configs_folder()
    if not (folder / zoo).is_file():
        names = [path.relative_to(folder).as_posix() for path in folder.glob("**/mask_rcnn*.yaml")]
        near = " or ".join(difflib.get_close_matches(zoo, names, 2))
        raise MethodError(f"detectron2 has no {zoo} in {folder}" + (f"; did you mean {near}?" if near else ""))
    return folder / zoo


class Detectron2RCNN(nn.Module):
    """See `methods.rcnn.Detector`. Builds modules only; a network of the zoo reads its YAML file."""

    def __init__(self, config: MaskRCNNConfig, num_classes: int) -> None:
        super().__init__()
        require()
        self.config = config
        self.sides: tuple[int, int] | None = None  # that images are resized to in prediction; None: the harness decides
        self.trained_on = ""  # the data set of a zoo's network
        if not config.zoo:
            self.model = _own_model(config, num_classes)
            return
        from detectron2.modeling import build_model

        cfg = _zoo_cfg(config, num_classes)
        self.model, self.trained_on = build_model(cfg), cfg.DATASETS.TRAIN[0]
        self.sides = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST

    @property
    def encoder(self) -> nn.Module:
        return self.model.backbone.bottom_up

    def loss(self, images: Sequence[Tensor], objects: Sequence[ObjectMasks]) -> dict[str, Tensor]:
        from detectron2.utils.events import EventStorage

        inputs = [
            {"image": self._levels(image), "instances": _instances(one)}
            for image, one in zip(images, objects, strict=True)
        ]
        with EventStorage():  # its losses count what they see there; nobody reads it
            return self.model(inputs)

    def detect(self, image: Tensor, size: Sequence[int], proposals: int) -> tuple[Instances, Instances | None]:
        from detectron2.structures import Instances as Found

        model, device = self.model, image.device
        image = self._levels(resized(image, self.sides) if self.sides else image)
        images = model.preprocess_image([{"image": image}])
        features = model.backbone(images.tensor)
        (first,), _ = model.proposal_generator(images, features, None)
        (found,), _ = model.roi_heads(images, features, [first], None)
        detections = self._neutral(found, size, found.pred_classes + 1)
        if not proposals:
            return detections, None
        parts = []
        for start in range(0, min(proposals, len(first)), _CHUNK):
            some = first[start : min(start + _CHUNK, proposals)]
            heads = model.roi_heads
            pooled = heads.box_pooler([features[name] for name in heads.box_in_features], [some.proposal_boxes])
            logits, _ = heads.box_predictor(heads.box_head(pooled))
            given = Found(
                some.image_size,
                pred_boxes=some.proposal_boxes.clone(),
                pred_classes=logits[:, :-1].argmax(1),  # its background is the last
                scores=some.objectness_logits.sigmoid(),
            )
            (given,) = heads.forward_with_given_boxes(features, [given])
            parts.append(self._neutral(given, size, torch.zeros(len(given), dtype=torch.int64, device=device)))
        if not parts:
            return detections, _nothing(size, device)
        return detections, Instances(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("masks", "labels", "scores", "boxes"))
        )

    def _levels(self, image: Tensor) -> Tensor:
        """Grey levels 0 to 255, in the network's order of colours."""
        image = image * 255.0
        return image.flip(0) if self.model.input_format == "BGR" else image

    def _neutral(self, found: Any, size: Sequence[int], labels: Tensor) -> Instances:
        """Raw results as instances at ``size``; boxes that end up without area are dropped, as detectron2 does."""
        from detectron2.modeling.postprocessing import detector_postprocess

        found.labels = labels
        found = detector_postprocess(found, *size, mask_threshold=self.config.mask_threshold)
        return Instances(
            found.pred_masks.bool(),
            found.labels,
            found.scores.float().clamp(0.0, 1.0),
            clipped(found.pred_boxes.tensor, size),
        )

    def load(self, weights: str, class_names: Sequence[str], new_classes: bool) -> None:
        given = unwrapped(read_weights(Path(weights)))
        if given.by_suffix:
            from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

            own = self.model.state_dict()
            aligned = align_and_update_state_dicts(own, dict(given.tensors), c2_conversion=given.author == "Caffe2")
            given = Weights(given.source, _with_statistics(aligned, own))
        kind = fit(self.model, given, encoder="backbone.bottom_up.", class_layers=CLASS_LAYERS, new_classes=new_classes)
        if kind == "whole" and self.trained_on:
            from detectron2.data import MetadataCatalog

            classes = MetadataCatalog.get(self.trained_on).get("thing_classes", ())
            check_classes(given.source, classes, class_names)

    def load_imagenet(self) -> None:
        if self.config.zoo:
            raise MethodError(
                f"{self.config.zoo} starts from ImageNet weights of its makers' own: name the file that its "
                "MODEL.WEIGHTS asks for, such as R-50.pkl, with weights = PATH (or pretrained = false)"
            )
        load_imagenet(self.encoder.encoder.model, self.config.encoder)


def resized(image: Tensor, sides: tuple[int, int]) -> Tensor:
    """``image`` (3, H, W) in [0, 1] with its shorter side at ``sides[0]``, but the longer at most ``sides[1]``.

    As detectron2 does: on 8-bit images, by Pillow's bilinear filter, which looks at all pixels that it makes smaller.
    """
    from detectron2.data.transforms import ResizeShortestEdge

    height, width = image.shape[1:]
    shape = ResizeShortestEdge.get_output_shape(height, width, *sides)
    pixels = (image * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    smaller = np.array(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(smaller).permute(2, 0, 1).to(image.device, torch.float32) / 255.0


def _instances(objects: ObjectMasks) -> Any:
    """detectron2's training target: objects without a pixel are none, classes count from 0."""
    from detectron2.structures import BitMasks, Boxes, Instances

    target = object_targets(objects)
    height, width = objects.masks.shape[1:]
    return Instances(
        (height, width),
        gt_boxes=Boxes(target["boxes"]),
        gt_classes=target["labels"] - 1,
        gt_masks=BitMasks(target["masks"].bool()),
    )


def _with_statistics(given: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old files fold the statistics of batch normalisation into its factors: detectron2 takes mean 0 and variance 1."""
    missing = {name: value for name, value in own.items() if name not in given}
    folded = {
        name: torch.full_like(value, name.endswith("running_var"))
        for name, value in missing.items()
        if name.endswith(("running_mean", "running_var")) and f"{name.rpartition('.')[0]}.weight" in given
    }
    return {**given, **folded}


def _nothing(size: Sequence[int], device: torch.device) -> Instances:
    return Instances(
        torch.zeros(0, *size, dtype=torch.bool, device=device),
        torch.zeros(0, dtype=torch.int64, device=device),
        torch.zeros(0, device=device),
        torch.zeros(0, 4, device=device),
    )


def _zoo_cfg(config: MaskRCNNConfig, num_classes: int) -> Any:
    """detectron2's settings by one of its YAML files, with those of ours that hold for any network."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(zoo_file(config.zoo)))
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or not cfg.MODEL.MASK_ON:
        raise MethodError(f"{config.zoo} is no Mask R-CNN")
    if cfg.MODEL.ROI_HEADS.NAME != "StandardROIHeads" or not cfg.MODEL.FPN.IN_FEATURES:
        raise MethodError(f"{config.zoo} is no Mask R-CNN with a feature pyramid and one box head, as needed here")
    rpn, heads = cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS
    cfg.MODEL.DEVICE = "cpu"  # the harness moves it
    heads.NUM_CLASSES = num_classes
    heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST = config.score_threshold, config.nms_threshold
    rpn.PRE_NMS_TOPK_TEST = rpn.POST_NMS_TOPK_TEST = config.test_proposals
    if config.proposals:
        rpn.PRE_NMS_TOPK_TRAIN = rpn.POST_NMS_TOPK_TRAIN = config.proposals
    rpn.BATCH_SIZE_PER_IMAGE, heads.BATCH_SIZE_PER_IMAGE = config.anchor_samples, config.box_samples
    cfg.TEST.DETECTIONS_PER_IMAGE = config.detections
    return cfg


def _own_model(config: MaskRCNNConfig, num_classes: int) -> nn.Module:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import FPN, GeneralizedRCNN
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
    from detectron2.modeling.roi_heads import (
        FastRCNNConvFCHead,
        FastRCNNOutputLayers,
        MaskRCNNConvUpsampleHead,
        StandardROIHeads,
    )

    levels, norm, strides = check_levels(config), group_norm(config) or "", config.strides
    bottom_up = _bottom_up(config)
    if any(2 * fine != coarse for fine, coarse in itertools.pairwise(strides)):
        raise MethodError(f"mask_rcnn: detectron2's pyramid needs strides that double, not {list(strides)}")
    names = [f"p{stride.bit_length() - 1}" for stride in strides]  # p2 has stride 4
    extra = None
    if config.coarser_level:
        extra = LastLevelMaxPool()
        extra.in_feature = names[-1]
        strides = (*strides, 2 * strides[-1])
    pyramid = FPN(bottom_up, [name.replace("p", "res") for name in names], config.channels, norm, extra)
    box_shape = ShapeSpec(channels=config.channels, height=7, width=7)
    box_head = FastRCNNConvFCHead(box_shape, conv_dims=[], fc_dims=[config.representation] * 2)
    mask_shape = ShapeSpec(channels=config.channels, height=14, width=14)
    return GeneralizedRCNN(
        backbone=pyramid,
        proposal_generator=RPN(
            in_features=[f"p{stride.bit_length() - 1}" for stride in strides],
            head=StandardRPNHead(in_channels=config.channels, num_anchors=3),
            anchor_generator=DefaultAnchorGenerator(
                sizes=[[side] for side in config.anchors],
                aspect_ratios=[0.5, 1.0, 2.0],
                strides=list(strides)[:levels],
                offset=0.0,  # as its configuration has it; its constructor's own is 0.5
            ),
            anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
            box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
            batch_size_per_image=config.anchor_samples,
            positive_fraction=0.5,
            pre_nms_topk=(config.proposals or 2000, config.test_proposals),
            post_nms_topk=(config.proposals or 1000, config.test_proposals),
        ),
        roi_heads=StandardROIHeads(
            num_classes=num_classes,
            batch_size_per_image=config.box_samples,
            positive_fraction=0.25,
            proposal_matcher=Matcher([0.5], [0, 1], allow_low_quality_matches=False),
            box_in_features=names,
            box_pooler=_pooler(config, 7),
            box_head=box_head,
            box_predictor=FastRCNNOutputLayers(
                box_head.output_shape,
                box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
                num_classes=num_classes,
                test_score_thresh=config.score_threshold,
                test_nms_thresh=config.nms_threshold,
                test_topk_per_image=config.detections,
            ),
            mask_in_features=names,
            mask_pooler=_pooler(config, 14),
            mask_head=MaskRCNNConvUpsampleHead(
                mask_shape,
                num_classes=num_classes,
                conv_dims=[*config.mask_layers, config.mask_layers[-1]],  # the last is the upsampling
                conv_norm=norm,
            ),
        ),
        pixel_mean=[255.0 * value for value in IMAGENET_MEAN],
        pixel_std=[255.0 * value for value in IMAGENET_STD],
        input_format="RGB",
    )


def _bottom_up(config: MaskRCNNConfig) -> nn.Module:
    from detectron2.modeling import Backbone

    class BottomUp(Backbone):
        """timm's encoder by detectron2's names: res2 has stride 4."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = Encoder(config)
            names = [f"res{stride.bit_length() - 1}" for stride in config.strides]
            self._out_feature_strides = dict(zip(names, config.strides, strict=True))
            self._out_feature_channels = dict(zip(names, self.encoder.widths, strict=True))
            self._out_features = names

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return dict(zip(self._out_features, self.encoder(images), strict=True))

    return BottomUp()


def _pooler(config: MaskRCNNConfig, size: int) -> nn.Module:
    from detectron2.modeling.poolers import ROIPooler

    return ROIPooler(
        output_size=size,
        scales=[1.0 / stride for stride in config.strides],
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
        canonical_box_size=config.canonical_size,
        canonical_level=4,
    )
