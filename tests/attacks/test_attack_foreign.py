"""One test per rejection of a foreign file; a pickle that wants to run something; every truncation; random damage."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import foreign_files as files
import numpy as np
import pytest

from zen_mlx.errors import FormatError, InputError, UnsupportedFormat
from zen_mlx.format.read import read
from zen_mlx.interop.parse.detect import is_foreign, read_foreign

Q = "model.layers.0.self_attn.q_proj"
MASK = files.mask_of(np.ones((3, 32), bool))
ONE = np.array(1.0, "<f4")
DELTA = np.arange(-7, 8).reshape(3, 5).astype(float)
A, B = np.ones((2, 5), "<f4"), np.ones((3, 2), "<f4")


def refuse(path: Path, word: str, kind: type[FormatError] = FormatError) -> FormatError:
    with pytest.raises(FormatError, match=word) as caught:
        read_foreign(path)
    assert type(caught.value) is kind
    assert caught.value.path is not None
    assert Path(caught.value.path).is_relative_to(path if path.is_dir() else path.parent)
    assert None not in (caught.value.field, caught.value.expected, caught.value.found)
    return caught.value


def ours(path: Path, name: str = "x") -> Path:
    """The smallest archive that is read."""
    return files.torch_save(path / name, {f"{Q}.mask": ("<i4", MASK), f"{Q}.coeff": ("<f4", ONE)})


def test_the_starting_points_are_valid(tmp_path: Path) -> None:
    assert set(read_foreign(ours(tmp_path)).tensors) == {f"{Q}.weight"}
    for data in (
        files.reference({"a": files.reference_blob(DELTA, 1.0)}),
        files.rust(files.rust_tensor("a", DELTA, 1.0)),
    ):
        (tmp_path / "y").write_bytes(data)
        assert set(read_foreign(tmp_path / "y").tensors) == {"a.weight"}
        assert is_foreign(tmp_path / "y")
        with pytest.raises(UnsupportedFormat):
            read(tmp_path / "y")


# Pickles that want more than tensors.


class Bad:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "function", [os.system, builtins.exec, builtins.eval, subprocess.check_output, builtins.getattr]
)
def test_no_code_is_run(tmp_path: Path, protocol: int, function: Callable[..., object]) -> None:
    witness = tmp_path / "witness"
    text = f"touch {witness}" if function in (os.system, subprocess.check_output) else f"open({str(witness)!r}, 'w')"
    files.archive(tmp_path / "x", pickle.dumps({"a": Bad(function, text)}, protocol), {})
    refuse(tmp_path / "x", "pickle")
    assert not witness.exists()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(" + files.text("storage") + b"ctorch\nFloatStorage\n" + files.text("0") + files.text("cpu") + b"K\x04tQ"
TENSOR = files.tensor_pickle("0", "Float", 4, (4,), (1,))
PICKLES: dict[str, tuple[bytes, str]] = {
    "a global of torch that is no tensor": (b"\x80\x02ctorch\nload\n.", "asks for code"),
    "a storage of another module": (b"\x80\x02cos\nFloatStorage\n.", "asks for code"),
    "a global by the stack": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for code"),
    "a global that is no text": (b"\x80\x04K\x01K\x02\x93.", "asks for code"),
    "an instance": (b"\x80\x02(i__main__\nA\n.", "more than tensors"),
    "NEWOBJ": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "more than tensors"),
    "EXT1": (b"\x80\x02\x82\x01.", "more than tensors"),
    "a set": (b"\x80\x04\x8f.", "more than tensors"),
    "a call of a dictionary": (b"\x80\x02})R.", "more than tensors"),
    "a call of a storage": (b"\x80\x02ctorch\nFloatStorage\n)R.", "more than tensors"),
    "a call without a tuple": (b"\x80\x02ccollections\nOrderedDict\nK\x01R.", "more than tensors"),
    "OrderedDict with arguments": (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "more than tensors"),
    "a parameter of no tensor": (
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n(K\x01K\x01K\x01tR.",
        "more than tensors",
    ),
    "a tensor of no storage": (b"\x80\x02" + REBUILD + b"(K\x01K\x00))\x89NtR.", "more than tensors"),
    "a negative size": (
        b"\x80\x02" + REBUILD + b"(" + STORAGE + b"K\x00J\xff\xff\xff\xff\x85K\x01\x85\x89NtR.",
        "more than tensors",
    ),
    "a size that is no number": (
        b"\x80\x02" + REBUILD + b"(" + STORAGE + b"K\x00\x88\x85K\x01\x85\x89NtR.",
        "more than tensors",
    ),
    "strides of another length": (
        b"\x80\x02" + REBUILD + b"(" + STORAGE + b"K\x00K\x04\x85)\x89NtR.",
        "more than tensors",
    ),
    "a persistent id that is not a storage": (b"\x80\x02K\x01Q.", "more than tensors"),
    "a storage that is not one of torch's": (
        b"\x80\x02(" + files.text("storage") + b"ccollections\nOrderedDict\n" + files.text("0") * 2 + b"K\x01tQ.",
        "more than tensors",
    ),
    "BUILD on a tensor": (b"\x80\x02" + TENSOR + b"}b.", "more than tensors"),
    "a key that is no text": (b"\x80\x02}K\x01K\x02s.", "more than tensors"),
    "items of a list": (b"\x80\x02]K\x01K\x02s.", "more than tensors"),
    "an item of a dictionary": (b"\x80\x02}K\x01a.", "more than tensors"),
    "an odd number of items": (b"\x80\x02}(K\x01u.", "more than tensors"),
    "a name twice": (files.dictionary({"a": TENSOR})[:-1] + files.text("a") + b"K\x01s.", "name occurs twice"),
    "no tensor": (b"\x80\x02}" + files.text("a") + b"K\x01s.", "not a tensor"),
    "a list at the top": (b"\x80\x02].", "not a dictionary"),
    "nothing": (b"", "pickle is damaged"),
    "no STOP": (b"\x80\x02}", "pickle is damaged"),
    "an empty stack": (b"\x80\x02.", "pickle is damaged"),
    "a mark at the top": (b"\x80\x02(.", "pickle is damaged"),
    "no mark": (b"\x80\x02u.", "pickle is damaged"),
    "a memo that was not put": (b"\x80\x02h\x07.", "pickle is damaged"),
    "an unknown opcode": (b"\x80\x02\xfe.", "pickle is damaged"),
    "text that ends early": (b"\x80\x02X\xff\xff\xff\x7fab.", "pickle is damaged"),
    "text of 2^62 bytes": (
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"ab.",
        "pickle is damaged|more than|unknown kind",
    ),
    "text that is no UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "pickle is damaged"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path: Path, name: str) -> None:
    data, word = PICKLES[name]
    refuse(files.archive(tmp_path / "x", data, {"0": bytes(16)}), word)


def test_pickles_that_grow(tmp_path: Path) -> None:
    nested = b"\x80\x02}" + files.text("a") + b"K\x01" + b"q\x00h\x00\x86" * 200 + b"s."
    refuse(files.archive(tmp_path / "x", nested, {}), "not a tensor")
    refuse(files.archive(tmp_path / "y", b"\x80\x02" + b"]" * 1_000_000 + b".", {}), "too many objects")
    refuse(files.archive(tmp_path / "z", b"\x80\x02" + b"K\x01" * (5 << 20), {}), "too large")
    far = b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."
    assert_no_tensors = files.archive(tmp_path / "w", far, {})
    refuse(assert_no_tensors, "unknown kind of delta|configuration", UnsupportedFormat)


# Tensors in archives.

VIEWS: dict[str, tuple[bytes, str]] = {
    "past its storage": (files.tensor_pickle("0", "Float", 4, (5,), (1,)), "past its storage"),
    "past its storage by its offset": (files.tensor_pickle("0", "Float", 4, (4,), (1,), 1), "past its storage"),
    "past its storage by a stride": (files.tensor_pickle("0", "Float", 4, (2, 2), (3, 1)), "past its storage"),
    "huge by a stride of 0": (files.tensor_pickle("0", "Float", 4, (1 << 30,), (0,)), "past its storage"),
    "2^62 elements": (files.tensor_pickle("0", "Float", 4, (1 << 31, 1 << 31), (1 << 31, 1)), "past its storage"),
    "no elements": (files.tensor_pickle("0", "Float", 4, (0, 4), (4, 1)), "past its storage"),
    "nine dimensions": (files.tensor_pickle("0", "Float", 4, (1,) * 9, (1,) * 9), "bad shape"),
    "a storage that is missing": (files.tensor_pickle("1", "Float", 4, (4,), (1,)), "missing"),
    "a storage out of its folder": (files.tensor_pickle("../data.pkl", "Float", 4, (4,), (1,)), "missing"),
    "a longer storage": (files.tensor_pickle("0", "Float", 3, (3,), (1,)), "wrong size"),
    "a shorter storage": (files.tensor_pickle("0", "Float", 1 << 40, (3,), (1,)), "wrong size"),
    "a boolean is neither 0 nor 1": (files.tensor_pickle("0", "Bool", 16, (16,), (1,)), "neither 0 nor 1"),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(tmp_path: Path, name: str) -> None:
    view, word = VIEWS[name]
    pickled = files.dictionary({f"{Q}.coeff": view})
    refuse(files.archive(tmp_path / "x", pickled, {"0": np.full(4, 2, "<f4").tobytes()}), word)


def test_many_views_of_one_storage_and_one_of_two_kinds(tmp_path: Path) -> None:
    data = {"0": bytes(1 << 16)}
    views = {f"{i}.w": files.tensor_pickle("0", "Float", 1 << 14, (16000,), (1,), i) for i in range(64)}
    refuse(files.archive(tmp_path / "x", files.dictionary(views), data), "larger than the file")
    same = {f"{i}.w": files.tensor_pickle("0", "Float", 1 << 14, (1 << 14,), (1,)) for i in range(4)}
    refuse(files.archive(tmp_path / "z", files.dictionary(same), data), "larger than the file")
    two = {
        "a": files.tensor_pickle("0", "Float", 1 << 14, (4,), (1,)),
        "b": files.tensor_pickle("0", "Int", 1 << 14, (4,), (1,)),
    }
    refuse(files.archive(tmp_path / "y", files.dictionary(two), data), "two types")


def test_archives(tmp_path: Path) -> None:
    packed = files.archive(tmp_path / "a", files.dictionary({}), {}, zipfile.ZIP_DEFLATED)
    refuse(packed, "compressed")
    with zipfile.ZipFile(tmp_path / "b", "w") as file:
        file.writestr("diff/other", "x")
    refuse(tmp_path / "b", "not an archive of torch.save")
    with zipfile.ZipFile(tmp_path / "c", "w") as file:
        file.writestr("one/data.pkl", "x")
        file.writestr("two/data.pkl", "x")
    refuse(tmp_path / "c", "not an archive of torch.save")
    with zipfile.ZipFile(tmp_path / "d", "w") as file:
        file.writestr("one/data.pkl", b"\x80\x02}.")
        file.writestr("one/byteorder", "big")
    refuse(tmp_path / "d", "byte order", UnsupportedFormat)
    content = bytearray(ours(tmp_path).read_bytes())
    at = content.index(np.ascontiguousarray(MASK).tobytes())
    content[at] ^= 1
    (tmp_path / "e").write_bytes(content)
    refuse(tmp_path / "e", "archive is damaged")
    (tmp_path / "f").write_bytes(ours(tmp_path).read_bytes() + b"more")
    refuse(tmp_path / "f", "cut short")
    flags = bytearray(ours(tmp_path).read_bytes())
    flags[flags.rindex(b"PK\x01\x02", 0, flags.index(b"PK\x01\x02") + 4) + 8] |= 1
    (tmp_path / "g").write_bytes(flags)
    refuse(tmp_path / "g", "encrypted|damaged")
    huge = bytearray(ours(tmp_path).read_bytes())
    huge[-10:-6] = struct.pack("<I", 1 << 30)
    (tmp_path / "h").write_bytes(huge)
    refuse(tmp_path / "h", "directory is too large")
    (tmp_path / "i").write_bytes(bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + b"rest of it")
    assert "before 1.6" in str(refuse(tmp_path / "i", "unknown kind", UnsupportedFormat).found)
    (tmp_path / "j").write_bytes(pickle.dumps({"a": 1}))
    refuse(tmp_path / "j", "unknown kind", UnsupportedFormat)


def test_an_archive_that_lists_a_million_files_takes_no_memory(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 1_000_000
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1_000_000, 1_000_000, len(directory), 4)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 4 + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    (tmp_path / "x").write_bytes(b"PK\3\4" + directory + end64 + locator + end)
    refuse(tmp_path / "x", "directory is too large")


# Masks.

MASKS: dict[str, tuple[dict[str, tuple[str, np.ndarray]], str]] = {
    "no coefficient": ({f"{Q}.mask": ("<i4", MASK)}, "has no coefficient"),
    "no mask": ({f"{Q}.mask": ("<i4", MASK), f"{Q}.coeff": ("<f4", ONE), "b.coeff": ("<f4", ONE)}, "has no mask"),
    "two masks": (
        {f"{Q}.mask": ("<i4", MASK), f"{Q}.mask_col": ("<i4", MASK), f"{Q}.coeff": ("<f4", ONE)},
        "two masks",
    ),
    "a mask of floats": (
        {f"{Q}.mask": ("<f4", MASK.astype("<f4")), f"{Q}.coeff": ("<f4", ONE)},
        "unsupported kind of mask",
    ),
    "a mask of three dimensions": (
        {f"{Q}.mask": ("<i4", MASK[None]), f"{Q}.coeff": ("<f4", ONE)},
        "unsupported kind of mask",
    ),
    "two coefficients": ({f"{Q}.mask": ("<i4", MASK), f"{Q}.coeff": ("<f4", np.ones(2, "<f4"))}, "wrong number"),
    "a coefficient that is NaN": ({f"{Q}.mask": ("<i4", MASK), f"{Q}.coeff": ("<f4", ONE * np.nan)}, "not finite"),
    "a coefficient that is whole": ({f"{Q}.mask": ("<i4", MASK), f"{Q}.coeff": ("<i4", ONE.astype("<i4"))}, "floating"),
    "inputs of outputs": (
        {f"{Q}.mask_row": ("<i4", MASK), f"{Q}.coeff_row": ("<f4", np.ones(3, "<f4"))},
        "wrong number",
    ),
    "outputs of inputs": (
        {f"{Q}.mask_col": ("<i4", MASK), f"{Q}.coeff_col": ("<f4", np.ones(32, "<f4"))},
        "wrong number",
    ),
    "a whole parameter that is NaN": (
        {f"{Q}.mask": ("<i4", MASK), f"{Q}.coeff": ("<f4", ONE), "b.weight": ("<f4", np.full(3, np.inf, "<f4"))},
        "not finite",
    ),
    "a name taken by a mask": (
        {f"{Q}.mask": ("<i4", MASK), f"{Q}.coeff": ("<f4", ONE), f"{Q}.weight": ("<f4", np.ones(3, "<f4"))},
        "name occurs twice",
    ),
    "a whole number in full": (
        {f"{Q}.mask": ("<i4", MASK), f"{Q}.coeff": ("<f4", ONE), "b.weight": ("<i8", np.ones(3, "<i8"))},
        "floating",
    ),
    "a long name": ({"x" * 2000 + ".mask": ("<i4", MASK), f"{Q}.coeff": ("<f4", ONE)}, "name length"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(tmp_path: Path, name: str) -> None:
    tensors, word = MASKS[name]
    refuse(files.torch_save(tmp_path / "x", tensors), word)


# The two look-alikes.


def blob(shape: tuple[int, ...], numel: int, bits: bytes, tail: bytes) -> dict[str, bytes]:
    return {"a": struct.pack(f"<{len(shape) + 2}I", len(shape), *shape, numel) + bits + tail}


SCALE = struct.pack("<f", 1.0)
REFERENCES: dict[str, tuple[bytes, str, type[FormatError]]] = {
    "no tensors": (files.reference({}), "no tensors", FormatError),
    "JSON that is none": (files.reference({}, b'{"a": '), "not JSON", FormatError),
    "a name that is no text": (files.reference({}, b'{"model_name": 3}'), "wrong type", FormatError),
    "JSON longer than the file": (b"BITDELTA" + struct.pack("<II", 1, 1 << 19) + b'{"', "cut short", FormatError),
    "JSON too long": (b"BITDELTA" + struct.pack("<II", 1, 1 << 30) + b'{"', "too long", FormatError),
    "a name twice": (
        files.reference({"a": files.reference_blob(DELTA, 1.0), "a.weight": files.reference_blob(DELTA, 1.0)}),
        "name occurs twice",
        FormatError,
    ),
    "a blob longer than the file": (
        files.reference({}) + files.chunk(b"a") + struct.pack("<I", 2**32 - 1),
        "cut short",
        FormatError,
    ),
    "no dimensions": (files.reference(blob((), 1, b"\0", SCALE)), "bad shape", FormatError),
    "nine dimensions": (files.reference(blob((1,) * 9, 1, b"\0", SCALE)), "bad shape", FormatError),
    "dimension 0": (files.reference(blob((0, 3), 0, b"\0", SCALE)), "bad dimension", FormatError),
    "dimension 2^31": (files.reference(blob((2**31,), 2**31, b"\0", SCALE)), "bad dimension", FormatError),
    "wrong number of elements": (files.reference(blob((3, 5), 14, b"\0\0", SCALE)), "number of elements", FormatError),
    "signs cut short": (files.reference(blob((300, 50), 15000, b"\0\0", SCALE)), "cut short", FormatError),
    "a pad bit": (files.reference(blob((3, 5), 15, b"\0\x80", SCALE)), "pad bits", FormatError),
    "no scale": (files.reference(blob((3, 5), 15, b"\0\0", b"")), "cut short", FormatError),
    "two scales": (
        files.reference(blob((3, 5), 15, b"\0\0", struct.pack("<I2f", 2, 1, 1))),
        "wrong number of scales",
        FormatError,
    ),
    "2^32 - 1 scales": (
        files.reference(blob((3, 5), 15, b"\0\0", struct.pack("<I2f", 2**32 - 1, 1, 1))),
        "number of scales",
        FormatError,
    ),
    "bytes after the scales": (
        files.reference(blob((3, 5), 15, b"\0\0", struct.pack("<I3f", 1, 1, 1, 1))),
        "number of scales",
        FormatError,
    ),
    "a negative scale": (files.reference(blob((3, 5), 15, b"\0\0", struct.pack("<f", -1))), "bad scale", FormatError),
    "a scale that is NaN": (
        files.reference(blob((3, 5), 15, b"\0\0", struct.pack("<f", float("nan")))),
        "bad scale",
        FormatError,
    ),
    "rows of one": (
        files.reference({
            str(i): struct.pack("<4I", 2, 4_000_000, 1, 4_000_000) + bytes(500_000) + SCALE for i in range(5)
        }),
        "too narrow",
        UnsupportedFormat,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_code(tmp_path: Path, name: str) -> None:
    data, word, kind = REFERENCES[name]
    (tmp_path / "x").write_bytes(data)
    refuse(tmp_path / "x", word, kind)


def rust_raw(rank: int, dims: tuple[int, ...], scale: float, words: int, bits: bytes) -> bytes:
    return files.chunk(b"a") + struct.pack(f"<I{len(dims)}QfI", rank, *dims, scale, words) + bits


RUSTS: dict[str, tuple[bytes, str]] = {
    "more tensors than there are": (files.rust(count=3), "cut short"),
    "2^32 - 1 tensors": (files.rust(count=2**32 - 1), "too many tensors"),
    "bytes after the last": (files.rust(files.rust_tensor("a", DELTA, 1.0), count=1) + b"\0", "trailing bytes"),
    "no dimensions": (files.rust(rust_raw(0, (), 1, 0, b"")), "bad shape"),
    "rank 2^32 - 1": (files.rust(rust_raw(2**32 - 1, (), 1, 0, b"")), "bad shape"),
    "dimension 2^63": (files.rust(rust_raw(1, (1 << 63,), 1, 0, b"")), "bad dimension"),
    "another number of words": (files.rust(files.rust_tensor("a", DELTA, 1.0, words=2)), "number of words"),
    "words cut short": (files.rust(rust_raw(2, (3000, 50), 1, 4688, b"\0" * 8)), "cut short"),
    "a pad bit": (files.rust(rust_raw(2, (3, 5), 1, 1, b"\0\0\0\x80")), "pad bits"),
    "a negative scale": (files.rust(files.rust_tensor("a", DELTA, -1.0)), "bad scale"),
    "a name twice": (files.rust(*[files.rust_tensor("a", DELTA, 1.0)] * 2), "name occurs twice"),
    "a name that is no UTF-8": (
        files.rust(files.chunk(b"\xff") + struct.pack("<I", 1)),
        "UTF-8",
    ),
}


@pytest.mark.parametrize("name", RUSTS)
def test_rust(tmp_path: Path, name: str) -> None:
    data, word = RUSTS[name]
    (tmp_path / "x").write_bytes(data)
    refuse(tmp_path / "x", word)


# Adapters.

MLX = {f"{Q}.lora_a": ("F32", A.T), f"{Q}.lora_b": ("F32", B.T)}
PEFT = {f"base_model.model.{Q}.lora_A.weight": ("F32", A), f"base_model.model.{Q}.lora_B.weight": ("F32", B)}
GOOD_MLX, GOOD_PEFT = files.mlx_config(2, 1.0), files.peft_config(2, 2)
STACKED = {name.replace(Q, "model.layers.0.mlp.experts"): each for name, each in PEFT.items()}
MAGNITUDE = {f"base_model.model.{Q}.lora_magnitude_vector.weight": ("F32", B)}
ADAPTERS: dict[str, tuple[dict[str, tuple[str, np.ndarray]], object, str, type[FormatError]]] = {
    "mlx: DoRA": (MLX, GOOD_MLX | {"fine_tune_type": "dora"}, "not a plain LoRA", UnsupportedFormat),
    "mlx: DoRA, as it was once said": (MLX, GOOD_MLX | {"use_dora": True}, "not a plain LoRA", UnsupportedFormat),
    "mlx: DoRA's magnitudes": (MLX | {f"{Q}.m": ("F32", B)}, GOOD_MLX, "a plain LoRA has no", UnsupportedFormat),
    "mlx: no scale": (MLX, GOOD_MLX | {"lora_parameters": {"rank": 2}}, "bad number", FormatError),
    "mlx: a scale of text": (MLX, GOOD_MLX | {"lora_parameters": {"rank": 2, "scale": "1"}}, "bad number", FormatError),
    "mlx: a scale of infinity": (MLX, GOOD_MLX | {"lora_parameters": {"rank": 2, "scale": 1e39}}, "bad number", FormatError),
    "mlx: a scale of NaN": (
        MLX, GOOD_MLX | {"lora_parameters": {"rank": 2, "scale": float("nan")}}, "bad number", FormatError,
    ),
    "mlx: no rank": (MLX, GOOD_MLX | {"lora_parameters": {"scale": 1.0}}, "bad rank", FormatError),
    "mlx: another rank": (MLX, files.mlx_config(3, 1.0), "rank differs", FormatError),
    "mlx: parameters that are a list": (MLX, GOOD_MLX | {"lora_parameters": []}, "bad number", FormatError),
    "mlx: a pair lacks one array": ({f"{Q}.lora_a": ("F32", A.T)}, GOOD_MLX, "a pair lacks one array", FormatError),
    "mlx: a pair of other ranks": (
        {f"{Q}.lora_a": ("F32", A.T), f"{Q}.lora_b": ("F32", np.ones((3, 3), "<f4"))}, GOOD_MLX, "rank differs", FormatError,
    ),
    "mlx: a pair of other dimensions": (
        {f"{Q}.lora_a": ("F32", A.T), f"{Q}.lora_b": ("F32", np.ones((1, 2, 3), "<f4"))},
        GOOD_MLX, "do not match|rank differs", FormatError,
    ),
    "mlx: vectors": (
        {f"{Q}.lora_a": ("F32", np.ones(2, "<f4")), f"{Q}.lora_b": ("F32", np.ones(2, "<f4"))},
        GOOD_MLX, "shapes do not match", FormatError,
    ),
    "mlx: whole numbers": (
        {f"{Q}.lora_a": ("I32", A.T.astype("<i4")), f"{Q}.lora_b": ("F32", B.T)}, GOOD_MLX, "floating", FormatError,
    ),
    "mlx: NaN": ({f"{Q}.lora_a": ("F32", A.T * np.nan), f"{Q}.lora_b": ("F32", B.T)}, GOOD_MLX, "not finite", FormatError),
    "mlx: beyond float32": (
        {f"{Q}.lora_a": ("F64", A.T.astype("<f8") * 1e300), f"{Q}.lora_b": ("F32", B.T)}, GOOD_MLX, "not finite", FormatError,
    ),
    "mlx: 8-bit floats": (
        MLX | {f"{Q}.lora_a": ("F8_E4M3", A.T.astype("<u1"))}, GOOD_MLX, "number type", UnsupportedFormat,
    ),
    "a configuration that is a list": (MLX, [], "not an object", FormatError),
    "peft: another kind": (PEFT, GOOD_PEFT | {"peft_type": "LOHA"}, "kind of adapter", UnsupportedFormat),
    "peft: no rank": (PEFT, {"peft_type": "LORA", "lora_alpha": 1}, "bad rank", FormatError),
    "peft: rank 0": (PEFT, GOOD_PEFT | {"r": 0}, "bad rank", FormatError),
    "peft: rank true": (PEFT, GOOD_PEFT | {"r": True}, "bad rank", FormatError),
    "peft: no alpha": (PEFT, {"peft_type": "LORA", "r": 2}, "bad number", FormatError),
    "peft: another rank": (PEFT, GOOD_PEFT | {"r": 3}, "rank differs", FormatError),
    "peft: another rank by a pattern": (PEFT, GOOD_PEFT | {"rank_pattern": {"q_proj": 3}}, "rank differs", FormatError),
    "peft: a rank pattern that is text": (PEFT, GOOD_PEFT | {"rank_pattern": {"q_proj": "2"}}, "bad rank", FormatError),
    "peft: an alpha pattern that is none": (PEFT, GOOD_PEFT | {"alpha_pattern": {"q_proj": []}}, "bad number", FormatError),
    "peft: patterns that are a list": (PEFT, GOOD_PEFT | {"rank_pattern": [1]}, "wrong type", FormatError),
    "peft: a pattern that is none": (
        PEFT, GOOD_PEFT | {"rank_pattern": {"(": 2}}, "unsupported pattern", UnsupportedFormat,
    ),
    "peft: a pattern with a back reference": (
        PEFT, GOOD_PEFT | {"rank_pattern": {r"(.)\2": 2}}, "unsupported pattern", UnsupportedFormat,
    ),
    "peft: a pattern of 2000 characters": (
        PEFT, GOOD_PEFT | {"rank_pattern": {"a|" * 1000: 2}}, "unsupported pattern", UnsupportedFormat,
    ),
    "peft: a pattern nested too deeply": (
        PEFT, GOOD_PEFT | {"rank_pattern": {"(" * 500 + "a" + ")" * 500: 2}}, "unsupported pattern", UnsupportedFormat,
    ),
    "peft: too many patterns": (
        PEFT, GOOD_PEFT | {"rank_pattern": {str(i): 2 for i in range(5000)}}, "too many patterns", UnsupportedFormat,
    ),
    "peft: DoRA's magnitudes": (PEFT | MAGNITUDE, GOOD_PEFT, "a plain LoRA has no", UnsupportedFormat),
    "peft: an array of no meaning": (PEFT | {"thing": ("F32", B)}, GOOD_PEFT, "a plain LoRA has no", UnsupportedFormat),
    "peft: a pair lacks one array": (
        {f"base_model.model.{Q}.lora_A.weight": ("F32", A)}, GOOD_PEFT, "a pair lacks one array", FormatError,
    ),
    "peft: a name twice": (
        PEFT | {f"base_model.model.{Q}.lora_A.default.weight": ("F32", A)}, GOOD_PEFT, "name occurs twice", FormatError,
    ),
    "peft: a whole parameter beside its pair": (
        PEFT | {f"base_model.model.{Q}.weight": ("F32", A)}, GOOD_PEFT, "name occurs twice", FormatError,
    ),
    "peft: PiSSA": (PEFT, GOOD_PEFT | {"init_lora_weights": "pissa"}, "base that its initialization", UnsupportedFormat),
    "peft: a start that is a list": (PEFT, GOOD_PEFT | {"init_lora_weights": []}, "initialization", UnsupportedFormat),
    "peft: target_parameters of no names": (
        PEFT, GOOD_PEFT | {"target_parameters": [1]}, "wrong type", FormatError,
    ),
    "peft: experts whose parameter is not said": (STACKED, GOOD_PEFT, "parameters of experts", UnsupportedFormat),
    "peft: experts with one pair for two parameters": (
        STACKED, GOOD_PEFT | {"target_parameters": ["down_proj", "gate_up_proj"]}, "parameters of experts",
        UnsupportedFormat,
    ),
    "peft: other parameters of experts": (
        STACKED, GOOD_PEFT | {"target_parameters": ["experts.bias"]}, "parameters of experts", UnsupportedFormat,
    ),
    "peft: experts of another rank": (
        STACKED, GOOD_PEFT | {"target_parameters": ["down_proj"], "r": 3}, "wrong shapes", FormatError,
    ),
} | {
    f"peft: {key}": (PEFT, GOOD_PEFT | {key: [1]}, "not a plain LoRA", UnsupportedFormat)
    for key in (
        "use_dora", "use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens", "trainable_token_indices",
        "kasa_config", "layer_replication", "arrow_config", "loftq_config", "corda_config",
    )
}  # fmt: skip


@pytest.mark.parametrize("pattern", ["(a+)+$", ".*" * 9, "(([a-z]*)*)*!", "(.|..)+!", "((q|.){1,999}){1,999}!"])
def test_patterns_that_would_take_for_ever_do_not(tmp_path: Path, pattern: str) -> None:
    config = GOOD_PEFT | {"alpha_pattern": {pattern: 2}}
    assert read_foreign(files.adapter(tmp_path / "x", "adapter_model.safetensors", PEFT, config)).tensors


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(tmp_path: Path, name: str) -> None:
    tensors, config, word, kind = ADAPTERS[name]
    refuse(files.adapter(tmp_path / "x", "adapters.safetensors", tensors, config), word, kind)


def test_the_adapters_that_those_were_made_of_are_valid(tmp_path: Path) -> None:
    for index, (tensors, config) in enumerate([(MLX, GOOD_MLX), (PEFT, GOOD_PEFT)]):
        found = read_foreign(files.adapter(tmp_path / str(index), "adapter_model.safetensors", tensors, config))
        assert set(found.tensors) == {f"{Q}.weight"}


def test_configurations_that_are_no_configuration(tmp_path: Path) -> None:
    folder = files.adapter(tmp_path / "x", "adapters.safetensors", MLX, GOOD_MLX)
    path = folder / "adapter_config.json"
    for text, word in (
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "not JSON"),
        ("1" * 10_000, "not JSON|not an object"),
        (" " * (2 << 20), "too large"),
    ):
        path.write_bytes(text.encode("latin-1"))
        refuse(folder, word)
    path.unlink()
    refuse(folder, "scale is unknown")
    refuse(folder / "adapters.safetensors", "scale is unknown")
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a file"):
        read_foreign(folder)


def test_folders_and_files_that_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "not an adapter folder", UnsupportedFormat)
    both = files.adapter(tmp_path / "both", "adapters.safetensors", MLX, GOOD_MLX)
    (both / "adapter_model.safetensors").write_bytes(b"")
    refuse(both, "not an adapter folder", UnsupportedFormat)
    shown = {
        b"x": "x",
        b"BITDELT": "BITDELT",
        b"GGUF" + bytes(60): "47 47 55 46 00 00 00 00",
        b"\x1b[2J": "1b 5b 32 4a",
    }
    for data in (b"", *shown, b"PK", bytes(100)):
        (tmp_path / "x").write_bytes(data)
        error = refuse(tmp_path / "x", "unknown kind", UnsupportedFormat)
        assert error.found == shown.get(data, error.found)
    (tmp_path / "x").write_bytes(files.safetensors({"a": ("F32", A)}))
    refuse(tmp_path / "x", "unknown kind", UnsupportedFormat)
    with pytest.raises(InputError, match="no such file"):
        read_foreign(tmp_path / "absent")
    (tmp_path / "z").write_bytes(struct.pack("<Q", 30) + b'{"a": {"dtype": "F32", "sha' + bytes(10))
    refuse(tmp_path / "z", "the header is damaged")
    header = json.dumps({"a.lora_a": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "z").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refuse(tmp_path / "z", "the header is damaged")
    header = b"{" + b" " * (33 << 20)
    (tmp_path / "z").write_bytes(struct.pack("<Q", len(header)) + header)
    refuse(tmp_path / "z", "header is too large")


# All of them, cut and damaged.


def samples(folder: Path) -> list[Path]:
    out = [ours(folder, "torch")]
    for name, data in (
        ("reference", files.reference({"a": files.reference_blob(DELTA, [1.0, 2.0, 3.0])})),
        ("rust", files.rust(files.rust_tensor("a", DELTA, 1.0))),
    ):
        (folder / name).write_bytes(data)
        out.append(folder / name)
    out.append(files.adapter(folder / "mlx", "adapters.safetensors", MLX, GOOD_MLX) / "adapters.safetensors")
    return out


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for path in samples(tmp_path):
        data = path.read_bytes()
        # A look-alike cut to 16 bytes or fewer, or at a tensor's end, may be another valid thing.
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(FormatError):
                read_foreign(path)


def test_random_damage_is_read_or_refused(tmp_path: Path) -> None:
    dice = random.Random(0)
    for path in samples(tmp_path):
        data = path.read_bytes()
        for _ in range(300):
            damaged = bytearray(data)
            for _ in range(dice.randint(1, 4)):
                damaged[dice.randrange(len(damaged))] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
            path.write_bytes(damaged)
            try:
                read_foreign(path)
            except FormatError:
                continue


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A file that claims terabytes in every field is refused within a small address space."""
    bomb = b"\x80\x02" + b"".join([b"X", struct.pack("<I", 2**31 - 1)])
    files.archive(tmp_path / "a", bomb, {})
    (tmp_path / "b").write_bytes(files.rust(rust_raw(2, (2**31 - 1, 2**31 - 1), 1, 2**32 - 1, b"")))
    (tmp_path / "c").write_bytes(files.reference(blob((2**31 - 1, 2), 2**32 - 2, b"", SCALE)))
    script = (
        "import sys, resource\n"
        "from zen_mlx.interop.parse.detect import read_foreign\n"
        "from zen_mlx.errors import FormatError\n"
        "import numpy, safetensors\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_foreign(path)\n        sys.exit(3)\n"
        "    except FormatError:\n        pass\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *(str(tmp_path / name) for name in "abc")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 32 << 20
