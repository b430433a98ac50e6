"""Pull/push by hand: losses on a few pixels, groups on a line."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scenes

from benchmarks.cases.pull_push import plain_group_by_distance
from methods.base import MethodError
from methods.grouping import balanced_cross_entropy
from methods.pull_push import PullPush, PullPushConfig, group_by_distance, pull_push_loss

# One row of six pixels, one embedding channel: instance 1 at 0, 1; instance 2 at 4, 4 (same class 1);
# instance 3 at 9 (class 2); the last pixel is background.
EMBEDDING = torch.tensor([[[[0.0, 1.0, 4.0, 4.0, 9.0, 50.0]]]], dtype=torch.float64)
SEMANTIC = torch.tensor([[[1, 1, 1, 1, 2, 0]]])
INSTANCES = torch.tensor([[[1, 1, 2, 2, 3, 0]]])


def test_loss_of_three_instances_worked_by_hand() -> None:
    # Means 0.5, 4, 9. Pull, class 1: instance 1 is 0.5 - 0.2 = 0.3 from its mean on both pixels, instance 2 is 0: the
    # mean over the two is 0.15; class 2: 0. Push, class 1: 6 - 3.5 = 2.5 for both ordered pairs, over K (K - 1) = 2
    # pairs: 2.5; class 2 has one instance: 0. Regulariser: (0.5 + 4) / 2 + 9 = 11.25.
    pull, push, norm = pull_push_loss(EMBEDDING, SEMANTIC, INSTANCES)
    assert pull.item() == pytest.approx(0.15)
    assert push.item() == pytest.approx(2.5)
    assert norm.item() == pytest.approx(11.25)


def test_squared_hinges_worked_by_hand() -> None:
    # 0.3^2 = 0.09 on one of two instances: 0.045; 2.5^2 = 6.25.
    pull, push, _ = pull_push_loss(EMBEDDING, SEMANTIC, INSTANCES, squared=True)
    assert pull.item() == pytest.approx(0.045)
    assert push.item() == pytest.approx(6.25)


def test_norm_order_changes_distances() -> None:
    # Two pixels of two instances at (0, 0) and (3, 4): 5 apart in the 2-norm, 7 in the 1-norm, so 6 - 5 = 1 and 0.
    embedding = torch.tensor([[[[0.0, 3.0]], [[0.0, 4.0]]]])
    semantic, instances = torch.tensor([[[1, 1]]]), torch.tensor([[[1, 2]]])
    assert pull_push_loss(embedding, semantic, instances, norm=2)[1].item() == pytest.approx(1.0)
    assert pull_push_loss(embedding, semantic, instances, norm=1)[1].item() == pytest.approx(0.0)


def test_batch_loss_is_the_mean_over_images() -> None:
    pair = pull_push_loss(EMBEDDING.repeat(2, 1, 1, 1), SEMANTIC.repeat(2, 1, 1), INSTANCES.repeat(2, 1, 1))
    for one, two in zip(pull_push_loss(EMBEDDING, SEMANTIC, INSTANCES), pair, strict=True):
        assert two.item() == pytest.approx(one.item())


def test_ignored_pixels_pull_nothing() -> None:
    semantic = torch.where(SEMANTIC == 2, 255, SEMANTIC)
    _, _, norm = pull_push_loss(EMBEDDING, semantic, INSTANCES)
    assert norm.item() == pytest.approx(2.25)  # instance 3 is gone


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(-5, 5))
def test_pull_and_push_do_not_see_a_translation(seed: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(1, 3, 6, 7, generator=generator, dtype=torch.float64)
    instances = torch.randint(0, 4, (1, 6, 7), generator=generator)
    semantic = torch.where(instances > 2, 2, (instances > 0).long())
    here, there = (pull_push_loss(e, semantic, instances) for e in (embedding, embedding + offset))
    assert here[0].item() == pytest.approx(there[0].item(), abs=1e-9)
    assert here[1].item() == pytest.approx(there[1].item(), abs=1e-9)


def test_relatives_worked_by_hand() -> None:
    # All in one class: means 0.5, 4, 9 in K = 3. Pull as before, 0.3 on each pixel of instance 1: mean over instances
    # 0.1, mean over the 5 object pixels 0.12. Push: 6 - 3.5 and 6 - 5 for both orders of two pairs, over 6.
    pull, push, norm = pull_push_loss(EMBEDDING, SEMANTIC, INSTANCES, together=True)
    assert (pull.item(), push.item(), norm.item()) == pytest.approx((0.1, 2 * (2.5 + 1.0) / 6, 13.5 / 3))
    assert pull_push_loss(EMBEDDING, SEMANTIC, INSTANCES, together=True, average="pixel")[0].item() == pytest.approx(
        0.12
    )
    # exp(-3.5^2) over both orders of the only pair of class 1, halved, over K (K - 1) = 2.
    push = pull_push_loss(EMBEDDING, SEMANTIC, INSTANCES, gaussian=True)[1].item()
    assert push == pytest.approx(math.exp(-(3.5**2)) / 2, rel=1e-6)


def test_settings_of_relatives_reach_the_loss() -> None:
    small = {"encoder": "tf_efficientnet_lite0", "decoder": "FPN", "decoder_channels": 64, "pretrained": False}
    torch.manual_seed(0)
    values = {}
    for name, change in {
        "report": {},
        "all": {"repel": "all"},
        "pixel": {"average": "pixel"},
        "gaussian": {"push": "gaussian"},
        "squared": {"hinge": "squared"},
        "half": {"push_weight": 0.5},
    }.items():
        torch.manual_seed(0)
        method = PullPush(PullPushConfig(**small, **change), 6).eval()
        values[name] = {term: value.item() for term, value in method.loss(scenes(1)).items()}
    assert values["half"]["push"] == pytest.approx(0.5 * values["report"]["push"])
    assert values["pixel"]["pull"] != pytest.approx(values["report"]["pull"], rel=1e-3)
    for name in ("all", "gaussian", "squared"):
        assert values[name]["push"] != pytest.approx(values["report"]["push"], rel=1e-3), name


def line(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1)


def test_center_fixed_takes_what_is_near_the_seed() -> None:
    # Seed 0 takes up to 1.0, the next untagged pixel 1.5 takes 1.5 and 2.4, then 9 alone.
    groups = group_by_distance(
        line([0.0, 0.9, 1.0, 1.5, 2.4, 9.0]), torch.ones(1, 6).long(), threshold=1.0, shift=False
    )
    assert groups.ids.tolist() == [[1, 1, 1, 2, 2, 3]]


def test_center_shift_moves_to_the_mean_until_the_members_stay() -> None:
    # Seed 0 takes 0, 0.9, 1.0 with mean 0.633: now 1.5 is within 1 as well, mean 0.85: members stay.
    groups = group_by_distance(line([0.0, 0.9, 1.0, 1.5, 2.4, 9.0]), torch.ones(1, 6).long(), threshold=1.0, shift=True)
    assert groups.ids.tolist() == [[1, 1, 1, 1, 2, 3]]


def test_a_seed_outside_its_shifted_group_is_the_next_seed() -> None:
    # Seed 0 takes 0 and 1 (mean 0.5 reaches 1.5); then the mean of 0, 1, 1.4, 1.5 is 0.975, and so on upwards until the
    # group is 1, 1.4, 1.5, 1.9, 2 with mean 1.56, which excludes the seed 0; alone, it becomes group 2.
    groups = group_by_distance(line([0.0, 1.0, 1.4, 1.5, 1.9, 2.0]), torch.ones(1, 6).long(), threshold=1.0, shift=True)
    assert groups.ids.tolist() == [[2, 1, 1, 1, 1, 1]]


def test_classes_and_background_never_mix() -> None:
    groups = group_by_distance(line([0.0, 0.0, 0.0, 0.0]), torch.tensor([[2, 1, 0, 2]]), threshold=1.0, shift=True)
    assert groups.ids.tolist() == [[2, 1, 0, 2]]  # class 1 first, then class 2; background has no group


def test_order_chooses_the_seed() -> None:
    order = torch.tensor([1, 0, 2])
    groups = group_by_distance(line([0.0, 0.8, 1.6]), torch.ones(1, 3).long(), threshold=1.0, shift=False, order=order)
    assert groups.ids.tolist() == [[1, 1, 1]]  # from 0.8 both ends are near; from 0.0 the far end would not be


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.floats(0.05, 3.0), st.sampled_from([1, 2]))
def test_every_semantic_pixel_gets_exactly_one_group(seed: int, shift: bool, threshold: float, norm: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    semantic = torch.randint(0, 3, (5, 8), generator=generator)
    groups = group_by_distance(embedding, semantic, threshold=threshold, shift=shift, norm=norm)
    ids = groups.ids
    plain = plain_group_by_distance(embedding, semantic, threshold=threshold, shift=shift, norm=norm)
    assert torch.equal(ids, plain)  # looking at a window along one channel changes nothing
    assert ((ids > 0) == (semantic > 0)).all()
    assert sorted(ids[ids > 0].unique().tolist()) == list(range(1, len(groups.seeds) + 1))
    for number in ids[ids > 0].unique():
        assert len(semantic[ids == number].unique()) == 1


def test_balanced_cross_entropy_worked_by_hand() -> None:
    # Three background pixels, one of class 1, all logits 0 for two classes: every pixel costs log 2, however weighted.
    logits, semantic = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 0, 1]]])
    assert balanced_cross_entropy(logits, semantic, 0.5).item() == pytest.approx(math.log(2))
    # Logits that give the right class 0.9 on background and 0.2 on class 1: with balance 1 each class counts a half:
    # -(log 0.9 + log 0.2) / 2 = 0.857399; plain: -(3 log 0.9 + log 0.2) / 4 = 0.481380.
    logits = torch.tensor([[0.9, 0.9, 0.9, 0.8], [0.1, 0.1, 0.1, 0.2]]).log().view(1, 2, 1, 4)
    assert balanced_cross_entropy(logits, semantic, 1.0).item() == pytest.approx(0.857399, abs=1e-6)
    assert balanced_cross_entropy(logits, semantic, 0.0).item() == pytest.approx(0.481380, abs=1e-6)


def test_true_semantics_need_ground_truth() -> None:
    config = PullPushConfig(encoder="tf_efficientnet_lite0", decoder="FPN", decoder_channels=64, oracle="semantic")
    method = PullPush(config, 2).eval()
    with pytest.raises(MethodError, match="needs the ground truth"):
        method.predict(torch.zeros(1, 3, 32, 32), torch.tensor([[32, 32]]))
