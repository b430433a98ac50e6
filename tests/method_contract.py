"""The contract of a method, as tests. Ours pass it in every run; a plugin of your own is checked with

pytest tests/method_contract.py --method path/to/my_method.py:MyMethod
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from scenes import scenes

from harness.checkpoint import random_state, set_random_state
from harness.plan import load_method
from harness.settings import TrainSettings
from harness.train import load_weights, make_optimizer, save_weights
from methods.base import Batch, Instances, Method
from methods.grouping import PixelGrouping

TINY = {
    "pull_push": {
        "encoder": "tf_efficientnet_lite0",
        "decoder": "FPN",
        "decoder_channels": 64,
        "pretrained": False,
        "min_size": 10,
    },
    "spatial_embeddings": {"unit": 256, "min_pixels": 10},
    "segsort": {
        "encoder": "tf_efficientnet_lite0",
        "decoder": "FPN",
        "decoder_channels": 64,
        "pretrained": False,
        "stride": 2,
        "min_size": 10,
    },
    "recurrent_mean_shift": {
        "encoder": "tf_efficientnet_lite0",
        "decoder": "FPN",
        "decoder_channels": 64,
        "pretrained": False,
        "dimension": 16,
        "stride": 4,
        "pixels": "all",
        "boundary": True,
        "min_size": 10,
    },
    "mask_rcnn": {
        "encoder": "tf_efficientnet_lite0",
        "pretrained": False,
        "strides": (4, 8),
        "coarser_level": False,
        "anchors": (12, 32),
        "channels": 32,
        "representation": 64,
        "mask_layers": (32,),
        "proposals": 50,
        "test_proposals": 30,
        "score_threshold": 0.0,
    },
    "mask2former": {
        "encoder": "tf_efficientnet_lite0",
        "pretrained": False,
        "fixed_normalisation": False,
        "queries": 20,
        "decoder_layers": 3,
        "width": 64,
        "heads": 4,
        "feed_forward": 128,
        "feature_width": 64,
        "mask_width": 64,
        "encoder_layers": 1,
        "encoder_feed_forward": 128,
        "points": 256,
    },
}
CLASSES = 6
GROUPING = [name for name in TINY if issubclass(load_method(name), PixelGrouping)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "method" in metafunc.fixturenames:
        names = metafunc.config.getoption("--method") or list(TINY)
        metafunc.parametrize("method", names, indirect=True)


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Method:
    return build(request.param)


def build(name: str) -> Method:
    torch.manual_seed(0)
    method_class = load_method(name)
    return method_class(method_class.Config(**TINY.get(name, {})), CLASSES)


def background(count: int, size: int = 64) -> Batch:
    """Grey images in which there is nothing."""
    empty = torch.zeros(count, size, size, dtype=torch.int64)
    return Batch(torch.full((count, 3, size, size), 0.5), empty, empty.clone(), torch.tensor([[size, size]] * count))


def test_declares_what_it_is(method: Method) -> None:
    assert method.name
    assert method.paper
    assert method.tasks
    assert method.tasks <= {"instances", "proposals", "semantic", "boundary"}
    assert dataclasses.is_dataclass(method.Config)
    for field in dataclasses.fields(method.Config):
        assert field.metadata.get("help"), f"setting {field.name} has no help"
        assert field.metadata.get("source"), f"setting {field.name} has no source"
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.config.__setattr__(dataclasses.fields(method.Config)[0].name, None)


def test_losses_are_finite_scalars_with_gradients(method: Method) -> None:
    losses = method.train().loss(scenes(2))
    assert losses
    for name, value in losses.items():
        assert value.shape == (), f"{name} is not a scalar"
        assert torch.isfinite(value), f"{name} is {value}"
    sum(losses.values()).backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_trains_in_mixed_precision(method: Method) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = method.train().loss(scenes(2))
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()


@pytest.mark.parametrize("what", ["nothing", "ignore"])
def test_trains_on_an_image_without_instances(method: Method, what: str) -> None:
    batch = background(2)
    if what == "ignore":
        batch = dataclasses.replace(batch, semantic=torch.full_like(batch.semantic, 255))
    total = sum(method.train().loss(batch).values())
    assert torch.isfinite(total)
    total.backward()


def test_predictions_have_the_promised_shapes_and_ranges(method: Method) -> None:
    batch = scenes(2)
    sizes = torch.tensor([[64, 64], [96, 80]])  # the second image was made smaller for the network
    predictions = method.eval().predict(batch.images, sizes)
    assert len(predictions) == 2
    for prediction, size in zip(predictions, sizes.tolist(), strict=True):
        if "instances" in method.tasks:
            check_instances(prediction.instances, size)
            assert ((prediction.instances.labels >= 1) & (prediction.instances.labels <= CLASSES)).all()
        if "proposals" in method.tasks:
            check_instances(prediction.proposals, size)
            assert (prediction.proposals.labels == 0).all(), "a proposal has no class"
        if "semantic" in method.tasks:
            assert prediction.semantic.shape == tuple(size)
            assert prediction.semantic.dtype == torch.uint8
            assert prediction.semantic.max() <= CLASSES
        if "boundary" in method.tasks:
            assert prediction.boundary.shape == tuple(size)
            assert ((prediction.boundary >= 0) & (prediction.boundary <= 1)).all()


def check_instances(found: Instances, size: list[int]) -> None:
    count = len(found.scores)
    assert found.masks.shape == (count, *size)
    assert found.masks.dtype == torch.bool
    assert found.labels.shape == (count,)
    assert found.labels.dtype == torch.int64
    assert found.scores.dtype == torch.float32
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert found.boxes is not None or found.masks.flatten(1).any(1).all(), "an instance without a pixel, nor a box"


def test_predicts_an_image_of_any_size(method: Method) -> None:
    images = torch.rand(1, 3, 45, 71, generator=torch.Generator().manual_seed(0))
    (prediction,) = method.eval().predict(images, torch.tensor([[45, 71]]))
    if prediction.instances is not None:
        assert prediction.instances.masks.shape[1:] == (45, 71)


def test_prediction_does_not_depend_on_the_rest_of_the_batch(method: Method) -> None:
    batch = scenes(3)
    together = method.eval().predict(batch.images, batch.sizes)
    for index, one in enumerate(together):
        (alone,) = method.predict(batch.images[index : index + 1], batch.sizes[index : index + 1])
        assert_same(one, alone)


def test_prediction_repeats(method: Method) -> None:
    batch = scenes(1)
    first, second = (method.eval().predict(batch.images, batch.sizes)[0] for _ in range(2))
    assert_same(first, second)


def test_weights_survive_the_file(method: Method, request: pytest.FixtureRequest, tmp_path) -> None:
    batch = scenes(1)
    method.eval().prepare(iter([batch]))
    expected = method.predict(batch.images, batch.sizes)[0]
    save_weights(method, tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    other = type(method)(method.config, CLASSES)
    load_weights(other, tmp_path / "weights.safetensors")
    assert_same(other.eval().predict(batch.images, batch.sizes)[0], expected)


def test_a_training_can_go_on_in_another_process(method: Method) -> None:
    """All that the next loss depends on is in the ``state_dict``, or drawn from the global generators."""
    batches = [scenes(2), scenes(2, seed=4), scenes(2, seed=5)]
    method.train()
    optimizer = make_optimizer(method, TrainSettings(learning_rate=1e-3))
    for batch in batches[:2]:
        optimizer.zero_grad()
        sum(method.loss(batch).values()).backward()
        optimizer.step()
    state, generators = copy.deepcopy(method.state_dict()), random_state()
    expected = method.loss(batches[2])
    other = type(method)(method.config, CLASSES)
    other.load_state_dict(state)
    set_random_state(generators)
    found = other.train().loss(batches[2])
    assert {name: value.item() for name, value in found.items()} == {n: v.item() for n, v in expected.items()}


def test_learns_a_handful_of_images(method: Method) -> None:
    batch = scenes(4)
    method.train()
    torch.manual_seed(0)
    optimizer = make_optimizer(method, TrainSettings(learning_rate=2e-3))
    totals = []
    for _ in range(30):
        total = sum(method.loss(batch).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 5.0)
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-5:]) < 0.7 * sum(totals[:5]), f"the loss went from {totals[:5]} to {totals[-5:]}"


def assert_same(one, other) -> None:
    """Equal instances up to float noise in the scores, which another batch size may bring."""
    if one.instances is not None:
        torch.testing.assert_close(one.instances.labels, other.instances.labels)
        torch.testing.assert_close(one.instances.scores, other.instances.scores, atol=1e-4, rtol=1e-4)
        differing = (one.instances.masks != other.instances.masks).float().mean() if len(one.instances.masks) else 0.0
        assert differing < 1e-3
    if one.proposals is not None:
        torch.testing.assert_close(one.proposals.scores, other.proposals.scores, atol=1e-4, rtol=1e-4)
        assert (one.proposals.masks != other.proposals.masks).float().sum() < 1e-3 * one.proposals.masks.numel() + 1
    if one.boundary is not None:
        torch.testing.assert_close(one.boundary, other.boundary, atol=1e-3, rtol=1e-3)
    if one.semantic is not None:
        assert (one.semantic != other.semantic).float().mean() < 1e-3
