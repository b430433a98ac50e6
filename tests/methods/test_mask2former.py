"""Mask2Former: its targets and instances worked by hand, its loss beside transformers' own, and weights from files."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from method_contract import CLASSES, TINY
from scenes import scenes

from methods.backbones import load_imagenet
from methods.base import Batch, MethodError, ObjectMasks, objects_of_map
from methods.mask2former import (
    Mask2Former,
    Mask2FormerConfig,
    check_classes,
    instances_of_queries,
    targets,
    weights_file,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Mask2FormerConfig(**TINY["mask2former"])
NAMES = ("disc", "ring", "crescent", "chevron", "bar", "triangle")


def build(config: Mask2FormerConfig = CONFIG, classes: int = CLASSES, seed: int = 0) -> Mask2Former:
    torch.manual_seed(seed)
    return Mask2Former(config, classes)


def losses(method: Mask2Former, batch: Batch, seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    return {name: value.item() for name, value in method.train().loss(batch).items()}


# The package and ours


def test_transformers_never_meets_our_folder_datasets() -> None:
    """It believes that the package of that name is there, but nothing that we use imports it."""
    program = """
import sys
import torch
from methods.base import Batch
from methods.mask2former import Mask2Former, Mask2FormerConfig
config = Mask2FormerConfig(encoder="tf_efficientnet_lite0", width=64, feature_width=64, decoder_layers=1, points=16)
nothing = torch.zeros(1, 64, 64, dtype=torch.int64)
batch = Batch(torch.zeros(1, 3, 64, 64), nothing, nothing, torch.tensor([[64, 64]]))
method = Mask2Former(config, 2)
sum(method.train().loss(batch).values()).backward()
method.eval().predict(batch.images, batch.sizes)
assert "transformers" in sys.modules and "datasets" not in sys.modules, sorted(sys.modules)
import datasets
assert datasets.DATASETS
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_transformers_the_file_imports_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "methods.mask2former")
    module = importlib.import_module("methods.mask2former")
    with pytest.raises(MethodError, match=r'pip install "\.\[mask2former\]"'):
        module.Mask2Former.implementation(module.Mask2FormerConfig())
    with pytest.raises(MethodError, match="needs the package transformers"):
        module.Mask2Former(module.Mask2FormerConfig(), 2)


def test_implementation_names_the_version() -> None:
    assert Mask2Former.implementation(CONFIG) == f"transformers {transformers.__version__}"


# The network


def test_the_default_is_the_papers() -> None:
    """Table 1: 44 M parameters with ResNet-50. The numbers are those of the official code's configuration."""
    method = Mask2Former(Mask2FormerConfig(), 80)
    frozen = [module for module in method.modules() if type(module).__name__.startswith("FrozenBatchNorm")]
    count = sum(parameter.numel() for parameter in method.parameters())
    count += sum(module.weight.numel() + module.bias.numel() for module in frozen)
    assert 43.5e6 < count < 44.5e6
    described = method.network.config
    assert (described.decoder_layers, described.encoder_layers, described.num_queries) == (10, 6, 100)
    assert (described.dim_feedforward, described.encoder_feedforward_dim, described.hidden_dim) == (2048, 1024, 256)
    assert (described.train_num_points, described.oversample_ratio, described.importance_sample_ratio) == (
        112**2, 3.0, 0.75,
    )  # fmt: skip
    assert method.network.weight_dict == {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    assert method.network.criterion.empty_weight.tolist() == pytest.approx([1.0] * 80 + [0.1])
    assert len(method.network.model.transformer_module.decoder.layers) == 9


def test_the_encoder_starts_from_imagenet_and_its_normalisation_stays() -> None:
    method = build(replace(CONFIG, pretrained=True, fixed_normalisation=True))
    method.initialise()
    expected = build(replace(CONFIG, fixed_normalisation=True), seed=1)
    load_imagenet(expected.encoder, CONFIG.encoder)
    assert all(map(torch.equal, method.encoder.state_dict().values(), expected.encoder.state_dict().values()))
    before = {name: value.clone() for name, value in method.encoder.named_buffers()}
    assert [name for name in before if name.endswith("bn1.weight")], "normalisation still learns its factors"
    method.train().loss(scenes(2))
    assert all(torch.equal(value, before[name]) for name, value in method.encoder.named_buffers())
    of_encoder = {id(parameter) for parameter in method.pretrained_parameters()}
    assert 0 < len(of_encoder) < len(list(method.parameters()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 60}, "width: 60 is not a multiple of 8"),
        ({"feature_width": 48}, "feature_width: 48 is not a multiple of 32"),
        ({"encoder": "resnet5"}, "cannot build the network with encoder resnet5"),
        ({"encoder": "vit_tiny_patch16_224"}, "encoder"),
    ],
)
def test_what_cannot_be_built_is_named(change: dict, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        build(replace(CONFIG, **change))


# Targets and loss


def test_objects_of_a_map_worked_by_hand() -> None:
    instances = torch.tensor([[0, 2, 0, 0], [7, 2, 2, 0], [7, 0, 0, 5]])
    semantic = torch.tensor([[0, 3, 0, 0], [255, 3, 3, 255], [255, 0, 0, 1]])
    objects = objects_of_map(instances, semantic)
    assert objects.labels.tolist() == [3, 1]
    assert objects.masks.int().tolist() == [
        [[0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]],
    ]
    nothing = torch.zeros(3, 4, dtype=torch.int64)
    assert objects_of_map(nothing, nothing).masks.shape == (0, 3, 4)


def test_targets_worked_by_hand() -> None:
    """A table and a cup on it, both whole; a chair in the padding; a lamp that the crop left outside."""
    masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    masks[0, 1:3, :], masks[1, 0:2, 2:4], masks[2, 3, 5] = True, True, True
    found, labels = targets(ObjectMasks(masks, torch.tensor([5, 7, 2, 1])), (3, 4), (5, 8))
    assert labels.tolist() == [4, 6]  # transformers counts classes from 0
    assert found.shape == (2, 5, 8)
    assert found.dtype == torch.float32
    assert found.sum((1, 2)).tolist() == [8, 4]
    assert not found[:, 3:].any()
    assert not found[:, :, 4:].any()


def test_loss_is_transformers_own() -> None:
    method, batch = build(), scenes(2)
    ours = losses(method, batch)
    assert set(ours) == {"class", "mask", "dice"}
    found = [
        targets(objects_of_map(*pair), (64, 64), (64, 64)) for pair in zip(batch.instances, batch.semantic, strict=True)
    ]
    torch.manual_seed(0)
    theirs = method.network(
        method.normalise(batch.images),
        mask_labels=[masks for masks, _ in found],
        class_labels=[labels for _, labels in found],
    )
    assert sum(ours.values()) == pytest.approx(theirs.loss.item(), rel=1e-5)


def test_the_loss_draws_its_points_from_torchs_generator_alone() -> None:
    method, batch = build(), scenes(2)
    before = np.random.get_state()[1].copy()
    assert losses(method, batch, seed=1) == losses(method, batch, seed=1)
    assert losses(method, batch, seed=1) != losses(method, batch, seed=2)
    assert (np.random.get_state()[1] == before).all()


def test_objects_of_the_batch_come_before_its_map() -> None:
    method, batch = build(), scenes(2)
    assert Mask2Former.overlapping
    same = tuple(map(objects_of_map, batch.instances, batch.semantic))
    assert losses(method, replace(batch, objects=same)) == losses(method, batch)
    none = ObjectMasks(torch.zeros(0, 64, 64, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    empty = losses(method, replace(batch, objects=(none, none)))
    assert empty["mask"] == empty["dice"] == 0.0 < empty["class"]


def test_more_objects_than_queries_train() -> None:
    method = build(replace(CONFIG, queries=2))
    masks = torch.eye(64, dtype=torch.bool)[:5].repeat_interleave(64, dim=1).view(5, 64, 64)
    objects = ObjectMasks(masks, torch.arange(1, 6))
    total = sum(losses(method, replace(scenes(1), objects=(objects,))).values())
    assert math.isfinite(total)


def test_what_fills_a_batch_up_does_not_matter() -> None:
    method, batch = build(), scenes(2)
    grey, noise = batch.images.clone(), batch.images.clone()
    grey[0, :, 40:], noise[0, :, 40:] = 0.5, torch.rand(3, 24, 64)
    instances = batch.instances.clone()
    instances[0, 40:] = 0
    padded = Batch(grey, batch.semantic, instances, torch.tensor([[40, 64], [64, 64]]))
    assert losses(method, padded) == losses(method, replace(padded, images=noise))
    beyond = replace(padded, instances=batch.instances)  # an object seen in the padding is cut, too
    assert losses(method, beyond) == losses(method, padded)


# Prediction


def logits(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_instances_worked_by_hand() -> None:
    # Two classes and "no object". Query 0 is a ring at probability 3/4; 1 is a corner at 3/4 and 9/10; 2 is nowhere.
    probabilities = logits([[0.5, 0.3, 0.2], [0.05, 0.9, 0.05], [0.7, 0.2, 0.1]])
    high, very, low = math.log(3), math.log(9), -1.0
    masks = torch.tensor(
        [[[high, high], [high, low]], [[low, low], [high, very]], [[low, low], [low, 0.0]]], dtype=torch.float32
    )
    found = instances_of_queries(probabilities, masks, (2, 2), (2, 2), (2, 2), 4)
    # The four likeliest pairs: (1, class 2), (2, class 1), (0, class 1), (0, class 2); query 2 has no pixel above 0.
    assert found.labels.tolist() == [2, 1, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.9 * (0.75 + 0.9) / 2, 0.5 * 0.75, 0.3 * 0.75]))
    assert found.masks.int().tolist() == [[[0, 0], [1, 1]], [[1, 1], [1, 0]], [[1, 1], [1, 0]]]


def test_masks_are_cut_to_the_image_before_they_are_resized() -> None:
    """Logits of 2 x 2 for an input of 4 x 4, of which 4 x 2 were image, which had been 8 x 4 pixels."""
    masks = torch.tensor([[[1.0, -9.0], [1.0, -9.0]]])
    found = instances_of_queries(logits([[0.9, 0.1]]), masks, (4, 4), (4, 2), (8, 4), 1)
    # Resized to 4 columns: 1, -1.5, -6.5, -9; the first two, resized to 4: 1, 0.375, -0.875, -1.5.
    assert found.masks.int().tolist() == [[[1, 1, 0, 0]] * 8]
    expected = 0.9 * torch.tensor([1.0, 0.375]).sigmoid().mean()
    torch.testing.assert_close(found.scores, expected[None])


def test_instances_do_not_depend_on_how_masks_are_taken_in_portions() -> None:
    """Beside the official formula written out over all pairs at once."""
    torch.manual_seed(0)
    classes, masks = torch.randn(37, 6), torch.randn(37, 6, 8)
    found = instances_of_queries(classes, masks, (6, 8), (6, 8), (6, 8), 60)
    best = classes.softmax(1)[:, :-1].flatten().topk(60)
    chosen = masks[best.indices // 5]
    inside = (chosen > 0).float()
    quality = (chosen.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
    torch.testing.assert_close(found.scores, best.values * quality)
    assert torch.equal(found.masks, chosen > 0)
    assert torch.equal(found.labels, best.indices % 5 + 1)


def test_all_pairs_are_detections_where_they_are_few() -> None:
    found = instances_of_queries(logits([[0.6, 0.3, 0.1]]), torch.ones(1, 3, 3), (3, 3), (3, 3), (3, 3), 100)
    assert found.labels.tolist() == [1, 2]


# Weights


def saved(folder: Path, classes: int = CLASSES, names: tuple[str, ...] = NAMES) -> Mask2Former:
    """A network of random weights in ``folder``, as transformers saves it."""
    method = build(classes=classes, seed=5)
    method.network.config.id2label = dict(enumerate(names))
    method.network.save_pretrained(folder)
    return method.eval()


def loaded(weights: Path | str, classes: int = CLASSES, names: tuple[str, ...] = NAMES, **more) -> Mask2Former:
    config = Mask2Former.settled(Mask2FormerConfig(weights=str(weights), **more))
    method = build(config, classes)
    method.class_names = names
    method.initialise()
    return method.eval()


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_weights_from_a_folder_bring_their_architecture(tmp_path: Path, file: str) -> None:
    original = saved(tmp_path)
    method = loaded(tmp_path / file)
    assert method.config.weights == str(tmp_path / "model.safetensors")  # so that its content makes the cell's key
    assert method.network.config.num_queries == CONFIG.queries
    state = method.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in original.state_dict().items())
    batch = scenes(1)
    expected, found = (one.predict(batch.images, batch.sizes)[0].instances for one in (original, method))
    assert torch.equal(expected.scores, found.scores)
    assert torch.equal(expected.masks, found.masks)
    assert Mask2Former.settled(method.config) == method.config


def test_weights_with_another_kind_of_encoder(tmp_path: Path) -> None:
    """The checkpoints of the hub are on Swin, which is no encoder of timm's there."""
    swin = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    described = transformers.Mask2FormerConfig(
        backbone_config=swin, num_queries=7, hidden_dim=32, feature_size=32, mask_feature_size=32, decoder_layers=3,
        encoder_layers=1, dim_feedforward=32, encoder_feedforward_dim=32, train_num_points=32, num_labels=CLASSES,
    )  # fmt: skip
    torch.manual_seed(5)
    original = transformers.Mask2FormerForUniversalSegmentation(described).eval()
    original.save_pretrained(tmp_path)
    method = loaded(tmp_path)
    state = method.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in original.state_dict().items())
    (prediction,) = method.predict(torch.rand(1, 3, 45, 71), torch.tensor([[45, 71]]))
    assert prediction.instances.masks.shape[1:] == (45, 71)
    assert all(math.isfinite(value) for value in losses(method, scenes(2)).values())


def test_weights_for_other_classes_are_refused_or_learn_new_ones(tmp_path: Path) -> None:
    original = saved(tmp_path)
    with pytest.raises(MethodError, match="are for 6 classes, the data have 3; new_classes = true"):
        loaded(tmp_path, 3, NAMES[:3])
    with pytest.raises(MethodError, match="class 2 is 'ring', the data's is 'disc'"):
        loaded(tmp_path, names=("disc", "disc", *NAMES[2:]))
    method = loaded(tmp_path, 3, NAMES[:3], new_classes=True)
    first = build(method.config, 3).network.state_dict()
    state, theirs = method.network.state_dict(), original.network.state_dict()
    assert torch.equal(state["class_predictor.weight"], first["class_predictor.weight"])
    assert state["criterion.empty_weight"].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.1])
    rest = [name for name in theirs if not name.startswith(("class_predictor.", "criterion."))]
    assert all(torch.equal(state[name], theirs[name]) for name in rest)
    assert any(not torch.equal(first[name], theirs[name]) for name in rest)


def test_two_spellings_are_one_class() -> None:
    check_classes(["motorbike", "tvmonitor", "pottedplant"], ["motorcycle", "tv", "potted plant"], 3)
    check_classes(["LABEL_0", "LABEL_1"], ["cup", "table"], 2)  # a checkpoint that does not say
    check_classes(["cup", "table"], [], 2)
    with pytest.raises(MethodError, match="class 1 is 'table'"):
        check_classes(["table", "cup"], ["cup", "table"], 2)


def test_weights_that_do_not_fit_or_cannot_be_read_are_named(tmp_path: Path) -> None:
    saved(tmp_path)
    described = tmp_path / "config.json"
    content = json.loads(described.read_text())
    described.write_text(json.dumps({**content, "encoder_layers": 2}))
    with pytest.raises(MethodError, match="lacks 16 of its tensors"):
        loaded(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(MethodError, match=r"model\.safetensors cannot be loaded"):
        loaded(tmp_path)
    for text in ('{"model_type": "swin"}', "[]", "{"):
        described.write_text(text)
        with pytest.raises(MethodError, match=r"config\.json describes no Mask2Former"):
            loaded(tmp_path)
    described.unlink()
    with pytest.raises(MethodError, match=r"there is no file .*config\.json; give a folder"):
        loaded(tmp_path)


def test_a_name_on_the_hub_is_pinned_to_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "snapshots" / "0a1b2c"
    original, asked = saved(cache), []

    def download(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, file, revision))
        return str(cache / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    method = loaded("owner/some-network.v2")
    assert method.config.weights == "owner/some-network.v2@0a1b2c"
    assert asked == [
        ("owner/some-network.v2", "config.json", None),
        ("owner/some-network.v2", "model.safetensors", "0a1b2c"),
    ]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: str(cache / file))
    assert loaded("owner/some-network.v2").config == method.config
    assert len(asked) == 2, "what an earlier run fetched is asked for again"
    state = method.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in original.state_dict().items())


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: object, **more: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(MethodError, match=r"owner/network is no local folder, and config\.json .*no route to host"):
        weights_file("owner/network", "config.json")
