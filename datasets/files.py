"""Files on disk: images, label maps, lists of ids, and digests of contents. Every failure is a `DatasetError`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from datasets.base import DatasetError

Value = TypeVar("Value")

_log = logging.getLogger(__name__)

_FORBIDDEN = frozenset("/\\:\0")  # what could lead an id out of its folder, on any system
# What a data set's images may be. Pillow knows many more, one of which (EPS) runs another program on the file.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_LONGEST_ID = 200  # bytes: with an ending it is the name of a file
_DIGEST = re.compile("[0-9a-f]{32}")
_READERS = 8  # files hashed side by side: on a network disk the waiting costs more than the hashing


def read_rgb(path: Path) -> np.ndarray:
    """The image file as (H, W, 3) uint8 RGB; grey and CMYK files are converted, transparency is left out.

    Pixels are as stored: an EXIF orientation turns nothing, as annotations are drawn on stored pixels. Raises
    `DatasetError` for a file that is missing, broken, cut off, larger than Pillow's limit against bombs, or of more
    than 8 bits a channel: what its values mean, nobody but its owner knows.
    """
    return decode(path, lambda image: _rgb(path, image))


def _rgb(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise DatasetError(
            f"{path} has more than 8 bits a channel (Pillow's mode {image.mode}); scale its values to 0..255 and save "
            "it with 8 bits"
        )
    return np.array(image.convert("RGB"))


def read_indices(path: Path) -> np.ndarray:
    """A label map from a PNG of mode P or L: its (H, W) uint8 values, never its colours.

    Raises `DatasetError` like `read_rgb`, and for any other format or mode.
    """
    wanted = "one 8-bit value per pixel (mode P or L)"
    return decode(path, lambda image: _values(path, image, ("P", "L"), wanted, "the raw palette PNG"))


def read_numbers(path: Path) -> np.ndarray:
    """(H, W) int32: the values of a grey PNG of 8 or 16 bits, as Cityscapes has its ids.

    Raises `DatasetError` like `read_rgb`, and for any other format or mode.
    """
    wanted, modes = "one grey value of 8 or 16 bits per pixel", ("I;16", "I", "L")  # "I": 16 bits before Pillow 11
    return decode(path, lambda image: _values(path, image, modes, wanted, "the grey PNG").astype(np.int32))


def read_regions(path: Path) -> np.ndarray:
    """(H, W) int32 numbers 0..R - 1 of the regions that the values or colours of a PNG tell apart.

    Grey of 8 or 16 bits, palette and RGB are read. Raises `DatasetError` like `read_rgb`.
    """
    values = decode(path, np.array)
    if values.ndim == 3:
        values = values[..., :3].astype(np.int64) @ np.array([1, 256, 65536])
    return np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.int32)


def _values(path: Path, image: Image.Image, modes: tuple[str, ...], wanted: str, kind: str) -> np.ndarray:
    raw = image.tile[0][3] if image.tile else ""
    # Pillow spreads 2- and 4-bit grey over 0..255: the labels would be silently multiplied.
    mode = raw if image.mode == "L" and isinstance(raw, str) else image.mode
    if image.format != "PNG" or mode not in modes:
        raise DatasetError(
            f"{path}: a label map must be a PNG with {wanted}, but this is {image.format} of mode {mode}; "
            f"{kind} of the official archive is needed, not a coloured copy"
        )
    # Pillow skips the checksums when it reads pixels: a damaged file could give other labels.
    image.verify()  # ends the use of this object
    with open_image(path) as checked:
        return np.array(checked)


def open_image(path: Path) -> Image.Image:
    """An image of one of the `FORMATS`, not yet decoded. Others, bombs, and what is no file are exceptions."""
    check_regular(path)
    image = Image.open(path, formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:  # Pillow itself only warns up to twice this
        image.close()
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, the limit is {limit}")
    return image


def check_regular(path: Path) -> None:
    """Raise `DatasetError` for what can be opened but has no end, or blocks for ever, even behind a link."""
    if path.is_fifo() or path.is_char_device():
        raise DatasetError(f"{path}: is a pipe or a device, not a file")


def decode(path: Path, convert: Callable[[Image.Image], Value]) -> Value:
    """What ``convert`` makes of the image file. Raises `DatasetError`, also where ``convert`` raises something."""
    try:
        with open_image(path) as image:
            return convert(image)
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{path}: refused, the image is too large to be genuine ({error})") from error
    except Exception as error:  # decoders raise whatever the bytes lead them to
        raise DatasetError(
            f"{path}: cannot be decoded ({type(error).__name__}: {error}); "
            "the file is broken or was not copied completely"
        ) from error


def size_text(array: np.ndarray) -> str:
    """The size of an image or map, for messages."""
    return f"{array.shape[1]} pixels wide and {array.shape[0]} high"


def read_ids(path: Path) -> list[str]:
    """The image ids of a list file, one a line, in the file's order; empty lines are skipped.

    Raises `DatasetError` for a list that is missing, is no text, is empty, or holds an id twice or one that is not a
    plain file name.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a list of image ids ({error})") from error
    for number, line in enumerate(lines, 1):
        if not is_image_id(line):
            raise DatasetError(
                f"{path}, line {number}: {reprlib.repr(line)} is not an image id; an id is a plain file name without "
                "folder or suffix, one a line"
            )
    ids = [line for line in lines if line]
    if not ids:
        raise DatasetError(f"{path}: the list is empty; it must hold one image id a line")
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DatasetError(f"{path}: {len(repeated)} ids are listed more than once: {first_five(repeated)}")
    return ids


def is_image_id(text: str) -> bool:
    """Whether ``text`` can be part of a file's name in a folder of ours: no path, no spaces, not hidden; "" can.

    Nor may it be longer than names of files are, or hold what a terminal would obey.
    """
    if _FORBIDDEN & set(text) or text.startswith(".") or ".." in text or len(text.split()) > 1:
        return False
    return text.isprintable() and len(text.encode()) <= _LONGEST_ID


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Raise `DatasetError` for a file's name that cannot be written down: of no encoding, or with a line's end."""
    for name in names:
        if not name.isprintable():
            raise DatasetError(f"{folder}: the name {name!r} cannot be printed; give the file another one")


def first_five(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def file_digests(paths: Iterable[Path], cache: Path | None = None) -> list[str]:
    """A digest of the content of each file, in order (hex of blake2b, 16 bytes).

    ``cache`` is a JSON file that remembers digests by path, size and time of modification, so that the next call reads
    only what changed. It is replaced in one step; one that cannot be read or written is done without. Raises
    `DatasetError` for a file that cannot be read.
    """
    names = [os.path.abspath(path) for path in paths]
    known = _read_cache(cache)
    stamps: dict[str, tuple[int, int]] = {}
    for name in names:
        try:
            status = os.stat(name)
        except OSError as error:
            raise DatasetError(f"{name}: cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{name}: is not a file")
        stamps[name] = (status.st_size, status.st_mtime_ns)
    missing = [name for name, stamp in stamps.items() if known.get(name, ())[:2] != stamp]
    with ThreadPoolExecutor(_READERS) as pool:
        for name, digest in zip(missing, pool.map(_digest, missing), strict=True):
            known[name] = (*stamps[name], digest)
    if missing and cache is not None:
        _write_cache(cache, known)
    return [known[name][2] for name in names]


def _digest(name: str) -> str:
    try:
        with open(name, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise DatasetError(f"{name}: cannot be read ({error.strerror})") from error


def _read_cache(cache: Path | None) -> dict[str, tuple[int, int, str]]:
    """What the cache remembers; whatever in it is not of the expected form is left out."""
    if cache is None:
        return {}
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
        return {
            name: (size, modified, digest)
            for name, (size, modified, digest) in entries.items()
            if isinstance(size, int) and isinstance(modified, int) and _DIGEST.fullmatch(digest)
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("%s: ignored, not a cache of file digests (%s)", cache, error)
        return {}


def _write_cache(cache: Path, entries: dict[str, tuple[int, int, str]]) -> None:
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "x", encoding="utf-8") as file:  # through no link that lies there
            json.dump(entries, file)
        os.replace(temporary, cache)
    except OSError as error:
        _log.warning("%s: file digests not remembered (%s)", cache, error)
        with contextlib.suppress(OSError):
            temporary.unlink()
