"""Shapes: generated scenes for grouping, deterministic from (seed, split, index), with no files.

Six categories, two octaves of sizes, textured and shaded surfaces, depth order with occlusion that may cut an
object into parts, and neighbours of one class in contact. The three levels turn up, step by step, what makes
grouping hard: crowding, occlusion, contact and camouflage. Published tables use all three; ``easy`` is the one
for a quick look.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from datasets.base import Attributes, DatasetError, DatasetInfo, Sample

CATEGORIES = ("disc", "ring", "crescent", "chevron", "bar", "triangle")
SPLITS = ("train", "val", "test")

_RADIUS = (8.0, 32.0)  # half the extent in pixels of a 128 x 128 image: two octaves, log-uniform
_MIN_AREA = 24  # visible pixels below which nobody could name the category
_TILE = 512  # side of the texture bank's tiles in pixels
_FINGERPRINT_SCENES = 16
_TRIES = 6  # placements tried before an object is given up


@dataclass(frozen=True)
class Level:
    """How hard the scenes are. Fractions and probabilities are in 0..1, colours in RGB of 0..1.

    ``most``: largest number of objects placed. ``min_visible``: visible fraction that occlusion must leave of
    every object. ``contact``: probability that an object is put against an earlier one and takes its category.
    ``same_colour``: probability that it then takes its colour too. ``contrast``: smallest mean absolute difference
    between an object's colour and the background's. ``texture``, ``noise``: amplitudes in RGB units.
    """

    most: int
    min_visible: float
    contact: float
    same_colour: float
    contrast: float
    texture: float
    noise: float


LEVELS = {
    "easy": Level(most=6, min_visible=0.7, contact=0.15, same_colour=0.3, contrast=0.225, texture=0.08, noise=0.02),
    "standard": Level(
        most=12, min_visible=0.4, contact=0.35, same_colour=0.6, contrast=0.125, texture=0.12, noise=0.04
    ),
    "hard": Level(most=20, min_visible=0.2, contact=0.5, same_colour=0.9, contrast=0.05, texture=0.15, noise=0.06),
}


@dataclass(frozen=True)
class _Placed:
    """One drawn object: what a later neighbour needs of it."""

    category: int
    x: float
    y: float
    radius: float
    colour: np.ndarray
    area: int  # pixels inside the image, before anything covers it


class Shapes:
    """``count`` scenes of ``size`` x ``size`` pixels; ``index`` i is always the same scene.

    Raises `DatasetError` for an unknown level or split.
    """

    def __init__(self, split: str, count: int, level: str = "standard", size: int = 128, seed: int = 0) -> None:
        if level not in LEVELS:
            raise DatasetError(f"shapes: unknown level {level!r}; available: {', '.join(LEVELS)}")
        if split not in SPLITS:
            raise DatasetError(f"shapes: unknown split {split!r}; available: {', '.join(SPLITS)}")
        if count < 1 or size < 32:
            raise DatasetError(f"shapes: needs count >= 1 and size >= 32, not count={count}, size={size}")
        self.level, self.count, self.size, self.seed = LEVELS[level], count, size, seed
        self.info = DatasetInfo(f"shapes-{level}", split, CATEGORIES, "", generated=True)
        self.info = replace(self.info, fingerprint=self._fingerprint())

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        split = SPLITS.index(self.info.split)
        rng = np.random.default_rng([self.seed, split, index])
        sample = draw_scene(rng, self.level, self.size)
        return replace(sample, image_id=f"{self.info.split}-{index:06d}")

    def _fingerprint(self) -> str:
        """The number of scenes and the pixels of the first: a changed generator shows without drawing all."""
        digest = hashlib.blake2b(str(self.count).encode(), digest_size=8)
        for index in range(min(self.count, _FINGERPRINT_SCENES)):
            sample = self[index]
            for array in (sample.image, sample.semantic, sample.instances):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def verify(self, index: int) -> None:
        """Nothing to check: scenes are made, not read."""


def draw_scene(rng: np.random.Generator, level: Level, size: int) -> Sample:
    """One scene with its exact annotation; the image id is left empty."""
    image, background = _background(rng, level, size)
    semantic = np.zeros((size, size), np.uint8)
    instances = np.zeros((size, size), np.int32)
    placed: list[_Placed] = []
    for _ in range(rng.integers(0, level.most + 1)):
        for _ in range(_TRIES):
            candidate = _propose(rng, level, size, background, placed)
            if _paint(rng, level, candidate, image, semantic, instances, placed):
                break
    noise = _crop(_bank()[0], rng, size, size)
    image += level.noise * np.stack([noise, noise[::-1], noise[:, ::-1]], axis=-1)
    np.clip(image, 0.0, 1.0, out=image)
    image *= 255.0
    attributes = _attributes(semantic, instances, np.array([p.area for p in placed], np.int64))
    return Sample("", image.astype(np.uint8), semantic, instances, attributes)


def _propose(
    rng: np.random.Generator, level: Level, size: int, background: np.ndarray, placed: list[_Placed]
) -> _Placed:
    """Choose category, place, size and colour of the next object."""
    scale = size / 128.0
    radius = scale * float(np.exp(rng.uniform(np.log(_RADIUS[0]), np.log(_RADIUS[1]))))
    if placed and rng.random() < level.contact:
        other = placed[rng.integers(len(placed))]
        radius = min(radius, 1.5 * other.radius)
        angle, distance = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.7, 1.0) * (radius + other.radius)
        x, y = other.x + distance * np.cos(angle), other.y + distance * np.sin(angle)
        x, y = float(np.clip(x, 0.0, size - 1.0)), float(np.clip(y, 0.0, size - 1.0))
        colour = other.colour if rng.random() < level.same_colour else _colour(rng, background, level.contrast)
        return _Placed(other.category, x, y, radius, colour, 0)
    x, y = rng.uniform(0.5 * radius, size - 0.5 * radius, 2)  # never cut by the border to less than about half
    colour = _colour(rng, background, level.contrast)
    return _Placed(int(rng.integers(1, len(CATEGORIES) + 1)), float(x), float(y), radius, colour, 0)


def _colour(rng: np.random.Generator, background: np.ndarray, contrast: float) -> np.ndarray:
    """A colour at least ``contrast`` from the background's; it says nothing about the category."""
    for _ in range(20):
        colour = rng.random(3, dtype=np.float32)
        if np.abs(colour - background).mean() >= contrast:
            return colour
    return np.where(background < 0.5, 1.0, 0.0).astype(np.float32)


def _paint(
    rng: np.random.Generator,
    level: Level,
    candidate: _Placed,
    image: np.ndarray,
    semantic: np.ndarray,
    instances: np.ndarray,
    placed: list[_Placed],
) -> bool:
    """Draw the candidate in front of everything, unless it hides too much of something; say whether it was drawn."""
    size = len(image)
    reach = candidate.radius + 1.0
    top, bottom = max(int(candidate.y - reach), 0), min(int(candidate.y + reach) + 2, size)
    left, right = max(int(candidate.x - reach), 0), min(int(candidate.x + reach) + 2, size)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    dx = (np.arange(left, right, dtype=np.float32) - np.float32(candidate.x)) / np.float32(candidate.radius)
    dy = (np.arange(top, bottom, dtype=np.float32) - np.float32(candidate.y)) / np.float32(candidate.radius)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = (cos * dx)[None, :] + (sin * dy)[:, None]
    v = (-sin * dx)[None, :] + (cos * dy)[:, None]
    mask = _inside(CATEGORIES[candidate.category - 1], u, v, np.float32(rng.random()))
    area = int(np.count_nonzero(mask))
    window = instances[top:bottom, left:right]
    if area < _MIN_AREA or _hides_too_much(window[mask], instances, placed, level.min_visible):
        return False
    shade = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
    surface = shade[0] * u + shade[1] * v
    surface += level.texture * _crop(_bank()[rng.integers(len(_bank()))], rng, *mask.shape)
    patch = image[top:bottom, left:right]
    np.copyto(patch, candidate.colour + surface[..., None], where=mask[..., None])
    semantic[top:bottom, left:right][mask] = candidate.category
    placed.append(replace(candidate, area=area))
    window[mask] = len(placed)
    return True


def _inside(category: str, u: np.ndarray, v: np.ndarray, variety: np.float32) -> np.ndarray:
    """Which points of the object's own frame (radius 1) belong to it; ``variety`` in 0..1 changes its proportions."""
    if category == "bar":
        return (np.abs(v) <= 0.16 + 0.08 * variety) & (np.abs(u) <= 1.0)
    if category == "triangle":
        return (v >= -0.5) & (np.float32(3**0.5) * np.abs(u) + v <= 1.0)
    if category == "chevron":
        arm = v + 0.85 - 1.6 * np.abs(u)  # height above the tip of a V
        return (arm >= 0.0) & (arm <= 0.65 + 0.1 * variety) & (v <= 0.55)
    if category == "disc":
        return u * u + v * v * (1.0 + variety) <= 1.0
    distance = u * u + v * v
    if category == "ring":
        return (distance <= 1.0) & (distance >= (0.5 + 0.15 * variety) ** 2)
    bite = u - (0.3 + 0.04 * variety)
    # Cut before the tips get thinner than a pixel, where they would fall apart.
    return (distance <= 1.0) & (bite * bite + v * v >= 0.85**2) & (u <= 0.25)  # crescent


def _hides_too_much(covered: np.ndarray, instances: np.ndarray, placed: list[_Placed], min_visible: float) -> bool:
    """Whether taking the pixels ``covered`` (their present ids) leaves too little of any earlier object."""
    lost = np.bincount(covered, minlength=len(placed) + 1)
    for number in np.flatnonzero(lost[1:]) + 1:
        full = placed[number - 1].area
        left = np.count_nonzero(instances == number) - lost[number]
        if left < max(min_visible * full, _MIN_AREA):
            return True
    return False


def _background(rng: np.random.Generator, level: Level, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A shaded, textured ground: (size, size, 3) float32 and its mean colour (3,)."""
    colour = rng.uniform(0.15, 0.85, 3).astype(np.float32)
    ramp = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    slope = rng.uniform(-0.12, 0.12, 2).astype(np.float32)
    surface = slope[0] * ramp[None, :] + slope[1] * ramp[:, None]
    surface += level.texture * _crop(_bank()[rng.integers(len(_bank()))], rng, size, size)
    return colour + surface[..., None], colour


@functools.cache
def _bank() -> np.ndarray:
    """Textures (K, _TILE, _TILE) float32 of unit deviation: white noise first, then soft noise, stripes and checks."""
    rng = np.random.default_rng(20180101)
    white = rng.standard_normal((_TILE, _TILE)).astype(np.float32)
    tiles = [white]
    for sigma in (1.0, 2.0, 4.0, 8.0):
        tiles.append(ndimage.gaussian_filter(rng.standard_normal((_TILE, _TILE)), sigma, mode="wrap"))
    y, x = np.mgrid[:_TILE, :_TILE].astype(np.float64)
    for angle, period in ((0.3, 5.0), (1.1, 8.0), (1.9, 12.0), (2.7, 7.0)):
        tiles.append(np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2.0 * np.pi / period))
    for period in (6.0, 10.0):
        tiles.append(np.sign(np.sin(x * 2.0 * np.pi / period) * np.sin((y + 0.3 * x) * 2.0 * np.pi / period)))
    return np.stack([(tile / tile.std()).astype(np.float32) for tile in tiles])


def _crop(tile: np.ndarray, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random (height, width) piece of a tile; larger pictures repeat the tile."""
    repeats = -(-max(height, width) // _TILE) + (max(height, width) > _TILE // 2)
    if repeats > 1:
        tile = np.tile(tile, (repeats, repeats))
    top, left = rng.integers(0, len(tile) - height + 1), rng.integers(0, len(tile) - width + 1)
    return tile[top : top + height, left : left + width]


def _attributes(semantic: np.ndarray, instances: np.ndarray, full: np.ndarray) -> Attributes:
    """Attributes of ids 1..N; ``full`` (N,) are the areas before occlusion."""
    count = len(full)
    area = np.bincount(instances.ravel(), minlength=count + 1)[1:]
    parts = np.zeros(count, np.int64)
    for number, box in enumerate(ndimage.find_objects(instances, count)):
        parts[number] = ndimage.label(instances[box] == number + 1)[1]
    contacts = np.zeros(count, np.int64)
    pairs = []
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        touching = (instances[a] != instances[b]) & (semantic[a] == semantic[b]) & (semantic[a] > 0)
        first, second = instances[a][touching], instances[b][touching]
        pairs.append(np.minimum(first, second) * (count + 1) + np.maximum(first, second))
    for pair in np.unique(np.concatenate(pairs)):
        contacts[[pair // (count + 1) - 1, pair % (count + 1) - 1]] += 1
    return Attributes(area.astype(np.int64), area / np.maximum(full, 1), parts, contacts)
