"""Metrics beside their reference programs, or, where none can be installed, beside the metric with dense masks."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from benchmarks.cases import Case
from benchmarks.cases.evaluation_inputs import POOL, Scene, scenes
from evaluation import (
    boundary,
    cityscapes_ap,
    coco_ap,
    coco_engine,
    masks,
    proposals,
    semantic_iou,
    statistics,
    voc_apr,
)
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant
from harness import cityscapes_files, coco_files
from harness.judges import VocJudge


def voc(scale: float) -> list[Case]:
    """As many images, truths and detections as VOC 2012 val has, at scale 1."""
    images, pool = round(1449 * scale), scenes((375, 500), 3734 / 1449, 20, 20)
    chosen = [pool[number % POOL] for number in range(images)]
    truths = sum(len(scene.truth_labels) for scene in chosen)
    return [
        Case(
            f"VOC AP^r, {images} images, {truths} truths, 20 detections an image",
            {
                "ours, nine thresholds": lambda: voc_ours(chosen),
                "dense masks, 0.5 and 0.7": lambda: voc_dense(chosen),
                "ours, as the command judges: 16 variants, errors, breakdowns": lambda: voc_judge(chosen),
            },
            "at most 2.0 s and 400 MB at 1,449 images",
            same=lambda ours, other: np.testing.assert_allclose(ours[[4, 6]], other[-2:], atol=1e-12),
            slow=frozenset({"dense masks, 0.5 and 0.7"}),
        )
    ]


def voc_ours(chosen: list[Scene]) -> np.ndarray:
    variant = Variant()
    matches = []
    for scene in chosen:
        truth = ImageTruth(scene.instances, scene.truth_labels)
        matches.append(
            voc_apr.match_image(truth, ImageDetections(scene.masks, scene.labels, scene.scores), variant, 20)
        )
    return voc_apr.average_precision(matches, variant, 20).mean


def voc_judge(chosen: list[Scene]) -> np.ndarray:
    judge = VocJudge([str(label) for label in range(20)])
    for number, scene in enumerate(chosen):
        truth = ImageTruth(scene.instances, scene.truth_labels)
        judge.add(str(number), truth, ImageDetections(scene.masks, scene.labels, scene.scores))
    numbers, *_ = [statistics.whole(one.measure, len(chosen)) for one in judge.finish()]
    return np.array([numbers["ap_r_50"], numbers["ap_r_70"]])


def voc_dense(chosen: list[Scene]) -> np.ndarray:
    """Two thresholds, as the public evaluators do it: every pair of a truth and a detection compared pixel by pixel."""
    outcomes: dict[int, list[tuple[float, bool, bool]]] = {label: [] for label in range(1, 21)}
    truths = np.zeros(21, np.int64)
    for scene in chosen:
        regions = [scene.instances == number + 1 for number in range(len(scene.truth_labels))]
        shapes = masks.decode(scene.masks, scene.instances.shape)
        np.add.at(truths, scene.truth_labels, 1)
        taken: set[tuple[int, int]] = set()
        for index in np.argsort(-scene.scores, kind="stable"):
            own = np.flatnonzero(scene.truth_labels == scene.labels[index])
            iou = [(regions[n] & shapes[index]).sum() / (regions[n] | shapes[index]).sum() for n in own]
            best = int(np.argmax(iou)) if iou else -1
            hits = []
            for level, threshold in enumerate((0.5, 0.7)):
                hit = best >= 0 and iou[best] >= threshold and (level, own[best]) not in taken
                taken |= {(level, own[best])} if hit else set()
                hits.append(hit)
            outcomes[int(scene.labels[index])].append((float(scene.scores[index]), *hits))
    result = np.full((2, 20), np.nan)
    for label, found in outcomes.items():
        if truths[label]:
            order = sorted(found, key=lambda outcome: -outcome[0])
            for level in (0, 1):
                right = np.array([outcome[1 + level] for outcome in order], np.bool_)
                precision = np.cumsum(right) / np.arange(1, len(right) + 1)
                envelope = np.maximum.accumulate(precision[::-1])[::-1]
                result[level, label - 1] = envelope[right].sum() / truths[label]
    return np.nanmean(result, 1)


def coco(scale: float) -> list[Case]:
    """100 detections an image, of 80 categories. Masks are checked once when they are read, so not here."""
    images, pool = round(1000 * scale), scenes((480, 640), 7.3, 100, 80)
    names = [str(label) for label in range(1, 81)]
    truths, found = [], []
    for scene in (pool[number % POOL] for number in range(images)):
        regions = masks.encode_ids(scene.instances, len(scene.truth_labels))
        crowd, areas = np.zeros(len(regions), np.bool_), masks.areas(regions).astype(np.float64)
        truths.append(coco_ap.ImageTruth(regions, scene.truth_labels, crowd, areas))
        found.append(coco_ap.ImageDetections(scene.masks, scene.labels, scene.scores))
    expected, results = _as_json(truths, found)

    def ours() -> dict[str, float]:
        matches = [coco_ap.match_image(*pair, 80, checked=True) for pair in zip(truths, found, strict=True)]
        return statistics.whole(lambda counts: coco_ap.measure(matches, counts, names), images)

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for name, content in (("truth.json", expected), ("results.json", results)):
        (folder / name).write_text(json.dumps(content))
    contenders = {
        "ours: all numbers, and matches for the bootstrap": ours,
        "ours, from JSON": lambda: _coco_from_files(folder, names),
    }
    engines = [*coco_engine.ENGINES, *(["faster-coco-eval"] if importlib.util.find_spec("faster_coco_eval") else [])]
    for engine in engines:
        classes = _classes(engine)  # imported before the clock runs
        contenders[f"{engine}: 12 numbers"] = lambda classes=classes: peer(classes, expected, results)
        contenders[f"{engine}, from JSON"] = lambda classes=classes: peer(classes, *_read(folder))
    return [
        Case(
            f"COCO AP, {images} images, {len(results)} detections",
            contenders,
            "at most 1.2 s at 100,000 detections",
            same=_same_twelve,
            slow=frozenset(name for name in contenders if name.startswith(("pycoco", "faster"))),
        )
    ]


def _coco_from_files(folder: Path, names: list[str]) -> dict[str, float]:
    truth = coco_files.read_annotations(folder / "truth.json")
    results = coco_files.read_results(folder / "results.json", {key: key for key in truth.sizes}, truth.label_of)
    matches = []
    for image_id, size in truth.sizes.items():
        image, found = truth.read(image_id), results.found(image_id, size)
        annotated = coco_ap.ImageTruth(image.regions, image.labels, image.crowd, image.areas)
        detected = coco_ap.ImageDetections(found.regions, found.labels, found.scores)
        matches.append(coco_ap.match_image(annotated, detected, len(names), checked=True))
    return statistics.whole(lambda counts: coco_ap.measure(matches, counts, names), len(matches))


def _read(folder: Path) -> tuple[dict, list[dict]]:
    return tuple(json.loads((folder / name).read_text()) for name in ("truth.json", "results.json"))


def _same_twelve(ours: dict[str, float], stats: np.ndarray | dict[str, float]) -> None:
    if isinstance(stats, dict):
        np.testing.assert_array_equal(list(stats.values()), list(ours.values()))
        return
    names = ["ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large"]
    names += ["ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]
    np.testing.assert_allclose([ours[f"coco_{name}"] for name in names], stats, atol=1e-9)


def _as_json(truths: list[coco_ap.ImageTruth], found: list[coco_ap.ImageDetections]) -> tuple[dict, list[dict]]:
    """The same as the programs for COCO read it: annotations and results."""
    annotations, results = [], []
    for image, (truth, detected) in enumerate(zip(truths, found, strict=True), 1):
        for region, label, area in zip(truth.regions, truth.labels, truth.areas, strict=True):
            one = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "segmentation": region}
            annotations.append({**one, "area": float(area), "iscrowd": 0})
        for region, label, score in zip(detected.regions, detected.labels, detected.scores, strict=True):
            one = {"image_id": image, "category_id": int(label), "segmentation": region, "score": float(score)}
            results.append(one)
    images = [{"id": image, "height": 480, "width": 640} for image in range(1, len(truths) + 1)]
    categories = [{"id": label, "name": str(label)} for label in range(1, 81)]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def _classes(name: str) -> tuple[type, type]:
    if name != "faster-coco-eval":
        return coco_engine.engine_classes(name)
    from faster_coco_eval import COCO, COCOeval_faster

    return COCO, COCOeval_faster


def peer(classes: tuple[type, type], expected: dict, results: list[dict]) -> np.ndarray:
    """The twelve numbers as a user of one of the programs gets them; none checks the masks."""
    dataset_type, evaluator_type = classes
    with contextlib.redirect_stdout(io.StringIO()):
        truth = dataset_type()
        truth.dataset = expected
        truth.createIndex()
        one = evaluator_type(truth, truth.loadRes([dict(result) for result in results]), "segm")
        one.evaluate()
        one.accumulate()
        one.summarize()
    return np.array(one.stats)[:12]


def cityscapes(scale: float) -> list[Case]:
    """Frames of 1024 x 2048 with 30 predictions each; "from files" reads every PNG, as the official script does."""
    images, pool = round(50 * scale), scenes((1024, 2048), 20, 30, 8, count=10)
    labels = np.array(list(cityscapes_ap.CLASSES))
    truths, found = [], []
    for scene in pool:
        ids = np.append(7, labels[scene.truth_labels - 1] * 1000 + np.arange(len(scene.truth_labels)))
        truths.append(cityscapes_ap.ImageTruth(ids[scene.instances].astype(np.uint16)))
        found.append(cityscapes_ap.ImageDetections(scene.masks, labels[scene.labels - 1], scene.scores))
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for number in range(images):
        image_id = f"town_{number:06d}_000000"
        cityscapes_files.write_image(folder / "results", image_id, found[number % len(pool)])
        path = folder / "gtFine" / "val" / "town" / f"{image_id}_gtFine_instanceIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truths[number % len(pool)].ids).save(path)

    def ours(pairs) -> float:
        matches = [cityscapes_ap.match_image(*pair) for pair in pairs]
        return statistics.whole(lambda counts: cityscapes_ap.measure(matches, counts), images)["cs_ap"]

    def from_memory() -> float:
        return ours((truths[number % len(pool)], found[number % len(pool)]) for number in range(images))

    def from_files() -> float:
        pairs = cityscapes_files.open_pairs(folder / "gtFine", folder / "results")
        return ours((truth, detections) for _, truth, detections in pairs)

    official = "cityscapesscripts, from files"
    return [
        Case(
            f"Cityscapes AP, {images} images, 30 predictions each",
            {"ours, from memory": from_memory, "ours, from files": from_files, official: lambda: _official(folder)},
            "at most 2 s from memory and 9 s from files at 50 images",
            same=lambda one, other: np.testing.assert_allclose(one, other, atol=1e-9),
            slow=frozenset({official}),
        )
    ]


def _official(folder: Path) -> float:
    import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as script

    args = script.args
    args.quiet, args.colorized, args.JSONOutput = True, False, False
    args.predictionPath = str(folder / "results")
    args.gtInstancesFile = str(folder / "gtInstances.json")
    Path(args.gtInstancesFile).unlink(missing_ok=True)  # the script would not look at the truth again
    truths = sorted(str(path) for path in (folder / "gtFine").rglob("*_instanceIds.png"))
    # Its matches.json is only for debugging, and cannot be written with numpy 2.3.
    plain = script.writeDict2JSON
    script.writeDict2JSON = lambda what, to: to == "matches.json" or plain(what, to)
    with contextlib.redirect_stdout(io.StringIO()):
        predictions = [script.getPrediction(truth, args) for truth in truths]
        return script.evaluateImgLists(predictions, truths, args)["averages"]["allAp"]


def boundaries(scale: float) -> list[Case]:
    """Outlines of scenes, annotated three times with a pixel's difference, against a smooth map; nothing to install."""
    images, pool = max(1, round(4 * scale)), scenes((321, 481), 12, 1, 1, count=4)

    def ours() -> float:
        matches = []
        for scene in (pool[number % len(pool)] for number in range(images)):
            edges = np.diff(scene.instances, axis=0, prepend=0) != 0
            edges |= np.diff(scene.instances, axis=1, prepend=0) != 0
            drawn = boundary.ImageTruth(
                np.stack([np.roll(edges, step, axis) for step, axis in ((0, 0), (1, 0), (1, 1))])
            )
            smooth = ndimage.gaussian_filter(edges.astype(np.float64), 2)
            matches.append(boundary.match_image(drawn, boundary.ImageBoundary(smooth / smooth.max())))
        return statistics.whole(lambda counts: boundary.measure(matches, counts), images)["ods"]

    title = f"boundaries, {images} images of 321 x 481, three annotators, 99 thresholds"
    return [Case(title, {"ours": ours}, "none set", slow=frozenset({"ours"}))]


def proposal_recall(scale: float) -> list[Case]:
    images, pool = round(1449 * scale), scenes((375, 500), 3734 / 1449, 60, 1)
    chosen = [pool[number % POOL] for number in range(images)]

    def ours() -> float:
        matches = []
        for scene in chosen:
            regions = masks.encode_ids(scene.instances, len(scene.truth_labels))
            truth = proposals.ImageTruth(regions, scene.instances.shape)
            matches.append(proposals.match_image(truth, proposals.ImageProposals(scene.masks, scene.scores)))
        return statistics.whole(lambda counts: proposals.measure(matches, counts), images)["ar@60"]

    return [Case(f"proposals' recall, {images} images, 60 proposals each", {"ours": ours}, "none set")]


def semantic(scale: float) -> list[Case]:
    images, pool = round(1449 * scale), scenes((375, 500), 4, 1, 20)
    maps = [np.append(0, scene.truth_labels).astype(np.uint8)[scene.instances] for scene in pool]
    names = [str(label) for label in range(21)]

    def ours() -> float:
        pairs = ((maps[number % POOL], maps[(number + 1) % POOL]) for number in range(images))
        matches = [semantic_iou.match_image(*pair, 21) for pair in pairs]
        return statistics.whole(lambda counts: semantic_iou.measure(matches, counts, names), images)["miou"]

    return [Case(f"semantic IoU, {images} images, 21 classes", {"ours": ours}, "none set")]


BUILDERS = {
    "voc": voc,
    "coco": coco,
    "cityscapes": cityscapes,
    "proposals": proposal_recall,
    "semantic": semantic,
    "boundary": boundaries,
}
