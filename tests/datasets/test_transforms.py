"""Transforms on arrays small enough to work out by hand, and properties on random scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.base import IGNORE, Attributes, Sample
from datasets.transforms import (
    Augmentation,
    augment,
    color_jitter,
    flip,
    random_flip,
    random_scale_crop,
    resize,
)
from harness.batches import collate


def hand_made() -> Sample:
    """2 rows, 4 columns; instance 1 of class 5 lies left, 2 of class 7 in the middle, 3 of class 5 right."""
    instances = np.array([[1, 2, 2, 3], [1, 0, 0, 3]], np.int32)
    semantic = np.array([[5, 7, 7, 5], [5, 0, 255, 5]], np.uint8)
    image = (instances[..., None] * 60 + np.array([0, 1, 2])).astype(np.uint8)
    ones = np.ones(3, np.int64)
    return Sample("hand", image, semantic, instances, Attributes(2 * ones, ones.astype(float), ones, 0 * ones))


def scene(seed: int, height: int, width: int) -> Sample:
    """Random blocks whose class and colour follow from their id, so that the three arrays can be compared."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 7, (-(-height // 3), -(-width // 3)))
    ids = np.kron(coarse, np.ones((3, 3), int))[:height, :width]
    numbers = np.zeros(7, np.int32)
    numbers[np.unique(ids[ids > 0])] = np.arange(1, len(np.unique(ids[ids > 0])) + 1)
    instances = numbers[ids]
    return Sample("scene", colour_of(instances), class_of(instances), instances)


def class_of(instances: np.ndarray) -> np.ndarray:
    return np.array([0, 3, 9, 3, 20, 1, 9], np.uint8)[instances]


def colour_of(instances: np.ndarray) -> np.ndarray:
    return np.repeat((instances * 40).astype(np.uint8)[..., None], 3, axis=-1)


def assert_equal(first: Sample, second: Sample) -> None:
    for name in ("image", "semantic", "instances"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def assert_sound(sample: Sample, source: Sample) -> None:
    """Types, sizes, ids 1..N, and every instance lies on the class that it has in the source."""
    assert sample.image_id == source.image_id
    assert (sample.image.dtype, sample.semantic.dtype, sample.instances.dtype) == (np.uint8, np.uint8, np.int32)
    assert sample.image.shape == (*sample.semantic.shape, 3) == (*sample.instances.shape, 3)
    for array in (sample.image, sample.semantic, sample.instances):
        assert array.flags.c_contiguous
        assert array.flags.writeable
    ids = np.unique(sample.instances)
    ids = ids[ids > 0]
    np.testing.assert_array_equal(ids, np.arange(1, len(ids) + 1))
    assert (sample.semantic[sample.instances > 0] != IGNORE).all()
    for number in ids:
        assert len(np.unique(sample.semantic[sample.instances == number])) == 1


class TestFlip:
    def test_by_hand(self) -> None:
        sample = flip(hand_made())
        np.testing.assert_array_equal(sample.instances, [[3, 2, 2, 1], [3, 0, 0, 1]])
        np.testing.assert_array_equal(sample.semantic, [[5, 7, 7, 5], [5, 255, 0, 5]])
        np.testing.assert_array_equal(sample.image[0, :, 0], [180, 120, 120, 60])
        np.testing.assert_array_equal(sample.image[0, 0], [180, 181, 182])
        assert sample.attributes is not None  # a mirror changes no area, no part and no contact
        assert_sound(sample, hand_made())

    def test_twice_is_the_sample_again(self) -> None:
        sample = scene(1, 17, 23)
        assert_equal(flip(flip(sample)), sample)

    @pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 400), (0.25, 100)])
    def test_random_flip_keeps_its_probability(self, probability: float, expected: int) -> None:
        rng, sample = np.random.default_rng(0), hand_made()
        flips = sum(random_flip(sample, rng, probability) is not sample for _ in range(400))
        assert abs(flips - expected) <= 30 * (0 < probability < 1)  # 3.5 standard deviations


class TestResize:
    def test_twice_as_large_doubles_every_pixel_of_the_maps(self) -> None:
        sample = resize(hand_made(), 8)
        doubled = np.ones((2, 2), int)
        np.testing.assert_array_equal(sample.semantic, np.kron(hand_made().semantic, doubled))
        np.testing.assert_array_equal(sample.instances, np.kron(hand_made().instances, doubled))
        np.testing.assert_array_equal(sample.image[0, :3, 0], [60, 75, 105])  # bilinear: 60, 60 + 60/4, 60 + 3*60/4
        assert sample.attributes is None
        assert_sound(sample, hand_made())

    def test_half_as_large_takes_the_nearest_pixel_and_renumbers(self) -> None:
        # Of columns 0..3 the centres of the two new ones fall on the edges before 1 and 3: those pixels are taken.
        sample = resize(hand_made(), 2)
        np.testing.assert_array_equal(sample.semantic, [[0, 5]])
        np.testing.assert_array_equal(sample.instances, [[0, 1]])  # 3 became 1: 1 and 2 are gone

    def test_keeps_the_aspect_and_at_least_one_pixel(self) -> None:
        assert resize(scene(0, 30, 40), 20).semantic.shape == (15, 20)
        assert resize(scene(0, 40, 30), 20).semantic.shape == (20, 15)
        assert resize(scene(0, 2, 200), 20).semantic.shape == (1, 20)

    def test_of_the_same_size_is_the_sample_itself(self) -> None:
        sample = hand_made()
        assert resize(sample, 4) is sample

    def test_rejects_no_pixels(self) -> None:
        with pytest.raises(ValueError, match="give long_side or short_side"):
            resize(hand_made(), 0)


class TestScaleCrop:
    def test_around_instances_the_crop_is_centred_on_one_of_them(self) -> None:
        sample = scene(0, 40, 60)
        instances = np.zeros((40, 60), np.int32)
        instances[10:13, 20:23], instances[36:40, 56:60] = (
            1,
            2,
        )  # mean pixels (11, 21) and, near the corner, (37.5, 57.5)
        sample = replace(sample, instances=instances, semantic=(instances > 0).astype(np.uint8))
        shapes = set()
        for seed in range(20):
            piece = random_scale_crop(sample, np.random.default_rng(seed), 9, (1.0, 1.0), around_instances=True)
            rows, columns = np.nonzero(piece.instances)
            shapes.add((rows.min(), rows.max(), columns.min(), columns.max()))
        # The first lies in the middle of its crop; the second's crop is pushed back inside the image.
        assert shapes == {(3, 5, 3, 5), (5, 8, 5, 8)}

    def test_around_instances_without_any_is_the_plain_crop(self) -> None:
        sample = replace(scene(0, 40, 60), instances=np.zeros((40, 60), np.int32))
        one, other = (
            random_scale_crop(sample, np.random.default_rng(1), 9, (0.5, 2.0), around) for around in (True, False)
        )
        assert_equal(one, other)

    def test_a_crop_is_a_window_of_the_sample(self) -> None:
        sample = scene(3, 20, 30)
        positions = np.arange(600).reshape(20, 30)
        tagged = replace(
            sample, image=np.stack([positions // 256, positions % 256, positions * 0], -1).astype(np.uint8)
        )
        tops, lefts = set(), set()
        for seed in range(300):
            crop = random_scale_crop(tagged, np.random.default_rng(seed), 16, (1.0, 1.0))
            top, left = divmod(int(crop.image[0, 0, 0]) * 256 + int(crop.image[0, 0, 1]), 30)
            window = np.s_[top : top + 16, left : left + 16]
            np.testing.assert_array_equal(crop.image, tagged.image[window])
            np.testing.assert_array_equal(crop.semantic, sample.semantic[window])
            np.testing.assert_array_equal(crop.instances > 0, sample.instances[window] > 0)
            assert crop.attributes is None
            tops.add(top)
            lefts.add(left)
        assert (tops, lefts) == (set(range(5)), set(range(15)))  # every place occurs

    def test_a_smaller_image_is_surrounded(self) -> None:
        corners = set()
        for seed in range(60):
            crop = random_scale_crop(hand_made(), np.random.default_rng(seed), 5, (1.0, 1.0))
            (row, *_), (column, *_) = np.nonzero(crop.instances == 1)
            inside = np.zeros((5, 5), bool)
            inside[row : row + 2, column : column + 4] = True
            np.testing.assert_array_equal(crop.instances[inside].reshape(2, 4), hand_made().instances)
            np.testing.assert_array_equal(crop.semantic[inside].reshape(2, 4), hand_made().semantic)
            np.testing.assert_array_equal(crop.image[inside].reshape(2, 4, 3), hand_made().image)
            assert (crop.semantic[~inside] == IGNORE).all()
            assert (crop.instances[~inside] == 0).all()
            mean = hand_made().image.mean(axis=(0, 1))  # 90, 91, 92
            assert (np.abs(crop.image[~inside] - mean) <= 1).all()
            corners.add((row, column))
        assert corners == {(row, column) for row in range(4) for column in range(2)}

    def test_ids_are_consecutive_after_a_crop(self) -> None:
        crop = random_scale_crop(hand_made(), np.random.default_rng(0), 1, (1.0, 1.0))
        assert crop.instances.max() <= 1

    def test_scale_range_is_used(self) -> None:
        instances = np.ones((40, 40), np.int32)
        sample = Sample("full", colour_of(instances), class_of(instances), instances)
        rng = np.random.default_rng(5)
        crops = [random_scale_crop(sample, rng, 90, (0.5, 2.0)) for _ in range(300)]
        sides = [int(crop.instances.any(axis=0).sum()) for crop in crops]
        assert [crop.instances.sum() for crop in crops] == [side**2 for side in sides]
        assert (min(sides), max(sides)) == (20, 80)
        assert abs(np.mean(sides) - 50) < 4  # uniform, not log-uniform (whose mean is 43)

    @given(
        seed=st.integers(0, 2**32 - 1),
        height=st.integers(1, 40),
        width=st.integers(1, 40),
        size=st.integers(1, 48),
        low=st.floats(0.1, 1.5),
        span=st.floats(1.0, 4.0),
    )
    @settings(max_examples=80, deadline=None)
    def test_maps_stay_aligned(self, seed: int, height: int, width: int, size: int, low: float, span: float) -> None:
        sample = scene(seed, height, width)
        crop = random_scale_crop(sample, np.random.default_rng(seed), size, (low, low * span))
        assert crop.semantic.shape == (size, size)
        assert_sound(crop, sample)
        # In the source exactly the background has class 0, and no pixel is void: so it must stay outside the padding.
        np.testing.assert_array_equal(crop.instances > 0, (crop.semantic != 0) & (crop.semantic != IGNORE))

    def test_image_and_maps_move_together(self) -> None:
        instances = np.zeros((60, 80), np.int32)
        instances[20:50, 30:70] = 1
        sample = Sample("box", colour_of(instances), class_of(instances), instances)
        for seed in range(40):
            crop = random_scale_crop(sample, np.random.default_rng(seed), 48, (0.5, 2.0))
            known = crop.semantic != IGNORE
            bright = crop.image[..., 0] >= 20  # half of the box's 40
            outside = np.count_nonzero(known & (bright != (crop.instances == 1)))
            assert outside <= 0.02 * known.sum()  # only where the border falls on a pixel's centre

    @pytest.mark.parametrize("scale", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
    def test_rejects_bad_ranges(self, scale: tuple[float, float]) -> None:
        for transform in (lambda s, r: random_scale_crop(s, r, 4, scale),):
            with pytest.raises(ValueError, match="scale must be a range"):
                transform(hand_made(), np.random.default_rng(0))


class TestColorJitter:
    def test_strength_zero_changes_nothing(self) -> None:
        sample = hand_made()
        assert color_jitter(sample, np.random.default_rng(0), 0.0) is sample

    def test_by_its_definition(self) -> None:
        image = np.array([[[40, 80, 120], [200, 20, 60]], [[90, 90, 90], [10, 250, 128]]], np.uint8)
        sample = Sample("colours", image, np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.int32))
        for seed in range(20):
            brightness, contrast, saturation = np.random.default_rng(seed).uniform(0.6, 1.4, 3)
            luma = np.array([0.299, 0.587, 0.114])
            expected = image * brightness
            expected = contrast * expected + (1 - contrast) * (expected @ luma).mean()
            expected = saturation * expected + (1 - saturation) * (expected @ luma)[..., None]
            jittered = color_jitter(sample, np.random.default_rng(seed), 0.4)
            # The mean colour is known to one level, its effect is at most 0.4 * 1.4 of that; then rounding.
            assert np.abs(jittered.image - np.clip(expected, 0, 255)).max() <= 1.1

    def test_grey_stays_grey_and_only_the_image_changes(self) -> None:
        sample = scene(2, 12, 12)
        jittered = color_jitter(sample, np.random.default_rng(4), 0.9)
        assert (jittered.image == jittered.image[..., :1]).all()
        assert not (jittered.image == sample.image).all()
        assert jittered.semantic is sample.semantic
        assert jittered.instances is sample.instances
        assert_sound(jittered, sample)

    def test_rejects_a_strength_outside_0_to_1(self) -> None:
        with pytest.raises(ValueError, match="strength must lie in"):
            color_jitter(hand_made(), np.random.default_rng(0), 1.5)


RANDOM: dict[str, Callable[[Sample, np.random.Generator], Sample]] = {
    "random_flip": random_flip,
    "random_scale_crop": lambda sample, rng: random_scale_crop(sample, rng, 24),
    "color_jitter": lambda sample, rng: color_jitter(sample, rng, 0.5),
    "augment": lambda sample, rng: augment(sample, rng, Augmentation(24, (0.5, 2.0), 0.5, 0.5)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_alone_decides_and_the_source_is_untouched(name: str) -> None:
    sample, results = scene(7, 30, 44), []
    before = [array.copy() for array in (sample.image, sample.semantic, sample.instances)]
    for seed in range(6):
        first, second = (RANDOM[name](sample, np.random.default_rng(seed)) for _ in range(2))
        assert_equal(first, second)
        assert_sound(first, sample)
        results.append(first.image.tobytes())
    assert len(set(results)) > 1
    for array, copy in zip((sample.image, sample.semantic, sample.instances), before, strict=True):
        np.testing.assert_array_equal(array, copy)


class TestAugment:
    def test_nothing_asked_for_is_nothing_done(self) -> None:
        sample = hand_made()
        assert augment(sample, np.random.default_rng(0), Augmentation(None, (1.0, 1.0), 0.0, 0.0)) is sample

    def test_without_crop_and_scale_the_size_and_attributes_stay(self) -> None:
        result = augment(hand_made(), np.random.default_rng(0), Augmentation(None, (1.0, 1.0), 1.0, 0.3))
        assert result.semantic.shape == (2, 4)
        assert result.attributes is not None
        np.testing.assert_array_equal(result.instances, flip(hand_made()).instances)

    def test_scale_without_crop_resizes(self) -> None:
        result = augment(scene(0, 20, 30), np.random.default_rng(0), Augmentation(None, (2.0, 2.0), 0.0, 0.0))
        assert_equal(result, resize(scene(0, 20, 30), 60))

    def test_composes_in_order(self) -> None:
        sample, recipe = scene(9, 30, 40), Augmentation(24, (0.5, 1.5), 0.5, 0.4)
        rng = np.random.default_rng(11)
        expected = random_scale_crop(sample, rng, 24, (0.5, 1.5))
        expected = color_jitter(random_flip(expected, rng, 0.5), rng, 0.4)
        assert_equal(augment(sample, np.random.default_rng(11), recipe), expected)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ((0, (1.0, 1.0), 0.5, 0.0), "crop must be at least 1"),
            ((8, (2.0, 1.0), 0.5, 0.0), "scale must be a range"),
            ((8, (1.0, 1.0), 1.5, 0.0), "flip must lie in 0..1"),
            ((8, (1.0, 1.0), 0.5, float("nan")), "color must lie in 0..1"),
        ],
    )
    def test_a_recipe_is_checked_when_it_is_made(self, settings: tuple, expected: str) -> None:
        with pytest.raises(ValueError, match=expected):
            Augmentation(*settings)


class TestRegions:
    def test_they_go_through_every_transform_with_the_other_maps(self) -> None:
        sample = scene(5, 30, 40)
        # Regions that say where each instance is: after any transform they still do.
        sample = replace(sample, regions=sample.instances + 1)
        for seed in range(20):
            moved = augment(sample, np.random.default_rng(seed), Augmentation(24, (0.5, 1.5), 0.5, 0.4))
            assert moved.regions.dtype == np.int32
            for number in np.unique(moved.instances[moved.instances > 0]):
                assert len(np.unique(moved.regions[moved.instances == number])) == 1
            outside = moved.semantic == IGNORE
            assert not set(np.unique(moved.regions[outside])) & set(np.unique(moved.regions[~outside]))
        assert resize(sample, 20).regions.shape == (15, 20)

    def test_they_reach_the_batch(self) -> None:
        sample = scene(5, 30, 40)
        batch = collate([replace(sample, regions=sample.instances)] * 2)
        assert torch.equal(batch.regions, batch.instances)
        assert torch.equal(batch.to("cpu").regions, batch.regions)
        assert collate([sample]).to("cpu").regions is None
