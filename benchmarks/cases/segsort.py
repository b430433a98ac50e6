"""SegSort's two searches: k-means on the pixels of an image, and a segment's nearest among many prototypes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from methods.segsort import locations, nearest, start_grid, unit, vmf_kmeans


def cases(device: torch.device) -> list[Case]:
    return [_kmeans(device, 256), _vote(device, 200_000)]


def _kmeans(device: torch.device, side: int) -> Case:
    """10 rounds for 25 clusters on side x side pixels of 32 channels and 2 coordinates, far from settled."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 32, 20, 20, generator=generator)
    pixels = nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0]
    pixels = unit(pixels + 0.5 * torch.randn(pixels.shape, generator=generator), dim=0)
    features = unit(torch.cat([pixels, locations((side, side), "corner", pixels)]), dim=0)
    features = features.flatten(1).t().contiguous().to(device)
    start = start_grid((side, side), (5, 5), "blocks").flatten().to(device)

    def written_out() -> Tensor:
        clusters = start
        for _ in range(10):
            means = features.new_zeros(25, features.shape[1]).index_add(0, clusters, features)
            clusters = (features @ nn.functional.normalize(means, dim=1).t()).argmax(1)
        return clusters

    def scattered() -> Tensor:
        clusters = start
        for _ in range(10):
            means = features.new_zeros(25, features.shape[1])
            means.scatter_add_(0, clusters.unsqueeze(1).expand_as(features), features)
            clusters = (features @ nn.functional.normalize(means, dim=1).t()).max(1).indices
        return clusters

    def same(ours: object, other: object) -> None:
        assert isinstance(ours, Tensor)
        assert isinstance(other, Tensor)
        differing = (ours != other).float().mean()
        assert differing < 1e-3, f"{differing:.2%} of the pixels are in other clusters"  # rounding moves a few

    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: vmf_kmeans(features, start, 25),
        "torch, index_add and argmax": written_out,
        "torch, scatter_add and max": scattered,
    }
    return Case(f"vMF k-means {side}x{side}x32, 25 clusters, 10 rounds", contenders, "at most 0.04 s", same)


def _vote(device: torch.device, rows: int, segments: int = 25, k: int = 21) -> Case:
    generator = torch.Generator().manual_seed(0)
    bank = unit(torch.randn(rows, 32, generator=generator)).to(device)
    queries = unit(torch.randn(segments, 32, generator=generator)).to(device)
    classes = torch.randint(0, 21, (rows,), generator=generator).to(device)

    def vote(found: Tensor) -> Tensor:
        return nn.functional.one_hot(classes[found], 21).sum(1).argmax(1)

    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: vote(nearest(queries, bank, k)[1]),
        "torch.sort of all": lambda: vote((queries @ bank.t()).argsort(dim=1, descending=True)[:, :k]),
        "torch.topk": lambda: vote((queries @ bank.t()).topk(k, dim=1).indices),
    }
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        pass
    else:
        if device.type == "cpu":  # on unit vectors the nearest have the largest dot products
            index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(bank.numpy())
            contenders["scikit-learn NearestNeighbors"] = lambda: vote(
                torch.from_numpy(index.kneighbors(queries.numpy(), return_distance=False))
            )

    def same(ours: object, other: object) -> None:
        assert isinstance(ours, Tensor)
        assert isinstance(other, Tensor)
        assert torch.equal(ours, other), "other classes"

    return Case(f"votes of {k} among {rows} prototypes for {segments} segments", contenders, "at most 0.05 s", same)
