"""Owners' archives: fetched so that an interruption costs nothing, checked, and unpacked under their names when whole.

    ROOT/NAME.part          what is there of a download; the next one goes on from it
    ROOT/NAME               the archive, size and checksum right
    ROOT/.unpacking-NAME/   what is there of an unpacking; the next one begins anew
    ROOT/FOLDER             the unpacked folder, all counts right

`pooch` checks the download and gives it its name; the transfer is ours, because pooch's begins anew each time.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import lzma
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console

from datasets.archives import Archive, survey
from datasets.base import DatasetError
from harness.progress import bar

TRIES = 5  # attempts that bring nothing, before a server is given up
WAIT = 1.0  # seconds after the first of them; twice as long after every further one
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_MEGABYTE = 10**6
_GROWTH = 4  # times the usual growth may an archive unpack to
_SMALL = 10**8  # bytes that any archive may unpack to
# What readers of damaged archives raise; ValueError is for names that no file can have.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError, ValueError)


class DownloadError(Exception):
    """An archive cannot be had; the message says why, what is kept, and what to do."""


@dataclass
class Resuming:
    """A downloader for `pooch.retrieve`: goes on from ``part``, and tries again where the connection breaks.

    ``size``: bytes of the whole file. ``advance`` is told the bytes that are there.
    """

    part: Path
    size: int
    advance: Callable[[int], None]

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Bring the file to ``output_file``; ``part`` keeps its name until pooch has checked the content."""
        useless = 0
        while (before := self._there()) != self.size:
            try:
                self._continue(url, before)
                reason = "the connection broke"
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
                reason = f"the server answers {error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", "") or error or type(error).__name__)
            useless = 0 if self._there() > before else useless + 1
            if useless == TRIES:
                raise DownloadError(f"{url}: {reason}")
            if useless:
                time.sleep(WAIT * 2 ** (useless - 1))
        os.unlink(output_file)
        try:
            os.link(self.part, output_file)  # an interruption of the check must not cost the download
        except OSError:  # a file system without hard links
            os.replace(self.part, output_file)

    def _there(self) -> int:
        size = self.part.stat().st_size if self.part.exists() else 0
        if size > self.size:
            self.part.unlink()
            return 0
        return size

    def _continue(self, url: str, start: int) -> None:
        headers = {"User-Agent": "GroupBench", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            if response.status != 206:  # the server does not know ranges
                start = 0
            total = _total(response, start)
            if total is not None and total != self.size:
                raise DownloadError(
                    f"{url}: the server offers {total:,} bytes, but the known file has {self.size:,}: "
                    "it is another one, or the server answers with a page"
                )
            for there in _append(self.part, start, iter(lambda: response.read(_CHUNK), b"")):
                self.advance(there)


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Bytes of the whole file as the server says; None where it does not."""
    if not start:
        length = response.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != start:
        raise http.client.HTTPException("the server answers with another part of the file than was asked for")
    return None if found[2] == "*" else int(found[2])


def _append(part: Path, start: int, chunks: Iterator[bytes]) -> Iterator[int]:
    """Write behind the first ``start`` bytes; yields the bytes that are there. Errors of the disk are final."""
    try:
        file = open(part, "ab" if start else "wb")  # noqa: SIM115 (closed below; its failure is not the network's)
    except OSError as error:
        raise DownloadError(f"{part} cannot be written: {error.strerror}") from error
    with file:
        for chunk in chunks:
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise DownloadError(f"{part} cannot be written: {error.strerror}; what is there is kept") from error
            start += len(chunk)
            yield start


def fetch(archive: Archive, root: Path, console: Console) -> Path:
    """Download ``archive`` to ``root``, from the first of its addresses that gives it; returns its path.

    Raises `DownloadError`. Ctrl-C and every failure but a wrong content leave NAME.part for the next time.
    """
    import pooch  # needed by nobody who has the data

    pooch.get_logger().setLevel(logging.WARNING)
    part = root / f"{archive.name}.part"
    reasons = []
    for url in archive.urls:
        with bar(console, f"{archive.name}, MB", -(-archive.size // _MEGABYTE)) as advance:
            downloader = Resuming(part, archive.size, lambda done, show=advance: show(done // _MEGABYTE))
            try:
                pooch.retrieve(url, archive.checksum or None, archive.name, root, downloader=downloader)
            except DownloadError as error:
                reasons.append(str(error))
                continue
            except ValueError:  # pooch's word for a wrong checksum
                part.unlink(missing_ok=True)
                reasons.append(f"{url}: what came has another checksum than {archive.checksum}; it is deleted")
                continue
            except OSError as error:
                raise DownloadError(f"{root / archive.name} cannot be written: {error.strerror}") from error
        part.unlink(missing_ok=True)
        return root / archive.name
    kept = f"\n{part.stat().st_size:,} of {archive.size:,} bytes are kept in {part}" if part.exists() else ""
    raise DownloadError(
        f"{archive.name} cannot be downloaded:\n" + "\n".join(f"  {reason}" for reason in reasons) + kept + "\n"
        f"Run the command again later, or put the file in {root} by hand and run it then."
    )


def wrong(path: Path, archive: Archive, console: Console, quick: bool = False) -> str:
    """What is wrong with an archive that lies at ``path``: its size or, unless ``quick``, its checksum; "": nothing."""
    size = path.stat().st_size
    if archive.size and size != archive.size:
        return f"{size:,} bytes instead of {archive.size:,}"
    if quick or not archive.checksum:
        return ""
    algorithm, _, known = archive.checksum.partition(":")
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file, bar(console, f"checking {path.name}, MB", -(-size // _MEGABYTE)) as advance:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(file.tell() // _MEGABYTE)
    return "" if digest.hexdigest() == known else f"{algorithm} {digest.hexdigest()} instead of {known}"


def needed(archives: Sequence[Archive], root: Path, keep: bool) -> int:
    """Bytes that fetching and unpacking one archive after the other takes up at the fullest, about."""
    peak = held = 0
    for archive in archives:
        path, part = root / archive.name, root / f"{archive.name}.part"
        size = path.stat().st_size if path.exists() else archive.size
        there = size if path.exists() else part.stat().st_size if part.exists() else 0
        unpacked = int(size * archive.growth)
        peak = max(peak, held + size - there + unpacked)
        held += unpacked + (size - there if keep else 0)
    return peak


def unpack(path: Path, archive: Archive, root: Path, console: Console) -> None:
    """Unpack ``path`` to ``root``; the folder ``archive.makes`` appears there when it is whole, in one step.

    Only plain files are taken. Raises `DownloadError` for an archive that is broken, that leads out of its folder, or
    that does not hold what it should.
    """
    draft, target = root / f".unpacking-{archive.name}", root / archive.makes
    if target.exists():
        raise DownloadError(f"{target} is in the way of unpacking {archive.name}; move it or take another --data-root")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        with bar(console, f"unpacking {path.name}, MB", -(-path.stat().st_size // _MEGABYTE)) as advance:
            limit = max(_SMALL, int(_GROWTH * archive.growth * path.stat().st_size))
            for done in (_unzip if zipfile.is_zipfile(path) else _untar)(path, draft, limit):
                advance(done // _MEGABYTE)
        result = survey(archive, draft)
        if not result.whole:
            raise DownloadError(f"{path} does not hold the official data: {', '.join(result.gaps())}")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft / archive.makes, target)
    except (*_BROKEN, DatasetError) as error:
        raise DownloadError(f"{path} cannot be unpacked ({error}); delete it and run the command again") from error
    except OSError as error:
        raise DownloadError(f"{path} cannot be unpacked: {error}; it is kept, run the command again") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _untar(path: Path, draft: Path, limit: int) -> Iterator[int]:
    with open(path, "rb") as raw, tarfile.open(fileobj=raw) as tar:
        for member in tar:
            _check_name(path, member.name)
            limit = _left(path, limit, member.size)
            if member.isfile() or member.isdir():
                # Older Pythons 3.11 lack the filter; what it would refuse is left out above.
                tar.extract(member, draft, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
            yield raw.tell()


def _unzip(path: Path, draft: Path, limit: int) -> Iterator[int]:
    done = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _check_name(path, member.filename)
            limit = _left(path, limit, member.file_size)
            archive.extract(member, draft)
            done += member.compress_size
            yield done


def _left(path: Path, limit: int, size: int) -> int:
    """What is left of ``limit`` after a file of ``size`` bytes; neither tar nor zip ever unpacks more than it says."""
    if size > limit:
        raise DownloadError(f"{path} is refused: it unpacks to far more than the known data; delete the archive")
    return limit - size


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", name):
        raise DownloadError(f"{path} is refused: its file {name!r} would lie outside the folder; delete the archive")
