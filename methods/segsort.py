"""SegSort (Hwang et al., ICCV 2019, arXiv 1910.06962): segmentation by sorting segments.

A network gives every pixel a unit vector. Spherical k-means splits an image into segments; the loss draws a pixel to
segments of its class and away from all others; a test segment takes the vote of the training segments nearest to it.
Where the official TensorFlow code and its PyTorch successor (SPML, Ke et al., ICLR 2021) differ, a setting chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from methods.backbones import DECODERS
from methods.base import (
    IGNORE,
    Batch,
    Embedding,
    Features,
    Groups,
    Instances,
    MethodError,
    Prediction,
    Retrieval,
    Seconds,
    Truth,
    setting,
)
from methods.grouping import GroupingConfig, PixelGrouping, balanced_cross_entropy, dense_network, resized

HEADS = ("segments", "softmax")
SUPERVISIONS = ("labels", "segments")
STARTS = ("blocks", "centres")
LOCATIONS = ("corner", "centred")
EMPTY = ("never", "attract")
FORMS = ("nca", "vmf")


@dataclass(frozen=True)
class SegSortConfig(GroupingConfig):
    """The method as its models were released; whether the paper's tables come from form nca or vmf is unknown.

    Its relatives are these settings:
    - SPML's clustering and losses: grid=6 start=centres location=centred empty=attract dimension=64 concentration=6
      banks=2 neighbours=20, form=vmf (its `segsort`) or nca (its `segsort+`);
    - without labels: supervision=segments neighbours=15, with the regions that the data bring (the paper has
      HED-owt-ucm's: option `regions` of voc), else Felzenszwalb's;
    - the softmax baseline on the same network: head=softmax.
    """

    encoder: str = setting("resnet101", "timm name of the encoder", source="official code")
    decoder: str = setting("PSPNet", "segmentation-models-pytorch decoder", source="official code", choices=DECODERS)
    decoder_channels: int = setting(512, "width of the decoder", source="official code")
    head: str = setting("segments", "segment sorting, or its baseline", source="paper", choices=HEADS)
    supervision: str = setting("labels", "clusters by class, or image regions", source="paper", choices=SUPERVISIONS)
    dimension: int = setting(32, "D, embedding channels", source="official code")
    stride: int = setting(8, "the loss sees every stride-th row and column", source="official code")
    grid: int = setting(5, "k-means starts from grid x grid cells", source="paper: 25 clusters are best")
    iterations: int = setting(10, "rounds of k-means", source="official code")
    start: str = setting(
        "blocks", "first cells: equal, or around grid points (SPML)", source="official code", choices=STARTS
    )
    location: str = setting(
        "corner", "coordinates from 0 to 1, or from -1/2 to 1/2 (SPML)", source="official code", choices=LOCATIONS
    )
    empty: str = setting(
        "never", "empty clusters stay so, or have similarity 0 to all (SPML)", source="official code", choices=EMPTY
    )
    concentration: float = setting(10.0, "kappa of the von Mises-Fisher distributions", source="official code")
    form: str = setting(
        "nca", "nca, as the released models; vmf, as the paper's text", source="official code", choices=FORMS
    )
    detach: bool = setting(False, "no gradient through prototypes; both codes let it through", source="ours")
    banks: int = setting(2, "last batches whose prototypes join the loss with labels", source="official code")
    region_size: int = setting(
        100, "scale and smallest size in pixels of Felzenszwalb's regions, where the data bring none", source="ours"
    )
    neighbours: int = setting(
        21, "k, training segments that vote; 15 in the small recipe", source="official code", stage="predict"
    )
    scales: tuple[float, ...] = setting(
        (1.0,), "image sizes whose votes add up; the code's: .5 to 1.75 by .25", source="official code", stage="predict"
    )
    flip: bool = setting(False, "add the mirrored image's votes", source="official code", stage="predict")
    contours: bool = setting(
        False, "predict the contours between segments as boundaries", source="ours", stage="predict"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("dimension", "stride", "grid", "iterations", "banks", "region_size", "neighbours", "concentration"):
            value = getattr(self, key)
            if value < 0 or (value == 0 and key not in ("iterations", "banks")):
                raise ValueError(f"{key} must be positive{', or 0' * (key in ('iterations', 'banks'))}, not {value}")
        if self.head == "softmax" and self.supervision == "segments":
            raise ValueError("head = softmax needs labels: supervision = segments is for head = segments")
        if self.head == "softmax" and self.contours:
            raise ValueError("head = softmax has no segments: contours is for head = segments")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be positive numbers, not {list(self.scales)}")


@dataclass(frozen=True)
class Views(Embedding):
    """Unit embeddings; once they are `named`, ``probabilities`` are each class's part of the votes."""

    views: tuple[tuple[Tensor, bool], ...] = ()  # (D, h, w) of every size, and whether mirrored
    own: int = 0  # the view of the image's own size, which ``pixels`` are of
    segments: Tensor | None = None  # (H, W) int64 of that view
    retrieval: Retrieval | None = None  # None without a bank


@dataclass(frozen=True)
class Prototypes:
    """Segments by their mean directions."""

    directions: Tensor  # (S, D) floating, unit
    classes: Tensor  # (S,) int64
    origin: Tensor  # (S,) int64: in the bank the training image's number, in the memory how many steps ago


class SegSort(PixelGrouping):
    """SegSort as a plugin. Until `prepare` has filled its bank everything is background.

    Ours, because a `Batch` does not know a pixel's place before augmentation: grid and coordinates are those of the
    training crop, not of the original image, and every ``stride``-th of the full ones in SPML's forms too. The image is
    seen whole where the official scripts average crops of 480. The memory starts empty, theirs with two batches of
    noise of class 0. The instances are connected pieces of a class; the paper has none.
    """

    name = "segsort"
    paper = "SegSort (Hwang et al. 2019)"
    Config = SegSortConfig

    def __init__(self, config: SegSortConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels = num_classes + 1 if config.head == "softmax" else config.dimension
        self.network = dense_network(config, channels)
        nothing = Prototypes(torch.zeros(0, config.dimension), *torch.zeros(2, 0, dtype=torch.int64))
        if config.contours:
            self.tasks = self.tasks | {"boundary"}
        self._keep("bank", nothing)  # of the training images, for prediction
        self._keep("memory", nothing)  # of the last batches, for the loss

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        config, step = self.config, self.config.stride
        output = self.network(batch.images)[..., ::step, ::step]  # what nearest resizing to 1/stride takes
        semantic = batch.semantic[..., ::step, ::step]
        if config.head == "softmax":
            return {"semantic": balanced_cross_entropy(output, semantic, 0.0)}
        with torch.autocast(output.device.type, enabled=False):  # half precision would blur the clusters' borders
            pixels = unit(output, dim=1)
            if config.supervision == "segments":
                regions = batch.regions
                if regions is None:
                    regions = oversegment(batch.images, config.region_size)
                return {"segments": region_loss(pixels, regions[..., ::step, ::step], config.concentration)}
            return {"segments": self._sorting_loss(pixels, semantic, batch.images.shape[-2:])}

    def _sorting_loss(self, pixels: Tensor, semantic: Tensor, size: Sequence[int]) -> Tensor:
        config, count, judged = self.config, self.config.grid**2, semantic != IGNORE
        images = enumerate(zip(pixels.detach(), judged, strict=True))
        clusters = [number * count + self._clusters(*image, size, config.stride) for number, image in images]
        embeddings = pixels.movedim(1, -1)[judged]
        segments, classes = split_by_class(torch.cat(clusters), semantic[judged])
        own = mean_directions(embeddings, segments, len(classes))
        memory = self._kept("memory")
        rows = torch.cat([own.detach() if config.detach else own, memory.directions])
        row_classes = torch.cat([classes, memory.classes])
        loss = segment_sorting_loss(embeddings, segments, rows, row_classes, config.concentration, config.form)
        if self.training:
            self._keep("memory", remember(memory, own.detach(), classes, config.banks, count * len(pixels)))
        return loss

    def _clusters(self, pixels: Tensor, judged: Tensor, size: Sequence[int], step: int = 1) -> Tensor:
        """(P,) clusters of the ``judged`` (h, w) of unit ``pixels`` (D, h, w), every ``step``-th of ``size``."""
        config = self.config
        start = start_grid(size, (config.grid, config.grid), config.start, pixels.device)[::step, ::step]
        place = locations(size, config.location, pixels)[:, ::step, ::step]
        features = unit(torch.cat([pixels, place]), dim=0).flatten(1).t()
        if not judged.all():
            features, start = features[judged.flatten()], start[judged]
        return vmf_kmeans(features, start.flatten(), config.grid**2, config.iterations, config.empty)

    @torch.inference_mode()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Build the bank: the clusters of every training image, each with its commonest class."""
        if self.config.head == "softmax":
            return
        found: list[Prototypes] = []
        for batch in batches:
            for pixels, semantic in zip(unit(self.network(batch.images), dim=1), batch.semantic, strict=True):
                judged = semantic != IGNORE
                clusters, embeddings = self._clusters(pixels, judged, semantic.shape), pixels.movedim(0, -1)[judged]
                found.append(majority_prototypes(embeddings, clusters, semantic[judged], image=len(found)))
        if found:
            self._keep("bank", joined(found))

    def embed(self, images: Tensor, sizes: Tensor) -> list[Embedding]:
        if self.config.head == "softmax":
            logits = [resized(out, size) for out, size in zip(self.network(images), sizes.tolist(), strict=True)]
            return [Embedding(one, one.softmax(0)) for one in logits]
        targets: list[list[int]] = sizes.tolist()
        views: list[list[tuple[Tensor, bool]]] = [[] for _ in targets]
        for scale in self.config.scales:
            scaled = [max(round(side * scale), 1) for side in images.shape[-2:]]
            copy = torch.stack([resized(image, scaled) for image in images])
            for mirrored in (False, True)[: 1 + self.config.flip]:
                outputs = self.network(copy.flip(-1) if mirrored else copy)
                for found, output, size in zip(views, outputs, targets, strict=True):
                    place = [max(round(side * scale), 1) for side in size]
                    found.append((unit(resized(output, place), dim=0), mirrored))
        background = torch.eye(self.num_classes + 1, 1, device=images.device).unsqueeze(2)  # `named` takes the votes
        embeddings = []
        for found, size in zip(views, targets, strict=True):
            own = min(range(len(found)), key=lambda view: abs(found[view][0].shape[-1] - size[-1]))
            pixels = unit(resized(found[own][0], size), dim=0)
            embeddings.append(Views(pixels, background.expand(-1, *size), tuple(found), own))
        return embeddings

    def named(self, embedding: Embedding) -> Embedding:
        """The embedding with its segments and, where there is a bank, the shares of the votes as probabilities."""
        if not isinstance(embedding, Views):
            return embedding
        size = embedding.probabilities.shape[-2:]
        split = [self._segments(*view) for view in embedding.views]
        segments = split[embedding.own][0]
        if segments.shape != size:
            segments = nn.functional.interpolate(segments[None, None].double(), size, mode="nearest-exact")[0, 0].long()
        if not len(self.bank_classes):
            return replace(embedding, segments=segments)
        votes = [self._votes(*view) for view in split]
        shares = torch.stack([resized(share, size) for share, _ in votes]).mean(0)
        retrieval = replace(votes[embedding.own][1], segments=segments)
        return replace(embedding, probabilities=shares, segments=segments, retrieval=retrieval)

    def _segments(self, pixels: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
        """(h, w) int64 segments 0..S-1 of one view, turned back, and their (S, D) mean directions."""
        shape = pixels.shape[-2:]
        clusters = self._clusters(pixels, torch.ones(shape, dtype=torch.bool, device=pixels.device), shape)
        present, segments = clusters.unique(return_inverse=True)
        directions = mean_directions(pixels.flatten(1).t(), segments, len(present))
        return segments.view(shape).flip(-1) if mirrored else segments.view(shape), directions

    def _votes(self, segments: Tensor, directions: Tensor) -> tuple[Tensor, Retrieval]:
        """(C + 1, h, w) float32 shares of the votes for one view's segments, and where they came from."""
        bank = self._kept("bank")
        similarities, rows = nearest(directions, bank.directions, self.config.neighbours)
        classes = bank.classes[rows]
        shares = nn.functional.one_hot(classes, self.num_classes + 1).float().mean(1)  # (S, C + 1)
        return shares.t()[:, segments], Retrieval(segments, rows, similarities, classes, bank.origin[rows])

    def features(self, embedding: Embedding) -> Features:
        if isinstance(embedding, Views):
            return Features(embedding.pixels, radius=0.5, spherical=True)
        return super().features(embedding)

    def group(self, embedding: Embedding, truth: Truth | None) -> Groups:
        semantic = self.semantics(embedding, truth)
        ids, labels = connected_pieces(semantic)
        own = embedding.probabilities.gather(0, semantic.unsqueeze(0))[0]
        # The best of a piece's votes is its confidence.
        confidence = own.new_zeros(len(labels) + 1).scatter_reduce(0, ids.flatten(), own.flatten(), "amax")[1:]
        return Groups(semantic, ids, labels, confidence)

    def result(self, embedding: Embedding, groups: Groups, instances: Instances, seconds: Seconds) -> Prediction:
        prediction = super().result(embedding, groups, instances, seconds)
        if not isinstance(embedding, Views):
            return prediction
        boundary = contours(embedding.segments) if self.config.contours else None
        return replace(prediction, boundary=boundary, retrieval=embedding.retrieval)

    def _keep(self, store: str, prototypes: Prototypes) -> None:
        with torch.inference_mode(False):  # or a bank built in inference mode could not be trained on or loaded into
            for name, value in vars(prototypes).items():
                self.register_buffer(f"{store}_{name}", value.clone())

    def _kept(self, store: str) -> Prototypes:
        return Prototypes(*(getattr(self, f"{store}_{name}") for name in ("directions", "classes", "origin")))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for name, buffer in self.named_buffers(recurse=False):  # the training data decided how many rows they have
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_zeros(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """``vectors`` at length 1 along ``dim``; a zero vector stays zero (the official code divides it by zero)."""
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def start_grid(size: Sequence[int], grid: Sequence[int], form: str, device: torch.device | None = None) -> Tensor:
    """(H, W) int64 first clusters; rows of cells count fastest.

    ``blocks``: cells of ceil(H / ny) x ceil(W / nx) pixels. ``centres`` (SPML): the nearest of ny x nx points that
    span the image, so that border cells are half as large.
    """
    rows, columns = (
        torch.arange(side, device=device) // -(-side // cells)
        if form == "blocks"
        else torch.linspace(0, cells - 1, side, device=device).round().long()
        for side, cells in zip(size, grid, strict=True)
    )
    return rows.unsqueeze(1) + (rows.max() + 1) * columns


def locations(size: Sequence[int], form: str, like: Tensor) -> Tensor:
    """(2, H, W) y and x of every pixel in ``like``'s dtype: y / H and x / W (``corner``), or -1/2..1/2 (SPML)."""
    kind, centred = {"dtype": like.dtype, "device": like.device}, form == "centred"
    axes = (torch.linspace(-0.5, 0.5, n, **kind) if centred else torch.arange(n, **kind) / n for n in size)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


@torch.no_grad()
def vmf_kmeans(features: Tensor, start: Tensor, count: int, iterations: int = 10, empty: str = "never") -> Tensor:
    """(N,) int64 clusters of unit ``features`` (N, D) that begin as ``start`` (N,) int64 in 0..count - 1.

    Each round takes every cluster's mean direction and gives every pixel to the nearest, the first of equals. A
    round that changes nothing ends it: all later ones would be the same. Clusters without members are ``never``
    chosen, or have similarity 0 to every pixel and may ``attract`` some (SPML).
    """
    rows, columns = features.contiguous(), features.t().contiguous()  # for the sums, for the similarities
    similarity = rows.new_empty(count, len(rows))
    clusters = start
    for _ in range(iterations):
        means = mean_directions(rows, clusters, count)
        torch.mm(means, columns, out=similarity)
        if empty == "never" and (gone := ~means.any(1)).any():
            similarity[gone] = -torch.inf
        before, clusters = clusters, first_argmax(similarity)
        if torch.equal(before, clusters):
            break
    return clusters


def first_argmax(values: Tensor) -> Tensor:
    """(N,) int64 ``values.argmax(0)`` of (K, N), the first of equals: vectorised over N, several times as fast."""
    count = len(values)
    largest = values >= values.amax(0)
    rank = largest.view(torch.uint8) if count < 256 else largest.int()
    rank.mul_(torch.arange(count, 0, -1, dtype=rank.dtype, device=rank.device).unsqueeze(1))
    return count - rank.amax(0).clamp(min=1).long()  # NaN equals nothing: the last


def mean_directions(embeddings: Tensor, segments: Tensor, count: int) -> Tensor:
    """(count, D) normalised sums of ``embeddings`` (N, D) by ``segments`` (N,) int64; zero for an empty segment."""
    if embeddings.is_cuda and not embeddings.requires_grad:  # atomic adds would make a prediction unrepeatable
        members = segments == torch.arange(count, device=segments.device).unsqueeze(1)
        return unit(members.to(embeddings.dtype) @ embeddings)
    return unit(embeddings.new_zeros(count, embeddings.shape[1]).index_add(0, segments, embeddings))


def split_by_class(clusters: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Segments: the parts of ``clusters`` (N,) in different ``classes`` (N,). -> (N,) int64 numbers, (S,) classes."""
    found, segments = (clusters * (IGNORE + 1) + classes).unique(return_inverse=True)
    return segments, found % (IGNORE + 1)


def segment_sorting_loss(
    embeddings: Tensor, segments: Tensor, prototypes: Tensor, classes: Tensor, concentration: float, form: str
) -> Tensor:
    """Scalar: the mean over pixels of -log of the own class's part of exp(kappa x.p); 0 where there is no pixel.

    ``embeddings`` (P, D) unit; ``segments`` (P,) int64 rows of ``prototypes`` (S, D) unit, with ``classes`` (S,) int64;
    rows beyond the batch's own come from the memory. Every term is divided by itself and all prototypes of other
    classes. ``vmf``: the term is the own prototype's (SPML's `segsort`). ``nca``: all others of the class
    together, or the own where it is the only one (official default, SPML's `segsort+`).
    """
    if not len(embeddings):
        return embeddings.sum()
    logits = concentration * embeddings @ prototypes.t()
    similarity = (logits - logits.detach().amax(1, keepdim=True)).exp()
    column = classes.unique(return_inverse=True)[1]
    members = nn.functional.one_hot(column).to(similarity.dtype)  # (S, classes)
    row, kind = segments.unsqueeze(1), column[segments].unsqueeze(1)
    own = similarity.gather(1, row)
    sums = similarity.scatter(1, row, 0.0) @ members  # by class, without the own: subtracting it would cost digits
    alone = members.sum(0)[kind] == 1
    attract = torch.where(alone, own, sums.gather(1, kind)) if form == "nca" else own
    repel = sums.scatter(1, kind, 0.0).sum(1, keepdim=True)
    tiny = torch.finfo(logits.dtype).tiny
    return nn.functional.softplus(repel.clamp(min=tiny).log() - attract.clamp(min=tiny).log(), threshold=50.0).mean()


def region_loss(pixels: Tensor, regions: Tensor, concentration: float) -> Tensor:
    """The unsupervised loss, a scalar: every region of the batch is a class of its own.

    ``pixels`` (B, D, H, W) unit, ``regions`` (B, H, W) int64 numbers that may repeat from image to image.
    """
    image = torch.arange(len(regions), device=regions.device).view(-1, 1, 1)
    segments = (regions + image * (regions.max() + 1)).unique(return_inverse=True)[1].flatten()
    embeddings = pixels.movedim(1, -1).flatten(0, 2)
    own = mean_directions(embeddings, segments, int(segments.max()) + 1)
    return nn.functional.cross_entropy(concentration * embeddings @ own.t(), segments)


def joined(parts: Sequence[Prototypes]) -> Prototypes:
    return Prototypes(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


def remember(memory: Prototypes, directions: Tensor, classes: Tensor, banks: int, rows: int) -> Prototypes:
    """The memory after a step: what is younger than ``banks`` steps, and a random ``rows`` of the step's prototypes.

    The official code fails where a step has fewer than ``rows``; here all of them are kept.
    """
    chosen = torch.randperm(len(classes), device=classes.device)[: rows if banks else 0]
    young = memory.origin < banks
    old = Prototypes(memory.directions[young], memory.classes[young], memory.origin[young] + 1)
    return joined([old, Prototypes(directions[chosen], classes[chosen], torch.ones_like(chosen))])


def majority_prototypes(embeddings: Tensor, clusters: Tensor, classes: Tensor, image: int = 0) -> Prototypes:
    """An image's rows of the bank, by ascending cluster; empty clusters have none.

    ``embeddings`` (N, D) unit, ``clusters`` and ``classes`` (N,) int64. A cluster's class is its commonest, the lowest
    of equals, and only pixels of that class make its direction.
    """
    present, segments = clusters.unique(return_inverse=True)
    pairs = torch.bincount(segments * (IGNORE + 1) + classes, minlength=len(present) * (IGNORE + 1))
    majority = first_argmax(pairs.view(-1, IGNORE + 1).t())
    typical = classes == majority[segments]
    directions = mean_directions(embeddings[typical], segments[typical], len(present))
    return Prototypes(directions, majority, torch.full_like(present, image))


def nearest(queries: Tensor, bank: Tensor, k: int, block: int = 64) -> tuple[Tensor, Tensor]:
    """The min(k, M) rows of ``bank`` (M, D) with the largest dot products with ``queries`` (S, D).

    -> (S, k) similarities, (S, k) int64 rows; descending, the lower row of equals first. Only blocks of rows are
    sorted whose largest is among the k largest: before a row of any other block there are k.
    """
    similarity = queries @ bank.t()
    k, blocks = min(k, len(bank)), len(bank) // block
    rows = torch.arange(len(bank), device=bank.device)
    if blocks > k:
        largest = similarity[:, : blocks * block].unflatten(1, (blocks, block)).amax(2)
        most = int((largest >= largest.topk(k).values[:, -1:]).sum(1).max())  # more than k where some are equal
        chosen = largest.topk(most).indices.sort().values.unsqueeze(2)
        inside = (chosen * block + rows[:block]).flatten(1)
        rows = torch.cat([inside, rows[blocks * block :].expand(len(queries), -1)], dim=1)
        similarity = similarity.gather(1, rows)
    values, order = similarity.sort(descending=True, stable=True)
    return values[:, :k], rows.expand_as(order).gather(1, order[:, :k])


def contours(segments: Tensor) -> Tensor:
    """(H, W) float32: 1 where the right or lower neighbour of a pixel is in another of ``segments`` (H, W), else 0."""
    edge = torch.zeros_like(segments, dtype=torch.bool)
    edge[:, :-1] |= segments[:, :-1] != segments[:, 1:]
    edge[:-1] |= segments[:-1] != segments[1:]
    return edge.float()


def connected_pieces(semantic: Tensor) -> tuple[Tensor, Tensor]:
    """(H, W) int64 ids 1..N of the 4-connected pieces of each class above 0, by class; (N,) int64 classes. Ours."""
    classes = semantic.cpu().numpy()
    ids, labels = np.zeros(classes.shape, np.int64), []
    for label in np.unique(classes[classes > 0]).tolist():
        pieces, count = ndimage.label(classes == label)
        ids += np.where(pieces > 0, pieces + len(labels), 0)
        labels += [label] * count
    return torch.from_numpy(ids).to(semantic.device), torch.tensor(labels, dtype=torch.int64, device=semantic.device)


def oversegment(images: Tensor, size: int) -> Tensor:
    """(B, H, W) int64 Felzenszwalb regions of at least ``size`` pixels of ``images`` (B, 3, H, W) in [0, 1]."""
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise MethodError("supervision = segments needs scikit-image: pip install scikit-image") from error
    arrays = images.permute(0, 2, 3, 1).float().cpu().numpy()
    regions = np.stack([felzenszwalb(array, scale=size, min_size=size) for array in arrays])
    return torch.from_numpy(regions).to(images.device, torch.int64)
