"""Mask R-CNN (He et al., ICCV 2017), the baseline that grouping is judged against; torchvision's implementation.

Boxes first, then a mask in each: the opposite of grouping. The encoder is any of timm's, under a feature pyramid.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.backbones import IMAGENET_MEAN, IMAGENET_STD, freeze, load_imagenet
from methods.base import IGNORE, Batch, Instances, Method, MethodError, ObjectMasks, Prediction, Seconds, setting


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
        "proposals of the network's first stage that get a mask and are judged as proposals, best first (0: the "
        "detections are)",
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


class MaskRCNN(Method):
    """torchvision's Mask R-CNN behind the common interface."""

    name = "mask_rcnn"
    paper = "Mask R-CNN (He et al. 2017)"
    tasks = frozenset({"instances"})
    Config = MaskRCNNConfig
    overlapping = True

    def __init__(self, config: MaskRCNNConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        detection = _torchvision_detection()
        levels = len(config.strides) + config.coarser_level
        if len(config.anchors) != levels:
            raise MethodError(f"mask_rcnn: {levels} pyramid levels need as many anchors, not {len(config.anchors)}")
        backbone = _Pyramid(config)
        names = backbone.names
        mask_channels = config.mask_layers[-1]
        self.model = detection.MaskRCNN(
            backbone,
            rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(
                tuple((side,) for side in config.anchors), ((0.5, 1.0, 2.0),) * levels
            ),
            rpn_pre_nms_top_n_train=config.proposals,
            rpn_post_nms_top_n_train=config.proposals,
            rpn_pre_nms_top_n_test=config.test_proposals,
            rpn_post_nms_top_n_test=config.test_proposals,
            rpn_batch_size_per_image=config.anchor_samples,
            box_roi_pool=_roi_pool(names, 7, config.canonical_size),
            box_head=detection.faster_rcnn.TwoMLPHead(config.channels * 49, config.representation),
            box_predictor=detection.faster_rcnn.FastRCNNPredictor(config.representation, num_classes + 1),
            box_score_thresh=config.score_threshold,
            box_nms_thresh=config.nms_threshold,
            box_detections_per_img=config.detections,
            box_batch_size_per_image=config.box_samples,
            mask_roi_pool=_roi_pool(names, 14, config.canonical_size),
            mask_head=detection.mask_rcnn.MaskRCNNHeads(config.channels, config.mask_layers, 1, _norm(config)),
            mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(mask_channels, mask_channels, num_classes + 1),
        )
        self.model.transform = _same_size_transform(detection)

    def initialise(self) -> None:
        if self.config.pretrained:
            load_imagenet(self.model.backbone.encoder, self.config.encoder)

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.model.backbone.encoder.parameters()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        # Without the batch's padding: torchvision pads for itself, and keeps proposals inside each image.
        places = [(slice(height), slice(width)) for height, width in batch.sizes.tolist()]
        images = [image[:, rows, columns] for image, (rows, columns) in zip(batch.images, places, strict=True)]
        objects = batch.objects
        if objects is None:
            objects = list(map(objects_of_map, batch.instances, batch.semantic))
        inside = [ObjectMasks(one.masks[:, r, c], one.labels) for one, (r, c) in zip(objects, places, strict=True)]
        return self.model(images, [object_targets(one) for one in inside])

    @torch.inference_mode()
    def predict(self, images: Tensor, sizes: Tensor, oracle: Batch | None = None) -> list[Prediction]:
        predictions = []
        for image, size in zip(images, sizes.tolist(), strict=True):
            start = time.perf_counter()
            inputs, _ = self.model.transform([image])
            features = self.model.backbone(inputs.tensors)
            proposals, _ = self.model.rpn(inputs, features)
            found, _ = self.model.roi_heads(features, proposals, inputs.image_sizes)
            (found,) = self.model.transform.postprocess(found, inputs.image_sizes, [tuple(size)])
            masks = found["masks"][:, 0] >= self.config.mask_threshold
            # A mask may miss its threshold everywhere. torchvision keeps the box without a pixel; here it is none.
            kept = masks.flatten(1).any(1)
            if image.is_cuda:
                torch.cuda.synchronize()
            seconds = Seconds(network=time.perf_counter() - start)
            scores = found["scores"][kept].clamp(0.0, 1.0)
            instances = Instances(masks[kept], found["labels"][kept], scores, clipped(found["boxes"][kept], size))
            predictions.append(Prediction(instances, seconds=seconds))
        return predictions


def objects_of_map(instances: Tensor, semantic: Tensor) -> ObjectMasks:
    """The instances of one image, ids ascending, from ``instances`` (H, W) int64, 0 none, and ``semantic`` (H, W)."""
    instances = torch.where((semantic == 0) | (semantic == IGNORE), 0, instances)
    ids, index = instances.unique(return_inverse=True)
    labels = torch.zeros_like(ids).scatter_reduce(0, index.flatten(), semantic.flatten(), "amax")  # all of one class
    ids, labels = ids[ids > 0], labels[ids > 0]
    return ObjectMasks(instances.unsqueeze(0) == ids.view(-1, 1, 1), labels)


def object_targets(objects: ObjectMasks) -> dict[str, Tensor]:
    """torchvision's training target of one image; objects without a pixel, left outside by a crop, are none.

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


class _Pyramid(nn.Module):
    """timm encoder and torchvision's feature pyramid: (B, 3, H, W) -> named maps, finest first."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        import timm
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        try:
            encoder = timm.create_model(config.encoder, features_only=True, pretrained=False)
        except RuntimeError as error:
            raise MethodError(f"mask_rcnn: unknown encoder {config.encoder!r}: {error}") from error
        reductions = encoder.feature_info.reduction()
        missing = set(config.strides) - set(reductions)
        if missing:
            raise MethodError(f"mask_rcnn: encoder {config.encoder} has strides {reductions}, not {sorted(missing)}")
        self.encoder = encoder
        self._frozen = freeze(encoder, config.frozen_levels)
        self.levels = [reductions.index(stride) for stride in config.strides]
        widths = [encoder.feature_info.channels()[level] for level in self.levels]
        extra = LastLevelMaxPool() if config.coarser_level else None
        self.pyramid = FeaturePyramidNetwork(widths, config.channels, extra, _norm(config))
        self.names = [str(number) for number in range(len(widths))]
        self.out_channels = config.channels

    def train(self, mode: bool = True) -> _Pyramid:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        features = self.encoder(images)
        return self.pyramid(OrderedDict(zip(self.names, (features[level] for level in self.levels), strict=True)))


def _torchvision_detection():
    """torchvision.models.detection; `MethodError` where torchvision's compiled operators do not load."""
    try:
        from torchvision.models import detection
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, NotImplementedError) as error:
        raise MethodError(
            f"torchvision's operators do not load with torch {torch.__version__}: {error}. Install builds that "
            "belong together (torch >= 2.11, not 2.13, with torchvision >= 0.26), as `make install` does"
        ) from error
    return detection


def _norm(config: MaskRCNNConfig) -> Callable[[int], nn.Module] | None:
    return (
        (lambda channels: nn.GroupNorm(math.gcd(32, channels), channels)) if config.normalisation == "group" else None
    )


def _roi_pool(names: list[str], size: int, canonical_size: int) -> nn.Module:
    from torchvision.ops import MultiScaleRoIAlign

    return MultiScaleRoIAlign(names, size, sampling_ratio=2, canonical_scale=canonical_size, canonical_level=4)


def _same_size_transform(detection) -> nn.Module:
    """torchvision's transform without its resizing: the harness decides on sizes."""

    class SameSize(detection.transform.GeneralizedRCNNTransform):
        def resize(self, image: Tensor, target: dict | None = None) -> tuple[Tensor, dict | None]:
            return image, target

    return SameSize(1, 1, list(IMAGENET_MEAN), list(IMAGENET_STD))
