"""Whether a folder's head is its embedding: what transformers 5 makes of the flag and of the stored tensors.

A `lm_head.weight` that differs from the embedding is the head, whatever `tie_word_embeddings` says. Without the flag, a
folder that stores no head has none of its own; else the family's default in transformers decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..fsio import Json
from . import validate
from .dialect import meaning

FLAG = "tie_word_embeddings"
Place = tuple[Path, str]  # file, name in it
_ROWS = 4096  # rows in memory at once


def is_tied(config: Json, folder: Path) -> bool | None:
    """Whether the head is the embedding; None where the family, config and files leave it to mlx-lm."""
    flag, head, table = config.get(FLAG), *_head_and_embedding(folder)
    if head is not None and table is not None and flag is not False and not _are_equal(head, table):
        return False
    if isinstance(flag, bool):
        return flag
    if head is None:
        return True if table is not None else None
    meant = getattr(meaning(config), FLAG, None)
    return meant if isinstance(meant, bool) else None


def is_doubtful(config: Json, folder: Path) -> bool:
    """Whether a head is stored that the flag does not ask for."""
    return config.get(FLAG) is not False and None not in _head_and_embedding(folder)


def _head_and_embedding(folder: Path) -> tuple[Place | None, Place | None]:
    """Where the head and the embedding lie; None for one that is not stored under a plain name."""
    places = {name: file for file in validate.weight_files(folder) for name in validate.tensor_names(file)}
    head = next((name for name in places if name in _HEADS), None)
    table = next((name for name in places if name.endswith(_EMBEDDINGS)), None)
    return _place(places, head), _place(places, table)


def _place(places: dict[str, Path], name: str | None) -> Place | None:
    return None if name is None else (places[name], name)


_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "thinker.lm_head.weight")
_EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight")


def _are_equal(one: Place, other: Place) -> bool:
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
