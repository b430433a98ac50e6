"""torchvision's Mask R-CNN behind the plugin: what torchvision itself does, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from method_contract import CLASSES, TINY
from safetensors.torch import save_file
from scenes import scenes
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, detection
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from methods import rcnn_torchvision
from methods.base import Instances, MethodError
from methods.mask_rcnn import MaskRCNN
from methods.rcnn import MaskRCNNConfig
from methods.rcnn_torchvision import CLASS_LAYERS, COCO_IDS, ZOO, fold_epsilon

ZOOS = list(ZOO)
SIZE = (66, 90)  # of the image that the zoo's networks look at
SHORT, LONG = 96, 120  # its sides for the network, in place of 800 and 1333: the longer one decides


# By ascending id, as the annotation files of COCO name them.
COCO_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
    "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,"
    "tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,"
    "hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,"
    "cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
)
COCO_CLASSES = tuple(COCO_NAMES.split(","))


def build(**changes: Any) -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(MaskRCNNConfig(**{**TINY["mask_rcnn"], "backend": "torchvision", **changes}), CLASSES)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    rcnn_torchvision.detection.cache_clear()
    rcnn_torchvision.implementation.cache_clear()


# The zoo: the same detections as torchvision's own


@dataclass(frozen=True)
class Makers:
    """torchvision's own network with weights of ours, what it finds in an image, and our network of that name."""

    zoo: str
    file: Path
    image: Tensor
    model: nn.Module
    found: dict[str, Tensor]
    ours: MaskRCNN


def shallow(*, weights: None = None, progress: bool = True, **options: Any) -> nn.Module:
    """ResNet-50 with fewer and narrower blocks, by the same names: its real size takes a minute."""
    return ResNet(Bottleneck, [2, 1, 1, 1], width_per_group=16, **options)


@contextlib.contextmanager
def small_networks(first_weights: bool = False) -> Iterator[pytest.MonkeyPatch]:
    """Both builders take `shallow`; without ``first_weights`` parameters are as memory has them, to be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models.detection.mask_rcnn.resnet50", shallow)
        patch.setattr("torchvision.models.resnet.resnet50", shallow)
        for name in () if first_weights else ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield patch


def random_weights(zoo: str) -> dict[str, Tensor]:
    """Weights under which different images and settings give different results, by the zoo's names.

    Batch normalisation knows its statistics, which are so small that an epsilon of 1e-5 is felt, but for some dead
    channels, whose variance is the smallest number there is, as in torchvision's ImageNet weights.
    """
    torch.manual_seed(0)
    model = getattr(detection, zoo)(weights=None, weights_backbone=None, min_size=SHORT, max_size=LONG)
    body = model.backbone.body
    norms = [one for one in body.modules() if isinstance(one, nn.BatchNorm2d)]
    with torch.no_grad():
        for convolution in (one for one in body.modules() if isinstance(one, nn.Conv2d)):
            convolution.weight.mul_(0.05)
        for block in (one for one in body.modules() if hasattr(one, "bn3")):
            block.bn3.weight.fill_(0.3)  # or rounding grows from block to block
        for norm in norms:
            norm.momentum = None  # the average over what it sees
            norm.bias.normal_(0.0, 0.2)
        body.train()(torch.randn(2, 3, 64, 64))
        body.conv1.weight[:2], body.bn1.running_mean[:2], body.bn1.running_var[:2] = 0.0, 0.0, 5.6e-45
        wanted = {
            model.rpn.head.cls_logits: 1.0,
            model.rpn.head.bbox_pred: 0.5,
            model.roi_heads.box_predictor.cls_score: 3.0,
            model.roi_heads.box_predictor.bbox_pred: 2.0,
            model.roi_heads.mask_predictor.mask_fcn_logits: 3.0,
        }
        hooks = [module.register_forward_hook(_spread(spread)) for module, spread in wanted.items()]
        model.eval()([torch.rand(3, *SIZE)])
        for hook in hooks:
            hook.remove()
        model.roi_heads.box_predictor.cls_score.bias[[12, 45, 68]] += 2.0  # ids that COCO does not use
    return {name: value.clone() for name, value in model.state_dict().items() if "num_batches" not in name}


def _spread(wanted: float) -> Callable:
    """A hook that changes a layer so that its outputs have this standard deviation, and boxes no favourite class."""

    def scale(module: nn.Module, _: Any, outputs: Tensor) -> Tensor:
        mean = outputs.mean(0) if outputs.ndim == 2 else torch.zeros_like(module.bias)
        outputs = outputs - mean.reshape(-1, *[1] * (outputs.ndim - 2))
        factor = wanted / float(outputs.std())
        module.weight.mul_(factor)
        module.bias.sub_(mean).mul_(factor)
        return factor * outputs

    return scale


@pytest.fixture(scope="module", params=ZOOS)
def makers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Makers]:
    zoo = request.param
    with small_networks(first_weights=True):
        state = random_weights(zoo)
    file = tmp_path_factory.mktemp("zoo") / "weights.pth"
    torch.save(state, file)
    with small_networks() as patch:
        # The builder itself decides on normalisation and epsilon, as for the file that it would download.
        patch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
        patch.setattr(nn.Module, "load_state_dict", _without_counters(nn.Module.load_state_dict))
        model = getattr(detection, zoo)(
            weights="COCO_V1",
            min_size=SHORT,
            max_size=LONG,
            rpn_pre_nms_top_n_test=40,
            rpn_post_nms_top_n_test=40,
            box_score_thresh=0.02,
            box_detections_per_img=24,
        ).eval()
    model.double()  # so that rounding decides on nothing
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1)).double()
    image[:, 15:45, 20:70] *= 0.3
    with torch.inference_mode():
        (found,) = model([image])
    config = MaskRCNNConfig(zoo=zoo, weights=str(file), test_proposals=40, score_threshold=0.02, detections=24)
    with small_networks():
        ours = MaskRCNN(config, len(COCO_IDS)).eval().double()
    ours.class_names = COCO_CLASSES
    ours.detector.model.transform.min_size, ours.detector.model.transform.max_size = (SHORT,), LONG
    yield Makers(zoo, file, image, model, found, ours)
    file.unlink()


def _without_counters(load: Callable) -> Callable:
    """`load_state_dict` that does not miss the number of batches."""
    return lambda module, state, *_, **__: load(module, state, strict=False)


def started(makers: Makers, patch: pytest.MonkeyPatch, digest: str | None = None) -> MaskRCNN:
    """Our network of the zoo, as it starts from the file; the correction of epsilon is for a file with ``digest``."""
    if digest is None:
        own = makers.zoo == "maskrcnn_resnet50_fpn"  # the builder corrects this one's file
        digest = hashlib.sha256(makers.file.read_bytes()).hexdigest()[:8] if own else "another"
    patch.setattr(rcnn_torchvision, "_WITHOUT_EPSILON", digest)
    makers.ours.initialise()
    return makers.ours


def predicted(method: MaskRCNN, image: Tensor, size: tuple[int, int] = SIZE) -> Instances:
    (one,) = method.predict(image[None], torch.tensor([size]))
    return one.instances


def same(ours: Instances, theirs: dict[str, Tensor]) -> bool:
    """Whether every box, score, mask and class is torchvision's; ours are those of the ids in use, from 1 to 80."""
    used = torch.isin(theirs["labels"], torch.tensor(COCO_IDS))
    if len(ours.scores) != int(used.sum()):
        return False
    ids = torch.tensor((0, *COCO_IDS))[ours.labels]
    return (
        torch.equal(ids, theirs["labels"][used])
        and torch.allclose(ours.scores, theirs["scores"][used].float(), rtol=1e-5, atol=1e-7)
        and torch.allclose(ours.boxes, theirs["boxes"][used].float(), rtol=1e-5, atol=1e-5)
        and torch.equal(ours.masks, theirs["masks"][used, 0] >= 0.5)
    )


def test_the_makers_own_detections(makers: Makers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the reference evaluation calls it; and every step of ours that could go wrong would be seen."""
    theirs = makers.found
    assert len(theirs["scores"]) >= 15
    assert len(theirs["labels"].unique()) > 3
    assert not torch.isin(theirs["labels"], torch.tensor(COCO_IDS)).all(), "no unused id to leave out"
    shares = (theirs["masks"] >= 0.5).float().mean((1, 2, 3))
    assert (shares > 0.001).sum() > 5
    method = started(makers, monkeypatch)
    assert same(predicted(method, makers.image), theirs)

    transform, detector = method.detector.model.transform, method.detector
    for change, image in {"order": makers.image.flip(0), "scale": makers.image * 255.0}.items():
        assert not same(predicted(method, image), theirs), f"another {change} of colours goes unnoticed"
    for name, other in (("max_size", 112), ("image_mean", [0.0] * 3), ("image_std", [1.0] * 3)):
        with monkeypatch.context() as patch:
            patch.setattr(transform, name, other)
            assert not same(predicted(method, makers.image), theirs), f"another {name} goes unnoticed"
    with monkeypatch.context() as patch:
        patch.setattr(detector, "ids", (*range(1, 81), 90))
        assert not same(predicted(method, makers.image), theirs), "another map of classes goes unnoticed"
    with monkeypatch.context() as patch:
        patch.setattr(type(transform), "resize", lambda _, image, target=None: (image, target))
        assert not same(predicted(method, makers.image), theirs), "no resizing goes unnoticed"


def test_the_epsilon_belongs_to_one_file(makers: Makers, monkeypatch: pytest.MonkeyPatch) -> None:
    found = predicted(started(makers, monkeypatch, digest="another"), makers.image)
    assert same(found, makers.found) == (makers.zoo != "maskrcnn_resnet50_fpn")


@pytest.mark.parametrize("zoo", ZOOS)
def test_the_zoos_networks_are_built_as_theirs(zoo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In full size, without memory: names, shapes, kinds, and the parts that torchvision freezes."""
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: {})
    rcnn_torchvision.detection()  # which tries an operator, on real memory
    with torch.device("meta"):
        ours = MaskRCNN(MaskRCNNConfig(zoo=zoo), len(COCO_IDS)).detector.model
        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
            theirs = getattr(detection, zoo)(weights="COCO_V1")

    def learning(model: nn.Module) -> dict[str, tuple]:
        return {name: (tuple(one.shape), one.requires_grad) for name, one in model.named_parameters()}

    assert learning(ours) == learning(theirs)
    assert not all(one.requires_grad for one in ours.parameters())
    assert {name: one.shape for name, one in ours.state_dict().items()} == {
        name: one.shape for name, one in theirs.state_dict().items()
    }
    fixed = [one for one in ours.backbone.body.modules() if isinstance(one, FrozenBatchNorm2d)]
    assert bool(fixed) == (zoo == "maskrcnn_resnet50_fpn")
    modules = zip(ours.modules(), theirs.modules(), strict=True)
    assert [(a, b) for a, b in modules if type(a) is not type(b) and a is not ours.transform] == []
    for name in ("min_size", "max_size", "image_mean", "image_std", "size_divisible", "fixed_size"):
        assert getattr(ours.transform, name) == getattr(theirs.transform, name), name


def test_other_sizes_are_resized_back(makers: Makers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detections at another size than the image's: as torchvision's, drawn there."""
    double = predicted(started(makers, monkeypatch), makers.image, (2 * SIZE[0], 2 * SIZE[1]))
    used = torch.isin(makers.found["labels"], torch.tensor(COCO_IDS))
    torch.testing.assert_close(double.boxes, 2.0 * makers.found["boxes"][used].float())
    assert double.masks.shape[1:] == (132, 180)


def test_training_does_not_resize(makers: Makers) -> None:
    transform = makers.ours.detector.model.transform
    image = torch.rand(3, 50, 70)
    transform.train()
    try:
        assert transform([image])[0].image_sizes == [(50, 70)]
    finally:
        transform.eval()
    assert transform([image])[0].image_sizes == [(85, 120)]


def test_class_names_are_checked(makers: Makers, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(COCO_CLASSES)
    names[0], names[1] = names[1], names[0]
    monkeypatch.setattr(makers.ours, "class_names", tuple(names))
    with pytest.raises(MethodError, match="are for 80 classes, the data have 80: class 1 is person, not bicycle"):
        started(makers, monkeypatch)
    monkeypatch.setattr(makers.ours, "class_names", tuple(name.replace(" ", "_").title() for name in COCO_CLASSES))
    started(makers, monkeypatch)


def test_new_classes_of_the_zoo(makers: Makers) -> None:
    """Eight classes have nine outputs, without gaps; the layers for classes stay as they were made."""
    config = MaskRCNNConfig(zoo=makers.zoo, weights=str(makers.file))
    with small_networks():
        method = MaskRCNN(config, 8)
    assert method.detector.ids == tuple(range(1, 9))
    assert method.detector.model.roi_heads.box_predictor.cls_score.out_features == 9
    with pytest.raises(MethodError, match="only layers for the classes differ: new_classes = true"):
        method.initialise()
    method.config = replace(config, new_classes=True)
    method.class_names = tuple("abcdefgh")
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.fill_(7.0)
    method.initialise()
    theirs = makers.model.state_dict()
    for name, value in method.detector.model.state_dict().items():
        if name.startswith(CLASS_LAYERS):
            assert (value == 7.0).all(), name
        elif "num_batches" not in name:
            assert torch.equal(value.double(), theirs[name]), name


def test_imagenet_files_fill_the_encoder(makers: Makers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A classifier of torchvision by its own names, from a file or, without ``weights``, from the network."""
    with small_networks():
        state = {name: torch.rand_like(value.float()) for name, value in shallow().state_dict().items()}
    ours = makers.ours
    save_file(state, tmp_path / "resnet50.safetensors")
    monkeypatch.setattr(rcnn_torchvision, "_download", lambda weights: {ResNet50_Weights.IMAGENET1K_V1: state}[weights])
    monkeypatch.setattr(ours, "class_names", ("anything",))
    for weights in (str(tmp_path / "resnet50.safetensors"), ""):
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.fill_(7.0)
        ours.config = replace(ours.config, weights=weights)
        ours.initialise()
        for name, value in ours.detector.model.backbone.body.state_dict().items():
            assert "num_batches" in name or torch.equal(value, state[name].to(value.dtype)), name
        assert all((p == 7.0).all() for n, p in ours.named_parameters() if "backbone.body" not in n)
    deeper = {**state, "layer3.1.conv1.weight": torch.ones(64, 1024, 1, 1)}
    save_file(deeper, tmp_path / "resnet101.safetensors")
    ours.config = replace(ours.config, weights=str(tmp_path / "resnet101.safetensors"))
    with pytest.raises(MethodError, match="do not fit the network"):
        ours.initialise()
    ours.config = replace(ours.config, weights=str(makers.file))


# Small facts of the zoo


def test_ids_are_those_of_the_weights_that_torchvision_offers() -> None:
    for name in ZOO:
        categories = rcnn_torchvision._zoo_weights(name).meta["categories"]
        assert len(categories) == 91
        assert [categories[number] for number in COCO_IDS] == list(COCO_CLASSES)
        assert {categories[n] for n in range(91) if n not in COCO_IDS} == {"__background__", "N/A"}
    assert ZOO["maskrcnn_resnet50_fpn"] in rcnn_torchvision._zoo_weights("maskrcnn_resnet50_fpn").__class__.__name__
    url = rcnn_torchvision._zoo_weights("maskrcnn_resnet50_fpn").url
    assert url.endswith(f"coco-{rcnn_torchvision._WITHOUT_EPSILON}.pth"), "not the file that torchvision corrects"


def test_ids_without_gaps_where_the_classes_are_not_cocos() -> None:
    assert build().detector.ids == (1, 2, 3, 4, 5, 6)
    own = MaskRCNN(MaskRCNNConfig(**{**TINY["mask_rcnn"], "backend": "torchvision"}), 80)
    assert own.detector.ids == tuple(range(1, 81)), "a network of ours has no outputs that nobody uses"
    assert own.detector.model.roi_heads.box_predictor.cls_score.out_features == 81


def test_labels_go_to_training_as_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(), scenes(2)
    monkeypatch.setattr(method.detector, "ids", (5, 7, 9, 11, 13, 15))
    seen = []
    monkeypatch.setattr(type(method.detector.model), "forward", lambda _, images, targets: seen.extend(targets) or {})
    method.loss(batch)
    labels = [label for one in seen for label in one["labels"].tolist()]
    assert labels
    assert set(labels) <= {5, 7, 9, 11, 13, 15}
    for one, semantic in zip(seen, batch.semantic, strict=True):
        classes = {value for value in semantic.unique().tolist() if 0 < value < 255}
        assert set(one["labels"].tolist()) == {5 + 2 * (value - 1) for value in classes}


@pytest.mark.parametrize("variance", [1.0, 1e-5, 1e-12, 5.6e-45])
def test_folding_the_epsilon(variance: float) -> None:
    """The same output with torchvision's epsilon as without; dead channels have the smallest variance there is."""
    folded, none = FrozenBatchNorm2d(2), FrozenBatchNorm2d(2, eps=0.0)
    for norm in (folded, none):
        norm.weight.copy_(torch.tensor([0.7, -1.3]))
        norm.running_mean.copy_(torch.tensor([0.0, 1e-3]))
        norm.running_var.copy_(torch.tensor([variance, 2.0]))
        norm.bias.fill_(0.25)
    image = torch.randn(1, 2, 4, 4)
    image[:, 0] *= variance**0.5
    fold_epsilon(nn.Sequential(folded))
    assert folded.eps > 0
    assert torch.isfinite(none(image)).all()
    torch.testing.assert_close(folded(image), none(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("invalid hash value"), EOFError()])
def test_downloads_that_fail_name_the_way_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(url: str, **options: Any) -> None:
        assert options["check_hash"]
        assert options["weights_only"], "a file in torch's cache is not checked: it may run code"
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fails)
    for weights in (rcnn_torchvision._zoo_weights("maskrcnn_resnet50_fpn"), ResNet50_Weights.IMAGENET1K_V1):
        with pytest.raises(MethodError) as found:
            rcnn_torchvision._download(weights)
        assert weights.url in str(found.value)
        assert str(error) in str(found.value)
        assert "--set ROW.weights=PATH" in str(found.value)


@pytest.mark.parametrize("zoo", ["", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"])
def test_downloads_are_for_torchvisions_networks(zoo: str) -> None:
    with pytest.raises(MethodError, match="set zoo to maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2"):
        MaskRCNN.settled(MaskRCNNConfig(backend="auto" if zoo else "torchvision", zoo=zoo, weights="download"))


def test_the_zoo_decides_on_the_backend() -> None:
    assert MaskRCNN.settled(MaskRCNNConfig(zoo=ZOOS[0], weights="download")).backend == "torchvision"
    with pytest.raises(MethodError, match="is a network of torchvision, not of backend = detectron2"):
        MaskRCNN.settled(MaskRCNNConfig(zoo=ZOOS[0], backend="detectron2"))
    with pytest.raises(MethodError, match="no zoo has 'maskrcnn'; torchvision has maskrcnn_resnet50_fpn"):
        MaskRCNN.settled(MaskRCNNConfig(zoo="maskrcnn"))


# torchvision that does not work


def test_operators_that_do_not_load_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", broken)
    rcnn_torchvision.detection.cache_clear()
    rcnn_torchvision.implementation.cache_clear()
    for call in (lambda: build(), lambda: MaskRCNN.implementation(MaskRCNNConfig(backend="torchvision"))):
        with pytest.raises(MethodError) as error:
            call()
        for word in (torch.__version__, "torchvision::nms does not exist", "`make install`", "torch >= 2.11"):
            assert word in str(error.value)


def test_a_torchvision_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models", None)
    rcnn_torchvision.detection.cache_clear()
    with pytest.raises(MethodError, match="`make install`"):
        rcnn_torchvision.detection()


def test_the_implementation_names_version_and_commit() -> None:
    commit = torchvision.version.git_version[:8]
    assert (
        rcnn_torchvision.implementation() == f"torchvision {torchvision.__version__.partition('+')[0]}, commit {commit}"
    )
    assert MaskRCNN.implementation(MaskRCNNConfig(zoo=ZOOS[1])) == rcnn_torchvision.implementation()


# A network of our settings


def first_stage(method: MaskRCNN, image: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of torchvision's first stage, in pixels of the image, and their objectness, by its own forward."""
    model = method.detector.model
    with torch.inference_mode():
        inputs, _ = model.transform([image])
        features = model.backbone(inputs.tensors)
        scores: list[Tensor] = []
        kept = type(model.rpn).filter_proposals(model.rpn, *_outputs(model, inputs, features))
        scores = kept[1][0]
        (boxes,), _ = model.rpn(inputs, features)
    return boxes, scores


def _outputs(model: nn.Module, inputs: Any, features: Any) -> tuple:
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    maps = list(features.values())
    objectness, deltas = model.rpn.head(maps)
    anchors = model.rpn.anchor_generator(inputs, maps)
    counts = [one[0].numel() for one in objectness]
    objectness, deltas = concat_box_prediction_layers(objectness, deltas)
    boxes = model.rpn.box_coder.decode(deltas, anchors).view(1, -1, 4)
    return boxes, objectness, inputs.image_sizes, counts


def test_proposals_of_the_first_stage() -> None:
    method, batch = build(rpn_proposals=20, test_proposals=40).eval(), scenes(1)
    (found,) = method.predict(batch.images, batch.sizes)
    boxes, scores = first_stage(method, batch.images[0])
    proposals = found.proposals
    assert proposals.masks.shape == (20, 64, 64)
    assert proposals.masks.dtype == torch.bool
    assert proposals.labels.tolist() == [0] * 20
    assert (proposals.scores.diff() <= 0).all()
    torch.testing.assert_close(proposals.boxes, boxes[:20])
    torch.testing.assert_close(proposals.scores, scores[:20])
    for mask, (x1, y1, x2, y2) in zip(proposals.masks, proposals.boxes.tolist(), strict=True):
        rows, columns = mask.nonzero().T
        assert len(rows) == 0 or (rows.min() >= y1 - 2 and rows.max() <= y2 + 2)
        assert len(rows) == 0 or (columns.min() >= x1 - 2 and columns.max() <= x2 + 2)
    method.config = replace(method.config, rpn_proposals=0)
    (plain,) = method.predict(batch.images, batch.sizes)
    assert plain.proposals is None
    for name in ("masks", "labels", "scores", "boxes"):
        assert torch.equal(getattr(plain.instances, name), getattr(found.instances, name)), name
    assert "filter_proposals" not in vars(method.detector.model.rpn)


def test_the_mask_of_a_proposal_is_that_of_its_likeliest_class() -> None:
    method, image = build(rpn_proposals=3).eval(), scenes(1).images[0]
    predictor = method.detector.model.roi_heads.mask_predictor.mask_fcn_logits
    classifier = method.detector.model.roi_heads.box_predictor.cls_score
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.copy_(torch.tensor([9.0, 0, 0, 0, 5.0, 0, 0]))  # background, then class 4
        predictor.weight.zero_()
        predictor.bias.copy_(torch.tensor([9.0, -9, -9, -9, 9.0, -9, -9]))
    assert method.predict(image[None], torch.tensor([[64, 64]]))[0].proposals.masks.any()
    with torch.no_grad():
        predictor.bias.copy_(torch.tensor([9.0, 9, 9, 9, -9.0, 9, 9]))
    assert not method.predict(image[None], torch.tensor([[64, 64]]))[0].proposals.masks.any()


def test_proposals_are_drawn_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(rpn_proposals=30).eval(), scenes(1)
    (whole,) = method.predict(batch.images, batch.sizes)
    monkeypatch.setattr(rcnn_torchvision, "_CHUNK", 7)
    drawn = []
    postprocess = method.detector.model.transform.postprocess

    def counted(results: list, *sizes: Any) -> list:
        drawn.append(len(results[0]["boxes"]))
        return postprocess(results, *sizes)

    monkeypatch.setattr(method.detector.model.transform, "postprocess", counted)
    (parts,) = method.predict(batch.images, batch.sizes)
    assert drawn[1:] == [7, 7, 7, 7, 2]
    torch.testing.assert_close(parts.proposals.scores, whole.proposals.scores)
    assert (parts.proposals.masks != whole.proposals.masks).sum() <= 3


def test_no_proposals_and_no_detections() -> None:
    method, batch = build(rpn_proposals=10).eval(), scenes(1)
    method.detector.model.rpn.score_thresh = 2.0
    (found,) = method.predict(batch.images, batch.sizes)
    for part in (found.instances, found.proposals):
        assert part.masks.shape == (0, 64, 64)
        assert part.masks.dtype == torch.bool
        assert part.boxes.shape == (0, 4)
        assert part.labels.shape == part.scores.shape == (0,)
        assert part.labels.dtype == torch.int64


def test_an_error_in_the_first_stage_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(rpn_proposals=10).eval(), scenes(1)
    with monkeypatch.context() as patch:
        patch.setattr(method.detector.model.rpn.head, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            method.predict(batch.images, batch.sizes)
    method.predict(batch.images, batch.sizes)


def test_padding_is_no_part_of_an_image() -> None:
    """torchvision pads for itself, and keeps proposals inside each image: it must see the images as they were."""
    method, batch = build(), scenes(2)
    height, width = batch.images.shape[2:]
    smaller = replace(batch, sizes=torch.tensor([[height, width // 2], [height - 32, width]]))
    seen = []
    method.detector.model.transform.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    method.train().loss(smaller)
    images, targets = seen[0]
    assert [tuple(image.shape[1:]) for image in images] == [(height, width // 2), (height - 32, width)]
    assert [tuple(one["masks"].shape[1:]) for one in targets] == [(height, width // 2), (height - 32, width)]
    torch.testing.assert_close(images[0], batch.images[0, :, :, : width // 2])


def test_settings_reach_torchvisions_modules() -> None:
    method = build(
        proposals=33, test_proposals=44, anchor_samples=55, box_samples=66, score_threshold=0.3, nms_threshold=0.4,
        detections=7, canonical_size=56, anchors=(12, 34, 56), strides=(4, 8), coarser_level=True, mask_layers=(16, 24),
    )  # fmt: skip
    model = method.detector.model
    assert model.rpn._pre_nms_top_n == model.rpn._post_nms_top_n == {"training": 33, "testing": 44}
    assert model.rpn.fg_bg_sampler.batch_size_per_image == 55
    assert model.roi_heads.fg_bg_sampler.batch_size_per_image == 66
    assert (model.roi_heads.score_thresh, model.roi_heads.nms_thresh) == (0.3, 0.4)
    assert model.roi_heads.detections_per_img == 7
    assert model.rpn.anchor_generator.sizes == ((12,), (34,), (56,))
    for pool, side in ((model.roi_heads.box_roi_pool, (7, 7)), (model.roi_heads.mask_roi_pool, (14, 14))):
        assert (pool.canonical_scale, pool.canonical_level, pool.featmap_names) == (56, 4, ["0", "1"])
        assert (pool.output_size, pool.sampling_ratio) == (side, 2)
    assert [one.out_channels for one in model.roi_heads.mask_head.modules() if isinstance(one, nn.Conv2d)] == [16, 24]
    assert len(model.backbone(torch.rand(1, 3, 64, 64))) == 3
    found = method.eval().predict(scenes(1).images, torch.tensor([[64, 64]]))[0].instances
    assert len(found.scores) <= 7
    assert (found.scores >= 0.3).all()


def test_without_a_number_proposals_are_as_torchvision_has_them() -> None:
    model = build(proposals=0, test_proposals=1000).detector.model
    signature = torchvision.models.detection.MaskRCNN.__init__.__defaults__
    assert signature.count(2000) == 2
    expected = {"training": 2000, "testing": 1000}
    assert model.rpn._pre_nms_top_n == model.rpn._post_nms_top_n == expected


def test_the_mask_threshold_is_the_least_probability() -> None:
    method, batch = build(mask_threshold=0.5).eval(), scenes(1)
    predictor = method.detector.model.roi_heads.mask_predictor.mask_fcn_logits
    with torch.no_grad():
        predictor.weight.zero_()
        predictor.bias.fill_(0.85)  # a probability of 0.70
    for threshold, any_pixel in ((0.69, True), (0.71, False)):
        method.detector.config = replace(method.config, mask_threshold=threshold)
        found = method.predict(batch.images, batch.sizes)[0].instances
        assert len(found.scores)
        assert found.masks.any() == any_pixel
    assert not found.masks.flatten(1).any(1).any()
    assert len(found.boxes) == len(found.scores), "a mask without a pixel keeps its box and score"


@pytest.mark.parametrize("normalisation", ["none", "group"])
def test_group_normalisation_is_in_pyramid_and_mask_head(normalisation: str) -> None:
    model = build(normalisation=normalisation).detector.model
    for part in (model.backbone.pyramid, model.roi_heads.mask_head):
        assert any(isinstance(one, nn.GroupNorm) for one in part.modules()) == (normalisation == "group")
    assert not any(isinstance(one, nn.GroupNorm) for one in model.rpn.modules())


def trained(method: MaskRCNN) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's state before and after a step of training."""
    before = {name: value.clone() for name, value in method.state_dict().items()}
    torch.manual_seed(0)
    method.train()
    optimizer = torch.optim.SGD([one for one in method.parameters() if one.requires_grad], lr=0.1)
    sum(method.loss(scenes(2)).values()).backward()
    optimizer.step()
    return before, dict(method.state_dict())


def changed(states: tuple[dict[str, Tensor], dict[str, Tensor]]) -> set[str]:
    before, after = states
    return {name.removeprefix("detector.model.") for name in before if not before[name].equal(after[name])}


def test_fixed_normalisation_stays_fixed() -> None:
    free, fixed = changed(trained(build())), changed(trained(build(fixed_normalisation=True)))
    normalising = {name for name in free if name.startswith("backbone.encoder") and ".bn" in name}
    assert any(name.endswith("running_mean") for name in normalising)
    assert any(name.endswith("weight") for name in normalising)
    assert normalising & fixed == set()
    assert any(name.startswith("backbone.encoder") for name in fixed), "the convolutions learn"


def test_frozen_levels_stay_frozen() -> None:
    some = changed(trained(build(frozen_levels=2)))
    touched = {name for name in some if name.startswith("backbone.encoder")}
    assert touched
    first = tuple(f"backbone.encoder.model.{name}." for name in ("conv_stem", "bn1", "blocks.0", "blocks.1"))
    assert not [name for name in touched if name.startswith(first)]


def test_a_run_of_this_project_starts_another(tmp_path: Path) -> None:
    first = build()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.uniform_(-0.1, 0.1)
    save_file(first.state_dict(), tmp_path / "weights.safetensors")
    second = build(weights=str(tmp_path / "weights.safetensors"))
    second.initialise()
    for name, value in second.state_dict().items():
        assert "num_batches" in name or torch.equal(value, first.state_dict()[name]), name
    fewer = MaskRCNN(replace(second.config), 3)
    with pytest.raises(MethodError, match="only layers for the classes differ"):
        fewer.initialise()
    fewer.config = replace(second.config, new_classes=True)
    fewer.initialise()
    rpn = "detector.model.rpn.head.cls_logits.weight"
    assert torch.equal(fewer.state_dict()[rpn], first.state_dict()[rpn])
