"""SegSort golden files: start grids, k-means, losses with gradients, memory, bank and votes of TensorFlow and SPML.

All reference runs are float32. We compute in float64, where clusters do not hang on rounding. The losses are compared
at 1e-5 of themselves; how near gradients are is said where they are compared.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from runner import Golden

from methods.segsort import (
    Prototypes,
    first_argmax,
    locations,
    majority_prototypes,
    mean_directions,
    nearest,
    region_loss,
    remember,
    segment_sorting_loss,
    split_by_class,
    start_grid,
    unit,
    vmf_kmeans,
)

_START = re.compile(r"init_(?P<height>\d+)x(?P<width>\d+)_(?P<rows>\d+)x(?P<columns>\d+)")
_LOCATION = re.compile(r"loc_(?P<height>\d+)x(?P<width>\d+)")
_IGNORE = 255
_ONE = 2.0**-21  # four float32 steps at 1: what unit vectors computed in float32 may be off by


def check(paths: list[Path]) -> int:
    (path,) = paths
    golden = Golden(path)
    names = golden.names()
    if "knn_protos" in names:
        _check_inference(golden)
    elif "pixel_label" in names:
        _check_spml(golden)
    elif "seg" in names:
        _check_unsupervised(golden)
    elif "init_cluster" in names:
        _check_training(golden)
    else:
        _check_start(golden)
    return golden.finish()


def _check_start(golden: Golden) -> None:
    for name in golden.names():
        if match := _START.fullmatch(name):
            height, width, rows, columns = map(int, match.groups())
            golden.compare(name, start_grid((height, width), (rows, columns), "blocks").numpy(), atol=0)
        elif match := _LOCATION.fullmatch(name):
            size = (int(match["height"]), int(match["width"]))
            found = locations(size, "corner", torch.zeros(1, dtype=torch.float64))
            golden.compare(name, found.permute(1, 2, 0).numpy(), atol=2.0**-25)  # half a float32 step below 1


def _check_inference(golden: Golden) -> None:
    emb = _floats(golden, "emb")
    height, width = emb.shape[1:3]
    grid = [int(cells) for cells in golden.take("grid")]
    count, k = grid[0] * grid[1], int(golden.take("k"))
    pixels = unit(emb)[0]
    place = locations((height, width), "corner", pixels).permute(1, 2, 0)
    features = unit(torch.cat([pixels, place], dim=-1)).flatten(0, 1)
    start = start_grid((height, width), grid, "blocks").flatten()
    for name in golden.names():
        if name.startswith("labels_it"):
            rounds = int(name.removeprefix("labels_it"))
            found = vmf_kmeans(features, start, count, rounds)
            golden.compare(name, found.view(1, height, width).numpy(), atol=0)
    clusters, pixels = vmf_kmeans(features, start, count), pixels.flatten(0, 1)
    queries = mean_directions(pixels, clusters, count)
    golden.compare("test_prototypes", queries.numpy(), atol=_ONE)

    bank, classes = _floats(golden, "knn_protos"), _integers(golden, "knn_proto_labels")
    for block in (2, 64):  # with blocks of rows left out, and all rows sorted
        _, rows = nearest(queries, bank, k, block)
        golden.compare("topk_index", rows.numpy(), atol=0)
    counts = torch.nn.functional.one_hot(classes[rows]).sum(1)
    golden.compare("semantic_pred", first_argmax(counts.t())[clusters].view(1, height, width).numpy(), atol=0)

    semantic = _integers(golden, "train_label").flatten()
    valid = semantic != _IGNORE
    clusters = vmf_kmeans(features[valid], start[valid], count)
    found = majority_prototypes(pixels[valid], clusters, semantic[valid])
    # The reference numbers clusters as they come first in the image; ours ascend.
    order = torch.searchsorted(clusters.unique(), torch.tensor(list(dict.fromkeys(clusters.tolist()))))
    golden.compare("train_prototype_features", found.directions[order].numpy(), atol=_ONE)
    golden.compare("train_prototype_labels", found.classes[order].numpy(), atol=0)
    golden.ignore("label")  # the scene that the embedding was made from; train_label is what the code was given


def _check_training(golden: Golden) -> None:
    leaf = _floats(golden, "emb").requires_grad_()
    semantic, start, place = _integers(golden, "label"), _integers(golden, "init_cluster"), _floats(golden, "loc")
    count, banks = int(golden.take("num_clusters")) ** 2, int(golden.take("num_banks"))
    pixels, valid = unit(leaf), semantic != _IGNORE
    features = unit(torch.cat([pixels.detach(), place], dim=-1))
    clusters = []
    for image, judged in enumerate(valid):
        clusters.append(vmf_kmeans(features[image][judged], start[image][judged], count))
        golden.compare(f"kmeans_valid_pixels_img{image}", clusters[-1].numpy(), atol=0)
    clusters = torch.cat([own + number * count for number, own in enumerate(clusters)])
    embeddings = pixels[valid]
    segments, classes = split_by_class(clusters, semantic[valid])
    own = mean_directions(embeddings, segments, len(classes))
    memory = [(_floats(golden, f"memory_{b}"), _integers(golden, f"memory_labels_{b}")) for b in range(banks)]
    loss = segment_sorting_loss(
        embeddings,
        segments,
        torch.cat([own, *(unit(directions) for directions, _ in memory)]),
        torch.cat([classes, *(labels for _, labels in memory)]),
        float(golden.take("concentration")),
        "nca",
    )
    _compare_loss(golden, "loss", "grad", loss, leaf)
    if banks:
        _check_memory(golden, memory, own.detach(), classes)


def _check_memory(golden: Golden, memory: list, own: torch.Tensor, classes: torch.Tensor) -> None:
    """The oldest bank goes, the others move up; the newest is a random part of the step's prototypes.

    segsort_tf_train_t3.npz does not show that, against its README: its banks after the step are, bit for bit, those
    before it, so the update was not run when they were stored. Such a file says nothing about the memory, and nothing
    is counted for it; tests/methods/test_segsort.py has the update by hand.
    """
    banks, rows = len(memory), len(memory[0][0])
    expected = [_floats(golden, f"memory_{bank}_after") for bank in range(banks)]
    if all(torch.equal(after, before) for after, (before, _) in zip(expected, memory, strict=True)):
        return
    ages = [torch.full_like(labels, banks - bank) for bank, (_, labels) in enumerate(memory)]
    before = Prototypes(*(torch.cat(parts) for parts in (*zip(*memory, strict=True), ages)))
    after = remember(before, own, classes, banks, rows)
    for bank in range(banks - 1):
        kept = after.origin == banks - bank
        golden.compare(f"memory_{bank}_after", after.directions[kept].numpy(), atol=0)
        assert torch.equal(after.classes[kept], memory[bank + 1][1])
    newest = after.directions[after.origin == 1]
    assert len(newest) == len(expected[-1])
    for chosen in (newest, expected[-1]):  # both are different rows of the step's prototypes
        distance, row = torch.cdist(chosen, own).min(1)
        assert distance.max() < 1e-6, f"{golden.path.name}: a new row of the memory is no prototype of this step"
        assert len(row.unique()) == len(chosen)
    golden.count(expected[-1].numel())


def _check_unsupervised(golden: Golden) -> None:
    leaf = _floats(golden, "emb").requires_grad_()
    pixels = unit(leaf).permute(0, 3, 1, 2)
    loss = region_loss(pixels, _integers(golden, "seg"), float(golden.take("concentration")))
    _compare_loss(golden, "loss", "grad", loss, leaf)


def _check_spml(golden: Golden) -> None:
    emb, semantic = _floats(golden, "emb"), _integers(golden, "label")
    images, _, height, width = emb.shape
    grid = [int(cells) for cells in golden.take("grid")]
    count = grid[0] * grid[1]
    start = start_grid((height, width), grid, "centres")
    golden.compare("init_grid", start.numpy(), atol=0)
    place = locations((height, width), "centred", emb).expand(images, -1, -1, -1)
    features = unit(torch.cat([unit(emb, dim=1), place], dim=1), dim=1).movedim(1, -1)
    valid = semantic != int(golden.take("ignore"))
    golden.compare("emb_with_loc", features[valid].numpy(), atol=_ONE)
    golden.compare("pixel_label", semantic[valid].numpy(), atol=0)
    golden.compare("batch_index", valid.nonzero()[:, 0].numpy(), atol=0)
    clusters = [vmf_kmeans(f[v], start[v], count, empty="attract") for f, v in zip(features, valid, strict=True)]
    clusters = torch.cat([own + number * count for number, own in enumerate(clusters)])
    segments, classes = split_by_class(clusters, semantic[valid])
    golden.compare("cluster_index", segments.numpy(), atol=0)
    golden.compare("prototype_label", classes.numpy(), atol=0)
    concentration = float(golden.take("concentration"))
    for mode, form in (("segsortplus", "nca"), ("segsort", "vmf")):
        for gradient, detach in ((f"grad_{mode}", False), (f"grad_detachedproto_{mode}", True)):
            leaf = emb.clone().requires_grad_()
            embeddings = unit(leaf, dim=1).movedim(1, -1)[valid]
            own = mean_directions(embeddings, segments, len(classes))
            used = own.detach() if detach else own
            loss = segment_sorting_loss(embeddings, segments, used, classes, concentration, form)
            _compare_loss(golden, f"loss_{mode}", gradient, loss, leaf)
    golden.compare("prototypes", own.detach().numpy(), atol=_ONE)
    _, rows = nearest(own.detach(), own.detach(), 5, block=4)
    golden.compare("self_top5_labels", classes[rows].numpy(), atol=0)
    right = (classes[rows] == classes.unsqueeze(1)).double().mean()
    golden.compare("self_top5_acc", right.numpy(), rtol=1e-6)
    golden.compare("self_majority", torch.nn.functional.one_hot(classes[rows]).sum(1).argmax(1).numpy(), atol=0)


def _compare_loss(golden: Golden, name: str, gradient: str, loss: torch.Tensor, leaf: torch.Tensor) -> None:
    golden.compare(name, loss.detach().numpy(), rtol=1e-5)
    loss.backward()
    # A float32 gradient against ours in float64: 1e-5 of the largest is the furthest seen; the README allows 1e-4.
    golden.compare(gradient, leaf.grad.numpy(), atol=3e-5 * float(np.abs(golden.take(gradient)).max()))


def _floats(golden: Golden, name: str) -> torch.Tensor:
    return torch.from_numpy(golden.take(name).astype(np.float64))


def _integers(golden: Golden, name: str) -> torch.Tensor:
    return torch.from_numpy(golden.take(name).astype(np.int64))
