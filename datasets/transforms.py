"""Transforms of samples: pure functions; whatever is random takes a numpy generator and depends on nothing else.

Images are resampled by Pillow (bilinear, smoothed where they shrink), the maps by their nearest pixel. Ids are 1..N
after each of them; `Attributes` survive only where they stay true.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from datasets.base import IGNORE, Sample

_LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green, blue in grey (ITU-R BT.601)


@dataclass(frozen=True)
class Augmentation:
    """A training recipe for `augment`.

    ``crop``: side in pixels of the square that is cut out (None: no crop), with ``around_instances`` centred on a
    random instance where there is one. ``scale``: range of the factor by which the
    image is resized before. ``flip``: probability of a left-right mirror. ``color``: strength of `color_jitter`, 0..1.
    Raises ValueError for values outside these ranges.
    """

    crop: int | None
    scale: tuple[float, float]
    flip: float
    color: float
    around_instances: bool = False

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"crop must be at least 1 pixel or None, not {self.crop}")
        _check_scale(self.scale)
        _check_fraction("flip", self.flip)
        _check_fraction("color", self.color)


def augment(sample: Sample, rng: np.random.Generator, recipe: Augmentation) -> Sample:
    """Scale and crop, flip, then colours, as ``recipe`` says."""
    if recipe.crop is not None:
        sample = random_scale_crop(sample, rng, recipe.crop, recipe.scale, recipe.around_instances)
    elif tuple(recipe.scale) != (1.0, 1.0):
        sample = random_scale(sample, rng, recipe.scale)
    if recipe.flip > 0.0:
        sample = random_flip(sample, rng, recipe.flip)
    return color_jitter(sample, rng, recipe.color)


def resize(sample: Sample, long_side: int) -> Sample:
    """Resize so that the longer side has ``long_side`` pixels; a sample that already does is returned as it is."""
    if long_side < 1:
        raise ValueError(f"long_side must be at least 1 pixel, not {long_side}")
    return _resize(sample, _scaled(sample, long_side / max(sample.semantic.shape)))


def random_scale(sample: Sample, rng: np.random.Generator, scale: tuple[float, float]) -> Sample:
    """Resize by a factor uniform in ``scale`` (at least one pixel is left)."""
    _check_scale(scale)
    return _resize(sample, _scaled(sample, rng.uniform(*scale)))


def random_scale_crop(
    sample: Sample,
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float] = (0.5, 2.0),
    around_instances: bool = False,
) -> Sample:
    """Resize by a factor uniform in ``scale`` and cut out ``size`` x ``size`` pixels at a uniform place.

    With ``around_instances`` the square is centred on the mean pixel of an instance, drawn uniformly, as far as it
    stays inside the image (Spatial Embeddings' first stage); an image without instances is cut as without it.
    Where the image is smaller, it lies at a uniform place inside the result; around it is the image's mean colour,
    `IGNORE` in ``semantic`` and 0 in ``instances``. Attributes become None.
    """
    _check_scale(scale)
    height, width = _scaled(sample, rng.uniform(*scale))
    free = [(min(0, side - size), max(0, side - size)) for side in (height, width)]
    top, left = (int(rng.integers(low, high + 1)) for low, high in free)
    if around_instances and sample.instances.any():
        centre = _random_centre(sample.instances, rng) * (height, width)
        corner = np.round(centre - size / 2).astype(int)
        top, left = (int(np.clip(at, *ends)) for at, ends in zip(corner, free, strict=True))
    rows = slice(max(top, 0), min(top + size, height))
    columns = slice(max(left, 0), min(left + size, width))
    piece = _window(sample, (height, width), rows, columns)
    if piece.semantic.shape == (size, size):
        return piece
    image = np.empty((size, size, 3), np.uint8)
    image[:] = _mean_colour(Image.fromarray(sample.image))
    semantic, instances = np.full((size, size), IGNORE, np.uint8), np.zeros((size, size), np.int32)
    inside = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    image[inside], semantic[inside], instances[inside] = piece.image, piece.semantic, piece.instances
    regions = piece.regions
    if regions is not None:  # the border is a region of its own
        regions = np.full((size, size), regions.max() + 1, np.int32)
        regions[inside] = piece.regions
    return replace(piece, image=image, semantic=semantic, instances=instances, regions=regions)


def _random_centre(instances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean pixel of a random instance as a share of height and width, (2,) float64."""
    ids = np.unique(instances)
    rows, columns = np.nonzero(instances == rng.choice(ids[ids > 0]))
    return (np.array([rows.mean(), columns.mean()]) + 0.5) / instances.shape


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    mirror = Image.fromarray(sample.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return replace(
        sample,
        image=np.array(mirror),
        semantic=np.ascontiguousarray(sample.semantic[:, ::-1]),
        instances=np.ascontiguousarray(sample.instances[:, ::-1]),
        regions=None if sample.regions is None else np.ascontiguousarray(sample.regions[:, ::-1]),
    )


def random_flip(sample: Sample, rng: np.random.Generator, probability: float = 0.5) -> Sample:
    """`flip` with the given probability."""
    _check_fraction("probability", probability)
    return flip(sample) if rng.random() < probability else sample


def color_jitter(sample: Sample, rng: np.random.Generator, strength: float) -> Sample:
    """Change brightness, contrast and saturation, in this order, by factors uniform in 1 ± ``strength`` (0..1).

    Contrast is about the image's mean grey, saturation about each pixel's grey. The three are linear in the colour, so
    they are one 3 x 4 matrix, and values are rounded and clipped to 0..255 once, at the end.
    """
    _check_fraction("strength", strength)
    if strength == 0.0:
        return sample
    brightness, contrast, saturation = rng.uniform(1.0 - strength, 1.0 + strength, 3)
    image = Image.fromarray(sample.image)
    grey = brightness * float(_LUMA @ _mean_colour(image))
    matrix = np.empty((3, 4))
    matrix[:, :3] = contrast * brightness * (saturation * np.eye(3) + (1.0 - saturation) * _LUMA)
    matrix[:, 3] = (1.0 - contrast) * grey
    return replace(sample, image=np.array(image.convert("RGB", tuple(matrix.ravel().tolist()))))


def _scaled(sample: Sample, factor: float) -> tuple[int, int]:
    height, width = sample.semantic.shape
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resize(sample: Sample, shape: tuple[int, int]) -> Sample:
    if shape == sample.semantic.shape:
        return sample
    return _window(sample, shape, slice(0, shape[0]), slice(0, shape[1]))


def _window(sample: Sample, shape: tuple[int, int], rows: slice, columns: slice) -> Sample:
    """The part (rows, columns) of the sample resized to ``shape``, without computing the rest."""
    height, width = sample.semantic.shape
    regions = sample.regions
    if shape == (height, width):
        image = sample.image[rows, columns].copy()
        semantic, instances = sample.semantic[rows, columns].copy(), sample.instances[rows, columns].copy()
        regions = None if regions is None else regions[rows, columns].copy()
    else:
        left, right, nearest_columns = _source(columns, width, shape[1])
        top, bottom, nearest_rows = _source(rows, height, shape[0])
        size = (len(nearest_columns), len(nearest_rows))
        image = Image.fromarray(sample.image).resize(size, Image.Resampling.BILINEAR, (left, top, right, bottom))
        image = np.array(image)
        # take, because indexing the second axis with an array leaves it first in memory
        semantic = sample.semantic[nearest_rows].take(nearest_columns, axis=1)
        instances = sample.instances[nearest_rows].take(nearest_columns, axis=1)
        regions = None if regions is None else regions[nearest_rows].take(nearest_columns, axis=1)
    return Sample(sample.image_id, image, semantic, _consecutive(instances), regions=regions)


def _source(part: slice, before: int, after: int) -> tuple[float, float, np.ndarray]:
    """Where the pixels ``part`` of ``after`` lie among ``before`` ones: start, end, and the nearest pixel of each."""
    start, stop = part.start * before / after, part.stop * before / after
    centres = (np.arange(part.start, part.stop) + 0.5) * (before / after)
    return start, min(stop, before), centres.astype(np.intp)


def _consecutive(instances: np.ndarray) -> np.ndarray:
    """The ids that are left, renumbered 1..N in the same order; (H, W) int32."""
    present = np.bincount(instances.ravel()) > 0
    present[0] = True
    if present.all():
        return instances
    return (np.cumsum(present) - 1).astype(np.int32)[instances]


def _mean_colour(image: Image.Image) -> np.ndarray:
    """Mean of each channel, (3,) uint8, to within one level; ten times as fast as numpy's mean."""
    return np.array(image.resize((1, 1), Image.Resampling.BOX))[0, 0]


def _check_scale(scale: tuple[float, float]) -> None:
    if not 0.0 < scale[0] <= scale[1] < float("inf"):
        raise ValueError(f"scale must be a range (smallest, largest) of positive factors, not {scale}")


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in 0..1, not {value}")
