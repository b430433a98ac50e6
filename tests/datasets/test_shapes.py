"""The generated scenes: repeatable, exactly annotated, and as hard as their level says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from datasets.base import DatasetError, Sample
from datasets.shapes import CATEGORIES, LEVELS, Shapes, _inside


def samples(level: str, count: int = 60) -> list[Sample]:
    data = Shapes("val", count, level)
    return [data[index] for index in range(count)]


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    one, again = Shapes("train", 9, seed=4)[5], Shapes("train", 50, seed=4)[5]
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.instances, again.instances)
    for other in (Shapes("val", 9, seed=4)[5], Shapes("train", 9, seed=5)[5], Shapes("train", 9, seed=4)[6]):
        assert (one.image != other.image).any()


def test_fingerprint_changes_with_what_changes_the_scenes() -> None:
    prints = {
        Shapes(split, count, level, size, seed).info.fingerprint
        for split, count, level, size, seed in [
            ("train", 9, "easy", 128, 0),
            ("val", 9, "easy", 128, 0),
            ("train", 8, "easy", 128, 0),
            ("train", 9, "hard", 128, 0),
            ("train", 9, "easy", 64, 0),
            ("train", 9, "easy", 128, 1),
        ]
    }
    assert len(prints) == 6
    assert Shapes("train", 9).info.fingerprint == Shapes("train", 9).info.fingerprint


@pytest.mark.parametrize("level", LEVELS)
def test_annotation_is_consistent(level: str) -> None:
    for sample in samples(level, 30):
        assert sample.image.dtype == np.uint8
        assert sample.image.shape == (128, 128, 3)
        assert ((sample.instances > 0) == (sample.semantic > 0)).all()
        ids = np.unique(sample.instances[sample.instances > 0])
        assert ids.tolist() == list(range(1, len(sample.attributes.area) + 1))
        for number, label in zip(ids, sample.labels(), strict=True):
            assert set(np.unique(sample.semantic[sample.instances == number])) == {label}
            assert 1 <= label <= len(CATEGORIES)


@pytest.mark.parametrize("level", LEVELS)
def test_attributes_agree_with_a_plain_count(level: str) -> None:
    for sample in samples(level, 10):
        for index, number in enumerate(range(1, len(sample.attributes.area) + 1)):
            mask = sample.instances == number
            assert sample.attributes.area[index] == mask.sum()
            assert sample.attributes.parts[index] == ndimage.label(mask)[1]
            around = ndimage.binary_dilation(mask) & ~mask  # the 4-neighbours
            label = sample.labels()[index]
            touching = set(sample.instances[around & (sample.semantic == label)]) - {0, number}
            assert sample.attributes.same_class_contacts[index] == len(touching)
            assert LEVELS[level].min_visible <= sample.attributes.visible_fraction[index] <= 1.0


def test_levels_turn_up_crowding_occlusion_and_contact() -> None:
    def means(level: str) -> list[float]:
        found = [sample.attributes for sample in samples(level)]
        count = np.mean([len(a.area) for a in found])
        hidden = np.mean(np.concatenate([a.visible_fraction < 0.95 for a in found]))
        contact = np.mean(np.concatenate([a.same_class_contacts > 0 for a in found]))
        return [float(count), float(hidden), float(contact)]

    easy, standard, hard = (means(level) for level in ("easy", "standard", "hard"))
    assert all(a < b for a, b in zip(easy, standard, strict=True))
    assert all(a < b for a, b in zip(standard, hard, strict=True))


def test_levels_turn_up_camouflage() -> None:
    def contrast(level: str) -> float:
        values = []
        for sample in samples(level):
            ground = sample.image[sample.semantic == 0].mean(0)
            for number in range(1, len(sample.attributes.area) + 1):
                values.append(np.abs(sample.image[sample.instances == number].mean(0) - ground).sum())
        return float(np.mean(values))

    assert contrast("easy") > contrast("standard") > contrast("hard")


def test_hard_scenes_hold_up_to_twenty_instances_and_none_at_all() -> None:
    counts = [len(sample.attributes.area) for sample in samples("hard", 150)]
    assert min(counts) == 0
    assert 15 <= max(counts) <= 20


def test_occlusion_cuts_some_instances_into_parts() -> None:
    # A ring or a chevron may be in two parts by the border alone; a disc or a triangle only by what lies in front.
    cut = [
        (sample.attributes.parts[i] > 1) and label in (1, 6)
        for sample in samples("hard", 150)
        for i, label in enumerate(sample.labels())
    ]
    assert sum(cut) >= 3


@pytest.mark.parametrize("category", CATEGORIES)
def test_which_categories_hold_their_own_centre(category: str) -> None:
    u, v = np.meshgrid(np.linspace(-1, 1, 201, dtype=np.float32), np.linspace(-1, 1, 201, dtype=np.float32))
    for variety in (0.0, 0.5, 1.0):
        mask = _inside(category, u, v, np.float32(variety))
        y, x = (round(c) for c in ndimage.center_of_mass(mask))
        assert mask[y, x] == (category in ("disc", "triangle", "bar")), f"{category} with variety {variety}"
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        assert not mask[u * u + v * v > 1.05**2].any(), "it must stay inside its radius, or its picture would be cut"


def test_sizes_span_two_octaves() -> None:
    # The area of an uncut disc with radius r is at least pi r^2 / sqrt(2), at most pi r^2.
    areas = np.concatenate([s.attributes.area[s.labels() == 1] for s in samples("easy", 200)])
    assert np.percentile(areas, 95) / np.percentile(areas, 5) > 6  # two octaves of radius would be 16 without occlusion


@pytest.mark.parametrize(("words", "message"), [
    ({"level": "eassy"}, "unknown level 'eassy'; available: easy, standard, hard"),
    ({"split": "vall"}, "unknown split"),
    ({"count": 0}, "count >= 1"),
])  # fmt: skip
def test_bad_arguments_are_explained(words: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Shapes(**{"split": "train", "count": 3, **words})


def test_index_outside_the_split_is_an_error() -> None:
    with pytest.raises(IndexError):
        Shapes("val", 3)[3]
