"""Run-length masks in COCO's compressed format: encode, decode, check, areas and exact intersections.

A run-length mask is the dictionary that COCO's results files hold: ``{"size": [height, width], "counts": text}``.
Everything here is pure and goes through pycocotools, which works on the runs and never builds a dense mask, except
in `encode` and `decode`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from pycocotools import mask as coco


class RunLengths(TypedDict):
    """One mask of ``size`` [height, width]; ``counts`` is COCO's compressed text (str, so that it goes in JSON)."""

    size: list[int]
    counts: str


def encode(masks: np.ndarray) -> list[RunLengths]:
    """Encode (N, H, W) bool masks; N may be 0. Raises ValueError for another shape or dtype."""
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise ValueError(f"masks must be bool of shape (N, H, W), not {masks.dtype} of shape {masks.shape}")
    # pycocotools wants (H, W, N) in column-major order, which is (N, W, H) in row-major order seen from behind.
    return _encode(np.ascontiguousarray(masks.transpose(0, 2, 1)))


def encode_ids(instances: np.ndarray, count: int) -> list[RunLengths]:
    """Encode the masks ``instances == 1 .. count`` of an integer map (H, W) of ids 0..count.

    An id without a pixel gives an empty mask. ValueError for an id outside 0..count.
    """
    if instances.min(initial=0) < 0 or instances.max(initial=0) > count:
        raise ValueError(f"ids {instances.min(initial=0)}..{instances.max(initial=0)} are not within 0..{count}")
    narrow = instances.astype(np.min_scalar_type(count))  # a quarter of the memory to turn around and compare
    ids = np.arange(1, count + 1, dtype=narrow.dtype)
    return _encode(np.ascontiguousarray(narrow.T)[None] == ids[:, None, None])


def encode_runs(starts: np.ndarray, ends: np.ndarray, size: tuple[int, int]) -> RunLengths:
    """The mask of the pixels ``starts[i] .. ends[i] - 1``, counted down the columns of ``size`` (height, width).

    Both (R,) int64, ascending, runs not empty; a run may begin where the one before ends.
    """
    gap = starts[1:] > ends[:-1]
    bounds = np.stack([starts[np.append(True, gap)[: len(starts)]], ends[np.append(gap, True)[: len(ends)]]], 1).ravel()
    counts = np.diff(bounds, prepend=0, append=size[0] * size[1])
    if counts[-1] == 0:
        counts = counts[:-1]
    packed = coco.frPyObjects([{"size": list(size), "counts": counts}], *size)[0]
    return RunLengths(size=list(size), counts=packed["counts"].decode("ascii"))


def _encode(columns: np.ndarray) -> list[RunLengths]:
    """``columns``: (N, W, H) bool, contiguous."""
    size = [columns.shape[2], columns.shape[1]]
    if not len(columns):
        return []
    encoded = coco.encode(columns.view(np.uint8).transpose(2, 1, 0))
    return [RunLengths(size=size, counts=mask["counts"].decode("ascii")) for mask in encoded]


def decode(masks: Sequence[RunLengths], size: tuple[int, int]) -> np.ndarray:
    """Masks of ``size`` (height, width) as (N, H, W) bool. Raises ValueError as `check` does."""
    check(masks, size)
    if not masks:
        return np.zeros((0, *size), dtype=np.bool_)
    return np.ascontiguousarray(coco.decode(list(masks)).transpose(2, 0, 1)).astype(np.bool_)


def areas(masks: Sequence[RunLengths]) -> np.ndarray:
    """Number of pixels of every mask, (N,) int64."""
    return np.concatenate([np.zeros(0, np.int64), *map(coco.area, _parts(masks))]).astype(np.int64)


def boxes(masks: Sequence[RunLengths]) -> np.ndarray:
    """The smallest box around each mask, (N, 4) float64 as x, y, width, height; zeros around none."""
    return np.concatenate([np.zeros((0, 4)), *map(coco.toBbox, _parts(masks))]).astype(np.float64)


def _parts(masks: Sequence[RunLengths]) -> list[list[RunLengths]]:
    # pycocotools 2.0.11 counts its masks in eight bits under numpy 2: 256 of them are one too many.
    return [list(masks[start : start + 255]) for start in range(0, len(masks), 255)]


def intersections(first: Sequence[RunLengths], second: Sequence[RunLengths]) -> np.ndarray:
    """Number of pixels that ``first[n]`` and ``second[m]`` share: (N, M) int64, exact.

    All masks must have passed `check` with one size.
    """
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)), dtype=np.int64)
    iou = coco.iou(list(first), list(second), np.zeros(len(second), dtype=np.uint8))
    # pycocotools computes the integers i and u = a + b - i, but returns only the float64 quotient i / u. Solved for
    # i that is iou * (a + b) / (1 + iou). The quotient and the three operations are each off by at most 2^-53 of
    # their value, so the result is off by less than i * 2^-50; that stays under the 0.5 that rounding forgives for
    # every i < 2^49, and an image of that many pixels does not exist.
    total = areas(first)[:, None] + areas(second)[None]
    return np.rint(iou * total / (1.0 + iou)).astype(np.int64)


def check(masks: Sequence[RunLengths], size: tuple[int, int]) -> None:
    """Raise ValueError, naming the mask, unless every mask is a complete run-length mask of ``size`` (height, width).

    Complete matters: on runs that do not add up to height x width, pycocotools loops for ever.
    """
    if not masks:
        return
    if size[0] * size[1] >= 2**31:
        raise ValueError(f"masks of the size {list(size)} are too large: pycocotools counts in 32 bits")
    texts = []
    for index, mask in enumerate(masks):
        if not isinstance(mask, dict) or not {"size", "counts"} <= mask.keys():
            raise ValueError(f"mask {index} is not a run-length mask: it needs 'size' and 'counts'")
        given = mask["size"]
        if not isinstance(given, (list, tuple)) or list(given) != list(size):
            raise ValueError(f"mask {index} has the size {reprlib.repr(given)}, the image {list(size)} (height, width)")
        counts = mask["counts"]
        if isinstance(counts, str):
            counts = counts.encode("utf-8", errors="surrogatepass")
        if not isinstance(counts, bytes):
            raise ValueError(
                f"mask {index} has uncompressed counts ({type(counts).__name__}); "
                "compress them with pycocotools.mask.frPyObjects"
            )
        texts.append(counts)
    runs, first = _runs(texts)
    totals = np.add.reduceat(runs, first)
    # A sum may have gone round 64 bits; where no run is longer than the image, none has.
    longest = np.maximum.reduceat(runs, first)
    wrong = (totals != size[0] * size[1]) | (np.minimum.reduceat(runs, first) < 0) | (longest > size[0] * size[1])
    for index in np.flatnonzero(wrong)[:1]:
        raise ValueError(
            f"mask {index} is damaged: its size is {list(size)}, its runs cover {totals[index]} pixels"
            f"{'' if totals[index] != size[0] * size[1] else ', but some are negative or longer than that'}"
        )


def _runs(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The runs of all compressed texts, (R,) int64, and where each text's begin, (N,); ValueError for other text.

    The format (COCO's maskApi): a number is a sequence of characters '0' + 6 bits, five bits of payload (least
    significant first) and a sixth that says that more follow; the last payload's highest bit is the sign. From the
    fourth number of a mask on, the number is the difference to the run two places before.
    """
    bounds = np.cumsum([0] + [len(text) for text in texts])
    codes = np.frombuffer(b"".join(texts), dtype=np.uint8) - np.uint8(48)  # wraps to > 63 below '0'
    invalid = np.array([not text or text[-1] >= 48 + 32 for text in texts])
    invalid[np.searchsorted(bounds, np.flatnonzero(codes > 63), side="right") - 1] = True
    if invalid.any():
        raise ValueError(f"mask {invalid.argmax()} is damaged: its counts are not compressed run lengths")
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate(([0], ends[:-1] + 1))
    width = ends - starts + 1
    if width.max() > 7:  # more than 35 bits; sums of what is left stay within 63
        raise ValueError("a mask is damaged: its counts hold a number that no image reaches")
    payload = (codes & 31).astype(np.int64)
    values = payload[starts]
    for place in range(1, width.max()):
        longer = np.flatnonzero(width > place)
        values[longer] += payload[starts[longer] + place] << 5 * place
    values -= (payload[ends] & 16) << (5 * width - 4)
    # Run 0 stands alone; runs 1, 3, 5 ... are running sums of their numbers, and so are runs 2, 4, 6 ...
    first = np.searchsorted(ends, bounds)
    place = np.arange(len(values)) - np.repeat(first[:-1], np.diff(first))
    for chain in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        members = np.flatnonzero(chain)
        if len(members):
            sums = np.cumsum(values[members])
            heads = np.flatnonzero(place[members] <= 2)
            before = sums[heads] - values[members[heads]]
            values[members] = sums - np.repeat(before, np.diff(heads, append=len(members)))
    return values, first[:-1]
