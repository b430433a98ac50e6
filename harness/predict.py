"""The predict step: weights and a split -> predictions.jsonl.gz, one image a line, and semantic maps as PNG.

A line is {"image_id", "size": [height, width], "results": [...]}; each result is in COCO's results format
(category_id, score, segmentation as compressed run lengths, and bbox where the method has boxes of its own).
Class-agnostic proposals stand under "proposals", in the same form with category 0. Boundaries are a PNG of the
probability times 255. Masks are encoded image by image.
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datasets.base import Dataset
from datasets.transforms import resize
from evaluation import masks
from harness.batches import collate, images_to_tensor
from harness.provenance import environment
from harness.record import PredictCost
from harness.settings import PredictSettings
from harness.store import DamagedStep
from harness.train import Progress, peak_memory
from methods.base import Instances, Method, Prediction

FILE = "predictions.jsonl.gz"


@dataclass(frozen=True)
class ImageResults:
    """One line of the predictions file."""

    image_id: str
    size: tuple[int, int]  # (height, width)
    masks: list[dict[str, Any]]  # COCO run lengths
    labels: np.ndarray  # (N,) int64
    scores: np.ndarray  # (N,) float64
    proposals: list[dict[str, Any]]  # the method's own, or its instances
    proposal_scores: np.ndarray  # float64
    boxes: np.ndarray  # (N, 4) float64 x, y, width, height: the method's own, or those around the masks


def predict(method: Method, data: Dataset, settings: PredictSettings, folder: Path, progress: Progress) -> PredictCost:
    """Predict every image of ``data`` on its own, so that no result depends on a batch, and write ``folder``."""
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method.to(device, memory_format=torch.channels_last).eval()
    seconds = []
    with gzip.open(folder / FILE, "wt", encoding="utf-8", compresslevel=3) as file:
        for index in range(len(data)):
            sample = data[index]
            resized = settings.long_side or settings.short_side
            small = resize(sample, settings.long_side, settings.short_side) if resized else sample
            images = images_to_tensor(small.image[None]).to(device)
            truth = collate([sample]).to(device) if method.needs_truth() else None
            sizes = torch.tensor([sample.image.shape[:2]], dtype=torch.int64)
            (prediction,) = method.predict(images, sizes, truth)
            file.write(json.dumps(_line(sample.image_id, prediction, sample.image.shape[:2])) + "\n")
            if prediction.semantic is not None:
                _write_map(folder / "semantic" / f"{sample.image_id}.png", prediction.semantic)
            if prediction.boundary is not None:
                _write_map(folder / "boundary" / f"{sample.image_id}.png", (prediction.boundary * 255.0).round())
            seconds.append(prediction.seconds)
            progress(index + 1, len(data))
    return PredictCost(
        seconds=time.perf_counter() - start,
        images=len(data),
        network_ms=_median_ms([s.network for s in seconds if s]),
        grouping_ms=_median_ms([s.grouping for s in seconds if s]),
        scoring_ms=_median_ms([s.scoring for s in seconds if s]),
        peak_memory=peak_memory(),
        environment=environment(device.type == "cuda"),
        implementation=method.implementation(method.config),
    )


def _median_ms(values: list[float]) -> float:
    return 1000.0 * statistics.median(values) if values else float("nan")


def _line(image_id: str, prediction: Prediction, size: tuple[int, int]) -> dict[str, Any]:
    line = {"image_id": image_id, "size": list(size), "results": _results(image_id, prediction.instances, size)}
    if prediction.proposals is not None:
        line["proposals"] = _results(image_id, prediction.proposals, size)
    return line


def _results(image_id: str, found: Instances | None, size: tuple[int, int]) -> list[dict[str, Any]]:
    if found is None or not len(found.scores):
        return []
    if found.masks.shape[1:] != size:
        raise ValueError(f"image {image_id}: masks of {tuple(found.masks.shape[1:])} for an image of {size}")
    if not torch.isfinite(found.scores).all():
        raise ValueError(f"image {image_id}: a score is not a finite number")
    encoded = masks.encode(found.masks.cpu().numpy())
    scored = zip(encoded, found.labels.tolist(), found.scores.tolist(), strict=True)
    results = [{"category_id": label, "score": score, "segmentation": mask} for mask, label, score in scored]
    if found.boxes is None:
        return results
    corners = found.boxes.double().cpu()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    return [{**result, "bbox": box} for result, box in zip(results, boxes, strict=True)]


def _write_map(path: Path, values: torch.Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values.to(torch.uint8).cpu().numpy()).save(path)


def read_predictions(path: Path) -> Iterator[ImageResults]:
    """Read a predictions file line by line. Raises `DamagedStep` where it is missing, cut off or altered."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for text in file:
                yield _parse(json.loads(text))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DamagedStep(path, path.parent, error) from error


def _parse(line: dict[str, Any]) -> ImageResults:
    results = line["results"]
    proposals = line.get("proposals", results)
    masks.check(
        [one["segmentation"] for one in (*results, *(proposals if proposals is not results else ()))], line["size"]
    )
    return ImageResults(
        image_id=line["image_id"],
        size=tuple(line["size"]),
        masks=[result["segmentation"] for result in results],
        labels=np.array([result["category_id"] for result in results], np.int64),
        scores=np.array([result["score"] for result in results], np.float64),
        proposals=[result["segmentation"] for result in proposals],
        proposal_scores=np.array([result["score"] for result in proposals], np.float64),
        boxes=_boxes(results),
    )


def _boxes(results: list[dict[str, Any]]) -> np.ndarray:
    around = masks.boxes([result["segmentation"] for result in results if "bbox" not in result])
    rest = iter(around)
    return np.array([result["bbox"] if "bbox" in result else next(rest) for result in results]).reshape(-1, 4)
