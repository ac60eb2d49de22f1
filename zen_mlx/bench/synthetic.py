"""Models and profiles of real dimensions with random content: for timings and memory, never for quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import llama, qwen3

from ..adapter.attach import model_count, target_count, targets
from ..codec.factor import FactorGroup, FactorPart, FactorSide
from ..codec.pack import words
from ..codec.parts import Part, SignPart
from ..format.spec import DeltaTensor, Profile
from ..fsio import Json

Groups = Sequence[tuple[int, int]]
"""Of a factor: (bits, rank) of each group."""

QWEN3_4B: Json = {
    "model_type": "qwen3",
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": True,
}
SMOLLM2_135M: Json = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100_000,
    "tie_word_embeddings": True,
}


def dense_model(config: Json, dtype: mx.Dtype = mx.float32, seed: int = 0) -> nn.Module:
    """A llama or Qwen3 of `config` with random weights in `dtype`."""
    mx.random.seed(seed)
    family: Any = {"llama": llama, "qwen3": qwen3}[config["model_type"]]
    model: nn.Module = family.Model(family.ModelArgs.from_dict(dict(config)))
    model.set_dtype(dtype)
    for array in leaves(model):  # lazy so far: one array's f32 values at a time
        mx.eval(array)
    model.eval()
    return model


def quantized_qwen3(
    config: Json = QWEN3_4B,
    bits: int = 4,
    group_size: int = 64,
    seed: int = 0,
    dtype: mx.Dtype = mx.float32,
) -> nn.Module:
    """A Qwen3 of `config` with random `bits`-bit weights, made in place: no dense weight ever exists. `dtype` is that of
    all other arrays, and so of the activations."""
    key = mx.random.key(seed)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(dict(config)))
    nn.quantize(model, group_size, bits)  # lazy: shapes only, every array is replaced before it is computed
    for _, module in model.named_modules():
        if hasattr(module, "bits"):
            key, now = mx.random.split(key)
            lines, packed = module.weight.shape
            # Columns summing to about unit variance keep the activations finite through 36 layers.
            step = (12 / (packed * 32 // bits)) ** 0.5 / 2**bits
            module.weight = mx.random.randint(-(2**31), 2**31 - 1, (lines, packed), mx.int32, key=now).view(mx.uint32)
            module.scales = mx.full(module.scales.shape, step)
            module.biases = mx.full(module.scales.shape, -step * (2**bits - 1) / 2)
            mx.eval(module.parameters())
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    model.eval()
    return model


def random_profile(model: nn.Module, name: str, seed: int, scale: str = "row", amplitude: float = 1e-4) -> Profile:
    """A one-plane profile of every target of `model`: random signs, constant f16 scales of kind tensor, row, col or
    rowcol."""
    rng = np.random.default_rng(seed)
    parts = {target: sign_part(rng, shape, scale, amplitude) for target, shape in targets(model).items()}
    return _profile(model, name, seed, parts)


def random_factors(
    model: nn.Module, name: str, seed: int, groups: Mapping[str, Groups], amplitude: float = 1e-4
) -> Profile:
    """A profile of low rank: random codes of `groups`[target], steps that make the delta's entries about `amplitude`."""
    rng = np.random.default_rng(seed)
    shapes = targets(model)
    parts = {target: factor_part(rng, shapes[target], found, amplitude) for target, found in groups.items()}
    return _profile(model, name, seed, parts)


def sign_part(rng: np.random.Generator, shape: tuple[int, ...], scale: str, amplitude: float = 1e-4) -> SignPart:
    """Random signs of a delta of `shape`, constant f16 scales."""
    *lead, n, k = shape
    axes: dict[str, list[tuple[int, ...]]] = {"tensor": [()], "row": [(n,)], "col": [(k,)], "rowcol": [(n,), (k,)]}
    values = (amplitude, 1.0)
    bits = _random_words(rng, (*lead, n), k)
    scales = tuple(np.full((*lead, *dims), v, np.float16) for dims, v in zip(axes[scale], values, strict=False))
    return SignPart(scale, None, bits, scales)


def factor_part(
    rng: np.random.Generator, shape: tuple[int, ...], groups: Groups, amplitude: float = 1e-4
) -> FactorPart:
    """Random codes of 2, 4 or 8 bits: `groups` are (bits, rank), bits falling."""
    *lead, n, k = shape
    found = []
    for bits, rank in groups:
        step = (amplitude / rank**0.5 / ((4**bits - 1) / 12)) ** 0.5
        sides = [
            FactorSide(np.full((*lead, rank), step, np.float16), _random_words(rng, (*lead, rank), size * bits))
            for size in (n, k)
        ]
        found.append(FactorGroup(bits, None, *sides))
    return FactorPart(None, None, tuple(found))


def _random_words(rng: np.random.Generator, lead: tuple[int, ...], bits: int) -> np.ndarray:
    """u32 [*lead, ceil(bits / 32)] of that many random bits, then 0."""
    found = np.frombuffer(rng.bytes(4 * int(np.prod([*lead, words(bits)]))), np.uint32).reshape(*lead, words(bits))
    if bits % 32:
        found = found.copy()
        found[..., -1] &= (1 << bits % 32) - 1
    return found


def _profile(model: nn.Module, name: str, seed: int, parts: Mapping[str, Part]) -> Profile:
    shapes = targets(model)
    return Profile(
        info={"name": name, "method": "random"},
        base={"model": "random", "verified": False},
        metrics={"seed": seed},
        target_count=target_count(model),
        model_count=model_count(model),
        tensors={target: DeltaTensor(shapes[target], (part,)) for target, part in parts.items()},
    )


def twin(model: nn.Module) -> nn.Module:
    """A model of its own over the arrays of `model`, one of mlx-lm's."""
    kind: Any = type(model)
    made = kind(model.args)
    packed = [module for _, module in model.named_modules() if isinstance(module, nn.QuantizedLinear)]
    if packed:
        nn.quantize(made, packed[0].group_size, packed[0].bits)
    made.update(model.parameters())
    made.eval()
    return cast(nn.Module, made)


def leaves(model: nn.Module) -> list[mx.array]:
    """Every array of the model."""
    return list(dict(tree_flatten(model.parameters())).values())
