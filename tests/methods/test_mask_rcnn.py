"""What Mask R-CNN is trained on, worked by hand, its boxes, and its own error messages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from method_contract import CLASSES, TINY
from scenes import scenes

from methods.base import Batch, MethodError, ObjectMasks, objects_of_map
from methods.mask_rcnn import MaskRCNN
from methods.rcnn import MaskRCNNConfig, clipped, object_targets


def build() -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(MaskRCNNConfig(**TINY["mask_rcnn"]), CLASSES)


def test_targets_worked_by_hand() -> None:
    # Instance 2 covers columns 1..2 of rows 0..1 in an L; instance 5 is the single last pixel.
    instances = torch.tensor([[0, 2, 0, 0], [0, 2, 2, 0], [0, 0, 0, 5]])
    semantic = torch.tensor([[0, 3, 0, 0], [0, 3, 3, 255], [0, 0, 0, 1]])
    target = object_targets(objects_of_map(instances, semantic))
    assert target["boxes"].tolist() == [[1, 0, 3, 2], [3, 2, 4, 3]]
    assert target["labels"].tolist() == [3, 1]
    assert target["masks"].sum((1, 2)).tolist() == [3, 1]
    assert target["masks"].dtype == torch.uint8


def test_targets_of_an_empty_image() -> None:
    nothing = torch.zeros(4, 5, dtype=torch.int64)
    target = object_targets(objects_of_map(nothing, nothing))
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].shape == (0, 4, 5)


def test_ignored_pixels_belong_to_no_instance() -> None:
    instances = torch.tensor([[1, 1, 2], [1, 1, 2]])
    objects = objects_of_map(instances, torch.tensor([[255, 4, 255], [255, 4, 255]]))
    assert objects.labels.tolist() == [4]
    assert objects.masks.int().tolist() == [[[0, 1, 0], [0, 1, 0]]]


def test_objects_may_overlap_and_those_without_a_pixel_are_dropped() -> None:
    # A cup on a table, both whole, and a chair that the crop left outside.
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, 1:, :], masks[2, 0:3, 2:4] = True, True
    target = object_targets(ObjectMasks(masks, torch.tensor([5, 7, 2])))
    assert target["labels"].tolist() == [5, 2]
    assert target["boxes"].tolist() == [[0, 1, 6, 4], [2, 0, 4, 3]]
    assert target["masks"].sum((1, 2)).tolist() == [18, 6]


def losses(method: MaskRCNN, batch: Batch) -> dict[str, float]:
    torch.manual_seed(0)
    return {name: value.item() for name, value in method.train().loss(batch).items()}


def test_objects_of_the_batch_come_before_its_map() -> None:
    method, batch = build(), scenes(2)
    assert MaskRCNN.overlapping
    same = tuple(map(objects_of_map, batch.instances, batch.semantic))
    assert losses(method, replace(batch, objects=same)) == losses(method, batch)
    none = ObjectMasks(torch.zeros(0, 64, 64, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    empty = losses(method, replace(batch, objects=(none, none)))
    assert empty["loss_box_reg"] == empty["loss_mask"] == 0.0 < losses(method, batch)["loss_box_reg"]


def test_objects_move_with_their_batch() -> None:
    batch = replace(scenes(1), objects=(ObjectMasks(torch.ones(2, 64, 64).bool(), torch.tensor([1, 2])),))
    moved = batch.to("meta")
    assert moved.objects[0].masks.device.type == moved.objects[0].labels.device.type == "meta"
    assert moved.images.device.type == "meta"
    assert moved.regions is None
    assert scenes(1).to("meta").objects is None


def test_boxes_are_those_of_the_original_image() -> None:
    method, batch = build().eval(), scenes(1)
    (here,), (there,) = (method.predict(batch.images, torch.tensor([size])) for size in ([64, 64], [128, 192]))
    found = there.instances
    assert found.boxes.dtype == torch.float32
    assert found.boxes.shape == (len(found.scores), 4)
    assert len(found.scores)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([192, 128, 192, 128])).all()
    # The same detections, in an image three times as wide and twice as high; a few masks are seen in one alone.
    boxes, scores = here.instances.boxes * torch.tensor([3.0, 2.0, 3.0, 2.0]), here.instances.scores
    pairs = [(i, j) for i, score in enumerate(scores) for j in (found.scores == score).nonzero()[:, 0].tolist()]
    assert len(pairs) >= min(len(scores), len(found.scores)) > 0
    assert all(min((found.boxes[j] - boxes[i]).abs().max() for k, j in pairs if k == i) < 1e-3 for i, _ in pairs)


def test_boxes_are_clipped() -> None:
    boxes = torch.tensor([[-3.0, 2.0, 12.0, 7.5]], dtype=torch.float64)
    assert clipped(boxes, (7, 10)).tolist() == [[0, 2, 10, 7]]
    assert clipped(boxes, (7, 10)).dtype == torch.float32


def test_padding_is_no_object() -> None:
    """An image that was padded to stand beside a larger one: void and no instance outside."""
    method, batch = build(), scenes(2)
    images, semantic, instances = batch.images.clone(), batch.semantic.clone(), batch.instances.clone()
    images[0, :, 40:], semantic[0, 40:], instances[0, 40:] = 0, 255, 0
    padded = Batch(images, semantic, instances, torch.tensor([[40, 64], [64, 64]]))
    assert all(torch.isfinite(torch.tensor(list(losses(method, padded).values()))))
    target = object_targets(objects_of_map(instances[0], semantic[0]))
    assert (target["boxes"][:, 3] <= 40).all()


def test_anchors_must_match_the_levels() -> None:
    with pytest.raises(MethodError, match="3 pyramid levels need as many anchors, not 5"):
        MaskRCNN(MaskRCNNConfig(strides=(4, 8, 16), coarser_level=False), 2)


def test_strides_that_the_encoder_lacks_are_named() -> None:
    config = MaskRCNNConfig(
        encoder="tf_efficientnet_lite0", strides=(4, 5), coarser_level=False, anchors=(8, 16), channels=8
    )
    with pytest.raises(MethodError, match=r"has strides \[2, 4, 8, 16, 32\], not \[5\]"):
        MaskRCNN(config, 2)
