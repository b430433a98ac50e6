"""How a group of pixels becomes a scored instance: one choice, shared by every grouping method.

No paper of the four but Spatial Embeddings publishes how its groups are ranked, so the scorer is a named stage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import IGNORE, Groups, Instances, MethodError, Truth

SCORERS = ("class_probability", "seed", "shape", "constant", "oracle_iou")


def score_groups(
    groups: Groups,
    probabilities: Tensor,
    scorer: str = "class_probability",
    min_size: int = 0,
    truth: Truth | None = None,
    most: int = 1000,
) -> Instances:
    """Instances of the groups that have at least ``max(min_size, 1)`` pixels, in the groups' order.

    ``probabilities``: (C + 1, H, W) float32. A group without a label gets the commonest class above 0 of its pixels in
    ``groups.semantic`` (the lowest of equals), and is dropped where it has none. The score is, by ``scorer``,

    - ``class_probability``: the mean probability of the group's class over its pixels;
    - ``seed``: the value at the seed that the group grew from (Spatial Embeddings' own);
    - ``shape``: the geometric mean of area / box area, short / long side of the box, and box height / image height:
      the features that RPE's author names for a ranking whose formula was never released;
    - ``constant``: 1 (what De Brabandere et al. do: every mask counts the same);
    - ``oracle_iou``: the largest IoU with a true instance of the class (any class for label 0), void left out:
      what a perfect ranking of these groups would give.

    Of more than ``most`` groups the best scored stay, the first of equals: an untrained network makes thousands, and
    masks are dense. Raises ValueError for an unknown scorer, `MethodError` where what it needs is not there.
    """
    if scorer not in SCORERS:
        raise ValueError(f"unknown scorer {scorer!r}; available: {', '.join(SCORERS)}")
    overlapping = groups.masks.dtype == torch.bool
    if overlapping and groups.labels is not None and scorer in ("seed", "constant"):
        group = pixel = groups.labels.new_zeros(0)  # not asked for, and the longest part of the work
        count, sizes = len(groups.masks), groups.masks.flatten(1).sum(1)
    else:
        group, pixel, count = _members(groups.masks)
        sizes = torch.bincount(group, minlength=count)
    labels, named = groups.labels, sizes > 0
    if labels is None:
        labels, named = _vote(group, groups.semantic.flatten()[pixel], count, len(probabilities))
    if scorer == "class_probability":
        own = probabilities.flatten(1)[labels[group], pixel]
        scores = _sums(group, own, count) / sizes.clamp(min=1)
    elif scorer == "seed":
        if groups.confidence is None:
            raise MethodError("scorer = seed: this grouping gives its seeds no value; choose another scorer")
        scores = groups.confidence
    elif scorer == "shape":
        scores = _shape(group, pixel, sizes, groups.semantic.shape)
    elif scorer == "constant":
        scores = torch.ones(count, device=group.device)
    else:
        if truth is None:
            raise MethodError("scorer = oracle_iou needs the ground truth")
        scores = _best_iou(group, pixel, labels, truth)
    kept = (named & (sizes >= max(min_size, 1))).nonzero()[:, 0]
    if len(kept) > most:
        kept = kept[scores[kept].argsort(descending=True, stable=True)[:most]].sort().values
    if overlapping:
        masks = groups.masks if len(kept) == count else groups.masks[kept]
    else:
        masks = groups.masks.unsqueeze(0) == (kept + 1).view(-1, 1, 1)
    return Instances(masks, labels[kept], scores[kept].float().clamp(0.0, 1.0))


def _members(masks: Tensor) -> tuple[Tensor, Tensor, int]:
    """All (group, flat pixel) pairs, two (M,) int64 with groups counted from 0, and the number of groups."""
    if masks.dtype == torch.bool:
        group, pixel = masks.flatten(1).nonzero(as_tuple=True)
        return group, pixel, len(masks)
    flat = masks.flatten()
    pixel = flat.nonzero()[:, 0]
    return flat[pixel] - 1, pixel, int(flat.max()) if len(flat) else 0


def _vote(group: Tensor, classes: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """(N,) commonest class in 1..size - 1 among each group's pixels, and (N,) bool whether there is one."""
    known = (classes > 0) & (classes < size)
    votes = torch.bincount(group[known] * size + classes[known], minlength=count * size).view(count, size)
    best = votes.max(1)
    return best.indices, best.values > 0


def _sums(group: Tensor, values: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(0, group, values)


def _shape(group: Tensor, pixel: Tensor, sizes: Tensor, image: torch.Size) -> Tensor:
    def span(coordinate: Tensor) -> Tensor:
        start = torch.full_like(sizes, max(image)).scatter_reduce(0, group, coordinate, "amin")
        return torch.full_like(sizes, -1).scatter_reduce(0, group, coordinate, "amax") - start + 1

    height, width = (span(coordinate).clamp(min=1).double() for coordinate in (pixel // image[1], pixel % image[1]))
    aspect = torch.minimum(height, width) / torch.maximum(height, width)
    return (sizes / (height * width) * aspect * (height / image[0])) ** (1 / 3)


def _best_iou(group: Tensor, pixel: Tensor, labels: Tensor, truth: Truth) -> Tensor:
    instances, semantic = truth.instances.flatten(), truth.semantic.flatten()
    number = int(instances.max()) + 1
    area = torch.bincount(instances, minlength=number)
    judged = semantic[pixel] != IGNORE
    sizes = torch.bincount(group[judged], minlength=len(labels))
    both = torch.bincount(group * number + instances[pixel], minlength=len(labels) * number).view(-1, number)
    iou = both / (sizes.unsqueeze(1) + area - both).clamp(min=1)
    classes = torch.zeros(number, dtype=semantic.dtype, device=semantic.device).scatter_(0, instances, semantic)
    allowed = (classes == labels.unsqueeze(1)) | (labels == 0).unsqueeze(1)
    allowed[:, 0] = False
    return (iou * allowed).amax(1)
