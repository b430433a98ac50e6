"""Any method's embedding, grouped by any method's algorithm: the table of all methods x all groupings.

An algorithm stays in the file of its paper and is imported from there by name, when it is used: so no method's training
depends on the file of another. All of them group one class of the class map at a time, and all take one number, the
radius: the largest distance from a group's centre to its pixels, in units of the points.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor, nn

from methods.base import Features, Groups, MethodError

# Where each algorithm is; a prediction depends on that file, too.
ALGORITHMS = {
    "pieces": "methods.segsort",
    "center_fixed": "methods.pull_push",
    "center_shift": "methods.pull_push",
    "mean_shift": "methods.recurrent_mean_shift",
    "best_seed": "methods.spatial_embeddings",
}
REGROUPS = ("own", *ALGORITHMS)
_CELLS = 4096  # most cells of an image that mean shift moves: their pairs cost time
_LOOPS = 16  # most loops of mean shift, as in the official code
_FLAT = 10.0  # how many times the points' extent is the radius of a sphere that is flat to them, within 1 %


def regroup(
    algorithm: str, features: Features, semantic: Tensor, probabilities: Tensor, radius: float, min_size: int = 0
) -> Groups:
    """The groups that ``algorithm`` finds in ``features``, each within one class of ``semantic`` above 0.

    ``semantic`` (H, W) int64; ``probabilities`` (C + 1, H, W) float32; ``radius`` > 0.

    - ``pieces``: 4-connected pieces of a class; the features are not looked at. What an embedding has to beat.
    - ``center_fixed``, ``center_shift``: `pull_push.group_by_distance` in the 2-norm, seeds in its random order.
    - ``mean_shift``: blurring mean shift with a bandwidth of a third of the radius, then modes within the radius of a
      larger one join it (`recurrent_mean_shift`). Points are averaged over cells, as many as 4096 of them; a pixel goes
      to the mode nearest to it.
    - ``best_seed``: `spatial_embeddings.cluster` with the class's probability as the seed map and the one bandwidth
      whose Gaussian is a half at the radius. Masks are whole proposals, which may overlap; pixels whose proposal was
      not kept are in no group.

    A group's confidence is the probability of its class at its seed, or the largest in it where it has no seed.
    Raises `MethodError` for an unknown algorithm, or a radius that is not positive.
    """
    if algorithm not in ALGORITHMS:
        raise MethodError(f"regroup = {algorithm}: unknown; available: {', '.join(REGROUPS)}")
    if radius <= 0:
        raise MethodError(f"regroup = {algorithm} needs a radius above 0, not {radius}: set regroup_threshold")
    source = importlib.import_module(ALGORITHMS[algorithm])
    if algorithm == "best_seed":
        return _best_seed(source, features, semantic, probabilities, radius, min_size)
    if algorithm in ("center_fixed", "center_shift"):
        shift = algorithm == "center_shift"
        return source.center_groups(features.points, semantic, probabilities, threshold=radius, shift=shift)
    if algorithm == "pieces":
        ids, labels = source.connected_pieces(semantic)
    else:
        ids, labels = _mean_shift(source, features, semantic, radius)
    own = probabilities.gather(0, semantic.unsqueeze(0))[0]
    best = own.new_zeros(len(labels) + 1).scatter_reduce(0, ids.flatten(), own.flatten(), "amax")
    return Groups(semantic, ids, labels, best[1:])


def _mean_shift(source: ModuleType, features: Features, semantic: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """(H, W) int64 ids 1..N and (N,) int64 classes."""
    points, radius = on_sphere(features, radius)
    bandwidth, cosine = radius / 3, 1 - radius**2 / 2
    met = 1 - (bandwidth / 4) ** 2 / 2  # nearer points are at one mode
    stride = cell_side(semantic.shape)
    ids, labels = torch.zeros_like(semantic), []
    for label in semantic[semantic > 0].unique().tolist():
        own = semantic == label
        # A mean over pixels of the class alone; its length does not matter.
        cells = nn.functional.avg_pool2d(torch.cat([points * own, own[None]])[None], stride, ceil_mode=True)[0]
        cells = nn.functional.normalize(cells[:-1, cells[-1] > 0].mT, dim=1)
        shifted = source.mean_shift(cells, bandwidth, _LOOPS, still=1e-4 * bandwidth)
        # The layer's length is 1 up to 1e-5, which is far on a sphere that is nearly flat.
        modes = source.find_modes(nn.functional.normalize(shifted, dim=1), met)
        modes = nn.functional.normalize(modes, dim=1)
        nearest, _ = source.nearest_mode(points[:, own], modes)
        group = source.gather(modes, nearest.bincount(minlength=len(modes)), cosine)[nearest]
        present, number = group.unique(return_inverse=True)
        ids[own] = len(labels) + 1 + number
        labels += [label] * len(present)
    return ids, torch.tensor(labels, dtype=torch.int64, device=semantic.device)


def on_sphere(features: Features, radius: float) -> tuple[Tensor, float]:
    """(D, H, W) unit vectors, and the radius between them; a plain space, with one more dimension, becomes nearly flat.

    Distances in it shrink by one factor, within 1 %. float64, because they are then small beside 1.
    """
    if features.spherical:
        return nn.functional.normalize(features.points, dim=0), radius
    points = features.points.double()
    points = points - points.flatten(1).mean(1)[:, None, None]
    # At least the radius, so that neither one point nor many equal ones are blown up.
    extent = _FLAT * max(float(torch.linalg.vector_norm(points, dim=0).max()), radius)
    points = torch.cat([points / extent, torch.ones_like(points[:1])])
    return nn.functional.normalize(points, dim=0), radius / extent


def cell_side(size: torch.Size) -> int:
    """The smallest side in pixels of square cells of which an image of (height, width) has no more than 4096."""
    side = 1
    while -(-size[0] // side) * -(-size[1] // side) > _CELLS:
        side += 1
    return side


def _best_seed(
    source: ModuleType, features: Features, semantic: Tensor, probabilities: Tensor, radius: float, min_size: int
) -> Groups:
    sigmas = torch.full_like(features.points[:1], source.margin_to_sigma(radius))
    found, labels = [], []
    for label in semantic[semantic > 0].unique().tolist():
        # The class map has decided which pixels there are: none is too improbable, even where the map is the true one.
        seeds = probabilities[label].clamp(min=torch.finfo(probabilities.dtype).eps)
        proposals = source.cluster(
            features.points,
            sigmas,
            seeds,
            allowed=semantic == label,
            threshold=0.0,
            foreground=0.0,
            min_pixels=max(min_size - 1, 0),
        )
        found += proposals
        labels += [label] * len(proposals)
    return source.proposal_groups(found, labels, semantic)
