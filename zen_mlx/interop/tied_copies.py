"""What PEFT writes twice: copies of a parameter beside the pair that changes it, and changes of a tied embedding and head.

PEFT saves `embed_tokens` and `lm_head` in full where one of them is a target, changed or not. On a base where the two are one
array, an adapter can be kept only where it changes both alike (`ensure_weight_tying`), or neither.
"""

from __future__ import annotations

import numpy as np

from ..encode.lazy_weights import Reader
from ..errors import TargetError
from .name_mapping import MappedTensor, Parameter
from .parse.foreign import Lora, Whole

UNTIE = (
    "train the adapter again without the embedding and the head among its target_modules and modules_to_save, "
    "or with ensure_weight_tying"
)


def is_copy(one: MappedTensor) -> bool:
    """Whether this is a parameter in full, as PEFT saves it."""
    return isinstance(one.entry, Whole) and one.entry.alone and one.expert is None and one.start is None


def alike(
    name: str, pieces: list[MappedTensor], parameter: Parameter, base_of: Reader
) -> tuple[list[MappedTensor], Reader]:
    """(the pieces, each change once and unchanged copies left out unless alone; a reader of the base's parameter).

    A copy that did change comes first. TargetError: of a tied embedding and its head only one changes.
    """
    copies, rest = [one for one in pieces if is_copy(one)], [one for one in pieces if not is_copy(one)]
    if parameter.tied:
        rest = _one_pair(name, rest)
    paired = bool(rest) and all(isinstance(one.entry, Lora) for one in rest)
    if not copies or not (parameter.tied or paired):
        return copies + rest, base_of
    base = np.asarray(base_of(name))
    changed = [one for one in copies if not np.array_equal(_values(one), base)]
    if parameter.tied and changed:
        if len(changed) != 2 or not np.array_equal(_values(changed[0]), _values(changed[1])):
            raise _only_one(name)
        changed = changed[:1]
    return (changed + rest) or copies[:1], lambda _: base


def _values(one: MappedTensor) -> np.ndarray:
    assert isinstance(one.entry, Whole)
    return one.entry.values.astype("<f4")


def _one_pair(name: str, pieces: list[MappedTensor]) -> list[MappedTensor]:
    """The same pieces, with PEFT's equal pairs of an embedding and its head as one."""
    pairs = [one for one in pieces if isinstance(one.entry, Lora) and one.entry.side is not None]
    if not pairs:
        return pieces
    if len(pairs) != 2 or not _equal(pairs[0].entry, pairs[1].entry):
        raise _only_one(name)
    return [one for one in pieces if one is not pairs[1]]


def _equal(one: object, other: object) -> bool:
    if not isinstance(one, Lora) or not isinstance(other, Lora):
        return False
    sides = (np.array_equal(a, b) for a, b in ((one.up, other.up), (one.down, other.down)))
    return one.scale == other.scale and {one.side, other.side} == {"embedding", "linear"} and all(sides)


def _only_one(name: str) -> TargetError:
    return TargetError(
        "this PEFT adapter does not change the embedding and the head alike, and here they are one array",
        field=name,
        expected="a base with a head of its own",
        found="a tied embedding",
        hint=UNTIE,
    )
