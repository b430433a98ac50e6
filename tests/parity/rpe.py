"""RPE golden files: the pair losses with exact and official gradients, and mean shift with both backward passes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from runner import Golden

from methods.recurrent_mean_shift import mean_shift, pair_loss, to_sphere

_SHIFTED = re.compile(r"ms_bw(?P<bandwidth>\d+)_it(?P<loops>\d+)_64")
_MARGIN = re.compile(r"reg64_a(?P<margin>\d+)")
_BACKWARD = re.compile(r"loop1_(?P<kind>exact_vjp|official_backward)_bw(?P<bandwidth>\d+)")


def check(paths: list[Path]) -> int:
    (path,) = paths
    golden = Golden(path)
    raw = torch.from_numpy(golden.take("x0").astype(np.float64))
    labels = torch.from_numpy(golden.take("label").astype(np.int64)).flatten()
    flat = raw.flatten(0, 1)
    points = to_sphere(flat)
    golden.compare("x_l2_64", points.view_as(raw).numpy(), atol=_digits(golden, "x_l2_64", 1e-12))
    golden.compare("x_l2_oct32", points.view_as(raw).numpy(), atol=1e-6)  # single precision
    counts = labels.unique(return_counts=True)[1]
    # What the weights are made of follows from the labels alone: checked, but no value of ours, so not counted.
    np.testing.assert_array_equal(golden.take("per_pixel_count"), counts.numpy())
    if "W64" in golden.names():
        sizes = counts[labels.unique(return_inverse=True)[1]].double()
        weights = 1.0 / (sizes.unsqueeze(1) * sizes * len(counts) ** 2)
        np.testing.assert_allclose(golden.take("W64"), weights.numpy(), rtol=1e-6)  # stored as float32
    for name in golden.names():
        if match := _MARGIN.fullmatch(name):
            _check_losses(golden, match["margin"], flat, labels)
        elif match := _SHIFTED.fullmatch(name):
            shifted = mean_shift(points, int(match["bandwidth"]) / 100, int(match["loops"])).reshape(raw.shape)
            # The reference adds 1e-6 to the kernel's sum, which moves points by about that much of 1e-5.
            golden.compare(name, shifted.numpy(), atol=_digits(golden, name, 1e-7))
        elif match := _BACKWARD.fullmatch(name):
            _check_backward(golden, match, points)
    golden.take("U")  # used by the backward passes, where there are any
    return golden.finish()


def _digits(golden: Golden, name: str, tolerance: float) -> float:
    """``tolerance`` for what was computed and stored in float64; some files store it as float32."""
    return 1e-6 if golden.take(name).dtype == np.float32 else tolerance


def _check_losses(golden: Golden, alpha: str, flat: torch.Tensor, labels: torch.Tensor) -> None:
    margin, shape = int(alpha) / 100, golden.take("x0").shape
    leaf = flat.clone().requires_grad_()
    positive, negative = pair_loss(to_sphere(leaf), labels, margin=margin, block=32)
    golden.compare(f"reg64_a{alpha}", positive.item(), rtol=1e-10, atol=0)
    golden.compare(f"mm64_a{alpha}", negative.item(), rtol=1e-10, atol=0)
    # Official single precision is up to 3e-5 from the reference's own float64.
    golden.compare(f"reg_oct32_a{alpha}", positive.item(), rtol=3e-5, atol=0)
    golden.compare(f"mm_oct32_a{alpha}", negative.item(), rtol=3e-5, atol=0)
    if f"exactgrad_x0_a{alpha}" not in golden.names():
        return
    (positive + negative).backward()
    exact = golden.take(f"exactgrad_x0_a{alpha}")
    golden.compare(f"exactgrad_x0_a{alpha}", leaf.grad.reshape(shape).numpy(), atol=1e-6 * np.abs(exact).max())
    leaf.grad = None
    sum(pair_loss(to_sphere(leaf), labels, margin=margin, hinge="quadratic", block=32)).backward()
    official = golden.take(f"official_backward_x0_oct32_a{alpha}")
    golden.compare(
        f"official_backward_x0_oct32_a{alpha}", leaf.grad.reshape(shape).numpy(), atol=1e-4 * np.abs(official).max()
    )


def _check_backward(golden: Golden, match: re.Match, points: torch.Tensor) -> None:
    upstream = torch.from_numpy(golden.take("U").astype(np.float64)).reshape(points.shape)
    leaf = points.clone().requires_grad_()
    kind = "exact" if match["kind"] == "exact_vjp" else "official"
    mean_shift(leaf, int(match["bandwidth"]) / 100, 1, kind).backward(upstream)
    expected = golden.take(match[0])
    tolerance = 1e-6 if kind == "exact" else 1e-4  # the official layers ran in single precision
    golden.compare(match[0], leaf.grad.reshape(expected.shape).numpy(), atol=tolerance * np.abs(expected).max())
