"""W' = W + delta, as a new array in W's dtype; W itself is never written.

In bf16 and f16 the sum is rounded to W's grid, which can swallow a small delta. What is lost is
||W' - W - delta|| / ||delta|| over all target weights; beyond `MAX_MERGE_LOSS` merging is refused.
"""

from __future__ import annotations

from math import sqrt

import mlx.core as mx

from ..errors import TargetError
from ..kernels import dispatch
from ..kernels.dispatch import dense_delta
from .part_operands import slot_shape
from .resident import ResidentTensor

# Measured: a bf16 merge that lost 2.4 % of the delta kept a fine-tune's gain, one that lost a third cost 8 points of
# it.
MAX_MERGE_LOSS = 0.05


def _delta(base: mx.array, tensor: ResidentTensor) -> mx.array:
    return dense_delta(tensor.dense_parts(), *slot_shape(tensor.shape)[1:]).reshape(base.shape)


def _energy(array: mx.array) -> float:
    return float((array * array).sum().item())  # type: ignore[arg-type]  # real


def merge(base: mx.array, tensor: ResidentTensor) -> mx.array:
    """base + delta in base's dtype, evaluated: one tensor's temporaries at a time.

    Rows beyond the base's last one count as zero there.
    """
    value = base if base.ndim else base.reshape(1)
    if tensor.shape != value.shape:
        missing = (tensor.shape[0] - base.shape[0], *base.shape[1:])
        value = mx.concatenate([base, mx.zeros(missing, base.dtype)])
    if tensor.parts:
        value = dispatch.merge(value.reshape(slot_shape(tensor.shape)), tensor.parts).reshape(tensor.shape)
    if tensor.rows is not None:
        numbers = tensor.rows.numbers
        changed = value[numbers].astype(mx.float32) + tensor.rows.values.astype(mx.float32)
        # A copy, for assignment writes in place: the base's array stays as it is.
        value = mx.array(value)
        value[numbers] = changed.astype(base.dtype)
    value = value if base.ndim else value.reshape(())
    mx.eval(value)
    return value


def merge_within_bound(pairs: dict[str, tuple[mx.array, ResidentTensor, bool]]) -> list[tuple[str, mx.array]]:
    """Merge (base, tensor, is target) by name; TargetError if rounding loses too much of the targets' delta."""
    values = []
    lost = total = 0.0
    for name, (base, tensor, is_target) in pairs.items():
        value = merge(base, tensor)
        values.append((name, value))
        if is_target:
            delta = _delta(base, tensor)
            error = value.astype(mx.float32) - base.astype(mx.float32) - delta
            lost += _energy(error)
            total += _energy(delta)
    loss = sqrt(lost / total) if total else 0.0
    if loss > MAX_MERGE_LOSS:
        raise TargetError(
            "merging would round the delta away",
            field="mode",
            expected=f"at most {MAX_MERGE_LOSS:.0%} of the delta lost",
            found=f"{loss:.1%}",
            hint="attach it unmerged, or load the base in f32",
        )
    return values
