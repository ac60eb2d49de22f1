"""What is written is what is read, for any shape, scale, block and number of planes, and any factors and rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zen_mlx.codec.factor_encode import encode_factor
from zen_mlx.codec.pack import pack_signs, unpack_signs
from zen_mlx.codec.parts import DensePart, Part, SignPart, decode_all, encode_rows, encode_sign
from zen_mlx.format.layout import arrays_of, layout_of
from zen_mlx.format.read import read, read_header
from zen_mlx.format.spec import DeltaTensor, Profile, split_name
from zen_mlx.format.write import write

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    delta = (np.random.default_rng(seed).normal(size=shape) * 1e-3).astype(np.float32)
    delta[np.random.default_rng(seed + 1).random(shape) < 0.1] = 0
    return delta


@st.composite
def tensors(draw: st.DrawFn) -> DeltaTensor:
    size = st.integers(1, 70)
    shape = tuple(draw(st.lists(size, min_size=2, max_size=2)))
    if draw(st.booleans()):
        shape = (draw(st.integers(1, 3)), *shape)
    if draw(st.integers(0, 4)) == 0:
        shape = shape[-1:]
    dtype = draw(st.sampled_from(["f16", "f32"]))
    delta = normal(shape, draw(st.integers(0, 2**30)))
    if len(shape) == 1:
        delta[0] = 1
        return DeltaTensor(shape, (DensePart(delta.astype(np.float16 if dtype == "f16" else np.float32)),))
    delta[..., 0, 0] = 1e-3
    scale = draw(st.sampled_from(["tensor", "row", "col", "rowcol", "block"]))
    block = draw(st.sampled_from([32, 64, 128, 256])) if scale == "block" else None
    return DeltaTensor(shape, tuple(encode_sign(delta, scale, block, draw(st.integers(1, 4)), dtype)))


@st.composite
def factors(draw: st.DrawFn, shape: tuple[int, ...]) -> Part:
    limit = min(shape[-2:])
    bits = draw(st.lists(st.sampled_from([1, 2, 4, 8, 16, 32]), min_size=1, max_size=min(6, limit), unique=True))
    groups = [[each, draw(st.integers(1, limit // len(bits)))] for each in sorted(bits, reverse=True)]
    rank, seed = sum(pair[1] for pair in groups), draw(st.integers(0, 2**30))
    left, right = normal((*shape[:-1], rank), seed), normal((*shape[:-2], shape[-1], rank), seed + 2)
    left[..., 0, :] = right[..., 0, :] = 1e-3
    u = np.abs(normal(shape[:-1], seed + 4)) + 1e-3 if draw(st.booleans()) else None
    v = np.abs(normal((*shape[:-2], shape[-1]), seed + 6)) + 1e-3 if draw(st.booleans()) else None
    return encode_factor(left, right, groups, u, v, draw(st.sampled_from(["f16", "f32"])))


@st.composite
def mixed(draw: st.DrawFn) -> DeltaTensor:
    """Factors, rows, and planes beside them, in any order."""
    size = st.integers(1, 40)
    shape: tuple[int, ...] = (draw(size), draw(size))
    kinds = ["factor", "factor", "sign", "rows"]
    if draw(st.booleans()):
        shape, kinds = (draw(st.integers(1, 3)), *shape), kinds[:3]
    delta = normal(shape, draw(st.integers(0, 2**30)))
    delta[..., 0, 0] = 1e-3
    parts: list[Part] = []
    for kind in draw(st.permutations(kinds).flatmap(lambda given: st.integers(1, 4).map(lambda n: given[:n]))):
        if kind == "factor":
            parts.append(draw(factors(shape)))
        elif kind == "rows":
            delta[1:] *= np.random.default_rng(0).random((shape[0] - 1, 1)) < 0.3
            parts.append(encode_rows(delta, draw(st.sampled_from(["f16", "f32"]))))
        else:
            parts += encode_sign(delta, "row")
    return DeltaTensor(shape, tuple(parts))


part = st.sampled_from(["model", "layers", "0", "17", "mlp", "q_proj", "ж", "weight", "experts", "𝄞"])
names = st.lists(part, min_size=1, max_size=5).map(".".join)
profiles = st.dictionaries(names, tensors() | mixed(), max_size=4).map(
    lambda found: Profile(
        info={"name": "p", "created": "2026-01-02T03:04:05Z"}, target_count=7, model_count=9, tensors=found
    )
)


def same(a: DeltaTensor, b: DeltaTensor) -> None:
    assert a.shape == b.shape
    assert [layout_of(part) for part in a.parts] == [layout_of(part) for part in b.parts]
    for left, right in zip(a.parts, b.parts, strict=True):
        assert left.nbytes == right.nbytes
        for x, y in zip(arrays_of(left), arrays_of(right), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(decode_all(a.parts, a.shape), decode_all(b.parts, b.shape))


@QUICK
@given(profile=profiles)
def test_version_2(profile: Profile, tmp_path: Path) -> None:
    path, again = tmp_path / "a.bitdelta", tmp_path / "b.bitdelta"
    assert write(profile, path) == []
    found = read(path)
    assert list(found.tensors) == sorted(profile.tensors, key=str.encode)
    for name, tensor in found.tensors.items():
        same(tensor, profile.tensors[name])
    header = read_header(path)
    assert {name: info.shape for name, info in header.tensors.items()} == {n: t.shape for n, t in found.tensors.items()}
    assert header.sha256 == found.sha256
    write(found, again)
    assert path.read_bytes() == again.read_bytes()


@QUICK
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 300)),
    experts=st.sampled_from([None, 1, 3]),
    scale=st.sampled_from(["tensor", "row", "block"]),
    seed=st.integers(0, 2**30),
)
def test_version_1_is_exact(shape: tuple[int, int], experts: int | None, scale: str, seed: int, tmp_path: Path) -> None:
    full = shape if experts is None else (experts, *shape)
    delta = normal(full, seed)
    delta[..., 0, 0] = 1
    parts = encode_sign(delta, scale, 128 if scale == "block" else None)
    vector = DensePart(normal((shape[1],), seed + 2))
    vector.values[0] = -2
    profile = Profile(
        info={"name": "p"},
        target_count=delta.size,
        model_count=10 * delta.size,
        tensors={"a.0.weight": DeltaTensor(full, tuple(parts)), "n.weight": DeltaTensor(shape[1:], (vector,))},
    )
    path, again = tmp_path / "a.bitdelta", tmp_path / "b.bitdelta"
    assert write(profile, path, version=1) == []
    found = read(path)
    for name, tensor in profile.tensors.items():
        assert found.tensors[name].shape == tensor.shape
        np.testing.assert_array_equal(
            decode_all(found.tensors[name].parts, tensor.shape), decode_all(tensor.parts, tensor.shape)
        )
    first = found.tensors["a.0.weight"].parts[0]
    assert isinstance(first, SignPart)
    np.testing.assert_array_equal(first.bits, parts[0].bits)
    assert found.base == {"verified": False}
    assert found.model_count == pytest.approx(profile.model_count, rel=1e-6)
    # Through version 2 and back to version 1 nothing changes either.
    write(found, again)
    write(read(again), again, version=1)
    assert path.read_bytes()[60:] == again.read_bytes()[60:]


@QUICK
@given(shape=st.lists(st.integers(1, 70), min_size=1, max_size=3), seed=st.integers(0, 2**30))
def test_pack(shape: list[int], seed: int) -> None:
    delta = normal(tuple(shape), seed)
    signs = unpack_signs(pack_signs(delta), shape[-1])
    np.testing.assert_array_equal(signs, np.where(delta >= 0, 1, -1))


@given(names)
def test_names_split_once(name: str) -> None:
    head, tail = split_name(name)
    assert head + tail == name
    assert head == "" or head.endswith(".")
    assert split_name(name) == (head, tail)
