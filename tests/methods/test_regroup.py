"""Each algorithm on embeddings made by hand, and every method's embedding under every algorithm."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_contract import CLASSES, GROUPING, TINY, assert_same, check_instances
from scenes import scenes

from harness.plan import load_method
from methods.base import Embedding, Features, Groups, MethodError
from methods.grouping import GroupingConfig
from methods.recurrent_mean_shift import RecurrentMeanShift, RecurrentMeanShiftConfig, SphereEmbedding
from methods.regroup import ALGORITHMS, REGROUPS, cell_side, on_sphere, regroup
from methods.spatial_embeddings import SpatialEmbeddings, SpatialEmbeddingsConfig

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ("center_fixed", "center_shift", "mean_shift", "best_seed")


# Two rows of a class map: two instances of class 1 that touch, a gap, one of class 3.
SEMANTIC = torch.tensor([[1, 1, 1, 1, 0, 3, 3], [1, 1, 1, 1, 0, 3, 3]])
TRUE = torch.tensor([[1, 1, 2, 2, 0, 3, 3], [1, 1, 2, 2, 0, 3, 3]])


def certain(semantic: torch.Tensor, classes: int = 3) -> torch.Tensor:
    """Probabilities that agree with a class map, a little surer further to the right."""
    surely = 0.6 + 0.3 * torch.linspace(0, 1, semantic.shape[1]).expand(semantic.shape)
    rest = ((1 - surely) / classes).expand(classes + 1, *semantic.shape).clone()
    return rest.scatter(0, semantic.unsqueeze(0), surely.unsqueeze(0))


def partition(groups: Groups) -> list[list[int]]:
    """The groups as sorted lists of flat pixels, and in the order of the first of them."""
    masks = groups.masks
    if masks.dtype == torch.int64:
        masks = masks.unsqueeze(0) == torch.arange(1, int(masks.max()) + 1).view(-1, 1, 1)
    return sorted(mask.flatten().nonzero()[:, 0].tolist() for mask in masks)


TRUE_PARTITION = partition(Groups(SEMANTIC, TRUE))


def found(algorithm: str, features: Features, radius: float, semantic: torch.Tensor = SEMANTIC) -> Groups:
    return regroup(algorithm, features, semantic, certain(semantic), radius)


@pytest.mark.parametrize("algorithm", EMBEDDED)
@pytest.mark.parametrize("scale", [1.0, 0.01, 300.0])
def test_instances_apart_in_a_plain_space_are_found(algorithm: str, scale: float) -> None:
    # Means at 0, 4 and 0 again (another class), each pixel at most 0.3 from its mean: any radius between 0.6 and 3.4
    # tells the two of class 1 apart.
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[9.0, 9.0], [0.0, 0.0], [4.0, 0.0], [0.0, 0.0]])
    points = means[TRUE].movedim(-1, 0) + 0.2 * (2 * torch.rand(2, 2, 7, generator=generator) - 1)
    groups = found(algorithm, Features(scale * points, 1.0), 1.5 * scale)
    assert partition(groups) == TRUE_PARTITION
    assert sorted(groups.labels.tolist()) == [1, 1, 3]


@pytest.mark.parametrize("algorithm", EMBEDDED)
def test_instances_apart_on_the_sphere_are_found(algorithm: str) -> None:
    # At 0 and 60 degrees, within 5 degrees of it: chords of 0.17 within and 0.85 between.
    degrees = torch.tensor([200.0, 0.0, 60.0, 0.0])[TRUE] + torch.linspace(-5, 5, 14).view(2, 7)
    points = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()])
    assert partition(found(algorithm, Features(points, 0.5, spherical=True), 0.5)) == TRUE_PARTITION


@pytest.mark.parametrize("algorithm", EMBEDDED)
def test_a_radius_beyond_all_gives_one_group_a_class(algorithm: str) -> None:
    points = torch.rand(3, 2, 7, generator=torch.Generator().manual_seed(1))
    groups = found(algorithm, Features(points, 1.0), 50.0)
    assert partition(groups) == [[0, 1, 2, 3, 7, 8, 9, 10], [5, 6, 12, 13]]


def test_pieces_look_at_the_class_map_alone() -> None:
    groups = found("pieces", Features(torch.full((1, 2, 7), math.nan), 1.0), 1.0)
    assert groups.masks.tolist() == [[1, 1, 1, 1, 0, 2, 2]] * 2
    assert groups.labels.tolist() == [1, 3]
    torch.testing.assert_close(groups.confidence, torch.tensor([0.6 + 0.3 * 3 / 6, 0.9]))  # the surest pixel


def test_the_first_seed_is_the_surest_pixel() -> None:
    # One class. The surest pixel is the last, at 1.0: with a radius of 0.45 it takes 0.9 and 0.7. Then 0.3 takes 0, 0.1
    # and 0.2 and, as proposals may overlap, 0.7 again: 3 of 5 were free beside the seed, which is more than a half.
    semantic = torch.ones(1, 7, dtype=torch.int64)
    places = torch.tensor([[[0.0, 0.1, 0.2, 0.3, 0.7, 0.9, 1.0]]])
    groups = regroup("best_seed", Features(places, 1.0), semantic, certain(semantic), 0.45)
    assert groups.masks.int().tolist() == [[[0, 0, 0, 0, 1, 1, 1]], [[1, 1, 1, 1, 1, 0, 0]]]
    torch.testing.assert_close(groups.confidence, torch.tensor([0.9, 0.75]))


def test_small_proposals_are_none() -> None:
    features = Features(torch.tensor([[[0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0, 9.0]]]), 1.0)
    semantic = torch.ones(1, 8, dtype=torch.int64)
    for min_size, count in ((0, 2), (4, 1), (5, 0)):  # a pixel alone is none: beside the seed nothing is free
        assert len(regroup("best_seed", features, semantic, certain(semantic), 1.0, min_size).masks) == count


@pytest.mark.parametrize("algorithm", EMBEDDED)
def test_pixels_of_a_class_that_the_network_ruled_out_are_grouped(algorithm: str) -> None:
    """The true class map may name pixels that have probability 0."""
    semantic = torch.full((3, 4), 2)
    probabilities = torch.eye(4)[torch.zeros_like(semantic)].movedim(-1, 0)
    groups = regroup(algorithm, Features(torch.zeros(2, 3, 4), 1.0), semantic, probabilities, 1.0)
    assert partition(groups) == [list(range(12))]
    assert groups.confidence.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_to_group(algorithm: str) -> None:
    groups = found(algorithm, Features(torch.rand(2, 3, 5), 1.0), 1.0, torch.zeros(3, 5, dtype=torch.int64))
    assert partition(groups) == []
    assert len(groups.labels) == len(groups.confidence) == 0


@pytest.mark.parametrize("algorithm", EMBEDDED)
def test_vectors_of_length_zero_and_networks_that_diverged_end(algorithm: str) -> None:
    """Equal and opposite vectors cancel in a cell; NaN is near nothing."""
    for value, spherical in ((0.0, True), (0.0, False), (math.nan, True), (math.nan, False)):
        found(algorithm, Features(torch.full((2, 2, 7), value), 1.0, spherical), 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(EMBEDDED[:3]), st.floats(0.05, 3.0), st.booleans())
def test_every_pixel_of_a_class_is_in_one_group_of_that_class(
    seed: int, algorithm: str, radius: float, spherical: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(3, 6, 9, generator=generator)
    if spherical:
        points = torch.nn.functional.normalize(points, dim=0)
    semantic = torch.randint(0, 4, (6, 9), generator=generator)
    groups = found(algorithm, Features(points, 1.0, spherical), radius, semantic)
    assert torch.equal(groups.masks > 0, semantic > 0)
    assert sorted(groups.masks.unique().tolist()) == sorted({0, *range(1, len(groups.labels) + 1)})
    named = torch.cat([torch.zeros(1, dtype=torch.int64), groups.labels])
    assert torch.equal(named[groups.masks], semantic)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(-5.0, 5.0))
def test_a_large_sphere_is_flat(seed: int, scale: float, offset: float) -> None:
    points = scale * (torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)) + offset)
    placed, radius = on_sphere(Features(points, 1.0), scale)
    torch.testing.assert_close(placed.norm(dim=0), torch.ones(4, 5, dtype=torch.float64))
    near, far = torch.pdist(points.flatten(1).double().mT), torch.pdist(placed.flatten(1).mT)
    torch.testing.assert_close(far / radius * scale, near, rtol=0.011, atol=0.0)


def test_cells_bound_the_work() -> None:
    assert cell_side(torch.Size((64, 64))) == 1
    assert cell_side(torch.Size((65, 64))) == 2
    assert cell_side(torch.Size((512, 512))) == 8  # the stride of the paper's author
    assert cell_side(torch.Size((1024, 2048))) == 23


def test_large_images_are_grouped_by_their_cells() -> None:
    # Four squares of one class, each in a direction of its own; at 160 x 160 a cell is 3 x 3 pixels, and those at the
    # borders are mixtures. Pixels go to the nearest mode one by one, so that the borders are sharp all the same.
    instances = (torch.arange(160).view(-1, 1) // 80) * 2 + torch.arange(160) // 80
    points = torch.eye(4)[instances].movedim(-1, 0)
    semantic = torch.ones_like(instances)
    groups = regroup("mean_shift", Features(points, 0.5, spherical=True), semantic, certain(semantic), 0.5)
    assert torch.equal(instances.unique(return_inverse=True)[1] + 1, canonical(groups.masks, instances))


def canonical(ids: torch.Tensor, instances: torch.Tensor) -> torch.Tensor:
    """``ids`` renumbered to 1 + the instance that a group has most pixels of."""
    changed = torch.zeros_like(ids)
    for number in ids[ids > 0].unique():
        changed[ids == number] = instances[ids == number].mode().values + 1
    return changed


def test_mean_shift_of_cells_is_the_papers_own() -> None:
    """On the paper's embedding, with its bandwidth, the groups inside the class map are those of the method itself."""
    config = {**TINY["recurrent_mean_shift"], "stride": 1, "threshold": 1 - 0.5**2 / 2}
    method = RecurrentMeanShift(RecurrentMeanShiftConfig(**config), 2).eval()
    instances = torch.zeros(32, 32, dtype=torch.int64)
    instances[4:12, 4:12], instances[4:20, 14:30] = 1, 2
    noise = 0.05 * torch.randn(16, 32, 32, generator=torch.Generator().manual_seed(0))
    points = torch.nn.functional.normalize(torch.eye(16)[instances].movedim(-1, 0) + noise, dim=0)
    embedding = SphereEmbedding(points, torch.eye(3)[(instances > 0).long()].movedim(-1, 0), points, None)
    own = method.group(embedding, None)
    features = method.features(embedding)
    assert features.radius == pytest.approx(0.5)  # three bandwidths
    other = regroup("mean_shift", features, own.semantic, embedding.probabilities, features.radius)
    assert partition(other) == [part for part in partition(own) if part]


@pytest.mark.parametrize("order", ["center_shift", "center_fixed"])
def test_pull_push_is_grouped_as_it_groups_itself(order: str) -> None:
    method = build("pull_push", grouping=order, threshold=1.2)
    other = build("pull_push", regroup=order)
    again = build("pull_push", regroup=order, regroup_threshold=1.2)
    batch = scenes(2)
    predictions = (one.predict(batch.images, batch.sizes) for one in (method, other, again))
    for expected, first, second in zip(*predictions, strict=True):
        assert len(expected.instances.scores)
        for found in (first, second):
            assert torch.equal(found.instances.masks, expected.instances.masks)
            assert torch.equal(found.instances.labels, expected.instances.labels)
            assert torch.equal(found.instances.scores, expected.instances.scores)


def test_segsort_has_pieces_of_its_own() -> None:
    batch = scenes(3)
    predictions = []
    for config in ({"neighbours": 1}, {"neighbours": 1, "regroup": "pieces"}):
        method = build("segsort", **config)
        method.prepare([batch])
        predictions.append(method.predict(batch.images, batch.sizes)[0])
    assert len(predictions[0].instances.scores)
    assert_same(*predictions)
    assert predictions[1].retrieval is not None


def test_spatial_features_are_places() -> None:
    method = SpatialEmbeddings(SpatialEmbeddingsConfig(sigma="elliptical", unit=512, fixed_margin=16), 2)
    embedding = Embedding(torch.arange(4.0).view(4, 1, 1), torch.zeros(3, 1, 1))
    features = method.features(embedding)
    assert features.points.flatten().tolist() == [0, 1]
    assert features.radius == 16 / 512


def build(name: str, **change: object) -> torch.nn.Module:
    torch.manual_seed(0)
    method_class = load_method(name)
    return method_class(method_class.Config(**{**TINY[name], **change}), CLASSES).eval()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", GROUPING)
@pytest.mark.parametrize("oracle", ["none", "semantic"])
def test_every_method_under_every_algorithm(name: str, algorithm: str, oracle: str) -> None:
    """The contract's promises on predictions; with the true class map no instance leaves it."""
    method, batch = build(name, regroup=algorithm, oracle=oracle, scorer="class_probability"), scenes(1)
    method.prepare([batch])
    truth = batch if method.needs_truth() else None
    (prediction,) = method.predict(batch.images, batch.sizes, truth)
    check_instances(prediction.instances, [64, 64])
    assert ((prediction.instances.labels >= 1) & (prediction.instances.labels <= CLASSES)).all()
    assert (prediction.proposals is not None) == ("proposals" in method.tasks)
    assert prediction.seconds.grouping > 0
    if oracle == "semantic":
        (semantic,) = batch.semantic
        assert len(prediction.instances.masks)
        assert torch.equal(prediction.semantic.long(), torch.where(semantic == 255, 0, semantic))
        for mask, label in zip(prediction.instances.masks, prediction.instances.labels, strict=True):
            assert (semantic[mask] == label).all()
        assert_same(prediction, method.predict(batch.images, batch.sizes, truth)[0])


def test_own_is_the_default() -> None:
    assert GroupingConfig().regroup == REGROUPS[0] == "own"


def test_what_cannot_be() -> None:
    features = Features(torch.zeros(1, 2, 7), 1.0)
    with pytest.raises(MethodError, match="regroup = magic: unknown; available: own, pieces"):
        found("magic", features, 1.0)
    with pytest.raises(MethodError, match=r"radius above 0, not 0\.0: set regroup_threshold"):
        found("center_shift", features, 0.0)
    with pytest.raises(ValueError, match="regroup_threshold must not be -1"):
        GroupingConfig(regroup_threshold=-1)
    with pytest.raises(ValueError, match="not of regroup = center_shift"):
        SpatialEmbeddingsConfig(oracle="seeds", regroup="center_shift")


def test_no_method_loads_the_files_of_others() -> None:
    """Or a change to one paper's file would make every training of every method anew."""
    code = "import methods.pull_push, sys\n"
    code += "assert not {'methods.segsort', 'methods.spatial_embeddings'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)
