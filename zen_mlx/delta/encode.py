"""D = tuned - base, stored as signs and scales: a fine-tuned checkpoint becomes the tensors of a profile.

Tensor by tensor, and their difference is made a few rows at a time, which is also what is read of tensors that are handed
over on disk. Others, as stored, are in memory one of the base and one of the fine-tune at a time, and the next two are being
read. It is handed two functions from a name to an array of floats (4-bit weights already dequantized).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..codec.chunks import over_rows, row_chunks
from ..codec.difference import BF16, Delta, Difference, Floats
from ..codec.on_disk import OnDisk
from ..codec.parts import DensePart, Part, SignPart, encode_sign
from ..codec.rows import encode_rows
from ..codec.scales import Seen
from ..errors import ConfigError, ModelFormatError, TargetError
from ..format.spec import DeltaTensor
from .stats import LayerStats, measure
from .targets import arrays, is_quantized

# Under this a float16 keeps fewer than 8 significant bits.
_F16_SMALLEST = 2.0**-17

Reader = Callable[[str], Floats]
Progress = Callable[[int, int, str], None]
PartsOf = Callable[[str, Delta], Sequence[Part]]


def encode(
    names: Iterable[str],
    base_of: Reader,
    tuned_of: Reader,
    *,
    targets: Collection[str],
    scale: str = "rowcol",
    block: int | None = None,
    planes: int = 1,
    dtype: str = "f16",
    growing: Collection[str] = (),
    parts_of: PartsOf | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, DeltaTensor], list[LayerStats]]:
    """Encode every changed tensor of `names`: those in `targets` as `planes` sign planes, the others as they are.

    `parts_of(name, delta)`, when given, says what a target is stored as; one without parts is left out.

    A matrix outside the targets of which less than half the rows changed is stored by rows. One in `growing` (embedding,
    head) may have more rows in the fine-tune, and then is stored by rows too. Readers return arrays of any float dtype,
    else equal in shape; they are called once per name, in order. An unchanged tensor is neither stored nor listed.
    `progress(done, total, name)` follows each tensor. TargetError where the shapes differ, ModelFormatError where a
    difference is not finite.
    """
    names = list(names)
    tensors: dict[str, DeltaTensor] = {}
    stats: list[LayerStats] = []
    for done, name in enumerate(names, start=1):
        base, tuned = base_of(name), tuned_of(name)
        grown = name in growing and base.ndim == 2 and len(tuned) > len(base)
        if grown:
            more = np.zeros((len(tuned) - len(base), base.shape[1]), base.dtype)
            base = np.concatenate([np.asarray(base), more])
        delta = _difference(name, base, tuned)
        del base, tuned
        if delta is not None:
            parts: list[Part] = []
            seen = None
            if name in targets and parts_of is not None:
                _check_finite(name, delta)
                parts.extend(parts_of(name, delta))
            elif name in targets:
                seen = Seen() if planes == 1 else None
                parts.extend(_signs(name, delta, scale, block, planes, dtype, seen))
            else:
                peaks = _check_finite(name, delta)
                few = grown or has_few_rows(delta.shape, peaks)
                parts.append(encode_rows(np.asarray(delta), dtype) if few else _dense(delta, peaks.max(), dtype))
            if parts:
                tensors[name] = DeltaTensor(delta.shape, tuple(parts))
                stats.append(measure(name, delta, tensors[name], seen))
        if progress is not None:
            progress(done, len(names), name)
    return tensors, stats


def lazy_reader(
    model: nn.Module, as_stored: bool = False, on_disk: Mapping[str, Callable[[], OnDisk]] | None = None
) -> tuple[list[str], Reader]:
    """(parameter names, reader) of a lazily loaded model: logical f32 tensors, quantized weights dequantized.

    as_stored: f16 stays f16, and bfloat16 becomes `codec.difference.BF16`, both without a copy. Those in `on_disk` are
    what it returns for them (`base.stored`), and MLX does not read them.

    A tensor can be read once: nothing is kept. While MLX's is in use, it reads the next name's.
    """
    waiting = {name: (array, _packing(module, key)) for name, module, key, array in arrays(model)}
    names = sorted(waiting)
    openers = on_disk or {}

    following = dict(pairwise(names))
    # What is being read; nothing more is once another order than the sorted one shows.
    expected: set[str] = set()

    def read_ahead(name: str | None) -> None:
        if name in waiting:
            expected.add(name)
            if name not in openers:
                mx.async_eval(waiting[name][0])  # type: ignore[no-untyped-call]

    def read(name: str) -> Floats:
        in_order = not expected or name in expected
        expected.discard(name)
        value, packing = waiting.pop(name)
        if name not in openers:
            value = _unpacked(value, **packing) if packing else value
            value = value if value.ndim else value.reshape(1)
            mx.eval(value)
        if in_order:
            read_ahead(following.get(name))
        if name in openers:
            return openers[name]()
        return _stored(value) if as_stored else np.array(value.astype(mx.float32))

    return names, read


def _stored(value: mx.array) -> np.ndarray:
    """MLX's own memory as an array."""
    if value.dtype == mx.bfloat16:
        return np.array(value.view(mx.uint16), copy=False).view(BF16)
    return np.array(value if value.dtype in (mx.float16, mx.float32) else value.astype(mx.float32), copy=False)


def _unpacked(value: mx.array, global_scale: mx.array | None = None, **packing: Any) -> mx.array:
    """`mx.dequantize`, which takes one global scale: experts may have one each."""
    if global_scale is None or not global_scale.ndim:
        return mx.dequantize(value, global_scale=global_scale, **packing)
    scales = packing.pop("scales")
    experts = zip(value, scales, global_scale, strict=True)
    return mx.stack([mx.dequantize(v, s, global_scale=g, **packing) for v, s, g in experts])


def _packing(module: nn.Module, key: str) -> dict[str, Any]:
    """The other arguments of `mx.dequantize` for `module[key]`, {} where it is not quantized."""
    if key != "weight" or not is_quantized(module):
        return {}
    given = {each: module.get(each) for each in ("scales", "biases", "global_scale")}
    kept = {each: value for each, value in given.items() if value is not None}
    return {**kept, "group_size": module.group_size, "bits": module.bits, "mode": getattr(module, "mode", "affine")}


def _difference(name: str, base: Floats, tuned: Floats) -> Difference | None:
    """tuned - base in f32, None where nothing changed."""
    if base.shape != tuned.shape:
        raise TargetError(
            "the fine-tuned tensor has another shape than the base's",
            field=name,
            expected=tuple(base.shape),
            found=tuple(tuned.shape),
        )
    delta = Difference(tuned, base)
    return delta if delta.size and _differs(_as_matrix(delta)) else None


def _differs(delta: Delta) -> bool:
    """Whether any number of a matrix is not zero; a fine-tune shows it in the first rows."""
    return any(bool(delta[rows].any()) for rows in row_chunks(*delta.shape))


def _check_finite(name: str, delta: Delta) -> np.ndarray:
    """`row_peaks`; ModelFormatError unless all are finite."""
    peaks = row_peaks(delta)
    if not np.isfinite(peaks).all():
        raise ModelFormatError(
            "a weight is not a finite number", field=name, expected="finite numbers", found=str(peaks.max())
        )
    return peaks


def _signs(
    name: str, delta: Delta, scale: str, block: int | None, planes: int, dtype: str, seen: Seen | None
) -> list[SignPart]:
    """`encode_sign`; the scales of what is not finite are not either, so that no pass looks for it before."""
    try:
        return encode_sign(delta, scale, block, planes, dtype, seen)
    except ConfigError:
        _check_finite(name, delta)
        raise


def _as_matrix(delta: Delta) -> Delta:
    return delta.reshape(-1, delta.shape[-1] if delta.ndim else 1)


def row_peaks(delta: Delta) -> np.ndarray:
    """The largest magnitude in each row [.., K] of `delta`; NaN where there is one."""
    matrix = _as_matrix(delta)

    def peaks(rows: slice) -> np.ndarray:
        some = matrix[rows]
        return np.asarray(np.maximum(some.max(axis=1), -some.min(axis=1)))

    return np.concatenate(over_rows(peaks, *matrix.shape))


def has_few_rows(shape: tuple[int, ...], peaks: np.ndarray) -> bool:
    """Whether a delta of `shape` with these `row_peaks` is a matrix of which less than half the rows are not zero."""
    return len(shape) == 2 and 2 * int(np.count_nonzero(peaks)) < len(peaks)


def _dense(delta: Delta, peak: float, dtype: str) -> DensePart:
    """The delta as it is: f16 where asked for, unless the largest value is beyond its range or below its precision."""
    narrow = dtype == "f16" and _F16_SMALLEST <= peak <= float(np.finfo(np.float16).max)
    return DensePart(np.array(delta, dtype=np.float16 if narrow else np.float32))
