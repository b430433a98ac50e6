"""From samples to batches: the order of training images, and their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from datasets.base import Dataset, Objects, Sample
from datasets.transforms import Augmentation, augment, pad
from evaluation import masks
from methods.base import Batch, ObjectMasks


class TrainStream(TorchDataset):
    """The endless training sequence as a finite map: position -> augmented sample, a function of the seed alone.

    Position p is image ``permutation(epoch)[p mod n]``; neither workers nor resuming change what comes where. A later
    stage begins at position ``start``. Annotated objects that may overlap cost time in every transform: they come
    along only if ``overlapping``.
    """

    def __init__(
        self, dataset: Dataset, length: int, seed: int, recipe: Augmentation, start: int = 0, overlapping: bool = False
    ) -> None:
        self.dataset, self.length, self.seed, self.recipe, self.start = dataset, length, seed, recipe, start
        self.overlapping = overlapping
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        position = self.start + index
        epoch, place = divmod(position, len(self.dataset))
        if self._epoch[0] != epoch:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.dataset))
            self._epoch = (epoch, order)
        rng = np.random.default_rng([self.seed, 2, position])
        sample = self.dataset[int(self._epoch[1][place])]
        return augment(sample if self.overlapping else replace(sample, objects=None), rng, self.recipe)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; those that are smaller than the largest are padded below and at the right (`transforms.pad`)."""
    sizes = [sample.semantic.shape for sample in samples]
    largest = (max(height for height, _ in sizes), max(width for _, width in sizes))
    samples = [pad(sample, largest) for sample in samples]
    images = np.stack([sample.image for sample in samples])
    regions = [sample.regions for sample in samples if sample.regions is not None]
    objects = [object_masks(sample.objects, largest) for sample in samples if sample.objects is not None]
    return Batch(
        images=images_to_tensor(images),
        semantic=torch.from_numpy(np.stack([sample.semantic for sample in samples]).astype(np.int64)),
        instances=torch.from_numpy(np.stack([sample.instances for sample in samples]).astype(np.int64)),
        sizes=torch.tensor(sizes, dtype=torch.int64),
        regions=torch.from_numpy(np.stack(regions).astype(np.int64)) if regions else None,
        objects=tuple(objects) if objects else None,
    )


def object_masks(objects: Objects, size: tuple[int, int]) -> ObjectMasks:
    """The objects that are no crowds and have a pixel, decoded."""
    single = np.flatnonzero(~objects.crowd & (masks.areas(objects.masks) > 0)).tolist()
    dense = masks.decode([objects.masks[index] for index in single], size)
    return ObjectMasks(torch.from_numpy(dense), torch.from_numpy(objects.labels[single].astype(np.int64)))


def images_to_tensor(images: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1], in channels-last layout, which is faster on a CPU."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
    return tensor.contiguous(memory_format=torch.channels_last)
