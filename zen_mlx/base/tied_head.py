"""Whether a folder's head is its embedding: what transformers 5 makes of the flag and of the stored tensors.

A `lm_head.weight` whose bytes differ from the embedding's is the head, whatever `tie_word_embeddings` says. Without the
flag, a folder that stores no head has none of its own; else the family's default in transformers decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..fsio import Json
from . import validate
from .dialect import meaning

FLAG = "tie_word_embeddings"
_ROWS = 4096  # rows in memory at once


def is_tied(config: Json, folder: Path) -> bool | None:
    """Whether the head is the embedding; None where the family, config and files leave it to mlx-lm."""
    flag = config.get(FLAG)
    stored = _head_and_embedding(folder)
    if stored is not None and not _are_equal(*stored):
        return False
    if isinstance(flag, bool):
        return flag
    if stored is None:
        return None
    meant = getattr(meaning(config), FLAG, None)
    return meant if isinstance(meant, bool) else None


def _head_and_embedding(folder: Path) -> tuple[tuple[Path, str], tuple[Path, str]] | None:
    """(file, name) of the head and of the embedding, None where one of them is not stored under a plain name."""
    places = {name: file for file in validate.weight_files(folder) for name in validate.tensor_names(file)}
    head = next((name for name in places if name in _HEADS), None)
    table = next((name for name in places if name.endswith(_EMBEDDINGS)), None)
    if head is None or table is None:
        return None
    return (places[head], head), (places[table], table)


_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "thinker.lm_head.weight")
_EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight")


def _are_equal(one: tuple[Path, str], other: tuple[Path, str]) -> bool:
    """Whether two stored tensors are the same, bit for bit; a few rows of each in memory."""
    import mlx.core as mx

    first, second = (_tensor(*place) for place in (one, other))
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return all(
        bool(mx.array_equal(first[at : at + _ROWS], second[at : at + _ROWS])) for at in range(0, first.shape[0], _ROWS)
    )


def _tensor(file: Path, name: str) -> Any:
    import mlx.core as mx

    arrays: Any = mx.load(str(file))
    return arrays[name]
