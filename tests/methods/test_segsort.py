"""SegSort by hand: grids, k-means on a circle, the loss of three pixels, the memory, the bank and its votes."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scenes

from harness.train import load_weights, save_weights
from methods.base import Batch, Embedding, MethodError
from methods.segsort import (
    Prototypes,
    SegSort,
    SegSortConfig,
    connected_pieces,
    contours,
    first_argmax,
    locations,
    majority_prototypes,
    mean_directions,
    nearest,
    oversegment,
    region_loss,
    remember,
    segment_sorting_loss,
    split_by_class,
    start_grid,
    unit,
    vmf_kmeans,
)

SMALL = {"encoder": "tf_efficientnet_lite0", "decoder": "FPN", "decoder_channels": 64, "pretrained": False, "stride": 2}


def build(**fields: object) -> SegSort:
    torch.manual_seed(0)
    return SegSort(SegSortConfig(**{**SMALL, **fields}), 6)


def angles(*degrees: float) -> torch.Tensor:
    turned = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([turned.cos(), turned.sin()], dim=1)


def single(batch: Batch, index: int) -> Batch:
    part = slice(index, index + 1)
    return Batch(batch.images[part], batch.semantic[part], batch.instances[part], batch.sizes[part])


def test_start_grids_by_hand() -> None:
    # Five rows in two blocks: ceil(5 / 2) = 3 rows, then 2; three columns in two: 2, then 1. Rows count fastest.
    assert start_grid((5, 3), (2, 2), "blocks").tolist() == [[0, 0, 2]] * 3 + [[1, 1, 3]] * 2
    # SPML: five rows lie at 0, .5, 1, 1.5, 2 of three points; halves round to the even one.
    assert start_grid((5, 1), (3, 1), "centres")[:, 0].tolist() == [0, 0, 1, 2, 2]


def test_locations_by_hand() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    assert locations((2, 4), "corner", like)[:, 1, 3].tolist() == [0.5, 0.75]
    assert locations((3, 5), "centred", like)[:, [0, 1, 2], [0, 2, 4]].tolist() == [[-0.5, 0, 0.5], [-0.5, 0, 0.5]]


def test_kmeans_worked_by_hand() -> None:
    # Clusters {0, 90 degrees} and {80, 100} have means at 45 and 90: 80 and 90 go to the second, 0 to the first; then
    # the means are 0 and 90 and nothing changes.
    features = angles(0, 90, 80, 100)
    assert vmf_kmeans(features, torch.tensor([0, 0, 1, 1]), 2).tolist() == [0, 1, 1, 1]
    assert vmf_kmeans(features, torch.tensor([0, 0, 1, 1]), 2, iterations=0).tolist() == [0, 0, 1, 1]


def test_an_empty_cluster_is_never_chosen_or_attracts() -> None:
    # Of three clusters the first is empty. The mean of 0, 170 and 190 degrees is at 180, that of cluster 2 at 185: the
    # pixel at 0 degrees has the similarities -1 and -0.996, and the zero prototype's 0 is better than both.
    features, start = angles(0, 170, 190, 185), torch.tensor([1, 1, 1, 2])
    assert vmf_kmeans(features, start, 3, iterations=1, empty="never")[0] == 2
    assert vmf_kmeans(features, start, 3, iterations=1, empty="attract")[0] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
def test_kmeans_is_the_written_out_loop(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = unit(torch.randn(60, 5, generator=generator, dtype=dtype))
    start = torch.randint(0, 6, (60,), generator=generator)
    clusters = start
    for _ in range(10):
        sums = torch.stack([features[clusters == number].sum(0) for number in range(6)])
        similarity = features @ torch.nn.functional.normalize(sums, dim=1).t()
        similarity[:, torch.bincount(clusters, minlength=6) == 0] = -math.inf
        clusters = similarity.argmax(1)
    assert torch.equal(vmf_kmeans(features, start, 6), clusters)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([3, 255, 256, 300]))
def test_first_argmax_is_the_first_of_equals(seed: int, count: int) -> None:
    values = torch.randint(0, 4, (count, 20), generator=torch.Generator().manual_seed(seed))
    assert first_argmax(values).tolist() == np.argmax(values.numpy(), axis=0).tolist()


def test_a_diverged_network_makes_no_cluster_that_does_not_exist() -> None:
    assert (first_argmax(torch.full((4, 3), math.nan)) < 4).all()


def test_clusters_split_at_class_borders() -> None:
    segments, classes = split_by_class(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 0, 2, 2, 0]))
    assert segments.tolist() == [1, 0, 3, 3, 2]
    assert classes.tolist() == [0, 2, 0, 2]


def test_mean_directions_and_zero_vectors() -> None:
    found = mean_directions(angles(0, 90, 45), torch.tensor([0, 0, 2]), 3)
    torch.testing.assert_close(found, torch.cat([angles(45), torch.zeros(1, 2).double(), angles(45)]))
    leaf = torch.zeros(1, 3, requires_grad=True)
    unit(leaf).sum().backward()
    assert torch.isfinite(leaf.grad).all()


# A pixel at 0 degrees in the first of four segments: its own at 0, another of its class at 60, two of another at 90
# and 180. Dot products 1, 0.5, 0, -1.
PROTOTYPES, CLASSES = angles(0, 60, 90, 180), torch.tensor([1, 1, 0, 0])


def sorting(pixels: torch.Tensor, segment: int, form: str, classes: torch.Tensor = CLASSES) -> float:
    segments = torch.full((len(pixels),), segment)
    return segment_sorting_loss(pixels, segments, PROTOTYPES, classes, 2.0, form).item()


def test_loss_of_one_pixel_worked_by_hand() -> None:
    others = math.exp(0) + math.exp(-2)  # kappa = 2
    assert sorting(angles(0), 0, "vmf") == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + others)))
    assert sorting(angles(0), 0, "nca") == pytest.approx(-math.log(math.exp(1) / (math.exp(1) + others)))
    alone = torch.tensor([1, 2, 0, 0])  # the own prototype is the only one of its class: it counts after all
    others += math.exp(1)
    expected = -math.log(math.exp(2) / (math.exp(2) + others))
    assert sorting(angles(0), 0, "nca", alone) == pytest.approx(expected)


def test_loss_is_zero_where_there_is_one_class_and_finite_for_any_concentration() -> None:
    one = torch.ones(4, dtype=torch.int64)
    assert sorting(angles(0, 30), 0, "nca", one) == pytest.approx(0.0, abs=1e-30)
    leaf = angles(0, 180).requires_grad_()
    loss = segment_sorting_loss(leaf, torch.tensor([0, 0]), PROTOTYPES.float().double(), CLASSES, 1e4, "nca")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(leaf.grad).all()
    empty = segment_sorting_loss(angles(), torch.zeros(0).long(), PROTOTYPES, CLASSES, 2.0, "nca")
    assert empty.item() == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["nca", "vmf"]))
def test_loss_is_the_written_out_ratio_and_its_gradient_holds(seed: int, form: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([0, 0, 1, 2, 2, 3, 3])
    classes = torch.randint(0, 3, (6,), generator=generator)  # two rows are memory
    memory = unit(torch.randn(2, 3, generator=generator, dtype=torch.float64))

    def loss(raw: torch.Tensor) -> torch.Tensor:
        pixels = unit(raw)
        rows = torch.cat([mean_directions(pixels, segments, 4), memory])
        return segment_sorting_loss(pixels, segments, rows, classes, 10.0, form)

    pixels = unit(raw)
    rows = torch.cat([mean_directions(pixels, segments, 4), memory])
    expected = []
    for pixel, own in zip(pixels, segments.tolist(), strict=True):
        parts = (10 * rows @ pixel).exp().tolist()
        same = [part for row, part in enumerate(parts) if classes[row] == classes[own] and row != own]
        numerator = sum(same) if same and form == "nca" else parts[own]
        other = sum(part for row, part in enumerate(parts) if classes[row] != classes[own])
        expected.append(-math.log(numerator / (numerator + other)))
    assert loss(raw).item() == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)
    assert torch.autograd.gradcheck(loss, raw)


def test_regions_of_two_images_are_different_classes() -> None:
    # Two images of one pixel, both region 0, at right angles, kappa = 10: e^10 / (e^10 + 1) each.
    pixels = angles(0, 90).view(2, 2, 1, 1)
    loss = region_loss(pixels, torch.zeros(2, 1, 1, dtype=torch.int64), 10.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-10)))


def test_memory_is_a_queue_by_hand() -> None:
    memory = Prototypes(torch.zeros(0, 2).double(), *torch.zeros(2, 0, dtype=torch.int64))
    for step in range(1, 4):
        memory = remember(memory, angles(step), torch.tensor([step]), banks=2, rows=5)
    # After three steps with two banks the first is gone; the second is two steps old.
    assert memory.classes.tolist() == [2, 3]
    assert memory.origin.tolist() == [2, 1]
    torch.testing.assert_close(memory.directions, angles(2, 3))
    assert len(remember(memory, angles(4), torch.tensor([4]), banks=0, rows=5).classes) == 0
    many = remember(memory, angles(*range(9)), torch.arange(9), banks=2, rows=4)
    newest = many.origin == 1
    assert newest.sum() == 4
    torch.testing.assert_close(many.directions[newest], angles(*range(9))[many.classes[newest]])


def test_bank_keeps_the_commonest_class_of_a_cluster() -> None:
    # Cluster 1: two pixels of class 2 at 0 and 20 degrees, one of class 1: class 2, at 10. Cluster 3: a tie of classes
    # 0 and 5 goes to 0, at 50. Clusters 0 and 2 have no pixels and no row.
    found = majority_prototypes(
        angles(0, 20, 90, 50, 80), torch.tensor([1, 1, 1, 3, 3]), torch.tensor([2, 2, 1, 0, 5]), image=7
    )
    assert found.classes.tolist() == [2, 0]
    assert found.origin.tolist() == [7, 7]
    torch.testing.assert_close(found.directions, angles(10, 50))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 70), st.integers(1, 12), st.sampled_from([1, 3, 8]))
def test_nearest_are_those_of_a_full_stable_sort(seed: int, rows: int, k: int, block: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randint(-1, 2, (rows, 2), generator=generator).float()  # many equal products
    queries = torch.randint(-1, 2, (4, 2), generator=generator).float()
    values, found = nearest(queries, bank, k, block)
    order = np.argsort(-(queries @ bank.t()).numpy(), axis=1, kind="stable")[:, :k]
    assert found.tolist() == order.tolist()
    assert torch.equal(values, (queries @ bank.t()).gather(1, found))


def test_connected_pieces_by_hand() -> None:
    semantic = torch.tensor([[1, 0, 1], [2, 2, 1], [0, 1, 0]])  # corners do not connect
    ids, labels = connected_pieces(semantic)
    assert ids.tolist() == [[1, 0, 2], [4, 4, 2], [0, 3, 0]]
    assert labels.tolist() == [1, 1, 1, 2]


def test_regions_from_an_image() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 1.0
    regions = oversegment(image, 20)[0]
    assert not set(regions[:, :12].unique().tolist()) & set(regions[:, 20:].unique().tolist())
    assert regions.unique(return_counts=True)[1].min() >= 20


def test_missing_scikit_image_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MethodError, match="scikit-image"):
        oversegment(torch.zeros(1, 3, 8, 8), 20)


def test_softmax_has_no_use_for_segments() -> None:
    with pytest.raises(ValueError, match="head = softmax needs labels"):
        SegSortConfig(head="softmax", supervision="segments")


@pytest.mark.parametrize(
    ("field", "value"), [("grid", 0), ("banks", -1), ("concentration", 0.0), ("scales", ()), ("scales", (1.0, 0.0))]
)
def test_settings_that_make_no_sense(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SegSortConfig(**{field: value})


@pytest.mark.parametrize("fields", [{"head": "softmax"}, {"supervision": "segments"}, {"detach": True, "form": "vmf"}])
def test_variants_have_losses_with_gradients(fields: dict[str, object]) -> None:
    method = build(**fields).train()
    (loss,) = method.loss(scenes(2)).values()
    loss.backward()
    assert torch.isfinite(loss)
    assert any(parameter.grad.abs().sum() > 0 for parameter in method.parameters() if parameter.grad is not None)


def test_memory_fills_in_training_and_rests_in_evaluation() -> None:
    method, batch = build().train(), scenes(2)
    method.loss(batch)
    first = method.memory_origin.tolist()
    assert set(first) == {1}
    method.loss(batch)
    assert set(method.memory_origin.tolist()) == {1, 2}
    method.eval()
    before = method.memory_directions
    method.loss(batch)
    assert method.memory_directions is before


def test_prepared_bank_votes_explains_and_survives_the_file(tmp_path) -> None:
    method, batch = build(neighbours=3).eval(), scenes(3)
    nothing = method.predict(batch.images[:1], batch.sizes[:1])[0]
    assert nothing.retrieval is None
    assert nothing.semantic.max() == 0
    with torch.inference_mode():
        method.prepare(single(batch, index) for index in range(3))
    found = method.predict(batch.images, batch.sizes)[1]
    shown = found.retrieval
    assert shown.segments.shape == (64, 64)
    assert shown.neighbours.shape == (int(shown.segments.max()) + 1, 3)
    assert torch.equal(method.bank_classes[shown.neighbours], shown.labels)
    assert torch.equal(method.bank_origin[shown.neighbours], shown.images)
    # A segment's class is the commonest of its neighbours', the lowest of equals; so is that of its pixels.
    elected = torch.tensor([np.bincount(labels).argmax() for labels in shown.labels.numpy()])
    assert torch.equal(elected[shown.segments], found.semantic.long())

    save_weights(method, tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    other = SegSort(method.config, 6).eval()
    load_weights(other, tmp_path / "weights.safetensors")
    again = other.predict(batch.images, batch.sizes)[1]
    assert torch.equal(again.retrieval.neighbours, shown.neighbours)
    other.train().loss(batch)["segments"].backward()  # a loaded method can go on learning
    method.train().loss(batch)["segments"].backward()  # and one that was prepared in inference mode


def test_ignored_pixels_make_no_bank() -> None:
    method, batch = build().eval(), scenes(1)
    ignored = Batch(batch.images, torch.full_like(batch.semantic, 255), batch.instances, batch.sizes)
    method.prepare([ignored, batch])
    assert set(method.bank_origin.tolist()) == {1}
    assert method.bank_classes.max() <= 6


def test_views_add_their_votes_in_the_place_they_saw() -> None:
    method = build(scales=(1.0, 0.5), flip=True, neighbours=1).eval()
    batch = scenes(2)
    method.prepare(single(batch, index) for index in range(2))
    (embedding,) = method.embed(batch.images[:1], torch.tensor([[64, 48]]))
    shapes = [(tuple(pixels.shape[1:]), mirrored) for pixels, mirrored in embedding.views]
    assert shapes == [((64, 48), False), ((64, 48), True), ((32, 24), False), ((32, 24), True)]
    named = method.named(embedding)
    torch.testing.assert_close(named.probabilities.sum(0), torch.ones(64, 48))
    # What a view saw in its mirror image comes back to where it is.
    plain, _ = method._votes(*method._segments(embedding.views[0][0], False))
    turned, _ = method._votes(*method._segments(embedding.views[0][0], True))
    torch.testing.assert_close(turned, plain.flip(-1))


def test_features_are_unit_vectors_of_the_images_own_view() -> None:
    method, batch = build(scales=(0.5, 1.0)).eval(), scenes(1)
    with torch.inference_mode():
        (embedding,) = method.embed(batch.images, batch.sizes)
        expected = unit(method.network(batch.images), dim=1)[0]
    assert embedding.own == 1
    features = method.features(embedding)
    assert features.spherical
    torch.testing.assert_close(features.points, expected)


def test_contours_worked_by_hand() -> None:
    # Row 0: the step from 0 to 1 counts once, on its left; below 1 there is a 2. Row 1 is the last: no lower neighbour.
    assert contours(torch.tensor([[0, 0, 1], [0, 0, 2]])).tolist() == [[0, 1, 1], [0, 1, 0]]
    assert contours(torch.zeros(3, 4, dtype=torch.int64)).sum() == 0


def test_contours_are_a_task_and_need_no_bank() -> None:
    assert "boundary" not in build().tasks
    method, batch = build(contours=True, scales=(0.5,)).eval(), scenes(1)
    assert "boundary" in method.tasks
    sizes = torch.tensor([[96, 80]])
    (prediction,) = method.predict(batch.images, sizes)
    assert prediction.boundary.shape == (96, 80)
    assert prediction.retrieval is None
    method.prepare([batch])
    (prediction,) = method.predict(batch.images, sizes)
    assert torch.equal(prediction.boundary, contours(prediction.retrieval.segments))
    assert 0 < prediction.boundary.mean() < 0.5
    with pytest.raises(ValueError, match="head = softmax has no segments"):
        SegSortConfig(head="softmax", contours=True)


def test_softmax_baseline_groups_its_classes() -> None:
    method = build(head="softmax").eval()
    probabilities = torch.zeros(7, 2, 3)
    probabilities[0], probabilities[4, 0, 0], probabilities[4, 1, 2] = 0.4, 0.6, 0.8
    groups = method.group(Embedding(probabilities, probabilities), None)
    assert groups.masks.tolist() == [[1, 0, 0], [0, 0, 2]]
    assert groups.labels.tolist() == [4, 4]
    torch.testing.assert_close(groups.confidence, torch.tensor([0.6, 0.8]))


def test_regions_of_the_data_come_before_those_of_a_library() -> None:
    method, batch = build(supervision="segments", stride=1).eval(), single(scenes(1), 0)
    given = torch.arange(64).view(1, 1, 64).expand(1, 64, 64) // 32
    loss = method.loss(replace(batch, regions=given))["segments"]
    expected = region_loss(unit(method.network(batch.images), dim=1), given, 10.0)
    assert loss.item() == pytest.approx(expected.item())
    assert loss.item() != pytest.approx(method.loss(batch)["segments"].item(), rel=1e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"start": "centres"},
        {"location": "centred"},
        {"empty": "attract", "grid": 6},
        {"form": "vmf"},
        {"concentration": 3.0},
        {"iterations": 2},
        {"grid": 3},
    ],
)
def test_settings_reach_the_loss(fields: dict[str, object]) -> None:
    """The loss of the plugin is the pure functions' with the config's values, put together by hand."""
    method, batch = build(banks=0, **fields).eval(), single(scenes(1), 0)
    config, step = method.config, method.config.stride
    pixels = unit(method.network(batch.images), dim=1)[0, :, ::step, ::step]
    place = locations((64, 64), config.location, pixels)[:, ::step, ::step]
    features = unit(torch.cat([pixels, place]), dim=0).flatten(1).t()
    start = start_grid((64, 64), (config.grid, config.grid), config.start)[::step, ::step].flatten()
    clusters = vmf_kmeans(features, start, config.grid**2, config.iterations, config.empty)
    points = pixels.flatten(1).t()
    segments, classes = split_by_class(clusters, batch.semantic[0, ::step, ::step].flatten())
    own = mean_directions(points, segments, len(classes))
    expected = segment_sorting_loss(points, segments, own, classes, config.concentration, config.form)
    assert method.loss(batch)["segments"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_mirrored_view_is_the_network_on_the_mirrored_image() -> None:
    method, batch = build(flip=True, scales=(0.5, 1.0)).eval(), single(scenes(1), 0)
    with torch.inference_mode():
        (found,) = method.embed(batch.images, batch.sizes)
        expected = unit(method.network(batch.images.flip(-1)), dim=1)[0]
    shapes = [(view.shape[-1], mirrored) for view, mirrored in found.views]
    assert shapes == [(32, False), (32, True), (64, False), (64, True)]
    torch.testing.assert_close(found.views[3][0], expected)
