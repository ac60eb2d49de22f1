"""A quantized copy proves which base it is of: that base, quantized again on this machine, gives the copy's digest.

`zen_derived_from` in config.json is only a claim. Without the base here, or where the digests differ, the copy is a base of
its own. What was found is kept in `ZEN_HOME/digests.json`, `copy_of` of the folder, with both digests.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ZenError
from ..fsio import Json
from . import pull, registry, validate
from .build import build_with_config
from .fingerprint import cached_entries, digest_tensors, fingerprint, known_copy, remember_copy, tensors_of

DERIVED_FROM = "zen_derived_from"
UNPROVEN = (
    "This folder says that it is a quantized copy of another base. That base is not on this machine, or does not give this "
    "copy, so it counts as a base of its own: profiles of the original do not fit it."
)


def proven_source(folder: Path, weights: str) -> str | None:
    """The weight digest of the base that `folder`, whose own digest is `weights`, is a copy of; None without a proof."""
    config = validate.read_config(folder)
    claim, table = config.get(DERIVED_FROM), config.get("quantization")
    if not isinstance(claim, str) or not isinstance(table, dict):
        return None
    known = known_copy(folder)
    if (known.get("weights"), known.get("claim")) == (weights, claim):
        return claim if known.get("proven") is True else None
    source = _source(claim)
    if source is None:
        return None  # it may come to this machine later
    proven = _quantized_again(source, table) == weights
    _keep(folder, weights, claim, proven)
    return claim if proven else None


def remember_made(folder: Path, claim: str) -> None:
    """This machine has just made the copy in `folder` from the base `claim`: that is the proof."""
    _keep(folder, fingerprint(folder).weights, claim, proven=True)


def _keep(folder: Path, weights: str, claim: str, proven: bool) -> None:
    remember_copy(folder, {"weights": weights, "claim": claim, "proven": proven})


def _source(claim: str) -> Path | None:
    """A model folder on this machine with these weights: one that was hashed before, or an alias's."""
    for folder in _candidates(claim):
        with contextlib.suppress(ZenError, OSError):
            if fingerprint(folder).weights == claim:
                return folder
    return None


def _candidates(claim: str) -> Iterator[Path]:
    for path, entry in cached_entries().items():
        if (
            isinstance(entry, dict)
            and entry.get("weights") == claim
            and "weights_files" in entry
            and Path(path).is_dir()
        ):
            yield Path(path)
    for name in registry.aliases():
        with contextlib.suppress(ZenError):
            folder = pull.local_path(name)
            if folder is not None:
                yield folder


def _quantized_again(source: Path, table: Json) -> str | None:
    """The digest of `source` in the copy's bits and groups, one tensor in memory at a time; None where MLX cannot."""
    try:
        return digest_tensors(tensors_of(quantized(source, table["bits"], table["group_size"])[0]))
    except (ZenError, ValueError, KeyError, TypeError):
        return None


def quantized(source: Path, bits: int, group_size: int) -> tuple[Any, Json]:
    """mlx-lm's quantized module of the folder `source` and its configuration; no tensor is computed yet."""
    from mlx_lm import utils

    model, config = build_with_config(source)
    # quantize_model prints a line; what a library has to say is for its caller to print.
    with contextlib.redirect_stdout(io.StringIO()):
        return utils.quantize_model(model, config, group_size, bits)
