"""Weights of others: nothing but arrays is read, no code runs, whatever the file; and nothing is left out silently."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from methods import weights
from methods.base import MethodError
from methods.weights import Weights, fit, read_weights

SLOW_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)


class Calls:
    """Pickles as a call of anything with any arguments, and a state, if it has one."""

    def __init__(self, function: Callable, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


RECONSTRUCT = np.zeros(1).__reduce__()[0]
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def made(values: str | Calls, shape: tuple[int, ...], content: Any) -> Calls:
    """An array as numpy pickles it, with any type of values, shape and content."""
    return Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, values, False, content))


def written(folder: Path, content: Any, name: str = "weights.pkl", protocol: int = 2) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def zoo(tensors: Any, **more: Any) -> dict[str, Any]:
    return {"model": tensors, "__author__": "Detectron2 Model Zoo", **more}


def refused(path: Path) -> str:
    with pytest.raises(MethodError) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    return str(error.value).replace(str(path), "PATH")


def problem(path: Path) -> str:
    """The message, where the file is refused; any other exception fails the test."""
    try:
        read_weights(path)
    except MethodError as error:
        return str(error)
    return "none"


# What is refused


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    """Each file would make a folder; with pickle's own reader it does."""
    victims = {
        "call": lambda place: Calls(os.mkdir, place),
        "eval": lambda place: Calls(eval, f"__import__('os').mkdir({place!r})"),
        "exec": lambda place: Calls(exec, f"import os; os.mkdir({place!r})"),
        "system": lambda place: Calls(os.system, f"mkdir {place}"),
        "attribute": lambda place: Calls(getattr, Calls(os.mkdir, place), "real"),
        "object": lambda place: np.array([1, Calls(os.mkdir, place)], dtype=object),
        "scalar": lambda place: Calls(np.float32(1).__reduce__()[0], np.dtype("O"), Calls(os.mkdir, place)),
        "argument": lambda place: Calls(np.ndarray, Calls(os.mkdir, place)),
        "state": lambda place: made(np.dtype("f4"), (1,), Calls(os.mkdir, place)),
        "key": lambda place: OrderedDict([(Calls(os.mkdir, place), ARRAY)]),
    }
    for name, make in victims.items():
        for protocol in (0, 2, 4, 5):
            place = str(tmp_path / f"{name}{protocol}")
            path = written(tmp_path, zoo({"first": ARRAY, "x": make(place)}), protocol=protocol)
            text = refused(path)
            assert "which is no array" in text or "not of numbers" in text
            assert not Path(place).exists(), f"{name}: the code of the file ran"
    path = written(tmp_path, zoo({"x": Calls(os.mkdir, str(tmp_path / "ran"))}))
    with path.open("rb") as file:
        pickle.load(file)
    assert (tmp_path / "ran").is_dir(), "the test's files would do nothing anyway"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),  # INST: import and call in one
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),  # a name with a dot
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "numpy.load"),
        (b"\x80\x02cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes"),
        (b"\x80\x02cmethods.weights\nread_weights\n.", "methods.weights.read_weights"),
    ],
)
def test_names_outside_the_list_are_refused(tmp_path: Path, content: bytes, found: str) -> None:
    assert refused(written(tmp_path, content)) == f"weights PATH: cannot be read: it holds {found}, which is no array"


def test_tensors_of_torch_in_a_pickle_are_refused(tmp_path: Path) -> None:
    assert "torch" in refused(written(tmp_path, zoo({"x": torch.ones(2)})))


def test_extensions_and_persistent_ids_are_refused(tmp_path: Path) -> None:
    for content in (b"\x80\x02\x82\x01.", b"Pos.system\n.", b"\x80\x02K\x01Q.", b"\x80\x05\x97.", b"\x80\xff."):
        assert "cannot be read" in refused(written(tmp_path, content))


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ("O8", (3, "|", None, None, None, -1, -1, 0)),  # objects, said to be none: bytes would become their places
        ("V8", (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)),
        ("f8", (3, "<", None, None, None, -1, -1, 5)),  # numbers, said to be objects
        ("f8", (3, "<", (np.dtype("O"), (2,)), None, None, -1, -1, 63)),
    ],
)
def test_flags_of_a_file_do_not_reach_memory(tmp_path: Path, values: str, state: tuple) -> None:
    """With numpy's own functions the first two end the process: the file says where its objects lie."""
    array = made(Calls(np.dtype, values, False, True, state=state), (4,), b"\x11" * 32)
    path = written(tmp_path, {"x": array, "__author__": array, "model": {}})
    assert "not of numbers" in problem(path) or read_weights(path).tensors == {}


def test_an_attribute_of_a_class_or_function_cannot_be_set(tmp_path: Path) -> None:
    """The opcode BUILD, with a state of two parts, sets attributes of whatever is on the stack."""
    change = b"\x80\x02cnumpy\nndarray\nN}X\x04\x00\x00\x00evilK\x01s\x86b."
    refused(written(tmp_path, change))
    assert not hasattr(np.ndarray, "evil")
    assert not any(hasattr(one, "evil") for one in vars(weights).values())


# Time and memory


def limited(function: Callable[[], Any]) -> Any:
    """Call with no more than 4 GB of address space beyond what the process has."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (4 << 30), before[1]))
    try:
        return function()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to bound the memory")
@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"x": Calls(np.ndarray, (10**13,), "f4")}, 2),
        pickle.dumps({"x": made(np.dtype("f4"), (10**13,), b"1234")}, 2),
        pickle.dumps({"x": made(np.dtype("f4"), (10**6, 10**6, 10**6), b"1234")}, 2),
        pickle.dumps({"x": made(np.dtype("f4"), (-1,), b"1234")}, 2),
        pickle.dumps({"x": made(np.dtype("f4"), (2,), b"12345678" * 1000)}, 2),
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # remembers something as number 2147483647
        b"\x80\x03B\xff\xff\xff\xffabc",  # 4 GB of bytes, it says
        b"\x80\x04\x8e" + struct.pack("<Q", 10**15) + b"abc",
        b"\x80\x04\x8e" + b"\xff" * 8 + b"abc",
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fabc",
        b"\x80\x02\x8b\xff\xff\xff\x7fabc",
        b"(" * 100_000 + b"t" * 100_000 + b".",
    ],
)
def test_claims_take_no_memory(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "weights PATH: " in limited(lambda: refused(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


# What is read


@pytest.mark.parametrize("protocol", range(6))
def test_zoo_files_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    tensors = {
        "a": ARRAY,
        "turned": np.asfortranarray(ARRAY),
        "part": ARRAY[:, 1:],
        "half": ARRAY.astype(np.float16),
        "double": ARRAY.astype(np.float64),
        "big-endian": ARRAY.astype(">f4"),
        "count": np.array(7),
        "yes": np.array([True, False]),
        "grey": np.array([0, 255], np.uint8),
    }
    found = read_weights(written(tmp_path, zoo(tensors), protocol=protocol))
    assert found.author == "Detectron2 Model Zoo"
    assert not found.by_suffix
    assert list(found.tensors) == list(tensors)
    for name, value in tensors.items():
        assert found.tensors[name].shape == value.shape
        assert found.tensors[name].tolist() == value.tolist()
    kinds = (torch.float32, torch.float16, torch.float64, torch.bool, torch.uint8)
    assert tuple(found.tensors[name].dtype for name in ("a", "half", "double", "yes", "grey")) == kinds


@given(
    arrays.arrays(
        st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i8", ">i4", "u1", "?"]),
        arrays.array_shapes(min_dims=0, max_dims=4, max_side=4),
    ),
    st.sampled_from([0, 2, 3, 4, 5]),
)
@SLOW_FOLDER
def test_any_array_comes_back(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    found = read_weights(written(tmp_path, {"x": array}, protocol=protocol)).tensors["x"].numpy()
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


def test_shared_arrays_are_read_once(tmp_path: Path) -> None:
    found = read_weights(written(tmp_path, zoo({"a": ARRAY, "b": ARRAY}))).tensors
    assert found["a"].tolist() == found["b"].tolist() == ARRAY.tolist()


def test_reading_warns_of_nothing_and_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_weights(written(tmp_path, {"x": ARRAY}, protocol=5)).tensors["x"]
    found.mul_(2.0)
    assert found.tolist() == (2.0 * ARRAY).tolist()


def python2(core: str) -> bytes:
    """``{"w": array of 1.5 and -2 as <f4}``, byte for byte as Python 2 wrote it: bytes are texts."""

    def text(content: bytes) -> bytes:  # SHORT_BINSTRING
        return b"U" + bytes([len(content)]) + content

    values = struct.pack("<2f", 1.5, -2.0)
    assert max(values) > 127, "not a text in ASCII"
    dtype = b"cnumpy\ndtype\n" + text(b"f4") + b"K\x00K\x01\x87R(K\x03" + text(b"<") + b"NNNJ\xff\xff\xff\xff"
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy." + core.encode() + b".multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b")
    array += b"\x87R(K\x01K\x02\x85" + dtype + b"\x89" + text(values) + b"tb"
    return b"\x80\x02}" + text(b"w") + array + b"s."


@pytest.mark.parametrize("core", ["core", "_core"])
def test_files_of_python_2_and_of_numpy_1_and_2(tmp_path: Path, core: str) -> None:
    found = read_weights(written(tmp_path, python2(core)))
    assert found.tensors["w"].tolist() == [1.5, -2.0]
    assert found.tensors["w"].dtype == torch.float32


def test_imagenet_files_of_detectron2(tmp_path: Path) -> None:
    found = read_weights(
        written(tmp_path, {"model": {"stem.w": ARRAY}, "__author__": "torchvision", "matching_heuristics": True})
    )
    assert found.by_suffix
    assert found.author == "torchvision"
    assert found.source == str(tmp_path / "weights.pkl")


def test_files_of_detectron(tmp_path: Path) -> None:
    """Weights among the optimiser's momenta and other values, or bare."""
    blobs = {"conv1_w": ARRAY, "conv1_w_momentum": ARRAY, "lr": 0.02, "cfg": "MODEL: ..."}
    for content in ({"blobs": blobs, "cfg": "MODEL: ..."}, blobs):
        found = read_weights(written(tmp_path, content))
        assert list(found.tensors) == ["conv1_w"]
        assert found.author == "Caffe2"
        assert found.by_suffix


@pytest.mark.parametrize("name", ["w.pth", "w.pt"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("new", [False, True])
def test_files_of_torch(tmp_path: Path, name: str, wrapped: bool, new: bool) -> None:
    tensors = OrderedDict(nn.Linear(3, 2).state_dict())
    path = tmp_path / name
    extra = {"model": tensors, "epoch": 3, "optimizer": {"lr": 0.1}} if wrapped else tensors
    torch.save(extra, path, _use_new_zipfile_serialization=new)
    found = read_weights(path)
    assert not found.by_suffix
    assert found.author == ""
    assert {key: value.tolist() for key, value in found.tensors.items()} == {
        key: value.tolist() for key, value in tensors.items()
    }


def test_torch_files_run_no_code_and_say_so_briefly(tmp_path: Path) -> None:
    torch.save({"x": Calls(os.mkdir, str(tmp_path / "ran"))}, tmp_path / "w.pth")
    text = refused(tmp_path / "w.pth")
    assert "mkdir" in text
    assert "weights_only" not in text, "it advises to run the code"
    assert "\n" not in text
    assert not (tmp_path / "ran").exists()


def test_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").tensors["a"].dtype == torch.bfloat16


# What is no file of weights


def test_what_is_not_there_and_what_has_another_ending(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.pkl") == "weights PATH: there is no such file"
    assert refused(tmp_path) == "weights PATH: the ending is none of .pkl, .pth, .pt, .safetensors"
    (tmp_path / "folder.pth").mkdir()
    assert refused(tmp_path / "folder.pth") == "weights PATH: there is no such file"
    assert "the ending is none of" in refused(written(tmp_path, b"", "weights.bin"))


def samples() -> dict[str, bytes]:
    """A sound file of each kind."""
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 2)}
    files = {"pickle.pkl": pickle.dumps(zoo({name: value.numpy() for name, value in tensors.items()}), 2)}
    for name, new in (("zip.pth", True), ("old.pth", False)):
        buffer = io.BytesIO()
        torch.save(tensors, buffer, _use_new_zipfile_serialization=new)
        files[name] = buffer.getvalue()
    from safetensors.torch import save

    return {**files, "s.safetensors": save(tensors)}


SAMPLES = samples()
ENDINGS = [".pkl", ".pth", ".pt", ".safetensors"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_empty_files_pictures_texts_and_archives(tmp_path: Path, ending: str) -> None:
    picture, archive = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "text")
    page = b"<!DOCTYPE html><html><body>404: Not Found</body></html>"
    for content in (b"", b"\0", picture.getvalue(), archive.getvalue(), page, b"{}", b"version https://git-lfs"):
        text = refused(written(tmp_path, content, f"w{ending}"))
        assert "cannot be read" in text
        assert "\n" not in text
    for name, content in SAMPLES.items():  # a sound file of another kind
        if not name.endswith(ending) and (ending, name[-4:]) != (".pt", ".pth"):
            assert "cannot be read" in refused(written(tmp_path, content, f"w{ending}"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("ending", ENDINGS)
@given(content=st.binary(max_size=80))
@example(b"\x80\x02N.")
@example(b"\x80\x02]q\x00h\x00a.")
@SLOW_FOLDER
def test_random_bytes(tmp_path: Path, ending: str, content: bytes) -> None:
    path = written(tmp_path, content, f"w{ending}")
    assert problem(path).startswith((f"weights {path}: ", "none"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", list(SAMPLES))
@given(data=st.data())
@SLOW_FOLDER
def test_cut_off_and_altered_files(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """A file that was cut off is refused; one with wrong bytes too, or it is read as other numbers."""
    whole = SAMPLES[name]
    end = data.draw(st.integers(0, len(whole) - 1))
    path = written(tmp_path, whole[:end], name)
    assert "cannot be read" in refused(path)
    content = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    assert problem(path).startswith((f"weights {path}: ", "none"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([ARRAY], "it holds a list, not tensors by name"),
        (zoo({"a": "text"}), "a is no tensor"),
        (zoo({"a": {"b": ARRAY}}), "a is no tensor"),
        (zoo({"a": np.float32(1)}), "a is no tensor"),
        (zoo({"a": np.array(["text"])}), "an array of <U4, not of numbers"),
        (zoo({"a": np.array([None])}), "an array of object, not of numbers"),
        (zoo({"a": np.array([1j])}), "an array of complex128, not of numbers"),
        (zoo([ARRAY]), "cannot be read"),
        ({"blobs": 3}, "cannot be read"),
    ],
)
def test_what_is_not_tensors_by_name(tmp_path: Path, content: Any, message: str) -> None:
    assert message in refused(written(tmp_path, content))


# What fits


class Tiny(nn.Module):
    """An encoder of two blocks with normalisation, a head, and a layer for classes."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"0": nn.Linear(2, 2), "1": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
        self.head = nn.Linear(2, 4)
        self.score = nn.Linear(4, classes)


def values(module: nn.Module) -> dict[str, list]:
    return {name: value.tolist() for name, value in module.state_dict().items()}


def given_by(module: nn.Module, **more: torch.Tensor) -> Weights:
    return Weights("FILE", {**module.state_dict(), **more})


def fitted(module: nn.Module, file: Weights, new_classes: bool = False) -> str:
    return fit(module, file, encoder="encoder.", class_layers=("score.",), new_classes=new_classes)


def misfit(module: nn.Module, file: Weights, new_classes: bool = False) -> str:
    """The message; nothing may have been copied."""
    before = values(module)
    with pytest.raises(MethodError) as error:
        fitted(module, file, new_classes)
    assert values(module) == before
    return str(error.value)


def test_whole_networks() -> None:
    module, other = Tiny(), Tiny()
    assert fitted(module, given_by(other)) == "whole"
    assert values(module) == values(other)


@pytest.mark.parametrize("name", ["num_batches_tracked", "pixel_mean", "pixel_std", "cell_anchors.0", "cell_anchors.4"])
def test_bookkeeping_is_not_asked_for_and_not_in_the_way(name: str) -> None:
    """detectron2's zoo files hold its anchors as `proposal_generator.anchor_generator.cell_anchors.0`."""
    module, other = Tiny(), Tiny()
    other.encoder["norm"].num_batches_tracked += 5
    file = given_by(other, **{f"proposals.anchors.{name}": torch.ones(3), name: torch.ones(2)})
    assert fitted(module, file) == "whole"
    assert module.encoder["norm"].num_batches_tracked == 0
    del file.tensors["encoder.norm.num_batches_tracked"]
    assert fitted(module, file) == "whole"


def test_numbers_are_converted_to_the_networks() -> None:
    module, other = Tiny(), Tiny().half()
    assert fitted(module, given_by(other)) == "whole"
    assert module.head.weight.dtype == torch.float32
    torch.testing.assert_close(module.head.weight, other.head.weight.float(), rtol=0, atol=0)


@pytest.mark.parametrize("classifier", ["fc.weight", "encoder.fc.weight", "fc1000.bias", "stem.conv1.bias"])
def test_encoders_with_their_classifier(classifier: str) -> None:
    module, other = Tiny(), Tiny()
    before = values(module)
    tensors = {name: value for name, value in other.state_dict().items() if name.startswith("encoder.")}
    assert fitted(module, Weights("FILE", {**tensors, classifier: torch.ones(7)})) == "encoder"
    for name, value in values(module).items():
        expected = before if not name.startswith("encoder.") or "num_batches" in name else values(other)
        assert value == expected[name], name


def test_a_deeper_encoder_is_another_one() -> None:
    """All of ResNet-50's tensors are in a file of ResNet-101, with the same shapes."""
    tensors = {name: value for name, value in Tiny().state_dict().items() if name.startswith("encoder.")}
    for deeper in ("encoder.2.weight", "2.weight"):  # the second as detectron2's matching leaves it
        text = misfit(Tiny(), Weights("FILE", {**tensors, deeper: torch.ones(2, 2)}))
        assert f"1 are of another network ({deeper})" in text


def test_half_a_network_is_none() -> None:
    tensors = dict(Tiny().state_dict())
    del tensors["score.bias"]
    assert "1 are missing (score.bias)" in misfit(Tiny(), Weights("FILE", tensors))
    del tensors["encoder.0.bias"]
    assert "2 are missing (encoder.0.bias)" in misfit(Tiny(), Weights("FILE", tensors))
    assert "0 of its 12 tensors are there" in misfit(Tiny(), Weights("FILE", {}))
    assert "0 of its 12" in misfit(Tiny(), Weights("FILE", {"x": torch.ones(1)}))


def test_encoders_with_a_part_of_the_rest_are_refused() -> None:
    tensors = {name: value for name, value in Tiny().state_dict().items() if not name.startswith("score.")}
    assert "2 are missing (score.bias)" in misfit(Tiny(), Weights("FILE", tensors))


def test_other_classes() -> None:
    module, other = Tiny(3), Tiny(8)
    text = misfit(module, given_by(other))
    assert text.startswith("weights FILE do not fit the network: 10 of its 12 tensors are there; ")
    assert "2 have another shape (score.bias: (8,), not (3,))" in text
    assert text.endswith("only layers for the classes differ: new_classes = true trains those anew")
    before = values(module)
    assert fitted(module, given_by(other), new_classes=True) == "all but classes"
    for name, value in values(module).items():
        expected = before if name.startswith("score.") or "num_batches" in name else values(other)
        assert value == expected[name], name


def test_new_classes_are_new_though_they_are_as_many() -> None:
    module, other = Tiny(3), Tiny(3)
    before = values(module)["score.weight"]
    assert fitted(module, given_by(other), new_classes=True) == "all but classes"
    assert values(module)["score.weight"] == before
    assert values(module)["head.weight"] == values(other)["head.weight"]


def test_new_classes_excuse_nothing_else() -> None:
    tensors = dict(Tiny(8).state_dict())
    tensors["head.weight"] = torch.ones(5, 2)
    text = misfit(Tiny(3), Weights("FILE", tensors), new_classes=True)
    assert "3 have another shape (head.weight: (5, 2), not (4, 2))" in text
    assert "new_classes" not in text
    foreign = given_by(Tiny(8), elsewhere=torch.ones(1))
    assert "1 are of another network (elsewhere)" in misfit(Tiny(3), foreign, new_classes=True)
    assert "1 are of another network (elsewhere)" in misfit(Tiny(3), given_by(Tiny(3), elsewhere=torch.ones(1)))


def opcode_text(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


# A tuple of two of itself, 40 levels deep: some 300 bytes that take ages to hash or to write out.
LAUGHS = (
    opcode_text(b"a")
    + b"q\x000"
    + b"".join(bytes([104, i, 104, i, 0x86, 113, i + 1, 48]) for i in range(40))
    + b"h\x28"
)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x80\x02}(" + LAUGHS + opcode_text(b"x") + b"u.", "keys that are no text"),
        (b"\x80\x02}" + LAUGHS + opcode_text(b"x") + b"s.", "keys that are no text"),
        (b"\x80\x02(" + LAUGHS + opcode_text(b"x") + b"d.", "keys that are no text"),
        (b"\x80\x02ccollections\nOrderedDict\n(](" + LAUGHS + b"K\0\x86etR.", "keys that are no text"),
        (b"\x80\x04\x8f(" + LAUGHS + b"\x90.", "it holds a set"),
        (b"\x80\x04(" + LAUGHS + b"\x91.", "it holds a set"),
        (b"\x80\x02cnumpy\ndtype\n(" + LAUGHS + b"K\0K\1tR.", "nameless type"),
        (b"\x80\x05\x96" + struct.pack("<Q", 8 << 30) + b".", "cut off"),
        (pickle.dumps(made(Calls(np.dtype, "f4", False, True), ("a", 2**30), b"x"), 2), "whose shape is none"),
    ],
)
def test_a_few_bytes_take_neither_time_nor_memory(tmp_path: Path, content: bytes, text: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert text in refused(written(tmp_path, content))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # kilobytes


def test_an_author_is_text(tmp_path: Path) -> None:
    path = written(tmp_path, b"\x80\x02}(" + opcode_text(b"__author__") + LAUGHS + opcode_text(b"model") + b"}u.")
    assert read_weights(path).author == ""


def test_a_torch_file_that_expands_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "a.pth", "w", 8) as packed:
        for member in whole.infolist():
            packed.writestr(member.filename, whole.read(member))
    assert "expands to more than its size" in refused(tmp_path / "a.pth")
    assert read_weights(tmp_path / "whole.pth").tensors["a"].shape == (100_000,)


@pytest.mark.parametrize("kind", ["meta", "sparse"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_without_plain_values_are_refused(tmp_path: Path, kind: str) -> None:
    empty = torch.zeros(4, device="meta")
    torch.save({"a": empty if kind == "meta" else torch.zeros(4).to_sparse()}, tmp_path / "a.pth")
    assert "without plain values" in refused(tmp_path / "a.pth")
