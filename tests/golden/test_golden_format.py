"""The committed `.bitdelta` files: today's writer makes the same bytes, today's reader finds the same values.

`python tests/golden/test_golden_format.py` writes them anew; do that only when the format itself changes.
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from zen_mlx.codec.factor import FactorGroup, FactorPart, FactorSide
from zen_mlx.codec.pack import words
from zen_mlx.codec.parts import DensePart, Part, RowsPart, SignPart, decode_all
from zen_mlx.codec.scales import SCALES, scale_shapes
from zen_mlx.format.layout import arrays_of, layout_of
from zen_mlx.format.read import read, read_header
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.format.write import write

HERE = Path(__file__).parent


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Values k / 256 that every dtype holds exactly; no random generator, whose stream might change."""
    count = int(np.prod(shape, dtype=np.int64))
    return (((np.arange(count, dtype=np.int64) * 7919 + seed * 104729) % 251 + 1) / 256).reshape(shape)


def packed(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """`count` bits for each index of `shape`."""
    bits = (numbers((*shape, words(count)), seed) * 2**32).astype(np.uint32)
    if count % 32:
        bits[..., -1] &= np.uint32((1 << count % 32) - 1)
    return bits


def factor(
    shape: tuple[int, ...], groups: list[tuple[int, int]], seed: int, vectors: str = "", dtype: type = np.float16
) -> FactorPart:
    *lead, n, k = shape
    u = numbers((*lead, n), seed).astype(dtype) if "u" in vectors else None
    v = numbers((*lead, k), seed + 1).astype(dtype) if "v" in vectors else None
    made = []
    for bits, rank in groups:
        sides = []
        for length in (n, k):
            seed += 2
            if bits >= 16:
                values = numbers((*lead, rank, length), seed) - 0.5
                sides.append(FactorSide(None, values.astype(np.float16 if bits == 16 else np.float32)))
            else:
                steps = None if bits == 1 else numbers((*lead, rank), seed).astype(np.float16)
                sides.append(FactorSide(steps, packed((*lead, rank), length * bits, seed + 1)))
        scales = numbers((*lead, rank), seed + 3).astype(dtype) if bits in (1, 16, 32) else None
        made.append(FactorGroup(bits, scales, *sides))
    return FactorPart(u, v, tuple(made))


def sign(shape: tuple[int, ...], scale: str, seed: int, dtype: type = np.float16, block: int | None = None) -> SignPart:
    bits = packed(shape[:-1], shape[-1], seed)
    shapes = scale_shapes(scale, shape, block)
    return SignPart(scale, block, bits, tuple(numbers(dims, seed + i).astype(dtype) for i, dims in enumerate(shapes)))


def profile(tensors: dict[str, tuple[tuple[int, ...], list[Part]]], **more: dict) -> Profile:
    return Profile(
        info={
            "name": "golden",
            "created": "2026-01-02T03:04:05Z",
            "tool": "0.1.0",
            "method": "sign",
            "license": "none",
        },
        base={"model": "tiny", "weights": "ab" * 32, "verified": True},
        metrics={"loss": {"base": 4.5, "profile": 3.75}, "data": "cd" * 32, "seed": 7},
        target_count=12345,
        model_count=67890,
        tensors={name: DeltaTensor(shape, tuple(parts)) for name, (shape, parts) in tensors.items()},
        **more,
    )


def everything() -> Profile:
    """Every kind of scale, f16 and f32, planes, experts, dense, widths on and off a word's edge."""
    tensors: dict[str, tuple[tuple[int, ...], list[Part]]] = {}
    seed = 0
    for scale in SCALES:
        for block in (32, 64, 128, 256) if scale == "block" else (None,):
            for shape in ((3, 70), (2, 3, 33), (2, 64)):
                for dtype in (np.float16, np.float32):
                    seed += 1
                    name = f"model.layers.{seed}.{scale}{'x'.join(map(str, shape))}.weight"
                    tensors[name] = shape, [sign(shape, scale, seed, dtype, block)]
    planes: list[Part] = [
        sign((3, 45), "rowcol", 90),
        sign((3, 45), "row", 91, np.float32),
        sign((3, 45), "block", 92, block=32),
    ]
    tensors["model.layers.3.planes.weight"] = (3, 45), [*planes, DensePart(numbers((3, 45), 93).astype(np.float16))]
    tensors["model.norm.weight"] = (9,), [DensePart(-numbers((9,), 94).astype(np.float32))]
    tensors["model.norm.bias"] = (5,), [DensePart(numbers((5,), 95).astype(np.float16))]
    tensors["Überschrift.7.weight"] = (1, 1), [sign((1, 1), "tensor", 96)]
    return profile(tensors)


def factors_and_rows() -> Profile:
    """Every number of bits, with and without u, v and experts; residual planes; rows alone and beside other parts."""
    tensors: dict[str, tuple[tuple[int, ...], list[Part]]] = {}
    every = [(32, 1), (16, 2), (8, 1), (4, 3), (2, 2), (1, 2)]
    choices = [[pair] for pair in every] + [every]
    seed = 0
    for groups in choices:
        for shape in ((13, 70), (2, 11, 33), (64, 16)):
            for vectors in ("", "u", "v", "uv"):
                seed += 10
                name = f"model.layers.{seed}.weight"
                dtype = (
                    np.float32 if (seed // 10) % 3 == 0 and (vectors or groups[0][0] not in (2, 4, 8)) else np.float16
                )
                tensors[name] = shape, [factor(shape, groups, seed, vectors, dtype)]
    both: list[Part] = [factor((13, 45), [(4, 3)], 1), sign((13, 45), "row", 2), factor((13, 45), [(1, 5)], 3, "u")]
    tensors["model.layers.0.both.weight"] = (13, 45), both
    some = RowsPart(np.array([0, 3, 4, 12], np.uint32), numbers((4, 45), 5).astype(np.float16) - np.float16(0.5))
    tensors["model.embed_tokens.weight"] = (13, 45), [some]
    one = RowsPart(np.array([6], np.uint32), -numbers((1, 5), 6).astype(np.float32))
    tensors["lm_head.weight"] = (7, 5), [sign((7, 5), "rowcol", 7), one]
    return profile(tensors)


def version_1() -> Profile:
    """What version 1 holds exactly."""
    tensors: dict[str, tuple[tuple[int, ...], list[Part]]] = {
        "a.0.tensor.weight": ((3, 45), [sign((3, 45), "tensor", 1, np.float32)]),
        "a.1.row.weight": ((5, 64), [sign((5, 64), "row", 2, np.float32)]),
        "a.2.block.weight": ((3, 300), [sign((3, 300), "block", 3, np.float32, 128)]),
        "a.3.experts.weight": ((3, 2, 9), [sign((3, 2, 9), "row", 4, np.float32)]),
        "norm.weight": ((11,), [DensePart(numbers((11,), 5).astype(np.float32))]),
    }
    return Profile(
        info={"name": "golden"},
        base={"verified": False},
        target_count=sum(int(np.prod(shape)) for shape, _ in tensors.values()),
        model_count=67890,
        tensors={name: DeltaTensor(shape, tuple(parts)) for name, (shape, parts) in tensors.items()},
    )


FILES = {
    "everything.v2.bitdelta": (everything, 2),
    "factors.v2.bitdelta": (factors_and_rows, 2),
    "exact.v1.bitdelta": (version_1, 1),
    "exact.v2.bitdelta": (version_1, 2),
}


@pytest.mark.parametrize("name", FILES)
def test_same_bytes(name: str, tmp_path: Path) -> None:
    make, version = FILES[name]
    assert write(make(), tmp_path / name, version) == []
    assert (tmp_path / name).read_bytes() == (HERE / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_same_values(name: str, tmp_path: Path) -> None:
    make, version = FILES[name]
    wanted, found = make(), read(HERE / name)
    assert list(found.tensors) == sorted(wanted.tensors, key=str.encode)
    for key, tensor in wanted.tensors.items():
        other = found.tensors[key]
        assert other.shape == tensor.shape
        assert [layout_of(part) for part in other.parts] == [layout_of(part) for part in tensor.parts]
        for left, right in zip(other.parts, tensor.parts, strict=True):
            for a, b in zip(arrays_of(left), arrays_of(right), strict=True):
                np.testing.assert_array_equal(a, b)
    assert (found.info, found.base, found.metrics) == (wanted.info, wanted.base, wanted.metrics)
    assert (found.version, found.model_count, found.target_count) == (version, 67890, wanted.target_count)
    write(found, tmp_path / name, version)
    assert (tmp_path / name).read_bytes() == (HERE / name).read_bytes()
    header = read_header(HERE / name)
    assert {key: info.shape for key, info in header.tensors.items()} == {k: t.shape for k, t in found.tensors.items()}
    assert header.file_bytes == (HERE / name).stat().st_size


def test_version_2_by_hand(tmp_path: Path) -> None:
    """A file put together from the text of docs/format.md, without the writer."""
    bits = np.array([[0b101], [0b010]], dtype="<u4")
    row, norm = np.array([0.5, 2.0], dtype="<f2"), np.array([1.5], dtype="<f4")
    payload = bits.tobytes() + row.tobytes() + bytes(64 - 12) + norm.tobytes()
    digest = hashlib.sha256(hashlib.sha256(payload).digest()).hexdigest()
    header = {
        "profile": {"name": "hand"},
        "base": {},
        "metrics": {},
        "target_count": 6,
        "model_count": 7,
        "payload_sha256": digest,
        "layouts": [[{"kind": "sign", "scale": "row", "dtype": "f16"}], [{"kind": "dense", "dtype": "f32"}]],
        "strings": ["", "l.0.", "norm", "w"],
        "tensors": [[1, 3, [2, 3], 0], [0, 2, [1], 1]],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    prefix = struct.pack("<8sIIQ32s8x", b"BITDELTA", 2, 0, len(text), hashlib.sha256(text).digest())
    path = tmp_path / "hand.bitdelta"
    path.write_bytes(prefix + text + payload)
    found = read(path)
    part = found.tensors["l.0.w"].parts[0]
    assert isinstance(part, SignPart)
    np.testing.assert_array_equal(part.bits, bits)
    np.testing.assert_array_equal(part.scales[0], row)
    assert isinstance(found.tensors["norm"].parts[0], DensePart)
    assert found.sha256 == hashlib.sha256(text).hexdigest()
    assert found.bits_per_weight == 8 * path.stat().st_size / 6
    assert found.ratio_fp32 == 2 * found.ratio_fp16 == 28 / path.stat().st_size
    write(found, tmp_path / "again.bitdelta")
    assert (tmp_path / "again.bitdelta").read_bytes() == path.read_bytes()


def test_factors_and_rows_by_hand(tmp_path: Path) -> None:
    """As above, for the kinds with more to them: one factor with u and two groups, and two rows of five."""
    u = np.array([1, 2], dtype="<f2")
    scale = np.array([0.5], dtype="<f2")
    left16, right16 = np.array([[1, -1]], dtype="<f2"), np.array([[2, 4, 8]], dtype="<f2")
    steps, left2 = np.array([2], dtype="<f2"), np.array([[0b11_00]], dtype="<u4")  # codes 0 and 3: -1.5 and 1.5 steps
    right_steps, right2 = np.array([1], dtype="<f2"), np.array([[0b01_10_11]], dtype="<u4")  # 1.5, 0.5, -0.5
    first = b""
    for array in (u, scale, left16, right16, steps, left2, right_steps, right2):
        first += bytes(-len(first) % 4) + array.tobytes()
    values = np.array([[1, 2, 3], [-1, -2, -3]], dtype="<f4")
    payload = first + bytes(-len(first) % 64) + np.array([1, 4], dtype="<u4").tobytes() + values.tobytes()
    header = {
        "profile": {"name": "hand"},
        "base": {},
        "metrics": {},
        "target_count": 6,
        "model_count": 7,
        "payload_sha256": hashlib.sha256(hashlib.sha256(payload).digest()).hexdigest(),
        "layouts": [
            [{"kind": "factor", "u": True, "v": False, "dtype": "f16", "groups": [[16, 1], [2, 1]]}],
            [{"kind": "rows", "dtype": "f32"}],
        ],
        "strings": ["", "a", "b"],
        "tensors": [[0, 1, [2, 3], 0], [0, 2, [5, 3], 1, 2]],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    path = tmp_path / "hand.bitdelta"
    prefix = struct.pack("<8sIIQ32s8x", b"BITDELTA", 2, 0, len(text), hashlib.sha256(text).digest())
    path.write_bytes(prefix + text + payload)
    found = read(path)
    inner = 0.5 * np.outer([1, -1], [2, 4, 8]) + np.outer([-3, 3], [1.5, 0.5, -0.5])
    wanted = np.diag([1, 2]) @ inner
    np.testing.assert_array_equal(decode_all(found.tensors["a"].parts, (2, 3)), wanted)
    np.testing.assert_array_equal(decode_all(found.tensors["b"].parts, (5, 3))[[1, 4]], values)
    assert not decode_all(found.tensors["b"].parts, (5, 3))[[0, 2, 3]].any()
    write(found, tmp_path / "again.bitdelta")
    assert (tmp_path / "again.bitdelta").read_bytes() == path.read_bytes()


if __name__ == "__main__":
    for file, (made, number) in FILES.items():
        write(made(), HERE / file, number)
