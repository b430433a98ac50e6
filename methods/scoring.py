"""How a group of pixels becomes a scored instance: one choice, shared by every grouping method.

No paper of the four but Spatial Embeddings publishes how its groups are ranked, so the scorer is a named stage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import Instances

SCORERS = ("class_probability", "constant")


def score_groups(
    groups: Tensor,
    semantic: Tensor,
    probabilities: Tensor,
    scorer: str = "class_probability",
    min_size: int = 0,
    most: int = 1000,
) -> Instances:
    """Instances of the groups that have at least ``max(min_size, 1)`` pixels, in the order of their ids.

    ``groups``: (H, W) int64, 0 for none. ``semantic``: (H, W) int64 classes, 0 background. ``probabilities``:
    (C + 1, H, W) float32. A group's class is the commonest class above 0 of its pixels (the lowest of equals).
    ``class_probability`` scores it with that class's mean probability over the group, ``constant`` with 1
    (what the discriminative loss's author does: every mask counts the same). Of more than ``most`` groups the
    best scored stay, the first of equals: an untrained network makes thousands, and masks are dense.
    """
    if scorer not in SCORERS:
        raise ValueError(f"unknown scorer {scorer!r}; available: {', '.join(SCORERS)}")
    classes = len(probabilities)
    ids, flat = groups.flatten().unique(return_inverse=True)
    member = groups.flatten() > 0
    votes = torch.zeros(len(ids), classes, dtype=torch.int64, device=groups.device)
    known = member & (semantic.flatten() > 0) & (semantic.flatten() < classes)
    votes.view(-1).index_add_(0, (flat * classes + semantic.flatten())[known], torch.ones_like(flat[known]))
    sizes = torch.bincount(flat, minlength=len(ids))
    labels = votes.argmax(1)
    keep = (ids > 0) & (votes.sum(1) > 0) & (sizes >= min_size)
    if scorer == "constant":
        scores = torch.ones(len(ids), device=groups.device)
    else:
        own = probabilities.flatten(1).gather(0, labels[flat].unsqueeze(0))[0]
        scores = torch.zeros(len(ids), device=groups.device).index_add_(0, flat, own) / sizes.clamp(min=1)
    kept = keep.nonzero()[:, 0]
    if len(kept) > most:
        kept = kept[scores[kept].argsort(descending=True, stable=True)[:most]].sort().values
    masks = groups.unsqueeze(0) == ids[kept].view(-1, 1, 1)
    return Instances(masks, labels[kept], scores[kept].clamp(0.0, 1.0))
