"""Branched ERFNet: the official numbers of parameters and layers, any size of image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.erfnet import BranchedERFNet, Downsampler, NonBottleneck1d, Upsampler


def test_has_the_official_number_of_parameters() -> None:
    network = BranchedERFNet([3, 1])
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_252_644


def test_layers_are_in_the_official_order() -> None:
    network = BranchedERFNet([3, 1])
    kinds = [type(layer) for layer in network.encoder]
    assert kinds == [Downsampler] * 2 + [NonBottleneck1d] * 5 + [Downsampler] + [NonBottleneck1d] * 8
    blocks = [layer for layer in network.encoder if isinstance(layer, NonBottleneck1d)]
    assert [block.conv3x1_2.dilation[0] for block in blocks] == [1] * 5 + [2, 4, 8, 16] * 2
    assert [block.dropout.p for block in blocks] == [0.03] * 5 + [0.3] * 8
    up = [Upsampler, NonBottleneck1d, NonBottleneck1d]
    for branch, outputs in zip(network.decoders, (3, 1), strict=True):
        assert [type(layer) for layer in branch] == [*up, *up, nn.ConvTranspose2d]
        assert branch[-1].out_channels == outputs
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}


def test_a_block_adds_its_input() -> None:
    # All weights 0: both normalisations give 0, so that only relu(input) is left, whatever the dilation.
    block = NonBottleneck1d(2, 0.5, 4).eval()
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.tensor([[-1.0, 2.0], [3.0, -4.0]]).expand(1, 2, 2, 2)
    assert torch.equal(block(x), x.relu())


def test_a_downsampler_puts_the_pooled_input_behind_the_convolution() -> None:
    layer = Downsampler(1, 3).eval()
    nn.init.zeros_(layer.conv.weight)
    nn.init.constant_(layer.conv.bias, 2.0)
    output = layer(torch.tensor([[[[1.0, 5.0], [3.0, 4.0]]]]))
    expected = torch.tensor([2.0, 2.0, 5.0]) / (1.0 + 1e-3) ** 0.5  # running mean 0 and variance 1
    torch.testing.assert_close(output.flatten(), expected)


@pytest.mark.parametrize("size", [(64, 80), (45, 71), (3, 5)])
def test_output_has_the_size_of_the_image(size: tuple[int, int]) -> None:
    network = BranchedERFNet([4, 2]).train()  # batch statistics need more than one value for a channel
    assert network(torch.rand(1, 3, *size)).shape == (1, 6, *size)


def test_padding_does_not_change_a_size_that_fits() -> None:
    network = BranchedERFNet([3, 1]).eval()
    images = torch.rand(1, 3, 40, 48)
    features = network.encoder(images)
    expected = torch.cat([branch(features) for branch in network.decoders], dim=1)
    torch.testing.assert_close(network(images), expected)


def test_input_scale_enlarges_what_the_network_sees() -> None:
    network = BranchedERFNet([3, 1], input_scale=2.0).eval()
    seen = []
    network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert network(torch.rand(1, 3, 24, 32)).shape == (1, 4, 24, 32)
    assert seen == [(1, 3, 48, 64)]
