"""Encoding tuned - base: what is stored, what is measured, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from zen_mlx.codec.arrays import CHUNK_ELEMENTS, over_rows
from zen_mlx.codec.difference import BF16
from zen_mlx.codec.parts import DensePart, RowsPart, SignPart, decode_all
from zen_mlx.encode.closed_form import encode
from zen_mlx.errors import ModelFormatError, TargetError
from zen_mlx.format.layout import arrays_of

SHAPES = {
    "layers.0.q_proj.weight": (24, 64),
    "layers.0.experts.up_proj.weight": (3, 16, 40),
    "layers.0.q_proj.bias": (24,),
    "norm.weight": (64,),
    "layers.1.q_proj.weight": (24, 64),
}
TARGETS = {name for name in SHAPES if name.endswith("proj.weight")}
SAME = "layers.1.q_proj.weight"


def checkpoints(size: float = 0.01) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    tuned = {
        name: a if name == SAME else a + (rng.standard_normal(a.shape) * size).astype(np.float32)
        for name, a in base.items()
    }
    return base, tuned


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize(
    ("scale", "block"), [("tensor", None), ("row", None), ("col", None), ("rowcol", None), ("block", 32)]
)
def test_stats_equal_float64(scale: str, block: int | None, planes: int, dtype: str) -> None:
    base, tuned = checkpoints()
    tensors, stats = encode(
        SHAPES,
        base.__getitem__,
        tuned.__getitem__,
        targets=TARGETS,
        scale=scale,
        block=block,
        planes=planes,
        dtype=dtype,
    )
    assert list(tensors) == [s.name for s in stats] == [name for name in SHAPES if name != SAME]
    for s in stats:
        delta = (tuned[s.name] - base[s.name]).astype(np.float64)
        tensor = tensors[s.name]
        kept = decode_all(tensor.parts, tensor.shape).astype(np.float64)
        lost = ((kept - delta) ** 2).sum() / (delta**2).sum()
        assert s.shape == tensor.shape == SHAPES[s.name]
        assert s.delta_rms == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-5)
        assert s.relative_error == pytest.approx(np.sqrt(lost), rel=1e-3, abs=1e-6)
        assert s.energy_kept == pytest.approx(1 - lost, abs=1e-5)
        cosine = (kept * delta).sum() / np.sqrt((kept**2).sum() * (delta**2).sum())
        assert s.cosine == pytest.approx(cosine, rel=1e-5)
        assert s.nbytes == tensor.nbytes
        if s.name in TARGETS:
            assert len(tensor.parts) == planes
            assert all(isinstance(part, SignPart) and part.scale == scale for part in tensor.parts)
            assert s.energy_kept > (0.6, 0.8, 0.9)[planes - 1]
        else:
            assert isinstance(tensor.parts[0], DensePart)
            assert tensor.parts[0].dtype == dtype


def test_an_unchanged_checkpoint_stores_nothing() -> None:
    base, _ = checkpoints()
    assert encode(SHAPES, base.__getitem__, base.__getitem__, targets=TARGETS) == ({}, [])


def test_tensors_are_read_one_at_a_time_in_order() -> None:
    base, tuned = checkpoints()
    calls: list[str] = []

    def reader(label: str, tensors: dict[str, np.ndarray]) -> Callable[[str], np.ndarray]:
        def read(name: str) -> np.ndarray:
            calls.append(f"{label} {name}")
            return tensors[name]

        return read

    seen = []
    encode(
        iter(SHAPES), reader("base", base), reader("tuned", tuned), targets=TARGETS,
        progress=lambda name, done, total: seen.append((done, total, name)),
    )  # fmt: skip
    assert calls == [f"{label} {name}" for name in SHAPES for label in ("base", "tuned")]
    assert seen == [(i, len(SHAPES), name) for i, name in enumerate(SHAPES, 1)]


def test_inputs_are_not_written() -> None:
    base, tuned = checkpoints()
    for array in (*base.values(), *tuned.values()):
        array.setflags(write=False)
    encode(SHAPES, base.__getitem__, tuned.__getitem__, targets=TARGETS, planes=2)


def test_half_precision_checkpoints() -> None:
    base, tuned = checkpoints()
    base = {name: a.astype(np.float16) for name, a in base.items()}
    tensors, _ = encode(["norm.weight"], base.__getitem__, tuned.__getitem__, targets=TARGETS, dtype="f32")
    want = tuned["norm.weight"] - base["norm.weight"].astype(np.float32)
    np.testing.assert_array_equal(tensors["norm.weight"].parts[0].values, want)


def test_a_dense_delta_too_large_for_f16_stays_f32() -> None:
    tensors, stats = encode(
        ["a"], lambda _: np.zeros(4, np.float32), lambda _: np.array([1e5, 0, -1, 2], np.float32), targets=()
    )
    assert tensors["a"].parts[0].dtype == "f32"
    assert stats[0].relative_error == 0


def test_a_delta_lost_in_f16_stays_f32() -> None:
    """Every value under half of f16's smallest step would be stored as zero."""
    tensors, stats = encode(
        ["a"], lambda _: np.zeros(4, np.float32), lambda _: np.full(4, 1e-9, np.float32), targets=()
    )
    assert tensors["a"].parts[0].dtype == "f32"
    assert stats[0].energy_kept == 1


def test_other_shapes_are_refused() -> None:
    with pytest.raises(TargetError) as caught:
        encode(["a"], lambda _: np.zeros((3, 4), np.float32), lambda _: np.zeros((4, 4), np.float32), targets={"a"})
    assert (caught.value.field, caught.value.expected, caught.value.found) == ("a", (3, 4), (4, 4))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    tuned = np.zeros((2, 40), np.float32)
    tuned[1, 3] = value
    with pytest.raises(ModelFormatError, match="not finite") as caught:
        encode(["a"], lambda _: np.zeros((2, 40), np.float32), lambda _: tuned, targets={"a"})
    assert caught.value.field == "a"


@pytest.mark.parametrize(("changed", "kind"), [(1, RowsPart), (7, RowsPart), (8, DensePart), (16, DensePart)])
def test_a_matrix_outside_the_targets_is_kept_by_rows_where_few_changed(changed: int, kind: type) -> None:
    base = np.random.default_rng(0).integers(-9, 9, (16, 32)).astype(np.float32)
    tuned = base.copy()
    tuned[:changed] += np.float32(0.5)
    tensors, stats = encode(["embed"], lambda name: base, lambda name: tuned, targets=())
    (part,) = tensors["embed"].parts
    assert isinstance(part, kind)
    assert np.array_equal(decode_all(tensors["embed"].parts, (16, 32)), tuned - base)
    assert stats[0].nbytes == part.nbytes


def test_more_rows_are_taken_where_a_parameter_may_grow_only() -> None:
    base, tuned = np.ones((4, 8), np.float32), np.ones((6, 8), np.float32)
    tensors, _ = encode(["embed"], lambda name: base, lambda name: tuned, targets=(), growing={"embed"})
    assert tensors["embed"].shape == (6, 8)
    assert tensors["embed"].parts[0].rows.tolist() == [4, 5]
    for one, two, growing in ((base, tuned, ()), (tuned, base, {"embed"})):
        with pytest.raises(TargetError, match="shape differs"):
            encode(["embed"], lambda name, a=one: a, lambda name, a=two: a, targets=(), growing=growing)


def _bf16(values: np.ndarray) -> np.ndarray:
    """`values` cut to bfloat16, as readers hand them out."""
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(BF16)


def test_bf16_is_encoded_like_its_values_in_f32() -> None:
    rng = np.random.default_rng(3)
    shapes = {"a.0.matrix": (900, 700), "b.0.experts": (3, 40, 70), "c.norm": (9,)}
    pairs = {name: [rng.standard_normal(shape).astype(np.float32) for _ in range(2)] for name, shape in shapes.items()}
    stored = {name: [_bf16(each) for each in pair] for name, pair in pairs.items()}
    widened = {
        name: [(each["bf16"].astype(np.uint32) << 16).view(np.float32) for each in pair]
        for name, pair in stored.items()
    }
    for scale in ("row", "rowcol"):
        found = [
            encode(
                list(shapes),
                lambda n, of=of: of[n][0],
                lambda n, of=of: of[n][1],
                targets=["a.0.matrix", "b.0.experts"],
                scale=scale,
                planes=2,
            )
            for of in (stored, widened)
        ]
        assert found[0][1] == found[1][1]
        for name, tensor in found[0][0].items():
            for part, other in zip(tensor.parts, found[1][0][name].parts, strict=True):
                for array, same in zip(arrays_of(part), arrays_of(other), strict=True):
                    np.testing.assert_array_equal(array, same)


def test_chunks_come_back_in_order_from_all_threads() -> None:
    rows, columns = 40, CHUNK_ELEMENTS // 2
    assert over_rows(lambda some: (some.start, some.stop), rows, columns) == [(at, at + 2) for at in range(0, rows, 2)]
    with pytest.raises(ZeroDivisionError):
        over_rows(lambda some: 1 // (some.start - 20), rows, columns)
