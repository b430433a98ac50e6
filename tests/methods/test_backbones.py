"""Encoders by name: their weights without a network, and what freezing stops."""

from __future__ import annotations

import pytest
import timm
import torch

from methods.backbones import DenseNetwork, freeze, load_imagenet
from methods.base import MethodError

LITE0 = "tf_efficientnet_lite0"


def test_packaged_imagenet_weights_know_imagenet() -> None:
    """The stored tensors are trained ones: the first filters are strong, the statistics not the initial ones."""
    encoder = timm.create_model(LITE0, features_only=True)
    load_imagenet(encoder, LITE0)
    other = timm.create_model(LITE0, features_only=True)
    assert not torch.allclose(encoder.conv_stem.weight, other.conv_stem.weight)
    assert encoder.bn1.running_var.std() > 0.01
    assert encoder.conv_stem.weight.abs().amax() > 0.5


def test_every_tensor_of_the_encoder_comes_from_the_package() -> None:
    encoder = timm.create_model(LITE0, features_only=True)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    load_imagenet(encoder, LITE0)
    same = {key for key, value in encoder.state_dict().items() if torch.equal(value, before[key])}
    assert {key.rpartition(".")[2] for key in same} == {"num_batches_tracked"}  # counters of training, 0 in both


def test_unreachable_weights_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **words: object) -> None:
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(MethodError, match=r"no route to the hub.*Without a network, use encoder=tf_efficientnet_lite0"):
        load_imagenet(torch.nn.Identity(), "resnet50")


def test_frozen_levels_do_not_learn_and_keep_their_statistics() -> None:
    network = DenseNetwork(LITE0, "FPN", channels=2, width=64, frozen_levels=2).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    stem = "model.encoder.model.conv_stem.weight"
    assert stem not in changed
    assert not [key for key in changed if ".blocks.0." in key or ".blocks.1." in key or "encoder.model.bn1" in key]
    assert [key for key in changed if ".blocks.2." in key]


def test_too_many_frozen_levels_are_an_error() -> None:
    with pytest.raises(MethodError, match="has 5 levels, so 9 cannot be frozen"):
        freeze(timm.create_model(LITE0, features_only=True), 9)


def test_unknown_encoder_and_decoder_are_named() -> None:
    with pytest.raises(MethodError, match="unknown decoder 'FPM'; available: DeepLabV3Plus, FPN"):
        DenseNetwork(LITE0, "FPM", 2)
    with pytest.raises(MethodError, match="cannot build encoder 'no_such_net'"):
        DenseNetwork("no_such_net", "FPN", 2)


@pytest.mark.parametrize("size", [(32, 32), (45, 71), (1, 1)])
def test_output_has_the_input_size(size: tuple[int, int]) -> None:
    for scale in (1.0, 1.5):
        network = DenseNetwork(LITE0, "FPN", channels=3, width=64, input_scale=scale).eval()
        with torch.inference_mode():
            assert network(torch.rand(1, 3, *size)).shape == (1, 3, *size)


def test_pspnet_is_as_deep_as_its_encoder_and_keeps_output_stride_8() -> None:
    """segmentation-models-pytorch's stops at the third level, where ResNet-50 and -101 are the same."""
    sizes = {}
    for encoder in ("resnet50", "resnet101"):
        network = DenseNetwork(encoder, "PSPNet", channels=32, width=512)
        sizes[encoder] = sum(parameter.numel() for parameter in network.model.encoder.parameters())
        assert hasattr(network.model.encoder.model, "layer4")
    # 17 more blocks of 1024-256-1024 channels: 1024 * 256 * 2 + 9 * 256^2 weights and 2 * (256 + 256 + 1024) of norms.
    assert sizes["resnet101"] - sizes["resnet50"] == 17 * (2 * 1024 * 256 + 9 * 256**2 + 2 * 1536)
    small = DenseNetwork(LITE0, "PSPNet", channels=3, width=16).eval()
    features = small.model.encoder(torch.zeros(1, 3, 64, 96))[-1]
    assert features.shape[-2:] == (8, 12)
    assert small(torch.zeros(1, 3, 61, 90)).shape == (1, 3, 61, 90)
