"""Spatial embeddings by hand: the grid, the Lovasz hinge, the loss on a few pixels, clusters on a line."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scenes

from benchmarks.cases.spatial_embeddings import our_loss, plain_clustering, plain_loss, plain_lovasz_hinge
from methods import spatial_embeddings
from methods.base import Embedding, MethodError, Truth
from methods.spatial_embeddings import (
    SpatialEmbeddings,
    SpatialEmbeddingsConfig,
    cluster,
    cluster_with_truth,
    gaussian,
    lovasz_hinge,
    margin_to_sigma,
    masks_of,
    pixel_grid,
    spatial_loss,
)

LN2 = math.log(2.0)


def test_grid_is_the_official_one_and_goes_on() -> None:
    grid = pixel_grid(torch.zeros(1024, 2048))
    assert torch.equal(grid[0, 0], torch.linspace(0, 2, 2048))
    assert torch.equal(grid[1, :, 0], torch.linspace(0, 1, 1024))
    assert torch.equal(pixel_grid(torch.zeros(30, 40)), grid[:, :30, :40])
    beyond = pixel_grid(torch.zeros(1100, 2100, dtype=torch.float64))
    torch.testing.assert_close(beyond[0, 7], torch.arange(2100).double() * 2 / 2047)
    torch.testing.assert_close(beyond[1, :, 7], torch.arange(1100).double() / 1023)


def test_unit_scales_the_grid() -> None:
    grid = pixel_grid(torch.zeros(101, 202, dtype=torch.float64), unit=100)
    assert grid[1, 100, 0] == 1.0
    assert grid[0, 0, 201] == 2.0


def test_margin_is_where_the_gaussian_is_a_half() -> None:
    scale = torch.tensor([math.exp(10.0 * margin_to_sigma(0.25))])
    assert gaussian(torch.tensor([0.25, 0.0]), torch.zeros(2), scale).item() == pytest.approx(0.5)
    # The network starts from sigma = 1: 5.7 pixels of 1/1023.
    assert math.sqrt(LN2 / math.exp(10.0)) * 1023 == pytest.approx(5.7, abs=0.05)


def test_lovasz_hinge_worked_by_hand() -> None:
    # Logits 0.5, -0.5, 0.2 for labels 1, 1, 0: errors 0.5, 1.5, 1.2. In descending order they belong to a positive, the
    # negative, a positive; the Jaccard loss grows to 1 - 1/2, 1 - 1/3, 1: steps 1/2, 1/6, 1/3.
    # 1.5 / 2 + 1.2 / 6 + 0.5 / 3 = 1.116667.
    logits = torch.tensor([0.5, -0.5, 0.2], dtype=torch.float64, requires_grad=True)
    loss = lovasz_hinge(logits, torch.tensor([True, True, False]))
    loss.backward()
    assert loss.item() == pytest.approx(1.116667, abs=1e-6)
    assert logits.grad.tolist() == pytest.approx([-1 / 3, -1 / 2, 1 / 6])


def test_lovasz_hinge_of_signs_is_the_jaccard_loss() -> None:
    # Logits +-1 make errors of 0 or 2: twice the Jaccard loss. 2 of 3 pixels of the mask found, 1 too many: IoU 2/4.
    logits = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    assert lovasz_hinge(logits, torch.tensor([True, True, True, False, False])).item() == pytest.approx(2 * 0.5)


def test_lovasz_hinge_of_nothing_is_zero() -> None:
    assert lovasz_hinge(torch.zeros(0), torch.zeros(0, dtype=torch.bool)).item() == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.floats(0, 1))
def test_lovasz_hinge_is_the_written_out_one(seed: int, count: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(count, generator=generator, dtype=torch.float64)
    labels = torch.rand(count, generator=generator) < share
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    lovasz_hinge(one, labels).backward()
    plain_lovasz_hinge(other, labels).backward()
    torch.testing.assert_close(one.grad, other.grad)


# One row of four pixels: instance 1 on the first two, a pixel of its class that is in no instance, and background.
SEMANTIC, INSTANCES = torch.tensor([[[1, 1, 1, 0]]]), torch.tensor([[[1, 1, 0, 0]]])


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1)


def test_loss_worked_by_hand() -> None:
    # Embeddings x = 0, 2, 9, 9 (y = 0), centre 1 on the grid, sigmas whose mean over the instance is s, exp(10 s) =
    # ln 2: both pixels have phi = 1/2, and the far ones none. Logits 0: errors 1, 1, 0, 0, the first with steps of 1.
    # Variance: sigma is 0.1 from its mean: 0.01. Seed, all scores 1/2: equal to phi on the instance; nothing for the
    # pixel without one; background 1/4, over four pixels: 0.0625.
    mean = math.log(LN2) / 10.0
    embeddings = torch.stack([row(0, 2, 9, 9)[0], row(0, 0, 0, 0)[0]])[None]
    sigmas = row(mean - 0.1, mean + 0.1, 5, 5)[None]
    grid = torch.stack([row(0, 2, 4, 6)[0], row(0, 0, 0, 0)[0]])
    terms = spatial_loss(embeddings, sigmas, torch.zeros_like(sigmas), SEMANTIC, INSTANCES, grid=grid)
    assert [term.item() for term in terms] == pytest.approx([1.0, 0.01, 0.0625])


def test_foreground_weight_is_of_the_class() -> None:
    # Two classes of one pixel each, at their centres: phi = 1. Seed scores 1/2 cost 1/4 for a pixel and map: 10 and 20
    # times on the own class's, once on the other's; over two pixels: (10 + 20 + 1 + 1) / 4 / 2 = 4.
    semantic, instances = torch.tensor([[[1, 2]]]), torch.tensor([[[1, 2]]])
    grid = torch.tensor([[[0.0, 9.0]], [[0.0, 0.0]]])
    inputs = grid[None], torch.zeros(1, 1, 1, 2), torch.zeros(1, 2, 1, 2), semantic, instances
    assert spatial_loss(*inputs, grid=grid, foreground_weight=(10.0, 20.0))[2].item() == pytest.approx(4.0)


def test_ignored_pixels_have_no_seed_and_no_instance() -> None:
    semantic = torch.where(INSTANCES == 1, 255, SEMANTIC)
    inputs = torch.rand(1, 2, 1, 4), torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4), semantic, INSTANCES
    instance, variance, seed = spatial_loss(*inputs, grid=None)
    assert (instance.item(), variance.item()) == (0.0, 0.0)
    assert seed.item() == pytest.approx(0.25 / 4)  # the background pixel alone


def random_scene(seed: int, bandwidths: int, size: tuple[int, int] = (19, 23)) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(2, 3 + bandwidths, *size, generator=generator, dtype=torch.float64)
    output[:, :2] *= 0.01
    output[:, 2:-1] = 0.8 + 0.1 * output[:, 2:-1]  # margins of some 15 pixels
    instances = torch.randint(0, 5, (2, *size), generator=generator)
    crowd = torch.rand(2, *size, generator=generator) < 0.1
    return output, ((instances > 0) | crowd).long(), instances


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2]), st.booleans())
def test_loss_and_gradient_are_the_written_out_ones(seed: int, bandwidths: int, centroid: bool) -> None:
    output, semantic, instances = random_scene(seed, bandwidths)
    one, other = output.clone().requires_grad_(), output.clone().requires_grad_()
    ours, plain = (loss(leaf, semantic, instances, centroid) for loss, leaf in ((our_loss, one), (plain_loss, other)))
    assert ours.item() == pytest.approx(plain.item(), rel=1e-10)
    ours.backward()
    plain.backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=0.0, atol=1e-9 * float(other.grad.abs().max()))


def test_what_is_left_out_is_exact_where_a_pixel_sits_on_the_centre() -> None:
    # One pixel at its own centre: phi is 1, its error 0, and every other pixel counts before it.
    output = torch.zeros(1, 4, 9, 9, dtype=torch.float64)
    output[:, 2] = 1.3
    instances = torch.zeros(1, 9, 9, dtype=torch.int64)
    instances[0, 4, 4] = 7
    for centroid in (True, False):
        inputs = output, (instances > 0).long(), instances, centroid
        assert our_loss(*inputs).item() == pytest.approx(plain_loss(*inputs).item(), rel=1e-10)


def test_loss_of_a_batch_in_another_memory_format() -> None:
    output, semantic, instances = random_scene(0, 2)
    expected = our_loss(output, semantic, instances)
    found = our_loss(output.to(memory_format=torch.channels_last), semantic, instances)
    torch.testing.assert_close(found, expected)


def line(places: list[float], seeds: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings on a line, all with the margin 1."""
    x = torch.tensor(places).view(1, -1)
    sigmas = torch.full((1, 1, len(places)), margin_to_sigma(1.0))
    return torch.stack([x, torch.zeros_like(x)]), sigmas, torch.tensor(seeds).view(1, -1)


def test_clusters_worked_by_hand() -> None:
    # The best seed 0.99 at 0 takes what is nearer than 1: the first three. Next 0.95 at 5 takes 5, 5.3 and 5.5. The
    # pixel at 20 is below the threshold, and the one at 0.2 below the foreground.
    lines = line([0.0, 0.5, 0.9, 5.0, 5.3, 5.5, 20.0, 0.2], [0.99, 0.6, 0.7, 0.95, 0.93, 0.6, 0.8, 0.4])
    proposals = cluster(*lines, min_pixels=0)
    assert masks_of(proposals, lines[2]).long().tolist() == [[[1, 1, 1, 0, 0, 0, 0, 0]], [[0, 0, 0, 1, 1, 1, 0, 0]]]
    assert [proposal.score for proposal in proposals] == pytest.approx([0.99, 0.95])


def test_a_pixel_alone_is_no_instance() -> None:
    # Not counting the seed itself, nothing of its proposal was free. Nor are two: a half is not more than a half.
    assert cluster(*line([0.0, 5.0, 5.5], [0.99, 0.99, 0.98]), min_pixels=0) == []


def test_a_proposal_holds_taken_pixels_and_is_dropped_if_most_were() -> None:
    # 0 takes 0, 0.6, 0.9. The seed at 1.5 reaches 0.6, 0.9, 1.5, 1.7, 1.8. Not counting itself, 2 of the 5 were free:
    # at a half it is dropped, and its pixels are gone; at a third it is kept whole, and the masks overlap.
    lines = line([0.0, 0.6, 0.9, 1.5, 1.7, 1.8], [0.99, 0.6, 0.6, 0.95, 0.94, 0.6])
    assert len(cluster(*lines, min_pixels=0)) == 1
    kept = cluster(*lines, min_pixels=0, min_unclustered=1 / 3)
    assert masks_of(kept, lines[2]).long().tolist() == [[[1, 1, 1, 0, 0, 0]], [[0, 1, 1, 1, 1, 1]]]
    assert masks_of(kept, lines[2], overlapping=False).tolist() == [[1, 2, 2, 2, 2, 2]]


def test_more_than_min_pixels_are_needed() -> None:
    lines = line([0.0, 0.1, 0.2], [0.99, 0.99, 0.99])
    assert len(cluster(*lines, min_pixels=2)) == 1
    assert cluster(*lines, min_pixels=3) == []


def test_the_first_of_equal_seeds_goes_first() -> None:
    # Two halves 9 apart, each with a best pixel: that of the right half is in the first row, its tile is the second.
    places, sigmas, seeds = (
        torch.zeros(2, 2, 32),
        torch.full((1, 2, 32), margin_to_sigma(1.0)),
        torch.full((2, 32), 0.6),
    )
    places[0, :, 16:] = 9.0
    seeds[0, 20] = seeds[1, 2] = 0.95
    first, second = masks_of(cluster(places, sigmas, seeds, min_pixels=0), seeds)
    assert torch.equal(first, places[0] == 9.0)
    assert torch.equal(second, places[0] == 0.0)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1, 2]),
    st.sampled_from([(33, 47), (16, 32), (5, 90)]),
    st.integers(0, 30),
    st.booleans(),
)
def test_clusters_are_those_of_the_plain_loop(
    seed: int, bandwidths: int, size: tuple[int, int], least: int, ties: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(3 + bandwidths, *size, generator=generator)
    output[:2] *= 0.01
    output[2:-1] = 1.0 + 0.05 * output[2:-1]
    output[-1] *= 3.0
    if ties:
        output[-1] = output[-1].round()
    places, sigmas, seeds = pixel_grid(output) + output[:2].tanh(), output[2:-1], output[-1].sigmoid()
    proposals = cluster(places, sigmas, seeds, threshold=0.6, min_pixels=least)
    assert torch.equal(masks_of(proposals, seeds), plain_clustering(output, threshold=0.6, least=least))


def test_strange_bandwidths_end() -> None:
    # An infinite scale holds not even the seed (0 times infinity), a scale of 0 holds all.
    for value in (math.inf, math.nan, 1e3, -1e3):
        places, sigmas, seeds = line([0.0, 0.1, 0.2], [0.99, 0.98, 0.97])
        found = cluster(places, torch.full_like(sigmas, value), seeds, min_pixels=1)
        assert [len(proposal.pixels) for proposal in found] == ([3] if value == -1e3 else [])


def test_clusters_around_true_means() -> None:
    # Instance 3 at 0 and 1: mean 0.5 reaches down to -0.5 and up to 1.5, whatever the annotation says.
    places, sigmas, seeds = line([0.0, 1.0, 1.4, 1.6], [0.8, 0.6, 0.1, 0.1])
    (proposal,) = cluster_with_truth(places, sigmas, seeds, torch.tensor([[3, 3, 0, 0]]))
    assert proposal.pixels.tolist() == [0, 1, 2]
    assert proposal.score == pytest.approx(0.7)


def build(**changes: object) -> SpatialEmbeddings:
    torch.manual_seed(0)
    return SpatialEmbeddings(SpatialEmbeddingsConfig(**changes), 2)


DENSE = {"network": "dense", "encoder": "tf_efficientnet_lite0", "decoder": "FPN", "decoder_channels": 64}


@pytest.mark.parametrize("network", [{}, DENSE], ids=["erfnet", "dense"])
@pytest.mark.parametrize("sigma", ["circular", "elliptical", "fixed"])
def test_training_starts_from_zero_offsets_and_the_first_margin(network: dict[str, object], sigma: str) -> None:
    method = build(sigma=sigma, fixed_margin=10.0, unit=100, **network).eval()
    with torch.no_grad():
        embeddings, sigmas, seeds = method(torch.rand(1, 3, 40, 48))
    assert torch.equal(embeddings[0], pixel_grid(embeddings, 100))
    assert sigmas.shape[1] == (2 if sigma == "elliptical" else 1)
    assert torch.allclose(sigmas, torch.tensor(margin_to_sigma(0.1) if sigma == "fixed" else 1.0))
    assert seeds.shape == (1, 2, 40, 48)
    assert seeds.std() > 0  # the seed branch keeps its own first weights


def test_embeddings_of_a_resized_image_stay_in_the_networks_image() -> None:
    method = build(unit=40).eval()
    with torch.inference_mode():
        (embedding,) = method.embed(torch.rand(1, 3, 20, 40), torch.tensor([[40, 80]]))
    # Twice the size: the pixels' centres are at -0.25 (held at the border), 0.25, 0.75, 1.25, ... of the network's.
    x = torch.tensor([0.0, 0.25, 0.75, 1.25]) * 2 / 81
    torch.testing.assert_close(embedding.pixels[0, 0, :4], x, atol=1e-6, rtol=0.0)
    assert torch.equal(embedding.probabilities[0], 1.0 - embedding.probabilities[1:].amax(0))


def two_classes() -> Embedding:
    """Class 1 at 0, 0.5, 0.6; class 2 at 1.2, 1.3, 1.4: within 1 of 0.5, so that its proposal takes some of class 1."""
    places, sigmas, _ = line([0.0, 0.5, 0.6, 1.2, 1.3, 1.4], [0.0] * 6)
    seeds = torch.tensor([[[0.95, 0.7, 0.7, 0.1, 0.1, 0.1]], [[0.1, 0.1, 0.1, 0.92, 0.7, 0.7]]])
    return Embedding(torch.cat([places, sigmas]), torch.cat([1.0 - seeds.amax(0, keepdim=True), seeds]))


def test_classes_are_clustered_one_after_the_other() -> None:
    groups = build(min_pixels=1).group(two_classes(), None)
    assert groups.semantic.tolist() == [[1, 1, 1, 2, 2, 2]]
    assert groups.labels.tolist() == [1, 2]
    assert groups.confidence.tolist() == pytest.approx([0.95, 0.92])
    assert groups.masks.long().tolist() == [[[1, 1, 1, 0, 0, 0]], [[0, 0, 0, 1, 1, 1]]]  # each among its own class


def test_least_pixels_may_be_a_share_of_the_image() -> None:
    assert len(build(min_fraction=0.4).group(two_classes(), None).masks) == 2  # 3 of 6 pixels
    assert len(build(min_fraction=0.5).group(two_classes(), None).masks) == 0


def test_true_semantics_limit_what_is_grouped() -> None:
    truth = Truth(torch.tensor([[1, 1, 255, 2, 0, 2]]), torch.tensor([[1, 1, 1, 2, 2, 2]]))
    groups = build(min_pixels=1, min_unclustered=0.4, oracle="semantic").group(two_classes(), truth)
    assert groups.semantic.tolist() == [[1, 1, 0, 2, 0, 2]]
    assert groups.masks.long().tolist() == [[[1, 1, 0, 0, 0, 0]], [[0, 0, 0, 1, 0, 1]]]


def test_true_seeds_hold_every_pixel_in_reach() -> None:
    # Means 0.25 of instance 1 (class 1) and 1.3 of instance 2 (class 2) reach 0..1.2 and 0.5..1.4; void is not used.
    truth = Truth(torch.tensor([[1, 1, 255, 2, 2, 2]]), torch.tensor([[1, 1, 1, 2, 2, 2]]))
    groups = build(oracle="seeds").group(two_classes(), truth)
    assert groups.labels.tolist() == [1, 2]
    assert groups.masks.long().tolist() == [[[1, 1, 1, 1, 0, 0]], [[0, 1, 1, 1, 1, 1]]]
    assert build(oracle="seeds", overlap="map").group(two_classes(), truth).masks.tolist() == [[1, 2, 2, 2, 2, 2]]


def test_true_stages_need_ground_truth() -> None:
    for oracle in ("semantic", "seeds"):
        with pytest.raises(MethodError, match="needs the ground truth"):
            build(oracle=oracle).eval().predict(torch.zeros(1, 3, 32, 32), torch.tensor([[32, 32]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": 0}, "must be positive"),
        ({"threshold": 1.5}, "threshold must be in 0..1"),
        ({"min_pixels": -1}, "min_pixels must not be negative"),
        ({"foreground_weight": (1.0, 2.0, 3.0)}, "needs 1 or 2 values"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize("centre", ["centroid", "learnable"])
def test_settings_reach_the_loss(centre: str) -> None:
    """The plugin's terms are the pure function's, each with its own weight."""
    weights = {"instance_weight": 2.0, "variance_weight": 3.0, "seed_weight": 5.0, "foreground_weight": (4.0, 7.0)}
    method, batch = build(centre=centre, unit=64, **weights).eval(), scenes(1)
    batch = dataclasses.replace(batch, semantic=(batch.semantic > 0).long() + (batch.semantic > 3).long())
    with torch.no_grad():
        for parameter in method.parameters():  # away from the start, where offsets are 0 and both centres are one
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        embeddings, sigmas, seeds = method(batch.images)
        grid = pixel_grid(embeddings, 64) if centre == "centroid" else None
        terms = spatial_loss(
            embeddings, sigmas, seeds, batch.semantic, batch.instances, grid=grid, foreground_weight=(4.0, 7.0)
        )
        found = method.loss(batch)
    for name, term, weight in zip(("instance", "variance", "seed"), terms, (2.0, 3.0, 5.0), strict=True):
        assert found[name].item() == pytest.approx(weight * term.item(), rel=1e-5), name


def test_of_too_many_instances_the_best_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatial_embeddings, "_MOST", 1)
    groups = build(min_pixels=1).group(two_classes(), None)
    assert groups.labels.tolist() == [1]
    assert groups.confidence.tolist() == pytest.approx([0.95])
