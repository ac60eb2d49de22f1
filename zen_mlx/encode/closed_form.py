"""D = tuned - base, stored as signs and scales: a fine-tuned checkpoint becomes the tensors of a profile.

Tensor by tensor, and their difference is made a few rows at a time, which is also what is read of tensors that are handed
over on disk. Others, as stored, are in memory one of the base and one of the fine-tune at a time, and the next two are being
read. It is handed two functions from a name to an array of floats (4-bit weights already dequantized).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from ..codec.arrays import F16_LARGEST, F16_SMALLEST, over_rows, row_chunks
from ..codec.difference import Delta, Difference, Floats
from ..codec.parts import DensePart, Part, SignPart, encode_rows, encode_sign
from ..codec.scales import Seen
from ..errors import ConfigError, ModelFormatError, TargetError
from ..events import Progress
from ..format.spec import DeltaTensor
from .layer_stats import LayerStats, measure
from .lazy_weights import Reader

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
    `progress(name, done, total)` follows each tensor. TargetError where the shapes differ, ModelFormatError where a
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
            progress(name, done, len(names))
    return tensors, stats


def _difference(name: str, base: Floats, tuned: Floats) -> Difference | None:
    """tuned - base in f32, None where nothing changed."""
    if base.shape != tuned.shape:
        raise TargetError(
            "the fine-tuned tensor's shape differs from the base's",
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
        raise ModelFormatError("a weight is not finite", field=name, expected="finite numbers", found=str(peaks.max()))
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
    narrow = dtype == "f16" and F16_SMALLEST <= peak <= F16_LARGEST
    return DensePart(np.array(delta, dtype=np.float16 if narrow else np.float32))
