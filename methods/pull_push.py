"""Pull/push embeddings: InstanceNet (Yuan Gao, project report, University of Ottawa, 2020).

A DeepLabv3+ network gives every pixel C + 1 class logits and a K-dimensional embedding. The loss pulls an
instance's pixels to their mean and pushes the means of same-class instances apart; at test time the pixels of each
class are grouped by their distance to a seed. No code by the author is known: equations are the report's,
what it leaves open is a setting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import IGNORE, Batch, Embedding, Features, Groups, Truth, setting
from methods.grouping import (
    GroupingConfig,
    PixelGrouping,
    balanced_cross_entropy,
    dense_network,
    resized,
)


@dataclass(frozen=True)
class PullPushConfig(GroupingConfig):
    """The report's method; its relatives are these settings:

    - De Brabandere et al. 2017: hinge=squared repel=all pull_margin=0.5 push_margin=1.5 dimension=8;
    - as Wizaron's code averages: the same with average=pixel; as nyoki's weighs: the same with push_weight=0.5;
    - associative embedding (Newell et al. 2017): dimension=1 hinge=squared pull_margin=0 push=gaussian repel=all
      pull_weight=0.001 push_weight=0.001 regulariser=0.
    """

    dimension: int = setting(4, "K, embedding channels", source="network section")
    pull_weight: float = setting(1.0, "alpha, weight of the pull", source="eq. 4")
    push_weight: float = setting(1.0, "beta, weight of the push", source="eq. 4")
    pull_margin: float = setting(0.2, "d_pull, in embedding units", source="eq. 1")
    push_margin: float = setting(3.0, "d_push, in embedding units; means are pushed 2 d_push apart", source="eq. 2")
    norm: int = setting(2, "order n of the norm; the report never says", source="ours", choices=(1, 2))
    hinge: str = setting(
        "linear",
        "linear, as the report; squared, as De Brabandere et al.",
        source="eq. 1-2",
        choices=("linear", "squared"),
    )
    repel: str = setting(
        "same_class",
        "which instances repel each other; all: the loss sees one class (De Brabandere et al.)",
        source="eq. 2",
        choices=("same_class", "all"),
    )
    average: str = setting(
        "instance",
        "the pull is a mean over instances of means over pixels, or a mean over all object pixels (Wizaron's code)",
        source="eq. 1",
        choices=("instance", "pixel"),
    )
    push: str = setting(
        "hinge",
        "the hinge of eq. 2, or exp(-d^2) / 2 without a margin (associative embedding)",
        source="eq. 2",
        choices=("hinge", "gaussian"),
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dimension", "push_margin", "threshold"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("pull_margin", "pull_weight", "push_weight", "regulariser", "semantic_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.class_balance <= 1:
            raise ValueError(f"class_balance must be in 0..1, not {self.class_balance}")


class PullPush(PixelGrouping):
    """InstanceNet as a plugin."""

    name = "pull_push"
    paper = "InstanceNet (Gao 2020)"
    Config = PullPushConfig

    def __init__(self, config: PullPushConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.network = dense_network(config, num_classes + 1 + config.dimension)

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
            together=config.repel == "all",
            average=config.average,
            gaussian=config.push == "gaussian",
        )
        return {
            "semantic": config.semantic_weight * semantic,
            "pull": config.pull_weight * pull,
            "push": config.push_weight * push,
            "regulariser": config.regulariser * norm,
        }

    def embed(self, images: Tensor, sizes: Tensor) -> list[Embedding]:
        embeddings = []
        for output, size in zip(torch.cat(self(images), dim=1), sizes.tolist(), strict=True):
            logits, pixels = resized(output, size).split([self.num_classes + 1, self.config.dimension])
            embeddings.append(Embedding(pixels, logits.softmax(0)))
        return embeddings

    def features(self, embedding: Embedding) -> Features:
        return Features(embedding.pixels, self.config.threshold)

    def group(self, embedding: Embedding, truth: Truth | None) -> Groups:
        config, semantic = self.config, self.semantics(embedding, truth)
        return center_groups(
            embedding.pixels,
            semantic,
            embedding.probabilities,
            threshold=config.threshold,
            shift=config.grouping == "center_shift",
            norm=config.norm,
            random=config.seed_order == "random",
        )


def pull_push_loss(
    embeddings: Tensor,
    semantic: Tensor,
    instances: Tensor,
    *,
    pull_margin: float = 0.2,
    push_margin: float = 3.0,
    norm: int = 2,
    squared: bool = False,
    together: bool = False,
    average: str = "instance",
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The report's L_pull, L_push and L_reg (eq. 1-3), each summed over classes and averaged over the batch.

    ``embeddings`` (B, K, H, W) floating; ``semantic`` (B, H, W) int64, 0 background, 255 ignore; ``instances``
    (B, H, W) int64, 0 none, ids unique within an image, each in one class. For the K_c instances of a class with
    means mu_k: L_pull is the mean over instances of the mean over pixels of [|mu_k - e_i| - d_pull]+; L_push the
    mean over ordered pairs of [2 d_push - |mu_k - mu_l|]+ (0 for a single instance); L_reg the mean of |mu_k|.
    Only instances of the same class repel each other. The relatives: ``squared`` squares both hinges and ``together``
    makes all instances one class (De Brabandere et al.); ``average`` "pixel" divides the sum of all pull hinges of a
    class by its number of pixels (Wizaron's code); ``gaussian`` makes the push half the mean of exp(-|mu_k - mu_l|^2)
    (associative embedding, with the 1e-6 that its code adds to the number of pairs).
    """
    images, dimension = embeddings.shape[:2]
    zero = embeddings.sum() * 0.0  # keeps the graph, so that backward works on an image without instances
    member = (instances > 0) & (semantic > 0) & (semantic != IGNORE)
    if not member.any():
        return zero, zero, zero
    if together:
        semantic = member.long()
    image = torch.arange(images, device=embeddings.device).view(-1, 1, 1).expand_as(instances)[member]
    # One number per instance over the whole batch, in the order (image, class, id), and one per (image, class).
    ids, classes = int(instances.max()) + 1, int(semantic[member].max()) + 1
    key = (image * classes + semantic[member]) * ids + instances[member]
    counts = torch.bincount(key, minlength=images * classes * ids)
    present = counts.nonzero()[:, 0]
    index, pixels = (counts > 0).cumsum(0)[key] - 1, counts[present]
    _, group, size = (present // ids).unique(return_inverse=True, return_counts=True)
    points = embeddings.permute(0, 2, 3, 1)[member]  # (P, K)
    means = points.new_zeros(len(present), dimension).index_add(0, index, points) / pixels.unsqueeze(1)
    share = 1.0 / size[group].to(points.dtype)  # 1 / K_c for every instance

    # index_select, because indexing adds its gradient in any order where a processor has several threads.
    distance = torch.linalg.vector_norm(points - means.index_select(0, index), ord=norm, dim=1)
    hinge = _hinge(distance - pull_margin, squared)
    weight = share / pixels
    if average == "pixel":
        weight = 1.0 / torch.zeros_like(share).index_add(0, group, pixels.to(share.dtype))[group]
    pull = (weight[index] * hinge).sum()

    same = (group.unsqueeze(0) == group.unsqueeze(1)) & ~torch.eye(len(group), dtype=torch.bool, device=group.device)
    first, second = same.nonzero(as_tuple=True)
    spread = torch.linalg.vector_norm(means.index_select(0, first) - means.index_select(0, second), ord=norm, dim=1)
    pairs = (size[group] * (size[group] - 1))[first].to(points.dtype)
    if gaussian:
        push = (0.5 * torch.exp(-(spread * spread)) / (pairs + 1e-6)).sum()
    else:
        push = (_hinge(2.0 * push_margin - spread, squared) / pairs).sum()

    regulariser = (share * torch.linalg.vector_norm(means, ord=norm, dim=1)).sum()
    return pull / images + zero, push / images + zero, regulariser / images + zero


def _hinge(excess: Tensor, squared: bool) -> Tensor:
    positive = excess.clamp(min=0.0)
    return positive * positive if squared else positive


@dataclass(frozen=True)
class DistanceGroups:
    """The groups of one image, numbered 1..N in the order of discovery."""

    ids: Tensor  # (H, W) int64, 0 for none
    seeds: Tensor  # (N,) int64 flat index of the pixel that each group started from
    iterations: Tensor  # (N,) int64 times that the centre was moved to the members' mean


def group_by_distance(
    embedding: Tensor,
    semantic: Tensor,
    *,
    threshold: float,
    shift: bool,
    norm: int = 2,
    order: Tensor | None = None,
    max_iterations: int = 100,
) -> DistanceGroups:
    """Center-fixed (``shift`` false) or center-shift grouping of one image.

    ``embedding`` (K, H, W) floating, ``semantic`` (H, W) int64 with 0 for background. Class by class, ascending:
    the first untagged pixel in ``order`` (a permutation of H*W flat indices; raster order where None) is the seed; the
    untagged pixels within ``threshold`` (<=) of it are its group. With ``shift`` the group's mean replaces the seed and
    the group is formed anew, until the members stay the same (at most ``max_iterations`` times).
    A seed that drops out of its own shifted group stays untagged and is the next seed again; where the mean has no
    pixel near it, the seed is a group alone. The report leaves these rules open; they are ours, fixed by the parity
    files.
    """
    flat = semantic.flatten()
    rank = torch.arange(flat.numel(), device=flat.device) if order is None else order
    rank = rank[flat[rank] > 0]
    ids = torch.zeros_like(flat)
    seeds: list[int] = []
    iterations: list[int] = []
    for label in flat[rank].unique().tolist():
        pixels = rank[flat[rank] == label]  # in seed order
        points = embedding.flatten(1)[:, pixels]
        # Sorted along the channel that spreads them most, the points near a centre are neighbours: a group looks at
        # a window instead of at all pixels. What lies outside is further away in that channel alone.
        axis = int(points.var(1, correction=0).argmax())
        line, by_line = points[axis].sort()
        points = points[:, by_line]
        free = torch.ones_like(line, dtype=torch.bool)  # untagged, along the line
        numbers = torch.zeros_like(pixels)  # group ids, in seed order

        def near(centre: Tensor, line=line, points=points, free=free, axis=axis) -> Tensor:
            middle = float(centre[axis])
            reach = threshold + 1e-5 * (threshold + abs(middle))  # more than rounding can move
            ends = line.new_tensor([middle - reach, middle + reach])
            start, stop = torch.searchsorted(line, ends).tolist()
            offset = points[:, start:stop] - centre.unsqueeze(1)
            # Written out: torch's vector_norm over the first of two axes takes several times as long.
            distance = offset.square_().sum(0).sqrt_() if norm == 2 else offset.abs_().sum(0)
            return ((distance <= threshold) & free[start:stop]).nonzero()[:, 0].add_(start)

        first = _next_zero(numbers, 0)
        while first is not None:
            pixel = pixels[first]
            members, moves = near(embedding.flatten(1)[:, pixel]), 0
            while shift and len(members) and moves < max_iterations:
                before, moves = members, moves + 1
                members = near(points[:, before].mean(1))
                if torch.equal(members, before):
                    break
            if not len(members):  # the mean of a ring may have no pixel near it
                members = (by_line == first).nonzero()[:, 0]
            seeds.append(int(pixel))
            iterations.append(moves)
            free[members] = False
            numbers[by_line[members]] = len(seeds)
            first = _next_zero(numbers, first)
        ids[pixels] = numbers
    found = (torch.tensor(values, dtype=torch.int64, device=flat.device) for values in (seeds, iterations))
    return DistanceGroups(ids.view_as(semantic), *found)


def center_groups(
    embedding: Tensor,
    semantic: Tensor,
    probabilities: Tensor,
    *,
    threshold: float,
    shift: bool,
    norm: int = 2,
    random: bool = True,
) -> Groups:
    """`group_by_distance` with each group's class, and as its confidence the probability of that at the seed.

    ``probabilities`` (C + 1, H, W). Where ``random``, the seeds' order is a function of the number of pixels.
    """
    order = None
    if random:
        generator = torch.Generator().manual_seed(semantic.numel())
        order = torch.randperm(semantic.numel(), generator=generator).to(semantic.device)
    found = group_by_distance(embedding, semantic, threshold=threshold, shift=shift, norm=norm, order=order)
    labels = semantic.flatten()[found.seeds]
    return Groups(semantic, found.ids, labels, probabilities.flatten(1)[labels, found.seeds])


def _next_zero(values: Tensor, start: int, step: int = 4096) -> int | None:
    """The first place from ``start`` on where ``values`` (n,) is 0, or None; reads no further than it must."""
    for begin in range(start, len(values), step):
        zero = values[begin : begin + step] == 0
        if zero.any():
            return begin + int(zero.to(torch.uint8).argmax())
    return None
