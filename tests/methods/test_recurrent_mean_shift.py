"""Recurrent pixel embedding by hand: pairs of a few pixels, shifts on a circle, groups, proposals."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scenes

from benchmarks.cases.recurrent_mean_shift import plain_mean_shift, plain_pair_loss
from methods.base import Seconds, Truth
from methods.recurrent_mean_shift import (
    RecurrentMeanShift,
    RecurrentMeanShiftConfig,
    SphereEmbedding,
    at_cells,
    boundaries,
    climb,
    components,
    farthest_points,
    find_modes,
    gather,
    mean_loss,
    mean_shift,
    nearest_mode,
    pair_loss,
    propose,
    to_sphere,
)

SMALL = {
    "encoder": "tf_efficientnet_lite0",
    "decoder": "FPN",
    "decoder_channels": 64,
    "pretrained": False,
    "dimension": 16,
    "stride": 4,
}


def circle(*degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def random_points(seed: int, count: int = 40, dimension: int = 5, groups: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    return to_sphere(points), torch.randint(0, groups, (count,), generator=generator)


def test_pair_loss_of_three_pixels_worked_by_hand() -> None:
    # Group 7 at 0 and 90 degrees, group 0 at 0: s is 1 or 1/2. Two groups, so that w is 1/4, 1/4 and 1/2.
    # Within: 2 * 1/16 * (1 - 1/2) = 1/16; squared 2/16 * (1 - 1/4) = 3/32. Between, margin 1/4, both orders:
    # 2 * 1/8 * (3/4 + 1/4) = 1/4; squared 1/4 * (9/16 + 1/16) = 5/32.
    points, groups = circle(0, 90, 0), torch.tensor([7, 7, 0])
    assert [float(t) for t in pair_loss(points, groups, margin=0.25)] == pytest.approx([1 / 16, 1 / 4])
    assert [float(t) for t in pair_loss(points, groups, margin=0.25, hinge="quadratic")] == pytest.approx(
        [3 / 32, 5 / 32]
    )


def test_opposite_groups_and_one_group_cost_nothing() -> None:
    assert [float(t) for t in pair_loss(circle(10, 10, 190), torch.tensor([1, 1, 2]), margin=0.5)] == pytest.approx(
        [0, 0]
    )
    assert pair_loss(circle(10, 80), torch.tensor([3, 3]), margin=0.0)[1].item() == 0.0


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(["linear", "quadratic"]),
    st.integers(1, 30),
    st.floats(0.0, 0.9),
    st.integers(1, 8),
)
def test_pair_loss_is_the_sum_over_all_pairs(seed: int, hinge: str, block: int, margin: float, groups: int) -> None:
    points, labels = random_points(seed, groups=groups)
    ours, plain = points.clone().requires_grad_(), points.clone().requires_grad_()
    one = pair_loss(ours, labels, margin=margin, hinge=hinge, block=block)
    other = plain_pair_loss(plain, labels, margin=margin, hinge=hinge)
    torch.testing.assert_close(torch.stack(one), torch.stack(other), rtol=1e-10, atol=1e-12)
    (2.0 * one[0] + 3.0 * one[1]).backward()
    (2.0 * other[0] + 3.0 * other[1]).backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-9, atol=1e-12)


def test_pair_loss_in_single_precision() -> None:
    points, labels = random_points(0, count=500, dimension=16)
    for hinge in ("linear", "quadratic"):
        exact = torch.stack(pair_loss(points, labels, margin=0.5, hinge=hinge))
        single = torch.stack(pair_loss(points.float(), labels, margin=0.5, hinge=hinge))
        torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-7)


def test_gradients_are_the_derivatives() -> None:
    points, labels = random_points(1, count=9, dimension=3, groups=3)
    points.requires_grad_()
    for hinge in ("linear", "quadratic"):
        assert torch.autograd.gradcheck(lambda x, h=hinge: pair_loss(x, labels, margin=0.3, hinge=h, block=2), points)
    assert torch.autograd.gradcheck(lambda x: mean_shift(x, 0.5, 2), points)


def test_two_points_shift_towards_each_other() -> None:
    # Kernel of the pair with b = 1: exp(0 - 1). The mean of (1, 0) and e^-1 (0, 1) points to atan(e^-1) = 20.2 degrees.
    shifted = mean_shift(circle(0, 90), 1.0, 1)
    expected = math.degrees(math.atan(math.exp(-1)))
    torch.testing.assert_close(shifted, circle(expected, 90 - expected), rtol=0, atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 1.0), st.integers(1, 4), st.integers(1, 9))
def test_shift_is_attention_written_out(seed: int, bandwidth: float, loops: int, dimension: int) -> None:
    points, _ = random_points(seed, dimension=dimension)
    plain = plain_mean_shift(points, bandwidth, loops)
    for gradient in ("exact", "official"):
        torch.testing.assert_close(mean_shift(points, bandwidth, loops, gradient), plain, rtol=0, atol=1e-6)


def test_a_batch_shifts_image_by_image() -> None:
    clouds = torch.stack([random_points(seed)[0] for seed in range(3)])
    for gradient in ("exact", "official"):
        together = mean_shift(clouds, 0.3, 2, gradient)
        for cloud, one in zip(clouds, together, strict=True):
            torch.testing.assert_close(mean_shift(cloud, 0.3, 2, gradient), one)


def test_official_gradient_is_not_the_derivative() -> None:
    points, _ = random_points(3, count=6)
    upstream = random_points(4, count=6)[0]
    found = {}
    for gradient in ("exact", "official"):
        leaf = points.clone().requires_grad_()
        mean_shift(leaf, 0.5, 1, gradient).backward(upstream)
        found[gradient] = leaf.grad
    assert (found["exact"] - found["official"]).norm() > 0.05 * found["exact"].norm()


def test_shifting_stops_where_all_stand_still() -> None:
    points = circle(0, 1, 2, 120, 121)
    stopped = mean_shift(points, 0.1, 100, still=1e-9)
    torch.testing.assert_close(stopped, mean_shift(points, 0.1, 30), rtol=0, atol=1e-8)
    torch.testing.assert_close(mean_shift(points, 0.3, 5, still=10.0), mean_shift(points, 0.3, 1))


def test_modes_are_where_points_met() -> None:
    modes = find_modes(circle(0, 0.5, 90, 0.25, 90))  # the cosine of half a degree is above .999
    torch.testing.assert_close(modes, circle(0.25, 90), rtol=0, atol=2e-5)


def test_points_that_never_met_have_modes_all_over() -> None:
    # 2,000 points around the circle, none of which met: the first 500 in order would leave three quarters without.
    points = circle(*(0.18 * number for number in range(2000)))
    modes = find_modes(points, 1.0 - 1e-9)
    assert len(modes) <= 500
    assert (modes @ points.mT).amax(0).min() > math.cos(math.radians(4.0))
    assert len(find_modes(torch.full((2000, 2), math.nan))) <= 500


def test_groups_without_any_shift() -> None:
    method = RecurrentMeanShift(RecurrentMeanShiftConfig(**{**SMALL, "stride": 2}, loops=0), 2).eval()
    generator = torch.Generator().manual_seed(0)
    instances = torch.zeros(64, 64, dtype=torch.int64)
    instances[8:24, 8:24], instances[40:60, 36:60] = 1, 2
    directions = torch.eye(3, method.config.dimension)[instances].movedim(-1, 0)
    pixels = to_sphere(directions + 0.05 * torch.randn(directions.shape, generator=generator), dim=0)
    probabilities = torch.nn.functional.one_hot((instances > 0).long(), 3).movedim(-1, 0).float()
    cells = to_sphere(torch.nn.functional.avg_pool2d(pixels[None], 2)[0], dim=0)
    groups = method.group(SphereEmbedding(pixels, probabilities, cells, None), None)
    assert torch.equal(groups.masks > 0, instances > 0)
    assert len(groups.masks.unique()) == 3
    assert len(groups.masks[instances == 1].unique()) == len(groups.masks[instances == 2].unique()) == 1


def test_the_largest_mode_gathers_first() -> None:
    # 0, 30 and 60 degrees with cosines .87 of neighbours, threshold .8: the middle takes both if it is the largest, one
    # end takes the middle alone.
    modes = circle(0, 30, 60)
    assert gather(modes, torch.tensor([1, 5, 1]), 0.8).tolist() == [0, 0, 0]
    assert gather(modes, torch.tensor([5, 1, 1]), 0.8).tolist() == [0, 0, 1]
    assert gather(modes, torch.tensor([1, 1, 5]), 0.8).tolist() == [1, 0, 0]
    assert gather(modes, torch.tensor([1, 2, 3]), 1.1).tolist() == [2, 1, 0]  # a mode always takes itself


def test_pixels_go_to_the_nearest_mode() -> None:
    pixels = circle(10, 80, 100, -40).T.view(2, 2, 2)
    nearest, cosine = nearest_mode(pixels, circle(0, 90))
    assert nearest.tolist() == [[0, 1], [1, 0]]
    assert cosine.flatten().tolist() == pytest.approx([math.cos(math.radians(a)) for a in (10, 10, 10, 40)])


def test_nv_seeds_and_components_worked_by_hand() -> None:
    # From 0: the furthest is 180, then 90 and 270 are as far from both; the first of them comes first.
    points = circle(0, 10, 90, 180, 270)
    assert farthest_points(points, 4, 0).tolist() == [0, 3, 2, 4]
    # With a reach of 35 degrees: 0 takes 30, then 60 finds 30 labelled and takes that label over, 200 is new.
    reach = (1.0 - math.cos(math.radians(35))) / 2
    assert components(circle(0, 30, 60, 200), reach).tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(climb(circle(0, 20), circle(10), 20.0), circle(10), rtol=0, atol=1e-12)


def test_nv_loss_worked_by_hand() -> None:
    # Cluster 0 at -60 and 60 degrees: its mean is at 0, d = 1/4 for both. Cluster 1 at 90, on its mean.
    # Within: 2 * 1/16 over 50, over 2 clusters. Between: d = 1/2 is not below delta; delta 1 costs 1/4 in both orders.
    points, labels = circle(-60, 60, 90), torch.tensor([0, 0, 1])
    intra, inter = mean_loss(points, labels, weight=1.0)
    assert (intra.item(), inter.item()) == pytest.approx((1 / 800, 0.0), abs=1e-15)
    assert mean_loss(points, labels, delta=1.0, weight=1.0)[1].item() == pytest.approx(0.5)
    assert mean_loss(circle(-5, 5), torch.tensor([0, 0]))[0].item() == 0.0  # nobody is beyond alpha


def test_proposals_worked_by_hand() -> None:
    # Modes at 0, 30 and 180 degrees with 2, 1 and 1 pixels. At threshold .99 each is a proposal, at .8 the first two
    # are one (IoU 2/3 with the larger: both stay), and the third stands twice: one goes.
    nearest = torch.tensor([[0, 0], [1, 2]])
    worth = torch.tensor([[0.9, 0.7], [0.2, 0.5]], dtype=torch.float64)
    found = propose(nearest, worth, circle(0, 30, 180), (0.99, 0.8))
    assert found.scores.tolist() == pytest.approx([0.8, 0.6, 0.5, 0.2])
    assert found.masks.flatten(1).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert found.labels.tolist() == [0, 0, 0, 0]
    assert propose(nearest, worth, circle(0, 30, 180), (0.99, 0.8), min_size=2).scores.tolist() == pytest.approx(
        [0.8, 0.6]
    )
    assert len(propose(nearest, worth, circle(0, 30, 180), (0.99, 0.8), overlap=0.6).scores) == 3


def test_boundaries_lie_on_both_sides() -> None:
    instances = torch.tensor([[[1, 1, 2], [1, 1, 2], [1, 1, 1]]])
    expected = [[[0, 1, 1], [0, 1, 1], [0, 0, 1]]]
    assert boundaries(torch.ones_like(instances), instances).int().tolist() == expected
    assert boundaries(instances, torch.zeros_like(instances)).int().tolist() == expected  # classes bound, too


def test_cells_have_the_label_at_their_centre() -> None:
    labels = torch.arange(6 * 9).view(1, 6, 9)
    assert at_cells(labels, (2, 3)).tolist() == [[[10, 13, 16], [37, 40, 43]]]
    assert torch.equal(at_cells(labels, (6, 9)), labels)
    assert at_cells(labels, (1, 2)).shape == (1, 1, 2)


def losses(batch, **change: object) -> dict[str, float]:
    torch.manual_seed(0)
    method = RecurrentMeanShift(RecurrentMeanShiftConfig(**{**SMALL, **change}), 6).eval()
    torch.manual_seed(1)
    return {name: value.item() for name, value in method.loss(batch).items()}


def test_settings_reach_the_loss() -> None:
    batch = scenes(1)
    full = losses(batch, pixels="all")
    weights = losses(batch, pixels="all", negative_weight=10.0, positive_weight=0.5)
    assert weights["negative"] == pytest.approx(2 * full["negative"])
    assert weights["positive"] == pytest.approx(0.5 * full["positive"])
    raw = losses(batch, pixels="all", train_loops=0)
    assert losses(batch, pixels="all", loop_weights=(1.0, 0.0))["negative"] == pytest.approx(raw["negative"], rel=1e-5)
    assert full["negative"] > raw["negative"]
    for change in ({"loss": "means"}, {"hinge": "linear"}, {"margin": 0.2}, {"bandwidth": 0.9}, {"stride": 8}):
        assert losses(batch, pixels="all", **change)["negative"] != pytest.approx(full["negative"], rel=1e-4), change
    extra = losses(batch, semantic_grouping=2.0, boundary=True)
    assert {"classes", "edges", "boundary"} <= set(extra)
    assert extra["classes"] == pytest.approx(
        2 * losses(batch, semantic_grouping=1.0, boundary=True)["classes"], rel=1e-4
    )


def test_samples_follow_the_seed() -> None:
    batch = scenes(1)
    assert losses(batch) == losses(batch)
    everything = losses(batch, pixels="all")
    assert losses(batch)["positive"] != pytest.approx(everything["positive"], rel=1e-4)
    assert losses(batch, sample_ratio=1.0)["positive"] == pytest.approx(everything["positive"], rel=1e-4)
    assert losses(batch, sample_ratio=1.0, sample_most=30)["positive"] != pytest.approx(
        everything["positive"], rel=1e-4
    )


def test_ignored_pixels_have_no_say() -> None:
    batch = scenes(1)
    semantic = batch.semantic.clone()
    semantic[:, :32] = 255
    instances = batch.instances.clone()
    one = losses(dataclasses.replace(batch, semantic=semantic), pixels="all")
    instances[:, :32] = 9
    assert losses(dataclasses.replace(batch, semantic=semantic, instances=instances), pixels="all") == one


@pytest.mark.parametrize("decode", ["modes", "seeds"])
def test_groups_two_squares_on_a_background(decode: str) -> None:
    # An embedding as a trained network gives it: three directions at a quarter of the image's resolution.
    method = RecurrentMeanShift(RecurrentMeanShiftConfig(**SMALL, decode=decode), 2).eval()
    instances = torch.zeros(64, 64, dtype=torch.int64)
    instances[8:32, 8:32], instances[28:56, 36:60] = 1, 2
    noise = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    cells = to_sphere(torch.eye(16)[instances[2::4, 2::4]].permute(2, 0, 1) + 0.02 * noise, dim=0)
    pixels = torch.nn.functional.interpolate(cells[None], (64, 64), mode="bilinear")[0]
    probabilities = torch.eye(3)[2 * (instances > 0).long()].permute(2, 0, 1)
    embedding = SphereEmbedding(to_sphere(pixels, dim=0), probabilities, cells, None)
    groups = method.group(embedding, None)
    instances_found = method.score(groups, embedding, None)
    proposals = method.result(embedding, groups, instances_found, Seconds(0.0)).proposals
    for found, least in ((instances_found, 0.85), (proposals, 0.75)):
        for number in (1, 2):
            mask = instances == number
            overlaps = [float((mask & one).sum() / (mask | one).sum()) for one in found.masks[:3]]
            assert max(overlaps) > least
    if decode == "modes":
        # Every pixel of the class lies in one of two groups: those of the blurred outlines join the nearest object.
        assert groups.masks.unique().tolist() in ([0, 1, 2], [0, 2, 3])
        assert torch.equal(groups.masks > 0, instances > 0)


def test_boundary_is_a_task_only_where_it_is_learned() -> None:
    plain = RecurrentMeanShift(RecurrentMeanShiftConfig(**SMALL), 2)
    detecting = RecurrentMeanShift(RecurrentMeanShiftConfig(**SMALL, boundary=True), 2).eval()
    assert "boundary" not in plain.tasks
    assert "boundary" in detecting.tasks
    (prediction,) = detecting.predict(torch.rand(1, 3, 40, 56), torch.tensor([[80, 112]]))
    assert prediction.boundary.shape == (80, 112)


def test_true_classes_cut_the_groups() -> None:
    method = RecurrentMeanShift(RecurrentMeanShiftConfig(**SMALL, oracle="semantic"), 3).eval()
    semantic = torch.zeros(48, 48, dtype=torch.int64)
    semantic[8:30, 8:30] = 3
    (embedding,) = method.embed(torch.rand(1, 3, 48, 48), torch.tensor([[48, 48]]))
    groups = method.group(embedding, Truth(semantic, (semantic > 0).long()))
    assert torch.equal(groups.semantic, semantic)
    assert not groups.masks[semantic == 0].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimension": 0}, "dimension must be positive, not 0"),
        ({"train_loops": -1}, "train_loops must not be negative"),
        ({"class_balance": 1.5}, "class_balance in 0..1, not 0.5 and 1.5"),
        ({"margin": 1.0}, "below 1"),
        ({"loop_weights": (1.0, 1.0, 1.0)}, "loop_weights needs 1 or 2 values, not 3"),
    ],
)
def test_wrong_settings_say_what_is_wrong(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentMeanShiftConfig(**{**SMALL, **change})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hinge": "linear", "margin": 0.3},
        {"positive_weight": 2.0, "negative_weight": 3.0},
        {"train_loops": 2, "loop_weights": (1.0, 0.5, 0.25), "bandwidth": 0.4},
        {"loss": "means", "train_loops": 0},
    ],
)
def test_terms_are_the_pure_functions(fields: dict[str, object]) -> None:
    """The plugin's terms are the pure functions' with the config's values, put together by hand."""
    torch.manual_seed(0)
    config = RecurrentMeanShiftConfig(**{**SMALL, "pixels": "all", **fields})
    method, batch = RecurrentMeanShift(config, 6).eval(), scenes(1)
    points = method(batch.images).pixels[0].flatten(1).t()
    labels = at_cells(batch.instances, method(batch.images).pixels.shape[-2:]).flatten()
    expected = torch.zeros(2)
    for loop in range(config.train_loops + 1):
        if loop:
            points = mean_shift(points, config.bandwidth or (1 - config.margin) / 3, 1)
        if config.loss == "means":
            terms = torch.stack(mean_loss(points, labels))
        else:
            near, far = pair_loss(points, labels, margin=config.margin, hinge=config.hinge)
            terms = torch.stack([config.positive_weight * near, config.negative_weight * far])
        expected += config.loop_weights[loop % len(config.loop_weights)] * terms
    found = method.loss(batch)
    assert [found["positive"].item(), found["negative"].item()] == pytest.approx(expected.tolist(), rel=1e-4)


def test_steps_to_void_are_no_boundary() -> None:
    semantic = torch.tensor([[[1, 1, 255, 0, 0, 2]]])
    assert boundaries(semantic, torch.zeros_like(semantic)).tolist() == [[[False] * 4 + [True] * 2]]


def test_mean_shift_of_a_transposed_view_is_that_of_its_copy() -> None:
    points, _ = random_points(0, dimension=8)
    view = points.t().contiguous().t()
    torch.testing.assert_close(mean_shift(view, 0.3, 2), mean_shift(points, 0.3, 2))
