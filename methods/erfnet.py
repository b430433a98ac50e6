"""Branched ERFNet (Romera et al. 2018; branches: Neven et al. 2019): one encoder, one decoder for each branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.backbones import at_any_size

_STRIDE = 8  # of the encoder's output, in pixels
_EPSILON = 1e-3  # of every batch normalisation


class Downsampler(nn.Module):
    """(B, i, H, W) -> (B, o, H / 2, W / 2): a strided convolution's o - i channels beside the pooled input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat([self.conv(x), self.pool(x)], dim=1)).relu()


class Upsampler(nn.Module):
    """(B, i, H, W) -> (B, o, 2 H, 2 W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(outputs, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class NonBottleneck1d(nn.Module):
    """A residual block of two 3 x 3 convolutions, each factorised into 3 x 1 and 1 x 3; the second one is dilated."""

    def __init__(self, channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        far = dilation
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=_EPSILON)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(far, 0), dilation=(far, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, far), dilation=(1, far))
        self.bn2 = nn.BatchNorm2d(channels, eps=_EPSILON)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1x3_1(self.conv3x1_1(x).relu())).relu()
        y = self.bn2(self.conv1x3_2(self.conv3x1_2(y).relu()))
        return (self.dropout(y) + x).relu()


def encoder() -> nn.Sequential:
    """(B, 3, H, W) -> (B, 128, H / 8, W / 8)."""
    return nn.Sequential(
        Downsampler(3, 16),
        Downsampler(16, 64),
        *(NonBottleneck1d(64, 0.03, 1) for _ in range(5)),
        Downsampler(64, 128),
        *(NonBottleneck1d(128, 0.3, dilation) for _ in range(2) for dilation in (2, 4, 8, 16)),
    )


def decoder(outputs: int) -> nn.Sequential:
    """(B, 128, H / 8, W / 8) -> (B, outputs, H, W); its last layer is a transposed convolution."""
    return nn.Sequential(
        Upsampler(128, 64),
        *(NonBottleneck1d(64, 0.0, 1) for _ in range(2)),
        Upsampler(64, 16),
        *(NonBottleneck1d(16, 0.0, 1) for _ in range(2)),
        nn.ConvTranspose2d(16, outputs, 2, stride=2),
    )


class BranchedERFNet(nn.Module):
    """``forward``: (B, 3, H, W) RGB in [0, 1], not normalised -> (B, sum(outputs), H, W) float32, for any H and W.

    The branches' outputs stand one after the other. The input is padded on the right and below with its border's
    colour to a multiple of 8, two cells at least, and the output cropped; with ``input_scale`` the network sees the
    image enlarged. Weights start as torch's layers do: the official release loads none.
    """

    def __init__(self, outputs: Sequence[int], input_scale: float = 1.0) -> None:
        super().__init__()
        self.input_scale = input_scale
        self.encoder = encoder()
        # ERFNet classifies the encoder's output while it pretrains it. Nothing here does, and the layer gets no
        # gradient; it is part of the official network and of its number of parameters.
        self.encoder_output = nn.Conv2d(128, sum(outputs), 1)
        self.decoders = nn.ModuleList(decoder(count) for count in outputs)

    def forward(self, images: Tensor) -> Tensor:
        return at_any_size(self._branches, images, _STRIDE, self.input_scale)

    def _branches(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        return torch.cat([branch(features) for branch in self.decoders], dim=1)
