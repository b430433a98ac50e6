"""Mask R-CNN on detectron2: our adapter against detectron2's own predictor, mapper, proposals and checkpointer.

The first part runs everywhere: what a person meets where detectron2 is missing or does not work. The rest needs it:

pytest tests/methods/test_rcnn_detectron2.py -m detectron2
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import method_contract
import numpy as np
import pytest
import torch
from method_contract import CLASSES, TINY
from PIL import Image
from pycocotools import mask as coco_mask
from scenes import scenes
from torch import Tensor, nn

from datasets import cityscapes
from datasets.coco import Coco
from methods import mask_rcnn, rcnn_detectron2
from methods.base import Batch, Instances, MethodError, ObjectMasks
from methods.mask_rcnn import MaskRCNN
from methods.rcnn import MaskRCNNConfig
from methods.rcnn_detectron2 import Detectron2RCNN

ROOT = Path(__file__).resolve().parents[2]
ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
needs_detectron2 = pytest.mark.detectron2


def forget() -> None:
    for remembered in (rcnn_detectron2.problem, rcnn_detectron2.implementation, mask_rcnn._automatic):
        remembered.cache_clear()


@pytest.fixture
def fresh() -> Iterator[None]:
    """What is remembered about this machine is asked anew, before and after."""
    forget()
    yield
    forget()


@pytest.fixture
def missing(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without detectron2."""
    monkeypatch.setattr(rcnn_detectron2, "installed", lambda: False)


BROKEN = {
    "ImportError": "raise ImportError('libcudart.so.9: cannot open shared object file')",
    "RuntimeError": "raise RuntimeError('operator torchvision::nms does not exist')",
    "ModuleNotFoundError": "__version__ = '0.6'",  # a package of the same name with nothing in it
}


@pytest.fixture(params=list(BROKEN))
def broken(
    request: pytest.FixtureRequest, fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """A machine whose detectron2 does not import; gives the error's name."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    break_on_path(tmp_path, request.param)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield request.param
    sys.modules.pop("detectron2", None)


def break_on_path(folder: Path, error: str) -> None:
    (folder / "detectron2").mkdir()
    (folder / "detectron2" / "__init__.py").write_text(BROKEN[error] + "\n", encoding="utf-8")


# Where detectron2 is missing or broken


def test_install_command_for_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    command = rcnn_detectron2.install_command()
    assert command.startswith(f"FORCE_CUDA=0 {sys.executable} -m pip install --no-build-isolation 'git+https://")
    assert f"detectron2.git@{rcnn_detectron2.COMMIT}'" in command
    assert torch.__version__ in command
    assert len(rcnn_detectron2.COMMIT) == 40


def test_install_command_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = rcnn_detectron2.install_command()
    assert command.startswith(f"{sys.executable} -m pip install --no-build-isolation")
    assert "FORCE_CUDA" not in command
    assert "CUDA toolkit 12.9" in command


def test_a_cuda_build_of_torch_without_a_device_gets_the_command_for_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rcnn_detectron2.install_command().startswith("FORCE_CUDA=0 ")


def test_missing_is_an_error_with_the_command(missing: None) -> None:
    assert rcnn_detectron2.problem() == "detectron2 is not installed"
    for act in (
        lambda: MaskRCNN.implementation(MaskRCNNConfig(backend="detectron2")),
        lambda: MaskRCNN(MaskRCNNConfig(**{**TINY["mask_rcnn"], "backend": "detectron2"}), CLASSES),
        lambda: MaskRCNN(MaskRCNNConfig(zoo=ZOO), 80),
    ):
        with pytest.raises(MethodError) as caught:
            act()
        assert "detectron2 is not installed" in str(caught.value)
        assert rcnn_detectron2.install_command() in str(caught.value)
        assert "backend = torchvision" in str(caught.value)


def test_missing_automatic_takes_torchvision_and_says_nothing(
    missing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert MaskRCNN.settled(MaskRCNNConfig()).backend == "torchvision"
    assert MaskRCNN.implementation(MaskRCNNConfig()).startswith("torchvision ")
    assert capsys.readouterr() == ("", "")


def test_broken_automatic_takes_torchvision_with_one_note(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        assert MaskRCNN.settled(MaskRCNNConfig()).backend == "torchvision"
    method = MaskRCNN(MaskRCNNConfig(**TINY["mask_rcnn"]), CLASSES)
    assert method.config.backend == "torchvision"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == err.count("note: ") == 1
    assert f"detectron2 is installed but does not work: {broken}: " in err
    assert err.endswith("; mask_rcnn takes torchvision\n")


def test_broken_is_an_error_with_the_command(broken: str) -> None:
    with pytest.raises(MethodError) as caught:
        MaskRCNN.implementation(MaskRCNNConfig(backend="detectron2"))
    assert f"does not work: {broken}: " in str(caught.value)
    assert rcnn_detectron2.install_command() in str(caught.value)


def run(*words: str, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH"))))
    command = (sys.executable, "run_all.py", "--suite", "shapes", "--methods", "mask_rcnn", *words)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment)


def plain(text: str) -> str:
    """Text without a terminal's line breaks."""
    return " ".join(text.split())


def test_command_line_asked_for_detectron2_that_does_not_work(tmp_path: Path) -> None:
    message = "detectron2 is not installed"
    if importlib.util.find_spec("detectron2"):
        break_on_path(tmp_path, "ImportError")
        message = "detectron2 is installed but does not work: ImportError: libcudart.so.9"
    done = run("--set", "mask_rcnn.backend=detectron2", "--output", str(tmp_path / "out"), path=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert message in plain(done.stderr)
    assert "pip install --no-build-isolation" in plain(done.stderr)
    assert not list((tmp_path / "out").glob("records/*"))


def test_command_line_of_automatic_notes_it_once(tmp_path: Path) -> None:
    break_on_path(tmp_path, "RuntimeError")
    done = run("--dry-run", "--output", str(tmp_path / "out"), path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mask_rcnn.backend = torchvision" in done.stdout
    assert plain(done.stderr).count("operator torchvision::nms does not exist; mask_rcnn takes torchvision") == 1


@pytest.mark.parametrize(
    ("zoo", "backend", "message"),
    [
        (ZOO, "torchvision", "is a network of detectron2, not of backend = torchvision"),
        ("maskrcnn_resnet50_fpn_v2", "detectron2", "is a network of torchvision, not of backend = detectron2"),
        ("mask_rcnn_R_50_FPN_3x", "auto", "no zoo has 'mask_rcnn_R_50_FPN_3x'"),
    ],
)
def test_a_zoo_has_its_makers_networks(zoo: str, backend: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        MaskRCNN.settled(MaskRCNNConfig(zoo=zoo, backend=backend))


def test_a_zoo_chooses_its_maker(missing: None) -> None:
    assert MaskRCNN.settled(MaskRCNNConfig(zoo=ZOO)).backend == "detectron2"
    assert MaskRCNN.settled(MaskRCNNConfig(zoo="maskrcnn_resnet50_fpn")).backend == "torchvision"


# Which commit it is


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    done = subprocess.run(("git", "-C", str(folder), *identity, *words), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def clone(folder: Path) -> tuple[Path, str]:
    """A repository with a package in it: the package's folder and the commit."""
    package = folder / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", str(folder))
    return package, git(folder, "rev-parse", "HEAD")


def install(monkeypatch: pytest.MonkeyPatch, source: Any, package: Path) -> None:
    """Pretend that ``package`` was installed, and that the installer wrote down ``source``."""
    text = None if source is None else json.dumps(source)
    found = SimpleNamespace(read_text=lambda name: text, locate_file=lambda path: package.parent / path)
    monkeypatch.setattr(metadata, "distribution", lambda name: found)


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", nothing)


def test_commit_of_an_installation_from_its_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = {"url": "https://host/detectron2.git", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}}
    install(monkeypatch, source, tmp_path / "detectron2")
    assert rcnn_detectron2._commit(tmp_path / "detectron2") == "a" * 40


def test_a_copy_installed_from_a_clone_is_known_by_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clone(tmp_path / "a clone")
    package = tmp_path / "site-packages" / "detectron2"
    package.mkdir(parents=True)
    install(monkeypatch, {"url": (tmp_path / "a clone").as_uri(), "dir_info": {}}, package)
    assert rcnn_detectron2._commit(package) == ""  # the clone may have moved on since
    before = rcnn_detectron2._digest(package)
    (package / "more.py").write_text("changed = True\n", encoding="utf-8")
    assert rcnn_detectron2._digest(package) != before


def test_commit_of_a_clone_on_the_path(uninstalled: None, tmp_path: Path) -> None:
    package, commit = clone(tmp_path / "clone")
    assert rcnn_detectron2._commit(package) == commit
    next(package.glob("*.py")).write_text("changed = True\n", encoding="utf-8")
    assert rcnn_detectron2._commit(package) == ""  # what runs is no longer that commit


def test_commit_of_a_clone_on_the_path_before_an_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The code that runs counts, not what is installed besides."""
    package, commit = clone(tmp_path / "clone")
    installed = tmp_path / "site-packages" / "detectron2"
    install(monkeypatch, {"url": "https://host/x.git", "vcs_info": {"commit_id": "b" * 40}}, installed)
    assert rcnn_detectron2._commit(package) == commit


@pytest.mark.parametrize("source", [None, {"url": "https://host/detectron2-0.6.whl", "archive_info": {}}])
def test_commit_that_nobody_wrote_down(source: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, source, tmp_path / "detectron2")
    assert rcnn_detectron2._commit(tmp_path / "detectron2") == ""


def test_commit_of_files_without_repository_or_installation(uninstalled: None, tmp_path: Path) -> None:
    assert rcnn_detectron2._commit(tmp_path / "detectron2") == ""


def test_commit_on_a_machine_without_git(uninstalled: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package, _ = clone(tmp_path / "clone")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rcnn_detectron2._commit(package) == ""


# The zoo's network, with random weights that make it answer


def zoo_settings(zoo: str = ZOO) -> Any:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(rcnn_detectron2.configs_folder() / zoo))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def random_weights(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights of normal size in the trunk and large ones in the last layers, so that answers differ from box to box."""
    generator = torch.Generator().manual_seed(seed)
    gain = {
        "stem.conv1.weight": 0.02, "conv3.norm.weight": 0.3, "fpn_lateral": 0.3, "objectness_logits.weight": 0.5,
        "anchor_deltas.weight": 0.05, "cls_score.weight": 0.5, "bbox_pred.weight": 0.15,
        "mask_head.predictor.weight": 4.0,
    }  # fmt: skip

    def made(name: str, shape: torch.Size) -> Tensor:
        factor = next((value for part, value in gain.items() if part in name), 1.0)
        if len(shape) > 1:
            fan = shape[0] * 4 if "deconv" in name else shape[1:].numel()
            return torch.randn(shape, generator=generator) * factor * (2.0 / fan) ** 0.5
        if name.endswith(("norm.weight", "running_var")):
            return factor * (1.0 + 0.2 * torch.rand(shape, generator=generator))
        return 0.1 * torch.randn(shape, generator=generator)

    return {name: made(name, value.shape) for name, value in module.state_dict().items()}


def write_pickle(path: Path, content: Any, protocol: int = 2) -> None:
    """By protocol 2, as old files are, or by 4, which takes a tenth of the time."""
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=protocol)


def zoo_content(state: dict[str, Tensor]) -> dict[str, Any]:
    """What a file of the zoo holds: arrays, buffers that today's network makes anew among them, and an author."""
    arrays = {name: value.numpy() for name, value in state.items()}
    return {"model": {**arrays, **old_buffers()}, "__author__": "Detectron2 Model Zoo"}


def old_buffers() -> dict[str, np.ndarray]:
    cells = {f"proposal_generator.anchor_generator.cell_anchors.{i}": np.ones((3, 4), np.float32) for i in range(5)}
    return {"pixel_mean": np.ones((3, 1, 1), np.float32), "pixel_std": np.ones((3, 1, 1), np.float32), **cells}


@pytest.fixture(scope="module")
def zoo_state() -> dict[str, Tensor]:
    from detectron2.modeling import build_model

    return random_weights(build_model(zoo_settings()))


@pytest.fixture(scope="module")
def zoo_file(zoo_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    write_pickle(path, zoo_content(zoo_state))
    yield path
    path.unlink()  # 250 MB


@pytest.fixture
def new_zoo_file(zoo_state: dict[str, Tensor], tmp_path: Path) -> Iterator[Path]:
    """The same, faster."""
    write_pickle(tmp_path / "model_final.pkl", zoo_content(zoo_state), protocol=4)
    yield tmp_path / "model_final.pkl"
    (tmp_path / "model_final.pkl").unlink()


SIDES = (64, 96)  # instead of 800 and 1333


@pytest.fixture(scope="module")
def predictor(zoo_file: Path) -> Any:
    from detectron2.engine import DefaultPredictor

    cfg = zoo_settings()
    cfg.MODEL.WEIGHTS = str(zoo_file)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = SIDES
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return DefaultPredictor(cfg)


@functools.cache
def zoo_method(file: Path) -> MaskRCNN:
    method = MaskRCNN(MaskRCNNConfig(zoo=ZOO, weights=str(file), score_threshold=0.0), 80)
    method.initialise()
    assert method.detector.sides == (800, 1333)
    method.detector.sides = SIDES
    return method


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 RGB: coarse random patches and fine noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    return np.clip(np.asarray(coarse) + generator.integers(-40, 41, (height, width, 3)), 0, 255).astype(np.uint8)


def as_input(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1], as the harness gives it."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255.0


def predict(method: MaskRCNN, image: np.ndarray) -> Instances:
    (found,) = method.eval().predict(as_input(image)[None], torch.tensor([image.shape[:2]]))
    return found.instances


def differences(found: Instances, expected: Any) -> list[str]:
    """Names of what is not the same; masks pixel by pixel."""
    if len(found.scores) != len(expected):
        return ["count"]
    close = functools.partial(torch.allclose, rtol=0.0, atol=1e-5)
    same = {
        "boxes": close(found.boxes, expected.pred_boxes.tensor),
        "scores": close(found.scores, expected.scores),
        "labels": torch.equal(found.labels, expected.pred_classes + 1),
        "masks": torch.equal(found.masks, expected.pred_masks),
    }
    return [name for name, equal in same.items() if not equal]


# One made smaller, one bounded by its longer side, one made larger.
@needs_detectron2
@pytest.mark.parametrize("size", [(90, 120), (180, 50), (40, 50)])
def test_zoo_predicts_as_the_default_predictor(size: tuple[int, int], predictor: Any, zoo_file: Path) -> None:
    image = picture(*size)
    expected = predictor(image[:, :, ::-1])["instances"]  # it wants BGR
    assert len(expected) >= 20
    assert len(expected.pred_classes.unique()) >= 4
    shares = expected.pred_masks.flatten(1).sum(1) / expected.pred_boxes.area()
    assert ((shares > 0.1) & (shares < 0.9)).sum() >= 5, "masks that are boxes prove nothing"
    assert differences(predict(zoo_method(zoo_file), image), expected) == []


def without_antialias(image: Tensor, sides: tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(image[None], (64, 85), mode="bilinear")[0]


@needs_detectron2
@pytest.mark.parametrize("fault", ["colours", "levels", "filter", "size", "threshold", "weights"])
def test_zoo_comparison_can_fail(fault: str, predictor: Any, zoo_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, method = picture(90, 120), zoo_method(zoo_file)
    expected = predictor(image[:, :, ::-1])["instances"]
    if fault == "colours":
        monkeypatch.setattr(Detectron2RCNN, "_levels", lambda self, image: image * 255.0)
    elif fault == "levels":
        monkeypatch.setattr(Detectron2RCNN, "_levels", lambda self, image: image.flip(0))
    elif fault == "filter":
        monkeypatch.setattr(rcnn_detectron2, "resized", without_antialias)
    elif fault == "size":
        monkeypatch.setattr(method.detector, "sides", (63, 96))
    elif fault == "threshold":
        monkeypatch.setattr(method.detector, "config", dataclasses.replace(method.config, mask_threshold=0.51))
    else:
        norm = method.detector.model.backbone.bottom_up.stem.conv1.norm.running_var
        monkeypatch.setattr(norm, "data", norm + 0.05)
    assert differences(predict(method, image), expected) != []


@needs_detectron2
def test_resized_is_the_predictors_image(predictor: Any) -> None:
    image = picture(90, 120)
    expected = predictor.aug.get_transform(image).apply_image(image)
    found = rcnn_detectron2.resized(as_input(image), SIDES) * 255.0
    assert torch.equal(found, torch.from_numpy(expected.copy()).permute(2, 0, 1).float())


# Its training


def annotation(mask: np.ndarray, category: int, crowd: int = 0, box: list[float] | None = None) -> dict[str, Any]:
    from detectron2.structures import BoxMode

    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if box is None:
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "bbox": [float(value) for value in box], "bbox_mode": BoxMode.XYWH_ABS, "category_id": category,
        "segmentation": code, "iscrowd": crowd,
    }  # fmt: skip


def objects_of(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, H, W) bool of overlapping ellipses, the last two alike, and classes (N,) from 0."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    made = []
    for _ in range(4):
        cy, cx, a, b = generator.uniform(0.2, 0.8, 4) * (height, width, height / 2, width / 2)
        made.append(((y - cy) / (a + 4)) ** 2 + ((x - cx) / (b + 4)) ** 2 < 1)
    return np.stack([*made, made[-1]]), np.array([0, 79, 17, 40, 41])


def mapped(folder: Path, number: int, size: tuple[int, int], extras: bool, mask_format: str = "bitmask") -> Any:
    """detectron2's own training input of one image, from files; and the image and objects that it was written from."""
    from detectron2.data import DatasetMapper

    cfg = zoo_settings()
    cfg.INPUT.MASK_FORMAT = mask_format
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (0,), "none"  # 0: as it is
    image, (masks, classes) = picture(*size, seed=number), objects_of(*size, seed=number)
    path = folder / f"{number}.png"
    Image.fromarray(image).save(path)
    annotations = [annotation(*one) for one in zip(masks, classes.tolist(), strict=True)]
    if extras:
        annotations.insert(1, annotation(np.ones(size, bool), 3, crowd=1))
        annotations.insert(3, annotation(np.zeros(size, bool), 5, box=[3, 4, 20, 10]))  # a box, and no pixel in it
        annotations.insert(4, annotation(np.zeros(size, bool), 6, box=[0, 0, 0, 0]))
    sample = {"file_name": str(path), "height": size[0], "width": size[1], "annotations": annotations}
    return DatasetMapper(cfg, is_train=True)(sample), image, masks, classes


def batch_of(images: list[np.ndarray], objects: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Our batch of images of several sizes, padded below and on the right; masks of no pixel among the objects."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    padded = torch.zeros(len(images), 3, height, width)
    given = []
    for place, image, (masks, classes) in zip(padded, images, objects, strict=True):
        place[:, : image.shape[0], : image.shape[1]] = as_input(image)
        whole = torch.zeros(len(masks) + 1, height, width, dtype=torch.bool)
        whole[1:, : image.shape[0], : image.shape[1]] = torch.from_numpy(masks)
        given.append(ObjectMasks(whole, torch.from_numpy(np.append([9], classes + 1))))
    empty = torch.zeros(len(images), height, width, dtype=torch.int64)
    return Batch(padded, empty, empty, torch.tensor([image.shape[:2] for image in images]), objects=tuple(given))


def their_losses(model: nn.Module, inputs: list[dict[str, Any]]) -> dict[str, float]:
    from detectron2.utils.events import EventStorage

    torch.manual_seed(5)
    with EventStorage(), torch.no_grad():
        return {name: value.item() for name, value in model.train()(inputs).items()}


def our_losses(method: MaskRCNN, batch: Batch) -> dict[str, float]:
    torch.manual_seed(5)
    with torch.no_grad():
        return {name: value.item() for name, value in method.train().loss(batch).items()}


@needs_detectron2
def test_zoo_trains_on_what_the_dataset_mapper_makes(predictor: Any, zoo_file: Path, tmp_path: Path) -> None:
    sizes = ((96, 128), (80, 110))
    made = [mapped(tmp_path, number, size, extras=number == 0) for number, size in enumerate(sizes)]
    # What detectron2 does: neither crowds nor objects without a pixel are left.
    assert [len(one[0]["instances"]) for one in made] == [5, 5]
    batch = batch_of([one[1] for one in made], [one[2:] for one in made])
    expected = their_losses(predictor.model, [one[0] for one in made])
    predictor.model.eval()
    assert set(expected) == {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    assert all(np.isfinite(value) and value > 0.0 for value in expected.values())
    method = zoo_method(zoo_file)
    assert our_losses(method, batch) == pytest.approx(expected, rel=1e-5)
    # Could it fail? The padding seen, another order of classes, an edge of a box one pixel off.
    whole = torch.tensor([batch.images.shape[2:]] * 2)
    shifted = tuple(dataclasses.replace(one, labels=one.labels % 80 + 1) for one in batch.objects)
    thinner = tuple(dataclasses.replace(one, masks=one.masks & one.masks.roll(1, 2)) for one in batch.objects)
    for other in ({"sizes": whole}, {"objects": shifted}, {"objects": thinner}):
        assert our_losses(method, dataclasses.replace(batch, **other)) != pytest.approx(expected, rel=1e-3)


@needs_detectron2
def test_zoo_targets_are_the_dataset_mappers(tmp_path: Path) -> None:
    theirs, _, masks, classes = mapped(tmp_path, 0, (96, 128), extras=True)
    ours = rcnn_detectron2._instances(ObjectMasks(torch.from_numpy(masks), torch.from_numpy(classes + 1)))
    theirs = theirs["instances"]
    assert ours.image_size == theirs.image_size
    assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
    assert torch.equal(ours.gt_classes, theirs.gt_classes)
    assert torch.equal(ours.gt_masks.tensor, theirs.gt_masks.tensor)


# Files


def caffe_name(name: str) -> str:
    """A name of detectron2's ResNet as Detectron's files of ImageNet have it."""
    layer, _, last = name.rpartition(".")
    norm = layer.endswith(".norm")
    layer = layer.removesuffix(".norm").removeprefix("stem.")
    layer = "res_conv1" if layer == "conv1" and norm else layer
    for ours, theirs in (("shortcut", "branch1"), ("conv1", "branch2a"), ("conv2", "branch2b"), ("conv3", "branch2c")):
        layer = layer.replace(f".{ours}", f"_{theirs}")
    ends = {"weight": "bn_gamma", "bias": "bn_beta", "running_mean": "bn_running_mean", "running_var": "bn_running_var"}
    return f"{layer.replace('.', '_')}_{ends[last] if norm else last[0]}"


@pytest.mark.parametrize(
    ("name", "caffe"),
    [
        ("stem.conv1.weight", "conv1_w"),
        ("stem.conv1.norm.bias", "res_conv1_bn_beta"),
        ("res2.0.conv1.weight", "res2_0_branch2a_w"),
        ("res5.2.conv3.norm.running_var", "res5_2_branch2c_bn_running_var"),
        ("res3.0.shortcut.norm.weight", "res3_0_branch1_bn_gamma"),
    ],
)
def test_names_of_detectron(name: str, caffe: str) -> None:
    assert caffe_name(name) == caffe


def imagenet_content(encoder: nn.Module, kind: str) -> dict[str, Any]:
    """A classifier's file: Detectron's bare arrays by its own names, or what detectron2's converter makes."""
    state = {name: value.numpy() for name, value in random_weights(encoder, 7).items()}
    if kind == "converted":
        model = {**state, "stem.fc.weight": np.zeros((1000, 2048), np.float32)}
        return {"model": model, "__author__": "torchvision", "matching_heuristics": True}
    arrays = {caffe_name(name): value for name, value in state.items()}
    if kind == "folded":
        arrays = {name: value for name, value in arrays.items() if "_running_" not in name}
    shapes = {"conv1_b": (64,), "fc1000_w": (1000, 2048), "fc1000_b": (1000,)}
    return {**arrays, **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()}}


# folded: with the statistics of batch normalisation in its factors, as the oldest files have them.
@needs_detectron2
@pytest.mark.parametrize(("kind", "protocol"), [("whole", 2), ("folded", 4), ("converted", 4)])
def test_imagenet_file_loads_as_by_the_checkpointer(kind: str, protocol: int, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    path = tmp_path / "R-50.pkl"
    torch.manual_seed(0)
    theirs = build_model(zoo_settings())
    write_pickle(path, imagenet_content(theirs.backbone.bottom_up, kind), protocol)
    DetectionCheckpointer(theirs).load(str(path))
    method = MaskRCNN(MaskRCNNConfig(zoo=ZOO, weights=str(path)), 80)
    before = {name: value.clone() for name, value in method.detector.model.state_dict().items()}
    method.initialise()
    ours = method.detector.model.state_dict()
    assert set(ours) == set(theirs.state_dict())
    for name, expected in theirs.state_dict().items():
        if name.startswith("backbone.bottom_up."):
            assert torch.equal(ours[name], expected), name
        else:
            assert torch.equal(ours[name], before[name]), name
    stem = "backbone.bottom_up.stem.conv1.weight"
    assert not torch.equal(before[stem], ours[stem])
    path.unlink()


@needs_detectron2
def test_a_checkpoint_of_detectron2_loads(predictor: Any, tmp_path: Path) -> None:
    """What its trainer writes: a torch file with more in it than weights."""
    from detectron2.checkpoint import DetectionCheckpointer

    DetectionCheckpointer(predictor.model, str(tmp_path)).save("model_final", iteration=7)
    method = MaskRCNN(MaskRCNNConfig(zoo=ZOO, weights=str(tmp_path / "model_final.pth")), 80)
    method.initialise()
    expected = predictor.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in method.detector.model.state_dict().items())
    (tmp_path / "model_final.pth").unlink()


@needs_detectron2
def test_zoo_file_of_other_classes(zoo_state: dict[str, Tensor], new_zoo_file: Path) -> None:
    config = MaskRCNNConfig(zoo=ZOO, weights=str(new_zoo_file))
    with pytest.raises(MethodError, match=r"only layers for the classes differ: new_classes = true trains those anew"):
        MaskRCNN(config, 8).initialise()
    torch.manual_seed(1)
    method = MaskRCNN(dataclasses.replace(config, new_classes=True), 8)
    before = {name: value.clone() for name, value in method.detector.model.state_dict().items()}
    method.initialise()
    kept = set()
    for name, value in method.detector.model.state_dict().items():
        if torch.equal(value, before[name]):
            kept.add(name)
        else:
            assert torch.equal(value, zoo_state[name]), name
    layers = ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred", "roi_heads.mask_head.predictor")
    assert kept == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def coco_names(folder: Path) -> tuple[str, ...]:
    """COCO's categories as our data set gives them, from a file in which they stand in another order."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names) if name not in ("__background__", "N/A")]
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    Image.fromarray(picture(8, 8)).save(folder / "val2017" / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 8, "width": 8}], "annotations": [],
        "categories": categories[::-1],
    }  # fmt: skip
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return Coco(folder, "annotations/instances_val2017.json", "", training=False).info.categories


@needs_detectron2
def test_zoo_knows_cocos_classes(new_zoo_file: Path, tmp_path: Path) -> None:
    method = MaskRCNN(MaskRCNNConfig(zoo=ZOO, weights=str(new_zoo_file)), 80)
    method.class_names = coco_names(tmp_path)
    assert len(method.class_names) == 80
    method.initialise()
    swapped = list(method.class_names)
    swapped[3], swapped[4] = swapped[4], swapped[3]
    method.class_names = tuple(swapped)
    with pytest.raises(MethodError, match=r"class 4 is motorcycle, not airplane.*new_classes = true"):
        method.initialise()


@needs_detectron2
def test_zoo_knows_cityscapes_classes(tmp_path: Path) -> None:
    zoo = "Cityscapes/mask_rcnn_R_50_FPN.yaml"
    method = MaskRCNN(MaskRCNNConfig(zoo=zoo, weights=str(tmp_path / "model.pkl")), 8)
    assert method.detector.sides == (1024, 2048)
    state = random_weights(method.detector.model)
    write_pickle(tmp_path / "model.pkl", zoo_content(state), protocol=4)
    method.class_names = tuple(cityscapes.THINGS.values())
    method.initialise()
    assert all(torch.equal(value, state[name]) for name, value in method.detector.model.state_dict().items())
    method.class_names = (*method.class_names[:7], "tram")
    with pytest.raises(MethodError, match="class 8 is bicycle, not tram"):
        method.initialise()
    (tmp_path / "model.pkl").unlink()


@needs_detectron2
def test_a_zoo_network_starts_from_a_file_that_is_named() -> None:
    with pytest.raises(MethodError, match=r"starts from ImageNet weights of its makers' own"):
        MaskRCNN(MaskRCNNConfig(zoo=ZOO), 80).initialise()
    MaskRCNN(MaskRCNNConfig(zoo=ZOO, pretrained=False), 80).initialise()


@needs_detectron2
@pytest.mark.parametrize(
    ("zoo", "message"),
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50.yaml", "detectron2 has no COCO-InstanceSegmentation"),
        ("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", "is no Mask R-CNN"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml", "is no Mask R-CNN"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml", "feature pyramid"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x.yaml", "feature pyramid"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml", "feature pyramid and one box head"),
    ],
)
def test_zoo_networks_that_the_adapter_cannot_drive(zoo: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        MaskRCNN(MaskRCNNConfig(zoo=zoo), 80)


# Our own network


def tiny(seed: int = 0, classes: int = CLASSES, **changes: Any) -> MaskRCNN:
    torch.manual_seed(seed)
    return MaskRCNN(MaskRCNNConfig(**{**TINY["mask_rcnn"], "backend": "detectron2", **changes}), classes)


CONTRACT = {name: act for name, act in vars(method_contract).items() if name.startswith("test_")}


@needs_detectron2
@pytest.mark.parametrize("name", list(CONTRACT))
def test_contract_of_a_method(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    act: Callable = CONTRACT[name]
    given = {"request": request, "tmp_path": tmp_path}
    wanted = inspect.signature(act).parameters
    for what in ("nothing", "ignore") if "what" in wanted else ("",):
        method = tiny()
        assert isinstance(method.detector, Detectron2RCNN)
        values = {**given, "method": method, "what": what}
        act(**{name: values[name] for name in wanted})


@needs_detectron2
def test_every_part_gets_a_gradient() -> None:
    method, batch = tiny(coarser_level=True, anchors=(12, 24, 48), proposals=200), scenes(4)
    sum(method.train().loss(batch).values()).backward()
    without = [name for name, one in method.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    # The encoder's last levels feed no pyramid level, as with any encoder that is cut short.
    assert [name for name in without if "bottom_up" not in name] == []


def described(network: nn.Module) -> dict[str, Any]:
    """The settings of all parts behind the encoder, by name: numbers, texts, and how large the parameters are."""

    def settings(part: Any) -> dict[str, Any]:
        public = {key: value for key, value in vars(part).items() if not key.startswith("_")}
        inner = {key: settings(value) for key, value in public.items() if type(value).__name__ in HELPERS}
        flat = {key: value for key, value in public.items() if isinstance(value, (bool, int, float, str, dict))}
        rows = {key: list(value) for key, value in public.items() if isinstance(value, (tuple, list))}
        return {**inner, **flat, **{key: row for key, row in rows.items() if row and not isinstance(row[0], nn.Module)}}

    parts = {name: part for name, part in network.named_modules() if name and "bottom_up" not in name}
    found = {name: (type(part).__name__, settings(part)) for name, part in parts.items()}
    found["cells"] = [cell.tolist() for cell in network.proposal_generator.anchor_generator.cell_anchors]
    found["sizes"] = {name: one.shape for name, one in network.named_parameters() if "bottom_up" not in name}
    return found


HELPERS = ("Matcher", "Box2BoxTransform")


@needs_detectron2
def test_default_settings_are_the_zoos_recipe() -> None:
    """Ours put together from constructors, theirs from the YAML file: the same parts with the same settings."""
    from detectron2.modeling import build_model

    ours = tiny(classes=80, **dataclasses.asdict(MaskRCNNConfig(backend="detectron2"))).detector.model
    theirs = build_model(zoo_settings())
    mine, expected = described(ours), described(theirs)
    weights = mine["roi_heads.box_predictor"][1]["loss_weight"]
    assert weights.pop("loss_cls") == 1.0  # what they take where it is not named
    assert set(mine) == set(expected)
    assert len(mine) > 40
    for name, value in expected.items():
        assert mine[name] == value, name
    assert ours.proposal_generator.pre_nms_topk == {True: 2000, False: 1000}
    torch.testing.assert_close(ours.pixel_mean.flatten(), torch.tensor([0.485, 0.456, 0.406]) * 255)
    assert ours.input_format == "RGB"


@needs_detectron2
def test_settings_reach_detectron2() -> None:
    model = tiny(
        proposals=70, test_proposals=31, score_threshold=0.125, nms_threshold=0.375, detections=17,
        anchor_samples=48, box_samples=24, canonical_size=56,
    ).detector.model  # fmt: skip
    assert model.proposal_generator.pre_nms_topk == {True: 70, False: 31}
    assert model.proposal_generator.post_nms_topk == {True: 70, False: 31}
    assert model.proposal_generator.batch_size_per_image == 48
    assert model.roi_heads.batch_size_per_image == 24
    box = model.roi_heads.box_predictor
    assert (box.test_score_thresh, box.test_nms_thresh, box.test_topk_per_image) == (0.125, 0.375, 17)
    assert model.roi_heads.box_pooler.canonical_box_size == model.roi_heads.mask_pooler.canonical_box_size == 56
    assert [cell.shape[0] for cell in model.proposal_generator.anchor_generator.cell_anchors] == [3, 3]


@needs_detectron2
def test_settings_change_what_is_found() -> None:
    batch = scenes(1)

    def found(**changes: Any) -> Instances:
        return tiny(**changes).eval().predict(batch.images, batch.sizes)[0].instances

    usual = found()
    assert len(usual.scores) > 12
    few = found(detections=5)
    torch.testing.assert_close(few.scores, usual.scores[:5])
    threshold = usual.scores[9].item()
    assert len(found(score_threshold=threshold).scores) == (usual.scores > threshold).sum()
    assert len(found(nms_threshold=0.05).scores) < len(usual.scores)
    wider = found(mask_threshold=0.4)
    assert (wider.masks >= usual.masks).all()
    assert wider.masks.sum() > usual.masks.sum()


@needs_detectron2
def test_zoo_takes_the_settings_of_prediction() -> None:
    method = MaskRCNN(
        MaskRCNNConfig(zoo=ZOO, test_proposals=33, score_threshold=0.25, nms_threshold=0.3, detections=7), 8
    )
    model = method.detector.model
    box = model.roi_heads.box_predictor
    assert (box.test_score_thresh, box.test_nms_thresh, box.test_topk_per_image) == (0.25, 0.3, 7)
    assert model.proposal_generator.post_nms_topk == {True: 1000, False: 33}
    assert box.num_classes == model.roi_heads.num_classes == 8


@needs_detectron2
@pytest.mark.parametrize("wanted", [1, 13, 1000])
def test_first_stage_proposals_are_detectron2s(wanted: int) -> None:
    batch = scenes(1)
    plain_one, method = tiny(test_proposals=120).eval(), tiny(test_proposals=120, rpn_proposals=wanted).eval()
    sizes = torch.tensor([[128, 192]])  # the network sees it at a half and a third
    (without,) = plain_one.predict(batch.images, sizes)
    (prediction,) = method.predict(batch.images, sizes)
    assert without.proposals is None
    method_contract.assert_same(without, dataclasses.replace(prediction, proposals=None))
    assert torch.equal(without.instances.masks, prediction.instances.masks)
    with torch.inference_mode():
        model = plain_one.detector.model
        images = model.preprocess_image([{"image": batch.images[0] * 255.0}])
        (expected,), _ = model.proposal_generator(images, model.backbone(images.tensor), None)
    assert 50 < len(expected) <= 120  # more than one chunk of masks
    count = min(wanted, len(expected))
    found = prediction.proposals
    method_contract.check_instances(found, [128, 192])
    assert len(found.scores) == count
    assert (found.labels == 0).all()
    assert (found.scores.diff() <= 0).all()
    torch.testing.assert_close(found.scores, expected.objectness_logits[:count].sigmoid())
    boxes = expected.proposal_boxes.tensor[:count] * torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(found.boxes, boxes)
    assert found.masks.flatten(1).any(1).float().mean() > 0.5


@needs_detectron2
def test_masks_of_proposals_are_those_of_their_likeliest_class() -> None:
    """A detection's mask again, when its box is put in as a proposal and its class is the likeliest there."""
    batch, method = scenes(1), tiny(rpn_proposals=30).eval()
    (prediction,) = method.predict(batch.images, batch.sizes)
    with torch.inference_mode():
        model = method.detector.model
        images = model.preprocess_image([{"image": batch.images[0] * 255.0}])
        features = model.backbone(images.tensor)
        (first,), _ = model.proposal_generator(images, features, None)
        heads = model.roi_heads
        pooled = heads.box_pooler([features[name] for name in heads.box_in_features], [first.proposal_boxes])
        classes = heads.box_predictor(heads.box_head(pooled))[0].softmax(1)[:, :CLASSES].argmax(1)
        first.pred_boxes, first.pred_classes = first.proposal_boxes, classes
        (expected,) = model.inference([{"image": batch.images[0] * 255.0}], [first])
    assert torch.equal(prediction.proposals.masks, expected["instances"].pred_masks)


@needs_detectron2
def test_an_image_without_proposals() -> None:
    method, batch = tiny(rpn_proposals=5).eval(), scenes(1)
    method.detector.model.proposal_generator.min_box_size = 1e9
    (prediction,) = method.predict(batch.images, torch.tensor([[70, 90]]))
    for found in (prediction.instances, prediction.proposals):
        method_contract.check_instances(found, [70, 90])
        assert len(found.scores) == 0
        assert found.boxes.shape == (0, 4)


@needs_detectron2
def test_overlapping_objects_reach_the_loss_whole() -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:56, 8:56], masks[1, 20:40, 20:40] = True, True
    objects = ObjectMasks(masks, torch.tensor([1, 2]))
    batch, seen, method = dataclasses.replace(scenes(1), objects=(objects,)), [], tiny()
    method.detector.model.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[0]))
    losses = method.train().loss(batch)
    assert all(torch.isfinite(value) for value in losses.values())
    target = seen[0]["instances"]
    assert target.gt_masks.tensor.sum((1, 2)).tolist() == [48 * 48, 20 * 20]
    assert target.gt_boxes.tensor.tolist() == [[8, 8, 56, 56], [20, 20, 40, 40]]
    assert target.gt_classes.tolist() == [0, 1]
    torch.testing.assert_close(seen[0]["image"], batch.images[0] * 255.0)


@needs_detectron2
def test_images_without_objects_have_no_box_and_no_mask_loss() -> None:
    none = ObjectMasks(torch.zeros(0, 64, 64, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    method = tiny()
    losses = method.train().loss(dataclasses.replace(scenes(2), objects=(none, none)))
    assert losses["loss_box_reg"] == losses["loss_mask"] == losses["loss_rpn_loc"] == 0.0
    assert losses["loss_cls"] > 0.0
    sum(losses.values()).backward()
    mixed = (none, ObjectMasks(torch.ones(1, 64, 64).bool(), torch.tensor([3])))
    assert all(torch.isfinite(one) for one in method.loss(dataclasses.replace(scenes(2), objects=mixed)).values())


@needs_detectron2
@pytest.mark.parametrize("strides", [(4, 8, 16), (8, 16, 32), (8, 16)])
def test_a_coarser_level_doubles_the_last_stride(strides: tuple[int, ...]) -> None:
    anchors = (8, 16, 32, 64)[: len(strides) + 1]
    method = tiny(strides=strides, coarser_level=True, anchors=anchors)
    batch, model = scenes(1), method.detector.model
    with torch.inference_mode():
        features = model.eval().backbone(model.preprocess_image([{"image": batch.images[0]}]).tensor)
    expected = [*strides, 2 * strides[-1]]
    assert [64 // feature.shape[-1] for feature in features.values()] == expected
    first = model.proposal_generator
    assert first.in_features == list(features)
    assert first.anchor_generator.strides == expected
    assert torch.equal(list(features.values())[-1], list(features.values())[-2][:, :, ::2, ::2])
    assert model.roi_heads.box_in_features == model.roi_heads.mask_in_features == list(features)[:-1]
    assert all(torch.isfinite(value) for value in method.train().loss(batch).values())


@needs_detectron2
def test_strides_must_double() -> None:
    with pytest.raises(MethodError, match=r"needs strides that double, not \[4, 16\]"):
        tiny(strides=(4, 16))


@needs_detectron2
def test_group_norm_is_in_pyramid_and_mask_head() -> None:
    model = tiny(normalisation="group").detector.model
    normed = {name for name, one in model.named_modules() if isinstance(one, nn.GroupNorm)}
    levels = {f"backbone.fpn_{kind}{level}.norm" for kind in ("lateral", "output") for level in (2, 3)}
    assert normed == {*levels, "roi_heads.mask_head.mask_fcn1.norm"}
    assert model.backbone.fpn_output2.bias is None  # the norm has one
    assert not any(isinstance(one, nn.GroupNorm) for one in tiny().detector.model.modules())


@needs_detectron2
def test_frozen_levels_and_fixed_normalisation() -> None:
    method = tiny(frozen_levels=2, fixed_normalisation=True).train()
    encoder = method.detector.encoder
    norms = [one for one in encoder.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert not any(one.training for one in norms)
    assert not any(parameter.requires_grad for one in norms for parameter in one.parameters())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([one for one in method.parameters() if one.requires_grad], 0.1)
    sum(method.loss(scenes(2)).values()).backward()
    optimizer.step()
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, one in encoder.named_parameters() if one.requires_grad and one.grad is not None}
    assert changed == trained != set()
    frozen = [name for name, one in encoder.named_parameters() if not one.requires_grad]
    assert any("conv_stem" in name for name in frozen)


@needs_detectron2
def test_same_seed_same_numbers() -> None:
    batch = scenes(2)

    def numbers(seed: int) -> tuple[dict[str, float], list[Instances]]:
        method = tiny(seed)
        losses = our_losses(method, batch)
        return losses, [one.instances for one in method.eval().predict(batch.images, batch.sizes)]

    (losses, found), (losses_again, found_again), (others, _) = numbers(0), numbers(0), numbers(1)
    assert losses == losses_again != others
    for one, again in zip(found, found_again, strict=True):
        assert all(torch.equal(getattr(one, part), getattr(again, part)) for part in ("scores", "masks", "boxes"))


@needs_detectron2
def test_weights_of_a_run_of_ours_load_again(tmp_path: Path) -> None:
    from harness.train import save_weights

    first = tiny(0)
    save_weights(first, tmp_path / "weights.safetensors")
    second = tiny(1, weights=str(tmp_path / "weights.safetensors"))
    second.initialise()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not any("pixel_mean" in name or "cell_anchors" in name for name in first.state_dict())


@needs_detectron2
def test_works_without_its_compiled_part() -> None:
    """What we use of it are torchvision's operators: a clone on the path that nobody compiled is enough."""
    code = (
        "import sys; sys.modules['detectron2._C'] = None\n"
        "from methods import rcnn_detectron2\n"
        "assert rcnn_detectron2.problem() == '', rcnn_detectron2.problem()\n"
        "import test_rcnn_detectron2 as tests\n"
        "tests.test_every_part_gets_a_gradient()\n"
        "tests.test_first_stage_proposals_are_detectron2s(13)\n"
    )
    path = os.pathsep.join(
        filter(None, (str(ROOT / "tests"), str(ROOT / "tests/methods"), os.environ.get("PYTHONPATH")))
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        (sys.executable, "-c", code), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr


# A cell from the command line


@needs_detectron2
def test_a_cell_says_who_ran_it(tmp_path: Path) -> None:
    words = ("--output", str(tmp_path), "--set", "evaluate.resamples=20", "--set", "data.size=64")
    tiny_words = ("--set", "mask_rcnn.train.steps=2", "--set", "data.val_images=4", *words)
    done = run(*tiny_words)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "ok"
    implementation = rcnn_detectron2.implementation()
    assert implementation.startswith(("detectron2 0.6, commit ", "detectron2 0.6, sources "))
    assert record["train"]["implementation"] == record["predict"]["implementation"] == implementation
    assert record["settings"]["config"]["backend"] == "detectron2"
    assert set(record["train"]["losses"]) >= {"loss_rpn_loc", "loss_mask"}
    assert f"[{implementation}]" in plain(done.stdout)
    (training,) = (tmp_path / "steps" / "train").iterdir()

    named = run(*tiny_words, "--set", "mask_rcnn.backend=detectron2")
    assert "reused train, predict, evaluate" in named.stdout  # what auto stood for, named: the same key
    other = run(*tiny_words, "--set", "mask_rcnn.backend=torchvision")
    assert other.returncode == 0, other.stdout + other.stderr
    trainings = set((tmp_path / "steps" / "train").iterdir())
    assert len(trainings) == 2
    assert training in trainings
