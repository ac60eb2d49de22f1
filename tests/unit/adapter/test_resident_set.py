"""Rows of one batch with profiles of their own: each equals the model with that profile attached, in every family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from tests.families import FAMILIES, build_model, config_of
from zen_mlx.adapter.attach import Resident, attach, detach
from zen_mlx.adapter.resident_set import BASE, ResidentSet
from zen_mlx.adapter.targets import array_shape, arrays, can_grow, model_count, target_count, targets
from zen_mlx.codec.factor_encode import encode_svd
from zen_mlx.codec.parts import DensePart, Part, RowsPart, encode_sign
from zen_mlx.format.spec import DeltaTensor, Profile

SIZE = 0.05
WORDS = 258
MORE = 3
QUICK = ("llama", "qwen2", "qwen3_moe", "gpt_oss", "mixtral", "qwen3_next", "gemma2", "gpt2", "lfm2", "deepseek_v3")


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    """Compiled functions are built by a C++ compiler on the CPU: seconds each."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def profile_of(model: nn.Module, kind: str, seed: int) -> Profile:
    """kind: sign, planes, factor, or all: signs, factors, norms and biases, changed and added words."""
    rng = np.random.default_rng(seed)
    wanted = targets(model)
    tensors: dict[str, DeltaTensor] = {}
    for name, module, key, array in arrays(model):
        shape = array_shape(module, key)
        if not mx.issubdtype(array.dtype, mx.floating):
            continue
        delta = (rng.standard_normal(shape) * SIZE).astype(np.float32)
        parts: tuple[Part, ...] = ()
        if name in wanted:
            factor = encode_svd(delta, ((4, min(2, *shape[-2:])),))
            signs = tuple(encode_sign(delta, "rowcol", planes=2 if kind == "planes" else 1))
            parts = {"factor": (factor,), "all": (factor, *signs)}.get(kind, signs)
        elif kind == "all" and can_grow(name, module, key) and shape[0] == WORDS:
            shape = (WORDS + MORE, shape[1])
            parts = (RowsPart(np.array([3, WORDS + MORE - 1], "<u4"), (delta[:2] / SIZE).astype(np.float16)),)
        elif kind == "all" and array.ndim == 1:
            parts = (DensePart(delta.astype(np.float16)),)
        if parts:
            tensors[name] = DeltaTensor(shape, parts)
    return Profile(
        info={"name": kind}, base={}, metrics={}, target_count=target_count(model), model_count=model_count(model),
        tensors=tensors,
    )  # fmt: skip


def mixable(model: nn.Module, kind: str, seed: int) -> Resident:
    """A profile without the parameters that rows of a batch cannot differ in."""
    residents = ResidentSet(model)
    whole = Resident.from_profile(profile_of(model, kind, seed))
    kept = {
        name: tensor
        for name, tensor in whole.tensors.items()
        if residents.why_alone(Resident("", None, {name: tensor})) is None
    }
    assert kept
    return Resident(kind, f"{kind}{seed}", kept)


def prompts(rows: int, length: int) -> mx.array:
    return mx.array(np.random.default_rng(3).integers(0, WORDS, (rows, length)))


def load(residents: ResidentSet, *profiles: Resident) -> list[int]:
    handles = []
    for profile in profiles:
        for _ in residents.load(str(profile.digest), profile):
            assert not residents.ready(str(profile.digest))
        handles.append(residents.acquire(str(profile.digest)))
    return handles


def alone(model: nn.Module, profile: Resident | None, ids: mx.array) -> np.ndarray:
    if profile is not None:
        attach(model, profile, "unmerged")
    y = np.array(model(ids))
    detach(model)
    return y


def same(found: mx.array, wanted: np.ndarray, limit: float = 2e-4) -> None:
    """`found` may have more words than `wanted`, which nobody in that row knows."""
    words = wanted.shape[-1]
    np.testing.assert_allclose(np.array(found)[..., :words], wanted, atol=limit * np.abs(wanted).max(), rtol=0)
    assert np.isneginf(np.array(found)[..., words:]).all()


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_each_row_has_its_own_profile(family: str) -> None:
    """With 1 and 11 tokens: below and above the 64 indices from which experts' rows are sorted."""
    model = build_model(config_of(family))
    profiles = [
        mixable(model, kind, seed) for seed, kind in enumerate(("sign", "sign", "planes", "factor", "factor", "all"))
    ]
    order = (0, None, 5, 1, 3, 2, 4, 0, 3)
    rows = [None if each is None else profiles[each] for each in order]
    want = {length: [alone(model, each, prompts(9, length)) for each in (None, *profiles)] for length in (1, 11)}
    classes = [type(module) for _, module in model.named_modules()]
    residents = ResidentSet(model)
    handles = load(residents, *profiles)
    of = {id(profile): handle for profile, handle in zip(profiles, handles, strict=True)}
    for length, wanted in want.items():
        residents.rows.handles = tuple(BASE if each is None else of[id(each)] for each in rows)
        mixed = residents.only_own_words(model(prompts(9, length)))
        for index, each in enumerate(rows):
            at = 0 if each is None else 1 + next(i for i, p in enumerate(profiles) if p is each)
            same(mixed[index], wanted[at][index])
        for at, handle in enumerate((BASE, *handles)):
            residents.rows.handles = (handle,) * 9
            same(residents.only_own_words(model(prompts(9, length))), wanted[at])
    residents.close()
    assert [type(module) for _, module in model.named_modules()] == classes
    assert np.array_equal(np.array(model(prompts(9, 11))), want[11][0])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_in_bf16_rows_are_near_and_a_near_tie_alone_may_fall_the_other_way(family: str) -> None:
    """One row and many rows are rounded differently: 2 % of the largest logit, and no wider gap between two best words."""
    model = build_model(config_of(family))
    model.set_dtype(mx.bfloat16)
    profiles = [mixable(model, kind, seed) for seed, kind in enumerate(("sign", "planes", "factor"))]
    ids = prompts(4, 11)
    want = [np.array(alone_bf16(model, each, ids)) for each in (None, *profiles)]
    residents = ResidentSet(model)
    residents.rows.handles = (BASE, *load(residents, *profiles))
    found = np.array(model(ids).astype(mx.float32))
    for row, wanted in enumerate(want):
        limit = 0.02 * np.abs(wanted[row]).max()
        assert np.abs(found[row] - wanted[row]).max() <= limit
        for mine, theirs in zip(found[row], wanted[row], strict=True):
            assert theirs.max() - theirs[mine.argmax()] <= 2 * limit


def alone_bf16(model: nn.Module, profile: Resident | None, ids: mx.array) -> mx.array:
    if profile is not None:
        attach(model, profile, "unmerged")
    y = mx.concatenate([model(ids[row : row + 1]) for row in range(len(ids))]).astype(mx.float32)
    mx.eval(y)
    detach(model)
    return y


def test_a_slot_that_is_written_again_and_one_that_is_dropped_in_use() -> None:
    model = build_model(config_of("llama"))
    profiles = [mixable(model, "sign", seed) for seed in range(4)]
    ids = prompts(2, 5)
    want = [alone(model, each, ids) for each in (None, *profiles)]
    residents = ResidentSet(model, most=2)
    first, second = load(residents, *profiles[:2])
    assert not residents.room_for(profiles[2])  # both are in use
    residents.drop("sign0")
    assert not residents.ready("sign0")
    residents.rows.handles = (first, second)
    same(model(ids)[0], want[1][0])  # until its row has ended
    size = residents.nbytes
    residents.release("sign0")
    assert residents.room_for(profiles[2])
    (third,) = load(residents, profiles[2])
    assert residents.nbytes == size
    residents.rows.handles = (second, third)
    mixed = model(ids)
    same(mixed[0], want[2][0])
    same(mixed[1], want[3][1])
    residents.release("sign1")
    residents.release("sign2")
    assert residents.keys() == ["sign1", "sign2"]
    residents.pin("sign1")
    assert residents.room_for(profiles[3])
    assert residents.keys() == ["sign1"]


def test_bytes_are_a_limit_and_as_many_as_the_profiles() -> None:
    model = build_model(config_of("llama"))
    profiles = [mixable(model, "sign", seed) for seed in range(5)]
    one = profiles[0].nbytes
    residents = ResidentSet(model, most=5)
    load(residents, *profiles)
    assert residents.nbytes == 5 * one  # nothing beside the slots
    residents.close()
    residents = ResidentSet(model, max_bytes=2 * one)
    for profile in profiles:
        assert residents.room_for(profile)
        load(residents, profile)
        residents.release(str(profile.digest))
        assert residents.nbytes <= 2 * one
    assert residents.keys() == ["sign3", "sign4"]


def test_writing_in_place_copies_no_other_slot() -> None:
    model = build_model(config_of("llama"))
    profiles = [mixable(model, "sign", seed) for seed in range(4)]
    residents = ResidentSet(model, most=3)
    load(residents, *profiles[:2])
    slots: Any = residents._slots["model.layers.0.mlp.up_proj.weight"]
    (stack,) = slots._stacks.values()
    load(residents, profiles[2])
    residents.rows.handles = (0, 1)
    mx.eval(model(prompts(2, 3)))
    at = np.array(stack.parts[0].packed, copy=False).ctypes.data
    residents.release("sign2")
    residents.drop("sign2")
    load(residents, profiles[3])
    assert np.array(stack.parts[0].packed, copy=False).ctypes.data == at


def test_what_rows_cannot_differ_in_is_named() -> None:
    model = build_model(config_of("mamba"))
    reason = ResidentSet(model).why_alone(Resident.from_profile(profile_of(model, "all", 0)))
    assert reason is not None
    assert "rows of a batch cannot differ" in reason


@pytest.mark.parametrize("by_bytes", [False, True])
def test_a_profile_takes_its_room_before_it_is_written(by_bytes: bool) -> None:
    model = build_model(config_of("llama"))
    one, two = (mixable(model, "sign", seed) for seed in (1, 2))
    residents = ResidentSet(model, *((9, one.nbytes + two.nbytes - 1) if by_bytes else (1, None)))
    assert residents.room_for(one)
    writing = residents.load("one", one)
    assert not residents.room_for(two)
    for _ in writing:
        assert not residents.room_for(two)
    assert residents.room_for(two)
    assert not residents.keys()
