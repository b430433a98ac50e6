"""Recurrent pixel embedding (Kong and Fowlkes, CVPR 2018).

Every pixel is a point on a sphere. A loss over all pairs of pixels gathers an instance and spreads different ones;
blurring mean shift, unrolled as a recurrent layer, sharpens the groups, and the loss is applied after every loop of it.

"Official" is aimerykong/Recurrent-Pixel-Embedding-for-Instance-Grouping at 748ade6 (MATLAB). It ends with pictures of
the embeddings: how masks are cut out and ranked was never released, so the decoding here is ours. Facts under "from
memory" could not be checked against the paper. The relative is NVlabs/UnseenObjectClustering ("NV") at f5a00c7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from methods.base import IGNORE, Batch, Embedding, Features, Groups, Instances, Prediction, Seconds, Truth, setting
from methods.grouping import GroupingConfig, PixelGrouping, balanced_cross_entropy, dense_network, resized

_MOST = 500  # modes, and proposals, of an image: only an untrained network has more


@dataclass(frozen=True)
class RecurrentMeanShiftConfig(GroupingConfig):
    """NV's form: loss=means pixels=all train_loops=0 decode=seeds. A cell has its mean and its centre's label."""

    encoder: str = setting("resnet101", "timm name of the encoder", source="official demo3, demo4")
    dimension: int = setting(64, "channels of the embedding", source="poster")
    stride: int = setting(8, "side of a cell of pixels, which is embedded", source="author, issue 2; released: 4")
    loss: str = setting("pairs", "over pairs of pixels, or NV's over means", source="paper", choices=("pairs", "means"))
    margin: float = setting(0.5, "pairs: alpha, s = (1 + cos) / 2 that is free between groups", source="official demo4")
    positive_weight: float = setting(1.0, "pairs: weight of those within groups", source="official demo4")
    negative_weight: float = setting(5.0, "pairs: weight of those between groups", source="official demo4")
    hinge: str = setting(
        "quadratic",
        "pairs; linear: the paper's formula, official forward. quadratic: whose gradient the official backward is, "
        "hence most likely behind the paper's numbers; that is an inference, stated nowhere",
        source="official backward",
        choices=("linear", "quadratic"),
    )
    pixels: str = setting("sampled", "that a loss sees, anew each time", source="official", choices=("sampled", "all"))
    sample_ratio: float = setting(0.2, "sampled share of the pixels", source="official; .1 to .35 there")
    sample_most: int = setting(4000, "largest sample", source="official")
    train_loops: int = setting(1, "mean-shift loops in training", source="author, issue 5; toy data 5, released VOC 0")
    loop_weights: tuple[float, ...] = setting((1.0,), "after 0, 1, ... loops; or one for all", source="official demo1")
    bandwidth: float = setting(
        0.0,
        "b of the kernel exp((cos - 1) / b^2), .1 or .2 (demo4) in official scripts; 0 means (1 - margin) / 3",
        source="paper from memory, unverified",
    )
    gradient: str = setting(
        "exact",
        "of a loop: the true one, or the official layers', which is wrong for X X^T and needs N x N memory",
        source="official",
        choices=("exact", "official"),
    )
    semantic_weight: float = setting(1.0, "weight of the cross-entropy", source="ours")
    class_balance: float = setting(0.0, "exponent p in 0..1 of a class's inverse frequency", source="ours")
    semantic_grouping: float = setting(
        0.0,
        "above 0, classes have an embedding, and this is its pair loss's weight",
        source="paper from memory, unverified",
    )
    boundary: bool = setting(False, "boundaries, from an embedding too", source="paper from memory, unverified")
    decode: str = setting(
        "modes",
        "modes: shift all pixels, then the largest mode takes what is near it, and so on (no chains, unlike connected "
        "components); seeds: NV's climb from far-apart pixels and its components, the largest group left out",
        source="ours; NV",
        stage="predict",
        choices=("modes", "seeds"),
    )
    loops: int = setting(16, "modes: most loops, fewer where all stand still", source="official", stage="predict")
    threshold: float = setting(0.8, "modes: cosine of modes of one group", source="ours", stage="predict")
    seeds: int = setting(100, "seeds: their number", source="NV", stage="predict")
    kappa: float = setting(20.0, "seeds: the kernel is exp(kappa cos)", source="NV", stage="predict")
    epsilon: float = setting(0.04, "seeds: distance (1 - cos) / 2 of one group", source="NV", stage="predict")
    proposal_thresholds: tuple[float, ...] = setting(
        (0.5, 0.8, 0.95), "proposals are the groups at each of these cosines", source="ours", stage="predict"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dimension", "stride", "sample_ratio", "sample_most", "seeds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("train_loops", "loops", "bandwidth", "epsilon", "semantic_grouping"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not (0 <= self.margin < 1 and 0 <= self.class_balance <= 1):
            given = f"{self.margin} and {self.class_balance}"
            raise ValueError(f"margin must be in 0..1, below 1, and class_balance in 0..1, not {given}")
        if not self.proposal_thresholds:
            raise ValueError("proposal_thresholds needs one value or more")
        if len(self.loop_weights) not in (1, self.train_loops + 1):
            raise ValueError(f"loop_weights needs 1 or {self.train_loops + 1} values, not {len(self.loop_weights)}")


@dataclass(frozen=True)
class Outputs:
    """What the network says; embeddings are unit vectors along their second dimension."""

    pixels: Tensor  # (B, D, h, w) at the stride
    logits: Tensor  # (B, C + 1, H, W)
    classes: Tensor  # (B, D, H, W) embedding with a group for each class, or the logits without
    edges: Tensor  # (B, D, H, W) embedding with the groups boundary and inside; D is 0 without
    boundary: Tensor | None  # (B, H, W) logits


@dataclass(frozen=True)
class SphereEmbedding(Embedding):
    cells: Tensor  # (D, h, w) float32 unit vectors at the stride
    boundary: Tensor | None  # (H, W) float32 in [0, 1]


@dataclass(frozen=True)
class SphereGroups(Groups):
    """With what `propose` needs: modes (M, D), and of each pixel the nearest one and the worth, (H, W)."""

    modes: Tensor | None = None
    nearest: Tensor | None = None
    worth: Tensor | None = None


class RecurrentMeanShift(PixelGrouping):
    """Recurrent pixel embedding as a plugin."""

    name = "recurrent_mean_shift"
    paper = "Recurrent Pixel Embedding (Kong and Fowlkes 2018)"
    tasks = frozenset({"instances", "semantic", "proposals"})
    Config = RecurrentMeanShiftConfig

    def __init__(self, config: RecurrentMeanShiftConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.classify = nn.Conv2d(config.dimension, num_classes + 1, 1) if config.semantic_grouping else None
        self.detect = nn.Conv2d(config.dimension, 1, 1) if config.boundary else None
        classes, edges = config.dimension if self.classify else num_classes + 1, config.dimension * config.boundary
        self.channels = [config.dimension, classes, edges]
        self.network = dense_network(config, sum(self.channels))
        self.bandwidth = config.bandwidth or (1.0 - config.margin) / 3.0
        if config.boundary:
            self.tasks = self.tasks | {"boundary"}
        self.tasks = self.tasks - ({"proposals"} if config.regroup != "own" else set())  # sets of this method's modes

    def forward(self, images: Tensor) -> Outputs:
        pixels, classes, edges = self.network(images).split(self.channels, dim=1)
        cells = [-(-side // self.config.stride) for side in images.shape[-2:]]
        pixels = to_sphere(nn.functional.adaptive_avg_pool2d(pixels, cells), dim=1)
        classes = to_sphere(classes, dim=1) if self.classify else classes
        edges = to_sphere(edges, dim=1)
        scale = self.config.dimension**0.5  # of variance 1, features teach a linear classifier sooner
        logits = self.classify(scale * classes) if self.classify else classes
        return Outputs(pixels, logits, classes, edges, self.detect(scale * edges)[:, 0] if self.detect else None)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):  # half precision would blur margins and modes
            return self._losses(outputs, batch)

    def _losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, ignored = self.config, batch.semantic == IGNORE
        semantic = balanced_cross_entropy(outputs.logits, batch.semantic, config.class_balance)
        losses = {"semantic": config.semantic_weight * semantic}
        points = outputs.pixels.flatten(2).mT  # (B, N, D)
        groups = at_cells(batch.instances.masked_fill(ignored, -1), outputs.pixels.shape[-2:]).flatten(1)
        terms = []
        for loop in range(config.train_loops + 1):
            points = mean_shift(points, self.bandwidth, 1, config.gradient) if loop else points
            terms.append(config.loop_weights[loop % len(config.loop_weights)] * self.terms(points, groups, config.loss))
        losses["positive"], losses["negative"] = sum(terms)
        if self.classify:
            groups = batch.semantic.masked_fill(ignored, -1).flatten(1)
            losses["classes"] = config.semantic_grouping * self.terms(outputs.classes.flatten(2).mT, groups).sum()
        if self.detect:
            edge = boundaries(batch.semantic, batch.instances)
            groups = edge.long().masked_fill(ignored, -1).flatten(1)
            losses["edges"] = self.terms(outputs.edges.flatten(2).mT, groups).sum()
            found, logits = nn.functional.binary_cross_entropy_with_logits, outputs.boundary.float()
            losses["boundary"] = found(logits, edge.to(logits), (~ignored).to(logits))
        return losses

    def terms(self, points: Tensor, groups: Tensor, loss: str = "pairs") -> Tensor:
        """(2,) weighted terms of points (B, N, D) in groups (B, N), without -1; a mean over images (official: sum)."""
        config, terms = self.config, []
        for own, group in zip(points, groups, strict=True):
            chosen = (group >= 0).nonzero()[:, 0]
            if config.pixels == "sampled":
                count = max(1, min(int(config.sample_ratio * len(chosen)), config.sample_most))
                chosen = chosen[torch.randperm(len(chosen), device=chosen.device)[:count]]
            if loss == "means":
                terms.append(torch.stack(mean_loss(own[chosen], group[chosen])))
            else:
                near, far = pair_loss(own[chosen], group[chosen], margin=config.margin, hinge=config.hinge)
                terms.append(torch.stack([config.positive_weight * near, config.negative_weight * far]))
        return torch.stack(terms).mean(0)

    def embed(self, images: Tensor, sizes: Tensor) -> list[Embedding]:
        outputs, embeddings = self(images), []
        for index, size in enumerate(sizes.tolist()):
            cells, edges = outputs.pixels[index], outputs.boundary
            boundary = None if edges is None else resized(edges[index : index + 1].sigmoid(), size)[0]
            probabilities = resized(outputs.logits[index], size).softmax(0)
            embeddings.append(SphereEmbedding(to_sphere(resized(cells, size), dim=0), probabilities, cells, boundary))
        return embeddings

    def features(self, embedding: Embedding) -> Features:
        return Features(embedding.pixels, 3.0 * self.bandwidth, spherical=True)

    def group(self, embedding: Embedding, truth: Truth | None) -> Groups:
        config, semantic = self.config, self.semantics(embedding, truth)
        points = embedding.cells.flatten(1).mT
        if config.decode == "modes":
            modes = find_modes(mean_shift(points, self.bandwidth, config.loops, still=1e-5))
        else:
            # NV begins at random; a fixed first seed lets predictions repeat.
            modes = climb(points, points[farthest_points(points, config.seeds, len(points) // 2)], config.kappa)
        nearest, cosine = nearest_mode(embedding.pixels, modes)
        worth, first = cosine * (1.0 - embedding.probabilities[0]), nearest
        inside = semantic > 0
        if config.decode == "modes":
            labels = gather(modes, nearest.flatten().bincount(minlength=len(modes)), config.threshold)
            # Where object and background meet, embeddings blend, and the classes know better: pixels of a group that is
            # mostly background go to the nearest mode of an object, unless that is a right angle or more away.
            ids, number = labels[nearest], len(modes)
            objects = 2 * ids[inside].bincount(minlength=number) > ids.flatten().bincount(minlength=number)
            nearest = nearest_mode(embedding.pixels, modes * objects[labels].unsqueeze(1))[0]
            ids = torch.where(objects[labels], labels + 1, 0)[nearest]
        else:
            ids = components(modes, config.epsilon)[nearest] + 1
            ids = torch.where(ids == ids.flatten().bincount().argmax(), 0, ids)
        ids = torch.where(inside, ids, 0)
        # The value of a group's seed is that of its pixel nearest to a mode and least like background.
        best = worth.new_zeros(int(ids.max()) + 1).scatter_reduce(0, ids.flatten(), worth.flatten(), "amax")
        return SphereGroups(semantic, ids, None, best[1:].clamp(0.0, 1.0), modes, first, worth)

    def result(self, embedding: Embedding, groups: Groups, instances: Instances, seconds: Seconds) -> Prediction:
        config, found = self.config, None  # made here: proposals are no part of the time that grouping takes
        if isinstance(groups, SphereGroups):
            found = propose(groups.nearest, groups.worth, groups.modes, config.proposal_thresholds, config.min_size)
        return Prediction(instances, groups.semantic.to(torch.uint8), embedding.boundary, seconds, found)


def to_sphere(vectors: Tensor, dim: int = -1) -> Tensor:
    """x / (|x| + 1e-5) along ``dim``, the official L2 layer."""
    return vectors / (torch.linalg.vector_norm(vectors, dim=dim, keepdim=True) + 1e-5)


def at_cells(labels: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) int64 -> (B, *size): the label at the centre of every cell."""
    rows, columns = (
        (2 * torch.arange(cells, device=labels.device) + 1) * side // (2 * cells)
        for cells, side in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows.unsqueeze(1), columns]


def boundaries(semantic: Tensor, instances: Tensor) -> Tensor:
    """(B, H, W) bool: pixels with another class or instance above, below, left or right of them.

    A step to or from void (255) is none: what lies behind it is unknown. Where void bands cover the contours, as in
    VOC, few are left; SBD has them.
    """
    edge = torch.zeros_like(semantic, dtype=torch.bool)
    for labels in (semantic, instances):
        for dim in (1, 2):
            first, second = (slice(None),) * dim + (slice(-1),), (slice(None),) * dim + (slice(1, None),)
            known = (semantic[first] != IGNORE) & (semantic[second] != IGNORE)
            step = (labels[first] != labels[second]) & known
            for start in (0, 1):
                edge.narrow(dim, start, step.shape[dim]).logical_or_(step)
    return edge


def pair_loss(
    points: Tensor, groups: Tensor, *, margin: float, hinge: str = "linear", block: int | None = None
) -> tuple[Tensor, Tensor]:
    """The terms within and between groups, over all ordered pairs of N points, each with itself as well.

    ``points`` (N, D) floating, of length about 1; ``groups`` (N,) int64, every value a group. s = (1 + x_i . x_j) / 2,
    and a point weighs w = 1 / (number of groups * size of its own), so that all pairs' w_i w_j add up to 1.
    ``linear``, the paper's: w_i w_j (1 - s) and w_i w_j [s - margin]+. ``quadratic``: 1 - s^2 and [s - margin]+^2; the
    official layers pass back its gradient (2 s for 1, 2 [s - margin]+ for the step).

    No N x N matrix is alive. Within groups, moments tell everything; between them, every unordered pair is visited once
    in tiles of about ``block`` x ``block``, whose gradient is kept in their place: it can be differentiated once.
    """
    zero = points.sum() * 0.0  # keeps the graph where there is no pixel
    if not len(groups):
        return zero, zero
    groups, order = groups.sort()
    sizes = groups.unique_consecutive(return_counts=True)[1]
    weights = (1.0 / (sizes.to(points.dtype) * len(sizes))).repeat_interleave(sizes).unsqueeze(1)
    points, counts, every = points[order], sizes.tolist(), 1.0 / len(sizes)  # every: weights of all pairs in groups
    positive = every - sum(own.sum(0).square().sum() for own in (points * weights).split(counts))
    if hinge == "linear":
        positive = positive / 2
    else:
        squares = sum((own.mT @ own).square().sum() for own in (points * weights.sqrt()).split(counts))
        positive = positive / 2 + (every - squares) / 4
    block = block or (512 if points.device.type == "cpu" else 1024)  # a tile fits into a core's cache
    return positive + zero, _Between.apply(points, weights, counts, margin, hinge == "quadratic", block) + zero


class _Between(torch.autograd.Function):
    """The second term of `pair_loss` for points (N, D) in the order of their groups, and weights (N, 1)."""

    @staticmethod
    def forward(ctx, points: Tensor, weights: Tensor, counts: list[int], margin: float, quadratic: bool, block: int):
        # 2 [s - a]+ = [x_i . x_j + 1 - 2 a]+. Scaling both points by w, or by sqrt(w) where it is squared, weighs the
        # pair, and one more channel adds the constant: a tile is one product and one clamp.
        scale = weights.sqrt() if quadratic else weights
        scaled = points * scale
        left, right = torch.cat([scaled, scale], 1), torch.cat([scaled, scale * (1.0 - 2.0 * margin)], 1)
        total, gradient, end = points.new_zeros(()), torch.zeros_like(points), 0
        for count in counts[:-1]:
            start, end = end, end + count
            for i in range(start, end, block):
                own = slice(i, min(i + block, end))
                width = max(block * block // (own.stop - i), block)
                for j in range(end, len(points), width):
                    other = slice(j, j + width)
                    tile = torch.mm(left[own], right[other].mT).relu_()
                    total += torch.dot(tile.view(-1), tile.view(-1)) / 2 if quadratic else tile.sum()
                    if ctx.needs_input_grad[0]:
                        slope = tile if quadratic else tile.sign_()
                        gradient[own].addmm_(slope, scaled[other])
                        gradient[other].addmm_(slope.mT, scaled[own])
        ctx.save_for_backward(gradient.mul_(scale))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return upstream * ctx.saved_tensors[0], None, None, None, None, None


def mean_loss(
    points: Tensor, labels: Tensor, alpha: float = 0.02, delta: float = 0.5, weight: float = 10.0
) -> tuple[Tensor, Tensor]:
    """NV's terms within and between clusters, with d = (1 - cos) / 2 and the clusters' normalised means.

    ``points`` (N, D) floating unit vectors, ``labels`` (N,) int64 in 0..K - 1. Within: the mean over clusters of the
    sum of d^2 to the mean, over max(50, number with d > ``alpha``); 0 where no pixel has that. Between: the sum over
    ordered pairs of means of [``delta`` - d]+^2, over K (K - 1) / 2. Both times ``weight``.
    """
    zero = points.sum() * 0.0
    if not len(labels):
        return zero, zero
    count = int(labels.max()) + 1
    means = points.new_zeros(count, points.shape[1]).index_add(0, labels, points)
    means = nn.functional.normalize(means, dim=1)
    distance = (1.0 - (points * means.index_select(0, labels)).sum(1)) / 2  # indexing: unrepeatable, docs/trust.md
    far = torch.bincount(labels[distance > alpha], minlength=count)
    intra = (distance.square() / far.clamp(min=50)[labels]).sum() / count * far.any()
    first, second = torch.triu_indices(count, count, 1, device=points.device)
    apart = (1.0 - (means.index_select(0, first) * means.index_select(0, second)).sum(1)) / 2
    inter = 2.0 * (delta - apart).clamp(min=0.0).square().sum() / max(count * (count - 1) / 2, 1)
    return weight * intra + zero, weight * inter + zero


def mean_shift(
    points: Tensor, bandwidth: float, loops: int, gradient: str = "exact", still: float | None = None
) -> Tensor:
    """Blurring mean shift on the sphere: all points at once go to the mean of all, weighted by a kernel, normalised.

    ``points`` (..., N, D) floating; the kernel is exp((x_i . x_j - 1) / bandwidth^2). That is attention of the points
    to themselves, in memory of order N. ``gradient`` "official" has the official arithmetic and backward pass, in
    N x N; of the 1e-6 that it adds to the kernel's sums, 1e-11 survives normalisation. With ``still``, the loops end
    where no coordinate moves further.
    """
    for _ in range(loops):
        before = points
        if gradient == "official":
            # Its backward pass of S = X X^T is 2 dS^T X, not (dS + dS^T) X: one factor takes part, twice.
            product = points.detach() @ (2.0 * points - points.detach()).mT
            kernel = torch.exp((product - 1.0) / bandwidth**2)
            points = (kernel / (kernel.sum(-2, keepdim=True) + 1e-6 + 1e-7)).mT @ points
        else:
            # Without four dimensions and a multiple of 8 channels, a GPU makes an N x N matrix after all.
            heads = nn.functional.pad(points.reshape(-1, 1, *points.shape[-2:]), (0, -points.shape[-1] % 8))
            heads = heads.contiguous()
            heads = nn.functional.scaled_dot_product_attention(heads, heads, heads, scale=bandwidth**-2)
            points = heads[..., : points.shape[-1]].reshape(before.shape)
        points = to_sphere(points)
        if still is not None and (points - before).abs().max() <= still:
            break
    return points


def find_modes(points: Tensor, similar: float = 0.999) -> Tensor:
    """Where shifted points (N, D) have met: the means (M, D) of those with a cosine >= ``similar``, at most `_MOST`.

    In the order of the points: the first that is left takes what is near it. Where they are more, as without any loop,
    it begins anew, and twice the distance is near.
    """
    means, left = [], points
    while len(left) and len(means) < _MOST:
        near = left @ left[0] >= similar
        near[0] = True
        means.append(left[near].mean(0))
        left = left[~near]
    return find_modes(points, 4.0 * similar - 3.0) if len(left) and similar > -1 else to_sphere(torch.stack(means))


def gather(modes: Tensor, sizes: Tensor, threshold: float) -> Tensor:
    """(M,) int64 groups 0..G - 1: the largest mode that is left takes all left with a cosine >= ``threshold``."""
    near = (modes @ modes.mT >= threshold).cpu().fill_diagonal_(True)
    labels, count = torch.full((len(modes),), -1), 0
    for index in sizes.argsort(descending=True, stable=True).tolist():
        if labels[index] < 0:
            labels[near[index] & (labels < 0)] = count
            count += 1
    return labels.to(modes.device)


def nearest_mode(pixels: Tensor, modes: Tensor) -> tuple[Tensor, Tensor]:
    """(H, W) int64 the mode (M, D) with the largest cosine to each of the pixels (D, H, W), and (H, W) that cosine."""
    parts = [(modes @ part).max(0) for part in pixels.flatten(1).split(max(2**22 // len(modes), 1), dim=1)]
    cosine, nearest = (torch.cat(found).view(pixels.shape[1:]) for found in zip(*parts, strict=True))
    return nearest, cosine


def propose(
    nearest: Tensor, worth: Tensor, modes: Tensor, thresholds: Sequence[float], min_size: int = 0, overlap: float = 0.9
) -> Instances:
    """Class-agnostic proposals: what `gather` makes of the modes (M, D) at every threshold.

    ``nearest`` (H, W) int64 and ``worth`` (H, W), a pixel's cosine to its mode times its probability of being in an
    object: the mean over its pixels is a proposal's score, whatever the config's scorer, which ranks named instances.
    Of two with an IoU above ``overlap`` the better one stays.
    """
    sizes = nearest.flatten().bincount(minlength=len(modes))
    total = worth.new_zeros(len(modes)).index_add_(0, nearest.flatten(), worth.flatten())
    # A proposal is a set of modes, so its area and intersections need no pixels.
    member = torch.cat([nn.functional.one_hot(gather(modes, sizes, t)).mT for t in thresholds]).to(worth.dtype)
    areas, both = member @ sizes.to(worth.dtype), (member * sizes) @ member.mT
    scores = (member @ total) / areas.clamp(min=1.0)
    clash = (both > overlap * (areas.unsqueeze(1) + areas - both)).cpu()
    left, kept = (areas >= max(min_size, 1)).cpu(), []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if left[index] and len(kept) < _MOST:
            kept.append(index)
            left &= ~clash[index]
    labels = torch.zeros(len(kept), dtype=torch.int64, device=worth.device)
    return Instances(member[kept].bool()[:, nearest], labels, scores[kept].float().clamp(0.0, 1.0))


def farthest_points(points: Tensor, count: int, first: int) -> Tensor:
    """(count,) int64: NV's seeds among unit vectors (N, D), from ``first`` on each the furthest from all before it."""
    chosen = [torch.tensor(first, device=points.device)]
    distance = 0.5 * (1.0 - points @ points[first])
    while len(chosen) < count:
        chosen.append(distance.argmax())
        distance = torch.minimum(distance, 0.5 * (1.0 - points @ points[chosen[-1]]))
    return torch.stack(chosen)


def climb(points: Tensor, modes: Tensor, kappa: float, steps: int = 10) -> Tensor:
    """NV's hill climbing: modes (M, D) go to the mean of the points (N, D), which stay, weighted by exp(kappa cos)."""
    for _ in range(steps):
        modes = nn.functional.normalize((kappa * (modes @ points.mT)).softmax(1) @ points, dim=1)
    return modes


def components(modes: Tensor, epsilon: float) -> Tensor:
    """(M,) int64: in order, a mode (M, D) without a label and all within ``epsilon`` = (1 - cos) / 2 of it get one.

    It is the commonest, the lowest of equals, that some of them have already, or else a new one (NV).
    """
    near = (0.5 * (1.0 - modes @ modes.mT) <= epsilon).cpu().fill_diagonal_(True)
    labels, count = torch.full((len(modes),), -1), 0
    for index in range(len(modes)):
        if labels[index] < 0:
            known = labels[near[index] & (labels >= 0)]
            labels[near[index]] = known.mode().values if len(known) else count
            count += not len(known)
    return labels.to(modes.device)
