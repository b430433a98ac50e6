"""Spatial embeddings: the sequential clustering of a street scene, and the loss of a crop with its gradient.

The peers are what the paper says, written out: every proposal, and every instance's Lovasz hinge, looks at all pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.cases import Case
from methods.spatial_embeddings import cluster, masks_of, pixel_grid, spatial_loss


def cases(device: torch.device) -> list[Case]:
    street, _ = (tensor.to(device) for tensor in scene(1024, 2048, 30, smallest=40, largest=200))
    crop, instances = (tensor.to(device) for tensor in scene(512, 512, 10, smallest=30, largest=120))
    semantic = (instances > 0).long()
    return [
        Case(
            "Spatial Embeddings: from the network's output to masks, 1024 x 2048, 30 instances",
            {"ours": lambda: clustering(street), "plain loop": lambda: plain_clustering(street)},
            "at most 0.10 s on one thread",
            same=_same_masks,
        ),
        Case(
            "Spatial Embeddings: loss and gradient, 512 x 512, 10 instances",
            {
                "ours": lambda: _with_gradient(our_loss, crop, semantic, instances),
                "written out": lambda: _with_gradient(plain_loss, crop, semantic, instances),
            },
            "at most 0.08 s on one thread",
            same=_same_loss,
        ),
    ]


def scene(height: int, width: int, count: int, smallest: int, largest: int) -> tuple[Tensor, Tensor]:
    """A raw output (4, H, W) as a trained network gives for ``count`` boxes, which hide each other, and their ids."""
    generator = torch.Generator().manual_seed(0)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    instances = torch.zeros(height, width, dtype=torch.int64)
    for number in range(1, count + 1):
        tall = between(smallest, largest)
        wide = min(tall * 3 // 2, width - 1)
        top, left = between(0, height - tall), between(0, width - wide)
        instances[top : top + tall, left : left + wide] = number
    output = torch.randn(4, height, width, generator=generator) * torch.tensor([0.02, 0.02, 0.0, 1.0]).view(-1, 1, 1)
    output += torch.tensor([0.0, 0.0, 0.5, -4.0]).view(-1, 1, 1)
    grid = pixel_grid(output)
    for number in instances[instances > 0].unique():
        mask = instances == number
        offset = grid[:, mask].mean(1, keepdim=True) - grid[:, mask]
        noise = torch.randn(3, offset.shape[1], generator=generator)
        output[:2, mask] = torch.atanh(0.9 * offset) + 0.002 * noise[:2]
        output[2, mask] = math.log(math.log(2.0) / (0.35 * float(offset.abs().max())) ** 2) / 10.0
        output[3, mask] = 5.0 - 30.0 * offset.norm(dim=0) + 0.3 * noise[2]
    return output, instances


@torch.inference_mode()
def clustering(output: Tensor) -> Tensor:
    places = pixel_grid(output) + output[:2].tanh()
    return masks_of(cluster(places, output[2:-1], output[-1].sigmoid()), output[-1])


@torch.inference_mode()
def plain_clustering(
    output: Tensor, threshold: float = 0.9, foreground: float = 0.5, least: int = 128, most: float = math.inf
) -> Tensor:
    """The loop: all foreground pixels for each seed. ``least`` pixels; (N, H, W) bool masks."""
    places, seeds = pixel_grid(output) + output[:2].tanh(), output[-1].sigmoid()
    wanted = seeds > foreground
    masks: list[Tensor] = []
    places, sigmas, seeds = places[:, wanted], output[2:-1][:, wanted], seeds[wanted]
    free = torch.ones_like(seeds)
    while free.sum() > least and len(masks) < most:
        best = (seeds * free).argmax()
        if seeds[best] < threshold:
            break
        free[best] = 0.0
        scale = torch.exp(10.0 * sigmas[:, best]).unsqueeze(1)
        held = torch.exp(-((places - places[:, [best]]) ** 2 * scale).sum(0)) > 0.5
        if held.sum() > least and free[held].sum() / held.sum() > 0.5:
            mask = torch.zeros_like(wanted)
            mask[wanted] = held
            masks.append(mask)
        free[held] = 0.0
    return torch.stack(masks) if masks else wanted.new_zeros(0, *wanted.shape)


def _same_masks(ours: Tensor, other: Tensor) -> None:
    assert torch.equal(ours, other), "the masks differ"


def our_loss(output: Tensor, semantic: Tensor, instances: Tensor, centroid: bool = True) -> Tensor:
    """Weighted total for raw outputs (B, 4 or 5, H, W), one class."""
    grid = pixel_grid(output)
    offsets, sigmas, seeds = output.split([2, output.shape[1] - 3, 1], dim=1)
    inputs = grid + offsets.tanh(), sigmas, seeds, semantic, instances
    instance, variance, seed = spatial_loss(*inputs, grid=grid if centroid else None)
    return instance + 10.0 * variance + seed


def plain_loss(output: Tensor, semantic: Tensor, instances: Tensor, centroid: bool = True) -> Tensor:
    """The same, instance by instance over all pixels."""
    grid = pixel_grid(output)
    total = output.sum() * 0.0
    for prediction, labels, ids in zip(output, semantic, instances, strict=True):
        offsets, sigmas, seeds = prediction.split([2, len(prediction) - 3, 1])
        embedding, seeds = grid + offsets.tanh(), seeds[0].sigmoid()
        numbers = ids[ids > 0].unique()
        hinge, variance = total * 0.0, total * 0.0
        seed = (seeds[labels == 0] ** 2).sum()
        for number in numbers:
            mask = ids == number
            centre = (grid if centroid else embedding)[:, mask].mean(1).view(2, 1, 1)
            sigma = sigmas[:, mask].mean(1).view(-1, 1, 1)
            variance = variance + ((sigmas[:, mask] - sigma.detach()[..., 0]) ** 2).mean()
            phi = torch.exp(-((embedding - centre) ** 2 * torch.exp(10.0 * sigma)).sum(0))
            hinge = hinge + plain_lovasz_hinge((2.0 * phi - 1.0).flatten(), mask.flatten())
            seed = seed + 10.0 * ((seeds[mask] - phi[mask].detach()) ** 2).sum()
        total = total + (hinge + 10.0 * variance) / max(len(numbers), 1) + seed / seeds.numel()
    return total / len(output)


def plain_lovasz_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    signs = 2.0 * labels.to(logits.dtype) - 1.0
    errors, order = (1.0 - logits * signs).sort(descending=True)
    true = labels[order].to(logits.dtype)
    jaccard = 1.0 - (true.sum() - true.cumsum(0)) / (true.sum() + (1.0 - true).cumsum(0))
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return errors.relu() @ steps


def _with_gradient(loss, output: Tensor, semantic: Tensor, instances: Tensor) -> tuple[Tensor, Tensor]:
    leaf = output[None].clone().requires_grad_()
    total = loss(leaf, semantic[None], instances[None])
    total.backward()
    return total.detach(), leaf.grad


def _same_loss(ours: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(ours[0], other[0], rtol=1e-5, atol=0.0)
    # In float64 the gradients agree to 1e-11. In float32 either of them is 3e-4 from that: errors that differ by the
    # last digit may change places, and with them their steps.
    torch.testing.assert_close(ours[1], other[1], rtol=0.0, atol=1e-3 * float(other[1].abs().max()))
