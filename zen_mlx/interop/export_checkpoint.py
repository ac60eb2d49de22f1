"""base + profile -> a checkpoint folder of its own, in the base's dtype where that keeps the delta, else in f32."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from math import sqrt
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..adapter.attach import check
from ..adapter.merge import MAX_MERGE_LOSS
from ..adapter.targets import array_shape, arrays, is_quantized, targets
from ..base.build import build
from ..base.save import save_like
from ..base.validate import tensor_names, weight_files
from ..codec.parts import decode_all
from ..errors import TargetError
from ..format.layout import row_count
from ..format.spec import Profile
from ..fsio import Json

_STACK = re.compile(r"(.+\.)(?:switch_mlp|experts)\.([^.]+)\.weight")
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def write_merged(profile: Profile, base_folder: Path, target: Path) -> list[str]:
    """Fill the empty folder `target`; a sentence for each thing its user should know. One tensor in memory at a time.

    TargetError for a quantized base, or a delta that does not fit it.
    """
    model = build(base_folder)
    if any(is_quantized(module) for _, module, *_ in arrays(model)):
        raise TargetError(
            "quantized weights cannot take a merged delta",
            path=base_folder,
            field="quantization",
            expected="a base that is not quantized",
            found="packed weights",
            hint="export with -m of the base it was quantized from",
        )
    shapes = {n: SimpleNamespace(shape=t.shape, rows=row_count(t.parts)) for n, t in profile.tensors.items()}
    check(model, shapes)
    notes: list[str] = []
    changes: Json = {}
    loss = _loss(build(base_folder), profile)
    wide = loss > MAX_MERGE_LOSS
    if wide:
        notes.append(f"merging in the base's own type would lose {loss:.1%} of the delta, so the checkpoint is f32")
        changes |= {"torch_dtype": "float32", "dtype": "float32"}
    old = {name: array_shape(module, key) for name, module, key, _ in arrays(model)}
    more = [t.shape[0] for name, t in profile.tensors.items() if t.shape[0] > old[name][0]]
    if more:
        changes["vocab_size"] = max(more)
        notes.append(f"the vocabulary has {max(more)} rows; the base's tokenizer files do not know the new ones")
    odd, names = _other_name(base_folder), _raw_names(base_folder)
    if odd is not None:
        names = set()
        notes.append(
            f"the checkpoint has mlx-lm's layout, which differs from the base's files in {odd}: "
            "other programs may not load it"
        )
    del model
    save_like(base_folder, target, _arrays(build(base_folder), profile, wide, names), changes)
    return notes


def _sum(array: mx.array, delta: np.ndarray | None) -> mx.array:
    """array + delta in f32, with more rows where the delta has more."""
    value = array.astype(mx.float32)
    if delta is None:
        return value
    if value.ndim and len(delta) > len(value):
        value = mx.concatenate([value, mx.zeros((len(delta) - len(value), *value.shape[1:]))])
    return value + mx.array(delta)


def _loss(model: nn.Module, profile: Profile) -> float:
    """||rounded(W + D) - W - D|| / ||D|| over the targets."""
    wanted = targets(model)
    lost = total = 0.0
    for name, _, _, array in _release(model):
        tensor = profile.tensors.get(name)
        if tensor is None or name not in wanted or array.dtype == mx.float32:
            continue
        delta = decode_all(tensor.parts, tensor.shape)
        exact = _sum(array, delta)
        error = exact.astype(array.dtype).astype(mx.float32) - exact
        lost += float((error * error).sum().item())  # type: ignore[arg-type]  # real
        total += float(np.square(delta, dtype=np.float64).sum())
    return sqrt(lost / total) if total else 0.0


def _release(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, mx.array]]:
    """The model's arrays, none of which the model keeps once it was given out."""
    waiting = list(arrays(model))
    while waiting:
        name, module, key, array = waiting.pop(0)
        module[key] = mx.array(0)
        yield name, module, key, array


def _raw_names(folder: Path) -> set[str]:
    return {name for file in weight_files(folder) for name in tensor_names(file)}


def _arrays(model: nn.Module, profile: Profile, wide: bool, raw: set[str]) -> Iterator[tuple[str, mx.array]]:
    """Every parameter with its delta; experts one by one where they are so among the raw names of the base's files."""
    for name, _, _, array in _release(model):
        tensor = profile.tensors.get(name)
        value = array
        floating = mx.issubdtype(array.dtype, mx.floating)
        if tensor is not None:
            value = _sum(array, decode_all(tensor.parts, tensor.shape))
            value = value if array.ndim else value.reshape(())
        if floating:
            value = value.astype(mx.float32 if wide else array.dtype)
        mx.eval(value)
        single = _expert_name(name, raw)
        if single is None:
            yield name, value
            continue
        for index in range(len(value)):
            one = mx.contiguous(value[index])
            mx.eval(one)
            yield single.format(index), one


def _expert_name(name: str, raw: Collection[str]) -> str | None:
    """The raw name of one expert of the stacked parameter, its number as `{}`; None where they are not one by one."""
    match = _STACK.fullmatch(name)
    if match is None or name in raw:
        return None
    for last in (match[2], _MIXTRAL.get(match[2], match[2])):
        single = f"{match[1]}experts.{{}}.{last}.weight"
        if single.format(0) in raw:
            return single
    return None


def _other_name(folder: Path) -> str | None:
    """The first parameter that mlx-lm makes of something else than the array of that name, or the experts, in the files."""
    raw: dict[str, mx.array] = {}
    for file in weight_files(folder):
        raw.update(mx.load(str(file)))  # type: ignore[arg-type]  # safetensors: a dict
    for name, _, _, array in _release(build(folder)):
        stored = raw.pop(name, None)
        if stored is None:
            if _expert_name(name, raw) is None:
                return name
        elif stored.shape != array.shape or not mx.array_equal(stored, array).item():
            return name
    return None
