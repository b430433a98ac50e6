"""NV golden files: farthest-point seeds, their climb, components, pixel labels, and the loss on means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from runner import Golden

from methods.recurrent_mean_shift import climb, components, farthest_points, mean_loss, nearest_mode


def check(paths: list[Path]) -> int:
    (path,) = paths
    golden = Golden(path)
    image = torch.from_numpy(golden.take("X"))
    labels = torch.from_numpy(golden.take("label").astype(np.int64))
    points = image.flatten(0, 1)
    kappa, alpha = float(golden.take("kappa")), float(golden.take("alpha"))

    rows = farthest_points(points, int(golden.take("num_seeds")), int(golden.take("first_seed_index")))
    golden.compare("seed_indices", rows.numpy(), atol=0)
    for name, steps in (("seeds_after1", 1), ("seeds_after10", int(golden.take("max_iters")))):
        golden.compare(name, climb(points, points[rows], kappa, steps).numpy(), atol=1e-5)
    modes = climb(points, points[rows], kappa, int(golden.take("max_iters")))
    objects = components(modes, 2 * alpha)
    golden.compare("seed_labels", objects.numpy(), atol=0)
    nearest, _ = nearest_mode(image.permute(2, 0, 1), modes)
    found = objects[nearest]
    largest = int(found.flatten().bincount().argmax())  # NV calls it 0, the background, and 0 by its number
    found = torch.where(found == largest, 0, torch.where(found == 0, largest, found))
    golden.compare("pixel_labels", found.numpy(), atol=0)

    leaf = points.double().requires_grad_()
    known = labels.flatten() >= 0
    intra, inter = mean_loss(leaf[known], labels.flatten()[known], alpha=alpha)
    (intra + inter).backward()
    for name, value in (("loss_intra", intra), ("loss_inter", inter), ("loss", intra + inter)):
        golden.compare(name, value.item(), rtol=1e-5, atol=1e-9)
    gradient = golden.take("grad")
    golden.compare("grad", leaf.grad.view(gradient.shape).numpy(), atol=1e-4 * np.abs(gradient).max())
    return golden.finish()
