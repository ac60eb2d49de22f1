"""Where a foreign name belongs: prefixes, experts one by one, fused and split projections; what fits nowhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zen_mlx.codec.pack import pack_signs
from zen_mlx.codec.parts import DensePart, SignPart, decode_all
from zen_mlx.errors import TargetError
from zen_mlx.format.spec import DeltaTensor
from zen_mlx.interop.import_profile import import_tensors
from zen_mlx.interop.name_mapping import Parameter
from zen_mlx.interop.parse.foreign import Entry, Foreign, Lora, Whole

K = 32
RANDOM = np.random.default_rng(0)
AT = "model.layers.0."
FUSED = {f"{AT}self_attn.qkv_proj.weight": (48, K), f"{AT}mlp.gate_up_proj.weight": (40, K)}
SPLIT = {
    f"{AT}self_attn.q_proj.weight": (32, K),
    f"{AT}self_attn.k_proj.weight": (8, K),
    f"{AT}self_attn.v_proj.weight": (8, K),
    f"{AT}mlp.gate_proj.weight": (20, K),
    f"{AT}mlp.up_proj.weight": (20, K),
}
EXPERTS = {f"{AT}mlp.switch_mlp.{name}.weight": (3, 8, K) for name in ("gate_proj", "up_proj", "down_proj")}


def run(base: dict[str, tuple[int, ...]], entries: dict[str, Entry]) -> dict[str, np.ndarray]:
    known = {name: Parameter(shape, False, False, False, False) for name, shape in base.items()}
    zero = {name: np.zeros(shape, "<f4") for name, shape in base.items()}
    tensors = import_tensors(Foreign(Path("x"), "test", entries), known, zero.__getitem__)
    return {name: decode_all(tensor.parts, tensor.shape) for name, tensor in tensors.items()}


def pair(n: int, rank: int, scale: float = 1.0) -> Lora:
    up, down = RANDOM.standard_normal((n, rank)).astype("<f4"), RANDOM.standard_normal((rank, K)).astype("<f4")
    return Lora(up, down, scale, "F32")


def product(one: Lora) -> np.ndarray:
    return one.scale * one.up.astype(float) @ one.down


def sign(n: int, scale: str) -> DeltaTensor:
    size = {"tensor": (), "row": (n,), "col": (K,)}[scale]
    scales = np.abs(RANDOM.standard_normal(size)).astype("<f4")
    return DeltaTensor(
        (n, K), (SignPart(scale, None, pack_signs(RANDOM.standard_normal((n, K))), (np.asarray(scales),)),)
    )


def dense(tensor: DeltaTensor) -> np.ndarray:
    return decode_all(tensor.parts, tensor.shape)


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "module."])
@pytest.mark.parametrize("base_prefix", ["", "language_model."])
def test_prefixes(prefix: str, base_prefix: str) -> None:
    name = f"{AT}mlp.up_proj.weight"
    one = pair(20, 2)
    found = run({base_prefix + name: (20, K)}, {prefix + name: one})
    np.testing.assert_allclose(found[base_prefix + name], product(one), rtol=1e-5, atol=1e-6)
    bare = run({name.removeprefix("model."): (20, K)}, {prefix + name: one})
    assert set(bare) == {name.removeprefix("model.")}


@pytest.mark.parametrize("members", [("q", "k", "v"), ("q", "v"), ("k",), ("v",)])
def test_split_adapters_on_a_fused_layer(members: tuple[str, ...]) -> None:
    counts, starts = {"q": 32, "k": 8, "v": 8}, {"q": 0, "k": 32, "v": 40}
    pairs = {member: pair(counts[member], 2, 1.0 + index) for index, member in enumerate(members)}
    found = run(FUSED, {f"{AT}self_attn.{member}_proj.weight": one for member, one in pairs.items()})
    wanted = np.zeros((48, K))
    for member, one in pairs.items():
        wanted[starts[member] : starts[member] + counts[member]] = product(one)
    np.testing.assert_allclose(found[f"{AT}self_attn.qkv_proj.weight"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scales", [("tensor", "row", "tensor"), ("row", "col", "col"), ("col", "col", "col")])
def test_split_signs_on_a_fused_layer(scales: tuple[str, ...]) -> None:
    pieces = [sign(n, scale) for n, scale in zip((32, 8, 8), scales, strict=True)]
    names = [f"{AT}self_attn.{member}_proj.weight" for member in "qkv"]
    found = run(FUSED, dict(zip(names, pieces, strict=True)))
    wanted = np.concatenate([dense(piece) for piece in pieces])
    assert np.array_equal(found[f"{AT}self_attn.qkv_proj.weight"], wanted)


def test_gate_and_up_on_a_fused_layer_and_whole_ones() -> None:
    whole = RANDOM.standard_normal((20, K)).astype("<f4")
    found = run(FUSED, {f"{AT}mlp.up_proj.weight": Whole(whole)})
    fused = found[f"{AT}mlp.gate_up_proj.weight"]
    assert np.array_equal(fused[20:], whole)
    assert not fused[:20].any()


@pytest.mark.parametrize("kind", ["pair", "row", "col", "tensor", "whole"])
def test_a_fused_delta_on_split_layers(kind: str) -> None:
    if kind == "pair":
        entry: Entry = pair(48, 3, -2.0)
        wanted = product(entry)  # type: ignore[arg-type]
    elif kind == "whole":
        entry = Whole(RANDOM.standard_normal((48, K)).astype("<f4"))
        wanted = entry.values
    else:
        entry = sign(48, kind)
        wanted = dense(entry)
    found = run(SPLIT, {f"{AT}self_attn.qkv_proj.weight": entry})
    names = [f"{AT}self_attn.{member}_proj.weight" for member in "qkv"]
    np.testing.assert_allclose(np.concatenate([found[name] for name in names]), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["pair", "row", "tensor", "whole"])
def test_experts_one_by_one(kind: str) -> None:
    wanted = np.zeros((3, 8, K), "<f4")
    entries: dict[str, Entry] = {}
    for expert in (0, 2):
        if kind == "pair":
            entry: Entry = pair(8, expert + 1, 1.0 + expert)
            wanted[expert] = product(entry)  # type: ignore[arg-type]
        elif kind == "whole":
            entry = Whole(RANDOM.standard_normal((8, K)).astype("<f4"))
            wanted[expert] = entry.values
        else:
            entry = sign(8, kind)
            wanted[expert] = dense(entry)
        entries[f"{AT}mlp.experts.{expert}.{'w3' if kind == 'pair' else 'up_proj'}.weight"] = entry
    found = run(EXPERTS, entries)
    np.testing.assert_allclose(found[f"{AT}mlp.switch_mlp.up_proj.weight"], wanted, rtol=1e-5, atol=1e-5)


def vector(n: int) -> DeltaTensor:
    return DeltaTensor((n,), (DensePart(np.ones(n, "<f4")),))


@pytest.mark.parametrize(
    ("base", "entries", "word"),
    [
        (SPLIT, {"model.layers.9.mlp.up_proj.weight": pair(20, 1)}, "no such parameter"),
        (SPLIT, {f"{AT}mlp.up_proj.weight": pair(21, 1)}, "wrong shape"),
        (SPLIT, {f"{AT}mlp.up_proj.weight": vector(20)}, "wrong shape"),
        (SPLIT, {f"{AT}self_attn.qkv_proj.weight": pair(47, 1)}, "wrong shape"),
        (SPLIT, {f"{AT}mlp.up_proj.weight": pair(20, 1), f"module.{AT}mlp.up_proj.weight": pair(20, 1)}, "two deltas"),
        (FUSED, {f"{AT}mlp.up_proj.weight": pair(19, 1)}, "part of a fused layer"),
        (FUSED, {f"{AT}self_attn.k_proj.weight": pair(30, 1)}, "part of a fused layer"),
        (
            FUSED,
            {f"{AT}self_attn.q_proj.weight": pair(41, 1), f"{AT}self_attn.k_proj.weight": pair(8, 1)},
            "two deltas",
        ),
        (EXPERTS, {f"{AT}mlp.experts.3.up_proj.weight": pair(8, 1)}, "wrong shape"),
        (EXPERTS, {f"{AT}mlp.experts.0.up_proj.weight": pair(9, 1)}, "wrong shape"),
        (
            EXPERTS,
            {f"{AT}mlp.experts.0.up_proj.weight": pair(8, 1), f"{AT}mlp.experts.1.up_proj.weight": sign(8, "row")},
            "differ in kind",
        ),
        (
            EXPERTS,
            {f"{AT}mlp.experts.0.up_proj.weight": sign(8, "col"), f"{AT}mlp.experts.1.up_proj.weight": sign(8, "row")},
            "differ in kind",
        ),
    ],
)
def test_what_fits_nowhere(base: dict[str, tuple[int, ...]], entries: dict[str, Entry], word: str) -> None:
    with pytest.raises(TargetError, match=word) as caught:
        run(base, entries)
    assert caught.value.path == "x"
    assert caught.value.field
