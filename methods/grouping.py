"""What the pixel-grouping methods share: embed -> group -> score, its settings, and a loss that several use."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.backbones import DECODERS, DenseNetwork
from methods.base import (
    IGNORE,
    Batch,
    Embedding,
    Features,
    Groups,
    Instances,
    Method,
    MethodError,
    Prediction,
    Seconds,
    Truth,
    setting,
)
from methods.regroup import REGROUPS, regroup
from methods.scoring import SCORERS, score_groups


@dataclass(frozen=True)
class GroupingConfig:
    """Settings of every pixel-grouping method; a method declares a field anew where its paper says more."""

    encoder: str = setting("resnet50", "timm name of the encoder", source="ours")
    decoder: str = setting("DeepLabV3Plus", "segmentation-models-pytorch decoder", source="ours", choices=DECODERS)
    decoder_channels: int = setting(256, "width of the decoder", source="DeepLabv3+")
    input_scale: float = setting(1.0, "the network sees the image enlarged by this factor", source="ours")
    frozen_levels: int = setting(0, "encoder levels that keep their first weights", source="ours")
    pretrained: bool = setting(True, "start the encoder from ImageNet", source="ours")
    min_size: int = setting(0, "smallest group kept, in pixels", source="ours", stage="predict")
    scorer: str = setting(
        "class_probability",
        "how a group is scored (methods/scoring.py); no paper but Spatial Embeddings says",
        source="ours",
        stage="predict",
        choices=SCORERS,
    )
    oracle: str = setting(
        "none", "the stage that ground truth replaces", source="ours", stage="predict", choices=("none", "semantic")
    )
    regroup: str = setting(
        "own",
        "whose algorithm groups the pixels: the method's own, or one that works on any embedding (methods/regroup.py)",
        source="ours",
        stage="predict",
        choices=REGROUPS,
    )
    regroup_threshold: float = setting(
        0.0,
        "largest distance from a group's centre to its pixels where regroup is not own, in units of the method's "
        "embedding (of unit vectors: the chord; of spatial embeddings: `unit` pixels are 1); 0: what the method says",
        source="ours",
        stage="predict",
    )

    def __post_init__(self) -> None:
        if self.input_scale <= 0:
            raise ValueError(f"input_scale must be positive, not {self.input_scale}")
        for name in ("decoder_channels", "frozen_levels", "min_size", "regroup_threshold"):
            if getattr(self, name) < (name == "decoder_channels"):
                raise ValueError(f"{name} must not be {getattr(self, name)}")


class PixelGrouping(Method):
    """A method that embeds pixels, groups them, and scores the groups. Its ``Config`` extends `GroupingConfig`.

    Write ``loss``, ``embed`` and ``group``; the rest has a default. ``network``, a `DenseNetwork`, is what
    `initialise` fills with ImageNet weights.
    """

    tasks = frozenset({"instances", "semantic"})
    Config = GroupingConfig
    network: nn.Module

    def initialise(self) -> None:
        if self.config.pretrained and isinstance(self.network, DenseNetwork):
            self.network.load_imagenet()

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        dense = self.config.pretrained and isinstance(self.network, DenseNetwork)
        return self.network.model.encoder.parameters() if dense else ()

    def needs_truth(self) -> bool:
        return self.config.oracle != "none" or self.config.scorer == "oracle_iou"

    @abstractmethod
    def embed(self, images: Tensor, sizes: Tensor) -> list[Embedding]:
        """Run the network; one `Embedding` per image, at its original size ``sizes[i]``."""

    @abstractmethod
    def group(self, embedding: Embedding, truth: Truth | None) -> Groups:
        """Name and group the pixels of one image; ``truth`` is there when the config names a stage to replace."""

    def named(self, embedding: Embedding) -> Embedding:
        """``embedding`` with its class probabilities, for a network that gives none; timed as a part of grouping."""
        return embedding

    def features(self, embedding: Embedding) -> Features:
        """What another method's algorithm groups (``config.regroup``): by default all channels, and the radius 1."""
        return Features(embedding.pixels, radius=1.0)

    def semantics(self, embedding: Embedding, truth: Truth | None) -> Tensor:
        """(H, W) int64 class map to group within: the likeliest classes, or the true ones (oracle = semantic)."""
        if self.config.oracle != "semantic":
            return embedding.probabilities.max(0).indices  # argmax over the first axis takes many times as long
        semantic = self.required(truth).semantic
        return torch.where(semantic == IGNORE, 0, semantic)

    def required(self, truth: Truth | None) -> Truth:
        """``truth``, or `MethodError` where it is None."""
        if truth is None:
            raise MethodError(f"{self.name}: oracle = {self.config.oracle} needs the ground truth")
        return truth

    def score(self, groups: Groups, embedding: Embedding, truth: Truth | None) -> Instances:
        """Turn groups into instances with a class and a score, as ``config.scorer`` says."""
        return score_groups(groups, embedding.probabilities, self.config.scorer, self.config.min_size, truth)

    def result(self, embedding: Embedding, groups: Groups, instances: Instances, seconds: Seconds) -> Prediction:
        """Put one image's prediction together; overridden by methods with more to tell."""
        return Prediction(instances, groups.semantic.to(torch.uint8), seconds=seconds)

    @torch.inference_mode()
    def predict(self, images: Tensor, sizes: Tensor, oracle: Batch | None = None) -> list[Prediction]:
        clock = _Clock(images.device)
        embeddings = self.embed(images, sizes)
        network = clock.lap() / max(len(embeddings), 1)
        predictions, foreign = [], self.config.regroup != "own"
        for index, embedding in enumerate(embeddings):
            truth = None if oracle is None else Truth(oracle.semantic[index], oracle.instances[index])
            embedding = self.named(embedding)
            groups = self._regroup(embedding, truth) if foreign else self.group(embedding, truth)
            grouping = clock.lap()
            instances = self.score(groups, embedding, truth)
            seconds = Seconds(network, grouping, clock.lap())
            predictions.append(self.result(embedding, groups, instances, seconds))
        return predictions

    def _regroup(self, embedding: Embedding, truth: Truth | None) -> Groups:
        config, semantic = self.config, self.semantics(embedding, truth)
        features = self.features(embedding)
        radius = config.regroup_threshold or features.radius
        return regroup(config.regroup, features, semantic, embedding.probabilities, radius, config.min_size)


def dense_network(config: GroupingConfig, channels: int) -> DenseNetwork:
    """The encoder and decoder that ``config`` names, with ``channels`` outputs per pixel."""
    return DenseNetwork(
        config.encoder, config.decoder, channels, config.decoder_channels, config.input_scale, config.frozen_levels
    )


def resized(output: Tensor, size: Sequence[int]) -> Tensor:
    """(C, h, w) -> (C, *size), bilinear with half-pixel centres; ``output`` itself where nothing changes."""
    if tuple(output.shape[-2:]) == tuple(size):
        return output
    return nn.functional.interpolate(output[None], tuple(size), mode="bilinear", align_corners=False)[0]


def balanced_cross_entropy(logits: Tensor, semantic: Tensor, balance: float) -> Tensor:
    """Cross-entropy over the pixels that are not 255, a scalar; 0 where there is none.

    ``logits`` (B, C + 1, H, W); ``semantic`` (B, H, W) int64. A pixel of class c weighs (N / N_c)^balance, N_c being
    the class's pixels in this batch, and the weights are divided by their sum.
    """
    logits = logits.float()  # half precision cannot count pixels
    counts = torch.bincount(semantic[semantic != IGNORE], minlength=logits.shape[1]).to(logits.dtype)
    weights = (counts.sum() / counts.clamp(min=1.0)) ** balance
    total = nn.functional.cross_entropy(logits, semantic, weights, ignore_index=IGNORE, reduction="sum")
    return total / (weights * counts).sum().clamp(min=1.0)


class _Clock:
    """Laps in seconds; waits for the device, because GPU calls return before they are done."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last = self._now()

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self) -> float:
        now = self._now()
        seconds, self._last = now - self._last, now
        return seconds
