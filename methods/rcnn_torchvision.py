"""Mask R-CNN as torchvision builds it, behind `methods.rcnn.Detector`: a network of our settings, or one of its zoo."""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
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

ZOO = {
    "maskrcnn_resnet50_fpn": "MaskRCNN_ResNet50_FPN_Weights",
    "maskrcnn_resnet50_fpn_v2": "MaskRCNN_ResNet50_FPN_V2_Weights",
}
CLASS_LAYERS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
# The zoo's networks have one output for each of COCO's ids 1 to 90, and these ten were never used.
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED_IDS)
# The first version was trained with an epsilon of 0 in batch normalisation: torchvision sets it for this file alone.
_WITHOUT_EPSILON = "bf2d0c1e"
_CHUNK = 50  # proposals whose masks are dense at once


@functools.cache
def implementation() -> str:
    """torchvision's version and commit. Raises `MethodError` where it is missing or its operators do not load."""
    detection()
    import torchvision

    commit = getattr(torchvision.version, "git_version", None) or "unknown"
    version = torchvision.__version__.partition("+")[0]  # builds for other devices are the same code
    return f"torchvision {version}, commit {commit[:8]}"


@functools.cache
def detection() -> Any:
    """torchvision.models.detection; `MethodError` where torchvision's compiled operators do not load."""
    try:
        from torchvision.models import detection
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise MethodError(
            f"torchvision's operators do not load with torch {torch.__version__}: {error}. Install builds that "
            "belong together (torch >= 2.11, not 2.13, with torchvision >= 0.26), as `make install` does"
        ) from error
    return detection


class TorchvisionRCNN(nn.Module):
    """See `methods.rcnn.Detector`. Builds modules only: no files, no network."""

    def __init__(self, config: MaskRCNNConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        # A zoo's network for 80 classes has COCO's 90 outputs, as its makers train it.
        self.ids = COCO_IDS if config.zoo and num_classes == len(COCO_IDS) else tuple(range(1, num_classes + 1))
        outputs = max(self.ids) + 1
        self.model = _zoo_model(config, outputs) if config.zoo else _own_model(config, outputs)
        self.model.transform = _transform(resize=bool(config.zoo))

    @property
    def encoder(self) -> nn.Module:
        return self.model.backbone.body if self.config.zoo else self.model.backbone.encoder

    def loss(self, images: Sequence[Tensor], objects: Sequence[ObjectMasks]) -> dict[str, Tensor]:
        targets = [object_targets(one) for one in objects]
        ids = torch.tensor((0, *self.ids), device=images[0].device)
        return self.model(list(images), [{**one, "labels": ids[one["labels"]]} for one in targets])

    def detect(self, image: Tensor, size: Sequence[int], proposals: int) -> tuple[Instances, Instances | None]:
        inputs, _ = self.model.transform([image])
        features = self.model.backbone(inputs.tensors)
        boxes, objectness = self._first_stage(inputs, features)
        (found,), _ = self.model.roi_heads(features, [boxes], inputs.image_sizes)
        detections = self._instances(found, inputs, size)
        if not proposals:
            return detections, None
        return detections, self._proposals(features, boxes[:proposals], objectness[:proposals], inputs, size)

    def _first_stage(self, inputs: Any, features: OrderedDict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) of one image, best first, and their objectness (N,) in [0, 1], which forward keeps to itself."""
        kept: list[Tensor] = []
        rpn, choose = self.model.rpn, self.model.rpn.filter_proposals

        def keep(*args: Any) -> tuple[list[Tensor], list[Tensor]]:
            boxes, scores = choose(*args)
            kept.extend(scores)
            return boxes, scores

        rpn.filter_proposals = keep
        try:
            (boxes,), _ = rpn(inputs, features)
        finally:
            del rpn.filter_proposals  # the class's own again
        return boxes, kept[0]

    def _proposals(
        self, features: OrderedDict[str, Tensor], boxes: Tensor, scores: Tensor, inputs: Any, size: Sequence[int]
    ) -> Instances:
        """A mask for each proposal's box, by the channel of its likeliest class."""
        heads, parts = self.model.roi_heads, []
        for some, score in zip(boxes.split(_CHUNK), scores.split(_CHUNK), strict=True):
            logits, _ = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, [some], inputs.image_sizes)))
            classes = logits[:, 1:].argmax(1) + 1
            pooled = heads.mask_roi_pool(features, [some], inputs.image_sizes)
            masks = heads.mask_predictor(heads.mask_head(pooled)).sigmoid()
            masks = masks[torch.arange(len(classes), device=masks.device), classes][:, None]
            found = {"boxes": some, "scores": score, "labels": classes, "masks": masks}
            parts.append(self._instances(found, inputs, size, every_class=True))
        return Instances(
            torch.cat([part.masks for part in parts]),
            torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.boxes for part in parts]),
        )

    def _instances(
        self, found: dict[str, Tensor], inputs: Any, size: Sequence[int], every_class: bool = False
    ) -> Instances:
        (found,) = self.model.transform.postprocess([found], inputs.image_sizes, [tuple(size)])
        index = torch.zeros(max(self.ids) + 1, dtype=torch.int64, device=found["labels"].device)
        index[list(self.ids)] = torch.arange(1, len(self.ids) + 1, device=index.device)
        labels = index[found["labels"]]
        kept = slice(None) if every_class else labels > 0  # an id that COCO does not use is no class
        masks = found["masks"][kept, 0] >= self.config.mask_threshold
        boxes = clipped(found["boxes"][kept], size)
        return Instances(masks, labels[kept], found["scores"][kept].float().clamp(0.0, 1.0), boxes)

    def load(self, weights: str, class_names: Sequence[str], new_classes: bool) -> None:
        if weights == "download":
            given = Weights(f"{self.config.zoo} (download)", _download(_zoo_weights(self.config.zoo)))
            digest = _WITHOUT_EPSILON if self.config.zoo == "maskrcnn_resnet50_fpn" else ""
        else:
            given = unwrapped(read_weights(Path(weights)))
            digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        kind = fit(
            self.model,
            _named_as(given, self.config.zoo),
            encoder="backbone.body." if self.config.zoo else "backbone.encoder.",
            class_layers=CLASS_LAYERS,
            new_classes=new_classes,
        )
        if self.config.zoo and kind == "whole" and len(self.ids) == len(COCO_IDS):
            names = _zoo_weights(self.config.zoo).meta["categories"]
            check_classes(given.source, [names[number] for number in COCO_IDS], class_names)
        if kind != "encoder" and digest.startswith(_WITHOUT_EPSILON):
            fold_epsilon(self.model)

    def load_imagenet(self) -> None:
        if not self.config.zoo:
            load_imagenet(self.encoder.model, self.config.encoder)
            return
        from torchvision.models import ResNet50_Weights

        state = _download(ResNet50_Weights.IMAGENET1K_V1)
        self.encoder.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})


def _zoo_weights(zoo: str) -> Any:
    return getattr(detection(), ZOO[zoo]).COCO_V1


def _download(weights: Any) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # no network, or a damaged file, here or in torch's cache
        raise MethodError(
            f"the weights {weights.url} cannot be downloaded: {error}. Bring the file here by other means and name it: "
            "--set ROW.weights=PATH with the name of the row"
        ) from error


def _named_as(weights: Weights, zoo: str) -> Weights:
    """torchvision's classifiers of ImageNet know nothing of the detector around their encoder."""
    if zoo and "fc.weight" in weights.tensors:
        named = {f"backbone.body.{name}": value for name, value in weights.tensors.items()}
        return Weights(weights.source, named)
    return weights


def fold_epsilon(model: nn.Module) -> None:
    """Make frozen batch normalisation give, with its epsilon, what the same factors gave with an epsilon of 0."""
    from torchvision.ops import FrozenBatchNorm2d

    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            # Not the root of the quotient: the variances of dead channels are so small that it is infinite.
            module.weight.mul_((module.running_var + module.eps).sqrt() * module.running_var.rsqrt())


def _shared_settings(config: MaskRCNNConfig) -> dict[str, Any]:
    """What any of torchvision's Mask R-CNNs takes from our settings."""
    return {
        "rpn_pre_nms_top_n_train": config.proposals or 2000,
        "rpn_post_nms_top_n_train": config.proposals or 2000,
        "rpn_pre_nms_top_n_test": config.test_proposals,
        "rpn_post_nms_top_n_test": config.test_proposals,
        "rpn_batch_size_per_image": config.anchor_samples,
        "box_score_thresh": config.score_threshold,
        "box_nms_thresh": config.nms_threshold,
        "box_detections_per_img": config.detections,
        "box_batch_size_per_image": config.box_samples,
    }


def _zoo_model(config: MaskRCNNConfig, outputs: int) -> nn.Module:
    models, shared = detection(), _shared_settings(config)
    started = bool(config.pretrained or config.weights)  # then its builders freeze; from nothing everything learns
    if config.zoo == "maskrcnn_resnet50_fpn":
        norm = {} if started else {"norm_layer": nn.BatchNorm2d}
        backbone = models.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, trainable_layers=3 if started else 5, **norm
        )
        return models.MaskRCNN(backbone, outputs, **shared)
    model = models.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=outputs, **shared)
    for name in ("conv1", "bn1", "layer1") if started else ():
        model.backbone.body[name].requires_grad_(False)
    return model


def _own_model(config: MaskRCNNConfig, outputs: int) -> nn.Module:
    models, levels = detection(), check_levels(config)
    backbone = _Pyramid(config)
    width = config.mask_layers[-1]
    return models.MaskRCNN(
        backbone,
        rpn_anchor_generator=models.anchor_utils.AnchorGenerator(
            tuple((side,) for side in config.anchors), ((0.5, 1.0, 2.0),) * levels
        ),
        box_roi_pool=_roi_pool(backbone.names, 7, config.canonical_size),
        box_head=models.faster_rcnn.TwoMLPHead(config.channels * 49, config.representation),
        box_predictor=models.faster_rcnn.FastRCNNPredictor(config.representation, outputs),
        mask_roi_pool=_roi_pool(backbone.names, 14, config.canonical_size),
        mask_head=models.mask_rcnn.MaskRCNNHeads(config.channels, config.mask_layers, 1, group_norm(config)),
        mask_predictor=models.mask_rcnn.MaskRCNNPredictor(width, width, outputs),
        **_shared_settings(config),
    )


class _Pyramid(nn.Module):
    """Encoder and torchvision's feature pyramid: (B, 3, H, W) -> named maps, finest first."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        self.encoder = Encoder(config)
        extra = LastLevelMaxPool() if config.coarser_level else None
        self.pyramid = FeaturePyramidNetwork(self.encoder.widths, config.channels, extra, group_norm(config))
        self.names = [str(number) for number in range(len(self.encoder.widths))]
        self.out_channels = config.channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.pyramid(OrderedDict(zip(self.names, self.encoder(images), strict=True)))


def _roi_pool(names: list[str], size: int, canonical_size: int) -> nn.Module:
    from torchvision.ops import MultiScaleRoIAlign

    return MultiScaleRoIAlign(names, size, sampling_ratio=2, canonical_scale=canonical_size, canonical_level=4)


def _transform(resize: bool) -> nn.Module:
    """torchvision's transform; the harness decides on sizes, but for the zoo's networks in prediction."""

    class Transform(detection().transform.GeneralizedRCNNTransform):
        def resize(self, image: Tensor, target: dict | None = None) -> tuple[Tensor, dict | None]:
            return super().resize(image, target) if resize and not self.training else (image, target)

    return Transform(800, 1333, list(IMAGENET_MEAN), list(IMAGENET_STD))
