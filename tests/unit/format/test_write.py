"""The writer: what it refuses, leaves out, and says it lost."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from zen_mlx.codec.factor import FactorGroup, FactorPart, FactorSide
from zen_mlx.codec.factor_encode import encode_factor, encode_svd
from zen_mlx.codec.parts import DensePart, Part, RowsPart, SignPart, decode, decode_all, encode_rows, encode_sign
from zen_mlx.errors import ConfigError
from zen_mlx.format.layout import arrays_of
from zen_mlx.format.read import read, read_header
from zen_mlx.format.spec import PIECE_BYTES, DeltaTensor, Profile
from zen_mlx.format.write import write


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * 1e-3).astype(np.float32)


def profile(**tensors: tuple[tuple[int, ...], list[Part]]) -> Profile:
    return Profile(
        info={"name": "p", "created": "2026-01-02T03:04:05Z"},
        base={"model": "m", "verified": True},
        metrics={"loss": 3.5},
        target_count=1000,
        model_count=2_000_000,
        tensors={name: DeltaTensor(shape, tuple(parts)) for name, (shape, parts) in tensors.items()},
    )


def test_facts_come_back(tmp_path: Path) -> None:
    made = profile(w=((4, 40), encode_sign(normal(4, 40))))
    made.base |= {"quantization": {"bits": 4, "group_size": 64}, "derived_from": None}
    made.metrics |= {"per_turn": [1.5, None, 2], "data": "0123456789abcdef" * 4}
    path = tmp_path / "sub" / "x.bitdelta"
    write(made, path)
    for found in (read(path), read_header(path)):
        assert (found.info, found.base, found.metrics) == (made.info, made.base, made.metrics)
        assert (found.version, found.path, found.file_bytes) == (2, path, path.stat().st_size)
        data = path.read_bytes()
        assert found.sha256 == data[24:56].hex()
        assert found.bits_per_weight == 8 * len(data) / 1000
        assert found.ratio_fp32 == 2 * found.ratio_fp16 == 8_000_000 / len(data)
    assert made.bits_per_weight is None
    assert made.ratio_fp16 is None


def test_a_profile_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.bitdelta"
    zero = encode_sign(np.zeros((3, 40), np.float32), planes=2)
    made = profile(a=((3, 40), zero), b=((5,), [DensePart(np.zeros(5, np.float32))]))
    write(made, path)
    assert read(path).tensors == {}
    with pytest.raises(ConfigError, match="at least one"):
        write(made, path, version=1)
    assert read(path).tensors == {}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.bitdelta"]


def test_order_of_insertion_does_not_matter(tmp_path: Path) -> None:
    tensors = {f"l.{i}.w": ((3, 40), encode_sign(normal(3, 40, seed=i), ["row", "col"][i % 2])) for i in range(12)}
    write(profile(**tensors), tmp_path / "a")
    write(profile(**dict(reversed(tensors.items()))), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(read(tmp_path / "a").tensors) == sorted(tensors)


def test_strided_arrays_are_written_in_c_order(tmp_path: Path) -> None:
    (part,) = encode_sign(normal(6, 70), "row")
    strided = SignPart("row", None, np.asfortranarray(part.bits), (np.repeat(part.scales[0], 2)[::2],))
    write(profile(w=((6, 70), [part])), tmp_path / "a")
    write(profile(w=((6, 70), [strided])), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_payload_of_several_pieces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, tuple[tuple[int, ...], list[Part]]] = {}
    for index, shape in enumerate([(700, 20_001), (3, 5), (900, 40_000), (1, 33), (2000, 4096)]):
        bits = rng.integers(0, 2**32, (shape[0], -(-shape[1] // 32)), dtype=np.uint32)
        if shape[1] % 32:
            bits[:, -1] &= np.uint32((1 << shape[1] % 32) - 1)
        tensors[f"w{index}"] = shape, [SignPart("row", None, bits, (np.full(shape[0], 0.5, np.float16),))]
    path = tmp_path / "x.bitdelta"
    write(profile(**tensors), path)
    data = path.read_bytes()
    payload = data[64 + int.from_bytes(data[16:24], "little") :]
    assert len(payload) > PIECE_BYTES
    digests = [hashlib.sha256(payload[at : at + PIECE_BYTES]).digest() for at in range(0, len(payload), PIECE_BYTES)]
    assert hashlib.sha256(b"".join(digests)).hexdigest().encode() in data[:4096]
    for name, tensor in read(path).tensors.items():
        for a, b in zip(arrays_of(tensor.parts[0]), arrays_of(tensors[name][1][0]), strict=True):
            np.testing.assert_array_equal(a, b)


def test_dropping_a_tensor_frees_its_memory(tmp_path: Path) -> None:
    big = {name: ((512, 4096), encode_sign(normal(512, 4096), "row")) for name in "ab"}
    write(profile(**big), tmp_path / "x")
    tensors = read(tmp_path / "x").tensors
    owners = [{id(array.base) for array in arrays_of(tensor.parts[0])} for tensor in tensors.values()]
    assert all(len(owner) == 1 for owner in owners)
    assert owners[0] != owners[1]


def four_bits(
    rank: int = 2, steps: np.ndarray | None = None, data: np.ndarray | None = None, **more: np.ndarray | None
) -> FactorPart:
    """A factor of [3, 40] with one 4-bit group."""
    given = np.ones(rank, np.float16) if steps is None else steps
    left = FactorSide(given, np.zeros((rank, 1), np.uint32) if data is None else data)
    right = FactorSide(np.ones(rank, np.float16), np.zeros((rank, 5), np.uint32))
    return FactorPart(more.get("u"), more.get("v"), (FactorGroup(4, more.get("scales"), left, right),))


def sixteen_bits(values: np.ndarray, scales: np.ndarray | None) -> FactorPart:
    return FactorPart(
        None, None, (FactorGroup(16, scales, FactorSide(None, values), FactorSide(None, np.ones((1, 40), np.float16))),)
    )


ONE_GROUP = four_bits().groups[0]
ROW_VALUES = np.ones((2, 40), np.float16)
BITS, SCALE = np.zeros((3, 2), np.uint32), (np.ones(3, np.float16),)
GOOD = SignPart("row", None, BITS, SCALE)
REFUSED: dict[str, tuple[tuple[int, ...], list[Part]]] = {
    "no parts": ((3, 40), []),
    "17 parts": ((3, 40), [GOOD] * 17),
    "sign of a vector": ((40,), [SignPart("tensor", None, BITS[0], (np.float16(1),))]),
    "no dimensions": ((), [DensePart(np.ones((), np.float32))]),
    "a dimension of 0": ((0, 40), [SignPart("tensor", None, BITS[:0], (np.ones((), np.float16),))]),
    "nine dimensions": ((1,) * 9, [DensePart(np.ones((1,) * 9, np.float32))]),
    "another shape": ((4, 40), [GOOD]),
    "another width": ((3, 70), [GOOD]),
    "signed bits": ((3, 40), [SignPart("row", None, BITS.astype(np.int32), SCALE)]),
    "pad bits": ((3, 40), [SignPart("row", None, BITS + np.uint32(1 << 31), SCALE)]),
    "negative scale": ((3, 40), [SignPart("row", None, BITS, (np.array([1, -1, 1], np.float16),))]),
    "infinite scale": ((3, 40), [SignPart("row", None, BITS, (np.array([1, np.inf, 1], np.float16),))]),
    "scale NaN": ((3, 40), [SignPart("row", None, BITS, (np.array([1, np.nan, 1], np.float32),))]),
    "float64 scales": ((3, 40), [SignPart("row", None, BITS, (np.ones(3),))]),
    "two kinds of float": (
        (3, 40),
        [SignPart("rowcol", None, BITS, (np.ones(3, np.float16), np.ones(40, np.float32)))],
    ),
    "a scale array missing": ((3, 40), [SignPart("rowcol", None, BITS, SCALE)]),
    "unknown scale": ((3, 40), [SignPart("cell", None, BITS, SCALE)]),
    "block without a size": ((3, 40), [SignPart("block", None, BITS, (np.ones((3, 2), np.float16),))]),
    "row with a block": ((3, 40), [SignPart("row", 32, BITS, SCALE)]),
    "factor of a vector": ((40,), [four_bits()]),
    "factor without groups": ((3, 40), [FactorPart(None, None, ())]),
    "a group twice": ((3, 40), [FactorPart(None, None, (ONE_GROUP, ONE_GROUP))]),
    "ranks over the matrix's": ((3, 40), [four_bits(4)]),
    "no rank at all": ((3, 40), [four_bits(data=np.zeros(1, np.uint32))]),
    "codes of a wrong width": ((3, 40), [four_bits(data=np.zeros((2, 2), np.uint32))]),
    "a code's pad bit": ((3, 40), [four_bits(data=np.full((2, 1), 1 << 12, np.uint32))]),
    "float32 steps": ((3, 40), [four_bits(steps=np.ones(2, np.float32))]),
    "a negative step": ((3, 40), [four_bits(steps=-np.ones(2, np.float16))]),
    "l beside steps": ((3, 40), [four_bits(scales=np.ones(2, np.float16))]),
    "16 bits without l": ((3, 40), [sixteen_bits(np.ones((1, 3), np.float16), None)]),
    "16 bits of float32": ((3, 40), [sixteen_bits(np.ones((1, 3), np.float32), np.ones(1, np.float16))]),
    "an infinite factor": ((3, 40), [sixteen_bits(np.full((1, 3), np.inf, np.float16), np.ones(1, np.float16))]),
    "u of another length": ((3, 40), [four_bits(u=np.ones(4, np.float16))]),
    "u of another float than v": ((3, 40), [four_bits(u=np.ones(3, np.float16), v=np.ones(40, np.float32))]),
    "a negative u": ((3, 40), [four_bits(u=-np.ones(3, np.float16))]),
    "v is not finite": ((3, 40), [four_bits(v=np.full(40, np.nan, np.float16))]),
    "rows of a vector": ((40,), [RowsPart(np.array([0, 1], np.uint32), ROW_VALUES)]),
    "rows of experts": ((2, 3, 40), [RowsPart(np.array([0, 1], np.uint32), ROW_VALUES)]),
    "no rows": ((3, 40), [RowsPart(np.zeros(0, np.uint32), ROW_VALUES[:0])]),
    "more rows than there are": ((1, 40), [RowsPart(np.array([0, 1], np.uint32), ROW_VALUES)]),
    "a row number is past the last row": ((3, 40), [RowsPart(np.array([0, 3], np.uint32), ROW_VALUES)]),
    "a row twice": ((3, 40), [RowsPart(np.array([1, 1], np.uint32), ROW_VALUES)]),
    "signed row numbers": ((3, 40), [RowsPart(np.array([0, 1]), ROW_VALUES)]),
    "other values than rows": ((3, 40), [RowsPart(np.array([0], np.uint32), ROW_VALUES)]),
    "a row's infinity": ((3, 40), [RowsPart(np.array([0, 1], np.uint32), ROW_VALUES * np.float16(np.inf))]),
    "two parts of rows": ((3, 40), [RowsPart(np.array([0, 1], np.uint32), ROW_VALUES)] * 2),
    "dense infinity": ((3,), [DensePart(np.array([1, np.inf, 1], np.float16))]),
    "dense float64": ((3,), [DensePart(np.ones(3))]),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("case", REFUSED)
def test_a_tensor_that_breaks_a_rule(case: str, version: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write(profile(w=REFUSED[case]), tmp_path / "x", version)
    assert caught.value.path == str(tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("info", {}),
        ("info", {"name": "p", "created": "yesterday"}),
        ("info", {"name": "p", "more": {"a": [1]}}),
        ("info", {"name": "p", "path": Path()}),
        ("base", {"verified": 1}),
        ("metrics", {"sample": "a row's text"}),
        ("metrics", {"loss": float("nan")}),
        ("target_count", 0),
        ("model_count", 1.5),
    ],
)
def test_facts_that_break_a_rule(field: str, value: object, tmp_path: Path) -> None:
    made = profile(w=((3, 40), [GOOD]))
    setattr(made, field, value)
    with pytest.raises(ConfigError):
        write(made, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "\ud800", "x" * 1025])
def test_names_that_break_a_rule(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write(profile(**{name: ((3, 40), [GOOD])}), tmp_path / "x")


def test_unknown_version(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write(profile(w=((3, 40), [GOOD])), tmp_path / "x", version=3)


def test_version_1_of_rowcol(tmp_path: Path) -> None:
    (part,) = encode_sign(normal(6, 70), "rowcol")
    lost = write(profile(w=((6, 70), [part])), tmp_path / "x", version=1)
    assert len(lost) == 2
    assert lost[0].startswith("1 tensor: row-by-column")
    assert "`base`, `metrics`, `profile.created`" in lost[1]
    (found,) = read(tmp_path / "x").tensors["w"].parts
    assert isinstance(found, SignPart)
    np.testing.assert_array_equal(found.bits, part.bits)
    row, col = (array.astype(np.float32) for array in part.scales)
    np.testing.assert_allclose(found.scales[0], row * col.mean(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["col", "block64", "planes", "dense", "factor", "factor and plane"])
def test_version_1_of_richer_parts(kind: str, tmp_path: Path) -> None:
    delta = normal(2, 6, 70)
    parts: list[Part] = {
        "col": lambda: encode_sign(delta, "col"),
        "block64": lambda: encode_sign(delta, "block", 64),
        "planes": lambda: encode_sign(delta, "rowcol", planes=2),
        "dense": lambda: [DensePart(delta.astype(np.float16))],
        "factor": lambda: [encode_svd(delta, [[16, 2], [4, 2]], u=np.ones((2, 6)))],
        "factor and plane": lambda: [encode_svd(delta, [[1, 3]]), *encode_sign(delta, "row")],
    }[kind]()
    lost = write(profile(w=(delta.shape, parts)), tmp_path / "x", version=1)
    assert lost[0].startswith("1 tensor: richer parts")
    whole = decode_all(parts, delta.shape)
    found = read(tmp_path / "x").tensors
    assert list(found) == ["w.0", "w.1"]
    for index in range(2):
        wanted = np.where(whole[index] >= 0, 1, -1) * np.abs(whole[index]).mean(axis=1, keepdims=True)
        np.testing.assert_allclose(decode(found[f"w.{index}"].parts[0], (6, 70)), wanted, rtol=1e-5)


def test_version_1_of_rows(tmp_path: Path) -> None:
    """Rows that did not change keep the scale 0."""
    delta = normal(6, 70)
    delta[[0, 2, 5]] = 0
    lost = write(profile(w=((6, 70), [encode_rows(delta, "f32")])), tmp_path / "x", version=1)
    assert lost[0].startswith("1 tensor: richer parts")
    found = decode_all(read(tmp_path / "x").tensors["w"].parts, (6, 70))
    wanted = np.where(delta >= 0, 1, -1) * np.abs(delta).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_factors_and_rows_of_nothing_are_left_out(tmp_path: Path) -> None:
    zero = np.zeros((3, 40), np.float32)
    nothing = [encode_svd(zero, [[bits, 2]]) for bits in (1, 2, 8, 16, 32)]
    nothing.append(encode_svd(zero, [[32, 1], [4, 1], [1, 1]]))
    nothing.append(encode_factor(normal(3, 2), normal(40, 2), [[4, 2]], u=np.zeros(3)))
    tensors: dict[str, tuple[tuple[int, ...], list[Part]]] = {f"f{i}": ((3, 40), [p]) for i, p in enumerate(nothing)}
    tensors["rows"] = (3, 40), [RowsPart(np.array([1], np.uint32), np.zeros((1, 40), np.float16))]
    tensors["some"] = (3, 40), [encode_factor(normal(3, 2), normal(40, 2), [[16, 1], [4, 1]])]
    write(profile(**tensors), tmp_path / "x")
    assert list(read(tmp_path / "x").tensors) == ["some"]


def test_a_header_tells_the_number_of_rows(tmp_path: Path) -> None:
    delta = np.zeros((50, 8), np.float32)
    delta[[4, 40]] = 1
    write(profile(w=((50, 8), [encode_rows(delta)])), tmp_path / "x")
    header = read_header(tmp_path / "x")
    info = header.tensors["w"]
    assert (info.shape, info.rows, info.nbytes) == ((50, 8), 2, 2 * 4 + 2 * 8 * 2)


def test_version_1_experts_come_back_as_one(tmp_path: Path) -> None:
    delta = normal(3, 6, 70)
    parts = encode_sign(delta, "row", dtype="f32")
    write(profile(**{"m.experts.weight": (delta.shape, parts)}), tmp_path / "x", version=1)
    assert b"m.experts.weight.2" in (tmp_path / "x").read_bytes()
    found = read(tmp_path / "x").tensors["m.experts.weight"]
    assert found.shape == delta.shape
    np.testing.assert_array_equal(decode_all(found.parts, delta.shape), decode_all(parts, delta.shape))


def test_version_1_names_must_not_meet(tmp_path: Path) -> None:
    delta = normal(2, 3, 40)
    tensors = {"w": (delta.shape, encode_sign(delta)), "w.1": ((3, 40), encode_sign(delta[0]))}
    with pytest.raises(ConfigError, match="one name"):
        write(profile(**tensors), tmp_path / "x", version=1)


@pytest.mark.parametrize("shape", [(9, 1_200_003), (3, 2_000_000), (5000, 999), (40_000, 33)])
def test_version_1_bits_across_chunks(shape: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, (shape[0], -(-shape[1] // 32)), dtype=np.uint32)
    if shape[1] % 32:
        bits[:, -1] &= np.uint32((1 << shape[1] % 32) - 1)
    part = SignPart("row", None, bits, (rng.random(shape[0], dtype=np.float32),))
    write(profile(w=(shape, [part])), tmp_path / "x", version=1)
    (found,) = read(tmp_path / "x").tensors["w"].parts
    assert isinstance(found, SignPart)
    np.testing.assert_array_equal(found.bits, bits)


def test_version_1_vector_across_chunks(tmp_path: Path) -> None:
    values = normal((1 << 20) + 13)
    write(profile(w=(values.shape, [DensePart(values)])), tmp_path / "x", version=1)
    np.testing.assert_array_equal(decode_all(read(tmp_path / "x").tensors["w"].parts, values.shape), values)
