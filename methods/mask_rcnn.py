"""Mask R-CNN (He et al., ICCV 2017), the baseline that grouping is judged against.

Boxes first, then a mask in each: the opposite of grouping. The network is a maker's own, detectron2's or torchvision's;
docs/baselines.md says how the two differ. Here is what they share: the data that they get and the results that they
give.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from methods import rcnn_detectron2, rcnn_torchvision
from methods.base import Batch, Method, MethodError, ObjectMasks, Prediction, Seconds, objects_of_map
from methods.rcnn import Detector, MaskRCNNConfig, check_levels, check_published


class MaskRCNN(Method):
    """Either maker's Mask R-CNN behind the common interface."""

    name = "mask_rcnn"
    paper = "Mask R-CNN (He et al. 2017)"
    tasks = frozenset({"instances"})
    Config = MaskRCNNConfig
    overlapping = True

    @classmethod
    def settled(cls, config: MaskRCNNConfig) -> MaskRCNNConfig:
        """With the backend that runs, and the weights' whole path. Raises `MethodError` where settings do not fit."""
        backend, weights = _backend(config), config.weights
        if weights == "download" and not (config.zoo and backend == "torchvision"):
            names = " or ".join(rcnn_torchvision.ZOO)
            raise MethodError(f"mask_rcnn: weights = download is for torchvision's own networks: set zoo to {names}")
        if not config.zoo:
            check_levels(config)
        if weights not in ("", "download"):
            weights = str(Path(weights).resolve())  # the cell's process has another working directory
        return dataclasses.replace(config, backend=backend, weights=weights)

    @classmethod
    def implementation(cls, config: MaskRCNNConfig) -> str:
        """The maker's version and commit. Raises `MethodError`, too, for a misspelt network or a false file's name."""
        if Path(config.weights).is_file():
            check_published(Path(config.weights))
        if _backend(config) == "torchvision":
            return rcnn_torchvision.implementation()
        found = rcnn_detectron2.implementation()
        if config.zoo:
            rcnn_detectron2.zoo_file(config.zoo)  # a misspelt name shows before anything runs
        return found

    def __init__(self, config: MaskRCNNConfig, num_classes: int) -> None:
        config = dataclasses.replace(config, backend=_backend(config))
        super().__init__(config, num_classes)
        maker = {
            "detectron2": rcnn_detectron2.Detectron2RCNN,
            "torchvision": rcnn_torchvision.TorchvisionRCNN,
        }[config.backend]
        self.detector: Detector = maker(config, num_classes)

    def initialise(self) -> None:
        if self.config.weights:
            self.detector.load(self.config.weights, self.class_names, self.config.new_classes)
        elif self.config.pretrained:
            self.detector.load_imagenet()

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.detector.encoder.parameters()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        # Without the batch's padding: both makers pad for themselves, and keep proposals inside each image.
        places = [(slice(height), slice(width)) for height, width in batch.sizes.tolist()]
        images = [image[:, rows, columns] for image, (rows, columns) in zip(batch.images, places, strict=True)]
        objects = batch.objects
        if objects is None:
            objects = list(map(objects_of_map, batch.instances, batch.semantic))
        inside = [ObjectMasks(one.masks[:, r, c], one.labels) for one, (r, c) in zip(objects, places, strict=True)]
        return self.detector.loss(images, inside)

    @torch.inference_mode()
    def predict(self, images: Tensor, sizes: Tensor, oracle: Batch | None = None) -> list[Prediction]:
        predictions = []
        for image, size in zip(images, sizes.tolist(), strict=True):
            start = time.perf_counter()
            instances, proposals = self.detector.detect(image, size, self.config.rpn_proposals)
            if image.is_cuda:
                torch.cuda.synchronize()
            seconds = Seconds(network=time.perf_counter() - start)
            predictions.append(Prediction(instances, seconds=seconds, proposals=proposals))
        return predictions


def _backend(config: MaskRCNNConfig) -> str:
    """The backend that runs. Raises `MethodError` where the zoo's network is the other maker's."""
    maker = _maker(config.zoo)
    if maker and config.backend not in ("auto", maker):
        raise MethodError(f"mask_rcnn: {config.zoo} is a network of {maker}, not of backend = {config.backend}")
    return maker or (_automatic() if config.backend == "auto" else config.backend)


def _maker(zoo: str) -> str:
    """Whose zoo has the network ``zoo``; empty for none. Raises `MethodError` for a name of neither."""
    if not zoo:
        return ""
    if zoo.endswith(".yaml"):
        return "detectron2"
    if zoo in rcnn_torchvision.ZOO:
        return "torchvision"
    names = ", ".join(rcnn_torchvision.ZOO)
    raise MethodError(
        f"mask_rcnn: no zoo has {zoo!r}; torchvision has {names}, detectron2 the .yaml files of its folder configs"
    )


@functools.cache
def _automatic() -> str:
    """detectron2 where it is installed and works, else torchvision; an installation that does not work is named."""
    if not rcnn_detectron2.installed():
        return "torchvision"
    if problem := rcnn_detectron2.problem():
        print(f"note: {problem}; mask_rcnn takes torchvision", file=sys.stderr)
        return "torchvision"
    return "detectron2"
