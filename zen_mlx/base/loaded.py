"""A base in memory: its model, its tokenizer, and whether a profile belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BaseMismatchError
from .check import read_config
from .info import BaseInfo, base_info
from .load import load_model, load_tokenizer
from .progress import Progress
from .pull import pull

DEFAULT_CONTEXT = 2048


@dataclass(frozen=True)
class Base:
    """mlx-lm's model and tokenizer, and what identifies them. name: as it was asked for."""

    name: str
    info: BaseInfo
    model: Any
    tokenizer: Any
    context_length: int

    @classmethod
    def load(cls, name: str, progress: Progress | None = None) -> Base:
        """Fetch (when absent) and load the base `name`."""
        folder = pull(name, progress)
        config = read_config(folder)
        return cls(name, base_info(name), load_model(folder), load_tokenizer(folder, config), context_length(config))

    def check(self, header: Mapping[str, Any], name: str) -> None:
        """`BaseMismatchError` unless profile `name` with this `base` header belongs here; see `check_base`."""
        check_base(self.info, header, name)


def check_base(base: BaseInfo, header: Mapping[str, Any], name: str) -> None:
    """`BaseMismatchError` unless a profile with this `base` header belongs to these weights and this tokenizer.

    Weights recorded as the source of this base (a quantized derivative) count; an unverified import has no digests
    and is checked by shapes alone when it is attached.
    """
    if not header.get("verified", False):
        return
    wanted = header.get("weights")
    if wanted not in (base.weights, base.derived_from):
        raise BaseMismatchError(
            f"profile {name!r} was made for {header.get('model')}, not for these weights of {base.model}",
            field="base.weights",
            expected=wanted,
            found=base.weights,
            hint=f"use -m {header.get('model')}",
        )
    if header.get("tokenizer") != base.tokenizer:
        raise BaseMismatchError(
            f"profile {name!r} was made with another tokenizer",
            field="base.tokenizer",
            expected=header.get("tokenizer"),
            found=base.tokenizer,
        )


def check_tokenizer(base: BaseInfo, header: Mapping[str, Any], name: str) -> None:
    """`BaseMismatchError` where profile `name` adds words that the base's tokenizer does not know.

    The profile's file holds their rows, not the tokenizer: text would be cut as if they were not there.
    """
    own = header.get("profile_tokenizer")
    if own not in (None, base.tokenizer):
        raise BaseMismatchError(
            f"profile {name!r} adds words, and the tokenizer that knows them is the fine-tune's",
            field="base.profile_tokenizer",
            expected=own,
            found=base.tokenizer,
            hint=f"zen profile export {name} FOLDER --format hf, copy the fine-tune's tokenizer files there, use -m FOLDER",
        )


def context_length(config: Mapping[str, Any]) -> int:
    """Tokens the model was made for."""
    for table in (config, config.get("text_config") or {}):
        length = table.get("max_position_embeddings")
        if isinstance(length, int) and length > 1:
            return length
    return DEFAULT_CONTEXT
