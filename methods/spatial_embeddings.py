"""Spatial embeddings (Neven, De Brabandere, Proesmans, Van Gool; CVPR 2019).

Every pixel gets an offset, a bandwidth and, for each class, a seed score. Pixel + offset is its embedding. Those of an
instance gather around its centre, within a margin that its own bandwidth sets, because the loss optimises the mask's
IoU. At test time the Gaussian of the best seed cuts out one instance after the other.

"Official" is davyneven/SpatialEmbeddings at 39ea249. The defaults are those of the released model (56.4 AP, cars).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.base import IGNORE, Batch, Embedding, Features, Groups, Truth, setting
from methods.erfnet import BranchedERFNet
from methods.grouping import GroupingConfig, PixelGrouping, dense_network, resized
from methods.scoring import SCORERS

_MOST = 1000  # instances of an image, over all classes
_TILE = 16  # pixels; side of the squares that `cluster` looks at as a whole


@dataclass(frozen=True)
class SpatialEmbeddingsConfig(GroupingConfig):
    network: str = setting(
        "erfnet",
        "branched ERFNet, which has no use for the encoder's and decoder's settings; dense: these two, with the same "
        "first outputs",
        source="paper; official BranchedERFNet",
        choices=("erfnet", "dense"),
    )
    sigma: str = setting(
        "circular",
        "one bandwidth, one for each axis, or a constant; official circular, the paper's best is elliptical",
        source="paper; official n_sigma",
        choices=("circular", "elliptical", "fixed"),
    )
    fixed_margin: float = setting(20.0, "margin of sigma = fixed, in pixels; the paper's is unknown", source="ours")
    centre: str = setting(
        "centroid",
        "mean coordinate of the instance (official), or mean embedding (learnable, the paper's best)",
        source="paper; official to_center",
        choices=("centroid", "learnable"),
    )
    unit: int = setting(
        1023,
        "pixels to 1 in the embedding; an offset reaches that far, and the first margin is 0.0056 of it",
        source="official grid of 2048 x 1024",
    )
    instance_weight: float = setting(1.0, "weight of the Lovasz hinge", source="official w_inst")
    variance_weight: float = setting(10.0, "weight of the bandwidth's variance", source="official w_var")
    seed_weight: float = setting(1.0, "weight of the seed regression", source="official w_seed")
    foreground_weight: tuple[float, ...] = setting(
        (10.0,),
        "weight of a class's own pixels in its seed map; one for all, or one for each class (formula never released)",
        source="official, cars",
    )
    threshold: float = setting(0.9, "a seed's lowest score", source="official test.py", stage="predict")
    foreground: float = setting(0.5, "pixels above this seed score are grouped", source="official", stage="predict")
    min_pixels: int = setting(
        128, "an instance, and what is left to group, has more pixels than this", source="official", stage="predict"
    )
    min_fraction: float = setting(
        0.0,
        "if above 0, replaces min_pixels: share of the image's area; 128 pixels of 2048 x 1024 are 6.1e-5",
        source="ours",
        stage="predict",
    )
    min_unclustered: float = setting(
        0.5, "an instance has more than this share of pixels that were free", source="official", stage="predict"
    )
    overlap: str = setting(
        "proposals",
        "masks are whole proposals, which may overlap (what is evaluated), or a map in which the later one wins",
        source="official test.py; Cluster",
        stage="predict",
        choices=("proposals", "map"),
    )
    scorer: str = setting("seed", "how a group is scored", source="official test.py", stage="predict", choices=SCORERS)
    oracle: str = setting(
        "none",
        "the stage that ground truth replaces; seeds: centre and bandwidth are means over the true masks",
        source="official cluster_with_gt",
        stage="predict",
        choices=("none", "semantic", "seeds"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit <= 0 or self.fixed_margin <= 0:
            raise ValueError(f"unit and fixed_margin must be positive, not {self.unit} and {self.fixed_margin}")
        if self.min_pixels < 0:
            raise ValueError(f"min_pixels must not be negative, not {self.min_pixels}")
        for name in ("threshold", "foreground", "min_unclustered", "min_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, not {getattr(self, name)}")
        if self.oracle == "seeds" and self.regroup != "own":
            raise ValueError(
                f"oracle = seeds is a stage of this method's own grouping, not of regroup = {self.regroup}"
            )


class SpatialEmbeddings(PixelGrouping):
    """Spatial embeddings as a plugin."""

    name = "spatial_embeddings"
    paper = "Spatial Embeddings (Neven et al. 2019)"
    Config = SpatialEmbeddingsConfig

    def __init__(self, config: SpatialEmbeddingsConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        if len(config.foreground_weight) not in (1, num_classes):
            raise ValueError(f"foreground_weight needs 1 or {num_classes} values, not {len(config.foreground_weight)}")
        self.bandwidths = {"fixed": 0, "circular": 1, "elliptical": 2}[config.sigma]
        branches = [2 + self.bandwidths, num_classes]
        if config.network == "erfnet":
            self.network = BranchedERFNet(branches, config.input_scale)
            last = self.network.decoders[0][-1]
        else:
            self.network = dense_network(config, sum(branches))
            last = self.network.model.segmentation_head[0]
        start_from_margin(last, self.bandwidths)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> embeddings (B, 2, H, W) as x, y; bandwidths (B, 1 or 2, H, W); seed logits (B, C, H, W)."""
        output = self.network(images)
        offsets, sigmas, seeds = output.split([2, self.bandwidths, self.num_classes], dim=1)
        if self.config.sigma == "fixed":
            sigmas = torch.full_like(offsets[:, :1], margin_to_sigma(self.config.fixed_margin / self.config.unit))
        return pixel_grid(output, self.config.unit) + offsets.tanh(), sigmas, seeds

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        embeddings, sigmas, seeds = self(batch.images)
        config = self.config
        instance, variance, seed = spatial_loss(
            embeddings,
            sigmas,
            seeds,
            batch.semantic,
            batch.instances,
            grid=pixel_grid(embeddings, config.unit) if config.centre == "centroid" else None,
            foreground_weight=config.foreground_weight,
        )
        return {
            "instance": config.instance_weight * instance,
            "variance": config.variance_weight * variance,
            "seed": config.seed_weight * seed,
        }

    def embed(self, images: Tensor, sizes: Tensor) -> list[Embedding]:
        # An embedding is a place in the network's image, so that its resizing needs no other coordinates.
        outputs = torch.cat(self(images), dim=1)
        embeddings = []
        for output, size in zip(outputs, sizes.tolist(), strict=True):
            pixels, seeds = resized(output, size).split([len(output) - self.num_classes, self.num_classes])
            # One-vs-all scores have no background; the complement makes a class win where its score is above a half.
            seeds = seeds.sigmoid()
            embeddings.append(Embedding(pixels, torch.cat([1.0 - seeds.amax(0, keepdim=True), seeds])))
        return embeddings

    def features(self, embedding: Embedding) -> Features:
        return Features(embedding.pixels[:2], self.config.fixed_margin / self.config.unit)

    def group(self, embedding: Embedding, truth: Truth | None) -> Groups:
        config, size = self.config, embedding.pixels.shape[1:]
        semantic = self.semantics(embedding, truth)
        places, sigmas = embedding.pixels[:2], embedding.pixels[2:]
        found, labels = [], []
        for label, seeds in enumerate(embedding.probabilities[1:], 1):
            if config.oracle == "seeds":
                own = torch.where(self.required(truth).semantic == label, truth.instances, 0)
                proposals = cluster_with_truth(places, sigmas, seeds, own)
            else:
                proposals = cluster(
                    places,
                    sigmas,
                    seeds,
                    allowed=semantic == label if config.oracle == "semantic" else None,
                    threshold=config.threshold,
                    foreground=config.foreground,
                    min_pixels=config.min_fraction * size.numel() or config.min_pixels,
                    min_unclustered=config.min_unclustered,
                )
            found += proposals
            labels += [label] * len(proposals)
        return proposal_groups(found, labels, semantic, overlapping=config.overlap == "proposals")


def start_from_margin(layer: nn.Module, bandwidths: int) -> None:
    """Make a (transposed) convolution's first 2 outputs, the offsets, 0 and the ``bandwidths`` after them 1."""
    weight = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
    with torch.no_grad():
        weight[: 2 + bandwidths] = 0.0
        layer.bias[:2] = 0.0
        layer.bias[2 : 2 + bandwidths] = 1.0


def margin_to_sigma(margin: float) -> float:
    """The bandwidth, log(1 / (2 sigma^2)) / 10, whose Gaussian is a half at the distance ``margin`` (in units)."""
    return math.log(math.log(2.0) / margin**2) / 10.0


def pixel_grid(image: Tensor, unit: int = 1023) -> Tensor:
    """(2, H, W) coordinates x, y of the pixels of an image (..., H, W), of its dtype.

    Official: x = linspace(0, 2, 2048), y = linspace(0, 1, 1024), cropped at the origin whatever the image: a pixel is
    2/2047 wide and 1/1023 high. Beyond 2048 x 1024, where official fails, the grid goes on with the same pitch. For
    another ``unit`` the grid has 2 unit + 2 by unit + 1 points.
    """

    def axis(count: int, length: int) -> Tensor:
        points = length * (unit + 1)
        end = max(count, points)
        stop = length * (end - 1) / (points - 1)
        return torch.linspace(0.0, stop, end, dtype=image.dtype, device=image.device)[:count]

    height, width = image.shape[-2:]
    return torch.stack([axis(width, 2).expand(height, width), axis(height, 1).view(-1, 1).expand(height, width)])


def gaussian(places: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """phi = exp(-sum_d (e_d - C_d)^2 s_d), (...); ``places`` (D, ...), ``centre`` (D, ...), ``scale`` (1 or D, ...).

    ``scale`` is 1 / (2 sigma^2) = exp(10 times the network's output); with one, it is for all axes; D is 2.
    """
    return torch.exp(-((places - centre).square() * scale).sum(0))


def lovasz_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovasz hinge of one binary mask (Berman et al. 2018), a scalar; ``logits`` (P,) floating, ``labels`` (P,) bool.

    The errors 1 - logit * sign, largest first and at least 0, times how much each, when it is counted as wrong too,
    adds to the Jaccard loss. No pixel: 0.
    """
    errors = torch.where(labels, 1.0 - logits, 1.0 + logits).relu()
    with torch.no_grad():
        order = errors.argsort(descending=True, stable=True)
        true = labels[order].to(errors.dtype)
        loss = 1.0 - (true.sum() - true.cumsum(0)) / (true.sum() + (1.0 - true).cumsum(0))
        steps = loss.diff(prepend=loss.new_zeros(1))
        weights = torch.empty_like(steps).scatter_(0, order, steps)
    return (errors * weights).sum()


def spatial_loss(
    embeddings: Tensor,
    sigmas: Tensor,
    seeds: Tensor,
    semantic: Tensor,
    instances: Tensor,
    *,
    grid: Tensor | None,
    foreground_weight: tuple[float, ...] = (10.0,),
) -> tuple[Tensor, Tensor, Tensor]:
    """Instance, variance and seed terms (official SpatialEmbLoss), unweighted, averaged over the batch.

    ``embeddings`` (B, 2, H, W), ``sigmas`` (B, 1 or 2, H, W), ``seeds`` (B, C, H, W) logits, floating; ``semantic``
    (B, H, W) int64, 0 background, 255 ignore; ``instances`` (B, H, W) int64, 0 none. An instance's centre is the mean
    of ``grid`` (2, H, W) over its pixels, or of its embeddings where ``grid`` is None; its scale exp(10 mean sigma).
    The first two terms are means over an image's instances (of all classes: official has one class):

    - the Lovasz hinge of 2 phi - 1 against the mask, all other pixels of the image being negatives;
    - the variance of sigma around its mean, which gets no gradient.

    The third is the mean over pixels of the summed classes: (seed - phi)^2, phi without gradient, on the class's
    instances, times ``foreground_weight``; seed^2 where the pixel is of another class or background. Pixels that are
    ignored, or of the class without an instance, have no part in it.
    """
    images, classes, height, width = seeds.shape
    area = height * width
    probability = seeds.sigmoid()
    numbers = torch.arange(1, classes + 1, device=seeds.device).view(-1, 1, 1)
    weight = ((semantic.unsqueeze(1) != numbers) & (semantic.unsqueeze(1) != IGNORE)).to(seeds.dtype).contiguous()
    target = torch.zeros(seeds.shape, dtype=seeds.dtype, device=seeds.device)

    # Number the instances of the batch in the order (image, class, id); `index` is that of each of their pixels.
    pixel = ((instances > 0) & (semantic > 0) & (semantic != IGNORE)).flatten().nonzero()[:, 0]
    image, label = pixel // area, semantic.flatten()[pixel]
    ids = int(instances.max()) + 1
    key = (image * (classes + 1) + label) * ids + instances.flatten()[pixel]
    counts = torch.bincount(key)
    present = counts.nonzero()[:, 0]
    index = ((counts > 0).cumsum(0) - 1)[key]
    sizes, home = counts[present], present // ids // (classes + 1)
    if not len(sizes):
        return embeddings.sum() * 0.0, sigmas.sum() * 0.0, (weight * probability.square()).sum() / (area * images)

    def mean(values: Tensor) -> Tensor:  # (D, pixels) -> (D, instances); float32 is too coarse for 10^5 coordinates
        total = torch.zeros(len(values), len(sizes), dtype=torch.float64, device=values.device)
        return (total.scatter_add(1, index.expand_as(values), values.double()) / sizes).to(values.dtype)

    flat = embeddings.transpose(0, 1).flatten(1)  # (2, B * H * W)
    places = _take(flat, pixel)
    own_sigmas = _take(sigmas.transpose(0, 1).flatten(1), pixel)
    centres = mean(places if grid is None else _take(grid.flatten(1), pixel % area))
    means = mean(own_sigmas)
    variances = mean((own_sigmas - means.detach()[:, index]).square()).mean(0)
    scales = torch.exp(10.0 * means)
    with torch.no_grad():
        own = gaussian(places, centres[:, index], scales[:, index])
        where = (image * classes + label - 1) * area + pixel % area
        target.view(-1)[where] = own
        weight.view(-1)[where] = weight.new_tensor(foreground_weight).expand(classes)[label - 1]
        # Once all of an instance's own pixels count as wrong, the Jaccard loss is 1 and further errors add nothing. So
        # negatives with phi below 1 - max own phi are left out: nothing changes, and few pixels are sorted. Where that
        # bound is 0, those below the precision are: the steps sum to 1, so that they would add no more than that.
        peaks = own.new_zeros(len(sizes)).scatter_reduce(0, index, own, "amax")
        bound = 0.99 * (1.0 - peaks).clamp(min=torch.finfo(own.dtype).eps)
        reach = torch.sqrt(-bound.log() / scales)
        owner = torch.full_like(instances, -1).flatten().scatter_(0, pixel, index).view(images, area)
        near = []
        for k, b in enumerate(home.tolist()):
            inside = (embeddings[b].flatten(1) - centres[:, [k]]).abs_() <= reach[:, [k]]
            near.append((inside[0] & inside[1] | (owner[b] == k)).nonzero()[:, 0] + b * area)
        chosen = torch.cat(near)
        lengths = [len(part) for part in near]
    parts, owners = _take(flat, chosen).split(lengths, dim=1), owner.flatten()[chosen].split(lengths)
    hinges = [
        lovasz_hinge(2.0 * gaussian(part, centres[:, [k]], scales[:, [k]]) - 1.0, whose == k)
        for k, (part, whose) in enumerate(zip(parts, owners, strict=True))
    ]
    # An instance's share in the mean over its image, and over the batch.
    share = 1.0 / (home.bincount()[home] * images).to(seeds.dtype)
    seed = (weight * (probability - target).square()).sum() / (area * images)
    return (torch.stack(hinges) * share).sum(), (variances * share).sum(), seed


def _take(values: Tensor, index: Tensor) -> Tensor:
    """(D, P)[:, index]; its backward is much faster than that of indexing."""
    return values.gather(1, index.expand(len(values), -1))


@dataclass(frozen=True)
class Proposal:
    """The pixels that one seed's Gaussian holds."""

    pixels: Tensor  # (P,) int64 flat indices, in no order
    score: float  # the seed's


def cluster(
    places: Tensor,
    sigmas: Tensor,
    seeds: Tensor,
    *,
    allowed: Tensor | None = None,
    threshold: float = 0.9,
    foreground: float = 0.5,
    min_pixels: float = 128,
    min_unclustered: float = 0.5,
    most: int = 1000,
) -> list[Proposal]:
    """Sequential clustering (official Cluster.cluster) of one class, best seed first.

    ``places`` (D, H, W) embeddings, ``sigmas`` (1 or D, H, W), ``seeds`` (H, W) scores in [0, 1]. Grouped are the
    pixels above ``foreground`` (of ``allowed`` (H, W) bool, where given). While more than ``min_pixels`` of them are
    free: the free pixel of the highest score, the first of equals, is the seed, if it has ``threshold``; the proposal
    is all pixels, free or not, with phi > 1/2 around it, its own sigma giving the scale; it is kept if it has more than
    ``min_pixels`` and more than the share ``min_unclustered`` of it was free, not counting the seed. Its pixels are no
    longer free, kept or not. At most ``most`` proposals, the best ones (official: 255, where its numbers overflow).

    The decisions are those of the plain loop over all pixels. It is fast because a proposal looks only at the tiles of
    the image that have an embedding in its reach.
    """
    wanted = seeds > foreground if allowed is None else (seeds > foreground) & allowed
    down, right = _tiles(wanted).any(3).any(2).nonzero(as_tuple=True)
    used, free, *both = (_tiles(values)[down, right].flatten(1) for values in (wanted, seeds, *places))
    left = int(used.sum())
    if left <= min_pixels:
        return []
    # Flat index of each tile's first pixel, and what to add for the others.
    corner, side = (down * seeds.shape[1] + right) * _TILE, torch.arange(_TILE, device=seeds.device)
    inner = (side.view(-1, 1) * seeds.shape[1] + side).flatten()
    free = free.masked_fill_(~used, 0.0)  # the score, or 0 where the pixel is taken
    best = free.amax(1)
    points, flat_sigmas = torch.stack(both), sigmas.flatten(1)
    low, high = points.masked_fill(~used, math.inf).amin(2), points.masked_fill(~used, -math.inf).amax(2)
    found: list[Proposal] = []
    while left > min_pixels and len(found) < most:
        score = best.max()
        value = score.item()
        if value < threshold:
            break
        rows = (best == score).nonzero()[:, 0]
        tile, place = (free[rows] == score).nonzero(as_tuple=True)
        first = (corner[rows[tile]] + inner[place]).argmin()
        tile, place = rows[tile[first]], place[first]
        centre = points[:, tile, place].view(-1, 1, 1)
        scale = torch.exp(10.0 * flat_sigmas[:, corner[tile] + inner[place]]).view(-1, 1, 1)
        free[tile, place] = 0.0
        # phi > 1/2 needs d^2 s < ln 2 = 0.693 on each axis. Rounding is monotonic: where the distance to the box of a
        # tile's embeddings is beyond that of 0.7, so is that to each of them. The seed's own tile is always looked at.
        reach = torch.sqrt(0.7 / scale)[..., 0]
        close = ((low - centre[..., 0] <= reach) & (centre[..., 0] - high <= reach)).all(0)
        close[tile] = True
        rows = close.nonzero()[:, 0]
        held = (gaussian(points[:, rows], centre, scale) > 0.5) & used[rows]
        scores = free[rows]
        size, fresh = torch.stack([held.sum(), (held & (scores > 0)).sum()]).tolist()
        if size > min_pixels and fresh / size > min_unclustered:
            tile, place = held.nonzero(as_tuple=True)
            found.append(Proposal(corner[rows[tile]] + inner[place], value))
        scores = scores.masked_fill_(held, 0.0)
        free[rows], best[rows] = scores, scores.amax(1)
        left -= fresh + 1
    return found


def _tiles(values: Tensor) -> Tensor:
    """(H, W) -> a view (rows, columns, _TILE, _TILE), padded with zeros on the right and below."""
    values = nn.functional.pad(values, (0, -values.shape[1] % _TILE, 0, -values.shape[0] % _TILE))
    return values.view(values.shape[0] // _TILE, _TILE, -1, _TILE).transpose(1, 2)


def cluster_with_truth(places: Tensor, sigmas: Tensor, seeds: Tensor, instances: Tensor) -> list[Proposal]:
    """A proposal for every true instance, ids ascending (official cluster_with_gt): all pixels with phi > 1/2.

    Shapes as `cluster`; ``instances`` (H, W) int64, 0 none. Centre and scale are means of the embedding and of sigma
    over the true mask; the score, where official has none, is the mean seed.
    """
    found = []
    for number in instances[instances > 0].unique():
        mask = instances == number
        centre = places[:, mask].mean(1).view(2, 1, 1)
        scale = torch.exp(10.0 * sigmas[:, mask].mean(1)).view(-1, 1, 1)
        held = gaussian(places, centre, scale) > 0.5
        found.append(Proposal(held.flatten().nonzero()[:, 0], seeds[mask].mean().item()))
    return found


def proposal_groups(found: list[Proposal], labels: list[int], semantic: Tensor, *, overlapping: bool = True) -> Groups:
    """An image's groups: the `masks_of` the proposals, of classes ``labels``, and their scores as confidence.

    Of more than 1000 the best stay, the first of equals: an untrained network makes thousands, and masks are dense.
    """
    if len(found) > _MOST:
        kept = sorted(sorted(range(len(found)), key=lambda index: -found[index].score)[:_MOST])
        found, labels = [found[index] for index in kept], [labels[index] for index in kept]
    masks = masks_of(found, semantic, overlapping=overlapping)
    confidence = torch.tensor([proposal.score for proposal in found], device=masks.device)
    return Groups(semantic, masks, torch.tensor(labels, dtype=torch.int64, device=masks.device), confidence)


def masks_of(proposals: list[Proposal], image: Tensor, *, overlapping: bool = True) -> Tensor:
    """(N, H, W) bool, the whole proposals in an image (H, W); or (H, W) int64, the last proposal 1..N at each pixel."""
    shape = (len(proposals), *image.shape) if overlapping else image.shape
    masks = torch.zeros(shape, dtype=torch.bool if overlapping else torch.int64, device=image.device)
    for number, proposal in enumerate(proposals):
        plane = masks[number] if overlapping else masks
        plane.view(-1)[proposal.pixels] = True if overlapping else number + 1
    return masks
