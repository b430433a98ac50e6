"""Pull/push golden files: losses and gradients in float64, and the groups of both post-processings."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from runner import Golden

from methods.pull_push import group_by_distance, pull_push_loss

_LOSS = re.compile(r"n(?P<norm>[12])_dpull(?P<pull>[\d.]+)_dpush(?P<push>[\d.]+)_(?P<hinge>lin|sq)_total")
_GROUPS = re.compile(r"(?P<kind>fixed|shift)_n(?P<norm>[12])_t(?P<threshold>[\d.]+)_(?P<order>raster|perm)")
_GAMMA = 0.001


def check(paths: list[Path]) -> int:
    (path,) = paths
    golden = Golden(path)
    embedding = torch.from_numpy(golden.take("E").astype(np.float64)).permute(2, 0, 1)
    semantic = torch.from_numpy(golden.take("sem").astype(np.int64))
    instances = torch.from_numpy(golden.take("inst").astype(np.int64))
    order = torch.from_numpy(golden.take("perm").astype(np.int64)).flatten()
    for name in golden.names():
        if match := _LOSS.fullmatch(name):
            _check_loss(golden, match, embedding, semantic, instances)
        elif match := _GROUPS.fullmatch(name):
            _check_groups(golden, match, embedding, semantic, order)
    _check_relatives(golden, embedding, semantic, instances)
    return golden.finish()


def _check_loss(
    golden: Golden, match: re.Match, embedding: torch.Tensor, semantic: torch.Tensor, instances: torch.Tensor
) -> None:
    stem = match[0].removesuffix("_total")
    settings = {
        "pull_margin": float(match["pull"]),
        "push_margin": float(match["push"]),
        "norm": int(match["norm"]),
        "squared": match["hinge"] == "sq",
    }
    leaf = embedding.clone().requires_grad_()
    pull, push, norm = pull_push_loss(leaf[None], semantic[None], instances[None], **settings)
    total = pull + push + _GAMMA * norm
    golden.compare(match[0], total.item(), rtol=1e-10, atol=0)
    # Class by class: [class, K, L_pull, L_push, L_reg, L_c].
    rows = golden.take(f"{stem}_rows")
    for row in rows:
        alone = torch.where(semantic == int(row[0]), semantic, 0)
        terms = [float(t) for t in pull_push_loss(embedding[None], alone[None], instances[None], **settings)]
        expected = [int(instances[alone > 0].unique().count_nonzero()), *terms, terms[0] + terms[1] + _GAMMA * terms[2]]
        np.testing.assert_allclose(expected, row[1:], rtol=1e-10, atol=1e-12, err_msg=f"{stem} class {row[0]:g}")
        golden.count(len(expected))
    if f"{stem}_grad" in golden.names():
        total.backward()
        expected = golden.take(f"{stem}_grad")
        # The float32 copies carry 24 bits; the README's tolerance is 1e-6 of the largest gradient.
        gradient = leaf.grad.permute(1, 2, 0).numpy()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=stem)
        golden.count(expected.size)


def _check_groups(
    golden: Golden, match: re.Match, embedding: torch.Tensor, semantic: torch.Tensor, order: torch.Tensor
) -> None:
    name = match[0]
    shift = match["kind"] == "shift"
    seeds = order if match["order"] == "perm" else torch.arange(semantic.numel())
    threshold, norm = float(match["threshold"]), int(match["norm"])
    found = group_by_distance(embedding, semantic, threshold=threshold, shift=shift, norm=norm, order=seeds)
    golden.compare(name, found.ids.numpy(), atol=0)
    # Rows [class, seed's flat index, size, shift iterations].
    labels, sizes = semantic.flatten()[found.seeds], found.ids.flatten().bincount()[1:]
    rows = torch.stack([labels, found.seeds, sizes, found.iterations], dim=1)
    golden.compare(f"{name}_info", rows.numpy(), atol=0)


def _check_relatives(golden: Golden, embedding: torch.Tensor, semantic: torch.Tensor, instances: torch.Tensor) -> None:
    """The relatives see all instances as one class, with margins .5 and 1.5 and squared hinges."""

    def terms(norm: int, **settings: object) -> tuple[float, ...]:
        margins = {"pull_margin": 0.5, "push_margin": 1.5, "squared": True, "together": True}
        found = pull_push_loss(embedding[None], semantic[None], instances[None], norm=norm, **margins, **settings)
        return tuple(float(value) for value in found)

    for name in golden.names():
        if name.startswith(("wizaron_n", "nyoki_n")):
            code, norm = name.split("_n")
            pull, push, reg = terms(int(norm), average="pixel" if code == "wizaron" else "instance")
            push = 0.5 * push if code == "nyoki" else push
            golden.compare(name, np.float64(pull + push + _GAMMA * reg), rtol=1e-5)  # their codes ran in float32
    pull, push, reg = terms(2)
    golden.compare("debrabandere_paper_n2", [pull, push, reg, pull + push + _GAMMA * reg], rtol=1e-10, atol=0)
    # Associative embedding: a person's visible joints are its pixels. The reference ran on all K channels of E (its
    # README says the first): its push adds the channels' squares up, its pull averages them, so ours is K times as
    # large. Its code divides the pull by the number of people + 1e-6.
    joints = torch.from_numpy(golden.take("ae_keypoints"))  # (people, joints, [flat index, visible])
    tags = embedding.flatten(1)[:, joints[..., 0]][None]
    person = torch.where(joints[..., 1] > 0, torch.arange(1, len(joints) + 1).unsqueeze(1), 0)[None]
    pull, push, _ = pull_push_loss(tags, person, person, pull_margin=0.0, squared=True, together=True, gaussian=True)
    golden.compare("ae_pull", pull.item() / len(embedding) * len(joints) / (len(joints) + 1e-6), rtol=1e-10, atol=0)
    golden.compare("ae_push", push.item(), rtol=1e-10, atol=0)
