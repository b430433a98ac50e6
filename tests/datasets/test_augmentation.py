"""What the papers' recipes add to scale, crop and flip; and that overlapping objects go through every transform."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as run_lengths
from test_transforms import assert_equal, assert_sound, scene

from datasets.base import IGNORE, Objects, Sample
from datasets.transforms import (
    Augmentation,
    augment,
    fitted,
    flip,
    gain_jitter,
    gamma_jitter,
    pad,
    random_border,
    random_scale_crop,
    resize,
    rotate,
)


def with_objects(sample: Sample) -> Sample:
    """The sample's instances as objects, in reverse order, and a crowd over everything."""
    ids = range(int(sample.instances.max()), 0, -1)
    stack = np.stack([*(sample.instances == number for number in ids), np.ones_like(sample.instances, bool)], axis=2)
    labels = np.array([*(sample.labels()[number - 1] for number in ids), 1])
    crowd = np.arange(len(labels)) == len(labels) - 1
    coded = tuple(run_lengths.encode(np.asfortranarray(stack.astype(np.uint8))))
    return replace(sample, objects=Objects(coded, labels, crowd, stack.sum((0, 1)).astype(float)))


def decoded(sample: Sample) -> np.ndarray:
    return run_lengths.decode(list(sample.objects.masks)).astype(bool)


TRANSFORMS = {
    "flip": lambda sample, rng: flip(sample),
    "resize": lambda sample, rng: resize(sample, 31),
    "pad": lambda sample, rng: pad(sample, (40, 50)),
    "crop": lambda sample, rng: random_scale_crop(sample, rng, 20, (0.5, 2.0)),
    "border": lambda sample, rng: random_border(sample, rng, 9),
    "rotate": lambda sample, rng: rotate(sample, rng.uniform(-40, 40)),
    "all": lambda sample, rng: augment(
        sample, rng, Augmentation(24, (0.7, 1.5), 0.5, 0.1, False, 5, 15.0, (20, 30), 60, 40, 0.03, 0.2, 0.7)
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_objects_and_maps_go_together(name: str, seed: int) -> None:
    """Every object covers exactly the pixels of its class that the map still has; ids never mix."""
    sample = with_objects(scene(seed, 23, 37))
    result = TRANSFORMS[name](sample, np.random.default_rng(seed))
    assert_sound(result, sample)
    stack = decoded(result)
    assert stack.shape == (*result.semantic.shape, len(sample.objects.labels))
    single = stack[..., :-1]
    np.testing.assert_array_equal(single.any(2), result.instances > 0)
    assert (single.sum(2) <= 1).all()
    for index in range(single.shape[2]):
        covered = result.instances[single[..., index]]
        assert len(np.unique(covered)) <= 1
        assert (result.semantic[single[..., index]] == sample.objects.labels[index]).all()
    np.testing.assert_array_equal(result.objects.labels, sample.objects.labels)
    np.testing.assert_array_equal(result.objects.crowd, sample.objects.crowd)
    assert result.objects.areas is None


def test_without_objects_there_are_none() -> None:
    empty = Objects((), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0))
    sample = replace(scene(1, 12, 12), objects=empty)
    assert resize(sample, 6).objects.masks == ()
    assert resize(scene(1, 12, 12), 6).objects is None


@pytest.mark.parametrize(
    ("shape", "short", "long", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),  # Mask R-CNN's test size: the shorter side decides
        ((400, 1200), 800, 1333, (444, 1333)),  # the longer one does
        ((480, 640), 0, 513, (385, 513)),
        ((480, 640), 240, 0, (240, 320)),
        ((480, 640), 0, 0, (480, 640)),
    ],
)
def test_fitted(shape: tuple[int, int], short: int, long: int, expected: tuple[int, int]) -> None:
    assert fitted(shape, short, long) == expected


def test_border_cuts_no_more_than_asked_and_leaves_a_pixel() -> None:
    sizes = {random_border(scene(0, 30, 40), np.random.default_rng(seed), 3).semantic.shape for seed in range(300)}
    assert {height for height, _ in sizes} == set(range(24, 31))
    assert {width for _, width in sizes} == set(range(34, 41))
    assert min(random_border(scene(0, 2, 2), np.random.default_rng(1), 50).semantic.shape) >= 1


def test_rotation_by_a_quarter_turn_is_exact() -> None:
    sample = scene(3, 21, 21)
    turned = rotate(sample, 90.0)
    np.testing.assert_array_equal(turned.semantic, np.rot90(sample.semantic))
    assert turned.semantic.shape == (21, 21)


@pytest.mark.parametrize("degrees", [-15.0, -4.0, 0.5, 7.0, 15.0, 30.0, 45.0, 60.0, 90.0])
@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (40, 120), (50, 50)])
def test_rotation_keeps_only_what_was_in_the_image(degrees: float, shape: tuple[int, int]) -> None:
    """An image of 200 everywhere stays so: nothing of the filled-in corners is left, and not much is thrown away."""
    flat = Sample("flat", np.full((*shape, 3), 200, np.uint8), np.ones(shape, np.uint8), np.ones(shape, np.int32))
    turned = rotate(flat, degrees)
    inner = turned.image[1:-1, 1:-1]  # bicubic weights at the very edge reach outside
    assert (inner == 200).all()
    assert (turned.semantic[1:-1, 1:-1] == 1).all()
    height, width = turned.semantic.shape
    cosine, sine = math.cos(math.radians(abs(degrees))), math.sin(math.radians(abs(degrees)))
    # One pixel more on each axis would not fit: its corners leave the original rectangle.
    fits = [
        (height + more) * cosine + (width + more) * sine <= shape[0] + 1e-9
        and (width + more) * cosine + (height + more) * sine <= shape[1] + 1e-9
        for more in (0, 2)
    ]
    assert fits[0]
    if abs(degrees) < 30:
        assert not fits[1]


def test_rotation_by_nothing_changes_nothing() -> None:
    assert_equal(rotate(scene(5, 19, 31), 0.0), scene(5, 19, 31))


def test_gamma_and_gain_by_hand() -> None:
    class Fixed:
        def uniform(self, low: float, high: float, count: int | None = None) -> object:
            return math.log(2.0) if count is None else np.array([0.5, 1.0, 1.5])

    image = np.array([[[0, 128, 255], [64, 200, 200]]], np.uint8)
    sample = Sample("x", image, np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.int32))
    np.testing.assert_array_equal(
        gamma_jitter(sample, Fixed(), 1.0).image[0, 0], [0, 64, 255]
    )  # 255 (128/255)^2 = 64.3
    np.testing.assert_array_equal(gain_jitter(sample, Fixed(), 0.5).image, [[[0, 128, 255], [32, 200, 255]]])


def test_chance_is_the_share_of_images_that_are_scaled() -> None:
    recipe = Augmentation(scale=(0.5, 0.5), chance=0.7)
    shapes = [augment(scene(0, 20, 20), np.random.default_rng(seed), recipe).semantic.shape for seed in range(400)]
    assert abs(shapes.count((10, 10)) - 280) < 32  # 3.5 standard deviations
    assert shapes.count((10, 10)) + shapes.count((20, 20)) == 400


def test_longest_caps_after_the_scale() -> None:
    recipe = Augmentation(scale=(3.0, 3.0), longest=45)
    assert augment(scene(0, 20, 30), np.random.default_rng(0), recipe).semantic.shape == (30, 45)


def test_one_of_the_short_sides_is_drawn() -> None:
    recipe = Augmentation(short_side=(10, 16), long_side=20)
    shapes = {augment(scene(0, 20, 30), np.random.default_rng(seed), recipe).semantic.shape for seed in range(30)}
    assert shapes == {(10, 15), (13, 20)}


def test_padding_is_ignored_and_has_no_instance() -> None:
    sample = pad(scene(2, 6, 9), (8, 12))
    assert (sample.semantic[6:] == IGNORE).all()
    assert (sample.semantic[:, 9:] == IGNORE).all()
    assert not sample.instances[6:].any()
    assert_equal(Sample("x", sample.image[:6, :9], sample.semantic[:6, :9], sample.instances[:6, :9]), scene(2, 6, 9))
    assert pad(sample, (8, 12)) is sample


@pytest.mark.parametrize(
    "wrong", [{"border": -1}, {"chance": 2.0}, {"gain": -0.1}, {"gamma": -1.0}, {"rotation": -5.0}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)
