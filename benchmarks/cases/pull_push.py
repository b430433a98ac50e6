"""Pull/push: center-shift, and the loss, beside the same written as plain loops."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.cases import Case
from methods.pull_push import group_by_distance, pull_push_loss

THRESHOLD = 1.2


def cases(device: torch.device) -> list[Case]:
    embedding, semantic, instances = scene()
    order = torch.randperm(semantic.numel(), generator=torch.Generator().manual_seed(1))
    embedding, semantic, instances, order = (t.to(device) for t in (embedding, semantic, instances, order))

    def grouping(function) -> Tensor:
        return function(embedding, semantic, threshold=THRESHOLD, shift=True, order=order)

    def loss(function) -> Tensor:
        leaf = embedding[None].clone().requires_grad_()
        sum(function(leaf, semantic[None], instances[None])).backward()
        return leaf.grad

    return [
        Case(
            "center-shift, 512 x 512 x 4, 50 instances of one class",
            {"ours": lambda: grouping(group_by_distance).ids, "plain loop": lambda: grouping(plain_group_by_distance)},
            "at most 150 ms",
            same=lambda one, other: torch.testing.assert_close(one, other, rtol=0, atol=0),
        ),
        Case(
            "pull/push loss, forward and backward, 512 x 512 x 4, 50 instances of one class",
            {"ours": lambda: loss(pull_push_loss), "loop over instances": lambda: loss(plain_loss)},
            "none set",
            same=_same_gradient,
        ),
    ]


def _same_gradient(ours: Tensor, plain: Tensor) -> None:
    # A few pixels lie so near a margin that another order of summation puts them on its other side.
    assert (ours - plain).norm() <= 0.02 * plain.norm()


def scene(size: int = 512, count: int = 50, dimension: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rectangles of one class, as a trained network embeds them: means 6 apart or more, a little noise."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    cell = (row * 7 // size) * 8 + column * 8 // size
    instances = torch.where(cell < count, cell + 1, 0)
    centres: list[Tensor] = []
    while len(centres) < count + 1:
        one = torch.rand(dimension, generator=generator) * 36 - 18
        if all((one - other).norm() >= 6 for other in centres):
            centres.append(one)
    embedding = torch.stack(centres)[instances] + 0.12 * torch.randn(size, size, dimension, generator=generator)
    return embedding.permute(2, 0, 1).contiguous(), (instances > 0).long(), instances


def plain_group_by_distance(
    embedding: Tensor, semantic: Tensor, *, threshold: float, shift: bool, norm: int = 2, order: Tensor | None = None
) -> Tensor:
    """The report's procedure as one would write it down: every step looks at all untagged pixels of the class."""
    flat, points = semantic.flatten(), embedding.flatten(1).t()
    rank = torch.arange(flat.numel(), device=flat.device) if order is None else order
    groups = torch.zeros_like(flat)
    number = 0
    for label in flat[flat > 0].unique().tolist():
        left = rank[flat[rank] == label]
        while len(left):
            candidates = points[left]
            members = (candidates - candidates[0]).norm(norm, dim=1) <= threshold
            for _ in range(100 if shift else 0):
                before = members
                members = (
                    torch.linalg.vector_norm(candidates - candidates[before].mean(0), ord=norm, dim=1) <= threshold
                )
                if torch.equal(before, members):
                    break
            if not members.any():
                members[0] = True
            number += 1
            groups[left[members]] = number
            left = left[~members]
    return groups.view_as(semantic)


def plain_loss(embeddings: Tensor, semantic: Tensor, instances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L_pull, L_push and L_reg of one image, instance by instance."""
    pull = push = regulariser = embeddings.sum() * 0.0
    points = embeddings[0].permute(1, 2, 0)
    for label in semantic[semantic > 0].unique():
        ids = instances[(semantic[0] == label)[None]].unique()
        ids = ids[ids > 0]
        means = []
        for number in ids:
            own = points[instances[0] == number]
            means.append(own.mean(0))
            pull = pull + ((own - means[-1]).norm(dim=1) - 0.2).clamp(min=0).mean() / len(ids)
            regulariser = regulariser + means[-1].norm() / len(ids)
        for i, one in enumerate(means):
            for j, other in enumerate(means):
                if i != j:
                    push = push + (6.0 - (one - other).norm()).clamp(min=0) / (len(ids) * (len(ids) - 1))
    return pull, push, regulariser
