"""A base in memory: its model, tokenizer and identity, and the check that a profile belongs to it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BaseMismatchError, ModelNotFoundError
from ..events import Progress
from ..format.spec import IDENTITY
from ..fsio import Json
from . import omni, registry, validate
from .derived import DERIVED_FROM, UNPROVEN, proven_source
from .fingerprint import fingerprint
from .identity import function_digest, text_rules_digest
from .load import load_model, load_tokenizer
from .pull import local_path, pull
from .validate import read_config

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

DEFAULT_CONTEXT = 2048


@dataclass(frozen=True)
class Base:
    """mlx-lm's model and tokenizer, and what identifies them. name: as it was asked for."""

    name: str
    info: BaseInfo
    model: nn.Module
    tokenizer: TokenizerWrapper
    context_length: int

    @classmethod
    def load(cls, name: str, progress: Progress | None = None) -> Base:
        """Fetch (when absent) and load the base `name`."""
        folder = pull(name, progress)
        config = read_config(folder)
        return cls(name, base_info(name), load_model(folder), load_tokenizer(folder, config), context_length(config))

    def check(self, header: Mapping[str, object], name: str) -> None:
        """`BaseMismatchError` unless profile `name` with this `base` header belongs here; see `check_base`."""
        check_base(self.info, header, name)


def check_base(base: BaseInfo, header: Mapping[str, object], name: str) -> None:
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
    for field, what in zip(IDENTITY, (_COMPUTES, _CUTS), strict=True):
        if header.get(field) is not None and header[field] != (found := getattr(base, field)):
            raise BaseMismatchError(
                f"profile {name!r} was made for these weights, but {what}",
                field=f"base.{field}",
                expected=header[field],
                found=found,
                hint="use the config.json and tokenizer.json that the profile was made with",
            )


_COMPUTES = "this folder's configuration computes otherwise (rope, eps, heads, activation or scaling)"
_CUTS = "this folder's tokenizer cuts text otherwise (normalizer, pre_tokenizer or post_processor)"


def check_tokenizer(base: BaseInfo, header: Mapping[str, object], name: str) -> None:
    """`BaseMismatchError` where profile `name` adds words that the base's tokenizer does not know.

    The profile's file holds their rows, not the tokenizer: text would be cut as if they were not there.
    """
    own = header.get("profile_tokenizer")
    if own not in (None, base.tokenizer):
        raise BaseMismatchError(
            f"profile {name!r} adds tokens that only the fine-tune's tokenizer knows",
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


@dataclasses.dataclass(frozen=True)
class BaseInfo:
    """A base on this machine.

    model: an alias, a repository id or an absolute folder: what `load_base` takes. weights, tokenizer: hex digests.
    quantization: mlx-lm's table (group_size, bits, ...), None for a dense base. derived_from: weight digest of the base
    that this one was proven to be quantized from. notes: what a user should be told, a sentence each.
    """

    model: str
    path: Path
    architecture: str
    weights: str
    tokenizer: str
    quantization: Json | None
    derived_from: str | None
    notes: tuple[str, ...]

    @functools.cached_property
    def function(self) -> str:
        """`identity.function_digest` of the folder."""
        return function_digest(self.path)

    @functools.cached_property
    def text_rules(self) -> str:
        """`identity.text_rules_digest` of the folder."""
        return text_rules_digest(self.path)

    def to_dict(self) -> Json:
        """The document of `zen models show --json`."""
        return {
            "name": self.model,
            "path": str(self.path),
            "architecture": self.architecture,
            "fingerprint": {"weights": self.weights, "tokenizer": self.tokenizer},
            "quantization": self.quantization,
            "derived_from": self.derived_from,
            "notes": list(self.notes),
        }

    def header(self) -> Json:
        """The `base` object of a profile fitted on this base. A folder is named by its last part: no path leaves here."""
        table = self.quantization or {}
        kept = {key: table[key] for key in ("bits", "group_size", "mode") if key in table}
        out = {
            "model": Path(self.model).name if Path(self.model).is_dir() else self.model,
            "architecture": self.architecture,
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "function": self.function,
            "text_rules": self.text_rules,
            "quantization": kept or None,
            "verified": True,
        }
        return out | ({"derived_from": self.derived_from} if self.derived_from else {})


def base_info(name: str) -> BaseInfo:
    """What the base `name` on this machine is; hashes its weights unless that was done before.

    Only the small embedded base is fetched when it is absent. Raises `ModelNotFoundError` for any other.
    """
    source = registry.resolve(name)
    folder = pull(name) if source.kind == "embedded" else local_path(name)
    if folder is None:
        raise ModelNotFoundError(
            f"{source.name} is not on this machine", field="model", found=name, hint=f"zen models pull {name}"
        )
    config = validate.check_folder(folder)
    digests = fingerprint(folder)
    derived = proven_source(folder, digests.weights)
    unproven = (UNPROVEN,) if derived is None and DERIVED_FROM in config else ()
    return BaseInfo(
        model=source.name,
        path=folder,
        architecture=config["model_type"],
        weights=digests.weights,
        tokenizer=digests.tokenizer,
        quantization=quantization(config),
        derived_from=derived,
        notes=(*omni.notes(config), *unproven),
    )


def describe(name: str) -> Json:
    """`base_info(name)` as the document of `zen models show --json`."""
    return base_info(name).to_dict()


def quantization(config: Json) -> Json | None:
    """The quantization table of a config.json, None for dense weights."""
    table = config.get("quantization") or config.get("quantization_config")
    return table if isinstance(table, dict) else None
