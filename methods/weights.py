"""Weights from files of others: read without running any code that a file may bring, and fitted without silent gaps."""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from methods.base import MethodError

# Label files of COCO that name some classes as VOC does are common.
_SYNONYMS = {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv"}
# Not weights: they are made anew with the network, or count batches.
_BOOKKEEPING = {"num_batches_tracked", "cell_anchors", "pixel_mean", "pixel_std"}


@dataclass(frozen=True)
class Weights:
    """Tensors by name, as a file has them; ``author`` and ``by_suffix`` are what detectron2's files say of theirs."""

    source: str
    tensors: dict[str, Tensor]
    author: str = ""
    by_suffix: bool = False  # names lack the network's first parts


class _Dtype:
    """Stands in for numpy's, which takes flags from a pickle that let an array point anywhere in memory."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, (str, bytes)):
            raise pickle.UnpicklingError("it holds an array of nameless type")
        self.dtype = np.dtype(name.decode("ascii") if isinstance(name, bytes) else name)
        if self.dtype.kind not in "fiub":
            raise pickle.UnpicklingError(f"it holds an array of {self.dtype}, not of numbers")

    def build(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for numpy's while a file is read; takes no more memory than the file has values."""

    values: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def build(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        self.values = _filled(content, kind, shape, "F" if fortran else "C")


def _filled(content: str | bytes, kind: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """The array that ``content`` holds, in this machine's byte order; Python 2 wrote bytes as text."""
    content = content.encode("latin1") if isinstance(content, str) else content
    if not all(type(side) is int for side in shape):
        raise pickle.UnpicklingError("it holds an array whose shape is none")
    if math.prod(shape) * kind.dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of shape {shape} has {len(content)} bytes")
    values = np.ndarray(shape, kind.dtype, buffer=content, order=order)
    return values.astype(kind.dtype.newbyteorder("="), order="C")


def _from_buffer(content: bytes, kind: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.values = _filled(content, kind, shape, order)
    return array


def _number(kind: _Dtype, content: str | bytes) -> float:
    return _filled(content, kind, (), "C").item()


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes as {encoding}")
    return text.encode("latin1")


def _check_keys(keys: Sequence[Any]) -> None:
    if not all(isinstance(key, (str, bytes, int)) for key in keys):
        raise pickle.UnpicklingError("it holds a dictionary with keys that are no text")


def _ordered(pairs: Sequence[tuple[Any, Any]] = ()) -> OrderedDict:
    _check_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


# All that a pickle of arrays needs, by functions of our own. numpy 1 and numpy 2 name the same things differently.
_ALLOWED = {
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _number for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _bytes,
    "collections.OrderedDict": _ordered,
}


class _ArraysOnly(pickle._Unpickler):
    """Reads dictionaries, lists, texts, numbers and arrays; any other object is refused before it is made.

    The unpickler that is written in Python: the other one reserves whatever memory a damaged file asks for. Keys are
    texts or numbers, since a few bytes can make a tuple of tuples that nobody can hash in a lifetime.
    """

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array") from None

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, (_Dtype, _Array)):  # no other object gets attributes from a file
            target.build(state)

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])  # of this call's marker on
        super().load_setitems()

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_bytearray8(self) -> None:
        # pickle's own reserves whatever the file says.
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_set(self) -> None:
        raise pickle.UnpicklingError("it holds a set, which is no array")

    dispatch: ClassVar = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.ADDITEMS[0]: load_set,
        pickle.FROZENSET[0]: load_set,
    }


def read_weights(path: Path) -> Weights:
    """Read ``path`` by its ending: .pkl (detectron2 and Detectron), .pth or .pt (torch), .safetensors.

    Raises `MethodError` where the file is missing, is not what its ending says, or holds anything but tensors.
    """
    if path.suffix not in READERS:
        raise MethodError(f"weights {path}: the ending is none of {', '.join(READERS)}")
    if not path.is_file():
        raise MethodError(f"weights {path}: there is no such file")
    try:
        content = READERS[path.suffix](path)
        return _weights(str(path), content)
    except Exception as error:  # a damaged file fails in many ways
        raise MethodError(f"weights {path}: cannot be read: {_reason(error, path.suffix)}") from error


def _reason(error: Exception, suffix: str) -> str:
    """What is wrong, in a line; torch's own text is long and tells how to run the code of the file all the same."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds {found[1]}, which is no tensor"
    text = next(iter(str(error).splitlines()), "")
    if isinstance(error, (pickle.UnpicklingError, ValueError)) and "weights_only" not in str(error):
        return text
    detail = "" if "weights_only" in text else f" ({type(error).__name__}: {text})"
    return f"it is damaged, cut off or no {suffix} file{detail}"


def _read_pickle(path: Path) -> Any:
    return _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()  # files of Python 2 among them


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if sum(member.file_size for member in file.infolist()) > path.stat().st_size:  # torch packs nothing
                raise ValueError("it expands to more than its size")
    return torch.load(path, map_location="cpu", weights_only=True)


READERS = {".pkl": _read_pickle, ".pth": _read_torch, ".pt": _read_torch, ".safetensors": load_file}


def _weights(source: str, content: Any) -> Weights:
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not tensors by name")
    author, by_suffix = content.get("__author__", ""), bool(content.get("matching_heuristics", False))
    author = author if isinstance(author, str) else ""
    if source.endswith(".pkl") and not ("model" in content and "__author__" in content):
        # Detectron's files: bare arrays, or "blobs" with the optimiser's momenta among them.
        content = {name: value for name, value in content.get("blobs", content).items() if _is_array(value)}
        content = {name: value for name, value in content.items() if not name.endswith("_momentum")}
        author, by_suffix = "Caffe2", True
    else:
        content = content.get("model", content)
    _check_keys(list(content))
    tensors = {str(name): _tensor(str(name), value) for name, value in content.items()}
    return Weights(source, tensors, author, by_suffix)


def _is_array(value: Any) -> bool:
    return isinstance(value, (_Array, Tensor))


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, _Array) and value.values is not None:
        return torch.from_numpy(value.values)
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is no tensor")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise ValueError(f"{name} is a tensor without plain values")
    return value


def fit(
    module: nn.Module,
    weights: Weights,
    *,
    encoder: str,
    class_layers: Iterable[str],
    new_classes: bool = False,
) -> str:
    """Copy ``weights`` into ``module`` and say what they were: "whole", "all but classes" or "encoder".

    The names must be those of the module's ``state_dict``. ``encoder`` is the first part of the encoder's names,
    ``class_layers`` of the layers that depend on the classes: with ``new_classes`` those stay as they are. Weights that
    fill neither the whole network nor exactly the encoder are a `MethodError`: nothing is left out silently.
    """
    own = {name: value for name, value in module.state_dict().items() if not _BOOKKEEPING & set(name.split("."))}
    given = {name: value for name, value in weights.tensors.items() if not _BOOKKEEPING & set(name.split("."))}
    of_classes = {name for name in own if name.startswith(tuple(class_layers))}
    fitting = {name for name in own if name in given and given[name].shape == own[name].shape}
    of_encoder = {name for name in own if name.startswith(encoder)}
    foreign = set(given) - set(own)
    families = {_family(name, encoder) for name in of_encoder}
    deeper = any(_family(name, encoder) in families for name in foreign)  # such as ResNet-101 for ResNet-50
    if fitting >= set(own) and not foreign and not new_classes:
        kind, wanted = "whole", fitting
    elif new_classes and fitting >= set(own) - of_classes and not foreign:
        kind, wanted = "all but classes", fitting - of_classes
    elif of_encoder and fitting >= of_encoder and not deeper and not set(given) & (set(own) - of_encoder):
        kind, wanted = "encoder", of_encoder  # the classifier of an ImageNet file is foreign, and not needed
    else:
        raise MethodError(_misfit(weights, own, given, fitting, of_classes, new_classes))
    module.load_state_dict({name: given[name].to(own[name].dtype) for name in wanted}, strict=False)
    return kind


def first_other_class(theirs: Sequence[str], ours: Sequence[str]) -> tuple[int, str, str] | None:
    """The first class, counted from 1, that the lists name otherwise; spelling, and VOC's names for COCO's, aside."""
    for number, (their, our) in enumerate(zip(theirs, ours, strict=False), 1):
        if _spelling(their) != _spelling(our):
            return number, their, our
    return None


def _spelling(name: str) -> str:
    letters = re.sub(r"[\W_]", "", name.casefold())
    return _SYNONYMS.get(letters, letters)


def _family(name: str, encoder: str) -> str:
    """A tensor's name without its numbers: the same for all blocks of an encoder."""
    return re.sub(r"\d+", "#", name.removeprefix(encoder))


def _misfit(
    weights: Weights,
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    fitting: set[str],
    of_classes: set[str],
    new_classes: bool,
) -> str:
    """Why weights do not fit, with the first example of each kind."""
    shaped = sorted((set(own) & set(given)) - fitting)
    missing, foreign = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    parts = [f"weights {weights.source} do not fit the network: {len(fitting)} of its {len(own)} tensors are there"]
    if shaped:
        name = shaped[0]
        parts.append(
            f"{len(shaped)} have another shape ({name}: {tuple(given[name].shape)}, not {tuple(own[name].shape)})"
        )
    if missing:
        parts.append(f"{len(missing)} are missing ({missing[0]})")
    if foreign:
        parts.append(f"{len(foreign)} are of another network ({foreign[0]})")
    if not new_classes and shaped and set(shaped) <= of_classes and not missing:
        parts.append("only layers for the classes differ: new_classes = true trains those anew")
    return "; ".join(parts)
