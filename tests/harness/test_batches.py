"""Batches of samples that differ in size or have overlapping objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from datasets.base import IGNORE, Dataset, Objects, Sample
from datasets.shapes import Shapes
from datasets.transforms import Augmentation
from evaluation import masks
from harness.batches import TrainStream, collate


def sample(height: int, width: int) -> Sample:
    full = np.ones((height, width), np.bool_)
    objects = Objects(
        tuple(masks.encode(np.stack([full, full, ~full]))),
        np.array([3, 1, 2]),
        np.array([False, True, False]),
        np.array([6.0, 6.0, 0.0]),
    )
    ones = full.astype(np.uint8)
    return Sample("a", np.full((height, width, 3), 9, np.uint8), ones, ones.astype(np.int32), objects=objects)


def test_smaller_samples_are_padded_and_ignored_there() -> None:
    batch = collate([sample(2, 5), sample(4, 3)])
    assert batch.images.shape == (2, 3, 4, 5)
    assert batch.sizes.tolist() == [[2, 5], [4, 3]]
    expected = torch.full((4, 5), IGNORE)
    expected[:2] = 1
    torch.testing.assert_close(batch.semantic[0], expected)
    assert int(batch.instances[0].sum()) == 10
    assert int(batch.instances[1].sum()) == 12


def test_objects_are_decoded_at_the_batches_size_without_crowds_and_empty_ones() -> None:
    batch = collate([sample(2, 5), sample(4, 3)])
    first, second = batch.objects
    assert first.labels.tolist() == second.labels.tolist() == [3]
    assert first.masks.shape == second.masks.shape == (1, 4, 5)
    assert first.masks.sum() == 10
    assert bool(first.masks[0, :2].all())


class Fixed:
    """A dataset of one sample."""

    def __init__(self, one: Sample) -> None:
        self.one = one

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return self.one


def test_objects_come_along_only_where_they_are_wanted() -> None:
    data: Dataset = Fixed(sample(4, 4))
    for overlapping in (False, True):
        stream = TrainStream(data, 1, 0, Augmentation(crop=3), overlapping=overlapping)
        assert (stream[0].objects is not None) == overlapping
    assert collate([replace(sample(2, 2), objects=None)]).objects is None


def test_scenes_have_no_objects() -> None:
    assert collate([Shapes("train", 1, "easy", 32, 0)[0]]).objects is None
