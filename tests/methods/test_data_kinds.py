"""Data that are not like the generated scenes: no background, instances everywhere, hundreds of them, padding."""

from __future__ import annotations

import pytest
import torch
from method_contract import CLASSES, GROUPING, TINY, check_instances

from harness.plan import load_method
from methods.base import Batch, Method, objects_of_map

SIDE = 96


def blocks(side: int) -> torch.Tensor:
    """(96, 96) int64: squares of ``side`` pixels, numbered from 1."""
    places = torch.arange(SIDE) // side
    return 1 + places.view(-1, 1) * (int(places.max()) + 1) + places


def stuff_and_things() -> tuple[torch.Tensor, torch.Tensor]:
    """Every pixel has a class, but those of classes 1 and 2 are no instances (Cityscapes)."""
    semantic = 1 + blocks(24) % CLASSES
    return semantic, torch.where(semantic > 2, blocks(24), 0)


def regions() -> tuple[torch.Tensor, torch.Tensor]:
    """One class, and every pixel in an instance (BSDS500)."""
    return torch.ones(SIDE, SIDE, dtype=torch.int64), blocks(32)


def crowd() -> tuple[torch.Tensor, torch.Tensor]:
    """361 instances of six classes, 16 pixels each, on a background."""
    inside = (torch.arange(SIDE) % 5 < 4) & (torch.arange(SIDE) < 95)
    instances = torch.where(inside.view(-1, 1) & inside, blocks(5), 0)
    return torch.where(instances > 0, 1 + instances % CLASSES, 0), instances


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """A small image in the corner of a large batch: nothing is known below and at the right."""
    semantic, instances = stuff_and_things()
    semantic, instances = semantic.clone(), instances.clone()
    for side in (semantic, instances):
        side[40:], side[:, 56:] = 0, 0
    known = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    known[:40, :56] = True
    return torch.where(known, semantic, 255), instances


KINDS = {"stuff and things": stuff_and_things, "regions": regions, "crowd": crowd, "padded": padded}


def make_batch(kind: str) -> Batch:
    semantic, instances = (values.expand(2, -1, -1).clone() for values in KINDS[kind]())
    shades = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    images = shades[instances].movedim(-1, 1).contiguous()
    return Batch(images, semantic, instances, torch.tensor([[SIDE, SIDE]] * 2))


def build(name: str) -> Method:
    torch.manual_seed(0)
    method_class = load_method(name)
    return method_class(method_class.Config(**TINY[name]), CLASSES)


def test_the_kinds_are_what_they_say() -> None:
    for kind in ("stuff and things", "regions"):
        assert KINDS[kind]()[0].min() == 1
    assert (regions()[1] > 0).all()
    assert len(crowd()[1].unique()) - 1 == 361
    for semantic, instances in (make() for make in KINDS.values()):
        for number in instances[instances > 0].unique():
            assert len(semantic[instances == number].unique()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TINY)
def test_trains_prepares_and_predicts(name: str, kind: str) -> None:
    method, batch = build(name), make_batch(kind)
    method.train()
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    for _ in range(2):
        losses = method.loss(batch)
        assert all(torch.isfinite(value) for value in losses.values()), losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)
        optimizer.step()
    method.eval().prepare([batch])
    for prediction in method.predict(batch.images, batch.sizes):
        check_instances(prediction.instances, [SIDE, SIDE])
        if prediction.semantic is not None:
            assert prediction.semantic.max() <= CLASSES


@pytest.mark.parametrize("kind", ["stuff and things", "regions"])
@pytest.mark.parametrize("name", GROUPING)
def test_true_classes_without_background_are_grouped(name: str, kind: str) -> None:
    batch = make_batch(kind)
    method_class = load_method(name)
    torch.manual_seed(0)
    method = method_class(method_class.Config(**{**TINY[name], "oracle": "semantic"}), CLASSES).eval()
    for index, prediction in enumerate(method.predict(batch.images, batch.sizes, batch)):
        assert torch.equal(prediction.semantic.long(), batch.semantic[index])
        check_instances(prediction.instances, [SIDE, SIDE])


def test_a_crowd_has_as_many_targets() -> None:
    semantic, instances = crowd()
    objects = objects_of_map(instances, semantic)
    assert len(objects.masks) == 361
    assert (objects.masks.flatten(1).sum(1) == 16).all()
    assert objects.labels.tolist() == [1 + number % CLASSES for number in instances[instances > 0].unique().tolist()]
