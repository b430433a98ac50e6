"""Scores of a few groups on a 2 x 4 image, worked by hand."""

from __future__ import annotations

import pytest
import torch
from method_contract import GROUPING, TINY
from scenes import scenes

from harness.plan import load_method
from methods.base import Groups, MethodError, Truth
from methods.scoring import SCORERS, score_groups

SEMANTIC = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 0]])
IDS = torch.tensor([[1, 1, 2, 3], [1, 1, 2, 3]])  # group 1 is mostly class 1, group 2 class 2, group 3 background
PROBABILITIES = torch.tensor(
    [
        [[0.1, 0.1, 0.2, 1.0], [0.1, 0.2, 0.2, 1.0]],
        [[0.9, 0.7, 0.1, 0.0], [0.8, 0.2, 0.1, 0.0]],
        [[0.0, 0.2, 0.7, 0.0], [0.1, 0.6, 0.7, 0.0]],
    ]
)
AS_MASKS = torch.stack([IDS == 1, IDS == 2, IDS == 3])
FORMS = pytest.mark.parametrize("masks", [IDS, AS_MASKS], ids=["ids", "masks"])


@FORMS
def test_a_group_takes_its_commonest_class_and_that_class_mean_probability(masks: torch.Tensor) -> None:
    found = score_groups(Groups(SEMANTIC, masks), PROBABILITIES)
    assert found.labels.tolist() == [1, 2]  # the background's group has no class
    assert torch.equal(found.masks, AS_MASKS[:2])
    assert found.scores.tolist() == pytest.approx([(0.9 + 0.7 + 0.8 + 0.2) / 4, 0.7])


@FORMS
def test_shape_is_the_mean_of_three_ratios(masks: torch.Tensor) -> None:
    # Group 1 fills its 2 x 2 box, which is square and as high as the image: 1. Group 2 is 2 x 1: aspect 1/2.
    found = score_groups(Groups(SEMANTIC, masks), PROBABILITIES, "shape")
    assert found.scores.tolist() == pytest.approx([1.0, 0.5 ** (1 / 3)])
    # Without its lower right pixel group 1 fills 3/4 of its box.
    masks = torch.where(torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool), 0, IDS)
    assert score_groups(Groups(SEMANTIC, masks), PROBABILITIES, "shape").scores[0].item() == pytest.approx(
        0.75 ** (1 / 3)
    )


@FORMS
def test_oracle_iou_is_that_of_the_best_true_instance_of_the_class(masks: torch.Tensor) -> None:
    # Truth: instance 1 of class 1 is the left column and (0, 1), instance 2 of class 1 is (1, 1), instance 3 of class 1
    # covers group 2. Group 1 of class 1 shares 3 of 4 pixels with instance 1; group 2 of class 2 meets no class 2.
    truth = Truth(torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]]), torch.tensor([[1, 1, 3, 0], [1, 2, 3, 0]]))
    found = score_groups(Groups(SEMANTIC, masks), PROBABILITIES, "oracle_iou", truth=truth)
    assert found.scores.tolist() == pytest.approx([3 / 4, 0.0])
    # As proposals, labels 0, group 2 is exact; with (1, 1) void, so is group 1.
    truth = Truth(torch.tensor([[1, 1, 1, 0], [1, 255, 1, 0]]), torch.tensor([[1, 1, 3, 0], [1, 0, 3, 0]]))
    nameless = Groups(SEMANTIC, masks, labels=torch.zeros(3, dtype=torch.int64))
    found = score_groups(nameless, PROBABILITIES, "oracle_iou", truth=truth)
    assert found.scores.tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_seed_values_and_constants() -> None:
    groups = Groups(SEMANTIC, IDS, confidence=torch.tensor([0.25, 0.5, 0.75]))
    assert score_groups(groups, PROBABILITIES, "seed").scores.tolist() == [0.25, 0.5]
    assert score_groups(groups, PROBABILITIES, "constant").scores.tolist() == [1.0, 1.0]
    named = Groups(SEMANTIC, AS_MASKS, torch.tensor([1, 2, 2]), groups.confidence)
    found = score_groups(named, PROBABILITIES, "seed", min_size=3)
    assert found.scores.tolist() == [0.25]
    assert torch.equal(found.masks, AS_MASKS[:1])


def test_small_groups_and_all_beyond_the_best_are_dropped() -> None:
    assert score_groups(Groups(SEMANTIC, IDS), PROBABILITIES, min_size=3).labels.tolist() == [1]
    assert score_groups(Groups(SEMANTIC, IDS), PROBABILITIES, most=1).labels.tolist() == [2]


def test_overlapping_masks_stay_whole() -> None:
    masks = torch.ones(2, 2, 4, dtype=torch.bool)
    found = score_groups(Groups(SEMANTIC, masks, labels=torch.tensor([2, 1])), PROBABILITIES, "constant")
    assert found.masks.all()
    assert found.labels.tolist() == [2, 1]


@pytest.mark.parametrize("scorer", SCORERS)
def test_no_groups_no_instances(scorer: str) -> None:
    nothing = Groups(torch.zeros_like(SEMANTIC), torch.zeros_like(IDS), confidence=torch.zeros(0))
    truth = Truth(SEMANTIC, torch.zeros_like(IDS))
    found = score_groups(nothing, PROBABILITIES, scorer, truth=truth)
    assert found.masks.shape == (0, 2, 4)
    assert found.scores.shape == found.labels.shape == (0,)


def test_what_a_scorer_needs_is_asked_for() -> None:
    with pytest.raises(MethodError, match="gives its seeds no value"):
        score_groups(Groups(SEMANTIC, IDS), PROBABILITIES, "seed")
    with pytest.raises(MethodError, match="oracle_iou needs the ground truth"):
        score_groups(Groups(SEMANTIC, IDS), PROBABILITIES, "oracle_iou")
    with pytest.raises(ValueError, match="unknown scorer 'best'; available: class_probability"):
        score_groups(Groups(SEMANTIC, IDS), PROBABILITIES, "best")


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("name", GROUPING)
def test_every_scorer_serves_every_grouping_method(name: str, scorer: str) -> None:
    torch.manual_seed(0)
    method_class = load_method(name)
    method = method_class(method_class.Config(**{**TINY[name], "scorer": scorer, "min_size": 1}), 6).eval()
    batch = scenes(1)
    method.prepare(iter([batch]))
    assert method.needs_truth() == (scorer == "oracle_iou")
    (prediction,) = method.predict(batch.images, batch.sizes, batch)
    assert torch.isfinite(prediction.instances.scores).all()
    assert len(prediction.instances.masks) == len(prediction.instances.scores)
