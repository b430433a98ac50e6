"""Pull/push embeddings: InstanceNet (Yuan Gao, project report, University of Ottawa, 2020).

A DeepLabv3+ network gives every pixel C + 1 class logits and a K-dimensional embedding. The loss pulls an
instance's pixels to their mean and pushes the means of same-class instances apart; at test time the pixels of each
class are grouped by their distance to a seed. No code by the author is known: equations are the report's,
what it leaves open is a setting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.backbones import DECODERS, DenseNetwork
from methods.base import IGNORE, Batch, Embedding, Instances, MethodError, PixelGrouping, setting
from methods.scoring import SCORERS, score_groups


@dataclass(frozen=True)
class PullPushConfig:
    encoder: str = setting("resnet50", "timm name of the encoder", source="network section")
    decoder: str = setting(
        "DeepLabV3Plus", "segmentation-models-pytorch decoder", source="network section", choices=DECODERS
    )
    decoder_channels: int = setting(256, "width of the decoder", source="DeepLabv3+")
    input_scale: float = setting(1.0, "the network sees the image enlarged by this factor", source="ours")
    frozen_levels: int = setting(0, "encoder levels that keep their first weights", source="ours")
    pretrained: bool = setting(
        True, "start the encoder from ImageNet (the report: from VOC segmentation)", source="ours"
    )
    dimension: int = setting(4, "K, embedding channels", source="network section")
    pull_margin: float = setting(0.2, "d_pull, in embedding units", source="eq. 1")
    push_margin: float = setting(3.0, "d_push, in embedding units; means are pushed 2 d_push apart", source="eq. 2")
    norm: int = setting(2, "order n of the norm; the report never says", source="ours", choices=(1, 2))
    hinge: str = setting(
        "linear",
        "linear, as the report; squared, as De Brabandere et al.",
        source="eq. 1-2",
        choices=("linear", "squared"),
    )
    regulariser: float = setting(0.001, "gamma, weight of the mean embeddings' norm", source="eq. 4")
    semantic_weight: float = setting(1.0, "weight of the cross-entropy; the report gives none", source="ours")
    class_balance: float = setting(
        0.0,
        "exponent p in 0..1: a class weighs (pixels of all / pixels of the class)^p in the batch's cross-entropy; 0 is "
        "plain, 1 counts every class the same",
        source="ours",
    )
    grouping: str = setting(
        "center_shift",
        "threshold around the seed, or around the mean until it converges",
        source="post-processing section",
        stage="predict",
        choices=("center_fixed", "center_shift"),
    )
    threshold: float = setting(
        1.2, "largest distance to the centre, in embedding units", source="table 2", stage="predict"
    )
    seed_order: str = setting(
        "random",
        "which untagged pixel is the next seed; random is repeatable: the order is a function of the image's size",
        source="post-processing section",
        stage="predict",
        choices=("raster", "random"),
    )
    min_size: int = setting(0, "smallest group kept, in pixels; the report keeps all", source="ours", stage="predict")
    scorer: str = setting(
        "class_probability",
        "how a group is scored; the report is silent",
        source="ours",
        stage="predict",
        choices=SCORERS,
    )
    oracle: str = setting(
        "none",
        "the stage that ground truth replaces",
        source="table 1",
        stage="predict",
        choices=("none", "semantic"),
    )

    def __post_init__(self) -> None:
        for name in ("pull_margin", "push_margin", "threshold", "input_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.class_balance <= 1:
            raise ValueError(f"class_balance must be in 0..1, not {self.class_balance}")


class PullPush(PixelGrouping):
    """InstanceNet as a plugin."""

    name = "pull_push"
    paper = "InstanceNet (Gao 2020)"
    Config = PullPushConfig

    def __init__(self, config: PullPushConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels = num_classes + 1 + config.dimension
        self.network = DenseNetwork(
            config.encoder, config.decoder, channels, config.decoder_channels, config.input_scale, config.frozen_levels
        )

    def initialise(self) -> None:
        if self.config.pretrained:
            self.network.load_imagenet()

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.network.model.encoder.parameters()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> class logits (B, C + 1, H, W), embeddings (B, K, H, W)."""
        return self.network(images).split([self.num_classes + 1, self.config.dimension], dim=1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits, embeddings = self(batch.images)
        config = self.config
        semantic = balanced_cross_entropy(logits, batch.semantic, config.class_balance)
        pull, push, norm = pull_push_loss(
            embeddings,
            batch.semantic,
            batch.instances,
            pull_margin=config.pull_margin,
            push_margin=config.push_margin,
            norm=config.norm,
            squared=config.hinge == "squared",
        )
        return {
            "semantic": config.semantic_weight * semantic,
            "pull": pull,
            "push": push,
            "regulariser": config.regulariser * norm,
        }

    def needs_truth(self) -> bool:
        return self.config.oracle != "none"

    def embed(self, images: Tensor, sizes: Tensor) -> list[Embedding]:
        outputs = torch.cat(self(images), dim=1)
        embeddings = []
        for output, size in zip(outputs, sizes.tolist(), strict=True):
            if list(output.shape[-2:]) != size:
                output = nn.functional.interpolate(output[None], size, mode="bilinear", align_corners=False)[0]
            logits, pixels = output.split([self.num_classes + 1, self.config.dimension])
            embeddings.append(Embedding(pixels, logits.softmax(0)))
        return embeddings

    def semantics(self, embedding: Embedding, truth: Tensor | None) -> Tensor:
        if self.config.oracle == "none":
            return super().semantics(embedding, None)
        if truth is None:
            raise MethodError("pull_push: oracle = semantic needs the ground truth")
        return torch.where(truth == IGNORE, 0, truth)

    def group(self, embedding: Embedding, semantic: Tensor) -> Tensor:
        order = None
        if self.config.seed_order == "random":
            generator = torch.Generator().manual_seed(semantic.numel())
            order = torch.randperm(semantic.numel(), generator=generator).to(semantic.device)
        return group_by_distance(
            embedding.pixels,
            semantic,
            threshold=self.config.threshold,
            shift=self.config.grouping == "center_shift",
            norm=self.config.norm,
            order=order,
        )

    def score(self, groups: Tensor, embedding: Embedding, semantic: Tensor) -> Instances:
        return score_groups(groups, semantic, embedding.probabilities, self.config.scorer, self.config.min_size)


def balanced_cross_entropy(logits: Tensor, semantic: Tensor, balance: float) -> Tensor:
    """Cross-entropy over the pixels that are not 255, a scalar; 0 where there is none.

    ``logits`` (B, C + 1, H, W); ``semantic`` (B, H, W) int64. A pixel of class c weighs (N / N_c)^balance, N_c being
    the class's pixels in this batch, and the weights are divided by their sum.
    """
    counts = torch.bincount(semantic[semantic != IGNORE], minlength=logits.shape[1]).to(logits.dtype)
    weights = (counts.sum() / counts.clamp(min=1.0)) ** balance
    total = nn.functional.cross_entropy(logits, semantic, weights, ignore_index=IGNORE, reduction="sum")
    return total / (weights * counts).sum().clamp(min=1.0)


def pull_push_loss(
    embeddings: Tensor,
    semantic: Tensor,
    instances: Tensor,
    *,
    pull_margin: float = 0.2,
    push_margin: float = 3.0,
    norm: int = 2,
    squared: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The report's L_pull, L_push and L_reg (eq. 1-3), each summed over classes and averaged over the batch.

    ``embeddings`` (B, K, H, W) floating; ``semantic`` (B, H, W) int64, 0 background, 255 ignore; ``instances``
    (B, H, W) int64, 0 none, ids unique within an image, each in one class. For the K_c instances of a class with
    means mu_k: L_pull is the mean over instances of the mean over pixels of [|mu_k - e_i| - d_pull]+; L_push the
    mean over ordered pairs of [2 d_push - |mu_k - mu_l|]+ (0 for a single instance); L_reg the mean of |mu_k|.
    ``squared`` squares both hinges (De Brabandere et al.). Only instances of the same class repel each other.
    """
    images, dimension = embeddings.shape[:2]
    zero = embeddings.sum() * 0.0  # keeps the graph, so that backward works on an image without instances
    member = (instances > 0) & (semantic > 0) & (semantic != IGNORE)
    if not member.any():
        return zero, zero, zero
    image = torch.arange(images, device=embeddings.device).view(-1, 1, 1).expand_as(instances)[member]
    # One number per instance over the whole batch, in the order (image, class, id), and one per (image, class).
    key = torch.stack([image, semantic[member], instances[member]], dim=1)
    triples, index, pixels = key.unique(dim=0, return_inverse=True, return_counts=True)
    _, group, size = triples[:, :2].unique(dim=0, return_inverse=True, return_counts=True)
    points = embeddings.permute(0, 2, 3, 1)[member]  # (P, K)
    means = points.new_zeros(len(triples), dimension).index_add(0, index, points) / pixels.unsqueeze(1)
    share = 1.0 / size[group].to(points.dtype)  # 1 / K_c for every instance

    distance = torch.linalg.vector_norm(points - means[index], ord=norm, dim=1)
    hinge = _hinge(distance - pull_margin, squared)
    pull = ((share / pixels)[index] * hinge).sum()

    same = (group.unsqueeze(0) == group.unsqueeze(1)) & ~torch.eye(len(group), dtype=torch.bool, device=group.device)
    first, second = same.nonzero(as_tuple=True)
    spread = torch.linalg.vector_norm(means[first] - means[second], ord=norm, dim=1)
    pairs = (size[group] * (size[group] - 1))[first].to(points.dtype)
    push = (_hinge(2.0 * push_margin - spread, squared) / pairs).sum()

    regulariser = (share * torch.linalg.vector_norm(means, ord=norm, dim=1)).sum()
    return pull / images + zero, push / images + zero, regulariser / images + zero


def _hinge(excess: Tensor, squared: bool) -> Tensor:
    positive = excess.clamp(min=0.0)
    return positive * positive if squared else positive


def group_by_distance(
    embedding: Tensor,
    semantic: Tensor,
    *,
    threshold: float,
    shift: bool,
    norm: int = 2,
    order: Tensor | None = None,
    max_iterations: int = 100,
) -> Tensor:
    """Center-fixed (``shift`` false) or center-shift grouping of one image; returns (H, W) int64 ids, 0 for none.

    ``embedding`` (K, H, W) floating, ``semantic`` (H, W) int64 with 0 for background. Class by class, ascending:
    the first untagged pixel in ``order`` (a permutation of H*W flat indices; raster order where None) is the seed; the
    untagged pixels within ``threshold`` (<=) of it are its group. With ``shift`` the group's mean replaces the seed and
    the group is formed anew, until the members stay the same (at most ``max_iterations`` times).
    Ids count up in the order of discovery. A seed that drops out of its own shifted group stays untagged and is the
    next seed again. The report leaves these rules open; they are ours, fixed by the parity files.
    """
    flat, points = semantic.flatten(), embedding.flatten(1).t()
    rank = torch.arange(flat.numel(), device=flat.device) if order is None else order
    groups = torch.zeros_like(flat)
    number = 0
    for label in flat[flat > 0].unique().tolist():
        left = rank[flat[rank] == label]  # untagged pixels of the class, in seed order
        candidates = points[left]
        while len(left):
            centre = candidates[0]
            members = _within(candidates, centre, threshold, norm)
            for _ in range(max_iterations if shift else 0):
                before = members
                members = _within(candidates, candidates[before].mean(0), threshold, norm)
                if torch.equal(members, before):
                    break
            if not members.any():  # the mean of a ring may have no pixel near it: the seed goes alone
                members[0] = True
            number += 1
            groups[left[members]] = number
            left, candidates = left[~members], candidates[~members]
    return groups.view_as(semantic)


def _within(points: Tensor, centre: Tensor, threshold: float, norm: int) -> Tensor:
    return torch.linalg.vector_norm(points - centre, ord=norm, dim=1) <= threshold
