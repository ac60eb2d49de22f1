"""A profile -> a LoRA adapter folder of mlx-lm or PEFT.

mlx-lm  adapters.safetensors: X.lora_a [K, r], X.lora_b [r, N]
PEFT    adapter_model.safetensors: base_model.model.X.lora_A.weight [r, K], ..lora_B.weight [N, r]; stacked experts one by one

One rank r and one scale for all, smaller ranks padded with zeros: mlx-lm knows no other form, and of PEFT's readers only PEFT
does. vLLM and SGLang scale every module by lora_alpha / r, llama.cpp by lora_alpha / its own rank, whatever `rank_pattern`
and `alpha_pattern` say.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import fsio
from ..errors import TargetError
from ..format.spec import Profile
from ..fsio import Json
from .lora_pairs import LowRank, Pair, low_rank, padded, rescaled
from .name_mapping import Parameter, parameters
from .parse.detect import CONFIG

FORMATS = ("mlx-lm", "peft")
_TYPES = {"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32}


@dataclass(frozen=True)
class _Uniform:
    """Pairs that all have this rank and this scale."""

    pairs: dict[str, Pair]
    rank: int
    scale: float


def write_adapter(profile: Profile, model: nn.Module, folder: Path, form: str, rank: int | None) -> LowRank:
    """Fill the empty `folder` for the base `model`, whose weights are not read. ConfigError, TargetError: what does not fit."""
    found = low_rank(profile, rank)
    low = _uniform(found.pairs)
    base = parameters(model)
    for name, pair in found.pairs.items():
        shape = (*pair.up.shape[:-1], pair.down.shape[-1])
        if name not in base or base[name].shape != shape or not name.endswith(".weight"):
            expected = base[name].shape if name in base else "a parameter of the base"
            raise TargetError("an adapter cannot hold this delta", field=name, expected=expected, found=shape)
    model_name = str(profile.base.get("model") or "")
    if form == "peft":
        arrays, config = _peft(low, base, model_name)
        file = "adapter_model.safetensors"
    else:
        arrays, config = _mlx(low, base, model_name, len(getattr(model, "layers", [])))
        file = "adapters.safetensors"
    dtype = _TYPES.get(str(profile.info.get("adapter_dtype")), mx.float32)
    mx.save_safetensors(str(folder / file), {name: _stored(array, dtype) for name, array in arrays.items()})
    fsio.write_json(folder / CONFIG, config)
    return found


def _stored(array: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """In the type it was imported with, where that still holds every value; else f32."""
    wide = mx.array(np.ascontiguousarray(array))
    narrow = wide.astype(dtype)
    return narrow if mx.array_equal(narrow.astype(mx.float32), wide).item() else wide


def _uniform(pairs: dict[str, Pair]) -> _Uniform:
    """The same deltas with the largest rank and the commonest scale."""
    scale = Counter(pair.scale for pair in pairs.values()).most_common(1)[0][0]
    rank = max(pair.rank for pair in pairs.values())
    return _Uniform({name: padded(rescaled(pair, scale), rank) for name, pair in pairs.items()}, rank, scale)


def _mlx(low: _Uniform, base: dict[str, Parameter], model: str, layers: int) -> tuple[dict[str, np.ndarray], Json]:
    arrays, keys = {}, set()
    for name, pair in low.pairs.items():
        module = name.removesuffix(".weight")
        keys.add(_key(module))
        if pair.up.ndim == 3:
            a, b = pair.down, pair.up
        elif base[name].embedding:
            a, b = pair.up, pair.down
        else:
            a, b = pair.down.T, pair.up.T
        arrays[f"{module}.lora_a"], arrays[f"{module}.lora_b"] = a, b
    table = {"rank": low.rank, "scale": low.scale, "dropout": 0.0, "keys": sorted(keys)}
    config = {"fine_tune_type": "lora", "model": model, "num_layers": layers, "lora_parameters": table}
    return arrays, config


def _key(module: str) -> str:
    """mlx-lm names a layer's modules from the layer on: what follows the layer's number."""
    parts = module.split(".")
    at = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return module if at is None else ".".join(parts[at + 1 :])


def _peft(low: _Uniform, base: dict[str, Parameter], model: str) -> tuple[dict[str, np.ndarray], Json]:
    arrays: dict[str, np.ndarray] = {}
    targets = set()
    for name, pair in low.pairs.items():
        module = name.removesuffix(".weight")
        if base[name].tied:
            raise TargetError(
                "a PEFT adapter of a tied embedding would not change the head",
                field=name,
                expected="a base with a head of its own",
                found="a tied embedding",
            )
        for path, one in _experts(module, pair):
            targets.add(path.rpartition(".")[2])
            at = f"base_model.model.{path}"
            if base[name].embedding:
                arrays[f"{at}.lora_embedding_A"], arrays[f"{at}.lora_embedding_B"] = one.up.T, one.down.T
            else:
                arrays[f"{at}.lora_A.weight"], arrays[f"{at}.lora_B.weight"] = one.down, one.up
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model,
        "r": low.rank,
        "lora_alpha": _whole(low.scale * low.rank),  # every reader divides it by the rank again
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": sorted(targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
    return arrays, config


def _experts(module: str, pair: Pair) -> list[tuple[str, Pair]]:
    """Stacked experts as PEFT knows them: a module each."""
    if pair.up.ndim == 2:
        return [(module, pair)]
    parent, _, last = module.rpartition(".")
    parent = parent.removesuffix("switch_mlp").removesuffix("experts")
    pairs = (Pair(pair.up[index], pair.down[index], pair.scale) for index in range(len(pair.up)))
    return [(f"{parent}experts.{index}.{last}", one) for index, one in enumerate(pairs) if one.up.any()]


def _whole(value: float) -> float | int:
    return int(value) if math.isfinite(value) and value == int(value) else value
