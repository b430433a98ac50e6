"""Blurring mean shift, its decoding, and the pair loss, beside the same written out with N x N matrices."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cases import Case
from methods.recurrent_mean_shift import find_modes, gather, mean_shift, nearest_mode, pair_loss, to_sphere

MARGIN = 0.5
DEFAULT = (1.0 - MARGIN) / 3.0  # the bandwidth that goes with the margin
STILL = 1e-5  # per coordinate and loop: where `RecurrentMeanShift` stops


def cases(device: torch.device) -> list[Case]:
    points, groups = (t.to(device) for t in scene(64))
    large = scene(128)[0].to(device)

    def loss(function: Callable, hinge: str) -> Tensor:
        leaf = points.clone().requires_grad_()
        sum(function(leaf, groups, margin=MARGIN, hinge=hinge)).backward()
        return leaf.grad

    decoding: dict[str, Callable[[], object]] = {"ours": lambda: decode(points)}
    if importlib.util.find_spec("sklearn"):
        decoding["scikit-learn MeanShift, flat kernel"] = lambda: scikit_learn(points)
    peer = "" if len(decoding) > 1 else " (scikit-learn is not installed)"
    return [
        Case(
            "mean shift, 10 loops, 64 x 64 pixels x 64, bandwidth 1/6",
            {
                "ours, ends when still": lambda: mean_shift(points, DEFAULT, 10, still=STILL),
                "ours, all loops": lambda: mean_shift(points, DEFAULT, 10),
                "matrices, all loops": lambda: plain_mean_shift(points, DEFAULT, 10),
                "matrices, end when still": lambda: plain_mean_shift(points, DEFAULT, 10, STILL),
            },
            "matrices take 8 times as long",
            same=_same_points,
        ),
        Case(
            "mean shift, 10 loops, 64 x 64 pixels x 64, bandwidth 1/10",
            {
                "ours, ends when still": lambda: mean_shift(points, 0.1, 10, still=STILL),
                "ours, all loops": lambda: mean_shift(points, 0.1, 10),
                # exp(-100) is no normal float32: processors take ten times as long for such numbers
                "matrices": lambda: plain_mean_shift(points, 0.1, 10),
                "matrices, denormal as 0": lambda: flushed(lambda: plain_mean_shift(points, 0.1, 10)),
            },
            "matrices take 8 times as long",
            same=_same_points,
            slow=frozenset({"matrices"}),
        ),
        Case(
            "mean shift, 10 loops, 128 x 128 pixels x 64, bandwidth 1/6",
            {
                "ours, ends when still": lambda: mean_shift(large, DEFAULT, 10, still=STILL),
                "ours, all loops": lambda: mean_shift(large, DEFAULT, 10),
            },
            "under 200 MB",
            same=_same_points,
            slow=frozenset({"ours, all loops"}),
        ),
        Case(
            f"pixels to groups, 64 x 64 pixels x 64{peer}", decoding, "at most 300 ms", slow=frozenset([*decoding][1:])
        ),
        *(
            Case(
                f"pair loss, {hinge}, forward and backward, 64 x 64 pixels x 64",
                {
                    "ours": lambda hinge=hinge: loss(pair_loss, hinge),
                    "matrices": lambda hinge=hinge: loss(plain_pair_loss, hinge),
                },
                "3 times faster than matrices, no N x N",
                same=_same_gradient,
            )
            for hinge in ("linear", "quadratic")
        ),
    ]


def _same_points(ours: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-4)


def _same_gradient(ours: Tensor, other: Tensor) -> None:
    # A pair that lies on the margin counts or not, as the products are summed.
    assert (ours - other).norm() <= 1e-4 * other.norm()


def scene(side: int, dimension: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, D) of 9 rectangles on a background, as a network in training embeds them, and their groups."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    cell, inside = 1 + (row * 3 // side) * 3 + column * 3 // side, side // 3
    groups = torch.where((row % inside > inside // 4) & (column % inside > inside // 4), cell, 0).flatten()
    centres = torch.randn(10, dimension, generator=generator)
    noise = torch.randn(side * side, dimension, generator=generator)
    return to_sphere(centres[groups] + 0.25 * noise), groups


def decode(points: Tensor) -> Tensor:
    modes = find_modes(mean_shift(points, DEFAULT, 16, still=STILL))
    nearest = nearest_mode(points.T.view(points.shape[1], 64, 64), modes)[0]
    return gather(modes, nearest.flatten().bincount(minlength=len(modes)), 0.8)[nearest]


def scikit_learn(points: Tensor) -> object:
    from sklearn.cluster import MeanShift

    return MeanShift(bandwidth=0.5, bin_seeding=False, max_iter=10).fit(points.cpu().numpy()).labels_


def flushed(call: Callable[[], Tensor]) -> Tensor:
    torch.set_flush_denormal(True)
    try:
        return call()
    finally:
        torch.set_flush_denormal(False)


def plain_mean_shift(points: Tensor, bandwidth: float, loops: int, still: float | None = None) -> Tensor:
    """As the paper has it: similarities, kernel, column sums, means, normalisation."""
    for _ in range(loops):
        before = points
        kernel = torch.exp((points @ points.T - 1.0) / bandwidth**2)
        means = kernel @ points / kernel.sum(1, keepdim=True)
        points = means / (means.norm(dim=1, keepdim=True) + 1e-5)
        if still is not None and (points - before).abs().max() <= still:
            break
    return points


def plain_pair_loss(points: Tensor, groups: Tensor, *, margin: float, hinge: str) -> tuple[Tensor, Tensor]:
    """All pairs at once, differentiated by autograd."""
    similarity = 0.5 * (1.0 + points @ points.T)
    same = (groups.unsqueeze(0) == groups.unsqueeze(1)).to(points.dtype)
    sizes = same.sum(1)
    weight = 1.0 / (sizes.unsqueeze(0) * sizes.unsqueeze(1))
    weight = weight / weight.sum()
    excess = (similarity - margin).clamp(min=0)
    if hinge == "quadratic":
        similarity, excess = similarity**2, excess**2
    return (weight * same * (1.0 - similarity)).sum(), (weight * (1.0 - same) * excess).sum()
