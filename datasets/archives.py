"""The owners' archives of every data set: where they come from, how to know them, and what must be there once unpacked.

Sizes and checksums are published by few owners; `Archive.origin` says whose they are. An archive without a checksum
is judged by the counts of what it unpacks to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets.base import DatasetError

_CHUNK = 1 << 20  # bytes read at once where a text is counted


@dataclass(frozen=True)
class Count:
    """``number`` of something that the official data set has.

    ``pattern`` names files below the archive's place; ``each`` says what of them counts: "file", "line" (empty ones do
    not), or a text that stands exactly once in every item, for JSON too large to be parsed.
    """

    what: str
    pattern: str
    number: int
    each: str = "file"


@dataclass(frozen=True)
class Archive:
    """One archive of a data set.

    ``name``: file name. ``size``: bytes. ``checksum``: "md5:HEX" or "sha256:HEX". Empty (0) is what nobody publishes;
    ``origin`` says who does. ``urls`` are tried in order; none: the owners ask for a registration, and ``steps`` says
    what to do. ``makes`` is the folder that unpacking makes, relative to --data-root; ``places`` are folders,
    relative to it as well, in which ``counts`` may be found. ``growth``: an allowance of ours for the disk, unpacked
    over packed size. ``terms``: under which terms the owners give it.
    """

    title: str
    name: str
    makes: str
    places: tuple[str, ...]
    counts: tuple[Count, ...]
    growth: float
    terms: str
    origin: str
    urls: tuple[str, ...] = ()
    size: int = 0
    checksum: str = ""
    steps: str = ""


@dataclass(frozen=True)
class Survey:
    """What of an archive is unpacked: in ``folder``, ``found[i]`` of ``archive.counts[i]``."""

    archive: Archive
    folder: Path
    found: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Everything is there, and nothing beside it."""
        return all(n == count.number for n, count in zip(self.found, self.archive.counts, strict=True))

    @property
    def empty(self) -> bool:
        return not any(self.found)

    def gaps(self) -> list[str]:
        """One sentence part for each count that differs, as "53 of 17,125 images"."""
        pairs = zip(self.found, self.archive.counts, strict=True)
        return [f"{n:,} of {count.number:,} {count.what}" for n, count in pairs if n != count.number]


VOC = Archive(
    title="VOC 2012",
    name="VOCtrainval_11-May-2012.tar",
    makes="VOCdevkit/VOC2012",
    places=("VOCdevkit/VOC2012", "VOC2012", ""),
    counts=(
        Count("images", "JPEGImages/*.jpg", 17_125),
        Count("class maps", "SegmentationClass/*.png", 2_913),
        Count("object maps", "SegmentationObject/*.png", 2_913),
        Count("ids in train.txt", "ImageSets/Segmentation/train.txt", 1_464, "line"),
        Count("ids in val.txt", "ImageSets/Segmentation/val.txt", 1_449, "line"),
        Count("ids in trainval.txt", "ImageSets/Segmentation/trainval.txt", 2_913, "line"),
    ),
    growth=1.1,
    terms="images from flickr, under its terms of use (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/)",
    origin="md5 as torchvision has it, size as TensorFlow Datasets has it",
    urls=(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ),
    size=1_999_639_040,
    checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
)
SBD = Archive(
    title="SBD",
    name="benchmark.tgz",
    makes="benchmark_RELEASE",
    places=("benchmark_RELEASE/dataset", "SBD/dataset", "sbd/dataset", "SBD", "sbd"),  # as datasets.voc looks for it
    counts=(
        Count("images", "img/*.jpg", 11_355),
        Count("class maps", "cls/*.mat", 11_355),
        Count("object maps", "inst/*.mat", 11_355),
        Count("ids in train.txt", "train.txt", 8_498, "line"),
        Count("ids in val.txt", "val.txt", 2_857, "line"),
    ),
    growth=1.3,
    terms="images from VOC 2011; the authors ask to be cited (http://home.bharathh.info/pubs/codes/SBD/download.html)",
    origin="md5 as torchvision has it, size as its download shows",
    urls=("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
    size=1_419_539_633,
    checksum="md5:82b4d87ceb2ed10f6038a1cba92111cb",
)

_COCO_TERMS = "annotations CC BY 4.0, images under flickr's terms of use (https://cocodataset.org/#termsofuse)"
_COCO_ORIGIN = "sha256 and size as TensorFlow Datasets has them; the owners publish none"


def _coco_urls(path: str) -> tuple[str, ...]:
    return f"http://images.cocodataset.org/{path}", f"https://s3.amazonaws.com/images.cocodataset.org/{path}"


def _coco_images(split: str, number: int, size: int, checksum: str) -> Archive:
    return Archive(
        title="COCO 2017",
        name=f"{split}2017.zip",
        makes=f"{split}2017",
        places=(f"{split}2017", f"images/{split}2017"),
        counts=(Count(f"images of {split}", "*.jpg", number),),
        growth=1.1,
        terms=_COCO_TERMS,
        origin=_COCO_ORIGIN,
        urls=_coco_urls(f"zips/{split}2017.zip"),
        size=size,
        checksum=checksum,
    )


COCO = {
    "train": _coco_images(
        "train", 118_287, 19_336_861_798, "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"
    ),
    "val": _coco_images(
        "val", 5_000, 815_585_330, "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"
    ),
}
COCO_ANNOTATIONS = Archive(
    title="COCO 2017",
    name="annotations_trainval2017.zip",
    makes="annotations",
    places=("annotations",),
    counts=(
        # Every object says whether it is a crowd, and nothing else in these files does.
        Count("objects of train", "instances_train2017.json", 860_001, '"iscrowd"'),
        Count("objects of val", "instances_val2017.json", 36_781, '"iscrowd"'),
    ),
    growth=4.0,  # JSON
    terms=_COCO_TERMS,
    origin=_COCO_ORIGIN,
    urls=_coco_urls("annotations/annotations_trainval2017.zip"),
    size=252_907_541,
    checksum="sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
)
BSDS = Archive(
    title="BSDS500",
    name="BSR_bsds500.tgz",
    makes="BSR",
    places=("BSR/BSDS500/data", "BSDS500/data", "data", ""),
    counts=tuple(
        Count(f"{what} of {split}", f"{folder}/{split}/*.{suffix}", number)
        for split, number in (("train", 200), ("val", 100), ("test", 200))
        for what, folder, suffix in (("images", "images", "jpg"), ("annotations", "groundTruth", "mat"))
    ),
    growth=1.5,
    terms="for research and education that is not commercial (https://www2.eecs.berkeley.edu/Research/Projects/CS/"
    "vision/grouping/resources.html)",
    origin="sha256 as several projects measured it, size as tensorpack has it; the owners publish none",
    urls=("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",),
    size=70_763_455,
    checksum="sha256:97e49d31764f3912f0c4122707d53062ac9e783ba0f095e447a4d53c1a41af8e",
)

_CITYSCAPES_STEPS = """\
Cityscapes is given to registered users only, so you download it with the owners' own tool:
  1. Register at https://www.cityscapes-dataset.com/register/ and wait for the owners' mail.
  2. .venv/bin/pip install ".[cityscapes]"
  3. mkdir -p {root}
     .venv/bin/csDownload -d {root} gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip
     It asks for your name and password, and checks the owners' md5; `csDownload -r` goes on after an interruption.
  4. The command that printed this, once more: it unpacks both archives."""


def _cityscapes(name: str, file: str, growth: float) -> Archive:
    splits = (("train", 2_975), ("val", 500))
    return Archive(
        title="Cityscapes",
        name=f"{name}_trainvaltest.zip",
        makes=name,
        places=(name,),
        counts=tuple(Count(f"{name} files of {split}", f"{split}/*/*_{file}.png", n) for split, n in splits),
        growth=growth,
        terms="for research that is not commercial, to registered users (https://www.cityscapes-dataset.com/license/)",
        origin="csDownload checks the owners' md5, which only registered users see",
        steps=_CITYSCAPES_STEPS,
    )


CITYSCAPES = (_cityscapes("leftImg8bit", "leftImg8bit", 1.1), _cityscapes("gtFine", "gtFine_instanceIds", 6.0))

_SAMPLES = {
    "voc": {"train": 1_464, "val": 1_449, "trainval": 2_913, "train_aug": 10_582},
    "coco": {"annotations/instances_train2017.json": 117_266, "annotations/instances_val2017.json": 5_000},
    "cityscapes": {"train": 2_975, "val": 500},
}


def official_archives(dataset: str, options: Mapping[str, object]) -> tuple[Archive, ...]:
    """The archives that hold the dataset's two splits under these options; none for generated data and one's own."""
    if dataset == "voc":
        return (VOC, SBD) if "train_aug" in (options["train_split"], options["val_split"]) else (VOC,)
    if dataset == "coco":
        splits = [split for split in COCO if options[f"{split}_annotations"] in _SAMPLES["coco"]]
        return (*(COCO[split] for split in splits), COCO_ANNOTATIONS) if splits else ()
    if dataset == "cityscapes":
        return CITYSCAPES
    if dataset == "bsds" and "all" not in (options["train_split"], options["val_split"]):
        return (BSDS,)
    return ()


def official_samples(dataset: str, options: Mapping[str, object], split: str) -> int | None:
    """How many samples the official split has ("train" or "val" of the options); None where nobody says.

    Of COCO's training images 117,266 have an object that is no crowd (as detectron2 counts them).
    """
    name = options.get(f"{split}_annotations") if dataset == "coco" else options.get(f"{split}_split")
    return _SAMPLES.get(dataset, {}).get(str(name))


def survey(archive: Archive, root: Path) -> Survey:
    """Count what is unpacked below ``root``, in the place that has most of it. `DatasetError` for unreadable files."""
    surveys = [_survey_place(archive, folder) for folder in _folders(archive, root)]
    return max(surveys, key=lambda one: sum(n > 0 for n in one.found))  # the first of equal ones


def _folders(archive: Archive, root: Path) -> Iterator[Path]:
    bases = [root]
    if archive is SBD:  # it lies beside VOC, and --data-root may name a folder of VOC
        absolute = Path(root).absolute()
        bases += [absolute.parent] if absolute.name in ("VOC2012", "VOCdevkit") else []
        bases += [absolute.parent.parent] if absolute.parts[-2:] == ("VOCdevkit", "VOC2012") else []
    yield from (base / place for base in bases for place in archive.places)


def _survey_place(archive: Archive, folder: Path) -> Survey:
    try:
        return Survey(archive, folder, tuple(_count(folder, count) for count in archive.counts))
    except OSError as error:
        raise DatasetError(f"{error.filename or folder}: cannot be read ({error.strerror})") from error


def _count(folder: Path, count: Count) -> int:
    files = [path for path in folder.glob(count.pattern) if not path.name.startswith(".")]
    if count.each == "file":
        return len(files)
    if count.each == "line":
        return sum(bool(line.strip()) for path in files for line in path.read_bytes().splitlines())
    return sum(_occurrences(path, count.each.encode()) for path in files)


def _occurrences(path: Path, text: bytes) -> int:
    """How often ``text`` stands in the file; holds one piece of it at a time."""
    number, tail = 0, b""
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            piece = tail + chunk
            number += piece.count(text)
            tail = piece[max(0, len(piece) - len(text) + 1) :]  # shorter than the text: nothing is counted twice
    return number
