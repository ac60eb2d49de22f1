"""Merging is the weighted sum, exactly or with the error it reports; diff measures what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zen_mlx.codec.factor import FactorPart
from zen_mlx.codec.factor_encode import encode_factor, encode_svd
from zen_mlx.codec.parts import DensePart, Part, RowsPart, SignPart, decode, decode_all, encode_rows, encode_sign
from zen_mlx.errors import BaseMismatchError, ConfigError
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.format.write import write
from zen_mlx.profiles.diff import diff
from zen_mlx.profiles.merge import merge_exact, requantize

SHAPES = {"a.weight": (8, 40), "experts.weight": (3, 4, 70), "norm.weight": (40,)}
INFO = {"name": "merged"}


def made(info: dict[str, Any], base: dict[str, Any], tensors: dict[str, DeltaTensor]) -> Profile:
    return Profile(info=info, base=base, metrics={}, target_count=1160, model_count=2000, tensors=tensors)


def profile(seed: int, scale: str = "rowcol", planes: int = 1, base: str = "ab" * 32) -> Profile:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        delta = rng.normal(size=shape).astype(np.float32) * 0.01
        parts: tuple[Part, ...] = (DensePart(delta.astype(np.float16)),)
        if len(shape) > 1:
            parts = tuple(encode_sign(delta, scale, 32 if scale == "block" else None, planes))
        tensors[name] = DeltaTensor(shape, parts)
    base_of = {"model": "tiny", "weights": base, "tokenizer": "cd" * 32, "verified": True}
    return made({"name": f"p{seed}"}, base_of, tensors)


def values(each: Profile) -> dict[str, np.ndarray]:
    return {name: decode_all(tensor.parts, tensor.shape) for name, tensor in each.tensors.items()}


@pytest.mark.parametrize("weights", [[0.7, 0.3], [1.0, -0.5], [-2.0, 1e-3], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.0, -0.5]])
def test_exact_merge_is_the_weighted_sum(weights: list[float]) -> None:
    profiles = [profile(0), profile(1, "block", 2), profile(2, "row")][: len(weights)]
    merged = merge_exact(profiles, weights, INFO)
    assert merged.info == INFO
    for name, found in values(merged).items():
        wanted = sum(np.float32(w) * values(p)[name] for w, p in zip(weights, profiles, strict=True))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)
    for tensor in merged.tensors.values():
        assert all(part.dtype == "f32" for part in tensor.parts)
        for part in tensor.parts:
            if isinstance(part, SignPart) and tensor.shape[-1] % 32:
                assert not (part.bits[..., -1] >> (tensor.shape[-1] % 32)).any(), "padding bits stay 0"


def test_merging_changes_nothing_in_what_is_merged() -> None:
    first = profile(0)
    before = values(first)
    merge_exact([first, first], [-1.0, 3.0], INFO)
    assert all(np.array_equal(before[name], found) for name, found in values(first).items())


def test_a_tensor_only_one_profile_has_is_kept() -> None:
    first, second = profile(0), profile(1)
    del first.tensors["norm.weight"], second.tensors["a.weight"]
    merged = values(merge_exact([first, second], [2.0, 4.0], INFO))
    assert set(merged) == set(SHAPES)
    np.testing.assert_allclose(merged["a.weight"], 2 * values(first)["a.weight"], rtol=1e-6)


@pytest.mark.parametrize(
    ("count", "weights", "field"),
    [
        (2, [1.0], "weights"),
        (0, [], "weights"),
        (2, [1.0, float("nan")], "weights"),
        (2, [float("-inf"), 1.0], "weights"),
        (2, [1.0, 1e300], "weights"),
        (2, [1.0, 1e41], "weights"),
    ],
)
def test_weights_that_cannot_be_used(count: int, weights: list[float], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge_exact([profile(i) for i in range(count)], weights, INFO)
    assert caught.value.field == field


def test_too_many_parts_and_other_bases() -> None:
    many = [profile(i, planes=4) for i in range(5)]
    with pytest.raises(ConfigError, match="too many parts") as caught:
        merge_exact(many, [0.2] * 5, INFO)
    assert "requantize" in str(caught.value.hint)
    assert len(merge_exact(many[:4], [0.25] * 4, INFO).tensors["a.weight"].parts) == 16
    with pytest.raises(BaseMismatchError) as mismatch:
        merge_exact([profile(0), profile(1, base="ee" * 32)], [0.5, 0.5], INFO)
    assert mismatch.value.field == "weights"
    other = profile(1)
    other.tensors["a.weight"] = DeltaTensor((8, 64), tuple(encode_sign(np.ones((8, 64), np.float32))))
    with pytest.raises(BaseMismatchError) as mismatch:
        merge_exact([profile(0), other], [0.5, 0.5], INFO)
    assert mismatch.value.field == "a.weight"


@pytest.mark.parametrize("planes", [1, 3])
def test_requantize_reports_its_error(planes: int) -> None:
    merged = merge_exact([profile(0), profile(1)], [0.6, -0.4], INFO)
    small, error = requantize(merged, planes=planes)
    assert len(small.tensors["a.weight"].parts) == len(small.tensors["experts.weight"].parts) == planes
    assert isinstance(small.tensors["norm.weight"].parts[0], DensePart)
    a, b = values(merged), values(small)
    lost = sum(float(np.square(a[name] - b[name], dtype=np.float64).sum()) for name in a)
    energy = sum(float(np.square(a[name], dtype=np.float64).sum()) for name in a)
    assert error == pytest.approx(np.sqrt(lost / energy), rel=1e-5)
    assert error < (0.7 if planes == 1 else 0.4)


def test_diff_equals_numpy() -> None:
    first, second = profile(0), profile(1)
    del second.tensors["norm.weight"]
    found = diff(first, second)
    x = np.concatenate([values(first)[name].ravel() for name in second.tensors]).astype(np.float64)
    y = np.concatenate([values(second)[name].ravel() for name in second.tensors]).astype(np.float64)
    total: dict[str, Any] = found["total"]
    assert total["cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-5)
    assert total["relative_norm"] == pytest.approx(np.linalg.norm(y) / np.linalg.norm(x), rel=1e-5)
    assert total["sign_agreement"] == pytest.approx(((x >= 0) == (y >= 0)).mean())
    assert [row["name"] for row in found["tensors"]] == ["a.weight", "experts.weight"]
    assert (found["only_a"], found["only_b"], found["same_base"]) == (["norm.weight"], [], True)
    same = diff(first, first)["total"]
    assert same == pytest.approx({"cosine": 1.0, "relative_norm": 1.0, "sign_agreement": 1.0})
    flipped = diff(first, merge_exact([first], [-2.0], INFO))["total"]
    assert flipped["cosine"] == pytest.approx(-1.0)
    assert flipped["relative_norm"] == pytest.approx(2.0)


def test_diff_of_nothing_and_of_other_shapes() -> None:
    empty = made({}, {"weights": "x"}, {})
    found = diff(empty, profile(0))
    assert found["total"] == {"cosine": None, "relative_norm": None, "sign_agreement": None}
    assert found["same_base"] is False
    other = profile(0)
    other.tensors["a.weight"] = DeltaTensor((8, 64), tuple(encode_sign(np.ones((8, 64), np.float32))))
    assert diff(profile(0), other)["tensors"][0]["cosine"] is None


EVERY = [[32, 1], [16, 1], [8, 1], [4, 1], [2, 1], [1, 1]]


def of(tensors: dict[str, tuple[tuple[int, ...], list[Part]]]) -> Profile:
    base = {"weights": "ab" * 32, "tokenizer": "cd" * 32}
    return made({}, base, {name: DeltaTensor(shape, tuple(parts)) for name, (shape, parts) in tensors.items()})


@pytest.mark.parametrize("weight", [0.3, -0.3, -1.0, 2.0, -1e-6])
@pytest.mark.parametrize("vectors", ["", "u", "v", "uv"])
@pytest.mark.parametrize("groups", [EVERY, [[4, 3]], [[16, 2]], [[1, 6]]], ids=str)
@pytest.mark.parametrize("shape", [(10, 45), (45, 10), (3, 7, 33)])
def test_merging_factors_is_exact(
    weight: float, vectors: str, groups: list[list[int]], shape: tuple[int, ...], tmp_path: Path
) -> None:
    rng, rank = np.random.default_rng(5), sum(pair[1] for pair in groups)
    u = rng.random(shape[:-1]) if "u" in vectors else None
    v = rng.random((*shape[:-2], shape[-1])) if "v" in vectors else None
    left, right = rng.normal(size=(*shape[:-1], rank)), rng.normal(size=(*shape[:-2], shape[-1], rank))
    part = encode_factor(left, right, groups, u, v)
    (plane,) = encode_sign(rng.normal(size=shape).astype(np.float32), "row")
    merged = merge_exact([of({"w": (shape, [part])}), of({"w": (shape, [part, plane])})], [weight, 0.5], INFO)
    parts = merged.tensors["w"].parts
    assert [type(each) for each in parts] == [FactorPart, FactorPart, SignPart]
    assert all(each.dtype == "f32" for each in parts)
    wanted = (np.float32(weight) + 0.5) * decode(part, shape) + 0.5 * decode(plane, shape)
    np.testing.assert_allclose(decode_all(parts, shape), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        decode(parts[0], shape), weight * decode(part, shape), rtol=1e-5, atol=1e-6 * abs(weight)
    )
    # What came out is a valid profile, and the codes of U alone were turned.
    write(merged, tmp_path / "merged.bitdelta")
    for before, after in zip(part.groups, parts[0].groups, strict=True):
        np.testing.assert_array_equal(before.right.data, after.right.data)


def test_merging_rows_sums_equal_rows(tmp_path: Path) -> None:
    a, b = np.zeros((2, 9, 5), np.float32)
    a[[1, 4, 8]], b[[0, 4]] = 1.5, -2.25
    (plane,) = encode_sign(np.ones((9, 5), np.float32), "row")
    profiles = [of({"w": ((9, 5), [plane, encode_rows(a)])}), of({"w": ((9, 5), [encode_rows(b), plane])})]
    merged = merge_exact(profiles, [0.5, -2.0], INFO)
    first, rows, second = merged.tensors["w"].parts
    assert isinstance(rows, RowsPart)
    assert isinstance(first, SignPart)
    assert isinstance(second, SignPart)
    assert (rows.rows.tolist(), rows.rows.dtype, rows.dtype) == ([0, 1, 4, 8], np.uint32, "f32")
    np.testing.assert_array_equal(decode(rows, (9, 5)), 0.5 * a - 2 * b)
    write(merged, tmp_path / "merged.bitdelta")
    with pytest.raises(ConfigError) as caught:
        merge_exact([of({"w": ((9, 5), [RowsPart(rows.rows, np.full((4, 5), 3e38, np.float32))])})] * 2, [1, 1], INFO)
    assert caught.value.field == "weights"


def test_requantizing_factors_and_rows() -> None:
    delta = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)
    some = delta.copy()
    some[::2] = 0
    small, error = requantize(
        of({"f": ((20, 40), [encode_svd(delta, [[4, 8]])]), "r": ((20, 40), [encode_rows(some)])})
    )
    assert isinstance(small.tensors["f"].parts[0], SignPart)
    assert isinstance(small.tensors["r"].parts[0], RowsPart)
    assert 0 < error < 0.7


def test_diff_of_factors_and_rows() -> None:
    delta = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)
    pairs = {"f": ((20, 40), [encode_svd(delta, [[8, 20]])]), "r": ((20, 40), [encode_rows(delta)])}
    total = diff(of(pairs), of({name: (shape, [DensePart(delta)]) for name, (shape, _) in pairs.items()}))["total"]
    assert total["cosine"] == pytest.approx(1, abs=1e-3)
