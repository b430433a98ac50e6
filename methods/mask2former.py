"""Mask2Former (Cheng et al., CVPR 2022), the modern reference beside Mask R-CNN; Hugging Face transformers' network.

No boxes and no grouping: a hundred queries look at the image, each attending only where its last mask was, and each
ends as one mask with one class or none. The encoder is any of timm's with strides 4 to 32, or the one of a checkpoint.
transformers is optional and imported when a network is built. "Official code" is facebookresearch/Mask2Former.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from methods.backbones import Normalise, load_imagenet
from methods.base import (
    Batch,
    Instances,
    Method,
    MethodError,
    ObjectMasks,
    Prediction,
    Seconds,
    objects_of_map,
    setting,
)
from methods.weights import first_other_class

LOSSES = {"class": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}  # our names: transformers' prefixes
Size = Sequence[int]  # (height, width) in pixels
_STRIDE = 32  # images are padded to its multiples, as the official code does
_CHUNK = 10  # masks at full size at a time
_CLASS_LAYERS = ("class_predictor.", "criterion.")
_THEIR_NAMES = {  # our settings as transformers calls them
    "queries": "num_queries", "width": "hidden_dim", "heads": "num_attention_heads", "feed_forward": "dim_feedforward",
    "feature_width": "feature_size", "mask_width": "mask_feature_size", "encoder_layers": "encoder_layers",
    "encoder_feed_forward": "encoder_feedforward_dim", "common_stride": "common_stride", "points": "train_num_points",
    "oversampling": "oversample_ratio", "importance": "importance_sample_ratio", "loss_mask": "mask_weight",
    "loss_dice": "dice_weight", "loss_class": "class_weight", "loss_no_object": "no_object_weight",
}  # fmt: skip


@dataclass(frozen=True)
class Mask2FormerConfig:
    weights: str = setting(
        "",
        "weights to start from, in Hugging Face's format: a folder with config.json and model.safetensors, the second "
        "of these files, or a name on the hub such as facebook/mask2former-swin-tiny-coco-instance",
        source="ours",
        file=True,
    )
    new_classes: bool = setting(
        False, "leave the layers of the weights that are for other classes as they are first made", source="ours"
    )
    architecture: str = setting(
        "",
        "network and loss that belong to the weights, as JSON: read from their config.json, before which the settings "
        "below step back up to loss_no_object; not to be set by hand",
        source="ours",
    )
    encoder: str = setting("resnet50", "timm name of the encoder", source="table 1")
    pretrained: bool = setting(True, "start the encoder from ImageNet", source="section 4.1")
    fixed_normalisation: bool = setting(
        True, "the encoder's batch normalisation does not learn, neither statistics nor factors", source="official code"
    )
    queries: int = setting(100, "number of queries", source="section 4.1")
    decoder_layers: int = setting(9, "layers of the decoder, in turn on stride 32, 16 and 8", source="section 4.1")
    width: int = setting(256, "channels of the queries", source="official code, HIDDEN_DIM")
    heads: int = setting(8, "heads of every attention", source="official code, NHEADS")
    feed_forward: int = setting(2048, "inner width of the decoder's layers", source="official code, DIM_FEEDFORWARD")
    feature_width: int = setting(256, "channels of the pixel decoder", source="official code, CONVS_DIM")
    mask_width: int = setting(256, "channels of the pixel embedding", source="official code, MASK_DIM")
    encoder_layers: int = setting(6, "layers of deformable attention in the pixel decoder", source="section 4.1")
    encoder_feed_forward: int = setting(1024, "inner width of these layers", source="official code")
    common_stride: int = setting(4, "stride of the masks, in pixels", source="section 4.1", choices=(4, 8))
    points: int = setting(12544, "points sampled for each mask's loss and for the matching", source="section 3.3")
    oversampling: float = setting(3.0, "candidates for each point of the loss", source="official code")
    importance: float = setting(0.75, "share of the points that are the least certain ones", source="official code")
    loss_mask: float = setting(5.0, "weight of the masks' cross-entropy", source="section 4.1")
    loss_dice: float = setting(5.0, "weight of the masks' dice loss", source="section 4.1")
    loss_class: float = setting(2.0, "weight of the classes' cross-entropy", source="section 4.1")
    loss_no_object: float = setting(0.1, "weight in it of queries without an object", source="section 4.1")
    detections: int = setting(100, "most detections per image", source="official code", stage="predict")


class Mask2Former(Method):
    name = "mask2former"
    paper = "Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022"
    tasks = frozenset({"instances"})
    Config = Mask2FormerConfig
    overlapping = True

    @classmethod
    def settled(cls, config: Mask2FormerConfig) -> Mask2FormerConfig:
        """The architecture of the ``weights``, a folder's file of weights, and the commit of a name on the hub."""
        if not config.weights or config.architecture:
            return config
        file = weights_file(config.weights, "config.json")
        library = _library()
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.get("model_type") != "mask2former":
                raise ValueError(f"its model_type is {content.get('model_type')!r}, not mask2former")
            described = library.Mask2FormerConfig.from_dict(content).to_diff_dict()
        except Exception as error:  # transformers checks every entry, by errors of many kinds
            raise MethodError(f"mask2former.weights: {file} describes no Mask2Former: {error}") from error
        if hub := _hub_name(config.weights):
            weights = f"{hub[0]}@{file.parent.name}"  # the hub's cache keeps a commit's files in a folder of its name
        else:
            weights = str(weights_file(config.weights, "model.safetensors").resolve())
        return replace(config, weights=weights, architecture=json.dumps({**described, "label2id": None}))

    @classmethod
    def implementation(cls, config: Mask2FormerConfig) -> str:
        return f"transformers {_library().__version__}"

    def __init__(self, config: Mask2FormerConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.normalise = Normalise()
        self.network = build(config, num_classes)

    @property
    def encoder(self) -> nn.Module:
        """timm's network, or that of the checkpoint's family."""
        encoder = self.network.model.pixel_level_module.encoder
        return getattr(encoder, "_backbone", encoder)

    def initialise(self) -> None:
        if self.config.weights:
            self._load(weights_file(self.config.weights, "model.safetensors"))
        elif self.config.pretrained:
            load_imagenet(self.encoder, self.config.encoder)

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.encoder.parameters()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        sizes = batch.sizes.tolist()
        objects = batch.objects or tuple(map(objects_of_map, batch.instances, batch.semantic))
        images = self._padded(batch.images, sizes)
        found = [targets(one, size, images.shape[-2:]) for one, size in zip(objects, sizes, strict=True)]
        last = self.network(images, output_auxiliary_logits=True)
        names = ("masks_queries_logits", "class_queries_logits")
        *earlier, last = [{name: layer[name].float() for name in names} for layer in (*last.auxiliary_logits, last)]
        with torch.autocast(images.device.type, enabled=False):  # sums over thousands of points
            terms = self.network.get_loss_dict(
                **last,
                mask_labels=[masks for masks, _ in found],
                class_labels=[labels for _, labels in found],
                auxiliary_predictions=earlier,
            )
        return {
            name: sum(term for key, term in terms.items() if key.startswith(prefix)) for name, prefix in LOSSES.items()
        }

    @torch.inference_mode()
    def predict(self, images: Tensor, sizes: Tensor, oracle: Batch | None = None) -> list[Prediction]:
        predictions = []
        for image, size in zip(images, sizes.tolist(), strict=True):
            start = time.perf_counter()
            padded = self._padded(image[None], [image.shape[-2:]])
            outputs = self.network(padded)
            queries = outputs.class_queries_logits[0].float(), outputs.masks_queries_logits[0].float()
            sides = padded.shape[-2:], image.shape[-2:], size
            instances = instances_of_queries(*queries, *sides, self.config.detections)
            if image.is_cuda:
                torch.cuda.synchronize()
            predictions.append(Prediction(instances, seconds=Seconds(network=time.perf_counter() - start)))
        return predictions

    def _padded(self, images: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Normalised images with 0 in all that is not image, whatever a batch was filled up with."""
        images = self.normalise(images)
        down, right = (-side % _STRIDE for side in images.shape[-2:])
        images = nn.functional.pad(images, (0, right, 0, down))
        for image, (height, width) in zip(images, sizes, strict=True):
            image[:, height:] = 0.0
            image[:, :, width:] = 0.0
        return images

    def _load(self, path: Path) -> None:
        """All weights of ``path``; without those for the classes, where ``new_classes`` says so."""
        own = self.network.state_dict()
        fresh = {name: own[name] for name in own if self.config.new_classes and name.startswith(_CLASS_LAYERS)}
        if not self.config.new_classes and self.config.architecture:
            labels = _library().Mask2FormerConfig.from_dict(json.loads(self.config.architecture)).id2label
            check_classes([labels[key] for key in sorted(labels)], self.class_names, self.num_classes)
        try:
            state = {name: value for name, value in load_file(path).items() if name not in fresh}
            # This way, because transformers renames what older files hold.
            loaded, report = type(self.network).from_pretrained(
                None, config=self.network.config, state_dict=state, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise MethodError(f"mask2former.weights: {path} cannot be loaded: {error}") from error
        missing = sorted(set(report["missing_keys"]) - set(fresh) - {"criterion.empty_weight"})
        foreign = sorted(report["unexpected_keys"])
        if missing or foreign:
            raise MethodError(
                f"mask2former.weights: {path} does not fit the network: it lacks {len(missing)} of its tensors "
                f"({', '.join(missing[:1])}) and holds {len(foreign)} others ({', '.join(foreign[:1])})"
            )
        self.network.load_state_dict({**loaded.state_dict(), **fresh})


def build(config: Mask2FormerConfig, num_classes: int) -> nn.Module:
    """transformers' network with first weights, for classes 0..C-1 and "no object" C. Raises `MethodError`."""
    library = _library()
    # It warns of every encoder but Swin, which the paper's own ResNet is not.
    logging.getLogger("transformers.models.mask2former.configuration_mask2former").setLevel(logging.ERROR)
    try:
        content = json.loads(config.architecture) if config.architecture else _described(config)
        described = library.Mask2FormerConfig.from_dict(content)
        if described.num_labels != num_classes:
            described.num_labels = num_classes
        network = library.Mask2FormerForUniversalSegmentation(described)
    except (RuntimeError, ValueError, KeyError, AssertionError, IndexError, TypeError) as error:
        raise MethodError(f"mask2former: cannot build the network with encoder {config.encoder}: {error}") from error
    timms = getattr(network.model.pixel_level_module.encoder, "_backbone", None)
    if timms is not None and timms.feature_info.reduction() != [4, 8, 16, 32]:
        raise MethodError(f"mask2former.encoder: the last strides of {config.encoder} are not 4, 8, 16 and 32")
    return network


def _described(config: Mask2FormerConfig) -> dict[str, Any]:
    """Our settings in transformers' words."""
    for name, divisor in (("width", 2 * config.heads), ("feature_width", 32), ("feature_width", config.heads)):
        if getattr(config, name) % divisor:
            raise MethodError(f"mask2former.{name}: {getattr(config, name)} is not a multiple of {divisor}")
    encoder = {"model_type": "timm_backbone", "backbone": config.encoder, "out_indices": [-4, -3, -2, -1]}
    return {
        "backbone_config": {**encoder, "freeze_batch_norm_2d": config.fixed_normalisation},
        "decoder_layers": config.decoder_layers + 1,  # transformers counts the queries' own masks as a layer
        **{their: getattr(config, our) for our, their in _THEIR_NAMES.items()},
    }


def targets(objects: ObjectMasks, size: Size, padded: Size) -> tuple[Tensor, Tensor]:
    """What the queries are matched with: (N, *padded) float32 masks and (N,) int64 classes 0..C-1.

    Outside ``size`` (height, width) there is nothing; an object without a pixel inside is none.
    """
    height, width = size
    inside = objects.masks[:, :height, :width]
    seen = inside.flatten(1).any(1)
    masks = nn.functional.pad(inside[seen].float(), (0, padded[1] - inside.shape[2], 0, padded[0] - inside.shape[1]))
    return masks, objects.labels[seen] - 1


def instances_of_queries(
    class_logits: Tensor, mask_logits: Tensor, padded: Size, inside: Size, size: Size, detections: int
) -> Instances:
    """The official code's instances: the likeliest pairs of a query and a class.

    ``class_logits`` (Q, C + 1) with "no object" last, ``mask_logits`` (Q, h, w) of an input of ``padded`` pixels, of
    which ``inside`` were image. They are resized to the input, cut to the image and resized to its original ``size``.
    A score is the pair's probability times the mean probability inside the mask. A mask without a pixel is none.
    """
    probabilities = class_logits.softmax(dim=1)[:, :-1]
    best = probabilities.flatten().topk(min(detections, probabilities.numel()))
    queries, rows = (best.indices // probabilities.shape[1]).unique(return_inverse=True)
    found = []
    for chunk in queries.split(_CHUNK):  # all of them as numbers at full size would be the peak of memory
        logits = _resized(mask_logits[chunk], padded)[:, : inside[0], : inside[1]]
        logits = _resized(logits, size)
        positive = logits > 0
        inner = (logits.sigmoid() * positive).flatten(1).sum(1)
        found.append((positive, inner / positive.flatten(1).sum(1).clamp(min=1)))
    masks, certainty = map(torch.cat, zip(*found, strict=True))
    kept = masks.flatten(1).any(1)[rows]
    rows = rows[kept]
    labels = best.indices[kept] % probabilities.shape[1] + 1
    return Instances(masks[rows], labels, (best.values[kept] * certainty[rows]).clamp(0.0, 1.0))


def _resized(masks: Tensor, size: Size) -> Tensor:
    if masks.shape[-2:] == tuple(size):
        return masks
    return nn.functional.interpolate(masks[None], tuple(size), mode="bilinear", align_corners=False)[0]


def check_classes(theirs: Sequence[str], ours: Sequence[str], count: int) -> None:
    """Raise `MethodError` where weights are for other classes than the data's, or for the same in another order."""
    advice = "; new_classes = true trains the layers for the classes anew"
    if len(theirs) != count:
        raise MethodError(f"mask2former.weights are for {len(theirs)} classes, the data have {count}{advice}")
    if not ours or all(re.fullmatch(r"LABEL_\d+", name) for name in theirs):
        return
    if other := first_other_class(theirs, ours):
        number, their, our = other
        raise MethodError(f"mask2former.weights: class {number} is {their!r}, the data's is {our!r}{advice}")


def weights_file(weights: str, name: str) -> Path:
    """The file ``name`` of ``weights``: beside or in a local path, else from the hub, once. Raises `MethodError`."""
    hub = _hub_name(weights)
    if hub is None:
        path = Path(weights)
        if path.suffix != ".safetensors" or not name.endswith(path.suffix):
            path = (path.parent if path.suffix == ".safetensors" else path) / name
        if not path.is_file():
            raise MethodError(
                f"mask2former.weights: there is no file {path}; give a folder that save_pretrained wrote (config.json "
                "and model.safetensors), its model.safetensors, or a name on the hub"
            )
        return path
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        if isinstance(kept := try_to_load_from_cache(hub[0], name, revision=hub[1] or None), str):
            return Path(kept)  # what an earlier run fetched needs no network
        return Path(hf_hub_download(hub[0], name, revision=hub[1] or None))
    except Exception as error:  # hub, network and name errors have no common class
        raise MethodError(
            f"mask2former.weights: {weights} is no local folder, and {name} cannot be had from the hub: {error}"
        ) from error


def _hub_name(weights: str) -> tuple[str, str] | None:
    """(owner/name, commit or empty), unless ``weights`` is a local path."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:@(\w+))?", weights)
    if found is None or weights.endswith(".safetensors") or Path(weights).exists():
        return None
    return found[1], found[2] or ""


def _library() -> ModuleType:
    """The package transformers, whose parts are imported when first used; `MethodError` where it is missing."""
    try:
        import transformers
    except ImportError as error:
        raise MethodError(
            f"mask2former needs the package transformers, which cannot be imported ({error}): run "
            '`pip install ".[mask2former]"` in the clone, or `pip install "transformers>=5.23"`'
        ) from error
    return transformers
