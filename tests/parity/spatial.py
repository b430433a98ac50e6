"""Spatial embeddings golden files: Lovasz hinge, loss and gradient, sequential clustering (all of official runs)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from runner import Golden

from methods.spatial_embeddings import (
    Proposal,
    cluster,
    cluster_with_truth,
    lovasz_hinge,
    masks_of,
    pixel_grid,
    spatial_loss,
)

_HINGE = re.compile(r"(?P<case>.+)_logits")
_LOSS = re.compile(r"(?P<stem>.+_ns[12]_tc(?P<centroid>[01])_fw(?P<weight>[\d.]+))_loss64")
_CLUSTER = re.compile(r"(?P<stem>ns(?P<sigmas>[12])_th(?P<tenths>\d+))_map")
_WITH_TRUTH = re.compile(r"ns(?P<sigmas>[12])_withgt_map")


def check(paths: list[Path]) -> int:
    (path,) = paths
    golden = Golden(path)
    for name in golden.names():
        if match := _HINGE.fullmatch(name):
            _check_hinge(golden, match["case"])
        elif match := _LOSS.fullmatch(name):
            _check_loss(golden, match)
        elif match := _CLUSTER.fullmatch(name):
            _check_cluster(golden, match)
        elif match := _WITH_TRUTH.fullmatch(name):
            _check_with_truth(golden, match)
    return golden.finish()


def _check_hinge(golden: Golden, case: str) -> None:
    logits = torch.from_numpy(golden.take(f"{case}_logits").astype(np.float64)).requires_grad_()
    labels = torch.from_numpy(golden.take(f"{case}_labels") > 0)
    loss = lovasz_hinge(logits, labels)
    loss.backward()
    golden.compare(f"{case}_loss", loss.item(), rtol=1e-10, atol=1e-12)
    golden.compare(f"{case}_loss32", lovasz_hinge(logits.detach().float(), labels).item(), rtol=1e-5, atol=1e-7)
    _compare_gradient(golden, f"{case}_grad", logits.grad)


def _check_loss(golden: Golden, match: re.Match) -> None:
    stem = match["stem"]
    case = stem.partition("_ns")[0]
    instances, labels = (
        torch.from_numpy(golden.take(f"{case}_{what}").astype(np.int64)) for what in ("instances", "labels")
    )
    prediction = torch.from_numpy(golden.take(f"{stem.partition('_tc')[0]}_pred"))
    for bits, dtype, rtol in ((64, torch.float64, 1e-10), (32, torch.float32, 1e-5)):
        output = prediction.to(dtype, copy=True).requires_grad_()
        offsets, sigmas, seeds = output.split([2, output.shape[1] - 3, 1], dim=1)
        grid = pixel_grid(output)
        terms = spatial_loss(
            grid + offsets.tanh(),
            sigmas,
            seeds,
            (labels > 0).long(),
            instances,
            grid=grid if match["centroid"] == "1" else None,
            foreground_weight=(float(match["weight"]),),
        )
        total = terms[0] + 10.0 * terms[1] + terms[2]
        golden.compare(f"{stem}_terms{bits}", [term.item() for term in terms], rtol=rtol)
        golden.compare(f"{stem}_loss{bits}", total.item(), rtol=rtol)
        if bits == 64:
            total.backward()
            _compare_gradient(golden, f"{stem}_grad64", output.grad)


def _compare_gradient(golden: Golden, name: str, gradient: torch.Tensor) -> None:
    golden.compare(name, gradient.numpy(), atol=1e-6 * float(np.abs(golden.take(name)).max()))


def _network(golden: Golden, sigmas: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embedding places, sigmas and seed scores from the raw output, in float32 as the official code."""
    output = torch.from_numpy(golden.take(f"ns{sigmas}_pred"))
    return pixel_grid(output) + output[:2].tanh(), output[2:-1], output[-1].sigmoid()


def _check_cluster(golden: Golden, match: re.Match) -> None:
    stem, tenths = match["stem"], match["tenths"]
    places, sigmas, seeds = _network(golden, match["sigmas"])
    proposals = cluster(places, sigmas, seeds, threshold=float(f"0.{tenths}"))
    golden.compare(f"{stem}_map", masks_of(proposals, seeds, overlapping=False).numpy(), atol=0)
    # Official float32 scores, which were stored as float64.
    golden.compare(f"{stem}_scores", [proposal.score for proposal in proposals], rtol=1e-6)
    golden.compare(f"{stem}_masks", np.packbits(masks_of(proposals, seeds).numpy(), axis=-1), atol=0)


def _check_with_truth(golden: Golden, match: re.Match) -> None:
    truth = torch.from_numpy(golden.take("instance_gt").astype(np.int64))
    proposals: list[Proposal] = cluster_with_truth(*_network(golden, match["sigmas"]), truth)
    # The official map carries the true ids.
    ids = torch.cat([torch.zeros(1, dtype=torch.int64), truth[truth > 0].unique()])
    golden.compare(match[0], ids[masks_of(proposals, truth, overlapping=False)].numpy(), atol=0)
