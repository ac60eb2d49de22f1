"""What `compress` takes -> readers of base and fine-tune, a tensor at a time: a checkpoint, or a LoRA adapter on the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np

from ..adapter.targets import (
    array_shape,
    arrays,
    can_grow,
    check_targets,
    kept_packed,
    model_count,
    target_count,
    targets,
)
from ..base.build import build
from ..base.fingerprint import fingerprint
from ..base.loaded import base_info
from ..base.pull import pull
from ..base.registry import resolve
from ..base.stored import stored
from ..codec.parts import decode_all
from ..encode.lazy_weights import Reader, lazy_reader
from ..errors import BaseMismatchError, ModelNotFoundError, TargetError
from ..events import Progress
from ..format.spec import DeltaTensor, Profile
from ..interop.import_profile import OpenedBase, profile_of
from ..interop.parse.detect import is_adapter, read_foreign


@dataclass(frozen=True)
class FineTune:
    """A fine-tune beside its base, opened: neither is in memory.

    names: the parameters to compare. base_of, tuned_of: f32 readers whose difference is the change. shapes: of the parameters
    that may have more rows. adapter: the exact profile of a LoRA, else None. notes: what its user should know, a sentence
    each.
    """

    base_name: str
    folder: Path
    names: list[str]
    base_of: Reader
    tuned_of: Reader
    targets: dict[str, tuple[int, ...]]
    target_count: int
    model_count: int
    shapes: dict[str, tuple[int, ...]]
    adapter: Profile | None
    notes: tuple[str, ...] = ()

    def header(self, tensors: Mapping[str, DeltaTensor]) -> dict[str, Any]:
        """The `base` object of a profile; one that adds vocabulary records the fine-tune's own tokenizer too."""
        header = base_info(self.base_name).header()
        grown = any(tensors[name].shape != self.shapes[name] for name in self.shapes.keys() & tensors.keys())
        if grown and self.adapter is None:
            header["profile_tokenizer"] = fingerprint(self.folder).tokenizer
        return header


def _tuned_folder(finetuned: str, on_pull: Progress | None) -> Path:
    """The fine-tune's folder, fetched when it is not here."""
    try:
        resolve(finetuned)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            "no fine-tuned model is there",
            field="finetuned",
            expected="a model folder, a LoRA adapter folder or a hub repository org/name",
            found=finetuned,
        ) from error
    return pull(finetuned, on_pull)


def open_finetune(finetuned: str, base_name: str, on_pull: Progress | None = None) -> FineTune:
    """Neither model is loaded. BaseMismatchError where the parameters' names differ; TargetError for a LoRA's.

    What a packed base keeps packed (`kept_packed`) is not compared: a note says so.
    """
    folder, base_folder = _tuned_folder(finetuned, on_pull), pull(base_name, on_pull)
    unread = build(base_folder)
    check_targets(unread, base_folder)
    facts = (targets(unread), target_count(unread), model_count(unread))
    shapes = {name: array_shape(module, key) for name, module, key, _ in arrays(unread) if can_grow(name, module, key)}
    packed, packed_shapes = kept_packed(unread), _shapes(unread)
    if is_adapter(folder) and not (folder / "config.json").is_file():
        opened = OpenedBase.of(base_name, unread)
        del unread
        exact = profile_of(read_foreign(folder), opened)
        names = sorted(exact.tensors)

        def zeros(name: str) -> np.ndarray:
            return np.broadcast_to(np.float32(0), exact.tensors[name].shape)

        def change(name: str) -> np.ndarray:
            return decode_all(exact.tensors[name].parts, exact.tensors[name].shape)

        return FineTune(base_name, folder, names, zeros, change, *facts, shapes, exact)
    base_names, base_of = lazy_reader(unread, True, stored(base_folder, unread), lambda: build(base_folder))
    del unread  # or every tensor that is read would stay
    tuned = build(folder)
    tuned_shapes = _shapes(tuned)
    tuned_names, tuned_of = lazy_reader(tuned, True, stored(folder, tuned), lambda: build(folder))
    del tuned
    odd = sorted(set(tuned_names) - set(base_names)) or sorted(set(base_names) - set(tuned_names))
    if odd:
        raise BaseMismatchError(
            f"{finetuned} is not a fine-tune of {base_name}: their parameters differ",
            field=odd[0],
            expected=f"{len(base_names)} parameters",
            found=f"{len(tuned_names)} parameters",
        )
    for name, more_bytes in packed.items():
        if tuned_shapes[name] != packed_shapes[name]:
            raise TargetError(
                "the fine-tune has another shape than the base's packed array, which takes no delta",
                field=name,
                expected=packed_shapes[name],
                found=tuned_shapes[name],
                hint=f"compress against a base that is not quantized; there it takes {more_bytes / 1e6:.1f} MB more",
            )
    names = [name for name in base_names if name not in packed]
    return FineTune(base_name, folder, names, base_of, tuned_of, *facts, shapes, None, _notes(packed))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: array_shape(module, key) for name, module, key, _ in arrays(model)}


def _notes(packed: Mapping[str, int]) -> tuple[str, ...]:
    if not packed:
        return ()
    some = ", ".join(list(packed)[:2]) + (", .." if len(packed) > 2 else "")
    return (
        f"what the fine-tune changed in {some} is left out: the base holds it packed; "
        f"a base in 16 bits would, with {sum(packed.values()) / 1e6:.1f} MB more, take it",
    )
