"""Transforms of samples: pure functions; whatever is random takes a numpy generator and depends on nothing else.

Images are resampled by Pillow (bilinear, smoothed where they shrink), maps and masks by their nearest pixel. Ids are
1..N after each of them; `Objects` keep their order and number; `Attributes` survive only where they stay true.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from datasets.base import IGNORE, Objects, Sample

_LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green, blue in grey (ITU-R BT.601)


@dataclass(frozen=True)
class Augmentation:
    """A training recipe for `augment`, in the order of its steps; by default nothing happens.

    ``border``: up to so many pixels are cut off at each side. ``rotation``: largest angle in degrees, see `rotate`.
    ``short_side`` and ``long_side``: see `fitted`; one of the short sides is drawn. ``scale``: range of a further
    factor; ``longest``: the longer side is kept to it (0: any). ``crop``: side in pixels of the square that is cut out
    (None: no crop), with ``around_instances`` centred on a random instance where there is one. ``flip``: probability
    of a left-right mirror. ``color``: strength of `color_jitter`, 0..1. ``gamma`` and ``gain``: see `gamma_jitter` and
    `gain_jitter`. ``chance``: probability of each of rotation, scale, gamma and gain. Raises ValueError for values
    outside these ranges.
    """

    crop: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    color: float = 0.0
    around_instances: bool = False
    border: int = 0
    rotation: float = 0.0
    short_side: tuple[int, ...] = ()
    long_side: int = 0
    longest: int = 0
    gamma: float = 0.0
    gain: float = 0.0
    chance: float = 1.0

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"crop must be at least 1 pixel or None, not {self.crop}")
        for name in ("border", "rotation", "short_side", "long_side", "longest", "gamma"):
            if np.min(getattr(self, name), initial=0) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        _check_scale(self.scale)
        for name in ("flip", "color", "gain", "chance"):
            _check_fraction(name, getattr(self, name))


def augment(sample: Sample, rng: np.random.Generator, recipe: Augmentation) -> Sample:
    """One draw from ``recipe``. What it does not ask for draws no random number; all resizing is one resampling."""

    def drawn() -> bool:
        return recipe.chance == 1.0 or rng.random() < recipe.chance

    if recipe.border:
        sample = random_border(sample, rng, recipe.border)
    if recipe.rotation and drawn():
        sample = rotate(sample, rng.uniform(-recipe.rotation, recipe.rotation))
    shape = sample.semantic.shape
    if recipe.short_side or recipe.long_side:
        short = int(rng.choice(recipe.short_side)) if recipe.short_side else 0
        shape = fitted(shape, short, recipe.long_side)
    if recipe.crop is not None or tuple(recipe.scale) != (1.0, 1.0):
        shape = _times(shape, rng.uniform(*recipe.scale) if drawn() else 1.0)
    if recipe.longest and max(shape) > recipe.longest:
        shape = fitted(shape, 0, recipe.longest)
    if recipe.crop is None:
        sample = _resize(sample, shape)
    else:
        sample = _cut(sample, rng, shape, recipe.crop, recipe.around_instances)
    if recipe.flip > 0.0:
        sample = random_flip(sample, rng, recipe.flip)
    sample = color_jitter(sample, rng, recipe.color)
    if recipe.gamma and drawn():
        sample = gamma_jitter(sample, rng, recipe.gamma)
    if recipe.gain and drawn():
        sample = gain_jitter(sample, rng, recipe.gain)
    return sample


def fitted(shape: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side ``short_side``, but the longer no more than ``long_side``.

    Without ``short_side`` (0) the longer side becomes ``long_side``; without ``long_side`` (0) it may be any.
    """
    factor = short_side / min(shape) if short_side else math.inf
    if long_side:
        factor = min(factor, long_side / max(shape))
    return shape if factor == math.inf else _times(shape, factor)


def resize(sample: Sample, long_side: int, short_side: int = 0) -> Sample:
    """Resize as `fitted` says; a sample that already has the size is returned as it is."""
    if min(long_side, short_side) < 0 or not long_side + short_side:
        raise ValueError(f"give long_side or short_side in pixels, not {long_side} and {short_side}")
    return _resize(sample, fitted(sample.semantic.shape, short_side, long_side))


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
    return _cut(sample, rng, _times(sample.semantic.shape, rng.uniform(*scale)), size, around_instances)


def _cut(sample: Sample, rng: np.random.Generator, shape: tuple[int, int], size: int, around_instances: bool) -> Sample:
    """Resize to ``shape`` and cut out ``size`` x ``size``, see `random_scale_crop`."""
    height, width = shape
    free = [(min(0, side - size), max(0, side - size)) for side in (height, width)]
    top, left = (int(rng.integers(low, high + 1)) for low, high in free)
    if around_instances and sample.instances.any():
        centre = _random_centre(sample.instances, rng) * (height, width)
        corner = np.round(centre - size / 2).astype(int)
        top, left = (int(np.clip(at, *ends)) for at, ends in zip(corner, free, strict=True))
    rows = slice(max(top, 0), min(top + size, height))
    columns = slice(max(left, 0), min(left + size, width))
    piece = _window(sample, shape, rows, columns)
    if piece.semantic.shape == (size, size):
        return piece
    inside = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return _framed(piece, (size, size), inside)


def pad(sample: Sample, shape: tuple[int, int]) -> Sample:
    """Add rows below and columns at the right up to ``shape``, as the border of `random_scale_crop` is."""
    height, width = sample.semantic.shape
    return _framed(sample, shape, np.s_[:height, :width]) if (height, width) != shape else sample


def _framed(sample: Sample, shape: tuple[int, int], inside: tuple[slice, slice]) -> Sample:
    """``sample`` at the place ``inside`` of a larger one; the border is `IGNORE`, and a region of its own."""
    image = np.empty((*shape, 3), np.uint8)
    image[:] = _mean_colour(Image.fromarray(sample.image))
    image[inside] = sample.image

    def placed(values: np.ndarray, border: int = 0) -> np.ndarray:
        result = np.full((*shape, *values.shape[2:]), border, values.dtype)
        result[inside] = values
        return result

    regions = sample.regions
    return Sample(
        sample.image_id,
        image,
        placed(sample.semantic, IGNORE),
        placed(sample.instances),
        regions=None if regions is None else placed(regions, regions.max() + 1),
        objects=_map_masks(sample.objects, placed),
    )


def random_border(sample: Sample, rng: np.random.Generator, most: int) -> Sample:
    """Cut 0..``most`` pixels off at each side, as far as one pixel is left."""
    shape = sample.semantic.shape
    first = np.minimum(rng.integers(0, most + 1, 2), np.array(shape) - 1)
    last = np.maximum(np.array(shape) - rng.integers(0, most + 1, 2), first + 1)
    return _window(sample, shape, slice(first[0], last[0]), slice(first[1], last[1]))


def rotate(sample: Sample, degrees: float) -> Sample:
    """Turn counterclockwise about the centre and keep the largest upright rectangle that lies in the turned image.

    The image is resampled bicubically (as RPE's training does), maps and masks by their nearest pixel.
    """
    height, width = sample.semantic.shape
    inner_height, inner_width = _inside_rotated(height, width, math.radians(degrees))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    part = np.s_[top : top + inner_height, left : left + inner_width]

    def turned(values: np.ndarray, resampling: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
        return np.array(Image.fromarray(values).rotate(degrees, resampling))[part].copy()

    def turned_masks(stack: np.ndarray) -> np.ndarray:
        return np.stack([turned(np.ascontiguousarray(mask)) for mask in np.moveaxis(stack, 2, 0)], axis=2)

    return Sample(
        sample.image_id,
        turned(sample.image, Image.Resampling.BICUBIC),
        turned(sample.semantic),
        _consecutive(turned(sample.instances)),
        regions=None if sample.regions is None else turned(sample.regions),
        objects=_map_masks(sample.objects, turned_masks),
    )


def _inside_rotated(height: int, width: int, angle: float) -> tuple[int, int]:
    """(height, width) of the largest upright rectangle inside a rectangle that is turned by ``angle`` (radians)."""
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    long, short = max(height, width), min(height, width)
    if short <= 2.0 * sine * cosine * long or abs(sine - cosine) < 1e-9:  # two corners touch the longer sides
        along, across = 0.5 * short / sine, 0.5 * short / cosine
        inner_width, inner_height = (along, across) if width >= height else (across, along)
    else:
        both = cosine * cosine - sine * sine
        inner_width = (width * cosine - height * sine) / both
        inner_height = (height * cosine - width * sine) / both
    return min(height, max(1, int(inner_height))), min(width, max(1, int(inner_width)))


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
        objects=_map_masks(sample.objects, lambda stack: stack[:, ::-1]),
        contours=None,
        official_ids=None,
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


def gamma_jitter(sample: Sample, rng: np.random.Generator, most: float) -> Sample:
    """Raise the colours, as shares of 255, to the power exp(u), u uniform in ± ``most``."""
    table = np.round(255.0 * (np.arange(256) / 255.0) ** math.exp(rng.uniform(-most, most))).astype(np.uint8)
    return replace(sample, image=table[sample.image])


def gain_jitter(sample: Sample, rng: np.random.Generator, strength: float) -> Sample:
    """Multiply each channel by a factor uniform in 1 ± ``strength`` (0..1), rounded and clipped to 0..255."""
    factors = rng.uniform(1.0 - strength, 1.0 + strength, 3)
    tables = np.clip(np.round(np.arange(256)[:, None] * factors), 0, 255).astype(np.uint8)
    return replace(sample, image=tables[sample.image, np.arange(3)])


def _times(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _map_masks(objects: Objects | None, change: Callable[[np.ndarray], np.ndarray]) -> Objects | None:
    """The objects after ``change`` of their masks, (H, W, N) uint8 -> (h, w, N), in Fortran's order."""
    if objects is None or not objects.masks:
        return objects
    changed = np.asfortranarray(change(run_lengths.decode(list(objects.masks))))
    return replace(objects, masks=tuple(run_lengths.encode(changed)), areas=None, boxes=None)


def _resize(sample: Sample, shape: tuple[int, int]) -> Sample:
    if shape == sample.semantic.shape:
        return sample
    return _window(sample, shape, slice(0, shape[0]), slice(0, shape[1]))


def _window(sample: Sample, shape: tuple[int, int], rows: slice, columns: slice) -> Sample:
    """The part (rows, columns) of the sample resized to ``shape``, without computing the rest."""
    height, width = sample.semantic.shape
    regions = sample.regions
    if shape == (height, width):
        objects = _map_masks(sample.objects, lambda stack: stack[rows, columns])
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
        objects = _map_masks(sample.objects, lambda stack: stack.T.take(nearest_columns, 1).take(nearest_rows, 2).T)
    return Sample(sample.image_id, image, semantic, _consecutive(instances), regions=regions, objects=objects)


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
