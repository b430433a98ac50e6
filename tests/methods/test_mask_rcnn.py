"""What Mask R-CNN is trained on, worked by hand, and its own error messages."""

from __future__ import annotations

import pytest
import torch

from methods.base import MethodError
from methods.mask_rcnn import MaskRCNN, MaskRCNNConfig, instance_targets


def test_targets_worked_by_hand() -> None:
    # Instance 2 covers columns 1..2 of rows 0..1 in an L; instance 5 is the single last pixel.
    instances = torch.tensor([[0, 2, 0, 0], [0, 2, 2, 0], [0, 0, 0, 5]])
    semantic = torch.tensor([[0, 3, 0, 0], [0, 3, 3, 255], [0, 0, 0, 1]])
    target = instance_targets(instances, semantic)
    assert target["boxes"].tolist() == [[1, 0, 3, 2], [3, 2, 4, 3]]
    assert target["labels"].tolist() == [3, 1]
    assert target["masks"].sum((1, 2)).tolist() == [3, 1]
    assert target["masks"].dtype == torch.uint8


def test_targets_of_an_empty_image() -> None:
    nothing = torch.zeros(4, 5, dtype=torch.int64)
    target = instance_targets(nothing, nothing)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].shape == (0, 4, 5)


def test_anchors_must_match_the_levels() -> None:
    with pytest.raises(MethodError, match="3 pyramid levels need as many anchors, not 5"):
        MaskRCNN(MaskRCNNConfig(strides=(4, 8, 16), coarser_level=False), 2)


def test_strides_that_the_encoder_lacks_are_named() -> None:
    config = MaskRCNNConfig(
        encoder="tf_efficientnet_lite0", strides=(4, 5), coarser_level=False, anchors=(8, 16), channels=8
    )
    with pytest.raises(MethodError, match=r"has strides \[2, 4, 8, 16, 32\], not \[5\]"):
        MaskRCNN(config, 2)
