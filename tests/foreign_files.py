"""Writers of the delta files of other programs, from the documented layouts alone: no torch, no peft, none of zen_mlx."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

STORAGES = {"<f4": "Float", "<f2": "Half", "<i4": "Int", "<i8": "Long", "<f8": "Double", "bf16": "BFloat16"}


def bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> the upper halves, which is exact for values that bfloat16 holds."""
    return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2")


def as_bf16(values: np.ndarray) -> np.ndarray:
    """float32 rounded (down) to bfloat16's grid."""
    return (bf16(values).astype("<u4") << 16).view("<f4")


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 1 << 31 else b"\x8a\x08" + struct.pack("<q", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor_pickle(
    key: str, kind: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0,
    parameter: bool = False,
) -> bytes:  # fmt: skip
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())"""
    storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu") + number(count)
    hooks = b"ccollections\nOrderedDict\n)R"
    out = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + number(offset) + numbers(shape)
    out += numbers(strides) + b"\x89" + hooks + b"tR"
    if parameter:
        out = b"ctorch._utils\n_rebuild_parameter\n(" + out + b"\x88" + hooks + b"tR"
    return out


def dictionary(items: Mapping[str, bytes]) -> bytes:
    """The pickle of an OrderedDict with `_metadata`, as a state dict has it."""
    out = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01("
    out += b"".join(text(name) + value for name, value in items.items())
    return out + b"u}(" + text("_metadata") + b"ccollections\nOrderedDict\n)Rub."


def archive(path: Path, pickle: bytes, storages: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("diff/data.pkl", pickle)
        file.writestr("diff/byteorder", "little")
        for key, data in storages.items():
            file.writestr(f"diff/data/{key}", data)
        file.writestr("diff/version", "3\n")
    return path


def torch_save(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]], parameters: tuple[str, ...] = ()) -> Path:
    """name -> (storage type, array); bf16 arrays are their u2 halves."""
    items, storages = {}, {}
    for index, (name, (kind, array)) in enumerate(tensors.items()):
        strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
        items[name] = tensor_pickle(
            str(index), STORAGES[kind], array.size, array.shape, strides, parameter=name in parameters
        )
        storages[str(index)] = np.ascontiguousarray(array).tobytes()
    return archive(path, dictionary(items), storages)


def mask_of(positive: np.ndarray) -> np.ndarray:
    """bool [out, in] -> int32 [in/32, out]: bit i of word w is input 32 w + i."""
    outputs, inputs = positive.shape
    words = np.zeros((inputs // 32, outputs), np.uint32)
    for w in range(inputs // 32):
        for i in range(32):
            words[w] |= positive[:, 32 * w + i].astype(np.uint32) << np.uint32(i)
    return words.view(np.int32)


def flat_bits(positive: np.ndarray) -> bytes:
    out = bytearray(-(-positive.size // 8))
    for index, one in enumerate(positive.reshape(-1)):
        out[index // 8] |= int(one) << (index % 8)
    return bytes(out)


def chunk(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def reference_blob(delta: np.ndarray, scales: list[float] | float) -> bytes:
    out = struct.pack(f"<{delta.ndim + 2}I", delta.ndim, *delta.shape, delta.size) + flat_bits(delta > 0)
    if isinstance(scales, list):
        return out + struct.pack(f"<I{len(scales)}f", len(scales), *scales)
    return out + struct.pack("<f", scales)


def reference(blobs: Mapping[str, bytes], header: bytes | None = None) -> bytes:
    """The whitepaper's reference code."""
    head = json.dumps({"model_name": "friend", "compression_ratio": 31.5}).encode() if header is None else header
    body = b"".join(chunk(name.encode()) + chunk(blob) for name, blob in blobs.items())
    return b"BITDELTA" + struct.pack("<I", 1) + chunk(head) + body


def rust_tensor(name: str, delta: np.ndarray, scale: float, words: int | None = None) -> bytes:
    bits = flat_bits(delta >= 0)
    bits = bits.ljust(-(-len(bits) // 4) * 4, b"\0")
    head = chunk(name.encode()) + struct.pack(f"<I{delta.ndim}Q", delta.ndim, *delta.shape)
    return head + struct.pack("<fI", scale, len(bits) // 4 if words is None else words) + bits


def rust(*tensors: bytes, count: int | None = None) -> bytes:
    """The Rust variant."""
    return b"BITDELTA" + struct.pack("<II", 1, len(tensors) if count is None else count) + b"".join(tensors)


def safetensors(tensors: Mapping[str, tuple[str, np.ndarray]]) -> bytes:
    """name -> (dtype, array), bf16 as halves."""
    header, body, at = {}, io.BytesIO(), 0
    for name, (dtype, array) in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        body.write(data)
        at += len(data)
    raw = json.dumps(header).encode()
    raw = raw.ljust(-(-len(raw) // 8) * 8)
    return struct.pack("<Q", len(raw)) + raw + body.getvalue()


def adapter(folder: Path, file: str, tensors: Mapping[str, tuple[str, np.ndarray]], config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(safetensors(tensors))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def mlx_config(rank: int = 4, scale: float = 20.0, **changes: object) -> dict[str, object]:
    table = {"rank": rank, "scale": scale, "dropout": 0.0}
    return {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": table, "model": "tiny"} | changes


def peft_config(rank: int = 4, alpha: float = 8, **changes: object) -> dict[str, object]:
    return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "base_model_name_or_path": "tiny"} | changes
