"""Attach a profile to a model, switch it, detach it: f(W)(x) becomes f(W + delta)(x), and f(W)(x) again, bit for bit.

Two modes, one meaning. *Unmerged*: each target layer computes base + parts, and switching only points the layers at
other arrays; so does a packed head or router. *Merged*: each target gets a new array W + delta. Other parameters (norms,
biases, embeddings, routers, `lm_head`) are replaced by base + delta, rounded to their own dtype, in both; `rows` may
give an embedding or a head more rows than it has. Everything is checked before anything is changed. A model carries one
profile at a time; base arrays are kept by reference and never written, so detaching restores them exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import mlx.core as mx
import mlx.nn as nn

from ..errors import ConfigError, TargetError
from ..format.spec import Profile
from ..kernels.dispatch import Operand, backend
from .layers import join_siblings, remove_delta, set_delta
from .merge import merge, merge_within_bound
from .resident import Resident, ResidentTensor
from .targets import (
    array_shape,
    arrays,
    can_grow,
    is_beside,
    is_quantized,
    missing_bytes,
    model_count,
    target_count,
    target_layers,
    targets,
)

__all__ = [
    "MODES",
    "Resident",
    "ResidentTensor",
    "attach",
    "attached",
    "check",
    "detach",
    "model_count",
    "switch",
    "target_count",
    "targets",
]

MODES = ("auto", "merged", "unmerged")
_ATTRIBUTE = "_bitdelta"


class HasShape(Protocol):
    """Anything that stands for a tensor of a logical shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def rows(self) -> object: ...


@dataclass(frozen=True)
class _Slot:
    """One array of the model that a profile may change, and the base's own array.

    beside: unmerged, its delta is computed beside it: a target, or a packed layer outside them.
    """

    module: nn.Module
    key: str
    base: mx.array
    target: bool
    beside: bool


@dataclass(frozen=True)
class _Plan:
    """One profile on one model: `parts` of every target layer, in order, and `values` to replace base arrays."""

    parts: tuple[tuple[Operand, ...], ...]
    values: Iterable[tuple[str, mx.array]]


class _Attachment:
    """What a model carries while a profile is, or may come, on it."""

    def __init__(self, slots: dict[str, _Slot], mode: str) -> None:
        self.slots = slots
        self.mode = mode
        self.names = tuple(name for name, slot in slots.items() if slot.beside) if mode == "unmerged" else ()
        self.layers = tuple(slots[name].module for name in self.names)
        self.active: Resident | None = None
        self.replaced: set[str] = set()
        self.plans: WeakKeyDictionary[Resident, _Plan] = WeakKeyDictionary()
        self.base_plan = _Plan(((),) * len(self.layers), ())

    def prepare(self, resident: Resident | None) -> _Plan:
        """What `commit` needs, for a checked profile. Unmerged plans are kept as long as their profile lives."""
        if resident is None:
            return self.base_plan
        plan = self.plans.get(resident)
        if plan is None:
            plan = self._plan(resident)
            if self.mode == "unmerged":
                self.plans[resident] = plan
        return plan

    def commit(self, resident: Resident | None, plan: _Plan) -> None:
        """Make `resident` the active profile; what fails half-way leaves the base."""
        self.restore()
        try:
            for name, value in plan.values:
                self.replaced.add(name)
                self.slots[name].module[self.slots[name].key] = value
            for layer, parts in zip(self.layers, plan.parts, strict=True):
                set_delta(layer, parts)
        except BaseException:
            self.restore()
            for layer in self.layers:
                set_delta(layer, ())
            raise
        self.active = resident

    def restore(self) -> None:
        """Put the base's own arrays back."""
        for name in self.replaced:
            slot = self.slots[name]
            slot.module[slot.key] = slot.base
        self.replaced.clear()
        self.active = None

    def _plan(self, resident: Resident) -> _Plan:
        tensors = resident.tensors
        if self.mode == "unmerged":
            values = [(n, merge(self.slots[n].base, t)) for n, t in tensors.items() if not self.slots[n].beside]
            parts = tuple(tensors[name].dense_parts() if name in tensors else () for name in self.names)
            return _Plan(parts, values)
        if all(self.slots[name].base.dtype == mx.float32 for name in tensors):
            # Nothing can be refused any more, so each sum is made when it is put in place: never two merged copies.
            return _Plan((), ((n, merge(self.slots[n].base, t)) for n, t in tensors.items()))
        pairs = {n: (self.slots[n].base, t, self.slots[n].target) for n, t in tensors.items()}
        return _Plan((), merge_within_bound(pairs))


def _attachment(model: nn.Module) -> _Attachment | None:
    state: _Attachment | None = model.__dict__.get(_ATTRIBUTE)
    return state


def _slots(model: nn.Module) -> dict[str, _Slot]:
    names = target_layers(model)
    return {
        name: _Slot(module, key, value, name in names, name in names or is_beside(module, key))
        for name, module, key, value in arrays(model)
    }


def check(model: nn.Module, tensors: Mapping[str, HasShape]) -> None:
    """TargetError unless every tensor (a profile's, a header's) has a parameter of its shape that can take it."""
    state = _attachment(model)
    _check(_slots(model) if state is None else state.slots, tensors)


def _check(slots: dict[str, _Slot], tensors: Mapping[str, HasShape]) -> None:
    for name, tensor in tensors.items():
        slot = slots.get(name)
        if slot is None:
            raise TargetError("the base model has no such parameter", field=name, found="a delta for it")
        expected = array_shape(slot.module, slot.key)
        if not slot.beside and not mx.issubdtype(slot.base.dtype, mx.floating):
            extra_bytes = missing_bytes(slot.module, slot.key) if is_quantized(slot.module) else 0
            raise TargetError(
                "a quantized array outside the target layers cannot take a delta",
                field=name,
                expected="a floating-point array",
                found=str(slot.base.dtype),
                hint=f"use a base that is not quantized; in 16 bits this array takes {extra_bytes / 1e6:.1f} MB more",
            )
        more_rows = tensor.rows is not None and tensor.shape[1:] == expected[1:] and tensor.shape[0] > expected[0]
        if tensor.shape != expected and not (more_rows and not slot.beside and can_grow(name, slot.module, slot.key)):
            raise TargetError("a delta has the wrong shape", field=name, expected=expected, found=tensor.shape)


def _resolve(slots: dict[str, _Slot], resident: Resident, mode: str) -> str:
    """`auto` as merged or unmerged; TargetError for merging into quantized weights."""
    dtypes = {slots[name].base.dtype for name in resident.tensors if slots[name].beside}
    if mode == "auto":
        return "merged" if backend() == "cpu" and dtypes <= {mx.float32} else "unmerged"
    if mode == "merged" and not all(mx.issubdtype(dtype, mx.floating) for dtype in dtypes):
        raise TargetError("quantized weights cannot take a merged delta", field="mode", expected="unmerged", found=mode)
    return mode


def attached(model: nn.Module) -> Resident | None:
    """The profile that `model` carries now."""
    state = _attachment(model)
    return None if state is None else state.active


def attach(model: nn.Module, resident: Resident, mode: str = "auto") -> nn.Module:
    """Put `resident` on `model`, in place of whatever was there, and return the model.

    `auto` merges where MLX computes on the CPU and every named target is dense f32, and stays unmerged elsewhere.
    TargetError, with the model as it was, for a name the model lacks, another shape, a quantized array that cannot
    take the delta, or a merge whose rounding would lose more than 5 % of it.
    """
    if mode not in MODES:
        raise ConfigError("unknown attach mode", field="mode", expected=", ".join(MODES), found=mode)
    state = _attachment(model)
    slots = _slots(model) if state is None else state.slots
    _check(slots, resident.tensors)
    mode = _resolve(slots, resident, mode)
    if state is not None and state.mode == mode and state.active is resident:
        return model
    if state is None or state.mode != mode:
        state = _Attachment(slots, mode)
    plan = state.prepare(resident)
    if _attachment(model) is not state:
        detach(model)
        object.__setattr__(model, _ATTRIBUTE, state)
        join_siblings(model, state.layers)
    state.commit(resident, plan)
    return model


def switch(model: nn.Module, resident: Resident | None) -> nn.Module:
    """Point an attached model at another profile (None: the base alone) in the mode it is in.

    Unmerged, this sets one attribute per target layer: no weight is computed, copied or rewritten. The first switch to
    a profile checks it; later ones do not. TargetError as for `attach`, with the profile that was active still in
    place.
    """
    state = _attachment(model)
    if state is None:
        return model if resident is None else attach(model, resident)
    if resident is state.active:
        return model
    if resident is not None and resident not in state.plans:
        _check(state.slots, resident.tensors)
        _resolve(state.slots, resident, state.mode)
    state.commit(resident, state.prepare(resident))
    return model


def apply_bitdelta(model: Any, profile: Profile) -> Any:
    """Put `profile` on the mlx-lm `model` in place and return that model; `TargetError` for names or shapes it lacks.

    The model's weights have no name here, so the base's digest is not compared; `ZenPersonalizationManager` does that.
    """
    return attach(model, Resident.from_profile(profile, consume=False))


def detach(model: nn.Module) -> nn.Module:
    """Restore the base model: the same arrays, the same classes. A model without a profile is returned as it is."""
    state = _attachment(model)
    if state is not None:
        state.restore()
        for layer in state.layers:
            remove_delta(layer)
        object.__delattr__(model, _ATTRIBUTE)
    return model
